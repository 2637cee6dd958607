//! Dispatchers on a virtual clock, with lanes that end as the test says.

use std::time::Duration;

use super::*;
use crate::change::{ChangeSetOptions, Content, Deletes, Draft, MarkKind, Priority, SettleOptions, Stage};
use crate::dispatch::{Conclusion, FailedMark, Order, Outcome, Pace, Why};
use crate::path::RelPath;
use crate::sys::clock::WallTime;

const SECOND: Duration = Duration::from_secs(1);

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn point(text: &str) -> Mark {
    let mut mark = Mark::new(path(text), MarkKind::Point);
    mark.changes_names = false;
    mark
}

fn trouble(remedy: TroubleRemedy) -> Trouble {
    Trouble { cause: "test", remedy, words: "words".to_owned(), hint: None }
}

fn done() -> Conclusion {
    Conclusion { outcome: Outcome::Done(Vec::new()), trouble: None, directories: 0, moved: None }
}

fn nothing(remedy: TroubleRemedy) -> Conclusion {
    Conclusion { outcome: Outcome::Nothing, trouble: Some(trouble(remedy)), directories: 0, moved: None }
}

fn unclear() -> Conclusion {
    Conclusion { outcome: Outcome::Unclear(String::new()), trouble: None, directories: 0, moved: None }
}

fn refused(text: &str) -> Conclusion {
    let failed = FailedMark { path: path(text), why: Why::Refused, words: "denied".to_owned() };
    Conclusion { outcome: Outcome::Done(vec![failed]), trouble: None, directories: 0, moved: None }
}

fn draft(action: &Action) -> &Draft {
    match &action.order {
        Order::Send { draft, .. } => draft,
        Order::Probe { .. } => panic!("a probe: {action:?}"),
    }
}

fn names(action: &Action) -> Vec<String> {
    draft(action).marks.iter().map(|mark| mark.path.to_string()).collect()
}

struct Bench {
    dispatcher: Dispatcher,
    start: Instant,
    elapsed: Duration,
}

impl Bench {
    fn new(targets: usize, lanes: u16) -> Self {
        let changes = ChangeSetOptions { settle: SettleOptions::default(), marks_max: 1_000, saved: true };
        let options = vec![TargetOptions { lanes, changes }; targets];
        Self { dispatcher: Dispatcher::new(&options, 7), start: crate::sys::clock::now(), elapsed: Duration::ZERO }
    }

    fn now(&self) -> Now {
        let nanos = i64::try_from(self.elapsed.as_nanos()).unwrap();
        Now { instant: self.start + self.elapsed, wall: WallTime(1_000_000_000_000_000 + nanos) }
    }

    fn mark(&mut self, marks: &[Mark]) {
        let now = self.now();
        self.dispatcher.on_marks(now, marks);
    }

    fn tick(&mut self) -> Vec<Action> {
        let now = self.now().instant;
        self.dispatcher.on_tick(now)
    }

    /// The only action of a tick.
    fn one(&mut self) -> Action {
        let actions = self.tick();
        assert_eq!(actions.len(), 1, "{actions:?}");
        actions.into_iter().next().unwrap()
    }

    fn end(&mut self, action: &Action, conclusion: Conclusion) -> Vec<Notice> {
        let report = match &action.order {
            Order::Send { draft, .. } => Report::Concluded { batch: draft.batch, conclusion },
            Order::Probe { .. } => Report::Probed(conclusion.trouble),
        };
        let now = self.now();
        self.dispatcher.on_report(now, action.target, action.lane, report)
    }

    fn pass(&mut self, span: Duration) {
        self.elapsed += span;
    }

    /// Goes to the moment that the dispatcher asks for.
    fn sleep(&mut self) -> Duration {
        let wake = self.dispatcher.wake_at(self.now().instant).expect("something is to come");
        let span = wake.saturating_duration_since(self.now().instant);
        self.elapsed += span;
        span
    }

    /// What is to be done next, whenever that is.
    fn next(&mut self) -> Vec<Action> {
        let actions = self.tick();
        if !actions.is_empty() {
            return actions;
        }
        self.sleep();
        self.tick()
    }

    fn view(&self, target: usize) -> TargetView {
        self.dispatcher.views()[target].clone()
    }
}

/// A daemon that was killed had left `.NAME.XXXXXX` on the target for ever: what is sent again takes another name.
#[test]
fn the_directories_of_a_batch_that_broke_are_listed_afterwards() {
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("d/a"), point("d/b"), point("e/a"), Mark::new(path("s"), MarkKind::Subtree)]);
    let points = bench.one();
    assert_eq!(names(&points), ["d/a", "d/b", "e/a"]);
    bench.end(&points, Conclusion { outcome: Outcome::Broken, ..nothing(TroubleRemedy::Pause(Pace::Soon)) });
    bench.sleep();
    let probe = bench.one();
    bench.end(&probe, done());
    let mut listed = Vec::new();
    for _turn in 0..8 {
        for action in bench.tick() {
            if draft(&action).marks.iter().any(|mark| mark.kind == MarkKind::Listing) {
                listed.extend(names(&action));
            }
            bench.end(&action, done());
        }
        bench.pass(SECOND);
    }
    assert_eq!(listed, ["d", "e"]);
}

#[test]
fn a_target_that_is_away_is_left_alone_probed_and_goes_on_without_loss() {
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("a"), point("b")]);
    let action = bench.one();
    let notices = bench.end(&action, nothing(TroubleRemedy::Pause(Pace::Normal)));
    assert!(matches!(notices[..], [Notice::Paused { failures: 1, .. }]), "{notices:?}");
    assert_eq!(bench.tick(), []);
    bench.mark(&[point("c")]);
    assert_eq!(bench.tick(), [], "what is due waits with the rest");
    assert_eq!(bench.view(0).trouble.map(|trouble| trouble.cause), Some("test"));

    assert!(bench.sleep() <= SECOND);
    let probe = bench.one();
    assert!(matches!(probe.order, Order::Probe { .. }));
    assert_eq!(bench.tick(), [], "one probe at a time");
    assert_eq!(bench.end(&probe, nothing(TroubleRemedy::Pause(Pace::Normal))).len(), 1);
    assert!(bench.sleep() <= 2 * SECOND);
    let probe = bench.one();
    let notices = bench.end(&probe, done());
    assert!(matches!(notices[..], [Notice::Resumed { failures: 2, .. }]), "{notices:?}");

    let action = bench.one();
    assert_eq!(names(&action), ["a", "b", "c"]);
    bench.end(&action, done());
    assert_eq!((bench.view(0).pending, bench.view(0).trouble), (0, None));
}

#[test]
fn a_poison_path_ends_alone_and_is_told_of_while_the_others_pass() {
    let mut bench = Bench::new(1, 1);
    let marks: Vec<Mark> = (0..100).map(|number| point(&format!("a/{number}"))).collect();
    bench.mark(&marks);
    let mut sent = std::collections::BTreeSet::new();
    let mut failures = Vec::new();
    while sent.len() < 99 || failures.is_empty() {
        for action in bench.tick() {
            let poisoned = names(&action).contains(&"a/42".to_owned());
            if !poisoned {
                sent.extend(names(&action));
            }
            let notices = bench.end(&action, if poisoned { unclear() } else { done() });
            failures.extend(notices.into_iter().filter(|notice| matches!(notice, Notice::PathFailed { .. })));
        }
        bench.pass(SECOND / 10);
        assert!(bench.elapsed < 10 * SECOND, "{sent:?}");
    }
    let Notice::PathFailed { path, attempts: 1, dead_letter: false, .. } = &failures[0] else { panic!("{failures:?}") };
    assert_eq!(path.to_string(), "a/42");

    // Alone from now on, ever more rarely; a dead letter in the end, which the operator was never told of.
    let mut told = failures.len();
    while bench.view(0).dead_letters == 0 {
        bench.sleep();
        let action = bench.one();
        assert_eq!(names(&action), ["a/42"]);
        told += bench.end(&action, unclear()).len();
    }
    assert_eq!(told, 8);
}

#[test]
fn a_refused_path_becomes_a_dead_letter_and_a_later_event_makes_it_go_again() {
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("a")]);
    let mut attempts_told = Vec::new();
    for attempt in 1..=8 {
        let action = bench.one();
        for notice in bench.end(&action, refused("a")) {
            if let Notice::PathFailed { attempts, dead_letter, .. } = notice {
                assert_eq!(dead_letter, attempt == 8);
                attempts_told.push(attempts);
            }
        }
        assert_eq!(bench.tick(), []);
        if attempt < 8 {
            assert!(bench.sleep() <= Duration::from_secs(300));
        }
    }
    assert_eq!(attempts_told, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bench.view(0).dead_letters, 1);
    bench.pass(SECOND);
    assert_eq!(bench.sleep(), Duration::from_secs(599));
    assert_eq!(names(&bench.one()), ["a"], "it is retried every ten minutes");
}

#[test]
fn a_path_that_races_again_and_again_does_not_keep_a_lane_busy_and_is_told_of() {
    let mut bench = Bench::new(1, 1);
    let mut listing = point("a");
    listing.kind = MarkKind::Listing;
    bench.mark(&[listing]);
    let mut told = 0;
    for round in 0..20 {
        let action = bench.one();
        let failed = FailedMark { path: path("a"), why: Why::Raced, words: "changed".to_owned() };
        let raced = Conclusion { outcome: Outcome::Done(vec![failed]), trouble: None, directories: 0, moved: None };
        let notices = bench.end(&action, raced);
        told += notices.iter().filter(|notice| matches!(notice, Notice::PathFailed { .. })).count();
        if round > 0 {
            assert_eq!(bench.tick(), [], "round {round}");
            bench.sleep();
        }
    }
    assert!(bench.elapsed > 10 * SECOND, "{:?}", bench.elapsed);
    assert_eq!((told, bench.view(0).dead_letters), (13, 0));
    let last = bench.one();
    bench.end(&last, done());
    assert_eq!(bench.view(0).pending, 0);
}

#[test]
fn a_later_event_ends_the_pause_of_a_dead_letter() {
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("a")]);
    for attempt in 1..=8 {
        let action = bench.one();
        bench.end(&action, refused("a"));
        if attempt < 8 {
            bench.sleep();
        }
    }
    bench.pass(SECOND);
    bench.mark(&[point("a")]);
    let action = bench.one();
    bench.end(&action, done());
    assert_eq!((bench.view(0).dead_letters, bench.view(0).pending), (0, 0));
}

#[test]
fn a_root_that_is_not_what_it_was_holds_all_targets_until_it_is_back() {
    let mut bench = Bench::new(2, 2);
    bench.mark(&[point("a")]);
    let actions = bench.tick();
    assert_eq!(actions.len(), 2);
    let notices = bench.end(&actions[0], nothing(TroubleRemedy::HoldSource));
    assert!(matches!(notices[..], [Notice::Held { .. }]));
    assert_eq!(bench.end(&actions[1], nothing(TroubleRemedy::HoldSource)), [], "said once");
    bench.mark(&[point("b")]);
    bench.pass(100 * SECOND);
    assert!(bench.dispatcher.is_held());
    assert_eq!(bench.tick(), []);
    assert_eq!(bench.dispatcher.wake_at(bench.now().instant), None, "nobody is woken for what cannot go");
    let other = Trouble { cause: "root_covered", ..trouble(TroubleRemedy::HoldSource) };
    let news = bench.dispatcher.hold(bench.now().instant, other.clone());
    assert_eq!(news, Some(Notice::Held { trouble: other.clone() }), "another cause is news");
    assert_eq!(bench.dispatcher.hold(bench.now().instant, other), None);
    assert_eq!(bench.dispatcher.release(), Some(Notice::Released));
    assert_eq!(bench.dispatcher.release(), None);
    for action in bench.tick() {
        bench.end(&action, done());
    }
    assert_eq!((bench.view(0).pending, bench.view(1).pending), (0, 0));
}

fn deletes_held(names: &[&str], deletes: u64) -> Conclusion {
    let held = |name: &&str| FailedMark { path: path(name), why: Why::Held { deletes }, words: String::new() };
    Conclusion { outcome: Outcome::Done(names.iter().map(held).collect()), trouble: None, directories: 0, moved: None }
}

#[test]
fn held_deletes_leave_the_backlog_and_come_back_approved() {
    let mut bench = Bench::new(2, 1);
    bench.mark(&[point("a"), point("b"), point("c")]);
    let mut actions = bench.tick();
    let notices = bench.end(&actions[0], deletes_held(&["a", "b"], 700));
    let first = Notice::DeletesHeld { target: TargetId(0), marks: 2, deletes: 1_400, first: path("a") };
    assert!(notices.contains(&first), "{notices:?}");
    bench.end(&actions.remove(1), done());
    let view = bench.view(0);
    assert_eq!((view.pending, view.held.marks, view.held.deletes), (0, 2, 1_400));
    assert_eq!(view.held.first, [path("a"), path("b")]);
    assert_eq!(bench.dispatcher.wake_at(bench.now().instant), None, "they wait for somebody");
    bench.mark(&[point("d")]);
    for action in bench.tick() {
        let held = action.target == TargetId(0);
        let notices = bench.end(&action, if held { deletes_held(&["d"], 1) } else { done() });
        assert!(!notices.iter().any(|notice| matches!(notice, Notice::DeletesHeld { .. })), "said once an episode");
    }
    let mut notices = Vec::new();
    assert_eq!(bench.dispatcher.approve(bench.now(), Some(TargetId(1)), &mut notices), 0);
    assert_eq!(notices, []);
    assert_eq!(bench.dispatcher.approve(bench.now(), None, &mut notices), 3);
    assert_eq!(notices, [Notice::DeletesReleased { target: TargetId(0), marks: 3, approved: true }]);
    bench.mark(&[point("e")]);
    bench.pass(100 * SECOND);
    let mut approved = Vec::new();
    loop {
        let actions = bench.tick();
        for action in &actions {
            let marks = &draft(action).marks;
            let count = marks.iter().filter(|mark| mark.deletes == Deletes::Approved).count();
            assert!(
                count == 0 || count == marks.len(),
                "what is approved and what is not never share a run: {action:?}"
            );
            if count > 0 {
                approved.extend(names(action));
            }
            bench.end(action, done());
        }
        if actions.is_empty() {
            break;
        }
    }
    assert_eq!(approved, ["a", "b", "d"]);
    assert_eq!((bench.view(0).held.marks, bench.view(0).held.since), (0, None));
}

#[test]
fn what_lies_around_held_deletes_must_not_delete_them_in_passing() {
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("d/gone")]);
    let action = bench.one();
    bench.end(&action, deletes_held(&["d/gone"], 5_000));
    let check = |bench: &mut Bench, mark: Mark, expected| {
        bench.mark(std::slice::from_ref(&mark));
        let action = bench.one();
        assert_eq!(draft(&action).marks[0].deletes, expected, "{mark:?}");
        bench.end(&action, done());
        bench.pass(100 * SECOND);
    };
    let of = |kind, name: &str| Mark { kind, deletes: Deletes::Unknown, ..point(name) };
    let single = |name: &str| Mark { deletes: Deletes::Single, ..point(name) };
    check(&mut bench, of(MarkKind::Listing, "d"), Deletes::Denied);
    check(&mut bench, of(MarkKind::Point, "d"), Deletes::Denied);
    check(&mut bench, of(MarkKind::Subtree, "e"), Deletes::Unknown);
    check(&mut bench, single("d/gone"), Deletes::Denied);
    check(&mut bench, single("d/other"), Deletes::Single);
}

#[test]
fn held_deletes_go_by_themselves_after_the_time_that_was_asked_for() {
    let mut bench = Bench::new(1, 1);
    bench.dispatcher.release_after(Some(60 * SECOND));
    bench.mark(&[point("a")]);
    let action = bench.one();
    bench.end(&action, deletes_held(&["a"], 5_000));
    bench.pass(20 * SECOND);
    assert_eq!(bench.dispatcher.release_due(bench.now()), []);
    assert_eq!(bench.sleep(), 40 * SECOND);
    let notices = bench.dispatcher.release_due(bench.now());
    assert_eq!(notices, [Notice::DeletesReleased { target: TargetId(0), marks: 1, approved: false }]);
    assert_eq!(draft(&bench.one()).marks[0].deletes, Deletes::Approved);
}

#[test]
fn what_was_under_way_when_its_like_was_approved_is_not_held_again() {
    let mut bench = Bench::new(1, 3);
    bench.mark(&[point("a")]);
    let first = bench.one();
    bench.end(&first, deletes_held(&["a"], 5_000));
    bench.pass(SECOND);
    bench.mark(&[point("a")]);
    let again = bench.one();
    assert_eq!(bench.dispatcher.approve(bench.now(), None, &mut Vec::new()), 1);
    bench.end(&again, deletes_held(&["a"], 5_000));
    assert_eq!(bench.view(0).held.marks, 0);
    bench.pass(100 * SECOND);
    let actions = bench.tick();
    let approved = actions.iter().find(|action| names(action) == ["a"]).expect("it goes");
    assert_eq!(draft(approved).marks[0].deletes, Deletes::Approved);
}

#[test]
fn held_deletes_survive_a_restart() {
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("a"), point("b")]);
    let action = bench.one();
    bench.end(&action, deletes_held(&["a"], 7));
    assert!(bench.dispatcher.is_unsaved());
    let saved = bench.dispatcher.unsaved_held(bench.now(), false);
    let saved = saved[0].as_deref().expect("they changed").to_vec();
    assert_eq!(bench.dispatcher.unsaved_held(bench.now(), false), [None]);
    let mut after = Bench::new(1, 1);
    after.dispatcher.restore_held(after.now(), TargetId(0), &saved);
    assert_eq!((after.view(0).held.marks, after.view(0).held.deletes), (1, 7));
}

#[test]
fn a_dead_target_does_not_delay_another() {
    let mut bench = Bench::new(2, 2);
    bench.mark(&[point("a")]);
    let actions = bench.tick();
    for action in &actions {
        let away = action.target == TargetId(0);
        bench.end(action, if away { nothing(TroubleRemedy::Pause(Pace::Slow)) } else { done() });
    }
    for number in 0..20 {
        bench.pass(SECOND);
        bench.mark(&[point(&format!("b/{number}"))]);
        let mut sent = 0;
        for action in bench.tick() {
            if action.target == TargetId(0) {
                bench.end(&action, nothing(TroubleRemedy::Pause(Pace::Slow)));
            } else {
                sent += draft(&action).marks.len();
                bench.end(&action, done());
            }
        }
        assert_eq!(sent, 1);
    }
    assert_eq!((bench.view(0).pending, bench.view(1).pending), (21, 0));
}

#[test]
fn lanes_keep_large_files_and_background_work_out_of_each_others_way() {
    let mut bench = Bench::new(1, 3);
    let background = |name: &str| point(name).priority(Priority::Background);
    let large = |name: &str| Mark { large: true, ..point(name) };
    bench.mark(&[large("l/1"), large("l/2"), background("b/1"), background("b/2")]);
    let actions = bench.tick();
    let mut seen: Vec<(u16, Vec<String>)> = actions.iter().map(|action| (action.lane.0, names(action))).collect();
    seen.sort();
    let expect = |lane: u16, names: &[&str]| (lane, names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(seen, [expect(0, &["l/1"]), expect(2, &["b/1", "b/2"])]);
    bench.mark(&[background("b/3")]);
    assert_eq!(bench.tick(), [], "the last small lane is free of background work");
    bench.mark(&[point("live")]);
    let live = bench.one();
    assert_eq!((live.lane, names(&live)), (LaneId(1), vec!["live".to_owned()]));
}

#[test]
fn a_stopped_dispatcher_gives_nothing_out() {
    let mut bench = Bench::new(1, 2);
    bench.mark(&[point("a")]);
    let action = bench.one();
    bench.mark(&[point("b")]);
    bench.dispatcher.stop();
    assert_eq!(bench.tick(), []);
    assert_eq!(bench.dispatcher.wake_at(bench.now().instant), None);
    assert!(!bench.dispatcher.is_idle());
    bench.end(&action, done());
    assert!(bench.dispatcher.is_idle());
}

#[test]
fn a_full_target_gets_small_batches_until_they_go_well() {
    let mut bench = Bench::new(1, 1);
    let marks: Vec<Mark> = (0..100).map(|number| point(&format!("a/{number}"))).collect();
    bench.mark(&marks);
    let action = bench.one();
    bench.end(&action, nothing(TroubleRemedy::PauseFull));
    bench.sleep();
    let probe = bench.one();
    bench.end(&probe, done());
    for expected in [16, 32, 52] {
        bench.pass(SECOND);
        let action = bench.one();
        assert_eq!(draft(&action).marks.len(), expected);
        bench.end(&action, done());
    }
}

fn ended_by(text: &str, remedy: TroubleRemedy) -> Conclusion {
    let failed = FailedMark { path: path(text), why: Why::Refused, words: "no space".to_owned() };
    Conclusion { outcome: Outcome::EndedBy(vec![failed]), ..nothing(remedy) }
}

#[test]
fn what_does_not_fit_on_a_full_target_does_not_keep_back_what_does() {
    // The batch was sent again as it was: the first file that did not fit ended it for all others, every time.
    let mut bench = Bench::new(1, 1);
    let marks: Vec<Mark> = (0..100).map(|number| point(&format!("{number:02}"))).collect();
    bench.mark(&marks);
    let large = |name: &str| name < "40";
    let mut arrived = std::collections::BTreeSet::new();
    let (mut runs, mut refused) = (0, 0);
    while arrived.len() < 60 {
        for action in bench.next() {
            runs += 1;
            assert!(runs < 200, "{arrived:?}");
            if matches!(action.order, Order::Probe { .. }) {
                bench.end(&action, done());
                continue;
            }
            let names = names(&action);
            match names.iter().find(|name| large(name)) {
                Some(culprit) => {
                    refused += 1;
                    bench.end(&action, ended_by(culprit, TroubleRemedy::PauseFull));
                }
                None => {
                    arrived.extend(names);
                    bench.end(&action, done());
                }
            }
        }
    }
    assert!(bench.elapsed < Duration::from_secs(300), "{runs} runs, {refused} refused, {:?}", bench.elapsed);

    // Room for all: the first of them shows it, and none has to wait for its own pause.
    let began = bench.elapsed;
    while bench.view(0).pending > 0 {
        for action in bench.next() {
            bench.end(&action, done());
        }
    }
    assert!(bench.elapsed - began < Duration::from_secs(60), "{:?}", bench.elapsed - began);
}

#[test]
fn a_path_that_is_known_not_to_fit_does_not_pause_a_target_that_takes_others() {
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("huge")]);
    let action = bench.one();
    let notices = bench.end(&action, ended_by("huge", TroubleRemedy::Pause(Pace::Slow)));
    assert!(matches!(notices[..], [Notice::PathFailed { .. }, Notice::Paused { .. }]), "{notices:?}");
    let probe = bench.next().remove(0);
    bench.end(&probe, done());
    let mut failures = 1;
    for round in 0..3600 {
        bench.mark(&[point(&format!("tiny/{round}"))]);
        let mut tried = 0;
        while let [action] = &bench.tick()[..] {
            if names(action) == ["huge"] {
                failures += 1;
                let notices = bench.end(action, ended_by("huge", TroubleRemedy::Pause(Pace::Slow)));
                assert!(matches!(notices[..], [Notice::PathFailed { .. }]), "{notices:?}");
            } else {
                bench.end(action, done());
            }
            tried += 1;
        }
        assert!((1..=2).contains(&tried), "{tried}");
        bench.pass(SECOND);
    }
    assert_eq!((bench.view(0).pending, bench.view(0).dead_letters, bench.view(0).takes), (1, 1, true));
    assert_eq!(bench.view(0).trouble, Some(trouble(TroubleRemedy::Pause(Pace::Slow))), "status says why");
    assert!((8..20).contains(&failures), "{failures}");
}

#[test]
fn a_target_without_room_for_anything_is_asked_rarely() {
    // rsync names each path with exit 23 when not even a temporary file can be made; that is no success.
    let mut bench = Bench::new(1, 1);
    let marks: Vec<Mark> = (0..1000).map(|number| point(&format!("{number:03}"))).collect();
    bench.mark(&marks);
    let mut sent = 0;
    while bench.elapsed < Duration::from_secs(1800) {
        for action in bench.next() {
            let Order::Send { draft, .. } = &action.order else {
                bench.end(&action, done());
                continue;
            };
            sent += 1;
            let refused = |path| FailedMark { path, why: Why::Refused, words: "no space".to_owned() };
            let failed = draft.marks.iter().map(|mark| refused(mark.path.clone())).collect();
            let full = Conclusion { outcome: Outcome::Done(failed), ..nothing(TroubleRemedy::PauseFull) };
            bench.end(&action, full);
        }
    }
    assert!((100..600).contains(&sent), "{sent} batches in half an hour");
}

#[test]
fn a_path_that_stalls_every_transfer_is_found_though_rsync_blames_the_target() {
    let mut bench = Bench::new(1, 1);
    let marks: Vec<Mark> = (0..100).map(|number| point(&format!("{number:02}"))).collect();
    bench.mark(&marks);
    let mut arrived = std::collections::BTreeSet::new();
    let mut told = 0;
    for _round in 0..400 {
        for action in bench.next() {
            if matches!(action.order, Order::Probe { .. }) {
                bench.end(&action, done());
                continue;
            }
            let names = names(&action);
            let stalls = names.contains(&"42".to_owned());
            if !stalls {
                arrived.extend(names);
            }
            let notices = bench.end(&action, if stalls { nothing(TroubleRemedy::Pause(Pace::Normal)) } else { done() });
            told += notices.iter().filter(|notice| matches!(notice, Notice::PathFailed { .. })).count();
        }
        if arrived.len() == 99 && told > 0 {
            assert!(bench.elapsed < Duration::from_secs(120), "{:?}", bench.elapsed);
            return;
        }
    }
    panic!("{arrived:?}");
}

#[test]
fn a_path_that_failed_while_its_target_went_away_is_not_to_blame() {
    // A daemon that is killed every few seconds made a dead letter of whatever was sent alone at the time.
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("a")]);
    for _round in 0..20 {
        let action = bench.next().remove(0);
        let notices = bench.end(&action, nothing(TroubleRemedy::Pause(Pace::Now)));
        let told = notices.iter().filter(|notice| matches!(notice, Notice::PathFailed { attempts: 1, .. })).count();
        assert_eq!(told, 1, "{notices:?}");
        let probe = bench.next().remove(0);
        bench.end(&probe, nothing(TroubleRemedy::Pause(Pace::Soon)));
        let probe = bench.next().remove(0);
        bench.end(&probe, done());
    }
    let action = bench.next().remove(0);
    bench.end(&action, done());
    assert_eq!((bench.view(0).pending, bench.view(0).dead_letters), (0, 0));
}

#[test]
fn dead_letters_do_not_grow_beyond_the_backlog() {
    const PATHS: usize = 20_000;
    let mut bench = Bench::new(1, 1);
    let mut known = 0;
    for round in 0..20 {
        let marks: Vec<Mark> =
            (0..PATHS / 20).map(|number| point(&format!("{}/{}/{number}", round, number % 7))).collect();
        bench.mark(&marks);
        for _attempt in 0..10 {
            bench.pass(Duration::from_secs(601));
            while let [action] = &bench.tick()[..] {
                let refused = |path| FailedMark { path, why: Why::Refused, words: "denied".to_owned() };
                let failed = draft(action).marks.iter().map(|mark| refused(mark.path.clone())).collect();
                bench.end(action, Conclusion { outcome: Outcome::Done(failed), ..done() });
            }
        }
        known = known.max(bench.dispatcher.targets[0].remembered_dead_letters());
        assert!(bench.view(0).pending <= 1_000);
    }
    assert!(known <= 2_200, "{known}");
}

struct Lane {
    action: Action,
    until: Instant,
}

/// Random marks and outcomes, then quiet and good will.
fn simulate(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let lanes = 1 + rng.u16(..4);
    let mut bench = Bench::new(1 + rng.usize(..3), lanes);
    let mut working: Vec<Lane> = Vec::new();
    let end_of_noise = Duration::from_secs(120);
    loop {
        let noisy = bench.elapsed < end_of_noise;
        if noisy && rng.bool() {
            let name = format!("{}/{}", rng.u8(..4), rng.u8(..30));
            let mut mark = point(&name).content(if rng.bool() { Content::Resend } else { Content::Compare });
            mark.kind = [MarkKind::Point, MarkKind::Point, MarkKind::Point, MarkKind::Listing][rng.usize(..4)];
            mark.large = rng.u8(..8) == 0;
            mark.stage = if rng.bool() { Stage::Complete } else { Stage::Writing };
            if rng.u8(..4) == 0 {
                mark.priority = Priority::Background;
            }
            bench.mark(&[mark]);
        }
        // As the daemon does: the root is looked at, and is well.
        bench.dispatcher.release();
        for action in bench.tick() {
            let until = bench.now().instant + Duration::from_millis(rng.u64(1..3_000));
            working.push(Lane { action, until });
        }
        let now = bench.now().instant;
        let ended: Vec<Lane> = working.extract_if(.., |lane| lane.until <= now).collect();
        let reported = !ended.is_empty();
        for lane in ended {
            let conclusion = if noisy { random_conclusion(&mut rng, &lane.action) } else { done() };
            if let (true, Order::Send { draft, .. }) = (noisy && rng.u8(..4) == 0, &lane.action.order) {
                let leaving: Vec<RelPath> =
                    draft.marks.iter().filter(|_| rng.u8(..3) == 0).map(|mark| mark.path.clone()).collect();
                let (large, later) = if rng.bool() { (leaving, vec![]) } else { (vec![], leaving) };
                let seen = Report::Seen { batch: draft.batch, marks: vec![], large, later };
                let now = bench.now();
                bench.dispatcher.on_report(now, lane.action.target, lane.action.lane, seen);
            }
            bench.end(&lane.action, conclusion);
        }
        let clean = bench.dispatcher.views().iter().all(|view| view.pending == 0 && view.batches == 0);
        if !noisy && clean && working.is_empty() {
            let views = bench.dispatcher.views();
            assert!(views.iter().all(|view| view.dead_letters == 0 && view.oldest.is_none()), "seed {seed}: {views:?}");
            return;
        }
        // As the daemon does: until a lane ends, or the moment asked for; marks come any time.
        let now = bench.now().instant;
        let wake = bench.dispatcher.wake_at(now).into_iter().chain(working.iter().map(|lane| lane.until)).min();
        let pause = match wake {
            // A report is followed by a tick.
            _ if reported => Duration::from_millis(1),
            Some(wake) => wake.saturating_duration_since(now).max(Duration::from_millis(1)),
            None => {
                assert!(noisy || clean, "seed {seed}: nobody wakes it: {:?}", bench.dispatcher.views());
                SECOND
            }
        };
        bench.pass(if noisy { pause.min(Duration::from_millis(rng.u64(1..500))) } else { pause });
        assert!(
            bench.elapsed < end_of_noise + Duration::from_secs(1_000),
            "seed {seed}: never clean: {:?}",
            bench.dispatcher.views()
        );
    }
}

fn random_conclusion(rng: &mut fastrand::Rng, action: &Action) -> Conclusion {
    let remedies = [
        TroubleRemedy::Pause(Pace::Now),
        TroubleRemedy::Pause(Pace::Soon),
        TroubleRemedy::Pause(Pace::Normal),
        TroubleRemedy::Pause(Pace::Slow),
        TroubleRemedy::PauseFull,
        TroubleRemedy::DropMissingArgs,
        TroubleRemedy::HoldSource,
    ];
    let remedy = remedies[rng.usize(..remedies.len())];
    match (rng.u8(..8), &action.order) {
        (0..=2, _) => done(),
        (3, Order::Send { .. }) => unclear(),
        (4 | 5, Order::Send { draft, .. }) => {
            let why = if rng.bool() { Why::Raced } else { Why::Refused };
            let failed = draft.marks.iter().filter(|_| rng.u8(..3) == 0);
            let failed = failed.map(|mark| FailedMark { path: mark.path.clone(), why, words: String::new() }).collect();
            Conclusion { outcome: Outcome::Done(failed), trouble: None, directories: 0, moved: None }
        }
        _ => nothing(remedy),
    }
}

#[test]
fn everything_becomes_clean_after_any_troubles() {
    for seed in 0..40 {
        simulate(seed);
    }
}

#[test]
fn a_dead_letter_that_a_wider_mark_took_in_is_no_dead_letter_any_more() {
    let mut bench = Bench::new(1, 1);
    bench.mark(&[point("d/a")]);
    for attempt in 1..=8 {
        let action = bench.one();
        bench.end(&action, refused("d/a"));
        if attempt < 8 {
            bench.sleep();
        }
    }
    assert_eq!(bench.view(0).dead_letters, 1);
    bench.mark(&[Mark { gone_directory: true, ..point("d") }]);
    let action = bench.one();
    assert_eq!(names(&action), ["d"]);
    bench.end(&action, done());
    assert_eq!(bench.view(0).dead_letters, 0);
}

#[test]
fn a_target_that_still_complains_of_missing_arguments_is_left_alone() {
    // Without them there is nothing left to drop: the batch came back at once and went again, without a pause.
    let mut bench = Bench::new(1, 2);
    bench.mark(&[point("a")]);
    let first = bench.one();
    bench.mark(&[Mark { large: true, ..point("b") }]);
    let second = bench.one();
    let notices = bench.end(&first, nothing(TroubleRemedy::DropMissingArgs));
    assert_eq!(notices, [Notice::MissingArgsDropped { target: TargetId(0) }]);
    assert_eq!(bench.end(&second, nothing(TroubleRemedy::DropMissingArgs)), [], "it went with them, too");
    bench.pass(SECOND);
    let actions = bench.tick();
    assert_eq!(actions.len(), 2);
    for action in &actions {
        assert!(matches!(action.order, Order::Send { missing_args: false, .. }));
        bench.end(action, nothing(TroubleRemedy::DropMissingArgs));
    }
    assert_eq!(bench.view(0).trouble.map(|trouble| trouble.cause), Some("test"));
    bench.sleep();
    let probe = bench.one();
    bench.end(&probe, nothing(TroubleRemedy::DropMissingArgs));
    assert!(bench.sleep() > Duration::from_millis(100), "nor is it probed without end");
}

#[test]
fn one_change_is_not_behind_a_flood() {
    let changes = ChangeSetOptions { settle: SettleOptions::default(), marks_max: 100_000, saved: true };
    let mut bench = Bench::new(1, 2);
    bench.dispatcher = Dispatcher::new(&[TargetOptions { lanes: 2, changes }], 7);
    let flood: Vec<Mark> = (0..20_000).map(|number| point(&format!("flood/{number:05}"))).collect();
    bench.mark(&flood);
    bench.pass(Duration::from_millis(1));
    bench.mark(&[point("elsewhere/one")]);
    let first = bench.one();
    assert_eq!(names(&first)[0], "flood/00000");
    bench.end(&first, done());
    let second = bench.one();
    assert!(names(&second).contains(&"elsewhere/one".to_owned()));
    bench.end(&second, done());
    let third = bench.one();
    assert_eq!(names(&third)[0], "flood/05000");
}

/// Takes what it is given.
struct Places(usize);

impl Room for Places {
    fn take(&mut self) -> bool {
        let is_free = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        is_free
    }

    fn give_back(&mut self) {
        self.0 += 1;
    }
}

#[test]
fn of_many_targets_the_one_that_has_waited_longest_goes_first() {
    let mut bench = Bench::new(3, 2);
    let now = |bench: &Bench| bench.now().instant;
    bench.mark(&[point("a")]);
    let (at, mut one) = (now(&bench), Places(1));
    let first = bench.dispatcher.on_tick_within(at, &mut one);
    assert_eq!((first.len(), first[0].target, one.0), (1, TargetId(0), 0));
    bench.pass(Duration::from_millis(300));
    bench.mark(&[point("b")]);
    let at = now(&bench);
    assert_eq!(bench.dispatcher.on_tick_within(at, &mut Places(0)), []);
    let second = bench.dispatcher.on_tick_within(at, &mut Places(2));
    let targets: Vec<TargetId> = second.iter().map(|action| action.target).collect();
    assert_eq!(targets, [TargetId(1), TargetId(2)], "the first one has something new only");
    // What is not needed is given back.
    let mut many = Places(10);
    bench.dispatcher.on_tick_within(at, &mut many);
    assert_eq!(many.0, 10);
}
