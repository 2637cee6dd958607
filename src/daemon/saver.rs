//! Between a dispatcher and the checkpoint: what a root starts from, and when its state is written.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checkpoint::Keeper;
use crate::change::{Mark, MarkKind, Now, Priority, SavedMark};
use crate::checkpoint::{self, Facts, RootRecord, SavedRoot, Snapshot, Start, TargetSnapshot};
use crate::dispatch::Dispatcher;
use crate::path::RelPath;
use crate::sys::clock::{self, WallTime};
use crate::sys::files;
use crate::target::TargetId;
use crate::watch::Source;

/// Between two snapshots while marks come and go.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two snapshots when only the watermark goes on, and after one that failed.
const PAUSE_IDLE: Duration = Duration::from_secs(10);

/// Between two looks whether the snapshot before is written.
const BUSY_LOOK: Duration = Duration::from_millis(20);

/// How often the end looks whether the last snapshot is written, and how often it does so.
const END_LOOK: Duration = Duration::from_millis(5);
const END_LOOKS: u32 = 2_000;

/// What a root starts from.
#[derive(Debug)]
pub(super) struct Resume {
    /// On what the start may build.
    pub start: Start,
    /// For each target what it waited for; `None`: it is new, and compared in full.
    pub targets: Vec<Option<Vec<SavedMark>>>,
    /// Whether the operator had paused the root, and which of its targets.
    pub paused: (bool, Vec<TargetId>),
    /// For each target the deletes that were held.
    pub held: Vec<Vec<SavedMark>>,
    /// Entries that were known under the root.
    pub entries_before: Option<u64>,
}

impl Resume {
    /// Without a checkpoint.
    pub(super) fn cold(reason: &'static str, targets: usize) -> Self {
        let start = Start::Cold { reason };
        let (targets, paused) = (vec![None; targets], (false, Vec::new()));
        Self { start, targets, paused, held: Vec::new(), entries_before: None }
    }

    /// From what the run before left.
    pub(super) fn from(saved: Option<SavedRoot>, facts: &Facts, locations: &[String], ctimes_tell: bool) -> Self {
        let start = match checkpoint::decide(saved.as_ref().map(|saved| &saved.record), facts) {
            Start::Warm { .. } if !ctimes_tell => {
                Start::Cold { reason: "the file system's stamps are another machine's" }
            }
            start => start,
        };
        let Some(mut saved) = saved else {
            return Self { start, ..Self::cold("", locations.len()) };
        };
        // Of another directory the old marks say nothing: their paths would look like deletes.
        let same = (saved.record.file_system, saved.record.inode) == (facts.file_system, facts.inode);
        let is_paused = |location: &String| saved.targets.get(location).is_some_and(|target| target.paused);
        let ids = (0..u16::MAX).map(TargetId).zip(locations);
        let paused = ids.filter(|(_, location)| is_paused(location)).map(|(id, _)| id).collect();
        let held_of = |location: &String| {
            let held = saved.targets.get_mut(location).map(|target| std::mem::take(&mut target.held));
            held.filter(|_| same).unwrap_or_default()
        };
        let held = locations.iter().map(held_of).collect();
        let mut marks_of = |location: &String| saved.targets.remove(location).map(|target| target.marks);
        let targets = locations.iter().map(|location| marks_of(location).filter(|_| same)).collect();
        let paused = (saved.record.paused, paused);
        Self { start, targets, paused, held, entries_before: Some(saved.record.entries) }
    }

    /// Gives the dispatcher what its targets waited for.
    pub(super) fn restore(&mut self, now: Now, dispatcher: &mut Dispatcher) {
        let (root, targets) = &self.paused;
        for target in root.then_some(None).into_iter().chain(targets.iter().copied().map(Some)) {
            dispatcher.pause(target);
        }
        for (index, held) in std::mem::take(&mut self.held).into_iter().enumerate() {
            dispatcher.restore_held(now, TargetId(u16::try_from(index).unwrap_or(u16::MAX)), &held);
        }
        for (index, marks) in self.targets.iter_mut().enumerate() {
            if let Some(marks) = marks {
                let id = TargetId(u16::try_from(index).unwrap_or(u16::MAX));
                dispatcher.restore(now, id, marks);
                // Not needed any more, and not small.
                *marks = Vec::new();
            }
        }
    }

    /// Marks what is to be compared in full; returns the watermark, if a rescan since then finds the rest.
    pub(super) fn begin(&self, now: Now, dispatcher: &mut Dispatcher) -> Option<WallTime> {
        let everything = Mark::new(RelPath::root(), MarkKind::Subtree).priority(Priority::Background);
        let (since, all) = match self.start {
            Start::Warm { since, verify } => (Some(since), verify),
            Start::Cold { .. } => (None, true),
        };
        for (index, marks) in self.targets.iter().enumerate() {
            if all || marks.is_none() {
                let id = TargetId(u16::try_from(index).unwrap_or(u16::MAX));
                dispatcher.on_mark_for(now, id, &everything);
            }
        }
        since
    }
}

/// What is now, for [`checkpoint::decide`].
pub(super) fn facts(source: &Source, fingerprint: u64) -> io::Result<Facts> {
    Ok(Facts {
        boot: clock::boot_id()?,
        file_system: files::file_system_of(&source.root)?,
        inode: source.identity.inode,
        fingerprint,
        clock_offset: clock::boot_offset(),
        now: clock::coarse_now(),
    })
}

/// Writes one root's state now and then.
#[derive(Debug)]
pub(super) struct Saver {
    pub keeper: Arc<Keeper>,
    pub root: String,
    pub facts: Facts,
    pub locations: Vec<String>,
    saved_at: Option<Instant>,
    saved_watermark: Option<WallTime>,
    saved_paused: (bool, Vec<TargetId>),
    whole: bool,
}

impl Saver {
    pub(super) fn new(keeper: Arc<Keeper>, root: String, facts: Facts, locations: Vec<String>) -> Self {
        Self {
            keeper,
            root,
            facts,
            locations,
            saved_at: None,
            saved_watermark: None,
            saved_paused: (false, Vec::new()),
            whole: true,
        }
    }

    /// Offers a snapshot when one is due. `watermark` must be of before the dispatcher took its last marks.
    pub(super) fn on_turn(&mut self, now: Now, watermark: Option<WallTime>, entries: u64, dispatcher: &mut Dispatcher) {
        if !self.keeper.is_idle() {
            return;
        }
        if self.keeper.take_failed() {
            self.whole = true;
            self.saved_at = Some(now.instant);
        }
        if self.wake_at(now.instant, dispatcher) > now.instant {
            return;
        }
        if self.whole || self.has_news(dispatcher) || watermark != self.saved_watermark {
            self.offer(now, watermark, entries, dispatcher, false);
        } else {
            self.saved_at = Some(now.instant);
        }
    }

    /// When a snapshot may be due. Now and then even when nothing happens, as the watermark goes on by itself.
    pub(super) fn wake_at(&self, now: Instant, dispatcher: &Dispatcher) -> Instant {
        let pause = if !self.whole && self.has_news(dispatcher) { PAUSE } else { PAUSE_IDLE };
        let due = self.saved_at.map_or(now, |saved_at| saved_at + pause);
        // The thread does not tell when it is done.
        if self.keeper.is_idle() { due } else { due.max(now + BUSY_LOOK) }
    }

    fn has_news(&self, dispatcher: &Dispatcher) -> bool {
        dispatcher.is_unsaved() || dispatcher.paused() != self.saved_paused
    }

    fn offer(&mut self, now: Now, watermark: Option<WallTime>, entries: u64, dispatcher: &mut Dispatcher, clean: bool) {
        let whole = std::mem::take(&mut self.whole);
        let facts = &self.facts;
        let record = RootRecord {
            boot: facts.boot.clone(),
            file_system: facts.file_system,
            inode: facts.inode,
            fingerprint: facts.fingerprint,
            watermark,
            clock_offset: clock::boot_offset(),
            clean,
            paused: dispatcher.paused().0,
            entries,
        };
        self.saved_paused = dispatcher.paused();
        let (changes, held) = (dispatcher.unsaved(now, whole), dispatcher.unsaved_held(now, whole));
        let targets = self.locations.iter().zip(changes).zip(held);
        let targets = targets.map(|((location, changes), held)| TargetSnapshot {
            location: location.clone(),
            whole,
            changes,
            held,
            paused: false,
        });
        let mut targets: Vec<TargetSnapshot> = targets.collect();
        for id in &self.saved_paused.1 {
            targets[usize::from(id.0)].paused = true;
        }
        self.keeper.offer(Snapshot { root: self.root.clone(), record, targets });
        (self.saved_at, self.saved_watermark) = (Some(now.instant), watermark);
    }

    /// The last snapshot, of an end in order.
    pub(super) fn finish(&mut self, now: Now, watermark: Option<WallTime>, entries: u64, dispatcher: &mut Dispatcher) {
        // The thread may be in the middle of the one before; a disk that hangs must not hold the end for ever.
        for _look in 0..END_LOOKS {
            if self.keeper.is_idle() {
                self.whole |= self.keeper.take_failed();
                return self.offer(now, watermark, entries, dispatcher, true);
            }
            std::thread::park_timeout(END_LOOK);
        }
        tracing::error!(
            root = self.root,
            "the checkpoint could not be written in time: what it lacks is found by the next start"
        );
    }
}
