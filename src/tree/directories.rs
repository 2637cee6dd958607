//! The map of a shard: watch descriptor ↔ directory, directories as (parent, name).
//!
//! A rename of a directory re-binds one node, whatever lies beneath it. A directory whose name has left (`MOVED_FROM`)
//! is *detached*: it has no path until it is attached again or removed. Events of a detached directory may be dropped,
//! because attaching it comes with a mark on its whole subtree.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use hashbrown::HashTable;

use crate::path::RelPath;
use crate::sys::inotify::Wd;

/// A directory of the map. Ids of removed directories are never valid again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId {
    index: u32,
    generation: u32,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    generation: u32,
    /// `NONE` for the root and for detached directories.
    parent: u32,
    first_child: u32,
    next: u32,
    previous: u32,
    name: Box<[u8]>,
    wd: Option<Wd>,
    /// Entries of any kind in it, as far as is known.
    entries: u32,
    /// Of the directory that the watch is on, or was on last.
    inode: u64,
    alive: bool,
}

/// The map.
#[derive(Debug)]
pub struct Directories {
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    by_wd: HashMap<Wd, u32, foldhash::fast::RandomState>,
    /// Over all directories.
    entries: u64,
    // Names are chosen by whoever can create directories: a random seed keeps collisions out of their hands.
    hasher: foldhash::fast::RandomState,
}

impl Default for Directories {
    fn default() -> Self {
        Self::new()
    }
}

impl Directories {
    /// A map of the root alone, which has no watch yet.
    #[must_use]
    pub fn new() -> Self {
        let mut map = Self {
            nodes: Vec::new(),
            free: Vec::new(),
            by_name: HashTable::new(),
            by_wd: HashMap::default(),
            entries: 0,
            hasher: foldhash::fast::RandomState::default(),
        };
        map.allocate(NONE, b"");
        map
    }

    /// The root's id.
    #[must_use]
    pub fn root(&self) -> DirectoryId {
        self.id(0)
    }

    /// Watched directories.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.by_wd.len()
    }

    /// Entries of any kind in all directories, as far as is known.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Says how many entries the directory has.
    pub fn set_entries(&mut self, directory: DirectoryId, entries: u32) {
        if self.get(directory).is_some() {
            let known = std::mem::replace(&mut self.nodes[directory.index as usize].entries, entries);
            self.entries = self.entries - u64::from(known) + u64::from(entries);
        }
    }

    /// Says that an entry came to the directory, or went.
    pub fn count_entry(&mut self, directory: DirectoryId, came: bool) {
        if let Some(node) = self.get(directory) {
            let entries = if came { node.entries.saturating_add(1) } else { node.entries.saturating_sub(1) };
            self.set_entries(directory, entries);
        }
    }

    /// Whether the directory is still in the map.
    #[must_use]
    pub fn contains(&self, directory: DirectoryId) -> bool {
        self.get(directory).is_some()
    }

    /// The directory of a watch.
    #[must_use]
    pub fn of_wd(&self, wd: Wd) -> Option<DirectoryId> {
        self.by_wd.get(&wd).map(|index| self.id(*index))
    }

    /// The watch of a directory.
    #[must_use]
    pub fn wd(&self, directory: DirectoryId) -> Option<Wd> {
        self.get(directory)?.wd
    }

    /// The directory called `name` in `parent`.
    #[must_use]
    pub fn child(&self, parent: DirectoryId, name: &[u8]) -> Option<DirectoryId> {
        self.get(parent)?;
        self.find(parent.index, name).map(|index| self.id(index))
    }

    /// The directories in `parent`.
    #[must_use]
    pub fn children(&self, parent: DirectoryId) -> Vec<(DirectoryId, Box<[u8]>)> {
        let mut found = Vec::new();
        let mut at = self.get(parent).map_or(NONE, |node| node.first_child);
        while at != NONE {
            let node = &self.nodes[at as usize];
            found.push((self.id(at), node.name.clone()));
            at = node.next;
        }
        found
    }

    /// The path; `None` when the directory is removed, or detached, or beneath a detached one.
    #[must_use]
    pub fn path(&self, directory: DirectoryId) -> Option<RelPath> {
        self.get(directory)?;
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = directory.index;
        while at != 0 {
            let node = &self.nodes[at as usize];
            if node.parent == NONE {
                return None;
            }
            names.push(&node.name);
            at = node.parent;
        }
        names.reverse();
        Some(RelPath::from_components(names))
    }

    /// The directory called `name` in `parent`, made without a watch if it is not there; `None` when `parent` is
    /// removed.
    pub fn reach(&mut self, parent: DirectoryId, name: &[u8]) -> Option<DirectoryId> {
        self.get(parent)?;
        let index = match self.find(parent.index, name) {
            Some(index) => index,
            None => {
                let index = self.allocate(NONE, name);
                self.link(index, parent.index);
                index
            }
        };
        Some(self.id(index))
    }

    /// Gives the directory its watch, which is on this inode. It must not have one, and no other directory may have this
    /// one.
    pub fn bind(&mut self, directory: DirectoryId, wd: Wd, inode: u64) {
        assert!(self.get(directory).is_some_and(|node| node.wd.is_none()), "{directory:?} takes no watch");
        let other = self.by_wd.insert(wd, directory.index);
        assert!(other.is_none(), "{wd:?} has a directory already");
        let node = &mut self.nodes[directory.index as usize];
        (node.wd, node.inode) = (Some(wd), inode);
    }

    /// The inode that the directory's watch is on, or was on last.
    #[must_use]
    pub fn inode(&self, directory: DirectoryId) -> Option<u64> {
        self.get(directory).map(|node| node.inode).filter(|inode| *inode != 0)
    }

    /// Gives the directory another name: what lies beneath goes with it. Whatever had that name before must be gone
    /// from it. Returns false, and changes nothing, when that would put the directory beneath itself: then an event
    /// that tells the truth is still to come.
    pub fn attach(&mut self, directory: DirectoryId, parent: DirectoryId, name: &[u8]) -> bool {
        if self.get(directory).is_none() || self.get(parent).is_none() || directory.index == 0 {
            return false;
        }
        let mut at = parent.index;
        while at != NONE {
            if at == directory.index {
                return false;
            }
            at = self.nodes[at as usize].parent;
        }
        assert!(self.find(parent.index, name).is_none(), "the name is taken");
        self.unlink(directory.index);
        self.nodes[directory.index as usize].name = name.into();
        self.link(directory.index, parent.index);
        true
    }

    /// Takes the directory's name away. The root cannot be detached.
    pub fn detach(&mut self, directory: DirectoryId) {
        if self.get(directory).is_some() && directory.index != 0 {
            self.unlink(directory.index);
        }
    }

    /// Whether the directory has no path of its own now.
    #[must_use]
    pub fn is_detached(&self, directory: DirectoryId) -> bool {
        self.get(directory).is_some_and(|node| directory.index != 0 && node.parent == NONE)
    }

    /// The detached directory that keeps this one from having a path: itself or one above it.
    #[must_use]
    pub fn detached_above(&self, directory: DirectoryId) -> Option<DirectoryId> {
        self.get(directory)?;
        let mut at = directory.index;
        while at != 0 {
            let parent = self.nodes[at as usize].parent;
            if parent == NONE {
                return Some(self.id(at));
            }
            at = parent;
        }
        None
    }

    /// Whether the directory lies beneath `above`, or is it.
    #[must_use]
    pub fn is_beneath(&self, directory: DirectoryId, above: DirectoryId) -> bool {
        if self.get(directory).is_none() || self.get(above).is_none() {
            return false;
        }
        let mut at = directory.index;
        while at != NONE && at != above.index {
            at = self.nodes[at as usize].parent;
        }
        at == above.index
    }

    /// Removes the directory and all beneath it; returns their watches. The root stays, but loses its children.
    pub fn remove(&mut self, directory: DirectoryId) -> Vec<Wd> {
        if self.get(directory).is_none() {
            return Vec::new();
        }
        let mut watches = Vec::new();
        let mut doomed = vec![directory.index];
        let mut next = 0;
        while next < doomed.len() {
            let mut at = self.nodes[doomed[next] as usize].first_child;
            while at != NONE {
                doomed.push(at);
                at = self.nodes[at as usize].next;
            }
            next += 1;
        }
        for index in doomed.into_iter().rev() {
            if let Some(wd) = self.nodes[index as usize].wd.take() {
                self.by_wd.remove(&wd);
                watches.push(wd);
            }
            self.entries -= u64::from(std::mem::take(&mut self.nodes[index as usize].entries));
            if index != 0 {
                self.unlink(index);
                let node = &mut self.nodes[index as usize];
                node.alive = false;
                node.name = Box::default();
                node.generation = node.generation.wrapping_add(1);
                self.free.push(index);
            }
        }
        watches
    }

    /// Forgets a watch that the kernel ended (`IN_IGNORED`); the directory stays until its name's event removes it.
    pub fn forget_watch(&mut self, wd: Wd) -> Option<DirectoryId> {
        let index = self.by_wd.remove(&wd)?;
        self.nodes[index as usize].wd = None;
        Some(self.id(index))
    }

    fn id(&self, index: u32) -> DirectoryId {
        DirectoryId { index, generation: self.nodes[index as usize].generation }
    }

    fn get(&self, directory: DirectoryId) -> Option<&Node> {
        let node = self.nodes.get(directory.index as usize)?;
        (node.alive && node.generation == directory.generation).then_some(node)
    }

    fn allocate(&mut self, parent: u32, name: &[u8]) -> u32 {
        let fresh = |generation| Node {
            generation,
            parent,
            first_child: NONE,
            next: NONE,
            previous: NONE,
            name: name.into(),
            wd: None,
            entries: 0,
            inode: 0,
            alive: true,
        };
        match self.free.pop() {
            Some(index) => {
                let generation = self.nodes[index as usize].generation;
                self.nodes[index as usize] = fresh(generation);
                index
            }
            None => {
                self.nodes.push(fresh(0));
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 directories: watches end at 2^31")
            }
        }
    }

    fn find(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((parent, name));
        self.by_name
            .find(hash, |index| {
                let node = &self.nodes[*index as usize];
                node.parent == parent && *node.name == *name
            })
            .copied()
    }

    fn link(&mut self, index: u32, parent: u32) {
        let next = self.nodes[parent as usize].first_child;
        let node = &mut self.nodes[index as usize];
        node.parent = parent;
        node.next = next;
        node.previous = NONE;
        let hash = self.hasher.hash_one((parent, &*node.name));
        if next != NONE {
            self.nodes[next as usize].previous = index;
        }
        self.nodes[parent as usize].first_child = index;
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.by_name.insert_unique(hash, index, |index| {
            let node = &nodes[*index as usize];
            hasher.hash_one((node.parent, &*node.name))
        });
    }

    fn unlink(&mut self, index: u32) {
        let node = &self.nodes[index as usize];
        let (parent, next, previous) = (node.parent, node.next, node.previous);
        if parent == NONE {
            return;
        }
        let hash = self.hasher.hash_one((parent, &*node.name));
        if let Ok(entry) = self.by_name.find_entry(hash, |candidate| *candidate == index) {
            entry.remove();
        }
        if previous == NONE {
            self.nodes[parent as usize].first_child = next;
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        let node = &mut self.nodes[index as usize];
        (node.parent, node.next, node.previous) = (NONE, NONE, NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(map: &mut Directories, path: &str, wd: i32) -> DirectoryId {
        let id = path.split('/').fold(map.root(), |parent, name| map.reach(parent, name.as_bytes()).unwrap());
        map.bind(id, Wd(wd), wd.unsigned_abs().into());
        id
    }

    fn path_of(map: &Directories, id: DirectoryId) -> Option<String> {
        map.path(id).map(|path| path.to_string())
    }

    #[test]
    fn a_renamed_directory_takes_all_beneath_with_it() {
        let mut map = Directories::new();
        let a = grow(&mut map, "a", 1);
        let deep = grow(&mut map, "a/b/c", 2);
        let d = grow(&mut map, "d", 3);
        assert!(map.attach(a, d, b"moved"));
        assert_eq!(path_of(&map, deep).unwrap(), "d/moved/b/c");
        assert_eq!(map.child(map.root(), b"a"), None);
        assert_eq!(map.child(d, b"moved"), Some(a));
        assert!(!map.attach(d, deep, b"x"), "a directory cannot move beneath itself");
    }

    #[test]
    fn a_detached_directory_has_no_path_until_it_is_attached() {
        let mut map = Directories::new();
        let a = grow(&mut map, "a", 1);
        let b = grow(&mut map, "a/b", 2);
        map.detach(a);
        assert_eq!(path_of(&map, b), None);
        assert!(map.is_detached(a) && !map.is_detached(b));
        assert!(map.attach(a, map.root(), b"z"));
        assert_eq!(path_of(&map, b).unwrap(), "z/b");
    }

    #[test]
    fn removing_gives_back_every_watch_and_kills_the_ids() {
        let mut map = Directories::new();
        let a = grow(&mut map, "a", 1);
        let b = grow(&mut map, "a/b", 2);
        let mut watches = map.remove(a);
        watches.sort();
        assert_eq!(watches, [Wd(1), Wd(2)]);
        assert!(!map.contains(a) && !map.contains(b));
        let again = grow(&mut map, "a", 3);
        assert_ne!(again, a);
        assert_eq!(map.of_wd(Wd(3)), Some(again));
        assert_eq!(map.watched(), 1);
    }

    #[test]
    fn a_watch_that_the_kernel_ended_frees_its_number_only() {
        let mut map = Directories::new();
        let a = grow(&mut map, "a", 1);
        assert_eq!(map.forget_watch(Wd(1)), Some(a));
        assert_eq!(map.wd(a), None);
        map.bind(a, Wd(9), 1);
        assert_eq!(map.of_wd(Wd(9)), Some(a));
    }
}
