//! `SwarmEvent` in, [`NetEvent`] out: libp2p's types end here. What needs no decision of the node (routing tables, mode of
//! the DHT) is done on the way.

use std::{collections::BTreeMap, io};

use libp2p::{
    Multiaddr, PeerId, TransportError, autonat,
    core::ConnectedPoint,
    identify, kad, mdns,
    multiaddr::Protocol,
    ping, relay, request_response,
    swarm::{ConnectionId, DialError, SwarmEvent},
    upnp,
};

use super::{
    Net,
    announcements::{Server, shared_bits},
    behaviour::{Behaviour, BehaviourEvent},
    block_codec::{BlocksAnswer, BlocksAsk},
    event::{AnswerSlot, BlocksId, LookupId, NetEvent, NetFault, QueryId, ReplySlot, UploadId},
    hearsay::Reach,
    holders,
    wire::{BLOCKS_PROTOCOL, QUERY_PROTOCOL, Query, Reply},
};
use crate::{
    content::{Address, NodeId},
    peers::FoundBy,
    reach::Upnp,
};

/// Addresses of one peer that are looked at; identify may carry hundreds.
const MAX_ADDRESSES: usize = 8;

/// Neighbours taken from one multicast packet; more than this in one is a flood.
const MAX_NEIGHBOURS: usize = 64;

/// Our type for a libp2p peer id.
pub(super) fn node_id(peer: PeerId) -> Option<NodeId> {
    NodeId::from_bytes(&peer.to_bytes()).ok()
}

/// libp2p's type for our peer id.
pub(super) fn peer_id(node: NodeId) -> Option<PeerId> {
    PeerId::from_bytes(node.as_bytes()).ok()
}

pub(super) fn address(address: Multiaddr) -> Option<Address> {
    Address::from_multiaddr(address).ok()
}

impl Net {
    /// What an event of the swarm means to the node, if anything.
    pub(super) fn translate(
        &mut self,
        event: SwarmEvent<<Behaviour as libp2p::swarm::NetworkBehaviour>::ToSwarm>,
    ) -> Option<NetEvent> {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                endpoint,
                connection_id,
                ..
            } => {
                self.second_choice.remove(&peer_id);
                self.prefer_direct(peer_id, connection_id, endpoint.is_relayed());
                let inbound = endpoint.is_listener();
                if inbound && !endpoint.is_relayed() {
                    self.become_server();
                }
                let reach = Reach::of_remote(endpoint.get_remote_address());
                let nearest = self.reach.entry(peer_id).or_insert(reach);
                *nearest = reach.min(*nearest);
                connected(peer_id, &endpoint)
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established,
                connection_id,
                ..
            } => {
                if let Some(relayed) = self.relayed.get_mut(&peer_id) {
                    relayed.retain(|connection| *connection != connection_id);
                }
                if num_established > 0 {
                    return None;
                }
                self.relayed.remove(&peer_id);
                self.reach.remove(&peer_id);
                if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                    kad.store_mut().on_disconnected(&peer_id);
                }
                Some(NetEvent::Disconnected {
                    peer: node_id(peer_id)?,
                })
            }
            SwarmEvent::NewListenAddr { address: new, .. } => {
                let new = address(new)?;
                // A relay has to say where it is, and whoever has it run says that it can be reached.
                if self.relays_for_others && new.is_global() && !new.is_relayed() {
                    self.swarm.add_external_address(new.as_multiaddr().clone());
                }
                Some(NetEvent::Listening(new))
            }
            SwarmEvent::ExpiredListenAddr { address: old, .. } => {
                let old = address(old)?;
                self.on_left(&old);
                Some(NetEvent::ListenEnded(vec![old]))
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                if let Some(relay) = self.places.remove(&listener_id) {
                    tracing::debug!(%relay, ?reason, "a relay keeps no place for us");
                    self.queue.push_back(NetEvent::RelayEnded { relay });
                } else if let Err(error) = reason {
                    tracing::warn!(%error, ?addresses, "a listener closed");
                }
                Some(NetEvent::ListenEnded(
                    addresses.into_iter().filter_map(address).collect(),
                ))
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener failed");
                None
            }
            SwarmEvent::NewExternalAddrCandidate { address: seen } => self
                .on_seen_again(&seen)
                .then_some(NetEvent::Reachable(address(seen)?)),
            SwarmEvent::ExternalAddrConfirmed { address: ext } => {
                self.on_confirmed(&ext);
                let ext = address(ext)?;
                // Who is met through a relay cannot serve the DHT.
                if !ext.is_relayed() {
                    self.become_server();
                }
                Some(NetEvent::Reachable(ext))
            }
            SwarmEvent::ExternalAddrExpired { address: ext } => {
                address(ext).map(NetEvent::Unreachable)
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                if peer_id.is_some_and(|peer| self.dial_second_choice(peer)) {
                    return None;
                }
                Some(NetEvent::DialFailed {
                    peer: peer_id.and_then(node_id),
                    why: reason(&error),
                })
            }
            SwarmEvent::NewExternalAddrOfPeer {
                peer_id,
                address: known,
            } => self
                .may_have(&peer_id, &known)
                .then_some(NetEvent::AddressOfPeer {
                    peer: node_id(peer_id)?,
                    address: address(known)?,
                }),
            // The rest is told again by the events above, or concerns connections that never came to be.
            _ => None,
        }
    }

    /// Whether a connected peer can have this address: one from afar has none that only neighbours reach. It would have us
    /// dial into our own network.
    fn may_have(&self, peer: &PeerId, address: &Multiaddr) -> bool {
        let reach = self.reach.get(peer);
        self.guard.allows(address) && reach.is_none_or(|reach| reach.knows(address))
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) -> Option<NetEvent> {
        match event {
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Ping(ping::Event { peer, result, .. }) => {
                let peer = node_id(peer)?;
                match result {
                    Ok(rtt) => Some(NetEvent::Rtt { peer, rtt }),
                    Err(ping::Failure::Unsupported) => None,
                    Err(_) => Some(NetEvent::Silent { peer }),
                }
            }
            BehaviourEvent::Query(event) => on_query(event),
            BehaviourEvent::Blocks(event) => on_blocks(event),
            BehaviourEvent::Holders(event) => holders::on_event(event),
            BehaviourEvent::Announce(event) => self.announcements.on_event(event),
            BehaviourEvent::Kad(kad::Event::RoutingUpdated {
                peer, addresses, ..
            }) => {
                self.trim_routes(peer, addresses);
                None
            }
            BehaviourEvent::Kad(event) => on_kad(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.on_mdns(found),
            // Expiry says that a packet was lost as often as that a peer left; the ping decides.
            BehaviourEvent::Mdns(mdns::Event::Expired(_)) => None,
            BehaviourEvent::Upnp(event) => Some(NetEvent::Upnp(match event {
                upnp::Event::NewExternalAddr { external_addr, .. } => {
                    tracing::info!(address = %external_addr, "the router maps a port to us");
                    Upnp::Mapped
                }
                upnp::Event::GatewayNotFound => Upnp::NoGateway,
                upnp::Event::NonRoutableGateway => Upnp::NotRoutable,
                upnp::Event::ExpiredExternalAddr { .. } => Upnp::Unknown,
            })),
            BehaviourEvent::Autonat(autonat::v2::client::Event {
                tested_addr,
                result,
                server,
                ..
            }) => Some(NetEvent::Tested {
                address: address(tested_addr)?,
                reachable: result.is_ok(),
                by: node_id(server)?,
            }),
            // Of those whom we dialled back, they are told.
            BehaviourEvent::DialBacks(_) => None,
            BehaviourEvent::RelayClient(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                ..
            }) => Some(NetEvent::RelayAccepted {
                relay: node_id(relay_peer_id)?,
            }),
            BehaviourEvent::RelayClient(event) => {
                tracing::debug!(?event, "relay");
                None
            }
            BehaviourEvent::RelayServer(event) => {
                tracing::debug!(?event, "relaying");
                None
            }
            BehaviourEvent::Dcutr(event) => {
                tracing::debug!(?event, "hole punching");
                if event.result.is_err() && !self.relay_data {
                    // Who still wants something meets us again, and it is tried again.
                    self.close_relayed(event.remote_peer_id);
                }
                None
            }
        }
    }

    fn on_identify(&mut self, event: identify::Event) -> Option<NetEvent> {
        let identify::Event::Received { peer_id, info, .. } = event else {
            return None;
        };
        let speaks = |name: &str| info.protocols.iter().any(|p| p.as_ref() == name);
        let speaks_ours = speaks(QUERY_PROTOCOL) && speaks(BLOCKS_PROTOCOL);
        let listen: Vec<Multiaddr> = info
            .listen_addrs
            .into_iter()
            .filter(|listed| self.may_have(&peer_id, listed))
            .take(MAX_ADDRESSES)
            .collect();
        let mut serves_dht = false;
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.store_mut().on_reachable(peer_id, listen.clone());
            let name = kad.protocol_names().first().map(ToString::to_string);
            serves_dht = name.is_some_and(|name| speaks(&name));
            if serves_dht {
                for address in &listen {
                    kad.add_address(&peer_id, address.clone());
                }
            }
        }
        Some(NetEvent::Identified {
            peer: node_id(peer_id)?,
            agent: info.agent_version.chars().take(128).collect(),
            addresses: listen.into_iter().filter_map(address).collect(),
            speaks_ours,
            observed: address(info.observed_addr),
            relays: info.protocols.contains(&relay::HOP_PROTOCOL_NAME),
            serves_dht,
        })
    }

    /// Has a peer be spoken to directly as soon as that is possible: with two connections libp2p would take either.
    fn prefer_direct(&mut self, peer: PeerId, connection: ConnectionId, relayed: bool) {
        if relayed {
            self.relayed.entry(peer).or_default().push(connection);
            return;
        }
        self.close_relayed(peer);
    }

    fn close_relayed(&mut self, peer: PeerId) {
        for connection in self.relayed.remove(&peer).unwrap_or_default() {
            self.swarm.close_connection(connection);
        }
    }

    /// kad keeps every address that a peer ever had; of those above the limit, the oldest go.
    fn trim_routes(&mut self, peer: PeerId, addresses: kad::Addresses) {
        let surplus = addresses.len().saturating_sub(MAX_ADDRESSES);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            for address in addresses.into_vec().iter().take(surplus) {
                kad.remove_address(&peer, address);
            }
        }
    }

    /// Neighbours are dialled at once, each at all the addresses of this packet.
    fn on_mdns(&mut self, found: Vec<(PeerId, Multiaddr)>) -> Option<NetEvent> {
        let mut by_peer: BTreeMap<PeerId, Vec<Address>> = BTreeMap::new();
        for (peer, found) in found {
            if !self.guard.allows(&found) || by_peer.len() >= MAX_NEIGHBOURS {
                continue;
            }
            let held = by_peer.entry(peer).or_default();
            if held.len() < MAX_ADDRESSES {
                held.extend(address(found).map(|address| address.without_node()));
            }
        }
        for (peer, addresses) in by_peer {
            let Some(peer) = node_id(peer) else { continue };
            self.dial(peer, &addresses);
            self.queue
                .extend(addresses.into_iter().map(|address| NetEvent::Discovered {
                    peer,
                    address,
                    by: FoundBy::Mdns,
                }));
        }
        self.queue.pop_front()
    }
}

/// Why a dial failed, in one line.
fn reason(error: &DialError) -> String {
    match error {
        DialError::Transport(tried) => {
            let tried = tried
                .iter()
                .take(3)
                .map(|(address, error)| format!("{address}: {}", transport_reason(error)));
            tried.collect::<Vec<_>>().join("; ")
        }
        DialError::WrongPeerId { obtained, .. } => {
            format!("another peer answers there: {obtained}")
        }
        DialError::LocalPeerId { .. } => "that is this node itself".into(),
        DialError::NoAddresses => "no address is known".into(),
        DialError::Denied { .. } => "the limit of connections is reached".into(),
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => "the dial was given up".into(),
    }
}

/// What a transport has against an address, in one line.
pub(super) fn transport_reason(error: &TransportError<io::Error>) -> String {
    match error {
        TransportError::MultiaddrNotSupported(_) => "not supported here".to_owned(),
        TransportError::Other(error) => innermost(error),
    }
}

/// The first cause of an error; those above it repeat it in libp2p's own terms.
fn innermost(error: &io::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
        .to_string()
        .lines()
        .next()
        .unwrap_or("failed")
        .to_owned()
}

fn connected(peer: PeerId, endpoint: &ConnectedPoint) -> Option<NetEvent> {
    let remote = endpoint.get_remote_address().clone();
    let without_peer: Multiaddr = remote
        .iter()
        .filter(|part| !matches!(part, Protocol::P2p(id) if *id == peer))
        .collect();
    // Of who comes through a relay the id is all that is known.
    let from = address(without_peer).or_else(|| address(remote))?;
    Some(NetEvent::Connected {
        peer: node_id(peer)?,
        address: from,
        inbound: endpoint.is_listener(),
        relayed: endpoint.is_relayed(),
    })
}

fn fault_of(error: &request_response::OutboundFailure) -> NetFault {
    use request_response::OutboundFailure as Failure;
    match error {
        Failure::DialFailure | Failure::ConnectionClosed => NetFault::Unreachable,
        Failure::Timeout => NetFault::Timeout,
        Failure::UnsupportedProtocols => NetFault::Unsupported,
        Failure::Io(error) => match error.kind() {
            io::ErrorKind::InvalidData => NetFault::Protocol,
            io::ErrorKind::TimedOut => NetFault::Timeout,
            io::ErrorKind::ConnectionAborted => NetFault::Cancelled,
            _ => NetFault::Unreachable,
        },
    }
}

fn on_query(event: request_response::Event<Query, Reply>) -> Option<NetEvent> {
    use request_response::{Event, Message};
    match event {
        Event::Message { peer, message, .. } => Some(match message {
            Message::Request {
                request, channel, ..
            } => NetEvent::Asked {
                peer: node_id(peer)?,
                query: request,
                slot: ReplySlot(channel),
            },
            Message::Response {
                request_id,
                response,
            } => NetEvent::Answered {
                query: QueryId(request_id),
                result: Ok(response),
            },
        }),
        Event::OutboundFailure {
            request_id, error, ..
        } => Some(NetEvent::Answered {
            query: QueryId(request_id),
            result: Err(fault_of(&error)),
        }),
        Event::InboundFailure { .. } | Event::ResponseSent { .. } => None,
    }
}

fn on_blocks(event: request_response::Event<BlocksAsk, BlocksAnswer>) -> Option<NetEvent> {
    use request_response::{Event, Message};
    match event {
        Event::Message { peer, message, .. } => match message {
            Message::Request {
                request_id,
                request,
                channel,
            } => Some(NetEvent::BlocksAsked {
                peer: node_id(peer)?,
                upload: UploadId(request_id),
                request: request.request,
                slot: AnswerSlot(channel),
            }),
            Message::Response {
                request_id,
                response: BlocksAnswer::Ended { status, retry_ms },
            } => Some(NetEvent::BlocksEnded {
                request: BlocksId(request_id),
                result: Ok((status, retry_ms)),
            }),
            Message::Response {
                response: BlocksAnswer::Frames { .. },
                ..
            } => None,
        },
        Event::OutboundFailure {
            request_id, error, ..
        } => Some(NetEvent::BlocksEnded {
            request: BlocksId(request_id),
            result: Err(fault_of(&error)),
        }),
        Event::InboundFailure { request_id, .. } | Event::ResponseSent { request_id, .. } => {
            Some(NetEvent::UploadEnded {
                upload: UploadId(request_id),
            })
        }
    }
}

fn on_kad(event: kad::Event) -> Option<NetEvent> {
    let kad::Event::OutboundQueryProgressed {
        id, result, step, ..
    } = event
    else {
        return None;
    };
    let lookup = LookupId(id);
    match result {
        kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders {
            providers,
            ..
        })) => Some(NetEvent::ProvidersFound {
            lookup,
            peers: providers.into_iter().filter_map(node_id).collect(),
        }),
        kad::QueryResult::GetProviders(_) => step.last.then_some(NetEvent::LookupEnded { lookup }),
        kad::QueryResult::GetClosestPeers(result) => {
            let (key, peers) = match result {
                Ok(kad::GetClosestPeersOk { key, peers })
                // Those that were found in time.
                | Err(kad::GetClosestPeersError::Timeout { key, peers }) => (key, peers),
            };
            Some(NetEvent::ServersFound {
                lookup,
                shared_bits: shared_bits(&key, &peers),
                servers: peers.into_iter().map(Server).collect(),
            })
        }
        _ => None,
    }
}
