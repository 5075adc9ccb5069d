//! Seeded randomness: the same seed gives the same fetch.

/// SplitMix64 (Steele, Lea, Flood 2014): spreads requests and jitters pauses; nothing here needs more.
#[derive(Clone, Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let wide = u64::from(bound).wrapping_mul(self.next() >> 32);
        u32::try_from(wide >> 32).unwrap_or(0)
    }

    /// A number in 0..1.
    pub(super) fn unit(&mut self) -> f64 {
        f64::from(self.below(1 << 24)) / f64::from(1u32 << 24)
    }
}
