//! Files and folders go from daemon to daemon and come out as they went in.

use std::collections::BTreeSet;

use p2p_tests::{Daemon, Sandbox, files};

fn pair(sandbox: &Sandbox) -> (Daemon, Daemon) {
    let from = sandbox.home("from").start();
    let to = sandbox.home("to").bootstrap([&from]).start();
    to.wait_connected([&from]);
    (from, to)
}

/// Around the size of a block, and beyond the 256 MiB of the first page of an outline.
#[test]
fn files_of_all_sizes_arrive_bit_by_bit() {
    let sandbox = Sandbox::new();
    let (from, to) = pair(&sandbox);
    for size in [0, 1, 262_143, 262_144, 262_145, 300 << 20] {
        let name = format!("{size} bytes.bin");
        let path = sandbox.noise(&name, size, size);
        let sum = files::b3sum(&path);
        let shared = from.run(["share", path.to_str().unwrap()]);
        let shared = shared.expect_code(0).only("shared");
        assert_eq!(shared["id"], sum, "an id is what b3sum prints");
        assert_eq!(
            (&shared["size"], &shared["name"]),
            (&size.into(), &name.as_str().into())
        );

        let target = sandbox.path("fetched").join(&name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let complete = to.get(&sum, &target);
        assert_eq!(files::b3sum(&target), sum);
        assert_eq!(std::fs::metadata(&target).unwrap().len(), size);
        assert_eq!(
            (&complete["size"], &complete["id"]),
            (&size.into(), &sum.as_str().into())
        );
        assert_eq!(complete["path"], target.to_str().unwrap());
        if size > 0 {
            let sources = files::sources(&complete);
            assert_eq!(sources.keys().collect::<Vec<_>>(), [from.peer()]);
            assert_eq!(sources[from.peer()], size, "every byte crosses once");
        }
        println!("{size} bytes in {} s", complete["seconds"]);
    }
    let left_over = tree_of_parts(&sandbox);
    assert!(left_over.is_empty(), "{left_over:?}");
    to.stop();
    from.stop();
}

fn tree_of_parts(sandbox: &Sandbox) -> Vec<String> {
    let names = files::tree(&sandbox.path("fetched")).into_keys();
    names.filter(|name| name.ends_with(".part")).collect()
}

#[test]
fn a_folder_of_two_thousand_files_arrives_as_it_is() {
    let sandbox = Sandbox::new();
    let (from, to) = pair(&sandbox);
    let folder = sandbox.path("pasta de ficheiros");
    files::write_tree(&folder, 2000);
    let original = files::tree(&folder);
    assert_eq!(original.len(), 2000);

    let shared = from.run(["share", folder.to_str().unwrap()]);
    let shared = shared.expect_code(0).only("shared");
    assert_eq!(
        (&shared["files"], &shared["kind"]),
        (&2000.into(), &"collection".into())
    );
    let id = shared["id"].as_str().unwrap();

    // Each file goes by its own hash.
    let listed = to.run(["ls", id]);
    let listed = listed.expect_code(0).all("content");
    let entry = |o: &serde_json::Value| (text(&o["name"]), text(&o["id"]));
    assert_eq!(
        listed
            .iter()
            .map(entry)
            .collect::<std::collections::BTreeMap<_, _>>(),
        original
    );

    let target = sandbox.path("copy");
    let complete = to.get(id, &target);
    assert_eq!(files::tree(&target), original);
    let total: u64 = listed
        .iter()
        .map(|entry| entry["size"].as_u64().unwrap())
        .sum();
    assert_eq!(complete["size"], total);
    // What is in the folder more than once crosses once.
    let distinct: BTreeSet<(String, u64)> = listed
        .iter()
        .map(|entry| (text(&entry["id"]), entry["size"].as_u64().unwrap()))
        .collect();
    let distinct: u64 = distinct.iter().map(|(_, size)| size).sum();
    let crossed: u64 = files::sources(&complete).values().sum();
    let listing = 2000 * 200;
    assert!(
        (distinct..=distinct + listing).contains(&crossed),
        "{crossed} of {distinct}"
    );
    assert!(!sandbox.path("copy.part").exists());
    println!("2000 files of {total} bytes in {} s", complete["seconds"]);

    // Having it all, the second node is a source as good as the first.
    from.stop();
    let third = sandbox.home("third").bootstrap([&to]).start();
    third.wait_connected([&to]);
    let complete = third.get(id, &sandbox.path("copy of the copy"));
    println!("again from the copy in {} s", complete["seconds"]);
    assert_eq!(files::tree(&sandbox.path("copy of the copy")), original);
    assert_eq!(
        files::sources(&complete).keys().collect::<Vec<_>>(),
        [to.peer()]
    );
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().expect("text").to_owned()
}
