//! The gate before everything that is answered or served: whether this peer may have this content.

use std::{
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    audience::{Asker, Audience, Restrictions},
    content::{ContentId, Kind},
    store::{ShareRecord, Store, StoreError},
};

/// [`Restrictions`], which those who share write and those who answer read. A share is entered before its first byte is
/// hashed, because what is hashed can be asked for.
#[derive(Debug, Default)]
pub(crate) struct Gate(RwLock<Restrictions>);

/// A restriction that ends when this is dropped.
pub(super) struct Hold<'a> {
    gate: &'a Gate,
    number: u64,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.gate.write().release(self.number);
    }
}

impl Gate {
    /// With the restrictions of the shares that there are, and of what was about to be shared.
    pub(super) fn of(store: &Store, shares: &[(PathBuf, ShareRecord)]) -> Result<Self, StoreError> {
        let mut restrictions = Restrictions::default();
        for (path, share) in shares {
            restrictions.set(path, share.audience.clone());
            if share.audience == Audience::Everyone {
                continue;
            }
            // What lies in the share is judged by its path.
            let copied = || {
                store
                    .place(share.id)
                    .map(|at| at == Some(store.object_path(share.id)))
            };
            if share.kind == Kind::Collection || copied()? {
                restrictions.add(share.id, path);
            }
        }
        for (path, audience) in store.begun()? {
            restrictions.set(&path, audience);
        }
        Ok(Self(RwLock::new(restrictions)))
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

    /// This content does not belong to the share at `path` any more.
    pub(super) fn remove(&self, id: ContentId, path: &Path) {
        self.write().remove(id, path);
    }

    /// What is shared at this path is for these, too, as long as what is returned lives.
    pub(super) fn hold(&self, path: &Path, audience: Audience) -> Hold<'_> {
        let number = self.write().hold(path, audience);
        Hold { gate: self, number }
    }

    /// Whether a peer may have a content, as far as it is here.
    pub(crate) fn allows(
        &self,
        store: &Store,
        id: ContentId,
        asker: &Asker,
    ) -> Result<bool, StoreError> {
        self.judge(store, id, |audience| audience.includes(asker))
    }

    /// Whether everyone may have a content: only then is it announced.
    pub(crate) fn is_open(&self, store: &Store, id: ContentId) -> Result<bool, StoreError> {
        self.judge(store, id, |_| false)
    }

    /// Whether everyone may have what lies at a path.
    pub(super) fn is_open_at(&self, path: &Path) -> bool {
        self.read().at(path).next().is_none()
    }

    fn judge(
        &self,
        store: &Store,
        id: ContentId,
        includes: impl Fn(&Audience) -> bool,
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
        let by_place = place.iter().flat_map(|path| restrictions.at(path));
        Ok(restrictions.of_id(id).chain(by_place).all(includes))
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
