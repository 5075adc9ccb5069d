//! `connect ADDR`: connects to a peer.

use p2p_core::Address;

use super::Outbox;
use crate::context::Context;
use crate::control::protocol::Reply;
use crate::exit::Failure;

pub async fn execute(context: &Context, address: Address, out: &Outbox) -> Result<(), Failure> {
    let peer = context.node.connect(address.clone()).await?;
    // It may have been connected before, at another address.
    let peers = context.node.peers();
    let remote = peers.into_iter().find(|known| known.peer == peer);
    let remote = remote
        .and_then(|known| known.remote)
        .map_or(address, |remote| remote.with_node(peer));
    out.send(Reply::Connected {
        peer: peer.to_string(),
        address: remote.to_string(),
    })
    .await
}
