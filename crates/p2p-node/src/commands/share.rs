//! `share PATH…`: offers files and folders where they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_core::Shared;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{Outbox, kind_name, path_text, require_absolute};
use crate::cli::ShareArgs;
use crate::config::absolute;
use crate::context::Context;
use crate::control::protocol::{Reply, ShareRequest, SharedReply, SkippedReply};
use crate::exit::Failure;

/// Pause between two progress reports: smooth to the eye, cheap to send.
const REPORT_EVERY: Duration = Duration::from_millis(200);

pub fn request(args: ShareArgs) -> Result<ShareRequest, Failure> {
    if args.name.is_some() && args.paths.len() > 1 {
        return Err(Failure::usage(
            "--name names one file or folder; share the others by a command of their own",
        ));
    }
    let paths = args
        .paths
        .iter()
        .map(|path| absolute(path))
        .collect::<Result<_, _>>()?;
    Ok(ShareRequest {
        paths,
        copy: args.copy,
        name: args.name,
        unlisted: args.unlisted || args.policy.is_unlisted(),
        policy: args.policy,
        watch: args.watch,
        keep: args.keep,
    })
}

/// Shares each path, also when one before it failed; each failure is an object of its own.
pub async fn execute(
    context: &Context,
    request: ShareRequest,
    out: &Outbox,
) -> Result<(), Failure> {
    for path in &request.paths {
        if let Err(failure) = share_one(context, path, &request, out).await {
            out.send(Reply::Error(failure)).await?;
        }
    }
    Ok(())
}

async fn share_one(
    context: &Context,
    path: &Path,
    request: &ShareRequest,
    out: &Outbox,
) -> Result<(), Failure> {
    require_absolute(path)?;
    let (progress, mut latest) = watch::channel((0, 0));
    let mut share = context
        .node
        .share(path)
        .copy(request.copy)
        .unlisted(request.unlisted)
        .watch(request.watch)
        .keep(request.keep)
        .audience(request.policy.audience());
    if let Some(name) = &request.name {
        share = share.name(name.clone());
    }
    let share = share.on_progress(move |done, total| {
        progress.send_replace((done, total));
    });

    let mut sharing = share.into_future();
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let shared = loop {
        tokio::select! {
            biased;
            shared = &mut sharing => break shared.map_err(|error| failure(error.into(), request))?,
            _ = ticks.tick() => {
                if latest.has_changed().unwrap_or(false) {
                    let (done, total) = *latest.borrow_and_update();
                    out.send(Reply::Hashing { path: path_text(path), done, total }).await?;
                }
            }
        }
    };
    out.send(Reply::Shared(describe(&shared))).await
}

/// What is watched and not there is shared all the same, later.
fn failure(failure: Failure, request: &ShareRequest) -> Failure {
    if !request.watch || request.copy || failure.code != "not_found" {
        return failure;
    }
    let message = format!("{}; it is shared when it appears", failure.message);
    Failure { message, ..failure }
}

fn skipped((path, why): &(PathBuf, String)) -> SkippedReply {
    SkippedReply {
        path: path_text(path),
        why: why.clone(),
    }
}

pub fn describe(shared: &Shared) -> SharedReply {
    SharedReply {
        id: shared.id.to_string(),
        path: path_text(&shared.path),
        name: shared.name.clone(),
        size: shared.size,
        kind: kind_name(shared.kind),
        files: shared.files,
        ticket: shared.ticket.to_string(),
        skipped: shared.skipped.iter().map(skipped).collect(),
    }
}
