//! Changes to the index. Who holds a batch reads through it, never through the index: both hold the same lock, for
//! whose owner the other would wait.

use std::sync::RwLockReadGuard;

use redb::{ReadableTable, WriteTransaction};

use super::IndexError;
use super::database::{OpenDatabase, guarded};
use super::index::{
    BEGUN, CONTENTS, COPIES, FEEDS, HELD, Index, MANIFESTS, OUTLINES, PATHS, PINS, SHARED, SHARES,
    Table, copy_key, keys_of, manifest_key, outline_key, parsed,
};
use super::outline::TOP;
use super::record::{
    BegunRecord, ContentRecord, FeedRecord, HeldRecord, PathRecord, PinRecord, Record, ShareRecord,
    Totals, manifest_value, outline_value,
};
use super::totals::keep_totals;
use crate::content::{ChainingValue, ContentId, PublisherKey};

/// A table whose records are about a content, and are of no use without it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stray {
    Outlines,
    Held,
    Manifests,
    Pins,
}

/// Changes to the index that are made together, or not at all when it is dropped without [`Batch::commit`].
pub(super) struct Batch<'a> {
    index: &'a Index,
    txn: WriteTransaction,
    change: Totals,
    /// After the transaction, so that the database is not opened again under it.
    _database: RwLockReadGuard<'a, Option<OpenDatabase>>,
}

impl<'a> Batch<'a> {
    /// A batch of a transaction that was begun while `database` is kept from being opened again.
    pub(super) fn new(
        index: &'a Index,
        txn: WriteTransaction,
        database: RwLockReadGuard<'a, Option<OpenDatabase>>,
    ) -> Self {
        Self {
            index,
            txn,
            change: Totals::default(),
            _database: database,
        }
    }

    pub(super) fn commit(self) -> Result<(), IndexError> {
        let Self {
            index,
            txn,
            change,
            _database,
        } = self;
        let committed = guarded(|| {
            if change != Totals::default() {
                keep_totals(&txn, change)?;
            }
            Ok(txn.commit()?)
        });
        committed.map_err(|error| index.failed(error))?;
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

    pub(super) fn insert(
        &mut self,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), IndexError> {
        let inserted = guarded(|| {
            self.txn.open_table(table)?.insert(key, value)?;
            Ok(())
        });
        inserted.map_err(|error| self.index.failed(error))
    }

    /// Inserts a record, and says which it takes the place of.
    fn replace<R: Record>(
        &mut self,
        table: Table,
        key: &[u8],
        record: &R,
    ) -> Result<Option<R>, IndexError> {
        let replaced = guarded(|| {
            let mut table = self.txn.open_table(table)?;
            let old = table.insert(key, record.to_value().as_slice())?;
            Ok(old.and_then(|old| parsed(key, old.value(), R::from_value)))
        });
        replaced.map_err(|error| self.index.failed(error))
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
            table.retain_in(keys.start().as_slice()..=keys.end().as_slice(), |_, _| {
                false
            })?;
            Ok(())
        });
        removed.map_err(|error| self.index.failed(error))
    }

    pub(super) fn content(&self, id: ContentId) -> Result<Option<ContentRecord>, IndexError> {
        self.value(CONTENTS, id.as_bytes(), ContentRecord::from_value)
    }

    pub(super) fn put_content(
        &mut self,
        id: ContentId,
        record: &ContentRecord,
    ) -> Result<(), IndexError> {
        if let Some(old) = self.replace(CONTENTS, id.as_bytes(), record)? {
            self.change.subtract(Totals::of_content(&old));
        }
        self.change.add(Totals::of_content(record));
        Ok(())
    }

    /// Removes what is known of a content, but for paths and shares.
    pub(super) fn remove_content(&mut self, id: ContentId) -> Result<(), IndexError> {
        if let Some(old) = self.content(id)? {
            self.change.subtract(Totals::of_content(&old));
        }
        self.remove(CONTENTS, id.as_bytes())?;
        self.remove(HELD, id.as_bytes())?;
        self.remove(PINS, id.as_bytes())?;
        self.remove_all(OUTLINES, id)?;
        self.remove_all(MANIFESTS, id)
    }

    pub(super) fn path(&self, path: &[u8]) -> Result<Option<PathRecord>, IndexError> {
        self.value(PATHS, path, PathRecord::from_value)
    }

    pub(super) fn put_path(&mut self, path: &[u8], record: &PathRecord) -> Result<(), IndexError> {
        let old = self.replace(PATHS, path, record)?;
        self.change.add(Totals::of_path(record));
        if let Some(old) = &old {
            self.change.subtract(Totals::of_path(old));
        }
        if let Some(old) = old.filter(|old| old.id != record.id) {
            self.remove(COPIES, &copy_key(old.id, path))?;
        }
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
            Some(known) if known.download => self.put_path(
                path,
                &PathRecord {
                    download: false,
                    ..known
                },
            ),
            _ => Ok(()),
        }
    }

    pub(super) fn held(&self, id: ContentId) -> Result<Option<HeldRecord>, IndexError> {
        self.value(HELD, id.as_bytes(), HeldRecord::from_value)
    }

    pub(super) fn put_held(
        &mut self,
        id: ContentId,
        record: &HeldRecord,
    ) -> Result<(), IndexError> {
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
    pub(super) fn manifest_publishers(
        &self,
        id: ContentId,
    ) -> Result<Vec<PublisherKey>, IndexError> {
        let keys = keys_of(id);
        let listed = guarded(|| {
            let table = self.txn.open_table(MANIFESTS)?;
            let mut publishers = Vec::new();
            for entry in table.range(keys.start().as_slice()..=keys.end().as_slice())? {
                let (key, _) = entry?;
                let bytes = key
                    .value()
                    .get(32..)
                    .and_then(|bytes| bytes.try_into().ok());
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
        self.insert(
            MANIFESTS,
            &manifest_key(id, publisher),
            &manifest_value(bytes),
        )
    }

    pub(super) fn remove_manifest(
        &mut self,
        id: ContentId,
        publisher: &PublisherKey,
    ) -> Result<(), IndexError> {
        self.remove(MANIFESTS, &manifest_key(id, publisher))
    }

    pub(super) fn share(&self, path: &[u8]) -> Result<Option<ShareRecord>, IndexError> {
        self.value(SHARES, path, ShareRecord::from_value)
    }

    pub(super) fn feed(&self, key: ContentId) -> Result<Option<FeedRecord>, IndexError> {
        self.value(FEEDS, key.as_bytes(), FeedRecord::from_value)
    }

    /// All feeds, in the order of their keys.
    pub(super) fn feeds(&self) -> Result<Vec<FeedRecord>, IndexError> {
        let listed = guarded(|| {
            let table = self.txn.open_table(FEEDS)?;
            let mut feeds = Vec::new();
            for entry in table.range::<&[u8]>(..)? {
                let (key, value) = entry?;
                feeds.extend(parsed(key.value(), value.value(), FeedRecord::from_value));
            }
            Ok(feeds)
        });
        listed.map_err(|error| self.index.failed(error))
    }

    pub(super) fn put_feed(&mut self, key: ContentId, feed: &FeedRecord) -> Result<(), IndexError> {
        self.insert(FEEDS, key.as_bytes(), &feed.to_value())
    }

    pub(super) fn remove_feed(&mut self, key: ContentId) -> Result<(), IndexError> {
        self.remove(FEEDS, key.as_bytes())
    }

    pub(super) fn pin(&self, id: ContentId) -> Result<Option<PinRecord>, IndexError> {
        self.value(PINS, id.as_bytes(), PinRecord::from_value)
    }

    pub(super) fn put_pin(&mut self, id: ContentId, pin: PinRecord) -> Result<(), IndexError> {
        self.insert(PINS, id.as_bytes(), &pin.to_value())
    }

    pub(super) fn remove_pin(&mut self, id: ContentId) -> Result<(), IndexError> {
        self.remove(PINS, id.as_bytes())
    }

    /// Removes the records of a table whose key a content that is not known begins. Returns how many that were.
    pub(super) fn remove_strays(&mut self, table: Stray) -> Result<u64, IndexError> {
        let table = match table {
            Stray::Outlines => OUTLINES,
            Stray::Held => HELD,
            Stray::Manifests => MANIFESTS,
            Stray::Pins => PINS,
        };
        let mut removed = 0_u64;
        let retained = guarded(|| {
            let contents = self.txn.open_table(CONTENTS)?;
            let mut strays = Vec::new();
            {
                let table = self.txn.open_table(table)?;
                for entry in table.range::<&[u8]>(..)? {
                    let (key, _) = entry?;
                    let id = key.value().get(..32).unwrap_or_default();
                    if contents.get(id)?.is_none() {
                        strays.push(key.value().to_vec());
                    }
                }
            }
            drop(contents);
            let mut table = self.txn.open_table(table)?;
            for key in strays {
                table.remove(key.as_slice())?;
                removed = removed.saturating_add(1);
            }
            Ok(())
        });
        retained.map_err(|error| self.index.failed(error))?;
        Ok(removed)
    }

    pub(super) fn put_share(&mut self, path: &[u8], share: &ShareRecord) -> Result<(), IndexError> {
        let old = self.replace(SHARES, path, share)?;
        if let Some(old) = old.filter(|old| old.id != share.id) {
            self.remove(SHARED, &copy_key(old.id, path))?;
        }
        self.remove(BEGUN, path)?;
        self.insert(SHARED, &copy_key(share.id, path), &[])
    }

    pub(super) fn put_begun(&mut self, path: &[u8], begun: &BegunRecord) -> Result<(), IndexError> {
        self.insert(BEGUN, path, &begun.to_value())
    }

    pub(super) fn remove_begun(&mut self, path: &[u8]) -> Result<(), IndexError> {
        self.remove(BEGUN, path)
    }

    pub(super) fn remove_share(&mut self, path: &[u8]) -> Result<Option<ShareRecord>, IndexError> {
        let old = self.value(SHARES, path, ShareRecord::from_value)?;
        if let Some(old) = &old {
            self.remove(SHARED, &copy_key(old.id, path))?;
        }
        self.remove(SHARES, path)?;
        self.remove(BEGUN, path)?;
        Ok(old)
    }
}
