//! Seeded swarms in virtual time: peers that are slow, lose requests, lie, are busy, freeze, come and go, and grow. A session
//! as a real one would be drives the scheduler and checks every action against what a source may be asked.

use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::content::BlockSet;

use super::rng::Rng;
use super::*;

const BLOCK: u32 = 256 * 1024;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// A peer of the swarm. Times in nanoseconds, rates in bytes per second, chances in 0..1.
#[derive(Clone, Debug)]
struct Peer {
    latency: u64,
    rate: f64,
    holds: Vec<bool>,
    /// Says it holds everything, whatever it holds.
    boasts: bool,
    /// Does not say what it holds.
    secretive: bool,
    lie: f64,
    loss: f64,
    busy: f64,
    /// Serves one request at a time and answers `Busy` to a second.
    one_slot: bool,
    /// Sends one block less than asked.
    short: f64,
    freeze_at: Option<u64>,
    leave_at: Option<u64>,
    return_after: u64,
    /// Gains a piece this often.
    grow: Option<u64>,
    /// Requests being served, the first one now.
    queue: VecDeque<(RequestId, VecDeque<u32>)>,
    sending: bool,
    here: bool,
}

impl Peer {
    fn good(rate: f64, pieces: u32) -> Peer {
        Peer {
            latency: 10 * MS,
            rate,
            holds: vec![true; pieces as usize],
            boasts: false,
            secretive: false,
            lie: 0.0,
            loss: 0.0,
            busy: 0.0,
            one_slot: false,
            short: 0.0,
            freeze_at: None,
            leave_at: None,
            return_after: 0,
            grow: None,
            queue: VecDeque::new(),
            sending: false,
            here: false,
        }
    }

    fn holdings(&self) -> Holdings {
        if self.secretive {
            return Holdings::Unknown;
        }
        if self.boasts || self.holds.iter().all(|holds| *holds) {
            return Holdings::All;
        }
        let mut set = BlockSet::new(self.holds.len() as u32);
        for (piece, holds) in (0..).zip(&self.holds) {
            if *holds {
                set.insert(piece);
            }
        }
        Holdings::Some(set)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Join(usize),
    Leave(usize),
    Grow(usize),
    Asked(usize, RequestId, Vec<u32>),
    Sent(usize, RequestId, u32),
    Arrived(usize, RequestId, u32),
    Ended(RequestId),
    Busy(RequestId),
    Lacks(usize, RequestId, Vec<u32>),
    Failed(RequestId, bool),
    Verdict(usize, RequestId, u32, bool),
}

struct Outcome {
    time: f64,
    trace: u64,
    stored: Vec<u32>,
    drops: Vec<(SourceId, DropReason)>,
    liars: BTreeSet<SourceId>,
    done: bool,
    wasted: u32,
    stall: Option<Stall>,
}

struct Swarm {
    scheduler: Scheduler,
    peers: Vec<Peer>,
    start: Instant,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    rng: Rng,
    /// Requests the session has open, as it knows them.
    open: BTreeMap<RequestId, usize>,
    /// Blocks that arrived and await the verdict; at most `disk_slots`.
    pending: usize,
    disk_slots: usize,
    /// The verdict takes up to this many nanoseconds.
    disk_time: u32,
    /// Pauses the scheduler while there is no slot.
    pauses: bool,
    liars: BTreeSet<SourceId>,
    dropped: BTreeSet<SourceId>,
    drops: Vec<(SourceId, DropReason)>,
    stored: Vec<u32>,
    trace: DefaultHasher,
    wasted: u32,
    resting: BTreeMap<SourceId, u64>,
}

impl Swarm {
    fn new(pieces: Pieces, config: Config, peers: Vec<Peer>, seed: u64) -> Swarm {
        let start = Instant::now();
        let count = pieces.count();
        let have = BlockSet::new(count);
        let mut swarm = Swarm {
            scheduler: Scheduler::new(config, pieces, have, seed, start).unwrap(),
            peers,
            start,
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            rng: Rng(seed ^ 0x5eed),
            open: BTreeMap::new(),
            pending: 0,
            disk_slots: 64,
            disk_time: 2_000_000,
            pauses: false,
            liars: BTreeSet::new(),
            dropped: BTreeSet::new(),
            drops: Vec::new(),
            stored: vec![0; count as usize],
            trace: DefaultHasher::new(),
            wasted: 0,
            resting: BTreeMap::new(),
        };
        for peer in 0..swarm.peers.len() {
            swarm.at(0, Event::Join(peer));
        }
        swarm
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events
            .push(Reverse((self.now + delay, self.sequence, event)));
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_nanos(self.now)
    }

    fn chance(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.rng.unit() < chance
    }

    /// Runs until the fetch is done or `limit` nanoseconds have passed.
    fn run(mut self, limit: u64) -> Outcome {
        let mut done = false;
        while !done && self.now <= limit {
            done = self.pump();
            if done {
                break;
            }
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let deadline = self.scheduler.next_deadline(self.instant()).map(|at| {
                u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap()
            });
            let Some(next) = event.into_iter().chain(deadline).min() else {
                break;
            };
            assert!(next >= self.now);
            self.now = next;
            while self
                .events
                .peek()
                .is_some_and(|Reverse((at, ..))| *at <= self.now)
            {
                let Reverse((_, _, event)) = self.events.pop().unwrap();
                self.handle(event);
            }
        }
        assert_eq!(done, self.scheduler.is_done());
        Outcome {
            time: self.now as f64 / SECOND as f64,
            trace: self.trace.finish(),
            stall: self.scheduler.stall(self.instant()),
            stored: self.stored,
            drops: self.drops,
            liars: self.liars,
            done,
            wasted: self.wasted,
        }
    }

    /// Takes actions as a session does. True once the fetch is done.
    fn pump(&mut self) -> bool {
        let now = self.instant();
        for turn in 0.. {
            assert!(turn < 10_000, "actions without end");
            let has_room = self.pending < self.disk_slots;
            if self.pauses {
                self.scheduler.set_paused(!has_room, now);
            }
            let action = if has_room {
                self.scheduler.next_action(now)
            } else {
                self.scheduler.next_control(now)
            };
            let Some(action) = action else {
                return false;
            };
            (self.now, &action).hash(&mut self.trace);
            match action {
                Action::Request {
                    source,
                    request,
                    runs,
                } => self.request(source, request, &runs),
                Action::Cancel { source, request } => {
                    let peer = self.open.remove(&request);
                    assert_eq!(peer, Some(source.0 as usize), "cancel of a closed request");
                    self.peers[source.0 as usize]
                        .queue
                        .retain(|(id, _)| *id != request);
                }
                Action::Drop { source, reason } => self.drop(source, reason),
                Action::FindMore => {}
                Action::Done => return true,
            }
        }
        false
    }

    fn request(&mut self, source: SourceId, request: RequestId, runs: &[Range<u32>]) {
        let index = source.0 as usize;
        assert!(self.peers[index].here, "asked a peer that is not here");
        assert!(!self.dropped.contains(&source), "asked a dropped source");
        assert!(!self.liars.contains(&source) || self.scheduler.has_source(source));
        let window = self.open.values().filter(|peer| **peer == index).count();
        assert!(window < 2, "over the window");
        if let Some(until) = self.resting.get(&source) {
            assert!(self.now >= *until, "asked a busy source too early");
        }
        let pieces: Vec<u32> = runs.iter().cloned().flatten().collect();
        assert!(!pieces.is_empty() && pieces.len() <= 256 && runs.len() <= 32);
        assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        assert!(pieces.iter().all(|piece| self.stored[*piece as usize] == 0));
        if let Holdings::Some(claimed) = self.peers[index].holdings() {
            assert!(pieces.iter().all(|piece| claimed.contains(*piece)));
        }
        assert_eq!(self.open.insert(request, index), None);
        let latency = self.peers[index].latency;
        if !self.chance(self.peers[index].loss) {
            self.at(latency, Event::Asked(index, request, pieces));
        }
    }

    fn drop(&mut self, source: SourceId, reason: DropReason) {
        let index = source.0 as usize;
        assert!(!self.dropped.contains(&source) && !self.scheduler.has_source(source));
        if reason == DropReason::Lied {
            assert!(self.liars.contains(&source), "an honest source was blamed");
            let now = self.instant();
            assert!(!self.scheduler.add_source(source, Holdings::All, now));
        } else {
            let pause = if reason == DropReason::Useless { 30 } else { 2 };
            self.at(pause * SECOND, Event::Join(index));
        }
        self.dropped.insert(source);
        self.drops.push((source, reason));
        self.hang_up(index);
    }

    fn hang_up(&mut self, index: usize) {
        self.open.retain(|_, peer| *peer != index);
        self.peers[index].queue.clear();
        self.peers[index].here = false;
    }

    fn is_frozen(&self, index: usize) -> bool {
        self.peers[index].freeze_at.is_some_and(|at| at <= self.now)
    }

    fn serve(&mut self, index: usize) {
        if self.peers[index].sending || self.is_frozen(index) {
            return;
        }
        let Some((request, pieces)) = self.peers[index].queue.front_mut() else {
            return;
        };
        let request = *request;
        if let Some(piece) = pieces.pop_front() {
            let bytes = self.scheduler.pieces().len_of(piece);
            let time = (bytes as f64 / self.peers[index].rate * SECOND as f64) as u64;
            self.peers[index].sending = true;
            self.at(time.max(1), Event::Sent(index, request, piece));
        } else {
            self.peers[index].queue.pop_front();
            self.at(self.peers[index].latency, Event::Ended(request));
            self.serve(index);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.instant();
        match event {
            Event::Join(index) => {
                let source = SourceId(index as u32);
                if !self.scheduler.is_banned(source) && !self.peers[index].here {
                    self.dropped.remove(&source);
                    self.resting.remove(&source);
                    self.peers[index].here = true;
                    let holdings = self.peers[index].holdings();
                    assert!(self.scheduler.add_source(source, holdings, now));
                    if let Some(at) = self.peers[index].leave_at.take() {
                        self.at(at, Event::Leave(index));
                    }
                    if let Some(pause) = self.peers[index].grow {
                        self.at(pause, Event::Grow(index));
                    }
                }
            }
            Event::Leave(index) => {
                if self.peers[index].here {
                    self.hang_up(index);
                    self.scheduler.remove_source(SourceId(index as u32), now);
                    self.at(self.peers[index].return_after, Event::Join(index));
                }
            }
            Event::Grow(index) => self.grow(index, now),
            Event::Asked(index, request, pieces) => self.asked(index, request, pieces),
            Event::Sent(index, request, piece) => {
                self.peers[index].sending = false;
                if !self.is_frozen(index) {
                    self.at(
                        self.peers[index].latency,
                        Event::Arrived(index, request, piece),
                    );
                }
                self.serve(index);
            }
            Event::Arrived(index, request, piece) => self.arrived(index, request, piece),
            Event::Ended(request) => {
                if self.open.remove(&request).is_some() {
                    self.scheduler.on_finished(request, now);
                }
            }
            Event::Busy(request) => {
                if let Some(index) = self.open.remove(&request) {
                    let source = SourceId(index as u32);
                    if !self.open.values().any(|peer| *peer == index) {
                        self.resting.insert(source, self.now + 100 * MS);
                    }
                    self.scheduler
                        .on_busy(request, Duration::from_millis(100), now);
                }
            }
            Event::Lacks(index, request, pieces) => {
                if self.open.contains_key(&request) {
                    let runs: Vec<Range<u32>> = pieces.iter().map(|p| *p..p + 1).collect();
                    let source = SourceId(index as u32);
                    self.scheduler.source_lacks(source, &runs, now);
                    self.scheduler.on_finished(request, now);
                    self.open.remove(&request);
                }
            }
            Event::Failed(request, reachable) => {
                if self.open.remove(&request).is_some() {
                    let fault = if reachable {
                        Fault::Timeout
                    } else {
                        Fault::Unreachable
                    };
                    self.scheduler.on_failed(request, fault, now);
                }
            }
            Event::Verdict(index, request, piece, good) => {
                self.pending -= 1;
                if good {
                    let news = self.scheduler.on_stored(request, piece, now);
                    assert!(news, "a piece was stored twice, or unasked");
                    self.stored[piece as usize] += 1;
                } else {
                    self.liars.insert(SourceId(index as u32));
                    self.scheduler.on_bad_block(request, piece, now);
                    assert!(!self.scheduler.has_source(SourceId(index as u32)));
                    assert!(self.scheduler.is_banned(SourceId(index as u32)));
                }
            }
        }
    }

    fn grow(&mut self, index: usize, now: Instant) {
        let missing: Vec<usize> = (0..self.peers[index].holds.len())
            .filter(|piece| !self.peers[index].holds[*piece])
            .collect();
        if missing.is_empty() || !self.peers[index].here {
            return;
        }
        let piece = missing[self.rng.below(missing.len() as u32) as usize];
        self.peers[index].holds[piece] = true;
        let holdings = self.peers[index].holdings();
        self.scheduler
            .source_holds(SourceId(index as u32), holdings, now);
        let pause = self.peers[index].grow.unwrap();
        self.at(pause, Event::Grow(index));
    }

    fn asked(&mut self, index: usize, request: RequestId, mut pieces: Vec<u32>) {
        if !self.open.contains_key(&request) || self.is_frozen(index) {
            return;
        }
        let latency = self.peers[index].latency;
        let peer = &self.peers[index];
        if peer.one_slot && !peer.queue.is_empty() || self.chance(self.peers[index].busy) {
            self.at(latency, Event::Busy(request));
            return;
        }
        let (held, lacking): (Vec<u32>, Vec<u32>) = pieces
            .iter()
            .partition(|piece| self.peers[index].holds[**piece as usize]);
        if !lacking.is_empty() {
            if held.is_empty() {
                self.at(latency, Event::Lacks(index, request, lacking));
                return;
            }
            pieces = held;
        }
        if self.chance(self.peers[index].short) {
            pieces.pop();
        }
        if self.chance(self.peers[index].loss / 2.0) {
            self.at(latency * 3, Event::Failed(request, false));
        }
        self.peers[index].queue.push_back((request, pieces.into()));
        self.serve(index);
    }

    fn arrived(&mut self, index: usize, request: RequestId, piece: u32) {
        if !self.open.contains_key(&request) {
            self.wasted += 1;
            return;
        }
        let now = self.instant();
        let bytes = self.scheduler.pieces().len_of(piece);
        match self.scheduler.on_block(request, piece, bytes, now) {
            Arrival::Wanted => {
                let good = !self.chance(self.peers[index].lie);
                self.pending += 1;
                let time = 1 + u64::from(self.rng.below(self.disk_time));
                self.at(time, Event::Verdict(index, request, piece, good));
            }
            // Unasked: its cancel is due but not yet taken.
            Arrival::Duplicate | Arrival::Unasked => self.wasted += 1,
        }
    }
}

/// A swarm of 1 to 12 peers of all kinds, in which each piece has an honest holder that stays.
fn any_swarm(seed: u64) -> (Swarm, u64) {
    let mut rng = Rng(seed);
    let mut chance = |percent: u32| rng.below(100) < percent;
    let is_large = chance(2);
    let is_folder = chance(30);
    let prove_last = !is_folder && chance(70);
    let has_reader = chance(20);
    let count = 1 + rng.below(12);
    let most = if is_large { 2000 } else { 200 };
    let pieces = if is_folder {
        let sizes: Vec<u64> = (0..1 + rng.below(30))
            .map(|_| u64::from(rng.below(BLOCK * 6)))
            .collect();
        Pieces::folder(sizes, BLOCK).unwrap()
    } else {
        let size = u64::from(BLOCK) * u64::from(rng.below(most)) + u64::from(rng.below(BLOCK));
        Pieces::file(size, BLOCK).unwrap()
    };
    let len = pieces.count();
    let mut peers: Vec<Peer> = (0..count).map(|_| any_peer(len, &mut rng)).collect();
    // The steady ones, at least one, together hold everything.
    let steady = 1 + rng.below(count);
    let mut slowest = f64::INFINITY;
    for peer in peers.iter_mut().take(steady as usize) {
        peer.lie = 0.0;
        peer.boasts = false;
        peer.short = 0.0;
        peer.freeze_at = None;
        peer.leave_at = None;
        peer.loss = peer.loss.min(0.1);
        peer.busy = peer.busy.min(0.3);
        slowest = slowest.min(peer.rate);
    }
    for piece in 0..len as usize {
        let holder = rng.below(steady) as usize;
        peers[holder].holds[piece] = true;
    }
    let limit = 900.0 + 4.0 * pieces.total() as f64 / slowest + 2.0 * f64::from(len);
    let config = Config {
        prove_last,
        ..Config::default()
    };
    let mut swarm = Swarm::new(pieces, config, peers, seed);
    if has_reader && len > 0 {
        let from = rng.below(len);
        let now = swarm.start;
        let window = from..len.min(from + 20);
        swarm.scheduler.set_readers(Some(window), false, now);
    }
    swarm.disk_slots = 1 + rng.below(64) as usize;
    swarm.pauses = rng.below(2) == 0;
    if rng.below(4) == 0 {
        swarm.disk_time = 300_000_000;
    }
    (swarm, (limit * SECOND as f64) as u64)
}

fn any_peer(pieces: u32, rng: &mut Rng) -> Peer {
    let mut peer = Peer::good(0.0, pieces);
    peer.latency = (1 + u64::from(rng.below(200))) * MS;
    peer.rate = match rng.below(5) {
        0 => 100_000.0,
        1 => 50_000_000.0,
        _ => 500_000.0 + f64::from(rng.below(10_000_000)),
    };
    let part = rng.below(100);
    if rng.below(2) == 0 {
        for piece in 0..pieces as usize {
            peer.holds[piece] = rng.below(100) < part;
        }
        peer.grow = (rng.below(2) == 0).then_some(500 * MS);
    }
    let mut one_in = |times: u32, value: f64| if rng.below(times) == 0 { value } else { 0.0 };
    peer.lie = one_in(5, 0.1) + one_in(20, 0.9);
    peer.loss = one_in(5, 0.1) + one_in(20, 0.5);
    peer.busy = one_in(6, 0.3);
    peer.short = one_in(8, 0.3);
    peer.boasts = one_in(8, 1.0) > 0.0;
    peer.secretive = one_in(8, 1.0) > 0.0;
    peer.one_slot = one_in(8, 1.0) > 0.0;
    peer.freeze_at = (rng.below(8) == 0).then(|| u64::from(rng.below(10_000)) * MS);
    peer.leave_at = (rng.below(5) == 0).then(|| u64::from(rng.below(10_000)) * MS);
    peer.return_after = u64::from(rng.below(20_000)) * MS;
    peer
}

/// Completes whenever each piece keeps one honest, reachable holder; whoever sent a bad block is dropped for it, nobody
/// else is; each piece is stored once.
fn check_seed(seed: u64) -> Outcome {
    let (swarm, limit) = any_swarm(seed);
    let outcome = swarm.run(limit);
    assert!(outcome.done, "seed {seed} is stuck: {:?}", outcome.stall);
    assert!(
        outcome.stored.iter().all(|times| *times == 1),
        "seed {seed}"
    );
    let blamed = outcome
        .drops
        .iter()
        .filter(|(_, why)| *why == DropReason::Lied);
    let blamed: BTreeSet<SourceId> = blamed.map(|(source, _)| *source).collect();
    assert!(blamed.is_subset(&outcome.liars), "seed {seed}");
    outcome
}

#[test]
fn any_swarm_completes_and_blames_only_liars() {
    for seed in 0..2_500 {
        check_seed(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut traces = BTreeSet::new();
    for seed in 0..100 {
        let trace = check_seed(seed).trace;
        assert_eq!(trace, check_seed(seed).trace, "seed {seed}");
        traces.insert(trace);
    }
    assert!(traces.len() > 90, "the trace does not depend on the seed");
}

/// Virtual seconds a file of `pieces` takes from these peers.
fn time_of(peers: Vec<Peer>, pieces: u32, seed: u64) -> Outcome {
    let size = u64::from(pieces) * u64::from(BLOCK) - 1000;
    let file = Pieces::file(size, BLOCK).unwrap();
    let config = Config {
        prove_last: true,
        ..Config::default()
    };
    let outcome = Swarm::new(file, config, peers, seed).run(20_000 * SECOND);
    assert!(outcome.done);
    outcome
}

#[test]
fn four_equal_sources_are_almost_four_times_as_fast_as_one() {
    let pieces = 4000;
    for seed in 0..10 {
        let one = time_of(vec![Peer::good(5e6, pieces)], pieces, seed).time;
        let four = time_of(vec![Peer::good(5e6, pieces); 4], pieces, seed).time;
        assert!(
            one / four >= 3.8,
            "seed {seed}: {one} s by one, {four} s by four"
        );
    }
}

#[test]
fn a_slow_source_does_not_hold_up_three_fast_ones() {
    let pieces = 800;
    for seed in 0..20 {
        let mut peers = vec![Peer::good(5e6, pieces); 3];
        let without = time_of(peers.clone(), pieces, seed).time;
        for place in 0..=3 {
            peers.insert(place, Peer::good(1e5, pieces));
            let with = time_of(peers.clone(), pieces, seed).time;
            peers.remove(place);
            assert!(
                with <= 1.1 * without,
                "seed {seed}: {without} s without the slow one, {with} s with it as number {place}"
            );
        }
    }
}

#[test]
fn seven_of_eight_sources_freeze() {
    let pieces = 400;
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let one = time_of(vec![Peer::good(2e6, pieces)], pieces, seed).time;
        let mut peers = vec![Peer::good(2e6, pieces); 8];
        let survivor = rng.below(8) as usize;
        for (index, peer) in peers.iter_mut().enumerate() {
            let at = u64::from(rng.below((one * 1000.0) as u32)) * MS;
            peer.freeze_at = (index != survivor).then_some(at);
        }
        let time = time_of(peers, pieces, seed).time;
        assert!(
            time <= 1.5 * one + 20.0,
            "seed {seed}: {time} s, alone {one} s"
        );
    }
}

#[test]
fn fifty_boasters_and_one_honest_source() {
    let pieces = 200;
    let honest = Peer::good(5e6, pieces);
    let alone = time_of(vec![honest.clone()], pieces, 1).time;
    let mut boaster = Peer::good(5e6, pieces);
    boaster.holds = vec![false; pieces as usize];
    boaster.boasts = true;
    for seed in 0..20 {
        let mut peers = vec![boaster.clone(); 50];
        peers.push(honest.clone());
        let outcome = time_of(peers, pieces, seed);
        let time = outcome.time;
        assert!(
            time <= 2.0 * alone + 10.0,
            "seed {seed}: {time} s, alone {alone} s"
        );
    }
}

/// Half of sixteen sources corrupt 5 % of their blocks and lose 5 % of their requests.
#[test]
fn eight_of_sixteen_sources_lie() {
    let pieces = 400;
    for seed in 0..100 {
        let mut peers = vec![Peer::good(3e6, pieces); 16];
        for peer in peers.iter_mut().step_by(2) {
            peer.lie = 0.05;
            peer.loss = 0.05;
        }
        let outcome = time_of(peers, pieces, seed);
        assert!(outcome.stored.iter().all(|times| *times == 1));
        for (source, reason) in &outcome.drops {
            assert!(
                source.0 % 2 == 0,
                "seed {seed}: {source:?} was dropped as {reason:?}"
            );
        }
    }
}

/// A source that takes one request at a time is not idle for a round trip per half second.
#[test]
fn one_slot_at_a_distance_is_still_used_well() {
    let pieces = 400;
    for seed in 0..10 {
        let mut peer = Peer::good(5e6, pieces);
        peer.latency = 100 * MS;
        peer.one_slot = true;
        let ideal = f64::from(pieces) * f64::from(BLOCK) / peer.rate;
        let time = time_of(vec![peer], pieces, seed).time;
        assert!(
            time <= 1.2 * ideal,
            "seed {seed}: {time} s instead of {ideal} s"
        );
    }
}

/// Second copies are bounded: a healthy swarm fetches almost nothing twice.
#[test]
fn little_is_fetched_twice() {
    let pieces = 1000;
    for seed in 0..10 {
        let peers = [2e6, 3e6, 5e6, 8e6]
            .map(|rate| Peer::good(rate, pieces))
            .to_vec();
        let wasted = time_of(peers, pieces, seed).wasted;
        assert!(
            wasted <= 20,
            "seed {seed}: {wasted} of {pieces} pieces came in vain"
        );
    }
}
