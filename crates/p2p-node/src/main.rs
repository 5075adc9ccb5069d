//! `p2p-node`: the daemon and the command line over `p2p-core`.
//!
//! A command becomes a [`control::protocol::Request`], which [`commands`] carries out: in the running daemon if there is
//! one, else in this process ([`session`]). The answer is a stream of objects that [`output`] prints for people or as
//! JSON. [`exit`] says how it all ended.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod config;
mod context;
mod control;
mod daemon;
mod exit;
mod logging;
mod output;
mod reload;
mod session;
mod signals;
mod units;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cli::Cli;
use exit::Failure;
use output::Printer;

/// How long blocking work may linger once the result is out: its loss costs nothing that is not redone.
const LINGER: Duration = Duration::from_millis(200);

/// The GNU allocator gives memory at the end of its heap back beyond twice the largest block that it saw freed, at first
/// 128 KiB (mallopt(3), `M_TRIM_THRESHOLD`). The frames of one busy connection are more, and a fifth of a receiver's time
/// went into giving their pages back and getting them again (docs/benchmarks.md).
const WORKING_MEMORY: usize = 4 * 1024 * 1024;

fn main() -> ExitCode {
    drop(std::hint::black_box(vec![0_u8; WORKING_MEMORY]));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    logging::start(&cli);
    let mut printer = Printer::new(&cli);
    let code = run(cli, &mut printer).unwrap_or_else(|failure| {
        printer.failure(&failure);
        failure.exit_code()
    });
    ExitCode::from(code)
}

fn run(cli: Cli, printer: &mut Printer) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start", &error))?;
    let outcome = runtime.block_on(commands::run(cli, printer));
    runtime.shutdown_timeout(LINGER);
    outcome
}
