//! Room on the disk, and the quota: who gets how much of it, before the first byte is written.
//!
//! What counts is what the index says (downloads, partial files at their full size, objects), the index file itself, and
//! what was set aside: for content that is about to come into the index, and for what the index grows by meanwhile.
//! Giving room and counting it are one step, so that two who ask at once do not get the same.

use std::path::Path;
use std::sync::Arc;

use super::StoreError;
use super::fs::FileSystem;
use super::shared::{Guarded, Shared};
use crate::content::{BLOCK_LEN, ContentId, Geometry};

/// What the index takes for all small records of one content: what it is, its path both ways round, four manifests, a pin,
/// a share: about 2 KiB, in pages that may be half full.
const RECORDS: u64 = 4 * 1024;
/// Bytes of the outline for each block: a hash value, doubled, as the database keeps values in powers of two pages.
const OUTLINE: u64 = 2 * 32;
/// Blocks for each byte of a held record. One is written anew at each checkpoint, while those before are still there.
const HELD: u64 = 8 / 4;
/// Set aside for the pages that a commit writes before it frees those it replaces.
pub(super) const COMMIT_ROOM: u64 = 1024 * 1024;

/// What the index takes with hardly anything in it: some pages for each of its tables, and those of the library.
pub(super) const INDEX_BASE: u64 = 256 * 1024;

/// Bytes that the index may grow by for one content of `size` bytes.
pub(super) fn index_growth(size: u64) -> u64 {
    let blocks = size.div_ceil(BLOCK_LEN as u64);
    blocks
        .saturating_mul(OUTLINE)
        .saturating_add(blocks.div_ceil(HELD))
        .saturating_add(RECORDS)
}

/// Bytes that this user can still write to the disk of `path`.
pub(super) fn free(fs: &dyn FileSystem, path: &Path) -> Result<u64, StoreError> {
    fs.free(path).map_err(|error| StoreError::io(path, error))
}

/// How much of the disk the store may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) quota: u64,
    pub(super) min_free: u64,
    pub(super) evict: Evict,
}

/// Which complete downloads make room for others, those unused longest first. What is pinned, shared, in use, or not as
/// it was fetched never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Evict {
    /// None.
    Off,
    /// What nobody named a place for, so that the store has it: what was only read, also if not to its end, and the listings of
    /// folders.
    #[default]
    Store,
    /// Also files that were fetched to a place that someone named. They are deleted there.
    Downloads,
}

/// What something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Bytes that count against the quota.
    pub(super) counted: u64,
    /// Bytes that are written to the disk of the folder in question.
    pub(super) disk: u64,
}

impl Need {
    /// Of content that is not in the store yet and takes `there` bytes of its disk already.
    pub(super) fn of_new(size: u64, there: u64) -> Self {
        Self {
            counted: size.saturating_add(index_growth(size)),
            disk: size.saturating_sub(there),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            counted: self.counted.saturating_add(other.counted),
            disk: self.disk.saturating_add(other.disk),
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            counted: self.counted.saturating_sub(other.counted),
            disk: self.disk.saturating_sub(other.disk),
        }
    }

    fn at_most(self, other: Self) -> Self {
        Self {
            counted: self.counted.min(other.counted),
            disk: self.disk.min(other.disk),
        }
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Something to fetch, for which room is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The content.
    pub id: ContentId,
    /// Its size, as claimed.
    pub geometry: Geometry,
    /// Files it is written to.
    pub copies: u64,
    /// Bytes of it that are on the disk already.
    pub there: u64,
}

/// Room that was given and is not taken yet. What is left of it is given back when it is dropped.
pub struct Room {
    shared: Arc<Shared>,
    left: Guarded<Need>,
}

impl Room {
    pub(super) fn new(shared: &Arc<Shared>, need: Need) -> Self {
        shared.set_aside(Need::default(), need);
        Self {
            shared: Arc::clone(shared),
            left: Guarded::new(need),
        }
    }

    /// A part of it, as far as there is so much.
    pub(super) fn split(&self, need: Need) -> Self {
        let mut left = self.left.lock();
        let part = need.at_most(*left);
        *left = left.minus(part);
        // It stays set aside all the time.
        Self {
            shared: Arc::clone(&self.shared),
            left: Guarded::new(part),
        }
    }

    pub(super) fn left(&self) -> Need {
        *self.left.lock()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.set_aside(self.left(), Need::default());
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Room").field(&self.left()).finish()
    }
}

/// What is left, and how far a need goes beyond it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) quota: u64,
    /// Bytes that count against the quota.
    pub(super) used: u64,
    /// Bytes that may be written to the disk.
    pub(super) available: u64,
}

impl Left {
    /// What is missing for a need.
    pub(super) fn short(&self, need: Need) -> Need {
        let over = self.used.saturating_add(need.counted);
        Need {
            // What counts for nothing is let in at any quota: it is paid for.
            counted: if need.counted > 0 {
                over.saturating_sub(self.quota)
            } else {
                0
            },
            disk: need.disk.saturating_sub(self.available),
        }
    }

    /// Why there is no room for a need; `None` if there is.
    pub(super) fn refusal(&self, need: Need) -> Option<StoreError> {
        let short = self.short(need);
        if short.counted > 0 {
            return Some(StoreError::QuotaFull {
                needed: need.counted,
                quota: self.quota,
                used: self.used,
            });
        }
        (short.disk > 0).then_some(StoreError::NoSpace {
            needed: need.disk,
            available: self.available,
        })
    }
}

impl Shared {
    /// What is left for those who ask now, on the disk of `folder`.
    pub(super) fn left(&self, folder: &Path) -> Result<Left, StoreError> {
        let limits = self.limits();
        Ok(Left {
            quota: limits.quota,
            used: self.usage().total(),
            available: free(&*self.fs, folder)?
                .saturating_sub(limits.min_free)
                .saturating_sub(self.promised()),
        })
    }

    /// Gives room if there is. To be called in one's [turn](Shared::turn).
    pub(super) fn give(self: &Arc<Self>, folder: &Path, need: Need) -> Result<Room, StoreError> {
        if !need.is_nothing()
            && let Some(refusal) = self.left(folder)?.refusal(need)
        {
            return Err(refusal);
        }
        Ok(Room::new(self, need))
    }
}
