//! The search by name: the connected peers are asked, and those whom the DHT names under the words of the text.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::{
    Node, NodeStopped, blocking,
    command::Command,
    error::{ConnectError, NodeError},
    naming::Named,
};
use crate::{
    content::{ContentId, Kind, NodeId, PublisherKey},
    names::{Claim, Findings, Lie, Wanted, check, search_keys},
    net::{
        NetFault,
        wire::{MAX_SEARCH_LEN, Query, Reply},
    },
};

/// Peers that one search asks, at once: as many connected ones as a node has by default, those whom the DHT names, and as
/// many again for a node that has more.
const MAX_ASKED: usize = 512;

/// Something found by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// Its id.
    pub id: ContentId,
    /// The name it goes by: of several, the one that most of its providers give it.
    pub name: String,
    /// Its size in bytes; of a folder, of its listing.
    pub size: u64,
    /// File or folder.
    pub kind: Kind,
    /// Who signed it.
    pub publisher: PublisherKey,
    /// One that has it.
    pub peer: NodeId,
    /// How many of those that were asked have it.
    pub providers: usize,
}

/// What came of asking one peer.
enum Answer {
    Claims(Vec<Claim>),
    Lie(Lie),
    Nothing,
}

impl Node {
    /// Searches public shares by name: whatever contains each part of the text, in any order, without regard to case and
    /// accents. The connected peers are asked, and at most 32 others whom the DHT knows by the words of the text; those are
    /// whole words, so that a part of one is found at connected peers only. It takes at most the time given, and returns
    /// what was found by then: each content once, first what most providers have. Every result is signed by the publisher
    /// it names. What this node itself shares is not searched.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn find(&self, text: &str, timeout: Duration) -> Result<Vec<Found>, NodeError> {
        let text = beginning(text);
        let wanted = Wanted::new(text);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut findings = Findings::default();
        let search = self.search(text, Arc::new(wanted), &mut findings);
        // Running out of time is one of the two ways for a search to end.
        if let Ok(ended) = tokio::time::timeout(timeout, search).await {
            ended?;
        }
        let found = findings.into_found().into_iter();
        let found = found.map(|finding| Found {
            id: finding.claim.content,
            name: finding.claim.name,
            size: finding.claim.size,
            kind: finding.claim.kind,
            publisher: finding.claim.publisher,
            peer: finding.peer,
            providers: finding.providers,
        });
        Ok(found.collect())
    }

    async fn search(
        &self,
        text: &str,
        wanted: Arc<Wanted>,
        findings: &mut Findings,
    ) -> Result<(), NodeStopped> {
        let (found, named) = mpsc::channel(MAX_ASKED);
        let keys = search_keys(text);
        self.send(Command::Search { keys, found }).await?;
        let query = Query::Search {
            text: text.to_owned(),
        };
        let named = stream::unfold(named, async |mut named| Some((named.recv().await?, named)));
        let mut seen = HashSet::new();
        let new = named.filter(|named| std::future::ready(seen.insert(named.peer)));
        let answers = new
            .map(|named| self.ask_named(named, query.clone(), Arc::clone(&wanted)))
            .buffer_unordered(MAX_ASKED);
        let mut answers = std::pin::pin!(answers);
        while let Some(answer) = answers.next().await {
            match answer? {
                (peer, Answer::Claims(claims)) => findings.add(peer, claims),
                (peer, Answer::Lie(lie)) => {
                    tracing::info!(%peer, %lie, "a false answer to a search: its sender is not asked for a while");
                    self.send(Command::Blame { peer }).await?;
                }
                (_, Answer::Nothing) => {}
            }
        }
        Ok(())
    }

    async fn ask_named(
        &self,
        named: Named,
        query: Query,
        wanted: Arc<Wanted>,
    ) -> Result<(NodeId, Answer), NodeStopped> {
        let Named { peer, connected } = named;
        let mut answer = self.ask_when(peer, connected, &query).await?;
        if matches!(
            answer,
            Some(Err(NetFault::Unreachable | NetFault::Cancelled))
        ) {
            // The connection was one of those that a node closes when it has too many. A new one is not the oldest.
            let (reply, connected) = oneshot::channel();
            self.send(Command::Reach { peer, reply }).await?;
            answer = self.ask_when(peer, connected, &query).await?;
        }
        let manifests = match answer {
            Some(Ok(Reply::Manifests {
                manifests,
                more: false,
            })) => manifests,
            // Nobody has to answer, or to be there any more.
            Some(Ok(Reply::NotFound | Reply::Busy)) | None => return Ok((peer, Answer::Nothing)),
            // What is longer than any answer may be is refused undecoded.
            Some(Ok(_) | Err(NetFault::Protocol)) => return Ok((peer, Answer::Lie(Lie::Form))),
            Some(Err(_)) => return Ok((peer, Answer::Nothing)),
        };
        let checked = blocking(move || check(&wanted, &manifests)).await?;
        Ok((peer, checked.map_or_else(Answer::Lie, Answer::Claims)))
    }

    /// Asks a peer when it is connected; `None` if it is not.
    async fn ask_when(
        &self,
        peer: NodeId,
        connected: oneshot::Receiver<Result<(), ConnectError>>,
        query: &Query,
    ) -> Result<Option<Result<Reply, NetFault>>, NodeStopped> {
        if !matches!(connected.await, Ok(Ok(()))) {
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        let query = query.clone();
        self.send(Command::Ask { peer, query, reply }).await?;
        Ok(answer.await.ok())
    }
}

/// As much of a text as a question holds.
fn beginning(text: &str) -> &str {
    let mut end = text.len().min(MAX_SEARCH_LEN);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod find_tests;
