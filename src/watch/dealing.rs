//! What a shard does with errands: it looks at what was dealt to it, and directories change hands.
//!
//! Invariant: a directory that changes hands is let go by its former owner only after the new one has watched all of it,
//! and after the former one has read whatever its queue held at that time and knows of no loss that is not made good. So
//! each change in it has an event that one of them reads, and nothing needs to be marked.

use std::collections::{BTreeMap, HashSet};
use std::io;

use super::errand::{Errand, Errands, Occasion, Task};
use super::shard::{LossReason, LostScope, Shard, ShardId, Unwatched};
use super::walk::{Reason, Walk};
use crate::change::{Content, Mark, MarkKind};
use crate::path::RelPath;
use crate::sys::ground::{Ground, Watches as _};
use crate::tree::DirectoryId;

/// A directory in which so few directories are watched is not split. Why 4,096: a pass over so many takes 20 ms, less than
/// to hand them over (110,000 directories are listed in 0.5 s, notes/kernel.md 6).
pub(super) const SPLIT_MIN: u64 = 4_096;

/// A directory with more directories in it is not split, since the trunk keeps a share for each.
const SPLIT_NAMES_MAX: usize = 10_000;

/// Directories of the crown, over all of which the trunk's own watches are spread, beyond which none is split.
const CROWN_MAX: usize = 256;

/// How many directories are split at once that lie in each other and hold the same: a chain.
const CHAIN_MAX: usize = 16;

/// A directory that this shard is to let go.
#[derive(Debug)]
pub(super) struct Yielding {
    path: RelPath,
    /// The queue was read to its end since it was asked.
    drained: bool,
}

/// What a directory is to this shard, by what it does with names in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It watches whatever is in there.
    Own,
    /// It deals what is in there.
    Crown,
    /// The trunk deals what is in there, and this shard has not given up its watch yet.
    Former,
}

impl<G: Ground> Shard<G> {
    /// What the directory at `place` is to this shard.
    pub(super) fn part_of(&self, place: &RelPath) -> Part {
        match &self.trunk {
            Some(trunk) if trunk.is_crown(place) => Part::Crown,
            Some(_) => Part::Own,
            None if self.source.crown_inode(place).is_some() => Part::Former,
            None => Part::Own,
        }
    }

    /// Lists the root and sends an errand for each directory in it, and for each that was there before.
    pub(super) fn deal_root(&mut self) -> io::Result<()> {
        let path = RelPath::root();
        let root = self.source.root.open_directory(&path)?;
        let (names, entries) = self.subdirectories(&path, &root)?;
        self.map.set_entries(self.map.root(), entries);
        self.list(&path, &names, Some(Occasion::Lost));
        Ok(())
    }

    /// Deals what is in a directory of the crown that is watched now. `fresh`: it was not watched under this name before.
    pub(super) fn deal(&mut self, directory: DirectoryId, open: &G::Directory, reason: Reason, fresh: bool) {
        let (Some(path), Some(inode)) = (self.map.path(directory), self.map.inode(directory)) else { return };
        // Before anybody is told to look at what is in there.
        self.source.crown.write().insert(path.clone(), inode);
        self.crowned.insert(directory);
        let (names, entries) = match self.subdirectories(&path, open) {
            Ok(listed) => listed,
            Err(error) if super::walk::is_gone(&error) => return,
            Err(error) => {
                self.source.say_unreadable(&path, &error);
                return self.leave_unwatched(path, super::lack::Lack::Unreadable, &error);
            }
        };
        self.map.set_entries(directory, entries);
        let occasion = match reason {
            Reason::Split => None,
            Reason::Appeared | Reason::Retry(..) if !fresh => Some(Occasion::Lost),
            Reason::Start | Reason::Appeared | Reason::Arrived | Reason::Retry(..) => Some(Occasion::Event),
        };
        self.list(&path, &names, occasion);
        // What others own here now is looked at and marked by them.
        let not_ours: Vec<Box<[u8]>> = (self.map.children(directory))
            .filter(|(_, name)| !self.trunk.as_ref().is_some_and(|trunk| trunk.holds(&path.join(name), self.id)))
            .map(|(_, name)| name.into())
            .collect();
        for name in not_ours {
            self.drop_child(directory, &name);
        }
    }

    fn list(&mut self, path: &RelPath, names: &[Box<[u8]>], occasion: Option<Occasion>) {
        let Some(trunk) = &mut self.trunk else { return };
        trunk.weigh(self.source.watched_each());
        for crown in trunk.list(path, names, occasion) {
            self.crown_left(&crown);
        }
        self.look_at_crown();
    }

    /// A directory came to one of the crown.
    pub(super) fn appeared(&mut self, path: &RelPath, cookie: u32) {
        if let Some(trunk) = &mut self.trunk {
            trunk.weigh(self.source.watched_each());
            trunk.appeared(path, cookie);
        }
        self.look_at_crown();
    }

    /// A directory left one of the crown, to another name perhaps.
    pub(super) fn left(&mut self, path: &RelPath, cookie: u32) {
        if self.trunk.as_mut().is_some_and(|trunk| trunk.left(path, cookie)) {
            self.crown_left(path);
        }
    }

    /// A directory of the crown left, with its watches and with what this shard owns beneath, until it is known where it
    /// went.
    fn crown_left(&mut self, path: &RelPath) {
        self.source.crown.write().retain(|crown, _| !crown.is_within(path));
        if let Some((parent, name)) = path.parent().zip(path.name())
            && let Some(parent) = self.directory_at(&parent)
        {
            self.departed(parent, name);
        }
    }

    /// Begins the walks of crown directories.
    fn look_at_crown(&mut self) {
        let looks = self.trunk.as_mut().map(super::trunk::Trunk::looks).unwrap_or_default();
        // The last walk is done first.
        for (path, occasion) in looks.into_iter().rev() {
            let Some((parent, name)) = path.parent().zip(path.name()) else { continue };
            // Else that one is being looked at itself, which leads to this one.
            let Some(parent) = self.directory_at(&parent) else { continue };
            let reason = match occasion {
                None => Reason::Split,
                Some(Occasion::Lost) => Reason::Appeared,
                Some(Occasion::Event | Occasion::Taken | Occasion::Left) => Reason::Arrived,
            };
            self.start_walk(parent, name, reason);
        }
    }

    /// Does what other shards ask for. What is to be looked at and is there comes first, so that a renamed directory is
    /// re-bound before its old name is dropped.
    pub fn on_errands(&mut self, errands: Errands) {
        // What is there at the start is compared anyway once all is watched.
        let first = !self.source.is_live();
        let (mut present, mut absent) = (BTreeMap::new(), Vec::new());
        for (path, task) in errands {
            match task {
                // The trunk split it since, and may have known another directory of that name then.
                Task::Look { occasion, .. } if occasion != Occasion::Left && self.is_of_crown(&path) => {
                    if self.trunk.is_some() {
                        self.appeared(&path, 0);
                    } else {
                        self.ask(ShardId(0), path, Task::Seen);
                    }
                }
                Task::Look { occasion, former } if occasion != Occasion::Left && self.is_directory(&path) => {
                    present.insert(path, (occasion, former));
                    continue;
                }
                Task::Look { .. } => {
                    absent.push(path);
                    continue;
                }
                Task::Yield => {
                    self.yielding.push(Yielding { path, drained: false });
                    continue;
                }
                Task::Seen if self.is_directory(&path) => self.appeared(&path, 0),
                Task::Seen => {}
                Task::Yielded { by } => {
                    if let Some(trunk) = &mut self.trunk {
                        trunk.yielded(&path, by);
                    }
                }
                Task::Split { by, weights, complete } => self.split(&path, by, &weights, complete),
            }
            self.source.unsettled_down();
        }
        // What left and has by now directories of this shard in it again goes before they are looked at, and what left
        // from one that is looked at as a whole is not there any more or is found there.
        let above: HashSet<RelPath> = present.keys().flat_map(ancestors).collect();
        let (early, late): (Vec<_>, Vec<_>) = absent.into_iter().partition(|path| above.contains(path));
        for path in early {
            self.forget(&path);
        }
        let late: Vec<(RelPath, bool)> = late
            .into_iter()
            .map(|path| {
                let covered = ancestors(&path).any(|above| present.contains_key(&above));
                (path, covered)
            })
            .collect();
        for (path, (occasion, former)) in present {
            if let Some((parent, name)) = path.parent().zip(path.name()) {
                let reason = match occasion {
                    _ if first => Reason::Start,
                    // Its former owner tells of whatever happens until all of it is watched.
                    Occasion::Taken => Reason::Start,
                    Occasion::Event | Occasion::Left => Reason::Arrived,
                    Occasion::Lost => Reason::Appeared,
                };
                let parent = self.reach(&parent);
                self.bare.push(parent);
                let from = self.former_in_crown(&path).filter(|_| reason == Reason::Arrived && former.is_none());
                self.open_walk(Walk::new(parent, name, reason).yielded_by(former).from(from));
                if !first && occasion != Occasion::Taken {
                    self.walk_slice(64);
                }
            }
            self.source.unsettled_down();
        }
        for (path, covered) in late {
            if covered {
                self.source.unsettled_down();
            } else {
                self.forget(&path);
            }
        }
    }

    fn is_of_crown(&self, path: &RelPath) -> bool {
        match &self.trunk {
            Some(trunk) => trunk.is_crown(path),
            None => self.source.crown_inode(path).is_some(),
        }
    }

    /// What was dealt at `path` is not this shard's any more.
    fn forget(&mut self, path: &RelPath) {
        // The trunk may have made it one of the crown since.
        if !self.trunk.as_ref().is_some_and(|trunk| trunk.is_crown(path)) {
            self.let_go(path);
            for walks in [&mut self.walks, &mut self.suspended] {
                let map = &self.map;
                for walk in walks.extract_if(.., |walk| walk.place(map).as_ref() == Some(path)) {
                    self.finished += 1;
                    if let Reason::Retry(_, lack) = walk.reason() {
                        self.source.looked_again(lack);
                    }
                }
            }
            // Whoever has what is there now marks all of it.
            self.take_unwatched(path);
        }
        self.source.unsettled_down();
    }

    fn let_go(&mut self, path: &RelPath) {
        if let Some((parent, name)) = path.parent().zip(path.name())
            && let Some(parent) = self.directory_at(&parent)
        {
            self.drop_child(parent, name);
            self.bare.push(parent);
        }
    }

    /// Directories without a watch at and beneath `path`: they are not looked through any more.
    fn take_unwatched(&mut self, path: &RelPath) -> Vec<(RelPath, Unwatched)> {
        let taken: Vec<(RelPath, Unwatched)> =
            self.unwatched.extract_if(.., |unwatched, _| unwatched.is_within(path)).collect();
        for (_, unwatched) in &taken {
            self.source.looked_again(unwatched.lack);
        }
        taken
    }

    /// The directory at `path`, made without a watch where it is not in the map: of the crown, the trunk watches it.
    pub(super) fn reach(&mut self, path: &RelPath) -> DirectoryId {
        let (mut at, mut place) = (self.map.root(), RelPath::root());
        for name in path.components() {
            at = self.map.reach(at, name).unwrap_or(at);
            place = place.join(name);
            // This shard may have watched another one there, of before it was split: that one is elsewhere by now.
            let crown = if self.trunk.is_none() { self.source.crown_inode(&place) } else { None };
            if crown.is_some_and(|crown| self.map.inode(at).is_some_and(|inode| inode != crown))
                && let Some(wd) = self.map.give_away(at)
            {
                self.watches.remove_watch(wd);
            }
        }
        at
    }

    /// Whether the directory is only there for what lies beneath it.
    fn is_bare(&self, directory: DirectoryId) -> bool {
        directory != self.map.root() && self.map.wd(directory).is_none() && self.map.inode(directory).is_none()
    }

    /// Removes directories that are only there for what lay beneath them. Walks know directories by their place in the map.
    pub(super) fn prune(&mut self) {
        if !(self.walks.is_empty() && self.suspended.is_empty()) {
            return;
        }
        self.crowned.retain(|directory| self.map.contains(*directory));
        self.missed.retain(|directory| self.map.contains(*directory));
        for directory in std::mem::take(&mut self.bare) {
            let mut at = Some(directory);
            while let Some(directory) = at.take_if(|at| self.map.contains(*at) && self.is_bare(*at)) {
                if self.map.children(directory).next().is_some() {
                    break;
                }
                let above = self.map.path(directory).and_then(|path| path.parent());
                self.map.remove(directory);
                at = above.and_then(|path| self.directory_at(&path));
            }
        }
    }

    /// The directories that were dealt to this shard, as far as they are watched, with their paths.
    pub(super) fn dealt(&self) -> Vec<(DirectoryId, RelPath)> {
        let mut dealt = Vec::new();
        let mut waiting = vec![(self.map.root(), RelPath::root())];
        while let Some((above, place)) = waiting.pop() {
            for (directory, name) in self.map.children(above) {
                let path = place.join(name);
                let is_crown = match &self.trunk {
                    Some(trunk) => trunk.is_crown(&path),
                    None => self.is_bare(directory),
                };
                if is_crown {
                    waiting.push((directory, path));
                } else {
                    dealt.push((directory, path));
                }
            }
        }
        dealt
    }

    /// What lost events say nothing of any more.
    pub(super) fn lost_scopes(&self, since: crate::sys::clock::WallTime) -> Vec<LostScope> {
        let scope = |path, recursive| LostScope { path, recursive, since };
        let mut scopes: Vec<LostScope> = self.dealt().into_iter().map(|(_, path)| scope(path, true)).collect();
        if self.trunk.is_some() {
            scopes.push(scope(RelPath::root(), false));
            scopes.extend(self.source.crown.read().keys().map(|path| scope(path.clone(), false)));
        }
        scopes
    }

    /// The queue was read to its end: whatever was to be let go when that began may go.
    pub(super) fn read_before_yielding(&mut self, count: usize) {
        for yielding in self.yielding.iter_mut().take(count) {
            yielding.drained = true;
        }
    }

    /// Whether something is to be let go, which needs a look at the queue first.
    #[must_use]
    pub fn is_yielding(&self) -> bool {
        !self.yielding.is_empty()
    }

    /// Lets go of what other shards have watched. To be called after marks and losses were handed over; `owed`: losses are
    /// not made good yet, which may concern it.
    pub fn let_go_of_yielded(&mut self, owed: bool) {
        self.made_good = !owed;
        if owed || self.yielding.is_empty() {
            return;
        }
        let drained: Vec<Yielding> = self.yielding.extract_if(.., |yielding| yielding.drained).collect();
        for Yielding { path, .. } in drained {
            if self.source.crown_inode(&path).is_some() {
                if let Some(directory) = self.directory_at(&path)
                    && let Some(wd) = self.map.give_away(directory)
                {
                    self.watches.remove_watch(wd);
                    self.bare.push(directory);
                }
            } else {
                self.end_walks(&path);
                let unwatched = self.take_unwatched(&path);
                if !unwatched.is_empty() {
                    let slack = self.source.slack;
                    let scope = |(path, unwatched): (RelPath, Unwatched)| LostScope {
                        path,
                        recursive: true,
                        since: unwatched.since.minus(slack),
                    };
                    self.lose(LossReason::Unwatched, unwatched.into_iter().map(scope).collect());
                }
                self.let_go(&path);
            }
            self.ask(ShardId(0), path, Task::Yielded { by: self.id });
            // Once that is handed over, it is done.
            self.finished += 1;
        }
        self.tell_watched();
    }

    /// Ends the walks at and beneath `path`. What they were to mark at their end is marked now, as all of it is watched by
    /// somebody else.
    fn end_walks(&mut self, path: &RelPath) {
        let mut ended = Vec::new();
        for walks in [&mut self.walks, &mut self.suspended] {
            let map = &self.map;
            ended.extend(walks.extract_if(.., |walk| walk.place(map).is_some_and(|place| place.is_within(path))));
        }
        for walk in ended {
            self.finished += 1;
            let Some(place) = walk.place(&self.map) else { continue };
            match walk.reason() {
                Reason::Start | Reason::Split => {}
                Reason::Appeared | Reason::Arrived => {
                    self.emit(Mark::new(place, MarkKind::Subtree).content(Content::Resend));
                }
                Reason::Retry(since, lack) => {
                    self.source.looked_again(lack);
                    let since = since.minus(self.source.slack);
                    self.lose(LossReason::Unwatched, vec![LostScope { path: place, recursive: true, since }]);
                }
            }
        }
    }

    /// Asks for the directory to be split in which most of the tree lies, if that is this shard's.
    pub(super) fn consider_split(&mut self) {
        let live = self.source.is_live();
        if live && !self.seen_live {
            // Now it is known how much there is.
            self.split_at = self.source.split_min;
        }
        let mine = self.map.watched() as u64;
        if self.source.shards() == 1 || mine < self.split_at {
            return;
        }
        let complete = self.walks.is_empty() && self.suspended.is_empty();
        if live && !(complete && self.yielding.is_empty()) {
            return;
        }
        self.seen_live = live;
        self.split_at = mine + mine / 2;
        let all: u64 = self.source.watched_each().sum();
        // More than half, and a third more than what each would have.
        let most = (all / 2).max(all * 4 / (3 * u64::from(self.source.shards()))).max(self.source.split_min);
        if mine <= most || self.source.crown.read().len() >= CROWN_MAX {
            return;
        }
        let heavy = self.dealt().into_iter().find(|(directory, _)| self.map.count(*directory) > most);
        let Some((mut directory, mut path)) = heavy else { return };
        let mut chain = Vec::new();
        loop {
            let weights: Vec<(DirectoryId, Box<[u8]>, u64)> = (self.map.children(directory))
                .map(|(child, name)| (child, name.into(), self.map.count(child)))
                .collect();
            if weights.is_empty() || weights.len() > SPLIT_NAMES_MAX || chain.len() == CHAIN_MAX {
                return;
            }
            let next =
                weights.iter().find(|(_, _, weight)| *weight > most).map(|(child, name, _)| (*child, name.clone()));
            let weights = weights.into_iter().map(|(_, name, weight)| (name, weight)).collect();
            chain.push((directory, path.clone(), weights));
            let Some((child, name)) = next else { break };
            (directory, path) = (child, path.join(&name));
        }
        for (directory, path, weights) in chain {
            if !complete {
                // What is not begun yet is dealt by the trunk; to this shard again, perhaps.
                for walk in self.walks.iter_mut().chain(&mut self.suspended) {
                    walk.leave_out(directory);
                }
            }
            self.ask(ShardId(0), path, Task::Split { by: self.id, weights, complete });
        }
    }

    fn split(&mut self, path: &RelPath, by: ShardId, weights: &[(Box<[u8]>, u64)], complete: bool) {
        let Some(trunk) = &mut self.trunk else { return };
        trunk.weigh(self.source.watched_each());
        if trunk.split(path, by, weights, complete) {
            self.source.say_split(path, by, weights.iter().map(|(_, weight)| weight).sum());
            self.look_at_crown();
        }
    }

    /// Asks another shard, after the marks that were made so far.
    pub(super) fn ask(&mut self, to: ShardId, path: RelPath, task: Task) {
        self.asked.push(Errand { to, path, task });
    }

    /// The errands since the last call. They must leave after the marks that were there before.
    pub fn errands(&mut self) -> Vec<Errand> {
        let mut errands = std::mem::take(&mut self.asked);
        errands.extend(self.trunk.as_mut().map(super::trunk::Trunk::errands).unwrap_or_default());
        for _errand in &errands {
            self.source.unsettled_up();
        }
        errands
    }
}

/// The directories above a path, but for the root.
fn ancestors(path: &RelPath) -> impl Iterator<Item = RelPath> {
    std::iter::successors(path.parent(), RelPath::parent).take_while(|above| !above.is_root())
}
