//! One target: its change set, its lanes, its breaker.

use std::time::{Duration, Instant};

use super::backoff::{Backoff, Haste};
use super::breaker::{Breaker, Pace};
use super::dispatcher::Room;
use super::held::{HeldDeletes, approved};
use super::order::{Action, Conclusion, FailedMark, LaneId, Notice, Order, Outcome, Trouble, TroubleRemedy, Why};
use super::view::{HeldDeletesView, LISTED_BYTES_MAX, LISTED_MAX, LetterView, PathOnTarget, TargetView};
use super::words::Words;
use crate::change::{
    BatchId, ChangeSet, ChangeSetOptions, Deletes, Draft, Fate, Mark, MarkKind, Now, Priority, SavedChange, SavedMark,
    Want,
};
use crate::path::RelPath;
use crate::target::TargetId;

/// What a target's dispatch depends on.
#[derive(Debug, Clone, Copy)]
pub struct TargetOptions {
    /// Lanes, at least one. With two or more, the first takes large files only.
    pub lanes: u16,
    /// Limits of its change set.
    pub changes: ChangeSetOptions,
}

/// Marks of one batch. Unit: marks. Why 5,000: sending 10,000 paths at once is no faster per path (notes/rsync.md
/// 5.2), and what fails as a whole is sent again as a whole.
const BATCH_MAX: usize = 5_000;

/// How long live marks wait for the lane that is busy before another joins it. Unit: time. Why 20 ms: two to three small
/// runs; the wait is only under load.
const JOIN_AFTER: Duration = Duration::from_millis(20);

/// Or how many of them wait. Unit: marks.
const JOIN_MARKS: usize = 2_000;

/// Batch size while a target is full (notes/rsync.md 6).
const BATCH_WHEN_FULL: usize = 16;

/// Failures of one path before it becomes a dead letter.
const ATTEMPTS_MAX: u32 = 8;

/// Dead letters before they are looked through for those that are none any more. Unit: paths. Why: the cost of the
/// look is spread over as many new ones.
const DEAD_LETTERS_LOOK: usize = 100;

/// Between the retries of a dead letter. Design 5.
const DEAD_LETTER_PAUSE: Duration = Duration::from_secs(600);

/// What the operator hears of a path that failed alone without a word from rsync that names it.
const NO_WORDS: &str = "rsync failed with this path alone and did not say why";

/// Between the retries of a path that changes whenever it is sent, or seems to: a name that is listed but not there, a
/// symlink in its way on the target, a checksum that never fits.
const RACED_BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(10) };

/// The cause that is told while the operator wants nothing to be sent.
const OPERATOR: &str = "operator";

const PATH_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };

/// Between two retries of paths that a full target has no room for, whichever they are: on the average half of it. Each
/// ends a batch when it fails, so it goes alone; many of them must not keep the lanes busy.
const CULPRIT_PAUSE: Duration = Duration::from_secs(10);

/// Between two times that all of them are tried because one of them went well.
const HURRY_PAUSE: Duration = Duration::from_secs(60);

/// Batches that failed in a row, with good probes in between, before their own paths are suspected whatever rsync says:
/// a file on a dead network file system, say, stalls the transfer and looks like a target that does not answer.
const SUSPECT_AFTER: u32 = 3;

#[derive(Debug, Clone, Copy)]
struct Busy {
    priority: Priority,
    missing_args: bool,
}

/// The state of one target. Pure.
#[derive(Debug)]
pub(super) struct TargetState {
    id: TargetId,
    changes: ChangeSet,
    lanes: Vec<Option<Busy>>,
    breaker: Breaker,
    batch_max: usize,
    missing_args: bool,
    /// Paths that failed again and again. One that a wider mark took in stays here until the next look.
    dead_letters: std::collections::BTreeSet<RelPath>,
    dead_letters_look: usize,
    words: Words,
    /// Why it takes no batches.
    paused_for: Option<Trouble>,
    /// The operator wants nothing to be sent.
    paused: bool,
    /// Paths that failed alone since the last probe, which may yet show that it was not their fault.
    suspects: Vec<RelPath>,
    /// Paths that a full target had no room for. One that a wider mark took in stays here until the next look.
    culprits: std::collections::BTreeSet<RelPath>,
    hurried_at: Option<Instant>,
    /// Since when one of them has gone well and the others were not tried.
    hurry_since: Option<Instant>,
    /// What was said when that happened last.
    cramped: Option<Trouble>,
    /// Its directory was gone: when it takes batches again, everything is compared.
    anew: bool,
    haste: Haste,
    held: HeldDeletes,
    /// How long deletes are held; `None`: until somebody approves them.
    release_after: Option<Duration>,
    /// The last batch that was given to a lane.
    last_batch: BatchId,
    /// When more is due than fits into a batch, the next one begins with what became due last.
    newest_next: bool,
    /// What batches up to this one would not delete was approved while they were under way.
    approved_until: BatchId,
}

/// Who is to blame, by rsync's own words, for a batch that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blamed {
    /// It named no path.
    Nobody,
    /// Only paths that have failed before.
    Known,
    /// At least one that had not failed.
    New,
}

/// What it means for a path that it failed.
struct Refusal<'a> {
    target: TargetId,
    haste: Haste,
    dead_letters: &'a mut std::collections::BTreeSet<RelPath>,
    culprits: &'a mut std::collections::BTreeSet<RelPath>,
    said: &'a mut Words,
}

impl Refusal<'_> {
    /// Takes note of the failure, the `attempts`th of the path; gives the pause until the next.
    fn note(
        &mut self,
        path: &RelPath,
        attempts: u32,
        words: String,
        rng: &mut fastrand::Rng,
        notices: &mut Vec<Notice>,
    ) -> Duration {
        let dead_letter = attempts >= ATTEMPTS_MAX;
        if dead_letter {
            self.dead_letters.insert(path.clone());
        }
        self.said.keep(path, &words);
        notices.push(Notice::PathFailed { target: self.target, path: path.clone(), words, attempts, dead_letter });
        let pause = if dead_letter { DEAD_LETTER_PAUSE } else { PATH_BACKOFF.pause(attempts, rng) };
        let pause = if self.culprits.contains(path) {
            let share = u32::try_from(self.culprits.len()).unwrap_or(u32::MAX);
            pause.max(CULPRIT_PAUSE.saturating_mul(share).mul_f64(rng.f64()))
        } else {
            pause
        };
        self.haste.shorten(pause)
    }
}

impl TargetState {
    pub(super) fn new(id: TargetId, options: TargetOptions) -> Self {
        Self {
            id,
            changes: ChangeSet::new(options.changes),
            lanes: vec![None; usize::from(options.lanes.max(1))],
            breaker: Breaker::Closed { failures: 0 },
            batch_max: BATCH_MAX,
            missing_args: true,
            dead_letters: std::collections::BTreeSet::new(),
            dead_letters_look: DEAD_LETTERS_LOOK,
            words: Words::new(),
            paused_for: None,
            paused: false,
            suspects: Vec::new(),
            culprits: std::collections::BTreeSet::new(),
            hurried_at: None,
            hurry_since: None,
            cramped: None,
            anew: false,
            haste: Haste::NONE,
            held: HeldDeletes::new(),
            release_after: None,
            last_batch: BatchId(0),
            newest_next: false,
            approved_until: BatchId(0),
        }
    }

    pub(super) fn hasten(&mut self, haste: Haste) {
        self.haste = haste;
    }

    pub(super) fn mark_since(&mut self, now: Now, mark: &Mark, since: Instant) {
        self.changes.mark_since(now, mark, since);
    }

    pub(super) fn mark(&mut self, now: Now, mark: &Mark) {
        if mark.origin.as_ref().is_some_and(|origin| self.is_held_around(mark, &origin.path)) {
            // The target has what the source has not.
            let mark = Mark { origin: None, ..mark.clone() };
            return self.changes.mark(now, &mark);
        }
        self.changes.mark(now, mark);
    }

    fn is_held_around(&self, mark: &Mark, origin: &RelPath) -> bool {
        [&mark.path, origin].into_iter().any(|path| self.held.concerns(path, MarkKind::Subtree))
    }

    pub(super) fn restore(&mut self, now: Now, marks: &[SavedMark]) {
        for mark in marks {
            if mark.attempts >= ATTEMPTS_MAX {
                self.dead_letters.insert(mark.path.clone());
            }
            self.changes.restore(now, mark);
        }
    }

    pub(super) fn unsaved(&mut self, now: Now, whole: bool) -> Vec<SavedChange> {
        self.changes.unsaved(now, whole)
    }

    pub(super) fn is_unsaved(&self) -> bool {
        self.changes.is_unsaved()
    }

    /// Gives idle lanes what they can do.
    pub(super) fn assign(&mut self, now: Instant, room: &mut dyn Room, actions: &mut Vec<Action>) {
        if self.paused {
            return;
        }
        self.hurry_culprits(now);
        if self.breaker.begin_probe(now) {
            match self.lanes.iter().position(Option::is_none).filter(|_| room.take()) {
                Some(lane) => {
                    self.lanes[lane] = Some(Busy { priority: Priority::Live, missing_args: self.missing_args });
                    actions.push(self.action(lane, Order::Probe { missing_args: self.missing_args }));
                }
                // Every lane still works on a batch of before, or all places are taken: the first that ends makes room.
                None => self.breaker = Breaker::Open { until: now, failures: self.breaker.failures() },
            }
        }
        if !self.breaker.is_closed() {
            return;
        }
        for lane in (0..self.lanes.len()).rev() {
            if self.lanes[lane].is_some() {
                continue;
            }
            if !room.take() {
                break;
            }
            let (joins, wants) = (self.joins(now, lane), self.wants(lane));
            let take = |want: Want| match (joins, want.background) {
                (true, _) => self.changes.take(now, want),
                (false, true) => self.changes.take_background(now, want),
                (false, false) => None,
            };
            let Some(mut draft) = wants.into_iter().find_map(take) else {
                room.give_back();
                continue;
            };
            self.deny(&mut draft);
            if draft.priority == Priority::Live && !draft.large {
                self.newest_next = !self.newest_next;
            }
            self.last_batch = draft.batch;
            self.lanes[lane] = Some(Busy { priority: draft.priority, missing_args: self.missing_args });
            actions.push(self.action(lane, Order::Send { draft, missing_args: self.missing_args }));
        }
    }

    /// Since when its oldest live mark for a lane of small files is due.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.changes.live_queue().0
    }

    /// What is held stays: a mark around it must not delete it in passing. One name that is known to be gone is no part
    /// of that, unless it is held itself.
    fn deny(&self, draft: &mut Draft) {
        if self.held.is_empty() {
            return;
        }
        for mark in &mut draft.marks {
            let denied = match mark.deletes {
                Deletes::Approved | Deletes::Denied => false,
                Deletes::Single => self.held.contains(&mark.path),
                Deletes::Unknown | Deletes::Moved(_) => self.held.concerns(&mark.path, mark.kind),
            };
            if denied {
                mark.deletes = Deletes::Denied;
            }
        }
    }

    /// Whether an idle lane takes live marks. The first for small files does at once. Another joins it when marks have
    /// waited for a while or are many: until then they are better collected for one run than spread over several,
    /// each of which costs a connection and two processes.
    fn joins(&self, now: Instant, lane: usize) -> bool {
        if lane == 0 || !self.is_live_under_way() {
            return true;
        }
        let (due, count) = self.changes.live_queue();
        count >= JOIN_MARKS || due.is_some_and(|due| now.saturating_duration_since(due) >= JOIN_AFTER)
    }

    fn is_live_under_way(&self) -> bool {
        self.lanes.iter().skip(1).flatten().any(|busy| busy.priority == Priority::Live)
    }

    fn action(&self, lane: usize, order: Order) -> Action {
        Action { target: self.id, lane: LaneId(u16::try_from(lane).unwrap_or(u16::MAX)), order }
    }

    /// What an idle lane may take, in this order.
    fn wants(&self, lane: usize) -> Vec<Want> {
        let large = Want { large: true, background: true, marks_max: 1, newest: false };
        // Half of the batches of a flood: neither the first nor the last of it waits for all the others.
        let newest = self.newest_next && self.changes.live_queue().1 > self.batch_max;
        if self.lanes.len() == 1 {
            let small = Want { large: false, background: true, marks_max: self.batch_max, newest };
            return vec![small, large];
        }
        if lane == 0 {
            return vec![large];
        }
        // One of the lanes for small files is always free of background work, so that a live change finds it idle.
        let busy_with_background =
            self.lanes[1..].iter().flatten().filter(|busy| busy.priority == Priority::Background).count();
        let small_lanes = self.lanes.len() - 1;
        let background = busy_with_background + 1 < small_lanes || small_lanes == 1;
        vec![Want { large: false, background, marks_max: self.batch_max, newest }]
    }

    /// Gives since when what follows from the look may have happened.
    pub(super) fn on_seen(
        &mut self,
        now: Now,
        batch: BatchId,
        marks: &[Mark],
        large: &[RelPath],
        later: &[RelPath],
    ) -> Instant {
        self.changes.release(now, batch, large, true);
        self.changes.release(now, batch, later, false);
        // What follows from a look at a path is as old as what made it look.
        let since = self.changes.first_of(batch).unwrap_or(now.instant);
        for mark in marks {
            self.changes.mark_since(now, mark, since);
        }
        since
    }

    pub(super) fn on_concluded(
        &mut self,
        now: Now,
        lane: LaneId,
        batch: BatchId,
        conclusion: Conclusion,
        rng: &mut fastrand::Rng,
        notices: &mut Vec<Notice>,
    ) -> Option<Trouble> {
        let busy = self.lanes[usize::from(lane.0)].take();
        let directories = conclusion.directories;
        let since = self.changes.first_of(batch).unwrap_or(now.instant);
        if let Some(names) = conclusion.moved {
            self.changes.moved(batch, names);
        }
        // A listing deletes what a receiver that was killed has left beside the files of the batch.
        let mut blamed = None;
        let littered = if conclusion.outcome == Outcome::Broken { self.changes.parents(batch) } else { Vec::new() };
        match conclusion.outcome {
            Outcome::Done(failed) => {
                if failed.is_empty() {
                    self.batch_max = (self.batch_max * 2).min(BATCH_MAX);
                }
                // A target that is full says so of one path after the other: only what it took says that it is well.
                if conclusion.trouble.is_none() || failed.len() < self.changes.marks_in(batch) {
                    self.breaker.succeed();
                    self.suspects.clear();
                }
                blamed = Some(self.blamed(batch, &failed));
                if conclusion.trouble.as_ref().is_some_and(|trouble| trouble.remedy == TroubleRemedy::PauseFull) {
                    self.culprits.extend(failed.iter().map(|failed| failed.path.clone()));
                }
                self.conclude_done(now, batch, failed, directories, rng, notices);
            }
            Outcome::EndedBy(failed) => {
                blamed = Some(self.blamed(batch, &failed));
                self.culprits.extend(failed.iter().map(|failed| failed.path.clone()));
                self.conclude_ended_by(now, batch, failed, rng, notices);
            }
            Outcome::Unclear(words) => {
                let words = conclusion.trouble.as_ref().map_or(words, |trouble| trouble.words.clone());
                self.conclude_without(now, batch, true, &words, rng, notices);
            }
            Outcome::Nothing | Outcome::Broken => {
                let suspect = conclusion.trouble.as_ref().is_none_or(|trouble| match trouble.remedy {
                    // The path of a batch of one may be the reason why the connection broke.
                    TroubleRemedy::Pause(Pace::Now) => true,
                    TroubleRemedy::Pause(_) => self.breaker.is_closed() && self.breaker.failures() >= SUSPECT_AFTER,
                    TroubleRemedy::PauseFull
                    | TroubleRemedy::PauseAnew
                    | TroubleRemedy::DropMissingArgs
                    | TroubleRemedy::HoldSource
                    | TroubleRemedy::Again
                    | TroubleRemedy::Stopping => false,
                });
                let words = conclusion.trouble.as_ref().map_or("", |trouble| &trouble.words);
                if suspect && let Some(path) = self.changes.only_path(batch) {
                    self.suspects.push(path);
                }
                self.conclude_without(now, batch, suspect, words, rng, notices);
            }
        }
        for directory in littered {
            let mark = Mark::new(directory, MarkKind::Listing).priority(Priority::Background);
            self.changes.mark_since(now, &mark, since);
        }
        if self.dead_letters.len().max(self.culprits.len()) >= self.dead_letters_look {
            // Those that a wider mark took in are not told by their own paths.
            self.dead_letters.retain(|path| self.changes.failures(path) > 0);
            self.culprits.retain(|path| self.changes.failures(path) > 0);
            self.dead_letters_look = self.dead_letters.len().max(self.culprits.len()) * 2 + DEAD_LETTERS_LOOK;
        }
        self.words.look(|path| self.changes.failures(path) > 0);
        let mut trouble = conclusion.trouble?;
        if let Some(blamed) = blamed {
            if trouble.remedy.is_pause() && blamed != Blamed::Nobody {
                self.cramped = Some(trouble.clone());
            }
            // The paths that rsync named wait by themselves, and are tried so rarely that nobody else has to wait.
            if blamed == Blamed::Known && trouble.remedy.is_pause() {
                return None;
            }
            if trouble.remedy == TroubleRemedy::PauseFull {
                self.batch_max = BATCH_WHEN_FULL;
            }
            if blamed != Blamed::Nobody && trouble.remedy.is_pause() {
                trouble.remedy = TroubleRemedy::Pause(Pace::Soon);
            }
        }
        self.on_trouble(now.instant, trouble, busy, rng, notices)
    }

    /// Whether the paths that rsync named as failed have failed before.
    fn blamed(&self, batch: BatchId, failed: &[FailedMark]) -> Blamed {
        let attempts = self.changes.attempts(batch);
        if failed.is_empty() {
            Blamed::Nobody
        } else if failed.iter().all(|failed| attempts.contains_key(&failed.path)) {
            Blamed::Known
        } else {
            Blamed::New
        }
    }

    /// Nothing of the batch is known to be on the target, and rsync named the paths that ended it: each waits and goes
    /// alone from now on; the others go again, behind what else is due, since nobody knows whether they fit.
    fn conclude_ended_by(
        &mut self,
        now: Now,
        batch: BatchId,
        failed: Vec<FailedMark>,
        rng: &mut fastrand::Rng,
        notices: &mut Vec<Notice>,
    ) {
        let mut failed: std::collections::BTreeMap<RelPath, FailedMark> =
            failed.into_iter().map(|failed| (failed.path.clone(), failed)).collect();
        let attempts = self.changes.attempts(batch);
        let mut refusal = Refusal {
            target: self.id,
            haste: self.haste,
            dead_letters: &mut self.dead_letters,
            culprits: &mut self.culprits,
            said: &mut self.words,
        };
        self.changes.conclude(now, batch, |path| match failed.remove(path) {
            None => Fate::Behind,
            Some(FailedMark { words, .. }) => {
                let attempts = attempts.get(path).copied().unwrap_or(0) + 1;
                Fate::Retry { not_before: now.instant + refusal.note(path, attempts, words, rng, notices), alone: true }
            }
        });
    }

    fn conclude_done(
        &mut self,
        now: Now,
        batch: BatchId,
        failed: Vec<FailedMark>,
        directories: usize,
        rng: &mut fastrand::Rng,
        notices: &mut Vec<Notice>,
    ) {
        let target = self.id;
        let since = self.changes.first_of(batch).unwrap_or(now.instant);
        // In order, because what is left of it becomes marks: the simulation must do the same again.
        let mut failed: std::collections::BTreeMap<RelPath, FailedMark> =
            failed.into_iter().map(|failed| (failed.path.clone(), failed)).collect();
        let attempts = self.changes.attempts(batch);
        let mut refusal = Refusal {
            target,
            haste: self.haste,
            dead_letters: &mut self.dead_letters,
            culprits: &mut self.culprits,
            said: &mut self.words,
        };
        let mut fits = false;
        let mut held = std::collections::HashMap::new();
        let tally = self.changes.conclude(now, batch, |path| match failed.remove(path) {
            Some(FailedMark { why: Why::Held { deletes }, .. }) => {
                refusal.dead_letters.remove(path);
                refusal.said.forget(path);
                fits |= refusal.culprits.remove(path);
                held.insert(path.clone(), deletes);
                Fate::Held
            }
            None => {
                refusal.dead_letters.remove(path);
                refusal.said.forget(path);
                fits |= refusal.culprits.remove(path);
                Fate::Done
            }
            Some(FailedMark { why: Why::Raced, words, .. }) => {
                refusal.said.keep(path, &words);
                let attempts = attempts.get(path).copied().unwrap_or(0) + 1;
                if attempts >= ATTEMPTS_MAX {
                    notices.push(Notice::PathFailed {
                        target,
                        path: path.clone(),
                        words,
                        attempts,
                        dead_letter: false,
                    });
                }
                // At once, the first time: then it is what it says. What always says so must not keep a lane busy.
                let pause = if attempts == 1 { Duration::ZERO } else { RACED_BACKOFF.pause(attempts - 1, rng) };
                Fate::Retry { not_before: now.instant + refusal.haste.shorten(pause), alone: false }
            }
            Some(FailedMark { why: Why::Refused | Why::Beneath(..), words, .. }) => {
                let attempts = attempts.get(path).copied().unwrap_or(0) + 1;
                let pause = refusal.note(path, attempts, words, rng, notices);
                Fate::Retry { not_before: now.instant + pause, alone: false }
            }
        });
        // There is room for one of them, so there may be for all.
        if fits {
            self.hurry_since.get_or_insert(now.instant);
        }
        self.hurry_culprits(now.instant);
        self.hold(now, batch, tally.held, &held, notices);
        for (path, failed) in failed {
            if let Why::Beneath(kind, content) = failed.why {
                let mut mark = Mark::new(path, kind).content(content);
                mark.changes_names = false;
                // It has failed, so nobody waits for it to be compared.
                self.changes.mark_since(now, &mark, since);
            } else {
                // Attributes of a directory above the batch: its entries are there, its times or mode are not.
                notices.push(Notice::PathFailed { target, path, words: failed.words, attempts: 1, dead_letter: false });
            }
        }
        notices.push(Notice::Acknowledged {
            target,
            firsts: tally.done_live,
            background: tally.done_background,
            directories,
        });
    }

    /// Nothing of the batch is known to be on the target. `split` when its own paths may be the reason.
    fn conclude_without(
        &mut self,
        now: Now,
        batch: BatchId,
        split: bool,
        words: &str,
        rng: &mut fastrand::Rng,
        notices: &mut Vec<Notice>,
    ) {
        let mut refusal = Refusal {
            target: self.id,
            haste: self.haste,
            dead_letters: &mut self.dead_letters,
            culprits: &mut self.culprits,
            said: &mut self.words,
        };
        let attempts = self.changes.attempts(batch);
        let alone = split && self.changes.marks_in(batch) <= 1;
        self.changes.conclude(now, batch, |path| {
            if alone {
                let attempts = attempts.get(path).copied().unwrap_or(0) + 1;
                let words = if words.is_empty() { NO_WORDS } else { words }.to_owned();
                Fate::Retry { not_before: now.instant + refusal.note(path, attempts, words, rng, notices), alone: true }
            } else if split {
                Fate::Split
            } else {
                Fate::Again { large: false }
            }
        });
    }

    pub(super) fn on_probed(
        &mut self,
        now: Now,
        lane: LaneId,
        trouble: Option<Trouble>,
        rng: &mut fastrand::Rng,
        notices: &mut Vec<Notice>,
    ) -> Option<Trouble> {
        let busy = self.lanes[usize::from(lane.0)].take();
        match trouble {
            None => {
                if self.paused_for.take().is_some() {
                    notices.push(Notice::Resumed { target: self.id, failures: self.breaker.failures() });
                }
                self.breaker.close();
                self.suspects.clear();
                if std::mem::take(&mut self.anew) {
                    let mut everything = Mark::new(RelPath::root(), MarkKind::Subtree).priority(Priority::Background);
                    everything.changes_names = false;
                    self.changes.mark(now, &everything);
                }
                None
            }
            Some(trouble) => {
                self.changes.acquit();
                for path in self.suspects.drain(..) {
                    self.changes.absolve(&path);
                    if self.changes.failures(&path) < ATTEMPTS_MAX {
                        self.dead_letters.remove(&path);
                    }
                }
                // What it said is the truth now; asking again at once would say the same.
                let trouble = Trouble {
                    remedy: match trouble.remedy {
                        TroubleRemedy::Pause(Pace::Now) => TroubleRemedy::Pause(Pace::Soon),
                        other => other,
                    },
                    ..trouble
                };
                let rest = self.on_trouble(now.instant, trouble, busy, rng, notices);
                if matches!(self.breaker, Breaker::Probing { .. }) {
                    // Not the target's fault, or mended without a pause: ask again.
                    self.breaker = Breaker::Open { until: now.instant, failures: self.breaker.failures() };
                }
                rest
            }
        }
    }

    /// Acts on trouble; gives back what concerns the whole root.
    fn on_trouble(
        &mut self,
        now: Instant,
        trouble: Trouble,
        busy: Option<Busy>,
        rng: &mut fastrand::Rng,
        notices: &mut Vec<Notice>,
    ) -> Option<Trouble> {
        let pace = match trouble.remedy {
            TroubleRemedy::Pause(pace) => pace,
            TroubleRemedy::PauseFull => {
                self.batch_max = BATCH_WHEN_FULL;
                Pace::Slow
            }
            TroubleRemedy::PauseAnew => {
                self.anew = true;
                Pace::Slow
            }
            // It went without them already: something else is wrong.
            TroubleRemedy::DropMissingArgs if busy.is_some_and(|busy| !busy.missing_args) => Pace::Slow,
            TroubleRemedy::DropMissingArgs => {
                if self.missing_args {
                    self.missing_args = false;
                    notices.push(Notice::MissingArgsDropped { target: self.id });
                }
                return None;
            }
            TroubleRemedy::Again => return None,
            TroubleRemedy::HoldSource | TroubleRemedy::Stopping => return Some(trouble),
        };
        // A probe that is about to tell the cause needs no words of its own.
        if let Some(pause) = self.breaker.fail(now, pace, self.haste, rng).filter(|pause| !pause.is_zero()) {
            self.paused_for = Some(trouble.clone());
            notices.push(Notice::Paused { target: self.id, trouble, failures: self.breaker.failures(), pause });
        }
        None
    }

    /// Tries all paths that the target had no room for, if one of them went well and that was not done just before.
    fn hurry_culprits(&mut self, now: Instant) {
        if self.hurry_at().is_some_and(|at| at <= now) {
            self.hurry_since = None;
            self.hurried_at = Some(now);
            for path in &self.culprits {
                self.changes.hurry(path);
            }
        }
    }

    /// When that is due.
    fn hurry_at(&self) -> Option<Instant> {
        let since = self.hurry_since.filter(|_| !self.culprits.is_empty())?;
        Some(self.hurried_at.map_or(since, |at| since.max(at + self.haste.shorten(HURRY_PAUSE))))
    }

    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.paused {
            return None;
        }
        let release = self.held.release_at(self.release_after);
        let due = if self.breaker.is_closed() { self.changes.next_due(now) } else { None };
        let join = (self.changes.live_queue().0)
            .map(|due| due + JOIN_AFTER)
            .filter(|join| *join > now && self.breaker.is_closed() && self.is_live_under_way());
        // What was due in this turn waits for a lane or for room, and whoever makes it says so.
        let probe = self.breaker.wake_at().filter(|at| *at > now);
        probe.into_iter().chain(due).chain(join).chain(release).chain(self.hurry_at()).min()
    }

    /// Marks that wait, and background marks that wait or are under way: what can be told at no cost.
    pub(super) fn progress(&self) -> (usize, usize) {
        (self.changes.pending(), self.changes.background())
    }

    /// Gives back the memory of marks that are gone. Returns how many paths are remembered still.
    pub(super) fn give_back(&mut self, now: Instant) -> usize {
        self.changes.give_back(now);
        self.changes.remembered()
    }

    /// Begins no batches until it is set back; what is under way goes on.
    pub(super) fn pause(&mut self, paused: bool) -> bool {
        std::mem::replace(&mut self.paused, paused) != paused
    }

    pub(super) fn id(&self) -> TargetId {
        self.id
    }

    /// Whether batches may go there.
    pub(super) fn takes(&self) -> bool {
        !self.paused && self.breaker.is_closed()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// What failed at or beneath `path` is due at once, and a target that takes nothing is asked at once. Returns how
    /// many marks and targets that are.
    pub(super) fn retry(&mut self, now: Instant, path: &RelPath) -> usize {
        let mut count = self.changes.retry(path);
        if let Breaker::Open { failures, .. } = self.breaker {
            self.breaker = Breaker::Open { until: now, failures };
            count += 1;
        }
        count
    }

    /// Whether something of `until` or before is not on the target. See [`ChangeSet::owes`]. Whatever is not in the
    /// change set and not on the target either must be asked here too.
    pub(super) fn owes(&mut self, until: Instant, witness: &mut Option<RelPath>) -> bool {
        let owes = self.changes.owes(until, witness);
        owes || self.held.of_before(until).next().is_some()
    }

    /// How much that is, the first paths of it, and what keeps it, in words.
    pub(super) fn owed(&self, until: Instant) -> (usize, Vec<RelPath>, String) {
        let (marks, first) = self.changes.owed(until, LISTED_MAX);
        let held = self.held.of_before(until).count();
        if held > 0 {
            let words = format!("{held} deletes are held: if they are meant, 'fansync approve'");
            let all = self.held.of_before(until).cloned().chain(first);
            return (held + marks, all.take(LISTED_MAX).collect(), words);
        }
        let words = match (&self.paused_for, self.breaker.is_closed()) {
            _ if self.paused => "the target is paused by 'fansync pause'".to_owned(),
            (Some(trouble), false) => format!("the target takes nothing: {}: {}", trouble.cause, trouble.words),
            (None, false) => "the target takes nothing, and is being asked why".to_owned(),
            (_, true) => match first.iter().find_map(|path| Some((path, self.words.of(path)?))) {
                Some((path, words)) => format!("it takes changes, but for some: {path}: {words}"),
                None => "changes are under way".to_owned(),
            },
        };
        (marks, first, words)
    }

    /// Costs a look at every mark.
    pub(super) fn view(&self) -> TargetView {
        let failed = |path: &&RelPath| self.changes.failures(path) > 0;
        let mut room = LISTED_BYTES_MAX;
        let letters = self.dead_letters.iter().filter(failed).take(LISTED_MAX).map(|path| self.letter(path));
        TargetView {
            target: self.id,
            paused: self.paused,
            pending: self.changes.pending(),
            background: self.changes.background(),
            in_flight: self.changes.in_flight(),
            batches: self.changes.batches(),
            oldest: self.changes.oldest(),
            dead_letters: self.dead_letters.iter().filter(failed).count(),
            letters: letters
                .take_while(|letter| {
                    let size = letter.path.as_bytes().len() + letter.words.len();
                    let fits = size <= room;
                    room = room.saturating_sub(size);
                    fits
                })
                .collect(),
            trouble: match (&self.paused_for, &self.cramped) {
                (Some(trouble), _) if !self.breaker.is_closed() => Some(trouble.clone()),
                (_, Some(trouble)) if self.culprits.iter().any(|path| failed(&path)) => Some(trouble.clone()),
                (..) => None,
            },
            takes: self.breaker.is_closed(),
            probing: matches!(self.breaker, Breaker::Probing { .. }),
            failures: self.breaker.failures(),
            retry_at: self.breaker.wake_at(),
            widened: self.changes.widened(),
            held: self.held_view(),
        }
    }

    fn held_view(&self) -> HeldDeletesView {
        let mut room = LISTED_BYTES_MAX;
        let fits = |path: &&RelPath| {
            let fits = path.as_bytes().len() <= room;
            room = room.saturating_sub(path.as_bytes().len());
            fits
        };
        HeldDeletesView {
            marks: self.held.len(),
            deletes: self.held.deletes(),
            first: self.held.paths().take(LISTED_MAX).take_while(fits).cloned().collect(),
            since: self.held.since(),
        }
    }

    fn letter(&self, path: &RelPath) -> LetterView {
        let marks = self.changes.inspect(path);
        LetterView {
            path: path.clone(),
            words: self.words.of(path).unwrap_or_default().to_owned(),
            attempts: self.changes.failures(path),
            retry_at: marks.pending.and_then(|mark| mark.due),
        }
    }

    /// What is known of one path.
    pub(super) fn explain(&self, path: &RelPath) -> PathOnTarget {
        let failed = self.changes.failures(path) > 0;
        PathOnTarget {
            target: self.id,
            marks: self.changes.inspect(path),
            words: self.words.of(path).filter(|_| failed).map(str::to_owned),
            dead_letter: failed && self.dead_letters.contains(path),
            cause: match &self.paused_for {
                _ if self.paused => Some(OPERATOR),
                Some(trouble) if !self.breaker.is_closed() => Some(trouble.cause),
                Some(_) | None => None,
            },
        }
    }

    #[cfg(test)]
    pub(super) fn remembered_dead_letters(&self) -> usize {
        self.dead_letters.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lanes.iter().all(Option::is_none)
    }

    /// Holds marks whose deletes go over what is allowed.
    fn hold(
        &mut self,
        now: Now,
        batch: BatchId,
        marks: Vec<crate::change::HeldMark>,
        deletes: &std::collections::HashMap<RelPath, u64>,
        notices: &mut Vec<Notice>,
    ) {
        let Some(first) = marks.first().map(|mark| mark.path.clone()) else { return };
        if batch <= self.approved_until {
            for mark in marks {
                self.changes.mark_since(now, &approved(mark.path, mark.kind), mark.first);
            }
            return;
        }
        let begins = self.held.is_empty();
        for mark in marks {
            let deletes = deletes.get(&mark.path).copied().unwrap_or(1);
            self.held.hold(now.instant, mark, deletes);
        }
        if begins {
            let (marks, deletes) = (self.held.len(), self.held.deletes());
            notices.push(Notice::DeletesHeld { target: self.id, marks, deletes, first });
        }
    }

    /// Lets the held deletes go; returns how many marks that are.
    pub(super) fn approve(&mut self, now: Now) -> usize {
        let marks = self.held.release();
        self.approved_until = self.last_batch;
        for (mark, first) in &marks {
            self.changes.mark_since(now, mark, *first);
        }
        marks.len()
    }

    /// Whatever waits may delete what the source lacks.
    pub(super) fn approve_pending(&mut self) {
        self.changes.approve();
    }

    /// How long deletes are held; `None`: until somebody approves them.
    pub(super) fn release_after(&mut self, after: Option<Duration>) {
        self.release_after = after;
    }

    /// Lets the held deletes go whose time is over.
    pub(super) fn release_due(&mut self, now: Now, notices: &mut Vec<Notice>) {
        if self.held.release_at(self.release_after).is_some_and(|at| at <= now.instant) {
            let marks = self.approve(now);
            notices.push(Notice::DeletesReleased { target: self.id, marks, approved: false });
        }
    }

    pub(super) fn held(&self) -> &HeldDeletes {
        &self.held
    }

    pub(super) fn held_mut(&mut self) -> &mut HeldDeletes {
        &mut self.held
    }
}
