//! The order in which free pieces are asked for, as plain functions over the pool.
//!
//! *Spread* is rarest first; among equally rare pieces a source goes on where its last run ended, and where it cannot it
//! starts anew at a random one, so that several sources work in different regions with long sequential runs. A source
//! that is alone goes on from its random start to the end and around. *Onward* and *within* serve readers: the
//! first free piece from a reader's place.
//!
//! That the new start is random among *all* that are equally rare matters to others who fetch the same from the same
//! source: the first rare piece behind what they are known to hold is the one they are just being sent.

use std::ops::Range;

use super::pieces::Pieces;
use super::pool::{ANY_CLASS, Bits, Found, Pool};

/// Most runs in a request: a question stays far below 4 KiB.
pub(super) const MAX_RUNS: usize = 32;

/// Random places tried for a new start. If none fits, few pieces do, and the next one after a random place will do.
pub(super) const PLACES: usize = 16;

/// How much one request may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) pieces: u32,
    pub(super) bytes: u64,
}

/// Where a source looks for its next run.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// Rarest first; equally rare ones from the cursor on, or, if the piece there is none of them, from one of the random
    /// places of `elsewhere`. Without these, from the next one.
    Spread {
        cursor: Option<u32>,
        elsewhere: Option<[u32; PLACES]>,
    },
    /// The first one from here on, then from the start.
    Onward { from: u32 },
    /// The first of these, and no others.
    Within(Range<u32>),
}

/// The free pieces to ask for next of a source that holds `holds` (`None`: everything), as ascending runs; empty if there
/// is nothing for it.
pub(super) fn pick(
    pool: &Pool,
    pieces: &Pieces,
    holds: Option<&Bits>,
    order: Order,
    budget: Budget,
) -> Vec<Range<u32>> {
    let len = pieces.count();
    let mut end = len;
    let (found, most) = match order {
        Order::Spread { cursor, elsewhere } => {
            let next = rarest_around(pool, holds, cursor.unwrap_or(0), len);
            let found = match (next, elsewhere) {
                (Some(next), Some(places)) if Some(next.piece) != cursor => {
                    one_of(pool, holds, next.class, &places, len)
                }
                (next, _) => next,
            };
            (found, found.map_or(0, |found| found.class))
        }
        Order::Onward { from } => {
            let ahead = pool.first_in(holds, from..len, ANY_CLASS);
            let found = ahead.or_else(|| pool.first_in(holds, 0..from, ANY_CLASS));
            (found, ANY_CLASS)
        }
        Order::Within(range) => {
            end = range.end.min(len);
            (pool.first_in(holds, range, ANY_CLASS), ANY_CLASS)
        }
    };
    match found {
        Some(found) => collect(pool, pieces, holds, found.piece..end, most, budget),
        None => Vec::new(),
    }
}

/// The first of these places where there is a free piece of the lowest class, or the next such piece after the first place.
fn one_of(pool: &Pool, holds: Option<&Bits>, class: u8, places: &[u32], len: u32) -> Option<Found> {
    let fits = |piece: &u32| {
        let has = holds.is_none_or(|bits| bits.contains(*piece));
        has && pool.is_free(*piece) && pool.class_of(*piece) == class
    };
    match places.iter().copied().find(fits) {
        Some(piece) => Some(Found { piece, class }),
        None => rarest_around(pool, holds, places.first().copied()?, len),
    }
}

/// The rarest free piece, of equally rare ones the first from `start` on, around the end.
fn rarest_around(pool: &Pool, holds: Option<&Bits>, start: u32, len: u32) -> Option<Found> {
    let ahead = pool.rarest_in(holds, start..len);
    if ahead.is_some_and(|ahead| ahead.class == 0) {
        return ahead;
    }
    let behind = pool.rarest_in(holds, 0..start.min(len));
    match (ahead, behind) {
        (Some(ahead), Some(behind)) if behind.class < ahead.class => Some(behind),
        (None, behind) => behind,
        (ahead, _) => ahead,
    }
}

/// Free pieces of a class up to `most` in `range`, until the budget or the number of runs is used up.
fn collect(
    pool: &Pool,
    pieces: &Pieces,
    holds: Option<&Bits>,
    range: Range<u32>,
    most: u8,
    budget: Budget,
) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    let mut spent = Budget {
        pieces: 0,
        bytes: 0,
    };
    let mut from = range.start;
    while let Some(Found { piece, .. }) = pool.first_in(holds, from..range.end, most) {
        if !append(&mut runs, piece, pieces, &mut spent, budget) {
            break;
        }
        from = piece.saturating_add(1);
    }
    runs
}

/// Adds a piece above all others to the runs. False if it no longer fits; the first always does.
fn append(
    runs: &mut Vec<Range<u32>>,
    piece: u32,
    pieces: &Pieces,
    spent: &mut Budget,
    budget: Budget,
) -> bool {
    let count = spent.pieces.saturating_add(1);
    let bytes = spent.bytes.saturating_add(pieces.len_of(piece));
    let over = count > budget.pieces || bytes > budget.bytes;
    if over && spent.pieces > 0 {
        return false;
    }
    let end = piece.saturating_add(1);
    let is_full = runs.len() >= MAX_RUNS;
    match runs.last_mut() {
        Some(run) if run.end == piece => run.end = end,
        _ if is_full => return false,
        _ => runs.push(piece..end),
    }
    *spent = Budget {
        pieces: count,
        bytes,
    };
    true
}
