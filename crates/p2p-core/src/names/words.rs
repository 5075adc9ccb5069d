//! How a name becomes words, and words become keys of the DHT. `docs/wire.md` says the same in prose.
//!
//! Names of files are not prose: `Foo_Bar-2024.mp4` is one word by the rules of Unicode (UAX #29 joins letters over dots
//! and underscores). So whatever is neither letter nor digit separates. Where a script has no spaces between its words,
//! each pair of neighbouring characters stands for one, as search engines do it; to find real words takes a dictionary.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashSet},
    sync::LazyLock,
};

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use crate::content::ContentId;

/// What comes before a word when it is hashed: no content has the id of a word.
const DOMAIN: &[u8] = b"p2p-core word v1\0";

/// Words of one name that are announced. Each costs a record at twenty servers, every 22 hours.
pub(crate) const MAX_NAME_WORDS: usize = 8;

/// Words of a search that are looked up. Whoever shares the name is to be found under each of them; the others are for
/// records that were lost, and for names with more words than are announced.
const MAX_SEARCH_WORDS: usize = 3;

/// Words that are in so many names that whoever is named under them is most likely not the one: a server names 20 of the
/// thousands. Endings of file names; articles and prepositions of a few languages.
const STOP_WORDS: &str = "7z aac apk avi azw3 bin bmp bz2 csv deb djvu doc docx dmg epub exe flac flv gif gz htm html ico iso \
    jpeg jpg json m4a m4v md mkv mobi mov mp3 mp4 mpeg mpg nfo odp ods odt ogg ogv opus pdf png ppt pptx psd rar rpm rtf \
    srt svg tar tgz tif tiff torrent txt wav webm webp wma wmv xls xlsx xml xz zip zst \
    an and as at by da das de del der des di die do dos du el em en et for from il in la las le les los na no of on os \
    para por the to um uma und van von with";

static STOP: LazyLock<HashSet<&str>> =
    LazyLock::new(|| STOP_WORDS.split_ascii_whitespace().collect());

/// A text as it is compared: compatibility decomposition, no combining marks, lower case.
pub(crate) fn fold(text: &str) -> String {
    text.trim()
        .nfkd()
        .filter(|c| !is_combining_mark(*c))
        .flat_map(char::to_lowercase)
        .collect()
}

/// What a search is for: names that have each part of its text, in any order, whatever the case and the accents.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Each once: whoever asks may repeat one as often as a text is long.
    parts: BTreeSet<String>,
}

impl Wanted {
    /// The parts of a text are what spaces separate.
    pub(crate) fn new(text: &str) -> Self {
        let folded = fold(text);
        let parts = folded.split_whitespace().map(ToOwned::to_owned);
        Self {
            parts: parts.collect(),
        }
    }

    /// Whether nothing is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether this is such a name; it must be folded.
    pub(crate) fn matches(&self, folded: &str) -> bool {
        !self.is_empty() && self.parts.iter().all(|part| folded.contains(part))
    }
}

/// The keys under which a name is announced.
pub(crate) fn name_keys(name: &str) -> Vec<ContentId> {
    let words = words(name).into_iter().take(MAX_NAME_WORDS);
    words.map(|word| word_key(&word)).collect()
}

/// The keys under which those may be found who share such a name, the best first.
pub(crate) fn search_keys(text: &str) -> Vec<ContentId> {
    let words = words(text).into_iter().take(MAX_SEARCH_WORDS);
    words.map(|word| word_key(&word)).collect()
}

/// Where a folded word is in the DHT.
pub(crate) fn word_key(word: &str) -> ContentId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOMAIN).update(word.as_bytes());
    ContentId::from_bytes(*hasher.finalize().as_bytes())
}

/// The words of a name or a search, the most telling first: the longest, by bytes, in which a pair of ideographs weighs as
/// much as six letters. Among words of a length the order is that of the words themselves and not that of the text, so
/// that a part of a name begins with the same words as the name.
pub(crate) fn words(text: &str) -> Vec<String> {
    let folded = fold(text);
    let mut words = BTreeSet::new();
    for run in folded.split(|c: char| !c.is_alphanumeric()) {
        for part in stretches(run) {
            if part.starts_with(is_unspaced) {
                words.extend(pairs(part));
            } else if is_telling(part) {
                words.insert(part.to_owned());
            }
        }
    }
    let mut words: Vec<String> = words.into_iter().collect();
    words.sort_by_key(|word| Reverse(word.len()));
    words
}

/// A run of letters and digits, cut where a script without spaces begins or ends.
fn stretches(mut run: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while let Some(first) = run.chars().next() {
        let unspaced = is_unspaced(first);
        let end = run
            .find(|c| is_unspaced(c) != unspaced)
            .unwrap_or(run.len());
        let (part, rest) = run.split_at(end);
        parts.push(part);
        run = rest;
    }
    parts
}

/// Each character with the one after it; one alone is a word.
fn pairs(part: &str) -> Vec<String> {
    let chars: Vec<char> = part.chars().collect();
    if chars.len() == 1 {
        return vec![part.to_owned()];
    }
    chars.windows(2).map(String::from_iter).collect()
}

fn is_telling(word: &str) -> bool {
    let mut chars = word.chars();
    let first = chars.next();
    let is_letter_alone = chars.next().is_none() && !first.is_some_and(char::is_numeric);
    !is_letter_alone && !STOP.contains(word)
}

/// Whether a character is of a script that has no spaces between words: Thai and Lao, Burmese, Khmer, kana, ideographs.
fn is_unspaced(c: char) -> bool {
    matches!(
        u32::from(c),
        0x0e00..=0x0eff
            | 0x1000..=0x109f
            | 0x1780..=0x17ff
            | 0x3005..=0x3007
            | 0x3040..=0x30ff
            | 0x31f0..=0x31ff
            | 0x3400..=0x4dbf
            | 0x4e00..=0x9fff
            | 0xf900..=0xfaff
            | 0x20000..=0x3ffff
    )
}
