//! The stage: a scratch directory, a source, a target, and whoever is measured between them; beside that a source and a
//! target of the same kind for what rsync can do alone.
//!
//! Invariant: when a [`Stage`] is dropped, its processes have ended and its directory is gone.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;

use super::cpu::{self, Work};
use super::limit::Call;
use super::patience::Interrupt;
use super::process::{self, Process};
use super::relay::{Carried, Relay};
use super::scenario::TargetKind;
use super::subject::{KernelSettings, Place, Subject};
use crate::lab::{Daemon, DaemonOptions, MODULE};
use crate::sys::clock;

/// Until a subject has sent the first file after its start.
pub(super) const READY_MAX: Duration = Duration::from_secs(30);

/// Until what shall be there before is copied.
const COPY_MAX: Duration = Duration::from_secs(600);

/// Until the subject has deleted the probes from the target.
const EMPTY_MAX: Duration = Duration::from_secs(20);

/// Nobody worked for this long: what went before is digested. Longer than the agent lets times of directories wait.
pub(super) const CALM: Duration = Duration::from_millis(1200);

/// A warm rsync that has not worked for so long waits for its list, when the target is near.
const WARM_REST: Duration = Duration::from_millis(40);

/// Until it is calm; after that the run begins all the same.
const CALM_MAX: Duration = Duration::from_secs(3);

/// In the agent's log when all watches are in place.
pub(super) const LIVE: &str = "live: ";

const POLL: Duration = Duration::from_millis(5);

/// Once more after the first, to remove a scratch directory.
const REMOVE_ATTEMPTS: usize = 50;

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
        // Whoever was killed may still finish the call that it is in, and make a file in a directory that was just emptied.
        let mut removed = fs::remove_dir_all(&self.0);
        for _attempt in 0..REMOVE_ATTEMPTS {
            if removed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::DirectoryNotEmpty) {
                std::thread::park_timeout(POLL);
                removed = fs::remove_dir_all(&self.0);
            }
        }
        if let Err(error) = removed {
            tracing::warn!(path = %self.0.display(), %error, "a scratch directory stays");
        }
    }
}

/// Who and what is on the stage.
#[derive(Debug, Clone)]
pub(super) struct Cast {
    /// Who is measured.
    pub(super) subject: Subject,
    /// Its program.
    pub(super) program: PathBuf,
    /// What kind of target.
    pub(super) kind: TargetKind,
    /// A relay before the daemon, which counts, and is late by so much in each direction.
    pub(super) relay: Option<Duration>,
}

/// A target, and how it is reached.
#[derive(Debug)]
pub(super) struct End {
    relay: Option<Relay>,
    daemon: Option<Daemon>,
    directory: PathBuf,
}

impl End {
    fn start(directory: PathBuf, scratch: &Path, cast: &Cast) -> anyhow::Result<Self> {
        let daemon = match cast.kind {
            TargetKind::Local => None,
            TargetKind::Daemon | TargetKind::Stock => {
                let options = DaemonOptions { nodelay: cast.kind == TargetKind::Daemon, ..DaemonOptions::default() };
                Some(Daemon::start(&directory, scratch, &options).context("cannot start rsync --daemon")?)
            }
        };
        let relay = match (&daemon, cast.relay) {
            (Some(daemon), Some(delay)) => Some(Relay::start(daemon.port(), delay)?),
            _ => None,
        };
        Ok(Self { relay, daemon, directory })
    }

    fn port(&self) -> u16 {
        let daemon = self.daemon.as_ref().map_or(0, Daemon::port);
        self.relay.as_ref().map_or(daemon, Relay::port)
    }

    /// As rsync takes it.
    pub(super) fn address(&self) -> OsString {
        if self.daemon.is_none() {
            return self.directory.clone().into_os_string();
        }
        format!("rsync://127.0.0.1:{}/{MODULE}", self.port()).into()
    }

    /// What the relay before it carried so far.
    pub(super) fn carried(&self) -> Carried {
        self.relay.as_ref().map(Relay::carried).unwrap_or_default()
    }

    /// The tree.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Everything that a run needs. The order of the fields is the order of the end.
#[derive(Debug)]
pub(super) struct Stage {
    cast: Cast,
    process: Option<Process>,
    _settings: KernelSettings,
    target: End,
    limit: End,
    source: PathBuf,
    limit_source: PathBuf,
    /// The subject does not empty the target, or takes too long over it.
    starts_anew: bool,
    starts: usize,
    interrupt: Interrupt,
    scratch: Scratch,
}

impl Stage {
    /// Sets the stage; the subject is not started yet.
    pub(super) fn set(cast: Cast, scratch: Scratch, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let directory = |name: &str| -> io::Result<PathBuf> {
            let path = scratch.0.join(name);
            fs::create_dir(&path)?;
            Ok(path)
        };
        let (source, limit_source) = (directory("source")?, directory("limit-source")?);
        let target = End::start(directory("target")?, &scratch.0, &cast)?;
        let limit = End::start(directory("limit-target")?, &scratch.0, &cast)?;
        Ok(Self {
            _settings: KernelSettings::before(cast.subject),
            starts_anew: cast.subject != Subject::Agent,
            cast,
            process: None,
            target,
            limit,
            source,
            limit_source,
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
        self.target.directory()
    }

    /// The tree that one rsync sends.
    pub(super) fn limit_source(&self) -> &Path {
        &self.limit_source
    }

    /// Where one rsync sends it.
    pub(super) fn limit_end(&self) -> &End {
        &self.limit
    }

    /// How that is called.
    pub(super) fn limit_call(&self) -> Call<'_> {
        let rest = WARM_REST + self.cast.relay.unwrap_or_default() * 6;
        Call { source: &self.limit_source, target: &self.limit, scratch: &self.scratch.0, rest }
    }

    /// For files beside the trees, on their file system.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch.0
    }

    /// For waits.
    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The target's address.
    pub(super) fn address(&self) -> OsString {
        self.target.address()
    }

    /// What the relay before the target carried so far.
    pub(super) fn carried(&self) -> Carried {
        self.target.carried()
    }

    /// Starts the subject. The agent is ready when it says so.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let address = self.target.address();
        let place =
            Place { source: &self.source, address: &address, port: self.target.port(), scratch: &self.scratch.0 };
        let command = self.cast.subject.command(&self.cast.program, place)?;
        self.starts += 1;
        let log = self.scratch.0.join(format!("{}-{}.log", self.cast.subject.name(), self.starts));
        let mut process = Process::start(command, Stdio::null(), log)?;
        if self.cast.subject == Subject::Agent {
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

    /// Makes the stage ready for a run: the subject works, and has nothing left to do. Whether it was started anew, on trees that
    /// hold what `first` has written into the source.
    ///
    /// An agent goes on where it is, and what earlier runs wrote stays: names are new in every run, and ext4 creates
    /// files up to twenty times more slowly for a while after many were deleted beside them (measured), which would be
    /// counted against whoever is measured.
    pub(super) fn ready(&mut self, first: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<bool> {
        let anew = self.up(first)?;
        self.calm()?;
        Ok(anew)
    }

    /// As [`Self::ready`], but the subject may still have something to do.
    pub(super) fn up(&mut self, first: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<bool> {
        match &mut self.process {
            Some(process) if !self.starts_anew => {
                process.check_alive()?;
                Ok(false)
            }
            Some(_) | None => {
                self.begin(first)?;
                Ok(true)
            }
        }
    }

    /// Starts the subject on trees that are the same, with what `first` makes.
    fn begin(&mut self, first: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.process = None;
        process::clear(&self.source)?;
        process::clear(self.target.directory())?;
        if let Err(error) = fs::remove_dir_all(self.scratch.0.join("state"))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
        first(&self.source)?;
        let mut copy = process::command("rsync");
        // The slash: what is in it, not itself.
        copy.arg("-a").arg(self.source.join("")).arg(self.target.directory());
        Process::start(copy, Stdio::null(), self.scratch.0.join("copy.log"))?.finish(COPY_MAX, &self.interrupt)?;
        self.start()?;
        self.probe()
    }

    /// Waits until the subject has not worked for a while: a script may have a backlog of its own last events.
    pub(super) fn calm(&self) -> anyhow::Result<()> {
        let (mut worked, mut since) = (self.work().all(), clock::now());
        self.interrupt.until(CALM_MAX, CALM / 12, || {
            let now = clock::now();
            let so_far = self.work().all();
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
        let mut names = Vec::new();
        loop {
            let name = format!("probe-{}", names.len());
            names.push(name.clone());
            fs::write(self.source.join(&name), &name)?;
            let target = self.target.directory();
            let arrived = self.interrupt.until(Duration::from_secs(2), POLL, || Ok(target.join(&name).exists()))?;
            if arrived {
                break;
            }
            self.check_alive()?;
            if clock::now() >= deadline {
                anyhow::bail!("{} sent nothing in {READY_MAX:?}\n{}", self.cast.subject.name(), self.last_words());
            }
        }
        for name in &names {
            fs::remove_file(self.source.join(name))?;
        }
        self.check_alive()?;
        let left = || names.iter().map(|name| self.target.directory().join(name)).filter(|path| path.exists());
        if !self.interrupt.until(EMPTY_MAX, POLL, || Ok(left().next().is_none()))? {
            left().try_for_each(fs::remove_file)?;
        }
        Ok(())
    }

    /// An error with its last words when the subject has ended.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        match &mut self.process {
            Some(process) => process.check_alive(),
            None => anyhow::bail!("nobody is there to send it"),
        }
    }

    /// What the subject and its children have worked so far.
    pub(super) fn work(&self) -> Work {
        self.process.as_ref().map_or_else(Work::default, Process::work)
    }

    /// What the target's daemon and its children have worked so far.
    pub(super) fn daemon_work(&self) -> Duration {
        self.target.daemon.as_ref().map_or(Duration::ZERO, |daemon| cpu::of(daemon.pid()).all())
    }

    /// The end of the subject's log.
    pub(super) fn last_words(&self) -> String {
        self.process.as_ref().map(Process::last_words).unwrap_or_default()
    }
}
