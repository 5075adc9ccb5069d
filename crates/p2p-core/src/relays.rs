//! Which relays a node keeps a place at, so that peers can meet it though nobody can reach it. Pure.
//!
//! States of a relay: known (it offers to relay and is connected), asked, held (its place is ours), resting (it refused, or
//! the place was lost). A node that is reachable needs none; one that is not keeps [`WANTED`], so that one may go away.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::content::NodeId;

/// Places kept: one, and one for when it is gone.
const WANTED: usize = 2;
/// Relays remembered; there are more in the world than anybody needs.
const MAX_RELAYS: usize = 32;
/// After a start so long is waited for a better way: a router that opens a port, a peer that confirms an address.
const GRACE: Duration = Duration::from_secs(3);
/// A relay that refused is asked again after this.
const REST: Duration = Duration::from_secs(60);
/// One that says nothing is taken to refuse.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Known,
    Asked { since: Instant },
    Held,
    Resting { until: Instant },
}

impl State {
    /// Its place is ours, or asked for.
    fn is_place(self) -> bool {
        matches!(self, Self::Held | Self::Asked { .. })
    }
}

/// The relays that a node knows.
#[derive(Debug)]
pub(crate) struct Relays {
    relays: BTreeMap<NodeId, State>,
    begin_at: Instant,
    reachable: bool,
    enabled: bool,
}

impl Relays {
    pub(crate) fn new(enabled: bool, now: Instant) -> Self {
        Self {
            relays: BTreeMap::new(),
            begin_at: now + GRACE,
            reachable: false,
            enabled,
        }
    }

    /// A connected peer offers to relay. True if that is news, and of use.
    pub(crate) fn on_offered(&mut self, relay: NodeId) -> bool {
        let is_new = !self.relays.contains_key(&relay) && self.relays.len() < MAX_RELAYS;
        if is_new {
            self.relays.insert(relay, State::Known);
        }
        is_new && self.enabled && !self.reachable
    }

    /// A peer is no longer connected.
    pub(crate) fn on_gone(&mut self, relay: NodeId) {
        self.relays.remove(&relay);
    }

    /// Others can reach this node without a relay, or no longer.
    pub(crate) fn set_reachable(&mut self, reachable: bool) {
        self.reachable = reachable;
    }

    /// A relay has a place for us.
    pub(crate) fn on_accepted(&mut self, relay: NodeId) {
        if let Some(state) = self.relays.get_mut(&relay) {
            *state = State::Held;
        }
    }

    /// A relay refused, or its place is lost.
    pub(crate) fn on_ended(&mut self, relay: NodeId, now: Instant) {
        if let Some(state) = self.relays.get_mut(&relay) {
            *state = State::Resting { until: now + REST };
        }
    }

    /// The next relay to ask for a place.
    pub(crate) fn next(&mut self, now: Instant) -> Option<NodeId> {
        if !self.enabled || self.reachable || now < self.begin_at {
            return None;
        }
        for state in self.relays.values_mut() {
            match *state {
                State::Asked { since } if now >= since + PATIENCE => {
                    *state = State::Resting { until: now + REST };
                }
                State::Resting { until } if now >= until => *state = State::Known,
                _ => {}
            }
        }
        if self.places() >= WANTED {
            return None;
        }
        let (relay, state) = self
            .relays
            .iter_mut()
            .find(|(_, state)| **state == State::Known)?;
        *state = State::Asked { since: now };
        Some(*relay)
    }

    /// A place that is not needed any more.
    pub(crate) fn next_to_leave(&mut self) -> Option<NodeId> {
        if !self.reachable {
            return None;
        }
        let mut relays = self.relays.iter_mut();
        let (relay, state) = relays.find(|(_, state)| state.is_place())?;
        *state = State::Known;
        Some(*relay)
    }

    /// Whether a place at this relay is ours, or asked for: the connection to it has to stay.
    pub(crate) fn is_place(&self, relay: NodeId) -> bool {
        self.relays
            .get(&relay)
            .is_some_and(|state| state.is_place())
    }

    fn places(&self) -> usize {
        let states = self.relays.values();
        states.filter(|state| state.is_place()).count()
    }

    /// When [`Self::next`] may have something, if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if !self.enabled || self.reachable || self.relays.is_empty() {
            return None;
        }
        let due = self.relays.values().filter_map(|state| match state {
            State::Known | State::Held => None,
            State::Asked { since } => Some(*since + PATIENCE),
            State::Resting { until } => Some(*until),
        });
        // While enough are asked, none that is known is: the moment to begin may be long past.
        let waits = self.relays.values().any(|state| *state == State::Known);
        let begin = (waits && self.places() < WANTED).then_some(self.begin_at);
        let held = self.relays.values().filter(|s| **s == State::Held).count();
        due.chain(begin).filter(|_| held < WANTED).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(n: u8) -> NodeId {
        let key = crate::net::NodeKey::from_secret([n; 32]).unwrap();
        key.node_id().unwrap()
    }

    fn with_relays(count: u8) -> (Relays, Instant) {
        let now = Instant::now();
        let mut relays = Relays::new(true, now);
        for n in 0..count {
            relays.on_offered(relay(n));
        }
        (relays, now + GRACE)
    }

    #[test]
    fn two_places_are_kept_and_one_that_is_lost_is_replaced() {
        let (mut relays, now) = with_relays(4);
        assert_eq!(relays.next(now - Duration::from_millis(1)), None);
        assert_eq!(relays.next_deadline(), Some(now));
        let (first, second) = (relays.next(now).unwrap(), relays.next(now).unwrap());
        assert_ne!(first, second);
        assert_eq!(relays.next(now), None);
        relays.on_accepted(first);
        relays.on_ended(second, now);
        let third = relays.next(now).unwrap();
        relays.on_accepted(third);
        assert!(third != second && third != first);
        assert_eq!((relays.next(now), relays.next_deadline()), (None, None));
        relays.on_gone(first);
        let fourth = relays.next(now).unwrap();
        assert!(![first, second, third].contains(&fourth));
        // It says nothing: the one that refused has its turn again.
        let later = now + REST + PATIENCE;
        assert_eq!(relays.next(later), Some(second));
    }

    /// The driver sleeps until the deadline: one that is past has it turn for nothing, until a relay answers.
    #[test]
    fn while_enough_are_asked_it_is_waited_for_them() {
        let (mut relays, now) = with_relays(4);
        let first = relays.next(now).unwrap();
        let second = relays.next(now).unwrap();
        assert_eq!(relays.next(now), None);
        assert_eq!(relays.next_deadline(), Some(now + PATIENCE));
        relays.on_accepted(first);
        assert_eq!(relays.next_deadline(), Some(now + PATIENCE));
        relays.on_ended(second, now);
        assert_eq!(relays.next_deadline(), Some(now));
    }

    #[test]
    fn the_places_are_those_held_and_asked_for() {
        let (mut relays, now) = with_relays(3);
        let first = relays.next(now).unwrap();
        let second = relays.next(now).unwrap();
        relays.on_accepted(first);
        assert!(relays.is_place(first) && relays.is_place(second));
        assert_eq!((0..3).filter(|n| relays.is_place(relay(*n))).count(), 2);
        relays.on_ended(second, now);
        assert!(!relays.is_place(second));
    }

    #[test]
    fn a_node_that_can_be_reached_or_may_not_uses_none() {
        let (mut relays, now) = with_relays(3);
        let first = relays.next(now).unwrap();
        relays.on_accepted(first);
        let second = relays.next(now).unwrap();
        relays.set_reachable(true);
        assert_eq!((relays.next(now), relays.next_deadline()), (None, None));
        let mut left = [relays.next_to_leave(), relays.next_to_leave()];
        left.sort();
        let mut both = [Some(first), Some(second)];
        both.sort();
        assert_eq!((left, relays.next_to_leave()), (both, None));
        relays.set_reachable(false);
        assert!(relays.next(now).is_some());
        let mut off = Relays::new(false, now);
        off.on_offered(relay(1));
        assert_eq!((off.next(now + REST), off.next_deadline()), (None, None));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut relays, now) = with_relays(255);
        assert_eq!(relays.relays.len(), MAX_RELAYS);
        while let Some(relay) = relays.next(now) {
            relays.on_ended(relay, now);
        }
        assert_eq!(relays.next_deadline(), Some(now + REST));
    }
}
