//! What the driver does about names: shows what is shared publicly, announces its words, and names those who may answer a
//! search.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    announcing::{Pace, Times},
    driver::{Driver, LookupFor},
    error::ConnectError,
};
use crate::{
    audience::Audience,
    content::{ContentId, NodeId, SignedManifest},
    names::{Change, Room},
    net::LookupId,
    peers::FoundBy,
};

/// Told when a peer is connected; dropped if it cannot be reached.
pub(super) type Reached = oneshot::Sender<Result<(), ConnectError>>;

/// A peer that may answer a search, and when it is connected.
pub(super) struct Named {
    pub(super) peer: NodeId,
    /// Dropped if it cannot be reached.
    pub(super) connected: oneshot::Receiver<Result<(), ConnectError>>,
}

/// A word that is looked up for a search.
pub(crate) struct WordLookup {
    room: Room,
    found: mpsc::Sender<Named>,
}

impl Driver {
    /// Shows a share from now on to those it is for. Its words are announced only if that is everyone.
    pub(super) fn show(&mut self, manifest: SignedManifest, audience: Audience) {
        let name = manifest.claims().name.clone();
        let name = (audience == Audience::Everyone).then_some(name);
        let before = Arc::make_mut(&mut self.catalog).insert(manifest, audience);
        self.rename(before.as_ref(), name.as_deref());
    }

    /// Shows it no longer.
    pub(super) fn hide(&mut self, id: ContentId) {
        let before = Arc::make_mut(&mut self.catalog).remove(id);
        if before.is_some() {
            self.rename(before.as_ref(), None);
        }
    }

    fn rename(&mut self, before: Option<&SignedManifest>, after: Option<&str>) {
        let before = before.map(|manifest| manifest.claims().name.as_str());
        let Change { added, removed } = self.shown.replace(before, after);
        for key in removed {
            self.announce_no_more(key);
        }
        for key in added {
            // The id is what the user waits for; the words go when they go.
            self.announce(key, Pace::Spread);
        }
    }

    /// Counts the words of what is shown from the start.
    pub(super) fn count_words(&mut self) {
        for name in self.catalog.names() {
            self.shown.replace(None, Some(name));
        }
    }

    /// Announces the words of what is shown from the start, when their time has come.
    pub(super) fn restore_words(&mut self, announced: &Times) {
        let keys: Vec<ContentId> = self.shown.announced().collect();
        for key in &keys {
            self.hands.net.provide(*key);
        }
        let known = keys.into_iter().map(|key| (key, announced.of_id(key)));
        self.announcer.restore(known, self.hands.now);
        self.dirty = true;
    }

    /// Names whom to ask for a name: the connected peers, and those that the DHT knows by these words of it.
    pub(super) fn search(&mut self, keys: &[ContentId], found: &mpsc::Sender<Named>) {
        let now = self.hands.now;
        let ours = self.hands.peers.ours();
        let asked: Vec<NodeId> = ours.filter(|peer| !self.blamed.has(*peer, now)).collect();
        for peer in asked {
            self.name(peer, found);
        }
        for (key, room) in keys.iter().zip(Room::of_words(keys.len())) {
            let found = found.clone();
            let word = LookupFor::Word(WordLookup { room, found });
            self.hands.lookup(*key, word);
        }
    }

    /// The DHT names peers under a word. Whom it names is dialled while the look-up goes on: only as long does kad know the
    /// addresses that came with the names, and it dials none that whoever named them cannot know (`net/hearsay.rs`).
    pub(super) fn on_named(&mut self, lookup: LookupId, peers: Vec<NodeId>) {
        let Some(LookupFor::Word(word)) = self.hands.lookups.get_mut(&lookup) else {
            return;
        };
        let found = word.found.clone();
        if found.is_closed() {
            return;
        }
        let (local, now, blamed) = (self.hands.local, self.hands.now, &self.blamed);
        let others = peers.into_iter().filter(|peer| *peer != local);
        let chosen = word
            .room
            .choose(others.filter(|peer| !blamed.has(*peer, now)));
        let mut lost = Vec::new();
        for peer in chosen {
            self.hands.heard_of(peer, &[], FoundBy::Dht);
            if !self.name(peer, &found) {
                lost.push(peer);
            }
        }
        if let Some(LookupFor::Word(word)) = self.hands.lookups.get_mut(&lookup) {
            lost.into_iter().for_each(|peer| word.room.forget(peer));
        }
    }

    /// False if nobody knows where the peer is.
    fn name(&mut self, peer: NodeId, found: &mpsc::Sender<Named>) -> bool {
        let (reply, connected) = oneshot::channel();
        if !self.reach(peer, reply) {
            return false;
        }
        // Who does not listen does not hear: there is room for all that are asked.
        let _ = found.try_send(Named { peer, connected });
        true
    }

    /// Connects to a peer wherever it is known to be, if it is not connected. False if nobody knows.
    pub(super) fn reach(&mut self, peer: NodeId, reply: Reached) -> bool {
        if self.hands.peers.is_connected(peer) {
            let _ = reply.send(Ok(()));
            return true;
        }
        let addresses = self.hands.peers.addresses(peer).to_vec();
        let dials = self.hands.net.dial_now(peer, &addresses);
        if dials {
            // Searches that ran out of time leave those behind that never said anything.
            self.hands.connecting.retain(|_, waiting| {
                waiting.retain(|reply| !reply.is_closed());
                !waiting.is_empty()
            });
            self.hands.connecting.entry(peer).or_default().push(reply);
        }
        dials
    }
}
