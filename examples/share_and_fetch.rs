//! The whole of it in one process: one node shares a file, another fetches it by its id alone, and the two are compared.
//! The id is the BLAKE3 hash of the file, what `b3sum` prints.
//!
//! ```text
//! cargo run -p p2p-examples --example share_and_fetch
//! ```

use std::{fs, path::Path};

use anyhow::ensure;
use futures::StreamExt;
use p2p_core::{Config, Node};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let alice = Node::start(local(&dir.path().join("alice"))?).await?;
    let mut config = local(&dir.path().join("bob"))?;
    // Beyond one process this would be a line in the configuration, a ticket, or multicast on the local network.
    config.network.bootstrap = alice.addresses();
    let bob = Node::start(config).await?;

    let original = dir.path().join("talk.mp4");
    fs::write(&original, sample(20_000_000))?;
    let shared = alice.share(&original).await?;
    println!("alice shares {} ({} bytes)", shared.name, shared.size);
    println!("  id     {}", shared.id);
    println!("  ticket {}", shared.ticket);

    let copy = dir.path().join("copy.mp4");
    let fetch = bob.fetch(shared.id).to(&copy).start().await?;
    let mut progress = fetch.progress();
    let watching = tokio::spawn(async move {
        while let Some(now) = progress.next().await {
            println!("bob: {} {} of {:?} bytes", now.state, now.done, now.size);
        }
    });
    let fetched = fetch.await?;
    watching.await?;
    println!("bob has it after {:?}", fetched.elapsed);
    for source in &fetched.sources {
        println!("  {} bytes from {}", source.bytes, source.peer);
    }

    ensure!(
        fs::read(&original)? == fs::read(&copy)?,
        "the copy differs from the original"
    );
    ensure!(
        fetched.id == shared.id && fetched.size == shared.size,
        "another content was fetched"
    );
    println!("both are the same, bit by bit");

    bob.shutdown().await;
    alice.shutdown().await;
    Ok(())
}

/// A node of this machine only.
fn local(dir: &Path) -> anyhow::Result<Config> {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.network.mdns = false;
    config.network.lan_only = true;
    Ok(config)
}

/// Bytes that do not repeat within a block.
fn sample(len: u32) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}
