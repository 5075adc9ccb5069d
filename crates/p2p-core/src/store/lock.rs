//! One process for one data directory.

use std::path::Path;

use super::StoreError;
use super::fs::{Access, FileHandle, FileSystem, OpenFile};

/// The lock on a data directory, held as long as this lives. The system lets go of it when the process dies.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: OpenFile,
}

impl DirLock {
    /// Takes the lock, and writes the process id into the file for whoever comes next.
    pub(super) fn take(fs: &dyn FileSystem, dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("LOCK");
        let failed = |error| StoreError::io(&path, error);
        let (file, _) = fs.open(&path, Access::Create).map_err(failed)?;
        if !file.try_lock().map_err(failed)? {
            return Err(StoreError::Locked {
                dir: dir.to_path_buf(),
                pid: read_pid(&*file),
            });
        }
        // Informative only: a full disk must not keep the store closed.
        let pid = format!("{}\n", std::process::id());
        let _ = file
            .set_len(0)
            .and_then(|()| file.write_at(0, &[pid.as_bytes()]));
        Ok(Self { _file: file })
    }
}

fn read_pid(file: &dyn FileHandle) -> Option<u32> {
    let text = String::from_utf8(file.read_at(0, 16).ok()?).ok()?;
    text.trim().parse().ok()
}
