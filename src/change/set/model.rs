//! Random steps against a naive model: a list of what every mark asked for, from which only an acknowledged transfer
//! that was taken later, and reaches far enough, strikes out.

use super::*;

const WALL: i64 = 1_000_000_000_000_000;

/// What a mark asked for; enough for it is any of these.
#[derive(Debug, Clone)]
struct Obligation {
    ways: Vec<Way>,
}

#[derive(Debug, Clone)]
struct Way {
    path: RelPath,
    kind: MarkKind,
    /// A write is asked for as what changed since it.
    content: Content,
    step: u64,
    /// It was renamed to here.
    arrived: bool,
}

/// A batch under way.
#[derive(Debug)]
struct Flying {
    id: BatchId,
    step: u64,
    marks: Vec<DraftMark>,
}

impl Way {
    fn is_done_by(&self, mark: &DraftMark, step: u64) -> bool {
        let reaches = if mark.path == self.path {
            mark.kind >= self.kind
        } else {
            match mark.kind {
                MarkKind::Subtree => self.path.is_within(&mark.path),
                MarkKind::Listing => {
                    self.kind <= MarkKind::Point && self.path.parent().is_some_and(|parent| parent == mark.path)
                }
                MarkKind::Point | MarkKind::Attributes => false,
            }
        };
        let suffices = match (mark.content, self.content) {
            // Whatever else was asked for of the same name would have ended the move.
            _ if mark.origin.is_some() && mark.path == self.path && self.arrived => true,
            // A directory's attributes have no content.
            _ if mark.origin.is_some() && self.kind == MarkKind::Attributes => true,
            (Content::Resend, _) | (_, Content::Compare) => true,
            (Content::Since(mine), Content::Since(theirs)) => mine <= theirs,
            (Content::Since(_) | Content::Compare, Content::Resend) | (Content::Compare, Content::Since(_)) => false,
        };
        reaches && suffices && self.step < step
    }
}

struct Simulation {
    seed: u64,
    rng: fastrand::Rng,
    set: ChangeSet,
    start: Instant,
    elapsed: Duration,
    step: u64,
    open: Vec<Obligation>,
    flying: Vec<Flying>,
    marks_max: usize,
    /// Moves that were taken.
    moves: usize,
    /// What a checkpoint holds.
    disk: HashMap<u32, SavedMark>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let marks_max = [3, 8, 30, 1_000][rng.usize(..4)];
        let options = ChangeSetOptions { settle: SettleOptions::default(), marks_max, saved: true };
        Self {
            seed,
            rng,
            set: ChangeSet::new(options),
            start: crate::sys::clock::now(),
            elapsed: Duration::ZERO,
            step: 0,
            open: Vec::new(),
            flying: Vec::new(),
            marks_max,
            moves: 0,
            disk: HashMap::new(),
        }
    }

    /// Writes the differences, which must come to what is there.
    fn save(&mut self, whole: bool) {
        let now = self.now();
        if whole {
            self.disk.clear();
        }
        for (key, saved) in self.set.unsaved(now, whole) {
            match saved {
                Some(saved) => self.disk.insert(key, saved),
                None => Some(self.disk.remove(&key).expect("only what was told is taken back")),
            };
        }
        assert!(!self.set.is_unsaved());
        let kept: Vec<&RelPath> = self.disk.values().map(|saved| &saved.path).collect();
        let here = self.set.queues.iter().flatten().map(|turn| turn.2);
        let flying = self.set.batches.values().flat_map(Batch::flying);
        let nodes: HashSet<NodeId> = here.chain(flying).collect();
        assert_eq!(kept.len(), nodes.len(), "seed {}", self.seed);
        assert!(nodes.iter().all(|node| kept.contains(&&self.set.trie.path(*node))), "seed {}", self.seed);
    }

    /// Everything but the disk is gone.
    fn crash(&mut self) {
        self.save(false);
        self.flying.clear();
        self.set = ChangeSet::new(self.set.options);
        let now = self.now();
        for saved in self.disk.values_mut() {
            // The listings that clean up behind a killed receiver are asked for beside the marks.
            saved.sent = false;
            self.set.restore(now, saved);
        }
        assert!(self.set.pending() <= self.marks_max, "seed {}: {} wait", self.seed, self.set.pending());
        self.save(true);
    }

    fn now(&self) -> Now {
        let nanos = i64::try_from(self.elapsed.as_nanos()).unwrap();
        Now { instant: self.start + self.elapsed, wall: WallTime(WALL + nanos) }
    }

    fn path(&mut self) -> RelPath {
        let depth = [0, 1, 1, 2, 2, 3, 3, 4][self.rng.usize(..8)];
        (0..depth).fold(RelPath::root(), |at, _| at.join([&b"a"[..], b"b", b"c"][self.rng.usize(..3)]))
    }

    fn mark(&mut self) {
        use MarkKind::{Attributes, Listing, Point, Subtree};
        let kind = [Attributes, Point, Point, Point, Point, Listing, Subtree][self.rng.usize(..7)];
        let now = self.now();
        let back = Duration::from_secs(self.rng.u64(..1_000));
        let content = match self.rng.u8(..3) {
            0 => Content::Compare,
            1 => Content::Since(now.wall.minus(back)),
            _ => Content::Resend,
        };
        let stage = [Stage::Complete, Stage::Writing, Stage::Unchanged, Stage::Lazy][self.rng.usize(..4)];
        let path = self.path();
        let mut mark = Mark::new(path.clone(), kind).content(content).stage(stage);
        if self.rng.u8(..4) == 0 {
            mark.priority = Priority::Background;
        }
        mark.changes_names = self.rng.bool();
        mark.derived = self.rng.u8(..5) == 0;
        mark.large = self.rng.u8(..5) == 0;
        mark.gone_directory = kind == Point && self.rng.u8(..5) == 0;
        if mark.gone_directory {
            let way =
                Way { path: path.clone(), kind: Point, content: Content::Compare, step: self.step, arrived: false };
            for obligation in &mut self.open {
                // The latest of the same place is no better than an older one: it only makes the list longer.
                let beneath = obligation.ways[0].path != path && obligation.ways[0].path.is_within(&path);
                if beneath {
                    obligation.ways.push(way.clone());
                }
            }
        }
        let content = match content {
            Content::Resend => Content::Since(now.wall.minus(CTIME_SLACK)),
            Content::Compare | Content::Since(_) => content,
        };
        self.open.push(Obligation { ways: vec![Way { path, kind, content, step: self.step, arrived: false }] });
        self.set.mark(now, &mark);
        assert!(self.set.pending() <= self.marks_max, "seed {}: {} wait", self.seed, self.set.pending());
    }

    /// A directory is renamed: both halves, at once or not.
    fn rename(&mut self) {
        let (old, new) = (self.path(), self.path());
        if old.is_within(&new) || new.is_within(&old) {
            return;
        }
        let now = self.now();
        let mut left = Mark::new(old.clone(), MarkKind::Point);
        (left.gone_directory, left.departs) = (true, true);
        let way = Way {
            path: old.clone(),
            kind: MarkKind::Point,
            content: Content::Compare,
            step: self.step,
            arrived: false,
        };
        for obligation in &mut self.open {
            if obligation.ways[0].path != old && obligation.ways[0].path.is_within(&old) {
                obligation.ways.push(way.clone());
            }
        }
        self.open.push(Obligation { ways: vec![way] });
        self.set.mark(now, &left);
        if self.rng.u8(..4) == 0 {
            return;
        }
        let mut arrived = Mark::new(new.clone(), MarkKind::Subtree).content(Content::Resend);
        arrived.origin = Some(Box::new(crate::change::Origin { path: old, since: now.instant }));
        let way = Way {
            path: new,
            kind: MarkKind::Subtree,
            content: Content::Since(now.wall.minus(CTIME_SLACK)),
            step: self.step,
            arrived: true,
        };
        self.open.push(Obligation { ways: vec![way] });
        self.set.mark(now, &arrived);
    }

    /// What a move rests on is known to be on the target, and nothing else touches it meanwhile.
    fn check_moves(&mut self, draft: &Draft) {
        for (new, old) in self.flying.iter().flat_map(|flying| &flying.marks).filter_map(|mark| {
            let old = mark.origin.as_ref()?;
            Some((&mark.path, old))
        }) {
            let near = |mark: &DraftMark| {
                mark.path.is_within(old) || (old.is_within(&mark.path) && mark.kind != MarkKind::Attributes)
            };
            assert!(!draft.marks.iter().any(near), "seed {}: {new} rests on {old}: {draft:?}", self.seed);
        }
        let Some(old) = draft.marks.iter().find_map(|mark| mark.origin.as_ref()) else { return };
        self.moves += 1;
        assert_eq!(draft.marks.len(), 1, "seed {}", self.seed);
        let content = |way: &&Way| {
            let reaches = way.path.is_within(old) || (old.is_within(&way.path) && way.kind >= MarkKind::Listing);
            reaches && way.kind != MarkKind::Attributes && way.content != Content::Compare
        };
        let open = self.open.iter().filter(|obligation| obligation.ways.len() == 1).map(|open| &open.ways[0]);
        let dirty = open.filter(|way| way.kind == MarkKind::Subtree || way.path.is_within(old)).find(content);
        assert!(dirty.is_none(), "seed {}: {old} is no basis: {dirty:?}", self.seed);
    }

    fn take(&mut self, want: Want) -> bool {
        let now = self.now();
        let Some(draft) = self.set.take(now.instant, want) else { return false };
        assert!(!draft.marks.is_empty() && draft.marks.len() <= want.marks_max, "seed {}", self.seed);
        assert!(draft.marks.is_sorted_by(|one, two| one.path < two.path), "seed {}", self.seed);
        for mark in &draft.marks {
            let class = match mark.kind {
                MarkKind::Attributes | MarkKind::Point => Class::Points,
                MarkKind::Listing => Class::Listing,
                MarkKind::Subtree => Class::Subtree,
            };
            assert_eq!(class, draft.class, "seed {}", self.seed);
            for other in self.flying.iter().flat_map(|flying| &flying.marks) {
                let overlaps = |lower: &DraftMark, upper: &DraftMark| {
                    lower.path.is_within(&upper.path)
                        && (lower.path == upper.path || upper.kind != MarkKind::Attributes)
                };
                assert!(
                    !overlaps(mark, other) && !overlaps(other, mark),
                    "seed {}: {mark:?} beside {other:?}",
                    self.seed
                );
            }
        }
        self.check_moves(&draft);
        self.flying.push(Flying { id: draft.batch, step: self.step, marks: draft.marks });
        true
    }

    fn conclude(&mut self, index: usize, all_done: bool) {
        let batch = self.flying.swap_remove(index);
        if self.rng.bool() {
            self.set.moved(batch.id, 3);
        }
        let now = self.now();
        let (rng, elapsed, start) = (&mut self.rng, self.elapsed, self.start);
        let whole = rng.u8(..6);
        let mut done: Vec<DraftMark> = Vec::new();
        let marks = &batch.marks;
        self.set.conclude(now, batch.id, |path| {
            let choice = if all_done { 0 } else { [0, 0, 1, 2, 3, rng.u8(..4)][usize::from(whole)] };
            match choice {
                0 => {
                    done.extend(marks.iter().find(|mark| mark.path == *path).cloned());
                    Fate::Done
                }
                1 if rng.bool() => Fate::Behind,
                1 => Fate::Again { large: rng.bool() },
                2 => Fate::Split,
                _ => Fate::Retry {
                    not_before: start + elapsed + Duration::from_millis(rng.u64(..20_000)),
                    alone: rng.bool(),
                },
            }
        });
        self.open.retain(|obligation| {
            !obligation.ways.iter().any(|way| done.iter().any(|mark| way.is_done_by(mark, batch.step)))
        });
    }

    fn release(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let index = self.rng.usize(..self.flying.len());
        let batch = &mut self.flying[index];
        let rng = &mut self.rng;
        let leaving: Vec<RelPath> = batch.marks.extract_if(.., |_| rng.u8(..3) == 0).map(|mark| mark.path).collect();
        let id = batch.id;
        let (now, large) = (self.now(), self.rng.bool());
        self.set.release(now, id, &leaving, large);
    }

    fn want(&mut self) -> Want {
        let large = self.rng.u8(..4) == 0;
        let newest = !large && self.rng.u8(..3) == 0;
        Want { large, background: self.rng.bool(), marks_max: 1 + self.rng.usize(..12), newest }
    }

    fn check_next_due(&self) {
        let now = self.now().instant;
        let dues = || self.set.queues.iter().flatten().map(|turn| turn.0);
        let naive = dues().filter(|due| *due > now).min();
        let told = self.set.next_due(now);
        assert!(told.is_none_or(|told| told > now), "seed {}", self.seed);
        if self.set.queues[lane(Priority::Background, false)].first().is_some_and(|turn| turn.0 <= now) {
            // The turn of a background mark that waits begins or ends within its cycle.
            assert!(told.is_some_and(|told| naive.is_none_or(|naive| told <= naive)), "seed {}", self.seed);
            assert!(told.is_some_and(|told| told <= now + BACKGROUND_PATIENCE), "seed {}", self.seed);
        } else {
            assert_eq!(told, naive, "seed {}", self.seed);
        }
    }

    fn random_step(&mut self) {
        self.step += 1;
        match self.rng.u8(..10) {
            0..=4 if self.rng.u8(..5) == 0 => self.rename(),
            0..=4 => self.mark(),
            5..=6 => {
                let want = self.want();
                self.take(want);
            }
            7 => {
                if !self.flying.is_empty() {
                    let index = self.rng.usize(..self.flying.len());
                    self.conclude(index, false);
                }
            }
            8 => match self.rng.u8(..6) {
                0 => self.crash(),
                1 => self.save(false),
                _ => self.release(),
            },
            _ => {
                let span = [1, 100, 1_000, 5_000, 60_000][self.rng.usize(..5)];
                self.elapsed += Duration::from_millis(self.rng.u64(..span));
            }
        }
        self.check_next_due();
    }

    fn finish(&mut self) {
        while !self.flying.is_empty() {
            self.step += 1;
            self.conclude(0, true);
        }
        let bound = 3 * self.set.pending() + 10;
        let quiet_since = self.elapsed;
        let mut takes = 0;
        loop {
            self.step += 1;
            let mut progress = false;
            for large in [false, true] {
                while self.take(Want { large, background: true, marks_max: 7, newest: false }) {
                    progress = true;
                    takes += 1;
                }
            }
            while !self.flying.is_empty() {
                self.step += 1;
                self.conclude(0, true);
            }
            if self.set.is_clean() {
                break;
            }
            assert!(takes <= bound, "seed {}: no end of batches", self.seed);
            if !progress {
                let next = self.set.next_due(self.now().instant);
                self.elapsed = next.expect("what waits becomes due") - self.start;
            }
        }
        assert!(self.open.is_empty(), "seed {}: forgotten: {:#?}", self.seed, self.open);
        assert!(self.elapsed - quiet_since <= Duration::from_secs(40), "seed {}: it took too long", self.seed);
        self.elapsed += Duration::from_secs(120);
        assert!(!self.take(Want { large: false, background: true, marks_max: 1, newest: false }));
        assert_eq!(self.set.remembered(), 0, "seed {}", self.seed);
        assert_eq!((self.set.oldest(), self.set.background()), (None, 0), "seed {}", self.seed);
    }
}

#[test]
fn nothing_is_forgotten_and_everything_becomes_clean_whatever_the_steps() {
    let mut moves = 0;
    for seed in 0..300 {
        let mut simulation = Simulation::new(seed);
        for _step in 0..300 {
            simulation.random_step();
        }
        simulation.finish();
        moves += simulation.moves;
    }
    assert!(moves >= 20, "{moves} moves");
}
