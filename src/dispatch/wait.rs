//! `fansync wait`: is everything that changed before a moment on the targets? Pure.
//!
//! A wait is through when, in this order,
//! 1. every shard has told all that it had to tell, twice: the second time because what one shard found may be another's
//!    errand, which that one ends just before it hands its marks over;
//! 2. no mark of its targets is that old ([`crate::change::ChangeSet::owes`]);
//! 3. the other names of shared inodes are known: looks that began before are told, searches asked for before are done;
//! 4. no mark is as old as that, if there was anything to wait for in 3.
//!
//! Left out: the time-out. Whoever asks gives up.

use std::time::Instant;

use super::dispatcher::Dispatcher;
use crate::path::RelPath;
use crate::target::TargetId;

/// What those who make marks have told so far. Each is a count that only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Looks at the paths of batches that began.
    pub looks_begun: u64,
    /// All of the first so many were reported.
    pub looks_told: u64,
    /// Searches for names that were asked for.
    pub searches_asked: u64,
    /// The marks of the first so many were handed over.
    pub searches_done: u64,
}

impl Heard {
    /// Whether all that had begun then is told by now.
    fn is_through(&self, then: &Self) -> bool {
        self.looks_told >= then.looks_begun && self.searches_done >= then.searches_asked
    }
}

/// What a wait was still waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// On which target; `None` when it is not even known yet what changed.
    pub target: Option<TargetId>,
    /// What keeps it, in words.
    pub words: String,
    /// Marks of before that are not acknowledged.
    pub marks: usize,
    /// The first of them, by path.
    pub first: Vec<RelPath>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The shards tell what they know, up to this round; the last one, or one more to come.
    Telling { round: u64, last: bool },
    /// Marks of this moment and before are sent; and then that is all, or names may be missing.
    Sending { until: Instant, last: bool },
    /// Looks and searches that began before are ending.
    Naming(Heard),
}

#[derive(Debug)]
struct Wait {
    ticket: u64,
    target: Option<TargetId>,
    stage: Stage,
    /// For each target a mark that is still there.
    witnesses: Vec<Option<RelPath>>,
}

/// The waits for one root.
#[derive(Debug, Default)]
pub struct Waits {
    waits: Vec<Wait>,
}

impl Waits {
    /// Begins to wait for what changed before this call. `ask` begins a round of the shards and gives its number.
    pub fn begin(&mut self, ticket: u64, target: Option<TargetId>, ask: &mut impl FnMut() -> u64) {
        let stage = Stage::Telling { round: ask(), last: false };
        self.waits.push(Wait { ticket, target, stage, witnesses: Vec::new() });
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Whether a wait waits for what no mark and no report announces.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.waits.iter().any(|wait| match wait.stage {
            Stage::Telling { .. } | Stage::Naming(_) => true,
            Stage::Sending { .. } => false,
        })
    }

    /// Takes note of a turn of the dispatcher. `told`, the last round that all shards have told, and `before` are of
    /// before the turn took its marks and reports; `after` is of after it did. Returns the tickets that are through.
    pub fn on_turn(
        &mut self,
        now: Instant,
        told: u64,
        (before, after): (&Heard, &Heard),
        dispatcher: &mut Dispatcher,
        ask: &mut impl FnMut() -> u64,
    ) -> Vec<u64> {
        let waits = &mut self.waits;
        let through = waits.extract_if(.., |wait| wait.is_through(now, told, (before, after), dispatcher, ask));
        through.map(|wait| wait.ticket).collect()
    }

    /// Ends a wait; gives what it was still waiting for, if there is such a wait.
    pub fn give_up(&mut self, ticket: u64, dispatcher: &Dispatcher) -> Option<Vec<Missing>> {
        let wait = self.waits.extract_if(.., |wait| wait.ticket == ticket).next()?;
        let unknown =
            |words: &str| vec![Missing { target: None, words: words.to_owned(), marks: 0, first: Vec::new() }];
        Some(match wait.stage {
            Stage::Telling { .. } => unknown("not everything that changed is known yet"),
            Stage::Naming(_) => unknown("other names of shared inodes are being searched for"),
            Stage::Sending { until, .. } => match dispatcher.owed(wait.target, until) {
                owed if owed.is_empty() => {
                    unknown("the last of it was acknowledged just now, and is being made sure of")
                }
                owed => owed,
            },
        })
    }
}

impl Wait {
    fn is_through(
        &mut self,
        now: Instant,
        told: u64,
        (before, after): (&Heard, &Heard),
        dispatcher: &mut Dispatcher,
        ask: &mut impl FnMut() -> u64,
    ) -> bool {
        loop {
            self.stage = match self.stage {
                Stage::Telling { round, .. } if told < round => return false,
                Stage::Telling { last: false, .. } => Stage::Telling { round: ask(), last: true },
                Stage::Telling { last: true, .. } => Stage::Sending { until: now, last: false },
                Stage::Sending { until, last } => {
                    if dispatcher.owes(self.target, until, &mut self.witnesses) {
                        return false;
                    }
                    // What was through before this turn took its reports has its marks noted by now.
                    if last || before.is_through(after) {
                        return true;
                    }
                    Stage::Naming(*after)
                }
                Stage::Naming(then) if before.is_through(&then) => Stage::Sending { until: now, last: true },
                Stage::Naming(_) => return false,
            };
        }
    }
}

impl Dispatcher {
    fn owes(&mut self, target: Option<TargetId>, until: Instant, witnesses: &mut Vec<Option<RelPath>>) -> bool {
        let states = self.chosen(target).collect::<Vec<_>>();
        witnesses.resize(states.len(), None);
        // All are asked: each hurries then.
        states.into_iter().zip(witnesses).fold(false, |owes, (state, witness)| state.owes(until, witness) || owes)
    }

    fn owed(&self, target: Option<TargetId>, until: Instant) -> Vec<Missing> {
        let chosen = self.targets().filter(|state| target.is_none_or(|target| target == state.id()));
        let all = chosen.map(|state| {
            let (marks, first, words) = state.owed(until);
            let words = self.why_nothing_goes().unwrap_or(words);
            Missing { target: Some(state.id()), words, marks, first }
        });
        all.filter(|missing| missing.marks > 0).collect()
    }
}

#[cfg(test)]
mod tests;
