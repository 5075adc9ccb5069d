//! The index: one redb file that says which content is where. It decides nothing.
//!
//! Reads see what was committed; writes go through a [`Batch`], which is all or nothing. A batch that is not durable
//! is seen at once and survives a crash only when a later durable one did: for what can be found out again. Who holds
//! a batch reads through it, never beside it: both hold the same lock, for whose owner the other would wait.

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    WriteTransaction,
};

use super::content::TOP;
use super::record::{
    ContentRecord, HeldRecord, PathRecord, Place, Record, ShareRecord, State, manifest_bytes, manifest_value,
    outline_value, outline_values,
};
use super::shared::Guarded;
use super::{IndexError, StoreError, Usage, files};
use crate::content::{ChainingValue, ContentId, PublisherKey, SignedManifest};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const CONTENTS: Table = TableDefinition::new("contents");
const PATHS: Table = TableDefinition::new("paths");
const COPIES: Table = TableDefinition::new("copies");
const OUTLINES: Table = TableDefinition::new("outlines");
const HELD: Table = TableDefinition::new("held");
const MANIFESTS: Table = TableDefinition::new("manifests");
const SHARES: Table = TableDefinition::new("shares");

/// Memory for pages of the index. The library's own default is 1 GiB.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// The index.
pub(super) struct Index {
    path: PathBuf,
    /// `None` only while it is opened again.
    database: RwLock<Option<OpenDatabase>>,
    /// Set by an I/O error (after which the library refuses everything until the file is opened again) and by damage.
    broken: AtomicBool,
    totals: Guarded<Totals>,
}

/// Bytes that count against the quota, kept up to date by the batches. Signed, because changes are.
#[derive(Clone, Copy, Default)]
struct Totals {
    downloads: i64,
    partial: i64,
    objects: i64,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.downloads = self.downloads.saturating_add(other.downloads);
        self.partial = self.partial.saturating_add(other.partial);
        self.objects = self.objects.saturating_add(other.objects);
    }

    fn subtract(&mut self, other: Self) {
        self.downloads = self.downloads.saturating_sub(other.downloads);
        self.partial = self.partial.saturating_sub(other.partial);
        self.objects = self.objects.saturating_sub(other.objects);
    }

    fn of_content(record: &ContentRecord) -> Self {
        let size = i64::try_from(record.size).unwrap_or(i64::MAX);
        match (&record.place, record.state) {
            (Place::Object, _) => Self { objects: size, ..Self::default() },
            (Place::Part(_), State::Partial) => Self { partial: size, ..Self::default() },
            _ => Self::default(),
        }
    }

    fn of_path(record: &PathRecord) -> Self {
        let size = i64::try_from(record.stamp.size).unwrap_or(i64::MAX);
        Self { downloads: if record.download { size } else { 0 }, ..Self::default() }
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
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if self.broken.load(Ordering::Acquire) {
                *database = None;
                *database = Some(open_database(&self.path).map_err(boxed)?);
                self.broken.store(false, Ordering::Release);
            }
        }
        Ok(self.database.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, error: redb::Error) -> IndexError {
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

    fn read<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, IndexError> {
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
            Ok(table.get(key)?.and_then(|value| parsed(key, value.value(), parse)))
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
                found.extend(parsed(key.value(), value.value(), |value| parse(key.value(), value)));
            }
            Ok(found)
        })
    }

    pub(super) fn content(&self, id: ContentId) -> Result<Option<ContentRecord>, IndexError> {
        self.value(CONTENTS, id.as_bytes(), ContentRecord::from_value)
    }

    pub(super) fn contents(&self) -> Result<Vec<(ContentId, ContentRecord)>, IndexError> {
        self.list(CONTENTS, None, |key, value| Some((id_of(key)?, ContentRecord::from_value(value)?)))
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

    pub(super) fn outline(&self, id: ContentId, page: u32) -> Result<Option<Vec<ChainingValue>>, IndexError> {
        self.value(OUTLINES, &outline_key(id, page), outline_values)
    }

    pub(super) fn manifests(&self, id: ContentId) -> Result<Vec<SignedManifest>, IndexError> {
        self.list(MANIFESTS, Some(keys_of(id)), |_, value| SignedManifest::decode(manifest_bytes(value)?).ok())
    }

    pub(super) fn shares(&self) -> Result<Vec<(PathBuf, ShareRecord)>, IndexError> {
        self.list(SHARES, None, |key, value| Some((files::from_bytes(key), ShareRecord::from_value(value)?)))
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
        Ok(Batch { index: self, txn, change: Totals::default(), _database: database })
    }
}

/// Changes to the index that are made together, or not at all when it is dropped without [`Batch::commit`].
pub(super) struct Batch<'a> {
    index: &'a Index,
    txn: WriteTransaction,
    change: Totals,
    /// After the transaction, so that the database is not opened again under it.
    _database: RwLockReadGuard<'a, Option<OpenDatabase>>,
}

impl Batch<'_> {
    pub(super) fn commit(self) -> Result<(), IndexError> {
        let Self { index, txn, change, _database } = self;
        guarded(|| Ok(txn.commit()?)).map_err(|error| index.failed(error))?;
        index.totals.lock().add(change);
        Ok(())
    }

    fn value<T>(
        &self,
        table: Table,
        key: &[u8],
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, IndexError> {
        let found = guarded(|| {
            let table = self.txn.open_table(table)?;
            let value = table.get(key)?;
            Ok(value.and_then(|value| parsed(key, value.value(), parse)))
        });
        found.map_err(|error| self.index.failed(error))
    }

    fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), IndexError> {
        let inserted = guarded(|| {
            self.txn.open_table(table)?.insert(key, value)?;
            Ok(())
        });
        inserted.map_err(|error| self.index.failed(error))
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), IndexError> {
        let removed = guarded(|| {
            self.txn.open_table(table)?.remove(key)?;
            Ok(())
        });
        removed.map_err(|error| self.index.failed(error))
    }

    fn remove_all(&mut self, table: Table, id: ContentId) -> Result<(), IndexError> {
        let keys = keys_of(id);
        let removed = guarded(|| {
            let mut table = self.txn.open_table(table)?;
            table.retain_in(keys.start().as_slice()..=keys.end().as_slice(), |_, _| false)?;
            Ok(())
        });
        removed.map_err(|error| self.index.failed(error))
    }

    pub(super) fn content(&self, id: ContentId) -> Result<Option<ContentRecord>, IndexError> {
        self.value(CONTENTS, id.as_bytes(), ContentRecord::from_value)
    }

    pub(super) fn put_content(&mut self, id: ContentId, record: &ContentRecord) -> Result<(), IndexError> {
        if let Some(old) = self.content(id)? {
            self.change.subtract(Totals::of_content(&old));
        }
        self.change.add(Totals::of_content(record));
        self.insert(CONTENTS, id.as_bytes(), &record.to_value())
    }

    /// Removes what is known of a content, but for paths and shares.
    pub(super) fn remove_content(&mut self, id: ContentId) -> Result<(), IndexError> {
        if let Some(old) = self.content(id)? {
            self.change.subtract(Totals::of_content(&old));
        }
        self.remove(CONTENTS, id.as_bytes())?;
        self.remove(HELD, id.as_bytes())?;
        self.remove_all(OUTLINES, id)?;
        self.remove_all(MANIFESTS, id)
    }

    pub(super) fn path(&self, path: &[u8]) -> Result<Option<PathRecord>, IndexError> {
        self.value(PATHS, path, PathRecord::from_value)
    }

    pub(super) fn put_path(&mut self, path: &[u8], record: &PathRecord) -> Result<(), IndexError> {
        self.remove_path(path)?;
        self.change.add(Totals::of_path(record));
        self.insert(PATHS, path, &record.to_value())?;
        self.insert(COPIES, &copy_key(record.id, path), &[])
    }

    pub(super) fn remove_path(&mut self, path: &[u8]) -> Result<(), IndexError> {
        if let Some(old) = self.path(path)? {
            self.change.subtract(Totals::of_path(&old));
            self.remove(COPIES, &copy_key(old.id, path))?;
        }
        self.remove(PATHS, path)
    }

    /// Leaves a download that is gone out of the quota.
    pub(super) fn stop_counting(&mut self, path: &[u8]) -> Result<(), IndexError> {
        match self.path(path)? {
            Some(known) if known.download => self.put_path(path, &PathRecord { download: false, ..known }),
            _ => Ok(()),
        }
    }

    pub(super) fn put_held(&mut self, id: ContentId, record: &HeldRecord) -> Result<(), IndexError> {
        self.insert(HELD, id.as_bytes(), &record.to_value())
    }

    pub(super) fn remove_held(&mut self, id: ContentId) -> Result<(), IndexError> {
        self.remove(HELD, id.as_bytes())
    }

    pub(super) fn put_outline(
        &mut self,
        id: ContentId,
        parts: &[(u32, Vec<ChainingValue>)],
    ) -> Result<(), IndexError> {
        for (page, values) in parts {
            self.insert(OUTLINES, &outline_key(id, *page), &outline_value(values))?;
        }
        Ok(())
    }

    /// All of an outline that was computed here.
    pub(super) fn put_whole_outline(
        &mut self,
        id: ContentId,
        outline: &crate::content::Outline,
    ) -> Result<(), IndexError> {
        if let Some(top) = outline.top() {
            self.insert(OUTLINES, &outline_key(id, TOP), &outline_value(top))?;
        }
        for page in 0..outline.geometry().pages() {
            // A page of one block is in the top.
            if let Some(values) = outline.page(page).filter(|values| values.len() > 1) {
                self.insert(OUTLINES, &outline_key(id, page), &outline_value(values))?;
            }
        }
        Ok(())
    }

    /// The publishers whose manifests are kept for a content.
    pub(super) fn manifest_publishers(&self, id: ContentId) -> Result<Vec<PublisherKey>, IndexError> {
        let keys = keys_of(id);
        let listed = guarded(|| {
            let table = self.txn.open_table(MANIFESTS)?;
            let mut publishers = Vec::new();
            for entry in table.range(keys.start().as_slice()..=keys.end().as_slice())? {
                let (key, _) = entry?;
                let bytes = key.value().get(32..).and_then(|bytes| bytes.try_into().ok());
                publishers.extend(bytes.map(PublisherKey::from_bytes));
            }
            Ok(publishers)
        });
        listed.map_err(|error| self.index.failed(error))
    }

    pub(super) fn put_manifest(
        &mut self,
        id: ContentId,
        publisher: &PublisherKey,
        bytes: &[u8],
    ) -> Result<(), IndexError> {
        self.insert(MANIFESTS, &manifest_key(id, publisher), &manifest_value(bytes))
    }

    pub(super) fn remove_manifest(&mut self, id: ContentId, publisher: &PublisherKey) -> Result<(), IndexError> {
        self.remove(MANIFESTS, &manifest_key(id, publisher))
    }

    pub(super) fn put_share(&mut self, path: &[u8], share: &ShareRecord) -> Result<(), IndexError> {
        self.insert(SHARES, path, &share.to_value())
    }

    pub(super) fn remove_share(&mut self, path: &[u8]) -> Result<Option<ShareRecord>, IndexError> {
        let old = self.value(SHARES, path, ShareRecord::from_value)?;
        self.remove(SHARES, path)?;
        Ok(old)
    }
}

/// An open database file. The library panics on some damaged files, also when it closes them; that is damage like any
/// other.
struct OpenDatabase(Option<Database>);

impl OpenDatabase {
    fn get(&self) -> Result<&Database, redb::Error> {
        self.0.as_ref().ok_or_else(|| StorageError::DatabaseClosed.into())
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let database = self.0.take();
        if let Err(error) = guarded(|| Ok(drop(database))) {
            tracing::warn!(%error, "the index could not be closed in order");
        }
    }
}

fn open_database(path: &Path) -> Result<OpenDatabase, redb::Error> {
    guarded(|| Ok(OpenDatabase(Some(Database::builder().set_cache_size(CACHE_BYTES).create(path)?))))
}

fn guarded<T>(run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let damaged = |_| Err(redb::Error::Corrupted("the database library panicked".to_owned()));
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
            matches!(source.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
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

fn parsed<T>(key: &[u8], value: &[u8], parse: impl FnOnce(&[u8]) -> Option<T>) -> Option<T> {
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
    key.first_chunk::<32>().map(|bytes| ContentId::from_bytes(*bytes))
}

fn path_of(key: &[u8]) -> Option<Vec<u8>> {
    key.split_first_chunk::<32>().map(|(_, path)| path.to_vec())
}

fn outline_key(id: ContentId, page: u32) -> Vec<u8> {
    [id.as_bytes().as_slice(), &page.to_be_bytes()].concat()
}

fn manifest_key(id: ContentId, publisher: &PublisherKey) -> Vec<u8> {
    [id.as_bytes().as_slice(), publisher.as_bytes()].concat()
}

fn copy_key(id: ContentId, path: &[u8]) -> Vec<u8> {
    [id.as_bytes().as_slice(), path].concat()
}

/// All keys that begin with an id: up to one that no path (which begins with `/`), page or publisher comes after.
fn keys_of(id: ContentId) -> RangeInclusive<Vec<u8>> {
    let last = [id.as_bytes().as_slice(), &[u8::MAX; 33]].concat();
    id.as_bytes().to_vec()..=last
}

#[cfg(test)]
impl Index {
    /// Flips a byte of a held record.
    pub(super) fn damage_held(&self, id: ContentId) {
        let mut value = self.value(HELD, id.as_bytes(), |value| Some(value.to_vec())).unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        let mut batch = self.write(true).unwrap();
        batch.insert(HELD, id.as_bytes(), &value).unwrap();
        batch.commit().unwrap();
    }
}
