//! The hash tree: how one block is proven to belong to a content id, and how the tree of a file is built.
//!
//! BLAKE3 is itself a tree over chunks of 1 KiB. A block is an aligned subtree of it, and so is a page of blocks.
//! The chaining values of a file's blocks, grouped in pages, and those of its pages are its outline: blocks merge
//! to their page, pages merge to the id, and nothing has to be signed or trusted on the way.
//!
//! Invariant: an [`Outline`] holds only values that lead to its id. A size is proven only by the last block: until
//! that is verified, the geometry is what somebody claimed.
//!
//! Source: <https://github.com/BLAKE3-team/BLAKE3-specs> (section 2.1), `blake3::hazmat`.

use std::{collections::BTreeMap, fmt};

use blake3::{
    Hasher,
    hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};
use bytes::Bytes;

use super::{BLOCK_LEN, BlockIndex, ContentId, Geometry, PAGE_BLOCKS, SizeError};

/// The 32 bytes that stand for a subtree in its parent.
pub type ChainingValue = [u8; 32];

/// Why a part of an outline, or a block, was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The content does not have this block.
    #[error("no block {0} in this content")]
    NoSuchBlock(u32),
    /// The content does not have this page, or it needs no page value.
    #[error("no page {0} in this outline")]
    NoSuchPage(u32),
    /// A block does not have the length that its place demands.
    #[error("a block of {len} bytes where {expected} belong")]
    WrongLength {
        /// Length of the bytes given.
        len: usize,
        /// Length of the block by the size of the content.
        expected: usize,
    },
    /// A list of chaining values does not have the length that its place demands.
    #[error("{count} chaining values where {expected} belong")]
    WrongCount {
        /// Number of values given.
        count: usize,
        /// Number of values by the size of the content.
        expected: usize,
    },
    /// The page values do not lead to the content id.
    #[error("the top of the outline does not lead to the content id")]
    BadTop,
    /// The block values do not lead to the value of their page.
    #[error("page {0} of the outline does not lead to its value")]
    BadPage(u32),
    /// The bytes of a block do not have its chaining value.
    #[error("block {0} is not what the content id names")]
    BadBlock(u32),
    /// A part of the outline that is needed first is not there.
    #[error("{0} of the outline is needed first")]
    OutlineMissing(Need),
    /// The bytes are more than content may have.
    #[error(transparent)]
    Size(#[from] SizeError),
}

/// The part of an outline that a block waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// The values of all pages.
    Top,
    /// The values of the blocks of one page.
    Page(u32),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => f.write_str("the top"),
            Self::Page(page) => write!(f, "page {page}"),
        }
    }
}

/// The chaining value of one block.
///
/// `offset` is where the block begins in its content. A function of its arguments only, so blocks of one file can be
/// hashed by many threads. Content of a single block has no use for it: there the id is the plain hash.
///
/// # Panics
/// If `offset` is not a multiple of [`BLOCK_LEN`], or `bytes` is empty or longer than that.
#[must_use]
pub fn block_value(offset: u64, bytes: &[u8]) -> ChainingValue {
    assert!(
        offset.is_multiple_of(BLOCK_LEN as u64) && (1..=BLOCK_LEN).contains(&bytes.len()),
        "a block is 1 to {BLOCK_LEN} bytes at a multiple of that, not {} at {offset}",
        bytes.len()
    );
    // One `update` over the whole block lets BLAKE3 use the widest SIMD there is.
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}

/// The left half of a node of the tree: the largest power of two of leaves that is smaller than all.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

/// The chaining value of adjacent subtrees of equal size (the last may be smaller). Recursion is as deep as the tree:
/// 10 for a page, 15 for the pages.
fn merge(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [] => ChainingValue::default(),
        [one] => *one,
        _ => {
            let (left, right) = halves(values);
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// The id of content whose subtrees are these; `None` for fewer than two, which have no node above them.
fn merge_root(values: &[ChainingValue]) -> Option<ContentId> {
    if values.len() < 2 {
        return None;
    }
    let (left, right) = halves(values);
    let hash = merge_subtrees_root(&merge(left), &merge(right), Mode::Hash);
    Some(ContentId::from_bytes(*hash.as_bytes()))
}

/// The verified part of a content's hash tree, down to blocks. It grows as parts arrive, from anyone, in any order
/// that goes from the top downwards.
///
/// Content of at most one block needs no outline. Content of one page (256 MiB) has page 0 and no top. Memory is
/// 32 bytes for each block of the pages that are known.
#[derive(Clone, PartialEq, Eq)]
pub struct Outline {
    id: ContentId,
    geometry: Geometry,
    top: Option<Box<[ChainingValue]>>,
    pages: BTreeMap<u32, Box<[ChainingValue]>>,
}

impl Outline {
    /// An outline of which nothing is known but the id and a claimed size.
    #[must_use]
    pub fn new(id: ContentId, geometry: Geometry) -> Self {
        Self {
            id,
            geometry,
            top: None,
            pages: BTreeMap::new(),
        }
    }

    /// Hashes bytes in memory into their id and complete outline.
    ///
    /// # Errors
    /// [`TreeError::Size`] above [`MAX_SIZE`](crate::content::MAX_SIZE).
    pub fn of(bytes: &[u8]) -> Result<(ContentId, Self), TreeError> {
        if bytes.len() <= BLOCK_LEN {
            return Ok(OutlineBuilder::single(bytes));
        }
        let geometry = Geometry::new(bytes.len() as u64)?;
        let mut builder = OutlineBuilder::new(geometry);
        for (block, part) in geometry.indices().zip(bytes.chunks(BLOCK_LEN)) {
            builder.push(block_value(geometry.offset_of(block), part));
        }
        builder.finish()
    }

    /// The id that everything in the outline leads to.
    #[must_use]
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// The geometry by the claimed size of the content.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The values of the pages, once they are known. Content of one page has none.
    #[must_use]
    pub fn top(&self) -> Option<&[ChainingValue]> {
        self.top.as_deref()
    }

    /// The values of the blocks of a page, once they are known.
    #[must_use]
    pub fn page(&self, page: u32) -> Option<&[ChainingValue]> {
        if let Some(values) = self.pages.get(&page) {
            return Some(values);
        }
        // A page of a single block is that block: its value is already in the top.
        if self.geometry.blocks_of_page(page).len() != 1 {
            return None;
        }
        let page = page as usize;
        self.top()?.get(page..page.checked_add(1)?)
    }

    /// What must be added before this block can be verified; `None` if it can be verified now.
    #[must_use]
    pub fn needs(&self, block: BlockIndex) -> Option<Need> {
        let page = self.geometry.page_of(block);
        if self.geometry.blocks() <= 1 || self.page(page).is_some() {
            None
        } else if self.geometry.pages() > 1 && self.top.is_none() {
            Some(Need::Top)
        } else {
            Some(Need::Page(page))
        }
    }

    /// Whether every block can be verified now. Never true for content that claims to be empty but has another id.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self.geometry.blocks() {
            0 => self.id == ContentId::EMPTY,
            1 => true,
            _ => {
                let single_tail = u32::from(self.tail_is_in_top());
                let known = u32::try_from(self.pages.len()).unwrap_or(u32::MAX);
                known.saturating_add(single_tail) == self.geometry.pages()
            }
        }
    }

    /// Whether the last page has a single block whose value is known from the top.
    fn tail_is_in_top(&self) -> bool {
        let last = self.geometry.pages().saturating_sub(1);
        self.top.is_some() && self.geometry.blocks_of_page(last).len() == 1
    }

    /// Adds the values of all pages.
    ///
    /// # Errors
    /// `BadTop` if they do not lead to the id, `WrongCount` if they are not one for each page, `NoSuchPage` if the
    /// content has at most one page and so no top. Adding what is known already is no error.
    pub fn add_top(&mut self, values: Vec<ChainingValue>) -> Result<(), TreeError> {
        if self.geometry.pages() <= 1 {
            return Err(TreeError::NoSuchPage(0));
        }
        check_count(&values, self.geometry.pages() as usize)?;
        if merge_root(&values) != Some(self.id) {
            return Err(TreeError::BadTop);
        }
        self.top = Some(values.into_boxed_slice());
        Ok(())
    }

    /// Adds the values of the blocks of one page.
    ///
    /// # Errors
    /// `BadPage` if they do not lead to the page's value (or, for content of one page, to the id), `WrongCount` if
    /// they are not one for each block, `NoSuchPage` if the content has no such page or no outline at all,
    /// `OutlineMissing` if the top is not known yet. Adding what is known already is no error.
    pub fn add_page(&mut self, page: u32, values: Vec<ChainingValue>) -> Result<(), TreeError> {
        let blocks = self.geometry.blocks_of_page(page).len();
        if blocks == 0 || self.geometry.blocks() <= 1 {
            return Err(TreeError::NoSuchPage(page));
        }
        check_count(&values, blocks)?;
        let leads_up = if self.geometry.pages() == 1 {
            merge_root(&values) == Some(self.id)
        } else {
            let top = self.top().ok_or(TreeError::OutlineMissing(Need::Top))?;
            top.get(page as usize) == Some(&merge(&values))
        };
        if !leads_up {
            return Err(TreeError::BadPage(page));
        }
        // A page of one block is answered from the top and needs no entry of its own.
        if blocks > 1 {
            self.pages.insert(page, values.into_boxed_slice());
        }
        Ok(())
    }

    /// Turns bytes into a verified block. Hashes them once and copies nothing.
    ///
    /// # Errors
    /// `BadBlock` if they are not what the id names, `WrongLength` if they cannot be by their length alone,
    /// `OutlineMissing` as told by [`Outline::needs`], `NoSuchBlock` for an index of other content.
    pub fn verify(&self, block: BlockIndex, bytes: Bytes) -> Result<VerifiedBlock, TreeError> {
        let number = block.get();
        if number >= self.geometry.blocks() {
            return Err(TreeError::NoSuchBlock(number));
        }
        let expected = self.geometry.len_of(block);
        if bytes.len() != expected {
            return Err(TreeError::WrongLength {
                len: bytes.len(),
                expected,
            });
        }
        let genuine = if self.geometry.blocks() == 1 {
            ContentId::of(&bytes) == self.id
        } else {
            let known = self
                .page(self.geometry.page_of(block))
                .and_then(|page| page.get((number % PAGE_BLOCKS) as usize))
                .ok_or_else(|| TreeError::OutlineMissing(self.needs(block).unwrap_or(Need::Top)))?;
            block_value(self.geometry.offset_of(block), &bytes) == *known
        };
        if !genuine {
            return Err(TreeError::BadBlock(number));
        }
        Ok(VerifiedBlock {
            content: self.id,
            index: block,
            bytes,
        })
    }
}

impl fmt::Debug for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outline")
            .field("id", &self.id)
            .field("size", &self.geometry.size())
            .field("top", &self.top.is_some())
            .field("pages", &self.pages.len())
            .finish()
    }
}

fn check_count(values: &[ChainingValue], expected: usize) -> Result<(), TreeError> {
    if values.len() == expected {
        return Ok(());
    }
    Err(TreeError::WrongCount {
        count: values.len(),
        expected,
    })
}

/// The bytes of one block, proven to be what the content id names. Only [`Outline::verify`] makes one.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedBlock {
    content: ContentId,
    index: BlockIndex,
    bytes: Bytes,
}

impl VerifiedBlock {
    /// The content that the block is a part of.
    #[must_use]
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// Which block of the content it is.
    #[must_use]
    pub fn index(&self) -> BlockIndex {
        self.index
    }

    /// The bytes, 1 to [`BLOCK_LEN`] of them.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Takes the bytes out.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl fmt::Debug for VerifiedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block {} of {} ({} bytes)",
            self.index.get(),
            self.content,
            self.bytes.len()
        )
    }
}

/// Builds the outline, and with it the id, of content whose blocks are hashed one after another.
#[derive(Debug)]
pub struct OutlineBuilder {
    geometry: Geometry,
    pages: Vec<Vec<ChainingValue>>,
    count: usize,
}

impl OutlineBuilder {
    /// A builder for content of more than one block.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            pages: Vec::new(),
            count: 0,
        }
    }

    /// The id and (trivial) outline of content of at most one block.
    ///
    /// # Panics
    /// If `bytes` is longer than [`BLOCK_LEN`]; [`Outline::of`] takes any length.
    #[must_use]
    pub fn single(bytes: &[u8]) -> (ContentId, Outline) {
        let geometry = match Geometry::new(bytes.len() as u64) {
            Ok(geometry) if bytes.len() <= BLOCK_LEN => geometry,
            _ => panic!("{} bytes are more than one block", bytes.len()),
        };
        let id = ContentId::of(bytes);
        (id, Outline::new(id, geometry))
    }

    /// Adds the [`block_value`] of the next block, in order.
    pub fn push(&mut self, value: ChainingValue) {
        self.count = self.count.saturating_add(1);
        // Surplus values are counted for the error of `finish`, but not kept.
        if self.count > self.geometry.blocks() as usize {
            return;
        }
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE_BLOCKS as usize => page.push(value),
            _ => self.pages.push(vec![value]),
        }
    }

    /// The id and complete outline of the content.
    ///
    /// # Errors
    /// `WrongCount` if not exactly one value for each block was pushed. Content of at most one block, whose id cannot
    /// be had from chaining values, is refused with `NoSuchPage`: see [`OutlineBuilder::single`].
    pub fn finish(self) -> Result<(ContentId, Outline), TreeError> {
        let expected = self.geometry.blocks() as usize;
        if self.count != expected {
            return Err(TreeError::WrongCount {
                count: self.count,
                expected,
            });
        }
        let tops: Box<[ChainingValue]> = self.pages.iter().map(|page| merge(page)).collect();
        let whole = match self.pages.as_slice() {
            [only] => only,
            _ => tops.as_ref(),
        };
        let id = merge_root(whole).ok_or(TreeError::NoSuchPage(0))?;
        let mut outline = Outline::new(id, self.geometry);
        outline.top = Some(tops).filter(|tops| tops.len() > 1);
        outline.pages = (0..)
            .zip(self.pages)
            .filter(|(_, values)| values.len() > 1)
            .map(|(page, values)| (page, values.into_boxed_slice()))
            .collect();
        Ok((id, outline))
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
