//! The delete guard of one target: how many names it may lose within a minute before somebody has to approve it. Pure.
//!
//! What was deleted counts, and so does what was asked for and held: a mass delete does not go on in portions of what is
//! allowed. Shared by the lanes of a target, each of which asks before it starts an rsync that deletes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Deletes of this span count together.
const SPAN: Duration = Duration::from_mins(1);

/// How finely the span slides. Unit: time.
const GRAIN: Duration = Duration::from_secs(1);

/// More deletes than the larger of the two, within a minute, are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldOver {
    /// Names.
    pub paths: u64,
    /// Of the entries that are known under the root. Unit: percent.
    pub percent: u64,
}

impl Default for HoldOver {
    fn default() -> Self {
        Self { paths: 1_000, percent: 10 }
    }
}

impl HoldOver {
    /// Deletes within a minute at most, of a root with so many entries.
    #[must_use]
    pub fn allowance(self, entries: u64) -> u64 {
        self.paths.max(entries.saturating_mul(self.percent) / 100)
    }
}

/// Deletes that were admitted, to be set right when it is known how many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what was reserved is to be settled"]
pub struct Reservation {
    at: Instant,
    deletes: u64,
}

/// Counts deletes.
#[derive(Debug)]
pub struct DeleteGuard {
    hold_over: HoldOver,
    /// Since when, how many; the oldest first.
    recent: VecDeque<(Instant, u64)>,
}

impl DeleteGuard {
    /// A guard that has seen nothing.
    #[must_use]
    pub fn new(hold_over: HoldOver) -> Self {
        Self { hold_over, recent: VecDeque::new() }
    }

    /// Deletes that are allowed now, of a root with so many entries.
    pub fn remaining(&mut self, now: Instant, entries: u64) -> u64 {
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= SPAN) {
            self.recent.pop_front();
        }
        let recent: u64 = self.recent.iter().map(|(_, deletes)| *deletes).fold(0, u64::saturating_add);
        self.hold_over.allowance(entries).saturating_sub(recent)
    }

    /// Whether so many deletes may go now. They count in any case: see [`Self::settle`].
    pub fn admit(&mut self, now: Instant, deletes: u64, entries: u64) -> (bool, Reservation) {
        let admitted = deletes <= self.remaining(now, entries);
        let at = match self.recent.back_mut() {
            Some((at, count)) if now.saturating_duration_since(*at) < GRAIN => {
                *count = count.saturating_add(deletes);
                *at
            }
            _ => {
                self.recent.push_back((now, deletes));
                now
            }
        };
        (admitted, Reservation { at, deletes })
    }

    /// Says how many of the deletes there really were: a name may never have been on the target.
    pub fn settle(&mut self, reservation: Reservation, deleted: u64) {
        if let Some((_, count)) = self.recent.iter_mut().find(|(at, _)| *at == reservation.at) {
            *count = count.saturating_sub(reservation.deletes).saturating_add(deleted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = SPAN;

    fn guard() -> (DeleteGuard, Instant) {
        (DeleteGuard::new(HoldOver::default()), crate::sys::clock::now())
    }

    #[test]
    fn the_allowance_is_the_larger_of_both_limits() {
        let check = |entries, allowance| assert_eq!(HoldOver::default().allowance(entries), allowance, "{entries}");
        check(0, 1_000);
        check(10_000, 1_000);
        check(10_010, 1_001);
        check(1_000_000, 100_000);
        check(u64::MAX, u64::MAX / 100);
    }

    #[test]
    fn what_goes_over_within_a_minute_is_not_admitted_and_counts_all_the_same() {
        let (mut guard, start) = guard();
        assert!(guard.admit(start, 600, 0).0);
        let later = start + MINUTE / 2;
        assert!(!guard.admit(later, 401, 0).0);
        assert!(!guard.admit(later, 1, 0).0, "the held ones count");
        assert!(!guard.admit(start + MINUTE, 600, 0).0, "402 are younger than a minute");
        assert!(guard.admit(later + 3 * MINUTE, 1_000, 0).0);
    }

    #[test]
    fn many_small_deletes_add_up_in_little_memory() {
        let (mut guard, start) = guard();
        let mut admitted = 0;
        for number in 0..20_000 {
            let now = start + Duration::from_millis(number * 10);
            admitted += u64::from(guard.admit(now, 1, 0).0);
        }
        assert!(guard.recent.len() <= 61, "{}", guard.recent.len());
        assert_eq!(admitted, 1_000, "6,000 a minute, for longer than that");
    }

    #[test]
    fn deletes_that_were_none_do_not_count() {
        let (mut guard, start) = guard();
        for _round in 0..10 {
            let (admitted, reservation) = guard.admit(start, 1_000, 0);
            assert!(admitted);
            guard.settle(reservation, 0);
        }
        let (_, reservation) = guard.admit(start, 400, 0);
        guard.settle(reservation, 900);
        assert_eq!(guard.remaining(start, 0), 100);
        // A minute later there is nothing left to be set right.
        guard.remaining(start + MINUTE, 0);
        guard.settle(reservation, 0);
        assert_eq!(guard.remaining(start + MINUTE, 0), 1_000);
    }
}
