//! What the sessions and the driver act through: the network, the store, the table of peers, the threads that work for
//! them. Nothing here decides.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Instant, SystemTime},
};

use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    check::ServerAnswer,
    driver::SessionId,
    error::{ConnectError, FetchError},
    event::Event,
    fetch::{prepare::Prepared, receive::Report},
    gate::Gate,
    naming::WordLookup,
    upload::Served,
};
use crate::{
    audience::Asker,
    content::{Address, ContentId, NodeId},
    download::RequestId,
    net::{
        BlocksId, LookupId, Net, NetFault, QueryId, ReplySlot, UploadId,
        wire::{Query, Reply},
    },
    peers::{FoundBy, PeerChange, Peers},
    rate::RateLimit,
    store::{Store, StoreError},
};

/// Queries of ours that may be unanswered at once.
const MAX_ASKED: usize = 4096;
/// Walks through the DHT at once.
const MAX_LOOKUPS: usize = 64;

/// Why a query was sent.
pub(crate) enum Asked {
    /// A session wants to know what a peer has.
    Have {
        session: SessionId,
        peer: NodeId,
        entries: bool,
    },
    /// A session wants a peer's manifests.
    Manifests { session: SessionId, peer: NodeId },
    /// A session wants more providers.
    Providers { session: SessionId, peer: NodeId },
    /// Only to tell: nobody waits for the answer.
    Nothing,
    /// The embedder asked.
    Embedder(oneshot::Sender<Result<Reply, NetFault>>),
}

/// Why there is a walk through the DHT.
pub(crate) enum LookupFor {
    /// A session looks for providers.
    Session(SessionId),
    /// The embedder does.
    Embedder(mpsc::Sender<Vec<NodeId>>),
    /// A search looks for those who share a name with a word.
    Word(WordLookup),
    /// We announce.
    Announce(ContentId),
    /// It is checked which servers hold its record.
    Check(ContentId, mpsc::Sender<ServerAnswer>),
}

/// Work that a thread has done.
pub(crate) enum Job {
    Prepared {
        session: SessionId,
        result: Result<Box<Prepared>, FetchError>,
    },
    Finished {
        session: SessionId,
        result: Result<(std::path::PathBuf, u64), FetchError>,
    },
    Saved {
        session: SessionId,
        result: Result<(), StoreError>,
    },
    Replied {
        peer: NodeId,
        slot: ReplySlot,
        reply: Reply,
        /// What the peer seems to be fetching, if it is something we have.
        wanted: Option<ContentId>,
    },
    Uploaded {
        upload: UploadId,
        served: Served,
    },
    /// Some of what was shared or fetched in earlier runs.
    Known(Result<super::announcing::Known, StoreError>),
    Received,
    PeersWritten,
    AnnouncedWritten,
}

/// Rate limits, and whom they spare.
pub(crate) struct Rates {
    pub(crate) upload: RateLimit,
    pub(crate) download: RateLimit,
    pub(crate) lan_exempt: bool,
}

/// See the module.
pub(crate) struct Hands {
    pub(crate) local: NodeId,
    pub(crate) net: Net,
    pub(crate) store: Store,
    pub(crate) gate: Arc<Gate>,
    /// Counts the values of feeds that were news.
    pub(crate) feed_news: watch::Sender<u64>,
    /// Whether content may go through relays.
    pub(crate) relay_data: bool,
    pub(crate) peers: Peers,
    pub(crate) asked: HashMap<QueryId, Asked>,
    pub(crate) lookups: HashMap<LookupId, LookupFor>,
    pub(crate) requests: HashMap<BlocksId, (SessionId, RequestId)>,
    /// Requests for blocks that may be open at once, over all sessions.
    pub(crate) max_requests: usize,
    /// The number of the next request for blocks.
    pub(crate) next_number: u64,
    pub(crate) connecting: BTreeMap<NodeId, Vec<oneshot::Sender<Result<(), ConnectError>>>>,
    pub(crate) jobs: JoinSet<Job>,
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) rates: Rates,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
    /// The table of peers changed since it was last published.
    pub(crate) peers_dirty: bool,
    /// A peer or an address of ours came or went: that is published at once.
    pub(crate) moved: bool,
    pub(crate) up_bytes: u64,
    pub(crate) down_bytes: u64,
}

impl Hands {
    /// Asks a connected peer. False if that cannot be.
    pub(crate) fn ask(&mut self, peer: NodeId, query: Query, why: Asked) -> bool {
        if self.asked.len() >= MAX_ASKED {
            return false;
        }
        match self.net.ask(peer, query) {
            Some(id) => {
                self.asked.insert(id, why);
                true
            }
            None => false,
        }
    }

    /// Tells a peer that the response to a request for blocks is no longer wanted.
    pub(crate) fn cancel(&mut self, peer: NodeId, number: u64) {
        self.ask(peer, Query::Cancel { number }, Asked::Nothing);
    }

    /// Looks for providers in the DHT. False if there is none, or enough is under way.
    pub(crate) fn lookup(&mut self, id: ContentId, why: LookupFor) -> bool {
        if self.lookups.len() >= MAX_LOOKUPS {
            return false;
        }
        match self.net.find_providers(id) {
            Some(lookup) => {
                self.lookups.insert(lookup, why);
                true
            }
            None => false,
        }
    }

    /// A peer was heard of.
    pub(crate) fn heard_of(&mut self, peer: NodeId, addresses: &[Address], by: FoundBy) {
        if peer == self.local {
            return;
        }
        self.peers.on_found(peer, None, by, self.wall);
        for address in addresses {
            self.peers
                .on_found(peer, Some(address.without_node()), by, self.wall);
        }
        self.peers_dirty = true;
    }

    /// Addresses that a peer, or the DHT, names for another: a stranger must not have us dial into our own network. The
    /// private ones count only from a neighbour, those of this machine only from this machine, and names from nobody.
    pub(crate) fn hearsay(&self, addresses: &[Address], from: Option<NodeId>) -> Vec<Address> {
        let remote = from
            .and_then(|peer| self.peers.info(peer))
            .and_then(|info| info.remote.as_ref());
        let near = remote.is_some_and(Address::is_private);
        let here = remote.is_some_and(Address::is_loopback);
        addresses
            .iter()
            .filter(
                |address| match (address.is_loopback(), address.is_private()) {
                    (true, _) => here,
                    (false, true) => near,
                    (false, false) => address.is_global_ip(),
                },
            )
            .cloned()
            .collect()
    }

    /// Verified bytes came from a peer.
    pub(crate) fn received(&mut self, peer: NodeId, bytes: u64) {
        self.down_bytes = self.down_bytes.saturating_add(bytes);
        self.peers.on_bytes(peer, 0, bytes, self.wall);
        self.peers_dirty = true;
    }

    /// Bytes went to a peer.
    pub(crate) fn sent(&mut self, peer: NodeId, bytes: u64) {
        self.up_bytes = self.up_bytes.saturating_add(bytes);
        self.peers.on_bytes(peer, bytes, 0, self.wall);
        self.peers_dirty = true;
    }

    /// Whether a peer is on loopback or a private network: by all the addresses it was reached at.
    fn is_near(&self, peer: NodeId) -> bool {
        self.peers
            .info(peer)
            .and_then(|info| info.remote.as_ref())
            .is_some_and(|address| address.is_private() && !address.is_relayed())
    }

    /// Whether a peer is met through a relay only, which is not for content.
    pub(crate) fn is_far(&self, peer: NodeId) -> bool {
        !self.relay_data && self.peers.is_relayed(peer)
    }

    /// A peer as one who asks for something.
    pub(crate) fn asker(&self, peer: NodeId) -> Asker {
        let near = self.is_near(peer);
        Asker { peer, near }
    }

    /// Changes the rate limits, also of what is under way; whom they spare, for what begins from now on.
    pub(crate) fn set_rates(
        &mut self,
        upload: Option<u64>,
        download: Option<u64>,
        lan_exempt: bool,
    ) {
        self.rates.upload.set(upload, self.now);
        self.rates.download.set(download, self.now);
        self.rates.lan_exempt = lan_exempt;
    }

    /// The limit on what is sent to a peer.
    pub(crate) fn upload_limit(&self, peer: NodeId) -> RateLimit {
        if self.rates.lan_exempt && self.is_near(peer) {
            return RateLimit::none();
        }
        self.rates.upload.clone()
    }

    /// The limit on what is received from a peer.
    pub(crate) fn download_limit(&self, peer: NodeId) -> RateLimit {
        if self.rates.lan_exempt && self.is_near(peer) {
            return RateLimit::none();
        }
        self.rates.download.clone()
    }

    /// Tells those who watch. That nobody does is no error.
    pub(crate) fn tell(&mut self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Tells of a change in the table of peers.
    pub(crate) fn tell_peer(&mut self, change: Option<PeerChange>) {
        self.peers_dirty = true;
        if let Some(change) = change {
            self.moved |= !matches!(change, PeerChange::Changed(_));
            self.tell(match change {
                PeerChange::Joined(info) => Event::PeerJoined(info),
                PeerChange::Left(info) => Event::PeerLeft(info),
                PeerChange::Changed(info) => Event::PeerChanged(info),
            });
        }
    }
}
