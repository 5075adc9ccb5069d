//! One error per operation, typed by whose fault it is. Each has a `code`, the word that the command line and the HTTP
//! interface show to programs.

use std::{io, path::PathBuf, sync::Arc};

use super::keys::KeyError;
use crate::{
    content::{Address, BadFeed, CollectionError, ManifestError, NodeId, PathError, PublisherKey},
    net::NetError,
    store::{ImportError, ReadError, StoreError},
};

/// The node has been shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node has stopped")]
pub struct NodeStopped;

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    #[error("configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// A key cannot be read or made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Another node uses the data directory.
    #[error("{dir} is in use by another node{}", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The process of the other node, if it could be read.
        pid: Option<u32>,
    },
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(#[source] StoreError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: Address,
        /// What the system said.
        why: String,
    },
    /// The network cannot be set up.
    #[error("cannot set up the network: {0}")]
    Network(#[source] io::Error),
}

impl StartError {
    /// The word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "usage",
            Self::Key(_) | Self::Store(_) => "io",
            Self::Locked { .. } => "locked",
            Self::Listen { .. } | Self::Network(_) => "network",
        }
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Locked { dir, pid } => Self::Locked { dir, pid },
            error => Self::Store(error),
        }
    }
}

impl From<NetError> for StartError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Setup(error) => Self::Network(error),
            NetError::Listen { address, why } => Self::Listen { address, why },
        }
    }
}

/// Sharing, or ending it, did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The file or folder cannot be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name cannot be used.
    #[error("cannot share under this name: {0}")]
    Name(#[source] ManifestError),
    /// The folder cannot be a collection.
    #[error("cannot share this folder: {0}")]
    Folder(#[from] CollectionError),
    /// The node keeps everything in memory, and shares no files.
    #[error("a node in memory shares no files: give it their bytes, by `share_bytes`")]
    InMemory,
    /// The share is for more peers than can be named.
    #[error("a share can be for at most 1000 peers")]
    TooManyPeers,
    /// Nothing is shared under this id or path.
    #[error("{0} is not shared")]
    NotShared(String),
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] NodeStopped),
}

impl ShareError {
    /// The word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Import(ImportError::NotFound { .. }) | Self::NotShared(_) => "not_found",
            Self::Store(error) => store_code(error),
            Self::Name(_) | Self::Folder(_) | Self::InMemory | Self::TooManyPeers => "usage",
            Self::Import(_) => "io",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// Publishing, resolving or following a feed did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The name cannot be that of a feed.
    #[error("cannot be the name of a feed: {0}")]
    Name(#[from] PathError),
    /// The value is not the publisher's.
    #[error("refused: {0}")]
    Refused(#[source] BadFeed),
    /// Nobody who has a value of it was found in time.
    #[error("not found: nobody told what the feed stands for in {} s", .waited.as_secs())]
    NotFound {
        /// How long was asked.
        waited: std::time::Duration,
    },
    /// More are followed than can be kept up with.
    #[error("too many feeds are followed")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] NodeStopped),
}

impl FeedError {
    /// The word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name(_) | Self::TooMany => "usage",
            Self::Refused(_) => "verification",
            Self::NotFound { .. } => "not_found",
            Self::Store(error) => store_code(error),
            Self::Stopped(_) => "stopped",
        }
    }
}

/// A fetch failed. It can be copied, as several may wait for the same fetch.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody who has it was found in time.
    #[error("not found: no provider in {} s", .waited.as_secs())]
    NotFound {
        /// How long was looked for one.
        waited: std::time::Duration,
    },
    /// Providers were found, and nothing came from them in time.
    #[error("timed out: {why}")]
    Timeout {
        /// What the fetch was waiting for.
        why: String,
    },
    /// Those who have it are met through a relay, and could not be reached directly in time.
    #[error(
        "those who have it can only be met through a relay, which is not for content: a port has to be opened on one side \
         (forward it to that machine, or have the router allow UPnP), or both sides have to set relay_data = true and meet \
         at a relay whose relay_bytes are several blocks of 256 KiB"
    )]
    RelayOnly,
    /// A manifest's signature does not verify.
    #[error("the signature does not verify: {0}")]
    BadSignature(#[source] ManifestError),
    /// What was received is not what it should be.
    #[error("verification failed: {0}")]
    Verification(String),
    /// Nobody who is trusted has signed it.
    #[error("refused by policy: {}", untrusted(.publisher.as_ref()))]
    Untrusted {
        /// Who signed it, if anyone.
        publisher: Option<PublisherKey>,
    },
    /// There is something at the target already.
    #[error("{0} exists already")]
    TargetExists(PathBuf),
    /// The node keeps everything in memory, and writes no files.
    #[error("a node in memory writes no files: fetch without a path, and read by `Node::read`")]
    InMemory,
    /// No entry of the folder is wanted.
    #[error("no entry of the folder matches")]
    NothingMatches,
    /// The disk or the quota is full.
    #[error("{0}")]
    NoSpace(#[source] Arc<StoreError>),
    /// A file cannot be read or written.
    #[error("{0}")]
    Store(#[source] Arc<StoreError>),
    /// It was cancelled; what had been verified is kept.
    #[error("interrupted; what has arrived is kept, fetch again to go on")]
    Interrupted,
    /// The node has stopped; what had been verified is kept.
    #[error(transparent)]
    Stopped(#[from] NodeStopped),
}

fn untrusted(publisher: Option<&PublisherKey>) -> String {
    match publisher {
        Some(key) => format!("signed by {key}, who is not trusted"),
        None => "nobody has signed it".into(),
    }
}

impl FetchError {
    /// The word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Timeout { .. } => "timeout",
            Self::RelayOnly => "network",
            Self::BadSignature(_) | Self::Verification(_) => "verification",
            Self::Untrusted { .. } => "policy",
            Self::NothingMatches => "not_found",
            Self::InMemory => "usage",
            Self::TargetExists(_) => "exists",
            Self::NoSpace(_) => "no_space",
            Self::Store(_) => "io",
            Self::Interrupted => "interrupted",
            Self::Stopped(_) => "stopped",
        }
    }
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_full() => Self::NoSpace(Arc::new(error)),
            StoreError::TargetExists(path) => Self::TargetExists(path),
            error => Self::Store(Arc::new(error)),
        }
    }
}

impl From<ManifestError> for FetchError {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::UntrustedPublisher(key) => Self::Untrusted {
                publisher: Some(key),
            },
            error => Self::BadSignature(error),
        }
    }
}

/// A peer could not be connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address does not say which peer it leads to.
    #[error("{0} does not end in /p2p/<peer id>")]
    NoPeer(Address),
    /// No connection came about.
    #[error("cannot connect to {peer}: {why}")]
    Failed {
        /// The peer.
        peer: NodeId,
        /// What went wrong.
        why: String,
    },
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] NodeStopped),
}

impl ConnectError {
    /// The word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPeer(_) => "usage",
            Self::Failed { .. } => "network",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// Something else did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node does not have it, or nobody answered.
    #[error("{0}")]
    NotFound(String),
    /// A peer did not answer.
    #[error("{peer} did not answer: {why}")]
    NoAnswer {
        /// The peer.
        peer: NodeId,
        /// What went wrong.
        why: &'static str,
    },
    /// A connection could not be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Content could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Files could not be looked through, or that was cancelled.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The node has stopped.
    #[error(transparent)]
    Stopped(#[from] NodeStopped),
}

impl NodeError {
    /// The word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::NoAnswer { .. } => "network",
            Self::Connect(error) => error.code(),
            Self::Store(error) => store_code(error),
            Self::Import(ImportError::Store(error)) => store_code(error),
            Self::Import(ImportError::Cancelled) => "interrupted",
            Self::Read(_) | Self::Import(_) => "io",
            Self::Stopped(_) => "stopped",
        }
    }
}

fn store_code(error: &StoreError) -> &'static str {
    match error {
        error if error.is_full() => "no_space",
        StoreError::TargetExists(_) => "exists",
        StoreError::Locked { .. } => "locked",
        _ => "io",
    }
}
