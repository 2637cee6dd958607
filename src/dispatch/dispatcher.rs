//! The dispatcher of one root: the only owner of its targets' change sets. Pure; `daemon` drives it.

use std::time::Instant;

use super::backoff::Haste;
use super::order::{Action, LaneId, Notice, Report, Trouble, TroubleRemedy};
use super::target::{TargetOptions, TargetState};
use super::view::{HeldView, PathOnTarget, RootView, TargetView};
use crate::change::{Mark, MarkKind, Now, Priority};
use crate::path::RelPath;
use crate::target::TargetId;

/// The dispatcher.
#[derive(Debug)]
pub struct Dispatcher {
    targets: Vec<TargetState>,
    rng: fastrand::Rng,
    pub(super) held: Option<Held>,
    /// The operator wants nothing to be sent.
    paused: bool,
    stopping: bool,
}

/// Places for what lanes do, shared with other roots.
pub trait Room {
    /// Takes a place, if there is one.
    fn take(&mut self) -> bool;
    /// Gives back one that is not needed.
    fn give_back(&mut self);
}

/// There is always room.
struct Unbounded;

impl Room for Unbounded {
    fn take(&mut self) -> bool {
        true
    }

    fn give_back(&mut self) {}
}

#[derive(Debug)]
pub(super) struct Held {
    pub since: Instant,
    pub trouble: Trouble,
}

impl Dispatcher {
    /// For `targets`, in their order; `seed` decides the jitter of all pauses.
    #[must_use]
    pub fn new(targets: &[TargetOptions], seed: u64) -> Self {
        let targets = targets
            .iter()
            .enumerate()
            .map(|(index, options)| TargetState::new(TargetId(u16::try_from(index).unwrap_or(u16::MAX)), *options))
            .collect();
        Self { targets, rng: fastrand::Rng::with_seed(seed), held: None, paused: false, stopping: false }
    }

    /// Shortens all pauses of the targets; for tests of the whole agent.
    #[must_use]
    pub fn with_haste(mut self, haste: Haste) -> Self {
        for target in &mut self.targets {
            target.hasten(haste);
        }
        self
    }

    /// Notes marks for every target.
    pub fn on_marks(&mut self, now: Now, marks: &[Mark]) {
        for target in &mut self.targets {
            for mark in marks {
                target.mark(now, mark);
            }
        }
    }

    /// Takes a lane's report; returns what the operator should hear.
    pub fn on_report(&mut self, now: Now, target: TargetId, lane: LaneId, report: Report) -> Vec<Notice> {
        let mut notices = Vec::new();
        let state = &mut self.targets[usize::from(target.0)];
        let trouble = match report {
            Report::Seen { batch, marks, large, later } => {
                let since = state.on_seen(now, batch, &marks, &large, &later);
                // Another name of a file tells of a write that every target needs; the lane that saw it first is the
                // only one to be told by the table of links.
                for (index, other) in self.targets.iter_mut().enumerate() {
                    if index != usize::from(target.0) {
                        marks.iter().filter(|mark| mark.derived).for_each(|mark| other.mark_since(now, mark, since));
                    }
                }
                return notices;
            }
            Report::Concluded { batch, conclusion } => {
                state.on_concluded(now, lane, batch, conclusion, &mut self.rng, &mut notices)
            }
            Report::Probed(trouble) => state.on_probed(now, lane, trouble, &mut self.rng, &mut notices),
        };
        if let Some(trouble) = trouble
            && trouble.remedy == TroubleRemedy::HoldSource
        {
            notices.extend(self.hold(now.instant, trouble));
        }
        notices
    }

    /// Gives idle lanes what is due.
    pub fn on_tick(&mut self, now: Instant) -> Vec<Action> {
        self.on_tick_within(now, &mut Unbounded)
    }

    /// The same while there is room: each action takes a place. Whose marks have waited the longest comes first.
    pub fn on_tick_within(&mut self, now: Instant, room: &mut dyn Room) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stopping || self.paused || self.held.is_some() {
            return actions;
        }
        let mut turns: Vec<&mut TargetState> = self.targets.iter_mut().collect();
        turns.sort_by_cached_key(|target| target.waits_since().map_or((true, now), |since| (false, since)));
        for target in turns {
            target.assign(now, room, &mut actions);
        }
        actions
    }

    /// When `on_tick` is worth a call even if nothing else happens.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.stopping || self.paused || self.held.is_some() {
            return None;
        }
        self.targets.iter().filter_map(|target| target.wake_at(now)).min()
    }

    /// Takes no further batches.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    pub(super) fn target_mut(&mut self, target: TargetId) -> &mut TargetState {
        &mut self.targets[usize::from(target.0)]
    }

    pub(super) fn targets_mut(&mut self) -> impl Iterator<Item = &mut TargetState> {
        self.targets.iter_mut()
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &TargetState> {
        self.targets.iter()
    }

    /// Whether no lane works.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.targets.iter().all(TargetState::is_idle)
    }

    /// Whether nothing is sent from this root for now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// For each target whether batches may go there.
    pub fn takes(&self) -> impl Iterator<Item = bool> {
        let nothing_goes = self.stopping || self.paused || self.held.is_some();
        self.targets.iter().map(move |target| !nothing_goes && target.takes())
    }

    /// Gives back the memory of marks that are gone. Returns how many paths are remembered still.
    pub fn give_back(&mut self, now: Instant) -> usize {
        self.targets.iter_mut().map(|target| target.give_back(now)).sum()
    }

    /// For each target: marks that wait, and background marks that wait or are under way. Cheap, unlike [`Self::views`].
    pub fn progress(&self) -> impl Iterator<Item = (usize, usize)> {
        self.targets.iter().map(TargetState::progress)
    }

    /// What the log says of the targets. Costs a look at every mark.
    #[must_use]
    pub fn views(&self) -> Vec<TargetView> {
        self.targets.iter().map(TargetState::view).collect()
    }

    /// What `status` says. Costs a look at every mark.
    #[must_use]
    pub fn view(&self) -> RootView {
        let held = self.held.as_ref().map(|held| HeldView { trouble: held.trouble.clone(), since: held.since });
        RootView { paused: self.paused, held, targets: self.views() }
    }

    /// Begins no batches for `target`, or for any, until [`Self::resume`]; what is under way goes on and marks are kept.
    /// Returns how many roots or targets that changed. The two are apart: a paused root may have a paused target.
    pub fn pause(&mut self, target: Option<TargetId>) -> usize {
        self.set_paused(target, true)
    }

    /// Takes [`Self::pause`] back; without a target also for each target.
    pub fn resume(&mut self, target: Option<TargetId>) -> usize {
        let targets = match target {
            Some(_) => 0,
            None => self.targets.iter_mut().filter_map(|target| target.pause(false).then_some(())).count(),
        };
        targets + self.set_paused(target, false)
    }

    fn set_paused(&mut self, target: Option<TargetId>, paused: bool) -> usize {
        let changed = match target {
            Some(target) => self.targets.get_mut(usize::from(target.0)).is_some_and(|target| target.pause(paused)),
            None => std::mem::replace(&mut self.paused, paused) != paused,
        };
        usize::from(changed)
    }

    /// Whether the root is paused, and which of its targets are: what must survive a restart.
    #[must_use]
    pub fn paused(&self) -> (bool, Vec<TargetId>) {
        let paused = self.targets.iter().filter(|target| target.is_paused());
        (self.paused, paused.map(TargetState::id).collect())
    }

    /// What failed at or beneath `path` is due at once; targets that take nothing are asked at once. Returns how many marks and targets that are.
    pub fn retry(&mut self, now: Instant, target: Option<TargetId>, path: &RelPath) -> usize {
        self.chosen(target).map(|target| target.retry(now, path)).sum()
    }

    /// Has everything at and beneath `path` compared on every target, in the background.
    pub fn rescan(&mut self, now: Now, path: &RelPath) {
        let mut mark = Mark::new(path.clone(), MarkKind::Subtree).priority(Priority::Background);
        mark.changes_names = false;
        self.on_marks(now, &[mark]);
    }

    /// What each target makes of a path.
    #[must_use]
    pub fn explain(&self, path: &RelPath) -> Vec<PathOnTarget> {
        self.targets.iter().map(|target| target.explain(path)).collect()
    }

    /// Why no target takes anything, in words; `None` when each has its own reason.
    pub(super) fn why_nothing_goes(&self) -> Option<String> {
        match &self.held {
            Some(held) => Some(format!("the root is held: {}", held.trouble.words)),
            None => self.paused.then(|| "the root is paused by 'fansync pause'".to_owned()),
        }
    }

    pub(super) fn chosen(&mut self, target: Option<TargetId>) -> impl Iterator<Item = &mut TargetState> {
        self.targets.iter_mut().filter(move |state| target.is_none_or(|target| target == state.id()))
    }
}

#[cfg(test)]
mod tests;
