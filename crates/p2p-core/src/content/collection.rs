//! [`Collection`]: a folder as the listing of its files, which is itself content and fetched like any file.
//!
//! Invariant: the entries are sorted by the bytes of their paths, every path passes [`check_path`], and extracting
//! all of them into an empty directory gives exactly these files on every operating system.
//!
//! Bytes: `b"p2p-core collection v1\0"`, the number of entries, then path, size and content id of each. If any entry has
//! [`Attributes`]: `b"p2p-core collection v2\0"`, and behind each content id an option of them.

use std::collections::HashSet;

use bincode::{
    Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError as Malformed, EncodeError},
};

use super::{
    Attributes, ContentId, DecodeError, MAX_SIZE, PathError, check_path,
    encoding::{self, read_list, read_string},
    paths::collision_key,
};

/// What the bytes of a collection begin with.
const MAGIC: &[u8] = b"p2p-core collection v1\0";
/// And those of one with attributes.
const MAGIC_KEPT: &[u8] = b"p2p-core collection v2\0";

/// Longest encoding in bytes, 128 MiB: a million entries with paths of about 95 bytes.
pub(super) const MAX_ENCODED: usize = 128 << 20;

/// Most entries of a collection.
const MAX_ENTRIES: usize = 1_000_000;

/// Most directories below a collection. Without it, deep paths of one-letter names would cost a stranger 128 MiB to
/// send and us gigabytes to check.
const MAX_DIRECTORIES: usize = 1_000_000;

/// Longest path in bytes that is read at all; the rules proper are those of [`check_path`].
const MAX_PATH: usize = 4096;

/// One file of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where it lies below the folder: components joined by `/`, as [`check_path`] wants them.
    pub path: String,
    /// Its size in bytes, at most [`MAX_SIZE`].
    pub size: u64,
    /// The id of its bytes.
    pub content: ContentId,
    /// What else is kept of the file, if the sharer asked for it.
    pub attributes: Option<Attributes>,
}

/// Of an entry, all but the attributes.
impl Encode for Entry {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.path.encode(encoder)?;
        self.size.encode(encoder)?;
        self.content.encode(encoder)
    }
}

impl<Context> Decode<Context> for Entry {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        Ok(Self {
            path: read_string(decoder, MAX_PATH)?,
            size: u64::decode(decoder)?,
            content: ContentId::decode(decoder)?,
            attributes: None,
        })
    }
}
bincode::impl_borrow_decode!(Entry);

/// An entry with its attributes.
struct Kept(Entry);

impl Encode for Kept {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)?;
        self.0.attributes.encode(encoder)
    }
}

impl<Context> Decode<Context> for Kept {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        let entry = Entry::decode(decoder)?;
        let attributes = Option::<Attributes>::decode(decoder)?;
        Ok(Self(Entry {
            attributes,
            ..entry
        }))
    }
}
bincode::impl_borrow_decode!(Kept);

/// Why entries or bytes are not a [`Collection`]. Paths in messages are escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectionError {
    /// The bytes do not begin as a collection of this version does.
    #[error("not a collection")]
    Magic,
    /// The bytes are not the canonical encoding of a listing.
    #[error("not a collection: {0}")]
    Encoding(#[from] DecodeError),
    /// More than a million entries.
    #[error("a collection of {0} entries, where at most 1000000 are allowed")]
    TooManyEntries(usize),
    /// More than a million directories.
    #[error("a collection of more than 1000000 directories")]
    TooManyDirectories,
    /// Its listing would be longer than 128 MiB.
    #[error("a collection whose listing has more than 128 MiB")]
    TooLong,
    /// A path that is refused.
    #[error("the path {path:?} is refused: {reason}")]
    Path {
        /// The path.
        path: String,
        /// The rule that it breaks.
        reason: PathError,
    },
    /// The entries are not sorted by path.
    #[error("the path {0:?} is not in order")]
    NotSorted(String),
    /// Two entries have the same path.
    #[error("the path {0:?} is there twice")]
    Duplicate(String),
    /// On some file system the path, or a directory on it, is the same as another one, or both a file and a directory.
    #[error("the path {0:?} collides with another one")]
    Collision(String),
    /// A size that content with this id cannot have.
    #[error("{size} bytes cannot be the size of {path:?}")]
    ImpossibleSize {
        /// The path of the entry.
        path: String,
        /// The size it claims, in bytes.
        size: u64,
    },
}

/// The files of a folder, sorted by path. May be empty; directories without files are not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collection {
    entries: Vec<Entry>,
    total_size: u64,
}

/// The listing as it is encoded, of entries in either form.
#[derive(Encode)]
struct Listing<T>(Vec<T>);

impl<Context, T: Decode<Context>> Decode<Context> for Listing<T> {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, Malformed> {
        read_list(decoder, MAX_ENTRIES).map(Self)
    }
}

impl Collection {
    /// Makes a collection of entries in any order.
    ///
    /// # Errors
    /// The first rule that they break; see [`CollectionError`].
    pub fn from_entries(mut entries: Vec<Entry>) -> Result<Self, CollectionError> {
        if entries.len() > MAX_ENTRIES {
            return Err(CollectionError::TooManyEntries(entries.len()));
        }
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let collection = Self::check(entries)?;
        // Lengths, sizes and times take at most nine bytes each.
        let longest = |entry: &Entry| entry.path.len().saturating_add(9 + 9 + 32 + 1 + 9 + 1);
        let bound = collection
            .entries
            .iter()
            .map(longest)
            .fold(MAGIC.len().saturating_add(9), usize::saturating_add);
        if bound > MAX_ENCODED && collection.encode().len() > MAX_ENCODED {
            return Err(CollectionError::TooLong);
        }
        Ok(collection)
    }

    /// Reads the bytes of a collection.
    ///
    /// # Errors
    /// The first rule that they break; see [`CollectionError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CollectionError> {
        if bytes.len() > MAX_ENCODED {
            return Err(CollectionError::TooLong);
        }
        if let Some(listing) = bytes.strip_prefix(MAGIC) {
            let Listing(entries) = encoding::decode::<Listing<Entry>, MAX_ENCODED>(listing)?;
            return Self::check(entries);
        }
        let listing = bytes
            .strip_prefix(MAGIC_KEPT)
            .ok_or(CollectionError::Magic)?;
        let Listing(kept) = encoding::decode::<Listing<Kept>, MAX_ENCODED>(listing)?;
        let entries: Vec<Entry> = kept.into_iter().map(|kept| kept.0).collect();
        if entries.iter().all(|entry| entry.attributes.is_none()) {
            // It would be another encoding of the same listing.
            return Err(DecodeError::NotCanonical.into());
        }
        Self::check(entries)
    }

    /// The bytes of the collection: what is hashed, shared and fetched.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        if self.entries.iter().all(|entry| entry.attributes.is_none()) {
            return [MAGIC, &encoding::encode(self.entries.as_slice())].concat();
        }
        let kept: Vec<Kept> = self.entries.iter().cloned().map(Kept).collect();
        [MAGIC_KEPT, &encoding::encode(kept.as_slice())].concat()
    }

    /// The files, sorted by the bytes of their paths.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Takes the files out.
    #[must_use]
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The sizes of all files together, in bytes. A content that appears twice counts twice.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.total_size
    }

    /// The rules of a collection, on entries that should be sorted.
    fn check(entries: Vec<Entry>) -> Result<Self, CollectionError> {
        let mut names = Names::default();
        let mut total_size = 0u64;
        let mut last: Option<&str> = None;
        for entry in &entries {
            let path = entry.path.as_str();
            check_path(path).map_err(|reason| CollectionError::Path {
                path: path.to_owned(),
                reason,
            })?;
            match last.map(|last| last.cmp(path)) {
                None | Some(std::cmp::Ordering::Less) => {}
                Some(std::cmp::Ordering::Equal) => {
                    return Err(CollectionError::Duplicate(path.to_owned()));
                }
                Some(std::cmp::Ordering::Greater) => {
                    return Err(CollectionError::NotSorted(path.to_owned()));
                }
            }
            last = Some(path);
            names.add(path)?;
            // As in a manifest: no block would contradict a wrong claim about empty content.
            let possible =
                entry.size <= MAX_SIZE && (entry.size == 0) == (entry.content == ContentId::EMPTY);
            total_size = Some(entry.size)
                .filter(|_| possible)
                .and_then(|size| total_size.checked_add(size))
                .ok_or_else(|| CollectionError::ImpossibleSize {
                    path: path.to_owned(),
                    size: entry.size,
                })?;
        }
        Ok(Self {
            entries,
            total_size,
        })
    }
}

/// Stands for a path as file systems compare it. Half a BLAKE3 hash: whoever finds a collision has a folder of his own
/// refused, no more.
type NameKey = [u8; 16];

/// Finds files and directories that would be one on some file system.
///
/// Paths arrive sorted, so all below one directory come in a row: when a directory begins, its key is new unless
/// something else goes by that name.
#[derive(Default)]
struct Names<'a> {
    taken: HashSet<NameKey>,
    /// The directories of the path before, each with the key of its path.
    open: Vec<(&'a str, NameKey)>,
    directories: usize,
}

impl<'a> Names<'a> {
    /// Adds the next file, with the directories it is the first in.
    fn add(&mut self, path: &'a str) -> Result<(), CollectionError> {
        let collision = || CollectionError::Collision(path.to_owned());
        let (directories, file) = match path.rsplit_once('/') {
            Some((directories, file)) => (Some(directories), file),
            None => (None, path),
        };
        let mut above = NameKey::default();
        let mut depth = 0usize;
        for name in directories.into_iter().flat_map(|path| path.split('/')) {
            match self.open.get(depth) {
                Some((open, key)) if *open == name => above = *key,
                _ => {
                    self.open.truncate(depth);
                    above = name_key(&above, name);
                    if !self.taken.insert(above) {
                        return Err(collision());
                    }
                    self.open.push((name, above));
                    self.directories = self.directories.saturating_add(1);
                    if self.directories > MAX_DIRECTORIES {
                        return Err(CollectionError::TooManyDirectories);
                    }
                }
            }
            depth = depth.saturating_add(1);
        }
        if !self.taken.insert(name_key(&above, file)) {
            return Err(collision());
        }
        Ok(())
    }
}

fn name_key(above: &NameKey, name: &str) -> NameKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(above).update(collision_key(name).as_bytes());
    let mut key = NameKey::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

#[cfg(test)]
#[path = "collection_tests.rs"]
mod tests;
