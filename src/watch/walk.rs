//! Walks: directories whose watch is still to be added, in slices, so that the queue is drained in between.

use std::collections::HashSet;
use std::io;

use super::lack::Lack;
use super::shard::{LossReason, LostScope, Shard};
use crate::change::{Content, Mark, MarkKind};
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::sys::files::EntryType;
use crate::sys::ground::{Backend, Ground, Watches as _};
use crate::sys::inotify::{WatchError, Wd};
use crate::tree::DirectoryId;

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
}

/// A directory to be walked with all beneath it.
#[derive(Debug)]
pub(super) struct Walk {
    parent: DirectoryId,
    name: Box<[u8]>,
    reason: Reason,
    /// Directories still to be visited, the next one last.
    stack: Vec<(DirectoryId, Box<[u8]>)>,
    /// Something new was found, so the end of the walk is worth a mark.
    found: bool,
    /// What is watched under its name already is entered too.
    thorough: bool,
    /// How many times it had to wait for the events that tell where it is.
    waited: u8,
}

/// A walk waits at most so many times for the events that tell where it is: one second. After that what it looks for is
/// treated as what cannot be watched.
const WAITS_MAX: u8 = 100;

/// What became of one directory.
enum Visit<D> {
    /// Its watch is new: it is to be listed.
    New(DirectoryId, D),
    /// It had its watch under another name: it is listed again, and so is what lies beneath where it matters.
    Moved(DirectoryId, D),
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

/// What a watch makes of a name.
#[derive(Clone, Copy)]
enum Bound {
    New(DirectoryId),
    Moved(DirectoryId),
    Known(DirectoryId),
    Nothing,
}

impl Walk {
    pub(super) fn new(parent: DirectoryId, name: &[u8], reason: Reason) -> Self {
        // What lies beneath may have been given up half-way.
        let thorough = matches!(reason, Reason::Retry(..));
        let stack = vec![(parent, name.into())];
        Self { parent, name: name.into(), reason, stack, found: false, thorough, waited: 0 }
    }

    /// The same, but whatever the map knows beneath is looked at too.
    pub(super) fn thorough(mut self) -> Self {
        self.thorough = true;
        self
    }
}

impl<G: Ground> Shard<G> {
    /// Visits up to `budget` directories of the open walks. Returns whether more are waiting.
    pub(super) fn walk_slice(&mut self, budget: usize) -> bool {
        for _directory in 0..budget {
            let Some(mut walk) = self.walks.pop() else { return false };
            match walk.stack.pop() {
                None => self.finish_walk(&walk),
                Some((parent, name)) if self.step(&mut walk, parent, &name) => self.walks.push(walk),
                // A directory above left by rename; where it went is known within `DEPARTED_WAIT`.
                Some(step) if walk.waited < WAITS_MAX => {
                    walk.waited += 1;
                    walk.stack.push(step);
                    self.suspended.push(walk);
                }
                Some((parent, name)) => {
                    // Something else hides it, such as a mount.
                    if let Some(path) = self.map.path(parent).map(|parent| parent.join(&name)) {
                        self.leave_unwatched(path, Lack::Unreadable, &io::Error::from_raw_os_error(libc::ESTALE));
                    }
                    self.walks.push(walk);
                }
            }
        }
        !self.walks.is_empty()
    }

    /// Visits one directory; false when it cannot be told yet where that is.
    fn step(&mut self, walk: &mut Walk, parent: DirectoryId, name: &[u8]) -> bool {
        let enter = match self.visit(parent, name) {
            Visit::New(directory, open) => {
                walk.found = true;
                Some((directory, open))
            }
            Visit::Moved(directory, open) => {
                walk.found = true;
                // Another walk may hold what lies beneath, and ends after this one's mark; what has no watch is known by its
                // path, which is another one now; and rules that name a place
                // say something else of it now.
                let others = !(self.walks.is_empty() && self.suspended.is_empty());
                let unwatched = !self.unwatched.is_empty();
                let missed = self.missed.remove(&directory);
                walk.thorough |= others || unwatched || missed || self.source.filter.depends_on_place();
                Some((directory, open))
            }
            // Whoever bound it has listed it.
            Visit::Known(directory, open) => walk.thorough.then_some((directory, open)),
            Visit::Unwatched => {
                walk.found = true;
                None
            }
            Visit::Nothing => None,
            Visit::Later => return false,
        };
        if let Some((directory, open)) = enter {
            self.list_into(directory, &open, &mut walk.stack);
        }
        true
    }

    fn finish_walk(&mut self, walk: &Walk) {
        self.tell_watched();
        self.finished += 1;
        if let Reason::Retry(_, lack) = walk.reason {
            self.source.looked_again(lack);
        }
        // Without a path it left by rename: whatever attaches it again marks it, as does its new owner.
        let Some(path) = self.map.path(walk.parent).map(|parent| parent.join(&walk.name)) else { return };
        match walk.reason {
            Reason::Start => {}
            Reason::Appeared if !walk.found => {}
            Reason::Appeared | Reason::Arrived => {
                self.emit(Mark::new(path, MarkKind::Subtree).content(Content::Resend));
            }
            Reason::Retry(since, _) => {
                let since = since.minus(self.source.slack);
                self.lose(LossReason::Unwatched, vec![LostScope { path, recursive: true, since }]);
            }
        }
    }

    /// Watches one directory, whatever the map says of it so far.
    ///
    /// The map is as old as the events that were read, the file system is of now: when something above was renamed since,
    /// the path leads to nothing or to another directory. So the parent is compared too.
    fn visit(&mut self, parent: DirectoryId, name: &[u8]) -> Visit<G::Directory> {
        let Some(path) = self.map.path(parent).map(|parent| parent.join(name)) else {
            return if self.map.contains(parent) { Visit::Later } else { Visit::Nothing };
        };
        if self.source.filter.excludes(&path, true) {
            return Visit::Nothing;
        }
        let source = std::sync::Arc::clone(&self.source);
        let looked = source.root.open_directory(&path).and_then(|directory| {
            let status = source.root.status_of(&directory)?;
            let above = source.root.parent_of(&directory)?.identity.inode;
            Ok((directory, status.identity, above))
        });
        let (directory, identity, above) = match looked {
            Ok(looked) => looked,
            Err(error) if is_gone(&error) => return self.not_there(parent, name, &path),
            Err(error) => {
                self.leave_unwatched(path, Lack::Unreadable, &error);
                return Visit::Unwatched;
            }
        };
        if Some(above) != self.inode_of(parent) {
            return Visit::Later;
        }
        if source.one_file_system && identity.device != source.device {
            source.say_mount(&path);
            self.drop_child(parent, name);
            return Visit::Nothing;
        }
        match self.add_watch(&directory) {
            Ok(wd) => match self.bind(parent, name, wd, identity.inode) {
                Bound::New(id) => Visit::New(id, directory),
                Bound::Moved(id) => Visit::Moved(id, directory),
                Bound::Known(id) => Visit::Known(id, directory),
                Bound::Nothing => Visit::Nothing,
            },
            Err(WatchError::Vanished) => Visit::Nothing,
            Err(
                error @ (WatchError::LimitReached | WatchError::Memory | WatchError::Handle(_) | WatchError::Other(_)),
            ) => {
                self.leave_unwatched(path, Lack::of(&error), &error);
                Visit::Unwatched
            }
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

    /// There is no directory at `path`. That says something of `name` only if its parent is where the map has it.
    fn not_there(&mut self, parent: DirectoryId, name: &[u8], path: &RelPath) -> Visit<G::Directory> {
        let root = &self.source.root;
        let parent_path = path.parent().unwrap_or_else(RelPath::root);
        let looked = root.open_place(&parent_path).and_then(|place| {
            let inode = root.status_of(&place)?.identity.inode;
            Ok((inode, root.status_at(&place, name).map(|status| status.entry_type)))
        });
        match looked {
            Err(error) if is_gone(&error) => Visit::Later,
            Err(error) => {
                self.leave_unwatched(path.clone(), Lack::Unreadable, &error);
                Visit::Unwatched
            }
            Ok((inode, _)) if Some(inode) != self.inode_of(parent) => Visit::Later,
            // It is back.
            Ok((_, Ok(EntryType::Directory))) => Visit::Later,
            Ok(_) => {
                self.drop_child(parent, name);
                Visit::Nothing
            }
        }
    }

    /// Which inode the map has for a directory. Only the trunk watches the root.
    fn inode_of(&self, directory: DirectoryId) -> Option<u64> {
        if directory == self.map.root() { Some(self.source.identity.inode) } else { self.map.inode(directory) }
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
                // It came or was replaced unseen. What is at the top has its errand.
                if at != self.map.root() || child.is_some() {
                    self.source.unsettled_up();
                    self.walks.push(Walk::new(at, name, Reason::Appeared).thorough());
                }
                return;
            };
            at = child;
        }
        let mut children = Vec::new();
        if let Ok(open) = self.source.root.open_directory(path)
            && self.source.root.status_of(&open).is_ok_and(|status| Some(status.identity.inode) == self.inode_of(at))
        {
            self.list_into(at, &open, &mut children);
        }
        for (parent, name) in children {
            self.start_walk(parent, &name, Reason::Appeared);
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
                // Its watch is to outlive the old holder of the name, also if it lay beneath that one.
                if here.is_some_and(|here| self.map.is_beneath(moved, here)) {
                    self.map.detach(moved);
                }
                self.drop_child(parent, name);
                if self.map.attach(moved, parent, name) { Bound::Moved(moved) } else { Bound::Nothing }
            }
            (None, Some(here)) if self.map.wd(here).is_none() => {
                self.map.bind(here, wd, inode);
                Bound::New(here)
            }
            (None, _) => {
                self.drop_child(parent, name);
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

    /// Lists a watched directory: its subdirectories go on the stack, children of the map that are not there any
    /// more leave it.
    fn list_into(&mut self, directory: DirectoryId, open: &G::Directory, stack: &mut Vec<(DirectoryId, Box<[u8]>)>) {
        let Some(path) = self.map.path(directory) else { return };
        let (names, entries) = match self.subdirectories(&path, open) {
            Ok(listed) => listed,
            // It is gone: another event says so.
            Err(error) if is_gone(&error) => return,
            Err(error) => {
                self.source.say_unreadable(&path, &error);
                // What lies beneath has no watch, so it is asked for again.
                return self.leave_unwatched(path, Lack::Unreadable, &error);
            }
        };
        self.map.set_entries(directory, entries);
        let mut known = self.map.children(directory).peekable();
        if known.peek().is_some() {
            let present: HashSet<&[u8]> = names.iter().map(|name| &**name).collect();
            let gone: Vec<DirectoryId> = known.filter(|(_, name)| !present.contains(name)).map(|(id, _)| id).collect();
            for child in gone {
                for wd in self.map.remove(child) {
                    self.watches.remove_watch(wd);
                }
            }
        }
        stack.extend(names.into_iter().map(|name| (directory, name)));
    }

    /// The names of the directories in the open directory at `path`, excluded ones left out, and how many entries of any
    /// kind there are.
    pub(super) fn subdirectories(&self, path: &RelPath, directory: &G::Directory) -> io::Result<(Vec<Box<[u8]>>, u32)> {
        let root = &self.source.root;
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut entries = 0_u32;
        root.list(directory, |name, entry_type, _inode| {
            entries = entries.saturating_add(1);
            let is_directory = match entry_type {
                Some(known) => known == EntryType::Directory,
                None => root.status_at(directory, name).is_ok_and(|status| status.entry_type == EntryType::Directory),
            };
            if is_directory && !self.source.filter.excludes(&path.join(name), true) {
                names.push(name.into());
            }
        })?;
        Ok((names, entries))
    }
}

/// Whether the directory is not there, or something else has its name now.
fn is_gone(error: &io::Error) -> bool {
    // ESTALE: removed between two looks at it, on tmpfs and others (observed, 6.18).
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE))
}
