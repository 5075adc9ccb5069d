//! How far ahead of a reader blocks are fetched: as far as it has read on in order. So a reader that goes on is soon as fast
//! as a fetch, and one that leaves has had little more fetched than twice what it read.

use std::ops::Range;

/// Blocks at a new place: 1 MiB, the same as the first request to a source.
const LEAST: u32 = 4;
/// Blocks at most: 32 MiB, so that a line of 1 Gbit/s and 100 ms is kept full.
const MOST: u32 = 128;

/// The place of a reader, in blocks, and what was asked for it.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// Nothing from here on is asked for before it is read.
    end: u32,
    /// It is known to be read up to there.
    is_sure: bool,
    /// Where it began to read in order.
    begun: u32,
    asked: Range<u32>,
}

impl ReadAhead {
    /// Before the first read of so many blocks.
    pub(super) fn new(blocks: u32) -> Self {
        Self {
            end: blocks,
            is_sure: false,
            begun: 0,
            asked: 0..0,
        }
    }

    /// It reads up to here, and no further.
    pub(super) fn set_end(&mut self, end: u32) {
        self.end = end;
        self.is_sure = true;
    }

    /// It reads this block now. What is to be fetched from now on.
    pub(super) fn at(&mut self, block: u32) -> Range<u32> {
        // The block behind what was asked for is the next one, if everything is here already.
        let goes_on =
            !self.asked.is_empty() && (self.asked.contains(&block) || block == self.asked.end);
        if !goes_on {
            self.begun = block;
        }
        let depth = if self.is_sure {
            MOST
        } else {
            let read = block.saturating_sub(self.begun);
            read.clamp(LEAST, MOST)
        };
        let left = self.asked.end.saturating_sub(block);
        // In steps, so that each is worth a request.
        if !goes_on || left <= depth / 2 {
            let end = block.saturating_add(depth).min(self.end);
            self.asked = block..end.max(block.saturating_add(1));
        }
        self.asked.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_what_is_read_in_order_and_begins_anew_elsewhere() {
        let mut ahead = ReadAhead::new(10_000);
        assert_eq!(ahead.at(100), 100..104);
        let mut most = 0;
        for block in 101..1000 {
            let asked = ahead.at(block);
            assert!(asked.contains(&block));
            let read = block - 100;
            assert!(asked.end - block <= read.clamp(LEAST, MOST));
            most = most.max(asked.end - block);
        }
        assert_eq!(most, MOST);
        assert_eq!(ahead.at(5000), 5000..5004);
        assert_eq!(ahead.at(4999), 4999..5003);
        assert_eq!(ahead.at(9999), 9999..10_000);
    }

    #[test]
    fn it_asks_in_steps() {
        let mut ahead = ReadAhead::new(10_000);
        let mut asked: Vec<Range<u32>> = (0..2000).map(|block| ahead.at(block)).collect();
        asked.dedup();
        assert!(asked.len() < 2000 / (MOST as usize / 2) + 20, "{asked:?}");
    }

    #[test]
    fn nothing_behind_the_end_is_asked_for() {
        let mut ahead = ReadAhead::new(10_000);
        ahead.set_end(150);
        assert_eq!(
            ahead.at(100),
            100..150,
            "all of it, as it is known to be read"
        );
        assert_eq!(ahead.at(149), 149..150);
        assert_eq!(ahead.at(150), 150..151, "unless it is read");
        ahead.set_end(9000);
        assert_eq!(ahead.at(1000), 1000..1000 + MOST);
    }
}
