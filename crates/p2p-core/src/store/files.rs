//! The handful of things the store asks of the file system, none of which follows a link it was not meant to.

use std::fs::{File, Metadata};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::StoreError;
use super::record::FileStamp;

/// Open flag: fail on a symbolic link in the last component.
pub(super) const NO_LINKS: i32 = OFlags::NOFOLLOW.bits().cast_signed();
/// Open flag: do not wait for the other end of a pipe that took a file's place.
const NO_WAIT: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// A path as the index keeps it: the bytes the system knows it by.
pub(super) fn to_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The reverse of [`to_bytes`].
pub(super) fn from_bytes(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// The path from the root, without looking at the disk.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|error| StoreError::io(path, error))
}

/// The folder a path is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// Opens a plain file to read, without following a link. Anything else is `InvalidInput`.
pub(super) fn open_plain(path: &Path) -> io::Result<File> {
    plain(
        File::options()
            .read(true)
            .custom_flags(NO_LINKS | NO_WAIT)
            .open(path),
    )
}

/// Makes everything that is not a plain file `InvalidInput`.
pub(super) fn plain(opened: io::Result<File>) -> io::Result<File> {
    let link = Some(rustix::io::Errno::LOOP.raw_os_error());
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::IsADirectory => io::ErrorKind::InvalidInput.into(),
        _ if error.raw_os_error() == link => io::ErrorKind::InvalidInput.into(),
        _ => error,
    })?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// The stamp of what is at a path now; a link is what it is, not what it points to.
pub(super) fn stamp(path: &Path) -> io::Result<FileStamp> {
    std::fs::symlink_metadata(path).map(|metadata| FileStamp::of(&metadata))
}

/// Bytes a file takes on the disk; 0 if it is not there.
pub(super) fn allocated(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).map_or(0, |metadata: Metadata| {
        metadata.blocks().saturating_mul(512)
    })
}

/// Reads up to `len` bytes at `offset`; fewer only where the file ends.
pub(super) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    // Into memory that was not zeroed before: that alone was a tenth of the time of a read from memory.
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset.saturating_add(bytes.len() as u64);
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The allocator may have given more room than was asked for.
    bytes.truncate(len);
    Ok(bytes)
}

/// Writes the parts one after the other at `offset`, in as few calls as the system takes.
pub(super) fn write_at(file: &File, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match rustix::io::pwritev(file, rest, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut rest, written);
                offset = offset.saturating_add(written as u64);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Has the disk confirm the bytes of a file and its length.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(test)]
    fault::check()?;
    file.sync_data()
}

/// Has the disk confirm the names in a folder.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Has the next read of the file ask the disk.
pub(super) fn drop_from_memory(file: &File) {
    #[cfg(not(target_vendor = "apple"))]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    #[cfg(target_vendor = "apple")]
    let _ = file;
}

/// Tells the system that a file will be read from one end to the other.
pub(super) fn will_read_all(file: &File) {
    #[cfg(not(target_vendor = "apple"))]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
    #[cfg(target_vendor = "apple")]
    let _ = file;
}

/// The parts of the first `len` bytes of a file that were ever written. All of it where the file system cannot tell.
pub(super) fn data_ranges(file: &File, len: u64) -> Vec<Range<u64>> {
    use rustix::fs::{SeekFrom, seek};
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return std::iter::once(0..len).collect(),
        };
        let end = seek(file, SeekFrom::Hole(start)).unwrap_or(len).min(len);
        if start >= end {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    ranges
}

/// Makes `to` share the bytes of `from` on the disk, where the file system can do that.
pub(super) fn reflink(from: &File, to: &File) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::fs::ioctl_ficlone(to, from).is_ok();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (from, to);
        false
    }
}

/// Renames, unless there is something at `to` (`AlreadyExists`).
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system or kernel without the flag.
            Err(
                rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP,
            ) => {}
            other => return other.map_err(Into::into),
        }
    }
    if std::fs::symlink_metadata(from)?.is_dir() {
        // A folder is renamed onto an empty one at worst.
        return match std::fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => std::fs::rename(from, to),
        };
    }
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from)
}

/// Has the disk confirm everything on the file system of `folder`. False where there is no such call.
pub(super) fn sync_everything(folder: &Path) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        rustix::fs::syncfs(File::open(folder)?)?;
        Ok(true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        Ok(false)
    }
}

/// Lets a test make the disk refuse to sync.
#[cfg(test)]
pub(super) mod fault {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static SYNC_FAILS: Cell<bool> = const { Cell::new(false) };
    }

    /// Every sync of data by this thread fails from now on, or works again.
    pub(in crate::store) fn fail_syncs(fail: bool) {
        SYNC_FAILS.set(fail);
    }

    pub(super) fn check() -> io::Result<()> {
        if SYNC_FAILS.get() {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}
