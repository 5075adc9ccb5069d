//! `init`: a commented `node.toml` for what the node is for, and keys. What exists is never overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use p2p_core::{Keys, NetworkKey};

use super::path_text;
use crate::cli::InitArgs;
use crate::config::{Settings, absolute};
use crate::control::auth;
use crate::control::protocol::Reply;
use crate::exit::Failure;
use crate::output::Printer;

/// The file with `@NAME@` where profiles differ.
const TEMPLATE: &str = include_str!("init.toml");

/// The key of a private network, beside `node.toml`.
const NETWORK_KEY: &str = "swarm.key";

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// A computer at home: finds others by itself, opens the router's port
    Desktop,
    /// A machine with a public address: keeps the DHT, relays for others
    Server,
    /// No packet leaves the local network
    Lan,
}

impl Profile {
    /// The values of this profile, in the order of their marks in the template.
    fn values(self) -> [(&'static str, &'static str); 8] {
        let [
            mdns,
            dht,
            upnp,
            relay,
            lan_only,
            max_peers,
            upload_slots,
            memory,
        ] = match self {
            Self::Desktop => [
                "true", "auto", "true", "client", "false", "256", "16", "256MB",
            ],
            Self::Server => [
                "false", "server", "false", "server", "false", "1024", "64", "1GB",
            ],
            Self::Lan => ["true", "off", "false", "off", "true", "256", "16", "256MB"],
        };
        [
            ("@MDNS@", mdns),
            ("@DHT@", dht),
            ("@UPNP@", upnp),
            ("@RELAY@", relay),
            ("@LAN_ONLY@", lan_only),
            ("@MAX_PEERS@", max_peers),
            ("@UPLOAD_SLOTS@", upload_slots),
            ("@MEMORY@", memory),
        ]
    }
}

/// The commented file of a profile; `shares` is the TOML of that key's value.
fn render(profile: Profile, shares: &str, private: bool) -> String {
    let comment = if private { "" } else { "# " };
    let text = TEMPLATE
        .replace("@SHARES@", shares)
        .replace("@KEY@", &format!("{comment}key = \"{NETWORK_KEY}\""));
    profile
        .values()
        .iter()
        .fold(text, |text, (mark, value)| text.replace(mark, value))
}

pub fn run(args: &InitArgs, printer: &mut Printer) -> Result<u8, Failure> {
    let dir = absolute(&args.dir)?;
    let config = dir.join("node.toml");
    if fs::symlink_metadata(&config).is_ok() {
        return Err(exists(&config));
    }
    let failed =
        |error: io::Error| Failure::io(format!("cannot write {}", config.display()), &error);
    // The key file is not there yet, so the settings are checked without it.
    let settings = Settings::parse(&render(args.profile, "[]", false), &config)?;
    let data_dir = &settings.core.data_dir;

    fs::create_dir_all(&dir).map_err(failed)?;
    if args.private {
        make_network_key(&dir.join(NETWORK_KEY))?;
    }
    let text = render(args.profile, "[]", args.private);
    let keys = Keys::load_or_create(data_dir).map_err(|error| Failure::of("io", &error))?;
    auth::load_or_create_token(&settings.token_file())?;
    // Last, so that a file that is there means that all is there.
    write_new(&config, &text).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(&config),
        _ => failed(error),
    })?;
    printer.reply(&Reply::Initialized {
        config: path_text(&config),
        data_dir: path_text(data_dir),
        peer: keys.node_id().to_string(),
        publisher: keys.publisher().to_string(),
    })?;
    Ok(0)
}

/// One that was copied here is kept: that is how a node joins.
fn make_network_key(path: &Path) -> Result<(), Failure> {
    let made = if fs::symlink_metadata(path).is_ok() {
        NetworkKey::load(path).map(drop)
    } else {
        NetworkKey::generate().and_then(|key| key.write(path))
    };
    made.map_err(|error| Failure::of("io", &error))
}

fn exists(config: &Path) -> Failure {
    Failure::new(
        "exists",
        format!("{} exists; it is not overwritten", config.display()),
    )
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_complete_and_right() {
        for profile in Profile::value_variants() {
            let text = render(*profile, "[]", false);
            assert!(
                !text.contains('@'),
                "{profile:?} leaves a mark open:\n{text}"
            );
            let parsed = Settings::parse(&text, Path::new("/nowhere/node.toml"));
            assert!(parsed.is_ok(), "{profile:?}: {parsed:?}");
        }
    }

    #[test]
    fn the_sample_is_the_desktop_profile() {
        let sample = include_str!("../../../../node.toml");
        assert_eq!(
            sample,
            render(Profile::Desktop, "[\"examples/shared\"]", false),
            "change init.toml and node.toml together"
        );
    }
}
