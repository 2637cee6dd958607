//! What a dispatcher holds: everything while the root is not what it was, and deletes that somebody has to approve.

use std::time::{Duration, Instant};

use super::dispatcher::{Dispatcher, Held};
use super::order::{Notice, Trouble};
use crate::change::{Now, SavedMark};
use crate::target::TargetId;

impl Dispatcher {
    /// Begins no batches until [`Self::release`]; what is under way goes on.
    pub fn hold(&mut self, now: Instant, trouble: Trouble) -> Option<Notice> {
        let since = self.held.as_ref().map_or(now, |held| held.since);
        let news = self.held.as_ref().is_none_or(|held| held.trouble.cause != trouble.cause);
        self.held = Some(Held { since, trouble: trouble.clone() });
        news.then_some(Notice::Held { trouble })
    }

    /// The root is what it was: takes [`Self::hold`] back.
    pub fn release(&mut self) -> Option<Notice> {
        self.held.take().map(|_held| Notice::Released)
    }

    /// Deletes are let go after this time; `None`: when somebody approves them.
    pub fn release_after(&mut self, after: Option<Duration>) {
        self.targets_mut().for_each(|target| target.release_after(after));
    }

    /// Lets the held deletes of `target`, or of all, go. Returns how many marks that are.
    pub fn approve(&mut self, now: Now, target: Option<TargetId>, notices: &mut Vec<Notice>) -> usize {
        let mut count = 0;
        for target in self.chosen(target) {
            let marks = target.approve(now);
            if marks > 0 {
                notices.push(Notice::DeletesReleased { target: target.id(), marks, approved: true });
            }
            count += marks;
        }
        count
    }

    /// Whatever waits may delete what the source lacks, however much that is.
    pub fn approve_pending(&mut self, target: Option<TargetId>) {
        self.chosen(target).for_each(super::target::TargetState::approve_pending);
    }

    /// Lets held deletes go whose time is over.
    pub fn release_due(&mut self, now: Now) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.targets_mut().for_each(|target| target.release_due(now, &mut notices));
        notices
    }

    /// The held deletes of each target, as they are kept.
    #[must_use]
    pub fn held_deletes(&self, now: Now) -> Vec<Vec<SavedMark>> {
        self.targets().map(|target| target.held().saved(now)).collect()
    }

    /// For each target its held deletes, if they changed since the last call; with `whole` in any case.
    pub fn unsaved_held(&mut self, now: Now, whole: bool) -> Vec<Option<Vec<SavedMark>>> {
        let saved = |target: &mut super::target::TargetState| {
            let changed = target.held_mut().take_changed();
            (changed || whole).then(|| target.held().saved(now))
        };
        self.targets_mut().map(saved).collect()
    }

    /// Takes back the deletes that were held for a target when the agent ended.
    pub fn restore_held(&mut self, now: Now, target: TargetId, marks: &[SavedMark]) {
        self.target_mut(target).held_mut().restore(now.instant, marks);
    }
}
