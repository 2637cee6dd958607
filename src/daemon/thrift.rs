//! When memory that a burst of marks needed is given back: not before the burst is over, and seldom.

use std::time::{Duration, Instant};

/// Fewer marks are not worth the look through the allocator's lists; at 250 bytes each they are 5 MB.
const MARKS_MIN: usize = 20_000;

/// Between two times: each costs some milliseconds, and under steady load there would be one after the other.
const PAUSE: Duration = Duration::from_secs(30);

/// Marks that came since memory was given back last.
#[derive(Debug, Default)]
pub(super) struct Thrift {
    came: usize,
    last: Option<Instant>,
}

impl Thrift {
    /// So many marks came.
    pub(super) fn came(&mut self, marks: usize) {
        self.came = self.came.saturating_add(marks);
    }

    /// Whether it is time to give memory back now that so many marks wait or are remembered still; then the count begins
    /// anew.
    pub(super) fn is_due(&mut self, now: Instant, left: usize) -> bool {
        let rested = self.last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        let over = self.came >= MARKS_MIN && left <= self.came / 64;
        if rested && over {
            *self = Self { came: left, last: Some(now) };
        }
        rested && over
    }
}

/// Gives back what is free `after` something that needed much.
pub(super) fn give_back(root: &str, after: &'static str) {
    let resident = || crate::sys::memory::resident().unwrap_or(0) / 1024;
    let told = tracing::enabled!(tracing::Level::DEBUG).then(resident);
    crate::sys::memory::trim();
    if let Some(before) = told {
        tracing::debug!(root, after, before_kib = before, now_kib = resident(), "gave memory back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_a_burst_and_seldom_under_steady_load() {
        let start = crate::sys::clock::now();
        let mut thrift = Thrift::default();
        thrift.came(MARKS_MIN - 1);
        assert!(!thrift.is_due(start, 0), "too few");
        thrift.came(MARKS_MIN);
        assert!(!thrift.is_due(start, MARKS_MIN), "most of them wait still");
        assert!(thrift.is_due(start, 10));
        assert!(!thrift.is_due(start + 2 * PAUSE, 10), "nothing came since");
        let given = (0..600).filter(|second| {
            thrift.came(MARKS_MIN);
            thrift.is_due(start + Duration::from_secs(*second), 0)
        });
        assert_eq!(given.count(), 19);
    }
}
