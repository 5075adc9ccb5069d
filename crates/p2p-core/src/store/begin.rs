//! Beginning to fetch: what may be fetched, whether there is room for it, and the files it goes to.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::batch::Batch;
use super::content::{Content, Located};
use super::fs::OpenFile;
use super::part::PartFile;
use super::record::{ContentRecord, FileStamp, Place, State};
use super::shared::now;
use super::space::{Need, Room};
use super::{OpenContents, Store, StoreError, files};
use crate::content::{ContentId, Geometry};

impl Store {
    /// Begins to fetch a content into a partial file, or goes on where that was left.
    ///
    /// Blocks that are in the file already count as held: those of the last checkpoint when the file was not touched
    /// since, and every other that can be read and verified with what is known of the outline (the rest is tried when
    /// its page is added). The file grows with what is written; it is not made larger on a claim of size. When the
    /// same content is being fetched already, that handle is returned, whatever its file. Others may be evicted for it.
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
        self.begin_in(id, geometry, part, None)
    }

    /// [`Store::begin`] with room that was [reserved](Store::reserve) for it.
    ///
    /// # Errors
    /// As there.
    pub fn begin_within(
        &self,
        id: ContentId,
        geometry: Geometry,
        part: &PartFile,
        room: &Room,
    ) -> Result<Arc<Content>, StoreError> {
        self.begin_in(id, geometry, part, Some(room))
    }

    fn begin_in(
        &self,
        id: ContentId,
        geometry: Geometry,
        part: &PartFile,
        room: Option<&Room>,
    ) -> Result<Arc<Content>, StoreError> {
        check_claim(id, geometry)?;
        let begun = self.open.lock().begun(id, geometry)?;
        let content = match begun {
            Some(content) => content,
            None => self.begin_new(id, geometry, part, room)?,
        };
        content.resumed.call_once(|| content.resume());
        Ok(content)
    }

    fn begin_new(
        &self,
        id: ContentId,
        geometry: Geometry,
        part: &PartFile,
        room: Option<&Room>,
    ) -> Result<Arc<Content>, StoreError> {
        let known = self.shared.index.content(id)?;
        let there = self.shared.fs.allocated(&part.path());
        let need = need_of(id, geometry, there, known.as_ref())?;
        // Held until the index knows of it.
        let _given = self.admit_within(&part.folder(), need, &[id], room)?;
        let mut open = self.open.lock();
        if let Some(content) = open.begun(id, geometry)? {
            return Ok(content);
        }
        let old = self.shared.index.content(id)?;
        need_of(id, geometry, there, old.as_ref())?;
        let (content, file) = self.open_part(id, geometry, part, true)?;
        let record = partial_record(geometry, &part.path(), old.as_ref());
        if old.as_ref() != Some(&record) {
            // Durable with the first checkpoint.
            let mut batch = self.shared.index.write(false)?;
            batch.put_content(id, &record)?;
            batch.commit()?;
        }
        content.keep_file(file);
        let content = Arc::new(content);
        open.keep_partial(&content);
        Ok(content)
    }

    /// Begins to fetch many small files of a folder, like [`Store::begin_within`] each, but with one change of the index
    /// and without making files that are not there yet: they are made as they are written. For each, in order, the handle
    /// or why there is none; one that cannot be begun is in nobody's way. Room is given in this order, as long as there
    /// is some. All are on one disk.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::Io`]: none of them is begun.
    pub fn begin_all(
        &self,
        wanted: &[(ContentId, Geometry, PartFile)],
        room: Option<&Room>,
    ) -> Result<Vec<Result<Arc<Content>, StoreError>>, StoreError> {
        let Some((_, _, first)) = wanted.first() else {
            return Ok(Vec::new());
        };
        let ids: Vec<ContentId> = wanted.iter().map(|(id, ..)| *id).collect();
        let needs = self.needs_of(wanted, &ids)?;
        let given = self.admit_each(&first.folder(), needs, &ids, room)?;
        // Held until the index knows of them.
        let mut rooms = Vec::with_capacity(given.len());
        let begun: Vec<Result<Arc<Content>, StoreError>> = {
            let mut open = self.open.lock();
            // Durable with the first checkpoint.
            let mut batch = self.shared.index.write(false)?;
            let begun = wanted
                .iter()
                .zip(given)
                .map(|((id, geometry, part), given)| {
                    rooms.push(given?);
                    self.begin_with(&mut open, &mut batch, (*id, *geometry, part))
                })
                .collect();
            batch.commit()?;
            begun
        };
        drop(rooms);
        for content in begun.iter().flatten() {
            content.resumed.call_once(|| content.resume());
        }
        Ok(begun)
    }

    /// What each of them takes.
    fn needs_of(
        &self,
        wanted: &[(ContentId, Geometry, PartFile)],
        ids: &[ContentId],
    ) -> Result<Vec<Result<Need, StoreError>>, StoreError> {
        let known = self.shared.index.contents_of(ids)?;
        let needs = wanted.iter().zip(known);
        Ok(needs
            .map(|((id, geometry, part), known)| {
                check_claim(*id, *geometry)?;
                let there = self.shared.fs.allocated(&part.path());
                need_of(*id, *geometry, there, known.as_ref())
            })
            .collect())
    }

    fn begin_with(
        &self,
        open: &mut OpenContents,
        batch: &mut Batch<'_>,
        (id, geometry, part): (ContentId, Geometry, &PartFile),
    ) -> Result<Arc<Content>, StoreError> {
        if let Some(content) = open.begun(id, geometry)? {
            return Ok(content);
        }
        let old = batch.content(id)?;
        let there = self.shared.fs.allocated(&part.path());
        need_of(id, geometry, there, old.as_ref())?;
        let content = if there.is_none() && geometry.blocks() == 1 {
            self.part_of(id, geometry, part, None)
        } else {
            let (content, file) = self.open_part(id, geometry, part, true)?;
            content.keep_file(file);
            content
        };
        let record = partial_record(geometry, &part.path(), old.as_ref());
        if old.as_ref() != Some(&record) {
            batch.put_content(id, &record)?;
        }
        let content = Arc::new(content);
        open.keep_partial(&content);
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
    ) -> Result<(Content, OpenFile), StoreError> {
        let path = part.path();
        let opened = part.open(&*self.shared.fs, create);
        let (file, stamp) = opened.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => StoreError::NotAPart(path.clone()),
            _ => StoreError::io(&path, error),
        })?;
        Ok((self.part_of(id, geometry, part, Some(stamp)), file))
    }

    fn part_of(
        &self,
        id: ContentId,
        geometry: Geometry,
        part: &PartFile,
        stamp: Option<FileStamp>,
    ) -> Content {
        let part = part.clone();
        Content::new(&self.shared, id, geometry, Located::Part { part, stamp })
    }
}

impl OpenContents {
    /// The handle of a content that is being fetched.
    fn begun(&self, id: ContentId, geometry: Geometry) -> Result<Option<Arc<Content>>, StoreError> {
        match self.partial(id).filter(|content| content.is_sound()) {
            Some(content) if content.geometry != geometry => Err(wrong_size(id, geometry)),
            found => Ok(found),
        }
    }
}

fn wrong_size(id: ContentId, geometry: Geometry) -> StoreError {
    StoreError::WrongSize {
        id,
        size: geometry.size(),
    }
}

/// Nothing is empty but the one content that is.
fn check_claim(id: ContentId, geometry: Geometry) -> Result<(), StoreError> {
    if (geometry.size() == 0) == (id == ContentId::EMPTY) {
        Ok(())
    } else {
        Err(wrong_size(id, geometry))
    }
}

/// What it takes to fetch a content, of which the index says `old`, into a file that takes `there` bytes.
fn need_of(
    id: ContentId,
    geometry: Geometry,
    there: Option<u64>,
    old: Option<&ContentRecord>,
) -> Result<Need, StoreError> {
    let size = geometry.size();
    let need = Need::of_new(size, there.unwrap_or(0));
    match old {
        Some(record) if record.state == State::Complete => Err(StoreError::AlreadyComplete(id)),
        Some(record) if record.size != size => Err(wrong_size(id, geometry)),
        // A partial counts at its full size from the beginning, so one that is known is paid for.
        Some(record) if record.state == State::Partial => Ok(Need { counted: 0, ..need }),
        _ => Ok(need),
    }
}

/// The record of a content that is fetched into `path`, and was `old` before.
pub(super) fn partial_record(
    geometry: Geometry,
    path: &Path,
    old: Option<&ContentRecord>,
) -> ContentRecord {
    ContentRecord {
        size: geometry.size(),
        state: State::Partial,
        place: Place::Part(files::to_bytes(path)),
        added: old.map_or_else(now, |old| old.added),
        last_used: now(),
    }
}
