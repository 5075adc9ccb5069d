//! The bounds of the record store: K-01 to K-03 of the threats to a DHT.

use super::*;

fn id(n: u64) -> ContentId {
    ContentId::of(&n.to_be_bytes())
}

fn key(n: u64) -> RecordKey {
    RecordKey::new(&id(n).multihash())
}

fn address(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn record(n: u64, provider: PeerId, addresses: usize) -> ProviderRecord {
    ProviderRecord::new(
        key(n),
        provider,
        vec![address("/ip4/10.0.0.1/tcp/4001"); addresses],
    )
}

fn records() -> Records {
    Records::new(PeerId::random(), Bounds::default(), Instant::now())
}

impl Records {
    /// Everything that is counted twice agrees.
    fn check(&self) {
        let keys: usize = self.providers.values().map(|p| p.keys.len()).sum();
        assert_eq!(keys, self.foreign.len());
        assert_eq!(self.providers.len(), self.slots.len());
        assert_eq!(self.providers.len(), self.costs.len());
        let bytes: usize = self.providers.values().map(Provider::cost).sum();
        assert_eq!(bytes, self.bytes);
        assert!(self.bytes <= self.bounds.bytes);
    }
}

/// K-01.
#[test]
fn strangers_cannot_crowd_out_own_keys() {
    let mut records = records();
    let local = records.local;
    let strangers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
    for n in 0..1_000_000_u64 {
        let stranger = strangers[(n % 100) as usize];
        let _ = records.add_provider(record(n, stranger, 1));
    }
    records.check();
    assert!(records.foreign_len() > 50_000, "{}", records.foreign_len());
    for n in 0..5_000 {
        records.add_provider(record(n, local, 1)).unwrap();
    }
    assert_eq!(records.provided().count(), 5_000);
    assert!((0..5_000).all(|n| records.providers(&key(n))[0].provider == local));
}

#[test]
fn one_stranger_has_what_nobody_else_wants_and_gives_it_up() {
    let mut records = records();
    let (greedy, modest) = (PeerId::random(), PeerId::random());
    for n in 0..100_000 {
        let _ = records.add_provider(record(n, greedy, 1));
    }
    let before = records.foreign_len();
    assert!(before > 50_000, "40,000 of one node must fit: {before}");
    for n in 0..1_000 {
        records.add_provider(record(n, modest, 1)).unwrap();
    }
    records.check();
    assert!((0..1_000).all(|n| {
        let held = records.providers(&key(n));
        held.iter().any(|record| record.provider == modest)
    }));
}

/// Identities are free, so a record of a stranger with much to tell goes before one of another with little.
#[test]
fn a_thousand_strangers_with_long_addresses_do_not_drive_out_the_modest() {
    let mut records = records();
    let modest = PeerId::random();
    records.add_provider(record(1, modest, 1)).unwrap();
    let long = address(&format!("/dns/{}.example/tcp/4001", "a".repeat(60)));
    for n in 0..20_000 {
        let bomb = ProviderRecord::new(key(n), PeerId::random(), vec![long.clone(); 8_000]);
        let _ = records.add_provider(bomb);
    }
    records.check();
    let held = records.providers(&key(1));
    assert!(held.iter().any(|record| record.provider == modest));
}

/// K-02: what a record may cost.
#[test]
fn addresses_are_capped() {
    let mut records = records();
    let stranger = PeerId::random();
    records.add_provider(record(1, stranger, 8_000)).unwrap();
    assert_eq!(records.providers(&key(1))[0].addresses.len(), 8);
    let long = address(&format!("/dns/{}/tcp/1", "a".repeat(200)));
    let told = vec![long, address("/ip4/1.2.3.4/tcp/1")];
    let told = ProviderRecord::new(key(1), stranger, told);
    records.add_provider(told).unwrap();
    let kept = &records.providers(&key(1))[0].addresses;
    assert_eq!(kept, &[address("/ip4/1.2.3.4/tcp/1")]);
    let long_key = ProviderRecord::new(RecordKey::new(&[7; 65]), stranger, Vec::new());
    assert!(records.add_provider(long_key).is_err());
    records.check();
}

#[test]
fn longer_addresses_make_room_as_well() {
    let mut records = records();
    let strangers: Vec<PeerId> = (0..3000).map(|_| PeerId::random()).collect();
    for round in 0..30 {
        for (n, stranger) in strangers.iter().enumerate() {
            let _ = records.add_provider(record(round * 3000 + n as u64, *stranger, 0));
        }
    }
    let before = records.bytes;
    assert!(before > records.bounds.bytes / 2, "{before}");
    let mut long: Multiaddr = address("/ip4/10.0.0.1/tcp/4001");
    while long.len() < 80 {
        long = long.with(Protocol::P2p(PeerId::random()));
    }
    for (n, stranger) in strangers.iter().enumerate() {
        match n % 2 {
            0 => {
                let renewed =
                    ProviderRecord::new(key(87_000 + n as u64), *stranger, vec![long.clone(); 8]);
                let _ = records.add_provider(renewed);
            }
            _ => records.on_reachable(*stranger, vec![long.clone(); 8]),
        }
    }
    records.check();
}

/// K-03.
#[test]
fn a_crowd_in_one_network_does_not_hide_the_honest_one() {
    let mut records = records();
    let now = Instant::now();
    let announce = |records: &mut Records, peer, at: &str, seconds| {
        let mut record = ProviderRecord::new(key(1), peer, vec![address(at)]);
        record.expires = Some(now + Duration::from_secs(1000 + seconds));
        let _ = records.add_provider(record);
    };
    let honest = PeerId::random();
    announce(&mut records, honest, "/ip4/5.6.7.8/tcp/1", 0);
    for n in 0..200_u64 {
        let at = format!("/ip4/1.2.3.{}/tcp/1", n % 250);
        announce(&mut records, PeerId::random(), &at, n + 1);
    }
    records.check();
    let held = records.providers(&key(1));
    assert_eq!(held.len(), 64);
    let at = held.iter().position(|record| record.provider == honest);
    assert!(at.is_some_and(|at| at < 2), "named at {at:?}");
}

#[test]
fn a_full_key_forgets_its_oldest_provider() {
    let mut records = records();
    let now = Instant::now();
    let peers: Vec<PeerId> = (0..65).map(|_| PeerId::random()).collect();
    for (n, peer) in (1..).zip(&peers) {
        let mut record = record(1, *peer, 1);
        record.expires = Some(now + Duration::from_secs(n * 10));
        records.add_provider(record).unwrap();
    }
    let held = records.providers(&key(1));
    assert_eq!(held.len(), 64);
    assert_eq!(held[0].provider, peers[64], "the newest first");
    assert!(held.iter().all(|record| record.provider != peers[0]));
}

#[test]
fn the_sweep_leaves_nothing_expired() {
    let now = Instant::now();
    let mut records = Records::new(PeerId::random(), Bounds::default(), now);
    for n in 0..100 {
        let mut expiring = record(n, PeerId::random(), 1);
        expiring.expires = Some(now + Duration::from_secs(n));
        records.add_provider(expiring).unwrap();
    }
    records.sweep(now + Duration::from_secs(49));
    assert_eq!(records.foreign_len(), 50);
    records.check();
    records.sweep(now + Duration::from_secs(1000));
    assert_eq!((records.foreign_len(), records.bytes), (0, 0));
    assert!(records.providers.is_empty() && records.slots.is_empty());
}

#[test]
fn a_provider_without_addresses_gets_those_it_is_connected_by() {
    let mut records = records();
    let (early, late) = (PeerId::random(), PeerId::random());
    let reached = address("/ip4/192.168.1.9/tcp/4711");
    records.add_provider(record(1, early, 0)).unwrap();
    records.on_reachable(early, vec![reached.clone(); 20]);
    records.on_reachable(late, vec![reached.clone()]);
    records.add_provider(record(2, late, 0)).unwrap();
    records.on_disconnected(&late);
    assert_eq!(
        records.providers(&key(1))[0].addresses,
        vec![reached.clone(); 8]
    );
    assert_eq!(records.providers(&key(2))[0].addresses, [reached]);
    let stranger = PeerId::random();
    records.add_provider(record(3, stranger, 0)).unwrap();
    assert!(records.providers(&key(3))[0].addresses.is_empty());
    records.check();
}

#[test]
fn what_is_withdrawn_is_no_longer_named() {
    let mut records = records();
    let local = records.local;
    records.provide(id(1));
    assert_eq!(records.providers(&key(1)).len(), 1);
    records.remove_provider(&key(1), &local);
    assert!(records.providers(&key(1)).is_empty());
}

#[test]
fn value_records_are_refused() {
    let mut records = records();
    assert!(records.put(Record::new(key(1), vec![1])).is_err());
}
