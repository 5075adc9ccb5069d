//! Who may use the API: nobody but the user who runs the daemon.
//!
//! On TCP a bearer token proves it, kept in a file of mode 0600. `Host` must be a loopback name, which defeats DNS
//! rebinding (CVE-2018-5702), and any `Origin` is refused, as no web page has business here. On a Unix socket the file
//! system proves it, and each connection's user is checked again.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use crate::exit::Failure;

/// Bytes of randomness in a token.
const TOKEN_LEN: usize = 32;
/// A token file longer than this is not ours.
const MAX_TOKEN_FILE: u64 = 1024;

/// Why a request is turned away before it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A web page sent it, or a foreign host name led here.
    Foreign,
    /// Without the token, or with a wrong one.
    NoToken,
}

/// Checks the headers of a request; `token` is the one to present, if any is needed.
pub fn check(headers: &HeaderMap, token: Option<&str>) -> Result<(), Refusal> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Refusal::Foreign);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() || !host.is_some_and(is_loopback_host) {
        return Err(Refusal::Foreign);
    }
    let Some(token) = token else { return Ok(()) };
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if shown.is_some_and(|shown| bool::from(shown.ct_eq(token.as_bytes()))) {
        Ok(())
    } else {
        Err(Refusal::NoToken)
    }
}

fn is_loopback_host(host: &str) -> bool {
    ["127.0.0.1", "[::1]", "localhost"].iter().any(|name| {
        let Some((start, port)) = host.split_at_checked(name.len()) else {
            return false;
        };
        let port_is_fine = match port.strip_prefix(':') {
            Some(digits) => digits.parse::<u16>().is_ok(),
            None => port.is_empty(),
        };
        start.eq_ignore_ascii_case(name) && port_is_fine
    })
}

/// The token in `path`, made there if there is none yet.
pub fn load_or_create_token(path: &Path) -> Result<String, Failure> {
    match create_token(path) {
        Ok(token) => Ok(token),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            make_private(path).map_err(|error| {
                Failure::io(format!("cannot protect {}", path.display()), &error)
            })?;
            read_token(path)
        }
        Err(error) => Err(Failure::io(
            format!("cannot write the API token {}", path.display()),
            &error,
        )),
    }
}

/// The token in `path`.
pub fn read_token(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_TOKEN_FILE).read_to_string(&mut text))
        .map_err(|error| {
            Failure::io(
                format!("cannot read the API token {}", path.display()),
                &error,
            )
        })?;
    let token = text.trim();
    if token.len() < TOKEN_LEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let advice = "delete it to have a new one made when the daemon starts";
        return Err(Failure::new(
            "config",
            format!("{} holds no usable API token; {advice}", path.display()),
        ));
    }
    Ok(token.to_owned())
}

fn create_token(path: &Path) -> io::Result<String> {
    let mut bytes = [0; TOKEN_LEN];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}

/// Takes a file away from everyone but its owner.
#[cfg(unix)]
pub fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

/// Elsewhere a user's folders are private already.
#[cfg(not(unix))]
pub fn make_private(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn verdict(
        host: Option<&str>,
        origin: Option<&str>,
        token: Option<&str>,
    ) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        let mut set = |name, value: Option<&str>| {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).expect("a legal header"));
            }
        };
        set(header::HOST, host);
        set(header::ORIGIN, origin);
        set(header::AUTHORIZATION, token);
        check(&headers, Some("secret"))
    }

    #[test]
    fn only_the_owner_on_loopback_passes() {
        let hosts = [
            "127.0.0.1",
            "127.0.0.1:4780",
            "[::1]:4780",
            "localhost",
            "LOCALHOST:1",
        ];
        for host in hosts {
            assert_eq!(
                verdict(Some(host), None, Some("Bearer secret")),
                Ok(()),
                "{host}"
            );
            for token in [
                None,
                Some("Bearer secreT"),
                Some("Bearer "),
                Some("secret"),
                Some("Bearer secret "),
            ] {
                assert_eq!(
                    verdict(Some(host), None, token),
                    Err(Refusal::NoToken),
                    "{host} {token:?}"
                );
            }
            for origin in [
                "null",
                "http://127.0.0.1:4780",
                "http://localhost",
                "https://evil.example",
                "",
            ] {
                assert_eq!(
                    verdict(Some(host), Some(origin), Some("Bearer secret")),
                    Err(Refusal::Foreign)
                );
            }
        }
        let foreign = [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.",
            "127.0.0.1:x",
            "127.0.0.1:",
            "192.168.1.1",
            "",
            "é",
        ];
        for host in foreign {
            assert_eq!(
                verdict(Some(host), None, Some("Bearer secret")),
                Err(Refusal::Foreign),
                "{host}"
            );
        }
        assert_eq!(
            verdict(None, None, Some("Bearer secret")),
            Err(Refusal::Foreign)
        );
    }

    #[test]
    fn a_token_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("api.token");
        let first = load_or_create_token(&path).expect("made");
        assert_eq!(first.len(), 64);
        assert_eq!(load_or_create_token(&path).expect("read"), first);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(&path, "short").expect("written");
        assert_eq!(
            load_or_create_token(&path).map_err(|failure| failure.exit_code()),
            Err(2)
        );
    }
}
