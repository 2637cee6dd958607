//! Files below a held root: opened without following a symlink, looked at, listed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};

use super::clock::WallTime;
use crate::path::RelPath;

/// What kind of entry a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, a socket or a device node.
    Special,
}

impl EntryType {
    fn of(file_type: FileType) -> Self {
        match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            _ => Self::Special,
        }
    }
}

/// Which inode: unique on one machine while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Device of the file system (btrfs: of the subvolume).
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// What an lstat tells of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Its kind.
    pub entry_type: EntryType,
    /// Which inode.
    pub identity: Identity,
    /// Names that the inode has; 0 for a removed directory that is still open.
    pub links: u32,
    /// Size in bytes.
    pub size: u64,
    /// When the inode last changed; cannot be set by programs.
    pub changed: WallTime,
    /// When its content, or the names in it, last changed; any program may have set it.
    pub modified: WallTime,
}

/// All that an lstat tells of a name that a copy of it is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Details {
    /// What most ask for.
    pub status: Status,
    /// Permission bits, with those of setuid, setgid and sticky.
    pub mode: u32,
    /// Its owner.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// [`Status::modified`], for times that are too far away for it: seconds, and nanoseconds after them.
    pub modified_exactly: (i64, u32),
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, never `.` or `..`.
    pub name: Vec<u8>,
    /// The kind; `None` where the file system does not tell (`DT_UNKNOWN`).
    pub entry_type: Option<EntryType>,
    /// The inode number.
    pub inode: u64,
}

/// Opens an absolute directory, following symlinks in its path: this is the root as the operator named it.
///
/// # Errors
/// Those of open(2).
pub fn open_root(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory below `root` without passing a symlink or leaving the root
/// (openat2(2): `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`).
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ELOOP` (a component is a symlink), `EACCES`, `ENAMETOOLONG`, …
pub fn open_directory(root: BorrowedFd<'_>, path: &RelPath) -> io::Result<OwnedFd> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
}

/// As [`open_directory`], but only as a place to look names up from: needs no read permission.
///
/// # Errors
/// As [`open_directory`].
pub fn open_place(root: BorrowedFd<'_>, path: &RelPath) -> io::Result<OwnedFd> {
    open_beneath(root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
}

/// Opens the directory `name` in the open directory `place`, never through a symlink: wherever `place` is by now, it is
/// in there.
///
/// # Errors
/// Those of open(2): `ENOENT`, `ENOTDIR` (also for a symlink), `EACCES`, …
pub fn open_in(place: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::openat(place, name, flags, Mode::empty()))?)
}

fn open_beneath(root: BorrowedFd<'_>, path: &RelPath, flags: OFlags) -> io::Result<OwnedFd> {
    let name: &[u8] = if path.is_root() { b"." } else { path.as_bytes() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(fd),
            // openat2(2): EAGAIN when a rename elsewhere raced with the look-up of `..`; it asks to be tried again.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Looks at `name` in the open directory `place`, never through a symlink.
///
/// # Errors
/// Those of statx(2).
pub fn status_at(place: BorrowedFd<'_>, name: &[u8]) -> io::Result<Status> {
    statx(place, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// As [`status_at`], for all that a copy is to have, and never from a cache that may be stale.
///
/// # Errors
/// Those of statx(2).
pub fn details_at(place: BorrowedFd<'_>, name: &[u8]) -> io::Result<Details> {
    details(place, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// As [`details_at`], of the open file itself.
///
/// # Errors
/// Those of statx(2).
pub fn details_of(fd: impl AsFd) -> io::Result<Details> {
    details(fd.as_fd(), b"", AtFlags::EMPTY_PATH)
}

/// Looks at the open file itself.
///
/// # Errors
/// Those of statx(2).
pub fn status_of(fd: impl AsFd) -> io::Result<Status> {
    statx(fd.as_fd(), b"", AtFlags::EMPTY_PATH)
}

/// Looks at an absolute path, following symlinks: what the operator's configuration means right now.
///
/// # Errors
/// Those of statx(2).
pub fn status_of_path(path: &std::path::Path) -> io::Result<Status> {
    use std::os::unix::ffi::OsStrExt as _;
    statx(rustix::fs::CWD, path.as_os_str().as_bytes(), AtFlags::empty())
}

/// What is asked of statx(2) for a [`Status`].
const STATUS: StatxFlags = StatxFlags::TYPE
    .union(StatxFlags::MODE)
    .union(StatxFlags::NLINK)
    .union(StatxFlags::INO)
    .union(StatxFlags::SIZE)
    .union(StatxFlags::CTIME)
    .union(StatxFlags::MTIME);

fn statx(place: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> io::Result<Status> {
    Ok(status_in(&rustix::fs::statx(place, name, flags | AtFlags::STATX_DONT_SYNC, STATUS)?))
}

fn details(place: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> io::Result<Details> {
    let found = rustix::fs::statx(place, name, flags, STATUS | StatxFlags::UID | StatxFlags::GID)?;
    Ok(Details {
        status: status_in(&found),
        mode: u32::from(found.stx_mode) & 0o7777,
        user: found.stx_uid,
        group: found.stx_gid,
        modified_exactly: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
    })
}

fn status_in(found: &rustix::fs::Statx) -> Status {
    let time = |stamp: rustix::fs::StatxTimestamp| {
        WallTime(stamp.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(stamp.tv_nsec)))
    };
    Status {
        entry_type: EntryType::of(FileType::from_raw_mode(u32::from(found.stx_mode))),
        identity: Identity {
            device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        },
        links: found.stx_nlink,
        size: found.stx_size,
        changed: time(found.stx_ctime),
        modified: time(found.stx_mtime),
    }
}

/// Which file system the open file is on: `f_fsid` of statfs(2), which for ext4, xfs and btrfs comes from their UUID.
///
/// # Errors
/// Those of statfs(2).
pub fn file_system_of(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstatvfs(fd)?.f_fsid)
}

/// Network file systems and those in user space, by `f_type` of statfs(2): their stamps are those of a server's clock, or of a
/// cache, or whatever a program says.
const STAMPED_ELSEWHERE: [u32; 11] = [
    0x0000_6969, // nfs
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2, smb3
    0x0000_517b, // smb
    0x6573_5546, // fuse
    0x0102_1997, // 9p
    0x00c3_6400, // ceph
    0x5346_414f, // afs (openafs)
    0x6b41_4653, // afs (kernel)
    0x0bd0_0bd0, // lustre
    0x0116_1970, // gfs2
];

/// Whether a ctime on this file system tells what changed since a moment of this machine's clock (notes/kernel.md 7.2).
///
/// # Errors
/// Those of statfs(2).
pub fn ctimes_tell(fd: impl AsFd) -> io::Result<bool> {
    // A 32-bit magic number, in a field of 64 bits.
    let magic = u32::try_from(rustix::fs::fstatfs(fd)?.f_type & 0xffff_ffff).unwrap_or(0);
    Ok(!STAMPED_ELSEWHERE.contains(&magic))
}

/// Whether an open directory has no entries; reads no more than it takes to know.
///
/// # Errors
/// Those of getdents64(2).
pub fn is_empty(directory: impl AsFd) -> io::Result<bool> {
    let mut buffer = Vec::with_capacity(4 * 1024);
    let mut reader = rustix::fs::RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = reader.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lists an open directory, calling `each` for every entry but `.` and `..`, in the kernel's order.
///
/// # Errors
/// Those of getdents64(2).
pub fn list(directory: impl AsFd, mut each: impl FnMut(&[u8], Option<EntryType>, u64)) -> io::Result<()> {
    // On the stack: more brings nothing, and an allocation for each directory costs more than a small directory's entries.
    let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 32 * 1024];
    let mut reader = rustix::fs::RawDir::new(directory, &mut buffer);
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let entry_type = match entry.file_type() {
            FileType::Unknown => None,
            known => Some(EntryType::of(known)),
        };
        each(name, entry_type, entry.ino());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctimes_tell_on_local_file_systems_only() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(ctimes_tell(open_root(scratch.path()).unwrap()).unwrap());
        assert!(ctimes_tell(open_root(std::path::Path::new("/proc")).unwrap()).unwrap());
        let fuse = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = fuse.lines().find(|line| line.contains(" - fuse"));
        if let Some(path) = mounted.and_then(|line| line.split(' ').nth(4)) {
            assert!(!ctimes_tell(open_root(std::path::Path::new(path)).unwrap()).unwrap());
        }
    }
}
