//! Taking files that were found into the store: those that are known by their stamps stand, the others are hashed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Imported, Tree};
use crate::content::{Attributes, ContentId};
use crate::store::adopt::adopt;
use crate::store::hash::{Hashed, Meter, cores, hash_file, on_cores};
use crate::store::record::{FileStamp, PathRecord, State};
use crate::store::shared::Guarded;
use crate::store::walk::{Found, Skipped};
use crate::store::{ImportError, Progress, Store, files};

/// Files up to this size are hashed one per thread, larger ones by all threads one after the other.
const SMALL_FILE: u64 = 4 * 1024 * 1024;
/// Files of a folder that are put into the index in one commit.
const COMMIT_FILES: usize = 10_000;
/// Bytes of large files after which there is a commit (64 MiB of outlines).
const COMMIT_BYTES: u64 = 512 * 1024 * 1024 * 1024;

/// How a file came into the store, or why not.
enum Outcome {
    New(Hashed),
    Unsettled,
    Skipped(Skipped),
    Gone,
}

/// Takes files that were found into the store.
pub(super) struct Take<'a> {
    store: &'a Store,
    /// How long a file must have been left alone; `None`: a file that cannot be taken is an error.
    settle: Option<Duration>,
    gone: &'a [PathBuf],
    progress: &'a Progress<'a>,
    pub(super) tree: Tree,
}

impl<'a> Take<'a> {
    pub(super) fn new(
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
    pub(super) fn files(
        &mut self,
        found: Vec<Found>,
        places: &[Vec<u8>],
    ) -> Result<(), ImportError> {
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

    pub(super) fn finish(mut self) -> Tree {
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
