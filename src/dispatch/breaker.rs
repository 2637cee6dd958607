//! Whether a target takes batches: closed, or open after a failure until a probe comes back well.

use std::time::{Duration, Instant};

use super::backoff::{Backoff, Haste};

/// How long a paused target is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// It was reachable a moment ago: ask what is wrong at once, and like [`Self::Soon`] when that has not helped.
    Now,
    /// It may be back any moment: 0.2 s to 10 s.
    Soon,
    /// It is away: 1 s to 1 min.
    Normal,
    /// Somebody has to do something there: 5 s to 5 min.
    Slow,
}

/// Failures in a row that are answered by a probe at once. Why 3: a daemon that was started again, and one batch that
/// it did not like; a target whose probes go well and whose batches do not must not be knocked at without end.
const AT_ONCE_MAX: u32 = 3;

impl Pace {
    fn pause(self, failures: u32, rng: &mut fastrand::Rng) -> Duration {
        let (base, max) = match self {
            Self::Now if failures <= AT_ONCE_MAX => return Duration::ZERO,
            Self::Now => return Self::Soon.pause(failures - AT_ONCE_MAX, rng),
            Self::Soon => (Duration::from_millis(200), Duration::from_secs(10)),
            Self::Normal => (Duration::from_secs(1), Duration::from_secs(60)),
            Self::Slow => (Duration::from_secs(5), Duration::from_secs(300)),
        };
        Backoff { base, max }.pause(failures, rng)
    }
}

/// The breaker of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Batches flow. The failures in a row that came before count until a batch is acknowledged.
    Closed {
        /// Failures without a success in between.
        failures: u32,
    },
    /// Nothing is sent until then; then a probe.
    Open {
        /// When to probe.
        until: Instant,
        /// Failures without a success in between.
        failures: u32,
    },
    /// A probe is under way.
    Probing {
        /// Failures without a success in between.
        failures: u32,
    },
}

impl Breaker {
    /// Whether batches may go.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Failures without a success in between.
    #[must_use]
    pub fn failures(&self) -> u32 {
        match self {
            Self::Closed { failures } | Self::Open { failures, .. } | Self::Probing { failures } => *failures,
        }
    }

    /// A batch or a probe failed because of the target. Returns the pause that begins with it; `None` when one is
    /// under way already, since other lanes report the same failure: it counts once.
    pub fn fail(&mut self, now: Instant, pace: Pace, haste: Haste, rng: &mut fastrand::Rng) -> Option<Duration> {
        let failures = match self {
            Self::Open { .. } => return None,
            Self::Closed { failures } | Self::Probing { failures } => failures.saturating_add(1),
        };
        let pause = haste.shorten(pace.pause(failures, rng));
        *self = Self::Open { until: now + pause, failures };
        Some(pause)
    }

    /// The probe came back well: batches flow again.
    pub fn close(&mut self) {
        *self = Self::Closed { failures: self.failures() };
    }

    /// A batch was acknowledged: the failures are forgotten.
    pub fn succeed(&mut self) {
        if let Self::Closed { failures } = self {
            *failures = 0;
        }
    }

    /// Whether it is time to probe; if so, the probe is under way from here on.
    pub fn begin_probe(&mut self, now: Instant) -> bool {
        match *self {
            Self::Open { until, failures } if until <= now => {
                *self = Self::Probing { failures };
                true
            }
            Self::Open { .. } | Self::Closed { .. } | Self::Probing { .. } => false,
        }
    }

    /// When to look at it again.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Open { until, .. } => Some(*until),
            Self::Closed { .. } | Self::Probing { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_target_is_probed_ever_more_rarely_and_flows_again_after_a_good_probe() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut now = crate::sys::clock::now();
        let mut breaker = Breaker::Closed { failures: 0 };
        let mut longest = Duration::ZERO;
        for failures in 1..=20 {
            assert!(breaker.fail(now, Pace::Normal, Haste::NONE, &mut rng).is_some());
            assert_eq!(breaker.fail(now, Pace::Normal, Haste::NONE, &mut rng), None);
            assert_eq!(breaker.failures(), failures, "lanes that fail together count once");
            let until = breaker.wake_at().unwrap();
            longest = longest.max(until - now);
            assert!(!breaker.begin_probe(now) || until == now);
            now = until;
            assert!(breaker.begin_probe(now));
            assert!(!breaker.begin_probe(now), "one probe at a time");
        }
        assert!(longest > Duration::from_secs(10) && longest <= Duration::from_secs(60));
        breaker.close();
        assert!(breaker.is_closed());
        assert_eq!(breaker.failures(), 20, "only an acknowledged batch makes it well");
        breaker.succeed();
        assert_eq!(breaker.failures(), 0);
    }
    #[test]
    fn what_is_asked_at_once_is_asked_ever_more_rarely_when_the_answers_do_not_help() {
        let mut rng = fastrand::Rng::with_seed(7);
        let now = crate::sys::clock::now();
        let mut breaker = Breaker::Closed { failures: 0 };
        let pauses: Vec<Duration> = (0..20)
            .map(|_| {
                let pause = breaker.fail(now, Pace::Now, Haste::NONE, &mut rng).unwrap();
                breaker.close();
                pause
            })
            .collect();
        assert!(pauses[..3].iter().all(Duration::is_zero), "{pauses:?}");
        assert!(pauses[3..].iter().all(|pause| *pause >= Duration::from_millis(20)), "{pauses:?}");
        assert!(pauses[12..].iter().all(|pause| *pause >= Duration::from_secs(1)), "{pauses:?}");
    }
}
