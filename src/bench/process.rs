//! A process on the stage: its own group, its words in a file, its end seen through a pidfd.
//!
//! Invariant: when a [`Process`] is dropped, its group has been killed and the leader reaped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::cpu::{self, Work};
use super::patience::Interrupt;
use crate::sys::child::{Ended, Reaper};
use crate::sys::clock;

/// From TERM to KILL.
const GRACE: Duration = Duration::from_secs(10);

/// How often a wait looks for Ctrl-C. The end of the process ends the wait at once.
const SLICE: Duration = Duration::from_millis(100);

/// A command for [`Process::start`].
pub(super) fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the one place where bench and demo make a command")]
    Command::new(program)
}

/// The program of that name in `PATH`.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file())
}

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    reaper: Reaper,
    group: u32,
    poll: Poll,
    /// The pidfd was readable; mio tells that once.
    over: bool,
    ended: Option<Ended>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a group of its own; what it prints goes to `log`.
    pub(super) fn start(mut command: Command, stdin: Stdio, log: PathBuf) -> io::Result<Self> {
        let name = command.get_program().display().to_string();
        let words = File::create(&log)?;
        let child = command
            .stdin(stdin)
            .stdout(words.try_clone()?)
            .stderr(words)
            .process_group(0)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start {name}: {error}")))?;
        let poll = Poll::new()?;
        let reaper = Reaper::open(&child)?;
        poll.registry().register(&mut SourceFd(&reaper.raw()), Token(0), Interest::READABLE)?;
        Ok(Self { name, reaper, group: child.id(), poll, over: false, ended: None, log })
    }

    /// Its process id, which is that of its group.
    pub(super) fn id(&self) -> u32 {
        self.group
    }

    /// Waits until it has ended on its own; the process still holds its id then. False when `limit` is over before.
    fn ends_within(&mut self, limit: Duration, mut check: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<bool> {
        let deadline = clock::now() + limit;
        let mut events = Events::with_capacity(1);
        while !self.over {
            let left = deadline.saturating_duration_since(clock::now());
            match self.poll.poll(&mut events, Some(left.min(SLICE))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
                Ok(()) => self.over = !events.is_empty(),
                Err(_interrupted) => {}
            }
            check()?;
            if left.is_zero() {
                break;
            }
        }
        Ok(self.over)
    }

    /// Waits for its end, at most for `limit`, and returns when that was.
    ///
    /// # Errors
    /// With its last words, when it fails or takes longer.
    pub(super) fn finish(mut self, limit: Duration, interrupt: &Interrupt) -> anyhow::Result<Instant> {
        if !self.ends_within(limit, || Ok(interrupt.check()?))? {
            anyhow::bail!("{} did not end within {limit:?}\n{}", self.name, self.last_words());
        }
        let end = clock::now();
        match self.reap()? {
            Some(Ended::Code(0)) => Ok(end),
            other => anyhow::bail!("{} ended with {other:?}\n{}", self.name, self.last_words()),
        }
    }

    /// An error with its last words when it has ended.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.reap()? {
            None => Ok(()),
            Some(ended) => anyhow::bail!("{} ended with {ended:?}\n{}", self.name, self.last_words()),
        }
    }

    fn reap(&mut self) -> io::Result<Option<Ended>> {
        if self.ended.is_none() {
            self.ended = self.reaper.try_reap()?;
        }
        Ok(self.ended)
    }

    /// TERM, a bounded wait, KILL for what is left of the group.
    pub(super) fn stop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.reaper.terminate_group();
        let _killed_below = self.ends_within(GRACE, || Ok(()));
        // The leader is not reaped yet, so its id still names this group and no other.
        self.reaper.kill_group();
        let _killed = self.ends_within(GRACE, || Ok(()));
        let _nobody_asks = self.reap();
    }

    /// All that it printed.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of [`Self::words`].
    pub(super) fn last_words(&self) -> String {
        let words = self.words();
        let lines: Vec<&str> = words.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// What it and its children worked so far.
    pub(super) fn work(&self) -> Work {
        cpu::of(self.group)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Removes everything in `directory`, not itself.
pub(super) fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let removed =
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        match removed {
            // A peer at work may remove its temporary file first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, scratch: &Path) -> Process {
        let mut sh = command("sh");
        sh.args(["-c", script]);
        Process::start(sh, Stdio::null(), scratch.join("log")).unwrap()
    }

    #[test]
    fn the_end_and_the_words_of_a_process_are_seen() {
        let scratch = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::never();
        start("exit 0", scratch.path()).finish(GRACE, &interrupt).unwrap();
        let error = start("echo no luck; exit 3", scratch.path()).finish(GRACE, &interrupt).unwrap_err().to_string();
        assert!(error.contains("Code(3)") && error.contains("no luck"), "{error}");
        let error = start("sleep 60", scratch.path()).finish(SLICE, &interrupt).unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
    }

    #[test]
    fn stopping_ends_the_whole_group() {
        let scratch = tempfile::tempdir().unwrap();
        let mut process = start("sleep 1000 & echo $!; wait", scratch.path());
        while process.words().is_empty() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let child = process.words().trim().to_owned();
        process.check_alive().unwrap();
        process.stop();
        let gone = Interrupt::never().until(GRACE, Duration::from_millis(1), || {
            // A zombie until its new parent reaps it: without a command line.
            Ok(fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default().is_empty())
        });
        assert!(gone.unwrap());
    }
}
