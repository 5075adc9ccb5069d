//! Finding by name what is shared by somebody the seeker does not know.

use std::{
    fs,
    time::{Duration, Instant},
};

use p2p_tests::{Daemon, Sandbox, wait_until};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// Searches until so many peers are known to have what is found.
fn find(seeker: &Daemon, text: &str, providers: u64) -> Vec<Value> {
    let mut found = Vec::new();
    let what = format!("{providers} with {text:?}");
    wait_until(&what, Instant::now() + DEADLINE, || {
        found = seeker.run(["find", text]).all("found");
        found.iter().any(|found| found["providers"] == providers)
    });
    found
}

/// Two have the same song under different names, a third wants it, and all know only the node in the middle.
#[test]
fn a_name_is_found_through_the_node_in_the_middle() {
    let sandbox = Sandbox::new();
    let song = sandbox.noise("Canção do Mar.ogg", 700_000, 1);
    let copy = sandbox.path("fado (canção, mar).ogg");
    fs::copy(&song, &copy).unwrap();
    let secret = sandbox.noise("canção secreta.ogg", 300_000, 2);
    let middle = sandbox.home("middle").start();
    let home = sandbox.home("holder").bootstrap([&middle]).share(&song);
    let mut holder = home.share_unlisted(&secret).start();
    let id = holder.shared()["id"].as_str().unwrap().to_owned();
    holder.wait_announced();
    let seeker = sandbox.home("seeker").bootstrap([&middle]).start();
    seeker.wait_connected([&middle]);
    seeker.wait_for_dht();
    let connected = seeker.connected();
    assert!(connected.iter().all(|peer| peer["peer"] != holder.peer()));

    let found = find(&seeker, "MAR cancao", 1);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["id"], id.as_str());
    assert_eq!(found[0]["name"], "Canção do Mar.ogg");
    assert_eq!(found[0]["size"], 700_000);
    assert_eq!(found[0]["peer"], holder.peer());
    assert_eq!(found[0]["publisher"], holder.publisher());
    seeker
        .run(["find", "secreta"])
        .expect_failure(3, "not_found");

    let home = sandbox.home("another").bootstrap([&middle]);
    let another = home.share(&copy).start();
    let found = find(&seeker, "canção mar", 2);
    assert_eq!(found.len(), 1, "the same bytes are one result: {found:?}");
    assert_eq!(found[0]["id"], id.as_str());
    let target = sandbox.path("got.ogg");
    seeker.get(found[0]["id"].as_str().unwrap(), &target);
    assert_eq!(fs::read(&target).unwrap(), fs::read(&song).unwrap());
    drop(another);
}
