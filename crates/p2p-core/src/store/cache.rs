//! Verified blocks in memory: the ones asked for most.
//!
//! A block is kept from its second request on. One that is asked for once, as nearly all are while a large file goes to
//! one peer, would only take memory from those that are asked for again. Among those that were asked for twice, moka's
//! TinyLFU decides. `docs/benchmarks.md` has both beside TinyLFU alone and beside an LRU.
//!
//! Requests for a block that is being read wait for that read. If it fails, each of them reads for itself: what failed may
//! have been the other's file.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::shared::Guarded;
use crate::content::{BlockIndex, ContentId, VerifiedBlock};

/// How the cache of blocks does. Counts are since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Blocks answered from memory.
    pub hits: u64,
    /// Blocks answered by a read for somebody else that was under way.
    pub joined: u64,
    /// Blocks read from the disk.
    pub misses: u64,
    /// Bytes in the cache.
    pub bytes: u64,
    /// Bytes it may hold.
    pub capacity: u64,
    /// Blocks dropped for want of room: what made room for others, and what was asked for too rarely to be let in.
    pub evictions: u64,
}

impl CacheStats {
    /// The part of all blocks that were answered without a read of their own, from 0 to 1; `None` before the first.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn hit_rate(&self) -> Option<f64> {
        let spared = self.hits.saturating_add(self.joined);
        let all = spared.saturating_add(self.misses);
        (all > 0).then(|| spared as f64 / all as f64)
    }
}

/// Blocks remembered as asked for once: 16 GiB of content, in about 8 MiB.
const REMEMBERED: u64 = 65_536;

/// Uses that a block is vouched for with when the cache is made anew: TinyLFU counts up to 15, and halves.
const VOUCHED: u32 = 8;

type Key = (ContentId, u32);

/// A block in the cache.
struct Kept {
    /// Taken out when it is evicted: moka's tables free what they held only some hundred evictions later.
    block: Guarded<Option<VerifiedBlock>>,
    weight: u32,
    /// How often it was found there.
    uses: AtomicU32,
}

type Blocks = Cache<Key, Arc<Kept>>;

/// The cache. It cannot hold anything but verified blocks, so it needs no invalidation: a block of an id stays right
/// whatever happens to the file it was read from.
pub(super) struct BlockCache {
    /// Exchanged as a whole when the size changes, as moka's cannot be changed. The lock is held to copy the handle only.
    blocks: RwLock<Blocks>,
    /// Held while the size is changed.
    resizing: Mutex<()>,
    /// What has been asked for once. The oldest goes: by frequency, nothing new would get in once it is full.
    asked: Cache<Key, ()>,
    reads: Reads,
    hits: AtomicU64,
    joined: AtomicU64,
    misses: AtomicU64,
    evictions: Arc<AtomicU64>,
}

impl BlockCache {
    pub(super) fn new(capacity: u64) -> Self {
        let evictions = Arc::default();
        Self {
            blocks: RwLock::new(build(capacity, &evictions)),
            resizing: Mutex::default(),
            asked: Cache::builder()
                .max_capacity(REMEMBERED)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            reads: Reads::default(),
            hits: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions,
        }
    }

    /// A block from memory, or by `read`, which runs with no lock held, and once however many ask for the block meanwhile.
    pub(super) fn block<E>(
        &self,
        id: ContentId,
        index: BlockIndex,
        read: impl FnOnce() -> Result<VerifiedBlock, E>,
    ) -> Result<VerifiedBlock, E> {
        let key = (id, index.get());
        loop {
            if let Some(found) = self.find(&key) {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(found);
            }
            match self.reads.join(key) {
                Turn::Wait(running) => {
                    if let Some(block) = running.wait() {
                        self.joined.fetch_add(1, Ordering::Relaxed);
                        return Ok(block.clone());
                    }
                }
                Turn::Read(mut turn) => {
                    // Whoever read it last may have put it there since it was looked for. A second look at what is not
                    // there would count as a second request.
                    if self.blocks().contains_key(&key)
                        && let Some(found) = self.find(&key)
                    {
                        turn.block = Some(found.clone());
                        self.hits.fetch_add(1, Ordering::Relaxed);
                        return Ok(found);
                    }
                    self.misses.fetch_add(1, Ordering::Relaxed);
                    let block = read()?;
                    self.offer(key, &block);
                    turn.block = Some(block.clone());
                    return Ok(block);
                }
            }
        }
    }

    fn blocks(&self) -> Blocks {
        self.blocks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn find(&self, key: &Key) -> Option<VerifiedBlock> {
        let kept = self.blocks().get(key)?;
        kept.uses.fetch_add(1, Ordering::Relaxed);
        let block = kept.block.lock();
        block.clone()
    }

    /// A block was read for a request: kept, if it is not the first.
    fn offer(&self, key: Key, block: &VerifiedBlock) {
        if self.asked.remove(&key).is_none() {
            return self.asked.insert(key, ());
        }
        let blocks = self.blocks();
        keep(&blocks, key, block, 0);
        // Left to itself, moka lets hundreds of blocks wait before it weighs them.
        blocks.run_pending_tasks();
    }

    /// Changes how many bytes the cache may hold. The blocks used most stay, as many as fit.
    pub(super) fn set_capacity(&self, capacity: u64) {
        let _one = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.blocks();
        if old.policy().max_capacity() == Some(capacity) {
            return;
        }
        let mut kept: Vec<(Key, Arc<Kept>)> = old.iter().map(|(key, kept)| (*key, kept)).collect();
        kept.sort_by_key(|(_, kept)| Reverse(kept.uses.load(Ordering::Relaxed)));
        let before = kept.len();
        let mut room = capacity;
        kept.retain(|(_, kept)| match room.checked_sub(u64::from(kept.weight)) {
            Some(rest) => {
                room = rest;
                true
            }
            None => false,
        });
        let left_behind = before.saturating_sub(kept.len());
        self.evictions
            .fetch_add(left_behind as u64, Ordering::Relaxed);
        let new = build(capacity, &self.evictions);
        // The most used last, so that it is the last that age alone would drop.
        for (key, kept) in kept.iter().rev() {
            let uses = kept.uses.load(Ordering::Relaxed);
            if let Some(block) = &*kept.block.lock() {
                keep(&new, *key, block, uses / 2);
            }
            new.run_pending_tasks();
        }
        for (key, kept) in &kept {
            for _ in 0..kept.uses.load(Ordering::Relaxed).min(VOUCHED) {
                new.get(key);
            }
            new.run_pending_tasks();
        }
        *self.blocks.write().unwrap_or_else(PoisonError::into_inner) = new;
        for (_, kept) in &old {
            *kept.block.lock() = None;
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        let blocks = self.blocks();
        blocks.run_pending_tasks();
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            joined: self.joined.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: blocks.weighted_size(),
            capacity: blocks.policy().max_capacity().unwrap_or_default(),
            evictions: self.evictions.load(Ordering::Relaxed),
        }
    }
}

fn build(capacity: u64, evictions: &Arc<AtomicU64>) -> Blocks {
    let counter = Arc::clone(evictions);
    Cache::builder()
        .max_capacity(capacity)
        .weigher(|_, kept: &Arc<Kept>| kept.weight)
        .eviction_listener(move |_, kept, cause| {
            *kept.block.lock() = None;
            if cause == RemovalCause::Size {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
        .build()
}

fn keep(blocks: &Blocks, key: Key, block: &VerifiedBlock, uses: u32) {
    let kept = Kept {
        block: Guarded::new(Some(block.clone())),
        weight: u32::try_from(block.bytes().len()).unwrap_or(u32::MAX),
        uses: AtomicU32::new(uses),
    };
    blocks.insert(key, Arc::new(kept));
}

/// What a read came to, once it has ended: nothing if it failed.
type Running = OnceLock<Option<VerifiedBlock>>;

/// The reads under way: no more than there are threads that read.
#[derive(Default)]
struct Reads(Guarded<HashMap<Key, Arc<Running>>>);

/// What to do for a block that is not in the cache.
enum Turn<'a> {
    /// Somebody reads it.
    Wait(Arc<Running>),
    /// Read it, and leave it in here for those who wait.
    Read(Reading<'a>),
}

/// A read under way. Whatever becomes of it, those who wait for it are told when this is dropped.
struct Reading<'a> {
    reads: &'a Reads,
    key: Key,
    block: Option<VerifiedBlock>,
}

impl Reads {
    fn join(&self, key: Key) -> Turn<'_> {
        match self.0.lock().entry(key) {
            Entry::Occupied(running) => Turn::Wait(Arc::clone(running.get())),
            Entry::Vacant(free) => {
                free.insert(Arc::default());
                Turn::Read(Reading {
                    reads: self,
                    key,
                    block: None,
                })
            }
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let running = self.reads.0.lock().remove(&self.key);
        if let Some(running) = running {
            // Only the one who reads sets it, and once.
            let _ = running.set(self.block.take());
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
