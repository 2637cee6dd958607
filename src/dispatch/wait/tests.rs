//! Waits on a virtual clock.

use std::time::Duration;

use super::*;
use crate::change::{ChangeSetOptions, Mark, MarkKind, Now, Priority, SettleOptions, Stage as MarkStage};
use crate::dispatch::{Action, Conclusion, FailedMark, Order, Outcome, Report, TargetOptions, Why};
use crate::sys::clock::WallTime;

const MS: Duration = Duration::from_millis(1);

struct Bench {
    dispatcher: Dispatcher,
    waits: Waits,
    heard: Heard,
    asked: u64,
    told: u64,
    start: Instant,
    elapsed: Duration,
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn point(text: &str) -> Mark {
    let mut mark = Mark::new(path(text), MarkKind::Point);
    mark.changes_names = false;
    mark
}

impl Bench {
    fn new(targets: usize) -> Self {
        let changes = ChangeSetOptions { settle: SettleOptions::default(), marks_max: 1_000, saved: false };
        let options = vec![TargetOptions { lanes: 1, changes }; targets];
        Self {
            dispatcher: Dispatcher::new(&options, 7),
            waits: Waits::default(),
            heard: Heard::default(),
            asked: 0,
            told: 0,
            start: crate::sys::clock::now(),
            elapsed: Duration::ZERO,
        }
    }

    fn now(&self) -> Now {
        let nanos = i64::try_from(self.elapsed.as_nanos()).unwrap();
        Now { instant: self.start + self.elapsed, wall: WallTime(nanos + 1_000_000_000_000) }
    }

    fn mark(&mut self, marks: &[Mark]) {
        self.elapsed += MS;
        self.dispatcher.on_marks(self.now(), marks);
    }

    fn wait(&mut self, ticket: u64, target: Option<u16>) {
        let asked = &mut self.asked;
        self.waits.begin(ticket, target.map(TargetId), &mut || {
            *asked += 1;
            *asked
        });
    }

    /// A turn in which nothing was told.
    fn turn(&mut self) -> Vec<u64> {
        let heard = self.heard;
        self.turn_with(heard)
    }

    /// A turn at whose end `after` was heard.
    fn turn_with(&mut self, after: Heard) -> Vec<u64> {
        self.elapsed += MS;
        let (now, asked, before) = (self.now().instant, &mut self.asked, self.heard);
        self.heard = after;
        self.waits.on_turn(now, self.told, (&before, &after), &mut self.dispatcher, &mut || {
            *asked += 1;
            *asked
        })
    }

    /// All shards tell all rounds; through both of them.
    fn tell(&mut self) -> Vec<u64> {
        self.told = self.asked;
        let through = self.turn();
        assert!(through.is_empty(), "there is a second round: {through:?}");
        self.told = self.asked;
        self.turn()
    }

    fn take(&mut self) -> Vec<Action> {
        self.elapsed += MS;
        self.dispatcher.on_tick(self.now().instant)
    }

    fn conclude(&mut self, action: &Action, failed: &[&str]) {
        let Order::Send { draft, .. } = &action.order else { panic!("{action:?}") };
        let refused = |text: &&str| FailedMark { path: path(text), why: Why::Refused, words: "denied".to_owned() };
        let outcome = Outcome::Done(failed.iter().map(refused).collect());
        let conclusion = Conclusion { outcome, trouble: None, directories: 0, moved: None };
        let report = Report::Concluded { batch: draft.batch, conclusion };
        self.dispatcher.on_report(self.now(), action.target, action.lane, report);
    }

    fn see(&mut self, action: &Action, marks: Vec<Mark>) {
        let Order::Send { draft, .. } = &action.order else { panic!("{action:?}") };
        let report = Report::Seen { batch: draft.batch, marks, large: Vec::new(), later: Vec::new() };
        self.dispatcher.on_report(self.now(), action.target, action.lane, report);
    }

    fn missing(&mut self, ticket: u64) -> Vec<Missing> {
        self.waits.give_up(ticket, &self.dispatcher).unwrap()
    }
}

#[test]
fn nothing_is_through_before_all_shards_have_told_twice() {
    let mut bench = Bench::new(1);
    bench.wait(1, None);
    assert!(bench.turn().is_empty() && bench.waits.listens());
    bench.told = 1;
    assert!(bench.turn().is_empty());
    assert_eq!(bench.asked, 2);
    assert!(bench.turn().is_empty());
    bench.told = 2;
    assert_eq!(bench.turn(), [1]);
    assert!(bench.waits.is_empty());
    bench.wait(2, None);
    assert_eq!(bench.missing(2)[0].target, None);
    assert!(bench.waits.give_up(2, &bench.dispatcher).is_none(), "it ended");
}

#[test]
fn marks_of_before_are_waited_for_and_later_ones_are_not() {
    let mut bench = Bench::new(2);
    bench.mark(&[point("a"), point("b")]);
    bench.wait(1, None);
    bench.wait(2, Some(1));
    assert!(bench.tell().is_empty());
    bench.mark(&[point("later")]);
    let actions = bench.take();
    assert_eq!(actions.len(), 2);
    bench.conclude(&actions[1], &[]);
    assert_eq!(bench.turn(), [2], "the other target is nothing to it");
    bench.conclude(&actions[0], &["b"]);
    for _turn in 0..20 {
        assert!(bench.turn().is_empty(), "a failed path is not there");
    }
    let missing = bench.missing(1);
    assert_eq!((missing.len(), missing[0].target, missing[0].marks), (1, Some(TargetId(0)), 1));
    assert_eq!(missing[0].first, [path("b")]);
    assert!(missing[0].words.contains("b: denied"), "{missing:?}");
}

/// A cold start: the root's mark is split again and again, and each part must be waited for.
#[test]
fn the_parts_of_a_mark_are_as_old_as_the_whole() {
    let mut bench = Bench::new(1);
    let subtree = |text: &str| Mark::new(path(text), MarkKind::Subtree).priority(Priority::Background);
    bench.mark(&[subtree("")]);
    bench.wait(1, None);
    assert!(bench.tell().is_empty());
    let actions = bench.take();
    bench.see(&actions[0], vec![subtree("a"), subtree("b")]);
    bench.conclude(&actions[0], &[]);
    assert!(bench.turn().is_empty());
    let actions = bench.take();
    assert_eq!(actions.len(), 1);
    bench.conclude(&actions[0], &[]);
    assert_eq!(bench.turn(), [1]);
}

#[test]
fn a_lazy_mark_is_due_at_once_when_somebody_waits() {
    let mut bench = Bench::new(1);
    bench.mark(&[Mark::new(path("d"), MarkKind::Attributes).stage(MarkStage::Lazy)]);
    assert!(bench.take().is_empty());
    bench.wait(1, None);
    assert!(bench.tell().is_empty());
    let actions = bench.take();
    assert_eq!(actions.len(), 1);
    bench.conclude(&actions[0], &[]);
    assert_eq!(bench.turn(), [1]);
}

#[test]
fn a_file_that_is_still_written_is_waited_for() {
    let mut bench = Bench::new(1);
    bench.mark(&[point("open").stage(MarkStage::Writing)]);
    bench.wait(1, None);
    assert!(bench.tell().is_empty());
    assert!(bench.take().is_empty());
    assert!(bench.turn().is_empty());
    bench.elapsed += Duration::from_secs(3);
    let actions = bench.take();
    bench.conclude(&actions[0], &[]);
    assert_eq!(bench.turn(), [1]);
}

/// A file was written under one name and that name was deleted: the lane of the first target that looks is told of the
/// other name, and until it reports, nobody else knows that the content under it changed.
#[test]
fn names_that_another_target_was_told_of_are_waited_for() {
    let mut bench = Bench::new(2);
    bench.mark(&[point("a")]);
    bench.wait(1, Some(1));
    assert!(bench.tell().is_empty());
    let actions = bench.take();
    bench.conclude(&actions[1], &[]);
    // The other lane still looks.
    assert!(bench.turn_with(Heard { looks_begun: 2, looks_told: 1, ..Heard::default() }).is_empty());
    assert!(bench.turn().is_empty() && bench.waits.listens());
    let mut other = point("b");
    other.derived = true;
    bench.see(&actions[0], vec![other]);
    // A third look has begun meanwhile: it is of later.
    assert!(bench.turn_with(Heard { looks_begun: 3, looks_told: 2, ..Heard::default() }).is_empty());
    assert!(bench.turn().is_empty());
    let actions: Vec<Action> = bench.take().into_iter().filter(|action| action.target == TargetId(1)).collect();
    bench.conclude(&actions[0], &[]);
    assert_eq!(bench.turn(), [1]);
}

#[test]
fn a_search_for_names_is_waited_for_and_what_it_finds() {
    let mut bench = Bench::new(1);
    bench.mark(&[point("a")]);
    bench.wait(1, None);
    assert!(bench.tell().is_empty());
    let actions = bench.take();
    let asked = Heard { searches_asked: 1, ..Heard::default() };
    bench.conclude(&actions[0], &[]);
    assert!(bench.turn_with(asked).is_empty());
    assert!(bench.turn_with(Heard { searches_done: 1, ..asked }).is_empty());
    let mut found = point("b");
    found.derived = true;
    bench.mark(&[found]);
    assert!(bench.turn().is_empty());
    let actions = bench.take();
    bench.conclude(&actions[0], &[]);
    assert_eq!(bench.turn(), [1]);
}

#[test]
fn a_paused_target_or_root_keeps_everything_and_says_so() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.dispatcher.pause(Some(TargetId(0))), 1);
    assert_eq!(bench.dispatcher.pause(Some(TargetId(0))), 0);
    bench.mark(&[point("a")]);
    bench.wait(1, None);
    assert!(bench.tell().is_empty());
    let actions = bench.take();
    assert_eq!(actions.iter().map(|action| action.target).collect::<Vec<_>>(), [TargetId(1)]);
    bench.conclude(&actions[0], &[]);
    assert!(bench.turn().is_empty());
    assert_eq!(bench.dispatcher.paused(), (false, vec![TargetId(0)]));
    let missing = bench.missing(1);
    assert!(missing.len() == 1 && missing[0].words.contains("paused"), "{missing:?}");

    assert_eq!(bench.dispatcher.pause(None), 1);
    bench.mark(&[point("b")]);
    assert!(bench.take().is_empty());
    assert_eq!(bench.dispatcher.wake_at(bench.now().instant), None);
    bench.wait(2, Some(1));
    assert!(bench.tell().is_empty());
    assert!(bench.missing(2)[0].words.contains("the root is paused"));
    assert_eq!(bench.dispatcher.resume(None), 2, "the root and its target");
    assert_eq!(bench.take().len(), 2);
}

#[test]
fn held_deletes_are_not_there_until_they_were_approved_and_made() {
    let mut bench = Bench::new(1);
    let saved = crate::change::SavedMark {
        path: path("gone"),
        kind: MarkKind::Point,
        content: crate::change::Content::Compare,
        least: crate::change::Content::Compare,
        priority: Priority::Live,
        first: bench.now().wall,
        attempts: 2_000,
        derived: false,
        large: false,
        sent: false,
    };
    bench.dispatcher.restore_held(bench.now(), TargetId(0), &[saved]);
    bench.wait(1, None);
    bench.wait(2, None);
    assert!(bench.tell().is_empty());
    let missing = bench.missing(1);
    assert!(missing[0].marks == 1 && missing[0].words.contains("fansync approve"), "{missing:?}");
    assert_eq!(missing[0].first, [path("gone")]);
    assert_eq!(bench.dispatcher.approve(bench.now(), None, &mut Vec::new()), 1);
    assert!(bench.turn().is_empty(), "it is as old as when it was held");
    let actions = bench.take();
    bench.conclude(&actions[0], &[]);
    assert_eq!(bench.turn(), [2]);
}
