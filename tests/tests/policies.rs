//! Shares that are not for everyone: to all others they are not there.

use p2p_tests::{Daemon, Sandbox, files, namespaces::Cable, tell};

/// Of no private range, so that whoever comes from there does not count as a neighbour.
const WORLD: [&str; 2] = ["203.0.113.1", "203.0.113.2"];

fn assert_hidden(daemon: &Daemon, id: &str, to: &std::path::Path) {
    let to = to.to_str().unwrap();
    let ran = daemon.run(["get", id, "-o", to, "--timeout", "3s"]);
    ran.expect_failure(3, "not_found");
}

#[test]
fn what_is_for_the_local_network_is_for_nobody_beyond_it() {
    let cable = Cable::new().and_then(|cable| {
        let [left, right] = WORLD.map(|address| format!("{address}/24"));
        cable.add_addresses(&left, &right).map(|()| cable)
    });
    let cable = match cable {
        Ok(cable) => cable,
        Err(why) => return tell(&format!("skipped: no network namespaces here: {why}")),
    };
    let sandbox = Sandbox::new();
    let path = sandbox.noise("for the house.bin", 300_000, 1);
    let id = files::b3sum(&path);
    let everywhere = r#"["/ip4/0.0.0.0/tcp/0"]"#;
    let source = sandbox
        .home("source")
        .set("network.listen", everywhere)
        .within(cable.left.enter())
        .share_for(&path, "\"lan\"")
        .start();
    let reach = |name: &str, at: &str| {
        let addresses = source.addresses();
        let address = addresses.iter().find(|address| address.contains(at));
        let address = address.unwrap_or_else(|| panic!("{at} in {addresses:?}"));
        let daemon = sandbox
            .home(name)
            .set("network.listen", everywhere)
            // What it hears of others must not lead it there by another way.
            .set("network.dht", "\"off\"")
            .set("network.bootstrap", &format!("[{address:?}]"))
            .within(cable.right.enter())
            .start();
        daemon.wait_connected([&source]);
        daemon
    };
    let stranger = reach("stranger", WORLD[0]);
    assert_hidden(&stranger, &id, &sandbox.path("stolen"));
    let listed = stranger.run(["ls", "--peer", source.peer()]);
    assert!(listed.expect_code(0).all("content").is_empty());
    stranger.stop();
    let neighbour = reach("neighbour", "10.77.0.1");
    neighbour.get(&id, &sandbox.path("copy"));
    assert_eq!(files::b3sum(&sandbox.path("copy")), id);
    neighbour.stop();
    source.stop();
}

#[test]
fn a_command_shares_with_some_peers() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("minutes.txt", 300_000, 2);
    let source = sandbox.home("source").start();
    let join = |name: &str| {
        let daemon = sandbox.home(name).bootstrap([&source]).start();
        daemon.wait_connected([&source]);
        daemon
    };
    let (friend, stranger) = (join("friend"), join("stranger"));
    let path = path.to_str().unwrap();
    let shared = source.run(["share", "--policy", friend.peer(), path]);
    let id = shared.expect_code(0).only("shared")["id"].clone();
    let id = id.as_str().unwrap();
    let share = source.run(["shares"]).expect_code(0).only("share");
    assert_eq!(share["policy"], friend.peer());
    assert_eq!(share["announced"], "off");
    assert_hidden(&stranger, id, &sandbox.path("stolen"));
    friend.get(id, &sandbox.path("copy"));
    let wrong = source.run(["share", "--policy", "friends", path]);
    wrong.expect_failure(2, "usage");
    for daemon in [stranger, friend, source] {
        daemon.stop();
    }
}
