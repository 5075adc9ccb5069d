//! The face of a fetch: events in by `on_*` and their like, work out by `next_*`.
//!
//! How a session drives it: report every event, then call [`Scheduler::next_action`] until it gives `None` (while there is
//! no room for another request, [`Scheduler::next_control`]), then sleep until the next event or
//! [`Scheduler::next_deadline`]. A call for a request or source that is unknown or over does nothing: what strangers send
//! late or twice is not an error here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::content::BlockSet;

use super::faults::FIND_FIRST;
use super::pieces::Pieces;
use super::pool::{Bits, Pool};
use super::readers::Readers;
use super::report::Meter;
use super::requests::Requests;
use super::rng::Rng;
use super::source::{STRIKES, Source, shifted};
use super::types::{
    Action, Arrival, Config, DropReason, Fault, Holdings, NewError, RequestId, SourceId,
};

/// Most sources at once. Two requests each of up to 64 MiB are more than any line; the rest would only cost memory.
const MAX_SOURCES: usize = 256;

/// Liars remembered; beyond that the lowest number is forgotten, and it would be found out again at its first bad block.
const MAX_BANNED: usize = 16_384;

/// The longest pause between searches for more sources.
const FIND_LAST: Duration = Duration::from_secs(60);

/// One fetch: which source is asked for which pieces, and when. See the module for the states of a piece.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(super) config: Config,
    pub(super) pieces: Pieces,
    pub(super) stored: BlockSet,
    pub(super) bytes_done: u64,
    pub(super) pool: Pool,
    pub(super) requests: Requests,
    pub(super) sources: BTreeMap<SourceId, Source>,
    pub(super) banned: BTreeSet<SourceId>,
    pub(super) readers: Readers,
    pub(super) paused_since: Option<Instant>,
    /// Cancels and drops not yet given out: at most one per request and one per source.
    pub(super) outbox: VecDeque<Action>,
    done_given: bool,
    pub(super) find_at: Instant,
    pub(super) find_pause: Duration,
    pub(super) meter: Meter,
    pub(super) rng: Rng,
    /// Steps taken, to check large fetches now and then.
    pub(super) steps: u64,
}

impl Scheduler {
    /// A fetch of `pieces`, of which `have` are held and verified already. `seed` decides all that is random.
    ///
    /// # Errors
    /// [`NewError::HaveMismatch`] if `have` does not span exactly the pieces of the fetch.
    pub(crate) fn new(
        config: Config,
        pieces: Pieces,
        have: BlockSet,
        seed: u64,
        now: Instant,
    ) -> Result<Scheduler, NewError> {
        if have.len() != pieces.count() {
            return Err(NewError::HaveMismatch {
                have: have.len(),
                pieces: pieces.count(),
            });
        }
        let mut free = Bits::full(pieces.count());
        let mut bytes_done: u64 = 0;
        for run in have.runs() {
            bytes_done = bytes_done.saturating_add(pieces.bytes_in(run.clone()));
            free.set(run, false);
        }
        Ok(Scheduler {
            config,
            pool: Pool::new(free),
            pieces,
            stored: have,
            bytes_done,
            requests: Requests::default(),
            sources: BTreeMap::new(),
            banned: BTreeSet::new(),
            readers: Readers::default(),
            paused_since: None,
            outbox: VecDeque::new(),
            done_given: false,
            find_at: now,
            find_pause: FIND_FIRST,
            meter: Meter::new(now),
            rng: Rng(seed),
            steps: 0,
        })
    }

    /// A peer joins. One that is known already only updates what it holds. False if it lied in this fetch before, or if
    /// there are 256 sources; then nothing changes.
    pub(crate) fn add_source(&mut self, id: SourceId, holdings: Holdings, now: Instant) -> bool {
        if self.is_banned(id) {
            return false;
        }
        if !self.sources.contains_key(&id) {
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
            let cursor = self.random_piece();
            self.sources.insert(id, Source::new(cursor, now));
        }
        self.source_holds(id, holdings, now);
        true
    }

    /// A source says anew what it holds: partial holders grow. What it was asked for before stays asked for.
    pub(crate) fn source_holds(&mut self, id: SourceId, holdings: Holdings, now: Instant) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.set_holdings(holdings, self.pieces.count(), &mut self.pool);
            source.steal_at = now;
        }
        self.after_step();
    }

    /// A source answered that it lacks these pieces (`NotFound`, `Changed`). They are no longer expected of it. The third
    /// response with broken claims drops it; if its holdings are unknown, only if it delivered nothing between them.
    pub(crate) fn source_lacks(&mut self, id: SourceId, lacking: &[Range<u32>], now: Instant) {
        let Some(source) = self.sources.get_mut(&id) else {
            return;
        };
        let useless = source.lacks(lacking, self.pieces.count(), &mut self.pool);
        for request in source.open.clone() {
            let Some(known) = self.requests.get(request) else {
                continue;
            };
            let waiting = known.waiting.iter().copied();
            let lost: Vec<u32> = waiting
                .filter(|piece| lacking.iter().any(|run| run.contains(piece)))
                .collect();
            let pool = &mut self.pool;
            self.requests.release(request, lost.into_iter(), pool);
        }
        if useless {
            self.drop_source(id, DropReason::Useless, now);
        }
        self.after_step();
    }

    /// A peer left, or the session gives it up: what it was asked for is free again. It may be added again.
    pub(crate) fn remove_source(&mut self, id: SourceId, now: Instant) {
        self.forget_source(id, now);
        self.after_step();
    }

    /// A block of `bytes` bytes came over the wire; it is not verified yet. The answer says what to do with it.
    pub(crate) fn on_block(
        &mut self,
        id: RequestId,
        piece: u32,
        bytes: u64,
        now: Instant,
    ) -> Arrival {
        let Some(request) = self.requests.table.get_mut(&id) else {
            return Arrival::Unasked;
        };
        let is_lost = request.lost.remove(&piece);
        if !is_lost && !request.waiting.contains(&piece) {
            return Arrival::Unasked;
        }
        request.heard = now;
        let source = request.source;
        if let Some(source) = self.sources.get_mut(&source) {
            source.on_block(bytes, now);
        }
        let first = !is_lost && self.requests.arrive(id, piece);
        self.cancel_if_superseded(id, now);
        self.after_step();
        if first {
            Arrival::Wanted
        } else {
            Arrival::Duplicate
        }
    }

    /// An arrived block was verified and written. True if that is news; requests that still waited for it are cancelled
    /// when nothing else is expected of them.
    pub(crate) fn on_stored(&mut self, id: RequestId, piece: u32, now: Instant) -> bool {
        let Some(losers) = self.requests.store(id, piece) else {
            return false;
        };
        self.stored.insert(piece);
        let bytes = self.pieces.len_of(piece);
        self.bytes_done = self.bytes_done.saturating_add(bytes);
        self.meter.add(bytes, now);
        self.cancel_losers(losers, now);
        self.after_step();
        true
    }

    /// Pieces turned out to be held and verified although nobody was asked for them, or no longer (an earlier run of the
    /// program left them, a block came after its request was given up): they count as stored.
    pub(crate) fn on_held(&mut self, run: Range<u32>, now: Instant) {
        for piece in run.start..run.end.min(self.pieces.count()) {
            if self.stored.insert(piece) {
                self.bytes_done = self.bytes_done.saturating_add(self.pieces.len_of(piece));
                self.pool.take(piece);
                let losers = self.requests.settle_elsewhere(piece);
                self.cancel_losers(losers, now);
            }
        }
        self.after_step();
    }

    /// An arrived block failed verification. Its sender is dropped for good, at once: blocks are proven one by one and
    /// transports are reliable, so one bad block is proof of a lie. All it was asked for is free again.
    pub(crate) fn on_bad_block(&mut self, id: RequestId, piece: u32, now: Instant) {
        let Some(source) = self.requests.get(id).map(|request| request.source) else {
            return;
        };
        if !self.requests.reject(id, piece, &mut self.pool) {
            return;
        }
        self.banned.insert(source);
        while self.banned.len() > MAX_BANNED {
            self.banned.pop_first();
        }
        self.drop_source(source, DropReason::Lied, now);
        self.after_step();
    }

    /// An arrived block was neither stored nor found bad (the disk failed, the buffer was given up): it is free again, and
    /// nobody is to blame.
    pub(crate) fn on_discarded(&mut self, id: RequestId, piece: u32, _now: Instant) {
        self.requests.reject(id, piece, &mut self.pool);
        self.after_step();
    }

    /// The response ended with `Done`. What it did not bring is free again and counts against the source: three responses
    /// in a row that end short drop it.
    pub(crate) fn on_finished(&mut self, id: RequestId, now: Instant) {
        let Some((source_id, is_short)) = self.open_request(id) else {
            return;
        };
        let Some(source) = self.sources.get_mut(&source_id) else {
            return;
        };
        if is_short {
            source.short = source.short.saturating_add(1);
        } else {
            let ended_alone = source.open.last() == Some(&id);
            source.on_ended_well(ended_alone, now);
        }
        let useless = source.short >= STRIKES;
        self.close(id, now);
        if useless {
            self.drop_source(source_id, DropReason::Useless, now);
        } else if is_short {
            self.rest(source_id, Duration::ZERO, now);
        }
        self.after_step();
    }

    /// The source has no room now: it is asked again after a doubling, jittered pause of at least `retry_after` (at most a
    /// minute). No blame. If it is serving another request of ours, it is asked for one at a time for a while instead.
    pub(crate) fn on_busy(&mut self, id: RequestId, retry_after: Duration, now: Instant) {
        let Some((source_id, _)) = self.open_request(id) else {
            return;
        };
        self.close(id, now);
        let other = self.sources.get_mut(&source_id);
        if let Some(source) = other.filter(|source| !source.open.is_empty()) {
            source.narrow();
        } else {
            self.rest(source_id, retry_after, now);
        }
        self.after_step();
    }

    /// A request ended without its blocks. Backs off or drops the source, by who is to blame.
    pub(crate) fn on_failed(&mut self, id: RequestId, fault: Fault, now: Instant) {
        let Some((source, _)) = self.open_request(id) else {
            return;
        };
        self.close(id, now);
        self.blame(source, fault, now);
        self.after_step();
    }

    /// While paused there are no new requests, and no deadline runs: the session does not read, so nothing can come.
    pub(crate) fn set_paused(&mut self, paused: bool, now: Instant) {
        match (self.paused_since, paused) {
            (None, true) => self.paused_since = Some(now),
            (Some(since), false) => {
                let pause = now.saturating_duration_since(since);
                for source in self.sources.values_mut() {
                    source.on_resumed(pause, now);
                }
                for request in self.requests.table.values_mut() {
                    request.heard = shifted(request.heard, pause, now);
                }
                self.paused_since = None;
            }
            _ => {}
        }
    }

    /// The next thing to do; `None` until something happens or [`Scheduler::next_deadline`] passes.
    pub(crate) fn next_action(&mut self, now: Instant) -> Option<Action> {
        let control = self.next_control(now);
        if control.is_some() || self.paused_since.is_some() || self.is_done() {
            return control;
        }
        let request = self.next_request(now);
        self.after_step();
        request
    }

    /// As [`Scheduler::next_action`], but never a request: for a session that has no room for one.
    pub(crate) fn next_control(&mut self, now: Instant) -> Option<Action> {
        if self.done_given {
            return None;
        }
        self.expire(now);
        if let Some(action) = self.outbox.pop_front() {
            return Some(action);
        }
        if self.is_done() {
            self.done_given = true;
            return Some(Action::Done);
        }
        if now < self.find_at {
            return None;
        }
        let wanted = self.wants_sources();
        self.find_at = now.checked_add(self.find_pause).unwrap_or(now);
        if wanted {
            self.find_pause = self.find_pause.saturating_mul(2).min(FIND_LAST);
        }
        wanted.then_some(Action::FindMore)
    }

    /// When to call [`Scheduler::next_action`] again although nothing happened, strictly after `now`. Meaningful after it
    /// gave `None`.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if self.is_done() {
            return None;
        }
        let mut at = Some(self.find_at);
        let mut add = |candidate: Option<Instant>| {
            let later = candidate.filter(|candidate| *candidate > now);
            at = at.filter(|at| *at > now).into_iter().chain(later).min();
        };
        add(None);
        for source in self.sources.values() {
            add(source.rest_until);
            if self.paused_since.is_some() {
                continue;
            }
            add(self.expiry_of(source));
            if source.is_ready(now) && !self.requests.is_empty() {
                add(Some(source.steal_at));
            }
        }
        at
    }

    /// Who was asked by a request that is open or awaits verdicts.
    pub(crate) fn source_of(&self, id: RequestId) -> Option<SourceId> {
        self.requests.get(id).map(|request| request.source)
    }

    /// The piece space.
    #[cfg(test)]
    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Every piece is stored.
    pub(crate) fn is_done(&self) -> bool {
        self.stored.is_full()
    }

    /// It lied in this fetch.
    pub(crate) fn is_banned(&self, id: SourceId) -> bool {
        self.banned.contains(&id)
    }

    /// It is a source of this fetch now.
    pub(crate) fn has_source(&self, id: SourceId) -> bool {
        self.sources.contains_key(&id)
    }

    /// More sources would help: few are known, nothing is under way, or nobody holds some piece.
    fn wants_sources(&self) -> bool {
        !self.is_resting()
            && (self.sources.len() < self.config.enough_sources
                || self.requests.is_empty()
                || self.orphans() > 0)
    }

    /// Free pieces that no source holds.
    pub(super) fn orphans(&self) -> u32 {
        if self.sources.values().any(|source| source.holds().is_none()) {
            0
        } else {
            self.pool.orphans(u32::MAX)
        }
    }

    /// The source holds a free piece.
    pub(super) fn has_work_for(&self, source: &Source) -> bool {
        let all = 0..self.pieces.count();
        let found = self
            .pool
            .first_in(source.holds(), all, super::pool::ANY_CLASS);
        found.is_some()
    }

    /// Words looked at in choosing, so far.
    #[cfg(test)]
    pub(super) fn work(&self) -> u64 {
        self.pool.work.get()
    }

    pub(super) fn random_piece(&mut self) -> u32 {
        self.rng.below(self.pieces.count())
    }

    pub(super) fn after_step(&mut self) {
        self.steps = self.steps.wrapping_add(1);
        if cfg!(debug_assertions) {
            self.check();
        }
    }
}
