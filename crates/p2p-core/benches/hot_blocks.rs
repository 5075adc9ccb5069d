//! The cache of hot blocks under requests as of many peers, beside other ways to keep blocks: hit rate, what is read from
//! the files, blocks served in a second. Prints one JSON object; `tests/bench/hot_blocks.py` runs it and draws the results.
//!
//!     cargo bench -p p2p-core --bench hot_blocks
//!
//! 32 threads stand for 32 peers that are served. Each asks again and again for the 8 blocks of one of the parts of a
//! content that is ten times the cache; which part, a Zipf distribution says. Then the same with a file of twenty times the
//! cache that one more peer fetches from beginning to end in the middle of it. Three rounds, each beginning with another
//! cache; times are medians, hit rates means.

use std::convert::Infallible;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use p2p_core::BLOCK_LEN;
use p2p_core::bench::cache::{Blocks, Uncached};
use p2p_core::content::{BlockIndex, ContentId, VerifiedBlock};

const BLOCK: u64 = BLOCK_LEN as u64;
/// The cache, in blocks: 64 MiB, about the default.
const CACHE: u64 = 256;
/// The content is so many times the cache.
const TIMES: u64 = 10;
/// The file that is read once is so many times the cache.
const SCAN_TIMES: u64 = 20;
/// Blocks that are asked for together: 2 MiB, a song or a picture.
const PART: u64 = 8;
const PEERS: u64 = 32;
/// Blocks asked for in all by the peers of a run, and points of its course.
const REQUESTS: u64 = 40_000;
const POINTS: u64 = 48;
const ROUNDS: usize = 3;
/// The part of a run in which the file is read once.
const SCAN: (u64, u64) = (20, 28);
const SKEWS: [f64; 3] = [0.9, 1.0, 1.1];

type Key = (ContentId, u32);

/// A way to keep blocks.
enum Keeping {
    /// None.
    Nothing,
    /// moka's, by what was used last, or by its TinyLFU alone. Requests for one block are answered by one read.
    Moka(Cache<Key, VerifiedBlock>),
    /// The cache of the store.
    Ours(Blocks),
}

const NAMES: [&str; 4] = ["p2p-node", "TinyLFU alone", "LRU", "no cache"];

impl Keeping {
    fn named(name: &str) -> Self {
        let moka = |policy| {
            Cache::builder()
                .max_capacity(CACHE * BLOCK)
                .weigher(|_, block: &VerifiedBlock| {
                    u32::try_from(block.bytes().len()).expect("a block is small")
                })
                .eviction_policy(policy)
                .build()
        };
        match name {
            "p2p-node" => Self::Ours(Blocks::new(CACHE * BLOCK)),
            "TinyLFU alone" => Self::Moka(moka(EvictionPolicy::tiny_lfu())),
            "LRU" => Self::Moka(moka(EvictionPolicy::lru())),
            _ => Self::Nothing,
        }
    }

    /// A block, and whether it was not read for this.
    fn block(
        &self,
        id: ContentId,
        index: BlockIndex,
        read: impl Fn() -> VerifiedBlock,
    ) -> (VerifiedBlock, bool) {
        let mut was_read = false;
        let read = || {
            was_read = true;
            read()
        };
        let block = match self {
            Self::Nothing => {
                let mut read = read;
                read()
            }
            Self::Moka(cache) => {
                let block = cache.get_with((id, index.get()), read);
                if was_read {
                    cache.run_pending_tasks();
                }
                block
            }
            Self::Ours(blocks) => {
                let mut read = read;
                let found: Result<_, Infallible> = blocks.block(id, index, || Ok(read()));
                match found {
                    Ok(block) => block,
                    Err(never) => match never {},
                }
            }
        };
        (block, !was_read)
    }
}

/// What came of the requests between two points of a run.
#[derive(Default)]
struct Course {
    asked: AtomicU64,
    found: AtomicU64,
}

/// Draws parts with a probability that falls with the power `skew` of their rank. Their places have nothing to do with that.
struct Zipf {
    sums: Vec<f64>,
    places: Vec<u32>,
}

impl Zipf {
    fn new(parts: u64, skew: f64, random: &mut Random) -> Self {
        let mut sum = 0.0;
        let sums = (1..=parts)
            .map(|rank| {
                sum += (rank as f64).powf(-skew);
                sum
            })
            .collect();
        let mut places: Vec<u32> = (0..u32::try_from(parts).expect("few")).collect();
        for last in (1..places.len()).rev() {
            places.swap(last, random.below(last as u64 + 1) as usize);
        }
        Self { sums, places }
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let all = self.sums.last().copied().unwrap_or_default();
        let point = random.unit() * all;
        let rank = self.sums.partition_point(|sum| *sum <= point);
        self.places[rank.min(self.places.len() - 1)]
    }
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

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The files that are served.
struct Files {
    hot: Uncached,
    huge: Uncached,
}

impl Files {
    fn make(dir: &Path) -> Result<Self, Box<dyn Error>> {
        let share = |name: &str, blocks: u64| {
            let path = dir.join(name);
            write_noise(&path, blocks * BLOCK, name.len() as u64)?;
            Uncached::share(&dir.join(format!("{name}.store")), &path)
        };
        Ok(Self {
            hot: share("hot", TIMES * CACHE)?,
            huge: share("huge-file", SCAN_TIMES * CACHE)?,
        })
    }
}

fn write_noise(path: &Path, len: u64, seed: u64) -> std::io::Result<()> {
    use std::io::Write;
    let mut random = Random(seed);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for _ in 0..len / 8 {
        file.write_all(&random.next().to_le_bytes())?;
    }
    file.flush()
}

/// Serves one block: takes it, and looks at it as whoever sends it would.
fn serve(keeping: &Keeping, file: &Uncached, number: u32) -> bool {
    let index = file.index(number).expect("a block of the file");
    let (block, found) = keeping.block(file.id(), index, || {
        file.read(index).expect("the file is as it was")
    });
    assert_eq!(block.bytes().len(), BLOCK_LEN);
    found
}

/// What came of a run.
struct Outcome {
    seconds: f64,
    read: u64,
    rates: Vec<f64>,
}

/// One run of all peers.
fn run(name: &str, skew: f64, scan: bool, files: &Files) -> Outcome {
    let keeping = Arc::new(Keeping::named(name));
    let mut random = Random(1);
    let zipf = Zipf::new(TIMES * CACHE / PART, skew, &mut random);
    let course: Vec<Course> = (0..POINTS).map(|_| Course::default()).collect();
    let scanned = AtomicU64::new(0);
    let turn = AtomicU64::new(0);
    let parts = REQUESTS / PART;
    let start = Instant::now();
    thread::scope(|scope| {
        for peer in 0..PEERS {
            let (keeping, zipf, course, turn) = (&keeping, &zipf, &course, &turn);
            let mut random = Random(1000 + peer);
            scope.spawn(move || {
                loop {
                    let number = turn.fetch_add(1, Ordering::Relaxed);
                    if number >= parts {
                        return;
                    }
                    let point = &course[(number * POINTS / parts) as usize];
                    let first = zipf.draw(&mut random) * PART as u32;
                    for block in first..first + PART as u32 {
                        let found = serve(keeping, &files.hot, block);
                        point.asked.fetch_add(1, Ordering::Relaxed);
                        point.found.fetch_add(u64::from(found), Ordering::Relaxed);
                    }
                }
            });
        }
        if scan {
            let (keeping, turn, scanned) = (&keeping, &turn, &scanned);
            scope.spawn(move || {
                let blocks = SCAN_TIMES * CACHE;
                for block in 0..blocks {
                    let (from, to) = (parts * SCAN.0 / POINTS, parts * SCAN.1 / POINTS);
                    let due = from + block * (to - from) / blocks;
                    while turn.load(Ordering::Relaxed) < due {
                        thread::sleep(Duration::from_micros(200));
                    }
                    let found = serve(keeping, &files.huge, block as u32);
                    scanned.fetch_add(u64::from(!found), Ordering::Relaxed);
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let rates: Vec<f64> = course
        .iter()
        .map(|point| {
            let (found, asked) = (&point.found, &point.asked);
            found.load(Ordering::Relaxed) as f64 / asked.load(Ordering::Relaxed).max(1) as f64
        })
        .collect();
    let found: u64 = course.iter().map(|p| p.found.load(Ordering::Relaxed)).sum();
    Outcome {
        seconds,
        read: REQUESTS - found + scanned.load(Ordering::Relaxed),
        rates,
    }
}

/// The rounds of one cache in one case as a JSON object.
fn describe(name: &str, skew: f64, scan: bool, mut rounds: Vec<Outcome>) -> String {
    let mean =
        |of: &dyn Fn(&Outcome) -> f64| rounds.iter().map(of).sum::<f64>() / rounds.len() as f64;
    let course: Vec<f64> = (0..POINTS as usize)
        .map(|point| mean(&|round| round.rates[point]))
        .collect();
    // Past the first quarter, when every cache is full.
    let warm = &course[course.len() / 4..];
    let hit_rate = warm.iter().sum::<f64>() / warm.len() as f64;
    let read = mean(&|round| round.read as f64) * BLOCK as f64;
    let served = REQUESTS + if scan { SCAN_TIMES * CACHE } else { 0 };
    rounds.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let seconds = rounds[rounds.len() / 2].seconds;
    let list: Vec<String> = course.iter().map(|rate| format!("{rate:.4}")).collect();
    format!(
        "{{\"keeping\":\"{name}\",\"skew\":{skew},\"scan\":{scan},\"hit_rate\":{hit_rate:.4},\"read_bytes\":{read:.0},\
         \"served_bytes\":{},\"seconds\":{seconds:.3},\"course\":[{}]}}",
        served * BLOCK,
        list.join(",")
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let files = Files::make(dir.path())?;
    let mut runs = Vec::new();
    for skew in SKEWS {
        for scan in [false, true] {
            if scan && skew != 1.0 {
                continue;
            }
            let mut rounds: [Vec<Outcome>; NAMES.len()] = Default::default();
            for round in 0..ROUNDS {
                for turn in 0..NAMES.len() {
                    let which = (round + turn) % NAMES.len();
                    rounds[which].push(run(NAMES[which], skew, scan, &files));
                }
            }
            for (name, rounds) in NAMES.into_iter().zip(rounds) {
                runs.push(describe(name, skew, scan, rounds));
            }
        }
    }
    println!(
        "{{\"cache_bytes\":{},\"content_bytes\":{},\"scan_bytes\":{},\"peers\":{PEERS},\"requests\":{REQUESTS},\"rounds\":{ROUNDS},\
         \"scan\":[{:.4},{:.4}],\"runs\":[\n{}\n]}}",
        CACHE * BLOCK,
        TIMES * CACHE * BLOCK,
        SCAN_TIMES * CACHE * BLOCK,
        SCAN.0 as f64 / POINTS as f64,
        SCAN.1 as f64 / POINTS as f64,
        runs.join(",\n")
    );
    Ok(())
}
