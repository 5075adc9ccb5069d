//! Content on the disk: the only place of the crate that touches files of content.
//!
//! It owns the data directory (lock, index, objects), the files shared in place, the partial files of fetches and
//! the cache of blocks. Everything here is synchronous and may block on the disk: callers run it on threads for that.
//!
//! Invariants:
//!
//! - **No wrong byte leaves it.** [`Content::block`] verifies what it reads, always; what is in the cache was
//!   verified before. A file that turns out changed stops being served at once.
//! - **Only verified blocks come in.** [`Content::write`] takes [`VerifiedBlock`](crate::content::VerifiedBlock)s.
//! - **What the index says is held was on the disk before the index said so**: data, then sync, then the index.
//! - **The index can be found out again** from files; a damaged one is set aside and costs a re-scan, never content.
//!   `docs/disk.md` describes it to the byte.
//!
//! A content is `Complete`, `Partial` (being fetched), `Changed` or `Missing` ([`State`]). No lock is held while a
//! caller's closure runs.

mod adopt;
mod announced;
mod batch;
mod begin;
#[cfg(feature = "bench")]
pub mod bench;
mod cache;
mod checkpoint;
mod collect;
mod content;
mod database;
mod direct;
mod error;
mod evict;
mod feeds;
mod files;
mod finish;
mod follow;
mod forget;
mod fs;
mod handles;
mod hash;
mod import;
mod index;
mod listing;
mod lock;
mod object;
mod open;
mod outline;
mod part;
mod pins;
mod record;
mod shared;
mod shares;
mod space;
mod stat;
#[cfg(test)]
mod tests;
mod totals;
mod verify;
mod walk;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use cache::CacheStats;
pub use collect::Collected;
pub use content::Content;
pub use error::{ImportError, IndexError, ReadError, StoreError};
pub use evict::Evicted;
pub use finish::Existing;
pub use fs::tells_of_changes;
pub use import::{Imported, Look, Tree};
pub use listing::{ContentInfo, Page};
pub use part::{PartFile, PartRoot};
pub use record::{FeedRecord, ShareRecord, State};
pub use space::{Evict, Room, Wanted};
pub use stat::{Amount, StoreStat};
pub use verify::{Damage, Verified, What};

use crate::content::{ContentId, SignedManifest};
use fs::{Disk, FileSystem, Memory};
use open::OpenContents;
use record::{ContentRecord, Place};
use shared::{Guarded, Shared};

/// Manifests kept for one content, so that strangers cannot fill the disk with them.
const MANIFESTS_PER_CONTENT: usize = 4;
/// A content counts as used again at most once in so many seconds, so that reading does not write.
const USE_RESOLUTION: u64 = 3600;

/// What a [`Store`] is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data directory. Created, readable by the user only, if it is not there.
    pub dir: PathBuf,
    /// Bytes of verified blocks kept in memory. 0 turns the cache off.
    pub cache_bytes: u64,
    /// Bytes that downloads, partial files, objects and the index may take together. `u64::MAX` for no limit.
    pub quota: u64,
    /// Bytes that a fetch must leave free on the disk it writes to.
    pub min_free: u64,
    /// What may be deleted to make room.
    pub evict: Evict,
}

/// How far an import is, and whether to go on.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    report: &'a (dyn Fn(u64, u64) + Sync),
    cancel: &'a AtomicBool,
}

impl<'a> Progress<'a> {
    /// `report` is called with (bytes hashed, bytes to hash) from several threads, about once per MiB and never with
    /// a lock held; setting `cancel` ends the import with [`ImportError::Cancelled`] within about a MiB of work.
    /// Files known already are not hashed, and are in neither number.
    pub fn new(report: &'a (dyn Fn(u64, u64) + Sync), cancel: &'a AtomicBool) -> Self {
        Self { report, cancel }
    }

    /// For who wants neither.
    pub fn none() -> Progress<'static> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Progress {
            report: &|_, _| {},
            cancel: &NEVER,
        }
    }

    fn report(&self, done: u64, total: u64) {
        (self.report)(done, total);
    }

    fn check(&self) -> Result<(), ImportError> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(ImportError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// Bytes on the disk that count against the quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Files that were fetched and finished.
    pub downloads: u64,
    /// Contents being fetched, at their full size.
    pub partial: u64,
    /// Content in the store's own directory.
    pub objects: u64,
    /// The index.
    pub index: u64,
    /// Set aside: for what is about to be fetched or shared, for what the index may grow by when that under way is
    /// complete, and a mebibyte for the index to be written anew in.
    pub reserved: u64,
}

impl Usage {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.downloads
            .saturating_add(self.partial)
            .saturating_add(self.objects)
            .saturating_add(self.index)
            .saturating_add(self.reserved)
    }
}

/// What was hashed since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HashStats {
    /// Files that were read to learn their ids. A file that was only looked at, or moved, is not one.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The store. Clones are handles to the same one; the data directory is free again when the last of them and of the
/// [`Content`]s from it is dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    open: Arc<Guarded<OpenContents>>,
}

impl Store {
    /// Opens the store, or makes a new one.
    ///
    /// An index that cannot be read is set aside as `index.redb.damaged` and a new one is started from the objects;
    /// share what was shared in place again.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it; [`StoreError::Io`], [`StoreError::Index`].
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(Disk), options)
    }

    /// Makes a store that keeps everything in memory, and nothing when it is dropped. Its paths, that of the data
    /// directory too, are of its own and have nothing to do with those of the system.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn in_memory(options: StoreOptions) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(Memory::default()), options)
    }

    /// Opens the store on a file system.
    fn open_on(fs: Arc<dyn FileSystem>, options: StoreOptions) -> Result<Self, StoreError> {
        let (shared, fresh) = Shared::open(fs, options)?;
        let store = Self {
            shared: Arc::new(shared),
            open: Arc::new(Guarded::default()),
        };
        if fresh {
            store.readopt_objects()?;
            store.readopt_fetched()?;
        }
        store.remove_leftovers();
        Ok(store)
    }

    /// Whether there is anything at a path where the store keeps files.
    pub fn exists(&self, path: &Path) -> bool {
        self.shared.fs.exists(path)
    }

    /// Where an object is kept.
    pub fn object_path(&self, id: ContentId) -> PathBuf {
        self.shared.object_path(id)
    }

    /// Changes the quota and the reserve, in bytes. What is already there stays, even above the quota: see
    /// [`Store::shrink`].
    pub fn set_limits(&self, quota: u64, min_free: u64) {
        self.shared.set_limits(quota, min_free);
    }

    /// Changes what may be deleted to make room.
    pub fn set_evict(&self, evict: Evict) {
        self.shared.set_evict(evict);
    }

    /// The quota and the reserve, in bytes.
    pub fn limits(&self) -> (u64, u64) {
        let limits = self.shared.limits();
        (limits.quota, limits.min_free)
    }

    /// Where content goes that nobody named a place for. What is in here is the store's own: it may be evicted.
    pub fn fetched_dir(&self) -> &Path {
        &self.shared.fetched
    }

    /// A handle to read a content, complete or partial; `None` if the store does not have it or its file changed or
    /// is gone. A partial one comes with the blocks found in its file.
    ///
    /// # Errors
    /// [`StoreError::Index`]; [`StoreError::Io`] if the partial file cannot be opened.
    pub fn content(&self, id: ContentId) -> Result<Option<Arc<Content>>, StoreError> {
        let Some(record) = self.shared.index.content(id)? else {
            return Ok(None);
        };
        match (&record.state, &record.place) {
            (State::Partial, Place::Part(path)) => self.open_partial(id, &record, path),
            (State::Complete, _) => self.open_complete(id, record),
            _ => Ok(None),
        }
    }

    fn open_complete(
        &self,
        id: ContentId,
        mut record: ContentRecord,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        let departures = {
            let mut open = self.open.lock();
            if open.leaving.contains(&id) {
                return Ok(None);
            }
            match open.complete(id) {
                Some(content) if content.is_sound() => return Ok(Some(content)),
                _ => open.complete.remove(&id),
            };
            open.departures
        };
        if let Some(content) = self.open_untouched(id, &record)? {
            self.shared.touch(id, &record);
            return self.keep_open(content, departures);
        }
        if self.shared.resolve(id)? != Some(State::Complete) {
            return Ok(None);
        }
        // `resolve` may have found another copy of it.
        if let Some(current) = self.shared.index.content(id)? {
            record = current;
        }
        self.shared.touch(id, &record);
        match Content::open_complete(&self.shared, id, &record)? {
            Some(content) => self.keep_open(content, departures),
            None => Ok(None),
        }
    }

    /// Keeps a handle that was opened when there had been `departures`; `None` if the content was evicted since.
    fn keep_open(
        &self,
        content: Content,
        departures: u64,
    ) -> Result<Option<Arc<Content>>, StoreError> {
        let id = content.id();
        let mut open = self.open.lock();
        let left = open.leaving.contains(&id)
            || open.departures != departures && self.shared.index.content(id)?.is_none();
        if left {
            return Ok(None);
        }
        let content = Arc::new(content);
        open.keep(Arc::clone(&content));
        Ok(Some(content))
    }

    /// Opens a content whose file is where it was and as it was, which is how nearly all are found.
    fn open_untouched(
        &self,
        id: ContentId,
        record: &ContentRecord,
    ) -> Result<Option<Content>, StoreError> {
        let (Place::File(path), Some(geometry)) = (&record.place, record.geometry()) else {
            return Ok(None);
        };
        let Some(known) = self.shared.index.path(path)?.filter(|known| known.id == id) else {
            return Ok(None);
        };
        let path = files::from_bytes(path);
        let untouched = self
            .shared
            .fs
            .stamp(&path)
            .is_ok_and(|stamp| stamp == known.stamp);
        Ok(untouched.then(|| Content::of_file(&self.shared, id, geometry, path, known.stamp)))
    }

    /// Keeps a signed manifest, one for each publisher of the content and four at most. When there are four of other
    /// publishers, a stranger's is not kept; one of `own` takes the place of another. Returns whether it was kept.
    /// The store does not verify it, on the way in or out.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn add_manifest(&self, manifest: &SignedManifest, own: bool) -> Result<bool, StoreError> {
        let id = manifest.claims().content;
        let publisher = manifest.claims().publisher;
        let mut batch = self.shared.index.write(true)?;
        let known = batch.manifest_publishers(id)?;
        if !known.contains(&publisher) && known.len() >= MANIFESTS_PER_CONTENT {
            match known.first() {
                Some(first) if own => batch.remove_manifest(id, first)?,
                _ => return Ok(false),
            }
        }
        batch.put_manifest(id, &publisher, &manifest.encode())?;
        batch.commit()?;
        Ok(true)
    }

    /// The manifests kept for a content. Verify before use.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn manifests(&self, id: ContentId) -> Result<Vec<SignedManifest>, StoreError> {
        Ok(self.shared.index.manifests(id)?)
    }

    /// The state and the size of many contents; `None` for those that are not known. What a file looks like now is not
    /// looked at.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn states(&self, ids: &[ContentId]) -> Result<Vec<Option<(State, u64)>>, StoreError> {
        let records = self.shared.index.contents_of(ids)?.into_iter();
        Ok(records
            .map(|record| record.map(|record| (record.state, record.size)))
            .collect())
    }

    /// Where a content is, or was when that was last looked at; `None` if the store does not know it.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn place(&self, id: ContentId) -> Result<Option<PathBuf>, StoreError> {
        let record = self.shared.index.content(id)?;
        Ok(record.map(|record| match record.place {
            Place::Object => self.shared.object_path(id),
            Place::File(path) | Place::Part(path) => files::from_bytes(&path),
        }))
    }

    /// Looks at the files of a content again: a file that is back as it was makes it `Complete`, one that was
    /// written to `Changed`, none `Missing`. Reads no content. `None` if the store does not know it.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn refresh(&self, id: ContentId) -> Result<Option<State>, StoreError> {
        self.shared.resolve(id)
    }

    /// What counts against the quota.
    pub fn usage(&self) -> Usage {
        self.shared.usage()
    }

    /// What was hashed since it was opened.
    pub fn hash_stats(&self) -> HashStats {
        self.shared.hash_stats()
    }

    /// Changes how many bytes of verified blocks are kept in memory; 0 turns the cache off. The blocks used most stay,
    /// as many as fit.
    pub fn set_cache_size(&self, bytes: u64) {
        self.shared.cache.set_capacity(bytes);
    }

    /// How the cache of blocks does.
    pub fn cache_stats(&self) -> CacheStats {
        self.shared.cache.stats()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}
