//! A local target under a running agent: plain files arrive without rsync, deletes pass the guard all the same, and what
//! goes wrong is told in rsync's words and made good.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::compare::{differences, wait_until_equal};
use crate::faults::SmallDisk;
use crate::ground::{Ground, PATIENCE, holds_text, trickle, until};

/// A live agent that tells which way everything goes, with the first comparison behind it.
fn agent(ground: &Ground, target: &Path, options: &[&str]) -> Agent {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("mirror").arg(&ground.source).arg(target).arg("--state").arg(ground.place.join("state"));
    command.args(options).env("FANSYNC_LOG", "debug").env("FANSYNC_TEST_HASTE", "20");
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
    agent
}

/// Runs of rsync so far.
fn by_rsync(agent: &Agent) -> usize {
    agent.log().matches("rsync ended").count()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Waits until not even the root's own attributes are missing, which come last.
fn wait_all(ground: &Ground, agent: &Agent) {
    let of = |path: &Path| fs::metadata(path).map(|found| (found.mode(), found.mtime(), found.mtime_nsec())).ok();
    ground.wait_equal(agent);
    until("the root's attributes", PATIENCE, agent, || of(&ground.source) == of(&ground.target));
    ground.wait_equal(agent);
}

#[test]
fn single_changes_arrive_without_rsync_and_faster_than_it_could() {
    let ground = Ground::new();
    fs::create_dir_all(ground.at("a/b/c")).unwrap();
    for number in 0..8 {
        fs::write(ground.at(&format!("a/b/{number}")), "old").unwrap();
    }
    let mut agent = agent(&ground, &ground.target, &[]);
    wait_all(&ground, &agent);
    let before = by_rsync(&agent);

    let took = trickle(&agent, &ground.at("a/b/c"), &ground.there("a/b/c"), "new", 40);
    println!("local target: p50 {:?}, max {:?}", took[20], took[39]);
    fs::write(ground.at("a/b/0"), "new").unwrap();
    wait_all(&ground, &agent);
    fs::set_permissions(ground.at("a/b/1"), Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(ground.at("a/b"), Permissions::from_mode(0o750)).unwrap();
    fs::remove_file(ground.at("a/b/2")).unwrap();
    wait_all(&ground, &agent);
    fs::rename(ground.at("a/b/3"), ground.at("a/other")).unwrap();
    fs::rename(ground.at("a/b/4"), ground.at("a/b/5")).unwrap();
    symlink("../b", ground.at("a/b/link")).unwrap();
    wait_all(&ground, &agent);
    fs::remove_file(ground.at("a/b/link")).unwrap();
    symlink("elsewhere", ground.at("a/b/link")).unwrap();
    fs::write(ground.at("top"), "in the root").unwrap();
    wait_all(&ground, &agent);

    assert_eq!(by_rsync(&agent), before, "{}", agent.last_log_lines(60));
    assert!(agent.log().contains("done without rsync"));
    // rsync waits 20 ms at least for its own child.
    assert!(took[20] < Duration::from_millis(20), "{took:?}");
    assert!(agent.terminate().success());
    assert_eq!(differences(&ground.source, &ground.target, 10), Vec::<String>::new());
}

#[test]
fn whoever_names_a_program_or_says_so_gets_everything_by_rsync() {
    let ground = Ground::new();
    let program = ground.place.join("wrapper");
    fs::write(&program, "#!/bin/sh\nexec rsync \"$@\"\n").unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut agent = agent(&ground, &ground.target, &["--rsync", program.to_str().unwrap()]);
    let before = by_rsync(&agent);
    fs::write(ground.at("f"), "f").unwrap();
    wait_all(&ground, &agent);
    assert!(by_rsync(&agent) > before);
    assert!(!agent.log().contains("done without rsync"));
    assert!(agent.terminate().success());
}

#[test]
fn a_full_target_is_told_and_made_good() {
    let ground = Ground::new();
    let Some(disk) = SmallDisk::mount(&ground.place.join("disk")) else { return };
    let target = ground.place.join("disk/target");
    fs::create_dir(&target).unwrap();
    let mut agent = agent(&ground, &target, &[]);
    disk.fill();
    fs::write(ground.at("large"), vec![b'x'; 1 << 20]).unwrap();
    until("word of the full target", PATIENCE, &agent, || agent.log().contains("target_full"));
    assert!(!target.join("large").exists());
    disk.free();
    let equal = wait_until_equal(&ground.source, &target, PATIENCE, Duration::from_millis(20));
    assert!(equal.is_ok(), "{equal:?}\n{}", agent.last_log_lines(40));
    assert!(agent.terminate().success());
}

#[test]
fn a_target_that_cannot_be_written_is_told_and_made_good() {
    let ground = Ground::new();
    let Some(_disk) = SmallDisk::mount(&ground.place.join("disk")) else { return };
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        let done = Command::new("mount").args(["-o", &options]).arg(ground.place.join("disk")).status();
        assert!(done.unwrap().success());
    };
    let target = ground.place.join("disk/target");
    fs::create_dir(&target).unwrap();
    fs::write(ground.at("gone"), "old").unwrap();
    let mut agent = agent(&ground, &target, &[]);
    remount("ro");
    fs::write(ground.at("f"), "f").unwrap();
    fs::remove_file(ground.at("gone")).unwrap();
    until("word of it", PATIENCE, &agent, || agent.log().contains("Read-only file system"));
    assert!(target.join("gone").exists() && !target.join("f").exists());
    remount("rw");
    let equal = wait_until_equal(&ground.source, &target, PATIENCE, Duration::from_millis(20));
    assert!(equal.is_ok(), "{equal:?}\n{}", agent.last_log_lines(40));
    assert!(agent.terminate().success());
}

#[test]
fn what_the_configured_path_means_now_is_written_to() {
    let ground = Ground::new();
    fs::create_dir(ground.at("d")).unwrap();
    fs::write(ground.at("d/old"), "old").unwrap();
    let mut agent = agent(&ground, &ground.target, &[]);
    wait_all(&ground, &agent);
    let moved = ground.place.join("moved");
    fs::rename(&ground.target, &moved).unwrap();
    fs::create_dir(&ground.target).unwrap();
    fs::write(ground.at("d/new"), "new").unwrap();
    fs::remove_file(ground.at("d/old")).unwrap();
    until("the file", PATIENCE, &agent, || holds_text(&ground.there("d/new"), "new"));
    ground.wait_equal(&agent);
    assert!(!moved.join("d/new").exists() && moved.join("d/old").exists());
    assert!(agent.terminate().success());
}

#[test]
fn an_agent_that_is_killed_leaves_nothing_that_does_not_go_away() {
    let ground = Ground::new();
    fs::create_dir(ground.at("d")).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..4_u8 {
        let mut agent = agent(&ground, &ground.target, &[]);
        for number in 0..20 {
            fs::write(ground.at(&format!("d/{number}")), vec![round; 2 << 20]).unwrap();
        }
        std::thread::park_timeout(Duration::from_millis(rng.u64(..150)));
        agent.kill();
    }
    let mut agent = agent(&ground, &ground.target, &[]);
    wait_all(&ground, &agent);
    assert!(agent.terminate().success());
}

#[test]
fn a_mass_delete_is_held_and_single_ones_count() {
    let ground = Ground::new();
    for number in 0..40 {
        fs::write(ground.at(&format!("{number}")), "").unwrap();
    }
    let mut agent = agent(&ground, &ground.target, &["--hold-over", "6"]);
    wait_all(&ground, &agent);
    let count = || fs::read_dir(&ground.target).unwrap().count();
    let before = by_rsync(&agent);
    for number in 0..4 {
        fs::remove_file(ground.at(&format!("{number}"))).unwrap();
    }
    until("the deletes", PATIENCE, &agent, || count() == 36);
    assert_eq!(by_rsync(&agent), before, "{}", agent.last_log_lines(40));
    // Four of six are used up. A name that the target never had is no delete, whatever the guard says.
    for number in 4..10 {
        fs::remove_file(ground.at(&format!("{number}"))).unwrap();
    }
    until("word of held deletes", PATIENCE, &agent, || agent.log().contains("deletes held"));
    fs::write(ground.at("marker"), "x").unwrap();
    until("the marker", PATIENCE, &agent, || ground.there("marker").exists());
    assert!(count() >= 35, "{} are left", count());
    let mut approve = Command::new(env!("CARGO_BIN_EXE_fansync"));
    let approved = approve.arg("approve").arg("--state").arg(ground.place.join("state")).output().unwrap();
    assert!(approved.status.success());
    wait_all(&ground, &agent);
    assert!(agent.terminate().success());
}

#[test]
fn a_target_that_keeps_loses_nothing() {
    let ground = Ground::new();
    for name in ["gone", "stays"] {
        fs::write(ground.at(name), "old").unwrap();
    }
    let mut agent = agent(&ground, &ground.target, &["--delete", "keep"]);
    fs::remove_file(ground.at("gone")).unwrap();
    fs::write(ground.at("stays"), "new").unwrap();
    until("the change", PATIENCE, &agent, || holds_text(&ground.there("stays"), "new"));
    assert!(ground.there("gone").exists());
    assert!(agent.terminate().success());
    assert!(ground.there("gone").exists());
}

/// Owners, groups and setgid bits as rsync gives them for somebody who is not root.
#[test]
fn an_agent_without_privileges_gives_what_rsync_gives() {
    let as_nobody = ["--reuid", "65534", "--regid", "65534", "--groups", "4321"];
    if !is_root() || !Command::new("setpriv").args(as_nobody).arg("true").status().is_ok_and(|status| status.success())
    {
        eprintln!("skipped: this user may not run anything as nobody");
        return;
    }
    let ground = Ground::new();
    let by_rsync = ground.place.join("by-rsync");
    let state = ground.place.join("state");
    for directory in [&by_rsync, &state] {
        fs::create_dir(directory).unwrap();
    }
    for directory in [&by_rsync, &state, &ground.source, &ground.target] {
        chown(directory, Some(65_534), Some(65_534)).unwrap();
    }
    let program = ground.place.join("program");
    fs::copy(env!("CARGO_BIN_EXE_fansync"), &program).unwrap();
    fs::set_permissions(&ground.place, Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(as_nobody).arg(&program).arg("mirror").arg(&ground.source).arg(&ground.target);
    command.arg("--state").arg(&state).args(["--watch", "inotify"]).env("FANSYNC_LOG", "debug");
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));

    let make = |name: &str, user: u32, group: u32, mode: u32| {
        let outside = ground.place.join(name);
        fs::write(&outside, name).unwrap();
        chown(&outside, Some(user), Some(group)).unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(mode)).unwrap();
        fs::rename(outside, ground.at(name)).unwrap();
    };
    for (number, user) in [0, 65_534].into_iter().enumerate() {
        for group in [0, 65_534, 4_321, 5_555] {
            for mode in [0o644, 0o2755, 0o4755, 0o6711, 0o444] {
                // What cannot be read would fail.
                make(&format!("{number}-{group}-{mode:o}"), user, group, mode | 0o444);
            }
        }
    }
    let there = || fs::read_dir(&ground.target).map_or(0, Iterator::count);
    until("all files", PATIENCE, &agent, || there() == 40);
    let mut rsync = Command::new("setpriv");
    let copied = rsync.args(as_nobody).args(["rsync", "-a"]).arg(ground.at("")).arg(by_rsync.join("")).status();
    assert!(copied.unwrap().success());
    let began = Instant::now();
    loop {
        let found = differences(&by_rsync, &ground.target, 50);
        if found.is_empty() {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{found:?}\n{}", agent.last_log_lines(20));
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let log = agent.log();
    let done = log.lines().filter(|line| line.contains("done without rsync") && !line.contains("done=0"));
    assert!(done.count() > 0, "{log}");
    assert!(agent.terminate().success());
}
