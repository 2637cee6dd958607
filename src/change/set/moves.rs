//! Renamed directories: what the target has under the old name is not sent again.
//!
//! A mark that says where its directory was ([`Mark::origin`]) becomes a *move* when the target is known to hold under the
//! old name what the source had there, and nothing under the new one. Then the mark of the old name, a delete, waits for
//! the mark of the new one; both are taken together, and what is under the old name is the basis of the run.
//!
//! Invariants:
//! - A move is a pair of pending marks, [`Role::Moved`] and [`Role::Awaited`]. Whatever is marked at, above or beneath the
//!   old name, or at or above the new one, ends it: then they are marks like any other, and the directory is sent.
//!   What is marked beneath the new name is sent by itself, after the move.
//! - No two moves concern each other's names.
//! - While a move is under way its old name is in flight too, so that nothing else changes what it rests on.
//! - Nothing waits for a move but the delete of its old name, and a move waits for nothing but what any mark waits for.

use std::time::Instant;

use super::{ChangeSet, Content, Deletes, Fate, MarkKind, NodeId, Now, Pending, Priority, Tally};
use crate::change::mark::{Mark, Origin};
use crate::path::RelPath;

/// Moves that wait at the same time; more are sent. Why: every mark is compared with them.
const MOVES_MAX: usize = 64;

/// What a pending mark is in a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing.
    #[default]
    None,
    /// The name left and nothing else was pending or under way there: the target has what the source had.
    Basis,
    /// The old name of a move.
    Awaited,
    /// The new name of a move: its content is compared with what the old name has.
    Moved,
}

/// Both names of a move.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) old: NodeId,
    pub(super) new: NodeId,
}

impl ChangeSet {
    /// Whether nothing is pending or under way at `node`, beneath it, or above it that reaches it; but for attributes of
    /// directories.
    pub(super) fn is_spotless(&self, node: NodeId) -> bool {
        let only_attributes = |at: NodeId| {
            let value = self.trie.value(at);
            value.pending.as_ref().is_none_or(|pending| pending.kind == MarkKind::Attributes)
                && value.flight.as_ref().is_none_or(|flight| flight.kind == MarkKind::Attributes)
        };
        self.trie.value(node).flight.is_none()
            && self.trie.beneath(node)[super::PENDING] == 0
            && self.trie.beneath(node)[super::FLIGHT] == 0
            && only_attributes(node)
            && self.trie.ancestors(node).all(only_attributes)
    }

    /// The role of a mark that is about to be merged at `node`.
    pub(super) fn role_of(&self, node: NodeId, mark: &Mark) -> Role {
        let leaves = mark.kind == MarkKind::Point
            && mark.gone_directory
            && mark.changes_names
            && mark.content == Content::Compare
            && mark.priority == Priority::Live;
        if leaves && self.is_spotless(node) { Role::Basis } else { Role::None }
    }

    /// Ends the moves that `mark` at `node` concerns. Returns whether the mark is one that a move at `node` does.
    pub(super) fn disturb(&mut self, node: NodeId, mark: &Mark) -> bool {
        let mut done = false;
        let mut index = 0;
        while let Some(Move { old, new }) = self.moves.get(index).copied() {
            let attributes = mark.kind == MarkKind::Attributes;
            let ends = if node == new {
                done |= attributes;
                !attributes
            } else if node == old || self.trie.is_above(old, node) {
                true
            } else {
                !attributes && (self.trie.is_above(node, old) || self.trie.is_above(node, new))
            };
            if ends {
                self.part(old);
            } else {
                index += 1;
            }
        }
        done
    }

    /// Ends the move of which `node` is a name. Both marks stay, and ask for all that they ask for.
    pub(super) fn part(&mut self, node: NodeId) {
        let Some(index) = self.moves.iter().position(|each| each.old == node || each.new == node) else { return };
        let Move { old, new } = self.moves.swap_remove(index);
        for node in [old, new] {
            self.trie.update(node, |value| {
                if let Some(pending) = &mut value.pending {
                    pending.role = Role::None;
                }
            });
        }
        self.touched_pending(old);
    }

    /// Something about when a pending mark is due changed.
    fn touched_pending(&mut self, node: NodeId) {
        if let Some(pending) = self.take_pending(node) {
            self.insert_pending(node, pending);
        }
    }

    /// Makes a move of the mark that was just merged at `new`, if that is right. `spotless`: nothing was known of that name
    /// before.
    pub(super) fn begin_move(&mut self, new: NodeId, mark: &Mark, origin: &Origin, spotless: bool) {
        let whole = mark.kind == MarkKind::Subtree && mark.priority == Priority::Live && !mark.derived && !mark.large;
        if !spotless || !whole || self.moves.len() >= MOVES_MAX {
            return;
        }
        let Some(old) = self.trie.find(&origin.path) else { return };
        let basis = |pending: &Pending| pending.role == Role::Basis;
        if !self.trie.value(old).pending.as_ref().is_some_and(basis) || !self.has_nothing_around(old) {
            return;
        }
        let apart = old != new && !self.trie.is_above(old, new) && !self.trie.is_above(new, old);
        // A transfer that read the source after the rename may have seen something else under these names.
        let spared = |path: &RelPath| self.recent.spared(origin.since, path);
        if !apart || !spared(&origin.path) || !spared(&mark.path) {
            return;
        }
        self.moves.push(Move { old, new });
        for (node, role) in [(old, Role::Awaited), (new, Role::Moved)] {
            if let Some(mut pending) = self.take_pending(node) {
                pending.role = role;
                pending.times.not_before = None;
                self.insert_pending(node, pending);
            }
        }
    }

    /// As [`Self::is_spotless`], but for what is pending at `node` itself.
    fn has_nothing_around(&self, node: NodeId) -> bool {
        let pending = self.trie.value(node).pending.as_ref();
        pending.is_some_and(|pending| pending.attempts == 0)
            && self.trie.value(node).flight.is_none()
            && self.trie.beneath(node)[super::PENDING] == 0
            && self.trie.beneath(node)[super::FLIGHT] == 0
            && self.trie.ancestors(node).all(|at| {
                let value = self.trie.value(at);
                value.pending.as_ref().is_none_or(|pending| pending.kind == MarkKind::Attributes)
                    && value.flight.as_ref().is_none_or(|flight| flight.kind == MarkKind::Attributes)
            })
    }

    /// The old name of the move whose new name is `new`.
    pub(super) fn basis_of(&self, new: NodeId) -> Option<NodeId> {
        self.moves.iter().find(|each| each.new == new).map(|each| each.old)
    }

    /// Says that so many names of a batch that is a move are under their new name on the target, all that were moved.
    pub fn moved(&mut self, batch: super::BatchId, names: u32) {
        if let Some(batch) = self.batches.get_mut(&batch) {
            batch.moved = Some(names);
        }
    }

    /// The old name of a move that ended is a pending mark again. Where the move went well, its delete is that of what was
    /// moved, unless something happened there since; and if there is something under the name again, it must not be
    /// taken for what is there: the target may have linked it to its new name (notes/rsync.md 3).
    pub(super) fn land_basis(&mut self, now: Now, old: NodeId, moved: Option<u32>, tally: &mut Tally) {
        let alone = self.trie.value(old).pending.is_none() && self.trie.beneath(old)[super::PENDING] == 0;
        if let Some(names) = moved {
            self.trie.update(old, |value| {
                if let Some(flight) = &mut value.flight {
                    (flight.content, flight.least) = (Content::Resend, Content::Resend);
                    if alone && flight.deletes == Deletes::Unknown {
                        flight.deletes = Deletes::Moved(names);
                    }
                }
            });
        }
        self.land(now, old, usize::MAX, &mut |_| Fate::Again { large: false }, tally);
    }

    /// What ended lately, for [`Self::begin_move`].
    pub(super) fn note_ended(&mut self, now: Instant, nodes: &[NodeId]) {
        let acted = |node: &&NodeId| {
            self.trie.value(**node).flight.as_ref().is_some_and(|flight| flight.kind != MarkKind::Attributes)
        };
        let nodes: Vec<NodeId> = nodes.iter().filter(acted).copied().collect();
        let trie = &self.trie;
        self.recent.ended(now, nodes.into_iter().map(|node| trie.path(node)));
    }
}
