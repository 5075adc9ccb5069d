//! Getting there without knowing a hash: what a peer shows, what is found by name, and parts of what is found.

use std::{collections::BTreeSet, fs};

use p2p_tests::{Daemon, PLENTY, Ran, Sandbox, files};
use serde_json::Value;

struct Library {
    sandbox: Sandbox,
    source: Daemon,
    reader: Daemon,
    folder_id: String,
    song_id: String,
    secret_id: String,
}

/// A source with a file and a folder that all may see and a file that nobody may, and a reader who knows the source.
fn library() -> Library {
    let sandbox = Sandbox::new();
    let song = sandbox.noise("Canção do Mar.ogg", 700_000, 1);
    let secret = sandbox.noise("canção secreta.ogg", 300_000, 2);
    let folder = sandbox.path("Férias 2024");
    for (number, name) in ["praia/água.jpg", "praia/areia.jpg", "lê-me.txt", "vazio"]
        .iter()
        .enumerate()
    {
        let len = if *name == "vazio" {
            0
        } else {
            300_000 * number as u64 + 500
        };
        sandbox.noise(&format!("Férias 2024/{name}"), len, 10 + number as u64);
    }
    let home = sandbox.home("source").share(&song).share(&folder);
    let mut source = home.share_unlisted(&secret).start();
    source.shared();
    let folder_id = source.shared()["id"].as_str().unwrap().to_owned();
    source.shared();
    let reader = sandbox.home("reader").bootstrap([&source]).start();
    reader.wait_connected([&source]);
    Library {
        song_id: files::b3sum(&song),
        secret_id: files::b3sum(&secret),
        folder_id,
        sandbox,
        source,
        reader,
    }
}

fn ids(objects: &[Value]) -> BTreeSet<&str> {
    objects
        .iter()
        .map(|object| object["id"].as_str().unwrap())
        .collect()
}

#[test]
fn a_peer_shows_what_it_shares_publicly() {
    let library = library();
    let (reader, source) = (&library.reader, &library.source);
    let ran = reader.run(["ls", "--peer", source.peer()]);
    let offered = ran.expect_code(0).all("content");
    assert_eq!(
        ids(&offered),
        [library.song_id.as_str(), &library.folder_id].into()
    );
    for object in &offered {
        assert_eq!(object["state"], "offered");
        assert_eq!(object["publisher"], source.publisher());
        assert_eq!(object["peer"], source.peer());
    }
    let song = offered
        .iter()
        .find(|object| object["id"] == library.song_id.as_str())
        .unwrap();
    assert_eq!(
        (&song["name"], &song["size"], &song["kind"]),
        (&"Canção do Mar.ogg".into(), &700_000.into(), &"file".into())
    );
    let own = reader.run(["ls"]);
    assert!(
        own.expect_code(0).objects().is_empty(),
        "looking is not fetching"
    );
    let shares = source.run(["shares"]).expect_code(0).all("share");
    assert_eq!(shares.len(), 3);
    assert!(
        shares.iter().all(|share| share["state"] == "ok"),
        "{shares:?}"
    );
    let unlisted = shares.iter().filter(|share| share["unlisted"] == true);
    assert_eq!(unlisted.count(), 1);
}

#[test]
fn names_are_found_without_case_and_accents_and_unlisted_ones_never() {
    let library = library();
    let found = |text: &str| -> Ran { library.reader.run(["find", text, "--timeout", PLENTY]) };
    for text in ["cancao", "CANÇÃO", "do mar", "Canc"] {
        let ran = found(text);
        let objects = ran.expect_code(0).all("found");
        assert_eq!(ids(&objects), [library.song_id.as_str()].into(), "{text}");
        assert_eq!(objects[0]["name"], "Canção do Mar.ogg");
        assert_eq!(objects[0]["size"], 700_000);
        assert_eq!(objects[0]["peer"], library.source.peer());
        assert_eq!(objects[0]["publisher"], library.source.publisher());
    }
    let ran = found("ferias");
    assert_eq!(
        ids(&ran.expect_code(0).all("found")),
        [library.folder_id.as_str()].into()
    );
    for text in ["secreta", "SECRETA.ogg", "no such name"] {
        found(text).expect_failure(3, "not_found");
    }
    // Who knows its id gets it all the same.
    let target = library.sandbox.path("copy.ogg");
    library.reader.get(&library.secret_id, &target);
    assert_eq!(files::b3sum(&target), library.secret_id);
    // Having been fetched does not make it public.
    let third = library
        .sandbox
        .home("third")
        .bootstrap([&library.reader])
        .start();
    third.wait_connected([&library.reader]);
    third.run(["find", "secreta"]).expect_code(3);
}

#[test]
fn a_folder_is_listed_by_id_and_ticket_and_fetched_in_part() {
    let library = library();
    let reader = &library.reader;
    let ticket = library.source.run(["ticket", &library.folder_id]);
    let ticket = ticket.expect_code(0).only("ticket")["ticket"]
        .as_str()
        .unwrap()
        .to_owned();
    let original = files::tree(&library.sandbox.path("Férias 2024"));
    let alone = library.sandbox.home("alone");
    for ran in [
        reader.run(["ls", &library.folder_id]),
        reader.run(["ls", &ticket]),
        alone.run(["ls", &ticket]),
    ] {
        let entries = ran.expect_code(0).all("content");
        let listed: BTreeSet<(&str, &str)> = entries
            .iter()
            .map(|entry| {
                (
                    entry["name"].as_str().unwrap(),
                    entry["id"].as_str().unwrap(),
                )
            })
            .collect();
        let expected = original
            .iter()
            .map(|(name, id)| (name.as_str(), id.as_str()));
        assert_eq!(listed, expected.collect());
        let listing = ran.only("listing");
        assert_eq!(
            (&listing["files"], &listing["name"]),
            (&4.into(), &"Férias 2024".into())
        );
    }

    let part = library.sandbox.path("part");
    let ran = reader.run([
        "get",
        &library.folder_id,
        "-o",
        part.to_str().unwrap(),
        "--include",
        "*.jpg",
    ]);
    let complete = ran.expect_code(0).only("complete");
    let wanted = original.iter().filter(|(name, _)| name.ends_with(".jpg"));
    let wanted: std::collections::BTreeMap<_, _> =
        wanted.map(|(n, id)| (n.clone(), id.clone())).collect();
    assert_eq!(files::tree(&part), wanted);
    assert_eq!(complete["size"], 301_000);

    let nothing = library.sandbox.path("nothing");
    let ran = reader.run([
        "get",
        &library.folder_id,
        "-o",
        nothing.to_str().unwrap(),
        "--include",
        "*.pdf",
    ]);
    ran.expect_failure(3, "not_found");
    assert!(!nothing.exists());
    assert!(
        !nothing.with_file_name("nothing.part").exists(),
        "nothing is left behind"
    );
}

/// What `b3sum` prints for one file of a folder is enough to get it.
#[test]
fn a_file_inside_a_folder_is_found_by_its_own_hash() {
    let library = library();
    let file = library.sandbox.path("Férias 2024/praia/areia.jpg");
    let id = files::b3sum(&file);
    let providers = library
        .reader
        .run(["providers", &id])
        .expect_code(0)
        .all("provider");
    assert_eq!(providers[0]["peer"], library.source.peer());
    assert!(
        providers[0]["addresses"][0]
            .as_str()
            .unwrap()
            .ends_with(library.source.peer())
    );
    let target = library.sandbox.path("areia.jpg");
    library.reader.get(&id, &target);
    assert_eq!(files::b3sum(&target), id);
}

#[test]
fn a_range_is_read_without_the_rest() {
    let library = library();
    let song = fs::read(library.sandbox.path("Canção do Mar.ogg")).unwrap();
    let alone = library.sandbox.home("alone");
    let ticket = library.source.run(["ticket", &library.song_id]);
    let ticket = ticket.expect_code(0).only("ticket")["ticket"]
        .as_str()
        .unwrap()
        .to_owned();
    let cases: [(&str, &[u8]); 5] = [
        ("0-0", &song[..1]),
        ("262140-262150", &song[262_140..=262_150]),
        ("699999-", &song[699_999..]),
        ("-10", &song[699_990..]),
        ("600000-9999999", &song[600_000..]),
    ];
    for (range, expected) in cases {
        let ran = library
            .reader
            .run(["cat", &library.song_id, "--range", range]);
        assert!(ran.expect_code(0).bytes() == expected, "{range}");
    }
    let ran = alone.run(["cat", &ticket, "--range", "300000-300999"]);
    assert!(ran.expect_code(0).bytes() == song[300_000..=300_999]);
    let whole = library.reader.run(["cat", &library.song_id]);
    assert!(whole.expect_code(0).bytes() == song);
    library
        .reader
        .run(["cat", &library.song_id, "--range", "700000-"])
        .expect_code(2);
}

#[test]
fn peers_are_told_in_the_documented_shape() {
    let library = library();
    let (source, reader) = (&library.source, &library.reader);
    reader.get(&library.song_id, &library.sandbox.path("copy.ogg"));
    let mut seen = Value::Null;
    p2p_tests::wait_until(
        "a measured peer",
        std::time::Instant::now() + std::time::Duration::from_secs(30),
        || {
            let peers = reader.connected();
            seen = peers
                .into_iter()
                .find(|peer| peer["peer"] == source.peer())
                .unwrap();
            seen["rtt_ms"].is_f64()
                && seen["agent"].is_string()
                && seen["down"].as_u64() >= Some(700_000)
        },
    );
    assert!(
        seen["agent"].as_str().unwrap().starts_with("p2p-core/"),
        "{seen}"
    );
    assert!(seen["addresses"].as_array().unwrap().iter().all(|address| {
        address
            .as_str()
            .unwrap()
            .ends_with(&format!("/p2p/{}", source.peer()))
    }));
    assert!(
        seen["found"]
            .as_array()
            .unwrap()
            .contains(&"bootstrap".into()),
        "{seen}"
    );
    assert!(seen["since"].as_u64() <= seen["last_seen"].as_u64());
    let back = source
        .connected()
        .into_iter()
        .find(|peer| peer["peer"] == reader.peer())
        .unwrap();
    assert!(
        back["found"]
            .as_array()
            .unwrap()
            .contains(&"inbound".into()),
        "{back}"
    );
    let id = reader.run(["id"]).expect_code(0).only("id");
    assert_eq!(
        (&id["peer"], &id["publisher"]),
        (&reader.peer().into(), &reader.publisher().into())
    );
    for address in id["addresses"].as_array().unwrap() {
        assert!(
            address
                .as_str()
                .unwrap()
                .ends_with(&format!("/p2p/{}", reader.peer()))
        );
    }
}
