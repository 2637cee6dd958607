//! The kernel has no watch left: what cannot be watched is looked through now and then, and told of; when there are
//! watches again, it is watched.
//!
//! The limit is that of a user namespace of the agent's own, so that nobody else on this machine is concerned.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::agent::Agent;
use crate::ground::{Ground, PATIENCE, holds_text, until};

const LIMIT: &str = "/proc/sys/user/max_inotify_watches";

fn status(ground: &Ground) -> Option<(Option<i32>, Value)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.args(["status", "--json", "--state"]).arg(ground.place.join("state"));
    let output = command.output().expect("fansync can be run");
    Some((output.status.code(), serde_json::from_slice(&output.stdout).ok()?))
}

/// Sets the limit in the namespace that the agent runs in, from outside.
fn set_limit(agent: &Agent, limit: u32) {
    let pid = agent.id().to_string();
    let script = format!("echo {limit} > {LIMIT}");
    let set = Command::new("nsenter").args(["-U", "--preserve-credentials", "-t", &pid, "sh", "-c", &script]).status();
    assert!(set.is_ok_and(|status| status.success()), "the limit can be set from outside");
}

/// Whether user namespaces are to be had here, and a word about it if not.
fn has_namespaces() -> bool {
    let script = format!("echo 1000 > {LIMIT}");
    let tried = Command::new("unshare").args(["-Ur", "sh", "-c", &script]).status();
    let had = tried.is_ok_and(|status| status.success());
    if !had {
        eprintln!("skipped: no user namespace is to be had here");
    }
    had
}

/// A live agent in a user namespace whose limit is `limit`.
fn limited(ground: &Ground, limit: u32, options: &[&str], environment: &[(&str, &str)]) -> Agent {
    let mut command = Command::new("unshare");
    command.args(["-Ur", "sh", "-c", &format!("echo {limit} > {LIMIT}; exec \"$@\""), "sh"]);
    command.arg(env!("CARGO_BIN_EXE_fansync")).arg("mirror").arg(&ground.source).arg(&ground.target);
    command.arg("--state").arg(ground.place.join("state")).args(["--shards", "2", "--watch", "inotify"]).args(options);
    command.env("FANSYNC_TEST_SLACK_MS", "200").envs(environment.iter().copied());
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    agent
}

fn unwatched(ground: &Ground) -> u64 {
    let told = status(ground).map(|(_, told)| told).unwrap_or_default();
    told["roots"][0]["unwatched"].as_u64().unwrap_or(u64::MAX)
}

/// `to` directories of two levels from `from` on, with a file in each.
fn make(ground: &Ground, from: usize, to: usize) {
    for number in from..to {
        fs::create_dir_all(ground.at(&format!("{number}/deep"))).unwrap();
        fs::write(ground.at(&format!("{number}/deep/f")), "old").unwrap();
    }
}

#[test]
fn directories_without_a_watch_are_looked_through_until_they_have_one() {
    if !has_namespaces() {
        return;
    }
    let ground = Ground::new();
    make(&ground, 0, 40);
    let agent = limited(&ground, 30, &[], &[("FANSYNC_TEST_UNWATCHED_MS", "500")]);
    ground.wait_equal(&agent);

    let (code, told) = status(&ground).unwrap();
    assert_eq!(code, Some(3), "{told}");
    let unwatched = told["roots"][0]["unwatched"].as_u64().unwrap();
    assert!(unwatched >= 20, "{told}");
    assert_eq!(told["roots"][0]["degraded"][0]["reason"], "unwatched");
    let watermark = |told: &Value| told["roots"][0]["watermark"].as_f64();

    // Wherever it is, watched or not: changes, deletes and whole trees that are older than any watermark.
    fs::create_dir_all(ground.place.join("old tree/inner")).unwrap();
    fs::write(ground.place.join("old tree/inner/f"), "from outside").unwrap();
    for number in 0..40 {
        fs::write(ground.at(&format!("{number}/deep/f")), "new").unwrap();
        fs::write(ground.at(&format!("{number}/deep/g")), "also new").unwrap();
    }
    fs::rename(ground.place.join("old tree"), ground.at("39/deep/moved in")).unwrap();
    fs::remove_dir_all(ground.at("38/deep")).unwrap();
    ground.wait_equal(&agent);
    // The watermark does not stand still, nor does it run ahead of what was looked through.
    let before = watermark(&status(&ground).unwrap().1).unwrap();
    until("watermark", PATIENCE, &agent, || watermark(&status(&ground).unwrap().1).is_some_and(|now| now > before));

    set_limit(&agent, 1000);
    let healthy = || status(&ground).is_some_and(|(code, told)| code == Some(0) && told["roots"][0]["unwatched"] == 0);
    until("healthy again without a restart", PATIENCE, &agent, healthy);
    for number in 0..37 {
        let name = format!("{number}/deep/f");
        fs::write(ground.at(&name), "watched").unwrap();
    }
    until("last change", PATIENCE, &agent, || {
        (0..37).all(|number| holds_text(&ground.there(&format!("{number}/deep/f")), "watched"))
    });
    ground.wait_equal(&agent);
}

#[test]
fn watches_that_run_out_while_running_are_looked_for_by_ctime_and_had_again_without_a_restart() {
    if !has_namespaces() {
        return;
    }
    let ground = Ground::new();
    make(&ground, 0, 5);
    let agent = limited(&ground, 1000, &[], &[("FANSYNC_TEST_UNWATCHED_MS", "500")]);
    ground.wait_equal(&agent);
    assert_eq!(status(&ground).unwrap().0, Some(0));

    set_limit(&agent, 15);
    make(&ground, 5, 40);
    until("degraded", PATIENCE, &agent, || unwatched(&ground) >= 20);
    let (code, told) = status(&ground).unwrap();
    assert_eq!(code, Some(3), "{told}");
    let degraded = &told["roots"][0]["degraded"][0];
    assert_eq!(degraded["reason"], "unwatched");
    assert!(
        degraded["words"].as_str().is_some_and(|words| words.contains("user.max_inotify_watches is 15 and used up"))
    );
    assert!(agent.log().contains("degraded: cannot watch a directory"), "{}", agent.last_log_lines(20));
    ground.wait_equal(&agent);
    for number in 5..40 {
        fs::write(ground.at(&format!("{number}/deep/f")), "without a watch").unwrap();
        fs::create_dir(ground.at(&format!("{number}/deep/new"))).unwrap();
    }
    ground.wait_equal(&agent);

    set_limit(&agent, 1000);
    until("healthy again", PATIENCE, &agent, || status(&ground).is_some_and(|(code, _)| code == Some(0)));
    assert_eq!(unwatched(&ground), 0);
    assert!(
        agent.log().contains("no directory lacks a watch for this reason any more"),
        "{}",
        agent.last_log_lines(20)
    );
    make(&ground, 40, 45);
    ground.wait_equal(&agent);
}

/// With the usual pause of a minute this took a minute.
#[test]
fn a_limit_that_somebody_raises_is_noticed_long_before_the_next_look() {
    if !has_namespaces() {
        return;
    }
    let ground = Ground::new();
    make(&ground, 0, 20);
    let hour = [("FANSYNC_TEST_UNWATCHED_MS", "3600000")];
    let agent = limited(&ground, 12, &[], &hour);
    assert!(unwatched(&ground) > 0);
    set_limit(&agent, 1000);
    until("healthy again", PATIENCE, &agent, || unwatched(&ground) == 0);
    fs::write(ground.at("19/deep/f"), "watched").unwrap();
    ground.wait_equal(&agent);
}

#[test]
fn an_agent_that_may_raise_the_limit_does_so_when_watches_run_out() {
    if !has_namespaces() {
        return;
    }
    let ground = Ground::new();
    make(&ground, 0, 5);
    // What is of the whole machine is out of its reach: other tests have set it as they need it.
    let proc = ground.place.join("proc");
    fs::create_dir_all(proc.join("sys")).unwrap();
    std::os::unix::fs::symlink("/proc/sys/user", proc.join("sys/user")).unwrap();
    let environment = [("FANSYNC_TEST_UNWATCHED_MS", "3600000"), ("FANSYNC_TEST_PROC", proc.to_str().unwrap())];
    let agent = limited(&ground, 1000, &["--raise-limits"], &environment);
    // It did so at the start; others may lower it again.
    assert!(agent.log().contains("raised user.max_inotify_watches from 1000 to "), "{}", agent.last_log_lines(20));
    set_limit(&agent, 12);
    make(&ground, 5, 40);
    until("raised", PATIENCE, &agent, || {
        agent.log().contains("raised user.max_inotify_watches from 12 to 131072: all watches were taken")
    });
    ground.wait_equal(&agent);
    let (code, told) = status(&ground).unwrap();
    assert_eq!((code, &told["roots"][0]["unwatched"]), (Some(0), &0.into()), "{told}");
    assert!(!agent.log().contains("degraded"), "{}", agent.last_log_lines(20));
}

/// The limit is high, but the memory that watches may hold is not: 25 % of what this machine seems to have.
#[test]
fn watches_hold_no_more_than_their_part_of_the_memory() {
    let ground = Ground::new();
    make(&ground, 0, 40);
    let proc = ground.place.join("proc");
    fs::create_dir_all(proc.join("self")).unwrap();
    // 78 KiB: 15 watches of 1300 B.
    fs::write(proc.join("meminfo"), "MemTotal: 78 kB\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("mirror").arg(&ground.source).arg(&ground.target).arg("--state").arg(ground.place.join("state"));
    command.args(["--shards", "1", "--watch", "inotify"]).env("FANSYNC_TEST_PROC", &proc);
    command.env("FANSYNC_TEST_UNWATCHED_MS", "500").env("FANSYNC_TEST_SLACK_MS", "200");
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    ground.wait_equal(&agent);
    let (code, told) = status(&ground).unwrap();
    let root = &told["roots"][0];
    assert_eq!((code, &root["watched"]), (Some(3), &15.into()), "{told}");
    assert_eq!(root["degraded"][0]["reason"], "memory");
    assert!(
        root["degraded"][0]["words"].as_str().is_some_and(|words| words.contains("25 % of 78.0 KiB of RAM")),
        "{told}"
    );
    for number in 0..40 {
        fs::write(ground.at(&format!("{number}/deep/f")), "new").unwrap();
    }
    ground.wait_equal(&agent);
    // What goes makes room.
    for number in 0..39 {
        fs::remove_dir_all(ground.at(&number.to_string())).unwrap();
    }
    until("healthy again", PATIENCE, &agent, || status(&ground).is_some_and(|(code, _)| code == Some(0)));
    ground.wait_equal(&agent);
}

/// Watches are short, by what memory allows, and a mark needs none.
#[test]
fn a_root_with_more_directories_than_watches_is_watched_by_fanotify_where_that_is_possible() {
    let ground = Ground::new();
    make(&ground, 0, 40);
    let proc = ground.place.join("proc");
    fs::create_dir_all(proc.join("self")).unwrap();
    fs::write(proc.join("meminfo"), "MemTotal: 78 kB\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("mirror").arg(&ground.source).arg(&ground.target).arg("--state").arg(ground.place.join("state"));
    command.args(["--watch", "auto"]).env("FANSYNC_TEST_PROC", &proc);
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_live();
    if agent.log().contains("fanotify is not possible here") {
        eprintln!("skipped: {}", agent.last_log_lines(20));
        return;
    }
    let (code, told) = status(&ground).unwrap();
    assert_eq!((code, &told["roots"][0]["unwatched"]), (Some(0), &0.into()), "{told}");
    assert!(agent.log().contains("and only 15 watches are to be had"), "{}", agent.last_log_lines(20));
    fs::write(ground.at("39/deep/f"), "new").unwrap();
    ground.wait_equal(&agent);
}

#[test]
fn what_this_user_may_not_read_is_told_by_that_reason_until_it_may() {
    let as_nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    if !Command::new("setpriv").args(as_nobody).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may not run anything as nobody");
        return;
    }
    let ground = Ground::new();
    make(&ground, 0, 3);
    let allow = |path: &std::path::Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    allow(&ground.place, 0o755);
    allow(&ground.target, 0o777);
    allow(&ground.at("1/deep"), 0o700);
    let state = ground.place.join("state");
    fs::create_dir(&state).unwrap();
    allow(&state, 0o777);
    // The one of the build may lie where nobody may not go.
    let program = ground.place.join("program");
    fs::copy(env!("CARGO_BIN_EXE_fansync"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(as_nobody).arg(&program).arg("mirror").arg(&ground.source).arg(&ground.target);
    // Only a watch has to read a directory, and nobody may not have a mark anyway.
    command.arg("--state").arg(&state).args(["--watch", "inotify"]);
    command.env("FANSYNC_TEST_UNWATCHED_MS", "500").env("FANSYNC_TEST_HASTE", "20");
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    let degraded = || status(&ground).map(|(_, told)| told["roots"][0]["degraded"].clone()).unwrap_or_default();
    until("degraded", PATIENCE, &agent, || degraded()[0]["reason"] == "unreadable");
    assert_eq!(degraded()[0]["count"], 1);
    allow(&ground.at("1/deep"), 0o755);
    until("healthy again", PATIENCE, &agent, || degraded().as_array().is_some_and(Vec::is_empty));
    until("last file", PATIENCE, &agent, || holds_text(&ground.there("1/deep/f"), "old"));
}
