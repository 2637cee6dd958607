//! The thread that writes the checkpoint, and what it shares with the dispatchers.
//!
//! A dispatcher offers a snapshot when the one before is written, so there is at most one per root, and no dispatcher ever
//! waits for the disk. What could not be written is told, and the next snapshot is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crossbeam::sync::{Parker, Unparker};
use parking_lot::Mutex;

use crate::checkpoint::{Snapshot, Storage};
use crate::sys::clock::{self, WallTime};

/// The place of one root's snapshot.
#[derive(Debug)]
pub(super) struct Keeper {
    slot: Mutex<Option<Snapshot>>,
    busy: AtomicBool,
    failed: AtomicBool,
    written: AtomicI64,
    error: Mutex<Option<String>>,
    unparker: Unparker,
}

impl Keeper {
    fn new(unparker: Unparker) -> Self {
        Self {
            slot: Mutex::new(None),
            busy: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            written: AtomicI64::new(i64::MIN),
            error: Mutex::new(None),
            unparker,
        }
    }

    /// Whether the last snapshot is dealt with.
    pub(super) fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Hands over a snapshot; only when idle.
    pub(super) fn offer(&self, snapshot: Snapshot) {
        self.busy.store(true, Ordering::Release);
        let before = self.slot.lock().replace(snapshot);
        assert!(before.is_none(), "a snapshot is offered only when the one before is written");
        self.unparker.unpark();
    }

    /// Whether a snapshot was lost since the last call: the next one must be whole.
    pub(super) fn take_failed(&self) -> bool {
        self.failed.swap(false, Ordering::AcqRel)
    }

    /// When the last snapshot was written.
    pub(super) fn written(&self) -> Option<WallTime> {
        let written = self.written.load(Ordering::Acquire);
        (written != i64::MIN).then_some(WallTime(written))
    }

    /// Why the last snapshot could not be written.
    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }
}

/// Told to end the thread.
#[derive(Debug)]
pub(super) struct CheckpointEnd {
    stop: AtomicBool,
    unparker: Unparker,
}

impl CheckpointEnd {
    /// Ends the thread once all that was offered is written.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.unparker.unpark();
    }
}

pub(super) struct CheckpointLoop {
    storage: Storage,
    keepers: Vec<Arc<Keeper>>,
    end: Arc<CheckpointEnd>,
    parker: Parker,
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl CheckpointLoop {
    /// For `roots` roots; gives what to run, a keeper for each root and the means to end it.
    pub(super) fn new(storage: Storage, roots: usize) -> (Self, Vec<Arc<Keeper>>, Arc<CheckpointEnd>) {
        let parker = Parker::new();
        let keepers: Vec<Arc<Keeper>> = (0..roots).map(|_| Arc::new(Keeper::new(parker.unparker().clone()))).collect();
        let end = Arc::new(CheckpointEnd { stop: AtomicBool::new(false), unparker: parker.unparker().clone() });
        (Self { storage, keepers: keepers.clone(), end: Arc::clone(&end), parker }, keepers, end)
    }

    /// Writes until it is told to stop and nothing is left to write.
    pub(super) fn run(mut self) {
        loop {
            // Read first: what is offered before the stop is found by the round that follows.
            let stopping = self.end.stop.load(Ordering::Acquire);
            let mut idle = true;
            for keeper in &self.keepers {
                let Some(snapshot) = keeper.slot.lock().take() else { continue };
                idle = false;
                match self.storage.write(&snapshot) {
                    Ok(()) => {
                        keeper.written.store(clock::coarse_now().0, Ordering::Release);
                        if keeper.error.lock().take().is_some() {
                            tracing::info!(root = snapshot.root, "the checkpoint is written again");
                        }
                    }
                    Err(error) => {
                        let text = chain(&error);
                        let news = keeper.error.lock().replace(text.clone()).is_none_or(|before| before != text);
                        if news {
                            tracing::error!(
                                root = snapshot.root,
                                error = text,
                                "cannot write the checkpoint: after a crash everything since the last one is compared"
                            );
                        }
                        keeper.failed.store(true, Ordering::Release);
                    }
                }
                keeper.busy.store(false, Ordering::Release);
            }
            if idle {
                if stopping {
                    return;
                }
                self.parker.park();
            }
        }
    }
}
