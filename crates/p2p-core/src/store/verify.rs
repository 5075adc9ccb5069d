//! Reading again everything that is held, to find what the disk has damaged.
//!
//! Nothing is deleted. What is damaged is served no longer: an object is set aside under another name, a file counts as
//! changed, and blocks of a partial file are fetched again.

use std::path::{Path, PathBuf};

use super::fs::FileSystem;
use super::hash::{Meter, hash_file};
use super::record::{ContentRecord, Place, State};
use super::{ImportError, Progress, ReadError, Store, StoreError, files};
use crate::content::ContentId;

/// Threads that read: as many as leave the others of a small machine to those who are being served.
const THREADS: usize = 1;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Its bytes are not those that were there, though nothing says that someone wrote to it.
    Damaged,
    /// It cannot be read.
    Unreadable,
    /// Someone wrote to it.
    Changed,
    /// It is gone.
    Missing,
}

/// A file that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// What it should be.
    pub id: ContentId,
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub what: What,
    /// Where it is now, if it was set aside.
    pub aside: Option<PathBuf>,
}

/// What hashing everything again found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Contents that were looked at.
    pub contents: u64,
    /// Files that were read.
    pub files: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is not as it should be.
    pub damage: Vec<Damage>,
}

impl Verified {
    /// Whether the disk has damaged anything. That someone changed or deleted a file is no damage.
    pub fn is_damaged(&self) -> bool {
        let damaged = |damage: &Damage| matches!(damage.what, What::Damaged | What::Unreadable);
        self.damage.iter().any(damaged)
    }
}

impl Store {
    /// Hashes all that is held again, with one thread. What is not as it should be is served no longer.
    ///
    /// # Errors
    /// [`ImportError::Cancelled`]; [`ImportError::Store`] if the index cannot be read or written.
    pub fn verify(&self, progress: &Progress<'_>) -> Result<Verified, ImportError> {
        let mut total = 0_u64;
        self.shared.index.each_content(|_, record| {
            if matches!(record.state, State::Complete | State::Partial) {
                total = total.saturating_add(record.size);
            }
            Ok::<_, StoreError>(())
        })?;
        let meter = Meter::new(progress, total);
        let mut verified = Verified::default();
        self.shared.index.each_content(|id, record| {
            meter.check()?;
            verified.contents = verified.contents.saturating_add(1);
            match record.state {
                State::Complete => self.verify_complete(id, &record, &meter, &mut verified),
                State::Partial => self.verify_partial(id, &meter, &mut verified),
                // Known not to be what it was.
                State::Changed | State::Missing => Ok(()),
            }
        })?;
        Ok(verified)
    }

    fn verify_complete(
        &self,
        id: ContentId,
        record: &ContentRecord,
        meter: &Meter<'_>,
        verified: &mut Verified,
    ) -> Result<(), ImportError> {
        if record.place == Place::Object {
            let path = self.shared.object_path(id);
            if let Some(what) = looked_at(&*self.shared.fs, id, &path, meter, verified)? {
                let aside = self.set_aside_object(id, &path, what)?;
                verified.damage.push(Damage {
                    id,
                    path,
                    what,
                    aside,
                });
            }
        }
        for path in self.shared.index.copies(id)? {
            let Some(known) = self
                .shared
                .index
                .path(&path)?
                .filter(|known| known.id == id)
            else {
                continue;
            };
            let name = files::from_bytes(&path);
            let what = match self.shared.fs.stamp(&name) {
                Ok(stamp) if stamp == known.stamp => {
                    looked_at(&*self.shared.fs, id, &name, meter, verified)?
                }
                Ok(_) => Some(What::Changed),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(What::Missing),
                Err(_) => Some(What::Unreadable),
            };
            // Evicted or forgotten meanwhile.
            if self.shared.index.content(id)?.is_none() {
                return Ok(());
            }
            let Some(what) = what else { continue };
            if matches!(what, What::Damaged | What::Unreadable) {
                self.shared.distrust_path(id, &name);
            }
            self.close(id)?;
            verified.damage.push(Damage {
                id,
                path: name,
                what,
                aside: None,
            });
        }
        Ok(())
    }

    /// Reads the blocks that are held of a partial file. One that is damaged is dropped, to be fetched again.
    fn verify_partial(
        &self,
        id: ContentId,
        meter: &Meter<'_>,
        verified: &mut Verified,
    ) -> Result<(), ImportError> {
        // It cannot be opened: the next fetch of it begins anew.
        let Ok(Some(content)) = self.content(id) else {
            return Ok(());
        };
        verified.files = verified.files.saturating_add(1);
        let mut worst = None;
        for number in content.held().iter() {
            meter.check()?;
            let Some(block) = content.geometry().block(number) else {
                continue;
            };
            let len = content.geometry().len_of(block) as u64;
            match content.read_verified(block) {
                Ok(_) => {}
                Err(ReadError::NotHeld) => worst = worst.or(Some(What::Damaged)),
                Err(ReadError::Changed) => worst = Some(What::Changed),
                Err(ReadError::Missing) => worst = Some(What::Missing),
                Err(ReadError::Io(_)) => worst = worst.or(Some(What::Unreadable)),
                Err(ReadError::Index(error)) => return Err(error.into()),
            }
            verified.bytes = verified.bytes.saturating_add(len);
            meter.add(len);
        }
        if let Some(what) = worst {
            verified.damage.push(Damage {
                id,
                path: content.path(),
                what,
                aside: None,
            });
        }
        Ok(())
    }

    /// Has an object served no longer. One that is damaged is kept under another name, for who wants to save what can be
    /// saved of it.
    fn set_aside_object(
        &self,
        id: ContentId,
        path: &Path,
        what: What,
    ) -> Result<Option<PathBuf>, StoreError> {
        let _placing = self.shared.placing.lock();
        self.shared.distrust_object(id);
        let aside = path.with_extension("damaged");
        let moved = what == What::Damaged
            && self
                .shared
                .fs
                .rename(path, &aside)
                .inspect_err(|error| tracing::warn!(%id, %error, "not set aside"))
                .is_ok();
        self.close(id)?;
        Ok(moved.then_some(aside))
    }

    /// Has who asks for a content next look where it is.
    fn close(&self, id: ContentId) -> Result<(), StoreError> {
        self.open.lock().complete.remove(&id);
        self.shared.resolve(id)?;
        Ok(())
    }
}

/// Hashes a file. What is wrong with it, if anything is.
fn looked_at(
    fs: &dyn FileSystem,
    id: ContentId,
    path: &Path,
    meter: &Meter<'_>,
    verified: &mut Verified,
) -> Result<Option<What>, ImportError> {
    let before = meter.done();
    let hashed = hash_file(fs, path, THREADS, meter);
    verified.files = verified.files.saturating_add(1);
    verified.bytes = verified
        .bytes
        .saturating_add(meter.done().saturating_sub(before));
    match hashed {
        Ok(hashed) if hashed.id == id => Ok(None),
        Ok(_) => Ok(Some(What::Damaged)),
        Err(ImportError::Cancelled) => Err(ImportError::Cancelled),
        Err(ImportError::NotFound { .. }) => Ok(Some(What::Missing)),
        Err(ImportError::ChangedWhileReading { .. } | ImportError::NotAFile { .. }) => {
            Ok(Some(What::Changed))
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot be verified");
            Ok(Some(What::Unreadable))
        }
    }
}
