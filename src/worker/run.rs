//! One rsync process: started, listened to, watched over, reaped.
//!
//! Invariant: when [`Supervisor::run`] returns, the child is reaped and its process group is gone. No crash of ours
//! cuts an entry of a list short: the list is a complete memory file before rsync exists, or comes in whole entries
//! (see [`super::warm`]). The child dies with the thread that started it (`PR_SET_PDEATHSIG` through the exec shim), so
//! that an orphan cannot work against the next agent.
//!
//! The shim is started ahead ([`Supervisor::prepare`]), and where it pays so is rsync itself ([`Supervisor::warm_up`]).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::acks::{Acks, AcksEnd};
use super::command::Transport;
use super::shim::Shim;
use super::warm::{Feeding, Warm};
use crate::sys::child::{Ended, Reaper, memory_file, set_nonblocking, widen_pipe};
use crate::sys::clock;
use crate::target::Location;

/// Output kept of each stream. Unit: bytes. More is read and thrown away, and says so.
const OUTPUT_MAX: usize = 256 * 1024;

/// Between TERM and KILL. A daemon's receiver removes its temporary file on TERM (notes/rsync.md 8).
const GRACE: Duration = Duration::from_secs(3);

/// How long an rsync that got nothing to do may take to end.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// The same at the end of the agent.
const PART_WAIT: Duration = Duration::from_millis(200);

/// Between two looks at what a running rsync waits for.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

const WAKE: Token = Token(0);
const STDOUT: Token = Token(1);
const STDERR: Token = Token(2);
const EXIT: Token = Token(3);
const ACKS: Token = Token(4);
const WARM_EXIT: Token = Token(5);
const WARM_ACKS: Token = Token(6);

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
    /// From the start, or from when it was given its list, to the end.
    pub took: Duration,
    /// What was known of its connection at the end.
    pub acks: AcksEnd,
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
    warm: Option<Warm>,
    /// The rsyncs of this lane share their standard error with ssh.
    shares_stderr: bool,
    leaving: Option<Leaving>,
}

/// One that waited and got nothing: it saw the end of its list and ends by itself, which leaves no complaint in the
/// daemon's log.
#[derive(Debug)]
struct Leaving {
    _child: Child,
    reaper: Reaper,
    until: Instant,
}

/// A shim whose list will come by a memory file.
#[derive(Debug)]
struct Spare {
    shim: Shim,
    list: File,
}

impl Spare {
    fn start(transport: &Transport) -> io::Result<Self> {
        let list = File::from(memory_file(b"")?);
        Ok(Self { shim: Shim::start(transport, Stdio::from(list.try_clone()?))?, list })
    }

    /// Writes the list to the child's standard input.
    fn fill(&mut self, list: &[u8]) -> io::Result<()> {
        self.list.write_all(list)?;
        // The child's standard input is the same open file, so this is its position too.
        self.list.rewind()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            spare.shim.reaper.end();
        }
        self.cool();
        self.dismiss();
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
        Ok(Self { poll, waker, spare: None, warm: None, shares_stderr: false, leaving: None })
    }

    /// Wakes the lane: it looks at its orders and at the urgency.
    #[must_use]
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Waits until somebody wakes the lane, or something becomes of the rsync that waits for its list.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn rest(&mut self, time: Option<Duration>) -> io::Result<()> {
        let mut events = Events::with_capacity(4);
        let mut wait = time;
        if let Some(warm) = &mut self.warm {
            let now = clock::now();
            warm.acks.look_if_due(now, &warm.reaper, self.poll.registry());
            let look = warm.acks.look_at().map(|at| at.saturating_duration_since(now));
            wait = wait.into_iter().chain(look).min();
        }
        if let Some(leaving) = &self.leaving {
            let now = clock::now();
            if leaving.until <= now || leaving.reaper.has_ended()? {
                self.dismiss();
            } else {
                wait = wait.into_iter().chain([leaving.until.saturating_duration_since(now)]).min();
            }
        }
        match self.poll.poll(&mut events, wait) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        if let Some(warm) = self.warm.as_ref().filter(|_| events.iter().any(|event| event.token() == WARM_ACKS)) {
            warm.acks.acknowledge();
        }
        Ok(())
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
            spare.shim.reaper.end();
            return Err(error);
        }
        let (child, reaper) = spare.shim.become_rsync(transport, arguments);
        let acks = match transport.location {
            Location::Daemon(_) => Acks::of_child(started, ACKS),
            Location::Local(_) | Location::Ssh(_) => Acks::none(started),
        };
        self.shares_stderr = matches!(transport.location, Location::Ssh(_));
        self.watch(child, reaper, acks, started, deadline, urgency)
    }

    /// Watches a child to its end.
    fn watch(
        &mut self,
        mut child: Child,
        reaper: Reaper,
        acks: Acks,
        started: Instant,
        deadline: Instant,
        urgency: &dyn Fn() -> Urgency,
    ) -> io::Result<Finished> {
        let mut watched = Watched {
            stdout: Stream::new(child.stdout.take())?,
            stderr: if self.shares_stderr {
                Stream::shared(child.stderr.take())?
            } else {
                Stream::new(child.stderr.take())?
            },
            reaper,
            acks,
            ended: None,
            stopped: None,
            kill_at: None,
            look_at: started + LOOK_PAUSE,
        };
        let followed = self.follow(&mut watched, deadline, urgency);
        if watched.ended.is_none() {
            watched.reaper.end();
        }
        let acks = watched.acks.close(self.poll.registry());
        followed?;
        let ended = watched.ended.ok_or_else(|| io::Error::other("rsync was not reaped"))?;
        Ok(Finished {
            ended,
            stopped: watched.stopped,
            output_cut: watched.stdout.cut || watched.stderr.cut,
            stdout: watched.stdout.kept,
            stderr: watched.stderr.kept,
            took: clock::now() - started,
            acks,
        })
    }

    /// Starts an rsync with `arguments` that waits for its list, unless there is one.
    ///
    /// # Errors
    /// When it cannot be started; nothing is left behind then.
    pub fn warm_up(&mut self, transport: &Transport, arguments: Vec<OsString>) -> io::Result<()> {
        if self.warm.is_none() {
            let warm = Warm::start(transport, arguments, WARM_ACKS)?;
            // Its end wakes the lane.
            let exit = warm.reaper.raw();
            let registered = self.poll.registry().register(&mut SourceFd(&exit), WARM_EXIT, Interest::READABLE);
            self.warm = Some(warm);
            if let Err(error) = registered {
                self.cool();
                return Err(error);
            }
        }
        Ok(())
    }

    /// The rsync that waits for its list: its arguments, and since when.
    #[must_use]
    pub fn warm(&self) -> Option<(&[OsString], Instant)> {
        self.warm.as_ref().map(|warm| (warm.arguments.as_slice(), warm.started))
    }

    /// Has it end by itself, with an empty list.
    pub fn let_go(&mut self) {
        self.dismiss();
        let Some(warm) = self.warm.take() else { return };
        let Warm { child, reaper, mut acks, list, .. } = warm;
        // The daemon must see its end even if this thread is busy then.
        let _its_numbers_tell_nothing = acks.close(self.poll.registry());
        drop(list);
        self.leaving = Some(Leaving { _child: child, reaper, until: clock::now() + LEAVE_WAIT });
    }

    /// The same at the lane's end: gives it a moment.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn part(&mut self) -> io::Result<()> {
        self.let_go();
        let until = clock::now() + PART_WAIT;
        while self.leaving.is_some() && clock::now() < until {
            self.rest(Some(until.saturating_duration_since(clock::now())))?;
            if self.leaving.as_ref().is_some_and(|leaving| leaving.reaper.has_ended().unwrap_or(true)) {
                self.dismiss();
            }
        }
        Ok(())
    }

    /// Ends what [`Self::let_go`] let go.
    fn dismiss(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            let _registered = self.poll.registry().deregister(&mut SourceFd(&leaving.reaper.raw()));
            leaving.reaper.end();
        }
    }

    /// Ends it. Returns whether there was one.
    pub fn cool(&mut self) -> bool {
        let Some(mut warm) = self.take_warm() else { return false };
        warm.reaper.end();
        let _its_numbers_tell_nothing = warm.acks.close(self.poll.registry());
        true
    }

    /// Reaps it if it has ended by itself, or has lost its connection: how, and at what age.
    ///
    /// # Errors
    /// Those of waitid(2) and read(2).
    pub fn warm_ended(&mut self) -> io::Result<Option<Finished>> {
        let Some(warm) = &self.warm else { return Ok(None) };
        if warm.is_well()? {
            return Ok(None);
        }
        let Some(warm) = self.take_warm() else { return Ok(None) };
        // One that reads its list does not see that the connection is gone.
        if !warm.reaper.has_ended()? {
            warm.reaper.kill_group();
        }
        let Warm { child, reaper, acks, started, .. } = warm;
        self.watch(child, reaper, acks, started, clock::now() + GRACE, &|| Urgency::None).map(Some)
    }

    /// Gives the rsync that waits its list and watches it to its end. `None` when there is none that is well, or the
    /// list is not for it: then nothing has happened.
    ///
    /// # Errors
    /// When it cannot be watched; nothing is left behind then.
    pub fn run_warm(
        &mut self,
        list: &[u8],
        deadline: Instant,
        urgency: &dyn Fn() -> Urgency,
    ) -> io::Result<Option<Finished>> {
        let Some(warm) = &mut self.warm else { return Ok(None) };
        let Some(feeding) = Feeding::of(list) else { return Ok(None) };
        warm.acks.look(&warm.reaper, self.poll.registry());
        if !warm.is_well()? || !warm.has_room(&feeding) {
            return Ok(None);
        }
        let Some(warm) = self.take_warm() else { return Ok(None) };
        warm.acks.acknowledge();
        let started = clock::now();
        let Warm { child, reaper, mut acks, list, .. } = warm;
        if let Err(error) = feeding.write(&list) {
            // It must not see the end of a list that is not whole.
            reaper.end();
            drop(list);
            let _nothing_came = acks.close(self.poll.registry());
            tracing::debug!(%error, "the waiting rsync took no list");
            return Ok(None);
        }
        drop(list);
        self.watch(child, reaper, acks, started, deadline, urgency).map(Some)
    }

    fn take_warm(&mut self) -> Option<Warm> {
        let warm = self.warm.take()?;
        let _registered = self.poll.registry().deregister(&mut SourceFd(&warm.reaper.raw()));
        Some(warm)
    }

    /// Starts the shim of the next run, so that it need not be waited for. A failure is met again, and told, by the
    /// run.
    pub fn prepare(&mut self, transport: &Transport) {
        if self.spare.is_none() {
            self.spare = Spare::start(transport).ok();
        }
    }

    fn take_spare(&mut self, transport: &Transport) -> io::Result<Spare> {
        match self.spare.take() {
            Some(spare) if spare.shim.reaper.try_reap()?.is_none() => Ok(spare),
            Some(_) | None => Spare::start(transport),
        }
    }

    fn follow(&mut self, watched: &mut Watched, deadline: Instant, urgency: &dyn Fn() -> Urgency) -> io::Result<()> {
        let registry = self.poll.registry().try_clone()?;
        watched.register(&registry)?;
        let mut events = Events::with_capacity(8);
        let result = loop {
            watched.mind(clock::now(), deadline, urgency());
            watched.acks.look_if_due(clock::now(), &watched.reaper, &registry);
            let wake_at = watched.kill_at.unwrap_or(deadline).min(watched.look_at);
            let wake_at = watched.acks.look_at().map_or(wake_at, |at| wake_at.min(at));
            let wait = wake_at.saturating_duration_since(clock::now()).saturating_add(Duration::from_millis(1));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
                Ok(()) => {}
            }
            // First, as the daemon waits for it.
            if events.iter().any(|event| matches!(event.token(), ACKS | WARM_ACKS)) {
                watched.acks.acknowledge();
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
    acks: Acks,
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

    /// One whose other end rsync shares with ssh. Some versions of ssh make that non-blocking for both, so that rsync
    /// loses what does not fit into the pipe, which may be the name of a path that failed. What we keep is less than
    /// the pipe holds: a loss means that there was more, and that the output is not complete is known.
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
}
