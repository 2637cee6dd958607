//! The agent of the simulation: the production stages, and in place of `daemon`'s threads one function per turn.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fansync::change::{
    BatchId, ChangeSetOptions, Content, DraftMark, Mark, MarkKind, Now, Priority, SavedMark, SettleOptions,
};
use fansync::checkpoint::{self, Facts, RootRecord, Start};
use fansync::dispatch::{Dispatcher, LaneId, Order, Outcome, Report, TargetOptions};
use fansync::filter::Filter;
use fansync::path::RelPath;
use fansync::plan::{LinkTable, search_links};
use fansync::rescan::Scope;
use fansync::sys::clock::WallTime;
use fansync::sys::ground::{Backend, Ground as _};
use fansync::target::TargetId;
use fansync::watch::{Choice, Errand, Errands, LostScope, Shard, ShardId, ShardOptions, Source, Task};
use parking_lot::Mutex;

use super::checks::overlap;
use super::control::Control;
use super::disk::{Disk, Snapshot};
use super::lane::{Around, Lane};
use super::machine::Machine;
use super::rsync::Fault;
use super::target::Target;
use super::walkers::{Asker, Walkers};

/// Batches of marks that wait for the dispatcher.
pub const INBOX_MAX: usize = 6;

/// Between two looks at a queue that says nothing.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How an agent is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub shards: u16,
    pub shard_depth: u16,
    pub split_min: u64,
    pub targets: u16,
    pub lanes: u16,
    pub marks_max: usize,
    pub kept_max: usize,
    pub slack: Duration,
    pub old_receiver: bool,
    pub backend: Backend,
    pub control: Control,
}

/// A shard and what its thread holds.
#[derive(Debug)]
struct Side {
    shard: Shard<Machine>,
    kept: Vec<Mark>,
    kept_since: Option<WallTime>,
    waiting: Vec<Errand>,
    dealt: bool,
    owed: u64,
    errands: Errands,
    rechecks: VecDeque<RelPath>,
    made_good: u64,
    watermark: Option<WallTime>,
    tick: Option<Instant>,
    looked: Instant,
}

/// The agent.
#[derive(Debug)]
pub struct Agent {
    pub setup: Setup,
    pub source: Arc<Source<Machine>>,
    machine: Machine,
    rng: fastrand::Rng,
    sides: Vec<Side>,
    inbox: VecDeque<Vec<Mark>>,
    reports: VecDeque<(TargetId, LaneId, Report)>,
    dispatcher: Dispatcher,
    lanes: Vec<Vec<Lane>>,
    links: Mutex<LinkTable>,
    search: bool,
    walkers: Walkers,
    live: bool,
    started: WallTime,
    start: Start,
    restored: Vec<Option<Vec<SavedMark>>>,
    watermark: Option<WallTime>,
    whole: bool,
    snapshot: Option<Snapshot>,
    /// The last one could not be written.
    unwritten: bool,
    saved_at: Option<Instant>,
    saved_watermark: Option<WallTime>,
    flying: HashMap<(TargetId, BatchId), Vec<DraftMark>>,
    /// Directories that were found to hold too much for one shard, and that changed hands; since they were last taken.
    pub splits: u64,
    pub handovers: u64,
}

fn facts(machine: &Machine) -> Facts {
    Facts {
        boot: "boot".to_owned(),
        file_system: 1,
        inode: super::files::ROOT,
        fingerprint: 1,
        clock_offset: 0,
        now: machine.lock().coarse(),
    }
}

impl Agent {
    /// Starts on what the disk holds.
    pub fn start(machine: &Machine, setup: Setup, seed: u64, disk: &Disk) -> Self {
        let started = machine.coarse_now();
        let source = Source::of_root("root", PathBuf::from("/root"), machine.clone(), true, Filter::none())
            .expect("the model has a root")
            .watched_by(Choice { backend: setup.backend, ..Choice::default() }, Vec::new())
            .with_slack(setup.slack)
            .with_shard_depth(setup.shard_depth)
            .with_split_min(setup.split_min);
        let source = Arc::new(source);
        let shard = |number| {
            let options = ShardOptions { id: ShardId(number), shards: setup.shards };
            let mut shard = Shard::create(Arc::clone(&source), options).expect("the model has instances");
            shard.start().expect("the root can be watched");
            Side {
                shard,
                kept: Vec::new(),
                kept_since: None,
                waiting: Vec::new(),
                dealt: number != 0,
                owed: 0,
                errands: Errands::default(),
                rechecks: VecDeque::new(),
                made_good: 0,
                watermark: None,
                tick: None,
                looked: machine.now(),
            }
        };
        let sides = (0..setup.shards).map(shard).collect();
        let settle = SettleOptions::default();
        let changes = ChangeSetOptions { settle, marks_max: setup.marks_max, saved: true };
        let options = vec![TargetOptions { lanes: setup.lanes, changes }; usize::from(setup.targets)];
        let record = disk.record();
        let mut start = checkpoint::decide(record.as_ref(), &facts(machine));
        let mut restored = vec![None; usize::from(setup.targets)];
        if record.is_some() {
            for (target, marks) in restored.iter_mut().zip(disk.marks()) {
                *target = Some(if setup.control == Control::ForgetsBacklog { Vec::new() } else { marks });
            }
        }
        if let (Control::LooksBackTooLittle, Start::Warm { since, .. }) = (setup.control, &mut start) {
            *since = machine.lock().coarse();
        }
        machine.lock().say(|| format!("the agent starts: {start:?}, {restored:?}"));
        let mut dispatcher = Dispatcher::new(&options, seed);
        let now = Now { instant: machine.now(), wall: machine.coarse_now() };
        for (target, marks) in (0..).zip(&restored) {
            dispatcher.restore(now, TargetId(target), marks.as_deref().unwrap_or_default());
        }
        Self {
            setup,
            source: Arc::clone(&source),
            machine: machine.clone(),
            rng: fastrand::Rng::with_seed(seed),
            sides,
            inbox: VecDeque::new(),
            reports: VecDeque::new(),
            dispatcher,
            lanes: (0..setup.targets).map(|_| (0..setup.lanes).map(Lane::new).collect()).collect(),
            links: Mutex::new(LinkTable::default()),
            search: false,
            walkers: Walkers::new(setup.control),
            live: false,
            started,
            start,
            restored,
            watermark: None,
            whole: true,
            snapshot: None,
            unwritten: false,
            saved_at: None,
            saved_watermark: None,
            flying: HashMap::new(),
            splits: 0,
            handovers: 0,
        }
    }

    fn now(&self) -> Now {
        Now { instant: self.machine.now(), wall: self.machine.coarse_now() }
    }

    pub fn sides(&self) -> usize {
        self.sides.len()
    }

    /// Target and lane of each lane.
    pub fn lanes(&self) -> usize {
        self.lanes.iter().map(Vec::len).sum()
    }

    /// A turn of a shard's loop. With `all` it leaves nothing undone.
    pub fn shard_turn(&mut self, index: usize, all: bool) -> bool {
        let now = self.machine.now();
        let parts = if all { 0xff } else { self.rng.u8(..) };
        let budget = if all { 256 } else { self.rng.usize(1..6) };
        let side = &mut self.sides[index];
        side.tick = side.shard.on_tick(now);
        self.hand_over(index);
        let side = &mut self.sides[index];
        let mut busy = false;
        if parts & 1 != 0 {
            busy |= !side.shard.drain().expect("the model's instance does not break");
            side.looked = self.machine.now();
        }
        if parts & 2 != 0 {
            let count = if all { side.rechecks.len() } else { side.rechecks.len().min(2) };
            let rechecks: Vec<RelPath> = side.rechecks.drain(..count).collect();
            busy |= !rechecks.is_empty();
            side.shard.recheck(&rechecks);
            if side.rechecks.is_empty() {
                side.owed = side.owed.saturating_sub(std::mem::take(&mut side.made_good));
            }
        }
        if parts & 4 != 0 {
            let errands = std::mem::take(&mut side.errands);
            if !errands.is_empty() {
                busy = true;
                side.shard.on_errands(errands);
            }
        }
        if parts & 8 != 0 {
            busy |= side.shard.work(budget);
        }
        busy |= self.hand_over(index);
        let side = &mut self.sides[index];
        if parts & 16 != 0 {
            busy |= side.shard.is_yielding();
            side.shard.let_go_of_yielded(side.owed > 0);
        }
        self.publish(index);
        busy
    }

    /// As the shard's loop: losses, then marks, then errands. Returns whether something was handed over.
    fn hand_over(&mut self, index: usize) -> bool {
        let side = &mut self.sides[index];
        let mut busy = false;
        for loss in side.shard.losses() {
            side.owed += 1;
            busy = true;
            let known = loss.known;
            let scope = |LostScope { path, recursive, since }| Scope { path, recursive, since, known };
            let scopes = loss.scopes.into_iter().map(scope).collect();
            self.walkers.ask(Asker::Shard(loss.reason, side.shard.id()), scopes);
        }
        side.kept.extend(side.shard.marks());
        side.waiting.extend(side.shard.errands());
        if !side.kept.is_empty() {
            let now = self.machine.coarse_now();
            side.kept_since.get_or_insert(now);
            if self.inbox.len() < INBOX_MAX {
                busy = true;
                let mut marks = std::mem::take(&mut side.kept);
                let rng = &mut self.rng;
                if self.setup.control == Control::LosesMarks {
                    marks.retain(|_| rng.u8(..8) > 0);
                }
                self.machine.lock().say(|| {
                    let marks: Vec<String> =
                        marks.iter().map(|mark| format!("{:?} {}", mark.kind, mark.path)).collect();
                    format!("  shard {index} marks {marks:?}")
                });
                self.inbox.push_back(marks);
            } else if side.kept.len() > self.setup.kept_max {
                let since = side.kept_since.unwrap_or(now).minus(self.setup.slack);
                let everything = Mark::new(RelPath::root(), MarkKind::Subtree).content(Content::Since(since));
                side.kept = vec![everything.priority(Priority::Background)];
            }
        }
        if side.kept.is_empty() {
            side.kept_since = None;
            side.shard.handed_over();
            let errands = std::mem::take(&mut side.waiting);
            let dealt = std::mem::replace(&mut side.dealt, true);
            for Errand { to, path, task } in errands {
                busy = true;
                self.splits += u64::from(matches!(task, Task::Split { .. }));
                self.handovers += u64::from(matches!(task, Task::Yielded { .. }));
                self.machine.lock().say(|| format!("  shard {index} asks {}: {path} {task:?}", to.0));
                if !self.sides[usize::from(to.0)].errands.add(path, task) {
                    self.source.unsettled_down();
                }
            }
            if !dealt {
                self.source.unsettled_down();
            }
        }
        busy
    }

    fn publish(&mut self, index: usize) {
        let side = &mut self.sides[index];
        let told = side.kept.is_empty() && side.waiting.is_empty() && side.dealt && side.owed == 0;
        if told && self.source.is_settled() {
            side.watermark = Some(side.shard.watermark(self.machine.now()));
        }
    }

    /// A turn of the dispatcher's loop. Returns whether something happened.
    pub fn dispatcher_turn(&mut self) -> bool {
        let now = self.now();
        let mut busy = false;
        if !self.live && self.source.is_live() {
            self.live = true;
            busy = true;
            self.begin(now);
        }
        let told = self.sides.iter().map(|side| side.watermark).min().flatten();
        let restarted = self.walkers.is_restarted();
        for marks in std::mem::take(&mut self.inbox) {
            busy = true;
            self.dispatcher.on_marks(now, &marks);
        }
        if self.live && restarted && told.is_some() {
            self.watermark = told;
        }
        while let Some((target, lane, report)) = self.reports.pop_front() {
            busy = true;
            self.note_report(target, &report);
            let report = match report {
                Report::Concluded { batch, mut conclusion } if self.setup.control == Control::BelievesAll => {
                    if matches!(conclusion.outcome, Outcome::Unclear(_)) {
                        conclusion.outcome = Outcome::Done(Vec::new());
                    }
                    Report::Concluded { batch, conclusion }
                }
                report => report,
            };
            let notices = self.dispatcher.on_report(now, target, lane, report);
            for notice in notices {
                self.machine.lock().say(|| format!("  {notice:?}"));
            }
        }
        for action in self.dispatcher.on_tick(now.instant) {
            busy = true;
            let (target, lane) = (action.target, usize::from(action.lane.0));
            if let Order::Send { draft, .. } = &action.order {
                let others = self.flying.iter().filter(|((other, _), _)| *other == target).map(|(_, marks)| marks);
                overlap::check(&draft.marks, others.flatten());
                self.flying.insert((target, draft.batch), draft.marks.clone());
            }
            let lane = &mut self.lanes[usize::from(target.0)][lane];
            lane.order(action.order);
        }
        for (pending, _) in self.dispatcher.progress() {
            super::checks::bounded::pending(pending, self.setup.marks_max);
        }
        busy | self.save(now)
    }

    fn note_report(&mut self, target: TargetId, report: &Report) {
        match report {
            Report::Seen { batch, marks, large, later } => {
                self.machine.lock().say(|| {
                    let marks: Vec<String> =
                        marks.iter().map(|mark| format!("{:?} {}", mark.kind, mark.path)).collect();
                    format!("  batch {} saw {marks:?}, large {large:?}, later {later:?}", batch.0)
                });
                if let Some(flying) = self.flying.get_mut(&(target, *batch)) {
                    flying.retain(|mark| !large.contains(&mark.path) && !later.contains(&mark.path));
                }
            }
            Report::Concluded { batch, conclusion } => {
                self.machine.lock().say(|| format!("  batch {} ends: {:?}", batch.0, conclusion.outcome));
                self.flying.remove(&(target, *batch));
            }
            Report::Probed(_) => {}
        }
    }

    /// All is watched: find what changed meanwhile.
    fn begin(&mut self, now: Now) {
        let everything = Mark::new(RelPath::root(), MarkKind::Subtree).priority(Priority::Background);
        let (since, all) = match self.start {
            Start::Warm { since, verify } => (Some(since), verify),
            Start::Cold { .. } => (None, true),
        };
        for (index, marks) in (0..).zip(&self.restored) {
            if all || marks.is_none() {
                self.dispatcher.on_mark_for(now, TargetId(index), &everything);
            }
        }
        self.watermark = Some(since.unwrap_or(self.started));
        if let Some(since) = since {
            let since = since.minus(self.setup.slack);
            let scope = Scope { path: RelPath::root(), recursive: true, since, known: false };
            self.walkers.ask(Asker::Restart, vec![scope]);
        } else {
            self.source.resumed();
        }
    }

    /// Makes a snapshot when one is due and the one before is written.
    fn save(&mut self, now: Now) -> bool {
        if !self.live || self.snapshot.is_some() {
            return false;
        }
        if std::mem::take(&mut self.unwritten) {
            self.whole = true;
            self.saved_at = Some(now.instant);
        }
        if self.save_at(now.instant) > now.instant {
            return false;
        }
        if !(self.whole || self.dispatcher.is_unsaved() || self.watermark != self.saved_watermark) {
            self.saved_at = Some(now.instant);
            return false;
        }
        let facts = facts(&self.machine);
        let record = RootRecord {
            boot: facts.boot,
            file_system: facts.file_system,
            inode: facts.inode,
            fingerprint: facts.fingerprint,
            watermark: self.watermark,
            clock_offset: 0,
            clean: false,
            entries: 0,
            paused: false,
        };
        let whole = std::mem::take(&mut self.whole);
        let changes = self.dispatcher.unsaved(now, whole);
        self.snapshot = Some(Snapshot { record, whole, changes });
        (self.saved_at, self.saved_watermark) = (Some(now.instant), self.watermark);
        true
    }

    fn save_at(&self, now: Instant) -> Instant {
        let news = !self.whole && self.dispatcher.is_unsaved();
        let pause = Duration::from_secs(if news { 1 } else { 10 });
        self.saved_at.map_or(now, |saved_at| saved_at + pause)
    }

    /// The thread of the checkpoint writes what is offered.
    pub fn checkpoint_turn(&mut self, disk: &mut Disk, fails: bool) -> bool {
        match self.snapshot.take() {
            Some(_) if fails => {
                self.machine.lock().say(|| "the checkpoint cannot be written".to_owned());
                self.unwritten = true;
                true
            }
            Some(snapshot) => {
                self.machine.lock().say(|| format!("the checkpoint is written, up to {:?}", snapshot.record.watermark));
                disk.write(snapshot);
                true
            }
            None => false,
        }
    }

    /// A step of the lane with this number.
    pub fn lane_step(&mut self, number: usize, targets: &mut [Target], fault: &mut dyn FnMut(usize) -> Fault) -> bool {
        let lanes = usize::from(self.setup.lanes);
        let (target, lane) = (number / lanes, number % lanes);
        let hangs_until = self.lanes[target][lane].wakes();
        if self.lanes[target][lane].is_idle() || hangs_until.is_some_and(|until| until > self.machine.now()) {
            return false;
        }
        let mut around = Around {
            source: &self.source,
            links: &self.links,
            target: &mut targets[target],
            fault: &mut || fault(target),
            old_receiver: self.setup.old_receiver,
            backlog: self.setup.marks_max,
        };
        let (reports, search) = self.lanes[target][lane].step(&mut around);
        self.search |= search;
        let id = TargetId(u16::try_from(target).unwrap_or(0));
        let lane = self.lanes[target][lane].id;
        self.reports.extend(reports.into_iter().map(|report| (id, lane, report)));
        true
    }

    /// A walker visits a directory.
    pub fn walker_step(&mut self) -> bool {
        if self.walkers.is_idle() || self.inbox.len() >= INBOX_MAX {
            return false;
        }
        let (mut found, asker, made_good) = self.walkers.step(&self.source);
        if !found.marks.is_empty() {
            self.inbox.push_back(std::mem::take(&mut found.marks));
        }
        if let Some(Asker::Shard(_, shard)) = asker {
            let side = &mut self.sides[usize::from(shard.0)];
            side.rechecks.append(&mut found.rechecks);
            side.made_good += made_good;
        }
        true
    }

    /// The search for names of shared inodes.
    pub fn link_turn(&mut self) -> bool {
        if self.inbox.len() >= INBOX_MAX || !std::mem::take(&mut self.search) {
            return false;
        }
        let wanted = self.links.lock().incomplete();
        if wanted.is_empty() {
            return false;
        }
        let found = search_links(&self.source.root, Some(1), &self.source.filter, &wanted, &|| true);
        let marks = self.links.lock().searched(&wanted, found);
        self.inbox.push_back(marks);
        true
    }

    /// When the next thing happens by itself.
    pub fn wakes_at(&self) -> Option<Instant> {
        let now = self.machine.now();
        let sides = self.sides.iter().flat_map(|side| side.tick.into_iter().chain([side.looked + LOOK_PAUSE]));
        let lanes = self.lanes.iter().flatten().filter_map(Lane::wakes);
        let save = self.live.then(|| self.save_at(now));
        sides.chain(lanes).chain(save).chain(self.dispatcher.wake_at(now)).filter(|at| *at > now).min()
    }

    /// Whether the agent says that every target is the same as the source.
    pub fn is_clean(&self) -> bool {
        self.live
            && self.source.is_settled()
            && self.walkers.is_idle()
            && self.walkers.is_restarted()
            && !self.search
            && self.inbox.is_empty()
            && self.reports.is_empty()
            && self.dispatcher.is_idle()
            && self.dispatcher.progress().all(|(pending, background)| pending == 0 && background == 0)
            && self.lanes.iter().flatten().all(Lane::is_idle)
            && self.sides.iter().all(|side| {
                side.kept.is_empty()
                    && side.waiting.is_empty()
                    && side.owed == 0
                    && side.rechecks.is_empty()
                    && side.errands.is_empty()
                    && !side.shard.is_yielding()
            })
    }

    /// Whether it goes on from a checkpoint.
    pub fn is_warm(&self) -> bool {
        matches!(self.start, Start::Warm { .. })
    }

    /// Whether it has begun to compare everything by size and mtime.
    pub fn is_cold(&self) -> bool {
        self.live && matches!(self.start, Start::Cold { .. })
    }

    /// Whether there are directories that are only looked through now and then.
    pub fn is_degraded(&self) -> bool {
        self.source.reading().unwatched > 0
    }

    /// What is not done, for a message.
    pub fn views(&self) -> String {
        format!("{:?}, live {}, settled {}", self.dispatcher.views(), self.live, self.source.is_settled())
    }

    /// A crash, at whatever moment: nothing of the agent is left but its checkpoint.
    pub fn die(mut self) {
        for lane in self.lanes.iter_mut().flatten() {
            lane.die(&self.machine);
        }
    }
}
