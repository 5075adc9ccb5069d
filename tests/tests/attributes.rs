//! Times and executable bits travel when both sides ask for them, and only then.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::{Duration, Instant, UNIX_EPOCH},
};

use p2p_tests::{Daemon, Sandbox, files, wait_until};
use serde_json::Value;

/// A moment that no clock shows now.
const THEN: u64 = 1_000_000_000;

fn age(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(THEN))
        .unwrap();
}

fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Whether a file is as old as the original, and whether it may be executed.
fn attributes(path: &Path) -> (bool, bool) {
    let metadata = fs::metadata(path).unwrap();
    (
        metadata.mtime() == THEN as i64,
        metadata.mode() & 0o111 != 0,
    )
}

fn share(daemon: &Daemon, path: &Path, options: &[&str]) -> Value {
    let words = [&["share"], options, &[path.to_str().unwrap()]].concat();
    daemon.run(words).expect_code(0).only("shared")
}

fn get(daemon: &Daemon, what: &Value, to: &Path, options: &[&str]) {
    let (what, to) = (what.as_str().unwrap(), to.to_str().unwrap());
    let words = [&["get", what, "-o", to], options].concat();
    daemon.run(words).expect_code(0);
}

#[test]
fn times_and_executable_bits_are_kept_when_both_sides_ask() {
    let sandbox = Sandbox::new();
    let from = sandbox.home("from").start();
    let to = sandbox.home("to").bootstrap([&from]).start();
    to.wait_connected([&from]);
    let folder = sandbox.path("coração");
    let script = sandbox.noise("coração/dentro/guião.sh", 300_000, 1);
    let text = sandbox.noise("coração/texto.txt", 100, 2);
    // Of the same content at two places, each has its own.
    let copy = folder.join("cópia.txt");
    fs::copy(&text, &copy).unwrap();
    make_executable(&script);
    age(&script);
    age(&text);

    let plain = share(&from, &folder, &[]);
    let kept = share(&from, &folder, &["--keep"]);
    assert_ne!(
        plain["id"], kept["id"],
        "a folder with attributes is another"
    );
    let listed = |id: &Value| {
        let listed = to.run(["ls", id.as_str().unwrap()]);
        let ids = listed.expect_code(0).all("content").into_iter();
        let ids: Vec<Value> = ids.map(|entry| entry["id"].clone()).collect();
        ids
    };
    assert_eq!(listed(&plain["id"]), listed(&kept["id"]));

    let out = |name: &str| sandbox.path(name);
    get(&to, &kept["id"], &out("kept"), &["--keep"]);
    assert_eq!(files::tree(&out("kept")), files::tree(&folder));
    assert_eq!(attributes(&out("kept/dentro/guião.sh")), (true, true));
    assert_eq!(attributes(&out("kept/texto.txt")), (true, false));
    assert_eq!(attributes(&out("kept/cópia.txt")), (false, false));
    // It is served from where it lies: what was given to it did not make it another file.
    assert_eq!(
        to.run(["repo", "verify"]).expect_code(0).all("damaged"),
        [] as [Value; 0]
    );
    fs::create_dir(out("box")).unwrap();
    get(&to, &kept["id"], &out("box"), &[]);
    let there = out("box/coração/dentro/guião.sh");
    assert_eq!(attributes(&there), (false, false));
    get(&to, &plain["id"], &out("without"), &["--keep"]);
    let without = out("without/dentro/guião.sh");
    assert_eq!(attributes(&without), (false, false));
    // Into a folder that is there.
    get(&to, &kept["id"], &out("box"), &["--keep", "--overwrite"]);
    assert_eq!(attributes(&there), (true, true));
    to.stop();
    from.stop();
}

#[test]
fn a_file_on_its_own_keeps_its_id() {
    let sandbox = Sandbox::new();
    let from = sandbox.home("from").start();
    let to = sandbox.home("to").bootstrap([&from]).start();
    to.wait_connected([&from]);
    let program = sandbox.noise("program", 1_000_000, 3);
    make_executable(&program);
    age(&program);
    let shared = share(&from, &program, &["--keep"]);
    assert_eq!(shared["id"], files::b3sum(&program).as_str());
    get(&to, &shared["ticket"], &sandbox.path("kept"), &["--keep"]);
    assert_eq!(attributes(&sandbox.path("kept")), (true, true));
    get(&to, &shared["id"], &sandbox.path("plain"), &[]);
    assert_eq!(attributes(&sandbox.path("plain")), (false, false));
    assert_eq!(files::b3sum(&sandbox.path("kept")), files::b3sum(&program));
    to.stop();
    from.stop();
}

#[test]
fn a_watched_folder_follows_them() {
    let sandbox = Sandbox::new();
    let script = sandbox.noise("folder/script", 1000, 4);
    let from = sandbox.home("from").start();
    let first = share(&from, &sandbox.path("folder"), &["--keep", "--watch"]);
    make_executable(&script);
    let deadline = Instant::now() + Duration::from_secs(60);
    wait_until("the new form of the folder", deadline, || {
        let share = from.run(["shares"]).expect_code(0).only("share");
        share["id"] != first["id"] && share["state"] == "ok"
    });
    from.stop();
}
