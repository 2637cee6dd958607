//! What goes to the lanes, what comes back, and what the operator is told.

use std::time::{Duration, Instant};

use super::breaker::Pace;
use crate::change::{BatchId, Content, Draft, Mark, MarkKind};
use crate::path::RelPath;
use crate::target::TargetId;

/// A lane of a target: one rsync at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u16);

/// What a lane is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Send a draft.
    Send {
        /// What.
        draft: Draft,
        /// The receiver takes `--delete-missing-args`.
        missing_args: bool,
    },
    /// Ask the target with an empty list what is wrong, or whether all is well.
    Probe {
        /// The receiver takes `--delete-missing-args`.
        missing_args: bool,
    },
}

/// An order and who shall do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Which target.
    pub target: TargetId,
    /// Which of its lanes.
    pub lane: LaneId,
    /// What to do.
    pub order: Order,
}

/// What a lane says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Before the first run: what the look at the paths brought. The named paths of the draft are not in the runs.
    Seen {
        /// Which batch.
        batch: BatchId,
        /// Marks that follow.
        marks: Vec<Mark>,
        /// Paths of the draft for the large lane.
        large: Vec<RelPath>,
        /// Paths of the draft that wait for the next batch.
        later: Vec<RelPath>,
    },
    /// The draft is finished, one way or another.
    Concluded {
        /// Which batch.
        batch: BatchId,
        /// How it went.
        conclusion: Conclusion,
    },
    /// The probe is finished; `None` when all is well.
    Probed(Option<Trouble>),
}

/// How a draft went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    /// What is on the target now.
    pub outcome: Outcome,
    /// What was wrong with more than single paths.
    pub trouble: Option<Trouble>,
    /// Directories that were compared; for the progress of a cold start.
    pub directories: usize,
    /// The draft was a move, and so many names are acknowledged where they are now.
    pub moved: Option<u32>,
}

/// What of a draft is on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything but these.
    Done(Vec<FailedMark>),
    /// Some paths failed and nobody can tell which: it must be split. rsync's most telling words, if it said any.
    Unclear(String),
    /// Nothing is known to be.
    Nothing,
    /// The same, and whoever wrote there may have died without removing its temporary files.
    Broken,
    /// Nothing is known to be, and these are what ended it; the others would have gone.
    EndedBy(Vec<FailedMark>),
}

/// A mark of the draft that is not on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedMark {
    /// The mark's path.
    pub path: RelPath,
    /// What to do about it.
    pub why: Why,
    /// rsync's words, escaped.
    pub words: String,
}

/// Why a single mark failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The source changed between the look and the transfer: look again, at once the first time.
    Raced,
    /// The target refuses it, or the source cannot be read: again after a pause.
    Refused,
    /// It lies beneath a listing or subtree of which all else is on the target: it gets a mark of its own.
    Beneath(MarkKind, Content),
    /// It is on the target but for its deletes, of which there are too many: they wait for somebody to approve them.
    Held {
        /// Names that it would delete, as far as is known.
        deletes: u64,
    },
}

/// What was wrong with the target, the source or the batch as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Stable name, for metrics and logs.
    pub cause: &'static str,
    /// What to do.
    pub remedy: TroubleRemedy,
    /// rsync's words, escaped.
    pub words: String,
    /// What the operator can do.
    pub hint: Option<&'static str>,
}

/// What the dispatcher does about trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TroubleRemedy {
    /// Leave the target alone for a while, then probe.
    Pause(Pace),
    /// The same, and small batches afterwards: the target is full.
    PauseFull,
    /// Rarely, and compare everything afterwards: the directory was gone, and may be another one when it is back.
    PauseAnew,
    /// The receiver cannot take missing arguments: do without them.
    DropMissingArgs,
    /// The root is not what it was: send nothing, look again soon.
    HoldSource,
    /// The source changed under the transfer: send it again.
    Again,
    /// The agent is ending: nothing.
    Stopping,
}

impl TroubleRemedy {
    /// Whether it leaves the target alone.
    #[must_use]
    pub fn is_pause(self) -> bool {
        match self {
            Self::Pause(_) | Self::PauseFull | Self::PauseAnew => true,
            Self::DropMissingArgs | Self::HoldSource | Self::Again | Self::Stopping => false,
        }
    }
}

/// What the operator should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A path failed.
    PathFailed {
        /// Which target.
        target: TargetId,
        /// Which path.
        path: RelPath,
        /// rsync's words.
        words: String,
        /// Failures of this path so far, this one included.
        attempts: u32,
        /// It is retried rarely from here on.
        dead_letter: bool,
    },
    /// A target stopped taking batches.
    Paused {
        /// Which target.
        target: TargetId,
        /// Why.
        trouble: Trouble,
        /// Failures in a row.
        failures: u32,
        /// Until the next probe.
        pause: Duration,
    },
    /// A target takes batches again.
    Resumed {
        /// Which target.
        target: TargetId,
        /// Failures in a row that came before.
        failures: u32,
    },
    /// The receiver cannot take missing arguments.
    MissingArgsDropped {
        /// Which target.
        target: TargetId,
    },
    /// More was to be deleted than may be within a minute: it is held. Said when nothing was held before.
    DeletesHeld {
        /// Which target.
        target: TargetId,
        /// Marks.
        marks: usize,
        /// Names, as far as is known.
        deletes: u64,
        /// The first path.
        first: RelPath,
    },
    /// What was held goes now.
    DeletesReleased {
        /// Which target.
        target: TargetId,
        /// Marks.
        marks: usize,
        /// Somebody approved it; else its time was over.
        approved: bool,
    },
    /// Nothing is sent from this root for now.
    Held {
        /// Why.
        trouble: Trouble,
    },
    /// The root is back.
    Released,
    /// A batch was acknowledged: for latencies and counts.
    Acknowledged {
        /// Which target.
        target: TargetId,
        /// First events of its live marks.
        firsts: Vec<Instant>,
        /// Background marks in it.
        background: usize,
        /// Directories that were compared.
        directories: usize,
    },
}
