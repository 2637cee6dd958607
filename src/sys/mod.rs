//! The kernel's calls, each wrapped once: named after the syscall, owned types in and out, no policy.
//!
//! Nearly all of them go through rustix or nix; what neither has is called here, and `unsafe` is found nowhere else.

pub mod beneath;
pub mod child;
pub mod clock;
pub mod connection;
pub mod fanotify;
pub mod files;
pub mod ground;
pub mod handle;
pub mod handle_table;
pub mod inotify;
pub mod limits;
pub mod lock;
pub mod memory;
pub mod mounts;
pub mod privileges;
pub mod socket;
pub mod usage;
pub mod waits;
