//! Being asked to end, by Ctrl-C or by the system.

use std::io;

use crate::exit::{Failure, INTERRUPTED_BY_USER};

/// Exit code of a process that SIGTERM ended, by the shells' convention of 128 plus the signal's number.
const TERMINATED: u8 = 143;

/// The signals that end a process, received instead of obeyed.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

/// The signal that asks a daemon to read its settings again, received instead of obeyed.
#[derive(Debug)]
pub struct Hangups {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Hangups {
    /// From here on the signal reaches [`Hangups::received`] only.
    pub fn listen() -> Result<Self, Failure> {
        Ok(Self {
            #[cfg(unix)]
            hangup: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
                .map_err(|error| Failure::io("cannot listen for signals", &error))?,
        })
    }

    /// Waits for the next one.
    pub async fn received(&mut self) {
        #[cfg(unix)]
        let more = self.hangup.recv().await.is_some();
        #[cfg(not(unix))]
        let more = false;
        if !more {
            std::future::pending().await
        }
    }
}

impl Signals {
    /// From here on signals reach [`Signals::received`] only.
    #[cfg(unix)]
    pub fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |error: io::Error| Failure::io("cannot listen for signals", &error);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// From here on signals reach [`Signals::received`] only.
    #[cfg(not(unix))]
    pub fn listen() -> Result<Self, Failure> {
        Ok(Self {})
    }

    /// Waits for the next one; the exit code that stands for it.
    #[cfg(unix)]
    pub async fn received(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED_BY_USER,
            _ = self.terminate.recv() => TERMINATED,
        }
    }

    /// Waits for the next one; the exit code that stands for it.
    #[cfg(not(unix))]
    pub async fn received(&mut self) -> u8 {
        match tokio::signal::ctrl_c().await {
            Ok(()) => INTERRUPTED_BY_USER,
            Err(_) => std::future::pending().await,
        }
    }

    /// Makes the next signal end the process at once.
    pub fn exit_on_next(mut self) {
        tokio::spawn(async move {
            self.received().await;
            std::process::exit(i32::from(INTERRUPTED_BY_USER));
        });
    }
}
