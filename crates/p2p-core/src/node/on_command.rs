//! What the driver does about commands of the handles.

use tokio::sync::oneshot;

use super::{
    announcing::Pace,
    command::Command,
    driver::{Asked, Driver, LookupFor},
    error::ConnectError,
    event::Event,
    fetching::QueuedFetch,
};
use crate::{
    audience::Audience,
    content::{Address, ContentId, NodeId, SignedManifest},
    peers::FoundBy,
};

impl Driver {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Shared {
                manifest,
                unlisted,
                audience,
                entries,
            } => self.shared(*manifest, unlisted, audience, &entries),
            Command::Renewed {
                before,
                manifest,
                unlisted,
                audience,
                added,
                removed,
            } => {
                let id = manifest.claims().content;
                self.withdraw(&removed);
                self.shared(*manifest, unlisted, audience, &added);
                if let Some(before) = before.filter(|before| *before != id) {
                    self.withdraw(&[before]);
                    self.hands.tell(Event::Unshared { id: before });
                }
            }
            Command::Withdrawn { ids } => self.withdraw(&ids),
            Command::Offered { ids } => {
                for id in ids {
                    self.announce(id, Pace::Spread);
                }
            }
            Command::Unshared { id } => {
                self.withdraw(&[id]);
                self.hands.tell(Event::Unshared { id });
            }
            Command::Left {
                manifest,
                unlisted,
                audience,
                open,
                closed,
            } => self.left(*manifest, unlisted, audience, &open, &closed),
            Command::Lost { ids, changed } => {
                self.withdraw(&ids);
                for id in ids.into_iter().filter(|_| changed) {
                    self.hands.tell(Event::ContentChanged { id });
                }
            }
            Command::Rates {
                upload,
                download,
                lan_exempt,
            } => self.hands.set_rates(upload, download, lan_exempt),
            Command::Fetch {
                order,
                progress,
                reply,
            } => self.fetch(QueuedFetch {
                order,
                progress,
                reply,
            }),
            Command::Read { order, seat } => self.read(*order, seat),
            Command::ReadersMoved { id } => {
                for session in self.sessions.values_mut().filter(|s| s.id == id) {
                    session.seat_readers(&mut self.hands);
                }
            }
            Command::Connect {
                peer,
                address,
                reply,
            } => self.connect(peer, &address, reply),
            Command::Ask { peer, query, reply } => {
                // A peer that cannot be asked drops the sender, which says so.
                self.hands.ask(peer, query, Asked::Embedder(reply));
            }
            Command::Lookup { id, found } => {
                self.hands.lookup(id, LookupFor::Embedder(found));
            }
            Command::Search { keys, found } => self.search(&keys, &found),
            Command::Reach { peer, reply } => {
                self.reach(peer, reply);
            }
            Command::Blame { peer } => self.blamed.blame(peer, self.hands.now),
            Command::Check { id, answers } => self.check(id, answers),
            Command::Facts { reply } => {
                let _ = reply.send(self.facts());
            }
            Command::Served { key } => self.announce(key, Pace::Now),
            Command::Unserved { key } => self.announce_no_more(key),
            Command::Announced { ids, reply } => {
                let now = self.hands.now;
                let states = ids.iter().map(|id| self.announcer.state(*id, now));
                let states = states.collect();
                let _ = reply.send(states);
            }
            Command::Shutdown { .. } => {}
        }
    }

    fn shared(
        &mut self,
        manifest: SignedManifest,
        unlisted: bool,
        audience: Audience,
        entries: &[ContentId],
    ) {
        let claims = manifest.claims();
        let (id, name, size) = (claims.content, claims.name.clone(), claims.size);
        if audience == Audience::Everyone {
            self.announce(id, Pace::Now);
            for entry in entries {
                self.announce(*entry, Pace::Spread);
            }
        } else {
            // It may have been for everyone before.
            self.withdraw(entries);
            self.withdraw(&[id]);
        }
        self.place(manifest, unlisted, audience);
        self.hands.tell(Event::Shared { id, name, size });
    }

    /// Content is shared no longer as it was, but still as the share says that is left.
    fn left(
        &mut self,
        manifest: SignedManifest,
        unlisted: bool,
        audience: Audience,
        open: &[ContentId],
        closed: &[ContentId],
    ) {
        self.withdraw(closed);
        for id in open {
            self.announce(*id, Pace::Spread);
        }
        self.place(manifest, unlisted, audience);
    }

    /// Shows content if it has a place in the catalog.
    fn place(&mut self, manifest: SignedManifest, unlisted: bool, audience: Audience) {
        if unlisted {
            self.hide(manifest.claims().content);
        } else {
            self.show(manifest, audience);
        }
        self.dirty = true;
    }

    /// Shows and announces these contents no longer.
    pub(super) fn withdraw(&mut self, ids: &[ContentId]) {
        for id in ids {
            self.hide(*id);
            self.announce_no_more(*id);
        }
        self.dirty = true;
    }

    fn connect(
        &mut self,
        peer: NodeId,
        address: &Address,
        reply: oneshot::Sender<Result<(), ConnectError>>,
    ) {
        if self.hands.peers.is_connected(peer) {
            // Whether the peer is there as well is not looked into, and so not remembered.
            self.hands.heard_of(peer, &[], FoundBy::Manual);
            let _ = reply.send(Ok(()));
            return;
        }
        self.hands
            .heard_of(peer, &[address.without_node()], FoundBy::Manual);
        if peer == self.hands.local || !self.hands.net.dial_now(peer, &[address.without_node()]) {
            let why = "the address is this node's own, or not one that may be dialled".to_owned();
            let _ = reply.send(Err(ConnectError::Failed { peer, why }));
            return;
        }
        self.hands.connecting.entry(peer).or_default().push(reply);
    }
}
