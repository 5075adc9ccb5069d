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
    inventory::{forget_strays, unshare},
    share::{ShareInfo, ShareRef},
};
use crate::{
    audience::Audience,
    content::ContentId,
    store::{Imported, ShareRecord, State, StoreError},
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
        let paths: Vec<PathBuf> = ended.iter().map(|end| end.info.path.clone()).collect();
        for path in &paths {
            self.gate().set(path, Audience::Everyone);
        }
        self.unfollow(paths).await?;
        let mut infos = Vec::new();
        for end in ended {
            let id = end.info.id;
            let ids = end.gone.into_iter().collect();
            self.send(Command::Withdrawn { ids }).await?;
            if end.was_last {
                self.send(Command::Unshared { id }).await?;
                let (open, closed) = self.judged(end.left).await?;
                self.send(Command::Withdrawn { ids: closed }).await?;
                self.send(Command::Offered { ids: open }).await?;
            } else if let Some(left) = self.left(id, end.left).await? {
                self.send(left).await?;
            }
            infos.push(end.info);
        }
        Ok(infos)
    }

    /// Of these contents, what everyone may have, and the others.
    async fn judged(
        &self,
        ids: Vec<ContentId>,
    ) -> Result<(Vec<ContentId>, Vec<ContentId>), ShareError> {
        let gate = Arc::clone(self.gate());
        let judged = self.with_store(move |store| {
            let states = store.states(&ids)?;
            let (mut open, mut closed) = (Vec::new(), Vec::new());
            for (id, state) in ids.into_iter().zip(states) {
                let is_here = matches!(state, Some((State::Complete, _)));
                match is_here && gate.is_open(store, id)? {
                    true => open.push(id),
                    false => closed.push(id),
                }
            }
            Ok::<_, StoreError>((open, closed))
        });
        Ok(judged.await??)
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

    /// How a content is shared by all of its shares together, and of these contents what everyone may have.
    pub(super) async fn left(
        &self,
        id: ContentId,
        ids: Vec<ContentId>,
    ) -> Result<Option<Command>, ShareError> {
        let (open, closed) = self.judged(ids).await?;
        let keys = Arc::clone(self.keys());
        let left = self.with_store(move |store| {
            let shares = store.shares_of(id)?.into_iter().map(|(_, share)| share);
            let is_open = open.contains(&id);
            let fits = |share: &ShareRecord| (share.audience == Audience::Everyone) == is_open;
            let Some(share) = shares.min_by_key(|share| (!fits(share), share.unlisted)) else {
                return Ok(None);
            };
            let manifests = store.manifests(id)?;
            let ours = keys.publisher();
            let mut by_us = manifests.into_iter();
            let Some(manifest) = by_us.find(|signed| signed.claims().publisher == ours) else {
                return Ok(None);
            };
            let claims = manifest.claims();
            let attributes = claims.attributes.filter(|_| share.keep);
            let content = Imported {
                id,
                size: claims.size,
                attributes,
            };
            let manifest = match claims.name == share.name && claims.attributes == attributes {
                true => manifest,
                // The name that the other share had is nobody's business any more.
                false => sign(store, &keys, share.kind, content, &share.name)?,
            };
            Ok::<_, ShareError>(Some(Command::Left {
                manifest: Box::new(manifest),
                // Within a share that is not for everyone there is nothing for everyone.
                unlisted: share.unlisted || share.audience == Audience::Everyone && !is_open,
                audience: share.audience,
                open,
                closed,
            }))
        });
        left.await?
    }
}
