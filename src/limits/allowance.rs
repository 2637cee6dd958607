//! The watches that an agent may still take, and how it gets more while it runs.
//!
//! All roots of an agent share one: what their watches hold together is bounded by [`Budget`], and the limit of the kernel
//! is one for all of them too. A limit is only ever raised.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::needs::{Budget, grouped, watches_for};
use crate::sys::limits::{Limit, Proc, Raised};
use crate::sys::memory;

/// After a limit could not be raised, it is not tried again for so long. Unit: time.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// The limits that an add of a watch can meet: that of the machine, and that of the user namespace.
const MET: [Limit; 2] = [Limit::InotifyWatches, Limit::NamespaceWatches];

/// What the agent's watches may hold, and whether it may raise the kernel's limit on them.
#[derive(Debug)]
pub struct Allowance {
    proc: Proc,
    budget: Budget,
    raises: bool,
    held: AtomicI64,
    raised: AtomicU64,
    refused: Mutex<Refused>,
}

#[derive(Debug, Default)]
struct Refused {
    not_before: Option<Instant>,
    /// What was said of it last: the same is not said again.
    said: Option<String>,
}

impl Allowance {
    /// On this machine; `raises`: it may raise limits.
    #[must_use]
    pub fn of_machine(proc: Proc, raises: bool) -> Self {
        let budget = budget_of_machine(&proc);
        Self::new(proc, budget, raises)
    }

    /// With a budget of one's own.
    #[must_use]
    pub fn new(proc: Proc, budget: Budget, raises: bool) -> Self {
        let (held, raised) = (AtomicI64::new(0), AtomicU64::new(0));
        Self { proc, budget, raises, held, raised, refused: Mutex::default() }
    }

    /// The memory that watches may hold.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Where the limits are.
    #[must_use]
    pub fn proc(&self) -> &Proc {
        &self.proc
    }

    /// So many watches more, or less.
    pub fn hold(&self, more: i64) {
        self.held.fetch_add(more, Ordering::Relaxed);
    }

    /// Watches of all roots, as far as they were told.
    #[must_use]
    pub fn held(&self) -> u64 {
        u64::try_from(self.held.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Whether memory allows one watch more, on top of so many that were not told yet. Shards tell theirs every few hundred
    /// directories, so this is exact to about that many for each.
    #[must_use]
    pub fn has_room(&self, untold: i64) -> bool {
        self.held().saturating_add_signed(untold) < self.budget.watches()
    }

    /// The limit that is met first, and what it is.
    #[must_use]
    pub fn limit(&self) -> Option<(Limit, u64)> {
        MET.into_iter().filter_map(|limit| Some((limit, self.proc.limit(limit).ok()?))).min_by_key(|(_, now)| *now)
    }

    /// The most watches that are to be had: what memory allows, and what the kernel gives to one user.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.budget.watches().min(self.limit().map_or(u64::MAX, |(_, limit)| limit))
    }

    /// How often it was raised. To be read before an add, for [`Self::raise`].
    #[must_use]
    pub fn times_raised(&self) -> u64 {
        self.raised.load(Ordering::SeqCst)
    }

    /// An add met the limit: raises it, if that is allowed; `seen` is what [`Self::times_raised`] was before. Returns
    /// whether the add is worth another try.
    pub fn raise(&self, seen: u64, now: Instant) -> bool {
        if !self.raises {
            return false;
        }
        let mut refused = self.refused.lock();
        if self.times_raised() != seen {
            // Another shard has done it meanwhile.
            return true;
        }
        if refused.not_before.is_some_and(|at| now < at) {
            return false;
        }
        match self.try_raise() {
            Ok(()) => {
                self.raised.fetch_add(1, Ordering::SeqCst);
                true
            }
            Err(words) => {
                refused.refuse(now, words);
                false
            }
        }
    }

    /// It was raised, and still there is no watch: not to be tried again for a while.
    pub fn is_no_use(&self, now: Instant) {
        let words = "the limit of a user namespace above this one must be used up: raise it there".to_owned();
        self.refused.lock().refuse(now, words);
    }

    fn try_raise(&self) -> Result<(), String> {
        let Some((met, limit)) = self.limit() else { return Err("the limit cannot be read".to_owned()) };
        let Some(wanted) = wanted_when_used_up(self.held(), limit, self.budget.watches_of_machine()) else {
            return Err(format!(
                "a limit of more than {} would let watches hold more than 25 % of RAM",
                grouped(limit)
            ));
        };
        let mut done = false;
        let mut why = String::new();
        for limit in MET {
            let name = limit.sysctl();
            match self.proc.raise(limit, wanted) {
                Ok(Raised::From(before)) => {
                    done = true;
                    tracing::info!("raised {name} from {before} to {wanted}: all watches were taken");
                }
                Ok(Raised::Refused(_, error)) => why = format!("{name} cannot be raised from here ({error})"),
                Ok(Raised::Enough(_)) | Err(_) => {}
            }
        }
        if done { Ok(()) } else { Err(if why.is_empty() { format!("{} is {limit}", met.sysctl()) } else { why }) }
    }
}

impl Refused {
    fn refuse(&mut self, now: Instant, words: String) {
        self.not_before = Some(now + REFUSED_PAUSE);
        if self.said.as_ref() != Some(&words) {
            tracing::warn!("no watch is left: {words}");
            self.said = Some(words);
        }
    }
}

/// The memory of this machine and of this process's control group. What cannot be read does not bind.
pub fn budget_of_machine(proc: &Proc) -> Budget {
    Budget { ram: memory::ram(proc).unwrap_or(u64::MAX), group: memory::group_limit(proc) }
}

/// To what a limit is raised that is used up, when we hold so many; `None`: memory does not allow more.
fn wanted_when_used_up(held: u64, limit: u64, most: u64) -> Option<u64> {
    let ours = watches_for(held);
    // If that is not more, then others of the same user have taken them.
    let wanted = if ours > limit { ours } else { watches_for(limit) };
    Some(wanted.min(most)).filter(|wanted| *wanted > limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    struct Place {
        scratch: tempfile::TempDir,
    }

    impl Place {
        fn new(machine: u64, namespace: u64) -> Self {
            let scratch = tempfile::tempdir().unwrap();
            for directory in ["sys/fs/inotify", "sys/user"] {
                std::fs::create_dir_all(scratch.path().join(directory)).unwrap();
            }
            let place = Self { scratch };
            place.set(Limit::InotifyWatches, machine);
            place.set(Limit::NamespaceWatches, namespace);
            place
        }

        fn proc(&self) -> Proc {
            Proc::at(self.scratch.path())
        }

        fn set(&self, limit: Limit, number: u64) {
            let file = self.scratch.path().join("sys").join(limit.sysctl().replace('.', "/"));
            std::fs::write(file, format!("{number}\n")).unwrap();
        }

        fn read(&self) -> [u64; 2] {
            MET.map(|limit| self.proc().limit(limit).unwrap())
        }

        fn allowance(&self, raises: bool) -> Allowance {
            Allowance::new(self.proc(), Budget { ram: 24 << 30, group: None }, raises)
        }
    }

    #[test]
    fn a_used_up_limit_is_raised_by_what_is_held_or_by_what_others_hold() {
        let check = |held, limit, most, expected| assert_eq!(wanted_when_used_up(held, limit, most), expected);
        check(40, 30, 1 << 30, Some(131_072));
        check(192_536, 192_536, 1 << 30, Some(524_288));
        check(10, 192_536, 1 << 30, Some(524_288));
        check(192_536, 192_536, 412_000, Some(412_000));
        check(192_536, 192_536, 192_536, None);
        check(192_536, 192_536, 10, None);
    }

    #[test]
    fn both_limits_on_the_way_are_raised_and_told_once_to_all_shards() {
        let place = Place::new(30, 1000);
        let allowance = place.allowance(true);
        allowance.hold(30);
        let (seen, now) = (allowance.times_raised(), clock::now());
        assert_eq!(allowance.limit(), Some((Limit::InotifyWatches, 30)));
        assert_eq!(allowance.most(), 30);
        assert!(allowance.raise(seen, now));
        assert_eq!(place.read(), [131_072, 131_072]);
        // The second shard that met the old limit changes nothing.
        assert!(allowance.raise(seen, now));
        assert_eq!(place.read(), [131_072, 131_072]);
        // What is high enough stays.
        place.set(Limit::InotifyWatches, 1 << 30);
        place.set(Limit::NamespaceWatches, 30);
        assert!(allowance.raise(allowance.times_raised(), now));
        assert_eq!(place.read(), [1 << 30, 131_072]);
    }

    #[test]
    fn a_refusal_is_not_asked_again_for_a_minute() {
        let place = Place::new(30, 1000);
        assert!(!place.allowance(false).raise(0, clock::now()));
        assert_eq!(place.read(), [30, 1000]);
        let allowance = place.allowance(true);
        let now = clock::now();
        allowance.is_no_use(now);
        assert!(!allowance.raise(0, now + REFUSED_PAUSE / 2));
        assert_eq!(place.read(), [30, 1000]);
        assert!(allowance.raise(0, now + REFUSED_PAUSE));
        // Memory does not allow more.
        let small = Allowance::new(place.proc(), Budget { ram: 1 << 20, group: None }, true);
        assert!(!small.raise(0, now));
        assert_eq!(place.read(), [65_536, 65_536]);
    }

    #[test]
    fn room_ends_with_the_budget() {
        let allowance = Allowance::new(Proc::default(), Budget { ram: 4 * 1300 * 10, group: None }, false);
        assert_eq!(allowance.most(), 10);
        assert!(allowance.has_room(9));
        assert!(!allowance.has_room(10));
        allowance.hold(8);
        assert!(allowance.has_room(1) && !allowance.has_room(2));
        allowance.hold(-8);
        assert!(allowance.has_room(9));
    }
}
