//! Names of partial files: where a fetch writes until it is complete.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fs::{Access, FileKind, FileSystem, Folder, OpenFile};
use super::record::FileStamp;
use super::{Store, StoreError, files};

/// Where a fetch writes, usually `NAME.part` beside its target so that finishing is a rename.
#[derive(Clone, Debug)]
pub struct PartFile(Inner);

#[derive(Clone, Debug)]
enum Inner {
    /// A path the user chose.
    Path(PathBuf),
    /// A path a collection chose, which must stay within the folder whatever it is. Shared between its clones: there may
    /// be a million of them.
    Entry { root: PartRoot, relative: Arc<Path> },
}

/// The folder `NAME.part` that the files of a collection are fetched into. Files in it are opened without following
/// links out of it.
#[derive(Clone, Debug)]
pub struct PartRoot(Arc<Root>);

#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Open since the fetch began, so that a sync of the file system tells of every write that failed since.
    folder: Arc<dyn Folder>,
}

impl Store {
    /// Opens the folder that a collection is fetched into, which is made if it is not there (its parent must be).
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::NotAPart`] if something else is there.
    pub fn part_root(&self, path: impl AsRef<Path>) -> Result<PartRoot, StoreError> {
        let fs = &self.shared.fs;
        let path = files::absolute(path.as_ref())?;
        let failed = |error| StoreError::io(&path, error);
        match fs.create_folder(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        if fs.stat(&path).map_err(failed)?.kind != FileKind::Folder {
            return Err(StoreError::NotAPart(path));
        }
        let folder = fs.folder(&path).map_err(failed)?;
        Ok(PartRoot(Arc::new(Root { path, folder })))
    }
}

impl PartRoot {
    /// The partial file of an entry, by its path in the collection (`/` between components).
    pub fn entry(&self, relative: &str) -> PartFile {
        PartFile(Inner::Entry {
            root: self.clone(),
            relative: Path::new(relative).into(),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Has the disk confirm everything on the file system of the folder. False where there is no such call.
    pub(super) fn sync_everything(&self) -> io::Result<bool> {
        self.0.folder.sync_everything()
    }

    pub(super) fn opened(&self) -> &Arc<dyn Folder> {
        &self.0.folder
    }
}

impl PartFile {
    /// A partial file at a path. Its folder must be there.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self(Inner::Path(std::path::absolute(&path).unwrap_or(path)))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        match &self.0 {
            Inner::Path(path) => path.clone(),
            Inner::Entry { root, relative } => root.0.path.join(relative),
        }
    }

    /// A folder that is on the same disk.
    pub(super) fn folder(&self) -> PathBuf {
        match &self.0 {
            Inner::Path(path) => path
                .parent()
                .map_or_else(|| PathBuf::from("/"), Path::to_path_buf),
            Inner::Entry { root, .. } => root.0.path.clone(),
        }
    }

    /// The folders that have its name, and theirs: those to sync if it is to be found again.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let parent = |path: &Path| files::folder_of(path).to_path_buf();
        match &self.0 {
            Inner::Path(path) => vec![parent(path)],
            Inner::Entry { root, relative } => {
                let within = relative.ancestors().skip(1);
                let within = within.map(|folder| files::below(&root.0.path, folder));
                std::iter::once(parent(&root.0.path))
                    .chain(within)
                    .collect()
            }
        }
    }

    /// The folder of a collection it is in.
    pub(super) fn root(&self) -> Option<&PartRoot> {
        match &self.0 {
            Inner::Path(_) => None,
            Inner::Entry { root, .. } => Some(root),
        }
    }

    /// Opens it like [`PartFile::open`], expecting that it is to be made.
    pub(super) fn make(&self, fs: &dyn FileSystem) -> io::Result<(OpenFile, FileStamp)> {
        let Inner::Entry { root, relative } = &self.0 else {
            return self.open(fs, true);
        };
        root.0
            .folder
            .open(relative, Access::CreateNew)
            .or_else(|_| self.open(fs, true))
    }

    /// Opens it to read and write, without following a link in its last component. A new file is made if `create`
    /// and none is there. A thing that is no plain file is `InvalidInput`.
    pub(super) fn open(
        &self,
        fs: &dyn FileSystem,
        create: bool,
    ) -> io::Result<(OpenFile, FileStamp)> {
        let open = |access| match &self.0 {
            Inner::Path(path) => fs.open(path, access),
            Inner::Entry { root, relative } => root.0.folder.open(relative, access),
        };
        match open(Access::Write) {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                if let Inner::Entry { root, relative } = &self.0
                    && let Some(folder) = relative.parent().filter(|folder| !is_empty(folder))
                {
                    root.0.folder.create_folders(folder)?;
                }
                open(Access::CreateNew)
            }
            opened => opened,
        }
    }
}

impl PartialEq for PartFile {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (
                Inner::Entry { root, relative },
                Inner::Entry {
                    root: other,
                    relative: relative_to_other,
                },
            ) => relative == relative_to_other && root.0.path == other.0.path,
            _ => self.path() == other.path(),
        }
    }
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}
