//! Searches for the highest rate that is kept up with: doubles until one is too high, then halves the gap, by ratio. Pure.

/// Rates are told apart down to this ratio.
const FINE: f64 = 1.15;

/// The lowest.
const RATE_MIN: f64 = 1.0;

/// A search.
#[derive(Debug, Clone)]
pub(super) struct Ladder {
    first: f64,
    most: f64,
    held: Option<f64>,
    too_high: Option<f64>,
}

impl Ladder {
    /// Begins at a rate, and tries none above `most`.
    pub(super) fn from(first: f64, most: f64) -> Self {
        let most = most.max(RATE_MIN);
        Self { first: first.clamp(RATE_MIN, most), most, held: None, too_high: None }
    }

    /// The rate to try next; `None` at the end. Whole, as a rate of files is.
    pub(super) fn next(&self) -> Option<f64> {
        let next = match (self.held, self.too_high) {
            (None, None) => self.first,
            (Some(held), None) => (held * 2.0).min(self.most),
            (None, Some(too_high)) => (too_high / 2.0).max(RATE_MIN),
            (Some(held), Some(too_high)) if too_high / held > FINE => (held * too_high).sqrt(),
            (Some(_), Some(_)) => return None,
        }
        .round();
        let is_known = |known: Option<f64>| known.is_some_and(|known| (known - next).abs() < 0.5);
        (!is_known(self.held) && !is_known(self.too_high)).then_some(next)
    }

    /// What came of a rate.
    pub(super) fn tell(&mut self, rate: f64, held: bool) {
        if held {
            self.held = Some(self.held.map_or(rate, |before| before.max(rate)));
        } else {
            self.too_high = Some(self.too_high.map_or(rate, |before| before.min(rate)));
        }
    }

    /// The highest rate that was held so far.
    #[cfg(test)]
    pub(super) fn highest(&self) -> Option<f64> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates that are tried where everything up to `truth` is held, and the result.
    fn climb(first: f64, truth: f64) -> (Vec<f64>, Option<f64>) {
        let mut ladder = Ladder::from(first, 100_000.0);
        let mut tried = Vec::new();
        while let Some(rate) = ladder.next() {
            tried.push(rate);
            ladder.tell(rate, rate <= truth);
            assert!(tried.len() < 100, "it ends: {tried:?}");
        }
        (tried, ladder.highest())
    }

    #[test]
    fn the_highest_rate_is_found_from_below_and_from_above() {
        assert_eq!(climb(200.0, 1_000.0).0, [200.0, 400.0, 800.0, 1_600.0, 1_131.0, 951.0, 1_037.0]);
        for (first, truth) in [(200.0, 1_000.0), (200.0, 30.0), (200.0, 200.0), (1.0, 77_000.0), (50_000.0, 2_345.0)] {
            let highest = climb(first, truth).1.unwrap();
            assert!(highest <= truth && highest * 1.2 >= truth, "{first} {truth}: {highest}");
        }
    }

    #[test]
    fn there_may_be_none_and_there_may_be_no_end() {
        assert_eq!(climb(10.0, 0.0).1, None);
        assert_eq!(climb(10.0, 1e9).1, Some(100_000.0));
        assert_eq!(climb(1.0, 1.0).1, Some(1.0));
    }
}
