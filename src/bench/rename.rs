//! `rename`: a directory gets another name; how long until the target has it under the new one and not under the old one, and
//! what goes over the wire for it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use super::arguments::Numbers;
use super::arrivals::{Arrivals, Eyes, Want};
use super::compare;
use super::limit::Limit;
use super::load::Content;
use super::measure::{Measurement, Run, Spent, ms};
use super::patience::Interrupt;
use super::process::{self, Process};
use super::relay::Carried;
use super::report::progress;
use super::scenario::{Scenario, TargetKind, bytes_in_words};
use super::stage::{Cast, Scratch, Stage};
use super::subject::Subject;
use crate::path::RelPath;
use crate::sys::clock;

/// Until rsync has linked or sent it all.
const RSYNC_MAX: Duration = Duration::from_secs(600);

/// Measures it on a stage of its own.
pub(super) fn measure(
    program: PathBuf,
    numbers: &Numbers,
    patience: Duration,
    scratch: Scratch,
    interrupt: &Interrupt,
) -> anyhow::Result<Measurement> {
    let relay = Some(Duration::ZERO);
    let cast = Cast { subject: Subject::Agent, program, kind: TargetKind::Daemon, relay };
    let mut stage = Stage::set(cast, scratch, interrupt)?;
    let content = Content::new(numbers.size, 1);
    make_sparse(&stage, numbers)?;
    let (mut runs, mut wires, mut limit_wires) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=numbers.runs {
        stage.ready(|source| make(source, numbers.files, &content, interrupt))?;
        let (mut run, wire) = one_run(&stage, number, numbers, patience)?;
        progress(&format!(
            "rename {number}/{}: {}, {:.1} KB there, {:.1} KB back",
            numbers.runs,
            run.makespan.map_or_else(|| format!("{} names missing", run.missing), |it| format!("{:.1} ms", ms(it))),
            kb(wire.there),
            kb(wire.back)
        ));
        wires.push(wire);
        let missing = run.missing;
        if missing == 0 {
            let (limit, carried) = one_rsync(&stage, number)?;
            run.limit = limit;
            limit_wires.push(carried);
        }
        runs.push(run);
        if missing > 0 {
            progress(&stage.last_words());
            break;
        }
    }
    let all = numbers.size.saturating_mul(numbers.files as u64);
    let words = format!("a directory of {} files, {}, gets another name", numbers.files, bytes_in_words(all));
    let mut measurement =
        Measurement::begin(Scenario::Rename, words, Subject::Agent.name(), TargetKind::Daemon).of_runs(&runs);
    measurement.ratio_words =
        "to one rsync with --link-dest and one that deletes the old name, from start to end; within each run".into();
    // How soon single names are there says nothing: they count together.
    measurement.latency_ms = None;
    for (name, words, values) in [
        ("wire_kb", "on the wire, both directions", &wires),
        ("limit_wire_kb", "on the wire, rsync alone with --link-dest", &limit_wires),
    ] {
        measurement.add(name, words, "KB", values.iter().map(|carried| kb(carried.all())));
    }
    measurement.add("wire_there_kb", "to the target", "KB", wires.iter().map(|carried| kb(carried.there)));
    measurement.add("wire_back_kb", "from the target", "KB", wires.iter().map(|carried| kb(carried.back)));
    Ok(measurement)
}

fn kb(bytes: u64) -> f64 {
    bytes as f64 / 1_000.0
}

/// What the directory is called after so many renames.
fn name(number: u32) -> RelPath {
    RelPath::root().join(format!("name-{number}").as_bytes())
}

fn files(directory: &RelPath, count: usize) -> impl Iterator<Item = RelPath> + '_ {
    (0..count).map(|number| directory.join(format!("f{number:06}").as_bytes()))
}

fn make(root: &Path, count: usize, content: &Content, interrupt: &Interrupt) -> anyhow::Result<()> {
    fs::create_dir(name(0).below(root))?;
    for (number, path) in files(&name(0), count).enumerate() {
        content.write(&mut File::create_new(path.below(root))?, number)?;
        interrupt.check()?;
    }
    Ok(())
}

fn one_run(stage: &Stage, number: u32, numbers: &Numbers, patience: Duration) -> anyhow::Result<(Run, Carried)> {
    let interrupt = stage.interrupt();
    let (old, new) = (name(number - 1), name(number));
    let arrivals = Arrivals::watch(&[stage.target()], Eyes::Both)?;
    for path in files(&new, numbers.files) {
        arrivals.expect(0, path, Want::File(numbers.size));
    }
    arrivals.expect(0, old.clone(), Want::Gone);
    let carried = stage.carried();
    let (subject, daemon, bench) = (stage.work(), stage.daemon_work(), clock::process_cpu());
    let began = clock::now();
    fs::rename(old.below(stage.source()), new.below(stage.source()))?;
    let missing = arrivals.wait(patience, interrupt)?;
    let bench = clock::process_cpu().saturating_sub(bench);
    // What follows belongs to it: times of directories, above all.
    stage.calm()?;
    let carried = stage.carried().since(carried);
    let (subject, daemon) = (stage.work().since(subject), stage.daemon_work().saturating_sub(daemon));
    let seen = arrivals.finish();
    let last = files(&new, numbers.files).chain([old]).filter_map(|path| seen.at(0, &path)).max();
    let mut different = 0;
    for path in files(&new, if missing == 0 { numbers.files } else { 0 }) {
        interrupt.check()?;
        if !compare::same_content(&path.below(stage.source()), &path.below(stage.target()))? {
            different += 1;
        }
    }
    let makespan = last.filter(|_| missing == 0).map(|last| last.saturating_duration_since(began));
    let cpu = Spent { subject, daemon, bench, looking: seen.cpu };
    Ok((Run { makespan, missing, different, cpu, ..Run::default() }, carried))
}

/// The same for rsync alone: files of the same sizes and times on both sides are the same to it, so these hold nothing.
fn make_sparse(stage: &Stage, numbers: &Numbers) -> anyhow::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for tree in [stage.limit_source(), stage.limit_end().directory()] {
        fs::create_dir(name(0).below(tree))?;
        for path in files(&name(0), numbers.files) {
            let file = File::create_new(path.below(tree))?;
            file.set_len(numbers.size)?;
            file.set_modified(time)?;
        }
    }
    Ok(())
}

fn one_rsync(stage: &Stage, number: u32) -> anyhow::Result<(Limit, Carried)> {
    let (old, new) = (name(number - 1), name(number));
    let (source, end, interrupt) = (stage.limit_source(), stage.limit_end(), stage.interrupt());
    let carried = end.carried();
    fs::rename(old.below(source), new.below(source))?;
    let mut link = process::command("rsync");
    link.args(["--sockopts=TCP_NODELAY", "-a", "--modify-window=-1"]).arg(format!("--link-dest=/{old}"));
    let mut address = end.address();
    address.push(format!("/{new}/"));
    link.arg(new.below(source).join("")).arg(address);
    let began = clock::now();
    Process::start(link, Stdio::null(), stage.scratch().join("limit.log"))?.finish(RSYNC_MAX, interrupt)?;
    let (_, ended) = stage.limit_call().cold(&[old.as_bytes()], &[], interrupt)?;
    let is_moved = !old.below(end.directory()).exists() && new.below(end.directory()).exists();
    anyhow::ensure!(is_moved, "rsync ended, and the target has not the new name only");
    Ok((Limit { ended: vec![ended - began], ..Limit::default() }, end.carried().since(carried)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_one_another_and_files_keep_theirs() {
        assert_eq!(name(3).as_bytes(), b"name-3");
        let scratch = tempfile::tempdir().unwrap();
        make(scratch.path(), 3, &Content::new(7, 1), &Interrupt::never()).unwrap();
        let all: Vec<_> = files(&name(0), 3).map(|path| path.below(scratch.path())).collect();
        assert!(all.len() == 3 && all.iter().all(|path| fs::metadata(path).unwrap().len() == 7));
    }
}
