//! The pool: which pieces nobody has been asked for, and how rare each piece is.
//!
//! Built for millions of pieces. Sets are bit vectors searched 64 pieces at a time. How many sources hold a piece is kept
//! *bit-sliced*: plane `k` has bit `k` of the count of every piece, so that adding a source costs a carry per 64 pieces and
//! not a step per piece. Zones of 4,096 pieces remember how many free pieces they have and how rare the rarest may be, so
//! that a search skips whole zones.
//!
//! Rarity is compared by *class*, the bit length of the count: 0, 1, 2–3, 4–7, … holders. Whether one or two peers hold a
//! piece decides whether it survives the next departure; nine or eleven does not, and telling them apart would shred runs.
//! Sources that hold everything add the same to every piece and are not counted.

use std::ops::Range;

/// 64-bit words in a zone.
const ZONE_WORDS: usize = 64;

/// The class above all others: no bound on the class.
pub(super) const ANY_CLASS: u8 = u8::MAX;

/// A set of pieces, readable by words of 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    words: Box<[u64]>,
    len: u32,
}

/// Splits a piece into the number of its word and the mask of its bit.
fn place(piece: u32) -> (usize, u64) {
    let mask = 1u64.checked_shl(piece & 63).unwrap_or(0);
    (usize::try_from(piece >> 6).unwrap_or(usize::MAX), mask)
}

/// The first piece of a word.
fn base(word: usize) -> u32 {
    u32::try_from(word).map_or(u32::MAX, |word| word.saturating_mul(64))
}

/// The bits of word `word` that lie inside `range`.
fn mask_of(word: usize, range: &Range<u32>) -> u64 {
    let from = range.start.saturating_sub(base(word));
    let until = range.end.saturating_sub(base(word));
    let low = u64::MAX.checked_shl(from).unwrap_or(0);
    let high = u64::MAX.checked_shl(until).unwrap_or(0);
    low & !high
}

impl Bits {
    pub(super) fn new(len: u32) -> Bits {
        let words = usize::try_from(len.div_ceil(64)).unwrap_or(usize::MAX);
        Bits {
            words: vec![0; words].into_boxed_slice(),
            len,
        }
    }

    pub(super) fn full(len: u32) -> Bits {
        let mut bits = Bits::new(len);
        bits.set(0..len, true);
        bits
    }

    /// From ascending runs; what lies beyond `len` is left out.
    pub(super) fn from_runs(len: u32, runs: impl Iterator<Item = Range<u32>>) -> Bits {
        let mut bits = Bits::new(len);
        for run in runs {
            bits.set(run, true);
        }
        bits
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn contains(&self, piece: u32) -> bool {
        let (word, mask) = place(piece);
        self.word(word) & mask != 0
    }

    /// Sets or clears one piece; true if that changed it.
    pub(super) fn put(&mut self, piece: u32, value: bool) -> bool {
        if piece >= self.len {
            return false;
        }
        let (word, mask) = place(piece);
        let Some(word) = self.words.get_mut(word) else {
            return false;
        };
        let was = *word & mask != 0;
        if was != value {
            *word ^= mask;
        }
        was != value
    }

    /// Sets or clears a range, as far as it lies inside.
    pub(super) fn set(&mut self, range: Range<u32>, value: bool) {
        let range = range.start..range.end.min(self.len);
        if range.is_empty() {
            return;
        }
        let (first, _) = place(range.start);
        let (last, _) = place(range.end.saturating_sub(1));
        let words = self.words.iter_mut().enumerate();
        for (index, word) in words
            .skip(first)
            .take(last.saturating_sub(first).saturating_add(1))
        {
            let mask = mask_of(index, &range);
            if value {
                *word |= mask;
            } else {
                *word &= !mask;
            }
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.words
            .iter()
            .fold(0, |sum: u32, word| sum.saturating_add(word.count_ones()))
    }

    fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    /// Free pieces in it.
    free: u32,
    /// No free piece in it has a lower class.
    floor: u8,
}

/// A free piece and the class of its rarity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) piece: u32,
    pub(super) class: u8,
}

/// Which pieces are free, and how many partial holders each piece has.
#[derive(Debug)]
pub(super) struct Pool {
    free: Bits,
    count: u32,
    zones: Box<[Zone]>,
    /// Plane `k` holds bit `k` of each piece's count.
    planes: Vec<Box<[u64]>>,
    /// Changes when a search that found nothing may find something.
    version: u64,
    /// Words looked at in searches, for the test that bounds the work.
    #[cfg(test)]
    pub(super) work: std::cell::Cell<u64>,
}

impl Pool {
    /// A pool with these pieces free.
    pub(super) fn new(free: Bits) -> Pool {
        let zones = free
            .words
            .chunks(ZONE_WORDS)
            .map(|words| Zone {
                free: words
                    .iter()
                    .fold(0, |sum: u32, word| sum.saturating_add(word.count_ones())),
                floor: 0,
            })
            .collect();
        Pool {
            count: free.count(),
            free,
            zones,
            planes: Vec::new(),
            version: 0,
            #[cfg(test)]
            work: std::cell::Cell::new(0),
        }
    }

    /// Free pieces.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn is_free(&self, piece: u32) -> bool {
        self.free.contains(piece)
    }

    /// Takes a free piece out.
    pub(super) fn take(&mut self, piece: u32) {
        if self.free.put(piece, false) {
            self.count = self.count.saturating_sub(1);
            let (word, _) = place(piece);
            if let Some(zone) = self.zones.get_mut(word / ZONE_WORDS) {
                zone.free = zone.free.saturating_sub(1);
            }
        }
    }

    /// Puts a piece back.
    pub(super) fn give_back(&mut self, piece: u32) {
        if self.free.put(piece, true) {
            self.count = self.count.saturating_add(1);
            self.version = self.version.wrapping_add(1);
            let class = self.class_of(piece);
            let (word, _) = place(piece);
            if let Some(zone) = self.zones.get_mut(word / ZONE_WORDS) {
                zone.free = zone.free.saturating_add(1);
                zone.floor = zone.floor.min(class);
            }
        }
    }

    /// Counts one partial holder more for each piece in `added`, one less for each in `removed`.
    pub(super) fn recount(&mut self, removed: Option<&Bits>, added: Option<&Bits>) {
        for index in 0..self.free.words.len() {
            let gone = removed.map_or(0, |bits| bits.word(index));
            let come = added.map_or(0, |bits| bits.word(index));
            if gone == come {
                continue;
            }
            self.count_down(index, gone & !come);
            self.count_up(index, come & !gone);
        }
        for zone in 0..self.zones.len() {
            self.lower_floor(zone);
        }
    }

    fn count_up(&mut self, index: usize, mut carry: u64) {
        for plane in &mut self.planes {
            if carry == 0 {
                return;
            }
            if let Some(word) = plane.get_mut(index) {
                let over = *word & carry;
                *word ^= carry;
                carry = over;
            }
        }
        if carry != 0 {
            let mut plane = vec![0; self.free.words.len()].into_boxed_slice();
            if let Some(word) = plane.get_mut(index) {
                *word = carry;
            }
            self.planes.push(plane);
        }
    }

    fn count_down(&mut self, index: usize, mut borrow: u64) {
        for plane in &mut self.planes {
            if borrow == 0 {
                return;
            }
            if let Some(word) = plane.get_mut(index) {
                let under = !*word & borrow;
                *word ^= borrow;
                borrow = under;
            }
        }
    }

    fn lower_floor(&mut self, zone: usize) {
        let first = zone.saturating_mul(ZONE_WORDS);
        let mut floor = ANY_CLASS;
        for index in first..first.saturating_add(ZONE_WORDS) {
            let word = self.free.word(index);
            if word != 0 {
                floor = floor.min(self.rarest(index, word).0);
            }
        }
        if let Some(zone) = self.zones.get_mut(zone) {
            zone.floor = floor;
        }
    }

    /// Of the pieces `among` in a word, the lowest class and those that have it.
    fn rarest(&self, index: usize, among: u64) -> (u8, u64) {
        let mut left = among;
        let mut class = u8::try_from(self.planes.len()).unwrap_or(ANY_CLASS);
        for plane in self.planes.iter().rev() {
            let without = left & !plane.get(index).copied().unwrap_or(0);
            if without == 0 {
                return (class, left);
            }
            left = without;
            class = class.saturating_sub(1);
        }
        (0, left)
    }

    /// The class of one piece.
    pub(super) fn class_of(&self, piece: u32) -> u8 {
        let (word, mask) = place(piece);
        self.rarest(word, mask).0
    }

    /// The free piece in `range` that `holds` has and whose class is lowest, of several the first.
    pub(super) fn rarest_in(&self, holds: Option<&Bits>, range: Range<u32>) -> Option<Found> {
        self.search(holds, range, ANY_CLASS, false)
    }

    /// The first free piece in `range` that `holds` has and whose class is at most `class`.
    pub(super) fn first_in(
        &self,
        holds: Option<&Bits>,
        range: Range<u32>,
        class: u8,
    ) -> Option<Found> {
        self.search(holds, range, class, true)
    }

    /// Looks for a piece of a class up to `most`: the first one, or the first of the lowest class. `holds` of `None` means
    /// that the source holds everything. Costs a step per zone and, in zones that may have something better than what was
    /// found, one per 64 pieces.
    fn search(
        &self,
        holds: Option<&Bits>,
        range: Range<u32>,
        most: u8,
        first: bool,
    ) -> Option<Found> {
        let range = range.start..range.end.min(self.free.len());
        if range.is_empty() {
            return None;
        }
        let (from, _) = place(range.start);
        let (until, _) = place(range.end.saturating_sub(1));
        let mut best: Option<Found> = None;
        for zone in (from / ZONE_WORDS)..=(until / ZONE_WORDS) {
            self.note_work(1);
            let Some(Zone { free, floor }) = self.zones.get(zone).copied() else {
                break;
            };
            let beaten = best.is_some_and(|best| floor >= best.class);
            if free == 0 || floor > most || beaten {
                continue;
            }
            let start = zone.saturating_mul(ZONE_WORDS);
            let last = start
                .saturating_add(ZONE_WORDS)
                .saturating_sub(1)
                .min(until);
            for index in start.max(from)..=last {
                self.note_work(1);
                let held = holds.map_or(u64::MAX, |bits| bits.word(index));
                let here = self.free.word(index) & held & mask_of(index, &range);
                let Some(found) = self.best_of(index, here, most, first) else {
                    continue;
                };
                if first || found.class == 0 {
                    return Some(found);
                }
                if best.is_none_or(|best| found.class < best.class) {
                    best = Some(found);
                    if found.class <= floor {
                        break;
                    }
                }
            }
        }
        best
    }

    /// The first piece of a class up to `most` in a word, or the first of the lowest class.
    fn best_of(&self, index: usize, here: u64, most: u8, first: bool) -> Option<Found> {
        let mut here = here;
        while here != 0 {
            let (class, bits) = if first {
                let lowest = here & here.wrapping_neg();
                (self.rarest(index, lowest).0, lowest)
            } else {
                self.rarest(index, here)
            };
            if class <= most {
                let piece = base(index).saturating_add(bits.trailing_zeros());
                return Some(Found { piece, class });
            }
            if !first {
                return None;
            }
            here &= !bits;
        }
        None
    }

    /// Free pieces that no partial source holds; counts no further than a little beyond `enough`.
    pub(super) fn orphans(&self, enough: u32) -> u32 {
        let mut sum: u32 = 0;
        for (number, zone) in self.zones.iter().enumerate() {
            if zone.free == 0 || zone.floor > 0 {
                continue;
            }
            let first = number.saturating_mul(ZONE_WORDS);
            let words = self.free.words.iter().enumerate();
            for (index, word) in words.skip(first).take(ZONE_WORDS) {
                let held = self.planes.iter().fold(0, |held, plane| {
                    held | plane.get(index).copied().unwrap_or(0)
                });
                sum = sum.saturating_add((word & !held).count_ones());
            }
            if sum >= enough {
                break;
            }
        }
        sum
    }

    #[cfg(test)]
    fn note_work(&self, words: u64) {
        self.work.set(self.work.get() + words);
    }

    #[cfg(not(test))]
    fn note_work(&self, _words: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(count: u32) -> u8 {
        u8::try_from(32 - count.leading_zeros()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The bit-sliced counts, the zone floors and the searches agree with a list of counts.
        #[test]
        fn agrees_with_a_slow_list(
            len in 1u32..9000,
            steps in prop::collection::vec((0u8..4, any::<u16>(), any::<u16>(), any::<u8>()), 1..40),
        ) {
            let mut pool = Pool::new(Bits::full(len));
            let mut free = vec![true; len as usize];
            let mut counts = vec![0u32; len as usize];
            let mut held: Vec<Bits> = Vec::new();
            for (step, a, b, c) in steps {
                let (a, b) = (u32::from(a) % len, u32::from(b) % len);
                let (a, b) = (a.min(b), a.max(b));
                match step {
                    0 => {
                        for p in a..b.min(a + 300) { pool.take(p); free[p as usize] = false; }
                    }
                    1 => {
                        for p in a..b.min(a + 300) { pool.give_back(p); free[p as usize] = true; }
                    }
                    2 => {
                        let mut bits = Bits::new(len);
                        for p in (a..b).step_by(usize::from(c % 5) + 1) { bits.put(p, true); }
                        pool.recount(None, Some(&bits));
                        for p in 0..len { counts[p as usize] += u32::from(bits.contains(p)); }
                        held.push(bits);
                    }
                    _ => if let Some(old) = held.pop() {
                        let new = Bits::from_runs(len, std::iter::once(a..b));
                        pool.recount(Some(&old), Some(&new));
                        for p in 0..len {
                            let count = &mut counts[p as usize];
                            *count = *count - u32::from(old.contains(p)) + u32::from(new.contains(p));
                        }
                        held.push(new);
                    }
                }
                prop_assert_eq!(pool.count() as usize, free.iter().filter(|f| **f).count());
                let orphans = (0..len as usize).filter(|p| free[*p] && counts[*p] == 0).count();
                prop_assert_eq!(pool.orphans(u32::MAX) as usize, orphans);
                prop_assert_eq!(pool.orphans(1) > 0, orphans > 0);
                for holds in [None, held.last()] {
                    let fits = |p: u32| free[p as usize] && holds.is_none_or(|h| h.contains(p));
                    let rarest = (a..b).filter(|p| fits(*p)).min_by_key(|p| class(counts[*p as usize]));
                    prop_assert_eq!(pool.rarest_in(holds, a..b).map(|f| f.piece), rarest);
                    let most = c % 4;
                    let first = (a..b).find(|p| fits(*p) && class(counts[*p as usize]) <= most);
                    prop_assert_eq!(pool.first_in(holds, a..b, most).map(|f| f.piece), first);
                }
            }
        }
    }

    #[test]
    fn masks_at_the_edges() {
        assert_eq!(mask_of(0, &(0..64)), u64::MAX);
        assert_eq!(mask_of(1, &(0..64)), 0);
        assert_eq!(mask_of(1, &(65..67)), 0b110);
        assert_eq!(mask_of(0, &(65..67)), 0);
        let mut bits = Bits::new(70);
        bits.set(0..100, true);
        assert_eq!(
            (bits.count(), bits.contains(69), bits.contains(70)),
            (70, true, false)
        );
        assert_eq!(bits, Bits::full(70));
    }
}
