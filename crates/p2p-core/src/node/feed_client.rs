//! Asks other peers about feeds.
//!
//! A feed that is followed has a task: it asks who has the feed for its value, then waits at some of those who answered for a
//! newer one, and begins anew after a while. Whatever is heard is verified and kept in the store before it is told.

use std::{collections::HashSet, time::Duration};

use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    NodeStopped, blocking, command::Command, error::FeedError, event::Event, naming::Named,
};
use crate::{
    content::{Feed, FeedId, NodeId, SignedFeed, TrustedFeed},
    net::{
        NetFault,
        wire::{Query, Reply},
    },
    store::{FeedRecord, Store},
};

/// Peers that are asked for one value, at once. The connected ones are named first: as many of them as a node has by default,
/// those whom the DHT names, and as many again for a node that has more.
const MAX_ASKED: usize = 512;
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

/// What a task needs of the node. It does not keep the node from ending.
#[derive(Clone)]
pub(super) struct FeedClient {
    pub(super) store: Store,
    pub(super) commands: mpsc::WeakSender<Command>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) news: watch::Sender<u64>,
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

    pub(super) async fn known(&self, id: &FeedId) -> Result<Option<FeedRecord>, FeedError> {
        let (store, id) = (self.store.clone(), id.clone());
        Ok(blocking(move || store.feed(&id)).await??)
    }

    /// Keeps what a peer told, and tells it on.
    async fn keep(&self, value: TrustedFeed) -> Result<FeedRecord, FeedError> {
        let store = self.store.clone();
        let told = value.feed().clone();
        let (record, is_news) = blocking(move || store.keep_feed(&value, false)).await??;
        let kept = record.value.as_ref().map(SignedFeed::claims);
        if let Some(kept) = kept.filter(|kept| kept.contradicts(&told)) {
            tracing::warn!(feed = %told.id, sequence = told.sequence, kept = %kept.content, other = %told.content,
                "the publisher signed two values with one sequence; the one that was seen first is kept");
        }
        self.tell(&record, is_news).await?;
        Ok(record)
    }

    /// Has a feed announced if this node serves it, and tells its value to those who wait for one if it is news.
    pub(super) async fn tell(&self, record: &FeedRecord, is_news: bool) -> Result<(), NodeStopped> {
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
        Ok(())
    }

    /// The first value that anybody tells.
    pub(super) async fn first_value(
        &self,
        id: &FeedId,
        timeout: Duration,
    ) -> Result<Feed, FeedError> {
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
    pub(super) async fn ask_around(
        &self,
        id: &FeedId,
        timeout: Duration,
    ) -> Result<Vec<NodeId>, FeedError> {
        let (found, named) = mpsc::channel(MAX_ASKED);
        let keys = vec![id.key()];
        self.send(Command::Search { keys, found }).await?;
        let named = stream::unfold(named, async |mut named| Some((named.recv().await?, named)));
        let mut seen = HashSet::new();
        let new = named.filter(|named| std::future::ready(seen.insert(named.peer)));
        let asked = new.map(|Named { peer, connected }| async move {
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
                let record = self.keep(value).await?;
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
    pub(super) async fn follow(self, id: FeedId) {
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
