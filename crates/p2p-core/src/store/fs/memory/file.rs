//! A file in memory, and what is open of it. It is sparse: what was never written takes nothing.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::store::fs::FileHandle;
use crate::store::record::FileStamp;

/// Bytes of a file that are kept, or are a hole, together. Blocks are a multiple of it.
pub(super) const PIECE: usize = 64 * 1024;

/// A file, whatever its names are, if any.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) number: u64,
    bytes: RwLock<Sparse>,
    locked: AtomicBool,
    changes: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
pub(super) struct Sparse {
    len: u64,
    /// By their place in the file. One that is shorter than [`PIECE`] goes on with zeros.
    pieces: BTreeMap<u64, Vec<u8>>,
    /// The number of the last change.
    pub(super) changed: u64,
}

/// An open file. What is locked through it is free when it is dropped.
#[derive(Debug)]
pub(super) struct MemoryFile {
    inode: Arc<Inode>,
    has_lock: AtomicBool,
}

pub(super) fn stamp(number: u64, size: u64, changed: u64) -> FileStamp {
    FileStamp {
        size,
        mtime: i64::try_from(changed).unwrap_or(i64::MAX),
        mtime_nsec: 0,
        inode: number,
        device: 0,
    }
}

impl Inode {
    pub(super) fn new(number: u64, changes: &Arc<AtomicU64>) -> Self {
        Self {
            number,
            bytes: RwLock::default(),
            locked: AtomicBool::new(false),
            changes: Arc::clone(changes),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Sparse> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a change, which gets a number of its own.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Sparse> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        bytes.changed = self.changes.fetch_add(1, Ordering::Relaxed);
        bytes
    }

    pub(super) fn stamp(&self) -> FileStamp {
        let bytes = self.read();
        stamp(self.number, bytes.len, bytes.changed)
    }
}

impl Sparse {
    pub(super) fn allocated(&self) -> u64 {
        self.pieces.values().map(|piece| piece.len() as u64).sum()
    }

    /// Adds what there is at `offset`, as far as there are `len` bytes.
    fn append_to(&self, out: &mut Vec<u8>, offset: u64, len: usize) {
        let end = self.len.min(offset.saturating_add(len as u64));
        let mut at = offset;
        while at < end {
            let (number, within) = place_of(at);
            let step = end.saturating_sub(at).min((PIECE - within) as u64) as usize;
            let piece = self.pieces.get(&number).map_or(&[][..], Vec::as_slice);
            let there = piece.get(within..).unwrap_or_default();
            let there = there.get(..step).unwrap_or(there);
            out.extend_from_slice(there);
            out.resize(
                out.len().saturating_add(step.saturating_sub(there.len())),
                0,
            );
            at = at.saturating_add(step as u64);
        }
    }

    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (number, within) = place_of(offset);
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE - within));
            let piece = self.pieces.entry(number).or_default();
            let end = within + now.len();
            if piece.len() < end {
                piece.resize(end, 0);
            }
            if let Some(place) = piece.get_mut(within..end) {
                place.copy_from_slice(now);
            }
            offset = offset.saturating_add(now.len() as u64);
            bytes = rest;
        }
        self.len = self.len.max(offset);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (number, within) = place_of(len);
            drop(self.pieces.split_off(&number.saturating_add(1)));
            if let Some(piece) = self.pieces.get_mut(&number) {
                piece.truncate(within);
                if piece.is_empty() {
                    self.pieces.remove(&number);
                }
            }
        }
        self.len = len;
    }
}

/// The piece that a byte is in, and where in it.
fn place_of(offset: u64) -> (u64, usize) {
    (offset / PIECE as u64, (offset % PIECE as u64) as usize)
}

impl FileHandle for MemoryFile {
    fn stamp(&self) -> io::Result<FileStamp> {
        Ok(self.inode.stamp())
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.inode.read();
        let there = bytes.len.saturating_sub(offset);
        let mut out =
            Vec::with_capacity(usize::try_from(there).map_or(len, |there| there.min(len)));
        bytes.append_to(&mut out, offset, len);
        Ok(out)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = self.read_at(offset, buffer.len())?;
        if bytes.len() < buffer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    fn write_at(&self, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut bytes = self.inode.write();
        for part in parts {
            bytes.write(offset, part);
            offset = offset.saturating_add(part.len() as u64);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inode.write().set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let free = !self.inode.locked.swap(true, Ordering::AcqRel);
        if free {
            self.has_lock.store(true, Ordering::Release);
        }
        Ok(free)
    }

    fn data_ranges(&self, len: u64) -> Vec<Range<u64>> {
        let bytes = self.inode.read();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (number, piece) in &bytes.pieces {
            let start = number.saturating_mul(PIECE as u64);
            let end = start.saturating_add(piece.len() as u64).min(len);
            match ranges.last_mut() {
                _ if start >= end => break,
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        ranges
    }
}

impl MemoryFile {
    pub(super) fn new(inode: Arc<Inode>) -> Self {
        Self {
            inode,
            has_lock: AtomicBool::new(false),
        }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if *self.has_lock.get_mut() {
            self.inode.locked.store(false, Ordering::Release);
        }
    }
}
