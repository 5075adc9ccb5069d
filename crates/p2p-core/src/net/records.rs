//! The provider records this node keeps for the DHT: its own, and those strangers store here.
//!
//! kad's `MemoryStore` counts both against one limit, so that a thousand foreign keys stop a node from announcing its own
//! files, and keeps every address a record names. Here the two are apart, and whatever strangers send stays within
//! [`Bounds`]. Value records are refused: nothing in this protocol uses them.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

/// What strangers may store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Provider records in all; at about 300 bytes each, 30 MB.
    pub(crate) records: usize,
    /// Providers of one key; the DHT returns 20, peer exchange finds the rest.
    pub(crate) providers_per_key: usize,
    /// Keys that one provider may hold here.
    pub(crate) keys_per_provider: usize,
    /// Addresses kept of one record.
    pub(crate) addresses: usize,
    /// Bytes of one address.
    pub(crate) address_len: usize,
    /// Longest key.
    pub(crate) key_len: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            records: 100_000,
            providers_per_key: 64,
            keys_per_provider: 4096,
            addresses: 8,
            address_len: 128,
            key_len: 64,
        }
    }
}

/// Provider records of one node.
#[derive(Debug)]
pub(crate) struct Records {
    local: PeerId,
    bounds: Bounds,
    own: HashMap<RecordKey, ProviderRecord>,
    foreign: HashMap<RecordKey, VecDeque<ProviderRecord>>,
    foreign_len: usize,
    keys_of: HashMap<PeerId, HashSet<RecordKey>>,
    /// Where connected peers can be reached, as far as we can tell. A provider that nobody has confirmed to be reachable
    /// announces itself without an address, and kad names no provider without one.
    reachable: HashMap<PeerId, Vec<Multiaddr>>,
}

impl Records {
    pub(crate) fn new(local: PeerId, bounds: Bounds) -> Self {
        Self {
            local,
            bounds,
            own: HashMap::new(),
            foreign: HashMap::new(),
            foreign_len: 0,
            keys_of: HashMap::new(),
            reachable: HashMap::new(),
        }
    }

    /// Foreign records held.
    #[cfg(test)]
    fn foreign_len(&self) -> usize {
        self.foreign_len
    }

    /// Drops foreign records that have expired.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let expired: Vec<(RecordKey, PeerId)> = self
            .foreign
            .values()
            .flatten()
            .filter(|record| record.is_expired(now))
            .map(|record| (record.key.clone(), record.provider))
            .collect();
        for (key, provider) in expired {
            self.remove_foreign(&key, &provider);
        }
    }

    /// A connected peer can be reached at these addresses.
    pub(crate) fn on_reachable(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) {
        addresses.truncate(self.bounds.addresses);
        for key in self.keys_of.get(&peer).into_iter().flatten() {
            let held = self.foreign.get_mut(key).into_iter().flatten();
            for record in held.filter(|record| record.provider == peer) {
                if record.addresses.is_empty() {
                    record.addresses.clone_from(&addresses);
                }
            }
        }
        self.reachable.insert(peer, addresses);
    }

    /// A peer is no longer connected; its records keep the addresses they have.
    pub(crate) fn on_disconnected(&mut self, peer: &PeerId) {
        self.reachable.remove(peer);
    }

    fn trimmed(&self, mut record: ProviderRecord) -> ProviderRecord {
        if record.addresses.is_empty()
            && let Some(known) = self.reachable.get(&record.provider)
        {
            record.addresses.clone_from(known);
        }
        record
            .addresses
            .retain(|address: &Multiaddr| address.len() <= self.bounds.address_len);
        record.addresses.truncate(self.bounds.addresses);
        record.addresses.shrink_to_fit();
        record
    }

    fn add_foreign(&mut self, record: ProviderRecord) -> Result<()> {
        if record.key.as_ref().len() > self.bounds.key_len {
            return Err(Error::ValueTooLarge);
        }
        let record = self.trimmed(record);
        if let Some(held) = self.foreign.get_mut(&record.key)
            && let Some(old) = held.iter_mut().find(|old| old.provider == record.provider)
        {
            *old = record;
            return Ok(());
        }
        let keys = self.keys_of.get(&record.provider).map_or(0, HashSet::len);
        if keys >= self.bounds.keys_per_provider || self.foreign_len >= self.bounds.records {
            return Err(Error::MaxProvidedKeys);
        }
        // A full key forgets its oldest provider: first-comers that are long gone must not keep out the living.
        if let Some(held) = self.foreign.get(&record.key)
            && held.len() >= self.bounds.providers_per_key
            && let Some(oldest) = held.front().map(|old| old.provider)
        {
            self.remove_foreign(&record.key.clone(), &oldest);
        }
        self.keys_of
            .entry(record.provider)
            .or_default()
            .insert(record.key.clone());
        self.foreign
            .entry(record.key.clone())
            .or_default()
            .push_back(record);
        self.foreign_len += 1;
        Ok(())
    }

    fn remove_foreign(&mut self, key: &RecordKey, provider: &PeerId) {
        if let Some(held) = self.foreign.get_mut(key) {
            let before = held.len();
            held.retain(|record| record.provider != *provider);
            self.foreign_len -= before - held.len();
            if held.is_empty() {
                self.foreign.remove(key);
            }
        }
        if let Some(keys) = self.keys_of.get_mut(provider) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys_of.remove(provider);
            }
        }
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Map<
        std::collections::hash_map::Values<'a, RecordKey, ProviderRecord>,
        fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
    >;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.local {
            self.own.insert(record.key.clone(), record);
            return Ok(());
        }
        self.add_foreign(record)
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let own = self.own.get(key).into_iter();
        // The newest first: an answer has room for twenty.
        let foreign = self
            .foreign
            .get(key)
            .into_iter()
            .flat_map(|held| held.iter().rev());
        own.chain(foreign).cloned().collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.own.remove(key);
        } else {
            self.remove_foreign(key, provider);
        }
    }
}

/// How often expired records are looked for.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> RecordKey {
        RecordKey::new(&n.to_be_bytes())
    }

    fn record(n: u64, provider: PeerId, addresses: usize) -> ProviderRecord {
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/4001".parse().unwrap();
        ProviderRecord::new(key(n), provider, vec![address; addresses])
    }

    #[test]
    fn strangers_cannot_crowd_out_own_keys() {
        let local = PeerId::random();
        let mut records = Records::new(local, Bounds::default());
        let strangers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        for n in 0..1_000_000_u64 {
            let stranger = strangers[(n % 100) as usize];
            let _ = records.add_provider(record(n, stranger, 1));
        }
        assert_eq!(records.foreign_len(), Bounds::default().records);
        for n in 0..5_000 {
            records.add_provider(record(n, local, 1)).unwrap();
        }
        assert_eq!(records.provided().count(), 5_000);
    }

    #[test]
    fn one_stranger_holds_no_more_than_its_share() {
        let mut records = Records::new(PeerId::random(), Bounds::default());
        let stranger = PeerId::random();
        for n in 0..10_000 {
            let _ = records.add_provider(record(n, stranger, 1));
        }
        assert_eq!(records.foreign_len(), Bounds::default().keys_per_provider);
    }

    #[test]
    fn addresses_are_capped() {
        let mut records = Records::new(PeerId::random(), Bounds::default());
        records
            .add_provider(record(1, PeerId::random(), 8_000))
            .unwrap();
        assert_eq!(records.providers(&key(1))[0].addresses.len(), 8);
    }

    #[test]
    fn a_full_key_forgets_its_oldest_provider() {
        let mut records = Records::new(PeerId::random(), Bounds::default());
        let first = PeerId::random();
        records.add_provider(record(1, first, 1)).unwrap();
        let newest = PeerId::random();
        for _ in 0..63 {
            records
                .add_provider(record(1, PeerId::random(), 1))
                .unwrap();
        }
        records.add_provider(record(1, newest, 1)).unwrap();
        let held = records.providers(&key(1));
        assert_eq!(held.len(), 64);
        assert_eq!(held[0].provider, newest);
        assert!(held.iter().all(|record| record.provider != first));
    }

    #[test]
    fn the_sweep_leaves_nothing_expired() {
        let mut records = Records::new(PeerId::random(), Bounds::default());
        let now = Instant::now();
        for n in 0..100 {
            let mut expiring = record(n, PeerId::random(), 1);
            expiring.expires = Some(now + Duration::from_secs(n));
            records.add_provider(expiring).unwrap();
        }
        records.sweep(now + Duration::from_secs(49));
        assert_eq!(records.foreign_len(), 50);
        records.sweep(now + Duration::from_secs(1000));
        assert_eq!(records.foreign_len(), 0);
        assert!(records.keys_of.is_empty() && records.foreign.is_empty());
    }

    #[test]
    fn a_provider_without_addresses_gets_those_it_is_connected_by() {
        let mut records = Records::new(PeerId::random(), Bounds::default());
        let (early, late) = (PeerId::random(), PeerId::random());
        let address: Multiaddr = "/ip4/192.168.1.9/tcp/4711".parse().unwrap();
        records.add_provider(record(1, early, 0)).unwrap();
        records.on_reachable(early, vec![address.clone(); 20]);
        records.on_reachable(late, vec![address.clone()]);
        records.add_provider(record(2, late, 0)).unwrap();
        records.on_disconnected(&late);
        assert_eq!(
            records.providers(&key(1))[0].addresses,
            vec![address.clone(); 8]
        );
        assert_eq!(records.providers(&key(2))[0].addresses, [address]);
        records.add_provider(record(3, late, 0)).unwrap();
        assert!(records.providers(&key(3))[0].addresses.is_empty());
    }

    #[test]
    fn value_records_are_refused() {
        let mut records = Records::new(PeerId::random(), Bounds::default());
        assert!(records.put(Record::new(key(1), vec![1])).is_err());
    }
}
