//! The cache of blocks, for the benchmarks.

use std::path::Path;

use super::cache::BlockCache;
use super::{CacheStats, Content, Progress, Store, StoreOptions};
use crate::content::{BlockIndex, ContentId, VerifiedBlock};

/// The cache of a store.
pub struct Blocks(BlockCache);

impl Blocks {
    /// A cache of this many bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self(BlockCache::new(capacity))
    }

    /// As when a block is asked for; `read` is what reads it from its file.
    ///
    /// # Errors
    /// That of `read`.
    pub fn block<E>(
        &self,
        id: ContentId,
        index: BlockIndex,
        read: impl FnOnce() -> Result<VerifiedBlock, E>,
    ) -> Result<VerifiedBlock, E> {
        self.0.block(id, index, read)
    }

    /// How it does.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.0.stats()
    }
}

/// A file shared from a store that caches nothing: every block is read from the file and verified.
pub struct Uncached(std::sync::Arc<Content>);

impl Uncached {
    /// Opens a store in `dir` and shares `file` from it.
    ///
    /// # Errors
    /// What the store says.
    pub fn share(dir: &Path, file: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let store = Store::open(StoreOptions {
            dir: dir.to_owned(),
            cache_bytes: 0,
            quota: u64::MAX,
            min_free: 0,
            evict: super::Evict::default(),
        })?;
        let id = store.import_file(file, &Progress::none())?.id;
        let content = store.content(id)?.ok_or("it is not there")?;
        Ok(Self(content))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ContentId {
        self.0.id()
    }

    /// A block by its number.
    #[must_use]
    pub fn index(&self, number: u32) -> Option<BlockIndex> {
        self.0.geometry().block(number)
    }

    /// Reads a block and verifies it.
    ///
    /// # Errors
    /// What the store says.
    pub fn read(&self, index: BlockIndex) -> Result<VerifiedBlock, super::ReadError> {
        self.0.read_verified(index)
    }
}
