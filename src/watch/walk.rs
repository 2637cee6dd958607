//! Walks: directories whose watch is still to be added, in slices, so that the queue is drained in between.

use std::collections::HashSet;
use std::io;

use super::dealing::Part;
use super::errand::Task;
use super::lack::Lack;
use super::shard::{Former, LossReason, LostScope, Shard, ShardId};
use super::trunk::Trunk;
use crate::change::{Content, Mark, MarkKind};
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::sys::files::EntryType;
use crate::sys::ground::{Backend, Ground, Watches as _};
use crate::sys::inotify::{WatchError, Wd};
use crate::tree::{Directories, DirectoryId};

/// Why a directory is walked, which decides the mark at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// First walk of this process: the cold start compares everything anyway.
    Start,
    /// A directory was created, or may have been while events were lost: if it is watched under this name already,
    /// whoever did so marked it too.
    Appeared,
    /// A directory was moved here, or replaced what had its name: everything in it is new to this name, whatever the
    /// map knew of it.
    Arrived,
    /// It had no watch: what changed since is unknown, whether it has one now or not.
    Retry(WallTime, Lack),
    /// The trunk watches it in place of its owner, to deal what is in it; nothing there changed.
    Split,
}

/// Directories to be walked, each with all beneath it.
#[derive(Debug)]
pub(super) struct Walk<D> {
    reason: Reason,
    /// The first has the names that the walk is for, each of the others what was found in a directory that was visited: the
    /// last of its names is visited next.
    levels: Vec<Level<D>>,
    /// The last name of the first level was visited, and something lies beneath it to be visited still.
    entered: bool,
    /// Something new was found under that name, so its end is worth a mark.
    found: bool,
    /// What is watched under its name already is entered too.
    thorough: bool,
    /// The same, under that name at least.
    thorough_here: bool,
    /// How many times it had to wait for the events that tell where it is.
    waited: u8,
    /// The directory of that name is there.
    seen: bool,
    /// It is one of the crown: what lies beneath is its owners', who mark it.
    crown: bool,
    /// Who is to be told when all of it is watched.
    former: Option<ShardId>,
    /// Where it was, if it was renamed.
    from: Option<Former>,
}

/// A directory of which some names are still to be visited.
#[derive(Debug)]
struct Level<D> {
    directory: DirectoryId,
    /// It, as long as it is held, and which inode that is. What is opened by name from here lies in that very directory,
    /// wherever it is by now.
    held: Option<(u64, D)>,
    names: Names,
}

/// Names, the last one first. One piece of memory, as a directory may have a million.
#[derive(Debug, Default)]
struct Names(Vec<u8>);

impl Names {
    /// A name is shorter than a path, which is at most 4096 bytes.
    fn push(&mut self, name: &[u8]) {
        self.0.extend_from_slice(name);
        self.0.extend_from_slice(&u16::try_from(name.len()).expect("a name is shorter than a path").to_ne_bytes());
    }

    fn last(&self) -> Option<&[u8]> {
        Self::split(&self.0).map(|(_, name)| name)
    }

    /// The last name of `names`, and what is before it.
    fn split(names: &[u8]) -> Option<(&[u8], &[u8])> {
        let (names, length) = names.split_last_chunk()?;
        names.split_at_checked(names.len() - usize::from(u16::from_ne_bytes(*length)))
    }

    fn pop(&mut self) {
        if let Some(last) = self.last() {
            self.0.truncate(self.0.len() - last.len() - 2);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (before, name) = Self::split(rest)?;
            rest = before;
            Some(name)
        })
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// So many of the directories above the one at work are held open: what is deeper gives up those at the top, which are
/// opened by their path again when it is their turn. Bounds the descriptors of a shard.
const HELD_MAX: usize = 32;

/// A walk waits at most so many times for the events that tell where it is: one second. After that what it looks for is
/// treated as what cannot be watched.
const WAITS_MAX: u8 = 100;

/// What became of one directory.
enum Visit<D> {
    /// Its watch is new: it is to be listed.
    New(DirectoryId, D),
    /// It had its watch under another name: it is listed again, and so is what lies beneath where it matters.
    Moved(DirectoryId, D, Past),
    /// It had its watch under this name already.
    Known(DirectoryId, D),
    /// It is there but cannot be watched: it is compared now and then instead.
    Unwatched,
    /// It is not there, or not ours.
    Nothing,
    /// Its parent has no path at the moment, or another one than the map says, because something above moved and its
    /// event is still to be read: to be asked again.
    Later,
}

/// What the map had before a directory moved.
#[derive(Debug)]
struct Past {
    /// Its path then, if it had one.
    path: Option<RelPath>,
    /// There was another directory under its new name.
    replaced: bool,
}

/// What a watch makes of a name.
enum Bound {
    New(DirectoryId),
    Moved(DirectoryId, Past),
    Known(DirectoryId),
    Nothing,
}

/// What a step of a walk came to.
enum Step {
    /// There is more.
    Went,
    /// It cannot be told yet where the next directory is.
    Later,
    /// That was all.
    Ended,
}

impl<D> Walk<D> {
    pub(super) fn new(parent: DirectoryId, name: &[u8], reason: Reason) -> Self {
        let mut names = Names::default();
        names.push(name);
        Self::of_names(parent, names, reason)
    }

    /// Under several names of one directory, one after the other.
    fn of_names(parent: DirectoryId, names: Names, reason: Reason) -> Self {
        // What lies beneath may have been given up half-way.
        let thorough = matches!(reason, Reason::Retry(..));
        let levels = vec![Level { directory: parent, held: None, names }];
        Self {
            reason,
            levels,
            entered: false,
            found: false,
            thorough,
            thorough_here: thorough,
            waited: 0,
            seen: false,
            crown: false,
            former: None,
            from: None,
        }
    }

    /// The same, of a directory that was there before.
    pub(super) fn from(mut self, from: Option<Former>) -> Self {
        self.from = from;
        self
    }

    /// The same, but `former` watches it too until it is told that this walk is done.
    pub(super) fn yielded_by(mut self, former: Option<ShardId>) -> Self {
        self.former = former;
        self
    }

    /// What it is for, if that has a path: a directory, or the one in which all its names are.
    pub(super) fn place(&self, map: &Directories) -> Option<RelPath> {
        let level = self.levels.first()?;
        let above = map.path(level.directory)?;
        let mut names = level.names.iter();
        match (names.next(), names.next()) {
            (Some(name), None) => Some(above.join(name)),
            (_, _) => Some(above),
        }
    }

    pub(super) fn reason(&self) -> Reason {
        self.reason
    }

    /// Leaves out what is to be visited in this directory.
    pub(super) fn leave_out(&mut self, directory: DirectoryId) {
        for level in self.levels.iter_mut().skip(1).filter(|level| level.directory == directory) {
            level.names = Names::default();
        }
    }

    /// The same, but whatever the map knows beneath is looked at too.
    pub(super) fn thorough(mut self) -> Self {
        (self.thorough, self.thorough_here) = (true, true);
        self
    }

    /// Holds nothing open. Only the walk at work does.
    pub(super) fn release(&mut self) {
        for level in &mut self.levels {
            level.held = None;
        }
    }

    /// The next directory is done, or given up.
    fn pass(&mut self) {
        match &mut *self.levels {
            // The first level's name is needed once more, for the mark.
            [_] => self.entered = true,
            [.., level] => level.names.pop(),
            [] => {}
        }
    }

    /// Goes on in a directory that was just visited.
    fn enter(&mut self, level: Level<D>) {
        if let Some(above) = self.levels.len().checked_sub(HELD_MAX) {
            self.levels[above].held = None;
        }
        self.levels.push(level);
    }
}

impl<G: Ground> Shard<G> {
    /// Visits up to `budget` directories of the open walks. Returns whether more are waiting.
    pub(super) fn walk_slice(&mut self, budget: usize) -> bool {
        for _directory in 0..budget {
            let Some(mut walk) = self.walks.pop() else { return false };
            match self.step(&mut walk) {
                Step::Went => self.walks.push(walk),
                Step::Ended => {
                    self.tell_watched();
                    self.finished += 1;
                }
                // A directory above left by rename; where it went is known within `DEPARTED_WAIT`.
                Step::Later if walk.waited < WAITS_MAX => {
                    walk.waited += 1;
                    walk.release();
                    self.suspended.push(walk);
                }
                Step::Later => {
                    walk.seen |= walk.levels.len() == 1;
                    // Something else hides it, such as a mount.
                    if let Some(level) = walk.levels.last()
                        && let Some(path) = self.path_of(level.directory, level.names.last().unwrap_or_default())
                    {
                        self.leave_unwatched(path, Lack::Unreadable, &io::Error::from_raw_os_error(libc::ESTALE));
                    }
                    walk.pass();
                    self.walks.push(walk);
                }
            }
        }
        !self.walks.is_empty()
    }

    /// Visits the next directory.
    fn step(&mut self, walk: &mut Walk<G::Directory>) -> Step {
        while walk.levels.len() > 1 && walk.levels.last().is_some_and(|level| level.names.is_empty()) {
            walk.levels.pop();
        }
        if walk.entered && walk.levels.len() == 1 {
            self.finish_name(walk);
        }
        let Some(level) = walk.levels.last_mut() else { return Step::Ended };
        let Some(name) = level.names.last() else { return Step::Ended };
        let visit = match self.hold(level.directory, &mut level.held) {
            Ok(place) => self.visit(level.directory, place, name),
            Err(Some(error)) => self.unwatched(level.directory, name, Lack::Unreadable, &error),
            // Nobody is told where a crown directory is that left: whoever has by now what was in it is told of that.
            Err(None) if self.map.contains(level.directory) && self.inode_of(level.directory).is_some() => Visit::Later,
            Err(None) => Visit::Nothing,
        };
        let own = walk.levels.len() == 1;
        walk.seen |= own && !matches!(visit, Visit::Nothing | Visit::Later);
        if own {
            let is_it = |from: &Former| match &visit {
                Visit::Moved(directory, _, past) => {
                    let same = match from.directory {
                        Some(known) => known == *directory,
                        None => past.path.as_ref() == Some(&from.origin.path),
                    };
                    same && !past.replaced
                }
                Visit::New(..) | Visit::Known(..) | Visit::Unwatched | Visit::Nothing => false,
                Visit::Later => true,
            };
            walk.from.take_if(|from| !is_it(from));
        }
        if let Visit::New(directory, open) | Visit::Moved(directory, open, _) | Visit::Known(directory, open) = &visit
            && self.trunk.is_some()
        {
            // One of the crown is looked at by a walk of its own.
            if own && self.is_crown(*directory) {
                let fresh = !matches!(visit, Visit::Known(..));
                if self.missed.remove(directory) || (matches!(visit, Visit::Moved(..)) && self.hides()) {
                    self.missed.extend(self.map.children(*directory).map(|(child, _)| child));
                }
                walk.found |= fresh;
                walk.crown = true;
                walk.pass();
                self.deal(*directory, open, walk.reason, fresh);
                return Step::Went;
            }
            // What others owned in it is not in the map.
            walk.thorough_here |= self.crowned.remove(directory);
        }
        let enter = match visit {
            Visit::New(directory, open) => {
                walk.found = true;
                Some((directory, open))
            }
            Visit::Moved(directory, open, _) => {
                walk.found = true;
                walk.thorough_here |= self.missed.remove(&directory) || self.hides();
                if walk.thorough_here {
                    walk.from = None;
                }
                Some((directory, open))
            }
            // Whoever bound it has listed it; but it may have moved with the crown directory around it.
            Visit::Known(directory, open) => {
                walk.thorough_here |= self.missed.remove(&directory);
                walk.thorough_here.then_some((directory, open))
            }
            Visit::Unwatched => {
                walk.found = true;
                None
            }
            Visit::Nothing => None,
            Visit::Later => return Step::Later,
        };
        walk.pass();
        if let Some((directory, open)) = enter {
            let names = self.list_into(directory, &open);
            if let Some(inode) = self.inode_of(directory)
                && !names.is_empty()
            {
                walk.enter(Level { directory, held: Some((inode, open)), names });
            }
        }
        Step::Went
    }

    /// Whether there may be directories in one that moved that no event of its new name leads to.
    fn hides(&self) -> bool {
        // Another walk may hold what lies beneath, and ends after this one's mark; what has no watch is known by its path,
        // which is another one now; and rules that name a place say something else of it now.
        let others = !(self.walks.is_empty() && self.suspended.is_empty());
        others || !self.unwatched.is_empty() || self.lossy || self.source.filter.depends_on_place()
    }

    /// All beneath the last name of the first level was visited.
    fn finish_name(&mut self, walk: &mut Walk<G::Directory>) {
        let Some(level) = walk.levels.first_mut() else { return };
        if let Reason::Retry(_, lack) = walk.reason {
            self.source.looked_again(lack);
        }
        // Without a path it left by rename: whatever attaches it again marks it, as does its new owner.
        if let Some(path) = self.path_of(level.directory, level.names.last().unwrap_or_default()) {
            // Of what was not there nobody knows whether all of it is watched.
            if let Some(former) = walk.former.filter(|_| walk.seen) {
                self.ask(former, path.clone(), Task::Yield);
            }
            match walk.reason {
                Reason::Start | Reason::Split => {}
                Reason::Appeared if !walk.found => {}
                Reason::Appeared | Reason::Arrived => {
                    let kind = if walk.crown { MarkKind::Listing } else { MarkKind::Subtree };
                    let mut mark = Mark::new(path, kind).content(Content::Resend);
                    let from = walk.from.take().filter(|_| !walk.crown && !walk.thorough_here && self.vouches());
                    mark.origin = from.map(|from| Box::new(from.origin));
                    self.emit(mark);
                }
                Reason::Retry(since, _) => {
                    let since = since.minus(self.source.slack);
                    self.lose(LossReason::Unwatched, vec![LostScope { path, recursive: true, since }]);
                }
            }
        }
        level.names.pop();
        (walk.entered, walk.found, walk.thorough_here, walk.waited) = (false, false, walk.thorough, 0);
        (walk.seen, walk.crown) = (false, false);
    }

    fn is_crown(&self, directory: DirectoryId) -> bool {
        let is_crown = |trunk: &Trunk| self.map.path(directory).is_some_and(|path| trunk.is_crown(&path));
        self.trunk.as_ref().is_some_and(is_crown)
    }

    /// Whether what is called `name` in `parent` is another shard's.
    fn is_others(&self, parent: DirectoryId, name: &[u8]) -> bool {
        if self.source.shards() == 1 {
            return false;
        }
        match &self.trunk {
            // The walk began before it was dealt to another shard, or left.
            Some(trunk) => {
                (parent == self.map.root() || self.crowned.contains(&parent))
                    && self.path_of(parent, name).is_some_and(|path| !trunk.holds(&path, self.id))
            }
            None => {
                !self.source.crown.read().is_empty()
                    && self.path_of(parent, name).is_some_and(|path| self.source.crown_inode(&path).is_some())
            }
        }
    }

    /// The path of a name in a directory, if that has one.
    fn path_of(&self, directory: DirectoryId, name: &[u8]) -> Option<RelPath> {
        self.map.path(directory).map(|path| path.join(name))
    }

    /// The directory whose names are visited. The error is `None` when it has no path, or its path leads to another one,
    /// because something above moved and its event is still to be read.
    ///
    /// The map is as old as the events that were read, the file system is of now. So the directory that is opened by its
    /// path is compared with the map's, and all that is opened from it while it is held lies in it.
    fn hold<'a>(
        &self,
        directory: DirectoryId,
        held: &'a mut Option<(u64, G::Directory)>,
    ) -> Result<&'a G::Directory, Option<io::Error>> {
        // While it is held its inode cannot be another's; but the map's directory may be another since.
        let inode = self.inode_of(directory).ok_or(None)?;
        if self.map.detached_above(directory).is_some() {
            return Err(None);
        }
        if held.as_ref().is_none_or(|(held, _)| *held != inode) {
            let path = self.map.path(directory).ok_or(None)?;
            let root = &self.source.root;
            let opened = root.open_place(&path).and_then(|place| Ok((root.status_of(&place)?.identity.inode, place)));
            *held = match opened {
                Ok((found, place)) if found == inode => Some((inode, place)),
                Ok(_) => None,
                Err(error) if is_gone(&error) => None,
                Err(error) => return Err(Some(error)),
            };
        }
        held.as_ref().map(|(_, place)| place).ok_or(None)
    }

    /// Watches the directory called `name` in `parent`, which is open as `place`, whatever the map says of it so far.
    fn visit(&mut self, parent: DirectoryId, place: &G::Directory, name: &[u8]) -> Visit<G::Directory> {
        if self.is_others(parent, name) {
            return Visit::Nothing;
        }
        let source = std::sync::Arc::clone(&self.source);
        if !source.filter.is_empty()
            && self.path_of(parent, name).is_none_or(|path| source.filter.excludes(&path, true))
        {
            return Visit::Nothing;
        }
        let looked = source
            .root
            .open_in(place, name)
            .and_then(|directory| source.root.status_of(&directory).map(|status| (directory, status.identity)));
        let (directory, identity) = match looked {
            Ok(looked) => looked,
            Err(error) if is_gone(&error) => {
                self.drop_child(parent, name);
                return Visit::Nothing;
            }
            Err(error) => return self.unwatched(parent, name, Lack::Unreadable, &error),
        };
        if source.one_file_system && identity.device != source.device {
            if let Some(path) = self.path_of(parent, name) {
                source.say_mount(&path);
            }
            self.drop_child(parent, name);
            return Visit::Nothing;
        }
        match self.add_watch(&directory) {
            Ok(wd) => match self.bind(parent, name, wd, identity.inode) {
                Bound::New(id) => Visit::New(id, directory),
                Bound::Moved(id, past) => Visit::Moved(id, directory, past),
                Bound::Known(id) => Visit::Known(id, directory),
                Bound::Nothing => Visit::Nothing,
            },
            Err(WatchError::Vanished) => Visit::Nothing,
            Err(
                error @ (WatchError::LimitReached | WatchError::Memory | WatchError::Handle(_) | WatchError::Other(_)),
            ) => self.unwatched(parent, name, Lack::of(&error), &error),
        }
    }

    /// Adds a watch within what memory allows. When the kernel has none left, its limit is raised if that is allowed.
    ///
    /// # Errors
    /// [`WatchError`].
    pub(super) fn add_watch(&mut self, directory: &G::Directory) -> Result<Wd, WatchError> {
        // A mark on a file system holds nothing.
        let allowance = self.source.allowance.as_ref().filter(|_| self.watches.backend() == Backend::Inotify);
        let Some(allowance) = allowance else { return self.watches.add_watch(directory) };
        let seen = allowance.times_raised();
        let mut added = self.watches.add_watch(directory);
        if matches!(added, Err(WatchError::LimitReached)) {
            let now = self.source.root.now();
            if allowance.raise(seen, now) {
                added = self.watches.add_watch(directory);
                if matches!(added, Err(WatchError::LimitReached)) {
                    allowance.is_no_use(now);
                }
            }
        }
        match added {
            // One that the map has is one that it holds already.
            Ok(wd) if self.map.of_wd(wd).is_none() && !allowance.has_room(self.untold()) => {
                self.watches.remove_watch(wd);
                Err(WatchError::Memory)
            }
            added => added,
        }
    }

    fn unwatched<D>(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        lack: Lack,
        error: &dyn std::error::Error,
    ) -> Visit<D> {
        if let Some(path) = self.path_of(parent, name) {
            self.leave_unwatched(path, lack, error);
        }
        Visit::Unwatched
    }

    /// Which inode the directory is to be: of one of the crown, which only the trunk watches, as the trunk knows it.
    fn inode_of(&self, directory: DirectoryId) -> Option<u64> {
        if directory == self.map.root() {
            return Some(self.source.identity.inode);
        }
        let crown = if self.source.crown.read().is_empty() { None } else { self.map.path(directory) };
        crown.and_then(|path| self.source.crown_inode(&path)).or_else(|| self.map.inode(directory))
    }

    /// Looks whether the directories in the one at `path`, whose names changed while events were lost, are those that the
    /// map knows.
    pub(super) fn recheck_one(&mut self, path: &RelPath) {
        let mut at = self.map.root();
        let mut place = RelPath::root();
        for name in path.components() {
            let child = self.map.child(at, name);
            place = place.join(name);
            let Some(child) = child.filter(|child| self.is_at(*child, &place)) else {
                // It came or was replaced unseen. What is new in the crown has its errand, and the crown has its own look.
                let above = place.parent().unwrap_or_else(RelPath::root);
                let dealt = above.is_root() || self.source.crown_inode(&above).is_some();
                let is_crown = self.source.crown_inode(&place).is_some();
                if !is_crown && (!dealt || child.is_some()) {
                    self.open_walk(Walk::new(at, name, Reason::Appeared).thorough());
                }
                return;
            };
            at = child;
        }
        let part = self.part_of(path);
        if part == Part::Crown {
            return;
        }
        if let Ok(open) = self.source.root.open_directory(path)
            && self.source.root.status_of(&open).is_ok_and(|status| Some(status.identity.inode) == self.inode_of(at))
        {
            let names = self.list_into(at, &open);
            if part == Part::Own {
                return self.open_walk(Walk::of_names(at, names, Reason::Appeared));
            }
            // What it does not know there is others'.
            let known: Vec<Box<[u8]>> =
                names.iter().filter(|name| self.map.child(at, name).is_some()).map(Into::into).collect();
            for name in known {
                self.start_walk(at, &name, Reason::Appeared);
            }
        }
    }

    /// Whether this directory is the one at `path`.
    fn is_at(&self, directory: DirectoryId, path: &RelPath) -> bool {
        let status = self.source.root.open_place(path).and_then(|place| self.source.root.status_of(&place));
        status.is_ok_and(|status| Some(status.identity.inode) == self.inode_of(directory))
    }

    /// Puts a watch under its name. A watch that the map knows under another name is a directory that moved here; a
    /// name that the map knows with another watch is a directory that was replaced (notes/kernel.md 3).
    fn bind(&mut self, parent: DirectoryId, name: &[u8], wd: Wd, inode: u64) -> Bound {
        let here = self.map.child(parent, name);
        match (self.map.of_wd(wd), here) {
            (Some(known), Some(here)) if known == here => Bound::Known(known),
            (Some(moved), here) => {
                let past = Past { path: self.map.path(moved), replaced: here.is_some() };
                // Its watch is to outlive the old holder of the name, also if it lay beneath that one.
                if here.is_some_and(|here| self.map.is_beneath(moved, here)) {
                    self.map.detach(moved);
                }
                self.drop_child(parent, name);
                if self.map.attach(moved, parent, name) { Bound::Moved(moved, past) } else { Bound::Nothing }
            }
            (None, Some(here)) if self.map.wd(here).is_none() => {
                self.map.bind(here, wd, inode);
                Bound::New(here)
            }
            (None, here) => {
                if here.is_some() {
                    self.drop_child(parent, name);
                }
                self.bind_new(parent, name, wd, inode)
            }
        }
    }

    fn bind_new(&mut self, parent: DirectoryId, name: &[u8], wd: Wd, inode: u64) -> Bound {
        match self.map.reach(parent, name) {
            Some(directory) if self.map.wd(directory).is_none() => {
                self.map.bind(directory, wd, inode);
                Bound::New(directory)
            }
            Some(_) | None => Bound::Nothing,
        }
    }

    /// Removes what the map holds under this name; its watches end.
    pub(super) fn drop_child(&mut self, parent: DirectoryId, name: &[u8]) {
        if let Some(child) = self.map.child(parent, name) {
            for wd in self.map.remove(child) {
                self.watches.remove_watch(wd);
            }
        }
    }

    /// Lists a watched directory: gives its subdirectories; children of the map that are not there any more leave it.
    fn list_into(&mut self, directory: DirectoryId, open: &G::Directory) -> Names {
        let mut names = Names::default();
        let path = if self.source.filter.is_empty() { None } else { self.map.path(directory) };
        let entries = match self.each_subdirectory(path.as_ref(), open, |name| names.push(name)) {
            Ok(entries) => entries,
            // It is gone: another event says so.
            Err(error) if is_gone(&error) => return Names::default(),
            Err(error) => {
                if let Some(path) = self.map.path(directory) {
                    self.source.say_unreadable(&path, &error);
                    // What lies beneath has no watch, so it is asked for again.
                    self.leave_unwatched(path, Lack::Unreadable, &error);
                }
                return Names::default();
            }
        };
        self.map.set_entries(directory, entries);
        let mut known = self.map.children(directory).peekable();
        if known.peek().is_some() {
            let present: HashSet<&[u8]> = names.iter().collect();
            let gone: Vec<DirectoryId> = known.filter(|(_, name)| !present.contains(name)).map(|(id, _)| id).collect();
            for child in gone {
                for wd in self.map.remove(child) {
                    self.watches.remove_watch(wd);
                }
            }
        }
        names
    }

    /// The names of the directories in the open directory at `path`, excluded ones left out, and how many entries of any
    /// kind there are.
    pub(super) fn subdirectories(&self, path: &RelPath, directory: &G::Directory) -> io::Result<(Vec<Box<[u8]>>, u32)> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let entries = self.each_subdirectory(Some(path), directory, |name| names.push(name.into()))?;
        Ok((names, entries))
    }

    /// Calls `each` for every directory in the open directory at `path` that is not excluded; returns how many entries of
    /// any kind there are. Without a path, which only rules ask for, nothing is excluded.
    fn each_subdirectory(
        &self,
        path: Option<&RelPath>,
        directory: &G::Directory,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<u32> {
        let (root, filter) = (&self.source.root, &self.source.filter);
        let is_ours = |name: &[u8]| path.is_none_or(|path| !filter.excludes(&path.join(name), true));
        let mut entries = 0_u32;
        root.list(directory, |name, entry_type, _inode| {
            entries = entries.saturating_add(1);
            let is_directory = match entry_type {
                Some(known) => known == EntryType::Directory,
                None => root.status_at(directory, name).is_ok_and(|status| status.entry_type == EntryType::Directory),
            };
            if is_directory && is_ours(name) {
                each(name);
            }
        })?;
        Ok(entries)
    }
}

/// Whether the directory is not there, or something else has its name now.
pub(super) fn is_gone(error: &io::Error) -> bool {
    // ESTALE: removed between two looks at it, on tmpfs and others (observed, 6.18).
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_last_one_first_whatever_their_length() {
        let mut names = Names::default();
        let all: Vec<Vec<u8>> = [0, 1, 254, 255, 7].iter().map(|length| vec![b'a'; *length]).collect();
        all.iter().for_each(|name| names.push(name));
        assert!(names.iter().eq(all.iter().rev().map(|name| &**name)));
        for name in all.iter().rev() {
            assert_eq!(names.last(), Some(&**name));
            names.pop();
        }
        names.pop();
        assert!(names.is_empty() && names.last().is_none() && names.iter().next().is_none());
    }
}
