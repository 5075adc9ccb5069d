//! Many fetches of one file at once, in virtual time: their sources are a few nodes that hold it all, behind lines of a
//! given speed, and each other. What counts is how often a piece leaves the line that everyone waits for, and with that how
//! much longer many fetches take than one.
//!
//! A line sends one block at a time, round the requests it serves, as the shared limit of an upload does. What a fetch
//! holds is told to the others as `Have` does it: a moment after it changed, and then again.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::content::BlockSet;

use super::rng::Rng;
use super::*;

const BLOCK: u32 = 256 * 1024;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// From a block's arrival to its place on the disk.
const DISK: u64 = 25 * MS;
/// Requests that a node serves at once; others wait.
const SLOTS: usize = 16;
/// News of what a fetch holds is gathered for this long, and asked for again as soon as it came.
const GATHER: u64 = 150 * MS;

/// A swarm. Rates in bytes per second, times in nanoseconds.
#[derive(Clone, Debug)]
struct Setup {
    pieces: u32,
    /// The lines of the nodes that hold everything.
    seeds: Vec<f64>,
    /// When each fetch starts.
    starts: Vec<u64>,
    /// What each fetch sends to the others.
    line: f64,
    latency: u64,
    /// Two fetches know of each other after they both run for this long.
    meet: u64,
}

impl Setup {
    fn new(pieces: u32, seeds: &[f64], fetches: usize) -> Setup {
        Setup {
            pieces,
            seeds: seeds.to_vec(),
            starts: vec![0; fetches],
            line: 100e6,
            latency: MS,
            meet: 600 * MS,
        }
    }
}

/// What came of a swarm.
#[derive(Debug)]
struct Outcome {
    /// Seconds from the first start until all are done.
    time: f64,
    /// Blocks that each node sent, the seeds first.
    sent: Vec<u32>,
}

#[derive(Debug)]
enum Event {
    Start(usize),
    Wake(usize),
    Asked(usize, Serving),
    Sent(usize),
    Arrived(usize, RequestId, u32),
    Ended(usize, RequestId),
    Cancelled(usize, usize, RequestId),
    Stored(usize, RequestId, u32),
    Poll(usize, usize),
    Snapshot(usize, usize),
    News(usize, usize, BlockSet),
}

/// A request on a line.
#[derive(Debug)]
struct Serving {
    to: usize,
    request: RequestId,
    pieces: VecDeque<u32>,
}

/// What a node sends over.
#[derive(Debug)]
struct Line {
    rate: f64,
    serving: VecDeque<Serving>,
    waiting: VecDeque<Serving>,
    /// Whose block is on its way, and which; `None` inside once it was cancelled.
    busy: Option<(Option<Serving>, u32)>,
    sent: u32,
}

struct Fetch {
    scheduler: Scheduler,
    open: BTreeMap<RequestId, usize>,
    held: BlockSet,
    /// How many pieces each other node had when it last told.
    known: BTreeMap<usize, u32>,
    /// Who waits for news of this one.
    listeners: Vec<usize>,
    running: bool,
    done_at: Option<u64>,
    wake_at: u64,
}

struct World {
    setup: Setup,
    start: Instant,
    now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    lines: Vec<Line>,
    fetches: Vec<Fetch>,
    rng: Rng,
}

impl World {
    fn new(setup: Setup, seed: u64) -> World {
        let start = Instant::now();
        let size = u64::from(setup.pieces) * u64::from(BLOCK) - 1000;
        let config = Config {
            prove_last: true,
            ..Config::default()
        };
        let fetches = (0..setup.starts.len() as u64).map(|number| {
            let pieces = Pieces::file(size, BLOCK).unwrap();
            let have = BlockSet::new(setup.pieces);
            let seed = seed * 1000 + number;
            Fetch {
                scheduler: Scheduler::new(config.clone(), pieces, have.clone(), seed, start)
                    .unwrap(),
                open: BTreeMap::new(),
                held: have,
                known: BTreeMap::new(),
                listeners: Vec::new(),
                running: false,
                done_at: None,
                wake_at: 0,
            }
        });
        let fetches: Vec<Fetch> = fetches.collect();
        let rates = setup.seeds.iter().copied();
        let rates = rates.chain(fetches.iter().map(|_| setup.line));
        let lines = rates.map(|rate| Line {
            rate,
            serving: VecDeque::new(),
            waiting: VecDeque::new(),
            busy: None,
            sent: 0,
        });
        let mut world = World {
            start,
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            lines: lines.collect(),
            fetches,
            rng: Rng(seed ^ 0x5eed),
            setup,
        };
        for number in 0..world.fetches.len() {
            let jitter = u64::from(world.rng.below(20)) * MS;
            world.at(world.setup.starts[number] + jitter, Event::Start(number));
        }
        world
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    /// The node, and so the source, that a fetch is for the others.
    fn node_of(&self, fetch: usize) -> usize {
        self.setup.seeds.len() + fetch
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_nanos(self.now)
    }

    fn run(mut self) -> Outcome {
        while self.fetches.iter().any(|fetch| fetch.done_at.is_none()) {
            let Some(((at, _), event)) = self.events.pop_first() else {
                panic!("nothing happens any more");
            };
            self.now = at;
            assert!(self.now < 100_000 * SECOND, "it takes forever");
            self.handle(event);
        }
        Outcome {
            time: self.now as f64 / SECOND as f64,
            sent: self.lines.iter().map(|line| line.sent).collect(),
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.instant();
        let latency = self.setup.latency;
        match event {
            Event::Start(number) => self.start(number),
            Event::Wake(number) => self.pump(number),
            Event::Asked(node, serving) => {
                let line = &mut self.lines[node];
                if line.serving.len() + usize::from(line.busy.is_some()) < SLOTS {
                    line.serving.push_back(serving);
                } else {
                    line.waiting.push_back(serving);
                }
                self.send(node);
            }
            Event::Sent(node) => {
                let line = &mut self.lines[node];
                let (serving, piece) = line.busy.take().unwrap();
                line.sent += 1;
                if let Some(serving) = serving {
                    let arrived = Event::Arrived(serving.to, serving.request, piece);
                    line.serving.push_back(serving);
                    self.at(latency, arrived);
                }
                self.send(node);
            }
            Event::Arrived(number, request, piece) => self.arrived(number, request, piece),
            Event::Ended(number, request) => {
                let fetch = &mut self.fetches[number];
                if fetch.open.remove(&request).is_some() {
                    fetch.scheduler.on_finished(request, now);
                    self.pump(number);
                }
            }
            Event::Cancelled(node, to, request) => {
                let line = &mut self.lines[node];
                let other = |serving: &Serving| (serving.to, serving.request) != (to, request);
                line.serving.retain(other);
                line.waiting.retain(other);
                if let Some((current, _)) = &mut line.busy {
                    *current = current.take().filter(other);
                }
                self.send(node);
            }
            Event::Stored(number, request, piece) => self.stored(number, request, piece),
            Event::Poll(asker, holder) => {
                if self.fetches[asker].done_at.is_some() {
                    return;
                }
                let node = self.node_of(holder);
                let known = self.fetches[asker].known.get(&node).copied();
                let fetch = &mut self.fetches[holder];
                if known.unwrap_or(0) == fetch.held.count() {
                    fetch.listeners.push(asker);
                } else {
                    self.at(GATHER, Event::Snapshot(asker, holder));
                }
            }
            Event::Snapshot(asker, holder) => {
                let held = self.fetches[holder].held.clone();
                self.at(latency, Event::News(asker, holder, held));
            }
            Event::News(asker, holder, held) => self.news(asker, holder, held),
        }
    }

    fn start(&mut self, number: usize) {
        let now = self.instant();
        self.fetches[number].running = true;
        for seed in 0..self.setup.seeds.len() {
            let scheduler = &mut self.fetches[number].scheduler;
            scheduler.add_source(SourceId(seed as u32), Holdings::All, now);
        }
        for other in 0..self.fetches.len() {
            if other != number && self.fetches[other].running {
                self.at(self.setup.meet, Event::Poll(number, other));
                self.at(self.setup.meet, Event::Poll(other, number));
            }
        }
        self.pump(number);
    }

    fn news(&mut self, asker: usize, holder: usize, held: BlockSet) {
        let now = self.instant();
        let node = self.node_of(holder);
        let is_full = held.is_full();
        let fetch = &mut self.fetches[asker];
        fetch.known.insert(node, held.count());
        if fetch.done_at.is_some() {
            return;
        }
        let source = SourceId(node as u32);
        if fetch.scheduler.has_source(source) {
            let holdings = Holdings::Some(held);
            fetch.scheduler.source_holds(source, holdings, now);
        } else {
            let holdings = Holdings::Some(held);
            fetch.scheduler.add_source(source, holdings, now);
        }
        if !is_full {
            self.at(self.setup.latency, Event::Poll(asker, holder));
        }
        self.pump(asker);
    }

    fn arrived(&mut self, number: usize, request: RequestId, piece: u32) {
        let now = self.instant();
        let fetch = &mut self.fetches[number];
        if !fetch.open.contains_key(&request) {
            return;
        }
        let bytes = fetch.scheduler.pieces().len_of(piece);
        if fetch.scheduler.on_block(request, piece, bytes, now) == Arrival::Wanted {
            self.at(DISK, Event::Stored(number, request, piece));
        }
        self.pump(number);
    }

    fn stored(&mut self, number: usize, request: RequestId, piece: u32) {
        let now = self.instant();
        let fetch = &mut self.fetches[number];
        assert!(fetch.scheduler.on_stored(request, piece, now));
        assert!(fetch.held.insert(piece), "a piece was stored twice");
        for asker in std::mem::take(&mut self.fetches[number].listeners) {
            self.at(GATHER, Event::Snapshot(asker, number));
        }
        self.pump(number);
    }

    fn pump(&mut self, number: usize) {
        let now = self.instant();
        let latency = self.setup.latency;
        while self.fetches[number].done_at.is_none() {
            let Some(action) = self.fetches[number].scheduler.next_action(now) else {
                break;
            };
            let fetch = &mut self.fetches[number];
            match action {
                Action::Request {
                    source,
                    request,
                    runs,
                } => {
                    let node = source.0 as usize;
                    fetch.open.insert(request, node);
                    let serving = Serving {
                        to: number,
                        request,
                        pieces: runs.into_iter().flatten().collect(),
                    };
                    self.at(latency, Event::Asked(node, serving));
                }
                Action::Cancel { source, request } => {
                    fetch.open.remove(&request);
                    let node = source.0 as usize;
                    self.at(latency, Event::Cancelled(node, number, request));
                }
                Action::Drop { source, reason } => panic!("{source:?} dropped: {reason:?}"),
                Action::FindMore => {}
                Action::Done => fetch.done_at = Some(self.now),
            }
        }
        let deadline = self.fetches[number].scheduler.next_deadline(now);
        if let Some(at) = deadline {
            let at = at.saturating_duration_since(self.start).as_nanos() as u64;
            if self.fetches[number].wake_at != at {
                self.fetches[number].wake_at = at;
                self.at(at.saturating_sub(self.now), Event::Wake(number));
            }
        }
    }

    /// Puts the next block on a line that is idle.
    fn send(&mut self, node: usize) {
        while self.lines[node].busy.is_none() {
            let line = &mut self.lines[node];
            while line.serving.len() < SLOTS {
                let Some(next) = line.waiting.pop_front() else {
                    break;
                };
                line.serving.push_back(next);
            }
            let Some(mut serving) = line.serving.pop_front() else {
                return;
            };
            let Some(piece) = serving.pieces.pop_front() else {
                let ended = Event::Ended(serving.to, serving.request);
                self.at(self.setup.latency, ended);
                continue;
            };
            let time = f64::from(BLOCK) / line.rate * SECOND as f64;
            line.busy = Some((Some(serving), piece));
            self.at(time as u64, Event::Sent(node));
        }
    }
}

/// How many times longer all fetches take than one alone, for ten seeds: the mean and the worst; and how many times
/// over the seeds sent the file, on average.
fn ratios(setup: &Setup) -> (f64, f64, f64) {
    let mut one = setup.clone();
    one.starts.truncate(1);
    let one = World::new(one, 1).run().time;
    let outcomes: Vec<Outcome> = (0..10)
        .map(|seed| World::new(setup.clone(), seed).run())
        .collect();
    let mean = |of: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / 10.0;
    let seeds = setup.seeds.len();
    let copies = |outcome: &Outcome| {
        let sent: u32 = outcome.sent[..seeds].iter().sum();
        f64::from(sent) / f64::from(setup.pieces)
    };
    let times = outcomes.iter().map(|outcome| outcome.time / one);
    let worst = times.fold(0.0, f64::max);
    (mean(&|outcome| outcome.time / one), worst, mean(&copies))
}

/// Eight fetches that start together from one line of 20 MB/s, of 128 and 256 MiB.
#[test]
fn eight_fetches_of_one_source_feed_each_other() {
    for (pieces, most) in [(512, 1.25), (1024, 1.2)] {
        let (mean, worst, copies) = ratios(&Setup::new(pieces, &[20e6], 8));
        assert!(
            mean <= most && worst <= 1.4 && copies <= most,
            "{pieces} pieces: {mean} times as long as one, {worst} at worst, sent {copies} times"
        );
    }
}

#[test]
fn those_that_come_later_are_fed_too() {
    let mut setup = Setup::new(512, &[20e6], 8);
    setup.starts = (0..8).map(|number| number * 500 * MS).collect();
    let (mean, worst, _) = ratios(&setup);
    assert!(
        mean <= 1.35 && worst <= 1.5,
        "{mean} times as long, {worst} at worst"
    );
}

/// Neither few fetches nor many, nor a long way between them, nor sources that share the work, undo it.
#[test]
fn other_swarms_feed_each_other() {
    let mut far = Setup::new(1024, &[20e6], 8);
    far.latency = 50 * MS;
    let swarms = [
        Setup::new(512, &[20e6], 2),
        Setup::new(512, &[20e6], 16),
        Setup::new(2048, &[100e6], 8),
        Setup::new(512, &[5e6; 4], 8),
        far,
    ];
    for setup in swarms {
        let (mean, worst, _) = ratios(&setup);
        assert!(
            mean <= 1.35 && worst <= 1.5,
            "{setup:?}: {mean} times as long, {worst} at worst"
        );
    }
}

/// One source of 100 kB/s beside two of 20 MB/s, wherever it comes among them.
#[test]
fn a_slow_source_among_three_costs_nothing_to_speak_of() {
    for seed in 0..20 {
        let time = |seeds: &[f64]| World::new(Setup::new(1024, seeds, 1), seed).run().time;
        let two = time(&[20e6, 20e6]);
        for three in [[20e6, 20e6, 1e5], [20e6, 1e5, 20e6], [1e5, 20e6, 20e6]] {
            let ratio = time(&three) / two;
            assert!(
                ratio <= 1.05,
                "seed {seed}: {three:?} take {ratio} times as long"
            );
        }
    }
}
