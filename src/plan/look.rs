//! One lstat per path, without ever passing a symlink.

use std::io;
use std::os::fd::OwnedFd;

use crate::path::RelPath;
use crate::sys::files::{EntryType, Status};
use crate::sys::ground::Ground;

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
pub struct Looker<'a, G: Ground = OwnedFd> {
    root: &'a G,
    place: Option<(RelPath, G::Directory)>,
}

impl<'a, G: Ground> Looker<'a, G> {
    /// Looks below `root`.
    #[must_use]
    pub fn new(root: &'a G) -> Self {
        Self { root, place: None }
    }

    /// What is at `path` now. Paths in order of their bytes cost the least.
    pub fn look(&mut self, path: &RelPath) -> Look {
        if path.as_bytes().len() > ENTRY_MAX {
            return Look::TooLong;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return match self.root.status() {
                Ok(status) => Look::Present(status),
                Err(error) => Look::Unreadable(error.to_string()),
            };
        };
        if self.place.as_ref().is_none_or(|(open, _)| *open != parent) {
            match self.root.open_place(&parent) {
                Ok(place) => self.place = Some((parent, place)),
                Err(error) => return self.without_parent(&parent, &error),
            }
        }
        let Some((_, place)) = &self.place else { return Look::Absent };
        match self.root.status_at(place, name) {
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
            let place = match self.root.open_place(&at) {
                Ok(place) => place,
                Err(error) => return Look::Unreadable(error.to_string()),
            };
            at = at.join(name);
            match self.root.status_at(&place, name) {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::files;

    #[test]
    fn a_look_never_passes_a_symlink_and_names_the_topmost_ancestor_in_the_way() {
        let tree = tempfile::tempdir().unwrap();
        let at = |name: &str| tree.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::write(at("d/e/file"), "abc").unwrap();
        symlink("d", at("link")).unwrap();
        symlink("nowhere", at("d/dangling")).unwrap();
        let root = files::open_root(tree.path()).unwrap();
        let mut looker = Looker::new(&root);
        let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
        let mut check = |text: &str, expected: Result<EntryType, Look>| {
            let look = match looker.look(&path(text)) {
                Look::Present(status) => Ok(status.entry_type),
                other => Err(other),
            };
            assert_eq!(look, expected, "{text}");
        };
        // Twice, so that each look meets the parent that another one left open.
        for _round in 0..2 {
            check("", Ok(EntryType::Directory));
            check("d", Ok(EntryType::Directory));
            check("d/e/file", Ok(EntryType::File));
            check("link", Ok(EntryType::Symlink));
            check("d/dangling", Ok(EntryType::Symlink));
            check("d/e/none", Err(Look::Absent));
            check("none", Err(Look::Absent));
            check("link/e", Err(Look::ParentIsNoDirectory(path("link"))));
            check("link/e/file", Err(Look::ParentIsNoDirectory(path("link"))));
            check("d/dangling/x", Err(Look::ParentIsNoDirectory(path("d/dangling"))));
            check("d/e/file/x/y", Err(Look::ParentIsNoDirectory(path("d/e/file"))));
            check("d/none/x", Err(Look::ParentMissing(path("d/none"))));
            check("d/none/x/y/z", Err(Look::ParentMissing(path("d/none"))));
            check("none/x/y", Err(Look::ParentMissing(path("none"))));
        }
    }

    #[test]
    fn a_path_that_rsync_would_cut_is_too_long() {
        let tree = tempfile::tempdir().unwrap();
        let root = files::open_root(tree.path()).unwrap();
        let mut looker = Looker::new(&root);
        let long = |bytes: usize| {
            let text: String = "abcdefg/".chars().cycle().take(bytes).collect();
            RelPath::parse(text.as_bytes()).unwrap()
        };
        assert_eq!(looker.look(&long(ENTRY_MAX + 1)), Look::TooLong);
        let topmost = RelPath::parse(b"abcdefg").unwrap();
        assert_eq!(looker.look(&long(ENTRY_MAX)), Look::ParentMissing(topmost));
    }
}
