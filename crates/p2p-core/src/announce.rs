//! Which ids to announce in the DHT, and when: at once when shared, then spread evenly over the interval. Pure.
//!
//! Invariant: an id is in exactly one of the due times, or in flight; at most [`IN_FLIGHT`] are in flight.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::content::ContentId;

/// Announcements under way at once; each is a walk of a few round trips to twenty servers.
const IN_FLIGHT: usize = 8;

/// An announcement that failed is tried again after this, doubled at each failure up to the interval.
const RETRY: Duration = Duration::from_secs(15);

/// Announced records are renewed after this; servers keep them for 48 h.
pub(crate) const INTERVAL: Duration = Duration::from_secs(22 * 3600);

/// How an id stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Announced {
    /// The DHT's servers hold the record since this moment.
    Done(Instant),
    /// Its turn has not come, or it is under way.
    Due,
    /// The last try found no server; it is repeated.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct State {
    due: Instant,
    done: Option<Instant>,
    failures: u32,
}

/// The schedule of all ids of a node.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    ids: BTreeMap<ContentId, State>,
    due: BTreeSet<(Instant, ContentId)>,
    in_flight: BTreeSet<ContentId>,
}

impl Announcer {
    /// From now on this id is announced; at once if it is new.
    pub(crate) fn add(&mut self, id: ContentId, now: Instant) {
        if self.ids.contains_key(&id) {
            return;
        }
        let state = State {
            due: now,
            done: None,
            failures: 0,
        };
        self.ids.insert(id, state);
        self.due.insert((now, id));
    }

    /// This id is no longer announced.
    pub(crate) fn remove(&mut self, id: ContentId) {
        if let Some(state) = self.ids.remove(&id) {
            self.due.remove(&(state.due, id));
            self.in_flight.remove(&id);
        }
    }

    /// The DHT has become reachable: what failed is tried again now.
    pub(crate) fn on_online(&mut self, now: Instant) {
        let failed: Vec<ContentId> = self
            .ids
            .iter()
            .filter(|(id, state)| state.failures > 0 && !self.in_flight.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for id in failed {
            self.reschedule(id, now);
        }
    }

    /// The next id to announce. Its end is told to [`Self::on_result`].
    pub(crate) fn next(&mut self, now: Instant) -> Option<ContentId> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        let (due, id) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.remove(&(due, id));
        self.in_flight.insert(id);
        Some(id)
    }

    /// When [`Self::next`] will have something, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        self.due.first().map(|(due, _)| *due)
    }

    /// An announcement ended.
    pub(crate) fn on_result(&mut self, id: ContentId, stored: bool, now: Instant) {
        if !self.in_flight.remove(&id) {
            return;
        }
        let Some(state) = self.ids.get_mut(&id) else {
            return;
        };
        let pause = if stored {
            state.done = Some(now);
            state.failures = 0;
            spread(id)
        } else {
            state.failures = state.failures.saturating_add(1);
            let doublings = state.failures.saturating_sub(1).min(12);
            RETRY.saturating_mul(1 << doublings).min(INTERVAL)
        };
        self.reschedule(id, now + pause);
    }

    fn reschedule(&mut self, id: ContentId, due: Instant) {
        if let Some(state) = self.ids.get_mut(&id) {
            self.due.remove(&(state.due, id));
            state.due = due;
            self.due.insert((due, id));
        }
    }

    /// How an id stands; `None` if it is not announced at all.
    pub(crate) fn state(&self, id: ContentId) -> Option<Announced> {
        let state = self.ids.get(&id)?;
        Some(match (state.failures, state.done) {
            (1.., _) => Announced::Failed,
            (0, Some(at)) => Announced::Done(at),
            (0, None) => Announced::Due,
        })
    }

    /// Ids announced, due and failed.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        self.ids
            .keys()
            .fold((0, 0, 0), |(done, due, failed), id| match self.state(*id) {
                Some(Announced::Done(_)) => (done + 1, due, failed),
                Some(Announced::Failed) => (done, due, failed + 1),
                _ => (done, due + 1, failed),
            })
    }
}

/// The pause until an id is renewed: its own share of the last tenth of the interval, so that ids shared together do not
/// come due together.
fn spread(id: ContentId) -> Duration {
    let [first, second, ..] = id.as_bytes();
    let share = u32::from(u16::from_be_bytes([*first, *second]));
    let tenth = INTERVAL / 10;
    INTERVAL - tenth + tenth.saturating_mul(share) / 65_536
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> ContentId {
        ContentId::of(&n.to_le_bytes())
    }

    #[test]
    fn shared_is_announced_at_once_and_renewed_before_it_expires() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        announcer.add(id(1), start);
        assert_eq!(announcer.next(start), Some(id(1)));
        assert_eq!(announcer.next(start), None, "in flight once only");
        announcer.on_result(id(1), true, start);
        assert_eq!(announcer.state(id(1)), Some(Announced::Done(start)));
        assert_eq!(announcer.next(start + INTERVAL * 8 / 10), None);
        assert_eq!(announcer.next(start + INTERVAL), Some(id(1)));
    }

    #[test]
    fn a_thousand_shared_together_do_not_come_due_together() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        for n in 0..1000 {
            announcer.add(id(n), start);
        }
        for _ in 0..1000 {
            let next = announcer.next(start).unwrap();
            announcer.on_result(next, true, start);
        }
        assert_eq!(announcer.counts(), (1000, 0, 0));
        let minute = Duration::from_secs(60);
        let mut most = 0;
        let mut now = start;
        while now < start + INTERVAL {
            now += minute;
            let mut in_this_minute = 0;
            while let Some(next) = announcer.next(now) {
                announcer.on_result(next, true, now);
                in_this_minute += 1;
            }
            most = most.max(in_this_minute);
        }
        assert!(
            (8..40).contains(&most),
            "{most} in the busiest minute of 132"
        );
    }

    #[test]
    fn failures_back_off_and_are_retried_once_online() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        announcer.add(id(1), start);
        assert!(announcer.next(start).is_some());
        announcer.on_result(id(1), false, start);
        assert_eq!(announcer.counts(), (0, 0, 1));
        assert_eq!(announcer.next(start), None);
        announcer.on_online(start);
        assert_eq!(announcer.next(start), Some(id(1)));
        announcer.on_result(id(1), false, start);
        assert_eq!(announcer.next_deadline(), Some(start + RETRY * 2));
    }

    #[test]
    fn the_withdrawn_is_never_announced_again() {
        let start = Instant::now();
        let mut announcer = Announcer::default();
        announcer.add(id(1), start);
        announcer.add(id(2), start);
        let first = announcer.next(start).unwrap();
        announcer.remove(id(1));
        announcer.remove(id(2));
        announcer.on_result(first, true, start);
        assert_eq!(announcer.next(start + INTERVAL * 2), None);
        assert_eq!(announcer.counts(), (0, 0, 0));
    }
}
