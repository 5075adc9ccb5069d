//! The outline of a content between memory, the index and those who add to it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::content::Content;
use super::{IndexError, ReadError, StoreError};
use crate::content::{
    BlockIndex, ChainingValue, ContentId, Geometry, Need, Outline, TreeError, VerifiedBlock,
};

/// Pages of the outline kept in memory for one content (2 MiB, for 16 GiB of content); the index has the others.
const PAGES_IN_MEMORY: usize = 64;
/// Key of the top among the pages of an outline in the index.
pub(super) const TOP: u32 = u32::MAX;

/// The outline as far as it is in memory.
pub(super) struct KnownOutline {
    pub(super) tree: Outline,
    /// Pages in memory.
    loaded: usize,
    /// Pages (and [`TOP`]) that the index does not have yet.
    unsaved: BTreeSet<u32>,
}

impl Content {
    /// The values of the pages; `None` if they are not known, or the content has one page and so no top.
    ///
    /// # Errors
    /// [`ReadError::Index`].
    pub fn outline_top(&self) -> Result<Option<Arc<[ChainingValue]>>, ReadError> {
        if self.geometry.pages() > 1 && self.known().tree.top().is_none() {
            self.load(Need::Top)?;
        }
        Ok(self.known().tree.top().map(Arc::from))
    }

    /// The values of the blocks of a page; `None` if they are not known, or the content is of one block.
    ///
    /// # Errors
    /// [`ReadError::Index`].
    pub fn outline_page(&self, page: u32) -> Result<Option<Arc<[ChainingValue]>>, ReadError> {
        if let Some(first) = self
            .geometry
            .block(self.geometry.blocks_of_page(page).start)
        {
            self.load_outline(first)?;
        }
        Ok(self.known().tree.page(page).map(Arc::from))
    }

    /// What part of the outline must be added before this block can be verified; `None` if it can be now.
    ///
    /// # Errors
    /// [`ReadError::Index`].
    pub fn needs(&self, block: BlockIndex) -> Result<Option<Need>, ReadError> {
        self.load_outline(block)?;
        Ok(self.known().tree.needs(block))
    }

    /// Verifies a block that came from elsewhere.
    ///
    /// # Errors
    /// [`TreeError`]: the sender is to blame, unless [`Content::needs`] says that the outline is not known.
    pub fn verify(&self, block: BlockIndex, bytes: Bytes) -> Result<VerifiedBlock, TreeError> {
        // An index that fails leaves the outline unknown, which `verify` reports.
        let _ = self.load_outline(block);
        self.known().tree.verify(block, bytes)
    }

    pub(super) fn known(&self) -> RwLockReadGuard<'_, KnownOutline> {
        self.outline.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, KnownOutline> {
        self.outline.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what the index has of the outline of a block into memory.
    pub(super) fn load_outline(&self, block: BlockIndex) -> Result<(), IndexError> {
        // The top first, then the page.
        for _ in 0..2 {
            let need = self.known().tree.needs(block);
            match need {
                Some(need) if self.load(need)? => {}
                _ => break,
            }
        }
        Ok(())
    }

    /// Loads one part from the index. False if it is not there, or is damaged.
    fn load(&self, need: Need) -> Result<bool, IndexError> {
        let page = match need {
            Need::Top => TOP,
            Need::Page(page) => page,
        };
        let Some(values) = self.shared.index.outline(self.id, page)? else {
            return Ok(false);
        };
        let mut known = self.known_mut();
        known.make_room();
        let added = known.add(page, values);
        if let Err(error) = &added {
            tracing::warn!(id = %self.id, page, %error, "a damaged outline in the index");
        }
        Ok(added.is_ok())
    }

    /// Adds a part of the outline that came from elsewhere. False if it was known.
    pub(super) fn add_outline(
        &self,
        page: u32,
        values: Vec<ChainingValue>,
    ) -> Result<bool, StoreError> {
        let mut known = self.known_mut();
        let there = if page == TOP {
            known.tree.top().is_some()
        } else {
            known.tree.page(page).is_some()
        };
        if there {
            return Ok(false);
        }
        known.add(page, values).map_err(StoreError::Outline)?;
        // A page of one block is in the top.
        if page == TOP || self.geometry.blocks_of_page(page).len() > 1 {
            known.unsaved.insert(page);
        }
        drop(known);
        self.dirty.store(true, Ordering::Release);
        Ok(true)
    }

    /// The parts of the outline that the index does not have.
    pub(super) fn unsaved_outline(&self) -> Vec<(u32, Vec<ChainingValue>)> {
        let known = self.known();
        let values = |page: &u32| {
            let values = if *page == TOP {
                known.tree.top()
            } else {
                known.tree.page(*page)
            };
            values.map(|values| (*page, values.to_vec()))
        };
        known.unsaved.iter().filter_map(values).collect()
    }

    pub(super) fn set_outline_saved(&self, pages: &[(u32, Vec<ChainingValue>)]) {
        let mut known = self.known_mut();
        for (page, _) in pages {
            known.unsaved.remove(page);
        }
    }
}

impl KnownOutline {
    pub(super) fn new(id: ContentId, geometry: Geometry) -> Self {
        Self {
            tree: Outline::new(id, geometry),
            loaded: 0,
            unsaved: BTreeSet::new(),
        }
    }

    fn add(&mut self, page: u32, values: Vec<ChainingValue>) -> Result<(), TreeError> {
        if page == TOP {
            return self.tree.add_top(values);
        }
        self.tree.add_page(page, values)?;
        self.loaded = self.loaded.saturating_add(1);
        Ok(())
    }

    /// Forgets the pages in memory when there are many and the index has them all.
    fn make_room(&mut self) {
        if self.loaded < PAGES_IN_MEMORY || !self.unsaved.is_empty() {
            return;
        }
        let mut tree = Outline::new(self.tree.id(), self.tree.geometry());
        let top = self.tree.top().map(<[ChainingValue]>::to_vec);
        if top.is_none_or(|top| tree.add_top(top).is_ok()) {
            self.tree = tree;
            self.loaded = 0;
        }
    }
}
