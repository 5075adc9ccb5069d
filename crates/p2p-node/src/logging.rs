//! Logs: to stderr, so that stdout stays for results.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

/// Starts logging as the flags say; `RUST_LOG` overrides them.
pub fn start(cli: &Cli) {
    let daemon = matches!(cli.command, None | Some(Command::Run));
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level(cli, daemon)));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    // The only subscriber of the process; a second could be set by a test harness only.
    let _ = logs.with_target(cli.verbose > 0).try_init();
}

fn level(cli: &Cli, daemon: bool) -> &'static str {
    match (cli.quiet, cli.verbose, daemon) {
        (true, 0, _) => "error",
        (_, 0, false) => "error,p2p_node=warn",
        // The DHT warns whenever it is alone, which is how every network begins.
        (_, 0, true) => "warn,libp2p_kad=error,p2p_node=info,p2p_core=info",
        (_, 1, _) => "info,p2p_node=debug,p2p_core=debug",
        (_, 2.., _) => "debug,p2p_node=trace,p2p_core=trace",
    }
}
