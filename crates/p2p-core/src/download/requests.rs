//! Who was asked for what, and what has arrived.
//!
//! Two tables seen from two sides: a request knows its pieces, a *flight* knows the requests for its piece. They always
//! agree. A request stays known after it ended as long as blocks of it await their verdict, so that a bad one finds its
//! sender. Bounds: two open requests per source of at most 256 pieces each, and what the session lets arrive unstored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use super::pieces::Pieces;
use super::pool::Pool;
use super::source::to_f64;
use super::types::{RequestId, SourceId};

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) source: SourceId,
    /// Its response is still awaited.
    pub(super) open: bool,
    /// Asked for and not here yet. The response brings them in this order.
    pub(super) waiting: BTreeSet<u32>,
    /// Asked for, not here yet, and stored from elsewhere meanwhile.
    pub(super) lost: BTreeSet<u32>,
    /// Here, and awaiting the verdict.
    pub(super) arrived: BTreeSet<u32>,
    /// Another request took over the waiting pieces from here on. Once it gets there, it is cancelled.
    pub(super) ceded_from: Option<u32>,
    /// Pieces and bytes asked for.
    asked: (u32, u64),
    /// Its last block, or when it was sent or became the oldest of its source, whichever is last.
    pub(super) heard: Instant,
}

/// One piece that is neither free nor stored.
#[derive(Debug)]
pub(super) struct Flight {
    /// The requests that wait for it: at most two, of two sources. The second took it over from the first or races it.
    pub(super) waiting: Vec<RequestId>,
    /// The request whose copy awaits the verdict.
    pub(super) arrived: Option<RequestId>,
    /// When it was first asked for.
    pub(super) since: Instant,
}

/// How many requests may wait for one piece.
pub(super) const MAX_COPIES: usize = 2;

/// Both tables.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) table: BTreeMap<RequestId, Request>,
    pub(super) flights: BTreeMap<u32, Flight>,
    next: u64,
}

impl Requests {
    pub(super) fn get(&self, request: RequestId) -> Option<&Request> {
        self.table.get(&request)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Opens a request for these runs; free pieces leave the pool, others get a second copy under way.
    pub(super) fn open(
        &mut self,
        source: SourceId,
        runs: &[Range<u32>],
        pieces: &Pieces,
        pool: &mut Pool,
        now: Instant,
    ) -> RequestId {
        let id = RequestId(self.next);
        self.next = self.next.wrapping_add(1);
        let waiting: BTreeSet<u32> = runs.iter().cloned().flatten().collect();
        for piece in &waiting {
            pool.take(*piece);
            self.flights
                .entry(*piece)
                .or_insert_with(|| Flight {
                    waiting: Vec::with_capacity(1),
                    arrived: None,
                    since: now,
                })
                .waiting
                .push(id);
        }
        let asked = runs.iter().fold((0u32, 0u64), |(count, bytes), run| {
            let more = run.end.saturating_sub(run.start);
            let longer = bytes.saturating_add(pieces.bytes_in(run.clone()));
            (count.saturating_add(more), longer)
        });
        let request = Request {
            source,
            asked,
            open: true,
            waiting,
            lost: BTreeSet::new(),
            arrived: BTreeSet::new(),
            ceded_from: None,
            heard: now,
        };
        self.table.insert(id, request);
        id
    }

    /// A waiting piece is here. True if it is to be verified, false if another copy already is.
    pub(super) fn arrive(&mut self, id: RequestId, piece: u32) -> bool {
        let Some(flight) = self.flights.get_mut(&piece) else {
            return false;
        };
        flight.waiting.retain(|waiting| *waiting != id);
        let first = flight.arrived.is_none();
        if first {
            flight.arrived = Some(id);
        }
        if let Some(request) = self.table.get_mut(&id) {
            request.waiting.remove(&piece);
            if first {
                request.arrived.insert(piece);
            }
        }
        first
    }

    /// The verdict on an arrived piece is in. False if no verdict was due.
    fn judge(&mut self, id: RequestId, piece: u32) -> bool {
        let Some(request) = self.table.get_mut(&id) else {
            return false;
        };
        if !request.arrived.remove(&piece) {
            return false;
        }
        if !request.open && request.arrived.is_empty() {
            self.table.remove(&id);
        }
        true
    }

    /// An arrived piece was stored. Gives the requests that still waited for it and no longer do; `None` if no verdict was
    /// due.
    pub(super) fn store(&mut self, id: RequestId, piece: u32) -> Option<Vec<RequestId>> {
        if !self.judge(id, piece) {
            return None;
        }
        Some(self.settle_elsewhere(piece))
    }

    /// A piece is stored: nothing of it is awaited any more. Gives the requests that did.
    pub(super) fn settle_elsewhere(&mut self, piece: u32) -> Vec<RequestId> {
        let Some(flight) = self.flights.remove(&piece) else {
            return Vec::new();
        };
        if let Some(id) = flight.arrived {
            self.judge(id, piece);
        }
        for loser in &flight.waiting {
            if let Some(request) = self.table.get_mut(loser) {
                request.waiting.remove(&piece);
                request.lost.insert(piece);
            }
        }
        flight.waiting
    }

    /// An arrived piece was no good or got lost: it is free again unless somebody else is asked for it. False if no
    /// verdict was due.
    pub(super) fn reject(&mut self, id: RequestId, piece: u32, pool: &mut Pool) -> bool {
        if !self.judge(id, piece) {
            return false;
        }
        if let Some(flight) = self.flights.get_mut(&piece) {
            flight.arrived = None;
        }
        self.free_if_unasked(piece, pool);
        true
    }

    /// Takes waiting pieces from a request.
    pub(super) fn release(
        &mut self,
        id: RequestId,
        pieces: impl Iterator<Item = u32>,
        pool: &mut Pool,
    ) {
        for piece in pieces {
            let known = self.table.get_mut(&id);
            if !known.is_some_and(|request| request.waiting.remove(&piece)) {
                continue;
            }
            let Some(flight) = self.flights.get_mut(&piece) else {
                continue;
            };
            flight.waiting.retain(|waiting| *waiting != id);
            // Whoever ceded the piece to this request has to bring it after all.
            for other in flight.waiting.clone() {
                if let Some(other) = self.table.get_mut(&other)
                    && other.ceded_from.is_some_and(|from| from <= piece)
                {
                    other.ceded_from = piece.checked_add(1);
                }
            }
            self.free_if_unasked(piece, pool);
        }
    }

    /// The response is no longer awaited: what it did not bring is free again unless somebody else is asked for it.
    pub(super) fn close(&mut self, id: RequestId, pool: &mut Pool) {
        let Some(request) = self.table.get_mut(&id) else {
            return;
        };
        request.open = false;
        let waiting = request.waiting.clone();
        let done = request.arrived.is_empty();
        self.release(id, waiting.into_iter(), pool);
        if done {
            self.table.remove(&id);
        }
    }

    fn free_if_unasked(&mut self, piece: u32, pool: &mut Pool) {
        let unasked = |flight: &Flight| flight.waiting.is_empty() && flight.arrived.is_none();
        if self.flights.get(&piece).is_some_and(unasked) {
            self.flights.remove(&piece);
            pool.give_back(piece);
        }
    }
}

impl Request {
    /// Mean length of its pieces.
    pub(super) fn bytes_per_piece(&self) -> f64 {
        let (count, bytes) = self.asked;
        to_f64(bytes) / f64::from(count.max(1))
    }

    /// About how many bytes are still to come.
    pub(super) fn bytes_left(&self) -> f64 {
        let left = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        f64::from(left) * self.bytes_per_piece()
    }

    /// All it still waits for was taken over by others.
    pub(super) fn is_superseded(&self) -> bool {
        match (self.waiting.first(), self.ceded_from) {
            (Some(first), Some(from)) => *first >= from,
            _ => false,
        }
    }
}
