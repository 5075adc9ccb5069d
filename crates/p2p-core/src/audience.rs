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
    /// Contents that lie in no share, each with the path of the share it belongs to.
    ids: HashMap<ContentId, PathBuf>,
}

impl Restrictions {
    /// Whether everything is for everyone.
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// What lies at or below this path is for these from now on.
    pub(crate) fn set(&mut self, path: &Path, audience: Audience) {
        if audience == Audience::Everyone {
            self.paths.remove(path);
            self.ids.retain(|_, share| share != path);
        } else {
            self.paths.insert(path.to_path_buf(), audience);
        }
    }

    /// This content is for those whom the share at `path` is for.
    pub(crate) fn add(&mut self, id: ContentId, path: &Path) {
        if self.paths.contains_key(path) {
            self.ids.insert(id, path.to_path_buf());
        }
    }

    /// This content belongs to no share any more.
    pub(crate) fn remove(&mut self, id: ContentId) {
        self.ids.remove(&id);
    }

    /// Whom a content is for by its id alone.
    pub(crate) fn of_id(&self, id: ContentId) -> Option<&Audience> {
        self.ids.get(&id).and_then(|path| self.paths.get(path))
    }

    /// Whether a peer may have what lies at this path: of shares within each other, all must be for it.
    pub(crate) fn allow(&self, path: &Path, asker: &Asker) -> bool {
        self.above(path).all(|audience| audience.includes(asker))
    }

    /// Whether what lies at this path is for everyone.
    pub(crate) fn is_open(&self, path: &Path) -> bool {
        self.above(path).next().is_none()
    }

    fn above(&self, path: &Path) -> impl Iterator<Item = &Audience> {
        path.ancestors().filter_map(|above| self.paths.get(above))
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
        assert!(restrictions.allow(Path::new("/a/b"), &asker(1, false)));
        restrictions.set(Path::new("/a"), Audience::Lan);
        restrictions.set(Path::new("/a/b"), Audience::Peers([peer(1)].into()));
        let allow = |path: &str, asker: Asker| restrictions.allow(Path::new(path), &asker);
        for path in ["/a", "/a/x", "/a/c/d"] {
            assert!(
                allow(path, asker(2, true)) && !allow(path, asker(1, false)),
                "{path}"
            );
            assert!(!restrictions.is_open(Path::new(path)));
        }
        // A share within another narrows it.
        assert!(allow("/a/b/x", asker(1, true)));
        assert!(!allow("/a/b/x", asker(1, false)) && !allow("/a/b/x", asker(2, true)));
        for path in ["/", "/b", "/ab", "/b/a/x"] {
            assert!(allow(path, asker(3, false)) && restrictions.is_open(Path::new(path)));
        }
        restrictions.set(Path::new("/a"), Audience::Everyone);
        restrictions.set(Path::new("/a/b"), Audience::Everyone);
        assert!(restrictions.is_empty());
    }

    #[test]
    fn ids_follow_their_share() {
        let (id, path) = (ContentId::of(b"listing"), Path::new("/a"));
        let mut restrictions = Restrictions::default();
        restrictions.add(id, path);
        assert_eq!(restrictions.of_id(id), None, "the share is for everyone");
        restrictions.set(path, Audience::Lan);
        restrictions.add(id, path);
        assert_eq!(restrictions.of_id(id), Some(&Audience::Lan));
        let nobody = Audience::Peers(BTreeSet::new());
        restrictions.set(path, nobody.clone());
        assert_eq!(restrictions.of_id(id), Some(&nobody));
        assert!(!nobody.includes(&asker(1, true)));
        restrictions.set(path, Audience::Everyone);
        assert_eq!(restrictions.of_id(id), None);
        restrictions.set(path, Audience::Lan);
        assert_eq!(restrictions.of_id(id), None, "nor later by mistake");
    }
}
