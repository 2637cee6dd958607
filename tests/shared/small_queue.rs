//! Small kernel queues for the inotify instances and fanotify groups that are made meanwhile; shared by the test crates.

use std::fs;

use fansync::sys::lock::Lock;

use crate::queue_lock::lock_queues;

const SYSCTLS: [&str; 2] = ["/proc/sys/fs/inotify/max_queued_events", "/proc/sys/fs/fanotify/max_queued_events"];

/// Events that the small queue holds.
pub const QUEUE: usize = 64;

/// The kernel's default, for when a killed test has left the small one.
const USUAL: &str = "16384";

/// The small queues, until it is dropped. The lock keeps the other overflow tests of this machine away.
pub struct SmallQueue {
    before: Vec<(&'static str, String)>,
    _lock: Lock,
}

impl SmallQueue {
    /// `None`, and a word about it, when not allowed.
    pub fn set() -> Option<Self> {
        let lock = lock_queues()?;
        let mut small = Self { before: Vec::new(), _lock: lock };
        for sysctl in SYSCTLS {
            // A kernel without fanotify has one of them.
            let Ok(found) = fs::read_to_string(sysctl) else { continue };
            let found = found.trim();
            if let Err(error) = fs::write(sysctl, QUEUE.to_string()) {
                eprintln!("skipped: cannot write {sysctl}: {error}");
                return None;
            }
            let before = if found == QUEUE.to_string() { USUAL } else { found };
            small.before.push((sysctl, before.to_owned()));
        }
        Some(small)
    }
}

impl Drop for SmallQueue {
    fn drop(&mut self) {
        for (sysctl, before) in &self.before {
            fs::write(sysctl, before).expect("it could be written before");
        }
    }
}
