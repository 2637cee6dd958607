//! When a lane keeps an rsync started ahead: pure, the lane's thread acts.

use std::time::{Duration, Instant};

/// A target is kept warm as long as its last batch is no older. An idle agent stays idle.
const WARM_AFTER_BATCH: Duration = Duration::from_secs(600);

/// The same for short-lived ones, in lives: what starts and ends again and again costs as much as an idle agent may.
const LIVES_AFTER_BATCH: u32 = 30;

/// The oldest that waits. Daemons have timeouts of their own, which nobody tells.
const AGE_MAX: Duration = Duration::from_secs(20);

/// One that ended by itself before this age never waited: it could not connect, or was refused.
const LIVED: Duration = Duration::from_secs(1);

/// A target that drops them sooner is left without.
const AGE_MIN: Duration = Duration::from_millis(500);

/// How long a target is left without when that is what it wants.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// After one that could not connect, doubled for each further one.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Whether the lane keeps one, and for how long.
#[derive(Debug)]
pub struct Heat {
    age_max: Duration,
    last_batch: Option<Instant>,
    cold_until: Option<Instant>,
    failures: u32,
    /// How long the last one lived that the daemon dropped, if none has lived its life since.
    dropped_after: Option<Duration>,
}

impl Heat {
    /// For a target whose transfers have this `--timeout`: the daemon is told of it and waits no longer for a list.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { age_max: AGE_MAX.min(timeout / 3), last_batch: None, cold_until: None, failures: 0, dropped_after: None }
    }

    /// Whether one is to be kept now.
    #[must_use]
    pub fn wants(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until) && self.cold_until.is_none_or(|until| until <= now)
    }

    fn until(&self) -> Option<Instant> {
        Some(self.last_batch? + WARM_AFTER_BATCH.min(self.age_max * LIVES_AFTER_BATCH))
    }

    /// When the answer of [`Self::wants`] changes, or one that was started then is too old.
    #[must_use]
    pub fn look_at(&self, now: Instant, started: Option<Instant>) -> Option<Instant> {
        let until = self.until().filter(|until| *until > now)?;
        match started {
            Some(started) => Some(until.min(started + self.age_max)),
            None => self.cold_until.filter(|cold| *cold > now && *cold < until),
        }
    }

    /// Whether one that was started then is too old.
    #[must_use]
    pub fn is_old(&self, now: Instant, started: Instant) -> bool {
        now.saturating_duration_since(started) >= self.age_max
    }

    /// One has lived its life.
    pub fn outlived(&mut self) {
        self.dropped_after = None;
    }

    /// The target had a batch; `well` when a fresh connection took it.
    pub fn on_batch(&mut self, now: Instant, well: bool) {
        self.last_batch = Some(now);
        if well && self.failures > 0 {
            self.failures = 0;
            self.cold_until = None;
        }
    }

    /// One ended by itself at this age, before it was given anything.
    pub fn on_end(&mut self, now: Instant, lived: Duration) {
        if lived < LIVED {
            let pause = PAUSE_MAX.min(PAUSE.saturating_mul(1 << self.failures.min(6)));
            self.failures += 1;
            self.cold_until = Some(now + pause);
            return;
        }
        // Once is a daemon that was restarted; twice is its timeout.
        if let Some(before) = self.dropped_after.replace(lived) {
            self.age_max = self.age_max.min(lived.max(before) * 2 / 3);
        }
        if self.age_max < AGE_MIN {
            self.give_up(now);
        }
    }

    /// The target has no room for it.
    pub fn give_up(&mut self, now: Instant) {
        self.cold_until = Some(now + GIVEN_UP);
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn used(timeout: u64) -> (Heat, Instant) {
        let now = crate::sys::clock::now();
        let mut heat = Heat::new(seconds(timeout));
        heat.on_batch(now, true);
        (heat, now)
    }

    #[test]
    fn a_target_is_warm_for_ten_minutes_after_a_batch() {
        let (heat, now) = used(60);
        assert!(!Heat::new(seconds(60)).wants(now), "nothing was ever sent");
        assert!(heat.wants(now) && heat.wants(now + seconds(599)) && !heat.wants(now + seconds(600)));
        assert_eq!(heat.look_at(now, Some(now)), Some(now + seconds(20)));
        assert_eq!(heat.look_at(now + seconds(590), Some(now + seconds(590))), Some(now + seconds(600)));
        assert_eq!(heat.look_at(now + seconds(601), None), None);
    }

    #[test]
    fn none_gets_older_than_a_third_of_the_timeout() {
        let check = |timeout, age| {
            let (heat, now) = used(timeout);
            assert!(!heat.is_old(now + seconds(age) - Duration::from_millis(1), now), "{timeout}");
            assert!(heat.is_old(now + seconds(age), now), "{timeout}");
        };
        check(60, 20);
        check(3_600, 20);
        check(30, 10);
        check(3, 1);
    }

    #[test]
    fn a_daemon_that_drops_them_is_believed_the_second_time() {
        let (mut heat, now) = used(60);
        heat.on_end(now, seconds(3));
        assert!(!heat.is_old(now + seconds(19), now), "it may have been restarted");
        heat.on_end(now, Duration::from_millis(3_300));
        assert!(heat.is_old(now + Duration::from_millis(2_200), now) && !heat.is_old(now + seconds(2), now));
        assert!(heat.wants(now + seconds(65)) && !heat.wants(now + seconds(67)), "30 lives after the last batch");
        let (mut heat, now) = used(60);
        for _restart in 0..5 {
            heat.on_end(now, seconds(3));
            heat.outlived();
        }
        assert!(!heat.is_old(now + seconds(19), now));
    }

    #[test]
    fn what_cannot_connect_is_tried_less_and_less_until_something_is_sent() {
        let (mut heat, now) = used(60);
        heat.on_end(now, Duration::from_millis(5));
        assert!(!heat.wants(now) && heat.wants(now + seconds(1)));
        assert_eq!(heat.look_at(now, None), Some(now + seconds(1)));
        for _failure in 0..20 {
            heat.on_end(now, Duration::from_millis(5));
        }
        assert!(!heat.wants(now + seconds(59)) && heat.wants(now + seconds(60)));
        heat.on_batch(now, true);
        assert!(heat.wants(now));
        heat.give_up(now);
        heat.on_batch(now, true);
        assert!(!heat.wants(now + seconds(599)), "it has no room, however well batches go");
    }
}
