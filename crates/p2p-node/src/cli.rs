//! The command line as typed: clap types only.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use p2p_core::{Address, ContentId, FeedId, NodeId, PublisherKey};

use crate::commands::init::Profile;
use crate::config::policy::SharePolicy;
use crate::control::endpoint::Endpoint;
use crate::control::protocol::{ByteRange, Target};
use crate::units::parse_duration;

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 error, 2 usage or configuration, 3 not found (no provider), 4 network, 5 timeout, 6 verification or
signature failed, 7 interrupted (resumable), 8 refused by policy, 9 disk or quota full, 13 target exists, 130 Ctrl-C.

Settings come from --config, ./node.toml or ~/.config/p2p-node/node.toml, whichever is there first. Without a running
daemon, get, cat, share and `ls TICKET` start a node of their own.";

/// Shares files and folders between peers, without a server or a tracker.
#[derive(Debug, Parser)]
#[command(name = "p2p-node", version, after_long_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    /// The settings to use instead of those found in the usual places
    #[arg(long, global = true, env = "P2P_NODE_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath, hide_env = true)]
    pub config: Option<PathBuf>,

    /// Where the daemon listens: 127.0.0.1:PORT or unix:PATH
    #[arg(long, global = true, env = "P2P_NODE_API", value_name = "ADDR", value_parser = endpoint, hide_env = true)]
    pub api: Option<Endpoint>,

    /// Print JSON objects, one a line
    #[arg(long, global = true, env = "P2P_NODE_JSON", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new(), hide_env = true)]
    pub json: bool,

    /// Print the result only
    #[arg(short, long, global = true, env = "P2P_NODE_QUIET", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new(), hide_env = true)]
    pub quiet: bool,

    /// Log more to stderr; twice for everything
    #[arg(short, long, global = true, env = "P2P_NODE_VERBOSE", action = ArgAction::Count, hide_env = true)]
    pub verbose: u8,

    /// Show no progress
    #[arg(long, global = true, env = "P2P_NODE_NO_PROGRESS", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new(), hide_env = true)]
    pub no_progress: bool,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground, until Ctrl-C (this is what happens without a command)
    Run,
    /// Write a commented node.toml and make keys; never overwrites
    Init(InitArgs),
    /// Share files or folders where they are
    #[command(visible_alias = "send")]
    Share(ShareArgs),
    /// Offer something no longer; the file stays
    Unshare {
        /// An id, or the path that was shared
        #[arg(value_name = "ID|PATH")]
        what: String,
    },
    /// List what is shared
    Shares,
    /// Fetch a file or folder; the same command again resumes
    #[command(visible_aliases = ["receive", "recv"])]
    Get(GetArgs),
    /// Write verified bytes to stdout while they are fetched
    Cat(CatArgs),
    /// List what is held here, the files of a folder elsewhere, or what a peer shares
    Ls(LsArgs),
    /// Search by name: local network, connected peers, DHT
    Find {
        /// Part of the name
        text: String,
        /// How long to search
        #[arg(long, env = "P2P_NODE_TIMEOUT", default_value = "5s", value_parser = parse_duration, hide_env = true)]
        timeout: Duration,
    },
    /// Names whose content changes: the same link, new content
    Feed(FeedArgs),
    /// Forget something held here; its files stay unless told
    Rm {
        #[arg(value_name = "ID")]
        id: ContentId,
        /// Delete its files too
        #[arg(long, env = "P2P_NODE_DELETE_FILES", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
        delete_files: bool,
    },
    /// Keep something from being deleted to make room
    Pin(PinArgs),
    /// Look after the store: collect, count, verify
    Repo(RepoArgs),
    /// Say who has something
    Providers {
        #[arg(value_name = "ID")]
        what: Target,
        /// How long to search
        #[arg(long, env = "P2P_NODE_TIMEOUT", default_value = "10s", value_parser = parse_duration, hide_env = true)]
        timeout: Duration,
    },
    /// List the peers
    Peers {
        /// Go on, and tell who comes and leaves
        #[arg(long, env = "P2P_NODE_WATCH", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
        watch: bool,
    },
    /// Connect to a peer
    Connect {
        /// A multiaddr that ends in /p2p/PEER
        #[arg(value_name = "ADDR")]
        address: Address,
    },
    /// Say who this node is and where it can be reached
    Id,
    /// Print a fresh ticket for something shared here
    Ticket {
        #[arg(value_name = "ID")]
        id: ContentId,
    },
    /// Show the daemon's numbers
    Status,
    /// Say whether others can get something, and why not
    Check {
        #[arg(value_name = "ID")]
        id: ContentId,
        /// How long to ask around
        #[arg(long, env = "P2P_NODE_TIMEOUT", default_value = "20s", value_parser = parse_duration, hide_env = true)]
        timeout: Duration,
    },
    /// Say what the network allows: whether and how others reach the daemon, and what to do
    Doctor,
    /// Show or check the settings
    Config(ConfigArgs),
    /// Print a completion script
    Completions { shell: Shell },
    /// Stop the daemon
    Shutdown,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// What the node is for
    #[arg(long, env = "P2P_NODE_PROFILE", value_enum, default_value_t = Profile::Desktop, hide_env = true)]
    pub profile: Profile,
    /// Make a private network: writes swarm.key too, which the other nodes need
    #[arg(long, env = "P2P_NODE_PRIVATE", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub private: bool,
    /// The folder to write to
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct ShareArgs {
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Keep a copy, so that the original may change or go
    #[arg(long, env = "P2P_NODE_COPY", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub copy: bool,
    /// Offer it under another name
    #[arg(long, env = "P2P_NODE_NAME", hide_env = true)]
    pub name: Option<String>,
    /// Offer it only to those who have the id or ticket: no catalog, no search
    #[arg(long, env = "P2P_NODE_UNLISTED", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub unlisted: bool,
    /// Who gets it: public, unlisted, lan, or peer ids with commas in between
    #[arg(
        long,
        value_name = "WHO",
        default_value = "public",
        env = "P2P_NODE_POLICY",
        hide_env = true
    )]
    pub policy: SharePolicy,
    /// Share the times and executable bits of files too, for those who `get --keep`; a folder then has another id
    #[arg(long, env = "P2P_NODE_KEEP", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub keep: bool,
    /// Keep up with it while the daemon runs: new, changed, moved and deleted files (in node.toml: always)
    #[arg(long, conflicts_with = "copy", env = "P2P_NODE_WATCH", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    #[arg(value_name = "ID|TICKET")]
    pub what: Target,
    /// Where to put it; inside, if it is a folder [default: its own name, here]
    #[arg(short, long, value_hint = ValueHint::AnyPath, env = "P2P_NODE_OUT", hide_env = true)]
    pub out: Option<PathBuf>,
    /// Replace the target if it exists
    #[arg(long, conflicts_with = "rename", env = "P2P_NODE_OVERWRITE", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub overwrite: bool,
    /// Take a free name if the target exists
    #[arg(long, env = "P2P_NODE_RENAME", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub rename: bool,
    /// Keep the times and executable bits that came with `share --keep`
    #[arg(long, env = "P2P_NODE_KEEP", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    pub keep: bool,
    /// Fetch only these files of a folder, such as '*.pdf'; may be given more than once
    #[arg(long, value_name = "GLOB", env = "P2P_NODE_INCLUDE", hide_env = true)]
    pub include: Vec<String>,
    /// Accept it from this publisher only
    #[arg(long, value_name = "KEY", env = "P2P_NODE_PUBLISHER", hide_env = true)]
    pub publisher: Option<PublisherKey>,
    /// Ask this peer too; may be given more than once
    #[arg(
        long = "peer",
        value_name = "ADDR",
        env = "P2P_NODE_PEER",
        hide_env = true
    )]
    pub peers: Vec<Address>,
    /// How long to wait for a provider, or for data from those found
    #[arg(long, env = "P2P_NODE_TIMEOUT", default_value = "30s", value_parser = parse_duration, hide_env = true)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct CatArgs {
    #[arg(value_name = "ID|TICKET")]
    pub what: Target,
    /// Only these bytes, both included: A-B, A- or -COUNT
    #[arg(
        long,
        value_name = "A-B",
        allow_hyphen_values = true,
        env = "P2P_NODE_RANGE",
        hide_env = true
    )]
    pub range: Option<ByteRange>,
    /// How long to wait for a provider, or for data from those found
    #[arg(long, env = "P2P_NODE_TIMEOUT", default_value = "30s", value_parser = parse_duration, hide_env = true)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    #[arg(value_name = "ID|TICKET")]
    pub what: Option<Target>,
    /// List what this peer shares publicly
    #[arg(long, conflicts_with = "what", env = "P2P_NODE_PEER", hide_env = true)]
    pub peer: Option<NodeId>,
    /// How long to wait for a provider
    #[arg(long, env = "P2P_NODE_TIMEOUT", default_value = "30s", value_parser = parse_duration, hide_env = true)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct FeedArgs {
    #[command(subcommand)]
    pub action: FeedAction,
}

#[derive(Debug, Clone, Subcommand)]
pub enum FeedAction {
    /// Have a feed of this node's publisher stand for this content from now on
    Publish {
        name: String,
        #[arg(value_name = "ID")]
        id: ContentId,
    },
    /// Say what a feed stands for: what is known, at once, or what somebody tells
    Resolve {
        #[arg(value_name = "PUBLISHER/NAME")]
        feed: FeedId,
        /// Ask everybody first
        #[arg(long, env = "P2P_NODE_FRESH", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
        fresh: bool,
        /// How long to ask
        #[arg(long, env = "P2P_NODE_TIMEOUT", default_value = "10s", value_parser = parse_duration, hide_env = true)]
        timeout: Duration,
    },
    /// Keep up with a feed, also after this command and over restarts, and serve it to others
    Follow {
        #[arg(value_name = "PUBLISHER/NAME")]
        feed: FeedId,
        /// Fetch each value into this folder while the command runs
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "P2P_NODE_TO", hide_env = true)]
        to: Option<PathBuf>,
    },
    /// Keep up with it no longer
    Unfollow {
        #[arg(value_name = "PUBLISHER/NAME")]
        feed: FeedId,
    },
    /// List the feeds that are published, followed, or were looked up
    Ls,
}

#[derive(Debug, Args)]
pub struct PinArgs {
    #[command(subcommand)]
    pub action: PinAction,
}

#[derive(Debug, Clone, Subcommand)]
pub enum PinAction {
    /// Pin what is here; a folder with all its files
    Add {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<ContentId>,
    },
    /// Take pins back
    Rm {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<ContentId>,
    },
    /// List what is pinned
    Ls,
}

#[derive(Debug, Args)]
pub struct RepoArgs {
    #[command(subcommand)]
    pub action: RepoAction,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum RepoAction {
    /// Remove what nothing refers to
    Gc {
        /// Also every download that may be deleted to make room
        #[arg(long, env = "P2P_NODE_ALL", hide_env = true, action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
        all: bool,
        /// Spare what came or was used within this time
        #[arg(long, env = "P2P_NODE_GRACE", default_value = "1d", value_parser = parse_duration, hide_env = true)]
        grace: Duration,
    },
    /// Count what is in the store, by kind
    Stat,
    /// Hash everything again; what is damaged is served no longer, and kept
    Verify,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub action: ConfigAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ConfigAction {
    /// Print the settings in effect, defaults included
    Show,
    /// Say whether the settings are right
    Check,
    /// Have the daemon read its settings again and apply what can change while it runs (as SIGHUP does)
    Reload,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse().map_err(|error| format!("{error}"))?;
    endpoint.check()?;
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn aliases_and_no_command() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        assert!(matches!(parse("p2p-node"), Ok(None)));
        assert!(matches!(
            parse("p2p-node send x"),
            Ok(Some(Command::Share(_)))
        ));
        let id = "ab".repeat(32);
        for name in ["get", "receive", "recv"] {
            assert!(matches!(
                parse(&format!("p2p-node {name} {id} --timeout 1m")),
                Ok(Some(Command::Get(_)))
            ));
        }
        assert!(parse(&format!("p2p-node get {id} --overwrite --rename")).is_err());
        assert!(parse("p2p-node get nonsense").is_err());
        assert!(parse("p2p-node --api 0.0.0.0:1 id").is_err());
        assert!(parse(&format!("p2p-node cat {id} --range -5")).is_ok());
        assert!(parse(&format!("p2p-node pin add {id} {id}")).is_ok());
        assert!(parse("p2p-node pin rm").is_err() && parse("p2p-node pin ls").is_ok());
        assert!(parse("p2p-node repo gc --all --grace 0s").is_ok());
    }
}
