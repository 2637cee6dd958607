//! Before the start: the configuration made into set-ups, the rsync program and the targets asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::report::Failure;
use crate::change::{CTIME_SLACK, SettleOptions};
use crate::checkpoint;
use crate::config::{Config, DeleteMode, RSYNC_DEFAULT, RootConfig, TargetConfig, WatchBackend};
use crate::daemon::{DeleteSetup, RootSetup, TargetSetup};
use crate::dispatch::{DeleteGuard, Haste, HoldOver};
use crate::filter::Filter;
use crate::limits::{self, Allowance, DIRECTORIES_AT_START, Needs, Step};
use crate::plan::LinkTable;
use crate::sys::child::Inherited;
use crate::sys::limits::{Limit, Raised};
use crate::target::Location;
use crate::watch::{Asked, Source};
use crate::worker::cause::Remedy;
use crate::worker::command::Transport;
use crate::worker::heat::Heat;
use crate::worker::link::{AcksView, Link, LinkOptions};
use crate::worker::outcome::Applied;
use crate::worker::run::{Supervisor, Urgency};
use crate::worker::ship::{self, Shipper, Surroundings};

/// The oldest rsync whose sender compares times to the nanosecond and deletes missing arguments.
const OLDEST: (u32, u32, u32) = (3, 1, 3);

/// Shards of a root where the configuration does not say: more isolate overflows, but do not read faster.
pub fn default_shards() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores.min(4)).unwrap_or(1)
}

/// Checks the rsync program.
pub fn check_rsync(program: &Path) -> Result<(), Failure> {
    let version = ship::version(program).map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "it is not installed, or not on PATH".to_owned(),
            _ => error.to_string(),
        };
        Failure::wrong(format!(
            "cannot run {}: {reason}; install rsync (apt-get install rsync), or name the program by --rsync, or by 'rsync:' \
             in the configuration",
            program.display()
        ))
    })?;
    match parse_version(&version) {
        Some(found) if found < OLDEST => Err(Failure::wrong(format!(
            "{} is version {version}; fansync needs rsync {}.{}.{} or later: install a newer one, or name it by \
             --rsync, or by 'rsync:' in the configuration",
            program.display(),
            OLDEST.0,
            OLDEST.1,
            OLDEST.2
        ))),
        Some(_) | None => Ok(()),
    }
}

/// What the agent's watches may hold. If it `raises`, the kernel's limits are raised as far as we may, which is said; that
/// must come before the first inotify instance or fanotify group: its queue has the size that is set then.
pub fn allowance(raises: bool, roots: &[RootSetup]) -> Allowance {
    let allowance = Allowance::of_machine(super::proc(), raises);
    if raises {
        raise_limits(&allowance, roots);
    }
    allowance
}

fn raise_limits(allowance: &Allowance, roots: &[RootSetup]) {
    let budget = allowance.budget().clone();
    let needs = Needs {
        // How many there are is known only when all are watched, which begins now.
        directories: DIRECTORIES_AT_START.min(budget.watches()),
        shards: roots.iter().map(|root| u64::from(root.shards)).sum(),
        roots: roots.len() as u64,
        budget,
        in_namespace: true,
    };
    for Step { limit, wanted, .. } in limits::steps(&needs).steps {
        let name = limit.sysctl();
        match allowance.proc().raise(limit, wanted) {
            Ok(Raised::Enough(_)) => {}
            Ok(Raised::From(before)) => tracing::info!("raised {name} from {before} to {wanted}"),
            Ok(Raised::Refused(now, error)) => {
                let words = format!("{name} is {now}, {wanted} is better, and it cannot be raised from here ({error})");
                // Of the others there may be enough: whatever runs out is told then.
                if matches!(limit, Limit::InotifyQueue | Limit::InotifyInstances) {
                    tracing::warn!("{words}: see fansync doctor, or sysctl/90-fansync.conf");
                } else {
                    tracing::debug!("{words}");
                }
            }
            // This kernel has no fanotify, or no limits on it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && limit != Limit::InotifyQueue => {}
            Err(error) => tracing::warn!("cannot read {name}: {error}"),
        }
    }
}

/// The first three numbers of a version such as `3.2.7` or `v3.4.1-2`; `None` when it has no such form.
pub fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let digits = text.trim_start_matches('v');
    let mut numbers = digits.split(|character: char| !character.is_ascii_digit()).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
}

/// What is wrong on this machine, all at once; without `positions` in words of the command line.
pub fn check_environment(config: &Config, positions: Option<&crate::config::Positions>) -> Result<(), Failure> {
    let mut problems: Vec<String> = crate::config::check_environment(config)
        .into_iter()
        .map(|mut problem| match positions {
            Some(positions) => problem.locate(positions).to_string(),
            None => {
                problem.key = argument_of(&problem.key).to_owned();
                problem.to_string()
            }
        })
        .collect();
    // One password file serves all targets of a command line.
    problems.dedup();
    if problems.is_empty() { Ok(()) } else { Err(Failure::Wrong(problems)) }
}

/// The argument of `mirror` that a configuration key stands for.
fn argument_of(key: &str) -> &str {
    match key.rsplit('.').next() {
        Some("path") => "source",
        Some("url") => "target",
        Some("password_file") => "--password-file",
        Some("identity_file" | "known_hosts") => "--ssh-option",
        Some(_) | None => key,
    }
}

/// The set-ups of a configuration's roots.
pub fn setups(config: &Config) -> Result<Vec<RootSetup>, Failure> {
    config
        .roots
        .iter()
        .map(|root| {
            let filter = Filter::new(&root.filters, root.default_filters)
                .map_err(|errors| Failure::Wrong(errors.iter().map(ToString::to_string).collect()))?;
            Ok(RootSetup {
                name: root.name.clone(),
                path: root.path.clone(),
                filter,
                one_file_system: root.one_file_system,
                watch: asked(root.watch),
                nfs_exported: root.nfs_exported,
                noisy: root.noisy.clone(),
                shards: root.shards.unwrap_or_else(default_shards),
                shard_depth: root.shard_depth,
                settle: SettleOptions {
                    quiet: root.settle.quiet,
                    quiet_open: root.settle.quiet_open,
                    max: root.settle.max,
                },
                slack: for_tests("FANSYNC_TEST_SLACK_MS").unwrap_or(CTIME_SLACK),
                unwatched_pause: for_tests("FANSYNC_TEST_UNWATCHED_MS"),
                haste: haste(),
                fingerprint: fingerprint(root),
                deletes: DeleteSetup {
                    keep: root.delete.mode == DeleteMode::Keep,
                    hold_over: HoldOver {
                        paths: root.delete.hold_over.paths.into(),
                        percent: root.delete.hold_over.percent.into(),
                    },
                    release_after: root.delete.release_after,
                },
                targets: root.targets.iter().map(|target| target_setup(config, root, target)).collect(),
            })
        })
        .collect()
}

/// What the configuration asks for.
pub fn asked(watch: WatchBackend) -> Asked {
    match watch {
        WatchBackend::Auto => Asked::Auto,
        WatchBackend::Inotify => Asked::Inotify,
        WatchBackend::Fanotify => Asked::Fanotify,
    }
}

/// Of all that decides what a target should hold.
fn fingerprint(root: &RootConfig) -> u64 {
    let options = format!("{} {} {:?}", root.default_filters, root.one_file_system, root.delete.mode);
    checkpoint::fingerprint(root.filters.iter().map(Vec::as_slice).chain([options.as_bytes()]))
}

/// A time in milliseconds from the environment, for tests of the whole agent, whose trees are younger than the slack of
/// rescans and who cannot wait for minutes.
fn for_tests(variable: &str) -> Option<Duration> {
    std::env::var(variable).ok()?.parse().ok().map(Duration::from_millis)
}

/// For tests of the whole agent `FANSYNC_TEST_HASTE` divides all pauses after a failure.
fn haste() -> Haste {
    let chosen = std::env::var("FANSYNC_TEST_HASTE").ok().and_then(|text| text.parse().ok());
    chosen.map_or(Haste::NONE, Haste)
}

fn target_setup(config: &Config, root: &RootConfig, target: &TargetConfig) -> TargetSetup {
    TargetSetup {
        name: target.name.clone(),
        transport: Transport {
            program: config.rsync.clone(),
            location: target.location.clone(),
            password_file: target.password_file.clone(),
            timeout: target.timeout,
            connect_timeout: target.connect_timeout,
            one_file_system: root.one_file_system,
            ssh: target.ssh.clone(),
            // Made by the agent; whoever only asks connects by itself.
            control: None,
        },
        lanes: target.lanes,
        link: LinkOptions {
            remote: !matches!(target.location, Location::Local(_)),
            // What it may send is known when it begins, which is not when it is started ahead.
            warm: if target.bandwidth.is_none() { target.warm } else { 0 },
            compress: target.compress,
            whole_file: target.whole_file,
        },
        large: target.large_file,
        backlog: usize::try_from(target.backlog).unwrap_or(usize::MAX),
        // What goes without rsync knows no limit.
        direct: target.direct.unwrap_or(config.rsync.as_os_str() == RSYNC_DEFAULT && target.bandwidth.is_none()),
        bandwidth: target.bandwidth.clone(),
    }
}

/// What a target said to an empty list.
#[derive(Debug)]
pub enum Answer {
    /// All is well. Why its replies cannot be acknowledged at once, if they cannot.
    Well(Option<String>),
    /// It cannot be reached, or cannot take anything, right now; that may pass by itself.
    Away(String),
    /// It refuses, and will until somebody changes something.
    Refuses(String),
}

/// Asks every target of every root, in order.
pub fn ask_targets(roots: &[RootSetup]) -> Result<Vec<(String, Answer)>, Failure> {
    let mut answers = Vec::new();
    for root in roots {
        let source = Source::open(&root.name, root.path.clone(), root.one_file_system, root.filter.clone())?;
        let inherited = Arc::new(Inherited::duplicate(&source.root)?);
        let source = Arc::new(source.keeping(root.deletes.keep));
        let mut supervisor = Supervisor::create()?;
        for target in &root.targets {
            let shipper = Shipper {
                source: Arc::clone(&source),
                root: Arc::clone(&inherited),
                links: Arc::new(Mutex::new(LinkTable::default())),
                transport: target.transport.clone(),
                large: target.large,
                guard: Arc::new(Mutex::new(DeleteGuard::new(root.deletes.hold_over))),
                backlog: target.backlog,
                direct: target.direct,
                link: Arc::new(Link::new(target.link)),
                throttle: None,
            };
            let mut around = Surroundings {
                supervisor: &mut supervisor,
                heat: &mut Heat::new(target.transport.timeout),
                urgency: &|| Urgency::None,
                seen: &mut |_report| {},
                search_links: &|| {},
            };
            let shown = shown(target);
            let answer = match shipper.ask(&mut around) {
                Err(trouble) => Answer::Away(sentence(&shown, trouble.cause, &trouble.words, trouble.hint)),
                Ok(verdict) if !matches!(verdict.applied, Applied::Nothing | Applied::EndedBy(_)) => {
                    Answer::Well(match shipper.link.view().acks {
                        Some(AcksView::Plain(why)) => Some(why),
                        Some(AcksView::Quick) | None => None,
                    })
                }
                Ok(verdict) => {
                    let text = sentence(&shown, verdict.cause.name(), &verdict.words, verdict.cause.hint());
                    if verdict.remedy == Remedy::StopTarget { Answer::Refuses(text) } else { Answer::Away(text) }
                }
            };
            answers.push((target.name.clone(), answer));
        }
    }
    Ok(answers)
}

/// A target by its name, and where it is: rsync's own words leave the port out.
fn shown(target: &TargetSetup) -> String {
    let location = target.transport.location.to_string();
    if location == target.name { location } else { format!("{} ({location})", target.name) }
}

fn sentence(target: &str, cause: &str, words: &str, hint: Option<&str>) -> String {
    let mut text = format!("target {target}: {}", cause.replace('_', " "));
    if !words.is_empty() {
        text.push_str(": ");
        text.push_str(words);
    }
    if let Some(hint) = hint {
        text.push_str("; ");
        text.push_str(hint);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_whatever_follows_them() {
        let check = |text: &str, expected| assert_eq!(parse_version(text), expected, "{text}");
        check("3.2.7", Some((3, 2, 7)));
        check("v3.4.1", Some((3, 4, 1)));
        check("3.5.0-protected-args", Some((3, 5, 0)));
        check("3.4", Some((3, 4, 0)));
        check("unknown", None);
    }
}
