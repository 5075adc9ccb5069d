//! What the index says of a file at a path.

use super::batch::Batch;
use super::fs::FileSystem;
use super::record::{ContentRecord, FileStamp, PathRecord, Place, State};
use super::shared::now;
use super::{IndexError, files};
use crate::content::ContentId;

/// Has the index say that the file at `path` is this content. Returns the content that was there before, if that is
/// nowhere else as far as is known yet: [`resolve`](super::shared::Shared::resolve) it after the commit.
pub(super) fn adopt(
    fs: &dyn FileSystem,
    batch: &mut Batch<'_>,
    id: ContentId,
    path: &[u8],
    stamp: FileStamp,
    download: bool,
) -> Result<Option<ContentId>, IndexError> {
    let place = Place::File(path.to_vec());
    let old = batch.path(path)?;
    let mut displaced = None;
    if let Some(old) = old.filter(|old| old.id != id)
        && let Some(record) = batch
            .content(old.id)?
            .filter(|record| record.place == place)
    {
        batch.put_content(
            old.id,
            &ContentRecord {
                state: State::Changed,
                ..record
            },
        )?;
        displaced = Some(old.id);
    }
    let download = download || old.is_some_and(|old| old.id == id && old.download);
    batch.put_path(
        path,
        &PathRecord {
            id,
            stamp,
            download,
        },
    )?;
    let record = match batch.content(id)? {
        Some(record)
            if record.state == State::Complete && stands(fs, batch, id, &record.place)? =>
        {
            record
        }
        Some(record) => ContentRecord {
            size: stamp.size,
            state: State::Complete,
            place,
            ..record
        },
        None => ContentRecord {
            size: stamp.size,
            state: State::Complete,
            place,
            added: now(),
            last_used: now(),
        },
    };
    batch.put_content(id, &record)?;
    batch.remove_held(id)?;
    Ok(displaced)
}

/// Whether the place in use needs no replacement.
fn stands(
    fs: &dyn FileSystem,
    batch: &Batch<'_>,
    id: ContentId,
    place: &Place,
) -> Result<bool, IndexError> {
    let Place::File(path) = place else {
        return Ok(matches!(place, Place::Object));
    };
    let known = batch.path(path)?.filter(|known| known.id == id);
    Ok(known.is_some_and(|known| {
        fs.stamp(&files::from_bytes(path))
            .is_ok_and(|now| now == known.stamp)
    }))
}
