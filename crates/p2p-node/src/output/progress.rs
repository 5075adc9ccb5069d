//! Progress on stderr: a bar on a terminal, else a plain line a second at most.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::escape::escape;
use crate::control::protocol::ProgressReply;
use crate::units::{human_duration, human_size};

/// Pause between two plain lines, so that logs stay readable.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Redraws of the bar a second: the eye sees no more.
const DRAWS: u8 = 10;

/// Where progress goes.
#[derive(Debug)]
pub enum ProgressLine {
    None,
    Plain { last: Option<(Instant, String)> },
    Bar(Option<ProgressBar>),
}

impl ProgressLine {
    pub fn bar() -> Self {
        Self::Bar(None)
    }

    pub fn plain() -> Self {
        Self::Plain { last: None }
    }

    pub fn fetching(&mut self, progress: &ProgressReply) {
        let text = describe(progress);
        self.show(
            progress.done,
            progress.size,
            &text,
            progress.state == "complete",
        );
    }

    pub fn hashing(&mut self, path: &str, done: u64, total: u64) {
        let text = format!(
            "reading {} of {}: {}",
            human_size(done),
            human_size(total),
            escape(path)
        );
        self.show(done, Some(total), &text, false);
    }

    fn show(&mut self, done: u64, total: Option<u64>, text: &str, last: bool) {
        match self {
            Self::None => {}
            Self::Bar(bar) => {
                let bar = bar.get_or_insert_with(new_bar);
                bar.set_length(total.unwrap_or(0).max(1));
                bar.set_position(done);
                bar.set_message(text.to_owned());
            }
            Self::Plain { last: before } => {
                let due = before
                    .as_ref()
                    .is_none_or(|(when, said)| when.elapsed() >= LINE_EVERY && said != text);
                // The result that follows says it better than a last line would.
                if due && !last {
                    super::write_stderr(text);
                    *before = Some((Instant::now(), text.to_owned()));
                }
            }
        }
    }

    /// Removes the bar, as the result or a message follows.
    pub fn end(&mut self) {
        match self {
            Self::None => {}
            Self::Plain { last } => *last = None,
            Self::Bar(bar) => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAWS));
    let style = ProgressStyle::with_template("{spinner} {bar:24} {percent:>3}%  {wide_msg}");
    bar.set_style(
        style
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("█▉▊▋▌▍▎▏ "),
    );
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// `"fetching 1.2 MB of 3.4 GB, 12 MB/s, 4m32s left, 3 sources"`, or why nothing moves.
fn describe(progress: &ProgressReply) -> String {
    let mut parts = vec![match progress.size {
        Some(size) => format!(
            "{} {} of {}",
            escape(&progress.state),
            human_size(progress.done),
            human_size(size)
        ),
        None => escape(&progress.state),
    }];
    if let Some(stall) = &progress.stall {
        parts.push(escape(stall));
    } else if progress.rate > 0 {
        parts.push(format!("{}/s", human_size(progress.rate)));
        let left = progress
            .size
            .map_or(0, |size| size.saturating_sub(progress.done));
        if left > 0 {
            parts.push(format!(
                "{} left",
                human_duration(Duration::from_secs(left.div_ceil(progress.rate)))
            ));
        }
    }
    match progress.sources {
        0 => {}
        1 => parts.push("1 source".into()),
        many => parts.push(format!("{many} sources")),
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_in_words() {
        let mut progress = ProgressReply {
            id: "ab".into(),
            name: None,
            done: 1_200_000,
            size: Some(3_400_000_000),
            rate: 12_000_000,
            sources: 3,
            state: "fetching".into(),
            stall: None,
        };
        assert_eq!(
            describe(&progress),
            "fetching 1.2 MB of 3.4 GB, 12 MB/s, 4m44s left, 3 sources"
        );
        progress.stall = Some("waiting for \x1bX".into());
        progress.sources = 1;
        assert_eq!(
            describe(&progress),
            "fetching 1.2 MB of 3.4 GB, waiting for \\u{1b}X, 1 source"
        );
        progress = ProgressReply {
            size: None,
            stall: None,
            rate: 0,
            sources: 0,
            state: "searching".into(),
            ..progress
        };
        assert_eq!(describe(&progress), "searching");
    }
}
