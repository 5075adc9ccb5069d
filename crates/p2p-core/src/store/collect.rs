//! Collecting what nothing refers to.
//!
//! A file of the user is never deleted here, and nothing that came or was used within the time of grace: whoever brought
//! it may be about to refer to it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::batch::Stray;
use super::fs::{FileKind, FileSystem, Stat};
use super::object::{list, object_files};
use super::pins::Kept;
use super::record::{ContentRecord, FileStamp, Place};
use super::shared::now;
use super::stat::Amount;
use super::{Evicted, Store, StoreError, files};
use crate::content::ContentId;

/// What was removed because nothing refers to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Files that were left half written, and files in the store's own folders that the index does not know.
    pub leftovers: Amount,
    /// Objects that nothing refers to, such as listings of folders that are no longer shared.
    pub objects: Amount,
    /// Contents that were forgotten because their file is gone, at the size they counted or would have.
    pub gone: Amount,
    /// Records of outlines, held blocks, manifests and pins without content.
    pub records: u64,
    /// What was evicted, because that was asked for.
    pub evicted: Amount,
    /// Bytes by which the index became smaller.
    pub index: u64,
    /// What is here no longer.
    pub ids: Vec<ContentId>,
}

impl Collected {
    /// Bytes of the disk that are free now.
    pub fn freed(&self) -> u64 {
        [self.leftovers, self.objects, self.evicted]
            .iter()
            .fold(self.index, |sum, amount| sum.saturating_add(amount.bytes))
    }
}

impl Store {
    /// Removes what nothing refers to and is older than `grace`; with `all` also everything that may be evicted.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::Io`]; what was removed before stays removed.
    pub fn collect(&self, grace: Duration, all: bool) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        if all {
            for Evicted { id, bytes } in self.evict_all()? {
                collected.evicted.add(bytes);
                collected.ids.push(id);
            }
        }
        let (count, bytes) = self.remove_leftovers();
        collected.leftovers = Amount { count, bytes };
        let before = now().saturating_sub(grace.as_secs());
        let kept = self.kept()?;
        self.shared.index.each_content(|id, record| {
            if kept.keeps(id) || record.added.max(record.last_used) > before {
                return Ok(());
            }
            self.collect_content(id, &record, &kept, &mut collected)
        })?;
        self.remove_stray_objects(&mut collected)?;
        self.remove_stray_files(grace, &mut collected)?;
        let index = self.usage().index;
        collected.records = self.remove_stray_records()?;
        self.shared.index.compact()?;
        collected.index = index.saturating_sub(self.usage().index);
        Ok(collected)
    }

    fn collect_content(
        &self,
        id: ContentId,
        record: &ContentRecord,
        kept: &Kept,
        collected: &mut Collected,
    ) -> Result<(), StoreError> {
        // A fetch of it may have begun since; none begins now.
        let _turn = self.shared.turn();
        if self.is_open(id) {
            return Ok(());
        }
        match &record.place {
            Place::Object => {
                if !self.shared.index.copies(id)?.is_empty() {
                    return Ok(());
                }
                let object = self.shared.object_path(id);
                let there = self.shared.fs.allocated(&object).unwrap_or(0);
                self.forget(id, false)?;
                collected.objects.add(there);
            }
            Place::Part(path) => {
                let path = files::from_bytes(path);
                if !self.is_gone(&path) {
                    return Ok(());
                }
                self.forget(id, false)?;
                collected.gone.add(record.size);
            }
            Place::File(path) => {
                let path = files::from_bytes(path);
                if kept.is_shared(&path) || !self.is_nowhere(id, &path)? {
                    return Ok(());
                }
                self.forget(id, false)?;
                collected.gone.add(record.size);
            }
        }
        collected.ids.push(id);
        Ok(())
    }

    /// Whether there is no file at a path, though there is its folder: a disk that is not mounted has lost nothing.
    fn is_gone(&self, path: &Path) -> bool {
        let fs = &*self.shared.fs;
        fs.allocated(path).is_none()
            && fs
                .stat(files::folder_of(path))
                .is_ok_and(|of| of.kind == FileKind::Folder)
    }

    /// Whether all files of a content are gone, and not only their disk.
    fn is_nowhere(&self, id: ContentId, place: &Path) -> Result<bool, StoreError> {
        let copies = self.shared.index.copies(id)?;
        let mut paths = copies.iter().map(|path| files::from_bytes(path));
        Ok(self.is_gone(place) && paths.all(|path| self.is_gone(&path)))
    }

    /// Removes objects that the index does not know, as a crash leaves them.
    fn remove_stray_objects(&self, collected: &mut Collected) -> Result<(), StoreError> {
        let fs = &*self.shared.fs;
        for (path, stat) in object_files(fs, &self.shared.objects()) {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| name.parse::<ContentId>().ok()) else {
                continue;
            };
            // Between its rename and its commit an object is not known either.
            let _placing = self.shared.placing.lock();
            if self.shared.index.content(id)?.is_some() {
                continue;
            }
            fs.remove(&path)
                .map_err(|error| StoreError::io(&path, error))?;
            collected.leftovers.add(stat.allocated);
        }
        Ok(())
    }

    /// Removes files from the store's own folder that the index does not know.
    fn remove_stray_files(
        &self,
        grace: Duration,
        collected: &mut Collected,
    ) -> Result<(), StoreError> {
        let fs = &*self.shared.fs;
        let root = &self.shared.fetched;
        let mut found = Vec::new();
        files_below(fs, root, &mut found);
        found.retain(|(_, stat)| is_older(&stat.stamp, grace));
        if found.is_empty() {
            return Ok(());
        }
        // A partial file is made, and known, with this lock held.
        let open = self.open.lock();
        let mut parts: HashSet<PathBuf> = HashSet::new();
        self.shared.index.each_content(|_, record| {
            if let Place::Part(path) = record.place {
                parts.insert(files::from_bytes(&path));
            }
            Ok::<_, StoreError>(())
        })?;
        for (path, stat) in found {
            if parts.contains(&path) || self.shared.index.path(&files::to_bytes(&path))?.is_some() {
                continue;
            }
            fs.remove(&path)
                .map_err(|error| StoreError::io(&path, error))?;
            fs.remove_empty_above(&path, root);
            collected.leftovers.add(stat.allocated);
        }
        drop(open);
        Ok(())
    }

    fn remove_stray_records(&self) -> Result<u64, StoreError> {
        let mut batch = self.shared.index.write(true)?;
        let mut removed = 0_u64;
        for table in [Stray::Outlines, Stray::Held, Stray::Manifests, Stray::Pins] {
            removed = removed.saturating_add(batch.remove_strays(table)?);
        }
        batch.commit()?;
        Ok(removed)
    }
}

/// Whether a file was changed last before so long a time.
fn is_older(stamp: &FileStamp, than: Duration) -> bool {
    let modified = u64::try_from(stamp.mtime).unwrap_or(0);
    let modified = UNIX_EPOCH.checked_add(Duration::from_secs(modified));
    let age = modified.and_then(|then| SystemTime::now().duration_since(then).ok());
    age.is_some_and(|age| age >= than)
}

/// All plain files below a folder, without following links.
fn files_below(fs: &dyn FileSystem, folder: &Path, found: &mut Vec<(PathBuf, Stat)>) {
    for (path, stat) in list(fs, folder) {
        match stat.kind {
            FileKind::Folder => files_below(fs, &path, found),
            FileKind::File => found.push((path, stat)),
            FileKind::Link | FileKind::Special => {}
        }
    }
}
