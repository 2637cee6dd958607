//! What a start may build on. Pure.

use std::time::Duration;

use crate::sys::clock::WallTime;

/// What is kept of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRecord {
    /// `/proc/sys/kernel/random/boot_id` of the kernel that ran then.
    pub boot: String,
    /// Which file system the root was on: `f_fsid` of statfs(2).
    pub file_system: u64,
    /// Which directory it was.
    pub inode: u64,
    /// Of filters and whatever else decides what a target should hold.
    pub fingerprint: u64,
    /// What changed before it has its marks here, or is done. `None`: nobody knows, everything is to be compared.
    pub watermark: Option<WallTime>,
    /// Real-time clock less boot-time clock, in nanoseconds: a jump tells that the clock was set.
    pub clock_offset: i64,
    /// The agent ended in order.
    pub clean: bool,
    /// The operator wants nothing to be sent from it.
    pub paused: bool,
    /// Entries known under the root.
    pub entries: u64,
}

/// What is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As in [`RootRecord`].
    pub boot: String,
    /// As in [`RootRecord`].
    pub file_system: u64,
    /// As in [`RootRecord`].
    pub inode: u64,
    /// As in [`RootRecord`].
    pub fingerprint: u64,
    /// As in [`RootRecord`].
    pub clock_offset: i64,
    /// The coarse real-time clock.
    pub now: WallTime,
}

/// How a root starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The marks of the checkpoint, and what changed since.
    Warm {
        /// The watermark.
        since: WallTime,
        /// Compare everything in the background all the same.
        verify: bool,
    },
    /// Everything is compared, in the background; the marks of the checkpoint count too.
    Cold {
        /// Why, for the log.
        reason: &'static str,
    },
}

/// A clock that is this much behind was set. Less is absorbed by the slack of the rescan (120 s, of which 40 s are needed:
/// notes/kernel.md 7.2); an NTP daemon that slews is slower than this by far. Unit: time.
const SET_BACK_MIN: Duration = Duration::from_secs(30);

/// Decides on what a root's start may build, given the record of the run before.
#[must_use]
pub fn decide(record: Option<&RootRecord>, facts: &Facts) -> Start {
    let Some(record) = record else { return Start::Cold { reason: "there is no checkpoint yet" } };
    let Some(since) = record.watermark else {
        return Start::Cold { reason: "the clock was set, or the first comparison had not begun" };
    };
    if (record.file_system, record.inode) != (facts.file_system, facts.inode) {
        return Start::Cold { reason: "the root is another directory or on another file system than before" };
    }
    if record.fingerprint != facts.fingerprint {
        return Start::Cold { reason: "the filters or the delete mode changed" };
    }
    if since > facts.now {
        return Start::Cold { reason: "the clock was set back" };
    }
    if record.boot == facts.boot {
        let set_back = record.clock_offset.saturating_sub(facts.clock_offset);
        if set_back >= i64::try_from(SET_BACK_MIN.as_nanos()).unwrap_or(i64::MAX) {
            return Start::Cold { reason: "the clock was set back" };
        }
        return Start::Warm { since, verify: false };
    }
    if record.clean {
        Start::Warm { since, verify: true }
    } else {
        Start::Cold { reason: "the machine went down while the agent ran" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn every_row_of_the_table() {
        let record = RootRecord {
            boot: "one".to_owned(),
            file_system: 1,
            inode: 2,
            fingerprint: 3,
            watermark: Some(WallTime(1_000 * SECOND)),
            clock_offset: 500 * SECOND,
            clean: false,
            paused: false,
            entries: 9,
        };
        let facts = Facts {
            boot: "one".to_owned(),
            file_system: 1,
            inode: 2,
            fingerprint: 3,
            clock_offset: 500 * SECOND,
            now: WallTime(2_000 * SECOND),
        };
        let warm = |verify| Start::Warm { since: WallTime(1_000 * SECOND), verify };
        let is_cold = |record: &RootRecord, facts: &Facts| matches!(decide(Some(record), facts), Start::Cold { .. });
        assert!(matches!(decide(None, &facts), Start::Cold { .. }));
        // The same boot: killed or stopped makes no difference.
        assert_eq!(decide(Some(&record), &facts), warm(false));
        assert_eq!(decide(Some(&RootRecord { clean: true, ..record.clone() }), &facts), warm(false));
        // Another boot.
        let rebooted = Facts { boot: "two".to_owned(), clock_offset: 0, ..facts.clone() };
        assert!(is_cold(&record, &rebooted));
        assert_eq!(decide(Some(&RootRecord { clean: true, ..record.clone() }), &rebooted), warm(true));
        // The clock: slewing is harmless, so is a step forward; a step back is not, nor is a watermark to come.
        for (offset, cold) in [(499, false), (475, false), (470, true), (0, true), (9_000, false)] {
            let stepped = Facts { clock_offset: offset * SECOND, ..facts.clone() };
            assert_eq!(is_cold(&record, &stepped), cold, "{offset}");
        }
        assert!(is_cold(&record, &Facts { now: WallTime(999 * SECOND), ..facts.clone() }));
        // Nothing of before holds.
        for facts in [
            Facts { file_system: 7, ..facts.clone() },
            Facts { inode: 7, ..facts.clone() },
            Facts { fingerprint: 7, ..facts.clone() },
        ] {
            assert!(is_cold(&record, &facts), "{facts:?}");
        }
        assert!(is_cold(&RootRecord { watermark: None, ..record }, &facts));
    }
}
