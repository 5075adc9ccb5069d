//! Behaviours that dial where a stranger tells them to: the library does as it is told, and here it is judged first.

use std::{
    collections::HashSet,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    dcutr,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use crate::content::Address;

/// Why a peer is not dialled.
#[derive(Debug, thiserror::Error)]
#[error("not dialled: {0}")]
pub(super) struct Refused(pub(super) &'static str);

type Judge = Box<dyn FnMut(PeerId, &[Multiaddr]) -> Result<(), Refused> + Send>;

/// A behaviour each of whose dials is judged. What others dial is not its matter.
pub(crate) struct Judged<B> {
    inner: B,
    judge: Judge,
    /// Dials that the behaviour has asked for.
    asked: HashSet<ConnectionId>,
}

/// The holes that are punched: both sides tell each other, through a relay, where they dial one another. Only public
/// addresses are told and dialled.
///
/// Source: <https://github.com/libp2p/specs/blob/master/relay/DCUtR.md>.
pub(super) fn punches(local: PeerId) -> Judged<dcutr::Behaviour> {
    Judged::new(dcutr::Behaviour::new(local), |_, addresses| {
        all_public(addresses)
    })
}

pub(super) fn all_public(addresses: &[Multiaddr]) -> Result<(), Refused> {
    if addresses.iter().all(is_public) {
        Ok(())
    } else {
        Err(Refused("an address that is not public"))
    }
}

fn is_public(address: &Multiaddr) -> bool {
    let address = Address::from_multiaddr(address.clone());
    address.is_ok_and(|address| address.is_global_ip() && !address.is_relayed())
}

impl<B> Judged<B> {
    pub(super) fn new(
        inner: B,
        judge: impl FnMut(PeerId, &[Multiaddr]) -> Result<(), Refused> + Send + 'static,
    ) -> Self {
        Self {
            inner,
            judge: Box::new(judge),
            asked: HashSet::new(),
        }
    }

    fn judge(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
    ) -> Result<(), Refused> {
        if !self.asked.remove(&connection) {
            return Ok(());
        }
        let peer = peer.ok_or(Refused("nobody in particular"))?;
        (self.judge)(peer, addresses)
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
        self.judge(connection, peer, addresses)
            .map_err(ConnectionDenied::new)?;
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
        // It would be told to peers, who refuse to dial there.
        if let FromSwarm::NewExternalAddrCandidate(candidate) = &event
            && !is_public(candidate.addr)
        {
            return;
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner
            .on_connection_handler_event(peer, connection, event);
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
