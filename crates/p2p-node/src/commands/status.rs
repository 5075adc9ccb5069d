//! `status`: the numbers now.

use super::{Outbox, texts};
use crate::context::Context;
use crate::control::protocol::{CacheReply, Reply, StatusReply, StorageReply};
use crate::exit::Failure;

pub async fn execute(context: &Context, out: &Outbox) -> Result<(), Failure> {
    let shares = context.node.shares().await?.len();
    out.send(Reply::Status(Box::new(describe(
        context.node.status(),
        shares,
    ))))
    .await
}

fn describe(status: p2p_core::Status, shares: usize) -> StatusReply {
    StatusReply {
        peer: status.peer.to_string(),
        publisher: status.publisher.to_string(),
        agent: status.agent,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: status.uptime.as_secs(),
        peers_connected: status.peers_connected,
        peers_known: status.peers_known,
        shares: shares as u64,
        announced: status.announced,
        announce_due: status.announce_due,
        announce_failed: status.announce_failed,
        fetches: status.fetches,
        uploads: status.uploads,
        up_bytes: status.up_bytes,
        down_bytes: status.down_bytes,
        cache: CacheReply {
            hits: status.cache.hits,
            misses: status.cache.misses,
            evictions: status.cache.evictions,
            bytes: status.cache.bytes,
            capacity: status.cache.capacity,
        },
        storage: StorageReply {
            downloads: status.storage.downloads,
            partial: status.storage.partial,
            objects: status.storage.objects,
            index: status.storage.index,
        },
        dht_mode: status.dht_mode,
        dht_peers: status.dht_peers,
        addresses: texts(&status.addresses),
    }
}
