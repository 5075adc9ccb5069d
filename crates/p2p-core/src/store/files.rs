//! Paths as the store knows them, without looking at any file.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::StoreError;

/// A path as the index keeps it: the bytes the system knows it by.
pub(super) fn to_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The reverse of [`to_bytes`].
pub(super) fn from_bytes(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// The path from the root, without looking at the disk.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|error| StoreError::io(path, error))
}

/// The folder a path is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// A path below a folder; the folder itself if it is empty.
pub(super) fn below(folder: &Path, relative: &Path) -> PathBuf {
    // Joining nothing would add a slash.
    if relative.as_os_str().is_empty() {
        folder.to_path_buf()
    } else {
        folder.join(relative)
    }
}
