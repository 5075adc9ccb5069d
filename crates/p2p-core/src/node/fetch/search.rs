//! Who else has what is fetched: the DHT is asked, and those who have it. Another part of a [`Session`].

use std::{collections::BTreeSet, time::Duration};

use super::session::{Session, Stage};
use crate::{
    content::{Address, NodeId},
    net::{
        NetFault,
        wire::{Query, Reply},
    },
    node::driver::{Asked, Hands, LookupFor},
    peers::FoundBy,
};

/// A provider is asked for others again after this, then with doubling pauses up to the longest: those who start together
/// must hear of each other while there is something left to share.
pub(super) const EXCHANGE_FIRST: Duration = Duration::from_millis(500);
const EXCHANGE_LAST: Duration = Duration::from_secs(60);
/// The DHT and the other providers are asked again at most this often.
const SEARCH_PAUSE: Duration = Duration::from_secs(5);

impl Session {
    /// Somebody says that this peer has it.
    pub(crate) fn hear_of(
        &mut self,
        peer: NodeId,
        addresses: &[Address],
        by: FoundBy,
        hands: &mut Hands,
    ) {
        if peer == hands.local {
            return;
        }
        hands.heard_of(peer, addresses, by);
        let is_named = matches!(by, FoundBy::Manual | FoundBy::Ticket);
        if is_named {
            self.named.insert(peer);
        }
        if hands.peers.is_connected(peer) {
            self.on_peer(peer, hands);
            self.ask_manifests(peer, hands);
        } else {
            let mut all = addresses.to_vec();
            all.extend(hands.peers.addresses(peer).iter().cloned());
            if is_named {
                hands.net.dial_now(peer, &all);
            } else {
                hands.net.dial(peer, &all);
            }
        }
    }

    /// Providers known to a provider.
    pub(crate) fn on_providers(
        &mut self,
        peer: NodeId,
        answer: Result<Reply, NetFault>,
        hands: &mut Hands,
    ) {
        if let Ok(Reply::Providers { providers }) = answer {
            for provider in providers {
                let addresses = hands.hearsay(provider.addresses(), Some(peer));
                self.hear_of(provider.node(), &addresses, FoundBy::Exchange, hands);
            }
        }
    }

    pub(super) fn ask_providers(&self, peer: NodeId, hands: &mut Hands) {
        let asked = Asked::Providers {
            session: self.number,
            peer,
        };
        hands.ask(peer, Query::Providers { content: self.id }, asked);
    }

    /// Providers known to the DHT.
    pub(crate) fn on_lookup(&mut self, peers: &[NodeId], hands: &mut Hands) {
        for peer in peers {
            self.hear_of(*peer, &[], FoundBy::Dht, hands);
        }
    }

    /// Asks the DHT, and the providers found so far, for more.
    pub(super) fn search(&mut self, hands: &mut Hands) {
        let due = self
            .searched_at
            .is_none_or(|at| hands.now.saturating_duration_since(at) >= SEARCH_PAUSE);
        if !due {
            return;
        }
        self.searched_at = Some(hands.now);
        self.dial_lost(hands);
        hands.lookup(self.id, LookupFor::Session(self.number));
        let providers: Vec<NodeId> = self
            .sources
            .iter()
            .filter(|(_, source)| source.connected && source.have.is_some())
            .map(|(peer, _)| *peer)
            .collect();
        for peer in providers {
            self.ask_providers(peer, hands);
        }
    }

    /// Dials again whom the user named and who had something before, if they are not there.
    fn dial_lost(&self, hands: &mut Hands) {
        let met = self.sources.iter().filter(|(_, source)| source.met);
        let met = met.map(|(peer, _)| *peer);
        let wanted: BTreeSet<NodeId> = self.named.iter().copied().chain(met).collect();
        for peer in wanted {
            if !hands.peers.is_connected(peer) {
                let addresses = hands.peers.addresses(peer).to_vec();
                hands.net.dial(peer, &addresses);
            }
        }
    }

    /// Asks partial holders again, and all of them for others, and looks for more while there is nobody.
    pub(super) fn refresh(&mut self, hands: &mut Hands) {
        let peers: Vec<NodeId> = self.sources.keys().copied().collect();
        for peer in peers {
            if self.may_have_news(peer, hands.now) {
                self.ask_have(peer, hands);
            }
            self.exchange(peer, hands);
        }
        let alone = self.sources.values().all(|source| source.have.is_none());
        if alone && !matches!(self.stage, Stage::Finishing) {
            self.search(hands);
        }
    }

    /// Asks a provider for others, if it is time.
    fn exchange(&mut self, peer: NodeId, hands: &mut Hands) {
        let Some(source) = self.sources.get_mut(&peer) else {
            return;
        };
        let is_provider = source.connected && source.have.is_some() && !source.blamed;
        if is_provider && source.exchange_at <= hands.now {
            source.exchange_pause = source.exchange_pause.saturating_mul(2).min(EXCHANGE_LAST);
            source.exchange_at = hands.now + source.exchange_pause;
            self.ask_providers(peer, hands);
        }
    }
}
