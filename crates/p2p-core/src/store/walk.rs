//! What is in a folder: its plain files, and what is left out. Looks, and reads nothing.

use std::io;
use std::path::{Path, PathBuf};

use super::fs::{FileKind, FileSystem, Stat};
use super::record::FileStamp;
use super::{ImportError, Progress, files};
use crate::content::check_component;

/// End of the names of partial files, which are left out of folders.
const PART_SUFFIX: &str = ".part";
/// Names of files that editors, office programs and browsers write beside the real one and take away again: their ends.
const TEMPORARY_ENDS: [&str; 7] = [
    "~",
    ".tmp",
    ".swp",
    ".swo",
    ".swx",
    ".crdownload",
    ".download",
];
/// The same: their beginnings.
const TEMPORARY_BEGINNINGS: [&str; 5] = [".#", "~$", ".~lock.", ".goutputstream-", ".syncthing."];

/// Why something in a folder is not shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skipped {
    /// A symbolic link.
    Link,
    /// A pipe, socket or device.
    Special,
    /// A partial file or folder.
    Partial,
    /// A file that a program keeps beside the one it works on.
    Temporary,
    /// A name that not every system can have.
    Name,
    /// It cannot be read.
    Unreadable,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Link => "a symbolic link",
            Self::Special => "not a plain file",
            Self::Partial => "a partial file",
            Self::Temporary => "a temporary file",
            Self::Name => "a name that not every system can have",
            Self::Unreadable => "it cannot be read",
        })
    }
}

/// A file found in a folder.
pub(super) struct Found {
    /// Where it is in the folder, `/` between components; empty for a file on its own.
    pub(super) relative: String,
    pub(super) path: PathBuf,
    pub(super) stamp: FileStamp,
    pub(super) executable: bool,
    /// It was not quiet when it was last heard of.
    pub(super) busy: bool,
}

/// A look at a folder.
pub(super) struct Walk<'a> {
    fs: &'a dyn FileSystem,
    /// Goes on past what cannot be shared, and leaves out what programs keep for themselves.
    pub(super) following: bool,
    pub(super) progress: &'a Progress<'a>,
    pub(super) found: Vec<Found>,
    pub(super) skipped: Vec<(PathBuf, Skipped)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(fs: &'a dyn FileSystem, following: bool, progress: &'a Progress<'a>) -> Self {
        Self {
            fs,
            following,
            progress,
            found: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Everything below a folder.
    pub(super) fn folder(&mut self, root: &Path, prefix: &str) -> Result<(), ImportError> {
        let mut folders = vec![(root.to_path_buf(), prefix.to_owned())];
        while let Some((folder, prefix)) = folders.pop() {
            self.progress.check()?;
            let Some(entries) = self.passable(&folder, self.fs.list(&folder))? else {
                continue;
            };
            for (name, stat) in entries {
                let path = folder.join(&name);
                let Some(name) = self.name(&path, &name, &stat)? else {
                    continue;
                };
                let relative = joined(&prefix, name);
                if stat.kind == FileKind::Folder {
                    folders.push((path, relative));
                } else {
                    self.file(path, relative, &stat, false);
                }
            }
        }
        Ok(())
    }

    /// What is at one path of a folder now: a file, all that is below a folder, or nothing.
    pub(super) fn at(
        &mut self,
        root: &Path,
        relative: &Path,
        busy: bool,
    ) -> Result<(), ImportError> {
        let mut path = root.to_path_buf();
        let mut so_far = String::new();
        let mut components = relative.components().peekable();
        if components.peek().is_none() {
            return self.folder(root, "");
        }
        while let Some(component) = components.next() {
            path.push(component);
            // A link on the way would lead out of the folder.
            let Some(stat) = self.passable(&path, self.fs.stat(&path))? else {
                return Ok(());
            };
            let Some(name) = self.name(&path, component.as_os_str(), &stat)? else {
                return Ok(());
            };
            so_far = joined(&so_far, name);
            let is_folder = stat.kind == FileKind::Folder;
            match (components.peek().is_some(), is_folder) {
                (true, true) => {}
                (true, false) => return Ok(()),
                (false, true) => return self.folder(&path, &so_far),
                (false, false) => {
                    self.file(path, so_far, &stat, busy);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, relative: String, stat: &Stat, busy: bool) {
        self.found.push(Found {
            relative,
            path,
            stamp: stat.stamp,
            executable: stat.executable,
            busy,
        });
    }

    /// What can be gone on without: when following, what vanished is not there, and what cannot be read is left out.
    fn passable<T>(
        &mut self,
        path: &Path,
        result: io::Result<T>,
    ) -> Result<Option<T>, ImportError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.following => {
                let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
                if !absent.contains(&error.kind()) {
                    self.skipped.push((path.to_path_buf(), Skipped::Unreadable));
                }
                Ok(None)
            }
            Err(error) => Err(ImportError::io(path, error)),
        }
    }

    /// The name of something that may be shared; `None` for what is left out.
    fn name<'n>(
        &mut self,
        path: &Path,
        name: &'n std::ffi::OsStr,
        stat: &Stat,
    ) -> Result<Option<&'n str>, ImportError> {
        let why = match name.to_str() {
            _ if stat.kind == FileKind::Link => Skipped::Link,
            _ if stat.kind == FileKind::Special => Skipped::Special,
            Some(name) if name.ends_with(PART_SUFFIX) => Skipped::Partial,
            Some(name) if self.following && is_temporary(name) => Skipped::Temporary,
            Some(name) => match check_component(name) {
                Ok(()) => return Ok(Some(name)),
                Err(_) if self.following => Skipped::Name,
                Err(source) => {
                    let path = path.to_path_buf();
                    return Err(ImportError::NameRefused { path, source });
                }
            },
            None if self.following => Skipped::Name,
            None => {
                let path = path.to_path_buf();
                return Err(ImportError::NameNotUtf8 { path });
            }
        };
        self.skipped.push((path.to_path_buf(), why));
        Ok(None)
    }

    /// Sorts by path, so that what was found can be compared with the index in one go.
    pub(super) fn sort(&mut self) {
        self.found
            .sort_by_cached_key(|file| files::to_bytes(&file.path));
        self.found.dedup_by(|a, b| {
            b.busy |= a.busy && a.path == b.path;
            a.path == b.path
        });
    }
}

fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}/{name}")
    }
}

fn is_temporary(name: &str) -> bool {
    TEMPORARY_ENDS.iter().any(|end| name.ends_with(end))
        || TEMPORARY_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_keep_for_themselves_is_told_from_what_users_keep() {
        for name in [
            "a~",
            ".a.swp",
            "x.crdownload",
            ".#a",
            "~$a.docx",
            ".~lock.a#",
        ] {
            assert!(is_temporary(name), "{name}");
        }
        for name in [
            "a",
            "a.b",
            "~a",
            ".hidden",
            "tmp",
            "swp",
            "download",
            "a.tmp.txt",
        ] {
            assert!(!is_temporary(name), "{name}");
        }
    }
}
