//! Finding who has it: through a node in the middle, at several sources, and by multicast on a local network.

use std::{
    ffi::OsStr,
    path::Path,
    time::{Duration, Instant},
};

use p2p_tests::{
    COMMAND_DEADLINE, Daemon, Running, Sandbox, files, namespaces::Cable, tell, wait_until,
};
use serde_json::Value;

/// Peers that are gone are noticed within this time.
const VANISHED: Duration = Duration::from_secs(30);

/// A has it, C wants it, and both know B only, who has not: the DHT brings them together.
#[test]
fn content_is_found_through_the_node_in_the_middle() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("in the DHT.bin", 3_000_000, 2);
    let middle = sandbox.home("b").start();
    let mut holder = sandbox.home("a").bootstrap([&middle]).share(&path).start();
    let shared = holder.shared();
    let id = shared["id"].as_str().unwrap();
    holder.wait_announced();

    let fetcher = sandbox.home("c").bootstrap([&middle]).start();
    fetcher.wait_connected([&middle]);
    fetcher.wait_for_dht();
    assert!(
        fetcher
            .connected()
            .iter()
            .all(|peer| peer["peer"] != holder.peer())
    );

    let providers = fetcher.run(["providers", id]);
    let providers = providers.expect_code(0).all("provider");
    assert_eq!(providers.len(), 1, "{providers:?}");
    assert_eq!(providers[0]["peer"], holder.peer());

    let target = sandbox.path("copy.bin");
    let complete = fetcher.get(id, &target);
    assert_eq!(files::b3sum(&target), id);
    assert_eq!(
        files::sources(&complete).keys().collect::<Vec<_>>(),
        [holder.peer()]
    );
    let peer = fetcher.wait_connected_to(&holder);
    let found = peer["found"].as_array().unwrap();
    assert!(found.contains(&"dht".into()), "found by {found:?}");
}

#[test]
fn four_sources_share_the_work() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("wanted by all.bin", 32 << 20, 4);
    let sources: Vec<Daemon> = ["s1", "s2", "s3", "s4"]
        .into_iter()
        .map(|name| {
            let home = sandbox.home(name).upload_limit("1MB").share(&path);
            let mut source = home.start();
            source.shared();
            source
        })
        .collect();
    let fetcher = sandbox.home("fetcher").bootstrap(&sources).start();
    fetcher.wait_connected(&sources);

    let target = sandbox.path("copy.bin");
    let complete = fetcher.get(&files::b3sum(&path), &target);
    assert_eq!(files::b3sum(&target), files::b3sum(&path));
    let used = files::sources(&complete);
    for source in &sources {
        let bytes = used.get(source.peer()).copied().unwrap_or(0);
        assert!(bytes > 0, "{} sent nothing: {used:?}", source.peer());
    }
    println!("{used:?} in {} s", complete["seconds"]);
}

/// Two who want the same from one who is slow give each other what they have so far.
#[test]
fn those_who_fetch_serve_each_other() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("wanted twice.bin", 24 << 20, 5);
    let mut source = sandbox
        .home("source")
        .upload_limit("6MB")
        .share(&path)
        .start();
    source.shared();
    let one = sandbox.home("one").bootstrap([&source]).start();
    let two = sandbox.home("two").bootstrap([&source, &one]).start();
    two.wait_connected([&source, &one]);
    one.wait_connected([&source]);
    let id = files::b3sum(&path);
    let targets = [sandbox.path("copy one.bin"), sandbox.path("copy two.bin")];
    let begin = |fetcher: &Daemon, target: &Path| {
        fetcher.begin([
            OsStr::new("get"),
            id.as_ref(),
            "-o".as_ref(),
            target.as_ref(),
        ])
    };
    let gets = [begin(&one, &targets[0]), begin(&two, &targets[1])];
    let used = gets.map(|get| {
        let ran = get.finish(COMMAND_DEADLINE);
        files::sources(&ran.expect_code(0).only("complete"))
    });
    for target in &targets {
        assert_eq!(files::b3sum(target), id);
    }
    println!("{used:?}");
    let exchanged = [used[0].get(two.peer()), used[1].get(one.peer())];
    let exchanged: u64 = exchanged.into_iter().flatten().sum();
    assert!(exchanged > 1 << 20, "{used:?}");
}

/// Multicast stays in two network namespaces of the test's own, joined by a virtual cable.
#[test]
fn neighbours_find_each_other_and_notice_who_vanishes() {
    let cable = match Cable::new() {
        Ok(cable) => cable,
        Err(why) => return tell(&format!("skipped: no network namespaces here: {why}")),
    };
    let sandbox = Sandbox::new();
    let path = sandbox.noise("on the LAN.bin", 2_000_000, 3);
    let home = |name: &str| {
        sandbox
            .home(name)
            .set(
                "network.listen",
                r#"["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"]"#,
            )
            .set("network.mdns", "true")
    };
    let left = home("left").within(cable.left.enter()).start();
    let mut watch = left.begin(["peers", "--watch"]);
    let mut right = home("right")
        .within(cable.right.enter())
        .share(&path)
        .start();
    let id = right.shared()["id"].as_str().unwrap().to_owned();

    let joined = wait_event(&mut watch, "joined", &right, VANISHED);
    assert_eq!(joined["state"], "connected");
    assert!(
        joined["found"].as_array().unwrap().contains(&"mdns".into()),
        "{joined}"
    );
    let target = sandbox.path("copy.bin");
    left.get(&id, &target);
    assert_eq!(files::b3sum(&target), id);

    // A crash.
    assert_steady(&mut watch);
    let peer = right.peer().to_owned();
    let right = right.kill();
    let started = Instant::now();
    watch.wait_for("left", started + VANISHED, |object| {
        object["event"] == "left" && object["peer"] == peer.as_str()
    });
    println!("a crash was noticed after {:?}", started.elapsed());
    wait_until("an empty list", started + VANISHED, || {
        left.connected().is_empty()
    });

    // A pulled cable: nothing says goodbye.
    let right = right.start();
    wait_event(&mut watch, "joined", &right, VANISHED);
    right.wait_connected([&left]);
    assert_steady(&mut watch);
    cable.set_up(false).unwrap();
    let started = Instant::now();
    wait_event(&mut watch, "left", &right, VANISHED);
    println!("a pulled cable was noticed after {:?}", started.elapsed());
    for side in [&left, &right] {
        wait_until("an empty list", started + VANISHED, || {
            side.connected().is_empty()
        });
    }
}

fn wait_event(watch: &mut Running, event: &str, daemon: &Daemon, within: Duration) -> Value {
    watch.wait_for(event, Instant::now() + within, |object| {
        object["event"] == event && object["peer"] == daemon.peer()
    })
}

/// Nobody has left who is still there.
fn assert_steady(watch: &mut Running) {
    let events = watch.drain();
    assert!(
        events.iter().all(|event| event["event"] != "left"),
        "{events:#?}"
    );
}
