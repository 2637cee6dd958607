//! One random file operation after the other on a real tree, from a seed: all that notes/kernel.md 2 and 7.1 list and that
//! inotify can report.
//!
//! Invariant: the tree always has long-lived directories at several depths, and about 30 to 300 entries.
//!
//! **The hole that is respected.** A write through one name of a hard-linked file is reported for that name alone. When
//! that name is gone before the agent looks at it, nothing leads from the event to the other names, and inotify cannot help.
//! So a name is not removed, renamed or overwritten, nor is a directory above it, within [`Churn::link_rest`] after a change
//! through it while other names of the file remain. The generator takes another operation instead. This rule looks at the
//! clock: with an equal seed two runs differ only where it applies.
//!
//! Left out, because inotify does not report it before the file is closed, or at all: mmap stores, libaio, loop devices, writes
//! from outside the root through a hard link. Also left out: `O_TMPFILE`, mounts, extended attributes.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fansync::path::RelPath;
use fastrand::Rng;
use rustix::fs::{AtFlags, CWD, Mode, RenameFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::names::Names;

/// How long a hard-linked name stays after a change through it, see [`Churn::link_rest`].
const LINK_REST: Duration = Duration::from_secs(2);
/// Components of the longest path: names of 255 bytes stay below the 4095 bytes of a list entry.
const DEPTH_MAX: usize = 9;
const ENTRIES_MIN: usize = 60;
const ENTRIES_MAX: usize = 240;
const OPEN_MAX: usize = 4;
/// Changes of each of two modes in a flood. Why 1,000: takes a few ms, in which an agent looks at its queue once or twice.
const FLOOD: u32 = 1000;
/// Twice the events of the small queue of the tests.
const FLOOD_NAMES: u32 = 128;
const POOL_MAX: usize = 12;

/// A generator of changes to one tree, and the list of what it did.
pub struct Churn {
    seed: u64,
    rng: Rng,
    pacing: Rng,
    root: PathBuf,
    outside: PathBuf,
    names: Vec<Vec<u8>>,
    /// Mean pause between two steps; the steps come in bursts. `None`: as fast as possible.
    pub pace: Option<Duration>,
    /// How long a hard-linked name stays after a change through it: longer than the agent may be kept from looking.
    pub link_rest: Duration,
    trace: Vec<String>,
    long_lived: Vec<RelPath>,
    last_written: Option<RelPath>,
    linked: Vec<RelPath>,
    open: Vec<OpenFile>,
    changed_through: HashMap<LinkName, Instant>,
    live: usize,
    made: u32,
    weigh: fn(&Operation) -> u32,
}

struct OpenFile {
    file: File,
    inode: u64,
    opened_as: RelPath,
}

#[derive(PartialEq, Eq, Hash)]
enum LinkName {
    /// The inode of the parent, and the name in it: survives renames of directories.
    Name(u64, Vec<u8>),
    /// Any name of this inode: the change went through a descriptor, whose name may have changed since `open`.
    Any(u64),
}

/// What an operation does to the number of entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trend {
    Grows,
    Shrinks,
    Even,
}

/// `None`: not possible now; the words say on what it was done.
type Done = io::Result<Option<String>>;

struct Operation {
    name: &'static str,
    weight: u32,
    trend: Trend,
    run: fn(&mut Churn) -> Done,
}

const fn operation(name: &'static str, weight: u32, trend: Trend, run: fn(&mut Churn) -> Done) -> Operation {
    assert!(weight > 0);
    Operation { name, weight, trend, run }
}

const OPERATIONS: &[Operation] = &[
    operation("create", 12, Trend::Grows, Churn::create),
    operation("append", 8, Trend::Even, Churn::append),
    operation("overwrite", 8, Trend::Even, Churn::overwrite_same_size),
    operation("overwrite-again", 5, Trend::Even, Churn::overwrite_last_written),
    operation("overwrite-keep-mtime", 5, Trend::Even, Churn::overwrite_and_restore_mtime),
    operation("pwrite", 6, Trend::Even, Churn::write_in_the_middle),
    operation("truncate", 5, Trend::Even, Churn::truncate),
    operation("replace", 8, Trend::Even, Churn::replace_atomically),
    operation("unlink", 7, Trend::Shrinks, Churn::unlink),
    operation("mkdir-p", 5, Trend::Grows, Churn::make_directories),
    operation("rmtree", 3, Trend::Shrinks, Churn::remove_tree),
    operation("rename", 8, Trend::Even, Churn::rename_file),
    operation("rename-directory", 6, Trend::Even, Churn::rename_directory),
    operation("rename-about", 2, Trend::Even, Churn::rename_about),
    operation("take-place", 3, Trend::Even, Churn::take_the_place_of_a_moved_directory),
    operation("move-in", 5, Trend::Grows, Churn::move_in),
    operation("move-out", 4, Trend::Shrinks, Churn::move_out),
    operation("exchange-files", 2, Trend::Even, Churn::exchange_files),
    operation("exchange-directories", 2, Trend::Even, Churn::exchange_directories),
    operation("exchange-any", 1, Trend::Even, Churn::exchange_any),
    operation("exchange-twin", 1, Trend::Even, Churn::exchange_with_twin),
    operation("flip", 5, Trend::Even, Churn::flip),
    operation("link", 3, Trend::Grows, Churn::hard_link),
    operation("write-linked", 3, Trend::Even, Churn::write_through_a_link),
    operation("symlink", 3, Trend::Grows, Churn::make_symlink),
    operation("retarget", 2, Trend::Even, Churn::retarget_symlink),
    operation("fifo", 1, Trend::Grows, Churn::make_fifo),
    operation("chmod", 4, Trend::Even, Churn::chmod),
    operation("chown", 2, Trend::Even, Churn::chown),
    operation("utimens", 5, Trend::Even, Churn::set_any_mtime),
    operation("recreate", 3, Trend::Even, Churn::recreate_directory),
    operation("open", 3, Trend::Even, Churn::open),
    operation("write-open", 6, Trend::Even, Churn::write_to_open),
    operation("close", 3, Trend::Even, Churn::close),
];

impl Churn {
    /// Makes the long-lived directories below `root`, and fills the pool of `outside`, which must be on the same file
    /// system. Both are created when absent.
    pub fn new(seed: u64, root: PathBuf, outside: PathBuf, names: Names) -> Self {
        let mut churn = Self {
            seed,
            rng: Rng::with_seed(seed),
            pacing: Rng::with_seed(!seed),
            root,
            outside,
            names: names.list(),
            pace: None,
            link_rest: LINK_REST,
            trace: Vec::new(),
            long_lived: Vec::new(),
            last_written: None,
            linked: Vec::new(),
            open: Vec::new(),
            changed_through: HashMap::new(),
            live: 0,
            made: 0,
            weigh: |operation| operation.weight,
        };
        churn.prepare().unwrap_or_else(|error| panic!("seed {seed}: preparing the tree: {error}"));
        churn
    }

    /// The same, but most of what it does are renames of directories, several at once, some of them back, and writes right after them.
    pub fn with_renames_heavy(mut self) -> Self {
        self.weigh = |operation| match operation.name {
            "rename-about" => 60,
            "rename-directory" => 30,
            "rename" | "take-place" | "exchange-directories" | "recreate" | "move-in" | "move-out" => 12,
            "exchange-any" | "exchange-twin" => 3,
            _ => operation.weight,
        };
        self
    }

    fn prepare(&mut self) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        fs::create_dir_all(&self.outside)?;
        for depth in [6, 3, 1, 1] {
            let mut path = RelPath::root();
            for _ in 0..depth {
                path = path.join(&self.name());
                match fs::create_dir(self.full(&path)) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => self.long_lived.push(path.clone()),
                }
            }
        }
        self.fill_pool()
    }

    /// Adds to the tree until it holds about `entries` entries.
    pub fn fill(&mut self, entries: usize) {
        while self.count(&RelPath::root()) < entries {
            let growing = [Self::create, Self::create, Self::make_directories, Self::make_symlink, Self::hard_link];
            let operation = growing[self.rng.usize(..growing.len())];
            let done = operation(self).unwrap_or_else(|error| panic!("seed {}: filling: {error}", self.seed));
            self.trace.extend(done.map(|detail| format!("fill: {detail}")));
        }
    }

    /// Does `operations` steps, with pauses if [`Self::pace`] is set.
    pub fn run(&mut self, operations: usize) {
        for _ in 0..operations {
            self.step();
            if let Some(pace) = self.pace {
                // Bursts of 16 steps on average: both merging and single events are met.
                if self.pacing.u8(..16) == 0 {
                    std::thread::park_timeout(pace * 16);
                }
            }
        }
    }

    /// Does one operation and says which, in one line.
    ///
    /// # Panics
    /// When an operation fails: it was planned wrong, or the disk is full.
    pub fn step(&mut self) -> String {
        if self.trace.len().is_multiple_of(16) {
            self.live = self.count(&RelPath::root());
        }
        for _attempt in 0..1000 {
            let operation = self.draw();
            match (operation.run)(self) {
                Ok(Some(detail)) => {
                    let line = format!("{} {} {detail}", self.trace.len(), operation.name);
                    self.trace.push(line.clone());
                    return line;
                }
                Ok(None) => {}
                Err(error) => panic!(
                    "seed {}, step {}: {} failed: {error}\n{}",
                    self.seed,
                    self.trace.len(),
                    operation.name,
                    self.trace.join("\n")
                ),
            }
        }
        panic!("seed {}: no operation is possible after {} steps", self.seed, self.trace.len());
    }

    /// Far more events at once than a small queue holds, so that those of the next steps may be lost.
    ///
    /// # Errors
    /// Those of chmod(2).
    pub fn flood(&mut self) -> io::Result<()> {
        let (Some(one), Some(other)) = (self.file(), self.file()) else { return Ok(()) };
        // Twice the same in a row would be one event.
        for times in 0..FLOOD {
            for path in [&one, &other] {
                fs::set_permissions(self.full(path), fs::Permissions::from_mode(0o600 + times % 8))?;
            }
        }
        self.changed(&one)?;
        self.changed(&other)?;
        self.trace.push(format!("{} flood {one:?} and {other:?}", self.trace.len()));
        Ok(())
    }

    /// More names than a small queue holds events, each there for a moment: nothing that a mark could merge.
    ///
    /// # Errors
    /// Those of open(2) and unlink(2).
    pub fn flood_of_names(&mut self) -> io::Result<()> {
        for number in 0..FLOOD_NAMES {
            let path = self.root.join(format!("flood-{number}"));
            fs::write(&path, "")?;
            fs::remove_file(&path)?;
        }
        self.trace.push(format!("{} flood of {FLOOD_NAMES} names", self.trace.len()));
        Ok(())
    }

    /// What was done, oldest first; paths are escaped and in quotes.
    pub fn trace(&self) -> &[String] {
        &self.trace
    }

    /// Closes what is still open for writing.
    pub fn close_all(&mut self) {
        while self.close().is_ok_and(|done| done.is_some()) {}
    }

    fn draw(&mut self) -> &'static Operation {
        let total: u32 = OPERATIONS.iter().map(self.weigh).sum();
        loop {
            let mut ticket = self.rng.u32(..total);
            let drawn = OPERATIONS.iter().find(|operation| {
                let weight = (self.weigh)(operation);
                let hit = ticket < weight;
                ticket = ticket.saturating_sub(weight);
                hit
            });
            let drawn = drawn.expect("the ticket is below the sum of the weights");
            let unwanted = match drawn.trend {
                Trend::Grows => self.live > ENTRIES_MAX,
                Trend::Shrinks => self.live < ENTRIES_MIN,
                Trend::Even => false,
            };
            // Rare also at the border, but never impossible.
            if !unwanted || self.rng.u8(..8) == 0 {
                return drawn;
            }
        }
    }
}

/// Contents.
impl Churn {
    fn create(&mut self) -> Done {
        let directory = self.directory();
        let Some(path) = self.free_name(&directory) else { return Ok(None) };
        let size = self.size();
        self.write_new(&self.full(&path), size)?;
        self.written(&path)?;
        Ok(Some(format!("{path:?} {size} bytes")))
    }

    fn append(&mut self) -> Done {
        let Some(path) = self.file() else { return Ok(None) };
        let size = self.size().min(20_000);
        let data = self.data(size);
        OpenOptions::new().append(true).open(self.full(&path))?.write_all(&data)?;
        self.written(&path)?;
        Ok(Some(format!("{path:?} {size} bytes")))
    }

    fn overwrite_same_size(&mut self) -> Done {
        let Some(path) = self.file() else { return Ok(None) };
        self.overwrite(&path)
    }

    /// The same size, most likely within the second, or the clock tick, of the write before.
    fn overwrite_last_written(&mut self) -> Done {
        match self.last_written.clone() {
            Some(path) if self.is_file(&path) => self.overwrite(&path),
            _ => Ok(None),
        }
    }

    fn overwrite(&mut self, path: &RelPath) -> Done {
        let full = self.full(path);
        let size = size_of(&full)?;
        if size == 0 {
            return Ok(None);
        }
        let times = self.rng.usize(1..=2);
        let truncating = self.rng.bool();
        for _ in 0..times {
            let data = self.data(size);
            let mut file = OpenOptions::new().write(true).truncate(truncating).open(&full)?;
            file.write_all(&data)?;
        }
        self.written(path)?;
        Ok(Some(format!("{path:?} {size} bytes, {times} times{}", if truncating { ", O_TRUNC" } else { "" })))
    }

    /// As `touch -r` or an archiver does: the agent must send it nevertheless.
    fn overwrite_and_restore_mtime(&mut self) -> Done {
        let Some(path) = self.file() else { return Ok(None) };
        let before = modified(&self.full(&path))?;
        let Some(detail) = self.overwrite(&path)? else { return Ok(None) };
        set_modified(&self.full(&path), before)?;
        Ok(Some(detail))
    }

    fn write_in_the_middle(&mut self) -> Done {
        let Some(path) = self.file() else { return Ok(None) };
        let full = self.full(&path);
        let size = size_of(&full)?;
        if size == 0 {
            return Ok(None);
        }
        let start = self.rng.usize(..size);
        let length = self.rng.usize(1..=(size - start).min(5000));
        let data = self.data(length);
        OpenOptions::new().write(true).open(&full)?.write_all_at(&data, start as u64)?;
        self.written(&path)?;
        Ok(Some(format!("{path:?} {length} bytes at {start} of {size}")))
    }

    fn truncate(&mut self) -> Done {
        let Some(path) = self.file() else { return Ok(None) };
        let full = self.full(&path);
        let size = size_of(&full)?;
        let new = match self.rng.u8(..4) {
            0 => 0,
            1 => size + self.rng.usize(1..=9000),
            2 => size,
            _ => self.rng.usize(..=size),
        };
        OpenOptions::new().write(true).open(&full)?.set_len(new as u64)?;
        self.written(&path)?;
        Ok(Some(format!("{path:?} from {size} to {new}")))
    }

    /// Editors, package managers; sometimes with the size and mtime of the old one, sometimes by way of another directory.
    fn replace_atomically(&mut self) -> Done {
        let Some(path) = self.file() else { return Ok(None) };
        if !self.may_vanish(&path) {
            return Ok(None);
        }
        let full = self.full(&path);
        let (old_size, old_modified) = (size_of(&full)?, modified(&full)?);
        let same = self.rng.u8(..4) == 0;
        let size = if same { old_size } else { self.size() };
        let directory = match self.rng.u8(..4) {
            0 => self.directory(),
            _ => path.parent().unwrap_or_default(),
        };
        let Some(temporary) = self.free(&directory, &format!("tmp~{}", self.made)) else { return Ok(None) };
        self.made += 1;
        self.write_new(&self.full(&temporary), size)?;
        if same {
            set_modified(&self.full(&temporary), old_modified)?;
        }
        fs::rename(self.full(&temporary), &full)?;
        self.written(&path)?;
        Ok(Some(format!("{path:?} {size} bytes by {temporary:?}{}", if same { ", same mtime" } else { "" })))
    }

    fn write_through_a_link(&mut self) -> Done {
        let Some(path) = self.linked_file() else { return Ok(None) };
        if self.rng.bool() {
            return self.overwrite(&path);
        }
        let data = self.data(100);
        OpenOptions::new().append(true).open(self.full(&path))?.write_all(&data)?;
        self.written(&path)?;
        Ok(Some(format!("{path:?} 100 bytes appended")))
    }

    fn open(&mut self) -> Done {
        if self.open.len() >= OPEN_MAX {
            return Ok(None);
        }
        let path = if self.rng.u8(..3) == 0 {
            let directory = self.directory();
            self.free_name(&directory)
        } else {
            self.file()
        };
        let Some(path) = path else { return Ok(None) };
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.full(&path))?;
        let inode = file.metadata()?.ino();
        self.open.push(OpenFile { file, inode, opened_as: path.clone() });
        Ok(Some(format!("{path:?}")))
    }

    fn write_to_open(&mut self) -> Done {
        if self.open.is_empty() {
            return Ok(None);
        }
        let which = self.rng.usize(..self.open.len());
        let length = self.rng.usize(..=8000);
        let data = self.data(length);
        let end = self.open[which].file.metadata()?.len();
        let place = if self.rng.bool() { end } else { self.rng.u64(..=end) };
        let shrink = self.rng.u8(..8) == 0;
        let OpenFile { file, inode, opened_as } = &self.open[which];
        if shrink {
            file.set_len(place)?;
        } else {
            file.write_all_at(&data, place)?;
        }
        self.changed_through.insert(LinkName::Any(*inode), Instant::now());
        let verb = if shrink { "truncated to".into() } else { format!("{length} bytes at") };
        Ok(Some(format!("opened as {opened_as:?} {verb} {place}")))
    }

    fn close(&mut self) -> Done {
        if self.open.is_empty() {
            return Ok(None);
        }
        let OpenFile { file, inode, opened_as } = self.open.swap_remove(self.rng.usize(..self.open.len()));
        self.changed_through.insert(LinkName::Any(inode), Instant::now());
        drop(file);
        Ok(Some(format!("opened as {opened_as:?}")))
    }
}

/// Names.
impl Churn {
    fn unlink(&mut self) -> Done {
        let Some(path) = self.entry(|kind| !kind.is_dir()) else { return Ok(None) };
        self.remove(&path)
    }

    fn remove_tree(&mut self) -> Done {
        match self.movable_directory() {
            Some(path) if self.count(&path) <= 60 => self.remove(&path),
            _ => Ok(None),
        }
    }

    fn remove(&mut self, path: &RelPath) -> Done {
        if !self.may_vanish(path) {
            return Ok(None);
        }
        remove_any(&self.full(path))?;
        Ok(Some(format!("{path:?}")))
    }

    fn make_directories(&mut self) -> Done {
        let parent = self.directory();
        let Some(top) = self.free_name(&parent) else { return Ok(None) };
        let mut path = top.clone();
        let levels = self.rng.usize(1..=4);
        for level in 0..levels {
            if level > 0 {
                path = path.join(&self.name());
            }
            if depth(&path) >= DEPTH_MAX {
                break;
            }
            fs::create_dir(self.full(&path))?;
        }
        // Filled from the top and at once: the agent's watches cannot be in time.
        let mut files = 0;
        let mut directory = Some(path);
        while let Some(here) = directory.filter(|here| here.is_within(&top)) {
            if self.is_directory(&here) {
                for _ in 0..self.rng.usize(..=3) {
                    let Some(file) = self.free_name(&here) else { continue };
                    let size = self.size().min(20_000);
                    self.write_new(&self.full(&file), size)?;
                    files += 1;
                }
            }
            directory = here.parent();
        }
        Ok(Some(format!("{top:?} {levels} levels, {files} files")))
    }

    fn rename_file(&mut self) -> Done {
        let Some(from) = self.entry(|kind| !kind.is_dir()) else { return Ok(None) };
        let to = match self.rng.u8(..3) {
            0 => self.free_name(&from.parent().unwrap_or_default()),
            1 => {
                let directory = self.directory();
                self.free_name(&directory)
            }
            _ => self.entry(|kind| !kind.is_dir()),
        };
        let Some(to) = to else { return Ok(None) };
        if from == to || !self.may_vanish(&from) || !self.may_vanish(&to) {
            return Ok(None);
        }
        let over = if exists(&self.full(&to)) { " (over it)" } else { "" };
        fs::rename(self.full(&from), self.full(&to))?;
        Ok(Some(format!("{from:?} to {to:?}{over}")))
    }

    fn rename_directory(&mut self) -> Done {
        let Some(from) = self.movable_directory() else { return Ok(None) };
        let to = match self.rng.u8(..6) {
            0 | 1 => self.free_name(&from.parent().unwrap_or_default()),
            // rename(2) permits an empty directory as the victim.
            2 => self.movable_directory().filter(|to| self.count(to) == 0),
            _ => {
                let directory = self.directory();
                self.free_name(&directory)
            }
        };
        let Some(to) = to else { return Ok(None) };
        if to.is_within(&from) || from.is_within(&to) || !self.fits(&from, &to) {
            return Ok(None);
        }
        fs::rename(self.full(&from), self.full(&to))?;
        Ok(Some(format!("{from:?} to {to:?}")))
    }

    /// One directory is renamed several times at once, back to where it was perhaps, and written to right after.
    fn rename_about(&mut self) -> Done {
        let Some(first) = self.movable_directory() else { return Ok(None) };
        let mut at = first.clone();
        let mut told = format!("{first:?}");
        for _time in 0..self.rng.u8(1..4) {
            let above = if self.rng.bool() { at.parent().unwrap_or_default() } else { self.directory() };
            let Some(to) = self.free_name(&above).filter(|to| !to.is_within(&at) && self.fits(&at, to)) else { break };
            fs::rename(self.full(&at), self.full(&to))?;
            told = format!("{told} to {to:?}");
            at = to;
        }
        if at == first {
            return Ok(None);
        }
        if self.rng.u8(..4) == 0
            && !exists(&self.full(&first))
            && self.is_directory(&first.parent().unwrap_or_default())
            && !first.is_within(&at)
        {
            fs::rename(self.full(&at), self.full(&first))?;
            told = format!("{told} and back to {first:?}");
            at = first;
        }
        if self.rng.bool()
            && let Some(file) = self.free_name(&at)
        {
            self.write_new(&self.full(&file), 10)?;
            self.written(&file)?;
            told = format!("{told}, with the new {file:?}");
        }
        Ok(Some(told))
    }

    fn take_the_place_of_a_moved_directory(&mut self) -> Done {
        let (Some(first), Some(second)) = (self.movable_directory(), self.movable_directory()) else { return Ok(None) };
        let parent = self.directory();
        let Some(away) = self.free_name(&parent) else { return Ok(None) };
        if disjoint(&first, &second) && !away.is_within(&first) && self.fits(&first, &away) && self.fits(&second, &first)
            // Then `first` would move along with `second`, deeper than was checked.
            && !away.is_within(&second)
        {
            fs::rename(self.full(&first), self.full(&away))?;
            fs::rename(self.full(&second), self.full(&first))?;
            let again = self.rng.u8(..3) == 0;
            if again {
                fs::create_dir(self.full(&second))?;
                if let Some(file) = self.free_name(&second) {
                    self.write_new(&self.full(&file), 10)?;
                }
            }
            let again = if again { ", which is made anew" } else { "" };
            return Ok(Some(format!("{first:?} to {away:?}, then into its place {second:?}{again}")));
        }
        Ok(None)
    }

    fn move_in(&mut self) -> Done {
        self.fill_pool()?;
        let pool = sorted_names(&self.outside)?;
        let from = self.outside.join(as_os(&pool[self.rng.usize(..pool.len())]));
        let directory = self.directory();
        let is_tree = fs::symlink_metadata(&from)?.is_dir();
        let to = if !is_tree && self.rng.u8(..3) == 0 { self.file() } else { self.free_name(&directory) };
        let Some(to) = to else { return Ok(None) };
        if depth(&to) + height(&from) > DEPTH_MAX || (exists(&self.full(&to)) && !self.may_vanish(&to)) {
            return Ok(None);
        }
        fs::rename(&from, self.full(&to))?;
        Ok(Some(format!("{} to {to:?}", if is_tree { "tree" } else { "file" })))
    }

    fn move_out(&mut self) -> Done {
        let path = if self.rng.bool() { self.movable_directory() } else { self.entry(|kind| kind.is_file()) };
        let Some(path) = path else { return Ok(None) };
        if !self.may_vanish(&path) || self.count(&path) > 60 {
            return Ok(None);
        }
        let to = self.pool_place();
        fs::rename(self.full(&path), &to)?;
        let pool = sorted_names(&self.outside)?;
        if pool.len() > POOL_MAX {
            remove_any(&self.outside.join(as_os(&pool[0])))?;
        }
        Ok(Some(format!("{path:?}")))
    }

    fn exchange_files(&mut self) -> Done {
        let (Some(a), Some(b)) = (self.file(), self.file()) else { return Ok(None) };
        self.exchange(&a, &b)
    }

    fn exchange_directories(&mut self) -> Done {
        let (Some(a), Some(b)) = (self.movable_directory(), self.movable_directory()) else { return Ok(None) };
        self.exchange(&a, &b)
    }

    fn exchange_any(&mut self) -> Done {
        let (Some(a), Some(b)) = (self.entry(|_| true), self.entry(|_| true)) else { return Ok(None) };
        self.exchange(&a, &b)
    }

    fn exchange(&mut self, a: &RelPath, b: &RelPath) -> Done {
        if !disjoint(a, b) || !self.may_vanish(a) || !self.may_vanish(b) || !self.fits(a, b) || !self.fits(b, a) {
            return Ok(None);
        }
        rustix::fs::renameat_with(CWD, self.full(a), CWD, self.full(b), RenameFlags::EXCHANGE)?;
        Ok(Some(format!("{a:?} with {b:?}")))
    }

    /// Exchanges a directory with one from outside that has the same names, sizes and times, but other contents: what a
    /// restored backup or a second unpacked version looks like. Sizes and times cannot tell the two apart.
    fn exchange_with_twin(&mut self) -> Done {
        let Some(path) = self.movable_directory() else { return Ok(None) };
        let entries = self.count(&path);
        if entries == 0 || entries > 30 {
            return Ok(None);
        }
        let twin = self.pool_place();
        self.make_twin(&self.full(&path), &twin)?;
        rustix::fs::renameat_with(CWD, self.full(&path), CWD, &twin, RenameFlags::EXCHANGE)?;
        Ok(Some(format!("{path:?} {entries} entries")))
    }

    fn make_twin(&mut self, of: &Path, twin: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(of)?;
        if metadata.is_dir() {
            fs::create_dir(twin)?;
            for name in sorted_names(of)? {
                self.make_twin(&of.join(as_os(&name)), &twin.join(as_os(&name)))?;
            }
        } else if metadata.is_file() {
            let data = self.data(usize::try_from(metadata.len()).expect("small files only"));
            fs::write(twin, data)?;
        } else if metadata.is_symlink() {
            symlink(fs::read_link(of)?, twin)?;
        } else {
            return Ok(());
        }
        set_modified(twin, (metadata.mtime(), metadata.mtime_nsec()))
    }

    fn flip(&mut self) -> Done {
        let Some(path) = self.entry(|_| true) else { return Ok(None) };
        if !self.may_vanish(&path) || self.count(&path) > 30 {
            return Ok(None);
        }
        let kind = fs::symlink_metadata(self.full(&path))?.file_type();
        remove_any(&self.full(&path))?;
        let choices = [kind.is_file(), kind.is_dir(), kind.is_symlink()];
        let others: Vec<usize> = (0..3).filter(|choice| !choices[*choice]).collect();
        let new = match others[self.rng.usize(..others.len())] {
            0 => {
                let size = self.size();
                self.write_new(&self.full(&path), size)?;
                self.written(&path)?;
                "a file"
            }
            1 => {
                fs::create_dir(self.full(&path))?;
                for _ in 0..self.rng.usize(..=3) {
                    if let Some(file) = self.free_name(&path) {
                        self.write_new(&self.full(&file), 1000)?;
                    }
                }
                "a directory"
            }
            _ => {
                symlink(as_os(&self.link_target()), self.full(&path))?;
                "a symlink"
            }
        };
        Ok(Some(format!("{path:?} to {new}")))
    }

    /// As `rm -r out && make` does: at once, with the same names, and half of the time with the same sizes.
    fn recreate_directory(&mut self) -> Done {
        let Some(path) = self.movable_directory() else { return Ok(None) };
        let mut inside = Vec::new();
        self.walk(&path, &mut |entry, kind| inside.push((entry.clone(), kind)));
        if inside.len() > 60 {
            return Ok(None);
        }
        let sizes: Vec<usize> =
            inside.iter().map(|(entry, _)| size_of(&self.full(entry))).collect::<io::Result<_>>()?;
        fs::remove_dir_all(self.full(&path))?;
        fs::create_dir(self.full(&path))?;
        let same_sizes = self.rng.bool();
        for ((entry, kind), old_size) in inside.iter().zip(sizes) {
            if kind.is_dir() {
                fs::create_dir(self.full(entry))?;
            } else if kind.is_file() {
                let size = if same_sizes { old_size } else { self.size() };
                self.write_new(&self.full(entry), size)?;
            }
        }
        let sizes = if same_sizes { "same sizes" } else { "new sizes" };
        Ok(Some(format!("{path:?} {} entries, {sizes}", inside.len())))
    }

    fn hard_link(&mut self) -> Done {
        let Some(of) = self.file() else { return Ok(None) };
        let directory = self.directory();
        let Some(path) = self.free_name(&directory) else { return Ok(None) };
        if fs::symlink_metadata(self.full(&of))?.nlink() > 3 {
            return Ok(None);
        }
        fs::hard_link(self.full(&of), self.full(&path))?;
        if self.linked.len() > 30 {
            self.linked.drain(..10);
        }
        self.linked.extend([of.clone(), path.clone()]);
        Ok(Some(format!("{path:?} to {of:?}")))
    }

    fn make_symlink(&mut self) -> Done {
        let directory = self.directory();
        let Some(path) = self.free_name(&directory) else { return Ok(None) };
        symlink(as_os(&self.link_target()), self.full(&path))?;
        Ok(Some(format!("{path:?}")))
    }

    fn retarget_symlink(&mut self) -> Done {
        let Some(path) = self.entry(|kind| kind.is_symlink()) else { return Ok(None) };
        let target = self.link_target();
        if self.rng.bool() {
            fs::remove_file(self.full(&path))?;
            symlink(as_os(&target), self.full(&path))?;
        } else {
            let Some(temporary) = self.free(&path.parent().unwrap_or_default(), "tmp~link") else { return Ok(None) };
            symlink(as_os(&target), self.full(&temporary))?;
            fs::rename(self.full(&temporary), self.full(&path))?;
        }
        Ok(Some(format!("{path:?}")))
    }

    fn make_fifo(&mut self) -> Done {
        let directory = self.directory();
        let Some(path) = self.free_name(&directory) else { return Ok(None) };
        rustix::fs::mkfifoat(CWD, self.full(&path), Mode::from(0o644))?;
        Ok(Some(format!("{path:?}")))
    }
}

/// Attributes.
impl Churn {
    fn chmod(&mut self) -> Done {
        let Some(path) = self.entry(|kind| kind.is_file() || kind.is_dir()) else { return Ok(None) };
        let full = self.full(&path);
        // The owner keeps what the generator needs, should it not run as root.
        let owner = if fs::symlink_metadata(&full)?.is_dir() { 0o700 } else { 0o600 };
        let mode = match self.rng.u8(..3) {
            0 => owner | 0o044,
            1 => owner | (self.rng.u32(..) & 0o177),
            _ => owner | (self.rng.u32(..) & 0o7177),
        };
        fs::set_permissions(&full, fs::Permissions::from_mode(mode))?;
        self.changed(&path)?;
        Ok(Some(format!("{path:?} {mode:04o}")))
    }

    fn chown(&mut self) -> Done {
        if !nix::unistd::geteuid().is_root() {
            return Ok(None);
        }
        let Some(path) = self.entry(|kind| !kind.is_fifo()) else { return Ok(None) };
        let [user, group] = [(); 2].map(|()| [0, 1, 12, 1000, 4242, 65534][self.rng.usize(..6)]);
        lchown(self.full(&path), Some(user), Some(group))?;
        self.changed(&path)?;
        Ok(Some(format!("{path:?} {user}:{group}")))
    }

    fn set_any_mtime(&mut self) -> Done {
        let Some(path) = self.entry(|kind| !kind.is_fifo()) else { return Ok(None) };
        let (time, words) = if self.rng.u8(..3) == 0 {
            let Some(other) = self.entry(|kind| !kind.is_fifo()) else { return Ok(None) };
            (modified(&self.full(&other))?, format!("as {other:?}"))
        } else {
            let time = self.old_time();
            (time, format!("{}.{:09}", time.0, time.1))
        };
        set_modified(&self.full(&path), time)?;
        self.changed(&path)?;
        Ok(Some(format!("{path:?} {words}")))
    }
}

/// Choosing.
impl Churn {
    fn full(&self, path: &RelPath) -> PathBuf {
        path.below(&self.root)
    }

    fn name(&mut self) -> Vec<u8> {
        self.names[self.rng.usize(..self.names.len())].clone()
    }

    fn listing(&self, directory: &RelPath) -> Vec<(Vec<u8>, fs::FileType)> {
        let Ok(entries) = fs::read_dir(self.full(directory)) else { return Vec::new() };
        let mut list: Vec<_> = entries
            .flatten()
            .filter_map(|entry| Some((entry.file_name().into_vec(), entry.file_type().ok()?)))
            .collect();
        // The order of readdir is the file system's affair.
        list.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// Any directory, the root among them, that may hold further entries.
    fn directory(&mut self) -> RelPath {
        let mut here = RelPath::root();
        loop {
            if depth(&here) + 1 >= DEPTH_MAX || self.rng.u8(..4) == 0 {
                return here;
            }
            let mut inner = self.listing(&here);
            inner.retain(|(_, kind)| kind.is_dir());
            if inner.is_empty() {
                return here;
            }
            here = here.join(&inner[self.rng.usize(..inner.len())].0);
        }
    }

    /// An entry of a wanted type.
    fn entry(&mut self, wanted: fn(&fs::FileType) -> bool) -> Option<RelPath> {
        for _attempt in 0..10 {
            let directory = self.directory();
            let mut entries = self.listing(&directory);
            entries.retain(|(_, kind)| wanted(kind));
            if !entries.is_empty() {
                return Some(directory.join(&entries[self.rng.usize(..entries.len())].0));
            }
        }
        None
    }

    fn file(&mut self) -> Option<RelPath> {
        self.entry(fs::FileType::is_file)
    }

    fn linked_file(&mut self) -> Option<RelPath> {
        let root = &self.root;
        self.linked.retain(|path| {
            fs::symlink_metadata(path.below(root)).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() > 1)
        });
        if self.linked.is_empty() { None } else { Some(self.linked[self.rng.usize(..self.linked.len())].clone()) }
    }

    fn movable_directory(&mut self) -> Option<RelPath> {
        (0..4).find_map(|_| self.entry(fs::FileType::is_dir).filter(|path| self.may_vanish(path)))
    }

    fn free_name(&mut self, directory: &RelPath) -> Option<RelPath> {
        if depth(directory) >= DEPTH_MAX {
            return None;
        }
        (0..8).find_map(|_| Some(directory.join(&self.name())).filter(|path| !exists(&self.full(path))))
    }

    fn free(&self, directory: &RelPath, name: &str) -> Option<RelPath> {
        Some(directory.join(name.as_bytes())).filter(|path| !exists(&self.full(path)))
    }

    /// Half of the sizes come from a short list, so that files of one name often have one size too.
    fn size(&mut self) -> usize {
        match self.rng.u8(..24) {
            0 => self.rng.usize(300_000..310_000),
            1..=12 => [0, 1, 10, 100, 1000, 4096, 65536][self.rng.usize(..7)],
            _ => {
                let magnitude = self.rng.u32(..=16);
                self.rng.usize(..=1 << magnitude)
            }
        }
    }

    fn data(&mut self, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.rng.fill(&mut data);
        data
    }

    /// From 1990 to 2026; one in four on a full second.
    fn old_time(&mut self) -> (i64, i64) {
        let nanoseconds = if self.rng.u8(..4) == 0 { 0 } else { self.rng.i64(0..1_000_000_000) };
        (self.rng.i64(631_152_000..1_780_000_000), nanoseconds)
    }

    /// Also to places outside, to the root of all, to itself. A daemon without a chroot, hence without root, rewrites such
    /// targets (rsyncd.conf(5), "use chroot"), so only harmless ones are made then.
    fn link_target(&mut self) -> Vec<u8> {
        let kinds = if nix::unistd::geteuid().is_root() { 8 } else { 3 };
        match (self.rng.u8(..kinds) + 6) % 8 {
            0 => b"dangling/nowhere".to_vec(),
            1 => [b"../", &self.name()[..]].concat(),
            2 => self.directory().as_bytes().iter().copied().chain(*b"/.").collect(),
            3 => self.outside.as_os_str().as_bytes().to_vec(),
            4 => self.root.as_os_str().as_bytes().to_vec(),
            5 => b"..".to_vec(),
            6 => vec![b'y'; 1000],
            _ => self.name(),
        }
    }

    /// Creates a file and writes it in one to three pieces.
    fn write_new(&mut self, full: &Path, size: usize) -> io::Result<()> {
        let data = self.data(size);
        let mut file = OpenOptions::new().write(true).create_new(true).open(full)?;
        let pieces = self.rng.usize(1..=3);
        for piece in data.chunks(size.div_ceil(pieces).max(1)) {
            file.write_all(piece)?;
        }
        Ok(())
    }

    /// Files and trees with old times, as an archiver leaves them, wait outside of the root.
    fn fill_pool(&mut self) -> io::Result<()> {
        while sorted_names(&self.outside)?.len() < 4 {
            let place = self.pool_place();
            let levels = self.rng.usize(..=3);
            self.make_old(&place, levels)?;
        }
        Ok(())
    }

    fn make_old(&mut self, place: &Path, levels: usize) -> io::Result<()> {
        if levels == 0 {
            let size = self.size();
            self.write_new(place, size)?;
        } else {
            fs::create_dir(place)?;
            for _ in 0..self.rng.usize(..=4) {
                let inner = place.join(as_os(&self.name()));
                if !exists(&inner) {
                    let levels = self.rng.usize(..levels);
                    self.make_old(&inner, levels)?;
                }
            }
        }
        let time = self.old_time();
        set_modified(place, time)
    }

    fn pool_place(&mut self) -> PathBuf {
        self.made += 1;
        self.outside.join(format!("p{:08}", self.made))
    }
}

/// Knowing the tree.
impl Churn {
    fn walk(&self, directory: &RelPath, seen: &mut dyn FnMut(&RelPath, fs::FileType)) {
        for (name, kind) in self.listing(directory) {
            let path = directory.join(&name);
            seen(&path, kind);
            if kind.is_dir() {
                self.walk(&path, seen);
            }
        }
    }

    /// Entries beneath `path`; none for what is no directory.
    fn count(&self, path: &RelPath) -> usize {
        let mut count = 0;
        if self.is_directory(path) {
            self.walk(path, &mut |_, _| count += 1);
        }
        count
    }

    fn is_file(&self, path: &RelPath) -> bool {
        fs::symlink_metadata(self.full(path)).is_ok_and(|metadata| metadata.is_file())
    }

    fn is_directory(&self, path: &RelPath) -> bool {
        fs::symlink_metadata(self.full(path)).is_ok_and(|metadata| metadata.is_dir())
    }

    fn fits(&self, from: &RelPath, to: &RelPath) -> bool {
        depth(to) + height(&self.full(from)) <= DEPTH_MAX
    }

    fn written(&mut self, path: &RelPath) -> io::Result<()> {
        self.last_written = Some(path.clone());
        self.changed(path)
    }

    /// Notes a change through a name that is not the only one of its file.
    fn changed(&mut self, path: &RelPath) -> io::Result<()> {
        let metadata = fs::symlink_metadata(self.full(path))?;
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let parent = fs::symlink_metadata(self.full(&path.parent().unwrap_or_default()))?.ino();
            let name = path.name().unwrap_or_default().to_vec();
            self.changed_through.insert(LinkName::Name(parent, name), Instant::now());
        }
        Ok(())
    }

    /// Whether `path` may be removed, renamed or overwritten: neither long-lived nor the hole of the module's header.
    fn may_vanish(&mut self, path: &RelPath) -> bool {
        let rest = self.link_rest;
        self.changed_through.retain(|_, at| at.elapsed() < rest);
        let lives_long = path.is_root() || self.long_lived.iter().any(|kept| kept.is_within(path));
        !lives_long && !self.rests(path)
    }

    fn rests(&self, path: &RelPath) -> bool {
        if self.changed_through.is_empty() && self.open.is_empty() {
            return false;
        }
        let Ok(metadata) = fs::symlink_metadata(self.full(path)) else { return false };
        if metadata.is_dir() {
            return self.listing(path).iter().any(|(name, _)| self.rests(&path.join(name)));
        }
        if metadata.nlink() < 2 {
            return false;
        }
        let Ok(parent) = fs::symlink_metadata(self.full(&path.parent().unwrap_or_default())) else { return false };
        let name = LinkName::Name(parent.ino(), path.name().unwrap_or_default().to_vec());
        self.open.iter().any(|open| open.inode == metadata.ino())
            || self.changed_through.contains_key(&LinkName::Any(metadata.ino()))
            || self.changed_through.contains_key(&name)
    }
}

fn depth(path: &RelPath) -> usize {
    path.components().count()
}

/// Levels beneath `full`: 0 for a file and for an empty directory.
fn height(full: &Path) -> usize {
    if !fs::symlink_metadata(full).is_ok_and(|metadata| metadata.is_dir()) {
        return 0;
    }
    let names = sorted_names(full).unwrap_or_default();
    names.iter().map(|name| 1 + height(&full.join(as_os(name)))).max().unwrap_or(0)
}

fn disjoint(a: &RelPath, b: &RelPath) -> bool {
    !a.is_within(b) && !b.is_within(a)
}

fn exists(full: &Path) -> bool {
    fs::symlink_metadata(full).is_ok()
}

fn as_os(name: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(name)
}

fn sorted_names(full: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> =
        fs::read_dir(full)?.map(|entry| Ok(entry?.file_name().into_vec())).collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}

fn remove_any(full: &Path) -> io::Result<()> {
    if fs::symlink_metadata(full)?.is_dir() { fs::remove_dir_all(full) } else { fs::remove_file(full) }
}

fn size_of(full: &Path) -> io::Result<usize> {
    Ok(usize::try_from(fs::symlink_metadata(full)?.len()).expect("small files only"))
}

fn modified(full: &Path) -> io::Result<(i64, i64)> {
    let metadata = fs::symlink_metadata(full)?;
    Ok((metadata.mtime(), metadata.mtime_nsec()))
}

/// Sets the mtime (seconds, nanoseconds) of what `full` names, of a symlink itself too; atime stays.
pub fn set_modified(full: &Path, (seconds, nanoseconds): (i64, i64)) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    Ok(rustix::fs::utimensat(CWD, full, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Snapshot, differences};
    use std::process::Command;

    fn rsync(options: &str, source: &Path, target: &Path) {
        let output = Command::new("rsync")
            // Without it rsync takes times within one second as equal: a directory that it made just now keeps its own time.
            .args([options, "--delete", "--modify-window=-1"])
            .arg(source.join(""))
            .arg(target.join(""))
            .output()
            .expect("rsync is installed");
        assert!(output.status.success(), "{:?}", bstr::BStr::new(&output.stderr));
    }

    /// What the generator makes can be mirrored, and the comparer agrees with rsync on what is equal. The second
    /// run, onto the older tree, needs `-I`: the generator makes changes that size and mtime do not show.
    #[test]
    fn one_rsync_of_a_quiet_tree_is_equal() {
        for seed in 0..16 {
            let names = if seed % 2 == 0 { Names::Plain } else { Names::Hostile };
            let scratch = tempfile::tempdir().unwrap();
            let [source, target, outside] = ["source", "target", "outside"].map(|name| scratch.path().join(name));
            let mut churn = Churn::new(seed, source.clone(), outside, names);
            for options in ["-a", "-aI"] {
                churn.run(400);
                rsync(options, &source, &target);
                let found = differences(&source, &target, 20);
                assert!(found.is_empty(), "seed {seed} {names:?} {options}:\n{}", found.join("\n"));
            }
        }
    }

    #[test]
    fn every_operation_happens_and_the_tree_stays_in_bounds() {
        let mut done: HashMap<String, usize> = HashMap::new();
        for (seed, names) in [(1, Names::Plain), (2, Names::Hostile)] {
            let scratch = tempfile::tempdir().unwrap();
            let source = scratch.path().join("source");
            let mut churn = Churn::new(seed, source.clone(), scratch.path().join("outside"), names);
            churn.fill(100);
            for step in 0..3000 {
                let line = churn.step();
                assert!(!line.contains('\n'));
                *done.entry(line.split(' ').nth(1).unwrap_or_default().to_owned()).or_default() += 1;
                if step % 200 == 199 {
                    let entries = Snapshot::take(&source).len();
                    assert!((25..=400).contains(&entries), "{entries} entries after {step} steps");
                }
            }
            assert!(churn.long_lived.iter().all(|path| churn.is_directory(path)));
            assert!(churn.open.len() <= OPEN_MAX);
            churn.close_all();
            assert!(churn.open.is_empty());
        }
        for operation in OPERATIONS {
            if operation.name != "chown" || nix::unistd::geteuid().is_root() {
                assert!(done.contains_key(operation.name), "never done: {}", operation.name);
            }
        }
        println!("{done:?}");
    }

    #[test]
    fn a_seed_gives_the_same_steps_again() {
        let steps = || {
            let scratch = tempfile::tempdir().unwrap();
            let [source, outside] = ["source", "outside"].map(|name| scratch.path().join(name));
            let mut churn = Churn::new(11, source, outside, Names::Hostile);
            // Few enough that all of them lie within the rest of a linked name in both runs.
            churn.run(150);
            churn.trace().to_vec()
        };
        for (first, second) in steps().iter().zip(steps()) {
            assert_eq!(*first, second);
        }
    }

    /// The hole of the module's header: a write through one name, then that name goes.
    #[test]
    fn a_linked_name_rests_after_a_change_through_it() {
        let scratch = tempfile::tempdir().unwrap();
        let [source, outside] = ["source", "outside"].map(|name| scratch.path().join(name));
        let mut churn = Churn::new(3, source.clone(), outside, Names::Plain);
        let path = |text: &[u8]| RelPath::parse(text).unwrap();
        fs::create_dir(source.join("x")).unwrap();
        fs::write(source.join("x/a"), b"one").unwrap();
        churn.written(&path(b"x/a")).unwrap();
        assert!(churn.may_vanish(&path(b"x/a")), "it is the only name");
        fs::hard_link(source.join("x/a"), source.join("b")).unwrap();
        assert!(churn.may_vanish(&path(b"x/a")), "the link came after the write");
        churn.written(&path(b"x/a")).unwrap();
        assert!(!churn.may_vanish(&path(b"x/a")));
        assert!(!churn.may_vanish(&path(b"x")), "a directory above");
        assert!(churn.may_vanish(&path(b"b")), "the other name");
        fs::rename(source.join("x"), source.join("y")).unwrap();
        assert!(!churn.may_vanish(&path(b"y/a")), "the parent's name does not matter");
        fs::remove_file(source.join("b")).unwrap();
        assert!(churn.may_vanish(&path(b"y/a")), "the last name");
    }
}
