//! Sharing something no longer.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Node,
    command::Command,
    error::ShareError,
    importing::{real_path, sign},
    inventory::{entries_here, forget_strays, unshare},
    share::{ShareInfo, ShareRef},
};
use crate::{
    audience::Audience,
    content::{ContentId, SignedManifest},
    store::{Imported, ShareRecord, StoreError},
};

impl Node {
    /// Shares something no longer: it is not announced, shown or served any more. The files stay.
    ///
    /// # Errors
    /// If it was not shared, or the index cannot be written.
    pub async fn unshare(&self, what: ShareRef) -> Result<Vec<ShareInfo>, ShareError> {
        if let ShareRef::Path(path) = &what {
            self.unfollow_expected(path).await?;
        }
        let ended = self
            .with_store(move |store| unshare(store, &what))
            .await??;
        let paths: Vec<PathBuf> = ended.iter().map(|(info, _)| info.path.clone()).collect();
        for path in &paths {
            self.gate().set(path, Audience::Everyone);
        }
        self.unfollow(paths).await?;
        for (info, gone) in &ended {
            if let Some(entries) = gone {
                self.send(Command::Unshared { id: info.id }).await?;
                let ids = entries.clone();
                self.send(Command::Withdrawn { ids }).await?;
            } else if let Some(left) = self.left(info.id).await? {
                self.send(left).await?;
            }
        }
        Ok(ended.into_iter().map(|(info, _)| info).collect())
    }

    /// What was to be shared at a path when it appears there is not expected any more.
    async fn unfollow_expected(&self, path: &Path) -> Result<(), ShareError> {
        let path = path.to_path_buf();
        let found = self.with_store(move |store| {
            let path = real_path(&path);
            store.share(&path).map(|share| (path, share))
        });
        let (path, None) = found.await?? else {
            return Ok(());
        };
        self.unfollow(vec![path.clone()]).await?;
        let gate = Arc::clone(self.gate());
        self.with_store(move |store| {
            if store.begun()?.iter().any(|(begun, _)| *begun == path) {
                forget_strays(store, &path)?;
                store.end_begun(&path)?;
                gate.set(&path, Audience::Everyone);
            }
            Ok::<_, StoreError>(())
        })
        .await??;
        Ok(())
    }

    /// How a content is shared by the shares that are left of it: by one that is for everyone, if the others let everyone
    /// have it.
    async fn left(&self, id: ContentId) -> Result<Option<Command>, ShareError> {
        let (gate, keys) = (Arc::clone(self.gate()), Arc::clone(self.keys()));
        let left = self.with_store(move |store| {
            let shares = store.shares_of(id)?.into_iter().map(|(_, share)| share);
            let is_open = gate.is_open(store, id)?;
            let fits = |share: &ShareRecord| (share.audience == Audience::Everyone) == is_open;
            let Some(share) = shares.min_by_key(|share| (!fits(share), share.unlisted)) else {
                return Ok(None);
            };
            let manifests = store.manifests(id)?;
            let ours = keys.publisher();
            let mut signed = manifests.iter().map(SignedManifest::claims);
            let Some(claims) = signed.find(|claims| claims.publisher == ours) else {
                return Ok(None);
            };
            // The name that the other share had is nobody's business any more.
            let content = Imported {
                id,
                size: claims.size,
                attributes: claims.attributes.filter(|_| share.keep),
            };
            let manifest = sign(store, &keys, share.kind, content, &share.name)?;
            let entries = entries_here(store, id)?.into_iter();
            let (mut open, mut closed) = (Vec::new(), Vec::new());
            for id in entries.map(|entry| entry.content).chain([id]) {
                match gate.is_open(store, id)? {
                    true => open.push(id),
                    false => closed.push(id),
                }
            }
            Ok::<_, ShareError>(Some(Command::Left {
                manifest: Box::new(manifest),
                unlisted: share.unlisted,
                audience: share.audience,
                open,
                closed,
            }))
        });
        left.await?
    }
}
