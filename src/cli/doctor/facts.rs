//! Looking at the machine. What cannot be read is left out.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::findings::{Count, Facts, RootFacts, StateFacts, TargetFacts, shown};
use crate::cli::preflight::{self, Answer};
use crate::cli::report::Failure;
use crate::cli::run;
use crate::config::{Config, RootConfig, WatchBackend};
use crate::filter::Filter;
use crate::limits::{self, Allowance};
use crate::sys::fanotify::Fanotify;
use crate::sys::limits::{Limit, Proc};
use crate::sys::privileges::Privileges;
use crate::sys::{clock, files, mounts, usage};
use crate::watch::{self, Source};

/// Directories of these are looked at.
pub struct Subjects {
    /// Roots of the configuration, or as they would be.
    pub roots: Vec<RootConfig>,
    /// The configuration.
    pub config: Option<(Config, crate::config::Positions)>,
    /// The state folder, if it is known.
    pub state: Option<PathBuf>,
}

impl Subjects {
    /// Of the command line.
    ///
    /// # Errors
    /// A configuration that is wrong, or a path that cannot be looked at.
    pub fn new(paths: &[PathBuf], config: Option<&Path>) -> Result<Self, Failure> {
        let here = std::env::current_dir()?;
        let mut roots = Vec::new();
        for path in paths {
            let real = here.join(path).canonicalize().and_then(|real| files::open_root(&real).map(|_open| real));
            let real = real.map_err(|error| {
                let words =
                    format!("cannot look at {}: {error}; name a directory that this user may read", path.display());
                Failure::Failed(anyhow::anyhow!(words))
            })?;
            roots.push(RootConfig::new(shown(&real), real, Vec::new()));
        }
        let config = config.map(run::load).transpose()?;
        let mut state = (!paths.is_empty()).then(|| crate::cli::mirror::state_base().ok()).flatten();
        if let Some((config, _)) = &config {
            roots.extend(config.roots.iter().cloned());
            state = Some(config.state_dir.clone());
        }
        Ok(Self { roots, config, state })
    }
}

/// How long what is looked for.
pub struct Patience {
    /// Directories; `None`: not at all.
    pub count: Option<Duration>,
    /// What other processes hold.
    pub usage: Duration,
}

/// Gathers everything.
///
/// # Errors
/// When a target cannot even be asked.
pub fn gather(subjects: &Subjects, proc: &Proc, patience: &Patience) -> Result<Facts, Failure> {
    let program = subjects.config.as_ref().map_or_else(|| PathBuf::from("rsync"), |(config, _)| config.rsync.clone());
    let privileges = Privileges::of_self(proc).ok();
    let until = clock::now() + patience.usage;
    let usage = privileges.and_then(|privileges| usage::of_user(proc, privileges.user, "fansync", until).ok());
    let rsync = match preflight::check_rsync(&program) {
        Err(Failure::Wrong(texts)) => Err(texts.join("; ")),
        Err(other) => return Err(other),
        Ok(()) => crate::worker::ship::version(&program).map_err(|error| error.to_string()),
    };
    let raises = subjects.config.as_ref().is_some_and(|(config, _)| config.tunables.raise);
    let most = Allowance::of_machine(proc.clone(), raises).most();
    let deadline = patience.count.map(|count| clock::now() + count);
    let roots: Vec<RootFacts> = subjects.roots.iter().filter_map(|root| root_facts(root, deadline, most)).collect();
    let mut configuration = Vec::new();
    let mut targets = Vec::new();
    if let Some((config, positions)) = &subjects.config {
        match preflight::check_environment(config, Some(positions)) {
            Err(Failure::Wrong(texts)) => configuration = texts,
            other => other?,
        }
        if configuration.is_empty() && rsync.is_ok() {
            targets = preflight::ask_targets(&preflight::setups(config)?)?;
        }
    }
    Ok(Facts {
        kernel: std::fs::read_to_string(proc.join("sys/kernel/osrelease")).ok().map(|text| text.trim().to_owned()),
        limits: Limit::ALL.into_iter().filter_map(|limit| Some((limit, proc.limit(limit).ok()?))).collect(),
        budget: limits::budget_of_machine(proc),
        usage,
        privileges,
        descriptors: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        synchronised: clock::is_synchronised().ok(),
        rsync,
        state: subjects.state.as_ref().map(|state| state_facts(state, &subjects.roots)),
        roots,
        configuration,
        targets: targets.into_iter().map(|(name, answer)| (name, said(answer))).collect(),
        program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("fansync")),
    })
}

fn said(answer: Answer) -> TargetFacts {
    match answer {
        Answer::Well(None) => TargetFacts::Well,
        Answer::Well(Some(why)) => TargetFacts::Late(why),
        Answer::Away(words) => TargetFacts::Away(words),
        Answer::Refuses(words) => TargetFacts::Refuses(words),
    }
}

/// Directories of all roots together, until `deadline`.
pub fn count_all(roots: &[RootConfig], deadline: Instant) -> std::io::Result<watch::Count> {
    let mut all = watch::Count { complete: true, ..watch::Count::default() };
    for root in roots {
        let one = count_of(root, deadline)?;
        all.directories += one.directories;
        all.unreadable += one.unreadable;
        all.complete &= one.complete;
    }
    Ok(all)
}

fn count_of(root: &RootConfig, deadline: Instant) -> std::io::Result<watch::Count> {
    watch::count(&root.path, &filter_of(root), root.one_file_system, deadline)
}

/// Rules that are wrong were refused by the configuration.
fn filter_of(root: &RootConfig) -> Filter {
    Filter::new(&root.filters, root.default_filters).unwrap_or_else(|_| Filter::none())
}

/// `None`: it cannot be opened, of which the configuration's problems tell.
fn root_facts(root: &RootConfig, deadline: Option<Instant>, most: u64) -> Option<RootFacts> {
    let filter = filter_of(root);
    let source = Source::open(&root.name, root.path.clone(), root.one_file_system, filter.clone()).ok()?;
    let choice = watch::choose(&source, preflight::asked(root.watch), most);
    let mount = mounts::mount_of(&source.root).and_then(mounts::describe).ok().flatten();
    let (kind, options) =
        mount.map_or_else(|| ("an unknown file system".to_owned(), Vec::new()), |mount| (mount.kind, mount.options));
    let counted = deadline.and_then(|deadline| count_of(root, deadline).ok());
    let lanes = root.targets.iter().map(|target| u64::from(target.lanes)).sum();
    Some(RootFacts {
        path: shown(&root.path),
        kind,
        options,
        ctimes_tell: source.ctimes_tell,
        whole_seconds: has_whole_seconds(&source.root).unwrap_or(false),
        count: counted.map(|count| Count {
            directories: count.directories,
            unreadable: count.unreadable,
            complete: count.complete,
        }),
        shards: u64::from(root.shards.unwrap_or_else(preflight::default_shards)),
        lanes,
        fanotify: Fanotify::probe(&source.root).map_err(|error| error.explained()),
        backend: choice.backend,
        reason: choice.reason,
        asks_fanotify: root.watch == WatchBackend::Fanotify,
    })
}

/// Entries of a root that are looked at for the grain of their stamps.
const STAMPS_MAX: usize = 64;

/// So many entries whose stamps are all of whole seconds are no chance.
const STAMPS_MIN: usize = 4;

/// Whether the stamps of what lies in the directory are all of whole seconds.
fn has_whole_seconds(directory: &std::os::fd::OwnedFd) -> std::io::Result<bool> {
    let (mut seen, mut whole) = (0, true);
    files::list(directory, |name, _, _| {
        if seen < STAMPS_MAX
            && let Ok(status) = files::status_at(directory.as_fd(), name)
        {
            seen += 1;
            whole &= status.changed.0 % 1_000_000_000 == 0;
        }
    })?;
    Ok(whole && seen >= STAMPS_MIN)
}

fn state_facts(state: &Path, roots: &[RootConfig]) -> StateFacts {
    // What is there of it.
    let there = state.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    let device = |path: &Path| files::status_of_path(path).ok().map(|status| status.identity.device);
    let real = there.canonicalize().unwrap_or_else(|_| there.to_path_buf());
    let beside = roots.iter().filter(|root| device(&root.path).is_some() && device(&root.path) == device(there));
    StateFacts {
        path: shown(state),
        exists: there == state,
        writable,
        free: rustix::fs::statvfs(there).map_or(0, |room| room.f_bavail.saturating_mul(room.f_frsize)),
        local: files::open_root(there).and_then(files::ctimes_tell).unwrap_or(true),
        inside: roots.iter().find(|root| real.starts_with(&root.path)).map(|root| shown(&root.path)),
        beside: beside.map(|root| shown(&root.path)).collect(),
    }
}
