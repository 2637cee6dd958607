//! Marks to rsync runs: looks at the paths of a draft, then decides what each run lists.
//!
//! `look`, `survey` and `links` are the I/O and what it found; `runs` is pure. Rules that hold for every list
//! (notes/rsync.md 1): an entry starts with a slash and has no `..`; nothing lies beneath something that is missing or
//! is no directory; no parent is a symlink; a directory gets a trailing slash only where its listing is meant.

mod links;
mod look;
mod runs;
mod survey;

pub use links::{LinkTable, Siblings, Sought};
pub use look::{Look, Looker};
pub use runs::{EntryKind, Plan, PlanOptions, Risk, Run, RunKind, Sighting, WHOLE_MAX, entry, plan};
pub use survey::{Found, Survey, SurveyLimits, search_links, survey};
