//! Reading content that is here in part or not at all, by nodes in one process and by processes.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use p2p_core::{BLOCK_LEN, Config, ContentId, Node, Reader};
use p2p_tests::{LARGE_DEADLINE, Sandbox, files, wait_until};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

const BLOCK: u64 = BLOCK_LEN as u64;

/// No read of these tests takes as long on a slow machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn config(dir: &Path) -> Config {
    let mut config = Config::default().with_data_dir(dir);
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.network.mdns = false;
    config.network.upnp = false;
    config.storage.min_free = 0;
    config
}

/// A node that has a file, and one that has nothing and is connected to it.
struct Pair {
    sandbox: Sandbox,
    sender: Node,
    receiver: Node,
    path: PathBuf,
    id: ContentId,
}

impl Pair {
    async fn start(len: u64, limit: Option<u64>) -> Self {
        let sandbox = Sandbox::new();
        let path = sandbox.noise("film", len, 1);
        let mut sending = config(&sandbox.path("sender"));
        if let Some(limit) = limit {
            sending.limits.upload = Some(limit);
            sending.limits.lan_exempt = false;
        }
        let sender = Node::start(sending).await.unwrap();
        let receiver = Node::start(config(&sandbox.path("receiver")))
            .await
            .unwrap();
        let address = sender.addresses().into_iter().next().unwrap();
        receiver.connect(address).await.unwrap();
        let id = sender.share(&path).await.unwrap().id;
        Self {
            sandbox,
            sender,
            receiver,
            path,
            id,
        }
    }

    async fn reader(&self) -> Reader {
        let reading = self.receiver.read(self.id);
        in_time(reading).await.unwrap()
    }

    async fn stop(self) {
        self.receiver.shutdown().await;
        self.sender.shutdown().await;
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

impl Pair {
    /// Bytes of content that have come, once nothing is on its way any more.
    fn received(&self) -> u64 {
        let quiet = || self.sender.status().uploads == 0;
        wait_until("the sender to be done", Instant::now() + DEADLINE, quiet);
        self.receiver.status().down_bytes
    }
}

async fn read_at(reader: &mut Reader, at: u64, len: usize) -> Vec<u8> {
    let mut got = vec![0; len];
    in_time(async {
        reader.seek(SeekFrom::Start(at)).await.unwrap();
        reader.read_exact(&mut got).await.unwrap();
    })
    .await;
    got
}

/// A generator of its own, so that a failing run can be had again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Whatever is read, sought and held, the bytes are those of the file.
#[tokio::test(flavor = "multi_thread")]
async fn random_reads_are_those_of_a_plain_vector() {
    const LEN: u64 = 40 * BLOCK + 12_345;
    let seed = std::env::var("P2P_TESTS_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().subsec_nanos().into()
    });
    p2p_tests::tell(&format!("P2P_TESTS_SEED={seed}"));
    let mut random = Random(seed);
    let pair = Pair::start(LEN, None).await;
    let plain = std::fs::read(&pair.path).unwrap();
    // Some of it is here already, of an earlier reader.
    let mut earlier = pair.reader().await;
    let at = random.below(LEN - BLOCK);
    assert_eq!(
        read_at(&mut earlier, at, 5).await,
        plain[at as usize..][..5]
    );
    drop(earlier);
    let mut readers = vec![pair.reader().await, pair.reader().await];
    let mut places = vec![0_u64; readers.len()];
    for _ in 0..200 {
        let which = random.below(2) as usize;
        let (reader, place) = (&mut readers[which], &mut places[which]);
        match random.below(5) {
            0 => {
                *place = random.below(LEN + BLOCK);
                let at = reader.seek(SeekFrom::Start(*place)).await.unwrap();
                assert_eq!(at, *place);
            }
            1 => {
                let back = random.below(LEN) as i64;
                *place = LEN - back as u64;
                let at = reader.seek(SeekFrom::End(-back)).await.unwrap();
                assert_eq!(at, *place);
            }
            2 => {
                let by = random.below(BLOCK) as i64 - 1000;
                let moved = reader.seek(SeekFrom::Current(by)).await;
                match place.checked_add_signed(by) {
                    Some(expected) => {
                        *place = expected;
                        assert_eq!(moved.unwrap(), expected);
                    }
                    None => assert!(moved.is_err()),
                }
            }
            _ => {
                let mut buffer = vec![0; 1 + random.below(600_000) as usize];
                let count = in_time(reader.read(&mut buffer)).await.unwrap();
                let rest = plain.get(*place as usize..).unwrap_or_default();
                assert_eq!(count == 0, rest.is_empty(), "nothing at {place}");
                assert!(buffer[..count] == rest[..count], "other bytes at {place}");
                *place += count as u64;
            }
        }
    }
    // To the end, in order.
    let mut all = Vec::new();
    in_time(async {
        readers[0].seek(SeekFrom::Start(0)).await.unwrap();
        readers[0].read_to_end(&mut all).await.unwrap();
    })
    .await;
    assert!(all == plain);
    drop(readers);
    pair.stop().await;
}

/// What is not read is not fetched, whether the reader stays or goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_costs_what_it_reads() {
    const LEN: u64 = 256 << 20;
    let pair = Pair::start(LEN, None).await;
    let mut reader = pair.reader().await;
    let got = read_at(&mut reader, 100 << 20, 1 << 20).await;
    let expected = files::read_part(&pair.path, 100 << 20, 1 << 20);
    assert!(got == expected);
    // What was read, as much ahead, a block on either side, and the last block.
    let most = (2 << 20) + 3 * BLOCK;
    let cost = pair.received();
    assert!(cost <= most, "{cost} bytes came, for 1 MiB");
    // It goes on from where it is, and elsewhere.
    let got = read_at(&mut reader, 10 << 20, 1000).await;
    assert!(got == files::read_part(&pair.path, 10 << 20, 1000));
    drop(reader);
    let over = || pair.receiver.status().fetches == 0;
    wait_until("its fetch to end", Instant::now() + DEADLINE, over);
    // With what was ahead at either place, and what was in the line when it was cancelled: a window of 4 MiB.
    let cost = pair.received();
    assert!(cost <= 8 << 20, "{cost} bytes came, for 1 MiB and 1 kB");
    pair.stop().await;
}

/// One line of 20 MB/s for four readers of one content: each goes on.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_readers_of_one_content_none_starves() {
    const LEN: u64 = 128 << 20;
    const PART: usize = 2 << 20;
    let pair = Pair::start(LEN, Some(20_000_000)).await;
    let mut reading = tokio::task::JoinSet::new();
    for number in 0..4_u64 {
        let mut reader = pair.reader().await;
        let at = number * (LEN / 4) + 1000;
        let expected = files::read_part(&pair.path, at, PART);
        reading.spawn(async move {
            assert!(read_at(&mut reader, at, PART).await == expected);
        });
    }
    in_time(reading.join_all()).await;
    let cost = pair.received();
    assert!(cost < LEN / 2, "{cost} bytes came, for 8 MiB");
    pair.stop().await;
}

/// Whoever fetches all of it does not wait for those who read a little of it, and these read on.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_and_readers_of_the_same_share_it() {
    const LEN: u64 = 64 << 20;
    let pair = Pair::start(LEN, Some(40_000_000)).await;
    let mut before = pair.reader().await;
    read_at(&mut before, 0, 10).await;
    let target = pair.sandbox.path("copy");
    let fetch = pair
        .receiver
        .fetch(pair.id)
        .to(&target)
        .start()
        .await
        .unwrap();
    let mut during = pair.reader().await;
    let at = LEN - 2 * BLOCK;
    let got = read_at(&mut during, at, 1000).await;
    assert!(got == files::read_part(&pair.path, at, 1000));
    in_time(async { fetch.await.unwrap() }).await;
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&pair.path).unwrap());
    // The files were moved meanwhile.
    for reader in [&mut before, &mut during] {
        let got = read_at(reader, LEN / 2, 1000).await;
        assert!(got == files::read_part(&pair.path, LEN / 2, 1000));
    }
    pair.stop().await;
}

/// What was read is not fetched again when all of it is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_takes_over_what_was_read() {
    const LEN: u64 = 64 << 20;
    const READ: usize = 32 << 20;
    let pair = Pair::start(LEN, None).await;
    let mut reader = pair.reader().await;
    let got = read_at(&mut reader, 1 << 20, READ).await;
    assert!(got == files::read_part(&pair.path, 1 << 20, READ));
    drop(reader);
    let over = || pair.receiver.status().fetches == 0;
    wait_until("its fetch to end", Instant::now() + DEADLINE, over);
    let target = pair.sandbox.path("copy");
    let fetch = pair.receiver.fetch(pair.id).to(&target);
    in_time(async { fetch.start().await.unwrap().await.unwrap() }).await;
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&pair.path).unwrap());
    let cost = pair.received();
    assert!(cost < LEN + LEN / 8, "{cost} bytes came");
    pair.stop().await;
}

/// A reader that joined a fetch goes on when that is cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_outlives_the_fetch_it_joined() {
    const LEN: u64 = 64 << 20;
    let pair = Pair::start(LEN, Some(10_000_000)).await;
    let target = pair.sandbox.path("copy");
    let fetch = pair
        .receiver
        .fetch(pair.id)
        .to(&target)
        .start()
        .await
        .unwrap();
    let mut reader = pair.reader().await;
    read_at(&mut reader, LEN / 2, 10).await;
    drop(fetch);
    for at in [LEN / 4, LEN - BLOCK, 0] {
        let got = read_at(&mut reader, at, 1000).await;
        assert!(got == files::read_part(&pair.path, at, 1000), "at {at}");
    }
    pair.stop().await;
}

/// `cat --range` of a daemon, as seen by the daemon that sends.
#[test]
fn a_range_costs_its_blocks() {
    let sandbox = Sandbox::new();
    let film = sandbox.noise("film", 512 << 20, 1);
    let mut sender = sandbox.home("sender").share(&film).start();
    let shared = sender.shared_within(LARGE_DEADLINE);
    let id = shared["id"].as_str().unwrap();
    let receiver = sandbox.home("receiver").bootstrap([&sender]).start();
    receiver.wait_connected([&sender]);
    let (first, last) = (300_000_000, 301_048_575);
    let range = format!("{first}-{last}");
    let ran = receiver.run(["cat", id, "--range", &range]);
    assert!(ran.expect_code(0).bytes() == files::read_part(&film, first, 1 << 20));
    // Five blocks at most hold 1 MiB, and the last one proves the size.
    let sent = || {
        let status = sender.run(["status"]);
        status.expect_code(0).only("status")["up_bytes"]
            .as_u64()
            .unwrap()
    };
    let deadline = Instant::now() + DEADLINE;
    wait_until("what was sent to be counted", deadline, || {
        sent() >= 5 * BLOCK
    });
    assert!(sent() <= 6 * BLOCK, "{} bytes were sent", sent());
    let status = receiver.run(["status"]);
    let came = status.expect_code(0).only("status")["down_bytes"].as_u64();
    assert!(came <= Some(6 * BLOCK), "{came:?} bytes came");
}
