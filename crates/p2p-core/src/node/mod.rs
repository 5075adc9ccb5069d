//! A node: the handle that an embedder holds, and the driver behind it.

mod address_book;
mod answer;
mod catalog;
mod command;
pub(crate) mod driver;
mod error;
mod event;
pub(crate) mod fetch;
mod hands;
mod inventory;
mod keys;
mod on_net;
mod query;
mod reader;
mod serving;
mod share;
mod status;
mod upload;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinSet,
};

use self::{
    catalog::Catalog,
    command::{COMMAND_QUEUE, Command},
    driver::{Driver, clock},
    event::EVENT_QUEUE,
    hands::{Hands, Rates},
    status::Published,
};
pub use self::{
    error::{ConnectError, FetchError, NodeError, NodeStopped, ShareError, StartError},
    event::{Event, Events},
    fetch::{
        Existing, Fetch, FetchBuilder, FetchState, FetchTarget, Fetched, Progress, SourceBytes,
    },
    keys::{KeyError, Keys},
    query::{CatalogEntry, ContentInfo, ContentState, Found, Listing},
    reader::Reader,
    share::{Announcement, Share, ShareInfo, ShareRef, ShareState, Shared},
    status::Status,
};
use crate::{
    config::Config,
    content::{
        Address, ContentId, NodeId, Provider, PublisherKey, SignedManifest, Ticket, TrustPolicy,
    },
    net::Net,
    peers::{PeerInfo, Peers},
    rate::RateLimit,
    store::{State, Store, StoreOptions},
};

/// The name and version this crate gives itself to peers.
pub const AGENT: &str = concat!("p2p-core/", env!("CARGO_PKG_VERSION"));

/// Reports of receiving threads that may wait for the driver.
const REPORT_QUEUE: usize = 256;
/// How long a start waits for the first listening addresses.
const LISTEN_PATIENCE: Duration = Duration::from_secs(3);

/// A running node. Cheap to clone; it stops when the last clone is dropped, or at [`Node::shutdown`].
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    keys: Arc<Keys>,
    store: Store,
    trust: TrustPolicy,
    scratch: PathBuf,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Event>,
    published: watch::Receiver<Published>,
    started: Instant,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.keys.node_id())
            .finish_non_exhaustive()
    }
}

/// Runs what blocks on a thread of its own. A panic there is a defect of ours and is passed on.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeStopped> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(NodeStopped),
    }
}

impl Node {
    /// Starts a node: opens the store, listens, and dials the peers it knows. Keys are made on the first start.
    ///
    /// # Errors
    /// If the configuration cannot work, the data directory is in use or cannot be read, or nothing can be listened on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        let opening = config.clone();
        let opened = blocking(move || Opened::open(&opening)).await;
        let opened = opened.map_err(|_| StartError::Config(vec!["no runtime".into()]))??;
        let node = Self::assemble(&config, opened)?;
        node.wait_until_listening(config.network.listen.len()).await;
        Ok(node)
    }

    fn assemble(config: &Config, opened: Opened) -> Result<Self, StartError> {
        let (now, wall) = clock();
        let Opened {
            keys,
            store,
            catalog,
            peers,
            known,
        } = opened;
        let net = Net::start(
            &keys.node,
            &config.network,
            config.limits.max_peers,
            AGENT,
            now,
        )?;
        let (command_tx, commands) = mpsc::channel(COMMAND_QUEUE);
        let (report_tx, reports) = mpsc::channel(REPORT_QUEUE);
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let status = Status::new(keys.node_id(), keys.publisher(), AGENT.to_owned());
        let (published, watching) = watch::channel(Published {
            peers: Arc::default(),
            addresses: Arc::default(),
            status: Arc::new(status.clone()),
        });
        let hands = Hands {
            local: keys.node_id(),
            net,
            store: store.clone(),
            peers,
            asked: HashMap::new(),
            lookups: HashMap::new(),
            requests: HashMap::new(),
            next_number: 0,
            max_requests: requests_within(config.limits.memory),
            connecting: BTreeMap::new(),
            jobs: JoinSet::new(),
            reports: report_tx,
            rates: Rates {
                upload: RateLimit::new(config.limits.upload, now),
                download: RateLimit::new(config.limits.download, now),
                lan_exempt: config.limits.lan_exempt,
            },
            events: events.clone(),
            now,
            wall,
            peers_dirty: false,
            peers_moved: false,
            up_bytes: 0,
            down_bytes: 0,
        };
        let mut driver = Driver::new(hands, commands, reports, catalog, config, status, published);
        driver.announce_later(known);
        tokio::spawn(driver.run());
        Ok(Self {
            inner: Arc::new(Inner {
                keys: Arc::new(keys),
                store,
                trust: config.trust.clone(),
                scratch: scratch_dir(&config.data_dir),
                commands: command_tx,
                events,
                published: watching,
                started: now,
            }),
        })
    }

    async fn wait_until_listening(&self, listeners: usize) {
        let mut published = self.inner.published.clone();
        let listening = published.wait_for(|published| published.addresses.len() >= listeners);
        // A listener without an address yet (an interface that is down) must not hold up the start.
        let _ = tokio::time::timeout(LISTEN_PATIENCE, listening).await;
    }

    /// The peer id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.keys.node_id()
    }

    /// The key that signs what this node shares.
    #[must_use]
    pub fn publisher(&self) -> PublisherKey {
        self.inner.keys.publisher()
    }

    /// Where the node can be reached, each address ending in `/p2p/<id>`.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.inner.published.borrow().addresses.to_vec()
    }

    /// The peers: those connected first, then those remembered.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.inner.published.borrow().peers.to_vec()
    }

    /// Numbers, at most a tenth of a second old.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status::clone(&self.inner.published.borrow().status);
        status.uptime = clock().0.saturating_duration_since(self.inner.started);
        status.cache = self.inner.store.cache_stats();
        status.storage = self.inner.store.usage();
        status
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.inner.events.subscribe())
    }

    /// Shares a file or folder where it lies; await the result.
    pub fn share(&self, path: impl Into<PathBuf>) -> Share {
        Share::new(self.clone(), path.into())
    }

    /// Fetches a file or folder, by id or ticket, from everyone who has it.
    pub fn fetch(&self, what: impl Into<FetchTarget>) -> FetchBuilder {
        FetchBuilder::new(self.clone(), what.into())
    }

    /// Connects to a peer, by an address that ends in `/p2p/<peer id>`.
    ///
    /// # Errors
    /// If the address names no peer, or no connection comes about.
    pub async fn connect(&self, address: Address) -> Result<NodeId, ConnectError> {
        let Some(peer) = address.node() else {
            return Err(ConnectError::NoPeer(address));
        };
        let (reply, connected) = oneshot::channel();
        self.send(Command::Connect {
            peer,
            address,
            reply,
        })
        .await?;
        connected.await.map_err(|_| NodeStopped)??;
        Ok(peer)
    }

    /// Changes how much of the disk the node may use, in bytes. What is there already stays.
    pub fn set_storage_limits(&self, quota: u64, min_free: u64) {
        self.inner.store.set_limits(quota, min_free);
    }

    /// Stops the node: ends what is under way, keeping what was verified, and closes all connections.
    pub async fn shutdown(self) {
        let (done, stopped) = oneshot::channel();
        if self.send(Command::Shutdown { done }).await.is_ok() {
            // An error says that it stopped on its own meanwhile.
            let _ = stopped.await;
        }
    }

    pub(crate) fn keys(&self) -> &Arc<Keys> {
        &self.inner.keys
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn trust(&self) -> &TrustPolicy {
        &self.inner.trust
    }

    pub(crate) fn scratch(&self) -> &Path {
        &self.inner.scratch
    }

    async fn send(&self, command: Command) -> Result<(), NodeStopped> {
        self.inner
            .commands
            .send(command)
            .await
            .map_err(|_| NodeStopped)
    }

    /// A ticket for this content that names this node.
    fn ticket_of(&self, manifest: SignedManifest) -> Ticket {
        let addresses = self.addresses();
        // Loopback helps only on this machine: last, and only if there is room.
        let (near, far): (Vec<Address>, Vec<Address>) =
            addresses.into_iter().partition(Address::is_loopback);
        let addresses = far.into_iter().chain(near);
        Ticket::new(manifest, [Provider::new(self.id(), addresses)])
    }
}

/// Requests for blocks that may be open at once. Each holds a queue of frames, a batch on its way to the disk and what the
/// connection buffers, 4 MiB in all; half of the memory is for them, half for what is served.
fn requests_within(memory: u64) -> usize {
    usize::try_from(memory / (8 * 1024 * 1024))
        .unwrap_or(usize::MAX)
        .clamp(4, 1024)
}

/// Where content is kept that nobody named a place for: listings, and what only a reader wanted.
fn scratch_dir(data_dir: &Path) -> PathBuf {
    let dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_path_buf());
    dir.join("fetched")
}

/// What a node needs from the disk to start.
struct Opened {
    keys: Keys,
    store: Store,
    catalog: Catalog,
    peers: Peers,
    /// What was shared or fetched in earlier runs, to be announced again.
    known: Vec<ContentId>,
}

impl Opened {
    fn open(config: &Config) -> Result<Self, StartError> {
        let keys = Keys::load_or_create(&config.data_dir)?;
        let store = Store::open(StoreOptions {
            dir: config.data_dir.clone(),
            cache_bytes: config.limits.cache,
            quota: config.storage.quota,
            min_free: config.storage.min_free,
        })?;
        let scratch = scratch_dir(&config.data_dir);
        std::fs::create_dir_all(&scratch).map_err(|source| KeyError::Io {
            path: scratch,
            source,
        })?;
        let mut catalog = Catalog::default();
        let ours = keys.publisher();
        for (_, share) in store.shares()? {
            if share.unlisted {
                continue;
            }
            for manifest in store.manifests(share.id)? {
                if manifest.claims().publisher == ours {
                    catalog.insert(manifest);
                }
            }
        }
        let mut known: Vec<ContentId> = store.shares()?.iter().map(|(_, s)| s.id).collect();
        let fetched = store.contents()?.into_iter();
        known.extend(
            fetched
                .filter(|info| info.download && info.state == State::Complete)
                .map(|info| info.id),
        );
        let mut peers = Peers::default();
        address_book::read(&config.data_dir, &mut peers, clock().1);
        Ok(Self {
            keys,
            store,
            catalog,
            peers,
            known,
        })
    }
}
