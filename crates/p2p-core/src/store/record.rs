//! The records of the index, to the byte. `docs/disk.md` describes them; the golden test below
//! holds it true. Every value starts with a version byte; the rest is the canonical encoding of
//! [`encoding`](crate::content::encoding), decoded with a limit and refused when damaged.

use bincode::{Decode, Encode};

use crate::audience::Audience;
use crate::content::encoding::{decode, encode};
use crate::content::{BlockSet, ChainingValue, ContentId, FeedId, Kind, SignedFeed};

/// First byte of every value in the index.
const VERSION: u8 = 1;
/// Longest record that holds a path: Linux paths end at 4 KiB, long ones at most a few times that.
const RECORD_LIMIT: usize = 64 * 1024;
/// Longest held record: a bitmap of 2^25 blocks is 4 MiB.
const HELD_LIMIT: usize = 5 * 1024 * 1024;
/// Length of the checksum in a held record.
const CHECKSUM_LEN: usize = 32;

/// What the store has of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum State {
    /// Every block is there.
    Complete,
    /// It is being fetched.
    Partial,
    /// The file is there but is not this content any more.
    Changed,
    /// The file is gone.
    Missing,
}

/// Where the bytes of a content are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Place {
    /// In the store's own `objects` folder.
    Object,
    /// In a file of the user's, shared in place or downloaded: its path. Its stamp is in `paths`.
    File(Vec<u8>),
    /// In a partial file: its path.
    Part(Vec<u8>),
}

/// Table `contents`: content id → this.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct ContentRecord {
    pub(super) size: u64,
    pub(super) state: State,
    pub(super) place: Place,
    /// Unix seconds.
    pub(super) added: u64,
    /// Unix seconds, to the hour.
    pub(super) last_used: u64,
}

/// What tells an untouched file from a changed one without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) struct FileStamp {
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) mtime_nsec: i64,
    pub(super) inode: u64,
    pub(super) device: u64,
}

impl FileStamp {
    /// Whether both are of the same file, whatever happened to its bytes.
    pub(super) fn same_file(&self, other: &Self) -> bool {
        (self.inode, self.device) == (other.inode, other.device)
    }
}

/// Table `paths`: path → this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct PathRecord {
    pub(super) id: ContentId,
    pub(super) stamp: FileStamp,
    /// Whether this node wrote the file (a finished download) rather than found it.
    pub(super) download: bool,
}

/// Table `held`: content id → checksum and this.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct HeldRecord {
    /// The partial file right after it was last synced.
    pub(super) stamp: FileStamp,
    /// The blocks that were in it.
    pub(super) blocks: BlockSet,
}

/// A file or folder the user shares.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShareRecord {
    /// The content, or for a folder the collection.
    pub id: ContentId,
    /// Whether it is a file or a folder.
    pub kind: Kind,
    /// The name it is shared under.
    pub name: String,
    /// Whether it is left out of the catalog and of name search.
    pub unlisted: bool,
    /// When it was added, in Unix seconds.
    pub added: u64,
    /// Whether the node keeps up with what becomes of it.
    pub watched: bool,
    /// Whether it is shared with the times and executable bits of its files.
    pub keep: bool,
    /// Whom it is for.
    pub audience: Audience,
}

/// Table `begun`: path → whom what is being shared there is to be for. Until there is a record of the share, what was hashed
/// of it is for nobody else.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct BegunRecord {
    pub(super) audience: Audience,
}

/// Table `feeds`: the key of a feed → this. The highest sequence that was ever seen, so that none goes back.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FeedRecord {
    /// Which feed.
    pub id: FeedId,
    /// Its value; `None` of a feed that is followed, and was not found yet.
    pub value: Option<SignedFeed>,
    /// Whether it is this node's own.
    pub own: bool,
    /// Whether the node keeps up with it.
    pub followed: bool,
}

/// Table `pins`: content id → this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct PinRecord {
    /// When it was pinned, in Unix seconds.
    pub(super) added: u64,
}

/// Table `totals`, under the empty key: bytes that count against the quota. Signed, because changes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Totals {
    pub(super) downloads: i64,
    pub(super) partial: i64,
    pub(super) objects: i64,
    /// What the index may grow by for what is partial.
    pub(super) growth: i64,
}

/// One type of record: how it is written and read back. A damaged record reads as `None`.
pub(super) trait Record: Sized {
    fn to_value(&self) -> Vec<u8>;
    fn from_value(value: &[u8]) -> Option<Self>;
}

fn versioned(body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(body.len().saturating_add(1));
    value.push(VERSION);
    value.extend_from_slice(body);
    value
}

fn body(value: &[u8]) -> Option<&[u8]> {
    value
        .split_first()
        .filter(|(version, _)| **version == VERSION)
        .map(|(_, body)| body)
}

impl Record for ContentRecord {
    fn to_value(&self) -> Vec<u8> {
        versioned(&encode(self))
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        decode::<Self, RECORD_LIMIT>(body(value)?).ok()
    }
}

impl Record for PathRecord {
    fn to_value(&self) -> Vec<u8> {
        versioned(&encode(self))
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        decode::<Self, RECORD_LIMIT>(body(value)?).ok()
    }
}

impl Record for HeldRecord {
    fn to_value(&self) -> Vec<u8> {
        checksummed(&encode(self))
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        decode::<Self, HELD_LIMIT>(checked(value)?).ok()
    }
}

impl Record for Totals {
    fn to_value(&self) -> Vec<u8> {
        checksummed(&encode(self))
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        decode::<Self, RECORD_LIMIT>(checked(value)?).ok()
    }
}

/// For records of which every value would be possible.
fn checksummed(encoded: &[u8]) -> Vec<u8> {
    versioned(&[blake3::hash(encoded).as_bytes(), encoded].concat())
}

fn checked(value: &[u8]) -> Option<&[u8]> {
    let (checksum, encoded) = body(value)?.split_first_chunk::<CHECKSUM_LEN>()?;
    (blake3::hash(encoded).as_bytes() == checksum).then_some(encoded)
}

impl Record for ShareRecord {
    fn to_value(&self) -> Vec<u8> {
        versioned(&encode(self))
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        decode::<Self, RECORD_LIMIT>(body(value)?).ok()
    }
}

impl Record for BegunRecord {
    fn to_value(&self) -> Vec<u8> {
        versioned(&encode(self))
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        decode::<Self, RECORD_LIMIT>(body(value)?).ok()
    }
}

impl Record for FeedRecord {
    fn to_value(&self) -> Vec<u8> {
        versioned(&encode(self))
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        decode::<Self, RECORD_LIMIT>(body(value)?).ok()
    }
}

impl Record for PinRecord {
    fn to_value(&self) -> Vec<u8> {
        versioned(&encode(self))
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        decode::<Self, RECORD_LIMIT>(body(value)?).ok()
    }
}

/// Hash values of a page of an outline, or of its top: the version, then the values one after the
/// other.
pub(super) fn outline_value(values: &[ChainingValue]) -> Vec<u8> {
    versioned(values.as_flattened())
}

/// Reads [`outline_value`] back. The values are proven again by the outline they are added to.
pub(super) fn outline_values(value: &[u8]) -> Option<Vec<ChainingValue>> {
    let (values, rest) = body(value)?.as_chunks::<32>();
    rest.is_empty().then(|| values.to_vec())
}

/// A signed manifest: the version, then its bytes as they travel.
pub(super) fn manifest_value(bytes: &[u8]) -> Vec<u8> {
    versioned(bytes)
}

/// Reads [`manifest_value`] back.
pub(super) fn manifest_bytes(value: &[u8]) -> Option<&[u8]> {
    body(value)
}

/// Ids that were announced, each with its Unix seconds (little endian): the version, then one after the other.
pub(super) fn announced_value(times: &[(ContentId, u32)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(times.len().saturating_mul(36));
    for (id, at) in times {
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(&at.to_le_bytes());
    }
    versioned(&bytes)
}

/// Reads [`announced_value`] back.
pub(super) fn announced_times(value: &[u8]) -> Option<Vec<(ContentId, u32)>> {
    let (entries, rest) = body(value)?.as_chunks::<36>();
    let time = |entry: &[u8; 36]| {
        let (id, at) = entry.split_first_chunk::<32>()?;
        let at = u32::from_le_bytes(at.try_into().ok()?);
        Some((ContentId::from_bytes(*id), at))
    };
    rest.is_empty()
        .then(|| entries.iter().map(time).collect())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        data_encoding::HEXLOWER.encode(bytes)
    }

    fn stamp() -> FileStamp {
        FileStamp {
            size: 300_000,
            mtime: 1_700_000_000,
            mtime_nsec: 5,
            inode: 77,
            device: 2,
        }
    }

    fn holds<R: Record + PartialEq + std::fmt::Debug>(record: &R, golden: &str) {
        let value = record.to_value();
        assert_eq!(hex(&value), golden);
        assert_eq!(R::from_value(&value).as_ref(), Some(record));
        // Cut, grown, or of another version: no record.
        for end in 0..value.len() {
            assert!(R::from_value(&value[..end]).is_none(), "cut at {end}");
        }
        assert!(R::from_value(&[value.as_slice(), &[0]].concat()).is_none());
        let mut other = value.clone();
        other[0] = 2;
        assert!(R::from_value(&other).is_none());
    }

    /// The bytes that `docs/disk.md` describes.
    #[test]
    fn golden() {
        let place = |place| ContentRecord {
            size: 300_000,
            state: State::Complete,
            place,
            added: 7,
            last_used: 300,
        };
        holds(&place(Place::Object), "01fce0930400000007fb2c01");
        holds(
            &place(Place::File(b"/a".to_vec())),
            "01fce09304000001022f6107fb2c01",
        );
        let part = ContentRecord {
            state: State::Partial,
            ..place(Place::Part(b"/a.part".to_vec()))
        };
        holds(&part, "01fce09304000102072f612e7061727407fb2c01");
        let id = ContentId::from_bytes([0xab; 32]);
        let path = PathRecord {
            id,
            stamp: stamp(),
            download: true,
        };
        let ids = "ab".repeat(32);
        holds(&path, &format!("01{ids}fce0930400fc00e2a7ca0a4d0201"));
        let share = ShareRecord {
            id,
            kind: Kind::Collection,
            name: "n".to_owned(),
            unlisted: false,
            added: 7,
            watched: true,
            keep: false,
            audience: Audience::Everyone,
        };
        holds(&share, &format!("01{ids}01016e0007010000"));
        let peer = crate::content::NodeId::from_bytes(
            &[[0, 36, 8, 1, 18, 32].as_slice(), &[9; 32]].concat(),
        );
        let share = ShareRecord {
            audience: Audience::Peers([peer.unwrap()].into()),
            ..share
        };
        let peer = format!("26002408011220{}", "09".repeat(32));
        holds(&share, &format!("01{ids}01016e000701000201{peer}"));
        let audience = Audience::Lan;
        holds(&BegunRecord { audience }, "0101");
        holds(&PinRecord { added: 300 }, "01fb2c01");
        let secret = crate::content::PublisherSecret::from_bytes([7; 32]);
        let signed = SignedFeed::sign("n", 9, id, 7, &secret).unwrap();
        let feed = FeedRecord {
            id: signed.claims().id.clone(),
            value: Some(signed.clone()),
            own: true,
            followed: false,
        };
        let (key, signed) = (hex(secret.public().as_bytes()), hex(&signed.encode()));
        holds(&feed, &format!("01{key}016e01{signed}0100"));
    }

    #[test]
    fn golden_held() {
        let mut blocks = BlockSet::new(10);
        blocks.insert_range(2..5);
        let held = HeldRecord {
            stamp: stamp(),
            blocks,
        };
        let body = "fce0930400fc00e2a7ca0a4d020a011c00";
        let checksum = blake3::hash(&data_encoding::HEXLOWER.decode(body.as_bytes()).unwrap());
        holds(&held, &format!("01{}{body}", checksum.to_hex()));
        let mut damaged = held.to_value();
        damaged[40] ^= 1;
        assert!(HeldRecord::from_value(&damaged).is_none());
    }

    #[test]
    fn golden_totals() {
        let totals = Totals {
            downloads: 300_000,
            partial: 0,
            objects: 5,
            growth: -1,
        };
        let body = "fcc0270900000a01";
        let checksum = blake3::hash(&data_encoding::HEXLOWER.decode(body.as_bytes()).unwrap());
        holds(&totals, &format!("01{}{body}", checksum.to_hex()));
    }

    #[test]
    fn golden_announced() {
        let times = [
            (ContentId::from_bytes([1; 32]), 7),
            (ContentId::from_bytes([2; 32]), 1_700_000_000),
        ];
        let value = announced_value(&times);
        let (first, second) = ("01".repeat(32), "02".repeat(32));
        assert_eq!(hex(&value), format!("01{first}07000000{second}00f15365"));
        assert_eq!(announced_times(&value).unwrap(), times);
        assert!(announced_times(&value[..value.len() - 1]).is_none());
        assert!(announced_times(&[2]).is_none());
    }

    #[test]
    fn outlines_and_manifests() {
        let values = [[1; 32], [2; 32]];
        let value = outline_value(&values);
        assert_eq!(
            hex(&value),
            format!("01{}{}", "01".repeat(32), "02".repeat(32))
        );
        assert_eq!(outline_values(&value).unwrap(), values);
        assert!(outline_values(&value[..value.len() - 1]).is_none());
        assert!(outline_values(&[]).is_none());
        assert_eq!(manifest_bytes(&manifest_value(b"m")).unwrap(), b"m");
    }
}
