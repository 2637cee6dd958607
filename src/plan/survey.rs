//! A bounded look at what a listing or a subtree holds: how much it is, what is large, what changed since.

use std::collections::{HashMap, HashSet};
use std::io;

use crate::filter::Filter;
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::sys::files::{EntryType, Identity, Status};
use crate::sys::ground::Ground;

/// When a survey stops, and what it looks for.
#[derive(Debug, Clone, Copy)]
pub struct SurveyLimits {
    /// Entries; more make a subtree too big for one run.
    pub entries_max: usize,
    /// Bytes of the files that are not large; more make a subtree too big for one run.
    pub bytes_max: u64,
    /// Files above this are left out of the run and go to the large lane.
    pub large: u64,
    /// Files whose ctime is at or after this are sent whatever size and mtime say.
    pub since: Option<WallTime>,
    /// Directories on other devices are not entered.
    pub device: Option<u64>,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Entries seen.
    pub entries: usize,
    /// Directories listed.
    pub directories: usize,
    /// Their bytes, without the large files.
    pub bytes: u64,
    /// Files above the limit.
    pub large: Vec<RelPath>,
    /// Files that changed at or after `since`, large ones left out.
    pub changed: Vec<RelPath>,
    /// The large ones among those that changed.
    pub large_changed: Vec<RelPath>,
    /// Names of inodes with several links.
    pub linked: Vec<Found>,
    /// Directories in the surveyed one itself.
    pub children: Vec<RelPath>,
    /// Too much for one run; what was counted is not all.
    pub too_big: bool,
}

/// A name of an inode that has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name.
    pub path: RelPath,
    /// The inode.
    pub identity: Identity,
    /// How many names it has.
    pub links: u32,
}

/// Looks into `directory`: one level, or everything beneath when `recurse`. A directory that vanishes meanwhile is
/// left out: its own event tells.
///
/// # Errors
/// When `directory` itself cannot be opened or listed.
pub fn survey<G: Ground>(
    root: &G,
    directory: &RelPath,
    recurse: bool,
    filter: &Filter,
    limits: &SurveyLimits,
) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let mut stack = vec![directory.clone()];
    while let Some(at) = stack.pop() {
        let open = match root.open_directory(&at) {
            Ok(open) => open,
            Err(error) if at == *directory => return Err(error),
            Err(_) => continue,
        };
        let mut names: Vec<Vec<u8>> = Vec::new();
        let listed = root.list(&open, |name, _, _| names.push(name.to_vec()));
        if at == *directory {
            listed?;
        }
        survey.directories += 1;
        for name in names {
            let path = at.join(&name);
            let Ok(status) = root.status_at(&open, &name) else { continue };
            let is_directory = status.entry_type == EntryType::Directory;
            if filter.excludes(&path, is_directory) {
                continue;
            }
            survey.entries += 1;
            if is_directory {
                if limits.device.is_some_and(|device| device != status.identity.device) {
                    continue;
                }
                if at == *directory {
                    survey.children.push(path.clone());
                }
                if recurse {
                    stack.push(path);
                }
            } else {
                if status.links > 1 {
                    survey.linked.push(Found { path: path.clone(), identity: status.identity, links: status.links });
                }
                let changed = limits.since.is_some_and(|since| status.changed >= since);
                if status.entry_type == EntryType::File && status.size > limits.large {
                    if changed {
                        survey.large_changed.push(path.clone());
                    }
                    survey.large.push(path);
                } else {
                    survey.bytes += status.size;
                    if changed {
                        survey.changed.push(path);
                    }
                }
            }
        }
        if recurse && (survey.entries > limits.entries_max || survey.bytes > limits.bytes_max) {
            // The children of the directory itself must be complete: they are what it is split into.
            survey.too_big = at != *directory || !stack.is_empty();
            if survey.too_big {
                return Ok(survey);
            }
        }
    }
    Ok(survey)
}

/// Finds the names of `wanted` inodes anywhere below `root`, by the inode numbers that directories list: no file is
/// looked at but the matches. What cannot be read is left out.
#[must_use]
pub fn search_links<G: Ground>(
    root: &G,
    device: Option<u64>,
    filter: &Filter,
    wanted: &HashMap<Identity, u32>,
    go_on: &dyn Fn() -> bool,
) -> Vec<Found> {
    let numbers: HashSet<u64> = wanted.keys().map(|identity| identity.inode).collect();
    let mut found = Vec::new();
    let mut stack = vec![RelPath::root()];
    while let Some(at) = stack.pop() {
        if !go_on() {
            break;
        }
        let Ok(open) = root.open_directory(&at) else { continue };
        let foreign = |status: Status| device.is_some_and(|device| device != status.identity.device);
        if root.status_of(&open).is_ok_and(foreign) {
            continue;
        }
        let mut matches: Vec<Vec<u8>> = Vec::new();
        let _partly = root.list(&open, |name, entry_type, inode| match entry_type {
            Some(EntryType::Directory) => stack.push(at.join(name)),
            Some(_) if numbers.contains(&inode) => matches.push(name.to_vec()),
            Some(_) => {}
            None => matches.push(name.to_vec()),
        });
        for name in matches {
            let path = at.join(&name);
            match root.status_at(&open, &name) {
                Ok(status) if status.entry_type == EntryType::Directory => stack.push(path),
                Ok(status) if wanted.contains_key(&status.identity) && !filter.excludes_within(&path, false) => {
                    found.push(Found { path, identity: status.identity, links: status.links });
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::files;

    const LIMITS: SurveyLimits =
        SurveyLimits { entries_max: 1_000, bytes_max: 1_000_000, large: 100, since: None, device: None };

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    struct Tree {
        directory: tempfile::TempDir,
        root: std::os::fd::OwnedFd,
    }

    impl Tree {
        /// Makes each file with so many bytes.
        fn new(files: &[(&str, usize)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for (name, bytes) in files {
                let file = directory.path().join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, vec![b'x'; *bytes]).unwrap();
            }
            let root = files::open_root(directory.path()).unwrap();
            Self { directory, root }
        }

        fn survey(&self, text: &str, recurse: bool, limits: &SurveyLimits) -> Survey {
            let filter = Filter::new(&["- *.tmp"], false).unwrap();
            let mut survey = survey(&self.root, &path(text), recurse, &filter, limits).unwrap();
            survey.children.sort();
            survey.large.sort();
            survey.changed.sort();
            survey
        }

        fn link(&self, from: &str, to: &str) {
            fs::hard_link(self.directory.path().join(from), self.directory.path().join(to)).unwrap();
        }
    }

    #[test]
    fn a_survey_counts_one_level_or_all_and_leaves_out_what_is_excluded() {
        let tree = Tree::new(&[("d/a", 10), ("d/big", 101), ("d/x.tmp", 50), ("d/e/b", 20), ("d/e/f/c", 30), ("o", 1)]);
        let level = tree.survey("d", false, &LIMITS);
        assert_eq!((level.entries, level.directories, level.bytes), (3, 1, 10));
        assert_eq!((level.large, level.children), (vec![path("d/big")], vec![path("d/e")]));
        let all = tree.survey("d", true, &LIMITS);
        assert_eq!((all.entries, all.directories, all.bytes), (6, 3, 60));
        assert_eq!((all.children, all.too_big), (vec![path("d/e")], false));
        assert!(survey(&tree.root, &path("none"), true, &Filter::none(), &LIMITS).is_err());
        assert!(survey(&tree.root, &path("o"), true, &Filter::none(), &LIMITS).is_err());
    }

    #[test]
    fn a_subtree_that_is_too_big_still_names_all_its_children() {
        let files: Vec<(String, usize)> =
            (0..20).flat_map(|number| [(format!("d/{number}/a"), 10), (format!("d/{number}/e/b"), 10)]).collect();
        let files: Vec<(&str, usize)> = files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        let tree = Tree::new(&files);
        for limits in [
            SurveyLimits { entries_max: 5, ..LIMITS },
            SurveyLimits { entries_max: 30, ..LIMITS },
            SurveyLimits { bytes_max: 50, ..LIMITS },
        ] {
            let survey = tree.survey("d", true, &limits);
            assert_eq!((survey.too_big, survey.children.len()), (true, 20), "{limits:?}");
            assert!(!tree.survey("d", false, &limits).too_big, "one level cannot be split");
        }
        let flat = Tree::new(&[("d/a", 1), ("d/b", 1), ("d/c", 1)]);
        let limits = SurveyLimits { entries_max: 2, ..LIMITS };
        assert!(!flat.survey("d", true, &limits).too_big, "there is nothing to split it into");
    }

    #[test]
    fn a_survey_names_what_changed_since_and_what_has_other_names() {
        let tree = Tree::new(&[("d/a", 10), ("d/e/b", 10), ("d/big", 101)]);
        tree.link("d/a", "other");
        let since = |time| SurveyLimits { since: Some(time), ..LIMITS };
        let all = tree.survey("d", true, &since(WallTime(0)));
        assert_eq!(all.changed, [path("d/a"), path("d/e/b")], "a large one has a mark of its own");
        assert_eq!(all.linked.len(), 1);
        assert_eq!((&all.linked[0].path, all.linked[0].links), (&path("d/a"), 2));
        assert_eq!(tree.survey("d", true, &since(WallTime(i64::MAX))).changed, []);
    }

    #[test]
    fn a_search_finds_every_name_of_the_wanted_inodes_that_is_not_excluded() {
        let tree = Tree::new(&[("d/a", 1), ("b", 1), ("e/f/c", 1), ("no/x", 1)]);
        tree.link("d/a", "e/f/a2");
        tree.link("d/a", "a3");
        tree.link("d/a", "no/a4");
        let identity = tree.root.glimpse(b"a3").unwrap().identity;
        let filter = Filter::new(&["- /no/"], false).unwrap();
        let wanted = HashMap::from([(identity, 4)]);
        let search = |device, go_on: &dyn Fn() -> bool| {
            let found = search_links(&tree.root, device, &filter, &wanted, go_on);
            assert!(found.iter().all(|found| found.identity == identity && found.links == 4));
            let mut names: Vec<RelPath> = found.into_iter().map(|found| found.path).collect();
            names.sort();
            names
        };
        assert_eq!(search(None, &|| true), [path("a3"), path("d/a"), path("e/f/a2")]);
        assert_eq!(search(Some(identity.device), &|| true).len(), 3);
        assert_eq!(search(Some(identity.device + 1), &|| true), []);
        assert_eq!(search(None, &|| false), []);
    }
}
