//! Verified blocks in memory: the ones asked for most.
//!
//! A block is kept from its second request on. One that is asked for once, as nearly all are while a large file goes to
//! one peer, would only take memory from those that are asked for again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::notification::RemovalCause;
use moka::sync::Cache;

use crate::content::{BlockIndex, ContentId, VerifiedBlock};

/// How the cache of blocks does. Counts are since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Blocks answered from memory.
    pub hits: u64,
    /// Blocks read from the disk instead.
    pub misses: u64,
    /// Bytes in the cache.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity: u64,
    /// Blocks that made room for others.
    pub evictions: u64,
}

/// Blocks remembered as asked for once: 16 GiB of content, in about 8 MiB.
const REMEMBERED: u64 = 65_536;

/// The cache. It cannot hold anything but verified blocks, so it needs no invalidation: a block of an id stays right
/// whatever happens to the file it was read from.
pub(super) struct BlockCache {
    blocks: Cache<(ContentId, u32), VerifiedBlock>,
    /// What has been asked for once.
    asked: Cache<(ContentId, u32), ()>,
    capacity: u64,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: Arc<AtomicU64>,
}

impl BlockCache {
    pub(super) fn new(capacity: u64) -> Self {
        let evictions = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&evictions);
        let blocks = Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, block: &VerifiedBlock| {
                u32::try_from(block.bytes().len()).unwrap_or(u32::MAX)
            })
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self {
            blocks,
            asked: Cache::new(if capacity == 0 { 0 } else { REMEMBERED }),
            capacity,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions,
        }
    }

    pub(super) fn block(&self, id: ContentId, index: BlockIndex) -> Option<VerifiedBlock> {
        let found = self.blocks.get(&(id, index.get()));
        let counter = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// A block was read for a request: kept, if it is not the first.
    pub(super) fn offer(&self, block: &VerifiedBlock) {
        let key = (block.content(), block.index().get());
        if self.asked.remove(&key).is_some() {
            self.blocks.insert(key, block.clone());
        } else {
            self.asked.insert(key, ());
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        self.blocks.run_pending_tasks();
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.blocks.weighted_size(),
            capacity: self.capacity,
            evictions: self.evictions.load(Ordering::Relaxed),
        }
    }
}
