//! Large trees and long backlogs: what a restart asks for, what it costs beside a bare walk of the same tree, and what a
//! target that is away costs.
//!
//! Times are printed, and asserted only in the soak: other tests run beside these.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fansync::lab::{Daemon, DaemonOptions};
use fastrand::Rng;
use nix::sys::signal::Signal;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, StatxFlags, Timespec, Timestamps};

use crate::agent::{Agent, watch_key};
use crate::chaos::{INITIAL_ENTRIES, number, seeds};
use crate::churn::{Churn, set_modified};
use crate::compare::{Snapshot, differences, wait_until_equal};
use crate::ground::{Ground, until};
use crate::names::Names;

/// Of everything here: a debug build beside other tests compares 100,000 files in half a minute.
const PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(300);
const COMPARED: &str = "everything is compared";
/// Files of one directory, directories of one directory: 1,000 files in 111 directories beneath each top-level one.
const FAN: usize = 10;
/// Threads that build and walk: those of the machine that the limits are for.
const THREADS: usize = 2;
const CHANGES: usize = 100;
const RSS_MAX_KIB: u64 = 600 * 1024;

/// How far a test goes.
struct Scale {
    ground: Ground,
    /// Top-level directories.
    tops: usize,
    /// The agent's slack; `None`: the real one, 120 s.
    slack: Option<Duration>,
    /// How long a rescan may take, as a multiple of the bare walk.
    ratio_max: f64,
}

/// Runs `each` for all numbers below `count`, on [`THREADS`] threads.
fn side_by_side(count: usize, each: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    each(number);
                }
            });
        }
    });
}

const TREE_TIME: i64 = 1_600_000_000;

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
    Timestamps { last_access: time, last_modification: time }
}

fn make_directory(parent: BorrowedFd<'_>, name: &str) -> OwnedFd {
    rustix::fs::mkdirat(parent, name, Mode::from(0o755)).expect("the tree is new");
    rustix::fs::openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .expect("it was just made")
}

/// Small files, whose times and contents follow from their names.
fn fill_directory(directory: &OwnedFd, seed: usize) {
    for file in 0..FAN {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, format!("f{file}"), flags, Mode::from(0o644)).expect("it is new");
        let text = format!("{seed:08} {file}");
        let written = rustix::io::write(&fd, text.as_bytes()).expect("there is room");
        assert_eq!(written, text.len());
        rustix::fs::futimens(&fd, &times(TREE_TIME + i64::try_from(seed * FAN + file).expect("small")))
            .expect("it is ours");
    }
    rustix::fs::futimens(directory, &times(TREE_TIME)).expect("it is ours");
}

/// `tops` top-level directories, and always the same tree.
fn grow(root: &Path, tops: usize) {
    let root = fs::File::open(root).expect("it is there");
    side_by_side(tops, |top| {
        let top_directory = make_directory(root.as_fd(), &format!("t{top}"));
        for middle in 0..FAN {
            let middle_directory = make_directory(top_directory.as_fd(), &format!("m{middle}"));
            for leaf in 0..FAN {
                let directory = make_directory(middle_directory.as_fd(), &format!("l{leaf}"));
                fill_directory(&directory, (top * FAN + middle) * FAN + leaf);
            }
            rustix::fs::futimens(&middle_directory, &times(TREE_TIME)).expect("it is ours");
        }
        rustix::fs::futimens(&top_directory, &times(TREE_TIME)).expect("it is ours");
    });
}

/// The path of a leaf directory.
fn leaf_path(number: usize) -> String {
    format!("t{}/m{}/l{}", number / (FAN * FAN), number / FAN % FAN, number % FAN)
}

/// The limit of every rescan: all names read and all of them looked at, by as many threads (notes/kernel.md 6).
fn bare_walk(root: &Path) -> (Duration, usize, usize) {
    let began = Instant::now();
    let tops: Vec<PathBuf> = fs::read_dir(root).expect("it is there").flatten().map(|entry| entry.path()).collect();
    let (directories, files) = (AtomicUsize::new(1), AtomicUsize::new(0));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    side_by_side(tops.len(), |top| {
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut stack: Vec<OwnedFd> = rustix::fs::open(&tops[top], flags, Mode::empty()).into_iter().collect();
        let (mut directories_here, mut files_here) = (0, 0);
        while let Some(directory) = stack.pop() {
            directories_here += 1;
            let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = entry.expect("the tree is quiet");
                if [&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
                    continue;
                }
                let no_sync = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::statx(&directory, entry.file_name(), no_sync, StatxFlags::BASIC_STATS)
                    .expect("the tree is quiet");
                if entry.file_type() == FileType::Directory {
                    stack.push(
                        rustix::fs::openat(&directory, entry.file_name(), flags, Mode::empty())
                            .expect("the tree is quiet"),
                    );
                } else {
                    files_here += 1;
                }
            }
        }
        directories.fetch_add(directories_here, Ordering::Relaxed);
        files.fetch_add(files_here, Ordering::Relaxed);
    });
    (began.elapsed(), directories.into_inner(), files.into_inner())
}

/// The median of three.
fn usual_walk(root: &Path) -> Duration {
    let mut took: Vec<Duration> = (0..3).map(|_| bare_walk(root).0).collect();
    took.sort_unstable();
    took[1]
}

/// What happens while the agent is away, prepared long before: inner times of what is moved in must be old.
struct Absence {
    /// What is done, each to a leaf directory of its own.
    leaves: Vec<usize>,
    outside: PathBuf,
}

impl Absence {
    fn prepare(rng: &mut Rng, tops: usize, outside: PathBuf) -> Self {
        fs::create_dir_all(&outside).expect("the scratch directory can be written");
        let mut leaves = BTreeSet::new();
        while leaves.len() < CHANGES {
            leaves.insert(rng.usize(..tops * FAN * FAN));
        }
        let mut leaves: Vec<usize> = leaves.into_iter().collect();
        rng.shuffle(&mut leaves);
        let absence = Self { leaves, outside };
        let outside = fs::File::open(&absence.outside).expect("it was just made");
        for (number, leaf) in absence.leaves.iter().enumerate() {
            match number % 10 {
                4 => {
                    let directory = make_directory(outside.as_fd(), &format!("new {number}"));
                    let inner = make_directory(directory.as_fd(), "inner");
                    fill_directory(&inner, 7_000_000 + number);
                    fill_directory(&directory, 8_000_000 + number);
                }
                // Names, sizes and times as in the tree; other contents.
                5 => {
                    let twin = make_directory(outside.as_fd(), &format!("twin {number}"));
                    fill_directory(&twin, *leaf);
                    for file in 0..FAN {
                        let path = absence.outside.join(format!("twin {number}/f{file}"));
                        let time = TREE_TIME + i64::try_from(leaf * FAN + file).expect("small");
                        fs::write(&path, format!("twin {:03} {file}", number % 1000)).expect("a file of ours");
                        set_modified(&path, (time, 5)).expect("a file of ours");
                    }
                    rustix::fs::futimens(&twin, &times(TREE_TIME)).expect("it is ours");
                }
                _ => {}
            }
        }
        absence
    }

    /// Does it all; returns the directories to look at.
    fn happen(&self, rng: &mut Rng, source: &Path) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        for (number, leaf) in self.leaves.iter().enumerate() {
            let path = leaf_path(*leaf);
            let leaf = source.join(&path);
            let file = leaf.join(format!("f{}", rng.usize(..FAN)));
            let modified = |path: &Path| {
                let metadata = fs::symlink_metadata(path).expect("it is there");
                (
                    std::os::unix::fs::MetadataExt::mtime(&metadata),
                    std::os::unix::fs::MetadataExt::mtime_nsec(&metadata),
                )
            };
            let done = match number % 10 {
                // Neither size nor mtime tell of it.
                0 | 1 => {
                    let before = modified(&file);
                    let length = usize::try_from(fs::metadata(&file).expect("it is there").len()).expect("small");
                    fs::write(&file, vec![b'!'; length]).and_then(|()| set_modified(&file, before))
                }
                2 => fs::remove_file(&file),
                3 if number % 20 == 3 => fs::remove_dir_all(&leaf),
                3 => fs::write(&file, format!("longer than it was {number}")),
                4 => fs::rename(self.outside.join(format!("new {number}")), leaf.join("moved in")),
                5 => fs::rename(&leaf, self.outside.join(format!("away {number}")))
                    .and_then(|()| fs::rename(self.outside.join(format!("twin {number}")), &leaf)),
                6 if number % 20 == 6 => fs::set_permissions(&file, fs::Permissions::from_mode(0o600)),
                6 => fs::set_permissions(&leaf, fs::Permissions::from_mode(0o700)),
                7 => fs::rename(&file, leaf.join("renamed")),
                8 => fs::rename(&leaf, leaf.with_file_name(format!("moved {number}"))),
                _ => fs::create_dir_all(leaf.join("new/deep")).and_then(|()| fs::write(leaf.join("new/deep/f"), "new")),
            };
            done.expect("the tree is ours");
            touched.insert(path.rsplit_once('/').expect("a leaf is deep").0.to_owned());
        }
        touched
    }
}

/// An agent that says what it sends.
fn start(ground: &Ground, target: &OsStr, slack: Option<Duration>) -> Agent {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("mirror").arg(&ground.source).arg(target).arg("--state").arg(ground.place.join("state"));
    command.args(["--hold-over", "1000000"]).env("FANSYNC_LOG", "info,fansync::worker=debug");
    if let Some(slack) = slack {
        command.env("FANSYNC_TEST_SLACK_MS", slack.as_millis().to_string());
    }
    Agent::spawn(command, &ground.place)
}

/// The number that follows `key=` in a log line.
fn field(line: &str, key: &str) -> Option<u64> {
    let at = line.find(&format!(" {key}="))? + key.len() + 2;
    let digits: String = line[at..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The agent's line at the end of the rescan of its start.
fn rescan_line(log: &str) -> Option<&str> {
    log.lines().find(|line| line.contains("rescan finished") && line.contains("restart"))
}

/// Batches, and entries of all of their lists.
fn entries(log: &str) -> (usize, u64) {
    let entries: Vec<u64> =
        log.lines().filter(|line| line.contains("rsync ended")).filter_map(|line| field(line, "entries")).collect();
    (entries.len(), entries.iter().sum())
}

/// Waits until all that happened so far is older than the slack of a rescan.
fn grow_old(agent: &Agent, slack: Option<Duration>) {
    let slack = slack.unwrap_or(fansync::change::CTIME_SLACK);
    let began = Instant::now();
    // A watermark and a checkpoint are a second old at most.
    until("age", PATIENCE, agent, || began.elapsed() > slack + Duration::from_millis(2500));
}

/// A million files at a time would need the memory of all of them.
fn all_differences(ground: &Ground) -> Vec<String> {
    let tops = |side: &Path| {
        let entries = fs::read_dir(side).expect("it is there").flatten();
        let entries = entries.map(|entry| {
            let metadata = entry.metadata().expect("the tree is quiet");
            (entry.file_name(), metadata.modified().expect("a time"), metadata.permissions().mode())
        });
        entries.collect::<BTreeSet<_>>()
    };
    let (ours, theirs) = (tops(&ground.source), tops(&ground.target));
    let mut found: Vec<String> = ours.symmetric_difference(&theirs).map(|top| format!("{top:?}")).collect();
    let ours: Vec<_> = ours.into_iter().collect();
    let beneath = std::sync::Mutex::new(Vec::new());
    side_by_side(ours.len(), |number| {
        let name = &ours[number].0;
        let found = differences(&ground.source.join(name), &ground.target.join(name), 10);
        let found = found.into_iter().map(|line| format!("{}/{line}", name.display()));
        beneath.lock().expect("nobody panics with it").extend(found);
    });
    found.extend(beneath.into_inner().expect("nobody panics with it"));
    found
}

fn restart_finds_what_changed(scale: &Scale) {
    let seed = seeds([7])[0];
    let mut rng = Rng::with_seed(seed);
    let ground = &scale.ground;
    let began = Instant::now();
    grow(&ground.source, scale.tops);
    grow(&ground.target, scale.tops);
    let mut absences: Vec<Absence> = [Signal::SIGTERM, Signal::SIGKILL]
        .iter()
        .map(|signal| Absence::prepare(&mut rng, scale.tops, ground.place.join(format!("outside {signal}"))))
        .collect();
    let taken: BTreeSet<usize> = absences[0].leaves.iter().copied().collect();
    // What the first absence changed is not what the second one expects.
    let mut next = absences[1].leaves.clone();
    next.retain(|leaf| !taken.contains(leaf));
    absences[1].leaves = next;
    let (_, directories, files) = bare_walk(&ground.source);
    println!("seed {seed}: {files} files in {directories} directories, twice, made in {:?}", began.elapsed());

    let daemon = ground.daemon();
    let url = daemon.url();
    let began = Instant::now();
    let mut agent = start(ground, url.as_ref(), scale.slack);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    let (batches, listed) = entries(&agent.log());
    println!("first start: compared after {:?}, {batches} runs, {listed} entries", began.elapsed());

    for (absence, signal) in absences.iter().zip([Signal::SIGTERM, Signal::SIGKILL]) {
        grow_old(&agent, scale.slack);
        if signal == Signal::SIGTERM {
            assert!(agent.terminate().success(), "{}", agent.last_log_lines(20));
        } else {
            agent.kill();
        }
        let touched = absence.happen(&mut rng, &ground.source);
        let walk = usual_walk(&ground.source);

        let began = Instant::now();
        agent = start(ground, url.as_ref(), scale.slack);
        until("rescan", PATIENCE, &agent, || rescan_line(&agent.log()).is_some());
        let found = began.elapsed();
        let differ = |middle: &String| {
            let sides = [&ground.source, &ground.target].map(|side| Snapshot::take(&side.join(middle)));
            !sides[0].differences(&sides[1], 1).is_empty()
        };
        let mut left = touched;
        until("equality", PATIENCE, &agent, || {
            left.retain(differ);
            left.is_empty()
        });
        let equal = began.elapsed();
        let log = agent.log();
        let compared = Instant::now();
        loop {
            let different = all_differences(ground);
            if different.is_empty() {
                break;
            }
            let in_time = compared.elapsed() < PATIENCE;
            assert!(in_time, "seed {seed}, {signal}:\n{}\n{}", different.join("\n"), agent.last_log_lines(60));
        }
        let line = rescan_line(&log).expect("it was there");
        let number = |key: &str| field(line, key).unwrap_or_else(|| panic!("no {key} in {line}"));
        let (batches, listed) = entries(&log);
        let ratio = number("took_ms") as f64 / walk.as_secs_f64() / 1000.0;
        println!(
            "{signal}, {CHANGES} changes: bare walk {walk:?}, rescan {} ms (ratio {ratio:.2}) found {} candidates in {} directories \
             and {} files; known {found:?}, equal {equal:?} after the start; {batches} runs, {listed} entries; {} KiB",
            number("took_ms"),
            number("candidates"),
            number("directories"),
            number("files"),
            agent.rss_kib(),
        );
        // A change is a few marks: the name, its directory, the one above.
        assert!((50..=1000).contains(&number("candidates")), "{line}");
        assert!(listed <= 1500, "{listed} entries for {CHANGES} changes");
        let all = u64::try_from(directories).expect("small");
        assert!((all - all / 10..=all + all / 10).contains(&number("directories")), "{line}");
        assert!(ratio <= scale.ratio_max, "{ratio}");
    }
    assert!(agent.terminate().success());
}

#[test]
fn a_restart_finds_what_changed_and_asks_for_nothing_else() {
    // The ratio of a debug build that shares its cores says little.
    restart_finds_what_changed(&Scale {
        ground: Ground::in_memory(),
        tops: 100,
        slack: Some(Duration::from_millis(500)),
        ratio_max: 50.0,
    });
}

/// Takes 15 min, of which 5 are waiting for the real slack. Needs 8 GiB below TMPDIR for its inodes.
#[test]
#[ignore = "make soak"]
fn soak_a_restart_finds_what_changed_among_a_million_files() {
    restart_finds_what_changed(&Scale { ground: Ground::new(), tops: 1000, slack: None, ratio_max: 3.0 });
}

/// Bytes of all files beneath.
fn size_of(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .fold(0, |sum, (path, metadata)| sum + if metadata.is_dir() { size_of(&path) } else { metadata.len() })
}

/// `files` new files in known directories while nobody listens on the target's port.
fn backlog(files: usize, backlog: usize, files_per_second: usize) {
    const IN_ONE: usize = 1000;
    let ground = Ground::in_memory();
    for directory in 0..files / IN_ONE {
        fs::create_dir(ground.at(&format!("d{directory}"))).expect("the source can be written");
    }
    let daemon = ground.daemon();
    let (port, url) = (daemon.port(), daemon.url());
    let config = ground.place.join("fansync.yaml");
    let text = format!(
        "state_dir: {}\nroots:\n  - path: {}\n{}    targets:\n      - {{url: \"{url}\", backlog: {backlog}}}\n",
        ground.place.join("state").display(),
        ground.source.display(),
        watch_key()
    );
    fs::write(&config, text).expect("the scratch directory can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
    command.arg("run").arg("--config").arg(&config);
    let mut agent = Agent::spawn(command, &ground.place);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    drop(daemon);

    let began = Instant::now();
    let mut peak = 0;
    for directory in 0..files / IN_ONE {
        for file in 0..IN_ONE {
            fs::File::create(ground.at(&format!("d{directory}/{file}"))).expect("the source can be written");
        }
        // Slow enough that each has its event: what an overflow hides is one mark for many.
        let until = Duration::from_secs_f64(((directory + 1) * IN_ONE) as f64 / files_per_second as f64);
        while began.elapsed() < until {
            std::thread::park_timeout(until.saturating_sub(began.elapsed()));
        }
        peak = peak.max(agent.rss_kib());
    }
    let made = began.elapsed();
    until("word of the target", PATIENCE, &agent, || agent.log().contains("target does not take changes"));
    let state = size_of(&ground.place.join("state"));
    let rss = agent.rss_kib();
    let overflowed = agent.log().contains("overflowed");

    let options = DaemonOptions { port: Some(port), ..DaemonOptions::default() };
    let _daemon = Daemon::start(&ground.target, &ground.place, &options).expect("rsync --daemon can be started");
    let began = Instant::now();
    let count = || {
        let directories = fs::read_dir(&ground.target).expect("it is there").flatten();
        directories.filter_map(|entry| Some(fs::read_dir(entry.path()).ok()?.count())).sum::<usize>()
    };
    until("arrival", PATIENCE, &agent, || {
        peak = peak.max(agent.rss_kib());
        std::thread::park_timeout(Duration::from_millis(200));
        count() >= files
    });
    if let Err(found) = wait_until_equal(&ground.source, &ground.target, PATIENCE, POLL) {
        panic!("{}\n{}", found.join("\n"), agent.last_log_lines(40));
    }
    println!(
        "dead target: {files} files made in {made:?}, backlog {backlog}: {rss} KiB, at most {peak} KiB, state folder {state} \
         bytes then and {} now, overflow: {overflowed}; equal {:?} after its return",
        size_of(&ground.place.join("state")),
        began.elapsed()
    );
    assert!(peak < RSS_MAX_KIB, "{peak} KiB");
    assert!(state < 1 << 30, "{state} bytes");
    assert!(agent.terminate().success());
}

#[test]
fn a_backlog_beyond_its_limit_widens_and_arrives_when_the_target_is_back() {
    backlog(20_000, 2_000, 40_000);
}

/// Takes 5 min. A million marks that do not widen.
#[test]
#[ignore = "make soak"]
fn soak_a_million_marks_wait_for_a_dead_target() {
    backlog(1_000_000, 1_500_000, 25_000);
}

/// Kills the agent `kills` times while changes wait for a dead target.
fn durability(seed: u64, kills: usize) {
    let ground = Ground::new();
    fs::remove_dir(&ground.source).expect("it is empty");
    let mut churn = Churn::new(seed, ground.source.clone(), ground.place.join("outside"), Names::Hostile);
    churn.fill(INITIAL_ENTRIES);
    let daemon = ground.daemon();
    let (port, url) = (daemon.port(), daemon.url());
    // Nobody looks at a name before the target is back.
    churn.link_rest = Duration::from_secs(600);
    // Shorter than the outage: what changed in it must come from the checkpoint, not from a rescan.
    let slack = Some(Duration::from_millis(300));
    let mut agent = start(&ground, url.as_ref(), slack);
    ground.wait_equal(&agent);
    until("comparison", PATIENCE, &agent, || agent.log().contains(COMPARED));
    drop(daemon);
    let mut rng = Rng::with_seed(seed);
    let mut logs = Vec::new();
    let mut warm = 0;
    for _kill in 0..kills {
        churn.run(rng.usize(1..60));
        let began = Instant::now();
        // Some die young, some have written their checkpoint, which is a second after the start.
        let moment = Duration::from_millis(if rng.bool() { rng.u64(..300) } else { rng.u64(1000..2500) });
        until("moment", PATIENCE, &agent, || began.elapsed() >= moment);
        agent.kill();
        let left = agent.left_behind(Duration::from_secs(5));
        assert!(left.is_empty(), "seed {seed}: {left:?}");
        warm += usize::from(agent.log().contains("reason=\"checkpoint\""));
        logs.push(agent.last_log_lines(10));
        churn.run(rng.usize(..20));
        agent = start(&ground, url.as_ref(), slack);
    }
    churn.close_all();
    let options = DaemonOptions { port: Some(port), ..DaemonOptions::default() };
    let _daemon = Daemon::start(&ground.target, &ground.place, &options).expect("rsync --daemon can be started");
    match wait_until_equal(&ground.source, &ground.target, Duration::from_secs(150), POLL) {
        Ok(took) => {
            println!("seed {seed}: equal {took:?} after {kills} kills and the target's return; {warm} warm starts")
        }
        Err(found) => panic!(
            "seed {seed}:\n{}\n{}\n{}\n{}",
            found.join("\n"),
            logs.join("\n--\n"),
            agent.last_log_lines(40),
            churn.trace().join("\n")
        ),
    }
    agent.wait_ready();
    assert!(agent.terminate().success());
    assert_eq!(differences(&ground.source, &ground.target, 10), Vec::<String>::new(), "seed {seed}");
}

#[test]
fn a_backlog_survives_the_agents_death_at_any_moment() {
    for seed in seeds([4]) {
        durability(seed, 8);
    }
}

/// Takes 5 min.
#[test]
#[ignore = "make soak"]
fn soak_a_backlog_survives_the_agents_death_at_any_moment() {
    let count = number("FANSYNC_CHAOS_SEEDS").unwrap_or(10);
    for seed in seeds(2000..2000 + count) {
        durability(seed, 20);
    }
}
