//! `status`: the numbers now.

use super::{Outbox, texts};
use crate::context::Context;
use crate::control::protocol::{CacheReply, HashedReply, Reply, StatusReply, StorageReply};
use crate::exit::Failure;

pub async fn execute(context: &Context, out: &Outbox) -> Result<(), Failure> {
    let shares = context.node.share_count().await?;
    out.send(Reply::Status(Box::new(describe(
        context.node.status(),
        shares,
    ))))
    .await
}

fn describe(status: p2p_core::Status, shares: u64) -> StatusReply {
    StatusReply {
        peer: status.peer.to_string(),
        publisher: status.publisher.to_string(),
        agent: status.agent,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: status.uptime.as_secs(),
        peers_connected: status.peers_connected,
        peers_known: status.peers_known,
        shares,
        announced: status.announced,
        announce_due: status.announce_due,
        announce_failed: status.announce_failed,
        announce_lag_seconds: status.announce_lag.as_secs(),
        fetches: status.fetches,
        uploads: status.uploads,
        up_bytes: status.up_bytes,
        down_bytes: status.down_bytes,
        cache: CacheReply {
            hits: status.cache.hits,
            joined: status.cache.joined,
            hit_rate: status.cache.hit_rate(),
            misses: status.cache.misses,
            evictions: status.cache.evictions,
            bytes: status.cache.bytes,
            capacity: status.cache.capacity,
        },
        storage: storage(&status.storage, status.quota, status.min_free),
        hashed: HashedReply {
            files: status.hashed.files,
            bytes: status.hashed.bytes,
        },
        dht_mode: status.dht_mode,
        dht_peers: status.dht_peers,
        addresses: texts(&status.addresses),
    }
}

pub fn storage(usage: &p2p_core::Usage, quota: u64, min_free: u64) -> StorageReply {
    StorageReply {
        downloads: usage.downloads,
        partial: usage.partial,
        objects: usage.objects,
        index: usage.index,
        reserved: usage.reserved,
        used: usage.total(),
        quota,
        min_free,
        over_quota: usage.total() > quota,
    }
}
