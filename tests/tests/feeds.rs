//! Feeds through the command line: the same link, new content, without a DHT.

use std::{
    fs,
    time::{Duration, Instant},
};

use p2p_tests::{Daemon, Sandbox, files, wait_until};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

fn pair(sandbox: &Sandbox) -> (Daemon, Daemon) {
    let off = "\"off\"";
    let from = sandbox.home("from").set("network.dht", off).start();
    let to = sandbox.home("to").set("network.dht", off);
    let to = to.bootstrap([&from]).start();
    to.wait_connected([&from]);
    (from, to)
}

fn share(daemon: &Daemon, path: &std::path::Path) -> String {
    let shared = daemon.run(["share", path.to_str().unwrap()]);
    let shared = shared.expect_code(0).only("shared");
    shared["id"].as_str().unwrap().to_owned()
}

fn publish(daemon: &Daemon, id: &str) -> Value {
    let ran = daemon.run(["feed", "publish", "photos", id]);
    ran.expect_code(0).only("feed")
}

#[test]
fn a_link_stays_and_its_content_changes() {
    let sandbox = Sandbox::new();
    let (from, to) = pair(&sandbox);
    let link = format!("{}/photos", from.publisher());
    let missing = to.run(["feed", "resolve", &link, "--timeout", "2s"]);
    missing.expect_failure(3, "not_found");
    let wrong = to.run(["feed", "resolve", "photos"]);
    wrong.expect_failure(2, "usage");

    let folder = sandbox.path("fotografias");
    for n in 0..20 {
        sandbox.noise(&format!("fotografias/{n}.jpg"), 200_000, n);
    }
    let first = share(&from, &folder);
    let value = publish(&from, &first);
    assert_eq!(value["id"], first.as_str());
    let resolved = to.run(["feed", "resolve", &link]);
    assert_eq!(resolved.expect_code(0).only("feed")["id"], first.as_str());

    // Followed into a folder: each value arrives there, and of the second only what is new.
    let album = sandbox.path("album");
    fs::create_dir(&album).unwrap();
    let into = album.to_str().unwrap();
    let following = to.home().begin(["feed", "follow", &link, "--to", into]);
    let arrived = album.join("fotografias");
    let arrives = |what: &str| {
        wait_until(what, Instant::now() + DEADLINE, || {
            arrived.is_dir() && files::tree(&arrived) == files::tree(&folder)
        });
    };
    arrives("the first value");
    let down = |daemon: &Daemon| {
        let status = daemon.run(["status"]).expect_code(0).only("status");
        status["down_bytes"].as_u64().unwrap()
    };
    // The numbers are published a little later than the files.
    wait_until(
        "the count of the first value",
        Instant::now() + DEADLINE,
        || down(&to) >= 4_000_000,
    );
    let before = down(&to);
    sandbox.noise("fotografias/3.jpg", 200_000, 100);
    sandbox.noise("fotografias/new.jpg", 100_000, 101);
    let second = share(&from, &folder);
    assert_ne!(second, first);
    let newer = publish(&from, &second);
    assert!(newer["sequence"].as_u64() > value["sequence"].as_u64());
    arrives("the second value");
    wait_until("the count of the second", Instant::now() + DEADLINE, || {
        down(&to) >= before + 300_000
    });
    let crossed = down(&to) - before;
    assert!(
        (300_000..400_000).contains(&crossed),
        "{crossed} bytes for two files of 300,000 and a listing"
    );
    drop(following);

    // Who follows serves, also when the publisher is gone, and after a restart.
    from.stop();
    let to = to.stop().start();
    let late = sandbox.home("late").set("network.dht", "\"off\"");
    let late = late.bootstrap([&to]).start();
    late.wait_connected([&to]);
    let resolved = late.run(["feed", "resolve", &link, "--fresh"]);
    assert_eq!(resolved.expect_code(0).only("feed")["id"], second.as_str());
    let listed = to.run(["feed", "ls"]).expect_code(0).only("feed");
    assert_eq!(
        (&listed["followed"], &listed["name"]),
        (&true.into(), &"photos".into())
    );
    to.run(["feed", "unfollow", &link]).expect_code(0);
    let again = to.run(["feed", "unfollow", &link]);
    again.expect_failure(3, "not_found");
    late.stop();
    to.stop();
}
