//! A draft on its way: has its paths looked at, makes its runs, says what is on the target now.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::command::{self, Transport};
use super::complaint::{Names, Standing};
use super::outcome::{self, Applied, Exit, Run as Ended, Verdict};
use super::run::{Finished, SHIM_NOT_RUN, Stop, Supervisor, Urgency};
use super::shipment::{Sights, is_above, nothing, trouble_of, within};
use crate::change::Draft;
use crate::dispatch::{Conclusion, Pace, Report, Trouble, TroubleRemedy};
use crate::path::RelPath;
use crate::plan::{LinkTable, Run};
use crate::sys::child::{self, Inherited};
use crate::sys::clock;
use crate::sys::files;
use crate::target::Location;
use crate::watch::Source;

/// The slowest link that the deadline of a run allows for. Unit: bytes per second. rsync's own `--timeout` notices a
/// stalled link much earlier; the deadline is for an rsync that hangs.
const SLOWEST_LINK: u64 = 16 * 1024;

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
}

/// What a shipper asks of its surroundings.
pub struct Surroundings<'a> {
    /// Runs rsync.
    pub supervisor: &'a mut Supervisor,
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
        if let Err(words) = self.check_source() {
            return nothing(held(words));
        }
        let sights = Sights { source: &*self.source, links: &self.links, large: self.large };
        let mut shipment = sights.prepare(draft, missing_args);
        if shipment.search_links {
            (around.search_links)();
        }
        if let Some(seen) = shipment.seen.take() {
            (around.seen)(seen);
        }
        let runs = std::mem::take(&mut shipment.runs);
        tracing::trace!(root = self.source.name, batch = draft.batch.0, marks = ?draft.marks, ?runs, "planned");
        for run in &runs {
            let verdict = match self.run(run, missing_args, shipment.bytes, around) {
                Ok(verdict) => verdict,
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
            if let Some(conclusion) = shipment.on_verdict(verdict) {
                return conclusion;
            }
        }
        shipment.finish()
    }

    /// Asks the target with an empty list; `None` when all is well.
    pub fn probe(&self, missing_args: bool, around: &mut Surroundings<'_>) -> Option<Trouble> {
        match self.run(&command::probe(), missing_args, 0, around) {
            Err(trouble) => Some(trouble),
            Ok(verdict) => match verdict.applied {
                Applied::All | Applied::AllBut(_) | Applied::Unclear => None,
                Applied::Nothing | Applied::EndedBy(_) => trouble_of(&verdict),
            },
        }
    }

    /// What rsync itself says to an empty list: for a check before the start.
    ///
    /// # Errors
    /// The trouble, when rsync could not even be run.
    pub fn ask(&self, around: &mut Surroundings<'_>) -> Result<Verdict, Trouble> {
        self.run(&command::probe(), true, 0, around)
    }

    /// Whether the held root is still what the configured path means (design 8). Checked before every spawn, because
    /// a points batch against an unmounted root would delete all that it lists (notes/rsync.md 10).
    fn check_source(&self) -> Result<(), String> {
        let path = self.source.path.display();
        let held = files::status_of(&self.source.root).map_err(|error| format!("the root cannot be read: {error}"))?;
        if held.links == 0 {
            return Err(format!("{path} was removed"));
        }
        match files::status_of_path(&self.source.path) {
            Ok(status) if status.identity == self.source.identity => Ok(()),
            Ok(_) => Err(format!("{path} is another directory than at the start: replaced, unmounted or mounted over")),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }

    fn run(
        &self,
        run: &Run,
        missing_args: bool,
        bytes: u64,
        around: &mut Surroundings<'_>,
    ) -> Result<Verdict, Trouble> {
        if (around.urgency)() != Urgency::None {
            return Err(stopping());
        }
        self.check_source().map_err(held)?;
        let number = self.root.number();
        let arguments = command::arguments(&self.transport, &self.source.filter, run, missing_args, number);
        let deadline = deadline(&self.transport, run.entries.len(), bytes);
        let finished = around
            .supervisor
            .run(&self.transport, &arguments, &command::list(run), deadline, around.urgency)
            .map_err(|error| Trouble {
                cause: "local_resources",
                remedy: TroubleRemedy::Pause(Pace::Normal),
                words: format!("cannot start rsync: {error}"),
                hint: None,
            })?;
        self.judge(run, &finished)
    }

    fn judge(&self, run: &Run, finished: &Finished) -> Result<Verdict, Trouble> {
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

fn deadline(transport: &Transport, entries: usize, bytes: u64) -> Instant {
    let waiting = transport.timeout * 2 + transport.connect_timeout + Duration::from_secs(60);
    let working = Duration::from_millis(20).saturating_mul(u32::try_from(entries).unwrap_or(u32::MAX));
    clock::now() + waiting + working + Duration::from_secs(bytes / SLOWEST_LINK)
}

fn held(words: String) -> Trouble {
    Trouble {
        cause: "source_missing",
        remedy: TroubleRemedy::HoldSource,
        words,
        hint: Some("nothing is sent or deleted until the same directory is back"),
    }
}

fn stopping() -> Trouble {
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
