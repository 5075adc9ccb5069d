//! The store as its users see it: on real files, and most of it in memory too.

use super::space::index_growth;
use super::walk::Skipped;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use bench::{Bench, fs, in_memory};

use super::*;
use crate::content::{
    BLOCK_LEN, Geometry, Kind, Outline, OutlineBuilder, PublisherSecret, VerifiedBlock,
};

mod bench;
mod crashes;
mod evicting;
mod faulty;
mod feeds;
mod flips;
mod follow;
mod many;
mod random;

const BLOCK: u64 = BLOCK_LEN as u64;

/// Runs tests that run on the disk in memory too.
macro_rules! in_memory_too {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(
                #[test]
                fn $name() {
                    super::in_memory(super::$name);
                }
            )*
        }
    };
}
use in_memory_too;

// All but those about links, times and open files of a disk.
in_memory_too!(
    round_trips_at_the_edges_of_blocks,
    more_than_one_page,
    changed_files_are_never_served,
    a_second_copy_takes_over,
    fetch_and_finish,
    what_was_written_is_found_again,
    found_again_without_help_of_the_index,
    a_damaged_part_file_is_not_believed,
    a_sync_that_fails_is_not_believed,
    what_is_there_already,
    folders,
    claims_that_cannot_be,
    room,
    cache,
    objects,
    forgetting,
    manifests,
    many_threads_at_once,
    any_damage_to_the_index_is_survived,
    builder_and_import_agree,
    one_owner,
);

/// Bytes that differ from place to place and from seed to seed.
fn bytes(len: u64, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    let mut reader = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    reader.fill(&mut out);
    out
}

/// Content somewhere else on the network.
struct Remote {
    bytes: Vec<u8>,
    id: ContentId,
    outline: Outline,
}

impl Remote {
    fn new(len: u64, seed: u64) -> Self {
        let bytes = bytes(len, seed);
        let (id, outline) = Outline::of(&bytes).unwrap();
        Self { bytes, id, outline }
    }

    fn geometry(&self) -> Geometry {
        self.outline.geometry()
    }

    fn block(&self, number: u32) -> VerifiedBlock {
        let index = self.geometry().block(number).unwrap();
        let start = self.geometry().offset_of(index) as usize;
        let slice = &self.bytes[start..start + self.geometry().len_of(index)];
        self.outline
            .verify(index, Bytes::copy_from_slice(slice))
            .unwrap()
    }

    fn blocks(&self, range: std::ops::Range<u32>) -> Vec<VerifiedBlock> {
        range.map(|number| self.block(number)).collect()
    }

    fn give_outline(&self, content: &Content) {
        if let Some(top) = self.outline.top() {
            content.add_outline_top(top.to_vec()).unwrap();
        }
        if self.geometry().blocks() > 1 {
            for page in 0..self.geometry().pages() {
                content
                    .add_outline_page(page, self.outline.page(page).unwrap().to_vec())
                    .unwrap();
            }
        }
    }

    fn fetch(&self, store: &Store, part: &PartFile) -> Arc<Content> {
        let content = store.begin(self.id, self.geometry(), part).unwrap();
        self.give_outline(&content);
        content
            .write(self.blocks(0..self.geometry().blocks()))
            .unwrap();
        content
    }
}

fn read_all(content: &Content) -> Vec<u8> {
    let mut out = vec![0; content.geometry().size() as usize];
    assert_eq!(content.read_at(0, &mut out).unwrap(), out.len());
    out
}

fn everything(store: &Store) -> Vec<ContentInfo> {
    // Small pages, to have more than one.
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let (some, last) = store.contents_after(after, 3).unwrap();
        all.extend(some);
        let Some(last) = last else { return all };
        after = Some(last);
    }
}

fn import(store: &Store, path: &Path) -> Imported {
    store.import_file(path, &Progress::none()).unwrap()
}

/// Imports and says how many bytes were hashed for it.
fn import_counting(store: &Store, path: &Path) -> (Imported, u64) {
    let hashed = AtomicU64::new(0);
    let report = |done, _| _ = hashed.fetch_max(done, Ordering::Relaxed);
    let imported = store
        .import_file(path, &Progress::new(&report, &AtomicBool::new(false)))
        .unwrap();
    (imported, hashed.into_inner())
}

#[test]
fn round_trips_at_the_edges_of_blocks() {
    let bench = Bench::new();
    let store = bench.open();
    for (seed, len) in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 5 * BLOCK + 77]
        .into_iter()
        .enumerate()
    {
        let data = bytes(len, seed as u64);
        let path = bench.file(&format!("f{len}"), &data);
        let (imported, hashed) = import_counting(&store, &path);
        assert_eq!(imported.id, ContentId::of(&data));
        assert_eq!(imported.size, len);
        assert_eq!(hashed, len);
        let content = store.content(imported.id).unwrap().unwrap();
        assert!(content.is_complete());
        assert_eq!(read_all(&content), data);
        // Another run has it from the index, and does not hash it again.
        assert_eq!(import_counting(&store, &path), (imported, 0));
    }
    drop(store);
    let store = bench.open();
    for info in everything(&store) {
        let content = store.content(info.id).unwrap().unwrap();
        assert_eq!(ContentId::of(&read_all(&content)), info.id);
        assert_eq!(
            (info.state, info.held, info.download),
            (State::Complete, info.blocks, false)
        );
    }
}

#[test]
fn more_than_one_page() {
    let bench = Bench::new();
    let path = bench.path("large");
    fs::set_len(&path, 1025 * BLOCK + 5);
    for block in [0, 1, 1023, 1024, 1025] {
        fs::write_at(&path, block * BLOCK, b"here");
    }
    let store = bench.open();
    let id = import(&store, &path).id;
    assert_eq!(id, ContentId::of(&fs::read(&path).unwrap()));
    drop(store);
    // The outline comes back from the index page by page.
    let store = bench.open();
    let content = store.content(id).unwrap().unwrap();
    assert_eq!(content.outline_top().unwrap().unwrap().len(), 2);
    assert_eq!(content.outline_page(0).unwrap().unwrap().len(), 1024);
    assert_eq!(content.outline_page(1).unwrap().unwrap().len(), 2);
    for block in [1025, 1024, 0, 700] {
        let block = content.geometry().block(block).unwrap();
        content.block(block).unwrap();
    }
    let mut edge = [0; 4];
    assert_eq!(content.read_at(1024 * BLOCK, &mut edge).unwrap(), 4);
    assert_eq!(&edge, b"here");
    assert_eq!(content.read_at(1025 * BLOCK + 3, &mut edge).unwrap(), 2);
    assert_eq!(content.read_at(1025 * BLOCK + 5, &mut edge).unwrap(), 0);
    assert_eq!(content.read_at(u64::MAX, &mut edge).unwrap(), 0);
}

/// Every way to change a file under the store: no wrong byte comes out, and it is told.
#[test]
fn changed_files_are_never_served() {
    type Change = fn(&Path, &Bench);
    let changes: [(&str, Change, State); 5] = [
        (
            "rewritten",
            |path, _| fs::write(path, bytes(3 * BLOCK, 99)).unwrap(),
            State::Changed,
        ),
        ("in place, times restored", alter_silently, State::Changed),
        ("truncated", |path, _| fs::set_len(path, 9), State::Changed),
        (
            "replaced",
            |path, bench| fs::rename(bench.file("other", &bytes(3 * BLOCK, 98)), path).unwrap(),
            State::Changed,
        ),
        (
            "deleted",
            |path, _| fs::remove_file(path).unwrap(),
            State::Missing,
        ),
    ];
    for (name, change, state) in changes {
        let bench = Bench::new();
        if name.contains("times") && !bench.is_on_disk() {
            continue;
        }
        let store = bench.open();
        let path = bench.file("shared", &bytes(3 * BLOCK, 1));
        let id = import(&store, &path).id;
        let content = store.content(id).unwrap().unwrap();
        change(&path, &bench);
        let second = content.geometry().block(1).unwrap();
        let told = content.block(second).unwrap_err();
        assert!(
            matches!(
                (&told, state),
                (ReadError::Changed, State::Changed) | (ReadError::Missing, State::Missing)
            ),
            "{name}: {told}"
        );
        assert!(content.block(second).is_err(), "{name}: told once only");
        assert_eq!(store.info(id).unwrap().unwrap().state, state, "{name}");
        assert!(store.content(id).unwrap().is_none(), "{name}");
        if state == State::Changed {
            let again = import(&store, &path);
            assert_ne!(again.id, id, "{name}");
            let content = store.content(again.id).unwrap().unwrap();
            assert_eq!(read_all(&content), fs::read(&path).unwrap());
        }
    }
}

/// Changes one byte of the second block, and leaves size, time and inode as they were.
fn alter_silently(path: &Path, _: &Bench) {
    let before = std::fs::metadata(path).unwrap().modified().unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, BLOCK + 5).unwrap();
    file.write_all_at(&[byte[0] ^ 1], BLOCK + 5).unwrap();
    file.set_modified(before).unwrap();
}

#[test]
fn a_second_copy_takes_over() {
    let bench = Bench::new();
    let store = bench.open();
    let data = bytes(2 * BLOCK, 5);
    let (first, second) = (bench.file("a/one", &data), bench.file("b/two", &data));
    let id = import(&store, &first).id;
    assert_eq!(import(&store, &second).id, id);
    assert_eq!(store.info(id).unwrap().unwrap().path.unwrap(), first);
    fs::remove_file(&first).unwrap();
    assert_eq!(store.refresh(id).unwrap(), Some(State::Complete));
    let content = store.content(id).unwrap().unwrap();
    assert_eq!(content.path(), second);
    assert_eq!(read_all(&content), data);
    // And the file that comes back as it was is known.
    fs::rename(&second, bench.path("away")).unwrap();
    assert_eq!(store.refresh(id).unwrap(), Some(State::Missing));
    fs::rename(bench.path("away"), &second).unwrap();
    assert_eq!(store.refresh(id).unwrap(), Some(State::Complete));
}

#[test]
fn a_touched_file_is_hashed_again_and_is_the_same() {
    let bench = Bench::new();
    let store = bench.open();
    let path = bench.file("f", &bytes(2 * BLOCK, 5));
    let id = import(&store, &path).id;
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(store.refresh(id).unwrap(), Some(State::Changed));
    let (again, hashed) = import_counting(&store, &path);
    assert_eq!((again.id, again.size, hashed), (id, 2 * BLOCK, 2 * BLOCK));
    assert_eq!(store.info(id).unwrap().unwrap().state, State::Complete);
}

#[test]
fn imports_that_cannot_be() {
    let bench = Bench::new();
    let store = bench.open();
    let none = Progress::none();
    assert!(matches!(
        store.import_file(&bench.path("no"), &none),
        Err(ImportError::NotFound { .. })
    ));
    assert!(matches!(
        store.import_file(&bench.path("."), &none),
        Err(ImportError::NotAFile { .. })
    ));
    let file = bench.file("file", b"x");
    assert!(matches!(
        store.import_tree(&file, &none),
        Err(ImportError::NotAFolder { .. })
    ));
    let cancelled = Progress::new(&|_, _| {}, &AtomicBool::new(true)).check();
    assert!(matches!(cancelled, Err(ImportError::Cancelled)));
    symlink(&file, bench.path("link")).unwrap();
    assert_eq!(import(&store, &bench.path("link")).id, ContentId::of(b"x"));
    // A writer during the hashing is noticed.
    let busy = bench.file("busy", &bytes(9 * BLOCK, 1));
    let report = |_, _| {
        std::fs::OpenOptions::new()
            .append(true)
            .open(&busy)
            .unwrap()
            .set_len(8 * BLOCK)
            .unwrap()
    };
    let result = store.import_file(&busy, &Progress::new(&report, &AtomicBool::new(false)));
    assert!(
        matches!(result, Err(ImportError::ChangedWhileReading { .. })),
        "{result:?}"
    );
    assert_eq!(everything(&store).len(), 1);
}

#[test]
fn trees() {
    let bench = Bench::new();
    let store = bench.open();
    bench.file("t/b/two", &bytes(5 << 20, 2));
    bench.file("t/a", b"a");
    bench.file("t/b/empty", b"");
    bench.file("t/b.txt", b"a");
    bench.file("t/half.part", b"half");
    symlink("/etc/passwd", bench.path("t/link")).unwrap();
    let tree = store
        .import_tree(&bench.path("t"), &Progress::none())
        .unwrap();
    let names: Vec<&str> = tree.entries.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b.txt", "b/empty", "b/two"]);
    for (name, imported) in &tree.entries {
        assert_eq!(
            imported.id,
            ContentId::of(&fs::read(bench.path("t").join(name)).unwrap())
        );
    }
    let mut skipped: Vec<Skipped> = tree.skipped.iter().map(|(_, why)| *why).collect();
    skipped.sort_by_key(|why| *why as u8);
    assert_eq!(skipped, [Skipped::Link, Skipped::Partial]);
    let hashed = AtomicU64::new(0);
    let report = |done, _| hashed.store(done, Ordering::Relaxed);
    bench.file("t/new", b"new");
    let again = store
        .import_tree(
            &bench.path("t"),
            &Progress::new(&report, &AtomicBool::new(false)),
        )
        .unwrap();
    assert_eq!(again.entries.len(), 5);
    assert_eq!(hashed.into_inner(), 3);
    bench.file("t/aux.txt ", b"");
    let refused = store.import_tree(&bench.path("t"), &Progress::none());
    assert!(
        matches!(refused, Err(ImportError::NameRefused { .. })),
        "{refused:?}"
    );
}

#[test]
fn fetch_and_finish() {
    let bench = Bench::new();
    let store = bench.open();
    for len in [0, 1, BLOCK, BLOCK + 1, 9 * BLOCK + 3] {
        let remote = Remote::new(len, len);
        let part = PartFile::at(bench.path("out.part"));
        let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
        let mut changes = content.changes();
        assert!(Arc::ptr_eq(
            &content,
            &store.begin(remote.id, remote.geometry(), &part).unwrap()
        ));
        remote.give_outline(&content);
        let blocks = remote.geometry().blocks();
        content.write(remote.blocks(blocks / 2..blocks)).unwrap();
        for number in 0..blocks {
            let block = remote.geometry().block(number).unwrap();
            if number < blocks / 2 {
                assert!(matches!(content.block(block), Err(ReadError::NotHeld)));
            } else {
                assert_eq!(content.block(block).unwrap(), remote.block(number));
            }
        }
        if blocks > 1 {
            let early = store.finish(&content, &part, &bench.path("out"), Existing::Refuse);
            assert!(matches!(early, Err(StoreError::Incomplete { .. })));
            assert_eq!(
                store.info(remote.id).unwrap().unwrap().held,
                blocks - blocks / 2
            );
        }
        // Scattered, unsorted, twice.
        content
            .write(remote.blocks(0..blocks).into_iter().rev().collect())
            .unwrap();
        content.write(remote.blocks(0..blocks)).unwrap();
        assert_eq!(*changes.borrow_and_update(), blocks);
        let target = store
            .finish(
                &content,
                &part,
                &bench.path(&format!("out{len}")),
                Existing::Refuse,
            )
            .unwrap();
        assert_eq!(fs::read(&target).unwrap(), remote.bytes);
        assert!(!fs::exists(part.path()));
        let info = store.info(remote.id).unwrap().unwrap();
        assert_eq!(
            (info.state, info.download, info.path.as_deref()),
            (State::Complete, true, Some(&*target))
        );
        assert_eq!(content.path(), target);
        assert_eq!(read_all(&content), remote.bytes);
        assert!(matches!(
            store.begin(remote.id, remote.geometry(), &part),
            Err(StoreError::AlreadyComplete(_))
        ));
        content.write(remote.blocks(0..blocks)).unwrap();
    }
    drop(store);
    let store = bench.open();
    let usage = store.usage();
    assert_eq!((usage.downloads, usage.partial), (11 * BLOCK + 5, 0));
    for info in everything(&store) {
        assert_eq!(
            ContentId::of(&read_all(&store.content(info.id).unwrap().unwrap())),
            info.id
        );
    }
}

#[test]
fn what_was_written_is_found_again() {
    for checkpoint in [false, true] {
        let bench = Bench::new();
        let remote = Remote::new(80 * BLOCK + 9, 1);
        let part = PartFile::at(bench.path("out.part"));
        {
            let store = bench.open();
            let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
            remote.give_outline(&content);
            content.write(remote.blocks(0..7)).unwrap();
            if checkpoint {
                content.checkpoint().unwrap();
            }
            content.write(remote.blocks(50..60)).unwrap();
        }
        let store = bench.open();
        // Served before anyone goes on fetching.
        let content = store.content(remote.id).unwrap().unwrap();
        assert_eq!(content.held_count(), 17);
        let again = store.begin(remote.id, remote.geometry(), &part).unwrap();
        assert!(Arc::ptr_eq(&content, &again));
        assert_eq!(again.held().runs().collect::<Vec<_>>(), [0..7, 50..60]);
        content.write(remote.blocks(0..81)).unwrap();
        let target = store
            .finish(&content, &part, &bench.path("out"), Existing::Refuse)
            .unwrap();
        assert_eq!(fs::read(target).unwrap(), remote.bytes);
    }
}

/// Without an index the file is searched when the outline arrives; with one whose held set is damaged, at once.
#[test]
fn found_again_without_help_of_the_index() {
    for lose_all in [false, true] {
        let bench = Bench::new();
        let remote = Remote::new(80 * BLOCK, 2);
        let part = PartFile::at(bench.path("out.part"));
        {
            let store = bench.open();
            let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
            remote.give_outline(&content);
            content.write(remote.blocks(3..9)).unwrap();
            content.checkpoint().unwrap();
            if !lose_all {
                store.shared.index.damage_held(remote.id);
                assert!(store.shared.index.held(remote.id).unwrap().is_none());
            }
        }
        if lose_all {
            fs::write(
                bench.path("store/index.redb"),
                b"rubbish that is no database at all",
            )
            .unwrap();
        }
        let store = bench.open();
        let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
        assert_eq!(content.held_count(), if lose_all { 0 } else { 6 });
        remote.give_outline(&content);
        assert!(content.held().iter().eq(3..9));
        assert_eq!(fs::exists(bench.path("store/index.redb.damaged")), lose_all);
    }
}

#[test]
fn a_damaged_part_file_is_not_believed() {
    let bench = Bench::new();
    let remote = Remote::new(80 * BLOCK, 3);
    let part = PartFile::at(bench.path("out.part"));
    {
        let store = bench.open();
        let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
        remote.give_outline(&content);
        content.write(remote.blocks(0..5)).unwrap();
        content.checkpoint().unwrap();
    }
    fs::write_at(part.path(), 2 * BLOCK, b"x");
    let store = bench.open();
    let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
    assert_eq!(content.held().runs().collect::<Vec<_>>(), [0..2, 3..5]);
    // Damage under an open handle is found by reading, and the block can be written again.
    fs::write_at(part.path(), 4 * BLOCK, b"x");
    let block = remote.geometry().block(4).unwrap();
    assert!(matches!(content.block(block), Err(ReadError::NotHeld)));
    assert_eq!(*content.changes().borrow(), 3);
    content.write(remote.blocks(4..5)).unwrap();
    assert_eq!(content.block(block).unwrap(), remote.block(4));
}

#[test]
fn a_sync_that_fails_is_not_believed() {
    let (bench, faults) = Bench::with_faults();
    let store = bench.open();
    let remote = Remote::new(80 * BLOCK, 4);
    let part = PartFile::at(bench.path("out.part"));
    let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
    remote.give_outline(&content);
    content.write(remote.blocks(0..4)).unwrap();
    content.checkpoint().unwrap();
    content.write(remote.blocks(4..8)).unwrap();
    faults.fail_syncs(true);
    assert!(matches!(content.checkpoint(), Err(StoreError::Sync { .. })));
    faults.fail_syncs(false);
    // Not again either, although the system would now say it went well.
    assert!(matches!(content.checkpoint(), Err(StoreError::Sync { .. })));
    assert!(matches!(
        content.write(remote.blocks(8..9)),
        Err(StoreError::Sync { .. })
    ));
    assert_eq!(
        store
            .shared
            .index
            .held(remote.id)
            .unwrap()
            .unwrap()
            .blocks
            .count(),
        4
    );
    let again = store.begin(remote.id, remote.geometry(), &part).unwrap();
    assert!(!Arc::ptr_eq(&content, &again));
    again.write(remote.blocks(0..80)).unwrap();
    faults.fail_syncs(true);
    let failed = store.finish(&again, &part, &bench.path("out"), Existing::Refuse);
    faults.fail_syncs(false);
    assert!(matches!(failed, Err(StoreError::Sync { .. })), "{failed:?}");
    assert!(!fs::exists(bench.path("out")));
    let third = store.begin(remote.id, remote.geometry(), &part).unwrap();
    // What was written since the checkpoint is gone with the sync that failed.
    assert_eq!(third.held_count(), 4);
    third.write(remote.blocks(4..80)).unwrap();
    store
        .finish(&third, &part, &bench.path("out"), Existing::Refuse)
        .unwrap();
}

#[test]
fn what_is_there_already() {
    let bench = Bench::new();
    let store = bench.open();
    let part = PartFile::at(bench.path("out.part"));
    let target = bench.file("out.tar", b"mine");
    let shared = import(&store, &target).id;
    let remote = Remote::new(2 * BLOCK, 6);
    let content = remote.fetch(&store, &part);
    let refused = store.finish(&content, &part, &target, Existing::Refuse);
    assert!(matches!(refused, Err(StoreError::TargetExists(path)) if path == target));
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert!(store.content(shared).unwrap().is_some());
    bench.file("out (1).tar", b"");
    let renamed = store
        .finish(&content, &part, &target, Existing::Rename)
        .unwrap();
    assert_eq!(renamed, bench.path("out (2).tar"));
    let other = Remote::new(BLOCK + 1, 7);
    let content = other.fetch(&store, &part);
    assert_eq!(
        store
            .finish(&content, &part, &target, Existing::Overwrite)
            .unwrap(),
        target
    );
    assert_eq!(fs::read(&target).unwrap(), other.bytes);
    // What was overwritten is not served any more.
    assert!(store.content(shared).unwrap().is_none());
    assert_eq!(store.info(shared).unwrap().unwrap().state, State::Changed);
    // A folder cannot be overwritten by a file; the fetch survives the attempt.
    fs::create_dir(bench.path("folder")).unwrap();
    let third = Remote::new(3 * BLOCK, 8);
    let content = third.fetch(&store, &part);
    store
        .finish(&content, &part, &bench.path("folder"), Existing::Overwrite)
        .unwrap_err();
    assert_eq!(store.info(third.id).unwrap().unwrap().state, State::Partial);
    assert_eq!(read_all(&content), third.bytes);
    store
        .finish(&content, &part, &bench.path("third"), Existing::Refuse)
        .unwrap();
    assert_eq!(
        store.info(third.id).unwrap().unwrap().state,
        State::Complete
    );
}

/// The files of a folder, one of them twice and one empty, fetched into `root`.
fn fetch_tree(store: &Store, root: &PartRoot, seed: u64) -> Vec<(String, Arc<Content>)> {
    let (large, small) = (Remote::new(3 * BLOCK, seed), Remote::new(10, seed + 1));
    let empty = Remote::new(0, 0);
    let one = large.fetch(store, &root.entry("a/large"));
    let two = small.fetch(store, &root.entry("small"));
    store
        .copy_out(&two, &root.entry("a/b/small again"), None)
        .unwrap();
    let three = match store.content(empty.id).unwrap() {
        Some(known) => {
            store.copy_out(&known, &root.entry("empty"), None).unwrap();
            known
        }
        None => empty.fetch(store, &root.entry("empty")),
    };
    let entry = |name: &str, content: &Arc<Content>| (name.to_owned(), Arc::clone(content));
    vec![
        entry("a/b/small again", &two),
        entry("a/large", &one),
        entry("empty", &three),
        entry("small", &two),
    ]
}

#[test]
fn folders() {
    let bench = Bench::new();
    let store = bench.open();
    let target = bench.path("out");
    let check = |target: &Path, entries: &[(String, Arc<Content>)]| {
        for (name, content) in entries {
            assert_eq!(
                ContentId::of(&fs::read(target.join(name)).unwrap()),
                content.id(),
                "{name}"
            );
            let content = store.content(content.id()).unwrap().unwrap();
            assert_eq!(ContentId::of(&read_all(&content)), content.id());
        }
    };
    let root = store.part_root(bench.path("out.part")).unwrap();
    let entries = fetch_tree(&store, &root, 1);
    assert_eq!(
        store
            .finish_tree(&root, &target, &entries, Existing::Refuse)
            .unwrap(),
        target
    );
    assert!(!fs::exists(root.path()));
    check(&target, &entries);

    // Another version over it, with something of the user's beside.
    fs::write(target.join("a/mine"), b"mine").unwrap();
    let root = store.part_root(bench.path("out.part")).unwrap();
    let entries = fetch_tree(&store, &root, 10);
    let refused = store.finish_tree(&root, &target, &entries, Existing::Refuse);
    assert!(matches!(refused, Err(StoreError::TargetExists(_))));
    assert_eq!(
        store
            .finish_tree(&root, &target, &entries, Existing::Overwrite)
            .unwrap(),
        target
    );
    check(&target, &entries);
    assert_eq!(fs::read(target.join("a/mine")).unwrap(), b"mine");
    assert!(!fs::exists(root.path()));

    let root = store.part_root(bench.path("out.part")).unwrap();
    let entries = fetch_tree(&store, &root, 20);
    let renamed = store
        .finish_tree(&root, &target, &entries, Existing::Rename)
        .unwrap();
    assert_eq!(renamed, bench.path("out (1)"));
    check(&renamed, &entries);

    // What is fetched is known when it is shared.
    let hashed = AtomicU64::new(0);
    let report = |done, _| hashed.store(done, Ordering::Relaxed);
    store
        .import_tree(&renamed, &Progress::new(&report, &AtomicBool::new(false)))
        .unwrap();
    assert_eq!(hashed.into_inner(), 0);
}

#[test]
fn many_small_files_need_no_more_open_files_than_there_are() {
    let bench = Bench::new();
    let store = bench.open();
    let root = store.part_root(bench.path("out.part")).unwrap();
    let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut entries = Vec::new();
    for number in 0..600_u64 {
        let name = format!("{}/{number}", number % 7);
        let content = Remote::new(number + 1, number).fetch(&store, &root.entry(&name));
        entries.push((name, content));
    }
    // Other tests open files of their own meanwhile.
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < before + 450);
    let all: Vec<Arc<Content>> = entries
        .iter()
        .map(|(_, content)| Arc::clone(content))
        .collect();
    store.checkpoint(&all).unwrap();
    let target = store
        .finish_tree(&root, &bench.path("out"), &entries, Existing::Refuse)
        .unwrap();
    for (name, content) in &entries {
        assert_eq!(
            ContentId::of(&fs::read(target.join(name)).unwrap()),
            content.id()
        );
        assert_eq!(ContentId::of(&read_all(content)), content.id());
    }
}

#[test]
fn entries_stay_in_their_folder() {
    let bench = Bench::new();
    let store = bench.open();
    let root = store.part_root(bench.path("out.part")).unwrap();
    fs::create_dir(bench.path("elsewhere")).unwrap();
    symlink(bench.path("elsewhere"), root.path().join("way-out")).unwrap();
    symlink(bench.path("elsewhere/file"), root.path().join("link")).unwrap();
    let remote = Remote::new(5, 1);
    for name in ["way-out/file", "../file", "link", "/tmp/file"] {
        store
            .begin(remote.id, remote.geometry(), &root.entry(name))
            .unwrap_err();
    }
    let link = PartFile::at(root.path().join("link"));
    assert!(matches!(
        store.begin(remote.id, remote.geometry(), &link),
        Err(StoreError::NotAPart(_))
    ));
    assert!(fs::is_empty(bench.path("elsewhere")));
    assert!(store.part_root(bench.path("out.part/link")).is_err());
}

#[test]
fn claims_that_cannot_be() {
    let bench = Bench::new();
    let store = bench.open();
    let part = PartFile::at(bench.path("out.part"));
    let (remote, other) = (Remote::new(3 * BLOCK, 1), Remote::new(3 * BLOCK, 2));
    let size = |size| Geometry::new(size).unwrap();
    assert!(matches!(
        store.begin(remote.id, size(0), &part),
        Err(StoreError::WrongSize { .. })
    ));
    assert!(matches!(
        store.begin(ContentId::EMPTY, size(1), &part),
        Err(StoreError::WrongSize { .. })
    ));
    let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
    assert!(matches!(
        store.begin(remote.id, size(9), &part),
        Err(StoreError::WrongSize { .. })
    ));
    assert!(matches!(
        content.write(other.blocks(0..1)),
        Err(StoreError::ForeignBlock(_))
    ));
    let page = other.outline.page(0).unwrap().to_vec();
    assert!(matches!(
        content.add_outline_page(0, page),
        Err(StoreError::Outline(_))
    ));
    assert!(
        content
            .verify(
                remote.geometry().block(0).unwrap(),
                Bytes::from(remote.bytes[..BLOCK_LEN].to_vec())
            )
            .is_err()
    );
    remote.give_outline(&content);
    assert_eq!(
        content.needs(remote.geometry().block(2).unwrap()).unwrap(),
        None
    );
    assert_eq!(content.held_count(), 0);
    assert_eq!(fs::len(part.path()), 0);
}

#[test]
fn one_owner() {
    let bench = Bench::new();
    let store = bench.open();
    let second = bench.open_with(bench.options());
    let pid = std::process::id();
    assert!(matches!(second, Err(StoreError::Locked { pid: Some(owner), .. }) if owner == pid));
    let clone = store.clone();
    drop(store);
    assert!(bench.open_with(bench.options()).is_err());
    drop(clone);
    bench.open();
}

#[test]
fn room() {
    let bench = Bench::new();
    let remote = Remote::new(64 * BLOCK, 1);
    let part = PartFile::at(bench.path("out.part"));
    let begin = |store: &Store| store.begin(remote.id, remote.geometry(), &part);
    let store = bench
        .open_with(StoreOptions {
            quota: 63 * BLOCK,
            ..bench.options()
        })
        .unwrap();
    assert!(
        matches!(begin(&store), Err(StoreError::QuotaFull { needed, .. }) if needed == 64 * BLOCK + index_growth(64 * BLOCK))
    );
    assert!(matches!(
        store.put_object(&remote.bytes),
        Err(StoreError::QuotaFull { .. })
    ));
    store.set_limits(u64::MAX, u64::MAX / 2);
    assert!(
        matches!(begin(&store), Err(StoreError::NoSpace { needed, available: 0 }) if needed == 64 * BLOCK)
    );
    assert!(!fs::exists(part.path()));
    // The index takes some of it.
    store.set_limits(store.usage().total() + 64 * BLOCK, 0);
    let full = begin(&store).unwrap_err();
    assert!(
        matches!(full, StoreError::QuotaFull { .. }),
        "so does what it grows by: {full}"
    );
    store.set_limits(
        store.usage().total() + 64 * BLOCK + index_growth(64 * BLOCK),
        0,
    );
    let content = begin(&store).unwrap();
    assert_eq!(store.usage().partial, 64 * BLOCK);
    let other = Remote::new(1, 2);
    let second = store.begin(
        other.id,
        other.geometry(),
        &PartFile::at(bench.path("other.part")),
    );
    assert!(matches!(second, Err(StoreError::QuotaFull { .. })));
    // What is paid for may go on, at any quota.
    drop(content);
    store.set_limits(0, 0);
    begin(&store).unwrap();
    store.forget(remote.id, true).unwrap();
    assert_eq!(store.usage().partial, 0);
    assert!(!fs::exists(part.path()));
}

#[test]
fn cache() {
    let bench = Bench::new();
    let store = bench
        .open_with(StoreOptions {
            cache_bytes: 4 * BLOCK,
            ..bench.options()
        })
        .unwrap();
    let id = import(&store, &bench.file("f", &bytes(20 * BLOCK, 1))).id;
    let content = store.content(id).unwrap().unwrap();
    let block = |number| content.geometry().block(number).unwrap();
    content.block(block(0)).unwrap();
    assert_eq!(store.cache_stats().bytes, 0, "asked for once");
    content.block(block(0)).unwrap();
    content.block(block(0)).unwrap();
    let stats = store.cache_stats();
    assert_eq!(
        (stats.hits, stats.misses, stats.bytes, stats.capacity),
        (1, 2, BLOCK, 4 * BLOCK)
    );
    for number in (0..20).chain(0..20).chain(0..20) {
        content.block(block(number)).unwrap();
        assert!(store.cache_stats().bytes <= 4 * BLOCK);
    }
    assert!(store.cache_stats().evictions > 0);
    drop((content, store));
    let off = bench
        .open_with(StoreOptions {
            cache_bytes: 0,
            ..bench.options()
        })
        .unwrap();
    let content = off.content(id).unwrap().unwrap();
    content.block(content.geometry().block(0).unwrap()).unwrap();
    assert_eq!(off.cache_stats().bytes, 0);
}

#[test]
fn a_block_in_memory_is_not_read_again() {
    let bench = Bench::new();
    let store = bench.open();
    let data = bytes(2 * BLOCK, 1);
    let path = bench.file("f", &data);
    let content = store.content(import(&store, &path).id).unwrap().unwrap();
    let block = |number| content.geometry().block(number).unwrap();
    for _ in 0..2 {
        content.block(block(0)).unwrap();
    }
    // Written to behind the store's back: whoever reads the file gets something else.
    let touched = std::fs::metadata(&path).unwrap().modified().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; data.len()], 0).unwrap();
    file.set_modified(touched).unwrap();
    for _ in 0..100 {
        let found = content.block(block(0)).unwrap();
        assert_eq!(found.bytes()[..], data[..BLOCK_LEN]);
    }
    assert!(matches!(content.block(block(1)), Err(ReadError::Changed)));
}

#[test]
fn objects() {
    let bench = Bench::new();
    let data = bytes(2 * BLOCK + 1, 1);
    let id = {
        let store = bench.open();
        let id = store.put_object(&data).unwrap();
        assert_eq!(store.put_object(&data).unwrap(), id);
        let source = bench.file("source", &bytes(3 * BLOCK, 2));
        let copied = store.copy_in(&source, &Progress::none()).unwrap();
        assert_eq!(copied, store.copy_in(&source, &Progress::none()).unwrap());
        fs::remove_file(source).unwrap();
        assert_eq!(
            read_all(&store.content(copied.id).unwrap().unwrap()),
            bytes(3 * BLOCK, 2)
        );
        assert_eq!(store.usage().objects, 5 * BLOCK + 1);
        assert_eq!(store.info(id).unwrap().unwrap().path, None);
        id
    };
    // A lost index: objects are found again. A damaged one is not served, and can be put again.
    fs::write(bench.path("store/index.redb"), vec![7; 50_000]).unwrap();
    fs::write(bench.path("store/objects/.tmp-7"), b"left").unwrap();
    let store = bench.open();
    assert!(!fs::exists(bench.path("store/objects/.tmp-7")));
    assert_eq!(read_all(&store.content(id).unwrap().unwrap()), data);
    let name = id.to_string();
    let path = bench.path("store/objects").join(&name[..2]).join(&name);
    fs::write_at(&path, BLOCK, b"??");
    // What is in memory was verified and stays right; what has to be read is found out.
    drop(store);
    let store = bench.open();
    let content = store.content(id).unwrap().unwrap();
    content.block(content.geometry().block(0).unwrap()).unwrap();
    assert!(matches!(
        content.block(content.geometry().block(1).unwrap()),
        Err(ReadError::Changed)
    ));
    assert!(store.content(id).unwrap().is_none());
    assert_eq!(store.put_object(&data).unwrap(), id);
    assert_eq!(read_all(&store.content(id).unwrap().unwrap()), data);
    let forgotten = store.forget(id, false).unwrap();
    assert_eq!(forgotten.deleted, [path]);
}

#[test]
fn forgetting() {
    let bench = Bench::new();
    let store = bench.open();
    let part = PartFile::at(bench.path("x.part"));
    let remote = Remote::new(2 * BLOCK, 1);
    let content = remote.fetch(&store, &part);
    let download = store
        .finish(&content, &part, &bench.path("download"), Existing::Refuse)
        .unwrap();
    let share = bench.file("share", &remote.bytes);
    assert_eq!(import(&store, &share).id, remote.id);
    let record = ShareRecord {
        id: remote.id,
        kind: Kind::File,
        name: "share".to_owned(),
        unlisted: false,
        added: 7,
        watched: false,
        keep: false,
        audience: Default::default(),
    };
    store.add_share(&share, &record).unwrap();
    assert_eq!(store.shares().unwrap(), [(share.clone(), record.clone())]);
    assert_eq!(store.shares_of(remote.id).unwrap().len(), 1);
    let forgotten = store.forget(remote.id, true).unwrap();
    assert_eq!(
        (forgotten.known, forgotten.deleted),
        (true, vec![download.clone()])
    );
    assert!(fs::exists(&share) && !fs::exists(&download));
    assert!(store.info(remote.id).unwrap().is_none() && store.shares().unwrap().is_empty());
    assert!(store.content(remote.id).unwrap().is_none());
    assert_eq!(store.usage().downloads, 0);
    assert!(!store.forget(remote.id, true).unwrap().known);
    // A download that the user changed is the user's.
    let content = remote.fetch(&store, &part);
    let download = store
        .finish(&content, &part, &bench.path("download"), Existing::Refuse)
        .unwrap();
    fs::write(&download, b"edited").unwrap();
    assert!(store.forget(remote.id, true).unwrap().deleted.is_empty());
    assert!(fs::exists(&download));
    // A checkpoint after it brings nothing back.
    let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
    remote.give_outline(&content);
    content.write(remote.blocks(0..1)).unwrap();
    store.forget(remote.id, true).unwrap();
    content.checkpoint().unwrap();
    assert!(everything(&store).is_empty());
    assert!(store.shared.index.held(remote.id).unwrap().is_none());
    store.add_share(&share, &record).unwrap();
    assert_eq!(store.remove_share(&share).unwrap(), Some(record));
    assert_eq!(store.remove_share(&share).unwrap(), None);
}

#[test]
fn manifests() {
    let bench = Bench::new();
    let store = bench.open();
    let id = ContentId::of(b"x");
    let sign = |key: u8, name: &str| {
        let secret = PublisherSecret::from_bytes([key; 32]);
        SignedManifest::sign(Kind::File, id, 1, name, 1, &secret).unwrap()
    };
    for key in 1..=4 {
        assert!(store.add_manifest(&sign(key, "x"), false).unwrap());
    }
    assert!(!store.add_manifest(&sign(5, "x"), false).unwrap());
    assert!(store.add_manifest(&sign(4, "renamed"), false).unwrap());
    assert_eq!(store.manifests(id).unwrap().len(), 4);
    let own = sign(6, "mine");
    assert!(store.add_manifest(&own, true).unwrap());
    let kept = store.manifests(id).unwrap();
    assert_eq!(kept.len(), 4);
    assert!(kept.contains(&own) && kept.contains(&sign(4, "renamed")));
    assert!(store.manifests(ContentId::of(b"y")).unwrap().is_empty());
}

#[test]
fn many_threads_at_once() {
    let bench = Bench::new();
    let store = bench.open();
    let remote = Remote::new(100 * BLOCK, 1);
    let part = PartFile::at(bench.path("out.part"));
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (store, remote, part) = (&store, &remote, &part);
            scope.spawn(move || {
                let content = store.begin(remote.id, remote.geometry(), part).unwrap();
                remote.give_outline(&content);
                for start in (thread * 10..100).step_by(10) {
                    content.write(remote.blocks(start..start + 10)).unwrap();
                    content.checkpoint().unwrap();
                    content
                        .block(remote.geometry().block(start).unwrap())
                        .unwrap();
                }
            });
        }
    });
    let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
    let target = store
        .finish(&content, &part, &bench.path("out"), Existing::Refuse)
        .unwrap();
    assert_eq!(fs::read(target).unwrap(), remote.bytes);
}

/// Bytes on the disk after any damage to the index: the store opens, and serves nothing wrong.
#[test]
fn any_damage_to_the_index_is_survived() {
    let bench = Bench::new();
    let remote = Remote::new(2 * BLOCK, 1);
    let path = bench.file("f", &remote.bytes);
    {
        let store = bench.open();
        import(&store, &path);
        store.put_object(b"object").unwrap();
    }
    let index = bench.path("store/index.redb");
    let sound = fs::read(&index).unwrap();
    let used: Vec<usize> = (0..sound.len()).filter(|at| sound[*at] != 0).collect();
    for round in 0..60_usize {
        let at = used[(round * 7919) % used.len()];
        let mut damaged = sound.clone();
        damaged[at] ^= 0x41;
        fs::write(&index, &damaged).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let Ok(store) = bench.open_with(bench.options()) else {
                return;
            };
            if let Ok(Some(content)) = store.content(remote.id) {
                for number in 0..2 {
                    let Some(index) = content.geometry().block(number) else {
                        continue;
                    };
                    if let Ok(block) = content.block(index) {
                        assert_eq!(block, remote.block(number));
                    }
                }
            }
        }));
        assert!(outcome.is_ok(), "byte {at}");
        let _ = fs::remove_file(bench.path("store/index.redb.damaged"));
    }
}

#[test]
fn builder_and_import_agree() {
    // A guard against a test that compares the store with itself: the outline is that of the pure module.
    let data = bytes(6 * BLOCK + 1, 4);
    let bench = Bench::new();
    let store = bench.open();
    let id = import(&store, &bench.file("f", &data)).id;
    let mut builder = OutlineBuilder::new(Geometry::new(data.len() as u64).unwrap());
    for (chunk, offset) in data.chunks(BLOCK_LEN).zip((0..).step_by(BLOCK_LEN)) {
        builder.push(crate::content::block_value(offset, chunk));
    }
    let (expected, outline) = builder.finish().unwrap();
    assert_eq!(id, expected);
    let content = store.content(id).unwrap().unwrap();
    assert_eq!(content.outline_page(0).unwrap().as_deref(), outline.page(0));
}
