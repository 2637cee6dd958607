//! A tree, its shards, and the marks so far.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fansync::change::{Content, Mark, MarkKind, Stage};
use fansync::filter::Filter;
use fansync::path::RelPath;
use fansync::rescan::{self, Scope};
use fansync::watch::{Errand, Errands, LossReason, LostScope, Shard, ShardId, ShardOptions, Source};
use rustix::event::{PollFd, PollFlags, poll};

/// Nothing takes as long on an idle machine; the load of other tests is allowed for.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

/// A root in a scratch directory with `shards` shards, driven by hand.
pub struct Script {
    scratch: tempfile::TempDir,
    pub source: Arc<Source>,
    shards: Vec<Shard>,
    /// The marks since the last [`Self::forget`], with the shard that made each.
    pub marks: Vec<(usize, Mark)>,
    /// Each rescan: for which shard, and how many directories it looked through.
    pub rescans: Vec<(usize, usize)>,
}

impl Script {
    /// One shard; `prepare` fills the tree before it is watched.
    pub fn start(prepare: impl FnOnce(&Path)) -> Self {
        Self::start_with(1, Filter::none(), prepare)
    }

    pub fn start_with(shards: u16, filter: Filter, prepare: impl FnOnce(&Path)) -> Self {
        Self::begin(shards, filter, prepare, |source| source)
    }

    /// What lies `depth` deep is dealt to the shards, and directories with more than `split_min` in them are split.
    pub fn start_dealing(shards: u16, depth: u16, split_min: u64, prepare: impl FnOnce(&Path)) -> Self {
        let set = |source: Source| source.with_shard_depth(depth).with_split_min(split_min);
        Self::begin(shards, Filter::none(), prepare, set)
    }

    fn begin(shards: u16, filter: Filter, prepare: impl FnOnce(&Path), set: impl FnOnce(Source) -> Source) -> Self {
        let scratch = tempfile::Builder::new().prefix("fansync-watch.").tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("root");
        fs::create_dir(&root).unwrap();
        prepare(&root);
        // The trees are young, and every change here is told of within moments.
        let slack = Duration::from_millis(20);
        let source = Arc::new(set(Source::open("root", root, true, filter).unwrap().with_slack(slack)));
        let mut all = Vec::new();
        for number in 0..shards {
            let options = ShardOptions { id: ShardId(number), shards };
            let mut shard = Shard::create(Arc::clone(&source), options).unwrap();
            shard.start().unwrap();
            all.push(shard);
        }
        let mut script = Self { scratch, source, shards: all, marks: Vec::new(), rescans: Vec::new() };
        script.deliver();
        // The trunk's first errands are handed over, as the daemon's loop says it.
        script.source.unsettled_down();
        script.settle();
        assert!(script.source.is_live(), "every directory is watched");
        script.forget();
        script
    }

    /// In the root.
    pub fn at(&self, name: &str) -> PathBuf {
        self.source.path.join(name)
    }

    /// Beside the root, on the same file system.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.scratch.path().canonicalize().unwrap().join(name)
    }

    /// Forgets the marks so far.
    pub fn forget(&mut self) {
        self.marks.clear();
    }

    /// Each shard's watermark.
    pub fn watermarks(&mut self) -> Vec<fansync::sys::clock::WallTime> {
        let now = Instant::now();
        self.shards.iter_mut().map(|shard| shard.watermark(now)).collect()
    }

    /// Directories watched, as the counters have it.
    pub fn watched(&mut self) -> i64 {
        self.tick(Instant::now());
        self.source.reading().watched
    }

    fn tick(&mut self, now: Instant) {
        for shard in &mut self.shards {
            shard.on_tick(now);
        }
        self.collect();
    }

    /// Lets the time pass after which a directory that left by rename is given up.
    pub fn give_up_departed(&mut self) {
        self.tick(Instant::now() + Duration::from_secs(1));
        self.settle();
    }

    /// Hands each errand to its owner, as the daemon's loop does: after the marks that came before it.
    fn deliver(&mut self) {
        loop {
            let errands: Vec<Errand> = self.shards.iter_mut().flat_map(Shard::errands).collect();
            if errands.is_empty() {
                return;
            }
            let mut boxes = vec![Errands::default(); self.shards.len()];
            for Errand { to, path, task } in errands {
                if !boxes[usize::from(to.0)].add(path, task) {
                    self.source.unsettled_down();
                }
            }
            for (shard, errands) in self.shards.iter_mut().zip(boxes) {
                if !errands.is_empty() {
                    shard.on_errands(errands);
                }
            }
            self.collect();
        }
    }

    /// Makes good what was lost, as the daemon's walkers do. Returns whether there was something.
    fn rescan(&mut self) -> bool {
        let mut lost = false;
        for number in 0..self.shards.len() {
            for loss in self.shards[number].losses() {
                lost = true;
                let known = loss.reason == LossReason::Overflow;
                let scope = |LostScope { path, recursive, since }| Scope { path, recursive, since, known };
                let scopes: Vec<Scope> = loss.scopes.into_iter().map(scope).collect();
                let mut rechecks = Vec::new();
                let marks = &mut self.marks;
                let (directories, _files) = rescan::pass(
                    &self.source,
                    &scopes,
                    |mark| marks.push((number, mark)),
                    |path| rechecks.push(path.clone()),
                );
                self.rescans.push((number, directories));
                self.shards[number].recheck(&rechecks);
            }
        }
        lost
    }

    fn collect(&mut self) {
        for (number, shard) in self.shards.iter_mut().enumerate() {
            self.marks.extend(shard.marks().into_iter().map(|mark| (number, mark)));
            shard.handed_over();
        }
    }

    /// One turn of every shard: drain, errands, walks.
    pub fn turn(&mut self) {
        for shard in &mut self.shards {
            while !shard.drain().unwrap() {}
        }
        self.collect();
        self.deliver();
        for shard in &mut self.shards {
            while shard.work(256) {}
        }
        self.collect();
        if self.rescan() {
            for shard in &mut self.shards {
                while shard.work(256) {}
            }
            self.collect();
        }
        // Losses are made good by now.
        for shard in &mut self.shards {
            shard.let_go_of_yielded(false);
        }
        self.collect();
        self.deliver();
    }

    /// The trunk reads its queue and its errands are done before their owners have read theirs.
    pub fn errands_first(&mut self) {
        while !self.shards[0].drain().unwrap() {}
        self.collect();
        self.deliver();
        for shard in &mut self.shards {
            while shard.work(256) {}
        }
        self.collect();
    }

    /// The walks that are open go on for `budget` directories each; nothing is read.
    pub fn walk(&mut self, budget: usize) {
        for shard in &mut self.shards {
            shard.work(budget);
        }
        self.collect();
    }

    /// Reads what the shards' queues hold; only what a read itself walks is walked.
    pub fn drain(&mut self) {
        for shard in &mut self.shards {
            while !shard.drain().unwrap() {}
        }
        self.collect();
    }

    /// Works until every queue is empty and every walk is done.
    pub fn settle(&mut self) {
        let began = Instant::now();
        loop {
            self.turn();
            // Walks that waited for a directory's new name go on.
            self.tick(Instant::now());
            self.turn();
            let yielding = self.shards.iter().any(Shard::is_yielding);
            if !self.wait(Duration::ZERO) && !yielding && self.source.is_settled() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "not settled; {}", self.shown());
        }
    }

    /// Waits for events; whether there are some.
    fn wait(&self, time: Duration) -> bool {
        let mut waiting: Vec<PollFd<'_>> =
            self.shards.iter().map(|shard| PollFd::from_borrowed_fd(borrowed(shard), PollFlags::IN)).collect();
        let time = rustix::event::Timespec::try_from(time).unwrap();
        poll(&mut waiting, Some(&time)).unwrap() > 0
    }

    /// Drives the shards until `holds`.
    ///
    /// # Panics
    /// With the marks, after 10 s.
    pub fn until(&mut self, what: &str, holds: impl Fn(&[(usize, Mark)]) -> bool) {
        let began = Instant::now();
        loop {
            self.turn();
            if holds(&self.marks) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no {what}; {}", self.shown());
            self.wait(Duration::from_millis(50));
            self.tick(Instant::now());
        }
    }

    /// A point of `name` with this content and stage comes.
    pub fn expect_point(&mut self, name: &str, content: Content, stage: Stage) {
        let at = path(name);
        self.until(&format!("point {name} {content:?} {stage:?}"), |marks| {
            marks.iter().any(|(_, mark)| {
                mark.path == at && mark.kind == MarkKind::Point && mark.content == content && mark.stage == stage
            })
        });
    }

    /// Everything at `name` comes to be covered: by a mark of its own or a subtree above it.
    pub fn expect_covered(&mut self, name: &str) {
        let at = path(name);
        self.until(&format!("cover for {name}"), |marks| marks.iter().any(|(_, mark)| covers(mark, &at)));
    }

    /// Drives the shards until nothing is left to do; no mark may touch `name` or what is beneath it.
    pub fn expect_nothing(&mut self, name: &str) {
        self.settle();
        let at = path(name);
        let found: Vec<_> = self.marks.iter().filter(|(_, mark)| mark.path.is_within(&at)).collect();
        assert!(found.is_empty(), "{found:?}");
    }

    pub fn has(&self, name: &str, kind: MarkKind) -> bool {
        let at = path(name);
        self.marks.iter().any(|(_, mark)| mark.path == at && mark.kind == kind)
    }

    pub fn shown(&self) -> String {
        let lines: Vec<String> = self.marks.iter().map(|(shard, mark)| format!("{shard}: {mark:?}")).collect();
        format!("{:?}, marks:\n{}", self.source.reading(), lines.join("\n"))
    }
}

pub fn covers(mark: &Mark, at: &RelPath) -> bool {
    match mark.kind {
        MarkKind::Subtree => at.is_within(&mark.path),
        MarkKind::Point => mark.path == *at || (mark.gone_directory && at.is_within(&mark.path)),
        MarkKind::Listing => at.parent().is_some_and(|parent| parent == mark.path),
        MarkKind::Attributes => false,
    }
}

#[expect(unsafe_code, reason = "the shard tells its descriptor as a number, for mio")]
fn borrowed(shard: &Shard) -> BorrowedFd<'_> {
    // SAFETY: the shard owns the descriptor and is borrowed for as long.
    unsafe { BorrowedFd::borrow_raw(shard.raw()) }
}

/// Creates, writes and closes.
pub fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
}
