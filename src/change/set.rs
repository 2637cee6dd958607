//! The change set of one target: which paths may differ, which of them are under way, what goes next.
//!
//! Invariants:
//! - A mark leaves only by an acknowledged transfer that was taken after the mark's last event, or into a mark that
//!   covers it.
//! - Two batches in flight never overlap: no path of one lies at or beneath a path of the other. The exception: what
//!   lies beneath an `Attributes` mark goes beside it, as that touches nothing beneath.
//! - No more than `marks_max` marks are pending: beyond that they widen, and lose nothing by it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::mark::{Content, Deletes, Mark, MarkKind, Priority, Stage};
use super::recent::Recent;
use super::saved::{SavedChange, SavedMark, Unsaved};
use super::settle::{Heat, SettleOptions, Times};
use super::trie::{NodeId, ROOT, Trie, Weigh};
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use moves::{Move, Role};

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For pauses and latencies.
    pub instant: Instant,
    /// For comparing with a ctime.
    pub wall: WallTime,
}

/// One batch; ascending within a change set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BatchId(pub u64);

/// The limits of a change set.
#[derive(Debug, Clone, Copy)]
pub struct ChangeSetOptions {
    /// Settle times.
    pub settle: SettleOptions,
    /// Pending marks before they widen. Default 200,000, about 250 bytes each.
    pub marks_max: usize,
    /// Marks are told for a checkpoint ([`ChangeSet::unsaved`]).
    pub saved: bool,
}

/// How far before its event a file's ctime may lie: stamps are taken at the start of a write and of a mapped page's
/// first store. Unit: time. Why 120 s: notes/kernel.md 7.2, 40 s is the least that is sound.
pub const CTIME_SLACK: Duration = Duration::from_secs(120);

/// Candidates looked at in one `take`. Why: bounds the time when many are blocked by one batch in flight.
const CANDIDATES_MAX: usize = 20_000;

/// How long live marks may overtake a background mark above them. Unit: time. Why 10 s: long beside any burst, short
/// beside a recovery that nobody should wait for in vain.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(10);

/// How long live marks then wait for it, before it has to be patient again.
const BACKGROUND_TURN: Duration = Duration::from_secs(2);

/// How long the delete of a directory that left by rename waits for the mark of its new name. Unit: time. Why 100 ms: that
/// one needs a look at the directory by another shard, a few milliseconds; a delete that is late harms nobody.
const DEPARTED_WAIT: Duration = Duration::from_millis(100);

/// Which kind of rsync run a draft becomes. The kinds never mix in one run (notes/rsync.md 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Points and attributes.
    Points,
    /// Listings.
    Listing,
    /// Subtrees.
    Subtree,
}

/// What a lane asks for.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    /// Large files only, or everything else only.
    pub large: bool,
    /// Background marks too, when no live one is due.
    pub background: bool,
    /// Marks in the draft at most.
    pub marks_max: usize,
    /// Begins with the marks that became due last, so that one change is not behind all of a flood. Small files only.
    pub newest: bool,
}

/// Marks taken for one lane; in flight until [`ChangeSet::conclude`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Names the batch.
    pub batch: BatchId,
    /// The kind of run.
    pub class: Class,
    /// The marks' priority.
    pub priority: Priority,
    /// Taken for the large lane.
    pub large: bool,
    /// The marks, sorted by path.
    pub marks: Vec<DraftMark>,
}

/// One mark of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftMark {
    /// Where.
    pub path: RelPath,
    /// How much.
    pub kind: MarkKind,
    /// How sure size and mtime are.
    pub content: Content,
    /// Made from another name of the same inode.
    pub derived: bool,
    /// Failures so far.
    pub attempts: u32,
    /// What may be deleted for it.
    pub deletes: Deletes,
    /// A directory that was renamed: what the target has under this name, which no other batch touches meanwhile, has the
    /// same content as the source has here wherever size and mtime are the same. If that is not made use of, all is to be
    /// sent, whatever size and mtime say.
    pub origin: Option<RelPath>,
}

/// A mark that left because its deletes are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldMark {
    /// Where.
    pub path: RelPath,
    /// How much.
    pub kind: MarkKind,
    /// Its first event.
    pub first: Instant,
}

/// What becomes of a mark whose batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is on the target.
    Done,
    /// Not sent, through no fault of the path: pending again, with the large lane if so.
    Again {
        /// Whether the large lane shall take it.
        large: bool,
    },
    /// The same, and what else is due now goes first.
    Behind,
    /// The path failed: pending again, not before this moment.
    Retry {
        /// When at the earliest.
        not_before: Instant,
        /// In a batch of its own, because nobody could tell which path of its batch failed.
        alone: bool,
    },
    /// Some path of the batch failed and nobody can tell which: pending again, in batches of at most half as many, so
    /// that the one is found whatever else goes well meanwhile.
    Split,
    /// It is on the target but for its deletes, which are held: it leaves, by way of [`Tally::held`].
    Held,
}

/// What a concluded batch did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// First events of the live marks that are done.
    pub done_live: Vec<Instant>,
    /// Background marks that are done.
    pub done_background: usize,
    /// Marks that are pending again.
    pub returned: usize,
    /// Marks whose deletes are held.
    pub held: Vec<HeldMark>,
}

/// How many marks may be in a batch with this one, itself included.
#[derive(Debug, Clone, Copy, Default)]
struct Company {
    /// Zero: it never was in question.
    max: usize,
    /// The trial that it is from; an older one says nothing any more.
    trial: u64,
}

#[derive(Debug, Clone)]
struct Pending {
    kind: MarkKind,
    content: Content,
    /// What a wider mark must ask for at the least to do what is asked for here; never `Resend`.
    least: Content,
    priority: Priority,
    times: Times,
    derived: bool,
    large: bool,
    company: Company,
    attempts: u32,
    deletes: Deletes,
    role: Role,
    sequence: u64,
    due: Instant,
}

#[derive(Debug, Clone)]
struct Flight {
    kind: MarkKind,
    content: Content,
    least: Content,
    priority: Priority,
    first: Instant,
    stage: Stage,
    derived: bool,
    large: bool,
    company: Company,
    attempts: u32,
    deletes: Deletes,
}

#[derive(Debug, Default)]
struct Value {
    pending: Option<Pending>,
    flight: Option<Flight>,
    heat: Option<Heat>,
    /// Sequence of the last event that changed this directory's own times or mode.
    touched: u64,
    /// The `take` that found this node due but blocked.
    reserved: u64,
    /// The `conclude` that looked at this directory last.
    visited: u64,
}

impl Weigh for Value {
    fn is_empty(&self) -> bool {
        self.pending.is_none() && self.flight.is_none() && self.heat.is_none()
    }

    fn weight(&self) -> [u32; 3] {
        let large = self.flight.as_ref().is_some_and(|flight| flight.large);
        [u32::from(self.pending.is_some()), u32::from(self.flight.is_some()), u32::from(large)]
    }
}

const PENDING: usize = 0;
const FLIGHT: usize = 1;
const LARGE_FLIGHT: usize = 2;

#[derive(Debug)]
struct Batch {
    nodes: Vec<NodeId>,
    /// The old name of a move: in flight, but no mark of the draft.
    basis: Option<NodeId>,
    /// The move went well, and so many names were moved.
    moved: Option<u32>,
    /// The earliest first event of its marks.
    first: Instant,
    started: u64,
}

impl Batch {
    /// All that is in flight with it.
    fn flying(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().copied().chain(self.basis)
    }
}

/// What all marks of one draft share: the last is whether their deletes are asked about.
type Shape = (Class, std::mem::Discriminant<Content>, Asked);

/// How the deletes of a draft are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// As any.
    Yes,
    /// Not at all: they are approved.
    No,
    /// Not as far as they were moved.
    Moved,
}

/// Key of a due queue: due, sequence, node.
type Turn = (Instant, u64, NodeId);

/// The change set of one target.
#[derive(Debug)]
pub struct ChangeSet {
    options: ChangeSetOptions,
    trie: Trie<Value>,
    queues: [BTreeSet<Turn>; 4],
    cooling: BTreeSet<(Instant, NodeId)>,
    batches: HashMap<BatchId, Batch>,
    sequence: u64,
    epoch: u64,
    trial: u64,
    widened: u64,
    unsaved: Option<Unsaved>,
    moves: Vec<Move>,
    recent: Recent,
}

fn lane(priority: Priority, large: bool) -> usize {
    match (priority, large) {
        (Priority::Live, false) => 0,
        (Priority::Live, true) => 1,
        (Priority::Background, false) => 2,
        (Priority::Background, true) => 3,
    }
}

impl Pending {
    fn lane(&self) -> usize {
        lane(self.priority, self.large)
    }

    fn turn(&self, node: NodeId) -> Turn {
        (self.due, self.sequence, node)
    }

    /// Whether this pending mark does all that `other`, beneath it, asks for, and no later.
    fn covers(&self, other: &Asks, direct_child: bool) -> bool {
        let reaches = match (self.kind, other.kind) {
            (MarkKind::Subtree, _) => true,
            (MarkKind::Listing, MarkKind::Attributes | MarkKind::Point) => direct_child,
            (MarkKind::Listing, MarkKind::Listing | MarkKind::Subtree)
            | (MarkKind::Point | MarkKind::Attributes, _) => false,
        };
        reaches
            && self.priority <= other.priority
            // What is moved is compared, as it is not sent.
            && (if self.role == Role::Moved { Content::Compare } else { self.content }).covers(other.content)
            // A mark that failed waits; what is new beneath it must not wait with it.
            && self.attempts == 0
            // What is approved stays so, and nothing else becomes it.
            && (self.deletes == Deletes::Approved) == (other.deletes == Deletes::Approved)
    }

    /// What it is once it is taken.
    fn fly(&self) -> Flight {
        Flight {
            kind: self.kind,
            content: self.content,
            least: self.least,
            priority: self.priority,
            first: self.times.first,
            stage: self.times.stage,
            derived: self.derived,
            large: self.large,
            company: self.company,
            attempts: self.attempts,
            deletes: self.deletes,
        }
    }

    /// What all marks of one draft share. Points of both contents go together: the plan tells them apart, once it
    /// knows their sizes.
    fn shape(&self) -> Shape {
        let asked = match self.deletes {
            Deletes::Approved => Asked::No,
            Deletes::Moved(_) => Asked::Moved,
            Deletes::Single | Deletes::Unknown | Deletes::Denied => Asked::Yes,
        };
        match self.kind {
            MarkKind::Attributes | MarkKind::Point => (Class::Points, std::mem::discriminant(&Content::Compare), asked),
            MarkKind::Listing => (Class::Listing, std::mem::discriminant(&self.content), asked),
            MarkKind::Subtree => (Class::Subtree, std::mem::discriminant(&self.content), asked),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Asks {
    kind: MarkKind,
    content: Content,
    priority: Priority,
    deletes: Deletes,
}

/// The stage of two marks of one path: the newer event tells, but a lazy one tells nothing.
fn merged_stage(older: Stage, newer: Stage) -> Stage {
    match (older, newer) {
        (_, Stage::Complete) => Stage::Complete,
        (_, Stage::Writing) => Stage::Writing,
        (Stage::Lazy, Stage::Unchanged) => Stage::Unchanged,
        (older, Stage::Unchanged | Stage::Lazy) => older,
    }
}

/// What a wider mark must ask for, at the least, to do what a mark does whose first event was at `first`: a file that
/// was written then has a ctime no older than the slack.
fn looking_back(now: Now, first: Instant, content: Content) -> Content {
    match content {
        Content::Resend => {
            let age = now.instant.saturating_duration_since(first);
            Content::Since(now.wall.minus(age + CTIME_SLACK))
        }
        Content::Compare | Content::Since(_) => content,
    }
}

/// Whether a mark says something of its path that a failed attempt did not know: not what follows from a look at
/// another name of its inode, nor from what goes on beneath it.
fn is_news(derived: bool, stage: Stage) -> bool {
    !derived && stage != Stage::Lazy
}

/// The priority of two marks of one path: the more urgent one, but nobody waits for a lazy one.
fn merged_priority(older: (Priority, Stage), newer: (Priority, Stage)) -> Priority {
    match (older.1 == Stage::Lazy, newer.1 == Stage::Lazy) {
        (true, true) | (false, false) => older.0.min(newer.0),
        (true, false) => newer.0,
        (false, true) => older.0,
    }
}

impl ChangeSet {
    /// An empty change set.
    #[must_use]
    pub fn new(options: ChangeSetOptions) -> Self {
        Self {
            unsaved: options.saved.then(Unsaved::default),
            options,
            trie: Trie::new(),
            queues: Default::default(),
            cooling: BTreeSet::new(),
            batches: HashMap::new(),
            sequence: 0,
            epoch: 0,
            trial: 0,
            widened: 0,
            moves: Vec::new(),
            recent: Recent::default(),
        }
    }

    /// Takes note of `mark`.
    pub fn mark(&mut self, now: Now, mark: &Mark) {
        self.mark_since(now, mark, now.instant);
    }

    /// As [`Self::mark`], for a mark that answers for what happened at `since` already.
    pub fn mark_since(&mut self, now: Now, mark: &Mark, since: Instant) {
        self.cool(now.instant);
        self.sequence += 1;
        let node = self.trie.reach(&mark.path);
        self.touch(node, mark);
        let asks = Asks { kind: mark.kind, content: mark.content, priority: mark.priority, deletes: mark.deletes };
        let first = self.first_event(since.min(now.instant), mark);
        let least = looking_back(now, first, mark.content);
        if self.disturb(node, mark) {
            self.stand_for(node, first, least, mark.derived);
            return;
        }
        let role = self.role_of(node, mark);
        let origin = mark.origin.as_deref().map(|origin| (origin, self.is_spotless(node)));
        if let Some(above) = self.covering(node, &Asks { content: least, ..asks }) {
            self.stand_for(above, first, least, mark.derived);
            self.trie.prune(node);
        } else {
            self.merge(node, now, first, mark);
            self.clear_beneath(node, mark, &asks);
            if role != Role::None {
                self.trie.update(node, |value| {
                    if let Some(pending) = &mut value.pending {
                        pending.role = role;
                    }
                });
            }
            if let Some((origin, spotless)) = origin {
                self.begin_move(node, mark, origin, spotless);
            }
        }
        self.keep_within(now);
    }

    /// Remembers that a directory's own times changed, for [`Self::conclude`].
    fn touch(&mut self, node: NodeId, mark: &Mark) {
        let sequence = self.sequence;
        if mark.kind == MarkKind::Attributes {
            self.trie.update(node, |value| value.touched = sequence);
        }
        if mark.changes_names
            && let Some(parent) = self.trie.parent(node)
        {
            self.trie.update(parent, |value| value.touched = sequence);
        }
    }

    /// The pending mark above `node` that does what `asks` asks for there.
    fn covering(&self, node: NodeId, asks: &Asks) -> Option<NodeId> {
        let mut ancestors = self.trie.ancestors(node).enumerate();
        let covers = |distance, ancestor| {
            self.trie.value(ancestor).pending.as_ref().is_some_and(|pending| pending.covers(asks, distance == 0))
        };
        let (_, above) = ancestors.find(|(distance, ancestor)| covers(*distance, *ancestor))?;
        // What waits for a large file may wait for hours; what is new beneath it must not wait with it.
        (!self.waits_for_large(above)).then_some(above)
    }

    /// Removes the pending marks that `mark` at `node` covers; what waits at `node` stands for them.
    fn clear_beneath(&mut self, node: NodeId, mark: &Mark, asks: &Asks) {
        if self.trie.beneath(node)[PENDING] == 0 || (!mark.gone_directory && self.waits_for_large(node)) {
            return;
        }
        let candidates = match (mark.gone_directory, mark.kind) {
            (true, _) | (false, MarkKind::Subtree) => self.trie.descendants(node),
            (false, MarkKind::Listing) => self.trie.children(node).collect(),
            (false, MarkKind::Point | MarkKind::Attributes) => return,
        };
        for candidate in candidates {
            let Some(pending) = &self.trie.value(candidate).pending else { continue };
            let covered = mark.gone_directory
                || (asks.priority <= pending.priority
                    && (asks.deletes == Deletes::Approved) == (pending.deletes == Deletes::Approved)
                    && asks.content.covers(pending.least)
                    && (asks.kind == MarkKind::Subtree || pending.kind <= MarkKind::Point));
            if covered {
                let (first, least, derived) = (pending.times.first, pending.least, pending.derived);
                let (least, derived) = if mark.gone_directory { (Content::Compare, true) } else { (least, derived) };
                self.stand_for(node, first, least, derived);
                self.remove_pending(candidate);
                // What lies between the candidate and `node` may go with it; `node` itself has its mark by now.
                self.trie.prune(candidate);
            }
        }
    }

    /// The mark that waits at `node` stands for another one from now on: it is as old as the oldest, so that its
    /// latency says so, and what takes its place must ask for no less.
    fn stand_for(&mut self, node: NodeId, first: Instant, least: Content, derived: bool) {
        let Some(pending) = &self.trie.value(node).pending else { return };
        if pending.times.first <= first && pending.least.covers(least) && pending.derived <= derived {
            return;
        }
        if let Some(mut pending) = self.take_pending(node) {
            pending.times.first = pending.times.first.min(first);
            pending.least = pending.least.join(least);
            pending.derived &= derived;
            self.insert_pending(node, pending);
        }
    }

    /// Takes a pending mark away. If it was part of a move, there is no move any more.
    fn remove_pending(&mut self, node: NodeId) -> Option<Pending> {
        self.part(node);
        let mut pending = self.take_pending(node)?;
        pending.role = Role::None;
        Some(pending)
    }

    /// Takes a pending mark away for a moment.
    fn take_pending(&mut self, node: NodeId) -> Option<Pending> {
        let pending = self.trie.update(node, |value| value.pending.take())?;
        self.note_unsaved(node);
        self.queues[pending.lane()].remove(&pending.turn(node));
        Some(pending)
    }

    fn insert_pending(&mut self, node: NodeId, mut pending: Pending) {
        pending.due = self.options.settle.due(pending.times, self.trie.value(node).heat);
        self.queues[pending.lane()].insert(pending.turn(node));
        self.trie.update(node, |value| value.pending = Some(pending));
        self.note_unsaved(node);
    }

    fn note_unsaved(&mut self, node: NodeId) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.touched.insert(node.index());
        }
    }

    /// What a checkpoint must hold of this change set, as differences since the last call. With `whole` everything, as
    /// if nothing had been told before.
    pub fn unsaved(&mut self, now: Now, whole: bool) -> Vec<SavedChange> {
        let Some(mut unsaved) = self.unsaved.take() else { return Vec::new() };
        if whole {
            unsaved.told.clear();
            unsaved.touched.extend(self.queues.iter().flatten().map(|turn| turn.2.index()));
            unsaved.touched.extend(self.batches.values().flat_map(Batch::flying).map(|node| node.index()));
        }
        let mut changes = Vec::new();
        for index in unsaved.touched.drain() {
            let node = NodeId::at(index);
            match self.trie.known(node).and_then(|value| self.saved(now, node, value)) {
                Some(saved) => {
                    unsaved.told.insert(index);
                    changes.push((index, Some(saved)));
                }
                None if unsaved.told.remove(&index) => changes.push((index, None)),
                None => {}
            }
        }
        // A burst should not hold its memory for ever.
        unsaved.touched.shrink_to(1024);
        self.unsaved = Some(unsaved);
        changes
    }

    /// Whether [`Self::unsaved`] has something to tell.
    #[must_use]
    pub fn is_unsaved(&self) -> bool {
        self.unsaved.as_ref().is_some_and(|unsaved| !unsaved.touched.is_empty())
    }

    fn saved(&self, now: Now, node: NodeId, value: &Value) -> Option<SavedMark> {
        let wall = |first: Instant| now.wall.minus(now.instant.saturating_duration_since(first));
        let pending = value.pending.as_ref().map(|pending| SavedMark {
            path: self.trie.path(node),
            kind: pending.kind,
            content: pending.content,
            least: pending.least,
            priority: pending.priority,
            first: wall(pending.times.first),
            attempts: pending.attempts,
            derived: pending.derived,
            large: pending.large,
            sent: false,
        });
        let flight = value.flight.as_ref().map(|flight| SavedMark {
            path: self.trie.path(node),
            kind: flight.kind,
            content: flight.content,
            least: flight.least,
            priority: flight.priority,
            first: wall(flight.first),
            attempts: flight.attempts,
            derived: flight.derived,
            large: flight.large,
            sent: true,
        });
        // What is under way is not there yet: after a restart it is sent again, together with what came since.
        Some(match (pending, flight) {
            (None, None) => return None,
            (Some(one), None) | (None, Some(one)) => one,
            (Some(pending), Some(flight)) => SavedMark {
                kind: pending.kind.max(flight.kind),
                content: pending.content.join(flight.content),
                least: pending.least.join(flight.least),
                priority: pending.priority.min(flight.priority),
                first: pending.first.min(flight.first),
                attempts: pending.attempts.max(flight.attempts),
                derived: pending.derived && flight.derived,
                large: pending.large || flight.large,
                sent: true,
                path: pending.path,
            },
        })
    }

    /// Takes back a mark that was kept. It is as old as it was, has failed as often, and may go at once.
    ///
    /// Where a file was under way, its directory is listed too, in the background: a receiver that was killed leaves what it
    /// had of the file under a name of its own (notes/rsync.md 8).
    pub fn restore(&mut self, now: Now, saved: &SavedMark) {
        self.restore_mark(now, saved);
        if saved.sent
            && saved.kind == MarkKind::Point
            && let Some(parent) = saved.path.parent()
        {
            let mut mark = Mark::new(parent, MarkKind::Listing).priority(Priority::Background);
            mark.changes_names = false;
            self.mark(now, &mark);
        }
    }

    fn restore_mark(&mut self, now: Now, saved: &SavedMark) {
        self.sequence += 1;
        let mut mark = Mark::new(saved.path.clone(), saved.kind).content(saved.content).priority(saved.priority);
        mark.changes_names = false;
        mark.derived = saved.derived;
        mark.large = saved.large;
        let node = self.trie.reach(&mark.path);
        let age = Duration::from_nanos(u64::try_from(now.wall.0.saturating_sub(saved.first.0)).unwrap_or(0));
        // The monotonic clock may be younger than the mark: then only what it looks back to remembers the age.
        let first = now.instant.checked_sub(age).unwrap_or(now.instant);
        // `Resend` is no less than `Since` the first event only if that is how far back the slack reaches.
        let least = match saved.least {
            Content::Resend => Content::Since(saved.first.minus(CTIME_SLACK)),
            Content::Compare | Content::Since(_) => saved.least,
        };
        let asks = Asks { kind: mark.kind, content: least, priority: mark.priority, deletes: mark.deletes };
        if let Some(above) = self.covering(node, &asks) {
            self.stand_for(above, first, least, mark.derived);
            return self.trie.prune(node);
        }
        self.merge(node, now, now.instant, &mark);
        if let Some(mut pending) = self.remove_pending(node) {
            pending.times.first = pending.times.first.min(first);
            pending.least = pending.least.join(least);
            pending.attempts = pending.attempts.max(saved.attempts);
            self.insert_pending(node, pending);
        }
        self.keep_within(now);
    }

    fn merge(&mut self, node: NodeId, now: Now, first: Instant, mark: &Mark) {
        let sequence = self.sequence;
        let least = looking_back(now, first, mark.content);
        let now = now.instant;
        let merged = match self.remove_pending(node) {
            None => Pending {
                kind: mark.kind,
                content: mark.content,
                least,
                priority: mark.priority,
                times: Times {
                    first,
                    last: now,
                    stage: mark.stage,
                    not_before: mark.departs.then(|| now + DEPARTED_WAIT),
                },
                derived: mark.derived,
                large: mark.large,
                company: Company::default(),
                attempts: 0,
                deletes: mark.deletes,
                role: Role::None,
                sequence,
                due: now,
            },
            Some(older) => Pending {
                kind: older.kind.max(mark.kind),
                content: older.content.join(mark.content),
                least: older.least.join(least),
                priority: merged_priority((older.priority, older.times.stage), (mark.priority, mark.stage)),
                times: Times {
                    first: older.times.first.min(first),
                    last: now,
                    stage: merged_stage(older.times.stage, mark.stage),
                    // A later event is a reason to try again; the attempts stay, so that the next pause is longer.
                    not_before: if is_news(mark.derived, mark.stage) { None } else { older.times.not_before },
                },
                derived: older.derived && mark.derived,
                large: older.large || mark.large,
                company: older.company,
                attempts: older.attempts,
                deletes: older.deletes.join(mark.deletes),
                role: Role::None,
                sequence: older.sequence,
                due: now,
            },
        };
        self.insert_pending(node, merged);
    }

    /// When what `mark` tells of happened, at the earliest. A derived one comes from a look at the paths of some batch
    /// under way, and is as old as they are.
    fn first_event(&self, now: Instant, mark: &Mark) -> Instant {
        let batches = self.batches.values().map(|batch| batch.first).filter(|_| mark.derived);
        batches.min().map_or(now, |first| first.min(now))
    }

    /// Takes what is due for a lane, the longest due first, all of one class; `None` when nothing can go now.
    pub fn take(&mut self, now: Instant, want: Want) -> Option<Draft> {
        self.cool(now);
        self.epoch += 1;
        if !want.large && self.background_turn(now).0 {
            if want.background
                && let Some(draft) = self.take_of(now, Priority::Background, want)
            {
                return Some(draft);
            }
            self.reserve_overdue();
        }
        let priorities = if want.background { &[Priority::Live, Priority::Background][..] } else { &[Priority::Live] };
        priorities.iter().find_map(|priority| self.take_of(now, *priority, want))
    }

    /// As [`Self::take`], but leaves live marks alone.
    pub fn take_background(&mut self, now: Instant, want: Want) -> Option<Draft> {
        self.cool(now);
        self.epoch += 1;
        self.take_of(now, Priority::Background, want)
    }

    /// Since when the oldest live mark for a small lane is due, and how many such marks there are, due or not.
    #[must_use]
    pub fn live_queue(&self) -> (Option<Instant>, usize) {
        let queue = &self.queues[lane(Priority::Live, false)];
        (queue.first().map(|turn| turn.0), queue.len())
    }

    /// A background mark needs a moment without a live batch beneath it, which steady load may never leave. Once it
    /// has waited long enough it goes first, and the live marks beneath it wait for it.
    ///
    /// Only for a while at a time: a batch in flight that hangs must not stop everything else. Gives whether the turn is
    /// now, and when that changes, if there is a background mark that is due.
    fn background_turn(&self, now: Instant) -> (bool, Option<Instant>) {
        let first = self.queues[lane(Priority::Background, false)].first();
        let Some((due, ..)) = first.filter(|turn| turn.0 <= now) else { return (false, None) };
        let cycle = BACKGROUND_PATIENCE + BACKGROUND_TURN;
        let waited = now.saturating_duration_since(*due);
        let into = Duration::from_nanos(u64::try_from(waited.as_nanos() % cycle.as_nanos()).unwrap_or(0));
        if into >= BACKGROUND_PATIENCE {
            (true, Some(now + (cycle - into)))
        } else {
            (false, Some(now + (BACKGROUND_PATIENCE - into)))
        }
    }

    fn reserve_overdue(&mut self) {
        let Some((_, _, node)) = self.queues[lane(Priority::Background, false)].first().copied() else { return };
        let Some(kind) = self.trie.value(node).pending.as_ref().map(|pending| pending.kind) else { return };
        if !self.waits_for_large(node) {
            self.reserve(node, kind);
        }
    }

    fn take_of(&mut self, now: Instant, priority: Priority, want: Want) -> Option<Draft> {
        if want.newest {
            self.reserve_wide(now, priority);
        }
        let due_of = |large| {
            let queue = self.queues[lane(priority, large)].iter();
            queue.take_while(|turn| turn.0 <= now).take(CANDIDATES_MAX).map(move |turn| (*turn, large))
        };
        let mut due: Vec<(Turn, bool)> = if want.newest {
            let queue = &self.queues[lane(priority, want.large)];
            let due = queue.range(..(now, u64::MAX, ROOT)).rev();
            due.take(CANDIDATES_MAX).map(|turn| (*turn, want.large)).collect()
        } else {
            due_of(want.large).collect()
        };
        if want.large {
            // A large file must not get before an older mark above it that waits for the large file under way.
            due.extend(due_of(false));
            due.sort_unstable();
        }
        let mut taken: Vec<NodeId> = Vec::new();
        let mut shape: Option<Shape> = None;
        let mut marks_max = want.marks_max;
        for ((_, _, node), large) in due {
            if taken.len() >= marks_max {
                break;
            }
            let pending = self.trie.value(node).pending.as_ref().expect("a turn belongs to a pending mark");
            let (kind, company_max, theirs) = (pending.kind, self.company_max(pending.company), pending.shape());
            if large != want.large {
                if self.is_blocked(node, kind) {
                    self.reserve(node, kind);
                }
                continue;
            }
            if shape.is_some_and(|shape| shape != theirs) || taken.len() >= company_max {
                continue;
            }
            let role = pending.role;
            // What a move rests on goes after it; a move goes alone.
            if role == Role::Awaited || (role == Role::Moved && !taken.is_empty()) {
                continue;
            }
            let basis = self.basis_of(node);
            if self.is_blocked(node, kind) || basis.is_some_and(|old| self.is_blocked(old, MarkKind::Point)) {
                // A large file may take hours: meanwhile small ones pass.
                if want.large || !self.waits_for_large(node) {
                    self.reserve(node, kind);
                }
                continue;
            }
            shape = Some(theirs);
            taken.push(node);
            marks_max = marks_max.min(company_max);
            if basis.is_some() {
                break;
            }
        }
        let (class, ..) = shape?;
        Some(self.launch(now, class, priority, want.large, &taken))
    }

    /// The oldest listings and subtrees that wait for a batch in flight: what lies beneath them must not go before them
    /// each time.
    fn reserve_wide(&mut self, now: Instant, priority: Priority) {
        let due = self.queues[lane(priority, false)].iter().take_while(|turn| turn.0 <= now);
        let wide = due.take(CANDIDATES_MAX).filter_map(|(_, _, node)| {
            let kind = self.trie.value(*node).pending.as_ref()?.kind;
            matches!(kind, MarkKind::Listing | MarkKind::Subtree).then_some((*node, kind))
        });
        let wide: Vec<(NodeId, MarkKind)> = wide.collect();
        for (node, kind) in wide {
            if self.is_blocked(node, kind) && !self.waits_for_large(node) {
                self.reserve(node, kind);
            }
        }
    }

    /// Whether a batch in flight, or an older mark that waits for one, stands in the way.
    fn is_blocked(&self, node: NodeId, kind: MarkKind) -> bool {
        let here = self.trie.value(node);
        if here.flight.is_some() || here.reserved == self.epoch {
            return true;
        }
        // A delete, a change of type, a listing and a subtree all act on what lies beneath on the target, where even
        // attributes in flight may make a directory again.
        if kind != MarkKind::Attributes && self.trie.beneath(node)[FLIGHT] > 0 {
            return true;
        }
        self.trie.ancestors(node).any(|ancestor| {
            let value = self.trie.value(ancestor);
            value.reserved == self.epoch
                || value.flight.as_ref().is_some_and(|flight| flight.kind != MarkKind::Attributes)
        })
    }

    /// Whether a large file under way is among what stands in the way.
    fn waits_for_large(&self, node: NodeId) -> bool {
        self.trie.beneath(node)[LARGE_FLIGHT] > 0
            || std::iter::once(node)
                .chain(self.trie.ancestors(node))
                .any(|at| self.trie.value(at).flight.as_ref().is_some_and(|flight| flight.large))
    }

    /// Keeps younger marks beneath from overtaking a blocked one for ever.
    fn reserve(&mut self, node: NodeId, kind: MarkKind) {
        if kind != MarkKind::Attributes {
            let epoch = self.epoch;
            self.trie.update(node, |value| value.reserved = epoch);
        }
    }

    fn launch(&mut self, now: Instant, class: Class, priority: Priority, large: bool, taken: &[NodeId]) -> Draft {
        self.sequence += 1;
        let batch = BatchId(self.sequence);
        let mut marks = Vec::with_capacity(taken.len());
        let mut first = now;
        let basis = taken.first().and_then(|node| self.basis_of(*node));
        if let Some(old) = basis {
            first = first.min(self.launch_basis(old));
        }
        for node in taken {
            let pending = self.take_pending(*node).expect("it was pending a moment ago");
            first = first.min(pending.times.first);
            let before = self.trie.value(*node).heat;
            let heats = pending.priority == Priority::Live && pending.kind == MarkKind::Point;
            let heat = heats.then(|| self.options.settle.heat(now, pending.times, before));
            if let Some(heat) = heat {
                if let Some(before) = before {
                    self.cooling.remove(&(before.taken + self.options.settle.memory(before), *node));
                }
                self.cooling.insert((heat.taken + self.options.settle.memory(heat), *node));
            }
            marks.push(DraftMark {
                path: self.trie.path(*node),
                kind: pending.kind,
                content: if basis.is_some() { Content::Compare } else { pending.content },
                derived: pending.derived,
                attempts: pending.attempts,
                deletes: pending.deletes,
                origin: basis.map(|old| self.trie.path(old)),
            });
            self.note_unsaved(*node);
            self.trie.update(*node, |value| {
                value.heat = heat.or(before);
                value.flight = Some(pending.fly());
            });
        }
        self.moves.retain(|each| Some(each.old) != basis);
        marks.sort_unstable_by(|one, two| one.path.cmp(&two.path));
        let flying = Batch { nodes: taken.to_vec(), basis, moved: None, first, started: self.sequence };
        self.batches.insert(batch, flying);
        Draft { batch, class, priority, large, marks }
    }

    /// Puts the old name of a move in flight; gives its first event.
    fn launch_basis(&mut self, old: NodeId) -> Instant {
        let pending = self.take_pending(old).expect("both names of a move are pending");
        self.note_unsaved(old);
        let first = pending.times.first;
        self.trie.update(old, |value| value.flight = Some(pending.fly()));
        first
    }

    /// Ends a batch: each of its marks meets the fate that `fate` gives its path.
    pub fn conclude(&mut self, now: Now, batch: BatchId, mut fate: impl FnMut(&RelPath) -> Fate) -> Tally {
        let Some(ended) = self.batches.remove(&batch) else { return Tally::default() };
        self.stale_directories(now, &ended);
        self.note_ended(now.instant, &ended.nodes);
        let mut tally = Tally::default();
        let half = (ended.nodes.len() / 2).max(1);
        let mut done = !ended.nodes.is_empty();
        for node in ended.nodes {
            let mut noted = |path: &RelPath| {
                let fate = fate(path);
                done &= fate == Fate::Done;
                fate
            };
            self.land(now, node, half, &mut noted, &mut tally);
        }
        if let Some(old) = ended.basis {
            self.land_basis(now, old, ended.moved.filter(|_| done), &mut tally);
        }
        self.keep_within(now);
        tally
    }

    /// Failures so far of the paths of a batch under way; those without are left out.
    #[must_use]
    pub fn attempts(&self, batch: BatchId) -> HashMap<RelPath, u32> {
        let nodes = self.batches.get(&batch).map_or(&[][..], |batch| &batch.nodes);
        nodes
            .iter()
            .filter_map(|node| {
                let attempts = self.trie.value(*node).flight.as_ref()?.attempts;
                (attempts > 0).then(|| (self.trie.path(*node), attempts))
            })
            .collect()
    }

    /// The directories in which the points of a batch under way lie, each once.
    #[must_use]
    pub fn parents(&self, batch: BatchId) -> Vec<RelPath> {
        let nodes = self.batches.get(&batch).map_or(&[][..], |batch| &batch.nodes);
        // What was marked as a directory may be a file by now.
        let has_content = |node: &&NodeId| {
            self.trie.value(**node).flight.as_ref().is_some_and(|flight| flight.kind != MarkKind::Attributes)
        };
        let parents: BTreeSet<NodeId> =
            nodes.iter().filter(has_content).filter_map(|node| self.trie.parent(*node)).collect();
        parents.into_iter().map(|node| self.trie.path(node)).collect()
    }

    fn at_most(&self, max: usize) -> Company {
        Company { max, trial: self.trial }
    }

    fn company_max(&self, company: Company) -> usize {
        if company.max == 0 || company.trial != self.trial { usize::MAX } else { company.max }
    }

    /// It was not a path that made batches fail, but the target: the marks may be in large batches again.
    pub fn acquit(&mut self) {
        self.trial += 1;
    }

    /// The last failure of what waits at `path` was not its own: as if it had not happened.
    pub fn absolve(&mut self, path: &RelPath) {
        let Some(node) = self.trie.find(path) else { return };
        if let Some(mut pending) = self.remove_pending(node) {
            pending.attempts = pending.attempts.saturating_sub(1);
            pending.times.not_before = None;
            self.insert_pending(node, pending);
        }
    }

    /// Marks of a batch under way, without those that were released.
    #[must_use]
    pub fn marks_in(&self, batch: BatchId) -> usize {
        self.batches.get(&batch).map_or(0, |batch| batch.nodes.len())
    }

    /// What waits at `path` after a failure waits no longer.
    pub fn hurry(&mut self, path: &RelPath) {
        let Some(node) = self.trie.find(path) else { return };
        if let Some(mut pending) = self.remove_pending(node) {
            pending.times.not_before = None;
            self.insert_pending(node, pending);
        }
    }

    /// The path of a batch under way that has one mark.
    #[must_use]
    pub fn only_path(&self, batch: BatchId) -> Option<RelPath> {
        match self.batches.get(&batch)?.nodes[..] {
            [node] => Some(self.trie.path(node)),
            _ => None,
        }
    }

    /// Failures so far of what waits or is under way at `path`.
    #[must_use]
    pub fn failures(&self, path: &RelPath) -> u32 {
        let value = self.trie.find(path).map(|node| self.trie.value(node));
        let pending = value.and_then(|value| value.pending.as_ref()).map_or(0, |pending| pending.attempts);
        let flight = value.and_then(|value| value.flight.as_ref()).map_or(0, |flight| flight.attempts);
        pending.max(flight)
    }

    /// Takes some paths out of a batch that goes on without them.
    pub fn release(&mut self, now: Now, batch: BatchId, paths: &[RelPath], large: bool) {
        let named: HashSet<NodeId> = paths.iter().filter_map(|path| self.trie.find(path)).collect();
        let Some(running) = self.batches.get_mut(&batch) else { return };
        let leaving: Vec<NodeId> = running.nodes.extract_if(.., |node| named.contains(node)).collect();
        for node in leaving {
            self.land(now, node, usize::MAX, &mut |_| Fate::Again { large }, &mut Tally::default());
        }
        self.keep_within(now);
    }

    /// Widens when too many marks are pending.
    fn keep_within(&mut self, now: Now) {
        if self.pending() > self.options.marks_max {
            self.widen(now);
        }
    }

    fn land(
        &mut self,
        now: Now,
        node: NodeId,
        half: usize,
        fate: &mut impl FnMut(&RelPath) -> Fate,
        tally: &mut Tally,
    ) {
        let Some(flight) = self.trie.update(node, |value| value.flight.take()) else { return };
        self.note_unsaved(node);
        let path = self.trie.path(node);
        let (not_before, company, large, attempts) = match fate(&path) {
            Fate::Done => {
                match flight.priority {
                    // Nobody waits for a directory's times: they would hide what a reader of the target sees.
                    Priority::Live if flight.kind == MarkKind::Attributes => {}
                    Priority::Live => tally.done_live.push(flight.first),
                    Priority::Background => tally.done_background += 1,
                }
                return self.trie.prune(node);
            }
            Fate::Held => {
                tally.held.push(HeldMark { path, kind: flight.kind, first: flight.first });
                return self.trie.prune(node);
            }
            Fate::Again { large } => (None, flight.company, large || flight.large, flight.attempts),
            Fate::Behind => (Some(now.instant), flight.company, flight.large, flight.attempts),
            Fate::Split => (None, self.at_most(half), flight.large, flight.attempts),
            Fate::Retry { not_before, alone } => {
                let company = if alone { self.at_most(1) } else { flight.company };
                (Some(not_before), company, flight.large, flight.attempts + 1)
            }
        };
        tally.returned += 1;
        // What fails again and again is a difference that is known: the comparison is through but for it.
        let priority = if not_before.is_some() && attempts >= 2 { Priority::Live } else { flight.priority };
        let asks = Asks { kind: flight.kind, content: flight.least, priority, deletes: flight.deletes };
        if let Some(above) = self.covering(node, &asks) {
            self.stand_for(above, flight.first, flight.least, flight.derived);
            return self.trie.prune(node);
        }
        let newer = self.remove_pending(node);
        self.sequence += 1;
        let mut merged = Pending {
            kind: flight.kind,
            content: flight.content,
            least: flight.least,
            priority,
            // It settled before it was taken, so it is complete; a newer event may say otherwise.
            times: Times { first: flight.first, last: flight.first, stage: Stage::Complete, not_before },
            derived: flight.derived,
            large,
            company,
            attempts,
            deletes: flight.deletes,
            role: Role::None,
            sequence: self.sequence,
            due: now.instant,
        };
        if let Some(newer) = newer {
            merged.kind = merged.kind.max(newer.kind);
            merged.content = merged.content.join(newer.content);
            merged.least = merged.least.join(newer.least);
            // A newer mark may stand for an older one from beneath.
            merged.times.first = merged.times.first.min(newer.times.first);
            merged.priority = merged_priority((priority, flight.stage), (newer.priority, newer.times.stage));
            if is_news(newer.derived, newer.times.stage) {
                merged.times.not_before = None;
            }
            merged.times.last = newer.times.last;
            merged.times.stage = merged_stage(Stage::Complete, newer.times.stage);
            merged.derived &= newer.derived;
            merged.large |= newer.large;
            merged.attempts = merged.attempts.max(newer.attempts);
            merged.deletes = merged.deletes.join(newer.deletes);
        }
        self.insert_pending(node, merged);
    }

    /// A batch sends the times and modes of its paths' parents as it read them at its start. Where such a directory
    /// changed meanwhile, a batch that began later may have been overwritten by this one: the directory's attributes
    /// are stale and get a mark.
    fn stale_directories(&mut self, now: Now, ended: &Batch) {
        self.epoch += 1;
        let epoch = self.epoch;
        let mut stale = Vec::new();
        for node in &ended.nodes {
            // A directory whose own attributes were sent is as stale as a parent: nothing kept what lies beneath it
            // from being sent meanwhile. What else is in flight stands for its path: an event there has a mark.
            let flight = self.trie.value(*node).flight.as_ref();
            let own = flight.is_some_and(|flight| flight.kind == MarkKind::Attributes);
            let mut at = if own { Some(*node) } else { self.trie.parent(*node) };
            while let Some(directory) = at {
                let value = self.trie.value(directory);
                if value.visited == epoch {
                    break;
                }
                if value.touched > ended.started {
                    stale.push(directory);
                }
                self.trie.update(directory, |value| value.visited = epoch);
                at = self.trie.parent(directory);
            }
        }
        let attributes = Asks {
            kind: MarkKind::Attributes,
            content: Content::Compare,
            priority: Priority::Live,
            deletes: Deletes::Single,
        };
        for directory in stale {
            if self.covering(directory, &attributes).is_none() {
                self.sequence += 1;
                let mark = Mark::new(RelPath::root(), MarkKind::Attributes).stage(Stage::Lazy);
                // Whoever waits for what the batch held waits for this too.
                self.merge(directory, now, ended.first, &mark);
            }
        }
    }

    /// Forgets the heat of paths that have been quiet.
    fn cool(&mut self, now: Instant) {
        while let Some((until, node)) = self.cooling.first().copied() {
            if until > now {
                return;
            }
            self.cooling.pop_first();
            self.trie.update(node, |value| value.heat = None);
            if self.trie.value(node).is_empty() {
                self.trie.prune(node);
            }
        }
    }

    /// Makes fewer, wider marks of the pending ones: first each directory's points become its listing, then the
    /// deepest level becomes subtrees of the level above, until half of the limit is free.
    fn widen(&mut self, now: Now) {
        self.widened += 1;
        let goal = self.options.marks_max / 2;
        let pending: Vec<NodeId> = self.queues.iter().flatten().map(|turn| turn.2).collect();
        let mut points: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        let is_point = |set: &Self, node: NodeId| {
            set.trie.value(node).pending.as_ref().is_some_and(|pending| pending.kind <= MarkKind::Point)
        };
        for node in pending {
            if let Some(parent) = self.trie.parent(node)
                && is_point(self, node)
            {
                points.entry(parent).or_default().push(node);
            }
        }
        for (directory, mut nodes) in points {
            // A directory among them may have become a listing of its own by now.
            nodes.retain(|node| is_point(self, *node));
            if nodes.len() >= 2 {
                self.fold(now, directory, MarkKind::Listing, &nodes);
            }
        }
        while self.pending() > goal {
            let mut deepest: (usize, BTreeMap<NodeId, Vec<NodeId>>) = (0, BTreeMap::new());
            let pending: Vec<NodeId> = self.queues.iter().flatten().map(|turn| turn.2).collect();
            for node in pending {
                let depth = self.trie.depth(node);
                if depth > deepest.0 {
                    deepest = (depth, BTreeMap::new());
                }
                if depth == deepest.0
                    && let Some(parent) = self.trie.parent(node)
                {
                    deepest.1.entry(parent).or_default().push(node);
                }
            }
            if deepest.0 == 0 {
                return;
            }
            for (directory, nodes) in deepest.1 {
                self.fold(now, directory, MarkKind::Subtree, &nodes);
            }
        }
    }

    /// Replaces the pending marks `nodes`, children of `directory`, by one mark of `kind` on it.
    fn fold(&mut self, now: Now, directory: NodeId, kind: MarkKind, nodes: &[NodeId]) {
        let mut folded: Option<(Instant, Content, Priority)> = None;
        // Marks that must not spread make one that must not: else two directories with names of the same files would send
        // each other for ever.
        let mut derived = true;
        let mut approved = true;
        for node in nodes {
            let Some(pending) = self.remove_pending(*node) else { continue };
            approved &= pending.deletes == Deletes::Approved;
            derived &= pending.derived;
            // Everything under the wider mark would be sent again: ask for what changed since the first event.
            let content = pending.least;
            folded = Some(match folded {
                None => (pending.times.first, content, pending.priority),
                Some((first, joined, priority)) => {
                    (first.min(pending.times.first), joined.join(content), priority.min(pending.priority))
                }
            });
        }
        let Some((first, content, priority)) = folded else { return };
        let mut mark = Mark::new(RelPath::root(), kind).content(content).priority(priority);
        (mark.changes_names, mark.derived) = (false, derived);
        if approved {
            mark.deletes = Deletes::Approved;
        }
        self.sequence += 1;
        self.merge(directory, now, now.instant, &mark);
        self.stand_for(directory, first, content, derived);
        for node in nodes {
            if self.trie.value(*node).is_empty() {
                self.trie.prune(*node);
            }
        }
        // A wider mark may cover marks deeper down that were pending before it.
        let asks = Asks { kind, content, priority, deletes: mark.deletes };
        self.clear_beneath(directory, &mark, &asks);
    }

    /// Every pending mark may delete what the source lacks, however much that is.
    pub fn approve(&mut self) {
        let pending: Vec<NodeId> = self.queues.iter().flatten().map(|turn| turn.2).collect();
        for node in pending {
            self.trie.update(node, |value| {
                if let Some(pending) = &mut value.pending {
                    pending.deletes = Deletes::Approved;
                }
            });
        }
    }

    /// When something becomes due after `now`; what is due already waits for a lane or for a batch in flight.
    #[must_use]
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.queues
            .iter()
            .filter_map(|queue| queue.range((now, u64::MAX, ROOT)..).find(|turn| turn.0 > now).map(|turn| turn.0))
            .chain(self.background_turn(now).1)
            .min()
    }

    /// Marks that wait.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.queues.iter().map(BTreeSet::len).sum()
    }

    /// Background marks that wait or are under way.
    #[must_use]
    pub fn background(&self) -> usize {
        let flying = self.batches.values().flat_map(Batch::flying).filter(|node| {
            self.trie.value(*node).flight.as_ref().is_some_and(|flight| flight.priority == Priority::Background)
        });
        self.queues[2].len() + self.queues[3].len() + flying.count()
    }

    /// Batches under way.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.pending() == 0 && self.batches.is_empty()
    }

    /// First event of the oldest live mark that is not on the target yet.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        let waiting = self.queues[0]
            .iter()
            .chain(&self.queues[1])
            .filter_map(|turn| self.trie.value(turn.2).pending.as_ref().map(|pending| pending.times.first));
        let flying = self.batches.values().flat_map(Batch::flying).filter_map(|node| {
            let flight = self.trie.value(node).flight.as_ref()?;
            (flight.priority == Priority::Live).then_some(flight.first)
        });
        waiting.chain(flying).min()
    }

    /// How many times marks were widened.
    #[must_use]
    pub fn widened(&self) -> u64 {
        self.widened
    }

    /// Forgets what need not be remembered any more, and gives back the memory of what was once nothing is.
    pub fn give_back(&mut self, now: Instant) {
        self.cool(now);
        self.trie.give_back();
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.told.shrink_to(1024);
        }
    }

    /// Paths that are remembered, whatever for; bounded by the marks and their depth.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.trie.len()
    }
}

mod barrier;
mod inspect;
mod moves;
pub use inspect::{MarkView, PathView};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod model;
