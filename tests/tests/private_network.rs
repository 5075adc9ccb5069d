//! A private network: who has its key is in it, and nobody else gets a word.

use std::{fs, time::Duration};

use p2p_core::{Address, Config, FetchError, NetworkKey, Node, Shared};
use p2p_tests::{Sandbox, files};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than a handshake takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a stranger tries.
const PATIENCE: Duration = Duration::from_secs(3);

fn config(key: Option<[u8; 32]>) -> Config {
    let mut config = Config::default().in_memory();
    config.network.listen = vec![
        "/ip4/127.0.0.1/tcp/0".parse().unwrap(),
        "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(),
    ];
    config.network.mdns = false;
    config.network.upnp = false;
    config.network.key = key.map(NetworkKey::from_bytes);
    config
}

async fn node(key: Option<[u8; 32]>) -> Node {
    Node::start(config(key)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_join_a_private_network() {
    let key = [7; 32];
    let (alice, bob) = (node(Some(key)).await, node(Some(key)).await);
    let addresses = alice.addresses();
    assert!(
        addresses.iter().all(Address::is_tcp) && !addresses.is_empty(),
        "nothing but TCP: {addresses:?}"
    );
    let shared = alice.share_bytes("minutes", vec![3; 1_000_000]).await;
    let shared = shared.unwrap();

    // Another key by one bit, and none at all.
    let mut other = key;
    other[31] ^= 1;
    let strangers = (node(Some(other)).await, node(None).await);
    tokio::join!(
        gets_nothing(&strangers.0, &bob, &shared),
        gets_nothing(&strangers.1, &bob, &shared),
        says_whatever_it_likes(&addresses[0]),
    );
    assert_eq!(alice.status().peers_connected, 0);
    bob.connect(addresses[0].clone()).await.unwrap();
    let fetched = bob
        .fetch(shared.ticket)
        .start()
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(fetched.size, 1_000_000);
    for node in [strangers.0, strangers.1, bob, alice] {
        node.shutdown().await;
    }
}

/// Not even with a ticket that says where to go.
async fn gets_nothing(stranger: &Node, member: &Node, shared: &Shared) {
    let fetch = stranger.fetch(shared.ticket.clone()).timeout(PATIENCE);
    let refused = fetch.start().await.unwrap().await.unwrap_err();
    assert!(
        matches!(
            refused,
            FetchError::NotFound { .. } | FetchError::Timeout { .. }
        ),
        "{refused:?}"
    );
    // Nor is it reached from within.
    for address in stranger.addresses() {
        assert!(member.connect(address).await.is_err());
    }
    assert_eq!(stranger.status().peers_connected, 0);
}

async fn says_whatever_it_likes(address: &Address) {
    let port = address.to_string();
    let port: u16 = port.split('/').nth(4).unwrap().parse().unwrap();
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    let mut socket = socket.unwrap();
    let _ = socket.write_all(&[0x5a; 100_000]).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is given up");
    let clear = answer.windows(11).any(|word| word == b"multistream");
    assert!(!clear, "nothing is said in the clear");
}

#[test]
fn a_private_network_is_made_by_one_and_joined_with_a_copy_of_its_key() {
    let sandbox = Sandbox::new();
    let secret = sandbox.noise("minutes.txt", 100_000, 1);
    let home = |name: &str| sandbox.home(name).set("network.key", "\"swarm.key\"");
    let made = sandbox.home("made").run(["init", "--private", "new"]);
    made.expect_code(0);
    let key = sandbox.path("made/new/swarm.key");
    let config = fs::read_to_string(sandbox.path("made/new/node.toml")).unwrap();
    assert!(config.contains("\nkey = \"swarm.key\"\n"), "{config}");

    let join = |name: &str| {
        let home = home(name);
        // With its permissions, as `cp` and `scp -p` do.
        fs::copy(&key, home.dir().join("swarm.key")).unwrap();
        home
    };
    let alice = join("alice").share(&secret).start();
    let bob = join("bob").bootstrap([&alice]).start();
    bob.wait_connected([&alice]);
    let id = files::b3sum(&secret);
    bob.get(&id, &sandbox.path("copy"));
    assert_eq!(files::b3sum(&sandbox.path("copy")), id);

    // A key that is none, or that all can read, is refused before anything starts.
    let home = home("carol");
    let key = home.dir().join("swarm.key");
    fs::write(&key, "secret").unwrap();
    let refused = home.run(["run"]);
    refused.expect_failure(2, "config");
    let message = refused.only("error")["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("swarm.key"), "{message}");
    bob.stop();
    alice.stop();
}
