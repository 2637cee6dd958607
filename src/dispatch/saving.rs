//! What of a dispatcher survives a restart, and how it comes back.

use super::dispatcher::Dispatcher;
use crate::change::{Mark, Now, SavedChange, SavedMark};
use crate::target::TargetId;

impl Dispatcher {
    /// Takes back what a target waited for when the agent ended.
    pub fn restore(&mut self, now: Now, target: TargetId, marks: &[SavedMark]) {
        self.target_mut(target).restore(now, marks);
    }

    /// Notes a mark for one target only.
    pub fn on_mark_for(&mut self, now: Now, target: TargetId, mark: &Mark) {
        self.target_mut(target).mark(now, mark);
    }

    /// For each target what changed since the last call; with `whole` everything.
    pub fn unsaved(&mut self, now: Now, whole: bool) -> Vec<Vec<SavedChange>> {
        self.targets_mut().map(|target| target.unsaved(now, whole)).collect()
    }

    /// Whether [`Self::unsaved`] has something to tell.
    #[must_use]
    pub fn is_unsaved(&self) -> bool {
        self.targets().any(|target| target.is_unsaved() || target.held().is_changed())
    }
}
