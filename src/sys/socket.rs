//! A unix socket in a folder, whatever the length of the folder's path (unix(7): 108 bytes at most in an address).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Opens a folder as a place for names only.
///
/// # Errors
/// Those of open(2).
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The address of `name` in an open folder.
fn address(folder: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?)
}

/// Listens at `name` in `folder`, non-blocking, in place of whatever had the name. Only the owner can connect, from the
/// first moment on: the file gets the mode of the socket (unix_bind_bsd in the kernel's net/unix/af_unix.c), which is
/// set before it has a name.
///
/// # Errors
/// Those of unlink(2), socket(2) and bind(2).
pub fn listen(folder: impl AsFd, name: &str) -> io::Result<UnixListener> {
    let folder = folder.as_fd();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    remove(folder, name)?;
    rustix::net::bind(&socket, &address(folder, name)?)?;
    // Nobody can connect before this.
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// Connects to `name` in the folder at `path`.
///
/// # Errors
/// Those of open(2) and connect(2): `ENOENT` and `ECONNREFUSED` mean that nobody listens.
pub fn connect(path: &Path, name: &str) -> io::Result<UnixStream> {
    let folder = open_folder(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address(folder.as_fd(), name)?)?;
    Ok(UnixStream::from(socket))
}

/// Removes `name` from `folder`, if it is there.
///
/// # Errors
/// Those of unlink(2), but `ENOENT`.
pub fn remove(folder: impl AsFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_socket_in_a_long_path_is_private_from_its_birth_and_replaces_a_stale_one() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        symlink("elsewhere", deep.join("s")).unwrap();
        let folder = open_folder(&deep).unwrap();
        let before = rustix::process::umask(Mode::empty());
        let stale = listen(&folder, "s");
        rustix::process::umask(before);
        drop(stale.unwrap());
        assert_eq!(std::fs::symlink_metadata(deep.join("s")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(connect(&deep, "s").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

        let listener = listen(&folder, "s").unwrap();
        let mut client = connect(&deep, "s").unwrap();
        client.write_all(b"x").unwrap();
        drop(client);
        let (mut served, _) = listener.accept().unwrap();
        let mut text = String::new();
        served.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");

        remove(&folder, "s").unwrap();
        remove(&folder, "s").unwrap();
        assert_eq!(connect(&deep, "s").unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(deep.join("s")).unwrap();
        assert!(listen(&folder, "s").is_err(), "a folder of that name is not ours to remove");
    }
}
