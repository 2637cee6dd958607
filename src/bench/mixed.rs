//! `mixed`: small files on a schedule, alone, and while large files are on their way to the same target.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::arguments::Numbers;
use super::arrivals::{Arrivals, Eyes};
use super::load::Content;
use super::measure::{Measurement, Run, Spent, latency};
use super::patience::Interrupt;
use super::report::progress;
use super::scenario::{Scenario, TargetKind, bytes_in_words};
use super::stage::{Cast, Scratch, Stage};
use super::stream::Stream;
use super::subject::Subject;
use crate::sys::clock;

/// From one small file to the next.
const PERIOD: Duration = Duration::from_millis(50);

/// Bytes of a small file.
const SMALL: u64 = 10_000;

/// How often the large files are looked for, until they are gone again.
const POLL: Duration = Duration::from_millis(20);

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
    let large = Large::make(&stage, numbers)?;
    let content = Content::new(SMALL, 1);
    let (mut alone, mut runs, mut alone_all) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=numbers.runs {
        stage.up(|_| Ok(()))?;
        let mut run = small_files(&stage, &content, &format!("r{number}-alone"), None, numbers, patience)?;
        let mut beside = Run::default();
        if run.missing == 0 {
            let name = format!("r{number}-beside");
            beside = small_files(&stage, &content, &name, Some((&large, number)), numbers, patience)?;
        }
        let of = |run: &Run| latency(run.latencies.iter().copied()).map_or(0.0, |latency| latency.p99);
        progress(&format!(
            "mixed {number}/{}: p99 {:.1} ms alone, {:.1} ms beside large files, which took {:.1} s",
            numbers.runs,
            of(&run),
            of(&beside),
            beside.makespan.unwrap_or_default().as_secs_f64()
        ));
        let missing = run.missing + beside.missing;
        beside.missing = missing;
        alone.push(of(&run));
        alone_all.append(&mut run.latencies);
        runs.push(beside);
        if missing > 0 {
            progress(&stage.last_words());
            break;
        }
        anyhow::ensure!(
            large.take_back(&stage, number, patience)?,
            "the large files were not deleted from the target within {patience:?}"
        );
    }
    let words = format!(
        "a file of {} every {} ms while {} files of {} are sent",
        bytes_in_words(SMALL),
        PERIOD.as_millis(),
        numbers.files,
        bytes_in_words(numbers.size)
    );
    let mut measurement =
        Measurement::begin(Scenario::Mixed, words, Subject::Agent.name(), TargetKind::Daemon).of_runs(&runs);
    measurement.ratio_words = "p99 of the small files, to their p99 without the large ones".into();
    let without = latency(alone_all.into_iter());
    measurement.ratio =
        measurement.latency_ms.zip(without).map(|(beside, without)| beside.p99 / without.p99.max(0.001));
    if let Some(without) = without {
        measurement.add("alone_p50_ms", "p50 without large files, all runs", "ms", [without.p50].into_iter());
        measurement.add("alone_p99_ms", "p99 without large files, all runs", "ms", [without.p99].into_iter());
    }
    measurement.add("alone_p99_of_runs_ms", "p99 without large files, run by run", "ms", alone.into_iter());
    Ok(measurement)
}

/// Writes small files, with the large ones until those are in place, and without for a while. Its makespan is that of the large ones.
fn small_files(
    stage: &Stage,
    content: &Content,
    name: &str,
    large: Option<(&Large, u32)>,
    numbers: &Numbers,
    patience: Duration,
) -> anyhow::Result<Run> {
    let interrupt = stage.interrupt();
    let most = (if large.is_some() { patience } else { numbers.span }).as_millis() / PERIOD.as_millis();
    let most = usize::try_from(most).unwrap_or(usize::MAX).clamp(1, 1_000_000);
    let stream = Stream::new(name.to_owned(), most, content, PERIOD);
    stream.prepare(stage.source())?;
    stage.calm()?;
    let arrivals = Arrivals::watch(&[stage.target()], Eyes::Appear)?;
    let (subject, daemon, bench) = (stage.work(), stage.daemon_work(), clock::process_cpu());
    if let Some((large, number)) = large {
        large.give(stage, number)?;
    }
    let began = clock::now();
    let mut done: Option<Instant> = None;
    let sent = stream.run(stage.source(), &arrivals, 1, interrupt, |count, since| match large {
        None => Ok(count < most && since < numbers.span),
        Some((large, number)) => {
            if large.are_at(stage.target(), number) {
                done.get_or_insert_with(clock::now);
            }
            // At least one, however small the large ones are.
            Ok(since < patience && (done.is_none() || count == 0))
        }
    })?;
    let mut missing = arrivals.wait(patience, interrupt)?;
    if large.is_some() && done.is_none() {
        missing += large.map_or(0, |(large, number)| large.missing_at(stage.target(), number));
    }
    let bench = clock::process_cpu().saturating_sub(bench);
    let (subject, daemon) = (stage.work().since(subject), stage.daemon_work().saturating_sub(daemon));
    let seen = arrivals.finish();
    Ok(Run {
        makespan: done.map(|done| done - began),
        latencies: sent.lags(&seen, 1).collect(),
        missing,
        cpu: Spent { subject, daemon, bench, looking: seen.cpu },
        late: sent.late,
        ..Run::default()
    })
}

/// The large files: beside the source, moved in and out of it.
struct Large {
    place: PathBuf,
    files: usize,
    size: u64,
}

impl Large {
    fn make(stage: &Stage, numbers: &Numbers) -> anyhow::Result<Self> {
        let large = Self { place: stage.scratch().join("large"), files: numbers.files, size: numbers.size };
        fs::create_dir(&large.place)?;
        for number in 0..large.files {
            let content = Content::new(large.size, number as u64 + 7);
            content.write(&mut File::create_new(large.place.join(number.to_string()))?, number)?;
            stage.interrupt().check()?;
        }
        Ok(large)
    }

    fn names(&self, tree: &Path, run: u32) -> Vec<PathBuf> {
        (0..self.files).map(|number| tree.join(format!("r{run}-large-{number}"))).collect()
    }

    fn give(&self, stage: &Stage, run: u32) -> std::io::Result<()> {
        let names = self.names(stage.source(), run);
        names.iter().enumerate().try_for_each(|(number, name)| fs::rename(self.place.join(number.to_string()), name))
    }

    fn missing_at(&self, tree: &Path, run: u32) -> usize {
        let is_whole = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.len() == self.size);
        self.names(tree, run).iter().filter(|path| !is_whole(path)).count()
    }

    fn are_at(&self, tree: &Path, run: u32) -> bool {
        self.missing_at(tree, run) == 0
    }

    /// Takes them out of the source again; whether they left the target too.
    fn take_back(&self, stage: &Stage, run: u32, patience: Duration) -> anyhow::Result<bool> {
        for (number, name) in self.names(stage.source(), run).iter().enumerate() {
            fs::rename(name, self.place.join(number.to_string()))?;
        }
        let target = self.names(stage.target(), run);
        stage.interrupt().until(patience, POLL, || Ok(!target.iter().any(|path| path.exists())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_there_when_all_of_it_is() {
        let tree = tempfile::tempdir().unwrap();
        let large = Large { place: PathBuf::new(), files: 2, size: 3 };
        fs::write(tree.path().join("r1-large-0"), "abc").unwrap();
        fs::write(tree.path().join("r1-large-1"), "ab").unwrap();
        assert_eq!((large.missing_at(tree.path(), 1), large.are_at(tree.path(), 1)), (1, false));
        fs::write(tree.path().join("r1-large-1"), "abc").unwrap();
        assert!(large.are_at(tree.path(), 1) && !large.are_at(tree.path(), 2));
    }
}
