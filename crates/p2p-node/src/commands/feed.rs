//! `feed publish|resolve|follow|unfollow|ls`: names whose content changes.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use p2p_core::{Feed, FeedId, FeedInfo};

use super::{Outbox, get, millis, require_absolute};
use crate::cli::{FeedAction, FeedArgs};
use crate::config::absolute;
use crate::context::Context;
use crate::control::protocol::{FeedReply, FeedRequest, GetRequest, OnExisting, Reply, Target};
use crate::exit::Failure;

/// How long a new value may look for its first provider.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

pub fn request(args: FeedArgs) -> Result<FeedRequest, Failure> {
    Ok(match args.action {
        FeedAction::Publish { name, id } => FeedRequest::Publish { name, id },
        FeedAction::Resolve {
            feed,
            fresh,
            timeout,
        } => FeedRequest::Resolve {
            feed,
            fresh,
            timeout_ms: millis(timeout),
        },
        FeedAction::Follow { feed, to } => FeedRequest::Follow {
            feed,
            to: to.as_deref().map(absolute).transpose()?,
        },
        FeedAction::Unfollow { feed } => FeedRequest::Unfollow { feed },
        FeedAction::Ls => FeedRequest::List,
    })
}

pub async fn execute(context: &Context, request: FeedRequest, out: &Outbox) -> Result<(), Failure> {
    let node = &context.node;
    match request {
        FeedRequest::Publish { name, id } => {
            let feed = node.publish_feed(&name, id).await?;
            out.send(value(&feed)).await
        }
        FeedRequest::Resolve {
            feed,
            fresh,
            timeout_ms,
        } => {
            let timeout = Duration::from_millis(timeout_ms);
            let found = match fresh {
                true => node.refresh_feed(&feed, timeout).await?,
                false => node.resolve_feed(&feed, timeout).await?,
            };
            out.send(value(&found)).await
        }
        FeedRequest::Follow { feed, to } => follow(context, &feed, to.as_deref(), out).await,
        FeedRequest::Unfollow { feed } => {
            if !node.unfollow_feed(&feed).await? {
                let message = format!("{feed} was not followed");
                return Err(Failure::new("not_found", message));
            }
            list(context, out).await
        }
        FeedRequest::List => list(context, out).await,
    }
}

/// Tells each new value until the command is ended; the node goes on following. With a folder, fetches each into it.
async fn follow(
    context: &Context,
    feed: &FeedId,
    to: Option<&Path>,
    out: &Outbox,
) -> Result<(), Failure> {
    if let Some(to) = to {
        require_absolute(to)?;
    }
    let mut values = pin!(context.node.follow_feed(feed).await?);
    while let Some(found) = values.next().await {
        out.send(value(&found)).await?;
        let Some(to) = to else { continue };
        if let Err(failure) = get::execute(context, fetching(&found, to), out).await {
            if failure.code == "stopped" || failure.code == "interrupted" {
                return Err(failure);
            }
            // The next value may be there to be had.
            out.send(Reply::Error(failure)).await?;
        }
    }
    Err(Failure::new("stopped", "the node stopped"))
}

/// What is in the folder already, and is the same, is not fetched again.
fn fetching(found: &Feed, to: &Path) -> GetRequest {
    GetRequest {
        what: Target::Id(found.content),
        out: None,
        directory: PathBuf::from(to),
        existing: OnExisting::Overwrite,
        keep: false,
        include: Vec::new(),
        publisher: None,
        peers: Vec::new(),
        timeout_ms: millis(FETCH_TIMEOUT),
    }
}

async fn list(context: &Context, out: &Outbox) -> Result<(), Failure> {
    for info in context.node.feeds().await? {
        out.send(Reply::Feed(describe(&info))).await?;
    }
    Ok(())
}

fn value(feed: &Feed) -> Reply {
    Reply::Feed(FeedReply {
        publisher: feed.id.publisher().to_string(),
        name: feed.id.name().to_owned(),
        sequence: Some(feed.sequence),
        id: Some(feed.content.to_string()),
        created: Some(feed.created),
        own: None,
        followed: None,
    })
}

fn describe(info: &FeedInfo) -> FeedReply {
    let value = info.value.as_ref();
    FeedReply {
        publisher: info.id.publisher().to_string(),
        name: info.id.name().to_owned(),
        sequence: value.map(|feed| feed.sequence),
        id: value.map(|feed| feed.content.to_string()),
        created: value.map(|feed| feed.created),
        own: Some(info.own),
        followed: Some(info.followed),
    }
}
