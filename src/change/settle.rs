//! When a mark is due: at once when the path was quiet, after a pause when it is not, and never later than a cap.

use std::time::{Duration, Instant};

use super::mark::Stage;

/// Settle times of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleOptions {
    /// Pause after a close before a path that was just sent is sent again. Default 200 ms.
    pub quiet: Duration,
    /// Pause after the last event of a file that nobody has closed. Default 2 s; 5 s on an NFS-exported root, where
    /// no close is ever reported for NFSv3 writers (notes/kernel.md 9).
    pub quiet_open: Duration,
    /// A path that never becomes quiet is sent at the latest after this. Default 30 s. The first cap is shorter
    /// (see [`Self::cap`]) and doubles each time it strikes, up to this.
    pub max: Duration,
}

impl Default for SettleOptions {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(200), quiet_open: Duration::from_secs(2), max: Duration::from_secs(30) }
    }
}

/// Pause before a lazy mark goes: long enough to ride along with what comes next. Unit: time. Why 1 s: a directory's
/// mtime is nothing that a reader of the target waits for.
const LAZY: Duration = Duration::from_secs(1);

/// What is known of a path that was sent lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heat {
    /// When its mark was last taken.
    pub taken: Instant,
    /// How many times in a row the cap struck.
    pub level: u8,
}

/// The times of one pending mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub first: Instant,
    pub last: Instant,
    pub stage: Stage,
    /// A failed path waits until then, whatever events say.
    pub not_before: Option<Instant>,
}

impl SettleOptions {
    /// When a mark is due.
    pub(super) fn due(&self, times: Times, heat: Option<Heat>) -> Instant {
        let level = heat.map_or(0, |heat| heat.level);
        let due = match times.stage {
            Stage::Complete | Stage::Unchanged => match heat {
                // The leading edge: the first complete change of a quiet path goes at once.
                None => times.first,
                Some(heat) if times.last.saturating_duration_since(heat.taken) >= self.quiet => times.first,
                Some(_) => (times.last + self.quiet).min(times.first + self.cap(self.quiet, level)),
            },
            Stage::Writing => (times.last + self.quiet_open).min(times.first + self.cap(self.quiet_open, level)),
            Stage::Lazy => (times.last + LAZY).min(times.first + self.max),
        };
        times.not_before.map_or(due, |bound| due.max(bound))
    }

    /// The longest that a path waits for quiet: three pauses, doubled for each time in a row that it struck.
    fn cap(&self, quiet: Duration, level: u8) -> Duration {
        quiet.saturating_mul(3).saturating_mul(1 << level.min(16)).min(self.max.max(quiet))
    }

    /// What is remembered of a path whose mark is taken at `now`.
    pub(super) fn heat(&self, now: Instant, times: Times, before: Option<Heat>) -> Heat {
        let unquiet = match times.stage {
            Stage::Writing => now.saturating_duration_since(times.last) < self.quiet_open,
            Stage::Complete | Stage::Unchanged | Stage::Lazy => false,
        } || before.is_some_and(|heat| times.last.saturating_duration_since(heat.taken) < self.quiet)
            && now.saturating_duration_since(times.last) < self.quiet;
        let level = match before {
            Some(heat) if unquiet => (heat.level + 1).min(16),
            None if unquiet => 1,
            Some(_) | None => 0,
        };
        Heat { taken: now, level }
    }

    /// How long the heat of a path is remembered after it was taken.
    pub(super) fn memory(&self, heat: Heat) -> Duration {
        if heat.level == 0 { self.quiet } else { self.cap(self.quiet_open, heat.level).saturating_mul(2) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn due_follows_the_policy_for_every_stage() {
        let options = SettleOptions::default();
        let start = crate::sys::clock::now();
        let at = |ms: u32| start + MS * ms;
        let check = |stage, first: u32, last: u32, heat: Option<(u32, u8)>, not_before: Option<u32>, expected: u32| {
            let times = Times { first: at(first), last: at(last), stage, not_before: not_before.map(at) };
            let heat = heat.map(|(taken, level)| Heat { taken: at(taken), level });
            assert_eq!(options.due(times, heat), at(expected), "{stage:?} {first} {last}");
        };
        // A quiet path goes at once.
        check(Stage::Complete, 10, 10, None, None, 10);
        // Sent long ago counts as quiet.
        check(Stage::Complete, 500, 500, Some((100, 0)), None, 500);
        // Sent 50 ms ago: wait for quiet, but not beyond the cap.
        check(Stage::Complete, 150, 150, Some((100, 0)), None, 350);
        check(Stage::Complete, 150, 240, Some((100, 0)), None, 440);
        check(Stage::Complete, 150, 290, Some((100, 3)), None, 490);
        // Nobody closed it: 2 s of quiet, at most 6 s in all.
        check(Stage::Writing, 0, 0, None, None, 2_000);
        check(Stage::Writing, 0, 5_900, None, None, 6_000);
        check(Stage::Writing, 0, 29_000, Some((0, 9)), None, 30_000);
        check(Stage::Lazy, 0, 300, None, None, 1_300);
        // A failed path waits for its retry.
        check(Stage::Complete, 10, 10, None, Some(5_000), 5_000);
    }

    #[test]
    fn a_file_written_without_end_is_sent_ever_more_rarely() {
        let options = SettleOptions::default();
        let mut now = crate::sys::clock::now();
        let mut heat = None;
        let mut gaps = Vec::new();
        for _send in 0..6 {
            let first = now;
            // An event every 100 ms until it is due.
            let mut last = first;
            loop {
                let times = Times { first, last, stage: Stage::Writing, not_before: None };
                let due = options.due(times, heat);
                if due <= last + MS * 100 {
                    heat = Some(options.heat(due, times, heat));
                    now = due;
                    break;
                }
                last += MS * 100;
            }
            gaps.push((now - first).as_secs());
        }
        assert_eq!(gaps, [6, 12, 24, 30, 30, 30]);
    }
}
