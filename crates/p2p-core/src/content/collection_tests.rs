use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use unicode_normalization::UnicodeNormalization;

use super::*;

fn entry(path: &str) -> Entry {
    Entry {
        path: path.into(),
        size: 3,
        content: ContentId::of(b"abc"),
        attributes: None,
    }
}

fn kept(path: &str, modified: u64, executable: bool) -> Entry {
    Entry {
        attributes: Some(Attributes {
            modified,
            executable,
        }),
        ..entry(path)
    }
}

fn from_paths(paths: &[&str]) -> Result<Collection, CollectionError> {
    Collection::from_entries(paths.iter().map(|path| entry(path)).collect())
}

/// The bytes of a listing whoever made it, without any check.
fn forged(entries: &[Entry]) -> Vec<u8> {
    [MAGIC, &encoding::encode(entries)].concat()
}

#[test]
fn golden_bytes() {
    let collection = from_paths(&["b", "a/é.txt"]).unwrap();
    let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    let listing = format!(
        "02\
        08612fc3a92e747874\
        03{abc}\
        0162\
        03{abc}"
    );
    let bytes = collection.encode();
    assert_eq!(&bytes[..23], b"p2p-core collection v1\0");
    assert_eq!(HEXLOWER.encode(&bytes[23..]), listing);
    assert_eq!(Collection::decode(&bytes), Ok(collection));
}

#[test]
fn golden_bytes_with_attributes() {
    let entries = vec![entry("b"), kept("a", 1_700_000_000, true)];
    let collection = Collection::from_entries(entries).unwrap();
    let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    let listing = format!("02016103{abc}01fc00f1536501016203{abc}00");
    let bytes = collection.encode();
    assert_eq!(&bytes[..23], b"p2p-core collection v2\0");
    assert_eq!(HEXLOWER.encode(&bytes[23..]), listing);
    assert_eq!(Collection::decode(&bytes), Ok(collection));
}

#[test]
fn attributes_have_one_encoding_and_a_sane_time() {
    let forged = |entries: &[Entry]| {
        let kept: Vec<Kept> = entries.iter().cloned().map(Kept).collect();
        [MAGIC_KEPT, &encoding::encode(kept.as_slice())].concat()
    };
    let none = Collection::decode(&forged(&[entry("a")]));
    assert_eq!(none, Err(DecodeError::NotCanonical.into()));
    assert_eq!(
        Collection::decode(&forged(&[])),
        Err(DecodeError::NotCanonical.into())
    );
    let good = forged(&[kept("a", 253_402_300_799, false)]);
    assert!(Collection::decode(&good).is_ok());
    let late = Collection::decode(&forged(&[kept("a", 253_402_300_800, false)]));
    assert!(
        matches!(late, Err(CollectionError::Encoding(_))),
        "{late:?}"
    );
    for len in 0..good.len() {
        assert!(Collection::decode(&good[..len]).is_err());
    }
    let order = Collection::decode(&forged(&[kept("b", 1, false), kept("a", 1, false)]));
    assert_eq!(order, Err(CollectionError::NotSorted("a".into())));
}

#[test]
fn may_be_empty() {
    let empty = from_paths(&[]).unwrap();
    assert_eq!(empty, Collection::default());
    assert_eq!(empty.encode(), [MAGIC, &[0]].concat());
    assert_eq!(Collection::decode(&empty.encode()), Ok(empty));
}

#[test]
fn is_sorted_by_bytes_and_totalled() {
    let collection = from_paths(&["a/b", "a", "a.b", "Z", "a-b/c"]);
    assert_eq!(collection, Err(CollectionError::Collision("a/b".into())));
    let collection = from_paths(&["b", "a/b", "a.b", "Z", "a-b/c", "a/a"]).unwrap();
    let paths: Vec<_> = collection
        .entries()
        .iter()
        .map(|e| e.path.as_str())
        .collect();
    assert_eq!(paths, ["Z", "a-b/c", "a.b", "a/a", "a/b", "b"]);
    assert_eq!(collection.total_size(), 18);
    assert_eq!(
        Collection::decode(&collection.encode()),
        Ok(collection.clone())
    );
    assert_eq!(collection.clone().into_entries(), collection.entries());
}

#[test]
fn collisions_are_refused() {
    let clashes: [&[&str]; 14] = [
        &["README", "readme"],
        &["a/README", "a/ReadMe"],
        &["a/x", "A/y"],
        &["a/x", "A/x"],
        &["a", "a/b"],
        &["A", "a/b"],
        &["a/b/c", "a/B"],
        &["É", "e\u{301}"],
        &["Straße/a", "STRASSE/b"],
        &["a/b", "a-b", "A"],
        &["K", "\u{212a}"],
        &["x/a/b", "x/a-/c", "x/A/d"],
        &["a\u{ad}b", "ab"],
        &["❤", "❤\u{fe0f}"],
    ];
    for paths in clashes {
        let refused = from_paths(paths);
        assert!(
            matches!(refused, Err(CollectionError::Collision(_))),
            "{paths:?} {refused:?}"
        );
    }
    assert_eq!(
        from_paths(&["a", "b", "a"]),
        Err(CollectionError::Duplicate("a".into()))
    );
    for paths in [
        &["a/a/a", "a/b/a", "b/a/a"][..],
        &["a/b", "a-/b", "b/a"],
        &["ab/c", "a/bc"],
    ] {
        assert!(from_paths(paths).is_ok(), "{paths:?}");
    }
}

#[test]
fn every_rule_is_checked_on_decoding() {
    use CollectionError::*;
    let bad_size = |size| Entry { size, ..entry("a") };
    let bad_empty = Entry {
        content: ContentId::EMPTY,
        ..entry("a")
    };
    let cases = [
        (vec![entry("b"), entry("a")], NotSorted("a".into())),
        (vec![entry("a"), entry("a")], Duplicate("a".into())),
        (vec![entry("A"), entry("a")], Collision("a".into())),
        (vec![entry("a"), entry("a/b")], Collision("a/b".into())),
        (
            vec![bad_size(0)],
            ImpossibleSize {
                path: "a".into(),
                size: 0,
            },
        ),
        (
            vec![bad_size(MAX_SIZE + 1)],
            ImpossibleSize {
                path: "a".into(),
                size: MAX_SIZE + 1,
            },
        ),
        (
            vec![bad_size(u64::MAX)],
            ImpossibleSize {
                path: "a".into(),
                size: u64::MAX,
            },
        ),
        (
            vec![bad_empty],
            ImpossibleSize {
                path: "a".into(),
                size: 3,
            },
        ),
        (
            vec![entry("../a")],
            Path {
                path: "../a".into(),
                reason: PathError::Relative,
            },
        ),
        (
            vec![entry("/a")],
            Path {
                path: "/a".into(),
                reason: PathError::Empty,
            },
        ),
        (
            vec![entry("a/.git/config")],
            Path {
                path: "a/.git/config".into(),
                reason: PathError::Git,
            },
        ),
    ];
    for (entries, error) in cases {
        assert_eq!(
            Collection::decode(&forged(&entries)),
            Err(error),
            "{entries:?}"
        );
    }
    let large = Entry {
        size: MAX_SIZE,
        ..entry("a")
    };
    let empty = Entry {
        path: "b".into(),
        size: 0,
        content: ContentId::EMPTY,
        attributes: None,
    };
    assert_eq!(
        Collection::decode(&forged(&[large, empty]))
            .unwrap()
            .total_size(),
        MAX_SIZE
    );
}

#[test]
fn what_is_not_a_listing_is_refused() {
    use CollectionError::*;
    let good = from_paths(&["a", "b/c"]).unwrap().encode();
    for len in 0..good.len() {
        let error = Collection::decode(&good[..len]).unwrap_err();
        assert_eq!(error == Magic, len < MAGIC.len(), "{len}");
    }
    assert_eq!(
        Collection::decode(&[&good[..], &[0]].concat()),
        Err(Encoding(DecodeError::TrailingBytes))
    );
    assert_eq!(Collection::decode(&vec![0; MAX_ENCODED + 1]), Err(TooLong));
    // A few bytes that claim as many entries, or as long a path, as they like.
    for claim in [1_000_001u64, 1 << 32, u64::MAX] {
        let count = [MAGIC, &[253], &claim.to_le_bytes(), &[0; 40]].concat();
        assert!(matches!(
            Collection::decode(&count),
            Err(Encoding(DecodeError::Refused(_)) | Encoding(DecodeError::NotCanonical))
        ));
        let path = [MAGIC, &[1, 253], &claim.to_le_bytes(), &[0; 40]].concat();
        assert!(matches!(
            Collection::decode(&path),
            Err(Encoding(DecodeError::Refused(_)))
        ));
    }
    let claim = [MAGIC, &[252], &1_000_000u32.to_le_bytes(), &[0; 40]].concat();
    assert_eq!(
        Collection::decode(&claim),
        Err(Encoding(DecodeError::Malformed))
    );
    assert_eq!(
        Collection::from_entries(vec![entry("a"); MAX_ENTRIES + 1]),
        Err(TooManyEntries(MAX_ENTRIES + 1))
    );
}

/// The same deep path of one-letter names over and over, with another beginning: few bytes, many directories.
#[test]
fn directories_are_bounded() {
    let tail = "/a".repeat(62);
    let entries: Vec<Entry> = (0..16_200)
        .map(|i| entry(&format!("{i:05}{tail}")))
        .collect();
    assert_eq!(
        Collection::from_entries(entries),
        Err(CollectionError::TooManyDirectories)
    );
}

#[test]
fn messages_escape_paths() {
    let error = from_paths(&["\x1b[31mred\u{202e}"])
        .unwrap_err()
        .to_string();
    assert!(!error.contains(['\x1b', '\u{202e}']), "{error}");
}

/// The slow, obvious rule: create everything on a file system that compares folded names, and read it back.
fn extracts_exactly(paths: &[String]) -> bool {
    enum Node {
        File,
        Directory(String),
    }
    let fold = |path: &str| -> String {
        let folded: String = path
            .nfd()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect();
        folded.nfd().collect()
    };
    let mut disk: BTreeMap<String, Node> = BTreeMap::new();
    for path in paths {
        for (at, _) in path.match_indices('/') {
            let spelled = path[..at].to_owned();
            match disk
                .entry(fold(&spelled))
                .or_insert_with(|| Node::Directory(spelled.clone()))
            {
                Node::Directory(name) if *name == spelled => {}
                _ => return false,
            }
        }
        if disk.insert(fold(path), Node::File).is_some() {
            return false;
        }
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn accepted_means_extractable_anywhere(
        paths in prop::collection::vec(
            prop::collection::vec(prop::sample::select(vec!["a", "A", "b", "a-", "é", "e\u{301}", "É", "ß", "SS"]), 1..4)
                .prop_map(|parts| parts.join("/")),
            0..6,
        )
    ) {
        let entries: Vec<Entry> = paths.iter().map(|path| entry(path)).collect();
        let accepted = Collection::from_entries(entries);
        prop_assert_eq!(accepted.is_ok(), extracts_exactly(&paths), "{:?}", accepted);
        if let Ok(collection) = accepted {
            prop_assert_eq!(Collection::decode(&collection.encode()), Ok(collection));
        }
    }

    #[test]
    fn mutations_are_refused_or_canonical(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..4),
    ) {
        let mut bytes = from_paths(&["a", "b/c", "b/d", "é"]).unwrap().encode();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        if let Ok(collection) = Collection::decode(&bytes) {
            prop_assert_eq!(collection.encode(), bytes);
        }
    }
}
