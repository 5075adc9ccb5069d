//! Several nodes in one process over loopback.

use std::{path::Path, time::Duration};

use futures::StreamExt;
use p2p_core::{Address, Config, Node};

fn config(dir: &Path) -> Config {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.network.mdns = false;
    config.network.upnp = false;
    config
}

async fn node(dir: &Path, bootstrap: &[Address]) -> Node {
    let mut config = config(dir);
    config.network.bootstrap = bootstrap.to_vec();
    Node::start(config).await.unwrap()
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_from_one_node_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .try_init();
    let a = node(&dir.path().join("a"), &[]).await;
    let b = node(&dir.path().join("b"), &a.addresses()).await;
    for len in [0, 1, 262_143, 262_144, 262_145, 5_000_000] {
        let data = bytes(len, len as u64);
        let path = dir.path().join(format!("file {len}"));
        std::fs::write(&path, &data).unwrap();
        let shared = a.share(&path).await.unwrap();
        assert_eq!(
            shared.id.to_string(),
            blake3::hash(&data).to_hex().to_string()
        );
        let target = dir.path().join(format!("copy {len}"));
        let fetch = b
            .fetch(shared.id)
            .to(&target)
            .timeout(Duration::from_secs(60))
            .start()
            .await
            .unwrap();
        let fetched = fetch.await.unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), data);
        assert_eq!(fetched.size, len as u64);
        eprintln!("{len}: {:?}", fetched.elapsed);
    }
    b.shutdown().await;
    a.shutdown().await;
}

/// The sharer is not there when the fetch begins, and goes away in its middle; nobody else could tell of it.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_named_is_tried_again_until_the_time_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let data = bytes(8_000_000, 9);
    let path = dir.path().join("file");
    std::fs::write(&path, &data).unwrap();
    let fetcher = node(&dir.path().join("fetcher"), &[]).await;
    let mut config = config(&dir.path().join("sharer"));
    config.limits.upload = Some(2_000_000);
    config.limits.lan_exempt = false;
    let sharer = Node::start(config.clone()).await.unwrap();
    let id = sharer.share(&path).await.unwrap().id;
    let ticket = sharer.ticket(id).await.unwrap();
    config.network.listen = vec![sharer.addresses()[0].without_node()];
    sharer.shutdown().await;

    let target = dir.path().join("copy");
    let fetch = fetcher.fetch(ticket).to(&target);
    let fetch = fetch.timeout(Duration::from_secs(60)).start().await;
    let fetch = fetch.unwrap();
    let (mut progress, mut done) = (fetch.progress(), 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..2 {
        let sharer = Node::start(config.clone()).await.unwrap();
        let enough = done + 2_000_000;
        while done < enough {
            done = progress.next().await.expect("it goes on").done;
        }
        sharer.shutdown().await;
        assert!(!target.exists());
    }
    config.limits.upload = None;
    let sharer = Node::start(config).await.unwrap();
    fetch.await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), data);
    sharer.shutdown().await;
    fetcher.shutdown().await;
}
