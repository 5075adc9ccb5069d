//! Forgetting content.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::record::{PathRecord, Place};
use super::{Store, StoreError, files};
use crate::content::ContentId;

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
    /// Removes all that is known of a content: where it is, its outline, manifests and shares. A copy in the store's
    /// own directory is deleted. With `delete_files` so are its downloads and its partial file; but never a file that
    /// this node did not write, and never one that was changed since.
    ///
    /// Handles that are still open go on working as long as their file does.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::NoSpace`]: nothing is forgotten then. [`StoreError::Io`] if a file could
    /// not be deleted: all is forgotten, and the file remains.
    pub fn forget(&self, id: ContentId, delete_files: bool) -> Result<Forgotten, StoreError> {
        let record = self.shared.index.content(id)?;
        let copies = self.shared.index.copies(id)?;
        let shares = self.shares_of(id)?;
        let mut batch = self.shared.index.write(true)?;
        batch.remove_content(id)?;
        let mut delete = Vec::new();
        for path in &copies {
            let known = batch.path(path)?.filter(|known| known.id == id);
            batch.remove_path(path)?;
            if delete_files && known.is_some_and(|known| is_untouched_download(path, &known)) {
                delete.push(files::from_bytes(path));
            }
        }
        for (path, _) in &shares {
            batch.remove_share(&files::to_bytes(path))?;
        }
        batch.commit()?;
        {
            let mut open = self.open.lock();
            open.complete.remove(&id);
            if let Some(content) = open.partial(id) {
                content.forgotten.store(true, Ordering::Release);
            }
            open.partial.remove(&id);
        }
        match record.as_ref().map(|record| &record.place) {
            Some(Place::Object) => delete.push(self.shared.object_path(id)),
            Some(Place::Part(path)) if delete_files => delete.push(files::from_bytes(path)),
            _ => {}
        }
        let deleted = delete_all(delete)?;
        Ok(Forgotten {
            known: record.is_some(),
            deleted,
        })
    }
}

fn is_untouched_download(path: &[u8], known: &PathRecord) -> bool {
    known.download && files::stamp(&files::from_bytes(path)).is_ok_and(|stamp| stamp == known.stamp)
}

/// Deletes what is there. The first failure is told, after the others were deleted.
fn delete_all(paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, StoreError> {
    let mut deleted = Vec::new();
    let mut failure = None;
    for path in paths {
        match std::fs::remove_file(&path) {
            Ok(()) => deleted.push(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => failure = failure.or(Some(StoreError::io(path, error))),
        }
    }
    failure.map_or(Ok(deleted), Err)
}
