//! `shares`: what is offered, in which state, and whether the network has been told.

use p2p_core::{Announcement, ShareInfo, ShareState};

use super::{Outbox, kind_name, path_text};
use crate::config::policy;
use crate::context::Context;
use crate::control::protocol::{Reply, ShareReply};
use crate::exit::Failure;

pub async fn execute(context: &Context, out: &Outbox) -> Result<(), Failure> {
    for share in context.node.shares().await? {
        out.send(Reply::Share(describe(&share))).await?;
    }
    Ok(())
}

pub fn describe(share: &ShareInfo) -> ShareReply {
    let state = match share.state {
        ShareState::Ok => "ok",
        ShareState::Changed => "changed",
        _ => "missing",
    };
    let (announced, announced_ago) = match share.announced {
        Announcement::Done(ago) => ("done", Some(ago.as_secs())),
        Announcement::Due => ("due", None),
        Announcement::Failed => ("failed", None),
        _ => ("off", None),
    };
    ShareReply {
        id: share.id.to_string(),
        name: share.name.clone(),
        size: share.size,
        state: state.to_owned(),
        kind: kind_name(share.kind),
        path: path_text(&share.path),
        unlisted: share.unlisted,
        policy: policy::describe(&share.audience),
        watched: share.watched,
        announced: announced.to_owned(),
        announced_ago,
    }
}
