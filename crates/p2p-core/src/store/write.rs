//! Fetching: writing blocks, the outline that proves them, and picking up where a fetch was left.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::content::{Content, Located};
use super::direct::PAST_CACHE;
use super::fs::{FileSystem, OpenFile};
use super::outline::TOP;
use super::part::PartFile;
use super::record::FileStamp;
use super::{ReadError, StoreError, hash};
use crate::content::{BlockIndex, BlockSet, ChainingValue, VerifiedBlock};

/// Bytes of neighbouring blocks written at once. 16 KiB writes were measured at 241 MB/s, 1 MiB ones at 1,200.
const WRITE_RUN: usize = 1024 * 1024;
/// Contents from this size on have their first bit of outline in the index at once, so that a fetch that is killed
/// finds its blocks again before any peer answers. Below it, a commit costs more than fetching the outline again.
const EAGER_OUTLINE: u64 = 16 * 1024 * 1024;

impl Content {
    /// Adds the values of the pages, which are verified against the id.
    ///
    /// # Errors
    /// [`StoreError::Outline`] if they are not; otherwise as [`Content::checkpoint`].
    pub fn add_outline_top(&self, values: Vec<ChainingValue>) -> Result<(), StoreError> {
        if self.add_outline(TOP, values)? {
            self.save_first_outline()
        } else {
            Ok(())
        }
    }

    /// Adds the values of the blocks of a page, which are verified against the id (or the top, which must be known if
    /// there is one). Blocks of the page that a left over partial file had are then verified and counted as held,
    /// which reads up to a page of the file.
    ///
    /// # Errors
    /// [`StoreError::Outline`] if they are not; otherwise as [`Content::checkpoint`].
    pub fn add_outline_page(
        &self,
        page: u32,
        values: Vec<ChainingValue>,
    ) -> Result<(), StoreError> {
        if page == TOP || !self.add_outline(page, values)? {
            return Ok(());
        }
        self.save_first_outline()?;
        self.prove(self.geometry.blocks_of_page(page));
        Ok(())
    }

    fn save_first_outline(&self) -> Result<(), StoreError> {
        let first = self.unsaved_outline().len() == 1 && self.held.lock().blocks.is_empty();
        if first && self.geometry.size() >= EAGER_OUTLINE {
            self.checkpoint()
        } else {
            Ok(())
        }
    }

    /// Writes blocks to the partial file and counts them as held. Those held already are skipped. In memory until the
    /// next [`Content::checkpoint`], but readable at once.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when the disk is full (write them again when there is room), [`StoreError::Sync`] after
    /// a failed checkpoint, [`StoreError::ForeignBlock`], [`StoreError::NotAPart`] if the partial file was taken
    /// away, [`StoreError::Io`]. Blocks of a failed call may or may not count as held.
    pub fn write(&self, mut blocks: Vec<VerifiedBlock>) -> Result<(), StoreError> {
        if let Some(error) = self.unsynced() {
            return Err(error);
        }
        if !blocks.iter().all(|block| self.owns(block)) {
            return Err(StoreError::ForeignBlock(self.id));
        }
        blocks.sort_unstable_by_key(|block| block.index().get());
        blocks.dedup_by_key(|block| block.index().get());
        let mut writing = self.writing();
        {
            let held = self.held.lock();
            blocks.retain(|block| !held.blocks.contains(block.index().get()));
        }
        if blocks.is_empty() {
            return Ok(());
        }
        let file = self.part_file()?;
        let mut rest = blocks.as_slice();
        while let Some(first) = rest.first() {
            let (run, after) = rest.split_at(run_len(rest));
            rest = after;
            let parts: Vec<&[u8]> = run.iter().map(|block| &block.bytes()[..]).collect();
            let offset = self.geometry.offset_of(first.index());
            let written = if self.geometry.size() >= PAST_CACHE {
                writing.write(&*file, offset, &parts)
            } else {
                file.write_at(offset, &parts)
            };
            written.map_err(|error| self.failed(error))?;
            self.hold(run.iter().map(VerifiedBlock::index));
        }
        Ok(())
    }

    fn owns(&self, block: &VerifiedBlock) -> bool {
        let index = block.index();
        block.content() == self.id
            && index.get() < self.geometry.blocks()
            && self.geometry.len_of(index) == block.bytes().len()
    }

    pub(super) fn failed(&self, error: io::Error) -> StoreError {
        StoreError::io(self.path(), error)
    }

    /// The partial file, to write to.
    pub(super) fn part_file(&self) -> Result<OpenFile, StoreError> {
        let made = match &mut *self.located.lock() {
            Located::Part { stamp, .. } if stamp.is_some() => None,
            Located::Part { part, stamp } => Some(make(&*self.shared.fs, part, stamp)),
            _ => return Err(StoreError::AlreadyComplete(self.id)),
        };
        if let Some(made) = made {
            return made.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => StoreError::NotAPart(self.path()),
                _ => self.failed(error),
            });
        }
        self.file().map_err(|error| match error {
            ReadError::Io(error) => self.failed(error),
            _ => StoreError::NotAPart(self.path()),
        })
    }

    pub(super) fn hold(&self, blocks: impl Iterator<Item = BlockIndex>) {
        {
            let mut held = self.held.lock();
            for block in blocks {
                held.blocks.insert(block.get());
                held.unproven.remove(block.get());
            }
        }
        self.dirty.store(true, Ordering::Release);
        self.tell();
    }

    /// Finds out what a partial file holds. Whatever fails here only means blocks to fetch again.
    pub(super) fn resume(&self) {
        if matches!(&*self.located.lock(), Located::Part { stamp: None, .. }) {
            return;
        }
        let Ok(file) = self.part_file() else { return };
        let blocks = self.geometry.blocks();
        let Ok(stamp) = file.stamp() else { return };
        if stamp.size == 0 || blocks == 0 {
            return;
        }
        let mut unproven = BlockSet::new(blocks);
        for bytes in file.data_ranges(stamp.size.min(self.geometry.size())) {
            unproven.insert_range(self.geometry.blocks_in(bytes));
        }
        let recorded = self.shared.index.held(self.id).ok().flatten();
        if let Some(record) =
            recorded.filter(|record| record.stamp == stamp && record.blocks.len() == blocks)
        {
            for number in record.blocks.iter() {
                unproven.remove(number);
            }
            self.held.lock().blocks = record.blocks;
            self.tell();
        }
        self.held.lock().unproven = unproven;
        self.prove(0..blocks);
    }

    /// Reads the unproven blocks of a range whose outline is known, on all cores, and holds the good ones.
    fn prove(&self, range: std::ops::Range<u32>) {
        let candidates: Vec<BlockIndex> = {
            let held = self.held.lock();
            let within = held
                .unproven
                .iter()
                .skip_while(|number| *number < range.start);
            within
                .take_while(|number| *number < range.end)
                .filter_map(|number| self.geometry.block(number))
                .collect()
        };
        if candidates.is_empty() {
            return;
        }
        let Ok(file) = self.part_file() else { return };
        let failed = AtomicBool::new(false);
        // By pages, the outline of each of which is known or is not.
        for page in
            candidates.chunk_by(|a, b| self.geometry.page_of(*a) == self.geometry.page_of(*b))
        {
            let known = page
                .first()
                .is_some_and(|first| matches!(self.needs(*first), Ok(None)));
            if !known || failed.load(Ordering::Relaxed) {
                continue;
            }
            let good = hash::on_all_cores(page, |block| {
                let bytes = self
                    .read_raw(&*file, *block)
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))
                    .ok()?;
                self.verify(*block, bytes).ok().map(|_| *block)
            });
            {
                let mut held = self.held.lock();
                page.iter()
                    .for_each(|block| _ = held.unproven.remove(block.get()));
            }
            self.hold(good.into_iter());
        }
    }
}

/// Makes a partial file, and notes which it is.
fn make(
    fs: &dyn FileSystem,
    part: &PartFile,
    stamp: &mut Option<FileStamp>,
) -> io::Result<OpenFile> {
    let (file, made) = part.make(fs)?;
    *stamp = Some(made);
    Ok(file)
}

/// How many of the blocks, from the first, follow each other and make at most one write.
fn run_len(blocks: &[VerifiedBlock]) -> usize {
    let mut bytes = 0_usize;
    let mut previous: Option<u32> = None;
    let fits = |block: &&VerifiedBlock| {
        let index = block.index().get();
        let follows = previous.is_none_or(|previous| previous.checked_add(1) == Some(index));
        bytes = bytes.saturating_add(block.bytes().len());
        previous = Some(index);
        follows && bytes <= WRITE_RUN
    };
    blocks.iter().take_while(fits).count().max(1)
}
