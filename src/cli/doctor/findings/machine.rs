//! Kernel, rsync, rights, open files and the clock. Pure.

use super::{Facts, Finding, Level, RootFacts, is_in_namespace};
use crate::limits::grouped;
use crate::sys::privileges::{DAC_READ_SEARCH, SYS_ADMIN};

/// The first three numbers of a release, such as `6.18.44` of `6.18.44-cloud`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub(super) fn kernel(facts: &Facts) -> Option<Finding> {
    let text = facts.kernel.as_ref()?;
    let finding = |level, what: &str| Finding::new("kernel", level, format!("Linux {text}{what}"));
    Some(match release(text) {
        None => finding(Level::Note, ": its version is not understood").why("what it can do is not known"),
        Some(version) if version < (5, 6) => finding(Level::Problem, " is too old: 5.6 or later is needed")
            .why("it has no openat2(2), by which fansync opens directories without following symlinks")
            .mend("install a newer kernel"),
        Some(version) if version < (5, 9) => finding(Level::Note, ": no fanotify with names (5.9)")
            .why("inotify is used, with a watch and 1.3 KB of kernel memory for each directory"),
        Some(version) if version < (5, 17) => finding(Level::Note, ": no fanotify with renames and handles (5.17)")
            .why("inotify is used, with a watch and 1.3 KB of kernel memory for each directory"),
        Some(version) if version < (6, 13) => finding(Level::Note, ": stamps have the grain of the timer (finer from 6.13 on)")
            .why("two changes of a file within one tick, 1 to 10 ms, have the same ctime: a rescan sends it once more to be sure"),
        Some(_) => finding(Level::Ok, ": all that fansync can use"),
    })
}

pub(super) fn rsync(facts: &Facts) -> Vec<Finding> {
    let version = match &facts.rsync {
        Ok(version) => version,
        Err(words) => {
            let finding = Finding::new("rsync", Level::Problem, words.clone());
            return vec![finding.why("every transfer is an rsync").mend("apt-get install rsync")];
        }
    };
    let number = crate::cli::preflight::parse_version(version);
    let mut found = vec![Finding::new("rsync", Level::Ok, format!("rsync reports version {version}"))];
    let Some(number) = number else { return found };
    let holes: Vec<&str> = (HOLES.iter()).filter(|(mended, _)| number < *mended).map(|(_, words)| *words).collect();
    if !holes.is_empty() {
        let finding = Finding::new(
            "rsync_security",
            Level::Warning,
            format!(
                "rsync reports version {version}, before which holes were mended that its distribution may have mended too"
            ),
        );
        let finding = finding.why(format!("by the release notes: {}", holes.join("; ")));
        found.push(
            finding
                .mend("apt-get install --only-upgrade rsync")
                .mend("or build 3.5.0 or later, and name it by 'rsync:'"),
        );
    }
    for (is_meant, words) in FAULTS {
        if is_meant(number) {
            let finding = Finding::new("rsync_faults", Level::Note, format!("rsync reports version {version}"));
            found.push(finding.why(words).mend("apt-get install --only-upgrade rsync"));
        }
    }
    found
}

/// Before which version there was what (notes/rsync.md 9).
const HOLES: [((u32, u32, u32), &str); 3] = [
    (
        (3, 4, 0),
        "3.4.0: CVE-2024-12084 (heap overflow in a receiver), -12085, -12086, -12087, -12088, -12747 (a sender follows a \
         symlink that is put there while it looks)",
    ),
    (
        (3, 4, 3),
        "3.4.3: CVE-2026-29518 and -43619 (symlink races of a daemon without chroot), -43618 (memory of the other side is \
         disclosed: refuse options = compress)",
    ),
    (
        (3, 5, 0),
        "3.5.0: 33 holes, among them CVE-2026-53785 (a receiver follows a symlink planted among the parents of a list, which \
         every run of fansync sends), -53797 and -53801 (a sender reads outside of its root), -53802 (password files)",
    ),
];

/// Which versions have which fault (notes/rsync.md 9).
type Fault = (fn((u32, u32, u32)) -> bool, &'static str);

const FAULTS: [Fault; 3] = [
    (
        |version| version == (3, 4, 3),
        "as a receiver it refuses missing names ('invalid file mode'): fansync lists their directories instead, which takes longer",
    ),
    (
        |version| version == (3, 4, 0),
        "it is known for a clash of flags with hard links and a use after free: use 3.4.1 or later",
    ),
    (
        |version| version < (3, 2, 4),
        "as a daemon with 'use chroot = yes' on a glibc of 2.32 or later it may fail with 'failed to set permissions'",
    ),
];

pub(super) fn namespace(facts: &Facts) -> Option<Finding> {
    is_in_namespace(facts).then(|| {
        Finding::new("user_namespace", Level::Note, "this is a user namespace, as of a container without privileges")
            .why(
                "its own limits (user.max_inotify_*) are often endless and hide the real ones: those of the namespaces above, \
                 which all containers of one user share; and file systems of the host cannot be marked by fanotify",
            )
            .mend("raise the limits below on the host")
    })
}

pub(super) fn capabilities(facts: &Facts) -> Option<Finding> {
    let privileges = facts.privileges?;
    let wanted = [
        (SYS_ADMIN, "CAP_SYS_ADMIN", "to watch a whole file system by fanotify"),
        (DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "to find directories by handle, and to read what belongs to others"),
    ];
    let missing: Vec<_> = wanted.into_iter().filter(|(capability, ..)| !privileges.has(*capability)).collect();
    let user = privileges.user;
    if missing.is_empty() {
        return Some(Finding::new(
            "capabilities",
            Level::Ok,
            format!(
                "user {user} has CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH{}",
                if privileges.in_namespace { ", in its own namespace only" } else { "" }
            ),
        ));
    }
    let names: Vec<&str> = missing.iter().map(|(_, name, _)| *name).collect();
    let whys: Vec<String> = missing.iter().map(|(_, name, why)| format!("{name} is needed {why}")).collect();
    let finding = Finding::new("capabilities", Level::Note, format!("user {user} lacks {}", names.join(" and ")))
        .why(format!("{}; without, inotify is used, and what this user may not read is not sent", whys.join(", ")));
    Some(
        finding
            .mend(format!(
                "AmbientCapabilities={}   (in the [Service] of its systemd unit; rsync has them too then)",
                names.join(" ")
            ))
            .mend(format!(
                "setcap {}+ep {}   (rsync does not have them then)",
                names.join(",").to_lowercase(),
                facts.program.display()
            )),
    )
}

/// Descriptors of an agent: for each shard its instance and loop, for each lane its loop, the pipes and the pidfd of two
/// rsyncs and a list; a walker may hold a few directories; the rest is of the root and of the agent.
fn descriptors_for(roots: u64, shards: u64, lanes: u64) -> u64 {
    64 + roots * 100 + shards * 8 + lanes * 20
}

pub(super) fn descriptors(facts: &Facts) -> Finding {
    let of = |count: fn(&RootFacts) -> u64| facts.roots.iter().map(count).sum::<u64>();
    let needed = descriptors_for(facts.roots.len() as u64, of(|root| root.shards), of(|root| root.lanes));
    let Some(now) = facts.descriptors else {
        return Finding::new("descriptors", Level::Ok, "a process may open as many files as it likes");
    };
    let what = format!("a process may open {} files; {} are needed at most", grouped(now), grouped(needed));
    let figures = [("limit", now), ("needed", needed)];
    if now >= needed {
        return Finding::new("descriptors", Level::Ok, what).figures(figures);
    }
    let wanted = needed.next_power_of_two().max(4096);
    Finding::new("descriptors", Level::Warning, what)
        .figures(figures)
        .why("the agent ends, or does not start, when it has none left")
        .mend(format!("LimitNOFILE={wanted}   (in the [Service] of its systemd unit)"))
        .mend(format!("ulimit -n {wanted}   (in a shell, before it is started)"))
}

pub(super) fn clock(facts: &Facts) -> Option<Finding> {
    Some(if facts.synchronised? {
        Finding::new("clock", Level::Ok, "the clock is kept right")
    } else {
        Finding::new("clock", Level::Note, "nothing keeps the clock right, as far as the kernel knows")
            .why("whoever sets it by hand makes fansync compare everything: changes are found by stamps of this clock")
            .mend("timedatectl set-ntp true")
    })
}
