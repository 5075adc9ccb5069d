//! A node is an ordinary libp2p node: other implementations identify it, ping it, and find in the same DHT what it
//! provides, by the CID of the content; and it finds what they provide. The others here are made of libp2p's own parts as
//! they are, without anything of this project.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    kad::{self, store::MemoryStore},
    noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, tls, yamux,
};
use p2p_core::{Address, Config, ContentId, DhtMode, Node};

/// Longer than any of this takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const NETWORK: &str = "interop-test";

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
}

impl Behaviour {
    fn new(key: &Keypair) -> Self {
        let local = key.public().to_peer_id();
        let protocol = StreamProtocol::try_from_owned(format!("/{NETWORK}/kad/1.0.0")).unwrap();
        let config = kad::Config::new(protocol);
        let mut kad = kad::Behaviour::with_config(local, MemoryStore::new(local), config);
        kad.set_mode(Some(kad::Mode::Server));
        let config = identify::Config::new("/other/1".into(), key.public());
        Self {
            identify: identify::Behaviour::new(config),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(1))),
            kad,
        }
    }
}

/// A node of libp2p's own parts.
struct Stock {
    swarm: Swarm<Behaviour>,
}

type Built = Swarm<Behaviour>;

fn finish(build: impl FnOnce(fn(&Keypair) -> Behaviour) -> Built) -> Stock {
    let mut stock = Stock {
        swarm: build(Behaviour::new),
    };
    let address = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    // One of QUIC alone cannot, and need not.
    let _ = stock.swarm.listen_on(address);
    stock
}

fn idle(config: libp2p::swarm::Config) -> libp2p::swarm::Config {
    config.with_idle_connection_timeout(DEADLINE)
}

impl Stock {
    fn over_tls() -> Self {
        finish(|behaviour| {
            SwarmBuilder::with_new_identity()
                .with_tokio()
                .with_tcp(
                    tcp::Config::default(),
                    tls::Config::new,
                    yamux::Config::default,
                )
                .unwrap()
                .with_behaviour(behaviour)
                .unwrap()
                .with_swarm_config(idle)
                .build()
        })
    }

    fn over_noise() -> Self {
        finish(|behaviour| {
            SwarmBuilder::with_new_identity()
                .with_tokio()
                .with_tcp(
                    tcp::Config::default(),
                    noise::Config::new,
                    yamux::Config::default,
                )
                .unwrap()
                .with_behaviour(behaviour)
                .unwrap()
                .with_swarm_config(idle)
                .build()
        })
    }

    fn over_either() -> Self {
        finish(|behaviour| {
            SwarmBuilder::with_new_identity()
                .with_tokio()
                .with_tcp(
                    tcp::Config::default(),
                    (tls::Config::new, noise::Config::new),
                    yamux::Config::default,
                )
                .unwrap()
                .with_behaviour(behaviour)
                .unwrap()
                .with_swarm_config(idle)
                .build()
        })
    }

    fn over_quic() -> Self {
        finish(|behaviour| {
            SwarmBuilder::with_new_identity()
                .with_tokio()
                .with_quic()
                .with_behaviour(behaviour)
                .unwrap()
                .with_swarm_config(idle)
                .build()
        })
    }

    fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Goes on until something is seen.
    async fn until<T>(
        &mut self,
        what: &str,
        mut see: impl FnMut(&mut Self, Event) -> Option<T>,
    ) -> T {
        let search = async {
            loop {
                let event = self.swarm.select_next_some().await;
                self.learn(&event);
                if let Some(seen) = see(self, event) {
                    return seen;
                }
            }
        };
        let seen = tokio::time::timeout(DEADLINE, search).await;
        seen.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    /// What every program does that uses these parts: those who speak the DHT's protocol become part of its table.
    fn learn(&mut self, event: &Event) {
        if let SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            peer_id,
            info,
            ..
        })) = event
        {
            let kad = &mut self.swarm.behaviour_mut().kad;
            if info
                .protocols
                .iter()
                .any(|p| p.as_ref() == format!("/{NETWORK}/kad/1.0.0"))
            {
                for address in &info.listen_addrs {
                    kad.add_address(peer_id, address.clone());
                }
            }
        }
    }

    async fn listens(&mut self) -> Address {
        let address = self.until("an address", |_, event| match event {
            SwarmEvent::NewListenAddr { address, .. } => Some(address),
            _ => None,
        });
        let address = address.await;
        format!("{address}/p2p/{}", self.id()).parse().unwrap()
    }

    /// Runs on its own from now on.
    fn go_on(mut self) {
        tokio::spawn(async move {
            loop {
                let event = self.swarm.select_next_some().await;
                self.learn(&event);
            }
        });
    }

    /// Who provides this key, as told by the DHT.
    async fn providers(&mut self, id: ContentId) -> HashSet<PeerId> {
        let query = self.swarm.behaviour_mut().kad.get_providers(key(id));
        let mut found = HashSet::new();
        let all = self.until("the end of a search", |_, event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetProviders(result),
                step,
                ..
            })) if id == query => {
                if let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = result {
                    found.extend(providers);
                }
                step.last.then(|| std::mem::take(&mut found))
            }
            _ => None,
        });
        all.await
    }
}

type Event = SwarmEvent<BehaviourEvent>;

/// The key of a content in the DHT as another implementation makes it of a CID: its multihash, which for a CIDv1 of raw
/// bytes hashed by BLAKE3 is what follows the version and the codec.
fn key(id: ContentId) -> kad::RecordKey {
    let cid = id.cid();
    let (base, text) = cid.split_at(1);
    assert_eq!(base, "b", "base32 in lower case");
    let bytes = data_encoding::BASE32_NOPAD
        .decode(text.to_uppercase().as_bytes())
        .unwrap();
    let multihash = bytes.strip_prefix(&[0x01, 0x55]).expect("CIDv1, raw");
    kad::RecordKey::new(&multihash)
}

fn config() -> Config {
    let mut config = Config::default().in_memory();
    config.network.listen = vec![
        "/ip4/127.0.0.1/tcp/0".parse().unwrap(),
        "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(),
    ];
    config.network.mdns = false;
    config.network.upnp = false;
    config.network.dht = DhtMode::Server;
    config.network.network = NETWORK.into();
    config
}

fn address_of(node: &Node, quic: bool) -> Multiaddr {
    let addresses = node.addresses().into_iter().map(|a| a.to_string());
    let mut addresses = addresses.filter(|address| address.contains("quic") == quic);
    addresses.next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn others_identify_and_ping_a_node_over_every_transport() {
    let node = Node::start(config()).await.unwrap();
    for (mut stock, quic) in [
        (Stock::over_tls(), false),
        (Stock::over_noise(), false),
        (Stock::over_quic(), true),
    ] {
        stock.swarm.dial(address_of(&node, quic)).unwrap();
        let mut seen = BTreeMap::new();
        stock
            .until("its identity and a ping", |_, event| {
                match event {
                    SwarmEvent::Behaviour(BehaviourEvent::Identify(
                        identify::Event::Received { peer_id, info, .. },
                    )) => {
                        assert_eq!(peer_id.to_string(), node.id().to_string());
                        assert_eq!(info.agent_version, p2p_core::AGENT);
                        let protocols = info.protocols.iter().map(|p| p.to_string());
                        seen.insert("identify", protocols.collect());
                    }
                    SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) => {
                        ping.result.unwrap();
                        seen.insert("ping", Vec::new());
                    }
                    SwarmEvent::ConnectionClosed { cause, .. } => panic!("{cause:?}"),
                    _ => {}
                }
                (seen.len() == 2).then_some(())
            })
            .await;
        let kad = format!("/{NETWORK}/kad/1.0.0");
        assert!(seen["identify"].contains(&kad), "{:?}", seen["identify"]);
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_find_what_a_node_announced_by_its_cid() {
    let mut server = Stock::over_either();
    let mut config = config();
    config.network.bootstrap = vec![server.listens().await];
    let server_address = config.network.bootstrap[0].to_string();
    server.go_on();
    let node = Node::start(config).await.unwrap();
    let shared = node.share_bytes("shared", "for everyone").await.unwrap();

    // They know the server only, which was told.
    let mut seeker = Stock::over_either();
    let (peer, address) = split(&server_address);
    seeker.swarm.behaviour_mut().kad.add_address(&peer, address);
    let ours: PeerId = node.id().to_string().parse().unwrap();
    let search = async {
        while !seeker.providers(shared.id).await.contains(&ours) {
            // The announcement is on its way.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, search).await;
    found.expect("the node is among the providers");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_what_others_announced() {
    let mut server = Stock::over_either();
    let server_address = server.listens().await;
    server.go_on();
    let mut provider = Stock::over_either();
    provider.listens().await;
    let id = ContentId::of(b"what somebody else has");
    let (peer, address) = split(&server_address.to_string());
    let kad = &mut provider.swarm.behaviour_mut().kad;
    kad.add_address(&peer, address);
    let told = kad.start_providing(key(id)).unwrap();
    provider
        .until("the announcement", |_, event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::StartProviding(result),
                ..
            })) if id == told => Some(result.unwrap()),
            _ => None,
        })
        .await;
    let theirs = provider.id().to_string();
    provider.go_on();

    let mut config = config();
    config.network.dht = DhtMode::Client;
    config.network.bootstrap = vec![server_address];
    let node = Node::start(config).await.unwrap();
    let search = async {
        loop {
            let found = node
                .providers(id, Duration::from_secs(5))
                .await
                .unwrap_or_default();
            if found
                .iter()
                .any(|provider| provider.node().to_string() == theirs)
            {
                return;
            }
        }
    };
    let found = tokio::time::timeout(DEADLINE, search).await;
    found.expect("the other is among the providers");
    node.shutdown().await;
}

fn split(address: &str) -> (PeerId, Multiaddr) {
    let (address, peer) = address.rsplit_once("/p2p/").unwrap();
    (peer.parse().unwrap(), address.parse().unwrap())
}
