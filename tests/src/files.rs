//! Files to share, and comparing what came of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use p2p_core::BLOCK_LEN;
use serde_json::Value;

/// Bytes written at once.
const CHUNK: usize = 1 << 20;

/// Bytes that look random, the same for the same seed, with no two blocks alike.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    source(seed).fill(&mut bytes);
    bytes
}

fn source(seed: u64) -> blake3::OutputReader {
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
}

/// The same into a file, a piece at a time.
pub fn write_noise(path: &Path, len: u64, seed: u64) {
    let mut source = source(seed);
    let mut file = fs::File::create(path).expect("a new file");
    let mut chunk = vec![0; CHUNK];
    let mut left = len;
    while left > 0 {
        let part = &mut chunk[..usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))];
        source.fill(part);
        file.write_all(part).expect("room on the disk");
        left -= part.len() as u64;
    }
}

/// Some bytes of a file.
pub fn read_part(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut file = fs::File::open(path).expect("a file that is there");
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(at))
        .and_then(|_| file.read_exact(&mut bytes))
        .expect("a file that is long enough");
    bytes
}

/// What `b3sum` prints for a file.
pub fn b3sum(path: &Path) -> String {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).expect("a file that can be read");
    hasher.finalize().to_hex().to_string()
}

/// The files of a folder: path within it, and hash.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("a folder that can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let within = path.strip_prefix(root).expect("within the folder");
            let name = within.to_str().expect("a name that is text").to_owned();
            files.insert(name, b3sum(&path));
        }
    }
    files
}

/// Makes a folder of so many files: nested, of many scripts, some empty, some alike, a few of more than one block.
pub fn write_tree(root: &Path, count: usize) {
    const FOLDERS: [&str; 8] = [
        "",
        "informação",
        "Ελληνικά/βιβλία",
        "русский",
        "日本語/写真/二〇二四",
        "العربية",
        "हिन्दी",
        "with space/🦀",
    ];
    const NAMES: [&str; 10] = [
        "ação",
        "coração",
        "ἀλήθεια",
        "письмо",
        "手紙",
        "رسالة",
        "चिट्ठी",
        "편지",
        "naïve e\u{301}tude",
        "plain",
    ];
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    for number in 0..count {
        let folder = FOLDERS[number % FOLDERS.len()];
        let name = NAMES[number / FOLDERS.len() % NAMES.len()];
        let len = match number % 100 {
            0..10 => 0,
            99 => BLOCK_LEN + number,
            _ => number % 3000,
        };
        // Every tenth is a copy of one that is elsewhere.
        let seed = if number % 10 == 3 { 7 } else { number as u64 };
        let len = if seed == 7 { 1234 } else { len };
        let path = root.join(folder).join(format!("{name} {number}.dat"));
        fs::write(path, noise(len, seed)).expect("room on the disk");
    }
}

/// Blocks of a file that are the same in another, whatever its length.
pub fn blocks_alike(file: &Path, original: &Path) -> BTreeSet<usize> {
    let bytes = fs::read(file).unwrap_or_default();
    let original = fs::read(original).expect("the original");
    let pairs = bytes.chunks(BLOCK_LEN).zip(original.chunks(BLOCK_LEN));
    pairs
        .enumerate()
        .filter(|(_, (here, there))| here == there)
        .map(|(number, _)| number)
        .collect()
}

/// Of a `complete` object: who sent how much.
pub fn sources(complete: &Value) -> BTreeMap<String, u64> {
    let sources = complete["sources"].as_array().expect("a list of sources");
    sources
        .iter()
        .map(|source| {
            let peer = source["peer"].as_str().expect("a peer").to_owned();
            (peer, source["bytes"].as_u64().expect("a number of bytes"))
        })
        .collect()
}
