//! Child processes: what they inherit, how their end is seen, how their group is stopped.

use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};

use rustix::process::{Pid, PidfdFlags, Signal, WaitIdOptions};

/// Descriptors from here on are kept for children, clear of the low numbers that programs expect for themselves.
const INHERITED_FROM: RawFd = 100;

/// A descriptor that children inherit (it is *not* closed on exec), under the same number.
#[derive(Debug)]
pub struct Inherited(OwnedFd);

impl Inherited {
    /// Duplicates `fd` for the children.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn duplicate(fd: impl AsFd) -> io::Result<Self> {
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, INHERITED_FROM)?;
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
        Ok(Self(copy))
    }

    /// Its number, the same in every child.
    #[must_use]
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Inherited {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A memory file that holds `bytes`, positioned at its start: a child's standard input that is complete before the
/// child reads it, so that no crash of ours can cut a list in the middle of a path.
///
/// # Errors
/// Those of memfd_create(2) and write(2).
pub fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("fansync-list", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Makes reads of a pipe of ours return `EAGAIN` when it is empty.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// Asks for a pipe that holds `wanted` bytes; returns how many it holds, which may be fewer (pipe(7), `F_SETPIPE_SZ`).
///
/// # Errors
/// Those of fcntl(2), such as that it is no pipe.
pub fn widen_pipe(fd: impl AsFd, wanted: usize) -> io::Result<usize> {
    if let Ok(size) = rustix::pipe::fcntl_setpipe_size(&fd, wanted) {
        return Ok(size);
    }
    Ok(rustix::pipe::fcntl_getpipe_size(&fd)?)
}

/// A process that nobody has reaped yet, seen through its pidfd.
#[derive(Debug)]
pub struct Reaper {
    pidfd: OwnedFd,
    group: Pid,
}

impl AsFd for Reaper {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It called exit.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Reaper {
    /// Opens the pidfd of a child that leads its own process group and has not been waited for (pidfd_open(2)).
    ///
    /// # Errors
    /// `EMFILE`, or `ESRCH` when somebody reaped it before.
    pub fn open(child: &std::process::Child) -> io::Result<Self> {
        let group = Pid::from_child(child);
        Ok(Self { pidfd: rustix::process::pidfd_open(group, PidfdFlags::empty())?, group })
    }

    /// Readable when the process has ended; for `mio::unix::SourceFd`.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }

    /// Its process id, which is its own until it is reaped.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Whether the child has ended; it stays a zombie, which keeps its number from being given away.
    ///
    /// # Errors
    /// Those of waitid(2).
    pub fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(rustix::process::waitid(rustix::process::WaitId::PidFd(self.pidfd.as_fd()), options)?.is_some())
    }

    /// Reaps the child if it has ended (`waitid(P_PIDFD)`). Its group must not be signalled after that: its number may
    /// be another one's.
    ///
    /// # Errors
    /// Those of waitid(2).
    pub fn try_reap(&self) -> io::Result<Option<Ended>> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Kills the whole group and waits for the child, which has not been reaped.
    pub fn end(&self) {
        self.kill_group();
        let _nobody_asks: io::Result<Option<Ended>> = self.wait(WaitIdOptions::EXITED);
    }

    fn wait(&self, options: WaitIdOptions) -> io::Result<Option<Ended>> {
        let Some(status) = rustix::process::waitid(rustix::process::WaitId::PidFd(self.pidfd.as_fd()), options)? else {
            return Ok(None);
        };
        Ok(Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, signal) => Ended::Signal(signal.unwrap_or(0)),
        }))
    }

    /// Whether the process hangs in opening a FIFO that nobody writes to, as far as the kernel tells
    /// (`/proc/PID/wchan`, proc(5)).
    #[must_use]
    pub fn waits_for_fifo(&self) -> bool {
        let path = format!("/proc/{}/wchan", self.group.as_raw_nonzero());
        std::fs::read(path).is_ok_and(|place| place == b"wait_for_partner" || place == b"fifo_open")
    }

    /// Asks the whole group to end.
    pub fn terminate_group(&self) {
        let _gone_already = rustix::process::kill_process_group(self.group, Signal::TERM);
    }

    /// Ends the whole group.
    pub fn kill_group(&self) {
        let _gone_already = rustix::process::kill_process_group(self.group, Signal::KILL);
    }
}

/// Makes the kernel kill this process when the thread that started it ends (prctl(2), `PR_SET_PDEATHSIG`).
/// Returns whether the parent is still `parent`: it may have died before the call.
///
/// # Errors
/// Those of prctl(2).
pub fn die_with_parent(parent: u32) -> io::Result<bool> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent))
}
