//! Partial files that are complete: checked, and ready to be moved.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::StoreError;
use crate::store::content::Content;
use crate::store::fs::{FileKind, FileSystem, Folder, OpenFile, Stat};
use crate::store::part::{PartFile, PartRoot};
use crate::store::record::FileStamp;

/// A complete partial file on its way to its target.
pub(super) struct Ready {
    pub(super) content: Arc<Content>,
    pub(super) part: PartFile,
    /// Its path below the target folder; empty for a single file.
    pub(super) relative: PathBuf,
    pub(super) stamp: FileStamp,
}

pub(super) fn check_complete(content: &Content) -> Result<(), StoreError> {
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
pub(super) fn ready(
    content: &Arc<Content>,
    part: PartFile,
    relative: PathBuf,
) -> Result<(Ready, OpenFile), StoreError> {
    check_complete(content)?;
    // A block that two peers sent may still be written a second time, which would change the file's times.
    content.wait_for_writes();
    let path = part.path();
    let failed = |error| StoreError::io(&path, error);
    let (file, found) = open_part(&*content.shared.fs, &part)?;
    let size = content.geometry.size();
    if found.size < size {
        let (id, blocks) = (content.id, content.geometry.blocks());
        return Err(StoreError::Incomplete {
            id,
            held: 0,
            blocks,
        });
    }
    if found.size > size {
        // Left by something else under the same name.
        file.set_len(size).map_err(failed)?;
    }
    let stamp = file.stamp().map_err(failed)?;
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

pub(super) fn open_part(
    fs: &dyn FileSystem,
    part: &PartFile,
) -> Result<(OpenFile, FileStamp), StoreError> {
    part.open(fs, false).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => StoreError::NotAPart(part.path()),
        _ => StoreError::io(part.path(), error),
    })
}

/// As [`ready`], without opening a file that is as it should be. `folder` is the one looked into last.
pub(super) fn ready_entry(
    content: &Arc<Content>,
    root: &PartRoot,
    relative: &str,
    folder: &mut Option<(PathBuf, Arc<dyn Folder>)>,
) -> Result<Ready, StoreError> {
    let (part, relative) = (root.entry(relative), PathBuf::from(relative));
    check_complete(content)?;
    content.wait_for_writes();
    match look(root, &relative, folder) {
        Ok(found)
            if found.kind == FileKind::File && found.stamp.size == content.geometry.size() =>
        {
            Ok(Ready {
                content: Arc::clone(content),
                part,
                relative,
                stamp: found.stamp,
            })
        }
        _ => Ok(ready(content, part, relative)?.0),
    }
}

fn look(
    root: &PartRoot,
    relative: &Path,
    last: &mut Option<(PathBuf, Arc<dyn Folder>)>,
) -> io::Result<Stat> {
    let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if parent.as_os_str().is_empty() {
        return root.opened().stat(name.as_ref());
    }
    let folder = match last.take() {
        Some((path, folder)) if path == parent => folder,
        _ => root.opened().folder(parent)?,
    };
    let found = folder.stat(name.as_ref());
    *last = Some((parent.to_path_buf(), folder));
    found
}
