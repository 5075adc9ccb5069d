//! Fetching: from an id or a ticket to a file or folder.

pub(crate) mod handle;
mod patience;
pub(crate) mod plan;
pub(crate) mod prepare;
mod readers;
pub(crate) mod receive;
mod search;
pub(crate) mod session;
mod sources;
pub(crate) mod transfer;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

pub(in crate::node) use self::handle::DEFAULT_TIMEOUT;
pub use self::handle::{Fetch, FetchBuilder, FetchTarget};
pub(crate) use self::readers::{Seat, Standing};
pub use crate::store::Existing;
use crate::{
    content::{Address, ContentId, NodeId, Ticket, TrustPolicy},
    node::query::Listed,
};

/// Where a fetch puts its result.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// This path; in it, under its own name, if it is a folder that exists.
    Path(PathBuf),
    /// In this folder, under its own name.
    In(PathBuf),
    /// In the node's own store, for a reader.
    Store,
}

/// Picks entries of a folder by their path.
pub(crate) type Filter = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the user asked for.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) id: ContentId,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) target: Target,
    pub(crate) existing: Existing,
    pub(crate) include: Option<Filter>,
    pub(crate) trust: TrustPolicy,
    pub(crate) timeout: Duration,
    pub(crate) peers: Vec<Address>,
    /// Only the entries of the folder are wanted, not their content.
    pub(crate) listing_only: bool,
    /// Only what readers wait for is wanted, and of a folder its list.
    pub(crate) on_demand: bool,
    /// The attributes that the sharer kept are given to the files.
    pub(crate) keep: bool,
    /// The folder for content that nobody named a place for.
    pub(crate) scratch: PathBuf,
}

/// What a transfer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The bytes that list a folder's entries.
    Listing,
    /// A file.
    File,
    /// The entries of a folder.
    Folder,
}

/// What came of an order.
#[derive(Debug)]
pub(crate) enum Outcome {
    Fetched(Fetched),
    Listed {
        name: Option<String>,
        listed: Listed,
    },
}

/// A fetch that is complete.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fetched {
    /// What was fetched.
    pub id: ContentId,
    /// Where the file or folder lies; of what was fetched into the store, where the store keeps it.
    pub path: PathBuf,
    /// Its size in bytes; of a folder, all entries that were wanted together.
    pub size: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Who sent how much; nobody if it was here already.
    pub sources: Vec<SourceBytes>,
}

/// Verified bytes that one peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceBytes {
    /// The peer.
    pub peer: NodeId,
    /// Bytes.
    pub bytes: u64,
}

/// How far a fetch is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is fetched.
    pub id: ContentId,
    /// Its name, once a manifest is known.
    pub name: Option<String>,
    /// Bytes verified and written, those of earlier runs included.
    pub done: u64,
    /// Bytes in all, once known.
    pub size: Option<u64>,
    /// Bytes a second, smoothed over a few seconds.
    pub rate: u64,
    /// Peers that are sending.
    pub sources: u32,
    /// Where it stands.
    pub state: FetchState,
    /// Why nothing moves, if nothing does.
    pub stall: Option<String>,
}

impl Progress {
    /// That of a fetch that has just begun.
    pub(in crate::node) fn of(id: ContentId) -> Self {
        Self {
            id,
            name: None,
            done: 0,
            size: None,
            rate: 0,
            sources: 0,
            state: FetchState::Searching,
            stall: None,
        }
    }
}

/// Where a fetch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchState {
    /// Looking for providers.
    Searching,
    /// Blocks are wanted from providers.
    Fetching,
    /// All is here; files are being put in place.
    Finishing,
    /// Done.
    Complete,
}

impl fmt::Display for FetchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Searching => "searching",
            Self::Fetching => "fetching",
            Self::Finishing => "finishing",
            Self::Complete => "complete",
        })
    }
}
