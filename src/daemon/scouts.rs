//! Scouts: walkers that run ahead of a first walk that waits for a cold disk.
//!
//! A shard's walk is one thread, and a disk answers eight questions in little more time than one (notes/kernel.md 6). So the
//! walkers, which have nothing else to do then, list the same directories and forget what they read: what the shards come
//! to is in the kernel's caches. Nothing depends on it, so it looks at no identity and gives up wherever it likes.

use std::time::{Duration, Instant};

use crate::path::RelPath;
use crate::sys::files::EntryType;
use crate::sys::ground::Ground as _;
use crate::sys::{clock, waits};
use crate::watch::Source;

/// Between two looks at how the first walk goes. Unit: time.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A shorter walk is not worth it. Unit: time.
const WAIT_MIN: Duration = Duration::from_millis(300);

/// A warm walk takes 5 to 15 µs for a directory. Unit: time.
const EACH_SLOW: Duration = Duration::from_micros(100);

/// A walk waits for a disk when a thread waited for something once in so many directories.
const DIRECTORIES_FOR_A_WAIT: u64 = 8;

/// Directories that wait for one scout; more are left to the shards.
const WAITING_MAX: usize = 10_000;

/// How the first walk of a root goes.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    waits: u64,
}

impl Progress {
    /// It begins now.
    pub(super) fn begin() -> Self {
        Self { began: clock::now(), waits: waits::so_far() }
    }

    /// Whether its threads do little but wait.
    pub(super) fn is_slow(&self, source: &Source, shards: usize) -> bool {
        let waits = waits::so_far().saturating_sub(self.waits);
        let watched = u64::try_from(source.reading().watched).unwrap_or(0);
        is_slow(clock::now().saturating_duration_since(self.began), watched, waits, shards)
    }
}

fn is_slow(elapsed: Duration, watched: u64, waits: u64, shards: usize) -> bool {
    let each = elapsed.as_nanos().saturating_mul(shards as u128) / u128::from(watched.max(1));
    elapsed >= WAIT_MIN && each >= EACH_SLOW.as_nanos() && waits >= watched / DIRECTORIES_FOR_A_WAIT
}

/// Lists a directory and forgets it; `stack` gets the directories in it.
pub(super) fn scout(source: &Source, path: &RelPath, stack: &mut Vec<RelPath>) {
    let Ok(directory) = source.root.open_directory(path) else { return };
    if source.one_file_system
        && !source.root.status_of(&directory).is_ok_and(|status| status.identity.device == source.device)
    {
        return;
    }
    let _as_far_as_it_goes = source.root.list(&directory, |name, entry_type, _inode| {
        if entry_type == Some(EntryType::Directory) && stack.len() < WAITING_MAX {
            let path = path.join(name);
            if !source.filter.excludes(&path, true) {
                stack.push(path);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_that_waits_is_slow_and_one_that_works_or_is_not_let_is_not() {
        let second = Duration::from_secs(1);
        let check = |watched, waits, expected| {
            assert_eq!(is_slow(second, watched, waits, 2), expected, "{watched} directories, {waits} waits");
        };
        check(2_000, 2_500, true);
        check(0, 10, true);
        check(100_000, 20_000, false);
        // Many others want the cores.
        check(2_000, 20, false);
        assert!(!is_slow(second / 10, 10, 500, 2), "it has just begun");
    }

    #[test]
    fn a_scout_goes_where_the_walk_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        for directory in ["a", "b/c", "excluded/d"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink("b", root.join("link")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let filter = crate::filter::Filter::new(&["- excluded/"], false).unwrap();
        let source = Source::open("root", root, true, filter).unwrap();
        let (mut stack, mut seen) = (vec![RelPath::root()], Vec::new());
        while let Some(path) = stack.pop() {
            scout(&source, &path, &mut stack);
            seen.push(path.to_string());
        }
        seen.sort();
        assert_eq!(seen, [".", "a", "b", "b/c"]);
    }
}
