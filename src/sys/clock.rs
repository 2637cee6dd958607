//! Wall-clock stamps that can be compared with a ctime.

use std::time::Duration;

/// A moment of the real-time clock in nanoseconds since 1970, as `statx` reports a ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub i64);

impl WallTime {
    /// The moment `span` earlier.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// Reads `CLOCK_REALTIME_COARSE`: a change made after this call never carries an earlier ctime
/// (clock_gettime(2); a precise clock would run ahead of the stamps by up to one tick).
#[must_use]
pub fn coarse_now() -> WallTime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    WallTime(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
}

/// Reads the monotonic clock: the one home of `Instant::now` outside of tests.
#[must_use]
pub fn now() -> std::time::Instant {
    #[expect(clippy::disallowed_methods, reason = "its one home")]
    std::time::Instant::now()
}
