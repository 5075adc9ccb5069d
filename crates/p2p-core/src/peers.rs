//! The live table of peers: who is connected, who is only known, and what was seen of each. Pure: times come in.
//!
//! Invariant: at most [`MAX_KNOWN`] peers that are not connected, besides those named in the configuration, the longest
//! unseen forgotten first; at most [`MAX_ADDRESSES`] addresses each, the one last used first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use crate::content::{Address, NodeId};

/// Peers remembered while not connected.
const MAX_KNOWN: usize = 1024;
/// Addresses of one peer.
pub(crate) const MAX_ADDRESSES: usize = 8;

/// How a peer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FoundBy {
    /// Multicast DNS on the local network.
    Mdns,
    /// The distributed hash table.
    Dht,
    /// Named in the configuration.
    Bootstrap,
    /// It connected to us.
    Inbound,
    /// Named in a ticket.
    Ticket,
    /// Named by another provider.
    Exchange,
    /// Named by the user.
    Manual,
    /// Remembered from an earlier run.
    Cache,
}

impl FoundBy {
    /// The word used in listings: `mdns`, `dht`, …
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mdns => "mdns",
            Self::Dht => "dht",
            Self::Bootstrap => "bootstrap",
            Self::Inbound => "inbound",
            Self::Ticket => "ticket",
            Self::Exchange => "exchange",
            Self::Manual => "manual",
            Self::Cache => "cache",
        }
    }
}

/// Whether there is a connection to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// There is: the peer is active.
    Connected,
    /// There is none now.
    Known,
}

/// What is known of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its id.
    pub peer: NodeId,
    /// Whether there is a connection.
    pub state: PeerState,
    /// Where it can be reached, the address last used first.
    pub addresses: Vec<Address>,
    /// The other end of the connection.
    pub remote: Option<Address>,
    /// Round trip of the last ping.
    pub rtt: Option<Duration>,
    /// The name and version it gives itself.
    pub agent: Option<String>,
    /// How it was found, in all the ways.
    pub found: Vec<FoundBy>,
    /// Since when it is connected.
    pub since: Option<SystemTime>,
    /// When something last came from it.
    pub last_seen: SystemTime,
    /// Bytes of content sent to it.
    pub up: u64,
    /// Bytes of content received from it.
    pub down: u64,
    /// Whether the connection goes through a relay.
    pub relayed: bool,
    /// Whether it speaks the protocols of this crate; known once it has identified itself.
    pub speaks_ours: Option<bool>,
}

/// A change of the table, for those who watch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerChange {
    Joined(PeerInfo),
    Left(PeerInfo),
    Changed(PeerInfo),
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Entry>,
    /// The last that [`Self::next_lost`] named: the others have their turn before it has another.
    last_redialled: Option<NodeId>,
}

#[derive(Debug)]
struct Entry {
    info: PeerInfo,
    found: BTreeSet<FoundBy>,
}

impl Entry {
    fn new(peer: NodeId, now: SystemTime) -> Self {
        Self {
            info: PeerInfo {
                peer,
                state: PeerState::Known,
                addresses: Vec::new(),
                remote: None,
                rtt: None,
                agent: None,
                found: Vec::new(),
                since: None,
                last_seen: now,
                up: 0,
                down: 0,
                relayed: false,
                speaks_ours: None,
            },
            found: BTreeSet::new(),
        }
    }

    fn add_found(&mut self, by: FoundBy) -> bool {
        let new = self.found.insert(by);
        if new {
            self.info.found = self.found.iter().copied().collect();
        }
        new
    }

    fn add_address(&mut self, address: Address, first: bool) -> bool {
        let held = &mut self.info.addresses;
        if let Some(at) = held.iter().position(|known| *known == address) {
            if first && at > 0 {
                let address = held.remove(at);
                held.insert(0, address);
            }
            return false;
        }
        if first {
            held.insert(0, address);
            held.truncate(MAX_ADDRESSES);
            return true;
        }
        let room = held.len() < MAX_ADDRESSES;
        if room {
            held.push(address);
        }
        room
    }
}

impl Peers {
    /// A peer was heard of.
    pub(crate) fn on_found(
        &mut self,
        peer: NodeId,
        address: Option<Address>,
        by: FoundBy,
        now: SystemTime,
    ) {
        self.make_room(peer);
        let entry = self
            .peers
            .entry(peer)
            .or_insert_with(|| Entry::new(peer, now));
        entry.add_found(by);
        if let Some(address) = address {
            entry.add_address(address, false);
        }
    }

    /// A peer that is known has this address too.
    pub(crate) fn on_address(&mut self, peer: NodeId, address: Address) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.add_address(address, false);
        }
    }

    /// The first connection to a peer.
    pub(crate) fn on_connected(
        &mut self,
        peer: NodeId,
        address: Address,
        inbound: bool,
        relayed: bool,
        now: SystemTime,
    ) -> PeerChange {
        let entry = self
            .peers
            .entry(peer)
            .or_insert_with(|| Entry::new(peer, now));
        entry.info.state = PeerState::Connected;
        entry.info.since = Some(now);
        entry.info.last_seen = now;
        entry.info.relayed = relayed;
        entry.info.remote = Some(address.clone());
        if inbound {
            // The port of an inbound connection is not one the peer listens on.
            entry.add_found(FoundBy::Inbound);
        } else {
            entry.add_address(address, true);
        }
        PeerChange::Joined(entry.info.clone())
    }

    /// A peer that was connected through a relay is connected directly now.
    pub(crate) fn on_direct(&mut self, peer: NodeId, address: Address) -> Option<PeerChange> {
        let entry = self.peers.get_mut(&peer)?;
        entry.info.relayed = false;
        entry.info.remote = Some(address);
        Some(PeerChange::Changed(entry.info.clone()))
    }

    /// Whether a peer is connected, and only through a relay.
    pub(crate) fn is_relayed(&self, peer: NodeId) -> bool {
        let entry = self.peers.get(&peer);
        entry.is_some_and(|e| e.info.state == PeerState::Connected && e.info.relayed)
    }

    /// The last connection to a peer ended.
    pub(crate) fn on_disconnected(&mut self, peer: NodeId) -> Option<PeerChange> {
        let entry = self.peers.get_mut(&peer)?;
        entry.info.state = PeerState::Known;
        entry.info.since = None;
        entry.info.remote = None;
        entry.info.rtt = None;
        let change = PeerChange::Left(entry.info.clone());
        self.make_room(peer);
        Some(change)
    }

    /// A peer said what it is and where it listens.
    pub(crate) fn on_identified(
        &mut self,
        peer: NodeId,
        agent: String,
        addresses: Vec<Address>,
        speaks_ours: bool,
        now: SystemTime,
    ) -> Option<PeerChange> {
        let entry = self.peers.get_mut(&peer)?;
        entry.info.last_seen = now;
        let mut changed = entry.info.agent.as_ref() != Some(&agent)
            || entry.info.speaks_ours != Some(speaks_ours);
        entry.info.agent = Some(agent);
        entry.info.speaks_ours = Some(speaks_ours);
        for address in addresses {
            changed |= entry.add_address(address.without_node(), false);
        }
        changed.then(|| PeerChange::Changed(entry.info.clone()))
    }

    /// A ping came back. The first one is told as a change.
    pub(crate) fn on_rtt(
        &mut self,
        peer: NodeId,
        rtt: Duration,
        now: SystemTime,
    ) -> Option<PeerChange> {
        let entry = self.peers.get_mut(&peer)?;
        entry.info.last_seen = now;
        let first = entry.info.rtt.replace(rtt).is_none();
        first.then(|| PeerChange::Changed(entry.info.clone()))
    }

    /// Bytes of content went to (`up`) and came from (`down`) a peer.
    pub(crate) fn on_bytes(&mut self, peer: NodeId, up: u64, down: u64, now: SystemTime) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.info.up = entry.info.up.saturating_add(up);
            entry.info.down = entry.info.down.saturating_add(down);
            entry.info.last_seen = now;
        }
    }

    /// What is known of one peer.
    pub(crate) fn info(&self, peer: NodeId) -> Option<&PeerInfo> {
        self.peers.get(&peer).map(|entry| &entry.info)
    }

    /// Where a peer can be reached.
    pub(crate) fn addresses(&self, peer: NodeId) -> &[Address] {
        self.info(peer).map_or(&[], |info| &info.addresses)
    }

    /// Whether there is a connection to a peer.
    pub(crate) fn is_connected(&self, peer: NodeId) -> bool {
        self.info(peer)
            .is_some_and(|info| info.state == PeerState::Connected)
    }

    /// All peers: the connected first, then the known, each by id.
    pub(crate) fn list(&self) -> Vec<PeerInfo> {
        let (mut connected, known): (Vec<_>, Vec<_>) = self
            .peers
            .values()
            .map(|entry| entry.info.clone())
            .partition(|info| info.state == PeerState::Connected);
        connected.extend(known);
        connected
    }

    /// Connected peers that speak our protocols, or have not said yet.
    pub(crate) fn ours(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers
            .values()
            .filter(|entry| {
                entry.info.state == PeerState::Connected && entry.info.speaks_ours != Some(false)
            })
            .map(|entry| entry.info.peer)
    }

    /// Connected peers.
    pub(crate) fn connected(&self) -> usize {
        self.peers
            .values()
            .filter(|entry| entry.info.state == PeerState::Connected)
            .count()
    }

    /// Those to dial again of the bootstrap peers and neighbours that are not connected. The former come first, for without
    /// them there may be no way back; the others have their turns, for those of many a network that was left never answer.
    pub(crate) fn next_lost(&mut self, max: usize) -> Vec<NodeId> {
        let last = self.last_redialled;
        let lost = self.peers.values().filter_map(|entry| {
            let peer = entry.info.peer;
            let named = entry.found.contains(&FoundBy::Bootstrap);
            let wanted = named || entry.found.contains(&FoundBy::Mdns);
            let had_its_turn = last.is_some_and(|last| peer <= last);
            (wanted && entry.info.state == PeerState::Known).then_some((!named, had_its_turn, peer))
        });
        let mut lost: Vec<(bool, bool, NodeId)> = lost.collect();
        lost.sort_unstable();
        lost.truncate(max);
        self.last_redialled = lost.last().map(|(.., peer)| *peer).or(last);
        lost.into_iter().map(|(.., peer)| peer).collect()
    }

    /// Connected peers that nobody would miss, the longest idle first: not neighbours, not named by the operator, of no
    /// use to a transfer so far, and not spared by the caller.
    pub(crate) fn idle(&self, spared: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let kept = [
            FoundBy::Mdns,
            FoundBy::Bootstrap,
            FoundBy::Manual,
            FoundBy::Ticket,
        ];
        let mut idle: Vec<&PeerInfo> = self
            .peers
            .values()
            .filter(|entry| entry.info.state == PeerState::Connected)
            .filter(|entry| kept.iter().all(|by| !entry.found.contains(by)))
            .map(|entry| &entry.info)
            .filter(|info| !spared(info.peer))
            .collect();
        idle.sort_by_key(|info| (info.up.saturating_add(info.down), info.since));
        idle.into_iter().map(|info| info.peer).collect()
    }

    /// Forgets the longest unseen peer that is not connected, if there are too many. Never a bootstrap peer, which may be
    /// down for days: nobody would name it again.
    fn make_room(&mut self, keep: NodeId) {
        let known: Vec<&PeerInfo> = self
            .peers
            .values()
            .filter(|entry| !entry.found.contains(&FoundBy::Bootstrap))
            .map(|entry| &entry.info)
            .filter(|info| info.state == PeerState::Known && info.peer != keep)
            .collect();
        if known.len() < MAX_KNOWN {
            return;
        }
        let oldest = known.iter().min_by_key(|info| info.last_seen);
        if let Some(peer) = oldest.map(|info| info.peer) {
            self.peers.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u32) -> NodeId {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend(std::iter::repeat_n(n.to_be_bytes(), 8).flatten());
        NodeId::from_bytes(&bytes).unwrap()
    }

    fn address(n: u32) -> Address {
        format!("/ip4/10.0.{}.{}/tcp/4711", n / 256, n % 256)
            .parse()
            .unwrap()
    }

    #[test]
    fn a_peer_joins_and_leaves_and_stays_known() {
        let now = SystemTime::UNIX_EPOCH;
        let mut peers = Peers::default();
        peers.on_found(node(1), Some(address(1)), FoundBy::Mdns, now);
        assert!(!peers.is_connected(node(1)));
        let PeerChange::Joined(info) = peers.on_connected(node(1), address(2), false, false, now)
        else {
            panic!("a first connection is a joining")
        };
        assert_eq!(info.addresses, [address(2), address(1)]);
        assert_eq!(info.found, [FoundBy::Mdns]);
        assert!(peers.is_connected(node(1)));
        let Some(PeerChange::Left(info)) = peers.on_disconnected(node(1)) else {
            panic!("the last connection's end is a leaving")
        };
        assert_eq!((info.state, info.since), (PeerState::Known, None));
        assert_eq!(peers.list().len(), 1);
    }

    #[test]
    fn addresses_and_known_peers_are_bounded() {
        let now = SystemTime::UNIX_EPOCH;
        let mut peers = Peers::default();
        for n in 0..10_000 {
            peers.on_found(node(1), Some(address(n)), FoundBy::Dht, now);
        }
        assert_eq!(peers.addresses(node(1)).len(), MAX_ADDRESSES);
        peers.on_connected(node(2), address(1), true, false, now);
        for n in 10..3 * MAX_KNOWN as u32 {
            let seen = now + Duration::from_secs(u64::from(n));
            peers.on_found(node(n), None, FoundBy::Dht, seen);
        }
        assert!(peers.list().len() <= MAX_KNOWN + 2);
        assert!(
            peers.is_connected(node(2)),
            "a connected peer is never forgotten"
        );
        assert!(
            peers.info(node(1)).is_none(),
            "the longest unseen goes first"
        );
    }

    #[test]
    fn the_idle_are_those_nobody_named() {
        let now = SystemTime::UNIX_EPOCH;
        let mut peers = Peers::default();
        for n in 1..=4 {
            peers.on_connected(node(n), address(n), true, false, now);
        }
        peers.on_found(node(1), None, FoundBy::Bootstrap, now);
        peers.on_found(node(2), None, FoundBy::Mdns, now);
        peers.on_bytes(node(3), 10, 0, now);
        assert_eq!(peers.idle(|_| false), [node(4), node(3)]);
        assert_eq!(peers.idle(|peer| peer == node(4)), [node(3)]);
    }

    /// The operator's peers are down for a day, while strangers come and go.
    #[test]
    fn a_bootstrap_peer_is_never_forgotten() {
        let now = SystemTime::UNIX_EPOCH;
        let mut peers = Peers::default();
        peers.on_found(node(1), Some(address(1)), FoundBy::Bootstrap, now);
        for n in 10..3 * MAX_KNOWN as u32 {
            let seen = now + Duration::from_secs(u64::from(n));
            peers.on_found(node(n), None, FoundBy::Dht, seen);
        }
        assert_eq!(peers.addresses(node(1)), [address(1)]);
        assert!(peers.list().len() <= MAX_KNOWN + 2);
    }

    /// Neighbours of a network that was left a while ago do not keep the others from being dialled.
    #[test]
    fn bootstrap_peers_are_dialled_again_first_and_neighbours_in_turn() {
        let now = SystemTime::UNIX_EPOCH;
        let mut peers = Peers::default();
        for n in 1..=20 {
            peers.on_found(node(n), None, FoundBy::Mdns, now);
        }
        peers.on_connected(node(20), address(20), false, false, now);
        peers.on_found(node(30), None, FoundBy::Bootstrap, now);
        peers.on_found(node(31), None, FoundBy::Dht, now);
        let ids = |ns: Vec<u32>| -> Vec<NodeId> { ns.into_iter().map(node).collect() };
        let first = std::iter::once(30).chain(1..=15).collect();
        assert_eq!(peers.next_lost(16), ids(first));
        let second = [30, 16, 17, 18, 19].into_iter().chain(1..=11).collect();
        assert_eq!(peers.next_lost(16), ids(second));
        let third = std::iter::once(30).chain(12..=19).chain(1..=7).collect();
        assert_eq!(peers.next_lost(16), ids(third));
        assert!(Peers::default().next_lost(16).is_empty());
    }
}
