//! Where a test of the store runs, and the calls of `std::fs` that tests make there.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::super::fs::{Disk, FileSystem, Memory};
use super::super::{Store, StoreOptions};
use super::faulty::Faulty;

/// What the tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Disk,
    Memory,
}

thread_local! {
    static HERE: RefCell<Here> = const { RefCell::new(Here { on: On::Disk, fs: None }) };
}

struct Here {
    on: On,
    /// That of the last bench.
    fs: Option<Arc<dyn FileSystem>>,
}

/// Runs a test in memory that otherwise runs on the disk.
pub(super) fn in_memory(test: fn()) {
    HERE.with_borrow_mut(|here| here.on = On::Memory);
    test();
}

/// An empty folder, and a store in it.
pub(super) struct Bench {
    folder: PathBuf,
    dir: Option<TempDir>,
    pub(super) fs: Arc<dyn FileSystem>,
}

impl Bench {
    /// On the disk, or in memory if that is what the test is run on.
    pub(super) fn new() -> Self {
        Self::on(|fs| fs)
    }

    /// The same, whose syncs can be made to fail.
    pub(super) fn with_faults() -> (Self, Faulty) {
        let mut faults = None;
        let bench = Self::on(|fs| {
            let faulty = Faulty::new(fs);
            faults = Some(faulty.clone());
            Arc::new(faulty)
        });
        (bench, faults.unwrap())
    }

    fn on(wrap: impl FnOnce(Arc<dyn FileSystem>) -> Arc<dyn FileSystem>) -> Self {
        let bench = match HERE.with_borrow(|here| here.on) {
            On::Disk => Self::on_disk(TempDir::new().unwrap(), wrap(Arc::new(Disk))),
            On::Memory => {
                let fs = wrap(Arc::new(Memory::default()));
                let folder = PathBuf::from("/bench");
                fs.create_folder(&folder).unwrap();
                Self {
                    folder,
                    dir: None,
                    fs,
                }
            }
        };
        bench.here()
    }

    /// On the disk, in a folder that is there.
    pub(super) fn in_folder(dir: TempDir) -> Self {
        Self::on_disk(dir, Arc::new(Disk)).here()
    }

    fn on_disk(dir: TempDir, fs: Arc<dyn FileSystem>) -> Self {
        Self {
            folder: dir.path().canonicalize().unwrap(),
            dir: Some(dir),
            fs,
        }
    }

    /// Has the calls below go to its files.
    fn here(self) -> Self {
        HERE.with_borrow_mut(|here| here.fs = Some(Arc::clone(&self.fs)));
        self
    }

    pub(super) fn is_on_disk(&self) -> bool {
        self.dir.is_some()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn options(&self) -> StoreOptions {
        StoreOptions {
            dir: self.path("store"),
            cache_bytes: 8 << 20,
            quota: u64::MAX,
            min_free: 0,
            evict: Default::default(),
        }
    }

    pub(super) fn open(&self) -> Store {
        self.open_with(self.options()).unwrap()
    }

    pub(super) fn open_with(&self, options: StoreOptions) -> Result<Store, crate::StoreError> {
        Store::open_on(Arc::clone(&self.fs), options)
    }

    pub(super) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        self.fs
            .create_private_folders(path.parent().unwrap())
            .unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// What tests call of `std::fs`, where the last bench of their thread is.
pub(super) mod fs {
    use std::io;

    use super::super::super::fs::Access;
    use super::*;

    fn here() -> Arc<dyn FileSystem> {
        let fs = HERE.with_borrow(|here| here.fs.clone());
        fs.expect("a test that makes a bench first")
    }

    pub(in super::super) fn write(
        path: impl AsRef<Path>,
        bytes: impl AsRef<[u8]>,
    ) -> io::Result<()> {
        let (file, _) = here().open(path.as_ref(), Access::Create)?;
        file.set_len(0)?;
        file.write_at(0, &[bytes.as_ref()])
    }

    /// Changes a part of a file that is there.
    pub(in super::super) fn write_at(path: impl AsRef<Path>, offset: u64, bytes: &[u8]) {
        let (file, _) = here().open(path.as_ref(), Access::Write).unwrap();
        file.write_at(offset, &[bytes]).unwrap();
    }

    pub(in super::super) fn set_len(path: impl AsRef<Path>, len: u64) {
        let (file, _) = here().open(path.as_ref(), Access::Create).unwrap();
        file.set_len(len).unwrap();
    }

    pub(in super::super) fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let (file, stamp) = here().open(path.as_ref(), Access::Read)?;
        file.read_at(0, usize::try_from(stamp.size).unwrap())
    }

    pub(in super::super) fn len(path: impl AsRef<Path>) -> u64 {
        here().stamp(path.as_ref()).unwrap().size
    }

    pub(in super::super) fn exists(path: impl AsRef<Path>) -> bool {
        here().exists(path.as_ref())
    }

    pub(in super::super) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        here().rename(from.as_ref(), to.as_ref())
    }

    pub(in super::super) fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
        here().remove_file(path.as_ref())
    }

    pub(in super::super) fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
        here().create_folder(path.as_ref())
    }

    pub(in super::super) fn is_empty(folder: impl AsRef<Path>) -> bool {
        here().list(folder.as_ref()).unwrap().is_empty()
    }
}
