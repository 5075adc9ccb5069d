//! Makes text of strangers harmless to terminals: no escape sequences, no reordering, no invisible characters.

/// `text` with everything that steers a terminal or hides shown as `\u{…}`.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON text with the same characters as `\uXXXX`, which means the same to a parser. Outside of strings JSON has none.
pub fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters (C0, DEL, C1), separators that break lines, marks that reorder text (Unicode TR9), and invisible
/// ones; not the joiners that scripts and emoji need.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(
            escape("\x1b]0;owned\x07a\rb\n"),
            "\\u{1b}]0;owned\\u{7}a\\u{d}b\\u{a}"
        );
        assert_eq!(escape("photo\u{202e}gpj.exe"), "photo\\u{202e}gpj.exe");
        assert_eq!(escape("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(escape("saudações 👩‍🚀 فارسی"), "saudações 👩‍🚀 فارسی");
    }

    #[test]
    fn json_still_means_the_same() {
        let text = "a\u{202e}b\u{9b}\u{7f}\u{e0041}\x1b ç";
        let json = serde_json::to_string(text).expect("a string");
        let safe = escape_json(&json);
        assert!(!safe.chars().any(is_unsafe), "{safe}");
        assert_eq!(
            serde_json::from_str::<String>(&safe).ok().as_deref(),
            Some(text)
        );
    }
}
