//! One rsync process: started, listened to, watched over, reaped.
//!
//! Invariant: when [`Supervisor::run`] returns, the child is reaped and its process group is gone. The list is a
//! complete memory file before rsync exists, so no crash of ours can cut an entry short. The child dies with the
//! thread that started it (`PR_SET_PDEATHSIG` through the exec shim), so that an orphan cannot work against the next
//! agent.
//!
//! The shim is started ahead ([`Supervisor::prepare`]) and waits for its arguments, because starting it costs a
//! millisecond or more that a change would wait for.

use std::ffi::OsString;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::command::Transport;
use crate::sys::child::{Ended, Inherited, Reaper, memory_file, set_nonblocking, widen_pipe};
use crate::sys::clock;
use crate::target::Location;

/// The hidden subcommand that ties a child to its parent's life, then becomes rsync.
pub const SHIM: &str = "__run-with-parent";

/// Output kept of each stream. Unit: bytes. More is read and thrown away, and says so.
const OUTPUT_MAX: usize = 256 * 1024;

/// Between TERM and KILL. A daemon's receiver removes its temporary file on TERM (notes/rsync.md 8).
const GRACE: Duration = Duration::from_secs(3);

/// Between two looks at what a running rsync waits for.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

const WAKE: Token = Token(0);
const STDOUT: Token = Token(1);
const STDERR: Token = Token(2);
const EXIT: Token = Token(3);

/// What a finished run printed and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub ended: Ended,
    /// We stopped it: past its deadline, or on request.
    pub stopped: Option<Stop>,
    /// Standard output, at most 256 KiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 256 KiB.
    pub stderr: Vec<u8>,
    /// There was more output.
    pub output_cut: bool,
    /// From spawn to reaped.
    pub took: Duration,
}

/// Why we stopped a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Past its deadline.
    Deadline,
    /// The agent is ending.
    Asked,
    /// It waits for a writer of a FIFO: a file became one between rsync's look and its open, which then never returns.
    Fifo,
}

/// How urgent it is that a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Go on.
    None,
    /// TERM, then KILL after the grace.
    Terminate,
    /// KILL at once.
    Kill,
}

/// Runs one rsync at a time for a lane. Lives as long as its thread.
#[derive(Debug)]
pub struct Supervisor {
    poll: Poll,
    waker: Arc<Waker>,
    spare: Option<Spare>,
}

/// A shim that waits for its arguments: closing its pipe without them ends it.
#[derive(Debug)]
struct Spare {
    child: Child,
    reaper: Reaper,
    arguments: OwnedFd,
    list: std::fs::File,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.discard();
        }
    }
}

impl Spare {
    fn start(transport: &Transport) -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let read = Inherited::duplicate(&read)?;
        let list = std::fs::File::from(memory_file(b"")?);
        #[expect(clippy::disallowed_methods, reason = "the one place where the agent starts rsync")]
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(SHIM)
            .arg(std::process::id().to_string())
            .arg(read.number().to_string())
            .env_clear()
            .envs(super::command::environment(transport, |name| std::env::var_os(name)))
            .stdin(Stdio::from(list.try_clone()?))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        match Reaper::open(&child) {
            Ok(reaper) => Ok(Self { child, reaper, arguments: write, list }),
            Err(error) => {
                let _ended_already = child.kill();
                #[expect(clippy::disallowed_methods, reason = "it was killed one line above, so the wait is short")]
                let _status = child.wait();
                Err(error)
            }
        }
    }

    /// Ends a shim that was not needed.
    fn discard(self) {
        self.reaper.end();
    }

    /// Writes the list to the child's standard input.
    fn fill(&mut self, list: &[u8]) -> io::Result<()> {
        self.list.write_all(list)?;
        // The child's standard input is the same open file, so this is its position too.
        self.list.rewind()
    }
}

impl Supervisor {
    /// Makes the poll of a lane's thread.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn create() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        Ok(Self { poll, waker, spare: None })
    }

    /// Wakes the lane: it looks at its orders and at the urgency.
    #[must_use]
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Waits until somebody wakes the lane.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn rest(&mut self, time: Option<Duration>) -> io::Result<()> {
        let mut events = Events::with_capacity(4);
        match self.poll.poll(&mut events, time) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs rsync with `arguments` and `list` on its standard input, until it ends or `deadline` is past.
    ///
    /// # Errors
    /// When it cannot be started; nothing is left behind then.
    pub fn run(
        &mut self,
        transport: &Transport,
        arguments: &[OsString],
        list: &[u8],
        deadline: Instant,
        urgency: &dyn Fn() -> Urgency,
    ) -> io::Result<Finished> {
        let started = clock::now();
        let mut spare = self.take_spare(transport)?;
        if let Err(error) = spare.fill(list) {
            spare.discard();
            return Err(error);
        }
        if let Err(error) = send_arguments(spare.arguments, &transport.program, arguments) {
            spare.reaper.kill_group();
            tracing::debug!(%error, "the shim took no arguments");
        }
        let mut watched = Watched {
            stdout: Stream::new(spare.child.stdout.take())?,
            stderr: match transport.location {
                Location::Ssh(_) => Stream::shared(spare.child.stderr.take())?,
                Location::Daemon(_) | Location::Local(_) => Stream::new(spare.child.stderr.take())?,
            },
            reaper: spare.reaper,
            ended: None,
            stopped: None,
            kill_at: None,
            look_at: started + LOOK_PAUSE,
        };
        if let Err(error) = self.follow(&mut watched, deadline, urgency) {
            if watched.ended.is_none() {
                watched.reaper.end();
            }
            return Err(error);
        }
        let ended = watched.ended.ok_or_else(|| io::Error::other("rsync was not reaped"))?;
        Ok(Finished {
            ended,
            stopped: watched.stopped,
            output_cut: watched.stdout.cut || watched.stderr.cut,
            stdout: watched.stdout.kept,
            stderr: watched.stderr.kept,
            took: clock::now() - started,
        })
    }

    /// Starts the shim of the next run, so that it need not be waited for. A failure is met again, and told, by the run.
    pub fn prepare(&mut self, transport: &Transport) {
        if self.spare.is_none() {
            self.spare = Spare::start(transport).ok();
        }
    }

    fn take_spare(&mut self, transport: &Transport) -> io::Result<Spare> {
        match self.spare.take() {
            Some(spare) if spare.reaper.try_reap()?.is_none() => Ok(spare),
            Some(_) | None => Spare::start(transport),
        }
    }

    fn follow(&mut self, watched: &mut Watched, deadline: Instant, urgency: &dyn Fn() -> Urgency) -> io::Result<()> {
        let registry = self.poll.registry().try_clone()?;
        watched.register(&registry)?;
        let mut events = Events::with_capacity(8);
        let result = loop {
            watched.mind(clock::now(), deadline, urgency());
            let wake_at = watched.kill_at.unwrap_or(deadline).min(watched.look_at);
            let wait = wake_at.saturating_duration_since(clock::now()).saturating_add(Duration::from_millis(1));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
                Ok(()) => {}
            }
            watched.stdout.read()?;
            watched.stderr.read()?;
            if watched.reaper.has_ended()? {
                // What it wrote before it ended is in the pipes already.
                watched.stdout.read()?;
                watched.stderr.read()?;
                // Whatever is left of its group (a local receiver, say) has nobody to talk to any more. Before it is
                // reaped: after that the group's number may be another one's.
                watched.reaper.kill_group();
                watched.ended = watched.reaper.try_reap()?;
                break Ok(());
            }
        };
        watched.deregister(&registry);
        result
    }
}

struct Watched {
    stdout: Stream<std::process::ChildStdout>,
    stderr: Stream<std::process::ChildStderr>,
    reaper: Reaper,
    ended: Option<Ended>,
    stopped: Option<Stop>,
    kill_at: Option<Instant>,
    look_at: Instant,
}

impl Watched {
    fn register(&self, registry: &mio::Registry) -> io::Result<()> {
        for (raw, token) in [(self.stdout.raw(), STDOUT), (self.stderr.raw(), STDERR), (Some(self.reaper.raw()), EXIT)]
        {
            if let Some(raw) = raw {
                registry.register(&mut SourceFd(&raw), token, Interest::READABLE)?;
            }
        }
        Ok(())
    }

    fn deregister(&self, registry: &mio::Registry) {
        for raw in [self.stdout.raw(), self.stderr.raw(), Some(self.reaper.raw())].into_iter().flatten() {
            let _closed_soon = registry.deregister(&mut SourceFd(&raw));
        }
    }

    fn mind(&mut self, now: Instant, deadline: Instant, urgency: Urgency) {
        if now >= self.look_at {
            self.look_at = now + LOOK_PAUSE;
            if self.kill_at.is_none() && self.reaper.waits_for_fifo() {
                self.stopped = Some(Stop::Fifo);
                self.reaper.terminate_group();
                self.kill_at = Some(now + GRACE);
            }
        }
        if self.kill_at.is_some_and(|kill_at| now >= kill_at) || urgency == Urgency::Kill {
            self.stopped.get_or_insert(Stop::Asked);
            self.reaper.kill_group();
            self.kill_at = Some(now + GRACE);
        } else if self.kill_at.is_none() && (now >= deadline || urgency == Urgency::Terminate) {
            self.stopped = Some(if urgency == Urgency::Terminate { Stop::Asked } else { Stop::Deadline });
            self.reaper.terminate_group();
            self.kill_at = Some(now + GRACE);
        }
    }
}

struct Stream<T> {
    source: Option<T>,
    kept: Vec<u8>,
    /// More is not kept.
    room: usize,
    cut: bool,
}

impl<T: Read + AsFd> Stream<T> {
    fn new(source: Option<T>) -> io::Result<Self> {
        if let Some(source) = &source {
            set_nonblocking(source)?;
        }
        Ok(Self { source, kept: Vec::new(), room: OUTPUT_MAX, cut: false })
    }

    /// One whose other end rsync shares with ssh. Some versions of ssh make that non-blocking for both, so that rsync loses
    /// what does not fit into the pipe, which may be the name of a path that failed. What we keep is less than the pipe holds: a
    /// loss means that there was more, and that the output is not complete is known.
    fn shared(source: Option<T>) -> io::Result<Self> {
        let mut stream = Self::new(source)?;
        if let Some(source) = &stream.source {
            // Half: a page of a pipe is not always filled.
            stream.room = (widen_pipe(source, 2 * OUTPUT_MAX)? / 2).min(OUTPUT_MAX);
        }
        Ok(stream)
    }

    fn raw(&self) -> Option<std::os::fd::RawFd> {
        self.source.as_ref().map(|source| source.as_fd().as_raw_fd())
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(source) = &mut self.source else { return Ok(()) };
        let mut buffer = [0; 8192];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let room = self.room.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&buffer[..count.min(room)]);
                    self.cut |= count > room;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Writes the command line for a shim: a count, then the program and its arguments, each ended by a NUL.
fn send_arguments(pipe: OwnedFd, program: &std::path::Path, arguments: &[OsString]) -> io::Result<()> {
    let mut bytes = (arguments.len() + 1).to_string().into_bytes();
    bytes.push(0);
    for argument in std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str)) {
        bytes.extend_from_slice(argument.as_bytes());
        bytes.push(0);
    }
    std::fs::File::from(pipe).write_all(&bytes)
}

/// Reads what [`send_arguments`] wrote; `None` when it is not complete, because the writer is gone or has no need.
fn receive_arguments(mut pipe: impl Read) -> Option<Vec<OsString>> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).ok()?;
    let mut parts = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0);
    let count: usize = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let arguments: Vec<OsString> = parts.map(|part| OsString::from_vec(part.to_vec())).collect();
    (arguments.len() == count).then_some(arguments)
}

/// The shim, called as `PARENT DESCRIPTOR`: ties this process to its parent's life, waits for a command line on the
/// descriptor, and becomes that program. Returns only when that failed or is not wanted, with the exit code to use.
pub fn shim(mut arguments: impl Iterator<Item = OsString>) -> u8 {
    let mut number = || arguments.next()?.to_str()?.parse::<u32>().ok();
    let (Some(parent), Some(descriptor)) = (number(), number()) else { return 2 };
    match crate::sys::child::die_with_parent(parent) {
        Ok(true) => {}
        // Nobody is there to tell.
        Ok(false) | Err(_) => return 1,
    }
    let Ok(pipe) = std::fs::File::open(format!("/proc/self/fd/{descriptor}")) else { return 1 };
    let Some(command) = receive_arguments(pipe) else { return 0 };
    let Some((program, arguments)) = command.split_first() else { return 2 };
    #[expect(clippy::disallowed_methods, reason = "replaces this process; the supervisor started it")]
    let error = Command::new(program).args(arguments).exec();
    let mut stderr = io::stderr();
    let _nobody_reads = io::Write::write_fmt(
        &mut stderr,
        format_args!("fansync: cannot run {}: {error}\n", std::path::Path::new(program).display()),
    );
    SHIM_NOT_RUN
}

/// Exit code of the shim when the program could not be run; rsync has no such code.
pub const SHIM_NOT_RUN: u8 = 127;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_shared_pipe_no_loss_goes_unnoticed() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut stream = Stream::shared(Some(std::fs::File::from(read))).unwrap();
        // As rsync would with the end that ssh has made non-blocking: lines, until one is lost.
        set_nonblocking(&write).unwrap();
        let mut write = std::fs::File::from(write);
        let line = [b'x'; 300];
        while write.write(&line).is_ok_and(|written| written == line.len()) {}
        stream.read().unwrap();
        assert!(stream.cut, "{} bytes of room", stream.room);
        assert_eq!(stream.kept.len(), stream.room);
    }

    #[test]
    fn a_command_line_arrives_whole_or_not_at_all() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let arguments = ["-a".into(), "".into(), OsString::from_vec(b"\xff\n".to_vec())];
        send_arguments(write, std::path::Path::new("rsync"), &arguments).unwrap();
        let received = receive_arguments(std::fs::File::from(read)).unwrap();
        assert_eq!(received[0], "rsync");
        assert_eq!(received[1..], arguments);
        let whole = b"2\0rsync\0-a\0";
        for length in 0..whole.len() {
            assert_eq!(receive_arguments(&whole[..length]), None, "cut at {length}");
        }
        assert!(receive_arguments(&whole[..]).is_some());
    }
}
