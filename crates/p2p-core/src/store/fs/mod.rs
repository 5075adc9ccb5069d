//! What the store asks of a file system: [`FileSystem`], with open files and folders behind it. The store touches files
//! through nothing else, so that the same store runs on the disk ([`Disk`]), in memory ([`Memory`]), and in tests on a
//! disk that fails or loses power at any of its operations (`tests/faulty.rs`).
//!
//! The operations are those of a Unix file system, with its promises and no others: what was written is seen at once by
//! everyone; it survives a crash when the file was synced; a name survives when its folder was.

mod disk;
mod memory;

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use disk::Disk;
pub use disk::tells_of_changes;
pub(super) use memory::Memory;
#[cfg(test)]
pub(super) use memory::ROOT;

use super::record::FileStamp;
use crate::content::Attributes;

/// Bytes that go from file to file at once where the file system has nothing better.
const COPY_STEP: usize = 1024 * 1024;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To read.
    Read,
    /// To read and write one that is there.
    Write,
    /// To read and write; made if it is not there.
    Create,
    /// To read and write a new one; `AlreadyExists` if there is something.
    CreateNew,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    File,
    Folder,
    Link,
    /// A pipe, socket or device.
    Special,
}

/// What is known of something without opening it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) kind: FileKind,
    pub(super) stamp: FileStamp,
    /// Bytes that it takes.
    pub(super) allocated: u64,
    /// Names that it has: with the last of them its bytes are gone.
    pub(super) names: u64,
    /// Whether its owner may execute it.
    pub(super) executable: bool,
}

/// Files by their paths. Errors are those of the system; nothing follows a link in the last component of a path unless
/// it says so.
pub(super) trait FileSystem: Send + Sync + std::fmt::Debug {
    /// Opens a plain file. Whatever is something else, a link too, is `InvalidInput`.
    fn open(&self, path: &Path, access: Access) -> io::Result<(OpenFile, FileStamp)>;
    /// Opens a folder for files whose names are not to be trusted. A link to one is followed.
    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Folder>>;
    /// What is at a path.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// What is in a folder, in no order. What vanishes meanwhile is left out.
    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Stat)>>;
    /// The path without links in it.
    fn real_path(&self, path: &Path) -> io::Result<PathBuf>;
    /// Makes a folder in one that is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder, and those it is in, for this user only; those that are there stay as they are.
    fn create_private_folders(&self, path: &Path) -> io::Result<()>;
    /// Renames, in place of a file that may be at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames, unless there is something at `to`: `AlreadyExists`.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder that is empty.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Has the names in a folder survive a crash.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Bytes that can still be written where `path` is.
    fn free(&self, path: &Path) -> io::Result<u64>;

    /// The stamp of what is at a path.
    fn stamp(&self, path: &Path) -> io::Result<FileStamp> {
        self.stat(path).map(|stat| stat.stamp)
    }

    /// Whether there is anything at a path, be it a link that leads nowhere.
    fn exists(&self, path: &Path) -> bool {
        self.stat(path).is_ok()
    }

    /// Deletes a file, if it is there.
    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes the folders that a file was in, up to but without `root`, as long as they are empty.
    fn remove_empty_above(&self, path: &Path, root: &Path) {
        for folder in path.ancestors().skip(1) {
            if folder == root || !folder.starts_with(root) || self.remove_folder(folder).is_err() {
                return;
            }
        }
    }

    /// Bytes that what is at a path takes; `None` if there is nothing.
    fn allocated(&self, path: &Path) -> Option<u64> {
        match self.stat(path) {
            Ok(stat) => Some(stat.allocated),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // Whatever it is, opening it will tell.
            Err(_) => Some(0),
        }
    }
}

/// An open file. It stays the same file whatever happens to its name, and may be used by several threads at once.
pub(super) type OpenFile = Arc<dyn FileHandle>;

/// See [`OpenFile`].
pub(super) trait FileHandle: Send + Sync + std::fmt::Debug {
    fn stamp(&self) -> io::Result<FileStamp>;
    /// Reads up to `len` bytes at `offset`; fewer only where the file ends.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Fills the buffer from `offset`; `UnexpectedEof` where the file ends before.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of the parts, one after the other, at `offset`.
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Has the bytes of the file and its length survive a crash.
    fn sync_data(&self) -> io::Result<()>;
    /// As [`FileHandle::sync_data`], and its times too.
    fn sync_all(&self) -> io::Result<()>;
    /// Takes the lock of the file until it is closed. False if another handle has it.
    fn try_lock(&self) -> io::Result<bool>;

    /// As [`FileHandle::write_at`], leaving nothing in the system's cache of files where that can be had.
    fn write_past_cache(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        self.write_at(offset, parts)
    }

    /// The same file once more, for writes that go from the caller's memory to the disk.
    fn reopen_direct(&self) -> Option<OpenFile> {
        None
    }

    /// The parts of the first `len` bytes that were ever written; all of them where that cannot be told.
    fn data_ranges(&self, len: u64) -> Vec<Range<u64>> {
        std::iter::once(0..len)
            .filter(|all| !all.is_empty())
            .collect()
    }

    /// Gives the file these attributes: the time, and who may read it may execute it, or nobody may.
    fn set_attributes(&self, attributes: Attributes) -> io::Result<()> {
        let _ = attributes;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Has the next read ask the disk.
    fn drop_from_memory(&self) {}

    /// Tells that the file will be read from one end to the other.
    fn will_read_all(&self) {}

    /// Makes this file share the bytes of another, where that can be had.
    fn reflink(&self, from: &dyn FileHandle) -> bool {
        let _ = from;
        false
    }

    /// Writes up to `len` bytes of another file at the same offset of this one. Returns how many there were.
    fn copy_from(&self, from: &dyn FileHandle, offset: u64, len: u64) -> io::Result<u64> {
        copy_through_memory(self, from, offset, len)
    }

    /// The open file of the operating system, if that is what it is.
    fn of_system(&self) -> Option<&std::fs::File> {
        None
    }
}

/// An open folder and what is below it. Paths are relative and lead out of it neither by `..` nor by a link.
pub(super) trait Folder: Send + Sync + std::fmt::Debug {
    /// As [`FileSystem::open`].
    fn open(&self, relative: &Path, access: Access) -> io::Result<(OpenFile, FileStamp)>;
    /// A folder in it.
    fn folder(&self, relative: &Path) -> io::Result<Arc<dyn Folder>>;
    fn stat(&self, relative: &Path) -> io::Result<Stat>;
    /// Makes a folder and those it is in, as far as they are not there.
    fn create_folders(&self, relative: &Path) -> io::Result<()>;
    /// Moves a file to the same place below the folder at `target`, in place of what is there.
    fn move_below(&self, relative: &Path, target: &Path) -> io::Result<()>;
    /// Has everything that was written to this file system survive a crash. False where there is no such call.
    fn sync_everything(&self) -> io::Result<bool>;
}

fn copy_through_memory(
    to: &(impl FileHandle + ?Sized),
    from: &dyn FileHandle,
    offset: u64,
    len: u64,
) -> io::Result<u64> {
    let mut done = 0_u64;
    while done < len {
        let at = offset.saturating_add(done);
        let step =
            usize::try_from(len.saturating_sub(done)).map_or(COPY_STEP, |rest| rest.min(COPY_STEP));
        let bytes = from.read_at(at, step)?;
        if bytes.is_empty() {
            break;
        }
        to.write_at(at, &[&bytes])?;
        done = done.saturating_add(bytes.len() as u64);
    }
    Ok(done)
}
