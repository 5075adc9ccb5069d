//! The power is lost, or an operation of the disk fails, at every operation in turn of everything that the store does:
//! what it said was safe is, and nothing wrong ever comes out of it.

use super::faulty::{Fault, Faulty};
use super::*;
use crate::store::fs::{Access, FileSystem, Memory};

/// What becomes of what was not synced: nothing of it is there, all is, or some, in two ways.
const SEEDS: std::ops::Range<u64> = 0..4;

/// What is shared and fetched.
struct World {
    shared: Remote,
    object: Remote,
    copied: Remote,
    fetched: Remote,
    small: Vec<Remote>,
    large: Remote,
}

impl World {
    fn new() -> Self {
        Self {
            shared: Remote::new(2 * BLOCK + 5, 1),
            object: Remote::new(1000, 2),
            copied: Remote::new(BLOCK + 1, 3),
            fetched: Remote::new(3 * BLOCK + 7, 4),
            small: (0..2)
                .map(|number| Remote::new(100 + number, 50 + number))
                .collect(),
            large: Remote::new(2 * BLOCK, 6),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Remote> {
        let single = [
            &self.shared,
            &self.object,
            &self.copied,
            &self.fetched,
            &self.large,
        ];
        single.into_iter().chain(&self.small)
    }

    fn remote(&self, id: ContentId) -> &Remote {
        self.all().find(|remote| remote.id == id).unwrap()
    }

    /// A disk with what the user has on it.
    fn disk(&self) -> Faulty {
        let faulty = Faulty::new(Arc::new(Memory::default()));
        faulty.create_private_folders(Path::new("/user")).unwrap();
        for (name, bytes) in [
            (SHARED, &self.shared.bytes),
            (SOURCE, &self.copied.bytes),
            (TARGET, &OLD.to_vec()),
        ] {
            let (file, _) = faulty.open(Path::new(name), Access::CreateNew).unwrap();
            file.write_at(0, &[bytes]).unwrap();
        }
        faulty.sync_all();
        faulty
    }
}

const SHARED: &str = "/user/shared";
const SOURCE: &str = "/user/source";
const TARGET: &str = "/user/out";
const PART: &str = "/user/out.part";
const TREE_PART: &str = "/user/tree.part";
/// What is at the target of the fetch before it.
const OLD: &[u8] = b"what the user had there";

/// What the store said was safe.
#[derive(Clone, Debug)]
enum Promise {
    /// It is complete, and can be read.
    Complete(ContentId),
    /// So many of its first blocks are held in the partial file.
    Held(ContentId, &'static str, u32),
    /// It was forgotten.
    Forgotten(ContentId),
    /// It is being forgotten: it may be there or not.
    Leaving(ContentId),
}

impl Promise {
    fn id(&self) -> ContentId {
        match self {
            Self::Complete(id) | Self::Held(id, ..) | Self::Forgotten(id) | Self::Leaving(id) => {
                *id
            }
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;
/// Something to do with a store, again from where it was left, and what came of it.
type Story = fn(&Store, &World, &mut Vec<Promise>) -> Outcome;

fn open(fs: Arc<dyn FileSystem>) -> Result<Store, StoreError> {
    let options = StoreOptions {
        dir: "/data/store".into(),
        cache_bytes: 0,
        quota: u64::MAX,
        min_free: 0,
        evict: Default::default(),
    };
    Store::open_on(fs, options)
}

fn add(store: &Store, world: &World, promises: &mut Vec<Promise>) -> Outcome {
    let id = store.import_file(Path::new(SHARED), &Progress::none())?.id;
    promises.push(Promise::Complete(id));
    promises.push(Promise::Complete(store.put_object(&world.object.bytes)?));
    let copied = store.copy_in(Path::new(SOURCE), &Progress::none())?;
    promises.push(Promise::Complete(copied.id));
    Ok(())
}

/// The handle of a content that is not complete; none if it is.
fn begin(
    store: &Store,
    remote: &Remote,
    part: &PartFile,
) -> Result<Option<Arc<Content>>, StoreError> {
    for _ in 0..2 {
        match store.begin(remote.id, remote.geometry(), part) {
            // It may be gone, which looking finds out.
            Err(StoreError::AlreadyComplete(_)) if store.content(remote.id)?.is_none() => {}
            Err(StoreError::AlreadyComplete(_)) => return Ok(None),
            begun => return begun.map(Some),
        }
    }
    panic!("complete and not there");
}

fn fetch(store: &Store, world: &World, promises: &mut Vec<Promise>) -> Outcome {
    let (remote, part) = (&world.fetched, PartFile::at(PART));
    if let Some(content) = begin(store, remote, &part)? {
        for end in [1, 4] {
            add_outline(remote, &content)?;
            content.write(remote.blocks(0..end))?;
            content.checkpoint()?;
            promises.push(Promise::Held(remote.id, PART, end));
        }
        store.finish(&content, &part, Path::new(TARGET), Existing::Overwrite)?;
    }
    promises.push(Promise::Complete(remote.id));
    Ok(())
}

fn add_outline(remote: &Remote, content: &Content) -> Result<(), StoreError> {
    let page = remote.outline.page(0).unwrap().to_vec();
    content.add_outline_page(0, page)
}

fn fetch_folder(store: &Store, world: &World, promises: &mut Vec<Promise>) -> Outcome {
    let files: Vec<(String, &Remote)> = world
        .small
        .iter()
        .map(|remote| (format!("a/{}", remote.bytes.len()), remote))
        .chain([("b/large".to_owned(), &world.large)])
        .collect();
    if files.iter().all(|(_, remote)| {
        let content = store.content(remote.id).ok().flatten();
        content.is_some_and(|content| {
            content.is_complete()
                && matches!(store.info(remote.id), Ok(Some(info)) if info.state == State::Complete)
        })
    }) {
        return Ok(());
    }
    let root = store.part_root(TREE_PART)?;
    let wanted: Vec<(ContentId, Geometry, PartFile)> = files
        .iter()
        .map(|(name, remote)| (remote.id, remote.geometry(), root.entry(name)))
        .collect();
    // The index may say that they are complete when the folder was not renamed yet.
    for (_, remote) in &files {
        store.refresh(remote.id)?;
    }
    let mut contents = Vec::new();
    for begun in store.begin_all(&wanted, None)? {
        contents.push(begun?);
    }
    for ((_, remote), content) in files.iter().zip(&contents) {
        if remote.geometry().blocks() > 1 {
            add_outline(remote, content)?;
        }
        content.write(remote.blocks(0..remote.geometry().blocks()))?;
    }
    store.checkpoint(&contents)?;
    let entries: Vec<(String, Arc<Content>)> = files
        .iter()
        .zip(&contents)
        .map(|((name, _), content)| (name.clone(), Arc::clone(content)))
        .collect();
    store.finish_tree(&root, Path::new("/user/tree"), &entries, Existing::Refuse)?;
    promises.extend(files.iter().map(|(_, remote)| Promise::Complete(remote.id)));
    Ok(())
}

fn forget(store: &Store, world: &World, promises: &mut Vec<Promise>) -> Outcome {
    for remote in [&world.fetched, &world.object] {
        promises.push(Promise::Leaving(remote.id));
        store.forget(remote.id, true)?;
        promises.push(Promise::Forgotten(remote.id));
    }
    Ok(())
}

/// Fetches into the store's own folder, where it may be evicted.
fn read(store: &Store, world: &World, promises: &mut Vec<Promise>) -> Outcome {
    let remote = &world.large;
    let target = store.fetched_dir().join(remote.id.to_string());
    let part = PartFile::at(target.with_extension("part"));
    if let Some(content) = begin(store, remote, &part)? {
        add_outline(remote, &content)?;
        content.write(remote.blocks(0..2))?;
        store.finish(&content, &part, &target, Existing::Overwrite)?;
    }
    promises.push(Promise::Complete(remote.id));
    Ok(())
}

/// Collects and evicts what nothing keeps.
fn collect(store: &Store, world: &World, promises: &mut Vec<Promise>) -> Outcome {
    let unkept = [world.object.id, world.copied.id, world.large.id];
    promises.extend(unkept.map(Promise::Leaving));
    // One that cannot be deleted stays, for the next time.
    let collected = store.collect(Duration::ZERO, true)?;
    promises.extend(collected.ids.into_iter().map(Promise::Forgotten));
    Ok(())
}

/// Everything that must hold of a store that was opened over what is left.
fn check(store: &Store, fs: &dyn FileSystem, world: &World, promises: &[Promise]) {
    for info in everything(store) {
        let remote = world.remote(info.id);
        assert_eq!(info.size, remote.bytes.len() as u64);
        if let Some(content) = store.content(info.id).unwrap() {
            for number in content.held().iter() {
                let block = content.geometry().block(number).unwrap();
                if let Ok(block) = content.block(block) {
                    assert_eq!(block, remote.block(number));
                }
            }
        }
    }
    // As it was found to be by now.
    assert_eq!(*store.shared.index.totals.lock(), store.shared.index.sum());
    let mut counted = Usage::default();
    for info in everything(store) {
        match (info.state, &info.path) {
            (State::Partial, _) => counted.partial += info.size,
            (_, None) => counted.objects += info.size,
            _ => {}
        }
    }
    let usage = store.usage();
    assert_eq!(usage.partial, counted.partial);
    assert_eq!(usage.objects, counted.objects);
    let objects = fs.list(Path::new("/data/store/objects")).unwrap();
    assert!(
        objects
            .iter()
            .all(|(name, _)| !name.as_encoded_bytes().starts_with(b".tmp"))
    );
    // A file of the user's is what it was, or what was fetched, whole.
    let (target, stamp) = fs
        .open(Path::new(TARGET), Access::Read)
        .map_or((None, None), |(file, stamp)| (Some(file), Some(stamp)));
    if let (Some(target), Some(stamp)) = (target, stamp) {
        let bytes = target.read_at(0, stamp.size as usize).unwrap();
        assert!(
            bytes == OLD || bytes == world.fetched.bytes,
            "a torn file of the user's"
        );
    }
    for (at, promise) in promises.iter().enumerate() {
        let mut later = promises[at + 1..].iter();
        if later.all(|later| later.id() != promise.id()) {
            check_promise(store, world, promise);
        }
    }
}

fn check_promise(store: &Store, world: &World, promise: &Promise) {
    match promise {
        Promise::Complete(id) => {
            let content = store
                .content(*id)
                .unwrap()
                .expect("complete before the crash");
            assert_eq!(read_all(&content), world.remote(*id).bytes);
        }
        Promise::Held(id, part, count) => {
            let remote = world.remote(*id);
            let Some(content) = begin(store, remote, &PartFile::at(part)).unwrap() else {
                return check_promise(store, world, &Promise::Complete(*id));
            };
            for number in 0..*count {
                let block = content.geometry().block(number).unwrap();
                assert!(
                    content.holds(block),
                    "block {number} was held before the crash"
                );
                assert_eq!(content.block(block).unwrap(), remote.block(number));
            }
        }
        Promise::Forgotten(id) => assert!(store.content(*id).unwrap().is_none()),
        Promise::Leaving(_) => {}
    }
}

/// A disk on which some stories were told to their ends.
fn after(world: &World, before: &[Story]) -> (Faulty, Vec<Promise>) {
    let disk = world.disk();
    let mut promises = Vec::new();
    let store = open(Arc::new(disk.clone())).unwrap();
    for story in before {
        story(&store, world, &mut promises).unwrap();
    }
    drop(store);
    (disk, promises)
}

/// Tells a story on a disk, from the opening of the store to its end or the fault.
fn tell(disk: &Faulty, world: &World, story: Story, promises: &mut Vec<Promise>) -> Outcome {
    let store = open(Arc::new(disk.clone()))?;
    story(&store, world, promises)
}

/// The power is lost at each operation of a story.
fn survives_power_loss(before: &[Story], story: Story) {
    let world = World::new();
    let (disk, mut promises) = after(&world, before);
    let first = disk.operations();
    tell(&disk, &world, story, &mut promises).unwrap();
    let last = disk.operations();
    assert!(last > first + 10, "hardly anything happens");
    for operation in first + 1..=last + 1 {
        for seed in SEEDS {
            let (disk, mut promises) = after(&world, before);
            disk.fail_at(operation, Fault::PowerLoss);
            let told = tell(&disk, &world, story, &mut promises);
            let left: Arc<dyn FileSystem> = Arc::new(disk.after_power_loss(operation * 4 + seed));
            let context = format!(
                "operation {operation} of {first}..{last}, seed {seed}, {told:?}, {promises:?}"
            );
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let store = open(Arc::clone(&left)).unwrap();
                check(&store, &*left, &world, &promises);
                // It can be done now.
                story(&store, &world, &mut promises).unwrap();
                check(&store, &*left, &world, &promises);
            }));
            assert!(checked.is_ok(), "{context}");
        }
    }
}

/// Each operation of a story fails once. It can be gone on with, and then the power is lost.
fn survives_failures(before: &[Story], story: Story, fault: Fault) {
    let world = World::new();
    let (disk, mut promises) = after(&world, before);
    let first = disk.operations();
    tell(&disk, &world, story, &mut promises).unwrap();
    let last = disk.operations();
    for operation in first + 1..=last {
        let (disk, mut promises) = after(&world, before);
        disk.fail_at(operation, fault);
        let context = format!("{fault:?} at operation {operation} of {first}..{last}");
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Ok(store) = open(Arc::new(disk.clone())) {
                // What fails is done again by the same store.
                if story(&store, &world, &mut promises).is_err() {
                    story(&store, &world, &mut promises).unwrap();
                }
                check(&store, &disk, &world, &promises);
            } else {
                tell(&disk, &world, story, &mut promises).unwrap();
            }
            assert!(disk.has_failed());
            let left: Arc<dyn FileSystem> = Arc::new(disk.after_power_loss(operation));
            let store = open(Arc::clone(&left)).unwrap();
            check(&store, &*left, &world, &promises);
        }));
        assert!(checked.is_ok(), "{context}");
    }
}

#[test]
fn the_journal_is_the_disk() {
    // Of a disk that lost nothing, everything is left: the checks below see what the store wrote.
    let world = World::new();
    let (disk, promises) = after(&world, &[add, fetch, fetch_folder]);
    disk.sync_all();
    let left: Arc<dyn FileSystem> = Arc::new(disk.after_power_loss(0));
    let store = open(Arc::clone(&left)).unwrap();
    check(&store, &*left, &world, &promises);
    assert_eq!(everything(&store).len(), 7);
}

#[test]
fn power_loss_while_adding() {
    survives_power_loss(&[], add);
}

#[test]
fn power_loss_while_fetching() {
    survives_power_loss(&[], fetch);
}

#[test]
fn power_loss_while_fetching_a_folder() {
    survives_power_loss(&[], fetch_folder);
}

#[test]
fn power_loss_while_forgetting() {
    survives_power_loss(&[add, fetch], forget);
}

#[test]
fn power_loss_while_collecting() {
    survives_power_loss(&[add, fetch, read], collect);
}

#[test]
fn failures_while_collecting() {
    survives_failures(&[add, fetch, read], collect, Fault::Error);
}

#[test]
fn failures_while_adding() {
    survives_failures(&[], add, Fault::Error);
    survives_failures(&[], add, Fault::Short);
}

#[test]
fn failures_while_fetching() {
    survives_failures(&[], fetch, Fault::Error);
    survives_failures(&[], fetch, Fault::Short);
}

#[test]
fn failures_while_fetching_a_folder() {
    survives_failures(&[], fetch_folder, Fault::Error);
    survives_failures(&[], fetch_folder, Fault::Short);
}

#[test]
fn failures_while_forgetting() {
    survives_failures(&[add, fetch], forget, Fault::Error);
}
