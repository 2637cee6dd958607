//! Tables over the rules of a change set, on a virtual clock.

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The wall clock when a bench begins.
const WALL: i64 = 1_000_000_000_000_000;

const LIVE: Want = Want { large: false, background: false, marks_max: 5_000, newest: false };
const ANY: Want = Want { large: false, background: true, marks_max: 5_000, newest: false };
const LARGE: Want = Want { large: true, background: true, marks_max: 1, newest: false };

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
        let options = ChangeSetOptions { settle: SettleOptions::default(), marks_max, saved: true };
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

#[test]
fn two_marks_of_one_path_become_one_that_asks_for_both() {
    use MarkKind::{Attributes, Listing, Point, Subtree};
    let back = Content::Since(wall_after(Duration::ZERO));
    for older in [Attributes, Point, Listing, Subtree] {
        for newer in [Attributes, Point, Listing, Subtree] {
            for old_content in [Content::Compare, back, Content::Resend] {
                for new_content in [Content::Compare, back, Content::Resend] {
                    for (one, two) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        let priorities = [Priority::Live, Priority::Background];
                        let mut bench = Bench::new();
                        bench.mark(&of(older, "d").content(old_content).priority(priorities[one]));
                        bench.mark(&of(newer, "d").content(new_content).priority(priorities[two]));
                        let expected = ("d".to_owned(), older.max(newer), old_content.join(new_content));
                        assert_eq!(bench.pending(), [expected]);
                        assert_eq!(bench.pending_at("d").unwrap().priority, priorities[one.min(two)]);
                    }
                }
            }
        }
    }
}

#[test]
fn a_mark_above_swallows_exactly_what_it_does_itself() {
    use MarkKind::{Attributes, Listing, Point, Subtree};
    let kinds = [Attributes, Point, Listing, Subtree];
    let early = Content::Since(WallTime(0));
    let late = Content::Since(WallTime(WALL));
    let contents = [Content::Compare, late, early, Content::Resend];
    // Rank by how much of it there is; a write seen now is older than `late`'s look back, and `early` reaches it.
    let does = |above: Content, beneath: Content| match (above, beneath) {
        (Content::Resend, _) | (_, Content::Compare) => true,
        (Content::Compare, _) => false,
        (mine, Content::Resend) => mine == early,
        (mine, theirs) => mine == early || mine == theirs,
    };
    let mut checked = 0;
    for (beneath, direct) in [("d/x", true), ("d/e/x", false)] {
        for above in kinds {
            for below in kinds {
                for above_content in contents {
                    for below_content in contents {
                        for (above_priority, below_priority) in [
                            (Priority::Live, Priority::Live),
                            (Priority::Live, Priority::Background),
                            (Priority::Background, Priority::Live),
                            (Priority::Background, Priority::Background),
                        ] {
                            let reaches = above == Subtree || (above == Listing && direct && below <= Point);
                            let swallows =
                                reaches && does(above_content, below_content) && above_priority <= below_priority;
                            let above = of(above, "d").content(above_content).priority(above_priority);
                            let below = of(below, beneath).content(below_content).priority(below_priority);
                            let expected: &[&str] = if swallows { &["d"] } else { &["d", beneath] };
                            for order in [[&above, &below], [&below, &above]] {
                                let mut bench = Bench::new();
                                bench.mark(order[0]);
                                bench.mark(order[1]);
                                assert_eq!(bench.pending_names(), expected, "{order:?}");
                                checked += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(checked, 2 * 4 * 4 * 4 * 4 * 4 * 2);
}

#[test]
fn a_directory_that_is_gone_swallows_whatever_was_marked_beneath_it() {
    use MarkKind::{Attributes, Listing, Point, Subtree};
    for kind in [Attributes, Point, Listing, Subtree] {
        for content in [Content::Compare, Content::Resend] {
            for text in ["d/x", "d/e/x"] {
                let mut bench = Bench::new();
                bench.mark(&of(kind, text).content(content));
                bench.mark(&point("da"));
                bench.mark(&gone("d"));
                assert_eq!(bench.pending_names(), ["d", "da"], "{kind:?} {text}");
                bench.mark(&of(kind, text));
                assert_eq!(bench.pending_names(), ["d", text, "da"], "what comes later is its own");
            }
        }
    }
    let mut bench = Bench::new();
    bench.mark(&point("d/x"));
    bench.mark(&point("d"));
    assert_eq!(bench.pending_names(), ["d", "d/x"], "a point alone swallows nothing");
}

#[test]
fn a_mark_that_failed_does_not_make_new_ones_wait_with_it() {
    let mut bench = Bench::new();
    bench.mark(&of(MarkKind::Subtree, "d"));
    let draft = bench.take(LIVE).unwrap();
    let not_before = bench.now().instant + 60 * SECOND;
    bench.end(draft.batch, Fate::Retry { not_before, alone: false });
    bench.mark(&point("d/x"));
    assert_eq!(bench.taken(LIVE), ["d/x"]);
    assert_eq!(bench.pending_names(), ["d"]);
}

#[test]
fn what_is_in_flight_keeps_others_off_its_path_above_it_and_beneath_it() {
    use MarkKind::{Attributes, Listing, Point, Subtree};
    let kinds = [Attributes, Point, Listing, Subtree];
    for flying in kinds {
        for other in kinds {
            for (text, waits) in [
                ("d/e", true),
                // Attributes beneath a mark of attributes, and the other way round, touch different names.
                ("d", other != Attributes),
                ("d/e/x", flying != Attributes),
                ("", other != Attributes),
                ("d/e/x/y", flying != Attributes),
                ("d/ea", false),
                ("f", false),
            ] {
                let mut bench = Bench::new();
                bench.mark(&of(flying, "d/e"));
                let draft = bench.take(LIVE).unwrap();
                bench.mark(&of(other, text));
                assert_eq!(bench.take(LIVE).is_none(), waits, "{other:?} at {text:?} beside {flying:?}");
                bench.end(draft.batch, Fate::Done);
                bench.pass(SECOND);
                assert_eq!(bench.take(LIVE).is_some(), waits, "{other:?} at {text:?} after {flying:?}");
            }
        }
    }
}

#[test]
fn an_event_on_a_path_in_flight_is_sent_after_it() {
    let mut bench = Bench::new();
    bench.mark(&point("a").content(Content::Resend));
    let first = bench.take(LIVE).unwrap();
    bench.pass(SECOND);
    bench.mark(&point("a"));
    assert_eq!(bench.take(LIVE), None);
    let tally = bench.end(first.batch, Fate::Done);
    assert_eq!(tally, Tally { done_live: vec![bench.start], done_background: 0, returned: 0, held: vec![] });
    let second = bench.take(LIVE).unwrap();
    assert_eq!(second.marks[0].content, Content::Compare, "the write went with the first");
    bench.end(second.batch, Fate::Again { large: false });
    bench.pass(SECOND);
    bench.mark(&point("a").content(Content::Resend));
    assert_eq!(bench.pending(), [("a".to_owned(), MarkKind::Point, Content::Resend)]);
}

#[test]
fn a_blocked_mark_is_not_overtaken_for_ever_from_beneath() {
    let mut bench = Bench::new();
    bench.mark(&point("d/0"));
    let mut flying = bench.take(LIVE).unwrap();
    bench.mark(&of(MarkKind::Listing, "d"));
    bench.mark(&of(MarkKind::Subtree, "d/e"));
    for number in 1..5 {
        bench.mark(&point(&format!("d/e/x/{number}")));
        assert_eq!(bench.take(LIVE), None, "the listing waits for what is in flight, and nothing passes it");
        bench.pass(MS);
    }
    bench.mark(&point("f"));
    assert_eq!(bench.taken(LIVE), ["f"], "elsewhere things go on");
    bench.end(flying.batch, Fate::Done);
    flying = bench.take(LIVE).unwrap();
    assert_eq!((names(&flying), flying.class), (vec!["d".to_owned()], Class::Listing));
}

#[test]
fn each_fate_says_when_and_where_a_mark_goes_next() {
    let check = |fate: &dyn Fn(Instant) -> Fate, attempts: u32, large: bool, after: Duration| {
        let mut bench = Bench::new();
        bench.mark(&point("a").content(Content::Resend));
        bench.pass(5 * SECOND);
        let draft = bench.take(LIVE).unwrap();
        let fate = fate(bench.now().instant);
        let tally = bench.end(draft.batch, fate);
        assert_eq!((tally.returned, bench.set.batches()), (1, 0));
        let want = if large { LARGE } else { LIVE };
        if after > Duration::ZERO {
            bench.pass(after - MS);
            assert_eq!(bench.take(want), None, "{fate:?}");
            assert_eq!(bench.set.next_due(bench.now().instant), Some(bench.now().instant + MS));
            bench.pass(MS);
        }
        let draft = bench.take(want).unwrap();
        assert_eq!((draft.marks[0].attempts, draft.large), (attempts, large), "{fate:?}");
        assert_eq!(draft.marks[0].content, Content::Resend);
        assert_eq!(bench.set.failures(&path("a")), attempts);
        assert_eq!(bench.end(draft.batch, Fate::Done).done_live, [bench.start], "its age is that of its first event");
    };
    check(&|_| Fate::Again { large: false }, 0, false, Duration::ZERO);
    check(&|_| Fate::Again { large: true }, 0, true, Duration::ZERO);
    check(&|_| Fate::Behind, 0, false, Duration::ZERO);
    check(&|_| Fate::Split, 0, false, Duration::ZERO);
    check(&|now| Fate::Retry { not_before: now + SECOND, alone: false }, 1, false, SECOND);
    check(&|now| Fate::Retry { not_before: now + 600 * SECOND, alone: true }, 1, false, 600 * SECOND);
}

#[test]
fn released_paths_leave_their_batch_and_go_again() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.mark(&point(name));
    }
    bench.pass(SECOND);
    let draft = bench.take(LIVE).unwrap();
    let now = bench.now();
    bench.set.release(now, draft.batch, &[path("a"), path("nowhere")], true);
    bench.set.release(now, draft.batch, &[path("b")], false);
    bench.set.release(now, BatchId(0), &[path("c")], false);
    assert_eq!(bench.set.marks_in(draft.batch), 1);
    assert_eq!(bench.taken(LARGE), ["a"]);
    assert_eq!(bench.taken(LIVE), ["b"]);
    assert_eq!(bench.end(draft.batch, Fate::Done).done_live.len(), 1);
    assert_eq!(bench.end(draft.batch, Fate::Done), Tally::default(), "an unknown batch does nothing");
}

#[test]
fn a_path_that_shall_be_alone_is() {
    let mut bench = Bench::new();
    for name in ["a", "b"] {
        bench.mark(&point(name));
    }
    bench.pass(SECOND);
    let draft = bench.take(Want { marks_max: 1, ..LIVE }).unwrap();
    let not_before = bench.now().instant;
    bench.end(draft.batch, Fate::Retry { not_before, alone: true });
    bench.mark(&point("c"));
    bench.pass(SECOND);
    let mut drafts = [bench.taken(LIVE), bench.taken(LIVE), bench.taken(LIVE)];
    drafts.sort();
    assert_eq!(drafts, [vec![], names(&draft), vec!["b".to_owned(), "c".to_owned()]]);
}

#[test]
fn drafts_hold_one_class_and_one_rule_of_content_for_wide_marks() {
    let mut bench = Bench::new();
    bench.mark(&of(MarkKind::Attributes, "a"));
    bench.mark(&point("b").content(Content::Resend));
    bench.mark(&of(MarkKind::Listing, "c"));
    bench.mark(&of(MarkKind::Listing, "d").content(Content::Resend));
    bench.mark(&of(MarkKind::Subtree, "e"));
    bench.mark(&of(MarkKind::Subtree, "f").content(Content::Since(WallTime(1))));
    bench.mark(&of(MarkKind::Subtree, "g").content(Content::Since(WallTime(2))));
    let mut drafts = Vec::new();
    while let Some(draft) = bench.take(LIVE) {
        drafts.push(names(&draft).join(" "));
    }
    assert_eq!(drafts, ["a b", "c", "d", "e", "f g"]);
}

#[test]
fn live_marks_go_before_background_ones_and_background_only_when_asked_for() {
    let mut bench = Bench::new();
    bench.mark(&point("a").priority(Priority::Background));
    bench.pass(SECOND);
    bench.mark(&point("b"));
    assert_eq!(bench.set.background(), 1);
    assert_eq!(bench.taken(ANY), ["b"]);
    assert_eq!(bench.taken(LIVE), [""; 0]);
    let draft = bench.take(ANY).unwrap();
    assert_eq!((names(&draft), bench.set.background()), (vec!["a".to_owned()], 1));
    assert_eq!(bench.end(draft.batch, Fate::Done).done_background, 1);
    assert_eq!(bench.set.background(), 0);
}

#[test]
fn widening_keeps_the_bound_loses_nothing_and_ends_at_the_root() {
    let check = |marks_max: usize, texts: &[&str], expected: &[(&str, MarkKind)]| {
        let mut bench = Bench::bounded(marks_max);
        for text in texts {
            bench.mark(&point(text).content(Content::Resend));
            bench.pass(SECOND);
        }
        let pending = bench.pending();
        let kinds: Vec<(&str, MarkKind)> = pending.iter().map(|(name, kind, _)| (name.as_str(), *kind)).collect();
        assert_eq!(kinds, expected);
        for (name, kind, content) in &pending {
            if *kind > MarkKind::Point {
                let beneath = |text: &&&str| name == "." || text.starts_with(name.as_str());
                let first = texts.iter().position(|text| beneath(&text)).unwrap();
                assert_eq!(*content, since(SECOND * u32::try_from(first).unwrap()), "{name}");
            }
        }
    };
    use MarkKind::{Listing, Point, Subtree};
    check(4, &["a/1", "a/2", "b/1", "b/2"], &[("a/1", Point), ("a/2", Point), ("b/1", Point), ("b/2", Point)]);
    check(4, &["a/1", "a/2", "b/1", "b/2", "b/3"], &[("a", Listing), ("b", Listing)]);
    check(4, &["a/1", "b/1", "c/x/1", "c/y/1", "d/1"], &[(".", Subtree)]);
    check(4, &["a/1", "a/b/x/1", "a/b/y/1", "a/b/x/z/1", "c/1"], &[("a", Subtree), ("c", Subtree)]);
    check(2, &["a", "b", "c"], &[(".", Listing)]);
    check(1, &["a/x/1", "b/y/2"], &[(".", Subtree)]);
}

/// Two directories with names of the same files, and a small backlog: the listing of the one led to marks on names in the other,
/// which widened to a listing, which led to marks in the first, for ever (simulation, seed 14971 by fanotify).
#[test]
fn what_must_not_spread_does_not_when_it_is_widened_until_there_is_news() {
    let derived = |text| Mark { derived: true, ..point(text).content(Content::Resend) };
    let spreads = |bench: &Bench| bench.set.inspect(&path("a")).pending.map(|mark| !mark.derived);
    let mut bench = Bench::bounded(4);
    for text in ["a/1", "a/2", "b/1", "b/2", "b/3"] {
        bench.mark(&derived(text));
    }
    assert_eq!(spreads(&bench), Some(false), "{:?}", bench.pending());
    bench.mark(&point("a/3").content(Content::Compare));
    assert_eq!(bench.pending().len(), 2, "it is covered: {:?}", bench.pending());
    assert_eq!(spreads(&bench), Some(true));
    let mut bench = Bench::bounded(4);
    for mark in [derived("a/1"), point("a/2"), derived("b/1"), derived("b/2"), derived("b/3")] {
        bench.mark(&mark);
    }
    assert_eq!(spreads(&bench), Some(true), "one of them had news");
}

#[test]
fn a_parent_that_changed_between_two_overlapping_batches_is_marked_again() {
    let check = |change: Option<&Mark>, stale: bool| {
        let mut bench = Bench::new();
        bench.mark(&point("d/e/a"));
        let first = bench.take(LIVE).unwrap();
        if let Some(change) = change {
            bench.mark(change);
        }
        let second = bench.take(LIVE);
        second.map(|second| bench.end(second.batch, Fate::Done));
        bench.end(first.batch, Fate::Done);
        let expected: &[(String, MarkKind, Content)] =
            if stale { &[("d".to_owned(), MarkKind::Attributes, Content::Compare)] } else { &[] };
        assert_eq!(bench.pending(), expected, "{change:?}");
    };
    check(None, false);
    check(Some(&point("d/b")), false);
    check(Some(&Mark { changes_names: true, ..point("d/b") }), true);
    check(Some(&Mark { changes_names: true, ..point("f/b") }), false);
    check(Some(&of(MarkKind::Attributes, "d")), true);
}

/// A directory whose times were to be sent became a listing for the files in it; then the directory above became a
/// listing for it and its neighbours, and took the new listing for the mark of its times that had been there before.
#[test]
fn a_directory_that_became_a_listing_stays_one_when_its_parent_becomes_one() {
    // Places are handed out again the other way round, so that the inner directory comes first.
    let mut bench = Bench::bounded(5);
    bench.mark(&point("p"));
    bench.mark(&point("q"));
    bench.settle();
    bench.pass(SECOND);
    bench.mark(&of(MarkKind::Attributes, "b/d"));
    for name in ["b/d/x", "b/d/y", "b/x", "b/y", "b/z"] {
        bench.mark(&point(name));
    }
    let kinds: Vec<_> = bench.pending().into_iter().map(|(name, kind, _)| (name, kind)).collect();
    assert_eq!(kinds, [("b".to_owned(), MarkKind::Listing), ("b/d".to_owned(), MarkKind::Listing)]);
}

#[test]
fn a_path_goes_at_once_then_waits_for_quiet_and_is_forgotten_when_cool() {
    let mut bench = Bench::new();
    bench.mark(&point("d/a"));
    let draft = bench.take(LIVE).unwrap();
    bench.end(draft.batch, Fate::Done);
    assert_eq!((bench.set.is_clean(), bench.set.remembered()), (true, 2), "its heat is remembered");
    bench.pass(50 * MS);
    bench.mark(&point("d/a"));
    assert_eq!(bench.take(LIVE), None);
    assert_eq!(bench.set.next_due(bench.now().instant), Some(bench.now().instant + 200 * MS));
    bench.pass(200 * MS);
    let draft = bench.take(LIVE).unwrap();
    bench.end(draft.batch, Fate::Done);
    bench.mark(&point("e").stage(Stage::Writing));
    bench.pass(2 * SECOND);
    bench.settle();
    bench.pass(60 * SECOND);
    assert_eq!(bench.take(ANY), None);
    assert_eq!(bench.set.remembered(), 0);
}

#[test]
fn small_files_pass_a_listing_that_waits_for_a_large_one_and_large_ones_do_not() {
    // A listing waited for a large file in its directory, an hour perhaps, and kept all small files in it waiting too.
    let mut bench = Bench::new();
    let large = |text: &str| Mark { large: true, ..point(text) };
    bench.mark(&large("d/big"));
    let hours = bench.take(LARGE).unwrap();
    bench.mark(&point("d/old"));
    bench.mark(&of(MarkKind::Listing, "d"));
    let old = bench.take(LIVE).unwrap();
    assert_eq!(names(&old), ["d/old"], "nor does it swallow what could pass");
    bench.end(old.batch, Fate::Done);
    for number in 0..3 {
        bench.pass(SECOND);
        bench.mark(&point(&format!("d/{number}")));
        let draft = bench.take(LIVE).expect("a small file passes");
        bench.end(draft.batch, Fate::Done);
    }
    bench.mark(&large("d/big2"));
    bench.mark(&large("e/big3"));
    let other = bench.take(LARGE).unwrap();
    assert_eq!(names(&other), ["e/big3"], "d/big2 would keep the listing waiting for ever");
    bench.end(hours.batch, Fate::Done);
    assert_eq!(bench.taken(LIVE), ["d"]);
    bench.mark(&point("d/9"));
    assert_eq!(bench.take(LIVE), None);
}

#[test]
fn steady_live_changes_hold_a_background_mark_up_for_a_while_but_not_for_ever() {
    let mut bench = Bench::new();
    bench.mark(&of(MarkKind::Subtree, "d").priority(Priority::Background));
    let mut sent_at = None;
    // Two live batches overlap without a gap, each beneath the background mark.
    bench.mark(&point("d/0"));
    let mut flying = bench.take(LIVE);
    for step in 1..200_u32 {
        bench.pass(SECOND / 10);
        bench.mark(&point(&format!("d/{step}")));
        let next = bench.take(LIVE);
        if let Some(draft) = flying.take() {
            bench.end(draft.batch, Fate::Done);
        }
        flying = next;
        if flying.is_none() {
            flying = bench.take(ANY);
        }
        if flying.as_ref().is_some_and(|draft| draft.class == Class::Subtree) {
            sent_at = Some(step);
            break;
        }
    }
    let sent_at = sent_at.expect("the background mark is sent under steady load");
    assert!((100..=103).contains(&sent_at), "after about 10 s: step {sent_at}");
}

/// What a checkpoint was told of a mark is taken back although the memory of all marks was given back in between.
#[test]
fn memory_that_was_given_back_is_not_asked_of_what_was_in_it() {
    let mut bench = Bench::bounded(100_000);
    for number in 0..5_000 {
        bench.mark(&point(&format!("d{}/f{number}", number % 100)));
    }
    bench.pass(60 * SECOND);
    let told = bench.set.unsaved(bench.now(), false);
    assert_eq!(told.iter().filter(|(_, mark)| mark.is_some()).count(), 5_000);
    while let Some(draft) = bench.take(LIVE) {
        let now = bench.now();
        bench.set.conclude(now, draft.batch, |_| Fate::Done);
    }
    assert!(bench.set.remembered() > 0, "how often a path changes is remembered for a while");
    bench.pass(3_600 * SECOND);
    let now = bench.now();
    bench.set.give_back(now.instant);
    assert_eq!(bench.set.remembered(), 0);
    bench.mark(&point("another"));
    let told = bench.set.unsaved(now, false);
    assert_eq!(told.iter().filter(|(_, mark)| mark.is_none()).count(), 5_000);
    assert_eq!(told.len(), 5_001);
}

#[test]
fn what_became_due_last_can_go_first() {
    let mut bench = Bench::new();
    for name in ["d/a", "d/b", "d/c"] {
        bench.mark(&point(name));
        bench.pass(Duration::from_millis(1));
    }
    let newest = Want { marks_max: 1, newest: true, ..LIVE };
    let first = bench.take(newest).unwrap();
    assert_eq!(first.marks[0].path, path("d/c"));
    // A listing that waits for a batch in flight is not overtaken by what lies beneath it.
    bench.mark(&Mark::new(path("d"), MarkKind::Listing));
    bench.pass(Duration::from_millis(1));
    bench.mark(&point("d/e"));
    assert!(bench.take(newest).is_none(), "they are in the listing's directory");
}

/// What is renamed is a move only where the target is known to have all of it under the old name, and nothing under the new.
struct Renames(Bench);

impl Renames {
    fn new() -> Self {
        let mut bench = Bench::new();
        bench.pass(10 * SECOND);
        Self(bench)
    }

    fn leaves(name: &str) -> Mark {
        let mut mark = Mark { changes_names: true, departs: true, ..gone(name) };
        mark.content = Content::Compare;
        mark
    }

    fn arrives(&self, name: &str, origin: &str) -> Mark {
        let mut mark = Mark::new(path(name), MarkKind::Subtree).content(Content::Resend);
        mark.origin = Some(Box::new(super::super::mark::Origin { path: path(origin), since: self.0.now().instant }));
        mark
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.0.pass(MS);
        self.0.mark(&Self::leaves(from));
        let mark = self.arrives(to, from);
        self.0.mark(&mark);
    }

    /// New and old names of the moves that wait.
    fn moves(&self) -> Vec<(String, String)> {
        let name = |node| self.0.set.trie.path(node).to_string();
        self.0.set.moves.iter().map(|each| (name(each.new), name(each.old))).collect()
    }
}

#[test]
fn a_rename_is_a_move_only_where_nothing_else_is_known_of_both_names() {
    let check = |before: &[Mark], expected: bool| {
        let mut renames = Renames::new();
        before.iter().for_each(|mark| renames.0.mark(mark));
        renames.rename("d/old", "e/new");
        assert_eq!(renames.moves().len(), usize::from(expected), "{before:?}");
    };
    let of = |kind, name: &str| of(kind, name).content(Content::Resend);
    use MarkKind::{Attributes, Listing, Point, Subtree};
    check(&[], true);
    check(&[of(Point, "d/other"), of(Subtree, "e/other"), of(Point, "x")], true);
    check(&[of(Attributes, "d"), of(Attributes, "e"), of(Attributes, "d/old"), of(Attributes, "")], true);
    for (kind, name) in [
        (Point, "d/old"),
        (Point, "d/old/x"),
        (Attributes, "d/old/x"),
        (Listing, "d/old"),
        (Point, "d"),
        (Listing, "d"),
        (Subtree, "d"),
        (Subtree, ""),
        (Point, "e/new"),
        (Point, "e/new/x"),
        (Listing, "e"),
        (Subtree, "e"),
        (Point, "e"),
    ] {
        check(&[of(kind, name)], false);
        check(&[of(kind, name).priority(Priority::Background)], false);
    }
}

#[test]
fn what_is_under_way_or_ended_since_the_rename_is_no_basis() {
    let check = |name: &str, end: bool, expected: bool| {
        let mut renames = Renames::new();
        renames.0.mark(&point(name));
        let draft = renames.0.take(LIVE).unwrap();
        let mut mark = renames.arrives("new", "old");
        if end {
            renames.0.end(draft.batch, Fate::Done);
        }
        renames.0.pass(MS);
        renames.0.mark(&Renames::leaves("old"));
        if expected {
            mark = renames.arrives("new", "old");
        }
        renames.0.mark(&mark);
        assert_eq!(renames.moves().len(), usize::from(expected), "{name} {end}");
    };
    for name in ["old", "old/x", "new", "new/x"] {
        check(name, false, false);
        check(name, true, false);
        // The queue was empty after it had ended.
        check(name, true, true);
    }
    check("other", false, true);
}

#[test]
fn a_move_is_taken_alone_and_the_old_name_goes_after_it() {
    let mut renames = Renames::new();
    renames.rename("old", "new");
    let bench = &mut renames.0;
    bench.mark(&point("other"));
    // What is written beneath it has a mark of its own.
    bench.mark(&point("new/x").content(Content::Resend));
    assert_eq!(bench.pending_names(), ["new", "new/x", "old", "other"]);
    let moving = bench.take(LIVE).unwrap();
    assert_eq!(names(&moving), ["new"]);
    assert_eq!((moving.marks[0].content, moving.marks[0].origin.clone()), (Content::Compare, Some(path("old"))));
    let other = bench.take(LIVE).unwrap();
    assert_eq!(names(&other), ["other"]);
    bench.end(other.batch, Fate::Done);
    // What comes under the old name meanwhile waits.
    bench.mark(&point("old/y"));
    assert_eq!(bench.taken(LIVE), [""; 0]);
    bench.set.moved(moving.batch, 7);
    bench.end(moving.batch, Fate::Done);
    let pending = bench.pending_at("old").unwrap();
    assert_eq!((pending.deletes, pending.content, pending.least), (Deletes::Unknown, Content::Resend, Content::Resend));
    bench.settle();
}

#[test]
fn the_delete_of_what_was_moved_is_known_and_goes_in_a_draft_of_its_own() {
    let mut renames = Renames::new();
    renames.rename("old", "new");
    let bench = &mut renames.0;
    let moving = bench.take(LIVE).unwrap();
    bench.set.moved(moving.batch, 7);
    bench.end(moving.batch, Fate::Done);
    bench.mark(&point("other"));
    let draft = bench.take(LIVE).unwrap();
    assert_eq!(draft.marks.iter().map(|mark| mark.deletes).collect::<Vec<_>>(), [Deletes::Moved(7)]);
    assert_eq!(bench.taken(LIVE), ["other"]);
}

#[test]
fn a_move_that_did_not_go_well_is_sent_and_its_old_name_is_free() {
    for fate in [Fate::Again { large: false }, Fate::Split, Fate::Held, Fate::Done] {
        let mut renames = Renames::new();
        renames.rename("old", "new");
        let bench = &mut renames.0;
        let moving = bench.take(LIVE).unwrap();
        // Nobody says that anything was moved.
        bench.end(moving.batch, fate);
        assert_eq!(bench.pending_at("old").unwrap().deletes, Deletes::Unknown, "{fate:?}");
        if let Some(pending) = bench.pending_at("new") {
            assert_eq!(pending.content, Content::Resend, "{fate:?}");
        }
        let draft = bench.take(LIVE).unwrap();
        assert!(draft.marks.iter().all(|mark| mark.origin.is_none()), "{fate:?}");
        bench.end(draft.batch, Fate::Done);
        bench.settle();
    }
}

#[test]
fn whatever_touches_a_name_of_a_move_ends_it_and_what_is_beneath_the_new_one_does_not() {
    let check = |mark: Mark, stays: bool| {
        let mut renames = Renames::new();
        renames.rename("d/old", "e/new");
        renames.0.mark(&mark);
        assert_eq!(renames.moves().len(), usize::from(stays), "{mark:?}");
        let pending = renames.0.pending_at("e/new");
        if stays {
            assert_eq!(pending.unwrap().role, Role::Moved, "{mark:?}");
        } else {
            // It asks for all that it would have asked for, and so does whatever took it in.
            assert!(pending.is_none_or(|pending| pending.content == Content::Resend), "{mark:?}");
            assert!(renames.0.pending_at("d/old").is_none_or(|pending| pending.role == Role::None), "{mark:?}");
        }
        renames.0.settle();
    };
    let resent = |kind, name: &str| of(kind, name).content(Content::Resend);
    use MarkKind::{Attributes, Listing, Point, Subtree};
    for name in ["e/new/x", "e/new/x/y", "d/other", "x"] {
        for kind in [Attributes, Point, Listing, Subtree] {
            check(resent(kind, name), true);
        }
    }
    for name in ["", "d", "e", "e/new"] {
        check(resent(Attributes, name), true);
    }
    check(gone("e/new/x"), true);
    for (kind, name) in [
        (Attributes, "d/old"),
        (Point, "d/old"),
        (Point, "d/old/x"),
        (Attributes, "d/old/x"),
        (Subtree, "d/old"),
        (Point, "d"),
        (Listing, "d"),
        (Subtree, ""),
        (Point, "e/new"),
        (Subtree, "e/new"),
        (Listing, "e"),
        (Point, "e"),
    ] {
        check(resent(kind, name), false);
    }
    check(gone("e/new"), false);
}

#[test]
fn chains_and_exchanges_are_sent() {
    let mut renames = Renames::new();
    renames.rename("a", "b");
    renames.rename("b", "c");
    assert!(renames.moves().is_empty());
    renames.0.settle();
    renames.0.pass(SECOND);
    renames.rename("x", "y");
    renames.rename("y", "x");
    assert!(renames.moves().is_empty());
    renames.0.settle();
    renames.0.pass(SECOND);
    // Apart from each other, each is one.
    renames.rename("p", "q");
    renames.rename("r", "s/t");
    assert_eq!(renames.moves().len(), 2);
    renames.0.settle();
}

#[test]
fn a_delete_waits_a_moment_for_where_its_directory_went_and_no_longer() {
    let mut renames = Renames::new();
    renames.0.mark(&Renames::leaves("old"));
    assert_eq!(renames.0.taken(LIVE), [""; 0]);
    renames.0.pass(DEPARTED_WAIT);
    assert_eq!(renames.0.taken(LIVE), ["old"]);
}
