//! The piece space: how many pieces a fetch has, how long each is, and which content each belongs to.
//!
//! Twelve bytes per content, nothing per piece; a look-up is a binary search.

use std::ops::Range;

/// Most pieces of one fetch: 8 TiB in blocks of 256 KiB, which is also the longest `BlockSet`.
pub(crate) const MAX_PIECES: u32 = 1 << 25;

/// Why a piece space could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PiecesError {
    /// More than 2^25 pieces.
    #[error("more than {MAX_PIECES} pieces")]
    TooMany,
    /// A block length of zero.
    #[error("a block has no length")]
    NoBlockLength,
}

/// The pieces of a fetch and their lengths.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    block_len: u32,
    count: u32,
    total: u64,
    /// Contents with at least one piece, in piece order.
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Its first piece.
    first: u32,
    /// Bytes of the contents before it.
    offset: u64,
    /// Its place among the sizes given.
    index: u32,
}

impl Pieces {
    /// One file of `size` bytes, in blocks of `block_len` bytes of which the last may be shorter.
    ///
    /// # Errors
    /// [`PiecesError::TooMany`] if the file has more than 2^25 blocks; [`PiecesError::NoBlockLength`].
    pub(crate) fn file(size: u64, block_len: u32) -> Result<Pieces, PiecesError> {
        Pieces::folder([size], block_len)
    }

    /// Several contents one after the other, each cut into blocks of its own. A content of zero bytes has no piece.
    ///
    /// # Errors
    /// As [`Pieces::file`], over all contents together.
    pub(crate) fn folder(
        sizes: impl IntoIterator<Item = u64>,
        block_len: u32,
    ) -> Result<Pieces, PiecesError> {
        if block_len == 0 {
            return Err(PiecesError::NoBlockLength);
        }
        let mut pieces = Pieces {
            block_len,
            count: 0,
            total: 0,
            entries: Vec::new(),
        };
        for (index, size) in sizes.into_iter().enumerate() {
            if size == 0 {
                continue;
            }
            pieces.entries.push(Entry {
                first: pieces.count,
                offset: pieces.total,
                index: u32::try_from(index).map_err(|_| PiecesError::TooMany)?,
            });
            pieces.count = u32::try_from(size.div_ceil(u64::from(block_len)))
                .ok()
                .and_then(|blocks| pieces.count.checked_add(blocks))
                .filter(|count| *count <= MAX_PIECES)
                .ok_or(PiecesError::TooMany)?;
            // At most 2^25 pieces of less than 2^32 bytes: far from the end of u64.
            pieces.total = pieces.total.saturating_add(size);
        }
        pieces.entries.shrink_to_fit();
        Ok(pieces)
    }

    /// Pieces of the fetch.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the fetch.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Length of a full piece, in bytes.
    pub(crate) fn block_len(&self) -> u32 {
        self.block_len
    }

    /// Bytes of one piece; 0 for a piece the fetch does not have.
    pub(crate) fn len_of(&self, piece: u32) -> u64 {
        self.bytes_in(piece..piece.saturating_add(1))
    }

    /// Bytes of a run of pieces, as far as the fetch has them.
    pub(crate) fn bytes_in(&self, run: Range<u32>) -> u64 {
        self.offset_of(run.end)
            .saturating_sub(self.offset_of(run.start))
    }

    /// Which content a piece belongs to (its place among the sizes given), and which block of it the piece is.
    pub(crate) fn entry_of(&self, piece: u32) -> Option<(usize, u32)> {
        if piece >= self.count {
            return None;
        }
        let entry = self.entry_at(piece)?;
        let block = piece.checked_sub(entry.first)?;
        Some((usize::try_from(entry.index).ok()?, block))
    }

    /// Bytes before a piece; all bytes for one past the end.
    fn offset_of(&self, piece: u32) -> u64 {
        if piece >= self.count {
            return self.total;
        }
        self.entry_at(piece).map_or(0, |entry| {
            let blocks = u64::from(piece.saturating_sub(entry.first));
            entry
                .offset
                .saturating_add(blocks.saturating_mul(u64::from(self.block_len)))
        })
    }

    fn entry_at(&self, piece: u32) -> Option<&Entry> {
        let after = self.entries.partition_point(|entry| entry.first <= piece);
        self.entries.get(after.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_full_blocks_and_a_shorter_last_one() {
        let file = Pieces::file(1000, 300).unwrap();
        assert_eq!(file.count(), 4);
        assert_eq!(
            (0..5).map(|p| file.len_of(p)).collect::<Vec<_>>(),
            [300, 300, 300, 100, 0]
        );
        assert_eq!(file.bytes_in(1..4), 700);
        assert_eq!(file.entry_of(3), Some((0, 3)));
        assert_eq!(file.entry_of(4), None);
    }

    #[test]
    fn a_folder_matches_the_slow_list() {
        let sizes = [0, 5, 300, 0, 301, 1, 900, 0];
        let folder = Pieces::folder(sizes, 300).unwrap();
        let mut list = Vec::new();
        for (index, size) in sizes.into_iter().enumerate() {
            for block in 0..size.div_ceil(300) {
                list.push((
                    index,
                    u32::try_from(block).unwrap(),
                    (size - block * 300).min(300),
                ));
            }
        }
        assert_eq!(usize::try_from(folder.count()).unwrap(), list.len());
        assert_eq!(folder.total(), sizes.iter().sum::<u64>());
        for (piece, (index, block, len)) in (0..).zip(list) {
            assert_eq!(folder.entry_of(piece), Some((index, block)));
            assert_eq!(folder.len_of(piece), len);
        }
    }

    #[test]
    fn nothing_and_too_much() {
        assert_eq!(Pieces::file(0, 300).unwrap().count(), 0);
        assert!(Pieces::file(u64::from(MAX_PIECES) * 16, 16).is_ok());
        assert_eq!(
            Pieces::file(u64::from(MAX_PIECES) * 16 + 1, 16).unwrap_err(),
            PiecesError::TooMany
        );
        assert_eq!(
            Pieces::folder([u64::MAX, u64::MAX], 1).unwrap_err(),
            PiecesError::TooMany
        );
        assert_eq!(Pieces::file(1, 0).unwrap_err(), PiecesError::NoBlockLength);
    }
}
