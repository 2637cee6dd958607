//! Walks: directories whose watch is still to be added, in slices, so that the queue is drained in between.

use std::collections::HashSet;
use std::io;

use super::shard::Shard;
use super::shard::{LossReason, LostScope};
use crate::change::{Content, Mark, MarkKind};
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::sys::files::EntryType;
use crate::sys::ground::{Ground, Watches as _};
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
    Retry(WallTime),
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
}

/// What became of one directory.
enum Visit {
    /// Its watch is new: it was listed, or is to be entered again.
    New(DirectoryId),
    /// It had its watch under another name: it is listed again, and so is what lies beneath where it matters.
    Moved(DirectoryId),
    /// It had its watch under this name already.
    Known(DirectoryId),
    /// It is there but cannot be watched: it is compared now and then instead.
    Unwatched,
    /// It is not there, or not ours.
    Nothing,
    /// Its parent has no path at the moment: to be asked again.
    Later,
}

impl Walk {
    pub(super) fn new(parent: DirectoryId, name: &[u8], reason: Reason) -> Self {
        // What lies beneath may have been given up half-way.
        let thorough = matches!(reason, Reason::Retry(_));
        Self { parent, name: name.into(), reason, stack: vec![(parent, name.into())], found: false, thorough }
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
                Some(step) => {
                    walk.stack.push(step);
                    self.suspended.push(walk);
                }
            }
        }
        !self.walks.is_empty()
    }

    /// Visits one directory; false when it cannot be told yet where that is.
    fn step(&mut self, walk: &mut Walk, parent: DirectoryId, name: &[u8]) -> bool {
        let enter = match self.visit(parent, name) {
            Visit::New(directory) => {
                walk.found = true;
                Some(directory)
            }
            Visit::Moved(directory) => {
                walk.found = true;
                // Another walk may hold what lies beneath, and ends after this one's mark; and rules that name a place
                // say something else of it now.
                let others = !(self.walks.is_empty() && self.suspended.is_empty());
                walk.thorough |= others || self.source.filter.depends_on_place();
                Some(directory)
            }
            // Whoever bound it has listed it.
            Visit::Known(directory) => walk.thorough.then_some(directory),
            Visit::Unwatched => {
                walk.found = true;
                None
            }
            Visit::Nothing => None,
            Visit::Later => return false,
        };
        if let Some(directory) = enter {
            self.list_into(directory, &mut walk.stack);
        }
        true
    }

    fn finish_walk(&mut self, walk: &Walk) {
        self.tell_watched();
        self.source.unsettled_down();
        // Without a path it left by rename: whatever attaches it again marks it, as does its new owner.
        let Some(path) = self.map.path(walk.parent).map(|parent| parent.join(&walk.name)) else { return };
        match walk.reason {
            Reason::Start => {}
            Reason::Appeared if !walk.found => {}
            Reason::Appeared | Reason::Arrived => {
                self.emit(Mark::new(path, MarkKind::Subtree).content(Content::Resend));
            }
            Reason::Retry(since) => {
                let since = since.minus(self.source.slack);
                self.lose(LossReason::Unwatched, vec![LostScope { path, recursive: true, since }]);
            }
        }
    }

    /// Watches one directory, whatever the map says of it so far.
    fn visit(&mut self, parent: DirectoryId, name: &[u8]) -> Visit {
        let Some(path) = self.map.path(parent).map(|parent| parent.join(name)) else {
            return if self.map.contains(parent) { Visit::Later } else { Visit::Nothing };
        };
        if self.source.filter.excludes(&path, true) {
            return Visit::Nothing;
        }
        let directory = match self.source.root.open_directory(&path) {
            Ok(directory) => directory,
            Err(error) => {
                return self.cannot_open(parent, name, &path, &error);
            }
        };
        match self.source.root.status_of(&directory) {
            Ok(status) if self.source.one_file_system && status.identity.device != self.source.device => {
                self.source.say_mount(&path);
                self.drop_child(parent, name);
                return Visit::Nothing;
            }
            Ok(_) => {}
            Err(error) => {
                return self.cannot_open(parent, name, &path, &error);
            }
        }
        match self.inotify.add_watch(&directory) {
            Ok(wd) => self.bind(parent, name, wd),
            Err(WatchError::Vanished) => Visit::Nothing,
            Err(error @ (WatchError::LimitReached | WatchError::Other(_))) => {
                self.leave_unwatched(path, &error);
                Visit::Unwatched
            }
        }
    }

    /// Puts a watch under its name. A watch that the map knows under another name is a directory that moved here; a
    /// name that the map knows with another watch is a directory that was replaced (notes/kernel.md 3).
    fn bind(&mut self, parent: DirectoryId, name: &[u8], wd: Wd) -> Visit {
        let here = self.map.child(parent, name);
        match (self.map.of_wd(wd), here) {
            (Some(known), Some(here)) if known == here => Visit::Known(known),
            (Some(moved), here) => {
                // Its watch is to outlive the old holder of the name, also if it lay beneath that one.
                if here.is_some_and(|here| self.map.is_beneath(moved, here)) {
                    self.map.detach(moved);
                }
                self.drop_child(parent, name);
                if self.map.attach(moved, parent, name) { Visit::Moved(moved) } else { Visit::Nothing }
            }
            (None, Some(here)) if self.map.wd(here).is_none() => {
                self.map.bind(here, wd);
                Visit::New(here)
            }
            (None, _) => {
                self.drop_child(parent, name);
                self.bind_new(parent, name, wd)
            }
        }
    }

    fn bind_new(&mut self, parent: DirectoryId, name: &[u8], wd: Wd) -> Visit {
        match self.map.reach(parent, name) {
            Some(directory) if self.map.wd(directory).is_none() => {
                self.map.bind(directory, wd);
                Visit::New(directory)
            }
            Some(_) | None => Visit::Nothing,
        }
    }

    /// Removes what the map holds under this name; its watches end.
    pub(super) fn drop_child(&mut self, parent: DirectoryId, name: &[u8]) {
        if let Some(child) = self.map.child(parent, name) {
            for wd in self.map.remove(child) {
                self.inotify.remove_watch(wd);
            }
        }
    }

    /// Lists a watched directory: its subdirectories go on the stack, children of the map that are not there any
    /// more leave it.
    pub(super) fn list_into(&mut self, directory: DirectoryId, stack: &mut Vec<(DirectoryId, Box<[u8]>)>) {
        let Some(path) = self.map.path(directory) else { return };
        let (names, entries) = match self.subdirectories(&path) {
            Ok(listed) => listed,
            // It is gone, or something else has its name now: another event says so.
            Err(error) if is_gone(&error) => return,
            Err(error) => {
                self.source.say_unreadable(&path, &error);
                // What lies beneath has no watch, so it is asked for again.
                return self.leave_unwatched(path, &error);
            }
        };
        self.map.set_entries(directory, entries);
        let known = self.map.children(directory);
        if !known.is_empty() {
            let present: HashSet<&[u8]> = names.iter().map(|name| &**name).collect();
            for (child, name) in known {
                if !present.contains(&*name) {
                    for wd in self.map.remove(child) {
                        self.inotify.remove_watch(wd);
                    }
                }
            }
        }
        stack.extend(names.into_iter().map(|name| (directory, name)));
    }

    /// The names of the directories in `path`, excluded ones left out, and how many entries of any kind there are.
    pub(super) fn subdirectories(&self, path: &RelPath) -> io::Result<(Vec<Box<[u8]>>, u32)> {
        let root = &self.source.root;
        let directory = root.open_directory(path)?;
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut entries = 0_u32;
        root.list(&directory, |name, entry_type, _inode| {
            entries = entries.saturating_add(1);
            let is_directory = match entry_type {
                Some(known) => known == EntryType::Directory,
                None => root.status_at(&directory, name).is_ok_and(|status| status.entry_type == EntryType::Directory),
            };
            if is_directory && !self.source.filter.excludes(&path.join(name), true) {
                names.push(name.into());
            }
        })?;
        Ok((names, entries))
    }

    fn cannot_open(&mut self, parent: DirectoryId, name: &[u8], path: &RelPath, error: &io::Error) -> Visit {
        // Another event says so.
        if is_gone(error) {
            self.drop_child(parent, name);
            return Visit::Nothing;
        }
        self.leave_unwatched(path.clone(), error);
        Visit::Unwatched
    }
}

/// Whether the directory is not there, or something else has its name now.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}
