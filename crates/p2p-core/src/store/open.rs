//! The handles that are given out.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::Content;
use crate::content::ContentId;

/// Complete contents kept open. Each is a few hundred bytes and at most 2 MiB of outline.
const OPEN_CONTENTS: usize = 256;
/// Handles of partial contents among which it is not worth looking for unused ones.
const SWEEP_AT_LEAST: usize = 256;

/// The handles given out. Complete ones are kept, up to a number; partial ones live as long as someone uses them.
#[derive(Default)]
pub(super) struct OpenContents {
    pub(super) complete: HashMap<ContentId, (Arc<Content>, u64)>,
    pub(super) partial: HashMap<ContentId, Weak<Content>>,
    /// Those that are being evicted, which nobody may open.
    pub(super) leaving: HashSet<ContentId>,
    /// Evictions so far.
    pub(super) departures: u64,
    /// When there are so many complete ones, those that nobody uses any more are closed.
    shrink_at: usize,
    /// When there are so many partial ones, those that nobody uses any more are looked for.
    sweep_at: usize,
    tick: u64,
}

impl OpenContents {
    pub(super) fn complete(&mut self, id: ContentId) -> Option<Arc<Content>> {
        self.tick = self.tick.saturating_add(1);
        let (content, used) = self.complete.get_mut(&id)?;
        *used = self.tick;
        Some(Arc::clone(content))
    }

    pub(super) fn partial(&self, id: ContentId) -> Option<Arc<Content>> {
        self.partial.get(&id).and_then(Weak::upgrade)
    }

    /// Keeps a complete content open, for those unused longest. One that somebody uses stays, so that this is known.
    pub(super) fn keep(&mut self, content: Arc<Content>) {
        self.tick = self.tick.saturating_add(1);
        if self.complete.len() >= self.shrink_at.max(OPEN_CONTENTS) {
            // Half of the uses ago: many go at once, so that each does not cost a look at all.
            let oldest = self.tick.saturating_sub(OPEN_CONTENTS as u64 / 2);
            self.complete
                .retain(|_, (content, used)| *used > oldest || Arc::strong_count(content) > 1);
            // When a million are in use at once, they are not all looked at for each.
            self.shrink_at = self.complete.len().saturating_mul(2);
        }
        self.complete.insert(content.id(), (content, self.tick));
    }

    pub(super) fn keep_partial(&mut self, content: &Arc<Content>) {
        if self.partial.len() >= self.sweep_at {
            self.partial.retain(|_, content| content.strong_count() > 0);
            self.sweep_at = self.partial.len().saturating_mul(2).max(SWEEP_AT_LEAST);
        }
        self.partial.insert(content.id(), Arc::downgrade(content));
    }

    /// Whether a content has users beside the handle that is kept here.
    pub(super) fn is_used(&self, id: ContentId) -> bool {
        let complete = self.complete.get(&id);
        complete.is_some_and(|(content, _)| Arc::strong_count(content) > 1)
            || self
                .partial
                .get(&id)
                .is_some_and(|content| content.strong_count() > 0)
    }

    /// When a content was last opened; 0 if that was before those that are kept here.
    pub(super) fn last_use(&self, id: ContentId) -> u64 {
        self.complete.get(&id).map_or(0, |(_, used)| *used)
    }
}
