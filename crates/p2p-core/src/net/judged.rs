//! Behaviours that dial where a stranger tells them to: the library does as it is told, and here it is judged first.

use std::{
    collections::HashSet,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId, autonat,
    core::{Endpoint, transport::PortUse},
    dcutr,
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

use crate::content::Address;

/// Why a peer is not dialled.
#[derive(Debug, thiserror::Error)]
#[error("not dialled: an address that is not public, or too many")]
struct Refused;

/// What a behaviour hears from a connection.
pub(super) type HandlerEvent<B> =
    <<B as NetworkBehaviour>::ConnectionHandler as ConnectionHandler>::ToBehaviour;

/// Whether it is passed on.
type Admit<B> = Box<dyn FnMut(PeerId, &HandlerEvent<B>) -> bool + Send>;

/// Addresses at which a hole is punched: no honest peer names more.
const MAX_DIALLED: usize = 20;

/// Addresses of ours that are taken from peers within [`CANDIDATES_PERIOD`].
const MAX_CANDIDATES: usize = 32;
const CANDIDATES_PERIOD: Duration = Duration::from_secs(3600);

/// A behaviour that dials public addresses only. What others dial is not its matter.
pub(crate) struct Judged<B: NetworkBehaviour> {
    inner: B,
    admit: Admit<B>,
    /// Dials that the behaviour has asked for.
    asked: HashSet<ConnectionId>,
    candidates: Candidates,
}

/// Where peers say that they see us. They may say anything, and the library keeps it for good.
#[derive(Default)]
struct Candidates {
    named: HashSet<Multiaddr>,
    since: Option<Instant>,
}

impl Candidates {
    /// Whether this is one to look into.
    fn admits(&mut self, address: &Multiaddr, now: Instant) -> bool {
        if !is_public(address) {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= CANDIDATES_PERIOD {
            self.named.clear();
            self.since = Some(now);
        }
        self.named.contains(address)
            || self.named.len() < MAX_CANDIDATES && self.named.insert(address.clone())
    }
}

/// The holes that are punched: both sides tell each other, through a relay, where they dial one another. Only public
/// addresses are told and dialled.
///
/// Source: <https://github.com/libp2p/specs/blob/master/relay/DCUtR.md>.
pub(super) fn punches(local: PeerId) -> Judged<dcutr::Behaviour> {
    Judged::new(dcutr::Behaviour::new(local), |_, _| true)
}

/// The client of autonat, which has others see whether it can be reached where they say that they see it.
pub(super) fn own_tests() -> Judged<autonat::v2::client::Behaviour> {
    Judged::new(autonat::v2::client::Behaviour::default(), |_, _| true)
}

fn is_public(address: &Multiaddr) -> bool {
    let address = Address::from_multiaddr(address.clone());
    address.is_ok_and(|address| address.is_global_ip() && !address.is_relayed())
}

impl<B: NetworkBehaviour> Judged<B> {
    pub(super) fn new(
        inner: B,
        admit: impl FnMut(PeerId, &HandlerEvent<B>) -> bool + Send + 'static,
    ) -> Self {
        Self {
            inner,
            admit: Box::new(admit),
            asked: HashSet::new(),
            candidates: Candidates::default(),
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Judged<B> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
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
            let fits = addresses.len() <= MAX_DIALLED && addresses.iter().all(is_public);
            fits.then_some(())
                .ok_or_else(|| ConnectionDenied::new(Refused))?;
        }
        self.inner
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
        self.inner
            .handle_established_outbound_connection(connection, peer, remote, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            // It would be told to peers, who refuse to dial where it is not public.
            FromSwarm::NewExternalAddrCandidate(candidate)
                if !self.candidates.admits(candidate.addr, Instant::now()) =>
            {
                return;
            }
            // Others may have refused it before it was judged.
            FromSwarm::DialFailure(failure) => {
                self.asked.remove(&failure.connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if (self.admit)(peer, &event) {
            self.inner
                .on_connection_handler_event(peer, connection, event);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let polled = self.inner.poll(cx);
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
    fn few_addresses_are_taken_from_peers() {
        let (mut candidates, now) = (Candidates::default(), Instant::now());
        let address = |n: u16| -> Multiaddr { format!("/ip4/45.0.0.1/tcp/{n}").parse().unwrap() };
        let private = "/ip4/192.168.1.1/tcp/80".parse().unwrap();
        assert!(!candidates.admits(&private, now));
        let taken = (1..1000).filter(|n| candidates.admits(&address(*n), now));
        assert_eq!(taken.count(), MAX_CANDIDATES);
        assert!(candidates.admits(&address(1), now), "one that is known");
        let late = now + CANDIDATES_PERIOD;
        assert!(candidates.admits(&address(999), late));
        assert_eq!(candidates.named.len(), 1);
    }

    #[test]
    fn no_hole_is_punched_at_an_address_that_is_not_public() {
        let mut punches = punches(PeerId::random());
        let connection = ConnectionId::new_unchecked(1);
        let mut dials = |asked: bool, addresses: &[&str]| {
            if asked {
                punches.asked.insert(connection);
            }
            let addresses: Vec<Multiaddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let peer = Some(PeerId::random());
            let role = Endpoint::Dialer;
            punches
                .handle_pending_outbound_connection(connection, peer, &addresses, role)
                .is_ok()
        };
        let public = "/ip4/45.0.0.1/tcp/4711";
        assert!(dials(true, &[public]));
        assert!(dials(true, &[public; MAX_DIALLED]));
        assert!(!dials(true, &[public; MAX_DIALLED + 1]));
        for private in [
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/ip4/169.254.169.254/tcp/80",
            "/ip6/::1/tcp/22",
            "/ip6/fe80::1/tcp/22",
            "/dns4/localhost/tcp/22",
            "/dns4/example.org/tcp/80",
            "/ip4/45.0.0.1/tcp/1/ip4/127.0.0.1/tcp/22",
        ] {
            assert!(!dials(true, &[private]), "{private}");
            assert!(!dials(true, &[public, private]), "{private}");
            assert!(dials(false, &[private]), "others may dial {private}");
        }
    }
}
