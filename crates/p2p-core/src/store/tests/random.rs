//! Any sequence of operations: what counts stays within the quota, is what is on the disk, and nobody loses what is his.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Contents there are; small, so that many sequences can be tried, and none alike.
const CONTENTS: u64 = 10;
/// What fits beside the index: about half of all contents.
const ROOM: u64 = 24 * BLOCK;

#[derive(Clone, Debug)]
enum Step {
    /// Shares a file in place.
    Share(u64),
    /// Shares a copy.
    Copy(u64),
    /// Begins or goes on with a fetch, into the store's own folder or not, and writes some blocks.
    Fetch(u64, bool, u32),
    /// Saves all fetches.
    Checkpoint,
    /// Finishes a fetch if it is complete.
    Finish(u64),
    /// Stops a fetch, keeping what was written.
    Stop(u64),
    Pin(u64),
    Unpin(u64),
    /// Opens a complete content, and keeps it open.
    Open(u64),
    CloseAll,
    Forget(u64),
    Collect(bool),
    /// Lets this many blocks more than half count.
    Limit(u64),
    Evict(Evict),
    Verify,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = || 0..CONTENTS;
    let evict = prop_oneof![Just(Evict::Off), Just(Evict::Store), Just(Evict::Downloads)];
    let step = prop_oneof![
        2 => some().prop_map(Step::Share),
        1 => some().prop_map(Step::Copy),
        8 => (some(), any::<bool>(), 1_u32..12).prop_map(|(n, own, count)| Step::Fetch(n, own, count)),
        2 => Just(Step::Checkpoint),
        6 => some().prop_map(Step::Finish),
        2 => some().prop_map(Step::Stop),
        1 => some().prop_map(Step::Pin),
        2 => some().prop_map(Step::Unpin),
        2 => some().prop_map(Step::Open),
        1 => Just(Step::CloseAll),
        1 => some().prop_map(Step::Forget),
        1 => any::<bool>().prop_map(Step::Collect),
        1 => (0_u64..24).prop_map(Step::Limit),
        1 => evict.prop_map(Step::Evict),
        1 => Just(Step::Verify),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..80)
}

struct World {
    bench: Bench,
    store: Option<Store>,
    remotes: Vec<Remote>,
    quota: u64,
    evict: Evict,
    fetches: BTreeMap<u64, (Arc<Content>, PartFile, PathBuf)>,
    opened: BTreeMap<u64, Arc<Content>>,
    /// What must be there.
    shared: BTreeMap<u64, PathBuf>,
    pinned: BTreeMap<u64, ()>,
    named: BTreeMap<u64, PathBuf>,
}

impl World {
    fn new() -> Self {
        let bench = Bench::new();
        let store = bench.open();
        let quota = store.usage().total() + ROOM;
        store.set_limits(quota, 0);
        Self {
            bench,
            store: Some(store),
            remotes: (0..CONTENTS)
                .map(|seed| Remote::new((seed + 1) * BLOCK - seed, seed))
                .collect(),
            quota,
            evict: Evict::Store,
            fetches: BTreeMap::new(),
            opened: BTreeMap::new(),
            shared: BTreeMap::new(),
            pinned: BTreeMap::new(),
            named: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn remote(&self, number: u64) -> &Remote {
        &self.remotes[number as usize]
    }

    fn full(error: &StoreError) -> bool {
        matches!(error, StoreError::QuotaFull { .. })
    }

    fn apply(&mut self, step: &Step) {
        let store = self.store().clone();
        if let Step::Share(n) | Step::Copy(n) = *step {
            // The partial file would be left to nobody, and the fetch of it would end as it is.
            let known = store.info(self.remote(n).id).unwrap();
            if known.is_some_and(|info| info.state == State::Partial) {
                return;
            }
        }
        match *step {
            Step::Share(n) => {
                let path = self.bench.path(&format!("shared/{n}"));
                if !path.exists() {
                    self.bench
                        .file(&format!("shared/{n}"), &self.remote(n).bytes);
                }
                match store.import_file(&path, &Progress::none()) {
                    Ok(_) => _ = self.shared.insert(n, path),
                    Err(ImportError::Store(error)) => assert!(Self::full(&error), "{error}"),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Copy(n) => {
                let path = self
                    .bench
                    .file(&format!("source/{n}"), &self.remote(n).bytes);
                match store.copy_in(&path, &Progress::none()) {
                    Ok(_) => {}
                    Err(ImportError::Store(error)) => assert!(Self::full(&error), "{error}"),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Fetch(n, own, count) => self.fetch(&store, n, own, count),
            Step::Checkpoint => {
                let contents: Vec<_> = self
                    .fetches
                    .values()
                    .map(|(content, ..)| Arc::clone(content))
                    .collect();
                store.checkpoint(&contents).unwrap();
            }
            Step::Finish(n) => self.finish(&store, n),
            Step::Stop(n) => _ = self.fetches.remove(&n),
            Step::Pin(n) => {
                if store.pin(self.remote(n).id).unwrap().is_some() {
                    self.pinned.insert(n, ());
                }
            }
            Step::Unpin(n) => {
                store.unpin(self.remote(n).id).unwrap();
                self.pinned.remove(&n);
            }
            Step::Open(n) => {
                let found = store.content(self.remote(n).id).unwrap();
                if let Some(content) = found.filter(|content| content.is_complete()) {
                    self.opened.insert(n, content);
                }
            }
            Step::CloseAll => self.opened.clear(),
            Step::Forget(n) => {
                self.fetches.remove(&n);
                self.opened.remove(&n);
                store.forget(self.remote(n).id, true).unwrap();
                for list in [&mut self.shared, &mut self.named] {
                    list.remove(&n);
                }
                self.pinned.remove(&n);
            }
            Step::Collect(all) => _ = store.collect(Duration::ZERO, all).unwrap(),
            Step::Limit(more) => {
                let lower = self.quota - ROOM + more * BLOCK;
                store.set_limits(lower, 0);
                store.shrink().unwrap();
                // What is over it and may not go would make every later check void.
                if store.usage().total() > lower {
                    store.set_limits(self.quota, 0);
                }
            }
            Step::Evict(evict) => {
                self.evict = evict;
                store.set_evict(evict);
            }
            Step::Verify => {
                assert_eq!(store.verify(&Progress::none()).unwrap().damage, []);
            }
            Step::Reopen => {
                self.fetches.clear();
                self.opened.clear();
                let (quota, _) = store.limits();
                drop((store, self.store.take()));
                let options = StoreOptions {
                    quota,
                    evict: self.evict,
                    ..self.bench.options()
                };
                self.store = Some(Store::open(options).unwrap());
            }
        }
    }

    fn fetch(&mut self, store: &Store, n: u64, own: bool, count: u32) {
        let remote = &self.remotes[n as usize];
        if !self.fetches.contains_key(&n) {
            let target = if own {
                store.fetched_dir().join(remote.id.to_string())
            } else {
                self.bench.path(&format!("named-{n}"))
            };
            // One that was begun elsewhere goes on there, as a node does it.
            let known = store.info(remote.id).unwrap();
            let (part, target) = match known {
                Some(info) if info.state == State::Partial => {
                    let part = info.path.unwrap();
                    (part.clone(), part.with_extension(""))
                }
                _ => (target.with_extension("part"), target),
            };
            if target.exists() {
                return;
            }
            let part = PartFile::at(part);
            match store.begin(remote.id, remote.geometry(), &part) {
                Ok(content) => {
                    remote.give_outline(&content);
                    self.fetches.insert(n, (content, part, target));
                }
                Err(StoreError::AlreadyComplete(_)) => return,
                Err(error) => return assert!(Self::full(&error), "{error}"),
            }
        }
        let (content, ..) = &self.fetches[&n];
        let missing = (0..remote.geometry().blocks())
            .filter(|number| !content.held().contains(*number))
            .take(count as usize);
        content
            .write(missing.map(|number| remote.block(number)).collect())
            .unwrap();
    }

    fn finish(&mut self, store: &Store, n: u64) {
        let Some((content, part, target)) = self.fetches.get(&n) else {
            return;
        };
        if !content.is_complete() {
            return;
        }
        let path = store
            .finish(content, part, target, Existing::Refuse)
            .unwrap();
        if !path.starts_with(store.fetched_dir()) {
            self.named.insert(n, path);
        }
        self.fetches.remove(&n);
    }

    fn check(&mut self) {
        let store = self.store().clone();
        let usage = store.usage();
        let (quota, _) = store.limits();
        assert!(usage.total() <= quota, "{usage:?} of {quota}");
        assert_eq!(*store.shared.index.totals.lock(), store.shared.index.sum());
        // What is on the disk of what counts. Objects and downloads are there in full, partial files as far as written.
        let mut disk = BTreeMap::new();
        for info in everything(&store) {
            let size = match (&info.path, info.state) {
                (_, State::Changed | State::Missing) => panic!("{info:?}"),
                (Some(path), _) => fs::metadata(path).map_or(0, |found| found.len()),
                (None, _) => fs::metadata(store.shared.object_path(info.id))
                    .unwrap()
                    .len(),
            };
            if info.state == State::Complete {
                assert_eq!(size, info.size, "{info:?}");
            } else {
                assert!(size <= info.size, "{info:?}");
            }
            *disk.entry(info.path.is_none()).or_insert(0) += size;
        }
        assert_eq!(disk.get(&true).copied().unwrap_or(0), usage.objects);
        let own: u64 =
            below(&self.bench.path("store/objects")) + below(&self.bench.path("store/fetched"));
        let index = fs::metadata(self.bench.path("store/index.redb"))
            .unwrap()
            .blocks()
            * 512;
        assert!(own + index <= quota, "{own} and {index} of {quota}");
        self.check_kept(&store);
    }

    /// What is shared, pinned, open or being fetched is there; what was named is, unless it was said that it may go.
    fn check_kept(&mut self, store: &Store) {
        for path in self.shared.values() {
            assert!(path.exists(), "{path:?}");
        }
        let complete = |n: &u64| {
            store
                .content(self.remotes[*n as usize].id)
                .unwrap()
                .is_some()
        };
        for n in self.pinned.keys() {
            assert!(
                store.info(self.remote(*n).id).unwrap().is_some(),
                "{n} was pinned"
            );
        }
        for (n, content) in &self.opened {
            assert!(complete(n), "{n} was open");
            read_all(content);
        }
        for (n, (content, ..)) in &self.fetches {
            assert!(content.path().exists(), "{n} was being fetched");
        }
        if self.evict == Evict::Downloads {
            // They may have gone, now or later.
            self.named.retain(|_, path| path.exists());
        }
        for path in self.named.values() {
            assert!(path.exists(), "{path:?} was named");
        }
    }
}

/// Bytes of the files below a folder, as the disk has them.
fn below(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        sum += match metadata.is_dir() {
            true => below(&entry.path()),
            false => metadata.len(),
        };
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done(steps in steps()) {
        let mut world = World::new();
        world.check();
        for step in &steps {
            world.apply(step);
            world.check();
        }
    }
}
