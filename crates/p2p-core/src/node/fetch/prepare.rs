//! The disk side of a fetch's beginning and end: where it goes, what is there already, and putting files in place. These
//! functions block; they run on threads for that.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Goal, Order, Target, plan::Plan, transfer::Ending};
use crate::{
    content::{BlockSet, Collection, Geometry, SignedManifest},
    node::error::FetchError,
    store::{Content, Existing, PartFile, PartRoot, State, Store, StoreError},
};

/// What preparing found.
pub(crate) enum Prepared {
    /// What to fetch, and which pieces of it are here already.
    Planned {
        plan: Arc<Plan>,
        held: BlockSet,
        /// Whether there may be more in the partial files than `held`: blocks whose outline is not known yet.
        resumed: bool,
        destination: Destination,
    },
    /// The entries of the folder.
    Listed(Arc<Collection>),
    /// What was signed as a folder is a file whose bytes list no entries.
    NotAFolder,
}

/// Where the result goes.
#[derive(Debug)]
pub(crate) enum Destination {
    /// One file.
    File { part: PartFile, target: PathBuf },
    /// A folder.
    Folder { root: PartRoot, target: PathBuf },
}

/// Makes the plan for a goal.
pub(crate) fn prepare(
    store: &Store,
    order: &Order,
    goal: Goal,
    geometry: Geometry,
    name: &str,
    collection: Option<&Collection>,
) -> Result<Prepared, FetchError> {
    match (goal, collection) {
        (Goal::Folder, Some(collection)) => prepare_folder(store, order, name, collection),
        (Goal::Listing, _) => {
            if let Some(content) = store.content(order.id)?
                && content.is_complete()
            {
                return list(&content);
            }
            let target = order.scratch_file();
            prepare_file(store, order, geometry, target)
        }
        _ => {
            let target = target_of(order, name)?;
            prepare_file(store, order, geometry, target)
        }
    }
}

/// The final path, which must be free unless the order says otherwise.
fn target_of(order: &Order, name: &str) -> Result<PathBuf, FetchError> {
    let target = match &order.target {
        Target::Path(path) if path.is_dir() => path.join(name),
        Target::Path(path) => path.clone(),
        Target::In(dir) => dir.join(name),
        Target::Store => return Ok(order.scratch_file()),
    };
    let target = std::path::absolute(&target).unwrap_or(target);
    if order.existing == Existing::Refuse && std::fs::symlink_metadata(&target).is_ok() {
        return Err(FetchError::TargetExists(target));
    }
    Ok(target)
}

/// `NAME.part`, beside `NAME`.
fn part_path(target: &Path) -> PathBuf {
    let mut name = target
        .file_name()
        .map_or_else(OsString::new, ToOwned::to_owned);
    name.push(".part");
    target.with_file_name(name)
}

fn prepare_file(
    store: &Store,
    order: &Order,
    geometry: Geometry,
    target: PathBuf,
) -> Result<Prepared, FetchError> {
    let part = PartFile::at(part_path(&target));
    let resumed = part.path().exists();
    let plan = Plan::file(order.id, geometry, part.clone()).map_err(too_many)?;
    let content = obtain(store, &plan, 0)?;
    let mut held = BlockSet::new(plan.pieces().count());
    plan.mark_held(0, &content.held(), &mut held);
    Ok(Prepared::Planned {
        plan: Arc::new(plan),
        held,
        resumed,
        destination: Destination::File { part, target },
    })
}

fn too_many(error: impl std::fmt::Display) -> FetchError {
    FetchError::Verification(error.to_string())
}

fn prepare_folder(
    store: &Store,
    order: &Order,
    name: &str,
    collection: &Collection,
) -> Result<Prepared, FetchError> {
    let target = target_of(order, name)?;
    let include = order.include.clone();
    let wanted = move |path: &str| include.as_ref().is_none_or(|include| include(path));
    let entries = collection.entries();
    if !entries.is_empty() && !entries.iter().any(|entry| wanted(&entry.path)) {
        return Err(FetchError::NothingMatches);
    }
    let part_dir = part_path(&target);
    let resumed = part_dir.exists();
    let root = PartRoot::create(&part_dir)?;
    let plan = Plan::folder(collection, &root, &wanted).map_err(too_many)?;
    let mut held = BlockSet::new(plan.pieces().count());
    for (index, item) in plan.items().iter().enumerate() {
        let left_over = resumed && plan.part(index).is_some_and(|part| part.path().exists());
        let here = store
            .info(item.content)?
            .is_some_and(|info| info.state == State::Complete);
        if left_over || here || item.geometry.blocks() == 0 {
            let content = obtain(store, &plan, index)?;
            plan.mark_held(index, &content.held(), &mut held);
        }
    }
    Ok(Prepared::Planned {
        plan: Arc::new(plan),
        held,
        resumed,
        destination: Destination::Folder { root, target },
    })
}

/// The partial file of an item: begun, gone on with, or copied from where the store already has the content.
fn obtain(store: &Store, plan: &Plan, index: usize) -> Result<Arc<Content>, StoreError> {
    // The file of a complete content may turn out to be gone when it is opened: then it is fetched after all.
    for _ in 0..3 {
        let id = match plan.open(store, index) {
            Err(StoreError::AlreadyComplete(id)) => id,
            opened => return opened,
        };
        let Some(content) = store.content(id)? else {
            continue;
        };
        let Some(part) = plan.part(index) else { break };
        match store.copy_out(&content, part) {
            Err(StoreError::Read(_)) => {}
            Err(error) => return Err(error),
            Ok(()) => {
                plan.keep(index, &content);
                return Ok(content);
            }
        }
    }
    plan.open(store, index)
}

/// Puts the files of a transfer in place. Returns where, and how many bytes they are.
pub(crate) fn finish(
    store: &Store,
    order: &Order,
    ending: &Ending,
    manifests: &[SignedManifest],
) -> Result<(PathBuf, u64), FetchError> {
    let path = match &ending.destination {
        Destination::File { part, target } => {
            let content = obtain(store, &ending.plan, 0)?;
            let existing = match order.target {
                Target::Store => Existing::Overwrite,
                _ => order.existing,
            };
            store.finish(&content, part, target, existing)?
        }
        Destination::Folder { root, target } => {
            let mut entries = Vec::new();
            for (index, item) in ending.plan.items().iter().enumerate() {
                let content = obtain(store, &ending.plan, index)?;
                for (number, path) in item.paths.iter().enumerate() {
                    if number > 0 {
                        store.copy_out(&content, &root.entry(path))?;
                    }
                    entries.push((path.clone(), Arc::clone(&content)));
                }
            }
            store.finish_tree(root, target, &entries, order.existing)?
        }
    };
    for manifest in manifests {
        store.add_manifest(manifest, false)?;
    }
    let bytes = ending
        .plan
        .items()
        .iter()
        .map(|item| {
            item.geometry
                .size()
                .saturating_mul(item.paths.len().max(1) as u64)
        })
        .fold(0, u64::saturating_add);
    Ok((path, bytes))
}

/// Keeps the listing of a folder, and reads it.
pub(crate) fn finish_listing(
    store: &Store,
    ending: &Ending,
    manifests: &[SignedManifest],
) -> Result<Prepared, FetchError> {
    let content = obtain(store, &ending.plan, 0)?;
    if let Destination::File { part, target } = &ending.destination {
        store.finish(&content, part, target, Existing::Overwrite)?;
    }
    for manifest in manifests {
        store.add_manifest(manifest, false)?;
    }
    list(&content)
}

fn list(content: &Content) -> Result<Prepared, FetchError> {
    match Collection::decode(&read_all(content)?) {
        Ok(collection) => Ok(Prepared::Listed(Arc::new(collection))),
        Err(error) => {
            tracing::info!(id = %content.id(), %error, "not a folder");
            Ok(Prepared::NotAFolder)
        }
    }
}

/// The bytes of a small content, such as a listing.
pub(crate) fn read_all(content: &Content) -> Result<Vec<u8>, StoreError> {
    if content.geometry().size() > MAX_LISTING {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; usize::try_from(content.geometry().size()).unwrap_or_default()];
    content.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// The longest listing that is read into memory; what is longer is not one (`content::collection` has the same limit).
const MAX_LISTING: u64 = 128 * 1024 * 1024;

impl Order {
    /// Where content is kept that nobody named a place for.
    fn scratch_file(&self) -> PathBuf {
        self.scratch.join(self.id.to_string())
    }
}
