//! `get ID|TICKET`: fetches a file or folder; the same command again resumes.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use p2p_core::{Existing, FetchBuilder, Fetched, Progress};
use tokio::time::MissedTickBehavior;

use super::{Outbox, millis, path_text, require_absolute};
use crate::cli::GetArgs;
use crate::config::absolute;
use crate::context::Context;
use crate::control::protocol::{
    CompleteReply, GetRequest, OnExisting, ProgressReply, Reply, SourceReply, Target,
};
use crate::exit::Failure;

/// Pause between two progress reports: smooth to the eye, cheap to send.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// Patterns of one request.
const MAX_PATTERNS: usize = 1024;

pub fn request(args: GetArgs) -> Result<GetRequest, Failure> {
    globs(&args.include)?;
    let existing = match (args.overwrite, args.rename) {
        (true, _) => OnExisting::Overwrite,
        (false, true) => OnExisting::Rename,
        (false, false) => OnExisting::Refuse,
    };
    let directory = absolute(Path::new("."))?;
    let out = match &args.out {
        Some(out) if ends_in_separator(out) && !out.is_dir() => {
            return Err(Failure::usage(format!(
                "there is no folder {}",
                out.display()
            )));
        }
        Some(out) => Some(absolute(out)?),
        None => None,
    };
    Ok(GetRequest {
        what: args.what,
        out,
        directory,
        existing,
        keep: args.keep,
        include: args.include,
        publisher: args.publisher,
        peers: args.peers,
        timeout_ms: millis(args.timeout),
    })
}

fn ends_in_separator(path: &Path) -> bool {
    path.as_os_str()
        .to_string_lossy()
        .ends_with(std::path::is_separator)
}

pub async fn execute(context: &Context, request: GetRequest, out: &Outbox) -> Result<(), Failure> {
    let fetch = prepare(context, request)?
        .start()
        .await
        .map_err(resumable)?;
    let mut updates = std::pin::pin!(fetch.progress());
    let mut fetching = std::pin::pin!(fetch.into_future());
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut latest: Option<ProgressReply> = None;
    let mut reported = None;
    let mut updates_end = false;
    let fetched = loop {
        tokio::select! {
            biased;
            fetched = &mut fetching => break fetched.map_err(resumable)?,
            update = updates.next(), if !updates_end => match update {
                Some(update) => latest = Some(describe(update)),
                None => updates_end = true,
            },
            _ = ticks.tick() => {
                if latest != reported {
                    reported.clone_from(&latest);
                    if let Some(progress) = &latest {
                        out.send(Reply::Progress(progress.clone())).await?;
                    }
                }
            }
        }
    };
    out.send(Reply::Progress(last_progress(&fetched, latest)))
        .await?;
    out.send(Reply::Complete(complete(&fetched))).await
}

fn prepare(context: &Context, request: GetRequest) -> Result<FetchBuilder, Failure> {
    require_absolute(&request.directory)?;
    let mut fetch = match request.what {
        Target::Id(id) => context.node.fetch(id),
        Target::Ticket(ticket) => context.node.fetch(*ticket),
    };
    fetch = fetch
        .timeout(Duration::from_millis(request.timeout_ms))
        .keep(request.keep)
        .existing(match request.existing {
            OnExisting::Refuse => Existing::Refuse,
            OnExisting::Overwrite => Existing::Overwrite,
            OnExisting::Rename => Existing::Rename,
        });
    fetch = match request.out {
        None => fetch.in_dir(request.directory),
        Some(out) => {
            require_absolute(&out)?;
            fetch.to(out)
        }
    };
    if !request.include.is_empty() {
        let globs = globs(&request.include)?;
        fetch = fetch.include(move |path| globs.is_match(path));
    }
    if let Some(publisher) = request.publisher {
        fetch = fetch.publisher(publisher);
    }
    for peer in request.peers {
        fetch = fetch.peer(peer);
    }
    Ok(fetch)
}

/// Patterns as in `.gitignore`: one without a slash matches a name at any depth, one with a slash the whole path.
fn globs(patterns: &[String]) -> Result<GlobSet, Failure> {
    if patterns.len() > MAX_PATTERNS {
        return Err(Failure::usage(format!(
            "at most {MAX_PATTERNS} --include patterns are possible"
        )));
    }
    let bad = |error: globset::Error| Failure::usage(format!("--include: {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let anywhere = if pattern.contains('/') {
            pattern.clone()
        } else {
            format!("**/{pattern}")
        };
        set.add(
            GlobBuilder::new(&anywhere)
                .literal_separator(true)
                .build()
                .map_err(bad)?,
        );
    }
    set.build().map_err(bad)
}

/// A fetch that the end of the node cut short can go on later, which is what its exit code says.
fn resumable(error: p2p_core::FetchError) -> Failure {
    let failure = Failure::from(error);
    if failure.code == "stopped" {
        return Failure::new(
            "interrupted",
            "the node stopped; run the same command again to resume",
        );
    }
    with_advice(failure)
}

/// Says how to make room, if that is what is missing.
fn with_advice(failure: Failure) -> Failure {
    if failure.code != "no_space" {
        return failure;
    }
    let message = format!(
        "{}. To make room: `rm ID --delete-files`, `pin rm ID`, `repo gc --all`, or another quota, min_free or evict \
         under [storage] and then `config reload`",
        failure.message
    );
    Failure { message, ..failure }
}

fn describe(progress: Progress) -> ProgressReply {
    ProgressReply {
        id: progress.id.to_string(),
        name: progress.name,
        done: progress.done,
        size: progress.size,
        rate: progress.rate,
        sources: progress.sources,
        state: progress.state.to_string(),
        stall: progress.stall,
    }
}

/// Ends the bar at its full length, also when the fetch was faster than the first report.
fn last_progress(fetched: &Fetched, latest: Option<ProgressReply>) -> ProgressReply {
    let sources = u32::try_from(fetched.sources.len()).unwrap_or(u32::MAX);
    ProgressReply {
        id: fetched.id.to_string(),
        name: latest.and_then(|progress| progress.name),
        done: fetched.size,
        size: Some(fetched.size),
        rate: (fetched.size as f64 / fetched.elapsed.as_secs_f64().max(0.001)) as u64,
        sources,
        state: "complete".to_owned(),
        stall: None,
    }
}

fn complete(fetched: &Fetched) -> CompleteReply {
    let source = |source: &p2p_core::SourceBytes| SourceReply {
        peer: source.peer.to_string(),
        bytes: source.bytes,
    };
    CompleteReply {
        id: fetched.id.to_string(),
        path: path_text(&fetched.path),
        size: fetched.size,
        seconds: fetched.elapsed.as_secs_f64(),
        sources: fetched.sources.iter().map(source).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_those_of_gitignore() {
        let matches = |pattern: &str, path: &str| {
            globs(&[pattern.to_owned()])
                .map(|set| set.is_match(path))
                .ok()
        };
        assert_eq!(matches("*.txt", "a.txt"), Some(true));
        assert_eq!(matches("*.txt", "deep/er/a.txt"), Some(true));
        assert_eq!(matches("docs/*.txt", "docs/a.txt"), Some(true));
        assert_eq!(matches("docs/*.txt", "docs/x/a.txt"), Some(false));
        assert_eq!(matches("docs/**", "docs/x/a.txt"), Some(true));
        assert_eq!(matches("*.txt", "a.txt.part"), Some(false));
        assert_eq!(matches("[", "a"), None);
    }
}
