//! Two nodes that write nothing to any disk: one shares bytes that it has in memory, the other fetches and reads them.
//! For services that pass data on, for tests, and where there is no disk to write to.
//!
//! ```text
//! cargo run -p p2p-examples --example memory_node
//! ```

use anyhow::ensure;
use p2p_core::{Config, Node};
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Keys are made for the run; `Config::with_keys` takes those that a program keeps elsewhere.
    let alice = Node::start(local()?).await?;
    let mut config = local()?;
    // The quota is what content may take of the memory.
    config.storage.quota = 64_000_000;
    config.network.bootstrap = alice.addresses();
    let bob = Node::start(config).await?;

    let report = sample(5_000_000);
    let shared = alice.share_bytes("report.bin", report.clone()).await?;
    println!("alice shares {} ({} bytes)", shared.name, shared.size);
    println!("  id {}", shared.id);

    // Nothing is fetched before it is read; `bob.fetch(id)` would bring all of it at once.
    let mut reader = bob.read(shared.id).await?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await?;
    ensure!(bytes == report, "bob has read something else");
    println!("bob has read {} bytes, the same", bytes.len());

    let fetched = bob.fetch(shared.id).start().await?.await?;
    let used = bob.status().storage;
    println!(
        "bob keeps {} bytes, in {} of memory",
        fetched.size,
        used.total()
    );

    let refused = bob.fetch(shared.id).to("report.bin").start().await;
    ensure!(refused.is_err(), "bob has a disk after all");

    bob.shutdown().await;
    alice.shutdown().await;
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

/// Bytes that do not repeat within a block.
fn sample(len: u32) -> Vec<u8> {
    (0..len)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}
