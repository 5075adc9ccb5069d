//! What all handles of one store share, and what is found out about where content is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::cache::BlockCache;
use super::evict::Queue;
use super::fs::FileSystem;
use super::handles::Handles;
use super::index::Index;
use super::lock::DirLock;
use super::record::{ContentRecord, Place, State};
use super::space::{COMMIT_ROOM, Evict, INDEX_BASE, Limits, Need};
use super::{
    Evicted, HashStats, IndexError, StoreError, StoreOptions, USE_RESOLUTION, Usage, files,
};
use crate::content::{BlockIndex, ContentId, Geometry};

/// The folder of the data directory for content that nobody named a place for.
const FETCHED: &str = "fetched";

/// A mutex around plain values, which no panic leaves half changed.
#[derive(Debug, Default)]
pub(super) struct Guarded<T>(Mutex<T>);

impl<T> Guarded<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time in Unix seconds.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

pub(super) struct Shared {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) index: Index,
    pub(super) cache: BlockCache,
    pub(super) handles: Handles,
    /// Where content is fetched to that nobody named a place for, by its real name.
    pub(super) fetched: PathBuf,
    limits: Guarded<Limits>,
    /// Bytes of the quota that were given and are not in the index yet.
    reserved: AtomicU64,
    /// Bytes that fetches under way have still to write.
    promised: AtomicU64,
    hashed_files: AtomicU64,
    hashed_bytes: AtomicU64,
    /// Held by who asks for room, until that is given or refused.
    turn: Guarded<()>,
    /// Who goes next.
    pub(super) queue: Guarded<Queue>,
    /// Held while an object is put in place, until the index knows it.
    pub(super) placing: Guarded<()>,
    /// Temporary files being written.
    pub(super) temporaries: Guarded<BTreeSet<PathBuf>>,
    /// What made room for others, until the node asks.
    pub(super) evicted: Guarded<Vec<Evicted>>,
    /// Last, so that it is let go of after everything else is closed.
    _lock: DirLock,
}

impl Shared {
    /// Opens the data directory. Also says whether the index is a new one.
    pub(super) fn open(
        fs: Arc<dyn FileSystem>,
        options: StoreOptions,
    ) -> Result<(Self, bool), StoreError> {
        let dir = files::absolute(&options.dir)?;
        let objects = dir.join("objects");
        let create = |path: &Path| {
            let created = fs.create_private_folders(path);
            created.map_err(|error| StoreError::io(path, error))
        };
        let new: Vec<&Path> = dir
            .ancestors()
            .take_while(|path| !fs.exists(path))
            .collect();
        create(&dir)?;
        let lock = DirLock::take(&*fs, &dir)?;
        create(&objects)?;
        let fetched = dir.join(FETCHED);
        create(&fetched)?;
        let fetched = fs
            .real_path(&fetched)
            .map_err(|error| StoreError::io(&fetched, error))?;
        let (index, fresh) = Index::open(&fs, &dir.join("index.redb"))?;
        if fresh {
            sync_new(&*fs, &dir, &new)?;
        }
        let shared = Self {
            fs,
            dir,
            index,
            cache: BlockCache::new(options.cache_bytes),
            handles: Handles::default(),
            fetched,
            limits: Guarded::new(Limits {
                quota: options.quota,
                min_free: options.min_free,
                evict: options.evict,
            }),
            reserved: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            hashed_files: AtomicU64::new(0),
            hashed_bytes: AtomicU64::new(0),
            turn: Guarded::default(),
            queue: Guarded::default(),
            placing: Guarded::default(),
            temporaries: Guarded::default(),
            evicted: Guarded::default(),
            _lock: lock,
        };
        Ok((shared, fresh))
    }

    pub(super) fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    pub(super) fn set_limits(&self, quota: u64, min_free: u64) {
        let mut limits = self.limits.lock();
        (limits.quota, limits.min_free) = (quota, min_free);
    }

    pub(super) fn set_evict(&self, evict: Evict) {
        self.limits.lock().evict = evict;
        self.queue.lock().clear();
    }

    pub(super) fn usage(&self) -> Usage {
        let mut usage = self.index.usage();
        usage.reserved = usage
            .reserved
            .saturating_add(self.reserved.load(Ordering::Relaxed))
            .saturating_add(COMMIT_ROOM)
            // What it grows by until then is not that of the contents that make it grow.
            .saturating_add(INDEX_BASE.saturating_sub(usage.index));
        usage
    }

    /// Waits for those who asked for room before.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock()
    }

    /// Who had `before` set aside has `now`.
    pub(super) fn set_aside(&self, before: Need, now: Need) {
        self.reserved
            .fetch_add(now.counted.wrapping_sub(before.counted), Ordering::Relaxed);
        self.promise(before.disk, now.disk);
    }

    /// A fetch that had `before` bytes to write has `now`.
    pub(super) fn promise(&self, before: u64, now: u64) {
        // Every change is taken back, so that the sum is right whatever the order, though a part of it may wrap.
        self.promised
            .fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// A file was read to learn its id.
    pub(super) fn hashed(&self, bytes: u64) {
        self.hashed_files.fetch_add(1, Ordering::Relaxed);
        self.hashed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn hash_stats(&self) -> HashStats {
        HashStats {
            files: self.hashed_files.load(Ordering::Relaxed),
            bytes: self.hashed_bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn promised(&self) -> u64 {
        self.promised.load(Ordering::Relaxed)
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// Where an object is, whether or not it is there: `objects/<first two digits>/<id>`.
    pub(super) fn object_path(&self, id: ContentId) -> PathBuf {
        let name = id.to_string();
        self.objects()
            .join(name.get(..2).unwrap_or_default())
            .join(name)
    }

    /// Finds out whether a content is where the index says, or is elsewhere, or nowhere, and has the index say so.
    /// What it writes can be found out again and so is not synced.
    pub(super) fn resolve(&self, id: ContentId) -> Result<Option<State>, StoreError> {
        Ok(self.resolve_all(&[id])?.pop().flatten())
    }

    /// As [`Shared::resolve`], of many with one commit.
    pub(super) fn resolve_all(&self, ids: &[ContentId]) -> Result<Vec<Option<State>>, StoreError> {
        let mut states = Vec::with_capacity(ids.len());
        let mut changes = Vec::new();
        for (id, record) in ids.iter().zip(self.index.contents_of(ids)?) {
            let Some(record) = record else {
                states.push(None);
                continue;
            };
            if record.state == State::Partial {
                states.push(Some(State::Partial));
                continue;
            }
            let (state, place) = match self.standing(*id, &record)? {
                Some(place) => (State::Complete, place),
                None => (self.what_is_left(*id, &record.place), record.place.clone()),
            };
            states.push(Some(state));
            let resolved = ContentRecord {
                state,
                place,
                ..record.clone()
            };
            if resolved != record {
                tracing::debug!(%id, ?state, "content is not as it was");
                changes.push((*id, record, resolved));
            }
        }
        if changes.is_empty() {
            return Ok(states);
        }
        let mut batch = self.index.write(false)?;
        for (id, record, resolved) in changes {
            // Imported or fetched meanwhile: that is newer than what was seen here.
            if batch.content(id)?.as_ref() == Some(&record) {
                batch.put_content(id, &resolved)?;
                if let (State::Missing, Place::File(path)) = (resolved.state, &resolved.place) {
                    batch.stop_counting(path)?;
                }
            }
        }
        batch.commit()?;
        Ok(states)
    }

    /// A place where the content is as far as can be told without reading it.
    fn standing(&self, id: ContentId, record: &ContentRecord) -> Result<Option<Place>, IndexError> {
        match &record.place {
            Place::Object
                if record.state != State::Changed && self.object_stands(id, record.size) =>
            {
                return Ok(Some(Place::Object));
            }
            Place::File(path) if self.file_stands(id, path)? => {
                return Ok(Some(record.place.clone()));
            }
            _ => {}
        }
        for path in self.index.copies(id)? {
            if self.file_stands(id, &path)? {
                return Ok(Some(Place::File(path)));
            }
        }
        Ok(None)
    }

    fn object_stands(&self, id: ContentId, size: u64) -> bool {
        self.fs
            .stamp(&self.object_path(id))
            .is_ok_and(|stamp| stamp.size == size)
    }

    /// Whether the file at a path is untouched since it was this content.
    pub(super) fn file_stands(&self, id: ContentId, path: &[u8]) -> Result<bool, IndexError> {
        let known = self.index.path(path)?.filter(|known| known.id == id);
        Ok(known.is_some_and(|known| {
            self.fs
                .stamp(&files::from_bytes(path))
                .is_ok_and(|now| now == known.stamp)
        }))
    }

    fn what_is_left(&self, id: ContentId, place: &Place) -> State {
        let path = match place {
            Place::Object => self.object_path(id),
            Place::File(path) | Place::Part(path) => files::from_bytes(path),
        };
        if self.fs.exists(&path) {
            State::Changed
        } else {
            State::Missing
        }
    }

    /// Notes that a file does not have its content although it looks untouched, so that it is read again when it is
    /// imported.
    pub(super) fn distrust_path(&self, id: ContentId, path: &Path) {
        let path = files::to_bytes(path);
        let noted = (|| {
            let mut batch = self.index.write(true)?;
            if batch.path(&path)?.is_some_and(|known| known.id == id) {
                batch.remove_path(&path)?;
            }
            batch.commit()
        })();
        warn_unless_noted(id, noted);
    }

    /// Notes that a block of a partial file is damaged, so that whoever goes on with it does not believe that it is held.
    pub(super) fn distrust_block(&self, id: ContentId, block: BlockIndex) {
        let noted = (|| {
            let mut batch = self.index.write(true)?;
            if let Some(mut held) = batch.held(id)?
                && held.blocks.remove(block.get())
            {
                batch.put_held(id, &held)?;
            }
            batch.commit()
        })();
        warn_unless_noted(id, noted);
    }

    /// Notes that an object is damaged.
    pub(super) fn distrust_object(&self, id: ContentId) {
        let noted = (|| {
            let mut batch = self.index.write(true)?;
            if let Some(mut record) = batch
                .content(id)?
                .filter(|record| record.place == Place::Object)
            {
                record.state = State::Changed;
                batch.put_content(id, &record)?;
            }
            batch.commit()
        })();
        warn_unless_noted(id, noted);
    }

    /// Notes that a content is used.
    pub(super) fn touch(&self, id: ContentId, record: &ContentRecord) {
        let now = now();
        if now.saturating_sub(record.last_used) < USE_RESOLUTION {
            return;
        }
        let noted = (|| {
            let mut batch = self.index.write(false)?;
            if let Some(mut record) = batch.content(id)? {
                record.last_used = now;
                batch.put_content(id, &record)?;
            }
            batch.commit()
        })();
        warn_unless_noted(id, noted);
    }
}

/// Has the disk confirm a data directory that is new, and the folders that were made for it: what is synced below them
/// later is lost with them otherwise.
fn sync_new(fs: &dyn FileSystem, dir: &Path, made: &[&Path]) -> Result<(), StoreError> {
    let synced = |path: &Path| {
        fs.sync_folder(path).map_err(|source| StoreError::Sync {
            path: path.to_path_buf(),
            source,
        })
    };
    synced(dir)?;
    for made in made {
        synced(files::folder_of(made))?;
    }
    Ok(())
}

fn warn_unless_noted(id: ContentId, noted: Result<(), IndexError>) {
    if let Err(error) = noted {
        tracing::warn!(%id, %error, "the index did not take a note");
    }
}

impl ContentRecord {
    /// `None` for a damaged size.
    pub(super) fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.size).ok()
    }
}
