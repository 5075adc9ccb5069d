//! What a fetch fetches: contents, the file each is written to, and their place in the piece space.

use std::{
    collections::HashMap,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    content::{BLOCK_LEN, BlockIndex, BlockSet, Collection, ContentId, Geometry},
    download::{Pieces, PiecesError},
    net::wire::{BlocksItem, BlocksRequest, Run},
    store::{Content, PartFile, PartRoot, Store, StoreError},
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

    /// Opens the partial file of an item, or goes on where it was left.
    pub(crate) fn open(&self, store: &Store, index: usize) -> Result<Arc<Content>, StoreError> {
        if let Some(content) = self.opened(index) {
            return Ok(content);
        }
        let item = self.items.get(index).ok_or_else(|| StoreError::Io {
            path: PathBuf::new(),
            source: std::io::ErrorKind::InvalidInput.into(),
        })?;
        let content = store.begin(item.content, item.geometry, &item.part)?;
        self.keep(index, &content);
        Ok(content)
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
    use crate::content::Entry;

    fn entry(path: &str, size: u64) -> Entry {
        Entry {
            path: path.into(),
            size,
            content: if size == 0 {
                ContentId::EMPTY
            } else {
                ContentId::of(path.trim_end_matches('2').as_bytes())
            },
        }
    }

    #[test]
    fn a_run_over_small_files_is_one_request_that_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = PartRoot::create(dir.path().join("out.part")).unwrap();
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
    fn only_the_wanted_is_planned() {
        let dir = tempfile::tempdir().unwrap();
        let root = PartRoot::create(dir.path().join("out.part")).unwrap();
        let entries = vec![entry("a.txt", 10), entry("b.bin", 20)];
        let collection = Collection::from_entries(entries).unwrap();
        let plan = Plan::folder(&collection, &root, &|path| path.ends_with("bin")).unwrap();
        assert_eq!(plan.pieces().total(), 20);
        let mut held = BlockSet::new(plan.pieces().count());
        plan.mark_held(0, &BlockSet::full(1), &mut held);
        assert!(held.is_full());
    }
}
