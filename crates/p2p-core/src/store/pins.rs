//! Pins, and everything else that keeps content from being evicted or collected.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::content::Content;
use super::record::{ContentRecord, PinRecord, State};
use super::shared::now;
use super::{Store, StoreError};
use crate::content::{Collection, ContentId, Kind};

/// The longest listing of a folder that is looked into (`content::collection` has the same limit).
const MAX_LISTING: u64 = 128 * 1024 * 1024;

/// What is to stay.
pub(super) struct Kept {
    /// What is pinned, on its own or with its folder.
    pinned: HashSet<ContentId>,
    /// What is shared on its own, and folders that are.
    shared: HashSet<ContentId>,
    /// Where what is shared lies.
    paths: BTreeSet<PathBuf>,
}

impl Kept {
    pub(super) fn is_pinned(&self, id: ContentId) -> bool {
        self.pinned.contains(&id)
    }

    pub(super) fn keeps(&self, id: ContentId) -> bool {
        self.pinned.contains(&id) || self.shared.contains(&id)
    }

    /// Whether a file is shared, or in a folder that is.
    pub(super) fn is_shared(&self, path: &Path) -> bool {
        path.ancestors().any(|path| self.paths.contains(path))
    }
}

impl Store {
    /// Keeps a content, of a folder also all its files, from being evicted. False if it was pinned before, `None` if the
    /// store does not know it.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn pin(&self, id: ContentId) -> Result<Option<bool>, StoreError> {
        // Not while it is being evicted.
        let _turn = self.shared.turn();
        let mut batch = self.shared.index.write(true)?;
        if batch.content(id)?.is_none() {
            return Ok(None);
        }
        if batch.pin(id)?.is_some() {
            return Ok(Some(false));
        }
        batch.put_pin(id, PinRecord { added: now() })?;
        batch.commit()?;
        Ok(Some(true))
    }

    /// Takes a pin back. False if there was none.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn unpin(&self, id: ContentId) -> Result<bool, StoreError> {
        let mut batch = self.shared.index.write(true)?;
        let pinned = batch.pin(id)?.is_some();
        if pinned {
            batch.remove_pin(id)?;
            batch.commit()?;
            self.shared.queue.lock().clear();
        }
        Ok(pinned)
    }

    /// What is pinned, and since when in Unix seconds.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn pins(&self) -> Result<Vec<(ContentId, u64)>, StoreError> {
        let pins = self.shared.index.pins()?.into_iter();
        Ok(pins.map(|(id, pin)| (id, pin.added)).collect())
    }

    /// What is pinned or shared.
    pub(super) fn kept(&self) -> Result<Kept, StoreError> {
        let mut kept = Kept {
            pinned: HashSet::new(),
            shared: HashSet::new(),
            paths: BTreeSet::new(),
        };
        for (id, _) in self.shared.index.pins()? {
            kept.pinned.insert(id);
            if let Some(record) = self.shared.index.content(id)? {
                kept.pinned.extend(self.listed(id, &record)?);
            }
        }
        for (path, share) in self.shared.index.shares()? {
            kept.shared.insert(share.id);
            kept.paths.insert(path);
        }
        Ok(kept)
    }

    /// The files of a folder whose listing is here; none of a file. That is no use of the listing.
    pub(super) fn listed(
        &self,
        id: ContentId,
        record: &ContentRecord,
    ) -> Result<Vec<ContentId>, StoreError> {
        if record.state != State::Complete || record.size > MAX_LISTING {
            return Ok(Vec::new());
        }
        let signed = self.shared.index.manifests(id)?;
        if signed.iter().all(|m| m.claims().kind != Kind::Collection) {
            return Ok(Vec::new());
        }
        let Some(content) = Content::open_complete(&self.shared, id, record)? else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; usize::try_from(record.size).unwrap_or_default()];
        if content.read_at(0, &mut bytes).is_err() {
            return Ok(Vec::new());
        }
        let entries =
            Collection::decode(&bytes).map_or_else(|_| Vec::new(), Collection::into_entries);
        Ok(entries.into_iter().map(|entry| entry.content).collect())
    }
}
