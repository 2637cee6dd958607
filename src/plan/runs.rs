//! From what a draft's paths are to the lists of its rsync runs. Pure.

use std::collections::HashSet;

use crate::change::{Class, Content, Deletes, Draft, DraftMark, Mark, MarkKind, Priority, Stage};
use crate::path::RelPath;
use crate::plan::links::Siblings;
use crate::plan::look::Look;
use crate::plan::survey::Survey;
use crate::sys::files::{EntryType, Status};

/// What was seen at one path of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What is there.
    pub look: Look,
    /// The filter excludes what is there now. (What was there when the event came was not.)
    pub excluded: bool,
    /// Other names of the inode, or of the inode that the name had.
    pub siblings: Siblings,
    /// For a listing or a subtree whose path is a directory.
    pub survey: Option<Survey>,
}

/// What a plan depends on besides the draft.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions {
    /// Files above this go to the large lane. Unit: bytes.
    pub large: u64,
    /// Files up to this are sent whole. Unit: bytes.
    pub whole_max: u64,
    /// Bytes of one draft at most; what is beyond waits for the next.
    pub bytes_max: u64,
    /// Entries of the listings and subtrees of one draft at most; what is beyond waits for the next.
    pub entries_max: usize,
    /// Marks that one draft may lead to, about; what would lead to more is sent at once.
    pub follow_max: usize,
    /// The receiver can delete what an entry names and the source lacks (`--delete-missing-args`, rsync 3.1.0; 3.4.3
    /// rejects it).
    pub missing_args: bool,
    /// Nothing is ever deleted: what the source lacks stays.
    pub keep: bool,
}

/// How rsync reads an entry of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// `/path`: the path itself; with `-r` everything beneath too.
    Plain,
    /// `/path/`: the one-level listing of a directory.
    Listing,
}

/// Which options a run has (notes/rsync.md 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunKind {
    /// The root's own mode and times, and nothing in it. A run of its own: to rsync the root as an entry is a listing,
    /// so every name in it is excluded, and an excluded entry would not be sent (observed, 3.5.0).
    RootAttributes,
    /// `--delete-missing-args --force`.
    Points,
    /// The same and `--delete`.
    Listing,
    /// The same and `-r`.
    Subtree,
    /// A directory that was renamed: `--link-dest` to what the target has under its old name, nothing deleted. Whatever comes
    /// of it, the run after it is of the kind [`Self::Subtree`], and tells.
    Move,
}

/// How many names on the target a run may delete, as far as can be told before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Risk {
    /// Not more than these.
    AtMost(u64),
    /// Nobody knows: it compares directories, or a directory is gone.
    Unknown,
    /// Whatever it is, it was approved.
    Approved,
    /// So many names that are acknowledged elsewhere; nobody knows of more.
    Moved(u64),
}

/// One rsync run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its options.
    pub kind: RunKind,
    /// `-I`: send the files whatever size and mtime say.
    pub resend: bool,
    /// Every file is small: `-W`, a delta would cost more than it saves.
    pub whole: bool,
    /// `--max-size`: larger files have marks of their own.
    pub size_max: Option<u64>,
    /// The entries, sorted by path.
    pub entries: Vec<(RelPath, EntryKind)>,
    /// What it may delete.
    pub risk: Risk,
    /// Bytes of the files that are single entries.
    pub bytes: u64,
    /// Of [`RunKind::Move`]: the old name.
    pub basis: Option<RelPath>,
}

/// What to do with a draft.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Runs, in this order. A mark of the draft is done when all runs are, unless it is named below.
    pub runs: Vec<Run>,
    /// Marks that follow from what was seen; they must be noted before the draft is concluded.
    pub marks: Vec<Mark>,
    /// Paths of the draft that are not in the runs and wait for the large lane.
    pub large: Vec<RelPath>,
    /// Paths of the draft that are not in the runs because there is too much already.
    pub later: Vec<RelPath>,
    /// Paths of the draft that cannot be sent, and why.
    pub failed: Vec<(RelPath, String)>,
    /// Some inode has names that are not known.
    pub search_links: bool,
    /// Names on the target that the runs may delete: entries that the source lacks.
    pub deletes: usize,
    /// Bytes of the files in the runs, as far as they are known.
    pub bytes: u64,
    /// Directories that the listings and subtrees compare.
    pub directories: usize,
    /// The draft is a move: so many names have another one.
    pub moved: Option<u32>,
}

/// A point without a content mark goes with `-I` too when it is small: cheaper than a second run.
const RESEND_ANYWAY: u64 = 128 * 1024;

/// Files up to this are sent whole on a fast way: their delta costs two passes over data that fits in one segment's time.
pub const WHOLE_MAX: u64 = 1024 * 1024;

/// Writes one entry for `--files-from --from0`: a leading slash, which rsync strips, so that names starting with `#`
/// or `;` are not taken for comments (notes/rsync.md 1.2).
#[must_use]
pub fn entry(path: &RelPath, kind: EntryKind) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.as_bytes().len() + 3);
    bytes.push(b'/');
    bytes.extend_from_slice(path.as_bytes());
    if kind == EntryKind::Listing && !path.is_root() {
        bytes.push(b'/');
    }
    bytes.push(0);
    bytes
}

/// Decides the runs of `draft`, whose marks were seen as `sightings`, one each.
#[must_use]
pub fn plan(draft: &Draft, sightings: &[Sighting], options: &PlanOptions) -> Plan {
    let movable = |(mark, sighting)| is_movable(mark, sighting, options);
    if draft.marks.iter().any(|mark| mark.origin.is_some()) && !draft.marks.iter().zip(sightings).all(movable) {
        return plan_of(&sent(draft), sightings, options);
    }
    plan_of(draft, sightings, options)
}

/// Whether what was renamed need not be sent.
fn is_movable(mark: &DraftMark, sighting: &Sighting, options: &PlanOptions) -> bool {
    let fits = |survey: &Survey| !survey.too_big && survey.linked.len() <= options.follow_max;
    let directory = matches!(&sighting.look, Look::Present(status) if status.entry_type == EntryType::Directory);
    mark.origin.is_some()
        && mark.kind == MarkKind::Subtree
        && mark.attempts == 0
        && directory
        && !sighting.excluded
        && !options.keep
        && sighting.survey.as_ref().is_some_and(fits)
}

/// The same, as if nothing had been renamed.
fn sent(draft: &Draft) -> Draft {
    let mut draft = draft.clone();
    for mark in draft.marks.iter_mut().filter(|mark| mark.origin.is_some()) {
        (mark.origin, mark.content) = (None, Content::Resend);
    }
    draft
}

fn plan_of(draft: &Draft, sightings: &[Sighting], options: &PlanOptions) -> Plan {
    let mut planner = Planner {
        plan: Plan::default(),
        options,
        draft,
        compare: Vec::new(),
        gone: Vec::new(),
        unsure: HashSet::new(),
        absent: HashSet::new(),
        resend: Vec::new(),
        wide: Vec::new(),
        changed: Vec::new(),
        largest: [0; 2],
        bytes: [0; 2],
        surveyed: 0,
        root_attributes: false,
        large_too: false,
        root_touched: false,
        basis: None,
    };
    for (mark, sighting) in draft.marks.iter().zip(sightings) {
        planner.add(mark, sighting);
    }
    planner.finish()
}

struct Planner<'a> {
    plan: Plan,
    options: &'a PlanOptions,
    draft: &'a Draft,
    compare: Vec<(RelPath, EntryKind)>,
    /// Gone from the source, and perhaps not a single name on the target: in a run of their own, so that what becomes of
    /// their deletes is nobody else's business.
    gone: Vec<(RelPath, EntryKind)>,
    /// Marks for which more than one name may be deleted.
    unsure: HashSet<&'a RelPath>,
    /// Marks whose path is gone.
    absent: HashSet<&'a RelPath>,
    resend: Vec<(RelPath, EntryKind)>,
    wide: Vec<(RelPath, EntryKind)>,
    changed: Vec<(RelPath, EntryKind)>,
    /// Largest file of `compare` and of `resend`.
    largest: [u64; 2],
    /// Bytes of `compare` and of `resend`.
    bytes: [u64; 2],
    /// Entries of the listings and subtrees so far.
    surveyed: usize,
    root_attributes: bool,
    /// The listings and subtrees hold too many large files for a mark each: they are sent with the rest.
    large_too: bool,
    /// Something in the root itself is sent or deleted. The root is nobody's implied parent in a list (notes/rsync.md
    /// 1.2), so its mtime on the target is that of this run afterwards.
    root_touched: bool,
    /// The old name of what was renamed.
    basis: Option<RelPath>,
}

impl<'a> Planner<'a> {
    fn add(&mut self, mark: &'a DraftMark, sighting: &Sighting) {
        self.mark_siblings(mark, sighting);
        if mark.deletes != Deletes::Single {
            self.unsure.insert(&mark.path);
        }
        match &sighting.look {
            Look::Present(_) if sighting.excluded => self.replaced_by_excluded(mark),
            Look::Present(status) => match (mark.kind, status.entry_type) {
                // The directory is gone and something else has its name: that has a mark of its own.
                (MarkKind::Attributes, EntryType::File | EntryType::Symlink | EntryType::Special) => {}
                // Its plain entry would be a listing of the root to rsync.
                (MarkKind::Attributes | MarkKind::Point, EntryType::Directory) if mark.path.is_root() => {
                    self.root_attributes = true;
                }
                (MarkKind::Attributes, EntryType::Directory) => {
                    self.compare.push((mark.path.clone(), EntryKind::Plain))
                }
                (MarkKind::Listing, EntryType::Directory) => self.wide(mark, sighting, EntryKind::Listing),
                (MarkKind::Subtree, EntryType::Directory) => self.wide(mark, sighting, EntryKind::Plain),
                (MarkKind::Point, _)
                | (MarkKind::Listing | MarkKind::Subtree, EntryType::File | EntryType::Symlink | EntryType::Special) => {
                    self.point(mark, status);
                }
            },
            Look::Absent if mark.kind == MarkKind::Attributes || self.options.keep => {}
            Look::Absent if self.options.missing_args => {
                self.plan.deletes += 1;
                self.absent.insert(&mark.path);
                self.touches(&mark.path);
                // Gone from the source: no content to send, so it rides along with whatever run there is.
                if self.draft.class == Class::Points && self.unsure.contains(&mark.path) {
                    self.gone.push((mark.path.clone(), EntryKind::Plain));
                } else if self.draft.class == Class::Points {
                    self.compare.push((mark.path.clone(), EntryKind::Plain));
                } else {
                    self.wide.push((mark.path.clone(), EntryKind::Plain));
                }
            }
            Look::Absent => self.mark_listing_of_parent(&mark.path),
            Look::ParentMissing(_) if self.options.keep => {}
            Look::ParentMissing(ancestor) | Look::ParentIsNoDirectory(ancestor) => {
                // Everything beneath goes with the ancestor, whose own mark keeps clear of other batches.
                self.plan.marks.push(Mark::new(ancestor.clone(), MarkKind::Point).content(Content::Resend));
            }
            Look::TooLong => {
                self.plan.failed.push((mark.path.clone(), "the path is longer than rsync's lists can hold".to_owned()));
            }
            Look::Unreadable(words) => self.plan.failed.push((mark.path.clone(), words.clone())),
        }
    }

    fn touches(&mut self, path: &RelPath) {
        self.root_touched |= path.parent().is_some_and(|parent| parent.is_root());
    }

    /// Other names of the inode: the event told of one only. Marks made so do not spread further.
    fn mark_siblings(&mut self, mark: &DraftMark, sighting: &Sighting) {
        if mark.derived {
            return;
        }
        for other in &sighting.siblings.others {
            let mut sibling = Mark::new(other.clone(), MarkKind::Point).content(Content::Resend);
            sibling.derived = true;
            sibling.changes_names = false;
            self.plan.marks.push(sibling);
        }
        // What is compared without a hint of a write asks for nothing; what was lost with an overflow may have been written.
        let told = self.draft.priority == Priority::Live || mark.content != Content::Compare;
        self.plan.search_links |= sighting.siblings.incomplete && told;
    }

    /// A name that was ours now belongs to something excluded: only a listing of the parent, with the rules, deletes
    /// what the target still has under it.
    fn replaced_by_excluded(&mut self, mark: &DraftMark) {
        if !mark.derived && !self.options.keep {
            self.mark_listing_of_parent(&mark.path);
        }
    }

    fn mark_listing_of_parent(&mut self, path: &RelPath) {
        if let Some(parent) = path.parent() {
            self.plan.marks.push(Mark::new(parent, MarkKind::Listing).priority(self.draft.priority));
        }
    }

    /// A point, or a listing or subtree whose path is no directory any more: then the run of points that follows the
    /// wide one has it, as it may be large, and what changed since is sent whatever size and mtime say.
    fn point(&mut self, mark: &DraftMark, status: &Status) {
        let is_file = status.entry_type == EntryType::File;
        let size = if is_file { status.size } else { 0 };
        if size > self.options.large && !self.draft.large {
            self.plan.large.push(mark.path.clone());
            return;
        }
        if self.plan.bytes > 0 && self.plan.bytes + size > self.options.bytes_max && !self.draft.large {
            self.plan.later.push(mark.path.clone());
            return;
        }
        self.plan.bytes += size;
        self.touches(&mark.path);
        let plain = (mark.path.clone(), EntryKind::Plain);
        let resend = is_file
            && match mark.content {
                Content::Compare => false,
                Content::Since(since) => status.changed >= since,
                Content::Resend => true,
            };
        self.largest[usize::from(resend)] = self.largest[usize::from(resend)].max(size);
        self.bytes[usize::from(resend)] += size;
        if resend { self.resend.push(plain) } else { self.compare.push(plain) }
    }

    fn wide(&mut self, mark: &DraftMark, sighting: &Sighting, kind: EntryKind) {
        let Some(survey) = &sighting.survey else {
            return self.plan.failed.push((mark.path.clone(), "the directory could not be listed".to_owned()));
        };
        // One path in it failed before: an error on the sender's side keeps rsync from deleting anything in the run, so
        // its neighbours must not share a run with it again and again.
        let poisoned = mark.attempts > 0 && survey.children.len() <= self.options.follow_max;
        if mark.kind == MarkKind::Subtree && (survey.too_big || poisoned) {
            return self.split(mark, survey);
        }
        let full = self.plan.bytes + survey.bytes > self.options.bytes_max
            || self.surveyed + survey.entries > self.options.entries_max;
        if full && !self.wide.is_empty() {
            self.plan.later.push(mark.path.clone());
            return;
        }
        self.plan.bytes += survey.bytes;
        self.surveyed += survey.entries;
        self.plan.directories += survey.directories;
        self.touches(&mark.path);
        self.wide.push((mark.path.clone(), kind));
        if mark.origin.is_some() {
            return self.moved(mark, survey);
        }
        if survey.large.len() > self.options.follow_max {
            // As marks they would not fit: they would be widened to what led to them, again and again.
            self.large_too = true;
            self.add_changed(mark, &survey.large_changed);
            return self.add_changed(mark, &survey.changed);
        }
        for path in &survey.large {
            let mut large =
                Mark::new(path.clone(), MarkKind::Point).content(mark.content).priority(self.draft.priority);
            large.large = true;
            large.changes_names = false;
            self.plan.marks.push(large);
        }
        self.add_changed(mark, &survey.changed);
    }

    /// All of it is compared in one run: most likely nothing of it is sent. Of a file with other names, an event may have told
    /// by one of those only, so it is sent.
    fn moved(&mut self, mark: &DraftMark, survey: &Survey) {
        self.large_too = true;
        self.plan.moved = Some(u32::try_from(survey.entries + 1).unwrap_or(u32::MAX));
        self.basis.clone_from(&mark.origin);
        for found in &survey.linked {
            let mut linked = Mark::new(found.path.clone(), MarkKind::Point).content(Content::Resend);
            (linked.changes_names, linked.derived) = (false, true);
            self.plan.marks.push(linked);
        }
    }

    fn add_changed(&mut self, mark: &DraftMark, changed: &[RelPath]) {
        if matches!(mark.content, Content::Since(_)) {
            changed.iter().for_each(|path| self.touches(path));
            self.changed.extend(changed.iter().map(|path| (path.clone(), EntryKind::Plain)));
        }
    }

    /// Too much for one run: its listing, and a subtree for each directory in it. In the background, because a tree of
    /// that size must not keep single changes waiting.
    fn split(&mut self, mark: &DraftMark, survey: &Survey) {
        let part = |path: RelPath, kind| {
            let mut part = Mark::new(path, kind).content(mark.content).priority(Priority::Background);
            part.changes_names = false;
            part
        };
        self.plan.marks.push(part(mark.path.clone(), MarkKind::Listing));
        for child in &survey.children {
            self.plan.marks.push(part(child.clone(), MarkKind::Subtree));
        }
    }

    fn finish(mut self) -> Plan {
        let (run_kind, wide_content) = match self.draft.class {
            Class::Points => (RunKind::Points, Content::Compare),
            Class::Listing => {
                (RunKind::Listing, self.draft.marks.first().map_or(Content::Compare, |mark| mark.content))
            }
            Class::Subtree => {
                (RunKind::Subtree, self.draft.marks.first().map_or(Content::Compare, |mark| mark.content))
            }
        };
        // Two runs cost more than some small files sent twice.
        if !self.resend.is_empty() && self.largest[0] <= RESEND_ANYWAY {
            self.resend.append(&mut self.compare);
            self.largest[1] = self.largest[1].max(self.largest[0]);
            self.bytes = [0, self.bytes[0] + self.bytes[1]];
        }
        let approved = self.draft.marks.iter().any(|mark| mark.deletes == Deletes::Approved);
        let moved = self.draft.marks.iter().try_fold(0, |sum, mark| match mark.deletes {
            Deletes::Moved(names) => Some(sum + u64::from(names)),
            Deletes::Single | Deletes::Unknown | Deletes::Approved | Deletes::Denied => None,
        });
        let (unsure, absent) = (&self.unsure, &self.absent);
        let risk = |kind, entries: &[(RelPath, EntryKind)]| match kind {
            _ if approved => Risk::Approved,
            RunKind::RootAttributes => Risk::AtMost(0),
            RunKind::Points if !entries.iter().any(|(path, _)| unsure.contains(path)) => {
                let gone = entries.iter().filter(|(path, _)| absent.contains(path)).count();
                Risk::AtMost(gone as u64)
            }
            RunKind::Points if let Some(names) = moved => Risk::Moved(names),
            RunKind::Points | RunKind::Listing | RunKind::Subtree => Risk::Unknown,
            RunKind::Move => Risk::AtMost(0),
        };
        let bytes = self.bytes;
        if let Some(basis) = self.basis {
            let entries = self.wide.clone();
            let risk = Risk::AtMost(0);
            let kind = RunKind::Move;
            let run =
                Run { kind, resend: false, whole: false, size_max: None, entries, risk, bytes: 0, basis: Some(basis) };
            self.plan.runs.push(run);
        }
        let mut add = |kind, resend, whole, size_max, bytes, mut entries: Vec<(RelPath, EntryKind)>| {
            if !entries.is_empty() {
                entries.sort_unstable();
                entries.dedup();
                let risk = risk(kind, &entries);
                self.plan.runs.push(Run { kind, resend, whole, size_max, entries, risk, bytes, basis: None });
            }
        };
        let size_max = (!self.large_too).then_some(self.options.large);
        let whole_max = self.options.whole_max;
        let whole = |largest: u64| largest <= whole_max;
        add(run_kind, wide_content == Content::Resend, false, size_max, 0, self.wide);
        add(RunKind::Points, true, whole(self.largest[1]), None, bytes[1], self.resend);
        add(RunKind::Points, false, whole(self.largest[0]), None, bytes[0], self.compare);
        add(RunKind::Points, false, whole(0), None, 0, self.gone);
        add(RunKind::Points, true, false, None, 0, self.changed);
        if self.root_touched {
            let mut root = Mark::new(RelPath::root(), MarkKind::Attributes).stage(Stage::Lazy);
            root.changes_names = false;
            self.plan.marks.push(root);
        }
        if self.root_attributes {
            add(RunKind::RootAttributes, false, false, None, 0, vec![(RelPath::root(), EntryKind::Listing)]);
        }
        self.plan
    }
}

#[cfg(test)]
mod tests;
