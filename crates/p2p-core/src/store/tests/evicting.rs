//! What makes room, what stays, and what is collected.

use std::time::Duration;

use super::*;
use crate::content::{Collection, Entry, SignedManifest};
use crate::store::space::COMMIT_ROOM;

/// A download in the store's own folder, as a reader leaves it.
fn read(bench: &Bench, store: &Store, remote: &Remote) -> PathBuf {
    let target = store.fetched_dir().join(remote.id.to_string());
    fetch_to(bench, store, remote, &target)
}

fn fetch_to(_: &Bench, store: &Store, remote: &Remote, target: &Path) -> PathBuf {
    let part = PartFile::at(target.with_extension("part"));
    let content = remote.fetch(store, &part);
    store
        .finish(&content, &part, target, Existing::Refuse)
        .unwrap()
}

/// Sets the quota so that `more` bytes of new content fit, and no more.
fn leave(store: &Store, more: u64) {
    let used = store.usage().total();
    store.set_limits(used + more + index_growth(more), 0);
}

fn begin(bench: &Bench, store: &Store, remote: &Remote) -> Result<Arc<Content>, StoreError> {
    let name = format!("{}.part", remote.id);
    store.begin(
        remote.id,
        remote.geometry(),
        &PartFile::at(bench.path(&name)),
    )
}

fn here(store: &Store, remote: &Remote) -> bool {
    store.info(remote.id).unwrap().is_some()
}

#[test]
fn the_one_unused_longest_goes_and_no_more() {
    let bench = Bench::new();
    let store = bench.open();
    let all: Vec<Remote> = (0..4).map(|seed| Remote::new(4 * BLOCK, seed)).collect();
    let paths: Vec<PathBuf> = all
        .iter()
        .map(|remote| read(&bench, &store, remote))
        .collect();
    // The first was the last to be read.
    read_all(&store.content(all[0].id).unwrap().unwrap());
    leave(&store, 2 * BLOCK);
    let wanted = Remote::new(5 * BLOCK, 9);
    let content = begin(&bench, &store, &wanted).unwrap();
    let left: Vec<bool> = all.iter().map(|remote| here(&store, remote)).collect();
    assert_eq!(left, [true, false, true, true]);
    assert!(!paths[1].exists() && paths[0].exists());
    assert!(store.content(all[1].id).unwrap().is_none());
    assert_eq!(store.manifests(all[1].id).unwrap(), []);
    let told = store.take_evicted();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].id, told[0].bytes), (all[1].id, 4 * BLOCK));
    assert!(store.take_evicted().is_empty());
    drop(content);
    // More than all of it: refused, and nothing went.
    let huge = Remote::new(40 * BLOCK, 10);
    let refused = begin(&bench, &store, &huge).unwrap_err();
    assert!(matches!(refused, StoreError::QuotaFull { .. }), "{refused}");
    assert!(paths[0].exists() && paths[2].exists() && paths[3].exists());
}

#[test]
fn a_small_one_stays_if_a_large_one_is_enough() {
    let bench = Bench::new();
    let store = bench.open();
    let small = Remote::new(BLOCK, 1);
    let large = Remote::new(8 * BLOCK, 2);
    read(&bench, &store, &small);
    read(&bench, &store, &large);
    leave(&store, 0);
    begin(&bench, &store, &Remote::new(7 * BLOCK, 3)).unwrap();
    assert!(here(&store, &small) && !here(&store, &large));
}

#[test]
fn what_is_in_use_pinned_shared_or_changed_stays() {
    let bench = Bench::new();
    let store = bench.open();
    let all: Vec<Remote> = (0..5).map(|seed| Remote::new(2 * BLOCK, seed)).collect();
    let paths: Vec<PathBuf> = all
        .iter()
        .map(|remote| read(&bench, &store, remote))
        .collect();
    let in_use = store.content(all[0].id).unwrap().unwrap();
    assert_eq!(store.pin(all[1].id).unwrap(), Some(true));
    assert_eq!(store.pin(all[1].id).unwrap(), Some(false));
    assert_eq!(store.pin(ContentId::of(b"unknown")).unwrap(), None);
    let share = ShareRecord {
        id: all[2].id,
        kind: Kind::File,
        name: "shared".into(),
        unlisted: false,
        added: 1,
        watched: false,
        keep: false,
        audience: Default::default(),
    };
    store.add_share(&paths[2], &share).unwrap();
    fs::write(&paths[3], b"mine now").unwrap();
    import(&store, &bench.file("the same again", &all[4].bytes));
    leave(&store, 0);
    let wanted = Remote::new(BLOCK, 9);
    let refused = begin(&bench, &store, &wanted).unwrap_err();
    assert!(matches!(refused, StoreError::QuotaFull { .. }), "{refused}");
    assert!(paths.iter().all(|path| path.exists()));
    // Many others do not make the store forget who is in use.
    let folder: Vec<PathBuf> = (0..600)
        .map(|number| bench.file(&format!("many/{number}"), &bytes(9, 1000 + number)))
        .collect();
    store.set_limits(u64::MAX, 0);
    for path in &folder {
        let id = import(&store, path).id;
        store.content(id).unwrap().unwrap();
    }
    leave(&store, 0);
    assert!(begin(&bench, &store, &wanted).is_err());
    drop(in_use);
    begin(&bench, &store, &wanted).unwrap();
    assert!(!paths[0].exists() && paths[1].exists());
    // A pin taken back is no pin; one that is not survives.
    drop(store);
    let store = bench.open();
    assert_eq!(store.pins().unwrap().len(), 1);
    assert!(store.unpin(all[1].id).unwrap() && !store.unpin(all[1].id).unwrap());
    leave(&store, 0);
    begin(&bench, &store, &Remote::new(BLOCK, 10)).unwrap();
    assert!(!paths[1].exists());
}

#[test]
fn files_at_a_place_that_was_named_go_only_if_told() {
    let bench = Bench::new();
    let store = bench.open();
    let mine = Remote::new(4 * BLOCK, 1);
    let target = fetch_to(&bench, &store, &mine, &bench.path("film"));
    leave(&store, 0);
    let wanted = Remote::new(BLOCK, 2);
    assert!(begin(&bench, &store, &wanted).is_err());
    store.set_evict(Evict::Off);
    assert!(begin(&bench, &store, &wanted).is_err());
    assert!(store.collect(Duration::ZERO, true).unwrap().evicted.count == 0 && target.exists());
    store.set_evict(Evict::Downloads);
    begin(&bench, &store, &wanted).unwrap();
    assert!(!target.exists());
}

#[test]
fn a_pinned_folder_keeps_its_files_and_a_listing_its_use() {
    let bench = Bench::new();
    let store = bench.open();
    let (a, b) = (Remote::new(2 * BLOCK, 1), Remote::new(2 * BLOCK, 2));
    let entry = |path: &str, remote: &Remote| Entry {
        path: path.into(),
        size: remote.geometry().size(),
        content: remote.id,
        attributes: None,
    };
    let listing = Collection::from_entries(vec![entry("a", &a), entry("b", &b)]).unwrap();
    let bytes = listing.encode();
    let (id, outline) = Outline::of(&bytes).unwrap();
    let folder = Remote { bytes, id, outline };
    for remote in [&folder, &a, &b] {
        read(&bench, &store, remote);
    }
    let secret = PublisherSecret::from_bytes([7; 32]);
    let size = folder.geometry().size();
    let manifest = SignedManifest::sign(Kind::Collection, id, size, "folder", 1, &secret).unwrap();
    store.add_manifest(&manifest, false).unwrap();
    store.pin(id).unwrap();
    let stat = store.stat().unwrap();
    assert_eq!((stat.pinned.count, stat.downloads.count), (3, 3));
    leave(&store, 0);
    assert!(begin(&bench, &store, &Remote::new(BLOCK, 3)).is_err());
    store.unpin(id).unwrap();
    assert_eq!(
        store.evict_all().unwrap().len(),
        2,
        "the listing is of use until its files are gone"
    );
    assert_eq!(store.evict_all().unwrap().len(), 1);
}

#[test]
fn a_lowered_quota_evicts_what_may_go() {
    let bench = Bench::new();
    let store = bench.open();
    let all: Vec<Remote> = (0..3).map(|seed| Remote::new(4 * BLOCK, seed)).collect();
    all.iter()
        .for_each(|remote| _ = read(&bench, &store, remote));
    store.pin(all[0].id).unwrap();
    store.set_limits(store.usage().total() - BLOCK, 0);
    let gone = store.shrink().unwrap();
    assert_eq!(
        gone.iter().map(|gone| gone.id).collect::<Vec<_>>(),
        [all[1].id]
    );
    store.set_limits(COMMIT_ROOM, 0);
    assert_eq!(store.shrink().unwrap().len(), 1);
    assert!(here(&store, &all[0]) && store.usage().total() > COMMIT_ROOM);
    assert!(store.put_object(b"more").is_err());
}

#[test]
fn two_that_ask_at_once_do_not_get_the_same_room() {
    let bench = Bench::new();
    let store = bench.open();
    leave(&store, 4 * BLOCK);
    let wanted: Vec<Remote> = (0..8).map(|seed| Remote::new(3 * BLOCK, seed)).collect();
    let given: Vec<_> = std::thread::scope(|scope| {
        let begun: Vec<_> = wanted
            .iter()
            .map(|remote| scope.spawn(|| begin(&bench, &store, remote)))
            .collect();
        begun
            .into_iter()
            .map(|begun| begun.join().unwrap())
            .collect()
    });
    assert_eq!(given.iter().filter(|begun| begun.is_ok()).count(), 1);
}

#[test]
fn a_folder_that_does_not_fit_is_refused_as_a_whole() {
    let bench = Bench::new();
    let store = bench.open();
    let remotes: Vec<Remote> = (0..4).map(|seed| Remote::new(BLOCK, seed)).collect();
    let wanted: Vec<Wanted> = remotes
        .iter()
        .map(|remote| Wanted {
            id: remote.id,
            geometry: remote.geometry(),
            copies: 2,
            there: 0,
        })
        .collect();
    let folder = bench.path("");
    leave(&store, 7 * BLOCK);
    assert!(matches!(
        store.reserve(&folder, &wanted),
        Err(StoreError::QuotaFull { .. })
    ));
    leave(&store, 8 * BLOCK + 4 * index_growth(BLOCK));
    let used = store.usage().total();
    let room = store.reserve(&folder, &wanted).unwrap();
    assert!(store.reserve(&folder, &wanted).is_err(), "it is taken");
    for remote in &remotes {
        let part = PartFile::at(bench.path(&remote.id.to_string()));
        store
            .begin_within(remote.id, remote.geometry(), &part, &room)
            .unwrap();
    }
    assert_eq!(
        room.left().counted,
        4 * BLOCK,
        "what is left is for the copies"
    );
    drop(room);
    assert!(store.usage().total() < used + 5 * BLOCK);
    assert_eq!(store.shared.promised(), 0, "nobody holds them any more");
}

#[test]
fn what_nothing_refers_to_is_collected() {
    let bench = Bench::new();
    let grace = Duration::from_secs(3600);
    let store = bench.open();
    let listing = store.put_object(&bytes(3 * BLOCK, 1)).unwrap();
    let shared = store.put_object(&bytes(2 * BLOCK, 2)).unwrap();
    let share = ShareRecord {
        id: shared,
        kind: Kind::Collection,
        name: "folder".into(),
        unlisted: false,
        added: 1,
        watched: false,
        keep: false,
        audience: Default::default(),
    };
    store.add_share(&bench.path("folder"), &share).unwrap();
    let gone = Remote::new(2 * BLOCK, 3);
    let path = read(&bench, &store, &gone);
    let kept = Remote::new(2 * BLOCK, 4);
    let own = fetch_to(&bench, &store, &kept, &bench.path("mine"));
    let cached = Remote::new(BLOCK, 5);
    read(&bench, &store, &cached);
    let abandoned = Remote::new(4 * BLOCK, 6);
    let part = PartFile::at(store.fetched_dir().join("left.part"));
    drop(abandoned.fetch(&store, &part));
    fs::remove_file(path).unwrap();
    let stray = store.fetched_dir().join("stray");
    fs::write(&stray, b"nobody knows it").unwrap();
    fs::write(bench.path("store/objects/.tmp-99999999"), b"half").unwrap();

    let collected = store.collect(grace, false).unwrap();
    assert_eq!(
        collected.leftovers.count, 1,
        "what is new may be about to be referred to: {collected:?}"
    );
    assert!(collected.ids.is_empty() && stray.exists());
    // Two seconds on, nothing is new any more.
    let collected = store.collect(Duration::ZERO, false).unwrap();
    assert_eq!(
        (collected.objects.count, collected.gone.count),
        (1, 1),
        "{collected:?}"
    );
    assert!(!stray.exists() && store.info(listing).unwrap().is_none());
    assert!(store.info(shared).unwrap().is_some() && own.exists() && part.path().exists());
    assert!(here(&store, &cached));
    let collected = store.collect(Duration::ZERO, true).unwrap();
    assert_eq!(collected.evicted.count, 2, "{collected:?}");
    assert!(own.exists() && !part.path().exists() && !here(&store, &cached));
    let left = store.usage();
    assert_eq!(
        (left.downloads, left.partial, left.objects),
        (2 * BLOCK, 0, 2 * BLOCK)
    );
}

#[test]
fn damage_is_found_and_put_aside() {
    let bench = Bench::new();
    let store = bench.open();
    let object = store.put_object(&bytes(3 * BLOCK, 1)).unwrap();
    let shared = bench.file("shared", &bytes(3 * BLOCK, 2));
    let in_place = import(&store, &shared).id;
    let good = import(&store, &bench.file("good", &bytes(2 * BLOCK, 3))).id;
    let edited = bench.file("edited", b"before");
    let changed = import(&store, &edited).id;
    let remote = Remote::new(4 * BLOCK, 4);
    let part = PartFile::at(bench.path("out.part"));
    let content = remote.fetch(&store, &part);
    let clean = |store: &Store| store.verify(&Progress::none()).unwrap();
    let found = clean(&store);
    assert!(found.damage.is_empty() && !found.is_damaged(), "{found:?}");
    assert_eq!((found.contents, found.bytes), (5, 12 * BLOCK + 6));

    let object_file = store.shared.object_path(object);
    alter_silently(&object_file, &bench);
    alter_silently(&shared, &bench);
    alter_silently(&part.path(), &bench);
    fs::write(&edited, b"after").unwrap();
    let found = clean(&store);
    let mut what: Vec<(ContentId, What)> = found
        .damage
        .iter()
        .map(|damage| (damage.id, damage.what))
        .collect();
    what.sort_by_key(|(id, _)| *id);
    let mut expected = vec![
        (object, What::Damaged),
        (in_place, What::Damaged),
        (remote.id, What::Damaged),
        (changed, What::Changed),
    ];
    expected.sort_by_key(|(id, _)| *id);
    assert_eq!(what, expected);
    assert!(found.is_damaged());
    // Nothing of it is served, and nothing was deleted.
    for id in [object, in_place, changed] {
        assert!(store.content(id).unwrap().is_none());
    }
    assert!(shared.exists() && edited.exists() && !object_file.exists());
    assert!(object_file.with_extension("damaged").exists());
    assert_eq!(store.stat().unwrap().damaged.count, 1);
    assert_eq!(content.held_count(), 3, "the block is fetched again");
    assert!(store.content(good).unwrap().is_some());
    assert!(!clean(&store).is_damaged(), "told once");
    // It can be had anew.
    assert_eq!(store.put_object(&bytes(3 * BLOCK, 1)).unwrap(), object);
    assert_eq!(
        read_all(&store.content(object).unwrap().unwrap()),
        bytes(3 * BLOCK, 1)
    );
    let cancel = AtomicBool::new(true);
    let stopped = store.verify(&Progress::new(&|_, _| {}, &cancel));
    assert!(matches!(stopped, Err(ImportError::Cancelled)));
}

#[test]
fn a_lost_index_leaves_what_was_read_counted() {
    let bench = Bench::new();
    let remote = Remote::new(3 * BLOCK, 1);
    let path = {
        let store = bench.open();
        read(&bench, &store, &remote)
    };
    fs::remove_file(bench.path("store/index.redb")).unwrap();
    let store = bench.open();
    assert_eq!(store.usage().downloads, 3 * BLOCK);
    assert_eq!(
        read_all(&store.content(remote.id).unwrap().unwrap()),
        remote.bytes
    );
    drop(store);
    let store = bench.open();
    assert_eq!(store.evict_all().unwrap().len(), 1);
    assert!(!path.exists());
}

/// Whoever needs room next goes on where the one before has stopped to look, and yet nothing goes that was used since, or
/// stays that may go by now.
#[test]
fn one_after_the_other_goes_in_the_order_of_use() {
    let bench = Bench::new();
    let store = bench.open();
    let old: Vec<Remote> = (0..8).map(|seed| Remote::new(2 * BLOCK, seed)).collect();
    for remote in &old {
        read(&bench, &store, remote);
    }
    store.pin(old[0].id).unwrap();
    leave(&store, BLOCK);
    let mut new = (100..).map(|seed| Remote::new(2 * BLOCK, seed));
    let mut gone = || {
        read(&bench, &store, &new.next().unwrap());
        let gone = store.take_evicted().into_iter();
        gone.map(|gone| old.iter().position(|of| of.id == gone.id).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(gone(), [1]);
    read_all(&store.content(old[2].id).unwrap().unwrap());
    assert_eq!(gone(), [3]);
    let in_use = store.content(old[4].id).unwrap();
    assert_eq!(gone(), [5]);
    drop(in_use);
    assert_eq!(gone(), [6]);
    store.unpin(old[0].id).unwrap();
    assert_eq!(gone(), [0]);
    assert_eq!(gone(), [7]);
}
