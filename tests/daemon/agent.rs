//! The agent as a process: start, wait until it is live, stop, and see that nobody is left behind.
//!
//! Invariant: whatever happens in a test, dropping the [`Agent`] ends the agent and the processes that it started.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// In the environment of the agent and of all that it starts: finds what outlives it, wherever it was reparented to.
const MARK: &str = "FANSYNC_TEST_AGENT";
/// What the agent logs, in the line `live: watching N directories`, when its watches are in place.
const LIVE: &str = "live: ";
/// What the agent logs where fanotify was asked for and is not possible: a test would try another thing than it says.
const REFUSED: &str = "so inotify is used";
const READY_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(10);

/// The backend that all agents shall take: `FANSYNC_TEST_WATCH`, `inotify` or `fanotify` (scripts/test-on-grounds.sh). Unset,
/// each takes what it takes by itself.
pub fn watch() -> Option<String> {
    std::env::var("FANSYNC_TEST_WATCH").ok()
}

/// The same as a line of a root in a configuration; empty where nobody asks for a backend.
pub fn watch_key() -> String {
    watch().map_or_else(String::new, |backend| format!("    watch: {backend}\n"))
}

/// A running `fansync mirror`.
pub struct Agent {
    child: Child,
    log: PathBuf,
    mark: String,
}

impl Agent {
    /// Starts `fansync mirror SOURCE TARGET... --state DIR` in a process group of its own. State and log are in `scratch`; a
    /// second agent in the same scratch goes on with the state of the first and writes to a log of its own.
    pub fn start(source: &Path, targets: &[OsString], scratch: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.arg("mirror").arg(source).args(targets).arg("--state").arg(scratch.join("state"));
        // Half of what a churn makes it removes again.
        command.args(["--hold-over", "1000000"]);
        Self::spawn(command, scratch)
    }

    /// Starts any command as if it were the agent. A `mirror` that does not say how it watches is told to do it as [`watch`]
    /// has it.
    pub fn spawn(mut command: Command, scratch: &Path) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = scratch.join(format!("agent-{number}.log"));
        let mark = format!("{}-{number}", std::process::id());
        let given = |argument: &str| command.get_args().any(|one| one == argument);
        if let (Some(backend), true) = (watch(), given("mirror") && !given("--watch")) {
            command.args(["--watch", &backend]);
        }
        let child = command
            .env(MARK, &mark)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the scratch directory can be written"))
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {:?}: {error}", command.get_program()));
        Self { child, log, mark }
    }

    /// Returns when the agent has said that it is live.
    ///
    /// # Panics
    /// With the log, when it ends before that, takes longer than 30 s, or does not watch as it was asked to.
    pub fn wait_ready(&mut self) {
        self.wait_live();
        let log = self.log();
        assert!(!log.contains(REFUSED), "inotify has to be asked for where fanotify cannot be had:\n{log}");
    }

    /// As [`Self::wait_ready`], however it watches.
    pub fn wait_live(&mut self) {
        let began = Instant::now();
        loop {
            // The status first: what an ended agent has logged is all there.
            let ended = self.child.try_wait().expect("the agent is our child");
            if self.log().lines().any(|line| line.contains(LIVE)) {
                return;
            }
            if let Some(status) = ended {
                panic!("the agent ended with {status} before it was live; its log:\n{}", self.last_log_lines(60));
            }
            if began.elapsed() > READY_MAX {
                panic!("the agent was not live within {READY_MAX:?}; its log:\n{}", self.last_log_lines(60));
            }
            std::thread::park_timeout(POLL);
        }
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// With the log, after 15 s; the agent is killed then.
    pub fn terminate(&mut self) -> ExitStatus {
        let _already_gone = kill(self.pid(), Signal::SIGTERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the agent is our child") {
                return status;
            }
            if began.elapsed() > STOP_MAX {
                self.kill();
                panic!("the agent did not end within {STOP_MAX:?} of SIGTERM; its log:\n{}", self.last_log_lines(60));
            }
            std::thread::park_timeout(POLL);
        }
    }

    /// SIGKILL to the agent alone, as a crash: what it started is left to its own precautions.
    pub fn kill(&mut self) {
        let _already_gone = kill(self.pid(), Signal::SIGKILL);
        let _status = self.child.wait();
    }

    /// Its status, if it has ended already, which it must not do on its own.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the agent is our child")
    }

    /// The processes that the agent started, or that they started, and that still run after `patience`: id and command
    /// line of each. To be asked after the agent's end.
    pub fn left_behind(&self, patience: Duration) -> Vec<String> {
        let began = Instant::now();
        loop {
            let found = self.descendants();
            if found.is_empty() || began.elapsed() >= patience {
                return found.iter().map(|pid| format!("{pid}: {}", command_line(*pid))).collect();
            }
            std::thread::park_timeout(POLL);
        }
    }

    /// All that the agent wrote to stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of [`Self::log`].
    pub fn last_log_lines(&self, count: usize) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Resident memory of the agent alone, in KiB; 0 when it has ended.
    pub fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// Whether each of its threads has taken a SIGSTOP.
    pub fn is_stopped(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return false };
        let mut states = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("status")));
        states.all(|status| status.is_ok_and(|status| status.contains("State:\tT")))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal and does not wait.
    pub fn signal(&self, signal: Signal) {
        let _already_gone = kill(self.pid(), signal);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is an i32"))
    }

    /// Whether it has at least `count` inotify instances, or its fanotify group: from then on the kernel's limits on queues do
    /// not matter to them.
    pub fn has_instances(&self, count: usize) -> bool {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", self.child.id())) else { return false };
        let kinds: Vec<_> = descriptors.flatten().filter_map(|one| fs::read_link(one.path()).ok()).collect();
        let instances = kinds.iter().filter(|kind| kind.as_os_str() == "anon_inode:inotify").count();
        // The first group of a process is that of its probe.
        let group = || kinds.iter().any(|kind| kind.as_os_str() == "anon_inode:[fanotify]");
        instances >= count || (group() && self.log().contains(LIVE))
    }

    /// Other processes with our mark in their environment. One that has ended but was not reaped has none.
    pub fn descendants(&self) -> Vec<i32> {
        let ours = format!("{MARK}={}", self.mark).into_bytes();
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        processes
            .flatten()
            .filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| *pid != self.pid().as_raw())
            .filter(|pid| {
                fs::read(format!("/proc/{pid}/environ"))
                    .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == ours))
            })
            .collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _already_gone = killpg(self.pid(), Signal::SIGKILL);
            let _status = self.child.wait();
        }
        // Its workers have process groups of their own. Two rounds: one may be started while we look.
        for _round in 0..2 {
            for pid in self.descendants() {
                let _already_gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

fn command_line(pid: i32) -> String {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments
        .split(|byte| *byte == 0)
        .map(|argument| fansync::path::escaped(argument).to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A shell script as the agent's command; `$1` and so on are `arguments`.
#[cfg(test)]
pub fn script(text: &str, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text, "stand-in"]).args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_ends_before_it_is_live_panics_with_its_log() {
        let scratch = tempfile::tempdir().unwrap();
        let mut agent = Agent::spawn(script("echo 'no inotify today' >&2; exit 3", &[]), scratch.path());
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| agent.wait_ready())).unwrap_err();
        let words = panic.downcast_ref::<String>().unwrap();
        assert!(words.contains("no inotify today") && words.contains("exit status: 3"), "{words}");
    }

    #[test]
    fn what_an_agent_leaves_behind_is_seen_and_then_ended() {
        let scratch = tempfile::tempdir().unwrap();
        let text = "trap 'exit 0' TERM; setsid sleep 1000 & echo 'live: 0' >&2; while :; do sleep 0.01; done";
        let mut agent = Agent::spawn(script(text, &[]), scratch.path());
        agent.wait_ready();
        assert!(agent.rss_kib() > 0);
        assert!(agent.ended().is_none());
        assert!(agent.terminate().success());
        let left = agent.left_behind(Duration::from_millis(100));
        assert!(matches!(&left[..], [one] if one.contains("sleep 1000")), "{left:?}");
        let pid: i32 = left[0].split(':').next().unwrap().parse().unwrap();
        drop(agent);
        let began = Instant::now();
        // It is a zombie until whoever inherited it reaps it; a zombie has no command line.
        while !command_line(pid).is_empty() {
            assert!(began.elapsed() < Duration::from_secs(5), "{pid} still runs");
            std::thread::park_timeout(POLL);
        }
    }
}
