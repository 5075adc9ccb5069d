//! The cache alone: what is kept, what is read once, and what it weighs.

use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::content::{Outline, VerifiedBlock};

/// A test that waits for longer has failed.
const DEADLINE: Duration = Duration::from_secs(30);

fn named(number: u64) -> ContentId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ContentId::from_bytes(bytes)
}

/// A block of so many bytes. Whose it is makes no difference to the cache.
fn block(len: usize) -> VerifiedBlock {
    verified(Bytes::from(vec![7; len]))
}

fn verified(bytes: Bytes) -> VerifiedBlock {
    let (_, outline) = Outline::of(&bytes).unwrap();
    let first = outline.geometry().block(0).unwrap();
    outline.verify(first, bytes).unwrap()
}

/// Asks for the block of this number: whether it had to be read.
fn ask(cache: &BlockCache, number: u64, block: &VerifiedBlock) -> bool {
    let mut was_read = false;
    let found: Result<_, ()> = cache.block(named(number), block.index(), || {
        was_read = true;
        Ok(block.clone())
    });
    assert!(found.is_ok());
    was_read
}

fn waiting_for(cache: &BlockCache, key: Key) -> usize {
    // Besides the table's own.
    let reads = cache.reads.0.lock();
    reads
        .get(&key)
        .map_or(0, |running| Arc::strong_count(running) - 1)
}

/// Returns once so many wait for the read of `key`.
fn wait_for(cache: &BlockCache, key: Key, count: usize) {
    let start = Instant::now();
    while waiting_for(cache, key) < count {
        assert!(start.elapsed() < DEADLINE, "not all have come");
        thread::yield_now();
    }
}

#[test]
fn those_who_ask_while_a_block_is_read_wait_for_it() {
    let cache = BlockCache::new(1 << 20);
    let block = block(1000);
    let key = (named(1), 0);
    let reads = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let found: Result<_, ()> = cache.block(key.0, block.index(), || {
                    wait_for(&cache, key, 7);
                    reads.fetch_add(1, Ordering::Relaxed);
                    Ok(block.clone())
                });
                assert_eq!(found.unwrap().bytes(), block.bytes());
            });
        }
    });
    let stats = cache.stats();
    assert_eq!(reads.into_inner(), 1);
    assert_eq!((stats.misses, stats.joined), (1, 7));
    assert_eq!(stats.hit_rate(), Some(7.0 / 8.0));
    assert_eq!(waiting_for(&cache, key), 0);
    assert!(cache.reads.0.lock().is_empty(), "nothing is left of it");
}

#[test]
fn a_read_that_fails_fails_for_who_made_it() {
    let cache = BlockCache::new(1 << 20);
    let block = block(1000);
    let key = (named(1), 0);
    for panics in [false, true] {
        let (attempts, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            let readers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let found = cache.block(key.0, block.index(), || {
                            if attempts.fetch_add(1, Ordering::Relaxed) > 0 {
                                return Ok(block.clone());
                            }
                            wait_for(&cache, key, 7);
                            assert!(!panics, "a reader that panics");
                            Err(())
                        });
                        if found.is_err() {
                            failures.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            let panicked = readers.into_iter().filter_map(|r| r.join().err()).count();
            assert_eq!(panicked, usize::from(panics));
        });
        assert_eq!(failures.into_inner(), usize::from(!panics));
        assert!(attempts.into_inner() >= 2, "nobody tried again");
        assert!(cache.reads.0.lock().is_empty());
        cache.blocks().invalidate_all();
        cache.asked.invalidate_all();
    }
}

#[test]
fn what_is_asked_for_once_is_not_kept() {
    let block = block(1000);
    let cache = BlockCache::new(16_000);
    for _ in 0..6 {
        for number in 0..16 {
            ask(&cache, number, &block);
        }
    }
    let full = cache.stats();
    assert_eq!(full.bytes, 16_000);
    // A file of 250 times the cache is read through, and again by a second peer. The others go on meanwhile.
    let mut lost = 0;
    for _ in 0..2 {
        for number in 0..4000 {
            assert!(ask(&cache, 1000 + number, &block));
            if number % 10 == 0 {
                lost += usize::from(ask(&cache, number / 10 % 16, &block));
            }
        }
    }
    // The sketch of frequencies is one of chances.
    assert!(lost <= 40, "{lost} of 800 had to be read again");
}

#[test]
fn what_is_new_gets_in_however_much_was_asked_for_once() {
    let block = block(100);
    let cache = BlockCache::new(10_000);
    for number in 0..REMEMBERED + 10_000 {
        ask(&cache, number, &block);
    }
    for round in 0..3 {
        let was_read = ask(&cache, u64::MAX, &block);
        assert_eq!(was_read, round < 2, "in round {round}");
    }
}

#[test]
fn a_smaller_cache_keeps_what_is_used_most() {
    let block = block(1000);
    let cache = BlockCache::new(100_000);
    for number in 0..100 {
        // The higher the number, the more uses.
        for _ in 0..number + 3 {
            ask(&cache, number, &block);
        }
    }
    assert_eq!(cache.stats().bytes, 100_000);
    cache.set_capacity(10_500);
    let stats = cache.stats();
    assert_eq!((stats.bytes, stats.capacity), (10_000, 10_500));
    assert_eq!(stats.evictions, 90);
    assert!((90..100).all(|number| !ask(&cache, number, &block)));
    // A file that is read through twice does not push them out of the new one either.
    for _ in 0..2 {
        for number in 1000..1200 {
            ask(&cache, number, &block);
        }
    }
    let kept = (90..100).filter(|n| !ask(&cache, *n, &block)).count();
    assert!(kept >= 7, "only {kept} of 10 are left");

    cache.set_capacity(0);
    assert_eq!(cache.stats().bytes, 0);
    assert!(ask(&cache, 99, &block) && ask(&cache, 99, &block) && ask(&cache, 99, &block));
    cache.set_capacity(100_000);
    (0..2).for_each(|_| _ = ask(&cache, 99, &block));
    assert!(!ask(&cache, 99, &block));
}

/// Memory that is counted as long as it lives.
struct Counted(Vec<u8>, Arc<AtomicU64>);

impl Counted {
    fn block(len: usize, alive: &Arc<AtomicU64>) -> VerifiedBlock {
        alive.fetch_add(len as u64, Ordering::Relaxed);
        verified(Bytes::from_owner(Self(vec![7; len], Arc::clone(alive))))
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len() as u64, Ordering::Relaxed);
    }
}

/// The case in which moka once stopped evicting (its issue 590): many write, half of them keys that were there before. Here
/// the size is changed besides.
#[test]
fn memory_is_bounded_while_many_write() {
    const WRITERS: u64 = 8;
    const LEN: usize = 16 << 10;
    const CAPACITY: u64 = 64 * LEN as u64;
    /// What each writer has in hand, and what it has written and nobody has weighed yet.
    const SLACK: u64 = 4 * WRITERS * LEN as u64;
    let cache = BlockCache::new(CAPACITY);
    let alive = Arc::new(AtomicU64::new(0));
    let most = AtomicU64::new(0);
    let start = Barrier::new(WRITERS as usize);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (cache, alive, most, start) = (&cache, &alive, &most, &start);
            scope.spawn(move || {
                start.wait();
                for turn in 0..4000_u64 {
                    // Half of the turns are new numbers, the rest a few that all writers share.
                    let number = if turn % 2 == 0 {
                        1_000_000 * (writer + 1) + turn / 8
                    } else {
                        turn.wrapping_mul(2_654_435_761) % 200
                    };
                    let index = verified(Bytes::from_static(b"a")).index();
                    let read = || Ok::<_, ()>(Counted::block(LEN, alive));
                    cache.block(named(number), index, read).unwrap();
                    if writer == 0 && turn % 500 == 499 {
                        cache.set_capacity(CAPACITY / (1 + turn / 500 % 2));
                    }
                    most.fetch_max(alive.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            });
        }
    });
    let stats = cache.stats();
    assert!(stats.evictions > 0 && stats.hits > 0, "{stats:?}");
    assert!(stats.bytes <= stats.capacity, "{stats:?}");
    let most = most.into_inner();
    assert!(most <= CAPACITY + SLACK, "{most} bytes at once");
    // Nothing but the cache holds any of it now.
    cache.set_capacity(0);
    let left = alive.load(Ordering::Relaxed);
    assert!(left <= SLACK, "{left} bytes are left of it");
}
