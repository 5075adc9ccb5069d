//! Sharing a file or folder: hash, sign, remember, announce.

use std::{
    fmt,
    future::IntoFuture,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use futures::future::BoxFuture;

use super::{Node, blocking, command::Command, driver::clock, error::ShareError, keys::Keys};
use crate::{
    content::{Collection, ContentId, Entry, Kind, SignedManifest, Ticket},
    store::{Imported, Progress, ShareRecord, State, Store},
};

/// Something that is shared.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Shared {
    /// Its id: of a file, what `b3sum` prints.
    pub id: ContentId,
    /// Where it lies.
    pub path: PathBuf,
    /// The name it goes by.
    pub name: String,
    /// Its size in bytes; of a folder, all files together.
    pub size: u64,
    /// File or folder.
    pub kind: Kind,
    /// Files: 1, or those of the folder.
    pub files: u64,
    /// What was left out of a folder, and why.
    pub skipped: Vec<(PathBuf, String)>,
    /// A ticket that names this node.
    pub ticket: Ticket,
}

/// What is to be shared no longer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ShareRef {
    /// Every share of this content.
    Id(ContentId),
    /// What is shared at this path.
    Path(PathBuf),
}

/// A share in a list.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShareInfo {
    /// Its id.
    pub id: ContentId,
    /// Where it lies.
    pub path: PathBuf,
    /// The name it goes by.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// File or folder.
    pub kind: Kind,
    /// Whether it still is what was shared.
    pub state: ShareState,
    /// Not shown in the catalog, nor found by name.
    pub unlisted: bool,
    /// How it stands with the DHT.
    pub announced: Announcement,
}

/// Whether a share still is what was shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareState {
    /// It is.
    Ok,
    /// It was altered, and is not served.
    Changed,
    /// It is gone.
    Missing,
}

/// How an id stands with the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Announcement {
    /// The DHT's servers have held the record for so long.
    Done(Duration),
    /// Its turn has not come.
    Due,
    /// The last try found no server; it is repeated.
    Failed,
    /// It is not announced.
    Off,
}

type OnProgress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// A share that is about to be made; await it. See [`Node::share`].
#[must_use = "nothing is shared before this is awaited"]
pub struct Share {
    node: Node,
    path: PathBuf,
    name: Option<String>,
    unlisted: bool,
    copy: bool,
    on_progress: OnProgress,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Share {
    pub(super) fn new(node: Node, path: PathBuf) -> Self {
        Self {
            node,
            path,
            name: None,
            unlisted: false,
            copy: false,
            on_progress: Box::new(|_, _| {}),
        }
    }

    /// Shares under this name instead of the file's.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether to leave it out of the catalog and of searches: only who has the id or a ticket gets it.
    pub fn unlisted(mut self, unlisted: bool) -> Self {
        self.unlisted = unlisted;
        self
    }

    /// Whether to copy a file into the store, so that it is served whatever happens to the original. By default it is
    /// shared where it is. Folders are always shared where they are.
    pub fn copy(mut self, copy: bool) -> Self {
        self.copy = copy;
        self
    }

    /// Calls this with bytes hashed and bytes to hash, from several threads.
    pub fn on_progress(mut self, told: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.on_progress = Box::new(told);
        self
    }

    async fn make(self) -> Result<Shared, ShareError> {
        let node = self.node.clone();
        let import = Import {
            store: node.store().clone(),
            keys: Arc::clone(node.keys()),
            path: self.path,
            name: self.name,
            unlisted: self.unlisted,
            copy: self.copy,
            on_progress: self.on_progress,
            cancel: CancelOnDrop::default(),
        };
        let cancel = import.cancel.clone();
        let unlisted = self.unlisted;
        let made = blocking(move || import.run()).await?;
        drop(cancel);
        let made = made?;
        let Made {
            path,
            name,
            hashed,
            manifest,
        } = made;
        let files = match hashed.kind {
            Kind::Collection => hashed.entries.len() as u64,
            _ => 1,
        };
        node.send(Command::Shared {
            manifest: Box::new(manifest.clone()),
            unlisted,
            entries: hashed.entries,
        })
        .await?;
        Ok(Shared {
            id: hashed.content.id,
            path,
            name,
            size: hashed.size,
            kind: hashed.kind,
            files,
            skipped: hashed.skipped,
            ticket: node.ticket_of(manifest),
        })
    }
}

impl IntoFuture for Share {
    type Output = Result<Shared, ShareError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.make())
    }
}

/// Ends the hashing when the future that waits for it is dropped.
#[derive(Debug, Clone, Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Import {
    store: Store,
    keys: Arc<Keys>,
    path: PathBuf,
    name: Option<String>,
    unlisted: bool,
    copy: bool,
    on_progress: OnProgress,
    cancel: CancelOnDrop,
}

/// A file or folder that is in the store.
struct Hashed {
    kind: Kind,
    /// The content itself: of a folder, its listing.
    content: Imported,
    /// Bytes of the file, or of all files of the folder.
    size: u64,
    entries: Vec<ContentId>,
    skipped: Vec<(PathBuf, String)>,
}

/// A share that is in the store.
struct Made {
    path: PathBuf,
    name: String,
    hashed: Hashed,
    manifest: SignedManifest,
}

impl Import {
    fn run(self) -> Result<Made, ShareError> {
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let name = self.name.clone().unwrap_or_else(|| name_of(&path));
        let hashed = if path.is_dir() {
            self.folder(&path)?
        } else {
            self.file(&path)?
        };
        let now = now_unix();
        let created = self.created(hashed.content.id, &name).unwrap_or(now);
        let Imported { id, size } = hashed.content;
        let secret = &self.keys.publisher;
        let manifest = SignedManifest::sign(hashed.kind, id, size, name.as_str(), created, secret)
            .map_err(ShareError::Name)?;
        self.store.add_manifest(&manifest, true)?;
        let record = ShareRecord {
            id,
            kind: hashed.kind,
            name: name.clone(),
            unlisted: self.unlisted,
            added: now,
        };
        self.store.add_share(&path, &record)?;
        Ok(Made {
            path,
            name,
            hashed,
            manifest,
        })
    }

    /// When the same thing was first shared by us, so that its manifest stays the same from start to start.
    fn created(&self, id: ContentId, name: &str) -> Option<u64> {
        let ours = self.keys.publisher();
        let manifests = self.store.manifests(id).ok()?;
        manifests
            .iter()
            .map(SignedManifest::claims)
            .find(|claims| claims.publisher == ours && claims.name == name)
            .map(|claims| claims.created)
    }

    fn file(&self, path: &Path) -> Result<Hashed, ShareError> {
        let progress = Progress::new(&*self.on_progress, &self.cancel.0);
        let content = if self.copy {
            self.store.copy_in(path, &progress)?
        } else {
            self.store.import_file(path, &progress)?
        };
        Ok(Hashed {
            kind: Kind::File,
            content,
            size: content.size,
            entries: Vec::new(),
            skipped: Vec::new(),
        })
    }

    fn folder(&self, path: &Path) -> Result<Hashed, ShareError> {
        let progress = Progress::new(&*self.on_progress, &self.cancel.0);
        let tree = self.store.import_tree(path, &progress)?;
        let entries: Vec<Entry> = tree
            .entries
            .into_iter()
            .map(|(path, file)| Entry {
                path,
                size: file.size,
                content: file.id,
            })
            .collect();
        let ids = entries.iter().map(|entry| entry.content).collect();
        let collection = Collection::from_entries(entries)?;
        let bytes = collection.encode();
        Ok(Hashed {
            kind: Kind::Collection,
            content: Imported {
                id: self.store.put_object(&bytes)?,
                size: bytes.len() as u64,
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

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(
        || "share".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn now_unix() -> u64 {
    clock()
        .1
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The state of a share, looked at now.
pub(super) fn state_of(state: Option<State>) -> ShareState {
    match state {
        Some(State::Complete | State::Partial) => ShareState::Ok,
        Some(State::Changed) => ShareState::Changed,
        _ => ShareState::Missing,
    }
}
