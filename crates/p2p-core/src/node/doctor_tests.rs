use super::*;
use crate::content::NodeId;

fn at(text: &str) -> Address {
    text.parse().unwrap()
}

fn peer() -> NodeId {
    let key = crate::net::NodeKey::from_secret([1; 32]).unwrap();
    key.node_id().unwrap()
}

fn facts() -> Facts {
    Facts {
        listening: vec![
            at("/ip4/192.168.1.5/tcp/4711"),
            at("/ip4/192.168.1.5/udp/4711/quic-v1"),
        ],
        external: Vec::new(),
        tested: Vec::new(),
        nat: Nat::Unknown,
        upnp: Upnp::Unknown,
        neighbours: Vec::new(),
        dht_mode: "client",
        dht_peers: 3,
        now: Instant::now(),
    }
}

fn of(area: &str, facts: &Facts, config: &NetworkConfig) -> Finding {
    let eth = Interface {
        name: "eth0".into(),
        ip: "192.168.1.5".parse().unwrap(),
        prefix: 24,
    };
    let mut findings = judge(facts, config, &[eth]).into_iter();
    findings.find(|finding| finding.area == area).unwrap()
}

#[test]
fn whether_others_reach_it_is_said_with_what_to_do() {
    let config = NetworkConfig::default();
    let mut facts = facts();
    let reachable = |facts: &Facts| of("reachable", facts, &config);
    assert_eq!(reachability(&facts), Reachability::Unknown);
    assert_eq!(reachable(&facts).level, Level::Info);
    facts.tested.push(Tested {
        address: at("/ip4/45.0.0.1/tcp/4711"),
        reachable: false,
        by: peer(),
        at: facts.now,
    });
    assert_eq!(reachability(&facts), Reachability::Unreachable);
    let bad = reachable(&facts);
    assert_eq!(bad.level, Level::Bad);
    assert!(bad.advice.unwrap().contains("TCP and UDP port 4711"));
    let relay = format!("/ip4/45.0.0.9/tcp/1/p2p/{}/p2p-circuit", peer());
    facts.external.push(at(&relay));
    assert_eq!(reachability(&facts), Reachability::Relayed);
    assert_eq!(reachable(&facts).level, Level::Warn);
    assert!(
        of("relays", &facts, &config)
            .message
            .contains("1 addresses")
    );
    facts.external.push(at("/ip4/45.0.0.1/tcp/4711"));
    assert_eq!(
        reachability(&facts),
        Reachability::Direct(vec![at("/ip4/45.0.0.1/tcp/4711")])
    );
    assert_eq!(reachable(&facts).level, Level::Ok);
}

#[test]
fn routers_are_judged() {
    let config = NetworkConfig::default();
    let mut facts = facts();
    for (nat, level) in [
        (Nat::None, Level::Ok),
        (Nat::EndpointIndependent, Level::Ok),
        (Nat::Symmetric, Level::Warn),
        (Nat::Unknown, Level::Info),
    ] {
        facts.nat = nat;
        assert_eq!(of("nat", &facts, &config).level, level, "{nat:?}");
    }
    for (upnp, level) in [
        (Upnp::Mapped, Level::Ok),
        (Upnp::NoGateway, Level::Info),
        (Upnp::NotRoutable, Level::Warn),
    ] {
        facts.upnp = upnp;
        assert_eq!(of("upnp", &facts, &config).level, level, "{upnp:?}");
    }
}

#[test]
fn neighbours_are_told_by_interface() {
    let config = NetworkConfig::default();
    let mut facts = facts();
    facts.neighbours.push(at("/ip4/10.0.0.7/tcp/1"));
    assert!(of("lan", &facts, &config).message.contains("no neighbour"));
    facts.neighbours.push(at("/ip4/192.168.1.77/tcp/1"));
    let heard = of("lan", &facts, &config);
    assert_eq!(heard.level, Level::Ok);
    assert!(heard.message.contains("eth0"), "{}", heard.message);
    let off = NetworkConfig {
        mdns: false,
        lan_only: true,
        ..config
    };
    assert!(of("lan", &facts, &off).message.contains("mdns is off"));
    assert_eq!(of("reachable", &facts, &off).level, Level::Ok);
    assert!(same_network(
        "fe80::1".parse().unwrap(),
        "fe80::2".parse().unwrap(),
        64
    ));
    assert!(!same_network(
        "fe80::1".parse().unwrap(),
        "10.0.0.1".parse().unwrap(),
        0
    ));
}

#[test]
fn a_node_that_finds_nobody_is_told_how() {
    let config = NetworkConfig::default();
    let mut facts = facts();
    facts.dht_peers = 0;
    let dht = of("dht", &facts, &config);
    assert_eq!(dht.level, Level::Bad);
    assert!(dht.advice.unwrap().contains("bootstrap"));
    facts.listening.clear();
    assert_eq!(of("listening", &facts, &config).level, Level::Bad);
}
