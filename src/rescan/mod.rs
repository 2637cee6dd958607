//! Recovery from loss: which paths below a scope may have changed since a moment, told by ctime alone.
//!
//! A change moves the ctime of the inode that it concerns, and the ctime of each directory whose names it changes; no
//! program can set a ctime back (notes/kernel.md 7.1). So whatever happened at or after the *watermark* shows itself to
//! a walk that begins later, and what does not show itself is neither asked of rsync nor sent again.
//!
//! `rules` decides (pure), `walk` looks at one directory at a time; the threads that do it are in `daemon`.

mod rules;
mod walk;

pub use rules::{Verdict, is_changed, judge_directory};
pub use walk::{Finder, Scope, Task, begin, pass, visit};
