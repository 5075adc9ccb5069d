//! Reading in the middle of content that another node has. A `Reader` is an `AsyncRead` and `AsyncSeek`: where it stands
//! is what is fetched first, and only verified bytes come out. This is how a player skips to the end of a film.
//!
//! ```text
//! cargo run -p p2p-examples --example stream_range
//! ```

use std::{
    fs,
    io::SeekFrom,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use p2p_core::{Config, Node};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

const LEN: u32 = 64_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let holder = Node::start(local(&dir.path().join("holder"))?).await?;
    let mut config = local(&dir.path().join("reader"))?;
    config.network.bootstrap = holder.addresses();
    let node = Node::start(config).await?;

    let path = dir.path().join("film.mkv");
    fs::write(&path, sample(0..LEN))?;
    let film = holder.share(&path).await?;
    println!("{} bytes are with {}", film.size, holder.id());

    let began = Instant::now();
    let mut reader = tokio::time::timeout(Duration::from_secs(20), node.read(film.id)).await??;
    ensure!(reader.size() == film.size, "the size is wrong");
    for start in [LEN - 1_000, 30_000_000, 0, 45_123_456] {
        let at = reader.seek(SeekFrom::Start(start.into())).await?;
        let mut bytes = vec![0; 1_000];
        reader.read_exact(&mut bytes).await?;
        ensure!(
            bytes == sample(start..start + 1_000),
            "the bytes at {at} are wrong"
        );
        println!("1000 bytes at {at:>8} after {:?}", began.elapsed());
    }
    let here = node
        .contents()
        .await?
        .into_iter()
        .find(|content| content.id == film.id);
    if let Some(here) = here {
        println!("{} of {} blocks are here by now", here.held, here.blocks);
    }

    drop(reader);
    node.shutdown().await;
    holder.shutdown().await;
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

/// The bytes of the film at these places.
fn sample(at: std::ops::Range<u32>) -> Vec<u8> {
    at.map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}
