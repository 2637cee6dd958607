//! flock(2): one agent per state folder. The kernel lets go of it when the process ends, however it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

/// A held lock; dropping it frees it.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lifetime")] OwnedFd);

/// Takes the lock file at `path`, creating it with mode 0600; `None` when another process holds it.
///
/// # Errors
/// Those of open(2) and flock(2).
pub fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(fd))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
