//! When ids were last announced in the DHT, kept over a restart so that what is fresh is not announced anew.

use super::index::ANNOUNCED;
use super::record::{announced_times, announced_value};
use super::{Store, StoreError};
use crate::content::ContentId;

impl Store {
    /// Every id that was announced, and when, in Unix seconds.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn announced(&self) -> Result<Vec<(ContentId, u32)>, StoreError> {
        Ok(self.shared.index.announced()?)
    }

    /// Keeps these parts of the list in place of what was kept of them, each named by a number. It is not synced: what a
    /// power cut takes back is announced once more.
    ///
    /// # Errors
    /// [`StoreError::Index`].
    pub fn save_announced(&self, parts: &[(u8, Vec<(ContentId, u32)>)]) -> Result<(), StoreError> {
        let mut batch = self.shared.index.write(false)?;
        for (number, times) in parts {
            batch.insert(ANNOUNCED, &[*number], &announced_value(times))?;
        }
        Ok(batch.commit()?)
    }
}

impl super::index::Index {
    fn announced(&self) -> Result<Vec<(ContentId, u32)>, super::IndexError> {
        let parts = self.list(ANNOUNCED, None, |_, value| announced_times(value))?;
        Ok(parts.into_iter().flatten().collect())
    }
}
