//! Feeds between real nodes over loopback, without a DHT.

use std::path::Path;

use super::*;
use crate::{Address, Config, DhtMode, PublisherKey};

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
