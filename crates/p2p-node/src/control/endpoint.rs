//! Where the daemon's API is: loopback TCP, a Unix socket, or nowhere.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The port of the API unless another is set.
const DEFAULT_PORT: u16 = 4780;

/// Where the API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Off,
}

impl Endpoint {
    /// `127.0.0.1:4780`.
    pub fn default_tcp() -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)))
    }

    /// Refuses what would offer control of the node to other machines, or cannot work here.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Tcp(address) if !is_loopback(address.ip()) => Err(format!(
                "{address} would offer control of this node to other machines; use 127.0.0.1:{} or unix:PATH, \
                 and an SSH tunnel to reach it from elsewhere",
                address.port()
            )),
            Self::Unix(_) if cfg!(not(unix)) => {
                Err("Unix sockets need a Unix system; use 127.0.0.1:PORT".into())
            }
            Self::Tcp(_) | Self::Unix(_) | Self::Off => Ok(()),
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// A text that names no endpoint.
#[derive(Debug)]
pub struct ParseEndpointError(String);

impl fmt::Display for ParseEndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseEndpointError {}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(ParseEndpointError(
                    "\"unix:\" needs the path of a socket, e.g. unix:data/api.sock".into(),
                ));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let address = text
            .strip_prefix("http://")
            .unwrap_or(text)
            .trim_end_matches('/');
        let numeric = match address.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => address.to_owned(),
        };
        numeric
            .parse()
            .map(Self::Tcp)
            .map_err(|_| ParseEndpointError("write 127.0.0.1:PORT, unix:PATH or \"off\"".into()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Off => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for text in ["127.0.0.1:4780", "[::1]:80", "unix:data/api.sock", "off"] {
            assert_eq!(
                text.parse::<Endpoint>()
                    .map(|e| e.to_string())
                    .ok()
                    .as_deref(),
                Some(text)
            );
        }
        for (text, same) in [
            ("http://127.0.0.1:1/", "127.0.0.1:1"),
            ("localhost:5", "127.0.0.1:5"),
            ("unix:///a", "unix:/a"),
        ] {
            assert_eq!(
                text.parse::<Endpoint>()
                    .map(|e| e.to_string())
                    .ok()
                    .as_deref(),
                Some(same)
            );
        }
        for bad in [
            "",
            "127.0.0.1",
            "example.org:80",
            "unix:",
            "127.0.0.1:99999",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_loopback_is_offered() {
        let check = |text: &str| {
            text.parse::<Endpoint>()
                .map(|endpoint| endpoint.check().is_ok())
                .ok()
        };
        assert_eq!(check("127.0.0.1:4780"), Some(true));
        assert_eq!(check("[::1]:4780"), Some(true));
        assert_eq!(check("[::ffff:127.0.0.1]:4780"), Some(true));
        assert_eq!(check("0.0.0.0:4780"), Some(false));
        assert_eq!(check("192.168.1.2:4780"), Some(false));
        assert_eq!(check("[::]:4780"), Some(false));
    }
}
