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

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    Node, blocking, command::Command, driver::clock, error::ShareError, follow::Followed,
    gate::Gate, keys::Keys,
};
use crate::{
    audience::{Audience, MAX_PEERS},
    content::{Collection, ContentId, Entry, Kind, SignedManifest, Ticket},
    store::{ImportError, Imported, Look, Progress, ShareRecord, State, Store},
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
    /// Whether the node keeps up with what becomes of it.
    pub watched: bool,
    /// Whom it is for.
    pub audience: Audience,
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
    source: Source,
    name: Option<String>,
    unlisted: bool,
    copy: bool,
    watch: bool,
    keep: bool,
    audience: Audience,
    on_progress: OnProgress,
}

/// What is shared.
enum Source {
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

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Share {
    pub(super) fn new(node: Node, path: PathBuf) -> Self {
        Self::of(node, Source::Path(path))
    }

    pub(super) fn of_bytes(node: Node, bytes: Bytes) -> Self {
        Self::of(node, Source::Bytes(bytes))
    }

    fn of(node: Node, source: Source) -> Self {
        Self {
            node,
            source,
            name: None,
            unlisted: false,
            copy: false,
            watch: false,
            keep: false,
            audience: Audience::Everyone,
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

    /// Whether to keep up with what becomes of it, until it is unshared or the node stops: files that appear are shared
    /// when they have been left alone for two seconds, those that change are not served until they were hashed again,
    /// those that are gone are withdrawn, and one that was moved is not hashed again. Each new form has an id of its own;
    /// see [`Event::Shared`](super::Event::Shared). Of what is not there yet, the error says so, and it is shared when it
    /// appears. Files that programs keep beside the one they work on (`name~`, `.name.swp`, `name.tmp` and the like) are
    /// left out. A copy is not watched. What is watched is so again when the node is started again.
    pub fn watch(mut self, watch: bool) -> Self {
        self.watch = watch;
        self
    }

    /// Whether to share the times of the files, in seconds, and whether each is a program, for those who ask for that
    /// too ([`FetchBuilder::keep`](crate::FetchBuilder::keep)). A folder then has another id wherever these differ, so
    /// that those who shared it without, or at another time, do not have the same one; its files are the same all the
    /// same.
    pub fn keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Whom it is for; by default everyone. To everyone else the node answers as if it had never heard of it. It is found by
    /// connected peers and by its tickets, not in the DHT. A folder within another share narrows that. Those who have
    /// fetched it are not bound by this, and share it with whomever they like.
    pub fn audience(mut self, audience: Audience) -> Self {
        self.audience = audience;
        self
    }

    /// Calls this with bytes hashed and bytes to hash, from several threads.
    pub fn on_progress(mut self, told: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.on_progress = Box::new(told);
        self
    }

    async fn make(self) -> Result<Shared, ShareError> {
        let node = self.node.clone();
        if node.is_in_memory() && matches!(self.source, Source::Path(_)) {
            return Err(ShareError::InMemory);
        }
        if let Audience::Peers(peers) = &self.audience
            && peers.len() > MAX_PEERS
        {
            return Err(ShareError::TooManyPeers);
        }
        let followed = match &self.source {
            Source::Path(path) if self.watch && !self.copy => Some(Followed {
                path: std::path::absolute(path).unwrap_or_else(|_| path.clone()),
                name: self.name.clone(),
                unlisted: self.unlisted,
                keep: self.keep,
                audience: self.audience.clone(),
                expected: true,
            }),
            _ => None,
        };
        let import = Import {
            store: node.store().clone(),
            keys: Arc::clone(node.keys()),
            source: self.source,
            name: self.name,
            unlisted: self.unlisted,
            copy: self.copy,
            watch: self.watch,
            keep: self.keep,
            audience: self.audience.clone(),
            gate: Arc::clone(node.gate()),
            on_progress: self.on_progress,
            cancel: CancelOnDrop::default(),
        };
        let cancel = import.cancel.clone();
        let unlisted = self.unlisted;
        let audience = self.audience;
        let made = blocking(move || import.run()).await?;
        drop(cancel);
        let is_missing = matches!(&made, Err(ShareError::Import(ImportError::NotFound { .. })));
        let made = match (made, followed.clone()) {
            (Err(error), Some(followed)) if is_missing => {
                node.follow(followed).await?;
                return Err(error);
            }
            (made, _) => made?,
        };
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
            audience,
            entries: hashed.entries,
        })
        .await?;
        if let Some(followed) = followed {
            let path = path.clone();
            let expected = false;
            let followed = Followed {
                path,
                expected,
                ..followed
            };
            node.follow(followed).await?;
        } else {
            // It may have been watched before.
            node.unfollow(vec![path.clone()]).await?;
        }
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

/// Ends the reading of files when the future that waits for it is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Import {
    store: Store,
    keys: Arc<Keys>,
    source: Source,
    name: Option<String>,
    unlisted: bool,
    copy: bool,
    watch: bool,
    keep: bool,
    audience: Audience,
    gate: Arc<Gate>,
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
struct Made {
    path: PathBuf,
    name: String,
    hashed: Hashed,
    manifest: SignedManifest,
}

impl Import {
    /// Restricts the share first if it is not for everyone, and opens it last if it is.
    fn run(self) -> Result<Made, ShareError> {
        let path = match &self.source {
            Source::Path(path) => std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()),
            Source::Bytes(bytes) => self.store.object_path(ContentId::of(bytes)),
        };
        if self.audience != Audience::Everyone {
            self.gate.set(&path, self.audience.clone());
        }
        let made = self.import(&path);
        let audience = match &made {
            Ok(_) => self.audience,
            // It is as it was before.
            Err(_) => {
                let before = self.store.share(&path)?;
                before.map_or(Audience::Everyone, |share| share.audience)
            }
        };
        self.gate.set(&path, audience);
        made
    }

    fn import(&self, path: &Path) -> Result<Made, ShareError> {
        let path = path.to_path_buf();
        let hashed = match &self.source {
            Source::Path(_) if path.is_dir() => self.folder(&path)?,
            Source::Path(_) => self.file(&path)?,
            Source::Bytes(bytes) => Hashed::of_file(Imported {
                id: self.store.put_object(bytes)?,
                size: bytes.len() as u64,
                attributes: None,
            }),
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
                self.gate.add(self.store.hash(path, &progress)?, path);
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
        if self.audience != Audience::Everyone {
            self.gate.add(ContentId::of(&bytes), path);
        }
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

/// The state of a share, looked at now.
pub(super) fn state_of(state: Option<State>) -> ShareState {
    match state {
        Some(State::Complete | State::Partial) => ShareState::Ok,
        Some(State::Changed) => ShareState::Changed,
        _ => ShareState::Missing,
    }
}
