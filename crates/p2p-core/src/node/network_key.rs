//! The key of a private network: all who have it can connect, and nobody else.

use std::{fmt, fs, path::Path};

use data_encoding::HEXLOWER;

use super::keys::{KeyError, random, read_private, write_private};

/// The lines before the key, in the form that IPFS tools give such files.
const HEADER: [&str; 2] = ["/key/swarm/psk/1.0.0/", "/base16/"];

/// The secret that the nodes of a private network share. Its file has the form that Kubo calls `swarm.key`.
///
/// Source: <https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md>.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKey([u8; 32]);

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey")
    }
}

impl NetworkKey {
    /// A new one.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        random().map(Self)
    }

    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the file of a key.
    ///
    /// # Errors
    /// If it cannot be read, is no such file, or can be read by others than its owner.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Io {
            path: path.into(),
            source,
        };
        let text = read_private(path, fs::File::open(path).map_err(failed)?)?;
        Self::parse(&text).ok_or_else(|| KeyError::NoNetworkKey { path: path.into() })
    }

    /// Writes the key to a new file that only its owner can read.
    ///
    /// # Errors
    /// If the file is there, or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let text = format!(
            "{}\n{}\n{}\n",
            HEADER[0],
            HEADER[1],
            HEXLOWER.encode(&self.0)
        );
        write_private(path, &text).map_err(|source| KeyError::Io {
            path: path.into(),
            source,
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        if HEADER.iter().any(|expected| lines.next() != Some(expected)) {
            return None;
        }
        let key = lines.next()?.to_ascii_lowercase();
        if lines.any(|line| !line.is_empty()) {
            return None;
        }
        let bytes = HEXLOWER.decode(key.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_usual_form_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swarm.key");
        let key = NetworkKey::from_bytes([0xab; 32]);
        key.write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let expected = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "ab".repeat(32));
        assert_eq!(text, expected);
        assert_eq!(NetworkKey::load(&path).unwrap(), key);
        assert!(key.write(&path).is_err(), "nothing is overwritten");
        assert!(!format!("{key:?}").contains("ab"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let error = NetworkKey::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Exposed { .. }), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let hex = "AB".repeat(32);
        assert!(
            NetworkKey::parse(&format!("/key/swarm/psk/1.0.0/\r\n/base16/\r\n{hex}")).is_some()
        );
        for text in [
            String::new(),
            hex.clone(),
            format!("/key/swarm/psk/1.0.0/\n/base64/\n{hex}"),
            format!("/key/swarm/psk/1.0.0/\n/base16/\n{}", &hex[2..]),
            format!("/key/swarm/psk/1.0.0/\n/base16/\n{hex}\n{hex}"),
        ] {
            assert!(NetworkKey::parse(&text).is_none(), "{text:?}");
        }
    }
}
