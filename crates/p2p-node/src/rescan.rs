//! Keeps watched shares up to date: shares them again at intervals, which costs little when nothing changed.
//!
//! One task owns the list. A share that was withdrawn meanwhile leaves the list at the next round, so nobody has to tell.

use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_core::{ContentId, Node, ShareRef};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::exit::Failure;

/// Pause between two rounds: a file saved now is offered in its new form within half a minute.
const INTERVAL: Duration = Duration::from_secs(30);
/// Watched shares at once.
const MAX_WATCHED: usize = 1024;
/// Requests to watch that may wait while a round is hashing.
const QUEUE: usize = 64;

/// A share to keep up to date.
#[derive(Debug, Clone)]
pub struct Watched {
    pub path: PathBuf,
    /// The name that was asked for; `None`: that of the file.
    pub name: Option<String>,
    pub unlisted: bool,
    /// What it was when last shared; `None`: it has never been there yet.
    pub id: Option<ContentId>,
}

/// The running task; ends when dropped.
#[derive(Debug)]
pub struct Rescan {
    wanted: mpsc::Sender<Watched>,
    task: JoinHandle<()>,
}

impl Rescan {
    pub fn start(node: Node) -> Self {
        let (wanted, requests) = mpsc::channel(QUEUE);
        Self {
            wanted,
            task: tokio::spawn(run(node, requests)),
        }
    }

    pub async fn watch(&self, share: Watched) -> Result<(), Failure> {
        self.wanted
            .send(share)
            .await
            .map_err(|_| Failure::new("stopped", "the node is stopping"))
    }
}

impl Drop for Rescan {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(node: Node, mut requests: mpsc::Receiver<Watched>) {
    let mut list: Vec<Watched> = Vec::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(share) = request else { return };
                list.retain(|known| known.path != share.path);
                if list.len() < MAX_WATCHED {
                    list.push(share);
                } else {
                    tracing::warn!(path = %share.path.display(), limit = MAX_WATCHED, "too many watched shares; not watched");
                }
            }
            _ = ticks.tick() => round(&node, &mut list).await,
        }
    }
}

async fn round(node: &Node, list: &mut Vec<Watched>) {
    if list.is_empty() {
        return;
    }
    let Ok(shares) = node.shares().await else {
        return;
    };
    list.retain(|watched| {
        watched.id.is_none() || shares.iter().any(|share| share.path == watched.path)
    });
    for watched in list {
        let mut share = node.share(&watched.path).unlisted(watched.unlisted);
        if let Some(name) = &watched.name {
            share = share.name(name.clone());
        }
        match share.await {
            Ok(shared) => {
                let before = watched.id.replace(shared.id);
                // Without symbolic links, as it is listed.
                watched.path = shared.path;
                if before != Some(shared.id) {
                    tracing::info!(path = %watched.path.display(), id = %shared.id, "a watched share changed");
                    withdraw(node, before, &watched.path).await;
                }
            }
            Err(error) => {
                tracing::debug!(path = %watched.path.display(), %error, "a watched share cannot be read now")
            }
        }
    }
}

/// Withdraws the former form of a share if the node still offers it under this path.
async fn withdraw(node: &Node, before: Option<ContentId>, path: &Path) {
    let Some(before) = before else { return };
    let Ok(shares) = node.shares().await else {
        return;
    };
    let still_offered = shares
        .iter()
        .any(|share| share.id == before && share.path == *path);
    if still_offered && let Err(error) = node.unshare(ShareRef::Id(before)).await {
        tracing::warn!(id = %before, %error, "the former form of a share cannot be withdrawn");
    }
}
