//! Sharing something no longer.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Node,
    command::Command,
    error::ShareError,
    importing::real_path,
    inventory::{entries_here, forget_strays, unshare},
    share::{ShareInfo, ShareRef},
};
use crate::{
    audience::Audience,
    content::ContentId,
    store::{ShareRecord, StoreError},
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
            } else if !self.is_listed(info.id).await? {
                self.send(Command::Hidden { id: info.id }).await?;
                let ids = self.closed_now(info.id).await?;
                self.send(Command::Withdrawn { ids }).await?;
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

    /// Whether one of the shares of a content may be seen by everyone.
    async fn is_listed(&self, id: ContentId) -> Result<bool, ShareError> {
        let shares = self.with_store(move |store| store.shares_of(id)).await??;
        let is_listed =
            |share: &ShareRecord| !share.unlisted && share.audience == Audience::Everyone;
        Ok(shares.iter().any(|(_, share)| is_listed(share)))
    }

    /// Of a content and of what it lists, what is not for everyone.
    async fn closed_now(&self, id: ContentId) -> Result<Vec<ContentId>, ShareError> {
        let gate = Arc::clone(self.gate());
        let closed = self.with_store(move |store| {
            let entries = entries_here(store, id)?.into_iter();
            let mut closed = Vec::new();
            for id in entries.map(|entry| entry.content).chain([id]) {
                if !gate.is_open(store, id)? {
                    closed.push(id);
                }
            }
            Ok::<_, StoreError>(closed)
        });
        Ok(closed.await??)
    }
}
