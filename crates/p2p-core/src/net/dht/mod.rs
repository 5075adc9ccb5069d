//! kad, and what it lacks: it dials at no address that whoever named it cannot know, its walks do not wait long for who
//! does not come, its table forgets whom nobody reaches, and it gets to know the network with fewer requests.

mod dials;
mod refresh;

use std::{
    collections::HashMap,
    future::Future,
    ops::{Deref, DerefMut, RangeInclusive},
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    kad::{self, BootstrapError, BootstrapOk, KBucketKey, QueryId, QueryResult},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};
use tokio::time::Sleep;

use self::{dials::Dials, refresh::PER_PART};
use super::{hearsay::Reach, records::Records};

/// Keys tried for one in a certain part of the key space; the nearest part needs a twentieth of the nodes there are.
const TRIES: usize = 4096;

/// What kad hears from a connection.
type HandlerEvent = THandlerOutEvent<kad::Behaviour<Records>>;

/// kad with what it lacks.
///
/// kad does not say who named an address. So while a query runs, all are believed as little as the farthest of those who
/// may have answered it: one connection from beyond the local network, and no private address is dialled on hearsay.
/// Neighbours are still found by multicast, and by each other on a network that is all private.
pub(crate) struct Dht {
    kad: kad::Behaviour<Records>,
    connections: HashMap<ConnectionId, Reach>,
    /// The farthest that was connected while the present queries ran.
    farthest: Option<Reach>,
    dials: Dials,
    local: PeerId,
    /// Parts of the key space that are still to be walked to.
    parts: RangeInclusive<u32>,
    /// The walk to one of them.
    walk: Option<QueryId>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Dht {
    pub(super) fn new(local: PeerId, kad: kad::Behaviour<Records>) -> Self {
        Self {
            kad,
            connections: HashMap::new(),
            farthest: None,
            dials: Dials::default(),
            local,
            parts: refresh::parts([]),
            walk: None,
            timer: None,
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

    /// An event of kad. Its walks to itself are followed by ours, and all of these go no further.
    fn pass(&mut self, event: kad::Event) -> Option<kad::Event> {
        let kad::Event::OutboundQueryProgressed {
            id, result, step, ..
        } = &event
        else {
            return Some(event);
        };
        let home = match result {
            QueryResult::Bootstrap(Ok(BootstrapOk { peer, .. }))
            | QueryResult::Bootstrap(Err(BootstrapError::Timeout { peer, .. })) => *peer,
            QueryResult::GetClosestPeers(_) if self.walk == Some(*id) => {
                self.walk_on();
                return None;
            }
            _ => return Some(event),
        };
        if let Some(mut rest) = self.kad.query_mut(id).filter(|_| !step.last) {
            rest.finish();
        }
        // kad may walk to us again meanwhile: whoever comes into a small table makes it do so.
        if home == self.local && self.walk.is_none() {
            self.parts = self.parts();
            self.walk_on();
        }
        None
    }

    fn parts(&mut self) -> RangeInclusive<u32> {
        let buckets = self.kad.kbuckets();
        refresh::parts(buckets.filter_map(|bucket| {
            let (nearest, _) = bucket.range();
            Some((nearest.ilog2()?, bucket.num_entries()))
        }))
    }

    /// Walks into the farthest part that is left.
    fn walk_on(&mut self) {
        self.walk = self.parts.next_back().map(|part| {
            let target = self.somewhere(part);
            self.kad.get_n_closest_peers(target, PER_PART)
        });
    }

    /// A key in a part of the key space; what is sent is not the key but what it is the hash of, so it has to be guessed.
    fn somewhere(&self, part: u32) -> PeerId {
        let local = KBucketKey::from(self.local);
        let mut guesses = std::iter::repeat_with(PeerId::random).take(TRIES);
        let there = guesses.find(|guess| {
            let distance = local.distance(&KBucketKey::from(*guess));
            distance.ilog2() == Some(part)
        });
        there.unwrap_or_else(PeerId::random)
    }

    fn on_dial_failed(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        error: &DialError,
    ) {
        if matches!(error, DialError::DialPeerConditionFalse(_))
            && !self.dials.is_under_way(connection)
            && let Some(peer) = peer
        {
            self.dials.wanted_by_others(peer);
        }
        let at = match error {
            DialError::Transport(tried) => tried.iter().map(|(at, _)| at.clone()).collect(),
            // Others answer there.
            DialError::WrongPeerId { address, .. } => vec![address.clone()],
            _ => Vec::new(),
        };
        let missed = self.dials.failed(connection, &at, Instant::now());
        let Some((peer, addresses)) = missed else {
            return;
        };
        for address in addresses {
            self.kad.remove_address(&peer, &address);
        }
    }

    /// Wakes the task when a dial is overdue.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.dials.next_overdue() else {
            return Poll::Pending;
        };
        let due = tokio::time::Instant::from_std(due);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
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
        self.dials
            .begins(connection, peer, &mut named, Instant::now());
        Ok(named)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(established) => {
                let reach = Reach::of_remote(established.endpoint.get_remote_address());
                self.connections.insert(established.connection_id, reach);
                self.farthest = self.farthest.max(Some(reach));
                self.dials.connected(established.peer_id);
                self.dials.heard(reach, Instant::now());
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.connections.remove(&closed.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.on_dial_failed(failure.connection_id, failure.peer_id, failure.error);
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
        // A request that nobody answered is an event too.
        let reach = self.connections.get(&connection);
        if let (Some(reach), false) = (reach, matches!(event, HandlerEvent::QueryError { .. })) {
            self.dials.heard(*reach, Instant::now());
        }
        self.kad
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let event = match self.kad.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    let Some(event) = self.pass(event) else {
                        continue;
                    };
                    ToSwarm::GenerateEvent(event)
                }
                Poll::Ready(ToSwarm::Dial { opts }) => {
                    if let Some(peer) = opts.get_peer_id() {
                        let connection = opts.connection_id();
                        self.dials.wanted(connection, peer, Instant::now());
                    }
                    ToSwarm::Dial { opts }
                }
                Poll::Ready(event) => event,
                Poll::Pending => match self.dials.overdue(Instant::now()) {
                    Some(peer_id) => ToSwarm::CloseConnection {
                        peer_id,
                        connection: CloseConnection::All,
                    },
                    None if self.poll_timer(cx).is_ready() => continue,
                    None => return Poll::Pending,
                },
            };
            return Poll::Ready(event);
        }
    }
}
