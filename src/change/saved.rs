//! What of a change set is kept across a restart: its marks, told as differences since the last time.
//!
//! A mark that is sent within a second was never told; what is told are the marks that stay. Keys are places in the
//! trie's arena, so that a path that is marked again and again has one record.

use std::collections::HashSet;

use super::mark::{Content, MarkKind, Priority};
use crate::path::RelPath;
use crate::sys::clock::WallTime;

/// A mark as it is kept: whatever was pending or under way at its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedMark {
    /// Where.
    pub path: RelPath,
    /// How much.
    pub kind: MarkKind,
    /// How sure size and mtime are.
    pub content: Content,
    /// What a wider mark must ask for at the least to do what is asked for here.
    pub least: Content,
    /// How urgent.
    pub priority: Priority,
    /// When its first event was.
    pub first: WallTime,
    /// Failures so far.
    pub attempts: u32,
    /// Made from another name of the same inode.
    pub derived: bool,
    /// For the large lane.
    pub large: bool,
    /// It was under way, so the target may hold a part of it.
    pub sent: bool,
}

/// A difference: the record of this key is now this one, or none.
pub type SavedChange = (u32, Option<SavedMark>);

/// Which nodes changed since they were told.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    /// Touched since the last time.
    pub touched: HashSet<u32, foldhash::fast::RandomState>,
    /// Told, and not taken back yet.
    pub told: HashSet<u32, foldhash::fast::RandomState>,
}
