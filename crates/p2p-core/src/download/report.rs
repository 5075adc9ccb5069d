//! How far a fetch is, how fast it goes, and why it does not.

use std::time::{Duration, Instant};

use super::scheduler::Scheduler;
use super::source::{to_f64, to_u64};
use super::types::{Progress, Stall, State};

/// The time over which the rate of a fetch is smoothed.
const SMOOTHING: f64 = 3.0;

/// Requests that brought nothing for this long are a stall: well above a lost packet or a slow disk at the other end, well
/// below what a person waits for before asking.
const SILENCE: Duration = Duration::from_secs(5);

/// Bytes per second, old ones fading out.
#[derive(Debug)]
pub(super) struct Meter {
    started: Instant,
    updated: Instant,
    faded: f64,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Meter {
        Meter {
            started: now,
            updated: now,
            faded: 0.0,
        }
    }

    pub(super) fn add(&mut self, bytes: u64, now: Instant) {
        self.faded = self.faded_at(now) + to_f64(bytes);
        self.updated = self.updated.max(now);
    }

    fn faded_at(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.updated).as_secs_f64();
        self.faded * (-age / SMOOTHING).exp()
    }

    /// In its first seconds it divides by the time there was, not by the whole smoothing time.
    pub(super) fn rate(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.started).as_secs_f64();
        let span = SMOOTHING * (1.0 - (-age / SMOOTHING).exp());
        to_u64(self.faded_at(now) / span.max(0.05))
    }
}

impl Scheduler {
    /// How far the fetch is.
    pub(crate) fn progress(&self, now: Instant) -> Progress {
        let active = self.sources.values();
        let active = active.filter(|source| !source.open.is_empty()).count();
        let state = if self.is_done() {
            State::Done
        } else if self.paused_since.is_some() {
            State::Paused
        } else if self.sources.is_empty() {
            State::Searching
        } else if self.stall(now).is_some() {
            State::Stalled
        } else {
            State::Fetching
        };
        Progress {
            pieces_done: self.stored.count(),
            pieces_total: self.pieces.count(),
            bytes_done: self.bytes_done,
            bytes_total: self.pieces.total(),
            rate: self.meter.rate(now),
            sources: self.sources.len(),
            active,
            state,
        }
    }

    /// Why nothing moves; `None` if something does, or is about to as soon as actions are taken, or all is done.
    pub(crate) fn stall(&self, now: Instant) -> Option<Stall> {
        if self.is_done() || self.is_resting() {
            return None;
        }
        if self.paused_since.is_some() {
            return Some(Stall::WaitingForDisk);
        }
        let asked = |since: Instant| now.saturating_duration_since(since) >= SILENCE;
        let mut open = self
            .sources
            .values()
            .filter(|source| !source.open.is_empty());
        if let Some(first) = open.next() {
            let heard = open.fold(first.heard, |heard, source| heard.max(source.heard));
            return asked(heard).then_some(Stall::SlowSources);
        }
        if self.pool.count() == 0 {
            // Nothing is free, nothing is awaited, something is missing: it has arrived.
            return Some(Stall::WaitingForDisk);
        }
        if self.sources.is_empty() {
            return Some(Stall::NoSources);
        }
        let orphans = self.orphans();
        if orphans >= self.pool.count() {
            return Some(Stall::NobodyHas { pieces: orphans });
        }
        // Somebody holds something that is free, and nobody is asked: all who hold it rest, or a request is due.
        let useful = self
            .sources
            .values()
            .filter(|source| self.has_work_for(source));
        let mut until: Option<Instant> = None;
        for source in useful {
            let rest = source.rest_until.filter(|rest| *rest > now)?;
            until = Some(until.map_or(rest, |until| until.min(rest)));
        }
        until.map(|until| Stall::AllBusy { until })
    }
}
