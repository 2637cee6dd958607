//! Whether the held root is what the configured path means, and holds what it should: else nothing is sent or deleted.
//!
//! A root that is empty is suspect when it held [`EMPTIED_MIN`] entries or more a minute ago: a file system that is not
//! mounted looks like that. Deleting the last few files of a small tree is no such case, and neither is a tree that
//! shrank to a few entries before.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::shard::Source;
use crate::path::RelPath;
use crate::sys::ground::{Ground, Stead};

/// Entries that an empty root must have lost within [`EMPTIED_SPAN`] to be suspect.
const EMPTIED_MIN: u64 = 10;

/// How far back the entries of an empty root are remembered. Unit: time.
const EMPTIED_SPAN: Duration = Duration::from_secs(60);

/// Between two samples of the number of entries.
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);

/// Why nothing may be sent from a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFault {
    /// Stable name, for metrics, logs and `status`.
    pub cause: &'static str,
    /// What was found.
    pub words: String,
}

/// What is remembered of a root's entries.
#[derive(Debug, Default)]
pub(super) struct Standing {
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// When, and the most entries until the next sample; the oldest first.
    samples: VecDeque<(Instant, u64)>,
    /// Entries that an earlier run knew; told until the root is seen with entries.
    before: u64,
    /// It was seen with entries, by this run or an earlier one.
    had_entries: bool,
    is_empty: bool,
    emptied: bool,
    /// Entries that were known before that.
    lost: u64,
    /// Somebody said that it is meant to be empty.
    approved: bool,
    /// It was seen with entries, by this run.
    seen: bool,
    /// File systems that were mounted in it, where they are sent too.
    mounts: BTreeSet<Vec<u8>>,
}

impl Memory {
    fn sample(&mut self, now: Instant, entries: u64) {
        while self.samples.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= EMPTIED_SPAN) {
            self.samples.pop_front();
        }
        match self.samples.back_mut() {
            Some((at, most)) if now.saturating_duration_since(*at) < SAMPLE_PAUSE => *most = entries.max(*most),
            _ => self.samples.push_back((now, entries)),
        }
    }

    /// Takes note of what was seen; says how many entries are gone when that is suspect.
    fn look(&mut self, now: Instant, is_empty: bool, entries: u64) -> Option<u64> {
        self.is_empty = is_empty;
        if !is_empty {
            (self.emptied, self.approved, self.before, self.had_entries) = (false, false, 0, true);
            self.seen = true;
            self.sample(now, entries.max(1));
            return None;
        }
        // With a mark it may be emptied before it was ever looked at with all that it had.
        self.sample(now, entries);
        let most = self.samples.iter().map(|(_, entries)| *entries).max().unwrap_or(0).max(self.before);
        if most >= EMPTIED_MIN {
            (self.emptied, self.lost) = (true, most);
        }
        (self.emptied && !self.approved).then_some(self.lost)
    }
}

impl<G: Ground> Source<G> {
    /// Says how many entries an earlier run knew under the root.
    pub fn remember(&self, entries: u64) {
        let mut memory = self.standing.memory.lock();
        memory.before = entries;
        memory.had_entries |= entries > 0;
    }

    /// Whether the held root is still what the configured path means (design 8), can be read, and was not emptied.
    /// To be asked before every rsync: one that lists paths of a root that is not there would delete them all
    /// (notes/rsync.md 10).
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: Instant) -> Result<(), RootFault> {
        let path = self.path.display();
        let fault = |cause, words| Err(RootFault { cause, words });
        match self.root.status() {
            Ok(status) if status.links == 0 => return fault("root_missing", format!("{path} was removed")),
            Ok(_) => {}
            Err(error) => return fault("root_unreadable", format!("{path}: {error}")),
        }
        match self.root.status_of_path(&self.path) {
            Ok(status) if status.identity == self.identity => {}
            Ok(_) => {
                return match self.root.stead(&self.path) {
                    Stead::Unmounted => fault("root_unmounted", format!("the file system of {path} was unmounted")),
                    Stead::Covered => fault("root_covered", format!("another file system is mounted over {path}")),
                    Stead::Replaced => fault("root_replaced", format!("{path} is another directory than at the start")),
                };
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                // A mount point that went with its parent's file system is missing, too.
                return match self.root.stead(&self.path) {
                    Stead::Unmounted => fault("root_unmounted", format!("the file system of {path} was unmounted")),
                    Stead::Covered | Stead::Replaced => fault("root_missing", format!("{path}: {error}")),
                };
            }
            Err(error) => return fault("root_unreadable", format!("{path}: {error}")),
        }
        let is_empty = match self.is_root_empty() {
            Ok(is_empty) => is_empty,
            Err(error) => return fault("root_unreadable", format!("{path} cannot be read: {error}")),
        };
        if let Some(point) = self.lost_mount() {
            let point = crate::path::escaped(&point);
            return fault(
                "root_unmounted",
                format!("{point} in {path} was unmounted, and what was in it is sent from here"),
            );
        }
        match self.standing.memory.lock().look(now, is_empty, self.entries_since_last_look()) {
            None => Ok(()),
            Some(gone) => fault("root_emptied", format!("{path} is empty, and {gone} entries were known in it before")),
        }
    }

    /// A file system in the root that is not mounted any more: what it held would look deleted.
    fn lost_mount(&self) -> Option<Vec<u8>> {
        if self.one_file_system {
            return None;
        }
        let present: BTreeSet<Vec<u8>> = self.root.mounts_beneath().into_iter().collect();
        let known = &mut self.standing.memory.lock().mounts;
        let lost = known.difference(&present).next().cloned();
        known.extend(present);
        lost
    }

    /// Whether the root was empty since the start although an earlier run knew entries in it: what it is to hold was most
    /// likely not mounted, and when it is, this is not the directory that is held open.
    #[must_use]
    pub fn was_never_there(&self) -> bool {
        let memory = self.standing.memory.lock();
        memory.emptied && !memory.seen
    }

    fn is_root_empty(&self) -> io::Result<bool> {
        self.root.is_empty(&self.root.open_directory(&RelPath::root())?)
    }

    /// Says that the root is meant to be empty, or a file system in it to be unmounted; returns whether that was in question.
    pub fn approve_empty(&self) -> bool {
        let lost = self.lost_mount().is_some();
        let mut memory = self.standing.memory.lock();
        if lost {
            memory.mounts.clear();
        }
        let asked = lost || (memory.emptied && !memory.approved);
        memory.approved |= memory.emptied;
        asked
    }

    /// Entries known under the root; of one that was emptied, those that it had.
    #[must_use]
    pub fn entries_to_keep(&self) -> u64 {
        let memory = self.standing.memory.lock();
        if memory.emptied && !memory.approved { memory.lost } else { self.reading().entries }
    }

    /// How many names a target may lose of which no event told, whatever else is allowed: of a root that is empty and never
    /// was anything else, nobody knows whether it is what it should be. As of the last [`Self::check`].
    #[must_use]
    pub fn unknown_deletes_max(&self) -> u64 {
        let memory = self.standing.memory.lock();
        match (memory.is_empty, memory.had_entries, memory.approved) {
            (false, ..) | (true, _, true) => u64::MAX,
            (true, true, false) => EMPTIED_MIN - 1,
            (true, false, false) => 0,
        }
    }

    pub(super) fn add_entries(&self, more: i64) {
        let now = self.counters.entries.fetch_add(more, Ordering::Relaxed) + more;
        self.counters.entries_peak.fetch_max(now, Ordering::Relaxed);
    }

    /// The most entries that were known since the last call.
    fn entries_since_last_look(&self) -> u64 {
        let now = self.counters.entries.load(Ordering::Relaxed);
        let peak = self.counters.entries_peak.swap(now, Ordering::Relaxed).max(now);
        u64::try_from(peak).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_lost_many_entries_within_a_minute_is_suspect_until_it_has_some_again_or_somebody_approves() {
        let start = crate::sys::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut memory = Memory::default();
        assert_eq!(memory.look(at(0), true, 0), None, "it never had any");
        assert_eq!(memory.look(at(1), false, 5_000), None);
        assert_eq!(memory.look(at(2), false, 12), None);
        assert_eq!(memory.look(at(30), true, 0), Some(5_000));
        assert_eq!(memory.look(at(3_000), true, 0), Some(5_000), "it stays so");
        assert_eq!(memory.look(at(3_001), false, 0), None);
        assert_eq!(memory.look(at(3_002), true, 0), None, "one that had one entry may lose it");
        memory.look(at(3_003), false, 10);
        assert!(memory.look(at(3_004), true, 0).is_some());
        memory.approved = true;
        assert_eq!(memory.look(at(3_005), true, 0), None);
        memory.look(at(3_006), false, 10);
        assert!(memory.look(at(3_007), true, 0).is_some(), "an approval is for once");
    }

    #[test]
    fn what_was_there_between_two_looks_counts() {
        let start = crate::sys::clock::now();
        let mut memory = Memory::default();
        assert_eq!(memory.look(start, false, 0), None);
        assert_eq!(memory.look(start + Duration::from_millis(500), true, 106), Some(106));
        let mut memory = Memory::default();
        memory.look(start, false, 3);
        assert_eq!(memory.look(start + Duration::from_millis(500), true, 3), None);
    }

    #[test]
    fn the_last_few_files_of_a_tree_can_be_deleted_at_leisure() {
        let start = crate::sys::clock::now();
        let mut memory = Memory::default();
        let mut now = start;
        for left in (1..1_000).rev() {
            now += Duration::from_secs(10);
            assert_eq!(memory.look(now, false, left), None);
        }
        assert_eq!(memory.look(now + Duration::from_secs(10), true, 0), None);
        assert!(memory.samples.len() <= 7, "{}", memory.samples.len());
    }

    #[test]
    fn what_an_earlier_run_knew_counts_until_entries_are_seen() {
        let start = crate::sys::clock::now();
        let mut memory = Memory { before: 40, ..Memory::default() };
        assert_eq!(memory.look(start, true, 0), Some(40));
        assert_eq!(memory.look(start + Duration::from_secs(1_000), true, 0), Some(40));
        let mut memory = Memory { before: 40, ..Memory::default() };
        memory.look(start, false, 3);
        assert_eq!(memory.look(start + Duration::from_secs(1), true, 0), None);
    }
}
