//! The disk side of a fetch's beginning and end: where it goes, what is there already, and putting files in place. These
//! functions block; they run on threads for that.

use std::{
    collections::HashMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Goal, Order, Target, plan::Plan, transfer::Ending};
use crate::{
    content::{Attributes, BlockSet, Collection, ContentId, Geometry, SignedManifest},
    node::error::FetchError,
    store::{Content, Existing, PartFile, PartRoot, State, Store, StoreError},
};

/// Files that an earlier run left behind which are gone on with in one change of the index.
const BEGUN_TOGETHER: usize = 1024;

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
    /// It is where it was to go, from an earlier run.
    InPlace {
        path: PathBuf,
        /// Bytes of all files.
        size: u64,
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
    Folder {
        root: PartRoot,
        target: PathBuf,
        /// What its files are to be given, by their paths.
        attributes: HashMap<String, Attributes>,
    },
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
            let content = store.content(order.id)?;
            let info = store.info(order.id)?;
            // One that a crash left in its partial file is put in place first.
            if let (Some(content), Some(State::Complete)) = (content, info.map(|info| info.state)) {
                return list(&content);
            }
            let target = order.scratch_file();
            prepare_file(store, order, geometry, target)
        }
        _ => {
            let target = target_of(order, name);
            if is_taken(store, order, &target) {
                let size = geometry.size();
                return in_place(store, target, [(order.id, "", size)].into_iter());
            }
            prepare_file(store, order, geometry, target)
        }
    }
}

/// Whether there is something where it is to go, which is to stay.
fn is_taken(store: &Store, order: &Order, target: &Path) -> bool {
    let may_stay = order.existing == Existing::Refuse && !matches!(order.target, Target::Store);
    may_stay && store.exists(target)
}

/// What is at the target already must be what is wanted.
fn in_place<'a>(
    store: &Store,
    target: PathBuf,
    entries: impl Iterator<Item = (ContentId, &'a str, u64)> + Clone,
) -> Result<Prepared, FetchError> {
    let names = entries.clone().map(|(id, name, _)| (id, name));
    if !store.is_in_place(names, &target)? {
        return Err(FetchError::TargetExists(target));
    }
    let size = entries.fold(0_u64, |sum, (.., size)| sum.saturating_add(size));
    Ok(Prepared::InPlace { path: target, size })
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The final path.
fn target_of(order: &Order, name: &str) -> PathBuf {
    let target = match &order.target {
        Target::Path(path) if path.is_dir() => path.join(name),
        Target::Path(path) => path.clone(),
        Target::In(dir) => dir.join(name),
        Target::Store => return order.scratch_file(),
    };
    absolute(target)
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
    let part = part_of(store, order, &target)?;
    let resumed = store.exists(&part.path());
    let plan = Plan::file(order.id, geometry, part.clone()).map_err(too_many)?;
    plan.reserve(store, folder_of(&target), resumed)?;
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

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The partial file of a fetch to `target`. What is here of it already is in it: a reader goes on in the file there is, and
/// what was only read is moved to where all of it is wanted.
fn part_of(store: &Store, order: &Order, target: &Path) -> Result<PartFile, FetchError> {
    let part = PartFile::at(part_path(target));
    let Some(begun) = store.content(order.id)?.filter(|c| !c.is_complete()) else {
        return Ok(part);
    };
    // One that is still in use, such as by the last saving of a fetch that has just ended, stays where it is.
    if order.on_demand || Arc::strong_count(&begun) > 1 {
        return Ok(PartFile::at(begun.path()));
    }
    let path = begun.path();
    drop(begun);
    if path == part_path(&order.scratch_file()) && !store.exists(&part.path()) {
        // On another disk it is left where it is, and fetched again.
        let _ = store.move_part(&path, &part);
    }
    Ok(part)
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
    let target = match order.target {
        Target::Store => order.scratch_folder(),
        _ => target_of(order, name),
    };
    let include = order.include.clone();
    let wanted = move |path: &str| include.as_ref().is_none_or(|include| include(path));
    let entries = collection.entries();
    if !entries.is_empty() && !entries.iter().any(|entry| wanted(&entry.path)) {
        return Err(FetchError::NothingMatches);
    }
    let files = entries.iter().filter(|entry| wanted(&entry.path));
    let files = files.map(|entry| (entry.content, entry.path.as_str(), entry.size));
    if let Target::Path(path) = &order.target
        && is_taken(store, order, path)
        && files.clone().next().is_some()
        && let Ok(there) = in_place(store, absolute(path.clone()), files.clone())
    {
        // A folder that is there is one to put things into, unless it is the very one.
        return Ok(there);
    }
    if is_taken(store, order, &target) {
        return in_place(store, target, files);
    }
    let part_dir = part_path(&target);
    let resumed = store.exists(&part_dir);
    let root = store.part_root(&part_dir)?;
    let plan = Plan::folder(collection, &root, &wanted).map_err(too_many)?;
    if let Err(refusal) = plan.reserve(store, &part_dir, resumed) {
        if !resumed {
            // It was made for this; what is in it would be somebody else's.
            store.remove_if_empty(&part_dir);
        }
        return Err(refusal.into());
    }
    let mut held = BlockSet::new(plan.pieces().count());
    let ids: Vec<ContentId> = plan.items().iter().map(|item| item.content).collect();
    let states = store.states(&ids)?;
    let there: Vec<usize> = plan
        .items()
        .iter()
        .zip(states)
        .enumerate()
        .filter(|(index, (item, state))| {
            let left_over = || {
                resumed
                    && plan
                        .part(*index)
                        .is_some_and(|part| store.exists(&part.path()))
            };
            let here = matches!(state, Some((State::Complete, _)));
            here || item.geometry.blocks() == 0 || left_over()
        })
        .map(|(index, _)| index)
        .collect();
    for some in there.chunks(BEGUN_TOGETHER) {
        plan.open_small(store, some.iter().copied())?;
        for index in some {
            let content = obtain(store, &plan, *index)?;
            plan.mark_held(*index, &content.held(), &mut held);
        }
    }
    let attributes = entries.iter().filter(|_| order.keep);
    let attributes = attributes.filter_map(|entry| Some((entry.path.clone(), entry.attributes?)));
    let attributes = attributes.collect();
    Ok(Prepared::Planned {
        plan: Arc::new(plan),
        held,
        resumed,
        destination: Destination::Folder {
            root,
            target,
            attributes,
        },
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
        match store.copy_out(&content, part, plan.room()) {
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
    let existing = match order.target {
        Target::Store => Existing::Overwrite,
        _ => order.existing,
    };
    keep_manifests(store, manifests)?;
    let path = match &ending.destination {
        Destination::File { part, target } => {
            let content = obtain(store, &ending.plan, 0)?;
            // Each of them was verified, and is by a publisher that the policy accepts.
            let kept = manifests.iter().find_map(|m| m.claims().attributes);
            if let Some(attributes) = kept.filter(|_| order.keep) {
                store.set_attributes(&content, part, attributes)?;
            }
            store.finish(&content, part, target, existing)?
        }
        Destination::Folder {
            root,
            target,
            attributes,
        } => {
            let mut entries = Vec::new();
            for (index, item) in ending.plan.items().iter().enumerate() {
                let content = obtain(store, &ending.plan, index)?;
                for (number, path) in item.paths.iter().enumerate() {
                    if number > 0 {
                        store.copy_out(&content, &root.entry(path), ending.plan.room())?;
                    }
                    entries.push((path.clone(), Arc::clone(&content)));
                }
            }
            for (path, content) in &entries {
                if let Some(attributes) = attributes.get(path) {
                    store.set_attributes(content, &root.entry(path), *attributes)?;
                }
            }
            store.finish_tree(root, target, &entries, existing)?
        }
    };
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

/// Before the content is complete: without its manifest a listing would be a file.
fn keep_manifests(store: &Store, manifests: &[SignedManifest]) -> Result<(), StoreError> {
    for manifest in manifests {
        store.add_manifest(manifest, false)?;
    }
    Ok(())
}

/// Keeps the listing of a folder, and reads it.
pub(crate) fn finish_listing(
    store: &Store,
    ending: &Ending,
    manifests: &[SignedManifest],
) -> Result<Prepared, FetchError> {
    keep_manifests(store, manifests)?;
    let content = obtain(store, &ending.plan, 0)?;
    if let Destination::File { part, target } = &ending.destination {
        store.finish(&content, part, target, Existing::Overwrite)?;
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

    /// The same for the entries of a folder; its listing is kept as a file.
    fn scratch_folder(&self) -> PathBuf {
        self.scratch.join(format!("{}.entries", self.id))
    }
}
