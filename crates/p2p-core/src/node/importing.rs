//! The work of sharing: hash, sign, remember. Blocks.

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{driver::clock, error::ShareError, gate::Gate, inventory::forget_strays, keys::Keys};
use crate::{
    audience::Audience,
    content::{Collection, ContentId, Entry, Kind, SignedManifest},
    store::{ImportError, Imported, Look, Progress, ShareRecord, Store, StoreError},
};

/// Told bytes hashed and bytes to hash.
pub(super) type OnProgress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// What is shared.
pub(super) enum Source {
    /// A file or folder, where it lies.
    Path(PathBuf),
    /// Bytes, of which the store keeps a copy.
    Bytes(Bytes),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

/// Ends the reading of files when the future that waits for it is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) struct Import {
    pub(super) store: Store,
    pub(super) keys: Arc<Keys>,
    pub(super) source: Source,
    pub(super) name: Option<String>,
    pub(super) unlisted: bool,
    pub(super) copy: bool,
    pub(super) watch: bool,
    pub(super) keep: bool,
    pub(super) audience: Audience,
    pub(super) gate: Arc<Gate>,
    pub(super) on_progress: OnProgress,
    pub(super) cancel: CancelOnDrop,
    /// What this has put into the store that lies in no share.
    pub(super) copies: RefCell<Vec<ContentId>>,
}

/// A file or folder that is in the store.
pub(super) struct Hashed {
    pub(super) kind: Kind,
    /// The content itself: of a folder, its listing.
    pub(super) content: Imported,
    /// Bytes of the file, or of all files of the folder.
    pub(super) size: u64,
    pub(super) entries: Vec<ContentId>,
    pub(super) skipped: Vec<(PathBuf, String)>,
}

impl Hashed {
    fn of_file(content: Imported) -> Self {
        Self {
            kind: Kind::File,
            content,
            size: content.size,
            entries: Vec::new(),
            skipped: Vec::new(),
        }
    }
}

/// A share that is in the store.
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) hashed: Hashed,
    pub(super) manifest: SignedManifest,
}

impl Import {
    /// Restricts the share first if it is not for everyone, which the index remembers, and opens it last if it is.
    pub(super) fn run(self) -> Result<Made, ShareError> {
        let path = match &self.source {
            Source::Path(path) => real_path(path),
            Source::Bytes(bytes) => self.store.object_path(ContentId::of(bytes)),
        };
        if self.audience != Audience::Everyone {
            self.store.begin_share(&path, self.audience.clone())?;
            self.gate.set(&path, self.audience.clone());
        }
        let made = self.import(&path);
        match &made {
            Ok(_) => self.gate.set(&path, self.audience),
            Err(ShareError::Import(ImportError::NotFound { .. })) if self.watch => {
                self.expect(&path)?;
            }
            Err(_) if self.audience != Audience::Everyone => self.undo(&path)?,
            Err(_) => {}
        }
        made
    }

    /// It is shared when it appears; if it was there before, as is asked for now.
    fn expect(&self, path: &Path) -> Result<(), StoreError> {
        if let Some(before) = self.store.share(path)? {
            let record = ShareRecord {
                name: self.name.clone().unwrap_or_else(|| name_of(path)),
                unlisted: self.unlisted,
                watched: true,
                keep: self.keep,
                audience: self.audience.clone(),
                ..before
            };
            self.store.add_share(path, &record)?;
            self.gate.set(path, self.audience.clone());
        }
        Ok(())
    }

    /// Forgets what was hashed for a share that did not come to be, and has the gate be as it was before.
    fn undo(&self, path: &Path) -> Result<(), StoreError> {
        for id in self.copies.take() {
            if self.store.shares_of(id)?.is_empty() {
                self.store.forget(id, false)?;
            }
        }
        forget_strays(&self.store, path)?;
        let before = self.store.share(path)?;
        let audience = before.map_or(Audience::Everyone, |share| share.audience);
        self.store.end_begun(path)?;
        self.gate.set(path, audience);
        Ok(())
    }

    /// A copy or a listing, which lies in no share, is about to be in the store.
    fn expect_copy(&self, id: ContentId, path: &Path) -> Result<(), StoreError> {
        if self.audience != Audience::Everyone {
            self.gate.add(id, path);
            if self.store.info(id)?.is_none() {
                self.copies.borrow_mut().push(id);
            }
        }
        Ok(())
    }

    fn import(&self, path: &Path) -> Result<Made, ShareError> {
        let path = path.to_path_buf();
        let hashed = match &self.source {
            Source::Path(_) if path.is_dir() => self.folder(&path)?,
            Source::Path(_) => self.file(&path)?,
            Source::Bytes(bytes) => {
                self.expect_copy(ContentId::of(bytes), &path)?;
                Hashed::of_file(Imported {
                    id: self.store.put_object(bytes)?,
                    size: bytes.len() as u64,
                    attributes: None,
                })
            }
        };
        let name = self.name.clone().unwrap_or_else(|| name_of(&path));
        let content = hashed.content.with_attributes_if(self.keep);
        let manifest = sign(&self.store, &self.keys, hashed.kind, content, &name)?;
        let record = ShareRecord {
            id: hashed.content.id,
            kind: hashed.kind,
            name: name.clone(),
            unlisted: self.unlisted,
            added: now_unix(),
            watched: self.watch && !self.copy,
            keep: self.keep,
            audience: self.audience.clone(),
        };
        self.store.add_share(&path, &record)?;
        Ok(Made {
            path,
            name,
            hashed,
            manifest,
        })
    }

    fn file(&self, path: &Path) -> Result<Hashed, ShareError> {
        let progress = Progress::new(&*self.on_progress, &self.cancel.0);
        let content = if self.copy {
            if self.audience != Audience::Everyone {
                // The copy does not lie where the file does, and can be asked for as soon as it is there.
                self.expect_copy(self.store.hash(path, &progress)?, path)?;
            }
            self.store.copy_in(path, &progress)?
        } else {
            self.store.import_file(path, &progress)?
        };
        Ok(Hashed::of_file(content))
    }

    fn folder(&self, path: &Path) -> Result<Hashed, ShareError> {
        let progress = Progress::new(&*self.on_progress, &self.cancel.0);
        let tree = if self.watch {
            // As the looks that follow will see it.
            let look = Look {
                quiet: &[PathBuf::new()],
                busy: &[],
                gone: &[],
                settle: Duration::ZERO,
            };
            self.store.look(path, &look, &progress)?
        } else {
            self.store.import_tree(path, &progress)?
        };
        let entries = entries_of(tree.entries, self.keep);
        let ids = entries.iter().map(|entry| entry.content).collect();
        let collection = Collection::from_entries(entries)?;
        let bytes = collection.encode();
        self.expect_copy(ContentId::of(&bytes), path)?;
        Ok(Hashed {
            kind: Kind::Collection,
            content: Imported {
                id: self.store.put_object(&bytes)?,
                size: bytes.len() as u64,
                attributes: None,
            },
            size: collection.total_size(),
            entries: ids,
            skipped: tree
                .skipped
                .into_iter()
                .map(|(path, why)| (path, why.to_string()))
                .collect(),
        })
    }
}

/// Files of a folder as its listing has them, with or without their attributes.
pub(super) fn entries_of(files: Vec<(String, Imported)>, keep: bool) -> Vec<Entry> {
    let entries = files.into_iter().map(|(path, file)| Entry {
        path,
        size: file.size,
        content: file.id,
        attributes: file.attributes.filter(|_| keep),
    });
    entries.collect()
}

/// Signs what is shared, with the attributes that it has, and keeps the manifest.
pub(super) fn sign(
    store: &Store,
    keys: &Keys,
    kind: Kind,
    content: Imported,
    name: &str,
) -> Result<SignedManifest, ShareError> {
    let Imported {
        id,
        size,
        attributes,
    } = content;
    let created = first_shared(store, keys, id, name).unwrap_or_else(now_unix);
    let secret = &keys.publisher;
    let manifest = SignedManifest::sign_with(kind, id, size, name, created, attributes, secret)
        .map_err(ShareError::Name)?;
    store.add_manifest(&manifest, true)?;
    Ok(manifest)
}

/// When the same thing was first shared by us, so that its manifest stays the same from start to start.
fn first_shared(store: &Store, keys: &Keys, id: ContentId, name: &str) -> Option<u64> {
    let ours = keys.publisher();
    let manifests = store.manifests(id).ok()?;
    manifests
        .iter()
        .map(SignedManifest::claims)
        .find(|claims| claims.publisher == ours && claims.name == name)
        .map(|claims| claims.created)
}

/// A path as shares are known by it: absolute, and without symbolic links as far as it is there. Looks at the disk.
pub(super) fn real_path(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let real = path.ancestors().find_map(|above| {
        let mut real = std::fs::canonicalize(above).ok()?;
        real.extend(path.strip_prefix(above).ok()?);
        Some(real)
    });
    real.unwrap_or(path)
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(
        || "share".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}

pub(super) fn now_unix() -> u64 {
    clock()
        .1
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
