//! Processor time of a process and of everything that it started, apart.
//!
//! Resolution: one tick, 10 ms on nearly every kernel (proc_pid_stat(5)); so it is summed up over all runs before it is told.

use std::collections::HashMap;
use std::fs;
use std::ops::{Add, AddAssign};
use std::time::Duration;

/// What a process and its children worked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// The process itself, all its threads.
    pub(super) own: Duration,
    /// Its children and theirs: those that it has reaped, and those that live.
    pub(super) children: Duration,
}

impl Work {
    /// Both.
    pub(super) fn all(self) -> Duration {
        self.own + self.children
    }

    /// What was added since `before`. A child that ended and that nobody reaped yet counts as one that lives.
    pub(super) fn since(self, before: Self) -> Self {
        Self { own: self.own.saturating_sub(before.own), children: self.children.saturating_sub(before.children) }
    }
}

impl Add for Work {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { own: self.own + other.own, children: self.children + other.children }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// A line of a `stat` file. Times in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    group: u32,
    own: u64,
    reaped: u64,
}

/// Work of the process `leader` and of its descendants, and of whoever is in its process group.
pub(super) fn of(leader: u32) -> Work {
    let Ok(processes) = fs::read_dir("/proc") else { return Work::default() };
    let stats: HashMap<u32, Stat> = processes
        .flatten()
        .filter_map(|process| {
            let id = process.file_name().to_str()?.parse().ok()?;
            let stat = fs::read(process.path().join("stat")).ok()?;
            Some((id, read(&String::from_utf8_lossy(&stat))?))
        })
        .collect();
    sum(leader, &stats)
}

fn sum(leader: u32, stats: &HashMap<u32, Stat>) -> Work {
    let belongs = |id: u32| {
        let mut at = id;
        // Ids are used again: a line that changes while all are read could close a circle.
        for _generation in 0..64 {
            match stats.get(&at) {
                Some(stat) if stat.parent == leader || stat.group == leader => return true,
                Some(stat) => at = stat.parent,
                None => return false,
            }
        }
        false
    };
    let (mut own, mut children) = (0, 0);
    for (id, stat) in stats {
        if *id == leader {
            own += stat.own;
            children += stat.reaped;
        } else if belongs(*id) {
            children += stat.own + stat.reaped;
        }
    }
    Work { own: ticks(own), children: ticks(children) }
}

fn ticks(number: u64) -> Duration {
    Duration::from_secs_f64(number as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Fields 4, 5 and 14 to 17 of proc_pid_stat(5).
fn read(stat: &str) -> Option<Stat> {
    // The name stands in parentheses and may hold spaces and parentheses.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        group: u32::try_from(number(2)?).ok()?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_those_of_the_tree_and_of_the_group() {
        let line = "7 (a b) c) S 1 42 42 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0";
        let stat = read(line).unwrap();
        assert_eq!(stat, Stat { parent: 1, group: 42, own: 30, reaped: 70 });
        assert_eq!(read(""), None);
        let of = |parent, group, own, reaped| Stat { parent, group, own, reaped };
        let stats = HashMap::from([
            (1, of(0, 1, 1_000_000, 0)),
            (42, of(1, 42, 100, 50)),
            (50, of(42, 50, 7, 3)),
            (51, of(50, 50, 20, 0)),
            (60, of(1, 42, 1, 1)),
            (70, of(1, 70, 1_000_000, 0)),
        ]);
        let work = sum(42, &stats);
        assert_eq!((work.own, work.children), (ticks(100), ticks(50 + 10 + 20 + 2)));
        assert_eq!(sum(99, &stats), Work::default());
    }

    #[test]
    fn this_process_works() {
        let began = crate::sys::clock::now();
        while of(std::process::id()).own.is_zero() {
            assert!(began.elapsed() < Duration::from_secs(20));
        }
    }
}
