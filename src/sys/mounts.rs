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

/// Whether the open directory is the top of a file system that is not the machine's own: of its mount, and of the file system
/// itself, not of a part that was mounted by bind.
///
/// # Errors
/// Those of statx(2) and of reading /proc.
pub fn is_top_of_file_system(fd: impl std::os::fd::AsFd) -> io::Result<bool> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))?;
    let mount = mount_of(&fd)?.to_string();
    let table = std::fs::read(MOUNTINFO)?;
    // Fields 1, 4 and 5: the mount, what of its file system is mounted, and where.
    let found = table.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let is_ours = fields.next()? == mount.as_bytes();
        let (top, point) = (fields.nth(2)?, fields.next()?);
        is_ours.then(|| top == b"/" && unescaped(point) == path.as_os_str().as_bytes())
    });
    Ok(found.unwrap_or(false) && path != Path::new("/"))
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

/// What a mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Type of the file system, such as `ext4` or `fuse.sshfs`.
    pub kind: String,
    /// Which of its directories is mounted.
    pub root: String,
    /// Options of the file system.
    pub options: Vec<String>,
}

/// What the mount with this id is; `None` when it is not in this namespace's table.
///
/// # Errors
/// Those of reading /proc.
pub fn describe(mount: u64) -> io::Result<Option<Mount>> {
    let table = std::fs::read(MOUNTINFO)?;
    Ok(String::from_utf8_lossy(&table).lines().find_map(|line| parse(line, mount)))
}

/// One line of the table, if it is of this mount (proc_pid_mountinfo(5)).
fn parse(line: &str, mount: u64) -> Option<Mount> {
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ');
    (place.next()?.parse() == Ok(mount)).then_some(())?;
    let (root, mut what) = (place.nth(2)?, what.split(' '));
    let kind = what.next()?;
    let options = what.nth(1).unwrap_or_default();
    Some(Mount {
        kind: kind.to_owned(),
        root: root.to_owned(),
        options: options.split(',').map(str::to_owned).collect(),
    })
}

/// The mount points strictly beneath the directory that is open as `fd`, as paths relative to it.
///
/// # Errors
/// Those of reading /proc.
pub fn mounts_beneath(fd: impl std::os::fd::AsFd) -> io::Result<Vec<Vec<u8>>> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))?;
    let mut top = path.as_os_str().as_bytes().to_vec();
    if top.last() != Some(&b'/') {
        top.push(b'/');
    }
    let table = std::fs::read(MOUNTINFO)?;
    // Field 5 is the mount point.
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let beneath = points.filter_map(|point| unescaped(point).strip_prefix(top.as_slice()).map(<[u8]>::to_vec));
    Ok(beneath.filter(|point| !point.is_empty()).collect())
}

/// Blanks, line ends and backslashes are written as three octal digits.
fn unescaped(point: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(point.len());
    let mut rest = point;
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match digits {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(u8::try_from(value & 0xff).unwrap_or(0));
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_they_are() {
        assert_eq!(unescaped(b"/a\\040b\\134c\\01"), b"/a b\\c\\01");
        let beneath = mounts_beneath(File::open("/").unwrap()).unwrap();
        assert!(beneath.iter().any(|point| point == b"proc"), "{beneath:?}");
        assert_eq!(
            mounts_beneath(tempfile::tempdir().map(|place| File::open(place.path()).unwrap()).unwrap()).unwrap().len(),
            0
        );
    }

    #[test]
    fn the_top_of_a_file_system_is_known() {
        assert!(is_top_of_file_system(File::open("/proc").unwrap()).unwrap());
        assert!(!is_top_of_file_system(File::open("/proc/self").unwrap()).unwrap());
        assert!(!is_top_of_file_system(File::open("/").unwrap()).unwrap());
    }

    #[test]
    fn a_mount_is_described_by_its_line() {
        let line = "67 27 0:41 /@ /m rw,relatime shared:1 - btrfs /dev/vdb rw,subvolid=256,subvol=/@";
        let options = ["rw", "subvolid=256", "subvol=/@"].map(str::to_owned).to_vec();
        let mount = Mount { kind: "btrfs".to_owned(), root: "/@".to_owned(), options };
        assert_eq!(parse(line, 67), Some(mount));
        assert_eq!(parse(line, 6), None);
        assert_eq!(parse("67 27", 67), None);
        let here = mount_of_path(Path::new("/proc")).unwrap();
        assert_eq!(describe(here).unwrap().unwrap().kind, "proc");
        assert_eq!(describe(u64::MAX).unwrap(), None);
    }

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
