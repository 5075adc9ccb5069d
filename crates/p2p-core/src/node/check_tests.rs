use std::path::Path;

use super::*;
use crate::{Address, Config, DhtMode, NodeId, content::ContentId};

const DEADLINE: Duration = Duration::from_secs(60);

fn peer(n: u8) -> NodeId {
    let key = crate::net::NodeKey::from_secret([n; 32]).unwrap();
    key.node_id().unwrap()
}

fn sample() -> Check {
    let us = peer(1);
    let says = |n, named: Option<Vec<NodeId>>| ServerAnswer {
        server: peer(n),
        named,
    };
    Check {
        id: ContentId::of(b"checked"),
        here: Some(ContentState::Complete),
        announced: Announcement::Done(Duration::from_secs(60)),
        expires: None,
        servers: vec![
            says(10, Some(vec![us])),
            says(11, Some(vec![])),
            says(12, None),
        ],
        providers: Vec::new(),
        holders: Vec::new(),
        reachability: Reachability::Unknown,
        available: false,
        verdict: String::new(),
    }
}

#[test]
fn the_verdict_says_why() {
    let us = peer(1);
    let (can, why) = judge(&sample(), us);
    assert!(
        can && why.starts_with("1 of 2 servers name this node."),
        "{why}"
    );
    let reached = Reachability::Direct(Vec::new());
    for (reachability, expected, word) in [
        (reached, true, "reach it"),
        (Reachability::Relayed, true, "relay"),
        (Reachability::Unreachable, false, "doctor"),
    ] {
        let (can, why) = judge(
            &Check {
                reachability,
                ..sample()
            },
            us,
        );
        assert!(can == expected && why.contains(word), "{why}");
    }
    let silent = Check {
        servers: Vec::new(),
        ..sample()
    };
    assert!(judge(&silent, us).1.contains("bootstrap"));
    let off = Check {
        announced: Announcement::Off,
        ..silent
    };
    assert!(judge(&off, us).1.contains("not announced"));
    let gone = Check {
        here: None,
        ..sample()
    };
    assert!(!judge(&gone, us).0);
    let elsewhere = Check {
        providers: vec![peer(5), peer(6)],
        ..gone
    };
    let (can, why) = judge(&elsewhere, us);
    assert!(can && why.contains("2 others"), "{why}");
}

fn config(dir: &Path, bootstrap: Vec<Address>) -> Config {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.network.mdns = false;
    config.network.upnp = false;
    config.network.dht = DhtMode::Server;
    config.network.bootstrap = bootstrap;
    config.storage.min_free = 0;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_the_dht_are_asked_what_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |name: &str, bootstrap| {
        let node = Node::start(config(&dir.path().join(name), bootstrap)).await;
        node.unwrap()
    };
    let first = start("first", Vec::new()).await;
    let second = start("second", first.addresses()).await;
    let node = start("node", first.addresses()).await;
    let file = dir.path().join("file");
    std::fs::write(&file, "for others").unwrap();
    let id = node.share(&file).await.unwrap().id;
    let held = async {
        loop {
            let check = node.check(id, Duration::from_secs(10)).await.unwrap();
            let names = |answer: &ServerAnswer| {
                let named = answer.named.as_ref();
                named.is_some_and(|named| named.contains(&node.id()))
            };
            let by = check.servers.iter().filter(|answer| names(answer));
            let by: BTreeSet<NodeId> = by.map(|answer| answer.server).collect();
            let all = by.contains(&first.id()) && by.contains(&second.id());
            if all && check.expires.is_some() {
                return check;
            }
        }
    };
    let check = tokio::time::timeout(DEADLINE, held).await.unwrap();
    assert!(check.available, "{}", check.verdict);
    assert_eq!(check.here, Some(ContentState::Complete));
    assert!(check.expires.unwrap() > Duration::from_secs(47 * 3600));
    assert!(check.providers.is_empty() && check.holders.is_empty());

    // As another sees it, who has nothing; and of what nobody has.
    let check = second.check(id, DEADLINE).await.unwrap();
    assert_eq!((check.here, check.available), (None, true));
    assert_eq!(check.providers, [node.id()]);
    let nothing = ContentId::of(b"nobody has this");
    let check = node.check(nothing, Duration::from_secs(5)).await.unwrap();
    assert!(!check.available && check.providers.is_empty(), "{check:?}");
    for node in [node, second, first] {
        node.shutdown().await;
    }
}

/// Who keeps the records of a small network loses them when it is started anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(&dir.path().join("server"), Vec::new());
    settings.network.dht = DhtMode::Server;
    let server = Node::start(settings.clone()).await.unwrap();
    let mut client = config(&dir.path().join("client"), server.addresses());
    client.network.dht = DhtMode::Client;
    let node = Node::start(client).await.unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "for others").unwrap();
    let id = node.share(&file).await.unwrap().id;
    let is_named = async |server: NodeId| {
        let named = async {
            loop {
                let check = node.check(id, Duration::from_secs(10)).await.unwrap();
                let mut answers = check
                    .servers
                    .iter()
                    .filter(|answer| answer.server == server);
                let names = |named: &Vec<NodeId>| named.contains(&node.id());
                if answers.any(|answer| answer.named.as_ref().is_some_and(names)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(DEADLINE, named).await.unwrap();
    };
    is_named(server.id()).await;
    settings.network.listen = server
        .addresses()
        .iter()
        .map(Address::without_node)
        .collect();
    server.shutdown().await;
    let server = Node::start(settings).await.unwrap();
    is_named(server.id()).await;
    for node in [node, server] {
        node.shutdown().await;
    }
}
