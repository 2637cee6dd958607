//! An rsync that waits for the next change: that it is used, and that nothing is lost, deleted or called a failure when
//! its connection, its daemon or its agent goes away under it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fansync::lab::{Daemon, DaemonOptions, free_port};
use serde_json::Value;

use crate::agent::{Agent, watch_key};
use crate::ground::{Ground, PATIENCE, descendants, holds_text, status, still_there, trickle, until};

/// A daemon as most are: without TCP_NODELAY.
fn stock() -> DaemonOptions {
    DaemonOptions { nodelay: false, ..DaemonOptions::default() }
}

struct Field {
    ground: Ground,
    daemon: Option<Daemon>,
    options: DaemonOptions,
}

impl Field {
    fn new(options: DaemonOptions) -> Self {
        let options = DaemonOptions { port: Some(free_port().unwrap()), ..options };
        let mut field = Self { ground: Ground::new(), daemon: None, options };
        fs::create_dir(field.ground.at("d")).unwrap();
        field.start();
        field
    }

    fn start(&mut self) {
        let daemon = Daemon::start(&self.ground.target, &self.ground.place, &self.options);
        self.daemon = Some(daemon.expect("rsync --daemon can be started"));
    }

    fn url(&self) -> String {
        self.daemon.as_ref().expect("it runs").url()
    }

    fn agent(&self, options: &[&str]) -> Agent {
        self.ground.agent(&[self.url().into()], options)
    }

    fn link(&self) -> Value {
        let status = status(&self.ground.place.join("state"));
        status.map_or(Value::Null, |status| status["roots"][0]["targets"][0]["link"].clone())
    }

    fn count(&self, name: &str) -> u64 {
        self.link()[name].as_u64().unwrap_or(0)
    }

    fn target(&self) -> Value {
        let status = status(&self.ground.place.join("state"));
        status.map_or(Value::Null, |status| status["roots"][0]["targets"][0].clone())
    }

    /// Writes a file and waits for it.
    fn send(&self, agent: &Agent, name: &str) -> Duration {
        fs::write(self.ground.at(name), name).unwrap();
        until(name, PATIENCE, agent, || holds_text(&self.ground.there(name), name))
    }

    /// Sends until an rsync waits that has been given nothing, and nothing else is under way.
    fn warm_up(&self, agent: &Agent) {
        self.send(agent, "d/first");
        until("an rsync that waits, and nothing else", PATIENCE, agent, || {
            let target = self.target();
            target["link"]["warm"] == true && target["pending"] == 0 && target["in_flight"] == 0
        });
    }

    fn is_warm(&self) -> bool {
        self.link()["warm"] == true
    }
}

/// The rsyncs that wait for a list: their standard input is a pipe.
fn waiting(agent: &Agent) -> Vec<i32> {
    let is_rsync = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"rsync\0"));
    let by_pipe = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/fd/0")).is_ok_and(|stdin| stdin.to_string_lossy().starts_with("pipe:"))
    };
    descendants(agent.id()).into_keys().filter(is_rsync).filter(by_pipe).collect()
}

fn no_failure(agent: &Agent, field: &Field) {
    let log = agent.log();
    assert!(!log.contains("ERROR") && !log.contains("does not take changes"), "{log}");
    assert_eq!(field.target()["failures"], 0);
}

#[test]
fn changes_go_by_the_rsync_that_waits_and_replies_do_not_wait() {
    let field = Field::new(stock());
    let agent = field.agent(&[]);
    field.warm_up(&agent);
    let waits = waiting(&agent);
    assert_eq!(waits.len(), 1, "{waits:?}");
    let before = field.count("warm_runs");
    field.send(&agent, "d/second");
    until("another rsync", PATIENCE, &agent, || {
        let now = waiting(&agent);
        now.len() == 1 && now != waits
    });
    assert!(field.count("warm_runs") > before, "{}", field.link());
    fs::remove_file(field.ground.at("d/second")).unwrap();
    until("the delete", PATIENCE, &agent, || !field.ground.there("d/second").exists());
    let took = trickle(&agent, &field.ground.source, &field.ground.target, "d/trickle", 20);
    println!("with a stock daemon: median {:?}, longest {:?}", took[10], took[19]);
    // Its second reply would wait 40 ms for an acknowledgement. Even a busy machine is quicker half of the time.
    assert!(took[10] < Duration::from_millis(40), "{took:?}");
    let link = field.link();
    assert_eq!(link["acks"], "quick", "{link}");
    assert!(link["bytes_sent"].as_u64().unwrap() > 0 && link["round_trip_ms"].as_f64().unwrap() > 0.0, "{link}");
    no_failure(&agent, &field);
}

#[test]
fn a_target_that_shall_have_none_has_none() {
    let field = Field::new(stock());
    let agent = field.agent(&["--warm", "0"]);
    for number in 0..5 {
        field.send(&agent, &format!("d/{number}"));
        assert_eq!(waiting(&agent), [0; 0]);
    }
    let link = field.link();
    assert_eq!((&link["warm"], &link["warm_runs"]), (&Value::Bool(false), &Value::from(0)), "{link}");
    assert_eq!((&link["warm_reason"], &link["acks"]), (&"none is asked for".into(), &"quick".into()), "{link}");
}

#[test]
fn a_daemon_that_is_started_again_under_the_one_that_waits_is_no_failure() {
    let mut field = Field::new(stock());
    let agent = field.agent(&[]);
    for round in 0..3 {
        field.warm_up(&agent);
        field.daemon = None;
        field.start();
        field.send(&agent, &format!("d/after-{round}"));
        fs::remove_file(field.ground.at("d/first")).unwrap();
        until("the delete", PATIENCE, &agent, || !field.ground.there("d/first").exists());
    }
    no_failure(&agent, &field);
}

/// The process at the other end is killed, and the agent has not looked when the change comes.
#[test]
fn a_connection_that_breaks_under_a_change_is_replaced_by_another() {
    let field = Field::new(stock());
    let agent = field.agent(&[]);
    let daemon = field.daemon.as_ref().unwrap().pid();
    for round in 0..5 {
        field.warm_up(&agent);
        for pid in descendants(daemon).into_keys() {
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        field.send(&agent, &format!("d/at-once-{round}"));
    }
    field.ground.wait_equal(&agent);
    no_failure(&agent, &field);
}

#[test]
fn a_daemon_that_drops_who_waits_too_long_is_no_failure() {
    let field = Field::new(DaemonOptions { extra: "timeout = 1".to_owned(), ..stock() });
    let agent = field.agent(&[]);
    field.warm_up(&agent);
    let first = waiting(&agent);
    until("one that was dropped", PATIENCE, &agent, || {
        let now = waiting(&agent);
        now.len() == 1 && now != first
    });
    for number in 0..5 {
        field.send(&agent, &format!("d/{number}"));
        let waits = waiting(&agent);
        until("the next", PATIENCE, &agent, || waiting(&agent) != waits);
    }
    no_failure(&agent, &field);
}

/// One connection at a time: the one that waits must not have it. rsync's daemon counts a connection for 20 ms and more
/// after its end.
#[test]
fn a_target_with_few_connections_is_served_all_the_same() {
    for connections_max in [1, 2] {
        let field = Field::new(DaemonOptions { connections_max, ..stock() });
        let lanes = connections_max.to_string();
        let agent = field.agent(&["--lanes", &lanes]);
        field.send(&agent, "d/first");
        for round in 0..3 {
            // A directory goes by a run of its own, which needs a connection of its own.
            fs::create_dir_all(field.ground.at(&format!("new-{round}/sub"))).unwrap();
            let name = format!("new-{round}/sub/file");
            field.send(&agent, &name);
            field.send(&agent, &format!("d/small-{round}"));
        }
        no_failure(&agent, &field);
        if connections_max == 1 {
            until("the end of waiting", PATIENCE, &agent, || !field.is_warm());
            assert_eq!(field.link()["warm_reason"], "the target has too few connections");
        }
    }
}

#[test]
fn a_root_that_is_emptied_or_gone_deletes_nothing_by_the_one_that_waits() {
    let field = Field::new(stock());
    for number in 0..20 {
        fs::write(field.ground.at(&format!("{number}")), "kept").unwrap();
    }
    let agent = field.agent(&[]);
    field.ground.wait_equal(&agent);
    field.warm_up(&agent);
    let away = field.ground.place.join("away");
    fs::rename(&field.ground.source, &away).unwrap();
    fs::create_dir(&field.ground.source).unwrap();
    until("the hold", PATIENCE, &agent, || agent.log().contains("held: the root is not what it was"));
    until("the end of waiting", PATIENCE, &agent, || waiting(&agent).is_empty());
    assert_eq!((0..20).filter(|number| !field.ground.there(&number.to_string()).exists()).count(), 0);
    fs::remove_dir(&field.ground.source).unwrap();
    fs::rename(&away, &field.ground.source).unwrap();
    field.send(&agent, "d/later");
}

#[test]
fn a_killed_agent_leaves_none_behind_and_nothing_is_deleted() {
    let field = Field::new(stock());
    let mut agent = field.agent(&[]);
    field.warm_up(&agent);
    let before = descendants(agent.id());
    assert!(!waiting(&agent).is_empty());
    agent.kill();
    let began = Instant::now();
    while !still_there(&before).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", still_there(&before));
        std::thread::park_timeout(Duration::from_millis(2));
    }
    assert!(holds_text(&field.ground.there("d/first"), "d/first"));
}

#[test]
fn an_agent_that_ends_waits_for_nobody() {
    let field = Field::new(stock());
    let mut agent = field.agent(&[]);
    field.warm_up(&agent);
    let began = Instant::now();
    assert!(agent.terminate().success());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(agent.left_behind(Duration::from_secs(2)), [""; 0]);
}

#[test]
fn a_paused_target_has_none() {
    let field = Field::new(stock());
    let agent = field.agent(&[]);
    field.warm_up(&agent);
    let state = field.ground.place.join("state");
    let control = |word: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fansync"));
        assert!(command.args([word, "--state"]).arg(&state).status().unwrap().success());
    };
    control("pause");
    until("the end of waiting", PATIENCE, &agent, || waiting(&agent).is_empty());
    fs::remove_file(field.ground.at("d/first")).unwrap();
    control("resume");
    until("the delete", PATIENCE, &agent, || !field.ground.there("d/first").exists());
}

/// What the guard does not admit beforehand, the one that waits is not given: it could not be told to stop at less.
#[test]
fn a_guard_with_little_left_is_not_overdrawn() {
    let field = Field::new(stock());
    for number in 0..40 {
        fs::write(field.ground.at(&format!("d/{number}")), "old").unwrap();
    }
    let agent = field.agent(&["--hold-over", "20"]);
    field.ground.wait_equal(&agent);
    field.warm_up(&agent);
    for number in 0..40 {
        fs::remove_file(field.ground.at(&format!("d/{number}"))).unwrap();
        std::thread::park_timeout(Duration::from_millis(30));
    }
    until("the hold", PATIENCE, &agent, || agent.log().contains("deletes held"));
    field.send(&agent, "d/after");
    let left = (0..40).filter(|number| field.ground.there(&format!("d/{number}")).exists()).count();
    assert!(left >= 20, "{left} are left");
}

#[test]
fn a_storm_of_deletes_is_held_as_ever() {
    let field = Field::new(stock());
    for number in 0..300 {
        fs::write(field.ground.at(&format!("d/{number}")), "old").unwrap();
    }
    let agent = field.agent(&["--hold-over", "200"]);
    field.ground.wait_equal(&agent);
    field.warm_up(&agent);
    for number in 0..300 {
        fs::remove_file(field.ground.at(&format!("d/{number}"))).unwrap();
    }
    until("the hold", PATIENCE, &agent, || agent.log().contains("deletes held"));
    field.send(&agent, "d/after");
    let left = (0..300).filter(|number| field.ground.there(&format!("d/{number}")).exists()).count();
    assert!(left >= 100, "{left} are left");
}

/// A file that became a directory full of files on the target is in the way of nobody: it is deleted, and counted, as
/// by a fresh run.
#[test]
fn what_is_in_the_way_is_counted_though_the_fence_is_wide() {
    let field = Field::new(stock());
    let agent = field.agent(&["--hold-over", "70"]);
    field.warm_up(&agent);
    fs::create_dir(field.ground.there("d/x")).unwrap();
    for number in 0..100 {
        fs::write(field.ground.there(&format!("d/x/{number}")), "in the way").unwrap();
    }
    fs::write(field.ground.at("d/x"), "a file").unwrap();
    until("the hold", PATIENCE, &agent, || agent.log().contains("deletes held"));
    let left = fs::read_dir(field.ground.there("d/x")).unwrap().count();
    assert!(left >= 100 - 70, "{left} are left");
}

#[test]
fn a_long_list_and_hostile_names_arrive() {
    let field = Field::new(stock());
    let agent = field.agent(&[]);
    field.warm_up(&agent);
    let hostile: Vec<&[u8]> =
        vec![b"#a", b";b", b"-c", b"new\nline", b"\xff\xfe", b"star*[x]?", b" ", b"back\\slash", b"..."];
    let at = |root: &Path, name: &[u8]| {
        root.join("d").join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name))
    };
    for name in &hostile {
        let before = field.count("warm_runs");
        fs::write(at(&field.ground.source, name), "hostile").unwrap();
        until("the name", PATIENCE, &agent, || holds_text(&at(&field.ground.target, name), "hostile"));
        until("the next that waits", PATIENCE, &agent, || field.is_warm() && field.target()["in_flight"] == 0);
        assert!(field.count("warm_runs") > before, "{name:?}: {}", field.link());
    }
    // 2,000 long names are more than a pipe holds.
    let long = "n".repeat(200);
    for number in 0..2_000 {
        fs::write(field.ground.at(&format!("d/{long}-{number}")), "").unwrap();
    }
    field.ground.wait_equal(&agent);
    for name in &hostile {
        fs::remove_file(at(&field.ground.source, name)).unwrap();
    }
    field.ground.wait_equal(&agent);
    no_failure(&agent, &field);
}

/// An agent for one target with these keys.
fn configured(field: &Field, keys: &str) -> Agent {
    let text = format!(
        "state_dir: {}\nroots:\n  - path: {}\n{}    targets: [{{url: \"{}\", {keys}}}]\n",
        field.ground.place.join("state").display(),
        field.ground.source.display(),
        watch_key(),
        field.url(),
    );
    field.ground.agent_by(&text)
}

#[test]
fn what_is_compressed_takes_few_bytes_and_the_one_that_waits_does_so_too() {
    let text = "a line like all the others\n".repeat(20_000);
    let sent = |keys: &str| {
        let field = Field::new(stock());
        let agent = configured(&field, keys);
        field.warm_up(&agent);
        let before = field.link();
        fs::write(field.ground.at("d/text"), &text).unwrap();
        until("the text", PATIENCE, &agent, || holds_text(&field.ground.there("d/text"), &text));
        until("its numbers", PATIENCE, &agent, || field.count("warm_runs") > before["warm_runs"].as_u64().unwrap());
        no_failure(&agent, &field);
        field.count("bytes_sent") - before["bytes_sent"].as_u64().unwrap()
    };
    let (compressed, plain) = (sent("compress: always"), sent("compress: never"));
    println!("{compressed} bytes instead of {plain}");
    assert!(plain > 500_000 && compressed < plain / 10, "{compressed} instead of {plain}");
}

#[test]
fn differences_go_by_the_one_that_waits_where_files_shall_not_be_sent_whole() {
    let field = Field::new(stock());
    let agent = configured(&field, "whole_file: never, compress: never");
    let mut content: Vec<u8> =
        (0..700_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(field.ground.at("d/large"), &content).unwrap();
    field.ground.wait_equal(&agent);
    field.warm_up(&agent);
    let before = field.link();
    content[350_000] ^= 1;
    fs::write(field.ground.at("d/large"), &content).unwrap();
    field.ground.wait_equal(&agent);
    until("its numbers", PATIENCE, &agent, || field.count("warm_runs") > before["warm_runs"].as_u64().unwrap());
    let sent = field.count("bytes_sent") - before["bytes_sent"].as_u64().unwrap();
    assert!(sent < 100_000, "{sent} bytes");
    no_failure(&agent, &field);
}
