//! `fansync bench` and `fansync demo`: the claims, reproduced on the reader's machine.
//!
//! A run writes a load into a source tree while the agent, as a process of its own, keeps a target behind a throw-away
//! rsync daemon the same; the target is watched, and a file counts when it is in place there. What one rsync takes for
//! the same files, the limit of any agent that uses rsync, is measured between the runs, so that ratios hold on a busy
//! machine too. Names are new in every run. With `--peer` others are measured in the agent's place on the same load.
//!
//! Left out: targets on other machines, loads that change files that are there, and a death of this process by SIGKILL,
//! which leaves the stage behind.

mod arrivals;
mod compare;
pub mod demo;
mod drain;
mod foreign;
mod load;
mod measure;
mod mirror;
mod patience;
mod process;
mod reader;
mod report;
mod scale;
mod stage;
mod subject;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use arrivals::Arrivals;
use load::Load;
use measure::{Measurement, Run, ms};
use patience::{Interrupt, Interrupted};
use report::Report;
use stage::{Scratch, Stage};
use subject::Subject;

/// Exit code when everything arrived.
const COMPLETE: u8 = 0;

/// Exit code when files are missing or different, or the trees are.
const INCOMPLETE: u8 = 1;

/// Exit code after a signal, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// How long a peer has for its last file.
const PEER_PATIENCE: Duration = Duration::from_secs(60);

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// 200 files of 100 KB at once.
    Burst,
    /// One file of 10 KB every 250 ms, 60 files.
    Trickle,
    /// 20,000 files of 1 KB in 200 new directories.
    Small,
}

/// Who is measured besides the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// lsyncd, delay 1 s.
    Lsyncd,
    /// A shell loop of inotifywait and rsync.
    Inotifywait,
    /// sersync2.
    Sersync2,
    /// All of them.
    All,
}

/// Exit codes, for the help of what lies beneath `bench`.
const EXIT_CODES: &str = "Exit codes:\n  0  done, everything arrived\n  1  failed, or something did not arrive\n  2  wrong \
                          usage\n\nFANSYNC_LOG sets the log level: error, warn, info (default), debug, trace.";

/// What else is measured, each with arguments of its own.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum More {
    /// Starts, memory, restarts and overflows on a tree of many directories, beside bare walks of it
    Scale(scale::ScaleArguments),
    /// Two writers that create, write, close and unlink in the root as fast as they can: what the reader costs
    Reader(reader::ReaderArguments),
    /// Unrelated writes on the same file system: what they cost the agent that has a mark on it (fanotify; takes root)
    Foreign(foreign::ForeignArguments),
}

/// Measures how soon changes are on the target, beside one rsync of the same files and, if asked, other tools
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArguments {
    /// Something else
    #[command(subcommand)]
    pub more: Option<More>,
    /// What is written; without it all three, one after the other
    #[arg(value_enum, value_name = "SCENARIO")]
    pub scenarios: Vec<Scenario>,
    /// Runs of each scenario
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Files in a run, instead of the scenario's own number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub files: Option<u32>,
    /// Writes JSON to a file; `-` prints it instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Measures these too, if they are installed (sersync2 sets kernel limits; they are put back)
    #[arg(long, value_enum, value_name = "PEER")]
    pub peer: Vec<Peer>,
    /// Where the scratch directory is made [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How long the last file may take after the last write
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
}

impl Peer {
    fn subjects(self) -> &'static [Subject] {
        match self {
            Self::Lsyncd => &[Subject::Lsyncd],
            Self::Inotifywait => &[Subject::Script],
            Self::Sersync2 => &[Subject::Sersync],
            Self::All => &[Subject::Lsyncd, Subject::Script, Subject::Sersync],
        }
    }
}

/// Runs the benchmark and prints its report. Returns the exit code: 0, or 1 when files of the agent did not arrive as
/// they are, or 130 after a signal. What peers lose is reported, but does not count.
///
/// # Errors
/// When the stage cannot be set (no rsync, no room, no watch left) or somebody on it ends unexpectedly.
pub fn run(arguments: &BenchArguments) -> anyhow::Result<u8> {
    let result = match &arguments.more {
        None => Bench::new(arguments).and_then(|bench| bench.run()),
        Some(More::Scale(arguments)) => scale::run(arguments, &Interrupt::watch()?),
        Some(More::Reader(arguments)) => reader::run(arguments, &Interrupt::watch()?),
        Some(More::Foreign(arguments)) => foreign::run(arguments, &Interrupt::watch()?),
    };
    match result {
        Err(error) if error.is::<Interrupted>() => Ok(INTERRUPTED),
        other => other,
    }
}

struct Bench<'a> {
    arguments: &'a BenchArguments,
    interrupt: Interrupt,
    report: Report,
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a BenchArguments) -> anyhow::Result<Self> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let report = Report { fansync: env!("CARGO_PKG_VERSION"), cpus, notes: Vec::new(), measurements: Vec::new() };
        Ok(Self { arguments, interrupt: Interrupt::watch()?, report })
    }

    fn run(mut self) -> anyhow::Result<u8> {
        let scenarios = match &self.arguments.scenarios[..] {
            [] => &[Scenario::Burst, Scenario::Trickle, Scenario::Small],
            chosen => chosen,
        };
        let subjects = self.subjects();
        let mut code = COMPLETE;
        for scenario in scenarios {
            for (subject, program) in &subjects {
                let measurement = match self.measure(*scenario, *subject, program) {
                    Ok(measurement) => measurement,
                    // A peer that does not work must not hide what the others do.
                    Err(error) if *subject != Subject::Agent && !error.is::<Interrupted>() => {
                        self.note(format!("{} failed: {error:#}", subject.name()));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if *subject == Subject::Agent && !measurement.is_complete() {
                    code = INCOMPLETE;
                }
                self.report.measurements.push(measurement);
            }
        }
        report::print(self.arguments.json.as_deref(), &self.report, || self.report.table())?;
        Ok(code)
    }

    /// Who is measured, and with which program.
    fn subjects(&mut self) -> Vec<(Subject, PathBuf)> {
        let mut chosen = vec![Subject::Agent];
        for subject in self.arguments.peer.iter().flat_map(|peer| peer.subjects()) {
            if !chosen.contains(subject) {
                chosen.push(*subject);
            }
        }
        let mut subjects = Vec::new();
        for subject in chosen {
            match subject.program() {
                Some(program) => subjects.push((subject, program)),
                None => self.note(format!("{} is not installed: nothing to compare with", subject.name())),
            }
        }
        subjects
    }

    fn note(&mut self, words: String) {
        report::progress(&words);
        self.report.notes.push(words);
    }

    fn measure(&self, scenario: Scenario, subject: Subject, program: &Path) -> anyhow::Result<Measurement> {
        let files = self.arguments.files.map_or_else(|| scenario.files(), |files| files as usize);
        let parent = self.arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
        let mut stage = Stage::set(subject, program.to_owned(), Scratch::create(&parent, "bench")?, &self.interrupt)?;
        let patience = match subject {
            Subject::Agent => Duration::from_secs(self.arguments.patience),
            _ => PEER_PATIENCE.min(Duration::from_secs(self.arguments.patience)),
        };
        let mut runs = Vec::new();
        for number in 1..=self.arguments.runs {
            stage.ready()?;
            let load = Load::new(scenario, files, number as usize);
            let run = self.one_run(scenario, &stage, &load, patience)?;
            report::progress(&progress_line(scenario, subject, number, self.arguments.runs, &run));
            let complete = run.missing == 0;
            if !complete && subject == Subject::Agent {
                report::progress(&stage.last_words());
            }
            runs.push(run);
            // What is still under way would disturb the next run, and would be measured there.
            if !complete {
                break;
            }
        }
        Ok(Measurement::of(scenario, subject.name(), files, &runs))
    }

    fn one_run(&self, scenario: Scenario, stage: &Stage, load: &Load, patience: Duration) -> anyhow::Result<Run> {
        let arrivals = Arrivals::expect(stage.target(), &load.paths, load.file_size())?;
        let cpu_before = stage.cpu();
        let written = load.write(stage.source(), &self.interrupt)?;
        let arrived = arrivals.wait(patience, &self.interrupt)?;
        let mut run = Run {
            missing: load.paths.len() - arrived.len(),
            cpu: stage.cpu().saturating_sub(cpu_before),
            late: written.late_max,
            ..Run::default()
        };
        for (path, closed) in load.paths.iter().zip(&written.closed) {
            let Some(at) = arrived.get(path) else { continue };
            run.latencies.push(at.saturating_duration_since(*closed));
            if !compare::same_content(&path.below(stage.source()), &path.below(stage.target()))? {
                run.different += 1;
            }
        }
        if run.missing == 0 {
            run.makespan = arrived.values().max().map(|last| last.saturating_duration_since(written.first));
        }
        let lists = match scenario {
            Scenario::Burst | Scenario::Small => vec![load.top_names()],
            Scenario::Trickle => load.top_names().into_iter().map(|name| vec![name]).collect(),
        };
        run.limits = stage.limit(load, &lists)?;
        Ok(run)
    }
}

fn progress_line(scenario: Scenario, subject: Subject, number: u32, runs: u32, run: &Run) -> String {
    let span = match (run.makespan, run.missing) {
        (Some(makespan), _) => format!("{:.1} ms", ms(makespan)),
        (None, missing) => format!("{missing} files missing"),
    };
    let limit = match scenario {
        Scenario::Trickle => String::new(),
        Scenario::Burst | Scenario::Small => {
            run.limits.first().map(|limit| format!(", one rsync {:.1} ms", ms(*limit))).unwrap_or_default()
        }
    };
    format!("{scenario:?} {number}/{runs}, {}: {span}{limit}", subject.name())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Measures a burst of 20 files with a shell loop in the agent's place, which runs `each` on and on; `$source` and
    /// `$target` are what the agent is given.
    fn burst(each: &str) -> Measurement {
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("stand-in");
        let text = format!(
            "#!/bin/sh\nsource=$2 target=$3\necho 'live: watching 1 directories' >&2\n\
             while :; do {each}; sleep 0.01; done\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let arguments = BenchArguments {
            more: None,
            scenarios: vec![Scenario::Burst],
            runs: 2,
            files: Some(20),
            json: None,
            peer: Vec::new(),
            dir: Some(scratch.path().to_owned()),
            patience: 3,
        };
        let bench = Bench {
            arguments: &arguments,
            interrupt: Interrupt::never(),
            report: Report { fansync: "0", cpus: 1, notes: Vec::new(), measurements: Vec::new() },
        };
        let measurement = bench.measure(Scenario::Burst, Subject::Agent, &program).unwrap();
        let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["stand-in"], "the stage is gone");
        measurement
    }

    #[test]
    fn what_arrives_is_measured_against_one_rsync() {
        let measurement = burst("rsync -a --delete $source/ $target/");
        assert!(measurement.is_complete());
        assert_eq!(measurement.runs, 2);
        assert!(measurement.ratio.unwrap() > 0.0 && measurement.latency_ms.unwrap().p50 > 0.0);
    }

    #[test]
    fn files_that_never_arrive_are_missing_and_end_the_scenario() {
        let measurement = burst("rsync -a --delete --exclude=*-f00007 $source/ $target/");
        assert_eq!((measurement.missing, measurement.different, measurement.runs), (1, 0, 1));
        assert_eq!(measurement.makespan_ms, None);
    }
}
