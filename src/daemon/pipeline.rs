//! The loop of a root's dispatcher thread, and what it tells of itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;

use super::desk::Desk;
use super::inbox::{ErrandBox, Inbox};
use super::lane::LaneInbox;
use super::links::LinkSearch;
use super::ration::Ration;
use super::rounds::Rounds;
use super::saver::{Resume, Saver};
use super::slots::Taker;
use super::thrift::{Thrift, give_back};
use super::walkers::{Asker, RescanProgress, ShardStatus, Walkers};
use crate::change::{Mark, MarkKind, Now, Priority};
use crate::checkpoint::Start;
use crate::dispatch::{Dispatcher, Notice, Report, Waits};
use crate::path::RelPath;
use crate::plan::LinkTable;
use crate::rescan::Scope;
use crate::sys::clock::{self, ClockWatch, WallTime};
use crate::sys::ground::Backend;
use crate::sys::mounts::MountWatch;
use crate::target::TargetId;
use crate::watch::Source;
use crate::worker::link::Link;
use crate::worker::ship::held;

/// Between two readings for `status` and the progress line.
const STATUS_PAUSE: Duration = Duration::from_millis(200);

/// Between two looks whether shards and looks have told what somebody waits for.
const LISTEN_PAUSE: Duration = Duration::from_millis(5);

const CLOCK: Token = Token(1);
const MOUNTS: Token = Token(2);

/// Between two looks at the root itself; before each rsync there is one, too.
const ROOT_PAUSE: Duration = Duration::from_secs(1);

/// Lines about single paths in a minute, per target; the rest is summed up.
const PATH_LINES_MAX: u32 = 10;

/// Lines about a target that stops or begins to take changes.
const PAUSE_LINES_MAX: u32 = 20;

/// What a root says of itself.
#[derive(Debug, Clone, Default)]
pub struct RootStatus {
    /// All directories are watched: changes flow.
    pub live: bool,
    /// Whatever changed before it has its marks, or is done.
    pub watermark: Option<WallTime>,
    /// When the checkpoint was last written; `None` also when no state is kept.
    pub written: Option<WallTime>,
    /// Why it could not be written.
    pub checkpoint_error: Option<String>,
    /// The rescan under way.
    pub rescan: Option<RescanProgress>,
    /// Its shards.
    pub shards: Vec<ShardStatus>,
    /// Its targets.
    pub targets: Vec<TargetStatus>,
}

/// What a target says of itself.
#[derive(Debug, Clone)]
pub struct TargetStatus {
    /// Its name.
    pub name: String,
    /// Marks that wait.
    pub pending: usize,
    /// The comparison of the start is through.
    pub compared: bool,
    /// Directories compared so far.
    pub directories: u64,
}

pub(super) struct TargetLog {
    pub name: String,
    pub latency: Histogram<u64>,
    pub acknowledged: u64,
    pub directories: u64,
    pub compared: bool,
    path_lines: Ration,
    pause_lines: Ration,
    /// Why it takes no changes.
    paused: Option<&'static str>,
}

impl TargetLog {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            // 10 µs to 1 day in two digits: 30 KiB.
            latency: Histogram::new_with_bounds(10, 86_400_000_000, 2).expect("constant bounds"),
            acknowledged: 0,
            directories: 0,
            compared: false,
            path_lines: Ration::new(PATH_LINES_MAX),
            pause_lines: Ration::new(PAUSE_LINES_MAX),
            paused: None,
        }
    }

    /// Says how many lines were kept back, when it is time to; at the end it is.
    fn sum_up(&mut self, now: Instant, end: bool, root: &str) {
        let count = |ration: &mut Ration| if end { ration.take() } else { ration.sum_up(now) };
        let target = self.name.as_str();
        if let Some(lines) = count(&mut self.path_lines) {
            tracing::warn!(root, target, lines, "more path failures were not logged");
        }
        if let Some(lines) = count(&mut self.pause_lines) {
            let state = self.paused.unwrap_or("takes changes");
            tracing::warn!(root, target, lines, state, "the target came and went more often than was logged");
        }
    }
}

pub(super) struct Pipeline {
    pub source: Arc<Source>,
    pub dispatcher: Dispatcher,
    pub poll: Poll,
    pub inbox: Arc<Inbox>,
    pub desk: Arc<Desk>,
    pub waits: Waits,
    pub rounds: Arc<Rounds>,
    pub links: (Arc<Mutex<LinkTable>>, Arc<LinkSearch>),
    pub lanes: Vec<Vec<Arc<LaneInbox>>>,
    pub slots: Taker,
    /// The way to each target.
    pub ways: Vec<Arc<Link>>,
    pub logs: Vec<TargetLog>,
    pub status: Arc<Mutex<RootStatus>>,
    pub stop: Arc<AtomicBool>,
    pub started: Instant,
    pub started_wall: WallTime,
    pub walkers: Arc<Walkers>,
    pub errands: Vec<Arc<ErrandBox>>,
    pub clock_watch: ClockWatch,
    pub mount_watch: MountWatch,
    pub saver: Option<Saver>,
    pub resume: Resume,
    /// Whatever changed before it was marked.
    pub watermark: Option<WallTime>,
}

impl Pipeline {
    /// Runs until it is told to stop and no lane works.
    ///
    /// # Errors
    /// When the poll is broken.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(4);
        let mut told_at = clock::now();
        let mut untold = true;
        let mut live = false;
        let mut thrift = Thrift::default();
        let raw = self.clock_watch.raw();
        self.poll.registry().register(&mut SourceFd(&raw), CLOCK, Interest::READABLE)?;
        if self.resume.paused != (false, Vec::new()) {
            tracing::warn!(root = self.source.name, "still paused, as the run before was: see 'fansync status'");
        }
        let raw = self.mount_watch.raw();
        self.poll.registry().register(&mut SourceFd(&raw), MOUNTS, Interest::PRIORITY)?;
        let mut look_at = clock::now();
        let restored = Now { instant: clock::now(), wall: clock::coarse_now() };
        self.resume.restore(restored, &mut self.dispatcher);
        loop {
            let stopping = self.stop.load(Ordering::Acquire);
            if stopping {
                self.dispatcher.stop();
            }
            let now = Now { instant: clock::now(), wall: clock::coarse_now() };
            if !live && self.source.is_live() {
                live = true;
                self.begin(now);
                give_back(&self.source.name, "the first walk");
                untold = true;
            }
            if events.iter().any(|event| event.token() == CLOCK) && self.clock_watch.was_set()? {
                self.on_clock_set(now);
            }
            // Both first: what they stand for is in the queue by now.
            let (told, restarted) = (self.inbox.watermark(), self.walkers.is_restarted());
            let heard = self.listen();
            // One turn takes what is there now, so that a flood of marks does not keep the lanes idle.
            for _batch in 0..self.inbox.marks.len() {
                let Some(marks) = self.inbox.marks.pop() else { break };
                for mark in &marks {
                    tracing::trace!(root = self.source.name, ?mark, "marked");
                }
                thrift.came(marks.len());
                self.dispatcher.on_marks(now, &marks);
                untold = true;
            }
            if live && restarted && told.is_some() {
                self.watermark = told;
            }
            for log in &mut self.logs {
                log.sum_up(now.instant, false, &self.source.name);
            }
            let mut concluded = false;
            while let Some((target, lane, report)) = self.inbox.reports.pop() {
                concluded |= matches!(report, Report::Concluded { .. });
                // No earlier than what it tells of.
                let heard = Now { instant: clock::now(), ..now };
                for notice in self.dispatcher.on_report(heard, target, lane, report) {
                    self.tell(now.instant, notice);
                }
                untold = true;
            }
            if concluded && self.dispatcher.is_idle() {
                // What is renamed from here on is told from what was sent so far.
                self.errands.iter().for_each(|errands| errands.look());
            }
            self.answer_waits(now, live, heard);
            self.attend(now, live);
            if look_at <= now.instant || events.iter().any(|event| event.token() == MOUNTS) {
                self.look_at_root(now.instant)?;
                look_at = now.instant + ROOT_PAUSE;
                if thrift.is_due(now.instant, self.dispatcher.give_back(now.instant)) {
                    give_back(&self.source.name, "marks that are done");
                }
            }
            for notice in self.dispatcher.release_due(now) {
                self.tell(now.instant, notice);
            }
            for (way, open) in self.ways.iter().zip(self.dispatcher.takes()) {
                way.open(open);
            }
            let mut turn = self.slots.begin();
            for action in self.dispatcher.on_tick_within(now.instant, &mut turn) {
                self.lanes[usize::from(action.target.0)][usize::from(action.lane.0)].order(action.order, turn.next());
            }
            drop(turn);
            if live && let Some(saver) = &mut self.saver {
                let last = stopping && self.dispatcher.is_idle();
                let entries = self.source.entries_to_keep();
                if last {
                    saver.finish(now, self.watermark, entries, &mut self.dispatcher);
                } else {
                    saver.on_turn(now, self.watermark, entries, &mut self.dispatcher);
                }
            }
            if stopping && self.dispatcher.is_idle() {
                self.publish(now.instant, live);
                for log in &mut self.logs {
                    log.sum_up(now.instant, true, &self.source.name);
                }
                self.say_latencies();
                return Ok(());
            }
            if untold && now.instant.saturating_duration_since(told_at) >= STATUS_PAUSE {
                self.publish(now.instant, live);
                (told_at, untold) = (now.instant, false);
            }
            let wake_at = self.dispatcher.wake_at(now.instant);
            let tell_at = untold.then(|| told_at + STATUS_PAUSE);
            let save_at = self.saver.as_ref().filter(|_| live);
            let save_at = save_at.map(|saver| saver.wake_at(now.instant, &self.dispatcher));
            let listen_at = self.waits.listens().then(|| now.instant + LISTEN_PAUSE);
            let sum_up_at = self.logs.iter().flat_map(|log| [log.path_lines.due(), log.pause_lines.due()]).flatten();
            let wait = wake_at
                .into_iter()
                .chain(tell_at)
                .chain(save_at)
                .chain(sum_up_at)
                .chain(listen_at)
                .chain([look_at])
                .min();
            // A millisecond is the poll's grain: rounding down would spin.
            let wait = wait.map(|at| at.saturating_duration_since(clock::now()));
            let wait = if self.inbox.marks.is_empty() { wait } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
        }
    }

    /// Holds everything while the root is not what it was, and goes on when it is again.
    ///
    /// # Errors
    /// When the root was not mounted at the start and is now: it is not the directory that was opened then, so whoever
    /// started the agent has to do it again.
    fn look_at_root(&mut self, now: Instant) -> io::Result<()> {
        let notice = match self.source.check(now) {
            Ok(()) => self.dispatcher.release(),
            Err(fault) if fault.cause == "root_covered" && self.source.was_never_there() => {
                return Err(io::Error::other(format!(
                    "{}: what was missing at the start is mounted now; start fansync again to go on with it",
                    self.source.path.display()
                )));
            }
            Err(fault) => self.dispatcher.hold(now, held(fault)),
        };
        if let Some(notice) = notice {
            self.tell(now, notice);
        }
        Ok(())
    }

    /// Lets what is held for fear of a mistake go: deletes, and a root that is empty. Returns how much that is.
    pub(super) fn approve(&mut self, now: Now, target: Option<TargetId>) -> usize {
        let emptied = self.source.approve_empty();
        if emptied {
            self.dispatcher.approve_pending(target);
        }
        let mut notices = Vec::new();
        let count = self.dispatcher.approve(now, target, &mut notices);
        for notice in notices {
            self.tell(now.instant, notice);
        }
        if let (Ok(()), Some(notice)) = (self.source.check(now.instant), self.dispatcher.release()) {
            self.tell(now.instant, notice);
        }
        count + usize::from(emptied)
    }

    /// The real-time clock was set: ctimes of before and after cannot be compared.
    fn on_clock_set(&mut self, now: Now) {
        tracing::warn!(root = self.source.name, "the system clock was set: comparing everything in the background");
        // Whatever is older is under the mark on everything.
        self.watermark = Some(now.wall);
        self.inbox.forget_watermarks();
        for errands in &self.errands {
            errands.clock_was_set();
        }
        let everything = Mark::new(RelPath::root(), MarkKind::Subtree).priority(Priority::Background);
        self.dispatcher.on_marks(now, &[everything]);
    }

    /// Every directory is watched: say so, and find what changed meanwhile, in the background.
    fn begin(&mut self, now: Now) {
        let reading = self.source.reading();
        // Until now none of them had a watermark, and an idle one looks but once a second.
        for errands in &self.errands {
            errands.wake();
        }
        let since = self.resume.begin(now, &mut self.dispatcher);
        // Without one, whatever is older than this moment is under the mark on everything.
        self.watermark = Some(since.unwrap_or(self.started_wall));
        if let Some(since) = since {
            let scope =
                Scope { path: RelPath::root(), recursive: true, since: since.minus(self.source.slack), known: false };
            self.walkers.ask(Asker::Restart, vec![scope]);
        } else {
            self.source.resumed();
        }
        let (reason, doing) = match self.resume.start {
            Start::Warm { verify: true, .. } => {
                ("another boot", "looking for what changed since the last run, then verifying all")
            }
            Start::Warm { verify: false, .. } => ("checkpoint", "looking for what changed since the last run"),
            Start::Cold { reason } => (reason, "comparing everything in the background"),
        };
        tracing::info!(
            root = self.source.name,
            path = %self.source.path.display(),
            took_ms = u64::try_from((now.instant - self.started).as_millis()).unwrap_or(u64::MAX),
            unwatched = reading.unwatched,
            reason,
            "live: watching {}; {doing}",
            match self.source.choice.backend {
                Backend::Inotify => format!("{} directories", reading.watched),
                Backend::Fanotify => "the file system".to_owned(),
            }
        );
    }

    pub(super) fn publish(&mut self, now: Instant, live: bool) {
        let mut targets = Vec::with_capacity(self.logs.len());
        for (log, (pending, background)) in self.logs.iter_mut().zip(self.dispatcher.progress()) {
            if live && !log.compared && background == 0 && self.walkers.is_restarted() {
                log.compared = true;
                tracing::info!(
                    root = self.source.name,
                    target = log.name,
                    directories = log.directories,
                    took_ms = u64::try_from((now - self.started).as_millis()).unwrap_or(u64::MAX),
                    "everything is compared: the target is the same but for what is pending"
                );
            }
            let (name, compared) = (log.name.clone(), log.compared);
            targets.push(TargetStatus { name, pending, compared, directories: log.directories });
        }
        let keeper = self.saver.as_ref().map(|saver| &saver.keeper);
        let watermarks = (0..).map(|shard| self.inbox.watermark_of(shard));
        let shards = self.walkers.shards().zip(watermarks);
        let status = RootStatus {
            live,
            watermark: self.watermark,
            written: keeper.and_then(|keeper| keeper.written()),
            checkpoint_error: keeper.and_then(|keeper| keeper.error()),
            rescan: self.walkers.progress(),
            shards: shards.map(|(shard, watermark)| ShardStatus { watermark, ..shard }).collect(),
            targets,
        };
        *self.status.lock() = status;
    }

    fn tell(&mut self, now: Instant, notice: Notice) {
        let root = self.source.name.as_str();
        match notice {
            Notice::Acknowledged { target, firsts, background: _, directories } => {
                let log = &mut self.logs[usize::from(target.0)];
                log.acknowledged += firsts.len() as u64;
                log.directories += directories as u64;
                for first in firsts {
                    let micros = now.saturating_duration_since(first).as_micros();
                    log.latency.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
                }
            }
            Notice::PathFailed { target, path, words, attempts, dead_letter } => {
                let log = &mut self.logs[usize::from(target.0)];
                if log.path_lines.may_speak(now) {
                    let target = log.name.as_str();
                    if dead_letter {
                        tracing::error!(root, target, path = %path, words, attempts, "dead letter: retried every 10 min");
                    } else {
                        tracing::warn!(root, target, path = %path, words, attempts, "path failed: retrying");
                    }
                }
            }
            Notice::Paused { target, trouble, failures, pause } => {
                let log = &mut self.logs[usize::from(target.0)];
                log.paused = Some(trouble.cause);
                if log.pause_lines.may_speak(now) {
                    tracing::error!(
                        root,
                        target = log.name,
                        cause = trouble.cause,
                        words = trouble.words,
                        hint = trouble.hint.unwrap_or(""),
                        failures,
                        retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                        "target does not take changes: they are kept"
                    );
                }
            }
            Notice::Resumed { target, failures } => {
                let log = &mut self.logs[usize::from(target.0)];
                log.paused = None;
                if log.pause_lines.may_speak(now) {
                    tracing::info!(root, target = log.name, failures, "target takes changes again");
                }
            }
            Notice::MissingArgsDropped { target } => {
                let target = self.logs[usize::from(target.0)].name.as_str();
                tracing::warn!(
                    root,
                    target,
                    "the receiver cannot take --delete-missing-args (rsync 3.0.x, 3.4.3): deletes go as listings"
                );
            }
            Notice::DeletesHeld { target, marks, deletes, first } => {
                let target = self.logs[usize::from(target.0)].name.as_str();
                tracing::error!(
                    root,
                    target,
                    deletes,
                    marks,
                    first = %first,
                    hint = "if they are meant: fansync approve",
                    "deletes held: more than may go within a minute; everything else is sent"
                );
            }
            Notice::DeletesReleased { target, marks, approved } => {
                let target = self.logs[usize::from(target.0)].name.as_str();
                tracing::warn!(root, target, marks, approved, "the held deletes go now");
            }
            Notice::Held { trouble } => {
                tracing::error!(
                    root,
                    cause = trouble.cause,
                    hint = trouble.hint.unwrap_or(""),
                    words = trouble.words,
                    "held: the root is not what it was; nothing is sent and nothing is deleted until it is back"
                );
            }
            Notice::Released => tracing::info!(root, "the root is back: sending again"),
        }
    }

    /// The latencies, for the line at the end.
    fn say_latencies(&self) {
        for log in &self.logs {
            if !log.latency.is_empty() {
                let ms = |quantile: f64| log.latency.value_at_quantile(quantile) as f64 / 1000.0;
                tracing::info!(
                    root = self.source.name,
                    target = log.name,
                    acknowledged = log.acknowledged,
                    p50_ms = ms(0.5),
                    p99_ms = ms(0.99),
                    max_ms = log.latency.max() as f64 / 1000.0,
                    "latency from the first event to the acknowledgement"
                );
            }
        }
    }
}
