//! `repo gc|stat|verify`: looking after the store.

use std::time::{Duration, Instant};

use p2p_core::{Damage, What};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::status::storage;
use super::{Outbox, millis, path_text};
use crate::cli::{RepoAction, RepoArgs};
use crate::context::Context;
use crate::control::care::{CollectedReply, DamagedReply, StatReply, VerifiedReply};
use crate::control::protocol::{Reply, Request};
use crate::exit::Failure;

/// Pause between two progress reports: smooth to the eye, cheap to send.
const REPORT_EVERY: Duration = Duration::from_millis(200);

pub fn request(args: &RepoArgs) -> Request {
    match args.action {
        RepoAction::Gc { all, grace } => Request::Collect {
            all,
            grace_ms: millis(grace),
        },
        RepoAction::Stat => Request::Stat,
        RepoAction::Verify => Request::Verify,
    }
}

pub async fn collect(
    context: &Context,
    all: bool,
    grace_ms: u64,
    out: &Outbox,
) -> Result<(), Failure> {
    let grace = Duration::from_millis(grace_ms);
    let collected = context.node.collect(grace, all).await?;
    out.send(Reply::Collected(CollectedReply {
        freed: collected.freed(),
        leftovers: collected.leftovers.into(),
        objects: collected.objects.into(),
        gone: collected.gone.into(),
        evicted: collected.evicted.into(),
        records: collected.records,
        index: collected.index,
    }))
    .await
}

pub async fn stat(context: &Context, out: &Outbox) -> Result<(), Failure> {
    let stat = context.node.stat().await?;
    out.send(Reply::Stat(Box::new(StatReply {
        downloads: stat.downloads.into(),
        partial: stat.partial.into(),
        objects: stat.objects.into(),
        in_place: stat.in_place.into(),
        pinned: stat.pinned.into(),
        unusable: stat.unusable.into(),
        damaged: stat.damaged.into(),
        storage: storage(&stat.usage, stat.quota, stat.min_free),
        free: stat.free,
    })))
    .await
}

/// Tells each file that is not as it should be; ends with a failure if the disk has damaged any.
pub async fn verify(context: &Context, out: &Outbox) -> Result<(), Failure> {
    let began = Instant::now();
    let (progress, mut latest) = watch::channel((0, 0));
    let verify = context.node.verify().on_progress(move |done, total| {
        progress.send_replace((done, total));
    });
    let mut verifying = verify.into_future();
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let verified = loop {
        tokio::select! {
            biased;
            verified = &mut verifying => break verified?,
            _ = ticks.tick() => {
                if latest.has_changed().unwrap_or(false) {
                    let (done, total) = *latest.borrow_and_update();
                    let path = "what is here".to_owned();
                    out.send(Reply::Hashing { path, done, total }).await?;
                }
            }
        }
    };
    let count = |wanted: &[What]| {
        let found = verified.damage.iter();
        found.filter(|damage| wanted.contains(&damage.what)).count() as u64
    };
    let damaged = count(&[What::Damaged, What::Unreadable]);
    for damage in &verified.damage {
        out.send(Reply::Damaged(describe(damage))).await?;
    }
    out.send(Reply::Verified(VerifiedReply {
        contents: verified.contents,
        files: verified.files,
        bytes: verified.bytes,
        damaged,
        changed: count(&[What::Changed]),
        missing: count(&[What::Missing]),
        seconds: began.elapsed().as_secs_f64(),
    }))
    .await?;
    if damaged == 0 {
        return Ok(());
    }
    let message =
        format!("{damaged} files are damaged; they are served no longer, and were not deleted");
    Err(Failure::new("verification", message))
}

fn describe(damage: &Damage) -> DamagedReply {
    DamagedReply {
        id: damage.id.to_string(),
        path: path_text(&damage.path),
        what: match damage.what {
            What::Damaged => "damaged",
            What::Unreadable => "unreadable",
            What::Changed => "changed",
            _ => "missing",
        }
        .to_owned(),
        aside: damage.aside.as_deref().map(path_text),
    }
}
