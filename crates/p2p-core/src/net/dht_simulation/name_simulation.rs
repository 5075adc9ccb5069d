//! Searches by name in a simulated network. Real are the words and their keys, the walks, the records, the dials, the
//! question and its answer over the wire, the catalog that answers and the checks of what it says. What is not: a node here
//! asks only those whom the DHT names, and not its connected peers, who might have found it without; and the driver's
//! pacing of announcements is left out.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::{Chance, Network, Order, Scenario};
use crate::{
    audience::{Asker, Audience},
    content::{ContentId, Kind, NodeId, PublisherSecret, SignedManifest},
    names::{Room, Shown, Wanted, check, search_keys},
    net::{
        LookupId, Net, NetEvent, NetFault, QueryId,
        wire::{Query, Reply},
    },
    node::catalog::Catalog,
};

/// One search.
#[derive(Debug, Clone, Copy)]
pub struct Searched {
    /// Until the name was found; `None`: it was not.
    pub time: Option<Duration>,
    /// Peers that were asked until then, or in all.
    pub asked: usize,
}

/// What came of the searches of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Every search.
    pub searched: Vec<Searched>,
    /// Words of names that were to be announced.
    pub words: usize,
    /// Those that were.
    pub announced: usize,
    /// Until every node had joined.
    pub joining: Duration,
}

/// What a node knows of names.
#[derive(Default)]
pub(super) struct Names {
    catalog: Catalog,
    searches: HashMap<u64, Search>,
    made: u64,
    walks: HashMap<LookupId, (u64, Room)>,
    asked: HashMap<QueryId, (u64, NodeId)>,
}

struct Search {
    text: String,
    wanted: Wanted,
    looked_for: ContentId,
    found: bool,
    /// Named, and being dialled.
    dialled: BTreeSet<NodeId>,
    asked: BTreeSet<NodeId>,
    again: BTreeSet<NodeId>,
    began: Instant,
    tell: oneshot::Sender<Searched>,
}

impl Names {
    pub(super) fn show(&mut self, manifest: SignedManifest) {
        self.catalog.insert(manifest, Audience::Everyone);
    }

    pub(super) fn find(
        &mut self,
        text: &str,
        looked_for: ContentId,
        tell: oneshot::Sender<Searched>,
        net: &mut Net,
    ) {
        self.made += 1;
        let search = Search {
            text: text.to_owned(),
            wanted: Wanted::new(text),
            looked_for,
            found: false,
            dialled: BTreeSet::new(),
            asked: BTreeSet::new(),
            again: BTreeSet::new(),
            began: Instant::now(),
            tell,
        };
        self.searches.insert(self.made, search);
        let keys = search_keys(text);
        for (key, room) in keys.iter().zip(Room::of_words(keys.len())) {
            if let Some(lookup) = net.find_providers(*key) {
                self.walks.insert(lookup, (self.made, room));
            }
        }
    }

    /// Takes what is about names, and gives back what is not, or not only.
    pub(super) fn on_event(&mut self, event: NetEvent, net: &mut Net) -> Option<NetEvent> {
        match event {
            NetEvent::Asked {
                peer,
                query: Query::Search { text },
                slot,
            } => {
                let asker = Asker { peer, near: false };
                let manifests = self.catalog.search(&text, &asker);
                let more = false;
                net.reply(slot, Reply::Manifests { manifests, more });
                return None;
            }
            NetEvent::Answered { query, result } => {
                let (number, peer) = self.asked.remove(&query)?;
                match result {
                    Ok(Reply::Manifests { manifests, .. }) => {
                        self.on_manifests(number, &manifests);
                    }
                    // As a node does, when a connection was closed because there were too many.
                    Err(NetFault::Unreachable) => self.ask_again(number, peer, net),
                    _ => {}
                }
                self.conclude(number);
                return None;
            }
            NetEvent::ProvidersFound { lookup, ref peers } if self.walks.contains_key(&lookup) => {
                self.on_named(lookup, peers, net);
                return None;
            }
            NetEvent::LookupEnded { lookup } => {
                if let Some((number, _)) = self.walks.remove(&lookup) {
                    self.conclude(number);
                    return None;
                }
            }
            NetEvent::Connected { peer, .. } => self.on_dialled(peer, true, net),
            NetEvent::DialFailed {
                peer: Some(peer), ..
            } => self.on_dialled(peer, false, net),
            _ => {}
        }
        Some(event)
    }

    fn on_named(&mut self, lookup: LookupId, peers: &[NodeId], net: &mut Net) {
        let Some((number, room)) = self.walks.get_mut(&lookup) else {
            return;
        };
        let number = *number;
        let mut lost = Vec::new();
        for peer in room.choose(peers.iter().copied()) {
            if !self.reach(number, peer, net) {
                lost.push(peer);
            }
        }
        if let Some((_, room)) = self.walks.get_mut(&lookup) {
            lost.into_iter().for_each(|peer| room.forget(peer));
        }
    }

    /// Asks a peer, now or when it is connected. False if nobody knows where it is.
    fn reach(&mut self, number: u64, peer: NodeId, net: &mut Net) -> bool {
        self.ask(number, peer, net);
        let Some(search) = self.searches.get_mut(&number) else {
            return true;
        };
        if search.asked.contains(&peer) || search.dialled.contains(&peer) {
            return true;
        }
        let dials = net.dial_now(peer, &[]);
        if dials {
            search.dialled.insert(peer);
        }
        dials
    }

    fn ask_again(&mut self, number: u64, peer: NodeId, net: &mut Net) {
        if let Some(search) = self.searches.get_mut(&number)
            && search.again.insert(peer)
        {
            search.asked.remove(&peer);
            self.reach(number, peer, net);
        }
    }

    fn on_dialled(&mut self, peer: NodeId, connected: bool, net: &mut Net) {
        let mut waiting = Vec::new();
        for (number, search) in &mut self.searches {
            if search.dialled.remove(&peer) {
                waiting.push(*number);
            }
        }
        for number in waiting {
            if connected {
                self.ask(number, peer, net);
            }
            self.conclude(number);
        }
    }

    fn ask(&mut self, number: u64, peer: NodeId, net: &mut Net) {
        let Some(search) = self.searches.get_mut(&number) else {
            return;
        };
        if search.asked.contains(&peer) {
            return;
        }
        let text = search.text.clone();
        if let Some(query) = net.ask(peer, Query::Search { text }) {
            search.asked.insert(peer);
            self.asked.insert(query, (number, peer));
        }
    }

    fn on_manifests(&mut self, number: u64, manifests: &[SignedManifest]) {
        let Some(search) = self.searches.get_mut(&number) else {
            return;
        };
        if let Ok(claims) = check(&search.wanted, manifests) {
            let mut contents = claims.iter().map(|claim| claim.content);
            search.found |= contents.any(|content| content == search.looked_for);
        }
    }

    /// Ends a search that has found what it looked for, or has nothing left to wait for.
    fn conclude(&mut self, number: u64) {
        let Some(search) = self.searches.get(&number) else {
            return;
        };
        let found = search.found;
        let waits = !search.dialled.is_empty()
            || self.walks.values().any(|(of, _)| *of == number)
            || self.asked.values().any(|(of, _)| *of == number);
        if !found && waits {
            return;
        }
        if let Some(search) = self.searches.remove(&number) {
            let _ = search.tell.send(Searched {
                time: found.then(|| search.began.elapsed()),
                asked: search.asked.len(),
            });
        }
    }
}

/// A made-up word.
fn word(chance: &mut Chance) -> String {
    const SYLLABLES: [&str; 12] = [
        "ba", "ço", "de", "fü", "go", "lá", "mi", "nor", "pe", "ri", "sta", "ve",
    ];
    let syllables = 2 + chance.below(3);
    let syllables = (0..syllables).map(|_| SYLLABLES[chance.below(SYLLABLES.len())]);
    syllables.collect()
}

/// A name of which each word but one is in few others, and two of its words.
fn name(number: usize, words: &[String], chance: &mut Chance) -> (String, String) {
    let mut one = || words[chance.below(words.len())].as_str();
    let (a, b, c) = (one(), one(), one());
    let name = format!("Holiday {a}_{b} ({c}) {}.mp4", 1000 + number);
    let text = match number % 3 {
        0 => format!("HOLIDAY {}", a.to_uppercase()),
        1 => format!("{c} {b}"),
        _ => format!("{} holiday", 1000 + number),
    };
    (name, text)
}

/// Runs a scenario: [`Scenario::contents`] names, each shared by one node, and [`Scenario::lookups`] searches for them by
/// other nodes. To be called on a runtime of tokio.
pub async fn run(scenario: Scenario) -> Outcome {
    let mut network = Network::new(scenario.seed);
    let mut outcome = Outcome::default();
    let began = Instant::now();
    network.grow(scenario.nodes).await;
    outcome.joining = began.elapsed();
    let vocabulary: Vec<String> = (0..scenario.contents.max(10))
        .map(|_| word(&mut network.chance))
        .collect();
    let secret = PublisherSecret::from_bytes([7; 32]);
    let mut shown: HashMap<u64, Shown> = HashMap::new();
    let (mut names, mut keys) = (Vec::new(), Vec::new());
    for number in 0..scenario.contents {
        let (name, text) = name(number, &vocabulary, &mut network.chance);
        let sharer = network.pick(|_| true).expect("a node");
        let id = ContentId::of(name.as_bytes());
        let manifest = SignedManifest::sign(Kind::File, id, 1, &*name, 0, &secret);
        let manifest = Box::new(manifest.expect("a name"));
        let orders = &network.members[&sharer].orders;
        orders.send(Order::Show(manifest)).await.expect("a node");
        let change = shown.entry(sharer).or_default().replace(None, Some(&name));
        keys.extend(change.added.into_iter().map(|key| (key, sharer)));
        names.push((text, id, sharer));
    }
    outcome.words = keys.len();
    for batch in keys.chunks(scenario.at_once) {
        let announced = batch
            .iter()
            .map(|(key, sharer)| network.announce(*sharer, *key));
        let stored = futures::future::join_all(announced).await;
        outcome.announced += stored.into_iter().filter(|stored| *stored).count();
    }
    outcome.searched = search(&mut network, &scenario, &names).await;
    outcome
}

async fn search(
    network: &mut Network,
    scenario: &Scenario,
    names: &[(String, ContentId, u64)],
) -> Vec<Searched> {
    let mut under_way = FuturesUnordered::new();
    let mut searched = Vec::new();
    for asked in 0..scenario.lookups {
        if under_way.len() >= scenario.at_once {
            searched.extend(under_way.next().await.and_then(Result::ok));
        }
        let (text, id, sharer) = &names[asked % names.len()];
        let sharer = network.members[sharer].node;
        let seeker = network.pick(|member| member.node != sharer);
        let (tell, found) = oneshot::channel();
        let find = Order::Find(text.clone(), *id, tell);
        let orders = &network.members[&seeker.expect("a node")].orders;
        orders.send(find).await.expect("a node");
        under_way.push(found);
    }
    while let Some(found) = under_way.next().await {
        searched.extend(found.ok());
    }
    searched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn thirty_nodes_find_what_one_of_them_shares() {
        let scenario = Scenario {
            nodes: 30,
            silent_percent: 0,
            churn_percent: 0,
            minute: Duration::from_secs(10),
            minutes_before: 0,
            contents: 30,
            lookups: 100,
            at_once: 20,
            seed: 3,
        };
        let outcome = run(scenario).await;
        assert_eq!(outcome.announced, outcome.words);
        assert_eq!(outcome.searched.len(), 100);
        let missed = outcome.searched.iter().filter(|one| one.time.is_none());
        assert!(missed.count() <= 3, "{:?}", outcome.searched);
    }
}
