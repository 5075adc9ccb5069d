//! How others can reach this node, as far as that is known: what they found when they dialled back, what they see of our
//! addresses, what the router said. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Instant,
};

use crate::content::{Address, NodeId};

/// Addresses whose tests are remembered; the oldest go.
const MAX_TESTED: usize = 32;
/// Peers whose word about our address is remembered.
const MAX_OBSERVERS: usize = 64;
/// Neighbours' addresses that are remembered.
const MAX_NEIGHBOURS: usize = 64;

/// An address of this node that another tried.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tested {
    /// The address.
    pub address: Address,
    /// Whether this node was there.
    pub reachable: bool,
    /// Who tried.
    pub by: NodeId,
    /// When.
    pub at: Instant,
}

/// What the router said when it was asked to open a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Upnp {
    /// It was not asked, or has not answered yet.
    #[default]
    Unknown,
    /// It maps a port to this node.
    Mapped,
    /// No router that does such things answers.
    NoGateway,
    /// One does, and has no public address itself: there is another router behind it.
    NotRoutable,
}

/// What routers on the way make of our ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Nat {
    /// Too few have told what they see.
    Unknown,
    /// None: others see an address that this node has.
    None,
    /// Others see the same port (RFC 4787: endpoint-independent mapping): holes can be punched.
    EndpointIndependent,
    /// Each sees another port: holes can be punched only to those who have a better router.
    Symmetric,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reach {
    tested: VecDeque<Tested>,
    /// What each peer sees, of connections that we made.
    observed: BTreeMap<NodeId, Address>,
    pub(crate) upnp: Upnp,
    /// Where neighbours were heard by multicast.
    neighbours: VecDeque<Address>,
}

impl Reach {
    /// Another node has tried an address of ours.
    pub(crate) fn on_tested(&mut self, tested: Tested) {
        self.tested
            .retain(|known| known.address != tested.address || known.by != tested.by);
        self.tested.push_back(tested);
        while self.tested.len() > MAX_TESTED {
            self.tested.pop_front();
        }
    }

    /// A peer that we dialled says where it sees us.
    pub(crate) fn on_observed(&mut self, peer: NodeId, address: Address) {
        if self.observed.len() < MAX_OBSERVERS || self.observed.contains_key(&peer) {
            self.observed.insert(peer, address);
        }
    }

    /// A peer is gone, and its word is old.
    pub(crate) fn on_gone(&mut self, peer: NodeId) {
        self.observed.remove(&peer);
    }

    /// A neighbour was heard at this address.
    pub(crate) fn on_neighbour(&mut self, address: Address) {
        if !self.neighbours.contains(&address) {
            self.neighbours.push_back(address);
            if self.neighbours.len() > MAX_NEIGHBOURS {
                self.neighbours.pop_front();
            }
        }
    }

    /// The tests, the oldest first.
    pub(crate) fn tested(&self) -> impl Iterator<Item = &Tested> {
        self.tested.iter()
    }

    /// Addresses at which neighbours were heard.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = &Address> {
        self.neighbours.iter()
    }

    /// What the routers make of our ports, by what most see: by QUIC or TCP, IPv4 or IPv6, whichever is seen most. An address
    /// of our own is no work of a router.
    pub(crate) fn nat(&self, own: &[Address]) -> Nat {
        let public = self.observed.values().filter(|address| address.is_global());
        let ips: Vec<IpAddr> = own.iter().filter_map(Address::ip).collect();
        let is_own = |address: &&Address| address.ip().is_some_and(|ip| ips.contains(&ip));
        let (direct, translated): (Vec<&Address>, Vec<&Address>) = public.partition(is_own);
        let mut kinds: BTreeMap<(bool, bool), Vec<&Address>> = BTreeMap::new();
        for address in translated {
            let by_ipv4 = address.ip().is_some_and(|ip| ip.is_ipv4());
            let kind = (address.is_tcp(), by_ipv4);
            kinds.entry(kind).or_default().push(address);
        }
        let seen = kinds.into_values().max_by_key(Vec::len);
        match seen.unwrap_or_default().as_slice() {
            [] if direct.is_empty() => Nat::Unknown,
            [] => Nat::None,
            [_] => Nat::Unknown,
            seen if most_agree(seen) => Nat::EndpointIndependent,
            _ => Nat::Symmetric,
        }
    }
}

/// Whether more than half see the same. A single one may lie.
fn most_agree(seen: &[&Address]) -> bool {
    let agreeing = |one: &&Address| seen.iter().filter(|other| *other == one).count();
    let most = seen.iter().map(agreeing).max().unwrap_or(0);
    most > seen.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn peer(n: u8) -> NodeId {
        let key = crate::net::NodeKey::from_secret([n; 32]).unwrap();
        key.node_id().unwrap()
    }

    #[test]
    fn a_router_is_known_by_what_several_see() {
        let own = [at("/ip4/192.168.1.5/udp/4711/quic-v1")];
        let nat = |seen: &[&str]| {
            let mut reach = Reach::default();
            for (n, address) in (0..).zip(seen) {
                reach.on_observed(peer(n), at(address));
            }
            reach.nat(&own)
        };
        let (same, other) = (
            "/ip4/45.0.0.1/udp/4711/quic-v1",
            "/ip4/45.0.0.1/udp/9999/quic-v1",
        );
        assert_eq!(nat(&[]), Nat::Unknown);
        assert_eq!(nat(&[same]), Nat::Unknown);
        assert_eq!(nat(&[same, same]), Nat::EndpointIndependent);
        assert_eq!(nat(&[same, other]), Nat::Symmetric);
        assert_eq!(nat(&[same, same, other]), Nat::EndpointIndependent);
        assert_eq!(nat(&[same, same, other, other]), Nat::Symmetric);
        assert_eq!(nat(&["/ip4/10.0.0.1/tcp/1", same]), Nat::Unknown, "private");
        let tcp = "/ip4/45.0.0.1/tcp/4711";
        assert_eq!(nat(&[tcp, tcp, same]), Nat::EndpointIndependent);
        let own = [at("/ip4/45.0.0.1/udp/4711/quic-v1")];
        let mut reach = Reach::default();
        reach.on_observed(peer(1), at(same));
        assert_eq!(reach.nat(&own), Nat::None);
        // A router for IPv4 beside an address of our own for IPv6.
        let own = [at("/ip6/2a00::1/udp/4711/quic-v1")];
        for n in 2..4 {
            reach.on_observed(peer(n), at("/ip6/2a00::1/udp/4711/quic-v1"));
            reach.on_observed(peer(n + 2), at(same));
        }
        assert_eq!(reach.nat(&own), Nat::EndpointIndependent);
        for n in 2..6 {
            reach.on_gone(peer(n));
        }
        reach.on_gone(peer(1));
        assert_eq!(reach.nat(&own), Nat::Unknown);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_new() {
        let mut reach = Reach::default();
        let now = Instant::now();
        for n in 0..200_u8 {
            reach.on_tested(Tested {
                address: at(&format!("/ip4/45.0.0.1/tcp/{}", u16::from(n % 50) + 1)),
                reachable: n >= 100,
                by: peer(n % 3),
                at: now,
            });
            reach.on_observed(peer(n), at("/ip4/45.0.0.1/tcp/1"));
            reach.on_neighbour(at(&format!("/ip4/10.0.0.{n}/tcp/1")));
        }
        assert_eq!(reach.tested().count(), MAX_TESTED);
        assert!(reach.tested().all(|tested| tested.reachable));
        assert_eq!(reach.observed.len(), MAX_OBSERVERS);
        assert_eq!(reach.neighbours().count(), MAX_NEIGHBOURS);
    }
}
