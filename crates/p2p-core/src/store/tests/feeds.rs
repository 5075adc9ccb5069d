//! Feeds are kept up to a limit, whoever comes at once.

use std::thread;

use super::*;
use crate::content::{ContentId, FeedId, SignedFeed};
use crate::store::feeds::MAX_FEEDS;

in_memory_too!(the_limit_holds_for_those_that_come_at_once);

fn secret() -> PublisherSecret {
    PublisherSecret::from_bytes([7; 32])
}

fn feed(number: usize) -> FeedId {
    FeedId::new(secret().public(), format!("feed {number}")).unwrap()
}

#[test]
fn the_limit_holds_for_those_that_come_at_once() {
    let bench = Bench::new();
    let store = bench.open();
    for number in 0..MAX_FEEDS - 2 {
        store.follow_feed(&feed(number), true).unwrap();
    }
    store.follow_feed(&feed(MAX_FEEDS), false).unwrap();
    let come = |numbers: std::ops::Range<usize>| {
        thread::scope(|scope| {
            let comers = numbers.map(|number| {
                scope.spawn({
                    let store = &store;
                    move || (number, store.follow_feed(&feed(number), true))
                })
            });
            let comers: Vec<_> = comers.collect();
            let ends = comers.into_iter().map(|comer| comer.join().unwrap());
            ends.collect::<Vec<_>>()
        })
    };
    // A free place, and that of the one that nobody follows. Or somebody follows that one meanwhile.
    let ends = come(MAX_FEEDS..MAX_FEEDS + 8);
    let let_in: Vec<_> = ends.iter().filter(|(_, end)| end.is_ok()).collect();
    assert_eq!(let_in.len(), 2);
    for (_, end) in &ends {
        assert!(matches!(end, Ok(_) | Err(StoreError::TooManyFeeds)));
    }
    assert_eq!(store.feeds().unwrap().len(), MAX_FEEDS);
    for (number, _) in let_in {
        let kept = store.feed(&feed(*number)).unwrap();
        assert!(kept.is_some_and(|record| record.followed), "{number}");
    }
}

#[test]
fn of_two_values_with_one_sequence_the_first_stays() {
    let bench = Bench::new();
    let store = bench.open();
    let value = |sequence, content: &[u8]| {
        let signed = SignedFeed::sign("feed 1", sequence, ContentId::of(content), 0, &secret());
        signed.unwrap().verify(&feed(1)).unwrap()
    };
    let kept = |sequence, content: &[u8]| {
        let (record, is_news) = store.keep_feed(&value(sequence, content), false).unwrap();
        (record.value.unwrap().claims().content, is_news)
    };
    assert_eq!(kept(1, b"one"), (ContentId::of(b"one"), true));
    assert_eq!(kept(1, b"other"), (ContentId::of(b"one"), false));
    assert_eq!(kept(2, b"two"), (ContentId::of(b"two"), true));
    assert_eq!(kept(1, b"one"), (ContentId::of(b"two"), false));
}
