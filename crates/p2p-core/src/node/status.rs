//! Numbers of a node, as the driver publishes them.

use std::{sync::Arc, time::Duration};

use crate::{
    content::{Address, NodeId, PublisherKey},
    peers::PeerInfo,
    store::{CacheStats, HashStats, Usage},
};

/// How a node stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Its peer id.
    pub peer: NodeId,
    /// The key that signs what it shares.
    pub publisher: PublisherKey,
    /// The name and version it gives itself.
    pub agent: String,
    /// Time since its start.
    pub uptime: Duration,
    /// Where it can be reached, each address ending in its id.
    pub addresses: Vec<Address>,
    /// Active peers.
    pub peers_connected: u64,
    /// Peers remembered that are not active now.
    pub peers_known: u64,
    /// Ids whose record the DHT's servers hold; the words of public names count as well.
    pub announced: u64,
    /// Ids that are to be announced now, for the first time or again, and wait for their turn.
    pub announce_due: u64,
    /// Ids whose last announcement failed; they are tried again.
    pub announce_failed: u64,
    /// How long the one of them that waits longest has been due.
    pub announce_lag: Duration,
    /// Fetches under way.
    pub fetches: u64,
    /// Requests of others being served.
    pub uploads: u64,
    /// Bytes of content sent since the start.
    pub up_bytes: u64,
    /// Bytes of content received since the start.
    pub down_bytes: u64,
    /// `server`, `client` or `off`.
    pub dht_mode: String,
    /// Servers in the routing table.
    pub dht_peers: u64,
    /// How the cache of hot blocks does.
    pub cache: CacheStats,
    /// Bytes on the disk that count against the quota.
    pub storage: Usage,
    /// What was hashed to be shared since the start.
    pub hashed: HashStats,
    /// Bytes that may count; when more do, nothing new is fetched.
    pub quota: u64,
    /// Bytes of the disk that are to stay free.
    pub min_free: u64,
}

impl Status {
    pub(super) fn new(peer: NodeId, publisher: PublisherKey, agent: String) -> Self {
        Self {
            peer,
            publisher,
            agent,
            uptime: Duration::ZERO,
            addresses: Vec::new(),
            peers_connected: 0,
            peers_known: 0,
            announced: 0,
            announce_due: 0,
            announce_failed: 0,
            announce_lag: Duration::ZERO,
            fetches: 0,
            uploads: 0,
            up_bytes: 0,
            down_bytes: 0,
            dht_mode: "off".into(),
            dht_peers: 0,
            cache: CacheStats::default(),
            storage: Usage::default(),
            hashed: HashStats::default(),
            quota: 0,
            min_free: 0,
        }
    }
}

/// What the driver tells all handles, the latest wins.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub(super) peers: Arc<Vec<PeerInfo>>,
    pub(super) addresses: Arc<Vec<Address>>,
    pub(super) status: Arc<Status>,
}
