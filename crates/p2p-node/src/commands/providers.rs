//! `providers ID`: who has it.

use std::time::Duration;

use super::{Outbox, dialable, millis};
use crate::context::Context;
use crate::control::protocol::{Lookup, Reply, Request, Target};
use crate::exit::Failure;
use crate::units::human_duration;

pub fn request(what: Target, timeout: Duration) -> Request {
    Request::Providers(Lookup {
        what,
        timeout_ms: millis(timeout),
    })
}

pub async fn execute(context: &Context, lookup: Lookup, out: &Outbox) -> Result<(), Failure> {
    let (id, timeout) = (lookup.what.id(), Duration::from_millis(lookup.timeout_ms));
    let providers = context.node.providers(id, timeout).await?;
    if providers.is_empty() {
        let waited = human_duration(timeout);
        return Err(Failure::new(
            "not_found",
            format!("nobody who has {id} was found in {waited}"),
        ));
    }
    for provider in providers {
        let peer = provider.node();
        let addresses = dialable(peer, provider.addresses());
        out.send(Reply::Provider {
            id: id.to_string(),
            peer: peer.to_string(),
            addresses,
        })
        .await?;
    }
    Ok(())
}
