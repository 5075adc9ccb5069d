//! The daemon as a process: its first lines, its API and who may use it, how it ends. Everything stays on loopback.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use common::Home;
use serde_json::Value;

const LOOPBACK: &str =
    "[network]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nmdns = false\nupnp = false\n";
/// Stopping takes five seconds at most; the rest is for a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

struct Daemon {
    child: Child,
    out: BufReader<ChildStdout>,
    ready: Value,
}

impl Daemon {
    /// Starts one in this home and reads its first object.
    fn start(home: &Home) -> Self {
        let mut command = home.command(&["run", "--json"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let ready = next_object(&mut out);
        assert_eq!(ready["type"], "ready", "{ready}");
        Self { child, out, ready }
    }

    fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// The exit code, once it has ended in time.
    fn ended(&mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status.code();
            }
            assert!(since.elapsed() < STOP_DEADLINE, "it does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Status code and text of the answer to a request with exactly these headers.
    fn http(&self, request_line: &str, headers: &[String], body: &str) -> (u16, String) {
        self.try_http(request_line, headers, body)
            .expect("an answer")
    }

    fn try_http(
        &self,
        request_line: &str,
        headers: &[String],
        body: &str,
    ) -> io::Result<(u16, String)> {
        let api = self.ready["api"].as_str().expect("an address");
        let address = api.strip_prefix("http://").expect("TCP");
        let mut stream = TcpStream::connect(address)?;
        let length = body.len();
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let end = format!("Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(format!("{request_line} HTTP/1.1\r\n{headers}{end}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((status, answer))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-s", name, &id])
        .status();
    assert!(
        sent.is_ok_and(|status| status.success()),
        "cannot send {name}"
    );
}

fn next_object(out: &mut impl BufRead) -> Value {
    let mut line = String::new();
    out.read_line(&mut line).expect("readable");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[test]
fn the_first_lines_name_the_node_and_its_shares() {
    let home = Home::new();
    home.write("hello.txt", "hello");
    let api = "[api]\nlisten = \"127.0.0.1:0\"\n";
    home.write(
        "node.toml",
        &format!("shares = [\"absent\", \"hello.txt\"]\n{LOOPBACK}{api}"),
    );
    let mut daemon = Daemon::start(&home);
    let peer = daemon.ready["peer"].as_str().expect("a peer id").to_owned();
    let address = daemon.ready["addresses"][0].as_str().expect("an address");
    assert!(address.ends_with(&format!("/p2p/{peer}")), "{address}");
    let shared = next_object(&mut daemon.out);
    assert_eq!(
        (&shared["type"], &shared["name"]),
        (&"shared".into(), &"hello.txt".into())
    );
    // What `printf hello | b3sum` prints.
    let id = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";
    assert_eq!(shared["id"], id);

    let by_cli = home.run(&["id", "--json"]);
    assert_eq!(by_cli.objects()[0]["peer"], peer);
    let shares = home.run(&["shares", "--json"]).objects();
    assert_eq!(
        (&shares[0]["id"], &shares[0]["state"]),
        (&id.into(), &"ok".into())
    );
    assert_eq!(home.run(&["cat", id, "--range", "1-3"]).out(), "ell");
    let status = home.run(&["status", "--json"]).objects();
    assert_eq!(
        (&status[0]["type"], &status[0]["shares"]),
        (&"status".into(), &1.into())
    );

    let second = home.run(&["run"]);
    assert_eq!(
        second.code(),
        Some(1),
        "a second daemon in one data directory: {}",
        second.err()
    );
    assert!(second.err().contains("in use"), "{}", second.err());

    let unshared = home.run(&["unshare", "hello.txt"]);
    assert_eq!(unshared.code(), Some(0), "{}", unshared.err());
    assert!(home.run(&["shares", "--json"]).objects().is_empty());

    // On a slow machine the command may not wait until the daemon is gone.
    let shutdown = home.run(&["shutdown"]);
    assert!(matches!(shutdown.code(), Some(0 | 5)), "{}", shutdown.err());
    assert_eq!(daemon.ended(), Some(0));
    assert_eq!(home.run(&["id"]).code(), Some(1));
}

#[test]
fn signals_end_it_in_order() {
    let home = Home::new();
    home.write(
        "node.toml",
        &format!("{LOOPBACK}[api]\nlisten = \"unix:data/api.sock\"\n"),
    );
    for name in ["TERM", "INT"] {
        let mut daemon = Daemon::start(&home);
        assert_eq!(home.run(&["peers"]).code(), Some(0));
        daemon.signal(name);
        assert_eq!(daemon.ended(), Some(0), "after {name}");
        assert!(
            !home.path().join("data/api.sock").exists(),
            "the socket is left after {name}"
        );
    }
    // A daemon that was killed leaves its socket, which must not keep the next one from starting.
    let mut daemon = Daemon::start(&home);
    daemon.signal("KILL");
    daemon.ended();
    assert!(home.path().join("data/api.sock").exists());
    let _next = Daemon::start(&home);
    assert_eq!(home.run(&["peers"]).code(), Some(0));
}

/// The matrix of CVE-2018-5702 and its kin: only loopback names, never an Origin, never without the token.
#[test]
fn the_api_answers_its_owner_only() {
    let home = Home::new();
    home.write(
        "node.toml",
        &format!("{LOOPBACK}[api]\nlisten = \"127.0.0.1:0\"\n"),
    );
    let daemon = Daemon::start(&home);
    let token = std::fs::read_to_string(home.path().join("data/api.token")).expect("made");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let hosts = [
        ("127.0.0.1", true),
        ("localhost:4780", true),
        ("[::1]:1", true),
        ("evil.example", false),
        ("", false),
    ];
    let origins = [
        None,
        Some("null"),
        Some("http://127.0.0.1"),
        Some("http://evil.example"),
    ];
    for (host, host_is_fine) in hosts {
        for origin in origins {
            for shown in [
                Some(bearer.clone()),
                Some("Authorization: Bearer no".into()),
                None,
            ] {
                let mut headers = vec![format!("Host: {host}")];
                headers.extend(origin.map(|origin| format!("Origin: {origin}")));
                headers.extend(shown.clone());
                let right = shown.as_deref() == Some(&bearer);
                let expected = match (host_is_fine && origin.is_none(), right) {
                    (false, _) => 403,
                    (true, false) => 401,
                    (true, true) => 200,
                };
                assert_eq!(
                    daemon.http("GET /v1/status", &headers, "").0,
                    expected,
                    "{headers:?}"
                );
                let health = if expected == 403 { 403 } else { 200 };
                assert_eq!(
                    daemon.http("GET /v1/health", &headers, "").0,
                    health,
                    "{headers:?}"
                );
            }
        }
    }

    let owner = [String::from("Host: localhost"), bearer];
    let json = |extra: &str| [&owner[..], &[extra.to_owned()]].concat();
    let id = r#"{"command":"id"}"#;
    let (status, answer) = daemon.http(
        "POST /v1/command",
        &json("Content-Type: application/json"),
        id,
    );
    assert_eq!(status, 200);
    assert!(
        answer.contains("\"type\":\"id\"") && answer.contains("{\"type\":\"done\"}"),
        "{answer}"
    );
    let form = json("Content-Type: application/x-www-form-urlencoded");
    assert_eq!(
        daemon.http("POST /v1/command", &form, id).0,
        400,
        "a form must not pass"
    );
    let post = |body: &str| {
        daemon.try_http(
            "POST /v1/command",
            &json("Content-Type: application/json"),
            body,
        )
    };
    for body in ["{}", "[", ""] {
        assert_eq!(post(body).expect("an answer").0, 400, "{body:?}");
    }
    let relative = r#"{"command":"unshare","what":"relative/path"}"#;
    assert!(post(relative).expect("an answer").1.contains("\"usage\""));
    let long = "x".repeat(2 << 20);
    let huge = format!("{{\"command\":\"find\",\"timeout_ms\":1,\"text\":\"{long}\"}}");
    // The server may close before it has taken everything in, which shows as a reset.
    assert!(
        post(&huge).map_or(true, |(status, _)| status == 400),
        "a huge body must not pass"
    );
    assert_eq!(daemon.http("GET /v1/nothing", &owner, "").0, 404);
    assert_eq!(daemon.http("GET /v1/command", &owner, "").0, 405);
}

/// What Prometheus reads: each family is declared once and before its samples, each sample is a number, the end is marked.
#[test]
fn the_metrics_are_open_metrics() {
    let home = Home::new();
    home.write("hello.txt", "hello");
    let api = "[api]\nlisten = \"127.0.0.1:0\"\n";
    home.write(
        "node.toml",
        &format!("shares = [\"hello.txt\"]\n{LOOPBACK}{api}"),
    );
    let mut daemon = Daemon::start(&home);
    next_object(&mut daemon.out);
    let token = std::fs::read_to_string(home.path().join("data/api.token")).expect("made");
    let host = String::from("Host: localhost");
    let stranger = daemon.http("GET /metrics", std::slice::from_ref(&host), "");
    assert_eq!(stranger.0, 401);
    let owner = [host, format!("Authorization: Bearer {}", token.trim())];
    let id = "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f";
    for _ in 0..3 {
        assert_eq!(home.run(&["cat", id]).out(), "hello");
    }
    let (code, answer) = daemon.http("GET /metrics", &owner, "");
    assert_eq!(code, 200);
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-type: application/openmetrics-text"));
    let samples = samples_of(text);
    for (name, value) in [
        ("p2p_node_cache_hits_total", 1.0),
        ("p2p_node_cache_misses_total", 2.0),
        ("p2p_node_cache_joined_total", 0.0),
        ("p2p_node_cache_evictions_total", 0.0),
        ("p2p_node_cache_bytes", 5.0),
        ("p2p_node_cache_capacity_bytes", 64_000_000.0),
        ("p2p_node_storage_bytes{kind=\"downloads\"}", 0.0),
        ("p2p_node_storage_bytes{kind=\"partial\"}", 0.0),
        ("p2p_node_peers{state=\"connected\"}", 0.0),
        ("p2p_node_fetches", 0.0),
        ("p2p_node_uploads", 0.0),
        ("p2p_node_received_bytes_total", 0.0),
        ("p2p_node_sent_bytes_total", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in {text}");
    }
    assert!(samples["p2p_node_storage_bytes{kind=\"index\"}"] > 0.0);
    let states = ["done", "due", "failed"];
    let announced = states.map(|state| {
        let name = format!("p2p_node_announcements{{state=\"{state}\"}}");
        samples[&name]
    });
    // The file and the word of its name. While one is being announced it is none of these.
    assert!(announced.iter().sum::<f64>() <= 2.0, "{announced:?}");
    let status = home.run(&["status", "--json"]).objects();
    assert_eq!(status[0]["cache"]["hit_rate"], 1.0 / 3.0);
    assert!(home.run(&["status"]).out().contains("33 % of 3 blocks"));
}

/// The samples of an exposition in the text format of OpenMetrics, by name and labels.
fn samples_of(text: &str) -> BTreeMap<String, f64> {
    let mut families: Vec<&str> = Vec::new();
    let mut samples = BTreeMap::new();
    let lines = text.strip_suffix("# EOF\n").expect("an end").lines();
    for line in lines {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            let (what, family) = (words.next().expect("a word"), words.next().expect("a name"));
            assert!(["HELP", "TYPE", "UNIT"].contains(&what), "{line}");
            if families.last() != Some(&family) {
                assert!(!families.contains(&family), "{family} is in two places");
                families.push(family);
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let family = families.last().expect("a family before its samples");
        let rest = name.strip_prefix(family).expect("a sample of its family");
        assert!(
            rest.is_empty() || rest == "_total" || rest.starts_with('{'),
            "{line}"
        );
        let before = samples.insert(name.to_owned(), value.parse().expect("a number"));
        assert_eq!(before, None, "{name} twice");
    }
    samples
}

/// One-off nodes on both sides: `share` until Ctrl-C, `get`, and `get` again where something is.
#[test]
fn share_and_get_without_a_daemon() {
    let (home, other) = (Home::new(), Home::new());
    let settings = format!("{LOOPBACK}[api]\nlisten = \"off\"\n");
    home.write("node.toml", &settings);
    other.write("node.toml", &settings);
    home.write("saudações.txt", "olá");
    let mut share = home.command(&["share", "saudações.txt", "--json"]);
    let mut sharing = share
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let shared = next_object(&mut BufReader::new(sharing.stdout.take().expect("piped")));
    let ticket = shared["ticket"].as_str().expect("a ticket").to_owned();

    let got = other.run(&["get", &ticket, "--json"]);
    assert_eq!(got.code(), Some(0), "{} {}", got.out(), got.err());
    let objects = got.objects();
    assert_eq!(objects.first().expect("progress")["type"], "progress");
    let complete = objects.last().expect("an end");
    assert_eq!(
        (&complete["type"], &complete["id"]),
        (&"complete".into(), &shared["id"])
    );
    let fetched = other.path().join("saudações.txt");
    assert_eq!(
        std::fs::read_to_string(&fetched).ok().as_deref(),
        Some("olá")
    );

    // It is there; something else in its place is not overwritten.
    assert_eq!(other.run(&["get", &ticket]).code(), Some(0));
    std::fs::write(&fetched, "mine").expect("written");
    assert_eq!(other.run(&["get", &ticket]).code(), Some(13));
    assert_eq!(
        other.run(&["-q", "get", &ticket, "--rename"]).code(),
        Some(0)
    );
    std::fs::create_dir(other.path().join("in")).expect("made");
    let inside = other.run(&["-q", "get", &ticket, "-o", "in"]);
    let inside = inside.out();
    let inside = std::path::Path::new(inside.trim())
        .canonicalize()
        .expect("a path");
    assert!(inside.ends_with("in/saudações.txt"), "{}", inside.display());

    signal(&sharing, "INT");
    assert_eq!(sharing.wait().expect("ends").code(), Some(0));
}

#[test]
fn interrupting_a_get_exits_with_130_and_says_how_to_go_on() {
    let home = Home::new();
    home.write("node.toml", &format!("{LOOPBACK}[api]\nlisten = \"off\"\n"));
    let id = "ab".repeat(32);
    let mut get = home.command(&["get", &id]);
    let mut getting = get
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut err = BufReader::new(getting.stderr.take().expect("piped"));
    let mut said = String::new();
    while !said.contains("searching") {
        assert_ne!(err.read_line(&mut said).expect("readable"), 0, "{said}");
    }
    signal(&getting, "INT");
    err.read_to_string(&mut said).expect("readable");
    assert!(
        said.contains("run the same command again to resume"),
        "{said}"
    );
    assert_eq!(getting.wait().expect("ends").code(), Some(130));
}
