//! The three loads: which files, and how they are written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Scenario;
use super::patience::Interrupt;
use crate::path::RelPath;
use crate::sys::clock;

/// From one file of the trickle to the next.
const TRICKLE_PERIOD: Duration = Duration::from_millis(250);

/// Files in each new directory of the small load.
const FILES_PER_DIRECTORY: usize = 100;

/// Random bytes that the files are cut from: nothing in them can be compressed. Unit: bytes.
const POOL: usize = 1024 * 1024;

/// Which files.
#[derive(Debug)]
pub(super) struct Load {
    scenario: Scenario,
    /// The paths in the order in which they are written.
    pub(super) paths: Vec<RelPath>,
    pool: Vec<u8>,
}

/// When a load was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Just before the first call that changes anything.
    pub(super) first: Instant,
    /// When each file was closed, in the order of [`Load::paths`].
    pub(super) closed: Vec<Instant>,
    /// How far the writer fell behind its schedule at most; zero where there is none.
    pub(super) late_max: Duration,
}

impl Scenario {
    /// How many files, unless the user says otherwise.
    pub(super) fn files(self) -> usize {
        match self {
            Self::Burst => 200,
            Self::Trickle => 60,
            Self::Small => 20_000,
        }
    }

    /// Bytes of one file.
    pub(super) fn file_size(self) -> usize {
        match self {
            Self::Burst => 100 * 1000,
            Self::Trickle => 10 * 1000,
            Self::Small => 1000,
        }
    }

    /// What is done, for the table.
    pub(super) fn words(self, files: usize) -> String {
        match self {
            Self::Burst => format!("{files} files of 100 KB written at once"),
            Self::Trickle => format!("{files} files of 10 KB, one every {} ms", TRICKLE_PERIOD.as_millis()),
            Self::Small => {
                format!("{files} files of 1 KB in {} new directories", files.div_ceil(FILES_PER_DIRECTORY))
            }
        }
    }
}

impl Load {
    /// The load of run number `run`, with names that no other run has.
    pub(super) fn new(scenario: Scenario, files: usize, run: usize) -> Self {
        let path = |file: usize| match scenario {
            Scenario::Burst | Scenario::Trickle => RelPath::root().join(format!("r{run}-f{file:05}").as_bytes()),
            Scenario::Small => RelPath::root()
                .join(format!("r{run}-d{:04}", file / FILES_PER_DIRECTORY).as_bytes())
                .join(format!("f{file:05}").as_bytes()),
        };
        let mut pool = vec![0; POOL + scenario.file_size()];
        fastrand::Rng::with_seed(run as u64).fill(&mut pool);
        Self { scenario, paths: (0..files).map(path).collect(), pool }
    }

    /// Bytes of one file.
    pub(super) fn file_size(&self) -> u64 {
        self.scenario.file_size() as u64
    }

    /// The names in the root: a list of them, with `-r`, is the least that one rsync needs for all of this.
    pub(super) fn top_names(&self) -> Vec<&[u8]> {
        let names: BTreeSet<&[u8]> = self.paths.iter().filter_map(|path| path.components().next()).collect();
        names.into_iter().collect()
    }

    /// Writes the files beneath `root`; the trickle at its pace, which does not depend on when files arrive: a slow
    /// target does not slow the load down, so no latency is left out.
    pub(super) fn write(&self, root: &Path, interrupt: &Interrupt) -> anyhow::Result<Written> {
        let pace = (self.scenario == Scenario::Trickle).then_some(TRICKLE_PERIOD);
        self.write_paced(root, pace, interrupt)
    }

    /// Writes the same files as fast as it goes.
    pub(super) fn write_at_once(&self, root: &Path, interrupt: &Interrupt) -> anyhow::Result<Written> {
        self.write_paced(root, None, interrupt)
    }

    fn write_paced(&self, root: &Path, pace: Option<Duration>, interrupt: &Interrupt) -> anyhow::Result<Written> {
        let first = clock::now();
        let mut written = Written { first, closed: Vec::with_capacity(self.paths.len()), late_max: Duration::ZERO };
        let mut directory = RelPath::root();
        let mut due = first;
        for (number, path) in self.paths.iter().enumerate() {
            if let Some(pace) = pace {
                wait_for(due, interrupt)?;
                written.late_max = written.late_max.max(clock::now().saturating_duration_since(due));
                due += pace;
            } else if number % 100 == 0 {
                interrupt.check()?;
            }
            if let Some(parent) = path.parent().filter(|parent| *parent != directory) {
                fs::create_dir(parent.below(root))?;
                directory = parent;
            }
            let mut file = File::create_new(path.below(root))?;
            file.write_all(self.content(number))?;
            drop(file);
            written.closed.push(clock::now());
        }
        Ok(written)
    }

    /// The bytes of a file: neighbours have nothing in common at the same place.
    fn content(&self, number: usize) -> &[u8] {
        let start = number * 4099 % POOL;
        &self.pool[start..start + self.scenario.file_size()]
    }
}

fn wait_for(due: Instant, interrupt: &Interrupt) -> anyhow::Result<()> {
    loop {
        interrupt.check()?;
        let left = due.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_writes_a_hundred_files_in_each_new_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let load = Load::new(Scenario::Small, 250, 3);
        let written = load.write(scratch.path(), &Interrupt::never()).unwrap();
        assert_eq!(written.closed.len(), 250);
        assert_eq!(load.top_names(), [b"r3-d0000", b"r3-d0001", b"r3-d0002"]);
        assert_eq!(fs::read_dir(scratch.path().join("r3-d0001")).unwrap().count(), 100);
        assert_eq!(fs::metadata(scratch.path().join("r3-d0002/f00249")).unwrap().len(), 1000);
    }

    #[test]
    fn trickle_keeps_its_schedule() {
        let scratch = tempfile::tempdir().unwrap();
        let written = Load::new(Scenario::Trickle, 3, 0).write(scratch.path(), &Interrupt::never()).unwrap();
        assert!(written.closed[2].duration_since(written.first) >= 2 * TRICKLE_PERIOD);
    }
}
