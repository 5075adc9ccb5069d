//! What a [`Node`](super::Node) handle tells its driver, each with where the answer goes.

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    check::ServerAnswer,
    doctor::Facts,
    error::{ConnectError, FetchError},
    fetch::{Order, Outcome, Progress, Seat},
    naming::{Named, Reached},
};
use crate::{
    announce::Announced,
    audience::Audience,
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
        /// Whom it is for.
        audience: Audience,
        /// Files of the folder, announced after it.
        entries: Vec<ContentId>,
    },
    /// What is shared at a watched path is something else now.
    Renewed {
        /// What it was.
        before: Option<ContentId>,
        /// What it is.
        manifest: Box<SignedManifest>,
        /// Not shown in the catalog, nor found by name.
        unlisted: bool,
        /// Whom it is for.
        audience: Audience,
        /// Files of the folder that were not in it before.
        added: Vec<ContentId>,
        /// Those that are not here any more.
        removed: Vec<ContentId>,
    },
    /// Shared content is gone: it is announced and shown no longer, until it is shared again.
    Withdrawn { ids: Vec<ContentId> },
    /// Content that everyone may have is here: announce it.
    Offered { ids: Vec<ContentId> },
    /// Content is no longer shared.
    Unshared { id: ContentId },
    /// Of the shares of a content one has come or gone, and this is how it is shared now by all.
    Left {
        /// The file or folder itself.
        manifest: Box<SignedManifest>,
        /// Not shown in the catalog, nor found by name.
        unlisted: bool,
        /// Whom it is for.
        audience: Audience,
        /// Of it and its files, what everyone may have.
        open: Vec<ContentId>,
        /// The others.
        closed: Vec<ContentId>,
    },
    /// Content is no longer here, or damaged: it is announced no more.
    Lost { ids: Vec<ContentId>, changed: bool },
    /// Bytes a second from now on.
    Rates {
        upload: Option<u64>,
        download: Option<u64>,
        lan_exempt: bool,
    },
    /// Fetch.
    Fetch {
        order: Box<Order>,
        progress: watch::Sender<Progress>,
        reply: oneshot::Sender<Result<Outcome, FetchError>>,
    },
    /// Fetch for a reader, what it waits for.
    Read { order: Box<Order>, seat: Seat },
    /// Readers of this content have moved, or one is gone.
    ReadersMoved { id: ContentId },
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
    /// Name whom to ask for a name with these words; the channel closes when there is nobody else.
    Search {
        keys: Vec<ContentId>,
        found: mpsc::Sender<Named>,
    },
    /// Connect to a peer whose addresses are known, if it is not connected.
    Reach { peer: NodeId, reply: Reached },
    /// A peer answered a search with lies.
    Blame { peer: NodeId },
    /// How ids stand with the announcer.
    Announced {
        ids: Vec<ContentId>,
        reply: oneshot::Sender<Vec<Option<Announced>>>,
    },
    /// The feed with this key is served from now on: it is announced.
    Served { key: ContentId },
    /// It is not any more.
    Unserved { key: ContentId },
    /// Ask the servers closest to a content what they hold; the channel closes when all have answered.
    Check {
        id: ContentId,
        answers: mpsc::Sender<ServerAnswer>,
    },
    /// How others can reach this node, as far as is known.
    Facts { reply: oneshot::Sender<Facts> },
    /// Stop.
    Shutdown { done: oneshot::Sender<()> },
}
