//! The peers of a fetch: who is asked what they have, and what they answer. The other half of a [`Session`].

use std::time::{Duration, Instant};

use super::{
    search::EXCHANGE_FIRST,
    session::{Session, Stage},
};
use crate::{
    content::{BlockSet, ManifestError, NodeId, SignedManifest},
    download::{Holdings, SourceId},
    net::{
        NetFault,
        wire::{Query, Reply},
    },
    node::{
        driver::{Asked, Hands},
        fetch::Goal,
    },
    store::State,
};

/// A partial holder is asked again at once when its answer came, but not more often than this. It gathers news itself; what
/// is not known yet here is fetched a second time from a source that all wait for.
const HAVE_PAUSE: Duration = Duration::from_millis(100);
/// One that has nothing may have begun to fetch it, and is asked again after this.
const DENIED_PAUSE: Duration = Duration::from_secs(10);
/// Unless it is known to be fetching it.
const INTEREST_PAUSE: Duration = Duration::from_millis(500);
/// Peers that one fetch keeps track of.
const MAX_SOURCES: usize = 512;

/// A peer that may have what is fetched.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) slot: SourceId,
    pub(super) connected: bool,
    /// It is met through a relay only, which is not for content: this node says so, or the source.
    pub(super) far: bool,
    /// It sends no content through a relay, it said.
    pub(super) declines_relay: bool,
    /// Whether it had something at any time.
    pub(super) met: bool,
    /// Whether `Have` is under way.
    pub(super) asking: bool,
    pub(super) ask_at: Instant,
    /// When it was last asked what it has.
    pub(super) asked_at: Instant,
    /// When it last asked for what is fetched: it fetches it too.
    pub(super) interested_at: Option<Instant>,
    /// When it is asked for other providers again, and the pause after that.
    pub(super) exchange_at: Instant,
    pub(super) exchange_pause: Duration,
    pub(super) manifests: Manifests,
    /// Size and blocks it says it has of the content fetched by id.
    pub(super) have: Option<(u64, BlockSet)>,
    /// What it has of the entries of the folder.
    pub(super) entries: Option<BlockSet>,
    /// It sent what it should not, and is asked for nothing more.
    pub(super) blamed: bool,
    /// Verified bytes it sent.
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manifests {
    Unasked,
    Asked,
    Known,
}

impl Session {
    /// Manifests kept from an earlier fetch or share serve when nobody else has one.
    pub(super) fn ask_local(&mut self, hands: &mut Hands) {
        match hands.store.info(self.id) {
            Ok(info) => {
                self.local_size = info
                    .filter(|info| info.state == State::Complete)
                    .map(|info| info.size);
            }
            Err(error) => self.end(Err(error.into())),
        }
        match hands.store.manifests(self.id) {
            Ok(manifests) => {
                for manifest in manifests {
                    // One kept under an older policy may be refused under this one.
                    let _ = self.accept(manifest, hands);
                }
            }
            Err(error) => self.end(Err(error.into())),
        }
    }

    /// A manifest of what is fetched, checked against the policy.
    pub(super) fn accept(
        &mut self,
        manifest: SignedManifest,
        hands: &Hands,
    ) -> Result<(), ManifestError> {
        match manifest.verify(self.policy()) {
            Ok(trusted) => {
                if self
                    .trusted
                    .iter()
                    .all(|known| known.publisher != trusted.publisher)
                {
                    self.trusted.push(trusted);
                }
                Ok(())
            }
            Err(error) => {
                self.refused.get_or_insert((error.clone(), hands.now));
                Err(error)
            }
        }
    }

    /// A peer that speaks our protocols is connected.
    pub(crate) fn on_peer(&mut self, peer: NodeId, hands: &mut Hands) {
        if !self.sources.contains_key(&peer) {
            if self.sources.len() >= MAX_SOURCES {
                return;
            }
            let slot = SourceId(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
            self.slots.push(peer);
            let source = Source {
                slot,
                connected: true,
                far: false,
                declines_relay: false,
                met: false,
                asking: false,
                ask_at: hands.now,
                asked_at: hands.now,
                interested_at: None,
                exchange_at: hands.now,
                exchange_pause: EXCHANGE_FIRST,
                manifests: Manifests::Unasked,
                have: None,
                entries: None,
                blamed: false,
                bytes: 0,
            };
            self.sources.insert(peer, source);
        }
        if let Some(source) = self.sources.get_mut(&peer) {
            source.connected = true;
            let is_far = match source.declines_relay {
                true => hands.peers.is_relayed(peer),
                false => hands.is_far(peer),
            };
            let was_far = std::mem::replace(&mut source.far, is_far);
            if was_far && !source.far {
                self.alive_at = hands.now;
                self.offer(peer, hands.now);
                self.pump(hands);
            }
        }
        self.ask_have(peer, hands);
        if self.trusted.is_empty() {
            // In the same round trip: without a manifest nothing can begin.
            self.ask_manifests(peer, hands);
        }
    }

    /// A peer asks for what we fetch: it may soon have some of it.
    pub(crate) fn on_interest(&mut self, peer: NodeId, now: Instant) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.interested_at = Some(now);
            source.ask_at = source.ask_at.min(now + INTEREST_PAUSE);
        }
    }

    /// A peer is gone.
    pub(crate) fn on_disconnected(&mut self, peer: NodeId, hands: &Hands) {
        let Some(source) = self.sources.get_mut(&peer) else {
            return;
        };
        source.connected = false;
        // What its operator says may be another thing when it comes back.
        (source.far, source.declines_relay) = (false, false);
        source.asking = false;
        source.have = None;
        source.entries = None;
        if source.manifests == Manifests::Asked {
            source.manifests = Manifests::Unasked;
        }
        if let Stage::Transfer(transfer) = &mut self.stage {
            transfer.remove_source(source.slot, hands.now);
        }
    }

    /// A source sends no content through a relay, and has to be reached directly first.
    pub(super) fn on_relay_declined(&mut self, peer: NodeId, hands: &Hands) {
        let (Some(source), Stage::Transfer(transfer)) =
            (self.sources.get_mut(&peer), &mut self.stage)
        else {
            return;
        };
        if !hands.peers.is_relayed(peer) {
            // A hole was punched meanwhile.
            return;
        }
        source.declines_relay = true;
        source.far = true;
        transfer.remove_source(source.slot, hands.now);
    }

    pub(super) fn ask_have(&mut self, peer: NodeId, hands: &mut Hands) {
        let entries = self.wants_entries();
        let Some(source) = self.sources.get_mut(&peer) else {
            return;
        };
        if source.asking || source.blamed || !source.connected {
            return;
        }
        let known = if entries {
            source.entries.as_ref().map(BlockSet::count)
        } else {
            let count = source.have.as_ref().map(|(_, blocks)| blocks.count());
            // One that is about to have its first block tells as soon as it has.
            count.or(source.interested_at.map(|_| 0))
        };
        source.asked_at = hands.now;
        let query = Query::Have {
            content: self.id,
            entries,
            known,
        };
        let asked = Asked::Have {
            session: self.number,
            peer,
            entries,
        };
        source.asking = hands.ask(peer, query, asked);
    }

    pub(super) fn ask_manifests(&mut self, peer: NodeId, hands: &mut Hands) {
        let Some(source) = self.sources.get_mut(&peer) else {
            return;
        };
        if source.manifests != Manifests::Unasked || !source.connected {
            return;
        }
        let asked = Asked::Manifests {
            session: self.number,
            peer,
        };
        if hands.ask(peer, Query::Manifests { content: self.id }, asked) {
            source.manifests = Manifests::Asked;
        }
    }

    pub(super) fn wants_entries(&self) -> bool {
        self.goal == Goal::Folder && matches!(self.stage, Stage::Transfer(_) | Stage::Preparing)
    }

    /// An answer to `Have`.
    pub(crate) fn on_have(
        &mut self,
        peer: NodeId,
        entries: bool,
        answer: Result<Reply, NetFault>,
        hands: &mut Hands,
    ) {
        let wants_entries = self.wants_entries();
        let Some(source) = self.sources.get_mut(&peer) else {
            return;
        };
        source.asking = false;
        let interested = source.interested_at.is_some_and(|at| {
            let since = hands.now.saturating_duration_since(at);
            since < DENIED_PAUSE.saturating_mul(2)
        });
        let pause = if interested {
            INTEREST_PAUSE
        } else {
            DENIED_PAUSE
        };
        source.ask_at = hands.now + pause;
        let was_found = source.have.is_some();
        match answer {
            Ok(Reply::Have { size, blocks }) => {
                source.ask_at = source.asked_at + HAVE_PAUSE;
                if entries {
                    source.entries = Some(blocks);
                } else {
                    source.have = Some((size, blocks));
                }
            }
            Ok(Reply::NotFound | Reply::Busy) => {}
            Ok(_) | Err(NetFault::Protocol | NetFault::Unsupported) => source.blamed = true,
            Err(_) => {}
        }
        if source.have.is_some() && !was_found {
            // To meet somebody through a relay again and again is no progress.
            if !std::mem::replace(&mut source.met, true) || !hands.peers.is_relayed(peer) {
                self.alive_at = hands.now;
            }
            source.exchange_at = hands.now + EXCHANGE_FIRST;
            self.ask_manifests(peer, hands);
            self.ask_providers(peer, hands);
        }
        if wants_entries && !entries {
            self.ask_have(peer, hands);
        }
        self.offer(peer, hands.now);
        self.advance(hands);
        self.pump(hands);
        if self.may_have_news(peer, hands.now) {
            self.ask_have(peer, hands);
        }
    }

    /// A partial holder whose turn it is to be asked again.
    pub(super) fn may_have_news(&self, peer: NodeId, now: Instant) -> bool {
        let folder = self.wants_entries();
        self.sources.get(&peer).is_some_and(|source| {
            let full = if folder {
                source.entries.as_ref().is_some_and(BlockSet::is_full)
            } else {
                source.have.as_ref().is_some_and(|(_, have)| have.is_full())
            };
            source.connected && !source.asking && !source.blamed && !full && source.ask_at <= now
        })
    }

    /// Manifests of what is fetched, from a peer.
    pub(crate) fn on_manifests(
        &mut self,
        peer: NodeId,
        answer: Result<Reply, NetFault>,
        hands: &mut Hands,
    ) {
        if let Some(source) = self.sources.get_mut(&peer) {
            // One that has nothing yet is asked again when it does.
            let has_some =
                matches!(&answer, Ok(Reply::Manifests { manifests, .. }) if !manifests.is_empty());
            source.manifests = if has_some || source.have.is_some() {
                Manifests::Known
            } else {
                Manifests::Unasked
            };
        }
        if let Ok(Reply::Manifests { manifests, .. }) = answer {
            for manifest in manifests {
                if manifest.claims().content != self.id {
                    continue;
                }
                if let Err(error) = self.accept(manifest, hands) {
                    tracing::debug!(id = %self.id, %peer, %error, "manifest refused");
                }
            }
        }
        self.advance(hands);
    }

    /// Tells the scheduler what a source holds. One that is met through a relay has to be reached directly first.
    pub(super) fn offer(&mut self, peer: NodeId, now: Instant) {
        let Stage::Transfer(transfer) = &mut self.stage else {
            return;
        };
        let Some(source) = self
            .sources
            .get(&peer)
            .filter(|source| source.connected && !source.blamed && !source.far)
        else {
            return;
        };
        let holdings = if self.goal == Goal::Folder {
            match (&source.entries, &source.have) {
                // A filter makes the plan another piece space than the whole folder's.
                (Some(entries), _) if entries.is_full() => Some(Holdings::All),
                (Some(entries), _) if entries.len() == transfer.pieces() => {
                    Some(Holdings::Some(entries.clone()))
                }
                (Some(_), _) | (None, Some(_)) => Some(Holdings::Unknown),
                (None, None) => None,
            }
        } else {
            source
                .have
                .as_ref()
                .filter(|(size, _)| *size == transfer.size())
                .map(|(_, blocks)| match blocks.is_full() {
                    true => Holdings::All,
                    false => Holdings::Some(blocks.clone()),
                })
        };
        if let Some(holdings) = holdings {
            transfer.offer(source.slot, holdings, now);
        }
    }

    /// Connected peers that have it, or some of it.
    pub(crate) fn providers(&self) -> Vec<NodeId> {
        self.sources
            .iter()
            .filter(|(_, source)| source.connected && source.have.is_some())
            .map(|(peer, _)| *peer)
            .collect()
    }
}
