//! The model file system: inodes with the stamps that a kernel gives them (notes/kernel.md 7.1). No events here.

use std::collections::BTreeMap;
use std::io;

use fansync::path::RelPath;
use fansync::sys::clock::WallTime;
use fansync::sys::files::{EntryType, Identity, Status};

/// An inode number.
pub type Inode = u64;

/// The root that is mirrored.
pub const ROOT: Inode = 1;

/// A directory on the same file system that is not mirrored.
pub const OUTSIDE: Inode = 2;

/// What an inode holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Content is a number: equal numbers are equal bytes.
    File { content: u64, size: u64 },
    /// Its names.
    Directory(BTreeMap<Box<[u8]>, Inode>),
    /// Where it points to, as a number; nowhere inside the root.
    Symlink(u64),
}

/// One inode.
#[derive(Debug, Clone)]
pub struct Node {
    pub body: Body,
    pub mode: u32,
    pub mtime: WallTime,
    pub ctime: WallTime,
    /// Names; 0 for a directory that was removed.
    pub links: u32,
    /// Of a directory.
    pub parent: Inode,
    /// Descriptors.
    pub open: u32,
}

/// All inodes.
#[derive(Debug, Default)]
pub struct Files {
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
}

impl Files {
    /// The root and the place outside of it, both empty.
    pub fn new(now: WallTime) -> Self {
        let mut files = Self { nodes: BTreeMap::new(), next: ROOT };
        for _directory in [ROOT, OUTSIDE] {
            let inode = files.add(Body::Directory(BTreeMap::new()), 0o755, now);
            files.get_mut(inode).links = 1;
        }
        files
    }

    pub fn exists(&self, inode: Inode) -> bool {
        self.nodes.contains_key(&inode)
    }

    pub fn get(&self, inode: Inode) -> &Node {
        &self.nodes[&inode]
    }

    pub fn get_mut(&mut self, inode: Inode) -> &mut Node {
        self.nodes.get_mut(&inode).expect("inodes are freed when nothing refers to them")
    }

    /// A new inode without a name.
    pub fn add(&mut self, body: Body, mode: u32, now: WallTime) -> Inode {
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, Node { body, mode, mtime: now, ctime: now, links: 0, parent: 0, open: 0 });
        inode
    }

    /// Frees an inode that has neither a name nor a descriptor.
    pub fn free(&mut self, inode: Inode) {
        self.nodes.remove(&inode);
    }

    pub fn names(&self, directory: Inode) -> &BTreeMap<Box<[u8]>, Inode> {
        match &self.get(directory).body {
            Body::Directory(names) => names,
            Body::File { .. } | Body::Symlink(_) => unreachable!("{directory} is no directory"),
        }
    }

    pub fn names_mut(&mut self, directory: Inode) -> &mut BTreeMap<Box<[u8]>, Inode> {
        match &mut self.get_mut(directory).body {
            Body::Directory(names) => names,
            Body::File { .. } | Body::Symlink(_) => unreachable!("{directory} is no directory"),
        }
    }

    pub fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.get(inode).body, Body::Directory(_))
    }

    pub fn entry_type(&self, inode: Inode) -> EntryType {
        match self.get(inode).body {
            Body::File { .. } => EntryType::File,
            Body::Directory(_) => EntryType::Directory,
            Body::Symlink(_) => EntryType::Symlink,
        }
    }

    /// The inode at `path`, no symlink followed.
    pub fn resolve(&self, path: &RelPath) -> io::Result<Inode> {
        path.components().try_fold(ROOT, |at, name| match &self.get(at).body {
            Body::Directory(names) => names.get(name).copied().ok_or_else(|| errno(libc::ENOENT)),
            Body::File { .. } => Err(errno(libc::ENOTDIR)),
            Body::Symlink(_) => Err(errno(libc::ELOOP)),
        })
    }

    pub fn status(&self, inode: Inode) -> Status {
        let node = self.get(inode);
        let size = match node.body {
            Body::File { size, .. } => size,
            Body::Directory(_) | Body::Symlink(_) => 0,
        };
        Status {
            entry_type: self.entry_type(inode),
            identity: Identity { device: 1, inode },
            links: node.links,
            size,
            changed: node.ctime,
            modified: node.mtime,
        }
    }

    /// Whether `inode` is `above` or lies beneath it.
    pub fn is_beneath(&self, inode: Inode, above: Inode) -> bool {
        let mut at = inode;
        while at != above && at != 0 {
            at = self.get(at).parent;
        }
        at == above
    }

    /// Everything below the root, as it is to be on a target.
    pub fn everything(&self) -> BTreeMap<RelPath, Inode> {
        let mut found = BTreeMap::from([(RelPath::root(), ROOT)]);
        let mut stack = vec![(RelPath::root(), ROOT)];
        while let Some((path, directory)) = stack.pop() {
            for (name, inode) in self.names(directory) {
                let path = path.join(name);
                if self.is_directory(*inode) {
                    stack.push((path.clone(), *inode));
                }
                found.insert(path, *inode);
            }
        }
        found
    }
}

pub fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
