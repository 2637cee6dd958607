//! The loads of single files: which ones, and how they are written, rewritten or deleted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::arrivals::{Eyes, Want};
use super::patience::Interrupt;
use super::scenario::{Scenario, bytes_in_words};
use crate::path::RelPath;
use crate::sys::clock;

/// Files in each directory of the loads that have directories.
const FILES_PER_DIRECTORY: usize = 100;

/// Random bytes that the files are cut from: nothing in them can be compressed. Unit: bytes.
const POOL: usize = 1024 * 1024;

/// The last part of a wait is spent looking at the clock: a sleeper wakes up too late by about this much.
const SPIN: Duration = Duration::from_micros(150);

/// Longer waits end on the point.
const LONG: Duration = Duration::from_millis(10);

/// What is done to each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Create,
    Delete,
    Rewrite,
}

/// Which files.
#[derive(Debug)]
pub(super) struct Load {
    scenario: Scenario,
    /// The paths in the order in which they are changed.
    pub(super) paths: Vec<RelPath>,
    content: Content,
}

/// When a load was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Just before the first call that changes anything.
    pub(super) first: Instant,
    /// From when on each file is waited for, in the order of [`Load::paths`]: when it should have been changed where there is a
    /// schedule, so that a late writer makes no latency smaller; else when it was closed.
    pub(super) since: Vec<Instant>,
    /// How far the writer fell behind its schedule, file by file; nothing where there is none.
    pub(super) late: Vec<Duration>,
}

/// Bytes that files are filled with.
#[derive(Debug)]
pub(super) struct Content {
    size: u64,
    pool: Vec<u8>,
}

impl Content {
    /// Files of `size` bytes, others for each seed.
    pub(super) fn new(size: u64, seed: u64) -> Self {
        let mut pool = vec![0; POOL + POOL];
        fastrand::Rng::with_seed(seed).fill(&mut pool);
        Self { size, pool }
    }

    /// Bytes of one file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Writes a whole file: neighbours have nothing in common at the same place.
    pub(super) fn write(&self, file: &mut File, number: usize) -> std::io::Result<()> {
        let start = number * 4099 % POOL;
        let mut left = usize::try_from(self.size).unwrap_or(usize::MAX);
        while left > 0 {
            let part = left.min(POOL);
            file.write_all(&self.pool[start..start + part])?;
            left -= part;
        }
        Ok(())
    }
}

impl Scenario {
    fn act(self) -> Act {
        match self {
            Self::Delete => Act::Delete,
            Self::Rewrite => Act::Rewrite,
            _ => Act::Create,
        }
    }

    fn has_directories(self) -> bool {
        matches!(self, Self::Small | Self::Rewrite)
    }

    /// What is done, for the table.
    pub(super) fn load_words(self, files: usize, size: u64) -> String {
        let size = bytes_in_words(size);
        let directories = files.div_ceil(FILES_PER_DIRECTORY);
        let period = self.pace().unwrap_or_default().as_millis();
        match self {
            Self::Small => format!("{files} files of {size} in {directories} new directories"),
            Self::Rewrite => format!("{files} files of {size} that are there, in {directories} directories, rewritten"),
            Self::Delete => format!("{files} files of {size} deleted, one every {period} ms"),
            Self::Trickle => format!("{files} files of {size}, one every {period} ms"),
            Self::LatencyWan => format!("{files} files of {size}, one every {period} ms, to a target far away"),
            _ => format!("{files} files of {size} written at once"),
        }
    }

    /// From one file to the next, where there is a schedule.
    pub(super) fn pace(self) -> Option<Duration> {
        match self {
            Self::Trickle | Self::Delete => Some(Duration::from_millis(250)),
            Self::LatencyWan => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

impl Load {
    /// The load of run number `run`, with names that no other run has.
    pub(super) fn new(scenario: Scenario, files: usize, size: u64, run: usize) -> Self {
        let path = |file: usize| {
            let root = RelPath::root();
            if scenario.has_directories() {
                root.join(format!("r{run}-d{:04}", file / FILES_PER_DIRECTORY).as_bytes())
                    .join(format!("f{file:05}").as_bytes())
            } else {
                root.join(format!("r{run}-f{file:05}").as_bytes())
            }
        };
        Self { scenario, paths: (0..files).map(path).collect(), content: Content::new(size, run as u64) }
    }

    /// When a path of it is in place. Called before anything is changed.
    pub(super) fn want(&self) -> Want {
        match self.scenario.act() {
            Act::Create => Want::File(self.content.size),
            Act::Delete => Want::Gone,
            Act::Rewrite => Want::FileSince(self.content.size, clock::coarse_now()),
        }
    }

    /// What must be looked at to see that.
    pub(super) fn eyes(&self) -> Eyes {
        match self.scenario.act() {
            Act::Create | Act::Rewrite => Eyes::Appear,
            Act::Delete => Eyes::Both,
        }
    }

    /// Whether files must be there before: then [`Self::prepare`] makes them, and [`Self::prepared`] is when they are in place.
    pub(super) fn needs_files(&self) -> bool {
        self.scenario.act() != Act::Create
    }

    /// Whether its files come one by one.
    pub(super) fn is_of_single_files(&self) -> bool {
        self.scenario.is_of_latency()
    }

    /// Makes the files that must be there before.
    pub(super) fn prepare(&self, root: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
        self.each(root, Act::Create, 0, None, interrupt)?;
        if self.scenario.act() == Act::Delete {
            // Without a single entry the root would be held as emptied.
            fs::write(root.join("stays"), "")?;
        }
        Ok(())
    }

    /// When a file that must be there before is in place.
    pub(super) fn prepared(&self) -> Want {
        Want::File(self.content.size)
    }

    /// The names in the root: a list of them, with `-r`, is the least that one rsync needs for all of this.
    pub(super) fn top_names(&self) -> Vec<&[u8]> {
        let names: BTreeSet<&[u8]> = self.paths.iter().filter_map(|path| path.components().next()).collect();
        names.into_iter().collect()
    }

    /// Changes the files beneath `root`, at its pace if it has one, which does not depend on when files arrive: a slow
    /// target does not slow the load down, so no latency is left out.
    pub(super) fn perform(&self, root: &Path, interrupt: &Interrupt) -> anyhow::Result<Written> {
        self.each(root, self.scenario.act(), 1, self.scenario.pace(), interrupt)
    }

    /// The same as fast as it goes.
    pub(super) fn perform_at_once(&self, root: &Path, interrupt: &Interrupt) -> anyhow::Result<Written> {
        self.each(root, self.scenario.act(), 1, None, interrupt)
    }

    fn each(
        &self,
        root: &Path,
        act: Act,
        version: usize,
        pace: Option<Duration>,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Written> {
        let first = clock::now();
        let mut written = Written { first, since: Vec::with_capacity(self.paths.len()), late: Vec::new() };
        let mut directory = RelPath::root();
        let mut due = first;
        for (number, path) in self.paths.iter().enumerate() {
            if let Some(pace) = pace {
                wait_for(due, interrupt)?;
                written.late.push(clock::now().saturating_duration_since(due));
                written.since.push(due);
                due += pace;
            } else if number % 100 == 0 {
                interrupt.check()?;
            }
            let place = path.below(root);
            match act {
                Act::Create => {
                    if let Some(parent) = path.parent().filter(|parent| *parent != directory) {
                        fs::create_dir(parent.below(root))?;
                        directory = parent;
                    }
                    self.content.write(&mut File::create_new(place)?, number + version)?;
                }
                Act::Rewrite => self.content.write(&mut File::create(place)?, number + version)?,
                Act::Delete => fs::remove_file(place)?,
            }
            if pace.is_none() {
                written.since.push(clock::now());
            }
        }
        Ok(written)
    }
}

/// Waits until `due`. Where that is long, to some microseconds: looking at the clock for a short part of it takes little from
/// whoever else works.
pub(super) fn wait_for(due: Instant, interrupt: &Interrupt) -> anyhow::Result<()> {
    let is_long = due.saturating_duration_since(clock::now()) > LONG;
    loop {
        interrupt.check()?;
        let left = due.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Ok(());
        }
        if !is_long {
            std::thread::park_timeout(left);
        } else if left > SPIN {
            std::thread::park_timeout(left - SPIN);
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_writes_a_hundred_files_in_each_new_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let load = Load::new(Scenario::Small, 250, 1000, 3);
        let written = load.perform(scratch.path(), &Interrupt::never()).unwrap();
        assert_eq!(written.since.len(), 250);
        assert_eq!(load.top_names(), [b"r3-d0000", b"r3-d0001", b"r3-d0002"]);
        assert_eq!(fs::read_dir(scratch.path().join("r3-d0001")).unwrap().count(), 100);
        assert_eq!(fs::metadata(scratch.path().join("r3-d0002/f00249")).unwrap().len(), 1000);
    }

    #[test]
    fn trickle_keeps_its_schedule_and_counts_from_it() {
        let scratch = tempfile::tempdir().unwrap();
        let written = Load::new(Scenario::Trickle, 3, 10, 0).perform(scratch.path(), &Interrupt::never()).unwrap();
        let period = Scenario::Trickle.pace().unwrap();
        assert_eq!(written.since, [written.first, written.first + period, written.first + period * 2]);
        assert_eq!(written.late.len(), 3);
    }

    #[test]
    fn what_is_rewritten_or_deleted_was_there_before() {
        let scratch = tempfile::tempdir().unwrap();
        let never = Interrupt::never();
        let rewrite = Load::new(Scenario::Rewrite, 3, 5000, 0);
        rewrite.prepare(scratch.path(), &never).unwrap();
        let file = scratch.path().join("r0-d0000/f00001");
        let before = fs::read(&file).unwrap();
        rewrite.perform(scratch.path(), &never).unwrap();
        let after = fs::read(&file).unwrap();
        assert!(before.len() == 5000 && after.len() == 5000 && before != after);
        let delete = Load::new(Scenario::Delete, 2, 10, 1);
        delete.prepare(scratch.path(), &never).unwrap();
        assert!(scratch.path().join("r1-f00001").exists());
        delete.perform_at_once(scratch.path(), &never).unwrap();
        assert!(!scratch.path().join("r1-f00001").exists());
    }

    #[test]
    fn large_files_are_written_in_parts() {
        let scratch = tempfile::tempdir().unwrap();
        let size = POOL as u64 * 2 + 7;
        let mut file = File::create_new(scratch.path().join("large")).unwrap();
        Content::new(size, 1).write(&mut file, 3).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
    }
}
