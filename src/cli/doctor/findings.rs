//! What the facts of a machine mean for fansync: what is wrong, why it matters, and the line that mends it. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::limits::{
    Budget, Needs, RATE, STALL, WATCH_BYTES, bytes, grouped, groups_for, instances_for, queue_for, steps, watches_for,
};
use crate::sys::ground::Backend;
use crate::sys::limits::Limit;
use crate::sys::privileges::{DAC_READ_SEARCH, Privileges, SYS_ADMIN};
use crate::sys::usage::Usage;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know; nothing is worse for it.
    Note,
    /// It works, but not as well as it could.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name.
    pub name: &'static str,
    /// The root, target or folder that it is about.
    pub subject: Option<String>,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// Why it matters; empty when all is well.
    pub why: String,
    /// Lines that mend it, or say how.
    pub mend: Vec<String>,
    /// The numbers in it.
    pub figures: BTreeMap<&'static str, u64>,
}

impl Finding {
    fn new(name: &'static str, level: Level, what: impl Into<String>) -> Self {
        let (what, why) = (what.into(), String::new());
        Self { name, subject: None, level, what, why, mend: Vec::new(), figures: BTreeMap::new() }
    }

    fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    fn mend(mut self, line: impl Into<String>) -> Self {
        self.mend.push(line.into());
        self
    }

    fn figures<const N: usize>(mut self, figures: [(&'static str, u64); N]) -> Self {
        self.figures.extend(figures);
        self
    }
}

/// All that was seen. What could not be read is `None`, and left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Release of the kernel, such as `6.18.44-cloud`.
    pub kernel: Option<String>,
    /// The kernel's limits, as far as it has them.
    pub limits: BTreeMap<Limit, u64>,
    /// The memory that watches may hold.
    pub budget: Budget,
    /// What this user has taken of the limits.
    pub usage: Option<Usage>,
    /// Who this is.
    pub privileges: Option<Privileges>,
    /// Descriptors that a process may have; `None`: as many as it likes.
    pub descriptors: Option<u64>,
    /// Something keeps the clock right.
    pub synchronised: Option<bool>,
    /// The version of the rsync program, or why it cannot be used.
    pub rsync: Result<String, String>,
    /// What is or would be mirrored.
    pub roots: Vec<RootFacts>,
    /// Where the agent keeps its state.
    pub state: Option<StateFacts>,
    /// What is wrong with the configuration on this machine.
    pub configuration: Vec<String>,
    /// What each target said.
    pub targets: Vec<(String, TargetFacts)>,
    /// This program, for lines that name it.
    pub program: PathBuf,
}

/// What a target said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetFacts {
    /// It takes changes.
    Well,
    /// It cannot be reached, or cannot take anything, right now.
    Away(String),
    /// It refuses until somebody changes something.
    Refuses(String),
}

/// A directory that is or would be mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFacts {
    /// Where it is.
    pub path: String,
    /// Type of its file system, and its options.
    pub kind: String,
    /// Options of the file system.
    pub options: Vec<String>,
    /// Ctimes on it are of this machine's clock.
    pub ctimes_tell: bool,
    /// All stamps that were looked at are of whole seconds.
    pub whole_seconds: bool,
    /// What was counted, if it was.
    pub count: Option<Count>,
    /// Shards that it would have.
    pub shards: u64,
    /// rsync processes at the same time, over all targets.
    pub lanes: u64,
    /// Whether fanotify can watch it, or why not.
    pub fanotify: Result<(), String>,
    /// By what an agent would watch it.
    pub backend: Backend,
    /// Why.
    pub reason: String,
    /// The configuration asks for fanotify.
    pub asks_fanotify: bool,
}

/// Directories of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub directories: u64,
    /// How many of them this user may not read.
    pub unreadable: u64,
    /// There are no more.
    pub complete: bool,
}

/// The state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFacts {
    /// Where it is.
    pub path: String,
    /// It is there.
    pub exists: bool,
    /// It, or the directory in which it would be made, can be written.
    pub writable: bool,
    /// Room for it. Unit: bytes.
    pub free: u64,
    /// It is on a local file system.
    pub local: bool,
    /// The root that it lies in.
    pub inside: Option<String>,
    /// Roots on the same file system.
    pub beside: Vec<String>,
}

/// What needs no watches.
const FANOTIFY: &str =
    "watch: fanotify   (of the root, or --watch fanotify; as root): it needs neither watches nor their memory";

/// Everything that the facts mean, in the order in which it is told.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    all.extend(kernel(facts));
    all.extend(rsync(facts));
    all.extend(namespace(facts));
    all.extend(capabilities(facts));
    all.push(memory(facts));
    all.extend(watches(facts));
    all.extend(queue(facts, Limit::InotifyQueue));
    all.extend(instances(facts));
    all.extend(queue(facts, Limit::FanotifyQueue));
    all.extend(groups(facts));
    all.extend(marks(facts));
    all.push(descriptors(facts));
    all.extend(clock(facts));
    for root in &facts.roots {
        all.extend(directories(root));
        all.push(file_system(root));
        all.extend(stamps(root));
        all.push(backend(root));
    }
    all.extend(state(facts));
    all.extend(facts.configuration.iter().map(|words| {
        Finding::new("configuration", Level::Problem, words.clone())
            .why("the agent does not start with it")
            .mend("fansync check --config FILE")
    }));
    all.extend(facts.targets.iter().map(|(name, said)| target(name, said)));
    all
}

/// The first three numbers of a release, such as `6.18.44` of `6.18.44-cloud`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(facts: &Facts) -> Option<Finding> {
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

fn rsync(facts: &Facts) -> Vec<Finding> {
    let version = match &facts.rsync {
        Ok(version) => version,
        Err(words) => {
            let finding = Finding::new("rsync", Level::Problem, words.clone());
            return vec![finding.why("every transfer is an rsync").mend("apt-get install rsync")];
        }
    };
    let number = super::super::preflight::parse_version(version);
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

fn is_in_namespace(facts: &Facts) -> bool {
    facts.privileges.is_some_and(|privileges| privileges.in_namespace)
}

fn namespace(facts: &Facts) -> Option<Finding> {
    is_in_namespace(facts).then(|| {
        Finding::new("user_namespace", Level::Note, "this is a user namespace, as of a container without privileges")
            .why(
                "its own limits (user.max_inotify_*) are often endless and hide the real ones: those of the namespaces above, \
                 which all containers of one user share; and file systems of the host cannot be marked by fanotify",
            )
            .mend("raise the limits below on the host")
    })
}

fn capabilities(facts: &Facts) -> Option<Finding> {
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

fn memory(facts: &Facts) -> Finding {
    let budget = &facts.budget;
    let needed = counted(facts).saturating_mul(WATCH_BYTES);
    let figures =
        [("memory_bytes", budget.memory()), ("watches_may_hold_bytes", budget.bytes()), ("needed_bytes", needed)];
    let what = format!(
        "watches may hold 25 % of {}: {}, which is {} watches",
        budget.whose(),
        bytes(budget.bytes()),
        grouped(budget.watches())
    );
    if needed <= budget.bytes() {
        return Finding::new("memory", Level::Ok, what).figures(figures);
    }
    let finding = Finding::new("memory", Level::Problem, what).figures(figures).why(format!(
        "{} directories need {} of kernel memory for their watches, which cannot be reclaimed; what has no watch is looked \
         through every minute instead",
        grouped(counted(facts)),
        bytes(needed)
    ));
    match &budget.group {
        // What else the agent and the events that wait need.
        Some(group) if group.bytes < budget.ram => finding.mend(format!(
            "MemoryMax={}M   (in the [Service] of its systemd unit; or leave it out)",
            (needed * 4).div_ceil(1 << 20)
        )),
        Some(_) | None => finding,
    }
    .mend(FANOTIFY)
}

/// Roots that an agent would watch by inotify.
fn by_inotify(facts: &Facts) -> impl Iterator<Item = &RootFacts> {
    facts.roots.iter().filter(|root| root.backend == Backend::Inotify)
}

/// Directories that are to be watched, as far as they were counted.
fn counted(facts: &Facts) -> u64 {
    by_inotify(facts).filter_map(|root| root.count).map(|count| count.directories).sum()
}

/// Shards, each with an instance.
fn shards(facts: &Facts) -> u64 {
    by_inotify(facts).map(|root| root.shards).sum()
}

/// Roots that an agent would watch by fanotify.
fn marked(facts: &Facts) -> u64 {
    (facts.roots.len() - by_inotify(facts).count()) as u64
}

fn needs(facts: &Facts) -> Needs {
    Needs {
        directories: counted(facts),
        shards: shards(facts),
        roots: facts.roots.len() as u64,
        budget: facts.budget.clone(),
        in_namespace: is_in_namespace(facts),
    }
}

/// Before a number of what is taken: there may have been no time to look at all processes, or no right.
fn at_least(facts: &Facts) -> &'static str {
    if facts.usage.is_some_and(|usage| !usage.complete || usage.hidden > 0) { "at least " } else { "" }
}

/// The lines that raise a limit.
fn raise(finding: Finding, limit: Limit, wanted: u64) -> Finding {
    let name = limit.sysctl();
    let finding = finding.mend(format!("sysctl -w {name}={wanted}"));
    if limit.is_of_namespace() {
        return finding;
    }
    finding
        .mend(format!("{name} = {wanted}   (a line for /etc/sysctl.d/90-fansync.conf; or: fansync tune --write FILE)"))
}

/// Of two limits the one that is met first.
fn least(facts: &Facts, of_machine: Limit, of_namespace: Limit) -> Option<(Limit, u64)> {
    [of_machine, of_namespace]
        .into_iter()
        .filter(|limit| !limit.is_of_namespace() || is_in_namespace(facts))
        .filter_map(|limit| Some((limit, *facts.limits.get(&limit)?)))
        .min_by_key(|(_, limit)| *limit)
}

fn watches(facts: &Facts) -> Option<Finding> {
    let (limit, now) = least(facts, Limit::InotifyWatches, Limit::NamespaceWatches)?;
    let directories = counted(facts);
    let others = facts.usage.map_or(0, |usage| usage.others.inotify.watches);
    let used = facts.usage.map_or(0, |usage| usage.inotify.watches);
    let name = limit.sysctl();
    let need = if facts.roots.iter().any(|root| root.count.is_some()) {
        format!("{} directories need one each", grouped(directories))
    } else {
        "no directories were counted".to_owned()
    };
    let what = format!("{name} is {}, {}{} are taken; {need}", grouped(now), at_least(facts), grouped(used));
    let finding = |level| {
        Finding::new("inotify_watches", level, what.clone()).figures([
            ("limit", now),
            ("taken", used),
            ("taken_by_others", others),
            ("needed", directories),
        ])
    };
    let free = now.saturating_sub(others);
    let wanted = steps(&needs(facts)).steps.into_iter().find(|step| step.limit == Limit::InotifyWatches);
    let wanted = wanted.map_or(0, |step| step.wanted);
    if now >= wanted && free >= directories {
        return Some(finding(Level::Ok));
    }
    // What other programs hold is to fit too.
    let wanted = wanted.max(watches_for(directories.saturating_add(others)).min(facts.budget.watches()));
    let (level, why) = if free < directories {
        let lack = directories - free;
        let why = format!(
            "{} directories would have no watch: they, and all beneath them, are looked through every minute instead of at each \
             change",
            grouped(lack)
        );
        (Level::Problem, why)
    } else if free < directories.saturating_add(directories / 10) {
        (Level::Warning, "there is room for less than a tenth more directories".to_owned())
    } else {
        let why = format!(
            "there is room for growth, but less than usual: 1.5 x directories + 65,536, so {}",
            grouped(wanted)
        );
        (Level::Note, why)
    };
    let finding = finding(level).why(why);
    Some(if wanted > now { raise(finding, limit, wanted) } else { finding.mend(FANOTIFY) })
}

/// Of inotify or of fanotify.
fn queue(facts: &Facts, limit: Limit) -> Option<Finding> {
    let now = *facts.limits.get(&limit)?;
    let by_fanotify = limit == Limit::FanotifyQueue;
    let name = if by_fanotify { "fanotify_queue" } else { "inotify_queue" };
    let wanted = queue_for(RATE, STALL);
    let may_be_used = facts.privileges.is_some_and(|privileges| privileges.has(SYS_ADMIN)) && !is_in_namespace(facts);
    let level = match now {
        now if now >= wanted => Level::Ok,
        now if now >= queue_for(0, 0) || by_fanotify && !may_be_used => Level::Note,
        _ => Level::Warning,
    };
    let what = format!("{} is {} events", limit.sysctl(), grouped(now));
    let finding = Finding::new(name, level, what).figures([("limit", now), ("wanted", wanted)]);
    if level == Level::Ok {
        return Some(finding);
    }
    let milliseconds = now.saturating_mul(1000) / RATE;
    let finding = finding.why(format!(
        "at {} events/s, which fast local writers make, it is full after {milliseconds} ms in which nobody reads; then events \
         are lost and directories are looked through instead; {} ride out {STALL} s",
        grouped(RATE),
        grouped(wanted)
    ));
    Some(raise(finding, limit, wanted).mend("restart fansync after it: a queue keeps the size that it was made with"))
}

/// A limit on instances or groups: `needed` of ours, and those of others.
fn room(
    (name, limit, now): (&'static str, Limit, u64),
    (needed, taken, others): (u64, u64, u64),
    wanted: u64,
    words: &str,
) -> Finding {
    let level = match now {
        now if now >= wanted && now >= needed + others => Level::Ok,
        now if now >= needed + others => Level::Note,
        _ => Level::Problem,
    };
    let what = format!("{} is {}, {} are taken; {needed} are needed", limit.sysctl(), grouped(now), grouped(taken));
    let finding = Finding::new(name, level, what).figures([
        ("limit", now),
        ("taken", taken),
        ("taken_by_others", others),
        ("needed", needed),
    ]);
    match level {
        Level::Ok => finding,
        Level::Problem => raise(finding.why(words), limit, wanted.max(instances_for(needed + others))),
        Level::Note | Level::Warning => raise(finding.why("others of the same user need some too"), limit, wanted),
    }
}

fn instances(facts: &Facts) -> Option<Finding> {
    let (limit, now) = least(facts, Limit::InotifyInstances, Limit::NamespaceInstances)?;
    let needed = shards(facts);
    let usage = facts.usage.unwrap_or_default();
    let taken = (needed, usage.inotify.instances, usage.others.inotify.instances);
    let words = "the agent takes one per shard and does not start without them";
    Some(room(("inotify_instances", limit, now), taken, instances_for(needed), words))
}

fn groups(facts: &Facts) -> Option<Finding> {
    let (limit, now) = least(facts, Limit::FanotifyGroups, Limit::NamespaceGroups)?;
    let needed = marked(facts);
    let usage = facts.usage.unwrap_or_default();
    let taken = (needed, usage.fanotify.instances, usage.others.fanotify.instances);
    let words = "the agent takes one per root that it watches by fanotify, and falls back to inotify without";
    Some(room(("fanotify_groups", limit, now), taken, groups_for(needed), words))
}

fn marks(facts: &Facts) -> Option<Finding> {
    let (limit, now) = least(facts, Limit::FanotifyMarks, Limit::NamespaceMarks)?;
    let wanted = steps(&needs(facts)).steps.into_iter().find(|step| step.limit == Limit::FanotifyMarks)?.wanted;
    let needed = marked(facts);
    let usage = facts.usage.unwrap_or_default();
    let taken = (needed, usage.fanotify.watches, usage.others.fanotify.watches);
    let words = "the agent takes a few per root that it watches by fanotify, and falls back to inotify without";
    Some(room(("fanotify_marks", limit, now), taken, wanted, words))
}

/// Descriptors of an agent: for each shard its instance and loop, for each lane its loop, the pipes and the pidfd of two
/// rsyncs and a list; a walker may hold a few directories; the rest is of the root and of the agent.
fn descriptors_for(roots: u64, shards: u64, lanes: u64) -> u64 {
    64 + roots * 100 + shards * 8 + lanes * 20
}

fn descriptors(facts: &Facts) -> Finding {
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

fn clock(facts: &Facts) -> Option<Finding> {
    Some(if facts.synchronised? {
        Finding::new("clock", Level::Ok, "the clock is kept right")
    } else {
        Finding::new("clock", Level::Note, "nothing keeps the clock right, as far as the kernel knows")
            .why("whoever sets it by hand makes fansync compare everything: changes are found by stamps of this clock")
            .mend("timedatectl set-ntp true")
    })
}

fn directories(root: &RootFacts) -> Option<Finding> {
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
fn file_system(root: &RootFacts) -> Finding {
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

fn stamps(root: &RootFacts) -> Option<Finding> {
    (root.whole_seconds && root.ctimes_tell).then(|| {
        Finding::new("timestamps", Level::Note, "stamps are of whole seconds")
            .of(&root.path)
            .why("a rewrite within a second that keeps the size may look unchanged to rsync after a loss of events")
            .mend("ext4 with inodes of 256 bytes or more has finer ones: tune2fs -l DEVICE shows them, mkfs.ext4 makes them")
    })
}

fn backend(root: &RootFacts) -> Finding {
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

fn state(facts: &Facts) -> Vec<Finding> {
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

fn target(name: &str, said: &TargetFacts) -> Finding {
    let finding = |level, what: &str| Finding::new("target", level, what).of(name);
    match said {
        TargetFacts::Well => finding(Level::Ok, "it answers and takes changes"),
        TargetFacts::Away(words) => finding(Level::Warning, words).why("changes are kept, and sent when it is back"),
        TargetFacts::Refuses(words) => {
            finding(Level::Problem, words).why("nothing is sent to it until that is changed")
        }
    }
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// As text for people.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut line = |head: &str, words: &str| {
        text.push_str(head);
        text.push_str(words);
        text.push('\n');
    };
    for finding in findings {
        let name = finding.name.replace('_', " ");
        let subject = finding.subject.as_ref().map_or_else(String::new, |subject| format!(" {subject}"));
        line(&format!("{:<8} ", finding.level.word()), &format!("{name}{subject}: {}", finding.what));
        if !finding.why.is_empty() {
            line("           why: ", &finding.why);
        }
        for (index, mend) in finding.mend.iter().enumerate() {
            line(if index == 0 { "          mend: " } else { "                " }, mend);
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    line("", &format!("{problems} problems, {warnings} warnings"));
    text
}

/// The path of a fact as it is shown.
pub fn shown(path: &Path) -> String {
    crate::path::escaped(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).to_string()
}

#[cfg(test)]
mod tests;
