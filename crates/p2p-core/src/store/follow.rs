//! Following files that others write to: what is heard of a file, and what is left when it is gone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::record::{PathRecord, State};
use super::{Store, StoreError, files};
use crate::content::ContentId;

/// Files that are forgotten in one commit.
const TOGETHER: usize = 10_000;

/// A file that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubted {
    /// Where it is, or was.
    pub path: PathBuf,
    /// What it was.
    pub id: ContentId,
}

impl Store {
    /// Looks at files, and at all known ones below folders, of which something was heard. Those that are not what they
    /// were are not served from now on, also to who is being served. Reads no content. Returns these files.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn doubt(&self, paths: &[PathBuf]) -> Result<Vec<Doubted>, StoreError> {
        let places: Vec<Vec<u8>> = paths.iter().map(|path| files::to_bytes(path)).collect();
        let mut doubted = Vec::new();
        for (path, record) in self.shared.index.paths_under(&places)? {
            let path = files::from_bytes(&path);
            if !self
                .shared
                .fs
                .stamp(&path)
                .is_ok_and(|now| now == record.stamp)
            {
                doubted.push(Doubted {
                    path,
                    id: record.id,
                });
            }
        }
        let ids: Vec<ContentId> = doubted.iter().map(|file| file.id).collect();
        let states = self.shared.resolve_all(&ids)?;
        let mut open = self.open.lock();
        for (file, state) in doubted.iter().zip(states) {
            let there = open.complete.get(&file.id);
            if there.is_some_and(|(content, _)| content.path() == file.path)
                && let Some((content, _)) = open.complete.remove(&file.id)
            {
                content.give_up(state == Some(State::Missing));
            }
        }
        Ok(doubted)
    }

    /// Forgets what is not here any more, of contents that are no longer shared: older versions of files. Those whose
    /// file is gone are kept, because it may come back, as are those that are shared otherwise. Returns the contents
    /// that are not served any more.
    ///
    /// # Errors
    /// As [`Store::forget`].
    pub fn retire(&self, ids: &[ContentId]) -> Result<Vec<ContentId>, StoreError> {
        let shared = self.shared_ids()?;
        let (mut retired, mut older) = (Vec::new(), BTreeSet::new());
        for (id, state) in ids.iter().zip(self.shared.resolve_all(ids)?) {
            match state {
                _ if shared.contains(id) => continue,
                Some(State::Changed) => _ = older.insert(*id),
                Some(State::Missing) | None => {}
                Some(State::Complete | State::Partial) => continue,
            }
            retired.push(*id);
        }
        self.forget_missing(&older)?;
        Ok(retired)
    }

    /// Forgets the files at or below these paths that are gone, and their contents if these are nowhere else.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn forget_gone(&self, paths: &[PathBuf]) -> Result<(), StoreError> {
        let places: Vec<Vec<u8>> = paths.iter().map(|path| files::to_bytes(path)).collect();
        let mut gone = self.shared.index.paths_under(&places)?;
        gone.retain(|(path, _)| self.shared.fs.allocated(&files::from_bytes(path)).is_none());
        if gone.is_empty() {
            return Ok(());
        }
        self.forget_paths(&gone, false)?;
        let shared = self.shared_ids()?;
        let ids: BTreeSet<ContentId> = gone.iter().map(|(_, record)| record.id).collect();
        let ids: Vec<ContentId> = ids.into_iter().filter(|id| !shared.contains(id)).collect();
        let states = self.shared.resolve_all(&ids)?.into_iter();
        let missing: BTreeSet<ContentId> = ids
            .into_iter()
            .zip(states)
            .filter(|(_, state)| *state == Some(State::Missing))
            .map(|(id, _)| id)
            .collect();
        self.forget_missing(&missing)
    }

    /// Forgets the files at and below a path, but for those that stay and those that this node has written; and their
    /// contents, if these are nowhere else and not shared themselves. The contents that are elsewhere are served from there.
    /// Returns those that are forgotten.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`].
    pub(crate) fn leave(
        &self,
        path: &Path,
        stays: impl Fn(&Path, ContentId) -> bool,
    ) -> Result<BTreeSet<ContentId>, StoreError> {
        let mut left = self.shared.index.paths_under(&[files::to_bytes(path)])?;
        left.retain(|(path, record)| {
            !record.download && !stays(&files::from_bytes(path), record.id)
        });
        if left.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.forget_paths(&left, true)?;
        let ids: BTreeSet<ContentId> = left.iter().map(|(_, record)| record.id).collect();
        let ids: Vec<ContentId> = ids.into_iter().collect();
        let states = self.shared.resolve_all(&ids)?;
        {
            // Whoever is being served goes on; who asks anew is served from where it is now.
            let mut open = self.open.lock();
            for id in &ids {
                open.complete.remove(id);
            }
        }
        let index = &self.shared.index;
        let mut nowhere = Vec::new();
        for (id, state) in ids.into_iter().zip(states) {
            let is_here = matches!(state, Some(State::Complete | State::Partial));
            if !is_here && index.copies(id)?.is_empty() && index.shares_of(id)?.is_empty() {
                nowhere.push(id);
            }
        }
        for some in nowhere.chunks(TOGETHER) {
            self.forget_missing(&some.iter().copied().collect())?;
        }
        Ok(nowhere.into_iter().collect())
    }

    fn forget_paths(
        &self,
        paths: &[(Vec<u8>, PathRecord)],
        durable: bool,
    ) -> Result<(), StoreError> {
        for some in paths.chunks(TOGETHER) {
            let mut batch = self.shared.index.write(durable)?;
            for (path, _) in some {
                batch.remove_path(path)?;
            }
            batch.commit()?;
        }
        Ok(())
    }

    /// Removes all that is known of contents that are nowhere, with one commit.
    fn forget_missing(&self, ids: &BTreeSet<ContentId>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut copies = Vec::new();
        for id in ids {
            copies.extend(self.shared.index.copies(*id)?);
        }
        let mut batch = self.shared.index.write(true)?;
        for id in ids {
            batch.remove_content(*id)?;
        }
        for path in &copies {
            if batch
                .path(path)?
                .is_some_and(|known| ids.contains(&known.id))
            {
                batch.remove_path(path)?;
            }
        }
        Ok(batch.commit()?)
    }

    fn shared_ids(&self) -> Result<BTreeSet<ContentId>, StoreError> {
        Ok(self.shares()?.into_iter().map(|(_, s)| s.id).collect())
    }
}
