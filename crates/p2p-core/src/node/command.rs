//! What a [`Node`](super::Node) handle tells its driver, each with where the answer goes.

use std::ops::Range;

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    driver::SessionId,
    error::{ConnectError, FetchError},
    fetch::{Order, Outcome, Progress},
};
use crate::{
    announce::Announced,
    content::{Address, ContentId, NodeId, SignedManifest},
    net::{
        NetFault,
        wire::{Query, Reply},
    },
};

/// Commands that may wait for the driver.
pub(super) const COMMAND_QUEUE: usize = 256;

/// A wish of the embedder.
pub(super) enum Command {
    /// Content is shared from now on: announce it, and show it if it has a place in the catalog.
    Shared {
        /// The file or folder itself.
        manifest: Box<SignedManifest>,
        /// Not shown in the catalog, nor found by name.
        unlisted: bool,
        /// Files of the folder, announced after it.
        entries: Vec<ContentId>,
    },
    /// Content is no longer shared.
    Unshared { id: ContentId },
    /// Fetch.
    Fetch {
        order: Box<Order>,
        progress: watch::Sender<Progress>,
        reply: oneshot::Sender<Result<Outcome, FetchError>>,
        started: oneshot::Sender<SessionId>,
    },
    /// A reader of a fetch waits for these blocks.
    Prioritise {
        session: SessionId,
        blocks: Option<Range<u32>>,
    },
    /// Connect to a peer.
    Connect {
        peer: NodeId,
        address: Address,
        reply: oneshot::Sender<Result<(), ConnectError>>,
    },
    /// Ask a connected peer.
    Ask {
        peer: NodeId,
        query: Query,
        reply: oneshot::Sender<Result<Reply, NetFault>>,
    },
    /// Look for providers in the DHT; the channel closes with the search.
    Lookup {
        id: ContentId,
        found: mpsc::Sender<Vec<NodeId>>,
    },
    /// How ids stand with the announcer.
    Announced {
        ids: Vec<ContentId>,
        reply: oneshot::Sender<Vec<Option<Announced>>>,
    },
    /// Stop.
    Shutdown { done: oneshot::Sender<()> },
}
