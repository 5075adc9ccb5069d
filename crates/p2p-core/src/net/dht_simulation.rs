//! A network of many nodes in one process: the real swarm, behaviours and records, over libp2p's memory transport. What is
//! not real: connections are not encrypted, pings are rare, and a dial to who is gone ends when the time for a dial does,
//! as it does behind most routers. A node here is what [`Net`] is without the driver above it; the surplus of its
//! connections is closed by age, which the driver does by use.
//!
//! Small networks run as a test; large ones by `cargo bench -p p2p-core --bench dht`.

pub mod name_simulation;
mod running;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use self::running::{Facts, Order, Running};
use super::{Net, NodeKey, behaviour::Intervals, memory_simulation::transport};
use crate::{
    config::{DhtMode, NetworkConfig, RelayMode},
    content::{Address, ContentId, NodeId},
};

pub use self::running::{note_named, notes_named};

/// Pings of thousands of connections, and a thousand nodes that walk through their tables, would be most of what a
/// simulation does. A node still walks when it joins.
const INTERVALS: Intervals = Intervals {
    ping: Duration::from_secs(300),
    refresh: Duration::from_secs(3600),
};

/// Connections of a node above which the oldest are closed.
const CONNECTIONS: usize = 96;

/// Times that a content is announced, until it is.
const ANNOUNCED_AT_MOST: u32 = 3;

/// What a network is made of, and what happens to it.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Nodes.
    pub nodes: usize,
    /// Of a hundred nodes, how many answer nothing.
    pub silent_percent: usize,
    /// Of a hundred nodes, how many are replaced each minute.
    pub churn_percent: usize,
    /// How long a minute of replacing takes. Nothing else is made faster.
    pub minute: Duration,
    /// Minutes of replacing before the look-ups begin.
    pub minutes_before: u32,
    /// Contents, each with one provider.
    pub contents: usize,
    /// Look-ups.
    pub lookups: usize,
    /// Look-ups at once.
    pub at_once: usize,
    /// Whom chance favours.
    pub seed: u64,
}

/// One look-up.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Until the first provider was named; `None`: it was not.
    pub time: Option<Duration>,
    /// Requests until then, or in all.
    pub requests: u32,
    /// Answers in a row that led there; 0 if they were not counted.
    pub hops: u32,
}

/// What came of a scenario.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Every look-up.
    pub found: Vec<Found>,
    /// Contents that were announced.
    pub announced: usize,
    /// Nodes in the routing table of a node, on average.
    pub routes: f64,
    /// Connections of a node, on average.
    pub connections: f64,
    /// Records of others that a node holds, on average.
    pub records: f64,
    /// Until every node had joined.
    pub joining: Duration,
}

/// A number from a seed, one after the other.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

struct Member {
    node: NodeId,
    address: Address,
    orders: mpsc::Sender<Order>,
    task: tokio::task::JoinHandle<()>,
    silent: bool,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A network of nodes, by the number each got when it was made.
struct Network {
    members: BTreeMap<u64, Member>,
    made: u64,
    chance: Chance,
    /// Networks of one process do not meet.
    base: u64,
}

impl Network {
    fn new(seed: u64) -> Self {
        Self {
            members: BTreeMap::new(),
            made: 0,
            chance: Chance(seed),
            base: (seed + 1) << 32,
        }
    }

    fn add(&mut self) -> u64 {
        self.made += 1;
        let number = self.made;
        let secret = *ContentId::of(&(self.base + number).to_be_bytes()).as_bytes();
        let key = NodeKey::from_secret(secret).expect("a key");
        let node = key.node_id().expect("a node");
        let address: Address = format!("/memory/{}", self.base + number)
            .parse()
            .expect("an address");
        let config = NetworkConfig {
            listen: vec![address.clone()],
            mdns: false,
            dht: DhtMode::Server,
            upnp: false,
            relay: RelayMode::Off,
            lan_only: true,
            ..NetworkConfig::default()
        };
        let local = key.0.public().to_peer_id();
        let net = Net::over(
            transport(local),
            None,
            &key,
            &config,
            256,
            "simulation",
            INTERVALS,
            Instant::now(),
        );
        let (orders, receiver) = mpsc::channel(256);
        let running = Running::new(net.expect("a network"), receiver);
        let member = Member {
            node,
            address,
            orders,
            task: tokio::spawn(running.run()),
            silent: false,
        };
        // Three that are there already are known, as from an address book.
        for _ in 0..3 {
            if let Some(known) = self.pick(|member| !member.silent)
                && let Some(known) = self.members.get(&known)
            {
                let dial = Order::Dial(known.node, known.address.clone());
                let _ = member.orders.try_send(dial);
            }
        }
        self.members.insert(number, member);
        number
    }

    /// One of those that this is true of.
    fn pick(&mut self, wanted: impl Fn(&Member) -> bool) -> Option<u64> {
        let numbers: Vec<u64> = self
            .members
            .iter()
            .filter(|(_, member)| wanted(member))
            .map(|(number, _)| *number)
            .collect();
        numbers.get(self.chance.below(numbers.len())).copied()
    }

    /// What these nodes know; the silent ones say nothing.
    async fn facts(&self, numbers: &[u64]) -> Vec<(u64, Facts)> {
        let asked = numbers.iter().map(|number| async {
            let (tell, facts) = oneshot::channel();
            let member = self.members.get(number).filter(|member| !member.silent)?;
            member.orders.send(Order::Facts(tell)).await.ok()?;
            Some((*number, facts.await.ok()?))
        });
        let told = futures::future::join_all(asked).await;
        told.into_iter().flatten().collect()
    }

    fn numbers(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    /// Makes nodes, and waits until all know enough of each other.
    async fn grow(&mut self, nodes: usize) {
        let enough = (nodes - 1).min(20);
        // Most of the time goes by here, and it grows with the network: all share the cores of one machine.
        let patience = 300 + 3 * nodes as u64;
        let deadline = Instant::now() + Duration::from_secs(patience);
        let mut newcomers = Vec::new();
        for number in 0..nodes {
            newcomers.push(self.add());
            if number % 20 == 19 {
                // Not all at once: a network of a thousand was one of ten once.
                let known = enough.min(number / 2);
                let newcomers = std::mem::take(&mut newcomers);
                self.settle(newcomers, deadline, |facts| facts.routes >= known)
                    .await;
            }
        }
        let known = enough.min(nodes / 2);
        self.settle(self.numbers(), deadline, |facts| {
            facts.routes >= known && !facts.walking
        })
        .await;
    }

    /// Waits until this was true of each of these once.
    async fn settle(
        &self,
        mut waiting: Vec<u64>,
        deadline: Instant,
        is_there: impl Fn(&Facts) -> bool,
    ) {
        loop {
            let facts = self.facts(&waiting).await;
            let late = facts.iter().filter(|(_, facts)| !is_there(facts));
            waiting = late.map(|(number, _)| *number).collect();
            if waiting.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the nodes do not find each other"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Announces, and tries again when a walk fails, as the announcer does.
    async fn announce(&self, member: u64, id: ContentId) -> bool {
        let Some(member) = self.members.get(&member) else {
            return false;
        };
        for _ in 0..ANNOUNCED_AT_MOST {
            let (done, stored) = oneshot::channel();
            if member.orders.send(Order::Announce(id, done)).await.is_err() {
                return false;
            }
            if stored.await.unwrap_or(false) {
                return true;
            }
        }
        false
    }

    /// Replaces this many nodes, but none of these.
    fn churn(&mut self, count: usize, spared: &[u64]) {
        for _ in 0..count {
            let victims: Vec<u64> = self
                .numbers()
                .into_iter()
                .filter(|n| !spared.contains(n))
                .collect();
            let Some(victim) = victims.get(self.chance.below(victims.len())).copied() else {
                return;
            };
            self.members.remove(&victim);
            self.add();
        }
    }
}

/// Runs a scenario. To be called on a runtime of tokio.
pub async fn run(scenario: Scenario) -> Outcome {
    let mut network = Network::new(scenario.seed);
    let mut outcome = Outcome::default();
    let began = Instant::now();
    network.grow(scenario.nodes).await;
    outcome.joining = began.elapsed();
    for _ in 0..scenario.nodes * scenario.silent_percent / 100 {
        if let Some(number) = network.pick(|member| !member.silent)
            && let Some(member) = network.members.get_mut(&number)
        {
            member.silent = true;
            let _ = member.orders.send(Order::Silence).await;
        }
    }
    let mut contents = Vec::new();
    for n in 0..scenario.contents {
        let id = ContentId::of(&(scenario.seed, n).1.to_be_bytes());
        let provider = network.pick(|member| !member.silent).expect("a node");
        contents.push((id, provider));
    }
    for batch in contents.chunks(scenario.at_once) {
        let announced = batch
            .iter()
            .map(|(id, provider)| network.announce(*provider, *id));
        let stored = futures::future::join_all(announced).await;
        outcome.announced += stored.into_iter().filter(|stored| *stored).count();
    }
    search(&mut network, &scenario, &contents, &mut outcome).await;
    let facts = network.facts(&network.numbers()).await;
    let mean = |of: fn(&Facts) -> usize| {
        let sum: f64 = facts.iter().map(|(_, facts)| of(facts) as f64).sum();
        sum / facts.len().max(1) as f64
    };
    outcome.routes = mean(|facts| facts.routes);
    outcome.connections = mean(|facts| facts.connections);
    outcome.records = mean(|facts| facts.records);
    outcome
}

/// The look-ups of a scenario, while nodes come and go.
async fn search(
    network: &mut Network,
    scenario: &Scenario,
    contents: &[(ContentId, u64)],
    outcome: &mut Outcome,
) {
    let spared: Vec<u64> = contents.iter().map(|(_, provider)| *provider).collect();
    let each_minute = scenario.nodes * scenario.churn_percent / 100;
    // Ten times a minute some of them.
    let step = scenario.minute / 10;
    let mut churned = 0;
    let mut began = Instant::now();
    if each_minute > 0 {
        for tenth in 0..scenario.minutes_before as usize * 10 {
            network.churn(each_minute * (tenth + 1) / 10 - churned, &spared);
            churned = each_minute * (tenth + 1) / 10;
            tokio::time::sleep(step).await;
        }
        (churned, began) = (0, Instant::now());
    }
    let mut under_way = FuturesUnordered::new();
    let mut asked = 0;
    while asked < scenario.lookups || !under_way.is_empty() {
        while asked < scenario.lookups && under_way.len() < scenario.at_once {
            let (id, provider) = contents[asked % contents.len()];
            asked += 1;
            let provider = network.members[&provider].node;
            let asker = network.pick(|member| !member.silent && member.node != provider);
            let member = &network.members[&asker.expect("a node")];
            let (tell, found) = oneshot::channel();
            let _ = member.orders.try_send(Order::Lookup(id, provider, tell));
            under_way.push(found);
        }
        let next = tokio::time::timeout(step, under_way.next()).await;
        // An asker that was replaced meanwhile says nothing, and does not count.
        if let Ok(Some(Ok(found))) = next {
            outcome.found.push(found);
        }
        let tenths = began
            .elapsed()
            .div_duration_f64(step.max(Duration::from_millis(1))) as usize;
        let due = each_minute * tenths / 10;
        network.churn(due.saturating_sub(churned), &spared);
        churned = due.max(churned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(seed: u64) -> Scenario {
        Scenario {
            nodes: 50,
            silent_percent: 0,
            churn_percent: 0,
            minute: Duration::from_secs(10),
            minutes_before: 0,
            contents: 50,
            lookups: 200,
            at_once: 20,
            seed,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn fifty_nodes_find_everything() {
        let outcome = run(small(1)).await;
        assert_eq!(outcome.announced, 50);
        let found = outcome.found.iter().filter(|found| found.time.is_some());
        assert_eq!(found.count(), 200);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn and_so_they_do_when_ten_of_them_say_nothing() {
        let scenario = Scenario {
            silent_percent: 20,
            lookups: 100,
            ..small(2)
        };
        let outcome = run(scenario).await;
        let found = outcome.found.iter().filter(|found| found.time.is_some());
        assert!(found.count() >= 97, "{:?}", outcome.found);
    }
}
