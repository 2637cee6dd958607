//! The configuration: what the YAML file says, checked.
//!
//! [`Config`] as it comes out of [`Config::parse`] cannot be invalid; everything that is wrong in a file is said at
//! once, each with line, column and key. Parsing touches nothing but the text; what the machine has to say
//! (missing directories, password files) is [`check_environment`], run at start.
//!
//! This file holds the types, their defaults and their ranges. `raw` reads YAML into located nodes, `check` turns
//! nodes into a `Config`, `effective` writes one back, `amount` knows durations and sizes.
//!
//! Left out until they exist: poll watching, `metrics`, `full_compare`. Their keys are refused as such, not taken for misspellings.

mod amount;
mod check;
mod complaint;
mod effective;
mod environment;
mod password;
mod raw;

pub use amount::{duration_argument, rate_argument, rate_text};
pub use complaint::{Complaint, ConfigErrors, Positions};
pub use environment::{EnvironmentProblem, Place, check_environment};
pub use password::{PasswordFileError, check_password_file};

use crate::bandwidth::Bandwidth;
use crate::target::{Location, SshOptions};
pub use crate::worker::link::When;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Default of [`Config::state_dir`]. Source: file-hierarchy(7), "/var/lib/".
pub const STATE_DIR_DEFAULT: &str = "/var/lib/fansync";
/// Default of [`Config::rsync`].
pub const RSYNC_DEFAULT: &str = "rsync";
/// Characters in a name. Why 128: names become file names in `state_dir` and labels of metrics.
pub const NAME_LENGTH_MAX: usize = 128;
/// Range of [`RootConfig::shards`]. Why 64: each shard is a thread and an inotify instance, of which a user has 128.
pub const SHARDS: RangeInclusive<u16> = 1..=64;
/// Range of [`RootConfig::shard_depth`]. Why 4: deeper, there is nothing left to deal, and one shard watches all above.
pub const SHARD_DEPTH: RangeInclusive<u16> = 1..=4;
/// Targets of one root: what a [`crate::target::TargetId`] counts.
pub const TARGETS_MAX: usize = u16::MAX as usize;
/// Range of [`Settle::quiet`] and [`Settle::quiet_open`].
pub const QUIET: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);
/// Default of [`Settle::quiet_open`] on roots that are exported by NFS: there a close is never seen.
pub const QUIET_OPEN_NFS: Duration = Duration::from_secs(5);
/// Range of [`Settle::max`].
pub const SETTLE_MAX: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);
/// Range of [`TargetConfig::lanes`].
pub const LANES: RangeInclusive<u16> = 1..=16;
/// Range of [`TargetConfig::warm`], which is no more than its lanes either.
pub const WARM: RangeInclusive<u16> = 0..=16;
/// Range of [`TargetConfig::timeout`] and [`TargetConfig::connect_timeout`]; both in whole seconds, as rsync(1) takes them.
pub const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
/// Range of the port of an ssh target.
pub const SSH_PORT: RangeInclusive<u16> = 1..=u16::MAX;
/// Range of [`TargetConfig::large_file`]. Unit: bytes.
pub const LARGE_FILE: RangeInclusive<u64> = (4 << 10)..=(1 << 40);
/// Range of [`Delete::release_after`].
pub const RELEASE_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(31 * 86_400);
/// Range of [`HoldOver::paths`]. Unit: names.
pub const HOLD_OVER_PATHS: RangeInclusive<u32> = 0..=u32::MAX;
/// Range of [`HoldOver::percent`].
pub const PERCENT: RangeInclusive<u32> = 0..=100;
/// Range of [`Config::processes`]. Why from 2: while a large file is sent, small ones go too.
pub const PROCESSES: RangeInclusive<u16> = 2..=4096;
/// Default of [`Config::processes`].
pub const PROCESSES_DEFAULT: u16 = 64;
/// Range of a limit in [`TargetConfig::bandwidth`]. Unit: bytes per second. Why 64 KiB: rsync counts in KiB, and up to 16 lanes
/// share a quarter of it while a large file is sent.
pub const BANDWIDTH: RangeInclusive<u64> = (64 << 10)..=(1 << 40);
/// Range of [`TargetConfig::backlog`]. Unit: marks.
pub const BACKLOG: RangeInclusive<u32> = 1_000..=10_000_000;

/// All that the agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where checkpoints are kept. An absolute directory. Default: [`STATE_DIR_DEFAULT`].
    pub state_dir: PathBuf,
    /// What the agent may change in the kernel.
    pub tunables: Tunables,
    /// The rsync program: an absolute path, or a bare name to be found on `PATH`. Default: [`RSYNC_DEFAULT`].
    pub rsync: PathBuf,
    /// rsyncs at the same time, over all targets of all roots. Range: [`PROCESSES`]. Default: 64.
    pub processes: u16,
    /// What is watched. At least one; names and paths differ, and no path lies inside another.
    pub roots: Vec<RootConfig>,
}

/// What the agent may change in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunables {
    /// Raise the kernel's limits on inotify and fanotify at the start, when they are low and the agent may, and the one on
    /// watches when it is used up.
    /// Default: true.
    pub raise: bool,
}

/// One watched directory and where it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootConfig {
    /// Its name in logs, metrics and commands: `[A-Za-z0-9_.-]+`, at most [`NAME_LENGTH_MAX`] characters, not `.` or
    /// `..`. Default: the last component of `path`.
    pub name: String,
    /// The directory. Absolute, without `.` and `..`.
    pub path: PathBuf,
    /// How it is watched. Default: `auto`.
    pub watch: WatchBackend,
    /// rsync filter rules, the first match wins. Default: none.
    pub filters: Vec<Vec<u8>>,
    /// Whether the built-in rules for temporary files apply after `filters`. Default: true.
    pub default_filters: bool,
    /// Directories whose events the kernel shall not report to a fanotify mark, because much goes on there that is of no
    /// interest. Absolute, outside of `path`, on the same file system; each by itself, not what lies beneath. Default: none.
    pub noisy: Vec<PathBuf>,
    /// Whether mounts below `path` are left out. Default: true (rsync(1), `--one-file-system`).
    pub one_file_system: bool,
    /// What happens to files that are on a target only.
    pub delete: Delete,
    /// Threads that watch this root. Range: [`SHARDS`]. Default: min(4, cores), decided at start.
    pub shards: Option<u16>,
    /// How deep the directories lie that are dealt to the shards: 1 are those in `path` itself. Range: [`SHARD_DEPTH`].
    /// Default: 1.
    pub shard_depth: u16,
    /// How long a changed path must be quiet before it is sent.
    pub settle: Settle,
    /// Whether NFS clients write here, whose closes the kernel does not report: raises the default of
    /// `settle.quiet_open` to [`QUIET_OPEN_NFS`]. Default: false.
    pub nfs_exported: bool,
    /// Where it is sent. 1..=[`TARGETS_MAX`]; names and locations differ.
    pub targets: Vec<TargetConfig>,
}

/// How a root is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WatchBackend {
    /// The best that the kernel and our privileges allow.
    #[default]
    Auto,
    /// inotify(7), a watch per directory.
    Inotify,
    /// fanotify(7), one mark on the file system; inotify where that is not possible.
    Fanotify,
}

/// What happens to files that are on a target only. Written as a mode, or as `{mode: mirror, hold_over: {paths: 1000}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delete {
    /// Default: `mirror`.
    pub mode: DeleteMode,
    /// How many deletes within a minute have to be approved.
    pub hold_over: HoldOver,
    /// How long such deletes are held if nobody approves them. Range: [`RELEASE_AFTER`]. Default: for ever.
    pub release_after: Option<Duration>,
}

/// What happens to files that are on a target only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeleteMode {
    /// They are deleted, unless a filter protects them.
    #[default]
    Mirror,
    /// Nothing is ever deleted.
    Keep,
}

/// More deletes of one target than the larger of both, within a minute, are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldOver {
    /// Names. Default: 1000. Zero, and `percent` zero: every delete is held.
    pub paths: u32,
    /// Of the entries that are known under the root. Range: [`PERCENT`]. Default: 10.
    pub percent: u32,
}

impl Default for HoldOver {
    fn default() -> Self {
        Self { paths: 1_000, percent: 10 }
    }
}

/// How long a changed path must be quiet before it is sent. `quiet` ≤ `quiet_open` ≤ `max`; whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// Quiet time after a close. Range: [`QUIET`]. Default: 200 ms.
    pub quiet: Duration,
    /// Quiet time while a file is open for writing. Range: [`QUIET`]. Default: 2 s, or [`QUIET_OPEN_NFS`].
    pub quiet_open: Duration,
    /// After this time a path is sent although it is not quiet. Range: [`SETTLE_MAX`]. Default: 30 s.
    pub max: Duration,
}

/// One place that a root is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// Its name in logs, metrics and commands, under the rules of [`RootConfig::name`]. Default: the host, or the
    /// last component of the directory.
    pub name: String,
    /// Where (key `url`). A local directory is absolute and neither holds the root nor lies in it.
    pub location: Location,
    /// File with the daemon's password on its first line, an absolute path; daemon targets only (rsync(1),
    /// `--password-file`). Default: none.
    pub password_file: Option<PathBuf>,
    /// Transfers at the same time. Range: [`LANES`]. Default: 3.
    pub lanes: u16,
    /// What ssh is told besides (key `ssh`: `port`, which becomes part of the location, `identity_file`, `known_hosts`, `options`).
    /// ssh targets only; what the user's own configuration of ssh says applies too. Default: nothing.
    pub ssh: SshOptions,
    /// rsyncs that are connected and wait for changes while there are changes now and then: each saves a change the time of
    /// a new connection, and takes one of the daemon's `max connections`. Daemon targets only. Range: [`WARM`], at most
    /// `lanes`. Default: 1; 0 turns it off.
    pub warm: u16,
    /// Whether data is compressed (rsync(1), `-z`): `auto`, `always` or `never`. `auto` does it on a way that was measured
    /// slower than 12 MB/s. Not for local targets. Default: `auto`.
    pub compress: When,
    /// Whether changed files are sent whole rather than as differences (rsync(1), `-W`): `auto`, `always` or `never`. `auto`
    /// sends files up to 1 MiB whole, on a way that was measured slower than 12 MB/s those up to 8 KiB. Default: `auto`.
    pub whole_file: When,
    /// rsync's `--timeout`: time without any I/O after which a transfer is given up. Range: [`TIMEOUT`]. Default: 60 s.
    pub timeout: Duration,
    /// rsync's `--contimeout`, or `ConnectTimeout` of ssh: time in which the other side must answer. Range: [`TIMEOUT`]. Default: 10 s.
    pub connect_timeout: Duration,
    /// Files from this size on have a lane of their own. Unit: bytes. Range: [`LARGE_FILE`]. Default: 8 MiB.
    pub large_file: u64,
    /// How much it is sent in a second, over all its lanes: a rate such as `50MiB/s`, `none`, or a list of
    /// `{from: "08:00", to: "18:00", days: [mon, tue], limit: 10MiB/s}`, of which the first that holds the local time counts; one
    /// without times holds always. With a limit no rsync is kept waiting (`warm`), and a local target gets nothing without rsync
    /// (`direct`). Range of each: [`BANDWIDTH`]. Default: no limit.
    pub bandwidth: Option<Bandwidth>,
    /// Marks that are kept for this target before they are widened. Range: [`BACKLOG`]. Default: 200,000.
    pub backlog: u32,
    /// Files, symlinks and directories are put in place by the agent itself, in a millisecond, and rsync is run for the rest
    /// only; local targets only. Default: yes, where `rsync` is [`RSYNC_DEFAULT`]; whoever names another program may mean
    /// it to see everything.
    pub direct: Option<bool>,
}

impl Default for Config {
    /// No roots yet, so it is the one `Config` that [`Config::parse`] would refuse; for runs without a file.
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from(STATE_DIR_DEFAULT),
            tunables: Tunables::default(),
            rsync: PathBuf::from(RSYNC_DEFAULT),
            processes: PROCESSES_DEFAULT,
            roots: Vec::new(),
        }
    }
}

impl Default for Tunables {
    fn default() -> Self {
        Self { raise: true }
    }
}

impl Default for Settle {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(200), quiet_open: Duration::from_secs(2), max: Duration::from_secs(30) }
    }
}

impl RootConfig {
    /// A root with the default of everything else.
    #[must_use]
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, targets: Vec<TargetConfig>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            watch: WatchBackend::default(),
            filters: Vec::new(),
            default_filters: true,
            noisy: Vec::new(),
            one_file_system: true,
            delete: Delete::default(),
            shards: None,
            shard_depth: 1,
            settle: Settle::default(),
            nfs_exported: false,
            targets,
        }
    }
}

impl TargetConfig {
    /// A target with the default of everything else.
    #[must_use]
    pub fn new(name: impl Into<String>, location: Location) -> Self {
        Self {
            name: name.into(),
            warm: warm_default(&location),
            location,
            password_file: None,
            ssh: SshOptions::default(),
            lanes: 3,
            compress: When::Auto,
            whole_file: When::Auto,
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            large_file: 8 << 20,
            bandwidth: None,
            backlog: 200_000,
            direct: None,
        }
    }
}

/// Default of [`TargetConfig::warm`].
#[must_use]
pub fn warm_default(location: &Location) -> u16 {
    u16::from(matches!(location, Location::Daemon(_)))
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}", .file.display())]
    Read {
        /// As named by the caller.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file was read and is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], or [`ConfigError::Invalid`] with everything that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_located(path).map(|(config, _)| config)
    }

    /// Like [`Config::load`], and says where each key stands, so that later complaints can point there.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load_located(path: &Path) -> Result<(Self, Positions), ConfigError> {
        let mut text = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(raw::FILE_SIZE_MAX as u64 + 1).read_to_end(&mut text))
            .map_err(|source| ConfigError::Read { file: path.to_path_buf(), source })?;
        Ok(check::check(&text, path, &check::filter_rule_complaints)?)
    }

    /// Checks `text`; `file` is only its name in messages.
    ///
    /// # Errors
    /// Everything that is wrong, sorted by position.
    pub fn parse(text: &[u8], file: &Path) -> Result<Self, ConfigErrors> {
        check::check(text, file, &check::filter_rule_complaints).map(|(config, _)| config)
    }
}
