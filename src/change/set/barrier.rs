//! Whether everything of before a moment is on the target: what `wait` is about.
//!
//! Invariant: a mark is as old as the oldest event that it answers for, whatever it was merged with, covered by, widened
//! to or split into. So nothing of before a moment is left when no mark is that old.

use std::time::Instant;

use super::{Batch, BatchId, ChangeSet, NodeId, Stage};
use crate::path::RelPath;

impl ChangeSet {
    /// The first event of a batch under way.
    #[must_use]
    pub fn first_of(&self, batch: BatchId) -> Option<Instant> {
        self.batches.get(&batch).map(|batch| batch.first)
    }

    /// Whether a mark of `until` or before is not on the target. `witness` is such a mark, if one was found the last
    /// time: while it is there nothing else is looked at.
    ///
    /// Lazy marks of before are due from here on: somebody waits for them now.
    pub fn owes(&mut self, until: Instant, witness: &mut Option<RelPath>) -> bool {
        if let Some(node) = witness.as_ref().and_then(|path| self.trie.find(path))
            && self.is_owed(node, until)
        {
            return true;
        }
        let waiting = self.queues.iter().flatten().map(|turn| turn.2);
        let flying = self.batches.values().flat_map(Batch::flying);
        let found = waiting.chain(flying).find(|node| self.is_owed(*node, until));
        *witness = found.map(|node| self.trie.path(node));
        if found.is_some_and(|node| self.is_lazy(node, until)) {
            self.hurry_lazy(until);
        }
        found.is_some()
    }

    fn is_owed(&self, node: NodeId, until: Instant) -> bool {
        let value = self.trie.value(node);
        value.pending.as_ref().is_some_and(|pending| pending.times.first <= until)
            || value.flight.as_ref().is_some_and(|flight| flight.first <= until)
    }

    fn is_lazy(&self, node: NodeId, until: Instant) -> bool {
        let pending = self.trie.value(node).pending.as_ref();
        pending.is_some_and(|pending| pending.times.stage == Stage::Lazy && pending.times.first <= until)
    }

    /// Makes lazy marks due, as if something of theirs had changed.
    fn hurry_lazy(&mut self, until: Instant) {
        let lazy: Vec<NodeId> =
            (self.queues.iter().flatten()).map(|turn| turn.2).filter(|node| self.is_lazy(*node, until)).collect();
        for node in lazy {
            if let Some(mut pending) = self.take_pending(node) {
                pending.times.stage = Stage::Unchanged;
                self.insert_pending(node, pending);
            }
        }
    }

    /// How many marks of `until` or before are not on the target, and the first `max` of them by path.
    #[must_use]
    pub fn owed(&self, until: Instant, max: usize) -> (usize, Vec<RelPath>) {
        let waiting = self.queues.iter().flatten().map(|turn| turn.2);
        let flying = self.batches.values().flat_map(Batch::flying);
        // A path may have both.
        let nodes: std::collections::HashSet<NodeId> =
            waiting.chain(flying).filter(|node| self.is_owed(*node, until)).collect();
        let mut first = std::collections::BTreeSet::new();
        for node in &nodes {
            let path = self.trie.path(*node);
            if first.len() < max {
                first.insert(path);
            } else if first.last().is_some_and(|last| path < *last) {
                first.pop_last();
                first.insert(path);
            }
        }
        (nodes.len(), first.into_iter().collect())
    }
}
