//! `fansync mirror SRC TARGET...`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::preflight::{self, Answer};
use super::report::Failure;
use super::serve;
use crate::config::{Config, DeleteMode, HoldOver, RootConfig, TargetConfig, Tunables, WatchBackend};
use crate::target::{Location, SshOptions};

/// Arguments of `mirror`.
#[derive(Debug, clap::Args)]
pub struct MirrorArguments {
    /// The directory to mirror
    source: PathBuf,
    /// Where to: DIR, rsync://[user@]host[:port]/module[/sub], host::module[/sub] or, by ssh, [user@]host:DIR
    #[arg(required = true)]
    targets: Vec<OsString>,
    /// File with the daemon's password on its first line (mode 0600)
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// How much each target is sent in a second, such as 10MiB/s; by the hour: see 'bandwidth' in the configuration
    #[arg(long, value_name = "RATE", value_parser = crate::config::rate_argument)]
    bandwidth: Option<u64>,
    /// Option for ssh, as in ssh_config(5), such as Port=2222 or IdentityFile=/path; may be repeated, for all ssh targets
    #[arg(long = "ssh-option", value_name = "KEY=VALUE", value_parser = ssh_option)]
    ssh_options: Vec<String>,
    /// Filter rule in rsync's syntax, such as '- *.tmp'; may be repeated, the first match wins
    #[arg(long = "filter", value_name = "RULE", allow_hyphen_values = true)]
    filters: Vec<OsString>,
    /// Also send .nfs* names and temporary files of an rsync that writes into the source
    #[arg(long)]
    no_default_filters: bool,
    /// By what the kernel tells of changes; auto takes a fanotify mark for large roots and whole file systems (needs root)
    #[arg(long, value_enum, default_value_t = WatchArgument::Auto)]
    watch: WatchArgument,
    /// Watch and send other file systems that are mounted inside the source
    #[arg(long)]
    cross_file_systems: bool,
    /// rsync processes per target at the same time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    lanes: u16,
    /// rsyncs per daemon that are connected and wait for changes; 0 turns it off
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=16))]
    warm: u16,
    /// Say what would be sent and deleted, once, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// What happens to files that are on a target only
    #[arg(long, value_enum, default_value_t = DeleteArgument::Mirror)]
    delete: DeleteArgument,
    /// Hold deletes, until 'fansync approve', beyond so many within a minute (and beyond a tenth of the tree)
    #[arg(long, value_name = "PATHS", default_value_t = HoldOver::default().paths)]
    hold_over: u32,
    /// inotify instances (default: the number of cores, at most 4)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: Option<u16>,
    /// Seconds without a byte before a transfer is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Folder for the lock and the agent's state (default: below $XDG_STATE_HOME or ~/.local/state)
    #[arg(long, value_name = "DIR", conflicts_with = "no_state")]
    state: Option<PathBuf>,
    /// Keep no state and take no lock
    #[arg(long)]
    no_state: bool,
    /// Raise the kernel's limits on inotify and fanotify when they are low, and when watches run out (needs root)
    #[arg(long)]
    raise_limits: bool,
    /// The rsync program
    #[arg(long, value_name = "PROGRAM", default_value = "rsync")]
    rsync: PathBuf,
}

/// By what the kernel tells of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WatchArgument {
    /// What suits the source
    Auto,
    /// inotify, a watch per directory
    Inotify,
    /// fanotify, one mark on the file system; inotify where that is not possible
    Fanotify,
}

/// What happens to files that are on a target only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DeleteArgument {
    /// Delete them
    Mirror,
    /// Keep them: nothing is ever deleted
    Keep,
}

/// Runs the mirror until it is stopped.
pub fn mirror(arguments: &MirrorArguments) -> Result<(), Failure> {
    let here = std::env::current_dir()?;
    let config = config(arguments, &here)?;
    preflight::check_rsync(&config.rsync)?;
    preflight::check_environment(&config, None)?;
    let setups = preflight::setups(&config)?;
    if arguments.dry_run {
        return super::dry_run::dry_run(&setups);
    }
    let state = (!arguments.no_state).then_some(config.state_dir.as_path());
    let _lock = state.map(serve::lock_state).transpose()?;
    let mut refusals = Vec::new();
    for (_, answer) in preflight::ask_targets(&setups)? {
        match answer {
            Answer::Well(_) => {}
            Answer::Away(text) => tracing::warn!("{text}: changes are kept until it is back"),
            Answer::Refuses(text) => refusals.push(text),
        }
    }
    if !refusals.is_empty() {
        return Err(Failure::Wrong(refusals));
    }
    let allowance = preflight::allowance(arguments.raise_limits, &setups);
    serve::serve(setups, state, allowance, config.processes)
}

fn config(arguments: &MirrorArguments, here: &Path) -> Result<Config, Failure> {
    let path = here.join(&arguments.source);
    let path = path.canonicalize().map_err(|error| {
        Failure::wrong(format!("cannot mirror {}: {error}; name an existing directory", arguments.source.display()))
    })?;
    let mut problems = Vec::new();
    let mut targets: Vec<TargetConfig> = Vec::new();
    for text in &arguments.targets {
        match Location::parse(text.as_bytes(), here) {
            Ok(location) => {
                if targets.iter().any(|other| other.location == location) {
                    problems.push(format!("target {location} is given twice; name it once"));
                }
                let mut target = TargetConfig::new(location.to_string(), location.clone());
                if matches!(location, Location::Daemon(_)) {
                    target.password_file.clone_from(&arguments.password_file);
                }
                if matches!(location, Location::Ssh(_)) {
                    target.ssh = SshOptions { options: arguments.ssh_options.clone(), ..SshOptions::default() };
                }
                target.bandwidth = arguments.bandwidth.map(crate::bandwidth::Bandwidth::always);
                target.lanes = arguments.lanes;
                // No lane can keep more than one.
                target.warm = arguments.warm.min(arguments.lanes) * crate::config::warm_default(&location);
                target.timeout = std::time::Duration::from_secs(arguments.timeout);
                targets.push(target);
            }
            Err(error) => {
                problems.push(format!("target '{}': {error}", crate::path::escaped(text.as_bytes())));
            }
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Wrong(problems));
    }
    let state_dir = match &arguments.state {
        Some(state) => here.join(state),
        None if arguments.no_state => PathBuf::new(),
        None => default_state(&path, &targets)?,
    };
    let name = path.file_name().map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned());
    let mut root = RootConfig::new(name, path, targets);
    root.filters = arguments.filters.iter().map(|rule| rule.as_bytes().to_vec()).collect();
    root.default_filters = !arguments.no_default_filters;
    root.one_file_system = !arguments.cross_file_systems;
    root.shards = arguments.shards;
    root.watch = match arguments.watch {
        WatchArgument::Auto => WatchBackend::Auto,
        WatchArgument::Inotify => WatchBackend::Inotify,
        WatchArgument::Fanotify => WatchBackend::Fanotify,
    };
    root.delete.hold_over.paths = arguments.hold_over;
    root.delete.mode = match arguments.delete {
        DeleteArgument::Mirror => DeleteMode::Mirror,
        DeleteArgument::Keep => DeleteMode::Keep,
    };
    let mut config =
        Config { state_dir, tunables: Tunables::default(), rsync: arguments.rsync.clone(), ..Config::default() };
    config.roots.push(root);
    Ok(config)
}

fn ssh_option(text: &str) -> Result<String, crate::target::SshOptionError> {
    SshOptions::check_option(text).map(|()| text.to_owned())
}

/// The state folder of a source and its targets: the same command line finds the same folder.
fn default_state(source: &Path, targets: &[TargetConfig]) -> Result<PathBuf, Failure> {
    let base = state_base()?;
    let locations: Vec<OsString> = targets.iter().map(|target| target.location.argument()).collect();
    let texts = std::iter::once(source.as_os_str()).chain(locations.iter().map(OsString::as_os_str));
    let hash = crate::checkpoint::fingerprint(texts.map(OsStr::as_bytes));
    Ok(base.join(format!("{hash:016x}")))
}

/// Where the state folders of a user's mirrors are.
pub fn state_base() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("fansync"))
        .ok_or_else(|| Failure::wrong("neither XDG_STATE_HOME nor HOME is set: use --state DIR or --no-state"))
}
