//! Peers that answered a search with lies. They are not asked for a while; who comes with another identity is a stranger
//! again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::content::NodeId;

/// How long a liar is not asked.
const TERM: Duration = Duration::from_secs(600);

/// Liars that are remembered: more identities than this, and the first are forgotten.
const MOST: usize = 256;

/// Who is not asked, and until when.
#[derive(Debug, Default)]
pub(crate) struct Blamed(BTreeMap<NodeId, Instant>);

impl Blamed {
    /// A peer lied.
    pub(crate) fn blame(&mut self, peer: NodeId, now: Instant) {
        self.0.retain(|_, until| *until > now);
        if self.0.len() >= MOST
            && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until)
        {
            let first = *first.0;
            self.0.remove(&first);
        }
        if let Some(until) = now.checked_add(TERM) {
            self.0.insert(peer, until);
        }
    }

    /// Whether a peer is not to be asked.
    pub(crate) fn has(&self, peer: NodeId, now: Instant) -> bool {
        self.0.get(&peer).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> NodeId {
        let mut bytes = [&[0, 36, 8, 1, 18, 32][..], &[9; 32]].concat();
        bytes[6..8].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn liars_are_remembered_for_a_while_and_in_bounds() {
        let began = Instant::now();
        let mut blamed = Blamed::default();
        blamed.blame(peer(0), began);
        assert!(blamed.has(peer(0), began + TERM - Duration::from_secs(1)));
        assert!(!blamed.has(peer(0), began + TERM));
        assert!(!blamed.has(peer(1), began));
        for number in 1..1000 {
            blamed.blame(peer(number), began + Duration::from_millis(number.into()));
            assert!(blamed.0.len() <= MOST);
        }
        let now = began + Duration::from_secs(1);
        assert!(!blamed.has(peer(0), now), "the first is forgotten");
        assert!(blamed.has(peer(999), now));
        blamed.blame(peer(1), now + TERM);
        assert_eq!(blamed.0.len(), 1, "terms that are over take no room");
    }
}
