//! The part of a fetch that moves blocks: the scheduler's actions carried out, and what became of them told to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    FetchState, Goal, Progress,
    plan::Plan,
    prepare::Destination,
    receive::{Receiver, Report, What},
};
use crate::{
    content::{BlockSet, NodeId},
    download::{
        Action, Arrival, Config, DropReason, Fault, Holdings, RequestId, Scheduler, SourceId,
        Stall, State,
    },
    net::{
        FRAME_QUEUE, NetFault, Reception,
        wire::{EndStatus, ItemStatus},
    },
    node::driver::{Hands, Job, SessionId},
    store::Content,
};

/// What has arrived is made to survive a crash of the machine at least this often …
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// … and after this many bytes.
const CHECKPOINT_BYTES: u64 = 128 * 1024 * 1024;

/// A write that takes longer than this is a disk that does not keep up.
const DISK_PATIENCE: Duration = Duration::from_secs(2);

/// Responses read at once in one fetch. Each holds at most two batches of blocks in memory, 2 MiB.
const MAX_OPEN: usize = 32;

/// One request on the wire.
#[derive(Debug)]
struct Open {
    peer: NodeId,
    /// Our number for it.
    number: u64,
    /// Dropped to cancel.
    _cancel: oneshot::Sender<()>,
    /// How the response ended on the wire.
    ended: Option<Result<(EndStatus, u32), NetFault>>,
    /// Whether all its frames have been dealt with.
    drained: bool,
}

/// Blocks on their way.
pub(crate) struct Transfer {
    plan: Arc<Plan>,
    destination: Destination,
    /// Whether the partial files may hold blocks of an earlier run that are yet to be found.
    resumed: bool,
    scheduler: Scheduler,
    /// Pages of the outlines that have been received in this run.
    outlines: BTreeSet<(usize, u32)>,
    open: BTreeMap<RequestId, Open>,
    /// Peers of requests that were cancelled, for the blocks that still come.
    cancelled: BTreeMap<RequestId, NodeId>,
    /// Requests whose blocks are being written, and since when.
    writing: BTreeMap<RequestId, Instant>,
    /// Contents written to since the last checkpoint.
    unsaved: BTreeSet<usize>,
    unsaved_bytes: u64,
    saved_at: Instant,
    saving: bool,
}

/// What a turn of the pump found.
#[derive(Debug, Default)]
pub(crate) struct Pumped {
    /// More sources are wanted.
    pub(crate) search: bool,
    /// Every piece is stored.
    pub(crate) done: bool,
    /// Peers that sent what they should not.
    pub(crate) blamed: Vec<NodeId>,
}

/// What a transfer leaves behind: files to finish, or to save as they are.
pub(crate) struct Ending {
    pub(crate) plan: Arc<Plan>,
    pub(crate) destination: Destination,
}

impl Transfer {
    pub(crate) fn new(
        goal: Goal,
        plan: Arc<Plan>,
        (held, resumed): (BlockSet, bool),
        destination: Destination,
        now: Instant,
    ) -> Result<Self, String> {
        let config = Config {
            prove_last: goal != Goal::Folder,
            ..Config::default()
        };
        let mut seed = [0; 8];
        // Without randomness the fetch only loses the spread of its starts.
        let _ = getrandom::fill(&mut seed);
        let scheduler = Scheduler::new(
            config,
            plan.pieces().clone(),
            held,
            u64::from_le_bytes(seed),
            now,
        )
        .map_err(|error| error.to_string())?;
        Ok(Self {
            plan,
            destination,
            resumed,
            scheduler,
            outlines: BTreeSet::new(),
            open: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            writing: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            unsaved_bytes: 0,
            saved_at: now,
            saving: false,
        })
    }

    /// Pieces of the plan.
    pub(crate) fn pieces(&self) -> u32 {
        self.plan.pieces().count()
    }

    /// Bytes of the plan.
    pub(crate) fn size(&self) -> u64 {
        self.plan.pieces().total()
    }

    /// A source has these pieces.
    pub(crate) fn offer(&mut self, source: SourceId, holdings: Holdings, now: Instant) {
        if self.scheduler.has_source(source) {
            self.scheduler.source_holds(source, holdings, now);
        } else {
            self.scheduler.add_source(source, holdings, now);
        }
    }

    /// A source is gone.
    pub(crate) fn remove_source(&mut self, source: SourceId, now: Instant) {
        self.scheduler.remove_source(source, now);
    }

    /// Readers wait for these blocks of the file; `only`: nothing else is to be fetched.
    pub(crate) fn set_readers(
        &mut self,
        windows: impl IntoIterator<Item = Range<u32>>,
        only: bool,
        now: Instant,
    ) {
        self.scheduler.set_readers(windows, only, now);
    }

    /// Nothing is to be fetched now, though not everything is here.
    pub(crate) fn is_resting(&self) -> bool {
        self.scheduler.is_resting()
    }

    /// The content that readers read.
    pub(crate) fn content(&self) -> Option<Arc<Content>> {
        self.plan.opened(0)
    }

    /// Something happened to a response. Returns who sent how many verified bytes.
    pub(crate) fn on_report(&mut self, report: Report, hands: &mut Hands) -> Option<(NodeId, u64)> {
        let Report { request, what, .. } = report;
        let now = hands.now;
        let open = self.open.get(&request).map(|open| open.peer);
        let peer = open.or_else(|| self.cancelled.get(&request).copied());
        match what {
            What::Outline { item, page } => {
                self.outlines.insert((item, page));
                self.unsaved.insert(item);
                self.adopt(item, now);
            }
            What::Writing { pieces } => {
                self.writing.insert(request, now);
                for piece in pieces {
                    self.arrived(request, piece, now);
                }
            }
            What::Stored { pieces, bytes } => {
                self.writing.remove(&request);
                for piece in pieces {
                    self.on_stored(request, piece, now);
                }
                self.unsaved_bytes = self.unsaved_bytes.saturating_add(bytes);
                let peer = peer?;
                hands.received(peer, bytes);
                return Some((peer, bytes));
            }
            What::Bad { piece } => {
                tracing::warn!(
                    ?peer,
                    ?piece,
                    "a peer sent bytes that are not of the content"
                );
                match piece {
                    Some(piece) if self.arrived(request, piece, now) => {
                        self.scheduler.on_bad_block(request, piece, now);
                    }
                    _ => self.scheduler.on_failed(request, Fault::Protocol, now),
                }
                self.forget(request, hands);
            }
            What::Unasked => {
                self.scheduler.on_failed(request, Fault::Protocol, now);
                self.forget(request, hands);
            }
            What::Lacks { item, status } => self.on_lacks(request, item, status, now),
            What::NotStored { pieces, .. } => {
                for piece in pieces {
                    self.scheduler.on_discarded(request, piece, now);
                }
            }
            What::Drained => {
                self.writing.remove(&request);
                self.cancelled.remove(&request);
                if let Some(open) = self.open.get_mut(&request) {
                    open.drained = true;
                }
                self.settle(request, now);
            }
        }
        None
    }

    fn arrived(&mut self, request: RequestId, piece: u32, now: Instant) -> bool {
        let bytes = self.plan.pieces().len_of(piece);
        self.scheduler.on_block(request, piece, bytes, now) == Arrival::Wanted
    }

    fn on_stored(&mut self, request: RequestId, piece: u32, now: Instant) {
        if let Some((item, _)) = self.plan.pieces().entry_of(piece) {
            self.unsaved.insert(item);
        }
        if !self.scheduler.on_stored(request, piece, now) {
            // It came after its request was given up, but it is good and on the disk.
            self.scheduler.on_held(piece..piece.saturating_add(1), now);
        }
    }

    /// Blocks that an earlier run left in the partial file, proven by a page of the outline that has just come.
    fn adopt(&mut self, item: usize, now: Instant) {
        if !self.resumed {
            return;
        }
        let Some(range) = self.plan.pieces_of(item) else {
            return;
        };
        let Some(content) = self.plan.opened(item) else {
            return;
        };
        for run in content.held().runs() {
            let start = range.start.saturating_add(run.start).min(range.end);
            let end = range.start.saturating_add(run.end).min(range.end);
            self.scheduler.on_held(start..end, now);
        }
    }

    fn on_lacks(&mut self, request: RequestId, item: usize, status: ItemStatus, now: Instant) {
        let (Some(range), Some(source)) =
            (self.plan.pieces_of(item), self.scheduler.source_of(request))
        else {
            return;
        };
        tracing::debug!(?status, item, "a source does not have what it said");
        self.scheduler.source_lacks(source, &[range], now);
    }

    /// Whom a request that is under way was put to.
    pub(crate) fn peer_of(&self, request: RequestId) -> Option<NodeId> {
        self.open.get(&request).map(|open| open.peer)
    }

    /// A response ended on the wire.
    pub(crate) fn on_response(
        &mut self,
        request: RequestId,
        result: Result<(EndStatus, u32), NetFault>,
        now: Instant,
    ) {
        if let Some(open) = self.open.get_mut(&request) {
            open.ended = Some(result);
        }
        self.settle(request, now);
    }

    /// Tells the scheduler how a response ended, once both the wire and the disk are done with it.
    fn settle(&mut self, request: RequestId, now: Instant) {
        let ended = self
            .open
            .get(&request)
            .filter(|open| open.drained)
            .and_then(|open| open.ended);
        let Some(result) = ended else {
            return;
        };
        self.open.remove(&request);
        match result {
            Ok((EndStatus::Done, _)) => self.scheduler.on_finished(request, now),
            Ok((EndStatus::Busy | EndStatus::Relayed, retry_ms)) => {
                let pause = Duration::from_millis(u64::from(retry_ms.min(60_000)));
                self.scheduler.on_busy(request, pause, now);
            }
            Err(fault) => {
                let fault = match fault {
                    NetFault::Unreachable | NetFault::Cancelled => Fault::Unreachable,
                    NetFault::Timeout => Fault::Timeout,
                    NetFault::Unsupported => Fault::Refused,
                    NetFault::Protocol => Fault::Protocol,
                };
                self.scheduler.on_failed(request, fault, now);
            }
        }
    }

    /// Gives a request up, and tells its peer unless the response has ended.
    fn forget(&mut self, request: RequestId, hands: &mut Hands) {
        let Some(open) = self.open.remove(&request) else {
            return;
        };
        if open.ended.is_none() {
            hands.cancel(open.peer, open.number);
        }
        if !open.drained {
            self.cancelled.insert(request, open.peer);
        }
    }

    /// Gives all requests up.
    pub(crate) fn cancel_all(&mut self, hands: &mut Hands) {
        let requests: Vec<RequestId> = self.open.keys().copied().collect();
        for request in requests {
            self.forget(request, hands);
        }
    }

    /// Carries out what the scheduler wants, until it wants nothing more.
    pub(crate) fn pump(
        &mut self,
        session: SessionId,
        peer_of: impl Fn(SourceId) -> Option<NodeId>,
        hands: &mut Hands,
    ) -> Pumped {
        let mut pumped = Pumped::default();
        loop {
            let room = self.open.len() < MAX_OPEN && hands.requests.len() < hands.max_requests;
            let action = if room {
                self.scheduler.next_action(hands.now)
            } else {
                self.scheduler.next_control(hands.now)
            };
            match action {
                None => break,
                Some(Action::Request {
                    source,
                    request,
                    runs,
                }) => {
                    let sent = peer_of(source)
                        .and_then(|peer| self.send(session, peer, request, &runs, hands));
                    if sent.is_none() {
                        self.scheduler
                            .on_failed(request, Fault::Unreachable, hands.now);
                    }
                }
                Some(Action::Cancel { request, .. }) => self.forget(request, hands),
                Some(Action::Drop { source, reason }) => {
                    let peer = peer_of(source);
                    if reason == DropReason::Lied || reason == DropReason::Protocol {
                        tracing::warn!(?peer, ?reason, "source dropped");
                        pumped.blamed.extend(peer);
                    } else {
                        tracing::debug!(?peer, ?reason, "source dropped");
                    }
                    let of_peer: Vec<RequestId> = self
                        .open
                        .iter()
                        .filter(|(_, open)| Some(open.peer) == peer)
                        .map(|(request, _)| *request)
                        .collect();
                    for request in of_peer {
                        self.forget(request, hands);
                    }
                }
                Some(Action::FindMore) => pumped.search = true,
                Some(Action::Done) => pumped.done = true,
            }
        }
        pumped
    }

    fn send(
        &mut self,
        session: SessionId,
        peer: NodeId,
        request: RequestId,
        runs: &[Range<u32>],
        hands: &mut Hands,
    ) -> Option<()> {
        let needs = |item, page| !self.outlines.contains(&(item, page));
        let number = hands.next_number;
        hands.next_number = number.wrapping_add(1);
        let (message, asked) = self.plan.request(number, runs, needs);
        let (frame_tx, frames) = mpsc::channel(FRAME_QUEUE);
        let (cancel, cancelled) = oneshot::channel();
        let reception = Reception {
            frames: frame_tx,
            cancelled,
        };
        let blocks = hands.net.ask_blocks(peer, message, reception)?;
        let receiver = Receiver {
            session,
            request,
            plan: Arc::clone(&self.plan),
            asked,
            store: hands.store.clone(),
            limit: hands.download_limit(peer),
            frames,
            reports: hands.reports.clone(),
        };
        hands.requests.insert(blocks, (session, request));
        hands.jobs.spawn_blocking(move || {
            receiver.run();
            Job::Received
        });
        let open = Open {
            peer,
            number,
            _cancel: cancel,
            ended: None,
            drained: false,
        };
        self.open.insert(request, open);
        Some(())
    }

    /// While the disk takes long, nothing is read, so nothing that does not come is anybody's fault.
    pub(crate) fn watch_disk(&mut self, now: Instant) {
        let stuck = self.is_waiting_for_disk(now);
        self.scheduler.set_paused(stuck, now);
    }

    /// Saves what has arrived, if it is time.
    pub(crate) fn checkpoint(&mut self, session: SessionId, hands: &mut Hands) {
        let waited = hands.now.saturating_duration_since(self.saved_at);
        let due = waited >= CHECKPOINT_EVERY || self.unsaved_bytes >= CHECKPOINT_BYTES;
        if self.saving || self.unsaved.is_empty() || !due {
            return;
        }
        self.saving = true;
        self.saved_at = hands.now;
        self.unsaved_bytes = 0;
        let items = std::mem::take(&mut self.unsaved);
        let (plan, store) = (Arc::clone(&self.plan), hands.store.clone());
        hands.jobs.spawn_blocking(move || {
            let contents: Result<Vec<_>, _> = items
                .into_iter()
                .map(|item| plan.open(&store, item))
                .collect();
            Job::Saved {
                session,
                result: contents.and_then(|contents| store.checkpoint(&contents)),
            }
        });
    }

    /// A checkpoint ended.
    pub(crate) fn on_checkpoint(&mut self) {
        self.saving = false;
    }

    /// Whether it is the disk and not the peers that nothing moves for.
    pub(crate) fn is_waiting_for_disk(&self, now: Instant) -> bool {
        self.writing
            .values()
            .any(|since| now.saturating_duration_since(*since) >= DISK_PATIENCE)
    }

    /// Why nothing moves, in words.
    pub(crate) fn stall(&self, now: Instant) -> Option<String> {
        Some(match self.scheduler.stall(now)? {
            Stall::NoSources => "no provider is connected".into(),
            Stall::AllBusy { until } => {
                let wait = until.saturating_duration_since(now).as_secs().max(1);
                format!("all providers are busy; asking again in {wait} s")
            }
            Stall::NobodyHas { pieces } => {
                format!("no connected provider has the {pieces} blocks that are missing")
            }
            Stall::SlowSources => "the providers have sent nothing for some seconds".into(),
            Stall::WaitingForDisk => "waiting for the disk".into(),
        })
    }

    /// Fills in how far it is.
    pub(crate) fn tell(&self, told: &mut Progress, now: Instant) {
        let progress = self.scheduler.progress(now);
        told.done = progress.bytes_done;
        told.size = Some(progress.bytes_total);
        told.rate = progress.rate;
        told.sources = u32::try_from(progress.active).unwrap_or(u32::MAX);
        told.state = match progress.state {
            State::Searching => FetchState::Searching,
            State::Fetching | State::Stalled | State::Paused => FetchState::Fetching,
            State::Done => FetchState::Finishing,
        };
    }

    /// When the scheduler next needs a turn.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.scheduler.next_deadline(now)
    }

    /// Ends the transfer: what is on the wire is cancelled.
    pub(crate) fn into_ending(self) -> Ending {
        Ending {
            plan: self.plan,
            destination: self.destination,
        }
    }
}
