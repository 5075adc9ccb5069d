//! Single rules of the scheduler, each by the shortest story that shows it, and random stories against a model.

use super::types::NewError;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::content::BlockSet;

use super::*;

const BLOCK: u32 = 256 * 1024;
const LEN: u64 = BLOCK as u64;

fn set(len: u32, members: impl IntoIterator<Item = u32>) -> BlockSet {
    let mut set = BlockSet::new(len);
    for member in members {
        set.insert(member);
    }
    set
}

/// A fetch and a clock moved by hand.
struct Story {
    scheduler: Scheduler,
    now: Instant,
}

impl Story {
    fn new(pieces: u32, config: Config) -> Story {
        let now = Instant::now();
        let file = Pieces::file(u64::from(pieces) * LEN, BLOCK).unwrap();
        let have = BlockSet::new(pieces);
        let scheduler = Scheduler::new(config, file, have, 7, now).unwrap();
        Story { scheduler, now }
    }

    fn plain(pieces: u32) -> Story {
        Story::new(
            pieces,
            Config {
                enough_sources: 0,
                ..Config::default()
            },
        )
    }

    /// The first source starts at the first piece, so that stories can be told in numbers.
    fn join(&mut self, source: u32, holdings: Holdings) {
        let source = SourceId(source);
        let is_first = self.scheduler.sources.is_empty();
        assert!(self.scheduler.add_source(source, holdings, self.now));
        if is_first {
            self.scheduler.sources.get_mut(&source).unwrap().cursor = 0;
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn actions(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(action) = self.scheduler.next_action(self.now) {
            assert!(actions.len() < 1000);
            if action != Action::FindMore {
                actions.push(action);
            }
        }
        actions
    }

    fn requests(&mut self) -> Vec<(u32, RequestId, Vec<Range<u32>>)> {
        let actions = self.actions().into_iter();
        actions
            .map(|action| match action {
                Action::Request {
                    source,
                    request,
                    runs,
                } => (source.0, request, runs),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn read(&mut self, windows: impl IntoIterator<Item = Range<u32>>, only: bool) {
        self.scheduler.set_readers(windows, only, self.now);
    }

    fn deliver(&mut self, request: RequestId, piece: u32) {
        let arrival = self.scheduler.on_block(request, piece, LEN, self.now);
        assert_eq!(arrival, Arrival::Wanted);
        assert!(self.scheduler.on_stored(request, piece, self.now));
    }

    fn deliver_all(&mut self, request: RequestId, runs: &[Range<u32>], millis_each: u64) {
        for piece in runs.iter().cloned().flatten() {
            self.pass(millis_each);
            self.deliver(request, piece);
        }
        self.scheduler.on_finished(request, self.now);
    }
}

#[test]
fn a_single_source_goes_from_start_to_end_in_growing_runs() {
    let mut story = Story::plain(2000);
    story.join(1, Holdings::All);
    let mut sizes = Vec::new();
    let mut next = 0;
    let mut queue = story.requests();
    while !queue.is_empty() {
        let (_, request, runs) = queue.remove(0);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].start, next, "pieces are asked for in order");
        next = runs[0].end;
        sizes.push(runs[0].len());
        story.deliver_all(request, &runs, 1);
        for action in story.actions() {
            match action {
                Action::Request { request, runs, .. } => queue.push((1, request, runs)),
                Action::Done => assert!(queue.is_empty()),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(story.scheduler.is_done());
    assert_eq!(sizes[..8], [4, 4, 8, 16, 32, 64, 128, 256]);
}

#[test]
fn runs_follow_the_measured_rate() {
    let mut story = Story::plain(2000);
    story.join(1, Holdings::All);
    let mut queue = story.requests();
    let mut size = 0;
    for _ in 0..40 {
        let (_, request, runs) = queue.remove(0);
        size = runs[0].len();
        // 25 ms a piece: 10 MiB/s, so that half a second is 20 pieces.
        story.deliver_all(request, &runs, 25);
        queue.extend(story.requests());
        assert_eq!(queue.len(), 2, "two in flight");
    }
    assert!((18..=22).contains(&size), "{size}");
}

#[test]
fn the_last_piece_proves_the_size_first() {
    let mut story = Story::new(
        100,
        Config {
            prove_last: true,
            enough_sources: 0,
            ..Config::default()
        },
    );
    story.join(1, Holdings::All);
    story.join(2, Holdings::All);
    let asked = story.requests();
    assert_eq!(
        asked.len(),
        3,
        "the last piece, and one run each: {asked:?}"
    );
    assert_eq!(asked[0].2[0], 99..100);
    let (proving, runs) = (asked[0].1, asked[0].2.clone());
    story.pass(10);
    story.deliver_all(proving, &runs, 10);
    assert_eq!(
        story.requests().len(),
        2,
        "now there is room for a second each"
    );
}

#[test]
fn rare_pieces_come_first() {
    let mut story = Story::plain(200);
    story.join(1, Holdings::All);
    for other in 2..6 {
        story.join(
            other,
            Holdings::Some(set(200, (0..200).filter(|p| p % 50 != 49))),
        );
    }
    story.join(6, Holdings::Some(set(200, (0..200).filter(|p| *p != 149))));
    // 149 has one holder, 49, 99 and 199 have two, the others six.
    let asked = story.requests();
    let of_one: Vec<_> = asked.iter().filter(|(source, ..)| *source == 1).collect();
    let first = of_one
        .iter()
        .min_by_key(|(_, request, _)| *request)
        .unwrap();
    assert_eq!(first.2, std::slice::from_ref(&(149..150)));
    let all: BTreeSet<u32> = asked
        .iter()
        .flat_map(|a| a.2.iter().cloned().flatten())
        .collect();
    assert!(
        [49, 99, 149, 199].iter().all(|rare| all.contains(rare)),
        "{all:?}"
    );
}

#[test]
fn a_reader_gets_pieces_in_order_from_its_place() {
    let mut story = Story::plain(1000);
    story.read(Some(500..600), false);
    story.join(1, Holdings::All);
    story.join(2, Holdings::All);
    let starts: Vec<u32> = story
        .requests()
        .iter()
        .map(|asked| asked.2[0].start)
        .collect();
    assert_eq!(starts, [500, 504, 508, 512]);
    let mut story = Story::plain(10);
    story.read(Some(6..8), false);
    story.join(1, Holdings::All);
    let runs: Vec<_> = story
        .requests()
        .into_iter()
        .flat_map(|asked| asked.2)
        .collect();
    assert_eq!(
        runs,
        [6..10, 0..4],
        "read-ahead goes on to the end, then around"
    );
}

#[test]
fn for_readers_only_nothing_else_is_fetched() {
    let config = Config {
        prove_last: true,
        ..Config::default()
    };
    let mut story = Story::new(1000, config);
    story.read(Some(500..510), true);
    story.join(1, Holdings::All);
    let mut asked = BTreeSet::new();
    for _ in 0..10 {
        for (_, request, runs) in story.requests() {
            asked.extend(runs.iter().cloned().flatten());
            story.deliver_all(request, &runs, 1);
        }
    }
    let wanted: BTreeSet<u32> = (500..510).chain([999]).collect();
    assert_eq!(asked, wanted, "the window, and the proof of the size");
    assert!(story.scheduler.is_resting());
    story.pass(3_600_000);
    assert_eq!(story.scheduler.stall(story.now), None);
    assert_eq!(story.actions(), []);
    // Once all is wanted, all is fetched.
    story.read(None, false);
    assert!(!story.scheduler.is_resting());
    assert!(!story.requests().is_empty());
}

#[test]
fn a_reader_that_goes_elsewhere_has_the_old_place_cancelled() {
    let mut story = Story::plain(1000);
    story.read(Some(100..164), true);
    story.join(1, Holdings::All);
    let old: Vec<RequestId> = story.requests().iter().map(|asked| asked.1).collect();
    assert_eq!(old.len(), 2);
    story.read(Some(700..764), true);
    let mut cancelled = Vec::new();
    let mut asked = Vec::new();
    for action in story.actions() {
        match action {
            Action::Cancel { request, .. } => cancelled.push(request),
            Action::Request { runs, .. } => asked.extend(runs),
            other => panic!("{other:?}"),
        }
    }
    cancelled.sort_unstable();
    assert_eq!(cancelled, old);
    assert_eq!(asked, [700..704, 704..708]);
}

#[test]
fn what_is_nearly_here_is_not_cancelled() {
    let mut story = Story::plain(1000);
    story.read(Some(100..164), true);
    story.join(1, Holdings::All);
    let asked = story.requests();
    // At 25 MB a second, what is left of the first request takes 10 ms.
    for piece in 100..103 {
        story.pass(10);
        story.deliver(asked[0].1, piece);
    }
    story.pass(250);
    story.deliver_all(asked[1].1, &asked[1].2, 1);
    story.requests();
    story.read(Some(700..764), true);
    let actions = story.actions();
    let is_cancel = |action: &&Action| matches!(action, Action::Cancel { request, .. } if *request == asked[0].1);
    assert_eq!(actions.iter().find(is_cancel), None, "{actions:?}");
}

#[test]
fn a_whole_fetch_makes_way_for_a_reader_and_no_more_than_that() {
    let mut story = Story::plain(2000);
    story.join(1, Holdings::All);
    story.join(2, Holdings::All);
    let busy = story.requests();
    assert_eq!(busy.len(), 4, "no source has room for one more");
    story.read(Some(1500..1564), false);
    let actions = story.actions();
    let cancels = |source: u32| {
        let of = move |action: &&Action| matches!(action, Action::Cancel { source: s, .. } if s.0 == source);
        actions.iter().filter(of).count()
    };
    assert_eq!((cancels(1), cancels(2)), (1, 1), "{actions:?}");
    let asked: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Request { runs, .. } => runs.first().cloned(),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [1500..1504, 1504..1508]);
}

#[test]
fn of_several_readers_none_starves() {
    let mut story = Story::plain(4000);
    let readers = [0..128, 1000..1128, 2000..2128, 3000..3128];
    story.read(readers.clone(), true);
    story.join(1, Holdings::All);
    let mut first = BTreeMap::new();
    let mut turn = 0;
    while first.len() < readers.len() {
        for (_, request, runs) in story.requests() {
            first.entry(runs[0].start / 1000).or_insert(turn);
            turn += 1;
            story.deliver_all(request, &runs, 1);
        }
        assert!(turn < 20, "somebody is not served: {first:?}");
    }
    assert!(first.values().all(|turn| *turn < 4), "{first:?}");
}

#[test]
fn a_reader_does_not_wait_for_a_slow_source() {
    let mut story = Story::plain(1000);
    story.read(Some(0..100), false);
    story.join(1, Holdings::All);
    let slow = story.requests();
    assert_eq!(slow[0].2[0], 0..4);
    story.join(2, Holdings::All);
    for (_, request, runs) in story.requests() {
        story.deliver_all(request, &runs, 20);
    }
    story.pass(1000);
    let asked = story.requests();
    assert_eq!(asked[0].0, 2);
    assert_eq!(
        asked[0].2[0],
        0..1,
        "the piece the reader waits for has a second copy under way"
    );
}

#[test]
fn one_bad_block_drops_its_sender_for_good() {
    let mut story = Story::plain(8);
    story.join(1, Holdings::All);
    let asked = story.requests();
    let (_, request, _) = asked[0];
    assert_eq!(
        story.scheduler.on_block(request, 0, LEN, story.now),
        Arrival::Wanted
    );
    assert_eq!(
        story.scheduler.on_block(request, 1, LEN, story.now),
        Arrival::Wanted
    );
    story.scheduler.on_bad_block(request, 0, story.now);
    let dropped = Action::Drop {
        source: SourceId(1),
        reason: DropReason::Lied,
    };
    assert_eq!(story.actions(), [dropped]);
    assert!(
        !story
            .scheduler
            .add_source(SourceId(1), Holdings::All, story.now)
    );
    assert!(story.scheduler.is_banned(SourceId(1)));
    // The other block it sent is judged by itself.
    assert!(story.scheduler.on_stored(request, 1, story.now));
    story.join(2, Holdings::All);
    let runs: Vec<_> = story
        .requests()
        .into_iter()
        .flat_map(|asked| asked.2)
        .collect();
    let pieces: BTreeSet<u32> = runs.into_iter().flatten().collect();
    assert_eq!(pieces, [0, 2, 3, 4, 5, 6, 7].into());
}

#[test]
fn arrived_pieces_are_not_asked_for_again() {
    let mut story = Story::plain(4);
    story.join(1, Holdings::All);
    let (_, request, _) = story.requests()[0];
    for piece in 0..4 {
        assert_eq!(
            story.scheduler.on_block(request, piece, LEN, story.now),
            Arrival::Wanted
        );
        assert_eq!(
            story.scheduler.on_block(request, piece, LEN, story.now),
            Arrival::Unasked
        );
    }
    story.scheduler.on_finished(request, story.now);
    story.join(2, Holdings::All);
    story.pass(1000);
    assert_eq!(story.requests(), []);
    assert_eq!(
        story.scheduler.stall(story.now),
        Some(Stall::WaitingForDisk)
    );
    story.scheduler.on_discarded(request, 2, story.now);
    let asked = story.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].2[0], 2..3);
}

#[test]
fn busy_backs_off_longer_each_time_and_is_no_fault() {
    let mut story = Story::plain(4);
    story.join(1, Holdings::All);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let (_, request, _) = story.requests().remove(0);
        story
            .scheduler
            .on_busy(request, Duration::from_millis(100), story.now);
        assert_eq!(story.requests(), []);
        let Some(Stall::AllBusy { until }) = story.scheduler.stall(story.now) else {
            panic!("{:?}", story.scheduler.stall(story.now));
        };
        assert!(
            story
                .scheduler
                .next_deadline(story.now)
                .is_some_and(|at| at <= until)
        );
        pauses.push(until - story.now);
        story.now = until;
    }
    assert!(pauses[0] >= Duration::from_millis(250) && pauses[0] <= Duration::from_millis(500));
    assert!(pauses[6] > pauses[0] * 10);
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(60)));
    let (_, request, _) = story.requests().remove(0);
    story.scheduler.on_busy(request, Duration::MAX, story.now);
    story.pass(60_000);
    assert_eq!(
        story.requests().len(),
        1,
        "nobody can make us wait longer than a minute"
    );
}

#[test]
fn busy_to_a_second_request_narrows_the_window() {
    let mut story = Story::plain(100);
    story.join(1, Holdings::All);
    let asked = story.requests();
    assert_eq!(asked.len(), 2);
    story
        .scheduler
        .on_busy(asked[1].1, Duration::ZERO, story.now);
    assert_eq!(story.requests(), [], "one at a time");
    let runs = asked[0].2.clone();
    story.deliver_all(asked[0].1, &runs, 10);
    assert_eq!(story.requests().len(), 1);
}

#[test]
fn silence_is_a_fault_and_the_third_drops() {
    let mut story = Story::plain(100);
    story.join(1, Holdings::All);
    for turn in 1..=3 {
        assert_eq!(story.requests().len(), 2);
        story.pass(19_999);
        assert_eq!(story.actions(), []);
        story.pass(1);
        let actions = story.actions();
        if turn < 3 {
            assert!(
                actions
                    .iter()
                    .all(|action| matches!(action, Action::Cancel { .. }))
            );
            assert_eq!(actions.len(), 2, "silent as a whole: both requests end");
            story.pass(60_000);
        } else {
            let reason = DropReason::Silent;
            let source = SourceId(1);
            assert_eq!(actions, [Action::Drop { source, reason }]);
        }
    }
    assert_eq!(story.scheduler.stall(story.now), Some(Stall::NoSources));
    story.join(1, Holdings::All);
    assert_eq!(story.requests().len(), 2, "a silent one may come back");
}

#[test]
fn progress_moves_the_deadline_and_a_pause_stops_it() {
    let mut story = Story::plain(100);
    story.join(1, Holdings::All);
    let asked = story.requests();
    for piece in 0..4 {
        story.pass(15_000);
        story.deliver(asked[0].1, piece);
    }
    story.scheduler.on_finished(asked[0].1, story.now);
    assert_eq!(
        story.requests().len(),
        1,
        "the second request has its turn only now"
    );
    story.scheduler.set_paused(true, story.now);
    assert_eq!(
        story.scheduler.stall(story.now),
        Some(Stall::WaitingForDisk)
    );
    story.pass(600_000);
    assert_eq!(story.actions(), []);
    story.scheduler.set_paused(false, story.now);
    story.pass(19_999);
    assert_eq!(story.actions(), []);
    story.pass(1);
    assert!(matches!(story.actions()[..], [Action::Cancel { .. }, ..]));
}

#[test]
fn three_broken_claims_drop_a_source() {
    let mut story = Story::plain(100);
    story.join(1, Holdings::All);
    for turn in 1..=3 {
        let (_, request, runs) = story.requests().remove(0);
        story.scheduler.source_lacks(SourceId(1), &runs, story.now);
        story.scheduler.on_finished(request, story.now);
        assert_eq!(story.scheduler.has_source(SourceId(1)), turn < 3);
    }
    let reason = DropReason::Useless;
    let source = SourceId(1);
    assert_eq!(story.actions(), [Action::Drop { source, reason }]);
}

#[test]
fn three_short_responses_in_a_row_drop_a_source() {
    let mut story = Story::plain(100);
    story.join(1, Holdings::All);
    for turn in 1..=3 {
        let (_, request, runs) = story.requests().remove(0);
        story.deliver(request, runs[0].start);
        story.scheduler.on_finished(request, story.now);
        assert_eq!(story.scheduler.has_source(SourceId(1)), turn < 3);
        story.pass(60_000);
        if turn < 3 {
            // The other request hangs; it is not what this is about.
            story
                .scheduler
                .set_paused(true, story.now - Duration::from_millis(60_000));
            story.scheduler.set_paused(false, story.now);
        }
    }
}

#[test]
fn a_broken_connection_is_one_fault_however_many_requests_it_ends() {
    let mut story = Story::plain(100);
    story.join(1, Holdings::All);
    for turn in 1..=3 {
        let asked = story.requests();
        assert_eq!(asked.len(), 2);
        for (_, request, _) in asked {
            story
                .scheduler
                .on_failed(request, Fault::Unreachable, story.now);
        }
        assert_eq!(story.scheduler.has_source(SourceId(1)), turn < 3);
        let pause = story.scheduler.next_deadline(story.now);
        if turn == 1 {
            assert!(pause.is_some_and(|at| at <= story.now + Duration::from_millis(500)));
        }
        story.pass(60_000);
    }
}

#[test]
fn what_others_stored_meanwhile_is_a_duplicate_once() {
    let mut story = Story::plain(4);
    story.join(1, Holdings::All);
    let (_, request, _) = story.requests().remove(0);
    story.scheduler.on_held(2..3, story.now);
    for expected in [Arrival::Duplicate, Arrival::Unasked] {
        let arrival = story.scheduler.on_block(request, 2, LEN, story.now);
        assert_eq!(arrival, expected);
    }
}

#[test]
fn what_a_source_lacks_is_not_asked_of_it_again() {
    let mut story = Story::plain(8);
    story.join(1, Holdings::Unknown);
    let asked = story.requests();
    let lacking = asked[0].2.clone();
    story
        .scheduler
        .source_lacks(SourceId(1), &lacking, story.now);
    story.scheduler.on_finished(asked[0].1, story.now);
    let rest = asked[1].2.clone();
    story.deliver_all(asked[1].1, &rest, 10);
    story.pass(1000);
    assert_eq!(story.requests(), []);
    assert_eq!(
        story.scheduler.stall(story.now),
        Some(Stall::NobodyHas { pieces: 4 })
    );
    story
        .scheduler
        .source_holds(SourceId(1), Holdings::All, story.now);
    assert_eq!(story.scheduler.stall(story.now), None, "a request is due");
    assert_eq!(story.requests().len(), 1);
}

#[test]
fn an_idle_source_takes_the_tail_and_the_victim_is_cancelled() {
    let mut story = Story::plain(8);
    story.join(1, Holdings::All);
    let asked = story.requests();
    assert_eq!((&asked[0].2[0], &asked[1].2[0]), (&(0..4), &(4..8)));
    // A first block after two seconds: 128 KiB/s, eight pieces would take 16 s.
    story.pass(2000);
    story.deliver(asked[0].1, 0);
    story.join(2, Holdings::All);
    let actions = story.actions();
    let stolen: BTreeSet<u32> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Request { source, runs, .. } => {
                assert_eq!(*source, SourceId(2));
                Some(runs.clone())
            }
            _ => None,
        })
        .flatten()
        .flatten()
        .collect();
    assert!(
        [4, 5, 6, 7].iter().all(|piece| stolen.contains(piece)),
        "{actions:?}"
    );
    assert!(
        !stolen.contains(&1),
        "the piece under way stays: {actions:?}"
    );
    let cancel = Action::Cancel {
        source: SourceId(1),
        request: asked[1].1,
    };
    assert!(
        actions.contains(&cancel),
        "nothing of it had begun: {actions:?}"
    );
}

#[test]
fn a_victim_goes_on_alone_when_the_thief_is_gone() {
    let mut story = Story::plain(4);
    story.join(1, Holdings::All);
    let (_, request, _) = story.requests().remove(0);
    story.pass(2000);
    story.deliver(request, 0);
    story.join(2, Holdings::All);
    let stolen = story.requests();
    assert_eq!(stolen[0].2[0], 2..4);
    story.scheduler.remove_source(SourceId(2), story.now);
    for piece in 1..4 {
        story.pass(500);
        story.deliver(request, piece);
    }
    assert_eq!(story.actions(), [Action::Done]);
}

#[test]
fn the_last_piece_is_raced_for_and_the_loser_is_cancelled() {
    let mut story = Story::plain(4);
    story.join(1, Holdings::All);
    let (_, slow, _) = story.requests().remove(0);
    for piece in 0..3 {
        story.pass(2000);
        story.deliver(slow, piece);
    }
    story.join(2, Holdings::Some(set(4, [0, 1, 2])));
    assert_eq!(story.requests(), [], "it does not hold what is left");
    story
        .scheduler
        .source_holds(SourceId(2), Holdings::All, story.now);
    let (source, fast, runs) = story.requests().remove(0);
    assert_eq!((source, &runs[0]), (2, &(3..4)));
    story.join(3, Holdings::All);
    assert_eq!(story.requests(), [], "never a third copy");
    story.deliver(fast, 3);
    let cancel = Action::Cancel {
        source: SourceId(1),
        request: slow,
    };
    assert_eq!(story.actions(), [cancel, Action::Done]);
    let late = story.scheduler.on_block(slow, 3, LEN, story.now);
    assert_eq!(late, Arrival::Unasked);
}

#[test]
fn several_sources_work_in_different_regions() {
    let mut story = Story::plain(100_000);
    for source in 0..8 {
        story.join(source, Holdings::All);
    }
    let mut starts: Vec<u32> = story
        .requests()
        .iter()
        .map(|asked| asked.2[0].start)
        .collect();
    assert_eq!(starts.len(), 16);
    starts.sort_unstable();
    assert_eq!(starts[0], 0, "the first source starts at the start");
    let regions = starts.chunk_by(|a, b| b - a <= 4).count();
    assert!(regions >= 7, "{starts:?}");
}

/// Fetches that know of nobody but one source must not all begin with the same pieces.
#[test]
fn where_a_lone_source_starts_depends_on_the_seed() {
    let starts: BTreeSet<u32> = (0..100)
        .map(|seed| {
            let now = Instant::now();
            let file = Pieces::file(10_000 * LEN, BLOCK).unwrap();
            let have = BlockSet::new(10_000);
            let config = Config::default();
            let mut scheduler = Scheduler::new(config, file, have, seed, now).unwrap();
            scheduler.add_source(SourceId(1), Holdings::All, now);
            loop {
                if let Some(Action::Request { runs, .. }) = scheduler.next_action(now) {
                    return runs[0].start;
                }
            }
        })
        .collect();
    assert!(starts.len() > 90, "{} different starts", starts.len());
}

/// It is sent what another fetch was sent before: it goes on somewhere else.
#[test]
fn a_fetch_that_follows_another_leaves_its_way() {
    let mut story = Story::plain(10_000);
    story.join(1, Holdings::All);
    let asked = story.requests();
    assert_eq!(asked[1].2[0], 4..8);
    story.deliver_all(asked[0].1, &asked[0].2, 10);
    story.join(2, Holdings::Some(set(10_000, 4..6)));
    let next = story.requests();
    let of_first = next.iter().find(|asked| asked.0 == 1).unwrap();
    assert_ne!(of_first.2[0].start, 8, "the other one is on its way there");
}

/// With company, the runs get shorter as what nobody has yet gets less.
#[test]
fn runs_get_shorter_when_others_fetch_the_same() {
    let runs_with = |others: u32| {
        let mut story = Story::plain(400);
        story.join(1, Holdings::All);
        let asked = story.requests();
        story.deliver_all(asked[0].1, &asked[0].2, 1);
        for other in 0..others {
            story.join(2 + other, Holdings::Some(set(400, 100..100)));
        }
        let next = story.requests();
        next[0].2.iter().map(Range::len).sum::<usize>()
    };
    assert_eq!(runs_with(0), 8);
    assert_eq!(runs_with(7), 6, "an eighth of an eighth of 392 free pieces");
}

#[test]
fn silence_of_some_seconds_is_said() {
    let mut story = Story::plain(100);
    assert_eq!(story.scheduler.stall(story.now), Some(Stall::NoSources));
    story.join(1, Holdings::All);
    let asked = story.requests();
    story.pass(4999);
    assert_eq!(story.scheduler.stall(story.now), None);
    story.pass(1);
    assert_eq!(story.scheduler.stall(story.now), Some(Stall::SlowSources));
    assert_eq!(story.scheduler.progress(story.now).state, State::Stalled);
    story.deliver(asked[0].1, 0);
    assert_eq!(story.scheduler.stall(story.now), None);
    assert_eq!(story.scheduler.progress(story.now).state, State::Fetching);
}

#[test]
fn pieces_found_on_the_disk_are_not_fetched() {
    let mut story = Story::plain(12);
    story.join(1, Holdings::All);
    let asked = story.requests();
    assert_eq!((&asked[0].2[0], &asked[1].2[0]), (&(0..4), &(4..8)));
    let arrival = story.scheduler.on_block(asked[0].1, 0, LEN, story.now);
    assert_eq!(arrival, Arrival::Wanted);
    story.scheduler.on_held(0..10, story.now);
    assert_eq!(story.scheduler.progress(story.now).bytes_done, 10 * LEN);
    assert!(
        !story.scheduler.on_stored(asked[0].1, 0, story.now),
        "it was stored already"
    );
    let actions = story.actions();
    let cancels = actions
        .iter()
        .filter(|action| matches!(action, Action::Cancel { .. }));
    assert_eq!(cancels.count(), 2, "{actions:?}");
    let Some(Action::Request { runs, .. }) = actions.last() else {
        panic!("{actions:?}");
    };
    assert_eq!(runs[0], 10..12);
}

#[test]
fn one_response_that_lacks_several_things_is_one_strike() {
    let mut story = Story::plain(100);
    story.join(1, Holdings::All);
    let (_, request, _) = story.requests().remove(0);
    for piece in 0..4 {
        let run = piece..piece + 1;
        let lacking = std::slice::from_ref(&run);
        story
            .scheduler
            .source_lacks(SourceId(1), lacking, story.now);
    }
    story.scheduler.on_finished(request, story.now);
    assert!(story.scheduler.has_source(SourceId(1)));
}

#[test]
fn a_wrong_set_of_held_pieces_is_refused() {
    let pieces = Pieces::file(10 * LEN, BLOCK).unwrap();
    let made = Scheduler::new(
        Config::default(),
        pieces,
        BlockSet::new(9),
        0,
        Instant::now(),
    );
    let error = made.map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        NewError::HaveMismatch {
            have: 9,
            pieces: 10
        }
    );
}

#[test]
fn nothing_to_fetch_is_done_at_once() {
    for (size, have) in [(0, BlockSet::new(0)), (LEN, BlockSet::full(1))] {
        let pieces = Pieces::file(size, BLOCK).unwrap();
        let now = Instant::now();
        let mut scheduler = Scheduler::new(Config::default(), pieces, have, 0, now).unwrap();
        assert_eq!(scheduler.next_action(now), Some(Action::Done));
        assert_eq!(scheduler.next_action(now), None);
        assert_eq!(scheduler.next_deadline(now), None);
        assert_eq!(scheduler.progress(now).state, State::Done);
    }
}

#[test]
fn more_sources_are_looked_for_with_growing_pauses() {
    let mut story = Story::new(10, Config::default());
    let mut found = Vec::new();
    let start = story.now;
    while found.len() < 6 {
        if story.scheduler.next_action(story.now) == Some(Action::FindMore) {
            found.push((story.now - start).as_secs());
        } else {
            story.now = story.scheduler.next_deadline(story.now).unwrap();
        }
    }
    assert_eq!(found, [0, 5, 15, 35, 75, 135]);
    assert_eq!(story.scheduler.progress(story.now).state, State::Searching);
}

#[test]
fn the_rate_is_that_of_the_last_seconds() {
    let mut story = Story::plain(400);
    story.join(1, Holdings::All);
    let mut stored = 0;
    while stored < 200 {
        for (_, request, runs) in story.requests() {
            stored += runs.iter().map(|run| run.len()).sum::<usize>();
            story.deliver_all(request, &runs, 50);
        }
    }
    let rate = story.scheduler.progress(story.now).rate;
    let real = LEN * 20;
    assert!(
        rate > real * 9 / 10 && rate < real * 11 / 10,
        "{rate} instead of {real}"
    );
    story.pass(30_000);
    assert!(story.scheduler.progress(story.now).rate < real / 1000);
}

/// The work of choosing does not grow with the number of pieces times the number of actions.
#[test]
fn a_million_pieces_and_sixty_four_sources_cost_little_work() {
    let pieces = 1 << 20;
    let mut story = Story::plain(pieces);
    for source in 0..64u32 {
        let holdings = if source % 4 == 0 {
            Holdings::All
        } else {
            let mut held = BlockSet::new(pieces);
            for run in 0..64 {
                let start = (source * 7919 + run * 16_411) % pieces;
                held.insert_range(start..(start + 9000).min(pieces));
            }
            Holdings::Some(held)
        };
        story.join(source, holdings);
    }
    let mut queue = std::collections::VecDeque::new();
    let mut actions = 0u64;
    while actions < 10_000 {
        for (_, request, runs) in story.requests() {
            actions += 1;
            queue.push_back((request, runs));
        }
        let (request, runs) = queue.pop_front().unwrap();
        story.pass(10);
        story.deliver_all(request, &runs, 0);
    }
    let work = story.scheduler.work();
    // A scan of the words would take 16,384 for each.
    assert!(work / actions < 1000, "{} words per action", work / actions);
}

/// What strangers and a hurried session can do to a scheduler, in any order.
#[derive(Clone, Debug)]
enum Step {
    Add(u32, u8),
    Holds(u32, u8),
    Lacks(u32, u32, u32),
    Remove(u32),
    Block(u64, u32),
    NextBlock(u64),
    Verdict(u64, bool),
    Discard(u64),
    Stored(u64, u32),
    Held(u32, u32),
    Bad(u64, u32),
    Finished(u64),
    Busy(u64, u32),
    Failed(u64, u8),
    Reader(u32, u32),
    Pause(bool),
    Pass(u32),
    Act(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let source = 0u32..6;
    let request = 0u64..64;
    let piece = 0u32..50;
    prop_oneof![
        2 => (source.clone(), any::<u8>()).prop_map(|(a, b)| Step::Add(a, b)),
        1 => (source.clone(), any::<u8>()).prop_map(|(a, b)| Step::Holds(a, b)),
        1 => (source.clone(), piece.clone(), 0u32..60).prop_map(|(a, b, c)| Step::Lacks(a, b, c)),
        1 => source.prop_map(Step::Remove),
        2 => (request.clone(), piece.clone()).prop_map(|(a, b)| Step::Block(a, b)),
        12 => request.clone().prop_map(Step::NextBlock),
        10 => (request.clone(), prop::bool::weighted(0.97)).prop_map(|(a, b)| Step::Verdict(a, b)),
        1 => request.clone().prop_map(Step::Discard),
        1 => (request.clone(), piece.clone()).prop_map(|(a, b)| Step::Stored(a, b)),
        1 => (piece.clone(), 0u32..60).prop_map(|(a, b)| Step::Held(a, b)),
        1 => (request.clone(), piece).prop_map(|(a, b)| Step::Bad(a, b)),
        3 => request.clone().prop_map(Step::Finished),
        1 => (request.clone(), 0u32..5000).prop_map(|(a, b)| Step::Busy(a, b)),
        1 => (request, any::<u8>()).prop_map(|(a, b)| Step::Failed(a, b)),
        1 => (0u32..60, 0u32..60).prop_map(|(a, b)| Step::Reader(a, b)),
        1 => prop::bool::weighted(0.2).prop_map(Step::Pause),
        4 => (0u32..3000).prop_map(Step::Pass),
        10 => (1u8..6).prop_map(Step::Act),
    ]
}

/// What a stranger could know of the fetch: which request asked whom for what, and what was answered.
#[derive(Default)]
struct Model {
    asked: BTreeMap<RequestId, (SourceId, BTreeSet<u32>)>,
    arrived: BTreeSet<(RequestId, u32)>,
    stored: BTreeSet<u32>,
    banned: BTreeSet<SourceId>,
    done: bool,
}

fn holdings(kind: u8, len: u32) -> Holdings {
    match kind % 4 {
        0 => Holdings::All,
        1 => Holdings::Unknown,
        2 => Holdings::Some(set(len, (0..len).filter(|p| p % 7 <= u32::from(kind) % 7))),
        _ => Holdings::Some(BlockSet::full(len / 2)),
    }
}

impl Model {
    /// Applies one step to both and compares what comes out.
    fn apply(&mut self, story: &mut Story, step: &Step) {
        let len = story.scheduler.pieces().count();
        let now = story.now;
        let scheduler = &mut story.scheduler;
        match *step {
            Step::Add(id, kind) => {
                let added = scheduler.add_source(SourceId(id), holdings(kind, len), now);
                assert_eq!(added, !self.banned.contains(&SourceId(id)));
            }
            Step::Holds(id, kind) => scheduler.source_holds(SourceId(id), holdings(kind, len), now),
            Step::Lacks(id, from, until) => {
                scheduler.source_lacks(SourceId(id), &[from..until, 3..4], now);
            }
            Step::Remove(id) => scheduler.remove_source(SourceId(id), now),
            Step::Block(request, piece) => self.block(story, RequestId(request), piece),
            Step::NextBlock(request) => {
                let request = RequestId(request);
                let next = self
                    .asked
                    .get(&request)
                    .and_then(|(_, asked)| asked.first());
                if let Some(piece) = next.copied() {
                    self.block(story, request, piece);
                }
            }
            Step::Verdict(request, good) => {
                let first = self
                    .arrived
                    .range((RequestId(request), 0)..)
                    .next()
                    .copied();
                if let Some((request, piece)) = first {
                    self.verdict(story, request, piece, good);
                }
            }
            Step::Discard(request) => {
                let first = self
                    .arrived
                    .range((RequestId(request), 0)..)
                    .next()
                    .copied();
                if let Some((request, piece)) = first {
                    self.arrived.remove(&(request, piece));
                    scheduler.on_discarded(request, piece, now);
                }
            }
            Step::Stored(request, piece) => {
                self.verdict(story, RequestId(request), piece, true);
            }
            Step::Held(from, until) => {
                let run = from..until.min(from + 3).min(len);
                scheduler.on_held(run.clone(), now);
                self.arrived.retain(|(_, piece)| !run.contains(piece));
                self.stored.extend(run);
            }
            Step::Bad(request, piece) => self.verdict(story, RequestId(request), piece, false),
            Step::Finished(request) => scheduler.on_finished(RequestId(request), now),
            Step::Busy(request, after) => {
                let after = Duration::from_millis(after.into());
                scheduler.on_busy(RequestId(request), after, now);
            }
            Step::Failed(request, kind) => {
                let faults = [
                    Fault::Unreachable,
                    Fault::Timeout,
                    Fault::Refused,
                    Fault::Protocol,
                ];
                scheduler.on_failed(RequestId(request), faults[usize::from(kind % 4)], now);
            }
            Step::Reader(from, until) => {
                scheduler.set_readers(Some(from..until), from % 2 == 0, now);
            }
            Step::Pause(paused) => scheduler.set_paused(paused, now),
            Step::Pass(millis) => story.pass(millis.into()),
            Step::Act(times) => (0..times).for_each(|_| self.act(story)),
        }
        let progress = story.scheduler.progress(story.now);
        assert_eq!(progress.pieces_done as usize, self.stored.len());
        assert!(
            story
                .scheduler
                .next_deadline(story.now)
                .is_none_or(|at| at > story.now)
        );
        let _ = story.scheduler.stall(story.now);
    }

    fn block(&mut self, story: &mut Story, request: RequestId, piece: u32) {
        let arrival = story.scheduler.on_block(request, piece, LEN, story.now);
        let asked = self.asked.get_mut(&request);
        let was_asked = asked.is_some_and(|(_, asked)| asked.remove(&piece));
        if arrival != Arrival::Unasked {
            assert!(
                was_asked,
                "it took a block that was never asked for, or twice"
            );
        }
        if arrival == Arrival::Wanted {
            assert!(!self.stored.contains(&piece));
            assert!(
                self.arrived.iter().all(|(_, other)| *other != piece),
                "two to be stored"
            );
            self.arrived.insert((request, piece));
        }
    }

    fn verdict(&mut self, story: &mut Story, request: RequestId, piece: u32, good: bool) {
        let due = self.arrived.remove(&(request, piece));
        if good {
            let news = story.scheduler.on_stored(request, piece, story.now);
            assert_eq!(
                news, due,
                "exactly what arrived and awaits its verdict can be stored"
            );
            if due {
                assert!(self.stored.insert(piece), "stored twice");
            }
        } else {
            story.scheduler.on_bad_block(request, piece, story.now);
            if due {
                self.banned.insert(self.asked[&request].0);
            }
        }
    }

    fn act(&mut self, story: &mut Story) {
        let Some(action) = story.scheduler.next_action(story.now) else {
            return;
        };
        assert!(!self.done, "something after Done: {action:?}");
        match action {
            Action::Request {
                source,
                request,
                runs,
            } => {
                assert!(!self.banned.contains(&source), "a liar was asked");
                let pieces: BTreeSet<u32> = runs.into_iter().flatten().collect();
                assert!(pieces.is_disjoint(&self.stored));
                assert!(
                    self.arrived
                        .iter()
                        .all(|(_, piece)| !pieces.contains(piece))
                );
                self.asked.insert(request, (source, pieces));
            }
            Action::Drop { source, reason } => {
                // A drop for something else may be due already when the lie comes out.
                assert!(reason != DropReason::Lied || self.banned.contains(&source));
            }
            Action::Done => {
                self.done = true;
                assert_eq!(self.stored.len(), story.scheduler.pieces().count() as usize);
            }
            Action::Cancel { .. } | Action::FindMore => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// 400 random stories of up to 500 steps: no panic, invariants hold, nothing is stored that was not asked for.
    #[test]
    fn any_order_of_events_is_survived(
        pieces in 1u32..50,
        prove_last in any::<bool>(),
        steps in prop::collection::vec(step(), 1..500),
    ) {
        let config = Config { prove_last, ..Config::default() };
        let mut story = Story::new(pieces, config);
        let mut model = Model::default();
        for step in &steps {
            model.apply(&mut story, step);
        }
    }
}
