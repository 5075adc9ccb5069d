//! Questions that a handle asks the store and the peers: shares, contents, providers, names, catalogs, tickets.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use super::{
    Node, NodeStopped, blocking,
    command::Command,
    error::{FetchError, NodeError},
    fetch::{FetchTarget, Outcome},
    inventory::{PAGE, describe, remove, share_infos},
    share::{Announcement, ShareInfo, ShareState},
};
use crate::{
    announce::Announced,
    content::{
        Collection, ContentId, Entry, Kind, NodeId, Provider, PublisherKey, SignedManifest, Ticket,
        TrustPolicy,
    },
    net::{
        NetFault,
        wire::{Query, Reply},
    },
    peers::{PeerInfo, PeerState},
    store::Store,
};

/// Pages of one peer's catalog that are read: 256 shares each.
const MAX_CATALOG_PAGES: usize = 4096;
/// Whoever is asked by the way has this long for an answer.
const ANSWERS: Duration = Duration::from_secs(10);
/// Between two searches for providers while there are none.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

/// Something that a peer shares publicly.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatalogEntry {
    /// Its id.
    pub id: ContentId,
    /// The name it goes by.
    pub name: String,
    /// Its size in bytes; of a folder, of its listing.
    pub size: u64,
    /// File or folder.
    pub kind: Kind,
    /// Who signed it.
    pub publisher: PublisherKey,
}

/// What is in a folder, without having fetched it; of a file, the file alone.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listing {
    /// Its id.
    pub id: ContentId,
    /// The name it goes by, if a manifest says.
    pub name: Option<String>,
    /// File or folder.
    pub kind: Kind,
    /// Its size in bytes; of a folder, all files together.
    pub size: u64,
    /// The files of a folder, by path.
    pub entries: Vec<Entry>,
}

/// Something that the node has, or is fetching.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ContentInfo {
    /// Its id.
    pub id: ContentId,
    /// The name it goes by, if a manifest says.
    pub name: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// Blocks that are here.
    pub held: u32,
    /// Blocks that it has.
    pub blocks: u32,
    /// File or folder, if a manifest says.
    pub kind: Option<Kind>,
    /// Whether it is all here.
    pub state: ContentState,
    /// Where it lies, unless in the store itself.
    pub path: Option<PathBuf>,
    /// Whether this node fetched it, as opposed to sharing what was there.
    pub download: bool,
    /// When it came, in Unix seconds.
    pub added: u64,
    /// When it was last read, in Unix seconds, to the hour.
    pub last_used: u64,
}

/// Some of what the node has, in the order of ids.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ContentPage {
    /// These.
    pub contents: Vec<ContentInfo>,
    /// What to ask [`Node::contents_after`] for the next; `None` if these were the last.
    pub next: Option<ContentId>,
}

/// Whether content is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContentState {
    /// All of it.
    Complete,
    /// Some of it.
    Partial,
    /// It was altered, and is not served.
    Changed,
    /// It is gone.
    Missing,
}

impl Node {
    pub(super) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, NodeStopped> {
        let store = self.store().clone();
        blocking(move || work(&store)).await
    }

    /// How an id stands with the DHT.
    pub(super) async fn announcement(&self, id: ContentId) -> Result<Announcement, NodeError> {
        let (reply, states) = oneshot::channel();
        let ids = vec![id];
        self.send(Command::Announced { ids, reply }).await?;
        let states = states.await.map_err(|_| NodeStopped)?;
        Ok(announcement(states.into_iter().next().flatten()))
    }

    /// What is shared, each looked at now.
    ///
    /// # Errors
    /// If the index cannot be read, or the node has stopped.
    pub async fn shares(&self) -> Result<Vec<ShareInfo>, NodeError> {
        let sizes = Arc::clone(&self.inner.folder_sizes);
        let infos = self.with_store(move |store| share_infos(store, &sizes));
        let mut infos = infos.await??;
        let (reply, states) = oneshot::channel();
        let ids = infos.iter().map(|info| info.id).collect();
        self.send(Command::Announced { ids, reply }).await?;
        let states = states.await.map_err(|_| NodeStopped)?;
        for (info, state) in infos.iter_mut().zip(states) {
            info.announced = announcement(state);
        }
        let pending = self.inner.follower.pending();
        for info in &mut infos {
            if info.state == ShareState::Ok && pending.contains(&info.path) {
                info.state = ShareState::Changed;
            }
        }
        Ok(infos)
    }

    /// How many shares there are.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn share_count(&self) -> Result<u64, NodeError> {
        Ok(self.with_store(Store::share_count).await??)
    }

    /// Everything the node has or is fetching, by id. A store may have millions: see [`Node::contents_after`].
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn contents(&self) -> Result<Vec<ContentInfo>, NodeError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.contents_after(after).await?;
            all.extend(page.contents);
            after = page.next;
            if after.is_none() {
                return Ok(all);
            }
        }
    }

    /// The next of what the node has or is fetching, by id: some thousands after an id, or from the first.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn contents_after(&self, after: Option<ContentId>) -> Result<ContentPage, NodeError> {
        let page = self.with_store(move |store| store.contents_after(after, PAGE));
        let (contents, next) = page.await??;
        Ok(ContentPage {
            contents: contents.into_iter().map(describe).collect(),
            next,
        })
    }

    /// Forgets content, a folder with its files: it is no longer shared, served or known. Files stay unless
    /// `delete_files`, and even then only those that this node fetched go. Returns the files deleted.
    ///
    /// # Errors
    /// If the node does not know it, or the index or a file cannot be written.
    pub async fn remove(
        &self,
        id: ContentId,
        delete_files: bool,
    ) -> Result<Vec<PathBuf>, NodeError> {
        let removed = self.with_store(move |store| {
            if store.info(id)?.is_none() {
                return Err(NodeError::NotFound(format!("{id} is not here")));
            }
            Ok(remove(store, id, delete_files)?)
        });
        let (ids, deleted) = removed.await??;
        for id in ids {
            self.send(Command::Unshared { id }).await?;
        }
        Ok(deleted)
    }

    /// A fresh ticket that names this node as the provider.
    ///
    /// # Errors
    /// If the node has no manifest of it.
    pub async fn ticket(&self, id: ContentId) -> Result<Ticket, NodeError> {
        let ours = self.publisher();
        let manifests = self.with_store(move |store| store.manifests(id)).await??;
        let mine = manifests.iter().find(|m| m.claims().publisher == ours);
        let manifest = mine.or(manifests.first()).ok_or_else(|| {
            NodeError::NotFound(format!("{id} is not here: share or fetch it first"))
        })?;
        Ok(self.ticket_of(manifest.clone()))
    }

    /// Who has this content: the connected peers that say so, and those the DHT names. If nobody does, the search goes
    /// on for the time given; it takes at most that long in any case.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn providers(
        &self,
        id: ContentId,
        timeout: Duration,
    ) -> Result<Vec<Provider>, NodeError> {
        let mut providers = BTreeSet::new();
        let search = async {
            loop {
                self.find_providers(id, &mut providers).await?;
                if !providers.is_empty() {
                    return Ok::<(), NodeStopped>(());
                }
                tokio::time::sleep(SEARCH_PAUSE).await;
            }
        };
        // Running out of time is one of the two ways for a search to end.
        if let Ok(ended) = tokio::time::timeout(timeout, search).await {
            ended?;
        }
        let known = self.peers();
        let addresses = |peer: NodeId| {
            let info = known.iter().find(|info: &&PeerInfo| info.peer == peer);
            info.map(|info| info.addresses.clone()).unwrap_or_default()
        };
        Ok(providers
            .into_iter()
            .map(|peer| Provider::new(peer, addresses(peer)))
            .collect())
    }

    /// Asks the connected peers and the DHT once.
    async fn find_providers(
        &self,
        id: ContentId,
        providers: &mut BTreeSet<NodeId>,
    ) -> Result<(), NodeStopped> {
        let (found, mut named) = mpsc::channel(64);
        self.send(Command::Lookup { id, found }).await?;
        let query = Query::Have {
            content: id,
            entries: false,
            known: None,
        };
        for (peer, reply) in self.ask_all(&query, ANSWERS).await? {
            if matches!(reply, Reply::Have { .. }) {
                providers.insert(peer);
            }
        }
        while let Some(peers) = named.recv().await {
            providers.extend(peers);
        }
        Ok(())
    }

    /// What a peer shares publicly. It is connected to first, if it is not and an address is known.
    ///
    /// # Errors
    /// If it cannot be reached or does not answer.
    pub async fn catalog(&self, peer: NodeId) -> Result<Vec<CatalogEntry>, NodeError> {
        let known = self.peers().into_iter().find(|info| info.peer == peer);
        match known {
            Some(info) if info.state == PeerState::Connected => {}
            Some(info) if !info.addresses.is_empty() => {
                let mut last = None;
                for address in info.addresses {
                    match self.connect(address.with_node(peer)).await {
                        Ok(_) => {
                            last = None;
                            break;
                        }
                        Err(error) => last = Some(error),
                    }
                }
                last.map_or(Ok(()), Err)?;
            }
            _ => {
                let why = format!("no address of {peer} is known; connect to it first");
                return Err(NodeError::NotFound(why));
            }
        }
        let mut entries: Vec<CatalogEntry> = Vec::new();
        let mut after = None;
        for _ in 0..MAX_CATALOG_PAGES {
            let reply = self.ask(peer, Query::Catalog { after }).await?;
            let Reply::Manifests { manifests, more } = reply else {
                break;
            };
            let last = manifests.last().map(|m| m.claims().content);
            entries.extend(entries_of(&manifests));
            // A peer that repeats itself would otherwise be listened to for ever.
            if !more || last <= after {
                break;
            }
            after = last;
        }
        Ok(entries)
    }

    /// What is in a folder, without fetching its files; of a file, the file alone.
    ///
    /// # Errors
    /// As of a fetch.
    pub async fn list(
        &self,
        what: impl Into<FetchTarget>,
        timeout: Duration,
    ) -> Result<Listing, FetchError> {
        let what = what.into();
        let id = what.id();
        let fetch = self.fetch(what).listing_only().timeout(timeout);
        match fetch.start().await?.outcome().await? {
            Outcome::Listed { name, listed } => Ok(listing(id, name, listed)),
            Outcome::Fetched(fetched) => Ok(Listing {
                id,
                name: None,
                kind: Kind::File,
                size: fetched.size,
                entries: Vec::new(),
            }),
        }
    }

    async fn ask(&self, peer: NodeId, query: Query) -> Result<Reply, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Ask { peer, query, reply }).await?;
        let answer = answer.await.map_err(|_| NodeError::NoAnswer {
            peer,
            why: "it is not connected",
        })?;
        answer.map_err(|fault| NodeError::NoAnswer {
            peer,
            why: match fault {
                NetFault::Unreachable | NetFault::Cancelled => "the connection was lost",
                NetFault::Timeout => "it took too long",
                NetFault::Unsupported => "it does not speak this protocol",
                NetFault::Protocol => "its answer is malformed",
            },
        })
    }

    /// Asks all connected peers; those that do not answer in time are left out.
    pub(super) async fn ask_all(
        &self,
        query: &Query,
        time: Duration,
    ) -> Result<Vec<(NodeId, Reply)>, NodeStopped> {
        let peers = self.peers();
        let ours = peers
            .iter()
            .filter(|info| info.state == PeerState::Connected && info.speaks_ours != Some(false));
        let asked: FuturesUnordered<_> = ours
            .map(|info| async { (info.peer, self.ask(info.peer, query.clone()).await) })
            .collect();
        let mut asked = asked.take_until(Box::pin(tokio::time::sleep(time)));
        let mut replies = Vec::new();
        while let Some((peer, answer)) = asked.next().await {
            match answer {
                Ok(reply) => replies.push((peer, reply)),
                Err(NodeError::Stopped(stopped)) => return Err(stopped),
                Err(error) => tracing::debug!(%error, "no answer"),
            }
        }
        Ok(replies)
    }
}

/// Manifests whose signature verifies, as entries. A peer may say anything.
fn entries_of(manifests: &[SignedManifest]) -> Vec<CatalogEntry> {
    manifests
        .iter()
        .filter_map(|manifest| manifest.verify(&TrustPolicy::Signed).ok())
        .map(|manifest| CatalogEntry {
            id: manifest.content,
            name: manifest.name.clone(),
            size: manifest.size,
            kind: manifest.kind,
            publisher: manifest.publisher,
        })
        .collect()
}

/// What a session found out about something that was to be listed.
#[derive(Debug)]
pub(crate) enum Listed {
    Folder(Arc<Collection>),
    File { size: u64 },
}

fn listing(id: ContentId, name: Option<String>, listed: Listed) -> Listing {
    match listed {
        Listed::Folder(collection) => Listing {
            id,
            name,
            kind: Kind::Collection,
            size: collection.total_size(),
            entries: collection.entries().to_vec(),
        },
        Listed::File { size } => Listing {
            id,
            name,
            kind: Kind::File,
            size,
            entries: Vec::new(),
        },
    }
}

fn announcement(state: Option<Announced>) -> Announcement {
    match state {
        Some(Announced::Done(ago)) => Announcement::Done(ago),
        Some(Announced::Due) => Announcement::Due,
        Some(Announced::Failed) => Announcement::Failed,
        None => Announcement::Off,
    }
}
