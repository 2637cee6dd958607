//! A draft on its way: look at its paths, plan its runs, run them, say what is on the target now.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cause::{self, Cause, Remedy};
use super::command::{self, Transport};
use super::complaint::{Names, PathCause, Standing};
use super::outcome::{self, Applied, Exit, Run as Ended, Verdict};
use super::run::{Finished, SHIM_NOT_RUN, Stop, Supervisor, Urgency};
use crate::change::{Content, Draft, DraftMark, MarkKind, Priority};
use crate::dispatch::{Conclusion, FailedMark, Outcome, Pace, Report, Trouble, TroubleRemedy, Why};
use crate::path::RelPath;
use crate::plan::{LinkTable, Look, Looker, Plan, PlanOptions, Run, Siblings, Sighting, SurveyLimits};
use crate::sys::child::{self, Inherited};
use crate::sys::clock;
use crate::sys::files::{self, EntryType};
use crate::target::Location;
use crate::watch::Source;

/// Bounds of one draft: a live one is as large as is efficient; a background one ends soon, because a live change
/// beneath it waits for it.
const LIVE: Bounds = Bounds { entries: 20_000, bytes: 64 * 1024 * 1024 };
const BACKGROUND: Bounds = Bounds { entries: 4_096, bytes: 32 * 1024 * 1024 };

struct Bounds {
    entries: usize,
    bytes: u64,
}

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
        let bounds = match draft.priority {
            Priority::Live => &LIVE,
            Priority::Background => &BACKGROUND,
        };
        let options =
            PlanOptions { large: self.large, bytes_max: bounds.bytes, entries_max: bounds.entries, missing_args };
        let sightings = self.sight(draft, bounds);
        let Plan { runs, marks, large, later, failed, search_links, bytes, directories, deletes: _ } =
            crate::plan::plan(draft, &sightings, &options);
        if search_links {
            (around.search_links)();
        }
        let mut failures = Failures::new(draft);
        let absent = |path: &RelPath| {
            draft
                .marks
                .binary_search_by(|mark| mark.path.cmp(path))
                .is_ok_and(|at| matches!(sightings[at].look, Look::Absent))
        };
        let mut aside = None;
        for (path, words) in failed {
            failures.add(&path, Why::Refused, &words);
        }
        if !(marks.is_empty() && large.is_empty() && later.is_empty()) {
            (around.seen)(Report::Seen { batch: draft.batch, marks, large, later });
        }
        tracing::trace!(root = self.source.name, batch = draft.batch.0, marks = ?draft.marks, ?runs, "planned");
        for run in &runs {
            let verdict = match self.run(run, missing_args, bytes, around) {
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
            match &verdict.applied {
                Applied::All => {}
                Applied::AllBut(failed) => {
                    // A full target: the paths wait, and so does everything else.
                    aside = trouble_of(&verdict).or(aside);
                    for failed in failed {
                        if failed.why == PathCause::Unsupported && absent(&failed.path) {
                            // A daemon that refuses the option takes the entry for a device that it cannot make, and
                            // deletes nothing (observed, 3.5.0).
                            aside = Some(no_missing_args(&verdict));
                            failures.add(&failed.path, Why::Raced, &failed.words);
                        } else {
                            failures.add_path(failed, self.source.filter.protects());
                        }
                    }
                }
                Applied::Unclear => {
                    return Conclusion {
                        trouble: trouble_of(&verdict),
                        outcome: Outcome::Unclear(verdict.words),
                        directories: 0,
                    };
                }
                Applied::Nothing => {
                    let trouble = trouble_of(&verdict).unwrap_or_else(|| Trouble {
                        cause: verdict.cause.name(),
                        remedy: TroubleRemedy::Pause(Pace::Soon),
                        words: verdict.words.clone(),
                        hint: verdict.cause.hint(),
                    });
                    let outcome = if verdict.cause.may_litter() { Outcome::Broken } else { Outcome::Nothing };
                    return Conclusion { outcome, ..nothing(trouble) };
                }
            }
        }
        Conclusion { outcome: Outcome::Done(failures.finish()), trouble: aside, directories }
    }

    /// Asks the target with an empty list; `None` when all is well.
    pub fn probe(&self, missing_args: bool, around: &mut Surroundings<'_>) -> Option<Trouble> {
        match self.run(&command::probe(), missing_args, 0, around) {
            Err(trouble) => Some(trouble),
            Ok(verdict) => match verdict.applied {
                Applied::All | Applied::AllBut(_) | Applied::Unclear => None,
                Applied::Nothing => trouble_of(&verdict),
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

    fn sight(&self, draft: &Draft, bounds: &Bounds) -> Vec<Sighting> {
        let mut looker = Looker::new(&self.source.root);
        let mut budget = bounds.entries;
        draft
            .marks
            .iter()
            .map(|mark| {
                let look = looker.look(&mark.path);
                let directory = matches!(&look, Look::Present(status) if status.entry_type == EntryType::Directory);
                let survey = (directory && matches!(mark.kind, MarkKind::Listing | MarkKind::Subtree))
                    .then(|| self.survey(draft, mark, bounds, &mut budget))
                    .flatten();
                Sighting {
                    excluded: matches!(&look, Look::Present(_))
                        && self.source.filter.excludes_within(&mark.path, directory),
                    siblings: self.siblings(mark, &look, survey.as_ref()),
                    look,
                    survey,
                }
            })
            .collect()
    }

    /// Other names of the inodes that the mark is about, or was about: an event tells of one name only.
    fn siblings(&self, mark: &DraftMark, look: &Look, survey: Option<&crate::plan::Survey>) -> Siblings {
        let mut links = self.links.lock();
        match (mark.kind, look, survey) {
            (MarkKind::Attributes, ..) => Siblings::default(),
            (MarkKind::Listing | MarkKind::Subtree, _, Some(survey)) => {
                // Whatever was compared without a hint of a write tells nothing of other names.
                let told = mark.content != Content::Compare;
                let mut siblings = Siblings::default();
                if told && mark.kind == MarkKind::Subtree {
                    siblings.others = links.forget_within(&mark.path);
                }
                for found in &survey.linked {
                    let known = links.note(&found.path, found.identity, found.links);
                    siblings.incomplete |= known.incomplete;
                    siblings.others.extend(known.others.into_iter().filter(|other| !other.is_within(&mark.path)));
                }
                siblings.others.sort_unstable();
                siblings.others.dedup();
                if told { siblings } else { Siblings::default() }
            }
            (_, Look::Present(status), _) if status.entry_type != EntryType::Directory => {
                links.note(&mark.path, status.identity, status.links)
            }
            (..) => Siblings { others: links.forget_within(&mark.path), incomplete: false },
        }
    }

    /// Surveys a directory of the draft. Once the draft's budget is used up the rest is not looked at: its survey says
    /// that it does not fit, and the plan leaves it for later.
    fn survey(
        &self,
        draft: &Draft,
        mark: &DraftMark,
        bounds: &Bounds,
        budget: &mut usize,
    ) -> Option<crate::plan::Survey> {
        if *budget == 0 {
            return Some(crate::plan::Survey { entries: usize::MAX / 2, ..crate::plan::Survey::default() });
        }
        let limits = SurveyLimits {
            entries_max: bounds.entries,
            bytes_max: bounds.bytes,
            large: self.large,
            since: match mark.content {
                Content::Since(since) => Some(since),
                Content::Compare | Content::Resend => None,
            },
            device: self.source.one_file_system.then_some(self.source.device),
        };
        let recurse = mark.kind == MarkKind::Subtree;
        let survey = crate::plan::survey(&self.source.root, &mark.path, recurse, &self.source.filter, &limits).ok()?;
        *budget = budget.saturating_sub(survey.entries);
        tracing::trace!(root = self.source.name, batch = draft.batch.0, path = %mark.path, survey.entries, "surveyed");
        Some(survey)
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
        let descriptor = format!("/proc/self/fd/{}/", self.root.number());
        let configured = {
            let mut bytes = std::os::unix::ffi::OsStrExt::as_bytes(self.source.path.as_os_str()).to_vec();
            if bytes.last() != Some(&b'/') {
                bytes.push(b'/');
            }
            bytes
        };
        let (module_sub, destination_prefix) = match &self.transport.location {
            Location::Local(_) => (&b""[..], Some(self.transport.location.argument())),
            Location::Daemon(address) => (address.sub.as_slice(), None),
        };
        let entries: BTreeSet<&RelPath> = run.entries.iter().map(|(path, _)| path).collect();
        let standing = |path: &RelPath| {
            if within(&entries, path) {
                Standing::Within
            } else if first_beneath(&entries, path) {
                Standing::Above
            } else {
                Standing::Elsewhere
            }
        };
        Ok(outcome::judge(
            &Ended { exit, stdout: &finished.stdout, stderr: &finished.stderr, output_cut: finished.output_cut },
            &Names {
                source_prefixes: &[descriptor.as_bytes(), &configured],
                module_sub,
                destination_prefix: destination_prefix.as_deref().map(std::os::unix::ffi::OsStrExt::as_bytes),
                standing: &standing,
            },
        ))
    }
}

/// Whether `path` is one of `paths` or beneath one.
fn within(paths: &BTreeSet<&RelPath>, path: &RelPath) -> bool {
    let mut at = Some(path.clone());
    while let Some(here) = at {
        if paths.contains(&here) {
            return true;
        }
        at = here.parent();
    }
    false
}

/// The paths at or beneath `path`.
fn beneath<'a>(paths: &'a BTreeSet<&'a RelPath>, path: &'a RelPath) -> impl Iterator<Item = &'a RelPath> {
    // In order of bytes, names like `a-b` stand between `a` and `a/b`, so the run is cut by prefix, not by component.
    paths
        .range::<&RelPath, _>(path..)
        .take_while(|other| other.as_bytes().starts_with(path.as_bytes()))
        .filter(|other| other.is_within(path))
        .copied()
}

fn first_beneath(paths: &BTreeSet<&RelPath>, path: &RelPath) -> bool {
    beneath(paths, path).next().is_some()
}

fn deadline(transport: &Transport, entries: usize, bytes: u64) -> Instant {
    let waiting = transport.timeout * 2 + transport.connect_timeout + Duration::from_secs(60);
    let working = Duration::from_millis(20).saturating_mul(u32::try_from(entries).unwrap_or(u32::MAX));
    clock::now() + waiting + working + Duration::from_secs(bytes / SLOWEST_LINK)
}

fn nothing(trouble: Trouble) -> Conclusion {
    Conclusion { outcome: Outcome::Nothing, trouble: Some(trouble), directories: 0 }
}

fn held(words: String) -> Trouble {
    Trouble {
        cause: "source_missing",
        remedy: TroubleRemedy::HoldSource,
        words,
        hint: Some("nothing is sent or deleted until the same directory is back"),
    }
}

fn no_missing_args(verdict: &Verdict) -> Trouble {
    Trouble {
        cause: Cause::MissingArgsUnsupported.name(),
        remedy: TroubleRemedy::DropMissingArgs,
        words: verdict.words.clone(),
        hint: Cause::MissingArgsUnsupported.hint(),
    }
}

fn stopping() -> Trouble {
    Trouble { cause: "stopping", remedy: TroubleRemedy::Stopping, words: String::new(), hint: None }
}

fn trouble_of(verdict: &Verdict) -> Option<Trouble> {
    let remedy = match verdict.remedy {
        Remedy::Nothing | Remedy::RetryPaths | Remedy::Halve => return None,
        Remedy::RetryBatch => TroubleRemedy::Pause(Pace::Soon),
        Remedy::PauseTarget { .. } if verdict.cause == Cause::TargetFull => TroubleRemedy::PauseFull,
        Remedy::PauseTarget { pace: cause::Pace::Soon } => TroubleRemedy::Pause(Pace::Soon),
        Remedy::PauseTarget { pace: cause::Pace::Normal } => TroubleRemedy::Pause(Pace::Normal),
        Remedy::PauseTarget { pace: cause::Pace::Slow } | Remedy::StopTarget => TroubleRemedy::Pause(Pace::Slow),
        Remedy::DropMissingArgs => TroubleRemedy::DropMissingArgs,
        Remedy::Probe => TroubleRemedy::Pause(Pace::Now),
        Remedy::HoldSource => TroubleRemedy::HoldSource,
    };
    Some(Trouble { cause: verdict.cause.name(), remedy, words: verdict.words.clone(), hint: verdict.cause.hint() })
}

/// Failed paths as marks of the draft.
struct Failures<'a> {
    marks: BTreeSet<&'a RelPath>,
    failed: std::collections::BTreeMap<RelPath, FailedMark>,
}

impl<'a> Failures<'a> {
    fn new(draft: &'a Draft) -> Self {
        Self { marks: draft.marks.iter().map(|mark| &mark.path).collect(), failed: std::collections::BTreeMap::new() }
    }

    fn add_path(&mut self, failed: &outcome::Failed, rules_protect: bool) {
        let why = match failed.why {
            PathCause::Vanished | PathCause::Raced => Why::Raced,
            // What the rules exclude keeps a directory alive that is gone from the source: as rsync -r does it.
            PathCause::NotDeleted if rules_protect => return,
            _ => Why::Refused,
        };
        if !failed.contents && !self.covers(&failed.path) {
            // Only attributes of a directory above the entries: they are on the target, but the operator shall know.
            return self.insert(failed.path.clone(), why, &failed.words);
        }
        self.add(&failed.path, why, &failed.words);
    }

    fn covers(&self, path: &RelPath) -> bool {
        within(&self.marks, path)
    }

    /// The mark that asked for `path`: its own, or the nearest above it, or else those beneath it.
    fn add(&mut self, path: &RelPath, why: Why, words: &str) {
        let mut at = Some(path.clone());
        while let Some(here) = at {
            if self.marks.contains(&here) {
                return self.insert(here, why, words);
            }
            at = here.parent();
        }
        let beneath: Vec<RelPath> = beneath(&self.marks, path).cloned().collect();
        for mark in beneath {
            self.insert(mark, why, words);
        }
    }

    fn insert(&mut self, path: RelPath, why: Why, words: &str) {
        let failed = FailedMark { path: path.clone(), why, words: words.to_owned() };
        let entry = self.failed.entry(path).or_insert(failed);
        if why == Why::Refused {
            entry.why = why;
        }
    }

    fn finish(self) -> Vec<FailedMark> {
        self.failed.into_values().collect()
    }
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
