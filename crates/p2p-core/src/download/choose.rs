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
        let elsewhere = self.random_piece();
        let Some(source) = self.sources.get(&id) else {
            return Vec::new();
        };
        if self.pool.count() == 0 || source.dry == Some(self.pool.version()) {
            return Vec::new();
        }
        let (pieces, bytes) = source.run_size();
        let cursor = source.cursor;
        let order = match &self.reader {
            Some(reader) => Order::InOrder { from: reader.start },
            None if self.sources.len() == 1 => Order::Spread {
                cursor,
                otherwise: cursor,
            },
            None => Order::Spread {
                cursor,
                otherwise: elsewhere,
            },
        };
        let budget = Budget { pieces, bytes };
        let runs = picker::pick(&self.pool, &self.pieces, source.holds(), order, budget);
        if runs.is_empty()
            && let Some(source) = self.sources.get_mut(&id)
        {
            source.dry = Some(self.pool.version());
        }
        runs
    }

    /// The one piece that everything waits for: the last one while it has to prove the size, else the reader's.
    fn urgent_piece(&self) -> Option<u32> {
        let last = self.unproven();
        last.or_else(|| {
            let reader = self.reader.as_ref()?;
            let missing = self.stored.first_missing_from(reader.start)?;
            (missing < reader.end).then_some(missing)
        })
    }

    /// The urgent piece for this source: if it is the proof and free, or if a much slower source has had it for too long.
    fn urgent_for(&self, id: SourceId, now: Instant) -> Vec<Range<u32>> {
        let wanted = self.urgent_piece().filter(|piece| {
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
