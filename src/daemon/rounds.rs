//! Rounds: a dispatcher asks its shards to tell all that they know so far.
//!
//! A shard has told a round when it began to read its queue after the round was asked for, read it to its end, handed
//! over every mark and errand, has no loss that is not made good, and no walk or errand of any shard is open.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::sys::clock::{self, WallTime};
use crate::watch::ShardId;

/// Rounds that are remembered one by one. An older one ends with the next.
const REMEMBERED_MAX: usize = 256;

/// What a dispatcher shares with its shards.
#[derive(Debug)]
pub(super) struct Rounds {
    asked: AtomicU64,
    told: Vec<AtomicU64>,
    /// When each of the last ones was asked for.
    times: Mutex<VecDeque<(u64, WallTime)>>,
}

impl Rounds {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            asked: AtomicU64::new(0),
            told: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            times: Mutex::new(VecDeque::new()),
        }
    }

    /// Begins a round; the shards must be woken.
    pub(super) fn ask(&self) -> u64 {
        let mut times = self.times.lock();
        let told = self.told();
        times.retain(|(round, _)| *round > told);
        if times.len() >= REMEMBERED_MAX {
            times.pop_front();
        }
        let round = self.asked.load(Ordering::SeqCst) + 1;
        times.push_back((round, clock::coarse_now()));
        self.asked.store(round, Ordering::SeqCst);
        round
    }

    /// The last round that was asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Says that `shard` has told all rounds up to `drained`, but for what happened at `unknown_since` or later. Returns
    /// whether that is news.
    pub(super) fn tell(&self, shard: ShardId, drained: u64, unknown_since: Option<WallTime>) -> bool {
        let told = &self.told[usize::from(shard.0)];
        let before = told.load(Ordering::SeqCst);
        let round = match unknown_since {
            None => drained,
            Some(since) => {
                let times = self.times.lock();
                let known = times.iter().filter(|(round, asked)| *round <= drained && *asked < since);
                known.map(|(round, _)| *round).max().unwrap_or(before)
            }
        };
        told.fetch_max(round, Ordering::SeqCst);
        round > before
    }

    /// The last round that `shard` has told.
    pub(super) fn told_by(&self, shard: ShardId) -> u64 {
        self.told[usize::from(shard.0)].load(Ordering::SeqCst)
    }

    /// The last round that all shards have told.
    pub(super) fn told(&self) -> u64 {
        self.told.iter().map(|told| told.load(Ordering::SeqCst)).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_told_when_all_shards_have_told_it() {
        let rounds = Rounds::new(2);
        assert_eq!((rounds.ask(), rounds.ask()), (1, 2));
        assert!(rounds.tell(ShardId(0), 2, None));
        assert!(!rounds.tell(ShardId(0), 2, None));
        assert_eq!(rounds.told(), 0);
        assert!(rounds.tell(ShardId(1), 1, None));
        assert_eq!(rounds.told(), 1);
        assert!(rounds.tell(ShardId(1), 2, None));
        assert_eq!((rounds.told(), rounds.told_by(ShardId(1))), (2, 2));
    }

    #[test]
    fn what_is_not_watched_holds_the_rounds_of_after_its_last_look() {
        let rounds = Rounds::new(1);
        let early = clock::coarse_now();
        rounds.ask();
        assert!(!rounds.tell(ShardId(0), 1, Some(early)), "it may have changed between the look and the request");
        let late = WallTime(clock::coarse_now().0 + 1);
        assert!(rounds.tell(ShardId(0), 1, Some(late)));
        for _round in 0..REMEMBERED_MAX + 10 {
            rounds.ask();
        }
        assert_eq!(rounds.times.lock().len(), REMEMBERED_MAX);
        assert!(!rounds.tell(ShardId(0), rounds.asked(), Some(early)));
        assert!(rounds.tell(ShardId(0), rounds.asked(), None));
    }
}
