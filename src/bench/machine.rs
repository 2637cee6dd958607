//! The machine that figures are of: they mean nothing without it.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::process;
use crate::sys::{clock, mounts};

/// A machine, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// `model name` of /proc/cpuinfo.
    pub(super) processor: String,
    /// Processors that this process may use.
    pub(super) processors: usize,
    /// Unit: GiB.
    pub(super) memory_gib: f64,
    /// Release of the kernel.
    pub(super) kernel: String,
    /// Type of the file system that holds source and target.
    pub(super) file_system: String,
    /// What rsync says of itself.
    pub(super) rsync: String,
    /// Processes that wanted to run in the minute before the benchmark, `None` if the kernel does not say.
    pub(super) load: Option<f64>,
    /// When it began, UTC.
    pub(super) date: String,
}

impl Machine {
    /// This one; `directory` is where the trees will be.
    pub(super) fn look(directory: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kib = value(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|kib| kib.parse::<f64>().ok());
        let mount = mounts::mount_of_path(directory).and_then(mounts::describe).ok().flatten();
        let rsync = process::command("rsync").arg("--version").output();
        let rsync = rsync.map(|output| String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned));
        Self {
            processor: value(&read("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (kib.unwrap_or(0.0) / 104_857.6).round() / 10.0,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: mount.map_or_else(|| "unknown".into(), |mount| mount.kind),
            rsync: rsync.ok().flatten().map_or_else(|| "unknown".into(), |line| version_in(&line)),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()),
            date: date(clock::coarse_now().0.div_euclid(1_000_000_000)),
        }
    }

    /// In a line.
    pub(super) fn words(&self) -> String {
        let Self { processor, processors, memory_gib, kernel, file_system, rsync, load, date } = self;
        let load = load.map_or_else(String::new, |load| format!(", load {load} before"));
        format!(
            "{processor}, {processors} processors, {memory_gib:.0} GiB, Linux {kernel}, {file_system}, rsync {rsync}{load}; {date}"
        )
    }
}

fn value(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_start_matches([':', ' ', '\t'])));
    line.unwrap_or("unknown").trim().to_owned()
}

/// The third word of `rsync  version 3.5.0  protocol version 32`.
fn version_in(line: &str) -> String {
    line.split_whitespace().nth(2).unwrap_or("unknown").to_owned()
}

/// Seconds since 1970 as a date and time of day, UTC. (Days are counted from 1 March of the year 0, so that the day that a leap year
/// adds is the last one of its year.)
fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3_600, second % 3_600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_799, "2000-02-29 23:59 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (-1, "1969-12-31 23:59 UTC"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn this_machine_is_named() {
        let machine = Machine::look(&std::env::temp_dir());
        assert!(machine.processors > 0 && machine.memory_gib > 0.0 && !machine.kernel.is_empty(), "{machine:?}");
        assert_ne!((machine.file_system.as_str(), machine.rsync.as_str()), ("unknown", "unknown"));
        assert!(machine.words().contains(&machine.kernel));
        assert_eq!(version_in("rsync  version 3.5.0  protocol version 32"), "3.5.0");
        assert_eq!(version_in(""), "unknown");
    }
}
