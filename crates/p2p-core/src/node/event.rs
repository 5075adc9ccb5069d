//! What an embedder may watch.

use std::{
    fmt,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt, stream};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    content::{Address, ContentId, Feed},
    peers::PeerInfo,
};

/// Events that may wait for a slow listener before it loses the oldest.
pub(super) const EVENT_QUEUE: usize = 1024;

/// Something happened in the node.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A peer became active: the first connection to it is up.
    PeerJoined(PeerInfo),
    /// A peer is no longer active: its last connection ended, or it stopped answering.
    PeerLeft(PeerInfo),
    /// Something new was learned of an active peer.
    PeerChanged(PeerInfo),
    /// Content is now shared.
    Shared {
        /// Its id.
        id: ContentId,
        /// Its name.
        name: String,
        /// Its size in bytes.
        size: u64,
    },
    /// Content is no longer shared.
    Unshared {
        /// Its id.
        id: ContentId,
    },
    /// A fetch began.
    FetchStarted {
        /// What is fetched.
        id: ContentId,
    },
    /// A fetch is complete.
    FetchCompleted {
        /// What was fetched.
        id: ContentId,
        /// Where it lies.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// A fetch failed or was cancelled.
    FetchFailed {
        /// What was to be fetched.
        id: ContentId,
        /// Why not.
        reason: String,
    },
    /// A shared file no longer is what was shared; it is not served.
    ContentChanged {
        /// The id it had.
        id: ContentId,
    },
    /// Files of a watched share were altered or are gone; they are not served. [`Event::Shared`] follows when the share
    /// has its new form, with another id, and [`Event::Unshared`] for the old one.
    ShareChanged {
        /// The id it has so far.
        id: ContentId,
        /// Where it lies.
        path: PathBuf,
        /// How many files.
        files: u64,
    },
    /// A watched share is gone. It is shared again when it comes back.
    ShareMissing {
        /// The id it had.
        id: ContentId,
        /// Where it was.
        path: PathBuf,
    },
    /// A feed has a newer value than any seen before.
    FeedChanged(Feed),
    /// A download was deleted to make room for others, or because it was asked to go.
    Evicted {
        /// What it was.
        id: ContentId,
        /// Bytes that were deleted.
        bytes: u64,
    },
    /// The node listens on this address.
    ListenAddress(Address),
    /// The listener was too slow and lost this many events.
    Lagged(u64),
}

/// The events of a node, from the moment of [`Node::events`](crate::Node::events) on. Ends with the node.
pub struct Events(Pin<Box<dyn Stream<Item = Event> + Send + Sync>>);

impl Events {
    pub(super) fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Self(Box::pin(stream::unfold(receiver, |mut receiver| async {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(lost)) => Event::Lagged(lost),
                Err(RecvError::Closed) => return None,
            };
            Some((event, receiver))
        })))
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
