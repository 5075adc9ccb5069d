//! Peers of the local network, as they come and go. There is no server and nothing to configure: nodes find each other by
//! multicast DNS. Start it twice, on one machine or on two of the same network, and each prints the other.
//!
//! ```text
//! cargo run -p p2p-examples --example lan_discovery          # ends after 20 seconds
//! cargo run -p p2p-examples --example lan_discovery -- 60    # or after as many as you say
//! ```

use std::{collections::BTreeSet, env, time::Duration};

use anyhow::{Context, ensure};
use futures::StreamExt;
use p2p_core::{Config, DhtMode, Event, Node, PeerInfo, PeerState};

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
    config.network.upnp = false;
    config.network.dht = DhtMode::Off;

    let node = Node::start(config).await?;
    println!("this node is {}", node.id());
    for address in node.addresses() {
        println!("  at {address}");
    }

    let mut events = node.events();
    // Who came before the events were listened to is in the table already.
    let mut here = BTreeSet::new();
    let early = node
        .peers()
        .into_iter()
        .filter(|peer| peer.state == PeerState::Connected);
    for peer in early {
        here.insert(peer.peer);
        println!("+ {}", describe(&peer));
    }
    let watched = async {
        while let Some(event) = events.next().await {
            match event {
                Event::PeerJoined(peer) if here.insert(peer.peer) => {
                    println!("+ {}", describe(&peer))
                }
                Event::PeerLeft(peer) if here.remove(&peer.peer) => println!("- {}", peer.peer),
                _ => {}
            }
        }
    };
    // The events end only with the node, so this is how the example ends.
    let time_is_up = tokio::time::timeout(Duration::from_secs(seconds), watched)
        .await
        .is_err();
    ensure!(time_is_up, "the node stopped by itself");
    println!("after {seconds} s there are {} others here", here.len());
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
