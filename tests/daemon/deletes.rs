//! What nobody meant must not be deleted: a root that is not what it was holds everything, a mass delete waits to be
//! approved, and `--delete keep` deletes nothing at all.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::compare::Snapshot;
use crate::ground::{Ground, PATIENCE, until};

const HELD: &str = "held: the root is not what it was";
const BACK: &str = "the root is back";
const COMPARED: &str = "everything is compared";

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().expect("it can be started");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
}

/// An ext4 file system in a file, on a loop device of its own.
struct Image {
    device: OsString,
    points: Vec<PathBuf>,
}

impl Image {
    /// `None`, aloud, where that is not allowed.
    fn new(place: &Path) -> Option<Self> {
        let file = place.join("image");
        fs::File::create(&file).unwrap().set_len(24 << 20).unwrap();
        let made = succeeds(Command::new("mkfs.ext4").arg("-q").arg(&file));
        let looped = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        match looped {
            Ok(output) if made && output.status.success() => {
                let device = String::from_utf8(output.stdout).unwrap().trim().to_owned().into();
                Some(Self { device, points: Vec::new() })
            }
            _ => {
                eprintln!("skipped: no loop device with ext4 can be made here");
                None
            }
        }
    }

    fn mount(&mut self, point: &Path) -> bool {
        self.points.push(point.to_owned());
        let mounted = succeeds(Command::new("mount").arg(&self.device).arg(point));
        if !mounted {
            eprintln!("skipped: mounting is not allowed here");
        }
        mounted
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        for point in &self.points {
            while succeeds(Command::new("umount").arg("-l").arg(point)) {}
        }
        succeeds(Command::new("losetup").arg("--detach").arg(&self.device));
    }
}

/// Writes, rewrites and deletes by path for as long as it lives, whatever the path leads to.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(directory: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for number in 0_u64.. {
                if theirs.load(Ordering::Relaxed) {
                    return;
                }
                let _where_it_leads = fs::write(directory.join(format!("{}", number % 50)), format!("{number}"));
                let _where_it_leads = fs::remove_file(directory.join(format!("{}", (number + 7) % 50)));
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer does not panic");
        }
    }
}

fn fansync(ground: &Ground, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.args(arguments).arg("--state").arg(ground.place.join("state"));
    command.output().expect("it can be started")
}

fn status(ground: &Ground) -> serde_json::Value {
    let output = fansync(ground, &["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Names and contents of what must stay.
fn protected(ground: &Ground) -> Snapshot {
    Snapshot::take(&ground.there("protected"))
}

/// Files in `directories` directories beneath `name`.
fn fill(ground: &Ground, name: &str, directories: usize, files: usize) {
    for directory in 0..directories {
        let at = ground.at(&format!("{name}/{directory}"));
        fs::create_dir_all(&at).unwrap();
        for file in 0..files {
            fs::write(at.join(format!("{file}")), format!("{directory} {file}")).unwrap();
        }
    }
}

fn count(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { 1 + count(&entry.path()) } else { 1 }).sum()
}

/// The root goes away and comes back while a writer goes on: nothing is deleted meanwhile, and then it goes on.
fn goes_and_comes_back(ground: &Ground, cause: &str, options: &[&str], go: &mut dyn FnMut(), back: &mut dyn FnMut()) {
    fill(ground, "protected", 5, 20);
    fs::create_dir(ground.at("load")).unwrap();
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], options);
    ground.wait_equal(&agent);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    let before = protected(ground);
    let writer = Writer::start(ground.at("load"));
    until("load on the target", PATIENCE, &agent, || count(&ground.there("load")) > 5);

    go();
    let cause_said = format!("cause=\"{cause}\"");
    until("word of being held", PATIENCE, &agent, || agent.log().contains(&cause_said));
    let said = status(ground);
    assert_eq!((&said["roots"][0]["state"], &said["roots"][0]["held"]["cause"]), (&"held".into(), &cause.into()));
    // Long enough for a look or two of its own.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(before.differences(&protected(ground), 10), Vec::<String>::new());
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert!(agent.log().contains(HELD));

    back();
    until("word of the root's return", PATIENCE, &agent, || agent.log().contains(BACK));
    drop(writer);
    fs::write(ground.at("after"), "back").unwrap();
    ground.wait_equal(&agent);
    assert_eq!(before.differences(&protected(ground), 10), Vec::<String>::new());
    assert!(agent.terminate().success());
}

#[test]
fn a_root_that_is_unmounted_lazily_deletes_nothing_and_goes_on_when_it_is_mounted_again() {
    let ground = Ground::new();
    let Some(mut image) = Image::new(&ground.place) else { return };
    if !image.mount(&ground.source) {
        return;
    }
    fs::remove_dir(ground.at("lost+found")).unwrap();
    let source = ground.source.as_os_str();
    let device = image.device.clone();
    let mut unmount = || {
        assert!(!succeeds(Command::new("umount").arg(source)), "a plain umount is refused: the agent holds the root");
        run("umount", &["-l".as_ref(), source]);
    };
    goes_and_comes_back(&ground, "root_unmounted", &[], &mut unmount, &mut || run("mount", &[&device, source]));
}

#[test]
fn a_root_that_another_file_system_covers_deletes_nothing_and_goes_on_when_it_is_seen_again() {
    let ground = Ground::new();
    let Some(mut image) = Image::new(&ground.place) else { return };
    let source = ground.source.clone();
    let mut cover = || assert!(image.mount(&source));
    if !succeeds(Command::new("unshare").args(["--mount", "true"])) {
        eprintln!("skipped: mounting is not allowed here");
        return;
    }
    let mut uncover = || run("umount", &["-l".as_ref(), source.as_os_str()]);
    goes_and_comes_back(&ground, "root_covered", &[], &mut cover, &mut uncover);
}

#[test]
fn a_root_that_is_replaced_deletes_nothing_and_goes_on_when_it_has_its_name_again() {
    let ground = Ground::new();
    let away = ground.place.join("away");
    let mut replace = || {
        fs::rename(&ground.source, &away).unwrap();
        fs::create_dir_all(ground.at("load")).unwrap();
    };
    let mut back = || {
        // The writer may write into it meanwhile.
        fs::rename(&ground.source, ground.place.join("replacement")).unwrap();
        fs::rename(&away, &ground.source).unwrap();
    };
    goes_and_comes_back(&ground, "root_replaced", &[], &mut replace, &mut back);
}

#[test]
fn a_root_that_is_missing_deletes_nothing_and_goes_on_when_it_is_there_again() {
    let ground = Ground::new();
    let away = ground.place.join("away");
    let mut go = || fs::rename(&ground.source, &away).unwrap();
    let mut back = || fs::rename(&away, &ground.source).unwrap();
    goes_and_comes_back(&ground, "root_missing", &[], &mut go, &mut back);
}

#[test]
fn a_root_whose_entries_all_left_at_once_deletes_nothing_more_and_goes_on_when_it_has_some_again() {
    let ground = Ground::new();
    let away = ground.place.join("away");
    fs::create_dir(&away).unwrap();
    // Held from the first name on, so that what left before the root was empty stays too.
    let options = ["--hold-over", "0"];
    let go = || {
        for name in ["protected", "load"] {
            fs::rename(ground.at(name), away.join(name)).unwrap();
        }
    };
    let back = || {
        for name in ["protected", "load"] {
            fs::rename(away.join(name), ground.at(name)).unwrap();
        }
    };
    fill(&ground, "protected", 5, 20);
    fs::create_dir(ground.at("load")).unwrap();
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &options);
    ground.wait_equal(&agent);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    let before = protected(&ground);
    go();
    until("word of being held", PATIENCE, &agent, || agent.log().contains("cause=\"root_emptied\""));
    assert_eq!(before.differences(&protected(&ground), 10), Vec::<String>::new());
    back();
    until("word of the root's return", PATIENCE, &agent, || agent.log().contains(BACK));
    fs::write(ground.at("after"), "back").unwrap();
    ground.wait_equal(&agent);
    assert!(agent.terminate().success());
}

#[test]
fn a_file_system_in_the_root_that_is_unmounted_holds_the_root_until_it_is_back_or_approved() {
    let ground = Ground::new();
    let Some(mut image) = Image::new(&ground.place) else { return };
    let volume = ground.at("volume with blanks");
    fs::create_dir(&volume).unwrap();
    if !image.mount(&volume) {
        return;
    }
    fs::remove_dir(volume.join("lost+found")).unwrap();
    fs::create_dir(volume.join("d")).unwrap();
    for number in 0..50 {
        fs::write(volume.join(format!("d/{number}")), "precious").unwrap();
    }
    fs::write(ground.at("file"), "").unwrap();
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &["--cross-file-systems", "--watch", "inotify"]);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    ground.wait_equal(&agent);
    let unmount = || run("umount", &["-l".as_ref(), volume.as_os_str()]);
    let there = || count(&ground.there("volume with blanks"));
    unmount();
    until("word of being held", PATIENCE, &agent, || agent.log().contains("cause=\"root_unmounted\""));
    assert!(fansync(&ground, &["rescan"]).status.success());
    assert_eq!(there(), 51);
    run("mount", &[&image.device, volume.as_os_str()]);
    until("word of the root's return", PATIENCE, &agent, || agent.log().contains(BACK));
    ground.wait_equal(&agent);
    assert_eq!(there(), 51);

    unmount();
    until("word of being held", PATIENCE, &agent, || agent.log().matches("cause=\"root_unmounted\"").count() == 2);
    assert!(fansync(&ground, &["approve"]).status.success());
    assert!(fansync(&ground, &["rescan"]).status.success());
    until("the deletes", PATIENCE, &agent, || there() == 0);
    assert!(agent.terminate().success());
}

#[test]
fn an_agent_that_was_started_without_its_file_system_ends_when_it_is_mounted() {
    let ground = Ground::new();
    let Some(mut image) = Image::new(&ground.place) else { return };
    if !image.mount(&ground.source) {
        return;
    }
    fill(&ground, "d", 3, 10);
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    ground.wait_equal(&agent);
    assert!(agent.terminate().success());
    let before = Snapshot::take(&ground.target);
    let source = ground.source.as_os_str();
    run("umount", &[source]);

    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("word of being held", PATIENCE, &agent, || agent.log().contains("cause=\"root_emptied\""));
    run("mount", &[&image.device, source]);
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = agent.ended() {
            break ended;
        }
        assert!(began.elapsed() < PATIENCE, "{}", agent.last_log_lines(20));
        std::thread::park_timeout(Duration::from_millis(10));
    };
    assert_eq!(ended.code(), Some(1));
    assert!(agent.log().contains("start fansync again"), "{}", agent.last_log_lines(20));
    assert_eq!(before.differences(&Snapshot::take(&ground.target), 10), Vec::<String>::new());
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    fs::write(ground.at("after"), "").unwrap();
    ground.wait_equal(&agent);
    assert!(agent.terminate().success());
}

/// A live agent of another user.
fn agent_of_nobody(ground: &Ground, target: &str) -> Option<Agent> {
    let program = ground.place.join("fansync");
    fs::copy(env!("CARGO_BIN_EXE_fansync"), &program).unwrap();
    for path in [&ground.place, &program] {
        fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let mut command = Command::new(&program);
    command.arg("mirror").arg(&ground.source).arg(target).arg("--state").arg(ground.place.join("state"));
    command.args(["--watch", "inotify"]).uid(65_534).gid(65_534);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start an agent of another user");
        return None;
    }
    let mut agent = Agent::spawn(command, &ground.place);
    agent.wait_ready();
    Some(agent)
}

#[test]
fn what_cannot_be_read_is_not_deleted() {
    let ground = Ground::new();
    fill(&ground, "protected", 5, 20);
    let daemon = ground.daemon();
    let Some(mut agent) = agent_of_nobody(&ground, &daemon.url()) else { return };
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    let before = protected(&ground);
    assert_eq!(count(&ground.there("protected")), 105);

    // The root, and then a directory in it.
    fs::set_permissions(&ground.source, PermissionsExt::from_mode(0o000)).unwrap();
    until("word of being held", PATIENCE, &agent, || agent.log().contains("cause=\"root_unreadable\""));
    fs::remove_file(ground.at("protected/0/0")).unwrap();
    fs::write(ground.at("protected/0/0"), "0 0").unwrap();
    assert_eq!(before.differences(&protected(&ground), 10), Vec::<String>::new());
    fs::set_permissions(&ground.source, PermissionsExt::from_mode(0o755)).unwrap();
    until("word of the root's return", PATIENCE, &agent, || agent.log().contains(BACK));

    fs::set_permissions(ground.at("protected/1"), PermissionsExt::from_mode(0o000)).unwrap();
    fs::write(ground.at("protected/marker"), "").unwrap();
    until("the other change", PATIENCE, &agent, || ground.there("protected/marker").exists());
    assert!(fansync(&ground, &["rescan"]).status.success());
    until("a failed path", PATIENCE, &agent, || agent.log().contains("path failed"));
    assert_eq!(count(&ground.there("protected/1")), 20, "they are there and cannot be read");
    fs::set_permissions(ground.at("protected/1"), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(agent.terminate().success());
}

fn held_paths(ground: &Ground) -> u64 {
    status(ground)["roots"][0]["targets"][0]["held_deletes"]["paths"].as_u64().unwrap_or(0)
}

#[test]
fn a_mass_delete_is_held_while_other_changes_flow_and_goes_when_it_is_approved() {
    let ground = Ground::new();
    fill(&ground, "one", 1, 2_000);
    fill(&ground, "spread", 100, 20);
    fs::create_dir(ground.at("other")).unwrap();
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    ground.wait_equal(&agent);

    fs::remove_dir_all(ground.at("one")).unwrap();
    fs::remove_dir_all(ground.at("spread")).unwrap();
    until("word of held deletes", PATIENCE, &agent, || agent.log().contains("deletes held"));
    for number in 0..20 {
        fs::write(ground.at(&format!("other/{number}")), "flows").unwrap();
    }
    until("the other changes", PATIENCE, &agent, || count(&ground.there("other")) == 20);
    until("all that is held", PATIENCE, &agent, || held_paths(&ground) >= 3_000);
    assert!(count(&ground.target) >= 3_000, "{} are left", count(&ground.target));
    assert_eq!(agent.log().matches("deletes held").count(), 1, "said once");
    assert_eq!(fansync(&ground, &["status"]).status.code(), Some(3));

    assert!(fansync(&ground, &["approve"]).status.success());
    ground.wait_equal(&agent);
    until("nothing held", PATIENCE, &agent, || held_paths(&ground) == 0);
    assert!(agent.terminate().success());
}

#[test]
fn a_directory_that_was_moved_out_is_held_as_a_whole_also_over_a_death_of_the_agent() {
    let ground = Ground::new();
    fill(&ground, "d", 20, 100);
    fs::write(ground.at("other"), "").unwrap();
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    ground.wait_equal(&agent);
    let before = Snapshot::take(&ground.there("d"));
    fs::rename(ground.at("d"), ground.place.join("out")).unwrap();
    until("held deletes", PATIENCE, &agent, || held_paths(&ground) >= 2_000);
    // Single deletes go all the same, a minute later; changes go now.
    fs::write(ground.at("other"), "changed").unwrap();
    until("the other change", PATIENCE, &agent, || fs::read(ground.there("other")).unwrap() == b"changed");
    let written = |ground: &Ground| status(ground)["roots"][0]["checkpoint"]["written"].as_f64().unwrap_or(0.0);
    let held_at = written(&ground);
    until("a checkpoint of that", PATIENCE, &agent, || written(&ground) > held_at);
    agent.kill();

    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    assert!(held_paths(&ground) >= 2_000);
    assert!(fansync(&ground, &["rescan"]).status.success());
    fs::write(ground.at("other"), "again").unwrap();
    until("the other change", PATIENCE, &agent, || fs::read(ground.there("other")).unwrap() == b"again");
    until("an end of the comparison", PATIENCE, &agent, || {
        status(&ground)["roots"][0]["targets"][0]["background"].as_u64() == Some(0)
    });
    assert_eq!(before.differences(&Snapshot::take(&ground.there("d")), 10), Vec::<String>::new(), "not one is gone");

    assert!(fansync(&ground, &["approve"]).status.success());
    until("the delete", PATIENCE, &agent, || !ground.there("d").exists());
    ground.wait_equal(&agent);
    assert!(agent.terminate().success());
}

#[test]
fn a_first_start_with_an_empty_source_empties_no_target() {
    let ground = Ground::new();
    for number in 0..30 {
        fs::write(ground.there(&format!("{number}")), "precious").unwrap();
    }
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    assert_eq!(count(&ground.target), 30);
    until("held deletes", PATIENCE, &agent, || held_paths(&ground) == 30);
    assert!(fansync(&ground, &["approve"]).status.success());
    until("the deletes", PATIENCE, &agent, || count(&ground.target) == 0);
    assert!(agent.terminate().success());
}

#[test]
fn a_start_with_a_root_that_had_entries_and_is_empty_now_deletes_nothing() {
    let ground = Ground::new();
    fill(&ground, "d", 3, 10);
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    ground.wait_equal(&agent);
    assert!(agent.terminate().success());
    fs::rename(ground.at("d"), ground.place.join("out")).unwrap();

    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("word of being held", PATIENCE, &agent, || agent.log().contains("cause=\"root_emptied\""));
    assert_eq!(count(&ground.target), 34);
    assert!(agent.terminate().success());

    // Nor does the next one forget.
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("word of being held", PATIENCE, &agent, || agent.log().contains("cause=\"root_emptied\""));
    assert_eq!(count(&ground.target), 34);
    assert!(fansync(&ground, &["approve"]).status.success());
    until("the deletes", PATIENCE, &agent, || count(&ground.target) == 0);
    assert!(agent.terminate().success());
}

#[test]
fn the_last_files_of_a_small_tree_are_deleted_one_by_one() {
    let ground = Ground::new();
    for number in 0..5 {
        fs::write(ground.at(&format!("{number}")), "").unwrap();
    }
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &[]);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    ground.wait_equal(&agent);
    for number in 0..5 {
        fs::remove_file(ground.at(&format!("{number}"))).unwrap();
        ground.wait_equal(&agent);
    }
    fs::create_dir_all(ground.at("d/e")).unwrap();
    fs::write(ground.at("d/e/f"), "").unwrap();
    ground.wait_equal(&agent);
    fs::remove_dir_all(ground.at("d")).unwrap();
    ground.wait_equal(&agent);
    assert!(agent.terminate().success());
}

#[test]
fn names_that_come_and_go_are_no_deletes() {
    let ground = Ground::new();
    fs::write(ground.at("stays"), "").unwrap();
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &["--hold-over", "20"]);
    ground.wait_equal(&agent);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    for round in 0..10 {
        for number in 0..30 {
            let name = ground.at(&format!("temporary-{round}-{number}"));
            fs::write(&name, "").unwrap();
            fs::remove_file(&name).unwrap();
        }
        let marker = format!("marker-{round}");
        fs::write(ground.at(&marker), "").unwrap();
        until(&marker, PATIENCE, &agent, || ground.there(&marker).exists());
    }
    fs::remove_file(ground.at("stays")).unwrap();
    ground.wait_equal(&agent);
    assert!(!agent.log().contains("deletes held"), "{}", agent.last_log_lines(20));
    assert!(agent.terminate().success());
}

#[test]
fn kept_targets_lose_nothing_and_a_change_of_type_that_would_need_it_is_told() {
    let ground = Ground::new();
    fill(&ground, "d", 2, 5);
    for name in ["file", "gone", "changed"] {
        fs::write(ground.at(name), name).unwrap();
    }
    fs::create_dir(ground.there("extra")).unwrap();
    fs::write(ground.there("extra/file"), "only here").unwrap();
    let daemon = ground.daemon();
    let local = ground.place.join("local");
    fs::create_dir_all(local.join("extra")).unwrap();
    fs::write(local.join("extra/file"), "only here").unwrap();
    let mut agent = ground.agent(&[daemon.url().into(), local.clone().into()], &["--delete", "keep"]);
    until("comparison", PATIENCE, &agent, || agent.log().matches(COMPARED).count() == 2);
    fs::remove_dir_all(ground.at("d/0")).unwrap();
    fs::remove_file(ground.at("gone")).unwrap();
    fs::rename(ground.at("changed"), ground.at("renamed")).unwrap();
    fs::remove_dir_all(ground.at("d/1")).unwrap();
    fs::write(ground.at("d/1"), "a file now").unwrap();
    assert!(fansync(&ground, &["rescan"]).status.success());
    until("word of what is in the way", PATIENCE, &agent, || agent.log().contains("d/1"));
    fs::write(ground.at("last"), "last").unwrap();
    for there in [&ground.target, &local] {
        until("the last change", PATIENCE, &agent, || there.join("last").exists() && there.join("renamed").exists());
    }
    until("an end of the comparison", PATIENCE, &agent, || {
        let said = status(&ground);
        let targets = said["roots"][0]["targets"].as_array().cloned().unwrap_or_default();
        targets.len() == 2 && targets.iter().all(|target| target["background"].as_u64() == Some(0))
    });
    for there in [&ground.target, &local] {
        for name in ["extra/file", "gone", "changed", "file"] {
            assert!(there.join(name).is_file(), "{name}");
        }
        assert_eq!((count(&there.join("d/0")), count(&there.join("d/1"))), (5, 5));
    }
    assert!(agent.log().contains("path failed"), "{}", agent.log());
    assert!(agent.terminate().success());
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let ground = Ground::new();
    fill(&ground, "d", 1, 3);
    fs::write(ground.at("new\nline"), "").unwrap();
    fs::write(ground.at("left.tmp"), "").unwrap();
    fs::create_dir(ground.there("extra")).unwrap();
    fs::write(ground.there("extra/file"), "").unwrap();
    fs::write(ground.there("kept.tmp"), "").unwrap();
    let daemon = ground.daemon();
    let before = (Snapshot::take(&ground.source), Snapshot::take(&ground.target));
    let dry_run = |target: &str, options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.arg("mirror").arg(&ground.source).arg(target).args(["--dry-run", "--filter", "- *.tmp"]).args(options);
        let output = command.arg("--state").arg(ground.place.join("state")).output().expect("it can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for target in [daemon.url(), ground.target.to_str().unwrap().to_owned()] {
        let (code, said, words) = dry_run(&target, &[]);
        assert_eq!(code, Some(0), "{said}{words}");
        for line in ["  delete      extra/file", "  send        d/0/1", "  create      d/0/", "4 to send, 2 to create"]
        {
            assert!(said.contains(line), "{line} is not in\n{said}");
        }
        assert!(said.contains("new\\nline") && said.contains(" 2 to delete\n") && !said.contains(".tmp"), "{said}");
        let (code, said, _) = dry_run(&target, &["--delete", "keep"]);
        assert_eq!((code, said.contains(" 0 to delete")), (Some(0), true), "{said}");
    }
    let (code, _, words) = dry_run(&daemon.url().replace("/mirror", "/none"), &[]);
    assert!(code == Some(1) && words.contains("Unknown module"), "{words}");
    assert_eq!(before.0.differences(&Snapshot::take(&ground.source), 10), Vec::<String>::new());
    assert_eq!(before.1.differences(&Snapshot::take(&ground.target), 10), Vec::<String>::new());
    assert!(!ground.place.join("state").exists());
}
