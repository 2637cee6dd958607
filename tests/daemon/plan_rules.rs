//! The rules of design 4 and notes/rsync.md 1, each with the real agent and the real rsync.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::agent::Agent;
use crate::churn::set_modified;
use crate::ground::{Ground, PATIENCE, holds_text, until};

/// Runs `script` with an agent per kind of target.
fn on_both(options: &[&str], prepare: impl Fn(&Ground), script: impl Fn(&Ground, &Agent)) {
    for local in [false, true] {
        let ground = Ground::new();
        prepare(&ground);
        let daemon = (!local).then(|| ground.daemon());
        let to = daemon.as_ref().map_or_else(|| ground.target.clone().into_os_string(), |daemon| daemon.url().into());
        let mut agent = ground.agent(&[to], options);
        until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
        script(&ground, &agent);
        assert!(agent.terminate().success(), "{}", agent.log());
    }
}

#[test]
fn names_that_rsync_would_take_for_something_else_are_sent_and_deleted() {
    let names: &[&[u8]] = &[
        b"#comment",
        b";comment",
        b"new\nline",
        b"\xff\xfe",
        b"-rf",
        b"--delete",
        b"*",
        b"[a-z]",
        b"back\\slash",
        b" ",
        b"trailing ",
        b"\r",
        b"\"'$`",
        b"...",
        b"a:b",
        b"host::module",
        b"\xc3\xa9",
        b"\x01\x7f",
    ];
    on_both(
        &[],
        |_| {},
        |ground, agent| {
            for name in names {
                let name = OsStr::from_bytes(name);
                fs::write(ground.source.join(name), "file").unwrap();
                fs::create_dir_all(ground.at("d").join(name)).unwrap();
                fs::write(ground.at("d").join(name).join(name), "inner").unwrap();
            }
            ground.wait_equal(agent);
            assert_eq!(fs::read_dir(&ground.target).unwrap().count(), names.len() + 1);
            // One by one, as points.
            for name in names {
                fs::write(ground.at("d").join(OsStr::from_bytes(name)).join(OsStr::from_bytes(name)), "again").unwrap();
            }
            ground.wait_equal(agent);
            for name in names {
                fs::remove_file(ground.source.join(OsStr::from_bytes(name))).unwrap();
                fs::remove_dir_all(ground.at("d").join(OsStr::from_bytes(name))).unwrap();
            }
            ground.wait_equal(agent);
            assert_eq!(fs::read_dir(&ground.target).unwrap().count(), 1);
        },
    );
}

#[test]
fn what_lies_beneath_a_missing_ancestor_goes_with_it() {
    let prepare = |ground: &Ground| {
        for number in 0..20 {
            fs::create_dir_all(ground.at(&format!("a/b/{number}/deep"))).unwrap();
            fs::write(ground.at(&format!("a/b/{number}/deep/f")), "old").unwrap();
        }
    };
    on_both(&[], prepare, |ground, agent| {
        for number in 0..20 {
            fs::write(ground.at(&format!("a/b/{number}/deep/f")), "changed").unwrap();
        }
        fs::remove_dir_all(ground.at("a/b")).unwrap();
        ground.wait_equal(agent);
        assert!(ground.there("a").exists() && !ground.there("a/b").exists());
        assert!(!agent.log().contains("WARN"), "{}", agent.log());
    });
}

/// `d` with files of ours; `outside`, beside the root, with secrets under the same names.
fn secrets(ground: &Ground) {
    fs::create_dir_all(ground.place.join("outside/sub")).unwrap();
    for name in ["outside/f", "outside/sub/f", "outside/only-there"] {
        fs::write(ground.place.join(name), "secret").unwrap();
    }
    fs::create_dir_all(ground.at("d/sub")).unwrap();
    fs::write(ground.at("d/f"), "ours").unwrap();
    fs::write(ground.at("d/sub/f"), "ours").unwrap();
}

/// A name on the target that holds a copy of a secret. A symlink may well point there, and may come between two looks,
/// so the one look is that of openat2(2), which passes none.
fn leaked(ground: &Ground) -> Option<&'static str> {
    let target = rustix::fs::open(&ground.target, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    ["d/f", "d/sub/f", "d/only-there", "aside/only-there"].into_iter().find(|name| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(&target, *name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
        opened.is_ok_and(|fd| std::io::read_to_string(fs::File::from(fd)).is_ok_and(|text| text == "secret"))
    })
}

#[test]
fn nothing_leaks_through_a_parent_that_became_a_symlink() {
    on_both(&[], secrets, |ground, agent| {
        for round in 0..3 {
            fs::write(ground.at("d/f"), format!("ours {round}")).unwrap();
            fs::write(ground.at("d/sub/f"), format!("ours {round}")).unwrap();
            ground.wait_equal(agent);
            fs::rename(ground.at("d"), ground.at("aside")).unwrap();
            symlink("../outside", ground.at("d")).unwrap();
            ground.wait_equal(agent);
            assert!(fs::symlink_metadata(ground.there("d")).unwrap().is_symlink());
            assert_eq!(leaked(ground), None);
            assert_eq!(
                fs::read_to_string(ground.place.join("outside/f")).unwrap(),
                "secret",
                "nothing is written there"
            );
            fs::remove_file(ground.at("d")).unwrap();
            fs::rename(ground.at("aside"), ground.at("d")).unwrap();
            ground.wait_equal(agent);
        }
    });
}

/// The plan's look at the parents comes before rsync's own, and rsync follows what became a symlink in between. Whoever
/// may write in the source can so have a file copied that only the agent's user may read.
#[test]
#[ignore = "bug: a symlink that takes a parent's place between the plan's look and rsync's is followed; seen in 2 of 14 runs of 60 flips, then in 0 of 10"]
fn nothing_leaks_through_a_parent_that_becomes_a_symlink_while_it_is_sent() {
    for _attempt in 0..10 {
        on_both(&[], secrets, |ground, agent| {
            for round in 0..30 {
                fs::write(ground.at("d/f"), format!("ours {round}")).unwrap();
                fs::write(ground.at("d/sub/f"), format!("ours {round}")).unwrap();
                fs::rename(ground.at("d"), ground.at("aside")).unwrap();
                symlink("../outside", ground.at("d")).unwrap();
                for _look in 0..10 {
                    assert_eq!(leaked(ground), None, "round {round}:\n{}", agent.last_log_lines(20));
                    std::thread::park_timeout(Duration::from_millis(3));
                }
                fs::remove_file(ground.at("d")).unwrap();
                fs::rename(ground.at("aside"), ground.at("d")).unwrap();
            }
            ground.wait_equal(agent);
        });
    }
}

/// The receiver replaces the symlink; it does not write through it.
#[test]
fn a_symlink_on_the_target_is_replaced_not_followed() {
    let prepare = |ground: &Ground| {
        fs::create_dir(ground.place.join("elsewhere")).unwrap();
        fs::write(ground.place.join("elsewhere/kept"), "kept").unwrap();
        fs::create_dir(ground.at("d")).unwrap();
        fs::write(ground.at("d/f"), "1").unwrap();
        symlink("../elsewhere", ground.there("d")).unwrap();
    };
    on_both(&[], prepare, |ground, agent| {
        ground.wait_equal(agent);
        fs::remove_dir_all(ground.there("d")).unwrap();
        symlink("../elsewhere", ground.there("d")).unwrap();
        fs::write(ground.at("d/f"), "2").unwrap();
        ground.wait_equal(agent);
        let names: Vec<_> = fs::read_dir(ground.place.join("elsewhere")).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    });
}

#[test]
fn files_and_directories_take_each_others_names() {
    on_both(
        &[],
        |_| {},
        |ground, agent| {
            fs::create_dir_all(ground.at("n/deep/er")).unwrap();
            fs::write(ground.at("n/deep/er/f"), "").unwrap();
            fs::write(ground.at("m"), "a file").unwrap();
            ground.wait_equal(agent);
            for _round in 0..3 {
                fs::remove_dir_all(ground.at("n")).unwrap();
                fs::write(ground.at("n"), "a file").unwrap();
                fs::remove_file(ground.at("m")).unwrap();
                fs::create_dir_all(ground.at("m/in/side")).unwrap();
                fs::write(ground.at("m/in/side/f"), "").unwrap();
                ground.wait_equal(agent);
                fs::remove_dir_all(ground.at("m")).unwrap();
                symlink("n", ground.at("m")).unwrap();
                ground.wait_equal(agent);
                fs::remove_file(ground.at("m")).unwrap();
                fs::write(ground.at("m"), "a file").unwrap();
                fs::remove_file(ground.at("n")).unwrap();
                fs::create_dir_all(ground.at("n/deep")).unwrap();
                ground.wait_equal(agent);
            }
        },
    );
}

/// A rewrite within one size and one mtime, as `touch -r` or a restore does it: `-I` for paths with a write event.
#[test]
fn a_rewrite_that_keeps_size_and_mtime_is_sent() {
    let prepare = |ground: &Ground| {
        fs::write(ground.at("f"), "old!").unwrap();
        set_modified(&ground.at("f"), (1_000_000_000, 7)).unwrap();
    };
    on_both(&[], prepare, |ground, agent| {
        for text in ["new!", "NEW!"] {
            fs::write(ground.at("f"), text).unwrap();
            set_modified(&ground.at("f"), (1_000_000_000, 7)).unwrap();
            until(text, PATIENCE, agent, || holds_text(&ground.there("f"), text));
            ground.wait_equal(agent);
        }
    });
}

/// A write is reported under the name that was used; the file's other names hold it too.
#[test]
fn a_write_through_one_name_is_sent_to_all_names_of_the_file() {
    let prepare = |ground: &Ground| {
        fs::create_dir_all(ground.at("d/e")).unwrap();
        fs::write(ground.at("a"), "old").unwrap();
        for name in ["b", "d/c", "d/e/f"] {
            fs::hard_link(ground.at("a"), ground.at(name)).unwrap();
        }
    };
    on_both(&[], prepare, |ground, agent| {
        ground.wait_equal(agent);
        for (name, text) in [("a", "through a"), ("d/e/f", "through f")] {
            fs::write(ground.at(name), text).unwrap();
            ground.wait_equal(agent);
            assert!(holds_text(&ground.there("d/c"), text));
        }
        fs::hard_link(ground.at("b"), ground.at("g")).unwrap();
        fs::remove_file(ground.at("a")).unwrap();
        ground.wait_equal(agent);
        fs::write(ground.at("g"), "through g").unwrap();
        ground.wait_equal(agent);
    });
}

#[test]
fn excluded_names_are_neither_sent_nor_deleted() {
    let prepare = |ground: &Ground| {
        for directory in ["d/sub", "gone"] {
            fs::create_dir_all(ground.at(directory)).unwrap();
            fs::create_dir_all(ground.there(directory)).unwrap();
            fs::write(ground.at(directory).join("f"), "").unwrap();
            fs::write(ground.at(directory).join("ours.keep"), "").unwrap();
            fs::write(ground.there(directory).join("theirs.keep"), "theirs").unwrap();
        }
        fs::create_dir_all(ground.at("cache")).unwrap();
        fs::write(ground.at("cache/f"), "ours").unwrap();
        fs::create_dir_all(ground.there("cache")).unwrap();
        fs::write(ground.there("cache/theirs"), "theirs").unwrap();
    };
    on_both(&["--filter", "- *.keep", "--filter", "- /cache/"], prepare, |ground, agent| {
        let kept = |when: &str| {
            for name in ["d/sub/theirs.keep", "gone/theirs.keep", "cache/theirs"] {
                assert!(holds_text(&ground.there(name), "theirs"), "{when}: {name}\n{}", agent.last_log_lines(20));
            }
            for name in ["d/sub/ours.keep", "gone/ours.keep", "cache/f", "live.keep"] {
                assert!(!ground.there(name).exists(), "{when}: {name} was sent");
            }
        };
        until("first comparison", PATIENCE, agent, || {
            ground.there("gone/f").exists() && ground.there("d/sub/f").exists()
        });
        kept("at the start");
        fs::write(ground.at("live.keep"), "").unwrap();
        fs::write(ground.at("cache/f"), "changed").unwrap();
        fs::remove_file(ground.at("gone/f")).unwrap();
        fs::write(ground.at("sentinel 1"), "1").unwrap();
        until("a sentinel", PATIENCE, agent, || {
            ground.there("sentinel 1").exists() && !ground.there("gone/f").exists()
        });
        kept("live");
        // The directories themselves go; what the rules protect keeps them on the target.
        fs::remove_dir_all(ground.at("gone")).unwrap();
        fs::remove_dir_all(ground.at("d")).unwrap();
        fs::remove_dir_all(ground.at("cache")).unwrap();
        until("delete", PATIENCE, agent, || !ground.there("d/sub/f").exists());
        fs::write(ground.at("sentinel 2"), "2").unwrap();
        until("a sentinel", PATIENCE, agent, || ground.there("sentinel 2").exists());
        kept("after their directories went");
    });
}

/// Makes the directories of `names` in `root` and a file in the last, beyond what one path can name.
fn make_deep(root: &Path, names: &[String], file: &str) {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, root, flags, Mode::empty()).unwrap();
    for name in names {
        match rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => panic!("{error}"),
        }
        at = rustix::fs::openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
    }
    let create = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&at, file, create, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&fd, b"deep").unwrap();
}

#[test]
fn a_path_that_is_too_long_is_reported_and_not_cut() {
    on_both(
        &[],
        |_| {},
        |ground, agent| {
            // 15 directories of 255 bytes are 3,840 with their slashes.
            let names: Vec<String> = (0..15).map(|number| format!("{number:0255}")).collect();
            let long = "f".repeat(255);
            make_deep(&ground.source, &names, &long);
            fs::write(ground.at("small"), "1").unwrap();
            until("a small file", PATIENCE, agent, || holds_text(&ground.there("small"), "1"));
            // Again as a point: its directory is watched by now.
            let reported = || {
                make_deep(&ground.source, &names, &long);
                let log = agent.log();
                log.lines()
                    .any(|line| line.contains(&long) && (line.contains("failed") || line.contains("dead letter")))
            };
            until("report of the long path", PATIENCE, agent, reported);
            assert!(!agent.log().contains("did not say why"), "{}", agent.log());
            // Nothing with a shortened name is there.
            let mut at = ground.target.clone();
            while let Some(entry) = fs::read_dir(&at).ok().and_then(|mut entries| {
                entries.find_map(|entry| entry.ok().filter(|entry| entry.file_name() != "small"))
            }) {
                let name = entry.file_name();
                assert!(name == long.as_str() || names.iter().any(|known| name == known.as_str()), "{name:?}");
                at = entry.path();
            }
            fs::write(ground.at("small"), "2").unwrap();
            until("a small file", PATIENCE, agent, || holds_text(&ground.there("small"), "2"));
            println!("too long: {}", agent.log().lines().filter(|line| line.contains(&long)).count());
        },
    );
}

/// rsync skips all deletes of a run whose sender met an error ("IO error encountered -- skipping file deletion"), so one
/// path that it cannot read, here a too long one, must not be in the same run as everything else for ever.
#[test]
fn one_path_that_cannot_be_read_does_not_keep_the_others_from_being_compared() {
    let prepare = |ground: &Ground| {
        let names: Vec<String> = (0..15).map(|number| format!("{number:0255}")).collect();
        make_deep(&ground.source, &names, &"f".repeat(255));
        fs::create_dir(ground.at("other")).unwrap();
        fs::create_dir(ground.there("other")).unwrap();
        fs::write(ground.there("other/stale"), "").unwrap();
        fs::write(ground.at("other/new"), "").unwrap();
    };
    for local in [false, true] {
        let ground = Ground::new();
        prepare(&ground);
        let daemon = (!local).then(|| ground.daemon());
        let to = daemon.as_ref().map_or_else(|| ground.target.clone().into_os_string(), |daemon| daemon.url().into());
        let agent = ground.agent(&[to], &[]);
        until("a new file", PATIENCE, &agent, || ground.there("other/new").exists());
        until("delete of a stale file", Duration::from_secs(10), &agent, || !ground.there("other/stale").exists());
    }
}

#[test]
fn a_big_file_goes_on_its_own_lane_and_does_not_delay_small_ones() {
    let ground = Ground::new();
    let slow = ground.slow_rsync();
    let daemon = ground.daemon();
    let mut agent = ground.agent(&[daemon.url().into()], &["--rsync", &slow]);
    until("comparison", PATIENCE, &agent, || agent.log().contains("everything is compared"));
    fs::write(ground.at("big"), vec![b'x'; 9 << 20]).unwrap();
    let temporary = || {
        fs::read_dir(&ground.target).unwrap().any(|entry| entry.unwrap().file_name().as_bytes().starts_with(b".big."))
    };
    until("the big file's temporary one", PATIENCE, &agent, temporary);
    let took = crate::ground::trickle(&agent, &ground.source, &ground.target, "small", 5);
    assert!(!ground.there("big").exists(), "the big file must still be under way for this to mean anything");
    println!("small files beside a big one: p50 {:?}, max {:?}", took[2], took[4]);
    assert!(took[4] < Duration::from_secs(2), "{took:?}");
    ground.wait_equal(&agent);
    assert!(agent.terminate().success());
}
