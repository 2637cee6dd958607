//! Targets that are reached by ssh: what arrives, what is told of failures, and that the connection is shared and never left
//! behind.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use fansync::worker::cause::Cause;

use crate::agent::Agent;
use crate::failures::{Field, RARELY};
use crate::ground::{Ground, PATIENCE, descendants, still_there, trickle, until};
use crate::sshd::Sshd;

/// The connections that the agent keeps: process id and start time.
fn connections(agent: &Agent) -> BTreeMap<i32, u64> {
    let mut found = descendants(agent.id());
    found.retain(|pid, _| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"ssh\0") && line.split(|byte| *byte == 0).any(|word| word == b"ControlMaster=yes")
    });
    found
}

/// Waits until a connection serves.
fn connected(agent: &Agent, ground: &Ground) {
    until("shared connection", PATIENCE, agent, || {
        fs::read_dir(ground.place.join("state/ssh")).is_ok_and(|sockets| sockets.count() > 0)
    });
}

#[test]
fn targets_on_one_host_converge_by_one_connection_which_ends_with_the_agent() {
    let ground = Ground::new();
    let sshd = Sshd::start(&ground.place);
    let other = ground.place.join("a b'c\"d;$e");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("extra"), "").unwrap();
    let names: [&[u8]; 10] =
        [b"new\nline", b"q\"'", b" sp ", b"-dash", b"\xff\xfe", b"$(x)`y`", b"*?[a]", b"a;b|c>d", b"#h", b"\\#012"];
    for name in names {
        let directory = ground.source.join("d").join(OsStr::from_bytes(name));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let mut agent = sshd.agent(&ground.source, &[&ground.target, &other], &ground.place);
    connected(&agent, &ground);
    let equal = |agent: &Agent| {
        for target in [&ground.target, &other] {
            if let Err(found) =
                crate::compare::wait_until_equal(&ground.source, target, PATIENCE, Duration::from_millis(20))
            {
                panic!("not equal:\n{}\n{}", found.join("\n"), agent.last_log_lines(40));
            }
        }
    };
    equal(&agent);
    // Whatever began before the connection was there has ended.
    let before = sshd.logins();
    let took = trickle(&agent, &ground.source, &ground.target, "file", 10);
    for name in names {
        fs::remove_dir_all(ground.source.join("d").join(OsStr::from_bytes(name))).unwrap();
    }
    equal(&agent);
    assert_eq!(sshd.logins(), before, "all runs go by the connection that is there");
    println!("ssh: p50 {:?}, max {:?} of 10 files", took[5], took[9]);
    assert_eq!(connections(&agent).len(), 1, "two targets, six lanes");
    let children = descendants(agent.id());
    assert!(agent.terminate().success(), "{}", agent.last_log_lines(40));
    assert_eq!(still_there(&children), Vec::<i32>::new());
    assert_eq!(fs::read_dir(ground.place.join("state/ssh")).unwrap().count(), 0, "no socket is left");
}

#[test]
fn an_agent_that_is_killed_leaves_no_connection_and_the_next_one_makes_its_own() {
    let ground = Ground::new();
    let sshd = Sshd::start(&ground.place);
    let mut agent = sshd.agent(&ground.source, &[&ground.target], &ground.place);
    connected(&agent, &ground);
    let kept = connections(&agent);
    assert_eq!(kept.len(), 1);
    agent.kill();
    until("end of the connection", PATIENCE, &agent, || still_there(&kept).is_empty());
    fs::write(ground.at("late"), "late").unwrap();
    let mut agent = sshd.agent(&ground.source, &[&ground.target], &ground.place);
    ground.wait_equal(&agent);
    until("connection of the next agent", PATIENCE, &agent, || connections(&agent).len() == 1);
    assert!(agent.terminate().success());
}

#[test]
fn a_server_that_is_started_again_gets_all_and_a_new_connection() {
    let ground = Ground::new();
    let mut sshd = Sshd::start(&ground.place);
    let mut agent = sshd.agent(&ground.source, &[&ground.target], &ground.place);
    connected(&agent, &ground);
    let kept = connections(&agent);
    sshd.restart();
    fs::write(ground.at("after"), "after").unwrap();
    ground.wait_equal(&agent);
    until("new connection", PATIENCE, &agent, || still_there(&kept).is_empty() && connections(&agent).len() == 1);
    assert!(agent.terminate().success(), "{}", agent.last_log_lines(40));
}

/// The target fails in a way that is told with its `words`, until it is `mended`.
fn fails(wrong: impl Fn(&Sshd), cause: Cause, words: &str, mended: impl Fn(&Sshd)) {
    let mut field = Field::new();
    let sshd = Sshd::start(&field.ground.place);
    field.keys = sshd.keys();
    wrong(&sshd);
    let mut agent = field.agent(&Sshd::url(&field.bad));
    field.suffers(&agent, cause, words, RARELY);
    let in_vain = matches!(cause, Cause::SshDenied | Cause::HostKeyUnknown | Cause::HostKeyChanged);
    assert!(!in_vain || connections(&agent).is_empty(), "nothing but the probes knocks at it");
    mended(&sshd);
    field.heals(&mut agent);
}

#[test]
fn a_key_that_is_not_taken_is_told_of_and_works_once_it_is() {
    fails(Sshd::takes_no_key, Cause::SshDenied, "Permission denied (publickey", |sshd| sshd.takes_our_key(None));
}

#[test]
fn a_host_that_is_not_known_is_told_of_and_is_reached_once_it_is() {
    fails(Sshd::is_not_known, Cause::HostKeyUnknown, "Host key verification failed", |sshd| sshd.is_known_by("host"));
}

#[test]
fn a_host_with_another_key_is_told_of_and_is_reached_with_the_right_one() {
    let words = "has changed and you have requested strict checking";
    fails(|sshd| sshd.is_known_by("id"), Cause::HostKeyChanged, words, |sshd| sshd.is_known_by("host"));
}

#[test]
fn a_host_without_rsync_is_told_of_and_catches_up_when_it_has_it() {
    let without = |sshd: &Sshd| sshd.takes_our_key(Some("PATH=/nowhere; $SSH_ORIGINAL_COMMAND"));
    fails(without, Cause::RemoteRsyncMissing, "not found", |sshd| sshd.takes_our_key(None));
}

#[test]
fn a_noisy_login_is_told_of_and_catches_up_when_it_is_silent() {
    let noisy = |sshd: &Sshd| sshd.takes_our_key(Some("echo Welcome; exec $SSH_ORIGINAL_COMMAND"));
    fails(noisy, Cause::LoginNoise, "is your shell clean?", |sshd| sshd.takes_our_key(None));
}

#[test]
fn a_server_that_is_away_is_told_of_and_catches_up_when_it_is_back() {
    let mut field = Field::new();
    let mut sshd = Sshd::start(&field.ground.place);
    field.keys = sshd.keys();
    let mut agent = field.agent(&Sshd::url(&field.bad));
    field.is_well(&agent);
    sshd.end();
    field.suffers(&agent, Cause::SshUnreachable, "Connection refused", 1..=14);
    sshd.restart();
    field.heals(&mut agent);
}

#[test]
fn a_path_that_is_not_absolute_lies_in_the_home_directory() {
    let home = std::path::PathBuf::from(std::env::var_os("HOME").expect("a user has a home directory"));
    let Ok(place) = tempfile::Builder::new().prefix("fansync-test.").tempdir_in(&home) else {
        eprintln!("skipped: the home directory cannot be written");
        return;
    };
    let mut field = Field::new();
    let sshd = Sshd::start(&field.ground.place);
    field.keys = sshd.keys();
    field.bad = place.path().canonicalize().unwrap();
    let relative = field.bad.strip_prefix(home.canonicalize().unwrap()).unwrap().display().to_string();
    let mut agent = field.agent(&format!("127.0.0.1:{relative}"));
    field.is_well(&agent);
    fs::write(field.ground.at("d/other"), "x").unwrap();
    field.heals(&mut agent);
}
