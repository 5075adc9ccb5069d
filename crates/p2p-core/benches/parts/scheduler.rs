//! The scheduler: what it costs for each piece of a large fetch, and for each request.

use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use p2p_core::bench::scheduler::{Fetch, Held};

/// 1 TiB in blocks; less where the invariants are checked at each step.
const LARGE: u32 = if cfg!(debug_assertions) {
    1 << 12
} else {
    1 << 22
};
/// 16 GiB.
const MIDDLE: u32 = if cfg!(debug_assertions) {
    1 << 10
} else {
    1 << 16
};
const SOURCES: u32 = 8;

/// As the session does: everything there is to do after each block.
fn run(fetch: &mut Fetch) {
    while !fetch.is_done() {
        while fetch.next_action().is_some() {}
        fetch.deliver();
    }
}

/// Time in calls that gave a request, and how many they were.
fn time_requests(fetch: &mut Fetch, most: u64) -> (Duration, u64) {
    let (mut spent, mut requests) = (Duration::ZERO, 0);
    while requests < most && !fetch.is_done() {
        loop {
            let start = Instant::now();
            let action = fetch.next_action();
            let took = start.elapsed();
            match action {
                Some(true) => {
                    spent += took;
                    requests += 1;
                }
                Some(false) => {}
                None => break,
            }
        }
        fetch.deliver();
    }
    (spent, requests)
}

pub fn scheduler(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    group.sampling_mode(SamplingMode::Flat);
    group.sample_size(10);
    let fetch = |pieces, held| move || Fetch::new(pieces, SOURCES, held, Instant::now());
    for (name, pieces, held) in [
        ("a piece of 1 TiB from 8 sources", LARGE, Held::All),
        ("a piece of 16 GiB from 8 sources", MIDDLE, Held::All),
        (
            "a piece of 16 GiB from 8 partial sources",
            MIDDLE,
            Held::Parts,
        ),
    ] {
        group.throughput(Throughput::Elements(u64::from(pieces)));
        group.bench_function(name, |b| {
            b.iter_batched_ref(fetch(pieces, held), run, BatchSize::PerIteration);
        });
    }
    group.throughput(Throughput::Elements(1));
    for (name, held) in [
        ("next_action that gives a request", Held::All),
        (
            "next_action that gives a request of partial sources",
            Held::Parts,
        ),
    ] {
        group.bench_function(name, |b| {
            b.iter_custom(|wanted| {
                let (mut spent, mut had) = (Duration::ZERO, 0);
                while had < wanted {
                    let mut fetch = fetch(LARGE, held)();
                    let (more, requests) = time_requests(&mut fetch, wanted - had);
                    spent += more;
                    had += requests;
                }
                spent
            });
        });
    }
    group.bench_function("next_action when all have enough to do", |b| {
        let mut fetch = fetch(LARGE, Held::All)();
        for _ in 0..1000 {
            while fetch.next_action().is_some() {}
            fetch.deliver();
        }
        while fetch.next_action().is_some() {}
        b.iter(|| fetch.next_action());
    });
    group.finish();
}
