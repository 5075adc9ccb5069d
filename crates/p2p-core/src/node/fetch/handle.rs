//! The embedder's side of a fetch: a builder, and a handle that is awaited for the result, watched for progress, dropped
//! to cancel.

use std::{
    fmt,
    future::IntoFuture,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use tokio::sync::{oneshot, watch};

use super::{Existing, Fetched, Filter, Order, Outcome, Progress, Target};
use crate::{
    content::{Address, ContentId, PublisherKey, Ticket, TrustPolicy},
    node::{
        Node,
        command::Command,
        error::{FetchError, NodeStopped},
    },
};

/// How long is looked for a provider, and waited for one that sends nothing.
pub(in crate::node) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// What to fetch: an id, or a ticket, which also says from whom.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FetchTarget {
    /// Whatever has this hash.
    Id(ContentId),
    /// What the ticket names, first of all from the providers it names.
    Ticket(Box<Ticket>),
}

impl From<ContentId> for FetchTarget {
    fn from(id: ContentId) -> Self {
        Self::Id(id)
    }
}

impl From<Ticket> for FetchTarget {
    fn from(ticket: Ticket) -> Self {
        Self::Ticket(Box::new(ticket))
    }
}

impl FetchTarget {
    /// The id of what is fetched.
    #[must_use]
    pub fn id(&self) -> ContentId {
        match self {
            Self::Id(id) => *id,
            Self::Ticket(ticket) => ticket.id(),
        }
    }
}

/// A fetch that is about to begin; see [`Node::fetch`].
#[must_use = "a fetch begins with `start`"]
pub struct FetchBuilder {
    node: Node,
    order: Order,
}

impl fmt::Debug for FetchBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchBuilder")
            .field("id", &self.order.id)
            .field("target", &self.order.target)
            .finish_non_exhaustive()
    }
}

impl FetchBuilder {
    pub(in crate::node) fn new(node: Node, what: FetchTarget) -> Self {
        let id = what.id();
        let ticket = match what {
            FetchTarget::Id(_) => None,
            FetchTarget::Ticket(ticket) => Some(*ticket),
        };
        let order = Order {
            id,
            ticket,
            target: if node.is_in_memory() {
                Target::Store
            } else {
                Target::In(PathBuf::from("."))
            },
            existing: Existing::Refuse,
            include: None,
            trust: node.trust().clone(),
            timeout: DEFAULT_TIMEOUT,
            peers: Vec::new(),
            listing_only: false,
            on_demand: false,
            keep: false,
            scratch: node.scratch().to_path_buf(),
        };
        Self { node, order }
    }

    /// Writes to this path; under its own name within it, if it is a folder. Without this, under its own name in the
    /// current directory; or in the store, by a node in memory, which refuses to write to a path.
    pub fn to(mut self, path: impl Into<PathBuf>) -> Self {
        self.order.target = Target::Path(path.into());
        self
    }

    /// Writes into this folder, under its own name.
    pub fn in_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.order.target = Target::In(dir.into());
        self
    }

    /// Keeps it in the node's own store, where [`Node::read`] finds it; the entries of a folder each by its id.
    pub fn in_store(mut self) -> Self {
        self.order.target = Target::Store;
        self
    }

    /// What a reader orders: it is kept in the node's own store, as much of it as is read.
    pub(in crate::node) fn on_demand(mut self) -> Order {
        self.order.on_demand = true;
        self.in_store().order
    }

    /// What to do if there is something at the target already; by default the fetch is refused.
    pub fn existing(mut self, existing: Existing) -> Self {
        self.order.existing = existing;
        self
    }

    /// Whether to give the files the times and executable bits that their sharer kept; see
    /// [`Share::keep`](crate::Share::keep). By default they are new files like any other, and programs from strangers
    /// cannot be started by mistake.
    pub fn keep(mut self, keep: bool) -> Self {
        self.order.keep = keep;
        self
    }

    /// Of a folder, only the entries whose path (with `/`) this picks.
    pub fn include(mut self, wanted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let wanted: Filter = Arc::new(wanted);
        self.order.include = Some(wanted);
        self
    }

    /// Only if this publisher has signed it, whatever the node's policy.
    pub fn publisher(mut self, key: PublisherKey) -> Self {
        self.order.trust = TrustPolicy::Trusted([key].into());
        self
    }

    /// A peer to ask, by an address that ends in `/p2p/<peer id>`; may be called again.
    pub fn peer(mut self, address: Address) -> Self {
        self.order.peers.push(address);
        self
    }

    /// How long to look for a provider, and to wait for one that sends nothing. A fetch that moves is never cut.
    /// 30 s unless said otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.order.timeout = timeout;
        self
    }

    pub(in crate::node) fn listing_only(mut self) -> Self {
        self.order.listing_only = true;
        self.in_store()
    }

    /// Begins the fetch.
    ///
    /// # Errors
    /// If the node has stopped; [`FetchError::InMemory`] if it writes no files and was told to.
    pub async fn start(self) -> Result<Fetch, FetchError> {
        if self.node.is_in_memory() && !matches!(self.order.target, Target::Store) {
            return Err(FetchError::InMemory);
        }
        let id = self.order.id;
        let (progress, watching) = watch::channel(Progress::of(id));
        let (reply, outcome) = oneshot::channel();
        let command = Command::Fetch {
            order: Box::new(self.order),
            progress,
            reply,
        };
        self.node.send(command).await?;
        Ok(Fetch {
            id,
            progress: watching,
            outcome: Mutex::new(outcome),
        })
    }
}

/// A fetch under way. Await it for the result, watch [`Fetch::progress`], drop it to cancel; what was verified is kept
/// and the same fetch goes on from there.
#[must_use = "dropping a fetch cancels it"]
#[derive(Debug)]
pub struct Fetch {
    id: ContentId,
    progress: watch::Receiver<Progress>,
    outcome: Mutex<oneshot::Receiver<Result<Outcome, FetchError>>>,
}

impl Fetch {
    /// What is fetched.
    #[must_use]
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// How far it is, now and at each change; a slow reader sees the latest only. Ends with the fetch.
    pub fn progress(&self) -> impl Stream<Item = Progress> + Send + Unpin + use<> {
        let told = stream::unfold(
            (self.progress.clone(), true),
            |(mut watching, first)| async move {
                if !first {
                    watching.changed().await.ok()?;
                }
                let progress = watching.borrow_and_update().clone();
                Some((progress, (watching, false)))
            },
        );
        told.boxed()
    }

    pub(in crate::node) async fn outcome(self) -> Result<Outcome, FetchError> {
        // Kept to the end: the session takes the loss of both receivers for a cancellation.
        let Self {
            outcome, progress, ..
        } = self;
        let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        let result = outcome
            .await
            .unwrap_or(Err(FetchError::Stopped(NodeStopped)));
        drop(progress);
        result
    }
}

impl IntoFuture for Fetch {
    type Output = Result<Fetched, FetchError>;
    type IntoFuture = FetchFuture;

    fn into_future(self) -> FetchFuture {
        FetchFuture(Box::pin(async {
            match self.outcome().await? {
                Outcome::Fetched(fetched) => Ok(fetched),
                Outcome::Listed { .. } => Err(FetchError::Interrupted),
            }
        }))
    }
}

/// The result of a [`Fetch`] to come.
#[must_use = "futures do nothing unless awaited"]
pub struct FetchFuture(Pin<Box<dyn Future<Output = Result<Fetched, FetchError>> + Send>>);

impl Future for FetchFuture {
    type Output = Result<Fetched, FetchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for FetchFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FetchFuture")
    }
}
