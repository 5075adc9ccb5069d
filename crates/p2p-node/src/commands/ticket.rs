//! `ticket ID`: a fresh ticket for something shared here.

use p2p_core::ContentId;

use super::Outbox;
use crate::context::Context;
use crate::control::protocol::Reply;
use crate::exit::Failure;

pub async fn execute(context: &Context, id: ContentId, out: &Outbox) -> Result<(), Failure> {
    let ticket = context.node.ticket(id).await?;
    out.send(Reply::Ticket {
        id: id.to_string(),
        ticket: ticket.to_string(),
    })
    .await
}
