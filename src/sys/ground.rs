//! What a root lies on: its files, the notifications of their changes, and the clocks that stamp them.
//!
//! The one seam below the stages. The kernel stands behind an open root directory; the model of `tests/simulation` is
//! the other implementation, so that a seed can drive the stages through races that no real machine repeats. Static
//! dispatch: the seam costs nothing.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Instant;

use super::clock::{self, WallTime};
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

/// The form of the bytes that a read gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// inotify(7).
    Inotify,
    /// fanotify(7) with directory handles and names.
    Fanotify,
}

/// A root held open, as the stages see it. The contracts are those of [`files`], [`clock`] and [`Inotify`].
pub trait Ground: Debug {
    /// An open directory.
    type Directory: Debug;
    /// An instance that watches directories.
    type Watches: Watches<Directory = Self::Directory>;

    /// Makes an instance, see [`Inotify::create`].
    ///
    /// # Errors
    /// `EMFILE`.
    fn watches(&self) -> io::Result<Self::Watches>;

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

    /// Looks at the directory that an open directory lies in now, whatever its path was.
    ///
    /// # Errors
    /// As [`files::status_at`].
    fn parent_of(&self, directory: &Self::Directory) -> io::Result<Status>;

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

    /// In which form [`Self::read`] gives events.
    fn dialect(&self) -> Dialect {
        Dialect::Inotify
    }

    /// The watch on the directory with this handle.
    fn of_handle(&self, _handle: Handle<'_>) -> Option<Wd> {
        None
    }

    /// Reads queued events, see [`Inotify::read`].
    ///
    /// # Errors
    /// As there.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>>;
}

impl Ground for OwnedFd {
    type Directory = OwnedFd;
    type Watches = Inotify;

    fn watches(&self) -> io::Result<Inotify> {
        Inotify::create()
    }

    fn open_directory(&self, path: &RelPath) -> io::Result<OwnedFd> {
        files::open_directory(self.as_fd(), path)
    }

    fn open_place(&self, path: &RelPath) -> io::Result<OwnedFd> {
        files::open_place(self.as_fd(), path)
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

    fn parent_of(&self, directory: &OwnedFd) -> io::Result<Status> {
        files::status_at(directory.as_fd(), b"..")
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

impl Watches for Inotify {
    type Directory = OwnedFd;

    fn add_watch(&mut self, directory: &OwnedFd) -> Result<Wd, WatchError> {
        Inotify::add_watch(self, directory.as_fd())
    }

    fn remove_watch(&mut self, wd: Wd) {
        Inotify::remove_watch(self, wd);
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.read(buffer)
    }
}
