//! Pauses that grow, with full jitter, so that many agents do not knock at one door at once.

use std::num::NonZeroU32;
use std::time::Duration;

/// A growing pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause is at most this.
    pub base: Duration,
    /// No pause is longer.
    pub max: Duration,
}

impl Backoff {
    /// The pause after `failures` in a row (at least one): uniform in 10 % to 100 % of `base * 2^(failures-1)`.
    #[must_use]
    pub fn pause(&self, failures: u32, rng: &mut fastrand::Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let bound = self.base.saturating_mul(1 << doublings).min(self.max);
        bound.mul_f64(0.1 + 0.9 * rng.f64())
    }
}

/// By what all pauses are divided. Only tests of the whole agent are in haste.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Haste(pub NonZeroU32);

impl Haste {
    /// Pauses are as long as they should be.
    pub const NONE: Self = Self(NonZeroU32::MIN);

    pub(super) fn shorten(self, pause: Duration) -> Duration {
        pause / self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_differ() {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };
        let mut rng = fastrand::Rng::with_seed(1);
        for failures in 1..40_u32 {
            let bound = Duration::from_secs(1 << (failures - 1).min(20)).min(backoff.max);
            let pauses: Vec<Duration> = (0..50).map(|_| backoff.pause(failures, &mut rng)).collect();
            assert!(pauses.iter().all(|pause| *pause <= bound && *pause >= bound / 10), "{failures}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
