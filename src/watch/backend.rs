//! By what a root is watched: inotify or a fanotify mark, and why.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::count::count_beneath;
use super::shard::Source;
use crate::sys::fanotify::Fanotify;
use crate::sys::ground::Backend;
use crate::sys::{clock, mounts};

/// From so many directories on a mark is better than watches: they pin 1.3 KB of kernel memory each, and take their time
/// (notes/kernel.md 5).
const MANY: usize = 100_000;

/// How long directories are counted; who has not counted them all by then has many, or a slow disk.
const COUNT_MAX: Duration = Duration::from_secs(2);

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asked {
    /// Whatever suits the root.
    #[default]
    Auto,
    /// inotify.
    Inotify,
    /// fanotify, or inotify where that is not possible.
    Fanotify,
}

/// By what a root is watched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choice {
    /// By this.
    pub backend: Backend,
    /// Why.
    pub reason: String,
    /// Why not by fanotify, where that was asked for or would be better.
    pub refused: Option<String>,
}

/// Chooses for a root that is not watched yet; `most` watches are to be had.
#[must_use]
pub fn choose(source: &Source, asked: Asked, most: u64) -> Choice {
    let why = match asked {
        Asked::Inotify => return inotify("it is configured", None),
        Asked::Fanotify => "it is configured".to_owned(),
        Asked::Auto => match suits(source, most) {
            Ok(why) => why,
            Err(why_not) => return inotify(why_not, None),
        },
    };
    match possible(source) {
        Ok(()) => Choice { backend: Backend::Fanotify, reason: why, refused: None },
        Err(refused) => inotify("fanotify is not possible", Some(refused)),
    }
}

fn inotify(reason: impl Into<String>, refused: Option<String>) -> Choice {
    Choice { backend: Backend::Inotify, reason: reason.into(), refused }
}

/// Whether a mark suits the root, and why or why not.
fn suits(source: &Source, most: u64) -> Result<String, String> {
    if mounts::is_top_of_file_system(&source.root).unwrap_or(false) {
        return Ok("the root is a file system of its own".to_owned());
    }
    if source.nfs_exported {
        return Ok("NFS clients write to the root, and inotify does not see all that they do".to_owned());
    }
    let until = clock::now() + COUNT_MAX;
    let many = usize::try_from(most).map_or(MANY, |most| most.min(MANY));
    match count_directories(source, many, until) {
        Some(count) if count < many => Err(format!("the root has {count} directories, a part of its file system")),
        Some(_) if many < MANY => {
            Ok(format!("the root has {many} directories or more, and only {most} watches are to be had"))
        }
        Some(_) => Ok(format!("the root has {MANY} directories or more")),
        None => Ok(format!("the directories of the root could not be counted in {} s", COUNT_MAX.as_secs())),
    }
}

fn possible(source: &Source) -> Result<(), String> {
    if !source.one_file_system {
        return Err("one_file_system is false, and a mark is on one file system".to_owned());
    }
    Fanotify::probe(&source.root).map_err(|error| error.explained())
}

/// Counts directories up to `limit`; `None` when the time is over first.
fn count_directories(source: &Source, limit: usize, until: Instant) -> Option<usize> {
    let device = source.one_file_system.then_some(source.device);
    let counted = count_beneath(source.root.as_fd(), &source.filter, device, limit as u64, until);
    // Several threads may go a little beyond the limit.
    let directories = usize::try_from(counted.directories).unwrap_or(limit).min(limit);
    (counted.complete || directories == limit).then_some(directories)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::filter::Filter;

    fn source(path: &std::path::Path, one_file_system: bool) -> Source {
        Source::open("root", path.to_owned(), one_file_system, Filter::new(&["- /left out"], false).unwrap()).unwrap()
    }

    #[test]
    fn directories_are_counted_up_to_a_limit_and_for_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "d", "left out/e"] {
            fs::create_dir_all(scratch.path().join(path)).unwrap();
        }
        let source = source(scratch.path(), true);
        let later = clock::now() + Duration::from_secs(60);
        assert_eq!(count_directories(&source, 100, later), Some(5));
        assert_eq!(count_directories(&source, 3, later), Some(3));
        for number in 0..300 {
            fs::create_dir(scratch.path().join(format!("d/{number}"))).unwrap();
        }
        assert_eq!(count_directories(&source, 1_000, clock::now()), None);
    }

    #[test]
    fn a_choice_says_why() {
        let scratch = tempfile::tempdir().unwrap();
        let small = choose(&source(scratch.path(), true), Asked::Auto, u64::MAX);
        assert_eq!((small.backend, small.refused), (Backend::Inotify, None));
        assert!(small.reason.contains("1 directories"), "{}", small.reason);
        let few = choose(&source(scratch.path(), true), Asked::Auto, 1);
        let reason = if few.backend == Backend::Fanotify { few.reason } else { few.refused.unwrap_or_default() };
        assert!(!reason.is_empty());
        assert_eq!(choose(&source(scratch.path(), true), Asked::Inotify, u64::MAX).backend, Backend::Inotify);
        let refused = choose(&source(scratch.path(), false), Asked::Fanotify, u64::MAX);
        assert_eq!(refused.backend, Backend::Inotify);
        assert!(refused.refused.unwrap().contains("one_file_system"));
        let refused = choose(&source(std::path::Path::new("/proc"), true), Asked::Fanotify, u64::MAX);
        assert!(refused.backend == Backend::Inotify && refused.refused.is_some());
    }
}
