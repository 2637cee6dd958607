//! How much a target may be sent in a second: by the hour (`Bandwidth`), and among its runs (`Shares`). Pure.
//!
//! rsync limits each process for itself (`--bwlimit`), from its start to its end. So each run takes a share when it starts and
//! gives it back when it ends, and what is taken is never more than the limit.

use crate::sys::clock::LocalTime;

/// Minutes of a day.
pub const DAY: u16 = 24 * 60;

/// The limits of a target: of the first window that it is in, by the local time of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bandwidth {
    /// In the order of the configuration; in none of them there is no limit.
    pub windows: Vec<Window>,
}

/// A part of the week, and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// On which days it begins.
    pub days: Days,
    /// The minute of the day at which it begins.
    pub from: u16,
    /// The minute before which it ends, at most [`DAY`]; on the next day, if it is not after `from`.
    pub to: u16,
    /// Bytes per second; `None`: as much as goes.
    pub limit: Option<u64>,
}

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days(u8);

impl Days {
    /// As they are written, Monday first.
    pub const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    /// The whole week.
    pub const ALL: Self = Self(0x7f);
    /// No day.
    pub const NONE: Self = Self(0);

    /// These days and another one, counted from Monday, 0.
    #[must_use]
    pub fn with(self, day: u8) -> Self {
        Self(self.0 | 1 << (day % 7))
    }

    /// Whether a day is among them.
    #[must_use]
    pub fn contains(self, day: u8) -> bool {
        self.0 & 1 << (day % 7) != 0
    }
}

impl Window {
    /// At any time.
    #[must_use]
    pub fn always(limit: Option<u64>) -> Self {
        Self { days: Days::ALL, from: 0, to: DAY, limit }
    }

    /// Whether it is [`Self::always`].
    #[must_use]
    pub fn is_always(&self) -> bool {
        self.days == Days::ALL && (self.from, self.to) == (0, DAY)
    }

    fn contains(&self, time: LocalTime) -> bool {
        let LocalTime { weekday, minute } = time;
        if self.from < self.to {
            return self.days.contains(weekday) && (self.from..self.to).contains(&minute);
        }
        // Over midnight: its end belongs to the day on which it began.
        (self.days.contains(weekday) && minute >= self.from) || (self.days.contains(weekday + 6) && minute < self.to)
    }
}

impl Bandwidth {
    /// The same at all times.
    #[must_use]
    pub fn always(limit: u64) -> Self {
        Self { windows: vec![Window::always(Some(limit))] }
    }

    /// Bytes per second; `None`: as much as goes.
    #[must_use]
    pub fn at(&self, time: LocalTime) -> Option<u64> {
        self.windows.iter().find(|window| window.contains(time)).and_then(|window| window.limit)
    }
}

/// How the runs of a target share its limit. Unit: KiB per second, as `--bwlimit` counts.
///
/// A run of a large file, which may take hours, has three quarters; it waits until the others, which are bounded, have ended so
/// far. The others have the rest while a large one runs or waits, and all while none does: the first takes two thirds, the
/// next one two thirds of what is left, and the last all. So nobody but a large file ever waits, and small files have room
/// beside it.
/// Invariant: while the limit stays, what is taken is never more than it.
#[derive(Debug)]
pub struct Shares {
    lanes: u64,
    large: Large,
    running: u64,
    taken: u64,
}

/// The run of a large file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Large {
    None,
    Waits,
    Runs,
}

/// A share, to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// KiB per second, 1 at least.
    pub rate: u64,
    large: bool,
}

impl Shares {
    /// For so many lanes, each with at most one run.
    #[must_use]
    pub fn new(lanes: u16) -> Self {
        Self { lanes: u64::from(lanes.max(1)), large: Large::None, running: 0, taken: 0 }
    }

    /// What a run may send while the limit is `limit` bytes per second; `None`: it has to wait, and to ask again, or to
    /// [`Self::give_up`].
    pub fn take(&mut self, limit: u64, large: bool) -> Option<Share> {
        let total = limit / 1024;
        if self.lanes == 1 {
            return Some(Share { rate: total.max(1), large: false });
        }
        let quarter = total / 4;
        // Lanes that may begin a run beside a large one.
        let idle = (self.lanes - 1).saturating_sub(self.running);
        if large && self.large != Large::Runs {
            if self.taken + idle > quarter {
                self.large = Large::Waits;
                return None;
            }
            self.large = Large::Runs;
            return Some(Share { rate: (total - quarter).max(1), large: true });
        }
        let (pool, idle) = match self.large {
            // Whoever waits has a lane, but no run.
            Large::Waits | Large::Runs => (quarter, idle),
            Large::None => (total, self.lanes.saturating_sub(self.running)),
        };
        let free = pool.saturating_sub(self.taken);
        // The others can still begin, if slowly.
        let rate = if idle <= 1 { free } else { (free / 3 * 2).min(free.saturating_sub(idle - 1)) }.max(1);
        self.running += 1;
        self.taken += rate;
        Some(Share { rate, large: false })
    }

    /// A run that was told to wait does not want to any more.
    pub fn give_up(&mut self) {
        if self.large == Large::Waits {
            self.large = Large::None;
        }
    }

    /// The run has ended.
    pub fn give_back(&mut self, share: Share) {
        if share.large {
            self.large = Large::None;
        } else {
            self.running = self.running.saturating_sub(1);
            self.taken = self.taken.saturating_sub(share.rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(day: &str, hour: u16, minute: u16) -> LocalTime {
        let weekday = Days::NAMES.iter().position(|name| *name == day).unwrap();
        LocalTime { weekday: u8::try_from(weekday).unwrap(), minute: hour * 60 + minute }
    }

    #[test]
    fn the_first_window_that_holds_the_time_decides() {
        let weekdays = (0..5).fold(Days::NONE, Days::with);
        let window = |days, from: u16, to: u16, limit| Window { days, from: from * 60, to: to * 60, limit };
        let work = Bandwidth {
            windows: vec![
                window(weekdays, 12, 13, None),
                window(weekdays, 8, 18, Some(10)),
                window(Days::NONE.with(4), 22, 6, Some(5)),
                window(Days::NONE.with(6), 23, 1, Some(7)),
                window(Days::NONE.with(5), 0, 24, Some(3)),
                Window::always(Some(50)),
            ],
        };
        let check = |at: LocalTime, expected: Option<u64>| assert_eq!(work.at(at), expected, "{at:?}");
        check(time("mon", 7, 59), Some(50));
        check(time("mon", 8, 0), Some(10));
        check(time("mon", 11, 59), Some(10));
        check(time("mon", 12, 0), None);
        check(time("mon", 13, 0), Some(10));
        check(time("mon", 17, 59), Some(10));
        check(time("mon", 18, 0), Some(50));
        check(time("sun", 9, 0), Some(50));
        // Over midnight, and over the end of the week.
        check(time("fri", 21, 59), Some(50));
        check(time("fri", 22, 0), Some(5));
        check(time("sat", 5, 59), Some(5));
        check(time("sat", 6, 0), Some(3));
        check(time("thu", 22, 0), Some(50));
        check(time("sun", 23, 0), Some(7));
        check(time("mon", 0, 59), Some(7));
        check(time("mon", 1, 0), Some(50));
        check(time("sat", 23, 59), Some(3));
        check(time("sun", 0, 0), Some(50));
        assert_eq!(Bandwidth { windows: Vec::new() }.at(time("mon", 0, 0)), None);
        assert_eq!(Bandwidth::always(9).at(time("sun", 23, 59)), Some(9));
        // From a time to the same of the next day.
        let whole = Bandwidth { windows: vec![window(Days::NONE.with(0), 8, 8, Some(1))] };
        assert_eq!(
            [time("mon", 7, 59), time("mon", 8, 0), time("tue", 7, 59), time("tue", 8, 0)].map(|at| whole.at(at)),
            [None, Some(1), Some(1), None]
        );
    }

    #[test]
    fn runs_never_have_more_than_the_limit_and_a_large_one_waits_for_the_others() {
        const MIB: u64 = 1 << 20;
        let mut shares = Shares::new(3);
        let mut take = |large| shares.take(12 * MIB, large).map(|share| share.rate);
        assert_eq!([take(true), take(false), take(false)], [Some(9 * 1024), Some(2 * 1024), Some(1024)]);
        let mut shares = Shares::new(3);
        let small = [false, false].map(|large| shares.take(12 * MIB, large).unwrap());
        assert_eq!(small.map(|share| share.rate), [8 * 1024, 2730]);
        assert_eq!(shares.take(12 * MIB, true), None);
        shares.give_back(small[0]);
        let less = shares.take(12 * MIB, false).unwrap();
        assert_eq!(less.rate, 3 * 1024 - 2730, "what begins while it waits is held to the quarter");
        shares.give_back(small[1]);
        assert_eq!(shares.take(12 * MIB, true).unwrap().rate, 9 * 1024);
        assert_eq!(Shares::new(1).take(12 * MIB, true).unwrap().rate, 12 * 1024);
        assert_eq!(Shares::new(1).take(100, false).unwrap().rate, 1, "0 would be no limit");
        let mut shares = Shares::new(2);
        let first = shares.take(MIB, false).unwrap();
        assert_eq!(shares.take(MIB, true), None);
        shares.give_up();
        shares.give_back(first);
        assert_eq!(shares.take(MIB, false), Some(first), "as if nobody had waited");

        let mut rng = fastrand::Rng::with_seed(3);
        for lanes in [1, 2, 3, 16] {
            let limit = if rng.bool() { 64 * 1024 } else { rng.u64(64 * 1024..100 * MIB) };
            let mut shares = Shares::new(lanes);
            let mut runs: Vec<Share> = Vec::new();
            let (mut waits, mut waited) = (false, 0);
            for _step in 0..10_000 {
                let free = usize::from(lanes) - runs.len();
                let large = waits || (rng.u8(..4) == 0 && !runs.iter().any(|run| run.large));
                if free > usize::from(waits && !large) && rng.bool() {
                    match shares.take(limit, large) {
                        Some(share) => {
                            assert!(share.rate >= 1);
                            waits &= !large;
                            runs.push(share);
                        }
                        None => waits = true,
                    }
                } else if waits && rng.u8(..8) == 0 {
                    shares.give_up();
                    waits = false;
                } else if !runs.is_empty() {
                    shares.give_back(runs.swap_remove(rng.usize(..runs.len())));
                }
                waited += usize::from(waits);
                let total = runs.iter().map(|run| run.rate).sum::<u64>();
                assert!(total * 1024 <= limit, "{lanes} lanes, {limit}: {runs:?}");
            }
            assert!(lanes == 1 || waited > 0);
            runs.drain(..).for_each(|run| shares.give_back(run));
            assert_eq!((shares.running, shares.taken, shares.large == Large::Runs), (0, 0, false));
        }
    }
}
