//! What the node has and shares, as the store tells it: listed, shared no longer, forgotten. These functions block.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    error::{NodeError, ShareError},
    fetch::prepare::read_all,
    importing::real_path,
    query::{ContentInfo, ContentState},
    share::{Announcement, ShareInfo, ShareRef, ShareState, state_of},
};
use crate::{
    audience::Audience,
    content::{Collection, ContentId, Entry, Kind, SignedManifest},
    store::{Page, ShareRecord, State, Store, StoreError},
};

/// Contents that are read from the index at once.
pub(super) const PAGE: usize = 4096;

/// Sizes of folders. What an id stands for never changes, and a listing may be long.
#[derive(Default)]
pub(super) struct FolderSizes(Mutex<HashMap<ContentId, u64>>);

impl FolderSizes {
    /// Folders whose size is remembered.
    const MOST: usize = 10_000;

    fn of(&self, store: &Store, id: ContentId) -> Result<u64, NodeError> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(size) = known().get(&id) {
            return Ok(*size);
        }
        let Some(content) = store.content(id)? else {
            return Ok(0);
        };
        let bytes = read_all(&content)?;
        let size = Collection::decode(&bytes).map_or(0, |collection| collection.total_size());
        let mut known = known();
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(id, size);
        Ok(size)
    }
}

pub(super) fn share_infos(store: &Store, sizes: &FolderSizes) -> Result<Vec<ShareInfo>, NodeError> {
    let mut infos = Vec::new();
    for (path, share) in store.shares()? {
        let state = store.refresh(share.id)?;
        let size = match share.kind {
            Kind::Collection => sizes.of(store, share.id)?,
            _ => store.info(share.id)?.map_or(0, |info| info.size),
        };
        infos.push(ShareInfo {
            id: share.id,
            state: match share.kind {
                Kind::Collection if !path.is_dir() => ShareState::Missing,
                _ => state_of(state),
            },
            path,
            name: share.name,
            size,
            kind: share.kind,
            unlisted: share.unlisted,
            watched: share.watched,
            audience: share.audience,
            announced: Announcement::Off,
        });
    }
    Ok(infos)
}

/// A share that has ended.
pub(super) struct Ended {
    pub(super) info: ShareInfo,
    /// Whether it was the last of its content.
    pub(super) was_last: bool,
    /// What went with it.
    pub(super) gone: BTreeSet<ContentId>,
    /// Of the files of its folder, and itself, what is here otherwise.
    pub(super) left: Vec<ContentId>,
}

/// Ends shares.
pub(super) fn unshare(store: &Store, what: &ShareRef) -> Result<Vec<Ended>, ShareError> {
    let wanted = match what {
        ShareRef::Id(id) => id.to_string(),
        ShareRef::Path(path) => path.display().to_string(),
    };
    let mut ended = Vec::new();
    for (path, share) in named(store, what)? {
        let size = store.info(share.id)?.map_or(0, |info| info.size);
        let entries = entries_here(store, share.id)?.into_iter();
        let mut left: BTreeSet<ContentId> = entries.map(|entry| entry.content).collect();
        left.insert(share.id);
        // What is left of it, also after a crash, is for whom it was.
        let is_restricted = share.audience != Audience::Everyone;
        if is_restricted {
            store.begin_share(&path, share.audience.clone())?;
        }
        store.remove_share(&path)?;
        let was_last = store.shares_of(share.id)?.is_empty();
        let gone = forget_unshared(store, &path, &share, was_last)?;
        if is_restricted {
            store.end_begun(&path)?;
        }
        left.retain(|id| !gone.contains(id));
        let info = ShareInfo {
            id: share.id,
            path,
            name: share.name,
            size,
            kind: share.kind,
            state: ShareState::Ok,
            unlisted: share.unlisted,
            watched: share.watched,
            audience: share.audience,
            announced: Announcement::Off,
        };
        ended.push(Ended {
            info,
            was_last,
            gone,
            left: left.into_iter().collect(),
        });
    }
    if ended.is_empty() {
        return Err(ShareError::NotShared(wanted));
    }
    Ok(ended)
}

/// The shares that are meant.
fn named(store: &Store, what: &ShareRef) -> Result<Vec<(PathBuf, ShareRecord)>, StoreError> {
    let path = match what {
        ShareRef::Id(id) => return store.shares_of(*id),
        ShareRef::Path(path) => path,
    };
    let mut paths = vec![path.clone()];
    paths.extend(Some(real_path(path)).filter(|real| real != path));
    let mut found = Vec::new();
    for path in paths {
        found.extend(store.share(&path)?.map(|share| (path, share)));
    }
    Ok(found)
}

/// The entries of a folder that is here; none of a file.
pub(super) fn entries_here(store: &Store, id: ContentId) -> Result<Vec<Entry>, StoreError> {
    let kinds = store.manifests(id)?;
    if kinds.iter().all(|m| m.claims().kind != Kind::Collection) {
        return Ok(Vec::new());
    }
    let Some(content) = store.content(id)?.filter(|content| content.is_complete()) else {
        return Ok(Vec::new());
    };
    let bytes = read_all(&content)?;
    Ok(Collection::decode(&bytes).map_or_else(|_| Vec::new(), Collection::into_entries))
}

/// Forgets content, and the entries of a folder that are not shared on their own. Returns what was forgotten and the
/// files deleted. The listing goes last: after a crash in between it is there to go on with.
pub(super) fn remove(
    store: &Store,
    id: ContentId,
    delete_files: bool,
) -> Result<(Vec<ContentId>, Vec<PathBuf>), StoreError> {
    let entries = entries_here(store, id)?;
    let shared: BTreeSet<ContentId> = store.shares()?.iter().map(|(_, s)| s.id).collect();
    let entries: Vec<Entry> = entries
        .into_iter()
        .filter(|entry| !shared.contains(&entry.content))
        .collect();
    let mut ids: Vec<ContentId> = entries.iter().map(|entry| entry.content).collect();
    let mut deleted = Vec::new();
    let mut folders = BTreeSet::new();
    let forgotten = store.forget_all(&ids, delete_files)?;
    for (entry, gone) in entries.iter().zip(forgotten) {
        let depth = entry.path.split('/').count();
        for path in &gone.deleted {
            folders.extend(path.ancestors().skip(1).take(depth).map(ToOwned::to_owned));
        }
        deleted.extend(gone.deleted);
    }
    ids.push(id);
    deleted.extend(store.forget(id, delete_files)?.deleted);
    // The innermost come last in the order of paths. One that is not empty stays.
    for folder in folders.iter().rev() {
        store.remove_if_empty(folder);
    }
    Ok((ids, deleted))
}

/// What is no longer shared is no longer served from there, and not at all if it is in no other share and was not fetched.
/// Returns what is forgotten.
fn forget_unshared(
    store: &Store,
    path: &Path,
    share: &ShareRecord,
    was_last: bool,
) -> Result<BTreeSet<ContentId>, ShareError> {
    let others = match share.kind {
        Kind::Collection => store.shares()?,
        // Nothing is below a file.
        _ => shares_around(store, path)?,
    };
    let listed = listed_near(store, path, &others)?;
    let others: BTreeSet<PathBuf> = others.into_iter().map(|(at, _)| at).collect();
    let mut gone = store.leave(path, |file, id| {
        listed.contains(&id) && is_within(file, &others)
    })?;
    // A listing, or the store's own copy, is nowhere else; nor is what is not here.
    let is_nowhere =
        |info: crate::store::ContentInfo| info.path.is_none() || info.state != State::Complete;
    let info = store.info(share.id)?.filter(|info| !info.download);
    if was_last && info.is_some_and(is_nowhere) {
        store.forget(share.id, false)?;
        gone.insert(share.id);
    }
    Ok(gone)
}

/// The shares that a path lies in.
fn shares_around(store: &Store, path: &Path) -> Result<Vec<(PathBuf, ShareRecord)>, StoreError> {
    let mut around = Vec::new();
    for above in path.ancestors() {
        around.extend(store.share(above)?.map(|share| (above.to_owned(), share)));
    }
    Ok(around)
}

/// What shares around a path or below it are, and list.
fn listed_near(
    store: &Store,
    path: &Path,
    shares: &[(PathBuf, ShareRecord)],
) -> Result<BTreeSet<ContentId>, StoreError> {
    let mut listed = BTreeSet::new();
    for (at, share) in shares {
        if path.starts_with(at) || at.starts_with(path) {
            listed.insert(share.id);
            let entries = entries_here(store, share.id)?;
            listed.extend(entries.into_iter().map(|entry| entry.content));
        }
    }
    Ok(listed)
}

fn is_within(file: &Path, shares: &BTreeSet<PathBuf>) -> bool {
    file.ancestors().any(|above| shares.contains(above))
}

/// Forgets what was hashed at and below a path for a share that did not come to be, or is no more: what is nowhere else, and
/// neither shared nor listed by a share around it.
pub(super) fn forget_strays(store: &Store, path: &Path) -> Result<(), StoreError> {
    let shares = store.shares()?;
    let listed = listed_near(store, path, &shares)?;
    let paths: BTreeSet<PathBuf> = shares.iter().map(|(at, _)| at.clone()).collect();
    let shared: BTreeSet<ContentId> = shares.into_iter().map(|(_, share)| share.id).collect();
    let mut strays = store.only_at(path)?;
    strays.retain(|id| !shared.contains(id) && !listed.contains(id));
    store.forget_all(&strays, false)?;
    // What is elsewhere, too, is not served from there.
    store.leave(path, |file, id| {
        listed.contains(&id) && is_within(file, &paths)
    })?;
    Ok(())
}

/// The next of the contents that are offered to everyone (shared, of a shared folder, or fetched), and after which there
/// may be more.
pub(super) fn offered_after(
    store: &Store,
    after: Option<ContentId>,
) -> Result<Page<ContentId>, StoreError> {
    let (contents, last) = store.contents_after(after, PAGE)?;
    let offered = contents
        .into_iter()
        .filter(|info| info.shared || info.state == State::Complete);
    Ok((offered.map(|info| info.id).collect(), last))
}

pub(super) fn describe(info: crate::store::ContentInfo) -> ContentInfo {
    let claims = info.manifest.as_ref().map(SignedManifest::claims);
    ContentInfo {
        id: info.id,
        name: claims.map(|claims| claims.name.clone()),
        size: info.size,
        held: info.held,
        blocks: info.blocks,
        kind: claims.map(|claims| claims.kind),
        state: match info.state {
            State::Complete => ContentState::Complete,
            State::Partial => ContentState::Partial,
            State::Changed => ContentState::Changed,
            State::Missing => ContentState::Missing,
        },
        path: info.path,
        download: info.download,
        added: info.added,
        last_used: info.last_used,
    }
}
