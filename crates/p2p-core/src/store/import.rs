//! Sharing in place: files are hashed where they are and only remembered.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::batch::Batch;
use super::fs::{FileKind, FileSystem, Stat};
use super::hash::{Hashed, Meter, cores, hash_file, on_cores};
use super::record::{ContentRecord, FileStamp, PathRecord, Place, State};
use super::shared::{Guarded, now};
use super::space::{Need, Room, index_growth};
use super::walk::{Found, Skipped, Walk};
use super::{ImportError, IndexError, Progress, Store, StoreError, files};
use crate::content::{Attributes, ContentId};

/// Files up to this size are hashed one per thread, larger ones by all threads one after the other.
const SMALL_FILE: u64 = 4 * 1024 * 1024;
/// Files of a folder that are put into the index in one commit.
const COMMIT_FILES: usize = 10_000;
/// Bytes of large files after which there is a commit (64 MiB of outlines).
const COMMIT_BYTES: u64 = 512 * 1024 * 1024 * 1024;

/// A file that is now in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: ContentId,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written to, and whether it is a program; `None` of what was no file.
    pub attributes: Option<Attributes>,
}

impl Imported {
    /// The same, without its attributes unless they are wanted.
    #[must_use]
    pub fn with_attributes_if(self, wanted: bool) -> Self {
        Self {
            attributes: self.attributes.filter(|_| wanted),
            ..self
        }
    }
}

/// Files that were looked at and are now in the store.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The files: the path in the folder (`/` between components) and what it is. Sorted by the bytes of the path.
    pub entries: Vec<(String, Imported)>,
    /// What was left out, and why.
    pub skipped: Vec<(PathBuf, Skipped)>,
    /// Files that are being written to, and so are not in the store yet. Only of a folder that is followed.
    pub unsettled: Vec<PathBuf>,
    /// Files that the index has at the places looked at and that are there no more.
    pub gone: Vec<PathBuf>,
}

/// What is to be looked at, and how.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Paths in the folder: of files, of folders with all below them, or empty for all of it.
    pub quiet: &'a [PathBuf],
    /// Paths of files that are being written to: kept if they are as they were, else left out for now.
    pub busy: &'a [PathBuf],
    /// Files and folders that are gone, anywhere: a new file that was one of them is not hashed.
    pub gone: &'a [PathBuf],
    /// A file that was written to within this time is left out for now.
    pub settle: Duration,
}

/// How a file came into the store, or why not.
enum Outcome {
    New(Hashed),
    Unsettled,
    Skipped(Skipped),
    Gone,
}

impl Store {
    /// Hashes a file where it is, by all cores, and remembers it. A file that was not touched since it was last
    /// imported is not read. A link is followed.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is remembered then.
    pub fn import_file(
        &self,
        path: &Path,
        progress: &Progress<'_>,
    ) -> Result<Imported, ImportError> {
        let (path, stat) = plain_file(&*self.shared.fs, path)?;
        let bytes = files::to_bytes(&path);
        let found = vec![Found {
            relative: String::new(),
            path: path.clone(),
            stamp: stat.stamp,
            executable: stat.executable,
            busy: false,
        }];
        let mut take = Take::new(self, None, &[], progress);
        take.files(found, &[bytes])?;
        let entry = take.tree.entries.pop();
        entry.map_or(Err(ImportError::NotFound { path }), |(_, file)| Ok(file))
    }

    /// The id of a file, which is not remembered.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn hash(&self, path: &Path, progress: &Progress<'_>) -> Result<ContentId, ImportError> {
        let fs = &*self.shared.fs;
        let (path, stat) = plain_file(fs, path)?;
        let meter = Meter::new(progress, stat.stamp.size);
        Ok(hash_file(fs, &path, cores(), &meter)?.id)
    }

    /// Imports every file of a folder, like [`Store::import_file`]. Links in it are not followed; they, special files
    /// and partial files are left out and listed. The index is written once for up to 10,000 files.
    ///
    /// # Errors
    /// [`ImportError`]: the first file that cannot be read, or has a name that cannot be shared, ends it. What was
    /// hashed before may be remembered, so that doing it again is quick.
    pub fn import_tree(&self, root: &Path, progress: &Progress<'_>) -> Result<Tree, ImportError> {
        let fs = &*self.shared.fs;
        let failed = |error| ImportError::io(root, error);
        let root = fs.real_path(root).map_err(failed)?;
        if fs.stat(&root).map_err(failed)?.kind != FileKind::Folder {
            return Err(ImportError::NotAFolder { path: root });
        }
        let mut walk = Walk::new(fs, false, progress);
        walk.folder(&root, "")?;
        walk.sort();
        let mut take = Take::new(self, None, &[], progress);
        take.tree.skipped = walk.skipped;
        take.files(walk.found, &[files::to_bytes(&root)])?;
        Ok(take.finish())
    }

    /// Room for what the index will have of files of these sizes. The files themselves do not count.
    fn admit_outlines(&self, sizes: impl IntoIterator<Item = u64>) -> Result<Room, StoreError> {
        let counted = sizes
            .into_iter()
            .map(index_growth)
            .fold(0, u64::saturating_add);
        self.admit(&self.shared.dir, Need { counted, disk: 0 }, &[])
    }

    /// Looks at some places of a folder, or of a file on its own, that is followed. What cannot be shared is left out
    /// and listed, so that it does not keep the rest from being shared. A file that was elsewhere before, by its stamp,
    /// is not hashed.
    ///
    /// # Errors
    /// [`ImportError::Cancelled`], [`ImportError::Store`].
    pub fn look(
        &self,
        root: &Path,
        look: &Look<'_>,
        progress: &Progress<'_>,
    ) -> Result<Tree, ImportError> {
        let fs = &*self.shared.fs;
        let mut walk = Walk::new(fs, true, progress);
        let mut places = Vec::new();
        match fs.stat(root) {
            Ok(stat) if stat.kind == FileKind::File => walk.found.push(Found {
                relative: String::new(),
                path: root.to_path_buf(),
                stamp: stat.stamp,
                executable: stat.executable,
                busy: !look.busy.is_empty(),
            }),
            _ => {
                let busy = look.busy.iter().map(|path| (path, true));
                let quiet = look.quiet.iter().map(|path| (path, false));
                for (path, busy) in busy.chain(quiet) {
                    walk.at(root, path, busy)?;
                }
            }
        }
        places.extend(
            (look.quiet.iter().chain(look.busy))
                .map(|path| files::to_bytes(&files::below(root, path))),
        );
        walk.sort();
        let mut take = Take::new(self, Some(look.settle), look.gone, progress);
        take.tree.skipped = walk.skipped;
        take.files(walk.found, &places)?;
        Ok(take.finish())
    }

    /// Puts hashed files into the index in one commit.
    fn remember<'a>(
        &self,
        files: impl Iterator<Item = (&'a Path, &'a Hashed)>,
    ) -> Result<(), ImportError> {
        let mut displaced = Vec::new();
        let mut batch = self.shared.index.write(true)?;
        for (path, hashed) in files {
            batch.put_whole_outline(hashed.id, &hashed.outline)?;
            displaced.extend(adopt(
                &*self.shared.fs,
                &mut batch,
                hashed.id,
                &files::to_bytes(path),
                hashed.stamp,
                false,
            )?);
        }
        batch.commit()?;
        for id in displaced {
            self.shared.resolve(id)?;
        }
        Ok(())
    }
}

fn plain_file(fs: &dyn FileSystem, path: &Path) -> Result<(PathBuf, Stat), ImportError> {
    let path = fs
        .real_path(path)
        .map_err(|error| ImportError::io(path, error))?;
    let found = fs
        .stat(&path)
        .map_err(|error| ImportError::io(&path, error))?;
    if found.kind == FileKind::File {
        Ok((path, found))
    } else {
        Err(ImportError::NotAFile { path })
    }
}

/// Takes files that were found into the store.
struct Take<'a> {
    store: &'a Store,
    /// How long a file must have been left alone; `None`: a file that cannot be taken is an error.
    settle: Option<Duration>,
    gone: &'a [PathBuf],
    progress: &'a Progress<'a>,
    tree: Tree,
}

impl<'a> Take<'a> {
    fn new(
        store: &'a Store,
        settle: Option<Duration>,
        gone: &'a [PathBuf],
        progress: &'a Progress<'a>,
    ) -> Self {
        Self {
            store,
            settle,
            gone,
            progress,
            tree: Tree::default(),
        }
    }

    /// `found` is sorted by path; `places` are where it was looked.
    fn files(&mut self, found: Vec<Found>, places: &[Vec<u8>]) -> Result<(), ImportError> {
        let index = &self.store.shared.index;
        let recorded = index.paths_under(places)?;
        let (mut unknown, known) = self.compare(found, recorded);
        let mut records =
            index.contents_of(&known.iter().map(|(_, id)| *id).collect::<Vec<_>>())?;
        let mut again = Vec::new();
        for ((file, id), record) in known.into_iter().zip(records.drain(..)) {
            match record {
                Some(record) if record.state == State::Complete => self.entry(&file, id),
                // Back as it was. A damaged file has no stamp that fits.
                Some(record) if record.state != State::Partial => {
                    self.entry(&file, id);
                    again.push((file, id, None));
                }
                _ => unknown.push(file),
            }
        }
        let unknown = self.without_moved(unknown, places, &mut again)?;
        self.restore(&again)?;
        let unknown = self.without_unsettled(unknown);
        if unknown.is_empty() {
            return Ok(());
        }
        let sizes = unknown.iter().map(|file| file.stamp.size);
        let _room = self.store.admit_outlines(sizes)?;
        let total = unknown.iter().map(|file| file.stamp.size);
        let meter = Meter::new(self.progress, total.fold(0, u64::saturating_add));
        let (small, large) = unknown
            .into_iter()
            .partition(|file| file.stamp.size <= SMALL_FILE);
        self.small(small, &meter)?;
        self.large(large, &meter)
    }

    /// Tells the files that are as the index has them from the others, in one pass over both.
    fn compare(
        &mut self,
        found: Vec<Found>,
        recorded: Vec<(Vec<u8>, PathRecord)>,
    ) -> (Vec<Found>, Vec<(Found, ContentId)>) {
        let mut recorded = recorded.into_iter().peekable();
        let (mut unknown, mut known) = (Vec::new(), Vec::with_capacity(recorded.len()));
        for file in found {
            let path = files::to_bytes(&file.path);
            while let Some((gone, _)) = recorded.next_if(|(recorded, _)| *recorded < path) {
                self.tree.gone.push(files::from_bytes(&gone));
            }
            match recorded.next_if(|(recorded, _)| *recorded == path) {
                Some((_, record)) if record.stamp == file.stamp => known.push((file, record.id)),
                _ => unknown.push(file),
            }
        }
        let rest = recorded.map(|(gone, _)| files::from_bytes(&gone));
        self.tree.gone.extend(rest);
        (unknown, known)
    }

    /// Finds the files that were elsewhere before: by inode and device, size and time, and not there any more.
    fn without_moved(
        &mut self,
        unknown: Vec<Found>,
        places: &[Vec<u8>],
        again: &mut Vec<(Found, ContentId, Option<Vec<u8>>)>,
    ) -> Result<Vec<Found>, ImportError> {
        if unknown.is_empty() || self.settle.is_none() {
            return Ok(unknown);
        }
        let mut from: Vec<Vec<u8>> = self.gone.iter().map(|path| files::to_bytes(path)).collect();
        from.extend(places.iter().cloned());
        let stamps: HashMap<FileStamp, usize> = unknown
            .iter()
            .enumerate()
            .map(|(at, file)| (file.stamp, at))
            .collect();
        let mut moved: HashMap<usize, (ContentId, Vec<u8>)> = HashMap::new();
        for (path, record) in self.store.shared.index.paths_under(&from)? {
            if let Some(at) = stamps.get(&record.stamp)
                && !self
                    .store
                    .shared
                    .fs
                    .stamp(&files::from_bytes(&path))
                    .is_ok_and(|now| now.same_file(&record.stamp))
            {
                moved.insert(*at, (record.id, path));
            }
        }
        let mut rest = Vec::new();
        for (at, file) in unknown.into_iter().enumerate() {
            match moved.remove(&at) {
                Some((id, from)) => {
                    self.entry(&file, id);
                    again.push((file, id, Some(from)));
                }
                None => rest.push(file),
            }
        }
        Ok(rest)
    }

    /// Has the index know files that are back, or were moved here, without reading them.
    fn restore(&self, files: &[(Found, ContentId, Option<Vec<u8>>)]) -> Result<(), ImportError> {
        if files.is_empty() {
            return Ok(());
        }
        let mut displaced = Vec::new();
        let mut batch = self.store.shared.index.write(true)?;
        for (file, id, from) in files {
            let mut download = false;
            if let Some(from) = from {
                download = batch.path(from)?.is_some_and(|known| known.download);
                batch.remove_path(from)?;
            }
            let path = files::to_bytes(&file.path);
            displaced.extend(adopt(
                &*self.store.shared.fs,
                &mut batch,
                *id,
                &path,
                file.stamp,
                download,
            )?);
        }
        batch.commit()?;
        for id in displaced {
            self.store.shared.resolve(id)?;
        }
        Ok(())
    }

    fn without_unsettled(&mut self, files: Vec<Found>) -> Vec<Found> {
        let Some(settle) = self.settle else {
            return files;
        };
        let (unsettled, rest): (Vec<Found>, Vec<Found>) = files
            .into_iter()
            .partition(|file| file.busy || was_written_within(&file.stamp, settle));
        let paths = unsettled.into_iter().map(|file| file.path);
        self.tree.unsettled.extend(paths);
        rest
    }

    /// One file per thread.
    fn small(&mut self, mut files: Vec<Found>, meter: &Meter<'_>) -> Result<(), ImportError> {
        while !files.is_empty() {
            let some = files.split_off(files.len().saturating_sub(COMMIT_FILES));
            let count = some.len();
            let queue = Guarded::new(some.into_iter());
            let done = Guarded::new(Vec::with_capacity(count));
            let failure = Guarded::new(None);
            let stop = AtomicBool::new(false);
            on_cores(cores().min(count), || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(file) = queue.lock().next() else {
                        return;
                    };
                    match meter.check().and_then(|()| self.hash(&file, 1, meter)) {
                        Ok(outcome) => done.lock().push((file, outcome)),
                        Err(error) => {
                            stop.store(true, Ordering::Relaxed);
                            *failure.lock() = Some(error);
                        }
                    }
                }
            });
            if let Some(error) = failure.lock().take() {
                return Err(error);
            }
            let done = std::mem::take(&mut *done.lock());
            self.keep(done)?;
        }
        Ok(())
    }

    /// All threads on one file.
    fn large(&mut self, files: Vec<Found>, meter: &Meter<'_>) -> Result<(), ImportError> {
        let mut done = Vec::new();
        let mut bytes = 0_u64;
        for file in files {
            meter.check()?;
            let outcome = self.hash(&file, cores(), meter)?;
            bytes = bytes.saturating_add(file.stamp.size);
            done.push((file, outcome));
            if bytes >= COMMIT_BYTES || done.len() >= COMMIT_FILES {
                self.keep(std::mem::take(&mut done))?;
                bytes = 0;
            }
        }
        self.keep(done)
    }

    fn hash(
        &self,
        file: &Found,
        threads: usize,
        meter: &Meter<'_>,
    ) -> Result<Outcome, ImportError> {
        match hash_file(&*self.store.shared.fs, &file.path, threads, meter) {
            Ok(hashed) => {
                self.store.shared.hashed(hashed.stamp.size);
                Ok(Outcome::New(hashed))
            }
            Err(error) if self.settle.is_none() => Err(error),
            Err(ImportError::ChangedWhileReading { .. }) => Ok(Outcome::Unsettled),
            Err(ImportError::NotFound { .. }) => Ok(Outcome::Gone),
            Err(error @ (ImportError::Cancelled | ImportError::Store(_))) => Err(error),
            Err(_) => Ok(Outcome::Skipped(Skipped::Unreadable)),
        }
    }

    fn keep(&mut self, done: Vec<(Found, Outcome)>) -> Result<(), ImportError> {
        let hashed = done.iter().filter_map(|(file, outcome)| match outcome {
            Outcome::New(hashed) => Some((file.path.as_path(), hashed)),
            _ => None,
        });
        if hashed.clone().next().is_some() {
            self.store.remember(hashed)?;
        }
        for (file, outcome) in done {
            match outcome {
                Outcome::New(hashed) => {
                    let stamp = hashed.stamp;
                    self.entry(&Found { stamp, ..file }, hashed.id);
                }
                Outcome::Unsettled => self.tree.unsettled.push(file.path),
                Outcome::Skipped(why) => self.tree.skipped.push((file.path, why)),
                Outcome::Gone => self.tree.gone.push(file.path),
            }
        }
        Ok(())
    }

    fn entry(&mut self, file: &Found, id: ContentId) {
        let imported = Imported {
            id,
            size: file.stamp.size,
            attributes: Some(Attributes::new(file.stamp.mtime, file.executable)),
        };
        self.tree.entries.push((file.relative.clone(), imported));
    }

    fn finish(mut self) -> Tree {
        let entries = &mut self.tree.entries;
        entries.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
        self.tree
    }
}

/// Whether a file was written to that lately, as far as its time tells: one from the future does not.
fn was_written_within(stamp: &FileStamp, settle: Duration) -> bool {
    let written = Duration::new(
        u64::try_from(stamp.mtime).unwrap_or(0),
        u32::try_from(stamp.mtime_nsec).unwrap_or(0),
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| now.checked_sub(written).is_some_and(|age| age < settle))
}
/// Has the index say that the file at `path` is this content. Returns the content that was there before, if that is
/// nowhere else as far as is known yet: [`resolve`](super::shared::Shared::resolve) it after the commit.
pub(super) fn adopt(
    fs: &dyn FileSystem,
    batch: &mut Batch<'_>,
    id: ContentId,
    path: &[u8],
    stamp: FileStamp,
    download: bool,
) -> Result<Option<ContentId>, IndexError> {
    let place = Place::File(path.to_vec());
    let old = batch.path(path)?;
    let mut displaced = None;
    if let Some(old) = old.filter(|old| old.id != id)
        && let Some(record) = batch
            .content(old.id)?
            .filter(|record| record.place == place)
    {
        batch.put_content(
            old.id,
            &ContentRecord {
                state: State::Changed,
                ..record
            },
        )?;
        displaced = Some(old.id);
    }
    let download = download || old.is_some_and(|old| old.id == id && old.download);
    batch.put_path(
        path,
        &PathRecord {
            id,
            stamp,
            download,
        },
    )?;
    let record = match batch.content(id)? {
        Some(record)
            if record.state == State::Complete && stands(fs, batch, id, &record.place)? =>
        {
            record
        }
        Some(record) => ContentRecord {
            size: stamp.size,
            state: State::Complete,
            place,
            ..record
        },
        None => ContentRecord {
            size: stamp.size,
            state: State::Complete,
            place,
            added: now(),
            last_used: now(),
        },
    };
    batch.put_content(id, &record)?;
    batch.remove_held(id)?;
    Ok(displaced)
}

/// Whether the place in use needs no replacement.
fn stands(
    fs: &dyn FileSystem,
    batch: &Batch<'_>,
    id: ContentId,
    place: &Place,
) -> Result<bool, IndexError> {
    let Place::File(path) = place else {
        return Ok(matches!(place, Place::Object));
    };
    let known = batch.path(path)?.filter(|known| known.id == id);
    Ok(known.is_some_and(|known| {
        fs.stamp(&files::from_bytes(path))
            .is_ok_and(|now| now == known.stamp)
    }))
}
