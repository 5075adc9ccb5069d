//! Objects: content that the store keeps in its own directory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::hash::{Hashed, Meter, cores, hash_file};
use super::record::{ContentRecord, FileStamp, Place, State};
use super::shared::now;
use super::{ImportError, Imported, Progress, Store, StoreError, files};
use crate::content::{ContentId, Outline};

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
        self.shared
            .check_room(&self.shared.objects(), size, 0, size)?;
        let temporary = self.temporary();
        let written = write_file(&temporary, bytes)
            .and_then(|()| self.place_object(id, &outline, &temporary));
        written.inspect_err(|_| _ = std::fs::remove_file(&temporary))?;
        Ok(id)
    }

    /// Copies a file into the store, so that it is served whatever happens to the file. Progress counts the bytes
    /// hashed, which follows the copying.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is kept then.
    pub fn copy_in(&self, path: &Path, progress: &Progress<'_>) -> Result<Imported, ImportError> {
        let path = path
            .canonicalize()
            .map_err(|error| ImportError::io(path, error))?;
        let source = files::open_plain(&path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => ImportError::NotAFile { path: path.clone() },
            _ => ImportError::io(&path, error),
        })?;
        let before = FileStamp::of(
            &source
                .metadata()
                .map_err(|error| ImportError::io(&path, error))?,
        );
        self.shared
            .check_room(&self.shared.objects(), before.size, 0, before.size)?;
        let temporary = self.temporary();
        let copied = self.copy_object(&path, &source, before, &temporary, progress);
        copied.inspect_err(|_| _ = std::fs::remove_file(&temporary))
    }

    fn copy_object(
        &self,
        path: &Path,
        source: &File,
        before: FileStamp,
        temporary: &Path,
        progress: &Progress<'_>,
    ) -> Result<Imported, ImportError> {
        copy_file(source, temporary, progress)?;
        // A torn copy of a file that was being written to is of no use to anyone.
        if !source
            .metadata()
            .is_ok_and(|after| FileStamp::of(&after) == before)
        {
            return Err(ImportError::ChangedWhileReading {
                path: path.to_path_buf(),
            });
        }
        let meter = Meter::new(progress, before.size);
        let Hashed { id, outline, stamp } = hash_file(temporary, cores(), &meter)?;
        if self.has_object(id)? {
            let _ = std::fs::remove_file(temporary);
        } else {
            self.place_object(id, &outline, temporary)?;
        }
        Ok(Imported {
            id,
            size: stamp.size,
        })
    }

    fn has_object(&self, id: ContentId) -> Result<bool, StoreError> {
        let record = self.shared.index.content(id)?;
        let is_object = record.is_some_and(|record| record.place == Place::Object);
        Ok(is_object
            && self.shared.resolve(id)? == Some(State::Complete)
            && self.shared.object_path(id).exists())
    }

    fn temporary(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.shared.objects().join(format!(
            "{TEMPORARY}{}",
            NEXT.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// Sync, rename, sync of the folders, index: in this order.
    fn place_object(
        &self,
        id: ContentId,
        outline: &Outline,
        temporary: &Path,
    ) -> Result<(), StoreError> {
        let path = self.shared.object_path(id);
        let folder = files::folder_of(&path);
        let synced = File::open(temporary).and_then(|file| files::sync_data(&file));
        synced.map_err(|source| StoreError::Sync {
            path: path.clone(),
            source,
        })?;
        std::fs::create_dir_all(folder).map_err(|error| StoreError::io(folder, error))?;
        std::fs::rename(temporary, &path).map_err(|error| StoreError::io(&path, error))?;
        let synced =
            files::sync_folder(folder).and_then(|()| files::sync_folder(&self.shared.objects()));
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
        for path in object_files(&self.shared.objects()) {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| name.parse::<ContentId>().ok()) else {
                continue;
            };
            match hash_file(&path, cores(), &Meter::new(&Progress::none(), 0)) {
                Ok(hashed) if hashed.id == id => self.remember_object(id, &hashed.outline)?,
                Ok(_) => {
                    tracing::warn!(%id, "a damaged object is set aside");
                    let _ = std::fs::rename(&path, path.with_extension("damaged"));
                }
                Err(error) => tracing::warn!(%id, %error, "an object cannot be read"),
            }
        }
        Ok(())
    }

    /// Removes what an earlier run left half written.
    pub(super) fn remove_leftovers(&self) {
        let Ok(entries) = std::fs::read_dir(self.shared.objects()) else {
            return;
        };
        for entry in entries.flatten() {
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(TEMPORARY.as_bytes())
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn object_files(objects: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    list(objects)
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| list(&folder).collect::<Vec<_>>())
        .collect()
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let written = File::create_new(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| StoreError::io(path, error))
}

/// Copies with whatever the system has for it: shared extents, or copying within the kernel.
fn copy_file(source: &File, to: &Path, progress: &Progress<'_>) -> Result<(), ImportError> {
    let failed = |error| ImportError::Store(StoreError::io(to, error));
    let mut target = File::create_new(to).map_err(failed)?;
    if files::reflink(source, &target) {
        return Ok(());
    }
    loop {
        progress.check()?;
        if io::copy(&mut source.take(COPY_STEP), &mut target).map_err(failed)? == 0 {
            return Ok(());
        }
    }
}
