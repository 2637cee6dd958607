//! Two shards of one root, errands delivered by hand.

use std::fs;

use fansync::change::{Content, Stage};
use fansync::filter::Filter;

use crate::script::{Script, path, write};

/// The shard that reports a write in the top-level directory `name`.
fn owner(script: &mut Script, name: &str) -> usize {
    script.forget();
    let probe = format!("{name}/probe");
    write(&script.at(&probe), "");
    script.expect_point(&probe, Content::Resend, Stage::Complete);
    let at = path(&probe);
    let owner = script.marks.iter().find(|(_, mark)| mark.path == at).unwrap().0;
    script.settle();
    script.forget();
    owner
}

fn start() -> Script {
    Script::start_with(2, Filter::none(), |root| {
        for name in ["one/a/b", "two/x", "three", "four"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        write(&root.join("one/a/b/f"), "");
    })
}

#[test]
fn top_level_directories_are_spread_over_the_shards() {
    let mut script = start();
    assert_eq!(script.watched(), 8);
    let owners: Vec<usize> = ["one", "two", "three", "four"].map(|name| owner(&mut script, name)).to_vec();
    assert_eq!(owners.iter().filter(|owner| **owner == 0).count(), 2, "{owners:?}");
}

#[test]
fn a_directory_that_moves_between_shards_is_watched_by_its_new_owner_alone() {
    let mut script = start();
    let from = owner(&mut script, "one");
    let other = ["two", "three", "four"].into_iter().find(|name| owner(&mut script, name) != from).unwrap();
    let watched = script.watched();
    fs::rename(script.at("one/a"), script.at(&format!("{other}/a"))).unwrap();
    script.expect_covered(&format!("{other}/a/b/f"));
    script.until("point of a gone directory", |marks| {
        marks.iter().any(|(_, mark)| mark.path == path("one/a") && mark.gone_directory)
    });
    script.settle();
    script.give_up_departed();
    assert_eq!(script.watched(), watched, "{}", script.shown());
    script.forget();
    let name = format!("{other}/a/b/f");
    write(&script.at(&name), "changed");
    script.expect_point(&name, Content::Resend, Stage::Complete);
    script.settle();
    assert!(script.marks.iter().all(|(shard, _)| *shard != from), "{}", script.shown());
}

#[test]
fn a_renamed_top_level_directory_stays_with_its_shard() {
    let mut script = start();
    for name in ["one", "two"] {
        let (before, watched) = (owner(&mut script, name), script.watched());
        let new = format!("{name} renamed");
        fs::rename(script.at(name), script.at(&new)).unwrap();
        script.expect_covered(&format!("{new}/anything"));
        script.settle();
        script.give_up_departed();
        assert_eq!(script.watched(), watched);
        assert_eq!(owner(&mut script, &new), before);
    }
}

#[test]
fn a_top_level_directory_that_moves_below_another_shards_is_not_lost() {
    let mut script = start();
    let from = owner(&mut script, "one");
    let other = ["two", "three", "four"].into_iter().find(|name| owner(&mut script, name) != from).unwrap();
    let watched = script.watched();
    for (old, new) in [("one".to_owned(), format!("{other}/one")), (format!("{other}/one"), "one".to_owned())] {
        script.forget();
        fs::rename(script.at(&old), script.at(&new)).unwrap();
        script.expect_covered(&format!("{new}/a/b/f"));
        script.settle();
        script.give_up_departed();
        assert_eq!(script.watched(), watched, "{old} to {new}: {}", script.shown());
        script.forget();
        let name = format!("{new}/a/b/f");
        write(&script.at(&name), "changed");
        script.expect_point(&name, Content::Resend, Stage::Complete);
    }
}

/// A directory that takes its own parent's name was dropped with that parent, and its watch with it, when the owner
/// looked at the name before it had read the events.
#[test]
fn a_directory_that_takes_the_name_of_its_own_parent_stays_watched() {
    let mut script = Script::start_with(2, Filter::none(), |root| {
        for name in ["one/e/deep", "two/e/deep"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
    });
    for name in ["one", "two"] {
        fs::rename(script.at(&format!("{name}/e")), script.at("aside")).unwrap();
        fs::remove_dir(script.at(name)).unwrap();
        fs::rename(script.at("aside"), script.at(name)).unwrap();
        script.errands_first();
        script.settle();
        script.give_up_departed();
        script.forget();
        for file in ["f", "deep/f"] {
            let file = format!("{name}/{file}");
            write(&script.at(&file), "");
            script.expect_point(&file, Content::Resend, Stage::Complete);
        }
    }
    assert_eq!(script.watched(), 5, "{}", script.shown());
}

/// The owner of the directory that left took the new one of that name for its own, and watched it beside its owner.
#[test]
fn a_top_level_directory_that_takes_a_name_is_watched_by_one_shard_only() {
    let mut script = start();
    let watched = script.watched();
    for name in ["one", "two", "three", "four"] {
        fs::rename(script.at(name), script.at(&format!("{name} before"))).unwrap();
        script.drain();
        fs::create_dir(script.at(name)).unwrap();
        script.settle();
        script.give_up_departed();
    }
    assert_eq!(script.watched(), watched + 4, "{}", script.shown());
}

/// Found by the simulation. A directory that moves to the top has no path until the trunk's errand for its new name is done.
/// Events of its inside that were read meanwhile were dropped, and the walk of the errand took the directories that it
/// knew for listed: what was made in them had no watch, for ever.
#[test]
fn a_directory_made_in_one_that_just_moved_to_the_top_is_watched() {
    let mut script = Script::start(|root| fs::create_dir_all(root.join("top/before/inner")).unwrap());
    fs::rename(script.at("top/before"), script.at("after")).unwrap();
    fs::create_dir_all(script.at("after/inner/new/deeper")).unwrap();
    script.settle();
    script.give_up_departed();
    script.forget();
    for name in ["after/inner/new/f", "after/inner/new/deeper/f"] {
        write(&script.at(name), "");
        script.expect_point(name, Content::Resend, Stage::Complete);
    }
}
