//! Admission of requests for blocks: how many are served at once, and whose turn is next. Pure.
//!
//! A request is served at once while a slot is free, waits while its peer and the queue have room, and is refused with
//! `Busy` otherwise. Slots that free up go round the waiting peers, so that one peer with many requests delays another's
//! first by one request at most.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::Hash,
};

use crate::content::NodeId;

/// Requests of one peer that may wait: the scheduler keeps two in flight for each of a few fetches.
const WAITING_PER_PEER: usize = 8;
/// Requests that may wait in all.
const WAITING: usize = 256;

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// Serve it now; report its end with [`Admission::on_ended`].
    Serve,
    /// It waits; [`Admission::next`] gives it out when its turn comes.
    Wait,
    /// Refuse it with `Busy`.
    Busy,
}

/// Requests being served and waiting. `R` names a request.
#[derive(Debug)]
pub(crate) struct Admission<R> {
    slots: usize,
    serving: BTreeMap<R, NodeId>,
    waiting: BTreeMap<NodeId, VecDeque<R>>,
    waiting_len: usize,
    /// The peer served last; the next one after it in the order of ids has the turn.
    turn: Option<NodeId>,
}

impl<R: Copy + Ord + Hash> Admission<R> {
    /// With this many slots, at least one.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: slots.max(1),
            serving: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_len: 0,
            turn: None,
        }
    }

    /// A peer asks.
    pub(crate) fn on_request(&mut self, peer: NodeId, request: R) -> Admitted {
        if self.serving.len() < self.slots && self.waiting_len == 0 {
            self.serving.insert(request, peer);
            return Admitted::Serve;
        }
        let of_peer = self.waiting.get(&peer).map_or(0, VecDeque::len);
        if of_peer >= WAITING_PER_PEER || self.waiting_len >= WAITING {
            return Admitted::Busy;
        }
        self.waiting.entry(peer).or_default().push_back(request);
        self.waiting_len += 1;
        Admitted::Wait
    }

    /// A request was served, or its peer is gone.
    pub(crate) fn on_ended(&mut self, request: R) {
        if self.serving.remove(&request).is_some() {
            return;
        }
        for queue in self.waiting.values_mut() {
            let before = queue.len();
            queue.retain(|waiting| *waiting != request);
            self.waiting_len -= before - queue.len();
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
    }

    /// The request whose turn it is, if a slot is free.
    pub(crate) fn next(&mut self) -> Option<R> {
        if self.serving.len() >= self.slots {
            return None;
        }
        let after = self.turn.and_then(|last| {
            let beyond = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            self.waiting.range(beyond).next().map(|(peer, _)| *peer)
        });
        let peer = after.or_else(|| self.waiting.keys().next().copied())?;
        let queue = self.waiting.get_mut(&peer)?;
        let request = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&peer);
        }
        self.waiting_len -= 1;
        self.turn = Some(peer);
        self.serving.insert(request, peer);
        Some(request)
    }

    /// Requests being served.
    pub(crate) fn serving(&self) -> usize {
        self.serving.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend([n; 32]);
        NodeId::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn slots_and_queues_are_bounded() {
        let mut admission = Admission::new(2);
        let got: Vec<Admitted> = (0..20).map(|n| admission.on_request(node(1), n)).collect();
        assert_eq!(got.iter().filter(|a| **a == Admitted::Serve).count(), 2);
        assert_eq!(
            got.iter().filter(|a| **a == Admitted::Wait).count(),
            WAITING_PER_PEER
        );
        assert_eq!(admission.next(), None);
        for n in 0..100_u8 {
            for request in 0..8 {
                admission.on_request(node(n), 1000 + u32::from(n) * 100 + request);
            }
        }
        assert_eq!(admission.waiting_len, WAITING);
    }

    #[test]
    fn the_turn_goes_round_the_peers() {
        let mut admission = Admission::new(1);
        assert_eq!(admission.on_request(node(1), 10), Admitted::Serve);
        for request in 11..16 {
            admission.on_request(node(1), request);
        }
        admission.on_request(node(2), 20);
        admission.on_request(node(3), 30);
        let mut served = Vec::new();
        let mut last = 10;
        for _ in 0..4 {
            admission.on_ended(last);
            last = admission.next().unwrap();
            served.push(last);
        }
        assert_eq!(served, [11, 20, 30, 12]);
    }

    #[test]
    fn a_request_that_ends_while_waiting_is_forgotten() {
        let mut admission = Admission::new(1);
        admission.on_request(node(1), 1);
        admission.on_request(node(2), 2);
        admission.on_ended(2);
        admission.on_ended(1);
        assert_eq!(admission.next(), None);
        assert_eq!(admission.serving(), 0);
        assert_eq!(admission.on_request(node(2), 3), Admitted::Serve);
    }
}
