//! A daemon that is killed at a system call that changes the disk, or for which such calls fail: it starts again, serves
//! nothing wrong, has lost nothing that was complete, and the same command works then.
//!
//! A command is run once to count its calls. Then it is run, each time on new content, with the fault at one of them. All
//! that happens in one test happens to one data directory, so what was complete before goes through all crashes after.
//! A few of the points are tried unless `P2P_TESTS_SWEEP=full` is set.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use p2p_tests::{
    COMMAND_DEADLINE, Daemon, Home, Ran, Sandbox, files,
    strace::{CALLS, Fault, Strace},
    tell, wait_until,
};

/// A start after a crash takes no longer.
const RESTART: Duration = Duration::from_secs(15);
/// Points tried for each command, unless all are.
const POINTS: usize = 10;
/// Times of one call by one thread after which a full sweep goes on with the next call.
const MOST_OF_ONE_CALL: usize = 40;
/// Three blocks, the last a short one.
const LEN: u64 = 600_000;

/// Files of a folder.
const FILES: usize = 5;

/// A command on some content.
struct Step {
    arguments: Vec<String>,
    id: String,
    /// What is where when the command has succeeded: of each file its bytes' hash.
    files: BTreeMap<PathBuf, String>,
}

/// Only TCP, so that the end of a process is known to its peers at once.
fn home(sandbox: &Sandbox, name: &str) -> Home {
    let home = sandbox.home(name);
    home.set("network.listen", r#"["/ip4/127.0.0.1/tcp/0"]"#)
}

/// A data directory, a node that fetches from it, and what must not be lost.
struct Bench {
    sandbox: Sandbox,
    reader: Daemon,
    /// Has what is to be fetched.
    source: Daemon,
    complete: Vec<(String, BTreeMap<PathBuf, String>)>,
    number: u64,
}

impl Bench {
    /// `None` where faults cannot be injected.
    fn new() -> Option<Self> {
        let sandbox = Sandbox::new();
        if let Some(why) = Strace::missing(&sandbox.path("")) {
            tell(&format!(
                "skipped, because faults cannot be injected: {why}"
            ));
            return None;
        }
        let reader = home(&sandbox, "reader").start();
        let source = home(&sandbox, "source").start();
        Some(Self {
            sandbox,
            reader,
            source,
            complete: Vec::new(),
            number: 0,
        })
    }

    fn next_file(&mut self, folder: &str) -> PathBuf {
        self.number += 1;
        let name = format!("{folder}/{}.bin", self.number);
        self.sandbox.noise(&name, LEN, self.number)
    }

    fn strace(&self, daemon: &Daemon, calls: &str, nth: usize, fault: Fault) -> Strace {
        let attached = Strace::attach(daemon.pid(), calls, nth, fault, &self.sandbox.path(""));
        attached.expect("it could be attached before")
    }

    /// Starts a daemon that was killed.
    fn restart(&self, home: Home) -> Daemon {
        let started = Instant::now();
        let daemon = home.start();
        let took = started.elapsed();
        assert!(took < RESTART, "the start took {took:?}");
        daemon
    }

    /// What the daemon says of a content: its `state`.
    fn state(&self, daemon: &Daemon, id: &str) -> Option<String> {
        let listed = daemon.run(["ls"]).expect_code(0).all("content");
        let found = listed.iter().find(|content| content["id"] == id)?;
        Some(found["state"].as_str().expect("a state").to_owned())
    }

    /// What the command was about is served as it is, or refused; all that was complete before is served.
    fn check(&self, daemon: &Daemon, step: &Step) {
        let complete = self.state(daemon, &step.id).as_deref() == Some("complete");
        if complete && !step.files.is_empty() {
            // The index is written before the file has its name, so a file may not be where it says.
            self.ask(daemon, &step.id, "2s").expect_codes(&[0, 3, 5]);
        }
        for (id, files) in &self.complete {
            assert_eq!(self.state(daemon, id).as_deref(), Some("complete"), "{id}");
            self.check_files(files);
        }
        if let Some((id, _)) = self.complete.first() {
            self.fetch_from(daemon, id);
        }
    }

    fn check_files(&self, files: &BTreeMap<PathBuf, String>) {
        for (path, hash) in files {
            assert_eq!(&files::b3sum(path), hash, "{}", path.display());
        }
    }

    /// Another node gets the content from this one alone, as it is.
    fn fetch_from(&self, daemon: &Daemon, id: &str) {
        // Nobody else is to have it. It may be shared there no longer.
        self.source.run(["unshare", id]).expect_codes(&[0, 3]);
        let complete = self.ask(daemon, id, "30s").expect_code(0).only("complete");
        let sources = files::sources(&complete);
        assert!(sources.contains_key(daemon.peer()), "{complete}");
    }

    /// Another node asks for the content. If it gets it, it is as it should be.
    fn ask(&self, daemon: &Daemon, id: &str, timeout: &str) -> Ran {
        let target = self.sandbox.path("fetched");
        let to = target.to_str().expect("text");
        let address = daemon.addresses().remove(0);
        let words = [
            "get",
            id,
            "-o",
            to,
            "--timeout",
            timeout,
            "--peer",
            &address,
        ];
        let ran = self.reader.run(words);
        if target.is_file() {
            assert_eq!(files::b3sum(&target), id);
        }
        let forgotten = self.reader.run(["rm", id, "--delete-files"]);
        forgotten.expect_codes(&[0, 3]);
        assert!(!target.exists());
        ran
    }

    /// The same command again works now.
    fn again(&mut self, daemon: &Daemon, step: Step, codes: &[i32]) {
        daemon.run(&step.arguments).expect_codes(codes);
        self.check_files(&step.files);
        if !step.files.is_empty() {
            assert_eq!(self.state(daemon, &step.id).as_deref(), Some("complete"));
            self.fetch_from(daemon, &step.id);
            self.complete.push((step.id, step.files));
        }
    }

    /// The points at which a command is to be cut off: the call, and which one of a thread.
    fn points(&mut self, daemon: &Daemon, step: Step) -> Vec<(String, usize)> {
        let strace = self.strace(daemon, CALLS, 1, Fault::None);
        daemon.run(&step.arguments).expect_code(0);
        let counts = strace.counts();
        assert!(!counts.is_empty(), "it does nothing to the disk");
        tell(&format!("{}: {counts:?}", step.arguments.join(" ")));
        self.check_files(&step.files);
        let all: Vec<(String, usize)> = counts
            .into_iter()
            .flat_map(|(call, count)| {
                (1..=count.min(MOST_OF_ONE_CALL)).map(move |nth| (call.clone(), nth))
            })
            .collect();
        if std::env::var_os("P2P_TESTS_SWEEP").is_some_and(|sweep| sweep == "full") {
            return all;
        }
        // Spread over all of them, the last one too.
        let chosen = POINTS.min(all.len());
        (1..=chosen)
            .map(|nth| all[nth * all.len() / chosen - 1].clone())
            .collect()
    }

    /// Kills the daemon at the points of a command. `codes` are those of the same command after a crash.
    fn sweep(&mut self, home: Home, codes: &[i32], step: impl Fn(&mut Self, &Daemon) -> Step) {
        let mut daemon = home.start();
        let counted = step(self, &daemon);
        let points = self.points(&daemon, counted);
        let mut killed = 0;
        for (call, nth) in &points {
            let step = step(self, &daemon);
            let strace = self.strace(&daemon, call, *nth, Fault::Kill);
            let ran = daemon.run(&step.arguments);
            if strace.end() {
                killed += 1;
                tell(&format!("killed at {call} {nth}: {:?}", ran.code()));
            }
            daemon = self.restart(daemon.kill());
            self.check(&daemon, &step);
            self.again(&daemon, step, codes);
        }
        // A thread may make one call less than in the run that was counted, but not each time.
        assert!(
            killed * 2 >= points.len(),
            "killed {killed} of {} times",
            points.len()
        );
    }

    fn share_step(&mut self, copy: bool) -> Step {
        let path = self.next_file("shared");
        let mut arguments = vec!["share".to_owned(), path.display().to_string()];
        arguments.extend(copy.then(|| "--copy".to_owned()));
        let id = files::b3sum(&path);
        Step {
            arguments,
            files: [(path, id.clone())].into(),
            id,
        }
    }

    /// Fetches what a source has just shared.
    fn get_step(&mut self, folder: bool) -> Step {
        let original = if folder {
            let folder = format!("original-{}", self.number);
            for _ in 0..FILES {
                self.next_file(&folder);
            }
            self.sandbox.path(&folder)
        } else {
            self.next_file("original")
        };
        let shared = self.source.run(["share".as_ref(), original.as_os_str()]);
        let id = shared.expect_code(0).only("shared")["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let target = self.sandbox.path(&format!("copies/{}", self.number));
        fs::create_dir_all(self.sandbox.path("copies")).expect("a folder");
        let files = if original.is_dir() {
            let tree = files::tree(&original).into_iter();
            tree.map(|(name, hash)| (target.join(name), hash)).collect()
        } else {
            [(target.clone(), id.clone())].into()
        };
        let words = ["get", &id, "-o", target.to_str().expect("text"), "--peer"];
        Step {
            arguments: words
                .map(str::to_owned)
                .into_iter()
                .chain(self.source.addresses().drain(..1))
                .collect(),
            id,
            files,
        }
    }
}

#[test]
fn share_survives_a_crash_at_any_call() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let node = home(&bench.sandbox, "node");
    bench.sweep(node, &[0], |bench, _| bench.share_step(false));
}

#[test]
fn share_of_a_copy_survives_a_crash_at_any_call() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let node = home(&bench.sandbox, "node");
    bench.sweep(node, &[0], |bench, _| bench.share_step(true));
}

#[test]
fn get_survives_a_crash_at_any_call() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let node = home(&bench.sandbox, "node");
    bench.sweep(node, &[0], |bench, _| bench.get_step(false));
}

#[test]
fn get_of_a_folder_survives_a_crash_at_any_call() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let node = home(&bench.sandbox, "node");
    bench.sweep(node, &[0], |bench, _| bench.get_step(true));
}

/// What is forgotten after the crash is not found by the same command; what is not, is forgotten by it.
#[test]
fn rm_survives_a_crash_at_any_call() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let node = home(&bench.sandbox, "node");
    bench.sweep(node, &[0, 3], |bench, daemon| {
        if bench.complete.is_empty() {
            let stays = bench.get_step(false);
            daemon.run(&stays.arguments).expect_code(0);
            bench.complete.push((stays.id, stays.files));
        }
        // Both are odd numbers of files, so that they take turns.
        let folder = bench.number % 2 == 0;
        let fetched = bench.get_step(folder);
        daemon.run(&fetched.arguments).expect_code(0);
        Step {
            arguments: ["rm", &fetched.id, "--delete-files"]
                .map(str::to_owned)
                .into(),
            id: fetched.id,
            files: BTreeMap::new(),
        }
    });
}

/// What was only read may go, what was fetched to a place stays.
#[test]
fn gc_survives_a_crash_at_any_call() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let node = home(&bench.sandbox, "node");
    bench.sweep(node, &[0], |bench, daemon| {
        if bench.complete.is_empty() {
            let stays = bench.get_step(false);
            daemon.run(&stays.arguments).expect_code(0);
            bench.complete.push((stays.id, stays.files));
        }
        let read = bench.get_step(false);
        let ran = bench.source.run(["ticket", &read.id]);
        let ticket = ran.expect_code(0).only("ticket");
        let ticket = ticket["ticket"].as_str().expect("a ticket");
        daemon.run(["cat", ticket]).expect_code(0);
        // What is still being fetched is not collected.
        let deadline = Instant::now() + COMMAND_DEADLINE;
        wait_until("the fetch to end", deadline, || {
            let status = daemon.run(["status"]);
            status.expect_code(0).only("status")["fetches"] == 0
        });
        Step {
            arguments: ["repo", "gc", "--all", "--grace", "0s"]
                .map(str::to_owned)
                .into(),
            id: read.id,
            files: BTreeMap::new(),
        }
    });
}

/// The failure of a command, which must be one, in words.
fn failure(ran: &Ran, code: i32) -> String {
    let error = ran.expect_code(code).only("error");
    error["message"].as_str().expect("a message").to_owned()
}

/// A sync that fails is told; the blocks it was for are not called complete, and the next run mends it.
#[test]
fn a_sync_that_fails_is_told() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let daemon = home(&bench.sandbox, "node").start();
    for (folder, nth) in [(false, 1), (false, 2), (false, 3), (true, 1), (true, 2)] {
        let step = bench.get_step(folder);
        let strace = bench.strace(
            &daemon,
            "fsync,fdatasync,syncfs",
            nth,
            Fault::FailFrom("EIO"),
        );
        let ran = daemon.run(&step.arguments);
        assert!(strace.end(), "no sync failed");
        let why = failure(&ran, 1);
        tell(&format!("from sync {nth} on: {why}"));
        assert!(why.contains("Input/output error"), "{why}");
        // A sync may fail after the rename; then what is there is whole.
        let there = step.files.iter().filter(|(file, _)| file.exists());
        there.for_each(|(file, hash)| assert_eq!(&files::b3sum(file), hash, "{why}"));
        bench.check(&daemon, &step);
        bench.again(&daemon, step, &[0]);
    }
    // The same of what is shared.
    for copy in [false, true] {
        let step = bench.share_step(copy);
        let strace = bench.strace(&daemon, "fsync,fdatasync", 1, Fault::FailFrom("EIO"));
        let ran = daemon.run(&step.arguments);
        assert!(strace.end(), "no sync failed");
        failure(&ran, 1);
        assert_ne!(bench.state(&daemon, &step.id).as_deref(), Some("complete"));
        bench.check(&daemon, &step);
        bench.again(&daemon, step, &[0]);
    }
}

/// One sync that fails, and then none: the command may have tried again, but what it says holds.
#[test]
fn one_sync_that_fails_is_told_or_made_again() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let daemon = home(&bench.sandbox, "node").start();
    for nth in 1..=3 {
        let step = bench.get_step(false);
        let strace = bench.strace(&daemon, "fsync,fdatasync", nth, Fault::Fail("EIO"));
        let ran = daemon.run(&step.arguments);
        assert!(strace.end(), "no sync failed");
        ran.expect_codes(&[0, 1]);
        tell(&format!("sync {nth}: {:?}", ran.code()));
        if ran.code() == Some(0) {
            bench.check_files(&step.files);
            bench.fetch_from(&daemon, &step.id);
        } else {
            bench.check(&daemon, &step);
            bench.again(&daemon, step, &[0]);
        }
    }
}

/// A disk that is full in the middle.
#[test]
fn writes_for_which_there_is_no_room_are_told() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let daemon = home(&bench.sandbox, "node").start();
    for folder in [false, true] {
        let step = bench.get_step(folder);
        let strace = bench.strace(
            &daemon,
            "pwrite64,pwritev,pwritev2",
            1,
            Fault::FailFrom("ENOSPC"),
        );
        let ran = daemon.run(&step.arguments);
        assert!(strace.end(), "no write failed");
        let why = failure(&ran, 9);
        assert!(why.contains("not enough space on the disk"), "{why}");
        tell(&why);
        bench.check(&daemon, &step);
        bench.again(&daemon, step, &[0]);
    }
}
