//! A draft on its way: what is at its paths, the runs that follow, and what of it is on the target after each of them.

use std::borrow::Borrow;
use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::cause::{self, Cause, Remedy};
use super::complaint::PathCause;
use super::outcome::{self, Applied, Verdict};
use crate::change::{BatchId, Content, Deletes, Draft, DraftMark, MarkKind, Priority};
use crate::dispatch::{Conclusion, FailedMark, Outcome, Pace, Report, Trouble, TroubleRemedy, Why};
use crate::path::RelPath;
use crate::plan::{LinkTable, Look, Looker, Plan, PlanOptions, Run, RunKind, Siblings, Sighting, SurveyLimits};
use crate::sys::files::EntryType;
use crate::sys::ground::Ground;
use crate::watch::Source;

/// Bounds of one draft: a live one is as large as is efficient; a background one ends soon, because a live change
/// beneath it waits for it.
const LIVE: Bounds = Bounds { entries: 20_000, bytes: 64 * 1024 * 1024 };
/// A directory that was renamed is compared in one run, as nobody else may touch what it rests on meanwhile.
const MOVED: Bounds = Bounds { entries: 100_000, bytes: u64::MAX };
const BACKGROUND: Bounds = Bounds { entries: 4_096, bytes: 32 * 1024 * 1024 };

struct Bounds {
    entries: usize,
    bytes: u64,
}

/// What one draft leads to may take this part of the backlog: widening leaves half of it free.
const FOLLOW_SHARE: usize = 4;

/// A draft whose paths were looked at.
#[derive(Debug, Default)]
pub struct Shipment {
    /// Whose it is.
    pub batch: BatchId,
    /// The runs, in this order.
    pub runs: Vec<Run>,
    /// Bytes of the files in them, as far as they are known.
    pub bytes: u64,
    /// The draft is of the large lane.
    pub large: bool,
    /// The report that precedes the runs, if there is something to report.
    pub seen: Option<Report>,
    /// Some inode has names that nobody knows.
    pub search_links: bool,
    directories: usize,
    failures: Failures,
    /// Marks of the draft with nothing at their paths.
    absent: BTreeSet<RelPath>,
    /// Marks for which more may be deleted than one name of which an event told, and those that are gone.
    deleting: BTreeSet<RelPath>,
    /// Of these, those around which deletes are held.
    denied: BTreeSet<RelPath>,
    aside: Option<Trouble>,
    rules_protect: bool,
    /// A move: so many names have another one.
    moved: Option<u32>,
}

/// Where a draft is looked at.
#[derive(Debug)]
pub struct Sights<'a, G: Ground> {
    /// The root.
    pub source: &'a Source<G>,
    /// Inodes with several names.
    pub links: &'a Mutex<LinkTable>,
    /// Files above this go to the large lane. Unit: bytes.
    pub large: u64,
    /// Files up to this are sent whole. Unit: bytes.
    pub whole_max: u64,
    /// Marks that may wait for the target.
    pub backlog: usize,
}

impl Shipment {
    /// Takes note of how the next run ended. A conclusion ends the shipment: the runs that are left are not made.
    #[must_use]
    pub fn on_verdict(&mut self, run: &Run, verdict: Verdict) -> Option<Conclusion> {
        // What is in its place after a move, the next run tells. It would not get anywhere either where there is no target.
        if run.kind == RunKind::Move && !verdict.cause.is_without_target() {
            return None;
        }
        match &verdict.applied {
            Applied::All => None,
            Applied::AllBut(failed) => {
                // A full target: the paths wait, and so does everything else.
                self.aside = trouble_of(&verdict).or(self.aside.take());
                for failed in failed {
                    if failed.why == PathCause::Unsupported && self.absent.contains(&failed.path) {
                        // A daemon that refuses the option takes the entry for a device that it cannot make, and
                        // deletes nothing (observed, 3.5.0).
                        self.aside = Some(no_missing_args(&verdict));
                        self.failures.add(&failed.path, Why::Raced, &failed.words);
                    } else {
                        self.failures.add_path(failed, self.rules_protect);
                    }
                }
                None
            }
            Applied::Unclear => Some(Conclusion {
                trouble: trouble_of(&verdict),
                outcome: Outcome::Unclear(verdict.words),
                directories: 0,
                moved: None,
            }),
            Applied::EndedBy(failed) => {
                for failed in failed {
                    self.failures.add(&failed.path, Why::Refused, &failed.words);
                }
                let failed = std::mem::take(&mut self.failures).finish();
                let trouble = trouble_of(&verdict);
                Some(Conclusion { outcome: Outcome::EndedBy(failed), trouble, directories: 0, moved: None })
            }
            Applied::Nothing => {
                let trouble = trouble_of(&verdict).unwrap_or_else(|| Trouble {
                    cause: verdict.cause.name(),
                    remedy: TroubleRemedy::Pause(Pace::Soon),
                    words: verdict.words.clone(),
                    hint: verdict.cause.hint(),
                });
                let outcome = if verdict.cause.may_litter() { Outcome::Broken } else { Outcome::Nothing };
                Some(Conclusion { outcome, ..nothing(trouble) })
            }
        }
    }

    /// Whether deletes around one of the run's marks are held: then it must not delete anything either.
    #[must_use]
    pub fn is_denied(&self, run: &Run) -> bool {
        run.entries.iter().any(|(path, _)| self.denied.contains(path))
    }

    /// The deletes of a run, so many names, are held: the marks that asked for them are not done.
    pub fn hold(&mut self, run: &Run, deletes: u64) {
        let entries = || run.entries.iter().map(|(path, _)| path);
        let mut marks: Vec<&RelPath> = entries().filter(|path| self.deleting.contains(path)).collect();
        if marks.is_empty() {
            // A directory is in the way of what events told of.
            marks = entries().collect();
        }
        // Which of them asked for how many is not known: together they make the number.
        let mut left = deletes;
        for (index, path) in marks.iter().enumerate() {
            let deletes = if index + 1 == marks.len() { left } else { left / (marks.len() - index) as u64 };
            left -= deletes;
            self.failures.hold(path, deletes.max(1));
        }
    }

    /// All runs were made.
    #[must_use]
    pub fn finish(self) -> Conclusion {
        Conclusion {
            moved: self.moved.filter(|_| self.failures.is_empty()),
            outcome: Outcome::Done(self.failures.finish()),
            trouble: self.aside,
            directories: self.directories,
        }
    }
}

impl<G: Ground> Sights<'_, G> {
    /// Looks at the paths of a draft and plans its runs.
    #[must_use]
    pub fn prepare(&self, draft: &Draft, missing_args: bool) -> Shipment {
        let bounds = match draft.priority {
            Priority::Live => &LIVE,
            Priority::Background => &BACKGROUND,
        };
        let options = PlanOptions {
            large: self.large,
            whole_max: self.whole_max,
            bytes_max: bounds.bytes,
            entries_max: bounds.entries,
            follow_max: self.backlog / FOLLOW_SHARE,
            missing_args,
            keep: self.source.keep,
        };
        let sightings = self.sight(draft, bounds);
        let Plan { runs, marks, large, later, failed, search_links, bytes, directories, deletes: _, moved } =
            crate::plan::plan(draft, &sightings, &options);
        let mut failures = Failures::new(draft);
        for (path, words) in failed {
            failures.add(&path, Why::Refused, &words);
        }
        let quiet = marks.is_empty() && large.is_empty() && later.is_empty();
        let deleting = || {
            draft
                .marks
                .iter()
                .zip(&sightings)
                .filter(|(mark, sighting)| matches!(sighting.look, Look::Absent) || mark.deletes != Deletes::Single)
        };
        let denied = deleting().filter(|(mark, _)| mark.deletes == Deletes::Denied);
        let absent = draft.marks.iter().zip(&sightings).filter(|(_, sighting)| matches!(sighting.look, Look::Absent));
        Shipment {
            batch: draft.batch,
            seen: (!quiet).then_some(Report::Seen { batch: draft.batch, marks, large, later }),
            absent: absent.map(|(mark, _)| mark.path.clone()).collect(),
            runs,
            bytes,
            large: draft.large,
            search_links,
            directories,
            failures,
            deleting: deleting().map(|(mark, _)| mark.path.clone()).collect(),
            denied: denied.map(|(mark, _)| mark.path.clone()).collect(),
            aside: None,
            moved,
            // What is kept by the operator's will is to be seen.
            rules_protect: self.source.filter.protects() && !self.source.keep,
        }
    }

    fn sight(&self, draft: &Draft, bounds: &Bounds) -> Vec<Sighting> {
        let mut looker = Looker::new(&self.source.root);
        let mut budget = bounds.entries;
        draft
            .marks
            .iter()
            .map(|mark| {
                let look = looker.look(&mark.path);
                let directory = matches!(&look, Look::Present(status) if status.entry_type == EntryType::Directory);
                let survey = (directory && matches!(mark.kind, MarkKind::Listing | MarkKind::Subtree))
                    .then(|| self.survey(draft, mark, bounds, &mut budget))
                    .flatten();
                Sighting {
                    excluded: matches!(&look, Look::Present(_))
                        && self.source.filter.excludes_within(&mark.path, directory),
                    siblings: self.siblings(mark, &look, survey.as_ref()),
                    look,
                    survey,
                }
            })
            .collect()
    }

    /// Other names of the inodes that the mark is about, or was about: an event tells of one name only.
    fn siblings(&self, mark: &DraftMark, look: &Look, survey: Option<&crate::plan::Survey>) -> Siblings {
        let mut links = self.links.lock();
        match (mark.kind, look, survey) {
            (MarkKind::Attributes, ..) => Siblings::default(),
            (MarkKind::Listing | MarkKind::Subtree, _, Some(survey)) => {
                // Whatever was compared without a hint of a write tells nothing of other names.
                let told = mark.content != Content::Compare || mark.origin.is_some();
                let mut siblings = Siblings::default();
                if told && mark.kind == MarkKind::Subtree {
                    siblings.others = links.forget_within(&mark.path);
                }
                for found in &survey.linked {
                    let known = links.note(&found.path, found.identity, found.links);
                    siblings.incomplete |= known.incomplete;
                    siblings
                        .others
                        .extend(known.others.into_iter().filter(|other| !reaches(mark.kind, &mark.path, other)));
                }
                siblings.others.sort_unstable();
                siblings.others.dedup();
                if told { siblings } else { Siblings::default() }
            }
            (_, Look::Present(status), _) if status.entry_type != EntryType::Directory => {
                links.note(&mark.path, status.identity, status.links)
            }
            (..) => Siblings { others: links.forget_within(&mark.path), incomplete: false },
        }
    }

    /// Surveys a directory of the draft. Once the draft's budget is used up the rest is not looked at: its survey says
    /// that it does not fit, and the plan leaves it for later.
    fn survey(
        &self,
        draft: &Draft,
        mark: &DraftMark,
        bounds: &Bounds,
        budget: &mut usize,
    ) -> Option<crate::plan::Survey> {
        if *budget == 0 {
            return Some(crate::plan::Survey { entries: usize::MAX / 2, ..crate::plan::Survey::default() });
        }
        // What was renamed is not sent, most likely: its bytes do not count.
        let (bounds, large) = if mark.origin.is_some() { (&MOVED, u64::MAX) } else { (bounds, self.large) };
        let limits = SurveyLimits {
            entries_max: bounds.entries,
            bytes_max: bounds.bytes,
            large,
            since: match mark.content {
                Content::Since(since) => Some(since),
                Content::Compare | Content::Resend => None,
            },
            device: self.source.one_file_system.then_some(self.source.device),
        };
        let recurse = mark.kind == MarkKind::Subtree;
        let survey = |limits: &SurveyLimits| {
            crate::plan::survey(&self.source.root, &mark.path, recurse, &self.source.filter, limits).ok()
        };
        let mut found = survey(&limits)?;
        if found.too_big && found.children.len() > self.backlog / FOLLOW_SHARE {
            // Its parts would not fit into the backlog: they would be widened to what led to them, again and again.
            found = survey(&SurveyLimits { entries_max: usize::MAX, bytes_max: u64::MAX, ..limits })?;
        }
        *budget = budget.saturating_sub(found.entries);
        tracing::trace!(root = self.source.name, batch = draft.batch.0, path = %mark.path, entries = found.entries, "surveyed");
        Some(found)
    }
}

/// Whether `path` is one of `paths` or beneath one.
pub(super) fn within<P: Borrow<RelPath> + Ord>(paths: &BTreeSet<P>, path: &RelPath) -> bool {
    let mut at = Some(path.clone());
    while let Some(here) = at {
        if paths.contains::<RelPath>(&here) {
            return true;
        }
        at = here.parent();
    }
    false
}

/// The paths at or beneath `path`.
fn beneath<'a, P: Borrow<RelPath> + Ord>(
    paths: &'a BTreeSet<P>,
    path: &'a RelPath,
) -> impl Iterator<Item = &'a RelPath> {
    // In order of bytes, names like `a-b` stand between `a` and `a/b`, so the run is cut by prefix, not by component.
    paths
        .range::<RelPath, _>(path..)
        .map(Borrow::borrow)
        .take_while(|other| other.as_bytes().starts_with(path.as_bytes()))
        .filter(|other| other.is_within(path))
}

pub(super) fn is_above<P: Borrow<RelPath> + Ord>(paths: &BTreeSet<P>, path: &RelPath) -> bool {
    beneath(paths, path).next().is_some()
}

pub(super) fn nothing(trouble: Trouble) -> Conclusion {
    Conclusion { outcome: Outcome::Nothing, trouble: Some(trouble), directories: 0, moved: None }
}

fn no_missing_args(verdict: &Verdict) -> Trouble {
    Trouble {
        cause: Cause::MissingArgsUnsupported.name(),
        remedy: TroubleRemedy::DropMissingArgs,
        words: verdict.words.clone(),
        hint: Cause::MissingArgsUnsupported.hint(),
    }
}

/// What an empty list was answered; `None` when all is well.
#[must_use]
pub fn probed(verdict: &Verdict) -> Option<Trouble> {
    match verdict.applied {
        Applied::All | Applied::AllBut(_) | Applied::Unclear => None,
        Applied::Nothing | Applied::EndedBy(_) => trouble_of(verdict),
    }
}

fn trouble_of(verdict: &Verdict) -> Option<Trouble> {
    let remedy = match verdict.remedy {
        Remedy::Nothing | Remedy::RetryPaths | Remedy::Halve => return None,
        // The target may be at fault, or a path of the batch: the probe tells.
        Remedy::RetryBatch | Remedy::Probe => TroubleRemedy::Pause(Pace::Now),
        Remedy::PauseTarget { .. } if verdict.cause == Cause::TargetFull => TroubleRemedy::PauseFull,
        Remedy::PauseTarget { .. } | Remedy::StopTarget if verdict.cause.is_without_destination() => {
            TroubleRemedy::PauseAnew
        }
        Remedy::PauseTarget { pace: cause::Pace::Soon } => TroubleRemedy::Pause(Pace::Soon),
        Remedy::PauseTarget { pace: cause::Pace::Normal } => TroubleRemedy::Pause(Pace::Normal),
        Remedy::PauseTarget { pace: cause::Pace::Slow } | Remedy::StopTarget => TroubleRemedy::Pause(Pace::Slow),
        Remedy::DropMissingArgs => TroubleRemedy::DropMissingArgs,
        Remedy::HoldSource => TroubleRemedy::HoldSource,
    };
    Some(Trouble { cause: verdict.cause.name(), remedy, words: verdict.words.clone(), hint: verdict.cause.hint() })
}

/// Failed paths as marks of the draft.
#[derive(Debug, Default)]
struct Failures {
    marks: BTreeSet<RelPath>,
    /// The listings and subtrees among them.
    wide: std::collections::BTreeMap<RelPath, (MarkKind, Content)>,
    failed: std::collections::BTreeMap<RelPath, FailedMark>,
}

impl Failures {
    fn new(draft: &Draft) -> Self {
        let wide = draft.marks.iter().filter(|mark| matches!(mark.kind, MarkKind::Listing | MarkKind::Subtree));
        Self {
            marks: draft.marks.iter().map(|mark| mark.path.clone()).collect(),
            wide: wide.map(|mark| (mark.path.clone(), (mark.kind, mark.content))).collect(),
            failed: std::collections::BTreeMap::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    fn add_path(&mut self, failed: &outcome::Failed, rules_protect: bool) {
        let why = match failed.why {
            PathCause::Vanished | PathCause::Raced => Why::Raced,
            // What the rules exclude keeps a directory alive that is gone from the source: as rsync -r does it.
            PathCause::NotDeleted if rules_protect => return,
            _ => Why::Refused,
        };
        if !failed.contents && !self.covers(&failed.path) {
            // Only attributes of a directory above the entries: they are on the target, but the operator shall know.
            return self.insert(failed.path.clone(), why, &failed.words);
        }
        match self.nearest(&failed.path).and_then(|above| self.wide.get_key_value(&above)) {
            Some((above, (kind, content))) if *above != failed.path => {
                let kind = match kind {
                    _ if !failed.contents => MarkKind::Attributes,
                    MarkKind::Subtree => MarkKind::Subtree,
                    MarkKind::Listing | MarkKind::Point | MarkKind::Attributes => MarkKind::Point,
                };
                self.insert(failed.path.clone(), Why::Beneath(kind, *content), &failed.words);
            }
            Some(_) | None => self.add(&failed.path, why, &failed.words),
        }
    }

    /// The mark of the path, or the nearest above it.
    fn nearest(&self, path: &RelPath) -> Option<RelPath> {
        let mut at = Some(path.clone());
        while let Some(here) = at {
            if self.marks.contains(&here) {
                return Some(here);
            }
            at = here.parent();
        }
        None
    }

    fn covers(&self, path: &RelPath) -> bool {
        within(&self.marks, path)
    }

    /// The mark that asked for `path`: its own, or the nearest above it, or else those beneath it.
    fn add(&mut self, path: &RelPath, why: Why, words: &str) {
        if let Some(here) = self.nearest(path) {
            return self.insert(here, why, words);
        }
        let beneath: Vec<RelPath> = beneath(&self.marks, path).cloned().collect();
        for mark in beneath {
            self.insert(mark, why, words);
        }
    }

    fn insert(&mut self, path: RelPath, why: Why, words: &str) {
        let failed = FailedMark { path: path.clone(), why, words: words.to_owned() };
        let entry = self.failed.entry(path).or_insert(failed);
        if why == Why::Refused || matches!(entry.why, Why::Held { .. }) {
            entry.why = why;
        }
    }

    /// A failure comes first: it is tried again, and then held.
    fn hold(&mut self, path: &RelPath, deletes: u64) {
        let Some(mark) = self.nearest(path) else { return };
        let held = FailedMark { path: mark.clone(), why: Why::Held { deletes }, words: String::new() };
        self.failed.entry(mark).or_insert(held);
    }

    fn finish(self) -> Vec<FailedMark> {
        self.failed.into_values().collect()
    }
}

/// Whether what is sent for a listing or a subtree at `top` takes in this path.
fn reaches(kind: MarkKind, top: &RelPath, path: &RelPath) -> bool {
    match kind {
        MarkKind::Listing => path.parent().is_some_and(|parent| parent == *top),
        MarkKind::Attributes | MarkKind::Point | MarkKind::Subtree => path.is_within(top),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write through one name of a file, under a mark that was widened to a listing, was not told to the file's other name
    /// deeper down (simulation, seed 8425 by fanotify).
    #[test]
    fn a_listing_reaches_one_level_and_a_subtree_all() {
        let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
        let check = |kind, top: &str, expected: [bool; 3]| {
            let reached = ["d/a", "d/e/a", "a"].map(|name| reaches(kind, &path(top), &path(name)));
            assert_eq!(reached, expected, "{kind:?} {top}");
        };
        check(MarkKind::Listing, "d", [true, false, false]);
        check(MarkKind::Listing, "", [false, false, true]);
        check(MarkKind::Subtree, "d", [true, true, false]);
        check(MarkKind::Subtree, "", [true, true, true]);
    }
}
