//! Watched shares: files that others write, move and delete while a node shares them, and a second node that fetches.
//!
//! What is waited for is an event of the node, or a state that it shows, until a deadline. That nothing was hashed is read
//! from the node's own count.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures::StreamExt;
use p2p_core::{Config, ContentId, Event, Events, FetchError, Node, ShareRef, ShareState};
use p2p_tests::{Sandbox, files, wait_until};

/// Longer than any of this takes on a busy machine; what goes right ends long before.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two writes of a program that is not done yet.
const WRITE_PAUSE: Duration = Duration::from_millis(100);
/// With a longer one, the file may count as complete: that takes two seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a test begins anew because the machine stood still for longer than that.
const ATTEMPTS: u32 = 5;

fn config(dir: &Path) -> Config {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.network.mdns = false;
    config.network.upnp = false;
    config.storage.min_free = 0;
    config
}

/// A node that watches, another that fetches, and the folder that is watched.
struct Pair {
    sandbox: Sandbox,
    source: Node,
    reader: Node,
    events: Events,
    folder: PathBuf,
    fetched: u32,
}

impl Pair {
    /// The folder has `a`, `b` and `below/c`.
    async fn start() -> (Self, ContentId) {
        let sandbox = Sandbox::new();
        let folder = sandbox.path("folder");
        for (number, name) in ["a", "b", "below/c"].iter().enumerate() {
            sandbox.noise(
                &format!("folder/{name}"),
                1000 + number as u64,
                number as u64,
            );
        }
        let source = Node::start(config(&sandbox.path("source"))).await.unwrap();
        let mut settings = config(&sandbox.path("reader"));
        settings.network.bootstrap = source.addresses();
        let reader = Node::start(settings).await.unwrap();
        let events = source.events();
        let shared = source.share(&folder).watch(true).await.unwrap();
        assert_eq!(shared.files, 3);
        let mut pair = Self {
            sandbox,
            source,
            reader,
            events,
            folder,
            fetched: 0,
        };
        let id = pair.next_form().await;
        assert_eq!(id, shared.id);
        (pair, id)
    }

    fn write(&self, name: &str, len: u64, seed: u64) -> PathBuf {
        self.sandbox.noise(&format!("folder/{name}"), len, seed)
    }

    fn hashed(&self) -> u64 {
        self.source.status().hashed.files
    }

    /// The next event that says so.
    async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let search = async {
            loop {
                let event = self.events.next().await.expect("the node runs");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(DEADLINE, search).await;
        found.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    /// Waits until the share has a new id.
    async fn next_form(&mut self) -> ContentId {
        let shared = |event| match event {
            Event::Shared { id, .. } => Some(id),
            _ => None,
        };
        self.wait("a new form of the share", shared).await
    }

    /// Waits until the share has the form that its folder has, however many that takes.
    async fn settled(&mut self) -> ContentId {
        let tree = files::tree(&self.folder);
        loop {
            let form = self.next_form().await;
            // Nobody has a form that was followed by the next.
            let Ok(listing) = self.reader.list(form, DEADLINE).await else {
                continue;
            };
            let entries = listing.entries.into_iter();
            let listed: BTreeMap<String, String> = entries
                .map(|entry| (entry.path, entry.content.to_string()))
                .collect();
            if listed == tree {
                return form;
            }
        }
    }

    async fn changed(&mut self) {
        let changed = |event| matches!(event, Event::ShareChanged { .. }).then_some(());
        self.wait("the share to have changed", changed).await;
    }

    async fn state(&self) -> ShareState {
        self.source.shares().await.unwrap()[0].state
    }

    /// Fetches the folder in this form; what is in it must be what the source has.
    async fn fetch(&mut self, id: ContentId) -> BTreeMap<String, String> {
        self.try_fetch(id).await.unwrap()
    }

    async fn try_fetch(&mut self, id: ContentId) -> Result<BTreeMap<String, String>, FetchError> {
        self.fetched += 1;
        let target = self.sandbox.path(&format!("fetched-{}", self.fetched));
        let fetch = self.reader.fetch(id).to(&target).timeout(DEADLINE).start();
        fetch.await?.await?;
        Ok(files::tree(&target))
    }

    async fn stop(self) {
        self.reader.shutdown().await;
        self.source.shutdown().await;
    }
}

/// A program that appends to a file until it is stopped.
struct Writer {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Option<u64>>,
}

impl Writer {
    fn start(path: &Path) -> Self {
        let begun = Instant::now();
        let mut file = fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let (mut last, mut written, mut steady) = (begun, 0, true);
            let mut goes_on = true;
            while goes_on {
                goes_on = stopped.recv_timeout(WRITE_PAUSE) == Err(RecvTimeoutError::Timeout);
                let now = Instant::now();
                file.write_all(&[7; 4096]).unwrap();
                written += 4096;
                steady &= last.elapsed() < LONGEST_PAUSE;
                last = now;
            }
            steady.then_some(written)
        });
        Self { stop, thread }
    }

    /// Writes a last time. The bytes written, unless the file was left alone for too long meanwhile.
    fn stop(self) -> Option<u64> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// Tries again what a [`Writer`] that did not keep its pace has spoilt.
async fn steadily(attempt: impl AsyncFn() -> Option<()>) {
    for _ in 0..ATTEMPTS {
        if attempt().await.is_some() {
            return;
        }
    }
    panic!("this machine stands still again and again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_shared_as_it_becomes() {
    steadily(async || {
        let (mut pair, first) = Pair::start().await;
        assert_eq!(pair.hashed(), 3);

        pair.write("below/deeper/new", 300_000, 10);
        let second = pair.next_form().await;
        assert_ne!(first, second);
        assert_eq!(pair.hashed(), 4, "only the new file is hashed");
        let tree = pair.fetch(second).await;
        assert_eq!(tree, files::tree(&pair.folder));
        assert_eq!(tree.len(), 4);
        let shares = pair.source.shares().await.unwrap();
        assert_eq!(shares.len(), 1, "the old form is shared no longer");

        let old: ContentId = files::b3sum(&pair.folder.join("a")).parse().unwrap();
        // Written to until its state was read: left alone, it would be shared anew.
        let writer = Writer::start(&pair.folder.join("a"));
        pair.changed().await;
        let state = pair.state().await;
        let known = pair.source.contents().await.unwrap();
        writer.stop()?;
        assert_eq!(state, ShareState::Changed);
        let known = known.iter().find(|content| content.id == old).unwrap();
        assert_eq!(
            known.state,
            p2p_core::ContentState::Changed,
            "before any read"
        );
        let third = pair.next_form().await;
        assert_eq!(pair.hashed(), 5);
        assert_eq!(pair.fetch(third).await, files::tree(&pair.folder));
        assert_eq!(pair.state().await, ShareState::Ok);

        fs::remove_file(pair.folder.join("b")).unwrap();
        pair.changed().await;
        let fourth = pair.next_form().await;
        assert_eq!(pair.fetch(fourth).await, files::tree(&pair.folder));
        assert_eq!(pair.hashed(), 5);
        pair.stop().await;
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_moved_or_comes_back_is_not_hashed_again() {
    let (mut pair, first) = Pair::start().await;
    let aside = pair.sandbox.path("aside");
    fs::create_dir(&aside).unwrap();
    let other = pair.sandbox.path("other");
    fs::create_dir(&other).unwrap();
    pair.source.share(&other).watch(true).await.unwrap();
    pair.next_form().await;

    fs::rename(pair.folder.join("a"), pair.folder.join("below/renamed")).unwrap();
    let renamed = pair.next_form().await;
    assert_eq!(pair.fetch(renamed).await, files::tree(&pair.folder));

    // A folder, with what is in it.
    fs::rename(pair.folder.join("below"), pair.folder.join("moved")).unwrap();
    let moved = pair.next_form().await;
    assert_eq!(pair.fetch(moved).await, files::tree(&pair.folder));

    // From one share to another: both have a new form.
    fs::rename(pair.folder.join("moved"), other.join("moved")).unwrap();
    let (one, two) = (pair.next_form().await, pair.next_form().await);
    let shares = pair.source.shares().await.unwrap();
    for share in &shares {
        assert!([one, two].contains(&share.id));
        assert_eq!(pair.fetch(share.id).await, files::tree(&share.path));
    }
    let alone = shares.iter().find(|share| share.path == pair.folder);
    let alone = alone.unwrap().id;

    // Out of all shares, and back.
    fs::rename(pair.folder.join("b"), aside.join("b")).unwrap();
    pair.next_form().await;
    fs::rename(aside.join("b"), pair.folder.join("b")).unwrap();
    let back = pair.next_form().await;
    assert_eq!(back, alone);
    assert_eq!(pair.fetch(back).await, files::tree(&pair.folder));
    assert_eq!(pair.hashed(), 3, "the first three, and nothing again");
    assert_ne!(first, back);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_is_gone_is_missing_until_it_comes_back() {
    let (mut pair, first) = Pair::start().await;
    let away = pair.sandbox.path("away");
    fs::rename(&pair.folder, &away).unwrap();
    let gone = pair.folder.clone();
    let missing = |event| match event {
        Event::ShareMissing { id, path } => Some((id, path)),
        _ => None,
    };
    assert_eq!(
        pair.wait("the share to be missing", missing).await,
        (first, gone)
    );
    assert_eq!(pair.state().await, ShareState::Missing);
    fs::rename(&away, &pair.folder).unwrap();
    assert_eq!(pair.next_form().await, first);
    assert_eq!(pair.state().await, ShareState::Ok);
    assert_eq!(pair.fetch(first).await, files::tree(&pair.folder));
    assert_eq!(pair.hashed(), 3);

    // Unshared is unwatched: it may come and go, and is not shared again.
    let path = pair.folder.clone();
    pair.source.unshare(ShareRef::Path(path)).await.unwrap();
    pair.write("later", 10, 1);
    let single = pair.sandbox.noise("single", 700_000, 20);
    let shared = pair.source.share(&single).watch(true).await.unwrap();
    assert_eq!(pair.next_form().await, shared.id);
    fs::write(&single, "another one").unwrap();
    let id = pair.next_form().await;
    assert_eq!(id.to_string(), files::b3sum(&single));
    let shares = pair.source.shares().await.unwrap();
    assert_eq!(shares.len(), 1);
    assert_eq!(shares[0].id, id);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_gives_one_new_version_and_temporary_files_none() {
    let (mut pair, _) = Pair::start().await;
    let real = pair.folder.join("a");
    // As editors save: a lock, a copy of the old, a temporary file renamed over the real one.
    fs::write(pair.folder.join(".a.swp"), "lock").unwrap();
    fs::copy(&real, pair.folder.join("a~")).unwrap();
    let temporary = pair.write("a.tmp", 5000, 30);
    fs::rename(&temporary, &real).unwrap();
    let form = pair.next_form().await;
    assert_eq!(pair.hashed(), 4);
    let mut expected = files::tree(&pair.folder);
    expected.remove(".a.swp").unwrap();
    expected.remove("a~").unwrap();
    assert_eq!(pair.fetch(form).await, expected);
    // The next form is that of the next change, so there was no other in between.
    pair.write("z", 10, 31);
    let next = pair.next_form().await;
    assert!(pair.fetch(next).await.contains_key("z"));
    assert_eq!(pair.hashed(), 5);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_shared_when_it_is_no_longer_written_to_and_holds_up_nothing() {
    steadily(async || {
        let (mut pair, _) = Pair::start().await;
        let slow = pair.folder.join("slow");
        let writer = Writer::start(&slow);
        pair.write("quick", 1000, 40);
        // The other file is shared meanwhile, and thus does not wait for this one.
        let quick = pair.next_form().await;
        let hashed = pair.hashed();
        let tree = pair.try_fetch(quick).await;
        let written = writer.stop()?;
        assert_eq!(hashed, 4);
        let tree = tree.unwrap();
        assert!(tree.contains_key("quick") && !tree.contains_key("slow"));
        let whole = pair.next_form().await;
        assert_eq!(fs::metadata(&slow).unwrap().len(), written);
        assert_eq!(pair.fetch(whole).await, files::tree(&pair.folder));
        assert_eq!(pair.hashed(), 5, "hashed once, when it was whole");
        pair.stop().await;
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_file_that_is_being_written_to_stays_listed() {
    steadily(async || {
        let (mut pair, first) = Pair::start().await;
        let before = pair.reader.list(first, DEADLINE).await.unwrap().entries;
        let writer = Writer::start(&pair.folder.join("a"));
        pair.write("quick", 1000, 40);
        let quick = pair.next_form().await;
        let listed = pair.reader.list(quick, DEADLINE).await;
        writer.stop()?;
        let mut listed = listed.unwrap().entries;
        listed.retain(|entry| entry.path != "quick");
        assert_eq!(listed, before);
        let whole = pair.next_form().await;
        assert_eq!(pair.fetch(whole).await, files::tree(&pair.folder));
        assert_eq!(pair.hashed(), 5);
        pair.stop().await;
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_changes_among_two_thousand_files_cost_fifty() {
    let (mut pair, _) = Pair::start().await;
    for n in 0..2000_u64 {
        let path = pair.folder.join(format!("many/{}/{n}", n % 20));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, n.to_le_bytes()).unwrap();
    }
    pair.settled().await;
    assert_eq!(pair.hashed(), 2003);
    for n in 0..50_u64 {
        let n = n * 40;
        let path = pair.folder.join(format!("many/{}/{n}", n % 20));
        fs::write(path, format!("changed {n}")).unwrap();
    }
    let form = pair.settled().await;
    assert_eq!(pair.hashed(), 2053);
    assert_eq!(pair.fetch(form).await, files::tree(&pair.folder));
    pair.stop().await;
}

#[test]
fn a_daemon_shows_the_state_at_once_and_hashes_nothing_at_its_next_start() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("folder");
    files::write_tree(&folder, 200);
    let count = files::tree(&folder).len() as u64;
    let mut daemon = sandbox.home("node").share_watched(&folder).start();
    daemon.shared();
    let hashed = |daemon: &p2p_tests::Daemon| -> u64 {
        let status = daemon.run(["status"]).expect_code(0).only("status");
        status["hashed"]["files"].as_u64().unwrap()
    };
    let id_and_state = |daemon: &p2p_tests::Daemon| {
        let share = daemon.run(["shares"]).expect_code(0).only("share");
        let text = |key: &str| share[key].as_str().unwrap().to_owned();
        (text("id"), text("state"))
    };
    let first = hashed(&daemon);
    assert!(first > 0 && first <= count);
    let (id, state) = id_and_state(&daemon);
    assert_eq!(state, "ok");
    let victim = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let victim = victim.filter(|path| path.is_file()).min();
    fs::write(victim.unwrap_or_else(|| folder.join("new")), "changed").unwrap();
    let deadline = Instant::now() + DEADLINE;
    wait_until("the new form", deadline, || {
        let (now, state) = id_and_state(&daemon);
        now != id && state == "ok"
    });
    assert_eq!(hashed(&daemon), first + 1);
    let (id, _) = id_and_state(&daemon);
    let mut daemon = daemon.stop().start();
    assert_eq!(daemon.shared()["id"], id.as_str());
    assert_eq!(hashed(&daemon), 0, "everything is as it was");
    fs::remove_dir_all(&folder).unwrap();
    let deadline = Instant::now() + DEADLINE;
    wait_until("the share to be missing", deadline, || {
        id_and_state(&daemon).1 == "missing"
    });
}

#[test]
fn what_was_shared_by_a_command_is_watched_again_after_a_kill() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("folder");
    files::write_tree(&folder, 10);
    let daemon = sandbox.home("node").start();
    let share = |daemon: &p2p_tests::Daemon| daemon.run(["shares"]).expect_code(0).only("share");
    let to = folder.to_str().unwrap();
    daemon.run(["share", "--watch", to]).expect_code(0);
    let daemon = daemon.kill().start();
    let before = share(&daemon);
    assert_eq!(before["watched"], true);
    fs::write(folder.join("new"), "new").unwrap();
    wait_until("the new form", Instant::now() + DEADLINE, || {
        share(&daemon)["id"] != before["id"]
    });
    // As long as nobody asks for the contrary.
    daemon.run(["share", to]).expect_code(0);
    assert_eq!(share(&daemon)["watched"], false);
    let daemon = daemon.stop().start();
    let before = share(&daemon);
    fs::write(folder.join("newer"), "newer").unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(share(&daemon)["id"], before["id"]);
}
