//! Feeds: names whose content changes. Published, resolved, followed, and served to others.
//!
//! A feed that is followed has a task: it asks who has the feed for its value, then waits at some of those who answered for a
//! newer one, and begins anew after a while. Whatever is heard is verified and kept in the store before it is told.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt, TryFutureExt, TryStreamExt, stream};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    Node, NodeStopped, blocking,
    command::Command,
    error::{FeedError, NodeError},
    event::Event,
    importing::now_unix,
    keys::Keys,
    naming::Named,
};
use crate::{
    content::{ContentId, Feed, FeedId, NodeId, SignedFeed, TrustedFeed},
    net::{
        NetFault,
        wire::{Query, Reply},
    },
    store::{FeedRecord, Store},
};

/// Peers that are asked for one value.
const MAX_ASKED: usize = 64;
/// How long is asked around for the value of a feed that is followed.
const ROUND: Duration = Duration::from_secs(20);
/// Then it is waited for news so long before everybody is asked again.
const PAUSE: Duration = Duration::from_secs(60);
/// Peers that news are waited for at.
const WAITED_AT: usize = 3;
/// Peers asked, or waited at, at once of those that connect meanwhile.
const MET_AT_ONCE: usize = 8;
/// One that has answered is asked again after this.
const GATHER: Duration = Duration::from_secs(1);
/// One that has no time is asked again after this.
const RETRY: Duration = Duration::from_secs(5);
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

/// What a task needs of the node. It does not keep the node from ending.
#[derive(Clone)]
struct FeedClient {
    store: Store,
    commands: mpsc::WeakSender<Command>,
    events: broadcast::Sender<Event>,
    news: watch::Sender<u64>,
}

/// What came of asking a peer.
enum Told {
    /// A value that is newer than what was known, or as new.
    Value,
    /// It has none, or an older one.
    Nothing,
    /// It has no time now.
    Busy,
    /// It is gone, or cannot be asked.
    Gone,
}

impl FeedClient {
    async fn send(&self, command: Command) -> Result<(), NodeStopped> {
        let commands = self.commands.upgrade().ok_or(NodeStopped)?;
        commands.send(command).await.map_err(|_| NodeStopped)
    }

    async fn known(&self, id: &FeedId) -> Result<Option<FeedRecord>, FeedError> {
        let (store, id) = (self.store.clone(), id.clone());
        Ok(blocking(move || store.feed(&id)).await??)
    }

    /// Keeps a verified value. What is newer is told, and announced if this node serves the feed.
    async fn keep(&self, signed: SignedFeed, own: bool) -> Result<Feed, FeedError> {
        let id = signed.claims().id.clone();
        let value = signed.verify(&id).map_err(FeedError::Refused)?;
        let record = self.keep_trusted(value, own).await?;
        record
            .value
            .map(|signed| signed.claims().clone())
            .ok_or(FeedError::NotFound {
                waited: Duration::ZERO,
            })
    }

    async fn keep_trusted(&self, value: TrustedFeed, own: bool) -> Result<FeedRecord, FeedError> {
        let store = self.store.clone();
        let told = value.feed().clone();
        let (record, is_news) = blocking(move || store.keep_feed(&value, own)).await??;
        let kept = record.value.as_ref().map(SignedFeed::claims);
        if let Some(kept) = kept.filter(|kept| kept.contradicts(&told)) {
            tracing::warn!(feed = %told.id, sequence = told.sequence, kept = %kept.content, other = %told.content,
                "the publisher signed two values with one sequence; the one that was seen first is kept");
        }
        if record.own || record.followed {
            let key = record.id.key();
            self.send(Command::Served { key }).await?;
        }
        if let Some(signed) = record.value.as_ref().filter(|_| is_news) {
            self.news
                .send_modify(|count| *count = count.wrapping_add(1));
            // That nobody listens is no error.
            let _ = self
                .events
                .send(Event::FeedChanged(signed.claims().clone()));
        }
        Ok(record)
    }

    /// The first value that anybody tells.
    async fn first_value(&self, id: &FeedId, timeout: Duration) -> Result<Feed, FeedError> {
        let mut news = self.news.subscribe();
        let asking = self.ask_around(id, timeout);
        let told = async {
            loop {
                // It ends with the node only.
                if news.changed().await.is_err() {
                    return Err(NodeStopped.into());
                }
                let known = self.known(id).await?;
                if let Some(signed) = known.and_then(|record| record.value) {
                    return Ok(signed.claims().clone());
                }
            }
        };
        let (asking, told) = (std::pin::pin!(asking), std::pin::pin!(told));
        match futures::future::select(told, asking).await {
            futures::future::Either::Left((told, _)) => told,
            futures::future::Either::Right((asked, _)) => {
                asked?;
                let known = self.known(id).await?;
                let value = known.and_then(|record| record.value);
                let value = value.map(|signed| signed.claims().clone());
                value.ok_or(FeedError::NotFound { waited: timeout })
            }
        }
    }

    /// Asks the connected peers, and those whom the DHT names, for the value of a feed. Returns who had it.
    async fn ask_around(&self, id: &FeedId, timeout: Duration) -> Result<Vec<NodeId>, FeedError> {
        let (found, named) = mpsc::channel(MAX_ASKED);
        let keys = vec![id.key()];
        self.send(Command::Search { keys, found }).await?;
        let named = stream::unfold(named, async |mut named| Some((named.recv().await?, named)));
        let mut seen = HashSet::new();
        let new = named.filter(|named| std::future::ready(seen.insert(named.peer)));
        let asked = new
            .take(MAX_ASKED)
            .map(|Named { peer, connected }| async move {
                if !matches!(connected.await, Ok(Ok(()))) {
                    return Ok((peer, Told::Gone));
                }
                Ok::<_, FeedError>((peer, self.ask(peer, id, None).await?))
            });
        let mut asked = std::pin::pin!(asked.buffer_unordered(MAX_ASKED));
        let mut holders = Vec::new();
        let search = async {
            while let Some(told) = asked.next().await {
                if let (peer, Told::Value) = told? {
                    holders.push(peer);
                }
            }
            Ok::<_, FeedError>(())
        };
        // Running out of time is one of the two ways for it to end.
        if let Ok(ended) = tokio::time::timeout(timeout, search).await {
            ended?;
        }
        Ok(holders)
    }

    /// Asks one peer. What it tells is verified and kept; who tells what is not so is not asked for a while.
    async fn ask(&self, peer: NodeId, id: &FeedId, known: Option<u64>) -> Result<Told, FeedError> {
        let (reply, answer) = oneshot::channel();
        let feed = id.clone();
        let query = Query::Feed { feed, known };
        self.send(Command::Ask { peer, query, reply }).await?;
        let signed = match answer.await {
            Ok(Ok(Reply::Feed { feed })) => feed,
            Ok(Ok(Reply::NotFound)) => return Ok(Told::Nothing),
            Ok(Ok(Reply::Busy)) => return Ok(Told::Busy),
            Ok(Ok(_)) => return self.blame(peer, "an answer to another question").await,
            // An older program does not know the question.
            Ok(Err(NetFault::Protocol | NetFault::Unsupported)) | Ok(Err(_)) | Err(_) => {
                return Ok(Told::Gone);
            }
        };
        match signed.verify(id) {
            Ok(value) => {
                let sequence = value.feed().sequence;
                let record = self.keep_trusted(value, false).await?;
                let latest = record.value.map(|signed| signed.claims().sequence);
                Ok(match latest == Some(sequence) {
                    true => Told::Value,
                    false => Told::Nothing,
                })
            }
            Err(error) => self.blame(peer, &error.to_string()).await,
        }
    }

    async fn blame(&self, peer: NodeId, why: &str) -> Result<Told, FeedError> {
        tracing::info!(%peer, why, "a false answer about a feed: its sender is not asked for a while");
        self.send(Command::Blame { peer }).await?;
        Ok(Told::Gone)
    }

    /// Follows a feed until the node ends.
    async fn follow(self, id: FeedId) {
        loop {
            let round = async {
                let events = self.events.subscribe();
                let holders = self.ask_around(&id, ROUND).await?;
                let waiting = self.wait_for_news(&id, &holders, events);
                tokio::time::timeout(PAUSE, waiting).await.unwrap_or(Ok(()))
            };
            match round.await {
                Ok(()) => {}
                Err(FeedError::Stopped(_)) => return,
                Err(error) => {
                    tracing::warn!(feed = %id, %error, "a feed cannot be kept up with now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits at some holders, and asks each peer that connects. Does not end by itself.
    async fn wait_for_news(
        &self,
        id: &FeedId,
        holders: &[NodeId],
        events: broadcast::Receiver<Event>,
    ) -> Result<(), FeedError> {
        let holders = holders.iter().take(WAITED_AT);
        let waiting = holders.map(|peer| self.wait_at(*peer, id));
        let joined = stream::unfold(events, async |mut events| {
            loop {
                match events.recv().await {
                    Ok(Event::PeerJoined(info)) => return Some((info.peer, events)),
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let meeting = joined
            .map(|peer| self.meet(peer, id))
            .buffer_unordered(MET_AT_ONCE)
            .try_for_each(|()| std::future::ready(Ok(())));
        // Events end with the node only.
        let meeting = meeting.and_then(|()| std::future::ready(Err(NodeStopped.into())));
        let waiting = futures::future::try_join_all(waiting);
        futures::future::try_join(waiting, meeting)
            .map_ok(|(_, ())| ())
            .await
    }

    /// Asks a peer that has just connected, and waits at it if it has the feed.
    async fn meet(&self, peer: NodeId, id: &FeedId) -> Result<(), FeedError> {
        match self.ask(peer, id, None).await? {
            Told::Value => self.wait_at(peer, id).await,
            Told::Nothing | Told::Busy | Told::Gone => Ok(()),
        }
    }

    /// Asks a peer again and again for something newer; it answers when it has that, or after a while.
    async fn wait_at(&self, peer: NodeId, id: &FeedId) -> Result<(), FeedError> {
        loop {
            let known = self.known(id).await?.and_then(|record| record.value);
            let known = known.map(|signed| signed.claims().sequence);
            match self.ask(peer, id, known).await? {
                // One that answers without waiting is not asked without a pause.
                Told::Value | Told::Nothing => tokio::time::sleep(GATHER).await,
                Told::Busy => tokio::time::sleep(RETRY).await,
                Told::Gone => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
#[path = "feeds_tests.rs"]
mod tests;
