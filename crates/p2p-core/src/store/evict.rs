//! Admission, and what makes room when there is none: complete downloads that nobody needs, those unused longest first; and
//! with them what was left unfinished in the store's own folder, as a reader leaves it.
//!
//! A download is deleted only if it is as this node wrote it, nobody pinned or shared it, and nobody is reading it; and
//! only if that makes what is asked for fit. The file goes before the index says so: after a crash in between the
//! content is found missing, and counts no more.

use std::collections::HashSet;
use std::path::Path;

use super::forget::is_untouched_download;
use super::fs::Stat;
use super::pins::Kept;
use super::record::{ContentRecord, Place, State};
use super::space::{Evict, Left, Need, Room, Wanted, index_growth};
use super::{Store, StoreError, files};
use crate::content::ContentId;

/// Evictions that are remembered until the node asks for them.
const MAX_TOLD: usize = 65_536;
/// The longest queue.
const QUEUE: usize = 4096;

/// A download that made room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evicted {
    /// What it was.
    pub id: ContentId,
    /// Bytes that were deleted.
    pub bytes: u64,
}

/// Room that was reserved, and what was given beyond it.
pub(super) type Given = (Option<Room>, Room);

/// A download that may go.
struct Candidate {
    id: ContentId,
    /// Its files.
    paths: Vec<Vec<u8>>,
    /// What is free without it.
    frees: Need,
}

/// By what the one unused longest comes first: when it was last opened in this run, and, in Unix seconds, when it was
/// opened and when it came.
type Use = (u64, u64, u64);

/// The downloads that were found unused longest, in this order, so that not each admission looks through the whole index.
/// They are looked at again before they go. Who has been used since is left out; who came since is younger.
#[derive(Debug, Default)]
pub(super) struct Queue(Vec<(Use, ContentId)>);

impl Queue {
    /// Has the next who needs room look at all: something may go that might not before.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Store {
    /// Room for all of a fetch, before its first byte. [`Store::begin_within`] takes from it; the rest is for copies, and
    /// is to be kept until the fetch is finished. Others may be evicted for it.
    ///
    /// # Errors
    /// [`StoreError::QuotaFull`], [`StoreError::NoSpace`]: nothing is evicted then. [`StoreError::Io`],
    /// [`StoreError::Index`].
    pub fn reserve(&self, folder: &Path, wanted: &[Wanted]) -> Result<Room, StoreError> {
        let ids: Vec<ContentId> = wanted.iter().map(|wanted| wanted.id).collect();
        let known = self.shared.index.contents_of(&ids)?;
        let needs = wanted.iter().zip(&known);
        let need = needs
            .map(|(wanted, known)| need_of(wanted, known.as_ref()))
            .fold(Need::default(), Need::plus);
        self.admit(folder, need, &ids)
    }

    /// Gives room, evicting others if that is what it takes, but not those of `ids`, which it is for.
    pub(super) fn admit(
        &self,
        folder: &Path,
        need: Need,
        ids: &[ContentId],
    ) -> Result<Room, StoreError> {
        if need.is_nothing() {
            return Ok(Room::new(&self.shared, need));
        }
        let _turn = self.shared.turn();
        match self.shared.give(folder, need) {
            Err(refusal) if refusal.is_full() => {
                if self.make_room(folder, need, ids)? {
                    self.shared.give(folder, need)
                } else {
                    Err(refusal)
                }
            }
            given => given,
        }
    }

    /// [`Store::admit`] of what is more than was reserved.
    pub(super) fn admit_within(
        &self,
        folder: &Path,
        need: Need,
        ids: &[ContentId],
        reserved: Option<&Room>,
    ) -> Result<Given, StoreError> {
        let part = reserved.map(|room| room.split(need));
        let rest = part.as_ref().map_or(need, |part| need.minus(part.left()));
        Ok((part, self.admit(folder, rest, ids)?))
    }

    /// [`Store::admit_within`] for each of several: for all together if they fit, else one by one as long as there is
    /// room without evicting anything.
    pub(super) fn admit_each(
        &self,
        folder: &Path,
        needs: Vec<Result<Need, StoreError>>,
        ids: &[ContentId],
        reserved: Option<&Room>,
    ) -> Result<Vec<Result<Given, StoreError>>, StoreError> {
        let all = needs
            .iter()
            .flatten()
            .fold(Need::default(), |sum, need| sum.plus(*need));
        let together = match self.admit_within(folder, all, ids, reserved) {
            Err(error) if !error.is_full() => return Err(error),
            given => given.ok(),
        };
        let _turn = self.shared.turn();
        let each = needs.into_iter().map(|need| {
            let need = need?;
            let Some((part, rest)) = &together else {
                return Ok((None, self.shared.give(folder, need)?));
            };
            let part = part.as_ref().map(|part| part.split(need));
            let missing = part.as_ref().map_or(need, |part| need.minus(part.left()));
            Ok((part, rest.split(missing)))
        });
        Ok(each.collect())
    }

    /// Evicts what may be until no more counts than the quota allows, after it was lowered. Returns what went.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::Io`].
    pub fn shrink(&self) -> Result<Vec<Evicted>, StoreError> {
        let _turn = self.shared.turn();
        let mut gone = Vec::new();
        for (_, candidate) in self.candidates(None)? {
            let left = self.shared.left(&self.shared.dir)?;
            if left.used <= left.quota {
                break;
            }
            gone.extend(self.evict(candidate)?);
        }
        Ok(gone)
    }

    /// Evicts all that may be. Returns what went.
    ///
    /// # Errors
    /// [`StoreError::Index`], [`StoreError::Io`].
    pub fn evict_all(&self) -> Result<Vec<Evicted>, StoreError> {
        let _turn = self.shared.turn();
        let mut gone = Vec::new();
        for (_, candidate) in self.candidates(None)? {
            gone.extend(self.evict(candidate)?);
        }
        Ok(gone)
    }

    /// What made room since this was last asked.
    pub fn take_evicted(&self) -> Vec<Evicted> {
        std::mem::take(&mut *self.shared.evicted.lock())
    }

    /// Makes a need fit, if evicting can do that. To be called in one's turn.
    fn make_room(
        &self,
        folder: &Path,
        need: Need,
        spared: &[ContentId],
    ) -> Result<bool, StoreError> {
        let device = self.shared.fs.stamp(folder).map(|stamp| stamp.device).ok();
        let spared: HashSet<&ContentId> = spared.iter().collect();
        if let Some(chosen) = self.chosen_of_queue(folder, need, device, &spared)? {
            return self.evict_for(chosen, folder, need);
        }
        let mut all = self.candidates(device)?;
        let first = all.iter().take(QUEUE);
        let first = first.map(|(used, candidate)| (*used, candidate.id));
        self.shared.queue.lock().0 = first.collect();
        all.retain(|(_, candidate)| !spared.contains(&candidate.id));
        let all = all.into_iter().map(|(_, candidate)| candidate).collect();
        // Looking for candidates may have found downloads that are gone, and count no more.
        match choose(all, self.shared.left(folder)?, need) {
            Some(chosen) => self.evict_for(chosen, folder, need),
            None => Ok(false),
        }
    }

    /// Evicts what was chosen; whether a need fits then.
    fn evict_for(
        &self,
        chosen: Vec<Candidate>,
        folder: &Path,
        need: Need,
    ) -> Result<bool, StoreError> {
        for candidate in chosen {
            self.evict(candidate)?;
        }
        Ok(self.shared.left(folder)?.refusal(need).is_none())
    }

    /// Those of the queue that make room enough; `None` if all of it does not.
    fn chosen_of_queue(
        &self,
        folder: &Path,
        need: Need,
        device: Option<u64>,
        spared: &HashSet<&ContentId>,
    ) -> Result<Option<Vec<Candidate>>, StoreError> {
        let mut queue = std::mem::take(&mut *self.shared.queue.lock());
        if queue.0.is_empty() || self.shared.limits().evict == Evict::Off {
            return Ok(None);
        }
        let kept = self.kept()?;
        let (mut found, mut frees) = (Vec::new(), Need::default());
        let mut still = Vec::with_capacity(queue.0.len());
        let mut rest = queue.0.drain(..);
        for (used, id) in rest.by_ref() {
            if spared.contains(&id) {
                still.push((used, id));
                continue;
            }
            let Some(record) = self.shared.index.content(id)? else {
                continue;
            };
            let Some((now, candidate)) = self.candidate_of(id, &record, &kept, device)? else {
                continue;
            };
            if now != used {
                continue;
            }
            still.push((used, id));
            frees = frees.plus(candidate.frees);
            found.push(candidate);
            if self
                .shared
                .left(folder)?
                .short(need)
                .minus(frees)
                .is_nothing()
            {
                break;
            }
        }
        still.extend(rest);
        self.shared.queue.lock().0 = still;
        Ok(choose(found, self.shared.left(folder)?, need))
    }

    /// The downloads that may go, the one unused longest first. `device` is the disk that room is wanted on.
    fn candidates(&self, device: Option<u64>) -> Result<Vec<(Use, Candidate)>, StoreError> {
        if self.shared.limits().evict == Evict::Off {
            return Ok(Vec::new());
        }
        let kept = self.kept()?;
        let mut found = Vec::new();
        self.shared.index.each_content(|id, record| {
            found.extend(self.candidate_of(id, &record, &kept, device)?);
            Ok::<_, StoreError>(())
        })?;
        found.sort_by_key(|(used, candidate)| (*used, candidate.id));
        Ok(found)
    }

    /// A content that may go now, and when it was used.
    fn candidate_of(
        &self,
        id: ContentId,
        record: &ContentRecord,
        kept: &Kept,
        device: Option<u64>,
    ) -> Result<Option<(Use, Candidate)>, StoreError> {
        if kept.keeps(id) || self.is_open(id) {
            return Ok(None);
        }
        let Some(candidate) = self.candidate(id, record, kept, device)? else {
            return Ok(None);
        };
        let entries = self.listed(id, record)?;
        let here = self.shared.index.contents_of(&entries)?;
        if here.iter().any(Option::is_some) {
            // Without its listing a folder could not be passed on.
            return Ok(None);
        }
        let used = self.open.lock().last_use(id);
        Ok(Some(((used, record.last_used, record.added), candidate)))
    }

    /// What is free without a content; `None` if any of its files must stay.
    fn candidate(
        &self,
        id: ContentId,
        record: &ContentRecord,
        kept: &Kept,
        device: Option<u64>,
    ) -> Result<Option<Candidate>, StoreError> {
        match (record.state, &record.place) {
            (State::Complete, Place::File(_)) => {}
            (State::Partial, Place::Part(path)) => {
                return Ok(self.unfinished(id, record, path, device));
            }
            _ => return Ok(None),
        }
        let everywhere = self.shared.limits().evict == Evict::Downloads;
        let mut candidate = Candidate {
            id,
            paths: Vec::new(),
            frees: Need::default(),
        };
        for path in self.shared.index.copies(id)? {
            let Some(known) = self
                .shared
                .index
                .path(&path)?
                .filter(|known| known.id == id)
            else {
                continue;
            };
            let name = files::from_bytes(&path);
            let stat = match self.shared.fs.stat(&name) {
                // Gone, so that it is in nobody's way; no more counted from now on.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    self.stop_counting(&path)?;
                    continue;
                }
                Ok(stat) if known.download && stat.stamp == known.stamp => stat,
                _ => return Ok(None),
            };
            let own = name.starts_with(&self.shared.fetched);
            if !(own || everywhere) || kept.is_shared(&name) {
                return Ok(None);
            }
            candidate.frees = candidate.frees.plus(Need {
                counted: known.stamp.size,
                disk: freed(&stat, device),
            });
            candidate.paths.push(path);
        }
        Ok((!candidate.paths.is_empty()).then_some(candidate))
    }

    /// What was left unfinished, if it is the store's own.
    fn unfinished(
        &self,
        id: ContentId,
        record: &ContentRecord,
        path: &[u8],
        device: Option<u64>,
    ) -> Option<Candidate> {
        let name = files::from_bytes(path);
        let stat = self.shared.fs.stat(&name).ok()?;
        name.starts_with(&self.shared.fetched).then(|| Candidate {
            id,
            paths: vec![path.to_vec()],
            frees: Need {
                counted: record.size.saturating_add(index_growth(record.size)),
                disk: freed(&stat, device),
            },
        })
    }

    fn stop_counting(&self, path: &[u8]) -> Result<(), StoreError> {
        // Found out again by looking, so it is not synced.
        let mut batch = self.shared.index.write(false)?;
        batch.stop_counting(path)?;
        Ok(batch.commit()?)
    }

    /// Whether somebody uses the content now.
    pub(super) fn is_open(&self, id: ContentId) -> bool {
        self.open.lock().is_used(id)
    }

    /// Deletes a download and forgets it. `None` if that must not be, or cannot, after all.
    fn evict(&self, candidate: Candidate) -> Result<Option<Evicted>, StoreError> {
        let Candidate { id, paths, frees } = candidate;
        {
            let mut open = self.open.lock();
            if open.is_used(id) {
                return Ok(None);
            }
            open.complete.remove(&id);
            open.partial.remove(&id);
            // From here on nobody can open it.
            open.leaving.insert(id);
        }
        let gone = self.delete_and_forget(id, &paths);
        {
            let mut open = self.open.lock();
            open.leaving.remove(&id);
            open.departures = open.departures.wrapping_add(1);
        }
        if !gone? {
            return Ok(None);
        }
        let bytes = frees.counted;
        tracing::info!(%id, bytes, "evicted to make room");
        let evicted = Evicted { id, bytes };
        let mut told = self.shared.evicted.lock();
        if told.len() < MAX_TOLD {
            told.push(evicted);
        }
        Ok(Some(evicted))
    }

    /// Whether a file is still this node's own and as it was written.
    fn may_delete(&self, id: ContentId, path: &[u8]) -> Result<bool, StoreError> {
        if let Some(known) = self.shared.index.path(path)? {
            return Ok(known.id == id && is_untouched_download(&*self.shared.fs, path, &known));
        }
        let record = self.shared.index.content(id)?;
        Ok(record.is_some_and(|record| record.place == Place::Part(path.to_vec())))
    }

    fn delete_and_forget(&self, id: ContentId, paths: &[Vec<u8>]) -> Result<bool, StoreError> {
        for path in paths {
            if !self.may_delete(id, path)? {
                return Ok(false);
            }
            let name = files::from_bytes(path);
            if let Err(error) = self.shared.fs.remove(&name) {
                tracing::warn!(path = %name.display(), %error, "a download could not be evicted");
                return Ok(false);
            }
            // Or a power cut brings it back, and nobody counts it.
            let folder = files::folder_of(&name);
            self.shared
                .fs
                .sync_folder(folder)
                .map_err(|error| StoreError::io(folder, error))?;
            self.shared
                .fs
                .remove_empty_above(&name, &self.shared.fetched);
        }
        let copies = self.shared.index.copies(id)?;
        let mut batch = self.shared.index.write(true)?;
        for path in copies {
            if batch.path(&path)?.is_some_and(|known| known.id == id) {
                batch.remove_path(&path)?;
            }
        }
        batch.remove_content(id)?;
        batch.commit()?;
        Ok(true)
    }
}

/// What a fetch takes of a content, of which the index says `known`.
fn need_of(wanted: &Wanted, known: Option<&ContentRecord>) -> Need {
    let size = wanted.geometry.size();
    let once = match known.map(|record| record.state) {
        Some(State::Partial) => Need {
            counted: 0,
            ..Need::of_new(size, wanted.there)
        },
        _ => Need::of_new(size, wanted.there),
    };
    let more = size.saturating_mul(wanted.copies.saturating_sub(1));
    once.plus(Need {
        counted: more,
        disk: more,
    })
}

/// Bytes that deleting a file frees on a disk.
fn freed(stat: &Stat, device: Option<u64>) -> u64 {
    if device == Some(stat.stamp.device) && stat.names == 1 {
        stat.allocated
    } else {
        0
    }
}

/// As many as it takes and no more; `None` if all of them are not enough.
fn choose(candidates: Vec<Candidate>, left: Left, need: Need) -> Option<Vec<Candidate>> {
    let short = left.short(need);
    let enough = |frees: Need| short.minus(frees).is_nothing();
    let mut frees = Need::default();
    let mut chosen = Vec::new();
    for candidate in candidates {
        if enough(frees) {
            break;
        }
        // Some free only what there is enough of, such as on another disk.
        if short.minus(frees) != short.minus(frees.plus(candidate.frees)) {
            frees = frees.plus(candidate.frees);
            chosen.push(candidate);
        }
    }
    if !enough(frees) {
        return None;
    }
    // The last may have been so large that some before it may stay: those used last.
    let mut needed = Vec::new();
    while let Some(candidate) = chosen.pop() {
        let without = frees.minus(candidate.frees);
        if enough(without) {
            frees = without;
        } else {
            needed.push(candidate);
        }
    }
    needed.reverse();
    Some(needed)
}
