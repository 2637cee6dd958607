//! `sustained`: the highest rate of new files at which 99 of 100 are in place within a second of when they were due.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use super::arguments::Numbers;
use super::arrivals::{Arrivals, Eyes};
use super::ladder::Ladder;
use super::limit::Limit;
use super::load::Content;
use super::measure::{Measurement, Run, Spent, Step, latency};
use super::patience::Interrupt;
use super::report::progress;
use super::scenario::{Scenario, TargetKind, bytes_in_words};
use super::stage::{Cast, Scratch, Stage};
use super::stream::Stream;
use super::subject::Subject;
use crate::sys::clock;

/// The lag that 99 of 100 files must not have.
const LAG_MAX_MS: f64 = 1_000.0;

/// The most files that one rsync is given to compare with.
const LIMIT_FILES_MAX: usize = 20_000;

/// A later run begins at this part of what the one before found.
const AGAIN: f64 = 0.7;

/// What one rate gave.
struct Outcome {
    step: Step,
    run: Run,
}

/// Measures it on a stage of its own.
pub(super) fn measure(
    program: PathBuf,
    numbers: &Numbers,
    patience: Duration,
    scratch: Scratch,
    interrupt: &Interrupt,
) -> anyhow::Result<Measurement> {
    let cast = Cast { subject: Subject::Agent, program, kind: TargetKind::Daemon, relay: None };
    let mut stage = Stage::set(cast, scratch, interrupt)?;
    let content = Content::new(numbers.size, 1);
    let words = format!(
        "files of {} at a steady rate for {} s, the highest rate with a p99 of the lag below {LAG_MAX_MS:.0} ms",
        bytes_in_words(numbers.size),
        numbers.span.as_secs()
    );
    let mut measurement = Measurement::begin(Scenario::Sustained, words, Subject::Agent.name(), TargetKind::Daemon);
    let (mut best, mut steps, mut highest, mut of_limit, mut ratios) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut first = f64::from(numbers.rate);
    let mut lost = 0;
    for number in 1..=numbers.runs {
        let mut ladder = Ladder::from(first, f64::from(numbers.rate_max));
        let mut held: Option<Outcome> = None;
        while let Some(rate) = ladder.next() {
            stage.up(|_| Ok(()))?;
            let name = format!("r{number}-s{}", steps.len());
            let outcome = step(&stage, &name, rate, number, numbers, &content, patience)?;
            progress(&format!("sustained {number}/{}: {}", numbers.runs, step_words(&outcome.step)));
            steps.push(outcome.step);
            // What never arrived is no matter of the rate.
            if outcome.step.missing > 0 {
                lost += outcome.step.missing;
                progress(&stage.last_words());
                break;
            }
            ladder.tell(rate, outcome.step.held);
            if outcome.step.held && held.as_ref().is_none_or(|before| before.step.rate < rate) {
                held = Some(outcome);
            }
        }
        let Some(mut outcome) = held else { break };
        let files = ((outcome.step.rate * numbers.span.as_secs_f64()) as usize).clamp(1, LIMIT_FILES_MAX);
        let took = one_rsync(&stage, number, files, &content)?;
        let per_second = files as f64 / took.as_secs_f64();
        of_limit.push(per_second);
        highest.push(outcome.step.rate);
        ratios.push(outcome.step.rate / per_second);
        outcome.run.limit = Limit { ended: vec![took], ..Limit::default() };
        first = outcome.step.rate * AGAIN;
        best.push(outcome);
        if lost > 0 {
            break;
        }
    }
    let runs: Vec<Run> = best.into_iter().map(|outcome| outcome.run).collect();
    measurement = measurement.of_runs(&runs);
    (measurement.missing, measurement.steps) = (lost, steps);
    measurement.ratio_words = "highest rate, to the files per second of one rsync that has them all".into();
    measurement.ratio = super::measure::spread(ratios.into_iter()).map(|ratios| ratios.median);
    measurement.add("highest_per_s", "highest rate", "files/s", highest.into_iter());
    measurement.add("limit_per_s", "one rsync that has them all", "files/s", of_limit.into_iter());
    if measurement.cpu.rsync_ms > 0.0 {
        let percent = measurement.cpu.own_ms / measurement.cpu.rsync_ms * 100.0;
        let words = "the agent's own CPU, of that of its rsync processes";
        measurement.add("own_to_rsync_percent", words, "%", [percent].into_iter());
    }
    Ok(measurement)
}

fn step(
    stage: &Stage,
    name: &str,
    rate: f64,
    run: u32,
    numbers: &Numbers,
    content: &Content,
    patience: Duration,
) -> anyhow::Result<Outcome> {
    let interrupt = stage.interrupt();
    let files = ((rate * numbers.span.as_secs_f64()).round() as usize).max(1);
    let stream = Stream::new(name.to_owned(), files, content, Duration::from_secs_f64(1.0 / rate));
    stream.prepare(stage.source())?;
    stage.calm()?;
    let arrivals = Arrivals::watch(&[stage.target()], Eyes::Appear)?;
    let (began, subject, daemon, bench) = (clock::now(), stage.work(), stage.daemon_work(), clock::process_cpu());
    let sent = stream.run(stage.source(), &arrivals, 1, interrupt, |number, _| Ok(number < files))?;
    let missing = arrivals.wait(patience, interrupt)?;
    let bench = clock::process_cpu().saturating_sub(bench);
    let (subject, daemon) = (stage.work().since(subject), stage.daemon_work().saturating_sub(daemon));
    let took = clock::now() - began;
    let seen = arrivals.finish();
    let latencies: Vec<Duration> = sent.lags(&seen, 1).collect();
    let lag = latency(latencies.iter().copied());
    let percent = |time: Duration| time.as_secs_f64() / took.as_secs_f64() * 100.0;
    let step = Step {
        run,
        rate,
        latency_ms: lag,
        missing,
        own_percent: percent(subject.own),
        rsync_percent: percent(subject.children),
        held: missing == 0 && lag.is_some_and(|lag| lag.p99 < LAG_MAX_MS),
    };
    let cpu = Spent { subject, daemon, bench, looking: seen.cpu };
    let makespan = sent.last(&seen, 1).map(|last| last.saturating_duration_since(began));
    Ok(Outcome { step, run: Run { makespan, latencies, missing, cpu, late: sent.late, ..Run::default() } })
}

/// How long one rsync takes for so many files in one directory.
fn one_rsync(stage: &Stage, run: u32, files: usize, content: &Content) -> anyhow::Result<Duration> {
    let name = format!("r{run}");
    let directory = stage.limit_source().join(&name);
    fs::create_dir(&directory)?;
    for number in 0..files {
        content.write(&mut File::create_new(directory.join(format!("f{number:06}")))?, number)?;
    }
    let (began, ended) = stage.limit_call().cold(&[name.as_bytes()], &[], stage.interrupt())?;
    Ok(ended - began)
}

fn step_words(step: &Step) -> String {
    let lag = step.latency_ms.map_or_else(|| "nothing arrived".into(), |lag| format!("p99 {:.1} ms", lag.p99));
    let lost = if step.missing > 0 { format!(", {} changes missing", step.missing) } else { String::new() };
    format!("{:.0} files/s, {lag}{lost}, {}", step.rate, if step.held { "held" } else { "too fast" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_in_a_line() {
        let lag = latency([Duration::from_millis(3)].into_iter());
        let mut step =
            Step { run: 1, rate: 400.0, latency_ms: lag, missing: 0, own_percent: 1.0, rsync_percent: 2.0, held: true };
        assert!(step_words(&step).contains("400 files/s, p99 3.0 ms, held"));
        (step.latency_ms, step.missing, step.held) = (None, 7, false);
        assert_eq!(step_words(&step), "400 files/s, nothing arrived, 7 changes missing, too fast");
    }
}
