//! Nodes behind routers that translate addresses: each two of them meet, and what they want arrives or they say why not.

use std::time::{Duration, Instant};

use p2p_tests::{
    Daemon, Home, PLENTY, Sandbox, files,
    namespaces::{Internet, Machine, Nat},
    tell, wait_until,
};

const DEADLINE: Duration = Duration::from_secs(60);
const EVERYWHERE: &str = r#"["/ip4/0.0.0.0/tcp/4711", "/ip4/0.0.0.0/udp/4711/quic-v1"]"#;

fn internet(left: Nat, right: Nat) -> Option<Internet> {
    let internet = Internet::new(left, right);
    internet
        .inspect_err(|why| {
            tell(&format!(
                "skipped: no routers in network namespaces here: {why}"
            ))
        })
        .ok()
}

fn home(sandbox: &Sandbox, name: &str, machine: &Machine) -> Home {
    sandbox
        .home(name)
        .set("network.listen", EVERYWHERE)
        .set("network.relay", "\"client\"")
        .within(machine.enter())
}

/// The node in the middle: it keeps the DHT and relays.
fn relay(sandbox: &Sandbox, internet: &Internet, bytes: &str) -> Daemon {
    home(sandbox, "relay", &internet.public)
        .set("network.relay", "\"server\"")
        .set("network.relay_bytes", bytes)
        .set("network.dht", "\"server\"")
        .start()
}

/// A node in a home, which knows the one in the middle.
fn join(home: Home, relay: &Daemon, at: &str) -> Daemon {
    let addresses = relay.addresses().into_iter();
    let known: Vec<String> = addresses.filter(|address| address.contains(at)).collect();
    let daemon = home.set("network.bootstrap", &format!("{known:?}")).start();
    daemon.wait_connected([relay]);
    daemon
}

/// Waits until others can meet this node at the relay.
fn wait_for_place(daemon: &Daemon) {
    wait_until("a place at the relay", Instant::now() + DEADLINE, || {
        let id = daemon.run(["id"]).expect_code(0).only("id");
        id["addresses"].to_string().contains("p2p-circuit")
    });
}

fn peer_of(daemon: &Daemon, peer: &str) -> serde_json::Value {
    let peers = daemon.run(["peers"]).expect_code(0).all("peer");
    let found = peers.into_iter().find(|known| known["peer"] == peer);
    found.unwrap_or_default()
}

#[test]
fn a_public_node_and_one_behind_a_router_fetch_from_each_other() {
    let Some(internet) = internet(Nat::Symmetric, Nat::Symmetric) else {
        return;
    };
    let sandbox = Sandbox::new();
    let relay = relay(&sandbox, &internet, "\"128KiB\"");
    let inside = home(&sandbox, "inside", &internet.left.host);
    let inside = join(inside, &relay, Internet::PUBLIC[0]);
    for (from, to, name) in [(&relay, &inside, "outer"), (&inside, &relay, "inner")] {
        let path = sandbox.noise(name, 3_000_000, name.len() as u64);
        from.run(["share", path.to_str().unwrap()]).expect_code(0);
        let copy = sandbox.path(&format!("{name} copy"));
        to.get(&files::b3sum(&path), &copy);
        assert_eq!(files::b3sum(&copy), files::b3sum(&path));
    }
    inside.stop();
    relay.stop();
}

/// Waits until the doctor says this of whether others reach the node.
fn wait_for_finding(daemon: &Daemon, level: &str, words: &str) {
    wait_until(words, Instant::now() + DEADLINE, || {
        let findings = daemon.run(["doctor"]).expect_code(0).all("finding");
        findings.iter().any(|finding| {
            let message = finding["message"].as_str().unwrap();
            finding["level"] == level && message.contains(words)
        })
    });
}

#[test]
fn others_dial_back_and_the_doctor_tells() {
    let Some(internet) = internet(Nat::Symmetric, Nat::Symmetric) else {
        return;
    };
    let sandbox = Sandbox::new();
    let relay = relay(&sandbox, &internet, "\"128KiB\"");
    // Another one with a public address, at another port.
    let listen = EVERYWHERE.replace("4711", "4722");
    let public = home(&sandbox, "public", &internet.public).set("network.listen", &listen);
    let public = join(public, &relay, Internet::PUBLIC[0]);
    wait_for_finding(
        &public,
        "ok",
        "others reach this node directly, at /ip4/45.0.",
    );
    wait_for_finding(&public, "ok", "was reached by");
    let inside = home(&sandbox, "inside", &internet.left.host);
    let inside = join(inside, &relay, Internet::PUBLIC[0]);
    wait_for_finding(&inside, "info", "was not reached by");
    wait_for_finding(&inside, "warn", "others meet this node at a relay");
    for daemon in [inside, public, relay] {
        daemon.stop();
    }
}

#[test]
fn two_behind_routers_punch_a_hole_and_fetch_directly() {
    let Some(internet) = internet(Nat::EndpointIndependent, Nat::EndpointIndependent) else {
        return;
    };
    let sandbox = Sandbox::new();
    let relay = relay(&sandbox, &internet, "\"128KiB\"");
    let left = join(
        home(&sandbox, "left", &internet.left.host),
        &relay,
        Internet::PUBLIC[0],
    );
    let path = sandbox.noise("file", 30_000_000, 7);
    left.run(["share", path.to_str().unwrap()]).expect_code(0);
    wait_for_place(&left);
    let right = join(
        home(&sandbox, "right", &internet.right.host),
        &relay,
        Internet::PUBLIC[1],
    );
    let id = files::b3sum(&path);
    right.get(&id, &sandbox.path("copy"));
    assert_eq!(files::b3sum(&sandbox.path("copy")), id);
    assert_eq!(peer_of(&right, left.peer())["relayed"], false);
    for daemon in [right, left, relay] {
        daemon.stop();
    }
}

#[test]
fn where_only_a_relay_leads_it_says_so_or_uses_it_if_both_allow() {
    let Some(internet) = internet(Nat::Symmetric, Nat::Symmetric) else {
        return;
    };
    let sandbox = Sandbox::new();
    let path = sandbox.noise("file", 5_000_000, 8);
    let id = files::b3sum(&path);
    let relay = relay(&sandbox, &internet, "\"3MB\"");
    let start = |name: &str, machine: &Machine, at: &str, data: &str| {
        let home = home(&sandbox, name, machine).set("network.relay_data", data);
        join(home, &relay, at)
    };
    let target = sandbox.path("copy");
    let get = |daemon: &Daemon, timeout: &str| {
        let to = target.to_str().unwrap();
        daemon.run(["get", &id, "-o", to, "--timeout", timeout])
    };
    let refused = |daemon: &Daemon| {
        let refused = get(daemon, "20s");
        refused.expect_failure(4, "network");
        let message = refused.only("error")["message"].to_string();
        assert!(message.contains("relay_data"), "{message}");
        assert!(!target.exists(), "nothing that is not whole");
    };
    let share = |name: &str, data: &str| {
        let left = start(name, &internet.left.host, Internet::PUBLIC[0], data);
        left.run(["share", path.to_str().unwrap()]).expect_code(0);
        wait_for_place(&left);
        left
    };
    let strict = start("strict", &internet.right.host, Internet::PUBLIC[1], "false");
    let left = share("strict too", "false");
    refused(&strict);
    // Whoever has it decides as much as whoever wants it.
    strict.stop();
    let willing = start("willing", &internet.right.host, Internet::PUBLIC[1], "true");
    refused(&willing);
    willing.stop();
    left.stop();
    let strict = start("strict", &internet.right.host, Internet::PUBLIC[1], "false");
    let left = share("left", "true");
    refused(&strict);
    strict.stop();

    // More than one circuit may carry: it begins anew, and goes on.
    let open = start("open", &internet.right.host, Internet::PUBLIC[1], "true");
    get(&open, PLENTY).expect_code(0);
    assert_eq!(files::b3sum(&target), id);
    assert_eq!(peer_of(&open, left.peer())["relayed"], true);
    for daemon in [open, left, relay] {
        daemon.stop();
    }
}
