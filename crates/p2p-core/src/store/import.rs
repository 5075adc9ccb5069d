//! Sharing in place: files are hashed where they are and only remembered.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::adopt::adopt;
use super::fs::{FileKind, FileSystem, Stat};
use super::hash::{Hashed, Meter, cores, hash_file};
use super::space::{Need, Room, index_growth};
use super::walk::{Found, Skipped, Walk};
use super::{ImportError, Progress, Store, StoreError, files};
use crate::content::{Attributes, ContentId};

use take::Take;

mod take;

/// A file that is now in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: ContentId,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written to, and whether it is a program; `None` of what was no file.
    pub attributes: Option<Attributes>,
}

impl Imported {
    /// The same, without its attributes unless they are wanted.
    #[must_use]
    pub fn with_attributes_if(self, wanted: bool) -> Self {
        Self {
            attributes: self.attributes.filter(|_| wanted),
            ..self
        }
    }
}

/// Files that were looked at and are now in the store.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The files: the path in the folder (`/` between components) and what it is. Sorted by the bytes of the path.
    pub entries: Vec<(String, Imported)>,
    /// What was left out, and why.
    pub skipped: Vec<(PathBuf, Skipped)>,
    /// Files that are being written to, and so are not in the store yet. Only of a folder that is followed.
    pub unsettled: Vec<PathBuf>,
    /// Files that the index has at the places looked at and that are there no more.
    pub gone: Vec<PathBuf>,
}

/// What is to be looked at, and how.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Paths in the folder: of files, of folders with all below them, or empty for all of it.
    pub quiet: &'a [PathBuf],
    /// Paths of files that are being written to: kept if they are as they were, else left out for now.
    pub busy: &'a [PathBuf],
    /// Files and folders that are gone, anywhere: a new file that was one of them is not hashed.
    pub gone: &'a [PathBuf],
    /// A file that was written to within this time is left out for now.
    pub settle: Duration,
}

impl Store {
    /// Hashes a file where it is, by all cores, and remembers it. A file that was not touched since it was last
    /// imported is not read. A link is followed.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is remembered then.
    pub fn import_file(
        &self,
        path: &Path,
        progress: &Progress<'_>,
    ) -> Result<Imported, ImportError> {
        let (path, stat) = plain_file(&*self.shared.fs, path)?;
        let bytes = files::to_bytes(&path);
        let found = vec![Found {
            relative: String::new(),
            path: path.clone(),
            stamp: stat.stamp,
            executable: stat.executable,
            busy: false,
        }];
        let mut take = Take::new(self, None, &[], progress);
        take.files(found, &[bytes])?;
        let entry = take.tree.entries.pop();
        entry.map_or(Err(ImportError::NotFound { path }), |(_, file)| Ok(file))
    }

    /// The id of a file, which is not remembered.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn hash(&self, path: &Path, progress: &Progress<'_>) -> Result<ContentId, ImportError> {
        let fs = &*self.shared.fs;
        let (path, stat) = plain_file(fs, path)?;
        let meter = Meter::new(progress, stat.stamp.size);
        Ok(hash_file(fs, &path, cores(), &meter)?.id)
    }

    /// Imports every file of a folder, like [`Store::import_file`]. Links in it are not followed; they, special files
    /// and partial files are left out and listed. The index is written once for up to 10,000 files.
    ///
    /// # Errors
    /// [`ImportError`]: the first file that cannot be read, or has a name that cannot be shared, ends it. What was
    /// hashed before may be remembered, so that doing it again is quick.
    pub fn import_tree(&self, root: &Path, progress: &Progress<'_>) -> Result<Tree, ImportError> {
        let fs = &*self.shared.fs;
        let failed = |error| ImportError::io(root, error);
        let root = fs.real_path(root).map_err(failed)?;
        if fs.stat(&root).map_err(failed)?.kind != FileKind::Folder {
            return Err(ImportError::NotAFolder { path: root });
        }
        let mut walk = Walk::new(fs, false, progress);
        walk.folder(&root, "")?;
        walk.sort();
        let mut take = Take::new(self, None, &[], progress);
        take.tree.skipped = walk.skipped;
        take.files(walk.found, &[files::to_bytes(&root)])?;
        Ok(take.finish())
    }

    /// Room for what the index will have of files of these sizes. The files themselves do not count.
    fn admit_outlines(&self, sizes: impl IntoIterator<Item = u64>) -> Result<Room, StoreError> {
        let counted = sizes
            .into_iter()
            .map(index_growth)
            .fold(0, u64::saturating_add);
        self.admit(&self.shared.dir, Need { counted, disk: 0 }, &[])
    }

    /// Looks at some places of a folder, or of a file on its own, that is followed. What cannot be shared is left out
    /// and listed, so that it does not keep the rest from being shared. A file that was elsewhere before, by its stamp,
    /// is not hashed.
    ///
    /// # Errors
    /// [`ImportError::Cancelled`], [`ImportError::Store`].
    pub fn look(
        &self,
        root: &Path,
        look: &Look<'_>,
        progress: &Progress<'_>,
    ) -> Result<Tree, ImportError> {
        let fs = &*self.shared.fs;
        let mut walk = Walk::new(fs, true, progress);
        let mut places = Vec::new();
        match fs.stat(root) {
            Ok(stat) if stat.kind == FileKind::File => walk.found.push(Found {
                relative: String::new(),
                path: root.to_path_buf(),
                stamp: stat.stamp,
                executable: stat.executable,
                busy: !look.busy.is_empty(),
            }),
            _ => {
                let busy = look.busy.iter().map(|path| (path, true));
                let quiet = look.quiet.iter().map(|path| (path, false));
                for (path, busy) in busy.chain(quiet) {
                    walk.at(root, path, busy)?;
                }
            }
        }
        places.extend(
            (look.quiet.iter().chain(look.busy))
                .map(|path| files::to_bytes(&files::below(root, path))),
        );
        walk.sort();
        let mut take = Take::new(self, Some(look.settle), look.gone, progress);
        take.tree.skipped = walk.skipped;
        take.files(walk.found, &places)?;
        Ok(take.finish())
    }

    /// Puts hashed files into the index in one commit.
    fn remember<'a>(
        &self,
        files: impl Iterator<Item = (&'a Path, &'a Hashed)>,
    ) -> Result<(), ImportError> {
        let mut displaced = Vec::new();
        let mut batch = self.shared.index.write(true)?;
        for (path, hashed) in files {
            batch.put_whole_outline(hashed.id, &hashed.outline)?;
            displaced.extend(adopt(
                &*self.shared.fs,
                &mut batch,
                hashed.id,
                &files::to_bytes(path),
                hashed.stamp,
                false,
            )?);
        }
        batch.commit()?;
        for id in displaced {
            self.shared.resolve(id)?;
        }
        Ok(())
    }
}

fn plain_file(fs: &dyn FileSystem, path: &Path) -> Result<(PathBuf, Stat), ImportError> {
    let path = fs
        .real_path(path)
        .map_err(|error| ImportError::io(path, error))?;
    let found = fs
        .stat(&path)
        .map_err(|error| ImportError::io(&path, error))?;
    if found.kind == FileKind::File {
        Ok((path, found))
    } else {
        Err(ImportError::NotAFile { path })
    }
}
