//! What the user sees: results on stdout, everything else on stderr; for people or, with `--json`, for programs.
//!
//! Names and messages may come from strangers, so whatever could steer a terminal is shown escaped, in JSON too.

mod care;
mod escape;
mod human;
mod progress;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde::Serialize;

use crate::cli::Cli;
use crate::control::protocol::Reply;
use crate::exit::Failure;
use escape::{escape, escape_json};
use progress::ProgressLine;

/// Prints answers as the flags ask for.
#[derive(Debug)]
pub struct Printer {
    json: bool,
    quiet: bool,
    progress: ProgressLine,
}

impl Printer {
    pub fn new(cli: &Cli) -> Self {
        let progress = if cli.json || cli.quiet || cli.no_progress {
            ProgressLine::None
        } else if io::stderr().is_terminal() {
            ProgressLine::bar()
        } else {
            ProgressLine::plain()
        };
        Self {
            json: cli.json,
            quiet: cli.quiet,
            progress,
        }
    }

    /// Prints one object of an answer.
    pub fn reply(&mut self, reply: &Reply) -> Result<(), Failure> {
        match reply {
            Reply::Progress(progress) => self.progress.fetching(progress),
            Reply::Hashing { path, done, total } => self.progress.hashing(path, *done, *total),
            _ => self.end_progress(),
        }
        if self.json {
            return match reply {
                Reply::Hashing { .. } | Reply::Done => Ok(()),
                reply => self.json_line(reply),
            };
        }
        match human::render(reply, self.quiet) {
            Some(text) => write_stdout(&text),
            None => Ok(()),
        }
    }

    /// Prints any object, on a line of its own.
    pub fn json_line(&self, object: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string(object).map_err(|error| unwritable(&error))?;
        write_stdout(&escape_json(&json))
    }

    /// Prints text that is a result.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        write_stdout(text)
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Tells what went wrong.
    pub fn failure(&mut self, failure: &Failure) {
        self.end_progress();
        if failure.is_closed() {
            return;
        }
        if self.json {
            let object = serde_json::to_string(&Reply::Error(failure.clone())).unwrap_or_default();
            // When stdout is gone there is nobody left to tell.
            let _ = write_stdout(&escape_json(&object));
        } else {
            write_stderr(&format!("error: {}", escape_lines(&failure.message)));
        }
    }

    /// Says something that is no result.
    pub fn note(&mut self, text: &str) {
        self.end_progress();
        if !self.json && !self.quiet {
            write_stderr(&escape_lines(text));
        }
    }

    /// Warns, whatever the flags.
    pub fn warn(&mut self, text: &str) {
        self.end_progress();
        write_stderr(&format!("warning: {}", escape_lines(text)));
    }

    /// Says that the user stopped it.
    pub fn interrupted(&mut self, resumable: bool) {
        if resumable && self.json {
            self.failure(&Failure::new(
                "interrupted",
                "interrupted; run the same command again to resume",
            ));
        } else if resumable {
            self.end_progress();
            write_stderr("interrupted; run the same command again to resume");
        } else {
            self.end_progress();
        }
    }

    pub fn end_progress(&mut self) {
        self.progress.end();
    }
}

/// A command line that cannot be understood, or a wish for help; the exit code.
pub fn usage(error: &clap::Error) -> ExitCode {
    let asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    let json = std::env::args_os()
        .skip(1)
        .take_while(|arg| arg != "--")
        .any(|arg| arg == "--json");
    if json && !asked {
        let message = error.render().to_string();
        let message = message.trim().trim_start_matches("error: ");
        let object =
            serde_json::to_string(&Reply::Error(Failure::usage(message))).unwrap_or_default();
        // When stdout is gone there is nobody left to tell.
        let _ = write_stdout(&escape_json(&object));
    } else {
        let _ = error.print();
    }
    ExitCode::from(if asked { 0 } else { 2 })
}

fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// Unlike `println!`, which panics when the reader went away.
fn write_stdout(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::closed(),
            _ => Failure::io("cannot write to standard output", &error),
        })
}

fn write_stderr(text: &str) {
    // There is no other place to complain to.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn unwritable(error: &serde_json::Error) -> Failure {
    Failure::new(
        "error",
        format!("the answer cannot be written as JSON: {error}"),
    )
}
