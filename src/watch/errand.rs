//! What the shards of a root ask of each other. Pure.
//!
//! An errand is a path and why it is looked at: what to do is decided by what is there when it is done, so errands may be
//! merged and repeated.

use std::collections::BTreeMap;

use super::shard::ShardId;
use crate::path::RelPath;

/// What one shard asks another to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    /// Who shall do it.
    pub to: ShardId,
    /// With which directory.
    pub path: RelPath,
    /// What.
    pub task: Task,
}

/// What is to be done with a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// To its owner: look at it.
    Look {
        /// Why.
        occasion: Occasion,
        /// Who may still watch it, and is to be told to [`Self::Yield`] when it is watched.
        former: Option<ShardId>,
    },
    /// To a former owner: somebody else watches all of it.
    Yield,
    /// To the trunk: `by` does not watch it any more.
    Yielded {
        /// Who.
        by: ShardId,
    },
    /// To the trunk: an event of before the trunk watched the directory around it names it.
    Seen,
    /// To the trunk: too much of the tree lies in it for one shard.
    Split {
        /// Its owner.
        by: ShardId,
        /// The directories in it that the owner watches or has begun to, and how many it watches in each.
        weights: Vec<(Box<[u8]>, u64)>,
        /// All of these are watched, so they can change hands.
        complete: bool,
    },
}

/// Why a directory is looked at by its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    /// The directory of that name left: it is not the owner's any more, also if there is another one by now.
    Left,
    /// It was watched by another shard, which goes on until it is told that this one has it: no change is lost.
    Taken,
    /// Events of the crown were lost: most likely the name has what it had, and then there is nothing to do.
    Lost,
    /// An event named it, or it was not known before.
    Event,
}

impl Occasion {
    /// What a waiting errand becomes when the same is asked for again: the newer counts, but a loss adds nothing, and what
    /// was to be marked is marked, whoever watches it.
    #[must_use]
    pub fn then(self, newer: Self) -> Self {
        match (self, newer) {
            (waiting, Self::Lost) => waiting,
            (Self::Left | Self::Event | Self::Lost, Self::Taken) => Self::Event,
            (Self::Taken, Self::Taken) => Self::Taken,
            (_, newer @ (Self::Left | Self::Event)) => newer,
        }
    }
}

/// Which errands are the same errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Look,
    Seen,
    Yield,
    Yielded(ShardId),
    Split(ShardId),
}

impl Task {
    fn kind(&self) -> Kind {
        match self {
            Self::Look { .. } => Kind::Look,
            Self::Seen => Kind::Seen,
            Self::Yield => Kind::Yield,
            Self::Yielded { by } => Kind::Yielded(*by),
            Self::Split { by, .. } => Kind::Split(*by),
        }
    }

    fn then(self, newer: Self) -> Self {
        match (self, newer) {
            (Self::Look { occasion, former }, Self::Look { occasion: newer, former: later }) => {
                Self::Look { occasion: occasion.then(newer), former: later.or(former) }
            }
            (_, newer) => newer,
        }
    }
}

/// The errands that wait for one shard: each once, so repeated ones take no space.
#[derive(Debug, Default, Clone)]
pub struct Errands(BTreeMap<(RelPath, Kind), Task>);

impl Errands {
    /// Adds one; false when it was merged with the same errand that waits already.
    pub fn add(&mut self, path: RelPath, task: Task) -> bool {
        let key = (path, task.kind());
        let waiting = self.0.remove(&key);
        let is_new = waiting.is_none();
        let task = match waiting {
            Some(waiting) => waiting.then(task),
            None => task,
        };
        self.0.insert(key, task);
        is_new
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Errands {
    type Item = (RelPath, Task);
    type IntoIter = std::vec::IntoIter<(RelPath, Task)>;

    fn into_iter(self) -> Self::IntoIter {
        let errands: Vec<(RelPath, Task)> = self.0.into_iter().map(|((path, _), task)| (path, task)).collect();
        errands.into_iter()
    }
}
