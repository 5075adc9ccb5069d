//! The settings of a node: plain data grouped by concern, with defaults that suit a desktop on a home network.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    content::{Address, TrustPolicy},
    node::{Keys, NetworkKey},
    store::Evict,
};

/// Settings of a [`Node`](crate::Node).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where keys, the index, owned content and remembered peers are kept. One node per directory.
    pub data_dir: PathBuf,
    /// How the node listens and finds peers.
    pub network: NetworkConfig,
    /// What the node may use of the machine and the line.
    pub limits: Limits,
    /// What the node may use of the disk.
    pub storage: StorageConfig,
    /// Whose content is fetched.
    pub trust: TrustPolicy,
    /// The keys of the node; `None`: those in the data directory, or new ones for a node in memory.
    pub keys: Option<Arc<Keys>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            network: NetworkConfig::default(),
            limits: Limits::default(),
            storage: StorageConfig::default(),
            trust: TrustPolicy::Any,
            keys: None,
        }
    }
}

/// The quota of a node in memory unless it is given another.
const MEMORY_QUOTA: u64 = 1_000_000_000;

impl Config {
    /// The same settings with another data directory.
    #[must_use]
    pub fn with_data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = dir.into();
        self
    }

    /// The same settings for a node that writes nothing to any disk: what it shares and fetches is in memory, within a
    /// quota of 1 GB (set [`StorageConfig::quota`] after this for another), and gone when it stops. It has new keys,
    /// unless [`Config::keys`] has some.
    ///
    /// Such a node shares bytes ([`Node::share_bytes`](crate::Node::share_bytes)), not files, and keeps what it fetches
    /// for [`Node::read`](crate::Node::read); a fetch to a path is refused.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.storage.in_memory = true;
        self.storage.quota = MEMORY_QUOTA;
        self.storage.min_free = 0;
        self
    }

    /// The same settings with these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: Keys) -> Self {
        self.keys = Some(Arc::new(keys));
        self
    }

    /// Every problem of these settings, in words.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let name = &self.network.network;
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            problems.push(format!(
                "network.network: {name:?} must be 1 to 64 letters, digits, '-', '_' or '.'"
            ));
        }
        for address in &self.network.bootstrap {
            if address.node().is_none() {
                problems.push(format!(
                    "network.bootstrap: {address} does not end in /p2p/<peer id>"
                ));
            }
        }
        let listen = &self.network.listen;
        if self.network.key.is_some() && !listen.is_empty() && !listen.iter().any(Address::is_tcp) {
            problems.push("network.listen: a private network needs an address of TCP".into());
        }
        if self.limits.max_peers < 4 {
            problems.push("limits.max_peers: at least 4 are needed".into());
        }
        if self.limits.upload_slots == 0 {
            problems.push("limits.upload_slots: at least 1 is needed".into());
        }
        for (key, rate) in [
            ("limits.upload", self.limits.upload),
            ("limits.download", self.limits.download),
        ] {
            if rate.is_some_and(|rate| rate < MIN_RATE) {
                problems.push(format!(
                    "{key}: at least {MIN_RATE} bytes a second are needed"
                ));
            }
        }
        problems
    }
}

/// The lowest rate limit: below it not even one block arrives before its deadline.
const MIN_RATE: u64 = 16 * 1024;

/// How a node listens and finds peers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NetworkConfig {
    /// Where to listen, TCP and QUIC. Port 0: any free port.
    pub listen: Vec<Address>,
    /// Peers to connect to at the start, each address ending in `/p2p/<peer id>`.
    pub bootstrap: Vec<Address>,
    /// Whether to find and be found on the local network by multicast DNS.
    pub mdns: bool,
    /// Part taken in the distributed hash table.
    pub dht: DhtMode,
    /// Names the DHT's protocol (`/NAME/kad/1.0.0`): networks of different names never mix.
    pub network: String,
    /// Where others reach this node, when whoever runs it knows: a forwarded port, or a relay's public address. Nothing is
    /// asked of anybody about these. Those who hear of the node from others dial its IP addresses, not a DNS name.
    pub external: Vec<Address>,
    /// Whether to ask the router for port mappings.
    pub upnp: bool,
    /// Part taken in relaying.
    pub relay: RelayMode,
    /// Whether content may go through a relay when there is no other way to a peer. Both ends must allow it; by default a
    /// relay is for meeting, and what comes after goes directly or not at all.
    pub relay_data: bool,
    /// What a node that relays gives to others.
    pub relay_limits: RelayLimits,
    /// Whether no packet may leave private address ranges.
    pub lan_only: bool,
    /// The key of a private network: only nodes that have the same can connect. It protects TCP, and QUIC has nothing
    /// like it; so with a key the node neither listens nor dials by QUIC.
    pub key: Option<NetworkKey>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let listen = ["/ip4/0.0.0.0/tcp/4711", "/ip4/0.0.0.0/udp/4711/quic-v1"];
        Self {
            listen: listen.iter().filter_map(|a| a.parse().ok()).collect(),
            bootstrap: Vec::new(),
            mdns: true,
            dht: DhtMode::Auto,
            network: "p2p-core".into(),
            external: Vec::new(),
            upnp: true,
            relay: RelayMode::Client,
            relay_data: false,
            relay_limits: RelayLimits::default(),
            lan_only: false,
            key: None,
        }
    }
}

/// Part taken in the distributed hash table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DhtMode {
    /// A client that becomes a server once others have shown that they can reach it.
    #[default]
    Auto,
    /// Keeps records for others from the start.
    Server,
    /// Looks up and announces, keeps nothing for others.
    Client,
    /// Takes no part.
    Off,
}

/// Part taken in relaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RelayMode {
    /// None.
    Off,
    /// Uses relays of others to meet peers behind NAT.
    #[default]
    Client,
    /// Also relays for others.
    Server,
}

/// What a node that relays gives to others.
///
/// Source: <https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayLimits {
    /// Peers that a place is kept for.
    pub places: u32,
    /// Pairs of peers that are relayed between at once.
    pub circuits: u32,
    /// Bytes that each pair may send, both ways together, before it has to begin anew.
    pub circuit_bytes: u64,
    /// How long each pair may be connected before it has to begin anew.
    pub circuit_time: Duration,
}

impl Default for RelayLimits {
    /// Enough to meet and to punch holes, and little else: what the specification suggests.
    fn default() -> Self {
        Self {
            places: 128,
            circuits: 16,
            circuit_bytes: 128 * 1024,
            circuit_time: Duration::from_secs(120),
        }
    }
}

/// What a node may use of the machine and the line.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of content sent a second, all peers together; `None`: as fast as the line.
    pub upload: Option<u64>,
    /// Bytes of content received a second.
    pub download: Option<u64>,
    /// Whether peers on loopback and private addresses are exempt from `upload` and `download`.
    pub lan_exempt: bool,
    /// Connections at once.
    pub max_peers: u32,
    /// Requests for blocks served at once.
    pub upload_slots: u32,
    /// Bytes of memory that transfers may use beside the cache.
    pub memory: u64,
    /// Bytes of verified hot blocks kept in memory.
    pub cache: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload: None,
            download: None,
            lan_exempt: true,
            max_peers: 256,
            upload_slots: 16,
            memory: 256_000_000,
            cache: 64_000_000,
        }
    }
}

/// What a node may use of the disk, or of memory if it keeps everything there.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StorageConfig {
    /// Bytes for downloads, index and outlines together.
    pub quota: u64,
    /// Bytes that stay free on the file system.
    pub min_free: u64,
    /// Which complete downloads make room for others.
    pub evict: Evict,
    /// Whether content and index are kept in memory, and nothing on a disk. See [`Config::in_memory`].
    pub in_memory: bool,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            quota: 50_000_000_000,
            min_free: 1_000_000_000,
            evict: Evict::default(),
            in_memory: false,
        }
    }
}
