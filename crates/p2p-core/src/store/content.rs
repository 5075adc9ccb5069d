//! A handle to one content: reading it, and everything that reading and writing it share.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use super::direct::Writing;
use super::fs::{Access, FileHandle, FileSystem, OpenFile};
use super::outline::KnownOutline;
use super::part::PartFile;
use super::record::{ContentRecord, FileStamp, Place};
use super::shared::{Guarded, Shared};
use super::{IndexError, ReadError, files};
use crate::content::{BLOCK_LEN, BlockIndex, BlockSet, ContentId};
use crate::content::{Geometry, TreeError, VerifiedBlock};

/// How old the last look at the file of a share may be. Every block is verified besides; this finds files that were
/// replaced or deleted while what is read of them is still right.
const STAMP_AGE: Duration = Duration::from_millis(200);

/// A content in the store, complete or being fetched. Shared by everyone who uses it; every method may be called
/// from several threads at once, and may block on the disk.
pub struct Content {
    pub(super) id: ContentId,
    pub(super) geometry: Geometry,
    pub(super) shared: Arc<Shared>,
    /// Names this handle among the open files.
    serial: u64,
    pub(super) located: Guarded<Located>,
    pub(super) outline: RwLock<KnownOutline>,
    pub(super) held: Guarded<Held>,
    /// Made when somebody asks: of a million small files nobody does.
    changes: OnceLock<watch::Sender<u32>>,
    /// Bytes of it that are still to be written, as counted by [`Shared::promise`].
    promised: AtomicU64,
    health: AtomicU8,
    checked: Guarded<Option<Instant>>,
    /// Whether there is something that the last checkpoint did not have.
    pub(super) dirty: AtomicBool,
    /// Whether the name of the partial file survives a crash, as far as this handle knows.
    pub(super) named: AtomicBool,
    /// Whether the store was told to forget it while it was fetched.
    pub(super) forgotten: AtomicBool,
    /// Held while a write is under way; see [`Content::writing`].
    writing: Mutex<Writing>,
    /// Runs the search of a partial file for blocks, once, while others wait.
    pub(super) resumed: Once,
}

/// Where the bytes are.
#[derive(Clone, Debug)]
pub(super) enum Located {
    Object(PathBuf),
    File {
        path: PathBuf,
        stamp: FileStamp,
    },
    Part {
        part: PartFile,
        /// `None` until the file is made, which is when something is written to it.
        stamp: Option<FileStamp>,
    },
}

/// The blocks of the content in its file.
pub(super) struct Held {
    pub(super) blocks: BlockSet,
    /// Blocks that were in a partial file when it was opened and could not be verified yet for want of the outline.
    pub(super) unproven: BlockSet,
}

const SOUND: u8 = 0;
const CHANGED: u8 = 1;
const MISSING: u8 = 2;
const UNSYNCED: u8 = 3;

impl Content {
    pub(super) fn new(
        shared: &Arc<Shared>,
        id: ContentId,
        geometry: Geometry,
        located: Located,
    ) -> Self {
        let blocks = geometry.blocks();
        let held = match located {
            Located::Part { .. } => BlockSet::new(blocks),
            _ => BlockSet::full(blocks),
        };
        let content = Self {
            id,
            geometry,
            shared: Arc::clone(shared),
            serial: next_serial(),
            located: Guarded::new(located),
            outline: RwLock::new(KnownOutline::new(id, geometry)),
            held: Guarded::new(Held {
                blocks: held,
                unproven: BlockSet::new(0),
            }),
            changes: OnceLock::new(),
            promised: AtomicU64::new(0),
            health: AtomicU8::new(SOUND),
            checked: Guarded::default(),
            dirty: AtomicBool::new(false),
            named: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            writing: Mutex::default(),
            resumed: Once::new(),
        };
        content.promise(content.held_count());
        content
    }

    /// The content of a file that was looked at just now and has this stamp.
    pub(super) fn of_file(
        shared: &Arc<Shared>,
        id: ContentId,
        geometry: Geometry,
        path: PathBuf,
        stamp: FileStamp,
    ) -> Self {
        let content = Self::new(shared, id, geometry, Located::File { path, stamp });
        *content.checked.lock() = Some(Instant::now());
        content
    }

    /// Opens what the index says is complete. `None` if the record makes no sense.
    pub(super) fn open_complete(
        shared: &Arc<Shared>,
        id: ContentId,
        record: &ContentRecord,
    ) -> Result<Option<Self>, IndexError> {
        let Some(geometry) = record.geometry() else {
            return Ok(None);
        };
        let located = match &record.place {
            Place::Object => Located::Object(shared.object_path(id)),
            Place::Part(_) => return Ok(None),
            Place::File(path) => match shared.index.path(path)? {
                Some(known) => Located::File {
                    path: files::from_bytes(path),
                    stamp: known.stamp,
                },
                None => return Ok(None),
            },
        };
        Ok(Some(Self::new(shared, id, geometry, located)))
    }

    /// Its id.
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// Its size and blocks.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The file it is in now: the share, the download, the partial file or the object.
    pub fn path(&self) -> PathBuf {
        match &*self.located.lock() {
            Located::Object(path) | Located::File { path, .. } => path.clone(),
            Located::Part { part, .. } => part.path(),
        }
    }

    /// Whether every block is held. A fetch is finished by [`Store::finish`](super::Store::finish) only.
    pub fn is_complete(&self) -> bool {
        self.held.lock().blocks.is_full()
    }

    /// The blocks held now.
    pub fn held(&self) -> BlockSet {
        self.held.lock().blocks.clone()
    }

    /// The number of blocks held now.
    pub fn held_count(&self) -> u32 {
        self.held.lock().blocks.count()
    }

    /// Whether a block is held now.
    pub fn holds(&self, block: BlockIndex) -> bool {
        self.held.lock().blocks.contains(block.get())
    }

    /// Tells of every change of the number of blocks held.
    pub fn changes(&self) -> watch::Receiver<u32> {
        // Under the lock, so that what changes later finds it.
        let held = self.held.lock();
        let changes = self.changes.get_or_init(|| {
            let (changes, _) = watch::channel(held.blocks.count());
            changes
        });
        changes.subscribe()
    }

    /// Reads a block: from memory, or from the file and then verified.
    ///
    /// # Errors
    /// [`ReadError`]. After `Changed` or `Missing` every read of this handle gives the same; the index knows it, and
    /// [`Store::content`](super::Store::content) gives another handle if there is another copy.
    pub fn block(&self, block: BlockIndex) -> Result<VerifiedBlock, ReadError> {
        self.check_health()?;
        self.check_stamp()?;
        if !self.holds(block) {
            return Err(ReadError::NotHeld);
        }
        let read = || self.read_verified(block);
        self.shared.cache.block(self.id, block, read)
    }

    /// Fills `buffer` from the content at `offset`, as far as there is content. Returns how many bytes that were.
    ///
    /// # Errors
    /// As [`Content::block`]; what the buffer holds then is not to be used.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let end = offset
            .saturating_add(buffer.len() as u64)
            .min(self.geometry.size());
        let mut filled = 0;
        for number in self.geometry.blocks_in(offset..end.max(offset)) {
            let Some(index) = self.geometry.block(number) else {
                break;
            };
            let block = self.block(index)?;
            let at = offset
                .saturating_add(filled as u64)
                .saturating_sub(self.geometry.offset_of(index));
            let from = block
                .bytes()
                .get(usize::try_from(at).unwrap_or(usize::MAX)..)
                .unwrap_or_default();
            let room = buffer.get_mut(filled..).unwrap_or_default();
            let len = from.len().min(room.len());
            if let (Some(to), Some(from)) = (room.get_mut(..len), from.get(..len)) {
                to.copy_from_slice(from);
            }
            filled = filled.saturating_add(len);
        }
        Ok(filled)
    }

    /// Reads a held block past the cache. A block that turns out wrong is blamed on the file.
    pub(super) fn read_verified(&self, block: BlockIndex) -> Result<VerifiedBlock, ReadError> {
        self.load_outline(block)?;
        let file = self.file()?;
        let bytes = self.read_raw(&*file, block).map_err(ReadError::Io)?;
        let verified = self.known().tree.verify(block, bytes);
        verified.map_err(|error| self.blame_block(block, error))
    }

    /// Reads the bytes of a block as they are: fewer where the file ends early.
    pub(super) fn read_raw(&self, file: &dyn FileHandle, block: BlockIndex) -> io::Result<Bytes> {
        let (offset, len) = (self.geometry.offset_of(block), self.geometry.len_of(block));
        file.read_at(offset, len).map(Bytes::from)
    }

    /// Taken by who writes to the partial file. One at a time: the kernel lets no two write to a file at once, and has the
    /// second spin.
    pub(super) fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the writes that are under way are done. Those that come later skip the blocks that are held now.
    pub(super) fn wait_for_writes(&self) {
        *self.writing() = Writing::Unopened;
    }

    /// Whether reads can be expected to work.
    pub(super) fn is_sound(&self) -> bool {
        self.health.load(Ordering::Acquire) == SOUND
    }

    pub(super) fn is_unsynced(&self) -> bool {
        self.health.load(Ordering::Acquire) == UNSYNCED
    }

    /// The disk lost writes: nothing that was not checkpointed is trusted any more, nothing more is written.
    pub(super) fn set_unsynced(&self) {
        self.health.store(UNSYNCED, Ordering::Release);
        self.promise(self.held_count());
    }

    fn check_health(&self) -> Result<(), ReadError> {
        match self.health.load(Ordering::Acquire) {
            CHANGED => Err(ReadError::Changed),
            MISSING => Err(ReadError::Missing),
            _ => Ok(()),
        }
    }

    /// Looks whether a file shared in place is still the one that was shared, unless that was just done.
    fn check_stamp(&self) -> Result<(), ReadError> {
        {
            let now = Instant::now();
            let mut checked = self.checked.lock();
            if checked.is_some_and(|then| now.saturating_duration_since(then) < STAMP_AGE) {
                return Ok(());
            }
            *checked = Some(now);
        }
        let Located::File { path, stamp } = self.located.lock().clone() else {
            return Ok(());
        };
        match self.shared.fs.stamp(&path) {
            Ok(current) if current == stamp => Ok(()),
            Ok(_) => Err(self.condemn(CHANGED)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.condemn(MISSING)),
            Err(error) => Err(ReadError::Io(error)),
        }
    }

    /// Ends the use of this handle and has the index look for another copy.
    fn condemn(&self, health: u8) -> ReadError {
        self.health.store(health, Ordering::Release);
        self.shared.handles.close(self.serial);
        if let Err(error) = self.shared.resolve(self.id) {
            tracing::warn!(id = %self.id, %error, "a changed file could not be recorded as such");
        }
        if health == MISSING {
            ReadError::Missing
        } else {
            ReadError::Changed
        }
    }

    /// Ends the use of this handle, whose file is not what it was: reads that are under way fail at their next block.
    pub(super) fn give_up(&self, gone: bool) {
        let health = if gone { MISSING } else { CHANGED };
        self.health.store(health, Ordering::Release);
        self.shared.handles.close(self.serial);
    }

    /// A block that was believed held is not: drops it from a partial, gives up a complete file.
    fn blame_block(&self, block: BlockIndex, error: TreeError) -> ReadError {
        let located = self.located.lock().clone();
        tracing::warn!(id = %self.id, block = block.get(), path = %self.path().display(), %error, "a block on the disk is damaged");
        match located {
            Located::Part { .. } => {
                self.held.lock().blocks.remove(block.get());
                self.dirty.store(true, Ordering::Release);
                self.shared.distrust_block(self.id, block);
                self.tell();
                return ReadError::NotHeld;
            }
            Located::File { path, .. } => self.shared.distrust_path(self.id, &path),
            Located::Object(_) => self.shared.distrust_object(self.id),
        }
        self.condemn(CHANGED)
    }

    /// The open file, opened again if it was closed for others.
    pub(super) fn file(&self) -> Result<OpenFile, ReadError> {
        if let Some(file) = self.shared.handles.file(self.serial) {
            return Ok(file);
        }
        // Opened under the lock, so that a rename by `finish` is either before or after it.
        let opened = {
            let located = self.located.lock();
            located.open(&*self.shared.fs)
        };
        match opened {
            Ok(file) => {
                // One of a single block is read at once; keeping it would only close a larger one.
                if self.geometry.blocks() > 1 {
                    self.shared.handles.keep(self.serial, Arc::clone(&file));
                }
                Ok(file)
            }
            Err(Unopened::Changed) => Err(self.condemn(CHANGED)),
            Err(Unopened::Missing) => Err(self.condemn(MISSING)),
            Err(Unopened::Io(error)) => Err(ReadError::Io(error)),
        }
    }

    /// Has the next use open the file where it now is.
    pub(super) fn close_file(&self) {
        self.shared.handles.close(self.serial);
    }

    pub(super) fn keep_file(&self, file: OpenFile) {
        self.shared.handles.keep(self.serial, file);
    }

    /// Publishes the number of held blocks. It is read under the lock, so that calls of several threads end with the last.
    pub(super) fn tell(&self) {
        let held = self.held.lock();
        let current = held.blocks.count();
        self.promise(current);
        if let Some(changes) = self.changes.get() {
            changes.send_if_modified(|told| std::mem::replace(told, current) != current);
        }
    }
}

impl Content {
    /// Says how much is still to be written when so many blocks are held.
    fn promise(&self, held: u32) {
        let held = u64::from(held).saturating_mul(BLOCK_LEN as u64);
        let missing = if self.is_unsynced() {
            0
        } else {
            self.geometry.size().saturating_sub(held)
        };
        let before = self.promised.swap(missing, Ordering::Relaxed);
        self.shared.promise(before, missing);
    }
}

/// Why a file could not be opened.
pub(super) enum Unopened {
    Changed,
    Missing,
    Io(io::Error),
}

impl Located {
    /// Opens the file if it is still the one that is meant.
    pub(super) fn open(&self, fs: &dyn FileSystem) -> Result<OpenFile, Unopened> {
        let opened = match self {
            Self::Object(path) | Self::File { path, .. } => fs.open(path, Access::Read),
            Self::Part { stamp: None, .. } => return Err(Unopened::Missing),
            Self::Part { part, .. } => part.open(fs, false),
        };
        let (file, current) = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unopened::Missing,
            io::ErrorKind::InvalidInput => Unopened::Changed,
            _ => Unopened::Io(error),
        })?;
        let same = match self {
            Self::Object(_) => true,
            Self::File { stamp, .. } => current == *stamp,
            Self::Part { stamp, .. } => stamp.is_some_and(|stamp| current.same_file(&stamp)),
        };
        if same {
            Ok(file)
        } else {
            Err(Unopened::Changed)
        }
    }
}

fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Drop for Content {
    fn drop(&mut self) {
        self.shared.handles.close(self.serial);
        self.shared.promise(*self.promised.get_mut(), 0);
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("id", &self.id)
            .field("size", &self.geometry.size())
            .field("held", &self.held_count())
            .finish_non_exhaustive()
    }
}
