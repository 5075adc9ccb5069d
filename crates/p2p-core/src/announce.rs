//! Which ids to announce in the DHT, and when: at once when shared, then once in each [`INTERVAL_SECS`]. Pure.
//!
//! An id has its place on the ring of the DHT: the SHA-256 of its key. A hand goes round that ring once an interval, and
//! renews what it passes, so that renewals are as even as the places are, however the ids were shared. Neighbours are due
//! together: the one whose turn it is looks for the servers closest to it, and the ids around it for which these are the
//! closest as well go to them in the same [`Group`]. What is late (the node was off, the DHT was gone) and what is shared by
//! the thousand goes out at [`PACE`], never in a burst.
//!
//! Invariants: an id is in one group at most; at most [`IN_FLIGHT`] groups are under way; outside of what the user has just
//! shared, no more than one id in each [`PACE`] is begun.

mod ring;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::ring::{Entry, SLICES, Slice, neighbourhood, place, slice_of};
use crate::content::ContentId;

/// Groups under way at once; each is a walk of a few round trips, and a message to twenty servers.
const IN_FLIGHT: usize = 4;

/// Ids of one group: what one message to a server holds, 150 kB with eight addresses each.
pub(crate) const MAX_GROUP: usize = 512;

/// The mean pause between two ids. At twenty servers each, 400 records a second leave the node when it is late: 100,000 ids
/// are out after 84 minutes, far within the interval.
const PACE: Duration = Duration::from_millis(50);

/// What failed is tried again after this, doubled at each failure up to a quarter of the interval.
const RETRY: u32 = 15;

/// While no server is found at all, one id in this time is tried, doubled up to [`MAX_OUTAGE`].
const OUTAGE: Duration = Duration::from_secs(15);
const MAX_OUTAGE: Duration = Duration::from_secs(900);

/// The hand goes round the ring in so many seconds; servers keep records for 48 h.
const INTERVAL_SECS: u32 = 22 * 3600;

/// An id announced less than this before the hand passes waits for the next round: 27.5 h at most, and the servers' 48 h
/// leave a second chance.
const TOO_SOON: u32 = INTERVAL_SECS / 4;

/// How long a record counts as held by the servers.
const VALID: u32 = 48 * 3600;

/// How long the hand is in a part of the ring.
const SLICE_SECS: u32 = INTERVAL_SECS / SLICES as u32;

/// The wall's clock is followed when it is so much ahead: more than it is set by while the computer is awake.
const MAX_AHEAD: u32 = 60;

/// Changes are handed out to be saved at most this often; what a crash loses is announced once more.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// How an id stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Announced {
    /// The DHT's servers hold the record since so long.
    Done(Duration),
    /// Its turn has not come, or it is under way.
    Due,
    /// The last try found no server; it is repeated.
    Failed,
}

/// All ids, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Whose record the servers hold.
    pub(crate) announced: u64,
    /// Whose time has come, and who wait for their turn.
    pub(crate) due: u64,
    /// Whose last try failed.
    pub(crate) failed: u64,
    /// How long the one that waits longest has been due.
    pub(crate) lag: Duration,
}

/// Ids for which the same servers are the closest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) Vec<ContentId>);

/// The ids of one part of the ring that were announced, and when, in Unix seconds: what is kept over a restart.
pub(crate) type SavedSlice = (u8, Vec<(ContentId, u32)>);

/// The schedule of all ids of a node.
#[derive(Debug)]
pub(crate) struct Announcer {
    slices: Vec<Slice>,
    /// What the user has just shared: not paced.
    urgent: VecDeque<ContentId>,
    /// By the id that looks, or looked, for servers: those that go to the servers it found.
    under_way: BTreeMap<ContentId, Vec<ContentId>>,
    /// Those withdrawn since their group began. If one comes back before that ends, it is under way still.
    withdrawn: BTreeSet<ContentId>,
    /// Those of `under_way` that were sent before the node moved: they name the old addresses.
    outdated: BTreeSet<ContentId>,
    /// When the node last moved in this run, in Unix seconds; 0: never.
    moved: u32,
    /// Where the hand was at the beginning of 1970. Each node has another, lest all renew the same part of the ring at the
    /// same time, and meet at the same servers.
    phase: u32,
    /// The same moment on both clocks. Due times survive a restart, so they are of the wall; but within a run, no jump back
    /// of the wall's clock moves them. One ahead does: `Instant` may stand still while the computer sleeps.
    began: Instant,
    began_wall: u32,
    not_before: Instant,
    /// Tries in a row that found no server.
    outages: u32,
    saved_at: Instant,
}

impl Announcer {
    /// A schedule without ids. `phase` should differ from node to node.
    pub(crate) fn new(phase: u32, now: Instant, wall: SystemTime) -> Self {
        Self {
            slices: std::iter::repeat_with(Slice::default)
                .take(SLICES)
                .collect(),
            urgent: VecDeque::new(),
            under_way: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            outdated: BTreeSet::new(),
            moved: 0,
            phase,
            began: now,
            began_wall: unix_seconds(wall),
            not_before: now,
            outages: 0,
            saved_at: now,
        }
    }

    /// What is known from earlier runs, each with when it was announced.
    pub(crate) fn restore(
        &mut self,
        known: impl IntoIterator<Item = (ContentId, Option<u32>)>,
        now: Instant,
    ) {
        let seconds = self.seconds(now);
        for (id, done) in known {
            // A time that has not come yet is one of a clock that was wrong.
            let done = done.filter(|done| *done <= seconds).unwrap_or(0);
            let place = place(id);
            let due = if done > self.moved {
                self.next_pass(place, done.saturating_add(TOO_SOON))
            } else {
                seconds
            };
            let entry = Entry {
                id,
                place,
                done,
                due,
                failures: 0,
                busy: false,
            };
            self.slice_mut(place).new.push(entry);
        }
        // Sorted in together: put in one by one, a million would be moved about for a minute.
        for slice in &mut self.slices {
            slice.settle();
        }
    }

    /// From now on this id is announced, at its pace. Whether it is new.
    pub(crate) fn add(&mut self, id: ContentId, now: Instant) -> bool {
        let seconds = self.seconds(now);
        self.insert(id, 0, seconds)
    }

    /// From now on this id is announced, and at once if it is new: the user has just shared it.
    pub(crate) fn add_urgent(&mut self, id: ContentId, now: Instant) -> bool {
        let new = self.add(id, now);
        if new {
            self.urgent.push_back(id);
        }
        new
    }

    /// This id is no longer announced.
    pub(crate) fn remove(&mut self, id: ContentId) {
        let place = place(id);
        let slice = self.slice_mut(place);
        if let Ok(at) = slice.find(place, id) {
            let removed = slice.entries.remove(at);
            slice.unsaved = true;
            slice.refresh();
            if removed.busy {
                self.withdrawn.insert(id);
            }
        }
    }

    fn insert(&mut self, id: ContentId, done: u32, due: u32) -> bool {
        let place = place(id);
        let busy = self.withdrawn.remove(&id);
        let slice = self.slice_mut(place);
        let Err(at) = slice.find(place, id) else {
            return false;
        };
        let entry = Entry {
            id,
            place,
            done,
            due,
            failures: 0,
            busy,
        };
        slice.entries.insert(at, entry);
        if !busy {
            slice.soonest = Some(slice.soonest.map_or(due, |soonest| soonest.min(due)));
        }
        true
    }

    /// The DHT has become reachable: what failed is tried again now, at its pace.
    pub(crate) fn on_online(&mut self, now: Instant) {
        let seconds = self.seconds(now);
        self.outages = 0;
        self.not_before = now;
        for slice in &mut self.slices {
            for entry in slice.entries.iter_mut().filter(|entry| entry.failures > 0) {
                entry.due = entry.due.min(seconds);
            }
            slice.refresh();
        }
    }

    /// What the wall's clock says. While the computer sleeps the records expire, though no time passes here. A clock that was
    /// set right costs one early round, at its pace.
    pub(crate) fn on_wall(&mut self, now: Instant, wall: SystemTime) {
        let ahead = unix_seconds(wall).saturating_sub(self.seconds(now));
        if ahead > MAX_AHEAD {
            self.began_wall = self.began_wall.saturating_add(ahead);
        }
    }

    /// The records that are out, or on their way, say where this node was: all are sent again, at their pace. What was kept
    /// of them counts no longer, lest the next run take the new addresses for told.
    pub(crate) fn on_moved(&mut self, now: Instant) {
        let seconds = self.seconds(now);
        self.moved = seconds;
        self.outdated.extend(self.under_way.keys());
        for slice in &mut self.slices {
            slice.unsaved = true;
            for entry in slice.entries.iter_mut().filter(|entry| entry.done > 0) {
                entry.due = entry.due.min(seconds);
            }
            slice.refresh();
        }
    }

    /// The next id to look for servers for. What is found is told to [`Self::on_servers`].
    pub(crate) fn next(&mut self, now: Instant) -> Option<ContentId> {
        if self.under_way.len() >= IN_FLIGHT {
            return None;
        }
        let id = self.next_urgent().or_else(|| self.next_due(now))?;
        self.under_way.insert(id, vec![id]);
        let place = place(id);
        let slice = self.slice_mut(place);
        slice.looking = true;
        if let Ok(at) = slice.find(place, id)
            && let Some(entry) = slice.entries.get_mut(at)
        {
            entry.busy = true;
        }
        slice.refresh();
        Some(id)
    }

    fn next_urgent(&mut self) -> Option<ContentId> {
        while let Some(id) = self.urgent.pop_front() {
            let place = place(id);
            let slice = self.slice_mut(place);
            let waits = slice.find(place, id).ok();
            let entry = waits.and_then(|at| slice.entries.get(at));
            // It may have gone with a neighbour, or be withdrawn already.
            if entry.is_some_and(|entry| !entry.busy && entry.done == 0 && entry.failures == 0) {
                return Some(id);
            }
        }
        None
    }

    fn next_due(&self, now: Instant) -> Option<ContentId> {
        if now < self.not_before || self.is_probing() {
            return None;
        }
        let soonest = self.soonest_slice()?;
        let due = soonest.soonest?;
        if due > self.seconds(now) {
            return None;
        }
        let mut idle = soonest.entries.iter().filter(|entry| !entry.busy);
        idle.find(|entry| entry.due == due).map(|entry| entry.id)
    }

    /// Whether one id is finding out if there are servers again: the others wait for it.
    fn is_probing(&self) -> bool {
        self.outages > 0 && !self.under_way.is_empty()
    }

    fn soonest_slice(&self) -> Option<&Slice> {
        let slices = self.slices.iter().filter(|slice| !slice.looking);
        slices
            .filter(|slice| slice.soonest.is_some())
            .min_by_key(|slice| slice.soonest)
    }

    /// When [`Self::next`] will have something, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.under_way.len() >= IN_FLIGHT {
            return None;
        }
        if !self.urgent.is_empty() {
            return Some(self.began);
        }
        if self.is_probing() {
            return None;
        }
        let due = self.soonest_slice()?.soonest?;
        let wait = due.saturating_sub(self.began_wall);
        let due = self.began + Duration::from_secs(wait.into());
        Some(due.max(self.not_before))
    }

    /// The servers closest to an id that [`Self::next`] gave were found: those to announce to them together. `shared_bits`
    /// says how many leading bits of its place the farthest of them has in common with the id (0 if they are all there are);
    /// `None`, that there is no server. The end is told to [`Self::on_result`].
    pub(crate) fn on_servers(
        &mut self,
        target: ContentId,
        shared_bits: Option<u32>,
        now: Instant,
    ) -> Option<Group> {
        let place = place(target);
        self.slice_mut(place).looking = false;
        // What is sent from now on names the new addresses.
        self.outdated.remove(&target);
        let Some(shared_bits) = shared_bits else {
            let pause = OUTAGE.saturating_mul(1 << self.outages.min(16));
            self.not_before = now + pause.min(MAX_OUTAGE);
            self.outages = self.outages.saturating_add(1);
            self.on_result(target, false, now);
            return None;
        };
        self.outages = 0;
        let soon = self.seconds(now).saturating_add(SLICE_SECS);
        let near = neighbourhood(place, shared_bits);
        let slice = self.slice_mut(place);
        if slice.find(place, target).is_err() {
            // Withdrawn while its servers were looked for. Its neighbours wait for their own turn: the group would bear its
            // name, by which it may come back.
            slice.refresh();
            self.under_way.remove(&target);
            self.withdrawn.remove(&target);
            return None;
        }
        let mut group = Vec::new();
        for entry in &mut slice.entries {
            let is_target = entry.id == target;
            let joins = !entry.busy && entry.due <= soon && near.contains(&entry.place);
            if is_target || (joins && group.len() + 1 < MAX_GROUP) {
                entry.busy = true;
                group.push(entry.id);
            }
        }
        slice.refresh();
        let size = u32::try_from(group.len()).unwrap_or(u32::MAX);
        self.not_before = self.not_before.max(now) + PACE.saturating_mul(size);
        self.under_way.insert(target, group.clone());
        Some(Group(group))
    }

    /// The announcement of the group of an id ended.
    pub(crate) fn on_result(&mut self, target: ContentId, stored: bool, now: Instant) {
        let seconds = self.seconds(now);
        let group = self.under_way.remove(&target).unwrap_or_default();
        let outdated = self.outdated.remove(&target);
        let mut touched = BTreeSet::new();
        for id in group {
            self.withdrawn.remove(&id);
            let place = place(id);
            let due = self.next_pass(place, seconds.saturating_add(TOO_SOON));
            let slice = self.slice_mut(place);
            let Ok(at) = slice.find(place, id) else {
                continue;
            };
            let Some(entry) = slice.entries.get_mut(at) else {
                continue;
            };
            entry.busy = false;
            if stored && outdated {
                // It keeps its place among those that wait.
                (entry.failures, entry.due) = (0, entry.due.min(seconds));
            } else if stored {
                (entry.done, entry.failures, entry.due) = (seconds, 0, due);
                slice.unsaved = true;
            } else {
                entry.failures = entry.failures.saturating_add(1);
                let doublings = u32::from(entry.failures).saturating_sub(1).min(16);
                let pause = RETRY.saturating_mul(1 << doublings).min(TOO_SOON);
                entry.due = seconds.saturating_add(pause);
            }
            touched.insert(slice_of(place));
        }
        for slice in touched {
            if let Some(slice) = self.slices.get_mut(slice) {
                slice.refresh();
            }
        }
    }

    /// How an id stands; `None` if it is not announced at all.
    pub(crate) fn state(&self, id: ContentId, now: Instant) -> Option<Announced> {
        let place = place(id);
        let slice = self.slices.get(slice_of(place))?;
        let entry = slice.entries.get(slice.find(place, id).ok()?)?;
        let age = self.seconds(now).saturating_sub(entry.done);
        Some(match (entry.failures, entry.done) {
            (1.., _) => Announced::Failed,
            (0, 1..) if age < VALID => Announced::Done(Duration::from_secs(age.into())),
            _ => Announced::Due,
        })
    }

    /// All ids, counted.
    pub(crate) fn counts(&self, now: Instant) -> Counts {
        let seconds = self.seconds(now);
        let mut counts = Counts::default();
        let mut oldest = seconds;
        for entry in self.slices.iter().flat_map(|slice| &slice.entries) {
            let held = entry.done > 0 && seconds.saturating_sub(entry.done) < VALID;
            counts.announced += u64::from(held && entry.failures == 0);
            counts.failed += u64::from(entry.failures > 0);
            counts.due += u64::from(entry.failures == 0 && entry.due <= seconds);
            if entry.failures == 0 {
                oldest = oldest.min(entry.due);
            }
        }
        counts.lag = Duration::from_secs(seconds.saturating_sub(oldest).into());
        counts
    }

    /// What has changed, to be saved, if it is time for that; all of it if the node is about to stop, or has moved.
    pub(crate) fn unsaved(&mut self, now: Instant, at_once: bool) -> Vec<SavedSlice> {
        if !at_once && now.saturating_duration_since(self.saved_at) < SAVE_EVERY {
            return Vec::new();
        }
        self.saved_at = now;
        let moved = self.moved;
        let mut changed = Vec::new();
        for (number, slice) in (0..=u8::MAX).zip(&mut self.slices) {
            if std::mem::take(&mut slice.unsaved) {
                let done = slice.entries.iter().filter(|entry| entry.done > moved);
                changed.push((number, done.map(|entry| (entry.id, entry.done)).collect()));
            }
        }
        changed
    }

    /// When the hand passes a place for the first time at or after a moment.
    fn next_pass(&self, place: u32, after: u32) -> u32 {
        let ahead = u64::from(place.wrapping_add(self.phase));
        let offset = (ahead * u64::from(INTERVAL_SECS)) >> 32;
        let offset = u32::try_from(offset).unwrap_or(0);
        let wait = (offset + INTERVAL_SECS - after % INTERVAL_SECS) % INTERVAL_SECS;
        after.saturating_add(wait)
    }

    fn seconds(&self, now: Instant) -> u32 {
        let run = now.saturating_duration_since(self.began).as_secs();
        let run = u32::try_from(run).unwrap_or(u32::MAX);
        self.began_wall.saturating_add(run)
    }

    /// The slices are made once, one for each first byte.
    #[allow(clippy::indexing_slicing)]
    fn slice_mut(&mut self, place: u32) -> &mut Slice {
        &mut self.slices[slice_of(place)]
    }
}

fn unix_seconds(wall: SystemTime) -> u32 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
#[path = "announce_tests.rs"]
mod announce_tests;
