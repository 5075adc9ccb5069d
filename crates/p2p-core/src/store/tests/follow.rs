//! Looks at places that others write to.

use super::*;

fn look(store: &Store, root: &Path, places: &[&str], gone: &[PathBuf]) -> Tree {
    let quiet: Vec<PathBuf> = places.iter().map(PathBuf::from).collect();
    let look = Look {
        quiet: &quiet,
        busy: &[],
        gone,
        settle: Duration::ZERO,
    };
    store.look(root, &look, &Progress::none()).unwrap()
}

fn names(tree: &Tree) -> Vec<&str> {
    tree.entries.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn only_what_is_dirty_is_looked_at() {
    let bench = Bench::new();
    let store = bench.open();
    for name in ["a", "a b", "d/a", "d/b", "d.e/a"] {
        bench.file(&format!("root/{name}"), name.as_bytes());
    }
    let root = bench.path("root");
    let all = look(&store, &root, &[""], &[]);
    assert_eq!(names(&all), ["a", "a b", "d.e/a", "d/a", "d/b"]);
    assert_eq!(store.hash_stats().files, 5);
    bench.file("root/a", b"other");
    bench.file("root/d/b", b"other too");
    fs::remove_file(root.join("d/a")).unwrap();
    let some = look(&store, &root, &["d", "d/b"], &[]);
    assert_eq!(names(&some), ["d/b"]);
    assert_eq!(some.gone, [root.join("d/a")]);
    assert_eq!(store.hash_stats().files, 6);
    let rest = look(&store, &root, &["a"], &[]);
    assert_eq!(names(&rest), ["a"]);
    assert_eq!(store.hash_stats().files, 7);
    let again = look(&store, &root, &[""], &[]);
    assert_eq!(names(&again), ["a", "a b", "d.e/a", "d/b"]);
    assert_eq!(store.hash_stats().files, 7);
}

#[test]
fn what_cannot_be_shared_does_not_keep_the_rest_from_being_shared() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let store = bench.open();
    let root = bench.path("root");
    bench.file("outside/secret", b"secret");
    for name in ["good", "good.txt~", "x.part", "con"] {
        bench.file(&format!("root/{name}"), b"1");
    }
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "1").unwrap();
    symlink(bench.path("outside"), root.join("link")).unwrap();
    let all = look(&store, &root, &[""], &[]);
    assert_eq!(names(&all), ["good"]);
    let mut why: Vec<Skipped> = all.skipped.iter().map(|(_, why)| *why).collect();
    why.sort_by_key(|why| *why as u8);
    let expected = [
        Skipped::Link,
        Skipped::Partial,
        Skipped::Temporary,
        Skipped::Name,
        Skipped::Name,
    ];
    assert_eq!(why, expected);
    // Nor does a place that leads out of the folder.
    let through = look(&store, &root, &["link/secret", "good.txt~", "good/x"], &[]);
    assert_eq!(names(&through), Vec::<&str>::new());
    let error = store.import_tree(&root, &Progress::none()).unwrap_err();
    assert!(matches!(
        error,
        ImportError::NameNotUtf8 { .. } | ImportError::NameRefused { .. }
    ));
}

#[test]
fn a_file_is_known_again_by_its_stamp() {
    let bench = Bench::new();
    let store = bench.open();
    let (one, two) = (bench.path("one"), bench.path("two"));
    let data = bytes(3 * BLOCK, 1);
    bench.file("one/a", &data);
    fs::create_dir(&two).unwrap();
    let id = look(&store, &one, &[""], &[]).entries[0].1.id;
    let read = |store: &Store| -> Option<Bytes> {
        let content = store.content(id).unwrap()?;
        let block = content.geometry().block(2).unwrap();
        content.block(block).ok().map(|block| block.bytes().clone())
    };
    assert!(read(&store).is_some());

    fs::rename(one.join("a"), two.join("b")).unwrap();
    let doubted = store.doubt(&[one.join("a"), two.join("b")]).unwrap();
    assert_eq!(doubted.len(), 1);
    assert_eq!(store.info(id).unwrap().unwrap().state, State::Missing);
    assert_eq!(read(&store), None);
    // Without being told where it was, it would be hashed.
    let moved = look(&store, &two, &["b"], &[one.join("a")]);
    assert_eq!(moved.entries[0].1.id, id);
    assert!(read(&store).is_some());
    assert_eq!(store.info(id).unwrap().unwrap().path, Some(two.join("b")));

    // Away and back.
    fs::rename(two.join("b"), bench.path("away")).unwrap();
    store.doubt(&[two.join("b")]).unwrap();
    assert_eq!(read(&store), None);
    fs::rename(bench.path("away"), two.join("b")).unwrap();
    assert_eq!(names(&look(&store, &two, &["b"], &[])), ["b"]);
    assert!(read(&store).is_some());
    assert_eq!(store.hash_stats().files, 1);

    // A hard link is another file at two places, not a move.
    std::fs::hard_link(two.join("b"), two.join("c")).unwrap();
    assert_eq!(names(&look(&store, &two, &["c"], &[])), ["c"]);
    assert_eq!(names(&look(&store, &two, &[""], &[])), ["b", "c"]);

    // Gone for good.
    fs::remove_file(two.join("b")).unwrap();
    fs::remove_file(two.join("c")).unwrap();
    store.forget_gone(std::slice::from_ref(&two)).unwrap();
    assert!(store.info(id).unwrap().is_none());
}

#[test]
fn who_is_being_served_gets_no_more_of_a_file_that_changed() {
    let bench = Bench::new();
    let store = bench.open();
    let path = bench.file("root/a", &bytes(3 * BLOCK, 2));
    let root = bench.path("root");
    let id = look(&store, &root, &[""], &[]).entries[0].1.id;
    let content = store.content(id).unwrap().unwrap();
    let block = |n| content.block(content.geometry().block(n).unwrap());
    assert!(block(0).is_ok());
    fs::write(&path, "other").unwrap();
    assert_eq!(store.doubt(&[path]).unwrap().len(), 1);
    assert!(
        matches!(block(0), Err(ReadError::Changed)),
        "though it is in the cache"
    );
    assert!(store.content(id).unwrap().is_none());
    assert_eq!(store.retire(&[id]).unwrap(), [id]);
    assert!(
        store.info(id).unwrap().is_none(),
        "an old version is forgotten"
    );
}

#[test]
fn a_file_that_was_written_to_lately_is_left_for_later() {
    let bench = Bench::new();
    let store = bench.open();
    bench.file("root/new", b"1");
    let old = bench.file("root/old", b"2");
    let file = std::fs::File::options().write(true).open(old).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200))
        .unwrap();
    let root = bench.path("root");
    let everything = [PathBuf::new()];
    let settle = Look {
        quiet: &everything,
        busy: &[],
        gone: &[],
        settle: Duration::from_secs(3600),
    };
    let tree = store.look(&root, &settle, &Progress::none()).unwrap();
    assert_eq!(names(&tree), ["old"]);
    assert_eq!(tree.unsettled, [root.join("new")]);
    let busy = ["old".into()];
    let settle = Look {
        quiet: &[],
        busy: &busy,
        ..settle
    };
    // One of which something was heard, but which is as it was.
    let tree = store.look(&root, &settle, &Progress::none()).unwrap();
    assert_eq!(names(&tree), ["old"]);
}
