//! The parts that decide and compute, one by one: `cargo bench -p p2p-core`, or one of them by name, as in
//! `cargo bench -p p2p-core -- tree`. What whole processes do is measured by `tests/bench/compare.py`.

mod cache;
mod codec;
mod scheduler;
mod tree;

criterion::criterion_group!(
    parts,
    tree::tree,
    scheduler::scheduler,
    codec::codec,
    cache::cache
);
criterion::criterion_main!(parts);

/// Bytes that compress to nothing and are the same in each run.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}
