//! The index: one redb file that says which content is where. It decides nothing.
//!
//! Reads see what was committed; writes go through a [`Batch`], which is all or nothing. A batch that is not durable
//! is seen at once and survives a crash only when a later durable one did: for what can be found out again.

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, StorageError, TableDefinition,
};

use super::batch::Batch;
use super::record::{
    ContentRecord, HeldRecord, PathRecord, Place, Record, ShareRecord, State, manifest_bytes,
    outline_values,
};
use super::shared::Guarded;
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

/// Memory for pages of the index. The library's own default is 1 GiB.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// The index.
pub(super) struct Index {
    path: PathBuf,
    /// `None` only while it is opened again.
    database: RwLock<Option<OpenDatabase>>,
    /// Set by an I/O error (after which the library refuses everything until the file is opened again) and by damage.
    broken: AtomicBool,
    pub(super) totals: Guarded<Totals>,
}

/// Bytes that count against the quota, kept up to date by the batches. Signed, because changes are.
#[derive(Clone, Copy, Default)]
pub(super) struct Totals {
    downloads: i64,
    partial: i64,
    objects: i64,
}

impl Totals {
    pub(super) fn add(&mut self, other: Self) {
        self.downloads = self.downloads.saturating_add(other.downloads);
        self.partial = self.partial.saturating_add(other.partial);
        self.objects = self.objects.saturating_add(other.objects);
    }

    pub(super) fn subtract(&mut self, other: Self) {
        self.downloads = self.downloads.saturating_sub(other.downloads);
        self.partial = self.partial.saturating_sub(other.partial);
        self.objects = self.objects.saturating_sub(other.objects);
    }

    pub(super) fn of_content(record: &ContentRecord) -> Self {
        let size = i64::try_from(record.size).unwrap_or(i64::MAX);
        match (&record.place, record.state) {
            (Place::Object, _) => Self {
                objects: size,
                ..Self::default()
            },
            (Place::Part(_), State::Partial) => Self {
                partial: size,
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    pub(super) fn of_path(record: &PathRecord) -> Self {
        let size = i64::try_from(record.stamp.size).unwrap_or(i64::MAX);
        Self {
            downloads: if record.download { size } else { 0 },
            ..Self::default()
        }
    }
}

impl Index {
    /// Opens the index, or makes a new one. One that cannot be read is set aside. Also says whether it is new.
    pub(super) fn open(path: &Path) -> Result<(Self, bool), StoreError> {
        let fresh = std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
        match Self::open_at(path) {
            Ok(index) => Ok((index, fresh)),
            Err(error) if is_damage(&error) => {
                let aside = path.with_extension("redb.damaged");
                tracing::error!(%error, aside = %aside.display(), "the index is damaged and is set aside");
                std::fs::rename(path, &aside).map_err(|error| StoreError::io(path, error))?;
                Ok((Self::open_at(path).map_err(boxed)?, true))
            }
            Err(error) => Err(boxed(error).into()),
        }
    }

    fn open_at(path: &Path) -> Result<Self, redb::Error> {
        let database = open_database(path)?;
        let totals = guarded(|| {
            let batch = database.get()?.begin_write()?;
            for table in [CONTENTS, PATHS, COPIES, OUTLINES, HELD, MANIFESTS, SHARES] {
                batch.open_table(table)?;
            }
            batch.commit()?;
            sum(&database.get()?.begin_read()?)
        })?;
        Ok(Self {
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
                *database = Some(open_database(&self.path).map_err(boxed)?);
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
        boxed(error)
    }

    fn read<T>(
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
    fn list<T>(
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

    pub(super) fn contents(&self) -> Result<Vec<(ContentId, ContentRecord)>, IndexError> {
        self.list(CONTENTS, None, |key, value| {
            Some((id_of(key)?, ContentRecord::from_value(value)?))
        })
    }

    pub(super) fn path(&self, path: &[u8]) -> Result<Option<PathRecord>, IndexError> {
        self.value(PATHS, path, PathRecord::from_value)
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
        self.list(MANIFESTS, Some(keys_of(id)), |_, value| {
            SignedManifest::decode(manifest_bytes(value)?).ok()
        })
    }

    pub(super) fn shares(&self) -> Result<Vec<(PathBuf, ShareRecord)>, IndexError> {
        self.list(SHARES, None, |key, value| {
            Some((files::from_bytes(key), ShareRecord::from_value(value)?))
        })
    }

    pub(super) fn usage(&self) -> Usage {
        let totals = *self.totals.lock();
        let bytes = |total: i64| u64::try_from(total).unwrap_or(0);
        Usage {
            downloads: bytes(totals.downloads),
            partial: bytes(totals.partial),
            objects: bytes(totals.objects),
            index: std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len()),
        }
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

/// An open database file. The library panics on some damaged files, also when it closes them; that is damage like any
/// other.
pub(super) struct OpenDatabase(Option<Database>);

impl OpenDatabase {
    fn get(&self) -> Result<&Database, redb::Error> {
        self.0
            .as_ref()
            .ok_or_else(|| StorageError::DatabaseClosed.into())
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let database = self.0.take();
        let closed = guarded(|| {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "the index could not be closed in order");
        }
    }
}

fn open_database(path: &Path) -> Result<OpenDatabase, redb::Error> {
    guarded(|| {
        Ok(OpenDatabase(Some(
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create(path)?,
        )))
    })
}

pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let damaged = |_| {
        Err(redb::Error::Corrupted(
            "the database library panicked".to_owned(),
        ))
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(damaged)
}

fn opened(database: &Option<OpenDatabase>) -> Result<&Database, redb::Error> {
    database.as_ref().ok_or(redb::Error::DatabaseClosed)?.get()
}

/// Whether the file itself is at fault, as opposed to the disk or another process.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::RepairAborted
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_) => true,
        redb::Error::Io(source) => {
            matches!(
                source.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            )
        }
        _ => false,
    }
}

fn sum(txn: &ReadTransaction) -> Result<Totals, redb::Error> {
    let mut totals = Totals::default();
    for entry in txn.open_table(CONTENTS)?.range::<&[u8]>(..)? {
        if let Some(record) = ContentRecord::from_value(entry?.1.value()) {
            totals.add(Totals::of_content(&record));
        }
    }
    for entry in txn.open_table(PATHS)?.range::<&[u8]>(..)? {
        if let Some(record) = PathRecord::from_value(entry?.1.value()) {
            totals.add(Totals::of_path(&record));
        }
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

fn id_of(key: &[u8]) -> Option<ContentId> {
    key.first_chunk::<32>()
        .map(|bytes| ContentId::from_bytes(*bytes))
}

fn path_of(key: &[u8]) -> Option<Vec<u8>> {
    key.split_first_chunk::<32>().map(|(_, path)| path.to_vec())
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
