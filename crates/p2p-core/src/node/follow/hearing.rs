//! What the system tells of changes below folders.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
};

use notify::{
    Config, ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};

use super::Message;
use crate::store::tells_of_changes;

/// What was heard.
pub(super) enum News {
    /// Of these files or folders.
    Paths(Vec<PathBuf>),
    /// The system will not tell of every folder.
    Limit,
}

/// The ear.
pub(super) struct Hearing {
    messages: SyncSender<Message>,
    /// Made when it is first needed: most nodes watch nothing.
    watcher: Option<RecommendedWatcher>,
    lost: Arc<AtomicBool>,
    /// It was said that not everything is heard.
    said: bool,
}

impl Hearing {
    pub(super) fn new(messages: SyncSender<Message>) -> Self {
        Self {
            messages,
            watcher: None,
            lost: Arc::default(),
            said: false,
        }
    }

    /// Whether news were lost since this was last asked.
    pub(super) fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// Listens to nothing any more.
    pub(super) fn forget_all(&mut self) {
        self.watcher = None;
    }

    /// Listens to a share and all below it, and to the folder it is in, because that tells when it is replaced or comes
    /// back. Whether changes can be expected to be heard.
    pub(super) fn listen(&mut self, share: &Path, is_share: impl Fn(&Path) -> bool) -> bool {
        if !tells_of_changes(share) {
            self.say(share, "on a network file system, changes may not be told");
            return false;
        }
        let listened = self.try_listen(share, is_share);
        match listened {
            Ok(()) => true,
            Err(error) => {
                let why = match error.kind {
                    ErrorKind::MaxFilesWatch => {
                        "the limit of fs.inotify.max_user_watches is reached".to_owned()
                    }
                    _ => error.to_string(),
                };
                self.say(share, &why);
                false
            }
        }
    }

    fn try_listen(&mut self, share: &Path, is_share: impl Fn(&Path) -> bool) -> notify::Result<()> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(start(self.messages.clone(), Arc::clone(&self.lost))?),
        };
        // A folder below a share is listened to already; saying it again would end what is below it.
        let folder = share
            .parent()
            .filter(|folder| !folder.ancestors().any(is_share));
        if let Some(folder) = folder {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        match watcher.watch(share, RecursiveMode::Recursive) {
            // It is heard of when it appears.
            Err(error) if folder.is_some() && is_absent(&error) => Ok(()),
            other => other,
        }
    }

    fn say(&mut self, share: &Path, why: &str) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(path = %share.display(), %why, "not every change of watched shares is heard of; they are looked at every 30 s");
        }
    }
}

fn is_absent(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn start(
    messages: SyncSender<Message>,
    lost: Arc<AtomicBool>,
) -> notify::Result<RecommendedWatcher> {
    let heard = move |heard: notify::Result<notify::Event>| {
        let news = match heard {
            Ok(event) if event.need_rescan() => None,
            Ok(event) if !is_change(&event.kind) => return,
            Ok(event) => Some(News::Paths(event.paths)),
            Err(error) => match error.kind {
                ErrorKind::MaxFilesWatch => Some(News::Limit),
                _ => None,
            },
        };
        // Never waits: the one who takes the news may be waiting for this thread.
        let told = news.is_some_and(|news| messages.try_send(Message::News(news)).is_ok());
        if !told {
            lost.store(true, Ordering::Relaxed);
        }
    };
    RecommendedWatcher::new(heard, Config::default().with_follow_symlinks(false))
}

/// Whether an event says that a file may not be what it was; that it was read says nothing. A rename is also told as two
/// events of one path each.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => false,
        _ => true,
    }
}
