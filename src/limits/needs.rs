//! The arithmetic (notes/kernel.md 10). Pure.

use crate::sys::limits::Limit;
use crate::sys::memory::GroupLimit;

/// Kernel memory that one watch holds: 151 to 157 bytes and the pinned inode, 1128 on ext4 (notes/kernel.md 1.3). It cannot
/// be reclaimed. Unit: bytes.
pub const WATCH_BYTES: u64 = 1300;

/// Watches may hold one part in so many of the memory.
const MEMORY_PART: u64 = 4;

/// Events per second of the fastest local writers (notes/kernel.md 1.1).
pub const RATE: u64 = 500_000;

/// The longest stall of a reader that costs no event. Unit: s.
pub const STALL: u64 = 2;

/// Least and most of a queue.
const QUEUE_RANGE: (u64, u64) = (131_072, 4_194_304);

/// Events that a queue should hold: [`queue_for`] the usual rate and stall.
pub const QUEUE: u64 = 1_048_576;

/// inotify instances that a user should have, at least: an agent takes one per shard, desktops and containers some too.
pub const INSTANCES: u64 = 512;

/// fanotify groups that a user should have, at least: an agent takes one per root. The kernel's default.
pub const FANOTIFY_GROUPS: u64 = 128;

/// fanotify marks that a user should have, at least: an agent takes a few per root. The least default of any kernel.
const FANOTIFY_MARKS: u64 = 8192;

/// For so many directories an agent raises the limit on watches before it knows how many there are: the most for which
/// 1,048,576 watches are enough, which is also the most that the kernel gives by itself.
pub const DIRECTORIES_AT_START: u64 = 655_360;

/// Watches for others of the same user, and for growth.
const SPARE: u64 = 65_536;

/// What a sysctl of an `int` holds.
const MOST: u64 = i32::MAX.unsigned_abs() as u64;

const _: () = assert!(QUEUE_RANGE.0 <= QUEUE && QUEUE <= QUEUE_RANGE.1);
const _: () = assert!(RATE * STALL <= QUEUE && QUEUE < 2 * RATE * STALL);

/// The least power of two that is not below `number`, as far as a sysctl can hold it.
#[must_use]
pub fn round_up_to_power_of_two(number: u64) -> u64 {
    number.checked_next_power_of_two().unwrap_or(MOST).min(MOST)
}

/// `max_user_watches` for so many directories: half as many again, some for others, rounded up.
#[must_use]
pub fn watches_for(directories: u64) -> u64 {
    round_up_to_power_of_two(directories.saturating_add(directories / 2).saturating_add(SPARE))
}

/// `max_queued_events` for so many events per second and so long a stall, rounded up. Unit: 1/s, s.
#[must_use]
pub fn queue_for(rate: u64, stall: u64) -> u64 {
    round_up_to_power_of_two(rate.saturating_mul(stall).clamp(QUEUE_RANGE.0, QUEUE_RANGE.1))
}

/// `max_user_instances` for so many shards, over all roots.
#[must_use]
pub fn instances_for(shards: u64) -> u64 {
    INSTANCES.max(round_up_to_power_of_two(shards.saturating_add(128)))
}

/// `max_user_groups` for so many roots.
#[must_use]
pub fn groups_for(roots: u64) -> u64 {
    FANOTIFY_GROUPS.max(round_up_to_power_of_two(roots.saturating_add(64)))
}

/// How many watches may be held: their memory cannot be reclaimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The machine's RAM. Unit: bytes.
    pub ram: u64,
    /// The least limit on the memory of this process's control group. What a watch holds is charged to it.
    pub group: Option<GroupLimit>,
}

impl Budget {
    /// Watches that this process may hold, over all roots.
    #[must_use]
    pub fn watches(&self) -> u64 {
        self.bytes() / WATCH_BYTES
    }

    /// Watches that all users may hold together. No control group of ours matters to others.
    #[must_use]
    pub fn watches_of_machine(&self) -> u64 {
        self.ram / MEMORY_PART / WATCH_BYTES
    }

    /// What watches may hold. Unit: bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory() / MEMORY_PART
    }

    /// The memory that they are a part of. Unit: bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.group.as_ref().map_or(self.ram, |group| group.bytes.min(self.ram))
    }

    /// Whose memory that is, in words.
    #[must_use]
    pub fn whose(&self) -> String {
        match &self.group {
            Some(group) if group.bytes < self.ram => {
                format!("the control group's {} ({})", bytes(group.bytes), group.file.display())
            }
            Some(_) | None => format!("{} of RAM", bytes(self.ram)),
        }
    }
}

/// What limits are computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Directories of all roots together.
    pub directories: u64,
    /// Shards of all roots together.
    pub shards: u64,
    /// Roots.
    pub roots: u64,
    /// The memory that watches may hold.
    pub budget: Budget,
    /// This process is in a user namespace, which has limits of its own.
    pub in_namespace: bool,
}

/// One limit to be raised, if it is lower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub limit: Limit,
    /// To what.
    pub wanted: u64,
    /// Why so much.
    pub arithmetic: String,
}

/// All that is to be raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// In order.
    pub steps: Vec<Step>,
    /// Why the limit on watches is left as it is: the directories would hold more memory than they may.
    pub refused: Option<String>,
}

/// What the limits should be.
#[must_use]
pub fn steps(needs: &Needs) -> Steps {
    let mut steps = Vec::new();
    let mut add = |limit, wanted, arithmetic: String| steps.push(Step { limit, wanted, arithmetic });
    let Needs { directories, shards, roots, budget, in_namespace } = needs;
    let watches = watches_for(*directories);
    let most = budget.watches();
    let refused = (*directories > most).then(|| {
        format!(
            "{} directories need {} of kernel memory for their watches, {WATCH_BYTES} B each, which is more than 25 % of {}: \
             let fansync watch by fanotify, which needs none (as root: CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH)",
            grouped(*directories),
            bytes(directories.saturating_mul(WATCH_BYTES)),
            budget.whose()
        )
    });
    let mut watch_words = format!(
        "1.5 x {} directories + {}, rounded up to a power of two; {} if all are used",
        grouped(*directories),
        grouped(SPARE),
        bytes(watches.min(most).saturating_mul(WATCH_BYTES))
    );
    if watches > most {
        watch_words = format!("{watch_words}; cut to 25 % of {} / {WATCH_BYTES} B = {}", budget.whose(), grouped(most));
    }
    let queue = format!(
        "{} events/s x {STALL} s, within {} .. {}, rounded up to a power of two",
        grouped(RATE),
        grouped(QUEUE_RANGE.0),
        grouped(QUEUE_RANGE.1)
    );
    let instances = format!("{shards} shards + 128 for others, rounded up to a power of two, at least {INSTANCES}");
    let groups = format!("{roots} roots + 64 for others, rounded up to a power of two, at least {FANOTIFY_GROUPS}");
    let marks = format!("a few per root, none per directory; at least {}", grouped(FANOTIFY_MARKS));
    if refused.is_none() {
        add(Limit::InotifyWatches, watches.min(most), watch_words.clone());
    }
    add(Limit::InotifyQueue, queue_for(RATE, STALL), format!("{queue}; at most 100 B each, while they wait"));
    add(Limit::InotifyInstances, instances_for(*shards), instances.clone());
    add(Limit::FanotifyQueue, queue_for(RATE, STALL), format!("{queue}; at most 115 B each, while they wait"));
    add(Limit::FanotifyGroups, groups_for(*roots), groups.clone());
    add(Limit::FanotifyMarks, FANOTIFY_MARKS, marks.clone());
    if *in_namespace {
        if refused.is_none() {
            add(Limit::NamespaceWatches, watches.min(most), watch_words);
        }
        add(Limit::NamespaceInstances, instances_for(*shards), instances);
        add(Limit::NamespaceGroups, groups_for(*roots), groups);
        add(Limit::NamespaceMarks, FANOTIFY_MARKS, marks);
    }
    Steps { steps, refused }
}

/// A size in the two or three digits that matter.
#[must_use]
pub fn bytes(size: u64) -> String {
    match size as f64 {
        size if size < 1024.0 => format!("{size:.0} B"),
        size if size < 1_048_576.0 => format!("{:.1} KiB", size / 1024.0),
        size if size < 1_073_741_824.0 => format!("{:.1} MiB", size / 1_048_576.0),
        size => format!("{:.1} GiB", size / 1_073_741_824.0),
    }
}

/// A number with a comma between thousands.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn budget(ram: u64, group: Option<u64>) -> Budget {
        Budget { ram, group: group.map(|bytes| GroupLimit { bytes, file: "/cg/memory.max".into() }) }
    }

    #[test]
    fn watches_are_half_as_many_again_rounded_up() {
        let check = |directories, expected| assert_eq!(watches_for(directories), expected, "{directories}");
        check(0, 65_536);
        check(1, 131_072);
        check(43_690, 131_072);
        check(111_000, 262_144);
        check(DIRECTORIES_AT_START, 1_048_576);
        check(DIRECTORIES_AT_START + 1, 2_097_152);
        check(10_000_000, 16_777_216);
        check(u64::MAX, MOST);
    }

    #[test]
    fn a_queue_outlasts_a_stall_and_has_bounds() {
        let check = |rate, stall, expected| assert_eq!(queue_for(rate, stall), expected, "{rate} {stall}");
        check(RATE, STALL, QUEUE);
        check(1, 1, 131_072);
        check(200_000, 1, 262_144);
        check(u64::MAX, 9, 4_194_304);
    }

    #[test]
    fn instances_and_groups_leave_some_for_others() {
        assert_eq!([0, 4, 384, 385, 6_400].map(instances_for), [512, 512, 512, 1024, 8192]);
        assert_eq!([0, 64, 65].map(groups_for), [128, 128, 256]);
    }

    #[test]
    fn watches_hold_at_most_a_quarter_of_the_memory_that_is_ours() {
        let check = |ram, group, watches, whose: &str| {
            let budget = budget(ram, group);
            assert_eq!((budget.watches(), budget.whose().as_str()), (watches, whose));
        };
        check(24 * GIB, None, 4_955_731, "24.0 GiB of RAM");
        check(24 * GIB, Some(400 << 20), 80_659, "the control group's 400.0 MiB (/cg/memory.max)");
        check(2 * GIB, Some(4 * GIB), 412_977, "2.0 GiB of RAM");
        assert_eq!(budget(24 * GIB, Some(1)).watches_of_machine(), 4_955_731);
    }

    fn needs(directories: u64, ram: u64, group: Option<u64>, in_namespace: bool) -> Needs {
        Needs { directories, shards: 4, roots: 1, budget: budget(ram, group), in_namespace }
    }

    #[test]
    fn every_limit_has_its_number_and_its_arithmetic() {
        let found = steps(&needs(111_000, 24 * GIB, None, false));
        let lines: Vec<String> = (found.steps.iter())
            .map(|step| format!("{} = {}: {}", step.limit.sysctl(), step.wanted, step.arithmetic))
            .collect();
        let expected = [
            "fs.inotify.max_user_watches = 262144: 1.5 x 111,000 directories + 65,536, rounded up to a power of two; 325.0 MiB \
             if all are used",
            "fs.inotify.max_queued_events = 1048576: 500,000 events/s x 2 s, within 131,072 .. 4,194,304, rounded up to a power \
             of two; at most 100 B each, while they wait",
            "fs.inotify.max_user_instances = 512: 4 shards + 128 for others, rounded up to a power of two, at least 512",
            "fs.fanotify.max_queued_events = 1048576: 500,000 events/s x 2 s, within 131,072 .. 4,194,304, rounded up to a \
             power of two; at most 115 B each, while they wait",
            "fs.fanotify.max_user_groups = 128: 1 roots + 64 for others, rounded up to a power of two, at least 128",
            "fs.fanotify.max_user_marks = 8192: a few per root, none per directory; at least 8,192",
        ];
        assert_eq!(lines, expected);
        assert_eq!(found.refused, None);
    }

    #[test]
    fn a_namespace_has_limits_of_its_own() {
        let found = steps(&needs(10, 24 * GIB, None, true));
        let own: Vec<_> = found.steps.iter().filter(|step| step.limit.is_of_namespace()).collect();
        assert_eq!(own.iter().map(|step| step.wanted).collect::<Vec<_>>(), [131_072, 512, 128, 8192]);
    }

    #[test]
    fn the_limit_on_watches_is_cut_to_what_memory_allows_and_refused_beyond_that() {
        let cut = steps(&needs(300_000, 2 * GIB, None, false));
        assert_eq!((cut.steps[0].limit, cut.steps[0].wanted), (Limit::InotifyWatches, 412_977));
        assert!(cut.steps[0].arithmetic.contains("cut to 25 % of 2.0 GiB of RAM / 1300 B = 412,977"));
        let refused = steps(&needs(500_000, 2 * GIB, None, true));
        let watches = |step: &Step| matches!(step.limit, Limit::InotifyWatches | Limit::NamespaceWatches);
        assert!(!refused.steps.iter().any(watches));
        assert!(refused.steps.iter().any(|step| step.limit == Limit::InotifyQueue));
        let words = refused.refused.unwrap();
        assert!(words.starts_with("500,000 directories need 619.9 MiB of kernel memory"), "{words}");
        assert!(words.contains("25 % of 2.0 GiB of RAM") && words.contains("fanotify"), "{words}");
    }

    #[test]
    fn numbers_are_grouped_and_sizes_are_short() {
        let check = |number, expected| assert_eq!(grouped(number), expected);
        check(0, "0");
        check(999, "999");
        check(1_000, "1,000");
        check(1_048_576, "1,048,576");
        assert_eq!([7, 2048, 5 << 20, 3 << 30].map(bytes), ["7 B", "2.0 KiB", "5.0 MiB", "3.0 GiB"]);
    }

    /// What stands in a file for sysctl(8), in its order.
    fn assignments(text: &str) -> Vec<(&str, u64)> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| line.split_once(" = ").unwrap())
            .map(|(name, number)| (name, number.parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_files_in_sysctl_agree_with_the_arithmetic() {
        let conf = include_str!("../../sysctl/90-fansync.conf");
        let needs = Needs { directories: DIRECTORIES_AT_START, ..needs(0, 24 * GIB, None, false) };
        let steps = steps(&needs).steps;
        let wanted = |name: &str| steps.iter().find(|step| step.limit.sysctl() == name).unwrap().wanted;
        let found = assignments(conf);
        assert_eq!(found.len(), 5, "{found:?}");
        for (name, number) in &found {
            assert_eq!(*number, wanted(name), "{name}");
        }
        let readme = include_str!("../../sysctl/README.md");
        for (name, number) in &found {
            let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
            assert!(row.contains(&format!("| {} |", grouped(*number))), "{row}");
        }
        // The numbers in the words.
        for text in [conf, readme] {
            for words in ["655,360 directories", "500,000 events/s", "65,536"] {
                assert!(text.contains(words), "{words}");
            }
        }
        assert!(conf.contains(&format!("{WATCH_BYTES} B of unreclaimable kernel memory")));
        assert_eq!(watches_for(111_000), 262_144);
        assert!(readme.contains("1.5 × 111,000 + 65,536 = 232,036, so 262,144"));
    }
}
