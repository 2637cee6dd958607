//! fansync keeps rsync targets the same as a live directory tree. See ARCHITECTURE.md for the bird's-eye view.
//!
//! ```text
//!  kernel ─ inotify fd ─► shard (mio loop) ─┐                     ┌► target A: ChangeSet ► draft ► lane ► rsync ► A
//!  kernel ─ inotify fd ─► shard (mio loop) ─┼─ ArrayQueue ─► dispatcher ─► target B: …
//!                                           ┘   (bounded)   (per root) ▲
//!                                                                      └── reports of the lanes ◄── rsync
//! ```
//!
//! The modules stand in the order in which data moves; a module imports only from those above it.

pub mod path;
pub mod filter;
pub mod target;
pub mod sys;
pub mod bandwidth;
pub mod limits;
pub mod event;
pub mod tree;
pub mod change;
pub mod watch;
pub mod rescan;
pub mod plan;
pub mod dispatch;
pub mod worker;
pub mod checkpoint;
pub mod config;
pub mod control;
pub mod daemon;
pub mod lab;
pub mod bench;
pub mod cli;
