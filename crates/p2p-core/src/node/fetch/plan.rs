//! What a fetch fetches: contents, the file each is written to, and their place in the piece space.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use crate::{
    content::{BLOCK_LEN, BlockIndex, BlockSet, Collection, ContentId, Geometry},
    download::{Pieces, PiecesError},
    net::wire::{BlocksItem, BlocksRequest, Run},
    store::{Content, PartFile, PartRoot, Room, Store, StoreError, Wanted},
};

/// One content of a fetch.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) content: ContentId,
    pub(crate) geometry: Geometry,
    /// Its first piece.
    first: u32,
    part: PartFile,
    /// Its paths in the folder; none for a file.
    pub(crate) paths: Vec<String>,
}

/// The contents of a fetch in the order of their pieces.
#[derive(Debug)]
pub(crate) struct Plan {
    items: Vec<Item>,
    pieces: Pieces,
    /// Handles of the items that have been opened. They are kept to the end: a dropped one would have to find out again,
    /// by reading, what its file holds.
    opened: Mutex<HashMap<usize, Arc<Content>>>,
    /// Room on the disk for all of it.
    room: OnceLock<Room>,
}

/// The pieces of a content that a source said it does not have, or a request asks for.
pub(crate) type PieceRun = Range<u32>;

impl Plan {
    /// One content, written to `part`.
    pub(crate) fn file(
        content: ContentId,
        geometry: Geometry,
        part: PartFile,
    ) -> Result<Self, PiecesError> {
        let pieces = Pieces::file(geometry.size(), BLOCK_LEN as u32)?;
        let item = Item {
            content,
            geometry,
            first: 0,
            part,
            paths: Vec::new(),
        };
        Ok(Self {
            items: vec![item],
            pieces,
            opened: Mutex::default(),
            room: OnceLock::new(),
        })
    }

    /// The entries of a collection whose path is `wanted`. A content at several paths is fetched once.
    pub(crate) fn folder(
        collection: &Collection,
        root: &PartRoot,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Self, PiecesError> {
        let mut items: Vec<Item> = Vec::new();
        let mut known: HashMap<ContentId, usize> = HashMap::new();
        for entry in collection.entries().iter().filter(|e| wanted(&e.path)) {
            if let Some(item) = known
                .get(&entry.content)
                .and_then(|index| items.get_mut(*index))
                .filter(|item| item.geometry.size() == entry.size)
            {
                item.paths.push(entry.path.clone());
                continue;
            }
            let geometry = Geometry::new(entry.size).map_err(|_| PiecesError::TooMany)?;
            known.insert(entry.content, items.len());
            items.push(Item {
                content: entry.content,
                geometry,
                first: 0,
                part: root.entry(&entry.path),
                paths: vec![entry.path.clone()],
            });
        }
        let sizes = items.iter().map(|item| item.geometry.size());
        let pieces = Pieces::folder(sizes, BLOCK_LEN as u32)?;
        let mut first = 0_u32;
        for item in &mut items {
            item.first = first;
            first = first.saturating_add(item.geometry.blocks());
        }
        Ok(Self {
            items,
            pieces,
            opened: Mutex::default(),
            room: OnceLock::new(),
        })
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The pieces of one item.
    pub(crate) fn pieces_of(&self, item: usize) -> Option<PieceRun> {
        let item = self.items.get(item)?;
        Some(item.first..item.first.saturating_add(item.geometry.blocks()))
    }

    /// Takes the room for all of it. `folder` is where it goes; `resumed` says that some of it may be there.
    pub(crate) fn reserve(
        &self,
        store: &Store,
        folder: &Path,
        resumed: bool,
    ) -> Result<(), StoreError> {
        let wanted = self.items.iter().map(|item| Wanted {
            id: item.content,
            geometry: item.geometry,
            copies: item.paths.len().max(1) as u64,
            there: if resumed {
                store.on_disk(&item.part)
            } else {
                0
            },
        });
        let wanted: Vec<Wanted> = wanted.collect();
        let room = store.reserve(folder, &wanted)?;
        // It is taken once, when the plan is made.
        let _ = self.room.set(room);
        Ok(())
    }

    /// The room that was taken.
    pub(crate) fn room(&self) -> Option<&Room> {
        self.room.get()
    }

    /// Opens the partial file of an item, or goes on where it was left.
    pub(crate) fn open(&self, store: &Store, index: usize) -> Result<Arc<Content>, StoreError> {
        if let Some(content) = self.opened(index) {
            return Ok(content);
        }
        let item = self.items.get(index).ok_or_else(|| StoreError::Io {
            path: PathBuf::new(),
            source: std::io::ErrorKind::InvalidInput.into(),
        })?;
        let content = match self.room() {
            Some(room) => store.begin_within(item.content, item.geometry, &item.part, room)?,
            None => store.begin(item.content, item.geometry, &item.part)?,
        };
        self.keep(index, &content);
        Ok(content)
    }

    /// Opens those of the items that are files of one block, together. One that cannot be opened now says why when it is
    /// opened on its own.
    pub(crate) fn open_small(
        &self,
        store: &Store,
        indices: impl Iterator<Item = usize>,
    ) -> Result<(), StoreError> {
        let mut wanted = Vec::new();
        let mut of = Vec::new();
        for index in indices.filter(|index| self.opened(*index).is_none()) {
            if let Some(item) = self.items.get(index)
                && item.geometry.blocks() == 1
            {
                wanted.push((item.content, item.geometry, item.part.clone()));
                of.push(index);
            }
        }
        if wanted.len() < 2 {
            return Ok(());
        }
        for (index, begun) in of.into_iter().zip(store.begin_all(&wanted, self.room())?) {
            match begun {
                Ok(content) => self.keep(index, &content),
                Err(error) => tracing::debug!(index, %error, "not begun with the others"),
            }
        }
        Ok(())
    }

    /// Keeps the handle of an item.
    pub(crate) fn keep(&self, index: usize, content: &Arc<Content>) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.insert(index, Arc::clone(content));
    }

    /// The handle of an item that has been opened.
    pub(crate) fn opened(&self, index: usize) -> Option<Arc<Content>> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.get(&index).cloned()
    }

    /// The handles of all items that have been opened.
    pub(crate) fn all_opened(&self) -> Vec<Arc<Content>> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.values().cloned().collect()
    }

    /// The partial file of an item.
    pub(crate) fn part(&self, item: usize) -> Option<&PartFile> {
        self.items.get(item).map(|item| &item.part)
    }

    /// The piece that is this block of an item.
    pub(crate) fn piece(&self, item: usize, block: BlockIndex) -> Option<u32> {
        let item = self.items.get(item)?;
        (block.get() < item.geometry.blocks()).then(|| item.first.saturating_add(block.get()))
    }

    /// Turns held blocks of an item into held pieces.
    pub(crate) fn mark_held(&self, item: usize, held: &BlockSet, pieces: &mut BlockSet) {
        let Some(range) = self.pieces_of(item) else {
            return;
        };
        for run in held.runs() {
            let start = range.start.saturating_add(run.start).min(range.end);
            let end = range.start.saturating_add(run.end).min(range.end);
            pieces.insert_range(start..end);
        }
    }

    /// The request for these runs of pieces, and which item of the plan each of its items is. `outline` says whether
    /// the outline of a page of an item is still needed.
    pub(crate) fn request(
        &self,
        number: u64,
        runs: &[PieceRun],
        outline: impl Fn(usize, u32) -> bool,
    ) -> (BlocksRequest, Vec<Asked>) {
        let mut items: Vec<BlocksItem> = Vec::new();
        let mut asked: Vec<Asked> = Vec::new();
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                let Some((index, block)) = self.pieces.entry_of(at) else {
                    break;
                };
                let Some(item) = self.items.get(index) else {
                    break;
                };
                let end = run
                    .end
                    .min(item.first.saturating_add(item.geometry.blocks()));
                let count = end.saturating_sub(at).max(1);
                let run = Run {
                    start: block,
                    count,
                };
                let needs = needs_outline(item.geometry, run, |page| outline(index, page));
                match (items.last_mut(), asked.last_mut()) {
                    (Some(last), Some(asked)) if asked.item == index => {
                        last.runs.push(run);
                        last.outline |= needs;
                        asked.runs.push(block..block.saturating_add(count));
                    }
                    _ => {
                        items.push(BlocksItem {
                            content: item.content,
                            size: item.geometry.size(),
                            outline: needs,
                            runs: vec![run],
                        });
                        asked.push(Asked {
                            item: index,
                            runs: std::iter::once(block..block.saturating_add(count)).collect(),
                        });
                    }
                }
                at = at.saturating_add(count);
            }
        }
        (BlocksRequest { number, items }, asked)
    }
}

/// What one item of a request asks for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The item of the plan.
    pub(crate) item: usize,
    /// Runs of its blocks.
    pub(crate) runs: Vec<Range<u32>>,
}

impl Asked {
    /// Whether this block was asked for.
    pub(crate) fn contains(&self, block: u32) -> bool {
        self.runs.iter().any(|run| run.contains(&block))
    }
}

fn needs_outline(geometry: Geometry, run: Run, needed: impl Fn(u32) -> bool) -> bool {
    if geometry.blocks() <= 1 {
        return false;
    }
    let last = run.start.saturating_add(run.count).saturating_sub(1);
    let page = |block| geometry.block(block).map(|block| geometry.page_of(block));
    match (page(run.start), page(last)) {
        (Some(first), Some(last)) => (first..=last).any(needed),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{content::Entry, store::StoreOptions};

    fn store() -> Store {
        let options = StoreOptions {
            dir: "/store".into(),
            cache_bytes: 0,
            quota: u64::MAX,
            min_free: 0,
            evict: Default::default(),
        };
        Store::in_memory(options).unwrap()
    }

    fn entry(path: &str, size: u64) -> Entry {
        Entry {
            path: path.into(),
            size,
            content: if size == 0 {
                ContentId::EMPTY
            } else {
                ContentId::of(path.trim_end_matches('2').as_bytes())
            },
            attributes: None,
        }
    }

    #[test]
    fn a_run_over_small_files_is_one_request_that_names_them() {
        let root = store().part_root("/out.part").unwrap();
        let block = BLOCK_LEN as u64;
        let entries = vec![
            entry("a", 10),
            entry("a2", 10),
            entry("b", 3 * block),
            entry("c", 0),
            entry("d", 7),
        ];
        let collection = Collection::from_entries(entries).unwrap();
        let plan = Plan::folder(&collection, &root, &|_| true).unwrap();
        assert_eq!(plan.pieces().count(), 5, "the same content counts once");
        assert_eq!(plan.items()[0].paths, ["a", "a2"]);
        let (request, asked) = plan.request(1, &[0..2, 3..5], |_, _| true);
        let named = request.items.iter().map(|item| {
            let runs: Vec<(u32, u32)> =
                item.runs.iter().map(|run| (run.start, run.count)).collect();
            (item.size, item.outline, runs)
        });
        let named: Vec<_> = named.collect();
        assert_eq!(
            named,
            [
                (10, false, vec![(0, 1)]),
                (3 * block, true, vec![(0, 1), (2, 1)]),
                (7, false, vec![(0, 1)]),
            ]
        );
        assert_eq!(asked.iter().map(|a| a.item).collect::<Vec<_>>(), [0, 1, 3]);
        assert!(asked[1].contains(2) && !asked[1].contains(1));
    }

    #[test]
    fn small_files_are_opened_together_and_a_bad_one_alone() {
        let store = store();
        let root = store.part_root("/out.part").unwrap();
        let block = BLOCK_LEN as u64;
        let entries = vec![
            entry("a", 10),
            entry("b", 3 * block),
            entry("c", 7),
            entry("d", 8),
        ];
        let collection = Collection::from_entries(entries).unwrap();
        let plan = Plan::folder(&collection, &root, &|_| true).unwrap();
        store.part_root(root.path().join("c")).unwrap();
        plan.open_small(&store, 0..4).unwrap();
        assert!(plan.opened(0).is_some() && plan.opened(3).is_some());
        assert!(plan.opened(1).is_none(), "it is no small file");
        assert!(plan.opened(2).is_none());
        assert!(matches!(plan.open(&store, 2), Err(StoreError::NotAPart(_))));
        let first = plan.opened(0).unwrap();
        plan.open_small(&store, 0..4).unwrap();
        assert!(Arc::ptr_eq(&first, &plan.open(&store, 0).unwrap()));
    }

    #[test]
    fn only_the_wanted_is_planned() {
        let root = store().part_root("/out.part").unwrap();
        let entries = vec![entry("a.txt", 10), entry("b.bin", 20)];
        let collection = Collection::from_entries(entries).unwrap();
        let plan = Plan::folder(&collection, &root, &|path| path.ends_with("bin")).unwrap();
        assert_eq!(plan.pieces().total(), 20);
        let mut held = BlockSet::new(plan.pieces().count());
        plan.mark_held(0, &BlockSet::full(1), &mut held);
        assert!(held.is_full());
    }
}
