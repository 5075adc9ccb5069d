//! What is shared, by path, and what is about to be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::record::BegunRecord;
use super::{ShareRecord, Store, StoreError, files};
use crate::audience::Audience;
use crate::content::ContentId;

impl Store {
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
        self.shared.queue.lock().clear();
        Ok(removed)
    }

    /// What is shared at a path.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn share(&self, path: &Path) -> Result<Option<ShareRecord>, StoreError> {
        Ok(self.shared.index.share(&files::to_bytes(path))?)
    }

    /// Says that what is at `path` is about to be shared, and for whom: that holds until there is a record of it, also after
    /// a restart.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub(crate) fn begin_share(&self, path: &Path, audience: Audience) -> Result<(), StoreError> {
        let mut batch = self.shared.index.write(true)?;
        batch.put_begun(&files::to_bytes(path), &BegunRecord { audience })?;
        Ok(batch.commit()?)
    }

    /// Nothing is about to be shared at `path` any more.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub(crate) fn end_begun(&self, path: &Path) -> Result<(), StoreError> {
        let mut batch = self.shared.index.write(true)?;
        batch.remove_begun(&files::to_bytes(path))?;
        Ok(batch.commit()?)
    }

    /// Paths at which something is about to be shared, and for whom.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub(crate) fn begun(&self) -> Result<Vec<(PathBuf, Audience)>, StoreError> {
        let begun = self.shared.index.begun()?.into_iter();
        Ok(begun
            .map(|(path, record)| (path, record.audience))
            .collect())
    }

    /// The contents that, as far as is known, are nowhere but at and below a path, in files that this node has not written.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub(crate) fn only_at(&self, path: &Path) -> Result<Vec<ContentId>, StoreError> {
        let index = &self.shared.index;
        let paths = index.paths_under(&[files::to_bytes(path)])?;
        let found = paths.into_iter().filter(|(_, record)| !record.download);
        let mut only = Vec::new();
        for id in found.map(|(_, record)| record.id).collect::<BTreeSet<_>>() {
            let copies = index.copies(id)?;
            if copies
                .iter()
                .all(|copy| files::from_bytes(copy).starts_with(path))
            {
                only.push(id);
            }
        }
        Ok(only)
    }

    /// Puts another record in the place of the one that a share had `before`. False, and nothing is done, if it is
    /// another by now.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn replace_share(
        &self,
        path: &Path,
        before: Option<&ShareRecord>,
        share: &ShareRecord,
    ) -> Result<bool, StoreError> {
        let path = files::to_bytes(path);
        let mut batch = self.shared.index.write(true)?;
        if batch.share(&path)?.as_ref() != before {
            return Ok(false);
        }
        batch.put_share(&path, share)?;
        batch.commit()?;
        Ok(true)
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
        Ok(self.shared.index.shares_of(id)?)
    }

    /// How many shares there are.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn share_count(&self) -> Result<u64, StoreError> {
        Ok(self.shared.index.share_count()?)
    }
}
