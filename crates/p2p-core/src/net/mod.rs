//! The only place that imports libp2p. [`Net`] is a swarm behind the node's own types: methods send, [`Net::next_event`]
//! receives, and nothing in between waits.

mod announcements;
mod behaviour;
#[cfg(feature = "bench")]
pub mod bench;
mod block_codec;
mod boxed_handlers;
mod buffers;
mod circuits;
mod codec;
mod dht;
#[cfg(any(test, feature = "bench"))]
pub mod dht_simulation;
#[cfg(test)]
mod dht_tests;
mod dial_back;
mod event;
mod hearsay;
mod holders;
mod judged;
#[cfg(any(test, feature = "bench"))]
mod memory_simulation;
mod mux;
mod own_addresses;
mod records;
mod tls;
mod translate;
mod transport;
pub(crate) mod wire;

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU8,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, ListenerId},
        upgrade::Version,
    },
    identity::Keypair,
    kad::{self, RecordKey},
    multiaddr::Protocol,
    relay,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use self::{
    announcements::Announcements,
    behaviour::{Behaviour, Intervals},
    block_codec::{BlocksAnswer, BlocksAsk},
    boxed_handlers::BoxedHandlers,
    hearsay::Reach,
    own_addresses::OwnAddresses,
    records::SWEEP_INTERVAL,
    transport::Guard,
    wire::{BlocksRequest, Frame, Query, Reply},
};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::{
    announcements::{GroupId, Server},
    block_codec::{FRAME_QUEUE, Reception},
    event::{
        AnswerSlot, BlocksId, HolderQuestion, LookupId, NetEvent, NetFault, QueryId, ReplySlot,
        UploadId,
    },
};
use crate::{
    config::{DhtMode, NetworkConfig, RelayMode},
    content::{Address, ContentId, NodeId},
};

/// Connections are kept as long as they live; the node closes those it has too many of.
const IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Addresses of a peer that are tried at once: all that are kept of one. A walk does not wait for a second round.
const ADDRESSES_AT_ONCE: NonZeroU8 = NonZeroU8::new(32).unwrap();

/// Dials under way that have other addresses to fall back on.
const MAX_SECOND_CHOICES: usize = 256;

/// The network could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    /// A part of it could not be set up.
    #[error("cannot set up the network: {0}")]
    Setup(#[from] std::io::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {why}")]
    Listen { address: Address, why: String },
}

/// The node's key on the network.
pub(crate) struct NodeKey(Keypair);

impl NodeKey {
    /// From the 32 secret bytes of an Ed25519 key.
    pub(crate) fn from_secret(mut secret: [u8; 32]) -> Option<Self> {
        Keypair::ed25519_from_bytes(&mut secret).ok().map(Self)
    }

    /// The peer id of this key.
    pub(crate) fn node_id(&self) -> Option<NodeId> {
        translate::node_id(self.0.public().to_peer_id())
    }
}

/// The swarm of one node.
pub(crate) struct Net {
    swarm: Swarm<BoxedHandlers<Behaviour>>,
    guard: Guard,
    dht: DhtMode,
    /// Events told at once by one of libp2p's; a multicast packet names several neighbours.
    queue: VecDeque<NetEvent>,
    swept: Instant,
    /// Addresses to dial when the dial under way fails.
    second_choice: HashMap<PeerId, Vec<Multiaddr>>,
    /// From how far away each connected peer has reached us, or we it: the nearest of its connections.
    reach: HashMap<PeerId, Reach>,
    announcements: Announcements,
    /// Connections through relays, by the peer at their other end.
    relayed: HashMap<PeerId, Vec<ConnectionId>>,
    /// Content may go through relays.
    relay_data: bool,
    /// Others meet through us.
    relays_for_others: bool,
    /// Listeners at relays that keep a place for us.
    places: HashMap<ListenerId, NodeId>,
    own: OwnAddresses,
}

impl Net {
    /// Sets up transports and behaviours and starts to listen.
    pub(crate) fn start(
        key: &NodeKey,
        config: &NetworkConfig,
        max_peers: u32,
        agent: &str,
        now: Instant,
    ) -> Result<Self, NetError> {
        let guard = Guard {
            lan_only: config.lan_only,
        };
        let with_relay = config.relay != RelayMode::Off;
        let secret = config.key.as_ref().map(|key| *key.as_bytes());
        let (transport, relay) = transport::build(&key.0, guard, with_relay, secret)?;
        Self::over(
            transport,
            relay,
            key,
            config,
            max_peers,
            agent,
            Intervals::default(),
            now,
        )
    }

    #[allow(clippy::too_many_arguments)]
    fn over(
        transport: Boxed<(PeerId, StreamMuxerBox)>,
        relay: Option<relay::client::Behaviour>,
        key: &NodeKey,
        config: &NetworkConfig,
        max_peers: u32,
        agent: &str,
        intervals: Intervals,
        now: Instant,
    ) -> Result<Self, NetError> {
        let guard = Guard {
            lan_only: config.lan_only,
        };
        let behaviour = Behaviour::new(&key.0, config, max_peers, relay, agent, intervals, now)?;
        let settings = libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_TIMEOUT)
            .with_dial_concurrency_factor(ADDRESSES_AT_ONCE)
            // A stream with one protocol sends its question along with the name: a round trip less for each.
            .with_substream_upgrade_protocol_override(Version::V1Lazy);
        let local = key.0.public().to_peer_id();
        let mut swarm = Swarm::new(transport, BoxedHandlers(behaviour), local, settings);
        for address in &config.external {
            swarm.add_external_address(address.as_multiaddr().clone());
        }
        for address in &config.listen {
            if config.key.is_some() && !address.is_tcp() {
                tracing::info!(%address, "not listened on: a private network is of TCP only");
                continue;
            }
            swarm
                .listen_on(address.as_multiaddr().clone())
                .map_err(|error| NetError::Listen {
                    address: address.clone(),
                    why: translate::transport_reason(&error),
                })?;
        }
        Ok(Self {
            swarm,
            guard,
            dht: config.dht,
            queue: VecDeque::new(),
            swept: now,
            second_choice: HashMap::new(),
            reach: HashMap::new(),
            announcements: Announcements::default(),
            relayed: HashMap::new(),
            relay_data: config.relay_data,
            relays_for_others: config.relay == RelayMode::Server && !config.lan_only,
            places: HashMap::new(),
            own: OwnAddresses::new(&config.external),
        })
    }

    /// Asks a relay, which is at this address, to keep a place for us.
    pub(crate) fn reserve(&mut self, relay: NodeId, address: &Address) -> bool {
        let circuit = address.with_node(relay).as_multiaddr().clone();
        let circuit = circuit.with(Protocol::P2pCircuit);
        let listening = self.swarm.listen_on(circuit);
        listening
            .map(|listener| self.places.insert(listener, relay))
            .is_ok()
    }

    /// Gives up the place at a relay.
    pub(crate) fn leave_relay(&mut self, relay: NodeId) {
        let listeners = self.places.iter().filter(|(_, at)| **at == relay);
        let listeners: Vec<ListenerId> = listeners.map(|(listener, _)| *listener).collect();
        for listener in listeners {
            self.swarm.remove_listener(listener);
        }
    }

    /// Waits for the next thing that concerns the node. Safe to drop at any point.
    pub(crate) async fn next_event(&mut self) -> NetEvent {
        if let Some(event) = self.queue.pop_front() {
            return event;
        }
        loop {
            let event = self.swarm.select_next_some().await;
            if let Some(event) = self.translate(event) {
                return event;
            }
        }
    }

    /// Connects to a peer, at these addresses and any the behaviours know, unless a dial to it is under way.
    pub(crate) fn dial(&mut self, peer: NodeId, addresses: &[Address]) -> bool {
        let (first, rest) = self.dial_order(addresses);
        self.dial_if(peer, first, rest, PeerCondition::DisconnectedAndNotDialing)
    }

    /// The same, though another dial be under way: somebody has just named these addresses, and that one may be stuck.
    pub(crate) fn dial_now(&mut self, peer: NodeId, addresses: &[Address]) -> bool {
        let all = addresses
            .iter()
            .map(|address| address.as_multiaddr().clone())
            .filter(|address| self.guard.allows(address))
            .collect();
        self.dial_if(peer, all, Vec::new(), PeerCondition::Disconnected)
    }

    /// Makes another connection to a peer that is connected already, at one of these addresses and no other.
    pub(crate) fn dial_besides(&mut self, peer: NodeId, addresses: &[Address]) {
        let Some(peer) = translate::peer_id(peer) else {
            return;
        };
        let allowed = addresses
            .iter()
            .map(|address| address.as_multiaddr().clone());
        let allowed = allowed.filter(|address| self.guard.allows(address));
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(allowed.collect())
            .build();
        // The error says that there is no such address: then it stays at the one connection.
        let _ = self.swarm.dial(options);
    }

    fn dial_if(
        &mut self,
        peer: NodeId,
        first: Vec<Multiaddr>,
        rest: Vec<Multiaddr>,
        condition: PeerCondition,
    ) -> bool {
        let Some(peer) = translate::peer_id(peer) else {
            return false;
        };
        let options = DialOpts::peer_id(peer)
            .condition(condition)
            .addresses(first)
            .extend_addresses_through_behaviour()
            .build();
        let dialling = self.swarm.dial(options).is_ok();
        if dialling && !rest.is_empty() && self.second_choice.len() < MAX_SECOND_CHOICES {
            self.second_choice.insert(peer, rest);
        }
        dialling
    }

    /// Addresses to dial at once, and those to dial if they fail. On a private network TCP with TLS moves twice what QUIC
    /// does, so it comes first where there is both; everywhere else all are tried together.
    fn dial_order(&self, addresses: &[Address]) -> (Vec<Multiaddr>, Vec<Multiaddr>) {
        let allowed = addresses
            .iter()
            .filter(|address| self.guard.allows(address.as_multiaddr()));
        let (near, rest): (Vec<&Address>, Vec<&Address>) =
            allowed.partition(|address| address.is_private() && address.is_tcp());
        let raw = |addresses: Vec<&Address>| -> Vec<Multiaddr> {
            let raw = addresses.into_iter().map(|a| a.as_multiaddr().clone());
            raw.collect()
        };
        if near.is_empty() {
            (raw(rest), Vec::new())
        } else {
            (raw(near), raw(rest))
        }
    }

    /// Dials the addresses that were held back, now that the first have failed. False if there are none.
    fn dial_second_choice(&mut self, peer: PeerId) -> bool {
        let Some(addresses) = self.second_choice.remove(&peer) else {
            return false;
        };
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .addresses(addresses)
            .build();
        self.swarm.dial(options).is_ok()
    }

    /// Closes all connections to a peer.
    pub(crate) fn disconnect(&mut self, peer: NodeId) {
        if let Some(peer) = translate::peer_id(peer) {
            // The error says that there was no connection: what was wanted.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Asks a connected peer.
    pub(crate) fn ask(&mut self, peer: NodeId, query: Query) -> Option<QueryId> {
        let peer = translate::peer_id(peer)?;
        let behaviour = &mut self.swarm.behaviour_mut().query;
        behaviour
            .is_connected(&peer)
            .then(|| QueryId(behaviour.send_request(&peer, query)))
    }

    /// Answers a peer's query. A peer that is gone is not told.
    pub(crate) fn reply(&mut self, slot: ReplySlot, reply: Reply) {
        let _ = self
            .swarm
            .behaviour_mut()
            .query
            .send_response(slot.0, reply);
    }

    /// Asks a connected peer for blocks; the frames go to `reception`.
    pub(crate) fn ask_blocks(
        &mut self,
        peer: NodeId,
        request: BlocksRequest,
        reception: Reception,
    ) -> Option<BlocksId> {
        let peer = translate::peer_id(peer)?;
        let behaviour = &mut self.swarm.behaviour_mut().blocks;
        let ask = BlocksAsk {
            request,
            reception: Some(reception),
        };
        behaviour
            .is_connected(&peer)
            .then(|| BlocksId(behaviour.send_request(&peer, ask)))
    }

    /// Answers a peer's request for blocks with the frames of this channel. False if the peer is gone.
    pub(crate) fn answer_blocks(
        &mut self,
        slot: AnswerSlot,
        frames: mpsc::Receiver<Frame>,
        cancelled: oneshot::Receiver<()>,
    ) -> bool {
        let behaviour = &mut self.swarm.behaviour_mut().blocks;
        behaviour
            .send_response(slot.0, BlocksAnswer::Frames { frames, cancelled })
            .is_ok()
    }

    /// Looks for providers of a content in the DHT.
    pub(crate) fn find_providers(&mut self, id: ContentId) -> Option<LookupId> {
        let kad = self.swarm.behaviour_mut().kad.as_mut()?;
        Some(LookupId(kad.get_providers(provider_key(id))))
    }

    /// From now on names us to those who ask us who has a content.
    pub(crate) fn provide(&mut self, id: ContentId) {
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.store_mut().provide(id);
        }
    }

    /// Looks for the servers of the DHT closest to a content, to announce it to them.
    pub(crate) fn find_servers(&mut self, id: ContentId) -> Option<LookupId> {
        let kad = self.swarm.behaviour_mut().kad.as_mut()?;
        Some(LookupId(kad.get_closest_peers(id.multihash().to_vec())))
    }

    /// No longer names us to those who ask us; the records kept by others expire.
    pub(crate) fn withdraw(&mut self, id: ContentId) {
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.stop_providing(&provider_key(id));
        }
    }

    /// Peers in the routing table.
    pub(crate) fn dht_peers(&mut self) -> usize {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            return 0;
        };
        kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    /// `server`, `client` or `off`.
    pub(crate) fn dht_mode(&self) -> &'static str {
        match self.swarm.behaviour().kad.as_ref().map(|kad| kad.mode()) {
            Some(kad::Mode::Server) => "server",
            Some(kad::Mode::Client) => "client",
            None => "off",
        }
    }

    /// Records of others that this node holds.
    #[cfg(any(test, feature = "bench"))]
    fn foreign_records(&mut self) -> usize {
        let kad = self.swarm.behaviour_mut().kad.as_mut();
        kad.map_or(0, |kad| kad.store_mut().foreign_len())
    }

    /// Whether it walks through the DHT, for whatever reason.
    #[cfg(any(test, feature = "bench"))]
    fn is_walking(&self) -> bool {
        let kad = self.swarm.behaviour().kad.as_ref();
        kad.is_some_and(|kad| kad.iter_queries().next().is_some())
    }

    /// Requests that a walk has sent so far; 0 if it is over.
    #[cfg(any(test, feature = "bench"))]
    fn lookup_requests(&self, lookup: LookupId) -> u32 {
        let kad = self.swarm.behaviour().kad.as_ref();
        let query = kad.and_then(|kad| kad.query(&lookup.0));
        query.map_or(0, |query| query.stats().num_requests())
    }

    /// Forgets records of others that have expired; call it now and then.
    pub(crate) fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP_INTERVAL {
            return;
        }
        self.swept = now;
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.store_mut().sweep(now);
        }
    }
}

/// The DHT key of a content: the multihash of its BLAKE3 hash, so that any libp2p node finds it through the CID.
fn provider_key(id: ContentId) -> RecordKey {
    RecordKey::new(&id.multihash())
}
