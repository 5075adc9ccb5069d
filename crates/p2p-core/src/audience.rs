//! Who may have what is shared. Pure.
//!
//! A share that is not for everyone restricts what lies below its path, from before it is hashed until it is shared no
//! longer. Content is judged by where it lies; the listing of a folder and what the store keeps a copy of lie in no
//! share, and are restricted by their ids.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use bincode::{Decode, Encode};

use crate::content::{ContentId, NodeId};

/// Most peers that a share may be for.
pub(crate) const MAX_PEERS: usize = 1000;

/// Whom a share is for. To all others the node answers as if it had never heard of it, and a share that is not for
/// everyone is not announced in the DHT: those it is for are connected, or have a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Encode, Decode)]
#[non_exhaustive]
pub enum Audience {
    /// Everyone.
    #[default]
    Everyone,
    /// Peers that are connected from loopback or a private network, and not through a relay.
    Lan,
    /// These peers, at most a thousand, wherever they are.
    Peers(BTreeSet<NodeId>),
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) peer: NodeId,
    /// Connected from loopback or a private network.
    pub(crate) near: bool,
}

impl Audience {
    /// Whether this peer is one of them.
    pub(crate) fn includes(&self, asker: &Asker) -> bool {
        match self {
            Self::Everyone => true,
            Self::Lan => asker.near,
            Self::Peers(peers) => peers.contains(&asker.peer),
        }
    }
}

/// Shares that are not for everyone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restrictions {
    /// By the paths of the shares.
    paths: BTreeMap<PathBuf, Audience>,
    /// The same, of what is being hashed: what is shared there no longer is still being added to until that ends.
    held: BTreeMap<u64, (PathBuf, Audience)>,
    holds: u64,
    /// Contents that lie in no share, each with the paths of the shares it belongs to.
    ids: HashMap<ContentId, BTreeSet<PathBuf>>,
}

impl Restrictions {
    /// Whether everything is for everyone.
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.held.is_empty()
    }

    /// What lies at or below this path is for these from now on.
    pub(crate) fn set(&mut self, path: &Path, audience: Audience) {
        if audience == Audience::Everyone {
            self.paths.remove(path);
            self.drop_ids(path);
        } else {
            self.paths.insert(path.to_path_buf(), audience);
        }
    }

    /// What lies at or below this path is for these, too, until it is released.
    pub(crate) fn hold(&mut self, path: &Path, audience: Audience) -> u64 {
        self.holds = self.holds.wrapping_add(1);
        self.held.insert(self.holds, (path.to_path_buf(), audience));
        self.holds
    }

    /// Ends a hold.
    pub(crate) fn release(&mut self, hold: u64) {
        if let Some((path, _)) = self.held.remove(&hold) {
            self.drop_ids(&path);
        }
    }

    /// Forgets which contents belong to the share at a path, unless it is restricted still.
    fn drop_ids(&mut self, path: &Path) {
        if self.of_share(path).next().is_some() {
            return;
        }
        self.ids.retain(|_, shares| {
            shares.remove(path);
            !shares.is_empty()
        });
    }

    /// This content is for those whom the share at `path` is for.
    pub(crate) fn add(&mut self, id: ContentId, path: &Path) {
        if self.of_share(path).next().is_some() {
            self.ids.entry(id).or_default().insert(path.to_path_buf());
        }
    }

    /// This content does not belong to the share at `path` any more.
    pub(crate) fn remove(&mut self, id: ContentId, path: &Path) {
        if let Some(shares) = self.ids.get_mut(&id) {
            shares.remove(path);
            if shares.is_empty() {
                self.ids.remove(&id);
            }
        }
    }

    /// Whom a content is for by its id alone: by all of these.
    pub(crate) fn of_id(&self, id: ContentId) -> impl Iterator<Item = &Audience> {
        let shares = self.ids.get(&id).into_iter().flatten();
        shares.flat_map(|path| self.of_share(path))
    }

    /// Whom what lies at this path is for: by all of these, of shares within each other.
    pub(crate) fn at(&self, path: &Path) -> impl Iterator<Item = &Audience> {
        path.ancestors().flat_map(|above| self.of_share(above))
    }

    fn of_share(&self, path: &Path) -> impl Iterator<Item = &Audience> {
        let held = self.held.values().filter(move |(held, _)| held == path);
        let held = held.map(|(_, audience)| audience);
        self.paths.get(path).into_iter().chain(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        let secret = [n; 32];
        crate::net::NodeKey::from_secret(secret)
            .and_then(|key| key.node_id())
            .unwrap()
    }

    fn asker(n: u8, near: bool) -> Asker {
        let peer = peer(n);
        Asker { peer, near }
    }

    #[test]
    fn what_lies_in_a_restricted_share_is_for_its_audience_only() {
        let mut restrictions = Restrictions::default();
        assert!(restrictions.at(Path::new("/a/b")).next().is_none());
        restrictions.set(Path::new("/a"), Audience::Lan);
        restrictions.set(Path::new("/a/b"), Audience::Peers([peer(1)].into()));
        let is_open = |path: &str| restrictions.at(Path::new(path)).next().is_none();
        let allow = |path: &str, asker: Asker| {
            let mut audiences = restrictions.at(Path::new(path));
            audiences.all(|audience| audience.includes(&asker))
        };
        for path in ["/a", "/a/x", "/a/c/d"] {
            assert!(
                allow(path, asker(2, true)) && !allow(path, asker(1, false)),
                "{path}"
            );
            assert!(!is_open(path));
        }
        // A share within another narrows it.
        assert!(allow("/a/b/x", asker(1, true)));
        assert!(!allow("/a/b/x", asker(1, false)) && !allow("/a/b/x", asker(2, true)));
        for path in ["/", "/b", "/ab", "/b/a/x"] {
            assert!(allow(path, asker(3, false)) && is_open(path));
        }
        restrictions.set(Path::new("/a"), Audience::Everyone);
        restrictions.set(Path::new("/a/b"), Audience::Everyone);
        assert!(restrictions.is_empty());
    }

    #[test]
    fn ids_follow_their_shares() {
        let (id, path) = (ContentId::of(b"listing"), Path::new("/a"));
        let mut restrictions = Restrictions::default();
        let of_id = |restrictions: &Restrictions| -> Vec<Audience> {
            restrictions.of_id(id).cloned().collect()
        };
        restrictions.add(id, path);
        assert_eq!(of_id(&restrictions), [], "the share is for everyone");
        restrictions.set(path, Audience::Lan);
        restrictions.add(id, path);
        assert_eq!(of_id(&restrictions), [Audience::Lan]);
        let nobody = Audience::Peers(BTreeSet::new());
        assert!(!nobody.includes(&asker(1, true)));
        // Of two shares both count, and the one that is left.
        let other = Path::new("/b");
        restrictions.set(other, nobody.clone());
        restrictions.add(id, other);
        assert_eq!(of_id(&restrictions), [Audience::Lan, nobody.clone()]);
        restrictions.remove(id, other);
        assert_eq!(of_id(&restrictions), [Audience::Lan]);
        restrictions.set(path, nobody.clone());
        assert_eq!(of_id(&restrictions), [nobody]);
        restrictions.set(path, Audience::Everyone);
        assert_eq!(of_id(&restrictions), []);
        restrictions.set(path, Audience::Lan);
        assert_eq!(of_id(&restrictions), [], "nor later by mistake");
    }

    #[test]
    fn what_is_held_is_restricted_until_it_is_released() {
        let (id, path) = (ContentId::of(b"listing"), Path::new("/a"));
        let mut restrictions = Restrictions::default();
        let count = |restrictions: &Restrictions| {
            let below = restrictions.at(Path::new("/a/b"));
            (below.count(), restrictions.of_id(id).count())
        };
        restrictions.set(path, Audience::Lan);
        let first = restrictions.hold(path, Audience::Lan);
        let second = restrictions.hold(path, Audience::Lan);
        restrictions.set(path, Audience::Everyone);
        restrictions.add(id, path);
        assert_eq!(count(&restrictions), (2, 2));
        restrictions.release(first);
        assert_eq!(count(&restrictions), (1, 1));
        assert!(!restrictions.is_empty());
        restrictions.release(second);
        restrictions.release(second);
        assert_eq!(count(&restrictions), (0, 0));
        assert!(restrictions.is_empty());
    }
}
