//! What is in the store, counted by kind.

use super::object::object_files;
use super::record::{Place, State};
use super::{Store, StoreError, Usage, space};

/// How many of something, and how many bytes they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Amount {
    /// Contents, or files.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What is in a store. Pinned content is counted once more beside its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStat {
    /// Files that were fetched and finished.
    pub downloads: Amount,
    /// Contents being fetched, or left unfinished, at their full size.
    pub partial: Amount,
    /// Content in the store's own directory.
    pub objects: Amount,
    /// Files that are shared where they lie. They do not count against the quota.
    pub in_place: Amount,
    /// What is pinned, on its own or with its folder.
    pub pinned: Amount,
    /// Contents whose file changed or is gone.
    pub unusable: Amount,
    /// Damaged objects that were set aside, in `objects/`. They do not count.
    pub damaged: Amount,
    /// What counts against the quota.
    pub usage: Usage,
    /// The quota in bytes.
    pub quota: u64,
    /// Bytes that this user can still write to the disk of the data directory.
    pub free: u64,
    /// Bytes that are to stay free there.
    pub min_free: u64,
}

impl Store {
    /// Counts what is in the store. Reads all of the index, and no content but the listings of pinned folders.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::Io`].
    pub fn stat(&self) -> Result<StoreStat, StoreError> {
        let (quota, min_free) = self.limits();
        let mut stat = StoreStat {
            usage: self.usage(),
            quota,
            free: space::free(&*self.shared.fs, &self.shared.dir)?,
            min_free,
            ..StoreStat::default()
        };
        let kept = self.kept()?;
        self.shared.index.each_content(|id, record| {
            match (record.state, &record.place) {
                (_, Place::Object) => stat.objects.add(record.size),
                (State::Partial, _) => stat.partial.add(record.size),
                (State::Changed | State::Missing, _) => stat.unusable.add(record.size),
                (State::Complete, _) => {}
            }
            if kept.is_pinned(id) {
                stat.pinned.add(record.size);
            }
            Ok::<_, StoreError>(())
        })?;
        for (_, known) in self.shared.index.paths()? {
            if known.download {
                stat.downloads.add(known.stamp.size);
            } else {
                stat.in_place.add(known.stamp.size);
            }
        }
        for (path, file) in object_files(&*self.shared.fs, &self.shared.objects()) {
            if path.extension().is_some_and(|ending| ending == "damaged") {
                stat.damaged.add(file.allocated);
            }
        }
        Ok(stat)
    }
}
