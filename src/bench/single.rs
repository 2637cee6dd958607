//! The scenarios of single files: burst, trickle, delete, small, rewrite and latency-wan, with any subject.

use std::path::Path;
use std::time::Duration;

use super::arguments::Numbers;
use super::arrivals::Arrivals;
use super::load::Load;
use super::measure::{Measurement, Run, Spent, ms};
use super::patience::Interrupt;
use super::report::progress;
use super::scenario::{Scenario, TargetKind};
use super::stage::{Cast, Scratch, Stage};
use super::subject::Subject;
use super::{compare, limit};
use crate::path::RelPath;
use crate::sys::clock;

/// What is measured.
#[derive(Debug)]
pub(super) struct Single<'a> {
    pub(super) scenario: Scenario,
    pub(super) kind: TargetKind,
    pub(super) subject: Subject,
    pub(super) program: &'a Path,
    pub(super) numbers: Numbers,
    pub(super) patience: Duration,
}

impl Single<'_> {
    /// Measures it on a stage of its own.
    pub(super) fn measure(&self, scratch: Scratch, interrupt: &Interrupt) -> anyhow::Result<Measurement> {
        let Numbers { runs: count, files, size, rtt, .. } = self.numbers;
        let cast = Cast {
            subject: self.subject,
            program: self.program.to_owned(),
            kind: self.kind,
            relay: (self.scenario == Scenario::LatencyWan).then_some(rtt / 2),
        };
        let mut stage = Stage::set(cast, scratch, interrupt)?;
        let mut runs = Vec::new();
        for number in 1..=count {
            let load = Load::new(self.scenario, files, size, number as usize);
            let missing = self.make_ready(&mut stage, &load)?;
            let run = if missing == 0 { self.one_run(&stage, &load)? } else { Run { missing, ..Run::default() } };
            progress(&format!("{}, {number}/{count}, {}", self.name(), progress_words(&run)));
            let complete = run.missing == 0;
            if !complete && self.subject == Subject::Agent {
                progress(&stage.last_words());
            }
            runs.push(run);
            // What is still under way would disturb the next run, and would be measured there.
            if !complete {
                break;
            }
        }
        let words = self.scenario.load_words(files, size);
        let mut measurement = Measurement::begin(self.scenario, words, self.subject.name(), self.kind).of_runs(&runs);
        if self.scenario == Scenario::LatencyWan {
            in_round_trips(&mut measurement, &runs, rtt);
        }
        Ok(measurement)
    }

    fn name(&self) -> String {
        format!("{} to {}, {}", self.scenario.name(), self.kind.name(), self.subject.name())
    }

    /// The subject works, and what must be there before is in place; how much of it is not.
    fn make_ready(&self, stage: &mut Stage, load: &Load) -> anyhow::Result<usize> {
        let interrupt = stage.interrupt().clone();
        let first = |source: &Path| if load.needs_files() { load.prepare(source, &interrupt) } else { Ok(()) };
        if stage.ready(first)? || !load.needs_files() {
            return Ok(0);
        }
        let arrivals = Arrivals::watch(&[stage.target()], load.eyes())?;
        arrivals.expect_all(&load.paths, load.prepared());
        load.prepare(stage.source(), &interrupt)?;
        let missing = arrivals.wait(self.patience, &interrupt)?;
        stage.calm()?;
        Ok(missing)
    }

    fn one_run(&self, stage: &Stage, load: &Load) -> anyhow::Result<Run> {
        let interrupt = stage.interrupt();
        let arrivals = Arrivals::watch(&[stage.target()], load.eyes())?;
        arrivals.expect_all(&load.paths, load.want());
        let (subject, daemon, bench) = (stage.work(), stage.daemon_work(), clock::process_cpu());
        let written = load.perform(stage.source(), interrupt)?;
        let missing = arrivals.wait(self.patience, interrupt)?;
        let bench = clock::process_cpu().saturating_sub(bench);
        let (subject, daemon) = (stage.work().since(subject), stage.daemon_work().saturating_sub(daemon));
        let seen = arrivals.finish();
        let cpu = Spent { subject, daemon, bench, looking: seen.cpu };
        let mut run = Run { missing, cpu, late: written.late, ..Run::default() };
        let mut last = written.first;
        for (path, since) in load.paths.iter().zip(&written.since) {
            let Some(at) = seen.at(0, path) else { continue };
            last = last.max(at);
            run.latencies.push(at.saturating_duration_since(*since));
            if !is_as_it_should_be(load, path, stage)? {
                run.different += 1;
            }
        }
        if missing == 0 {
            run.makespan = Some(last.saturating_duration_since(written.first));
        }
        run.limit = limit::of_load(stage, load)?;
        Ok(run)
    }
}

/// A deleted file is gone on both sides; else both have the same bytes.
fn is_as_it_should_be(load: &Load, path: &RelPath, stage: &Stage) -> std::io::Result<bool> {
    let (ours, theirs) = (path.below(stage.source()), path.below(stage.target()));
    if load.want() == super::arrivals::Want::Gone {
        return Ok(!theirs.exists());
    }
    compare::same_content(&ours, &theirs)
}

fn in_round_trips(measurement: &mut Measurement, runs: &[Run], rtt: Duration) {
    let in_rtt = |value: f64| value / ms(rtt);
    measurement.words = format!("{}, round trip {} ms", measurement.words, rtt.as_millis());
    let p50 = runs.iter().filter_map(|run| super::measure::latency(run.latencies.iter().copied()));
    measurement.add("p50_rtt", "p50 of one file", "RTT", p50.map(|latency| in_rtt(latency.p50)));
    for (name, words, values) in [
        ("cold_rtt", "one rsync, in place", runs.iter().flat_map(|run| &run.limit.in_place).collect::<Vec<_>>()),
        ("warm_rtt", "warm rsync, in place", runs.iter().flat_map(|run| &run.limit.warm).collect()),
    ] {
        measurement.add(name, words, "RTT", values.into_iter().map(|time| in_rtt(ms(*time))));
    }
}

fn progress_words(run: &Run) -> String {
    let span = match (run.makespan, run.missing) {
        (Some(makespan), _) => format!("{:.1} ms", ms(makespan)),
        (None, missing) => format!("{missing} changes missing"),
    };
    let p50 = super::measure::latency(run.latencies.iter().copied());
    let p50 = p50.map_or_else(String::new, |latency| format!(", p50 {:.1} ms", latency.p50));
    let limit = run.limit.ended.iter().min().map_or_else(String::new, |it| format!(", one rsync {:.1} ms", ms(*it)));
    format!("{span}{p50}{limit}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Measures 20 files with a shell loop in the agent's place, which runs `each` on and on; `$source` and
    /// `$target` are what the agent is given.
    fn measure(scenario: Scenario, kind: TargetKind, runs: u32, each: &str) -> Measurement {
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("stand-in");
        let text = format!(
            "#!/bin/sh\nsource=$2 target=$3\necho 'live: watching 1 directories' >&2\n\
             while :; do {each}; sleep 0.01; done\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let numbers = Numbers {
            runs,
            files: 20,
            size: scenario.size(),
            span: Duration::from_secs(1),
            rate: 1,
            rate_max: 1,
            targets: 1,
            rtt: Duration::from_millis(10),
            are_defaults: false,
        };
        let patience = Duration::from_secs(3);
        let single = Single { scenario, kind, subject: Subject::Agent, program: &program, numbers, patience };
        let stage = Scratch::create(scratch.path(), "bench").unwrap();
        let measurement = single.measure(stage, &Interrupt::never()).unwrap();
        let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["stand-in"], "the stage is gone");
        measurement
    }

    #[test]
    fn what_arrives_is_measured_against_one_rsync() {
        let measurement = measure(Scenario::Burst, TargetKind::Daemon, 2, "rsync -a --delete $source/ $target/");
        assert!(measurement.is_complete());
        assert_eq!(measurement.runs, 2);
        assert!(measurement.ratio.unwrap() > 0.0 && measurement.latency_ms.unwrap().p50 > 0.0);
    }

    #[test]
    fn files_that_never_arrive_are_missing_and_end_the_scenario() {
        let measurement =
            measure(Scenario::Burst, TargetKind::Daemon, 2, "rsync -a --delete --exclude=*-f00007 $source/ $target/");
        assert_eq!((measurement.missing, measurement.different, measurement.runs), (1, 0, 1));
        assert_eq!(measurement.makespan_ms, None);
    }

    #[test]
    fn what_is_rewritten_counts_when_the_new_bytes_are_there() {
        let measurement = measure(Scenario::Rewrite, TargetKind::Local, 1, "rsync -aI --delete $source/ $target/");
        assert!(measurement.is_complete(), "{measurement:?}");
        let measurement =
            measure(Scenario::Rewrite, TargetKind::Local, 1, "rsync -a --ignore-existing --delete $source/ $target/");
        assert_eq!((measurement.missing, measurement.runs), (20, 1));
    }
}
