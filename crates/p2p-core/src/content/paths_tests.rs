use proptest::prelude::*;

use super::*;

/// Names that no file from a stranger may have, with the rule each breaks. Those of the attacks that archive tools,
/// torrent clients and Git met, and every rule at its edges.
fn hostile_names() -> Vec<(String, PathError)> {
    use PathError::*;
    let mut all: Vec<(String, PathError)> = Vec::new();
    let mut add = |names: &[&str], error: PathError| {
        all.extend(names.iter().map(|name| ((*name).to_owned(), error)));
    };
    add(&[""], Empty);
    add(&[".", ".."], Relative);
    add(
        &[
            "...", "....", "a.", "a..", ".. ", "a ", " ", "  ", ". .", "a. ", ".git.", ".git ",
            "nul.", "é.",
        ],
        Trailing,
    );
    add(
        &["/", "/a", "a/b", "a/", "../a", "//server/share"],
        Character('/'),
    );
    add(
        &[
            "\\",
            "a\\b",
            "..\\a",
            "\\\\server\\share",
            "\\\\?\\C",
            "\\\\.\\pipe",
        ],
        Character('\\'),
    );
    add(
        &[
            "C:",
            "c:a",
            "a:stream",
            "a::$DATA",
            ".git::$INDEX_ALLOCATION",
            ":",
            "file:a",
        ],
        Character(':'),
    );
    add(&["a?", "?"], Character('?'));
    add(&["*", "a*b"], Character('*'));
    add(&["a<b"], Character('<'));
    add(&["a>b", "> "], Character('>'));
    add(&["a|b", "| rm -rf"], Character('|'));
    add(&["a\"b"], Character('"'));
    add(&["\0", "a\0b", "ok.txt\0.exe"], Character('\0'));
    add(&["\x1b[2J", "\x1b]0;title\x07"], Character('\x1b'));
    add(&["a\nb"], Character('\n'));
    add(&["a\rb"], Character('\r'));
    add(&["\ta"], Character('\t'));
    add(&["a\x7f"], Character('\x7f'));
    add(&["\u{85}a"], Character('\u{85}'));
    add(&["\u{9b}2J"], Character('\u{9b}'));
    add(
        &[
            "\u{a0}",
            "\u{3000}",
            "\u{3164}",
            "\u{ad}",
            "\u{fe0f}",
            "\u{2003}\u{2003}",
            "\u{115f}\u{1160}",
            "\u{34f}",
        ],
        Blank,
    );
    add(
        &[
            "CON",
            "con",
            "Con",
            "PRN",
            "prn.txt",
            "AUX",
            "aux.h",
            "AUX.tar.gz",
            "NUL",
            "nul",
            "nul.txt",
            "NUL .txt",
            "con  .a.b",
            "CONIN$",
            "conout$",
            "CLOCK$",
            "COM0",
            "COM1",
            "com9",
            "COM1.txt",
            "com3 .log",
            "LPT0",
            "LPT1",
            "lpt9.dat",
            "COM¹",
            "com²",
            "COM³.txt",
            "LPT¹",
            "LPT²",
            "lpt³",
        ],
        Device,
    );
    add(
        &[
            ".git",
            ".GIT",
            ".Git",
            ".gIt",
            "git~1",
            "GIT~1",
            ".g\u{ad}it",
            ".git\u{fe0f}",
            "\u{34f}.git",
            ".\u{e0100}git",
        ],
        Git,
    );
    let ranges = [
        '\u{061c}'..='\u{061c}',
        '\u{180e}'..='\u{180e}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{feff}'..='\u{feff}',
        '\u{fff9}'..='\u{fffb}',
        '\u{fffe}'..='\u{ffff}',
        '\u{e0001}'..='\u{e0001}',
        '\u{e0020}'..='\u{e007f}',
        '\u{fdd0}'..='\u{fdd0}',
        '\u{10ffff}'..='\u{10ffff}',
    ];
    for c in ranges.into_iter().flatten() {
        all.push((format!("a{c}.txt"), Invisible(c)));
    }
    all.push(("exe\u{202e}txt.doc".into(), Invisible('\u{202e}')));
    for control in (1..0x20).filter_map(char::from_u32) {
        all.push((format!("x{control}y"), Character(control)));
    }
    all.push(("a".repeat(256), ComponentTooLong));
    all.push(("é".repeat(128), ComponentTooLong));
    all.push((".".repeat(300), ComponentTooLong));
    all
}

#[test]
fn hostile_names_are_refused() {
    let names = hostile_names();
    assert!(names.len() >= 150, "{}", names.len());
    for (name, error) in &names {
        assert_eq!(check_component(name), Err(*error), "{name:?}");
    }
    // The same in a path, wherever the name stands. Separators would only make another path of it.
    for (name, error) in names.iter().filter(|(name, _)| !name.contains('/')) {
        for path in [
            format!("{name}/a"),
            format!("a/{name}"),
            format!("a/{name}/b"),
        ] {
            assert_eq!(check_path(&path), Err(*error), "{path:?}");
        }
    }
}

#[test]
fn hostile_paths_are_refused() {
    use PathError::*;
    let long = vec!["a".repeat(250); 17].join("/");
    assert!(long.len() > MAX_PATH);
    let cases = [
        ("", Empty),
        ("/", Empty),
        ("/etc/passwd", Empty),
        ("//a", Empty),
        ("a//b", Empty),
        ("a/", Empty),
        ("..", Relative),
        ("../a", Relative),
        ("a/../../b", Relative),
        ("a/..", Relative),
        ("./a", Relative),
        ("a/./b", Relative),
        ("C:/Windows/a", Character(':')),
        ("a/.git/hooks/post-checkout", Git),
        (".ssh/../.git/config", Relative),
        ("a/nul", Device),
        (long.as_str(), TooLong),
    ];
    for (path, error) in cases {
        assert_eq!(check_path(path), Err(error), "{path:?}");
    }
    assert_eq!(check_path(&["a"; 64].join("/")), Ok(()));
    assert_eq!(check_path(&["a"; 65].join("/")), Err(TooDeep));
}

#[test]
fn ordinary_names_pass() {
    let names = [
        "a",
        "README.md",
        ".hidden",
        ".gitignore",
        ".github",
        "git",
        "a b",
        " a",
        "~",
        "~a",
        "-rf",
        "--help",
        "$HOME",
        "a;b",
        "a&b",
        "a'b",
        "a`b",
        "(1)",
        "[x]",
        "{y}",
        "a=b",
        "a,b",
        "a+b",
        "a@b",
        "#1",
        "100%",
        "!",
        "^",
        "CONSOLE",
        "con1",
        "COM",
        "COM10",
        "COMA",
        "LPT",
        "COM١",
        "nul_",
        "auxiliary",
        "a.nul",
        "prn-",
        "x.con",
        "Straße",
        "naïve",
        "文件",
        "ファイル",
        "файл",
        "ملف",
        "קובץ",
        "😀.png",
        "❤\u{fe0f}.txt",
        "e\u{301}",
        "tar.gz",
        "..a",
        "...a",
        "a..b",
        "git~2",
        "ＣＯＮ",
        "İstanbul",
        "ﬁ",
    ];
    for name in names {
        assert_eq!(check_component(name), Ok(()), "{name:?}");
    }
    assert_eq!(check_component(&"a".repeat(255)), Ok(()));
    assert_eq!(check_path("a/b c/.d/e.tar.gz"), Ok(()));
}

#[test]
fn keys_meet_where_file_systems_do() {
    let same = [
        ("README", "readme"),
        ("É", "e\u{301}"),
        ("é", "E\u{301}"),
        ("Å", "\u{212b}"),
        ("K", "\u{212a}"),
        ("Straße", "STRASSE"),
        ("ﬁ", "FI"),
        ("Σ", "ς"),
        ("ǅ", "ǆ"),
        ("ᾼ", "ᾳ"),
        ("ſ", "S"),
        ("a\u{ad}b", "AB"),
        ("❤", "❤\u{fe0f}"),
        ("가", "\u{1100}\u{1161}"),
        ("q\u{323}\u{307}", "q\u{307}\u{323}"),
        ("Ꭰ", "ꭰ"),
    ];
    for (a, b) in same {
        assert_eq!(collision_key(a), collision_key(b), "{a:?} {b:?}");
    }
    let apart = [
        ("a", "b"),
        ("ı", "i"),
        ("é", "e"),
        ("①", "1"),
        ("Ａ", "A"),
        ("ö", "oe"),
    ];
    for (a, b) in apart {
        assert_ne!(collision_key(a), collision_key(b), "{a:?} {b:?}");
    }
}

proptest! {
    /// A second, slow statement of what a safe name is, for names made of dangerous parts.
    #[test]
    fn what_passes_is_one_plain_component(
        parts in prop::collection::vec(prop::sample::select(vec![
            ".", "..", "/", "\\", "con", "NUL", "com", "1", "¹", " ", ":", "git", "a", "é", "\u{ad}", "\u{200d}", "\0", "~", "\u{1b}", "$",
        ]), 0..5),
    ) {
        let name: String = parts.concat();
        if check_component(&name).is_ok() {
            let path = std::path::Path::new(&name);
            let mut components = path.components();
            prop_assert!(matches!(components.next(), Some(std::path::Component::Normal(one)) if one == name.as_str()));
            prop_assert!(components.next().is_none());
            let forbidden = ['\\', ':', '\0', '\u{1b}', '\u{200d}'];
            prop_assert!(!name.contains(forbidden));
            let stem = name.split('.').next().unwrap().trim_end().to_uppercase();
            prop_assert!(!["CON", "NUL", "COM1", "COM¹"].contains(&stem.as_str()), "{}", name);
            prop_assert_eq!(name.trim_end_matches(['.', ' ']), &name);
            let visible: String = name.chars().filter(|c| *c != '\u{ad}').collect();
            prop_assert_ne!(visible.to_lowercase(), ".git");
        }
    }

    #[test]
    fn any_name_is_judged_without_a_panic(name in any::<String>()) {
        let _ = check_component(&name);
        let _ = check_path(&name);
    }

    #[test]
    fn keys_do_not_see_case_or_normal_form(name in "\\PC{0,12}") {
        let key = collision_key(&name).into_owned();
        let composed: String = name.nfc().collect();
        let decomposed: String = name.nfd().collect();
        for other in [composed, decomposed, name.to_ascii_uppercase()] {
            let other = collision_key(&other).into_owned();
            prop_assert_eq!(&other, &key);
        }
    }
}
