//! The two keys of a node, each in a file of its own in the data directory: the node key, which its peers know it by, and
//! the publisher key, which signs what it shares.

use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;

use crate::{
    content::{NodeId, PublisherKey, PublisherSecret},
    net::NodeKey,
};

/// A key file holds 64 hexadecimal digits and a newline; a longer one is not a key file.
const MAX_KEY_FILE: u64 = 256;

/// A key could not be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not hold 64 hexadecimal digits.
    #[error("{path} is not a key: it must hold 64 hexadecimal digits")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The file is not that of a private network's key.
    #[error(
        "{path} is no network key: three lines, /key/swarm/psk/1.0.0/, /base16/, and 64 hexadecimal digits"
    )]
    NoNetworkKey {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are no key.
    #[error("these bytes are no key")]
    Refused,
    /// Others than its owner may read the file.
    #[error("{path} can be read by others; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("no random bytes for a new key: {0}")]
    Random(String),
}

/// The keys of a node.
pub struct Keys {
    pub(crate) node: NodeKey,
    pub(crate) node_id: NodeId,
    pub(crate) publisher: PublisherSecret,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("node", &self.node_id)
            .field("publisher", &self.publisher.public())
            .finish()
    }
}

impl Keys {
    /// Reads the keys in `data_dir`, making the directory (0700) and the keys (0600) where there are none.
    ///
    /// # Errors
    /// If a file cannot be read or made, is no key, or can be read by others.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, KeyError> {
        make_private_dir(data_dir).map_err(|source| KeyError::Io {
            path: data_dir.into(),
            source,
        })?;
        let node_path = data_dir.join("node.key");
        let node = load_or_create(&node_path)?;
        let publisher = load_or_create(&data_dir.join("publisher.key"))?;
        Self::from_secrets(node, publisher).map_err(|_| KeyError::Malformed { path: node_path })
    }

    /// New keys, kept nowhere.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_secrets(random()?, random()?)
    }

    /// Keys that the embedder keeps: the secret of the node key and that of the publisher key, both of Ed25519.
    ///
    /// # Errors
    /// If they are no keys.
    pub fn from_secrets(node: [u8; 32], publisher: [u8; 32]) -> Result<Self, KeyError> {
        let node = NodeKey::from_secret(node);
        let with_id = node.and_then(|node| node.node_id().map(|id| (node, id)));
        let (node, node_id) = with_id.ok_or(KeyError::Refused)?;
        Ok(Self {
            node,
            node_id,
            publisher: PublisherSecret::from_bytes(publisher),
        })
    }

    /// The peer id of the node key.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The public half of the publisher key.
    #[must_use]
    pub fn publisher(&self) -> PublisherKey {
        self.publisher.public()
    }
}

fn make_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn load_or_create(path: &Path) -> Result<[u8; 32], KeyError> {
    let failed = |source| KeyError::Io {
        path: path.into(),
        source,
    };
    match fs::File::open(path) {
        Ok(file) => read_key(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = random()?;
            write_key(path, &secret).map_err(failed)?;
            Ok(secret)
        }
        Err(error) => Err(failed(error)),
    }
}

pub(super) fn random() -> Result<[u8; 32], KeyError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| KeyError::Random(error.to_string()))?;
    Ok(secret)
}

fn read_key(path: &Path, file: fs::File) -> Result<[u8; 32], KeyError> {
    let text = read_private(path, file)?;
    HEXLOWER
        .decode(text.trim().to_ascii_lowercase().as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| KeyError::Malformed { path: path.into() })
}

/// The text of a file that nobody else can read; of one that is too long to be a key, the beginning.
pub(super) fn read_private(path: &Path, file: fs::File) -> Result<String, KeyError> {
    let failed = |source| KeyError::Io {
        path: path.into(),
        source,
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.into() });
        }
    }
    let mut text = String::new();
    file.take(MAX_KEY_FILE)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

fn write_key(path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    write_private(path, &format!("{}\n", HEXLOWER.encode(secret)))
}

/// Writes a new file that nobody else can read.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    // Half a key, on a full disk, would be taken for a damaged one.
    written.inspect_err(|_| _ = fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = Keys::load_or_create(&data).unwrap();
        let second = Keys::load_or_create(&data).unwrap();
        assert_eq!(first.node_id(), second.node_id());
        assert_eq!(first.publisher(), second.publisher());
        assert_ne!(
            fs::read(data.join("node.key")).unwrap(),
            fs::read(data.join("publisher.key")).unwrap()
        );
        let shown = format!("{first:?}");
        let secret = fs::read_to_string(data.join("publisher.key")).unwrap();
        assert!(!shown.contains(secret.trim()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let path = data.join("node.key");
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let error = Keys::load_or_create(&data).unwrap_err();
            assert!(matches!(error, KeyError::Exposed { .. }), "{error}");
        }
    }

    #[test]
    fn a_damaged_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        Keys::load_or_create(dir.path()).unwrap();
        fs::write(dir.path().join("publisher.key"), "not a key").unwrap();
        let error = Keys::load_or_create(dir.path()).unwrap_err();
        assert!(error.to_string().contains("publisher.key"), "{error}");
    }
}
