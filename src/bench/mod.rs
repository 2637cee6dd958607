//! `fansync bench` and `fansync demo`: the claims, reproduced on the reader's machine.
//!
//! A run changes a source tree while the agent, as a process of its own, keeps a target the same; the target is watched, and a
//! change counts when it is in place there. What rsync takes alone for the same changes, the limit of any agent that uses
//! rsync, is measured between the runs, so that ratios hold on a busy machine too. Names are new in every run. Loads with a
//! schedule count from it, not from when they were written (open loop): neither a slow target nor a late writer makes a latency
//! smaller. With `--peer` others are measured in the agent's place on the same load.
//!
//! Left out: targets on other machines, and a death of this process by SIGKILL, which leaves the stage behind.

mod arguments;
mod arrivals;
mod claim;
mod compare;
mod cpu;
pub mod demo;
mod drain;
mod fanout;
mod foreign;
mod goal;
mod ladder;
mod limit;
mod load;
mod machine;
mod measure;
mod mirror;
mod mixed;
mod patience;
mod picture;
mod process;
mod reader;
mod relay;
mod rename;
mod report;
mod scale;
mod scenario;
mod single;
mod stage;
mod stream;
mod subject;
mod sustained;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use arguments::Numbers;
use machine::Machine;
use measure::Measurement;
use patience::{Interrupt, Interrupted};
use report::{FORMAT, Report};
use scenario::{Scenario, TargetKind};
use single::Single;
use stage::Scratch;
use subject::Subject;

pub use arguments::{BenchArguments, ClaimArguments, More, Peer};

/// Exit code when everything arrived.
const COMPLETE: u8 = 0;

/// Exit code when files are missing or different, or the trees are.
const INCOMPLETE: u8 = 1;

/// Exit code after a signal, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// How long a peer has for its last file.
const PEER_PATIENCE: Duration = Duration::from_secs(60);

/// Exit codes, for the help of what lies beneath `bench`.
const EXIT_CODES: &str = "Exit codes:\n  0  done, everything arrived\n  1  failed, or something did not arrive\n  2  wrong \
                          usage\n\nFANSYNC_LOG sets the log level: error, warn, info (default), debug, trace.";

/// Runs the benchmark and prints its report. Returns the exit code: 0, or 1 when changes of the agent did not arrive as
/// they are, or 130 after a signal. What peers lose is reported, but does not count, nor does a promise that is not kept.
///
/// # Errors
/// When the stage cannot be set (no rsync, no room, no watch left) or somebody on it ends unexpectedly.
pub fn run(arguments: &BenchArguments) -> anyhow::Result<u8> {
    let result = match &arguments.more {
        None if !arguments.from_json.is_empty() => read_again(arguments).map(|()| COMPLETE),
        None => Bench::new(arguments).and_then(|bench| bench.run(|_report| None)),
        Some(More::Claim(arguments)) => {
            Bench::new(&arguments.as_bench()).and_then(|bench| bench.run(|report| Some(claim::verdict(report))))
        }
        Some(More::Scale(arguments)) => scale::run(arguments, &Interrupt::watch()?),
        Some(More::Reader(arguments)) => reader::run(arguments, &Interrupt::watch()?),
        Some(More::Foreign(arguments)) => foreign::run(arguments, &Interrupt::watch()?),
    };
    match result {
        Err(error) if error.is::<Interrupted>() => Ok(INTERRUPTED),
        other => other,
    }
}

/// Tells again what was measured before.
fn read_again(arguments: &BenchArguments) -> anyhow::Result<()> {
    let mut reports = arguments.from_json.iter().map(|file| Report::read(file));
    let mut report = reports.next().expect("there is one")?;
    for other in reports {
        let other = other?;
        if other.machine.processor != report.machine.processor || other.machine.kernel != report.machine.kernel {
            report.notes.push(format!("a part is of another machine: {}", other.machine.words()));
        }
        report.measurements.extend(other.measurements);
        report.notes.extend(other.notes);
        report.verdict = report.verdict.or(other.verdict);
    }
    tell(arguments, &report)
}

/// The table or JSON, and the picture.
fn tell(arguments: &BenchArguments, report: &Report) -> anyhow::Result<()> {
    report::print(arguments.json.as_deref(), report, || report.table())?;
    if let Some(file) = &arguments.svg {
        std::fs::write(file, picture::draw(report)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

struct Bench<'a> {
    arguments: &'a BenchArguments,
    parent: PathBuf,
    interrupt: Interrupt,
    report: Report,
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a BenchArguments) -> anyhow::Result<Self> {
        let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
        // Half an hour of measuring is not to be lost because of that.
        for file in arguments.json.iter().chain(&arguments.svg).filter(|file| file.as_os_str() != "-") {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let is_there = folder.is_none_or(Path::is_dir) && !file.is_dir();
            anyhow::ensure!(is_there, "cannot write {}: name a file in a directory that exists", file.display());
        }
        let report = Report {
            format: FORMAT,
            fansync: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine::look(&parent),
            verdict: None,
            notes: Vec::new(),
            measurements: Vec::new(),
        };
        Ok(Self { arguments, parent, interrupt: Interrupt::watch()?, report })
    }

    fn run(mut self, verdict: impl FnOnce(&Report) -> Option<String>) -> anyhow::Result<u8> {
        let subjects = self.subjects();
        let mut code = COMPLETE;
        for scenario in self.arguments.chosen() {
            for kind in self.arguments.targets_of(scenario) {
                for (subject, program) in &subjects {
                    let is_agent = *subject == Subject::Agent;
                    if !(is_agent || scenario.is_of_single_files() && subject.takes(kind)) {
                        continue;
                    }
                    let measurement = match self.measure(scenario, kind, *subject, program) {
                        Ok(measurement) => measurement,
                        // A peer that does not work must not hide what the others do.
                        Err(error) if !is_agent && !error.is::<Interrupted>() => {
                            self.note(format!("{} failed: {error:#}", subject.name()));
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    if is_agent && !measurement.is_complete() {
                        code = INCOMPLETE;
                    }
                    self.report.measurements.push(measurement);
                }
            }
        }
        self.report.verdict = verdict(&self.report);
        tell(self.arguments, &self.report)?;
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

    fn measure(
        &self,
        scenario: Scenario,
        kind: TargetKind,
        subject: Subject,
        program: &Path,
    ) -> anyhow::Result<Measurement> {
        let numbers = self.arguments.numbers(scenario);
        let patience = Duration::from_secs(self.arguments.patience);
        let patience = if subject == Subject::Agent { patience } else { patience.min(PEER_PATIENCE) };
        let scratch = Scratch::create(&self.parent, "bench")?;
        let by = match scenario {
            Scenario::Mixed => mixed::measure,
            Scenario::Rename => rename::measure,
            Scenario::Fanout => fanout::measure,
            Scenario::Sustained => sustained::measure,
            Scenario::Burst
            | Scenario::Trickle
            | Scenario::Delete
            | Scenario::Small
            | Scenario::Rewrite
            | Scenario::LatencyWan => {
                let single = Single { scenario, kind, subject, program, numbers, patience };
                return Ok(judged(subject, numbers, single.measure(scratch, &self.interrupt)?));
            }
        };
        let measurement = by(program.to_owned(), &numbers, patience, scratch, &self.interrupt)?;
        Ok(judged(subject, numbers, measurement))
    }
}

/// With what is promised of the agent at the numbers that the promises are about.
fn judged(subject: Subject, numbers: Numbers, mut measurement: Measurement) -> Measurement {
    if subject == Subject::Agent && numbers.are_defaults {
        measurement.goals = goal::of(&measurement);
    }
    measurement
}
