//! `check ID`: can others get this?

use std::time::Duration;

use p2p_core::{Check, ContentId, ContentState, Reachability};

use super::Outbox;
use crate::context::Context;
use crate::control::protocol::{CheckReply, Reply, ServerReply};
use crate::exit::Failure;

/// Fails if others cannot, so that scripts can tell.
pub async fn execute(
    context: &Context,
    id: ContentId,
    timeout_ms: u64,
    out: &Outbox,
) -> Result<(), Failure> {
    let timeout = Duration::from_millis(timeout_ms);
    let check = context.node.check(id, timeout).await?;
    let unavailable = (!check.available).then(|| check.verdict.clone());
    out.send(Reply::Check(Box::new(describe(check)))).await?;
    match unavailable {
        Some(verdict) => Err(Failure::new("unavailable", verdict)),
        None => Ok(()),
    }
}

fn describe(check: Check) -> CheckReply {
    let here = check.here.map(|state| match state {
        ContentState::Complete => "complete",
        ContentState::Partial => "partial",
        ContentState::Changed => "changed",
        _ => "missing",
    });
    let reachable = match check.reachability {
        Reachability::Direct(_) => "direct",
        Reachability::Relayed => "relayed",
        Reachability::Unreachable => "unreachable",
        _ => "unknown",
    };
    let servers = check.servers.iter().map(|answer| ServerReply {
        server: answer.server.to_string(),
        named: answer
            .named
            .as_ref()
            .map(|named| named.iter().map(ToString::to_string).collect()),
    });
    CheckReply {
        id: check.id.to_string(),
        available: check.available,
        here: here.map(str::to_owned),
        servers: servers.collect(),
        expires_in: check.expires.map(|expires| expires.as_secs()),
        providers: check.providers.iter().map(ToString::to_string).collect(),
        holders: check.holders.iter().map(ToString::to_string).collect(),
        reachable: reachable.to_owned(),
        verdict: check.verdict,
    }
}
