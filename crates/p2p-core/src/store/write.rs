//! Fetching: beginning, writing blocks, checkpoints, and picking up where a fetch was left.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::content::{Content, Located};
use super::outline::TOP;
use super::part::PartFile;
use super::record::{ContentRecord, FileStamp, HeldRecord, Place, State};
use super::shared::now;
use super::{ReadError, Store, StoreError, files, hash};
use crate::content::{BlockIndex, BlockSet, ChainingValue, ContentId, Geometry, VerifiedBlock};

/// Bytes of neighbouring blocks written at once. 16 KiB writes were measured at 241 MB/s, 1 MiB ones at 1,200.
const WRITE_RUN: usize = 1024 * 1024;
/// Contents from this size on have their first bit of outline in the index at once, so that a fetch that is killed
/// finds its blocks again before any peer answers. Below it, a commit costs more than fetching the outline again.
const EAGER_OUTLINE: u64 = 16 * 1024 * 1024;

impl Store {
    /// Begins to fetch a content into a partial file, or goes on where that was left.
    ///
    /// Blocks that are in the file already count as held: those of the last checkpoint when the file was not touched
    /// since, and every other that can be read and verified with what is known of the outline (the rest is tried when
    /// its page is added). The file grows with what is written; it is not made larger on a claim of size. When the
    /// same content is being fetched already, that handle is returned, whatever its file.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] or [`StoreError::QuotaFull`] if it cannot fit; [`StoreError::AlreadyComplete`];
    /// [`StoreError::WrongSize`] if it is known with another size; [`StoreError::NotAPart`], [`StoreError::Io`],
    /// [`StoreError::Index`].
    pub fn begin(
        &self,
        id: ContentId,
        geometry: Geometry,
        part: &PartFile,
    ) -> Result<Arc<Content>, StoreError> {
        let wrong_size = || StoreError::WrongSize {
            id,
            size: geometry.size(),
        };
        if (geometry.size() == 0) != (id == ContentId::EMPTY) {
            return Err(wrong_size());
        }
        let content = {
            let mut open = self.open.lock();
            match open.partial(id).filter(|content| content.is_sound()) {
                Some(content) if content.geometry == geometry => content,
                Some(_) => return Err(wrong_size()),
                None => {
                    let promised = open.promised();
                    let content = Arc::new(self.begin_new(id, geometry, part, promised)?);
                    open.keep_partial(&content);
                    content
                }
            }
        };
        content.resumed.call_once(|| content.resume());
        Ok(content)
    }

    fn begin_new(
        &self,
        id: ContentId,
        geometry: Geometry,
        part: &PartFile,
        promised: u64,
    ) -> Result<Content, StoreError> {
        let old = self.shared.index.content(id)?;
        match &old {
            Some(record) if record.state == State::Complete => {
                return Err(StoreError::AlreadyComplete(id));
            }
            Some(record) if record.size != geometry.size() => {
                return Err(StoreError::WrongSize {
                    id,
                    size: geometry.size(),
                });
            }
            _ => {}
        }
        // A partial counts at its full size from the beginning, so one that is known is paid for.
        let counted = old
            .as_ref()
            .is_some_and(|record| record.state == State::Partial);
        let there = files::allocated(&part.path()).min(geometry.size());
        let missing = geometry.size().saturating_sub(there);
        self.shared.check_room(
            &part.folder(),
            missing,
            promised,
            if counted { 0 } else { geometry.size() },
        )?;

        let (content, file) = self.open_part(id, geometry, part, true)?;
        let record = partial_record(geometry, &part.path(), old.as_ref());
        if old.as_ref() != Some(&record) {
            // Durable with the first checkpoint: a folder of many small files must not cost a sync for each.
            let mut batch = self.shared.index.write(false)?;
            batch.put_content(id, &record)?;
            batch.commit()?;
        }
        content.keep_file(file);
        Ok(content)
    }

    /// A partial that is in the index, for reading while nobody fetches it (or for its fetch to join).
    pub(super) fn open_partial(
        &self,
        id: ContentId,
        record: &ContentRecord,
        path: &[u8],
    ) -> Result<Option<Arc<Content>>, StoreError> {
        let Some(geometry) = record.geometry() else {
            return Ok(None);
        };
        let content = {
            let mut open = self.open.lock();
            if let Some(content) = open.partial(id).filter(|content| content.is_sound()) {
                content
            } else {
                let part = PartFile::at(files::from_bytes(path));
                let content = match self.open_part(id, geometry, &part, false) {
                    Ok((content, file)) => {
                        content.keep_file(file);
                        Arc::new(content)
                    }
                    Err(StoreError::Io { source, .. })
                        if source.kind() == io::ErrorKind::NotFound =>
                    {
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                };
                open.keep_partial(&content);
                content
            }
        };
        content.resumed.call_once(|| content.resume());
        Ok(Some(content))
    }

    fn open_part(
        &self,
        id: ContentId,
        geometry: Geometry,
        part: &PartFile,
        create: bool,
    ) -> Result<(Content, File), StoreError> {
        let path = part.path();
        let file = part.open(create).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => StoreError::NotAPart(path.clone()),
            _ => StoreError::io(&path, error),
        })?;
        let stamp = FileStamp::of(
            &file
                .metadata()
                .map_err(|error| StoreError::io(&path, error))?,
        );
        Ok((
            Content::new(
                &self.shared,
                id,
                geometry,
                Located::Part {
                    part: part.clone(),
                    stamp,
                },
            ),
            file,
        ))
    }

    /// Makes what was written to these contents so far survive a crash: their files first, then, in one commit, which
    /// blocks they hold and the outlines that came with them. Costs nothing for those that did not change.
    ///
    /// # Errors
    /// [`StoreError::Sync`] if the disk did not take it: that content is written no more, and what the index says
    /// stays as it was; begin it again. The others are saved all the same. [`StoreError::Index`].
    pub fn checkpoint(&self, contents: &[Arc<Content>]) -> Result<(), StoreError> {
        let contents: Vec<&Content> = contents.iter().map(|content| &**content).collect();
        checkpoint(&contents)
    }
}

impl super::OpenContents {
    /// Bytes that fetches under way have still to write.
    fn promised(&self) -> u64 {
        let missing = |content: &Arc<Content>| {
            let held = u64::from(content.held_count());
            content
                .geometry
                .size()
                .saturating_sub(held.saturating_mul(crate::content::BLOCK_LEN as u64))
        };
        let open = self.partial.values().filter_map(std::sync::Weak::upgrade);
        open.filter(|content| content.is_sound())
            .map(|content| missing(&content))
            .fold(0, u64::saturating_add)
    }
}

/// The record of a content that is fetched into `path`, and was `old` before.
fn partial_record(geometry: Geometry, path: &Path, old: Option<&ContentRecord>) -> ContentRecord {
    ContentRecord {
        size: geometry.size(),
        state: State::Partial,
        place: Place::Part(files::to_bytes(path)),
        added: old.map_or_else(now, |old| old.added),
        last_used: now(),
    }
}

/// What a content had when its checkpoint began.
struct Snapshot {
    held: HeldRecord,
    outline: Vec<(u32, Vec<ChainingValue>)>,
}

/// Syncs the files, then commits. The first failure is returned, after everything else was done.
fn checkpoint(contents: &[&Content]) -> Result<(), StoreError> {
    let Some(shared) = contents.first().map(|content| Arc::clone(&content.shared)) else {
        return Ok(());
    };
    let mut failure = None;
    let mut saved = Vec::new();
    for content in contents {
        match content.sync_part() {
            Ok(Some(snapshot)) => saved.push((*content, snapshot)),
            Ok(None) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if !saved.is_empty() {
        let committed = (|| {
            let mut batch = shared.index.write(true)?;
            for (content, snapshot) in &saved {
                let wanted = match batch.content(content.id)? {
                    Some(record) => record.state == State::Partial,
                    // That it began was not synced, and was lost when the index was opened again.
                    None if !content.forgotten.load(Ordering::Acquire) => {
                        let record = partial_record(content.geometry, &content.path(), None);
                        batch.put_content(content.id, &record)?;
                        true
                    }
                    None => false,
                };
                // Forgotten or finished meanwhile: nothing to add to.
                if wanted {
                    batch.put_held(content.id, &snapshot.held)?;
                    batch.put_outline(content.id, &snapshot.outline)?;
                }
            }
            batch.commit()
        })();
        for (content, snapshot) in &saved {
            match &committed {
                Ok(()) => content.set_outline_saved(&snapshot.outline),
                Err(_) => content.dirty.store(true, Ordering::Release),
            }
        }
        committed?;
    }
    failure.map_or(Ok(()), Err)
}

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
        let _writing = self.writing();
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
            files::write_at(&file, self.geometry.offset_of(first.index()), &parts)
                .map_err(|error| self.failed(error))?;
            self.hold(run.iter().map(VerifiedBlock::index));
        }
        Ok(())
    }

    /// [`Store::checkpoint`] of this content alone.
    ///
    /// # Errors
    /// As there.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        checkpoint(&[self])
    }

    fn owns(&self, block: &VerifiedBlock) -> bool {
        let index = block.index();
        block.content() == self.id
            && index.get() < self.geometry.blocks()
            && self.geometry.len_of(index) == block.bytes().len()
    }

    fn failed(&self, error: io::Error) -> StoreError {
        StoreError::io(self.path(), error)
    }

    /// The partial file, to write to.
    fn part_file(&self) -> Result<Arc<File>, StoreError> {
        if !matches!(&*self.located.lock(), Located::Part { .. }) {
            return Err(StoreError::AlreadyComplete(self.id));
        }
        self.file().map_err(|error| match error {
            ReadError::Io(error) => self.failed(error),
            _ => StoreError::NotAPart(self.path()),
        })
    }

    fn unsynced(&self) -> Option<StoreError> {
        let source = || io::Error::other("an earlier write was lost");
        self.is_unsynced().then(|| StoreError::Sync {
            path: self.path(),
            source: source(),
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

    /// Syncs the partial file and says what is in it for certain. `None` if nothing changed since last time.
    fn sync_part(&self) -> Result<Option<Snapshot>, StoreError> {
        if let Some(error) = self.unsynced() {
            return Err(error);
        }
        if !matches!(&*self.located.lock(), Located::Part { .. })
            || !self.dirty.swap(false, Ordering::AcqRel)
        {
            return Ok(None);
        }
        // Taken before the sync: blocks written during it are left to the next.
        let blocks = self.held();
        let outline = self.unsaved_outline();
        let file = self.part_file()?;
        self.sync(&file)?;
        let stamp = FileStamp::of(&file.metadata().map_err(|error| self.failed(error))?);
        Ok(Some(Snapshot {
            held: HeldRecord { stamp, blocks },
            outline,
        }))
    }

    /// Syncs, or gives the content up: what the system's memory holds of it is no proof of what the disk does.
    pub(super) fn sync(&self, file: &File) -> Result<(), StoreError> {
        files::sync_data(file).map_err(|source| {
            self.set_unsynced();
            files::drop_from_memory(file);
            StoreError::Sync {
                path: self.path(),
                source,
            }
        })
    }

    /// Finds out what a partial file holds. Whatever fails here only means blocks to fetch again.
    pub(super) fn resume(&self) {
        let Ok(file) = self.part_file() else { return };
        let blocks = self.geometry.blocks();
        let Ok(metadata) = file.metadata() else {
            return;
        };
        if metadata.len() == 0 || blocks == 0 {
            return;
        }
        let stamp = FileStamp::of(&metadata);
        let mut unproven = BlockSet::new(blocks);
        for bytes in files::data_ranges(&file, metadata.len().min(self.geometry.size())) {
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
                    .read_raw(&file, *block)
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
