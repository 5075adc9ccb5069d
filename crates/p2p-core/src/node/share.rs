//! Sharing a file or folder: hash, sign, remember, announce.

use std::{
    cell::RefCell, collections::BTreeSet, fmt, future::IntoFuture, path::PathBuf, sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    Node, blocking,
    command::Command,
    error::ShareError,
    follow::Followed,
    importing::{CancelOnDrop, Import, Made, OnProgress, Source, real_path},
};
use crate::{
    audience::{Audience, MAX_PEERS},
    content::{ContentId, Kind, Ticket},
    store::{ImportError, State},
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
                path: {
                    let path = path.clone();
                    blocking(move || real_path(&path)).await?
                },
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
            copies: RefCell::default(),
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
        // It may be shared as something else, too, or lie in another share. While all are for everyone, that changes nothing.
        let judged = (!node.gate().is_idle()).then(|| {
            let entries = hashed.entries.iter().copied();
            let ids: BTreeSet<ContentId> = entries.chain([hashed.content.id]).collect();
            ids.into_iter().collect()
        });
        node.send(Command::Shared {
            manifest: Box::new(manifest.clone()),
            unlisted,
            audience,
            entries: hashed.entries,
        })
        .await?;
        if let Some(ids) = judged
            && let Some(left) = node.left(hashed.content.id, ids).await?
        {
            node.send(left).await?;
        }
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

/// The state of a share, looked at now.
pub(super) fn state_of(state: Option<State>) -> ShareState {
    match state {
        Some(State::Complete | State::Partial) => ShareState::Ok,
        Some(State::Changed) => ShareState::Changed,
        _ => ShareState::Missing,
    }
}
