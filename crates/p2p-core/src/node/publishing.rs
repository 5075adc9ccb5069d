//! How the driver tells the handles how things stand: a snapshot that they read without asking it.

use std::{sync::Arc, time::Duration};

use super::{driver::Driver, status::Published};
use crate::content::Address;

/// Listings and numbers are published at most this often.
pub(super) const PUBLISH_EVERY: Duration = Duration::from_millis(100);

impl Driver {
    /// Tells the handles how things stand, if anything changed.
    pub(super) fn publish(&mut self) {
        let now = self.hands.now;
        let waited = now.saturating_duration_since(self.published_at) >= PUBLISH_EVERY;
        let dirty = self.dirty || self.hands.peers_dirty;
        if !(self.hands.moved || dirty && waited) {
            return;
        }
        (self.dirty, self.hands.peers_dirty, self.hands.moved) = (false, false, false);
        self.published_at = now;
        let peers = self.hands.peers.list();
        let connected = self.hands.peers.connected();
        let counts = self.announcer.counts(now);
        let listen = self.addresses();
        let status = &mut self.status;
        status.peers_connected = connected as u64;
        status.peers_known = peers.len().saturating_sub(connected) as u64;
        status.announced = counts.announced;
        status.announce_due = counts.due;
        status.announce_failed = counts.failed;
        status.announce_lag = counts.lag;
        status.fetches = self.sessions.len() as u64;
        status.uploads = self.admission.serving() as u64;
        status.up_bytes = self.hands.up_bytes;
        status.down_bytes = self.hands.down_bytes;
        status.dht_peers = self.hands.net.dht_peers() as u64;
        status.dht_mode = self.hands.net.dht_mode().to_owned();
        status.addresses.clone_from(&listen);
        self.published.send_replace(Published {
            peers: Arc::new(peers),
            addresses: Arc::new(listen),
            status: Arc::new(self.status.clone()),
        });
    }

    /// Where we can be reached, each address ending in our id: what others confirmed first.
    fn addresses(&self) -> Vec<Address> {
        let mut addresses: Vec<Address> = Vec::new();
        for address in self.external.iter().chain(&self.listening) {
            let full = address.with_node(self.hands.local);
            if !addresses.contains(&full) {
                addresses.push(full);
            }
        }
        addresses
    }
}
