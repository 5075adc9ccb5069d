//! Large downloads on their way to the disk. They are written past the system's cache of files: through it they would push
//! out what is in use, and the copy into it was the largest part of a receiver's time.

use std::io;

use super::fs::{FileHandle, OpenFile};

/// Contents from this size on are written this way. What is smaller is likely to be read soon by whoever fetched it.
pub(super) const PAST_CACHE: u64 = 64 * 1024 * 1024;

/// Memory, offset and length of a direct write are multiples of this, which is enough for every block size of disks.
const ALIGNMENT: usize = 4096;

/// How a partial file is written.
#[derive(Debug, Default)]
pub(super) enum Writing {
    /// Nothing was written yet, or nothing will be.
    #[default]
    Unopened,
    /// The file system has no direct writes.
    Refused,
    /// The same file, opened for direct writes.
    Direct(OpenFile),
}

impl Writing {
    /// Writes the parts one after the other at `offset` of `file`: directly, or else without leaving them in memory, or
    /// else as usual.
    pub(super) fn write(
        &mut self,
        file: &dyn FileHandle,
        offset: u64,
        parts: &[&[u8]],
    ) -> io::Result<()> {
        if is_aligned(offset, parts)
            && let Some(direct) = self.direct(file)
        {
            match direct.write_at(offset, parts) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => *self = Self::Refused,
                other => return other,
            }
        }
        file.write_past_cache(offset, parts)
    }

    fn direct(&mut self, file: &dyn FileHandle) -> Option<&dyn FileHandle> {
        if let Self::Unopened = self {
            *self = file.reopen_direct().map_or(Self::Refused, Self::Direct);
        }
        match self {
            Self::Direct(direct) => Some(&**direct),
            _ => None,
        }
    }
}

fn is_aligned(offset: u64, parts: &[&[u8]]) -> bool {
    offset.is_multiple_of(ALIGNMENT as u64)
        && parts.iter().all(|part| {
            part.len().is_multiple_of(ALIGNMENT) && part.as_ptr().align_offset(ALIGNMENT) == 0
        })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A piece of memory that begins at a multiple of the alignment.
    fn aligned(memory: &mut Vec<u8>, len: usize) -> &mut [u8] {
        memory.resize(len + ALIGNMENT, 0);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        &mut memory[start..start + len]
    }

    #[test]
    fn what_is_written_is_there_aligned_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("part"))
            .unwrap();
        let mut writing = Writing::default();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let first = aligned(&mut a, 2 * ALIGNMENT);
        first.fill(1);
        let second = aligned(&mut b, ALIGNMENT);
        second.fill(2);
        writing.write(&file, 0, &[first, second]).unwrap();
        assert!(!matches!(writing, Writing::Unopened));
        // The end of a file is rarely a multiple of anything.
        writing.write(&file, 3 * 4096, &[&[3; 100]]).unwrap();
        let mut all = vec![0; 3 * ALIGNMENT + 100];
        FileExt::read_exact_at(&file, &mut all, 0).unwrap();
        let expected = [vec![1; 8192], vec![2; 4096], vec![3; 100]].concat();
        assert_eq!(all, expected);
        assert_eq!(file.metadata().unwrap().len(), 3 * 4096 + 100);
    }

    #[test]
    fn a_file_that_cannot_be_written_directly_is_written_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(dir.path().join("part")).unwrap();
        let mut writing = Writing::Refused;
        let mut memory = Vec::new();
        let bytes = aligned(&mut memory, ALIGNMENT);
        bytes.fill(9);
        writing.write(&file, 0, &[bytes]).unwrap();
        assert_eq!(std::fs::read(dir.path().join("part")).unwrap(), bytes);
    }
}
