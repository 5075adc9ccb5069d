//! The hash tree, beside BLAKE3 on the same bytes.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use p2p_core::BLOCK_LEN;
use p2p_core::content::{Geometry, Outline, OutlineBuilder, block_value};

use crate::noise;

pub fn tree(c: &mut Criterion) {
    let bytes = noise(8 * BLOCK_LEN);
    let block = &bytes[..BLOCK_LEN];
    let mut group = c.benchmark_group("tree");

    group.throughput(Throughput::Bytes(BLOCK_LEN as u64));
    group.bench_function("blake3::hash of a block (the reference)", |b| {
        b.iter(|| blake3::hash(black_box(block)));
    });
    group.bench_function("value of a block", |b| {
        b.iter(|| block_value(BLOCK_LEN as u64, black_box(block)));
    });
    let (_, outline) = Outline::of(&bytes).expect("a small content");
    let second = outline.geometry().block(1).expect("it has eight");
    let shared = Bytes::copy_from_slice(&bytes[BLOCK_LEN..2 * BLOCK_LEN]);
    group.bench_function("verify a block", |b| {
        b.iter(|| outline.verify(second, black_box(shared.clone())));
    });

    let geometry = Geometry::new(1 << 30).expect("1 GiB");
    let values: Vec<_> = geometry
        .indices()
        .map(|index| *blake3::hash(&index.get().to_le_bytes()).as_bytes())
        .collect();
    group.throughput(Throughput::Elements(u64::from(geometry.blocks())));
    group.bench_function("outline of 1 GiB from the values of its blocks", |b| {
        b.iter(|| {
            let mut builder = OutlineBuilder::new(geometry);
            for value in black_box(&values) {
                builder.push(*value);
            }
            builder.finish()
        });
    });
    group.finish();
}
