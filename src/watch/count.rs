//! Counting the directories of a tree, by several threads and for a bounded time: what a root is watched by depends on it, and
//! `doctor` and `tune` compute from it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::filter::Filter;
use crate::path::RelPath;
use crate::sys::clock;
use crate::sys::files::{self, EntryType};

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Directories, the top one among them.
    pub directories: u64,
    /// Those that could not be listed.
    pub unreadable: u64,
    /// There are no more: neither the time nor the limit ended it.
    pub complete: bool,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    waiting: Vec<RelPath>,
    busy: usize,
    count: Count,
    ended: bool,
}

/// Counts the directories at and beneath `path` that `filter` keeps, until `deadline`. Those of other file systems are left
/// out if `one_file_system`.
///
/// # Errors
/// When the top directory cannot be opened.
pub fn count(path: &Path, filter: &Filter, one_file_system: bool, deadline: Instant) -> io::Result<Count> {
    let root = files::open_root(path)?;
    let device = one_file_system.then_some(files::status_of(&root)?.identity.device);
    Ok(count_beneath(root.as_fd(), filter, device, u64::MAX, deadline))
}

/// As [`count`], in the open directory `root`; those of other file systems than `device` are left out, and so many are enough.
pub(super) fn count_beneath(
    root: BorrowedFd<'_>,
    filter: &Filter,
    device: Option<u64>,
    enough: u64,
    deadline: Instant,
) -> Count {
    let shared = Mutex::new(Shared { waiting: vec![RelPath::root()], ..Shared::default() });
    let more = Condvar::new();
    // As many as the walkers of an agent (notes/kernel.md 6).
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _thread in 0..(cores * 2).clamp(2, 16) {
            scope.spawn(|| work(root, filter, device, &shared, &more, (enough, deadline)));
        }
    });
    let Shared { count, ended, .. } = shared.into_inner();
    Count { complete: !ended, ..count }
}

/// One thread: takes directories until there are none.
fn work(
    root: BorrowedFd<'_>,
    filter: &Filter,
    device: Option<u64>,
    shared: &Mutex<Shared>,
    more: &Condvar,
    (enough, deadline): (u64, Instant),
) {
    let mut found = Vec::new();
    loop {
        let mut state = shared.lock();
        let path = loop {
            if state.ended {
                return;
            }
            match state.waiting.pop() {
                Some(path) => break path,
                None if state.busy == 0 => return,
                None => more.wait(&mut state),
            }
        };
        if state.count.directories >= enough || clock::now() >= deadline {
            state.ended = true;
            more.notify_all();
            return;
        }
        state.busy += 1;
        drop(state);
        let listed = list(root, &path, filter, device, &mut found);
        let mut state = shared.lock();
        state.busy -= 1;
        match listed {
            Ok(counts) => state.count.directories += u64::from(counts),
            // One that went meanwhile is none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {
                state.count.directories += 1;
                state.count.unreadable += 1;
            }
        }
        state.waiting.append(&mut found);
        more.notify_all();
    }
}

/// The directories in one directory, to `found`. Whether this one counts.
fn list(
    root: BorrowedFd<'_>,
    path: &RelPath,
    filter: &Filter,
    device: Option<u64>,
    found: &mut Vec<RelPath>,
) -> io::Result<bool> {
    let directory = files::open_directory(root, path)?;
    if let Some(device) = device
        && files::status_of(&directory)?.identity.device != device
    {
        return Ok(false);
    }
    files::list(&directory, |name, entry_type, _inode| {
        let is_directory = match entry_type {
            Some(known) => known == EntryType::Directory,
            None => {
                files::status_at(directory.as_fd(), name).is_ok_and(|status| status.entry_type == EntryType::Directory)
            }
        };
        if is_directory {
            let child = path.join(name);
            if !filter.excludes(&child, true) {
                found.push(child);
            }
        }
    })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_directory_that_the_filter_keeps_is_counted_once() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 0..20 {
            std::fs::create_dir_all(scratch.path().join(format!("a{number}/b/c"))).unwrap();
            std::fs::write(scratch.path().join(format!("a{number}/f")), "").unwrap();
        }
        std::os::unix::fs::symlink("a0", scratch.path().join("link")).unwrap();
        let soon = clock::now() + Duration::from_secs(60);
        let all = count(scratch.path(), &Filter::none(), true, soon).unwrap();
        assert_eq!(all, Count { directories: 61, unreadable: 0, complete: true });
        let filter = Filter::new(&["- /a1*/b/"], false).unwrap();
        assert_eq!(count(scratch.path(), &filter, true, soon).unwrap().directories, 61 - 2 * 11);
        assert!(!count(scratch.path(), &Filter::none(), true, clock::now()).unwrap().complete);
        assert!(count(&scratch.path().join("none"), &Filter::none(), true, soon).is_err());
        // What is mounted beneath is left out or not.
        let one = count(Path::new("/proc/self"), &Filter::none(), true, soon).unwrap();
        assert!(one.directories > 5, "{one:?}");
    }
}
