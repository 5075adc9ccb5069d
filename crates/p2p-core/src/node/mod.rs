//! A node: the handle that an embedder holds, and the driver behind it.

mod address_book;
mod announcing;
mod answer;
mod care;
pub(crate) mod catalog;
mod check;
mod command;
pub(crate) mod doctor;
mod driver;
mod error;
mod event;
mod feed_client;
pub(crate) mod feeds;
mod fetch;
mod fetching;
mod find;
mod follow;
mod gate;
mod hands;
mod housekeeping;
mod importing;
mod inventory;
mod keys;
mod moving;
mod naming;
mod network_key;
mod on_command;
mod on_net;
mod publishing;
mod query;
mod read_ahead;
mod reader;
mod returning;
mod serving;
mod share;
mod status;
mod unsharing;
mod upload;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinSet,
};

pub use self::{
    care::{Pin, Verify},
    check::{Check, ServerAnswer},
    doctor::{Finding, Level, Reachability},
    error::{ConnectError, FeedError, FetchError, NodeError, NodeStopped, ShareError, StartError},
    event::{Event, Events},
    feeds::FeedInfo,
    fetch::{
        Existing, Fetch, FetchBuilder, FetchState, FetchTarget, Fetched, Progress, SourceBytes,
    },
    find::Found,
    keys::{KeyError, Keys},
    network_key::NetworkKey,
    query::{CatalogEntry, ContentInfo, ContentPage, ContentState, Listing},
    reader::Reader,
    share::{Announcement, Share, ShareInfo, ShareRef, ShareState, Shared},
    status::Status,
};
use self::{
    catalog::Catalog,
    command::{COMMAND_QUEUE, Command},
    driver::{Driver, clock},
    event::EVENT_QUEUE,
    feeds::Followers,
    follow::{Followed, Follower},
    gate::Gate,
    hands::{Hands, Rates},
    inventory::FolderSizes,
    status::Published,
};
use crate::{
    config::{Config, NetworkConfig},
    content::{Address, NodeId, Provider, PublisherKey, SignedManifest, Ticket, TrustPolicy},
    net::Net,
    peers::{PeerInfo, Peers},
    rate::RateLimit,
    store::{Store, StoreOptions},
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
    in_memory: bool,
    network: NetworkConfig,
    trust: TrustPolicy,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Event>,
    published: watch::Receiver<Published>,
    follower: Follower,
    feeds: Followers,
    gate: Arc<Gate>,
    folder_sizes: Arc<FolderSizes>,
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
        let mut opened = opened.map_err(|_| StartError::Config(vec!["no runtime".into()]))??;
        let watched = std::mem::take(&mut opened.watched);
        let node = Self::assemble(&config, opened)?;
        node.wait_until_listening(config.network.listen.len()).await;
        node.follow_feeds_again().await;
        for share in watched {
            // It fails only when the node has stopped, and then nothing is to be watched.
            let _ = node.follow(share).await;
        }
        Ok(node)
    }

    fn assemble(config: &Config, opened: Opened) -> Result<Self, StartError> {
        let (now, wall) = clock();
        let Opened {
            keys,
            store,
            gate,
            catalog,
            peers,
            watched: _,
        } = opened;
        let gate = Arc::new(gate);
        let (feed_news, _) = watch::channel(0);
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
            gate: Arc::clone(&gate),
            feed_news: feed_news.clone(),
            relay_data: config.network.relay_data,
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
            moved: false,
            up_bytes: 0,
            down_bytes: 0,
        };
        let mut driver = Driver::new(hands, commands, reports, catalog, config, status, published);
        driver.announce_known();
        tokio::spawn(driver.run());
        Ok(Self {
            inner: Arc::new(Inner {
                follower: Follower::start(
                    store.clone(),
                    Arc::clone(&keys),
                    Arc::clone(&gate),
                    &command_tx,
                    events.clone(),
                ),
                keys,
                store,
                in_memory: config.storage.in_memory,
                network: config.network.clone(),
                trust: config.trust.clone(),
                commands: command_tx,
                events,
                published: watching,
                feeds: Followers::new(feed_news),
                gate,
                folder_sizes: Arc::default(),
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
        status.hashed = self.inner.store.hash_stats();
        (status.quota, status.min_free) = self.inner.store.limits();
        status
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.inner.events.subscribe())
    }

    /// Shares a file or folder where it lies; await the result. A node in memory shares bytes only.
    pub fn share(&self, path: impl Into<PathBuf>) -> Share {
        Share::new(self.clone(), path.into())
    }

    /// Shares bytes under a name, from a copy in the node's own store; await the result.
    pub fn share_bytes(&self, name: impl Into<String>, bytes: impl Into<Bytes>) -> Share {
        Share::of_bytes(self.clone(), bytes.into()).name(name)
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

    /// Changes how many bytes of verified blocks the node keeps in memory; 0 turns the cache off. The blocks used most
    /// stay, as many as fit.
    pub fn set_cache_size(&self, bytes: u64) {
        self.inner.store.set_cache_size(bytes);
    }

    /// Stops the node: ends what is under way, keeping what was verified, and closes all connections. Its data directory
    /// is free for another node when the other handles of this one are dropped, too.
    pub async fn shutdown(self) {
        let inner = Arc::clone(&self.inner);
        // It fails only with the runtime.
        let _ = blocking(move || inner.follower.stop()).await;
        self.inner.feeds.stop().await;
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

    fn gate(&self) -> &Arc<Gate> {
        &self.inner.gate
    }

    /// Whether it writes nothing to any disk.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.inner.in_memory
    }

    pub(crate) fn trust(&self) -> &TrustPolicy {
        &self.inner.trust
    }

    pub(crate) fn scratch(&self) -> &Path {
        self.inner.store.fetched_dir()
    }

    async fn follow(&self, share: Followed) -> Result<(), NodeStopped> {
        let inner = Arc::clone(&self.inner);
        let follows = blocking(move || inner.follower.follow(share)).await?;
        follows.then_some(()).ok_or(NodeStopped)
    }

    /// Keeps up with what is at these paths no longer.
    async fn unfollow(&self, paths: Vec<PathBuf>) -> Result<(), NodeStopped> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            for path in paths {
                inner.follower.unfollow(path);
            }
        })
        .await
    }

    async fn send(&self, command: Command) -> Result<(), NodeStopped> {
        self.inner
            .commands
            .send(command)
            .await
            .map_err(|_| NodeStopped)
    }

    /// For what the driver would find out by itself, only later.
    fn try_send(&self, command: Command) {
        let _ = self.inner.commands.try_send(command);
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

/// The data directory, as the store knows it. A store in memory has nothing else in it.
fn store_dir(config: &Config) -> PathBuf {
    if config.storage.in_memory {
        PathBuf::from("/")
    } else {
        config.data_dir.clone()
    }
}

/// The keys that the node was given, or those it had before, or new ones.
fn keys_of(config: &Config) -> Result<Arc<Keys>, KeyError> {
    match &config.keys {
        Some(keys) => Ok(Arc::clone(keys)),
        None if config.storage.in_memory => Keys::generate().map(Arc::new),
        None => Keys::load_or_create(&config.data_dir).map(Arc::new),
    }
}

/// What a node needs from the disk to start.
struct Opened {
    keys: Arc<Keys>,
    store: Store,
    gate: Gate,
    catalog: Catalog,
    peers: Peers,
    watched: Vec<Followed>,
}

impl Opened {
    fn open(config: &Config) -> Result<Self, StartError> {
        let keys = keys_of(config)?;
        let options = StoreOptions {
            dir: store_dir(config),
            cache_bytes: config.limits.cache,
            quota: config.storage.quota,
            min_free: config.storage.min_free,
            evict: config.storage.evict,
        };
        let store = if config.storage.in_memory {
            Store::in_memory(options)?
        } else {
            Store::open(options)?
        };
        let mut catalog = Catalog::default();
        let ours = keys.publisher();
        let mut watched = Vec::new();
        let shares = store.shares()?;
        let gate = Gate::of(&store, &shares)?;
        let mut shares = shares;
        // Of several of the same content the last counts.
        shares.sort_by_key(|(_, share)| share.audience == crate::Audience::Everyone);
        for (path, share) in shares {
            // Within a share that is not for everyone there is nothing for everyone.
            let is_closed = share.audience == crate::Audience::Everyone && !gate.is_open_at(&path);
            if !share.unlisted && !is_closed {
                let signed = store.manifests(share.id)?.into_iter();
                // The same bytes may be shared unlisted as well, and the manifest have the name they have there.
                let by_us = signed.filter(|manifest| {
                    let claims = manifest.claims();
                    claims.publisher == ours && claims.name == share.name
                });
                by_us.for_each(|manifest| {
                    catalog.insert(manifest, share.audience.clone());
                });
            }
            if share.watched {
                watched.push(Followed::again(path, share));
            }
        }
        let mut peers = Peers::default();
        if !config.storage.in_memory {
            address_book::read(&config.data_dir, &mut peers, clock().1);
        }
        Ok(Self {
            keys,
            store,
            gate,
            catalog,
            peers,
            watched,
        })
    }
}
