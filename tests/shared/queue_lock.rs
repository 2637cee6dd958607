//! One test at a time sets the size of the kernel's queues; shared by the test crates.

use std::path::Path;
use std::time::Duration;

use fansync::sys::lock::{Lock, try_lock};

/// Keeps the other tests of this machine, of whatever crate, from setting it; `None`, and a word about it, when there is no
/// such lock.
pub fn lock_queues() -> Option<Lock> {
    loop {
        match try_lock(Path::new("/tmp/fansync-test-max_queued_events.lock")) {
            Ok(Some(lock)) => return Some(lock),
            Ok(None) => std::thread::park_timeout(Duration::from_millis(20)),
            Err(error) => {
                eprintln!("skipped: cannot take the lock: {error}");
                return None;
            }
        }
    }
}
