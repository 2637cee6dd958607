//! A small kernel queue for the inotify instances that are made meanwhile; shared by the test crates.

use std::fs;
use std::path::Path;
use std::time::Duration;

use fansync::sys::lock::{Lock, try_lock};

const SYSCTL: &str = "/proc/sys/fs/inotify/max_queued_events";

/// Events that the small queue holds.
pub const QUEUE: usize = 64;

/// The kernel's default, for when a killed test has left the small one.
const USUAL: &str = "16384";

/// The small queue, until it is dropped. The lock keeps the other overflow tests of this machine away.
pub struct SmallQueue {
    before: String,
    _lock: Lock,
}

impl SmallQueue {
    /// `None`, and a word about it, when not allowed.
    pub fn set() -> Option<Self> {
        let lock = loop {
            match try_lock(Path::new("/tmp/fansync-test-max_queued_events.lock")) {
                Ok(Some(lock)) => break lock,
                Ok(None) => std::thread::park_timeout(Duration::from_millis(20)),
                Err(error) => {
                    eprintln!("skipped: cannot take the lock: {error}");
                    return None;
                }
            }
        };
        let found = fs::read_to_string(SYSCTL).expect("inotify has its sysctls");
        let before = if found.trim() == QUEUE.to_string() { USUAL.to_owned() } else { found.trim().to_owned() };
        match fs::write(SYSCTL, QUEUE.to_string()) {
            Ok(()) => Some(Self { before, _lock: lock }),
            Err(error) => {
                eprintln!("skipped: cannot write {SYSCTL}: {error}");
                None
            }
        }
    }
}

impl Drop for SmallQueue {
    fn drop(&mut self) {
        fs::write(SYSCTL, &self.before).expect("it could be written before");
    }
}
