//! Searches among real nodes on loopback: one in the middle that serves the DHT, others that know only that one, and
//! peers that answer with lies.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use super::*;
use crate::{
    announce::Announced,
    config::{Config, DhtMode, NetworkConfig, RelayMode},
    content::{Address, PublisherSecret, SignedManifest},
    names::search_keys,
    net::{Net, NetEvent, NodeKey},
    node::ShareRef,
};

const DEADLINE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(20);

fn network(dht: DhtMode, bootstrap: &[Address]) -> NetworkConfig {
    NetworkConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        bootstrap: bootstrap.to_vec(),
        mdns: false,
        dht,
        upnp: false,
        relay: RelayMode::Off,
        ..NetworkConfig::default()
    }
}

async fn start(dht: DhtMode, knows: &[&Node]) -> Node {
    let mut config = Config::default().in_memory();
    let addresses: Vec<Address> = knows.iter().flat_map(|node| node.addresses()).collect();
    config.network = network(dht, &addresses);
    Node::start(config).await.unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn joined(node: &Node) {
    until("a server of the DHT", async || node.status().dht_peers > 0).await;
}

/// How the words of a text stand with the announcer of a node.
async fn words(node: &Node, text: &str) -> Vec<Option<Announced>> {
    let ids = search_keys(text);
    assert!(!ids.is_empty());
    let (reply, states) = oneshot::channel();
    node.send(Command::Announced { ids, reply }).await.unwrap();
    states.await.unwrap()
}

async fn announced(node: &Node, text: &str) {
    let is_done = |state: &Option<Announced>| matches!(state, Some(Announced::Done(_)));
    until("the words to be announced", async || {
        words(node, text).await.iter().all(is_done)
    })
    .await;
}

fn connected(node: &Node, peer: NodeId) -> bool {
    let peers = node.peers();
    peers
        .iter()
        .any(|info| info.peer == peer && info.state == crate::peers::PeerState::Connected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_found_by_its_words_and_an_unlisted_one_never() {
    let middle = start(DhtMode::Server, &[]).await;
    let holder = start(DhtMode::Client, &[&middle]).await;
    let song = holder.share_bytes("Canção do Mar.ogg", "song").await;
    let song = song.unwrap();
    let secret = holder.share_bytes("canção secreta.ogg", "secret");
    secret.unlisted(true).await.unwrap();
    announced(&holder, "canção mar").await;
    assert_eq!(words(&holder, "secreta").await, [None]);

    for text in ["CANCAO", "mar canção", "Canção do Mar.ogg"] {
        // Another each time: once the holder was found, it is connected, and asked anyway.
        let seeker = start(DhtMode::Client, &[&middle]).await;
        joined(&seeker).await;
        assert!(!connected(&seeker, holder.id()));
        let found = seeker.find(text, TIMEOUT).await.unwrap();
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0].id, song.id);
        assert_eq!(found[0].name, "Canção do Mar.ogg");
        assert_eq!((found[0].peer, found[0].providers), (holder.id(), 1));
        assert_eq!(found[0].publisher, holder.publisher());
        assert!(connected(&seeker, holder.id()));
        assert_eq!(seeker.find("secreta", TIMEOUT).await.unwrap(), []);
        assert_eq!(seeker.find("canção mar alto", TIMEOUT).await.unwrap(), []);
        seeker.shutdown().await;
    }
    // What is unlisted from now on is announced by name no longer; nor is what is shared no longer.
    let again = holder.share_bytes("Canção do Mar.ogg", "song");
    again.unlisted(true).await.unwrap();
    assert_eq!(words(&holder, "canção mar").await, [None, None]);
    let other = holder.share_bytes("mar alto", "other").await.unwrap();
    announced(&holder, "mar alto").await;
    holder.unshare(ShareRef::Id(other.id)).await.unwrap();
    assert_eq!(words(&holder, "mar alto").await, [None, None]);
    for node in [holder, middle] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_stay_announced_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let middle = start(DhtMode::Server, &[]).await;
    let mut config = Config::default().with_data_dir(dir.path());
    config.network = network(DhtMode::Client, &middle.addresses());
    let holder = Node::start(config.clone()).await.unwrap();
    holder.share_bytes("winter holiday", "a").await.unwrap();
    let unlisted = holder.share_bytes("surprise", "b").unlisted(true);
    unlisted.await.unwrap();
    announced(&holder, "winter holiday").await;
    holder.shutdown().await;
    middle.shutdown().await;
    // Nobody is there to be told again.
    config.network.bootstrap.clear();
    let holder = Node::start(config).await.unwrap();
    announced(&holder, "winter holiday").await;
    assert_eq!(words(&holder, "surprise").await, [None]);
    holder.shutdown().await;
}

/// The same bytes under two names, of which one is for nobody to see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlisted_name_stays_so_beside_a_listed_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["summer.txt", "surprise.txt"] {
        std::fs::write(path(name), "the same").unwrap();
    }
    let mut config = Config::default().with_data_dir(path("data"));
    config.network = network(DhtMode::Client, &[]);
    let node = Node::start(config.clone()).await.unwrap();
    let secret = || node.share(path("surprise.txt")).unlisted(true);
    secret().await.unwrap();
    node.share(path("summer.txt")).await.unwrap();
    assert_eq!(words(&node, "summer").await, [Some(Announced::Due)]);
    assert_eq!(words(&node, "surprise").await, [None]);
    // The bytes are shared still, but not for everyone.
    let listed = ShareRef::Path(path("summer.txt"));
    node.unshare(listed).await.unwrap();
    assert_eq!(words(&node, "summer surprise").await, [None, None]);
    node.share(path("summer.txt")).await.unwrap();
    secret().await.unwrap();
    node.share_bytes("winter", "another").await.unwrap();
    node.shutdown().await;
    let node = Node::start(config).await.unwrap();
    until("what was shared before to be read", async || {
        words(&node, "winter").await != [None]
    })
    .await;
    assert_eq!(words(&node, "surprise").await, [None]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connected_peers_are_asked_without_a_dht() {
    let holder = start(DhtMode::Off, &[]).await;
    holder.share_bytes("Straße.pdf", "x").await.unwrap();
    let seeker = start(DhtMode::Off, &[&holder]).await;
    until("a connection", async || connected(&seeker, holder.id())).await;
    for text in ["STRAßE", "traß"] {
        assert_eq!(seeker.find(text, TIMEOUT).await.unwrap().len(), 1, "{text}");
    }
    assert_eq!(seeker.find(" ", TIMEOUT).await.unwrap(), []);
    // Nothing comes of the words that nobody could be told of.
    assert_eq!(words(&holder, "Straße").await, [None]);
    for node in [seeker, holder] {
        node.shutdown().await;
    }
}

/// A peer that answers each search with the same, and announces itself under the words of a text.
struct Hostile {
    id: NodeId,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hostile {
    async fn start(seed: u8, middle: &Node, text: &str, reply: Reply) -> Self {
        let key = NodeKey::from_secret([seed; 32]).unwrap();
        let config = network(DhtMode::Client, &[]);
        let mut net = Net::start(&key, &config, 64, "hostile", Instant::now()).unwrap();
        let addresses = middle.addresses();
        let addresses: Vec<Address> = addresses.iter().map(Address::without_node).collect();
        net.dial(middle.id(), &addresses);
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, mut keys) = (Arc::clone(&asked), search_keys(text));
        let words = keys.len();
        let (done, mut stored) = mpsc::channel(words);
        let task = tokio::spawn(async move {
            let mut walks = std::collections::HashMap::new();
            loop {
                match net.next_event().await {
                    NetEvent::Identified { .. } => {
                        for key in keys.drain(..) {
                            net.provide(key);
                            walks.insert(net.find_servers(key).unwrap(), key);
                        }
                    }
                    NetEvent::ServersFound {
                        lookup, servers, ..
                    } => {
                        net.announce(&[walks[&lookup]], servers).unwrap();
                    }
                    NetEvent::Announced { stored: true, .. } => {
                        let _ = done.send(()).await;
                    }
                    NetEvent::Asked { query, slot, .. } => {
                        if matches!(query, Query::Search { .. }) {
                            count.fetch_add(1, Ordering::Relaxed);
                            net.reply(slot, reply.clone());
                        } else {
                            net.reply(slot, Reply::NotFound);
                        }
                    }
                    _ => {}
                }
            }
        });
        let all = async {
            for _ in 0..words {
                stored.recv().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, all).await.unwrap();
        Self {
            id: key.node_id().unwrap(),
            asked,
            task,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn manifest(name: &str) -> SignedManifest {
    let secret = PublisherSecret::from_bytes([9; 32]);
    let id = ContentId::of(name.as_bytes());
    SignedManifest::sign(Kind::File, id, 5, name, 0, &secret).unwrap()
}

fn manifests(manifests: Vec<SignedManifest>) -> Reply {
    Reply::Manifests {
        manifests,
        more: false,
    }
}

/// Each of them answers with something that would be found, and something that is not right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn liars_and_flooders_are_not_believed_and_not_asked_again() {
    let middle = start(DhtMode::Server, &[]).await;
    let holder = start(DhtMode::Client, &[&middle]).await;
    let talk = holder.share_bytes("conference talk.mp4", "talk").await;
    let talk = talk.unwrap();
    announced(&holder, "conference talk").await;
    let good = || manifest("talk at the conference");
    let mut bytes = good().encode();
    *bytes.last_mut().unwrap() ^= 1;
    let unsigned = SignedManifest::decode(&bytes).unwrap();
    let flood = (0..257).map(|n| manifest(&format!("conference talk {n}")));
    let replies = [
        manifests(vec![unsigned]),
        manifests(vec![good(), manifest("something else")]),
        manifests(vec![good(), good()]),
        manifests(flood.collect()),
        Reply::Manifests {
            manifests: vec![good()],
            more: true,
        },
        Reply::Cancelled,
    ];
    let mut hostile = Vec::new();
    for (seed, reply) in (100..).zip(replies) {
        hostile.push(Hostile::start(seed, &middle, "conference talk", reply).await);
    }
    // Spam is not told from what is honest, but it is one peer's.
    let spam = manifests(vec![good()]);
    let spammer = Hostile::start(99, &middle, "conference talk", spam).await;

    let seeker = start(DhtMode::Client, &[&middle]).await;
    joined(&seeker).await;
    // The DHT names who it likes; what it does not name in one search it does in another.
    let mut found = Vec::new();
    until("all to be asked", async || {
        found = seeker.find("Talk CONFERENCE", TIMEOUT).await.unwrap();
        let all = found.len() == 2;
        all && hostile.iter().all(|hostile| hostile.asked() == 1)
    })
    .await;
    let peers: HashSet<NodeId> = found.iter().map(|found| found.peer).collect();
    assert_eq!(peers, HashSet::from([holder.id(), spammer.id]));
    assert!(found.iter().any(|found| found.id == talk.id));
    // They are connected still, and yet not asked again; the spammer is.
    let before = spammer.asked();
    let found = seeker.find("conference", TIMEOUT).await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(spammer.asked(), before + 1);
    for hostile in &hostile {
        assert_eq!(hostile.asked(), 1);
    }
    drop((hostile, spammer));
    for node in [seeker, holder, middle] {
        node.shutdown().await;
    }
}
