//! `connect ADDR`: connects to a peer.

use p2p_core::Address;

use super::Outbox;
use crate::context::Context;
use crate::control::protocol::Reply;
use crate::exit::Failure;

pub async fn execute(context: &Context, address: Address, out: &Outbox) -> Result<(), Failure> {
    let peer = context.node.connect(address.clone()).await?;
    out.send(Reply::Connected {
        peer: peer.to_string(),
        address: address.to_string(),
    })
    .await
}
