//! Which dials a walk through the DHT waits for, how long, and whom the last of them have not reached. Of what a server
//! names, a part is gone; a walk has nine places, and each dial to who is gone takes one of them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol, swarm::ConnectionId};

use crate::net::hearsay::Reach;

/// A walk waits this long for a connection: TCP sends its first packet three times within it. Whoever needs longer may be
/// connected to for other reasons, and is asked then.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// An address at which a peer was not reached is not tried again by walks for this long.
const MISSED_FOR: Duration = Duration::from_secs(60);

/// Addresses remembered as such.
const MAX_MISSED: usize = 1024;

/// A dial under way.
struct Dial {
    peer: PeerId,
    addresses: Vec<Multiaddr>,
    began: Instant,
    /// Only a walk asked for it.
    of_walk: bool,
    given_up: bool,
}

/// The dials of one node.
#[derive(Default)]
pub(super) struct Dials {
    /// By the connection that they are to become.
    under_way: HashMap<ConnectionId, Dial>,
    /// Those of walks, in the order they began; those that have ended are passed over.
    walks: VecDeque<(Instant, ConnectionId)>,
    missed: HashMap<(PeerId, Multiaddr), Instant>,
    /// In the order they were missed.
    missed_order: VecDeque<(Instant, PeerId, Multiaddr)>,
    /// When anybody was last heard, by how far away they are.
    heard: BTreeMap<Reach, Instant>,
}

impl Dials {
    /// A walk wants to dial.
    pub(super) fn wanted(&mut self, connection: ConnectionId, peer: PeerId, now: Instant) {
        let dial = Dial {
            peer,
            addresses: Vec::new(),
            began: now,
            of_walk: true,
            given_up: false,
        };
        self.under_way.insert(connection, dial);
        self.walks.push_back((now, connection));
    }

    /// A dial is about to begin at these addresses. For a walk, those at which the peer was missed are taken out.
    pub(super) fn begins(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addresses: &mut Vec<Multiaddr>,
        now: Instant,
    ) {
        let dial = self.under_way.entry(connection).or_insert(Dial {
            peer,
            addresses: Vec::new(),
            began: now,
            of_walk: false,
            given_up: false,
        });
        if dial.of_walk {
            addresses.retain(|address| !missed(&self.missed, peer, address, now));
        }
        dial.addresses.clone_from(addresses);
    }

    /// A connection came to be, or somebody said something: the network is there, that far.
    pub(super) fn heard(&mut self, reach: Reach, now: Instant) {
        self.heard.insert(reach, now);
    }

    /// Somebody else wanted to dial a peer that is being dialled, and now waits for that.
    pub(super) fn wanted_by_others(&mut self, peer: PeerId) {
        let dials = self.under_way.values_mut();
        for dial in dials.filter(|dial| dial.peer == peer) {
            dial.of_walk = false;
        }
    }

    /// Whether a dial is one of those under way.
    pub(super) fn is_under_way(&self, connection: ConnectionId) -> bool {
        self.under_way.contains_key(&connection)
    }

    /// A peer is connected, whoever dialled: nobody waits for dials to it, and to end them would end the connection too.
    pub(super) fn connected(&mut self, peer: PeerId) {
        self.under_way.retain(|_, dial| dial.peer != peer);
    }

    /// A dial has failed, at these addresses; none are known of one that was given up. Those at which the peer was missed
    /// are the ones that a walk may dial, if others as far away were heard meanwhile, so that our network was there.
    pub(super) fn failed(
        &mut self,
        connection: ConnectionId,
        at: &[Multiaddr],
        now: Instant,
    ) -> Option<(PeerId, Vec<Multiaddr>)> {
        let mut dial = self.under_way.remove(&connection)?;
        if !dial.given_up {
            let at: Vec<Multiaddr> = at.iter().map(without_peer).collect();
            dial.addresses
                .retain(|address| at.contains(&without_peer(address)));
        }
        let heard = &self.heard;
        dial.addresses.retain(|address| {
            let far = Reach::of_named(address).unwrap_or(Reach::World);
            heard.range(far..).any(|(_, heard)| *heard > dial.began)
        });
        for address in &dial.addresses {
            self.miss(dial.peer, address, now);
        }
        (!dial.addresses.is_empty()).then_some((dial.peer, dial.addresses))
    }

    fn miss(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) {
        self.missed.insert((peer, address.clone()), now);
        self.missed_order.push_back((now, peer, address.clone()));
        while let Some((at, peer, address)) = self.missed_order.front() {
            let expired = now.saturating_duration_since(*at) >= MISSED_FOR;
            if !expired && self.missed_order.len() <= MAX_MISSED {
                return;
            }
            let key = (*peer, address.clone());
            // Missed again since, it has another place in the order.
            if self.missed.get(&key) == Some(at) {
                self.missed.remove(&key);
            }
            self.missed_order.pop_front();
        }
    }

    /// A peer for whom a walk has waited long enough, while nobody else waits for that dial.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<PeerId> {
        while let Some((began, connection)) = self.walks.front().copied() {
            let waits = self.under_way.get(&connection);
            if waits.is_some() && now.saturating_duration_since(began) < PATIENCE {
                return None;
            }
            self.walks.pop_front();
            let Some(peer) = waits.map(|dial| dial.peer) else {
                continue;
            };
            let mut to_peer = self.under_way.values().filter(|dial| dial.peer == peer);
            if to_peer.all(|dial| dial.of_walk)
                && let Some(dial) = self.under_way.get_mut(&connection)
            {
                dial.given_up = true;
                return Some(peer);
            }
        }
        None
    }

    /// When [`Dials::overdue`] has to be asked next.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.walks.front().map(|(began, _)| *began + PATIENCE)
    }
}

/// The swarm dials with the peer's id at the end of an address.
fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

fn missed(
    missed: &HashMap<(PeerId, Multiaddr), Instant>,
    peer: PeerId,
    address: &Multiaddr,
    now: Instant,
) -> bool {
    let at = missed.get(&(peer, address.clone()));
    at.is_some_and(|at| now.saturating_duration_since(*at) < MISSED_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn connection(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn address(n: u16) -> Multiaddr {
        format!("/ip4/8.8.8.8/tcp/{n}").parse().unwrap()
    }

    /// Has a walk dial a peer, and says at which of these addresses.
    fn walk(dials: &mut Dials, n: usize, peer: PeerId, at: &[u16], now: Instant) -> Vec<Multiaddr> {
        let mut addresses = at.iter().copied().map(address).collect();
        dials.wanted(connection(n), peer, now);
        dials.begins(connection(n), peer, &mut addresses, now);
        addresses
    }

    #[test]
    fn a_walk_waits_four_seconds_and_does_not_try_the_same_again() {
        let (mut dials, peer, start) = (Dials::default(), PeerId::random(), Instant::now());
        walk(&mut dials, 1, peer, &[1, 2], start);
        dials.heard(Reach::World, start + SECOND);
        assert_eq!(dials.next_overdue(), Some(start + PATIENCE));
        assert_eq!(dials.overdue(start + 3 * SECOND), None);
        assert_eq!(dials.overdue(start + PATIENCE), Some(peer));
        assert_eq!(dials.overdue(start + PATIENCE), None);
        assert_eq!(dials.next_overdue(), None);
        let failed = dials.failed(connection(1), &[], start + PATIENCE);
        assert_eq!(failed, Some((peer, vec![address(1), address(2)])));
        // Another address is tried, and so is another peer at the same.
        let soon = start + 10 * SECOND;
        assert_eq!(walk(&mut dials, 2, peer, &[1, 2, 3], soon), [address(3)]);
        assert_eq!(walk(&mut dials, 3, PeerId::random(), &[1], soon).len(), 1);
        let late = start + PATIENCE + MISSED_FOR;
        assert_eq!(walk(&mut dials, 4, peer, &[1], late), [address(1)]);
    }

    #[test]
    fn without_a_network_nobody_is_missed() {
        let (mut dials, peer, start) = (Dials::default(), PeerId::random(), Instant::now());
        dials.heard(Reach::World, start);
        walk(&mut dials, 1, peer, &[1], start + SECOND);
        // A neighbour is heard while the line to the world is cut.
        dials.heard(Reach::Machine, start + 2 * SECOND);
        dials.heard(Reach::Lan, start + 2 * SECOND);
        let tried = [address(1)];
        assert_eq!(
            dials.failed(connection(1), &tried, start + 3 * SECOND),
            None
        );
        let again = walk(&mut dials, 2, peer, &[1], start + 4 * SECOND);
        assert_eq!(again, [address(1)]);
        // And that neighbour is missed when another is heard.
        let near: Multiaddr = "/ip4/192.168.1.7/tcp/1".parse().unwrap();
        let mut addresses = vec![near.clone()];
        dials.wanted(connection(3), peer, start);
        dials.begins(connection(3), peer, &mut addresses, start);
        let missed = dials.failed(
            connection(3),
            std::slice::from_ref(&near),
            start + 3 * SECOND,
        );
        assert_eq!(missed, Some((peer, vec![near])));
    }

    #[test]
    fn what_was_not_dialled_is_not_missed() {
        let (mut dials, peer, start) = (Dials::default(), PeerId::random(), Instant::now());
        walk(&mut dials, 1, peer, &[1, 2], start);
        dials.heard(Reach::World, start + SECOND);
        // As the swarm says it, and an address that others named.
        let tried = [address(2).with(Protocol::P2p(peer)), address(7)];
        let missed = dials.failed(connection(1), &tried, start + 2 * SECOND);
        assert_eq!(missed, Some((peer, vec![address(2)])));
        // Refused by ourselves, or not even begun: no fault of the peer.
        walk(&mut dials, 2, peer, &[1], start);
        assert_eq!(dials.failed(connection(2), &[], start + 2 * SECOND), None);
    }

    #[test]
    fn who_dials_for_itself_is_not_cut_short_and_tries_everything() {
        let (mut dials, peer, start) = (Dials::default(), PeerId::random(), Instant::now());
        walk(&mut dials, 1, peer, &[1], start);
        dials.heard(Reach::World, start + SECOND);
        let tried = [address(1)];
        let missed = dials.failed(connection(1), &tried, start + SECOND);
        assert!(missed.is_some());
        let mut addresses = vec![address(1)];
        dials.begins(connection(2), peer, &mut addresses, start + SECOND);
        assert_eq!(addresses, [address(1)]);
        walk(&mut dials, 3, peer, &[2], start + SECOND);
        assert_eq!(dials.overdue(start + 9 * SECOND), None);
        // Somebody who came too late to dial itself.
        let other = PeerId::random();
        walk(&mut dials, 4, other, &[2], start + 10 * SECOND);
        assert!(dials.is_under_way(connection(4)));
        dials.wanted_by_others(other);
        assert_eq!(dials.overdue(start + 19 * SECOND), None);
    }

    #[test]
    fn a_connection_ends_the_wait() {
        let (mut dials, peer, start) = (Dials::default(), PeerId::random(), Instant::now());
        walk(&mut dials, 1, peer, &[1], start);
        walk(&mut dials, 2, PeerId::random(), &[1], start);
        dials.connected(peer);
        assert_eq!(dials.under_way.len(), 1);
        dials.connected(dials.under_way[&connection(2)].peer);
        assert_eq!(dials.overdue(start + 9 * SECOND), None);
        let tried = [address(1)];
        assert_eq!(dials.failed(connection(1), &tried, start + SECOND), None);
    }

    #[test]
    fn few_are_remembered() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        for n in 0..3000 {
            let now = start + Duration::from_millis(n as u64);
            walk(&mut dials, n, PeerId::random(), &[1], now);
            dials.heard(Reach::World, now + SECOND);
            dials.failed(connection(n), &[address(1)], now + SECOND);
        }
        assert_eq!(dials.missed.len(), MAX_MISSED);
        assert_eq!(dials.missed_order.len(), MAX_MISSED);
        assert!(dials.under_way.is_empty());
        assert_eq!(dials.overdue(start + 9 * SECOND), None);
        assert!(dials.walks.is_empty());
    }
}
