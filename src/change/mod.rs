//! What is dirty: marks, the change set of one target, the settle policy. Pure.
//!
//! An event is a hint that a name may differ. Every hint, and every loss of hints, becomes a [`Mark`]; a mark is
//! cleared only by a transfer that began after the mark's last event and was acknowledged.

mod mark;
mod recent;
mod saved;
mod set;
mod settle;
mod trie;

pub use mark::{Content, Deletes, Mark, MarkKind, Origin, Priority, Stage};
pub use saved::{SavedChange, SavedMark};
pub use set::{
    BatchId, CTIME_SLACK, ChangeSet, ChangeSetOptions, Class, Draft, DraftMark, Fate, HeldMark, MarkView, Now,
    PathView, Tally, Want,
};
pub use settle::SettleOptions;
