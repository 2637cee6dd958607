//! Dealing a root's top-level directories to its shards. Pure.
//!
//! Shard 0 is the trunk: it watches the root itself and tells the owner of a top-level name to look at it. An errand
//! is nothing but a name: what to do is decided by what is there when the owner looks, so errands may be merged and
//! repeated.

use std::collections::{BTreeSet, HashMap};

use super::shard::ShardId;

/// "Look at this top-level name."
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Errand {
    /// Who shall look.
    pub owner: ShardId,
    /// The name in the root.
    pub name: Box<[u8]>,
}

/// Who owns which top-level name.
#[derive(Debug)]
pub struct Trunk {
    shards: u16,
    owners: HashMap<Box<[u8]>, ShardId, foldhash::fast::RandomState>,
    load: Vec<u64>,
    /// The last name that left by rename: its new name stays with the same owner, who then re-binds one node.
    left: Option<(u32, ShardId)>,
    errands: BTreeSet<Errand>,
}

impl Trunk {
    /// Deals to `shards` shards, at least one.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        let shards = shards.max(1);
        Self {
            shards,
            owners: HashMap::default(),
            load: vec![0; usize::from(shards)],
            left: None,
            errands: BTreeSet::new(),
        }
    }

    /// A directory called `name` is in the root; `cookie` ties it to the name that it had before.
    pub fn appeared(&mut self, name: &[u8], cookie: u32) {
        let owner = match (self.owners.get(name), self.left) {
            (Some(owner), _) => *owner,
            (None, Some((left, owner))) if left == cookie && cookie != 0 => owner,
            (None, _) => self.least_loaded(),
        };
        if self.owners.insert(name.into(), owner).is_none() {
            self.load[usize::from(owner.0)] += 1;
        }
        self.errands.insert(Errand { owner, name: name.into() });
    }

    /// The directory called `name` is not in the root any more.
    pub fn left(&mut self, name: &[u8], cookie: u32) {
        if let Some(owner) = self.owners.remove(name) {
            self.load[usize::from(owner.0)] -= 1;
            self.left = (cookie != 0).then_some((cookie, owner));
            self.errands.insert(Errand { owner, name: name.into() });
        }
    }

    /// The top-level names that are dealt.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.owners.keys().map(|name| &**name)
    }

    /// The errands since the last call, merged.
    pub fn errands(&mut self) -> BTreeSet<Errand> {
        std::mem::take(&mut self.errands)
    }

    /// How many shards share the root.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    fn least_loaded(&self) -> ShardId {
        let least = self.load.iter().enumerate().min_by_key(|(_, load)| **load).map_or(0, |(shard, _)| shard);
        ShardId(u16::try_from(least).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(trunk: &mut Trunk, name: &str) -> ShardId {
        trunk.errands().into_iter().find(|errand| *errand.name == *name.as_bytes()).unwrap().owner
    }

    #[test]
    fn top_level_names_are_spread_evenly() {
        let mut trunk = Trunk::new(3);
        for name in 0..9 {
            trunk.appeared(format!("d{name}").as_bytes(), 0);
        }
        let mut counts = [0; 3];
        for errand in trunk.errands() {
            counts[usize::from(errand.owner.0)] += 1;
        }
        assert_eq!(counts, [3, 3, 3]);
    }

    #[test]
    fn a_renamed_directory_stays_with_its_owner() {
        let mut trunk = Trunk::new(4);
        for name in ["a", "b", "c", "d"] {
            trunk.appeared(name.as_bytes(), 0);
        }
        let before = owner(&mut trunk, "c");
        trunk.left(b"c", 55);
        trunk.appeared(b"z", 55);
        let errands = trunk.errands();
        assert!(errands.iter().all(|errand| errand.owner == before), "{errands:?}");
        assert_eq!(errands.len(), 2);
    }
}
