//! Peers of the local network, as they come and go. There is no server and nothing to configure: nodes find each other by
//! multicast DNS. Start it twice, on one machine or on two of the same network, and each prints the other.
//!
//! ```text
//! cargo run -p p2p-examples --example lan_discovery          # ends after 20 seconds
//! cargo run -p p2p-examples --example lan_discovery -- 60    # or after as many as you say
//! ```

use std::{env, time::Duration};

use anyhow::{Context, bail};
use futures::StreamExt;
use p2p_core::{Config, Event, Node, PeerInfo};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seconds = match env::args().nth(1) {
        Some(text) => text
            .parse()
            .context("the argument is a number of seconds")?,
        None => 20,
    };
    let dir = tempfile::tempdir()?;
    let mut config = Config::default().with_data_dir(dir.path());
    config.network.listen = vec!["/ip4/0.0.0.0/tcp/0".parse()?];
    config.network.lan_only = true;

    let node = Node::start(config).await?;
    println!("this node is {}", node.id());
    for address in node.addresses() {
        println!("  at {address}");
    }

    let mut events = node.events();
    let end = tokio::time::sleep(Duration::from_secs(seconds));
    let watched = async {
        while let Some(event) = events.next().await {
            match event {
                Event::PeerJoined(peer) => println!("+ {}", describe(&peer)),
                Event::PeerLeft(peer) => println!("- {}", describe(&peer)),
                _ => {}
            }
        }
    };
    // The events end only with the node.
    if let futures::future::Either::Left(_) =
        futures::future::select(std::pin::pin!(watched), std::pin::pin!(end)).await
    {
        bail!("the node stopped by itself");
    }
    println!("{} peers at the end", node.status().peers_connected);
    node.shutdown().await;
    Ok(())
}

fn describe(peer: &PeerInfo) -> String {
    let at = peer
        .remote
        .as_ref()
        .map_or_else(|| "?".into(), ToString::to_string);
    let found: Vec<&str> = peer.found.iter().map(|by| by.as_str()).collect();
    format!("{} at {at} (found by {})", peer.peer, found.join(", "))
}
