//! `completions SHELL`: a completion script on standard output.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Failure;

pub fn run(shell: Shell) -> Result<u8, Failure> {
    // Written at once, as the generator itself panics when its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "p2p-node", &mut script);
    match std::io::stdout().write_all(&script) {
        Ok(()) => Ok(0),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::closed()),
        Err(error) => Err(Failure::io("cannot write to standard output", &error)),
    }
}
