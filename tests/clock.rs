//! A clock that is set while the agent runs. A program of its own, because every agent of the machine is told.

#![expect(
    clippy::disallowed_methods,
    reason = "a test driver starts processes, reaps them and reads the clock; the bans are for the agent"
)]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fansync::lab::{Daemon, DaemonOptions};

const PATIENCE: Duration = Duration::from_secs(40);

/// An agent that is killed at the end of the test.
struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    fn says(&self, words: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(words))
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "no {what}; log:\n{log}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Setting the clock to what it is is setting it: ctimes of before and after cannot be compared.
#[test]
fn a_clock_that_is_set_leads_to_a_full_comparison_and_a_new_watermark() {
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().canonicalize().unwrap();
    let [source, target, state] = ["source", "target", "state"].map(|name| place.join(name));
    fs::create_dir_all(source.join("d")).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join("d/f"), "as it is").unwrap();
    let daemon = Daemon::start(&target, &place, &DaemonOptions::default()).unwrap();
    let log = place.join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("mirror").arg(&source).arg(daemon.url()).arg("--state").arg(&state);
    let child = command.stdin(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    let agent = Agent { child, log };
    let holds = |name: &str, text: &str| fs::read(target.join(name)).is_ok_and(|content| content == text.as_bytes());
    agent.until("comparison", || agent.says("everything is compared"));

    // Behind the agent's back: only a comparison finds that.
    fs::write(target.join("d/f"), "damaged, and of another size").unwrap();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    if let Err(error) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, now) {
        eprintln!("skipped: the clock cannot be set here: {error}");
        return;
    }
    agent.until("full comparison", || holds("d/f", "as it is"));
    assert!(agent.says("clock was set"));

    // It goes on from there: the next run has a watermark again.
    fs::write(source.join("d/g"), "later").unwrap();
    agent.until("later change", || holds("d/g", "later"));
    agent.until("watermark of after that", || {
        // The file of a running agent is its own: look at a copy.
        let copy = tempfile::tempdir().unwrap();
        fs::copy(state.join("checkpoint.redb"), copy.path().join("checkpoint.redb")).unwrap();
        let opened = fansync::checkpoint::open(copy.path()).unwrap();
        let watermarks = opened.loaded.roots.values().filter_map(|root| root.record.watermark);
        watermarks.max().is_some_and(|watermark| watermark.0 / 1_000_000_000 > now.tv_sec)
    });
}
