//! Readers of a fetch: each waits for a run of pieces from where it is, and has them fetched before anything else, or as all
//! that is fetched.

use std::ops::Range;
use std::time::Instant;

use super::pool::ANY_CLASS;
use super::scheduler::Scheduler;
use super::source::Source;
use super::types::{RequestId, SourceId};

/// A request that readers have no more use for is not cancelled when it ends within so many seconds: most of it is on its
/// way already.
const NEARLY_HERE: f64 = 0.1;

/// What the readers of a fetch wait for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Readers {
    /// Of each reader, from where it is to the end of its read-ahead. None is empty.
    windows: Vec<Range<u32>>,
    /// Nothing else is fetched.
    pub(super) only: bool,
}

impl Readers {
    pub(super) fn first(&self) -> Option<&Range<u32>> {
        self.windows.first()
    }

    fn want(&self, piece: u32) -> bool {
        self.windows.iter().any(|window| window.contains(&piece))
    }
}

impl Scheduler {
    /// Readers wait for these pieces: those are fetched first, each reader's in order; who has least of it in front of him
    /// has his turn. With `only`, nothing else is fetched (but the last piece, if it has to prove the size); otherwise what
    /// follows is fetched next, or, without readers, the rarest first.
    ///
    /// Requests that bring no reader anything are cancelled if nothing else is to be fetched, or if a reader's piece would
    /// have to wait for them.
    pub(crate) fn set_readers(
        &mut self,
        windows: impl IntoIterator<Item = Range<u32>>,
        only: bool,
        now: Instant,
    ) {
        let len = self.pieces.count();
        let windows = windows.into_iter();
        let windows = windows.map(|window| window.start..window.end.min(len));
        let readers = Readers {
            windows: windows.filter(|window| !window.is_empty()).collect(),
            only,
        };
        if readers == self.readers {
            return;
        }
        self.readers = readers;
        for source in self.sources.values_mut() {
            source.dry = None;
            source.steal_at = now;
        }
        self.make_way(now);
        self.after_step();
    }

    /// The first piece that each reader lacks, if it lacks any.
    pub(super) fn awaited(&self) -> impl Iterator<Item = u32> {
        self.readers.windows.iter().filter_map(|window| {
            let missing = self.stored.first_missing_from(window.start)?;
            window.contains(&missing).then_some(missing)
        })
    }

    /// Everything that is to be fetched now is here: what is missing is nobody's fault.
    pub(crate) fn is_resting(&self) -> bool {
        self.readers.only && self.unproven().is_none() && self.awaited().next().is_none()
    }

    /// Of what nobody was asked for yet and this source holds, what the reader needs who has least in front of him.
    pub(super) fn window_for(&self, source: &Source) -> Option<Range<u32>> {
        let windows = self.readers.windows.iter();
        let left = windows.filter_map(|window| {
            let free = self
                .pool
                .first_in(source.holds(), window.clone(), ANY_CLASS)?;
            let ahead = free.piece.saturating_sub(window.start);
            Some((ahead, free.piece..window.end))
        });
        left.min_by_key(|(ahead, left)| (*ahead, left.start))
            .map(|(_, left)| left)
    }

    /// Cancels what readers have no use for, the newest first.
    fn make_way(&mut self, now: Instant) {
        let useless: Vec<(RequestId, SourceId)> = self
            .requests
            .table
            .iter()
            .filter(|(_, request)| request.open)
            .filter(|(_, request)| {
                let mut waiting = request.waiting.iter();
                !waiting.any(|piece| self.readers.want(*piece) || self.unproven() == Some(*piece))
            })
            .filter(|(_, request)| {
                let pace = self
                    .sources
                    .get(&request.source)
                    .map_or(1.0, |source| source.pace(self.pieces.block_len(), now));
                request.bytes_left() / pace > NEARLY_HERE
            })
            .map(|(id, request)| (*id, request.source))
            .collect();
        for (request, source) in useless.into_iter().rev() {
            if self.readers.only || self.keeps_a_reader_waiting(source) {
                self.cancel(request, now);
            }
        }
    }

    /// A reader's next piece could be asked of this source, had it not enough to do.
    fn keeps_a_reader_waiting(&self, source: SourceId) -> bool {
        let Some(source) = self.sources.get(&source) else {
            return false;
        };
        let mut awaited = self.awaited();
        source.open.len() >= source.window
            && awaited.any(|piece| self.pool.is_free(piece) && source.has(piece))
    }
}
