//! Reading here and there in a file that another node has: the time from a seek to the first byte, and what it costs. Two
//! nodes in one process over loopback. Prints a line for each way to read.
//!
//!     cargo bench -p p2p-core --bench seeks

use std::error::Error;
use std::io::{BufWriter, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use p2p_core::{Config, ContentId, Node, Reader};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

const LEN: u64 = 4 << 30;
const SEEKS: usize = 20;
/// What a reader that is on its way reads in order before it goes elsewhere.
const IN_ORDER: usize = 16 << 20;

fn config(dir: &Path) -> Result<Config, Box<dyn Error>> {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.network.mdns = false;
    config.network.upnp = false;
    config.storage.min_free = 0;
    Ok(config)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn write_noise(path: &Path) -> std::io::Result<()> {
    let mut random = Random(1);
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    for _ in 0..LEN / 8 {
        file.write_all(&random.next().to_le_bytes())?;
    }
    file.flush()
}

/// A node that has nothing, connected to the sender.
async fn receiver(dir: &Path, sender: &Node) -> Result<Node, Box<dyn Error>> {
    let node = Node::start(config(dir)?).await?;
    let address = sender.addresses().into_iter().next().ok_or("no address")?;
    node.connect(address).await?;
    Ok(node)
}

/// Seeks to random places and reads a byte; then so many more in order. The times to that byte.
async fn seeks(reader: &mut Reader, in_order: usize) -> Result<Vec<Duration>, Box<dyn Error>> {
    let mut random = Random(2);
    let mut buffer = vec![0; in_order.max(1)];
    let mut times = Vec::new();
    for _ in 0..SEEKS {
        let at = random.next() % (LEN - buffer.len() as u64);
        let start = Instant::now();
        reader.seek(SeekFrom::Start(at)).await?;
        reader.read_exact(&mut buffer[..1]).await?;
        times.push(start.elapsed());
        reader.read_exact(&mut buffer[1..]).await?;
    }
    Ok(times)
}

fn tell(what: &str, mut times: Vec<Duration>, received: Option<u64>) {
    times.sort_unstable();
    let millis = |time: &Duration| time.as_secs_f64() * 1000.0;
    let cost = received.map_or_else(String::new, |bytes| {
        format!(", {:.1} MiB received", bytes as f64 / f64::from(1 << 20))
    });
    println!(
        "{what}: median {:.1} ms, least {:.1}, most {:.1}{cost}",
        (millis(&times[times.len() / 2]) + millis(&times[(times.len() - 1) / 2])) / 2.0,
        millis(&times[0]),
        millis(&times[times.len() - 1]),
    );
}

async fn run(dir: &Path, sender: &Node, id: ContentId) -> Result<(), Box<dyn Error>> {
    let node = receiver(&dir.join("cold"), sender).await?;
    let start = Instant::now();
    let mut reader = node.read(id).await?;
    reader.read_u8().await?;
    println!(
        "from nothing to the first byte: {:.1} ms",
        start.elapsed().as_secs_f64() * 1000.0
    );
    let times = seeks(&mut reader, 0).await?;
    drop(reader);
    while node.status().fetches > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tell(
        "a byte here and there",
        times,
        Some(node.status().down_bytes),
    );
    node.shutdown().await;

    let node = receiver(&dir.join("reading"), sender).await?;
    let mut reader = node.read(id).await?;
    let times = seeks(&mut reader, IN_ORDER).await?;
    drop(reader);
    while node.status().fetches > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tell(
        "16 MiB here and there",
        times,
        Some(node.status().down_bytes),
    );
    node.shutdown().await;

    let node = receiver(&dir.join("fetching"), sender).await?;
    let fetch = node.fetch(id).to(dir.join("copy")).start().await?;
    let mut reader = node.read(id).await?;
    let times = seeks(&mut reader, 0).await?;
    drop((reader, fetch));
    tell(
        "a byte here and there while all of it is fetched",
        times,
        None,
    );
    node.shutdown().await;

    let node = receiver(&dir.join("whole"), sender).await?;
    let start = Instant::now();
    node.fetch(id)
        .to(dir.join("whole copy"))
        .start()
        .await?
        .await?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "all of it fetched: {seconds:.2} s, {:.0} MB/s",
        LEN as f64 / 1e6 / seconds
    );
    node.shutdown().await;

    let node = receiver(&dir.join("through"), sender).await?;
    let mut reader = node.read(id).await?;
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    while reader.read(&mut buffer).await? > 0 {}
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "read from the beginning to the end: {seconds:.2} s, {:.0} MB/s",
        LEN as f64 / 1e6 / seconds
    );
    drop(reader);
    node.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("film");
    write_noise(&path)?;
    let sender = Node::start(config(&dir.path().join("sender"))?).await?;
    let id = sender.share(&path).await?.id;
    run(dir.path(), &sender, id).await?;
    sender.shutdown().await;
    Ok(())
}
