//! `ls`: what is held here, what a collection contains, or what a peer shares publicly.

use std::path::Path;
use std::time::Duration;

use p2p_core::{BLOCK_LEN, ContentInfo, ContentState, Kind, NodeId};

use super::{Outbox, kind_name, millis, path_text};
use crate::cli::LsArgs;
use crate::context::Context;
use crate::control::protocol::{ContentReply, Lookup, Reply, Request, Target};
use crate::exit::Failure;

pub fn request(args: LsArgs) -> Request {
    match (args.what, args.peer) {
        (Some(what), _) => Request::List(Lookup {
            what,
            timeout_ms: millis(args.timeout),
        }),
        (None, Some(peer)) => Request::Catalog { peer },
        (None, None) => Request::Contents,
    }
}

/// Everything held here, whole or in part.
pub async fn contents(context: &Context, out: &Outbox) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page = context.node.contents_after(after).await?;
        for content in page.contents {
            out.send(Reply::Content(describe(content))).await?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn describe(content: ContentInfo) -> ContentReply {
    let state = match content.state {
        ContentState::Complete => "complete",
        ContentState::Partial => "partial",
        ContentState::Changed => "changed",
        _ => "missing",
    };
    let held = if content.held == content.blocks {
        content.size
    } else {
        content
            .size
            .min(u64::from(content.held).saturating_mul(BLOCK_LEN as u64))
    };
    let file_name = content.path.as_deref().and_then(Path::file_name);
    let name = content
        .name
        .or_else(|| file_name.map(|name| name.to_string_lossy().into_owned()));
    ContentReply {
        name,
        held: Some(held),
        path: content.path.as_deref().map(path_text),
        download: Some(content.download),
        ..plain(
            content.id.to_string(),
            content.size,
            state,
            content.kind.unwrap_or(Kind::File),
        )
    }
}

fn plain(id: String, size: u64, state: &str, kind: Kind) -> ContentReply {
    ContentReply {
        id,
        name: None,
        size,
        state: state.to_owned(),
        kind: kind_name(kind),
        held: None,
        path: None,
        download: None,
        publisher: None,
        peer: None,
    }
}

/// The entries of a collection, without fetching them; of a file, itself.
pub async fn entries(context: &Context, lookup: Lookup, out: &Outbox) -> Result<(), Failure> {
    let timeout = Duration::from_millis(lookup.timeout_ms);
    let listing = match lookup.what {
        Target::Id(id) => context.node.list(id, timeout).await?,
        Target::Ticket(ticket) => context.node.list(*ticket, timeout).await?,
    };
    let files = match listing.kind {
        Kind::Collection => {
            for entry in &listing.entries {
                let file = plain(entry.content.to_string(), entry.size, "entry", Kind::File);
                out.send(Reply::Content(ContentReply {
                    name: Some(entry.path.clone()),
                    ..file
                }))
                .await?;
            }
            listing.entries.len() as u64
        }
        _ => {
            let file = plain(listing.id.to_string(), listing.size, "entry", Kind::File);
            out.send(Reply::Content(ContentReply {
                name: listing.name.clone(),
                ..file
            }))
            .await?;
            1
        }
    };
    let (id, kind) = (listing.id.to_string(), kind_name(listing.kind));
    out.send(Reply::Listing {
        id,
        name: listing.name,
        kind,
        size: listing.size,
        files,
    })
    .await
}

/// What a peer shares publicly.
pub async fn catalog(context: &Context, peer: NodeId, out: &Outbox) -> Result<(), Failure> {
    for entry in context.node.catalog(peer).await? {
        out.send(Reply::Content(ContentReply {
            name: Some(entry.name),
            publisher: Some(entry.publisher.to_string()),
            peer: Some(peer.to_string()),
            ..plain(entry.id.to_string(), entry.size, "offered", entry.kind)
        }))
        .await?;
    }
    Ok(())
}
