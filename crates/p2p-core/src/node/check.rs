//! Can others get this? What is here, what the DHT's servers say, who else has it, and whether this node is reached.

use std::{collections::BTreeSet, time::Duration};

use tokio::sync::mpsc;

use super::{
    Node,
    command::Command,
    doctor::Reachability,
    driver::{Driver, LookupFor},
    error::NodeError,
    query::ContentState,
    share::Announcement,
};
use crate::{
    config::{Config, DhtMode, NetworkConfig, RelayMode},
    content::{ContentId, NodeId},
    net::{
        HolderQuestion, Server,
        wire::{Query, Reply},
    },
    peers::PeerState,
};

/// Servers that keep a record; as many are asked.
const MAX_SERVERS: usize = 20;
/// Addresses that the stranger begins at.
const MAX_MET: usize = 32;
/// Between two looks for servers.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the servers of the DHT keep a record.
const RECORD_TTL: Duration = Duration::from_secs(48 * 3600);

/// What one server of the DHT says of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerAnswer {
    /// The server.
    pub server: NodeId,
    /// Whom it names; `None`: it did not answer.
    pub named: Option<Vec<NodeId>>,
}

/// Whether others can get a content, and why.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Check {
    /// What was checked.
    pub id: ContentId,
    /// How it is here; `None`: not at all.
    pub here: Option<ContentState>,
    /// How it stands with the DHT, as far as this node has announced it.
    pub announced: Announcement,
    /// How long the servers still keep what was announced.
    pub expires: Option<Duration>,
    /// The servers closest to it, and what each says now.
    pub servers: Vec<ServerAnswer>,
    /// Others who are named as providers.
    pub providers: Vec<NodeId>,
    /// Connected peers that have it, or some of it.
    pub holders: Vec<NodeId>,
    /// Whether this node can be reached.
    pub reachability: Reachability,
    /// Whether others can get it.
    pub available: bool,
    /// Why, or why not, and what to do; in plain words.
    pub verdict: String,
}

impl Node {
    /// Finds out whether others can get a content: what is here of it, what the servers of the DHT say, who else has it,
    /// and whether this node can be reached. It takes at most the time given.
    ///
    /// # Errors
    /// If the index cannot be read, or the node has stopped.
    pub async fn check(&self, id: ContentId, timeout: Duration) -> Result<Check, NodeError> {
        let store = self.store().clone();
        let info =
            super::blocking(move || store.refresh(id).and_then(|_| store.info(id))).await??;
        let here = info.map(|info| super::inventory::describe(info).state);
        let announced = self.announcement(id).await?;
        let servers = self.servers_say(id, timeout).await?;
        let holders = self.holders(id, timeout).await?;
        let named = servers.iter().filter_map(|answer| answer.named.as_ref());
        let named: BTreeSet<NodeId> = named.flatten().copied().collect();
        let mut check = Check {
            id,
            here,
            announced,
            expires: match announced {
                Announcement::Done(ago) => Some(RECORD_TTL.saturating_sub(ago)),
                _ => None,
            },
            providers: named
                .into_iter()
                .filter(|peer| *peer != self.id())
                .collect(),
            servers,
            holders,
            reachability: self.reachability().await?,
            available: false,
            verdict: String::new(),
        };
        (check.available, check.verdict) = judge(&check, self.id());
        Ok(check)
    }

    /// What the servers closest to a content say, asked by a stranger: a server names nobody to himself. The stranger is a
    /// node with new keys, which begins at the peers of this one and lives as long as the question.
    async fn servers_say(
        &self,
        id: ContentId,
        timeout: Duration,
    ) -> Result<Vec<ServerAnswer>, NodeError> {
        let Some(config) = self.stranger() else {
            return Ok(Vec::new());
        };
        let stranger = match Node::start(config).await {
            Ok(stranger) => stranger,
            Err(error) => {
                tracing::warn!(%error, "the servers cannot be asked");
                return Ok(Vec::new());
            }
        };
        let mut servers = Vec::new();
        let asking = async {
            // It may not have met anybody yet.
            while servers.is_empty() {
                stranger.ask_servers(id, &mut servers).await?;
                tokio::time::sleep(PAUSE).await;
            }
            Ok::<_, NodeError>(())
        };
        // Running out of time is one of the two ways for it to end.
        let ended = tokio::time::timeout(timeout, asking).await;
        stranger.shutdown().await;
        ended.unwrap_or(Ok(()))?;
        servers.retain(|answer| answer.server != self.id());
        Ok(servers)
    }

    /// `None` if there is nobody to begin at.
    fn stranger(&self) -> Option<Config> {
        let ours = &self.inner.network;
        if ours.dht == DhtMode::Off {
            return None;
        }
        let mut config = Config::default().in_memory();
        config.network = NetworkConfig {
            listen: Vec::new(),
            external: Vec::new(),
            mdns: false,
            upnp: false,
            dht: DhtMode::Client,
            relay: RelayMode::Off,
            ..ours.clone()
        };
        let peers = self.peers().into_iter();
        let peers = peers.filter(|info| info.state == PeerState::Connected && !info.relayed);
        let met = peers.flat_map(|info| {
            let direct = info.addresses.into_iter().filter(|a| !a.is_relayed());
            direct
                .take(2)
                .map(move |address| address.with_node(info.peer))
        });
        config.network.bootstrap = met.take(MAX_MET).collect();
        (!config.network.bootstrap.is_empty()).then_some(config)
    }

    async fn ask_servers(
        &self,
        id: ContentId,
        servers: &mut Vec<ServerAnswer>,
    ) -> Result<(), NodeError> {
        let (answers, mut answered) = mpsc::channel(MAX_SERVERS);
        self.send(Command::Check { id, answers }).await?;
        while let Some(answer) = answered.recv().await {
            servers.push(answer);
        }
        Ok(())
    }

    /// Connected peers that have some of it.
    async fn holders(&self, id: ContentId, timeout: Duration) -> Result<Vec<NodeId>, NodeError> {
        let query = Query::Have {
            content: id,
            entries: false,
            known: None,
        };
        let have = self.ask_all(&query, timeout).await?.into_iter();
        let have = have.filter(|(_, reply)| matches!(reply, Reply::Have { .. }));
        Ok(have.map(|(peer, _)| peer).collect())
    }
}

impl Driver {
    /// Asks the servers closest to a content, one by one; the channel closes when all have answered.
    pub(super) fn check(&mut self, id: ContentId, answers: mpsc::Sender<ServerAnswer>) {
        if let Some(lookup) = self.hands.net.find_servers(id) {
            let why = LookupFor::Check(id, answers);
            self.hands.lookups.insert(lookup, why);
        }
    }

    pub(super) fn check_servers(
        &mut self,
        id: ContentId,
        servers: &[Server],
        answers: &mpsc::Sender<ServerAnswer>,
    ) {
        for server in servers.iter().take(MAX_SERVERS) {
            let asked = self.hands.net.ask_holder(server, id);
            if let (Some(question), Some(node)) = (asked, server.node()) {
                self.holder_questions
                    .insert(question, (node, answers.clone()));
            }
        }
    }

    pub(super) fn on_holder(&mut self, question: HolderQuestion, named: Option<Vec<NodeId>>) {
        if let Some((server, answers)) = self.holder_questions.remove(&question) {
            // There is room for all that are asked; who does not listen does not hear.
            let _ = answers.try_send(ServerAnswer { server, named });
        }
    }
}

/// Whether others can get it, and why.
fn judge(check: &Check, local: NodeId) -> (bool, String) {
    let names_us = |answer: &&ServerAnswer| {
        let named = answer.named.as_ref();
        named.is_some_and(|named| named.contains(&local))
    };
    let held = check.servers.iter().filter(names_us).count();
    let answered = check.servers.iter().filter(|a| a.named.is_some()).count();
    let others = check.providers.len().max(check.holders.len());
    let complete = check.here == Some(ContentState::Complete);
    let others_text = match others {
        0 => String::new(),
        n => format!(" {n} others have it or say so."),
    };
    if !complete {
        let here = match check.here {
            None => "It is not here",
            Some(ContentState::Partial) => "It is here in part",
            Some(ContentState::Changed) => "Its file was altered, and is not served",
            Some(_) => "Its file is gone",
        };
        return match others {
            0 => (
                false,
                format!("{here}, and nobody else is known to have it."),
            ),
            _ => (true, format!("{here}.{others_text}")),
        };
    }
    let (can, why) = match (&check.reachability, held) {
        (_, 0) if check.announced == Announcement::Off => (
            !check.holders.is_empty(),
            "It is not announced: it is found by connected peers and by its tickets only.".to_owned(),
        ),
        (_, 0) if answered == 0 => (
            others > 0,
            "No server of the DHT answered: it is found by connected peers and by its tickets only. Name a node that is \
             usually on in [network] bootstrap."
                .to_owned(),
        ),
        (_, 0) => (
            others > 0,
            format!(
                "None of {answered} servers of the DHT names this node yet. If that stays so for some minutes, look at \
                 `shares` and `doctor`."
            ),
        ),
        (Reachability::Unreachable, held) => (
            others > 0,
            format!(
                "{held} of {answered} servers name this node, but others could not connect to it. `doctor` says what to do."
            ),
        ),
        (Reachability::Direct(_), held) => (
            true,
            format!("{held} of {answered} servers name this node, and others reach it."),
        ),
        (Reachability::Relayed, held) => (
            true,
            format!("{held} of {answered} servers name this node, and others meet it at a relay."),
        ),
        (Reachability::Unknown, held) => (
            true,
            format!(
                "{held} of {answered} servers name this node. Whether others reach it from beyond the local network, nobody \
                 has tried yet."
            ),
        ),
    };
    (can, format!("{why}{others_text}"))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
