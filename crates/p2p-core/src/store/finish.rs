//! The end of a fetch: partial files become what the user asked for.
//!
//! The order is: sync of the files, index, rename, sync of the folder. The index comes before the rename because that
//! is the order that mends itself: when the rename did not happen, the partial file is still where the next fetch looks
//! for it, and all its blocks are found; after the reverse, the file would be there and nobody would know.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use super::content::{Content, Located};
use super::import::adopt;
use super::part::{PartFile, PartRoot};
use super::record::{ContentRecord, FileStamp, PathRecord};
use super::{IndexError, ReadError, Store, StoreError, files, hash};
use crate::content::{BlockIndex, ContentId};

/// Files of a folder up to which each is synced; above, the whole file system is, which then is faster.
const SYNC_EACH: usize = 256;
/// Names tried by [`Existing::Rename`].
const RENAMES: u32 = 10_000;

/// What to do when there is something at the target already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Fail with [`StoreError::TargetExists`].
    #[default]
    Refuse,
    /// Replace the file. Of a folder, replace the files that are in both, and leave the others.
    Overwrite,
    /// Take the next free name: `name (1).ext`, `name (2).ext`, …
    Rename,
}

/// A complete partial file on its way to its target.
struct Ready {
    content: Arc<Content>,
    part: PartFile,
    /// Its path below the target folder; empty for a single file.
    relative: PathBuf,
    stamp: FileStamp,
}

/// What the index said before, to say it again if the rename fails.
struct Before {
    id: ContentId,
    record: Option<ContentRecord>,
    path: Vec<u8>,
    known: Option<PathRecord>,
}

impl Store {
    /// Makes a complete partial file the file at `target`, in the index too. `part` is the file of `content`, or a
    /// copy of it by [`Store::copy_out`]. The folder of the target must be there, on the same file system. Returns
    /// where the file is.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`]; [`StoreError::TargetExists`]; [`StoreError::Sync`], after which the content is to
    /// be begun again; [`StoreError::NotAPart`], [`StoreError::Io`], [`StoreError::Index`]. Whatever fails, the
    /// partial file stays and can be finished again.
    pub fn finish(
        &self,
        content: &Arc<Content>,
        part: &PartFile,
        target: &Path,
        existing: Existing,
    ) -> Result<PathBuf, StoreError> {
        let (ready, file) = ready(content, part.clone(), PathBuf::new())?;
        content.sync(&file)?;
        let ready = [ready];
        into_place(target, existing, |target, replace| {
            let before = self.record(&ready, target)?;
            let renamed = self.rename_recorded(&ready, &part.path(), target, replace);
            renamed.inspect_err(|_| self.record_again(&ready, before))
        })
    }

    /// Makes the folder of complete partial files the folder at `target`, with one rename and one commit. `entries`
    /// are all its files: the path in the folder (`/` between components) and the content. The same content may be at
    /// several paths; [`Store::copy_out`] made the others. Returns where the folder is.
    ///
    /// # Errors
    /// As [`Store::finish`]. Overwriting a folder is not one step: when it fails, some files are in place and the
    /// others still in the partial folder, from which the same call goes on.
    pub fn finish_tree(
        &self,
        part: &PartRoot,
        target: &Path,
        entries: &[(String, Arc<Content>)],
        existing: Existing,
    ) -> Result<PathBuf, StoreError> {
        let mut all = Vec::with_capacity(entries.len());
        for (relative, content) in entries {
            all.push(ready(content, part.entry(relative), PathBuf::from(relative))?.0);
        }
        sync_tree(part, &all)?;
        into_place(target, existing, |target, replace| {
            if replace && target.is_dir() {
                return self.merge_into(part, &all, target);
            }
            let before = self.record(&all, target)?;
            let renamed = self.rename_recorded(&all, part.path(), target, false);
            renamed.inspect_err(|_| self.record_again(&all, before))
        })
    }

    /// Writes a content that is complete in the store (or in another partial file) to a partial file, to be finished
    /// from there. Shares the bytes on the disk where the file system can; every block is verified either way.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`], [`StoreError::NoSpace`], [`StoreError::QuotaFull`], [`StoreError::NotAPart`],
    /// [`StoreError::Read`] if the source is not what it was, [`StoreError::Io`].
    pub fn copy_out(&self, content: &Content, to: &PartFile) -> Result<(), StoreError> {
        check_complete(content)?;
        let size = content.geometry.size();
        self.shared.check_room(&to.folder(), size, 0, size)?;
        let path = to.path();
        let failed = |error| StoreError::io(&path, error);
        let source = content.file()?;
        let target = to.open(true).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => StoreError::NotAPart(path.clone()),
            _ => failed(error),
        })?;
        let this = FileStamp::of(&target.metadata().map_err(failed)?);
        if this.same_file(&FileStamp::of(&source.metadata().map_err(failed)?)) {
            return Ok(());
        }
        if size > 0 && files::reflink(&source, &target) {
            return content
                .geometry
                .indices()
                .try_for_each(|block| verify_copy(content, &target, block));
        }
        for block in content.geometry.indices() {
            let bytes = content.read_verified(block)?;
            files::write_at(&target, content.geometry.offset_of(block), &[bytes.bytes()])
                .map_err(failed)?;
        }
        target.set_len(size).map_err(failed)
    }

    /// Has the index say that the files are at the target, in one commit.
    fn record(&self, all: &[Ready], target: &Path) -> Result<Vec<Before>, StoreError> {
        let mut before = Vec::with_capacity(all.len());
        let mut displaced = Vec::new();
        let mut batch = self.shared.index.write(true)?;
        for ready in all {
            let id = ready.content.id;
            let path = files::to_bytes(&below(target, &ready.relative));
            before.push(Before {
                id,
                record: batch.content(id)?,
                known: batch.path(&path)?,
                path: path.clone(),
            });
            let unsaved = ready.content.unsaved_outline();
            batch.put_outline(id, &unsaved)?;
            displaced.extend(adopt(&mut batch, id, &path, ready.stamp, true)?);
        }
        batch.commit()?;
        for id in displaced {
            self.shared.resolve(id)?;
        }
        Ok(before)
    }

    /// Takes [`Store::record`] back, the last first, because the rename failed. If this fails too, the index says
    /// that files are missing, which they are.
    fn record_again(&self, all: &[Ready], before: Vec<Before>) {
        let undone = (|| {
            let mut batch = self.shared.index.write(true)?;
            for before in before.iter().rev() {
                match &before.known {
                    Some(known) => batch.put_path(&before.path, known)?,
                    None => batch.remove_path(&before.path)?,
                }
                if let Some(record) = &before.record {
                    batch.put_content(before.id, record)?;
                }
            }
            batch.commit()
        })();
        for ready in all {
            ready.content.dirty.store(true, Ordering::Release);
        }
        if let Err(error) = undone {
            let error: IndexError = error;
            tracing::warn!(%error, "a failed rename could not be taken back in the index");
        }
    }

    /// Renames the partial file or folder, and has the handles know.
    fn rename_recorded(
        &self,
        all: &[Ready],
        from: &Path,
        target: &Path,
        replace: bool,
    ) -> Result<(), StoreError> {
        let renamed = if replace {
            std::fs::rename(from, target)
        } else {
            files::rename_new(from, target)
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::TargetExists(target.to_path_buf()),
            _ => StoreError::io(target, error),
        })?;
        for ready in all {
            self.moved(ready, &below(target, &ready.relative))?;
        }
        let folder = files::folder_of(target);
        // Nothing is lost if this fails: the old name is as good as the new one after a crash.
        files::sync_folder(folder).map_err(|source| StoreError::Sync {
            path: folder.to_path_buf(),
            source,
        })
    }

    /// Moves the files of a partial folder into a folder that is there, without leaving it by any link in it.
    fn merge_into(&self, part: &PartRoot, all: &[Ready], target: &Path) -> Result<(), StoreError> {
        let failed = |error| StoreError::io(target, error);
        let dir = Dir::open_ambient_dir(target, ambient_authority()).map_err(failed)?;
        self.record(all, target)?;
        let mut folders = BTreeSet::from([target.to_path_buf()]);
        for ready in all {
            let path = below(target, &ready.relative);
            let failed = |error| StoreError::io(&path, error);
            if let Some(folder) = ready
                .relative
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
            {
                dir.create_dir_all(folder).map_err(failed)?;
                folders.extend(folder.ancestors().map(|folder| target.join(folder)));
            }
            part.dir()
                .rename(&ready.relative, &dir, &ready.relative)
                .map_err(failed)?;
            self.moved(ready, &path)?;
        }
        for folder in &folders {
            files::sync_folder(folder).map_err(|source| StoreError::Sync {
                path: folder.clone(),
                source,
            })?;
        }
        remove_empty(part.path());
        Ok(())
    }

    /// Has the handle know its new path if it was its own partial file that moved, and keeps it open.
    fn moved(&self, ready: &Ready, path: &Path) -> Result<(), StoreError> {
        let stamp = files::stamp(path).map_err(|error| StoreError::io(path, error))?;
        if stamp != ready.stamp {
            // A file system that does not keep times or numbers over a rename.
            let mut batch = self.shared.index.write(false)?;
            adopt(
                &mut batch,
                ready.content.id,
                &files::to_bytes(path),
                stamp,
                true,
            )?;
            batch.commit()?;
        }
        let content = &ready.content;
        let own = {
            let mut located = content.located.lock();
            let own =
                matches!(&*located, Located::Part { part, .. } if part.path() == ready.part.path());
            if own {
                *located = Located::File {
                    path: path.to_path_buf(),
                    stamp,
                };
            }
            own
        };
        if own {
            content.close_file();
            content.set_outline_saved(&content.unsaved_outline());
            let mut open = self.open.lock();
            open.partial.remove(&content.id);
            open.keep(Arc::clone(content));
        }
        Ok(())
    }
}

fn check_complete(content: &Content) -> Result<(), StoreError> {
    if content.is_complete() {
        return Ok(());
    }
    let (id, blocks) = (content.id, content.geometry.blocks());
    Err(StoreError::Incomplete {
        id,
        held: content.held_count(),
        blocks,
    })
}

/// Checks that a partial file is complete and has its length, and opens it.
fn ready(
    content: &Arc<Content>,
    part: PartFile,
    relative: PathBuf,
) -> Result<(Ready, File), StoreError> {
    check_complete(content)?;
    // A block that two peers sent may still be written a second time, which would change the file's times.
    content.wait_for_writes();
    let path = part.path();
    let failed = |error| StoreError::io(&path, error);
    let file = part.open(false).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => StoreError::NotAPart(path.clone()),
        _ => failed(error),
    })?;
    let size = content.geometry.size();
    let len = file.metadata().map_err(failed)?.len();
    if len < size {
        let (id, blocks) = (content.id, content.geometry.blocks());
        return Err(StoreError::Incomplete {
            id,
            held: 0,
            blocks,
        });
    }
    if len > size {
        // Left by something else under the same name.
        file.set_len(size).map_err(failed)?;
    }
    let stamp = FileStamp::of(&file.metadata().map_err(failed)?);
    Ok((
        Ready {
            content: Arc::clone(content),
            part,
            relative,
            stamp,
        },
        file,
    ))
}

/// Verifies a block of a file that is meant to be a copy.
fn verify_copy(content: &Content, copy: &File, block: BlockIndex) -> Result<(), StoreError> {
    let bytes = content.read_raw(copy, block).map_err(ReadError::Io)?;
    if content.verify(block, bytes).is_ok() {
        return Ok(());
    }
    // Either the source changed, which reading it tells, or the copy is bad.
    content.read_verified(block)?;
    Err(ReadError::Io(io::Error::other("the copy of a file differs from it")).into())
}

/// Has the disk confirm all files of a partial folder, and their names.
fn sync_tree(part: &PartRoot, all: &[Ready]) -> Result<(), StoreError> {
    let sync_failed = |path: PathBuf| move |source| StoreError::Sync { path, source };
    if all.len() > SYNC_EACH
        && files::sync_everything(part.path()).map_err(sync_failed(part.path().to_path_buf()))?
    {
        return Ok(());
    }
    let mut failures = hash::on_all_cores(all, |ready| {
        let synced = ready
            .part
            .open(false)
            .map_err(|error| StoreError::io(ready.part.path(), error));
        synced.and_then(|file| ready.content.sync(&file)).err()
    });
    if let Some(failure) = failures.pop() {
        return Err(failure);
    }
    let folders: BTreeSet<&Path> = all
        .iter()
        .flat_map(|ready| ready.relative.ancestors().skip(1))
        .collect();
    for folder in folders {
        let folder = below(part.path(), folder);
        files::sync_folder(&folder).map_err(sync_failed(folder))?;
    }
    Ok(())
}

/// Finds the name that `existing` asks for and puts something there. `place` is told whether to replace.
fn into_place(
    target: &Path,
    existing: Existing,
    mut place: impl FnMut(&Path, bool) -> Result<(), StoreError>,
) -> Result<PathBuf, StoreError> {
    let target = real_target(target)?;
    let candidates: u32 = if existing == Existing::Rename {
        RENAMES
    } else {
        1
    };
    for number in 0..candidates {
        let candidate = if number == 0 {
            target.clone()
        } else {
            numbered(&target, number)
        };
        let replace = existing == Existing::Overwrite;
        if !replace && std::fs::symlink_metadata(&candidate).is_ok() {
            continue;
        }
        match place(&candidate, replace) {
            Ok(()) => return Ok(candidate),
            Err(StoreError::TargetExists(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::TargetExists(target))
}

/// The target by the name that its folder really has, as imports know it.
fn real_target(target: &Path) -> Result<PathBuf, StoreError> {
    let folder = files::folder_of(target);
    let folder = folder
        .canonicalize()
        .map_err(|error| StoreError::io(folder, error))?;
    match target.file_name() {
        Some(name) => Ok(folder.join(name)),
        None => Err(StoreError::io(target, io::ErrorKind::InvalidInput.into())),
    }
}

/// `name (1).ext`.
fn numbered(target: &Path, number: u32) -> PathBuf {
    let mut name = target.file_stem().unwrap_or_default().to_os_string();
    name.push(format!(" ({number})"));
    if let Some(extension) = target.extension() {
        name.push(".");
        name.push(extension);
    }
    target.with_file_name(name)
}

fn below(folder: &Path, relative: &Path) -> PathBuf {
    // Joining nothing would add a slash.
    if relative.as_os_str().is_empty() {
        folder.to_path_buf()
    } else {
        folder.join(relative)
    }
}

/// Removes a folder whose files were all moved away. One with something else in it stays.
fn remove_empty(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(folder);
}
