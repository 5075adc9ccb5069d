//! Feeds: names whose content changes. Published, resolved, followed, and served to others. Others are asked by a
//! [`FeedClient`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    task::JoinHandle,
};

use super::{
    Inner, Node, NodeStopped, blocking,
    command::Command,
    error::{FeedError, NodeError},
    event::Event,
    feed_client::FeedClient,
    importing::now_unix,
    keys::Keys,
};
use crate::{
    content::{ContentId, Feed, FeedId, SignedFeed, TrustedFeed},
    store::{FeedRecord, Store},
};

/// Feeds that are followed at once: each is a question that waits at its peers.
const MAX_FOLLOWED: usize = 256;

/// A feed, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedInfo {
    /// Which feed.
    pub id: FeedId,
    /// Its value, if one was ever seen.
    pub value: Option<Feed>,
    /// Whether this node signs it.
    pub own: bool,
    /// Whether the node keeps up with it.
    pub followed: bool,
}

impl From<FeedRecord> for FeedInfo {
    fn from(record: FeedRecord) -> Self {
        Self {
            value: record.value.map(|signed| signed.claims().clone()),
            id: record.id,
            own: record.own,
            followed: record.followed,
        }
    }
}

impl Node {
    /// Has a feed of this node's publisher stand for this content from now on, and serves it. Those who have a link to the
    /// feed need no other.
    ///
    /// # Errors
    /// [`FeedError::Name`], [`FeedError::Store`], [`FeedError::Stopped`].
    pub async fn publish_feed(&self, name: &str, content: ContentId) -> Result<Feed, FeedError> {
        let (node, name) = (self.clone(), name.to_owned());
        let (record, is_news) = blocking(move || node.keep_next(&name, content)).await??;
        self.feed_client().tell(&record, is_news).await?;
        let value = record.value.map(|signed| signed.claims().clone());
        value.ok_or(FeedError::NotFound {
            waited: Duration::ZERO,
        })
    }

    fn keep_next(&self, name: &str, content: ContentId) -> Result<(FeedRecord, bool), FeedError> {
        let _alone = self.inner.feeds.alone();
        let value = next_value(self.store(), self.keys(), name, content)?;
        Ok(self.store().keep_feed(&value, true)?)
    }

    /// What a feed stands for. If it is known, at once, and the node asks around for a newer value meanwhile; else as soon
    /// as somebody has told.
    ///
    /// # Errors
    /// [`FeedError::NotFound`] if nobody tells in time; [`FeedError::Store`], [`FeedError::Stopped`].
    pub async fn resolve_feed(&self, id: &FeedId, timeout: Duration) -> Result<Feed, FeedError> {
        let client = self.feed_client();
        let Some(record) = client.known(id).await? else {
            return client.first_value(id, timeout).await;
        };
        let value = record.value.map(|signed| signed.claims().clone());
        let Some(known) = value else {
            return client.first_value(id, timeout).await;
        };
        if !record.own {
            let id = id.clone();
            tokio::spawn(async move {
                // Whoever asks next has what comes of it.
                let _ = client.ask_around(&id, timeout).await;
            });
        }
        Ok(known)
    }

    /// What a feed stands for, after everybody who is found in this time was asked.
    ///
    /// # Errors
    /// As [`Node::resolve_feed`].
    pub async fn refresh_feed(&self, id: &FeedId, timeout: Duration) -> Result<Feed, FeedError> {
        let client = self.feed_client();
        client.ask_around(id, timeout).await?;
        let known = client.known(id).await?;
        let value = known.and_then(|record| record.value);
        let value = value.map(|signed| signed.claims().clone());
        value.ok_or(FeedError::NotFound { waited: timeout })
    }

    /// Keeps up with a feed from now on, also after a restart, and serves its value to others. The stream has its value, if
    /// one is known, and each newer one; dropping it does not end the following.
    ///
    /// # Errors
    /// [`FeedError::TooMany`], [`FeedError::Store`], [`FeedError::Stopped`].
    pub async fn follow_feed(
        &self,
        id: &FeedId,
    ) -> Result<impl Stream<Item = Feed> + Send + Unpin + use<>, FeedError> {
        let events = self.inner.events.subscribe();
        let (node, wanted) = (self.clone(), id.clone());
        let record = blocking(move || node.begin_following(&wanted)).await??;
        let known = record.value.map(|signed| signed.claims().clone());
        let last = known.as_ref().map(|feed| feed.sequence);
        let news = updates(Arc::downgrade(&self.inner), events, id.clone(), last);
        Ok(stream::iter(known).chain(news).boxed())
    }

    fn begin_following(&self, id: &FeedId) -> Result<FeedRecord, FeedError> {
        let feeds = &self.inner.feeds;
        let _alone = feeds.alone();
        // What finds no room is not to be followed after a restart either.
        if !feeds.has_room(id) {
            return Err(FeedError::TooMany);
        }
        let (record, _) = self.store().follow_feed(id, true)?;
        feeds.start(self.feed_client(), id.clone())?;
        Ok(record)
    }

    /// Keeps up with a feed no longer. False if it did not.
    ///
    /// # Errors
    /// [`FeedError::Store`], [`FeedError::Stopped`].
    pub async fn unfollow_feed(&self, id: &FeedId) -> Result<bool, FeedError> {
        let (node, wanted) = (self.clone(), id.clone());
        blocking(move || node.end_following(&wanted)).await?
    }

    fn end_following(&self, id: &FeedId) -> Result<bool, FeedError> {
        let feeds = &self.inner.feeds;
        let _alone = feeds.alone();
        let (record, changed) = self.store().follow_feed(id, false)?;
        feeds.end(id);
        if !record.own {
            let unserved = Command::Unserved { key: id.key() };
            let sent = self.inner.commands.blocking_send(unserved);
            sent.map_err(|_| NodeStopped)?;
        }
        Ok(changed)
    }

    /// The feeds that this node publishes, follows or has looked up.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn feeds(&self) -> Result<Vec<FeedInfo>, NodeError> {
        let store = self.store().clone();
        let records = blocking(move || store.feeds()).await??;
        Ok(records.into_iter().map(FeedInfo::from).collect())
    }

    fn feed_client(&self) -> FeedClient {
        FeedClient {
            store: self.store().clone(),
            commands: self.inner.commands.downgrade(),
            events: self.inner.events.clone(),
            news: self.inner.feeds.news.clone(),
        }
    }

    /// Goes on with what was followed before.
    pub(super) async fn follow_feeds_again(&self) {
        let store = self.store().clone();
        let records = blocking(move || store.feeds()).await;
        let Ok(Ok(records)) = records else {
            tracing::warn!("the feeds that are followed cannot be read");
            return;
        };
        for record in records.into_iter().filter(|record| record.followed) {
            if let Err(error) = self.inner.feeds.start(self.feed_client(), record.id) {
                tracing::warn!(%error, "a feed is not followed");
            }
        }
    }
}

/// The next value of an own feed.
fn next_value(
    store: &Store,
    keys: &Keys,
    name: &str,
    content: ContentId,
) -> Result<TrustedFeed, FeedError> {
    let secret = &keys.publisher;
    let id = FeedId::new(secret.public(), name)?;
    let known = store.feed(&id)?.and_then(|record| record.value);
    let last = known.map_or(0, |signed| signed.claims().sequence);
    // Higher than any that this publisher signed by the clock, also where the index was lost.
    let sequence = last.saturating_add(1).max(now_unix());
    let signed = SignedFeed::sign(name, sequence, content, now_unix(), secret)?;
    signed.verify(&id).map_err(FeedError::Refused)
}

/// Newer values of a feed: from the node's events, and from its store where some of them were lost. The node can end
/// meanwhile.
fn updates(
    node: Weak<Inner>,
    events: broadcast::Receiver<Event>,
    wanted: FeedId,
    last: Option<u64>,
) -> impl Stream<Item = Feed> + Send {
    stream::unfold(
        (node, events, wanted, last),
        |(node, mut events, wanted, last)| async move {
            loop {
                let feed = match events.recv().await {
                    Ok(Event::FeedChanged(feed)) if feed.id == wanted => Some(feed),
                    Ok(_) => None,
                    // What was lost may be the latest, and no other may come for long.
                    Err(RecvError::Lagged(_)) => latest(&node, &wanted).await,
                    Err(RecvError::Closed) => return None,
                };
                if let Some(feed) = feed.filter(|feed| Some(feed.sequence) > last) {
                    let sequence = Some(feed.sequence);
                    return Some((feed, (node, events, wanted, sequence)));
                }
            }
        },
    )
}

/// The value of a feed that a node has, if it still runs.
async fn latest(node: &Weak<Inner>, id: &FeedId) -> Option<Feed> {
    let store = node.upgrade()?.store.clone();
    let wanted = id.clone();
    match blocking(move || store.feed(&wanted)).await.ok()? {
        Ok(record) => Some(record?.value?.claims().clone()),
        Err(error) => {
            tracing::warn!(feed = %id, %error, "the latest value of a feed cannot be read");
            None
        }
    }
}

/// The tasks of the feeds that are followed.
#[derive(Debug)]
pub(super) struct Followers {
    /// Held by those who change what this node publishes or follows, from reading to writing, on a thread that may block:
    /// so the tasks and the store say the same, also where whoever asked for it waits no longer.
    changing: Mutex<()>,
    tasks: Mutex<HashMap<FeedId, JoinHandle<()>>>,
    /// Counts the values that were news, for those who wait for one.
    pub(super) news: watch::Sender<u64>,
}

impl Followers {
    pub(super) fn new(news: watch::Sender<u64>) -> Self {
        Self {
            changing: Mutex::default(),
            tasks: Mutex::default(),
            news,
        }
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a feed can be followed, or is.
    fn has_room(&self, id: &FeedId) -> bool {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.len() < MAX_FOLLOWED || tasks.contains_key(id)
    }

    fn start(&self, client: FeedClient, id: FeedId) -> Result<(), FeedError> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.contains_key(&id) {
            return Ok(());
        }
        if tasks.len() >= MAX_FOLLOWED {
            return Err(FeedError::TooMany);
        }
        let task = tokio::spawn(client.follow(id.clone()));
        tasks.insert(id, task);
        Ok(())
    }

    fn end(&self, id: &FeedId) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = tasks.remove(id) {
            task.abort();
        }
    }

    /// Ends all tasks, and waits until they hold nothing of the node any more.
    pub(super) async fn stop(&self) {
        let tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        for task in tasks.into_values() {
            task.abort();
            // It was aborted, or had ended.
            let _ = task.await;
        }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.values() {
            task.abort();
        }
    }
}

#[cfg(test)]
#[path = "feeds_tests.rs"]
mod tests;
