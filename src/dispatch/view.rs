//! What `status`, `explain` and the log say of a root and its targets.

use std::time::Instant;

use super::order::Trouble;
use crate::change::PathView;
use crate::path::RelPath;
use crate::target::TargetId;

/// Paths that a view lists of one target.
pub(super) const LISTED_MAX: usize = 100;

/// Bytes of names and words among them.
pub(super) const LISTED_BYTES_MAX: usize = 64 * 1024;

/// A root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootView {
    /// The operator wants nothing to be sent.
    pub paused: bool,
    /// Why nothing is sent, whatever the operator wants.
    pub held: Option<HeldView>,
    /// Its targets.
    pub targets: Vec<TargetView>,
}

/// Why nothing is sent from a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldView {
    /// What was found.
    pub trouble: Trouble,
    /// Since when.
    pub since: Instant,
}

/// A target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    /// Which.
    pub target: TargetId,
    /// The operator wants nothing to be sent.
    pub paused: bool,
    /// Marks that wait.
    pub pending: usize,
    /// Background marks that wait or are under way.
    pub background: usize,
    /// Marks under way.
    pub in_flight: usize,
    /// Batches under way.
    pub batches: usize,
    /// First event of the oldest live mark.
    pub oldest: Option<Instant>,
    /// Paths that failed again and again.
    pub dead_letters: usize,
    /// The first of them.
    pub letters: Vec<LetterView>,
    /// Why it takes no batches, or has no room for some paths; `None` when all is well, or when it is being asked for
    /// the reason.
    pub trouble: Option<Trouble>,
    /// It takes batches, as far as is known.
    pub takes: bool,
    /// It is being asked right now.
    pub probing: bool,
    /// Failures without a success in between.
    pub failures: u32,
    /// When it is asked again.
    pub retry_at: Option<Instant>,
    /// Times that marks were widened because there were too many.
    pub widened: u64,
    /// Deletes that wait for somebody to approve them.
    pub held: HeldDeletesView,
}

/// Deletes that wait for somebody to approve them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDeletesView {
    /// Marks.
    pub marks: usize,
    /// Names that would go, as far as is known.
    pub deletes: u64,
    /// The first, by path.
    pub first: Vec<RelPath>,
    /// Since when.
    pub since: Option<Instant>,
}

/// A path that failed again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterView {
    /// Which.
    pub path: RelPath,
    /// What rsync said of it last.
    pub words: String,
    /// Failures so far.
    pub attempts: u32,
    /// When it is tried again; `None` while it is.
    pub retry_at: Option<Instant>,
}

/// What one target makes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathOnTarget {
    /// Which target.
    pub target: TargetId,
    /// Its marks.
    pub marks: PathView,
    /// What rsync said of it last, if it failed.
    pub words: Option<String>,
    /// It failed again and again.
    pub dead_letter: bool,
    /// Why the target takes nothing.
    pub cause: Option<&'static str>,
}
