//! The agent under a load of its own: its status, its memory, the processor time of its threads.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::Value;

use super::patience::Interrupt;
use super::process::{self, Process};
use super::stage::LIVE;
use super::subject::Subject;
use crate::sys::clock;

/// Until the agent is live: a cold walk of ten million directories takes minutes.
const LIVE_MAX: Duration = Duration::from_secs(3600);

/// How often it is asked whether it is live. What is measured is this much too long at most.
const POLL: Duration = Duration::from_millis(1);

/// How the agent learns of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Backend {
    /// A watch for each directory.
    Inotify,
    /// A mark on the file system.
    Fanotify,
}

impl Backend {
    /// As `--watch` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inotify => "inotify",
            Self::Fanotify => "fanotify",
        }
    }

    /// The kernel's limit on the events of one queue.
    pub(super) fn queue_limit(self) -> PathBuf {
        Path::new("/proc/sys/fs").join(self.name()).join("max_queued_events")
    }
}

/// Which backends are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Watch {
    /// A watch for each directory.
    Inotify,
    /// A mark on the file system; takes root.
    Fanotify,
    /// One after the other.
    Both,
}

impl Watch {
    pub(super) fn backends(self) -> &'static [Backend] {
        match self {
            Self::Inotify => &[Backend::Inotify],
            Self::Fanotify => &[Backend::Fanotify],
            Self::Both => &[Backend::Inotify, Backend::Fanotify],
        }
    }
}

/// What an agent is started with.
#[derive(Debug)]
pub(super) struct Order<'a> {
    /// How it learns of changes.
    pub(super) backend: Backend,
    /// What it mirrors.
    pub(super) source: &'a Path,
    /// Where to.
    pub(super) url: &'a str,
    /// Its state folder: what is in there is gone on with.
    pub(super) state: &'a Path,
    /// For its log.
    pub(super) scratch: &'a Path,
}

/// A running agent. It has ended when this is dropped.
#[derive(Debug)]
pub(super) struct Mirror {
    process: Process,
    program: PathBuf,
    state: PathBuf,
    suspended: bool,
}

/// How long an agent took until it was live.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// From the start of the process.
    pub(super) process: Duration,
    /// Without what comes before: the check of rsync and the question to the target.
    pub(super) root: Duration,
}

impl Mirror {
    /// Starts an agent and waits until it is live.
    pub(super) fn start(order: &Order<'_>, interrupt: &Interrupt) -> anyhow::Result<(Self, Start)> {
        let program = Subject::Agent.program().expect("the agent is always installed");
        let mut command = process::command(&program);
        command.arg("mirror").arg(order.source).arg(order.url).arg("--state").arg(order.state);
        command.args(["--watch", order.backend.name(), "--hold-over", "1000000"]);
        // Its log says when it is live, whatever level the user's shell asks for.
        command.env_remove("FANSYNC_LOG").env_remove("RUST_LOG");
        let log = order.scratch.join(format!("agent-{}.log", order.backend.name()));
        let began = clock::now();
        let process = Process::start(command, Stdio::null(), log)?;
        let mut agent = Self { process, program, state: order.state.to_owned(), suspended: false };
        let mut words = String::new();
        let live = interrupt.until(LIVE_MAX, POLL, || {
            words = agent.process.words();
            let live = words.contains(LIVE);
            if !live {
                agent.process.check_alive()?;
            }
            Ok(live)
        })?;
        let process = clock::now() - began;
        anyhow::ensure!(live, "the agent was not live within {LIVE_MAX:?}\n{}", agent.process.last_words());
        let watch = &agent.status()?["roots"][0]["watch"];
        anyhow::ensure!(
            watch["backend"] == order.backend.name(),
            "{} cannot be had here: {}",
            order.backend.name(),
            watch["refused"].as_str().unwrap_or("the agent does not say why")
        );
        let root = words.lines().find(|line| line.contains(LIVE)).and_then(took).unwrap_or(process);
        Ok((agent, Start { process, root }))
    }

    /// What `fansync status --json` says.
    pub(super) fn status(&self) -> anyhow::Result<Value> {
        let mut command = process::command(&self.program);
        let output = command.args(["status", "--json", "--state"]).arg(&self.state).output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no status: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// A number of its root's status.
    pub(super) fn number(&self, key: &str) -> anyhow::Result<u64> {
        let status = self.status()?;
        status["roots"][0][key].as_u64().with_context(|| format!("the status has no number '{key}'"))
    }

    /// Waits until everything is compared, and nothing is pending or under way.
    pub(super) fn wait_calm(&mut self, patience: Duration, interrupt: &Interrupt) -> anyhow::Result<bool> {
        interrupt.until(patience, Duration::from_millis(50), || {
            self.process.check_alive()?;
            let status = self.status()?;
            let root = &status["roots"][0];
            let target = &root["targets"][0];
            let none = |key: &str| target[key].as_u64() == Some(0);
            Ok(root["rescan"].is_null() && target["compared"] == true && none("pending") && none("in_flight"))
        })
    }

    /// An error with its last words when it has ended.
    pub(super) fn check_alive(&mut self) -> anyhow::Result<()> {
        self.process.check_alive()
    }

    /// Resident memory of the agent itself. Unit: bytes.
    pub(super) fn resident(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
    }

    /// Processor time of the agent itself, without its children.
    pub(super) fn cpu(&self) -> Duration {
        fs::read_to_string(self.proc("stat")).ok().as_deref().and_then(own_time).unwrap_or_default()
    }

    /// Processor time of the threads that read the kernel's events.
    pub(super) fn cpu_of_shards(&self) -> Duration {
        let Ok(threads) = fs::read_dir(self.proc("task")) else { return Duration::ZERO };
        threads
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
            .filter(|stat| stat.contains("(shard-"))
            .filter_map(|stat| own_time(&stat))
            .sum()
    }

    /// Stops it where it is, as a busy machine may, until [`Self::resume`].
    pub(super) fn suspend(&mut self) -> anyhow::Result<()> {
        self.process.check_alive()?;
        self.suspended = true;
        Ok(kill(self.pid(), Signal::SIGSTOP)?)
    }

    /// Lets it go on.
    pub(super) fn resume(&mut self) -> anyhow::Result<()> {
        self.suspended = false;
        Ok(kill(self.pid(), Signal::SIGCONT)?)
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        self.process.last_words()
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string()).join(name)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).expect("a process id is an i32"))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if self.suspended {
            // It would not see the signal that ends it.
            let _gone_already = self.resume();
        }
    }
}

/// `took_ms=` in a log line.
fn took(line: &str) -> Option<Duration> {
    let digits: String = line.split("took_ms=").nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().map(Duration::from_millis)
}

/// User and system time in a `stat` line, of a process or a thread: fields 14 and 15 of proc_pid_stat(5).
fn own_time(stat: &str) -> Option<Duration> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let all = ticks(11)? + ticks(12)?;
    Some(Duration::from_secs_f64(all as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// A limit of the kernel that is another one for a while.
#[derive(Debug)]
pub(super) struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Sets it until this is dropped.
    ///
    /// # Errors
    /// Without root, above all.
    pub(super) fn set(path: PathBuf, value: u64) -> std::io::Result<Self> {
        let before = fs::read_to_string(&path)?.trim().to_owned();
        fs::write(&path, value.to_string())?;
        Ok(Self { path, before })
    }

    /// What it is now.
    pub(super) fn read(path: &Path) -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            tracing::warn!(path = %self.path.display(), was = self.before, %error, "a kernel setting cannot be put back");
        }
    }
}

/// A state folder that holds nothing.
pub(super) fn fresh_state(scratch: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let mut folder = OsString::from("state-");
    folder.push(name);
    let path = scratch.join(folder);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_stat_lines_and_log_lines() {
        let stat = "7 (shard-0) x) S 1 42 42 0 -1 4194304 1 2 3 4 100 50 30 40 20 0 1 0";
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(own_time(stat), Some(Duration::from_secs_f64(150.0 * tick)));
        assert_eq!(own_time("7 (x"), None);
        assert_eq!(
            took("INFO live: watching 3 directories root=\"r\" took_ms=412 x=1"),
            Some(Duration::from_millis(412))
        );
        assert_eq!(took("live: watching"), None);
    }

    #[test]
    fn a_setting_is_put_back() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("limit");
        fs::write(&file, "16384\n").unwrap();
        let set = Setting::set(file.clone(), 64).unwrap();
        assert_eq!(Setting::read(&file), Some(64));
        drop(set);
        assert_eq!(Setting::read(&file), Some(16_384));
    }
}
