//! Sharing in place: files are hashed where they are and only remembered.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::batch::Batch;
use super::hash::{Hashed, Meter, cores, hash_file, on_cores};
use super::record::{ContentRecord, FileStamp, PathRecord, Place, State};
use super::shared::{Guarded, now};
use super::{ImportError, IndexError, Progress, Store, files};
use crate::content::{ContentId, check_component};

/// Files up to this size are hashed one per thread, larger ones by all threads one after the other.
const SMALL_FILE: u64 = 4 * 1024 * 1024;
/// Files of a folder that are put into the index in one commit.
const COMMIT_FILES: usize = 10_000;
/// Bytes of large files after which there is a commit (64 MiB of outlines).
const COMMIT_BYTES: u64 = 512 * 1024 * 1024 * 1024;
/// End of the names of partial files, which are left out of folders.
const PART_SUFFIX: &str = ".part";

/// A file that is now in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: ContentId,
    /// Its size in bytes.
    pub size: u64,
}

/// A folder whose files are now in the store.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The files: the path in the folder (`/` between components) and what it is. Sorted by the bytes of the path.
    pub entries: Vec<(String, Imported)>,
    /// What was left out, and why.
    pub skipped: Vec<(PathBuf, Skipped)>,
}

/// Why something in a folder is not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skipped {
    /// A symbolic link.
    Link,
    /// A pipe, socket or device.
    Special,
    /// A partial file or folder.
    Partial,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Link => "a symbolic link",
            Self::Special => "not a plain file",
            Self::Partial => "a partial file",
        })
    }
}

/// What was left out of a folder, and why.
type Leftovers = Vec<(PathBuf, Skipped)>;

/// A file found in a folder.
struct Found {
    relative: String,
    path: PathBuf,
    size: u64,
}

impl Store {
    /// Hashes a file where it is, by all cores, and remembers it. A file that was not touched since it was last
    /// imported is not read. A link is followed.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is remembered then.
    pub fn import_file(
        &self,
        path: &Path,
        progress: &Progress<'_>,
    ) -> Result<Imported, ImportError> {
        let path = path
            .canonicalize()
            .map_err(|error| ImportError::io(path, error))?;
        let metadata =
            std::fs::symlink_metadata(&path).map_err(|error| ImportError::io(&path, error))?;
        if !metadata.is_file() {
            return Err(ImportError::NotAFile { path });
        }
        if let Some(known) = self.known(&path, FileStamp::of(&metadata))? {
            return Ok(known);
        }
        progress.check()?;
        let hashed = hash_file(&path, cores(), &Meter::new(progress, metadata.len()))?;
        let imported = Imported {
            id: hashed.id,
            size: hashed.stamp.size,
        };
        self.remember(&[(path, hashed)])?;
        Ok(imported)
    }

    /// Imports every file of a folder, like [`Store::import_file`]. Links in it are not followed; they, special files
    /// and partial files are left out and listed. The index is written once for up to 10,000 files.
    ///
    /// # Errors
    /// [`ImportError`]: the first file that cannot be read, or has a name that cannot be shared, ends it. What was
    /// hashed before may be remembered, so that doing it again is quick.
    pub fn import_tree(&self, root: &Path, progress: &Progress<'_>) -> Result<Tree, ImportError> {
        let root = root
            .canonicalize()
            .map_err(|error| ImportError::io(root, error))?;
        if !root.is_dir() {
            return Err(ImportError::NotAFolder { path: root });
        }
        let (found, skipped) = walk(&root, progress)?;
        let mut entries = Vec::with_capacity(found.len());
        let mut unknown = Vec::new();
        for file in found {
            progress.check()?;
            let stamp =
                files::stamp(&file.path).map_err(|error| ImportError::io(&file.path, error))?;
            match self.known(&file.path, stamp)? {
                Some(known) => entries.push((file.relative, known)),
                None => unknown.push(file),
            }
        }
        let total = unknown
            .iter()
            .map(|file| file.size)
            .fold(0, u64::saturating_add);
        let meter = Meter::new(progress, total);
        let (small, large): (Vec<Found>, Vec<Found>) = unknown
            .into_iter()
            .partition(|file| file.size <= SMALL_FILE);
        self.import_small(small, &meter, &mut entries)?;
        self.import_large(large, &meter, &mut entries)?;
        entries.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
        Ok(Tree { entries, skipped })
    }

    /// One file per thread.
    fn import_small(
        &self,
        mut files: Vec<Found>,
        meter: &Meter<'_>,
        entries: &mut Vec<(String, Imported)>,
    ) -> Result<(), ImportError> {
        while !files.is_empty() {
            let some = files.split_off(files.len().saturating_sub(COMMIT_FILES));
            let count = some.len();
            let queue = Guarded::new(some.into_iter());
            let done = Guarded::new(Vec::with_capacity(count));
            let failure = Guarded::new(None);
            let stop = AtomicBool::new(false);
            on_cores(cores().min(count), || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(file) = queue.lock().next() else {
                        return;
                    };
                    match meter.check().and_then(|()| hash_file(&file.path, 1, meter)) {
                        Ok(hashed) => done.lock().push((file, hashed)),
                        Err(error) => {
                            stop.store(true, Ordering::Relaxed);
                            *failure.lock() = Some(error);
                        }
                    }
                }
            });
            if let Some(error) = failure.lock().take() {
                return Err(error);
            }
            let done = std::mem::take(&mut *done.lock());
            self.remember_all(done, entries)?;
        }
        Ok(())
    }

    /// All threads on one file.
    fn import_large(
        &self,
        files: Vec<Found>,
        meter: &Meter<'_>,
        entries: &mut Vec<(String, Imported)>,
    ) -> Result<(), ImportError> {
        let mut done = Vec::new();
        let mut bytes = 0_u64;
        for file in files {
            let hashed = hash_file(&file.path, cores(), meter)?;
            bytes = bytes.saturating_add(file.size);
            done.push((file, hashed));
            if bytes >= COMMIT_BYTES || done.len() >= COMMIT_FILES {
                self.remember_all(std::mem::take(&mut done), entries)?;
                bytes = 0;
            }
        }
        self.remember_all(done, entries)
    }

    fn remember_all(
        &self,
        files: Vec<(Found, Hashed)>,
        entries: &mut Vec<(String, Imported)>,
    ) -> Result<(), ImportError> {
        if files.is_empty() {
            return Ok(());
        }
        let mut hashed = Vec::with_capacity(files.len());
        for (file, found) in files {
            entries.push((
                file.relative,
                Imported {
                    id: found.id,
                    size: found.stamp.size,
                },
            ));
            hashed.push((file.path, found));
        }
        self.remember(&hashed)
    }

    /// What an untouched file was when it was last imported, if it can still be relied on.
    fn known(&self, path: &Path, stamp: FileStamp) -> Result<Option<Imported>, IndexError> {
        let Some(known) = self.shared.index.path(&files::to_bytes(path))? else {
            return Ok(None);
        };
        if known.stamp != stamp {
            return Ok(None);
        }
        let complete = self
            .shared
            .index
            .content(known.id)?
            .is_some_and(|record| record.state == State::Complete);
        Ok(complete.then_some(Imported {
            id: known.id,
            size: stamp.size,
        }))
    }

    /// Puts hashed files into the index in one commit.
    fn remember(&self, files: &[(PathBuf, Hashed)]) -> Result<(), ImportError> {
        let mut displaced = Vec::new();
        let mut batch = self.shared.index.write(true)?;
        for (path, hashed) in files {
            batch.put_whole_outline(hashed.id, &hashed.outline)?;
            displaced.extend(adopt(
                &mut batch,
                hashed.id,
                &files::to_bytes(path),
                hashed.stamp,
                false,
            )?);
        }
        batch.commit()?;
        for id in displaced {
            self.shared.resolve(id)?;
        }
        Ok(())
    }
}

/// Has the index say that the file at `path` is this content. Returns the content that was there before, if that is
/// nowhere else as far as is known yet: [`resolve`](super::shared::Shared::resolve) it after the commit.
pub(super) fn adopt(
    batch: &mut Batch<'_>,
    id: ContentId,
    path: &[u8],
    stamp: FileStamp,
    download: bool,
) -> Result<Option<ContentId>, IndexError> {
    let place = Place::File(path.to_vec());
    let old = batch.path(path)?;
    let mut displaced = None;
    if let Some(old) = old.filter(|old| old.id != id)
        && let Some(record) = batch
            .content(old.id)?
            .filter(|record| record.place == place)
    {
        batch.put_content(
            old.id,
            &ContentRecord {
                state: State::Changed,
                ..record
            },
        )?;
        displaced = Some(old.id);
    }
    let download = download || old.is_some_and(|old| old.id == id && old.download);
    batch.put_path(
        path,
        &PathRecord {
            id,
            stamp,
            download,
        },
    )?;
    let record = match batch.content(id)? {
        Some(record) if record.state == State::Complete && stands(batch, id, &record.place)? => {
            record
        }
        Some(record) => ContentRecord {
            size: stamp.size,
            state: State::Complete,
            place,
            ..record
        },
        None => ContentRecord {
            size: stamp.size,
            state: State::Complete,
            place,
            added: now(),
            last_used: now(),
        },
    };
    batch.put_content(id, &record)?;
    batch.remove_held(id)?;
    Ok(displaced)
}

/// Whether the place in use needs no replacement.
fn stands(batch: &Batch<'_>, id: ContentId, place: &Place) -> Result<bool, IndexError> {
    let Place::File(path) = place else {
        return Ok(matches!(place, Place::Object));
    };
    let known = batch.path(path)?.filter(|known| known.id == id);
    Ok(known.is_some_and(|known| {
        files::stamp(&files::from_bytes(path)).is_ok_and(|now| now == known.stamp)
    }))
}

/// All plain files below a folder, and what is left out.
fn walk(root: &Path, progress: &Progress<'_>) -> Result<(Vec<Found>, Leftovers), ImportError> {
    let mut found = Vec::new();
    let mut skipped = Vec::new();
    let mut folders = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        progress.check()?;
        let failed = |error| ImportError::io(&folder, error);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let metadata = entry
                .metadata()
                .map_err(|error| ImportError::io(&path, error))?;
            let kind = metadata.file_type();
            if !kind.is_file() && !kind.is_dir() {
                skipped.push((
                    path,
                    if kind.is_symlink() {
                        Skipped::Link
                    } else {
                        Skipped::Special
                    },
                ));
                continue;
            }
            let Ok(name) = entry.file_name().into_string() else {
                return Err(ImportError::NameNotUtf8 { path });
            };
            if name.ends_with(PART_SUFFIX) {
                skipped.push((path, Skipped::Partial));
                continue;
            }
            check_component(&name).map_err(|source| ImportError::NameRefused {
                path: path.clone(),
                source,
            })?;
            let relative = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            if kind.is_dir() {
                folders.push((path, relative));
            } else {
                found.push(Found {
                    relative,
                    path,
                    size: metadata.len(),
                });
            }
        }
    }
    Ok((found, skipped))
}
