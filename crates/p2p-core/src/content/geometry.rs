//! [`Geometry`]: how content of a size divides into blocks and pages. Numbers only, no bytes.
//!
//! Invariant: a [`BlockIndex`] comes from [`Geometry::block`] and so lies inside the content it was asked of.

use std::ops::Range;

/// Length of a block in bytes: 256 KiB, a subtree of 256 chunks of the BLAKE3 tree. The last block may be shorter.
pub const BLOCK_LEN: usize = 256 * 1024;

/// Blocks in a page (256 MiB). The last page may hold fewer.
pub const PAGE_BLOCKS: u32 = 1024;

/// Largest content in bytes, 8 TiB: its page values, the top of an outline, still fit into 1 MiB.
pub const MAX_SIZE: u64 = 1 << 43;

const BLOCK_BYTES: u64 = BLOCK_LEN as u64;

/// The number of a block within its content, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(u32);

impl BlockIndex {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A size above [`MAX_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is more than content may have (8 TiB)")]
pub struct SizeError(pub u64);

/// How content of one size divides into blocks, and blocks into pages.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    size: u64,
}

impl Geometry {
    /// The geometry of content of `size` bytes.
    ///
    /// # Errors
    /// [`SizeError`] above [`MAX_SIZE`].
    pub const fn new(size: u64) -> Result<Self, SizeError> {
        if size > MAX_SIZE {
            return Err(SizeError(size));
        }
        Ok(Self { size })
    }

    /// Size of the content in bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// Number of blocks; 0 only for content without bytes.
    #[must_use]
    pub const fn blocks(self) -> u32 {
        // At most 2^25: the size is at most 2^43.
        self.size.div_ceil(BLOCK_BYTES) as u32
    }

    /// Number of pages; 0 only for content without bytes.
    #[must_use]
    pub const fn pages(self) -> u32 {
        self.blocks().div_ceil(PAGE_BLOCKS)
    }

    /// The block with this number, if the content has one.
    #[must_use]
    pub const fn block(self, index: u32) -> Option<BlockIndex> {
        if index < self.blocks() {
            Some(BlockIndex(index))
        } else {
            None
        }
    }

    /// The last block. It is the one that proves the size. `None` for content without bytes.
    #[must_use]
    pub const fn last(self) -> Option<BlockIndex> {
        match self.blocks().checked_sub(1) {
            Some(index) => Some(BlockIndex(index)),
            None => None,
        }
    }

    /// All blocks in order.
    pub fn indices(self) -> impl DoubleEndedIterator<Item = BlockIndex> + ExactSizeIterator {
        (0..self.blocks()).map(BlockIndex)
    }

    /// Length of a block in bytes: [`BLOCK_LEN`], or less for the last; 0 for an index of other, larger content.
    #[must_use]
    pub const fn len_of(self, block: BlockIndex) -> usize {
        let rest = self.size.saturating_sub(self.offset_of(block));
        if rest < BLOCK_BYTES {
            rest as usize
        } else {
            BLOCK_LEN
        }
    }

    /// Offset of a block's first byte within the content, in bytes.
    #[must_use]
    pub const fn offset_of(self, block: BlockIndex) -> u64 {
        (block.0 as u64).saturating_mul(BLOCK_BYTES)
    }

    /// The page that a block lies in, counted from 0.
    #[must_use]
    pub const fn page_of(self, block: BlockIndex) -> u32 {
        block.0 / PAGE_BLOCKS
    }

    /// The blocks of a page; empty for a page that the content does not have.
    #[must_use]
    pub fn blocks_of_page(self, page: u32) -> Range<u32> {
        let first = page.saturating_mul(PAGE_BLOCKS).min(self.blocks());
        first..first.saturating_add(PAGE_BLOCKS).min(self.blocks())
    }

    /// The blocks that cover a range of bytes, cut off at the end of the content; empty for an empty range.
    #[must_use]
    pub fn blocks_in(self, bytes: Range<u64>) -> Range<u32> {
        let end = bytes.end.min(self.size);
        if bytes.start >= end {
            return 0..0;
        }
        // Both fit: they are at most the number of blocks.
        (bytes.start / BLOCK_BYTES) as u32..end.div_ceil(BLOCK_BYTES) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u64 = BLOCK_BYTES * PAGE_BLOCKS as u64;

    fn geometry(size: u64) -> Geometry {
        Geometry::new(size).unwrap()
    }

    #[test]
    fn sizes_at_the_edges() {
        let counts = |size| (geometry(size).blocks(), geometry(size).pages());
        assert_eq!(counts(0), (0, 0));
        assert_eq!(counts(1), (1, 1));
        assert_eq!(counts(BLOCK_BYTES), (1, 1));
        assert_eq!(counts(BLOCK_BYTES + 1), (2, 1));
        assert_eq!(counts(PAGE), (1024, 1));
        assert_eq!(counts(PAGE + 1), (1025, 2));
        assert_eq!(counts(MAX_SIZE), (1 << 25, 1 << 15));
        assert_eq!(Geometry::new(MAX_SIZE + 1), Err(SizeError(MAX_SIZE + 1)));
        assert_eq!(Geometry::new(u64::MAX), Err(SizeError(u64::MAX)));
    }

    #[test]
    fn nothing_has_no_block() {
        assert_eq!(geometry(0).block(0), None);
        assert_eq!(geometry(0).last(), None);
        assert_eq!(geometry(0).blocks_of_page(0), 0..0);
        assert_eq!(geometry(0).blocks_in(0..1), 0..0);
    }

    #[test]
    fn an_index_of_larger_content_has_no_length() {
        let far = geometry(MAX_SIZE).last().unwrap();
        assert_eq!(geometry(5).len_of(far), 0);
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn byte_ranges() {
        let g = geometry(3 * BLOCK_BYTES + 7);
        assert_eq!(g.blocks_in(0..0), 0..0);
        assert_eq!(g.blocks_in(9..3), 0..0);
        assert_eq!(g.blocks_in(0..1), 0..1);
        assert_eq!(g.blocks_in(BLOCK_BYTES - 1..BLOCK_BYTES), 0..1);
        assert_eq!(g.blocks_in(BLOCK_BYTES - 1..BLOCK_BYTES + 1), 0..2);
        assert_eq!(g.blocks_in(BLOCK_BYTES..u64::MAX), 1..4);
        assert_eq!(g.blocks_in(g.size()..u64::MAX), 0..0);
        assert_eq!(g.blocks_of_page(u32::MAX), 4..4);
    }

    proptest! {
        #[test]
        fn blocks_tile_the_content(blocks in 0u64..3000, extra in -1i64..=1) {
            let g = geometry((blocks * BLOCK_BYTES).saturating_add_signed(extra));
            let mut at = 0;
            for block in g.indices() {
                prop_assert_eq!(g.offset_of(block), at);
                prop_assert!(g.len_of(block) > 0);
                prop_assert!(g.blocks_of_page(g.page_of(block)).contains(&block.get()));
                prop_assert_eq!(g.blocks_in(at..at + 1), block.get()..block.get() + 1);
                at += g.len_of(block) as u64;
            }
            prop_assert_eq!(at, g.size());
            prop_assert_eq!(g.last(), g.indices().last());
            prop_assert_eq!(g.block(g.blocks()), None);
            let paged: u32 = (0..g.pages()).map(|page| g.blocks_of_page(page).len() as u32).sum();
            prop_assert_eq!(paged, g.blocks());
        }
    }
}
