//! The kernel's limits, and the memory that watches hold, against what the roots need. Pure.

use super::{Facts, Finding, Level, RootFacts, is_in_namespace};
use crate::limits::{
    Needs, RATE, STALL, WATCH_BYTES, bytes, grouped, groups_for, instances_for, queue_for, steps, watches_for,
};
use crate::sys::ground::Backend;
use crate::sys::limits::Limit;
use crate::sys::privileges::SYS_ADMIN;

/// What needs no watches.
pub(super) const FANOTIFY: &str =
    "watch: fanotify   (of the root, or --watch fanotify; as root): it needs neither watches nor their memory";

pub(super) fn memory(facts: &Facts) -> Finding {
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

pub(super) fn needs(facts: &Facts) -> Needs {
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

pub(super) fn watches(facts: &Facts) -> Option<Finding> {
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
pub(super) fn queue(facts: &Facts, limit: Limit) -> Option<Finding> {
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

pub(super) fn instances(facts: &Facts) -> Option<Finding> {
    let (limit, now) = least(facts, Limit::InotifyInstances, Limit::NamespaceInstances)?;
    let needed = shards(facts);
    let usage = facts.usage.unwrap_or_default();
    let taken = (needed, usage.inotify.instances, usage.others.inotify.instances);
    let words = "the agent takes one per shard and does not start without them";
    Some(room(("inotify_instances", limit, now), taken, instances_for(needed), words))
}

pub(super) fn groups(facts: &Facts) -> Option<Finding> {
    let (limit, now) = least(facts, Limit::FanotifyGroups, Limit::NamespaceGroups)?;
    let needed = marked(facts);
    let usage = facts.usage.unwrap_or_default();
    let taken = (needed, usage.fanotify.instances, usage.others.fanotify.instances);
    let words = "the agent takes one per root that it watches by fanotify, and falls back to inotify without";
    Some(room(("fanotify_groups", limit, now), taken, groups_for(needed), words))
}

pub(super) fn marks(facts: &Facts) -> Option<Finding> {
    let (limit, now) = least(facts, Limit::FanotifyMarks, Limit::NamespaceMarks)?;
    let wanted = steps(&needs(facts)).steps.into_iter().find(|step| step.limit == Limit::FanotifyMarks)?.wanted;
    let needed = marked(facts);
    let usage = facts.usage.unwrap_or_default();
    let taken = (needed, usage.fanotify.watches, usage.others.fanotify.watches);
    let words = "the agent takes a few per root that it watches by fanotify, and falls back to inotify without";
    Some(room(("fanotify_marks", limit, now), taken, wanted, words))
}
