//! What is in the store, one content or a page of them at a time: no listing is ever in memory as a whole.

use std::ops::Bound;
use std::path::PathBuf;

use redb::{ReadOnlyTable, ReadTransaction};

use super::index::{CONTENTS, HELD, Index, MANIFESTS, PATHS, SHARED, keys_of, manifest_of, parsed};
use super::record::{ContentRecord, HeldRecord, PathRecord, Place, Record, State};
use super::{IndexError, Store, StoreError, files};
use crate::content::{ContentId, SignedManifest};

/// Contents that are read from the index at once.
const PAGE: usize = 4096;

/// What the store knows of a content.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContentInfo {
    /// Its id.
    pub id: ContentId,
    /// Its size in bytes; as claimed while it is partial.
    pub size: u64,
    /// Whether it is all there.
    pub state: State,
    /// The file it is in; `None` if the store keeps it in its own directory.
    pub path: Option<PathBuf>,
    /// Blocks held.
    pub held: u32,
    /// Blocks it has.
    pub blocks: u32,
    /// Whether it was fetched by this node (as opposed to shared in place). True for partials.
    pub download: bool,
    /// When it came into the store, in Unix seconds.
    pub added: u64,
    /// When it was last opened, in Unix seconds, to the hour.
    pub last_used: u64,
    /// One of its manifests. Verify before use.
    pub manifest: Option<SignedManifest>,
    /// Whether it is shared, on its own and not as a file of a folder.
    pub shared: bool,
}

/// The next contents after some id, and the id after which there may be more.
pub type Page<T> = (Vec<T>, Option<ContentId>);

impl Store {
    /// What is known of one content.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn info(&self, id: ContentId) -> Result<Option<ContentInfo>, StoreError> {
        let listed = self.shared.index.listed(id)?;
        Ok(listed.map(|listed| self.with_open(listed)))
    }

    /// What is in the store, by id: so many after an id, or from the first.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn contents_after(
        &self,
        after: Option<ContentId>,
        count: usize,
    ) -> Result<Page<ContentInfo>, StoreError> {
        let (listed, last) = self.shared.index.listed_after(after, count)?;
        let contents = listed.into_iter().map(|listed| self.with_open(listed));
        Ok((contents.collect(), last))
    }

    /// What was written since the last checkpoint is known to the handle only.
    fn with_open(&self, mut info: ContentInfo) -> ContentInfo {
        if info.state == State::Partial
            && let Some(content) = self.open.lock().partial(info.id)
        {
            info.held = content.held_count();
        }
        info
    }
}

impl Index {
    fn listed(&self, id: ContentId) -> Result<Option<ContentInfo>, IndexError> {
        self.read(|txn| {
            let Some(value) = txn.open_table(CONTENTS)?.get(id.as_bytes().as_slice())? else {
                return Ok(None);
            };
            let record = parsed(id.as_bytes(), value.value(), ContentRecord::from_value);
            record
                .map(|record| Described::open(txn)?.describe(id, record))
                .transpose()
        })
    }

    fn listed_after(
        &self,
        after: Option<ContentId>,
        count: usize,
    ) -> Result<Page<ContentInfo>, IndexError> {
        self.read(|txn| {
            let described = Described::open(txn)?;
            page(txn, after, count, |id, record| {
                described.describe(id, record)
            })
        })
    }

    /// Visits every content, by id. They are read page by page, so that the visitor may change the index.
    pub(super) fn each_content<E: From<IndexError>>(
        &self,
        mut visit: impl FnMut(ContentId, ContentRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after = None;
        loop {
            let (contents, last) =
                self.read(|txn| page(txn, after, PAGE, |id, record| Ok((id, record))))?;
            for (id, record) in contents {
                visit(id, record)?;
            }
            if last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }
}

/// What is made of the next contents after an id.
fn page<T>(
    txn: &ReadTransaction,
    after: Option<ContentId>,
    count: usize,
    make: impl Fn(ContentId, ContentRecord) -> Result<T, redb::Error>,
) -> Result<Page<T>, redb::Error> {
    let start = match &after {
        Some(id) => Bound::Excluded(id.as_bytes().as_slice()),
        None => Bound::Unbounded,
    };
    let mut found = Vec::new();
    let mut last = None;
    let contents = txn.open_table(CONTENTS)?;
    for entry in contents
        .range::<&[u8]>((start, Bound::Unbounded))?
        .take(count)
    {
        let (key, value) = entry?;
        let Ok(id) = <[u8; 32]>::try_from(key.value()).map(ContentId::from_bytes) else {
            continue;
        };
        // A damaged record is left out, and yet does not end the listing.
        last = Some(id);
        if let Some(record) = parsed(key.value(), value.value(), ContentRecord::from_value) {
            found.push(make(id, record)?);
        }
    }
    Ok((found, last))
}

/// The tables that say more of a content, as they were at one moment.
struct Described {
    paths: Bytes,
    held: Bytes,
    manifests: Bytes,
    shared: Bytes,
}

type Bytes = ReadOnlyTable<&'static [u8], &'static [u8]>;

impl Described {
    fn open(txn: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            paths: txn.open_table(PATHS)?,
            held: txn.open_table(HELD)?,
            manifests: txn.open_table(MANIFESTS)?,
            shared: txn.open_table(SHARED)?,
        })
    }

    fn describe(&self, id: ContentId, record: ContentRecord) -> Result<ContentInfo, redb::Error> {
        let blocks = record.geometry().map_or(0, |geometry| geometry.blocks());
        let held = match record.state {
            State::Complete => blocks,
            State::Partial => {
                let held = self.held.get(id.as_bytes().as_slice())?;
                held.and_then(|held| HeldRecord::from_value(held.value()))
                    .map_or(0, |held| held.blocks.count())
            }
            State::Changed | State::Missing => 0,
        };
        let (path, download) = match &record.place {
            Place::Object => (None, false),
            Place::Part(path) => (Some(files::from_bytes(path)), true),
            Place::File(path) => {
                let known = self.paths.get(path.as_slice())?;
                let known = known.and_then(|known| PathRecord::from_value(known.value()));
                let download = known.is_some_and(|known| known.download);
                (Some(files::from_bytes(path)), download)
            }
        };
        let keys = keys_of(id);
        let keys = keys.start().as_slice()..=keys.end().as_slice();
        let manifest = self.manifests.range(keys.clone())?.next().transpose()?;
        let shared = self.shared.range(keys)?.next().transpose()?;
        Ok(ContentInfo {
            id,
            size: record.size,
            state: record.state,
            path,
            held,
            blocks,
            download,
            added: record.added,
            last_used: record.last_used,
            manifest: manifest.and_then(|(_, value)| manifest_of(value.value())),
            shared: shared.is_some(),
        })
    }
}
