//! Feeds: names whose content changes. Published, resolved, followed, and served to others. Others are asked by a
//! [`FeedClient`].

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};

use super::{
    Node, blocking,
    command::Command,
    error::{FeedError, NodeError},
    event::Event,
    feed_client::FeedClient,
    importing::now_unix,
    keys::Keys,
};
use crate::{
    content::{ContentId, Feed, FeedId, SignedFeed},
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
        let (store, keys, name) = (self.store().clone(), self.keys().clone(), name.to_owned());
        let signed = blocking(move || next_value(&store, &keys, &name, content)).await??;
        self.feed_client().keep(signed, true).await
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
        let (store, wanted) = (self.store().clone(), id.clone());
        let (record, _) = blocking(move || store.follow_feed(&wanted, true)).await??;
        self.inner.feeds.start(self.feed_client(), id.clone())?;
        let known = record.value.map(|signed| signed.claims().clone());
        let last = known.as_ref().map(|feed| feed.sequence);
        let news = updates(events, id.clone(), last);
        Ok(stream::iter(known).chain(news).boxed())
    }

    /// Keeps up with a feed no longer. False if it did not.
    ///
    /// # Errors
    /// [`FeedError::Store`], [`FeedError::Stopped`].
    pub async fn unfollow_feed(&self, id: &FeedId) -> Result<bool, FeedError> {
        let (store, wanted) = (self.store().clone(), id.clone());
        let (record, changed) = blocking(move || store.follow_feed(&wanted, false)).await??;
        self.inner.feeds.end(id);
        if !record.own {
            let key = id.key();
            self.send(Command::Unserved { key }).await?;
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
) -> Result<SignedFeed, FeedError> {
    let secret = &keys.publisher;
    let id = FeedId::new(secret.public(), name)?;
    let known = store.feed(&id)?.and_then(|record| record.value);
    let last = known.map_or(0, |signed| signed.claims().sequence);
    // Higher than any that this publisher signed by the clock, also where the index was lost.
    let sequence = last.saturating_add(1).max(now_unix());
    Ok(SignedFeed::sign(
        name,
        sequence,
        content,
        now_unix(),
        secret,
    )?)
}

/// Newer values of a feed, from the node's events.
fn updates(
    events: broadcast::Receiver<Event>,
    wanted: FeedId,
    last: Option<u64>,
) -> impl Stream<Item = Feed> + Send {
    stream::unfold(
        (events, wanted, last),
        |(mut events, wanted, last)| async move {
            loop {
                match events.recv().await {
                    Ok(Event::FeedChanged(feed))
                        if feed.id == wanted && Some(feed.sequence) > last =>
                    {
                        let sequence = Some(feed.sequence);
                        return Some((feed, (events, wanted, sequence)));
                    }
                    // Who is slow loses some, and has the latest with the next.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        },
    )
}

/// The tasks of the feeds that are followed.
#[derive(Debug)]
pub(super) struct Followers {
    tasks: Mutex<HashMap<FeedId, JoinHandle<()>>>,
    /// Counts the values that were news, for those who wait for one.
    pub(super) news: watch::Sender<u64>,
}

impl Followers {
    pub(super) fn new(news: watch::Sender<u64>) -> Self {
        let tasks = Mutex::default();
        Self { tasks, news }
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
