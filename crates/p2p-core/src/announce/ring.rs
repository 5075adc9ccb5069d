//! The ring of the DHT on which ids have their places, and those of a node in each part of it.

use std::ops::RangeInclusive;

use sha2::{Digest, Sha256};

use crate::content::ContentId;

/// Parts of the ring, by the first byte of the place. The hand is in each for five minutes: what comes due meanwhile is
/// announced together.
pub(super) const SLICES: usize = 256;

/// One id. A node may have millions, so this is kept small.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) id: ContentId,
    /// Where on the ring: the first four bytes of its place.
    pub(super) place: u32,
    /// When the servers took it, in Unix seconds; 0: never.
    pub(super) done: u32,
    pub(super) due: u32,
    pub(super) failures: u8,
    /// In a group that is under way.
    pub(super) busy: bool,
}

impl Entry {
    pub(super) fn key(&self) -> (u32, ContentId) {
        (self.place, self.id)
    }
}

/// A part of the ring.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// In the order of the ring.
    pub(super) entries: Vec<Entry>,
    /// To be sorted in with others.
    pub(super) new: Vec<Entry>,
    /// The earliest due time of those that are not busy.
    pub(super) soonest: Option<u32>,
    /// Somebody in here is looking for servers: its neighbours wait for what it finds.
    pub(super) looking: bool,
    pub(super) unsaved: bool,
}

impl Slice {
    pub(super) fn find(&self, place: u32, id: ContentId) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&(place, id), Entry::key)
    }

    /// Sorts in what is new. Of two entries of an id the one that was there stays.
    pub(super) fn settle(&mut self) {
        if !self.new.is_empty() {
            self.entries.append(&mut self.new);
            self.entries.sort_by_key(Entry::key);
            self.entries.dedup_by_key(|entry| entry.key());
            self.refresh();
        }
    }

    pub(super) fn refresh(&mut self) {
        let idle = self.entries.iter().filter(|entry| !entry.busy);
        self.soonest = idle.map(|entry| entry.due).min();
    }
}

/// Where an id is on the ring of the DHT.
pub(super) fn place(id: ContentId) -> u32 {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(id.multihash()));
    u32::from_be_bytes([a, b, c, d])
}

pub(super) fn slice_of(place: u32) -> usize {
    (place >> 24) as usize
}

/// The places around a target whose closest servers are, as good as, those of the target. The farthest of these shares
/// `shared_bits` with it; who shares two more is so much nearer to the target than that server is, that the same servers
/// come first for both.
pub(super) fn neighbourhood(target: u32, shared_bits: u32) -> RangeInclusive<u32> {
    let bits = match shared_bits {
        0 => 0,
        shared => (shared + 2).min(32),
    };
    let rest = u32::MAX.checked_shr(bits).unwrap_or(0);
    (target & !rest)..=(target | rest)
}
