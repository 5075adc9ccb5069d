//! A mistake in `node.toml`, told so that it can be mended: file, line, key, and the nearest right word.

use std::ops::Range;

/// The message for `error`, which came from parsing `text` read from `place`.
pub fn explain(error: &toml::de::Error, text: &str, place: &str) -> String {
    let line = error.span().map(|span| line_of(text, &span));
    let message = with_suggestion(error.message().trim());
    match line {
        Some(line) => format!("{place}:{line}: {message}"),
        None => format!("{place}: {message}"),
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    1 + text
        .bytes()
        .take(span.start)
        .filter(|byte| *byte == b'\n')
        .count()
}

/// Serde reports a wrong word as ``unknown field `x`, expected one of `a`, `b` ``: the words are taken from there, so
/// that no second list of keys has to be kept true.
fn with_suggestion(message: &str) -> String {
    let (what, rest) = if let Some(rest) = message.strip_prefix("unknown field ") {
        ("unknown key", rest)
    } else if let Some(rest) = message.strip_prefix("unknown variant ") {
        ("unknown value", rest)
    } else {
        return message.to_owned();
    };
    let mut words = rest.split('`').skip(1).step_by(2);
    let Some(written) = words.next() else {
        return message.to_owned();
    };
    let known: Vec<&str> = words.collect();
    if known.is_empty() {
        return format!("{what} \"{written}\"");
    }
    match nearest(written, &known) {
        Some(word) => format!("{what} \"{written}\"; did you mean \"{word}\"?"),
        None => format!("{what} \"{written}\"; known here: {}", known.join(", ")),
    }
}

/// The known word nearest to what was written, if it is near enough to be what was meant.
fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let written = written.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|word| {
            (
                strsim::damerau_levenshtein(&written, word),
                strsim::jaro_winkler(&written, word),
                *word,
            )
        })
        .filter(|(edits, similar, word)| *edits <= 1 + word.len() / 4 || *similar >= 0.85)
        .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(_, _, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_only_when_near() {
        let known = ["listen", "bootstrap", "mdns", "dht", "max_peers"];
        assert_eq!(nearest("boostrap", &known), Some("bootstrap"));
        assert_eq!(nearest("max-peers", &known), Some("max_peers"));
        assert_eq!(nearest("MDNS", &known), Some("mdns"));
        assert_eq!(nearest("colour", &known), None);
    }

    #[test]
    fn other_messages_stay_as_they_are() {
        assert_eq!(
            with_suggestion("invalid type: integer"),
            "invalid type: integer"
        );
        assert_eq!(with_suggestion("unknown field"), "unknown field");
    }
}
