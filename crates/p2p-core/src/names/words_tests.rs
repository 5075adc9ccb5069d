//! Names of many languages, and what they come to.

use proptest::prelude::*;

use super::words::{MAX_NAME_WORDS, Wanted, fold, name_keys, search_keys, word_key, words};

const WIRE_MD: &str = include_str!("../../../../docs/wire.md");

#[test]
fn names_become_words() {
    let cases: [(&str, &[&str]); 14] = [
        // Portuguese, with accents.
        ("Canção do Mar.ogg", &["cancao", "mar"]),
        // The same, each accent a character of its own, as some file systems have it.
        ("Canc\u{327}a\u{303}o do Mar.ogg", &["cancao", "mar"]),
        ("Die Straße nach Köln.pdf", &["straße", "koln", "nach"]),
        ("Война и мир.epub", &["воина", "мир"]),
        ("ΑΘΗΝΑ Αθήνα.txt", &["αθηνα"]),
        ("Foo_Bar-2024.mp4", &["2024", "bar", "foo"]),
        ("the.daily.S01E02.1080p.mkv", &["s01e02", "1080p", "daily"]),
        ("🎉 party🎈time 🎉", &["party", "time"]),
        // Hebrew, right to left, with points that nobody types.
        ("שָׁלוֹם עולם", &["עולם", "שלום"]),
        ("新世紀.mkv", &["世紀", "新世"]),
        (
            "東京タワー2 夜",
            &["タワ", "ワー", "京タ", "東京", "夜", "2"],
        ),
        ("ＦＵＬＬ　ｗｉｄｔｈ", &["width", "full"]),
        ("a b 7 c", &["7"]),
        ("the.mp4 🎉", &[]),
    ];
    for (name, expected) in cases {
        assert_eq!(words(name), expected, "{name}");
    }
}

#[test]
fn the_most_telling_words_are_announced_and_looked_up() {
    let name = "one two three four five six seven eight nine ten eleven twelve";
    let announced: Vec<_> = [
        "eleven", "twelve", "eight", "seven", "three", "five", "four", "nine",
    ]
    .map(word_key)
    .into();
    assert_eq!(name_keys(name), announced);
    assert_eq!(
        search_keys("TEN nine  twelve seven"),
        ["twelve", "seven", "nine"].map(word_key)
    );
    assert!(search_keys("mp4 the .").is_empty());
}

#[test]
fn a_search_is_for_all_its_parts_in_any_order() {
    let matches = |text: &str, name: &str| Wanted::new(text).matches(&fold(name));
    assert!(matches("mar CANÇÃO", "Canção do Mar.ogg"));
    assert!(matches("canc", "Canção do Mar.ogg"));
    assert!(matches("do mar", "Canção do Mar.ogg"));
    assert!(!matches("mar morto", "Canção do Mar.ogg"));
    assert!(matches("東京", "東京タワー"));
    for nothing in ["", "  ", "\u{301}"] {
        assert!(Wanted::new(nothing).is_empty());
        assert!(!matches(nothing, "anything"));
    }
}

/// `docs/wire.md` gives this key as its example.
#[test]
fn the_key_of_a_word_is_as_documented() {
    let key = word_key("cancao").to_string();
    assert_eq!(
        key,
        "4b7056bc07abfb04fe1943c4fe0a388c578b67fb4c52856d2f82349b0edb7c65"
    );
    assert!(WIRE_MD.contains(&key), "docs/wire.md does not name {key}");
    assert_eq!(name_keys("CANÇÃO.ogg"), [word_key("cancao")]);
}

proptest! {
    /// Whatever a stranger calls a thing, its words are few, folded, and found again.
    #[test]
    fn any_name_has_few_words_of_its_own(name in "\\PC{0,80}") {
        let found = words(&name);
        for word in &found {
            prop_assert!(!word.is_empty());
            prop_assert!(word.chars().all(char::is_alphanumeric), "{word:?}");
            prop_assert!(Wanted::new(word).matches(&fold(&name)), "{word:?} of {name:?}");
        }
        prop_assert!(name_keys(&name).len() <= MAX_NAME_WORDS);
        prop_assert!(search_keys(&name).iter().all(|key| name_keys(&name).contains(key)));
    }
}
