//! What can go wrong in the store, one enum per kind of operation, typed by who is to blame.

use std::io;
use std::path::PathBuf;

use crate::content::{ContentId, PathError, TreeError};

/// A failure of the index database. The index is a cache of what can be found out again from the
/// files, so nothing but time is lost with it.
#[derive(Debug, thiserror::Error)]
#[error("index of the store: {0}")]
pub struct IndexError(#[source] pub(super) Box<redb::Error>);

impl IndexError {
    /// Whether the disk that holds the index is full. The index works again once there is space.
    pub fn is_disk_full(&self) -> bool {
        matches!(&*self.0, redb::Error::Io(source) if is_disk_full(source))
    }
}

/// A failure of an operation on the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process (or another `Store` in this one) has the data directory open.
    #[error("the store {dir} is in use by {}", owner(*pid))]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, if it could be read.
        pid: Option<u32>,
    },
    /// The index has as many feeds as it may, and all of them are followed or own.
    #[error("too many feeds: follow fewer")]
    TooManyFeeds,
    /// The disk has no room for it, or less than the configured reserve would remain.
    #[error("not enough space on the disk{}", wanted(*needed, *available))]
    NoSpace {
        /// Bytes that were to be written; 0 where a write already under way met a full disk.
        needed: u64,
        /// Bytes free above the configured reserve.
        available: u64,
    },
    /// It would exceed the configured quota.
    #[error("over the quota: {needed} bytes needed, {used} of {quota} bytes used")]
    QuotaFull {
        /// Bytes that were to be added.
        needed: u64,
        /// The quota, in bytes.
        quota: u64,
        /// Bytes already counted against it.
        used: u64,
    },
    /// There is something at the target already and it was not to be replaced.
    #[error("{0} exists already")]
    TargetExists(PathBuf),
    /// The content is already complete in the store, so there is nothing to fetch.
    #[error("{0} is already complete")]
    AlreadyComplete(ContentId),
    /// Not every block of the content is held.
    #[error("{id} is incomplete: {held} of {blocks} blocks")]
    Incomplete {
        /// The content.
        id: ContentId,
        /// Blocks held.
        held: u32,
        /// Blocks of the content.
        blocks: u32,
    },
    /// The content has another size than the one claimed.
    #[error("{id} is known with another size than {size}")]
    WrongSize {
        /// The content.
        id: ContentId,
        /// The size that was claimed, in bytes.
        size: u64,
    },
    /// A block of another content, or of another size of it, was given.
    #[error("a block that is not of {0}")]
    ForeignBlock(ContentId),
    /// The hash values given are not those of the content.
    #[error("outline refused: {0}")]
    Outline(#[source] TreeError),
    /// The partial file is not a plain file (a link, a folder, a device), or was replaced by another
    /// while it was written.
    #[error("{0} is not a partial file of this store")]
    NotAPart(PathBuf),
    /// Reading content failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The disk did not confirm a write. What was written since the last checkpoint is not trusted;
    /// begin the content again.
    #[error("{path} could not be written to the disk for good: {source}")]
    Sync {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other failure of the file system.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The index failed.
    #[error(transparent)]
    Index(IndexError),
}

impl From<IndexError> for StoreError {
    fn from(error: IndexError) -> Self {
        if error.is_disk_full() {
            Self::NoSpace {
                needed: 0,
                available: 0,
            }
        } else {
            Self::Index(error)
        }
    }
}

impl StoreError {
    /// Whether the disk or the quota is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::QuotaFull { .. })
    }

    /// An I/O failure on `path`; a full disk is told apart.
    pub(super) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        if is_disk_full(&source) {
            return Self::NoSpace {
                needed: 0,
                available: 0,
            };
        }
        Self::Io {
            path: path.into(),
            source,
        }
    }
}

/// A failure to read a block. No wrong byte is ever returned instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The block is not held (yet, or no longer: a held block of a partial that turns out damaged is
    /// dropped and has to be fetched again).
    #[error("block not held")]
    NotHeld,
    /// The file is not what was shared any more. Import it again.
    #[error("the file changed since it was shared")]
    Changed,
    /// The file is gone.
    #[error("the file is gone")]
    Missing,
    /// The file could not be read.
    #[error("read failed: {0}")]
    Io(#[source] io::Error),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A failure to bring a file or folder into the store. Nothing was recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There is nothing at the path.
    #[error("{path}: not found")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// It is not a plain file.
    #[error("{path}: not a plain file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// It is not a folder.
    #[error("{path}: not a folder")]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The system does not let this process read it.
    #[error("{path}: permission denied")]
    Permission {
        /// The path.
        path: PathBuf,
    },
    /// The name is not valid UTF-8 and so cannot be shared.
    #[error("{path}: the name is not UTF-8")]
    NameNotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// The name cannot be stored on every system and so cannot be shared.
    #[error("{path}: {source}")]
    NameRefused {
        /// The path.
        path: PathBuf,
        /// Why.
        source: PathError,
    },
    /// The file was written to while it was hashed.
    #[error("{path}: changed while it was read")]
    ChangedWhileReading {
        /// The path.
        path: PathBuf,
    },
    /// The file is larger than a content may be ([`MAX_SIZE`](crate::content::MAX_SIZE)).
    #[error("{path}: too large")]
    TooLarge {
        /// The path.
        path: PathBuf,
    },
    /// The caller cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// Reading failed.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store could not record it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<IndexError> for ImportError {
    fn from(error: IndexError) -> Self {
        Self::Store(error.into())
    }
}

impl ImportError {
    pub(super) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::PermissionDenied => Self::Permission { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Whether the failure says that the disk, or the user's share of it, is full.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn wanted(needed: u64, available: u64) -> String {
    match needed {
        0 => ": it is full".to_owned(),
        _ => format!(": {needed} bytes needed, {available} available"),
    }
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}
