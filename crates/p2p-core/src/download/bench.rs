//! A fetch whose sources deliver at an even pace, in time that only the calls make pass, for the benchmarks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Action, Arrival, Config, Holdings, Pieces, RequestId, Scheduler, SourceId};
use crate::content::{BLOCK_LEN, BlockSet};

/// From one block to the next, of all sources together: 1 GB/s.
const BETWEEN_BLOCKS: Duration = Duration::from_micros(262);

/// What the sources of a [`Fetch`] hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Everything.
    All,
    /// Three stretches of 64 pieces out of four; which ones differs from source to source.
    Parts,
}

/// A fetch under way.
pub struct Fetch {
    scheduler: Scheduler,
    now: Instant,
    /// The requests of each source, oldest first, with the pieces it has yet to send.
    open: Vec<VecDeque<(RequestId, VecDeque<u32>)>>,
    turn: usize,
}

impl Fetch {
    /// A file of so many full blocks from so many sources.
    ///
    /// # Panics
    /// With more blocks than content may have.
    #[must_use]
    pub fn new(pieces: u32, sources: u32, held: Held, now: Instant) -> Self {
        let block_len = u32::try_from(BLOCK_LEN).unwrap_or(u32::MAX);
        let size = u64::from(pieces).saturating_mul(BLOCK_LEN as u64);
        let space = Pieces::file(size, block_len).ok();
        let config = Config {
            prove_last: true,
            ..Config::default()
        };
        let have = BlockSet::new(pieces);
        let made = space.and_then(|space| Scheduler::new(config, space, have, 1, now).ok());
        #[allow(clippy::expect_used, reason = "said above")]
        let mut scheduler = made.expect("as many blocks as content may have");
        for source in 0..sources {
            let holdings = match held {
                Held::All => Holdings::All,
                Held::Parts => Holdings::Some(parts(pieces, source)),
            };
            scheduler.add_source(SourceId(source), holdings, now);
        }
        Self {
            scheduler,
            now,
            open: (0..sources).map(|_| VecDeque::new()).collect(),
            turn: 0,
        }
    }

    /// One call of the scheduler for what to do next. True if that was a request.
    pub fn next_action(&mut self) -> Option<bool> {
        match self.scheduler.next_action(self.now)? {
            Action::Request {
                source,
                request,
                runs,
            } => {
                if let Some(open) = self.open.get_mut(source.0 as usize) {
                    open.push_back((request, runs.into_iter().flatten().collect()));
                }
                Some(true)
            }
            Action::Cancel { source, request } => {
                if let Some(open) = self.open.get_mut(source.0 as usize) {
                    open.retain(|(open, _)| *open != request);
                }
                Some(false)
            }
            Action::Drop { .. } | Action::FindMore | Action::Done => Some(false),
        }
    }

    /// One block of the source whose turn it is arrives and is stored.
    pub fn deliver(&mut self) {
        self.now = self.now.checked_add(BETWEEN_BLOCKS).unwrap_or(self.now);
        for _ in 0..self.open.len() {
            let turn = self.turn.checked_add(1);
            self.turn = turn.filter(|turn| *turn < self.open.len()).unwrap_or(0);
            let Some(open) = self.open.get_mut(self.turn) else {
                continue;
            };
            let Some((request, pieces)) = open.front_mut() else {
                continue;
            };
            let request = *request;
            let piece = pieces.pop_front();
            if pieces.is_empty() {
                open.pop_front();
            }
            let ended = open.front().is_none_or(|(next, _)| *next != request);
            if let Some(piece) = piece {
                self.arrive(request, piece);
            }
            if ended {
                self.scheduler.on_finished(request, self.now);
            }
            return;
        }
    }

    fn arrive(&mut self, request: RequestId, piece: u32) {
        let bytes = BLOCK_LEN as u64;
        if self.scheduler.on_block(request, piece, bytes, self.now) == Arrival::Wanted {
            self.scheduler.on_stored(request, piece, self.now);
        }
    }

    /// Whether every block is stored.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.scheduler.is_done()
    }
}

/// What a source of [`Held::Parts`] holds.
fn parts(pieces: u32, source: u32) -> BlockSet {
    let mut set = BlockSet::new(pieces);
    for stretch in 0..pieces.div_ceil(64) {
        if stretch.wrapping_add(source) % 4 != 0 {
            let start = stretch.saturating_mul(64);
            set.insert_range(start..start.saturating_add(64));
        }
    }
    set
}
