//! `rm ID`: forgets a content; its files stay unless told.

use p2p_core::ContentId;

use super::{Outbox, path_text};
use crate::context::Context;
use crate::control::protocol::Reply;
use crate::exit::Failure;

pub async fn execute(
    context: &Context,
    id: ContentId,
    delete_files: bool,
    out: &Outbox,
) -> Result<(), Failure> {
    let deleted = context.node.remove(id, delete_files).await?;
    let deleted = deleted.iter().map(|path| path_text(path)).collect();
    out.send(Reply::Removed {
        id: id.to_string(),
        deleted,
    })
    .await
}
