//! Real daemons in temporary folders, and the command line run against them.
//!
//! A [`Sandbox`] is the temporary folder of one test. In it, a [`Home`] is what survives a crash: a `node.toml` and its
//! data directory. A [`Daemon`] is `p2p-node run` on a home, killed when dropped. Whatever is waited for is waited for
//! until a deadline; a test that fails prints the end of what its processes logged.
//!
//! Nodes listen on loopback and on ports that the system picks, find nobody unless they are told whom, and talk to the
//! command line over a socket in their own folder, so that tests may run side by side and on any machine.

pub mod files;
pub mod link;
pub mod namespaces;
mod process;
pub mod strace;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

pub use process::{Ran, Running};

/// A daemon that is not up by then never will be.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// What a daemon may take to stop, by its own promise, and much more for a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// The longest that any command of these tests takes on a slow machine.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
/// The same where gigabytes are hashed or fetched.
pub const LARGE_DEADLINE: Duration = Duration::from_secs(600);
/// The `--timeout` of commands that must work, on a slow machine too.
pub const PLENTY: &str = "60s";
/// Pause between two looks at a state that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The temporary folder of one test.
#[derive(Debug)]
pub struct Sandbox(TempDir);

impl Sandbox {
    #[expect(
        clippy::new_without_default,
        reason = "a folder on the disk is no default value"
    )]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("p2p-").tempdir();
        Self(dir.expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of bytes that look random, the same for the same seed.
    pub fn noise(&self, name: &str, len: u64, seed: u64) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("within the sandbox")).expect("a folder");
        files::write_noise(&path, len, seed);
        path
    }

    /// A node that is not running yet.
    pub fn home(&self, name: &str) -> Home {
        Home::new(&self.path(name))
    }
}

/// What is on the disk of a node: its settings and its data.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
    settings: BTreeMap<String, BTreeMap<String, String>>,
    shares: Vec<String>,
    /// What the daemon is started through, to run it elsewhere.
    enter: Vec<OsString>,
}

impl Home {
    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a folder for the node");
        let home = Self {
            dir: dir.to_owned(),
            settings: BTreeMap::new(),
            shares: Vec::new(),
            enter: Vec::new(),
        };
        home.set(
            "network.listen",
            r#"["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]"#,
        )
        .set("network.mdns", "false")
        .set("network.upnp", "false")
        .set("network.relay", "\"off\"")
        .set("storage.min_free", "\"10MB\"")
        .set("api.listen", "\"unix:api.sock\"")
    }

    /// Sets `table.key` of `node.toml` to a TOML value.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let (table, key) = key.split_once('.').expect("table.key");
        let table = self.settings.entry(table.to_owned()).or_default();
        table.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Shares a file or folder at every start.
    pub fn share(self, path: &Path) -> Self {
        self.share_as(path, "")
    }

    /// Shares it, and keeps up with what becomes of it.
    pub fn share_watched(self, path: &Path) -> Self {
        self.share_as(path, "watch = true\n")
    }

    /// Shares it with those only who know its id.
    pub fn share_unlisted(self, path: &Path) -> Self {
        self.share_as(path, "unlisted = true\n")
    }

    /// Shares it with those whom this policy, a TOML value, names.
    pub fn share_for(self, path: &Path, policy: &str) -> Self {
        self.share_as(path, &format!("policy = {policy}\n"))
    }

    fn share_as(mut self, path: &Path, more: &str) -> Self {
        let path = path.to_str().expect("a path of these tests is text");
        self.shares
            .push(format!("[[share]]\npath = {}\n{more}", toml_string(path)));
        self
    }

    /// Knows these nodes from the start.
    pub fn bootstrap<'a>(self, others: impl IntoIterator<Item = &'a Daemon>) -> Self {
        let addresses = others.into_iter().flat_map(Daemon::addresses);
        let list: Vec<String> = addresses.map(|address| toml_string(&address)).collect();
        self.set("network.bootstrap", &format!("[{}]", list.join(", ")))
    }

    /// Sends no more than this rate (such as `"20MB"` a second), to neighbours neither.
    pub fn upload_limit(self, rate: &str) -> Self {
        self.set("limits.upload", &toml_string(rate))
            .set("limits.lan_exempt", "false")
    }

    /// Runs the daemon through this command, which takes another as its arguments.
    pub fn within(mut self, enter: &[OsString]) -> Self {
        self.enter = enter.to_vec();
        self
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(self) -> Daemon {
        Daemon::start(self)
    }

    fn write_settings(&self) {
        let mut text = String::from("data_dir = \"data\"\n");
        for (table, keys) in &self.settings {
            text.push_str(&format!("[{table}]\n"));
            for (key, value) in keys {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        text.extend(self.shares.iter().map(String::as_str));
        fs::write(self.dir.join("node.toml"), text).expect("node.toml is written");
    }

    fn command(&self, arguments: &[&OsStr], enter: &[OsString]) -> Command {
        let mut words = enter.iter().cloned();
        let mut command = match words.next() {
            Some(program) => {
                let mut command = Command::new(program);
                command.args(words).arg(program_path());
                command
            }
            None => Command::new(program_path()),
        };
        command
            .arg("--json")
            .args(arguments)
            .current_dir(&self.dir)
            .env("HOME", &self.dir);
        let stray = std::env::vars_os().map(|(name, _)| name).filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("P2P_NODE_") || name.starts_with("XDG_") || name == "RUST_LOG"
        });
        for name in stray {
            command.env_remove(name);
        }
        // For whoever looks for the cause of a failure.
        if let Some(filter) = std::env::var_os("P2P_TESTS_LOG") {
            command.env("RUST_LOG", filter);
        }
        command
    }

    /// Starts a command and leaves it running.
    pub fn begin(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Running {
        self.write_settings();
        let arguments: Vec<OsString> = arguments.into_iter().map(|a| a.as_ref().into()).collect();
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let what = arguments[0].to_string_lossy().into_owned();
        Running::spawn(self.command(&arguments, &[]), &what, &self.dir)
    }

    /// Runs a command to its end: by the daemon if it runs, else by a node of its own.
    pub fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        self.begin(arguments).finish(COMMAND_DEADLINE)
    }
}

fn toml_string(text: &str) -> String {
    // The escapes of JSON are those of TOML.
    Value::from(text).to_string()
}

/// The program under test, which cargo puts beside the tests.
fn program_path() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test
        .parent()
        .and_then(Path::parent)
        .expect("target/<profile>/deps");
    let program = folder.join(format!("p2p-node{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build -p p2p-node` with the same profile, or test the whole workspace",
        program.display()
    );
    program
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    home: Home,
    running: Running,
    ready: Value,
}

impl Daemon {
    fn start(home: Home) -> Self {
        home.write_settings();
        let command = home.command(&[OsStr::new("run")], &home.enter);
        let mut running = Running::spawn(command, "run", &home.dir);
        let deadline = Instant::now() + START_DEADLINE;
        let ready = running.wait_for("the daemon to be ready", deadline, |object| {
            object["type"] == "ready"
        });
        Self {
            home,
            running,
            ready,
        }
    }

    /// Waits until the next of the shares in `node.toml` is shared: its `shared` object.
    pub fn shared(&mut self) -> Value {
        self.shared_within(START_DEADLINE)
    }

    /// The same of one that takes long to hash.
    pub fn shared_within(&mut self, within: Duration) -> Value {
        let deadline = Instant::now() + within;
        self.running
            .wait_for("a share", deadline, |object| object["type"] == "shared")
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    pub fn peer(&self) -> &str {
        self.ready["peer"].as_str().expect("a peer id")
    }

    pub fn publisher(&self) -> &str {
        self.ready["publisher"].as_str().expect("a publisher key")
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Where it can be reached.
    pub fn addresses(&self) -> Vec<String> {
        let addresses = self.ready["addresses"].as_array().expect("a list");
        let text = |address: &Value| address.as_str().expect("text").to_owned();
        addresses.iter().map(text).collect()
    }

    pub fn begin(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Running {
        self.home.begin(arguments)
    }

    pub fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        self.home.run(arguments)
    }

    /// Fetches `what` to `target`, which must work: the `complete` object.
    pub fn get(&self, what: &str, target: &Path) -> Value {
        let ran = self.run([
            OsStr::new("get"),
            what.as_ref(),
            "-o".as_ref(),
            target.as_ref(),
        ]);
        ran.expect_code(0).only("complete")
    }

    /// The connected peers: their `peer` objects.
    pub fn connected(&self) -> Vec<Value> {
        let ran = self.run(["peers"]);
        let peers = ran.expect_code(0).all("peer");
        peers
            .into_iter()
            .filter(|peer| peer["state"] == "connected")
            .collect()
    }

    /// Waits until it is connected to all of these.
    pub fn wait_connected<'a>(&self, others: impl IntoIterator<Item = &'a Daemon>) {
        for other in others {
            self.wait_connected_to(other);
        }
    }

    /// Waits until it is connected to another: that one's `peer` object.
    pub fn wait_connected_to(&self, other: &Daemon) -> Value {
        let mut found = None;
        let what = format!("a connection to {}", other.home.dir.display());
        self.wait_until(&what, || {
            let mut connected = self.connected().into_iter();
            found = connected.find(|peer| peer["peer"] == other.peer());
            found.is_some()
        });
        found.unwrap_or_default()
    }

    /// Waits until it knows a server of the DHT.
    pub fn wait_for_dht(&self) {
        self.wait_until("a server of the DHT", || {
            let status = self.run(["status"]);
            status.expect_code(0).only("status")["dht_peers"].as_u64() > Some(0)
        });
    }

    /// Waits until the network has been told of everything that is shared.
    pub fn wait_announced(&self) {
        self.wait_until("the shares to be announced", || {
            let ran = self.run(["shares"]);
            let shares = ran.expect_code(0).all("share");
            !shares.is_empty() && shares.iter().all(|share| share["announced"] == "done")
        });
    }

    fn wait_until(&self, what: &str, holds: impl FnMut() -> bool) {
        wait_until(what, Instant::now() + START_DEADLINE, holds);
    }

    /// Writes a setting. The daemon goes by it when it reads its settings again.
    pub fn set(&mut self, key: &str, value: &str) {
        self.home = self.home.clone().set(key, value);
        self.home.write_settings();
    }

    /// Has it read its settings again, by a signal: its `reloaded` object.
    pub fn hang_up(&mut self) -> Value {
        let kill = format!("kill -HUP {}", self.pid());
        let sent = Command::new("sh").args(["-c", &kill]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{kill}");
        let deadline = Instant::now() + COMMAND_DEADLINE;
        self.running.wait_for("the settings", deadline, |object| {
            object["type"] == "reloaded"
        })
    }

    /// Has it send as fast as it can from now on.
    pub fn lift_upload_limit(&mut self) {
        self.set("limits.upload", &toml_string("unlimited"));
        self.hang_up();
    }

    /// Kills it as a crash would; what is on its disk stays.
    pub fn kill(mut self) -> Home {
        self.running.kill();
        self.home
    }

    /// Stops it in order, and checks that it does.
    pub fn stop(mut self) -> Home {
        // On a slow machine the command may not wait until the daemon is gone.
        self.run(["shutdown"]).expect_codes(&[0, 5]);
        self.running.end(STOP_DEADLINE).expect_code(0);
        self.home
    }

    /// The most memory it has had at once, in bytes, as the kernel counts it.
    #[cfg(target_os = "linux")]
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the daemon runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("VmHWM") * 1024
    }
}

/// Says something that is worth reading even when the test passes, which keeps `println` to itself.
pub fn tell(text: &str) {
    // Nobody to tell is nothing to fail for.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Looks again and again until something holds.
///
/// # Panics
/// When it still does not at the deadline.
pub fn wait_until(what: &str, deadline: Instant, mut holds: impl FnMut() -> bool) {
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
