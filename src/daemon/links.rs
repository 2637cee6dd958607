//! The thread that finds names by inode numbers: asked by lanes, those of shared inodes; asked by a shard, those of files that
//! were changed without a name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::sync::{Parker, Unparker};
use parking_lot::Mutex;

use super::inbox::Inbox;
use crate::change::{Content, Mark, MarkKind, Priority};
use crate::path::RelPath;
use crate::plan::{Found, LinkTable, search_links};
use crate::sys::clock;
use crate::sys::files::Identity;
use crate::sys::ground::Ground as _;
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

    /// Finds names, notes them, and marks those that were not known: what was written meanwhile is theirs too. The same for files
    /// that were changed without a name.
    fn search_once(&self) {
        let (incomplete, (sought, before)) = {
            let mut links = self.links.lock();
            (links.incomplete(), links.take_sought())
        };
        let here = self.still_there(before);
        let at_hand: HashSet<Identity> = here.iter().map(|found| found.identity).collect();
        let elsewhere = sought.files.values().filter(|change| !at_hand.contains(&change.identity));
        let mut wanted = incomplete.clone();
        wanted.extend(elsewhere.map(|change| (change.identity, change.links)));
        let go_on = || !self.search.stop.load(Ordering::Acquire);
        let mut found = Vec::new();
        if !wanted.is_empty() {
            let device = self.source.one_file_system.then_some(self.source.device);
            found = search_links(&self.source.root, device, &self.source.filter, &wanted, &go_on);
        }
        let mut waiting = Vec::new();
        {
            let mut links = self.links.lock();
            waiting.extend(links.found(&sought, &here));
            waiting.extend(links.found(&sought, &found));
            found.retain(|found| incomplete.contains_key(&found.identity));
            waiting.extend(links.searched(&incomplete, found));
        }
        if let Some(since) = sought.lost_since {
            let since = Content::Since(since.minus(self.source.slack));
            let everything = Mark::new(RelPath::root(), MarkKind::Subtree).content(since);
            waiting.push(everything.priority(Priority::Background));
        }
        while !waiting.is_empty() {
            if !go_on() {
                return;
            }
            match self.inbox.send_marks(waiting) {
                Ok(()) => break,
                Err(back) => {
                    waiting = back;
                    self.parker.park_timeout(Duration::from_millis(20));
                }
            }
        }
        for _time in 0..sought.asked {
            self.source.unsettled_down();
        }
    }

    /// Those of the files that are where they were found before.
    fn still_there(&self, before: HashMap<Identity, RelPath>) -> Vec<Found> {
        let look = |(identity, path): (Identity, RelPath)| {
            let status = self.source.root.glimpse(path.as_bytes()).ok()?;
            (status.identity == identity && !self.source.filter.excludes_within(&path, false)).then_some(Found {
                path,
                identity,
                links: status.links,
            })
        };
        before.into_iter().filter_map(look).collect()
    }
}
