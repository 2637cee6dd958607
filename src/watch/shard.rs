//! One shard: an inotify instance, the directories that it watches, and the marks that its events become.
//!
//! Invariants:
//! - A directory's watch is added before the directory is listed, and the mark on what was found is emitted after
//!   that; so a change is either seen by the listing, or has an event, or is covered by the mark.
//! - Marks leave in the order of the events that made them. An errand for another shard leaves after the marks
//!   before it, so a "gone" mark of the trunk never overtakes what the owner says of a later directory of that name.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::backend::Choice;
use super::dealing::{Part, SPLIT_MIN, Yielding};
use super::errand::{Errand, Task};
use super::lack::Lack;
use super::nameless::{Handles, NamelessChange};
use super::standing::Standing;
use super::touches::Touches;
use super::trunk::Trunk;
use super::walk::{Reason, Walk};
use crate::change::{CTIME_SLACK, Mark, MarkKind, Origin, Stage};
use crate::event::{self, Event, EventKind, Place, Record};
use crate::filter::Filter;
use crate::limits::Allowance;
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::sys::files::{self, EntryType, Identity};
use crate::sys::ground::{Backend, Ground, Watches as _};
use crate::tree::{Directories, DirectoryId};

/// Which shard of a root; 0 is the trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Shards of one root. Why 64: each is a thread and an inotify instance, of which a user has 128.
pub const SHARDS_MAX: usize = 64;

/// How long a directory that left by rename waits for its new name before its watches end. Unit: time. Why 100 ms:
/// the halves of a rename were at most 1.1 ms apart (notes/kernel.md 1.4); late is harmless, it costs a second walk.
const DEPARTED_WAIT: Duration = Duration::from_millis(100);

/// How often directories without a watch are looked through, and tried again. Unit: time.
const UNWATCHED_PAUSE: Duration = Duration::from_secs(60);

/// Between two looks for the oldest of the directories without a watch: they are only ever replaced by younger ones, so an
/// older reckoning errs on the safe side. Unit: time.
const RECKON_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks whether the limit on watches was raised, while directories lack one because of it. Unit: time.
const LIMIT_LOOK_PAUSE: Duration = Duration::from_secs(3);

/// Between two lines about overflows of one shard. Unit: time.
const OVERFLOW_LINES_PAUSE: Duration = Duration::from_secs(10);

/// Renamed directories of which their owners are still to hear.
const ORIGINS_MAX: usize = 1_024;

/// Bytes of one read: more brings nothing (notes/kernel.md 1.1).
const READ_BUFFER: usize = 64 * 1024;

/// Reads of one turn, so that a flood does not keep marks from leaving.
const READS_MAX: usize = 16;

/// What all shards of a root share.
#[derive(Debug)]
pub struct Source<G = OwnedFd> {
    /// The root's name in logs.
    pub name: String,
    /// The configured path.
    pub path: PathBuf,
    /// The root, held open for the agent's life.
    pub root: G,
    /// Which directory that is.
    pub identity: Identity,
    /// Device of the root.
    pub device: u64,
    /// Directories on other devices are not entered.
    pub one_file_system: bool,
    /// What is kept the same.
    pub filter: Filter,
    /// By what the kernel tells of changes, and why by that.
    pub choice: Choice,
    /// NFS clients write here.
    pub nfs_exported: bool,
    /// Directories elsewhere on the same file system whose events are of no interest.
    pub noisy: Vec<PathBuf>,
    /// Ctimes tell what changed since a moment: not so on network file systems. Where they do not, what was lost is
    /// compared in full.
    pub ctimes_tell: bool,
    /// How often directories without a watch are looked through, and tried again.
    pub unwatched_pause: Duration,
    /// How far before its event a ctime may lie, and so how much further than the watermark a rescan looks back.
    pub slack: Duration,
    /// What its watches may hold, together with those of other roots; `None`: all that the kernel gives.
    pub allowance: Option<std::sync::Arc<Allowance>>,
    /// Directories above this depth are watched by the trunk, and what lies in them is dealt.
    pub shard_depth: u16,
    /// How many directories are watched at least in one that is split.
    pub split_min: u64,
    shards: AtomicU16,
    /// The crown but for the root (see [`Trunk`]), and which inodes these directories are.
    pub(super) crown: RwLock<BTreeMap<RelPath, u64>>,
    split_said: AtomicBool,
    unsettled: AtomicI64,
    live: AtomicBool,
    /// What happened while nobody looked, before this start, is still being looked for.
    resuming: AtomicBool,
    /// Directories that left one of the crown by rename, by their new names there: for their owners.
    pub(super) origins: Mutex<BTreeMap<RelPath, Origin>>,
    /// Nothing is ever deleted on a target.
    pub keep: bool,
    pub(super) counters: Counters,
    pub(super) standing: Standing,
    unwatched_said: [AtomicBool; 3],
    mounts_said: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Counters {
    events: AtomicU64,
    overflows: AtomicU64,
    watched: AtomicI64,
    watched_each: [AtomicU64; SHARDS_MAX],
    unwatched: [AtomicI64; 3],
    unreadable: AtomicU64,
    pub entries: AtomicI64,
    /// The most since the last look at the root: what was there between two looks must not go unseen.
    pub entries_peak: AtomicI64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            events: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            watched: AtomicI64::new(0),
            watched_each: [const { AtomicU64::new(0) }; SHARDS_MAX],
            unwatched: Default::default(),
            unreadable: AtomicU64::new(0),
            entries: AtomicI64::new(0),
            entries_peak: AtomicI64::new(0),
        }
    }
}

/// A reading of a root's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Events read so far.
    pub events: u64,
    /// Overflow markers read so far.
    pub overflows: u64,
    /// Directories watched now.
    pub watched: i64,
    /// Directories that could not be watched and are compared now and then.
    pub unwatched: i64,
    /// How many of them for each reason: [`Lack::Limit`], [`Lack::Memory`], [`Lack::Unreadable`].
    pub lacking: [i64; 3],
    /// Entries known under the root, approximately.
    pub entries: u64,
}

impl Source {
    /// Opens the root at `path`.
    ///
    /// # Errors
    /// Those of open(2), statx(2) and statfs(2).
    pub fn open(name: &str, path: PathBuf, one_file_system: bool, filter: Filter) -> io::Result<Self> {
        let root = files::open_root(&path)?;
        let ctimes_tell = files::ctimes_tell(&root)?;
        let source = Self::of_root(name, path, root, one_file_system, filter)?;
        Ok(Self { ctimes_tell, ..source })
    }
}

impl<G: Ground> Source<G> {
    /// For the root that was opened at `path`.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn of_root(name: &str, path: PathBuf, root: G, one_file_system: bool, filter: Filter) -> io::Result<Self> {
        let identity = root.status()?.identity;
        Ok(Self {
            name: name.to_owned(),
            path,
            root,
            identity,
            device: identity.device,
            one_file_system,
            filter,
            choice: Choice::default(),
            nfs_exported: false,
            noisy: Vec::new(),
            ctimes_tell: true,
            unwatched_pause: UNWATCHED_PAUSE,
            slack: CTIME_SLACK,
            allowance: None,
            shard_depth: 1,
            split_min: SPLIT_MIN,
            shards: AtomicU16::new(1),
            crown: RwLock::default(),
            split_said: AtomicBool::new(false),
            // The trunk's first look at the root is the first thing to be settled.
            unsettled: AtomicI64::new(1),
            live: AtomicBool::new(false),
            resuming: AtomicBool::new(true),
            origins: Mutex::default(),
            keep: false,
            counters: Counters::default(),
            standing: Standing::default(),
            unwatched_said: Default::default(),
            mounts_said: AtomicU64::new(0),
        })
    }

    /// The same, but nothing is ever deleted on a target if `keep`.
    #[must_use]
    pub fn keeping(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// The same; NFS clients write here if `exported`.
    #[must_use]
    pub fn exported(mut self, exported: bool) -> Self {
        self.nfs_exported = exported;
        self
    }

    /// The same, watched in the chosen way.
    #[must_use]
    pub fn watched_by(mut self, choice: Choice, noisy: Vec<PathBuf>) -> Self {
        (self.choice, self.noisy) = (choice, noisy);
        self
    }

    /// The same with another slack; for tests, whose trees are young.
    #[must_use]
    pub fn with_slack(mut self, slack: Duration) -> Self {
        self.slack = slack;
        self
    }

    /// The same with another pause for directories without a watch; for tests.
    #[must_use]
    pub fn with_unwatched_pause(mut self, pause: Duration) -> Self {
        self.unwatched_pause = pause;
        self
    }

    /// The same, but its watches hold no more than they may.
    #[must_use]
    pub fn within(mut self, allowance: Option<std::sync::Arc<Allowance>>) -> Self {
        self.allowance = allowance;
        self
    }

    /// The same with another depth in which directories are dealt to shards.
    #[must_use]
    pub fn with_shard_depth(mut self, depth: u16) -> Self {
        self.shard_depth = depth;
        self
    }

    /// The same with another least size of what is split; for tests, whose trees are small.
    #[must_use]
    pub fn with_split_min(mut self, directories: u64) -> Self {
        self.split_min = directories;
        self
    }

    /// How many shards share the root.
    pub(super) fn shards(&self) -> u16 {
        self.shards.load(Ordering::Relaxed)
    }

    /// Directories that each shard watches now.
    pub fn watched_each(&self) -> impl Iterator<Item = u64> {
        let counts = self.counters.watched_each.iter().take(usize::from(self.shards()));
        counts.map(|count| count.load(Ordering::Relaxed))
    }

    /// Which inode a crown directory is; `None` if there is no such one at `path`.
    pub(super) fn crown_inode(&self, path: &RelPath) -> Option<u64> {
        self.crown.read().get(path).copied()
    }

    /// Tells that a directory was split, which is rare.
    pub(super) fn say_split(&self, path: &RelPath, by: ShardId, directories: u64) {
        let (root, shard) = (&self.name, by.0);
        if self.split_said.swap(true, Ordering::Relaxed) {
            tracing::debug!(root, path = %path, shard, directories, "directories in it are dealt to all shards");
        } else {
            tracing::info!(
                root,
                path = %path,
                shard,
                directories,
                "most directories lie in one: those in it are dealt to all shards (further ones are told at debug)"
            );
        }
    }

    /// Whether every walk and errand that was ever started is done at this moment.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unsettled.load(Ordering::SeqCst) == 0
    }

    /// Whether all directories were watched once. True from the first moment on at which every walk and errand was
    /// done.
    #[must_use]
    pub fn is_live(&self) -> bool {
        if self.is_settled() {
            self.live.store(true, Ordering::SeqCst);
        }
        self.live.load(Ordering::SeqCst)
    }

    /// All that happened before this start has its marks.
    pub fn resumed(&self) {
        self.resuming.store(false, Ordering::SeqCst);
    }

    /// An errand or a walk begins. Must come before it is handed over.
    pub fn unsettled_up(&self) {
        self.unsettled.fetch_add(1, Ordering::SeqCst);
    }

    /// It is done.
    pub fn unsettled_down(&self) {
        self.unsettled.fetch_sub(1, Ordering::SeqCst);
    }

    /// The counters now.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let lacking = self.counters.unwatched.each_ref().map(|count| count.load(Ordering::Relaxed));
        Reading {
            events: self.counters.events.load(Ordering::Relaxed),
            overflows: self.counters.overflows.load(Ordering::Relaxed),
            watched: self.counters.watched.load(Ordering::Relaxed),
            unwatched: lacking.iter().sum(),
            lacking,
            entries: u64::try_from(self.counters.entries.load(Ordering::Relaxed)).unwrap_or(0),
        }
    }

    /// A directory that lacked a watch was looked at again, and counted anew if it still does.
    pub(super) fn looked_again(&self, lack: Lack) {
        let was_last = self.counters.unwatched[lack as usize].fetch_sub(1, Ordering::Relaxed) == 1;
        if was_last && self.unwatched_said[lack as usize].swap(false, Ordering::Relaxed) {
            let reason = lack.name();
            tracing::info!(root = self.name, reason, "no directory lacks a watch for this reason any more");
        }
    }

    /// Tells of a directory that cannot be read.
    pub fn say_unreadable(&self, path: &RelPath, error: &io::Error) {
        // Bounded: the first few by name, the rest only in the counter.
        if self.counters.unreadable.fetch_add(1, Ordering::Relaxed) < 20 {
            tracing::warn!(root = self.name, path = %path, %error, "cannot read a directory of the source");
        }
    }

    pub(super) fn say_mount(&self, path: &RelPath) {
        if self.mounts_said.fetch_add(1, Ordering::Relaxed) < 20 {
            tracing::warn!(
                root = self.name,
                path = %path,
                "another file system is mounted here: it is not watched and not sent (one_file_system)"
            );
        }
    }
}

/// What a shard needs to begin.
#[derive(Debug, Clone, Copy)]
pub struct ShardOptions {
    /// Which one.
    pub id: ShardId,
    /// How many there are.
    pub shards: u16,
}

/// A directory that could not be watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unwatched {
    /// Why.
    pub(super) lack: Lack,
    /// When it is tried again.
    deadline: Instant,
    /// What changed in it at this moment or later is not known.
    pub(super) since: WallTime,
}

/// Directories of which the shard does not know what happened since a moment: to be rescanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: LossReason,
    /// The shard remembers which directories were there.
    pub known: bool,
    /// What, and since when.
    pub scopes: Vec<LostScope>,
}

/// Why a shard does not know what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LossReason {
    /// The kernel's queue overflowed.
    Overflow,
    /// There was no watch.
    Unwatched,
}

/// One directory of a [`Loss`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostScope {
    /// Where.
    pub path: RelPath,
    /// Everything beneath, or this one level only.
    pub recursive: bool,
    /// Since when, the slack taken off.
    pub since: WallTime,
}

/// A directory that left by rename, for the half that tells where it went.
#[derive(Debug)]
struct Leaving {
    cookie: u32,
    path: RelPath,
    directory: Option<DirectoryId>,
}

/// Where a directory was that is walked because it was renamed.
#[derive(Debug)]
pub(super) struct Former {
    pub(super) origin: Origin,
    /// Which directory of the map it is; else the one at its old name.
    pub(super) directory: Option<DirectoryId>,
}

/// One shard.
#[derive(Debug)]
pub struct Shard<G: Ground = OwnedFd> {
    pub(super) id: ShardId,
    pub(super) source: std::sync::Arc<Source<G>>,
    pub(super) watches: G::Watches,
    pub(super) map: Directories,
    pub(super) trunk: Option<Trunk>,
    /// Of the trunk: directories that it watched as ones of the crown. What others own in them is not in its map.
    pub(super) crowned: HashSet<DirectoryId>,
    /// Errands that are to be handed over.
    pub(super) asked: Vec<Errand>,
    pub(super) yielding: Vec<Yielding>,
    /// Directories that may be there for nothing any more.
    pub(super) bare: Vec<DirectoryId>,
    /// With so many directories it is time to see whether one holds most of them.
    pub(super) split_at: u64,
    /// That was seen since all was watched.
    pub(super) seen_live: bool,
    pub(super) walks: Vec<Walk<G::Directory>>,
    /// Events were lost, and whatever was renamed meanwhile may hold what nobody saw: its new place is perhaps not looked
    /// through.
    pub(super) lossy: bool,
    /// All losses are made good; what was renamed before that is in the queue.
    pub(super) made_good: bool,
    /// Directories beneath which directories came or went, or may have, while they were detached: to be looked through. When
    /// one of the crown is back, those in it.
    pub(super) missed: HashSet<DirectoryId>,
    /// Walks that ended, and whose marks and losses may not be handed over yet.
    pub(super) finished: usize,
    /// Walks beneath a departed directory, continued at the next tick.
    pub(super) suspended: Vec<Walk<G::Directory>>,
    departed: Vec<(Instant, DirectoryId)>,
    /// The directory of the last half of a rename.
    leaving: Option<Leaving>,
    /// The queue was empty then, or all that was in it before was read.
    empty_at: Instant,
    /// Events come although the map is not filled yet: its first walk has not ended, or its end is not in what was read.
    pub(super) filling: bool,
    touches: Touches,
    pub(super) handles: Handles,
    pub(super) nameless: Vec<NamelessChange>,
    out: Vec<Mark>,
    pub(super) unwatched: BTreeMap<RelPath, Unwatched>,
    /// The limit on watches when it was last looked at, and when that is done again; while directories lack one for it.
    starved: Option<(u64, Instant)>,
    /// No older than the oldest [`Unwatched::since`], as of its last reckoning.
    unwatched_since: Option<(Instant, WallTime)>,
    losses: Vec<Loss>,
    last_empty: WallTime,
    overflow_said: Option<Instant>,
    buffer: Vec<u8>,
    watched_told: i64,
    entries_told: i64,
}

impl Shard {
    /// The instance's descriptor, for the event loop.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.watches.raw()
    }
}

impl<G: Ground> Shard<G> {
    /// Makes the instance; watches nothing yet.
    ///
    /// # Errors
    /// `EMFILE`, see [`Inotify::create`](crate::sys::inotify::Inotify::create).
    pub fn create(source: std::sync::Arc<Source<G>>, options: ShardOptions) -> io::Result<Self> {
        let mut watches = source.root.watches(source.choice.backend, source.nfs_exported)?;
        let last_empty = source.root.coarse_now();
        for directory in &source.noisy {
            if let Err(error) = watches.ignore(directory) {
                tracing::warn!(
                    root = source.name,
                    path = %directory.display(),
                    %error,
                    "cannot leave out the events of a noisy directory: they cost time, nothing else"
                );
            }
        }
        let source_fills = source.choice.backend == Backend::Fanotify;
        let trunk = (options.id == ShardId(0)).then(|| Trunk::new(options.shards, source.shard_depth));
        let split_at = source.split_min;
        source.shards.fetch_max(options.shards, Ordering::Relaxed);
        Ok(Self {
            id: options.id,
            watches,
            map: Directories::new(),
            trunk,
            crowned: HashSet::new(),
            asked: Vec::new(),
            yielding: Vec::new(),
            bare: Vec::new(),
            split_at,
            seen_live: false,
            walks: Vec::new(),
            lossy: false,
            made_good: true,
            missed: HashSet::new(),
            finished: 0,
            suspended: Vec::new(),
            departed: Vec::new(),
            leaving: None,
            empty_at: source.root.now(),
            filling: source_fills,
            touches: Touches::default(),
            handles: Handles::default(),
            nameless: Vec::new(),
            out: Vec::new(),
            unwatched: BTreeMap::new(),
            starved: None,
            unwatched_since: None,
            losses: Vec::new(),
            last_empty,
            overflow_said: None,
            buffer: vec![0; READ_BUFFER],
            watched_told: 0,
            entries_told: 0,
            source,
        })
    }

    /// Begins: the trunk watches the root and deals out what it finds there.
    ///
    /// # Errors
    /// When the root cannot be watched or listed: then there is nothing to do for this agent.
    pub fn start(&mut self) -> Result<(), StartError> {
        if self.trunk.is_some() {
            let root = self.source.root.open_directory(&RelPath::root())?;
            let wd = self.add_watch(&root)?;
            self.map.bind(self.map.root(), wd, self.source.identity.inode);
            self.deal_root()?;
            if self.filling {
                self.begin_to_fill();
            }
            self.tell_watched();
        }
        Ok(())
    }

    /// The mark sees everything from now on, so changes flow at once; the map is filled beside that.
    fn begin_to_fill(&mut self) {
        for Errand { path, .. } in self.trunk.as_mut().map(Trunk::errands).unwrap_or_default() {
            self.start_walk(self.map.root(), path.as_bytes(), Reason::Start);
        }
        self.source.live.store(true, Ordering::SeqCst);
    }

    /// Reads the queue, at most a turn's worth. Returns whether it was read to its end.
    ///
    /// # Errors
    /// Those of read(2): the instance is broken and the agent must end.
    pub fn drain(&mut self) -> io::Result<bool> {
        let before = self.source.root.coarse_now();
        let began = self.source.root.now();
        let yielding = self.yielding.len();
        let made_good = self.made_good;
        // What happened to the directories that the first walk met is in the queue by now.
        let filled = self.filling && self.walks.is_empty() && self.suspended.is_empty();
        let mut lost = false;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut finished = false;
        for _read in 0..READS_MAX {
            let Some(count) = self.watches.read(&mut buffer)? else {
                finished = true;
                break;
            };
            let mut events = 0;
            event::decode_as(self.watches.backend(), &buffer[..count], |record| match record {
                Record::Event(event) => {
                    events += 1;
                    lost |= !self.on_event(event);
                }
                Record::Nameless(nameless) => {
                    events += 1;
                    self.handles.add(nameless);
                }
                Record::Overflow => lost = true,
            });
            self.source.counters.events.fetch_add(events, Ordering::Relaxed);
        }
        self.buffer = buffer;
        self.flush();
        lost |= !self.look_at_nameless();
        if lost {
            // What was written in what was renamed may be among what was lost.
            self.out.iter_mut().for_each(|mark| mark.origin = None);
            self.source.origins.lock().clear();
            self.recover();
        }
        if finished && !lost {
            (self.last_empty, self.empty_at) = (before, began);
            self.read_before_yielding(yielding);
            self.lossy &= !made_good;
        }
        if finished && filled {
            self.filling = false;
        }
        Ok(finished)
    }

    /// Takes note of an event; false when that could not be done, so that it is lost.
    fn on_event(&mut self, event: Event<'_>) -> bool {
        if event.kind == EventKind::Ignored {
            if let Place::Watch(wd) = event.place {
                self.map.forget_watch(wd);
            }
            return true;
        }
        let wd = match event.place {
            Place::Watch(wd) => Some(wd),
            Place::Handle(handle) => self.watches.of_handle(handle),
        };
        let Some(directory) = wd.and_then(|wd| self.map.of_wd(wd)) else {
            return match event.place {
                // A watch that was removed while its events were under way.
                Place::Watch(_) => true,
                Place::Handle(handle) => self.on_stranger(handle, event),
            };
        };
        self.on_event_of(directory, event);
        true
    }

    fn on_event_of(&mut self, directory: DirectoryId, event: Event<'_>) {
        if event.name.is_empty() {
            return self.on_self(directory, event.kind);
        }
        match event.kind {
            EventKind::Created | EventKind::MovedTo => self.map.count_entry(directory, true),
            EventKind::Deleted | EventKind::MovedFrom => self.map.count_entry(directory, false),
            _ => {}
        }
        if event.directory {
            return self.on_directory(directory, event);
        }
        if !self.source.filter.is_empty() {
            let Some(path) = self.map.path(directory).map(|parent| parent.join(event.name)) else { return };
            if self.source.filter.excludes(&path, false) {
                return self.on_excluded(directory, event.kind);
            }
        }
        self.touches.add(directory, event.name, event.kind);
    }

    /// The watched directory itself. All but the root's are reported under their name in their parent too.
    fn on_self(&mut self, directory: DirectoryId, kind: EventKind) {
        match kind {
            EventKind::Attributes | EventKind::Modified if directory == self.map.root() => {
                self.emit(Mark::new(RelPath::root(), MarkKind::Attributes));
            }
            // A mark on the file system tells it once, of the directory itself.
            EventKind::Attributes | EventKind::Modified if self.watches.backend() == Backend::Fanotify => {
                if let Some(path) = self.map.path(directory) {
                    let mut mark = Mark::new(path, MarkKind::Attributes).stage(Stage::Unchanged);
                    mark.changes_names = false;
                    self.emit(mark);
                }
            }
            // Renamed back to its name: what the dispatcher says of it is enough.
            EventKind::SelfMoved if directory == self.map.root() && self.root_has_its_name() => {}
            EventKind::SelfDeleted | EventKind::SelfMoved | EventKind::Unmounted if directory == self.map.root() => {
                tracing::error!(
                    root = self.source.name,
                    path = %self.source.path.display(),
                    "the root was removed, renamed or unmounted: nothing is sent until it is back"
                );
            }
            _ => {}
        }
    }

    fn root_has_its_name(&self) -> bool {
        self.source.root.status_of_path(&self.source.path).is_ok_and(|status| status.identity == self.source.identity)
    }

    /// An excluded name changed its directory's mtime when it came or went; nothing else of it is ours.
    fn on_excluded(&mut self, directory: DirectoryId, kind: EventKind) {
        let names = matches!(kind, EventKind::Created | EventKind::Deleted | EventKind::MovedFrom | EventKind::MovedTo);
        if names && let Some(path) = self.map.path(directory) {
            self.emit(Mark::new(path, MarkKind::Attributes).stage(Stage::Lazy));
        }
    }

    fn on_directory(&mut self, parent: DirectoryId, event: Event<'_>) {
        let Some(place) = self.map.path(parent) else {
            return self.missed_beneath(parent, event.kind);
        };
        let path = place.join(event.name);
        if self.source.filter.excludes(&path, true) {
            // It may have had another name, which is watched: a move into an excluded name is a move out.
            self.drop_child(parent, event.name);
            return self.on_excluded(parent, event.kind);
        }
        let part = self.part_of(&place);
        match event.kind {
            // The first walk may have met it before its event came, and marks nothing.
            EventKind::Created if self.filling => self.look_at(part, parent, event, &path, Reason::Arrived, None),
            EventKind::Created => self.look_at(part, parent, event, &path, Reason::Appeared, None),
            EventKind::MovedTo => {
                let former = self.former(event.cookie);
                self.look_at(part, parent, event, &path, Reason::Arrived, former);
            }
            EventKind::Deleted | EventKind::MovedFrom => {
                // What has the name now decides, not the event: in an exchange the newcomer's event came before this
                // one, and the map may already hold it.
                if self.is_directory(&path) {
                    return self.look_at(part, parent, event, &path, Reason::Arrived, None);
                }
                let mut mark = Mark::new(path.clone(), MarkKind::Point);
                mark.gone_directory = true;
                if event.kind == EventKind::MovedFrom && event.cookie != 0 && self.vouches() {
                    mark.departs = true;
                    let directory = if part == Part::Own { self.map.child(parent, event.name) } else { None };
                    self.leaving = Some(Leaving { cookie: event.cookie, path: path.clone(), directory });
                }
                self.emit(mark);
                if part == Part::Crown {
                    self.left(&path, event.cookie);
                } else if event.kind == EventKind::MovedFrom {
                    self.departed(parent, event.name);
                } else {
                    self.drop_child(parent, event.name);
                }
            }
            // utimensat with an mtime alone is a "modify", of a directory too (observed, 6.18).
            EventKind::Attributes | EventKind::Modified => {
                let mut mark = Mark::new(path, MarkKind::Attributes).stage(Stage::Unchanged);
                mark.changes_names = false;
                self.emit(mark);
            }
            EventKind::Closed
            | EventKind::SelfDeleted
            | EventKind::SelfMoved
            | EventKind::Ignored
            | EventKind::Unmounted => {}
        }
    }

    /// A directory came or went in one that has no path at the moment. The mark that comes with its new name covers what
    /// is in there, but only a thorough walk watches it.
    fn missed_beneath(&mut self, parent: DirectoryId, kind: EventKind) {
        let names = matches!(kind, EventKind::Created | EventKind::Deleted | EventKind::MovedFrom | EventKind::MovedTo);
        if names && let Some(above) = self.map.detached_above(parent) {
            self.missed.insert(above);
        }
    }

    /// The directory of the other half of a rename.
    fn former(&mut self, cookie: u32) -> Option<Former> {
        let Leaving { path, directory, .. } =
            self.leaving.take().filter(|leaving| leaving.cookie == cookie && cookie != 0)?;
        let origin = Origin { path, since: self.empty_at };
        self.vouches().then_some(Former { origin, directory })
    }

    /// Whether this shard knows of all that happened so far to what it watches, and of nothing that was not as its map has
    /// it.
    pub(super) fn vouches(&self) -> bool {
        self.source.is_live()
            && !self.source.resuming.load(Ordering::SeqCst)
            && !self.source.keep
            && !self.source.nfs_exported
            && !self.source.filter.depends_on_place()
            && !self.filling
            && !self.lossy
            && self.made_good
            && self.losses.is_empty()
            && self.unwatched.is_empty()
            && self.missed.is_empty()
            && self.walks.is_empty()
            && self.suspended.is_empty()
    }

    /// As [`Self::former`], for what the trunk told its owner.
    pub(super) fn former_in_crown(&self, path: &RelPath) -> Option<Former> {
        let mut origin = self.source.origins.lock().remove(path)?;
        origin.since = origin.since.min(self.empty_at);
        self.vouches().then_some(Former { origin, directory: None })
    }

    /// A directory may be under this name now: watch it, list it, and mark what is there.
    fn look_at(
        &mut self,
        part: Part,
        parent: DirectoryId,
        event: Event<'_>,
        path: &RelPath,
        reason: Reason,
        former: Option<Former>,
    ) {
        match part {
            Part::Own => self.open_walk(Walk::new(parent, event.name, reason).from(former)),
            Part::Crown => {
                let mut origins = self.source.origins.lock();
                // Whoever is told nothing of it sends it.
                if origins.len() >= ORIGINS_MAX {
                    origins.clear();
                }
                match former {
                    Some(Former { origin, .. }) => origins.insert(path.clone(), origin),
                    None => origins.remove(path),
                };
                drop(origins);
                self.appeared(path, event.cookie);
            }
            // The trunk may have listed it before and so have no event.
            Part::Former => self.ask(ShardId(0), path.clone(), Task::Seen),
        }
        // Small ones are done before the next event is looked at.
        self.walk_slice(64);
    }

    pub(super) fn is_directory(&self, path: &RelPath) -> bool {
        self.source.root.glimpse(path.as_bytes()).is_ok_and(|status| status.entry_type == EntryType::Directory)
    }

    pub(super) fn start_walk(&mut self, parent: DirectoryId, name: &[u8], reason: Reason) {
        self.open_walk(Walk::new(parent, name, reason));
    }

    pub(super) fn open_walk(&mut self, walk: Walk<G::Directory>) {
        self.source.unsettled_up();
        // The one that was at work until now waits.
        if let Some(last) = self.walks.last_mut() {
            last.release();
        }
        self.walks.push(walk);
    }

    /// A directory left by rename. Within this shard its new name re-binds it; otherwise its watches end.
    pub(super) fn departed(&mut self, parent: DirectoryId, name: &[u8]) {
        if let Some(child) = self.map.child(parent, name) {
            self.map.detach(child);
            self.departed.push((self.source.root.now() + DEPARTED_WAIT, child));
        }
    }

    /// Continues the open walks for `budget` directories. Returns whether more are waiting.
    pub fn work(&mut self, budget: usize) -> bool {
        let more = self.walk_slice(budget);
        self.tell_watched();
        self.consider_split();
        more
    }

    pub(super) fn tell_watched(&mut self) {
        let untold = self.untold();
        self.source.counters.watched.fetch_add(untold, Ordering::Relaxed);
        if let Some(allowance) = &self.source.allowance
            && self.watches.backend() == Backend::Inotify
        {
            allowance.hold(untold);
        }
        self.watched_told += untold;
        if let Some(counter) = self.source.counters.watched_each.get(usize::from(self.id.0)) {
            counter.store(self.map.watched() as u64, Ordering::Relaxed);
        }
        let entries = i64::try_from(self.map.entries()).unwrap_or(i64::MAX);
        self.source.add_entries(entries - self.entries_told);
        self.entries_told = entries;
    }

    /// Watches that came, less those that went, since [`Self::tell_watched`].
    pub(super) fn untold(&self) -> i64 {
        i64::try_from(self.map.watched()).unwrap_or(i64::MAX) - self.watched_told
    }

    /// Does what time asks for; returns when it wants to be called again.
    pub fn on_tick(&mut self, now: Instant) -> Option<Instant> {
        let due: Vec<DirectoryId> =
            self.departed.extract_if(.., |(deadline, _)| *deadline <= now).map(|(_, directory)| directory).collect();
        for directory in due {
            if self.map.is_detached(directory) {
                self.missed.remove(&directory);
                for wd in self.map.remove(directory) {
                    self.watches.remove_watch(wd);
                }
            }
        }
        self.look_at_limit(now);
        let again: Vec<(RelPath, Unwatched)> =
            self.unwatched.extract_if(.., |_, unwatched| unwatched.deadline <= now).collect();
        for (path, unwatched) in again {
            self.retry_unwatched(&path, unwatched);
        }
        self.prune();
        self.tell_watched();
        let suspended = (!self.suspended.is_empty()).then(|| now + DEPARTED_WAIT / 10);
        self.walks.append(&mut self.suspended);
        self.departed
            .iter()
            .map(|(deadline, _)| *deadline)
            .chain(suspended)
            .chain(self.starved.map(|(_, look)| look))
            .chain(self.unwatched.values().map(|unwatched| unwatched.deadline))
            .min()
    }

    /// Notes a directory that has no watch: it is compared every minute instead.
    pub(super) fn leave_unwatched(&mut self, path: RelPath, lack: Lack, error: &dyn std::error::Error) {
        let now = self.source.root.now();
        if !self.source.unwatched_said[lack as usize].swap(true, Ordering::Relaxed) {
            tracing::error!(
                root = self.source.name,
                path = %path,
                %error,
                "degraded: cannot watch a directory; it and others like it are looked through every minute instead \
                 ({})",
                lack.remedy(self.source.allowance.as_deref())
            );
        }
        if lack == Lack::Limit && self.starved.is_none() {
            let limit = self.source.allowance.as_ref().and_then(|allowance| allowance.limit());
            self.starved = limit.map(|(_, limit)| (limit, now + LIMIT_LOOK_PAUSE));
        }
        let unwatched =
            Unwatched { lack, deadline: now + self.source.unwatched_pause, since: self.source.root.coarse_now() };
        let counted = &self.source.counters.unwatched;
        self.unwatched
            .entry(path)
            .and_modify(|known| {
                counted[known.lack as usize].fetch_sub(1, Ordering::Relaxed);
                (known.lack, known.deadline) = (lack, unwatched.deadline);
            })
            .or_insert(unwatched);
        counted[lack as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether somebody raised the limit on watches: what lacks one because of it is tried again at once then.
    fn look_at_limit(&mut self, now: Instant) {
        let Some((before, _)) = self.starved.filter(|(_, look)| *look <= now) else { return };
        let lacking = |unwatched: &Unwatched| unwatched.lack == Lack::Limit;
        let limit = self.source.allowance.as_ref().and_then(|allowance| allowance.limit());
        self.starved =
            limit.filter(|_| self.unwatched.values().any(lacking)).map(|(_, limit)| (limit, now + LIMIT_LOOK_PAUSE));
        if limit.is_some_and(|(_, limit)| limit > before) {
            self.unwatched.values_mut().filter(|unwatched| lacking(unwatched)).for_each(|each| each.deadline = now);
        }
    }

    /// Tries to watch it again; whatever comes of that, what happened in it meanwhile is to be found.
    ///
    /// It is counted until its walk is done: nobody is to be told that all is well before it is.
    fn retry_unwatched(&mut self, path: &RelPath, Unwatched { lack, since, .. }: Unwatched) {
        let place = path.parent().zip(path.name());
        match place.and_then(|(parent, name)| Some((self.parent_at(&parent)?, name))) {
            Some((parent, name)) => self.start_walk(parent, name, Reason::Retry(since, lack)),
            None => self.source.looked_again(lack),
        }
    }

    /// The same, for what was dealt or lies in it: what lies in a crown directory is this shard's, and that one is not.
    fn parent_at(&mut self, path: &RelPath) -> Option<DirectoryId> {
        let dealt = self.trunk.is_none() && self.source.crown_inode(path).is_some();
        if dealt { Some(self.reach(path)) } else { self.directory_at(path) }
    }

    /// The directory that the map has at `path`.
    pub(super) fn directory_at(&self, path: &RelPath) -> Option<DirectoryId> {
        path.components().try_fold(self.map.root(), |at, name| self.map.child(at, name))
    }

    /// Looks whether the directories in each of `paths`, whose names changed while events were lost, are those that the
    /// map knows. One that is not watched has a walk of its own, or its parent's look is still to come.
    pub fn recheck(&mut self, paths: &[RelPath]) {
        for path in paths {
            self.recheck_one(path);
        }
    }

    /// What is to be rescanned, since the last call.
    pub fn losses(&mut self) -> Vec<Loss> {
        self.made_good &= self.losses.is_empty();
        std::mem::take(&mut self.losses)
    }

    pub(super) fn lose(&mut self, reason: LossReason, scopes: Vec<LostScope>) {
        let known = reason == LossReason::Overflow && !self.filling;
        self.losses.push(Loss { reason, known, scopes });
    }

    /// Whatever happened before this moment has its marks, once those that were made so far are noted and the losses
    /// so far are made good; provided that [`Source::is_settled`].
    pub fn watermark(&mut self, now: Instant) -> WallTime {
        if self.unwatched.is_empty() {
            self.unwatched_since = None;
            return self.last_empty;
        }
        let reckoned = self.unwatched_since.filter(|(at, _)| now.saturating_duration_since(*at) < RECKON_PAUSE);
        let (_, since) = *self.unwatched_since.insert(reckoned.unwrap_or_else(|| {
            let oldest = self.unwatched.values().map(|unwatched| unwatched.since).min();
            (now, oldest.unwrap_or(self.last_empty))
        }));
        since.min(self.last_empty)
    }

    /// What changed in some directory at this moment or later is not known, as it has no watch.
    #[must_use]
    pub fn unwatched_since(&self) -> Option<WallTime> {
        self.unwatched.values().map(|unwatched| unwatched.since).min()
    }

    /// The real-time clock was set: stamps of before cannot be compared with those that come. Whoever calls this has
    /// everything compared.
    pub fn clock_was_set(&mut self) {
        let now = self.source.root.coarse_now();
        self.last_empty = now;
        for unwatched in self.unwatched.values_mut() {
            unwatched.since = now;
        }
        self.unwatched_since = None;
    }

    /// Events were lost: everything that this shard watches may have changed since its queue was last empty.
    fn recover(&mut self) {
        self.source.counters.overflows.fetch_add(1, Ordering::Relaxed);
        let since = self.last_empty.minus(self.source.slack);
        let now = self.source.root.now();
        if self.overflow_said.is_none_or(|said| now.saturating_duration_since(said) >= OVERFLOW_LINES_PAUSE) {
            self.overflow_said = Some(now);
            tracing::warn!(
                root = self.source.name,
                shard = self.id.0,
                overflows = self.source.reading().overflows,
                "the kernel's event queue overflowed: looking for what changed in the directories of this shard \
                 (raise fs.{}.max_queued_events, see sysctl/)",
                self.source.choice.backend.name()
            );
        }
        if self.watches.backend() == Backend::Fanotify {
            if let Err(error) = self.deal_root() {
                self.source.say_unreadable(&RelPath::root(), &error);
            }
            let scope = LostScope { path: RelPath::root(), recursive: true, since };
            return self.lose(LossReason::Overflow, vec![scope]);
        }
        let scopes = self.lost_scopes(since);
        (self.lossy, self.made_good) = (true, false);
        if self.trunk.is_some()
            && let Err(error) = self.deal_root()
        {
            self.source.say_unreadable(&RelPath::root(), &error);
        }
        self.lose(LossReason::Overflow, scopes);
    }

    /// Turns the drain's touched names into marks.
    fn flush(&mut self) {
        if self.touches.is_empty() {
            return;
        }
        let mut touches = std::mem::take(&mut self.touches);
        let (map, source, out) = (&self.map, &self.source, &mut self.out);
        touches.drain(
            |directory| map.path(directory),
            |path| {
                // A hint only, so the look-up need not be proof against symlinks in the path.
                source
                    .root
                    .glimpse(path.as_bytes())
                    .is_ok_and(|status| status.entry_type != EntryType::File || status.links > 1)
            },
            |mark| out.push(mark),
        );
        self.touches = touches;
    }

    pub(super) fn emit(&mut self, mark: Mark) {
        self.out.push(mark);
    }

    /// The marks since the last call.
    pub fn marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.out)
    }

    /// Says that all marks and losses so far are handed over. Only then are the walks that made them done: else another
    /// shard might publish a watermark that is ahead of their marks.
    pub fn handed_over(&mut self) {
        for _walk in 0..std::mem::take(&mut self.finished) {
            self.source.unsettled_down();
        }
    }

    /// Which shard this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }
}

/// Why a shard could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The root cannot be watched.
    #[error("cannot watch the root")]
    Watch(#[from] crate::sys::inotify::WatchError),
    /// The root cannot be listed.
    #[error("cannot list the root")]
    List(#[from] io::Error),
}
