//! What a local target gets without rsync, which takes 28 to 49 ms for a single file there (notes/rsync.md 5.1).
//!
//! Only what can be done with certainty: whatever is unexpected is left to rsync, which decides and finds the words. So
//! nothing here ever says more than "done", and it says so of an entry when the name, and all attributes of it and of the
//! directories above it, are in place beneath what the configured path means, from a source that was the same before and
//! after. The result is that of `rsync -a` with the same list (tests/daemon/direct.rs compares the two).
//!
//! - [`decision`]: what is to be done with an entry.
//! - [`attributes`]: what is to be set.
//! - [`temporary`]: the name of what is not in its place yet.
//! - [`top`]: the target's directory.
//! - [`work`]: one run.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use crate::path::RelPath;
use crate::plan::{EntryKind, Risk, Run, RunKind};
use crate::sys::beneath;
use crate::watch::Source;

pub mod attributes;
pub mod decision;
pub mod temporary;
mod top;
mod work;

/// What a run is done by, as far as it goes without rsync.
pub struct Direct<'a> {
    /// The root.
    pub source: &'a Source,
    /// The configured directory.
    pub target: &'a Path,
    /// So many names may be deleted: the guard has admitted them.
    pub deletes: u64,
    /// What is not done by then is left.
    pub deadline: Instant,
    /// Whether to go on at all.
    pub go_on: &'a dyn Fn() -> bool,
}

/// What became of the entries of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// For each entry, whether it is done.
    pub done: Vec<bool>,
    /// Names that were deleted.
    pub deleted: u64,
    /// Why the first one is left.
    pub why: Option<String>,
}

/// It was not to go on: nothing is said of any entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Names that were deleted.
    pub deleted: u64,
}

impl Share {
    /// All is left.
    fn none(run: &Run, why: &io::Error) -> Self {
        Self { done: vec![false; run.entries.len()], deleted: 0, why: Some(why.to_string()) }
    }

    /// How many are done.
    #[must_use]
    pub fn count(&self) -> usize {
        self.done.iter().filter(|done| **done).count()
    }

    /// What is left of `run`; `None` when all is done.
    #[must_use]
    pub fn rest(&self, run: &Run) -> Option<Run> {
        let left = run.entries.iter().zip(&self.done).filter(|(_, done)| !**done);
        let entries: Vec<(RelPath, EntryKind)> = left.map(|(entry, _)| entry.clone()).collect();
        let risk = match run.risk {
            Risk::AtMost(deletes) => Risk::AtMost(deletes.saturating_sub(self.deleted)),
            Risk::Unknown | Risk::Approved | Risk::Moved(_) => run.risk,
        };
        (!entries.is_empty()).then(|| Run { entries, risk, ..run.clone() })
    }
}

impl Direct<'_> {
    /// Does what can be done.
    ///
    /// # Errors
    /// [`Stopped`] when it was not to go on.
    pub fn apply(&self, run: &Run) -> Result<Share, Stopped> {
        let work = match work::Work::begin(self) {
            Ok(work) => work,
            Err(error) => return Ok(Share::none(run, &error)),
        };
        match run.kind {
            RunKind::Points => work.points(run),
            RunKind::RootAttributes => Ok(work.root_attributes(run)),
            RunKind::Listing | RunKind::Subtree | RunKind::Move => {
                Ok(Share::none(run, &io::ErrorKind::Unsupported.into()))
            }
        }
    }
}

/// Moves what is at `from` on a local target to `to`, where nothing may be; says whether it did. An acceleration: the run that
/// follows compares, and says what is done. Whoever calls knows that the source has nothing at `from`.
pub fn rename_within(target: &Path, from: &RelPath, to: &RelPath) -> bool {
    let renamed = top::open_target(target).and_then(|top| beneath::rename_beneath(top.as_fd(), from, to));
    if let Err(error) = &renamed {
        tracing::debug!(target = %target.display(), %from, %to, %error, "not renamed on the target");
    }
    renamed.is_ok()
}
