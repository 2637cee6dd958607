//! Changes in a directory that is held open: files, links and directories made, moved and removed by their names in it.
//!
//! No symlink is ever followed: names are single ones, in a directory that was opened without following one, and what
//! is set on a file is set by a descriptor of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::process::{Gid, Uid};

use super::files::{self, Details};
use crate::path::RelPath;

/// How much is copied between two questions whether to go on. Unit: bytes.
const PIECE: usize = 1024 * 1024;

/// Files above this are cloned where the file system can (ioctl_ficlone(2)), and else copied by the kernel. Unit: bytes. Why:
/// btrfs and xfs write a file's data out before they share it, which for a small file takes longer than to copy it.
const SHARE_MIN: u64 = 1024 * 1024;

/// Opens an absolute directory, as a place to look names up from, if no symlink is on the way to it (openat2(2):
/// `RESOLVE_NO_SYMLINKS`).
///
/// # Errors
/// `ELOOP` (a component is a symlink), `ENOENT`, `ENOTDIR`, …
pub fn open_top(path: &Path) -> io::Result<OwnedFd> {
    // With `O_NOFOLLOW` too a symlink at its end would be `ENOTDIR`.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve))?)
}

/// Opens a file to be read, never through a symlink. Does not wait where it turns out to be a FIFO.
///
/// # Errors
/// Those of open(2); `ELOOP` for a symlink.
pub fn open_file(place: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::openat(place, name, flags, Mode::empty()))?)
}

/// Holds whatever has this name, a symlink too, without opening it (`O_PATH`).
///
/// # Errors
/// Those of open(2).
pub fn hold(place: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::openat(place, name, flags, Mode::empty()))?)
}

/// Makes a file without a name, which is gone when its descriptor is (`O_TMPFILE`), for its owner only.
///
/// # Errors
/// `EOPNOTSUPP`, `EISDIR` or `EINVAL` where the file system has no such files; those of open(2).
pub fn create_nameless(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::openat(place, ".", flags, mode))?)
}

/// Gives a file without a name its first one, which must be free (linkat(2)).
///
/// # Errors
/// `EEXIST`; `ENOENT` also where `/proc` is not mounted.
pub fn give_name(file: BorrowedFd<'_>, place: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::linkat(rustix::fs::CWD, magic_link(file), place, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// Makes a file with a name that must be free, for its owner only.
///
/// # Errors
/// `EEXIST`; those of open(2).
pub fn create(place: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(rustix::io::retry_on_intr(|| rustix::fs::openat(place, name, flags, mode))?)
}

/// Makes a directory with a name that must be free, for its owner only.
///
/// # Errors
/// `EEXIST`; those of mkdir(2).
pub fn make_directory(place: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(place, name, Mode::RWXU)?)
}

/// Makes a symlink with a name that must be free.
///
/// # Errors
/// `EEXIST`; those of symlink(2).
pub fn make_symlink(place: BorrowedFd<'_>, name: &[u8], leads_to: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(leads_to, place, name)?)
}

/// Where a symlink that is held leads to.
///
/// # Errors
/// `ENOENT` when it is no symlink.
pub fn read_symlink(held: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(held, "", Vec::new())?.into_bytes())
}

/// Moves a name over whatever has the other one in the same directory.
///
/// # Errors
/// Those of rename(2); `EISDIR` when a directory has the other name.
pub fn replace(place: BorrowedFd<'_>, name: &[u8], by: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::renameat(place, by, place, name)?)
}

/// Removes a name that is no directory's.
///
/// # Errors
/// `EISDIR` or `EPERM` for a directory; those of unlink(2).
pub fn remove(place: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(place, name, AtFlags::empty())?)
}

/// Moves what is at `from` beneath `top` to `to`, which must be free, on the same file system, with both parents in place
/// (renameat2(2), `RENAME_NOREPLACE`).
///
/// # Errors
/// Those of openat2(2) for the parents, and of renameat2(2): `ENOENT`, `EEXIST`, `EXDEV`, `EINVAL` (into itself, or the file
/// system cannot do it), …
pub fn rename_beneath(top: BorrowedFd<'_>, from: &RelPath, to: &RelPath) -> io::Result<()> {
    let (Some(from_parent), Some(from_name), Some(to_parent), Some(to_name)) =
        (from.parent(), from.name(), to.parent(), to.name())
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let from_place = files::open_place(top, &from_parent)?;
    let to_place = files::open_place(top, &to_parent)?;
    Ok(rustix::fs::renameat_with(&from_place, from_name, &to_place, to_name, RenameFlags::NOREPLACE)?)
}

/// Sets the owner and the group of what is held, also by `O_PATH`; `None` leaves it.
///
/// # Errors
/// Those of chown(2).
pub fn set_owner(held: BorrowedFd<'_>, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
    Ok(rustix::fs::chownat(held, "", user, group, AtFlags::EMPTY_PATH)?)
}

/// Sets the permission bits of what is held, also by `O_PATH`; not of a symlink.
///
/// # Errors
/// Those of chmod(2); `ENOENT` also where `/proc` is not mounted.
pub fn set_mode(held: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // fchmod(2) refuses `O_PATH`, and fchmodat2(2) is young.
    Ok(rustix::fs::chmod(magic_link(held), Mode::from_raw_mode(mode))?)
}

/// Sets when the content of what is held was modified, also by `O_PATH`; when it was read stays.
///
/// # Errors
/// Those of utimensat(2).
pub fn set_modified(held: BorrowedFd<'_>, details: &Details) -> io::Result<()> {
    let (tv_sec, nanoseconds) = details.modified_exactly;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec, tv_nsec: nanoseconds.into() },
    };
    Ok(rustix::fs::utimensat(held, "", &times, AtFlags::EMPTY_PATH)?)
}

/// The largest file that this process may write: more ends it by a signal (setrlimit(2), `RLIMIT_FSIZE`). Unit: bytes.
#[must_use]
pub fn file_size_max() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX)
}

/// Copies the first `size` bytes of a file into a new one; says how many there were. Asks before each piece whether to go on.
///
/// # Errors
/// Those of read(2) and write(2); `ErrorKind::Interrupted` when it is not to go on.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64, go_on: &dyn Fn() -> bool) -> io::Result<u64> {
    if size > SHARE_MIN && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(size);
    }
    let mut by_kernel = size > SHARE_MIN;
    let mut buffer = if by_kernel { Vec::new() } else { vec![0; piece(size)] };
    let mut done = 0;
    while done < size {
        if !go_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let wanted = piece(size - done);
        if by_kernel {
            let (mut from_at, mut to_at) = (done, done);
            match rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), wanted) {
                // Some file systems say so of files that have content, such as those of /proc.
                Ok(0) | Err(_) => {
                    by_kernel = false;
                    buffer = vec![0; wanted];
                }
                Ok(count) => done += count as u64,
            }
            continue;
        }
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer[..wanted], done))?;
        if read == 0 {
            break;
        }
        let mut written = 0;
        while written < read {
            let at = done + written as u64;
            written += rustix::io::retry_on_intr(|| rustix::io::pwrite(to, &buffer[written..read], at))?;
        }
        done += read as u64;
    }
    Ok(done)
}

fn piece(left: u64) -> usize {
    usize::try_from(left).unwrap_or(PIECE).min(PIECE)
}

/// The name under `/proc` by which what a descriptor holds can be named (proc_pid_fd(5)).
fn magic_link(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_rename_beneath_replaces_nothing_and_follows_nothing() {
        let tree = tempfile::tempdir().unwrap();
        let at = |name: &str| tree.path().join("top").join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir(tree.path().join("outside")).unwrap();
        symlink("../outside", at("out")).unwrap();
        symlink("a", at("link")).unwrap();
        for name in ["a/x", "a/y", "a/b/deep"] {
            fs::write(at(name), name).unwrap();
        }
        let top = open_top(&tree.path().canonicalize().unwrap().join("top")).unwrap();
        let rename = |from: &str, to: &str| {
            rename_beneath(top.as_fd(), &path(from), &path(to)).map_err(|error| error.raw_os_error())
        };
        assert_eq!(rename("a/x", "a/y"), Err(Some(libc::EEXIST)));
        assert_eq!(rename("a/none", "a/z"), Err(Some(libc::ENOENT)));
        assert_eq!(rename("a/x", "none/z"), Err(Some(libc::ENOENT)));
        assert!(rename("a/x", "out/z").is_err());
        assert!(rename("link/x", "z").is_err());
        assert_eq!(rename("a", "a/b/c"), Err(Some(libc::EINVAL)));
        assert_eq!(rename("", "z"), Err(None));
        assert_eq!(rename("a/x", "a/b/z"), Ok(()));
        assert_eq!(rename("a", "c"), Ok(()));
        assert_eq!(rename("link", "c/link"), Ok(()), "the symlink itself");
        assert_eq!(fs::read_to_string(at("c/b/z")).unwrap(), "a/x");
        assert_eq!(fs::read_to_string(at("c/b/deep")).unwrap(), "a/b/deep");
        assert!(fs::symlink_metadata(at("c/link")).unwrap().is_symlink());
        assert_eq!(fs::read_dir(tree.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn a_top_behind_a_symlink_is_not_opened() {
        let tree = tempfile::tempdir().unwrap();
        let here = tree.path().canonicalize().unwrap();
        fs::create_dir_all(here.join("d/e")).unwrap();
        symlink("d", here.join("link")).unwrap();
        let open = |name: &str| open_top(&here.join(name)).map(drop).map_err(|error| error.raw_os_error());
        assert_eq!(open("d/e"), Ok(()));
        assert_eq!(open("link/e"), Err(Some(libc::ELOOP)));
        assert!(open("link").is_err());
        assert_eq!(open("none"), Err(Some(libc::ENOENT)));
    }

    #[test]
    fn what_is_copied_is_what_is_there_up_to_the_size_that_was_seen() {
        let tree = tempfile::tempdir().unwrap();
        let place = files::open_root(tree.path()).unwrap();
        for length in [0, 1, 4096, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
            let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            fs::write(tree.path().join("from"), &bytes).unwrap();
            let from = open_file(place.as_fd(), b"from").unwrap();
            let to = create_nameless(place.as_fd()).unwrap();
            assert_eq!(copy(from.as_fd(), to.as_fd(), length as u64, &|| true).unwrap(), length as u64);
            give_name(to.as_fd(), place.as_fd(), b"to").unwrap();
            assert!(fs::read(tree.path().join("to")).unwrap() == bytes, "{length} bytes");
            assert_eq!(give_name(to.as_fd(), place.as_fd(), b"from").unwrap_err().raw_os_error(), Some(libc::EEXIST));
            remove(place.as_fd(), b"to").unwrap();

            let to = create(place.as_fd(), b"to").unwrap();
            let more = length as u64 + 10;
            let copied = copy(from.as_fd(), to.as_fd(), more, &|| true).unwrap();
            // A clone says what it was asked for; the file's status tells that there was less.
            assert!(copied == length as u64 || copied == more, "{copied} of {length}");
            remove(place.as_fd(), b"to").unwrap();
        }
        let from = open_file(place.as_fd(), b"from").unwrap();
        let to = create_nameless(place.as_fd()).unwrap();
        assert_eq!(copy(from.as_fd(), to.as_fd(), 1, &|| false).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
