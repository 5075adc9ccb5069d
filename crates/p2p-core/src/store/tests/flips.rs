//! Damage to any byte of any file of the store.
//!
//! One byte is changed at a time, so that nothing but the byte shows it. The store must open; serve nothing but the
//! right bytes, and all that was not hit; and serve everything again once what was hit is brought back. Bytes and
//! masks come from a seed. `P2P_TESTS_FLIPS` sets how many.

use std::fs;
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;

/// Flips of a usual run, on all threads together.
const FLIPS: u64 = 2_000;
const THREADS: u64 = 2;
const SEED: u64 = 4;
/// Blocks of the partial file that are there.
const HELD: u32 = 3;

/// A file of the store as it was.
struct Kept {
    path: PathBuf,
    bytes: Vec<u8>,
    modified: SystemTime,
    hit: Hit,
}

/// What the damage is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hit {
    Index,
    Object(usize),
    Part,
}

/// A small store with some of everything.
struct Victim {
    bench: Bench,
    /// Shared in place, and downloaded: the store only reads them.
    files: Vec<(PathBuf, Remote)>,
    objects: Vec<Remote>,
    partial: Remote,
    kept: Vec<Kept>,
}

impl Kept {
    fn of(path: PathBuf, hit: Hit) -> Self {
        Self {
            bytes: fs::read(&path).unwrap(),
            modified: fs::metadata(&path).unwrap().modified().unwrap(),
            path,
            hit,
        }
    }

    /// Changes a byte and leaves the time as it was.
    fn flip(&self, at: usize, mask: u8) {
        let file = fs::File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(&[self.bytes[at] ^ mask], at as u64)
            .unwrap();
        file.set_modified(self.modified).unwrap();
    }

    fn restore(&self) {
        fs::write(&self.path, &self.bytes).unwrap();
        let file = fs::File::options().write(true).open(&self.path).unwrap();
        file.set_modified(self.modified).unwrap();
    }
}

impl Victim {
    fn new() -> Self {
        // In memory where there is such a folder: this is about what is read, not about the disk.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        let bench = Bench::in_folder(dir.unwrap());
        let objects = vec![Remote::new(BLOCK + 10, 1), Remote::new(500, 2)];
        let partial = Remote::new(4 * BLOCK + 9, 3);
        let mut files = Vec::new();
        {
            let store = bench.open();
            for remote in &objects {
                store.put_object(&remote.bytes).unwrap();
            }
            for (name, len, seed) in [("here", BLOCK + 1, 4), ("here too", 300, 5)] {
                let remote = Remote::new(len, seed);
                let path = bench.file(name, &remote.bytes);
                import(&store, &path);
                files.push((path, remote));
            }
            let remote = Remote::new(2 * BLOCK, 6);
            let part = PartFile::at(bench.path("done.part"));
            let content = remote.fetch(&store, &part);
            let path = bench.path("done");
            let done = store.finish(&content, &part, &path, Existing::Refuse);
            files.push((done.unwrap(), remote));
            let part = PartFile::at(bench.path("out.part"));
            let content = store.begin(partial.id, partial.geometry(), &part).unwrap();
            partial.give_outline(&content);
            content.write(partial.blocks(0..HELD)).unwrap();
            content.checkpoint().unwrap();
        }
        let mut kept = vec![
            Kept::of(bench.path("store/index.redb"), Hit::Index),
            Kept::of(bench.path("out.part"), Hit::Part),
        ];
        for (number, remote) in objects.iter().enumerate() {
            let name = remote.id.to_string();
            let path = bench.path(&format!("store/objects/{}/{name}", &name[..2]));
            kept.push(Kept::of(path, Hit::Object(number)));
        }
        Self {
            bench,
            files,
            objects,
            partial,
            kept,
        }
    }

    fn restore(&self) {
        for kept in &self.kept {
            kept.restore();
        }
        for name in ["store/index.redb.damaged", "store/index.redb.suspect"] {
            let _ = fs::remove_file(self.bench.path(name));
        }
    }

    /// The blocks that are served, each as it should be.
    fn served(&self, store: &Store, remote: &Remote) -> Vec<u32> {
        // What cannot be read in the index is not served.
        let Ok(Some(content)) = store.content(remote.id) else {
            return Vec::new();
        };
        let mut served = Vec::new();
        for number in 0..remote.geometry().blocks() {
            // The size is what the index says.
            let Some(index) = content.geometry().block(number) else {
                continue;
            };
            if let Ok(block) = content.block(index) {
                assert_eq!(
                    block,
                    remote.block(number),
                    "a wrong block of {}",
                    remote.id
                );
                served.push(number);
            }
        }
        served
    }

    fn is_served(&self, store: &Store, remote: &Remote) -> bool {
        self.served(store, remote).len() == remote.geometry().blocks() as usize
    }

    /// What was not hit is there; of what was, no more is missing than what was hit.
    fn check(&self, store: &Store, hit: Hit) {
        for (number, remote) in self.objects.iter().enumerate() {
            let served = self.served(store, remote).len() as u32;
            let lost = remote.geometry().blocks() - served;
            match hit {
                Hit::Index => {}
                Hit::Object(other) if other == number => assert!(lost >= 1),
                _ => assert_eq!(lost, 0, "object {number}"),
            }
        }
        let held = self.served(store, &self.partial);
        match hit {
            Hit::Index => {}
            Hit::Part => assert!(held.len() + 1 >= HELD as usize, "{held:?}"),
            Hit::Object(_) => assert_eq!(held, [0, 1, 2]),
        }
        for (path, remote) in &self.files {
            assert!(hit == Hit::Index || self.is_served(store, remote));
            assert_eq!(fs::read(path).unwrap(), remote.bytes, "a file was touched");
        }
    }

    /// All is served again when it is brought back, as a user would.
    fn mend(&self, store: &Store) {
        for remote in &self.objects {
            assert_eq!(store.put_object(&remote.bytes).unwrap(), remote.id);
            assert!(self.is_served(store, remote), "object {}", remote.id);
        }
        for (path, remote) in &self.files {
            assert_eq!(import(store, path).id, remote.id);
            if !self.is_served(store, remote) {
                // Its hashes in the index were hit, which shows when it is read; it is known then, and hashed anew. One
                // byte that says where values begin and end hits those of two files.
                assert_eq!(import(store, path).id, remote.id);
            }
            assert!(self.is_served(store, remote), "{}", path.display());
        }
        let part = PartFile::at(self.bench.path("out.part"));
        let (id, geometry) = (self.partial.id, self.partial.geometry());
        let content = store.begin(id, geometry, &part).unwrap();
        self.partial.give_outline(&content);
        assert!(content.held_count() + 1 >= HELD);
        content.write(self.partial.blocks(0..HELD)).unwrap();
        assert_eq!(self.served(store, &self.partial), [0, 1, 2]);
    }

    fn one(&self, random: &mut impl FnMut(usize) -> usize) {
        let kept = match random(10) {
            0..6 => &self.kept[0],
            6..8 => &self.kept[1],
            _ => &self.kept[2 + random(2)],
        };
        let mut at = random(kept.bytes.len());
        // Most of an index is empty: half of the time a byte is looked for that is not.
        if kept.hit == Hit::Index && random(2) == 0 {
            let used = kept.bytes.iter().skip(at).position(|byte| *byte != 0);
            at += used.unwrap_or_default();
        }
        let mask = 1 + random(255) as u8;
        kept.flip(at, mask);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let store = self.bench.open();
            self.check(&store, kept.hit);
            let mend = |store: &Store| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.mend(store)))
            };
            if let Err(panic) = mend(&store) {
                // Damage to the index that was only met now: the next start makes it anew.
                if kept.hit != Hit::Index {
                    std::panic::resume_unwind(panic);
                }
                drop(store);
                let store = self.bench.open();
                self.check(&store, kept.hit);
                self.mend(&store);
            }
        }));
        assert!(outcome.is_ok(), "{:?}, byte {at} ^ {mask:#x}", kept.hit);
        self.restore();
    }
}

#[test]
fn any_byte_may_flip() {
    let given = std::env::var("P2P_TESTS_FLIPS").ok();
    let flips = given.and_then(|flips| flips.parse().ok()).unwrap_or(FLIPS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let victim = Victim::new();
                let mut drawn = 0_u64;
                let mut random = |below: usize| {
                    drawn += 1;
                    let seed = [SEED, thread, drawn].map(u64::to_le_bytes).concat();
                    let hash = blake3::hash(&seed);
                    let number = u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap());
                    (number % below as u64) as usize
                };
                for _ in 0..flips / THREADS {
                    victim.one(&mut random);
                }
            });
        }
    });
}
