//! The thread that finds the names of shared inodes: asked by lanes, it walks the root by inode numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::sync::{Parker, Unparker};
use parking_lot::Mutex;

use super::inbox::Inbox;
use crate::plan::{LinkTable, search_links};
use crate::sys::clock;
use crate::watch::Source;

/// Between two searches at least, and at least this many times the search's own time: a search costs a twentieth of
/// one core at most, but for those that somebody waits for.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_FACTOR: u32 = 20;

/// Asks for a search.
#[derive(Debug)]
pub(super) struct LinkSearch {
    asked: AtomicU64,
    /// The marks of all that was asked for up to this are handed over.
    done: AtomicU64,
    /// Somebody waits for the next search.
    hurried: AtomicBool,
    stop: AtomicBool,
    unparker: Unparker,
}

impl LinkSearch {
    pub(super) fn new() -> (Arc<Self>, Parker) {
        let parker = Parker::new();
        let search = Self {
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
            hurried: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            unparker: parker.unparker().clone(),
        };
        (Arc::new(search), parker)
    }

    pub(super) fn ask(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.unparker.unpark();
    }

    /// Asks for the next search without the long rest before it.
    pub(super) fn hurry(&self) {
        self.hurried.store(true, Ordering::SeqCst);
        self.unparker.unpark();
    }

    /// How many times it was asked, and how many of these are done, in this order.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.asked.load(Ordering::SeqCst), self.done.load(Ordering::SeqCst))
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.unparker.unpark();
    }
}

pub(super) struct LinkLoop {
    pub search: Arc<LinkSearch>,
    pub parker: Parker,
    pub source: Arc<Source>,
    pub links: Arc<Mutex<LinkTable>>,
    pub inbox: Arc<Inbox>,
}

impl LinkLoop {
    pub(super) fn run(self) {
        while !self.search.stop.load(Ordering::Acquire) {
            let (asked, done) = self.search.progress();
            if asked == done {
                self.parker.park();
                continue;
            }
            let started = clock::now();
            self.search_once();
            self.search.done.store(asked, Ordering::SeqCst);
            self.inbox.wake();
            let took = clock::now() - started;
            let (short, long) = (clock::now() + took, clock::now() + PAUSE_MIN.max(took * PAUSE_FACTOR));
            while !self.search.stop.load(Ordering::Acquire) {
                let until = if self.search.hurried.load(Ordering::SeqCst) { short } else { long };
                if clock::now() >= until {
                    break;
                }
                self.parker.park_deadline(until);
            }
            self.search.hurried.store(false, Ordering::SeqCst);
        }
    }

    /// Finds names, notes them, and marks those that were not known: what was written meanwhile is theirs too.
    fn search_once(&self) {
        let wanted = self.links.lock().incomplete();
        if wanted.is_empty() {
            return;
        }
        let device = self.source.one_file_system.then_some(self.source.device);
        let go_on = || !self.search.stop.load(Ordering::Acquire);
        let found = search_links(&self.source.root, device, &self.source.filter, &wanted, &go_on);
        let marks = self.links.lock().searched(&wanted, found);
        let mut waiting = marks;
        while !waiting.is_empty() && go_on() {
            match self.inbox.send_marks(waiting) {
                Ok(()) => return,
                Err(back) => {
                    waiting = back;
                    self.parker.park_timeout(Duration::from_millis(20));
                }
            }
        }
    }
}
