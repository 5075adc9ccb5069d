use std::path::{Path, PathBuf};

use p2p_core::Audience;

use super::*;

fn parse(text: &str) -> Result<Settings, Failure> {
    Settings::parse(text, Path::new("/etc/p2p/node.toml"))
}

fn complaint(text: &str) -> String {
    let failure = parse(text).expect_err("a wrong file");
    assert_eq!(failure.exit_code(), 2);
    failure.message
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest() {
    let text = "data_dir = \"x\"\n\n[network]\nmdsn = true\n";
    assert_eq!(
        complaint(text),
        "/etc/p2p/node.toml:4: unknown key \"mdsn\"; did you mean \"mdns\"?"
    );
    let message = complaint("[limits]\ncolour = 1\n");
    assert!(
        message.contains(":2: unknown key \"colour\"; known here: upload, download"),
        "{message}"
    );
    let message = complaint("[netwrok]\n");
    assert!(message.contains("did you mean \"network\"?"), "{message}");
    let message = complaint("[[share]]\npath = \"a\"\nunlistd = true\n");
    assert!(
        message.contains(":3: unknown key \"unlistd\"; did you mean \"unlisted\"?"),
        "{message}"
    );
}

#[test]
fn a_wrong_value_is_named_with_its_line() {
    let message = complaint("[network]\ndht = \"sever\"\n");
    assert!(
        message.contains(":2: unknown value \"sever\"; did you mean \"server\"?"),
        "{message}"
    );
    let message = complaint("[storage]\nquota = \"many\"\n");
    assert!(message.contains(":2: \"many\" is not a size"), "{message}");
    let message = complaint("[network]\n\nlisten = [\"nonsense\"]\n");
    assert!(
        message.contains(":3:") && message.contains("nonsense"),
        "{message}"
    );
    let message = complaint("[api]\nlisten = \"0.0.0.0:4780\"\n");
    assert!(message.contains("other machines"), "{message}");
    let message = complaint("shares = 3\n");
    assert!(message.contains(":1:"), "{message}");
    assert!(complaint("this is no toml").contains(":1:"));
}

#[test]
fn every_problem_is_told_at_once() {
    let message =
        complaint("[limits]\nupload_slots = 0\nmax_peers = 0\n[trust]\npolicy = \"trusted\"\n");
    for part in ["upload_slots", "max_peers", "trust.publishers"] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }
}

#[test]
fn publishers_without_the_policy_are_warned_about() {
    let key = format!("ed25519:{}", "a".repeat(52));
    // Whether this very key is valid is the library's business; both outcomes are checked elsewhere.
    if let Ok(settings) = parse(&format!("[trust]\npublishers = [\"{key}\"]\n")) {
        assert_eq!(settings.warnings.len(), 1);
    }
}

#[test]
fn paths_count_from_the_file() {
    let text = "data_dir = \"d\"\nshares = [\"a\", \"/b\"]\n[api]\nlisten = \"unix:d/s\"\n[[share]]\npath = \"c\"\nwatch = true\n";
    let settings = parse(text).expect("a right file");
    assert_eq!(settings.core.data_dir, Path::new("/etc/p2p/d"));
    let paths: Vec<PathBuf> = settings
        .shares
        .iter()
        .map(|share| share.path.clone())
        .collect();
    assert_eq!(
        paths,
        [
            Path::new("/etc/p2p/a"),
            Path::new("/b"),
            Path::new("/etc/p2p/c")
        ]
    );
    assert!(
        settings
            .shares
            .iter()
            .map(|share| share.watch)
            .eq([false, false, true])
    );
    assert_eq!(settings.api, Endpoint::Unix("/etc/p2p/d/s".into()));
}

/// The sample promises that each line shows its default.
#[test]
fn the_sample_shows_the_defaults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("node.toml");
    let text = std::fs::read_to_string(&path).expect("the sample is in the repository");
    let mut sample: ConfigFile = toml::from_str(&text).expect("the sample is right");
    assert_eq!(
        std::mem::take(&mut sample.shares),
        [PathBuf::from("examples/shared")]
    );
    assert_eq!(sample, ConfigFile::default());

    let core = p2p_core::Config::default();
    let told = sample.to_core(TrustPolicy::Any);
    assert_eq!(format!("{told:?}"), format!("{core:?}"));
}

#[test]
fn what_is_shown_reads_back() {
    let text =
        "shares = [\"a\"]\n[limits]\nupload = \"1500kB\"\n[[share]]\npath = \"c\"\nname = \"n\"\n";
    let settings = parse(text).expect("a right file");
    let shown = toml::to_string(&settings.written).expect("writable");
    assert_eq!(
        parse(&shown).expect("what was shown").written,
        settings.written
    );
}

#[test]
fn a_share_can_be_kept_out_of_the_catalog_by_its_policy() {
    let text = "[[share]]\npath = \"a\"\npolicy = \"unlisted\"\n[[share]]\npath = \"b\"\n";
    let settings = parse(text).expect("a right file");
    let unlisted: Vec<bool> = settings.shares.iter().map(|share| share.unlisted).collect();
    assert_eq!(unlisted, [true, false]);
    let message = complaint("[[share]]\npath = \"a\"\npolicy = \"friends\"\n");
    assert!(message.contains("unlisted"), "{message}");
}

#[test]
fn a_share_can_be_for_the_local_network_or_for_some_peers() {
    let peer = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let text = format!(
        "[[share]]\npath = \"a\"\npolicy = \"lan\"\n[[share]]\npath = \"b\"\npolicy = [\"{peer}\"]\n"
    );
    let settings = parse(&text).expect("a right file");
    let peers = Audience::Peers([peer.parse().unwrap()].into());
    let audiences = settings.shares.iter().map(|share| share.audience.clone());
    assert_eq!(audiences.collect::<Vec<_>>(), [Audience::Lan, peers]);
    let shown = toml::to_string(&settings.written).expect("writable");
    assert_eq!(parse(&shown).unwrap().written, settings.written);
    let message = complaint("[[share]]\npath = \"a\"\npolicy = [\"me\"]\n");
    assert!(message.contains("\"me\" is no peer id"), "{message}");
}
