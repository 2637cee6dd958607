//! What a local target gets without rsync, which takes 28 to 49 ms for a single file there (notes/rsync.md 5.1).
//!
//! Only what can be done with certainty: whatever is unexpected is left to rsync, which decides and finds the words. So
//! nothing here ever says more than "done".

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use crate::path::RelPath;
use crate::sys::{beneath, files};

/// Moves what is at `from` on a local target to `to`, where nothing may be; says whether it did. An acceleration: the run that
/// follows compares, and says what is done.
pub fn rename_within(target: &Path, from: &RelPath, to: &RelPath) -> bool {
    let renamed = open_target(target).and_then(|top| beneath::rename_beneath(top.as_fd(), from, to));
    if let Err(error) = &renamed {
        tracing::debug!(target = %target.display(), %from, %to, %error, "not renamed on the target");
    }
    renamed.is_ok()
}

/// Opens the directory of a local target. Not on a file system whose server may not answer: that would hold the lane's
/// thread, where an rsync can be ended.
fn open_target(path: &Path) -> io::Result<OwnedFd> {
    let top = beneath::open_top(path)?;
    if !files::ctimes_tell(top.as_fd())? {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(top)
}
