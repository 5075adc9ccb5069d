//! Feeds between real nodes over loopback, without a DHT.

use std::{collections::HashSet, path::Path};

use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::{
    Address, Config, DhtMode, PublisherKey,
    content::NodeId,
    node::{command::COMMAND_QUEUE, event::EVENT_QUEUE, naming::Named},
};

const DEADLINE: Duration = Duration::from_secs(40);

fn config(dir: &Path, bootstrap: Vec<Address>) -> Config {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.network.mdns = false;
    config.network.upnp = false;
    config.network.dht = DhtMode::Off;
    config.network.bootstrap = bootstrap;
    config.storage.min_free = 0;
    config
}

async fn node(dir: &Path, others: &[&Node]) -> Node {
    let known = others.iter().flat_map(|other| other.addresses());
    let node = Node::start(config(dir, known.collect())).await.unwrap();
    for other in others {
        node.connect(other.addresses()[0].clone()).await.unwrap();
    }
    node
}

fn id_of(publisher: PublisherKey) -> FeedId {
    FeedId::new(publisher, "news").unwrap()
}

fn content(text: &str) -> ContentId {
    ContentId::of(text.as_bytes())
}

async fn next(values: &mut (impl Stream<Item = Feed> + Unpin)) -> Feed {
    let next = tokio::time::timeout(DEADLINE, values.next()).await;
    next.expect("a value in time").expect("a node that runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_published_resolved_followed_and_served_by_followers() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = node(&dir.path().join("p"), &[]).await;
    let follower = node(&dir.path().join("f"), &[&publisher]).await;
    let id = id_of(publisher.publisher());
    let missing = follower.resolve_feed(&id, Duration::from_secs(2)).await;
    assert!(matches!(missing, Err(FeedError::NotFound { .. })));

    let first = publisher
        .publish_feed("news", content("one"))
        .await
        .unwrap();
    let resolved = follower.resolve_feed(&id, DEADLINE).await.unwrap();
    assert_eq!((resolved, first.id.clone()), (first.clone(), id.clone()));
    let mut values = follower.follow_feed(&id).await.unwrap();
    assert_eq!(next(&mut values).await, first);
    let second = publisher
        .publish_feed("news", content("two"))
        .await
        .unwrap();
    assert!(second.sequence > first.sequence);
    assert_eq!(next(&mut values).await, second);

    // The publisher is gone: who follows tells, also those who come later.
    publisher.shutdown().await;
    let late = node(&dir.path().join("l"), &[&follower]).await;
    assert_eq!(late.resolve_feed(&id, DEADLINE).await.unwrap(), second);
    let mut late_values = late.follow_feed(&id).await.unwrap();
    assert_eq!(next(&mut late_values).await, second);
    assert!(late.unfollow_feed(&id).await.unwrap());
    assert!(!late.unfollow_feed(&id).await.unwrap());
    let feeds = follower.feeds().await.unwrap();
    assert_eq!(feeds.len(), 1);
    assert_eq!((feeds[0].own, feeds[0].followed), (false, true));
    late.shutdown().await;
    follower.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_is_never_older_again_and_following_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (there, here) = (dir.path().join("p"), dir.path().join("f"));
    let publisher = node(&there, &[]).await;
    let follower = node(&here, &[&publisher]).await;
    let id = id_of(publisher.publisher());
    let old = publisher
        .publish_feed("news", content("old"))
        .await
        .unwrap();
    let signed = publisher.store().feed(&id).unwrap().unwrap().value.unwrap();
    let mut values = follower.follow_feed(&id).await.unwrap();
    assert_eq!(next(&mut values).await, old);
    let new = publisher
        .publish_feed("news", content("new"))
        .await
        .unwrap();
    assert_eq!(next(&mut values).await, new);
    drop(values);
    follower.shutdown().await;
    publisher.shutdown().await;

    // Somebody who kept the old value serves it.
    let liar = node(&dir.path().join("liar"), &[]).await;
    let trusted = signed.verify(&id).unwrap();
    liar.store().keep_feed(&trusted, false).unwrap();
    let follower = node(&here, &[&liar]).await;
    assert_eq!(follower.resolve_feed(&id, DEADLINE).await.unwrap(), new);
    let refreshed = follower.refresh_feed(&id, Duration::from_secs(3)).await;
    assert_eq!(refreshed.unwrap(), new);
    // The publisher is back with a newer one, and finds its follower.
    let publisher = node(&there, &[&follower]).await;
    let newest = publisher
        .publish_feed("news", content("newest"))
        .await
        .unwrap();
    assert!(newest.sequence > new.sequence);
    let mut values = follower.follow_feed(&id).await.unwrap();
    while next(&mut values).await != newest {}
    for node in [publisher, follower, liar] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_one_peer_asks_the_next_that_connects_too() {
    let dir = tempfile::tempdir().unwrap();
    let (there, here) = (dir.path().join("p"), dir.path().join("f"));
    let publisher = node(&there, &[]).await;
    let id = id_of(publisher.publisher());
    let old = publisher
        .publish_feed("news", content("old"))
        .await
        .unwrap();
    let signed = publisher.store().feed(&id).unwrap().unwrap().value.unwrap();
    publisher.shutdown().await;
    let follower = node(&here, &[]).await;
    let mut values = follower.follow_feed(&id).await.unwrap();
    // One that has the value, and never gets a newer one.
    let keeper = node(&dir.path().join("k"), &[]).await;
    let trusted = signed.verify(&id).unwrap();
    keeper.store().keep_feed(&trusted, false).unwrap();
    keeper
        .connect(follower.addresses()[0].clone())
        .await
        .unwrap();
    assert_eq!(next(&mut values).await, old);

    let publisher = node(&there, &[]).await;
    let new = publisher
        .publish_feed("news", content("new"))
        .await
        .unwrap();
    publisher
        .connect(follower.addresses()[0].clone())
        .await
        .unwrap();
    assert_eq!(next(&mut values).await, new);
    for node in [publisher, follower, keeper] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_somebody_else_signed_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let liar = node(&dir.path().join("liar"), &[]).await;
    let reader = node(&dir.path().join("r"), &[&liar]).await;
    // Its own feed of that name is not the one that is asked for.
    liar.publish_feed("news", content("lie")).await.unwrap();
    let other = node(&dir.path().join("o"), &[]).await;
    let wanted = id_of(other.publisher());
    let refused = reader.resolve_feed(&wanted, Duration::from_secs(2)).await;
    assert!(matches!(refused, Err(FeedError::NotFound { .. })));
    let bad = liar.publish_feed("a/b", content("lie")).await;
    assert!(matches!(bad, Err(FeedError::Name(_))));
    for node in [liar, reader, other] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_values_that_are_published_at_once_each_is_signed_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = node(dir.path(), &[]).await;
    let contents: Vec<ContentId> = (0..8).map(|n: u32| content(&n.to_string())).collect();
    let publishing = contents
        .iter()
        .map(|content| publisher.publish_feed("news", *content));
    let mut sequences = HashSet::new();
    for (published, content) in join_all(publishing).await.into_iter().zip(&contents) {
        let published = published.unwrap();
        assert_eq!(published.content, *content);
        assert!(sequences.insert(published.sequence), "signed twice");
    }
    publisher.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lags_behind_the_events_has_the_latest_value_still() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = node(dir.path(), &[]).await;
    let id = id_of(publisher.publisher());
    let mut values = publisher.follow_feed(&id).await.unwrap();
    let publish = async |text: &str| publisher.publish_feed("news", content(text)).await.unwrap();
    let lost = publish("one").await;
    let latest = publish("two").await;
    assert!(latest.sequence > lost.sequence);
    for _ in 0..EVENT_QUEUE {
        let other = Event::Unshared { id: content("x") };
        publisher.inner.events.send(other).unwrap();
    }
    // The feed stays as it is: no event of its own says so again.
    assert_eq!(next(&mut values).await, latest);
    let newer = publish("three").await;
    assert_eq!(next(&mut values).await, newer);
    publisher.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_room_is_not_kept_as_followed() {
    let dir = tempfile::tempdir().unwrap();
    let follower = node(dir.path(), &[]).await;
    let feed = |n: usize| FeedId::new(follower.publisher(), format!("feed {n}")).unwrap();
    for number in 0..MAX_FOLLOWED {
        let task = tokio::spawn(std::future::pending::<()>());
        let mut tasks = follower.inner.feeds.tasks.lock().unwrap();
        tasks.insert(feed(number), task);
    }
    let refused = follower.follow_feed(&feed(MAX_FOLLOWED)).await;
    assert!(matches!(refused, Err(FeedError::TooMany)));
    assert_eq!(follower.feeds().await.unwrap(), []);
    // One that is followed is no other, and one that is not any more makes room.
    assert!(follower.follow_feed(&feed(0)).await.is_ok());
    assert!(follower.unfollow_feed(&feed(0)).await.unwrap());
    assert!(follower.follow_feed(&feed(MAX_FOLLOWED)).await.is_ok());
    follower.shutdown().await;
}

fn is_kept_up_with(node: &Node, id: &FeedId) -> bool {
    node.inner.feeds.tasks.lock().unwrap().contains_key(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn following_and_not_following_at_once_ends_as_one_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let follower = node(dir.path(), &[]).await;
    let id = id_of(follower.publisher());
    for round in 0..64 {
        let follows = (0..4).map(|_| async { follower.follow_feed(&id).await.is_ok() });
        let ends = (0..4).map(|_| async { follower.unfollow_feed(&id).await.is_ok() });
        let (follows, ends) = tokio::join!(join_all(follows), join_all(ends));
        assert!(follows.into_iter().chain(ends).all(|is_done| is_done));
        let record = follower.store().feed(&id).unwrap().unwrap();
        let kept_up = is_kept_up_with(&follower, &id);
        assert_eq!(record.followed, kept_up, "round {round}");
    }
    follower.shutdown().await;
}

fn stranger(number: u16) -> NodeId {
    let mut bytes = [&[0, 36, 8, 1, 18, 32][..], &[9; 32]].concat();
    bytes[6..8].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(&bytes).unwrap()
}

/// Names peers as the driver does, all in one go.
fn name(numbers: std::ops::Range<u16>, found: &mpsc::Sender<Named>) {
    for number in numbers {
        let (reply, connected) = oneshot::channel();
        reply.send(Ok(())).unwrap();
        let peer = stranger(number);
        let _ = found.try_send(Named { peer, connected });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_many_connected_peers_those_whom_the_dht_names_are_asked_too() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), &[]).await;
    let (commands, mut wishes) = mpsc::channel(COMMAND_QUEUE);
    let client = FeedClient {
        commands: commands.downgrade(),
        ..node.feed_client()
    };
    let id = id_of(node.publisher());
    let asking = async {
        let told = client.ask_around(&id, DEADLINE).await;
        drop(commands);
        told
    };
    let driver = async {
        let (mut asked, mut dht) = (HashSet::new(), None);
        while let Some(command) = wishes.recv().await {
            match command {
                Command::Search { found, .. } => {
                    name(0..256, &found);
                    dht = Some(found);
                }
                Command::Ask { peer, .. } => {
                    asked.insert(peer);
                    // The DHT takes longer, and ends then.
                    if let Some(found) = dht.take() {
                        name(256..288, &found);
                    }
                }
                _ => {}
            }
        }
        asked
    };
    let (told, asked) = tokio::join!(asking, driver);
    assert_eq!(told.unwrap(), []);
    let all: HashSet<NodeId> = (0..288).map(stranger).collect();
    assert_eq!(asked, all);
    node.shutdown().await;
}
