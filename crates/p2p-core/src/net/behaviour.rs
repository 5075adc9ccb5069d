//! The behaviours of a node and how each is set up; nothing else.

use std::time::{Duration, Instant};

use libp2p::{
    PeerId, StreamProtocol, autonat, dcutr, identify,
    identity::Keypair,
    kad, mdns, ping, relay, request_response,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};
use libp2p_connection_limits::{self as connection_limits, ConnectionLimits};

use super::{
    announcements::RecordsCodec,
    block_codec::BlocksCodec,
    codec::QueryCodec,
    dht::Dht,
    dial_back::dial_backs,
    holders::HoldersCodec,
    judged::{Judged, own_tests, punches},
    records::{Bounds, Records},
    wire::{BLOCKS_PROTOCOL, QUERY_PROTOCOL},
};
use crate::config::{DhtMode, NetworkConfig, RelayLimits, RelayMode};

/// A peer that answers no ping is gone. libp2p forgives the first failure, so that a lost peer is noticed after at most
/// two intervals and two timeouts: 20 s.
const PING_INTERVAL: Duration = Duration::from_secs(4);
/// The routing table is walked anew this often: a hundred requests or two, for those who came and went meanwhile.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
const PING_TIMEOUT: Duration = Duration::from_secs(6);

/// A query waits at most this long; `Have` answers late on purpose, after ten seconds at most.
const QUERY_TIMEOUT: Duration = Duration::from_secs(25);

/// The longest a streamed response may take. What keeps a stalled one short is the limit per frame.
const BLOCKS_TIMEOUT: Duration = Duration::from_secs(3600);

/// A server takes at most this long to read our records.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(20);

/// A server that is asked what it holds answers within this.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(8);

/// A server of the DHT answers within this, or is passed over. A path of a walk waits for one server at a time, and kad alone
/// would give each of those that say nothing ten seconds, a third of the walk's time.
const DHT_PATIENCE: Duration = Duration::from_secs(4);

/// Streams of one protocol on one connection, both directions together.
const MAX_PROTOCOL_STREAMS: usize = 48;

/// How long the other DHT servers keep our provider records (the libp2p specification's value).
const PROVIDER_TTL: Duration = Duration::from_secs(48 * 3600);

/// How often a node does what nobody asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intervals {
    pub(super) ping: Duration,
    /// Between two walks through the routing table.
    pub(super) refresh: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            ping: PING_INTERVAL,
            refresh: REFRESH_INTERVAL,
        }
    }
}

/// Everything a node speaks.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) query: request_response::Behaviour<QueryCodec>,
    pub(super) blocks: request_response::Behaviour<BlocksCodec>,
    pub(super) announce: Toggle<request_response::Behaviour<RecordsCodec>>,
    pub(super) holders: Toggle<request_response::Behaviour<HoldersCodec>>,
    pub(super) kad: Toggle<Dht>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    upnp: Toggle<upnp::tokio::Behaviour>,
    autonat: Toggle<Judged<autonat::v2::client::Behaviour>>,
    dial_backs: Toggle<Judged<autonat::v2::server::Behaviour>>,
    relay_client: Toggle<relay::client::Behaviour>,
    relay_server: Toggle<relay::Behaviour>,
    dcutr: Toggle<Judged<dcutr::Behaviour>>,
}

impl Behaviour {
    pub(crate) fn new(
        keypair: &Keypair,
        config: &NetworkConfig,
        max_peers: u32,
        relay_client: Option<relay::client::Behaviour>,
        agent: &str,
        intervals: Intervals,
        now: Instant,
    ) -> std::io::Result<Self> {
        let local = keypair.public().to_peer_id();
        let beyond_lan = !config.lan_only;
        let dcutr = relay_client.is_some().then(|| punches(local));
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits(max_peers)),
            identify: identify::Behaviour::new(
                identify::Config::new("/p2p-core/1".into(), keypair.public())
                    .with_agent_version(agent.into())
                    // What peers say of themselves is dialled only after a look at it (`translate.rs`).
                    .with_cache_size(0)
                    .with_push_listen_addr_updates(true),
            ),
            ping: ping::Behaviour::new(
                ping::Config::new()
                    .with_interval(intervals.ping)
                    .with_timeout(PING_TIMEOUT),
            ),
            query: request_response::Behaviour::with_codec(
                QueryCodec,
                [(
                    StreamProtocol::new(QUERY_PROTOCOL),
                    request_response::ProtocolSupport::Full,
                )],
                request_response::Config::default()
                    .with_request_timeout(QUERY_TIMEOUT)
                    .with_max_concurrent_streams(MAX_PROTOCOL_STREAMS),
            ),
            blocks: request_response::Behaviour::with_codec(
                BlocksCodec::default(),
                [(
                    StreamProtocol::new(BLOCKS_PROTOCOL),
                    request_response::ProtocolSupport::Full,
                )],
                request_response::Config::default()
                    .with_request_timeout(BLOCKS_TIMEOUT)
                    .with_max_concurrent_streams(MAX_PROTOCOL_STREAMS),
            ),
            announce: announce(config)?.into(),
            holders: holders(config)?.into(),
            kad: kademlia(local, config, intervals.refresh, now)?
                .map(|kad| Dht::new(local, kad))
                .into(),
            mdns: config
                .mdns
                .then(|| mdns::tokio::Behaviour::new(mdns_config(), local))
                .transpose()?
                .into(),
            upnp: (config.upnp && beyond_lan)
                .then(upnp::tokio::Behaviour::default)
                .into(),
            autonat: beyond_lan.then(own_tests).into(),
            dial_backs: (beyond_lan && config.dht != DhtMode::Off)
                .then(dial_backs)
                .into(),
            relay_client: relay_client.into(),
            relay_server: (config.relay == RelayMode::Server && beyond_lan)
                .then(|| relay::Behaviour::new(local, relaying(&config.relay_limits)))
                .into(),
            dcutr: dcutr.into(),
        })
    }
}

fn limits(max_peers: u32) -> ConnectionLimits {
    // A quarter of the room is kept for connections we make: inbound floods must not stop a fetch.
    let inbound = max_peers.saturating_sub(max_peers / 4).max(1);
    ConnectionLimits::default()
        .with_max_established(Some(max_peers))
        .with_max_established_incoming(Some(inbound))
        .with_max_established_per_peer(Some(3))
        .with_max_pending_incoming(Some(64))
        .with_max_pending_outgoing(Some(64))
}

fn relaying(limits: &RelayLimits) -> relay::Config {
    relay::Config {
        max_reservations: limits.places as usize,
        max_circuits: limits.circuits as usize,
        max_circuit_bytes: limits.circuit_bytes,
        max_circuit_duration: limits.circuit_time,
        ..relay::Config::default()
    }
}

fn mdns_config() -> mdns::Config {
    mdns::Config {
        // A lost packet must not hide a neighbour for five minutes.
        query_interval: Duration::from_secs(20),
        ..mdns::Config::default()
    }
}

fn dht_protocol(config: &NetworkConfig) -> std::io::Result<StreamProtocol> {
    StreamProtocol::try_from_owned(format!("/{}/kad/1.0.0", config.network))
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))
}

/// Speaks the DHT's protocol beside kad, and only sends.
fn announce(
    config: &NetworkConfig,
) -> std::io::Result<Option<request_response::Behaviour<RecordsCodec>>> {
    if config.dht == DhtMode::Off {
        return Ok(None);
    }
    let name = dht_protocol(config)?;
    Ok(Some(request_response::Behaviour::with_codec(
        RecordsCodec,
        [(name, request_response::ProtocolSupport::Outbound)],
        request_response::Config::default().with_request_timeout(ANNOUNCE_TIMEOUT),
    )))
}

/// The same, and asks.
fn holders(
    config: &NetworkConfig,
) -> std::io::Result<Option<request_response::Behaviour<HoldersCodec>>> {
    if config.dht == DhtMode::Off {
        return Ok(None);
    }
    let name = dht_protocol(config)?;
    Ok(Some(request_response::Behaviour::with_codec(
        HoldersCodec,
        [(name, request_response::ProtocolSupport::Outbound)],
        request_response::Config::default().with_request_timeout(HOLDER_TIMEOUT),
    )))
}

fn kademlia(
    local: PeerId,
    config: &NetworkConfig,
    refresh: Duration,
    now: Instant,
) -> std::io::Result<Option<kad::Behaviour<Records>>> {
    if config.dht == DhtMode::Off {
        return Ok(None);
    }
    let mut settings = kad::Config::new(dht_protocol(config)?);
    settings
        .disjoint_query_paths(true)
        .set_query_timeout(Duration::from_secs(30))
        .set_substreams_timeout(DHT_PATIENCE)
        // The announcer paces our own records; kad would send all of them in one burst.
        .set_provider_publication_interval(None)
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        .set_record_filtering(kad::StoreInserts::Unfiltered)
        .set_periodic_bootstrap_interval(Some(refresh));
    let records = Records::new(local, Bounds::default(), now);
    let mut behaviour = kad::Behaviour::with_config(local, records, settings);
    behaviour.set_mode(match config.dht {
        DhtMode::Server => Some(kad::Mode::Server),
        DhtMode::Auto | DhtMode::Client | DhtMode::Off => Some(kad::Mode::Client),
    });
    Ok(Some(behaviour))
}
