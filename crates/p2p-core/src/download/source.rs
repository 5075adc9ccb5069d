//! One source of a fetch: what it holds, how fast it is, when it may be asked again, and how often it disappointed.

use std::time::{Duration, Instant};

use super::pool::{Bits, Pool};
use super::types::{Holdings, RequestId};

/// Open requests per source. With one, the pipe drains while the next question travels; a third only lengthens the tail.
pub(super) const WINDOW: usize = 2;

/// Most pieces in a request.
pub(super) const MAX_RUN_PIECES: u32 = 256;

/// Most bytes in a request; a single piece always fits.
pub(super) const MAX_RUN_BYTES: u64 = 64 << 20;

/// Pieces in the first request to a source: enough to measure, little to lose.
const FIRST_RUN: u32 = 4;

/// How long a request should take: short enough that a slow source holds little, long enough that questions are rare.
const RUN_TIME: f64 = 0.5;

/// Where the pipe drains although there is work (one of the two requests hangs, or only one is allowed), runs grow up to
/// this many times longer. Otherwise each would wait a round trip, the rate would look lower, and the next run be shorter.
const MAX_STRETCH: f64 = 8.0;

/// What a source is taken to deliver before it was measured, in bytes per second.
const RATE_GUESS: f64 = 1_048_576.0;

/// A lap of measuring is at least this long, so that bursts of the transport do not count as speed.
const LAP: Duration = Duration::from_millis(250);

/// The first back-off, and the longest. Doubling from one to the other takes seven refusals.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LAST: Duration = Duration::from_secs(60);

/// Faults of one kind that drop a source.
pub(super) const STRIKES: u32 = 3;

/// Requests that must end well before a source that said `Busy` to a second request is asked for two at a time again.
const WELL_BEFORE_WIDER: u32 = 8;

/// One source.
#[derive(Debug)]
pub(super) struct Source {
    /// What it holds; `None` is everything.
    holds: Option<Bits>,
    /// It said so itself, so that lacking something breaks a claim.
    claimed: bool,
    /// Its open requests, the oldest first.
    pub(super) open: Vec<RequestId>,
    /// How many requests it may have open now.
    pub(super) window: usize,
    /// Requests that ended well since the window was narrowed.
    well: u32,
    /// Where its last run ended: the next one goes on from there.
    pub(super) cursor: u32,
    /// Pieces per request while the size still doubles; `None` once the rate decides.
    doubling: Option<u32>,
    /// How many times longer than usual its runs are.
    stretch: f64,
    /// Bytes per second.
    rate: Option<f64>,
    lap_start: Instant,
    lap_bytes: u64,
    /// When its oldest request began to be served, as far as one can tell: when it was sent or the one before it ended.
    pub(super) turn: Instant,
    /// Its last block, or the first moment since then at which one could be expected.
    pub(super) heard: Instant,
    /// It is not asked before this.
    pub(super) rest_until: Option<Instant>,
    /// Back-offs in a row.
    rests: u32,
    /// `Timeout`s in a row.
    pub(super) silent: u32,
    /// `Unreachable`s in a row.
    pub(super) unreachable: u32,
    /// Requests in a row that ended short.
    pub(super) short: u32,
    /// Responses in which it lacked what it should have.
    lacked: u32,
    /// The response under way is counted among them.
    lacked_now: bool,
    /// The version of the pool in which it found nothing to do.
    pub(super) dry: Option<u64>,
    /// It looks for something to steal at this moment at the earliest.
    pub(super) steal_at: Instant,
}

impl Source {
    pub(super) fn new(cursor: u32, now: Instant) -> Source {
        Source {
            holds: Some(Bits::new(0)),
            claimed: false,
            open: Vec::with_capacity(WINDOW),
            window: WINDOW,
            well: 0,
            cursor,
            doubling: Some(FIRST_RUN),
            stretch: 1.0,
            rate: None,
            lap_start: now,
            lap_bytes: 0,
            turn: now,
            heard: now,
            rest_until: None,
            rests: 0,
            silent: 0,
            unreachable: 0,
            short: 0,
            lacked: 0,
            lacked_now: false,
            dry: None,
            steal_at: now,
        }
    }

    /// What it holds; `None` is everything.
    pub(super) fn holds(&self) -> Option<&Bits> {
        self.holds.as_ref()
    }

    pub(super) fn has(&self, piece: u32) -> bool {
        self.holds.as_ref().is_none_or(|bits| bits.contains(piece))
    }

    /// Takes over what it says it holds, and corrects the counts of holders.
    pub(super) fn set_holdings(&mut self, holdings: Holdings, len: u32, pool: &mut Pool) {
        self.claimed = !matches!(holdings, Holdings::Unknown);
        let new = match holdings {
            Holdings::All | Holdings::Unknown => None,
            Holdings::Some(set) if set.len() == len && set.is_full() => None,
            Holdings::Some(set) => Some(Bits::from_runs(len, set.runs())),
        };
        self.replace(new, pool);
    }

    /// Takes pieces out of what it holds. True if that breaks a claim, or it is unproven and keeps lacking things.
    pub(super) fn lacks(
        &mut self,
        lacking: &[std::ops::Range<u32>],
        len: u32,
        pool: &mut Pool,
    ) -> bool {
        let mut left = self.holds.clone().unwrap_or_else(|| Bits::full(len));
        let before = left.count();
        for run in lacking {
            left.set(run.clone(), false);
        }
        if left.count() == before {
            return false;
        }
        self.replace(Some(left), pool);
        if !std::mem::replace(&mut self.lacked_now, true) {
            self.lacked = self.lacked.saturating_add(1);
        }
        self.lacked >= STRIKES
    }

    /// It leaves: its pieces are no longer counted.
    pub(super) fn forget_holdings(&mut self, pool: &mut Pool) {
        self.replace(None, pool);
    }

    fn replace(&mut self, new: Option<Bits>, pool: &mut Pool) {
        if self.holds.is_some() || new.is_some() {
            pool.recount(self.holds.as_ref(), new.as_ref());
        }
        self.holds = new;
        self.dry = None;
    }

    /// May be asked for something now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.open.len() < self.window && self.rest_until.is_none_or(|until| until <= now)
    }

    /// A request was sent.
    pub(super) fn on_sent(&mut self, request: RequestId, now: Instant) {
        if self.open.is_empty() {
            self.lap_start = now;
            self.lap_bytes = 0;
            self.turn = now;
            self.heard = now;
        }
        self.rest_until = None;
        self.open.push(request);
    }

    /// A block came.
    pub(super) fn on_block(&mut self, bytes: u64, now: Instant) {
        self.heard = now;
        self.rests = 0;
        self.silent = 0;
        self.unreachable = 0;
        if !self.claimed {
            self.lacked = 0;
        }
        self.lap_bytes = self.lap_bytes.saturating_add(bytes);
        if now.saturating_duration_since(self.lap_start) >= LAP {
            self.end_lap(now);
        }
    }

    /// A request ended in whatever way: the next one has its turn.
    pub(super) fn on_closed(&mut self, request: RequestId, now: Instant) {
        let was_first = self.open.first() == Some(&request);
        self.open.retain(|open| *open != request);
        self.lacked_now = false;
        if was_first {
            self.turn = now;
            self.heard = self.heard.max(now);
        }
    }

    /// A request ended with all its blocks, before [`on_closed`](Source::on_closed). Decides the size of the next
    /// one. `ended_alone`: it was sent after all the others, and nothing is on its way behind it.
    pub(super) fn on_ended_well(&mut self, ended_alone: bool, now: Instant) {
        self.short = 0;
        self.well = self.well.saturating_add(1);
        if self.well >= WELL_BEFORE_WIDER {
            self.window = WINDOW;
        }
        if self.lap_bytes > 0 {
            self.end_lap(now);
        }
        self.stretch = if ended_alone {
            (self.stretch * 2.0).min(MAX_STRETCH)
        } else {
            (self.stretch * 0.8).max(1.0)
        };
        let took = now.saturating_duration_since(self.turn).as_secs_f64();
        self.doubling = self
            .doubling
            .filter(|_| took < RUN_TIME)
            .map(|run| run.saturating_mul(2).min(MAX_RUN_PIECES));
    }

    /// One lap's speed goes into the rate, with a weight that grows with its length.
    fn end_lap(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.lap_start).as_secs_f64();
        if seconds < 1e-6 {
            return;
        }
        let speed = to_f64(self.lap_bytes) / seconds;
        let weight = 1.0 - (-seconds / RUN_TIME).exp();
        self.rate = Some(match self.rate {
            Some(rate) => rate + weight * (speed - rate),
            None => speed,
        });
        self.lap_start = now;
        self.lap_bytes = 0;
    }

    /// The rate to reckon with now, in bytes per second: what was measured, less if it has been silent for longer than a
    /// block of `block_len` bytes should take.
    pub(super) fn pace(&self, block_len: u32, now: Instant) -> f64 {
        let rate = self.rate.unwrap_or(RATE_GUESS).max(1.0);
        if self.open.is_empty() {
            return rate;
        }
        let silence = now.saturating_duration_since(self.heard).as_secs_f64();
        rate.min(f64::from(block_len) / silence.max(1e-6)).max(1.0)
    }

    /// How much the next request may ask for: pieces and bytes, at least one piece.
    pub(super) fn run_size(&self) -> (u32, u64) {
        match (self.doubling, self.rate) {
            (None, Some(rate)) => (
                MAX_RUN_PIECES,
                to_u64(rate * RUN_TIME * self.stretch).min(MAX_RUN_BYTES),
            ),
            (run, _) => (run.unwrap_or(FIRST_RUN), MAX_RUN_BYTES),
        }
    }

    /// Rests for a doubling, jittered time, at least `least` and at most a minute. `jitter` is in 0..1. Refusals that
    /// arrive while it rests already are one.
    pub(super) fn rest(&mut self, least: Duration, jitter: f64, now: Instant) {
        let resting = self.rest_until.is_some_and(|until| until > now);
        if !resting {
            let factor = 1u32.checked_shl(self.rests.min(16)).unwrap_or(u32::MAX);
            let full = BACKOFF_FIRST.saturating_mul(factor).min(BACKOFF_LAST);
            self.rests = self.rests.saturating_add(1);
            self.extend_rest(full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0), now);
        }
        self.extend_rest(least, now);
    }

    fn extend_rest(&mut self, pause: Duration, now: Instant) {
        let until = now.checked_add(pause.min(BACKOFF_LAST));
        self.rest_until = self.rest_until.max(until);
    }

    /// It has other requests open and would not take one more: it is asked for one at a time for a while.
    pub(super) fn narrow(&mut self) {
        self.window = 1;
        self.well = 0;
    }

    /// Time stood still for `pause`: silence during it is nobody's.
    pub(super) fn on_resumed(&mut self, pause: Duration, now: Instant) {
        for moment in [&mut self.heard, &mut self.turn, &mut self.lap_start] {
            *moment = shifted(*moment, pause, now);
        }
    }
}

/// A moment moved on by a pause, but not into the future.
pub(super) fn shifted(moment: Instant, pause: Duration, now: Instant) -> Instant {
    moment
        .checked_add(pause)
        .map_or(now, |later| later.min(now))
}

/// A count of bytes as a float; exact up to 2^53, beyond that no rate needs it exact.
#[allow(clippy::cast_precision_loss)]
pub(super) fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// A float as a count: the fraction is cut, negative and undefined become 0, too large becomes the largest.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn to_u64(value: f64) -> u64 {
    value as u64
}
