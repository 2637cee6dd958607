//! The dispatcher of one root: the only owner of its targets' change sets. Pure; `daemon` drives it.

use std::time::{Duration, Instant};

use super::order::{Action, LaneId, Notice, Report, Trouble, TroubleRemedy};
use super::target::{TargetOptions, TargetState, TargetView};
use crate::change::{Mark, Now};
use crate::target::TargetId;

/// Between two looks at a root that is not what it was. Unit: time.
const HELD_PAUSE: Duration = Duration::from_secs(1);

/// The dispatcher.
#[derive(Debug)]
pub struct Dispatcher {
    targets: Vec<TargetState>,
    rng: fastrand::Rng,
    held: Option<Held>,
    stopping: bool,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    /// A batch was let through to see whether the root is back.
    trying: bool,
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
        Self { targets, rng: fastrand::Rng::with_seed(seed), held: None, stopping: false }
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
                state.on_seen(now, batch, &marks, &large, &later);
                // Another name of a file tells of a write that every target needs; the lane that saw it first is the
                // only one to be told by the table of links.
                for (index, other) in self.targets.iter_mut().enumerate() {
                    if index != usize::from(target.0) {
                        marks.iter().filter(|mark| mark.derived).for_each(|mark| other.mark(now, mark));
                    }
                }
                return notices;
            }
            Report::Concluded { batch, conclusion } => {
                state.on_concluded(now, lane, batch, conclusion, &mut self.rng, &mut notices)
            }
            Report::Probed(trouble) => state.on_probed(now.instant, lane, trouble, &mut self.rng, &mut notices),
        };
        match trouble {
            Some(trouble) if trouble.remedy == TroubleRemedy::HoldSource => {
                if self.held.is_none() {
                    notices.push(Notice::Held { trouble });
                }
                self.held = Some(Held { until: now.instant + HELD_PAUSE, trying: false });
            }
            Some(Trouble { .. }) => {}
            None => {
                // A batch that got past the check of the root says that it is back.
                if self.held.take_if(|held| held.trying).is_some() {
                    notices.push(Notice::Released);
                }
            }
        }
        notices
    }

    /// Gives idle lanes what is due.
    pub fn on_tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stopping {
            return actions;
        }
        if self.held.as_ref().is_some_and(|held| held.until > now) || self.is_trying() {
            return actions;
        }
        for target in &mut self.targets {
            target.assign(now, &mut actions);
            if let Some(held) = &mut self.held
                && !actions.is_empty()
            {
                // One target's batches are enough to see whether the root is back. When nothing is due there is
                // nothing to try, and what becomes due later must not wait for lanes that still work on older batches.
                held.trying = true;
                break;
            }
        }
        actions
    }

    /// Whether a batch is under way that shows whether the root is back.
    fn is_trying(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.trying) && !self.is_idle()
    }

    /// When `on_tick` is worth a call even if nothing else happens.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.stopping {
            return None;
        }
        if let Some(held) = &self.held
            && held.until > now
        {
            return Some(held.until);
        }
        if self.is_trying() {
            // Its report comes by itself, and nothing that is due meanwhile can go.
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

    /// For each target: marks that wait, and background marks that wait or are under way. Cheap, unlike [`Self::views`].
    pub fn progress(&self) -> impl Iterator<Item = (usize, usize)> {
        self.targets.iter().map(TargetState::progress)
    }

    /// What `status` and the log say.
    #[must_use]
    pub fn views(&self) -> Vec<TargetView> {
        self.targets.iter().map(TargetState::view).collect()
    }
}

#[cfg(test)]
mod tests;
