//! Tables over what a draft becomes.

use super::*;
use crate::change::BatchId;
use crate::plan::survey::Found;
use crate::sys::clock::WallTime;
use crate::sys::files::{Identity, Status};

const LARGE: u64 = 1_000;
const OPTIONS: PlanOptions = PlanOptions {
    large: LARGE,
    whole_max: WHOLE_MAX,
    bytes_max: 3_000,
    entries_max: 100,
    follow_max: 3,
    missing_args: true,
    keep: false,
};
const SINCE: Content = Content::Since(WallTime(500));

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn mark(kind: MarkKind, text: &str, content: Content) -> DraftMark {
    DraftMark { path: path(text), kind, content, derived: false, attempts: 0, deletes: Deletes::Single, origin: None }
}

fn point(text: &str) -> DraftMark {
    mark(MarkKind::Point, text, Content::Compare)
}

fn draft(marks: Vec<DraftMark>) -> Draft {
    let class = match marks[0].kind {
        MarkKind::Attributes | MarkKind::Point => Class::Points,
        MarkKind::Listing => Class::Listing,
        MarkKind::Subtree => Class::Subtree,
    };
    Draft { batch: BatchId(1), class, priority: Priority::Live, large: false, marks }
}

fn status(entry_type: EntryType, size: u64, changed: i64) -> Status {
    let identity = Identity { device: 1, inode: 1 };
    Status { entry_type, identity, links: 1, size, changed: WallTime(changed), modified: WallTime(changed) }
}

fn saw(look: Look) -> Sighting {
    Sighting { look, excluded: false, siblings: Siblings::default(), survey: None }
}

fn file(size: u64) -> Sighting {
    saw(Look::Present(status(EntryType::File, size, 1_000)))
}

fn directory() -> Sighting {
    Sighting { survey: Some(Survey::default()), ..saw(Look::Present(status(EntryType::Directory, 4_096, 1_000))) }
}

fn holding(survey: Survey) -> Sighting {
    Sighting { survey: Some(survey), ..directory() }
}

/// Runs as words: kind, `-I` or not, entries as rsync gets them.
fn runs(plan: &Plan) -> Vec<String> {
    (plan.runs.iter())
        .map(|run| {
            let entries = run
                .entries
                .iter()
                .map(|(path, kind)| String::from_utf8(entry(path, *kind)).unwrap().trim_end_matches('\0').to_owned());
            let resend = if run.resend { " -I" } else { "" };
            format!("{:?}{resend} {}", run.kind, entries.collect::<Vec<_>>().join(" "))
        })
        .collect()
}

fn marks(plan: &Plan) -> Vec<String> {
    let word = |mark: &Mark| format!("{:?} {} {:?} {:?}", mark.kind, mark.path, mark.content, mark.priority);
    // Most rules have nothing to do with the root's own times.
    plan.marks.iter().filter(|mark| mark.kind != MarkKind::Attributes).map(word).collect()
}

#[test]
fn what_is_there_and_what_is_asked_decide_the_run() {
    use MarkKind::{Attributes, Listing, Point, Subtree};
    let is = |entry_type| saw(Look::Present(status(entry_type, 10, 1_000)));
    let check = |kind, content, sighting: Sighting, expected: &[&str]| {
        let draft = draft(vec![mark(kind, "d", content)]);
        let plan = plan(&draft, &[sighting], &OPTIONS);
        assert_eq!(runs(&plan), expected, "{kind:?} {content:?}");
        assert_eq!((plan.large.len(), plan.later.len(), plan.failed.len(), marks(&plan).len()), (0, 0, 0, 0));
    };
    for content in [Content::Compare, Content::Resend, SINCE] {
        check(Attributes, content, directory(), &["Points /d"]);
        check(Attributes, content, is(EntryType::File), &[]);
        check(Attributes, content, is(EntryType::Symlink), &[]);
        check(Attributes, content, is(EntryType::Special), &[]);
        check(Attributes, content, saw(Look::Absent), &[]);
        check(Point, content, directory(), &["Points /d"]);
        check(Point, content, is(EntryType::Symlink), &["Points /d"]);
        check(Point, content, is(EntryType::Special), &["Points /d"]);
        check(Point, content, saw(Look::Absent), &["Points /d"]);
    }
    check(Listing, Content::Compare, directory(), &["Listing /d/"]);
    check(Listing, Content::Resend, directory(), &["Listing -I /d/"]);
    check(Listing, SINCE, directory(), &["Listing /d/"]);
    check(Subtree, Content::Compare, directory(), &["Subtree /d"]);
    check(Subtree, Content::Resend, directory(), &["Subtree -I /d"]);
    check(Subtree, SINCE, directory(), &["Subtree /d"]);
    for kind in [Listing, Subtree] {
        check(kind, Content::Compare, is(EntryType::Symlink), &["Points /d"]);
        check(kind, Content::Compare, is(EntryType::Special), &["Points /d"]);
        check(kind, Content::Compare, saw(Look::Absent), &[&format!("{kind:?} /d")]);
    }
    for kind in [Point, Listing, Subtree] {
        check(kind, Content::Compare, is(EntryType::File), &["Points /d"]);
        check(kind, Content::Resend, is(EntryType::File), &["Points -I /d"]);
        // A wide mark's run has no `-I` for what changed since: the file of its name was sent by size and mtime only.
        check(kind, SINCE, is(EntryType::File), &["Points -I /d"]);
        check(kind, SINCE, saw(Look::Present(status(EntryType::File, 10, 499))), &["Points /d"]);
    }
}

#[test]
fn the_roots_own_attributes_go_in_a_run_of_their_own() {
    // The run was there, and nothing asked for it: the root went as an entry, which to rsync is a listing of its files.
    let attributes = mark(MarkKind::Attributes, "", Content::Compare);
    let write = mark(MarkKind::Point, "a", Content::Resend);
    let both = plan(&draft(vec![attributes, write]), &[directory(), file(10)], &OPTIONS);
    assert_eq!(runs(&both), ["Points -I /a", "RootAttributes /"]);
    let listing = draft(vec![mark(MarkKind::Listing, "", Content::Compare)]);
    assert_eq!(runs(&plan(&listing, &[directory()], &OPTIONS)), ["Listing /"]);
    let subtree = draft(vec![mark(MarkKind::Subtree, "", Content::Compare)]);
    assert_eq!(runs(&plan(&subtree, &[directory()], &OPTIONS)), ["Subtree /"]);
}

#[test]
fn a_name_that_is_gone_is_an_entry_or_a_listing_of_its_parent() {
    let check = |kind, text: &str, missing_args: bool, expected_runs: &[&str], expected_marks: &[&str]| {
        let options = PlanOptions { missing_args, ..OPTIONS };
        let plan = plan(&draft(vec![mark(kind, text, Content::Compare)]), &[saw(Look::Absent)], &options);
        assert_eq!(runs(&plan), expected_runs);
        assert_eq!(marks(&plan), expected_marks);
        assert_eq!(plan.deletes, expected_runs.len());
    };
    check(MarkKind::Point, "d/x", true, &["Points /d/x"], &[]);
    check(MarkKind::Point, "d/x", false, &[], &["Listing d Compare Live"]);
    check(MarkKind::Point, "x", false, &[], &["Listing . Compare Live"]);
    check(MarkKind::Subtree, "d/x", false, &[], &["Listing d Compare Live"]);
    check(MarkKind::Attributes, "d/x", false, &[], &[]);
}

#[test]
fn nothing_is_listed_beneath_what_is_missing_or_no_directory() {
    for look in [Look::ParentMissing(path("d")), Look::ParentIsNoDirectory(path("d"))] {
        for kind in [MarkKind::Attributes, MarkKind::Point, MarkKind::Listing, MarkKind::Subtree] {
            let draft = draft(vec![mark(kind, "d/e/x", Content::Compare)]);
            let plan = plan(&draft, &[saw(look.clone())], &OPTIONS);
            assert_eq!(runs(&plan), [] as [&str; 0]);
            assert_eq!(marks(&plan), ["Point d Resend Live"]);
        }
    }
}

#[test]
fn what_cannot_be_sent_is_told_and_keeps_the_rest_going() {
    let draft = draft(vec![point("a"), point("b"), point("c")]);
    let sightings = [saw(Look::TooLong), saw(Look::Unreadable("no".to_owned())), file(1)];
    let plan = plan(&draft, &sightings, &OPTIONS);
    assert_eq!(runs(&plan), ["Points /c"]);
    let failed: Vec<&RelPath> = plan.failed.iter().map(|(path, _)| path).collect();
    assert_eq!(failed, [&path("a"), &path("b")]);
    assert_eq!(plan.failed[1].1, "no");
}

#[test]
fn a_directory_that_could_not_be_listed_fails() {
    let draft = draft(vec![mark(MarkKind::Listing, "d", Content::Compare)]);
    let plan = plan(&draft, &[Sighting { survey: None, ..directory() }], &OPTIONS);
    assert_eq!((plan.failed.len(), plan.runs.len()), (1, 0));
}

#[test]
fn a_name_that_something_excluded_took_is_deleted_by_a_listing_with_the_rules() {
    let check = |derived: bool, expected: &[&str]| {
        let draft = draft(vec![DraftMark { derived, ..point("d/x") }]);
        let plan = plan(&draft, &[Sighting { excluded: true, ..file(1) }], &OPTIONS);
        assert_eq!(runs(&plan), [] as [&str; 0]);
        assert_eq!(marks(&plan), expected);
    };
    check(false, &["Listing d Compare Live"]);
    check(true, &[]);
}

#[test]
fn other_names_of_the_inode_are_marked_once() {
    let siblings = Siblings { others: vec![path("e/y"), path("e/z")], incomplete: true };
    let check = |mark: DraftMark, expected: &[&str]| {
        let plan = plan(&draft(vec![mark]), &[Sighting { siblings: siblings.clone(), ..file(1) }], &OPTIONS);
        assert_eq!(marks(&plan), expected);
        assert!(plan.marks.iter().all(|mark| (mark.derived || mark.path.is_root()) && !mark.changes_names));
        assert_eq!(plan.search_links, !expected.is_empty());
    };
    check(point("d/x"), &["Point e/y Resend Live", "Point e/z Resend Live"]);
    check(DraftMark { derived: true, ..point("d/x") }, &[]);
    check(mark(MarkKind::Listing, "d", Content::Resend), &["Point e/y Resend Live", "Point e/z Resend Live"]);
    let searches = |content| {
        let marks = vec![mark(MarkKind::Point, "d/x", content)];
        let background = Draft { priority: Priority::Background, ..draft(marks) };
        plan(&background, &[Sighting { siblings: siblings.clone(), ..file(1) }], &OPTIONS).search_links
    };
    assert!(!searches(Content::Compare), "a cold start sees all names anyway");
    // A link was made in the directories of one shard and written through; its queue overflowed, and the other name lay
    // among those of another one, where nothing was looked for.
    assert!(searches(Content::Resend) && searches(SINCE), "an overflow sees those of its shard");
}

#[test]
fn large_files_leave_for_the_large_lane_and_go_there_whatever_asked_for_them() {
    use MarkKind::{Listing, Point, Subtree};
    for kind in [Point, Listing, Subtree] {
        for content in [Content::Compare, Content::Resend, SINCE] {
            let small_lane = draft(vec![mark(kind, "f", content)]);
            let left = plan(&small_lane, &[file(LARGE + 1)], &OPTIONS);
            assert_eq!((runs(&left), &left.large[..]), (vec![], &[path("f")][..]));
            assert_eq!(runs(&plan(&small_lane, &[file(LARGE)], &OPTIONS)).len(), 1);

            // A wide run leaves large files out: the file of a listing's name was acknowledged and never sent.
            let large_lane = Draft { large: true, ..small_lane };
            let sent = plan(&large_lane, &[file(1_000_000)], &OPTIONS);
            assert_eq!((sent.runs.len(), sent.runs[0].size_max), (1, None), "{kind:?}");
            assert_eq!(sent.runs[0].kind, RunKind::Points);
        }
    }
}

#[test]
fn too_many_bytes_wait_for_the_next_batch() {
    let points = draft(vec![point("a"), point("b"), point("c"), point("d"), point("e")]);
    let planned = plan(&points, &[file(1_000), file(1_000), file(1_000), file(1), saw(Look::Absent)], &OPTIONS);
    assert_eq!(planned.later, [path("d")]);
    assert_eq!((planned.bytes, runs(&planned)), (3_000, vec!["Points /a /b /c /e".to_owned()]));

    let listing = |text| mark(MarkKind::Listing, text, Content::Compare);
    let listings = draft(vec![listing("a"), listing("b"), listing("c")]);
    let bytes = |bytes| holding(Survey { bytes, ..Survey::default() });
    let planned = plan(&listings, &[bytes(9_000), bytes(1), bytes(0)], &OPTIONS);
    assert_eq!(planned.later, [path("b"), path("c")], "the first goes however much it is");
    let entries = |entries| holding(Survey { entries, directories: 2, ..Survey::default() });
    let planned = plan(&listings, &[entries(60), entries(41), entries(40)], &OPTIONS);
    assert_eq!((planned.later, planned.directories), (vec![path("b")], 4));
}

#[test]
fn a_subtree_that_is_too_big_becomes_its_listing_and_its_children_in_the_background() {
    let survey = Survey { too_big: true, children: vec![path("d/a"), path("d/b")], ..Survey::default() };
    let draft = draft(vec![mark(MarkKind::Subtree, "d", SINCE)]);
    let planned = plan(&draft, &[holding(survey)], &OPTIONS);
    assert_eq!(planned.runs, []);
    let since = format!("{SINCE:?} Background");
    let expected = ["Listing d", "Subtree d/a", "Subtree d/b"].map(|part| format!("{part} {since}"));
    assert_eq!(marks(&planned), expected);
    assert!(planned.marks.iter().all(|mark| !mark.changes_names));
}

#[test]
fn a_wide_run_leaves_large_files_to_their_own_marks_and_sends_again_what_changed_since() {
    let survey = || Survey { large: vec![path("d/big")], changed: vec![path("d/x"), path("d/y")], ..Survey::default() };
    let check = |content, expected_runs: &[&str], expected_marks: &[&str]| {
        let planned = plan(&draft(vec![mark(MarkKind::Listing, "d", content)]), &[holding(survey())], &OPTIONS);
        assert_eq!(runs(&planned), expected_runs);
        assert_eq!(marks(&planned), expected_marks);
        assert_eq!(planned.runs[0].size_max, Some(LARGE));
        assert!(planned.marks.iter().all(|mark| (mark.large || mark.path.is_root()) && !mark.changes_names));
    };
    check(Content::Compare, &["Listing /d/"], &["Point d/big Compare Live"]);
    check(Content::Resend, &["Listing -I /d/"], &["Point d/big Resend Live"]);
    let since = format!("Point d/big {SINCE:?} Live");
    check(SINCE, &["Listing /d/", "Points -I /d/x /d/y"], &[&since]);
}

#[test]
fn small_points_ride_along_with_those_that_are_sent_again() {
    let options = PlanOptions { large: u64::MAX, bytes_max: u64::MAX, ..OPTIONS };
    let check = |compared: u64, again: u64, expected: &[(&str, bool)]| {
        let marks = vec![point("a"), mark(MarkKind::Point, "b", Content::Resend), point("c")];
        let planned = plan(&draft(marks), &[file(compared), file(again), saw(Look::Absent)], &options);
        let whole: Vec<bool> = planned.runs.iter().map(|run| run.whole).collect();
        let (words, expected_whole): (Vec<&str>, Vec<bool>) = expected.iter().copied().unzip();
        assert_eq!((runs(&planned), whole), (words.iter().map(|word| (*word).to_owned()).collect(), expected_whole));
    };
    check(10, 10, &[("Points -I /a /b /c", true)]);
    check(RESEND_ANYWAY, 10, &[("Points -I /a /b /c", true)]);
    check(RESEND_ANYWAY + 1, 10, &[("Points -I /b", true), ("Points /a /c", true)]);
    check(10, WHOLE_MAX + 1, &[("Points -I /a /b /c", false)]);
    check(WHOLE_MAX + 1, WHOLE_MAX, &[("Points -I /b", true), ("Points /a /c", false)]);
}

#[test]
fn entries_begin_with_a_slash_and_end_with_nul() {
    let check = |text: &str, kind, expected: &[u8]| assert_eq!(entry(&path(text), kind), expected);
    check("#a/;b\n", EntryKind::Plain, b"/#a/;b\n\0");
    check("a", EntryKind::Listing, b"/a/\0");
    check("", EntryKind::Listing, b"/\0");
    check("", EntryKind::Plain, b"/\0");
}

/// A file in the root that was rewritten left the root of the target with the time of its transfer: rsync makes the new
/// file in it, and puts the times back only of directories that are in its list.
#[test]
fn whatever_is_sent_or_deleted_in_the_root_makes_its_own_times_follow() {
    use MarkKind::{Attributes, Point, Subtree};
    let file = || saw(Look::Present(status(EntryType::File, 10, 1_000)));
    let check = |kind, text: &str, sighting, expected: &[&str]| {
        let planned = plan(&draft(vec![mark(kind, text, Content::Compare)]), &[sighting], &OPTIONS);
        let word = |mark: &Mark| format!("{:?} {} {:?}", mark.kind, mark.path, mark.stage);
        assert_eq!(planned.marks.iter().map(word).collect::<Vec<_>>(), expected, "{kind:?} {text}");
    };
    check(Point, "a", file(), &["Attributes . Lazy"]);
    check(Point, "a", saw(Look::Absent), &["Attributes . Lazy"]);
    check(Subtree, "d", directory(), &["Attributes . Lazy"]);
    check(Attributes, "d", directory(), &[]);
    check(Point, "d/a", file(), &[]);
}

/// A directory with more subdirectories, or more large files, than the backlog holds was split into marks that were
/// widened to the directory again, without end.
#[test]
fn what_would_lead_to_more_marks_than_fit_is_sent_at_once() {
    let many = |large: usize| Survey {
        large: (0..large).map(|number| path(&format!("d/{number}"))).collect(),
        large_changed: vec![path("d/0")],
        children: (0..5).map(|number| path(&format!("d/c{number}"))).collect(),
        ..Survey::default()
    };
    let planned = |large, attempts| {
        let mark = DraftMark { attempts, ..mark(MarkKind::Subtree, "d", SINCE) };
        let sighting = Sighting { survey: Some(many(large)), ..directory() };
        plan(&draft(vec![mark]), &[sighting], &OPTIONS)
    };
    let fits = planned(3, 0);
    assert_eq!((fits.runs[0].size_max, marks(&fits).len()), (Some(LARGE), 3));
    let too_many = planned(4, 0);
    assert_eq!((too_many.runs[0].size_max, marks(&too_many).len()), (None, 0));
    assert_eq!(
        runs(&too_many),
        ["Subtree /d", "Points -I /d/0"],
        "what changed is sent whatever its size and mtime say"
    );
    assert_eq!(runs(&planned(0, 1)), ["Subtree /d"], "five parts are more than three");
}

#[test]
fn what_was_renamed_is_linked_and_compared_or_else_sent() {
    let moved = |attempts| DraftMark {
        origin: Some(path("old")),
        attempts,
        ..mark(MarkKind::Subtree, "new", Content::Compare)
    };
    let check = |mark: DraftMark, sighting: Sighting, keep: bool, expected: &[&str], names: Option<u32>| {
        let options = PlanOptions { keep, ..OPTIONS };
        let plan = plan(&draft(vec![mark]), &[sighting], &options);
        assert_eq!(runs(&plan), expected);
        assert_eq!(plan.moved, names, "{expected:?}");
        for run in &plan.runs {
            assert_eq!(run.basis.is_some(), run.kind == RunKind::Move);
            assert!(run.size_max.is_none() || names.is_none(), "large files have no marks of their own");
        }
    };
    let held = || Survey { entries: 7, bytes: 1 << 40, ..Survey::default() };
    let move_and_compare = ["Move /new", "Subtree /new"];
    check(moved(0), holding(held()), false, &move_and_compare, Some(8));
    // Once it has failed, or where it cannot be looked through at once, it is sent like any directory that appeared.
    check(moved(1), holding(held()), false, &[], None);
    check(moved(0), holding(Survey { too_big: true, ..held() }), false, &[], None);
    check(moved(0), holding(held()), true, &["Subtree -I /new"], None);
    check(moved(0), file(10), false, &["Points -I /new"], None);
    check(moved(0), saw(Look::Absent), false, &["Subtree -I /new"], None);
}

#[test]
fn a_file_with_other_names_is_sent_after_the_move() {
    let found = |name: &str| Found { path: path(name), identity: Identity { device: 1, inode: 7 }, links: 2 };
    let moved = DraftMark { origin: Some(path("old")), ..mark(MarkKind::Subtree, "new", Content::Compare) };
    let survey = Survey { entries: 2, linked: vec![found("new/x")], ..Survey::default() };
    let plan = plan(&draft(vec![moved]), &[holding(survey)], &OPTIONS);
    assert_eq!(marks(&plan), ["Point new/x Resend Live"]);
}

#[test]
fn what_was_moved_may_be_deleted_without_being_asked_about() {
    let gone = |name: &str, deletes| DraftMark { deletes, ..point(name) };
    let risks = |marks: Vec<DraftMark>| -> Vec<Risk> {
        let sightings: Vec<Sighting> = marks.iter().map(|_| saw(Look::Absent)).collect();
        plan(&draft(marks), &sightings, &OPTIONS).runs.into_iter().map(|run| run.risk).collect()
    };
    assert_eq!(risks(vec![gone("a", Deletes::Moved(3)), gone("b", Deletes::Moved(4))]), [Risk::Moved(7)]);
    assert_eq!(risks(vec![gone("a", Deletes::Unknown)]), [Risk::Unknown]);
}
