//! Crashes in the middle of a transfer: what was verified is kept, and nothing of it is fetched again.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use p2p_core::BLOCK_LEN;
use p2p_tests::{COMMAND_DEADLINE, Daemon, Running, Sandbox, files};
use serde_json::Value;

const SIZE: u64 = 64 << 20;
/// Bytes that may be on their way when a fetcher dies.
const IN_FLIGHT: u64 = 8 << 20;
/// Slow enough for the crash to come in the middle, also where all stands still for a while.
const RATE: &str = "4MB";

/// Where in the file the crashes come, in percent of what was missing: different at each run, and printed.
struct Points(u64);

impl Points {
    fn new() -> Self {
        let given = std::env::var("P2P_TESTS_SEED").ok();
        let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| u64::from(since.subsec_nanos()))
        });
        println!("P2P_TESTS_SEED={seed}");
        Self(seed)
    }

    /// Between a tenth and three tenths of the bytes that are left: what remains takes long enough to be cut off.
    fn next(&mut self, left: u64) -> u64 {
        let random = blake3::hash(&self.0.to_le_bytes());
        self.0 = u64::from_le_bytes(random.as_bytes()[..8].try_into().unwrap());
        left / 100 * (10 + self.0 % 20)
    }
}

/// Waits until a `get` has told of this many verified bytes; what it told.
fn wait_done(get: &mut Running, bytes: u64) -> u64 {
    let deadline = Instant::now() + COMMAND_DEADLINE;
    let progress = get.wait_for("progress", deadline, |object| {
        assert_ne!(
            object["type"], "complete",
            "too fast for a crash in the middle"
        );
        object["type"] == "progress" && object["done"].as_u64() >= Some(bytes)
    });
    progress["done"].as_u64().unwrap()
}

fn source(sandbox: &Sandbox, path: &Path, name: &str) -> Daemon {
    let home = sandbox.home(name).upload_limit(RATE).share(path);
    let mut source = home.start();
    source.shared();
    source
}

fn verified(part: &Path, original: &Path) -> u64 {
    (files::blocks_alike(part, original).len() * BLOCK_LEN) as u64
}

/// The last run fetched what was missing on the disk, and next to nothing else.
fn check_last_run(complete: &Value, on_disk: u64) {
    let fetched: u64 = files::sources(complete).values().sum();
    let missing = SIZE - on_disk;
    println!("{missing} bytes were missing, {fetched} were fetched");
    assert!(
        fetched <= missing + IN_FLIGHT,
        "{fetched} bytes fetched for {missing} missing"
    );
}

#[test]
fn a_daemon_that_was_killed_goes_on_where_it_was() {
    let mut points = Points::new();
    let sandbox = Sandbox::new();
    let original = sandbox.noise("original.bin", SIZE, 5);
    let id = files::b3sum(&original);
    let mut source = source(&sandbox, &original, "source");
    let (target, part) = (sandbox.path("copy.bin"), sandbox.path("copy.bin.part"));
    let arguments = ["get", &id, "-o", target.to_str().unwrap()];

    let mut home = sandbox.home("fetcher").bootstrap([&source]);
    let mut on_disk = 0;
    for _ in 0..3 {
        let fetcher = home.start();
        let mut get = fetcher.begin(arguments);
        let point = on_disk + points.next(SIZE - on_disk);
        let told = wait_done(&mut get, point);
        home = fetcher.kill();
        get.finish(COMMAND_DEADLINE)
            .expect_failure(7, "interrupted");
        let now = verified(&part, &original);
        println!("killed at {told} of {SIZE} bytes with {now} on the disk");
        assert!(now >= told, "{told} bytes were told to be done, {now} are");
        assert!(now >= on_disk, "{on_disk} bytes were there, {now} are left");
        assert!(!target.exists());
        on_disk = now;
    }
    source.lift_upload_limit();
    let fetcher = home.start();
    let complete = fetcher.run(arguments).expect_code(0).only("complete");
    check_last_run(&complete, on_disk);
    assert_eq!(files::b3sum(&target), id);
    assert!(!part.exists());
}

#[test]
fn a_get_without_daemon_that_was_killed_goes_on_where_it_was() {
    let mut points = Points::new();
    let sandbox = Sandbox::new();
    let original = sandbox.noise("original.bin", SIZE, 6);
    let id = files::b3sum(&original);
    let mut source = source(&sandbox, &original, "source");
    let (target, part) = (sandbox.path("copy.bin"), sandbox.path("copy.bin.part"));
    let ticket = source.run(["ticket", &id]).expect_code(0).only("ticket");
    let ticket = ticket["ticket"].as_str().unwrap();
    let arguments = ["get", ticket, "-o", target.to_str().unwrap()];

    let home = sandbox.home("alone");
    let mut on_disk = 0;
    for _ in 0..2 {
        let mut get = home.begin(arguments);
        let point = on_disk + points.next(SIZE - on_disk);
        let told = wait_done(&mut get, point);
        get.kill();
        let now = verified(&part, &original);
        println!("killed at {told} of {SIZE} bytes with {now} on the disk");
        assert!(
            now >= told && now >= on_disk,
            "{told} told, {on_disk} before, {now} now"
        );
        assert!(!target.exists());
        on_disk = now;
    }
    source.lift_upload_limit();
    let complete = home.run(arguments).expect_code(0).only("complete");
    check_last_run(&complete, on_disk);
    assert_eq!(files::b3sum(&target), id);
    assert!(!part.exists());
}

/// Of a folder, the files that are there in whole or in part count as well.
#[test]
fn a_folder_that_was_cut_off_goes_on_where_it_was() {
    const FILES: u64 = 300;
    const LEN: u64 = 150_000;
    let mut points = Points::new();
    let sandbox = Sandbox::new();
    for number in 0..FILES {
        sandbox.noise(&format!("folder/{}/{number}.bin", number % 7), LEN, number);
    }
    let folder = sandbox.path("folder");
    let mut source = sandbox
        .home("source")
        .upload_limit(RATE)
        .share(&folder)
        .start();
    let id = source.shared()["id"].as_str().unwrap().to_owned();
    let (target, part) = (sandbox.path("copy"), sandbox.path("copy.part"));
    let arguments = ["get", &id, "-o", target.to_str().unwrap()];

    let fetcher = sandbox.home("fetcher").bootstrap([&source]).start();
    let mut get = fetcher.begin(arguments);
    wait_done(&mut get, points.next(FILES * LEN));
    let home = fetcher.kill();
    get.finish(COMMAND_DEADLINE)
        .expect_failure(7, "interrupted");
    assert!(!target.exists());
    let original = files::tree(&folder);
    let whole = files::tree(&part)
        .into_iter()
        .filter(|(name, sum)| original.get(name) == Some(sum));
    let on_disk = whole.count() as u64 * LEN;

    source.lift_upload_limit();
    let complete = home.start().run(arguments).expect_code(0).only("complete");
    assert_eq!(files::tree(&target), original);
    assert!(!part.exists());
    let fetched: u64 = files::sources(&complete).values().sum();
    let missing = FILES * LEN - on_disk;
    println!("{missing} bytes were missing, {fetched} were fetched");
    assert!(
        fetched <= missing + IN_FLIGHT,
        "{fetched} bytes fetched for {missing} missing"
    );
}

#[test]
fn a_source_that_dies_is_made_up_for_by_the_other() {
    let sandbox = Sandbox::new();
    let original = sandbox.noise("original.bin", SIZE, 7);
    let id = files::b3sum(&original);
    let stays = source(&sandbox, &original, "stays");
    let dies = source(&sandbox, &original, "dies");
    let fetcher = sandbox.home("fetcher").bootstrap([&stays, &dies]).start();
    fetcher.wait_connected([&stays, &dies]);
    let target = sandbox.path("copy.bin");
    let mut get = fetcher.begin(["get", &id, "-o", target.to_str().unwrap()]);
    wait_done(&mut get, SIZE / 3);
    let dead = dies.peer().to_owned();
    dies.kill();
    let ran = get.finish(COMMAND_DEADLINE);
    let complete = ran.expect_code(0).only("complete");
    assert_eq!(files::b3sum(&target), id);
    let used = files::sources(&complete);
    assert!(used.get(&dead).is_some_and(|bytes| *bytes > 0), "{used:?}");
    assert!(used[stays.peer()] >= SIZE / 3, "{used:?}");
}

#[test]
fn a_fetch_whose_only_source_died_ends_in_time_and_goes_on_later() {
    let sandbox = Sandbox::new();
    let original = sandbox.noise("original.bin", SIZE, 8);
    let id = files::b3sum(&original);
    let source = source(&sandbox, &original, "source");
    let fetcher = sandbox.home("fetcher").bootstrap([&source]).start();
    fetcher.wait_connected([&source]);
    let (target, part) = (sandbox.path("copy.bin"), sandbox.path("copy.bin.part"));
    let arguments = ["get", &id, "-o", target.to_str().unwrap()];
    let mut get = fetcher.begin(arguments.into_iter().chain(["--timeout", "4s"]));
    wait_done(&mut get, SIZE / 4);
    let source = source.kill();
    let died = Instant::now();
    let ran = get.finish(COMMAND_DEADLINE);
    ran.expect_codes(&[3, 5]);
    let waited = died.elapsed();
    assert!(waited < Duration::from_secs(30), "gave up after {waited:?}");
    assert!(!target.exists());
    let on_disk = verified(&part, &original);
    assert!(on_disk >= SIZE / 4);

    // It comes back at other ports, and TCP at the old one, which is known, is closed: QUIC it must be.
    let mut source = source.start();
    source.shared();
    source.lift_upload_limit();
    let addresses = source.addresses();
    let quic = addresses
        .iter()
        .find(|address| address.contains("/quic-v1/"))
        .unwrap();
    let again = arguments.into_iter().chain(["--peer", quic]);
    let complete = fetcher.run(again).expect_code(0).only("complete");
    check_last_run(&complete, on_disk);
    assert_eq!(files::b3sum(&target), id);
}
