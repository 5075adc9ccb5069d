//! A file system that fails, or loses power, at the operation that a test chooses.
//!
//! It passes everything on to another one, and keeps a journal of every change. A change is safe once it was synced: the
//! bytes and the length of a file by a sync of the file, its times by a full sync, its names by a sync of the folder, all
//! by a sync of the file system. When the power is lost, what is safe is kept; of the rest each change is kept, dropped or,
//! if it is a write, torn between sectors, as a seed has it. That is what POSIX allows, and more than most file systems do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::fs::{Access, FileHandle, FileSystem, Folder, Memory, OpenFile, ROOT, Stat};
use super::super::record::FileStamp;
use super::super::shared::Guarded;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What happens at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The power is lost: the operation and all that follow fail.
    PowerLoss,
    /// It fails, and nothing of it happened. A sync that fails loses what it was to make safe.
    Error,
    /// A part of what is written is, then the disk is full. What is no write fails like that too.
    Short,
}

#[derive(Clone, Debug)]
pub(super) struct Faulty {
    inner: Arc<dyn FileSystem>,
    state: Arc<Guarded<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Changes and syncs so far.
    operations: u64,
    fault: Option<(u64, Fault)>,
    off: bool,
    syncs_fail: bool,
    journal: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    change: Change,
    safety: Safety,
    /// The number that the file system gave to the state of the file after it, and whether a sync took that too.
    changed: u64,
    times_safe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Safety {
    /// In the system's memory.
    Pending,
    Safe,
    /// The system believes that it is on the disk, which it is not.
    Lost,
}

#[derive(Clone, Debug)]
enum Change {
    Write {
        file: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLen {
        file: u64,
        len: u64,
    },
    Add {
        folder: u64,
        name: OsString,
        node: u64,
        is_folder: bool,
    },
    Rename {
        from: (u64, OsString),
        to: (u64, OsString),
        node: u64,
    },
    Remove {
        folder: u64,
        name: OsString,
    },
}

impl Change {
    fn file(&self) -> Option<u64> {
        match self {
            Self::Write { file, .. } | Self::SetLen { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// Does what it does to the bytes of a file.
    fn redo(&self, file: &dyn FileHandle) {
        match self {
            Self::Write { offset, bytes, .. } => file.write_at(*offset, &[bytes]),
            Self::SetLen { len, .. } => file.set_len(*len),
            _ => Ok(()),
        }
        .unwrap();
    }

    /// The folder by whose sync it becomes safe.
    fn folder(&self) -> Option<u64> {
        match self {
            Self::Add { folder, .. } | Self::Remove { folder, .. } => Some(*folder),
            Self::Rename { to, .. } => Some(to.0),
            _ => None,
        }
    }
}

fn failure() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn FileSystem>) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    /// Has a fault happen at the operation of this number, the first being 1.
    pub(super) fn fail_at(&self, operation: u64, fault: Fault) {
        self.state.lock().fault = Some((operation, fault));
    }

    /// Every sync of files fails from now on, or works again; those of folders work.
    pub(super) fn fail_syncs(&self, fail: bool) {
        self.state.lock().syncs_fail = fail;
    }

    pub(super) fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Whether the fault has happened.
    pub(super) fn has_failed(&self) -> bool {
        let state = self.state.lock();
        state.fault.is_some_and(|(at, _)| state.operations >= at)
    }

    /// Everything so far is safe: what a test has prepared.
    pub(super) fn sync_all(&self) {
        let mut state = self.state.lock();
        for entry in &mut state.journal {
            entry.safety = Safety::Safe;
            entry.times_safe = true;
        }
    }

    /// Loses the power, and gives what is left.
    pub(super) fn after_power_loss(&self, seed: u64) -> Memory {
        let mut state = self.state.lock();
        state.off = true;
        Survivor::of(&state.journal, seed).into_memory()
    }
}

impl State {
    /// Counts an operation, and says what is to happen at it.
    fn step(&mut self) -> io::Result<Option<Fault>> {
        if self.off {
            return Err(failure());
        }
        self.operations += 1;
        let fault = self
            .fault
            .filter(|(at, _)| *at == self.operations)
            .map(|(_, fault)| fault);
        self.off |= fault == Some(Fault::PowerLoss);
        Ok(fault)
    }

    fn note(&mut self, change: Change, changed: u64) {
        self.journal.push(Entry {
            change,
            safety: Safety::Pending,
            changed,
            times_safe: false,
        });
    }

    /// Makes a change, or fails to: then a loss of power may find it done all the same.
    fn change(
        &mut self,
        change: impl FnOnce() -> Option<Change>,
        apply: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let fault = self.step()?;
        let change = change();
        match fault {
            None => apply()?,
            Some(Fault::PowerLoss) => {
                change.into_iter().for_each(|change| self.note(change, 0));
                return Err(failure());
            }
            Some(Fault::Error) => return Err(failure()),
            Some(Fault::Short) => return Err(full()),
        }
        change.into_iter().for_each(|change| self.note(change, 0));
        Ok(())
    }

    fn sync(&mut self, which: impl Fn(&Change) -> bool, times: bool) -> io::Result<()> {
        let fault = self.step()?;
        let fails = fault.is_some() || self.syncs_fail;
        if fault == Some(Fault::PowerLoss) {
            return Err(failure());
        }
        let of_those = self.journal.iter_mut().filter(|entry| which(&entry.change));
        for entry in of_those {
            match (entry.safety, fails) {
                // A folder's names stay to be written: that is the journal of the file system.
                (Safety::Pending, true) if entry.change.file().is_some() => {
                    entry.safety = Safety::Lost
                }
                (Safety::Pending, false) => entry.safety = Safety::Safe,
                _ => {}
            }
            entry.times_safe |= times && !fails;
        }
        if fails { Err(failure()) } else { Ok(()) }
    }
}

fn time_of(stamp: &FileStamp) -> u64 {
    u64::try_from(stamp.mtime).unwrap()
}

/// The number of the folder that a path is in, and its name.
fn parent(fs: &dyn FileSystem, path: &Path) -> Option<(u64, OsString)> {
    let folder = fs.stat(path.parent()?).ok()?.stamp.inode;
    Some((folder, path.file_name()?.to_owned()))
}

impl Faulty {
    fn open_with(
        &self,
        path: &Path,
        access: Access,
        open: impl Fn(Access) -> io::Result<(OpenFile, FileStamp)>,
    ) -> io::Result<(OpenFile, FileStamp)> {
        let mut state = self.state.lock();
        if state.off {
            return Err(failure());
        }
        let makes =
            matches!(access, Access::Create | Access::CreateNew) && !self.inner.exists(path);
        let opened = if makes {
            let fault = state.step()?;
            if fault == Some(Fault::Error) {
                return Err(failure());
            }
            if fault == Some(Fault::Short) {
                return Err(full());
            }
            let (file, stamp) = open(access)?;
            if let Some((folder, name)) = parent(&*self.inner, path) {
                let (node, is_folder) = (stamp.inode, false);
                let add = Change::Add {
                    folder,
                    name,
                    node,
                    is_folder,
                };
                state.note(add, 0);
                state.note(Change::SetLen { file: node, len: 0 }, time_of(&stamp));
            }
            if fault.is_some() {
                return Err(failure());
            }
            (file, stamp)
        } else {
            open(access)?
        };
        let (inner, stamp) = opened;
        let file = FaultyFile {
            inner,
            number: stamp.inode,
            state: Arc::clone(&self.state),
        };
        Ok((Arc::new(file), stamp))
    }

    /// Notes the folders that making one made.
    fn create_with(&self, path: &Path, create: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|path| !self.inner.exists(path))
            .collect();
        let mut state = self.state.lock();
        if state.off {
            return Err(failure());
        }
        if missing.is_empty() {
            return create();
        }
        let fault = state.step()?;
        match fault {
            Some(Fault::Error) => return Err(failure()),
            Some(Fault::Short) => return Err(full()),
            _ => create()?,
        }
        for made in missing.into_iter().rev() {
            let node = self.inner.stat(made)?.stamp.inode;
            if let Some((folder, name)) = parent(&*self.inner, made) {
                let add = Change::Add {
                    folder,
                    name,
                    node,
                    is_folder: true,
                };
                state.note(add, 0);
            }
        }
        fault.map_or(Ok(()), |_| Err(failure()))
    }

    fn rename_with(
        &self,
        from: &Path,
        to: &Path,
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let change = || {
            let node = self.inner.stat(from).ok()?.stamp.inode;
            let (from, to) = (parent(&*self.inner, from)?, parent(&*self.inner, to)?);
            Some(Change::Rename { from, to, node })
        };
        self.state.lock().change(change, rename)
    }

    fn remove_with(&self, path: &Path, remove: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if !self.inner.exists(path) {
            return self.running().and_then(|()| remove());
        }
        let change = || {
            let (folder, name) = parent(&*self.inner, path)?;
            Some(Change::Remove { folder, name })
        };
        self.state.lock().change(change, remove)
    }

    fn running(&self) -> io::Result<()> {
        if self.state.lock().off {
            Err(failure())
        } else {
            Ok(())
        }
    }
}

impl FileSystem for Faulty {
    fn open(&self, path: &Path, access: Access) -> io::Result<(OpenFile, FileStamp)> {
        self.open_with(path, access, |access| self.inner.open(path, access))
    }

    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        self.running()?;
        let inner = self.inner.folder(path)?;
        let (path, fs) = (path.to_path_buf(), self.clone());
        Ok(Arc::new(FaultyFolder { inner, path, fs }))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.running()?;
        self.inner.stat(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Stat)>> {
        self.running()?;
        self.inner.list(path)
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.running()?;
        self.inner.real_path(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.create_with(path, || self.inner.create_folder(path))
    }

    fn create_private_folders(&self, path: &Path) -> io::Result<()> {
        self.create_with(path, || self.inner.create_private_folders(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_with(from, to, || self.inner.rename(from, to))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_with(from, to, || self.inner.rename_new(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.remove_with(path, || self.inner.remove_file(path))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.remove_with(path, || self.inner.remove_folder(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.running()?;
        let folder = self.inner.stat(path)?.stamp.inode;
        self.inner.sync_folder(path)?;
        let of_it = |change: &Change| change.folder() == Some(folder);
        let mut state = self.state.lock();
        let files_fail = std::mem::take(&mut state.syncs_fail);
        let synced = state.sync(of_it, true);
        state.syncs_fail = files_fail;
        synced
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        self.running()?;
        self.inner.free(path)
    }
}

#[derive(Debug)]
struct FaultyFolder {
    inner: Arc<dyn Folder>,
    path: PathBuf,
    fs: Faulty,
}

impl Folder for FaultyFolder {
    fn open(&self, relative: &Path, access: Access) -> io::Result<(OpenFile, FileStamp)> {
        let path = self.path.join(relative);
        self.fs
            .open_with(&path, access, |access| self.inner.open(relative, access))
    }

    fn folder(&self, relative: &Path) -> io::Result<Arc<dyn Folder>> {
        self.fs.running()?;
        Ok(Arc::new(Self {
            inner: self.inner.folder(relative)?,
            path: self.path.join(relative),
            fs: self.fs.clone(),
        }))
    }

    fn stat(&self, relative: &Path) -> io::Result<Stat> {
        self.fs.running()?;
        self.inner.stat(relative)
    }

    fn create_folders(&self, relative: &Path) -> io::Result<()> {
        let path = self.path.join(relative);
        self.fs
            .create_with(&path, || self.inner.create_folders(relative))
    }

    fn move_below(&self, relative: &Path, target: &Path) -> io::Result<()> {
        let (from, to) = (self.path.join(relative), target.join(relative));
        self.fs
            .rename_with(&from, &to, || self.inner.move_below(relative, target))
    }

    fn sync_everything(&self) -> io::Result<bool> {
        self.fs.state.lock().sync(|_| true, true)?;
        self.inner.sync_everything()
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: OpenFile,
    number: u64,
    state: Arc<Guarded<State>>,
}

impl FaultyFile {
    fn running(&self) -> io::Result<()> {
        if self.state.lock().off {
            Err(failure())
        } else {
            Ok(())
        }
    }

    fn sync(&self, times: bool) -> io::Result<()> {
        let number = self.number;
        self.state
            .lock()
            .sync(|change| change.file() == Some(number), times)
    }

    fn time(&self) -> u64 {
        self.inner.stamp().map_or(0, |stamp| time_of(&stamp))
    }
}

impl FileHandle for FaultyFile {
    fn stamp(&self) -> io::Result<FileStamp> {
        self.running()?;
        self.inner.stamp()
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.running()?;
        self.inner.read_at(offset, len)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.running()?;
        self.inner.read_exact_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = self.state.lock();
        let fault = state.step()?;
        let mut bytes = parts.concat();
        match fault {
            Some(Fault::Error) => return Err(failure()),
            Some(Fault::Short) => bytes.truncate(bytes.len() / 2),
            Some(Fault::PowerLoss) | None => {}
        }
        if fault != Some(Fault::PowerLoss) {
            self.inner.write_at(offset, &[&bytes])?;
        }
        let file = self.number;
        state.note(
            Change::Write {
                file,
                offset,
                bytes,
            },
            self.time(),
        );
        match fault {
            None => Ok(()),
            Some(Fault::Short) => Err(full()),
            Some(_) => Err(failure()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = self.number;
        let change = Change::SetLen { file, len };
        state.change(|| Some(change), || self.inner.set_len(len))?;
        if let Some(entry) = state.journal.last_mut() {
            entry.changed = self.time();
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(false)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(true)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.running()?;
        self.inner.try_lock()
    }

    fn data_ranges(&self, len: u64) -> Vec<Range<u64>> {
        self.inner.data_ranges(len)
    }

    /// What a failed sync lost is no longer there to be read.
    fn drop_from_memory(&self) {
        let mut state = self.state.lock();
        let number = self.number;
        let of_it = |entry: &Entry| entry.change.file() == Some(number);
        let lost = |entry: &Entry| of_it(entry) && entry.safety == Safety::Lost;
        if state.off || !state.journal.iter().any(lost) {
            return;
        }
        state.journal.retain(|entry| !lost(entry));
        self.inner.set_len(0).unwrap();
        for entry in state.journal.iter().filter(|entry| of_it(entry)) {
            entry.change.redo(&*self.inner);
        }
        let changed = self.time();
        if let Some(last) = state.journal.iter_mut().rev().find(|entry| of_it(entry)) {
            last.changed = changed;
        }
    }
}

/// What is on the disk after the power was lost.
#[derive(Default)]
struct Survivor {
    folders: HashMap<u64, BTreeMap<OsString, u64>>,
    files: HashMap<u64, Surviving>,
}

#[derive(Default)]
struct Surviving {
    changes: Vec<Change>,
    changed: u64,
}

/// What becomes of the changes that are not safe.
#[derive(Clone, Copy)]
enum Fate {
    Kept,
    Dropped,
    ByTheCoin,
}

impl Survivor {
    fn of(journal: &[Entry], seed: u64) -> Self {
        let mut coins = Coins::of(seed);
        let fate = match seed % 4 {
            0 => Fate::Dropped,
            1 => Fate::Kept,
            _ => Fate::ByTheCoin,
        };
        let mut survivor = Self::default();
        survivor.folders.insert(ROOT, BTreeMap::new());
        for entry in journal {
            let safe = entry.safety == Safety::Safe;
            let kept = match (fate, entry.safety) {
                (_, Safety::Safe) => true,
                (_, Safety::Lost) | (Fate::Dropped, _) => false,
                (Fate::Kept, _) => true,
                (Fate::ByTheCoin, _) => coins.toss(),
            };
            if let Change::Add {
                node,
                is_folder: true,
                ..
            } = &entry.change
            {
                // What is in it may be safe though its own name is not.
                survivor.folders.entry(*node).or_default();
            }
            if !kept {
                continue;
            }
            let timed = entry.times_safe
                || match fate {
                    Fate::Dropped => false,
                    Fate::Kept => true,
                    Fate::ByTheCoin => coins.toss(),
                };
            let torn = !safe && matches!(fate, Fate::ByTheCoin) && coins.toss();
            survivor.apply(entry, timed, torn.then_some(&mut coins));
        }
        survivor
    }

    /// Does a change; of a write that is torn, with sectors as the coins fall.
    fn apply(&mut self, entry: &Entry, timed: bool, mut torn: Option<&mut Coins>) {
        let changed = entry.changed;
        match &entry.change {
            Change::Write {
                file,
                offset,
                bytes,
            } => {
                let file_of = self.files.entry(*file).or_default();
                let piece = torn.as_ref().map_or(bytes.len().max(1), |_| SECTOR);
                for (number, sector) in bytes.chunks(piece).enumerate() {
                    if torn.as_mut().is_none_or(|coins| coins.toss()) {
                        file_of.changes.push(Change::Write {
                            file: *file,
                            offset: offset + (number * piece) as u64,
                            bytes: sector.to_vec(),
                        });
                    }
                }
                if timed {
                    file_of.changed = changed;
                }
            }
            Change::SetLen { file, .. } => {
                let file_of = self.files.entry(*file).or_default();
                file_of.changes.push(entry.change.clone());
                if timed {
                    file_of.changed = changed;
                }
            }
            Change::Add {
                folder, name, node, ..
            } => {
                let names = self.folders.entry(*folder).or_default();
                names.insert(name.clone(), *node);
            }
            Change::Rename { from, to, node } => {
                if let Some(names) = self.folders.get_mut(&from.0)
                    && names.get(&from.1) == Some(node)
                {
                    names.remove(&from.1);
                }
                let names = self.folders.entry(to.0).or_default();
                names.insert(to.1.clone(), *node);
            }
            Change::Remove { folder, name } => {
                let names = self.folders.entry(*folder).or_default();
                names.remove(name);
            }
        }
    }

    fn into_memory(self) -> Memory {
        let memory = Memory::default();
        let Self { folders, mut files } = self;
        let named: BTreeSet<u64> = folders
            .values()
            .flat_map(BTreeMap::values)
            .copied()
            .collect();
        for node in named.into_iter().filter(|node| !folders.contains_key(node)) {
            let surviving = files.remove(&node).unwrap_or_default();
            memory.restore_file(node, surviving.changed, |file| {
                surviving
                    .changes
                    .iter()
                    .for_each(|change| change.redo(file));
            });
        }
        for (number, names) in folders {
            memory.restore_folder(number, names);
        }
        memory
    }
}

/// Coins that fall as the seed has it.
struct Coins(blake3::OutputReader);

impl Coins {
    fn of(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    fn toss(&mut self) -> bool {
        let mut byte = [0];
        self.0.fill(&mut byte);
        byte[0] & 1 == 1
    }
}
