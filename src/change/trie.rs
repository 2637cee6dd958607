//! The path trie under a change set: nodes by (parent, name), values on nodes, counts of what lies beneath.
//!
//! Invariant: a node without a value has a child; `beneath` of a node is the sum over its children of their own
//! weight and theirs, for each of the counters.

use hashbrown::HashTable;
use std::hash::BuildHasher as _;

use crate::path::RelPath;

/// A node's place in the arena. Valid until the node is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(u32);

impl NodeId {
    /// The place in the arena. It is another node's once this one is removed.
    pub(super) fn index(self) -> u32 {
        self.0
    }

    /// The node at a place that is, or was, in use.
    pub(super) fn at(index: u32) -> Self {
        Self(index)
    }
}

/// The empty path.
pub(super) const ROOT: NodeId = NodeId(0);

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    parent: u32,
    first_child: u32,
    next: u32,
    previous: u32,
    name: Box<[u8]>,
    value: T,
    beneath: [u32; 3],
}

/// What a value weighs in the counters of its ancestors.
pub(super) trait Weigh {
    /// Nothing is known at this path: the node may go.
    fn is_empty(&self) -> bool;
    /// The counters.
    fn weight(&self) -> [u32; 3];
}

/// The trie.
#[derive(Debug)]
pub(super) struct Trie<T> {
    nodes: Vec<Node<T>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    // Names are chosen by whoever can create files: a random seed keeps collisions out of their hands.
    hasher: foldhash::fast::RandomState,
}

impl<T: Default + Weigh> Trie<T> {
    pub(super) fn new() -> Self {
        let root = Node {
            parent: NONE,
            first_child: NONE,
            next: NONE,
            previous: NONE,
            name: Box::default(),
            value: T::default(),
            beneath: [0; 3],
        };
        Self {
            nodes: vec![root],
            free: Vec::new(),
            index: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    fn hash(&self, parent: u32, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hash(parent, name);
        self.index
            .find(hash, |id| {
                let node = &self.nodes[*id as usize];
                node.parent == parent && *node.name == *name
            })
            .copied()
    }

    /// The node at `path`, if there is one.
    pub(super) fn find(&self, path: &RelPath) -> Option<NodeId> {
        let mut at = ROOT.0;
        for name in path.components() {
            at = self.child(at, name)?;
        }
        Some(NodeId(at))
    }

    /// The node at `path`, made if need be.
    pub(super) fn reach(&mut self, path: &RelPath) -> NodeId {
        let mut at = ROOT.0;
        for name in path.components() {
            at = match self.child(at, name) {
                Some(child) => child,
                None => self.add(at, name),
            };
        }
        NodeId(at)
    }

    fn add(&mut self, parent: u32, name: &[u8]) -> u32 {
        let next = self.nodes[parent as usize].first_child;
        let node = Node {
            parent,
            first_child: NONE,
            next,
            previous: NONE,
            name: name.into(),
            value: T::default(),
            beneath: [0; 3],
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 nodes: the backlog is bounded")
            }
        };
        if next != NONE {
            self.nodes[next as usize].previous = id;
        }
        self.nodes[parent as usize].first_child = id;
        let hash = self.hash(parent, name);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.index.insert_unique(hash, id, |id| {
            let node = &nodes[*id as usize];
            hasher.hash_one((node.parent, &*node.name))
        });
        id
    }

    /// Removes the node and its ancestors as far as they are empty.
    pub(super) fn prune(&mut self, node: NodeId) {
        let mut at = node.0;
        while at != ROOT.0 {
            let here = &self.nodes[at as usize];
            if here.first_child != NONE || !here.value.is_empty() {
                return;
            }
            let (parent, next, previous) = (here.parent, here.next, here.previous);
            let hash = self.hash(parent, &here.name);
            if let Ok(entry) = self.index.find_entry(hash, |id| *id == at) {
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
            self.nodes[at as usize].name = Box::default();
            self.free.push(at);
            at = parent;
        }
    }

    /// Gives back the memory of many nodes when none is left but the root. Places of nodes that were may not exist then:
    /// see [`Self::known`].
    pub(super) fn give_back(&mut self) {
        if self.index.is_empty() && self.nodes.capacity() > 1024 {
            self.nodes.truncate(1);
            self.nodes.shrink_to_fit();
            self.free = Vec::new();
            self.index = HashTable::new();
        }
    }

    /// The value at a place that was in use once; `None` when it is given back.
    pub(super) fn known(&self, node: NodeId) -> Option<&T> {
        self.nodes.get(node.0 as usize).map(|node| &node.value)
    }

    pub(super) fn value(&self, node: NodeId) -> &T {
        &self.nodes[node.0 as usize].value
    }

    /// Changes the value and keeps the ancestors' counters true.
    pub(super) fn update<R>(&mut self, node: NodeId, change: impl FnOnce(&mut T) -> R) -> R {
        let value = &mut self.nodes[node.0 as usize].value;
        let before = value.weight();
        let result = change(value);
        let after = value.weight();
        if before != after {
            let mut at = self.nodes[node.0 as usize].parent;
            while at != NONE {
                let here = &mut self.nodes[at as usize];
                for counter in 0..3 {
                    here.beneath[counter] = here.beneath[counter] + after[counter] - before[counter];
                }
                at = here.parent;
            }
        }
        result
    }

    /// The counters of what lies strictly beneath.
    pub(super) fn beneath(&self, node: NodeId) -> [u32; 3] {
        self.nodes[node.0 as usize].beneath
    }

    pub(super) fn parent(&self, node: NodeId) -> Option<NodeId> {
        let parent = self.nodes[node.0 as usize].parent;
        (parent != NONE).then_some(NodeId(parent))
    }

    /// The ancestors, nearest first, the root last.
    pub(super) fn ancestors(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(self.parent(node), |at| self.parent(*at))
    }

    /// Whether `above` is an ancestor of `node`.
    pub(super) fn is_above(&self, above: NodeId, node: NodeId) -> bool {
        self.ancestors(node).any(|ancestor| ancestor == above)
    }

    /// The children, in no order.
    pub(super) fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let link = |id: u32| (id != NONE).then_some(NodeId(id));
        std::iter::successors(link(self.nodes[node.0 as usize].first_child), move |at| {
            link(self.nodes[at.0 as usize].next)
        })
    }

    /// Everything strictly beneath, in no order.
    pub(super) fn descendants(&self, node: NodeId) -> Vec<NodeId> {
        let mut found: Vec<NodeId> = self.children(node).collect();
        let mut next = 0;
        while next < found.len() {
            let at = found[next];
            found.extend(self.children(at));
            next += 1;
        }
        found
    }

    pub(super) fn path(&self, node: NodeId) -> RelPath {
        let mut names: Vec<&[u8]> = std::iter::once(node)
            .chain(self.ancestors(node))
            .map(|at| &*self.nodes[at.0 as usize].name)
            .filter(|name| !name.is_empty())
            .collect();
        names.reverse();
        RelPath::from_components(names)
    }

    /// How many components the path has.
    pub(super) fn depth(&self, node: NodeId) -> usize {
        self.ancestors(node).count()
    }

    /// Nodes in use, the root not counted.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }
}
