//! Checkpoints: what was written is made to survive a crash. Files first, then the index.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::begin::partial_record;
use super::content::{Content, Located};
use super::fs::FileHandle;
use super::part::PartRoot;
use super::record::{FileStamp, HeldRecord, State};
use super::{Store, StoreError};
use crate::content::{BlockSet, ChainingValue};

/// Files of a folder up to which each is synced; above, the whole file system is, which then is faster.
const SYNC_EACH: usize = 256;

impl Store {
    /// Makes what was written to these contents so far survive a crash: their files first, then, in one commit, which
    /// blocks they hold and the outlines that came with them. Costs nothing for those that did not change.
    ///
    /// # Errors
    /// [`StoreError::Sync`] if the disk did not take it: that content is written no more, and what the index says
    /// stays as it was; begin it again. The others are saved all the same. [`StoreError::Index`].
    pub fn checkpoint(&self, contents: &[Arc<Content>]) -> Result<(), StoreError> {
        let contents: Vec<&Content> = contents.iter().map(|content| &**content).collect();
        checkpoint(&contents)
    }
}

/// What a content had when its checkpoint began.
struct Snapshot<'a> {
    content: &'a Content,
    blocks: BlockSet,
    outline: Vec<(u32, Vec<ChainingValue>)>,
}

/// Syncs the files, then commits. The first failure is returned, after everything else was done.
fn checkpoint(contents: &[&Content]) -> Result<(), StoreError> {
    let mut failure = None;
    let mut folders: BTreeMap<Option<PathBuf>, Vec<Snapshot<'_>>> = BTreeMap::new();
    for content in contents {
        match content.snapshot() {
            Ok(Some(snapshot)) => {
                let root = content.root().map(|root| root.path().to_path_buf());
                folders.entry(root).or_default().push(snapshot);
            }
            Ok(None) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let mut saved = Vec::new();
    for snapshots in folders.into_values() {
        let all: Vec<&Content> = snapshots.iter().map(|snapshot| snapshot.content).collect();
        let root = all.first().and_then(|content| content.root());
        let together = match root.map(|root| sync_together(&root, &all)) {
            Some(Ok(together)) => together,
            Some(Err(error)) => {
                failure = failure.or(Some(error));
                continue;
            }
            None => false,
        };
        let named = if together {
            all.iter().for_each(|content| content.set_named());
            Ok(())
        } else {
            sync_names(&all)
        };
        if let Err(error) = named {
            all.iter()
                .for_each(|content| content.dirty.store(true, Ordering::Release));
            failure = failure.or(Some(error));
            continue;
        }
        for snapshot in snapshots {
            let content = snapshot.content;
            let synced = if together {
                content.stamp_of_part()
            } else {
                content.sync_part()
            };
            match synced {
                Ok(stamp) => saved.push((snapshot, stamp)),
                Err(error) => {
                    content.dirty.store(true, Ordering::Release);
                    failure = failure.or(Some(error));
                }
            }
        }
    }
    save(&saved)?;
    failure.map_or(Ok(()), Err)
}

/// Has the disk confirm the names of partial files of which that is not known: each folder once.
fn sync_names(contents: &[&Content]) -> Result<(), StoreError> {
    let mut folders = BTreeSet::new();
    for content in contents {
        if let Located::Part { part, .. } = &*content.located.lock()
            && !content.named.load(Ordering::Acquire)
        {
            folders.extend(part.folders());
        }
    }
    let Some(first) = contents.first() else {
        return Ok(());
    };
    for path in folders {
        let synced = first.shared.fs.sync_folder(&path);
        synced.map_err(|source| StoreError::Sync { path, source })?;
    }
    contents.iter().for_each(|content| content.set_named());
    Ok(())
}

/// Has the index say what is in files that are synced, in one commit.
fn save(saved: &[(Snapshot<'_>, FileStamp)]) -> Result<(), StoreError> {
    let Some((first, _)) = saved.first() else {
        return Ok(());
    };
    let shared = &first.content.shared;
    let committed = (|| {
        let mut batch = shared.index.write(true)?;
        for (snapshot, stamp) in saved {
            let content = snapshot.content;
            let wanted = match batch.content(content.id)? {
                Some(record) => record.state == State::Partial,
                // That it began was not synced, and was lost when the index was opened again.
                None if !content.forgotten.load(Ordering::Acquire) => {
                    let record = partial_record(content.geometry, &content.path(), None);
                    batch.put_content(content.id, &record)?;
                    true
                }
                None => false,
            };
            // Forgotten or finished meanwhile: nothing to add to.
            if wanted {
                let held = HeldRecord {
                    stamp: *stamp,
                    blocks: snapshot.blocks.clone(),
                };
                batch.put_held(content.id, &held)?;
                batch.put_outline(content.id, &snapshot.outline)?;
            }
        }
        batch.commit()
    })();
    for (snapshot, _) in saved {
        match &committed {
            Ok(()) => snapshot.content.set_outline_saved(&snapshot.outline),
            Err(_) => snapshot.content.dirty.store(true, Ordering::Release),
        }
    }
    Ok(committed?)
}

/// Has the disk confirm the files of a folder, and their names, with one call for them all. False where there is no
/// such call, or few files: each is to be synced then.
pub(super) fn sync_together(root: &PartRoot, all: &[&Content]) -> Result<bool, StoreError> {
    if all.len() <= SYNC_EACH {
        return Ok(false);
    }
    root.sync_everything().map_err(|source| {
        // Which of them the disk did not take is not told.
        for content in all {
            content.distrust_writes();
        }
        StoreError::Sync {
            path: root.path().to_path_buf(),
            source,
        }
    })
}

impl Content {
    /// [`Store::checkpoint`] of this content alone.
    ///
    /// # Errors
    /// As there.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        checkpoint(&[self])
    }

    /// What is to be saved. `None` if nothing changed since last time.
    fn snapshot(&self) -> Result<Option<Snapshot<'_>>, StoreError> {
        if let Some(error) = self.unsynced() {
            return Err(error);
        }
        if !matches!(&*self.located.lock(), Located::Part { .. })
            || !self.dirty.swap(false, Ordering::AcqRel)
        {
            return Ok(None);
        }
        // Before the sync: blocks written during it are left to the next.
        Ok(Some(Snapshot {
            content: self,
            blocks: self.held(),
            outline: self.unsaved_outline(),
        }))
    }

    /// The folder of a collection that its partial file is in.
    fn root(&self) -> Option<PartRoot> {
        match &*self.located.lock() {
            Located::Part { part, .. } => part.root().cloned(),
            _ => None,
        }
    }

    /// Syncs the partial file, and says what its stamp is then.
    fn sync_part(&self) -> Result<FileStamp, StoreError> {
        let file = self.part_file()?;
        self.sync(&*file)?;
        file.stamp().map_err(|error| self.failed(error))
    }

    /// The stamp of the partial file, if it is the one that was written to.
    fn stamp_of_part(&self) -> Result<FileStamp, StoreError> {
        let path = self.path();
        let stamp = self.shared.fs.stamp(&path);
        let stamp = stamp.map_err(|error| self.failed(error))?;
        match &*self.located.lock() {
            Located::Part {
                stamp: Some(known), ..
            } if stamp.same_file(known) => Ok(stamp),
            _ => Err(StoreError::NotAPart(path)),
        }
    }

    fn set_named(&self) {
        self.named.store(true, Ordering::Release);
    }

    /// Syncs, or gives the content up: what the system's memory holds of it is no proof of what the disk does.
    fn sync(&self, file: &dyn FileHandle) -> Result<(), StoreError> {
        self.confirmed(file, file.sync_data())
    }

    /// The same, so that the file still has its times after a crash: by them it is known to be untouched.
    pub(super) fn sync_with_times(&self, file: &dyn FileHandle) -> Result<(), StoreError> {
        self.confirmed(file, file.sync_all())
    }

    fn confirmed(&self, file: &dyn FileHandle, synced: io::Result<()>) -> Result<(), StoreError> {
        synced.map_err(|source| {
            self.set_unsynced();
            file.drop_from_memory();
            StoreError::Sync {
                path: self.path(),
                source,
            }
        })
    }

    /// Gives the content up after a sync of many files that failed.
    fn distrust_writes(&self) {
        if let Ok(file) = self.part_file() {
            file.drop_from_memory();
        }
        self.set_unsynced();
    }

    pub(super) fn unsynced(&self) -> Option<StoreError> {
        let source = || io::Error::other("an earlier write was lost");
        self.is_unsynced().then(|| StoreError::Sync {
            path: self.path(),
            source: source(),
        })
    }
}
