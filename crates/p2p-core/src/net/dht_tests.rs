//! The DHT among strangers: records sent by the hundred, addresses told to do harm, and modes that are kept.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Transport, TransportError,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, MemoryTransport, TransportEvent},
        upgrade::Version,
    },
    identify,
    identity::Keypair,
    kad::{self, store::MemoryStore},
    multiaddr::Protocol,
    noise,
    swarm::{self, ConnectionId, SwarmEvent},
};

use super::{
    Net, NetEvent, NodeKey, behaviour::BehaviourEvent, behaviour::Intervals, memory_simulation, mux,
};
use crate::{
    config::{DhtMode, NetworkConfig, RelayMode},
    content::{Address, ContentId, NodeId},
};

const DEADLINE: Duration = Duration::from_secs(60);

fn config(dht: DhtMode, listen: &str) -> NetworkConfig {
    NetworkConfig {
        listen: vec![listen.parse().unwrap()],
        mdns: false,
        dht,
        upnp: false,
        relay: RelayMode::Off,
        ..NetworkConfig::default()
    }
}

fn key(seed: u8) -> NodeKey {
    NodeKey::from_secret([seed; 32]).unwrap()
}

fn on_loopback(seed: u8, dht: DhtMode) -> Net {
    let config = config(dht, "/ip4/127.0.0.1/tcp/0");
    Net::start(&key(seed), &config, 64, "test", Instant::now()).unwrap()
}

async fn within<T>(what: &str, waits: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(DEADLINE, waits).await;
    waited.unwrap_or_else(|_| panic!("no {what}"))
}

/// Lets two nodes run until an event of the first gives something.
async fn until<T>(
    one: &mut Net,
    other: &mut Net,
    mut wanted: impl FnMut(NetEvent) -> Option<T>,
) -> T {
    let run = async {
        loop {
            tokio::select! {
                event = one.next_event() => {
                    if let Some(found) = wanted(event) {
                        return found;
                    }
                }
                _ = other.next_event() => {}
            }
        }
    };
    within("such event", run).await
}

async fn listening(net: &mut Net) -> Address {
    let wait = async {
        loop {
            if let NetEvent::Listening(address) = net.next_event().await {
                return address;
            }
        }
    };
    within("listener", wait).await
}

fn identified(event: NetEvent) -> Option<NodeId> {
    match event {
        NetEvent::Identified { peer, .. } => Some(peer),
        _ => None,
    }
}

/// Over TCP and TLS, to kad as it is: a full group arrives in one stream, and its end is an answer.
#[tokio::test]
async fn a_group_of_records_arrives_in_one_stream() {
    let mut server = on_loopback(1, DhtMode::Server);
    let mut holder = on_loopback(2, DhtMode::Client);
    let address = listening(&mut server).await;
    let server_id = key(1).node_id().unwrap();
    holder.dial(server_id, &[address]);
    until(&mut holder, &mut server, identified).await;
    let ids: Vec<ContentId> = (0..500_u32)
        .map(|n| ContentId::of(&n.to_le_bytes()))
        .collect();
    holder.find_servers(ids[0]).unwrap();
    let servers = until(&mut holder, &mut server, |event| match event {
        NetEvent::ServersFound {
            servers,
            shared_bits,
            ..
        } => {
            assert_eq!(shared_bits, 0, "these are all");
            Some(servers)
        }
        _ => None,
    });
    let servers = servers.await;
    assert_eq!(servers.len(), 1);
    let group = holder.announce(&ids, servers).unwrap();
    let stored = until(&mut holder, &mut server, |event| match event {
        NetEvent::Announced {
            group: ended,
            stored,
        } => {
            assert_eq!(ended, group);
            Some(stored)
        }
        _ => None,
    });
    assert!(stored.await);
    assert_eq!(server.foreign_records(), 500);
    // And a third finds the second through the first.
    let mut seeker = on_loopback(3, DhtMode::Client);
    let address = server.swarm.listeners().next().unwrap().clone();
    seeker.dial(server_id, &[Address::from_multiaddr(address).unwrap()]);
    until(&mut seeker, &mut server, identified).await;
    seeker.find_providers(ids[499]).unwrap();
    let found = until(&mut seeker, &mut server, |event| match event {
        NetEvent::ProvidersFound { peers, .. } if !peers.is_empty() => Some(peers),
        _ => None,
    });
    assert_eq!(found.await, [key(2).node_id().unwrap()]);
}

/// K-06.
#[tokio::test]
async fn a_client_stays_a_client() {
    let public: Multiaddr = "/ip4/1.2.3.4/tcp/4711".parse().unwrap();
    for (asked, after) in [(DhtMode::Client, "client"), (DhtMode::Auto, "server")] {
        let mut node = on_loopback(1, asked);
        assert_eq!(node.dht_mode(), "client");
        listening(&mut node).await;
        node.translate(SwarmEvent::ExternalAddrConfirmed {
            address: public.clone(),
        });
        assert_eq!(node.dht_mode(), after);
    }
    // Nobody asks it anything: it is in no routing table, though it was reached and has a confirmed address.
    let mut server = on_loopback(1, DhtMode::Server);
    let mut client = on_loopback(2, DhtMode::Client);
    client.swarm.add_external_address(public);
    let address = listening(&mut client).await;
    server.dial(key(2).node_id().unwrap(), &[address]);
    until(&mut server, &mut client, identified).await;
    assert_eq!(server.dht_peers(), 0);
    assert_eq!(client.dht_mode(), "client");
}

/// K-05.
#[tokio::test]
async fn the_routing_table_keeps_few_addresses_and_none_that_a_stranger_cannot_have() {
    let mut node = on_loopback(1, DhtMode::Server);
    let keypair = Keypair::generate_ed25519();
    let stranger = keypair.public().to_peer_id();
    node.reach.insert(stranger, super::hearsay::Reach::World);
    let kad: StreamProtocol = StreamProtocol::new("/p2p-core/kad/1.0.0");
    for round in 0..1250_u32 {
        let listen = (0..8).map(|n| {
            let [_, b, c, d] = (round * 8 + n).to_be_bytes();
            format!("/ip4/8.{b}.{c}.{d}/tcp/4711").parse().unwrap()
        });
        let private = [
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/ip6/::1/tcp/22",
        ];
        let private = private.iter().map(|address| address.parse().unwrap());
        let info = identify::Info {
            public_key: keypair.public(),
            protocol_version: String::new(),
            agent_version: String::new(),
            listen_addrs: private.chain(listen).collect(),
            protocols: vec![kad.clone()],
            observed_addr: Multiaddr::empty(),
            signed_peer_record: None,
        };
        let event = identify::Event::Received {
            connection_id: ConnectionId::new_unchecked(1),
            peer_id: stranger,
            info,
        };
        let event = SwarmEvent::Behaviour(BehaviourEvent::Identify(event));
        let Some(NetEvent::Identified { addresses, .. }) = node.translate(event) else {
            panic!("not told");
        };
        assert!(addresses.iter().all(Address::is_global), "{addresses:?}");
        while node.next_event().now_or_never().is_some() {}
    }
    let table = node.swarm.behaviour_mut().kad.as_mut().unwrap();
    let bucket = table.kbucket(stranger).unwrap();
    let entry = bucket.iter().next().unwrap();
    let held: Vec<Multiaddr> = entry.node.value.iter().cloned().collect();
    assert!((1..=8).contains(&held.len()), "{held:?}");
    assert!(
        held.iter()
            .all(|a| Address::from_multiaddr(a.clone()).unwrap().is_global())
    );
}

/// Who is gone leaves the routing table with the first walk that misses it; but only if somebody else is there.
#[tokio::test]
async fn the_table_forgets_whom_a_walk_has_missed() {
    let key = |seed| NodeKey::from_secret([seed; 32]).unwrap();
    let node = |seed: u8| {
        let key = key(seed);
        let config = NetworkConfig {
            lan_only: true,
            ..config(
                DhtMode::Server,
                &format!("/memory/{}", 770_000 + u64::from(seed)),
            )
        };
        let transport = memory_simulation::transport(key.0.public().to_peer_id());
        let intervals = Intervals::default();
        Net::over(
            transport,
            None,
            &key,
            &config,
            64,
            "test",
            intervals,
            Instant::now(),
        )
        .unwrap()
    };
    let gone = (
        PeerId::random(),
        "/memory/770099".parse::<Multiaddr>().unwrap(),
    );
    let (mut seeker, mut server) = (node(21), node(22));
    let table = seeker.swarm.behaviour_mut().kad.as_mut().unwrap();
    table.add_address(&gone.0, gone.1);
    let address = listening(&mut server).await;
    let ended = |event| matches!(event, NetEvent::LookupEnded { .. }).then_some(());

    seeker.find_providers(ContentId::EMPTY).unwrap();
    until(&mut seeker, &mut server, ended).await;
    assert_eq!(seeker.dht_peers(), 1, "our own network may be down");

    seeker.dial(key(22).node_id().unwrap(), &[address]);
    until(&mut seeker, &mut server, identified).await;
    seeker.find_providers(ContentId::EMPTY).unwrap();
    until(&mut seeker, &mut server, ended).await;
    let table = seeker.swarm.behaviour_mut().kad.as_mut().unwrap();
    let mut entries = table.kbuckets().flat_map(|bucket| {
        let entries = bucket.iter().map(|entry| *entry.node.key.preimage());
        entries.collect::<Vec<_>>()
    });
    assert_eq!(entries.next(), Some(key(22).0.public().to_peer_id()));
    assert_eq!(entries.next(), None);
}

/// A network in memory in which nodes have the addresses they say, and every dial is written down.
struct Trap {
    inner: MemoryTransport,
    dialled: Dialled,
}

/// `/ip4/…/tcp/N` is `/memory/N`.
fn inner(address: &Multiaddr) -> Multiaddr {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(u64::from(port)),
        _ => None,
    });
    Multiaddr::empty().with(Protocol::Memory(port.unwrap_or(u64::MAX)))
}

impl Transport for Trap {
    type Output = <MemoryTransport as Transport>::Output;
    type Error = <MemoryTransport as Transport>::Error;
    type ListenerUpgrade = <MemoryTransport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, inner(&address))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        self.dialled.lock().unwrap().push(address.clone());
        Ok(self.inner.dial(inner(&address), options)?.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

type Dialled = Arc<Mutex<Vec<Multiaddr>>>;

fn trap(keypair: &Keypair) -> (Boxed<(PeerId, StreamMuxerBox)>, Dialled) {
    let dialled = Dialled::default();
    let transport = Trap {
        inner: MemoryTransport::new(),
        dialled: Arc::clone(&dialled),
    };
    let upgraded = transport
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).unwrap())
        .multiplex(mux::Config)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    (upgraded.boxed(), dialled)
}

/// A stranger names peers at addresses of the asker's own machine and network. Only the public one is dialled; if it is a
/// neighbour who names them, those of the local network are.
#[tokio::test]
async fn private_addresses_are_not_dialled_on_hearsay() {
    let named = [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/10.8.0.1/tcp/2",
        "/ip4/192.168.1.1/tcp/3",
        "/ip4/172.16.0.9/tcp/4",
        "/ip4/169.254.169.254/tcp/5",
        "/ip4/100.64.0.1/tcp/6",
        "/ip4/0.0.0.0/tcp/7",
        "/ip4/224.0.0.251/tcp/8",
        "/ip6/::1/tcp/9",
        "/ip6/fe80::1/tcp/10",
        "/ip6/fd00::1/tcp/11",
        "/dns4/localhost/tcp/12",
        "/dns4/router.lan/tcp/13",
        "/dns4/example.org/tcp/15",
        "/ip4/8.8.4.4/tcp/16/ip4/127.0.0.1/tcp/17",
        "/ip4/8.8.4.4/tcp/14",
    ];
    for (at, port, private) in [("8.8.8.8", 7001, false), ("192.168.7.7", 7002, true)] {
        let address: Multiaddr = format!("/ip4/{at}/tcp/{port}").parse().unwrap();
        let keypair = Keypair::generate_ed25519();
        let hostile = keypair.public().to_peer_id();
        let mut settings = kad::Config::new(StreamProtocol::new("/p2p-core/kad/1.0.0"));
        settings.set_kbucket_inserts(kad::BucketInserts::Manual);
        let mut liar = kad::Behaviour::with_config(hostile, MemoryStore::new(hostile), settings);
        liar.set_mode(Some(kad::Mode::Server));
        for name in named {
            liar.add_address(&PeerId::random(), name.parse().unwrap());
        }
        let (transport, _) = trap(&keypair);
        let mut hostile_swarm = libp2p::Swarm::new(
            transport,
            liar,
            hostile,
            swarm::Config::with_tokio_executor(),
        );
        hostile_swarm.listen_on(address.clone()).unwrap();
        tokio::spawn(async move {
            use futures::StreamExt;
            while hostile_swarm.next().await.is_some() {}
        });

        let key = key(1);
        let (transport, dialled) = trap(&key.0);
        let config = config(DhtMode::Client, &format!("/ip4/8.8.8.9/tcp/{}", port + 10));
        let mut victim = Net::over(
            transport,
            None,
            &key,
            &config,
            64,
            "test",
            Intervals::default(),
            Instant::now(),
        )
        .unwrap();
        let behaviour = victim.swarm.behaviour_mut();
        behaviour
            .kad
            .as_mut()
            .unwrap()
            .add_address(&hostile, address.clone());
        victim.find_providers(ContentId::EMPTY).unwrap();
        let ended =
            async { while !matches!(victim.next_event().await, NetEvent::LookupEnded { .. }) {} };
        within("end of the look-up", ended).await;

        let mut dialled = dialled.lock().unwrap().clone();
        let without_peer = |a: &Multiaddr| -> Multiaddr {
            a.iter()
                .filter(|part| !matches!(part, Protocol::P2p(_)))
                .collect()
        };
        dialled = dialled
            .iter()
            .map(without_peer)
            .filter(|a| *a != address)
            .collect();
        let public: Multiaddr = "/ip4/8.8.4.4/tcp/14".parse().unwrap();
        assert!(
            dialled.contains(&public),
            "the answer was not taken up: {dialled:?}"
        );
        let lan: Multiaddr = "/ip4/192.168.1.1/tcp/3".parse().unwrap();
        assert_eq!(dialled.contains(&lan), private, "{dialled:?}");
        let machine = |a: &Multiaddr| Address::from_multiaddr(a.clone()).unwrap().is_loopback();
        assert!(!dialled.iter().any(machine), "{dialled:?}");
        if !private {
            assert_eq!(dialled, [public]);
        }
    }
}
