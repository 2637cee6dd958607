//! One lstat per path, without ever passing a symlink.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::path::RelPath;
use crate::sys::files::{self, EntryType, Status};

/// What is at a path now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Something.
    Present(Status),
    /// Nothing, in a directory that is there.
    Absent,
    /// This ancestor is the topmost that is missing.
    ParentMissing(RelPath),
    /// This ancestor is there but is no directory any more: a file, or a symlink that rsync would follow.
    ParentIsNoDirectory(RelPath),
    /// Longer than an entry of rsync's list can be.
    TooLong,
    /// The kernel's words.
    Unreadable(String),
}

/// Entries above this are cut by rsync without a word (notes/rsync.md 1.2); one byte is the leading slash, one may be
/// a trailing one.
const ENTRY_MAX: usize = 4093;

/// Looks at many paths, keeping the last parent open.
#[derive(Debug)]
pub struct Looker<'a> {
    root: BorrowedFd<'a>,
    place: Option<(RelPath, OwnedFd)>,
}

impl<'a> Looker<'a> {
    /// Looks below `root`.
    #[must_use]
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, place: None }
    }

    /// What is at `path` now. Paths in order of their bytes cost the least.
    pub fn look(&mut self, path: &RelPath) -> Look {
        if path.as_bytes().len() > ENTRY_MAX {
            return Look::TooLong;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return match files::status_of(self.root) {
                Ok(status) => Look::Present(status),
                Err(error) => Look::Unreadable(error.to_string()),
            };
        };
        if self.place.as_ref().is_none_or(|(open, _)| *open != parent) {
            match files::open_place(self.root, &parent) {
                Ok(place) => self.place = Some((parent, place)),
                Err(error) => return self.without_parent(&parent, &error),
            }
        }
        let Some((_, place)) = &self.place else { return Look::Absent };
        match files::status_at(place.as_fd(), name) {
            Ok(status) => Look::Present(status),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Look::Absent,
            Err(error) => Look::Unreadable(error.to_string()),
        }
    }

    /// Finds the topmost ancestor that is not a directory.
    fn without_parent(&self, parent: &RelPath, error: &io::Error) -> Look {
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) {
            return Look::Unreadable(error.to_string());
        }
        let mut at = RelPath::root();
        for name in parent.components() {
            let place = match files::open_place(self.root, &at) {
                Ok(place) => place,
                Err(error) => return Look::Unreadable(error.to_string()),
            };
            at = at.join(name);
            match files::status_at(place.as_fd(), name) {
                Ok(status) if status.entry_type == EntryType::Directory => {}
                Ok(_) => return Look::ParentIsNoDirectory(at),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Look::ParentMissing(at),
                Err(error) => return Look::Unreadable(error.to_string()),
            }
        }
        // It is back already: its own event will say so; until then nothing is known.
        Look::ParentMissing(parent.clone())
    }
}
