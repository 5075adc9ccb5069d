//! Dialling back: a peer asks whether it can be reached at an address, and is dialled there (autonat v2). The library does
//! as it is told; this bounds what a stranger can have a node dial.
//!
//! Source: <https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md>.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    autonat::v2::server,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use crate::content::Address;

/// Within this time a peer is dialled back [`PER_PEER`] times, and all together [`IN_ALL`] times.
const PERIOD: Duration = Duration::from_secs(60);
const PER_PEER: usize = 4;
const IN_ALL: usize = 30;

/// Why a peer is not dialled back.
#[derive(Debug, thiserror::Error)]
#[error("not dialled back: {0}")]
struct Refused(&'static str);

/// The server of autonat, which dials public addresses only, and not often.
pub(crate) struct DialBacks {
    server: server::Behaviour,
    /// Dials that the server has asked for.
    asked: HashSet<ConnectionId>,
    lately: Lately,
}

impl DialBacks {
    pub(super) fn new() -> Self {
        Self {
            server: server::Behaviour::default(),
            asked: HashSet::new(),
            lately: Lately::default(),
        }
    }
}

/// Who was dialled back within the last [`PERIOD`].
#[derive(Debug, Default)]
struct Lately {
    dials: VecDeque<(Instant, PeerId)>,
    of_peer: HashMap<PeerId, usize>,
}

impl Lately {
    /// Whether this peer may be dialled back now; it counts as done.
    fn allows(&mut self, peer: PeerId, now: Instant) -> bool {
        while let Some((at, old)) = self.dials.front().copied() {
            if now.saturating_duration_since(at) < PERIOD {
                break;
            }
            self.dials.pop_front();
            if let Some(count) = self.of_peer.get_mut(&old) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.of_peer.remove(&old);
                }
            }
        }
        let count = self.of_peer.get(&peer).copied().unwrap_or(0);
        if self.dials.len() >= IN_ALL || count >= PER_PEER {
            return false;
        }
        self.dials.push_back((now, peer));
        self.of_peer.insert(peer, count.saturating_add(1));
        true
    }
}

fn is_public(address: &Multiaddr) -> bool {
    let address = Address::from_multiaddr(address.clone());
    address.is_ok_and(|address| address.is_global() && !address.is_relayed())
}

impl NetworkBehaviour for DialBacks {
    type ConnectionHandler = <server::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = server::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.server
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.asked.remove(&connection) {
            if !addresses.iter().all(is_public) {
                return Err(ConnectionDenied::new(Refused("no public address")));
            }
            let now = Instant::now();
            if !peer.is_some_and(|peer| self.lately.allows(peer, now)) {
                return Err(ConnectionDenied::new(Refused("too many within a minute")));
            }
        }
        self.server
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.server
            .handle_established_outbound_connection(connection, peer, remote, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.server.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.server
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let polled = self.server.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &polled {
            self.asked.insert(opts.connection_id());
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_a_node_dial_often() {
        let (mut lately, now) = (Lately::default(), Instant::now());
        let peer = PeerId::random();
        let mut allowed = (0..10).filter(|_| lately.allows(peer, now)).count();
        assert_eq!(allowed, PER_PEER);
        // A stranger has as many names as it likes.
        allowed += (0..1000)
            .filter(|_| lately.allows(PeerId::random(), now))
            .count();
        assert_eq!(allowed, IN_ALL);
        assert!(!lately.allows(PeerId::random(), now + PERIOD / 2));
        assert!(lately.allows(peer, now + PERIOD));
        assert_eq!((lately.dials.len(), lately.of_peer.len()), (1, 1));
    }

    #[test]
    fn nobody_is_dialled_at_an_address_that_is_not_public() {
        let mut dial_backs = DialBacks::new();
        let mut dials = |addresses: &[&str]| {
            let connection = ConnectionId::new_unchecked(1);
            dial_backs.asked.insert(connection);
            let addresses: Vec<Multiaddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let peer = Some(PeerId::random());
            let dialled = dial_backs.handle_pending_outbound_connection(
                connection,
                peer,
                &addresses,
                Endpoint::Dialer,
            );
            dialled.is_ok()
        };
        assert!(dials(&["/ip4/45.0.0.1/tcp/4711"]));
        for private in [
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/ip4/169.254.169.254/tcp/80",
            "/ip6/::1/tcp/22",
            "/ip6/fe80::1/tcp/22",
            "/dns4/localhost/tcp/22",
        ] {
            assert!(!dials(&[private]), "{private}");
            assert!(!dials(&["/ip4/45.0.0.1/tcp/4711", private]), "{private}");
        }
        // What others ask to be dialled is not judged here.
        let other = dial_backs.handle_pending_outbound_connection(
            ConnectionId::new_unchecked(2),
            None,
            &["/ip4/127.0.0.1/tcp/1".parse().unwrap()],
            Endpoint::Dialer,
        );
        assert!(other.is_ok());
    }
}
