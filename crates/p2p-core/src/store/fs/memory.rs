//! Files in memory, for a node that leaves nothing behind: they are gone with the last handle to them.
//!
//! They are sparse as on a disk, so that a partial file takes what was written to it. There are no links. Their times are
//! the numbers of the changes, which is what a stamp needs of them.

mod file;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::file::{Inode, MemoryFile, stamp};
use super::{Access, FileKind, FileSystem, Folder, OpenFile, Stat};
use crate::store::record::FileStamp;
use crate::store::shared::Guarded;

/// What a process can address at most. What it may use of that is for the quota to say.
const ADDRESSABLE: u64 = 1 << 47;
/// Number of the root folder.
pub(in crate::store) const ROOT: u64 = 1;

/// A file system in memory. Clones are the same one.
#[derive(Clone, Debug)]
pub(in crate::store) struct Memory {
    tree: Arc<Guarded<Tree>>,
}

/// Folders and files by their numbers.
#[derive(Debug)]
struct Tree {
    nodes: HashMap<u64, Node>,
    changes: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
enum Node {
    Folder(BTreeMap<OsString, u64>),
    File(Arc<Inode>),
}

#[derive(Debug)]
struct MemoryFolder {
    tree: Arc<Guarded<Tree>>,
    number: u64,
}

impl Default for Memory {
    fn default() -> Self {
        let nodes = HashMap::from([(ROOT, Node::Folder(BTreeMap::new()))]);
        let changes = Arc::new(AtomicU64::new(ROOT + 1));
        let tree = Tree { nodes, changes };
        Self {
            tree: Arc::new(Guarded::new(tree)),
        }
    }
}

impl FileSystem for Memory {
    fn open(&self, path: &Path, access: Access) -> io::Result<(OpenFile, FileStamp)> {
        self.tree.lock().open(ROOT, path, access)
    }

    fn folder(&self, path: &Path) -> io::Result<Arc<dyn Folder>> {
        open_folder(&self.tree, ROOT, path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.tree.lock().stat(ROOT, path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(OsString, Stat)>> {
        let tree = self.tree.lock();
        let names = tree.names(tree.find(ROOT, path)?)?;
        let stat = |(name, number): (&OsString, &u64)| Ok((name.clone(), tree.stat_of(*number)?));
        names.iter().map(stat).collect()
    }

    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        self.tree.lock().find(ROOT, path)?;
        Ok(path
            .components()
            .filter(|part| !matches!(part, Component::CurDir))
            .collect())
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let (folder, name) = tree.parent(ROOT, path)?;
        if tree.names(folder)?.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        tree.add(folder, name, Node::Folder(BTreeMap::new()))
            .map(drop)
    }

    fn create_private_folders(&self, path: &Path) -> io::Result<()> {
        self.tree.lock().create_folders(ROOT, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.tree.lock().rename((ROOT, from), (ROOT, to), true)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.tree.lock().rename((ROOT, from), (ROOT, to), false)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let number = tree.find(ROOT, path)?;
        match tree.node(number)? {
            Node::File(_) => tree.remove(path, number),
            Node::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let number = tree.find(ROOT, path)?;
        if tree.names(number)?.is_empty() {
            tree.remove(path, number)
        } else {
            Err(io::ErrorKind::DirectoryNotEmpty.into())
        }
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let tree = self.tree.lock();
        tree.names(tree.find(ROOT, path)?).map(drop)
    }

    fn free(&self, _: &Path) -> io::Result<u64> {
        Ok(ADDRESSABLE)
    }
}

impl Tree {
    fn node(&self, number: u64) -> io::Result<&Node> {
        self.nodes
            .get(&number)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn names(&self, folder: u64) -> io::Result<&BTreeMap<OsString, u64>> {
        match self.node(folder)? {
            Node::Folder(names) => Ok(names),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn names_mut(&mut self, folder: u64) -> io::Result<&mut BTreeMap<OsString, u64>> {
        match self.nodes.get_mut(&folder) {
            Some(Node::Folder(names)) => Ok(names),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The number of what is at a path below a folder.
    fn find(&self, from: u64, path: &Path) -> io::Result<u64> {
        let mut at = from;
        for name in names_of(path) {
            let below = self.names(at)?.get(name?);
            at = *below.ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The folder that a path is in, and its name there.
    fn parent<'p>(&self, from: u64, path: &'p Path) -> io::Result<(u64, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = self.find(from, path.parent().unwrap_or(Path::new("")))?;
        self.names(folder)?;
        Ok((folder, name))
    }

    fn next(&self) -> u64 {
        self.changes.fetch_add(1, Ordering::Relaxed)
    }

    fn add(&mut self, folder: u64, name: &OsStr, node: Node) -> io::Result<u64> {
        let number = match &node {
            Node::File(inode) => inode.number,
            Node::Folder(_) => self.next(),
        };
        self.names_mut(folder)?.insert(name.to_owned(), number);
        self.nodes.insert(number, node);
        Ok(number)
    }

    fn open(
        &mut self,
        from: u64,
        path: &Path,
        access: Access,
    ) -> io::Result<(OpenFile, FileStamp)> {
        let (folder, name) = self.parent(from, path)?;
        let found = self.names(folder)?.get(name).copied();
        let inode = match (found, access) {
            (Some(_), Access::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(number), _) => match self.node(number)? {
                Node::File(inode) => Arc::clone(inode),
                Node::Folder(_) => return Err(io::ErrorKind::InvalidInput.into()),
            },
            (None, Access::Read | Access::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, Access::Create | Access::CreateNew) => {
                let inode = Arc::new(Inode::new(self.next(), &self.changes));
                self.add(folder, name, Node::File(Arc::clone(&inode)))?;
                inode
            }
        };
        let stamp = inode.stamp();
        Ok((Arc::new(MemoryFile::new(inode)), stamp))
    }

    fn stat(&self, from: u64, path: &Path) -> io::Result<Stat> {
        self.stat_of(self.find(from, path)?)
    }

    fn stat_of(&self, number: u64) -> io::Result<Stat> {
        Ok(match self.node(number)? {
            Node::File(inode) => Stat {
                kind: FileKind::File,
                stamp: inode.stamp(),
                allocated: inode.read().allocated(),
                names: 1,
                executable: false,
            },
            Node::Folder(_) => Stat {
                kind: FileKind::Folder,
                stamp: stamp(number, 0, 0),
                allocated: 0,
                names: 1,
                executable: false,
            },
        })
    }

    fn create_folders(&mut self, from: u64, path: &Path) -> io::Result<()> {
        let mut at = from;
        for name in names_of(path) {
            let name = name?;
            at = match self.names(at)?.get(name) {
                Some(number) => *number,
                None => self.add(at, name, Node::Folder(BTreeMap::new()))?,
            };
        }
        self.names(at).map(drop)
    }

    fn rename(&mut self, from: (u64, &Path), to: (u64, &Path), replace: bool) -> io::Result<()> {
        let moved = self.find(from.0, from.1)?;
        let (old_folder, old_name) = self.parent(from.0, from.1)?;
        let (folder, name) = self.parent(to.0, to.1)?;
        let replaced = self.names(folder)?.get(name).copied();
        if let Some(replaced) = replaced {
            if !replace {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            match (self.node(moved)?, self.node(replaced)?) {
                (Node::File(_), Node::Folder(_)) => return Err(io::ErrorKind::IsADirectory.into()),
                (Node::Folder(_), Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                (_, Node::Folder(names)) if !names.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
        }
        self.names_mut(old_folder)?.remove(old_name);
        self.names_mut(folder)?.insert(name.to_owned(), moved);
        if let Some(replaced) = replaced.filter(|replaced| *replaced != moved) {
            self.nodes.remove(&replaced);
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path, number: u64) -> io::Result<()> {
        let (folder, name) = self.parent(ROOT, path)?;
        self.names_mut(folder)?.remove(name);
        self.nodes.remove(&number);
        Ok(())
    }
}

/// The names that lead to a path. One that leads back is refused.
fn names_of(path: &Path) -> impl Iterator<Item = io::Result<&OsStr>> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(Ok(name)),
        Component::RootDir | Component::CurDir => None,
        Component::ParentDir | Component::Prefix(_) => {
            Some(Err(io::ErrorKind::PermissionDenied.into()))
        }
    })
}

fn open_folder(tree: &Arc<Guarded<Tree>>, from: u64, path: &Path) -> io::Result<Arc<dyn Folder>> {
    let number = {
        let tree = tree.lock();
        let number = tree.find(from, path)?;
        tree.names(number)?;
        number
    };
    let tree = Arc::clone(tree);
    Ok(Arc::new(MemoryFolder { tree, number }))
}

impl Folder for MemoryFolder {
    fn open(&self, relative: &Path, access: Access) -> io::Result<(OpenFile, FileStamp)> {
        let relative = within(relative)?;
        self.tree.lock().open(self.number, relative, access)
    }

    fn folder(&self, relative: &Path) -> io::Result<Arc<dyn Folder>> {
        open_folder(&self.tree, self.number, within(relative)?)
    }

    fn stat(&self, relative: &Path) -> io::Result<Stat> {
        self.tree.lock().stat(self.number, within(relative)?)
    }

    fn create_folders(&self, relative: &Path) -> io::Result<()> {
        self.tree
            .lock()
            .create_folders(self.number, within(relative)?)
    }

    fn move_below(&self, relative: &Path, target: &Path) -> io::Result<()> {
        let relative = within(relative)?;
        let mut tree = self.tree.lock();
        let target = tree.find(ROOT, target)?;
        tree.rename((self.number, relative), (target, relative), true)
    }

    fn sync_everything(&self) -> io::Result<bool> {
        Ok(true)
    }
}

fn within(relative: &Path) -> io::Result<&Path> {
    if relative.is_absolute() {
        Err(io::ErrorKind::PermissionDenied.into())
    } else {
        Ok(relative)
    }
}

/// Building one as it was left, with the numbers that its files had.
#[cfg(test)]
impl Memory {
    pub(in crate::store) fn restore_folder(&self, number: u64, names: BTreeMap<OsString, u64>) {
        self.restore(number, 0, Node::Folder(names));
    }

    pub(in crate::store) fn restore_file(
        &self,
        number: u64,
        changed: u64,
        fill: impl FnOnce(&dyn super::FileHandle),
    ) {
        let changes = Arc::clone(&self.tree.lock().changes);
        let inode = Arc::new(Inode::new(number, &changes));
        fill(&MemoryFile::new(Arc::clone(&inode)));
        inode.write().changed = changed;
        self.restore(number, changed, Node::File(inode));
    }

    fn restore(&self, number: u64, changed: u64, node: Node) {
        let mut tree = self.tree.lock();
        let last = number.max(changed).saturating_add(1);
        tree.changes.fetch_max(last, Ordering::Relaxed);
        tree.nodes.insert(number, node);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{file::PIECE, *};

    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, Vec<u8>),
        SetLen(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        let place = 0..4 * PIECE as u64;
        let write = (place.clone(), 1..PIECE * 2, any::<u8>());
        prop_oneof![
            3 => write.prop_map(|(at, len, byte)| Change::Write(at, vec![byte | 1; len])),
            1 => place.prop_map(Change::SetLen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Files are what a vector of bytes is, and holes are where nothing was written.
        #[test]
        fn files_are_their_bytes(changes in prop::collection::vec(change(), 1..12)) {
            let memory = Memory::default();
            let (file, first) = memory.open(Path::new("/f"), Access::CreateNew).unwrap();
            let mut expected: Vec<u8> = Vec::new();
            for change in changes {
                match change {
                    Change::Write(at, bytes) => {
                        let at = at as usize;
                        expected.resize(expected.len().max(at + bytes.len()), 0);
                        expected[at..at + bytes.len()].copy_from_slice(&bytes);
                        let (a, b) = bytes.split_at(bytes.len() / 3);
                        file.write_at(at as u64, &[a, b]).unwrap();
                    }
                    Change::SetLen(len) => {
                        expected.resize(len as usize, 0);
                        file.set_len(len).unwrap();
                    }
                }
                let stamp = memory.stamp(Path::new("/f")).unwrap();
                prop_assert_eq!(stamp.size, expected.len() as u64);
                prop_assert!(stamp != first && stamp.same_file(&first));
                prop_assert_eq!(&file.read_at(0, usize::MAX).unwrap(), &expected);
                let ranges = file.data_ranges(stamp.size);
                let in_a_range = |at: usize| ranges.iter().any(|range| range.contains(&(at as u64)));
                for (at, byte) in expected.iter().enumerate() {
                    prop_assert!(*byte == 0 || in_a_range(at), "{}", at);
                }
            }
        }
    }

    #[test]
    fn what_was_never_written_takes_nothing() {
        let memory = Memory::default();
        let (file, _) = memory.open(Path::new("/f"), Access::Create).unwrap();
        file.write_at(1 << 40, &[b"far"]).unwrap();
        let stat = memory.stat(Path::new("/f")).unwrap();
        assert_eq!((stat.stamp.size, stat.allocated), ((1 << 40) + 3, 3));
        let ranges = file.data_ranges(u64::MAX).into_iter().flatten();
        assert!(ranges.eq((1 << 40)..(1 << 40) + 3));
    }

    #[test]
    fn names() {
        let memory = Memory::default();
        let path = Path::new;
        let kind = |result: io::Result<()>| result.unwrap_err().kind();
        memory.create_private_folders(path("/a/b")).unwrap();
        let open = |at: &str, access| memory.open(path(at), access).map(drop);
        open("/a/b/f", Access::CreateNew).unwrap();
        assert_eq!(
            kind(open("/a/b/f", Access::CreateNew)),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(
            kind(open("/a/x/f", Access::Create)),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            kind(open("/a/b", Access::Read)),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            kind(open("/a/b/f/g", Access::Read)),
            io::ErrorKind::NotADirectory
        );
        assert_eq!(
            kind(memory.remove_folder(path("/a/b"))),
            io::ErrorKind::DirectoryNotEmpty
        );
        open("/a/g", Access::Create).unwrap();
        assert_eq!(
            kind(memory.rename_new(path("/a/g"), path("/a/b/f"))),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(
            kind(memory.rename(path("/a/g"), path("/a/b"))),
            io::ErrorKind::IsADirectory
        );
        memory.rename(path("/a/g"), path("/a/b/f")).unwrap();
        memory.rename_new(path("/a"), path("/z")).unwrap();
        assert!(memory.exists(path("/z/b/f")) && !memory.exists(path("/a")));
        let folder = memory.folder(path("/z")).unwrap();
        for outside in ["../z/b/f", "/z/b/f"] {
            assert_eq!(
                kind(folder.stat(path(outside)).map(drop)),
                io::ErrorKind::PermissionDenied
            );
        }
        memory.create_folder(path("/t")).unwrap();
        folder.create_folders(path("c")).unwrap();
        folder.open(path("c/h"), Access::CreateNew).unwrap();
        memory.create_folder(path("/t/c")).unwrap();
        folder.move_below(path("c/h"), path("/t")).unwrap();
        assert!(memory.exists(path("/t/c/h")));
    }

    #[test]
    fn a_lock_is_free_when_its_handle_is_closed() {
        let memory = Memory::default();
        let open = || memory.open(Path::new("/LOCK"), Access::Create).unwrap().0;
        let (first, second) = (open(), open());
        assert!(first.try_lock().unwrap() && !second.try_lock().unwrap());
        drop(second);
        let second = open();
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }
}
