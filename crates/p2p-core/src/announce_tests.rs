//! The schedule of announcements in virtual time.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

const INTERVAL: Duration = Duration::from_secs(INTERVAL_SECS as u64);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn id(n: u32) -> ContentId {
    ContentId::of(&n.to_le_bytes())
}

fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn announcer(start: Instant) -> Announcer {
    Announcer::new(0, start, wall())
}

impl Announcer {
    /// Everything that is counted twice agrees, and the bounds hold.
    fn check(&self) {
        assert!(self.under_way.len() <= IN_FLIGHT);
        let mut in_groups = BTreeSet::new();
        for group in self.under_way.values() {
            assert!(group.len() <= MAX_GROUP);
            for id in group {
                assert!(in_groups.insert(*id), "{id} is in two groups");
            }
        }
        let mut outdated = self.outdated.iter();
        assert!(outdated.all(|id| self.under_way.contains_key(id)));
        for (number, slice) in self.slices.iter().enumerate() {
            assert!(slice.entries.is_sorted_by_key(Entry::key));
            for entry in &slice.entries {
                assert_eq!(slice_of(entry.place), number);
                assert!(!entry.busy || in_groups.contains(&entry.id));
            }
            let idle = slice.entries.iter().filter(|entry| !entry.busy);
            assert_eq!(slice.soonest, idle.map(|entry| entry.due).min());
        }
    }
}

/// A network in virtual time: who is closest to what, how long a walk takes, and what went out when.
struct Network {
    servers: Vec<[u8; 32]>,
    now: Instant,
    /// Walks and groups under way, by their end.
    walks: VecDeque<(Instant, ContentId)>,
    groups: VecDeque<(Instant, ContentId)>,
    looked_up: u32,
    /// When each group was sent, its target, and how many there were in it.
    sent: Vec<(Instant, ContentId, Vec<ContentId>)>,
}

const WALK: Duration = Duration::from_secs(2);
const SEND: Duration = Duration::from_secs(1);

impl Network {
    fn new(servers: u32, now: Instant) -> Self {
        let server = |n: u32| Sha256::digest((n, "server").0.to_be_bytes()).into();
        Self {
            servers: (0..servers).map(server).collect(),
            now,
            walks: VecDeque::new(),
            groups: VecDeque::new(),
            looked_up: 0,
            sent: Vec::new(),
        }
    }

    /// The servers closest to an id, the closest first.
    fn closest(&self, id: ContentId) -> Vec<[u8; 32]> {
        let place: [u8; 32] = Sha256::digest(id.multihash()).into();
        let mut servers = self.servers.clone();
        let distance = |server: &[u8; 32]| -> Vec<u8> {
            server.iter().zip(&place).map(|(a, b)| a ^ b).collect()
        };
        servers.sort_by_key(distance);
        servers.truncate(20);
        servers
    }

    fn shared_bits(&self, id: ContentId) -> Option<u32> {
        let closest = self.closest(id);
        let farthest = closest.last()?;
        if closest.len() < 20 {
            return Some(0);
        }
        let [a, b, c, d, ..] = *farthest;
        Some((u32::from_be_bytes([a, b, c, d]) ^ place(id)).leading_zeros())
    }

    /// Lets the announcer work until a moment.
    fn run(&mut self, announcer: &mut Announcer, until: Instant) {
        loop {
            while let Some(id) = announcer.next(self.now) {
                self.looked_up += 1;
                self.walks.push_back((self.now + WALK, id));
            }
            let ends = [self.walks.front(), self.groups.front()];
            let ends = ends.into_iter().flatten().map(|(end, _)| *end);
            let next = ends.chain(announcer.next_deadline()).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.now = until;
                return;
            };
            assert!(next >= self.now || next == announcer.began);
            self.now = self.now.max(next);
            while self.walks.front().is_some_and(|(end, _)| *end <= self.now) {
                let (_, id) = self.walks.pop_front().unwrap();
                let bits = self.shared_bits(id);
                if let Some(Group(ids)) = announcer.on_servers(id, bits, self.now) {
                    self.sent.push((self.now, id, ids));
                    self.groups.push_back((self.now + SEND, id));
                }
            }
            while self.groups.front().is_some_and(|(end, _)| *end <= self.now) {
                let (_, id) = self.groups.pop_front().unwrap();
                announcer.on_result(id, true, self.now);
            }
        }
    }

    /// Ids sent in the busiest stretch of this length.
    fn busiest(&self, stretch: Duration) -> usize {
        let sent_from = |from: Instant| -> usize {
            let in_it = self.sent.iter();
            in_it
                .filter(|(at, ..)| (from..from + stretch).contains(at))
                .map(|(.., ids)| ids.len())
                .sum()
        };
        self.sent
            .iter()
            .map(|(at, ..)| sent_from(*at))
            .max()
            .unwrap_or(0)
    }

    fn total(&self) -> usize {
        self.sent.iter().map(|(.., ids)| ids.len()).sum()
    }
}

/// Ids in a second when many wait, and what one group adds to it.
fn allowance(stretch: Duration) -> usize {
    stretch.div_duration_f64(PACE) as usize + IN_FLIGHT * MAX_GROUP
}

#[test]
fn shared_is_announced_at_once_and_renewed_before_it_expires() {
    let start = Instant::now();
    let mut announcer = announcer(start);
    let mut network = Network::new(50, start);
    assert!(announcer.add_urgent(id(1), start));
    assert!(!announcer.add_urgent(id(1), start));
    network.run(&mut announcer, start + WALK + SEND);
    assert_eq!(
        announcer.state(id(1), network.now),
        Some(Announced::Done(Duration::ZERO))
    );
    network.run(&mut announcer, start + 10 * DAY);
    let times: Vec<Instant> = network.sent.iter().map(|(at, ..)| *at).collect();
    assert!(times.len() >= 9, "{times:?}");
    for pair in times.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause <= INTERVAL + INTERVAL / 4 + Duration::from_secs(5));
        assert!(pause >= INTERVAL / 4);
    }
}

/// The goal: 100,000 contents in a network of 50, at a bounded rate, and evenly from then on.
#[test]
fn a_hundred_thousand_ids_in_a_network_of_fifty() {
    let start = Instant::now();
    let mut announcer = announcer(start);
    let mut network = Network::new(50, start);
    for n in 0..100_000 {
        announcer.add(id(n), start);
    }
    let mut hours = 0;
    while announcer.counts(network.now).announced < 100_000 {
        hours += 1;
        network.run(&mut announcer, start + hours * Duration::from_secs(3600));
    }
    println!(
        "announced within {hours} h with {} walks",
        network.looked_up
    );
    assert!(hours <= 2, "{hours} h");
    assert!(network.looked_up <= 600, "{} walks", network.looked_up);
    let minute = Duration::from_secs(60);
    assert!(network.busiest(minute) <= allowance(minute));
    assert_eq!(announcer.counts(network.now).lag, Duration::ZERO);

    // From the second round on, each hour has its share, and each id its turn.
    network.run(&mut announcer, start + 2 * INTERVAL);
    (network.looked_up, network.sent) = (0, Vec::new());
    network.run(&mut announcer, start + 3 * INTERVAL);
    let hour = Duration::from_secs(3600);
    let even = 100_000.0 * hour.div_duration_f64(INTERVAL);
    let busiest = network.busiest(hour);
    println!(
        "{} walks, {busiest} in the busiest hour, even {even:.0}",
        network.looked_up
    );
    assert!(
        (99_000..=101_000).contains(&network.total()),
        "{}",
        network.total()
    );
    assert!(
        (busiest as f64) < even * 1.15,
        "{busiest} in an hour, not {even}"
    );
    assert!(network.looked_up <= 2 * SLICES as u32);
    assert!(announcer.counts(network.now).lag < minute);
}

#[test]
fn a_restart_with_many_late_ids_is_no_burst() {
    let start = Instant::now();
    let seconds = announcer(start).began_wall;
    let mut announcer = announcer(start);
    let mut network = Network::new(1000, start);
    // Off for three days.
    let known = (0..100_000).map(|n| (id(n), Some(seconds - 3 * 24 * 3600)));
    announcer.restore(known, start);
    let counts = announcer.counts(start);
    assert_eq!((counts.announced, counts.due), (0, 100_000));
    assert!(counts.lag > DAY);
    network.run(&mut announcer, start + Duration::from_secs(3 * 3600));
    let counts = announcer.counts(network.now);
    assert_eq!((counts.announced, counts.due), (100_000, 0));
    let minute = Duration::from_secs(60);
    assert!(network.busiest(minute) <= allowance(minute));
    announcer.check();
}

#[test]
fn what_is_fresh_is_not_announced_anew_after_a_restart() {
    let start = Instant::now();
    let mut before = announcer(start);
    let mut network = Network::new(50, start);
    for n in 0..1000 {
        before.add(id(n), start);
    }
    network.run(&mut before, start + Duration::from_secs(600));
    assert!(before.unsaved(start, false).is_empty(), "too soon");
    let saved = before.unsaved(network.now, false);
    assert!(
        before.unsaved(network.now, true).is_empty(),
        "saved already"
    );
    let saved: Vec<(ContentId, u32)> = saved.into_iter().flat_map(|(_, ids)| ids).collect();
    assert_eq!(saved.len(), 1000);

    let later = start + Duration::from_secs(3600);
    let mut after = Announcer::new(0, later, wall() + Duration::from_secs(3600));
    after.restore(saved.iter().map(|(id, at)| (*id, Some(*at))), later);
    let mut network = Network::new(50, later);
    network.run(&mut after, later + INTERVAL / 5);
    // The hand passes none of them so soon after.
    assert_eq!(network.total(), 0);
    assert_eq!(after.counts(later).announced, 1000);
    network.run(&mut after, later + INTERVAL * 5 / 4);
    assert!(network.total() >= 1000);
    // A clock that was wrong.
    let mut wrong = announcer(start);
    wrong.restore([(id(1), Some(u32::MAX))], start);
    assert_eq!(wrong.next(start), Some(id(1)));
}

/// While nobody answers, one id at a time is tried, ever more seldom; when the DHT is back, there is no burst.
#[test]
fn an_outage_costs_little_and_ends_gently() {
    let start = Instant::now();
    let mut announcer = announcer(start);
    let mut empty = Network::new(0, start);
    for n in 0..10_000 {
        announcer.add(id(n), start);
    }
    empty.run(&mut announcer, start + DAY);
    assert!((50..200).contains(&empty.looked_up), "{}", empty.looked_up);
    assert!(announcer.counts(empty.now).failed > 0);
    let back = empty.now;
    announcer.on_online(back);
    let mut network = Network::new(50, back);
    network.run(&mut announcer, back + Duration::from_secs(1000));
    let counts = announcer.counts(network.now);
    assert_eq!((counts.announced, counts.failed), (10_000, 0));
    let minute = Duration::from_secs(60);
    assert!(network.busiest(minute) <= allowance(minute));
    announcer.check();
}

#[test]
fn failures_back_off() {
    let start = Instant::now();
    let mut announcer = announcer(start);
    announcer.add(id(1), start);
    let mut now = start;
    let mut pauses = Vec::new();
    for _ in 0..14 {
        assert_eq!(announcer.next(now), Some(id(1)));
        assert!(announcer.on_servers(id(1), Some(3), now).is_some());
        announcer.on_result(id(1), false, now);
        assert_eq!(announcer.state(id(1), now), Some(Announced::Failed));
        let next = announcer.next_deadline().unwrap();
        pauses.push((next - now).as_secs());
        now = next;
    }
    assert_eq!(pauses[..4], [15, 30, 60, 120]);
    assert_eq!(pauses[13], u64::from(TOO_SOON));
    announcer.check();
}

#[test]
fn the_withdrawn_is_never_announced_again() {
    let start = Instant::now();
    let mut announcer = announcer(start);
    let mut network = Network::new(50, start);
    announcer.add_urgent(id(1), start);
    announcer.add(id(2), start);
    let first = announcer.next(start).unwrap();
    announcer.remove(id(1));
    announcer.remove(id(2));
    assert_eq!(announcer.on_servers(first, Some(0), start), None);
    announcer.on_result(first, true, start);
    network.run(&mut announcer, start + 3 * DAY);
    assert_eq!((network.looked_up, network.total()), (0, 0));
    assert_eq!(announcer.counts(network.now), Counts::default());
    assert!(
        announcer
            .unsaved(network.now, true)
            .iter()
            .all(|(_, ids)| ids.is_empty())
    );
    announcer.check();
}

/// Neighbours share a walk, and yet each record is where a walk of its own would look for it first.
#[test]
fn the_servers_of_a_group_are_close_to_each_of_it() {
    let start = Instant::now();
    for servers in [10, 50, 1000] {
        let mut announcer = announcer(start);
        let mut network = Network::new(servers, start);
        for n in 0..2_000 {
            announcer.add(id(n), start);
        }
        network.run(&mut announcer, start + Duration::from_secs(3600));
        assert_eq!(network.total(), 2000);
        let (mut least, mut sum, mut count) = (20, 0, 0);
        for (_, target, ids) in &network.sent {
            let holding: BTreeSet<[u8; 32]> = network.closest(*target).into_iter().collect();
            for id in ids.iter().step_by(7) {
                let closest = network.closest(*id);
                let held = closest
                    .iter()
                    .filter(|server| holding.contains(*server))
                    .count();
                let of = closest.len().min(20);
                least = least.min(held * 20 / of);
                sum += held * 20 / of;
                count += 1;
            }
            let nearest = &network.closest(ids[0])[0];
            assert!(holding.contains(nearest), "not even the closest has it");
        }
        println!(
            "{servers} servers: {} walks for 2000 ids; of the 20 closest {} have it on average, {least} at least",
            network.looked_up,
            sum / count
        );
        assert!(least >= 10 && sum / count >= 16);
    }
}

/// A laptop is closed for three days: no time passes here, and at the servers everything expires.
#[test]
fn what_expired_while_the_computer_slept_is_sent_again() {
    let start = Instant::now();
    let mut announcer = announcer(start);
    let mut network = Network::new(50, start);
    for n in 0..1000 {
        announcer.add(id(n), start);
    }
    network.run(&mut announcer, start + Duration::from_secs(600));
    let awake = network.now;
    let on_time = wall() + (awake - start);
    announcer.on_wall(awake, on_time + Duration::from_secs(30));
    assert_eq!(announcer.counts(awake).announced, 1000);
    network.sent.clear();
    announcer.on_wall(awake, on_time + 3 * DAY);
    let counts = announcer.counts(awake);
    assert_eq!((counts.announced, counts.due), (0, 1000));
    network.run(&mut announcer, awake + Duration::from_secs(600));
    assert_eq!(announcer.counts(network.now).announced, 1000);
    assert_eq!(network.total(), 1000);
    let minute = Duration::from_secs(60);
    assert!(network.busiest(minute) <= allowance(minute));
    // A clock that is set back takes nothing back.
    let seconds = announcer.seconds(network.now);
    announcer.on_wall(network.now, wall());
    assert_eq!(announcer.seconds(network.now), seconds);
    announcer.check();
}

#[test]
fn what_was_on_its_way_when_the_node_moved_is_sent_again() {
    let start = Instant::now();
    let mut announcer = announcer(start);
    announcer.add_urgent(id(1), start);
    assert_eq!(announcer.next(start), Some(id(1)));
    assert!(announcer.on_servers(id(1), Some(0), start).is_some());
    announcer.on_moved(start);
    announcer.on_result(id(1), true, start);
    assert_eq!(announcer.state(id(1), start), Some(Announced::Due));
    let later = start + Duration::from_secs(1);
    assert_eq!(announcer.next(later), Some(id(1)));
    // Looked for before the next move, and sent after it.
    announcer.on_moved(later);
    assert!(announcer.on_servers(id(1), Some(0), later).is_some());
    announcer.on_result(id(1), true, later);
    let done = Some(Announced::Done(Duration::ZERO));
    assert_eq!(announcer.state(id(1), later), done);
    announcer.check();
}

/// A node moves and is restarted before all is sent again: the next run has to send the rest.
#[test]
fn what_was_sent_before_a_move_is_not_kept() {
    let start = Instant::now();
    let mut announcer = announcer(start);
    let mut network = Network::new(50, start);
    for n in 0..100 {
        announcer.add(id(n), start);
    }
    network.run(&mut announcer, start + Duration::from_secs(600));
    let moved = network.now;
    assert!(!announcer.unsaved(moved, true).is_empty());
    announcer.on_moved(moved);
    let kept = announcer.unsaved(moved, true);
    assert_eq!(kept.len(), SLICES);
    assert!(kept.iter().all(|(_, ids)| ids.is_empty()));
    // What is read from the index only now was sent before as well.
    let before = announcer.seconds(start);
    announcer.restore([(id(1000), Some(before))], moved);
    assert_eq!(announcer.counts(moved).due, 101);
    network.run(&mut announcer, moved + Duration::from_secs(600));
    let kept = announcer.unsaved(network.now, true);
    assert_eq!(kept.iter().map(|(_, ids)| ids.len()).sum::<usize>(), 101);
}

#[test]
fn nodes_renew_different_parts_of_the_ring() {
    let start = Instant::now();
    let done = announcer(start).began_wall - 7 * 3600;
    let order = |phase| {
        let mut announcer = Announcer::new(phase, start, wall());
        announcer.restore((0..100).map(|n| (id(n), Some(done))), start);
        let mut network = Network::new(50, start);
        network.run(&mut announcer, start + 2 * INTERVAL);
        network.sent[0].1
    };
    assert_ne!(order(0), order(1 << 31));
}

#[test]
fn an_id_takes_little_memory() {
    assert!(size_of::<Entry>() <= 48, "{}", size_of::<Entry>());
}

#[derive(Debug, Clone)]
enum Step {
    Add(u32),
    AddUrgent(u32),
    Remove(u32),
    Next,
    Servers(bool),
    Result(bool),
    Online,
    Moved,
    Wait(u32),
    Sleep(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..40_u32).prop_map(Step::Add),
        (0..40_u32).prop_map(Step::AddUrgent),
        (0..40_u32).prop_map(Step::Remove),
        Just(Step::Next),
        any::<bool>().prop_map(Step::Servers),
        any::<bool>().prop_map(Step::Result),
        Just(Step::Online),
        Just(Step::Moved),
        (0..100_000_u32).prop_map(Step::Wait),
        (0..100_000_u32).prop_map(Step::Sleep),
    ]
}

proptest! {
    /// Whatever happens in whatever order, nothing is lost, doubled, or announced after it was withdrawn.
    #[test]
    fn any_order_of_events_keeps_the_invariants(steps in prop::collection::vec(step(), 1..200)) {
        let start = Instant::now();
        let mut now = start;
        let mut asleep = Duration::ZERO;
        let mut announcer = announcer(start);
        let mut wanted = BTreeSet::new();
        let (mut looking, mut sending) = (VecDeque::new(), VecDeque::new());
        for step in steps {
            match step {
                Step::Add(n) => {
                    prop_assert_eq!(announcer.add(id(n), now), wanted.insert(id(n)));
                }
                Step::AddUrgent(n) => {
                    prop_assert_eq!(announcer.add_urgent(id(n), now), wanted.insert(id(n)));
                }
                Step::Remove(n) => {
                    // The network still has those it is busy with; what it says of them counts for nothing.
                    announcer.remove(id(n));
                    wanted.remove(&id(n));
                }
                Step::Next => looking.extend(announcer.next(now)),
                Step::Servers(any) => {
                    if let Some(target) = looking.pop_front()
                        && let Some(Group(ids)) = announcer.on_servers(target, any.then_some(0), now)
                    {
                        prop_assert!(ids.iter().all(|id| wanted.contains(id)));
                        sending.push_back(target);
                    }
                }
                Step::Result(stored) => {
                    if let Some(target) = sending.pop_front() {
                        announcer.on_result(target, stored, now);
                    }
                }
                Step::Online => announcer.on_online(now),
                Step::Moved => announcer.on_moved(now),
                Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                Step::Sleep(seconds) => {
                    asleep += Duration::from_secs(seconds.into());
                    announcer.on_wall(now, wall() + (now - start) + asleep);
                }
            }
            let held: BTreeSet<ContentId> =
                announcer.slices.iter().flat_map(|s| s.entries.iter().map(|e| e.id)).collect();
            prop_assert_eq!(&held, &wanted);
            prop_assert!(announcer.under_way.len() <= IN_FLIGHT);
        }
        // In the end everything is announced.
        while let Some(target) = looking.pop_front() {
            if announcer.on_servers(target, Some(0), now).is_some() {
                sending.push_back(target);
            }
        }
        for target in sending {
            announcer.on_result(target, true, now);
        }
        announcer.check();
        announcer.on_online(now);
        let mut network = Network::new(5, now);
        network.run(&mut announcer, now + 2 * INTERVAL);
        prop_assert_eq!(announcer.counts(network.now).announced, wanted.len() as u64);
    }
}
