//! How many rsyncs there are at the same time, over all targets of all roots.
//!
//! A root takes a slot before a lane is given its batch, so that marks collect while all slots are taken. Two bounds:
//! rsyncs that *work*, in the first half second of their lives, in which small runs are done by the processor; and
//! rsyncs of any age. So what waits for a far or a dead target keeps nobody from the processor, and yet their number is bounded.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::inbox::Inbox;
use crate::dispatch::Room;
use crate::sys::clock;

/// How long a run counts as work. Why: a batch of 5,000 small files takes less; what takes longer waits for the target
/// or for the disk.
const WORK: Duration = Duration::from_millis(500);

/// Working rsyncs for each core: one end of most transfers is elsewhere, or waits for its disk.
const WORKING_PER_CORE: usize = 2;
const WORKING_MIN: usize = 4;

/// Who may go, and who waits. Pure.
#[derive(Debug)]
struct Turns {
    working: usize,
    processes: usize,
    /// Those that were started ahead and wait for a list.
    idle: usize,
    working_max: usize,
    processes_max: usize,
    /// Roots that were refused, in their order: nobody gets past them.
    waiting: VecDeque<usize>,
}

impl Turns {
    fn free(&self) -> usize {
        let processes = self.processes + self.idle;
        (self.working_max.saturating_sub(self.working)).min(self.processes_max.saturating_sub(processes))
    }

    /// One more may be started ahead, if nobody needs its place. At most half of all, so that the others get on.
    fn idle(&mut self) -> bool {
        let room = self.idle < self.processes_max / 2 && self.processes + self.idle < self.processes_max;
        let granted = room && self.waiting.is_empty();
        self.idle += usize::from(granted);
        granted
    }

    fn take(&mut self, root: usize) -> bool {
        let place = self.waiting.iter().position(|waiting| *waiting == root);
        let granted = self.free() > place.unwrap_or(self.waiting.len());
        match (granted, place) {
            (true, Some(place)) => drop(self.waiting.remove(place)),
            (false, None) => self.waiting.push_back(root),
            (true, None) | (false, Some(_)) => {}
        }
        if granted {
            self.working += 1;
            self.processes += 1;
        }
        granted
    }

    /// The root wants nothing for now.
    fn pass(&mut self, root: usize) {
        self.waiting.retain(|waiting| *waiting != root);
    }

    /// Those whose turn it is.
    fn called(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().copied().take(self.free())
    }
}

/// The slots of the agent.
#[derive(Debug)]
pub(super) struct Slots {
    turns: Mutex<Turns>,
    inboxes: Mutex<Vec<Arc<Inbox>>>,
}

impl Slots {
    /// For at most so many processes.
    pub(super) fn new(processes_max: usize) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = Turns {
            working: 0,
            processes: 0,
            idle: 0,
            working_max: (cores * WORKING_PER_CORE).max(WORKING_MIN),
            processes_max,
            waiting: VecDeque::new(),
        };
        Arc::new(Self { turns: Mutex::new(turns), inboxes: Mutex::new(Vec::new()) })
    }

    /// A root that takes slots, and is woken by way of `inbox` when it is its turn.
    pub(super) fn join(self: &Arc<Self>, inbox: Arc<Inbox>) -> Taker {
        let mut inboxes = self.inboxes.lock();
        inboxes.push(inbox);
        Taker { slots: Arc::clone(self), root: inboxes.len() - 1 }
    }

    /// The right to have an rsync that waits for a list.
    pub(super) fn idle(self: &Arc<Self>) -> Option<IdleSlot> {
        self.turns.lock().idle().then(|| IdleSlot { slots: Arc::clone(self) })
    }

    fn change(&self, change: impl FnOnce(&mut Turns)) {
        let called: Vec<usize> = {
            let mut turns = self.turns.lock();
            change(&mut turns);
            turns.called().collect()
        };
        if !called.is_empty() {
            let inboxes = self.inboxes.lock();
            called.into_iter().for_each(|root| inboxes[root].wake());
        }
    }
}

/// A root's access to the slots.
#[derive(Debug)]
pub(super) struct Taker {
    slots: Arc<Slots>,
    root: usize,
}

impl Taker {
    /// What is taken in one turn of the dispatcher.
    pub(super) fn begin(&self) -> Turn<'_> {
        Turn { taker: self, taken: VecDeque::new(), spare: 0, refused: false }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.slots.change(|turns| turns.pass(self.root));
    }
}

/// One turn of a dispatcher: at its end nothing is left over.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    taker: &'a Taker,
    taken: VecDeque<Slot>,
    /// How many of those nobody needed.
    spare: usize,
    refused: bool,
}

impl Turn<'_> {
    /// A slot for the next action, of which each took one.
    ///
    /// # Panics
    /// When there are more actions than [`Room::take`] admitted.
    pub(super) fn next(&mut self) -> Slot {
        self.taken.pop_front().expect("each action took a slot")
    }
}

impl Room for Turn<'_> {
    fn take(&mut self) -> bool {
        if self.spare > 0 {
            self.spare -= 1;
            return true;
        }
        // Whoever was refused once in a turn has its place in the queue.
        if self.refused || !self.taker.slots.turns.lock().take(self.taker.root) {
            self.refused = true;
            return false;
        }
        let slots = Arc::clone(&self.taker.slots);
        self.taken.push_back(Slot { slots, works: Cell::new(true), since: clock::now() });
        true
    }

    fn give_back(&mut self) {
        self.spare += 1;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.taken.clear();
        if !self.refused {
            self.taker.slots.change(|turns| turns.pass(self.taker.root));
        }
    }
}

/// The right to run one rsync.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    works: Cell<bool>,
    since: Instant,
}

impl Slot {
    /// To be called now and then: a run that takes long makes room for others.
    pub(super) fn mind(&self) {
        if self.works.get() && clock::now().saturating_duration_since(self.since) >= WORK {
            self.works.set(false);
            self.slots.change(|turns| turns.working -= 1);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let works = usize::from(self.works.get());
        self.slots.change(|turns| {
            turns.working -= works;
            turns.processes -= 1;
        });
    }
}

/// The right to have an rsync that waits for a list.
#[derive(Debug)]
pub(super) struct IdleSlot {
    slots: Arc<Slots>,
}

impl Drop for IdleSlot {
    fn drop(&mut self) {
        self.slots.change(|turns| turns.idle -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(working_max: usize, processes_max: usize) -> Turns {
        Turns { working: 0, processes: 0, idle: 0, working_max, processes_max, waiting: VecDeque::new() }
    }

    #[test]
    fn nobody_gets_past_those_who_wait() {
        let mut turns = turns(2, 10);
        assert!(turns.take(0) && turns.take(0));
        assert!(!turns.take(1) && !turns.take(2) && !turns.take(0) && !turns.take(1));
        assert_eq!(turns.called().count(), 0);
        turns.working -= 1;
        turns.processes -= 1;
        assert_eq!(turns.called().collect::<Vec<_>>(), [1]);
        assert!(!turns.take(0) && !turns.take(2));
        assert!(turns.take(1) && !turns.take(1));
        turns.working -= 1;
        turns.processes -= 1;
        turns.pass(2);
        assert_eq!(turns.called().collect::<Vec<_>>(), [0]);
        assert!(turns.take(0));
    }

    #[test]
    fn what_takes_long_counts_as_a_process_only() {
        let mut turns = turns(2, 3);
        assert!(turns.take(0) && turns.take(0) && !turns.take(0));
        turns.working -= 2;
        assert!(turns.take(0));
        assert!(!turns.take(0), "three processes");
        turns.processes -= 1;
        assert!(turns.take(0));
    }

    #[test]
    fn what_a_turn_does_not_need_is_free_again() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let slots = Slots::new(1);
        let taker = slots.join(Inbox::new(waker, 1, 1));
        let mut turn = taker.begin();
        assert!(turn.take() && !turn.take());
        turn.give_back();
        assert!(turn.take());
        let slot = turn.next();
        drop(turn);
        assert!(!taker.begin().take());
        drop(slot);
        assert!(taker.begin().take(), "the turn before it gave its slot back");
        assert!(taker.begin().take());
    }

    #[test]
    fn what_waits_for_a_list_takes_no_more_than_half_and_no_place_that_somebody_needs() {
        let mut turns = turns(9, 4);
        assert!(turns.idle() && turns.idle() && !turns.idle());
        assert!(turns.take(0) && turns.take(0) && !turns.take(1));
        turns.idle -= 1;
        assert!(!turns.idle(), "the second root is before it");
        assert!(turns.take(1));
        turns.idle -= 1;
        turns.processes -= 2;
        assert!(turns.idle());
    }
}
