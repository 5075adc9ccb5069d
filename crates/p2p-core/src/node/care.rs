//! Care of the store: pins, collecting, counting, verifying, and limits that change while the node runs.

use std::{fmt, future::IntoFuture, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::{
    Node, NodeStopped, command::Command, error::NodeError, importing::CancelOnDrop,
    inventory::describe, query::ContentInfo,
};
use crate::{
    config::{Limits, StorageConfig},
    content::ContentId,
    store::{Collected, Evicted, Progress, StoreStat, Verified, What},
};

/// Something that is pinned.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pin {
    /// Its id.
    pub id: ContentId,
    /// When it was pinned, in Unix seconds.
    pub added: u64,
    /// What the node has of it; `None` if it was lost meanwhile.
    pub content: Option<ContentInfo>,
}

impl Node {
    /// Keeps content that the node has, or is fetching, from being evicted; of a folder also all its files. False if it
    /// was pinned before.
    ///
    /// # Errors
    /// [`NodeError::NotFound`] if the node does not know it; [`NodeError::Store`] if the index cannot be written.
    pub async fn pin(&self, id: ContentId) -> Result<bool, NodeError> {
        let pinned = self.with_store(move |store| store.pin(id)).await??;
        pinned.ok_or_else(|| NodeError::NotFound(format!("{id} is not here: fetch it first")))
    }

    /// Takes a pin back.
    ///
    /// # Errors
    /// [`NodeError::NotFound`] if there is none; [`NodeError::Store`] if the index cannot be written.
    pub async fn unpin(&self, id: ContentId) -> Result<(), NodeError> {
        if self.with_store(move |store| store.unpin(id)).await?? {
            Ok(())
        } else {
            Err(NodeError::NotFound(format!("{id} is not pinned")))
        }
    }

    /// What is pinned, by id; not the files of a folder that are pinned with it.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn pins(&self) -> Result<Vec<Pin>, NodeError> {
        let pins = self.with_store(|store| {
            let pins = store.pins()?.into_iter().map(|(id, added)| {
                let info = store.info(id)?;
                Ok(Pin {
                    id,
                    added,
                    content: info.map(describe),
                })
            });
            pins.collect::<Result<Vec<_>, NodeError>>()
        });
        pins.await?
    }

    /// Removes from the store what nothing refers to and is older than `grace`: what crashes left half written, listings of
    /// folders that are shared no longer, records of files that are gone. With `all` also every download that may be
    /// evicted. Files that are shared where they lie, or were fetched to a place that someone named, are not touched,
    /// unless [`Evict::Downloads`](crate::Evict::Downloads) says so. The index is made as small as it can be, for which
    /// all who use it wait.
    ///
    /// # Errors
    /// If the index or a file cannot be written.
    pub async fn collect(&self, grace: Duration, all: bool) -> Result<Collected, NodeError> {
        let collected = self.with_store(move |store| store.collect(grace, all));
        let collected = collected.await??;
        self.lose(collected.ids.clone(), false).await?;
        Ok(collected)
    }

    /// What is in the store, counted by kind.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn stat(&self) -> Result<StoreStat, NodeError> {
        Ok(self.with_store(|store| store.stat()).await??)
    }

    /// Hashes all that is held again; await the result. What turns out damaged is served no longer, and never deleted.
    pub fn verify(&self) -> Verify {
        Verify {
            node: self.clone(),
            on_progress: Box::new(|_, _| {}),
        }
    }

    /// Changes how much of the disk the node may use. If more counts than the new quota allows, what may be evicted is.
    /// The rest stays, and nothing new is fetched until there is room. Returns what went.
    ///
    /// # Errors
    /// If the index or a file cannot be written.
    pub async fn set_storage(&self, storage: StorageConfig) -> Result<Vec<Evicted>, NodeError> {
        let evicted = self.with_store(move |store| {
            store.set_limits(storage.quota, storage.min_free);
            store.set_evict(storage.evict);
            store.shrink()
        });
        let evicted = evicted.await??;
        let ids = evicted.iter().map(|evicted| evicted.id).collect();
        self.lose(ids, false).await?;
        Ok(evicted)
    }

    /// Changes the rates of sending and receiving, and whether neighbours are exempt, to what `limits` says. The rates
    /// hold at once, also for what is under way. The other limits need a new start.
    ///
    /// # Errors
    /// If the node has stopped.
    pub async fn set_rates(&self, limits: &Limits) -> Result<(), NodeStopped> {
        self.send(Command::Rates {
            upload: limits.upload,
            download: limits.download,
            lan_exempt: limits.lan_exempt,
        })
        .await
    }

    async fn lose(&self, ids: Vec<ContentId>, changed: bool) -> Result<(), NodeStopped> {
        self.send(Command::Lost { ids, changed }).await
    }
}

type OnProgress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// A look through the store that is about to begin; await it, drop it to cancel. See [`Node::verify`].
#[must_use = "nothing is verified before this is awaited"]
pub struct Verify {
    node: Node,
    on_progress: OnProgress,
}

impl fmt::Debug for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify").finish_non_exhaustive()
    }
}

impl Verify {
    /// Calls this with bytes read and bytes to read, about once per MiB, from another thread.
    pub fn on_progress(mut self, told: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.on_progress = Box::new(told);
        self
    }

    async fn run(self) -> Result<Verified, NodeError> {
        let Self { node, on_progress } = self;
        let cancel = CancelOnDrop::default();
        let flag = Arc::clone(&cancel.0);
        let verified =
            node.with_store(move |store| store.verify(&Progress::new(&*on_progress, &flag)));
        let verified = verified.await??;
        drop(cancel);
        let damaged = verified.damage.iter();
        let unusable = damaged.filter(|damage| damage.what != What::Unreadable);
        node.lose(unusable.map(|damage| damage.id).collect(), true)
            .await?;
        Ok(verified)
    }
}

impl IntoFuture for Verify {
    type Output = Result<Verified, NodeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
