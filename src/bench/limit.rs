//! What rsync takes alone, for the same changes, to a target of the same kind: no agent that uses rsync can be faster. Taken
//! between the runs, so that ratios hold on a busy machine too, and under the same eyes.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::arrivals::{Arrivals, Want};
use super::load::Load;
use super::patience::Interrupt;
use super::process::{self, Process};
use super::stage::{End, Stage};
use crate::path::RelPath;
use crate::sys::child::memory_file;
use crate::sys::clock;

/// Until one rsync has sent a load.
const RSYNC_MAX: Duration = Duration::from_secs(600);

/// rsync has ended: until we have seen what it did.
const SEEN_MAX: Duration = Duration::from_secs(10);

/// Longer than it takes over the longest line.
const WARM_MAX: Duration = Duration::from_secs(10);

/// Between two looks at it.
const WARM_POLL: Duration = Duration::from_millis(4);

/// What rsync took.
#[derive(Debug, Default)]
pub(super) struct Limit {
    /// From its start to its end; for single files one for each.
    pub(super) ended: Vec<Duration>,
    /// From its start until the last file was in place.
    pub(super) in_place: Vec<Duration>,
    /// One that was started ahead: from its list to the file in place.
    pub(super) warm: Vec<Duration>,
    /// Processor time of those that were not warm, on the sending side.
    pub(super) cpu: Duration,
}

/// How an rsync is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    /// Where from.
    pub(super) source: &'a Path,
    /// Where to.
    pub(super) target: &'a End,
    /// For its words.
    pub(super) scratch: &'a Path,
    /// A warm one that has not worked for so long is connected, and waits for its list: longer than the line is.
    pub(super) rest: Duration,
}

impl Call<'_> {
    /// The fastest that we know. `-r` again, since a list turns off the one that is in `-a` (rsync(1), --files-from).
    fn command(self, more: &[&str]) -> Command {
        let mut command = process::command("rsync");
        command.args(["--sockopts=TCP_NODELAY", "-a", "-r", "-W", "--delete-missing-args", "--force"]);
        // As the agent has it: what was rewritten within a second would be skipped else.
        command.arg("--modify-window=-1");
        command.args(["--from0", "--files-from=-"]).args(more).arg(self.source).arg(self.target.address());
        command
    }

    /// One rsync of these names: when it was started and when it had ended.
    pub(super) fn cold(
        self,
        names: &[&[u8]],
        more: &[&str],
        interrupt: &Interrupt,
    ) -> anyhow::Result<(Instant, Instant)> {
        let stdin = Stdio::from(memory_file(&list(names))?);
        let began = clock::now();
        let ended =
            Process::start(self.command(more), stdin, self.scratch.join("limit.log"))?.finish(RSYNC_MAX, interrupt)?;
        Ok((began, ended))
    }

    /// The same by one that was started ahead: when it got its list.
    fn warm(self, names: &[&[u8]], interrupt: &Interrupt) -> anyhow::Result<Instant> {
        let (stdin, feed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let process = Process::start(self.command(&[]), Stdio::from(stdin), self.scratch.join("limit.log"))?;
        wait_until_at_rest(&process, self.rest, interrupt)?;
        let list = list(names);
        let began = clock::now();
        feed_all(feed, &list)?;
        process.finish(RSYNC_MAX, interrupt)?;
        Ok(began)
    }
}

/// Names as rsync reads them.
fn list(names: &[&[u8]]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        list.extend_from_slice(name);
        list.push(0);
    }
    list
}

fn feed_all(feed: OwnedFd, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::File::from(feed).write_all(bytes)
}

fn wait_until_at_rest(process: &Process, rest: Duration, interrupt: &Interrupt) -> anyhow::Result<()> {
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.filter_map(|line| line.rsplit('\t').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let (mut before, mut since) = (switches(), clock::now());
    interrupt.until(WARM_MAX, WARM_POLL, || {
        let (switched, now) = (switches(), clock::now());
        if switched != before {
            (before, since) = (switched, now);
        }
        Ok(now - since >= rest)
    })?;
    Ok(())
}

/// rsync alone with a load, in the limit's source and target: of all at once, or where the load is one of single files, of one
/// after the other, every second one by an rsync that was started ahead.
pub(super) fn of_load(stage: &Stage, load: &Load) -> anyhow::Result<Limit> {
    let (call, interrupt) = (stage.limit_call(), stage.interrupt());
    let source = stage.limit_source();
    if load.needs_files() {
        load.prepare(source, interrupt)?;
        call.cold(&load.top_names(), &[], interrupt)?;
    }
    let arrivals = Arrivals::watch(&[stage.limit_end().directory()], load.eyes())?;
    let want = load.want();
    load.perform_at_once(source, interrupt)?;
    if load.is_of_single_files() {
        return one_by_one(call, load, arrivals, want, interrupt);
    }
    arrivals.expect_all(&load.paths, want);
    let worked = children_cpu();
    let (began, ended) = call.cold(&load.top_names(), &[], interrupt)?;
    let cpu = children_cpu().saturating_sub(worked);
    wait_for_all(&arrivals, interrupt)?;
    let seen = arrivals.finish();
    let last = load.paths.iter().filter_map(|path| seen.at(0, path)).max();
    let in_place = last.map(|last| last.saturating_duration_since(began));
    Ok(Limit { ended: vec![ended - began], in_place: in_place.into_iter().collect(), warm: Vec::new(), cpu })
}

fn one_by_one(
    call: Call<'_>,
    load: &Load,
    arrivals: Arrivals,
    want: Want,
    interrupt: &Interrupt,
) -> anyhow::Result<Limit> {
    let mut limit = Limit::default();
    let (mut colds, mut warms) = (Vec::new(), Vec::new());
    for (number, path) in load.paths.iter().enumerate() {
        arrivals.expect(0, path.clone(), want);
        let name = [path.as_bytes()];
        if number % 2 == 0 {
            let worked = children_cpu();
            let (began, ended) = call.cold(&name, &[], interrupt)?;
            limit.cpu += children_cpu().saturating_sub(worked);
            limit.ended.push(ended - began);
            colds.push((path, began));
        } else {
            warms.push((path, call.warm(&name, interrupt)?));
        }
        wait_for_all(&arrivals, interrupt)?;
    }
    let seen = arrivals.finish();
    let took = |(path, began): (&RelPath, Instant)| Some(seen.at(0, path)?.saturating_duration_since(began));
    limit.in_place = colds.into_iter().filter_map(took).collect();
    limit.warm = warms.into_iter().filter_map(took).collect();
    Ok(limit)
}

fn wait_for_all(arrivals: &Arrivals, interrupt: &Interrupt) -> anyhow::Result<()> {
    let missing = arrivals.wait(SEEN_MAX, interrupt)?;
    anyhow::ensure!(missing == 0, "rsync ended, and {missing} of its files are not on the target");
    Ok(())
}

/// Processor time of the children that this process has reaped.
pub(super) fn children_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let time = |value: nix::sys::time::TimeVal| {
        let micros = value.tv_sec().saturating_mul(1_000_000).saturating_add(value.tv_usec());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    time(usage.user_time()) + time(usage.system_time())
}
