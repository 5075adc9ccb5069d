//! A fetch over a line with a delay, and for QUIC with losses, brings what was shared, bit by bit.

use std::time::Duration;

use p2p_tests::{
    Daemon, Sandbox, files,
    link::{Link, Passed, Quality},
    tell,
};

fn port(daemon: &Daemon, protocol: &str) -> u16 {
    let address = daemon.addresses().remove(0);
    let mut parts = address.split('/').skip_while(|part| *part != protocol);
    let port = parts.nth(1).expect("an address with a port");
    port.parse().expect("a port")
}

/// Fetches a file from a node that is met over the link alone: what passed towards who fetches.
fn fetch(quality: Quality, size: u64, listen: &str, protocol: &str) -> Passed {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("shared.bin", size, 11);
    let listen = format!("[{listen:?}]");
    let home = |name| sandbox.home(name).set("network.listen", &listen);
    let mut from = home("from").share(&path).start();
    let id = from.shared()["id"].as_str().unwrap().to_owned();
    let to = home("to").start();

    let link = Link::new(quality);
    let target = port(&from, protocol);
    let entrance = match protocol {
        "tcp" => link.tcp(0, target),
        _ => link.udp(0, target),
    };
    let near = listen.trim_matches(['[', ']', '"']);
    let far = near.replace("/0", &format!("/{}", entrance.expect("a port")));
    let copy = sandbox.path("copy.bin");
    let ran = to.run([
        "get",
        &id,
        "-o",
        copy.to_str().unwrap(),
        "--peer",
        &format!("{far}/p2p/{}", from.peer()),
    ]);
    let complete = ran.expect_code(0).only("complete");
    assert_eq!(files::b3sum(&copy), id);
    let (_, down) = link.passed();
    assert!(
        down.bytes >= size,
        "not all of it came over the link: {down:?}"
    );
    tell(&format!("{protocol}: {} s, {down:?}", complete["seconds"]));
    to.stop();
    from.stop();
    down
}

#[test]
fn tcp_over_a_long_line() {
    let quality = Quality {
        rtt: Duration::from_millis(100),
        rate: 100_000_000,
        loss: 0.0,
        seed: 1,
    };
    fetch(quality, 16 << 20, "/ip4/127.0.0.1/tcp/0", "tcp");
}

/// The round trip is short because the congestion control of QUIC gives way to each loss.
#[test]
fn quic_over_a_line_that_loses_packets() {
    let quality = Quality {
        rtt: Duration::from_millis(10),
        rate: 100_000_000,
        loss: 0.01,
        seed: 1,
    };
    let down = fetch(quality, 8 << 20, "/ip4/127.0.0.1/udp/0/quic-v1", "udp");
    assert!(down.lost > 10, "nothing was lost: {down:?}");
}
