//! Names of inodes that have more than one.
//!
//! inotify reports a write under the name that was used only (notes/kernel.md 2), so a file's other names must be
//! marked with it. Only inodes with several links are remembered: nothing is kept per file.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::survey::Found;
use crate::change::{Content, Deletes, Mark, MarkKind, Stage};
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::sys::files::Identity;
use crate::watch::NamelessChange;

/// Paths kept at most. Beyond it new names are not remembered. Unit: paths, about 150 bytes each.
const NAMES_MAX: usize = 500_000;

/// Files without a known name that are sought at the same time. Beyond it everything is compared.
const SOUGHT_MAX: usize = 100_000;

/// Files that were sought and found, and that are remembered. Unit: paths, about 150 bytes each.
const FOUND_MAX: usize = 10_000;

/// The other names of an inode, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Siblings {
    /// Known names but the one asked for.
    pub others: Vec<RelPath>,
    /// The inode has more names than are known: some may lie in the root.
    pub incomplete: bool,
}

/// Inodes with several links and their known names. Pure.
#[derive(Debug, Default)]
pub struct LinkTable {
    names: HashMap<Identity, Inode>,
    inodes: BTreeMap<RelPath, Identity>,
    sought: Sought,
    /// Where files were found that had been sought: they most likely are written again.
    found: HashMap<Identity, RelPath>,
    looks_begun: u64,
    looks_open: BTreeSet<u64>,
}

/// Files that were changed and of which no name is known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Sought {
    /// Which, how many names they have, and what their last event said.
    pub files: HashMap<Identity, NamelessChange>,
    /// There were more than can be remembered; the first of those changed at this moment or before, less the slack of ctimes.
    pub lost_since: Option<WallTime>,
    /// How many times somebody asked.
    pub asked: u32,
}

#[derive(Debug, Default)]
struct Inode {
    names: BTreeSet<RelPath>,
    /// The link count when a name was last seen.
    links: u32,
    /// The link count for which a search of the whole root found no further names.
    searched: u32,
}

impl LinkTable {
    /// Names are about to be asked for or forgotten. What comes of it is not known to anybody until [`Self::end_look`].
    pub fn begin_look(&mut self) -> u64 {
        self.looks_begun += 1;
        self.looks_open.insert(self.looks_begun);
        self.looks_begun
    }

    /// What came of a look was reported.
    pub fn end_look(&mut self, look: u64) {
        self.looks_open.remove(&look);
    }

    /// How many looks began, and how many of the first of them are reported without exception.
    #[must_use]
    pub fn looks(&self) -> (u64, u64) {
        (self.looks_begun, self.looks_open.first().map_or(self.looks_begun, |first| first - 1))
    }

    /// Notes that `path` is a name of the inode, which has `links` names in all; returns the others, and those of the
    /// inode that the name had before, as in [`Self::forget`].
    pub fn note(&mut self, path: &RelPath, identity: Identity, links: u32) -> Siblings {
        let stays = links >= 2 && self.inodes.get(path).is_none_or(|known| *known == identity);
        let mut others = if stays { Vec::new() } else { self.forget(path) };
        if links < 2 || (self.inodes.len() >= NAMES_MAX && !self.inodes.contains_key(path)) {
            return Siblings { others, incomplete: false };
        }
        self.inodes.insert(path.clone(), identity);
        let inode = self.names.entry(identity).or_default();
        inode.names.insert(path.clone());
        inode.links = links;
        others.extend(inode.names.iter().filter(|name| *name != path).cloned());
        Siblings {
            others,
            incomplete: inode.searched != links && u32::try_from(inode.names.len()).is_ok_and(|known| known < links),
        }
    }

    /// Notes that `path` is no name of a shared inode any more; returns the names that the inode it was still has: what
    /// was written through the lost name is theirs.
    pub fn forget(&mut self, path: &RelPath) -> Vec<RelPath> {
        let Some(identity) = self.inodes.remove(path) else { return Vec::new() };
        let Some(inode) = self.names.get_mut(&identity) else { return Vec::new() };
        inode.names.remove(path);
        let others: Vec<RelPath> = inode.names.iter().cloned().collect();
        if others.is_empty() {
            self.names.remove(&identity);
        }
        others
    }

    /// Notes that nothing at or beneath `path` is what it was; returns the names elsewhere of the inodes that had one there.
    pub fn forget_within(&mut self, path: &RelPath) -> Vec<RelPath> {
        let lost: Vec<RelPath> = self
            .inodes
            .range(path..)
            .map(|(name, _)| name)
            .take_while(|name| name.as_bytes().starts_with(path.as_bytes()))
            .filter(|name| name.is_within(path))
            .cloned()
            .collect();
        let others: BTreeSet<RelPath> = lost.iter().flat_map(|name| self.forget(name)).collect();
        others.into_iter().filter(|name| !name.is_within(path)).collect()
    }

    /// Notes what a search of the whole root for the `wanted` inodes, with their link counts, found. Returns marks for the
    /// names that were not known: what was written meanwhile is theirs too. An inode that has lost a name since may have
    /// been written through that one, which nobody knew: all its names are marked.
    pub fn searched(&mut self, wanted: &HashMap<Identity, u32>, found: Vec<Found>) -> Vec<Mark> {
        let mut marks = Vec::new();
        for Found { path, identity, links } in found {
            let known = self.knows(&path);
            let others = self.note(&path, identity, links).others;
            let lost = wanted.get(&identity).is_some_and(|count| *count != links);
            if !known || lost {
                marks.extend(others.into_iter().filter(|_| lost).chain([path]).map(|path| {
                    let mut mark = Mark::new(path, MarkKind::Point).content(Content::Resend);
                    mark.derived = true;
                    mark.changes_names = false;
                    mark
                }));
            }
        }
        for (identity, links) in wanted {
            if let Some(inode) = self.names.get_mut(identity) {
                inode.searched = *links;
            }
        }
        marks
    }

    /// These files were changed, and somebody has to find out what they are called.
    pub fn seek(&mut self, now: WallTime, files: Vec<NamelessChange>) {
        self.sought.asked += 1;
        for news in files {
            if self.sought.files.len() >= SOUGHT_MAX && !self.sought.files.contains_key(&news.identity) {
                self.sought.lost_since.get_or_insert(now);
                continue;
            }
            let known = self.sought.files.entry(news.identity).or_insert(news);
            let closed = if news.content { news.closed } else { known.closed };
            *known = NamelessChange { content: known.content || news.content, closed, ..news };
        }
    }

    /// What is to be sought, once; and of these files the names that were found the last time.
    pub fn take_sought(&mut self) -> (Sought, HashMap<Identity, RelPath>) {
        let sought = std::mem::take(&mut self.sought);
        let last = |identity: &Identity| Some((*identity, self.found.get(identity)?.clone()));
        let found = sought.files.keys().filter_map(last).collect();
        (sought, found)
    }

    /// Notes where files that were sought were found. Returns the marks that stand for what was told of them.
    pub fn found(&mut self, sought: &Sought, found: &[Found]) -> Vec<Mark> {
        let mut marks = Vec::new();
        for Found { path, identity, .. } in found {
            let Some(news) = sought.files.get(identity) else { continue };
            if self.found.len() >= FOUND_MAX {
                self.found.clear();
            }
            self.found.insert(*identity, path.clone());
            let content = if news.content { Content::Resend } else { Content::Compare };
            let stage = match news {
                NamelessChange { content: false, .. } => Stage::Unchanged,
                NamelessChange { closed: true, .. } => Stage::Complete,
                NamelessChange { .. } => Stage::Writing,
            };
            let mut mark = Mark::new(path.clone(), MarkKind::Point).content(content).stage(stage);
            (mark.changes_names, mark.deletes) = (false, Deletes::Single);
            marks.push(mark);
        }
        marks
    }

    /// Inodes that have more names than are known, with their link counts.
    #[must_use]
    pub fn incomplete(&self) -> HashMap<Identity, u32> {
        self.names
            .iter()
            .filter(|(_, inode)| {
                inode.searched != inode.links && u32::try_from(inode.names.len()).is_ok_and(|known| known < inode.links)
            })
            .map(|(identity, inode)| (*identity, inode.links))
            .collect()
    }

    /// Whether the name is known.
    #[must_use]
    pub fn knows(&self, path: &RelPath) -> bool {
        self.inodes.contains_key(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    const ONE: Identity = Identity { device: 1, inode: 1 };
    const TWO: Identity = Identity { device: 1, inode: 2 };

    #[test]
    fn a_name_brings_the_others_and_says_when_some_are_unknown() {
        let mut table = LinkTable::default();
        assert_eq!(table.note(&path("a"), ONE, 2), Siblings { others: vec![], incomplete: true });
        assert_eq!(table.note(&path("b"), ONE, 2), Siblings { others: vec![path("a")], incomplete: false });
        assert_eq!(table.note(&path("b"), ONE, 3), Siblings { others: vec![path("a")], incomplete: true });
        table.searched(&HashMap::from([(ONE, 3)]), Vec::new());
        assert!(!table.note(&path("b"), ONE, 3).incomplete, "a search found no more");
    }

    /// A file was written through a name that nobody knew, and that name was replaced before anybody looked: then the
    /// search found the other name only, which was known, and nobody told of the write.
    #[test]
    fn a_search_marks_the_names_that_were_not_known_and_all_of_an_inode_that_lost_one() {
        let found = |name: &str, links| Found { path: path(name), identity: ONE, links };
        let marked = |table: &mut LinkTable, found| {
            let marks = table.searched(&HashMap::from([(ONE, 2)]), found);
            assert!(marks.iter().all(|mark| mark.derived && mark.content == Content::Resend));
            marks.into_iter().map(|mark| mark.path.to_string()).collect::<Vec<_>>()
        };
        let mut table = LinkTable::default();
        table.note(&path("a"), ONE, 2);
        assert_eq!(marked(&mut table, vec![found("a", 2), found("b", 2)]), ["b"]);
        let mut table = LinkTable::default();
        table.note(&path("a"), ONE, 2);
        assert_eq!(marked(&mut table, vec![found("a", 1)]), ["a"]);
    }

    #[test]
    fn a_lost_name_leaves_its_writes_to_the_others() {
        let mut table = LinkTable::default();
        table.note(&path("a"), ONE, 2);
        table.note(&path("b"), ONE, 2);
        assert_eq!(table.forget(&path("a")), [path("b")]);
        assert_eq!(table.forget(&path("a")), []);
        table.note(&path("c"), ONE, 2);
        // The name now belongs to another inode: what was written through it before is still told.
        assert_eq!(table.note(&path("b"), TWO, 2).others, [path("c")]);
        assert_eq!(table.note(&path("c"), TWO, 1).others, []);
        assert_eq!(table.note(&path("d"), ONE, 2).others, []);
    }

    #[test]
    fn a_directory_that_is_gone_leaves_the_writes_in_it_to_names_elsewhere() {
        let mut table = LinkTable::default();
        table.note(&path("d/a"), ONE, 3);
        table.note(&path("d/e/b"), ONE, 3);
        table.note(&path("d-c"), ONE, 3);
        table.note(&path("d/f"), TWO, 2);
        table.note(&path("d/g"), TWO, 2);
        assert_eq!(table.forget_within(&path("d")), [path("d-c")]);
        assert!(!table.knows(&path("d/f")) && table.knows(&path("d-c")));
        assert_eq!(table.forget_within(&path("d")), []);
    }

    #[test]
    fn a_name_that_was_replaced_leaves_its_writes_to_the_others() {
        for links in [1, 2] {
            let mut table = LinkTable::default();
            table.note(&path("a"), ONE, 2);
            table.note(&path("b"), ONE, 2);
            assert_eq!(table.note(&path("a"), TWO, links).others, [path("b")], "{links}");
            assert_eq!(table.note(&path("a"), TWO, links).others, []);
        }
    }

    #[test]
    fn a_file_without_a_name_is_marked_where_it_is_found_and_looked_for_there_first() {
        let change = |content, closed| NamelessChange { identity: ONE, links: 1, content, closed };
        let mut table = LinkTable::default();
        table.seek(WallTime(7), vec![change(true, true)]);
        table.seek(WallTime(7), vec![change(true, false), change(false, false)]);
        let (sought, before) = table.take_sought();
        assert_eq!((sought.asked, sought.lost_since, before.len()), (2, None, 0));
        assert!(table.take_sought().0.files.is_empty());
        let found =
            [Found { path: path("d/a"), identity: ONE, links: 1 }, Found { path: path("b"), identity: TWO, links: 1 }];
        let marks = table.found(&sought, &found);
        assert_eq!(marks.len(), 1);
        let mark = &marks[0];
        assert_eq!((&mark.path, mark.content, mark.stage), (&path("d/a"), Content::Resend, Stage::Writing));
        table.seek(WallTime(7), vec![change(false, false)]);
        let (sought, before) = table.take_sought();
        assert_eq!(before, HashMap::from([(ONE, path("d/a"))]));
        assert_eq!(table.found(&sought, &found)[0].content, Content::Compare);
    }
}
