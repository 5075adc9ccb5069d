//! What the driver does about events of the network: each is a change of the table of peers, news for the sessions, or
//! passed on to whoever asked.

use std::time::Duration;

use super::{
    driver::{Asked, Driver, LookupFor},
    error::ConnectError,
    event::Event,
};
use crate::{
    content::{Address, NodeId},
    net::{LookupId, NetEvent, NetFault, QueryId, wire::Reply},
    peers::FoundBy,
    reach::Tested,
};

/// How long a peer whose last connection ended may take to come back without being told as gone.
const LEAVE_GRACE: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn on_net(&mut self, event: NetEvent) {
        let wall = self.hands.wall;
        match event {
            NetEvent::Listening(address) => {
                self.hands.tell(Event::ListenAddress(address.clone()));
                self.listening.push(address);
                self.hands.moved = true;
            }
            NetEvent::ListenEnded(ended) => {
                self.listening.retain(|address| !ended.contains(address));
                self.hands.moved = true;
            }
            NetEvent::Reachable(address) => {
                if !self.external.contains(&address) {
                    self.external.push(address);
                    self.on_moved();
                }
            }
            NetEvent::Unreachable(address) => {
                self.external.retain(|known| *known != address);
                self.on_moved();
            }
            NetEvent::Tested {
                address,
                reachable,
                by,
            } => self.reach.on_tested(Tested {
                address,
                reachable,
                by,
                at: self.hands.now,
            }),
            NetEvent::HolderAnswered { question, named } => self.on_holder(question, named),
            NetEvent::Upnp(upnp) => self.reach.upnp = upnp,
            NetEvent::RelayAccepted { relay } => {
                tracing::info!(%relay, "a relay keeps a place for this node");
                self.relays.on_accepted(relay);
            }
            NetEvent::RelayEnded { relay } => self.relays.on_ended(relay, self.hands.now),
            NetEvent::Connected {
                peer,
                address,
                inbound,
                relayed,
            } => {
                if self.hands.peers.is_connected(peer) {
                    return self.on_connected_again(peer, address, relayed);
                }
                let change = self
                    .hands
                    .peers
                    .on_connected(peer, address, inbound, relayed, wall);
                let is_back = self.leaving.remove(&peer).is_some();
                self.hands.tell_peer((!is_back).then_some(change));
                for reply in self.hands.connecting.remove(&peer).unwrap_or_default() {
                    let _ = reply.send(Ok(()));
                }
                self.offer_peer(peer);
                self.close_surplus();
            }
            NetEvent::Disconnected { peer } => self.on_disconnected(peer),
            NetEvent::Identified {
                peer,
                agent,
                addresses,
                speaks_ours,
                relays,
                serves_dht,
                observed,
            } => {
                // Of who has come to us, only the address that it came to would be told.
                let info = self.hands.peers.info(peer);
                let dialled = info
                    .is_some_and(|info| !info.relayed && !info.found.contains(&FoundBy::Inbound));
                if let Some(seen) = observed.filter(|_| dialled) {
                    self.reach.on_observed(peer, seen.without_node());
                }
                let change =
                    self.hands
                        .peers
                        .on_identified(peer, agent, addresses, speaks_ours, wall);
                if relays {
                    self.on_relay(peer);
                }
                if serves_dht {
                    let known = self.hands.net.dht_peers();
                    self.returning.on_server(peer, known, self.hands.now);
                }
                self.hands.tell_peer(change);
                self.check_dht();
                if speaks_ours {
                    self.offer_peer(peer);
                }
            }
            NetEvent::Rtt { peer, rtt } => {
                let change = self.hands.peers.on_rtt(peer, rtt, wall);
                self.hands.tell_peer(change);
            }
            NetEvent::Silent { peer } => self.on_silent(peer),
            NetEvent::Discovered { peer, address, by } => {
                if by == FoundBy::Mdns {
                    self.reach.on_neighbour(address.without_node());
                }
                self.hands.heard_of(peer, &[address], by);
            }
            NetEvent::AddressOfPeer { peer, address } => {
                self.hands.peers.on_address(peer, address.without_node());
            }
            NetEvent::DialFailed { peer, why } => self.on_dial_failed(peer, &why),
            NetEvent::Asked { peer, query, slot } => self.on_asked(peer, query, slot),
            NetEvent::Answered { query, result } => self.on_answered(query, result),
            NetEvent::BlocksAsked {
                peer,
                upload,
                request,
                slot,
            } => self.on_blocks_asked(peer, upload, request, slot),
            NetEvent::UploadEnded { upload } => self.on_upload_ended(upload),
            NetEvent::BlocksEnded { request, result } => {
                if let Some((session, request)) = self.hands.requests.remove(&request) {
                    self.with_session(session, |s, hands| s.on_response(request, result, hands));
                }
            }
            NetEvent::ProvidersFound { lookup, peers } => self.on_providers_found(lookup, peers),
            NetEvent::LookupEnded { lookup } => {
                self.hands.lookups.remove(&lookup);
            }
            NetEvent::ServersFound {
                lookup,
                servers,
                shared_bits,
            } => self.on_servers(lookup, servers, shared_bits),
            NetEvent::Announced { group, stored } => self.on_announced(group, stored),
        }
    }

    /// A further connection to a peer: the first that leads to it directly makes it one to fetch from.
    fn on_connected_again(&mut self, peer: NodeId, address: Address, relayed: bool) {
        if relayed || !self.hands.peers.is_relayed(peer) {
            return;
        }
        tracing::info!(%peer, "a hole was punched: the connection is direct now");
        let change = self.hands.peers.on_direct(peer, address);
        self.hands.tell_peer(change);
        self.hands.moved = true;
        self.offer_peer(peer);
    }

    /// A peer offers to relay. It is connected to by TCP and by QUIC: a hole is punched for the one or the other, and only
    /// somebody who is spoken to by it can say what the router makes of our port.
    fn on_relay(&mut self, peer: NodeId) {
        if self.hands.peers.is_relayed(peer) || !self.relays.on_offered(peer) {
            return;
        }
        let remote = self
            .hands
            .peers
            .info(peer)
            .and_then(|info| info.remote.as_ref());
        let Some(by_tcp) = remote.map(Address::is_tcp) else {
            return;
        };
        let addresses = self.hands.peers.addresses(peer).iter();
        let other = addresses.filter(|a| a.is_tcp() != by_tcp && !a.is_relayed());
        let other: Vec<Address> = other.cloned().collect();
        if !other.is_empty() {
            self.hands.net.dial_besides(peer, &other);
        }
    }

    /// Where this node can be reached has changed.
    fn on_moved(&mut self) {
        self.hands.moved = true;
        let direct = |address: &Address| !address.is_relayed() && address.is_global();
        let reachable = self.external.iter().any(direct);
        self.relays.set_reachable(reachable);
        self.moves.on_change(self.hands.now);
    }

    /// Keeps places at relays while nobody can reach this node without.
    pub(super) fn keep_places(&mut self) {
        while let Some(relay) = self.relays.next_to_leave() {
            self.hands.net.leave_relay(relay);
        }
        while let Some(relay) = self.relays.next(self.hands.now) {
            let addresses = self.hands.peers.addresses(relay).iter();
            let address = addresses.clone().find(|address| !address.is_relayed());
            let asked = address.is_some_and(|address| self.hands.net.reserve(relay, address));
            if !asked {
                self.relays.on_ended(relay, self.hands.now);
            }
        }
    }

    pub(super) fn offer_peer(&mut self, peer: NodeId) {
        for session in self.sessions.values_mut() {
            session.on_peer(peer, &mut self.hands);
        }
    }

    /// What could not be announced while the DHT was empty is announced when its first server appears.
    pub(super) fn check_dht(&mut self) {
        let has = self.hands.net.dht_peers() > 0;
        if has && !self.had_servers {
            self.announcer.on_online(self.hands.now);
            self.dirty = true;
        }
        self.had_servers = has;
    }

    /// A peer that answers no ping and sends nothing is gone.
    pub(super) fn on_silent(&mut self, peer: NodeId) {
        let quiet = self.hands.peers.info(peer).is_none_or(|info| {
            let since = self.hands.wall.duration_since(info.last_seen);
            since.is_ok_and(|quiet| quiet >= Duration::from_secs(8))
        });
        if quiet {
            // Closing a connection whose other end is gone takes a while; the peer is gone now.
            self.hands.net.disconnect(peer);
            self.on_disconnected(peer);
        }
    }

    /// No connection to a peer is left. It is told as gone a little later, if it is not back by then: two nodes that dial
    /// each other at the same time may lose one connection before they have the other.
    fn on_disconnected(&mut self, peer: NodeId) {
        if !self.hands.peers.is_connected(peer) {
            return;
        }
        if let Some(change) = self.hands.peers.on_disconnected(peer) {
            self.hands.peers_dirty = true;
            self.leaving
                .insert(peer, (self.hands.now + LEAVE_GRACE, change));
        }
        self.relays.on_gone(peer);
        self.returning.on_gone(peer);
        self.reach.on_gone(peer);
        for session in self.sessions.values_mut() {
            session.on_disconnected(peer, &self.hands);
        }
    }

    /// Tells of those who have not come back.
    pub(super) fn tell_left(&mut self) {
        let now = self.hands.now;
        let leaving = std::mem::take(&mut self.leaving);
        for (peer, (due, change)) in leaving {
            if due <= now {
                self.hands.tell_peer(Some(change));
            } else {
                self.leaving.insert(peer, (due, change));
            }
        }
    }

    pub(super) fn on_dial_failed(&mut self, peer: Option<NodeId>, why: &str) {
        let Some(peer) = peer else { return };
        tracing::debug!(%peer, why, "cannot connect");
        if self.hands.peers.is_connected(peer) {
            return;
        }
        for reply in self.hands.connecting.remove(&peer).unwrap_or_default() {
            let _ = reply.send(Err(ConnectError::Failed {
                peer,
                why: why.to_owned(),
            }));
        }
    }

    pub(super) fn on_providers_found(&mut self, lookup: LookupId, peers: Vec<NodeId>) {
        match self.hands.lookups.get(&lookup) {
            Some(LookupFor::Session(session)) => {
                let session = *session;
                self.with_session(session, |s, hands| s.on_lookup(&peers, hands));
            }
            Some(LookupFor::Embedder(found)) => {
                let others: Vec<NodeId> = peers
                    .into_iter()
                    .filter(|peer| *peer != self.hands.local)
                    .collect();
                // An embedder who does not read loses what it does not read.
                let _ = found.try_send(others.clone());
                for peer in others {
                    self.hands.heard_of(peer, &[], FoundBy::Dht);
                    self.hands.net.dial(peer, &[]);
                }
            }
            Some(LookupFor::Word(_)) => self.on_named(lookup, peers),
            Some(LookupFor::Announce(_) | LookupFor::Check(..)) | None => {}
        }
    }

    pub(super) fn on_answered(&mut self, query: QueryId, result: Result<Reply, NetFault>) {
        match self.hands.asked.remove(&query) {
            Some(Asked::Have {
                session,
                peer,
                entries,
            }) => self.with_session(session, |s, hands| s.on_have(peer, entries, result, hands)),
            Some(Asked::Manifests { session, peer }) => {
                self.with_session(session, |s, hands| s.on_manifests(peer, result, hands));
            }
            Some(Asked::Providers { session, peer }) => {
                self.with_session(session, |s, hands| s.on_providers(peer, result, hands));
            }
            Some(Asked::Nothing) | None => {}
            Some(Asked::Embedder(reply)) => {
                let _ = reply.send(result);
            }
        }
    }
}
