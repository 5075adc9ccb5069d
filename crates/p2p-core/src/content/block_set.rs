//! [`BlockSet`]: which blocks of some content (or pieces of a fetch) a node has.
//!
//! Invariant: no bit at or above `len` is set, and `count` is the number of bits that are.

use std::{fmt, iter, ops::Range};

use bincode::{
    Decode, Encode,
    de::{Decoder, read::Reader},
    enc::{Encoder, write::Writer},
    error::{DecodeError, EncodeError},
};

use super::encoding::refuse;

/// Largest set: the blocks of the largest content, 2^25.
const MAX_LEN: u32 = 1 << 25;

/// Members in one word of the bit vector.
const WORD: u32 = u64::BITS;

/// Tag of a set that is encoded as runs.
const RUNS: u8 = 0;
/// Tag of a set that is encoded as a bit vector.
const BITS: u8 = 1;

/// A set of numbers in `0..len`: a bit vector with a count.
///
/// Numbers outside `0..len` are never members; inserting one does nothing.
///
/// Encoded as its length and the shorter of two forms: the runs of members (gap before, length) or the bit vector,
/// least significant bit first. Decoding allocates one bit for each number below the length, 4 MiB at most.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockSet {
    len: u32,
    count: u32,
    words: Box<[u64]>,
}

impl BlockSet {
    /// The empty set over `0..len`. `len` is at most 2^25 (the blocks of 8 TiB); more is cut to that.
    #[must_use]
    pub fn new(len: u32) -> Self {
        let len = len.min(MAX_LEN);
        Self {
            len,
            count: 0,
            words: vec![0; len.div_ceil(WORD) as usize].into_boxed_slice(),
        }
    }

    /// The set of all numbers in `0..len`.
    #[must_use]
    pub fn full(len: u32) -> Self {
        let mut set = Self::new(len);
        set.insert_range(0..len);
        set
    }

    /// The bound of the set: members are below it. Not the number of members, which is [`BlockSet::count`].
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// How many members the set has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether every number in `0..len` is a member.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Whether the set has no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `index` is a member.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        self.word(index / WORD) & bit(index) != 0
    }

    /// Adds `index`; true if it was not a member and is one now.
    pub fn insert(&mut self, index: u32) -> bool {
        if index >= self.len {
            return false;
        }
        self.or_word(index / WORD, bit(index)) == 1
    }

    /// Removes `index`; true if it was a member.
    pub fn remove(&mut self, index: u32) -> bool {
        let was_member = self.contains(index);
        if was_member && let Some(word) = self.words.get_mut((index / WORD) as usize) {
            *word &= !bit(index);
            self.count = self.count.saturating_sub(1);
        }
        was_member
    }

    /// Adds all numbers of a range (cut off at `len`); returns how many were not members before.
    pub fn insert_range(&mut self, range: Range<u32>) -> u32 {
        let end = range.end.min(self.len);
        if range.start >= end {
            return 0;
        }
        (range.start / WORD..end.div_ceil(WORD))
            .map(|at| {
                let first = at.saturating_mul(WORD);
                let above = mask_from(range.start.saturating_sub(first));
                let below = !mask_from(end.saturating_sub(first));
                self.or_word(at, above & below)
            })
            .fold(0, u32::saturating_add)
    }

    /// Adds the members of another set (those below this set's `len`); returns how many were not members before.
    pub fn union_with(&mut self, other: &Self) -> u32 {
        (0..self.len.div_ceil(WORD))
            .map(|at| {
                let inside = !mask_from(self.len.saturating_sub(at.saturating_mul(WORD)));
                self.or_word(at, other.word(at) & inside)
            })
            .fold(0, u32::saturating_add)
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs().flatten()
    }

    /// The numbers in `0..len` that are not members, in ascending order.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        self.missing_runs().flatten()
    }

    /// The members as maximal ranges, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut from = 0;
        iter::from_fn(move || {
            let start = self.first_from(from)?;
            let end = self.first_missing_from(start).unwrap_or(self.len);
            from = end;
            Some(start..end)
        })
    }

    /// The numbers in `0..len` that are not members as maximal ranges, in ascending order.
    pub fn missing_runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut from = 0;
        iter::from_fn(move || {
            let start = self.first_missing_from(from)?;
            let end = self.first_from(start).unwrap_or(self.len);
            from = end;
            Some(start..end)
        })
    }

    /// The first member at or after `from`.
    #[must_use]
    pub fn first_from(&self, from: u32) -> Option<u32> {
        self.find(from, |word| word)
    }

    /// The first number below `len`, at or after `from`, that is not a member.
    #[must_use]
    pub fn first_missing_from(&self, from: u32) -> Option<u32> {
        self.find(from, |word| !word)
    }

    /// The first index in `from..len` whose bit is set after `view` is applied to its word.
    fn find(&self, from: u32, view: impl Fn(u64) -> u64) -> Option<u32> {
        let first = from / WORD;
        let words = self.words.get(first as usize..)?;
        let mut mask = mask_from(from % WORD);
        for (at, word) in (first..).zip(words) {
            let found = view(*word) & mask;
            if found != 0 {
                let index = at
                    .saturating_mul(WORD)
                    .saturating_add(found.trailing_zeros());
                return Some(index).filter(|index| *index < self.len);
            }
            mask = u64::MAX;
        }
        None
    }

    fn word(&self, at: u32) -> u64 {
        self.words.get(at as usize).copied().unwrap_or(0)
    }

    /// Sets bits of a word and returns how many were new. The caller keeps them below `len`.
    fn or_word(&mut self, at: u32, bits: u64) -> u32 {
        let Some(word) = self.words.get_mut(at as usize) else {
            return 0;
        };
        let added = (bits & !*word).count_ones();
        *word |= bits;
        self.count = self.count.saturating_add(added);
        added
    }

    /// The runs as they are encoded: how many numbers lie between a run and the one before, and its length.
    fn gaps(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut end = 0;
        self.runs().map(move |run| {
            let gap = run.start.saturating_sub(end);
            end = run.end;
            (gap, run.end.saturating_sub(run.start))
        })
    }

    /// Number of runs if their encoding is not longer than the bit vector.
    fn short_runs(&self) -> Option<u32> {
        let limit = self.len.div_ceil(8);
        let (mut number, mut bytes) = (0u32, 0u32);
        for (gap, len) in self.gaps() {
            number = number.saturating_add(1);
            bytes = bytes
                .saturating_add(varint_len(gap))
                .saturating_add(varint_len(len));
            if bytes > limit {
                return None;
            }
        }
        Some(number)
            .filter(|number| bytes.saturating_add(varint_len(*number)) <= limit || bytes == 0)
    }

    // Runs that touch, or a form that is not the shorter one, are left to the comparison in `encoding::decode`: such
    // a set is encoded differently.
    fn decode_runs<D: Decoder>(&mut self, decoder: &mut D) -> Result<(), DecodeError> {
        let number = u32::decode(decoder)?;
        let mut end = 0u32;
        for _ in 0..number {
            let gap = u32::decode(decoder)?;
            let len = u32::decode(decoder)?;
            let start = end.checked_add(gap);
            let run_end = start.and_then(|start| start.checked_add(len));
            match (start, run_end) {
                (Some(start), Some(run_end)) if run_end <= self.len && len > 0 => {
                    self.insert_range(start..run_end);
                    end = run_end;
                }
                _ => {
                    return Err(refuse(
                        "a block set with empty runs, or runs beyond its length",
                    ));
                }
            }
        }
        Ok(())
    }

    fn decode_bits<D: Decoder>(&mut self, decoder: &mut D) -> Result<(), DecodeError> {
        let mut left = self.len.div_ceil(8) as usize;
        decoder.claim_bytes_read(left)?;
        for word in &mut self.words {
            let mut bytes = [0; 8];
            let take = left.min(bytes.len());
            if let Some(part) = bytes.get_mut(..take) {
                decoder.reader().read(part)?;
            }
            left = left.saturating_sub(take);
            *word = u64::from_le_bytes(bytes);
            self.count = self.count.saturating_add(word.count_ones());
        }
        let tail = self.len % WORD;
        let excess = if tail == 0 { 0 } else { mask_from(tail) };
        if self.words.last().is_some_and(|word| word & excess != 0) {
            return Err(refuse("a block set with members beyond its length"));
        }
        Ok(())
    }
}

/// The bit of an index within its word.
fn bit(index: u32) -> u64 {
    1u64.wrapping_shl(index % WORD)
}

/// The bits from `from` to the end of a word; none if `from` is beyond it.
fn mask_from(from: u32) -> u64 {
    u64::MAX.checked_shl(from).unwrap_or(0)
}

/// Bytes of an integer in the variable-length encoding of bincode.
fn varint_len(value: u32) -> u32 {
    match value {
        0..251 => 1,
        251..=0xffff => 3,
        _ => 5,
    }
}

impl fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ", self.count, self.len)?;
        let mut list = f.debug_list();
        list.entries(self.runs().take(16));
        if self.runs().nth(16).is_some() {
            list.entry(&format_args!("…"));
        }
        list.finish()
    }
}

impl Encode for BlockSet {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.len.encode(encoder)?;
        if let Some(number) = self.short_runs() {
            RUNS.encode(encoder)?;
            number.encode(encoder)?;
            return self.gaps().try_for_each(|run| run.encode(encoder));
        }
        BITS.encode(encoder)?;
        let mut left = self.len.div_ceil(8) as usize;
        for word in &self.words {
            let bytes = word.to_le_bytes();
            let take = left.min(bytes.len());
            encoder
                .writer()
                .write(bytes.get(..take).unwrap_or(&bytes))?;
            left = left.saturating_sub(take);
        }
        Ok(())
    }
}

impl<Context> Decode<Context> for BlockSet {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let len = u32::decode(decoder)?;
        if len > MAX_LEN {
            return Err(refuse("a block set larger than any content"));
        }
        let tag = u8::decode(decoder)?;
        let mut set = Self::new(len);
        match tag {
            RUNS => set.decode_runs(decoder)?,
            BITS => set.decode_bits(decoder)?,
            _ => return Err(refuse("a block set of an unknown form")),
        }
        Ok(set)
    }
}
bincode::impl_borrow_decode!(BlockSet);

#[cfg(test)]
#[path = "block_set_tests.rs"]
mod tests;
