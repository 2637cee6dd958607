//! What the dispatcher of a root is sent: bounded lock-free queues and one waker.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crossbeam::queue::ArrayQueue;
use mio::Waker;
use parking_lot::Mutex;

use crate::change::Mark;
use crate::dispatch::{LaneId, Report};
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::target::TargetId;
use crate::watch::{Errands, ShardId, Task};

/// Mark batches that wait. Full means: the shard keeps its marks and widens them when they become too many.
const MARK_BATCHES_MAX: usize = 1024;

/// The inbox.
#[derive(Debug)]
pub(super) struct Inbox {
    /// From shards and the link search.
    pub marks: ArrayQueue<Vec<Mark>>,
    /// From lanes. Never full: a lane has at most three reports under way.
    pub reports: ArrayQueue<(TargetId, LaneId, Report)>,
    /// Of each shard; `i64::MIN` until it has one.
    watermarks: Vec<AtomicI64>,
    waker: Waker,
}

impl Inbox {
    pub(super) fn new(waker: Waker, lanes: usize, shards: usize) -> Arc<Self> {
        Arc::new(Self {
            marks: ArrayQueue::new(MARK_BATCHES_MAX),
            reports: ArrayQueue::new(lanes * 3 + 2),
            watermarks: (0..shards).map(|_| AtomicI64::new(i64::MIN)).collect(),
            waker,
        })
    }

    /// Says that all marks of what happened before `watermark` in this shard's directories were sent.
    pub(super) fn publish(&self, shard: ShardId, watermark: WallTime) {
        self.watermarks[usize::from(shard.0)].store(watermark.0, Ordering::Release);
    }

    /// The clock was set: what was published says nothing any more.
    pub(super) fn forget_watermarks(&self) {
        for watermark in &self.watermarks {
            watermark.store(i64::MIN, Ordering::Release);
        }
    }

    /// The shard's watermark; `None` until it has one.
    pub(super) fn watermark_of(&self, shard: usize) -> Option<WallTime> {
        let watermark = self.watermarks.get(shard)?.load(Ordering::Acquire);
        (watermark != i64::MIN).then_some(WallTime(watermark))
    }

    /// The watermark of the whole root: all marks of what happened before it were sent before this call.
    pub(super) fn watermark(&self) -> Option<WallTime> {
        (0..self.watermarks.len()).map(|shard| self.watermark_of(shard)).min().flatten()
    }

    /// Hands over a batch of marks; gives it back when the queue is full.
    pub(super) fn send_marks(&self, marks: Vec<Mark>) -> Result<(), Vec<Mark>> {
        self.marks.push(marks)?;
        self.wake();
        Ok(())
    }

    /// Hands over a lane's report.
    pub(super) fn send_report(&self, target: TargetId, lane: LaneId, report: Report) {
        let sent = self.reports.push((target, lane, report));
        assert!(sent.is_ok(), "a lane has at most three reports under way");
        self.wake();
    }

    /// Makes the dispatcher look.
    pub(super) fn wake(&self) {
        wake(&self.waker);
    }
}

/// Wakes a loop. An eventfd write fails only when its counter is full, and then the loop is awake anyway.
pub(super) fn wake(waker: &Waker) {
    let _awake_already: io::Result<()> = waker.wake();
}

/// Directories that wait to be rechecked by one shard. Full means: the walker waits.
const RECHECKS_MAX: usize = 4096;

/// Rechecks that a shard takes at once: each is a listing, and its queue must not wait for thousands of them.
const RECHECKS_TAKEN: usize = 128;

/// Errands for one shard, each once, so repeated errands take no space. A mutex around a tiny set on a cold path: directories
/// that are dealt come and go rarely.
#[derive(Debug)]
pub(super) struct ErrandBox {
    errands: Mutex<Errands>,
    rescan: Mutex<RescanBox>,
    clock_set: AtomicBool,
    look: AtomicBool,
    waker: Waker,
}

/// What the walkers tell the shard whose losses they make good.
#[derive(Debug, Default)]
struct RescanBox {
    rechecks: VecDeque<RelPath>,
    /// Losses that are made good once the rechecks are done.
    made_good: u64,
}

impl ErrandBox {
    pub(super) fn new(waker: Waker) -> Arc<Self> {
        Arc::new(Self {
            errands: Mutex::new(Errands::default()),
            rescan: Mutex::new(RescanBox::default()),
            clock_set: AtomicBool::new(false),
            look: AtomicBool::new(false),
            waker,
        })
    }

    /// Adds one; false when the same waits already.
    pub(super) fn add(&self, path: RelPath, task: Task) -> bool {
        let is_new = self.errands.lock().add(path, task);
        self.wake();
        is_new
    }

    /// Takes all.
    pub(super) fn take(&self) -> Errands {
        std::mem::take(&mut *self.errands.lock())
    }

    /// Adds a directory to be rechecked; gives it back when too many wait.
    pub(super) fn recheck(&self, directory: RelPath) -> Result<(), RelPath> {
        let mut rescan = self.rescan.lock();
        if rescan.rechecks.len() >= RECHECKS_MAX {
            return Err(directory);
        }
        rescan.rechecks.push_back(directory);
        let first = rescan.rechecks.len() == 1;
        drop(rescan);
        if first {
            self.wake();
        }
        Ok(())
    }

    /// Says that so many losses are made good, but for the rechecks of before.
    pub(super) fn made_good(&self, losses: u64) {
        self.rescan.lock().made_good += losses;
        self.wake();
    }

    /// Takes some directories to be rechecked, in order; when there are no more, also the number of losses made good.
    pub(super) fn take_rechecks(&self) -> (Vec<RelPath>, u64) {
        let mut rescan = self.rescan.lock();
        let count = rescan.rechecks.len().min(RECHECKS_TAKEN);
        let rechecks: Vec<RelPath> = rescan.rechecks.drain(..count).collect();
        let made_good = if rescan.rechecks.is_empty() { std::mem::take(&mut rescan.made_good) } else { 0 };
        (rechecks, made_good)
    }

    /// Tells the shard that the clock was set.
    pub(super) fn clock_was_set(&self) {
        self.clock_set.store(true, Ordering::Release);
        self.wake();
    }

    /// Has the shard look at its queue, which most likely is empty.
    pub(super) fn look(&self) {
        self.look.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn take_look(&self) -> bool {
        self.look.swap(false, Ordering::SeqCst)
    }

    /// Whether the clock was set since the last call.
    pub(super) fn take_clock_set(&self) -> bool {
        self.clock_set.swap(false, Ordering::AcqRel)
    }

    /// Whether rechecks wait.
    pub(super) fn has_rechecks(&self) -> bool {
        !self.rescan.lock().rechecks.is_empty()
    }

    /// Makes the shard look.
    pub(super) fn wake(&self) {
        wake(&self.waker);
    }
}
