//! Room on the disk, and the quota.

use std::path::Path;

use super::StoreError;

/// Bytes that this user can still write to the disk of `path`.
pub(super) fn free(path: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(path).map_err(|error| StoreError::io(path, error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether `needed` bytes fit beside `promised` ones and leave `min_free`.
pub(super) fn check_disk(
    path: &Path,
    needed: u64,
    promised: u64,
    min_free: u64,
) -> Result<(), StoreError> {
    if needed == 0 {
        return Ok(());
    }
    let available = free(path)?
        .saturating_sub(min_free)
        .saturating_sub(promised);
    if needed > available {
        Err(StoreError::NoSpace { needed, available })
    } else {
        Ok(())
    }
}

/// Whether `needed` more bytes stay within the quota.
pub(super) fn check_quota(needed: u64, used: u64, quota: u64) -> Result<(), StoreError> {
    if needed > quota.saturating_sub(used) {
        Err(StoreError::QuotaFull {
            needed,
            quota,
            used,
        })
    } else {
        Ok(())
    }
}
