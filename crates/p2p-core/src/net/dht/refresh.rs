//! Which parts of the key space a node walks to, to know some servers in each (Kademlia, section 2.3).
//!
//! kad walks to itself when it knows few servers, and now and then: that finds its neighbours, and has them find it. Then it
//! would walk into every part that is farther away than its nearest neighbour, each time as thoroughly: in a network of a
//! thousand some ten walks of sixty requests, most with a dial. Here only parts are walked to whose servers
//! the first walk cannot have met all, and a few of each suffice.

use std::{num::NonZeroUsize, ops::RangeInclusive};

/// Servers that a walk into a part wants to hear on each of its paths.
pub(super) const PER_PART: NonZeroUsize = NonZeroUsize::new(5).unwrap();

/// Those nearest to a node all know each other after its walk to itself: kad's replication.
const NEIGHBOURS: usize = 20;

/// The farthest part: half of the key space.
const FARTHEST: u32 = 255;

/// The parts to walk to, each named by the highest bit of the distance to it. To be given how many servers are known in
/// each, the nearest first.
pub(super) fn parts(known: impl IntoIterator<Item = (u32, usize)>) -> RangeInclusive<u32> {
    let mut sum = 0;
    let reached = known.into_iter().find(|(_, servers)| {
        sum += servers;
        sum >= NEIGHBOURS
    });
    // If there are fewer, these are all.
    let nearest = reached.map_or(FARTHEST + 1, |(bit, _)| bit + 1);
    nearest..=FARTHEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nearer_than_the_twentieth_neighbour_is_known() {
        let known = [(246, 1), (248, 3), (249, 9), (250, 7), (251, 20), (255, 4)];
        assert_eq!(parts(known), 251..=255);
    }

    #[test]
    fn who_knows_fewer_knows_all() {
        assert!(parts([]).is_empty());
        assert!(parts([(254, 9), (255, 10)]).is_empty());
        assert!(parts([(254, 9), (255, 11)]).is_empty());
        assert_eq!(parts([(0, 20)]).count(), 255);
    }
}
