//! The program as a process: what it prints, where, and how it exits. Nothing here needs a network.

mod common;

use common::Home;

/// Nothing listens on port 1, and nothing of the network is touched.
const QUIET: &str = "[network]\nlisten = []\nmdns = false\ndht = \"off\"\nupnp = false\nrelay = \"off\"\n\
                     [api]\nlisten = \"127.0.0.1:1\"\n";

#[test]
fn usage_errors_exit_with_2() {
    let home = Home::new();
    let id = "ab".repeat(32);
    let lines: [&[&str]; 8] = [
        &["frobnicate"],
        &["get"],
        &["get", "not-an-id"],
        &["get", "p2p1notaticket"],
        &["get", &id, "--timeout", "soon"],
        &["ticket", "abcd"],
        &["--api", "0.0.0.0:1", "id"],
        &["cat", &id, "--range", "9-5"],
    ];
    for line in lines {
        let ran = home.run(line);
        assert_eq!(ran.code(), Some(2), "{line:?}: {}", ran.err());
        assert!(
            ran.out().is_empty(),
            "{line:?} wrote to stdout: {}",
            ran.out()
        );
        assert!(!ran.err().is_empty(), "{line:?} did not say why");
    }
}

#[test]
fn usage_errors_are_objects_with_json() {
    let home = Home::new();
    let ran = home.run(&["--json", "get", "not-an-id"]);
    assert_eq!(ran.code(), Some(2));
    let objects = ran.objects();
    assert_eq!(objects.len(), 1);
    assert_eq!(
        (objects[0]["type"].as_str(), objects[0]["code"].as_str()),
        (Some("error"), Some("usage"))
    );
}

#[test]
fn an_unknown_setting_is_named_with_a_suggestion_and_its_line() {
    let home = Home::new();
    home.write("node.toml", "[network]\nbootsrap = []\n");
    for arguments in [&["config", "check"][..], &["status"], &["run"]] {
        let ran = home.run(arguments);
        assert_eq!(ran.code(), Some(2), "{arguments:?}: {}", ran.err());
        for part in ["node.toml:2", "bootsrap", "did you mean \"bootstrap\"?"] {
            assert!(
                ran.err().contains(part),
                "{part} is missing in {}",
                ran.err()
            );
        }
    }
    let json = home.run(&["--json", "config", "check"]);
    assert_eq!(json.objects()[0]["code"], "config");
}

#[test]
fn a_named_file_must_exist() {
    let home = Home::new();
    let ran = home.run(&["--config", "absent.toml", "config", "check"]);
    assert_eq!(ran.code(), Some(2));
    assert!(ran.err().contains("absent.toml"), "{}", ran.err());
    let by_environment = home
        .command(&["config", "check"])
        .env("P2P_NODE_CONFIG", "absent.toml")
        .output();
    assert_eq!(by_environment.expect("starts").status.code(), Some(2));
}

#[test]
fn commands_about_the_daemon_say_that_none_runs() {
    let home = Home::new();
    home.write("node.toml", QUIET);
    for arguments in [
        &["status"][..],
        &["peers"],
        &["id"],
        &["shares"],
        &["shutdown"],
        &["ls"],
    ] {
        let ran = home.run(arguments);
        assert_eq!(ran.code(), Some(1), "{arguments:?}: {}", ran.err());
        assert!(
            ran.err()
                .contains("no daemon is running (looked at 127.0.0.1:1)"),
            "{}",
            ran.err()
        );
        assert!(ran.err().contains("p2p-node run"), "{}", ran.err());
    }
    let json = home.run(&["--json", "status"]);
    assert_eq!(json.objects()[0]["code"], "no_daemon");
}

#[test]
fn init_writes_settings_and_keys_once() {
    let home = Home::new();
    let ran = home.run(&["--json", "init", "--profile", "server", "there"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.err());
    assert_eq!(ran.objects()[0]["type"], "initialized");
    let config = home.path().join("there/node.toml");
    let written = std::fs::read_to_string(&config).expect("written");
    assert!(written.contains("dht = \"server\""));

    #[cfg(unix)]
    for entry in std::fs::read_dir(home.path().join("there/data")).expect("the data folder") {
        use std::os::unix::fs::PermissionsExt;
        let entry = entry.expect("readable");
        let metadata = entry.metadata().expect("readable");
        if metadata.is_file() {
            let mode = metadata.permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{} is open to others", entry.path().display());
        }
    }

    std::fs::write(&config, format!("{written}# mine\n")).expect("changed");
    let again = home.run(&["init", "there"]);
    assert_eq!(again.code(), Some(13), "{}", again.err());
    assert!(
        std::fs::read_to_string(&config)
            .expect("still there")
            .ends_with("# mine\n")
    );

    let check = home.run(&["--config", "there/node.toml", "config", "check"]);
    assert_eq!(check.code(), Some(0), "{}", check.err());
}

#[test]
fn config_show_tells_the_settings_in_effect() {
    let home = Home::new();
    home.write("node.toml", "[limits]\nupload = \"10MB\"\n");
    let ran = home.run(&["config", "show", "--json"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.err());
    let object = &ran.objects()[0];
    assert_eq!(object["type"], "config");
    assert_eq!(object["limits"]["upload"], "10MB");
    assert_eq!(object["limits"]["download"], "unlimited");
    assert_eq!(object["storage"]["quota"], "50GB");
    assert_eq!(object["api"]["listen"], "127.0.0.1:4780");
    let human = home.run(&["config", "show"]);
    assert!(human.out().contains("upload = \"10MB\""), "{}", human.out());
}

#[test]
fn completions_help_and_version() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = home.run(&["completions", shell]);
        assert_eq!(ran.code(), Some(0));
        assert!(ran.out().contains("p2p-node"), "{shell}");
    }
    assert_eq!(
        home.run(&["--version"]).out().trim(),
        format!("p2p-node {}", env!("CARGO_PKG_VERSION"))
    );
    let help = home.run(&["--help"]);
    assert_eq!(help.code(), Some(0));
    for command in ["run", "share", "get", "peers", "providers"] {
        assert!(
            help.out().contains(command),
            "{command} is missing in the help"
        );
    }
}

/// Without a daemon `get` runs a node of its own; with nobody to ask it ends after the time given.
#[test]
fn get_without_daemon_or_provider_is_not_found() {
    let home = Home::new();
    home.write("node.toml", QUIET);
    let ran = home.run(&["--json", "get", &"ab".repeat(32), "--timeout", "500ms"]);
    assert_eq!(ran.code(), Some(3), "{} {}", ran.out(), ran.err());
    let last = ran.objects().pop().expect("an object");
    assert_eq!(
        (last["type"].as_str(), last["code"].as_str()),
        (Some("error"), Some("not_found"))
    );
}
