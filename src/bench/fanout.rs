//! `fanout`: one agent, many daemons, and new files at a steady rate that all of them shall have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;

use super::arguments::Numbers;
use super::arrivals::{Arrivals, Eyes};
use super::cpu::{self, Work};
use super::limit::{Limit, children_cpu};
use super::load::Content;
use super::measure::{Measurement, Run, Spent, latency, ms};
use super::patience::Interrupt;
use super::process::{self, Process};
use super::report::progress;
use super::scenario::{Scenario, TargetKind, bytes_in_words};
use super::stage::{CALM, Cast, LIVE, READY_MAX, Scratch, Stage};
use super::stream::Stream;
use super::subject::Subject;
use crate::lab::{Daemon, DaemonOptions};
use crate::path::RelPath;
use crate::sys::clock;

/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(20);

/// Until an agent with that many targets has nothing left to do; after that the run begins all the same.
const CALM_MAX: Duration = Duration::from_secs(10);

/// One agent and its targets. The order of the fields is the order of the end.
struct Fan<'a> {
    agent: Process,
    daemons: Vec<Daemon>,
    trees: Vec<PathBuf>,
    source: PathBuf,
    interrupt: &'a Interrupt,
}

/// Measures it on a stage of its own.
pub(super) fn measure(
    program: PathBuf,
    numbers: &Numbers,
    patience: Duration,
    scratch: Scratch,
    interrupt: &Interrupt,
) -> anyhow::Result<Measurement> {
    let place = scratch.path().join("fan");
    fs::create_dir(&place)?;
    // Its source and target are not used: it is there for what rsync does alone.
    let cast = Cast { subject: Subject::Agent, program: program.clone(), kind: TargetKind::Daemon, relay: None };
    let stage = Stage::set(cast, scratch, interrupt)?;
    let mut fan = Fan::start(&program, &place, numbers.targets, interrupt)?;
    let content = Content::new(numbers.size, 1);
    let (mut runs, mut percents) = (Vec::new(), Vec::new());
    for number in 1..=numbers.runs {
        let (mut run, percent) = fan.one_run(number, numbers, &content, patience)?;
        run.limit = one_rsync_each(&stage, number, numbers, &content)?;
        let lag = latency(run.latencies.iter().copied());
        progress(&format!(
            "fanout {number}/{}: p99 {:.1} ms over {} targets, {} changes missing, own {:.1} % of a core, rsync {:.1} %",
            numbers.runs,
            lag.map_or(0.0, |lag| lag.p99),
            numbers.targets,
            run.missing,
            percent.own,
            percent.rsync
        ));
        percents.push(percent);
        let missing = run.missing;
        runs.push(run);
        if missing > 0 {
            progress(&fan.agent.last_words());
            break;
        }
    }
    let words = format!(
        "{} new files of {} every second for {} s to {} targets",
        numbers.rate,
        bytes_in_words(numbers.size),
        numbers.span.as_secs(),
        numbers.targets
    );
    let mut measurement =
        Measurement::begin(Scenario::Fanout, words, Subject::Agent.name(), TargetKind::Daemon).of_runs(&runs);
    // Its makespan is that of its schedule; the limit is of one second's files.
    (measurement.ratio, measurement.ratio_words) = (None, "none".into());
    let limits = runs.iter().flat_map(|run| &run.limit.ended).map(|time| ms(*time));
    measurement.limit = None;
    measurement.add(
        "limit_ms",
        "one rsync to each target, one after the other, for the files of a second",
        "ms",
        limits,
    );
    let cpu = runs.iter().map(|run| ms(run.limit.cpu) / 10.0);
    measurement.add("limit_cpu_percent", "their CPU", "% of a core", cpu);
    let mut share = |name: &str, words: &str, field: fn(&Percent) -> f64| {
        measurement.add(name, words, "% of a core", percents.iter().map(field));
    };
    share("own_percent", "CPU of the agent itself", |percent| percent.own);
    share("rsync_percent", "CPU of its rsync processes", |percent| percent.rsync);
    share("daemon_percent", "CPU of the daemons", |percent| percent.daemon);
    share("bench_percent", "CPU of the benchmark, which shares the machine", |percent| percent.bench);
    Ok(measurement)
}

/// Shares of a core while files came.
#[derive(Debug, Clone, Copy)]
struct Percent {
    own: f64,
    rsync: f64,
    daemon: f64,
    bench: f64,
}

impl<'a> Fan<'a> {
    fn start(program: &Path, place: &Path, targets: usize, interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        let source = place.join("source");
        fs::create_dir(&source)?;
        let (mut daemons, mut trees) = (Vec::new(), Vec::new());
        for number in 0..targets {
            let tree = place.join(format!("target-{number}"));
            fs::create_dir(&tree)?;
            daemons
                .push(Daemon::start(&tree, place, &DaemonOptions::default()).context("cannot start rsync --daemon")?);
            trees.push(tree);
            interrupt.check()?;
        }
        let configuration = place.join("fansync.yaml");
        let urls: Vec<String> = daemons.iter().map(Daemon::url).collect();
        fs::write(&configuration, configuration_text(&source, &place.join("state"), &urls)?)?;
        let mut command = process::command(program);
        command.arg("run").arg("--config").arg(configuration).env_remove("FANSYNC_LOG").env_remove("RUST_LOG");
        let agent = Process::start(command, Stdio::null(), place.join("agent.log"))?;
        let mut fan = Self { agent, daemons, trees, source, interrupt };
        fan.wait_ready()?;
        Ok(fan)
    }

    /// It is live, and every target has been reached.
    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let agent = &mut self.agent;
        let live = self.interrupt.until(READY_MAX, POLL, || {
            let live = agent.words().contains(LIVE);
            agent.check_alive()?;
            Ok(live)
        })?;
        anyhow::ensure!(live, "the agent was not live within {READY_MAX:?}\n{}", self.agent.last_words());
        fs::write(self.source.join("probe"), "probe")?;
        let agent = &mut self.agent;
        let all = self.interrupt.until(READY_MAX, POLL, || {
            agent.check_alive()?;
            Ok(self.trees.iter().all(|tree| tree.join("probe").exists()))
        })?;
        anyhow::ensure!(all, "not every target was reached within {READY_MAX:?}\n{}", self.agent.last_words());
        Ok(())
    }

    fn calm(&self) -> anyhow::Result<()> {
        let (mut worked, mut since) = (self.agent.work().all(), clock::now());
        self.interrupt.until(CALM_MAX, CALM / 6, || {
            let (so_far, now) = (self.agent.work().all(), clock::now());
            if so_far != worked {
                (worked, since) = (so_far, now);
            }
            Ok(now.duration_since(since) >= CALM)
        })?;
        Ok(())
    }

    fn daemon_work(&self) -> Duration {
        self.daemons.iter().map(|daemon| cpu::of(daemon.pid())).fold(Work::default(), |sum, work| sum + work).all()
    }

    fn one_run(
        &mut self,
        number: u32,
        numbers: &Numbers,
        content: &Content,
        patience: Duration,
    ) -> anyhow::Result<(Run, Percent)> {
        let files = (f64::from(numbers.rate) * numbers.span.as_secs_f64()).round().max(1.0) as usize;
        let period = Duration::from_secs_f64(1.0 / f64::from(numbers.rate));
        let stream = Stream::new(format!("r{number}"), files, content, period);
        stream.prepare(&self.source)?;
        self.agent.check_alive()?;
        self.calm()?;
        let trees: Vec<&Path> = self.trees.iter().map(PathBuf::as_path).collect();
        let arrivals = Arrivals::watch(&trees, Eyes::Appear)?;
        let (began, subject) = (clock::now(), self.agent.work());
        let (daemon, bench) = (self.daemon_work(), clock::process_cpu());
        let sent = stream.run(&self.source, &arrivals, trees.len(), self.interrupt, |count, _| Ok(count < files))?;
        let missing = arrivals.wait(patience, self.interrupt)?;
        let bench = clock::process_cpu().saturating_sub(bench);
        let (subject, daemon) = (self.agent.work().since(subject), self.daemon_work().saturating_sub(daemon));
        let took = (clock::now() - began).as_secs_f64();
        let seen = arrivals.finish();
        let share = |time: Duration| time.as_secs_f64() / took * 100.0;
        let percent = Percent {
            own: share(subject.own),
            rsync: share(subject.children),
            daemon: share(daemon),
            bench: share(bench),
        };
        let last = sent.last(&seen, trees.len());
        let run = Run {
            makespan: last.filter(|_| missing == 0).map(|last| last.saturating_duration_since(began)),
            latencies: sent.lags(&seen, trees.len()).collect(),
            missing,
            cpu: Spent { subject, daemon, bench, looking: seen.cpu },
            late: sent.late,
            ..Run::default()
        };
        Ok((run, percent))
    }
}

/// One rsync for each target of the files of a second, one after the other: what all targets cost at least, if changes are sent
/// together once in a second.
fn one_rsync_each(stage: &Stage, run: u32, numbers: &Numbers, content: &Content) -> anyhow::Result<Limit> {
    let source = stage.limit_source();
    let names: Vec<RelPath> =
        (0..numbers.targets).map(|target| RelPath::root().join(format!("r{run}-t{target}").as_bytes())).collect();
    for name in &names {
        fs::create_dir(name.below(source))?;
        for number in 0..numbers.rate as usize {
            let path = name.join(format!("f{number:06}").as_bytes());
            content.write(&mut fs::File::create_new(path.below(source))?, number)?;
        }
    }
    let mut took = Duration::ZERO;
    let worked = children_cpu();
    for name in &names {
        let (began, ended) = stage.limit_call().cold(&[name.as_bytes()], &[], stage.interrupt())?;
        took += ended - began;
    }
    let cpu = children_cpu().saturating_sub(worked);
    Ok(Limit { ended: vec![took], cpu, ..Limit::default() })
}

/// A JSON string is one of YAML too.
fn configuration_text(source: &Path, state: &Path, urls: &[String]) -> anyhow::Result<String> {
    let quoted = |path: &Path| -> anyhow::Result<String> {
        let text = path.to_str().with_context(|| format!("{} is not UTF-8: choose --dir", path.display()))?;
        Ok(serde_json::to_string(text)?)
    };
    let mut text = format!(
        "state_dir: {}\ntunables: {{raise: false}}\nroots:\n  - name: fan\n    path: {}\n    targets:\n",
        quoted(state)?,
        quoted(source)?
    );
    for (number, url) in urls.iter().enumerate() {
        text.push_str(&format!("      - {{name: t{number}, url: {}}}\n", serde_json::to_string(url)?));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_the_agent_takes() {
        let scratch = tempfile::tempdir().unwrap();
        let urls = [1, 2].map(|port| format!("rsync://127.0.0.1:{port}/mirror"));
        let source = scratch.path().join("a \"b\"");
        fs::create_dir(&source).unwrap();
        let text = configuration_text(&source, &scratch.path().join("state"), &urls).unwrap();
        let config = crate::config::Config::parse(text.as_bytes(), Path::new("fansync.yaml"))
            .unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        assert_eq!((config.roots.len(), config.roots[0].targets.len()), (1, 2));
        assert_eq!(config.roots[0].path, source);
    }
}
