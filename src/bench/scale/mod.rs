//! `fansync bench scale`: an agent on a large tree, next to what no agent can be faster than.

mod limits;
mod memory;
mod report;
mod tree;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::measure::{Spread, ms, spread};
use super::mirror::{self, Backend, Mirror, Order, Setting, Start, Watch};
use super::patience::Interrupt;
use super::report::progress;
use super::stage::Scratch;
use super::{COMPLETE, INCOMPLETE};
use crate::lab::{Daemon, DaemonOptions};
use crate::sys::clock;
use limits::Bare;
use memory::Pinned;
use report::ScaleReport;
use tree::{Shape, Tree};

/// Files that change while the agent is away, and while its queue overflows.
const CHANGED: usize = 100;

/// What is written behind a file that changes.
const MORE: &[u8] = b"changed\n";

/// Events that a queue holds when it shall overflow. Why 4,096: a mark sees the target's files too where they lie on the same
/// file system, and they must not make it overflow again and again.
const SMALL_QUEUE: u64 = 4096;

/// Names that come and go in the directories of the first level, so that the queue of every shard overflows: each is three
/// events for inotify, dealt to at most four shards, and one for fanotify.
const FLOOD: usize = 12_288;

const _: () = assert!(FLOOD * 3 / 4 > 2 * SMALL_QUEUE as usize);

/// How often the target is asked for what changed. What is measured is this much too long at most.
const POLL: Duration = Duration::from_millis(2);

/// Its arguments.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct ScaleArguments {
    /// Files in the tree; they are empty
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub files: u32,
    /// Directories in the tree, at least 20
    #[arg(long, value_name = "N", default_value_t = 111_100, value_parser = clap::value_parser!(u32).range(20..))]
    pub dirs: u32,
    /// An empty directory, where the tree is made and kept, or one with such a tree [default: a scratch directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How the agent learns of changes
    #[arg(long, value_enum, default_value_t = Watch::Both)]
    pub watch: Watch,
    /// Starts, restarts and overflows
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// How long the agent is watched while nothing happens
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub idle: u64,
    /// How long the first copy, and what changed, may take to be on the target
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
    /// Writes JSON to a file; `-` prints it instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What the machine needs for it, without an agent.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    /// Threads of the first two: as many as the agent has shards.
    threads: usize,
    /// Threads of the third: as many as the agent has walkers.
    look_threads: usize,
    /// Every directory listed.
    walk_ms: Option<Spread>,
    /// Every directory watched by inotify, and then listed.
    walk_add_ms: Option<Spread>,
    /// Every directory listed, and every entry looked at.
    walk_look_ms: Option<Spread>,
}

/// One backend on the tree.
#[derive(Debug, Serialize)]
pub(super) struct OnTree {
    backend: Backend,
    /// Taken between its starts.
    limits: Limits,
    /// From the start of the process until it is live; nothing is known from before, and the target is away.
    live_ms: Option<Spread>,
    /// The same without what comes before: the check of rsync, the question to the target.
    root_live_ms: Option<Spread>,
    /// From the start of the process until every directory is known or watched.
    known_ms: Option<Spread>,
    /// The time until live, from the start of the root, to the bare walk: the median of the ratios within the runs.
    live_to_walk: Option<f64>,
    /// And to the bare walk that adds watches.
    live_to_walk_add: Option<f64>,
    /// Directories watched or known, as the agent says.
    watched: u64,
    /// Kernel memory, of the last start.
    kernel: Pinned,
    /// Resident memory when every directory is known. Unit: bytes.
    resident_bytes: Option<Spread>,
    /// That of an agent on an empty tree. Unit: bytes.
    resident_empty_bytes: u64,
    /// The difference for each directory. Unit: bytes.
    resident_per_directory_bytes: Option<f64>,
    /// From the start until everything is compared and on the target. `None`: not in time.
    first_copy_ms: Option<f64>,
    /// Resident memory after that. Unit: bytes.
    resident_copied_bytes: u64,
    /// Processor time while nothing happens, as a share of one core. Unit: percent.
    idle_percent: Option<f64>,
    /// A start that goes on from a checkpoint, until it is live.
    restart_live_ms: Option<Spread>,
    /// The same, until what changed meanwhile is on the target.
    restart_ms: Option<Spread>,
    /// From the end of a stall in which all queues overflowed until what changed in it is on the target.
    overflow_ms: Option<Spread>,
    /// Queues that overflowed.
    overflows: u64,
    /// Changes that never arrived.
    missing: usize,
}

/// Runs it and prints its report.
pub(super) fn run(arguments: &ScaleArguments, interrupt: &Interrupt) -> anyhow::Result<u8> {
    let parent = std::env::temp_dir();
    let scratch = Scratch::create(&parent, "scale")?;
    let shape = Shape { files: arguments.files as usize, directories: arguments.dirs as usize };
    let place = arguments.dir.clone().unwrap_or_else(|| scratch.path().join("kept-by-nobody"));
    progress(&format!("a tree of {} files in {} directories in {}", shape.files, shape.directories, place.display()));
    let began = clock::now();
    let (tree, reused) = Tree::open_or_make(&place, shape, interrupt)?;
    let took = clock::now() - began;
    progress(&if reused { "it was there".to_owned() } else { format!("made in {:.1} s", took.as_secs_f64()) });
    let file_system = limits::file_system(&tree.root).unwrap_or_default();
    let mut bench = Bench { arguments, interrupt, scratch: &scratch, tree, file_system, notes: Vec::new() };
    let mut measured = Vec::new();
    for backend in arguments.watch.backends() {
        match bench.backend(*backend) {
            Ok(on_tree) => measured.push(on_tree),
            // Not everybody may use it; the other one is still worth its figures.
            Err(error) if arguments.watch == Watch::Both && !error.is::<super::Interrupted>() => {
                bench.note(format!("{} is left out: {error:#}", backend.name()));
            }
            Err(error) => return Err(error),
        }
    }
    let complete = measured.iter().all(|one| one.missing == 0 && one.first_copy_ms.is_some());
    let report = ScaleReport {
        fansync: env!("CARGO_PKG_VERSION"),
        machine: super::report::machine(),
        files: shape.files,
        directories: shape.directories,
        file_system: bench.file_system,
        runs: arguments.runs,
        measured,
        notes: bench.notes,
    };
    super::report::print(arguments.json.as_deref(), &report, || report.table())?;
    Ok(if complete { COMPLETE } else { INCOMPLETE })
}

/// How long each bare walk took, in the order of the runs.
#[derive(Debug, Default)]
struct Walks {
    walk: Vec<Duration>,
    add: Vec<Duration>,
    look: Vec<Duration>,
}

/// Shards and walkers of an agent, as it has them by default.
fn threads() -> (usize, usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores.min(4), (cores * 2).clamp(2, 16))
}

/// The median of the ratios within the runs, which holds on a busy machine too.
fn ratio(times: &[Duration], limits: &[Duration]) -> Option<f64> {
    spread(times.iter().zip(limits).map(|(time, limit)| ms(*time) / ms(*limit))).map(|ratios| ratios.median)
}

struct Bench<'a> {
    arguments: &'a ScaleArguments,
    interrupt: &'a Interrupt,
    scratch: &'a Scratch,
    tree: Tree,
    file_system: String,
    notes: Vec<String>,
}

/// Bytes of a spread, which speaks of numbers.
fn of_bytes(values: &[u64]) -> Option<Spread> {
    spread(values.iter().map(|bytes| *bytes as f64))
}

fn of_times(values: &[Duration]) -> Option<Spread> {
    spread(values.iter().copied().map(ms))
}

impl Bench<'_> {
    fn note(&mut self, words: String) {
        progress(&words);
        self.notes.push(words);
    }

    /// The bare walks of one run.
    fn walk(&self, walks: &mut Walks, run: u32) -> anyhow::Result<()> {
        let (threads, look_threads) = threads();
        for (times, bare, threads) in [
            (&mut walks.walk, Bare::Walk, threads),
            (&mut walks.add, Bare::Watches, threads),
            (&mut walks.look, Bare::Looks, look_threads),
        ] {
            let walked = limits::walk(&self.tree.root, bare, threads, self.interrupt)?;
            progress(&format!(
                "bare walk {run}/{}, {bare:?}: {} directories, {} files, {:.1} ms",
                self.arguments.runs,
                walked.directories,
                walked.files,
                ms(walked.took)
            ));
            times.push(walked.took);
        }
        Ok(())
    }

    fn start(&self, backend: Backend, source: &Path, url: &str, state: &Path) -> anyhow::Result<(Mirror, Start)> {
        let order = Order { backend, source, url, state, scratch: self.scratch.path() };
        Mirror::start(&order, self.interrupt)
    }

    fn backend(&mut self, backend: Backend) -> anyhow::Result<OnTree> {
        let resident_empty_bytes = self.on_nothing(backend)?;
        let (mut live, mut root_live, mut known, mut resident) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut watched, mut kernel) = (0, memory::pinned(0, 0, &self.file_system));
        let mut walks = Walks::default();
        // The first walk may have to read the disk.
        limits::walk(&self.tree.root, Bare::Looks, threads().1, self.interrupt)?;
        for run in 1..=self.arguments.runs {
            self.walk(&mut walks, run)?;
            let before = memory::unreclaimable();
            let state = mirror::fresh_state(self.scratch.path(), "live")?;
            let (agent, start) = self.start(backend, &self.tree.root, NOBODY, &state)?;
            // A mark is live before all directories are known.
            let all = self.tree.directories() as u64;
            let began = clock::now();
            let patience = Duration::from_secs(self.arguments.patience);
            self.interrupt.until(patience, Duration::from_millis(20), || {
                watched = agent.number("watched")?;
                Ok(watched >= all)
            })?;
            known.push(start.process + (clock::now() - began));
            let marks = memory::unreclaimable() - before;
            resident.push(agent.resident());
            let watches = if backend == Backend::Inotify { watched } else { 0 };
            kernel = memory::pinned(marks, watches, &self.file_system);
            progress(&format!(
                "{}, start {run}/{}: live after {:.1} ms, {watched} directories after {:.1} ms",
                backend.name(),
                self.arguments.runs,
                ms(start.process),
                known.last().copied().map_or(0.0, ms)
            ));
            live.push(start.process);
            root_live.push(start.root);
        }
        let resident_bytes = of_bytes(&resident);
        let per_directory =
            |spread: Spread| (spread.median - resident_empty_bytes as f64).max(0.0) / self.tree.directories() as f64;
        let mut on_tree = OnTree {
            backend,
            limits: Limits {
                threads: threads().0,
                look_threads: threads().1,
                walk_ms: of_times(&walks.walk),
                walk_add_ms: of_times(&walks.add),
                walk_look_ms: of_times(&walks.look),
            },
            live_ms: of_times(&live),
            root_live_ms: of_times(&root_live),
            known_ms: of_times(&known),
            live_to_walk: ratio(&root_live, &walks.walk),
            live_to_walk_add: ratio(&root_live, &walks.add),
            watched,
            kernel,
            resident_bytes,
            resident_empty_bytes,
            resident_per_directory_bytes: resident_bytes.map(per_directory),
            first_copy_ms: None,
            resident_copied_bytes: 0,
            idle_percent: None,
            restart_live_ms: None,
            restart_ms: None,
            overflow_ms: None,
            overflows: 0,
            missing: 0,
        };
        self.with_a_target(&mut on_tree)?;
        Ok(on_tree)
    }

    /// Resident memory of an agent that has nothing to watch.
    fn on_nothing(&self, backend: Backend) -> anyhow::Result<u64> {
        let empty = self.scratch.path().join("empty");
        fs::create_dir_all(&empty)?;
        let state = mirror::fresh_state(self.scratch.path(), "empty")?;
        let (agent, _) = self.start(backend, &empty, NOBODY, &state)?;
        Ok(agent.resident())
    }

    /// The first copy, and then idleness, restarts and overflows.
    fn with_a_target(&mut self, on_tree: &mut OnTree) -> anyhow::Result<()> {
        let backend = on_tree.backend;
        let patience = Duration::from_secs(self.arguments.patience);
        // The second backend finds the copy of the first, which it compares.
        let target = self.scratch.path().join("target");
        fs::create_dir_all(&target)?;
        let daemon = Daemon::start(&target, self.scratch.path(), &DaemonOptions::default())
            .context("cannot start rsync --daemon")?;
        let state = mirror::fresh_state(self.scratch.path(), backend.name())?;
        let url = daemon.url();
        let began = clock::now();
        let (mut agent, _) = self.start(backend, &self.tree.root, &url, &state)?;
        if !agent.wait_calm(patience, self.interrupt)? {
            self.note(format!("{}: the first copy took longer than {patience:?}", backend.name()));
            progress(&agent.last_words());
            return Ok(());
        }
        let took = clock::now() - began;
        on_tree.first_copy_ms = Some(ms(took));
        on_tree.resident_copied_bytes = agent.resident();
        progress(&format!("{}: everything compared and copied after {:.1} s", backend.name(), took.as_secs_f64()));
        on_tree.idle_percent = Some(self.idle(&mut agent)?);

        let (mut live, mut found) = (Vec::new(), Vec::new());
        for run in 0..self.arguments.runs {
            drop(agent);
            let changed = self.change(u64::from(run))?;
            let began = clock::now();
            let start;
            (agent, start) = self.start(backend, &self.tree.root, &url, &state)?;
            let missing = self.wait_for(&changed, &target, &mut agent)?;
            let took = clock::now() - began;
            progress(&format!(
                "{}, restart {}/{}: live after {:.1} ms, {CHANGED} changes after {:.1} ms",
                backend.name(),
                run + 1,
                self.arguments.runs,
                ms(start.process),
                ms(took)
            ));
            on_tree.missing += missing;
            live.push(start.process);
            if missing == 0 {
                found.push(took);
            }
            agent.wait_calm(patience, self.interrupt)?;
        }
        (on_tree.restart_live_ms, on_tree.restart_ms) = (of_times(&live), of_times(&found));
        drop(agent);
        self.overflows(on_tree, &url, &state, &target)
    }

    /// The agent's share of a core while nothing happens.
    fn idle(&self, agent: &mut Mirror) -> anyhow::Result<f64> {
        let span = Duration::from_secs(self.arguments.idle);
        let (began, before) = (clock::now(), agent.cpu());
        self.interrupt.until(span, span, || {
            agent.check_alive()?;
            Ok(false)
        })?;
        let share = (agent.cpu() - before).as_secs_f64() / (clock::now() - began).as_secs_f64() * 100.0;
        progress(&format!("idle for {} s: {share:.3} % of a core", span.as_secs()));
        Ok(share)
    }

    fn overflows(&mut self, on_tree: &mut OnTree, url: &str, state: &Path, target: &Path) -> anyhow::Result<()> {
        let backend = on_tree.backend;
        let mut took = Vec::new();
        for run in 0..self.arguments.runs {
            // The size of a queue is fixed when it is made.
            let small = match Setting::set(backend.queue_limit(), SMALL_QUEUE) {
                Ok(small) => small,
                Err(error) => {
                    let path = backend.queue_limit();
                    self.note(format!("overflows are left out: cannot write {}: {error}", path.display()));
                    return Ok(());
                }
            };
            let (mut agent, _) = self.start(backend, &self.tree.root, url, state)?;
            drop(small);
            agent.wait_calm(Duration::from_secs(self.arguments.patience), self.interrupt)?;
            let before = agent.number("overflows")?;
            agent.suspend()?;
            self.flood()?;
            let changed = self.change(1000 + u64::from(run))?;
            let began = clock::now();
            agent.resume()?;
            let missing = self.wait_for(&changed, target, &mut agent)?;
            let after = clock::now() - began;
            let overflows = agent.number("overflows")? - before;
            progress(&format!(
                "{}, overflow {}/{}: {overflows} queues, {CHANGED} changes after {:.1} ms",
                backend.name(),
                run + 1,
                self.arguments.runs,
                ms(after)
            ));
            on_tree.overflows += overflows;
            on_tree.missing += missing;
            if missing == 0 && overflows > 0 {
                took.push(after);
            }
        }
        if on_tree.overflows == 0 {
            self.note(format!("{}: no queue overflowed: the agent made its own larger", backend.name()));
        }
        on_tree.overflow_ms = of_times(&took);
        Ok(())
    }

    /// Changes some files; what they are called and how long they are now.
    fn change(&self, seed: u64) -> anyhow::Result<Vec<(String, u64)>> {
        let change = |name: String| -> anyhow::Result<(String, u64)> {
            let path = self.tree.root.join(&name);
            let mut file = OpenOptions::new().append(true).open(path)?;
            file.write_all(MORE)?;
            Ok((name, file.metadata()?.len()))
        };
        self.tree.some_files(CHANGED, seed).into_iter().map(change).collect()
    }

    /// More names that come and go than any queue holds, in the directories of every shard.
    fn flood(&self) -> anyhow::Result<()> {
        let tops = self.tree.tops();
        for top in &tops {
            self.interrupt.check()?;
            for number in 0..FLOOD.div_ceil(tops.len()) {
                let path = top.join(format!("comes-and-goes-{number}"));
                fs::write(&path, "")?;
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Waits until the target has what changed; how much it has not.
    fn wait_for(&self, changed: &[(String, u64)], target: &Path, agent: &mut Mirror) -> anyhow::Result<usize> {
        let mut left = changed.iter().collect::<Vec<_>>();
        self.interrupt.until(Duration::from_secs(self.arguments.patience), POLL, || {
            left.retain(|(name, size)| fs::metadata(target.join(name)).map_or(true, |found| found.len() != *size));
            agent.check_alive()?;
            Ok(left.is_empty())
        })?;
        if let Some((name, _)) = left.first() {
            progress(&format!("{} changes did not arrive, such as {name}\n{}", left.len(), agent.last_words()));
        }
        Ok(left.len())
    }
}

/// A target where nobody is: port 1 of this machine. What is measured until the agent is live is not disturbed by rsync.
const NOBODY: &str = "rsync://127.0.0.1:1/nobody";
