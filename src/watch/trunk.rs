//! Dealing a root's top-level directories to its shards. Pure.
//!
//! Shard 0 is the trunk: it watches the root itself and tells the owner of a top-level name to look at it. An errand
//! is a name and why it is looked at: what to do is decided by what is there when the owner looks, so errands may be
//! merged and repeated.

use std::collections::{BTreeMap, HashMap};

use super::shard::ShardId;

/// "Look at this top-level name."
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Errand {
    /// Who shall look.
    pub owner: ShardId,
    /// The name in the root.
    pub name: Box<[u8]>,
    /// Why.
    pub occasion: Occasion,
}

/// Why a top-level name is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    /// The directory of that name left: it is not the owner's any more, also if there is another one by now.
    Left,
    /// Events of the root were lost: most likely the name has what it had, and then there is nothing to do.
    Lost,
    /// An event named it, or it was not known before.
    Event,
}

impl Occasion {
    /// What a waiting errand becomes when the same is asked for again: the newer counts, but a loss adds nothing.
    #[must_use]
    pub fn then(self, newer: Self) -> Self {
        if newer == Self::Lost { self } else { newer }
    }
}

/// Who owns which top-level name.
#[derive(Debug)]
pub struct Trunk {
    shards: u16,
    owners: HashMap<Box<[u8]>, ShardId, foldhash::fast::RandomState>,
    load: Vec<u64>,
    /// The last name that left by rename: its new name stays with the same owner, who then re-binds one node.
    left: Option<(u32, ShardId)>,
    errands: BTreeMap<(ShardId, Box<[u8]>), Occasion>,
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
            errands: BTreeMap::new(),
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
        self.errands.insert((owner, name.into()), Occasion::Event);
    }

    /// A directory called `name` was found in the root after events were lost.
    pub fn found(&mut self, name: &[u8]) {
        match self.owners.get(name) {
            Some(owner) => {
                self.errands.entry((*owner, name.into())).or_insert(Occasion::Lost);
            }
            None => self.appeared(name, 0),
        }
    }

    /// The directory called `name` is not in the root any more.
    pub fn left(&mut self, name: &[u8], cookie: u32) {
        if let Some(owner) = self.owners.remove(name) {
            self.load[usize::from(owner.0)] -= 1;
            self.left = (cookie != 0).then_some((cookie, owner));
            self.errands.insert((owner, name.into()), Occasion::Left);
        }
    }

    /// The top-level names that are dealt.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.owners.keys().map(|name| &**name)
    }

    /// The errands since the last call, merged.
    pub fn errands(&mut self) -> Vec<Errand> {
        let errands = std::mem::take(&mut self.errands);
        errands.into_iter().map(|((owner, name), occasion)| Errand { owner, name, occasion }).collect()
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
    fn after_a_loss_known_names_are_looked_at_again_and_new_ones_dealt() {
        let mut trunk = Trunk::new(2);
        trunk.appeared(b"known", 0);
        trunk.errands();
        trunk.found(b"known");
        trunk.found(b"new");
        let occasions: Vec<_> =
            trunk.errands().into_iter().map(|errand| (errand.name.to_vec(), errand.occasion)).collect();
        assert!(occasions.contains(&(b"known".to_vec(), Occasion::Lost)), "{occasions:?}");
        assert!(occasions.contains(&(b"new".to_vec(), Occasion::Event)), "{occasions:?}");
        // An event that waits counts for more.
        trunk.left(b"known", 0);
        trunk.appeared(b"known", 0);
        trunk.found(b"known");
        assert!(trunk.errands().iter().any(|errand| errand.occasion == Occasion::Event && *errand.name == *b"known"));
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
