//! `doctor`: what the network around the daemon allows, in plain words.

use p2p_core::{Finding, Level};

use super::Outbox;
use crate::context::Context;
use crate::control::protocol::{FindingReply, Reply};
use crate::exit::Failure;

pub async fn execute(context: &Context, out: &Outbox) -> Result<(), Failure> {
    for finding in context.node.doctor().await? {
        out.send(Reply::Finding(describe(finding))).await?;
    }
    Ok(())
}

fn describe(finding: Finding) -> FindingReply {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Warn => "warn",
        Level::Bad => "bad",
        _ => "info",
    };
    FindingReply {
        area: finding.area.to_owned(),
        level: level.to_owned(),
        message: finding.message,
        advice: finding.advice,
    }
}
