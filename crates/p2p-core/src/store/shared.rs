//! What all handles of one store share, and what is found out about where content is.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::cache::BlockCache;
use super::handles::Handles;
use super::index::Index;
use super::lock::DirLock;
use super::record::{ContentRecord, Place, State};
use super::{IndexError, StoreError, StoreOptions, USE_RESOLUTION, Usage, files, space};
use crate::content::{ContentId, Geometry};

/// A mutex around plain values, which no panic leaves half changed.
#[derive(Default)]
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
    pub(super) dir: PathBuf,
    pub(super) index: Index,
    pub(super) cache: BlockCache,
    pub(super) handles: Handles,
    quota: AtomicU64,
    min_free: AtomicU64,
    /// Last, so that it is let go of after everything else is closed.
    _lock: DirLock,
}

impl Shared {
    /// Opens the data directory. Also says whether the index is a new one.
    pub(super) fn open(options: StoreOptions) -> Result<(Self, bool), StoreError> {
        let dir = files::absolute(&options.dir)?;
        let objects = dir.join("objects");
        let create = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        create(&dir).map_err(|error| StoreError::io(&dir, error))?;
        let lock = DirLock::take(&dir)?;
        create(&objects).map_err(|error| StoreError::io(&objects, error))?;
        let (index, fresh) = Index::open(&dir.join("index.redb"))?;
        let shared = Self {
            dir,
            index,
            cache: BlockCache::new(options.cache_bytes),
            handles: Handles::default(),
            quota: AtomicU64::new(options.quota),
            min_free: AtomicU64::new(options.min_free),
            _lock: lock,
        };
        Ok((shared, fresh))
    }

    pub(super) fn set_limits(&self, quota: u64, min_free: u64) {
        self.quota.store(quota, Ordering::Relaxed);
        self.min_free.store(min_free, Ordering::Relaxed);
    }

    pub(super) fn usage(&self) -> Usage {
        self.index.usage()
    }

    /// Whether `missing` bytes can be written to the disk of `folder` while `promised` others are still to come, and
    /// `counted` bytes more are within the quota.
    pub(super) fn check_room(
        &self,
        folder: &Path,
        missing: u64,
        promised: u64,
        counted: u64,
    ) -> Result<(), StoreError> {
        if counted > 0 {
            space::check_quota(
                counted,
                self.usage().total(),
                self.quota.load(Ordering::Relaxed),
            )?;
        }
        space::check_disk(
            folder,
            missing,
            promised,
            self.min_free.load(Ordering::Relaxed),
        )
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
        let Some(record) = self.index.content(id)? else {
            return Ok(None);
        };
        if record.state == State::Partial {
            return Ok(Some(State::Partial));
        }
        let (state, place) = match self.standing(id, &record)? {
            Some(place) => (State::Complete, place),
            None => (self.what_is_left(id, &record.place), record.place.clone()),
        };
        let resolved = ContentRecord {
            state,
            place,
            ..record.clone()
        };
        if resolved != record {
            tracing::info!(%id, ?state, "content is not as it was");
            let mut batch = self.index.write(false)?;
            // Imported or fetched meanwhile: that is newer than what was seen here.
            if batch.content(id)?.as_ref() == Some(&record) {
                batch.put_content(id, &resolved)?;
                if let (State::Missing, Place::File(path)) = (state, &resolved.place) {
                    batch.stop_counting(path)?;
                }
                batch.commit()?;
            }
        }
        Ok(Some(state))
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
        files::stamp(&self.object_path(id)).is_ok_and(|stamp| stamp.size == size)
    }

    /// Whether the file at a path is untouched since it was this content.
    pub(super) fn file_stands(&self, id: ContentId, path: &[u8]) -> Result<bool, IndexError> {
        let known = self.index.path(path)?.filter(|known| known.id == id);
        Ok(known.is_some_and(|known| {
            files::stamp(&files::from_bytes(path)).is_ok_and(|now| now == known.stamp)
        }))
    }

    fn what_is_left(&self, id: ContentId, place: &Place) -> State {
        let path = match place {
            Place::Object => self.object_path(id),
            Place::File(path) | Place::Part(path) => files::from_bytes(path),
        };
        if files::stamp(&path).is_ok() {
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
