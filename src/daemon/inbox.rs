//! What the dispatcher of a root is sent: bounded lock-free queues and one waker.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use mio::Waker;
use parking_lot::Mutex;

use crate::change::Mark;
use crate::dispatch::{LaneId, Report};
use crate::target::TargetId;
use crate::watch::Occasion;

/// Mark batches that wait. Full means: the shard keeps its marks and widens them when they become too many.
const MARK_BATCHES_MAX: usize = 1024;

/// The inbox.
#[derive(Debug)]
pub(super) struct Inbox {
    /// From shards and the link search.
    pub marks: ArrayQueue<Vec<Mark>>,
    /// From lanes. Never full: a lane has at most two reports under way.
    pub reports: ArrayQueue<(TargetId, LaneId, Report)>,
    waker: Waker,
}

impl Inbox {
    pub(super) fn new(waker: Waker, lanes: usize) -> Arc<Self> {
        Arc::new(Self { marks: ArrayQueue::new(MARK_BATCHES_MAX), reports: ArrayQueue::new(lanes * 2 + 2), waker })
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
        assert!(sent.is_ok(), "a lane has at most two reports under way");
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

/// Errands for one shard: names, each once, so repeated errands take no space. A mutex around a tiny set on a cold path:
/// top-level directories come and go rarely.
#[derive(Debug)]
pub(super) struct ErrandBox {
    names: Mutex<BTreeMap<Box<[u8]>, Occasion>>,
    waker: Waker,
}

impl ErrandBox {
    pub(super) fn new(waker: Waker) -> Arc<Self> {
        Arc::new(Self { names: Mutex::new(BTreeMap::new()), waker })
    }

    /// Adds a name; false when it was there already.
    pub(super) fn add(&self, name: Box<[u8]>, occasion: Occasion) -> bool {
        let mut names = self.names.lock();
        let waiting = names.get(&name).copied();
        names.insert(name, waiting.map_or(occasion, |waiting| waiting.then(occasion)));
        drop(names);
        self.wake();
        waiting.is_none()
    }

    /// Takes all names.
    pub(super) fn take(&self) -> Vec<(Box<[u8]>, Occasion)> {
        std::mem::take(&mut *self.names.lock()).into_iter().collect()
    }

    /// Makes the shard look.
    pub(super) fn wake(&self) {
        wake(&self.waker);
    }
}
