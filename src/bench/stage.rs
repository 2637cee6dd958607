//! The stage: a scratch directory, a source, a target behind an rsync daemon, and whoever is measured between them.
//!
//! Invariant: when a [`Stage`] is dropped, its processes have ended and its directory is gone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;

use super::load::Load;
use super::patience::Interrupt;
use super::process::{self, Process};
use super::subject::{KernelSettings, Place, Subject};
use crate::lab::{Daemon, DaemonOptions};
use crate::sys::child::memory_file;
use crate::sys::clock;

/// Until a subject has sent the first file after its start.
const READY_MAX: Duration = Duration::from_secs(30);

/// Until one rsync has sent a load.
const RSYNC_MAX: Duration = Duration::from_secs(120);

/// Until the subject has deleted the probes from the target.
const EMPTY_MAX: Duration = Duration::from_secs(20);

/// Nobody worked for this long: what went before is digested. Longer than the agent lets times of directories wait.
const CALM: Duration = Duration::from_millis(1200);

/// Until it is calm; after that the run begins all the same.
const CALM_MAX: Duration = Duration::from_secs(3);

/// In the agent's log when all watches are in place.
pub(super) const LIVE: &str = "live: ";

const POLL: Duration = Duration::from_millis(5);

/// A directory of ours, removed at the end.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes `PARENT/fansync-NAME-PID`, which only its owner can enter.
    pub(super) fn create(parent: &Path, name: &str) -> anyhow::Result<Self> {
        // rsync's daemon and its children have working directories of their own.
        let parent = parent.canonicalize().with_context(|| format!("no directory {}", parent.display()))?;
        let path = parent.join(format!("fansync-{name}-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Scratch {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a scratch directory stays");
        }
    }
}

/// Everything that a run needs. The order of the fields is the order of the end.
#[derive(Debug)]
pub(super) struct Stage {
    subject: Subject,
    program: PathBuf,
    process: Option<Process>,
    _settings: KernelSettings,
    daemon: Daemon,
    limit_daemon: Daemon,
    source: PathBuf,
    target: PathBuf,
    limit_source: PathBuf,
    /// The subject does not empty the target, or takes too long over it.
    starts_anew: bool,
    starts: usize,
    interrupt: Interrupt,
    scratch: Scratch,
}

impl Stage {
    /// Sets the stage; the subject is not started yet.
    pub(super) fn set(
        subject: Subject,
        program: PathBuf,
        scratch: Scratch,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let directory = |name: &str| -> io::Result<PathBuf> {
            let path = scratch.0.join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        let (source, target) = (directory("source")?, directory("target")?);
        let (limit_source, limit_target) = (directory("limit-source")?, directory("limit-target")?);
        let options = DaemonOptions { nodelay: true, ..DaemonOptions::default() };
        let daemon = Daemon::start(&target, &scratch.0, &options).context("cannot start rsync --daemon")?;
        let limit_daemon = Daemon::start(&limit_target, &scratch.0, &options).context("cannot start rsync --daemon")?;
        Ok(Self {
            subject,
            program,
            process: None,
            _settings: KernelSettings::before(subject),
            daemon,
            limit_daemon,
            source,
            target,
            limit_source,
            starts_anew: subject != Subject::Agent,
            starts: 0,
            interrupt: interrupt.clone(),
            scratch,
        })
    }

    /// The tree that changes.
    pub(super) fn source(&self) -> &Path {
        &self.source
    }

    /// The tree that shall become the same.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// The daemon's address.
    pub(super) fn url(&self) -> String {
        self.daemon.url()
    }

    /// Starts the subject. The agent is ready when it says so.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let place =
            Place { source: &self.source, url: &self.daemon.url(), port: self.daemon.port(), scratch: &self.scratch.0 };
        let command = self.subject.command(&self.program, place)?;
        self.starts += 1;
        let log = self.scratch.0.join(format!("{}-{}.log", self.subject.name(), self.starts));
        let mut process = Process::start(command, Stdio::null(), log)?;
        if self.subject == Subject::Agent {
            let live = self.interrupt.until(READY_MAX, POLL, || {
                let live = process.words().contains(LIVE);
                process.check_alive()?;
                Ok(live)
            })?;
            anyhow::ensure!(live, "the agent was not live within {READY_MAX:?}\n{}", process.last_words());
        }
        self.process = Some(process);
        Ok(())
    }

    /// Makes the stage ready for a run: the subject works, and has nothing left to do.
    ///
    /// An agent goes on where it is, and what earlier runs wrote stays: names are new in every run, and ext4 creates
    /// files up to twenty times more slowly for a while after many were deleted beside them (measured), which would be
    /// counted against whoever is measured.
    pub(super) fn ready(&mut self) -> anyhow::Result<()> {
        match &mut self.process {
            Some(process) if !self.starts_anew => process.check_alive()?,
            Some(_) | None => self.begin()?,
        }
        self.calm()
    }

    /// Starts the subject on an empty stage.
    fn begin(&mut self) -> anyhow::Result<()> {
        self.process = None;
        process::clear(&self.source)?;
        process::clear(&self.target)?;
        if let Err(error) = fs::remove_dir_all(self.scratch.0.join("state"))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
        self.start()?;
        self.probe()
    }

    fn is_emptied(&mut self, limit: Duration) -> anyhow::Result<bool> {
        let process = self.process.as_mut();
        let target = &self.target;
        if let Some(process) = process {
            process.check_alive()?;
        }
        self.interrupt.until(limit, POLL, || Ok(fs::read_dir(target)?.next().is_none()))
    }

    /// Waits until the subject has not worked for a while: a script may have a backlog of its own last events.
    fn calm(&self) -> anyhow::Result<()> {
        let (mut worked, mut since) = (self.cpu(), clock::now());
        self.interrupt.until(CALM_MAX, CALM / 12, || {
            let now = clock::now();
            let so_far = self.cpu();
            if so_far != worked {
                (worked, since) = (so_far, now);
            }
            Ok(now.duration_since(since) >= CALM)
        })?;
        Ok(())
    }

    /// Sends single files until one arrives: no peer tells when it watches.
    fn probe(&mut self) -> anyhow::Result<()> {
        let deadline = clock::now() + READY_MAX;
        let mut number = 0;
        loop {
            number += 1;
            let name = format!("probe-{number}");
            fs::write(self.source.join(&name), &name)?;
            let arrived =
                self.interrupt.until(Duration::from_secs(2), POLL, || Ok(self.target.join(&name).exists()))?;
            if arrived {
                break;
            }
            let Some(process) = &mut self.process else { anyhow::bail!("nobody is there to send it") };
            process.check_alive()?;
            if clock::now() >= deadline {
                anyhow::bail!("{} sent nothing in {READY_MAX:?}\n{}", self.subject.name(), process.last_words());
            }
        }
        process::clear(&self.source)?;
        if !self.is_emptied(EMPTY_MAX)? {
            process::clear(&self.target)?;
        }
        Ok(())
    }

    /// What the subject and its children have worked so far.
    pub(super) fn cpu(&self) -> Duration {
        self.process.as_ref().map_or(Duration::ZERO, Process::cpu)
    }

    /// The end of the subject's log.
    pub(super) fn last_words(&self) -> String {
        self.process.as_ref().map(Process::last_words).unwrap_or_default()
    }

    /// How long one rsync takes for each of `lists`, one after the other, when the files of `load` are there already:
    /// what no agent that uses rsync can be faster than. Uses a source and a target of its own.
    pub(super) fn limit(&self, load: &Load, lists: &[Vec<&[u8]>]) -> anyhow::Result<Vec<Duration>> {
        load.write_at_once(&self.limit_source, &self.interrupt)?;
        lists.iter().map(|names| self.one_rsync(names)).collect()
    }

    fn one_rsync(&self, names: &[&[u8]]) -> anyhow::Result<Duration> {
        let mut list = Vec::new();
        for name in names {
            list.extend_from_slice(name);
            list.push(0);
        }
        let mut command = process::command("rsync");
        // `-r` again, since a list turns off the one that is in `-a` (rsync(1), --files-from).
        command.args(["--sockopts=TCP_NODELAY", "-a", "-r", "--from0", "--files-from=-"]);
        command.arg(&self.limit_source).arg(self.limit_daemon.url());
        let stdin = Stdio::from(memory_file(&list)?);
        let log = self.scratch.0.join("limit.log");
        let started = clock::now();
        let ended = Process::start(command, stdin, log)?.finish(RSYNC_MAX, &self.interrupt)?;
        Ok(ended.duration_since(started))
    }
}
