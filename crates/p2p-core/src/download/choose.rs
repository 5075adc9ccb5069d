//! Which source is asked for what next: the urgent piece, free pieces, or something taken over from a slow source.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::picker::{self, Budget, Order};
use super::requests::MAX_COPIES;
use super::scheduler::Scheduler;
use super::source::Source;
use super::steal;
use super::types::{Action, SourceId};

/// An idle source that found nothing worth taking over looks again after this.
const STEAL_PAUSE: Duration = Duration::from_millis(200);

/// A piece that is waited for urgently gets a second copy after this, if a source twice as fast is there.
const PATIENCE: Duration = Duration::from_secs(1);
const MUCH_FASTER: f64 = 2.0;

/// With others who fetch the same, a request to a full source asks for at most this part of one fetch's share of what none
/// of them has. What they were asked to be sent last is not known: the less there is left, the more of it is under way to
/// somebody, and the sooner news of it is worth having before asking again.
const PART_OF_SHARE: u32 = 8;

/// But not for less than this part of the usual run, so that a line with a long delay is kept busy.
const PART_OF_RUN: u32 = 5;

impl Scheduler {
    /// Gives the request to send next: the readiest source first, of equally ready ones the fastest.
    pub(super) fn next_request(&mut self, now: Instant) -> Option<Action> {
        let block_len = self.pieces.block_len();
        let mut ready: Vec<(usize, f64, SourceId)> = self
            .sources
            .iter()
            .filter(|(_, source)| source.is_ready(now) && self.may_try(source, now))
            .map(|(id, source)| (source.open.len(), source.pace(block_len, now), *id))
            .collect();
        ready.sort_by(|a, b| {
            let by_load = a.0.cmp(&b.0);
            by_load.then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2))
        });
        ready
            .into_iter()
            .find_map(|(_, _, id)| self.request_from(id, now))
    }

    /// False if nothing changed since this source found nothing to do.
    fn may_try(&self, source: &Source, now: Instant) -> bool {
        let dry = self.pool.count() == 0 || source.dry == Some(self.pool.version());
        !dry || source.steal_at <= now
    }

    /// What to ask one source for now, if anything.
    fn request_from(&mut self, id: SourceId, now: Instant) -> Option<Action> {
        let mut ceded = None;
        let mut runs = self.urgent_for(id, now);
        if runs.is_empty() && !self.must_prove_first(id) {
            runs = self.pick_for(id);
            if runs.is_empty() {
                let theft = steal::plan(id, &self.sources, &self.requests, &self.pieces, now);
                if let Some(theft) = theft {
                    runs = theft.runs;
                    ceded = theft.ceded;
                }
            }
        }
        let proves = runs.first().is_some_and(|run| self.is_proof(run));
        let source = self.sources.get_mut(&id)?;
        if runs.is_empty() {
            source.steal_at = now.checked_add(STEAL_PAUSE).unwrap_or(now);
            return None;
        }
        let request = self
            .requests
            .open(id, &runs, &self.pieces, &mut self.pool, now);
        source.on_sent(request, now);
        if !proves {
            source.cursor = runs.last().map_or(0, |run| run.end);
        }
        if let Some((victim, from)) = ceded {
            if let Some(victim) = self.requests.table.get_mut(&victim) {
                victim.ceded_from = Some(victim.ceded_from.map_or(from, |old| old.min(from)));
            }
            self.cancel_if_superseded(victim, now);
        }
        Some(Action::Request {
            source: id,
            request,
            runs,
        })
    }

    /// Free pieces for a source, in the order in force.
    fn pick_for(&mut self, id: SourceId) -> Vec<Range<u32>> {
        let elsewhere = std::array::from_fn(|_| self.random_piece());
        let Some(source) = self.sources.get(&id) else {
            return Vec::new();
        };
        if self.pool.count() == 0 || source.dry == Some(self.pool.version()) {
            return Vec::new();
        }
        let len = self.pieces.count();
        let order = match (self.window_for(source), self.readers.first()) {
            (Some(left), _) if self.readers.only => Some(Order::Within(left)),
            (Some(left), _) => Some(Order::Within(left.start..len)),
            (None, _) if self.readers.only => None,
            (None, Some(reader)) => Some(Order::Onward { from: reader.start }),
            (None, None) => Some(Order::Spread {
                cursor: (!self.is_behind(source)).then_some(source.cursor),
                elsewhere: (self.sources.len() > 1).then_some(elsewhere),
            }),
        };
        let budget = self.budget_for(source);
        let pick = |order| picker::pick(&self.pool, &self.pieces, source.holds(), order, budget);
        let runs = order.map(pick).unwrap_or_default();
        if runs.is_empty()
            && let Some(source) = self.sources.get_mut(&id)
        {
            source.dry = Some(self.pool.version());
        }
        runs
    }

    /// Another fetch goes the same way through what only this source has, a little ahead: it was sent already what is still
    /// awaited here. Going on would fetch all of its pieces a second time.
    fn is_behind(&self, source: &Source) -> bool {
        let mut open = source.open.iter().filter_map(|id| self.requests.get(*id));
        self.pool.class_of(source.cursor) == 0
            && open.any(|request| {
                let first = request.waiting.first();
                first.is_some_and(|piece| self.pool.class_of(*piece) > 0)
            })
    }

    /// How much the next request to a source may ask for.
    fn budget_for(&self, source: &Source) -> Budget {
        let (pieces, bytes) = source.run_size();
        let partial = self.sources.values().filter(|s| s.holds().is_some());
        let partial = u32::try_from(partial.count()).unwrap_or(u32::MAX);
        if partial == 0 || source.holds().is_some() || self.readers.first().is_some() {
            return Budget { pieces, bytes };
        }
        let parts = partial.saturating_add(1).saturating_mul(PART_OF_SHARE);
        let orphans = self.pool.orphans(parts.saturating_mul(pieces));
        if orphans == 0 {
            return Budget { pieces, bytes };
        }
        let block_len = u64::from(self.pieces.block_len());
        let usual = bytes.checked_div(block_len).unwrap_or(0);
        let usual = u32::try_from(usual).unwrap_or(u32::MAX).min(pieces);
        let share = orphans.checked_div(parts).unwrap_or(0);
        let share = share.max(usual / PART_OF_RUN).max(1);
        Budget {
            pieces: pieces.min(share),
            bytes,
        }
    }

    /// The piece that everything waits for: the last one while it has to prove the size, else a reader's. For this source:
    /// if it is the proof and free, or if a much slower source has had it for too long.
    fn urgent_for(&self, id: SourceId, now: Instant) -> Vec<Range<u32>> {
        let proof = self.unproven();
        let awaited = self.awaited().filter(|_| proof.is_none());
        let wanted = proof.into_iter().chain(awaited).find(|piece| {
            let Some(source) = self.sources.get(&id).filter(|source| source.has(*piece)) else {
                return false;
            };
            if self.pool.is_free(*piece) {
                return self.unproven() == Some(*piece);
            }
            let Some(flight) = self.requests.flights.get(piece) else {
                return false;
            };
            let overdue = now.saturating_duration_since(flight.since) >= PATIENCE;
            if !overdue || flight.arrived.is_some() || flight.waiting.len() >= MAX_COPIES {
                return false;
            }
            let slow = flight
                .waiting
                .first()
                .and_then(|slow| self.requests.get(*slow));
            let Some(slow) = slow.filter(|slow| slow.source != id) else {
                return false;
            };
            let block_len = self.pieces.block_len();
            let slow = self.sources.get(&slow.source);
            let slow = slow.map_or(0.0, |slow| slow.pace(block_len, now));
            source.pace(block_len, now) >= slow * MUCH_FASTER
        });
        wanted
            .into_iter()
            .map(|piece| piece..piece.saturating_add(1))
            .collect()
    }

    /// The last piece, as long as it must prove the size and is not stored.
    pub(super) fn unproven(&self) -> Option<u32> {
        let last = self.pieces.count().checked_sub(1)?;
        (self.config.prove_last && !self.stored.contains(last)).then_some(last)
    }

    fn is_proof(&self, run: &Range<u32>) -> bool {
        self.unproven().is_some_and(|last| run.start == last)
    }

    /// The size is unproven and this source has its one run already.
    fn must_prove_first(&self, id: SourceId) -> bool {
        let Some(last) = self.unproven() else {
            return false;
        };
        let Some(source) = self.sources.get(&id) else {
            return true;
        };
        let mut open = source
            .open
            .iter()
            .filter_map(|open| self.requests.get(*open));
        open.any(|request| request.waiting.first() != Some(&last))
    }
}
