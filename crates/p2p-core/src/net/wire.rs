//! The messages of the two protocols, their bytes and their limits. `docs/wire.md` says the same in prose and the golden
//! tests below hold both to it.
//!
//! `/p2p-core/query/1` carries one [`Query`] and one [`Reply`], each a little-endian `u32` length and that many bytes of
//! bincode. `/p2p-core/blocks/1` carries one [`BlocksRequest`] in the same envelope, answered by a stream of frames: a
//! 12-byte [`FrameHeader`] and its payload, until an `End` frame.

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::content::{
    BLOCK_LEN, BlockSet, ChainingValue, ContentId, FeedId, MAX_SIZE, PAGE_BLOCKS, Provider,
    SignedFeed, SignedManifest, encoding,
};

/// Name of the protocol for small questions.
pub(crate) const QUERY_PROTOCOL: &str = "/p2p-core/query/1";
/// Name of the protocol that streams blocks.
pub(crate) const BLOCKS_PROTOCOL: &str = "/p2p-core/blocks/1";

/// A query never needs more: an id and at most a short text.
pub(crate) const MAX_QUERY_LEN: usize = 4 * 1024;
/// The top of the outline of the largest content (8 TiB: 32,768 pages of 32 bytes) and the message around it.
pub(crate) const MAX_REPLY_LEN: usize = 1024 * 1024 + 1024;
/// That top alone.
const MAX_TOP_LEN: usize = 1024 * 1024;
/// 256 small contents, each named with its size and one run (about 44 bytes).
pub(crate) const MAX_BLOCKS_REQUEST_LEN: usize = 16 * 1024;
/// Contents that one request may name.
pub(crate) const MAX_ITEMS: usize = 256;
/// Runs of blocks that one request may name over all its contents.
pub(crate) const MAX_RUNS: usize = 512;
/// Blocks that one request may ask for: 128 MiB, twice the longest run the scheduler makes.
pub(crate) const MAX_REQUEST_BLOCKS: u64 = 512;
/// Longest text of a search, in bytes.
pub(crate) const MAX_SEARCH_LEN: usize = 256;
/// Manifests in one reply; at under 1 KiB each they stay far below [`MAX_REPLY_LEN`].
pub(crate) const MAX_MANIFESTS: usize = 256;
/// Providers in one reply.
pub(crate) const MAX_PROVIDERS: usize = 64;

/// A small question to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Query {
    /// Which blocks of this content are here? With `entries`, of all entries of this collection, in its piece space.
    /// Answered when the number held differs from `known`, or after a few seconds.
    Have {
        content: ContentId,
        entries: bool,
        known: Option<u32>,
    },
    /// The signed manifests of this content, one per publisher.
    Manifests { content: ContentId },
    /// Chaining values of one page of the outline, or of the pages themselves (`page: None`).
    Outline {
        content: ContentId,
        page: Option<u32>,
    },
    /// Who else has this content?
    Providers { content: ContentId },
    /// What is shared publicly, in the order of the ids, after this one.
    Catalog { after: Option<ContentId> },
    /// Public shares whose name contains this text.
    Search { text: String },
    /// The response to the request for blocks with this number is no longer wanted. Said in so many words because a
    /// stream that is dropped after its request was sent does not tell the other side (yamux sends no reset then).
    Cancel { number: u64 },
    /// The latest value of this feed that the peer knows. Answered when its sequence is higher than `known`, or after a few
    /// seconds.
    Feed { feed: FeedId, known: Option<u64> },
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Reply {
    /// Size of the content in bytes and the blocks held.
    Have { size: u64, blocks: BlockSet },
    /// Manifests of one content, of a page of the catalog, or found by name.
    Manifests {
        manifests: Vec<SignedManifest>,
        /// More would follow (catalog only).
        more: bool,
    },
    /// Values asked for by `Outline`.
    Outline { values: Vec<ChainingValue> },
    /// Providers known to the peer.
    Providers { providers: Vec<Provider> },
    /// Nothing here, or not for you: the two are not told apart.
    NotFound,
    /// Ask again later.
    Busy,
    /// The response is cancelled, or was over.
    Cancelled,
    /// The value of a feed.
    Feed { feed: SignedFeed },
}

/// A run of neighbouring blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Run {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

/// Blocks wanted of one content.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct BlocksItem {
    pub(crate) content: ContentId,
    /// The size the asker believes in; a holder of another size answers [`ItemStatus::WrongSize`].
    pub(crate) size: u64,
    /// Send the outline pages that prove these blocks, before the blocks.
    pub(crate) outline: bool,
    pub(crate) runs: Vec<Run>,
}

/// A request for blocks of one or more contents.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct BlocksRequest {
    /// Chosen by the asker, for [`Query::Cancel`].
    pub(crate) number: u64,
    pub(crate) items: Vec<BlocksItem>,
}

impl BlocksRequest {
    /// Refuses what the decoder's byte limit alone would let through.
    fn check(&self) -> Result<(), WireError> {
        let runs: usize = self.items.iter().map(|item| item.runs.len()).sum();
        let blocks: u64 = self
            .items
            .iter()
            .flat_map(|item| &item.runs)
            .map(|run| u64::from(run.count))
            .sum();
        let sizes_ok = self.items.iter().all(|item| item.size <= MAX_SIZE);
        let runs_ok = self
            .items
            .iter()
            .flat_map(|item| &item.runs)
            .all(|run| run.count > 0 && run.start.checked_add(run.count).is_some());
        if self.items.is_empty()
            || self.items.len() > MAX_ITEMS
            || runs > MAX_RUNS
            || blocks > MAX_REQUEST_BLOCKS
            || !sizes_ok
            || !runs_ok
        {
            return Err(WireError::OutOfBounds);
        }
        Ok(())
    }
}

/// Why one content of a request cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ItemStatus {
    /// Not held, or not for this peer.
    NotFound = 1,
    /// The file was altered since it was shared.
    Changed = 2,
    /// Held, with another size than the request names.
    WrongSize = 3,
}

/// How a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EndStatus {
    /// All that was asked and is held has been sent.
    Done = 0,
    /// No free upload slot.
    Busy = 1,
    /// The connection goes through a relay, and the sender sends no content so.
    Relayed = 2,
}

/// One frame of a block response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// One block of item `item`.
    Block { item: u16, index: u32, bytes: Bytes },
    /// The values of all pages of the outline of item `item`.
    Top {
        item: u16,
        values: Vec<ChainingValue>,
    },
    /// The values of the blocks of one page.
    Page {
        item: u16,
        page: u32,
        values: Vec<ChainingValue>,
    },
    /// Item `item` cannot be served (further).
    ItemFailed { item: u16, status: ItemStatus },
    /// The last frame; `retry_ms` says when to ask again if the status is `Busy`.
    End { status: EndStatus, retry_ms: u32 },
}

/// Bytes of a frame header.
pub(crate) const FRAME_HEADER_LEN: usize = 12;

const TAG_END: u8 = 0;
const TAG_BLOCK: u8 = 1;
const TAG_TOP: u8 = 2;
const TAG_PAGE: u8 = 3;
const TAG_FAILED: u8 = 4;

/// The fixed head of each frame: tag `u8`, code `u8`, item `u16`, index `u32`, payload length `u32`, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    tag: u8,
    code: u8,
    item: u16,
    index: u32,
    len: u32,
}

/// A message that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// A tag or code that this version does not know, or a field that must be zero.
    #[error("unknown frame")]
    UnknownFrame,
    /// A length, count or index beyond its limit.
    #[error("a count is out of bounds")]
    OutOfBounds,
    /// The bytes are not the one encoding of a message.
    #[error("malformed message")]
    Malformed,
}

impl FrameHeader {
    /// Reads a header and refuses one whose payload would be larger than its kind allows.
    pub(crate) fn parse(raw: [u8; FRAME_HEADER_LEN]) -> Result<Self, WireError> {
        let [tag, code, i0, i1, x0, x1, x2, x3, l0, l1, l2, l3] = raw;
        let header = Self {
            tag,
            code,
            item: u16::from_le_bytes([i0, i1]),
            index: u32::from_le_bytes([x0, x1, x2, x3]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
        };
        let max = match tag {
            TAG_BLOCK => BLOCK_LEN,
            TAG_TOP => MAX_TOP_LEN,
            TAG_PAGE => PAGE_BLOCKS as usize * 32,
            TAG_END | TAG_FAILED => 0,
            _ => return Err(WireError::UnknownFrame),
        };
        if header.len as usize > max {
            return Err(WireError::OutOfBounds);
        }
        Ok(header)
    }

    /// The bytes on the wire.
    pub(crate) fn to_bytes(self) -> [u8; FRAME_HEADER_LEN] {
        let [i0, i1] = self.item.to_le_bytes();
        let [x0, x1, x2, x3] = self.index.to_le_bytes();
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        [self.tag, self.code, i0, i1, x0, x1, x2, x3, l0, l1, l2, l3]
    }

    /// Bytes of payload that follow.
    pub(crate) fn payload_len(self) -> usize {
        self.len as usize
    }

    /// Puts header and payload together. `payload` is exactly [`Self::payload_len`] bytes long.
    pub(crate) fn into_frame(self, payload: Bytes) -> Result<Frame, WireError> {
        let unused_are_zero = match self.tag {
            TAG_BLOCK | TAG_PAGE => self.code == 0,
            TAG_TOP => self.code == 0 && self.index == 0,
            TAG_FAILED => self.index == 0,
            _ => self.item == 0,
        };
        if !unused_are_zero {
            return Err(WireError::UnknownFrame);
        }
        match self.tag {
            TAG_BLOCK => Ok(Frame::Block {
                item: self.item,
                index: self.index,
                bytes: payload,
            }),
            TAG_TOP => Ok(Frame::Top {
                item: self.item,
                values: values(&payload)?,
            }),
            TAG_PAGE => Ok(Frame::Page {
                item: self.item,
                page: self.index,
                values: values(&payload)?,
            }),
            TAG_FAILED => Ok(Frame::ItemFailed {
                item: self.item,
                status: match self.code {
                    1 => ItemStatus::NotFound,
                    2 => ItemStatus::Changed,
                    3 => ItemStatus::WrongSize,
                    _ => return Err(WireError::UnknownFrame),
                },
            }),
            _ => Ok(Frame::End {
                status: match self.code {
                    0 => EndStatus::Done,
                    1 => EndStatus::Busy,
                    2 => EndStatus::Relayed,
                    _ => return Err(WireError::UnknownFrame),
                },
                retry_ms: self.index,
            }),
        }
    }
}

fn values(payload: &[u8]) -> Result<Vec<ChainingValue>, WireError> {
    let (chunks, rest) = payload.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(WireError::OutOfBounds);
    }
    Ok(chunks.to_vec())
}

impl Frame {
    /// Header and payload of this frame.
    pub(crate) fn into_parts(self) -> (FrameHeader, Bytes) {
        let header = |tag, code, item, index, len: usize| FrameHeader {
            tag,
            code,
            item,
            index,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        match self {
            Self::Block { item, index, bytes } => {
                (header(TAG_BLOCK, 0, item, index, bytes.len()), bytes)
            }
            Self::Top { item, values } => {
                let bytes = Bytes::from(values.concat());
                (header(TAG_TOP, 0, item, 0, bytes.len()), bytes)
            }
            Self::Page { item, page, values } => {
                let bytes = Bytes::from(values.concat());
                (header(TAG_PAGE, 0, item, page, bytes.len()), bytes)
            }
            Self::ItemFailed { item, status } => {
                (header(TAG_FAILED, status as u8, item, 0, 0), Bytes::new())
            }
            Self::End { status, retry_ms } => {
                (header(TAG_END, status as u8, 0, retry_ms, 0), Bytes::new())
            }
        }
    }
}

/// The bytes of a query.
pub(crate) fn encode_query(query: &Query) -> Vec<u8> {
    encoding::encode(query)
}

/// Reads a query, strictly.
pub(crate) fn decode_query(bytes: &[u8]) -> Result<Query, WireError> {
    let query: Query =
        encoding::decode::<_, MAX_QUERY_LEN>(bytes).map_err(|_| WireError::Malformed)?;
    match &query {
        Query::Search { text } if text.len() > MAX_SEARCH_LEN => Err(WireError::OutOfBounds),
        _ => Ok(query),
    }
}

/// The bytes of a reply.
pub(crate) fn encode_reply(reply: &Reply) -> Vec<u8> {
    encoding::encode(reply)
}

/// Reads a reply, strictly.
pub(crate) fn decode_reply(bytes: &[u8]) -> Result<Reply, WireError> {
    let reply: Reply =
        encoding::decode::<_, MAX_REPLY_LEN>(bytes).map_err(|_| WireError::Malformed)?;
    let in_bounds = match &reply {
        Reply::Have { size, .. } => *size <= MAX_SIZE,
        Reply::Manifests { manifests, .. } => manifests.len() <= MAX_MANIFESTS,
        Reply::Providers { providers } => providers.len() <= MAX_PROVIDERS,
        Reply::Outline { .. }
        | Reply::NotFound
        | Reply::Busy
        | Reply::Cancelled
        | Reply::Feed { .. } => true,
    };
    if in_bounds {
        Ok(reply)
    } else {
        Err(WireError::OutOfBounds)
    }
}

/// The bytes of a request for blocks.
pub(crate) fn encode_blocks_request(request: &BlocksRequest) -> Vec<u8> {
    encoding::encode(request)
}

/// Reads a request for blocks, strictly.
pub(crate) fn decode_blocks_request(bytes: &[u8]) -> Result<BlocksRequest, WireError> {
    let request: BlocksRequest =
        encoding::decode::<_, MAX_BLOCKS_REQUEST_LEN>(bytes).map_err(|_| WireError::Malformed)?;
    request.check()?;
    Ok(request)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
