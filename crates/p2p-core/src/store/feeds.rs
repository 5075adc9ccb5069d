//! Feeds that the node publishes, follows or has looked up: the latest value of each that it ever saw.

use super::batch::Batch;
use super::record::FeedRecord;
use super::{Store, StoreError};
use crate::content::{ContentId, FeedId, TrustedFeed};

/// Feeds that are kept. When there are so many, one that was only looked up makes room.
pub(super) const MAX_FEEDS: usize = 1024;

impl Store {
    /// All feeds, in no order that means anything.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn feeds(&self) -> Result<Vec<FeedRecord>, StoreError> {
        Ok(self.shared.index.feeds()?)
    }

    /// What is known of a feed.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn feed(&self, id: &FeedId) -> Result<Option<FeedRecord>, StoreError> {
        let record = self.shared.index.feed(id.key())?;
        Ok(record.filter(|record| record.id == *id))
    }

    /// Keeps the value of a feed if it is newer than the one there is. `own` says that this node signed it. Returns what
    /// is known of it now, and whether the value was news.
    ///
    /// # Errors
    /// [`StoreError::TooManyFeeds`], [`StoreError::Index`], [`StoreError::NoSpace`].
    pub fn keep_feed(
        &self,
        value: &TrustedFeed,
        own: bool,
    ) -> Result<(FeedRecord, bool), StoreError> {
        let id = value.feed().id.clone();
        self.change_feed(&id, |record| {
            record.own |= own;
            let before = record.value.as_ref().map(|signed| signed.claims());
            let is_news = before.is_none_or(|before| value.supersedes(before));
            if is_news {
                record.value = Some(value.signed().clone());
            }
            is_news
        })
    }

    /// Follows a feed from now on, or no longer. Returns what is known of it, and whether that is a change.
    ///
    /// # Errors
    /// As [`Store::keep_feed`].
    pub fn follow_feed(
        &self,
        id: &FeedId,
        followed: bool,
    ) -> Result<(FeedRecord, bool), StoreError> {
        self.change_feed(id, |record| {
            std::mem::replace(&mut record.followed, followed) != followed
        })
    }

    /// Changes a record, or makes one, in one step: of two that come at once the later sees the earlier.
    fn change_feed(
        &self,
        id: &FeedId,
        change: impl FnOnce(&mut FeedRecord) -> bool,
    ) -> Result<(FeedRecord, bool), StoreError> {
        let key = id.key();
        let mut batch = self.shared.index.write(true)?;
        let before = batch.feed(key)?.filter(|record| record.id == *id);
        if before.is_none() {
            make_room(&mut batch, key)?;
        }
        let mut record = before.clone().unwrap_or(FeedRecord {
            id: id.clone(),
            value: None,
            own: false,
            followed: false,
        });
        let changed = change(&mut record);
        if before.as_ref() != Some(&record) {
            batch.put_feed(key, &record)?;
            batch.commit()?;
        }
        Ok((record, changed))
    }
}

/// Makes room for another feed: one that is neither published nor followed gives way to it when there are too many.
fn make_room(batch: &mut Batch<'_>, key: ContentId) -> Result<(), StoreError> {
    let feeds = batch.feeds()?;
    if feeds.len() < MAX_FEEDS || feeds.iter().any(|record| record.id.key() == key) {
        return Ok(());
    }
    let spare = feeds.iter().find(|record| !record.own && !record.followed);
    let spare = spare.ok_or(StoreError::TooManyFeeds)?;
    Ok(batch.remove_feed(spare.id.key())?)
}
