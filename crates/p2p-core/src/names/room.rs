//! Whom to ask of those that the DHT names under the words of a search. Anybody may announce anything there, and a server may
//! answer with whomever it likes; so there is room for a few, and no answer fills it.

use std::collections::BTreeSet;

use crate::content::NodeId;

/// Peers that the DHT names and that are asked, for all words of a search together: each may cost a dial.
const MAX_NAMED: usize = 32;
/// Of these, those who are named under each word but the first, which tells most.
const NAMED_BY_MORE: usize = 8;

/// Room for the peers named under one word.
#[derive(Debug)]
pub(crate) struct Room {
    size: usize,
    seen: BTreeSet<NodeId>,
}

impl Room {
    /// Of each word of a search with so many.
    pub(crate) fn of_words(words: usize) -> impl Iterator<Item = Self> {
        let others = words.saturating_sub(1).saturating_mul(NAMED_BY_MORE);
        let first = MAX_NAMED.saturating_sub(others).max(NAMED_BY_MORE);
        let sizes = std::iter::once(first).chain(std::iter::repeat(NAMED_BY_MORE));
        sizes.take(words).map(|size| Self {
            size,
            seen: BTreeSet::new(),
        })
    }

    /// Of those that one server names, whom to ask: as many as there is room for, but half of it at most, since another
    /// server may be honest where this one is not.
    pub(crate) fn choose(&mut self, named: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
        let left = self.size.saturating_sub(self.seen.len());
        let most = left.min(self.size.div_ceil(2));
        let mut chosen = Vec::new();
        for peer in named {
            if chosen.len() < most && self.seen.insert(peer) {
                chosen.push(peer);
            }
        }
        chosen
    }

    /// Nobody knows yet where this peer is: it takes no room until it is named again, maybe with an address.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.seen.remove(&peer);
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
    fn a_server_that_names_thousands_leaves_room_for_another() {
        for (words, sizes) in [
            (0, vec![]),
            (1, vec![32]),
            (2, vec![24, 8]),
            (3, vec![16, 8, 8]),
        ] {
            let rooms: Vec<Room> = Room::of_words(words).collect();
            assert_eq!(
                rooms.iter().map(|room| room.size).collect::<Vec<_>>(),
                sizes
            );
        }
        let mut room = Room::of_words(1).next().unwrap();
        assert_eq!(room.choose((0..5000).map(peer)).len(), 16);
        // It is named no second time, and the honest one is.
        assert_eq!(room.choose([peer(0), peer(6000)]), [peer(6000)]);
        assert_eq!(room.choose((7000..9000).map(peer)).len(), 15);
        assert_eq!(room.choose([peer(9000)]), []);
        room.forget(peer(0));
        assert_eq!(room.choose([peer(1), peer(0)]), [peer(0)]);
    }
}
