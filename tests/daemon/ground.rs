//! A source, a target and what a test of the running agent does with them again and again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fansync::lab::{Daemon, DaemonOptions};

use crate::agent::Agent;
use crate::compare::wait_until_equal;

pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// Two empty directories.
pub struct Ground {
    _scratch: tempfile::TempDir,
    pub place: PathBuf,
    pub source: PathBuf,
    pub target: PathBuf,
}

impl Ground {
    pub fn new() -> Self {
        Self::in_directory(&std::env::temp_dir())
    }

    /// In memory, where that is possible: for many files, which a disk takes long to make and to remove. Not where
    /// somebody chose a place.
    pub fn in_memory() -> Self {
        const MEMORY: &str = "/dev/shm";
        const NEEDED: u64 = 2 << 30;
        if std::env::var_os("TMPDIR").is_some() {
            return Self::new();
        }
        let large = rustix::fs::statvfs(MEMORY).is_ok_and(|room| room.f_bavail * room.f_frsize >= NEEDED);
        Self::in_directory(&if large { PathBuf::from(MEMORY) } else { std::env::temp_dir() })
    }

    fn in_directory(directory: &Path) -> Self {
        let scratch =
            tempfile::Builder::new().prefix("fansync-ground.").tempdir_in(directory).expect("a scratch directory");
        let place = scratch.path().canonicalize().expect("it was just made");
        let [source, target] = ["source", "target"].map(|name| place.join(name));
        for directory in [&source, &target] {
            fs::create_dir(directory).expect("the scratch directory can be written");
        }
        Self { _scratch: scratch, place, source, target }
    }

    /// In the source.
    pub fn at(&self, name: &str) -> PathBuf {
        self.source.join(name)
    }

    /// On the target.
    pub fn there(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    pub fn daemon(&self) -> Daemon {
        Daemon::start(&self.target, &self.place, &DaemonOptions::default()).expect("rsync --daemon can be started")
    }

    /// A live agent for `targets` with further options.
    pub fn agent(&self, targets: &[OsString], options: &[&str]) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.arg("mirror").arg(&self.source).args(targets).arg("--state").arg(self.place.join("state"));
        command.args(options);
        let mut agent = Agent::spawn(command, &self.place);
        agent.wait_ready();
        agent
    }

    /// A live agent with this configuration.
    pub fn agent_by(&self, configuration: &str) -> Agent {
        let file = self.place.join("fansync.yaml");
        fs::write(&file, configuration).expect("the scratch directory can be written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.arg("run").arg("--config").arg(&file);
        let mut agent = Agent::spawn(command, &self.place);
        agent.wait_ready();
        agent
    }

    /// A program that is rsync at 2 MiB/s: 9 MiB take about 4 s, and what is small is through before the limit bites.
    pub fn slow_rsync(&self) -> String {
        let program = self.place.join("slow-rsync");
        fs::write(&program, "#!/bin/sh\nexec rsync --bwlimit=2M \"$@\"\n")
            .expect("the scratch directory can be written");
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("it is ours");
        program.into_os_string().into_string().expect("a scratch directory's name is plain")
    }

    /// Waits until the target is the same as the source.
    pub fn wait_equal(&self, agent: &Agent) {
        if let Err(found) = wait_until_equal(&self.source, &self.target, PATIENCE, Duration::from_millis(20)) {
            panic!("not equal:\n{}\n{}", found.join("\n"), agent.last_log_lines(40));
        }
    }
}

/// What `fansync status --json` says of the agent with this state folder; `None` while it does not answer.
pub fn status(state: &Path) -> Option<serde_json::Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    let output = command.args(["status", "--json", "--state"]).arg(state).output().expect("fansync can be run");
    serde_json::from_slice(&output.stdout).ok()
}

/// Waits until `holds`.
///
/// # Panics
/// With the agent's log, after `patience`.
pub fn until(what: &str, patience: Duration, agent: &Agent, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    loop {
        if holds() {
            return began.elapsed();
        }
        assert!(began.elapsed() < patience, "no {what} in {patience:?}; log:\n{}", agent.last_log_lines(40));
        std::thread::park_timeout(POLL);
    }
}

pub fn holds_text(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|content| content == text.as_bytes())
}

/// Writes `count` small files one after the other; returns how long each took to its place on the target, sorted.
pub fn trickle(agent: &Agent, source: &Path, target: &Path, name: &str, count: usize) -> Vec<Duration> {
    let mut took: Vec<Duration> = (0..count)
        .map(|number| {
            let name = format!("{name}-{number}");
            fs::write(source.join(&name), &name).expect("the source can be written");
            let took = until(&name, PATIENCE, agent, || holds_text(&target.join(&name), &name));
            std::thread::park_timeout(Duration::from_millis(20));
            took
        })
        .collect();
    took.sort_unstable();
    took
}

/// Processes whose ancestor is `top`: id and start time, so that a reused id is not taken for the same process.
pub fn descendants(top: u32) -> BTreeMap<i32, u64> {
    let mut parents: Vec<(i32, i32, u64)> = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some((parent, started)) = stat(pid) {
            parents.push((pid, parent, started));
        }
    }
    let mut found = BTreeMap::new();
    let mut waiting = vec![i32::try_from(top).expect("a pid is an i32")];
    while let Some(at) = waiting.pop() {
        for (pid, _, started) in parents.iter().filter(|(_, parent, _)| *parent == at) {
            found.insert(*pid, *started);
            waiting.push(*pid);
        }
    }
    found
}

/// Those of `before` that still run.
pub fn still_there(before: &BTreeMap<i32, u64>) -> Vec<i32> {
    before
        .iter()
        .filter(|(pid, started)| stat(**pid).is_some_and(|now| now.1 == **started))
        .map(|(pid, _)| *pid)
        .collect()
}

/// Parent and start time of a process that has not ended; a zombie has. proc_pid_stat(5).
fn stat(pid: i32) -> Option<(i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    (state != "Z" && state != "X").then_some((parent, started))
}
