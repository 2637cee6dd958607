//! The loop of one lane's thread: take an order, supervise its rsync, report.
//!
//! The thread is permanent, because its children die with it (`PR_SET_PDEATHSIG`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use crossbeam::queue::ArrayQueue;
use mio::Waker;

use super::connection::Connection;
use super::inbox::{Inbox, wake};
use super::links::LinkSearch;
use super::slots::{IdleSlot, Slot, Slots};
use crate::dispatch::{LaneId, Order, Report, Trouble};
use crate::sys::clock;
use crate::target::TargetId;
use crate::worker::cause::Cause;
use crate::worker::heat::Heat;
use crate::worker::run::{Supervisor, Urgency};
use crate::worker::ship::{Shipper, Surroundings};

/// What a lane is sent.
#[derive(Debug)]
pub(super) struct LaneInbox {
    /// At most one: a lane is given an order only when it is idle.
    pub orders: ArrayQueue<(Order, Slot)>,
    pub waker: Arc<Waker>,
    urgency: AtomicU8,
}

impl LaneInbox {
    pub(super) fn new(waker: Arc<Waker>) -> Arc<Self> {
        Arc::new(Self { orders: ArrayQueue::new(1), waker, urgency: AtomicU8::new(Ending::GoOn as u8) })
    }

    pub(super) fn order(&self, order: Order, slot: Slot) {
        let given = self.orders.push((order, slot));
        assert!(given.is_ok(), "a lane is given an order only when it is idle");
        wake(&self.waker);
    }

    /// Makes the lane end, as soon as `ending` says.
    pub(super) fn end(&self, ending: Ending) {
        self.urgency.fetch_max(ending as u8, Ordering::AcqRel);
        wake(&self.waker);
    }

    fn ending(&self) -> Ending {
        match self.urgency.load(Ordering::Acquire) {
            0 => Ending::GoOn,
            1 => Ending::Finish,
            2 => Ending::Terminate,
            _ => Ending::Kill,
        }
    }
}

/// How soon a lane ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Ending {
    /// Not at all.
    GoOn = 0,
    /// After the rsync that runs now.
    Finish = 1,
    /// TERM to it, KILL after a grace.
    Terminate = 2,
    /// KILL.
    Kill = 3,
}

pub(super) struct LaneLoop {
    pub target: TargetId,
    pub lane: LaneId,
    pub inbox: Arc<LaneInbox>,
    pub reports: Arc<Inbox>,
    pub supervisor: Supervisor,
    pub shipper: Shipper,
    pub links: Arc<LinkSearch>,
    /// That of an ssh target.
    pub connection: Option<Arc<Connection>>,
    /// When it keeps an rsync waiting; `None`: never.
    pub heat: Option<Heat>,
    pub slots: Arc<Slots>,
    /// For the one that waits.
    pub idle_slot: Option<IdleSlot>,
}

impl LaneLoop {
    /// Keeps an rsync waiting, if that is wanted and there is room. Returns when to look again.
    fn tend(&mut self, missing_args: bool) -> Option<Instant> {
        let heat = self.heat.as_mut()?;
        if self.idle_slot.is_none() && heat.wants(clock::now()) {
            self.idle_slot = self.slots.idle();
        }
        let tend_at = self.shipper.tend(missing_args, self.idle_slot.is_some(), &mut self.supervisor, heat);
        if self.supervisor.warm().is_none() {
            self.idle_slot = None;
        }
        tend_at
    }

    /// Runs until it is told to end and has nothing under way.
    ///
    /// # Errors
    /// When the poll is broken.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut missing_args_last = true;
        // Of a lane that keeps none.
        let mut no_heat = Heat::new(self.shipper.transport.timeout);
        loop {
            let Some((order, slot)) = self.inbox.orders.pop() else {
                if self.inbox.ending() != Ending::GoOn {
                    return if self.inbox.ending() == Ending::Finish { self.supervisor.part() } else { Ok(()) };
                }
                let tend_at = self.tend(missing_args_last);
                if self.inbox.orders.is_empty() {
                    self.supervisor.prepare(&self.shipper.transport);
                }
                if self.inbox.orders.is_empty() && self.inbox.ending() == Ending::GoOn {
                    let wait = tend_at.map(|at| at.saturating_duration_since(clock::now()));
                    self.supervisor.rest(wait)?;
                }
                continue;
            };
            let (inbox, reports, links) = (&self.inbox, &self.reports, &self.links);
            let (target, lane) = (self.target, self.lane);
            // Asked for before each rsync, and at least twice a second while one runs.
            let urgency = || {
                slot.mind();
                match inbox.ending() {
                    Ending::GoOn | Ending::Finish => Urgency::None,
                    Ending::Terminate => Urgency::Terminate,
                    Ending::Kill => Urgency::Kill,
                }
            };
            let mut seen = |report: Report| {
                reports.send_report(target, lane, report);
            };
            let mut around = Surroundings {
                supervisor: &mut self.supervisor,
                heat: self.heat.as_mut().unwrap_or(&mut no_heat),
                urgency: &urgency,
                seen: &mut seen,
                search_links: &|| links.ask(),
            };
            let report = match &order {
                Order::Send { draft, missing_args } => Report::Concluded {
                    batch: draft.batch,
                    conclusion: self.shipper.ship(draft, *missing_args, &mut around),
                },
                Order::Probe { missing_args } => Report::Probed(self.shipper.probe(*missing_args, &mut around)),
            };
            // Before the dispatcher looks for room.
            drop(slot);
            if let Some(connection) = &self.connection {
                match trouble_of(&report) {
                    None => connection.is_worth_it(),
                    Some(trouble) if is_of_login(trouble) => connection.is_useless(),
                    Some(_) => {}
                }
            }
            if self.supervisor.warm().is_none() {
                self.idle_slot = None;
            }
            let (Order::Send { missing_args, .. } | Order::Probe { missing_args }) = order;
            missing_args_last = missing_args;
            self.reports.send_report(target, lane, report);
        }
    }
}

fn trouble_of(report: &Report) -> Option<&Trouble> {
    match report {
        Report::Concluded { conclusion, .. } => conclusion.trouble.as_ref(),
        Report::Probed(trouble) => trouble.as_ref(),
        Report::Seen { .. } => None,
    }
}

/// Whether the login on the other side is at fault, by which nobody gets anywhere.
fn is_of_login(trouble: &Trouble) -> bool {
    [Cause::RemoteRsyncMissing, Cause::LoginNoise].iter().any(|cause| cause.name() == trouble.cause)
}
