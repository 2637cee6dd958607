//! One rsync process: started, listened to, watched over, reaped.
//!
//! Invariant: when [`Supervisor::run`] returns, the child is reaped and its process group is gone. The list is a
//! complete memory file before the child exists, so no crash of ours can cut an entry short. The child dies with the
//! thread that started it (`PR_SET_PDEATHSIG` through the exec shim), so that an orphan cannot work against the next
//! agent.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::command::Transport;
use crate::sys::child::{Ended, Reaper, memory_file, set_nonblocking};
use crate::sys::clock;

/// The hidden subcommand that ties a child to its parent's life, then becomes rsync.
pub const SHIM: &str = "__run-with-parent";

/// Output kept of each stream. Unit: bytes. More is read and thrown away, and says so.
const OUTPUT_MAX: usize = 256 * 1024;

/// Between TERM and KILL. A daemon's receiver removes its temporary file on TERM (notes/rsync.md 8).
const GRACE: Duration = Duration::from_secs(3);

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
}

impl Supervisor {
    /// Makes the poll of a lane's thread.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn create() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        Ok(Self { poll, waker })
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
        let stdin = memory_file(list)?;
        #[expect(clippy::disallowed_methods, reason = "the one place where the agent starts rsync")]
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(SHIM)
            .arg(std::process::id().to_string())
            .arg(&transport.program)
            .args(arguments)
            .env_clear()
            .envs(super::command::environment(transport, |name| std::env::var_os(name)))
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let reaper = Reaper::open(&child)?;
        let mut watched = Watched {
            stdout: Stream::new(child.stdout.take())?,
            stderr: Stream::new(child.stderr.take())?,
            reaper,
            ended: None,
            stopped: None,
            kill_at: None,
        };
        let followed = self.follow(&mut watched, deadline, urgency);
        if followed.is_err() {
            watched.reaper.kill_group();
        }
        // Whatever is left of its group (a local receiver, say) has nobody to talk to any more.
        watched.reaper.kill_group();
        followed?;
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

    fn follow(&mut self, watched: &mut Watched, deadline: Instant, urgency: &dyn Fn() -> Urgency) -> io::Result<()> {
        let registry = self.poll.registry().try_clone()?;
        watched.register(&registry)?;
        let mut events = Events::with_capacity(8);
        let result = loop {
            watched.mind(clock::now(), deadline, urgency());
            let wake_at = watched.kill_at.unwrap_or(deadline);
            let wait = wake_at.saturating_duration_since(clock::now()).saturating_add(Duration::from_millis(1));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
                Ok(()) => {}
            }
            watched.stdout.read()?;
            watched.stderr.read()?;
            if let Some(ended) = watched.reaper.try_reap()? {
                // What it wrote before it ended is in the pipes already.
                watched.stdout.read()?;
                watched.stderr.read()?;
                watched.ended = Some(ended);
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
    cut: bool,
}

impl<T: Read + AsFd> Stream<T> {
    fn new(source: Option<T>) -> io::Result<Self> {
        if let Some(source) = &source {
            set_nonblocking(source)?;
        }
        Ok(Self { source, kept: Vec::new(), cut: false })
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
                    let room = OUTPUT_MAX.saturating_sub(self.kept.len());
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

/// The shim: `PARENT PROGRAM ARGUMENT…`. Returns only when it failed, with the exit code to use.
pub fn shim(mut arguments: impl Iterator<Item = OsString>) -> u8 {
    let (Some(parent), Some(program)) = (arguments.next(), arguments.next()) else { return 2 };
    let Some(parent) = parent.to_str().and_then(|text| text.parse().ok()) else { return 2 };
    match crate::sys::child::die_with_parent(parent) {
        Ok(true) => {}
        // Nobody is there to tell.
        Ok(false) | Err(_) => return 1,
    }
    #[expect(clippy::disallowed_methods, reason = "replaces this process; the supervisor started it")]
    let error = Command::new(&program).args(arguments).exec();
    let mut stderr = io::stderr();
    let _nobody_reads = io::Write::write_fmt(
        &mut stderr,
        format_args!("fansync: cannot run {}: {error}\n", std::path::Path::new(&program).display()),
    );
    SHIM_NOT_RUN
}

/// Exit code of the shim when the program could not be run; rsync has no such code.
pub const SHIM_NOT_RUN: u8 = 127;
