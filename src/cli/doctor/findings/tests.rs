//! Every message, by the fact that leads to it.

use super::limits::{FANOTIFY, needs};
use super::*;
use crate::limits::steps;
use crate::sys::memory::GroupLimit;
use crate::sys::privileges::{DAC_READ_SEARCH, SYS_ADMIN};
use crate::sys::usage::{Others, Taken};

/// A machine on which all is well.
fn well() -> Facts {
    let both = 1 << SYS_ADMIN | 1 << DAC_READ_SEARCH;
    Facts {
        kernel: Some("6.18.44-cloud".to_owned()),
        limits: BTreeMap::from([
            (Limit::InotifyWatches, 1_048_576),
            (Limit::InotifyQueue, 1_048_576),
            (Limit::InotifyInstances, 512),
            (Limit::FanotifyQueue, 1_048_576),
            (Limit::FanotifyGroups, 128),
            (Limit::FanotifyMarks, 205_039),
            (Limit::NamespaceWatches, 2_147_483_647),
            (Limit::NamespaceInstances, 2_147_483_647),
            (Limit::NamespaceGroups, 2_147_483_647),
            (Limit::NamespaceMarks, 2_147_483_647),
        ]),
        budget: Budget { ram: 24 << 30, group: None },
        usage: Some(Usage { complete: true, ..Usage::default() }),
        privileges: Some(Privileges { user: 0, effective: both, in_namespace: false }),
        descriptors: Some(20_000),
        synchronised: Some(true),
        rsync: Ok("3.5.0".to_owned()),
        roots: vec![RootFacts {
            path: "/data".to_owned(),
            kind: "ext4".to_owned(),
            options: vec!["rw".to_owned()],
            ctimes_tell: true,
            whole_seconds: false,
            count: Some(Count { directories: 111_000, unreadable: 0, complete: true }),
            shards: 4,
            lanes: 3,
            fanotify: Ok(()),
            backend: Backend::Inotify,
            reason: "the root has 111000 directories, a part of its file system".to_owned(),
            asks_fanotify: false,
        }],
        state: Some(StateFacts {
            path: "/state".to_owned(),
            exists: true,
            writable: true,
            free: 1 << 40,
            local: true,
            inside: None,
            beside: Vec::new(),
        }),
        configuration: Vec::new(),
        targets: vec![("backup".to_owned(), TargetFacts::Well)],
        program: "/usr/bin/fansync".into(),
    }
}

/// With this change of what is well, the finding of this name is such. The last of `expected` are the lines that mend it.
fn check(change: impl FnOnce(&mut Facts), name: &str, level: Level, what: &str, expected: &[&str]) {
    let mut facts = well();
    change(&mut facts);
    let found = findings(&facts);
    let of_name: Vec<&Finding> = found.iter().filter(|finding| finding.name == name && finding.what == what).collect();
    let [finding] = of_name.as_slice() else { panic!("{name}: {what}\n{}", text(&found)) };
    assert_eq!(finding.level, level, "{}", text(&found));
    let (why, mend) = expected.split_first().map_or(("", &[][..]), |(why, mend)| (*why, mend));
    assert!(finding.why.contains(why) && finding.why.is_empty() == why.is_empty(), "{why}\n{}", finding.why);
    assert_eq!(finding.mend, mend, "{}", text(&found));
    // What is worse than good has a reason, and what is worse than known has a remedy.
    assert!(level == Level::Ok || !finding.why.is_empty());
    assert!(level < Level::Warning || !finding.mend.is_empty() || name == "target", "{what}");
    assert!(level != Level::Ok || finding.mend.is_empty());
}

const RESTART: &str = "restart fansync after it: a queue keeps the size that it was made with";
const UPGRADE: &str = "apt-get install --only-upgrade rsync";
const UNIT_CAPABILITIES: &str = "AmbientCapabilities=CAP_SYS_ADMIN CAP_DAC_READ_SEARCH   (in the [Service] of its systemd unit; rsync has them too then)";

fn set(limit: Limit, now: u64) -> impl FnOnce(&mut Facts) {
    move |facts: &mut Facts| {
        facts.limits.insert(limit, now);
    }
}

/// The two lines that raise a limit of the machine.
fn raised(limit: Limit, to: u64) -> [String; 2] {
    let name = limit.sysctl();
    [
        format!("sysctl -w {name}={to}"),
        format!("{name} = {to}   (a line for /etc/sysctl.d/90-fansync.conf; or: fansync tune --write FILE)"),
    ]
}

#[test]
fn nothing_is_wrong_where_all_is_well() {
    let found = findings(&well());
    assert_eq!(worst(&found), Level::Ok, "{}", text(&found));
    assert_eq!(found.len(), 17, "{}", text(&found));
    assert!(text(&found).ends_with("0 problems, 0 warnings\n"));
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let mut facts = well();
    (facts.kernel, facts.usage, facts.privileges, facts.synchronised) = (None, None, None, None);
    (facts.limits, facts.state, facts.roots, facts.targets) = (BTreeMap::new(), None, Vec::new(), Vec::new());
    let names: Vec<&str> = findings(&facts).iter().map(|finding| finding.name).collect();
    assert_eq!(names, ["rsync", "memory", "descriptors"]);
}

#[test]
fn kernels() {
    let release = |text: &'static str| move |facts: &mut Facts| facts.kernel = Some(text.to_owned());
    let check = |text, level, what: &str, expected: &[&str]| check(release(text), "kernel", level, what, expected);
    check("6.13", Level::Ok, "Linux 6.13: all that fansync can use", &[]);
    check("who knows", Level::Note, "Linux who knows: its version is not understood", &["what it can do is not known"]);
    check(
        "5.4.0-150-generic",
        Level::Problem,
        "Linux 5.4.0-150-generic is too old: 5.6 or later is needed",
        &["openat2(2)", "install a newer kernel"],
    );
    check(
        "5.8.1",
        Level::Note,
        "Linux 5.8.1: no fanotify with names (5.9)",
        &["1.3 KB of kernel memory for each directory"],
    );
    check(
        "5.15.0",
        Level::Note,
        "Linux 5.15.0: no fanotify with renames and handles (5.17)",
        &["1.3 KB of kernel memory for each directory"],
    );
    check(
        "6.1.0-18",
        Level::Note,
        "Linux 6.1.0-18: stamps have the grain of the timer (finer from 6.13 on)",
        &["within one tick"],
    );
}

#[test]
fn versions_of_rsync() {
    let version = |text: &'static str| move |facts: &mut Facts| facts.rsync = Ok(text.to_owned());
    check(version("3.5.0"), "rsync", Level::Ok, "rsync reports version 3.5.0", &[]);
    check(version("unknown"), "rsync", Level::Ok, "rsync reports version unknown", &[]);
    let missing = |facts: &mut Facts| facts.rsync = Err("cannot run rsync: it is not installed".to_owned());
    check(
        missing,
        "rsync",
        Level::Problem,
        "cannot run rsync: it is not installed",
        &["every transfer is an rsync", "apt-get install rsync"],
    );
    let build = "or build 3.5.0 or later, and name it by 'rsync:'";
    let holes = |text: &'static str, why: &str| {
        let what = format!(
            "rsync reports version {text}, before which holes were mended that its distribution may have mended too"
        );
        check(version(text), "rsync_security", Level::Warning, &what, &[why, UPGRADE, build]);
    };
    holes("3.2.7", "by the release notes: 3.4.0: CVE-2024-12084");
    holes("3.4.1", "by the release notes: 3.4.3: CVE-2026-29518");
    holes("3.4.4", "by the release notes: 3.5.0: 33 holes, among them CVE-2026-53785");
    let fault = |text: &'static str, why: &str| {
        check(version(text), "rsync_faults", Level::Note, &format!("rsync reports version {text}"), &[why, UPGRADE]);
    };
    fault("3.4.3", "it refuses missing names");
    fault("3.4.0", "use 3.4.1 or later");
    fault("3.1.3", "'use chroot = yes' on a glibc of 2.32");
    let mut facts = well();
    facts.rsync = Ok("3.4.4".to_owned());
    assert!(!findings(&facts).iter().any(|finding| finding.name == "rsync_faults"));
}

#[test]
fn users_and_namespaces() {
    let nobody = |facts: &mut Facts| {
        facts.privileges = Some(Privileges { user: 65534, effective: 0, in_namespace: false });
    };
    let setcap = "setcap cap_sys_admin,cap_dac_read_search+ep /usr/bin/fansync   (rsync does not have them then)";
    check(
        nobody,
        "capabilities",
        Level::Note,
        "user 65534 lacks CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH",
        &["CAP_SYS_ADMIN is needed to watch a whole file system by fanotify", UNIT_CAPABILITIES, setcap],
    );
    let one = |facts: &mut Facts| {
        facts.privileges = Some(Privileges { user: 7, effective: 1 << SYS_ADMIN, in_namespace: false });
    };
    check(
        one,
        "capabilities",
        Level::Note,
        "user 7 lacks CAP_DAC_READ_SEARCH",
        &[
            "CAP_DAC_READ_SEARCH is needed to find directories by handle",
            "AmbientCapabilities=CAP_DAC_READ_SEARCH   (in the [Service] of its systemd unit; rsync has them too then)",
            "setcap cap_dac_read_search+ep /usr/bin/fansync   (rsync does not have them then)",
        ],
    );
    check(|_| (), "capabilities", Level::Ok, "user 0 has CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH", &[]);
    check(
        in_container,
        "capabilities",
        Level::Ok,
        "user 0 has CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH, in its own namespace only",
        &[],
    );
    check(
        in_container,
        "user_namespace",
        Level::Note,
        "this is a user namespace, as of a container without privileges",
        &["hide the real ones: those of the namespaces above", "raise the limits below on the host"],
    );
}

fn in_container(facts: &mut Facts) {
    if let Some(privileges) = &mut facts.privileges {
        privileges.in_namespace = true;
    }
}

#[test]
fn memory_for_watches() {
    check(
        |_| (),
        "memory",
        Level::Ok,
        "watches may hold 25 % of 24.0 GiB of RAM: 6.0 GiB, which is 4,955,731 watches",
        &[],
    );
    let small = |facts: &mut Facts| facts.budget.ram = 512 << 20;
    check(
        small,
        "memory",
        Level::Problem,
        "watches may hold 25 % of 512.0 MiB of RAM: 128.0 MiB, which is 103,244 watches",
        &["111,000 directories need 137.6 MiB of kernel memory for their watches", FANOTIFY],
    );
    let group = |facts: &mut Facts| {
        facts.budget.group = Some(GroupLimit { bytes: 400 << 20, file: "/cg/memory.max".into() });
    };
    check(
        group,
        "memory",
        Level::Problem,
        "watches may hold 25 % of the control group's 400.0 MiB (/cg/memory.max): 100.0 MiB, which is 80,659 watches",
        &[
            "which cannot be reclaimed; what has no watch is looked through every minute instead",
            "MemoryMax=551M   (in the [Service] of its systemd unit; or leave it out)",
            FANOTIFY,
        ],
    );
}

#[test]
fn limits_on_watches() {
    let limit = |now: u64| set(Limit::InotifyWatches, now);
    let name = "inotify_watches";
    let [line, file] = raised(Limit::InotifyWatches, 262_144);
    check(
        limit(8192),
        name,
        Level::Problem,
        "fs.inotify.max_user_watches is 8,192, 0 are taken; 111,000 directories need one each",
        &["102,808 directories would have no watch", &line, &file],
    );
    check(
        limit(115_000),
        name,
        Level::Warning,
        "fs.inotify.max_user_watches is 115,000, 0 are taken; 111,000 directories need one each",
        &["there is room for less than a tenth more directories", &line, &file],
    );
    check(
        limit(192_536),
        name,
        Level::Note,
        "fs.inotify.max_user_watches is 192,536, 0 are taken; 111,000 directories need one each",
        &["so 262,144", &line, &file],
    );
    // Others of this user take theirs first; what a running fansync has taken does not count against it.
    let taken = |others: u64, all: u64| {
        move |facts: &mut Facts| {
            let taken = |watches| Taken { instances: 1, watches };
            let others = Others { inotify: taken(others), fanotify: Taken::default() };
            facts.usage = Some(Usage { inotify: taken(all), others, complete: true, ..Usage::default() });
            facts.limits.insert(Limit::InotifyWatches, 262_144);
        }
    };
    check(
        taken(0, 111_000),
        name,
        Level::Ok,
        "fs.inotify.max_user_watches is 262,144, 111,000 are taken; 111,000 directories need one each",
        &[],
    );
    let [line, file] = raised(Limit::InotifyWatches, 1_048_576);
    check(
        taken(200_000, 200_000),
        name,
        Level::Problem,
        "fs.inotify.max_user_watches is 262,144, 200,000 are taken; 111,000 directories need one each",
        &["48,856 directories would have no watch", &line, &file],
    );
    // In a container the limit of the host may be the one that is met, or its own.
    let inside = |facts: &mut Facts| {
        in_container(facts);
        facts.limits.insert(Limit::NamespaceWatches, 30);
    };
    check(
        inside,
        name,
        Level::Problem,
        "user.max_inotify_watches is 30, 0 are taken; 111,000 directories need one each",
        &["110,970 directories would have no watch", "sysctl -w user.max_inotify_watches=262144"],
    );
    // There was no time, or no right, to look at everything.
    for (complete, hidden) in [(false, 0), (true, 1)] {
        let some = |facts: &mut Facts| facts.usage = Some(Usage { complete, hidden, ..Usage::default() });
        let what = "fs.inotify.max_user_watches is 1,048,576, at least 0 are taken; 111,000 directories need one each";
        check(some, name, Level::Ok, what, &[]);
    }
    let uncounted = |facts: &mut Facts| facts.roots[0].count = None;
    check(
        uncounted,
        name,
        Level::Ok,
        "fs.inotify.max_user_watches is 1,048,576, 0 are taken; no directories were counted",
        &[],
    );
    // Memory does not allow what the directories need.
    let small = |facts: &mut Facts| {
        facts.budget.ram = 64 << 20;
        facts.limits.insert(Limit::InotifyWatches, 12_905);
    };
    check(
        small,
        name,
        Level::Problem,
        "fs.inotify.max_user_watches is 12,905, 0 are taken; 111,000 directories need one each",
        &["98,095 directories would have no watch", FANOTIFY],
    );
}

#[test]
fn limits_on_queues() {
    let why = "at 500,000 events/s, which fast local writers make, it is full after 32 ms in which nobody reads";
    for (limit, name) in [(Limit::InotifyQueue, "inotify_queue"), (Limit::FanotifyQueue, "fanotify_queue")] {
        let [line, file] = raised(limit, 1_048_576);
        let what = |now: &str| format!("{} is {now} events", limit.sysctl());
        check(set(limit, 16_384), name, Level::Warning, &what("16,384"), &[why, &line, &file, RESTART]);
        check(set(limit, 524_288), name, Level::Note, &what("524,288"), &["after 1048 ms", &line, &file, RESTART]);
        check(set(limit, 4_194_304), name, Level::Ok, &what("4,194,304"), &[]);
    }
    // Who cannot use fanotify need not care.
    let unprivileged = |facts: &mut Facts| {
        facts.limits.insert(Limit::FanotifyQueue, 16_384);
        facts.privileges = Some(Privileges { user: 7, effective: 0, in_namespace: false });
    };
    let [line, file] = raised(Limit::FanotifyQueue, 1_048_576);
    check(
        unprivileged,
        "fanotify_queue",
        Level::Note,
        "fs.fanotify.max_queued_events is 16,384 events",
        &[why, &line, &file, RESTART],
    );
}

#[test]
fn limits_on_instances_groups_and_marks() {
    let table = [
        (Limit::InotifyInstances, "inotify_instances", 4, 512, "does not start without them"),
        (Limit::FanotifyGroups, "fanotify_groups", 1, 128, "falls back to inotify without"),
        (Limit::FanotifyMarks, "fanotify_marks", 1, 8192, "falls back to inotify without"),
    ];
    for (limit, name, needed, wanted, why) in table {
        let marked = |facts: &mut Facts| {
            if limit != Limit::InotifyInstances {
                by_fanotify(facts);
            }
        };
        let others = |facts: &mut Facts| {
            facts.limits.insert(limit, 100);
            let taken = Taken { instances: 98, watches: 98 };
            let others = Others { inotify: taken, fanotify: taken };
            facts.usage = Some(Usage { inotify: taken, fanotify: taken, others, ..Usage::default() });
            marked(facts);
        };
        let low = |now: u64| {
            move |facts: &mut Facts| {
                facts.limits.insert(limit, now);
                marked(facts);
            }
        };
        let what = |taken: u64| format!("{} is 100, {taken} are taken; {needed} are needed", limit.sysctl());
        let [line, file] = raised(limit, wanted);
        if needed > 2 {
            check(others, name, Level::Problem, &what(98), &[why, &line, &file]);
        } else {
            check(others, name, Level::Note, &what(98), &["others of the same user need some too", &line, &file]);
        }
        check(low(100), name, Level::Note, &what(0), &["others of the same user need some too", &line, &file]);
        let what = format!("{} is 0, 0 are taken; {needed} are needed", limit.sysctl());
        let [line, file] = raised(limit, wanted.max(512));
        check(low(0), name, Level::Problem, &what, &[why, &line, &file]);
    }
}

#[test]
fn open_files() {
    let few = |facts: &mut Facts| facts.descriptors = Some(128);
    check(
        few,
        "descriptors",
        Level::Warning,
        "a process may open 128 files; 256 are needed at most",
        &[
            "or does not start, when it has none left",
            "LimitNOFILE=4096   (in the [Service] of its systemd unit)",
            "ulimit -n 4096   (in a shell, before it is started)",
        ],
    );
    let any = |facts: &mut Facts| facts.descriptors = None;
    check(any, "descriptors", Level::Ok, "a process may open as many files as it likes", &[]);
}

#[test]
fn clocks() {
    let wild = |facts: &mut Facts| facts.synchronised = Some(false);
    check(
        wild,
        "clock",
        Level::Note,
        "nothing keeps the clock right, as far as the kernel knows",
        &["makes fansync compare everything", "timedatectl set-ntp true"],
    );
    check(|_| (), "clock", Level::Ok, "the clock is kept right", &[]);
}

#[test]
fn counted_directories() {
    let count = |count: Count| move |facts: &mut Facts| facts.roots[0].count = Some(count);
    check(|_| (), "directories", Level::Ok, "111,000 directories", &[]);
    check(
        count(Count { directories: 10, unreadable: 2, complete: true }),
        "directories",
        Level::Warning,
        "10 directories, 2 of which this user may not read",
        &["what is in them is not sent", "run fansync as root, let this user read them, or exclude them by a filter"],
    );
    check(
        count(Count { directories: 10, unreadable: 0, complete: false }),
        "directories",
        Level::Note,
        "at least 10 directories: there was no time to count them all",
        &["is for those that were counted", "fansync doctor --count-for 600 PATH   (seconds)"],
    );
}

#[test]
fn file_systems() {
    let on = |kind: &'static str, options: &'static [&'static str], ctimes_tell: bool| {
        move |facts: &mut Facts| {
            let root = &mut facts.roots[0];
            root.kind = kind.to_owned();
            root.options = options.iter().map(|option| (*option).to_owned()).collect();
            root.ctimes_tell = ctimes_tell;
        }
    };
    let name = "file_system";
    check(|_| (), name, Level::Ok, "ext4", &[]);
    check(on("xfs", &[], true), name, Level::Ok, "xfs", &[]);
    check(on("btrfs", &["subvolid=5"], true), name, Level::Ok, "btrfs, mounted with its top level", &[]);
    check(on("btrfs", &["subvolid=256"], true), name, Level::Ok, "btrfs, mounted with subvolume 256", &[]);
    check(on("btrfs", &[], true), name, Level::Ok, "btrfs, of an unknown subvolume", &[]);
    check(
        on("nfs4", &[], false),
        name,
        Level::Warning,
        "nfs4 is a network file system, or one in user space",
        &["has no events here", "run fansync on the server, on the file system itself"],
    );
    check(
        on("overlay", &[], true),
        name,
        Level::Note,
        "overlay",
        &["written to its upper directory from outside has no events", "mirror the merged directory only, as this one"],
    );
    check(on("tmpfs", &[], true), name, Level::Note, "tmpfs", &["through a mapping only (mmap)"]);
    check(on("squashfs", &["ro"], true), name, Level::Note, "squashfs, read-only", &["nothing changes there"]);
    check(
        on("bcachefs", &[], true),
        name,
        Level::Note,
        "bcachefs, of which fansync knows nothing in particular",
        &["it was tried on ext4, xfs, btrfs and tmpfs"],
    );
    let coarse = |facts: &mut Facts| facts.roots[0].whole_seconds = true;
    check(
        coarse,
        "timestamps",
        Level::Note,
        "stamps are of whole seconds",
        &[
            "a rewrite within a second that keeps the size",
            "ext4 with inodes of 256 bytes or more has finer ones: tune2fs -l DEVICE shows them, mkfs.ext4 makes them",
        ],
    );
}

#[test]
fn backends() {
    let name = "backend";
    let reason = "the root has 111000 directories, a part of its file system";
    check(|_| (), name, Level::Ok, &format!("inotify: {reason}; fanotify works here too"), &[]);
    check(by_fanotify, name, Level::Ok, "fanotify: it is configured", &[]);
    let fails = |asks_fanotify: bool| {
        move |facts: &mut Facts| {
            let root = &mut facts.roots[0];
            (root.fanotify, root.asks_fanotify) = (Err("fanotify_mark: EXDEV: a subvolume".to_owned()), asks_fanotify);
        }
    };
    let (what, memory) = (
        "fanotify does not work here: fanotify_mark: EXDEV: a subvolume",
        "1.3 KB of kernel memory for each directory",
    );
    check(fails(false), name, Level::Note, what, &[memory]);
    check(fails(true), name, Level::Warning, what, &[memory, "watch: auto   (of the root, where that is meant)"]);
}

fn by_fanotify(facts: &mut Facts) {
    let root = &mut facts.roots[0];
    (root.backend, root.reason) = (Backend::Fanotify, "it is configured".to_owned());
}

#[test]
fn a_mark_needs_neither_watches_nor_instances() {
    let few = |facts: &mut Facts| {
        by_fanotify(facts);
        facts.limits.insert(Limit::InotifyWatches, 65_536);
        facts.budget.ram = 512 << 20;
    };
    check(
        few,
        "inotify_watches",
        Level::Ok,
        "fs.inotify.max_user_watches is 65,536, 0 are taken; 0 directories need one each",
        &[],
    );
    check(
        few,
        "memory",
        Level::Ok,
        "watches may hold 25 % of 512.0 MiB of RAM: 128.0 MiB, which is 103,244 watches",
        &[],
    );
    check(few, "inotify_instances", Level::Ok, "fs.inotify.max_user_instances is 512, 0 are taken; 0 are needed", &[]);
    check(few, "fanotify_groups", Level::Ok, "fs.fanotify.max_user_groups is 128, 0 are taken; 1 are needed", &[]);
}

#[test]
fn state_folders() {
    let state = |change: fn(&mut StateFacts)| move |facts: &mut Facts| facts.state.iter_mut().for_each(change);
    let name = "state";
    check(|_| (), name, Level::Ok, "it can be written; 1024.0 GiB are free", &[]);
    check(state(|state| state.exists = false), name, Level::Ok, "it can be made; 1024.0 GiB are free", &[]);
    check(
        state(|state| state.beside = vec!["/data".to_owned(), "/home".to_owned()]),
        name,
        Level::Ok,
        "it can be written; 1024.0 GiB are free; on the file system of /data and /home",
        &[],
    );
    let install = "install -d -m 0700 -o \"$USER\" /state   (as root, with its user)";
    check(
        state(|state| state.writable = false),
        name,
        Level::Problem,
        "this user may not write it",
        &["does not start without", install],
    );
    check(
        state(|state| (state.writable, state.exists) = (false, false)),
        name,
        Level::Problem,
        "it is not there, and this user may not make it",
        &["does not start without", install],
    );
    check(
        state(|state| state.inside = Some("/data".to_owned())),
        name,
        Level::Warning,
        "it lies inside the root /data",
        &["each checkpoint is a change", "name another folder by state_dir: or --state"],
    );
    check(
        state(|state| state.local = false),
        name,
        Level::Warning,
        "it is on a network file system, or one in user space",
        &["locks and the order of writes", "name a local folder by state_dir: or --state"],
    );
    check(
        state(|state| state.free = 1 << 20),
        name,
        Level::Warning,
        "1.0 MiB are free there",
        &["no checkpoint can be written", "free space: 256.0 MiB are enough for most"],
    );
}

#[test]
fn configurations_and_targets() {
    let wrong =
        |facts: &mut Facts| facts.configuration = vec!["f.yaml:2:9: roots[0].path: /x does not exist".to_owned()];
    check(
        wrong,
        "configuration",
        Level::Problem,
        "f.yaml:2:9: roots[0].path: /x does not exist",
        &["the agent does not start with it", "fansync check --config FILE"],
    );
    let said = |said: TargetFacts| move |facts: &mut Facts| facts.targets[0].1 = said;
    check(|_| (), "target", Level::Ok, "it answers and takes changes", &[]);
    check(
        said(TargetFacts::Late("Operation not permitted (os error 1)".to_owned())),
        "target",
        Level::Note,
        "it takes changes, but its replies cannot be acknowledged at once: Operation not permitted (os error 1)",
        &["waits up to 40 ms", "socket options = TCP_NODELAY   (in the daemon's rsyncd.conf)"],
    );
    let away = TargetFacts::Away("target backup: connection refused".to_owned());
    check(said(away), "target", Level::Warning, "target backup: connection refused", &["sent when it is back"]);
    let refuses = TargetFacts::Refuses("target backup: unknown module".to_owned());
    check(said(refuses), "target", Level::Problem, "target backup: unknown module", &["until that is changed"]);
}

#[test]
fn the_text_has_a_line_for_each_and_lines_below_what_is_wrong() {
    let mut facts = well();
    facts.limits.insert(Limit::InotifyWatches, 8192);
    let found = text(&findings(&facts));
    let expected = "\
problem  inotify watches: fs.inotify.max_user_watches is 8,192, 0 are taken; 111,000 directories need one each
           why: 102,808 directories would have no watch: they, and all beneath them, are looked through every minute instead of \
                    at each change
          mend: sysctl -w fs.inotify.max_user_watches=262144
                fs.inotify.max_user_watches = 262144   (a line for /etc/sysctl.d/90-fansync.conf; or: fansync tune --write FILE)
ok       inotify queue: ";
    assert!(found.contains(expected), "{found}");
    assert!(found.contains("ok       file system /data: ext4\n"), "{found}");
    assert!(found.ends_with("1 problems, 0 warnings\n"), "{found}");
}

#[test]
fn what_is_raised_as_was_said_is_well() {
    let mut facts = well();
    for limit in [Limit::InotifyWatches, Limit::InotifyQueue, Limit::InotifyInstances, Limit::FanotifyQueue] {
        facts.limits.insert(limit, 1);
    }
    assert_eq!(worst(&findings(&facts)), Level::Problem);
    for step in steps(&needs(&facts)).steps {
        let now = facts.limits.entry(step.limit).or_insert(0);
        *now = step.wanted.max(*now);
    }
    assert_eq!(worst(&findings(&facts)), Level::Ok, "{}", text(&findings(&facts)));
}
