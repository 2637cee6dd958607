//! The TCP connection of a child, seen through a duplicate of its socket: pidfd_getfd(2), tcp(7).
//!
//! Nothing is read from it or written to it. The duplicate keeps the connection open, so it must be dropped when the
//! child has ended: the other side sees the end only then.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::PidfdGetfdFlags;

use super::child::Reaper;

/// A duplicate of a child's connected TCP socket.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl Connection {
    /// Finds the connection of a child, if it has one yet.
    ///
    /// # Errors
    /// `ENOSYS` before Linux 5.6, `EPERM` where the child must not be looked into (Yama, seccomp), `ESRCH` when it has
    /// ended.
    pub fn of(child: &Reaper) -> io::Result<Option<Self>> {
        let directory = format!("/proc/{}/fd", child.id());
        for entry in std::fs::read_dir(&directory)? {
            let Ok(number) = entry?.file_name().to_string_lossy().parse::<RawFd>() else { continue };
            let target = match std::fs::read_link(format!("{directory}/{number}")) {
                Ok(target) => target,
                // Closed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if !target.as_os_str().as_encoded_bytes().starts_with(b"socket:") {
                continue;
            }
            match rustix::process::pidfd_getfd(child, number, PidfdGetfdFlags::empty()) {
                Ok(socket) if is_connected_tcp(&socket) => return Ok(Some(Self(socket))),
                Ok(_) | Err(rustix::io::Errno::BADF) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Has what comes next acknowledged at once: the kernel forgets that this side answers with data of its own
    /// (tcp(7), `TCP_QUICKACK`; not permanent).
    pub fn acknowledge_at_once(&self) {
        let _slower_then = sockopt::set_tcp_quickack(&self.0, true);
    }

    /// What the kernel knows of it.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    #[expect(unsafe_code, reason = "neither rustix nor nix has the option")]
    pub fn info(&self) -> io::Result<TcpInfo> {
        let mut bytes = [0_u8; TCP_INFO_SIZE];
        let mut length = libc::socklen_t::try_from(bytes.len()).unwrap_or(0);
        // SAFETY: the descriptor is open as long as `self`; the kernel writes at most `length` bytes, which is the size
        // of `bytes`, and a number to `length`; both live through the call.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                bytes.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(TcpInfo::read(&bytes[..usize::try_from(length).unwrap_or(0).min(bytes.len())]))
    }

    /// For `mio::unix::SourceFd`: an edge for everything that arrives.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn is_connected_tcp(socket: impl AsFd) -> bool {
    let family = sockopt::socket_domain(&socket);
    matches!(family, Ok(AddressFamily::INET | AddressFamily::INET6))
        && matches!(sockopt::socket_type(&socket), Ok(SocketType::STREAM))
        && matches!(rustix::net::getpeername(&socket), Ok(Some(_)))
}

/// As much of `struct tcp_info` (linux/tcp.h) as is read. Later kernels append to it.
const TCP_INFO_SIZE: usize = 208;

/// `TCP_ESTABLISHED` (linux/net/tcp_states.h).
const ESTABLISHED: u8 = 1;

/// Numbers of a connection (linux/tcp.h, `struct tcp_info`). What an older kernel does not tell is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Neither side has closed it, and it has not failed.
    pub established: bool,
    /// Smoothed round trip. Unit: microseconds.
    pub rtt_us: u32,
    /// The shortest round trip. Unit: microseconds.
    pub rtt_min_us: u32,
    /// What the other side has acknowledged. Unit: bytes.
    pub bytes_acknowledged: u64,
    /// What came from there. Unit: bytes.
    pub bytes_received: u64,
    /// How fast it took the latest data. Unit: bytes per second.
    pub delivery_rate: u64,
    /// That rate is bounded by what there was to send, not by the link.
    pub bounded_by_sender: bool,
    /// While data waited for an acknowledgement. Unit: microseconds.
    pub busy_us: u64,
}

impl TcpInfo {
    fn read(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let four =
            |at: usize| bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let eight =
            |at: usize| bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_ne_bytes);
        Self {
            established: byte(0) == ESTABLISHED,
            rtt_us: four(68),
            rtt_min_us: four(148),
            bytes_acknowledged: eight(120),
            bytes_received: eight(128),
            delivery_rate: eight(160),
            bounded_by_sender: byte(7) & 1 != 0,
            busy_us: eight(168),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_short_answer_lacks_is_nothing() {
        let mut bytes = [0xff; TCP_INFO_SIZE];
        bytes[0] = ESTABLISHED;
        let whole = TcpInfo::read(&bytes);
        assert!(whole.established && whole.bounded_by_sender);
        assert_eq!((whole.rtt_us, whole.delivery_rate, whole.busy_us), (u32::MAX, u64::MAX, u64::MAX));
        let old = TcpInfo::read(&bytes[..104]);
        assert_eq!((old.rtt_us, old.rtt_min_us, old.bytes_acknowledged, old.delivery_rate), (u32::MAX, 0, 0, 0));
        assert_eq!(TcpInfo::read(&[]), TcpInfo::default());
    }
}
