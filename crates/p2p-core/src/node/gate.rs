//! The gate before everything that is answered or served: whether this peer may have this content.

use std::{
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    audience::{Asker, Audience, Restrictions},
    content::ContentId,
    store::{ShareRecord, Store, StoreError},
};

/// [`Restrictions`], which those who share write and those who answer read. A share is entered before its first byte is
/// hashed, because what is hashed can be asked for.
#[derive(Debug, Default)]
pub(crate) struct Gate(RwLock<Restrictions>);

impl Gate {
    /// With the restrictions of the shares that there are.
    pub(super) fn of<'a>(shares: impl IntoIterator<Item = (&'a Path, &'a ShareRecord)>) -> Self {
        let mut restrictions = Restrictions::default();
        for (path, share) in shares {
            restrictions.set(path, share.audience.clone());
            restrictions.add(share.id, path);
        }
        Self(RwLock::new(restrictions))
    }

    fn read(&self) -> RwLockReadGuard<'_, Restrictions> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Restrictions> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything is for everyone.
    pub(crate) fn is_idle(&self) -> bool {
        self.read().is_empty()
    }

    /// What is shared at this path is for these.
    pub(super) fn set(&self, path: &Path, audience: Audience) {
        self.write().set(path, audience);
    }

    /// This content, which does not lie there, belongs to the share at `path`.
    pub(super) fn add(&self, id: ContentId, path: &Path) {
        self.write().add(id, path);
    }

    /// This content belongs to no share any more.
    pub(super) fn remove(&self, id: ContentId) {
        self.write().remove(id);
    }

    /// Whether a peer may have a content, as far as it is here.
    pub(crate) fn allows(
        &self,
        store: &Store,
        id: ContentId,
        asker: &Asker,
    ) -> Result<bool, StoreError> {
        self.judge(
            store,
            id,
            |restrictions, path| restrictions.allow(path, asker),
            |audience| audience.includes(asker),
        )
    }

    /// Whether everyone may have a content: only then is it announced.
    pub(crate) fn is_open(&self, store: &Store, id: ContentId) -> Result<bool, StoreError> {
        self.judge(store, id, Restrictions::is_open, |_| false)
    }

    /// Whether everyone may have what lies at a path.
    pub(super) fn is_open_at(&self, path: &Path) -> bool {
        self.read().is_open(path)
    }

    fn judge(
        &self,
        store: &Store,
        id: ContentId,
        by_path: impl FnOnce(&Restrictions, &Path) -> bool,
        by_audience: impl FnOnce(&Audience) -> bool,
    ) -> Result<bool, StoreError> {
        if self.is_idle() {
            return Ok(true);
        }
        // Not under the lock: it reads the index, and looks where the content is now. What is not here any more is
        // judged by where it was.
        let place = match store.content(id)? {
            Some(content) => Some(content.path()),
            None => store.place(id)?,
        };
        let restrictions = self.read();
        if let Some(audience) = restrictions.of_id(id) {
            return Ok(by_audience(audience));
        }
        Ok(place.is_none_or(|path| by_path(&restrictions, &path)))
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
