//! Directories that come, go, move and change places.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use fansync::change::{Content, MarkKind, Stage};
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::script::{Script, path, write};

fn tree(root: &Path) {
    fs::create_dir_all(root.join("top/a/b")).unwrap();
    fs::create_dir_all(root.join("top/x/y")).unwrap();
    write(&root.join("top/a/b/f"), "a");
    write(&root.join("top/x/y/f"), "x");
}

#[test]
fn new_directories_are_covered_with_what_was_in_them_before_they_were_watched() {
    let mut script = Script::start(|root| fs::create_dir(root.join("top")).unwrap());
    fs::create_dir_all(script.at("top/a/b/c")).unwrap();
    for name in ["top/a/1", "top/a/b/2", "top/a/b/c/3"] {
        write(&script.at(name), "early");
    }
    for name in ["top/a/1", "top/a/b/2", "top/a/b/c/3"] {
        script.expect_covered(name);
    }
    assert_eq!(script.watched(), 5);
    script.forget();
    write(&script.at("top/a/b/c/4"), "late");
    script.expect_point("top/a/b/c/4", Content::Resend, Stage::Complete);
}

#[test]
fn a_new_top_level_directory_is_covered_too() {
    let mut script = Script::start(|_| {});
    fs::create_dir_all(script.at("a/b")).unwrap();
    write(&script.at("a/b/f"), "");
    script.expect_covered("a/b/f");
    script.settle();
    assert_eq!(script.watched(), 3);
}

/// The race that loses files in other tools: what is made while the directory's watch is being added.
#[test]
fn a_race_of_making_and_watching_loses_nothing() {
    let mut script = Script::start(|root| fs::create_dir(root.join("top")).unwrap());
    let top = script.at("top");
    let names: Vec<String> = (0..200).map(|number| format!("d{number}/e/f/g")).collect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for name in &names {
                fs::create_dir_all(top.join(name).parent().unwrap()).unwrap();
                write(&top.join(name), "content");
            }
        });
        while !writer.is_finished() {
            script.until("progress", |_| true);
        }
    });
    script.settle();
    for name in &names {
        script.expect_covered(&format!("top/{name}"));
    }
    assert_eq!(script.watched(), 2 + 600);
}

#[test]
fn a_directory_that_moves_within_a_shard_takes_its_watches_along() {
    let mut script = Script::start(tree);
    let watched = script.watched();
    fs::rename(script.at("top/a"), script.at("top/x/moved")).unwrap();
    script.expect_covered("top/x/moved/b/f");
    script.until("point of the old name", |marks| {
        marks.iter().any(|(_, mark)| mark.path == path("top/a") && mark.gone_directory)
    });
    script.give_up_departed();
    assert_eq!(script.watched(), watched);
    script.forget();
    write(&script.at("top/x/moved/b/f"), "A");
    script.expect_point("top/x/moved/b/f", Content::Resend, Stage::Complete);
    assert!(!script.marks.iter().any(|(_, mark)| mark.path.is_within(&path("top/a"))), "{}", script.shown());
}

/// A re-bound directory is not walked again beneath: 2,000 directories move in the time of one.
#[test]
fn a_move_costs_the_same_whatever_is_beneath() {
    let mut script = Script::start(|root| {
        for number in 0..2000 {
            fs::create_dir_all(root.join(format!("top/big/{number}"))).unwrap();
        }
    });
    let watched = script.watched();
    fs::rename(script.at("top/big"), script.at("top/moved")).unwrap();
    let began = Instant::now();
    script.expect_covered("top/moved/7/f");
    script.settle();
    eprintln!("2,000 directories moved in {:?}", began.elapsed());
    script.give_up_departed();
    assert_eq!(script.watched(), watched);
    script.forget();
    write(&script.at("top/moved/1999/f"), "");
    script.expect_point("top/moved/1999/f", Content::Resend, Stage::Complete);
}

#[test]
fn a_top_level_rename_keeps_its_watches() {
    let mut script = Script::start(tree);
    let watched = script.watched();
    fs::rename(script.at("top"), script.at("new")).unwrap();
    script.expect_covered("new/a/b/f");
    script.settle();
    script.give_up_departed();
    assert_eq!(script.watched(), watched);
    script.forget();
    write(&script.at("new/a/b/f"), "A");
    script.expect_point("new/a/b/f", Content::Resend, Stage::Complete);
}

#[test]
fn a_directory_that_moves_in_is_covered_and_watched() {
    let mut script = Script::start(tree);
    let watched = script.watched();
    fs::create_dir_all(script.outside("in/deep")).unwrap();
    write(&script.outside("in/deep/f"), "");
    fs::rename(script.outside("in"), script.at("top/in")).unwrap();
    script.expect_covered("top/in/deep/f");
    script.settle();
    assert_eq!(script.watched(), watched + 2);
    script.forget();
    write(&script.at("top/in/deep/f"), "x");
    script.expect_point("top/in/deep/f", Content::Resend, Stage::Complete);
}

#[test]
fn a_directory_that_moves_out_is_gone_and_its_later_changes_are_not_ours() {
    for top_level in [false, true] {
        let mut script = Script::start(tree);
        let watched = script.watched();
        let (name, fewer) = if top_level { ("top", 5) } else { ("top/a", 2) };
        fs::rename(script.at(name), script.outside("out")).unwrap();
        script.until("point of a gone directory", |marks| {
            marks.iter().any(|(_, mark)| mark.path == path(name) && mark.gone_directory)
        });
        script.settle();
        script.give_up_departed();
        assert_eq!(script.watched(), watched - fewer, "{name}: {}", script.shown());
        script.forget();
        let f = if top_level { "out/a/b/f" } else { "out/b/f" };
        write(&script.outside(f), "changed");
        write(&script.outside("out/new"), "");
        script.expect_nothing("");
    }
}

#[test]
fn a_replaced_directory_is_watched_anew() {
    let mut script = Script::start(|root| fs::create_dir_all(root.join("top/d")).unwrap());
    let watched = script.watched();
    fs::remove_dir(script.at("top/d")).unwrap();
    fs::create_dir(script.at("top/d")).unwrap();
    write(&script.at("top/d/f"), "");
    script.expect_covered("top/d/f");
    script.settle();
    assert_eq!(script.watched(), watched);
    script.forget();
    write(&script.at("top/d/g"), "");
    script.expect_point("top/d/g", Content::Resend, Stage::Complete);
}

#[test]
fn exchanged_directories_have_each_others_names() {
    for (one, other) in [("top/a", "top/x"), ("top/a", "top/x/y")] {
        let mut script = Script::start(tree);
        let watched = script.watched();
        rustix::fs::renameat_with(CWD, script.at(one), CWD, script.at(other), RenameFlags::EXCHANGE).unwrap();
        script.expect_covered(&format!("{one}/f"));
        script.expect_covered(&format!("{other}/b/f"));
        script.settle();
        script.give_up_departed();
        assert_eq!(script.watched(), watched, "{one} {other}: {}", script.shown());
        script.forget();
        write(&script.at(&format!("{other}/b/f")), "A");
        script.expect_point(&format!("{other}/b/f"), Content::Resend, Stage::Complete);
        write(&script.at(&format!("{one}/new")), "X");
        script.expect_point(&format!("{one}/new"), Content::Resend, Stage::Complete);
        let wrong = path(&format!("{one}/b"));
        assert!(!script.marks.iter().any(|(_, mark)| mark.path.is_within(&wrong)), "{}", script.shown());
    }
}

#[test]
fn a_directory_removed_while_it_is_open_is_gone() {
    let mut script = Script::start(|root| fs::create_dir_all(root.join("top/d")).unwrap());
    let watched = script.watched();
    let open = File::open(script.at("top/d")).unwrap();
    fs::remove_dir(script.at("top/d")).unwrap();
    script.until("point of a gone directory", |marks| {
        marks.iter().any(|(_, mark)| mark.path == path("top/d") && mark.gone_directory)
    });
    drop(open);
    script.settle();
    assert_eq!(script.watched(), watched - 1);
}

#[test]
fn a_directory_that_becomes_a_file_is_gone() {
    let mut script = Script::start(|root| fs::create_dir_all(root.join("top/d/e")).unwrap());
    fs::remove_dir_all(script.at("top/d")).unwrap();
    write(&script.at("top/d"), "a file");
    script.expect_point("top/d", Content::Resend, Stage::Complete);
    script.settle();
    assert_eq!(script.watched(), 2);
}

#[test]
fn times_and_modes_of_a_directory_are_its_attributes_only() {
    let mut script = Script::start(tree);
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 },
    };
    for name in ["top/a", "", "top"] {
        script.forget();
        rustix::fs::utimensat(CWD, script.at(name), &times, AtFlags::empty()).unwrap();
        script.until(&format!("attributes of '{name}'"), |marks| {
            marks.iter().any(|(_, mark)| mark.path == path(name) && mark.kind == MarkKind::Attributes)
        });
        script.settle();
        assert!(script.marks.iter().all(|(_, mark)| mark.kind == MarkKind::Attributes), "{}", script.shown());
    }
}

/// A directory is renamed while its walk is open: the mark under its new name comes when all of it is watched. Else
/// what changes between that mark and the rest of the walk is never told.
#[test]
fn a_directory_that_moves_while_it_is_walked_is_marked_when_all_of_it_is_watched() {
    let mut script = Script::start(|root| fs::create_dir_all(root.join("top")).unwrap());
    for number in 0..8 {
        for deep in 0..32 {
            fs::create_dir_all(script.outside(&format!("in/{number}/{deep}/x"))).unwrap();
        }
    }
    fs::rename(script.outside("in"), script.at("top/in")).unwrap();
    // The walk stops after 64 directories.
    script.drain();
    let before = script.source.reading().watched;
    assert!(before < 100 && !script.source.is_settled(), "{before}");
    fs::rename(script.at("top/in"), script.at("top/new")).unwrap();
    script.drain();
    let all = 2 + 1 + 8 + 8 * 32 * 2;
    for _slice in 0..1000 {
        if script.marks.iter().any(|(_, mark)| mark.kind == MarkKind::Subtree && mark.path == path("top/new")) {
            assert_eq!(script.source.reading().watched, all);
            return;
        }
        script.walk(1);
    }
    panic!("no mark of the new name; {}", script.shown());
}

/// A directory was renamed, and one above it was, before the first of the two events was read. The new name was looked
/// for where it was no more, and whoever looked at the one above took what was watched beneath as complete: nothing in the
/// directory had a watch from then on. Found by waiting for random changes, once in some thousand.
#[test]
fn a_name_that_came_just_before_one_above_it_was_renamed_is_watched() {
    let mut script = Script::start(tree);
    fs::rename(script.at("top/a/b"), script.at("top/a/c")).unwrap();
    fs::rename(script.at("top/a"), script.at("top/z")).unwrap();
    fs::create_dir_all(script.at("top/x/y/new/deep")).unwrap();
    fs::rename(script.at("top/x"), script.at("top/w")).unwrap();
    script.settle();
    script.give_up_departed();
    assert!(script.source.is_settled());
    for name in ["top/z/c/f", "top/w/y/new/deep/f", "top/w/y/new/f"] {
        script.forget();
        write(&script.at(name), "late");
        script.expect_point(name, Content::Resend, Stage::Complete);
    }
}

#[test]
fn a_name_that_came_just_before_its_top_level_directory_was_renamed_is_watched() {
    for shards in [1, 3] {
        let mut script = Script::start_with(shards, fansync::filter::Filter::none(), tree);
        fs::create_dir(script.at("top/x/y/new")).unwrap();
        fs::rename(script.at("top"), script.at("pot")).unwrap();
        script.settle();
        script.give_up_departed();
        assert!(script.source.is_settled());
        script.forget();
        write(&script.at("pot/x/y/new/f"), "late");
        script.expect_point("pot/x/y/new/f", Content::Resend, Stage::Complete);
    }
}

/// As above, with another directory in the place of the one that was renamed: the watch of its inner directory was taken
/// for that of the one that went with the other.
#[test]
fn a_directory_made_before_one_above_it_was_exchanged_keeps_apart_from_its_namesake() {
    let mut script = Script::start(|root| {
        tree(root);
        fs::create_dir_all(root.join("top/x/b/new")).unwrap();
    });
    fs::create_dir(script.at("top/a/b/new")).unwrap();
    rustix::fs::renameat_with(CWD, script.at("top/a"), CWD, script.at("top/x"), RenameFlags::EXCHANGE).unwrap();
    script.settle();
    script.forget();
    for name in ["top/x/b/new/f", "top/a/b/new/g"] {
        write(&script.at(name), "late");
        script.expect_point(name, Content::Resend, Stage::Complete);
    }
}
