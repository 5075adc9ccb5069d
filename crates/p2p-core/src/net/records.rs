//! The provider records this node keeps for the DHT: its own, and those strangers store here.
//!
//! kad's `MemoryStore` counts both against one limit, so that a thousand foreign keys stop a node from announcing its own
//! files; and it keeps every address a record names, with each record anew. Here the two are apart. Of its own, a node keeps
//! the ids. Of a stranger, it keeps the addresses once, and of each record 20 bytes: a hash of the key, and when it expires.
//! All of that is counted in bytes ([`Bounds::bytes`]). When they are full, whoever has most of them gives up its oldest
//! record for a newcomer who has less; so nobody can keep others out, and one provider may use what nobody else wants.
//! Value records are refused: nothing in this protocol uses them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
    multiaddr::Protocol,
};

use crate::content::ContentId;

/// What strangers may store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of all of it, as the heap counts them: some 50,000 records.
    pub(crate) bytes: usize,
    /// Providers of one key; the DHT returns 20, peer exchange finds the rest.
    pub(crate) providers_per_key: usize,
    /// Addresses kept of one provider.
    pub(crate) addresses: usize,
    /// Bytes of one address.
    pub(crate) address_len: usize,
    /// Longest key.
    pub(crate) key_len: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: 4_000_000,
            providers_per_key: 64,
            addresses: 8,
            address_len: 128,
            key_len: 64,
        }
    }
}

/// What a record costs: its place in the map, and in the queue of its provider, with the slack of both.
const RECORD_COST: usize = 64;
/// What a provider costs beside its addresses: three maps, which may have just grown to twice what they need.
const PROVIDER_COST: usize = 1024;
/// What an address costs beside its bytes.
const ADDRESS_COST: usize = 64;

/// A key as it is kept. A hash, so that whoever chooses keys cannot choose which ones are the same.
type KeyHash = [u8; 16];

/// Which provider; slots are used again.
type Slot = u32;

/// A stranger that has records here.
#[derive(Debug)]
struct Provider {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    /// Its keys, the first that came in front.
    keys: VecDeque<KeyHash>,
    /// Its part of [`Records::bytes`].
    counted: usize,
}

impl Provider {
    fn cost(&self) -> usize {
        let addresses = self.addresses.iter().map(|a| a.len() + ADDRESS_COST);
        PROVIDER_COST + addresses.sum::<usize>() + self.keys.len().saturating_mul(RECORD_COST)
    }

    /// The network it says it is in, to tell many of one place from many places.
    fn subnet(&self) -> Option<Subnet> {
        self.addresses.iter().find_map(subnet)
    }
}

/// A /24 of IPv4, a /48 of IPv6.
type Subnet = [u8; 6];

fn subnet(address: &Multiaddr) -> Option<Subnet> {
    let ip = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })?;
    Some(match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [a, b, c, 0, 0, 4]
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, ..] = ip.octets();
            [a, b, c, d, e, f]
        }
    })
}

/// Provider records of one node.
#[derive(Debug)]
pub(crate) struct Records {
    local: PeerId,
    bounds: Bounds,
    own: HashSet<ContentId>,
    /// When each expires, in seconds since `began`.
    foreign: BTreeMap<(KeyHash, Slot), u32>,
    providers: HashMap<Slot, Provider>,
    slots: HashMap<PeerId, Slot>,
    next_slot: Slot,
    /// What each provider costs, to find whoever has most.
    costs: BTreeSet<(usize, Slot)>,
    bytes: usize,
    began: Instant,
    /// Where connected peers can be reached, as far as we can tell. A provider that nobody has confirmed to be reachable
    /// announces itself without an address, and kad names no provider without one.
    reachable: HashMap<PeerId, Vec<Multiaddr>>,
}

impl Records {
    pub(crate) fn new(local: PeerId, bounds: Bounds, now: Instant) -> Self {
        Self {
            local,
            bounds,
            own: HashSet::new(),
            foreign: BTreeMap::new(),
            providers: HashMap::new(),
            slots: HashMap::new(),
            next_slot: 0,
            costs: BTreeSet::new(),
            bytes: 0,
            began: now,
            reachable: HashMap::new(),
        }
    }

    /// From now on this node says that it has this content.
    pub(crate) fn provide(&mut self, id: ContentId) {
        self.own.insert(id);
    }

    /// Foreign records held.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn foreign_len(&self) -> usize {
        self.foreign.len()
    }

    /// Drops foreign records that have expired.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let now = self.seconds(now);
        let Self {
            foreign, providers, ..
        } = self;
        let before = foreign.len();
        foreign.retain(|_, expires| *expires > now);
        if foreign.len() == before {
            return;
        }
        for (slot, provider) in providers.iter_mut() {
            provider
                .keys
                .retain(|key| foreign.contains_key(&(*key, *slot)));
            provider.keys.shrink_to_fit();
        }
        let slots: Vec<Slot> = self.providers.keys().copied().collect();
        for slot in slots {
            self.settle(slot);
        }
    }

    /// A connected peer can be reached at these addresses.
    pub(crate) fn on_reachable(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let addresses = self.trimmed(addresses);
        if let Some(slot) = self.slots.get(&peer).copied() {
            if let Some(provider) = self.providers.get_mut(&slot)
                && provider.addresses.is_empty()
            {
                provider.addresses.clone_from(&addresses);
            }
            self.settle(slot);
            self.make_room();
        }
        self.reachable.insert(peer, addresses);
    }

    /// A peer is no longer connected; its records keep the addresses they have.
    pub(crate) fn on_disconnected(&mut self, peer: &PeerId) {
        self.reachable.remove(peer);
    }

    fn trimmed(&self, mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        addresses.retain(|address| address.len() <= self.bounds.address_len);
        addresses.truncate(self.bounds.addresses);
        addresses.shrink_to_fit();
        addresses
    }

    fn seconds(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.began).as_secs();
        u32::try_from(since).unwrap_or(u32::MAX)
    }

    /// Counts a provider anew, and forgets it when it has no records left.
    fn settle(&mut self, slot: Slot) {
        let Some(provider) = self.providers.get_mut(&slot) else {
            return;
        };
        let (peer, before) = (provider.peer, provider.counted);
        let cost = provider.cost();
        provider.counted = cost;
        self.costs.remove(&(before, slot));
        self.bytes = self.bytes.saturating_sub(before);
        if provider.keys.is_empty() {
            self.providers.remove(&slot);
            self.slots.remove(&peer);
        } else {
            self.costs.insert((cost, slot));
            self.bytes = self.bytes.saturating_add(cost);
        }
    }

    fn slot_of(&mut self, peer: PeerId) -> Slot {
        if let Some(slot) = self.slots.get(&peer) {
            return *slot;
        }
        let slot = self.next_slot;
        // Four thousand million providers later, one is left out.
        self.next_slot = self.next_slot.saturating_add(1);
        let provider = Provider {
            peer,
            addresses: Vec::new(),
            keys: VecDeque::new(),
            counted: 0,
        };
        self.providers.insert(slot, provider);
        self.slots.insert(peer, slot);
        slot
    }

    fn add_foreign(&mut self, record: ProviderRecord) -> Result<()> {
        if record.key.as_ref().len() > self.bounds.key_len {
            return Err(Error::ValueTooLarge);
        }
        let key = hash(&record.key);
        let expires = record.expires.map_or(u32::MAX, |at| self.seconds(at));
        let mut addresses = self.trimmed(record.addresses);
        if addresses.is_empty() {
            addresses = self
                .reachable
                .get(&record.provider)
                .cloned()
                .unwrap_or_default();
        }
        let slot = self.slot_of(record.provider);
        let is_new = self.foreign.insert((key, slot), expires).is_none();
        if let Some(provider) = self.providers.get_mut(&slot) {
            if !addresses.is_empty() {
                provider.addresses = addresses;
            }
            if is_new {
                provider.keys.push_back(key);
            }
        }
        self.settle(slot);
        if is_new {
            self.make_room_at(key);
        }
        // One that is renewed may have longer addresses.
        self.make_room();
        match self.foreign.contains_key(&(key, slot)) {
            true => Ok(()),
            false => Err(Error::MaxProvidedKeys),
        }
    }

    /// A key with too many providers forgets one: of the network that most of them are in, the longest unrenewed. So
    /// neither first-comers that are long gone nor a crowd in one place keep out the others.
    fn make_room_at(&mut self, key: KeyHash) {
        let held = self.held_at(key);
        if held.len() <= self.bounds.providers_per_key {
            return;
        }
        let mut sizes: HashMap<Option<Subnet>, usize> = HashMap::new();
        for (slot, _) in &held {
            *sizes.entry(self.subnet_of(*slot)).or_default() += 1;
        }
        let size = |slot: Slot| sizes.get(&self.subnet_of(slot)).copied().unwrap_or(0);
        let victim = held
            .iter()
            .min_by_key(|(slot, expires)| (std::cmp::Reverse(size(*slot)), *expires, *slot));
        if let Some((slot, _)) = victim.copied() {
            self.remove_foreign(key, slot);
        }
    }

    /// While there is too much in all, whoever has most of it gives up what it brought first.
    fn make_room(&mut self) {
        while self.bytes > self.bounds.bytes {
            let Some((_, slot)) = self.costs.last().copied() else {
                return;
            };
            if let Some(provider) = self.providers.get_mut(&slot)
                && let Some(key) = provider.keys.pop_front()
            {
                self.foreign.remove(&(key, slot));
            }
            self.settle(slot);
        }
    }

    fn subnet_of(&self, slot: Slot) -> Option<Subnet> {
        self.providers.get(&slot).and_then(Provider::subnet)
    }

    /// The providers of a key, and when each expires.
    fn held_at(&self, key: KeyHash) -> Vec<(Slot, u32)> {
        let held = self.foreign.range((key, 0)..=(key, Slot::MAX));
        held.map(|((_, slot), expires)| (*slot, *expires)).collect()
    }

    fn remove_foreign(&mut self, key: KeyHash, slot: Slot) {
        self.foreign.remove(&(key, slot));
        if let Some(provider) = self.providers.get_mut(&slot) {
            provider.keys.retain(|held| *held != key);
        }
        self.settle(slot);
    }

    fn own_record(&self, key: RecordKey) -> ProviderRecord {
        // kad fills in the addresses when it names us.
        ProviderRecord {
            key,
            provider: self.local,
            expires: None,
            addresses: Vec::new(),
        }
    }
}

fn hash(key: &RecordKey) -> KeyHash {
    let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        *blake3::hash(key.as_ref()).as_bytes();
    first
}

/// The content that a key of ours stands for.
fn content_of(key: &RecordKey) -> Option<ContentId> {
    let hash = key.as_ref().strip_prefix(&[0x1e, 0x20])?;
    Some(ContentId::from_bytes(hash.try_into().ok()?))
}

impl RecordStore for Records {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

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
        if record.provider != self.local {
            return self.add_foreign(record);
        }
        let id = content_of(&record.key).ok_or(Error::ValueTooLarge)?;
        self.own.insert(id);
        Ok(())
    }

    /// Ourselves; then, of each network, the one that announced itself last; then their neighbours. An answer has room for
    /// twenty.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let is_own = content_of(key).is_some_and(|id| self.own.contains(&id));
        let own = is_own.then(|| self.own_record(key.clone()));
        let mut held = self.held_at(hash(key));
        held.sort_by_key(|(_, expires)| std::cmp::Reverse(*expires));
        let mut seen: HashMap<Option<Subnet>, usize> = HashMap::new();
        let mut ranked: Vec<(usize, Slot, u32)> = Vec::with_capacity(held.len());
        for (slot, expires) in held {
            let rank = seen.entry(self.subnet_of(slot)).or_default();
            ranked.push((*rank, slot, expires));
            *rank += 1;
        }
        ranked.sort_by_key(|(rank, _, _)| *rank);
        let foreign = ranked.into_iter().filter_map(|(_, slot, expires)| {
            let provider = self.providers.get(&slot)?;
            Some(ProviderRecord {
                key: key.clone(),
                provider: provider.peer,
                expires: self.began.checked_add(Duration::from_secs(expires.into())),
                addresses: provider.addresses.clone(),
            })
        });
        own.into_iter().chain(foreign).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let keys = self.own.iter().map(|id| RecordKey::new(&id.multihash()));
        let records = keys.map(|key| Cow::Owned(self.own_record(key)));
        records.collect::<Vec<_>>().into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            if let Some(id) = content_of(key) {
                self.own.remove(&id);
            }
        } else if let Some(slot) = self.slots.get(provider).copied() {
            self.remove_foreign(hash(key), slot);
        }
    }
}

/// How often expired records are looked for.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

#[cfg(test)]
#[path = "records_tests.rs"]
mod records_tests;
