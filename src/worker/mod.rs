//! The one place that knows rsync: its flags, its words and its exit codes.
//!
//! - [`command`]: the command line, the list, the environment.
//! - [`ssh`]: how ssh is called, by rsync and for the connection that its calls share.
//! - [`shim`]: a process before it is rsync.
//! - [`throttle`]: the limit of a target, shared among its runs.
//! - [`run`]: one process, started, listened to, watched over, reaped.
//! - [`acks`]: what its daemon says is acknowledged at once.
//! - [`warm`]: one that was started ahead; [`heat`]: when there is one.
//! - [`link`]: what a target's lanes share of the way there.
//! - [`speed`]: how fast that is.
//! - [`shipment`]: a whole draft: what is at its paths, what its runs brought.
//! - [`direct`]: what a local target gets without rsync.
//! - [`ship`]: the same with real runs.
//! - [`warmth`]: the same by an rsync that was started ahead.
//! - [`preview`]: what one run of everything would do.
//! - [`cause`]: why a run ended as it did, and what to do about it (the table).
//! - [`complaint`]: one line of rsync's output, and the paths of the root that it names.
//! - [`outcome`]: a whole run to a verdict: what was applied, the cause, the remedy.

pub mod cause;
pub mod complaint;
pub mod outcome;
pub mod ssh;
pub mod throttle;
pub mod command;
mod acks;
pub mod heat;
pub mod link;
pub mod speed;
pub mod shim;
mod warm;
pub mod run;
pub mod shipment;
pub mod direct;
pub mod ship;
mod warmth;
pub mod preview;
