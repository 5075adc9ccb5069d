//! The one loop of a node: the only `select!`, the only clock. It routes; what happens is decided by the sessions, the
//! announcer, the admission and the table of peers, and done through [`Hands`]. No handler waits for anything.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinError,
};

pub(crate) use super::hands::{Asked, Hands, Job, LookupFor};
use super::{
    address_book,
    answer::{self, Known},
    catalog::Catalog,
    command::Command,
    error::{ConnectError, FetchError},
    event::Event,
    fetch::{
        Order, Outcome, Progress,
        receive::Report,
        session::{Session, Summary},
    },
    status::{Published, Status},
    upload,
};
use crate::{
    announce::Announcer,
    content::{Address, ContentId, NodeId, Provider},
    net::{
        AnswerSlot, FRAME_QUEUE, NetEvent, ReplySlot, UploadId,
        wire::{BlocksRequest, EndStatus, Frame, Query, Reply},
    },
    peers::FoundBy,
    serve::{Admission, Admitted},
};

/// Names a fetch of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// Queries of one peer being answered at once; beyond it it is told to come back. `Have` waits on purpose, so that one peer
/// must not take what all share.
const ANSWERS_PER_PEER: usize = 16;
/// Peers with queries being answered at once.
const MAX_ANSWERED: usize = 256;
/// A peer that asked for blocks counts as a provider for this long.
const ASKER_TTL: Duration = Duration::from_secs(120);
/// Contents whose askers are remembered, and askers of each.
const MAX_ASKED_FOR: usize = 256;
const MAX_ASKERS: usize = 64;
/// Peers are told of in an answer: enough to go on with.
const PROVIDERS_TOLD: usize = 20;
/// Commands and reports handled before the network has its turn again.
const BUDGET: usize = 64;
/// The longest sleep: address book, idle peers and lost neighbours are looked at this often.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// Listings and numbers are published at most this often.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// A peer told to come back is told when.
const BUSY_RETRY_MS: u32 = 500;
/// The announcement of a folder's files is spread out: one in this time.
const ENTRY_PAUSE: Duration = Duration::from_millis(50);
/// Peers asked to be reached again after they were lost.
const MAX_REDIALS: usize = 16;

/// A request of a peer that is served or waits.
struct Upload {
    peer: NodeId,
    /// The asker's number for it.
    number: u64,
    /// Dropped to cancel.
    cancel: Option<oneshot::Sender<()>>,
    cancelled: Option<oneshot::Receiver<()>>,
    request: Option<(BlocksRequest, AnswerSlot)>,
    /// The response is written, or given up.
    ended: bool,
    /// The thread that reads the disk for it is done.
    served: bool,
}

/// See the module.
pub(super) struct Driver {
    pub(super) hands: Hands,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    /// Orders for content that another session is fetching; they start when it ends.
    pub(super) queued: Vec<QueuedFetch>,
    pub(super) next_session: u64,
    pub(super) announcer: Announcer,
    pub(super) admission: Admission<UploadId>,
    uploads: HashMap<UploadId, Upload>,
    /// Queries of each peer being answered.
    answers: BTreeMap<NodeId, usize>,
    /// Peers that lately asked for blocks, by content: they have, or will soon have, some themselves.
    askers: BTreeMap<ContentId, BTreeMap<NodeId, Instant>>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) bootstrap: Vec<Address>,
    pub(super) max_peers: usize,
    pub(super) data_dir: PathBuf,
    pub(super) listening: Vec<Address>,
    pub(super) external: Vec<Address>,
    pub(super) published: watch::Sender<Published>,
    published_at: Instant,
    dirty: bool,
    kept_at: Instant,
    has_dht: bool,
    had_servers: bool,
    pub(super) status: Status,
}

/// A fetch that waits for another of the same content.
pub(super) struct QueuedFetch {
    number: SessionId,
    order: Box<Order>,
    progress: watch::Sender<Progress>,
    reply: oneshot::Sender<Result<Outcome, FetchError>>,
}

/// The only line that reads the clock.
pub(crate) fn clock() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

/// What one turn of the loop waits for.
enum Turn {
    Job(Option<Result<Job, JoinError>>),
    Command(Option<Command>),
    Report(Option<Report>),
    Net(Box<NetEvent>),
    Deadline,
}

impl Driver {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        hands: Hands,
        commands: mpsc::Receiver<Command>,
        reports: mpsc::Receiver<Report>,
        catalog: Catalog,
        config: &crate::config::Config,
        status: Status,
        published: watch::Sender<Published>,
    ) -> Self {
        let now = hands.now;
        Self {
            hands,
            commands,
            reports,
            sessions: BTreeMap::new(),
            queued: Vec::new(),
            next_session: 0,
            announcer: Announcer::default(),
            admission: Admission::new(config.limits.upload_slots as usize),
            uploads: HashMap::new(),
            answers: BTreeMap::new(),
            askers: BTreeMap::new(),
            catalog: Arc::new(catalog),
            bootstrap: config.network.bootstrap.clone(),
            max_peers: config.limits.max_peers as usize,
            data_dir: config.data_dir.clone(),
            listening: Vec::new(),
            external: Vec::new(),
            published,
            published_at: now,
            dirty: true,
            kept_at: now,
            has_dht: config.network.dht != crate::config::DhtMode::Off,
            had_servers: false,
            status,
        }
    }

    /// Announces what is known from earlier runs, spread out.
    pub(super) fn announce_later(&mut self, ids: Vec<ContentId>) {
        let mut due = self.hands.now;
        for id in ids {
            self.announce(id, due);
            due += ENTRY_PAUSE;
        }
    }

    fn announce(&mut self, id: ContentId, due: Instant) {
        if self.has_dht {
            self.announcer.add(id, due);
        }
    }

    /// Runs until it is told to stop, or nobody holds a handle any more.
    pub(super) async fn run(mut self) {
        self.dial_known();
        let done = loop {
            (self.hands.now, self.hands.wall) = clock();
            self.pump();
            let deadline = tokio::time::Instant::from_std(self.next_deadline());
            let turn = tokio::select! {
                biased;
                job = self.hands.jobs.join_next(), if !self.hands.jobs.is_empty() => Turn::Job(job),
                command = self.commands.recv() => Turn::Command(command),
                report = self.reports.recv() => Turn::Report(report),
                event = self.hands.net.next_event() => Turn::Net(Box::new(event)),
                () = tokio::time::sleep_until(deadline) => Turn::Deadline,
            };
            (self.hands.now, self.hands.wall) = clock();
            match turn {
                Turn::Job(job) => self.on_job(job),
                Turn::Command(None) => break None,
                Turn::Command(Some(Command::Shutdown { done })) => break Some(done),
                Turn::Command(Some(command)) => self.on_command(command),
                Turn::Report(report) => self.on_reports(report),
                Turn::Net(event) => self.on_net(*event),
                Turn::Deadline => self.on_deadline(),
            }
        };
        self.stop(done).await;
    }

    /// Ends what is under way, saves what has arrived, and lets go of the network first.
    async fn stop(mut self, done: Option<oneshot::Sender<()>>) {
        let mut unsaved = Vec::new();
        for (_, mut session) in std::mem::take(&mut self.sessions) {
            session.interrupt();
            unsaved.extend(session.conclude().unsaved);
        }
        let store = self.hands.store.clone();
        let book = address_book::of(&self.hands.peers.list());
        let data_dir = self.data_dir.clone();
        let saved = tokio::task::spawn_blocking(move || {
            if let Err(error) = store.checkpoint(&unsaved) {
                tracing::warn!(%error, "what has arrived could not be saved");
            }
            address_book::write(&data_dir, &book);
        });
        if saved.await.is_err() {
            tracing::error!("the saving thread failed");
        }
        // Closes every connection, and with them the channels that the working threads read and write.
        drop(self);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn pump(&mut self) {
        while let Some(id) = self.announcer.next(self.hands.now) {
            match self.hands.net.announce(id) {
                Some(lookup) => {
                    self.hands.lookups.insert(lookup, LookupFor::Announce(id));
                }
                None => self.announcer.on_result(id, false, self.hands.now),
            }
        }
        while let Some(upload) = self.admission.next() {
            self.serve(upload);
        }
        self.conclude_sessions();
        self.publish();
    }

    fn next_deadline(&self) -> Instant {
        let mut deadline = self.kept_at + HOUSEKEEPING;
        if self.dirty || self.hands.peers_dirty {
            deadline = deadline.min(self.published_at + PUBLISH_EVERY);
        }
        if let Some(due) = self.announcer.next_deadline() {
            deadline = deadline.min(due);
        }
        for session in self.sessions.values() {
            deadline = deadline.min(session.next_deadline(self.hands.now));
        }
        deadline
    }

    fn on_deadline(&mut self) {
        let now = self.hands.now;
        for session in self.sessions.values_mut() {
            if session.next_deadline(now) <= now {
                session.on_tick(&mut self.hands);
            }
        }
        if now.saturating_duration_since(self.kept_at) >= HOUSEKEEPING {
            self.kept_at = now;
            self.keep_house();
        }
    }

    fn keep_house(&mut self) {
        self.hands.net.sweep(self.hands.now);
        self.dirty = true;
        let spare = self.max_peers.saturating_sub(self.max_peers / 8);
        let connected = self.hands.peers.connected();
        if connected > spare {
            for peer in self.hands.peers.idle().into_iter().take(connected - spare) {
                self.hands.net.disconnect(peer);
            }
        }
        self.dial_lost();
        let now = self.hands.now;
        self.askers.retain(|_, askers| {
            askers.retain(|_, seen| now.saturating_duration_since(*seen) < ASKER_TTL);
            !askers.is_empty()
        });
        let book = address_book::of(&self.hands.peers.list());
        let data_dir = self.data_dir.clone();
        self.hands.jobs.spawn_blocking(move || {
            address_book::write(&data_dir, &book);
            Job::PeersWritten
        });
    }

    /// Bootstrap peers and neighbours that are not connected are tried again.
    fn dial_lost(&mut self) {
        let lost: Vec<NodeId> = self
            .hands
            .peers
            .list()
            .into_iter()
            .filter(|info| !self.hands.peers.is_connected(info.peer))
            .filter(|info| {
                info.found.contains(&FoundBy::Bootstrap) || info.found.contains(&FoundBy::Mdns)
            })
            .map(|info| info.peer)
            .take(MAX_REDIALS)
            .collect();
        for peer in lost {
            let addresses = self.hands.peers.addresses(peer).to_vec();
            self.hands.net.dial(peer, &addresses);
        }
    }

    fn dial_known(&mut self) {
        for address in std::mem::take(&mut self.bootstrap) {
            if let Some(peer) = address.node() {
                self.hands
                    .heard_of(peer, &[address.without_node()], FoundBy::Bootstrap);
            }
        }
        let known: Vec<NodeId> = self
            .hands
            .peers
            .list()
            .into_iter()
            .map(|info| info.peer)
            .collect();
        for peer in known {
            let addresses = self.hands.peers.addresses(peer).to_vec();
            self.hands.net.dial(peer, &addresses);
        }
    }

    fn on_job(&mut self, job: Option<Result<Job, JoinError>>) {
        let job = match job {
            Some(Ok(job)) => job,
            Some(Err(error)) => {
                // A thread that panics is a defect of ours. What it worked for runs into its time limit.
                tracing::error!(%error, "a working thread failed");
                return;
            }
            None => return,
        };
        match job {
            Job::Prepared { session, result } => {
                self.with_session(session, |s, hands| s.on_prepared(result, hands));
            }
            Job::Finished { session, result } => {
                self.with_session(session, |s, hands| s.on_finished(result, hands));
            }
            Job::Saved { session, result } => {
                self.with_session(session, |s, _| s.on_checkpoint(result));
            }
            Job::Replied { peer, slot, reply } => {
                if let Some(count) = self.answers.get_mut(&peer) {
                    *count = count.saturating_sub(1);
                }
                self.answers.retain(|_, count| *count > 0);
                self.hands.net.reply(slot, reply);
            }
            Job::Uploaded { upload, served } => self.on_uploaded(upload, served),
            Job::Received | Job::PeersWritten => {}
        }
    }

    fn with_session(&mut self, session: SessionId, act: impl FnOnce(&mut Session, &mut Hands)) {
        if let Some(session) = self.sessions.get_mut(&session) {
            act(session, &mut self.hands);
        }
    }

    fn on_reports(&mut self, first: Option<Report>) {
        let mut next = first;
        for _ in 0..BUDGET {
            let Some(report) = next else { break };
            self.with_session(report.session, |s, hands| s.on_report(report, hands));
            next = self.reports.try_recv().ok();
        }
        // The budget may have run out with one in hand.
        if let Some(report) = next {
            self.with_session(report.session, |s, hands| s.on_report(report, hands));
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Shared {
                manifest,
                unlisted,
                entries,
            } => {
                let claims = manifest.claims();
                let (id, name, size) = (claims.content, claims.name.clone(), claims.size);
                self.announce(id, self.hands.now);
                let mut due = self.hands.now;
                for entry in entries {
                    due += ENTRY_PAUSE;
                    self.announce(entry, due);
                }
                let catalog = Arc::make_mut(&mut self.catalog);
                if unlisted {
                    catalog.remove(id);
                } else {
                    catalog.insert(*manifest);
                }
                self.dirty = true;
                self.hands.tell(Event::Shared { id, name, size });
            }
            Command::Unshared { id } => {
                Arc::make_mut(&mut self.catalog).remove(id);
                self.announcer.remove(id);
                self.hands.net.withdraw(id);
                self.dirty = true;
                self.hands.tell(Event::Unshared { id });
            }
            Command::Fetch {
                order,
                progress,
                reply,
                started,
            } => {
                let number = SessionId(self.next_session);
                self.next_session += 1;
                // The handle was dropped if this fails; the session will notice.
                let _ = started.send(number);
                self.fetch(QueuedFetch {
                    number,
                    order,
                    progress,
                    reply,
                });
            }
            Command::Prioritise { session, blocks } => {
                self.with_session(session, |s, hands| s.set_priority(blocks, hands));
            }
            Command::Connect {
                peer,
                address,
                reply,
            } => self.connect(peer, &address, reply),
            Command::Ask { peer, query, reply } => {
                // A peer that cannot be asked drops the sender, which says so.
                self.hands.ask(peer, query, Asked::Embedder(reply));
            }
            Command::Lookup { id, found } => {
                self.hands.lookup(id, LookupFor::Embedder(found));
            }
            Command::Announced { ids, reply } => {
                let states = ids.iter().map(|id| self.announcer.state(*id)).collect();
                let _ = reply.send(states);
            }
            Command::Shutdown { .. } => {}
        }
    }

    fn connect(
        &mut self,
        peer: NodeId,
        address: &Address,
        reply: oneshot::Sender<Result<(), ConnectError>>,
    ) {
        self.hands
            .heard_of(peer, &[address.without_node()], FoundBy::Manual);
        if self.hands.peers.is_connected(peer) {
            let _ = reply.send(Ok(()));
            return;
        }
        if peer == self.hands.local || !self.hands.net.dial_now(peer, &[address.without_node()]) {
            let why = "the address is this node's own, or not one that may be dialled".to_owned();
            let _ = reply.send(Err(ConnectError::Failed { peer, why }));
            return;
        }
        self.hands.connecting.entry(peer).or_default().push(reply);
    }

    fn fetch(&mut self, fetch: QueuedFetch) {
        let number = fetch.number;
        if self.sessions.values().any(|s| s.id == fetch.order.id) {
            return self.queued.push(fetch);
        }
        self.hands.tell(Event::FetchStarted { id: fetch.order.id });
        let now = self.hands.now;
        let mut session = Session::new(number, *fetch.order, fetch.progress, fetch.reply, now);
        session.start(&mut self.hands);
        self.sessions.insert(number, session);
        self.dirty = true;
    }

    fn conclude_sessions(&mut self) {
        while let Some(number) = self
            .sessions
            .iter()
            .find(|(_, session)| session.is_over())
            .map(|(number, _)| *number)
        {
            let Some(mut session) = self.sessions.remove(&number) else {
                return;
            };
            session.cancel_requests(&mut self.hands);
            self.dirty = true;
            let concluded = session.conclude();
            let id = concluded.id;
            match concluded.summary {
                Summary::Fetched(fetched) => {
                    self.announce(id, self.hands.now);
                    self.hands.tell(Event::FetchCompleted {
                        id,
                        path: fetched.path,
                        size: fetched.size,
                    });
                }
                Summary::Listed => {}
                Summary::Failed(reason) => {
                    self.hands.tell(Event::FetchFailed { id, reason });
                }
            }
            if !concluded.unsaved.is_empty() {
                let store = self.hands.store.clone();
                self.hands.jobs.spawn_blocking(move || Job::Saved {
                    session: number,
                    result: store.checkpoint(&concluded.unsaved),
                });
            }
            if let Some(at) = self.queued.iter().position(|fetch| fetch.order.id == id) {
                let fetch = self.queued.remove(at);
                self.fetch(fetch);
            }
        }
    }

    fn on_net(&mut self, event: NetEvent) {
        let wall = self.hands.wall;
        match event {
            NetEvent::Listening(address) => {
                self.hands.tell(Event::ListenAddress(address.clone()));
                self.listening.push(address);
                self.dirty = true;
            }
            NetEvent::ListenEnded(ended) => {
                self.listening.retain(|address| !ended.contains(address));
                self.dirty = true;
            }
            NetEvent::Reachable(address) => {
                if !self.external.contains(&address) {
                    self.external.push(address);
                    self.dirty = true;
                }
            }
            NetEvent::Connected {
                peer,
                address,
                inbound,
                relayed,
            } => {
                let change = self
                    .hands
                    .peers
                    .on_connected(peer, address, inbound, relayed, wall);
                self.hands.tell_peer(Some(change));
                for reply in self.hands.connecting.remove(&peer).unwrap_or_default() {
                    let _ = reply.send(Ok(()));
                }
                self.offer_peer(peer);
            }
            NetEvent::Disconnected { peer } => {
                let change = self.hands.peers.on_disconnected(peer);
                self.hands.tell_peer(change);
                for session in self.sessions.values_mut() {
                    session.on_disconnected(peer, &self.hands);
                }
            }
            NetEvent::Identified {
                peer,
                agent,
                addresses,
                speaks_ours,
            } => {
                let change =
                    self.hands
                        .peers
                        .on_identified(peer, agent, addresses, speaks_ours, wall);
                self.hands.tell_peer(change);
                self.check_dht();
                if speaks_ours {
                    self.offer_peer(peer);
                }
            }
            NetEvent::Rtt { peer, rtt } => {
                let change = self.hands.peers.on_rtt(peer, rtt, wall);
                self.hands.tell_peer(change);
            }
            NetEvent::Silent { peer } => self.on_silent(peer),
            NetEvent::Discovered { peer, address, by } => {
                self.hands.heard_of(peer, &[address], by);
            }
            NetEvent::AddressOfPeer { peer, address } => {
                self.hands.peers.on_address(peer, address.without_node());
            }
            NetEvent::DialFailed { peer, why } => self.on_dial_failed(peer, &why),
            NetEvent::Asked { peer, query, slot } => self.on_asked(peer, query, slot),
            NetEvent::Answered { query, result } => self.on_answered(query, result),
            NetEvent::BlocksAsked {
                peer,
                upload,
                request,
                slot,
            } => self.on_blocks_asked(peer, upload, request, slot),
            NetEvent::UploadEnded { upload } => self.on_upload_ended(upload),
            NetEvent::BlocksEnded { request, result } => {
                if let Some((session, request)) = self.hands.requests.remove(&request) {
                    self.with_session(session, |s, hands| s.on_response(request, result, hands));
                }
            }
            NetEvent::ProvidersFound { lookup, peers } => self.on_providers_found(lookup, peers),
            NetEvent::LookupEnded { lookup } => {
                self.hands.lookups.remove(&lookup);
            }
            NetEvent::Announced { lookup, stored } => {
                if let Some(LookupFor::Announce(id)) = self.hands.lookups.remove(&lookup) {
                    let stored = stored && self.hands.net.dht_peers() > 0;
                    self.announcer.on_result(id, stored, self.hands.now);
                    self.dirty = true;
                }
            }
        }
    }

    fn offer_peer(&mut self, peer: NodeId) {
        for session in self.sessions.values_mut() {
            session.on_peer(peer, &mut self.hands);
        }
    }

    /// What could not be announced while the DHT was empty is announced when its first server appears.
    fn check_dht(&mut self) {
        let has = self.hands.net.dht_peers() > 0;
        if has && !self.had_servers {
            self.announcer.on_online(self.hands.now);
            self.dirty = true;
        }
        self.had_servers = has;
    }

    /// A peer that answers no ping and sends nothing is gone.
    fn on_silent(&mut self, peer: NodeId) {
        let quiet = self.hands.peers.info(peer).is_none_or(|info| {
            let since = self.hands.wall.duration_since(info.last_seen);
            since.is_ok_and(|quiet| quiet >= Duration::from_secs(10))
        });
        if quiet {
            self.hands.net.disconnect(peer);
        }
    }

    fn on_dial_failed(&mut self, peer: Option<NodeId>, why: &str) {
        let Some(peer) = peer else { return };
        tracing::debug!(%peer, why, "cannot connect");
        if self.hands.peers.is_connected(peer) {
            return;
        }
        for reply in self.hands.connecting.remove(&peer).unwrap_or_default() {
            let _ = reply.send(Err(ConnectError::Failed {
                peer,
                why: why.to_owned(),
            }));
        }
    }

    fn on_providers_found(&mut self, lookup: crate::net::LookupId, peers: Vec<NodeId>) {
        match self.hands.lookups.get(&lookup) {
            Some(LookupFor::Session(session)) => {
                let session = *session;
                self.with_session(session, |s, hands| s.on_lookup(&peers, hands));
            }
            Some(LookupFor::Embedder(found)) => {
                let others: Vec<NodeId> = peers
                    .into_iter()
                    .filter(|peer| *peer != self.hands.local)
                    .collect();
                // An embedder who does not read loses what it does not read.
                let _ = found.try_send(others.clone());
                for peer in others {
                    self.hands.heard_of(peer, &[], FoundBy::Dht);
                    self.hands.net.dial(peer, &[]);
                }
            }
            Some(LookupFor::Announce(_)) | None => {}
        }
    }

    fn on_answered(
        &mut self,
        query: crate::net::QueryId,
        result: Result<Reply, crate::net::NetFault>,
    ) {
        match self.hands.asked.remove(&query) {
            Some(Asked::Have {
                session,
                peer,
                entries,
            }) => self.with_session(session, |s, hands| s.on_have(peer, entries, result, hands)),
            Some(Asked::Manifests { session, peer }) => {
                self.with_session(session, |s, hands| s.on_manifests(peer, result, hands));
            }
            Some(Asked::Providers { session, peer }) => {
                self.with_session(session, |s, hands| s.on_providers(peer, result, hands));
            }
            Some(Asked::Nothing) | None => {}
            Some(Asked::Embedder(reply)) => {
                let _ = reply.send(result);
            }
        }
    }

    fn on_asked(&mut self, peer: NodeId, query: Query, slot: ReplySlot) {
        match &query {
            Query::Cancel { number } => {
                self.cancel_upload(peer, *number);
                return self.hands.net.reply(slot, Reply::Cancelled);
            }
            Query::Have { content, .. } => {
                for session in self.sessions.values_mut().filter(|s| s.id == *content) {
                    session.on_interest(peer, self.hands.now);
                }
            }
            _ => {}
        }
        let answering = self.answers.get(&peer).copied().unwrap_or_default();
        let full = !self.answers.contains_key(&peer) && self.answers.len() >= MAX_ANSWERED;
        if answering >= ANSWERS_PER_PEER || full {
            return self.hands.net.reply(slot, Reply::Busy);
        }
        let providers = match &query {
            Query::Providers { content } => self.providers_of(*content, peer),
            _ => Vec::new(),
        };
        let known = Known {
            store: self.hands.store.clone(),
            catalog: Arc::clone(&self.catalog),
            providers,
        };
        self.answers.insert(peer, answering + 1);
        self.hands.jobs.spawn(async move {
            let reply = answer::answer(known, query).await;
            Job::Replied { peer, slot, reply }
        });
    }

    /// Other providers of a content: the sources of our own fetch of it, and those who fetch it from us.
    fn providers_of(&self, id: ContentId, asker: NodeId) -> Vec<Provider> {
        self.sessions
            .values()
            .filter(|session| session.id == id)
            .flat_map(Session::providers)
            .chain(
                self.askers
                    .get(&id)
                    .into_iter()
                    .flatten()
                    .map(|(peer, _)| *peer),
            )
            .filter(|peer| *peer != asker)
            .take(PROVIDERS_TOLD)
            .map(|peer| Provider::new(peer, self.hands.peers.addresses(peer).to_vec()))
            .collect()
    }

    fn on_blocks_asked(
        &mut self,
        peer: NodeId,
        upload: UploadId,
        request: BlocksRequest,
        slot: AnswerSlot,
    ) {
        self.note_asker(peer, &request);
        let admitted = self.admission.on_request(peer, upload);
        if admitted == Admitted::Busy {
            let (frames, receiver) = mpsc::channel(1);
            let busy = Frame::End {
                status: EndStatus::Busy,
                retry_ms: BUSY_RETRY_MS,
            };
            // A fresh channel has room for one.
            let _ = frames.try_send(busy);
            let (_never, cancelled) = oneshot::channel();
            self.hands.net.answer_blocks(slot, receiver, cancelled);
            return;
        }
        let (cancel, cancelled) = oneshot::channel();
        let waiting = Upload {
            peer,
            number: request.number,
            cancel: Some(cancel),
            cancelled: Some(cancelled),
            request: Some((request, slot)),
            ended: false,
            served: false,
        };
        self.uploads.insert(upload, waiting);
        if admitted == Admitted::Serve {
            self.serve(upload);
        }
    }

    fn note_asker(&mut self, peer: NodeId, request: &BlocksRequest) {
        // The small files of a folder are asked for by hundreds and done in a moment: no swarm forms around one.
        let [item] = request.items.as_slice() else {
            return;
        };
        if !self.askers.contains_key(&item.content) && self.askers.len() >= MAX_ASKED_FOR {
            return;
        }
        let askers = self.askers.entry(item.content).or_default();
        if askers.len() < MAX_ASKERS || askers.contains_key(&peer) {
            askers.insert(peer, self.hands.now);
        }
    }

    fn serve(&mut self, upload: UploadId) {
        let Some(entry) = self.uploads.get_mut(&upload) else {
            return self.admission.on_ended(upload);
        };
        let (Some((request, slot)), Some(cancelled)) =
            (entry.request.take(), entry.cancelled.take())
        else {
            return;
        };
        let limit = self.hands.upload_limit(entry.peer);
        let (frames, receiver) = mpsc::channel(FRAME_QUEUE);
        if !self.hands.net.answer_blocks(slot, receiver, cancelled) {
            self.uploads.remove(&upload);
            return self.admission.on_ended(upload);
        }
        let store = self.hands.store.clone();
        self.hands.jobs.spawn_blocking(move || Job::Uploaded {
            upload,
            served: upload::serve(&store, &request, &frames, &limit),
        });
    }

    /// A peer wants no more of a response. Dropping the slot of one that waits answers it, by ending its stream.
    fn cancel_upload(&mut self, peer: NodeId, number: u64) {
        let found = self
            .uploads
            .iter()
            .find(|(_, entry)| entry.peer == peer && entry.number == number)
            .map(|(upload, _)| *upload);
        if let Some(upload) = found
            && let Some(entry) = self.uploads.get_mut(&upload)
        {
            let waits = entry.request.is_some();
            entry.cancel = None;
            if waits {
                self.uploads.remove(&upload);
                self.admission.on_ended(upload);
            }
        }
    }

    fn on_uploaded(&mut self, upload: UploadId, served: upload::Served) {
        for id in served.changed {
            self.hands.tell(Event::ContentChanged { id });
        }
        if let Some(entry) = self.uploads.get_mut(&upload) {
            entry.served = true;
            let peer = entry.peer;
            self.hands.sent(peer, served.bytes);
        }
        self.settle_upload(upload);
    }

    fn on_upload_ended(&mut self, upload: UploadId) {
        if let Some(entry) = self.uploads.get_mut(&upload) {
            entry.ended = true;
            // One that still waited will not be served.
            entry.served |= entry.request.is_some();
        }
        self.settle_upload(upload);
    }

    /// Frees the slot once both the wire and the disk are done with it.
    fn settle_upload(&mut self, upload: UploadId) {
        if self
            .uploads
            .get(&upload)
            .is_some_and(|entry| entry.ended && entry.served)
        {
            self.uploads.remove(&upload);
            self.admission.on_ended(upload);
        }
    }

    /// Tells the handles how things stand, if anything changed.
    fn publish(&mut self) {
        let now = self.hands.now;
        let waited = now.saturating_duration_since(self.published_at) >= PUBLISH_EVERY;
        let dirty = self.dirty || self.hands.peers_dirty;
        if !self.hands.peers_moved && !(dirty && waited) {
            return;
        }
        (self.dirty, self.hands.peers_dirty, self.hands.peers_moved) = (false, false, false);
        self.published_at = now;
        let peers = self.hands.peers.list();
        let connected = self.hands.peers.connected();
        let (announced, due, failed) = self.announcer.counts();
        let listen = self.addresses();
        let status = &mut self.status;
        status.peers_connected = connected as u64;
        status.peers_known = peers.len().saturating_sub(connected) as u64;
        status.announced = announced;
        status.announce_due = due;
        status.announce_failed = failed;
        status.fetches = self.sessions.len() as u64;
        status.uploads = self.admission.serving() as u64;
        status.up_bytes = self.hands.up_bytes;
        status.down_bytes = self.hands.down_bytes;
        status.dht_peers = self.hands.net.dht_peers() as u64;
        status.dht_mode = self.hands.net.dht_mode().to_owned();
        status.addresses.clone_from(&listen);
        self.published.send_replace(Published {
            peers: Arc::new(peers),
            addresses: Arc::new(listen),
            status: Arc::new(self.status.clone()),
        });
    }

    /// Where we can be reached, each address ending in our id: what others confirmed first.
    fn addresses(&self) -> Vec<Address> {
        let mut addresses: Vec<Address> = Vec::new();
        for address in self.external.iter().chain(&self.listening) {
            let full = address.with_node(self.hands.local);
            if !addresses.contains(&full) {
                addresses.push(full);
            }
        }
        addresses
    }
}
