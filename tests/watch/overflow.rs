//! The kernel's queue overflows: what the shard watches may have changed, and nothing else.

use std::fs;

use fansync::change::{Content, MarkKind, Priority};
use fansync::filter::Filter;

use crate::script::{Script, covers, path, write};
use crate::small_queue::{QUEUE, SmallQueue};

/// Two shards with small queues; `flooded` and `calm` are top-level directories of different shards.
fn start() -> Option<Script> {
    let _small = SmallQueue::set()?;
    Some(Script::start_with(2, Filter::none(), |root| {
        for name in ["a/deep", "b/deep"] {
            fs::create_dir_all(root.join(name)).unwrap();
            write(&root.join(name).join("f"), "old");
        }
    }))
}

/// Waits until what was written so far is older than the slack.
fn grow_old(script: &mut Script) {
    let began = std::time::Instant::now();
    while began.elapsed() < script.source.slack * 2 {
        std::thread::park_timeout(script.source.slack);
    }
    script.settle();
}

/// Floods a directory of the trunk, or of the other shard, and checks the marks that come of it.
fn flood(trunk: bool) {
    let Some(mut script) = start() else { return };
    write(&script.at("a/probe"), "");
    script.expect_covered("a/probe");
    let (flooded, calm) = if (script.marks[0].0 == 0) == trunk { ("a", "b") } else { ("b", "a") };
    for name in ["old", "old/older"] {
        fs::create_dir(script.at(&format!("{flooded}/{name}"))).unwrap();
        write(&script.at(&format!("{flooded}/{name}/f")), "old");
    }
    script.settle();
    grow_old(&mut script);
    script.forget();
    for number in 0..QUEUE * 2 {
        write(&script.at(&format!("{flooded}/deep/{number}")), "");
    }
    // These have no event.
    let lost = format!("{flooded}/old/older/f");
    write(&script.at(&lost), "new");
    let also_lost = format!("{flooded}/deep/another");
    write(&script.at(&also_lost), "new");
    script.until("the lost changes", |marks| {
        [&lost, &also_lost].iter().all(|name| marks.iter().any(|(_, mark)| covers(mark, &path(name))))
    });
    script.settle();
    assert_eq!(script.source.reading().overflows, 1, "one marker of one shard");
    let shard = usize::from(!trunk);
    // The root itself is the trunk's; then the flooded directory, deep, old and older.
    assert_eq!(script.rescans, [(shard, if trunk { 5 } else { 4 })], "one pass, through one shard's directories");
    for (_, mark) in &script.marks {
        assert!(!mark.path.is_within(&path(calm)), "{mark:?} is of the other shard; {}", script.shown());
        assert_ne!(mark.kind, MarkKind::Subtree, "{mark:?}: the watch descriptors know every directory");
        let expected = [format!("{flooded}/deep"), lost.clone()];
        if mark.priority == Priority::Background {
            assert!(expected.iter().any(|name| mark.path == path(name)), "{mark:?} did not change");
        }
    }
    assert!(script.has(&lost, MarkKind::Point) && script.has(&format!("{flooded}/deep"), MarkKind::Listing));
}

#[test]
fn an_overflow_finds_what_changed_in_its_own_shard_and_looks_nowhere_else() {
    flood(false);
}

/// The trunk asked the owners to look at every name in the root again, and each look at a name that had not changed
/// ended in "moved here: send all of it", live: one overflow of the trunk sent the whole root.
#[test]
fn an_overflow_of_the_trunk_does_not_send_everything_again() {
    flood(true);
}

/// Inner ctimes are old, and so is the mtime of what came in place of another.
#[test]
fn what_was_moved_here_or_put_in_place_of_another_unseen_is_sent_whole_and_watched() {
    let Some(mut script) = start() else { return };
    for name in ["outside/deep", "twin"] {
        fs::create_dir_all(script.outside(name)).unwrap();
        write(&script.outside(name).join("f"), "old");
    }
    fs::create_dir_all(script.at("a/replaced/deep")).unwrap();
    fs::create_dir_all(script.at("a/inner/moved")).unwrap();
    script.settle();
    grow_old(&mut script);
    script.forget();
    for number in 0..QUEUE * 2 {
        write(&script.at(&format!("a/deep/{number}")), "");
    }
    fs::rename(script.outside("outside"), script.at("a/moved in")).unwrap();
    fs::rename(script.at("a/replaced"), script.outside("away")).unwrap();
    fs::rename(script.outside("twin"), script.at("a/replaced")).unwrap();
    fs::rename(script.at("a/inner/moved"), script.at("a/inner/elsewhere")).unwrap();
    for name in ["a/moved in", "a/replaced", "a/inner/elsewhere"] {
        script.until(name, |marks| {
            marks.iter().any(|(_, mark)| {
                mark.kind == MarkKind::Subtree && mark.path == path(name) && mark.content == Content::Resend
            })
        });
    }
    assert!(script.has("a/inner", MarkKind::Listing) && script.has("a", MarkKind::Listing), "{}", script.shown());
    script.settle();
    script.forget();
    for name in ["a/moved in/deep/f", "a/replaced/f", "a/inner/elsewhere/f"] {
        write(&script.at(name), "new");
        script.expect_point(name, Content::Resend, fansync::change::Stage::Complete);
    }
    script.forget();
    write(&script.outside("away/deep/f"), "");
    script.expect_nothing("");
}

#[test]
fn directories_whose_creation_was_lost_are_watched_after_the_recovery() {
    let Some(mut script) = start() else { return };
    for flooded in ["a", "b"] {
        for number in 0..QUEUE * 2 {
            write(&script.at(&format!("{flooded}/deep/{number}")), "");
        }
        fs::create_dir_all(script.at(&format!("{flooded}/deep/lost/deeper"))).unwrap();
        fs::create_dir_all(script.at(&format!("top of {flooded}/lost"))).unwrap();
        let name = format!("{flooded}/deep/lost/deeper/f");
        script.expect_covered(&name);
        script.settle();
        script.forget();
        write(&script.at(&name), "");
        script.expect_point(&name, Content::Resend, fansync::change::Stage::Complete);
        let name = format!("top of {flooded}/lost/f");
        write(&script.at(&name), "");
        script.expect_point(&name, Content::Resend, fansync::change::Stage::Complete);
    }
    assert_eq!(script.watched(), 5 + 2 * 2 + 2 * 2);
}

#[test]
fn a_directory_that_was_removed_unseen_has_no_watch_after_the_recovery() {
    let Some(mut script) = start() else { return };
    fs::create_dir_all(script.at("a/gone/deep")).unwrap();
    script.settle();
    let watched = script.watched();
    for number in 0..QUEUE * 2 {
        write(&script.at(&format!("a/deep/{number}")), "");
    }
    fs::rename(script.at("a/gone"), script.outside("gone")).unwrap();
    script.until("listing", |marks| marks.iter().any(|(_, mark)| mark.kind == MarkKind::Listing));
    script.settle();
    script.give_up_departed();
    assert_eq!(script.watched(), watched - 2, "{}", script.shown());
    script.forget();
    write(&script.outside("gone/deep/f"), "");
    script.expect_nothing("");
}

/// A watermark that went on although events were lost would hide what was lost.
#[test]
fn the_watermark_stays_where_it_was_when_events_were_lost() {
    let Some(mut script) = start() else { return };
    let before = script.watermarks();
    for number in 0..QUEUE * 2 {
        write(&script.at(&format!("a/deep/{number}")), "");
    }
    script.drain();
    assert_eq!(script.source.reading().overflows, 1);
    let lossy: Vec<usize> = (0..2).filter(|shard| script.watermarks()[*shard] == before[*shard]).collect();
    assert_eq!(lossy.len(), 1, "the other one's queue was seen empty since");
    script.settle();
    assert!((0..2).all(|shard| script.watermarks()[shard] > before[shard]));
}
