//! The end of a fetch: partial files become what the user asked for.
//!
//! The order is: sync of the files, index, rename, sync of the folder. The index comes before the rename because that
//! is the order that mends itself: when the rename did not happen, the partial file is still where the next fetch looks
//! for it, and all its blocks are found; after the reverse, the file would be there and nobody would know.

mod ready;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::ready::{Ready, check_complete, open_part, ready, ready_entry};
use super::adopt::adopt;
use super::checkpoint::sync_together;
use super::content::{Content, Located};
use super::fs::{FileHandle, FileKind, FileSystem};
use super::part::{PartFile, PartRoot};
use super::record::{ContentRecord, PathRecord};
use super::space::{Need, Room};
use super::{IndexError, ReadError, Store, StoreError, files, hash};
use crate::content::{Attributes, BlockIndex, ContentId};

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
    /// partial file stays and can be finished again; only when the sync of the folder fails last, it is in place.
    pub fn finish(
        &self,
        content: &Arc<Content>,
        part: &PartFile,
        target: &Path,
        existing: Existing,
    ) -> Result<PathBuf, StoreError> {
        let (ready, file) = ready(content, part.clone(), PathBuf::new())?;
        content.sync_with_times(&*file)?;
        let ready = [ready];
        into_place(&*self.shared.fs, target, existing, |target, replace| {
            let before = self.record(&ready, target)?;
            self.rename_to(&part.path(), target, replace)
                .inspect_err(|_| self.record_again(&ready, before))?;
            self.renamed(&ready, target)
        })
    }

    /// Gives a complete partial file, which is to be finished next, these attributes. That a file system has no such
    /// thing is told in the log, and is no error: what was asked for is the content.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`], [`StoreError::NotAPart`], [`StoreError::Io`] if it cannot be opened.
    pub fn set_attributes(
        &self,
        content: &Content,
        part: &PartFile,
        attributes: Attributes,
    ) -> Result<(), StoreError> {
        check_complete(content)?;
        // A block written a second time would change the time again.
        content.wait_for_writes();
        let path = part.path();
        let (file, _) = open_part(&*self.shared.fs, part)?;
        if let Err(error) = file.set_attributes(attributes) {
            tracing::warn!(path = %path.display(), %error, "time and permissions are not kept here");
        }
        Ok(())
    }

    /// Whether a file at `target` is this content, as far as is known of it: as this node wrote it, or shared it, and not
    /// touched since. With a path, the file there below `target`.
    ///
    /// # Errors
    /// [`StoreError::Index`]; [`StoreError::Io`] if there is no folder to have it.
    pub fn is_in_place<'a>(
        &self,
        entries: impl IntoIterator<Item = (ContentId, &'a str)>,
        target: &Path,
    ) -> Result<bool, StoreError> {
        let fs = &*self.shared.fs;
        let target = real_target(fs, target)?;
        for (id, relative) in entries {
            let path = files::below(&target, Path::new(relative));
            let known = self.shared.index.path(&files::to_bytes(&path))?;
            let known = known.filter(|known| known.id == id);
            if known.is_none_or(|known| fs.stamp(&path).ok() != Some(known.stamp)) {
                return Ok(false);
            }
        }
        Ok(true)
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
        let mut folder = None;
        for (relative, content) in entries {
            all.push(ready_entry(content, part, relative, &mut folder)?);
        }
        self.sync_tree(part, &all)?;
        let fs = &*self.shared.fs;
        into_place(fs, target, existing, |target, replace| {
            if replace && is_folder(fs, target) {
                return self.merge_into(part, &all, target);
            }
            let before = self.record(&all, target)?;
            self.rename_to(part.path(), target, false)
                .inspect_err(|_| self.record_again(&all, before))?;
            self.renamed(&all, target)
        })
    }

    /// Writes a content that is complete in the store (or in another partial file) to a partial file, to be finished
    /// from there. Shares the bytes on the disk where the file system can; every block is verified either way. `room`
    /// for it was reserved, and is to be kept until it is finished, from when on the copy counts.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`], [`StoreError::NoSpace`], [`StoreError::QuotaFull`], [`StoreError::NotAPart`],
    /// [`StoreError::Read`] if the source is not what it was, [`StoreError::Io`].
    pub fn copy_out(
        &self,
        content: &Content,
        to: &PartFile,
        room: Option<&Room>,
    ) -> Result<(), StoreError> {
        check_complete(content)?;
        let size = content.geometry.size();
        let _room = match room {
            Some(_) => None,
            None => Some(self.admit(
                &to.folder(),
                Need {
                    counted: size,
                    disk: size,
                },
                &[content.id],
            )?),
        };
        let path = to.path();
        let failed = |error| StoreError::io(&path, error);
        let source = content.file()?;
        let (target, this) =
            to.open(&*self.shared.fs, true)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::InvalidInput => StoreError::NotAPart(path.clone()),
                    _ => failed(error),
                })?;
        if this.same_file(&source.stamp().map_err(failed)?) {
            return Ok(());
        }
        if size > 0 && target.reflink(&*source) {
            return content
                .geometry
                .indices()
                .try_for_each(|block| verify_copy(content, &*target, block));
        }
        for block in content.geometry.indices() {
            let bytes = content.read_verified(block)?;
            target
                .write_at(content.geometry.offset_of(block), &[bytes.bytes()])
                .map_err(failed)?;
        }
        target.set_len(size).map_err(failed)
    }

    /// Has the disk confirm all files of a partial folder, and their names.
    fn sync_tree(&self, part: &PartRoot, all: &[Ready]) -> Result<(), StoreError> {
        let sync_failed = |path: PathBuf| move |source| StoreError::Sync { path, source };
        let contents: Vec<&Content> = all.iter().map(|ready| &*ready.content).collect();
        if sync_together(part, &contents)? {
            return Ok(());
        }
        let fs = &*self.shared.fs;
        let mut failures = hash::on_all_cores(all, |ready| {
            let synced = ready
                .part
                .open(fs, false)
                .map_err(|error| StoreError::io(ready.part.path(), error));
            synced
                .and_then(|(file, _)| ready.content.sync_with_times(&*file))
                .err()
        });
        if let Some(failure) = failures.pop() {
            return Err(failure);
        }
        let folders: BTreeSet<&Path> = all
            .iter()
            .flat_map(|ready| ready.relative.ancestors().skip(1))
            .collect();
        for folder in folders {
            let folder = files::below(part.path(), folder);
            fs.sync_folder(&folder).map_err(sync_failed(folder))?;
        }
        Ok(())
    }

    /// Has the index say that the files are at the target, in one commit.
    fn record(&self, all: &[Ready], target: &Path) -> Result<Vec<Before>, StoreError> {
        let mut before = Vec::with_capacity(all.len());
        let mut displaced = Vec::new();
        let fs = &*self.shared.fs;
        let mut batch = self.shared.index.write(true)?;
        for ready in all {
            let id = ready.content.id;
            let path = files::to_bytes(&files::below(target, &ready.relative));
            before.push(Before {
                id,
                record: batch.content(id)?,
                known: batch.path(&path)?,
                path: path.clone(),
            });
            let unsaved = ready.content.unsaved_outline();
            batch.put_outline(id, &unsaved)?;
            displaced.extend(adopt(fs, &mut batch, id, &path, ready.stamp, true)?);
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

    /// Renames the partial file or folder.
    fn rename_to(&self, from: &Path, target: &Path, replace: bool) -> Result<(), StoreError> {
        let fs = &*self.shared.fs;
        let renamed = if replace {
            fs.rename(from, target)
        } else {
            fs.rename_new(from, target)
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::TargetExists(target.to_path_buf()),
            _ => StoreError::io(target, error),
        })
    }

    /// Has the handles know of the rename, and the disk confirm it. Should that fail, the files are where they are.
    fn renamed(&self, all: &[Ready], target: &Path) -> Result<(), StoreError> {
        self.moved(all, target)?;
        // Nothing is lost if this fails: the old name is as good as the new one after a crash.
        sync_names(&*self.shared.fs, files::folder_of(target))
    }

    /// Moves the files of a partial folder into a folder that is there, without leaving it by any link in it.
    fn merge_into(&self, part: &PartRoot, all: &[Ready], target: &Path) -> Result<(), StoreError> {
        let failed = |error| StoreError::io(target, error);
        let fs = &*self.shared.fs;
        let dir = fs.folder(target).map_err(failed)?;
        self.record(all, target)?;
        let mut folders = BTreeSet::from([target.to_path_buf()]);
        for ready in all {
            let path = files::below(target, &ready.relative);
            let failed = |error| StoreError::io(&path, error);
            if let Some(folder) = ready
                .relative
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
            {
                dir.create_folders(folder).map_err(failed)?;
                folders.extend(folder.ancestors().map(|folder| target.join(folder)));
            }
            part.opened()
                .move_below(&ready.relative, target)
                .map_err(failed)?;
            self.moved(std::slice::from_ref(ready), target)?;
        }
        for folder in &folders {
            sync_names(fs, folder)?;
        }
        remove_empty(fs, part.path());
        Ok(())
    }

    /// Has the handles know the new paths if it was their own partial files that moved, and keeps them open.
    fn moved(&self, all: &[Ready], target: &Path) -> Result<(), StoreError> {
        let fs = &*self.shared.fs;
        let mut own = Vec::new();
        let mut altered = Vec::new();
        for ready in all {
            let path = files::below(target, &ready.relative);
            let stamp = fs
                .stamp(&path)
                .map_err(|error| StoreError::io(&path, error))?;
            let content = &ready.content;
            let mut located = content.located.lock();
            match &mut *located {
                Located::Part { part, .. } if *part == ready.part => {
                    let path = path.clone();
                    *located = Located::File { path, stamp };
                    own.push(content);
                }
                // A copy took the place of the file it was made of.
                Located::File {
                    path: at,
                    stamp: known,
                } if *at == path => {
                    *known = stamp;
                    content.close_file();
                }
                _ => {}
            }
            if stamp != ready.stamp {
                altered.push((content.id, path, stamp));
            }
        }
        if !altered.is_empty() {
            // A file system that does not keep times or numbers over a rename.
            let mut batch = self.shared.index.write(false)?;
            for (id, path, stamp) in altered {
                adopt(fs, &mut batch, id, &files::to_bytes(&path), stamp, true)?;
            }
            batch.commit()?;
        }
        for content in &own {
            content.close_file();
            content.set_outline_saved(&content.unsaved_outline());
        }
        let mut open = self.open.lock();
        for content in own {
            open.partial.remove(&content.id);
            open.keep(Arc::clone(content));
        }
        Ok(())
    }
}

/// Verifies a block of a file that is meant to be a copy.
fn verify_copy(
    content: &Content,
    copy: &dyn FileHandle,
    block: BlockIndex,
) -> Result<(), StoreError> {
    let bytes = content.read_raw(copy, block).map_err(ReadError::Io)?;
    if content.verify(block, bytes).is_ok() {
        return Ok(());
    }
    // Either the source changed, which reading it tells, or the copy is bad.
    content.read_verified(block)?;
    Err(ReadError::Io(io::Error::other("the copy of a file differs from it")).into())
}

/// Finds the name that `existing` asks for and puts something there. `place` is told whether to replace.
fn into_place(
    fs: &dyn FileSystem,
    target: &Path,
    existing: Existing,
    mut place: impl FnMut(&Path, bool) -> Result<(), StoreError>,
) -> Result<PathBuf, StoreError> {
    let target = real_target(fs, target)?;
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
        if !replace && fs.exists(&candidate) {
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
fn real_target(fs: &dyn FileSystem, target: &Path) -> Result<PathBuf, StoreError> {
    let folder = files::folder_of(target);
    let folder = fs
        .real_path(folder)
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

/// Whether there is a folder at a path, or a link to one.
fn is_folder(fs: &dyn FileSystem, path: &Path) -> bool {
    let real = fs.real_path(path).and_then(|path| fs.stat(&path));
    real.is_ok_and(|stat| stat.kind == FileKind::Folder)
}

/// Has the disk confirm the names in a folder. What a failed sync was to write of a folder is still to be written, other
/// than the bytes of a file, so that it is worth asking twice.
fn sync_names(fs: &dyn FileSystem, folder: &Path) -> Result<(), StoreError> {
    let synced = fs.sync_folder(folder).or_else(|_| fs.sync_folder(folder));
    synced.map_err(|source| StoreError::Sync {
        path: folder.to_path_buf(),
        source,
    })
}

/// Removes a folder whose files were all moved away. One with something else in it stays.
fn remove_empty(fs: &dyn FileSystem, folder: &Path) {
    for (name, stat) in fs.list(folder).unwrap_or_default() {
        if stat.kind == FileKind::Folder {
            remove_empty(fs, &folder.join(name));
        }
    }
    let _ = fs.remove_folder(folder);
}
