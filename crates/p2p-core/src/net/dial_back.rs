//! Dialling back: a peer asks whether it can be reached at an address, and is dialled there (autonat v2). The library does
//! as it is told; this bounds what a stranger can have a node dial.
//!
//! Source: <https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md>.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use libp2p::{PeerId, autonat::v2::server};

use super::judged::Judged;

/// Within this time a peer is dialled back [`PER_PEER`] times, and all together [`IN_ALL`] times.
const PERIOD: Duration = Duration::from_secs(60);
const PER_PEER: usize = 4;
const IN_ALL: usize = 30;

/// The server of autonat, which dials public addresses only, and not often.
pub(super) fn dial_backs() -> Judged<server::Behaviour> {
    let mut lately = Lately::default();
    Judged::new(server::Behaviour::default(), move |peer, event| {
        let is_command = event.as_ref().right().is_some_and(|asked| asked.is_left());
        // The library then answers that it could not look. A dial that is refused would be told as one that failed, and the
        // peer would believe that it cannot be reached.
        !is_command || lately.allows(peer, Instant::now())
    })
}

/// Who was dialled back within the last [`PERIOD`].
#[derive(Debug, Default)]
struct Lately {
    dials: VecDeque<(Instant, PeerId)>,
    of_peer: HashMap<PeerId, usize>,
}

impl Lately {
    /// Whether this peer may be dialled back now; it counts as done.
    fn allows(&mut self, peer: PeerId, now: Instant) -> bool {
        while let Some((at, old)) = self.dials.front().copied() {
            if now.saturating_duration_since(at) < PERIOD {
                break;
            }
            self.dials.pop_front();
            if let Some(count) = self.of_peer.get_mut(&old) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.of_peer.remove(&old);
                }
            }
        }
        let count = self.of_peer.get(&peer).copied().unwrap_or(0);
        if self.dials.len() >= IN_ALL || count >= PER_PEER {
            return false;
        }
        self.dials.push_back((now, peer));
        self.of_peer.insert(peer, count.saturating_add(1));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_a_node_dial_often() {
        let (mut lately, now) = (Lately::default(), Instant::now());
        let peer = PeerId::random();
        let mut allowed = (0..10).filter(|_| lately.allows(peer, now)).count();
        assert_eq!(allowed, PER_PEER);
        // A stranger has as many names as it likes.
        allowed += (0..1000)
            .filter(|_| lately.allows(PeerId::random(), now))
            .count();
        assert_eq!(allowed, IN_ALL);
        assert!(!lately.allows(PeerId::random(), now + PERIOD / 2));
        assert!(lately.allows(peer, now + PERIOD));
        assert_eq!((lately.dials.len(), lately.of_peer.len()), (1, 1));
    }
}
