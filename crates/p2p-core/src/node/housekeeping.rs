//! What the driver does every few seconds: room is kept for connections, lost peers are dialled again, the address book is
//! written. And what it does once, when it listens: it dials the peers it knows.

use std::time::Duration;

use super::{
    address_book,
    driver::{Driver, Job},
    serving::ASKER_TTL,
};
use crate::{content::NodeId, peers::FoundBy};

/// The first peers are dialled after this, though not all listeners have an address.
pub(super) const LISTEN_GRACE: Duration = Duration::from_millis(500);
/// Peers asked to be reached again after they were lost.
const MAX_REDIALS: usize = 16;

impl Driver {
    pub(super) fn keep_house(&mut self) {
        self.hands.net.sweep(self.hands.now);
        self.dirty = true;
        self.close_surplus();
        self.dial_lost();
        self.save_announced();
        let now = self.hands.now;
        self.askers.retain(|_, askers| {
            askers.retain(|_, seen| now.saturating_duration_since(*seen) < ASKER_TTL);
            !askers.is_empty()
        });
        let book = address_book::of(&self.hands.peers.list());
        let data_dir = self.data_dir.clone();
        self.hands.jobs.spawn_blocking(move || {
            address_book::write(data_dir.as_deref(), &book);
            Job::PeersWritten
        });
    }

    /// Keeps room for connections to come. A walk through the DHT makes dozens of them within a second or two, and when the
    /// limit is reached, it can ask nobody any more.
    pub(super) fn close_surplus(&mut self) {
        let spare = self.max_peers.saturating_sub(self.max_peers / 8);
        let surplus = self.hands.peers.connected().saturating_sub(spare);
        if surplus == 0 {
            return;
        }
        // A relay that keeps a place for us sends nothing, and is how others meet us.
        let idle = self.hands.peers.idle(|peer| self.relays.is_place(peer));
        for peer in idle.into_iter().take(surplus) {
            self.hands.net.disconnect(peer);
        }
    }

    /// Bootstrap peers and neighbours that are not connected are tried again.
    fn dial_lost(&mut self) {
        for peer in self.hands.peers.next_lost(MAX_REDIALS) {
            let addresses = self.hands.peers.addresses(peer).to_vec();
            self.hands.net.dial(peer, &addresses);
        }
    }

    /// The first peers are dialled when this node listens: only then does it dial from the ports it listens on, which is
    /// what a router has to see for others to come in by them.
    pub(super) fn dial_known_when_listening(&mut self) {
        let Some(listeners) = self.listeners else {
            return;
        };
        let waited = self.hands.now >= self.started_at + LISTEN_GRACE;
        if self.listening.len() >= listeners || waited {
            self.listeners = None;
            self.dial_known();
        }
    }

    fn dial_known(&mut self) {
        for address in std::mem::take(&mut self.bootstrap) {
            if let Some(peer) = address.node() {
                self.hands
                    .heard_of(peer, &[address.without_node()], FoundBy::Bootstrap);
            }
        }
        let known: Vec<NodeId> = self
            .hands
            .peers
            .list()
            .into_iter()
            .map(|info| info.peer)
            .collect();
        for peer in known {
            let addresses = self.hands.peers.addresses(peer).to_vec();
            self.hands.net.dial(peer, &addresses);
        }
    }
}
