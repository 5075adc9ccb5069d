//! `pin add|rm|ls`: what is kept, whatever else needs room.

use p2p_core::{ContentId, ContentState, Pin};

use super::{Outbox, kind_name};
use crate::cli::{PinAction, PinArgs};
use crate::context::Context;
use crate::control::care::PinReply;
use crate::control::protocol::{Reply, Request};
use crate::exit::Failure;

pub fn request(args: PinArgs) -> Request {
    match args.action {
        PinAction::Add { ids } => Request::Pin { ids },
        PinAction::Rm { ids } => Request::Unpin { ids },
        PinAction::Ls => Request::Pins,
    }
}

/// Pins each, also when one before it could not be; each failure is an object of its own.
pub async fn add(context: &Context, ids: &[ContentId], out: &Outbox) -> Result<(), Failure> {
    for id in ids {
        let reply = match context.node.pin(*id).await {
            Ok(_) => Reply::Pinned { id: id.to_string() },
            Err(error) => Reply::Error(error.into()),
        };
        out.send(reply).await?;
    }
    Ok(())
}

/// Takes each back, also when one before it was not pinned.
pub async fn remove(context: &Context, ids: &[ContentId], out: &Outbox) -> Result<(), Failure> {
    for id in ids {
        let reply = match context.node.unpin(*id).await {
            Ok(()) => Reply::Unpinned { id: id.to_string() },
            Err(error) => Reply::Error(error.into()),
        };
        out.send(reply).await?;
    }
    Ok(())
}

pub async fn list(context: &Context, out: &Outbox) -> Result<(), Failure> {
    for pin in context.node.pins().await? {
        out.send(Reply::Pin(describe(pin))).await?;
    }
    Ok(())
}

fn describe(pin: Pin) -> PinReply {
    let content = pin.content;
    let state = match content.as_ref().map(|content| content.state) {
        Some(ContentState::Complete) => "complete",
        Some(ContentState::Partial) => "partial",
        Some(ContentState::Changed) => "changed",
        _ => "missing",
    };
    let kind = content.as_ref().and_then(|content| content.kind);
    PinReply {
        id: pin.id.to_string(),
        size: content.as_ref().map_or(0, |content| content.size),
        state: state.to_owned(),
        kind: kind_name(kind.unwrap_or(p2p_core::Kind::File)),
        name: content.and_then(|content| content.name),
        added: pin.added,
    }
}
