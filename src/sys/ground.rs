//! What a root lies on: its files, the notifications of their changes, and the clocks that stamp them.
//!
//! The one seam below the stages. The kernel stands behind an open root directory; the model of `tests/simulation` is
//! the other implementation, so that a seed can drive the stages through races that no real machine repeats. Static
//! dispatch: the seam costs nothing.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::time::Instant;

use super::clock::{self, WallTime};
use super::fanotify::{Fanotify, Whereabouts};
use super::files::{self, EntryType, Status};
use super::handle::Handle;
use super::inotify::{Inotify, WatchError, Wd};
use super::mounts;
use crate::path::RelPath;

/// What became of a root whose path does not lead to it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stead {
    /// Another directory has its name, or none.
    Replaced,
    /// Its file system was unmounted.
    Unmounted,
    /// Another file system is mounted over it.
    Covered,
}

/// By what the kernel tells of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Backend {
    /// inotify(7): a watch per directory.
    #[default]
    Inotify,
    /// fanotify(7): one mark on the file system, directory handles and names.
    Fanotify,
}

impl Backend {
    /// Its name, as in the configuration and below `/proc/sys/fs`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inotify => "inotify",
            Self::Fanotify => "fanotify",
        }
    }
}

/// A root held open, as the stages see it. The contracts are those of [`files`], [`clock`] and [`Inotify`].
pub trait Ground: Debug {
    /// An open directory.
    type Directory: Debug;
    /// An instance that watches directories.
    type Watches: Watches<Directory = Self::Directory>;

    /// Makes an instance, see [`Inotify::create`] and [`Fanotify::create`], which takes `nameless`.
    ///
    /// # Errors
    /// `EMFILE`; for a mark those of [`Fanotify::create`].
    fn watches(&self, backend: Backend, nameless: bool) -> io::Result<Self::Watches>;

    /// Opens a directory below the root to be listed or watched, see [`files::open_directory`].
    ///
    /// # Errors
    /// As there.
    fn open_directory(&self, path: &RelPath) -> io::Result<Self::Directory>;

    /// Opens a directory below the root as a place to look names up from, see [`files::open_place`].
    ///
    /// # Errors
    /// As there.
    fn open_place(&self, path: &RelPath) -> io::Result<Self::Directory>;

    /// Opens a directory by its name in an open directory, see [`files::open_in`].
    ///
    /// # Errors
    /// As there.
    fn open_in(&self, place: &Self::Directory, name: &[u8]) -> io::Result<Self::Directory>;

    /// Looks at the root itself.
    ///
    /// # Errors
    /// As [`files::status_of`].
    fn status(&self) -> io::Result<Status>;

    /// Looks at a path below the root without regard to symlinks on the way: a hint only.
    ///
    /// # Errors
    /// As [`files::status_at`].
    fn glimpse(&self, path: &[u8]) -> io::Result<Status>;

    /// Looks at what the operator's path means now, see [`files::status_of_path`].
    ///
    /// # Errors
    /// As there.
    fn status_of_path(&self, path: &Path) -> io::Result<Status>;

    /// Looks at an open directory itself.
    ///
    /// # Errors
    /// As [`files::status_of`].
    fn status_of(&self, directory: &Self::Directory) -> io::Result<Status>;

    /// Looks at a name in an open directory, see [`files::status_at`].
    ///
    /// # Errors
    /// As there.
    fn status_at(&self, place: &Self::Directory, name: &[u8]) -> io::Result<Status>;

    /// Lists an open directory, see [`files::list`].
    ///
    /// # Errors
    /// As there.
    fn list(&self, directory: &Self::Directory, each: impl FnMut(&[u8], Option<EntryType>, u64)) -> io::Result<()>;

    /// Whether an open directory has no entries.
    ///
    /// # Errors
    /// As [`Self::list`].
    fn is_empty(&self, directory: &Self::Directory) -> io::Result<bool> {
        let mut empty = true;
        self.list(directory, |_, _, _| empty = false)?;
        Ok(empty)
    }

    /// The mount points beneath the root, as far as that can be told.
    fn mounts_beneath(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// What became of the root, when `path` does not lead to it any more.
    fn stead(&self, _path: &Path) -> Stead {
        Stead::Replaced
    }

    /// The monotonic clock, see [`clock::now`].
    fn now(&self) -> Instant;

    /// The clock that stamps changes, see [`clock::coarse_now`].
    fn coarse_now(&self) -> WallTime;
}

/// An instance that watches directories. The contracts are those of [`Inotify`].
pub trait Watches: Debug {
    /// An open directory.
    type Directory;

    /// Watches a directory, see [`Inotify::add_watch`].
    ///
    /// # Errors
    /// As there.
    fn add_watch(&mut self, directory: &Self::Directory) -> Result<Wd, WatchError>;

    /// Ends a watch, see [`Inotify::remove_watch`].
    fn remove_watch(&mut self, wd: Wd);

    /// What it is, and so in which form [`Self::read`] gives events.
    fn backend(&self) -> Backend {
        Backend::Inotify
    }

    /// The watch on the directory with this handle.
    fn of_handle(&self, _handle: Handle<'_>) -> Option<Wd> {
        None
    }

    /// Finds a directory without a watch, see [`Fanotify::whereabouts`].
    ///
    /// # Errors
    /// As there.
    fn whereabouts(&mut self, _handle: Handle<'_>) -> io::Result<Whereabouts> {
        Ok(Whereabouts::Elsewhere)
    }

    /// Looks at a file by its handle, see [`Fanotify::status_of_handle`].
    ///
    /// # Errors
    /// As there.
    fn status_of_handle(&self, _handle: Handle<'_>) -> io::Result<Option<Status>> {
        Ok(None)
    }

    /// A directory without a watch is of no interest until it gets one, see [`Fanotify::reject`].
    fn reject(&mut self, _handle: Handle<'_>) {}

    /// A directory elsewhere is of no interest at all, see [`Fanotify::ignore`].
    ///
    /// # Errors
    /// As there.
    fn ignore(&mut self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Reads queued events, see [`Inotify::read`].
    ///
    /// # Errors
    /// As there.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>>;
}

impl Ground for OwnedFd {
    type Directory = OwnedFd;
    type Watches = Watcher;

    fn watches(&self, backend: Backend, nameless: bool) -> io::Result<Watcher> {
        match backend {
            Backend::Inotify => Ok(Watcher::Inotify(Inotify::create()?)),
            Backend::Fanotify => {
                Ok(Watcher::Fanotify(Box::new(Fanotify::create(self, nameless).map_err(io::Error::other)?)))
            }
        }
    }

    fn open_directory(&self, path: &RelPath) -> io::Result<OwnedFd> {
        files::open_directory(self.as_fd(), path)
    }

    fn open_place(&self, path: &RelPath) -> io::Result<OwnedFd> {
        files::open_place(self.as_fd(), path)
    }

    fn open_in(&self, place: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
        files::open_in(place.as_fd(), name)
    }

    fn status(&self) -> io::Result<Status> {
        files::status_of(self)
    }

    fn glimpse(&self, path: &[u8]) -> io::Result<Status> {
        files::status_at(self.as_fd(), path)
    }

    fn status_of_path(&self, path: &Path) -> io::Result<Status> {
        files::status_of_path(path)
    }

    fn status_of(&self, directory: &OwnedFd) -> io::Result<Status> {
        files::status_of(directory)
    }

    fn status_at(&self, place: &OwnedFd, name: &[u8]) -> io::Result<Status> {
        files::status_at(place.as_fd(), name)
    }

    fn list(&self, directory: &OwnedFd, each: impl FnMut(&[u8], Option<EntryType>, u64)) -> io::Result<()> {
        files::list(directory, each)
    }

    fn is_empty(&self, directory: &OwnedFd) -> io::Result<bool> {
        files::is_empty(directory)
    }

    fn mounts_beneath(&self) -> Vec<Vec<u8>> {
        mounts::mounts_beneath(self).unwrap_or_default()
    }

    fn stead(&self, path: &Path) -> Stead {
        let Ok(ours) = mounts::mount_of(self) else { return Stead::Replaced };
        if mounts::is_mounted(ours).is_ok_and(|mounted| !mounted) {
            return Stead::Unmounted;
        }
        match mounts::mount_of_path(path) {
            Ok(theirs) if theirs != ours => Stead::Covered,
            Ok(_) | Err(_) => Stead::Replaced,
        }
    }

    fn now(&self) -> Instant {
        clock::now()
    }

    fn coarse_now(&self) -> WallTime {
        clock::coarse_now()
    }
}

/// An instance of either kind.
#[derive(Debug)]
pub enum Watcher {
    /// inotify(7).
    Inotify(Inotify),
    /// fanotify(7).
    Fanotify(Box<Fanotify>),
}

impl Watcher {
    /// The descriptor, for `mio::unix::SourceFd`.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        match self {
            Self::Inotify(inotify) => inotify.raw(),
            Self::Fanotify(fanotify) => fanotify.raw(),
        }
    }
}

impl Watches for Watcher {
    type Directory = OwnedFd;

    fn add_watch(&mut self, directory: &OwnedFd) -> Result<Wd, WatchError> {
        match self {
            Self::Inotify(inotify) => inotify.add_watch(directory.as_fd()),
            Self::Fanotify(fanotify) => fanotify.know(directory),
        }
    }

    fn remove_watch(&mut self, wd: Wd) {
        match self {
            Self::Inotify(inotify) => inotify.remove_watch(wd),
            Self::Fanotify(fanotify) => fanotify.forget(wd),
        }
    }

    fn backend(&self) -> Backend {
        match self {
            Self::Inotify(_) => Backend::Inotify,
            Self::Fanotify(_) => Backend::Fanotify,
        }
    }

    fn of_handle(&self, handle: Handle<'_>) -> Option<Wd> {
        match self {
            Self::Inotify(_) => None,
            Self::Fanotify(fanotify) => fanotify.of_handle(handle),
        }
    }

    fn whereabouts(&mut self, handle: Handle<'_>) -> io::Result<Whereabouts> {
        match self {
            Self::Inotify(_) => Ok(Whereabouts::Elsewhere),
            Self::Fanotify(fanotify) => fanotify.whereabouts(handle),
        }
    }

    fn status_of_handle(&self, handle: Handle<'_>) -> io::Result<Option<Status>> {
        match self {
            Self::Inotify(_) => Ok(None),
            Self::Fanotify(fanotify) => fanotify.status_of_handle(handle),
        }
    }

    fn reject(&mut self, handle: Handle<'_>) {
        if let Self::Fanotify(fanotify) = self {
            fanotify.reject(handle);
        }
    }

    fn ignore(&mut self, directory: &Path) -> io::Result<()> {
        match self {
            Self::Inotify(_) => Ok(()),
            Self::Fanotify(fanotify) => fanotify.ignore(directory),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Inotify(inotify) => inotify.read(buffer),
            Self::Fanotify(fanotify) => fanotify.read(buffer),
        }
    }
}
