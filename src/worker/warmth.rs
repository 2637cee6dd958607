//! Sending by an rsync that waits for its list: when there is one, what it may be given, and what becomes of it.
//!
//! It was started with fixed arguments, so its fence is fixed, too: it may delete [`WARM_DELETES`] names, however few
//! are meant. So many are reserved with the guard before it gets its list, and set right afterwards.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Instant;

use super::cause::Cause;
use super::command::{self, Fence};
use super::heat::Heat;
use super::outcome::{Applied, Verdict};
use super::run::{Finished, Supervisor, Urgency};
use super::ship::{How, Shipper, Surroundings, deadline, held, stopping};
use crate::change::{Mark, MarkKind, Priority};
use crate::dispatch::{Report, Reservation, Trouble};
use crate::path::RelPath;
use crate::plan::{Risk, Run, RunKind, WHOLE_MAX};
use crate::sys::clock;
use crate::target::Location;

/// Names that a run by a waiting rsync may delete. Why 64: a mass delete goes by a run of its own, and a guard whose
/// limit is as usual can spare so many.
const WARM_DELETES: u64 = 64;

/// Files of a run that compares are sent whatever they are when it goes by a waiting rsync: so much is sent for nothing
/// rather than waiting for a connection. Unit: bytes.
const WARM_COMPARED: u64 = 1024 * 1024;

impl Shipper {
    /// Starts, ends or renews what waits for a list, if there `may` be one. Returns when to look again.
    pub fn tend(&self, missing_args: bool, may: bool, supervisor: &mut Supervisor, heat: &mut Heat) -> Option<Instant> {
        let now = clock::now();
        match supervisor.warm_ended() {
            Ok(None) => {}
            Ok(Some(finished)) => self.on_end(now, &finished, heat),
            Err(error) => {
                tracing::debug!(%error, "the waiting rsync cannot be watched");
                supervisor.cool();
                self.link.end_wait(now, "it cannot be watched");
                heat.give_up(now);
            }
        }
        let wanted = may && self.is_warmable() && heat.wants(now) && self.link.may_wait(now);
        let arguments = wanted.then(|| self.warm_arguments(missing_args));
        if let Some((kept, since)) = supervisor.warm() {
            let old = heat.is_old(now, since);
            if old || arguments.as_deref() != Some(kept) {
                supervisor.let_go();
                self.link.end_wait(now, "nothing was sent lately");
                if old {
                    heat.outlived();
                }
            }
        }
        if let (None, Some(arguments)) = (supervisor.warm(), arguments) {
            match supervisor.warm_up(&self.transport, arguments) {
                Ok(()) => self.link.begin_wait(),
                Err(error) => {
                    tracing::debug!(%error, "no rsync can be started ahead");
                    heat.on_end(now, std::time::Duration::ZERO);
                }
            }
        }
        heat.look_at(now, supervisor.warm().map(|(_, since)| since))
    }

    fn is_warmable(&self) -> bool {
        // What a run may send in a second is told to rsync at its start.
        matches!(self.transport.location, Location::Daemon(_)) && self.throttle.is_none()
    }

    fn on_end(&self, now: Instant, finished: &Finished, heat: &mut Heat) {
        let verdict = self.judge(&points(), finished);
        let cause = verdict.map_or("unknown", |verdict| {
            if verdict.cause == Cause::ConnectionLimit {
                self.link.give_up(now);
            }
            verdict.cause.name()
        });
        self.link.end_wait(now, "the target ends connections that wait");
        tracing::debug!(
            root = self.source.name,
            target = %self.transport.location,
            cause,
            age_ms = u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX),
            "the waiting rsync ended"
        );
        heat.on_end(now, finished.took);
    }

    /// Whether a waiting rsync sends whole files. Where not, small ones go as differences, too, as they may be less
    /// small.
    fn is_whole(&self) -> bool {
        self.link.whole_max() >= WHOLE_MAX
    }

    fn warm_arguments(&self, missing_args: bool) -> Vec<OsString> {
        let fence = if self.source.keep { Fence::Keep } else { Fence::AtMost(WARM_DELETES) };
        self.arguments(&Run { whole: self.is_whole(), ..points() }, fence, missing_args)
    }

    /// Makes a run by the rsync that waits, if there is one and the run is for it. `None`: nothing is known to have
    /// happened, and it is to be made as any other.
    pub(super) fn run_warm(
        &self,
        run: &Run,
        denied: bool,
        how: How,
        around: &mut Surroundings<'_>,
    ) -> Result<Option<Verdict>, Trouble> {
        let Some(deletes) = self.may_be_warm(run, denied) else { return Ok(None) };
        let Some((arguments, _)) = around.supervisor.warm() else { return Ok(None) };
        if arguments != self.warm_arguments(how.missing_args) {
            return Ok(None);
        }
        if (around.urgency)() != Urgency::None {
            return Err(stopping());
        }
        self.source.check(clock::now()).map_err(held)?;
        let Some(reservation) = self.reserve_fence() else { return Ok(None) };
        let deadline = deadline(&self.transport, run.entries.len(), run.bytes);
        let finished = around.supervisor.run_warm(&command::list(run), deadline, around.urgency);
        if around.supervisor.warm().is_none() {
            self.link.end_wait(clock::now(), "");
        }
        let finished = match finished {
            Ok(Some(finished)) => finished,
            Ok(None) => {
                self.settle(reservation, 0);
                return Ok(None);
            }
            Err(error) => {
                self.settle(reservation, deletes);
                tracing::debug!(%error, "the waiting rsync could not be watched");
                return Ok(None);
            }
        };
        self.note(true, &finished);
        let verdict = match self.judge(run, &finished) {
            Ok(verdict) => verdict,
            Err(trouble) => {
                self.settle(reservation, deletes);
                return Err(trouble);
            }
        };
        self.settle(reservation, verdict.deleted.unwrap_or(deletes));
        if is_broken(&verdict) {
            self.link.on_broken();
            tracing::debug!(
                root = self.source.name,
                target = %self.transport.location,
                cause = verdict.cause.name(),
                words = verdict.words,
                "the waiting rsync came to nothing: again by another"
            );
            if verdict.cause.may_litter() {
                (around.seen)(littered(run, how));
            }
            return Ok(None);
        }
        around.heat.on_batch(clock::now(), false);
        Ok(Some(verdict))
    }

    /// Names that the run may delete, if it is one for the rsync that waits.
    fn may_be_warm(&self, run: &Run, denied: bool) -> Option<u64> {
        let light = run.kind == RunKind::Points
            && (run.whole || !self.is_whole())
            && (run.resend || run.bytes <= WARM_COMPARED);
        match run.risk {
            Risk::AtMost(deletes) if light && !denied && deletes <= WARM_DELETES => Some(deletes),
            Risk::AtMost(_) | Risk::Moved(_) | Risk::Unknown | Risk::Approved => None,
        }
    }

    /// Reserves what the fence of the waiting rsync lets it delete; `None` when the guard has not so many left.
    fn reserve_fence(&self) -> Option<Option<Reservation>> {
        if self.source.keep {
            return Some(None);
        }
        let entries = self.source.reading().entries;
        let mut guard = self.guard.lock();
        let (admitted, reservation) = guard.admit(clock::now(), WARM_DELETES, entries);
        if !admitted {
            // They were not asked for by anybody.
            guard.settle(reservation, 0);
            return None;
        }
        Some(Some(reservation))
    }

    fn settle(&self, reservation: Option<Reservation>, deleted: u64) {
        if let Some(reservation) = reservation {
            self.guard.lock().settle(reservation, deleted);
        }
    }

    /// Takes note of how a run's connection was.
    pub(super) fn note(&self, warm: bool, finished: &Finished) {
        if let Some(words) = self.link.on_run(warm, &finished.acks) {
            tracing::warn!(
                root = self.source.name,
                target = %self.transport.location,
                words,
                hint = "set 'socket options = TCP_NODELAY' in the daemon's rsyncd.conf",
                "replies cannot be acknowledged at once: to a daemon without TCP_NODELAY a change takes up to 40 ms more"
            );
        }
    }
}

/// What a receiver that was killed has left beside the files of the run is deleted by listings.
fn littered(run: &Run, how: How) -> Report {
    let parents: BTreeSet<RelPath> = run.entries.iter().filter_map(|(path, _)| path.parent()).collect();
    let listing = |path| Mark::new(path, MarkKind::Listing).priority(Priority::Background);
    let marks = parents.into_iter().map(listing).collect();
    Report::Seen { batch: how.batch, marks, large: Vec::new(), later: Vec::new() }
}

/// The run whose options a waiting rsync has. With a fence that deletes, so that the guard's limit is told.
fn points() -> Run {
    Run {
        kind: RunKind::Points,
        resend: true,
        whole: true,
        size_max: None,
        entries: Vec::new(),
        risk: Risk::AtMost(WARM_DELETES),
        bytes: 0,
        basis: None,
    }
}

/// Whether it ended because its connection was no good any more, or for a reason that a fresh one tells better. A host
/// that does not answer is not waited for twice.
fn is_broken(verdict: &Verdict) -> bool {
    verdict.applied == Applied::Nothing && !matches!(verdict.cause, Cause::ConnectTimeout | Cause::WatchdogStopped)
}
