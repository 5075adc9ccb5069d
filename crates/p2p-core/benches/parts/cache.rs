//! The cache of blocks: found, not found, and taken in.

use std::convert::Infallible;
use std::hint::black_box;

use bytes::Bytes;
use criterion::Criterion;
use p2p_core::BLOCK_LEN;
use p2p_core::bench::cache::Blocks;
use p2p_core::content::{Outline, VerifiedBlock};

use crate::noise;

/// Blocks of the content: four times what the cache holds.
const BLOCKS: usize = 64;
const CAPACITY: u64 = (16 * BLOCK_LEN) as u64;

fn blocks() -> Vec<VerifiedBlock> {
    let bytes = Bytes::from(noise(BLOCKS * BLOCK_LEN));
    let (_, outline) = Outline::of(&bytes).expect("a small content");
    let verify = |index| {
        let start = usize::try_from(outline.geometry().offset_of(index)).expect("a small content");
        let bytes = bytes.slice(start..start + BLOCK_LEN);
        outline.verify(index, bytes).expect("its own block")
    };
    outline.geometry().indices().map(verify).collect()
}

/// Asks for a block that needs no reading.
fn ask(cache: &Blocks, block: &VerifiedBlock) -> VerifiedBlock {
    let found: Result<_, Infallible> =
        cache.block(block.content(), block.index(), || Ok(block.clone()));
    match found {
        Ok(block) => block,
        Err(never) => match never {},
    }
}

pub fn cache(c: &mut Criterion) {
    let blocks = blocks();
    let mut group = c.benchmark_group("cache");

    let warm = Blocks::new(CAPACITY);
    let first = &blocks[0];
    // Kept from the second request on.
    ask(&warm, first);
    ask(&warm, first);
    group.bench_function("hit", |b| {
        b.iter(|| ask(&warm, black_box(first)));
    });
    assert_eq!(warm.stats().misses, 2, "it is not kept");
    let off = Blocks::new(0);
    group.bench_function("miss, nothing to read", |b| {
        b.iter(|| ask(&off, black_box(first)));
    });

    let full = Blocks::new(CAPACITY);
    let mut turn = blocks.iter().cycle();
    group.bench_function("admission into a full cache, two requests", |b| {
        b.iter(|| {
            let block = turn.next().expect("it goes round");
            ask(&full, block);
            ask(&full, block);
        });
    });
    group.finish();
}
