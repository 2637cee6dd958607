//! Directories that the trunk watches and whose directories it deals: by a configured depth, or because one held most.

use std::fs;
use std::path::Path;

use fansync::change::{Content, MarkKind, Stage};

use crate::script::{Script, path, write};
use crate::small_queue::{QUEUE, SmallQueue};

/// Every change in `name` has its marks, by one shard only; returns which.
fn owner(script: &mut Script, name: &str) -> usize {
    script.forget();
    let probe = if name.is_empty() { "probe".to_owned() } else { format!("{name}/probe") };
    write(&script.at(&probe), "");
    script.expect_point(&probe, Content::Resend, Stage::Complete);
    script.settle();
    let at = path(&probe);
    let mut owners: Vec<usize> =
        script.marks.iter().filter(|(_, mark)| mark.path == at).map(|(shard, _)| *shard).collect();
    owners.dedup();
    assert_eq!(owners.len(), 1, "{name}: {}", script.shown());
    script.forget();
    fs::remove_file(script.at(&probe)).unwrap();
    script.settle();
    script.forget();
    owners[0]
}

fn directories(at: &Path) -> usize {
    let inner = fs::read_dir(at).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_dir());
    1 + inner.map(|entry| directories(&entry.path())).sum::<usize>()
}

/// All directories are watched, each once, and changes in each are told.
fn check(script: &mut Script) {
    script.settle();
    script.give_up_departed();
    let root = script.at("");
    assert_eq!(script.watched(), i64::try_from(directories(&root)).unwrap(), "{}", script.shown());
    let mut waiting = vec![root.clone()];
    while let Some(directory) = waiting.pop() {
        let name = directory.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        owner(script, &name);
        let inner = fs::read_dir(&directory).unwrap().map(Result::unwrap);
        waiting.extend(inner.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()));
    }
}

/// Two levels of the crown: the root, and `a`, `b` and `c`.
fn deep(shards: u16) -> Script {
    of_depth(shards, 2)
}

fn of_depth(shards: u16, depth: u16) -> Script {
    Script::start_dealing(shards, depth, u64::MAX, |root| {
        for name in ["a/one/deep", "a/two/deep", "a/three", "b/one/deep", "c"] {
            fs::create_dir_all(root.join(name)).unwrap();
            write(&root.join(name).join("f"), "old");
        }
    })
}

#[test]
fn directories_of_the_second_level_are_dealt() {
    let mut script = deep(2);
    check(&mut script);
    assert_eq!(["", "a", "b", "c"].map(|name| owner(&mut script, name)), [0; 4], "the trunk watches the crown");
    let owners = ["a/one", "a/two", "a/three", "b/one"].map(|name| owner(&mut script, name));
    assert_eq!(owners.iter().filter(|owner| **owner == 0).count(), 2, "{owners:?}");
    for (name, deep) in [("a/one", "a/one/deep"), ("b/one", "b/one/deep")] {
        assert_eq!(owner(&mut script, name), owner(&mut script, deep));
    }
}

/// What is done to the tree, and what must be covered by marks after it.
type Change = (&'static str, fn(&Script), &'static [&'static str]);

fn rename(script: &Script, from: &str, to: &str) {
    fs::rename(script.at(from), script.at(to)).unwrap();
}

fn exchange(script: &Script, one: &str, two: &str) {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    let at = rustix::fs::CWD;
    rustix::fs::renameat_with(at, script.at(one), at, script.at(two), flags).unwrap();
}

const CHANGES: &[Change] = &[
    ("a crown directory is renamed", |script| rename(script, "a", "z"), &["z/one/deep/f", "z/two/deep/f", "z/three/f"]),
    (
        "it is renamed twice",
        |script| {
            rename(script, "a", "y");
            rename(script, "y", "z");
        },
        &["z/one/deep/f", "z/three/f"],
    ),
    // On the way it has no path: nobody is told where that is which comes then. What did not come with it had no watch
    // (simulation, seed 1579).
    (
        "directories come to what is in it while it is renamed twice",
        |script| {
            rename(script, "a", "y");
            for name in ["one", "two", "three"] {
                fs::create_dir_all(script.at(&format!("y/{name}/new/deep"))).unwrap();
            }
            rename(script, "b/one/deep", "y/one/deep/other");
            rename(script, "y", "z");
        },
        &["z/one/new/deep/f", "z/two/new/deep/f", "z/three/new/f", "z/one/deep/other/f"],
    ),
    ("it is removed", |script| fs::remove_dir_all(script.at("a")).unwrap(), &["a"]),
    (
        "it is removed and made again",
        |script| {
            fs::remove_dir_all(script.at("a")).unwrap();
            fs::create_dir_all(script.at("a/one/new")).unwrap();
        },
        &["a/one/new/f"],
    ),
    ("two are exchanged", |script| exchange(script, "a", "b"), &["a/one/deep/f", "b/one/deep/f", "b/three/f"]),
    ("one is exchanged with a dealt directory", |script| exchange(script, "c", "a/one"), &["c/deep/f", "a/one/f"]),
    ("it moves beneath a dealt directory", |script| rename(script, "a", "b/one/a"), &["b/one/a/one/deep/f"]),
    ("it moves into another one", |script| rename(script, "a", "b/a"), &["b/a/one/deep/f", "b/a/three/f"]),
    ("it moves out", |script| fs::rename(script.at("a"), script.outside("a")).unwrap(), &["a"]),
    (
        "it moves out and back",
        |script| {
            fs::rename(script.at("a"), script.outside("a")).unwrap();
            fs::rename(script.outside("a"), script.at("a")).unwrap();
        },
        &["a/one/deep/f"],
    ),
    ("a dealt directory becomes one", |script| rename(script, "a/one", "one"), &["one/deep/f"]),
    ("a directory of a dealt one becomes one", |script| rename(script, "a/one/deep", "deep"), &["deep/f"]),
    ("a dealt directory changes its crown directory", |script| rename(script, "a/one", "c/two"), &["c/two/deep/f"]),
    ("a dealt directory is renamed", |script| rename(script, "a/one", "a/four"), &["a/four/deep/f"]),
    (
        "one takes the place of another",
        |script| {
            fs::remove_dir_all(script.at("b")).unwrap();
            rename(script, "a", "b");
        },
        &["b/one/deep/f", "b/two/deep/f"],
    ),
    (
        "a file takes its place",
        |script| {
            fs::remove_dir_all(script.at("a")).unwrap();
            write(&script.at("a"), "");
        },
        &["a"],
    ),
    (
        "one comes with all in it",
        |script| {
            fs::create_dir_all(script.at("new/one/deep")).unwrap();
            fs::create_dir_all(script.at("new/two")).unwrap();
        },
        &["new/one/deep/f", "new/two/f"],
    ),
];

/// Each change, with the queues read in either order: the trunk's and what it asks for first, or all at once.
#[test]
fn whatever_happens_to_a_crown_directory_all_is_watched_once_and_nothing_is_lost() {
    for (shards, depth) in [(1, 2), (2, 2), (3, 2), (2, 3)] {
        for trunk_first in [false, true] {
            for (what, change, covered) in CHANGES {
                let mut script = of_depth(shards, depth);
                change(&script);
                if trunk_first {
                    script.errands_first();
                } else {
                    script.drain();
                }
                for name in *covered {
                    script.expect_covered(name);
                }
                check(&mut script);
                assert!(
                    !script.marks.iter().any(|(_, mark)| mark.path.is_root() && mark.kind == MarkKind::Subtree),
                    "{what}"
                );
            }
        }
    }
}

/// Everything lies under one top-level directory, and 40 directories are many.
fn lopsided() -> Script {
    Script::start_dealing(3, 1, 12, |root| {
        fs::create_dir_all(root.join("other/deep")).unwrap();
        for number in 0..10 {
            for deep in 0..3 {
                let directory = root.join(format!("all/d{number}/{deep}"));
                fs::create_dir_all(&directory).unwrap();
                write(&directory.join("f"), "old");
            }
        }
    })
}

fn owners(script: &mut Script, top: &str) -> Vec<usize> {
    let mut owners = vec![0; 3];
    for number in 0..10 {
        owners[owner(script, &format!("{top}/d{number}"))] += 1;
    }
    owners
}

#[test]
fn a_directory_that_holds_most_of_the_tree_is_dealt_to_all_shards_during_the_first_walk() {
    let mut script = lopsided();
    check(&mut script);
    let owners = owners(&mut script, "all");
    assert!(owners.iter().all(|owned| (1..=6).contains(owned)), "{owners:?}");
    assert_eq!(owner(&mut script, "all"), 0);
}

#[test]
fn a_directory_that_grows_is_split_without_sending_anything_again() {
    let mut script = Script::start_dealing(3, 1, 12, |root| {
        for name in ["one", "two/deep", "three"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
    });
    for number in 0..10 {
        fs::create_dir_all(script.at(&format!("two/d{number}/x/y"))).unwrap();
        // While it is small it is watched by one; and each is known before the next comes.
        script.settle();
    }
    check(&mut script);
    let owners = owners(&mut script, "two");
    assert!(owners.iter().all(|owned| *owned >= 1), "{owners:?}");
    let subtrees: Vec<_> = script.marks.iter().filter(|(_, mark)| mark.kind == MarkKind::Subtree).collect();
    assert!(subtrees.is_empty(), "{subtrees:?}");
}

/// Nothing may be lost while directories change hands: the changes come between any two turns.
#[test]
fn changes_while_directories_change_hands_are_told() {
    for moment in 0..12 {
        let mut script = Script::start_dealing(2, 1, 8, |root| fs::create_dir_all(root.join("all/before")).unwrap());
        for number in 0..12 {
            fs::create_dir_all(script.at(&format!("all/d{number}/x"))).unwrap();
        }
        for _turn in 0..moment {
            script.turn();
        }
        script.forget();
        for number in 0..12 {
            write(&script.at(&format!("all/d{number}/x/f")), "new");
            fs::create_dir(script.at(&format!("all/d{number}/new"))).unwrap();
            write(&script.at(&format!("all/d{number}/new/f")), "new");
        }
        fs::create_dir_all(script.at("all/late/x")).unwrap();
        fs::rename(script.at("all/d3"), script.at("all/e3")).unwrap();
        fs::rename(script.at("all/d4/x"), script.at("all/d5/y")).unwrap();
        fs::remove_dir_all(script.at("all/d6")).unwrap();
        fs::create_dir_all(script.at("all/d6/again")).unwrap();
        for name in [
            "all/d0/x/f",
            "all/d11/new/f",
            "all/late/x/f",
            "all/e3/x/f",
            "all/e3/new/f",
            "all/d5/y/f",
            "all/d6/again/f",
        ] {
            script.expect_covered(name);
        }
        check(&mut script);
    }
}

#[test]
fn a_chain_of_directories_is_split_where_it_spreads() {
    let mut script = Script::start_dealing(2, 1, 10, |root| {
        for number in 0..20 {
            fs::create_dir_all(root.join(format!("a/b/c/d{number}/x"))).unwrap();
        }
    });
    check(&mut script);
    assert_eq!(["a", "a/b", "a/b/c"].map(|name| owner(&mut script, name)), [0; 3]);
    let mut owners = [0; 2];
    for number in 0..20 {
        owners[owner(&mut script, &format!("a/b/c/d{number}"))] += 1;
    }
    assert!(owners.iter().all(|owned| *owned >= 6), "{owners:?}");
}

/// Everything lies under one top-level directory; one shard's queue overflows.
#[test]
fn an_overflow_in_a_split_directory_is_that_shards_only() {
    let Some(_small) = SmallQueue::set() else { return };
    let mut script = lopsided();
    let mut found: Vec<(String, usize)> = Vec::new();
    for number in 0..10 {
        let name = format!("all/d{number}");
        let owner = owner(&mut script, &name);
        found.push((name, owner));
    }
    let (flooded, shard) = found.iter().find(|(_, owner)| *owner != 0).unwrap().clone();
    let began = std::time::Instant::now();
    while began.elapsed() < script.source.slack * 2 {
        std::thread::park_timeout(script.source.slack);
    }
    script.settle();
    script.forget();
    for number in 0..QUEUE * 2 {
        write(&script.at(&format!("{flooded}/0/{number}")), "");
    }
    let lost = format!("{flooded}/2/f");
    write(&script.at(&lost), "new");
    script.expect_covered(&lost);
    script.settle();
    assert_eq!(script.source.reading().overflows, 1);
    let of_shard = found.iter().filter(|(_, owner)| *owner == shard).count();
    let (by, looked) = script.rescans[0];
    assert_eq!((script.rescans.len(), by), (1, shard));
    // What it owns, each with three directories in it; and "other", perhaps.
    assert!(looked == of_shard * 4 || looked == of_shard * 4 + 2, "{looked} of {of_shard}");
    for (_, mark) in &script.marks {
        let inside = found.iter().any(|(name, owner)| *owner == shard && mark.path.is_within(&path(name)));
        assert!(inside, "{mark:?} is another shard's; {}", script.shown());
    }
}

/// The trunk's own queue overflows: crown directories are listed again, and what came to them unseen is watched.
#[test]
fn an_overflow_of_the_trunk_finds_what_changed_in_the_crown() {
    let Some(_small) = SmallQueue::set() else { return };
    for shards in 1..4 {
        let mut script = deep(shards);
        for name in ["a/one/deep", "b/one/deep"] {
            // To be sure that the trunk's overflows: it watches these itself.
            let top = name.split('/').next().unwrap();
            for number in 0..QUEUE * 2 {
                write(&script.at(&format!("{top}/{number}")), "");
            }
        }
        fs::create_dir_all(script.at("a/lost/deep")).unwrap();
        fs::create_dir_all(script.at("new/lost/deep")).unwrap();
        rename(&script, "a/one", "c/one");
        rename(&script, "b", "z");
        fs::remove_dir_all(script.at("a/two")).unwrap();
        for name in ["a/lost/deep/f", "new/lost/deep/f", "c/one/deep/f", "z/one/deep/f", "a/two"] {
            script.expect_covered(name);
        }
        check(&mut script);
    }
}
