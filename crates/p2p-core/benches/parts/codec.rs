//! Messages to bytes and back, and the streaming of blocks without a network below it.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use p2p_core::BLOCK_LEN;
use p2p_core::bench::codec::{Have, Request, frame_header, parse_frame_header, stream};
use p2p_core::content::{BlockSet, Geometry};

use crate::noise;

/// Blocks in one response of the streaming benchmark: 16 MiB.
const STREAMED: u32 = 64;

/// 16 GiB of which every other block is held: the most fragmented set there is.
fn every_other() -> Have {
    let geometry = Geometry::new(16 << 30).expect("16 GiB");
    let mut set = BlockSet::new(geometry.blocks());
    for block in (0..geometry.blocks()).step_by(2) {
        set.insert(block);
    }
    Have::new(geometry, set)
}

/// 16 GiB of which two runs are held, as of a fetch under way from one source.
fn two_runs() -> Have {
    let geometry = Geometry::new(16 << 30).expect("16 GiB");
    let mut set = BlockSet::new(geometry.blocks());
    set.insert_range(0..20_000);
    set.insert_range(40_000..65_000);
    Have::new(geometry, set)
}

pub fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    for (name, runs) in [("1 run", 1), ("32 runs", 32)] {
        let request = Request::new(runs);
        let bytes = request.encode();
        assert!(Request::decodes(&bytes), "a request that is refused");
        group.bench_function(format!("blocks request of {name}, encode"), |b| {
            b.iter(|| black_box(&request).encode());
        });
        group.bench_function(format!("blocks request of {name}, decode"), |b| {
            b.iter(|| Request::decodes(black_box(&bytes)));
        });
    }
    for (name, have) in [
        ("two runs", two_runs()),
        ("every other block", every_other()),
    ] {
        let bytes = have.encode();
        assert!(Have::decodes(&bytes), "an answer that is refused");
        group.bench_function(format!("have of 16 GiB, {name}, encode"), |b| {
            b.iter(|| black_box(&have).encode());
        });
        group.bench_function(format!("have of 16 GiB, {name}, decode"), |b| {
            b.iter(|| Have::decodes(black_box(&bytes)));
        });
    }

    let block = Bytes::from(noise(BLOCK_LEN));
    let header = frame_header(7, block.clone());
    assert_eq!(parse_frame_header(header), Some(BLOCK_LEN));
    group.bench_function("frame header, encode", |b| {
        b.iter(|| frame_header(black_box(7), block.clone()));
    });
    group.bench_function("frame header, decode", |b| {
        b.iter(|| parse_frame_header(black_box(header)));
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let sent = BLOCK_LEN * STREAMED as usize;
    group.throughput(Throughput::Bytes(sent as u64));
    group.bench_function("stream of 64 blocks, both ends in one thread", |b| {
        b.iter(|| {
            let received = runtime.block_on(stream(block.clone(), STREAMED));
            assert_eq!(received.expect("the stream ends well"), sent);
        });
    });
    group.bench_function("copy of as many bytes (the reference)", |b| {
        b.iter(|| {
            for _ in 0..STREAMED {
                black_box(block.to_vec());
            }
        });
    });
    group.finish();
}
