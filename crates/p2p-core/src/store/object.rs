//! Objects: content that the store keeps in its own directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::adopt::adopt;
use super::fs::{Access, FileHandle, FileKind, FileSystem, Stat};
use super::hash::{Hashed, Meter, cores, hash_file};
use super::record::{ContentRecord, FileStamp, Place, State};
use super::shared::{Shared, now};
use super::space::Need;
use super::{ImportError, Imported, Progress, Store, StoreError, files};
use crate::content::{Attributes, ContentId, Outline};

/// Beginning of the names of objects that are still being written.
const TEMPORARY: &str = ".tmp-";
/// Bytes copied between two looks at whether to go on.
const COPY_STEP: u64 = 64 * 1024 * 1024;

impl Store {
    /// Keeps bytes, such as the listing of a folder, as content of the store's own.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::QuotaFull`], [`StoreError::Sync`], [`StoreError::Io`],
    /// [`StoreError::Index`].
    pub fn put_object(&self, bytes: &[u8]) -> Result<ContentId, StoreError> {
        let (id, outline) = Outline::of(bytes).map_err(StoreError::Outline)?;
        if self.has_object(id)? {
            return Ok(id);
        }
        let size = bytes.len() as u64;
        let _room = self.admit(&self.shared.objects(), Need::of_new(size, 0), &[id])?;
        let temporary = self.temporary();
        let fs = &*self.shared.fs;
        write_file(fs, temporary.path(), bytes)?;
        self.place_object(id, &outline, temporary.path())?;
        Ok(id)
    }

    /// Copies a file into the store, so that it is served whatever happens to the file. Progress counts the bytes
    /// hashed, which follows the copying.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is kept then.
    pub fn copy_in(&self, path: &Path, progress: &Progress<'_>) -> Result<Imported, ImportError> {
        let fs = &*self.shared.fs;
        let path = fs
            .real_path(path)
            .map_err(|error| ImportError::io(path, error))?;
        let (source, before) =
            fs.open(&path, Access::Read)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::InvalidInput => ImportError::NotAFile { path: path.clone() },
                    _ => ImportError::io(&path, error),
                })?;
        let executable = fs.stat(&path).is_ok_and(|stat| stat.executable);
        let _room = self.admit(&self.shared.objects(), Need::of_new(before.size, 0), &[])?;
        let temporary = self.temporary();
        let copied = self.copy_object(&path, &*source, before, temporary.path(), progress)?;
        Ok(Imported {
            attributes: Some(Attributes::new(before.mtime, executable)),
            ..copied
        })
    }

    fn copy_object(
        &self,
        path: &Path,
        source: &dyn FileHandle,
        before: FileStamp,
        temporary: &Path,
        progress: &Progress<'_>,
    ) -> Result<Imported, ImportError> {
        let fs = &*self.shared.fs;
        copy_file(fs, source, temporary, progress)?;
        // A torn copy of a file that was being written to is of no use to anyone.
        if !source.stamp().is_ok_and(|after| after == before) {
            return Err(ImportError::ChangedWhileReading {
                path: path.to_path_buf(),
            });
        }
        let meter = Meter::new(progress, before.size);
        let Hashed { id, outline, stamp } = hash_file(fs, temporary, cores(), &meter)?;
        if !self.has_object(id)? {
            self.place_object(id, &outline, temporary)?;
        }
        Ok(Imported {
            id,
            size: stamp.size,
            attributes: None,
        })
    }

    fn has_object(&self, id: ContentId) -> Result<bool, StoreError> {
        let Some(record) = self.shared.index.content(id)? else {
            return Ok(false);
        };
        let there = record.place == Place::Object
            && self.shared.resolve(id)? == Some(State::Complete)
            && self.shared.fs.exists(&self.shared.object_path(id));
        if there {
            // Whoever wanted it is about to refer to it: it is not to be collected before.
            self.shared.touch(id, &record);
        }
        Ok(there)
    }

    fn temporary(&self) -> Temporary<'_> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.shared.objects().join(format!("{TEMPORARY}{number}"));
        self.shared.temporaries.lock().insert(path.clone());
        Temporary {
            shared: &self.shared,
            path,
        }
    }

    /// Sync, rename, sync of the folders, index: in this order.
    fn place_object(
        &self,
        id: ContentId,
        outline: &Outline,
        temporary: &Path,
    ) -> Result<(), StoreError> {
        let fs = &*self.shared.fs;
        let path = self.shared.object_path(id);
        let folder = files::folder_of(&path);
        let synced = fs.open(temporary, Access::Read);
        let synced = synced.and_then(|(file, _)| file.sync_data());
        synced.map_err(|source| StoreError::Sync {
            path: path.clone(),
            source,
        })?;
        let _placing = self.shared.placing.lock();
        fs.create_private_folders(folder)
            .map_err(|error| StoreError::io(folder, error))?;
        fs.rename(temporary, &path)
            .map_err(|error| StoreError::io(&path, error))?;
        let synced = fs
            .sync_folder(folder)
            .and_then(|()| fs.sync_folder(&self.shared.objects()));
        synced.map_err(|source| StoreError::Sync { path, source })?;
        self.remember_object(id, outline)
    }

    fn remember_object(&self, id: ContentId, outline: &Outline) -> Result<(), StoreError> {
        let mut batch = self.shared.index.write(true)?;
        let (size, state, place) = (outline.geometry().size(), State::Complete, Place::Object);
        let old = batch.content(id)?;
        let added = old.map_or_else(now, |old| old.added);
        batch.put_whole_outline(id, outline)?;
        batch.put_content(
            id,
            &ContentRecord {
                size,
                state,
                place,
                added,
                last_used: now(),
            },
        )?;
        batch.remove_held(id)?;
        Ok(batch.commit()?)
    }

    /// Puts the objects that are there into an index that is new. Damaged ones are set aside.
    pub(super) fn readopt_objects(&self) -> Result<(), StoreError> {
        let fs = &*self.shared.fs;
        for (path, _) in object_files(fs, &self.shared.objects()) {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| name.parse::<ContentId>().ok()) else {
                continue;
            };
            match hash_file(fs, &path, cores(), &Meter::new(&Progress::none(), 0)) {
                Ok(hashed) if hashed.id == id => self.remember_object(id, &hashed.outline)?,
                Ok(_) => {
                    tracing::warn!(%id, "a damaged object is set aside");
                    let _ = fs.rename(&path, &path.with_extension("damaged"));
                }
                Err(error) => tracing::warn!(%id, %error, "an object cannot be read"),
            }
        }
        Ok(())
    }

    /// Puts the files that were fetched into the store's own folder into an index that is new, so that they count, and can
    /// be evicted.
    pub(super) fn readopt_fetched(&self) -> Result<(), StoreError> {
        let fs = &*self.shared.fs;
        for (path, _) in list(fs, &self.shared.fetched) {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| name.parse::<ContentId>().ok()) else {
                continue;
            };
            match hash_file(fs, &path, cores(), &Meter::new(&Progress::none(), 0)) {
                Ok(hashed) if hashed.id == id => {
                    let mut batch = self.shared.index.write(true)?;
                    batch.put_whole_outline(id, &hashed.outline)?;
                    let path = files::to_bytes(&path);
                    adopt(fs, &mut batch, id, &path, hashed.stamp, true)?;
                    batch.commit()?;
                }
                Ok(_) => tracing::warn!(%id, "a file that was fetched is damaged"),
                Err(error) => tracing::warn!(%id, %error, "a file that was fetched cannot be read"),
            }
        }
        Ok(())
    }

    /// Removes what was left half written. Returns how many files and bytes that were.
    pub(super) fn remove_leftovers(&self) -> (u64, u64) {
        let (mut count, mut bytes) = (0_u64, 0_u64);
        for (path, stat) in list(&*self.shared.fs, &self.shared.objects()) {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            if !name.starts_with(TEMPORARY.as_bytes())
                || self.shared.temporaries.lock().contains(&path)
            {
                continue;
            }
            if self.shared.fs.remove(&path).is_ok() {
                count = count.saturating_add(1);
                bytes = bytes.saturating_add(stat.allocated);
            }
        }
        (count, bytes)
    }
}

/// The name of an object that is being written. What is there when it is dropped is removed.
struct Temporary<'a> {
    shared: &'a Shared,
    path: PathBuf,
}

impl Temporary<'_> {
    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Usually it was renamed by now.
        let _ = self.shared.fs.remove(&self.path);
        self.shared.temporaries.lock().remove(&self.path);
    }
}

/// What is in a folder.
pub(super) fn list(fs: &dyn FileSystem, folder: &Path) -> Vec<(PathBuf, Stat)> {
    let entries = fs.list(folder).unwrap_or_default().into_iter();
    entries
        .map(|(name, stat)| (folder.join(name), stat))
        .collect()
}

/// The files in `objects/<hh>/`.
pub(super) fn object_files(fs: &dyn FileSystem, objects: &Path) -> Vec<(PathBuf, Stat)> {
    list(fs, objects)
        .iter()
        .filter(|(_, stat)| stat.kind == FileKind::Folder)
        .flat_map(|(folder, _)| list(fs, folder))
        .collect()
}

fn write_file(fs: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let created = fs.open(path, Access::CreateNew);
    let written = created.and_then(|(file, _)| file.write_at(0, &[bytes]));
    written.map_err(|error| StoreError::io(path, error))
}

/// Copies with whatever the system has for it: shared extents, or copying within the kernel.
fn copy_file(
    fs: &dyn FileSystem,
    source: &dyn FileHandle,
    to: &Path,
    progress: &Progress<'_>,
) -> Result<(), ImportError> {
    let failed = |error| ImportError::Store(StoreError::io(to, error));
    let (target, _) = fs.open(to, Access::CreateNew).map_err(failed)?;
    if target.reflink(source) {
        return Ok(());
    }
    let mut at = 0_u64;
    loop {
        progress.check()?;
        match target.copy_from(source, at, COPY_STEP).map_err(failed)? {
            0 => return Ok(()),
            copied => at = at.saturating_add(copied),
        }
    }
}
