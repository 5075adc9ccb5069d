//! Servers of the DHT that were away and are back: if they were started anew, they have lost what they kept for us. Among many
//! servers that is made up for by the others; where there are so few that each keeps everything, it is sent again. Pure.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::content::NodeId;

/// With so many servers each keeps everything: a record is on this many.
const FEW: usize = 20;
/// Several come back together.
const SETTLE: Duration = Duration::from_secs(2);
/// Who comes and goes all the time has us send everything at most this often.
const PAUSE: Duration = Duration::from_secs(15 * 60);
/// Servers that are remembered: more than there are where it matters.
const MAX_SERVERS: usize = 4 * FEW;

/// The servers that were met in this run.
#[derive(Debug)]
pub(super) struct Returning {
    there: BTreeSet<NodeId>,
    away: BTreeSet<NodeId>,
    due: Option<Instant>,
    not_before: Instant,
}

impl Returning {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            there: BTreeSet::new(),
            away: BTreeSet::new(),
            due: None,
            not_before: now,
        }
    }

    /// A server is connected, one of this many that are known.
    pub(super) fn on_server(&mut self, peer: NodeId, known: usize, now: Instant) {
        if self.away.remove(&peer) && known <= FEW {
            self.due = Some((now + SETTLE).max(self.not_before));
        }
        if self.there.len() < MAX_SERVERS {
            self.there.insert(peer);
        }
    }

    /// A peer is connected no longer.
    pub(super) fn on_gone(&mut self, peer: NodeId) {
        if self.there.remove(&peer) && self.away.len() < MAX_SERVERS {
            self.away.insert(peer);
        }
    }

    /// When [`Self::take`] may say yes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time to send everything again.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = None;
            self.not_before = now + PAUSE;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_counts_where_there_are_few_and_not_too_often() {
        let start = Instant::now();
        let mut returning = Returning::new(start);
        let key = crate::net::NodeKey::from_secret([1; 32]).unwrap();
        let server = key.node_id().unwrap();
        returning.on_server(server, 1, start);
        assert_eq!(returning.next_deadline(), None, "it was not away");
        returning.on_gone(server);
        returning.on_server(server, FEW + 1, start);
        assert_eq!(returning.next_deadline(), None, "there are others");
        returning.on_gone(server);
        returning.on_server(server, FEW, start);
        assert!(!returning.take(start));
        assert!(returning.take(start + SETTLE));
        assert!(!returning.take(start + SETTLE));
        // Again, soon after: that has to wait, but is not forgotten.
        returning.on_gone(server);
        returning.on_server(server, 1, start + SETTLE);
        assert_eq!(returning.next_deadline(), Some(start + SETTLE + PAUSE));
        assert!(returning.take(start + SETTLE + PAUSE));
    }
}
