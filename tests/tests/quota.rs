//! The quota as a user meets it: what makes room, what is refused, and what changes while the daemon runs.

use std::{fs, path::Path, time::Instant};

use p2p_tests::{COMMAND_DEADLINE, Daemon, Home, Ran, Sandbox, files, wait_until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Fits one of the files of these tests, and not two.
const QUOTA: &str = "\"24MB\"";
const SIZE: u64 = 12 * MIB;

struct Scene {
    source: Daemon,
    ids: Vec<String>,
}

/// A node that shares as many files as are wanted.
fn scene(sandbox: &Sandbox, count: u64) -> Scene {
    let mut home = sandbox.home("source");
    let mut ids = Vec::new();
    for number in 0..count {
        let path = sandbox.noise(&format!("file-{number}"), SIZE, number);
        ids.push(files::b3sum(&path));
        home = home.share(&path);
    }
    let mut source = home.start();
    ids.iter().for_each(|_| _ = source.shared());
    Scene { source, ids }
}

fn fetcher(sandbox: &Sandbox, scene: &Scene) -> Home {
    sandbox
        .home("fetcher")
        .bootstrap([&scene.source])
        .set("storage.quota", QUOTA)
}

/// Reads a file through the node, which keeps it in its own folder.
fn read(node: &Daemon, id: &str) -> Ran {
    node.run(["cat", id])
}

/// Reads a file, once nobody uses what has to go for it: the reader before may have left just now.
fn read_when_free(node: &Daemon, id: &str) {
    let deadline = Instant::now() + COMMAND_DEADLINE;
    wait_until("room for a file", deadline, || {
        read(node, id).expect_codes(&[0, 9]).code() == Some(0)
    });
}

fn get(node: &Daemon, id: &str, target: &Path) -> Ran {
    node.run(["get", id, "-o", target.to_str().unwrap()])
}

fn stat(node: &Daemon) -> Value {
    node.run(["repo", "stat"]).expect_code(0).only("stat")
}

fn is_here(node: &Daemon, id: &str) -> bool {
    let contents = node.run(["ls"]).expect_code(0).all("content");
    contents.iter().any(|content| content["id"] == id)
}

#[test]
fn what_was_read_makes_room_unless_it_is_pinned() {
    let sandbox = Sandbox::new();
    let scene = scene(&sandbox, 3);
    let [a, b, c] = [0, 1, 2].map(|number: usize| scene.ids[number].as_str());
    let node = fetcher(&sandbox, &scene).start();
    node.wait_connected_to(&scene.source);
    assert_eq!(blake3::hash(&read(&node, a).bytes()).to_string(), a);
    assert!(is_here(&node, a));
    read_when_free(&node, b);
    assert!(!is_here(&node, a) && is_here(&node, b));

    // A pin keeps it, also across a restart.
    node.run(["pin", "add", b]).expect_code(0).only("pinned");
    node.run(["pin", "add", a]).expect_failure(3, "not_found");
    read(&node, c).expect_codes(&[9]);
    let node = node.stop().start();
    node.wait_connected_to(&scene.source);
    let pin = node.run(["pin", "ls"]).expect_code(0).only("pin");
    assert_eq!(pin["id"], b);
    assert_eq!(pin["size"], SIZE);
    read(&node, c).expect_codes(&[9]);
    let counted = stat(&node);
    assert_eq!(counted["pinned"]["count"], 1, "{counted}");
    assert_eq!(counted["storage"]["over_quota"], false, "{counted}");
    node.run(["repo", "gc", "--all"]).expect_code(0);
    assert!(is_here(&node, b));

    node.run(["pin", "rm", b]).expect_code(0).only("unpinned");
    node.run(["pin", "rm", b]).expect_failure(3, "not_found");
    read_when_free(&node, c);
    assert!(!is_here(&node, b));
    let deadline = Instant::now() + COMMAND_DEADLINE;
    wait_until("the last one to be collected", deadline, || {
        let collected = node
            .run(["repo", "gc", "--all"])
            .expect_code(0)
            .only("collected");
        collected["evicted"]["count"] == 1
    });
    assert!(!is_here(&node, c));
    node.stop();
}

#[test]
fn files_of_the_user_stay_and_a_higher_quota_lets_the_fetch_go_on() {
    let sandbox = Sandbox::new();
    let scene = scene(&sandbox, 2);
    let home = fetcher(&sandbox, &scene);
    let mut node = home.clone().start();
    node.wait_connected_to(&scene.source);
    let (first, second) = (sandbox.path("first"), sandbox.path("second"));
    get(&node, &scene.ids[0], &first).expect_code(0);
    let refused = get(&node, &scene.ids[1], &second);
    let error = refused.expect_failure(9, "no_space").only("error");
    assert!(
        error["message"].as_str().unwrap().contains("evict"),
        "{error}"
    );
    assert!(first.exists() && !second.exists() && !sandbox.path("second.part").exists());

    // Settings with a mistake change nothing; SIGHUP with right ones does.
    let wrong = home.set("storage.quotta", "1").run(["config", "reload"]);
    wrong.expect_failure(2, "config");
    node.set("storage.quota", "\"48MB\"");
    node.set("network.upnp", "true");
    let reloaded = node.hang_up();
    assert_eq!(reloaded["applied"], json!(["storage.quota"]), "{reloaded}");
    assert_eq!(reloaded["restart"], json!(["network.upnp"]), "{reloaded}");
    get(&node, &scene.ids[1], &second).expect_code(0);
    assert_eq!(files::b3sum(&second), scene.ids[1]);

    // Back to the low one, at which nothing may go: it says so, and fetches nothing new.
    node.set("storage.quota", QUOTA);
    let reloaded = node
        .run(["config", "reload"])
        .expect_code(0)
        .only("reloaded");
    assert_eq!(reloaded["over_quota"], true, "{reloaded}");
    let status = node.run(["status"]).expect_code(0).only("status");
    assert_eq!(status["storage"]["over_quota"], true, "{status}");
    assert!(first.exists() && second.exists());
    node.stop();
}

#[test]
fn damage_is_reported_and_served_no_longer() {
    let sandbox = Sandbox::new();
    let scene = scene(&sandbox, 1);
    let source = &scene.source;
    let clean = source
        .run(["repo", "verify"])
        .expect_code(0)
        .only("verified");
    assert_eq!(clean["damaged"], 0);
    assert_eq!(clean["bytes"], SIZE);
    let path = sandbox.path("file-0");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[5 << 20] ^= 1;
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    file.set_modified(before).unwrap();

    let found = source.run(["repo", "verify"]);
    found.expect_failure(6, "verification");
    let damaged = found.only("damaged");
    assert_eq!(damaged["id"], scene.ids[0].as_str());
    assert_eq!(damaged["what"], "damaged");
    assert_eq!(found.only("verified")["damaged"], 1);
    assert!(path.exists(), "nothing is deleted");
    let share = source.run(["shares"]).expect_code(0).only("share");
    assert_eq!(share["state"], "changed", "{share}");
}
