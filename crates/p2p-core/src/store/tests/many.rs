//! Many small files at once.

use super::*;
use crate::store::space::index_growth;

// All but those about links.
in_memory_too!(
    begun_together,
    killed_between,
    as_many_as_there_is_room_for,
    a_sync_of_many_that_fails_is_not_believed,
    what_is_still_to_be_written,
);

/// Small contents, and where in a folder each goes.
fn small(root: &PartRoot, count: u64) -> (Vec<Remote>, Vec<(ContentId, Geometry, PartFile)>) {
    let remotes: Vec<Remote> = (0..count)
        .map(|number| Remote::new(100 + number, number))
        .collect();
    let wanted = remotes.iter().enumerate().map(|(number, remote)| {
        let part = root.entry(&format!("{}/{number}", number % 3));
        (remote.id, remote.geometry(), part)
    });
    let wanted = wanted.collect();
    (remotes, wanted)
}

fn begin_all(
    store: &Store,
    wanted: &[(ContentId, Geometry, PartFile)],
) -> Vec<Result<Arc<Content>, StoreError>> {
    store.begin_all(wanted, None).unwrap()
}

fn begun(store: &Store, wanted: &[(ContentId, Geometry, PartFile)]) -> Vec<Arc<Content>> {
    let all = begin_all(store, wanted).into_iter();
    all.map(Result::unwrap).collect()
}

/// The store as a process finds it that is started after this one was killed now.
fn after_a_kill(bench: &Bench) -> Store {
    let copy = bench.path("after");
    let index = fs::read(bench.path("store/index.redb")).unwrap();
    bench.file("after/index.redb", &index);
    let options = StoreOptions {
        dir: copy,
        ..bench.options()
    };
    bench.open_with(options).unwrap()
}

#[test]
fn begun_together() {
    let bench = Bench::new();
    let store = bench.open();
    let root = store.part_root(bench.path("out.part")).unwrap();
    let (remotes, wanted) = small(&root, 300);
    let contents = begun(&store, &wanted);
    assert!(
        wanted.iter().all(|(.., part)| !fs::exists(part.path())),
        "made when written"
    );
    let bytes: u64 = remotes.iter().map(|remote| remote.bytes.len() as u64).sum();
    assert_eq!(store.usage().partial, bytes);
    assert_eq!(store.shared.promised(), bytes);
    let again = begun(&store, &wanted);
    assert!(contents.iter().zip(&again).all(|(a, b)| Arc::ptr_eq(a, b)));
    let mut entries = Vec::new();
    for (number, (content, remote)) in contents.iter().zip(&remotes).enumerate() {
        assert_eq!(content.held_count(), 0);
        content.write(remote.blocks(0..1)).unwrap();
        // A second peer sent it too.
        content.write(remote.blocks(0..1)).unwrap();
        assert_eq!(read_all(content), remote.bytes);
        entries.push((format!("{}/{number}", number % 3), Arc::clone(content)));
    }
    assert_eq!(store.shared.promised(), 0);
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let target = store
        .finish_tree(&root, &bench.path("out"), &entries, Existing::Refuse)
        .unwrap();
    for (name, content) in &entries {
        assert_eq!(
            ContentId::of(&fs::read(target.join(name)).unwrap()),
            content.id()
        );
        assert_eq!(
            store.info(content.id()).unwrap().unwrap().state,
            State::Complete
        );
    }
    let usage = store.usage();
    assert_eq!((usage.partial, usage.downloads), (0, bytes));
}

#[test]
fn killed_between() {
    for saved in [false, true] {
        let bench = Bench::new();
        let store = bench.open();
        let root = store.part_root(bench.path("out.part")).unwrap();
        let (remotes, wanted) = small(&root, 300);
        let contents = begun(&store, &wanted);
        let write = |range: std::ops::Range<usize>| {
            for (content, remote) in contents[range.clone()].iter().zip(&remotes[range]) {
                content.write(remote.blocks(0..1)).unwrap();
            }
        };
        write(0..280);
        if saved {
            store.checkpoint(&contents).unwrap();
        }
        write(280..290);
        // One that was cut off in the middle.
        fs::write(wanted[289].2.path(), &remotes[289].bytes[..50]).unwrap();

        let store = after_a_kill(&bench);
        let record = |number: usize| store.shared.index.held(remotes[number].id).unwrap();
        assert_eq!(record(279).is_some(), saved);
        assert!(record(285).is_none());
        let contents = begun(&store, &wanted);
        for (number, content) in contents.iter().enumerate() {
            assert_eq!(content.is_complete(), number < 289, "{number}");
        }
        for (content, remote) in contents.iter().zip(&remotes) {
            content.write(remote.blocks(0..1)).unwrap();
            assert_eq!(read_all(content), remote.bytes);
        }
    }
}

#[test]
fn as_many_as_there_is_room_for() {
    let bench = Bench::new();
    let store = bench.open();
    let root = store.part_root(bench.path("out.part")).unwrap();
    let (remotes, wanted) = small(&root, 5);
    store.set_limits(u64::MAX, u64::MAX / 2);
    for refused in begin_all(&store, &wanted) {
        assert!(matches!(refused, Err(StoreError::NoSpace { .. })));
    }
    let three: u64 = [100, 101, 102]
        .map(|size| size + index_growth(size))
        .iter()
        .sum();
    store.set_limits(store.usage().total() + three + 50, 0);
    let some = begin_all(&store, &wanted);
    for (number, content) in some.iter().enumerate() {
        match content {
            Ok(_) => assert!(number < 3),
            Err(error) => {
                assert!(number >= 3, "{number}: {error}");
                assert!(matches!(error, StoreError::QuotaFull { .. }), "{error}");
            }
        }
    }
    assert_eq!(store.usage().partial, 100 + 101 + 102);
    assert!(store.info(remotes[3].id).unwrap().is_none());
    some[2]
        .as_ref()
        .unwrap()
        .write(remotes[2].blocks(0..1))
        .unwrap();
    // What is paid for may go on, at any quota.
    drop(some);
    store.set_limits(0, 0);
    let again = begin_all(&store, &wanted);
    assert_eq!(again.iter().filter(|content| content.is_ok()).count(), 3);
    assert!(again[2].as_ref().unwrap().is_complete());
}

#[test]
fn one_that_cannot_be_is_in_nobodys_way() {
    let bench = Bench::new();
    let store = bench.open();
    let root = store.part_root(bench.path("out.part")).unwrap();
    let (remotes, mut wanted) = small(&root, 8);
    let complete = import(&store, &bench.file("mine", &remotes[0].bytes)).id;
    wanted[1].1 = Geometry::new(0).unwrap();
    wanted[2].2 = root.entry("link");
    symlink(bench.path("elsewhere"), root.path().join("link")).unwrap();
    fs::create_dir(bench.path("outside")).unwrap();
    symlink(bench.path("outside"), root.path().join("way-out")).unwrap();
    wanted[3].2 = root.entry("way-out/file");
    wanted[4] = (wanted[5].0, Geometry::new(9).unwrap(), wanted[4].2.clone());
    wanted.push((wanted[5].0, wanted[5].1, root.entry("twice")));
    let large = Remote::new(2 * BLOCK, 50);
    wanted.push((large.id, large.geometry(), root.entry("large")));

    let begun = begin_all(&store, &wanted);
    assert!(matches!(begun[0], Err(StoreError::AlreadyComplete(id)) if id == complete));
    assert!(matches!(begun[1], Err(StoreError::WrongSize { .. })));
    assert!(matches!(begun[2], Err(StoreError::NotAPart(_))));
    // What a link leads to is found when the file is to be made.
    let astray = begun[3].as_ref().unwrap();
    astray.write(remotes[3].blocks(0..1)).unwrap_err();
    assert_eq!(astray.held_count(), 0);
    assert!(fs::is_empty(bench.path("outside")));
    assert!(!fs::exists(bench.path("elsewhere")));
    // The first claim of a size stands until it is disproved.
    assert!(begun[4].is_ok());
    assert!(matches!(begun[5], Err(StoreError::WrongSize { .. })));
    assert!(matches!(begun[8], Err(StoreError::WrongSize { .. })));
    for number in [6, 7] {
        let content = begun[number].as_ref().unwrap();
        content.write(remotes[number].blocks(0..1)).unwrap();
    }
    let content = begun[9].as_ref().unwrap();
    large.give_outline(content);
    content.write(large.blocks(0..2)).unwrap();
    assert!(content.is_complete());
}

#[test]
fn a_file_that_changed_before_the_end_is_not_finished() {
    let bench = Bench::new();
    let store = bench.open();
    let root = store.part_root(bench.path("out.part")).unwrap();
    let (remotes, wanted) = small(&root, 3);
    let contents = begun(&store, &wanted);
    let mut entries = Vec::new();
    for (number, (content, remote)) in contents.iter().zip(&remotes).enumerate() {
        content.write(remote.blocks(0..1)).unwrap();
        entries.push((format!("{number}/{number}"), Arc::clone(content)));
    }
    let finish =
        |name: &str| store.finish_tree(&root, &bench.path(name), &entries, Existing::Refuse);
    fs::write(wanted[1].2.path(), b"short").unwrap();
    assert!(matches!(finish("out"), Err(StoreError::Incomplete { .. })));
    fs::remove_file(wanted[1].2.path()).unwrap();
    assert!(finish("out").is_err());
    symlink(bench.path("elsewhere"), wanted[1].2.path()).unwrap();
    assert!(matches!(finish("out"), Err(StoreError::NotAPart(_))));
    assert!(!fs::exists(bench.path("out")));
    // What something else left at the end of a file is cut off.
    fs::remove_file(wanted[1].2.path()).unwrap();
    fs::write(
        wanted[1].2.path(),
        [&remotes[1].bytes[..], b"more"].concat(),
    )
    .unwrap();
    let target = finish("out").unwrap();
    assert_eq!(fs::read(target.join("1/1")).unwrap(), remotes[1].bytes);
}

#[test]
fn a_sync_of_many_that_fails_is_not_believed() {
    let (bench, faults) = Bench::with_faults();
    let store = bench.open();
    let root = store.part_root(bench.path("out.part")).unwrap();
    let (remotes, wanted) = small(&root, 300);
    let contents = begun(&store, &wanted);
    for (content, remote) in contents.iter().zip(&remotes) {
        content.write(remote.blocks(0..1)).unwrap();
    }
    faults.fail_syncs(true);
    let failed = store.checkpoint(&contents);
    faults.fail_syncs(false);
    assert!(matches!(failed, Err(StoreError::Sync { .. })), "{failed:?}");
    assert!(matches!(
        store.checkpoint(&contents),
        Err(StoreError::Sync { .. })
    ));
    for (content, remote) in contents.iter().zip(&remotes) {
        assert!(store.shared.index.held(remote.id).unwrap().is_none());
        assert!(content.is_unsynced());
    }
    // Begun again, the files are read, and what the sync lost is not there.
    let again = begun(&store, &wanted);
    assert!(contents.iter().zip(&again).all(|(a, b)| !Arc::ptr_eq(a, b)));
    for (content, remote) in again.iter().zip(&remotes) {
        assert!(!content.is_complete());
        content.write(remote.blocks(0..1)).unwrap();
    }
    let entries: Vec<_> = again
        .iter()
        .enumerate()
        .map(|(number, content)| (format!("{}/{number}", number % 3), Arc::clone(content)))
        .collect();
    faults.fail_syncs(true);
    let failed = store.finish_tree(&root, &bench.path("out"), &entries, Existing::Refuse);
    faults.fail_syncs(false);
    assert!(matches!(failed, Err(StoreError::Sync { .. })), "{failed:?}");
    assert!(!fs::exists(bench.path("out")));
    let all = everything(&store);
    assert_eq!(all.len(), entries.len());
    assert!(all.iter().all(|info| info.state == State::Partial));
}

#[test]
fn what_is_still_to_be_written() {
    let (bench, faults) = Bench::with_faults();
    let store = bench.open();
    let remote = Remote::new(10 * BLOCK + 1, 1);
    let part = PartFile::at(bench.path("out.part"));
    let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
    remote.give_outline(&content);
    assert_eq!(store.shared.promised(), 10 * BLOCK + 1);
    content.write(remote.blocks(0..4)).unwrap();
    assert_eq!(store.shared.promised(), 6 * BLOCK + 1);
    content.checkpoint().unwrap();
    drop(content);
    assert_eq!(store.shared.promised(), 0);
    let content = store.begin(remote.id, remote.geometry(), &part).unwrap();
    assert_eq!(store.shared.promised(), 6 * BLOCK + 1);
    content.write(remote.blocks(4..5)).unwrap();
    faults.fail_syncs(true);
    content.checkpoint().unwrap_err();
    faults.fail_syncs(false);
    assert_eq!(store.shared.promised(), 0, "it is written no more");
    let again = store.begin(remote.id, remote.geometry(), &part).unwrap();
    again.write(remote.blocks(0..11)).unwrap();
    assert_eq!(store.shared.promised(), 0);
}
