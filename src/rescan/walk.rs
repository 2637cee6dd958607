//! One directory of a rescan: what its ctime, and those of its files, say.
//!
//! Invariant: a change before the visit is seen by the visit or by a later one of the same pass, or it moved something
//! from a place not visited yet to one that was; that has an event, or its loss a marker that asks for another pass.

use std::io;

use super::rules::{Verdict, is_changed, judge_directory};
use crate::change::{Content, Mark, MarkKind, Priority};
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::sys::files::EntryType;
use crate::sys::ground::Ground;
use crate::watch::Source;

/// A directory to be looked through, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Where.
    pub path: RelPath,
    /// Everything beneath; else this one level only.
    pub recursive: bool,
    /// The watermark, the slack taken off.
    pub since: WallTime,
    /// Somebody remembers which directories were here and wants to be told of those whose names changed
    /// ([`Finder::recheck`]).
    pub known: bool,
}

/// A directory that waits for its visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    path: RelPath,
    parent_changed: bool,
    /// Which scope of the pass it belongs to.
    scope: usize,
}

/// What a pass finds.
pub trait Finder {
    /// A mark to be noted.
    fn mark(&mut self, mark: Mark);
    /// The directories in this one may be others than before: whoever watches them shall look.
    fn recheck(&mut self, directory: &RelPath);
    /// Another directory to be visited.
    fn descend(&mut self, task: Task);
    /// This many files were looked at.
    fn files(&mut self, count: usize);
}

/// The first visits of a pass over `scopes`.
#[must_use]
pub fn begin(scopes: &[Scope]) -> Vec<Task> {
    let task = |(index, scope): (usize, &Scope)| Task { path: scope.path.clone(), parent_changed: false, scope: index };
    scopes.iter().enumerate().map(task).collect()
}

/// Visits one directory of a pass over `scopes`.
pub fn visit<G: Ground>(source: &Source<G>, scopes: &[Scope], task: &Task, finder: &mut impl Finder) {
    let scope = &scopes[task.scope];
    let root = &source.root;
    let found = root
        .open_directory(&task.path)
        .and_then(|directory| root.status_of(&directory).map(|status| (directory, status)));
    let (directory, status) = match found {
        Ok(found) => found,
        // Whoever listed it was told a name that is gone by now: its directory has changed and is told of, by an event
        // or by this pass.
        Err(error) if is_gone(&error) => return,
        Err(error) => return unreadable(source, scope, task, &error, finder),
    };
    if source.one_file_system && status.identity.device != source.device {
        return;
    }
    let verdict = judge_directory(status.changed, scope.since, task.parent_changed, scope.known);
    let background = |kind, content| {
        let mut mark = Mark::new(task.path.clone(), kind).content(content).priority(Priority::Background);
        mark.changes_names = false;
        mark
    };
    match verdict {
        // Names in it changed too: then it most likely is the one of before, which may be large.
        Verdict::Subtree if is_changed(status.modified, scope.since) => {
            return finder.mark(background(MarkKind::Subtree, Content::Since(scope.since)));
        }
        // It was renamed, or only its mode or owner changed. Files of a directory that took the place of another have old
        // ctimes, and may have the sizes and mtimes of those before them.
        Verdict::Subtree => return finder.mark(background(MarkKind::Subtree, Content::Resend)),
        // Its files are compared, and those that changed since are sent whatever size and mtime say.
        Verdict::Listing => {
            finder.mark(background(MarkKind::Listing, Content::Since(scope.since)));
            if scope.known && !task.path.is_root() {
                finder.recheck(&task.path);
            }
        }
        Verdict::Descend => {}
    }
    let changed = verdict == Verdict::Listing;
    let is_touched =
        |name: &[u8]| root.status_at(&directory, name).is_ok_and(|status| is_changed(status.changed, scope.since));
    let mut looked_at = 0;
    let listed = root.list(&directory, |name, entry_type, _inode| {
        let (entry_type, status) = match entry_type {
            Some(EntryType::Directory) => (EntryType::Directory, None),
            // The listing of a directory that changed tells of its files.
            Some(known) if changed => (known, None),
            Some(_) | None => {
                looked_at += 1;
                let Ok(status) = root.status_at(&directory, name) else { return };
                (status.entry_type, Some(status))
            }
        };
        if entry_type == EntryType::Directory {
            if scope.recursive {
                let path = task.path.join(name);
                if !source.filter.excludes(&path, true) {
                    finder.descend(Task { path, parent_changed: changed, scope: task.scope });
                }
            } else if !changed && is_touched(name) {
                // Its mode, owner or times are told of by the events of this directory; what is in it is another scope's.
                let path = task.path.join(name);
                if !source.filter.excludes(&path, true) {
                    let mut mark = Mark::new(path, MarkKind::Attributes).priority(Priority::Background);
                    mark.changes_names = false;
                    finder.mark(mark);
                }
            }
        } else if !changed && status.is_some_and(|status| is_changed(status.changed, scope.since)) {
            let path = task.path.join(name);
            if !source.filter.excludes(&path, false) {
                let mut mark = Mark::new(path, MarkKind::Point).content(Content::Resend).priority(Priority::Background);
                mark.changes_names = false;
                finder.mark(mark);
            }
        }
    });
    finder.files(looked_at);
    if let Err(error) = listed {
        unreadable(source, scope, task, &error, finder);
    }
}

/// What cannot be looked through is left to rsync, whose complaint is retried, shown and counted like any other.
fn unreadable<G: Ground>(source: &Source<G>, scope: &Scope, task: &Task, error: &io::Error, finder: &mut impl Finder) {
    source.say_unreadable(&task.path, error);
    let kind = if scope.recursive { MarkKind::Subtree } else { MarkKind::Listing };
    let mut mark =
        Mark::new(task.path.clone(), kind).content(Content::Since(scope.since)).priority(Priority::Background);
    mark.changes_names = false;
    finder.mark(mark);
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

/// A whole pass, in the calling thread; `mark` and `recheck` as in [`Finder`]. Returns the directories and the files
/// that were looked at.
pub fn pass<G: Ground>(
    source: &Source<G>,
    scopes: &[Scope],
    mark: impl FnMut(Mark),
    recheck: impl FnMut(&RelPath),
) -> (usize, usize) {
    struct Alone<M, R> {
        mark: M,
        recheck: R,
        stack: Vec<Task>,
        files: usize,
    }
    impl<M: FnMut(Mark), R: FnMut(&RelPath)> Finder for Alone<M, R> {
        fn mark(&mut self, mark: Mark) {
            (self.mark)(mark);
        }
        fn recheck(&mut self, directory: &RelPath) {
            (self.recheck)(directory);
        }
        fn descend(&mut self, task: Task) {
            self.stack.push(task);
        }
        fn files(&mut self, count: usize) {
            self.files += count;
        }
    }
    let mut finder = Alone { mark, recheck, stack: begin(scopes), files: 0 };
    let mut directories = 0;
    while let Some(task) = finder.stack.pop() {
        directories += 1;
        visit(source, scopes, &task, &mut finder);
    }
    (directories, finder.files)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use super::*;
    use crate::filter::Filter;
    use crate::sys::clock;

    /// A tree that is older than the moment it gives, and what the rescan since then finds after `change`.
    fn found_after(known: bool, prepare: impl FnOnce(&Path), change: impl FnOnce(&Path)) -> Vec<String> {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("root");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        // The coarse clock must tick between what was before and what comes after; stamps may run ahead of it (they are fine
        // where somebody looks at them, notes/kernel.md 7.1).
        let probe = scratch.path().join("probe");
        fs::write(&probe, "").unwrap();
        let stamp = fs::metadata(&probe).unwrap();
        let before = WallTime(stamp.ctime() * 1_000_000_000 + stamp.ctime_nsec());
        while clock::coarse_now() <= before {
            std::thread::yield_now();
        }
        let since = clock::coarse_now();
        change(&root);
        let filter = Filter::new(&["- *.tmp"], false).unwrap();
        let source = Source::open("root", root, true, filter).unwrap();
        let scope = Scope { path: RelPath::root(), recursive: true, since, known };
        let mut found = Vec::new();
        let mut rechecks = Vec::new();
        pass(
            &source,
            &[scope],
            |mark| {
                assert_eq!(mark.priority, Priority::Background);
                let resend = mark.kind != MarkKind::Point && mark.content == Content::Resend;
                found.push(format!("{:?} {}{}", mark.kind, mark.path, if resend { ", resent" } else { "" }));
            },
            |path| rechecks.push(format!("recheck {path}")),
        );
        found.extend(rechecks);
        found.sort();
        found
    }

    fn tree(root: &Path) {
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("d")).unwrap();
        for file in ["a/f", "a/b/f", "a/b/c/f", "d/f", "d/x.tmp", "f"] {
            fs::write(root.join(file), "old").unwrap();
        }
        let outside = root.parent().unwrap().join("old tree");
        fs::create_dir_all(outside.join("deep/deeper")).unwrap();
        fs::write(outside.join("deep/deeper/f"), "old").unwrap();
    }

    #[test]
    fn what_did_not_change_is_not_found() {
        assert!(found_after(false, tree, |_| ()).is_empty());
    }

    #[test]
    fn a_file_is_found_although_its_mtime_was_put_back() {
        let found = found_after(false, tree, |root| {
            let file = root.join("a/b/c/f");
            let mtime = fs::metadata(&file).unwrap().modified().unwrap();
            fs::write(&file, "new").unwrap();
            fs::File::options().write(true).open(&file).unwrap().set_modified(mtime).unwrap();
            fs::write(root.join("d/x.tmp"), "excluded").unwrap();
        });
        assert_eq!(found, ["Point a/b/c/f"]);
    }

    #[test]
    fn a_directory_whose_names_changed_is_listed_and_gone_into() {
        let found = found_after(true, tree, |root| {
            fs::remove_file(root.join("a/f")).unwrap();
            fs::write(root.join("a/b/f"), "new").unwrap();
        });
        assert_eq!(found, ["Listing a", "Point a/b/f", "recheck a"]);
    }

    #[test]
    fn a_directory_that_was_moved_here_is_told_whole_or_left_to_those_who_know() {
        let change = |root: &Path| fs::rename(root.parent().unwrap().join("old tree"), root.join("a/new")).unwrap();
        assert_eq!(found_after(false, tree, change), ["Listing a", "Subtree a/new, resent"]);
        assert_eq!(found_after(true, tree, change), ["Listing a", "Listing a/new", "recheck a", "recheck a/new"]);
    }

    /// The twin of a directory, with old inner ctimes and the same sizes and mtimes, was compared by size and mtime.
    #[test]
    fn a_directory_that_took_the_place_of_another_is_sent_whole() {
        let prepare = |root: &Path| {
            tree(root);
            fs::create_dir(root.parent().unwrap().join("twin")).unwrap();
            fs::write(root.parent().unwrap().join("twin/f"), "two").unwrap();
        };
        let replace = |root: &Path| {
            fs::rename(root.join("d"), root.parent().unwrap().join("away")).unwrap();
            fs::rename(root.parent().unwrap().join("twin"), root.join("d")).unwrap();
        };
        assert_eq!(found_after(false, prepare, replace), ["Listing .", "Subtree d, resent"]);
        // The usual case: a directory in which names changed lies in one in which names changed.
        let create = |root: &Path| {
            fs::write(root.join("new"), "").unwrap();
            fs::write(root.join("d/new"), "").unwrap();
        };
        assert_eq!(found_after(false, tree, create), ["Listing .", "Subtree d"]);
    }

    /// A scope of one level is what a shard watches that does not watch the directories in it: their modes, owners and times
    /// are told of by its events, and nobody looked for them when these were lost.
    #[test]
    fn a_directory_in_a_scope_of_one_level_is_looked_at_itself() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        for name in ["touched/deep", "quiet"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let stamp = |name: &str| {
            let stamp = fs::metadata(root.join(name)).unwrap();
            WallTime(stamp.ctime() * 1_000_000_000 + stamp.ctime_nsec())
        };
        let (top, quiet) = (stamp(""), stamp("quiet"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        while stamp("touched") <= top.max(quiet) {
            fs::set_permissions(root.join("touched"), Clone::clone(&mode)).unwrap();
        }
        let since = stamp("touched");
        let source = Source::open("root", root.clone(), true, Filter::none()).unwrap();
        let scope = Scope { path: RelPath::root(), recursive: false, since, known: true };
        let mut marks = Vec::new();
        pass(&source, &[scope], |mark| marks.push((mark.path.to_string(), mark.kind)), |_| ());
        assert_eq!(marks, [("touched".to_owned(), MarkKind::Attributes)]);
    }

    #[test]
    fn a_scope_of_one_level_goes_no_deeper() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/f"), "x").unwrap();
        let source = Source::open("root", root, true, Filter::none()).unwrap();
        let scope = Scope { path: RelPath::root(), recursive: false, since: WallTime(0), known: true };
        let mut marks = Vec::new();
        let counted = pass(&source, &[scope], |mark| marks.push(mark), |path| panic!("{path}"));
        assert_eq!(counted.0, 1);
        assert_eq!(marks.len(), 1, "{marks:?}");
        assert_eq!(marks[0].kind, MarkKind::Listing);
    }
}
