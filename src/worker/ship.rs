//! A draft on its way: has its paths looked at, makes its runs, says what is on the target now.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cause::Cause;
use super::command::{self, Fence, Transport};
use super::complaint::{Names, PathCause, Standing};
use super::direct::{self, Direct, Share, Stopped};
use super::heat::Heat;
use super::link::Link;
use super::outcome::{self, Applied, Exit, Run as Ended, Verdict};
use super::run::{Finished, Stop, Supervisor, Urgency};
use super::shim::SHIM_NOT_RUN;
use super::shipment::{Shipment, Sights, is_above, nothing, probed, within};
use super::throttle::{Part, Throttle, Told};
use crate::change::{BatchId, Draft};
use crate::dispatch::{Conclusion, DeleteGuard, Pace, Report, Reservation, Trouble, TroubleRemedy};
use crate::path::RelPath;
use crate::plan::{LinkTable, Risk, Run, RunKind};
use crate::sys::child::{self, Inherited};
use crate::sys::clock;
use crate::target::Location;
use crate::watch::{RootFault, Source};

/// The slowest link that the deadline of a run allows for. Unit: bytes per second. rsync's own `--timeout` notices a
/// stalled link much earlier; the deadline is for an rsync that hangs.
const SLOWEST_LINK: u64 = 16 * 1024;

/// How long a target that has too few connections is asked again, once none of ours waits any more, and how often.
const ROOM_WAIT: Duration = Duration::from_secs(1);
const ROOM_PAUSE: Duration = Duration::from_millis(40);
/// Between two looks whether a large file may have its part of the limit. It will take long, so nobody misses it.
const PART_PAUSE: Duration = Duration::from_millis(50);

/// Sends drafts of one root to one target. One per lane.
#[derive(Debug)]
pub struct Shipper {
    /// The root.
    pub source: Arc<Source>,
    /// The root's descriptor, which every rsync inherits.
    pub root: Arc<Inherited>,
    /// Inodes with several names, shared by all lanes of the root.
    pub links: Arc<Mutex<LinkTable>>,
    /// The target.
    pub transport: Transport,
    /// Files above this go to the large lane. Unit: bytes.
    pub large: u64,
    /// How much may be deleted, shared by all lanes of the target.
    pub guard: Arc<Mutex<DeleteGuard>>,
    /// Marks that may wait for the target.
    pub backlog: usize,
    /// A local target gets plain files without rsync.
    pub direct: bool,
    /// What the lanes of the target share of the way there.
    pub link: Arc<Link>,
    /// The limit of the target, shared by all its lanes.
    pub throttle: Option<Arc<Throttle>>,
}

/// What a shipper asks of its surroundings.
pub struct Surroundings<'a> {
    /// Runs rsync.
    pub supervisor: &'a mut Supervisor,
    /// Whether the lane keeps an rsync waiting.
    pub heat: &'a mut Heat,
    /// Whether to go on.
    pub urgency: &'a dyn Fn() -> Urgency,
    /// Takes the report that precedes the runs.
    pub seen: &'a mut dyn FnMut(Report),
    /// Told when an inode has names that nobody knows.
    pub search_links: &'a dyn Fn(),
}

impl Shipper {
    /// Sends a draft.
    pub fn ship(&self, draft: &Draft, missing_args: bool, around: &mut Surroundings<'_>) -> Conclusion {
        if let Err(fault) = self.source.check(clock::now()) {
            return nothing(held(fault));
        }
        let sights = Sights {
            source: &*self.source,
            links: &self.links,
            large: self.large,
            whole_max: self.link.whole_max(),
            backlog: self.backlog,
        };
        let look = self.links.lock().begin_look();
        let mut shipment = sights.prepare(draft, missing_args);
        if shipment.search_links {
            (around.search_links)();
        }
        if let Some(seen) = shipment.seen.take() {
            (around.seen)(seen);
        }
        self.links.lock().end_look(look);
        let runs = std::mem::take(&mut shipment.runs);
        tracing::trace!(root = self.source.name, batch = draft.batch.0, marks = ?draft.marks, ?runs, "planned");
        for run in &runs {
            if run.kind == RunKind::Move && self.is_moved_otherwise(run) {
                // The next run sends what is missing.
                continue;
            }
            let rest = match self.directly(run, &shipment, around) {
                Ok(rest) => rest,
                Err(trouble) => return nothing(trouble),
            };
            let Some(run) = rest.as_deref() else { continue };
            let verdict = match self.run_guarded(run, missing_args, &shipment, around) {
                Ok(Guarded { verdict, held }) => {
                    if let Some(deletes) = held {
                        shipment.hold(run, deletes);
                    }
                    verdict
                }
                Err(trouble) => return nothing(trouble),
            };
            tracing::debug!(
                root = self.source.name,
                target = %self.transport.location,
                batch = draft.batch.0,
                kind = ?run.kind,
                entries = run.entries.len(),
                cause = verdict.cause.name(),
                words = verdict.words,
                "rsync ended"
            );
            if let Some(conclusion) = shipment.on_verdict(run, verdict) {
                return conclusion;
            }
        }
        shipment.finish()
    }

    /// Does what can be done without rsync; what is left of the run is rsync's.
    fn directly<'r>(
        &self,
        run: &'r Run,
        shipment: &Shipment,
        around: &mut Surroundings<'_>,
    ) -> Result<Option<Cow<'r, Run>>, Trouble> {
        let (Location::Local(target), true) = (&self.transport.location, self.direct) else {
            return Ok(Some(Cow::Borrowed(run)));
        };
        if !matches!(run.kind, RunKind::Points | RunKind::RootAttributes) {
            return Ok(Some(Cow::Borrowed(run)));
        }
        self.source.check(clock::now()).map_err(held)?;
        let reserved = self.reserve(run, shipment);
        let direct = Direct {
            source: &self.source,
            target,
            deletes: reserved.map_or(0, |(deletes, _)| deletes),
            deadline: deadline(&self.transport, run.entries.len(), shipment.bytes),
            go_on: &|| (around.urgency)() == Urgency::None,
        };
        let ended = direct.apply(run);
        if let Some((_, reservation)) = reserved {
            let (Ok(Share { deleted, .. }) | Err(Stopped { deleted })) = &ended;
            self.guard.lock().settle(reservation, *deleted);
        }
        let share = ended.map_err(|Stopped { .. }| stopping())?;
        tracing::debug!(
            root = self.source.name,
            target = %self.transport.location,
            kind = ?run.kind,
            entries = run.entries.len(),
            done = share.count(),
            deleted = share.deleted,
            why = share.why.as_deref().unwrap_or_default(),
            "done without rsync"
        );
        Ok(share.rest(run).map(Cow::Owned))
    }

    /// Has the deletes of a run admitted, if they are single names of which events told and all of them may go. The others
    /// are counted on the target first, by rsync.
    fn reserve(&self, run: &Run, shipment: &Shipment) -> Option<(u64, Reservation)> {
        let Risk::AtMost(deletes @ 1..) = run.risk else { return None };
        if self.source.keep || shipment.is_denied(run) {
            return None;
        }
        let entries = self.source.reading().entries;
        let mut guard = self.guard.lock();
        let (admitted, reservation) = guard.admit(clock::now(), deletes, entries);
        if !admitted {
            guard.settle(reservation, 0);
            return None;
        }
        Some((deletes, reservation))
    }

    /// Moves a directory without rsync, where that is possible; true also where rsync could not do it either.
    fn is_moved_otherwise(&self, run: &Run) -> bool {
        if let (Location::Local(target), Some((new, old)), true) =
            (&self.transport.location, command::names_of_move(run), self.direct)
            && self.source.check(clock::now()).is_ok()
            && direct::rename_within(target, old, new)
        {
            return true;
        }
        !command::can_move(&self.transport.location, run)
    }

    /// Asks the target with an empty list; `None` when all is well.
    pub fn probe(&self, missing_args: bool, around: &mut Surroundings<'_>) -> Option<Trouble> {
        match self.run(
            &command::probe(),
            self.closed(),
            How { missing_args, bytes: 0, batch: BatchId::default(), large: false },
            around,
        ) {
            Err(trouble) => Some(trouble),
            Ok(verdict) => probed(&verdict),
        }
    }

    /// What rsync itself says to an empty list: for a check before the start.
    ///
    /// # Errors
    /// The trouble, when rsync could not even be run.
    pub fn ask(&self, around: &mut Surroundings<'_>) -> Result<Verdict, Trouble> {
        self.run(
            &command::probe(),
            self.closed(),
            How { missing_args: true, bytes: 0, batch: BatchId::default(), large: false },
            around,
        )
    }

    /// Deletes nothing, and says so if there is something.
    fn closed(&self) -> Fence {
        if self.source.keep { Fence::Keep } else { Fence::AtMost(0) }
    }

    /// Makes a run whose deletes are counted before they are done, unless they are approved.
    ///
    /// Where nobody knows how many names would go, a first run does everything else and counts them
    /// (`--max-delete=0`), and only what may go is deleted, by a second one: of a mass delete nothing happens before
    /// somebody approved it. Names that are known to be single ones are counted by the guard alone.
    fn run_guarded(
        &self,
        run: &Run,
        missing_args: bool,
        shipment: &Shipment,
        around: &mut Surroundings<'_>,
    ) -> Result<Guarded, Trouble> {
        let how = How { missing_args, bytes: shipment.bytes, batch: shipment.batch, large: shipment.large };
        let denied = shipment.is_denied(run);
        let waiting = self.run_warm(run, denied, how, around)?;
        let first = match run.risk {
            _ if waiting.is_some() => waiting,
            _ if self.source.keep => return Ok(Guarded::new(self.run(run, Fence::Keep, how, around)?)),
            Risk::Approved => return Ok(Guarded::new(self.run(run, Fence::Open, how, around)?)),
            Risk::AtMost(0) => None,
            Risk::AtMost(deletes) if !denied => self.counted(run, deletes, Known::AtMost, how, around)?,
            // What is more than that is asked about.
            Risk::Moved(names) if !denied => Some(self.run(run, Fence::AtMost(names), how, around)?),
            Risk::AtMost(_) | Risk::Moved(_) | Risk::Unknown => None,
        };
        let first = match first {
            Some(verdict) => verdict,
            None => self.run(run, Fence::AtMost(0), how, around)?,
        };
        // A target without room may have some once the deletes are done, however many they are.
        let full = first.cause == Cause::TargetFull && matches!(run.kind, RunKind::Listing | RunKind::Subtree);
        let deletes = match (first.limited, &first.applied) {
            (Some(deletes), Applied::All | Applied::AllBut(_)) => deletes,
            (_, _) if full => 0,
            (_, _) => return Ok(Guarded::new(first)),
        };
        let known = if matches!(run.risk, Risk::AtMost(_)) { Known::Counted } else { Known::Nothing };
        let second = if denied {
            None
        } else {
            // Whatever had to be sent is there by now.
            let again = Run { resend: run.resend && full, ..run.clone() };
            self.counted(&again, deletes, known, how, around)?
        };
        let held = (deletes > 0).then_some(deletes);
        Ok(match second {
            None if held.is_none() => Guarded::new(first),
            None => Guarded { verdict: without_limit(first), held },
            Some(second) => {
                let held = second.limited;
                let second = if held.is_some() { without_limit(second) } else { second };
                let verdict = if full { second } else { joined(without_limit(first), second) };
                Guarded { verdict, held }
            }
        })
    }

    /// Makes a run if the guard admits so many deletes.
    fn counted(
        &self,
        run: &Run,
        deletes: u64,
        known: Known,
        how: How,
        around: &mut Surroundings<'_>,
    ) -> Result<Option<Verdict>, Trouble> {
        let unknown_max = match known {
            Known::Nothing => self.source.unknown_deletes_max(),
            Known::AtMost | Known::Counted => u64::MAX,
        };
        let entries = self.source.reading().entries;
        let (admitted, reservation, remaining) = {
            let mut guard = self.guard.lock();
            let (admitted, reservation) = guard.admit(clock::now(), deletes, entries);
            (admitted, reservation, guard.remaining(clock::now(), entries))
        };
        if !admitted || deletes > unknown_max || (known == Known::Nothing && unknown_max == 0) {
            if known == Known::AtMost {
                // Perhaps none of them is on the target: they are counted there first, and then here.
                self.guard.lock().settle(reservation, 0);
            }
            return Ok(None);
        }
        let fence = match known {
            Known::AtMost => deletes,
            // Directories that are not empty were not among what was counted.
            Known::Counted | Known::Nothing => deletes.saturating_add(remaining).min(unknown_max),
        };
        let ended = self.run(run, Fence::AtMost(fence), how, around);
        let deleted = match &ended {
            Ok(Verdict { applied: Applied::All | Applied::AllBut(_) | Applied::Unclear, deleted, .. }) => {
                deleted.unwrap_or(deletes)
            }
            // It goes again as a whole, and is counted then.
            Ok(_) | Err(_) => 0,
        };
        self.guard.lock().settle(reservation, deleted);
        ended.map(Some)
    }

    /// Makes a run by a fresh rsync. One that meets a limit of connections goes again at once if we had a part in that.
    fn run(&self, run: &Run, fence: Fence, how: How, around: &mut Surroundings<'_>) -> Result<Verdict, Trouble> {
        let began = clock::now();
        let mut verdict = self.run_cold(run, fence, how, around)?;
        if verdict.cause == Cause::OptionRefused && self.link.refuses_compression(&verdict.words) {
            verdict = self.run_cold(run, fence, how, around)?;
        }
        let ours = verdict.cause == Cause::ConnectionLimit && self.link.give_up(began);
        let until = clock::now() + ROOM_WAIT;
        while ours
            && verdict.cause == Cause::ConnectionLimit
            && clock::now() < until
            && (around.urgency)() == Urgency::None
        {
            if around.supervisor.cool() {
                self.link.end_wait(clock::now(), "");
            }
            let _waits_less = around.supervisor.rest(Some(ROOM_PAUSE));
            verdict = self.run_cold(run, fence, how, around)?;
        }
        Ok(verdict)
    }

    /// The command line of a run, as the way to the target is now.
    pub(super) fn arguments(&self, run: &Run, fence: Fence, missing_args: bool) -> Vec<OsString> {
        let number = self.root.number();
        let mut arguments = command::arguments(&self.transport, &self.source.filter, run, fence, missing_args, number);
        if self.is_remote() && self.link.compresses() {
            // The two agree on the best that both know; to name one would end the run where the other side is old.
            arguments.insert(0, "-z".into());
        }
        arguments
    }

    fn is_remote(&self) -> bool {
        !matches!(self.transport.location, Location::Local(_))
    }

    fn run_cold(&self, run: &Run, fence: Fence, how: How, around: &mut Surroundings<'_>) -> Result<Verdict, Trouble> {
        let How { missing_args, bytes, large, .. } = how;
        if (around.urgency)() != Urgency::None {
            return Err(stopping());
        }
        // Given back when the run has ended. Before the look at the root, since it may have to wait.
        let part = self.part(large, around)?;
        self.source.check(clock::now()).map_err(held)?;
        let mut arguments = self.arguments(run, fence, missing_args);
        let mut deadline = deadline(&self.transport, run.entries.len(), bytes);
        if let Some(part) = &part {
            arguments.insert(0, part.argument());
            deadline += part.patience(bytes);
        }
        let finished = around
            .supervisor
            .run(&self.transport, &arguments, &command::list(run), deadline, around.urgency)
            .map_err(|error| no_resources(&error))?;
        self.note(false, &finished);
        let verdict = self.judge(run, &finished)?;
        let well = matches!(verdict.applied, Applied::All | Applied::AllBut(_));
        if well {
            self.link.on_end(clock::now());
        }
        around.heat.on_batch(clock::now(), well);
        Ok(verdict)
    }

    /// The run's part of the target's limit, if it has one now.
    fn part(&self, large: bool, around: &mut Surroundings<'_>) -> Result<Option<Part<'_>>, Trouble> {
        let Some(throttle) = &self.throttle else { return Ok(None) };
        loop {
            match throttle.take(large) {
                Told::NoLimit => return Ok(None),
                Told::Part(part) => return Ok(Some(part)),
                Told::Wait if (around.urgency)() != Urgency::None => {
                    throttle.give_up();
                    return Err(stopping());
                }
                Told::Wait => around.supervisor.rest(Some(PART_PAUSE)).map_err(|error| {
                    throttle.give_up();
                    no_resources(&error)
                })?,
            }
        }
    }

    pub(super) fn judge(&self, run: &Run, finished: &Finished) -> Result<Verdict, Trouble> {
        let exit = match (finished.stopped, finished.ended) {
            (Some(Stop::Asked), _) => return Err(stopping()),
            (Some(Stop::Fifo), _) => {
                return Err(Trouble {
                    cause: "fifo_race",
                    remedy: TroubleRemedy::Again,
                    words: "a file became a FIFO while it was sent".to_owned(),
                    hint: None,
                });
            }
            (Some(Stop::Deadline), _) => Exit::Watchdog,
            (None, child::Ended::Code(code)) if code == i32::from(SHIM_NOT_RUN) => {
                return Err(Trouble {
                    cause: "rsync_not_found",
                    remedy: TroubleRemedy::Pause(Pace::Slow),
                    words: crate::path::escaped(finished.stderr.trim_ascii()).to_string(),
                    hint: Some("install rsync, or name the program in the configuration"),
                });
            }
            (None, child::Ended::Code(code)) => Exit::Code(code),
            (None, child::Ended::Signal(signal)) => Exit::Signal(signal),
        };
        Ok(judge(
            run,
            &Ended { exit, stdout: &finished.stdout, stderr: &finished.stderr, output_cut: finished.output_cut },
            self.root.number(),
            &self.source.path,
            &self.transport.location,
        ))
    }
}

/// Judges how a run ended whose source was the root at `path`, held as descriptor `root`.
#[must_use]
pub fn judge(run: &Run, ended: &Ended<'_>, root: i32, path: &Path, location: &Location) -> Verdict {
    let descriptor = format!("/proc/self/fd/{root}/");
    let configured = {
        let mut bytes = path.as_os_str().as_bytes().to_vec();
        if bytes.last() != Some(&b'/') {
            bytes.push(b'/');
        }
        bytes
    };
    let (module_sub, destination_prefix) = match location {
        Location::Local(_) => (&b""[..], Some(location.argument())),
        Location::Ssh(address) => (&b""[..], Some(OsStr::from_bytes(&address.path).to_owned())),
        Location::Daemon(address) => (address.sub.as_slice(), None),
    };
    let entries: BTreeSet<&RelPath> = run.entries.iter().map(|(path, _)| path).collect();
    let standing = |path: &RelPath| {
        if within(&entries, path) {
            Standing::Within
        } else if is_above(&entries, path) {
            Standing::Above
        } else {
            Standing::Elsewhere
        }
    };
    outcome::judge(
        ended,
        &Names {
            source_prefixes: &[descriptor.as_bytes(), &configured],
            module_sub,
            destination_prefix: destination_prefix.as_deref().map(OsStrExt::as_bytes),
            standing: &standing,
        },
    )
}

pub(super) fn deadline(transport: &Transport, entries: usize, bytes: u64) -> Instant {
    let waiting = transport.timeout * 2 + transport.connect_timeout + Duration::from_secs(60);
    let working = Duration::from_millis(20).saturating_mul(u32::try_from(entries).unwrap_or(u32::MAX));
    clock::now() + waiting + working + Duration::from_secs(bytes / SLOWEST_LINK)
}

/// What all runs of a draft share.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) missing_args: bool,
    pub(super) bytes: u64,
    /// Whose they are.
    pub(super) batch: BatchId,
    /// They are of the large lane.
    pub(super) large: bool,
}

/// What is known of the deletes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Events told of each name; whether the target has it is not known.
    AtMost,
    /// Events told of each name, and the target has so many of them.
    Counted,
    /// So many names on the target are not in the source.
    Nothing,
}

/// A run, and how many of its deletes are held.
struct Guarded {
    verdict: Verdict,
    held: Option<u64>,
}

impl Guarded {
    fn new(verdict: Verdict) -> Self {
        Self { verdict, held: None }
    }
}

/// What the limit kept from being done is no failure: it is held, or done by a second run.
fn without_limit(verdict: Verdict) -> Verdict {
    let Applied::AllBut(mut failed) = verdict.applied else { return verdict };
    failed.retain(|failed| failed.why != PathCause::NotDeleted);
    let applied = if failed.is_empty() { Applied::All } else { Applied::AllBut(failed) };
    Verdict { applied, ..verdict }
}

/// Two runs of the same entries: what failed in either did.
fn joined(first: Verdict, second: Verdict) -> Verdict {
    match (first.applied, second.applied) {
        (Applied::AllBut(mut failed), Applied::AllBut(more)) => {
            failed.extend(more);
            Verdict { applied: Applied::AllBut(failed), ..second }
        }
        (failed @ Applied::AllBut(_), Applied::All) => Verdict { applied: failed, ..second },
        (Applied::All | Applied::AllBut(_), applied) => Verdict { applied, ..second },
        (unclear @ (Applied::Unclear | Applied::EndedBy(_) | Applied::Nothing), _) => {
            Verdict { applied: unclear, cause: first.cause, remedy: first.remedy, words: first.words, ..second }
        }
    }
}

/// The root is not what it was.
#[must_use]
pub fn held(fault: RootFault) -> Trouble {
    let hint = match fault.cause {
        "root_unmounted" => "mount it again; if something in it is meant to be unmounted: fansync approve",
        "root_emptied" => "if it is meant to be empty: fansync approve; else mount or restore what was in it",
        "root_unreadable" => "let the user that runs fansync read it",
        _ => "nothing is sent or deleted until the same directory is back",
    };
    Trouble { cause: fault.cause, remedy: TroubleRemedy::HoldSource, words: fault.words, hint: Some(hint) }
}

fn no_resources(error: &io::Error) -> Trouble {
    Trouble {
        cause: "local_resources",
        remedy: TroubleRemedy::Pause(Pace::Normal),
        words: format!("cannot start rsync: {error}"),
        hint: None,
    }
}

pub(super) fn stopping() -> Trouble {
    Trouble { cause: "stopping", remedy: TroubleRemedy::Stopping, words: String::new(), hint: None }
}

/// Asks the program for its version (`rsync --version`, first line).
///
/// # Errors
/// When it cannot be run or does not answer like an rsync.
pub fn version(program: &std::path::Path) -> io::Result<String> {
    #[expect(clippy::disallowed_methods, reason = "asked once, before the agent begins; ends by itself")]
    let output = std::process::Command::new(program).arg("--version").stdin(std::process::Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.lines().next().unwrap_or_default().split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("rsync"), Some("version"), Some(version)) => Ok(version.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not answer --version like rsync")),
    }
}
