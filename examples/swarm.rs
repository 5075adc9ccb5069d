//! Eight nodes pass a file along. One has it, behind a slow line of 4 MB/s; the others know only each other and the id.
//! They start at the same time and fetch from whoever has blocks: from the first node, and from those that are still
//! fetching themselves. One after the other the first node would need 28 seconds for them. Printed is who got how much
//! from whom.
//!
//! ```text
//! cargo run -p p2p-examples --example swarm
//! ```

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::ensure;
use futures::future::try_join_all;
use p2p_core::{Config, Fetched, Node, NodeId};

const NODES: usize = 8;
const LEN: u32 = 16_000_000;
/// Bytes a second that the first node sends, to all others together.
const SLOW_LINE: u64 = 4_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..NODES {
        let mut config = local(&dir.path().join(format!("node {number}")))?;
        config.network.bootstrap = nodes.iter().flat_map(Node::addresses).collect();
        if number == 0 {
            config.limits.upload = Some(SLOW_LINE);
            config.limits.lan_exempt = false;
        }
        nodes.push(Node::start(config).await?);
    }
    let names: BTreeMap<NodeId, usize> = nodes.iter().map(Node::id).zip(0..).collect();

    let original = dir.path().join("album.zip");
    fs::write(
        &original,
        (0..LEN)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect::<Vec<u8>>(),
    )?;
    let album = nodes[0].share(&original).await?;
    println!("node 0 shares {} ({} bytes)", album.id, album.size);

    let fetches = nodes.iter().enumerate().skip(1).map(|(number, node)| {
        let target = dir.path().join(format!("album {number}.zip"));
        async move {
            let fetch = node
                .fetch(album.id)
                .to(&target)
                .timeout(Duration::from_secs(20))
                .start()
                .await?;
            anyhow::Ok((number, fetch.await?))
        }
    });
    let fetched = try_join_all(fetches).await?;

    let expected = fs::read(&original)?;
    println!("{:>4} {:>8}  bytes from node …", "node", "seconds");
    for (number, fetched) in &fetched {
        ensure!(
            fs::read(&fetched.path)? == expected,
            "node {number} has something else"
        );
        println!(
            "{number:>4} {:>8.2}  {}",
            fetched.elapsed.as_secs_f64(),
            sources(fetched, &names)
        );
    }
    let all_sources = || fetched.iter().flat_map(|(_, fetched)| &fetched.sources);
    let all: u64 = all_sources().map(|source| source.bytes).sum();
    let seed = nodes[0].id();
    let from_seed: u64 = all_sources()
        .filter(|source| source.peer == seed)
        .map(|source| source.bytes)
        .sum();
    println!("{all} bytes in all: {from_seed} from node 0, the rest from each other");
    ensure!(from_seed < all / 2, "the nodes did not help each other");

    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}

fn sources(fetched: &Fetched, names: &BTreeMap<NodeId, usize>) -> String {
    let mut sources: Vec<(usize, u64)> = fetched
        .sources
        .iter()
        .filter_map(|source| Some((*names.get(&source.peer)?, source.bytes)))
        .collect();
    sources.sort_unstable();
    let texts: Vec<String> = sources
        .iter()
        .map(|(number, bytes)| format!("{number}: {bytes}"))
        .collect();
    texts.join(", ")
}

/// A node of this machine only.
fn local(dir: &Path) -> anyhow::Result<Config> {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.network.mdns = false;
    config.network.lan_only = true;
    Ok(config)
}
