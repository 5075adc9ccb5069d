//! The file of the index as redb has it open: where it is, what becomes of the library's panics, what counts as damage.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{Database, StorageBackend, StorageError, backends::FileBackend};

use super::fs::{Access, FileSystem, OpenFile};

/// Memory for pages of the index. The library's own default is 1 GiB.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// An open database file. The library panics on some damaged files, also when it closes them; that is damage like any
/// other.
pub(super) struct OpenDatabase(Option<Database>);

impl OpenDatabase {
    pub(super) fn get(&self) -> Result<&Database, redb::Error> {
        self.0
            .as_ref()
            .ok_or_else(|| StorageError::DatabaseClosed.into())
    }

    pub(super) fn get_mut(&mut self) -> Result<&mut Database, redb::Error> {
        self.0
            .as_mut()
            .ok_or_else(|| StorageError::DatabaseClosed.into())
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let database = self.0.take();
        let closed = guarded(|| {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "the index could not be closed in order");
        }
    }
}

/// Opens the database; `again` after a failure, when the system's memory of the file is no proof of what the disk has.
pub(super) fn open_database(
    fs: &dyn FileSystem,
    path: &Path,
    again: bool,
) -> Result<OpenDatabase, redb::Error> {
    guarded(|| {
        let real = fs.real_path(path);
        let (file, _) = fs.open(real.as_deref().unwrap_or(path), Access::Create)?;
        if again {
            file.drop_from_memory();
        }
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let database = match file.of_system() {
            Some(file) => builder.create_with_backend(FileBackend::new(file.try_clone()?)?)?,
            None => builder.create_with_backend(IndexFile(file))?,
        };
        Ok(OpenDatabase(Some(database)))
    })
}

/// The file of the index where it is none of the operating system's. The data directory has one owner, so it needs no
/// lock of its own.
#[derive(Debug)]
struct IndexFile(OpenFile);

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        self.0.stamp().map(|stamp| stamp.size)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, &[data])
    }
}

/// Runs what may panic in the library; that is damage.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let damaged = |_| {
        Err(redb::Error::Corrupted(
            "the database library panicked".to_owned(),
        ))
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(damaged)
}

pub(super) fn opened(database: &Option<OpenDatabase>) -> Result<&Database, redb::Error> {
    database.as_ref().ok_or(redb::Error::DatabaseClosed)?.get()
}

/// Whether the file itself is at fault, as opposed to the disk or another process.
pub(super) fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::RepairAborted
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_) => true,
        redb::Error::Io(source) => {
            matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            )
        }
        _ => false,
    }
}
