//! Tables over the rules of a change set, on a virtual clock.

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The wall clock when a bench begins.
const WALL: i64 = 1_000_000_000_000_000;

const LIVE: Want = Want { large: false, background: false, marks_max: 5_000 };
const ANY: Want = Want { large: false, background: true, marks_max: 5_000 };
const LARGE: Want = Want { large: true, background: true, marks_max: 1 };

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn wall_after(elapsed: Duration) -> WallTime {
    WallTime(WALL + i64::try_from(elapsed.as_nanos()).unwrap())
}

/// `Since` as a write at `elapsed` after the start asks for it.
fn since(elapsed: Duration) -> Content {
    Content::Since(wall_after(elapsed).minus(CTIME_SLACK))
}

fn point(text: &str) -> Mark {
    let mut mark = Mark::new(path(text), MarkKind::Point);
    // Most rules have nothing to do with the root's own times.
    mark.changes_names = false;
    mark
}

fn of(kind: MarkKind, text: &str) -> Mark {
    Mark { kind, ..point(text) }
}

fn gone(text: &str) -> Mark {
    Mark { gone_directory: true, ..point(text) }
}

/// A change set and its clock.
struct Bench {
    set: ChangeSet,
    start: Instant,
    elapsed: Duration,
}

impl Bench {
    fn new() -> Self {
        Self::bounded(1_000)
    }

    fn bounded(marks_max: usize) -> Self {
        let options = ChangeSetOptions { settle: SettleOptions::default(), marks_max };
        Self { set: ChangeSet::new(options), start: crate::sys::clock::now(), elapsed: Duration::ZERO }
    }

    fn now(&self) -> Now {
        Now { instant: self.start + self.elapsed, wall: wall_after(self.elapsed) }
    }

    fn pass(&mut self, span: Duration) {
        self.elapsed += span;
    }

    fn mark(&mut self, mark: &Mark) {
        let now = self.now();
        self.set.mark(now, mark);
    }

    fn take(&mut self, want: Want) -> Option<Draft> {
        let now = self.now();
        self.set.take(now.instant, want)
    }

    /// Takes a draft and says what is in it.
    fn taken(&mut self, want: Want) -> Vec<String> {
        self.take(want).map_or(Vec::new(), |draft| names(&draft))
    }

    fn end(&mut self, batch: BatchId, fate: Fate) -> Tally {
        let now = self.now();
        self.set.conclude(now, batch, |_| fate)
    }

    fn pending_at(&self, text: &str) -> Option<Pending> {
        let node = self.set.trie.find(&path(text))?;
        self.set.trie.value(node).pending.clone()
    }

    /// Paths, kinds and content of what waits, in order.
    fn pending(&self) -> Vec<(String, MarkKind, Content)> {
        let mut all: Vec<_> = (self.set.queues.iter().flatten())
            .map(|turn| {
                let pending = self.set.trie.value(turn.2).pending.as_ref().unwrap();
                (self.set.trie.path(turn.2).to_string(), pending.kind, pending.content)
            })
            .collect();
        all.sort_by(|one: &(String, _, _), two| one.0.cmp(&two.0));
        all
    }

    fn pending_names(&self) -> Vec<String> {
        self.pending().into_iter().map(|(name, _, _)| name).collect()
    }

    /// Sends everything until nothing waits.
    fn settle(&mut self) {
        for _step in 0..1_000 {
            while let Some(draft) = self.take(ANY).or_else(|| self.take(LARGE)) {
                self.end(draft.batch, Fate::Done);
            }
            if self.set.is_clean() {
                return;
            }
            let next = self.set.next_due(self.now().instant).expect("what waits becomes due");
            self.elapsed = next - self.start;
        }
        panic!("never clean: {:?}", self.pending());
    }
}

fn names(draft: &Draft) -> Vec<String> {
    draft.marks.iter().map(|mark| mark.path.to_string()).collect()
}

#[test]
fn attributes_in_flight_that_a_later_change_made_stale_are_marked_again() {
    // Batch A read the directory's times at its start. A name in it changed and went with batch B, new times of the
    // directory included; then A, the slower one, wrote the old times. Nobody marked the directory again.
    let mut bench = Bench::new();
    bench.mark(&of(MarkKind::Attributes, "d"));
    let slow = bench.take(LIVE).unwrap();
    bench.mark(&Mark { changes_names: true, ..point("d/x") });
    let fast = bench.take(LIVE).unwrap();
    assert_eq!(names(&fast), ["d/x"]);
    bench.end(fast.batch, Fate::Done);
    bench.end(slow.batch, Fate::Done);
    assert_eq!(bench.pending(), [("d".to_owned(), MarkKind::Attributes, Content::Compare)]);
}

#[test]
fn a_delete_waits_for_attributes_in_flight_beneath_it() {
    // rsync makes a directory that is an entry of its list. With Attributes(d/e) under way, the delete of d ran beside
    // it and was acknowledged; then the first rsync made d and d/e again, and nothing was left to remove them.
    let check = |above: &Mark, waits: bool| {
        let mut bench = Bench::new();
        bench.mark(&of(MarkKind::Attributes, "d/e"));
        let attributes = bench.take(LIVE).unwrap();
        bench.mark(above);
        assert_eq!(bench.take(LIVE).is_none(), waits, "{above:?}");
        bench.end(attributes.batch, Fate::Done);
        assert_eq!(bench.take(LIVE).is_some(), waits, "{above:?}");
    };
    check(&gone("d"), true);
    check(&of(MarkKind::Listing, "d"), true);
    check(&of(MarkKind::Subtree, "d"), true);
    check(&of(MarkKind::Attributes, "d"), false);
}

#[test]
fn a_lazy_mark_lends_no_urgency_and_takes_none() {
    // A new name in the root marks the root's own times, live but lazy. At a cold start the root's subtree waits in
    // the background: merged, all of it became live and went before the changes that a user waits for.
    let subtree = of(MarkKind::Subtree, "").priority(Priority::Background);
    let lazy = of(MarkKind::Attributes, "").stage(Stage::Lazy);
    let chmod = of(MarkKind::Attributes, "").stage(Stage::Unchanged);
    let check = |older: &Mark, newer: &Mark, expected: Priority| {
        let mut bench = Bench::new();
        bench.mark(older);
        bench.mark(newer);
        assert_eq!(bench.pending_at("").unwrap().priority, expected, "{older:?} then {newer:?}");
    };
    check(&subtree, &lazy, Priority::Background);
    check(&lazy, &subtree, Priority::Background);
    check(&subtree, &chmod, Priority::Live);
    check(&chmod, &subtree, Priority::Live);
    check(&lazy, &lazy, Priority::Live);
    check(&lazy, &chmod, Priority::Live);

    let check_returned = |older: &Mark, newer: &Mark, expected: Priority| {
        let mut bench = Bench::new();
        bench.mark(older);
        bench.pass(5 * SECOND);
        let draft = bench.take(ANY).unwrap();
        bench.mark(newer);
        bench.end(draft.batch, Fate::Again { large: false });
        assert_eq!(bench.pending_at("").unwrap().priority, expected, "{older:?} back, {newer:?} meanwhile");
    };
    check_returned(&subtree, &lazy, Priority::Background);
    check_returned(&lazy, &subtree, Priority::Background);
    check_returned(&subtree, &chmod, Priority::Live);
    check_returned(&chmod, &subtree, Priority::Live);
}

#[test]
fn a_wider_mark_swallows_a_write_only_when_it_looks_back_past_it() {
    // A write waited for a paused target. Ten minutes later a wider mark asked for what changed in the last minute and
    // swallowed it: the file's ctime was older than that, so its new content under the old mtime was never sent.
    let check = |looks_back: Duration, swallowed: bool| {
        let written = 600 * SECOND;
        let marked = written + 600 * SECOND;
        let wide = of(MarkKind::Subtree, "d").content(Content::Since(wall_after(marked).minus(looks_back)));
        let write = point("d/x").content(Content::Resend);
        let expected: &[&str] = if swallowed { &["d"] } else { &["d", "d/x"] };

        let mut bench = Bench::new();
        bench.pass(written);
        bench.mark(&write);
        bench.pass(marked - written);
        bench.mark(&wide);
        assert_eq!(bench.pending_names(), expected, "the wider mark comes later, {looks_back:?}");

        let mut bench = Bench::new();
        bench.pass(written);
        bench.mark(&write);
        let draft = bench.take(LIVE).unwrap();
        bench.pass(marked - written);
        bench.mark(&wide);
        bench.end(draft.batch, Fate::Again { large: false });
        assert_eq!(bench.pending_names(), expected, "the write comes back, {looks_back:?}");

        let mut bench = Bench::new();
        bench.pass(marked);
        bench.mark(&wide);
        bench.mark(&write);
        let expected: &[&str] = if looks_back >= CTIME_SLACK { &["d"] } else { &["d", "d/x"] };
        assert_eq!(bench.pending_names(), expected, "the write comes later, {looks_back:?}");
    };
    check(60 * SECOND, false);
    check(600 * SECOND, false);
    check(719 * SECOND, false);
    check(720 * SECOND, true);
    check(9_000 * SECOND, true);
}

#[test]
fn a_mark_that_tells_nothing_new_does_not_hasten_a_retry() {
    // Two names of one unreadable inode: each look at one marked the other, each such mark took away the other's pause,
    // and both were tried several times a second for ever.
    let check = |newer: &Mark, meanwhile: bool, hastens: bool| {
        let mut bench = Bench::new();
        bench.mark(&of(newer.kind, "a"));
        bench.pass(5 * SECOND);
        let draft = bench.take(LIVE).unwrap();
        let not_before = bench.now().instant + 600 * SECOND;
        let fate = Fate::Retry { not_before, alone: false };
        if meanwhile {
            bench.mark(newer);
            bench.end(draft.batch, fate);
        } else {
            bench.end(draft.batch, fate);
            bench.mark(newer);
        }
        bench.pass(300 * SECOND);
        assert_eq!(!bench.taken(LIVE).is_empty(), hastens, "{newer:?}, while in flight: {meanwhile}");
        bench.pass(300 * SECOND);
        assert_eq!(!bench.taken(LIVE).is_empty(), !hastens, "it is retried in the end");
    };
    for meanwhile in [false, true] {
        check(&point("a"), meanwhile, true);
        check(&Mark { derived: true, ..point("a") }, meanwhile, false);
        check(&of(MarkKind::Attributes, "a").stage(Stage::Unchanged), meanwhile, true);
        check(&of(MarkKind::Attributes, "a").stage(Stage::Lazy), meanwhile, false);
    }
}

#[test]
fn a_name_marked_from_another_is_as_old_as_the_write_that_a_batch_brought_it_from() {
    // The batch waited ten minutes. A wider mark that takes the other name in must look back to the write itself.
    let mut bench = Bench::bounded(4);
    bench.mark(&point("d/a").content(Content::Resend));
    bench.pass(600 * SECOND);
    let draft = bench.take(LIVE).unwrap();
    bench.mark(&Mark { derived: true, ..point("e/b") }.content(Content::Resend));
    assert_eq!(bench.set.oldest(), Some(bench.start));
    bench.end(draft.batch, Fate::Done);
    for name in ["e/c", "e/d", "e/e", "e/f"] {
        bench.mark(&point(name));
    }
    assert_eq!(bench.pending(), [("e".to_owned(), MarkKind::Listing, since(Duration::ZERO))]);
}

#[test]
fn a_failing_batch_is_halved_until_its_poison_is_alone_whatever_else_goes_well() {
    // One limit for all batches was halved by each failure and doubled by each success: with another lane doing well
    // the batch with the poison in it never became small, and its oldest marks were sent and lost again for ever.
    let mut bench = Bench::new();
    for number in 0..100 {
        bench.mark(&point(&format!("a/{number}")));
    }
    let mut failures = 0;
    let mut others = 0;
    while bench.set.pending() > 0 {
        let Some(draft) = bench.take(LIVE) else { break };
        others += 1;
        bench.mark(&point(&format!("b/{others}")));
        let poisoned = names(&draft).contains(&"a/42".to_owned());
        let not_before = bench.now().instant + 600 * SECOND;
        let fate = match (poisoned, draft.marks.len()) {
            (false, _) => Fate::Done,
            (true, 1) => Fate::Retry { not_before, alone: true },
            (true, _) => Fate::Split,
        };
        failures += usize::from(poisoned);
        bench.end(draft.batch, fate);
        bench.pass(SECOND);
        assert!(failures < 10, "{:?}", names(&draft));
        if others > 30 {
            break;
        }
    }
    assert!(bench.pending_names().iter().filter(|name| name.starts_with("a/")).eq(["a/42"]));
}

#[test]
fn marks_that_are_acquitted_go_in_large_batches_again() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c", "d"] {
        bench.mark(&point(name));
    }
    let draft = bench.take(LIVE).unwrap();
    assert_eq!(bench.set.marks_in(draft.batch), 4);
    bench.end(draft.batch, Fate::Split);
    bench.pass(SECOND);
    let draft = bench.take(LIVE).unwrap();
    assert_eq!(draft.marks.len(), 2);
    bench.end(draft.batch, Fate::Again { large: false });
    bench.set.acquit();
    bench.pass(SECOND);
    assert_eq!(bench.take(LIVE).unwrap().marks.len(), 4);
}
