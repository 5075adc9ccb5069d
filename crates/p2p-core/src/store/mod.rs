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

mod batch;
mod cache;
mod content;
mod error;
mod files;
mod finish;
mod forget;
mod handles;
mod hash;
mod import;
mod index;
mod lock;
mod object;
mod outline;
mod part;
mod record;
mod shared;
mod space;
#[cfg(test)]
mod tests;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

pub use cache::CacheStats;
pub use content::Content;
pub use error::{ImportError, IndexError, ReadError, StoreError};
pub use finish::Existing;
pub use import::Imported;
pub use part::{PartFile, PartRoot};
pub use record::{ShareRecord, State};

use crate::content::{ContentId, SignedManifest};
use record::{ContentRecord, Place};
use shared::{Guarded, Shared};

/// Complete contents kept open. Each is a few hundred bytes and at most 2 MiB of outline.
const OPEN_CONTENTS: usize = 256;
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

/// What the store knows of a content.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContentInfo {
    /// Its id.
    pub id: ContentId,
    /// Its size in bytes; as claimed while it is partial.
    pub size: u64,
    /// Whether it is all there.
    pub state: State,
    /// The file it is in; `None` if the store keeps it in its own directory.
    pub path: Option<PathBuf>,
    /// Blocks held.
    pub held: u32,
    /// Blocks it has.
    pub blocks: u32,
    /// Whether it was fetched by this node (as opposed to shared in place). True for partials.
    pub download: bool,
    /// When it came into the store, in Unix seconds.
    pub added: u64,
    /// When it was last opened, in Unix seconds, to the hour.
    pub last_used: u64,
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
}

impl Usage {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.downloads
            .saturating_add(self.partial)
            .saturating_add(self.objects)
            .saturating_add(self.index)
    }
}

/// The store. Clones are handles to the same one; the data directory is free again when the last of them and of the
/// [`Content`]s from it is dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    open: Arc<Guarded<OpenContents>>,
}

/// The handles given out. Complete ones are kept, up to a number; partial ones live as long as someone uses them.
#[derive(Default)]
struct OpenContents {
    complete: HashMap<ContentId, (Arc<Content>, u64)>,
    partial: HashMap<ContentId, Weak<Content>>,
    tick: u64,
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
        let (shared, fresh) = Shared::open(options)?;
        let store = Self {
            shared: Arc::new(shared),
            open: Arc::new(Guarded::default()),
        };
        if fresh {
            store.readopt_objects()?;
        }
        store.remove_leftovers();
        Ok(store)
    }

    /// Changes the quota and the reserve, in bytes. What is already there stays, even above the quota.
    pub fn set_limits(&self, quota: u64, min_free: u64) {
        self.shared.set_limits(quota, min_free);
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
        {
            let mut open = self.open.lock();
            match open.complete(id) {
                Some(content) if content.is_sound() => return Ok(Some(content)),
                _ => open.complete.remove(&id),
            };
        }
        if self.shared.resolve(id)? != Some(State::Complete) {
            return Ok(None);
        }
        // `resolve` may have found another copy of it.
        if let Some(current) = self.shared.index.content(id)? {
            record = current;
        }
        self.shared.touch(id, &record);
        let Some(content) = Content::open_complete(&self.shared, id, &record)? else {
            return Ok(None);
        };
        let content = Arc::new(content);
        self.open.lock().keep(Arc::clone(&content));
        Ok(Some(content))
    }

    /// Shares `path` again under a record, or for the first time. The record is about the path, so one content may
    /// be shared from several.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn add_share(&self, path: &Path, share: &ShareRecord) -> Result<(), StoreError> {
        let mut batch = self.shared.index.write(true)?;
        batch.put_share(&files::to_bytes(path), share)?;
        Ok(batch.commit()?)
    }

    /// Forgets the share at `path`; the content itself stays known until [`Store::forget`]. Returns what it was.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn remove_share(&self, path: &Path) -> Result<Option<ShareRecord>, StoreError> {
        let mut batch = self.shared.index.write(true)?;
        let removed = batch.remove_share(&files::to_bytes(path))?;
        batch.commit()?;
        Ok(removed)
    }

    /// All shares, by path.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn shares(&self) -> Result<Vec<(PathBuf, ShareRecord)>, StoreError> {
        Ok(self.shared.index.shares()?)
    }

    /// The shares of one content.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn shares_of(&self, id: ContentId) -> Result<Vec<(PathBuf, ShareRecord)>, StoreError> {
        let mut shares = self.shares()?;
        shares.retain(|(_, share)| share.id == id);
        Ok(shares)
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

    /// Everything in the store, by id.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn contents(&self) -> Result<Vec<ContentInfo>, StoreError> {
        let records = self.shared.index.contents()?;
        records
            .into_iter()
            .map(|(id, record)| self.describe(id, record))
            .collect()
    }

    /// What is known of one content.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn info(&self, id: ContentId) -> Result<Option<ContentInfo>, StoreError> {
        self.shared
            .index
            .content(id)?
            .map(|record| self.describe(id, record))
            .transpose()
    }

    fn describe(&self, id: ContentId, record: ContentRecord) -> Result<ContentInfo, StoreError> {
        let blocks = record.geometry().map_or(0, |geometry| geometry.blocks());
        let open = self.open.lock().partial(id);
        let held = match record.state {
            State::Complete => blocks,
            State::Partial => match open {
                Some(content) => content.held_count(),
                None => self
                    .shared
                    .index
                    .held(id)?
                    .map_or(0, |held| held.blocks.count()),
            },
            State::Changed | State::Missing => 0,
        };
        let (path, download) = match &record.place {
            Place::Object => (None, false),
            Place::Part(path) => (Some(files::from_bytes(path)), true),
            Place::File(path) => {
                let known = self.shared.index.path(path)?;
                (
                    Some(files::from_bytes(path)),
                    known.is_some_and(|known| known.download),
                )
            }
        };
        let ContentRecord {
            size,
            state,
            added,
            last_used,
            ..
        } = record;
        Ok(ContentInfo {
            id,
            size,
            state,
            path,
            held,
            blocks,
            download,
            added,
            last_used,
        })
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

impl OpenContents {
    fn complete(&mut self, id: ContentId) -> Option<Arc<Content>> {
        self.tick = self.tick.wrapping_add(1);
        let (content, used) = self.complete.get_mut(&id)?;
        *used = self.tick;
        Some(Arc::clone(content))
    }

    fn partial(&self, id: ContentId) -> Option<Arc<Content>> {
        self.partial.get(&id).and_then(Weak::upgrade)
    }

    /// Keeps a complete content open, for the one unused longest.
    fn keep(&mut self, content: Arc<Content>) {
        self.tick = self.tick.wrapping_add(1);
        if self.complete.len() >= OPEN_CONTENTS && !self.complete.contains_key(&content.id()) {
            let oldest = self
                .complete
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(id, _)| *id);
            oldest.and_then(|id| self.complete.remove(&id));
        }
        self.complete.insert(content.id(), (content, self.tick));
    }

    fn keep_partial(&mut self, content: &Arc<Content>) {
        self.partial.retain(|_, content| content.strong_count() > 0);
        self.partial.insert(content.id(), Arc::downgrade(content));
    }
}
