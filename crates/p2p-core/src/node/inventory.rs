//! What the node has and shares, as the store tells it: listed, shared no longer, forgotten. These functions block.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    error::{NodeError, ShareError},
    fetch::prepare::read_all,
    query::{ContentInfo, ContentState},
    share::{Announcement, ShareInfo, ShareRef, ShareState, state_of},
};
use crate::{
    content::{Collection, ContentId, Entry, Kind, SignedManifest},
    store::{State, Store, StoreError},
};

pub(super) fn share_infos(store: &Store) -> Result<Vec<ShareInfo>, NodeError> {
    let mut infos = Vec::new();
    for (path, share) in store.shares()? {
        let state = store.refresh(share.id)?;
        let size = match share.kind {
            Kind::Collection => folder_size(store, share.id)?,
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
            announced: Announcement::Off,
        });
    }
    Ok(infos)
}

pub(super) fn folder_size(store: &Store, id: ContentId) -> Result<u64, NodeError> {
    let Some(content) = store.content(id)? else {
        return Ok(0);
    };
    let bytes = read_all(&content)?;
    Ok(Collection::decode(&bytes).map_or(0, |collection| collection.total_size()))
}

/// Ends shares; of each, whether it was the last of its content.
pub(super) fn unshare(
    store: &Store,
    what: &ShareRef,
) -> Result<Vec<(ShareInfo, bool)>, ShareError> {
    let wanted = match what {
        ShareRef::Id(id) => id.to_string(),
        ShareRef::Path(path) => path.display().to_string(),
    };
    let canonical = match what {
        ShareRef::Path(path) => std::fs::canonicalize(path).ok(),
        ShareRef::Id(_) => None,
    };
    let matches = |path: &PathBuf, id: ContentId| match what {
        ShareRef::Id(wanted) => *wanted == id,
        ShareRef::Path(wanted) => path == wanted || Some(path) == canonical.as_ref(),
    };
    let mut ended = Vec::new();
    for (path, share) in store.shares()? {
        if !matches(&path, share.id) {
            continue;
        }
        store.remove_share(&path)?;
        let size = store.info(share.id)?.map_or(0, |info| info.size);
        let is_last = store.shares_of(share.id)?.is_empty();
        if is_last {
            forget_unshared(store, share.id, share.kind)?;
        }
        let info = ShareInfo {
            id: share.id,
            path,
            name: share.name,
            size,
            kind: share.kind,
            state: ShareState::Ok,
            unlisted: share.unlisted,
            announced: Announcement::Off,
        };
        ended.push((info, is_last));
    }
    if ended.is_empty() {
        return Err(ShareError::NotShared(wanted));
    }
    Ok(ended)
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
/// files deleted.
pub(super) fn remove(
    store: &Store,
    id: ContentId,
    delete_files: bool,
) -> Result<(Vec<ContentId>, Vec<PathBuf>), StoreError> {
    let entries = entries_here(store, id)?;
    let shared: BTreeSet<ContentId> = store.shares()?.iter().map(|(_, s)| s.id).collect();
    let mut ids = vec![id];
    let mut deleted = store.forget(id, delete_files)?.deleted;
    let mut folders = BTreeSet::new();
    for entry in entries
        .iter()
        .filter(|entry| !shared.contains(&entry.content))
    {
        let gone = store.forget(entry.content, delete_files)?.deleted;
        ids.push(entry.content);
        let depth = entry.path.split('/').count();
        for path in &gone {
            folders.extend(path.ancestors().skip(1).take(depth).map(ToOwned::to_owned));
        }
        deleted.extend(gone);
    }
    // The innermost come last in the order of paths. One that is not empty stays.
    for folder in folders.iter().rev() {
        let _ = std::fs::remove_dir(folder);
    }
    Ok((ids, deleted))
}

/// What is no longer shared is no longer served: a file at once; of a folder also the files that nothing else shares.
pub(super) fn forget_unshared(store: &Store, id: ContentId, kind: Kind) -> Result<(), ShareError> {
    if kind == Kind::Collection {
        let shared: BTreeSet<ContentId> = store
            .shares()?
            .into_iter()
            .map(|(_, share)| share.id)
            .collect();
        for entry in entries_here(store, id)? {
            let kept = shared.contains(&entry.content)
                || store.info(entry.content)?.is_some_and(|info| info.download);
            if !kept {
                store.forget(entry.content, false)?;
            }
        }
    }
    store.forget(id, false)?;
    Ok(())
}

pub(super) fn describe(
    info: crate::store::ContentInfo,
    manifest: Option<&SignedManifest>,
) -> ContentInfo {
    let claims = manifest.map(SignedManifest::claims);
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
