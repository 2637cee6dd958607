//! How many log lines of one kind may be written: some in each span, the rest is counted and told as a number.

use std::time::{Duration, Instant};

/// Until the count starts anew.
const SPAN: Duration = Duration::from_secs(60);

/// Lines of one kind.
#[derive(Debug)]
pub(super) struct Ration {
    lines_max: u32,
    lines: u32,
    since: Option<Instant>,
    kept_back: u64,
}

impl Ration {
    /// `lines_max` in each span.
    pub(super) fn new(lines_max: u32) -> Self {
        Self { lines_max, lines: 0, since: None, kept_back: 0 }
    }

    /// Whether another line may be written now; if not, it counts as kept back. Call [`Self::sum_up`] first.
    pub(super) fn may_speak(&mut self, now: Instant) -> bool {
        self.since.get_or_insert(now);
        let may = self.lines < self.lines_max;
        if may {
            self.lines += 1;
        } else {
            self.kept_back += 1;
        }
        may
    }

    /// How many lines were kept back in a span that is over; told once, and never zero.
    pub(super) fn sum_up(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) < SPAN) {
            return None;
        }
        self.take()
    }

    /// How many lines were kept back, be the span over or not: the log ends here.
    pub(super) fn take(&mut self) -> Option<u64> {
        let kept_back = self.kept_back;
        *self = Self::new(self.lines_max);
        (kept_back > 0).then_some(kept_back)
    }

    /// When [`Self::sum_up`] has something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.filter(|_| self.kept_back > 0).map(|since| since + SPAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_ration_are_told_as_a_number_even_when_nothing_follows() {
        let start = crate::sys::clock::now();
        let mut ration = Ration::new(3);
        let spoken = (0..1000).filter(|_| ration.sum_up(start).is_none() && ration.may_speak(start)).count();
        assert_eq!((spoken, ration.due()), (3, Some(start + SPAN)));
        assert_eq!(ration.sum_up(start + SPAN / 2), None);
        assert_eq!(ration.sum_up(start + SPAN), Some(997));
        assert_eq!((ration.sum_up(start + SPAN), ration.due()), (None, None));
        assert!(ration.may_speak(start + SPAN));
        assert_eq!(ration.take(), None);
    }
}
