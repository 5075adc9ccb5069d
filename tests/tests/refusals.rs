//! What is refused, and how the caller learns why: lies, tampering, mistrust, targets in the way, unknown ids.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use data_encoding::BASE32_NOPAD_NOCASE;
use p2p_tests::{Daemon, Sandbox, files};

fn sharing(sandbox: &Sandbox, name: &str, path: &Path) -> Daemon {
    let mut daemon = sandbox.home(name).share(path).start();
    daemon.shared();
    daemon
}

/// Changes bytes of a file so that nothing but its bytes shows it.
fn tamper(path: &Path) {
    let before = fs::metadata(path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    for offset in [10, before.len() / 2, before.len() - 1] {
        let mut byte = [0];
        fs::File::open(path)
            .unwrap()
            .read_exact_at(&mut byte, offset)
            .unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    }
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = fs::metadata(path).unwrap();
    assert_eq!(after.len(), before.len());
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
}

#[test]
fn a_file_altered_in_place_is_never_served() {
    let sandbox = Sandbox::new();
    let altered = sandbox.noise("one/file.bin", 24 << 20, 1);
    let intact = sandbox.noise("two/file.bin", 24 << 20, 1);
    let id = files::b3sum(&intact);
    let bad = sharing(&sandbox, "bad", &altered);
    tamper(&altered);
    let fetcher = sandbox.home("fetcher").bootstrap([&bad]).start();
    fetcher.wait_connected([&bad]);
    let target = sandbox.path("copy.bin");
    let out = target.to_str().unwrap();

    let started = Instant::now();
    // Long enough for the source to read some of it, and notice.
    let ran = fetcher.run(["get", &id, "-o", out, "--timeout", "20s"]);
    assert_ne!(ran.code(), Some(0), "an altered file was fetched");
    assert!(ran.all("error").len() == 1, "{:?}", ran.objects());
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(!target.exists());
    let states = bad.run(["shares"]).expect_code(0).all("share");
    assert_eq!(states[0]["state"], "changed", "{states:?}");

    let good = sharing(&sandbox, "good", &intact);
    let address = good.addresses().remove(0);
    let complete = fetcher.run(["get", &id, "-o", out, "--peer", &address]);
    let complete = complete.expect_code(0).only("complete");
    assert_eq!(files::b3sum(&target), id);
    assert!(files::sources(&complete).contains_key(good.peer()));
}

/// The altered source is there from the start, beside a good one: both are asked at once.
#[test]
fn a_liar_among_the_sources_costs_nothing_but_time() {
    let sandbox = Sandbox::new();
    let altered = sandbox.noise("one/file.bin", 24 << 20, 1);
    let intact = sandbox.noise("two/file.bin", 24 << 20, 1);
    let id = files::b3sum(&intact);
    let bad = sharing(&sandbox, "bad", &altered);
    let good = sharing(&sandbox, "good", &intact);
    tamper(&altered);
    let fetcher = sandbox.home("fetcher").bootstrap([&bad, &good]).start();
    fetcher.wait_connected([&bad, &good]);
    let target = sandbox.path("copy.bin");
    fetcher.get(&id, &target);
    assert_eq!(files::b3sum(&target), id);
}

#[test]
fn an_unknown_id_is_not_found_in_the_time_given() {
    let sandbox = Sandbox::new();
    let other = sandbox.home("other").start();
    let daemon = sandbox.home("fetcher").bootstrap([&other]).start();
    daemon.wait_connected([&other]);
    let unknown = blake3::hash(b"nobody has this").to_string();
    for home in [daemon.home().clone(), sandbox.home("alone")] {
        let started = Instant::now();
        let ran = home.run(["get", &unknown, "--timeout", "2s"]);
        ran.expect_failure(3, "not_found");
        let waited = started.elapsed();
        assert!(waited >= Duration::from_secs(2), "gave up after {waited:?}");
        assert!(waited < Duration::from_secs(30), "gave up after {waited:?}");
        let left: Vec<_> = fs::read_dir(home.dir()).unwrap().flatten().collect();
        let made = left
            .iter()
            .filter(|e| e.file_name().to_string_lossy().contains(&unknown));
        assert_eq!(made.count(), 0, "{left:?}");
    }
    daemon
        .run(["cat", &unknown, "--timeout", "1s"])
        .expect_code(3);
    daemon
        .run(["ls", &unknown, "--timeout", "1s"])
        .expect_failure(3, "not_found");
    daemon
        .run(["providers", &unknown, "--timeout", "1s"])
        .expect_failure(3, "not_found");
}

#[test]
fn what_is_at_the_target_stays_unless_told_otherwise() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("shared/file.bin", 1_000_000, 1);
    let id = files::b3sum(&path);
    let source = sharing(&sandbox, "source", &path);
    let daemon = sandbox.home("fetcher").bootstrap([&source]).start();
    daemon.wait_connected([&source]);
    let ticket = source.run(["ticket", &id]).expect_code(0).only("ticket");
    let ticket = ticket["ticket"].as_str().unwrap();

    for (home, what) in [
        (daemon.home().clone(), id.as_str()),
        (sandbox.home("alone"), ticket),
    ] {
        let folder = home.dir().join("downloads");
        fs::create_dir(&folder).unwrap();
        let target = folder.join("file.bin");
        fs::write(&target, "mine").unwrap();
        // By its own name in a folder, and by path.
        for out in [&folder, &target] {
            let ran = home.run(["get", what, "-o", out.to_str().unwrap()]);
            ran.expect_failure(13, "exists");
            assert_eq!(fs::read(&target).unwrap(), b"mine");
            assert_eq!(names(&folder), ["file.bin"]);
        }

        let ran = home.run(["get", what, "-o", target.to_str().unwrap(), "--rename"]);
        let complete = ran.expect_code(0).only("complete");
        let renamed = folder.join("file (1).bin");
        assert_eq!(complete["path"], renamed.to_str().unwrap());
        assert_eq!(files::b3sum(&renamed), id);
        assert_eq!(fs::read(&target).unwrap(), b"mine");

        let ran = home.run(["get", what, "-o", target.to_str().unwrap(), "--overwrite"]);
        ran.expect_code(0).only("complete");
        assert_eq!(files::b3sum(&target), id);
        assert_eq!(names(&folder), ["file (1).bin", "file.bin"]);

        // Once it is there, the same again is no error, until somebody changes it.
        let again = || home.run(["get", what, "-o", target.to_str().unwrap()]);
        let complete = again().expect_code(0).only("complete");
        assert_eq!(complete["path"], target.to_str().unwrap());
        fs::write(&target, "mine").unwrap();
        again().expect_failure(13, "exists");
        assert_eq!(fs::read(&target).unwrap(), b"mine");
    }
}

#[test]
fn a_folder_that_is_there_is_not_put_into_itself() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("shared");
    files::write_tree(&folder, 5);
    let source = sharing(&sandbox, "source", &folder);
    let daemon = sandbox.home("fetcher").bootstrap([&source]).start();
    daemon.wait_connected([&source]);
    let shared = source.run(["shares"]).expect_code(0).only("share");
    let id = shared["id"].as_str().unwrap();
    let target = sandbox.path("copy");
    let get = || {
        let ran = daemon.run(["get", id, "-o", target.to_str().unwrap()]);
        ran.expect_code(0).only("complete")["path"].clone()
    };
    assert_eq!(get(), target.to_str().unwrap());
    assert_eq!(get(), target.to_str().unwrap());
    assert_eq!(files::tree(&target), files::tree(&folder));
    // Once it is another, it is a folder to put things into.
    let name = files::tree(&target).into_keys().next().unwrap();
    fs::write(target.join(name), "mine").unwrap();
    assert_eq!(get(), target.join("shared").to_str().unwrap());
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn publishers_who_are_not_trusted_are_refused() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("signed.bin", 500_000, 1);
    let id = files::b3sum(&path);
    let source = sharing(&sandbox, "source", &path);
    let stranger = sandbox.home("stranger").start();
    let trusting = |name: &str, key: &str| {
        let home = sandbox
            .home(name)
            .set("trust.policy", "\"trusted\"")
            .set("trust.publishers", &format!("[\"{key}\"]"))
            .bootstrap([&source]);
        let daemon = home.start();
        daemon.wait_connected([&source]);
        daemon
    };
    let target = sandbox.path("copy.bin");
    let out = target.to_str().unwrap();

    let wary = trusting("wary", stranger.publisher());
    let ran = wary.run(["get", &id, "-o", out]);
    ran.expect_failure(8, "policy");
    assert!(!target.exists());
    // Asked for by hand, this one publisher counts instead of the list.
    wary.run(["get", &id, "-o", out, "--publisher", source.publisher()])
        .expect_code(0);
    assert_eq!(files::b3sum(&target), id);
    fs::remove_file(&target).unwrap();

    let friend = trusting("friend", source.publisher());
    let wrong = ["get", &id, "-o", out, "--publisher", stranger.publisher()];
    friend.run(wrong).expect_failure(8, "policy");
    assert!(!target.exists());
    friend.get(&id, &target);

    let ticket = source.run(["ticket", &id]).expect_code(0).only("ticket");
    let ticket = ticket["ticket"].as_str().unwrap();
    let elsewhere = sandbox.path("elsewhere.bin");
    let ran = wary.run([
        "get",
        ticket,
        "-o",
        elsewhere.to_str().unwrap(),
        "--publisher",
        stranger.publisher(),
    ]);
    ran.expect_failure(8, "policy");
    assert!(!elsewhere.exists());
}

#[test]
fn a_ticket_whose_signature_does_not_verify_is_refused() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("honest.bin", 500_000, 1);
    let source = sharing(&sandbox, "source", &path);
    let ticket = source
        .run(["ticket", &files::b3sum(&path)])
        .expect_code(0)
        .only("ticket");
    let ticket = ticket["ticket"].as_str().unwrap();
    let target = sandbox.path("copy.bin");
    let out = target.to_str().unwrap();
    let fetcher = sandbox.home("fetcher").start();
    let alone = sandbox.home("alone");

    // A name that nobody signed, in a ticket that is well-formed otherwise.
    let forged = reseal(ticket, |body| {
        let name = b"honest.bin";
        let at = body
            .windows(name.len())
            .position(|part| part == name)
            .unwrap();
        body[at] = b'H';
    });
    assert_ne!(forged, ticket);
    for home in [fetcher.home(), &alone] {
        let ran = home.run(["get", &forged, "-o", out, "--timeout", "5s"]);
        ran.expect_failure(6, "verification");
        home.run(["ls", &forged, "--timeout", "5s"])
            .expect_failure(6, "verification");
    }

    // A letter mistyped, a ticket cut short: no ticket at all.
    let middle = ticket.len() / 2;
    let other = if ticket.as_bytes()[middle] == b'a' {
        "b"
    } else {
        "a"
    };
    let mistyped = format!("{}{other}{}", &ticket[..middle], &ticket[middle + 1..]);
    for bad in [mistyped.as_str(), &ticket[..middle], "p2p1"] {
        fetcher
            .run(["get", bad, "-o", out])
            .expect_failure(2, "usage");
    }
    assert!(!target.exists());
    assert_eq!(
        reseal(ticket, |_| {}),
        ticket,
        "what these tests know of tickets is still so"
    );
    alone.run(["get", ticket, "-o", out]).expect_code(0);
    assert_eq!(files::b3sum(&target), files::b3sum(&path));
}

/// The same ticket with its body changed, and the checksum to go with it (see `docs/wire.md`).
fn reseal(ticket: &str, change: impl FnOnce(&mut [u8])) -> String {
    const CHECKSUM: usize = 4;
    let digits = ticket.strip_prefix("p2p1").unwrap();
    let mut bytes = BASE32_NOPAD_NOCASE.decode(digits.as_bytes()).unwrap();
    let end = bytes.len() - CHECKSUM;
    change(&mut bytes[..end]);
    let sum = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&sum.as_bytes()[..CHECKSUM]);
    format!(
        "p2p1{}",
        BASE32_NOPAD_NOCASE.encode(&bytes).to_ascii_lowercase()
    )
}

/// A source that promises more than it has left does not make a fetch that is alone hang.
#[test]
fn a_source_that_lost_its_file_is_no_source() {
    let sandbox = Sandbox::new();
    let path = sandbox.noise("lost.bin", 2_000_000, 1);
    let id = files::b3sum(&path);
    let source = sharing(&sandbox, "source", &path);
    let fetcher = sandbox.home("fetcher").bootstrap([&source]).start();
    fetcher.wait_connected([&source]);
    fs::remove_file(&path).unwrap();
    let target = sandbox.path("copy.bin");
    let ran = fetcher.run([
        "get",
        &id,
        "-o",
        target.to_str().unwrap(),
        "--timeout",
        "2s",
    ]);
    ran.expect_codes(&[3, 5]);
    assert!(ran.took < Duration::from_secs(15), "{:?}", ran.took);
    assert!(!target.exists());
}
