//! What a start builds on: the checkpoint of the run before, or a comparison of everything where that says nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use fansync::checkpoint::{self, Opened, RootRecord, Snapshot, TargetSnapshot};
use fansync::sys::clock::WallTime;

use crate::agent::Agent;
use crate::ground::{Ground, PATIENCE, until};

/// Slack of the agents here: their trees are young.
const SLACK_MS: &str = "100";
/// Longer than the slack, and a second more: so old may a watermark be.
const OLD: std::time::Duration = std::time::Duration::from_millis(1_200);

struct Stage {
    ground: Ground,
    daemon: fansync::lab::Daemon,
    options: Vec<String>,
}

impl Stage {
    /// A tree of 30 directories with a file each.
    fn new() -> Self {
        let ground = Ground::new();
        for number in 0..30 {
            fs::create_dir_all(ground.at(&format!("d/{number}"))).unwrap();
            fs::write(ground.at(&format!("d/{number}/f")), format!("{number}")).unwrap();
        }
        let daemon = ground.daemon();
        Self { ground, daemon, options: Vec::new() }
    }

    fn start(&self) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.arg("mirror").arg(&self.ground.source).arg(self.daemon.url());
        command.arg("--state").arg(self.state()).args(&self.options);
        command.env("FANSYNC_TEST_SLACK_MS", SLACK_MS).env("FANSYNC_LOG", "debug");
        let mut agent = Agent::spawn(command, &self.ground.place);
        agent.wait_ready();
        agent
    }

    /// Starts, mirrors, waits until the tree is older than what a rescan looks back, and ends in order.
    fn run_once(&self) {
        let mut agent = self.start();
        self.ground.wait_equal(&agent);
        let idle = || agent.log().contains("everything is compared");
        until("comparison", PATIENCE, &agent, idle);
        let began = std::time::Instant::now();
        while began.elapsed() < OLD {
            std::thread::park_timeout(OLD);
        }
        assert!(agent.terminate().success(), "{}", agent.last_log_lines(20));
    }

    fn state(&self) -> std::path::PathBuf {
        self.ground.place.join("state")
    }

    /// Changes the record that the run before left.
    fn tamper(&self, change: impl FnOnce(RootRecord) -> RootRecord) {
        let Opened { mut storage, loaded, .. } = checkpoint::open(&self.state()).unwrap();
        let (name, root) = loaded.roots.into_iter().next().unwrap();
        let targets = root.targets.into_keys().map(|location| TargetSnapshot {
            location,
            whole: false,
            changes: Vec::new(),
            held: None,
            paused: false,
        });
        let snapshot = Snapshot { root: name, record: change(root.record), targets: targets.collect() };
        storage.write(&snapshot).unwrap();
    }

    /// Changes the target behind the agent's back: only a comparison finds that.
    fn damage(&self) {
        fs::write(self.ground.there("d/7/f"), "damaged, and of another size").unwrap();
    }

    fn is_damaged(&self) -> bool {
        fs::read(self.ground.there("d/7/f")).unwrap() != b"7"
    }
}

/// The entries of all batches, as the log tells them.
fn asked_of_rsync(agent: &Agent) -> usize {
    let log = agent.log();
    let lines = log.lines().filter(|line| line.contains("rsync ended"));
    let entries = |line: &str| line.split("entries=").nth(1)?.split_whitespace().next()?.parse::<usize>().ok();
    lines.map(|line| entries(line).unwrap_or_else(|| panic!("no entries in {line}"))).sum()
}

fn rescanned(agent: &Agent) -> bool {
    agent.log().lines().any(|line| line.contains("rescan finished") && line.contains("restart"))
}

#[test]
fn a_restart_asks_rsync_for_nothing_but_what_changed_meanwhile() {
    let stage = Stage::new();
    stage.run_once();
    stage.damage();
    fs::write(stage.ground.at("d/3/f"), "changed while nobody looked").unwrap();
    fs::remove_dir_all(stage.ground.at("d/4")).unwrap();
    let agent = stage.start();
    let there = || fs::read(stage.ground.there("d/3/f")).is_ok_and(|content| content.starts_with(b"changed"));
    let done = || agent.log().contains("everything is compared");
    until("change", PATIENCE, &agent, || there() && !stage.ground.there("d/4").exists() && rescanned(&agent) && done());
    // The file, and the listing of the directory that lost a name.
    assert_eq!(asked_of_rsync(&agent), 2, "{}", agent.log());
    assert!(stage.is_damaged(), "what did not change was compared all the same");
}

#[test]
fn a_killed_agent_goes_on_with_what_it_had_not_sent() {
    let stage = Stage::new();
    stage.run_once();
    let mut agent = stage.start();
    until("rescan", PATIENCE, &agent, || rescanned(&agent));
    // Still being written to: the agent waits two seconds for the end of it.
    let file = fs::File::options().append(true).open(stage.ground.at("d/5/f")).unwrap();
    std::io::Write::write_all(&mut &file, b" and more").unwrap();
    let kept = || {
        // The file of a running agent is its own: look at a copy.
        let copy = tempfile::tempdir().unwrap();
        fs::copy(stage.state().join("checkpoint.redb"), copy.path().join("checkpoint.redb")).unwrap();
        let opened = checkpoint::open(copy.path()).unwrap();
        let marks = opened.loaded.roots.values().flat_map(|root| root.targets.values()).flat_map(|t| &t.marks);
        marks.filter(|mark| mark.path.as_bytes() == b"d/5/f").count() == 1
    };
    until("checkpoint with the mark", PATIENCE, &agent, kept);
    agent.kill();
    let before = fs::read(stage.ground.there("d/5/f")).unwrap();
    assert_eq!(before, b"5", "it was sent before the kill");
    let agent = stage.start();
    stage.ground.wait_equal(&agent);
}

#[test]
fn what_says_nothing_of_now_leads_to_a_full_comparison() {
    let check = |what: &str, words: &str, tamper: &dyn Fn(&Stage) -> Vec<String>| {
        let mut stage = Stage::new();
        stage.run_once();
        stage.damage();
        stage.options = tamper(&stage);
        let agent = stage.start();
        until(what, PATIENCE, &agent, || !stage.is_damaged());
        assert!(agent.log().contains(words), "{what}:\n{}", agent.log());
    };
    check("other filters", "filters", &|_| vec!["--filter=- *.none".to_owned()]);
    check("another directory", "another directory", &|stage| {
        stage.tamper(|record| RootRecord { inode: record.inode + 1, ..record });
        Vec::new()
    });
    check("a crash of the machine", "machine went down", &|stage| {
        stage.tamper(|record| RootRecord { boot: "another".to_owned(), clean: false, ..record });
        Vec::new()
    });
    check("a clean boot in between", "verifying", &|stage| {
        stage.tamper(|record| RootRecord { boot: "another".to_owned(), clean: true, ..record });
        Vec::new()
    });
    check("a clock that was set back", "clock was set back", &|stage| {
        stage.tamper(|record| RootRecord { watermark: Some(WallTime(i64::MAX)), ..record });
        Vec::new()
    });
}

#[test]
fn state_that_cannot_be_read_is_set_aside_and_named() {
    let stage = Stage::new();
    stage.run_once();
    stage.damage();
    fs::write(stage.state().join("checkpoint.redb"), "no database").unwrap();
    let agent = stage.start();
    until("full comparison", PATIENCE, &agent, || !stage.is_damaged());
    let aside = stage.state().join("checkpoint.unreadable-1");
    assert!(agent.log().contains(&aside.display().to_string()), "{}", agent.log());
    assert_eq!(fs::read(&aside).unwrap(), b"no database");
    assert_eq!(mode(&stage.state().join("checkpoint.redb")), 0o600);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_target_that_the_operator_paused_stays_paused_until_it_is_resumed() {
    let stage = Stage::new();
    stage.run_once();
    let mut agent = stage.start();
    let ask = |command: &str| {
        let mut ask = Command::new(env!("CARGO_BIN_EXE_fansync"));
        let output = ask.arg(command).arg("--state").arg(stage.state()).arg("--json").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let order = |command: &str| {
        let mut order = Command::new(env!("CARGO_BIN_EXE_fansync"));
        assert!(order.arg(command).arg("--state").arg(stage.state()).status().unwrap().success(), "{command}");
    };
    order("pause");
    let copy = || {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(stage.state().join("checkpoint.redb"), copy.path().join("checkpoint.redb")).unwrap();
        checkpoint::open(copy.path()).unwrap().loaded
    };
    until("checkpoint", PATIENCE, &agent, || copy().roots.values().any(|root| root.record.paused));
    agent.kill();
    let agent = stage.start();
    fs::write(stage.ground.at("d/1/f"), "changed while it is paused").unwrap();
    until("mark", PATIENCE, &agent, || ask("status").contains(r#""pending":1"#));
    assert!(ask("status").contains(r#""state":"paused""#), "{}", ask("status"));
    assert!(agent.log().contains("still paused"));
    assert_eq!(fs::read(stage.ground.there("d/1/f")).unwrap(), b"1");
    order("resume");
    stage.ground.wait_equal(&agent);
}

#[test]
fn a_new_target_is_compared_in_full_and_the_old_one_is_not() {
    let stage = Stage::new();
    stage.run_once();
    stage.damage();
    let second = stage.ground.place.join("second");
    fs::create_dir(&second).unwrap();
    let mut with_second = Stage { options: vec![second.display().to_string()], ..stage };
    let agent = with_second.start();
    until("second target", PATIENCE, &agent, || fs::read(second.join("d/29/f")).is_ok_and(|text| text == b"29"));
    until("comparison of both", PATIENCE, &agent, || agent.log().matches("everything is compared").count() == 2);
    assert!(with_second.is_damaged());
    with_second.options.clear();
}
