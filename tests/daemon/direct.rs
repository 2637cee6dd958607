//! What a local target gets without rsync: the same as by rsync, and what rsync has to decide is left to it.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fansync::filter::Filter;
use fansync::path::RelPath;
use fansync::plan::{EntryKind, Risk, Run, RunKind};
use fansync::sys::child::{Inherited, memory_file};
use fansync::target::Location;
use fansync::watch::Source;
use fansync::worker::command::{self, Fence, Transport};
use fansync::worker::direct::{Direct, Share, Stopped};

use crate::compare::differences;
use crate::ground::Ground;
use crate::names::Names;

const LATER: Duration = Duration::from_secs(60);

fn path(bytes: &[u8]) -> RelPath {
    RelPath::parse(bytes).unwrap()
}

fn points(names: &[&[u8]], resend: bool, deletes: u64) -> Run {
    let mut entries: Vec<_> = names.iter().map(|name| (path(name), EntryKind::Plain)).collect();
    entries.sort_unstable();
    Run {
        kind: RunKind::Points,
        resend,
        whole: true,
        size_max: None,
        entries,
        risk: Risk::AtMost(deletes),
        bytes: 0,
        basis: None,
    }
}

fn source(ground: &Ground) -> Source {
    Source::open("data", ground.source.clone(), true, Filter::none()).unwrap()
}

fn direct(ground: &Ground, run: &Run, go_on: &dyn Fn() -> bool) -> Result<Share, Stopped> {
    let Risk::AtMost(deletes) = run.risk else { panic!("{run:?}") };
    let deadline = Instant::now() + LATER;
    Direct { source: &source(ground), target: &ground.target, deletes, deadline, go_on }.apply(run)
}

/// Runs rsync as a lane does; its exit code.
fn rsync(ground: &Ground, target: &Path, run: &Run) -> i32 {
    let root = File::open(&ground.source).unwrap();
    let root = Inherited::duplicate(&root).unwrap();
    let transport = Transport {
        program: "rsync".into(),
        location: Location::Local(target.to_owned()),
        password_file: None,
        timeout: LATER,
        connect_timeout: LATER,
        one_file_system: true,
        ssh: fansync::target::SshOptions::default(),
        control: None,
    };
    let Risk::AtMost(deletes) = run.risk else { panic!("{run:?}") };
    let fence = Fence::AtMost(deletes);
    let arguments = command::arguments(&transport, &Filter::none(), run, fence, true, root.number());
    let list = memory_file(&command::list(run)).unwrap();
    let mut child = Command::new("rsync");
    let output = child.args(arguments).stdin(Stdio::from(list)).env("LC_ALL", "C.UTF-8").output().unwrap();
    output.status.code().unwrap()
}

fn left(run: &Run, share: &Share) -> Vec<String> {
    let rest = share.rest(run);
    rest.iter().flat_map(|rest| &rest.entries).map(|(path, _)| path.to_string()).collect()
}

fn nothing_is_left_over(target: &Path) {
    let names = fs::read_dir(target).unwrap().map(|entry| entry.unwrap().file_name());
    let temporary = names.filter(|name| crate::names::reserved(name.as_bytes()));
    assert_eq!(temporary.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
}

fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// In `tree`: what a copy may get wrong. Names of the entries in order, and of those that rsync has to do.
fn make_source(tree: &Path) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut left: Vec<Vec<u8>> = Vec::new();
    let at = |name: &[u8]| tree.join(OsStr::from_bytes(name));
    for directory in ["d", "d/deep", "missing", "ro", "set", "through", "sticky"] {
        fs::create_dir(at(directory.as_bytes())).unwrap();
    }
    for name in Names::Hostile.list() {
        let name = [b"d/", &name[..]].concat();
        fs::write(at(&name), &name).unwrap();
        names.push(name);
    }
    for length in [1, 245, 246, 247, 255] {
        let name = vec![b'n'; length];
        fs::write(at(&name), length.to_string()).unwrap();
        names.push(name);
    }
    let mut add = |name: &str, content: &[u8]| {
        fs::write(at(name.as_bytes()), content).unwrap();
        names.push(name.into());
        at(name.as_bytes())
    };
    add("d/deep/empty", b"");
    add("d/deep/big", &vec![7; 3 * 1024 * 1024 + 5]);
    let mut sparse = File::create(add("sparse", b"")).unwrap();
    sparse.seek(SeekFrom::Start(2 * 1024 * 1024)).unwrap();
    sparse.write_all(b"end").unwrap();
    sparse.set_len(5 * 1024 * 1024).unwrap();
    drop(sparse);
    for (name, bits) in [("m0", 0), ("m1", 0o111), ("m2", 0o4755), ("m3", 0o2755), ("m4", 0o1666), ("m5", 0o6711)] {
        let file = add(name, name.as_bytes());
        let owner = is_root().then_some(4_321);
        chown(&file, owner, owner).unwrap();
        mode(&file, bits);
    }
    touch(&add("t1", b"1"), 1, 1);
    touch(&add("t2", b"2"), 1_700_000_000, 999_999_999);
    touch(&add("t3", b"3"), -1, 5);
    touch(&add("t4", b"4"), 10_000_000_000, 7);
    touch(&add("over_link", b"a file"), 9, 9);
    add("over_fifo", b"a file");
    add("over_file", b"newer");
    touch(&add("same", b"same"), 77, 77);
    touch(&add("almost", b"same"), 77, 77);
    add("ro/f", b"f");
    add("through/f", b"f");
    add("missing/f", b"f");
    add("over_directory", b"f");
    add("twin", b"twin");
    fs::hard_link(at(b"twin"), at(b"twin2")).unwrap();
    let mut link = |name: &str, leads_to: &[u8]| {
        symlink(OsStr::from_bytes(leads_to), at(name.as_bytes())).unwrap();
        lchown(at(name.as_bytes()), is_root().then_some(12), is_root().then_some(34)).unwrap();
        touch(&at(name.as_bytes()), 5, 55);
        names.push(name.into());
    };
    link("l1", b"nowhere");
    link("l2", b"/etc/passwd");
    link("l3", b"d/\xff\n");
    link("l4", &[b'x'; 1000]);
    link("link_over_file", b"d");
    link("link_as_it_is", b"d");
    link("link_elsewhere", b"d");
    for name in ["set", "sticky"] {
        names.push(name.into());
    }
    for name in ["d/deep/made", "made", "made_over_file", "there"] {
        fs::create_dir(at(name.as_bytes())).unwrap();
        names.push(name.into());
    }
    fs::write(at(b"made/inside"), b"inside").unwrap();
    names.push(b"made/inside".to_vec());
    rustix::fs::mknodat(rustix::fs::CWD, at(b"fifo"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    names.extend([b"fifo".to_vec(), b"twin2".to_vec()]);
    // Gone from the source, whatever the target has.
    for name in ["gone", "gone_link", "gone_directory", "gone_already", "d/deep/gone"] {
        names.push(name.into());
    }
    mode(&at(b"ro"), 0o555);
    mode(&at(b"set"), 0o2775);
    mode(&at(b"sticky"), 0o1777);
    mode(&at(b"made"), 0o500);
    mode(&at(b"there"), 0o710);
    for (number, name) in ["made", "there", "ro", "d/deep", "d"].iter().enumerate() {
        touch(&at(name.as_bytes()), 1_000_000_000, number as i64 + 1);
    }
    for name in
        ["fifo", "gone_directory", "made_over_file", "missing/f", "over_directory", "through/f", "twin", "twin2"]
    {
        left.push(name.into());
    }
    if !is_root() {
        // They cannot be read.
        left.extend([b"m0".to_vec(), b"m1".to_vec()]);
        left.sort_unstable();
    }
    (names, left)
}

/// What `target` has before.
fn make_target(target: &Path) {
    let at = |name: &str| target.join(name);
    fs::create_dir_all(at("d/deep")).unwrap();
    for directory in ["ro", "set", "sticky", "there", "outside", "over_directory", "gone_directory/inner"] {
        fs::create_dir_all(at(directory)).unwrap();
    }
    fs::write(at("outside/f"), "outside").unwrap();
    symlink("outside", at("through")).unwrap();
    symlink("outside/f", at("over_link")).unwrap();
    symlink("outside/f", at("gone_link")).unwrap();
    symlink("d", at("link_as_it_is")).unwrap();
    symlink("outside", at("link_elsewhere")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("over_fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for name in ["gone", "d/deep/gone", "over_file", "link_over_file", "made_over_file", "m1", "m2", "d/n1"] {
        fs::write(at(name), "old").unwrap();
    }
    for name in ["same", "almost"] {
        fs::write(at(name), "old!").unwrap();
        mode(&at(name), 0o640);
    }
    touch(&at("same"), 77, 77);
    touch(&at("almost"), 77, 78);
    // Nobody's business.
    touch(&at("outside/f"), 1, 1);
    touch(&at("outside"), 1, 1);
    mode(&at("over_file"), 0o777);
    mode(&at("d"), 0o700);
}

#[test]
fn a_target_gets_the_same_as_by_rsync() {
    for resend in [true, false] {
        let ground = Ground::new();
        let by_rsync = ground.place.join("by-rsync");
        fs::create_dir(&by_rsync).unwrap();
        let (names, expected_left) = make_source(&ground.source);
        make_target(&ground.target);
        make_target(&by_rsync);
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let run = points(&names, resend, 5);

        let share = direct(&ground, &run, &|| true).unwrap();
        nothing_is_left_over(&ground.target);
        let expected_left: Vec<String> = expected_left.iter().map(|name| path(name).to_string()).collect();
        assert_eq!(left(&run, &share), expected_left, "resend: {resend}");
        assert_eq!((share.deleted, share.count()), (3, names.len() - expected_left.len()));
        assert_eq!(fs::read_to_string(ground.there("outside/f")).unwrap(), "outside");
        assert_eq!(fs::read_to_string(ground.there("same")).unwrap(), if resend { "same" } else { "old!" });
        assert_eq!(fs::metadata(ground.there("over_link")).unwrap().len(), 6);

        // Before rsync does the rest, and after it: what is left, and only that, differs between the two.
        assert_eq!(rsync(&ground, &by_rsync, &run), 0);
        let mut found = differences(&by_rsync, &ground.target, 100);
        found.retain(|line| {
            let name = line.split('\t').next().unwrap();
            let above = |left: &String| left.split('/').next() == Some(name);
            !expected_left.iter().any(|left| left == name || above(left))
        });
        assert_eq!(found, Vec::<String>::new(), "resend: {resend}");
        let rest = share.rest(&run).unwrap();
        assert_eq!(rest.risk, Risk::AtMost(2));
        assert_eq!(rsync(&ground, &ground.target, &rest), 0);
        assert_eq!(differences(&by_rsync, &ground.target, 100), Vec::<String>::new(), "resend: {resend}");
        nothing_is_left_over(&ground.target);
        assert!(fs::symlink_metadata(ground.there("fifo")).unwrap().file_type().is_fifo());
    }
}

#[test]
fn the_roots_attributes_are_those_of_rsync() {
    let ground = Ground::new();
    fs::write(ground.at("f"), "f").unwrap();
    mode(&ground.source, 0o2751);
    if is_root() {
        chown(&ground.source, Some(5), Some(6)).unwrap();
        mode(&ground.source, 0o2751);
    }
    touch(&ground.source, 123, 456);
    let run = Run {
        kind: RunKind::RootAttributes,
        entries: vec![(RelPath::root(), EntryKind::Listing)],
        ..points(&[], false, 0)
    };
    let share = direct(&ground, &run, &|| true).unwrap();
    assert_eq!((share.rest(&run), share.count()), (None, 1));
    let of = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.mode(), found.uid(), found.gid(), found.mtime(), found.mtime_nsec())
    };
    assert_eq!(of(&ground.source), of(&ground.target));
    assert_eq!(fs::read_dir(&ground.target).unwrap().count(), 0);
}

/// A file that changes while it is copied is left, whatever changes it; the old one stays, and nothing else.
#[test]
fn what_changes_while_it_is_copied_is_left() {
    let check = |what: &str, change: &dyn Fn(&Path)| {
        let ground = Ground::new();
        fs::write(ground.at("f"), "first").unwrap();
        touch(&ground.at("f"), 100, 0);
        fs::write(ground.there("f"), "old").unwrap();
        let run = points(&[b"f"], true, 1);
        // Asked before the entry, and then before its content is read.
        let asked = std::cell::Cell::new(0);
        let share = direct(&ground, &run, &|| {
            asked.set(asked.get() + 1);
            if asked.get() == 2 {
                change(&ground.at("f"));
            }
            true
        });
        let share = share.unwrap();
        assert!(asked.get() >= 2, "{what}");
        assert_eq!(share.count(), 0, "{what}: {share:?}");
        assert_eq!(fs::read_to_string(ground.there("f")).unwrap(), "old", "{what}");
        nothing_is_left_over(&ground.target);
    };
    check("rewritten in place", &|file| {
        fs::write(file, "other").unwrap();
        touch(file, 100, 0);
    });
    check("grown", &|file| File::options().append(true).open(file).unwrap().write_all(b"more").unwrap());
    check("shortened", &|file| File::options().write(true).open(file).unwrap().set_len(1).unwrap());
    check("replaced", &|file| {
        let other = file.with_extension("other");
        fs::write(&other, "other").unwrap();
        fs::rename(other, file).unwrap();
    });
    check("removed", &|file| fs::remove_file(file).unwrap());
    check("another mode", &|file| mode(file, 0o600));
    check("touched", &|file| touch(file, 101, 0));
}

#[test]
fn nothing_is_done_to_a_target_that_is_another_one_by_now() {
    let ground = Ground::new();
    fs::write(ground.at("f"), "f").unwrap();
    let moved = ground.place.join("moved");
    let run = points(&[b"f"], true, 0);
    let share = direct(&ground, &run, &|| {
        if !moved.exists() {
            fs::rename(&ground.target, &moved).unwrap();
            fs::create_dir(&ground.target).unwrap();
        }
        true
    });
    assert_eq!(share.unwrap().count(), 0);
    assert_eq!(fs::read_dir(&ground.target).unwrap().count(), 0);

    let none = |what: &str| {
        let share = direct(&ground, &run, &|| true).unwrap();
        assert_eq!(share.count(), 0, "{what}: {share:?}");
    };
    fs::remove_dir(&ground.target).unwrap();
    none("missing");
    symlink("target", &ground.target).unwrap();
    none("a symlink to itself");
    fs::remove_file(&ground.target).unwrap();
    fs::write(&ground.target, "").unwrap();
    none("a file");
}

#[test]
fn deletes_that_nobody_admitted_are_left() {
    let ground = Ground::new();
    for name in ["a", "b", "c"] {
        fs::write(ground.there(name), "").unwrap();
    }
    let run = points(&[b"a", b"b", b"c", b"none"], false, 2);
    let share = direct(&ground, &run, &|| true).unwrap();
    assert_eq!((share.deleted, share.done.clone()), (2, vec![true, true, false, true]));
    assert!(ground.there("c").exists());
    assert_eq!(share.rest(&run).unwrap().risk, Risk::AtMost(0));
}

/// What is gone from a root that is not the configured one any more was not deleted by anybody.
#[test]
fn nothing_is_deleted_for_a_root_that_went_away_meanwhile() {
    let ground = Ground::new();
    for name in ["a", "b"] {
        fs::write(ground.there(name), "").unwrap();
    }
    let run = points(&[b"a", b"b"], false, 2);
    let asked = std::cell::Cell::new(0);
    let share = direct(&ground, &run, &|| {
        asked.set(asked.get() + 1);
        if asked.get() == 2 {
            fs::rename(&ground.source, ground.place.join("moved")).unwrap();
            fs::create_dir(&ground.source).unwrap();
            // Longer than a look at the root is good for.
            std::thread::park_timeout(Duration::from_millis(50));
        }
        true
    });
    assert_eq!(share.unwrap().done, [true, false]);
    assert!(ground.there("b").exists());
}

#[test]
fn who_is_told_to_stop_says_nothing_of_any_entry() {
    let ground = Ground::new();
    fs::write(ground.at("b"), "f").unwrap();
    fs::write(ground.there("a"), "f").unwrap();
    let run = points(&[b"a", b"b"], true, 1);
    // Before the first, before the second, and in the middle of it.
    for (at, deleted) in [(1, 0), (2, 1), (3, 0)] {
        let asked = std::cell::Cell::new(0);
        let stopped = direct(&ground, &run, &|| {
            asked.set(asked.get() + 1);
            asked.get() < at
        });
        assert_eq!(stopped, Err(Stopped { deleted }));
        assert!(!ground.there("b").exists());
        nothing_is_left_over(&ground.target);
    }
}

#[test]
fn what_is_excluded_by_now_is_left() {
    let ground = Ground::new();
    let rules = Filter::new(&[b"- d/".to_vec(), b"- *.tmp".to_vec()], false).unwrap();
    let source = Source::open("data", ground.source.clone(), true, rules).unwrap();
    fs::create_dir(ground.at("d")).unwrap();
    fs::write(ground.at("x.tmp"), "").unwrap();
    fs::write(ground.at("f"), "").unwrap();
    fs::write(ground.there("gone.tmp"), "").unwrap();
    let run = points(&[b"d", b"f", b"gone.tmp", b"x.tmp"], true, 4);
    let job = Direct {
        source: &source,
        target: &ground.target,
        deletes: 4,
        deadline: Instant::now() + LATER,
        go_on: &|| true,
    };
    assert_eq!(job.apply(&run).unwrap().done, [false, true, false, false]);
}
