//! The rules of the house that the compiler does not hold: who may import what. Each violation is named by file and line.
//!
//! Tests (from `#[cfg(test)]` on, and files that are only compiled for tests) may do as they like, and comments do not count.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A line of code: where it is, and what it says without its comment.
struct Line {
    file: String,
    number: usize,
    code: String,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn is_for_tests(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let in_tests = path
        .parent()
        .is_some_and(|folder| folder.ends_with("tests"));
    in_tests || name.ends_with("tests") || name.ends_with("simulation")
}

/// The code of p2p-core, or of a part of it such as `net` or `node/driver.rs`, without tests.
fn code(part: &str) -> Vec<Line> {
    let root = workspace().join("crates/p2p-core/src");
    let mut files = Vec::new();
    let start = root.join(part);
    if start.is_dir() {
        sources(&start, &mut files);
    } else {
        files.push(start);
    }
    files.sort();
    let mut lines = Vec::new();
    for path in files.iter().filter(|path| !is_for_tests(path)) {
        let text =
            fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = path.strip_prefix(&root).unwrap().display().to_string();
        for (number, line) in (1..).zip(text.lines()) {
            // A module for tests ends the code of a file; a single declaration such as `mod tests;` does not.
            if line.trim() == "mod tests {" {
                break;
            }
            let code = without_texts(line.split("//").next().unwrap_or_default());
            lines.push(Line {
                file: file.clone(),
                number,
                code,
            });
        }
    }
    assert!(
        !lines.is_empty(),
        "no code found in {part}: the folders have moved, and this test with them"
    );
    lines
}

/// A line of code without what stands in its quotes: a message may speak of libp2p.
fn without_texts(code: &str) -> String {
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// Whether a path such as `std::fs` or `libp2p` occurs in code, not as a part of a longer word.
fn mentions(code: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        // `libp2p_swarm` is as much an import of libp2p as `libp2p::swarm` is.
        !before.is_some_and(is_name) && (word == "libp2p" || !after.is_some_and(is_name))
    })
}

fn offences(lines: &[Line], words: &[&str], allowed: impl Fn(&Line) -> bool) -> Vec<String> {
    let mut offences = Vec::new();
    for line in lines {
        for word in words {
            if mentions(&line.code, word) && !allowed(line) {
                offences.push(format!(
                    "{}:{}: {word}: {}",
                    line.file,
                    line.number,
                    line.code.trim()
                ));
            }
        }
    }
    offences
}

#[track_caller]
fn assert_none(offences: Vec<String>, rule: &str) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}

#[test]
fn only_net_imports_libp2p() {
    let found = offences(&code(""), &["libp2p"], |line| line.file.starts_with("net/"));
    assert_none(found, "libp2p is imported outside net/");
    let inside = offences(&code("net"), &["libp2p"], |_| false);
    assert!(
        !inside.is_empty(),
        "not even net/ imports libp2p: this test sees nothing"
    );
}

#[test]
fn only_the_driver_selects() {
    let found = offences(&code(""), &["select!"], |line| {
        line.file == "node/driver.rs"
    });
    assert_none(found, "select! outside node/driver.rs");
    let driver = offences(&code("node/driver.rs"), &["select!"], |_| false);
    assert_eq!(driver.len(), 1, "one loop, one select!: {driver:?}");
}

#[test]
fn decisions_do_no_io() {
    let io = [
        "tokio",
        "libp2p",
        "std::fs",
        "fs::",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "Instant::now",
        "SystemTime::now",
        "thread::sleep",
        "thread::spawn",
        "getrandom",
    ];
    for part in ["content", "download", "names"] {
        assert_none(
            offences(&code(part), &io, |_| false),
            "a module that only decides does I/O or reads the clock",
        );
    }
    // Pure as well; they are single files.
    for part in ["announce.rs", "peers.rs", "serve.rs", "watch.rs"] {
        assert_none(
            offences(&code(part), &io, |_| false),
            "a module that only decides does I/O or reads the clock",
        );
    }
}

#[test]
fn the_store_asks_its_file_system() {
    let of_the_system = [
        "std::fs",
        "rustix",
        "cap_std",
        "tokio::fs",
        "std::os::unix::fs",
        "canonicalize",
        "symlink_metadata",
        "exists()",
        "is_dir()",
    ];
    let found = offences(&code("store"), &of_the_system, |line| {
        line.file.starts_with("store/fs/")
    });
    assert_none(found, "the store touches files past its file system");
    let inside = offences(&code("store/fs"), &of_the_system, |_| false);
    assert!(!inside.is_empty(), "not even store/fs/ does");
}

#[test]
fn dependencies_point_down() {
    // (part, what it must not know)
    let rules: [(&str, &[&str]); 5] = [
        (
            "content",
            &[
                "crate::net",
                "crate::store",
                "crate::node",
                "crate::download",
                "crate::peers",
                "crate::config",
            ],
        ),
        ("download", &["crate::net", "crate::store", "crate::node"]),
        ("names", &["crate::net", "crate::store", "crate::node"]),
        ("net", &["crate::store", "crate::node", "crate::download"]),
        ("store", &["crate::net", "crate::node", "crate::download"]),
    ];
    for (part, above) in rules {
        assert_none(
            offences(&code(part), above, |_| false),
            &format!("{part} knows what is above or beside it"),
        );
    }
    // In a list such as `use crate::{net::…, store::…}` the words stand apart.
    for (part, other) in [("net", "store::"), ("store", "net::")] {
        let lines = code(part);
        let allowed = |line: &Line| {
            // std's and libp2p's own modules of that name.
            [
                "std::net::",
                "tokio::net::",
                "kad::store::",
                "store::{Error",
                "store::RecordStore",
            ]
            .iter()
            .any(|own| line.code.contains(own))
        };
        assert_none(
            offences(&lines, &[other], allowed),
            "net and store know each other",
        );
    }
}

#[test]
fn examples_show_that_libp2p_is_not_needed() {
    let manifest = fs::read_to_string(workspace().join("examples/Cargo.toml")).unwrap();
    assert!(
        manifest.contains("p2p-core.workspace"),
        "the examples do not even use p2p-core"
    );
    for (number, line) in (1..).zip(manifest.lines()) {
        assert!(
            !line.contains("libp2p"),
            "examples/Cargo.toml:{number}: {line}"
        );
    }
}

#[test]
fn this_test_tells_words_apart() {
    assert!(mentions("use libp2p::Swarm;", "libp2p"));
    assert!(mentions("use libp2p_swarm::Swarm;", "libp2p"));
    assert!(!mentions("fn like_libp2p()", "libp2p"));
    assert!(mentions(
        "let now = std::time::Instant::now();",
        "Instant::now"
    ));
    assert!(!mentions("Instant::nowhere()", "Instant::now"));
    assert!(mentions("tokio::select! {", "select!"));
    assert!(!mentions("reselect!()", "select!"));
    assert_eq!(
        without_texts(r#"f("not libp2p", Swarm::new())"#),
        r#"f("", Swarm::new())"#
    );
}
