//! How a command ends: one stable code word per kind of failure, and the process exit code it stands for.
//!
//! The code words travel in `{"type":"error","code":…}` objects; the numbers are for scripts. `p2p-core` errors carry
//! their code word already, so nothing here inspects messages.

use std::borrow::Cow;
use std::error::Error;

use serde::{Deserialize, Serialize};

/// Exit code after the user pressed Ctrl-C.
pub const INTERRUPTED_BY_USER: u8 = 130;

/// The code word of [`Failure::closed`].
const CLOSED: &str = "closed";

/// Why a command did not do what was asked, in words and as a code for scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: Cow<'static, str>,
    pub message: String,
}

impl Failure {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code),
            message: message.into(),
        }
    }

    /// The user asked for something that cannot be meant: a bad id, flag or setting.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", message)
    }

    /// A file or stream on this machine failed.
    pub fn io(doing: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::new(code_of_io(error), format!("{doing}: {error}"))
    }

    /// Whoever asked went away, so there is nobody left to answer.
    pub fn gone() -> Self {
        Self::new("interrupted", "the requester went away")
    }

    /// Whoever read our output has had enough, as `head` does: nothing to tell.
    pub fn closed() -> Self {
        Self::new(CLOSED, "the output was closed")
    }

    /// Whether this failure is to be told at all.
    pub fn is_closed(&self) -> bool {
        self.code == CLOSED
    }

    /// The process exit code of this failure.
    pub fn exit_code(&self) -> u8 {
        match self.code.as_ref() {
            "usage" | "config" => 2,
            "not_found" => 3,
            "network" => 4,
            "timeout" => 5,
            "verification" => 6,
            "interrupted" => 7,
            "policy" => 8,
            "no_space" => 9,
            "exists" => 13,
            _ => 1,
        }
    }

    /// From an error of the library: its code word, and its message followed by the causes it does not mention itself.
    pub fn of(code: &'static str, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = inner.source();
        }
        Self::new(code, message)
    }
}

fn code_of_io(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "no_space",
        _ => "io",
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

macro_rules! from_core {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(error.code(), &error)
            }
        }
    )*};
}

from_core!(
    p2p_core::StartError,
    p2p_core::ShareError,
    p2p_core::FeedError,
    p2p_core::FetchError,
    p2p_core::NodeError,
    p2p_core::ConnectError
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_code_has_its_number() {
        let table = [
            ("usage", 2),
            ("config", 2),
            ("not_found", 3),
            ("network", 4),
            ("timeout", 5),
            ("verification", 6),
            ("interrupted", 7),
            ("policy", 8),
            ("no_space", 9),
            ("exists", 13),
            ("io", 1),
            ("stopped", 1),
            ("locked", 1),
        ];
        for (code, number) in table {
            assert_eq!(Failure::new(code, "").exit_code(), number, "{code}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug)]
        struct Outer(std::io::Error, &'static str);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.1)
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let disk = || std::io::Error::other("disk on fire");
        assert_eq!(
            Failure::of("io", &Outer(disk(), "cannot write")).message,
            "cannot write: disk on fire"
        );
        assert_eq!(
            Failure::of("io", &Outer(disk(), "disk on fire, sorry")).message,
            "disk on fire, sorry"
        );
    }
}
