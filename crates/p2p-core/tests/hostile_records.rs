//! K-02: what records of strangers cost a node, counted at the allocator. One test in its process, so that nobody else's
//! memory is counted.

use std::time::{Duration, Instant};

use p2p_core::{
    ContentId,
    bench::codec::{Stranger, Strangers},
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What a stranger sends.
const TRAFFIC: usize = 16 << 20;
/// What it may cost.
const GROWTH: usize = 4 << 20;

fn id(n: usize) -> ContentId {
    ContentId::of(&n.to_be_bytes())
}

/// Sends 16 MiB of records of this length on the wire, by so many strangers; what they cost.
fn flood(strangers: usize, record_len: usize, addresses: &[usize]) -> usize {
    let now = Instant::now();
    let who: Vec<Stranger> = (0..strangers).map(|_| Stranger::new()).collect();
    let before = HEAP.current_usage();
    let mut records = Strangers::new(now);
    for n in 0..TRAFFIC / record_len {
        records.announce(who[n % strangers], id(n), addresses);
    }
    let growth = HEAP.current_usage().saturating_sub(before);
    let held = records.len();
    println!(
        "{strangers} strangers, {} addresses each: {held} records in {growth} bytes, {} each",
        addresses.len(),
        growth / held.max(1)
    );
    records.sweep(now + Duration::from_secs(3601));
    assert!(records.is_empty());
    growth
}

#[test]
fn sixteen_mebibytes_of_records_cost_less_than_four() {
    // The probe that cost kad's own store 554 MiB: empty addresses, two bytes each on the wire.
    assert!(flood(1, 16_384, &[0; 8_132]) < GROWTH);
    // As many records as fit, of one and of many.
    assert!(flood(1, 90, &[]) < GROWTH);
    assert!(flood(100, 100, &[8]) < GROWTH);
    // As many identities as fit, with as much to say as is kept of each.
    assert!(flood(14_000, 1_200, &[128; 8]) < GROWTH);
    assert!(flood(100_000, 167, &[60]) < GROWTH);
}
