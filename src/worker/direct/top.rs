//! The directory of a local target, opened as its configured path means it now.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use crate::sys::files::EntryType;
use crate::sys::{beneath, files, privileges};

/// Symlinks on the way to a target; as many as the kernel follows (path_resolution(7)).
const SYMLINKS_MAX: usize = 40;

/// Opens the directory of a local target. Not on a file system whose server may not answer: that would hold the lane's
/// thread, where an rsync can be ended.
pub(super) fn open_target(path: &Path) -> io::Result<OwnedFd> {
    let top = match beneath::open_top(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => beneath::open_top(&resolved(path)?)?,
        opened => opened?,
    };
    if !files::ctimes_tell(top.as_fd())? {
        return Err(io::Error::other("a file system in user space or of another machine"));
    }
    Ok(top)
}

/// Where an absolute path leads without a symlink. Each symlink on the way must be root's or our own: nobody else decides
/// where is written (rsync 3.5.0 has the same rule).
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let (_, user) = privileges::users();
    let mut left: VecDeque<OsString> = names(path);
    let mut at = PathBuf::from("/");
    let mut symlinks = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let found = files::details_at(rustix::fs::CWD, next.as_os_str().as_bytes())?;
        if found.status.entry_type != EntryType::Symlink {
            at = next;
            continue;
        }
        symlinks += 1;
        if symlinks > SYMLINKS_MAX || (found.user != 0 && found.user != user) {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let held = beneath::hold(rustix::fs::CWD, next.as_os_str().as_bytes())?;
        let leads_to = PathBuf::from(OsString::from_vec(beneath::read_symlink(held.as_fd())?));
        if leads_to.is_absolute() {
            at = PathBuf::from("/");
        }
        let mut before = names(&leads_to);
        before.append(&mut left);
        left = before;
    }
    Ok(at)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let named = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    #[test]
    fn symlinks_on_the_way_are_followed_if_nobody_else_made_them() {
        let tree = tempfile::tempdir().unwrap();
        let here = tree.path().canonicalize().unwrap();
        fs::create_dir_all(here.join("a/b/c")).unwrap();
        for (name, leads_to) in [("to_b", "a/b"), ("a/up", "../to_b"), ("loop", "loop"), ("dangling", "none")] {
            symlink(leads_to, here.join(name)).unwrap();
        }
        symlink(here.join("a"), here.join("absolute")).unwrap();
        let check = |path: &str, expected: Option<&str>| {
            let expected = expected.map(|path| here.join(path));
            let same = files::status_of_path(&here.join(path)).ok().map(|status| status.identity);
            assert_eq!(resolved(&here.join(path)).ok(), expected, "{path}");
            let opened = open_target(&here.join(path)).and_then(files::status_of).ok();
            assert_eq!(opened.map(|status| status.identity), same, "{path}");
        };
        check("a/b", Some("a/b"));
        check("to_b", Some("a/b"));
        check("to_b/c", Some("a/b/c"));
        check("a/up/c", Some("a/b/c"));
        check("absolute/up/../b", Some("a/b"));
        check("loop", None);
        check("dangling", None);
        check("to_b/none", None);
        if rustix::process::geteuid().is_root() {
            lchown(here.join("to_b"), Some(4_321), None).unwrap();
            assert!(resolved(&here.join("a/up/c")).is_err());
            assert!(open_target(&here.join("to_b")).is_err());
        }
    }
}
