//! `lan_only`: nothing leaves the local network. In a network namespace, whatever is not for the neighbour leaves by an
//! interface of its own, where the kernel counts it.

use std::time::{Duration, Instant};

use p2p_tests::{Daemon, Home, Sandbox, files, namespaces::Cable, tell, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

/// Public addresses that nothing answers at, of a peer that does not exist; and a name, which would have to be resolved.
const BOOTSTRAP: &str = r#"[
    "/ip4/198.41.0.4/tcp/4711/p2p/12D3KooWA9fRjfmdqJAMMSWzPTYe5vTAz44rYGZyvBPuYf9oXBVF",
    "/ip4/198.41.0.4/udp/4711/quic-v1/p2p/12D3KooWA9fRjfmdqJAMMSWzPTYe5vTAz44rYGZyvBPuYf9oXBVF",
    "/dns4/nobody.example/tcp/4711/p2p/12D3KooWA9fRjfmdqJAMMSWzPTYe5vTAz44rYGZyvBPuYf9oXBVF",
]"#;

fn home(sandbox: &Sandbox, name: &str, lan_only: bool) -> Home {
    sandbox
        .home(name)
        .set(
            "network.listen",
            r#"["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"]"#,
        )
        .set("network.mdns", "true")
        .set("network.upnp", "true")
        .set("network.relay", "\"client\"")
        .set("network.dht", "\"server\"")
        .set("network.bootstrap", &BOOTSTRAP.replace('\n', ""))
        .set("network.lan_only", if lan_only { "true" } else { "false" })
}

/// Finds a neighbour and fetches from it, then looks for what nobody has: everything that makes a node ask around.
fn work(sandbox: &Sandbox, cable: &Cable, lan_only: bool) -> Daemon {
    let name = if lan_only { "quiet" } else { "open" };
    let path = sandbox.noise(&format!("{name} shared.bin"), 1_000_000, 7);
    let left = home(sandbox, name, lan_only)
        .within(cable.left.enter())
        .start();
    let right = sandbox
        .home(&format!("{name} neighbour"))
        .set("network.listen", r#"["/ip4/0.0.0.0/tcp/0"]"#)
        .set("network.mdns", "true")
        .within(cable.right.enter())
        .share(&path)
        .start();
    left.wait_connected([&right]);
    let target = sandbox.path(&format!("{name} copy.bin"));
    let id = files::b3sum(&path);
    left.get(&id, &target);
    assert_eq!(files::b3sum(&target), id);
    // Nobody has it: the DHT is searched until the time is over.
    left.run(["providers", &"ab".repeat(32), "--timeout", "5s"]);
    left
}

#[test]
fn nothing_leaves_the_local_network() {
    let opened = Cable::new().and_then(|cable| cable.open_way_out().map(|()| cable));
    let cable = match opened {
        Ok(cable) => cable,
        Err(why) => return tell(&format!("skipped: no network namespaces here: {why}")),
    };
    assert_eq!(cable.gone_out(), Ok(0), "the system itself says something");
    let sandbox = Sandbox::new();
    let quiet = work(&sandbox, &cable, true);
    assert_eq!(
        cable.gone_out(),
        Ok(0),
        "packets for the world, with lan_only"
    );
    quiet.stop();
    assert_eq!(cable.gone_out(), Ok(0), "packets for the world, at the end");

    // The same without: the way out is one, and is counted.
    let open = work(&sandbox, &cable, false);
    wait_until("packets for the world", Instant::now() + DEADLINE, || {
        cable.gone_out().is_ok_and(|packets| packets > 0)
    });
    open.stop();
}
