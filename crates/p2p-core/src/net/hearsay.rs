//! What is believed of addresses that others name: nothing that would have this node dial into a network from which they are
//! not themselves. kad dials whomever the answers to its queries name, at the addresses they name; so a stranger could have
//! every node that asks it knock at `192.168.1.1`, or at a service of the node's own machine.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    kad,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use super::records::Records;
use crate::content::Address;

/// From how far away an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// From the machine itself.
    Machine,
    /// From its local network.
    Lan,
    /// From everywhere.
    World,
}

impl Reach {
    /// Of the other end of a connection. What leads through a relay may come from anywhere.
    pub(super) fn of_remote(address: &Multiaddr) -> Self {
        let direct = Address::from_multiaddr(address.clone()).ok();
        match direct.filter(|address| !address.is_relayed()) {
            Some(address) if address.is_loopback() => Self::Machine,
            Some(address) if address.is_private() => Self::Lan,
            _ => Self::World,
        }
    }

    /// Of an address that somebody named; `None` if it is none to dial at all.
    pub(super) fn of_named(address: &Multiaddr) -> Option<Self> {
        let address = Address::from_multiaddr(address.clone()).ok()?;
        match (address.is_loopback(), address.is_private()) {
            (true, _) => Some(Self::Machine),
            (false, true) => Some(Self::Lan),
            (false, false) => address.is_global().then_some(Self::World),
        }
    }

    /// Whether somebody that far away can know of this address.
    pub(super) fn knows(self, address: &Multiaddr) -> bool {
        Self::of_named(address).is_some_and(|named| named >= self)
    }
}

/// kad, which dials at no address that whoever named it cannot know.
///
/// kad does not say who named an address. So while a query runs, all are believed as little as the farthest of those who
/// may have answered it: one connection from beyond the local network, and no private address is dialled on hearsay.
/// Neighbours are still found by multicast, and by each other on a network that is all private.
pub(crate) struct Dht {
    kad: kad::Behaviour<Records>,
    connections: HashMap<ConnectionId, Reach>,
    /// The farthest that was connected while the present queries ran.
    farthest: Option<Reach>,
}

impl Dht {
    pub(super) fn new(kad: kad::Behaviour<Records>) -> Self {
        Self {
            kad,
            connections: HashMap::new(),
            farthest: None,
        }
    }

    /// Whether an address of the routing table; those were seen by ourselves, or told by the peer that has them.
    fn is_known(&mut self, peer: PeerId, address: &Multiaddr) -> bool {
        let bucket = self.kad.kbucket(peer);
        bucket.is_some_and(|bucket| {
            let mut entries = bucket.iter();
            let entry = entries.find(|entry| *entry.node.key.preimage() == peer);
            entry.is_some_and(|entry| entry.node.value.iter().any(|known| known == address))
        })
    }
}

impl Deref for Dht {
    type Target = kad::Behaviour<Records>;

    fn deref(&self) -> &Self::Target {
        &self.kad
    }
}

impl DerefMut for Dht {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.kad
    }
}

impl NetworkBehaviour for Dht {
    type ConnectionHandler = <kad::Behaviour<Records> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad
            .handle_established_outbound_connection(connection, peer, remote, role, port_use)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut named = self
            .kad
            .handle_pending_outbound_connection(connection, peer, addresses, role)?;
        let Some(peer) = peer else {
            return Ok(named);
        };
        if self.kad.iter_queries().next().is_none() {
            self.farthest = self.connections.values().max().copied();
        }
        let farthest = self.farthest;
        named.retain(|address| {
            farthest.is_none_or(|far| far.knows(address)) || self.is_known(peer, address)
        });
        Ok(named)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(established) => {
                let reach = Reach::of_remote(established.endpoint.get_remote_address());
                self.connections.insert(established.connection_id, reach);
                self.farthest = self.farthest.max(Some(reach));
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.connections.remove(&closed.connection_id);
            }
            _ => {}
        }
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.kad
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.kad.poll(cx)
    }
}
