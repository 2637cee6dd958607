//! Random churn against the running agent: when the source is quiet, the target becomes equal to it.
//!
//! `FANSYNC_CHAOS_SEED` chooses one seed for all of these tests, `FANSYNC_CHAOS_OPERATIONS` the number of operations; the
//! soak (`cargo test --release --test daemon soak -- --ignored --nocapture`) takes `FANSYNC_CHAOS_SEEDS` seeds.
//! `FANSYNC_CHAOS_KEEP=1` leaves the trees, the logs and the trace of a failed run in place and says where.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fansync::lab::{Daemon, DaemonOptions};
use fansync::path::RelPath;
use fastrand::Rng;

use crate::agent::Agent;
use crate::churn::Churn;
use crate::compare::{differences, wait_until_equal};
use crate::names::Names;
use crate::sshd::Sshd;

pub const INITIAL_ENTRIES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(150);
/// What children may take to be gone after the agent: they die of its death signal.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(1);
/// Exit codes of an agent that was told to stop. Documented: 0 done.
const STOPPED: &[i32] = &[0];
const TRACE_LINES_PER_PATH: usize = 8;

/// Where the agent sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A module of a daemon on loopback.
    Daemon,
    /// A directory of this machine.
    Local,
    /// The same by ssh.
    Ssh,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub operations: usize,
    pub names: Names,
    pub kind: Kind,
    /// Most of it are renames of directories, slow enough that the target often has what is renamed.
    pub renames: bool,
}

/// Starts what takes the place of the agent: source, targets, scratch.
type Start = fn(&Path, &[OsString], &Path) -> Agent;

/// Runs `plan` and returns one line about it.
///
/// # Errors
/// The story of the failure: seed, differences, log of the agent, and what was done to each differing path.
pub fn chaos(plan: Plan, start: Start) -> Result<String, String> {
    let scratch = tempfile::tempdir().expect("a scratch directory can be made");
    // Links below TMPDIR are not the subject.
    let place = scratch.path().canonicalize().expect("it was just made");
    let outcome = run(plan, start, &place);
    if outcome.is_err() && std::env::var_os("FANSYNC_CHAOS_KEEP").is_some() {
        println!("kept: {}", scratch.keep().display());
    }
    outcome
}

fn run(plan: Plan, start: Start, scratch: &Path) -> Result<String, String> {
    let [source, target, outside] = ["source", "target", "outside"].map(|name| scratch.join(name));
    let mut churn = Churn::new(plan.seed, source.clone(), outside, plan.names);
    if plan.renames {
        churn = churn.with_renames_heavy();
    }
    churn.fill(INITIAL_ENTRIES);
    fs::create_dir(&target).expect("the scratch directory can be written");
    mirror_half(&source, &target, &mut Rng::with_seed(plan.seed ^ 0xdead));

    let daemon = match plan.kind {
        Kind::Daemon => {
            Some(Daemon::start(&target, scratch, &DaemonOptions::default()).expect("rsync --daemon can be started"))
        }
        Kind::Local | Kind::Ssh => None,
    };
    let sshd = (plan.kind == Kind::Ssh).then(|| Sshd::start(scratch));
    let to = daemon.as_ref().map_or_else(|| target.clone().into_os_string(), |daemon| daemon.url().into());
    let mut agent = match &sshd {
        Some(sshd) => sshd.agent(&source, &[&target], scratch),
        None => start(&source, &[to], scratch),
    };
    agent.wait_ready();

    // Half of the seeds: one burst. The others: about 1 ms per step, so that batches run while the tree changes.
    churn.pace = (plan.seed / 2 % 2 == 1).then_some(Duration::from_millis(1));
    if plan.renames {
        churn.pace = Some(Duration::from_millis(10));
    }
    let began = Instant::now();
    churn.run(plan.operations);
    let churned = began.elapsed();
    // Half of the seeds: what is open stays open. The agent must not depend on the close.
    if plan.seed.is_multiple_of(2) {
        churn.close_all();
    }

    let story = |agent: &Agent, what: &str, found: &[String]| failure(plan, &churn, scratch, agent, what, found);
    let converged = match wait_until_equal(&source, &target, PATIENCE, POLL) {
        Ok(converged) => converged,
        Err(found) => return Err(story(&agent, &format!("not equal after {PATIENCE:?}"), &found)),
    };
    if let Some(status) = agent.ended() {
        return Err(story(&agent, &format!("the agent ended on its own: {status}"), &[]));
    }
    let rss = agent.rss_kib();
    let status = agent.terminate();
    if !status.code().is_some_and(|code| STOPPED.contains(&code)) {
        return Err(story(&agent, &format!("the agent ended with {status}"), &[]));
    }
    let left = agent.left_behind(ORPHAN_PATIENCE);
    if !left.is_empty() {
        return Err(story(&agent, &format!("left behind by the agent:\n{}", left.join("\n")), &[]));
    }
    // Nothing that was still in flight, and nothing done while stopping, may make it worse.
    let found = differences(&source, &target, 40);
    if !found.is_empty() {
        return Err(story(&agent, "equal once, but not after the agent's end", &found));
    }
    Ok(format!(
        "seed {} {:?} {:?}: {} operations at {:.0}/s, equal {} ms after the last, agent {rss} KiB",
        plan.seed,
        plan.names,
        plan.kind,
        plan.operations,
        plan.operations as f64 / churned.as_secs_f64(),
        converged.as_millis(),
    ))
}

/// Makes `target` an older and damaged copy of `source`: about half of the entries, some with other contents, some extra.
pub fn mirror_half(source: &Path, target: &Path, rng: &mut Rng) {
    let copied = Command::new("rsync").arg("-a").arg(source.join("")).arg(target.join("")).status();
    assert!(copied.expect("rsync is installed").success());
    let mut directories = vec![target.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(&directory).expect("a copy of ours").flatten().map(|entry| entry.path()).collect();
        entries.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
        for entry in entries {
            let kind = fs::symlink_metadata(&entry).expect("a copy of ours").file_type();
            let done = match rng.u8(..10) {
                0..=1 if kind.is_dir() => fs::remove_dir_all(&entry),
                0..=3 if !kind.is_dir() => fs::remove_file(&entry),
                4..=5 if kind.is_file() => {
                    // Another size, so that it shows without a checksum: nobody promises more of a first run.
                    let size = fs::symlink_metadata(&entry).expect("a copy of ours").len();
                    fs::write(&entry, vec![b'?'; usize::try_from(size).expect("small files only") + 1])
                }
                _ if kind.is_dir() => {
                    directories.push(entry);
                    Ok(())
                }
                _ => Ok(()),
            };
            done.expect("a copy of ours");
        }
    }
    fs::create_dir_all(target.join("extra directory/inner")).expect("a copy of ours");
    fs::write(target.join("extra directory/inner/extra file"), b"old").expect("a copy of ours");
    fs::write(target.join("extra file"), b"old").expect("a copy of ours");
}

fn failure(plan: Plan, churn: &Churn, scratch: &Path, agent: &Agent, what: &str, found: &[String]) -> String {
    let head = format!(
        "{plan:?}: {what}\nagain with: FANSYNC_CHAOS_SEED={} FANSYNC_CHAOS_OPERATIONS={}",
        plan.seed, plan.operations
    );
    story(&head, churn.trace(), scratch, &agent.last_log_lines(60), found)
}

/// What a failed run tells: `head`, the differences `found`, the agent's log, what was done to each differing path.
pub fn story(head: &str, trace: &[String], scratch: &Path, log: &str, found: &[String]) -> String {
    let _kept_only_on_request = fs::write(scratch.join("trace"), trace.join("\n"));
    let mut story = format!("{head}\n");
    let mut section = |title: &str, lines: &str| {
        let _infallible = write!(story, "--- {title}\n{lines}\n");
    };
    if !found.is_empty() {
        section("differences: source against target", &found.join("\n"));
    }
    section("the agent's last words", log);
    let mut by_path: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in found {
        let path = line.split('\t').next().unwrap_or_default();
        by_path.entry(path).or_insert_with(|| mentions(trace, path));
    }
    for (path, lines) in by_path {
        section(&format!("what was done to {path}, or to a directory above it"), &lines.join("\n"));
    }
    story
}

/// The last lines that name `path` (escaped), or a directory above it, in quotes.
fn mentions<'a>(trace: &'a [String], path: &str) -> Vec<&'a str> {
    let borders = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let quoted: Vec<String> = borders.map(|border| format!("\"{}\"", &path[..border])).collect();
    let beneath = format!("\"{path}/");
    let mut lines: Vec<&str> = trace
        .iter()
        .rev()
        .filter(|line| line.contains(&beneath) || quoted.iter().any(|name| line.contains(name)))
        .take(TRACE_LINES_PER_PATH)
        .map(String::as_str)
        .collect();
    lines.reverse();
    lines
}

fn start_agent(source: &Path, targets: &[OsString], scratch: &Path) -> Agent {
    Agent::start(source, targets, scratch)
}

pub fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

pub fn seeds(usual: impl IntoIterator<Item = u64>) -> Vec<u64> {
    number("FANSYNC_CHAOS_SEED").map_or_else(|| usual.into_iter().collect(), |seed| vec![seed])
}

pub fn operations(usual: usize) -> usize {
    number("FANSYNC_CHAOS_OPERATIONS").map_or(usual, |chosen| usize::try_from(chosen).expect("64 bits"))
}

fn check(usual_seeds: &[u64], names: Names, kind: Kind) {
    for seed in seeds(usual_seeds.iter().copied()) {
        converges(Plan { seed, operations: operations(600), names, kind, renames: false });
    }
}

fn converges(plan: Plan) {
    match chaos(plan, start_agent) {
        Ok(line) => println!("{line}"),
        Err(story) => panic!("{story}"),
    }
}

/// What is renamed is linked on the target by what it has under the old name, which must not be taken for what it is not.
#[test]
fn churn_of_renames_converges() {
    for (usual, kind) in [(21, Kind::Daemon), (22, Kind::Local)] {
        for seed in seeds([usual]) {
            converges(Plan { seed, operations: operations(600), names: Names::Plain, kind, renames: true });
        }
    }
}

#[test]
fn churn_of_plain_names_converges() {
    check(&[1, 3], Names::Plain, Kind::Daemon);
}

#[test]
fn churn_of_hostile_names_converges() {
    check(&[2, 4], Names::Hostile, Kind::Daemon);
}

#[test]
fn churn_converges_on_a_local_target() {
    check(&[5], Names::Hostile, Kind::Local);
}

#[test]
fn churn_converges_by_ssh() {
    check(&[6, 7], Names::Hostile, Kind::Ssh);
}

/// All seeds are run, also after a failure; the stories come as they happen, the summary at the end.
#[test]
#[ignore = "make soak"]
fn soak_converges_for_every_seed() {
    let count = number("FANSYNC_CHAOS_SEEDS").unwrap_or(20);
    let mut failed = Vec::new();
    for seed in seeds(100..100 + count) {
        for names in [Names::Plain, Names::Hostile] {
            let kind = match seed % 4 {
                2 => Kind::Ssh,
                3 => Kind::Local,
                _ => Kind::Daemon,
            };
            let plan = Plan { seed, operations: operations(2000), names, kind, renames: seed % 8 < 4 };
            match std::panic::catch_unwind(|| chaos(plan, start_agent)) {
                Ok(Ok(line)) => println!("{line}"),
                Ok(Err(story)) => {
                    println!("{story}");
                    failed.push(plan);
                }
                // Its words are on stderr already.
                Err(_panic) => failed.push(plan),
            }
        }
    }
    assert!(failed.is_empty(), "{} runs failed: {failed:#?}", failed.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::script;

    /// The simplest agent there is: mirror everything, again and again.
    const LOOP: &str = "trap 'exit 0' TERM; echo 'live: watching nothing' >&2
        while :; do rsync -aI --modify-window=-1 --delete \"$1/\" \"$2/\" >&2; sleep 0.05; done";

    fn start_loop(source: &Path, targets: &[OsString], scratch: &Path) -> Agent {
        Agent::spawn(script(LOOP, &[source.as_os_str(), &targets[0]]), scratch)
    }

    fn start_idler(_source: &Path, _targets: &[OsString], scratch: &Path) -> Agent {
        Agent::spawn(script("trap 'exit 7' TERM; echo 'live: 0' >&2; while :; do sleep 0.01; done", &[]), scratch)
    }

    #[test]
    fn an_endless_rsync_passes_the_driver() {
        for (seed, names, kind) in
            [(1, Names::Plain, Kind::Daemon), (2, Names::Hostile, Kind::Daemon), (3, Names::Hostile, Kind::Local)]
        {
            match chaos(Plan { seed, operations: operations(300), names, kind, renames: false }, start_loop) {
                Ok(line) => println!("{line}"),
                Err(story) => panic!("{story}"),
            }
        }
    }

    #[test]
    fn a_failure_tells_what_was_done_to_each_path() {
        let scratch = tempfile::tempdir().unwrap();
        let [source, target, outside] = ["source", "target", "outside"].map(|name| scratch.path().join(name));
        let mut churn = Churn::new(9, source.clone(), outside, Names::Hostile);
        churn.run(200);
        fs::create_dir(&target).unwrap();
        let mut agent = start_idler(&source, &[], scratch.path());
        agent.wait_ready();
        let plan = Plan { seed: 9, operations: 200, names: Names::Hostile, kind: Kind::Local, renames: false };
        let found = differences(&source, &target, 40);
        let story = failure(plan, &churn, scratch.path(), &agent, "not equal", &found);
        for part in ["seed: 9", "FANSYNC_CHAOS_SEED=9", "\tmissing: ", "live: 0", "what was done to"] {
            assert!(story.contains(part), "{part} is not in\n{story}");
        }
        assert_eq!(agent.terminate().code(), Some(7));
        assert_eq!(fs::read_to_string(scratch.path().join("trace")).unwrap().lines().count(), 200);
    }

    #[test]
    fn mentions_are_those_of_the_path_and_of_what_lies_above() {
        let trace = ["0 create \"a\" 1", "1 mkdir-p \"a/b\"", "2 create \"a/bc\" 1", "3 unlink \"a/b/c\"", "4 x \"c\""];
        let trace = trace.map(str::to_owned);
        assert_eq!(mentions(&trace, "a/b"), [&trace[0], &trace[1], &trace[3]]);
        assert_eq!(mentions(&trace, RelPath::root().join(b"c").to_string().as_str()), [&trace[4]]);
    }

    #[test]
    fn half_of_a_mirror_differs_in_several_ways() {
        let scratch = tempfile::tempdir().unwrap();
        let [source, target, outside] = ["source", "target", "outside"].map(|name| scratch.path().join(name));
        let mut churn = Churn::new(1, source.clone(), outside, Names::Plain);
        churn.fill(INITIAL_ENTRIES);
        fs::create_dir(&target).unwrap();
        mirror_half(&source, &target, &mut Rng::with_seed(1));
        let found = differences(&source, &target, 1000).join("\n");
        for kind in ["missing: file", "missing: directory", "extra: file", "extra: directory", "content: "] {
            assert!(found.contains(kind), "{kind} is not in\n{found}");
        }
    }
}
