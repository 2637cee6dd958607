//! The map of a shard: watch descriptor ↔ directory, directories as (parent, name).
//!
//! A rename of a directory re-binds one node, whatever lies beneath it. A directory whose name has left (`MOVED_FROM`)
//! is *detached*: it has no path until it is attached again or removed. Events of a detached directory may be dropped,
//! because attaching it comes with a mark on its whole subtree.

use std::hash::BuildHasher as _;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::names::{NameId, Names};
use crate::path::RelPath;
use crate::sys::inotify::Wd;

/// A directory of the map. Ids of removed directories are never valid again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId {
    index: u32,
    generation: u32,
}

const NONE: u32 = u32::MAX;

/// 40 bytes, of which there may be millions.
#[derive(Debug)]
struct Node {
    /// Of the directory that the watch is on, or was on last.
    inode: u64,
    /// Odd while it is in use.
    generation: u32,
    /// `NONE` for the root and for detached directories.
    parent: u32,
    first_child: u32,
    /// Its sibling; or, when it is free, the next free node.
    next: u32,
    previous: u32,
    name: NameId,
    wd: Option<Positive>,
    /// Entries of any kind in it, as far as is known.
    entries: u32,
}

const _: () = assert!(size_of::<Node>() == 40);

/// A watch descriptor; the kernel gives none below 1.
type Positive = std::num::NonZero<i32>;

impl Node {
    fn is_alive(&self) -> bool {
        self.generation % 2 == 1
    }

    fn wd(&self) -> Option<Wd> {
        self.wd.map(|wd| Wd(wd.get()))
    }
}

/// The nodes, in pieces that never move: a vector that doubles would hold everything twice for a moment, and up to twice
/// what is needed ever after.
#[derive(Debug, Default)]
struct Nodes(Vec<Vec<Node>>);

impl Nodes {
    const PIECE: usize = 4096;

    fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * Self::PIECE + last.len())
    }

    fn push(&mut self, node: Node) {
        if self.0.last().is_none_or(|last| last.len() == Self::PIECE) {
            self.0.push(Vec::with_capacity(Self::PIECE));
        }
        if let Some(last) = self.0.last_mut() {
            last.push(node);
        }
    }

    fn get(&self, index: u32) -> Option<&Node> {
        self.0.get(index as usize / Self::PIECE)?.get(index as usize % Self::PIECE)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.0.iter_mut().flatten()
    }
}

impl std::ops::Index<u32> for Nodes {
    type Output = Node;

    fn index(&self, index: u32) -> &Node {
        &self.0[index as usize / Self::PIECE][index as usize % Self::PIECE]
    }
}

impl std::ops::IndexMut<u32> for Nodes {
    fn index_mut(&mut self, index: u32) -> &mut Node {
        &mut self.0[index as usize / Self::PIECE][index as usize % Self::PIECE]
    }
}

/// The map. A directory costs 80 bytes with a name of 15 (`tests/memory.rs`).
#[derive(Debug)]
pub struct Directories {
    nodes: Nodes,
    /// The first of the nodes that are free.
    free: u32,
    names: Names,
    by_name: HashTable<u32>,
    by_wd: HashTable<u32>,
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
            nodes: Nodes::default(),
            free: NONE,
            names: Names::default(),
            by_name: HashTable::new(),
            by_wd: HashTable::new(),
            entries: 0,
            hasher: foldhash::fast::RandomState::default(),
        };
        map.allocate(b"");
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
        if self.contains(directory) {
            let known = std::mem::replace(&mut self.nodes[directory.index].entries, entries);
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
        let index = *self.by_wd.find(self.hasher.hash_one(wd), |index| self.nodes[*index].wd() == Some(wd))?;
        Some(self.id(index))
    }

    /// The watch of a directory.
    #[must_use]
    pub fn wd(&self, directory: DirectoryId) -> Option<Wd> {
        self.get(directory)?.wd()
    }

    /// The directory called `name` in `parent`.
    #[must_use]
    pub fn child(&self, parent: DirectoryId, name: &[u8]) -> Option<DirectoryId> {
        self.get(parent)?;
        self.find(parent.index, name).map(|index| self.id(index))
    }

    /// The directories in `parent`, and their names.
    pub fn children(&self, parent: DirectoryId) -> impl Iterator<Item = (DirectoryId, &[u8])> {
        let first = self.get(parent).map_or(NONE, |node| node.first_child);
        self.siblings(first).map(|index| (self.id(index), self.names.get(self.nodes[index].name)))
    }

    /// This node and those that follow it in its directory.
    fn siblings(&self, first: u32) -> impl Iterator<Item = u32> {
        let some = |index| (index != NONE).then_some(index);
        std::iter::successors(some(first), move |index| some(self.nodes[*index].next))
    }

    /// The path; `None` when the directory is removed, or detached, or beneath a detached one.
    #[must_use]
    pub fn path(&self, directory: DirectoryId) -> Option<RelPath> {
        self.get(directory)?;
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = directory.index;
        while at != 0 {
            let node = &self.nodes[at];
            if node.parent == NONE {
                return None;
            }
            names.push(self.names.get(node.name));
            at = node.parent;
        }
        names.reverse();
        Some(RelPath::from_components(names))
    }

    /// The directory called `name` in `parent`, made without a watch if it is not there; `None` when `parent` is
    /// removed.
    ///
    /// # Panics
    /// If `name` is longer than 65,535 bytes, which the kernel never gives.
    pub fn reach(&mut self, parent: DirectoryId, name: &[u8]) -> Option<DirectoryId> {
        self.get(parent)?;
        let index = match self.find(parent.index, name) {
            Some(index) => index,
            None => {
                let index = self.allocate(name);
                self.link(index, parent.index);
                index
            }
        };
        Some(self.id(index))
    }

    /// Gives the directory its watch, which is on this inode. It must not have one, and no other directory may have this
    /// one.
    pub fn bind(&mut self, directory: DirectoryId, wd: Wd, inode: u64) {
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let hash = |index: &u32| nodes[*index].wd().map_or(0, |wd| hasher.hash_one(wd));
        match self.by_wd.entry(hasher.hash_one(wd), |index| nodes[*index].wd() == Some(wd), hash) {
            Entry::Occupied(_) => panic!("{wd:?} has a directory already"),
            Entry::Vacant(place) => _ = place.insert(directory.index),
        }
        assert!(self.get(directory).is_some_and(|node| node.wd.is_none()), "{directory:?} takes no watch");
        let node = &mut self.nodes[directory.index];
        (node.wd, node.inode) = (Positive::new(wd.0), inode);
        assert!(node.wd.is_some(), "the kernel gives no {wd:?}");
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
            at = self.nodes[at].parent;
        }
        assert!(self.find(parent.index, name).is_none(), "the name is taken");
        self.unlink(directory.index);
        self.names.remove(self.nodes[directory.index].name);
        self.nodes[directory.index].name = self.names.add(name);
        self.link(directory.index, parent.index);
        self.compact_names();
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
            let parent = self.nodes[at].parent;
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
            at = self.nodes[at].parent;
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
            doomed.extend(self.siblings(self.nodes[doomed[next]].first_child));
            next += 1;
        }
        for index in doomed.into_iter().rev() {
            if let Some(wd) = self.nodes[index].wd() {
                self.forget_watch(wd);
                watches.push(wd);
            }
            self.entries -= u64::from(std::mem::take(&mut self.nodes[index].entries));
            if index != 0 {
                self.unlink(index);
                self.release(index);
            }
        }
        self.compact_names();
        watches
    }

    /// Forgets a watch that the kernel ended (`IN_IGNORED`); the directory stays until its name's event removes it.
    pub fn forget_watch(&mut self, wd: Wd) -> Option<DirectoryId> {
        let found = self.by_wd.find_entry(self.hasher.hash_one(wd), |index| self.nodes[*index].wd() == Some(wd));
        let (index, _) = found.ok()?.remove();
        self.nodes[index].wd = None;
        Some(self.id(index))
    }

    /// Takes the directory's watch away, for somebody else watches it now; it stays for what lies beneath.
    pub fn give_away(&mut self, directory: DirectoryId) -> Option<Wd> {
        let wd = self.get(directory)?.wd()?;
        self.forget_watch(wd);
        self.set_entries(directory, 0);
        self.nodes[directory.index].inode = 0;
        Some(wd)
    }

    /// How many directories have a watch, of this one and all beneath it.
    #[must_use]
    pub fn count(&self, directory: DirectoryId) -> u64 {
        let Some(top) = self.get(directory) else { return 0 };
        let mut count = u64::from(top.wd.is_some());
        let mut at = top.first_child;
        // Down, then along, then up: as high as the tree is, without a stack.
        while at != NONE {
            count += u64::from(self.nodes[at].wd.is_some());
            let mut next = self.nodes[at].first_child;
            while next == NONE && at != directory.index {
                next = self.nodes[at].next;
                at = if next == NONE { self.nodes[at].parent } else { at };
            }
            at = next;
        }
        count
    }

    fn id(&self, index: u32) -> DirectoryId {
        DirectoryId { index, generation: self.nodes[index].generation }
    }

    fn get(&self, directory: DirectoryId) -> Option<&Node> {
        // Only nodes in use give ids, so equal generations are odd ones.
        self.nodes.get(directory.index).filter(|node| node.generation == directory.generation)
    }

    /// A node without a parent.
    fn allocate(&mut self, name: &[u8]) -> u32 {
        let name = self.names.add(name);
        let fresh = |generation| Node {
            inode: 0,
            generation,
            parent: NONE,
            first_child: NONE,
            next: NONE,
            previous: NONE,
            name,
            wd: None,
            entries: 0,
        };
        if self.free == NONE {
            let index = u32::try_from(self.nodes.len()).ok().filter(|index| *index != NONE);
            self.nodes.push(fresh(1));
            return index.expect("fewer than 2^32 directories: watches end at 2^31");
        }
        let index = self.free;
        let node = &mut self.nodes[index];
        self.free = node.next;
        *node = fresh(node.generation.wrapping_add(1));
        index
    }

    /// The node is free again; its ids are void.
    fn release(&mut self, index: u32) {
        let node = &mut self.nodes[index];
        self.names.remove(node.name);
        node.generation = node.generation.wrapping_add(1);
        node.next = self.free;
        self.free = index;
    }

    fn compact_names(&mut self) {
        if self.names.is_wasteful() {
            let old = std::mem::take(&mut self.names);
            for node in self.nodes.iter_mut().filter(|node| node.is_alive()) {
                node.name = self.names.add(old.get(node.name));
            }
        }
    }

    fn find(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((parent, name));
        self.by_name
            .find(hash, |index| {
                let node = &self.nodes[*index];
                node.parent == parent && self.names.get(node.name) == name
            })
            .copied()
    }

    fn link(&mut self, index: u32, parent: u32) {
        let next = self.nodes[parent].first_child;
        let node = &mut self.nodes[index];
        (node.parent, node.next, node.previous) = (parent, next, NONE);
        if next != NONE {
            self.nodes[next].previous = index;
        }
        self.nodes[parent].first_child = index;
        let (nodes, names, hasher) = (&self.nodes, &self.names, &self.hasher);
        let hash = |index: &u32| {
            let node = &nodes[*index];
            hasher.hash_one((node.parent, names.get(node.name)))
        };
        self.by_name.insert_unique(hash(&index), index, hash);
    }

    fn unlink(&mut self, index: u32) {
        let node = &self.nodes[index];
        let (parent, next, previous) = (node.parent, node.next, node.previous);
        if parent == NONE {
            return;
        }
        let hash = self.hasher.hash_one((parent, self.names.get(node.name)));
        if let Ok(entry) = self.by_name.find_entry(hash, |candidate| *candidate == index) {
            entry.remove();
        }
        if previous == NONE {
            self.nodes[parent].first_child = next;
        } else {
            self.nodes[previous].next = next;
        }
        if next != NONE {
            self.nodes[next].previous = previous;
        }
        let node = &mut self.nodes[index];
        (node.parent, node.next, node.previous) = (NONE, NONE, NONE);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// What the map is to say, told naively.
    #[derive(Debug, Clone)]
    struct Known {
        id: DirectoryId,
        /// `None` for what is detached.
        parent: Option<usize>,
        name: Vec<u8>,
        wd: Option<Wd>,
        inode: Option<u64>,
        entries: u32,
    }

    /// Directories by number; `None` for those that were removed.
    struct Model {
        map: Directories,
        all: Vec<Option<Known>>,
        removed: Vec<DirectoryId>,
        watches: i32,
    }

    impl Model {
        fn new() -> Self {
            let map = Directories::new();
            let root = Known { id: map.root(), parent: None, name: Vec::new(), wd: None, inode: None, entries: 0 };
            Self { map, all: vec![Some(root)], removed: Vec::new(), watches: 0 }
        }

        /// One that is there.
        fn pick(&self, which: usize) -> usize {
            let there: Vec<usize> = (0..self.all.len()).filter(|number| self.all[*number].is_some()).collect();
            there[which % there.len()]
        }

        fn get(&self, number: usize) -> &Known {
            self.all[number].as_ref().unwrap()
        }

        /// From itself upwards.
        fn above(&self, number: usize) -> Vec<usize> {
            std::iter::successors(Some(number), |at| self.get(*at).parent).collect()
        }

        fn named(&self, parent: usize, name: &[u8]) -> Option<usize> {
            (1..self.all.len()).find(|number| {
                self.all[*number].as_ref().is_some_and(|known| known.parent == Some(parent) && known.name == name)
            })
        }

        fn path(&self, number: usize) -> Option<RelPath> {
            let above = self.above(number);
            (above.last() == Some(&0))
                .then(|| RelPath::from_components(above.iter().rev().skip(1).map(|at| &*self.get(*at).name)))
        }

        fn step(&mut self, step: &Step) {
            match step {
                Step::Reach(parent, name) => {
                    let parent = self.pick(*parent);
                    let id = self.map.reach(self.get(parent).id, name).unwrap();
                    match self.named(parent, name) {
                        Some(known) => assert_eq!(self.get(known).id, id),
                        None => self.all.push(Some(Known {
                            id,
                            parent: Some(parent),
                            name: name.clone(),
                            wd: None,
                            inode: None,
                            entries: 0,
                        })),
                    }
                }
                Step::Bind(which) => {
                    let number = self.pick(*which);
                    let known = self.all[number].as_mut().unwrap();
                    if known.wd.is_none() {
                        self.watches += 1;
                        (known.wd, known.inode) = (Some(Wd(self.watches)), Some(self.watches.unsigned_abs().into()));
                        self.map.bind(known.id, Wd(self.watches), self.watches.unsigned_abs().into());
                    }
                }
                Step::Forget(which) => {
                    let number = self.pick(*which);
                    let known = self.all[number].as_mut().unwrap();
                    if let Some(wd) = known.wd.take() {
                        assert_eq!(self.map.forget_watch(wd), Some(known.id));
                    }
                }
                Step::Attach(which, parent, name) => {
                    let (number, parent) = (self.pick(*which), self.pick(*parent));
                    if self.named(parent, name).is_none() {
                        let possible = number != 0 && !self.above(parent).contains(&number);
                        let attached = self.map.attach(self.get(number).id, self.get(parent).id, name);
                        assert_eq!(attached, possible);
                        if possible {
                            let known = self.all[number].as_mut().unwrap();
                            (known.parent, known.name) = (Some(parent), name.clone());
                        }
                    }
                }
                Step::Detach(which) => {
                    let number = self.pick(*which);
                    self.map.detach(self.get(number).id);
                    self.all[number].as_mut().unwrap().parent = None;
                }
                Step::Remove(which) => {
                    let number = self.pick(*which);
                    let doomed: Vec<usize> = (0..self.all.len())
                        .filter(|at| self.all[*at].is_some() && self.above(*at).contains(&number))
                        .collect();
                    let mut expected: Vec<Wd> = doomed.iter().filter_map(|at| self.get(*at).wd).collect();
                    let mut watches = self.map.remove(self.get(number).id);
                    watches.sort();
                    expected.sort();
                    assert_eq!(watches, expected);
                    for at in doomed {
                        if let Some(root) = self.all[0].as_mut().filter(|_| at == 0) {
                            (root.wd, root.entries) = (None, 0);
                        } else {
                            self.removed.extend(self.all[at].take().map(|known| known.id));
                        }
                    }
                }
                Step::Count(which, entries) => {
                    let number = self.pick(*which);
                    let known = self.all[number].as_mut().unwrap();
                    self.map.set_entries(known.id, *entries);
                    self.map.count_entry(known.id, true);
                    known.entries = entries + 1;
                }
            }
        }

        fn check(&self) {
            for (number, known) in self.all.iter().enumerate() {
                let Some(known) = known else { continue };
                assert!(self.map.contains(known.id));
                assert_eq!(self.map.path(known.id), self.path(number));
                assert_eq!(self.map.wd(known.id), known.wd);
                assert_eq!(self.map.inode(known.id), known.inode);
                assert_eq!(known.wd.and_then(|wd| self.map.of_wd(wd)), known.wd.map(|_| known.id));
                assert_eq!(self.map.is_detached(known.id), number != 0 && known.parent.is_none());
                let top = *self.above(number).last().unwrap();
                assert_eq!(self.map.detached_above(known.id), (top != 0).then(|| self.get(top).id));
                if let Some(parent) = known.parent {
                    assert_eq!(self.map.child(self.get(parent).id, &known.name), Some(known.id));
                }
                let mut children: Vec<(DirectoryId, &[u8])> = self.map.children(known.id).collect();
                let mut expected: Vec<(DirectoryId, &[u8])> = self
                    .all
                    .iter()
                    .flatten()
                    .filter(|child| child.parent == Some(number))
                    .map(|child| (child.id, &*child.name))
                    .collect();
                children.sort();
                expected.sort();
                assert_eq!(children, expected);
            }
            for id in &self.removed {
                assert!(!self.map.contains(*id) && self.map.path(*id).is_none() && self.map.wd(*id).is_none());
            }
            assert_eq!(self.map.watched(), self.all.iter().flatten().filter(|known| known.wd.is_some()).count());
            assert_eq!(
                self.map.entries(),
                self.all.iter().flatten().map(|known| u64::from(known.entries)).sum::<u64>()
            );
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Reach(usize, Vec<u8>),
        Bind(usize),
        Forget(usize),
        Attach(usize, usize, Vec<u8>),
        Detach(usize),
        Remove(usize),
        Count(usize, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let name = proptest::collection::vec(b'a'..=b'c', 1..3);
        let which = 0..1_000_usize;
        let step = prop_oneof![
            6 => (which.clone(), name.clone()).prop_map(|(parent, name)| Step::Reach(parent, name)),
            4 => which.clone().prop_map(Step::Bind),
            1 => which.clone().prop_map(Step::Forget),
            2 => (which.clone(), which.clone(), name).prop_map(|(which, to, name)| Step::Attach(which, to, name)),
            1 => which.clone().prop_map(Step::Detach),
            1 => which.clone().prop_map(Step::Remove),
            1 => (which, 0..100_u32).prop_map(|(which, entries)| Step::Count(which, entries)),
        ];
        proptest::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn the_map_is_what_a_naive_one_would_be(steps in steps()) {
            let mut model = Model::new();
            for step in &steps {
                model.step(step);
                model.check();
            }
        }
    }

    /// The store of the names is copied when most of it is garbage: with long names that is soon.
    #[test]
    fn names_outlive_the_garbage_of_others() {
        let mut map = Directories::new();
        let name = |number: u32| format!("{number:0>200}");
        let mut kept = Vec::new();
        for round in 0..20_000 {
            let id = map.reach(map.root(), name(round).as_bytes()).unwrap();
            match round % 100 {
                0 => {
                    kept.iter().skip(1).for_each(|(id, round)| assert_eq!(path_of(&map, *id).unwrap(), name(*round)));
                    kept.push((id, round));
                }
                1 => assert!(map.attach(kept[0].0, map.root(), format!("moved {round}").as_bytes())),
                _ => _ = map.remove(id),
            }
        }
        assert_eq!(path_of(&map, kept[0].0).unwrap(), "moved 19901");
        // 200 names of 204 bytes, and as much garbage, besides the piece that is being filled.
        assert!(map.names.pieces() <= 2, "{}", map.names.pieces());
    }
}
