//! The files of the operating system.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, Metadata, TryLockError};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptionsExt as _};
use rustix::fs::OFlags;

use super::{
    Access, FileHandle, FileKind, FileSystem, Folder, OpenFile, Stat, copy_through_memory,
};
use crate::content::Attributes;
use crate::store::record::FileStamp;

/// Permission of the owner to execute.
const OWNER_EXECUTES: u32 = 0o100;
/// Permissions of all to read, and to execute.
const ALL_READ: u32 = 0o444;
const ALL_EXECUTE: u32 = 0o111;
/// Open flag: fail on a symbolic link in the last component.
const NO_LINKS: i32 = OFlags::NOFOLLOW.bits().cast_signed();
/// Open flag: do not wait for the other end of a pipe that took a file's place.
const NO_WAIT: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// The file system that the process sees.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Disk;

impl FileSystem for Disk {
    fn open(&self, path: &Path, access: Access) -> io::Result<(OpenFile, FileStamp)> {
        let mut options = File::options();
        options.read(true).write(access != Access::Read);
        options.custom_flags(flags(access));
        plain(match access {
            Access::Read | Access::Write => options.open(path),
            Access::CreateNew => options.create_new(true).open(path),
            Access::Create => options.create(true).truncate(false).open(path),
        })
    }

    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        let dir = Dir::open_ambient_dir(path, ambient_authority())?;
        let opened = File::open(path)?;
        Ok(Arc::new(DiskFolder { dir, opened }))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        std::fs::symlink_metadata(path).map(|metadata| stat_of(&metadata))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Stat)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) => found.push((entry.file_name(), stat_of(&metadata))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn create_private_folders(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
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

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Whether the system can be expected to tell of changes below a path: it cannot where others write over a network.
/// True where that cannot be found out.
pub fn tells_of_changes(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        /// `f_type` of NFS, SMB (two), CIFS, FUSE, 9P, Ceph and AFS, of `linux/magic.h`.
        const NETWORK: [u32; 8] = [
            0x6969,
            0x517b,
            0xfe53_4d42,
            0xff53_4d42,
            0x6573_5546,
            0x0102_1997,
            0x00c3_6400,
            0x5346_414f,
        ];
        // The lower half: the type is signed, and of another size on other machines.
        rustix::fs::statfs(path).map_or(true, |of| !NETWORK.contains(&(of.f_type as u32)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        true
    }
}

impl FileHandle for File {
    fn stamp(&self) -> io::Result<FileStamp> {
        self.metadata().map(|metadata| stamp_of(&metadata))
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        // Into memory that was not zeroed before: that alone was a tenth of the time of a read from memory.
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset.saturating_add(bytes.len() as u64);
            match rustix::io::pread(self, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The allocator may have given more room than was asked for.
        bytes.truncate(len);
        Ok(bytes)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        write_parts(offset, parts, |rest, offset| {
            rustix::io::pwritev(self, rest, offset)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match File::try_lock(self) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The system sends the bytes to the disk at once and keeps no copy in memory, where it can do that (Linux 6.14,
    /// ext4, XFS, Btrfs). The pages it copies to are then the same few all the time.
    #[cfg(target_os = "linux")]
    fn write_past_cache(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        use rustix::io::{Errno, ReadWriteFlags, pwritev, pwritev2};
        /// `RWF_DONTCACHE` of `linux/fs.h`, which rustix has no name for.
        const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
        write_parts(offset, parts, |rest, offset| {
            match pwritev2(self, rest, offset, DONT_CACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => pwritev(self, rest, offset),
                other => other,
            }
        })
    }

    #[cfg(target_os = "linux")]
    fn reopen_direct(&self) -> Option<OpenFile> {
        use std::os::fd::AsRawFd;
        // By number and not by name, so that it is this file whatever is at its path now.
        let direct = File::options()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", self.as_raw_fd()));
        direct.ok().map(|file| Arc::new(file) as OpenFile)
    }

    fn data_ranges(&self, len: u64) -> Vec<Range<u64>> {
        use rustix::fs::{SeekFrom, seek};
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < len {
            let start = match seek(self, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => break,
                Err(_) => return std::iter::once(0..len).collect(),
            };
            let end = seek(self, SeekFrom::Hole(start)).unwrap_or(len).min(len);
            if start >= end {
                break;
            }
            ranges.push(start..end);
            at = end;
        }
        ranges
    }

    fn set_attributes(&self, attributes: Attributes) -> io::Result<()> {
        let before = self.metadata()?.permissions().mode();
        let executes = match attributes.executable {
            true => (before & ALL_READ) >> 2,
            false => 0,
        };
        let mode = (before & !ALL_EXECUTE) | executes;
        if mode != before {
            self.set_permissions(std::fs::Permissions::from_mode(mode))?;
        }
        self.set_modified(UNIX_EPOCH + Duration::from_secs(attributes.modified))
    }

    #[cfg(not(target_vendor = "apple"))]
    fn drop_from_memory(&self) {
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed);
    }

    #[cfg(not(target_vendor = "apple"))]
    fn will_read_all(&self) {
        let _ = rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::Sequential);
    }

    #[cfg(target_os = "linux")]
    fn reflink(&self, from: &dyn FileHandle) -> bool {
        from.of_system()
            .is_some_and(|from| rustix::fs::ioctl_ficlone(self, from).is_ok())
    }

    /// Within the kernel, where it can do that.
    #[cfg(target_os = "linux")]
    fn copy_from(&self, from: &dyn FileHandle, offset: u64, len: u64) -> io::Result<u64> {
        let Some(source) = from.of_system() else {
            return copy_through_memory(self, from, offset, len);
        };
        let (mut read, mut written) = (offset, offset);
        loop {
            let done = read.saturating_sub(offset);
            let rest = usize::try_from(len.saturating_sub(done)).unwrap_or(usize::MAX);
            if rest == 0 {
                return Ok(done);
            }
            let (read, written) = (Some(&mut read), Some(&mut written));
            match rustix::fs::copy_file_range(source, read, self, written, rest) {
                Ok(0) if done > 0 => return Ok(done),
                // Some file systems say that there is nothing where there is something.
                Ok(0) => return copy_through_memory(self, from, offset, len),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // It does not work between these two; what is wrong with either is told by reading or writing it.
                Err(_) => {
                    let at = offset.saturating_add(done);
                    let rest = copy_through_memory(self, from, at, len.saturating_sub(done))?;
                    return Ok(done.saturating_add(rest));
                }
            }
        }
    }

    fn of_system(&self) -> Option<&File> {
        Some(self)
    }
}

/// A folder that nothing below it leads out of.
#[derive(Debug)]
struct DiskFolder {
    dir: Dir,
    /// Open since the fetch began, so that a sync of the file system tells of every write that failed since.
    opened: File,
}

impl Folder for DiskFolder {
    fn open(&self, relative: &Path, access: Access) -> io::Result<(OpenFile, FileStamp)> {
        let mut options = cap_std::fs::OpenOptions::new();
        options.read(true).write(access != Access::Read);
        options.custom_flags(flags(access));
        match access {
            Access::Read | Access::Write => {}
            Access::CreateNew => _ = options.create_new(true),
            Access::Create => _ = options.create(true),
        }
        let opened = self.dir.open_with(relative, &options);
        plain(opened.map(cap_std::fs::File::into_std))
    }

    fn folder(&self, relative: &Path) -> io::Result<Arc<dyn Folder>> {
        let dir = self.dir.open_dir(relative)?;
        let opened = dir.try_clone()?.into_std_file();
        Ok(Arc::new(Self { dir, opened }))
    }

    fn stat(&self, relative: &Path) -> io::Result<Stat> {
        let found = self.dir.symlink_metadata(relative)?;
        let kind = found.file_type();
        Ok(Stat {
            kind: kind_of(kind.is_file(), kind.is_dir(), kind.is_symlink()),
            stamp: stamp_of_entry(&found),
            allocated: cap_std::fs::MetadataExt::blocks(&found).saturating_mul(512),
            names: cap_std::fs::MetadataExt::nlink(&found),
            executable: cap_std::fs::MetadataExt::mode(&found) & OWNER_EXECUTES != 0,
        })
    }

    fn create_folders(&self, relative: &Path) -> io::Result<()> {
        self.dir.create_dir_all(relative)
    }

    fn move_below(&self, relative: &Path, target: &Path) -> io::Result<()> {
        let target = Dir::open_ambient_dir(target, ambient_authority())?;
        self.dir.rename(relative, &target, relative)
    }

    fn sync_everything(&self) -> io::Result<bool> {
        #[cfg(target_os = "linux")]
        {
            rustix::fs::syncfs(&self.opened)?;
            Ok(true)
        }
        #[cfg(not(target_os = "linux"))]
        Ok(false)
    }
}

fn flags(access: Access) -> i32 {
    match access {
        Access::Read => NO_LINKS | NO_WAIT,
        _ => NO_LINKS,
    }
}

/// Makes everything that is not a plain file `InvalidInput`, and says what the stamp of one that is is.
fn plain(opened: io::Result<File>) -> io::Result<(OpenFile, FileStamp)> {
    let link = Some(rustix::io::Errno::LOOP.raw_os_error());
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::IsADirectory => io::ErrorKind::InvalidInput.into(),
        _ if error.raw_os_error() == link => io::ErrorKind::InvalidInput.into(),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        Ok((Arc::new(file), stamp_of(&metadata)))
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// The system's files and those of an open folder have types of their own for this.
fn kind_of(is_file: bool, is_folder: bool, is_link: bool) -> FileKind {
    match (is_file, is_folder, is_link) {
        (true, ..) => FileKind::File,
        (_, true, _) => FileKind::Folder,
        (.., true) => FileKind::Link,
        _ => FileKind::Special,
    }
}

fn stat_of(metadata: &Metadata) -> Stat {
    let kind = metadata.file_type();
    Stat {
        kind: kind_of(kind.is_file(), kind.is_dir(), kind.is_symlink()),
        stamp: stamp_of(metadata),
        allocated: metadata.blocks().saturating_mul(512),
        names: metadata.nlink(),
        executable: metadata.mode() & OWNER_EXECUTES != 0,
    }
}

fn stamp_of(metadata: &Metadata) -> FileStamp {
    FileStamp {
        size: metadata.size(),
        mtime: metadata.mtime(),
        mtime_nsec: metadata.mtime_nsec(),
        inode: metadata.ino(),
        device: metadata.dev(),
    }
}

/// Of a file found below a folder.
fn stamp_of_entry(metadata: &cap_std::fs::Metadata) -> FileStamp {
    use cap_std::fs::MetadataExt as _;
    FileStamp {
        size: metadata.size(),
        mtime: metadata.mtime(),
        mtime_nsec: metadata.mtime_nsec(),
        inode: metadata.ino(),
        device: metadata.dev(),
    }
}

/// Writes the parts one after the other at `offset`, in as few calls as the system takes.
fn write_parts(
    mut offset: u64,
    parts: &[&[u8]],
    write: impl Fn(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    // Of nothing, nothing is written, which elsewhere means that nothing can be.
    let parts = parts.iter().filter(|part| !part.is_empty());
    let mut slices: Vec<IoSlice<'_>> = parts.map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match write(rest, offset) {
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// The system may take less than it is given, or be interrupted: all is written, and once.
    #[test]
    fn short_writes_are_gone_on_with() {
        let parts: [&[u8]; 3] = [b"one", b"", b"twothree"];
        let (written, calls) = (RefCell::new(vec![0; 20]), Cell::new(0));
        let write = |rest: &[IoSlice<'_>], offset: u64| {
            calls.set(calls.get() + 1);
            if calls.get() % 3 == 0 {
                return Err(rustix::io::Errno::INTR);
            }
            let bytes: Vec<u8> = rest.iter().flat_map(|part| part.iter().copied()).collect();
            let taken = bytes.len().min(2);
            let at = offset as usize;
            written.borrow_mut()[at..at + taken].copy_from_slice(&bytes[..taken]);
            Ok(taken)
        };
        write_parts(5, &parts, write).unwrap();
        assert_eq!(&written.borrow()[5..16], b"onetwothree");
        assert!(calls.get() > 6);
        let full = write_parts(0, &parts, |_, _| Ok(0)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn copies_within_the_kernel_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Disk.open(&dir.path().join(name), Access::Create).unwrap().0;
        let (from, to) = (open("from"), open("to"));
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
        from.write_at(0, &[&bytes]).unwrap();
        assert_eq!(to.copy_from(&*from, 0, 1_000_000).unwrap(), 1_000_000);
        assert_eq!(
            to.copy_from(&*from, 1_000_000, u64::MAX).unwrap(),
            2_000_000
        );
        assert_eq!(to.copy_from(&*from, 3_000_000, 5).unwrap(), 0);
        assert_eq!(to.read_at(0, 4_000_000).unwrap(), bytes);
    }
}
