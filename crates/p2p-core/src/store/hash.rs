//! Hashing files with every core.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::fs::{Access, FileHandle, FileSystem};
use super::record::FileStamp;
use super::shared::Guarded;
use super::{ImportError, Progress};
use crate::content::{
    BLOCK_LEN, ChainingValue, ContentId, Geometry, Outline, OutlineBuilder, block_value,
};

/// Blocks read at once by one thread: 1 MiB keeps a disk busy and the buffer in the cache of a core.
const SEGMENT_BLOCKS: usize = 4;

/// A file and what was found in it.
pub(super) struct Hashed {
    pub(super) id: ContentId,
    pub(super) outline: Outline,
    pub(super) stamp: FileStamp,
}

/// Counts the bytes of one import and asks whether to go on.
pub(super) struct Meter<'a> {
    progress: &'a Progress<'a>,
    done: AtomicU64,
    total: u64,
}

impl<'a> Meter<'a> {
    pub(super) fn new(progress: &'a Progress<'a>, total: u64) -> Self {
        Self {
            progress,
            done: AtomicU64::new(0),
            total,
        }
    }

    pub(super) fn add(&self, bytes: u64) {
        let done = self
            .done
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        self.progress.report(done, self.total);
    }

    /// Bytes so far.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<(), ImportError> {
        self.progress.check()
    }
}

/// The threads that work is spread over.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs `work` on this thread and, as far as the system gives them, others, until all are done.
pub(super) fn on_cores(count: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 1..count {
            // Fewer threads are slower, not wrong.
            if thread::Builder::new()
                .name("p2p-store".to_owned())
                .spawn_scoped(scope, &work)
                .is_err()
            {
                break;
            }
        }
        work();
    });
}

/// What `work` gives for each of the items, in no order, by all cores.
pub(super) fn on_all_cores<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Option<R> + Sync,
) -> Vec<R> {
    let queue = Guarded::new(items.iter());
    let results = Guarded::new(Vec::new());
    on_cores(cores().min(items.len()), || {
        loop {
            let Some(item) = queue.lock().next() else {
                return;
            };
            if let Some(result) = work(item) {
                results.lock().push(result);
            }
        }
    });
    std::mem::take(&mut *results.lock())
}

/// Hashes a file that must stay as it is meanwhile. Memory: 32 bytes for each block twice, and a buffer per thread.
pub(super) fn hash_file(
    fs: &dyn FileSystem,
    path: &Path,
    threads: usize,
    meter: &Meter<'_>,
) -> Result<Hashed, ImportError> {
    let failed = |error: io::Error| read_failure(path, error);
    let (file, stamp) = fs.open(path, Access::Read).map_err(failed)?;
    let geometry = Geometry::new(stamp.size).map_err(|_| ImportError::TooLarge {
        path: path.to_path_buf(),
    })?;
    let (id, outline) = if geometry.blocks() <= 1 {
        // One byte more, to see that there is none.
        let len = geometry.size().saturating_add(1).min(BLOCK_LEN as u64);
        let bytes = file.read_at(0, len as usize).map_err(failed)?;
        meter.add(bytes.len() as u64);
        OutlineBuilder::single(&bytes)
    } else {
        let values = hash_blocks(&*file, geometry, threads, path, meter)?;
        let mut builder = OutlineBuilder::new(geometry);
        values.into_iter().for_each(|value| builder.push(value));
        builder
            .finish()
            .map_err(|error| failed(io::Error::other(error)))?
    };
    let after = file.stamp().map_err(failed)?;
    let still_there = fs.stamp(path).is_ok_and(|there| there == stamp);
    if after != stamp || !still_there || outline.geometry() != geometry {
        return Err(ImportError::ChangedWhileReading {
            path: path.to_path_buf(),
        });
    }
    Ok(Hashed { id, outline, stamp })
}

/// The values of all blocks, in order. Threads take a segment each from what is left.
fn hash_blocks(
    file: &dyn FileHandle,
    geometry: Geometry,
    threads: usize,
    path: &Path,
    meter: &Meter<'_>,
) -> Result<Vec<ChainingValue>, ImportError> {
    file.will_read_all();
    let mut values = vec![ChainingValue::default(); geometry.blocks() as usize];
    let failure = Guarded::new(None);
    let stop = AtomicBool::new(false);
    let queue = Guarded::new(
        (0_u32..)
            .step_by(SEGMENT_BLOCKS)
            .zip(values.chunks_mut(SEGMENT_BLOCKS)),
    );
    on_cores(threads, || {
        let mut buffer = vec![0; SEGMENT_BLOCKS * BLOCK_LEN];
        while !stop.load(Ordering::Relaxed) {
            let Some((first, values)) = queue.lock().next() else {
                return;
            };
            let hashed = meter.check().and_then(|()| {
                let bytes = hash_segment(file, geometry, first, values, &mut buffer);
                bytes.map_err(|error| read_failure(path, error))
            });
            match hashed {
                Ok(bytes) => meter.add(bytes),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    *failure.lock() = Some(error);
                }
            }
        }
    });
    let failure = failure.lock().take();
    failure.map_or(Ok(values), Err)
}

/// Reads and hashes a few blocks. Returns how many bytes they have.
fn hash_segment(
    file: &dyn FileHandle,
    geometry: Geometry,
    first: u32,
    values: &mut [ChainingValue],
    buffer: &mut [u8],
) -> io::Result<u64> {
    let start = u64::from(first) * BLOCK_LEN as u64;
    let len = (buffer.len() as u64).min(geometry.size() - start);
    let bytes = &mut buffer[..len as usize];
    file.read_exact_at(start, bytes)?;
    for ((value, block), offset) in values
        .iter_mut()
        .zip(bytes.chunks(BLOCK_LEN))
        .zip((start..).step_by(BLOCK_LEN))
    {
        *value = block_value(offset, block);
    }
    Ok(len)
}

fn read_failure(path: &Path, error: io::Error) -> ImportError {
    match error.kind() {
        io::ErrorKind::InvalidInput => ImportError::NotAFile {
            path: path.to_path_buf(),
        },
        // It became shorter.
        io::ErrorKind::UnexpectedEof => ImportError::ChangedWhileReading {
            path: path.to_path_buf(),
        },
        _ => ImportError::io(path, error),
    }
}
