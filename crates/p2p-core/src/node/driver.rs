//! The one loop of a node: the only `select!`, the only clock. It routes; what happens is decided by the sessions, the
//! announcer, the admission and the table of peers, and done through [`Hands`]. No handler waits for anything.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
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
    announcing::Pace,
    catalog::Catalog,
    check::ServerAnswer,
    command::Command,
    event::Event,
    fetch::{
        receive::Report,
        session::{Session, Summary},
    },
    fetching::QueuedFetch,
    housekeeping::LISTEN_GRACE,
    moving::Moves,
    publishing::PUBLISH_EVERY,
    returning::Returning,
    serving::Upload,
    status::{Published, Status},
};
use crate::{
    announce::Announcer,
    content::{Address, ContentId, NodeId},
    names::{Blamed, Shown},
    net::{GroupId, HolderQuestion, NetEvent, UploadId},
    peers::PeerChange,
    reach::Reach,
    relays::Relays,
    serve::Admission,
};

/// Names a fetch of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// Commands and reports handled before the network has its turn again.
const BUDGET: usize = 64;
/// The longest sleep: address book, idle peers and lost neighbours are looked at this often.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// What works on when the node has stopped, on a slow disk maybe, is waited for so long.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

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
    /// What was withdrawn while that of earlier runs is still read from the index: pages that were read before have it.
    pub(super) gone_at_start: Option<HashSet<ContentId>>,
    /// Groups of ids on their way to their servers, and who of each looked for these.
    pub(super) groups: HashMap<GroupId, ContentId>,
    pub(super) admission: Admission<UploadId>,
    pub(super) uploads: HashMap<UploadId, Upload>,
    /// Queries of each peer being answered.
    pub(super) answers: BTreeMap<NodeId, usize>,
    /// Peers that lately asked for blocks, by content: they have, or will soon have, some themselves.
    pub(super) askers: BTreeMap<ContentId, BTreeMap<NodeId, Instant>>,
    /// Peers whose last connection has just ended, and when that is told.
    pub(super) leaving: BTreeMap<NodeId, (Instant, PeerChange)>,
    pub(super) catalog: Arc<Catalog>,
    /// The words of its names.
    pub(super) shown: Shown,
    /// Who is not asked for names.
    pub(super) blamed: Blamed,
    pub(super) bootstrap: Vec<Address>,
    /// How many addresses it is to listen on, until the first peers are dialled.
    pub(super) listeners: Option<usize>,
    pub(super) started_at: Instant,
    pub(super) max_peers: usize,
    /// Where peers are remembered; `None` for a node that writes nothing.
    pub(super) data_dir: Option<PathBuf>,
    pub(super) listening: Vec<Address>,
    pub(super) external: Vec<Address>,
    pub(super) relays: Relays,
    pub(super) moves: Moves,
    pub(super) returning: Returning,
    pub(super) reach: Reach,
    /// Servers that were asked what they hold, and who waits for it.
    pub(super) holder_questions: HashMap<HolderQuestion, (NodeId, mpsc::Sender<ServerAnswer>)>,
    pub(super) published: watch::Sender<Published>,
    pub(super) published_at: Instant,
    pub(super) dirty: bool,
    kept_at: Instant,
    pub(super) has_dht: bool,
    pub(super) had_servers: bool,
    pub(super) status: Status,
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
        let (now, wall, local) = (hands.now, hands.wall, hands.local);
        let data_dir = (!config.storage.in_memory).then(|| config.data_dir.clone());
        let moves = Moves::new(data_dir.as_deref(), now);
        Self {
            hands,
            commands,
            reports,
            sessions: BTreeMap::new(),
            queued: Vec::new(),
            next_session: 0,
            announcer: Announcer::new(phase(local), now, wall),
            gone_at_start: None,
            groups: HashMap::new(),
            admission: Admission::new(config.limits.upload_slots as usize),
            uploads: HashMap::new(),
            answers: BTreeMap::new(),
            askers: BTreeMap::new(),
            leaving: BTreeMap::new(),
            catalog: Arc::new(catalog),
            shown: Shown::default(),
            blamed: Blamed::default(),
            bootstrap: config.network.bootstrap.clone(),
            listeners: Some(config.network.listen.len()),
            started_at: now,
            max_peers: config.limits.max_peers as usize,
            data_dir,
            listening: Vec::new(),
            external: Vec::new(),
            moves,
            returning: Returning::new(now),
            reach: Reach::default(),
            holder_questions: HashMap::new(),
            relays: Relays::new(uses_relays(&config.network), now),
            published,
            published_at: now,
            dirty: true,
            kept_at: now,
            has_dht: config.network.dht != crate::config::DhtMode::Off,
            had_servers: false,
            status,
        }
    }

    /// What made room for others is announced no longer.
    fn note_evicted(&mut self) {
        for evicted in self.hands.store.take_evicted() {
            self.withdraw(&[evicted.id]);
            self.hands.tell(Event::Evicted {
                id: evicted.id,
                bytes: evicted.bytes,
            });
        }
    }

    /// Runs until it is told to stop, or nobody holds a handle any more.
    pub(super) async fn run(mut self) {
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
        let announced = self.announcer.unsaved(self.hands.now, true);
        let book = address_book::of(&self.hands.peers.list());
        let data_dir = self.data_dir.clone();
        let saved = tokio::task::spawn_blocking(move || {
            if let Err(error) = store.checkpoint(&unsaved) {
                tracing::warn!(%error, "what has arrived could not be saved");
            }
            if let Err(error) = store.save_announced(&announced) {
                tracing::warn!(%error, "what was announced could not be written down");
            }
            address_book::write(data_dir.as_deref(), &book);
        });
        if saved.await.is_err() {
            tracing::error!("the saving thread failed");
        }
        // Closes every connection, and with them the channels that the working threads read and write. They hold the
        // store: when they have ended, another node may open it.
        let mut jobs = std::mem::take(&mut self.hands.jobs);
        drop(self);
        jobs.abort_all();
        let ended = async { while jobs.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
            tracing::warn!("some of what was under way takes long to end");
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn pump(&mut self) {
        self.announcer.on_wall(self.hands.now, self.hands.wall);
        self.dial_known_when_listening();
        self.announce_moved();
        self.announce_to_returned();
        self.announce_due();
        self.keep_places();
        while let Some(upload) = self.admission.next() {
            self.serve(upload);
        }
        self.conclude_sessions();
        self.note_evicted();
        self.tell_left();
        self.publish();
    }

    fn next_deadline(&self) -> Instant {
        let mut deadline = self.kept_at + HOUSEKEEPING;
        if self.listeners.is_some() {
            deadline = deadline.min(self.started_at + LISTEN_GRACE);
        }
        if self.dirty || self.hands.peers_dirty {
            deadline = deadline.min(self.published_at + PUBLISH_EVERY);
        }
        if let Some(due) = self.leaving.values().map(|(due, _)| *due).min() {
            deadline = deadline.min(due);
        }
        if let Some(due) = self.announcer.next_deadline() {
            deadline = deadline.min(due);
        }
        let waits = [
            self.relays.next_deadline(),
            self.moves.next_deadline(),
            self.returning.next_deadline(),
        ];
        deadline = waits.into_iter().flatten().fold(deadline, Instant::min);
        for session in self.sessions.values() {
            deadline = deadline.min(session.next_deadline(self.hands.now));
        }
        deadline
    }

    fn on_deadline(&mut self) {
        let now = self.hands.now;
        self.forget_dropped_orders();
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
            Job::Replied {
                peer,
                slot,
                reply,
                wanted,
            } => {
                if let Some(content) = wanted {
                    self.note_asker(peer, content);
                }
                if let Some(count) = self.answers.get_mut(&peer) {
                    *count = count.saturating_sub(1);
                }
                self.answers.retain(|_, count| *count > 0);
                self.hands.net.reply(slot, reply);
            }
            Job::Uploaded { upload, served } => self.on_uploaded(upload, served),
            Job::Known(known) => self.on_known(known),
            Job::Received | Job::PeersWritten | Job::AnnouncedWritten => {}
        }
    }

    pub(super) fn with_session(
        &mut self,
        session: SessionId,
        act: impl FnOnce(&mut Session, &mut Hands),
    ) {
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
                    if self.hands.gate.is_open_at(&fetched.path) {
                        self.announce(id, Pace::Now);
                    }
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
}

fn uses_relays(config: &crate::config::NetworkConfig) -> bool {
    config.relay == crate::config::RelayMode::Client && !config.lan_only
}

/// Where the hand of the announcer is at a given time: elsewhere at each node.
fn phase(node: NodeId) -> u32 {
    let [a, b, c, d, ..] = *ContentId::of(node.as_bytes()).as_bytes();
    u32::from_be_bytes([a, b, c, d])
}
