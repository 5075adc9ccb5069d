//! `id`: who this node is and where it can be reached.

use super::{Outbox, texts};
use crate::context::Context;
use crate::control::protocol::Reply;
use crate::exit::Failure;

pub async fn execute(context: &Context, out: &Outbox) -> Result<(), Failure> {
    let (peer, publisher) = (
        context.node.id().to_string(),
        context.node.publisher().to_string(),
    );
    out.send(Reply::Id {
        peer,
        publisher,
        addresses: texts(&context.node.addresses()),
    })
    .await
}
