//! `find TEXT`: search by name on the local network, at connected peers and in the DHT.

use std::time::Duration;

use super::{Outbox, kind_name};
use crate::context::Context;
use crate::control::protocol::{FoundReply, Reply};
use crate::exit::Failure;

pub async fn execute(
    context: &Context,
    text: &str,
    timeout_ms: u64,
    out: &Outbox,
) -> Result<(), Failure> {
    let found = context
        .node
        .find(text, Duration::from_millis(timeout_ms))
        .await?;
    if found.is_empty() {
        return Err(Failure::new(
            "not_found",
            format!("nothing named like {text:?} was found"),
        ));
    }
    for found in found {
        out.send(Reply::Found(FoundReply {
            id: found.id.to_string(),
            name: found.name,
            size: found.size,
            kind: kind_name(found.kind),
            publisher: found.publisher.to_string(),
            peer: found.peer.to_string(),
            providers: found.providers,
        }))
        .await?;
    }
    Ok(())
}
