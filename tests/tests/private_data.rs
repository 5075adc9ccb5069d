//! The data directory: its secrets are its owner's, and it belongs to one node at a time.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use p2p_tests::Sandbox;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn secrets_can_be_read_by_their_owner_only() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.home("node").start();
    let data = daemon.home().data_dir();
    assert_eq!(mode(&data), 0o700);
    for name in ["node.key", "publisher.key", "api.token"] {
        let path = data.join(name);
        assert_eq!(mode(&path), 0o600, "{name}");
        assert_eq!(
            fs::metadata(&path).unwrap().uid(),
            fs::metadata(sandbox.path("node")).unwrap().uid()
        );
    }
    assert_eq!(mode(&daemon.home().dir().join("api.sock")), 0o600);
    let (peer, publisher) = (daemon.peer().to_owned(), daemon.publisher().to_owned());
    let again = daemon.stop().start();
    assert_eq!(
        (again.peer(), again.publisher()),
        (peer.as_str(), publisher.as_str()),
        "a node stays who it is"
    );

    // Neither is a secret in what it prints and logs.
    let key = fs::read_to_string(data.join("node.key")).unwrap();
    let status = again.run(["status"]);
    assert!(!String::from_utf8_lossy(&status.expect_code(0).bytes()).contains(key.trim()));
}

#[test]
fn a_data_directory_belongs_to_one_daemon() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.home("node").start();
    // With another socket, so that it is the directory alone that is contested.
    let second = daemon
        .home()
        .clone()
        .set("api.listen", "\"unix:other.sock\"");
    let ran = second.run(["run"]);
    ran.expect_failure(1, "locked");
    let message = ran.only("error")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(&format!("process {}", daemon.pid())),
        "{message}"
    );
    assert!(
        message.contains(daemon.home().data_dir().to_str().unwrap()),
        "{message}"
    );
    // The one that runs is none the worse.
    daemon.run(["status"]).expect_code(0);

    // A crash leaves no lock behind.
    let home = daemon.kill();
    let again = home.set("api.listen", "\"unix:api.sock\"").start();
    again.stop();
}
