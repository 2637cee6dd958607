//! The loop of one shard's thread: wait, pause, drain, walk, hand over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;

use super::inbox::{ErrandBox, Inbox};
use super::links::LinkSearch;
use super::rounds::Rounds;
use super::walkers::{Asker, Walkers};
use crate::change::{CTIME_SLACK, Content, Mark, MarkKind, Priority};
use crate::path::RelPath;
use crate::plan::LinkTable;
use crate::rescan::Scope;
use crate::sys::clock::{self, WallTime};
use crate::watch::{Errand, LostScope, Shard};

pub(super) const WAKE: Token = Token(0);
const EVENTS: Token = Token(1);

/// Between the wake-up and the read when the shard was idle: long enough that a small file's create, write and close
/// are read together, short enough not to be seen. Below the poll's grain of 1 ms, so the thread itself pauses.
const PAUSE_IDLE: Duration = Duration::from_micros(250);

/// The same under load, where it saves the reader and the writers 60 % of their cost (notes/kernel.md 1.1).
const PAUSE_BUSY: Duration = Duration::from_millis(3);

/// A drain within this time of the last one means load.
const BUSY_WITHIN: Duration = Duration::from_millis(20);

/// Between two looks at a queue that says nothing, which tell that nothing happened so far.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Directories walked between two looks at the queue.
const WALK_SLICE: usize = 256;

/// Marks kept while the dispatcher's queue is full, before they widen to one mark on the whole root.
const KEPT_MAX: usize = 200_000;

/// Between two attempts to hand over kept marks.
const KEPT_PAUSE: Duration = Duration::from_millis(5);

pub(super) struct ShardLoop {
    pub shard: Shard,
    pub poll: Poll,
    pub inbox: Arc<Inbox>,
    pub errands: Vec<Arc<ErrandBox>>,
    pub stop: Arc<AtomicBool>,
    pub source: Arc<crate::watch::Source>,
    pub kept: Vec<Mark>,
    /// When the oldest of them was made.
    pub kept_since: Option<WallTime>,
    pub waiting_errands: Vec<Errand>,
    /// The trunk's first errands are handed over.
    pub dealt: bool,
    pub told_live: bool,
    pub walkers: Arc<Walkers>,
    /// Losses that are not made good yet.
    pub owed: u64,
    pub rounds: Arc<Rounds>,
    pub links: (Arc<Mutex<LinkTable>>, Arc<LinkSearch>),
    /// The last round since whose beginning the queue was read to its end.
    pub drained: u64,
}

/// All of a scope, whatever its ctimes say.
fn compare(scope: LostScope) -> Mark {
    let kind = if scope.recursive { MarkKind::Subtree } else { MarkKind::Listing };
    let mut mark = Mark::new(scope.path, kind).priority(Priority::Background);
    mark.changes_names = false;
    mark
}

impl ShardLoop {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When the inotify instance or the poll is broken: nothing can be trusted then and the agent ends.
    pub(super) fn run(mut self) -> io::Result<()> {
        let raw = self.shard.raw();
        self.poll.registry().register(&mut SourceFd(&raw), EVENTS, Interest::READABLE)?;
        let mut events = Events::with_capacity(16);
        let mut readable = true;
        let mut read_at: Option<Instant> = None;
        // While it pauses, the poll does not tell of the queue: each event would be a wake-up, and that is what the pause saves.
        let mut listening = true;
        let mut last_drain = clock::now();
        let mut looked = last_drain;
        loop {
            let now = clock::now();
            let tick = self.shard.on_tick(now);
            let walking = self.shard.work(0);
            self.hand_over();
            let rechecks = self.errands[usize::from(self.shard.id().0)].has_rechecks();
            let yields = self.owed == 0 && self.shard.is_yielding();
            let timeout = if walking || rechecks || yields || (readable && read_at.is_none()) {
                Some(Duration::ZERO)
            } else {
                let kept = (!self.kept.is_empty()).then(|| now + KEPT_PAUSE);
                // Idle or not, the watermark goes on.
                let look = looked + LOOK_PAUSE;
                let wake_at = tick.into_iter().chain(read_at).chain(kept).chain([look]).min();
                wake_at.map(|at| at.saturating_duration_since(now))
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            let now = clock::now();
            for event in &events {
                if event.token() == EVENTS && read_at.is_none() && !readable {
                    // Wait a little: more of the same file is on its way.
                    if now.saturating_duration_since(last_drain) < BUSY_WITHIN {
                        read_at = Some(now + PAUSE_BUSY);
                        self.poll.registry().deregister(&mut SourceFd(&raw))?;
                        listening = false;
                    } else {
                        std::thread::park_timeout(PAUSE_IDLE);
                        readable = true;
                    }
                }
            }
            let asked = self.errands[usize::from(self.shard.id().0)].take_look();
            let look = asked || now.saturating_duration_since(looked) >= LOOK_PAUSE;
            let due = readable || read_at.is_some_and(|at| at <= now);
            // Read before the queue is: whatever happened before the round was asked for is in the queue by now.
            let round = self.rounds.asked();
            if due || look || yields || round > self.drained {
                read_at = None;
                // Edge-triggered: until the queue was read to its end there will be no further event.
                readable = !self.shard.drain()?;
                if !std::mem::replace(&mut listening, true) {
                    // Says at once what has come since the drain.
                    self.poll.registry().register(&mut SourceFd(&raw), EVENTS, Interest::READABLE)?;
                }
                if !readable {
                    self.drained = round;
                }
                looked = clock::now();
                last_drain = if due { looked } else { last_drain };
            }
            if self.errands[usize::from(self.shard.id().0)].take_clock_set() {
                self.shard.clock_was_set();
            }
            let (rechecks, made_good) = self.errands[usize::from(self.shard.id().0)].take_rechecks();
            self.shard.recheck(&rechecks);
            self.owed = self.owed.saturating_sub(made_good);
            let errands = self.errands[usize::from(self.shard.id().0)].take();
            if !errands.is_empty() {
                self.shard.on_errands(errands);
            }
            self.shard.work(WALK_SLICE);
            self.hand_over();
            self.shard.let_go_of_yielded(self.owed > 0);
            self.publish();
            if !self.told_live && self.source.is_live() {
                self.told_live = true;
                self.inbox.wake();
            }
        }
    }

    /// Says up to which moment everything is told, if it is.
    fn publish(&mut self) {
        let told = self.kept.is_empty() && self.waiting_errands.is_empty() && self.dealt && self.owed == 0;
        if told && self.source.is_settled() {
            let watermark = self.shard.watermark(clock::now());
            self.inbox.publish(self.shard.id(), watermark);
            let id = self.shard.id();
            if self.drained > self.rounds.told_by(id)
                && self.rounds.tell(id, self.drained, self.shard.unwatched_since())
            {
                self.inbox.wake();
            }
        }
    }

    /// Marks first, then the errands that were made after them (see [`Shard`]).
    fn hand_over(&mut self) {
        for loss in self.shard.losses() {
            if !self.source.ctimes_tell {
                self.kept.extend(loss.scopes.into_iter().map(compare));
                continue;
            }
            let known = loss.known;
            let scope = |LostScope { path, recursive, since }| Scope { path, recursive, since, known };
            let scopes = loss.scopes.into_iter().map(scope).collect();
            self.owed += 1;
            self.walkers.ask(Asker::Shard(loss.reason, self.shard.id()), scopes);
        }
        let nameless = self.shard.nameless();
        if !nameless.is_empty() {
            // Until their marks are handed over.
            self.source.unsettled_up();
            self.links.0.lock().seek(clock::coarse_now(), nameless);
            self.links.1.ask();
        }
        self.kept.extend(self.shard.marks());
        self.waiting_errands.extend(self.shard.errands());
        if !self.kept.is_empty() {
            self.kept_since.get_or_insert_with(clock::coarse_now);
            if let Err(kept) = self.inbox.send_marks(std::mem::take(&mut self.kept)) {
                self.kept = kept;
                self.widen();
            }
        }
        if self.kept.is_empty() {
            self.kept_since = None;
            self.shard.handed_over();
            for Errand { to, path, task } in self.waiting_errands.drain(..) {
                if !self.errands[usize::from(to.0)].add(path, task) {
                    // The same errand waits already.
                    self.source.unsettled_down();
                }
            }
            if !self.dealt {
                self.dealt = true;
                self.source.unsettled_down();
            }
        }
    }

    /// The dispatcher cannot follow: one mark on everything instead of very many.
    fn widen(&mut self) {
        if self.kept.len() > KEPT_MAX {
            let since = self.kept_since.unwrap_or_else(clock::coarse_now).minus(CTIME_SLACK);
            tracing::warn!(
                root = self.source.name,
                marks = self.kept.len(),
                "too many changes at once: comparing the root"
            );
            self.kept = vec![
                Mark::new(RelPath::root(), MarkKind::Subtree)
                    .content(Content::Since(since))
                    .priority(Priority::Background),
            ];
        }
    }
}
