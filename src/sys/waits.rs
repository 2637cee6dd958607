//! How much of its time this process waits (getrusage(2)).

use nix::sys::resource::{UsageWho, getrusage};

/// How often its threads gave up their core to wait for something: a disk, a lock, an event. Not counted is a thread that
/// could run but was not let, so a busy machine looks like an idle one.
#[must_use]
pub fn so_far() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0, |usage| u64::try_from(usage.voluntary_context_switches()).unwrap_or(0))
}
