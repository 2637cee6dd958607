//! Roots, the state folder and targets. Pure.

use super::{Count, Facts, Finding, Level, RootFacts, TargetFacts};
use crate::limits::{bytes, grouped};
use crate::sys::ground::Backend;

pub(super) fn directories(root: &RootFacts) -> Option<Finding> {
    let Count { directories, unreadable, complete } = root.count?;
    let at_least = if complete { "" } else { "at least " };
    let what = format!("{at_least}{} directories", grouped(directories));
    let figures = [("directories", directories), ("unreadable", unreadable), ("complete", u64::from(complete))];
    let finding = |level, what| Finding::new("directories", level, what).of(&root.path).figures(figures);
    Some(if unreadable > 0 {
        finding(Level::Warning, format!("{what}, {} of which this user may not read", grouped(unreadable)))
            .why("what is in them is not sent; and they are looked through every minute, as they cannot be watched")
            .mend("run fansync as root, let this user read them, or exclude them by a filter")
    } else if complete {
        finding(Level::Ok, what)
    } else {
        finding(Level::Note, format!("{what}: there was no time to count them all"))
            .why("what is said of watches and memory is for those that were counted")
            .mend("fansync doctor --count-for 600 PATH   (seconds)")
    })
}

/// What is known of a kind of file system.
pub(super) fn file_system(root: &RootFacts) -> Finding {
    let kind = &root.kind;
    let finding = |level, what: String| Finding::new("file_system", level, what).of(&root.path);
    let has = |option: &str| root.options.iter().any(|each| each == option);
    if !root.ctimes_tell {
        let finding = finding(Level::Warning, format!("{kind} is a network file system, or one in user space"));
        return finding
            .why(
                "what other machines, or the program behind it, change there has no events here; and its stamps are of another \
                 clock, so everything is compared after each loss of events and at each start",
            )
            .mend("run fansync on the server, on the file system itself");
    }
    match kind.as_str() {
        "overlay" => finding(Level::Note, "overlay".to_owned())
            .why("what is written to its upper directory from outside has no events here")
            .mend("mirror the merged directory only, as this one"),
        "btrfs" => finding(Level::Ok, format!("btrfs, {}", subvolume(&root.options))),
        "tmpfs" => finding(Level::Note, "tmpfs".to_owned())
            .why("a file that is changed through a mapping only (mmap) gets no new stamp there, so a rescan does not find it"),
        "ext2" | "ext3" | "ext4" | "xfs" | "f2fs" | "zfs" => finding(Level::Ok, kind.clone()),
        _ if has("ro") => finding(Level::Note, format!("{kind}, read-only")).why("nothing changes there"),
        _ => finding(Level::Note, format!("{kind}, of which fansync knows nothing in particular"))
            .why("it was tried on ext4, xfs, btrfs and tmpfs"),
    }
}

/// Which subvolume of a btrfs is mounted.
fn subvolume(options: &[String]) -> String {
    let id = options.iter().find_map(|option| option.strip_prefix("subvolid="));
    match id {
        Some("5") => "mounted with its top level".to_owned(),
        Some(id) => format!("mounted with subvolume {id}"),
        None => "of an unknown subvolume".to_owned(),
    }
}

pub(super) fn stamps(root: &RootFacts) -> Option<Finding> {
    (root.whole_seconds && root.ctimes_tell).then(|| {
        Finding::new("timestamps", Level::Note, "stamps are of whole seconds")
            .of(&root.path)
            .why("a rewrite within a second that keeps the size may look unchanged to rsync after a loss of events")
            .mend("ext4 with inodes of 256 bytes or more has finer ones: tune2fs -l DEVICE shows them, mkfs.ext4 makes them")
    })
}

pub(super) fn backend(root: &RootFacts) -> Finding {
    let finding = |level, what: String| Finding::new("backend", level, what).of(&root.path);
    match (&root.fanotify, root.backend) {
        (Ok(()), Backend::Fanotify) => finding(Level::Ok, format!("fanotify: {}", root.reason)),
        (Ok(()), Backend::Inotify) => finding(Level::Ok, format!("inotify: {}; fanotify works here too", root.reason)),
        (Err(words), _) => {
            // Who asked for it relies on it.
            let level = if root.asks_fanotify { Level::Warning } else { Level::Note };
            let found = finding(level, format!("fanotify does not work here: {words}"))
                .why("inotify is used, with a watch and 1.3 KB of kernel memory for each directory");
            if root.asks_fanotify { found.mend("watch: auto   (of the root, where that is meant)") } else { found }
        }
    }
}

/// Below so much free room the state folder is told of: the checkpoint of a full backlog takes a part of it. Unit: bytes.
const STATE_FREE_MIN: u64 = 256 << 20;

pub(super) fn state(facts: &Facts) -> Vec<Finding> {
    let Some(state) = &facts.state else { return Vec::new() };
    let finding =
        |level, what: String| Finding::new("state", level, what).of(&state.path).figures([("free_bytes", state.free)]);
    let mut found = Vec::new();
    if !state.writable {
        let what =
            if state.exists { "this user may not write it" } else { "it is not there, and this user may not make it" };
        found.push(
            finding(Level::Problem, what.to_owned())
                .why("the agent keeps its lock, its socket and its checkpoint there, and does not start without")
                .mend(format!("install -d -m 0700 -o \"$USER\" {}   (as root, with its user)", state.path)),
        );
    }
    if let Some(root) = &state.inside {
        found.push(
            finding(Level::Warning, format!("it lies inside the root {root}"))
                .why("each checkpoint is a change, which is sent, after which there is a checkpoint")
                .mend("name another folder by state_dir: or --state"),
        );
    }
    if !state.local {
        found.push(
            finding(Level::Warning, "it is on a network file system, or one in user space".to_owned())
                .why("locks and the order of writes are not to be relied upon there")
                .mend("name a local folder by state_dir: or --state"),
        );
    }
    if state.free < STATE_FREE_MIN {
        found.push(
            finding(Level::Warning, format!("{} are free there", bytes(state.free)))
                .why("when it is full no checkpoint can be written, and the next start compares everything")
                .mend(format!("free space: {} are enough for most", bytes(STATE_FREE_MIN))),
        );
    }
    if found.is_empty() {
        let there = if state.exists { "it can be written" } else { "it can be made" };
        found.push(if state.beside.is_empty() {
            finding(Level::Ok, format!("{there}; {} are free", bytes(state.free)))
        } else {
            let what = format!(
                "{there}; {} are free; on the file system of {}",
                bytes(state.free),
                state.beside.join(" and ")
            );
            finding(Level::Ok, what)
        });
    }
    found
}

pub(super) fn target(name: &str, said: &TargetFacts) -> Finding {
    let finding = |level, what: &str| Finding::new("target", level, what).of(name);
    match said {
        TargetFacts::Well => finding(Level::Ok, "it answers and takes changes"),
        TargetFacts::Late(why) => {
            finding(Level::Note, &format!("it takes changes, but its replies cannot be acknowledged at once: {why}"))
                .why("a daemon without TCP_NODELAY waits up to 40 ms for that, with each change")
                .mend("socket options = TCP_NODELAY   (in the daemon's rsyncd.conf)")
        }
        TargetFacts::Away(words) => finding(Level::Warning, words).why("changes are kept, and sent when it is back"),
        TargetFacts::Refuses(words) => {
            finding(Level::Problem, words).why("nothing is sent to it until that is changed")
        }
    }
}
