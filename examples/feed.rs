//! A feed: the same link, new content. One node publishes, another follows and fetches each value.
//!
//! ```text
//! cargo run -p p2p-examples --example feed
//! ```

use anyhow::{Context, ensure};
use futures::StreamExt;
use p2p_core::{Config, FeedId, Node};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let publisher = Node::start(local()?).await?;
    let mut config = local()?;
    config.network.bootstrap = publisher.addresses();
    let follower = Node::start(config).await?;

    // The link: whose feed, and which. It never changes.
    let link = FeedId::new(publisher.publisher(), "forecast")?;
    println!("link  {link}");
    let mut values = follower.follow_feed(&link).await?;

    for text in ["sun", "rain in the evening", "sun again"] {
        let shared = publisher
            .share_bytes("forecast.txt", text.as_bytes())
            .await?;
        publisher.publish_feed("forecast", shared.id).await?;
        // Whoever follows hears of it, and fetches what the link stands for now.
        let value = values.next().await.context("the node has stopped")?;
        ensure!(value.content == shared.id, "another value than the last");
        follower.fetch(value.content).start().await?.await?;
        println!(
            "value {}  sequence {}  {text:?}",
            value.content, value.sequence
        );
    }

    // Who follows also serves: the link works without the publisher.
    publisher.shutdown().await;
    let mut config = local()?;
    config.network.bootstrap = follower.addresses();
    let late = Node::start(config).await?;
    let value = late
        .resolve_feed(&link, std::time::Duration::from_secs(20))
        .await?;
    println!("late  {}  sequence {}", value.content, value.sequence);

    late.shutdown().await;
    follower.shutdown().await;
    Ok(())
}

/// A node of this machine only, in memory only.
fn local() -> anyhow::Result<Config> {
    let mut config = Config::default().in_memory();
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.network.mdns = false;
    config.network.lan_only = true;
    Ok(config)
}
