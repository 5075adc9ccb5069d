//! The index: one redb file that says which content is where. It decides nothing.
//!
//! Reads see what was committed; writes go through a [`Batch`], which is all or nothing. A batch that is not durable
//! is seen at once and survives a crash only when a later durable one did: for what can be found out again.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};

use super::batch::Batch;
use super::database::{OpenDatabase, guarded, is_damage, open_database, opened};
use super::fs::{Access, FileSystem};
use super::record::{
    BegunRecord, ContentRecord, FeedRecord, HeldRecord, PathRecord, PinRecord, Record, ShareRecord,
    Totals, manifest_bytes, outline_values,
};
use super::shared::Guarded;
use super::totals::totals;
use super::{IndexError, StoreError, Usage, files};
use crate::content::{ChainingValue, ContentId, PublisherKey, SignedManifest};

pub(super) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const CONTENTS: Table = TableDefinition::new("contents");
pub(super) const PATHS: Table = TableDefinition::new("paths");
pub(super) const COPIES: Table = TableDefinition::new("copies");
pub(super) const OUTLINES: Table = TableDefinition::new("outlines");
pub(super) const HELD: Table = TableDefinition::new("held");
pub(super) const MANIFESTS: Table = TableDefinition::new("manifests");
pub(super) const SHARES: Table = TableDefinition::new("shares");
pub(super) const BEGUN: Table = TableDefinition::new("begun");
pub(super) const PINS: Table = TableDefinition::new("pins");
pub(super) const SHARED: Table = TableDefinition::new("shared");
pub(super) const TOTALS: Table = TableDefinition::new("totals");
pub(super) const ANNOUNCED: Table = TableDefinition::new("announced");
pub(super) const FEEDS: Table = TableDefinition::new("feeds");
/// All of them.
const TABLES: [Table; 13] = [
    CONTENTS, PATHS, COPIES, OUTLINES, HELD, MANIFESTS, SHARES, PINS, SHARED, TOTALS, ANNOUNCED,
    FEEDS, BEGUN,
];
/// The key of the only record in `totals`.
pub(super) const ALL: &[u8] = &[];

/// The index.
pub(super) struct Index {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    /// `None` only while it is opened again.
    database: RwLock<Option<OpenDatabase>>,
    /// Set by an I/O error (after which the library refuses everything until the file is opened again) and by damage.
    broken: AtomicBool,
    /// What `totals` says, kept up to date by the batches.
    pub(super) totals: Guarded<Totals>,
}

impl Index {
    /// Opens the index, or makes a new one. One that cannot be read is set aside. Also says whether it is new.
    pub(super) fn open(fs: &Arc<dyn FileSystem>, path: &Path) -> Result<(Self, bool), StoreError> {
        let fresh = size_of(&**fs, path) == 0;
        let suspect = suspect_of(path);
        let suspected = fs.exists(&suspect);
        let index = Self::open_at(fs, path).and_then(|index| match suspected {
            true => index.check().map(|()| index),
            false => Ok(index),
        });
        let opened = match index {
            Ok(index) => Ok((index, fresh)),
            Err(error) if is_damage(&error) => {
                let aside = path.with_extension("redb.damaged");
                tracing::error!(%error, aside = %aside.display(), "the index is damaged and is set aside");
                fs.rename(path, &aside)
                    .map_err(|error| StoreError::io(path, error))?;
                Ok((Self::open_at(fs, path).map_err(boxed)?, true))
            }
            Err(error) => Err(boxed(error).into()),
        };
        if suspected && opened.is_ok() {
            fs.remove(&suspect)
                .map_err(|error| StoreError::io(&suspect, error))?;
        }
        opened
    }

    /// Checks every page. The library has done that for none when it opened the file.
    fn check(&self) -> Result<(), redb::Error> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        guarded(|| {
            let open = database.as_mut().ok_or(redb::Error::DatabaseClosed)?;
            open.get_mut()?.check_integrity()?;
            Ok(())
        })
    }

    fn open_at(fs: &Arc<dyn FileSystem>, path: &Path) -> Result<Self, redb::Error> {
        let database = open_database(&**fs, path, false)?;
        let totals = guarded(|| prepare(database.get()?))?;
        Ok(Self {
            fs: Arc::clone(fs),
            path: path.to_path_buf(),
            database: RwLock::new(Some(database)),
            broken: AtomicBool::new(false),
            totals: Guarded::new(totals),
        })
    }

    /// The database, opened again if an I/O error closed it: the disk may have room by now.
    fn database(&self) -> Result<RwLockReadGuard<'_, Option<OpenDatabase>>, IndexError> {
        if self.broken.load(Ordering::Acquire) {
            let mut database = self
                .database
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if self.broken.load(Ordering::Acquire) {
                *database = None;
                let opened = open_database(&*self.fs, &self.path, true).map_err(boxed)?;
                // What was not synced is gone.
                let (totals, _) = guarded(|| totals(opened.get()?)).map_err(boxed)?;
                *self.totals.lock() = totals;
                *database = Some(opened);
                self.broken.store(false, Ordering::Release);
            }
        }
        Ok(self.database.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn failed(&self, error: redb::Error) -> IndexError {
        if matches!(
            error,
            redb::Error::Io(_)
                | redb::Error::PreviousIo
                | redb::Error::DatabaseClosed
                | redb::Error::LockPoisoned(_)
                | redb::Error::Corrupted(_)
        ) {
            self.broken.store(true, Ordering::Release);
        }
        if is_damage(&error) {
            tracing::error!(%error, "the index is damaged, and is made anew at the next start");
            // Whatever becomes of it, the error is told.
            let _ = self.fs.open(&suspect_of(&self.path), Access::Create);
        }
        boxed(error)
    }

    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, IndexError> {
        let database = self.database()?;
        let result = guarded(|| read(&opened(&database)?.begin_read()?));
        result.map_err(|error| self.failed(error))
    }

    fn value<T>(
        &self,
        table: Table,
        key: &[u8],
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, IndexError> {
        self.read(|txn| {
            let table = txn.open_table(table)?;
            Ok(table
                .get(key)?
                .and_then(|value| parsed(key, value.value(), parse)))
        })
    }

    /// All records of a table in a range of keys, without those that are damaged.
    pub(super) fn list<T>(
        &self,
        table: Table,
        keys: Option<RangeInclusive<Vec<u8>>>,
        parse: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, IndexError> {
        self.read(|txn| {
            let table = txn.open_table(table)?;
            let range = match &keys {
                Some(keys) => table.range(keys.start().as_slice()..=keys.end().as_slice())?,
                None => table.range::<&[u8]>(..)?,
            };
            let mut found = Vec::new();
            for entry in range {
                let (key, value) = entry?;
                found.extend(parsed(key.value(), value.value(), |value| {
                    parse(key.value(), value)
                }));
            }
            Ok(found)
        })
    }

    pub(super) fn content(&self, id: ContentId) -> Result<Option<ContentRecord>, IndexError> {
        self.value(CONTENTS, id.as_bytes(), ContentRecord::from_value)
    }

    /// The records of many contents, as they were at one moment.
    pub(super) fn contents_of(
        &self,
        ids: &[ContentId],
    ) -> Result<Vec<Option<ContentRecord>>, IndexError> {
        self.read(|txn| {
            let table = txn.open_table(CONTENTS)?;
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let value = table.get(id.as_bytes().as_slice())?;
                found.push(value.and_then(|value| {
                    parsed(id.as_bytes(), value.value(), ContentRecord::from_value)
                }));
            }
            Ok(found)
        })
    }

    pub(super) fn path(&self, path: &[u8]) -> Result<Option<PathRecord>, IndexError> {
        self.value(PATHS, path, PathRecord::from_value)
    }

    /// The records of all paths that are one of these or below one, by path.
    pub(super) fn paths_under(
        &self,
        places: &[Vec<u8>],
    ) -> Result<Vec<(Vec<u8>, PathRecord)>, IndexError> {
        let mut found = self.read(|txn| {
            let table = txn.open_table(PATHS)?;
            let mut found = Vec::new();
            for place in places {
                let place = place.strip_suffix(b"/").unwrap_or(place);
                let itself = table.get(place)?;
                found.extend(itself.and_then(|value| path_entry(place, value.value())));
                // All that begin with the place and `/`: up to the character after it.
                let (first, end) = ([place, b"/"].concat(), [place, b"0"].concat());
                for entry in table.range(first.as_slice()..end.as_slice())? {
                    let (key, value) = entry?;
                    found.extend(path_entry(key.value(), value.value()));
                }
            }
            Ok(found)
        })?;
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        found.dedup_by(|(a, _), (b, _)| a == b);
        Ok(found)
    }

    /// The paths of all files that were this content when last looked at.
    pub(super) fn copies(&self, id: ContentId) -> Result<Vec<Vec<u8>>, IndexError> {
        self.list(COPIES, Some(keys_of(id)), |key, _| path_of(key))
    }

    pub(super) fn held(&self, id: ContentId) -> Result<Option<HeldRecord>, IndexError> {
        self.value(HELD, id.as_bytes(), HeldRecord::from_value)
    }

    pub(super) fn outline(
        &self,
        id: ContentId,
        page: u32,
    ) -> Result<Option<Vec<ChainingValue>>, IndexError> {
        self.value(OUTLINES, &outline_key(id, page), outline_values)
    }

    pub(super) fn manifests(&self, id: ContentId) -> Result<Vec<SignedManifest>, IndexError> {
        self.list(MANIFESTS, Some(keys_of(id)), |_, value| manifest_of(value))
    }

    /// The shares of one content.
    pub(super) fn shares_of(
        &self,
        id: ContentId,
    ) -> Result<Vec<(PathBuf, ShareRecord)>, IndexError> {
        self.read(|txn| {
            let (shared, shares) = (txn.open_table(SHARED)?, txn.open_table(SHARES)?);
            let keys = keys_of(id);
            let mut found = Vec::new();
            for entry in shared.range(keys.start().as_slice()..=keys.end().as_slice())? {
                let (key, _) = entry?;
                let Some(path) = path_of(key.value()) else {
                    continue;
                };
                let share = shares.get(path.as_slice())?;
                let share =
                    share.and_then(|share| parsed(&path, share.value(), ShareRecord::from_value));
                found.extend(share.map(|share| (files::from_bytes(&path), share)));
            }
            Ok(found)
        })
    }

    pub(super) fn share_count(&self) -> Result<u64, IndexError> {
        self.read(|txn| Ok(txn.open_table(SHARES)?.len()?))
    }

    pub(super) fn shares(&self) -> Result<Vec<(PathBuf, ShareRecord)>, IndexError> {
        self.list(SHARES, None, |key, value| {
            Some((files::from_bytes(key), ShareRecord::from_value(value)?))
        })
    }

    pub(super) fn share(&self, path: &[u8]) -> Result<Option<ShareRecord>, IndexError> {
        self.value(SHARES, path, ShareRecord::from_value)
    }

    pub(super) fn begun(&self) -> Result<Vec<(PathBuf, BegunRecord)>, IndexError> {
        self.list(BEGUN, None, |key, value| {
            Some((files::from_bytes(key), BegunRecord::from_value(value)?))
        })
    }

    pub(super) fn feeds(&self) -> Result<Vec<FeedRecord>, IndexError> {
        self.list(FEEDS, None, |_, value| FeedRecord::from_value(value))
    }

    pub(super) fn feed(&self, key: ContentId) -> Result<Option<FeedRecord>, IndexError> {
        self.value(FEEDS, key.as_bytes(), FeedRecord::from_value)
    }

    /// What is pinned, by id.
    pub(super) fn pins(&self) -> Result<Vec<(ContentId, PinRecord)>, IndexError> {
        self.list(PINS, None, |key, value| {
            Some((id_of(key)?, PinRecord::from_value(value)?))
        })
    }

    /// All paths, with what was there when last looked at.
    pub(super) fn paths(&self) -> Result<Vec<(Vec<u8>, PathRecord)>, IndexError> {
        self.list(PATHS, None, |key, value| {
            Some((key.to_vec(), PathRecord::from_value(value)?))
        })
    }

    pub(super) fn usage(&self) -> Usage {
        let totals = *self.totals.lock();
        let bytes = |total: i64| u64::try_from(total).unwrap_or(0);
        Usage {
            downloads: bytes(totals.downloads),
            partial: bytes(totals.partial),
            objects: bytes(totals.objects),
            // The file has holes, which a fetch fills: its length says nothing.
            index: self.fs.allocated(&self.path).unwrap_or(0),
            reserved: bytes(totals.growth),
        }
    }

    /// Gives back to the disk what the file has no use for. Everyone else waits meanwhile.
    pub(super) fn compact(&self) -> Result<(), IndexError> {
        drop(self.database()?);
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let compacted = guarded(|| {
            let open = database.as_mut().ok_or(redb::Error::DatabaseClosed)?;
            Ok(open.get_mut()?.compact()?)
        });
        compacted.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// Begins a batch, after those of other threads.
    pub(super) fn write(&self, durable: bool) -> Result<Batch<'_>, IndexError> {
        let database = self.database()?;
        let begun = guarded(|| {
            let mut txn = opened(&database)?.begin_write()?;
            if durable {
                // Also turns two-phase commit on, which values chosen by strangers ask for, and lets the index be
                // opened in no time after a crash.
                txn.set_quick_repair(true);
                txn.set_two_phase_commit(true);
            } else {
                txn.set_durability(Durability::None)?;
            }
            Ok(txn)
        });
        let txn = begun.map_err(|error| self.failed(error))?;
        Ok(Batch::new(self, txn, database))
    }
}

/// What says that the index was found damaged while it was in use: it is checked when it is opened next.
fn suspect_of(path: &Path) -> PathBuf {
    path.with_extension("redb.suspect")
}

/// The length of the index. It may be on another disk, with a link to it.
fn size_of(fs: &dyn FileSystem, path: &Path) -> u64 {
    let real = fs.real_path(path).and_then(|path| fs.stamp(&path));
    real.map_or(0, |stamp| stamp.size)
}

/// Makes the tables that are not there, and from the others what can be made of them; returns the totals.
fn prepare(database: &Database) -> Result<Totals, redb::Error> {
    let txn = database.begin_write()?;
    for table in TABLES {
        txn.open_table(table)?;
    }
    {
        let shares = txn.open_table(SHARES)?;
        let mut shared = txn.open_table(SHARED)?;
        if shares.len()? != shared.len()? {
            shared.retain(|_, _| false)?;
            for entry in shares.range::<&[u8]>(..)? {
                let (path, share) = entry?;
                if let Some(share) = ShareRecord::from_value(share.value()) {
                    shared.insert(copy_key(share.id, path.value()).as_slice(), [].as_slice())?;
                }
            }
        }
    }
    txn.commit()?;
    let (totals, kept) = totals(database)?;
    if !kept {
        let txn = database.begin_write()?;
        txn.open_table(TOTALS)?
            .insert(ALL, totals.to_value().as_slice())?;
        txn.commit()?;
    }
    Ok(totals)
}

pub(super) fn parsed<T>(
    key: &[u8],
    value: &[u8],
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<T> {
    let record = parse(value);
    if record.is_none() {
        tracing::warn!(key = %data_encoding::HEXLOWER.encode(key), "a damaged record in the index");
    }
    record
}

fn boxed(error: redb::Error) -> IndexError {
    IndexError(Box::new(error))
}

pub(super) fn id_of(key: &[u8]) -> Option<ContentId> {
    key.first_chunk::<32>()
        .map(|bytes| ContentId::from_bytes(*bytes))
}

pub(super) fn manifest_of(value: &[u8]) -> Option<SignedManifest> {
    SignedManifest::decode(manifest_bytes(value)?).ok()
}

pub(super) fn path_of(key: &[u8]) -> Option<Vec<u8>> {
    key.split_first_chunk::<32>().map(|(_, path)| path.to_vec())
}

fn path_entry(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, PathRecord)> {
    parsed(key, value, PathRecord::from_value).map(|record| (key.to_vec(), record))
}

pub(super) fn outline_key(id: ContentId, page: u32) -> Vec<u8> {
    [id.as_bytes().as_slice(), &page.to_be_bytes()].concat()
}

pub(super) fn manifest_key(id: ContentId, publisher: &PublisherKey) -> Vec<u8> {
    [id.as_bytes().as_slice(), publisher.as_bytes()].concat()
}

pub(super) fn copy_key(id: ContentId, path: &[u8]) -> Vec<u8> {
    [id.as_bytes().as_slice(), path].concat()
}

/// All keys that begin with an id: up to one that no path (which begins with `/`), page or publisher comes after.
pub(super) fn keys_of(id: ContentId) -> RangeInclusive<Vec<u8>> {
    let last = [id.as_bytes().as_slice(), &[u8::MAX; 33]].concat();
    id.as_bytes().to_vec()..=last
}

#[cfg(test)]
impl Index {
    /// What counts, added up anew.
    pub(super) fn sum(&self) -> Totals {
        self.read(super::totals::sum).unwrap()
    }

    /// Flips a byte of a held record.
    pub(super) fn damage_held(&self, id: ContentId) {
        let mut value = self
            .value(HELD, id.as_bytes(), |value| Some(value.to_vec()))
            .unwrap()
            .unwrap();
        *value.last_mut().unwrap() ^= 1;
        let mut batch = self.write(true).unwrap();
        batch.insert(HELD, id.as_bytes(), &value).unwrap();
        batch.commit().unwrap();
    }
}
