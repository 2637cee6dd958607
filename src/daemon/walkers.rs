//! The walkers of a root: a few threads that make good what was lost, one pass at a time.
//!
//! A shard that lost events, or a start that goes on from a checkpoint, asks for a pass over its scopes. What is asked for
//! while a pass runs waits for the next one and is merged with what waits already, so overflow after overflow leads to
//! one further pass, not to many; and each pass ends, however often it is asked for again. After a pass the walkers rest
//! as long as it took, so that they never take more than half of the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::inbox::{ErrandBox, Inbox};
use super::scouts;
use super::thrift::give_back;
use crate::change::Mark;
use crate::path::RelPath;
use crate::rescan::{self, Finder, Scope, Task};
use crate::sys::clock::{self, WallTime};
use crate::watch::{LossReason, ShardId, Source};

/// Marks handed over at once.
const MARKS: usize = 512;

/// Between two attempts to hand something over.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// Memory is given back after a pass over so many directories: it took long enough for that not to matter.
const THRIFTY: usize = 10_000;

/// The longest rest between two passes.
const REST_MAX: Duration = Duration::from_secs(10);

/// Who asked for a pass, and so whom its end is told. In this order they get their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    /// A start from a checkpoint.
    Restart,
    /// A shard.
    Shard(LossReason, ShardId),
}

impl Asker {
    /// The name of the reason, for the log, metrics and `status`.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Shard(LossReason::Overflow, _) => "overflow",
            Self::Shard(LossReason::Unwatched, _) => "unwatched",
        }
    }
}

/// A pass that waits.
#[derive(Debug, Default)]
struct Request {
    scopes: BTreeMap<RelPath, Scope>,
    /// How many times it was asked for.
    asked: u64,
}

/// The pass under way.
#[derive(Debug)]
struct Pass {
    asker: Asker,
    asked: u64,
    scopes: Vec<Scope>,
    started: Instant,
    directories: AtomicUsize,
    files: AtomicUsize,
    candidates: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Asker, Request>,
    pass: Option<Arc<Pass>>,
    stack: Vec<Task>,
    busy: usize,
    rest_until: Option<Instant>,
    scouts: Scouts,
}

/// Whether walkers run ahead of the shards' first walk ([`scouts`]).
#[derive(Debug)]
enum Scouts {
    /// Not yet: that is looked at now and then.
    Ready(scouts::Progress),
    /// Directories that no scout has taken, and scouts at work.
    Out { stack: Vec<RelPath>, busy: usize },
    /// Not any more, or never: the first walk has ended, or there are passes to be made.
    Over,
}

impl Default for Scouts {
    fn default() -> Self {
        Self::Ready(scouts::Progress::begin())
    }
}

/// What a walker does next.
enum Job {
    /// A directory of a pass.
    Visit(Arc<Pass>, Task),
    /// A directory to be listed ahead of the shards.
    Scout(RelPath),
}

/// What one shard's rescans came to.
#[derive(Debug, Default)]
struct Tally {
    overflows: AtomicU64,
    passes: AtomicU64,
    directories: AtomicU64,
}

/// How far the pass under way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RescanProgress {
    /// Why.
    pub reason: &'static str,
    /// Directories looked through so far.
    pub directories: usize,
    /// Marks made so far.
    pub candidates: usize,
}

/// What one shard says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardStatus {
    /// Directories that it watches.
    pub watched: u64,
    /// Times that its queue overflowed.
    pub overflows: u64,
    /// Passes that made good what it lost.
    pub rescans: u64,
    /// Directories looked through in them.
    pub directories: u64,
    /// Whatever happened before it in this shard's directories is told.
    pub watermark: Option<WallTime>,
}

/// What walkers share with those who ask them.
#[derive(Debug)]
pub(super) struct Walkers {
    state: Mutex<State>,
    wake: Condvar,
    stop: AtomicBool,
    /// Idle walkers, for those at work to see without the lock.
    hungry: AtomicUsize,
    /// Scouts shall go on.
    scouting: AtomicBool,
    tallies: Vec<Tally>,
    restarted: AtomicBool,
    source: Arc<Source>,
    inbox: Arc<Inbox>,
    errands: Vec<Arc<ErrandBox>>,
}

impl Walkers {
    pub(super) fn new(source: Arc<Source>, inbox: Arc<Inbox>, errands: Vec<Arc<ErrandBox>>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            hungry: AtomicUsize::new(0),
            scouting: AtomicBool::new(true),
            tallies: errands.iter().map(|_| Tally::default()).collect(),
            restarted: AtomicBool::new(true),
            source,
            inbox,
            errands,
        })
    }

    /// How many threads: a cold cache wants 8 to 16, and a warm one does not mind (notes/kernel.md 6).
    pub(super) fn threads() -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (cores * 2).clamp(8, 16)
    }

    /// Asks for a pass over `scopes`. A scope that waits already is looked through once, as far back as either wants.
    pub(super) fn ask(&self, asker: Asker, scopes: Vec<Scope>) {
        if asker == Asker::Restart {
            self.restarted.store(false, Ordering::SeqCst);
        }
        if let Asker::Shard(LossReason::Overflow, shard) = asker
            && let Some(tally) = self.tallies.get(usize::from(shard.0))
        {
            tally.overflows.fetch_add(1, Ordering::Relaxed);
        }
        // A pass comes first.
        self.scouting.store(false, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.scouts = Scouts::Over;
        let request = state.waiting.entry(asker).or_default();
        request.asked += 1;
        for scope in scopes {
            request
                .scopes
                .entry(scope.path.clone())
                .and_modify(|waiting| waiting.since = waiting.since.min(scope.since))
                .or_insert(scope);
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Whether all marks of the pass that a start asked for are handed over.
    pub(super) fn is_restarted(&self) -> bool {
        self.restarted.load(Ordering::SeqCst)
    }

    /// The pass under way.
    pub(super) fn progress(&self) -> Option<RescanProgress> {
        let pass = self.state.lock().pass.clone()?;
        Some(RescanProgress {
            reason: pass.asker.reason(),
            directories: pass.directories.load(Ordering::Relaxed),
            candidates: pass.candidates.load(Ordering::Relaxed),
        })
    }

    /// What each shard lost, and what was done about it; without the watermarks.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardStatus> {
        self.tallies.iter().zip(self.source.watched_each()).map(|(tally, watched)| ShardStatus {
            watched,
            overflows: tally.overflows.load(Ordering::Relaxed),
            rescans: tally.passes.load(Ordering::Relaxed),
            directories: tally.directories.load(Ordering::Relaxed),
            watermark: None,
        })
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _state = self.state.lock();
        self.wake.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// A walker's thread.
    pub(super) fn run(&self) {
        while let Some(job) = self.next() {
            let (pass, task) = match job {
                Job::Visit(pass, task) => (pass, task),
                Job::Scout(path) => {
                    self.scout(path);
                    continue;
                }
            };
            let mut at_work = AtWork { walkers: self, pass: &pass, stack: vec![task], marks: Vec::new() };
            at_work.run();
            at_work.hand_over();
            let mut state = self.state.lock();
            state.busy -= 1;
            if state.busy == 0 && state.stack.is_empty() && !self.is_stopping() {
                state.pass = None;
                let took = clock::now().saturating_duration_since(pass.started);
                state.rest_until = Some(clock::now() + took.min(REST_MAX));
                drop(state);
                self.finish(&pass, took);
                self.wake.notify_all();
            }
        }
    }

    /// Waits for something to do; `None` at the end.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if self.is_stopping() {
                return None;
            }
            if let Some(pass) = state.pass.clone() {
                if let Some(task) = state.stack.pop() {
                    state.busy += 1;
                    return Some(Job::Visit(pass, task));
                }
                self.hungry.fetch_add(1, Ordering::Relaxed);
                self.wake.wait(&mut state);
                self.hungry.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            if let Some(path) = self.next_to_scout(&mut state) {
                return Some(Job::Scout(path));
            }
            if !matches!(state.scouts, Scouts::Over) {
                self.hungry.fetch_add(1, Ordering::Relaxed);
                let _either = self.wake.wait_for(&mut state, scouts::LOOK_PAUSE);
                self.hungry.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let resting = state.rest_until.filter(|until| *until > clock::now());
            // A start does not rest: nothing was walked for it yet.
            let may_begin = resting.is_none() || state.waiting.contains_key(&Asker::Restart);
            match (may_begin, resting, state.waiting.is_empty()) {
                (true, _, false) => self.begin(&mut state),
                (false, Some(until), false) => {
                    let _either = self.wake.wait_until(&mut state, until);
                }
                (..) => self.wake.wait(&mut state),
            }
        }
    }

    /// A directory to be listed ahead of the shards' first walk, if that is of use.
    fn next_to_scout(&self, state: &mut State) -> Option<RelPath> {
        if matches!(state.scouts, Scouts::Over) {
            return None;
        }
        if self.source.is_live() {
            self.scouting.store(false, Ordering::Relaxed);
            state.scouts = Scouts::Over;
            return None;
        }
        if let Scouts::Ready(progress) = &state.scouts
            && progress.is_slow(&self.source, self.errands.len())
        {
            let threads = Self::threads();
            tracing::debug!(root = self.source.name, threads, "the first walk waits for the disk: reading ahead of it");
            state.scouts = Scouts::Out { stack: vec![RelPath::root()], busy: 0 };
        }
        let Scouts::Out { stack, busy } = &mut state.scouts else { return None };
        match stack.pop() {
            Some(path) => {
                *busy += 1;
                Some(path)
            }
            None if *busy > 0 => None,
            None => {
                state.scouts = Scouts::Over;
                None
            }
        }
    }

    /// Lists a directory and all beneath it, as long as that is of use.
    fn scout(&self, path: RelPath) {
        let mut mine = vec![path];
        while let Some(path) = mine.pop() {
            if !self.scouting.load(Ordering::Relaxed) || self.is_stopping() || self.source.is_live() {
                break;
            }
            scouts::scout(&self.source, &path, &mut mine);
            if mine.len() > 1
                && self.hungry.load(Ordering::Relaxed) > 0
                && let Scouts::Out { stack, .. } = &mut self.state.lock().scouts
            {
                stack.extend(mine.drain(..mine.len() / 2));
                self.wake.notify_all();
            }
        }
        if let Scouts::Out { busy, .. } = &mut self.state.lock().scouts {
            *busy -= 1;
        }
    }

    fn begin(&self, state: &mut State) {
        let Some((asker, request)) = state.waiting.pop_first() else { return };
        let scopes: Vec<Scope> = request.scopes.into_values().collect();
        tracing::debug!(
            root = self.source.name,
            reason = asker.reason(),
            scopes = scopes.len(),
            since = scopes.iter().map(|scope| scope.since.0).min(),
            "rescan begins"
        );
        state.stack = rescan::begin(&scopes);
        let pass = Pass {
            asker,
            asked: request.asked,
            scopes,
            started: clock::now(),
            directories: AtomicUsize::new(0),
            files: AtomicUsize::new(0),
            candidates: AtomicUsize::new(0),
        };
        if state.stack.is_empty() {
            // A shard without directories: nothing to look through, but somebody waits for the end.
            self.finish(&pass, Duration::ZERO);
        } else {
            state.pass = Some(Arc::new(pass));
        }
        self.wake.notify_all();
    }

    fn finish(&self, pass: &Pass, took: Duration) {
        let directories = pass.directories.load(Ordering::Relaxed);
        let said = (
            directories,
            pass.files.load(Ordering::Relaxed),
            pass.candidates.load(Ordering::Relaxed),
            u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        );
        let (root, reason) = (&self.source.name, pass.asker.reason());
        if directories >= THRIFTY {
            give_back(root, "a rescan");
        }
        match pass.asker {
            Asker::Restart => {
                tracing::info!(
                    root,
                    reason,
                    directories = said.0,
                    files = said.1,
                    candidates = said.2,
                    took_ms = said.3,
                    "rescan finished"
                );
                self.restarted.store(true, Ordering::SeqCst);
                self.source.resumed();
                self.inbox.wake();
            }
            Asker::Shard(_, shard) => {
                // At debug: under a steady flood there is one after the other.
                tracing::debug!(
                    root,
                    reason,
                    shard = shard.0,
                    directories = said.0,
                    files = said.1,
                    candidates = said.2,
                    took_ms = said.3,
                    "rescan finished"
                );
                if let Some(tally) = self.tallies.get(usize::from(shard.0)) {
                    tally.passes.fetch_add(1, Ordering::Relaxed);
                    tally.directories.fetch_add(directories as u64, Ordering::Relaxed);
                }
                self.errands[usize::from(shard.0)].made_good(pass.asked);
            }
        }
    }
}

/// One walker in one pass: its own stack, shared when others have nothing to do.
struct AtWork<'a> {
    walkers: &'a Walkers,
    pass: &'a Pass,
    stack: Vec<Task>,
    marks: Vec<Mark>,
}

impl AtWork<'_> {
    fn run(&mut self) {
        while let Some(task) = self.stack.pop() {
            if self.walkers.is_stopping() {
                return;
            }
            self.pass.directories.fetch_add(1, Ordering::Relaxed);
            rescan::visit(&self.walkers.source, &self.pass.scopes, &task, self);
            if self.marks.len() >= MARKS {
                self.hand_over();
            }
            if self.stack.len() > 1 && self.walkers.hungry.load(Ordering::Relaxed) > 0 {
                // The older half: what lies higher up leads to more.
                let shared = self.stack.drain(..self.stack.len() / 2).collect::<Vec<Task>>();
                self.walkers.state.lock().stack.extend(shared);
                self.walkers.wake.notify_all();
            }
        }
    }

    /// Hands the marks to the dispatcher; waits while it has too many already.
    fn hand_over(&mut self) {
        let mut marks = std::mem::take(&mut self.marks);
        self.pass.candidates.fetch_add(marks.len(), Ordering::Relaxed);
        while !marks.is_empty() && !self.walkers.is_stopping() {
            match self.walkers.inbox.send_marks(marks) {
                Ok(()) => return,
                Err(back) => {
                    marks = back;
                    std::thread::park_timeout(FULL_PAUSE);
                }
            }
        }
    }
}

impl Finder for AtWork<'_> {
    fn mark(&mut self, mark: Mark) {
        self.marks.push(mark);
    }

    fn recheck(&mut self, directory: &RelPath) {
        let Asker::Shard(_, shard) = self.pass.asker else { return };
        let mut waiting = directory.clone();
        while let Err(back) = self.walkers.errands[usize::from(shard.0)].recheck(waiting) {
            if self.walkers.is_stopping() {
                return;
            }
            waiting = back;
            std::thread::park_timeout(FULL_PAUSE);
        }
    }

    fn descend(&mut self, task: Task) {
        self.stack.push(task);
    }

    fn files(&mut self, count: usize) {
        self.pass.files.fetch_add(count, Ordering::Relaxed);
    }
}
