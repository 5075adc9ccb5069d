//! Which places of watched shares to look at, and when. Pure.
//!
//! What is heard of a file makes its place dirty. A dirty place is looked at when nothing was heard of it for
//! [`QUIET`]: a program that writes a file in pieces, or beside it and then renames, gives one new version. All quiet
//! places of a share are looked at together, and a share waits a little until all of it is quiet. What may have been
//! missed is found by looking at everything at intervals.
//!
//! Invariants: of a share at most one look is under way; a place is handed out as quiet only if nothing was heard of it
//! for [`QUIET`]; what becomes dirty during a look is looked at after it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A file counts as complete when it was left alone for so long. Programs that write steadily write more often; those
/// that save and go on editing pause longer.
pub(crate) const QUIET: Duration = Duration::from_secs(2);
/// How long quiet places wait for others of their share that are not, so that copying many files into a folder does not
/// give a new form of it for every few of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long it is told that a file does not become quiet, and a form of the share is made without it.
const STUBBORN: Duration = Duration::from_secs(60);
/// Between two looks at a share: this, and so many times as long as the look took. One look may mean that the listing of
/// a million files is written and signed again; so it takes a tenth of the time at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_FACTOR: u32 = 9;
/// Everything is looked at this often where changes are heard of, because news may be lost.
const SCAN: Duration = Duration::from_secs(600);
/// And this often where they are not.
const BLIND_SCAN: Duration = Duration::from_secs(30);
/// Looks at once. Each hashes with all cores; two, so that one large file does not hold up everything else.
const MAX_LOOKS: usize = 2;
/// Dirty places of a share that are kept apart; when there are more, all of it is looked at.
const MAX_DIRTY: usize = 10_000;
/// Places where something was and is not any more, remembered to know a file again that was moved or comes back.
const MAX_GONE: usize = 4096;
/// And for how long.
const KEEP_GONE: Duration = Duration::from_secs(3600);

/// A dirty place.
#[derive(Debug, Clone, Copy)]
struct Dirt {
    first: Instant,
    last: Instant,
    told: bool,
    /// A look was taken that does without what is here.
    given_up: bool,
}

impl Dirt {
    fn new(now: Instant) -> Self {
        Self {
            first: now,
            last: now,
            told: false,
            given_up: false,
        }
    }

    fn due(&self) -> Instant {
        self.last + QUIET
    }

    fn lasts(&self, now: Instant) -> bool {
        self.first + STUBBORN <= now
    }
}

#[derive(Debug)]
struct Share {
    /// Places in the share; the empty one is all of it.
    dirty: BTreeMap<PathBuf, Dirt>,
    /// What the look under way is about.
    looking: Option<BTreeMap<PathBuf, Dirt>>,
    not_before: Instant,
    scan_at: Instant,
    /// Whether the system tells of changes.
    heard: bool,
}

/// A look to be taken. Its end is told to [`Watch::on_looked`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    /// The share.
    pub(crate) share: PathBuf,
    /// Places in it; the empty one is all of it.
    pub(crate) quiet: Vec<PathBuf>,
    /// Places that are being written to.
    pub(crate) busy: Vec<PathBuf>,
    /// Those of all these that first changed more than [`STUBBORN`] ago. Such a file is left out while it does not
    /// settle; any other stays listed as it was, so that one that is being saved is not missing for a moment.
    pub(crate) lasting: BTreeSet<PathBuf>,
}

impl Work {
    /// Whether it is about the whole share.
    pub(crate) fn is_scan(&self) -> bool {
        self.quiet.iter().any(|place| place.as_os_str().is_empty())
    }
}

/// How a look went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looked {
    /// It did not work, and is to be tried again later.
    pub(crate) failed: bool,
    /// How long it took, without the hashing.
    pub(crate) took: Duration,
    /// Files that turned out to be written to, by their full path.
    pub(crate) unsettled: Vec<PathBuf>,
    /// Where something was and is not any more.
    pub(crate) gone: Vec<PathBuf>,
}

/// All watched shares of a node.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    shares: BTreeMap<PathBuf, Share>,
    gone: BTreeSet<PathBuf>,
    /// The same in the order in which they went.
    went: VecDeque<(Instant, PathBuf)>,
    looks: usize,
}

impl Watch {
    /// This share is watched from now on, and looked at once.
    pub(crate) fn add(&mut self, share: PathBuf, now: Instant) {
        self.shares.entry(share).or_insert_with(|| Share {
            dirty: BTreeMap::new(),
            looking: None,
            not_before: now,
            scan_at: now,
            heard: true,
        });
    }

    /// This share is not watched any more. False if it was not.
    pub(crate) fn remove(&mut self, share: &Path) -> bool {
        let removed = self.shares.remove(share);
        if removed.as_ref().is_some_and(|s| s.looking.is_some()) {
            self.looks = self.looks.saturating_sub(1);
        }
        removed.is_some()
    }

    /// The shares.
    pub(crate) fn shares(&self) -> impl Iterator<Item = &PathBuf> {
        self.shares.keys()
    }

    /// Whether the system tells of changes in this share.
    pub(crate) fn set_heard(&mut self, share: &Path, heard: bool, now: Instant) {
        if let Some(share) = self.shares.get_mut(share) {
            share.heard = heard;
            if !heard {
                share.scan_at = share.scan_at.min(now + BLIND_SCAN);
            }
        }
    }

    /// Something was heard of a file or folder. The shares that it is in, if it is news that it is dirty there.
    pub(crate) fn on_event(&mut self, path: &Path, now: Instant) -> Vec<PathBuf> {
        let mut news = Vec::new();
        for root in path.ancestors() {
            let Some(share) = self.shares.get_mut(root) else {
                continue;
            };
            let place = path.strip_prefix(root).unwrap_or(Path::new(""));
            if let Some(dirt) = share.dirty.get_mut(place) {
                dirt.last = now;
                continue;
            }
            news.push(root.to_path_buf());
            if share.dirty.len() < MAX_DIRTY {
                share.dirty.insert(place.to_path_buf(), Dirt::new(now));
            } else {
                share.dirty.clear();
                share.scan_at = share.scan_at.min(now + QUIET);
            }
        }
        news
    }

    /// News were lost: everything is looked at.
    pub(crate) fn on_lost(&mut self, now: Instant) {
        for share in self.shares.values_mut() {
            share.scan_at = share.scan_at.min(now);
        }
    }

    /// The next look to take.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Work> {
        if self.looks >= MAX_LOOKS {
            return None;
        }
        let (root, share) = self
            .shares
            .iter_mut()
            .find(|(_, share)| share.is_due(now))?;
        let (quiet, mut busy): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut share.dirty)
            .into_iter()
            .partition(|(_, dirt)| dirt.due() <= now);
        let lasting = quiet.iter().chain(&busy);
        let lasting = lasting.filter(|(_, dirt)| dirt.lasts(now));
        let lasting = lasting.map(|(place, _)| place.clone()).collect();
        for dirt in busy.values_mut() {
            dirt.given_up |= dirt.lasts(now);
        }
        let mut places: Vec<PathBuf> = quiet.keys().cloned().collect();
        if share.scan_at <= now {
            places = vec![PathBuf::new()];
            share.scan_at = now + if share.heard { SCAN } else { BLIND_SCAN };
        }
        let work = Work {
            share: root.clone(),
            quiet: places,
            busy: busy.keys().cloned().collect(),
            lasting,
        };
        share.looking = Some(quiet);
        share.dirty = busy;
        self.looks = self.looks.saturating_add(1);
        Some(work)
    }

    /// When [`Self::next`] may have something, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.looks >= MAX_LOOKS {
            return None;
        }
        self.shares.values().filter_map(Share::due_at).min()
    }

    /// A look ended.
    pub(crate) fn on_looked(&mut self, work: &Work, looked: Looked, now: Instant) {
        for place in looked.gone {
            self.on_gone(place, now);
        }
        let Some(share) = self.shares.get_mut(&work.share) else {
            return;
        };
        let Some(taken) = share.looking.take() else {
            return;
        };
        self.looks = self.looks.saturating_sub(1);
        share.not_before = now + PAUSE.max(looked.took.saturating_mul(PAUSE_FACTOR));
        for path in looked.unsettled {
            let place = path.strip_prefix(&work.share).unwrap_or(&path);
            let dirt = taken.get(place).copied().unwrap_or(Dirt::new(now));
            share
                .dirty
                .entry(place.to_path_buf())
                .or_insert(Dirt { last: now, ..dirt });
        }
        if looked.failed {
            share.scan_at = share.scan_at.min(now + BLIND_SCAN);
        }
    }

    /// There was something at this path, and is not any more.
    pub(crate) fn on_gone(&mut self, path: PathBuf, now: Instant) {
        if !path.ancestors().any(|above| self.gone.contains(above)) {
            self.gone.insert(path.clone());
            self.went.push_back((now, path));
        }
    }

    /// Files that are written to all the time, each told once.
    pub(crate) fn stubborn(&mut self, now: Instant) -> Vec<PathBuf> {
        let mut stubborn = Vec::new();
        for (root, share) in &mut self.shares {
            for (place, dirt) in &mut share.dirty {
                if !dirt.told && now.saturating_duration_since(dirt.first) >= STUBBORN {
                    dirt.told = true;
                    stubborn.push(root.join(place));
                }
            }
        }
        stubborn
    }

    /// Whether something was heard of a share that was not looked at yet.
    pub(crate) fn is_dirty(&self, share: &Path) -> bool {
        let share = self.shares.get(share);
        share.is_some_and(|share| !share.dirty.is_empty() || share.looking.is_some())
    }

    /// Where something was lately.
    pub(crate) fn gone(&self) -> Vec<PathBuf> {
        self.gone.iter().cloned().collect()
    }

    /// Where something was that has not come back in time, or is too much to remember.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<PathBuf> {
        let mut expired = Vec::new();
        while let Some((since, _)) = self.went.front() {
            let old = now.saturating_duration_since(*since) >= KEEP_GONE;
            if !old && self.went.len() <= MAX_GONE {
                break;
            }
            if let Some((_, path)) = self.went.pop_front() {
                self.gone.remove(&path);
                expired.push(path);
            }
        }
        expired
    }
}

impl Share {
    /// When there is something to look at, if nothing more is heard.
    fn due_at(&self) -> Option<Instant> {
        if self.looking.is_some() {
            return None;
        }
        let due = || self.dirty.values().map(Dirt::due);
        let patient = due().min().map(|first| first + PATIENCE);
        let together = due().max();
        let quiet = together.into_iter().chain(patient).min();
        // A scan waits as well: of a file that is being saved just then it would give a form without the file.
        let next = quiet.map_or(self.scan_at, |quiet| quiet.min(self.scan_at + PATIENCE));
        let lasting = self.dirty.values().filter(|dirt| !dirt.given_up);
        let next = lasting
            .map(|dirt| dirt.first + STUBBORN)
            .fold(next, Instant::min);
        Some(next.max(self.not_before))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
#[path = "watch_simulation.rs"]
mod simulation;
