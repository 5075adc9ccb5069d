//! What an idle source takes over from a slow one.
//!
//! When no free piece is left for a source, it takes the tail of the request that will end last, as much of it as lets both
//! end together. On the wire a request cannot be shortened, so the victim keeps the pieces too and is cancelled as soon as
//! it reaches them or they are stored. The piece a victim is in the midst of is not ceded but raced for (the endgame): both
//! fetch it and the loser is cancelled. No piece ever has more than two copies under way.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::picker::{Budget, MAX_RUNS};
use super::pieces::Pieces;
use super::requests::{MAX_COPIES, Request, Requests};
use super::source::{Source, to_f64, to_u64};
use super::types::{RequestId, SourceId};

/// Less gain than this, in seconds, is not worth a second copy.
const LEAST_GAIN: f64 = 0.05;

/// A thief must be done in this part of the victim's time.
const LEAST_ADVANTAGE: f64 = 0.8;

/// Something to take over.
#[derive(Debug)]
pub(super) struct Theft {
    pub(super) runs: Vec<Range<u32>>,
    /// The request it is taken from, and the first piece taken; `None` if the piece is raced for.
    pub(super) ceded: Option<(RequestId, u32)>,
}

/// One request as seen by a thief; times in seconds from now.
struct Prey<'a> {
    id: RequestId,
    request: &'a Request,
    /// It is its source's oldest: its first piece may be half here.
    under_way: bool,
    /// When the requests before it end, when it ends, and how long it takes per piece.
    begins: f64,
    ends: f64,
    per_piece: f64,
}

/// What `thief` should take over now, if anything pays.
pub(super) fn plan(
    thief: SourceId,
    sources: &BTreeMap<SourceId, Source>,
    requests: &Requests,
    pieces: &Pieces,
    now: Instant,
) -> Option<Theft> {
    let robber = sources.get(&thief)?;
    let pace = robber.pace(pieces.block_len(), now);
    let queue = robber.open.iter().filter_map(|id| requests.get(*id));
    let busy: f64 = queue.map(|request| request.bytes_left() / pace).sum();
    let (most_pieces, most_bytes) = robber.run_size();
    let budget = Budget {
        pieces: most_pieces,
        bytes: most_bytes,
    };

    let mut prey = hunt(thief, sources, requests, pieces, now);
    prey.sort_by(|a, b| b.ends.total_cmp(&a.ends).then(a.id.cmp(&b.id)));
    prey.iter()
        .take_while(|prey| prey.ends > busy + LEAST_GAIN)
        .find_map(|prey| {
            let per_piece = prey.request.bytes_per_piece() / pace;
            take(prey, robber, requests, pieces, budget, busy, per_piece)
        })
}

/// Every open request of the others that is worth a look.
fn hunt<'a>(
    thief: SourceId,
    sources: &BTreeMap<SourceId, Source>,
    requests: &'a Requests,
    pieces: &Pieces,
    now: Instant,
) -> Vec<Prey<'a>> {
    let mut prey = Vec::new();
    for (_, source) in sources.iter().filter(|(id, _)| **id != thief) {
        let pace = source.pace(pieces.block_len(), now);
        let mut begins = 0.0;
        for (place, id) in source.open.iter().enumerate() {
            let Some(request) = requests.get(*id) else {
                continue;
            };
            let ends = begins + request.bytes_left() / pace;
            if !request.waiting.is_empty() {
                prey.push(Prey {
                    id: *id,
                    request,
                    under_way: place == 0,
                    begins,
                    ends,
                    per_piece: request.bytes_per_piece() / pace,
                });
            }
            begins = ends;
        }
    }
    prey
}

/// What to take of one request. `busy` is how long the thief's own requests take, `per_piece` what a piece takes it.
fn take(
    prey: &Prey<'_>,
    robber: &Source,
    requests: &Requests,
    pieces: &Pieces,
    budget: Budget,
    busy: f64,
    per_piece: f64,
) -> Option<Theft> {
    let bound = prey.request.ceded_from.unwrap_or(u32::MAX);
    let kept = prey.request.waiting.range(..bound).count();
    let single = |piece: &u32| {
        let flight = requests.flights.get(piece);
        flight.is_some_and(|flight| flight.waiting.len() < MAX_COPIES && flight.arrived.is_none())
    };
    let is_fit = |piece: &&u32| robber.has(**piece) && single(piece);
    let pays = |count: f64| busy + count * per_piece < prey.ends * LEAST_ADVANTAGE - LEAST_GAIN;

    // Both end together if the thief takes this many.
    let kept_time = to_f64(u64::try_from(kept).ok()?) * prey.per_piece;
    let even = (prey.begins + kept_time - busy) / (per_piece + prey.per_piece).max(1e-9);
    let most = kept.saturating_sub(usize::from(prey.under_way));
    let count = usize::try_from(to_u64(even)).ok()?.min(most);
    if count == 0 || !pays(1.0) {
        // Nothing to cede: only the piece under way is left, or less than one would be fair.
        let piece = *prey.request.waiting.range(..bound).next_back()?;
        let race = kept == 1 && is_fit(&&piece) && pays(1.0);
        return race.then(|| Theft {
            runs: std::iter::once(piece..piece.saturating_add(1)).collect(),
            ceded: None,
        });
    }
    let tail = prey.request.waiting.range(..bound).rev();
    let runs = cut(tail.take_while(is_fit).take(count), pieces, budget);
    let from = runs.first()?.start;
    Some(Theft {
        runs,
        ceded: Some((prey.id, from)),
    })
}

/// Descending pieces as ascending runs, the highest ones first to be kept when the budget ends.
fn cut<'a>(
    tail: impl Iterator<Item = &'a u32>,
    pieces: &Pieces,
    budget: Budget,
) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    let (mut count, mut bytes) = (0u32, 0u64);
    for piece in tail {
        count = count.saturating_add(1);
        bytes = bytes.saturating_add(pieces.len_of(*piece));
        if count > 1 && (count > budget.pieces || bytes > budget.bytes) {
            break;
        }
        let end = piece.saturating_add(1);
        let is_full = runs.len() >= MAX_RUNS;
        match runs.last_mut() {
            Some(run) if run.start == end => run.start = *piece,
            _ if is_full => break,
            _ => runs.push(*piece..end),
        }
    }
    runs.reverse();
    runs
}
