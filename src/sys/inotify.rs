//! inotify(7): an instance, its watches, its bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::inotify;

/// A watch descriptor. Ascending within an instance, not reused before 2^31 watches were made (notes/kernel.md 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wd(pub i32);

/// One inotify instance; non-blocking, closed on exec.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

/// Why a directory could not be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// `ENOSPC`: the user's `max_user_watches` is used up.
    #[error("no watch left: fs.inotify.max_user_watches is used up")]
    LimitReached,
    /// `ENOMEM`, as under the limit of a control group; or watches hold as much memory as they may.
    #[error("no memory for a watch")]
    Memory,
    /// `ENOENT` or `ENOTDIR`: the directory went away meanwhile; another event says where to.
    #[error("the directory is gone")]
    Vanished,
    /// The directory has no file handle.
    #[error("the directory has no file handle")]
    Handle(#[source] io::Error),
    /// Anything else, above all `EACCES`.
    #[error("inotify_add_watch failed")]
    Other(#[source] io::Error),
}

/// Every change, no reads; never a symlink; nothing for names that are already unlinked (notes/kernel.md 2).
const MASK: inotify::WatchFlags = inotify::WatchFlags::CREATE
    .union(inotify::WatchFlags::DELETE)
    .union(inotify::WatchFlags::MOVED_FROM)
    .union(inotify::WatchFlags::MOVED_TO)
    .union(inotify::WatchFlags::MODIFY)
    .union(inotify::WatchFlags::CLOSE_WRITE)
    .union(inotify::WatchFlags::ATTRIB)
    .union(inotify::WatchFlags::DELETE_SELF)
    .union(inotify::WatchFlags::MOVE_SELF)
    .union(inotify::WatchFlags::ONLYDIR)
    .union(inotify::WatchFlags::DONT_FOLLOW)
    .union(inotify::WatchFlags::EXCL_UNLINK);

/// Names that appear, nothing else.
const NAMES: inotify::WatchFlags = inotify::WatchFlags::CREATE
    .union(inotify::WatchFlags::MOVED_TO)
    .union(inotify::WatchFlags::ONLYDIR)
    .union(inotify::WatchFlags::DONT_FOLLOW)
    .union(inotify::WatchFlags::EXCL_UNLINK);

/// As `NAMES`, and names that go.
const NAMES_BOTH_WAYS: inotify::WatchFlags =
    NAMES.union(inotify::WatchFlags::DELETE).union(inotify::WatchFlags::MOVED_FROM);

impl Inotify {
    /// Makes an instance. The queue's size, `max_queued_events`, is fixed here for its whole life.
    ///
    /// # Errors
    /// `EMFILE` when the user has `max_user_instances` already, or the process is out of descriptors.
    pub fn create() -> io::Result<Self> {
        Ok(Self(inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?))
    }

    /// Watches the directory open as `directory`, whatever its path is by now: the add goes through
    /// `/proc/self/fd/N/.`, so that a rename or a symlink in between cannot redirect it (notes/kernel.md 1.3).
    /// The same directory again gives the same descriptor.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn add_watch(&self, directory: BorrowedFd<'_>) -> Result<Wd, WatchError> {
        self.add(directory, MASK)
    }

    /// As [`Self::add_watch`], but only names that appear (created, moved in) are reported: `bench` looks on, and its
    /// own reading must not cost what it measures.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn add_name_watch(&self, directory: BorrowedFd<'_>) -> Result<Wd, WatchError> {
        self.add(directory, NAMES)
    }

    /// As [`Self::add_name_watch`], but names that go (deleted, moved away) are reported too.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn add_name_watch_both_ways(&self, directory: BorrowedFd<'_>) -> Result<Wd, WatchError> {
        self.add(directory, NAMES_BOTH_WAYS)
    }

    fn add(&self, directory: BorrowedFd<'_>, mask: inotify::WatchFlags) -> Result<Wd, WatchError> {
        let path = format!("/proc/self/fd/{}/.", directory.as_raw_fd());
        match inotify::add_watch(&self.0, path, mask) {
            Ok(wd) => Ok(Wd(wd)),
            Err(rustix::io::Errno::NOSPC) => Err(WatchError::LimitReached),
            Err(rustix::io::Errno::NOMEM) => Err(WatchError::Memory),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Err(WatchError::Vanished),
            Err(errno) => Err(WatchError::Other(errno.into())),
        }
    }

    /// Ends a watch. Events that are queued for it still arrive, then `IN_IGNORED`. A descriptor that is gone
    /// already is no error.
    pub fn remove_watch(&self, wd: Wd) {
        let _gone_already = inotify::remove_watch(&self.0, wd.0);
    }

    /// Reads queued events into `buffer`; `None` when the queue is empty (`EAGAIN`).
    ///
    /// # Errors
    /// Those of read(2) but `EAGAIN` and `EINTR`.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        read(&self.0, buffer)
    }

    /// The descriptor, for `mio::unix::SourceFd`.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// As read(2); `None` when nothing is queued (`EAGAIN`).
pub(super) fn read(descriptor: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        return match rustix::io::read(&descriptor, &mut *buffer) {
            Ok(count) => Ok(Some(count)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}
