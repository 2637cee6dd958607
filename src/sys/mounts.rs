//! What is mounted where: proc_pid_mountinfo(5), and a descriptor that tells of changes.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Tells when something is mounted or unmounted: its descriptor has `EPOLLPRI` then (proc_pid_mountinfo(5)).
#[derive(Debug)]
pub struct MountWatch(File);

impl MountWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn new() -> io::Result<Self> {
        Ok(Self(File::open(MOUNTINFO)?))
    }

    /// For `mio::unix::SourceFd`, with `Interest::PRIORITY`.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The mount that the open file was opened by.
///
/// # Errors
/// Those of statx(2).
pub fn mount_of(fd: impl std::os::fd::AsFd) -> io::Result<u64> {
    Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// The mount that the path leads to.
///
/// # Errors
/// Those of statx(2).
pub fn mount_of_path(path: &Path) -> io::Result<u64> {
    Ok(rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// Whether the mount is in this namespace's table: one that was unmounted lazily is not.
///
/// # Errors
/// Those of reading /proc.
pub fn is_mounted(mount: u64) -> io::Result<bool> {
    // Mount points are bytes.
    let table = std::fs::read(MOUNTINFO)?;
    let id = mount.to_string();
    Ok(table.split(|byte| *byte == b'\n').any(|line| line.split(|byte| *byte == b' ').next() == Some(id.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_an_open_file_is_that_of_its_path_and_is_mounted() {
        let here = File::open("/proc").unwrap();
        let mount = mount_of(&here).unwrap();
        assert_eq!(mount, mount_of_path(Path::new("/proc")).unwrap());
        assert!(is_mounted(mount).unwrap());
        assert!(!is_mounted(u64::MAX).unwrap());
        assert_ne!(mount, mount_of_path(Path::new("/")).unwrap());
    }
}
