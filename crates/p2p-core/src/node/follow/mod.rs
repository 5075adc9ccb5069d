//! Watched shares: hears of changes from the system, asks [`Watch`] what to look at, and has threads look.
//!
//! One thread owns it all and never waits for a look. What the system tells comes through a bounded queue; when that is
//! full, or the system itself has lost events, everything is looked at again. States: a share is followed from
//! [`Follower::follow`] until its record is gone.

mod hearing;
mod update;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{broadcast, mpsc, watch};

pub(super) use self::update::Followed;
use self::{
    hearing::{Hearing, News},
    update::{Outcome, Renewed, Update},
};
use super::{
    command::Command, driver::clock, error::ShareError, event::Event, gate::Gate, keys::Keys,
};
use crate::{
    content::ContentId,
    store::{ShareRecord, State, Store},
    watch::{Looked, Watch, Work},
};

/// Messages that may wait while the thread writes to the index.
const QUEUE: usize = 4096;
/// Messages taken together, so that a thousand events cost one look into the index.
const BATCH: usize = 1024;
/// Shares that are watched at once.
const MAX_WATCHED: usize = 1024;
/// The longest sleep: files that were gone too long are forgotten, and stubborn ones told, at least this often.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

type Pending = Arc<BTreeSet<PathBuf>>;

enum Message {
    Follow(Followed),
    Unfollow(PathBuf),
    News(News),
    Looked {
        work: Work,
        result: Box<Result<(Outcome, Looked), ShareError>>,
    },
    Stop,
}

/// The handle to the thread; it ends when this is dropped.
pub(super) struct Follower {
    messages: SyncSender<Message>,
    cancel: Arc<AtomicBool>,
    pending: watch::Receiver<Pending>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Follower {
    pub(super) fn start(
        store: Store,
        keys: Arc<Keys>,
        gate: Arc<Gate>,
        commands: &mpsc::Sender<Command>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let (messages, queue) = sync_channel(QUEUE);
        let (published, pending) = watch::channel(Pending::default());
        let cancel = Arc::new(AtomicBool::new(false));
        let following = Following {
            store,
            keys,
            gate,
            commands: commands.downgrade(),
            events,
            published,
            cancel: Arc::clone(&cancel),
            messages: messages.clone(),
            hearing: Hearing::new(messages.clone()),
            watch: Watch::default(),
            shares: BTreeMap::new(),
            forget: Vec::new(),
            looks: 0,
        };
        let spawned = std::thread::Builder::new()
            .name("p2p-follow".to_owned())
            .spawn(move || following.run(&queue));
        let thread = spawned
            .inspect_err(|error| tracing::error!(%error, "shares cannot be watched"))
            .ok();
        Self {
            messages,
            cancel,
            pending,
            thread: Mutex::new(thread),
        }
    }

    /// May wait for the thread. False if it has ended.
    pub(super) fn follow(&self, share: Followed) -> bool {
        self.messages.send(Message::Follow(share)).is_ok()
    }

    /// May wait for the thread.
    pub(super) fn unfollow(&self, path: PathBuf) {
        // A thread that has ended follows nothing.
        let _ = self.messages.send(Message::Unfollow(path));
    }

    /// Shares with files that are not what they were, and were not looked at yet.
    pub(super) fn pending(&self) -> Pending {
        self.pending.borrow().clone()
    }

    /// Ends the thread, and waits for it.
    pub(super) fn stop(&self) {
        self.cancel.store(true, Ordering::Relaxed);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // An error says that it has ended already.
            let _ = self.messages.send(Message::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        // With a full queue it is awake, and sees the other sign.
        let _ = self.messages.try_send(Message::Stop);
    }
}

/// A share that is followed, and how it stands.
struct Standing {
    followed: Followed,
    id: Option<ContentId>,
    /// It is gone, and its contents are not announced.
    withdrawn: bool,
    /// Set when it is followed no longer, for a look that is under way.
    ended: Arc<AtomicBool>,
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// What the thread owns.
struct Following {
    store: Store,
    keys: Arc<Keys>,
    gate: Arc<Gate>,
    /// Weak, so that the driver ends with the last handle to the node.
    commands: mpsc::WeakSender<Command>,
    events: broadcast::Sender<Event>,
    published: watch::Sender<Pending>,
    cancel: Arc<AtomicBool>,
    messages: SyncSender<Message>,
    hearing: Hearing,
    watch: Watch,
    shares: BTreeMap<PathBuf, Standing>,
    /// Where something was that is to be forgotten; the next look takes it along.
    forget: Vec<PathBuf>,
    looks: usize,
}

impl Following {
    fn run(mut self, queue: &Receiver<Message>) {
        loop {
            let (now, _) = clock();
            if self.hearing.take_lost() {
                tracing::info!("changes of watched shares were missed; all of them are looked at");
                self.watch.on_lost(now);
            }
            self.forget.extend(self.watch.expired(now));
            for path in self.watch.stubborn(now) {
                tracing::warn!(path = %path.display(), "a file in a watched share is written to all the time; it is shared when it is left alone");
            }
            while let Some(work) = self.watch.next(now) {
                self.begin(work, now);
            }
            let deadline = self.watch.next_deadline().unwrap_or(now + HOUSEKEEPING);
            let patience = deadline.saturating_duration_since(now).min(HOUSEKEEPING);
            let first = match queue.recv_timeout(patience) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let (now, _) = clock();
            let more = queue.try_iter().take(BATCH);
            let mut heard = Vec::new();
            let mut stop = false;
            for message in std::iter::once(first).chain(more) {
                match message {
                    Message::Stop => stop = true,
                    Message::News(news) => self.on_news(news, &mut heard, now),
                    Message::Follow(share) => self.on_follow(share, now),
                    Message::Unfollow(path) => self.on_unfollow(&path),
                    Message::Looked { work, result } => self.on_looked(&work, *result, now),
                }
            }
            self.doubt(&heard, now);
            if stop || self.cancel.load(Ordering::Relaxed) {
                break;
            }
        }
        self.finish(queue);
    }

    /// Waits for the looks under way, which were told to end.
    fn finish(mut self, queue: &Receiver<Message>) {
        while self.looks > 0 {
            match queue.recv() {
                Ok(Message::Looked { .. }) => self.looks = self.looks.saturating_sub(1),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    fn on_follow(&mut self, share: Followed, now: Instant) {
        let path = share.path.clone();
        if self.shares.len() >= MAX_WATCHED && !self.shares.contains_key(&path) {
            tracing::warn!(path = %path.display(), limit = MAX_WATCHED, "too many watched shares; this one is not watched");
            return;
        }
        self.watch.add(path.clone(), now);
        // Of one that is watched already, what was asked for may have changed.
        self.watch.on_event(&path, now);
        let known = self.store.share(&path).ok().flatten();
        let standing = Standing {
            withdrawn: false,
            ended: Arc::default(),
            followed: share,
            id: known.map(|share| share.id),
        };
        self.shares.insert(path.clone(), standing);
        // Before the first look, which waits a little: what changes until then is to be heard of.
        self.listen(&path, now);
    }

    /// Has the system tell of changes in a share, also in folders that it did not have when this was last done.
    fn listen(&mut self, share: &std::path::Path, now: Instant) {
        let heard = self
            .hearing
            .listen(share, |path| self.shares.contains_key(path));
        self.watch.set_heard(share, heard, now);
    }

    fn on_unfollow(&mut self, path: &std::path::Path) {
        self.shares.remove(path);
        if self.watch.remove(path) {
            self.hearing.forget_all();
            let (now, _) = clock();
            for share in self.watch.shares().cloned().collect::<Vec<_>>() {
                self.listen(&share, now);
            }
            self.publish();
        }
    }

    fn on_news(&mut self, news: News, heard: &mut Vec<PathBuf>, now: Instant) {
        match news {
            News::Paths(paths) => {
                for path in paths {
                    if !self.watch.on_event(&path, now).is_empty() {
                        heard.push(path);
                    }
                }
            }
            News::Limit => {
                let shares: Vec<PathBuf> = self.shares.keys().cloned().collect();
                for share in shares {
                    self.watch.set_heard(&share, false, now);
                }
            }
        }
    }

    /// Has what is not what it was served no longer, and tells of it.
    fn doubt(&mut self, heard: &[PathBuf], now: Instant) {
        if heard.is_empty() {
            return;
        }
        let doubted = match self.store.doubt(heard) {
            Ok(doubted) => doubted,
            Err(error) => {
                tracing::warn!(%error, "what changed in a watched share cannot be looked up");
                return;
            }
        };
        if doubted.is_empty() {
            return;
        }
        for path in heard {
            if std::fs::symlink_metadata(path).is_err() {
                self.watch.on_gone(path.clone(), now);
            }
        }
        let mut files: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for file in &doubted {
            for share in file.path.ancestors() {
                if self.shares.contains_key(share) {
                    let count = files.entry(share.to_path_buf()).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
        for (path, files) in files {
            let Some(id) = self.shares.get(&path).and_then(|share| share.id) else {
                continue;
            };
            self.published.send_modify(|pending| {
                Arc::make_mut(pending).insert(path.clone());
            });
            // Gone as a whole is told when it has been gone for a while: a save may begin with that.
            self.tell(Event::ShareChanged { id, path, files });
        }
    }

    fn begin(&mut self, work: Work, now: Instant) {
        let Some(standing) = self.shares.get(&work.share) else {
            self.watch.remove(&work.share);
            return;
        };
        let (followed, withdrawn) = (standing.followed.clone(), standing.withdrawn);
        let ended = Arc::clone(&standing.ended);
        if work.is_scan() {
            self.listen(&work.share, now);
        }
        let (store, keys) = (self.store.clone(), Arc::clone(&self.keys));
        let gate = Arc::clone(&self.gate);
        let (gone, forget) = (self.watch.gone(), std::mem::take(&mut self.forget));
        let (cancel, messages) = (Arc::clone(&self.cancel), self.messages.clone());
        let look = work.clone();
        let spawned = std::thread::Builder::new()
            .name("p2p-look".to_owned())
            .spawn(move || {
                let update = Update {
                    store: &store,
                    keys: &keys,
                    gate: &gate,
                    followed: &followed,
                    work: &look,
                    gone: &gone,
                    withdrawn,
                    cancel: &cancel,
                    ended: &ended,
                };
                let result = Box::new(update.run());
                if let Err(error) = store.forget_gone(&forget) {
                    tracing::warn!(%error, "files that are gone cannot be forgotten");
                }
                drop(store);
                // Nobody to tell means that nobody follows any more.
                let _ = messages.send(Message::Looked { work: look, result });
            });
        match spawned {
            Ok(_) => self.looks = self.looks.saturating_add(1),
            Err(error) => {
                tracing::warn!(%error, "a watched share cannot be looked at now");
                let failed = Looked {
                    failed: true,
                    ..Looked::default()
                };
                self.watch.on_looked(&work, failed, now);
            }
        }
    }

    fn on_looked(
        &mut self,
        work: &Work,
        result: Result<(Outcome, Looked), ShareError>,
        now: Instant,
    ) {
        self.looks = self.looks.saturating_sub(1);
        let (outcome, looked) = result.unwrap_or_else(|error| {
            if !self.cancel.load(Ordering::Relaxed) {
                tracing::warn!(path = %work.share.display(), %error, "a watched share cannot be brought up to date; it is tried again");
            }
            let failed = Looked {
                failed: true,
                ..Looked::default()
            };
            (Outcome::Same, failed)
        });
        self.watch.on_looked(work, looked, now);
        // Before the event of the new form: who hears that may ask for the state.
        self.publish();
        self.on_outcome(&work.share, outcome);
    }

    fn on_outcome(&mut self, path: &std::path::Path, outcome: Outcome) {
        let Some(standing) = self.shares.get_mut(path) else {
            return;
        };
        match outcome {
            Outcome::Same => {}
            Outcome::Ended => self.on_unfollow(path),
            Outcome::Missing(ids) => {
                if let (false, Some(id)) = (standing.withdrawn, standing.id) {
                    standing.withdrawn = true;
                    tracing::info!(path = %path.display(), "a watched share is gone");
                    self.command(Command::Withdrawn { ids });
                    let path = path.to_path_buf();
                    self.tell(Event::ShareMissing { id, path });
                }
            }
            Outcome::Renewed(renewed) => {
                let Renewed {
                    before,
                    manifest,
                    added,
                    removed,
                } = *renewed;
                let id = manifest.claims().content;
                let removed = self.still_gone(removed);
                tracing::info!(path = %path.display(), %id, added = added.len(), removed = removed.len(), "a watched share has a new form");
                let Some(standing) = self.shares.get_mut(path) else {
                    return;
                };
                standing.id = Some(id);
                standing.withdrawn = false;
                standing.followed.expected = false;
                let record = self.store.share(path).ok().flatten();
                let Some(record) = record.filter(|record| record.id == id) else {
                    // Shared anew or no longer since: that was told.
                    self.command(Command::Withdrawn { ids: removed });
                    return;
                };
                let ShareRecord {
                    unlisted, audience, ..
                } = record;
                self.command(Command::Renewed {
                    before,
                    manifest: Box::new(manifest),
                    unlisted,
                    audience,
                    added,
                    removed,
                });
            }
        }
    }

    /// Those of these contents that another share has not got since: its look may have ended before.
    fn still_gone(&self, mut removed: Vec<ContentId>) -> Vec<ContentId> {
        if let Ok(states) = self.store.states(&removed) {
            let mut states = states.into_iter();
            removed.retain(|_| {
                let state = states.next().flatten();
                state.is_none_or(|(state, _)| state != State::Complete)
            });
        }
        removed
    }

    /// Says which shares wait to be looked at.
    fn publish(&self) {
        self.published.send_if_modified(|pending| {
            let before = pending.len();
            let still =
                |path: &PathBuf| self.shares.contains_key(path) && self.watch.is_dirty(path);
            Arc::make_mut(pending).retain(still);
            before != pending.len()
        });
    }

    fn command(&self, command: Command) {
        if let Some(commands) = self.commands.upgrade() {
            // The node stops if this fails.
            let _ = commands.blocking_send(command);
        }
    }

    fn tell(&self, event: Event) {
        // That nobody listens is no error.
        let _ = self.events.send(event);
    }
}
