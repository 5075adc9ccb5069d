//! Names of partial files: where a fetch writes until it is complete.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptionsExt as _};

use super::{StoreError, files};

/// Where a fetch writes, usually `NAME.part` beside its target so that finishing is a rename.
#[derive(Clone, Debug)]
pub struct PartFile(Inner);

#[derive(Clone, Debug)]
enum Inner {
    /// A path the user chose.
    Path(PathBuf),
    /// A path a collection chose, which must stay within the folder whatever it is.
    Entry { root: PartRoot, relative: PathBuf },
}

/// The folder `NAME.part` that the files of a collection are fetched into. Files in it are opened without following
/// links out of it.
#[derive(Clone, Debug)]
pub struct PartRoot {
    path: PathBuf,
    dir: Arc<Dir>,
}

impl PartRoot {
    /// Opens the folder, which is made if it is not there (its parent must be).
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::NotAPart`] if something else is there.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = files::absolute(path.as_ref())?;
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io(path, error));
            }
            _ => {}
        }
        let metadata =
            std::fs::symlink_metadata(&path).map_err(|error| StoreError::io(&path, error))?;
        if !metadata.is_dir() {
            return Err(StoreError::NotAPart(path));
        }
        let dir = Dir::open_ambient_dir(&path, ambient_authority())
            .map_err(|error| StoreError::io(&path, error))?;
        Ok(Self {
            path,
            dir: Arc::new(dir),
        })
    }

    /// The partial file of an entry, by its path in the collection (`/` between components).
    pub fn entry(&self, relative: &str) -> PartFile {
        PartFile(Inner::Entry {
            root: self.clone(),
            relative: PathBuf::from(relative),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
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
            Inner::Entry { root, relative } => root.path.join(relative),
        }
    }

    /// A folder that is on the same disk.
    pub(super) fn folder(&self) -> PathBuf {
        match &self.0 {
            Inner::Path(path) => path
                .parent()
                .map_or_else(|| PathBuf::from("/"), Path::to_path_buf),
            Inner::Entry { root, .. } => root.path.clone(),
        }
    }

    /// Opens it to read and write, without following a link in its last component. A new file is made if `create`
    /// and none is there. A thing that is no plain file is `InvalidInput`.
    pub(super) fn open(&self, create: bool) -> io::Result<File> {
        files::plain(match &self.0 {
            Inner::Path(path) => open_path(path, create),
            Inner::Entry { root, relative } => open_entry(root, relative, create),
        })
    }
}

fn open_path(path: &Path, create: bool) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(files::NO_LINKS);
    match options.open(path) {
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
            options.create_new(true).open(path)
        }
        opened => opened,
    }
}

fn open_entry(root: &PartRoot, relative: &Path, create: bool) -> io::Result<File> {
    let mut options = cap_std::fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(files::NO_LINKS);
    let opened = match root.dir.open_with(relative, &options) {
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = relative
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
            {
                root.dir.create_dir_all(folder)?;
            }
            root.dir.open_with(relative, options.create_new(true))
        }
        opened => opened,
    };
    opened.map(cap_std::fs::File::into_std)
}
