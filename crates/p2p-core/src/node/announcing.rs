//! What the driver does for the announcer: starts its walks, sends its groups, keeps what it has done.

use std::{collections::HashSet, sync::Arc};

use super::{
    driver::{Driver, Job, LookupFor},
    inventory::offered_after,
};
use crate::{
    announce::{Group, SavedSlice},
    content::ContentId,
    net::{GroupId, LookupId, Server},
    store::{Store, StoreError},
};

/// When ids were announced in earlier runs, by id.
#[derive(Debug, Clone)]
pub(crate) struct Times(Arc<[(ContentId, u32)]>);

impl Times {
    fn of(store: &Store) -> Result<Self, StoreError> {
        let mut times = store.announced()?;
        times.sort_unstable();
        Ok(Self(times.into()))
    }

    pub(super) fn of_id(&self, id: ContentId) -> Option<u32> {
        let at = self.0.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.0.get(at).map(|(_, time)| *time)
    }
}

/// Some of what is here from earlier runs.
#[derive(Debug)]
pub(crate) struct Known {
    /// Each with when it was announced.
    ids: Vec<(ContentId, Option<u32>)>,
    /// After which there may be more.
    last: Option<ContentId>,
    announced: Times,
}

/// When an id is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// At once: the user waits for it.
    Now,
    /// Among many others.
    Spread,
}

/// The keys of the feeds that this node serves.
fn served_feeds(store: &Store) -> Result<Vec<ContentId>, StoreError> {
    let records = store.feeds()?.into_iter();
    let served = records.filter(|record| record.value.is_some() && (record.own || record.followed));
    Ok(served.map(|record| record.id.key()).collect())
}

/// Blocks. Whether these times are kept.
fn save(store: &Store, times: &[SavedSlice]) -> bool {
    let saved = store.save_announced(times);
    if let Err(error) = &saved {
        tracing::warn!(%error, "what was announced could not be written down");
    }
    saved.is_ok()
}

impl Driver {
    /// Announces what is known from earlier runs, when its time has come. It is read from the index page by page while the
    /// node runs already.
    pub(super) fn announce_known(&mut self) {
        if self.has_dht {
            self.gone_at_start = Some(HashSet::new());
            self.count_words();
            self.read_known(None, None);
        }
    }

    /// Reads the contents after `after`, and first of all when each was announced.
    fn read_known(&mut self, after: Option<ContentId>, announced: Option<Times>) {
        let store = self.hands.store.clone();
        let gate = Arc::clone(&self.hands.gate);
        self.hands.jobs.spawn_blocking(move || {
            let announced = announced.map_or_else(|| Times::of(&store), Ok);
            Job::Known(announced.and_then(|announced| {
                let (mut ids, last) = offered_after(&store, after)?;
                // Of what cannot be judged nothing is said.
                ids.retain(|id| gate.is_open(&store, *id).unwrap_or(false));
                if last.is_none() {
                    ids.extend(served_feeds(&store)?);
                }
                let known = ids.into_iter().map(|id| (id, announced.of_id(id)));
                Ok(Known {
                    ids: known.collect(),
                    last,
                    announced,
                })
            }))
        });
    }

    pub(super) fn on_known(&mut self, known: Result<Known, StoreError>) {
        let Known {
            mut ids,
            last,
            announced,
        } = match known {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "what is here cannot be read from the index, and is not announced");
                return;
            }
        };
        ids.retain(|(id, _)| {
            self.gone_at_start
                .as_ref()
                .is_none_or(|gone| !gone.contains(id))
        });
        for (id, _) in &ids {
            self.hands.net.provide(*id);
        }
        self.announcer.restore(ids, self.hands.now);
        self.dirty = true;
        match last {
            Some(last) => self.read_known(Some(last), Some(announced)),
            None => {
                self.gone_at_start = None;
                self.restore_words(&announced);
            }
        }
    }

    pub(super) fn announce(&mut self, id: ContentId, pace: Pace) {
        if !self.has_dht {
            return;
        }
        self.hands.net.provide(id);
        match pace {
            Pace::Now => self.announcer.add_urgent(id, self.hands.now),
            Pace::Spread => self.announcer.add(id, self.hands.now),
        };
    }

    /// No longer announces an id, nor names us for it.
    pub(super) fn announce_no_more(&mut self, id: ContentId) {
        if let Some(gone) = &mut self.gone_at_start {
            gone.insert(id);
        }
        self.announcer.remove(id);
        self.hands.net.withdraw(id);
    }

    /// Sends the records again if they say where this node is not any more.
    pub(super) fn announce_moved(&mut self) {
        let Some(written) = self.moves.take(&self.external, self.hands.now) else {
            return;
        };
        tracing::info!("this node has moved: what it announced is announced again");
        self.announcer.on_moved(self.hands.now);
        self.dirty = true;
        let times = self.announcer.unsaved(self.hands.now, true);
        let store = self.hands.store.clone();
        self.hands.jobs.spawn_blocking(move || {
            // In this order: what ends between the two takes its next start for another move.
            if save(&store, &times) {
                written.write();
            }
            Job::AnnouncedWritten
        });
    }

    /// Sends the records again if those who kept them may have lost them.
    pub(super) fn announce_to_returned(&mut self) {
        if self.returning.take(self.hands.now) {
            tracing::info!("a server of the DHT is back: what was announced is announced again");
            self.announcer.on_moved(self.hands.now);
            self.dirty = true;
        }
    }

    /// Starts what is due.
    pub(super) fn announce_due(&mut self) {
        while let Some(id) = self.announcer.next(self.hands.now) {
            match self.hands.net.find_servers(id) {
                Some(lookup) => {
                    self.hands.lookups.insert(lookup, LookupFor::Announce(id));
                }
                None => {
                    self.announcer.on_servers(id, None, self.hands.now);
                }
            }
        }
    }

    pub(super) fn on_servers(&mut self, lookup: LookupId, servers: Vec<Server>, shared_bits: u32) {
        let id = match self.hands.lookups.remove(&lookup) {
            Some(LookupFor::Announce(id)) => id,
            Some(LookupFor::Check(id, answers)) => {
                return self.check_servers(id, &servers, &answers);
            }
            _ => return,
        };
        let shared_bits = (!servers.is_empty()).then_some(shared_bits);
        let group = self.announcer.on_servers(id, shared_bits, self.hands.now);
        self.dirty = true;
        let Some(Group(ids)) = group else { return };
        match self.hands.net.announce(&ids, servers) {
            Some(group) => {
                self.groups.insert(group, id);
            }
            None => self.announcer.on_result(id, false, self.hands.now),
        }
    }

    pub(super) fn on_announced(&mut self, group: GroupId, stored: bool) {
        if let Some(id) = self.groups.remove(&group) {
            self.announcer.on_result(id, stored, self.hands.now);
            self.dirty = true;
        }
    }

    /// Writes down what was announced since the last time.
    pub(super) fn save_announced(&mut self) {
        let changed = self.announcer.unsaved(self.hands.now, false);
        if changed.is_empty() {
            return;
        }
        let store = self.hands.store.clone();
        self.hands.jobs.spawn_blocking(move || {
            save(&store, &changed);
            Job::AnnouncedWritten
        });
    }
}
