//! The kernel's calls, each wrapped once: named after the syscall, owned types in and out, no policy.
//!
//! All of them go through rustix, so the crate holds no `unsafe` of its own; what rustix cannot do would stand here.

pub mod child;
pub mod clock;
pub mod files;
pub mod ground;
pub mod inotify;
pub mod limits;
pub mod lock;
pub mod mounts;
pub mod socket;
