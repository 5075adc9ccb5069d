//! Forgetting content.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::fs::FileSystem;
use super::record::{PathRecord, Place};
use super::{IndexError, PartFile, Store, StoreError, files};
use crate::content::ContentId;

/// Contents that are forgotten in one commit: what a commit costs is little beside them, and so is what they take.
const FORGET_TOGETHER: usize = 1000;

/// What [`Store::forget`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forgotten {
    /// Whether the store knew it.
    pub known: bool,
    /// The files that were deleted.
    pub deleted: Vec<PathBuf>,
}

impl Store {
    /// Removes all that is known of a content: where it is, its outline, manifests, shares and pin. A copy in the store's
    /// own directory is deleted. With `delete_files` so are its downloads and its partial file; but never a file that
    /// this node did not write, and never one that was changed since.
    ///
    /// Handles that are still open go on working as long as their file does.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`]: nothing is forgotten then. [`StoreError::Io`] if a file could
    /// not be deleted: all is forgotten, and the file remains.
    pub fn forget(&self, id: ContentId, delete_files: bool) -> Result<Forgotten, StoreError> {
        let all = self.forget_all(&[id], delete_files)?;
        Ok(all.into_iter().next().unwrap_or_default())
    }

    /// Like [`Store::forget`] of each, with a commit for many.
    ///
    /// # Errors
    /// As there: of those of one commit all are forgotten, or none.
    pub fn forget_all(
        &self,
        ids: &[ContentId],
        delete_files: bool,
    ) -> Result<Vec<Forgotten>, StoreError> {
        let mut all = Vec::with_capacity(ids.len());
        let mut failure = None;
        for some in ids.chunks(FORGET_TOGETHER) {
            for (known, files) in self.forget_records(some, delete_files)? {
                let (deleted, failed) = delete_files_of(&*self.shared.fs, files);
                failure = failure.or(failed);
                all.push(Forgotten { known, deleted });
            }
        }
        failure.map_or(Ok(all), Err)
    }

    /// Removes the records of contents in one commit. Returns of each whether it was known, and the files that are to
    /// be deleted.
    fn forget_records(
        &self,
        ids: &[ContentId],
        delete_files: bool,
    ) -> Result<Vec<(bool, Vec<PathBuf>)>, StoreError> {
        let (fs, index) = (&*self.shared.fs, &self.shared.index);
        // Read before the batch begins: who holds one must not read past it.
        let known = ids.iter().map(|id| {
            let (copies, shares) = (index.copies(*id)?, index.shares_of(*id)?);
            Ok((*id, index.content(*id)?, copies, shares))
        });
        let known: Vec<_> = known.collect::<Result<_, IndexError>>()?;
        let mut batch = index.write(true)?;
        let mut plans = Vec::with_capacity(known.len());
        for (id, record, copies, shares) in known {
            batch.remove_content(id)?;
            let mut delete = Vec::new();
            for path in &copies {
                let known = batch.path(path)?.filter(|known| known.id == id);
                batch.remove_path(path)?;
                if delete_files
                    && known.is_some_and(|known| is_untouched_download(fs, path, &known))
                {
                    delete.push(files::from_bytes(path));
                }
            }
            for (path, _) in &shares {
                batch.remove_share(&files::to_bytes(path))?;
            }
            match record.as_ref().map(|record| &record.place) {
                Some(Place::Object) => delete.push(self.shared.object_path(id)),
                Some(Place::Part(path)) if delete_files => delete.push(files::from_bytes(path)),
                _ => {}
            }
            plans.push((record.is_some(), delete));
        }
        batch.commit()?;
        let mut open = self.open.lock();
        for id in ids {
            open.complete.remove(id);
            if let Some(content) = open.partial(*id) {
                content.forgotten.store(true, Ordering::Release);
            }
            open.partial.remove(id);
        }
        Ok(plans)
    }
}

impl Store {
    /// Bytes of its disk that a partial file takes now.
    pub fn on_disk(&self, part: &PartFile) -> u64 {
        self.shared.fs.allocated(&part.path()).unwrap_or(0)
    }

    /// Moves the partial file at a path to another on the same disk.
    ///
    /// # Errors
    /// [`StoreError::Io`]; it stays where it was then.
    pub fn move_part(&self, from: &Path, to: &PartFile) -> Result<(), StoreError> {
        let moved = self.shared.fs.rename(from, &to.path());
        moved.map_err(|error| StoreError::io(from, error))
    }

    /// Removes a folder if there is nothing in it.
    pub fn remove_if_empty(&self, folder: &Path) {
        // One that is not empty stays.
        let _ = self.shared.fs.remove_folder(folder);
    }
}

/// Whether a file is as this node wrote it.
pub(super) fn is_untouched_download(fs: &dyn FileSystem, path: &[u8], known: &PathRecord) -> bool {
    known.download
        && fs
            .stamp(&files::from_bytes(path))
            .is_ok_and(|stamp| stamp == known.stamp)
}

/// Deletes what is there. The first failure is told, after the others were deleted.
fn delete_files_of(fs: &dyn FileSystem, paths: Vec<PathBuf>) -> (Vec<PathBuf>, Option<StoreError>) {
    let mut deleted = Vec::new();
    let mut failure = None;
    for path in paths {
        match fs.remove_file(&path) {
            Ok(()) => deleted.push(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => failure = failure.or(Some(StoreError::io(path, error))),
        }
    }
    (deleted, failure)
}
