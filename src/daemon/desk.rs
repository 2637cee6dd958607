//! The desk of a root's dispatcher: what the control thread asks of it and what it answers, through bounded queues, so
//! that neither waits for the other.

use std::sync::Arc;
use std::time::Instant;

use crossbeam::queue::ArrayQueue;
use mio::Waker;
use parking_lot::Mutex;

use super::inbox::{ErrandBox, Inbox, wake};
use super::pipeline::{Pipeline, RootStatus};
use super::rounds::Rounds;
use crate::change::Now;
use crate::control::Latency;
use crate::dispatch::{Heard, Missing, PathOnTarget, RootView};
use crate::path::RelPath;
use crate::target::TargetId;
use crate::worker::link::LinkView;

/// Questions that wait for the dispatcher, and answers that wait for the control thread. Full means: the client is told
/// that the agent is busy; a question is only put while there is room for its answer.
pub(super) const ASKED_MAX: usize = 64;

/// One question.
#[derive(Debug)]
pub(super) struct Ask {
    /// Names the answer.
    pub ticket: u64,
    pub question: Question,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Question {
    View,
    Pause(Option<TargetId>),
    Resume(Option<TargetId>),
    Rescan(RelPath),
    Retry(Option<TargetId>, RelPath),
    Approve(Option<TargetId>),
    Explain(RelPath),
    /// Is answered when everything that changed before is on the target, or by [`Question::GiveUp`].
    Wait(Option<TargetId>),
    /// Ends the wait of this ticket, which is answered then, if it is not yet.
    GiveUp,
}

/// The answer of one root.
#[derive(Debug)]
pub(super) enum Part {
    View(Box<ViewPart>),
    /// So many were concerned.
    Count(usize),
    Explained(Vec<PathOnTarget>, Instant),
    /// Everything is there.
    Reached,
    /// The wait was given up.
    NotReached(Vec<Missing>),
}

/// What a dispatcher says of its root.
#[derive(Debug)]
pub(super) struct ViewPart {
    pub now: Instant,
    pub status: RootStatus,
    pub view: RootView,
    /// Of each target.
    pub tallies: Vec<Tally>,
}

/// What a target's log knows.
#[derive(Debug)]
pub(super) struct Tally {
    pub acknowledged: u64,
    pub latency: Option<Latency>,
    pub link: LinkView,
}

/// The queues between one dispatcher and the control thread.
#[derive(Debug)]
pub(super) struct Desk {
    asks: ArrayQueue<Ask>,
    answers: ArrayQueue<(u64, Part)>,
    /// The control thread, once there is one. Nobody asks before.
    front: Mutex<Option<Arc<Waker>>>,
}

impl Desk {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            // Each open question may be given up once.
            asks: ArrayQueue::new(ASKED_MAX * 2),
            answers: ArrayQueue::new(ASKED_MAX),
            front: Mutex::new(None),
        })
    }

    /// Names who is to be woken by an answer.
    pub(super) fn open(&self, front: Arc<Waker>) {
        *self.front.lock() = Some(front);
    }

    /// Puts a question, if the queue has room. Whoever calls it has at most [`ASKED_MAX`] questions open at this desk.
    pub(super) fn ask(&self, inbox: &Inbox, ask: Ask) -> bool {
        let put = self.asks.push(ask).is_ok();
        inbox.wake();
        put
    }

    /// Takes the next answer.
    pub(super) fn answer(&self) -> Option<(u64, Part)> {
        self.answers.pop()
    }

    fn put(&self, ticket: u64, part: Part) {
        let put = self.answers.push((ticket, part));
        assert!(put.is_ok(), "no more questions are open than answers have room");
        if let Some(front) = &*self.front.lock() {
            wake(front);
        }
    }
}

impl Pipeline {
    /// Answers what is asked.
    pub(super) fn attend(&mut self, now: Now, live: bool) {
        while let Some(Ask { ticket, question }) = self.desk.asks.pop() {
            let part = match question {
                Question::View => {
                    self.publish(now.instant, live);
                    Part::View(Box::new(self.view(now)))
                }
                Question::Pause(target) => Part::Count(self.dispatcher.pause(target)),
                Question::Resume(target) => Part::Count(self.dispatcher.resume(target)),
                Question::Rescan(path) => {
                    self.dispatcher.rescan(now, &path);
                    Part::Count(1)
                }
                Question::Retry(target, path) => Part::Count(self.dispatcher.retry(now.instant, target, &path)),
                Question::Approve(target) => Part::Count(self.approve(now, target)),
                Question::Explain(path) => Part::Explained(self.dispatcher.explain(&path), now.instant),
                Question::Wait(target) => {
                    self.waits.begin(ticket, target, &mut || ask_shards(&self.rounds, &self.errands));
                    continue;
                }
                Question::GiveUp => match self.waits.give_up(ticket, &self.dispatcher) {
                    Some(missing) => Part::NotReached(missing),
                    // It was answered a moment ago.
                    None => continue,
                },
            };
            self.desk.put(ticket, part);
        }
    }

    /// What was told so far, for [`Self::answer_waits`].
    pub(super) fn listen(&self) -> (u64, Heard) {
        // Nobody waits for a start to be told: everything is marked then.
        let told = if self.walkers.is_restarted() { self.rounds.told() } else { 0 };
        (told, self.heard())
    }

    fn heard(&self) -> Heard {
        if self.waits.is_empty() {
            return Heard::default();
        }
        let (searches_asked, searches_done) = self.links.1.progress();
        let (looks_begun, looks_told) = self.links.0.lock().looks();
        Heard { looks_begun, looks_told, searches_asked, searches_done }
    }

    /// Answers the waits that are through. `before` is of before this turn took its marks and reports.
    pub(super) fn answer_waits(&mut self, now: Now, live: bool, (told, before): (u64, Heard)) {
        if self.waits.is_empty() || !live {
            return;
        }
        let after = self.heard();
        let mut ask = || ask_shards(&self.rounds, &self.errands);
        for ticket in self.waits.on_turn(now.instant, told, (&before, &after), &mut self.dispatcher, &mut ask) {
            self.desk.put(ticket, Part::Reached);
        }
        if self.waits.listens() && after.searches_done < after.searches_asked {
            self.links.1.hurry();
        }
    }

    fn view(&self, now: Now) -> ViewPart {
        let tallies = self.logs.iter().zip(&self.ways).map(|(log, way)| {
            let ms = |quantile: f64| log.latency.value_at_quantile(quantile) as f64 / 1000.0;
            let latency = (!log.latency.is_empty()).then(|| Latency { p50_ms: ms(0.5), p99_ms: ms(0.99) });
            Tally { acknowledged: log.acknowledged, latency, link: way.view() }
        });
        let status = self.status.lock().clone();
        ViewPart { now: now.instant, status, view: self.dispatcher.view(), tallies: tallies.collect() }
    }
}

fn ask_shards(rounds: &Rounds, errands: &[Arc<ErrandBox>]) -> u64 {
    let round = rounds.ask();
    errands.iter().for_each(|errands| errands.wake());
    round
}
