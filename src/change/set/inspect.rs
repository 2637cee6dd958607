//! What people ask of a change set: one path, what waits the longest, and to try again what failed.

use std::time::Instant;

use super::{ChangeSet, FLIGHT, Flight, NodeId, PENDING, Pending, ROOT};
use crate::change::mark::{Content, MarkKind, Priority};
use crate::path::RelPath;

/// A mark as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkView {
    /// Where.
    pub path: RelPath,
    /// How much.
    pub kind: MarkKind,
    /// How sure size and mtime are.
    pub content: Content,
    /// How urgent.
    pub priority: Priority,
    /// Failures so far.
    pub attempts: u32,
    /// Its first event.
    pub first: Instant,
    /// When it may be sent; `None` when it is under way.
    pub due: Option<Instant>,
    /// Made from another name of the same inode.
    pub derived: bool,
    /// For the large lane.
    pub large: bool,
}

/// What a change set holds of one path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathView {
    /// What waits here.
    pub pending: Option<MarkView>,
    /// What is under way here.
    pub in_flight: Option<MarkView>,
    /// The nearest mark above that reaches this path: under way, or else waiting.
    pub above: Option<MarkView>,
    /// Marks that wait beneath.
    pub pending_beneath: u32,
    /// Marks under way beneath.
    pub in_flight_beneath: u32,
}

impl ChangeSet {
    /// What is held of one path.
    #[must_use]
    pub fn inspect(&self, path: &RelPath) -> PathView {
        let depth = path.components().count();
        // The node of the path, or the nearest of an ancestor: nothing is held between the two.
        let mut nodes = vec![ROOT];
        let mut above = RelPath::root();
        for name in path.components() {
            above = above.join(name);
            let Some(node) = self.trie.find(&above) else { break };
            nodes.push(node);
        }
        let mut view = PathView::default();
        let reaches = |kind, distance| kind == MarkKind::Subtree || (kind == MarkKind::Listing && distance == 1);
        for (level, node) in nodes.into_iter().enumerate().rev() {
            let distance = depth - level;
            let value = self.trie.value(node);
            let pending = value.pending.as_ref().map(|pending| self.show_pending(node, pending));
            let in_flight = value.flight.as_ref().map(|flight| self.show_flight(node, flight));
            if distance == 0 {
                let beneath = self.trie.beneath(node);
                (view.pending, view.in_flight) = (pending, in_flight);
                (view.pending_beneath, view.in_flight_beneath) = (beneath[PENDING], beneath[FLIGHT]);
            } else if view.above.is_none() {
                view.above = in_flight.into_iter().chain(pending).find(|mark| reaches(mark.kind, distance));
            }
        }
        view
    }

    fn show_pending(&self, node: NodeId, pending: &Pending) -> MarkView {
        MarkView {
            path: self.trie.path(node),
            kind: pending.kind,
            content: pending.content,
            priority: pending.priority,
            attempts: pending.attempts,
            first: pending.times.first,
            due: Some(pending.due),
            derived: pending.derived,
            large: pending.large,
        }
    }

    fn show_flight(&self, node: NodeId, flight: &Flight) -> MarkView {
        MarkView {
            path: self.trie.path(node),
            kind: flight.kind,
            content: flight.content,
            priority: flight.priority,
            attempts: flight.attempts,
            first: flight.first,
            due: None,
            derived: flight.derived,
            large: flight.large,
        }
    }

    /// Marks under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.batches.values().map(|batch| batch.nodes.len()).sum()
    }

    /// Makes what failed at or beneath `path`, and waits for its next turn, due at once. Returns how many marks that
    /// are. Their failures still count.
    pub fn retry(&mut self, path: &RelPath) -> usize {
        let Some(top) = self.trie.find(path) else { return 0 };
        let waiting: Vec<NodeId> = std::iter::once(top)
            .chain(self.trie.descendants(top))
            .filter(|node| {
                self.trie.value(*node).pending.as_ref().is_some_and(|pending| pending.times.not_before.is_some())
            })
            .collect();
        for node in &waiting {
            if let Some(mut pending) = self.remove_pending(*node) {
                pending.times.not_before = None;
                self.insert_pending(*node, pending);
            }
        }
        waiting.len()
    }
}
