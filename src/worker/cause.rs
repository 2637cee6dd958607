//! Why an rsync run ended as it did, and what happens next: one table, one row per cause.
//!
//! Invariant: a cause has one remedy, so metrics, log and lane never disagree. Observed with rsync 3.0.9 to 3.5.0.
//! Left out: how long a pace is and how often a retry is made; that is for the lane.

/// What happens after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// All is well.
    Nothing,
    /// Acknowledge the batch, keep the failed paths.
    RetryPaths,
    /// Send the whole batch again.
    RetryBatch,
    /// Send the batch again in two halves, so that the part at fault shows. A batch of one entry has failed.
    Halve,
    /// The target cannot take batches now; it will by itself.
    PauseTarget {
        /// How soon the next attempt is worth its cost.
        pace: Pace,
    },
    /// Somebody has to act: alert, and try again only rarely.
    StopTarget,
    /// Send deletes without `--delete-missing-args`, as one-level listings with `--delete`: the receiver cannot do it.
    DropMissingArgs,
    /// The cause is hidden: run the same command with an empty list, and judge that.
    Probe,
    /// The root is not there: send nothing until it has been checked.
    HoldSource,
}

/// How soon a paused target is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// A slot becomes free at any moment.
    Soon,
    /// The usual back-off.
    Normal,
    /// Something outside has to change first.
    Slow,
}

/// Why a run ended as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Exit 0, no marker.
    Applied,
    /// Some paths failed and rsync named them.
    PathsFailed,
    /// The only paths that failed vanished in the source.
    Vanished,
    /// Some paths failed; which ones cannot be told.
    PathsUnnamed,
    /// There was more output than we kept, so a complaint may be missing.
    OutputCut,
    /// An I/O error in the source made rsync leave out its deletes.
    DeletesSuppressed,
    /// `--max-delete` was reached.
    DeleteLimit,
    /// Nobody listens on the port, or the host cannot be reached.
    ConnectionRefused,
    /// The host's name has no address.
    NameUnresolved,
    /// The host did not answer within `--contimeout`.
    ConnectTimeout,
    /// The other side said nothing within `--timeout`.
    IoTimeout,
    /// The connection broke; the reason may have been lost with it.
    ConnectionLost,
    /// The daemon closed the connection before it accepted the module.
    StartCut,
    /// Something else listens on the port.
    NotRsync,
    /// The daemon has no such module.
    UnknownModule,
    /// The daemon cannot enter the module's directory.
    ModulePath,
    /// The daemon does not want this host.
    HostDenied,
    /// Wrong user or password.
    AuthFailed,
    /// The daemon wants a password and there is none.
    PasswordMissing,
    /// rsync does not accept the password file.
    PasswordFile,
    /// The daemon serves as many clients as it may.
    ConnectionLimit,
    /// The daemon refused for a reason that we do not know.
    DaemonRefused,
    /// The module is read only.
    ReadOnly,
    /// The daemon refuses an option that we send.
    OptionRefused,
    /// The other side's rsync is too old for an option that we send.
    OptionUnknown,
    /// The daemon's `pre-xfer exec` failed.
    HookFailed,
    /// The receiver cannot do `--delete-missing-args`.
    MissingArgsUnsupported,
    /// The directory above the destination does not exist.
    DestinationMissing,
    /// The destination is no directory, or cannot be entered.
    DestinationUnusable,
    /// rsync refuses to follow a symlink of an untrusted user to the destination.
    SymlinkUntrusted,
    /// No space or no quota is left on the target.
    TargetFull,
    /// Reading or writing a file failed in a way that ends the run.
    FileIo,
    /// `--temp-dir` does not exist on the target.
    TempDirMissing,
    /// The root directory cannot be entered.
    SourceMissing,
    /// One rsync was told to stop: ours, or the daemon's.
    Interrupted,
    /// Our rsync was ended by a signal.
    Killed,
    /// Our own watchdog stopped it.
    WatchdogStopped,
    /// The remote shell failed.
    ShellFailed,
    /// There is no ssh on this machine.
    SshNotFound,
    /// ssh refuses its options or its own configuration.
    SshOptions,
    /// Nobody listens at the port of ssh, the host cannot be reached, or its server closed the connection at once.
    SshUnreachable,
    /// ssh knows no key of this host.
    HostKeyUnknown,
    /// The host has another key than ssh knows.
    HostKeyChanged,
    /// The server of ssh takes none of our keys.
    SshDenied,
    /// The remote side has no rsync.
    RemoteRsyncMissing,
    /// The login on the remote side prints something where rsync expects rsync.
    LoginNoise,
    /// The two sides do not understand each other.
    Protocol,
    /// rsync refused its command line.
    Usage,
    /// This machine lacks memory or processes.
    LocalResources,
    /// An exit code that no row knows.
    Unknown,
}

impl Cause {
    /// Every cause, for the metrics catalogue.
    pub const ALL: &[Self] = &[
        Self::Applied,
        Self::PathsFailed,
        Self::Vanished,
        Self::PathsUnnamed,
        Self::OutputCut,
        Self::DeletesSuppressed,
        Self::DeleteLimit,
        Self::ConnectionRefused,
        Self::NameUnresolved,
        Self::ConnectTimeout,
        Self::IoTimeout,
        Self::ConnectionLost,
        Self::StartCut,
        Self::NotRsync,
        Self::UnknownModule,
        Self::ModulePath,
        Self::HostDenied,
        Self::AuthFailed,
        Self::PasswordMissing,
        Self::PasswordFile,
        Self::ConnectionLimit,
        Self::DaemonRefused,
        Self::ReadOnly,
        Self::OptionRefused,
        Self::OptionUnknown,
        Self::HookFailed,
        Self::MissingArgsUnsupported,
        Self::DestinationMissing,
        Self::DestinationUnusable,
        Self::SymlinkUntrusted,
        Self::TargetFull,
        Self::FileIo,
        Self::TempDirMissing,
        Self::SourceMissing,
        Self::Interrupted,
        Self::Killed,
        Self::WatchdogStopped,
        Self::ShellFailed,
        Self::SshNotFound,
        Self::SshOptions,
        Self::SshUnreachable,
        Self::HostKeyUnknown,
        Self::HostKeyChanged,
        Self::SshDenied,
        Self::RemoteRsyncMissing,
        Self::LoginNoise,
        Self::Protocol,
        Self::Usage,
        Self::LocalResources,
        Self::Unknown,
    ];

    /// What happens next.
    #[must_use]
    pub fn remedy(self) -> Remedy {
        self.row().1
    }

    /// The stable name, for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// What the operator should do, when somebody should.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        self.row().2
    }

    /// Whether the target's own directory is not there. When it is, it may be another one: mounted, or made anew.
    #[must_use]
    pub fn is_without_destination(self) -> bool {
        matches!(self, Self::ModulePath | Self::DestinationMissing | Self::DestinationUnusable)
    }

    /// Whether there was nobody, or nobody any more, to talk to: another run would not fare better.
    #[must_use]
    pub fn is_without_target(self) -> bool {
        matches!(
            self,
            Self::ConnectionRefused
                | Self::NameUnresolved
                | Self::ConnectTimeout
                | Self::IoTimeout
                | Self::ConnectionLost
                | Self::StartCut
                | Self::NotRsync
                | Self::UnknownModule
                | Self::HostDenied
                | Self::AuthFailed
                | Self::PasswordMissing
                | Self::PasswordFile
                | Self::ConnectionLimit
                | Self::Interrupted
                | Self::Killed
                | Self::WatchdogStopped
        )
    }

    /// Whether a receiver may have died in the middle of a file without removing what it had written of it: a killed one
    /// leaves `.NAME.XXXXXX` (observed, 3.5.0), one that is terminated or loses its connection does not.
    #[must_use]
    pub fn may_litter(self) -> bool {
        match self {
            Self::ConnectionLost
            | Self::IoTimeout
            | Self::FileIo
            | Self::Interrupted
            | Self::Killed
            | Self::WatchdogStopped
            | Self::ShellFailed
            | Self::Protocol
            | Self::Unknown => true,
            Self::Applied
            | Self::PathsFailed
            | Self::Vanished
            | Self::PathsUnnamed
            | Self::OutputCut
            | Self::DeletesSuppressed
            | Self::DeleteLimit
            | Self::ConnectionRefused
            | Self::NameUnresolved
            | Self::ConnectTimeout
            | Self::StartCut
            | Self::NotRsync
            | Self::UnknownModule
            | Self::ModulePath
            | Self::HostDenied
            | Self::AuthFailed
            | Self::PasswordMissing
            | Self::PasswordFile
            | Self::ConnectionLimit
            | Self::DaemonRefused
            | Self::ReadOnly
            | Self::OptionRefused
            | Self::OptionUnknown
            | Self::HookFailed
            | Self::MissingArgsUnsupported
            | Self::DestinationMissing
            | Self::DestinationUnusable
            | Self::SymlinkUntrusted
            | Self::TargetFull
            | Self::TempDirMissing
            | Self::SourceMissing
            | Self::SshNotFound
            | Self::SshOptions
            | Self::SshUnreachable
            | Self::HostKeyUnknown
            | Self::HostKeyChanged
            | Self::SshDenied
            | Self::RemoteRsyncMissing
            | Self::LoginNoise
            | Self::Usage
            | Self::LocalResources => false,
        }
    }

    #[rustfmt::skip]
    fn row(self) -> (&'static str, Remedy, Option<&'static str>) {
        use Remedy::{DropMissingArgs, Halve, HoldSource, Nothing, PauseTarget, Probe, RetryBatch, RetryPaths, StopTarget};
        const SOON: Remedy = PauseTarget { pace: Pace::Soon };
        const NORMAL: Remedy = PauseTarget { pace: Pace::Normal };
        const SLOW: Remedy = PauseTarget { pace: Pace::Slow };
        match self {
            Self::Applied => ("applied", Nothing, None),
            Self::PathsFailed => ("paths_failed", RetryPaths, None),
            Self::Vanished => ("vanished", RetryPaths, None),
            Self::PathsUnnamed => ("paths_unnamed", Halve, None),
            Self::OutputCut => ("output_cut", Halve, None),
            Self::DeletesSuppressed => ("deletes_suppressed", Halve, Some("make the paths that rsync names readable in the source")),
            Self::DeleteLimit => ("delete_limit", RetryPaths, Some("if the deletes are meant: fansync approve")),
            Self::ConnectionRefused => ("connection_refused", NORMAL, Some("start the rsync daemon, or correct host and port")),
            Self::NameUnresolved => ("name_unresolved", SLOW, Some("correct the host name, or repair name resolution")),
            Self::ConnectTimeout => ("connect_timeout", NORMAL, Some("check the network and the firewall between here and the target")),
            Self::IoTimeout => ("io_timeout", NORMAL, Some("check that the daemon is not stopped or stuck on its disk")),
            Self::ConnectionLost => ("connection_lost", Probe, None),
            Self::StartCut => ("start_cut", NORMAL, Some("see the daemon's log: it closed the connection without a word")),
            Self::NotRsync => ("not_rsync", StopTarget, Some("correct host and port: what listens there is not an rsync daemon")),
            Self::UnknownModule => ("unknown_module", StopTarget, Some("add the module to the daemon's rsyncd.conf, or correct its name here")),
            Self::ModulePath => ("module_path", SLOW, Some("create or mount the module's path on the target")),
            Self::HostDenied => ("host_denied", StopTarget, Some("add this host to 'hosts allow' of the module")),
            Self::AuthFailed => ("auth_failed", StopTarget, Some("check user and password; the daemon's log says which is wrong, and 'secrets file' must have mode 0600")),
            Self::PasswordMissing => ("password_missing", StopTarget, Some("set password_file for this target")),
            Self::PasswordFile => ("password_file", StopTarget, Some("the password file must exist, not be empty, have mode 0600 and belong to the user that runs fansync")),
            Self::ConnectionLimit => ("connection_limit", SOON, Some("raise 'max connections' of the module to twice the number of lanes")),
            Self::DaemonRefused => ("daemon_refused", SLOW, Some("see the words of the daemon, and its log")),
            Self::ReadOnly => ("read_only", StopTarget, Some("set 'read only = no' in the module")),
            Self::OptionRefused => ("option_refused", StopTarget, Some("take the option out of 'refuse options' of the module")),
            Self::OptionUnknown => ("option_unknown", StopTarget, Some("update rsync on the target, or drop the option here")),
            Self::HookFailed => ("hook_failed", SLOW, Some("see the module's 'pre-xfer exec' command")),
            Self::MissingArgsUnsupported => ("missing_args_unsupported", DropMissingArgs, Some("rsync 3.0 and 3.4.3 cannot do --delete-missing-args: update the target's rsync; or take it out of 'refuse options'")),
            Self::DestinationMissing => ("destination_missing", StopTarget, Some("create the destination's parent directory on the target")),
            Self::DestinationUnusable => ("destination_unusable", StopTarget, Some("the destination must be a directory that the target's rsync can enter")),
            Self::SymlinkUntrusted => ("symlink_untrusted", StopTarget, Some("name the destination without the symlink, or change the symlink's owner")),
            Self::TargetFull => ("target_full", SLOW, Some("free space, inodes or quota on the target")),
            Self::FileIo => ("file_io", SLOW, Some("see the target's kernel log: reading or writing a file failed")),
            Self::TempDirMissing => ("temp_dir_missing", StopTarget, Some("create the --temp-dir directory inside the module")),
            Self::SourceMissing => ("source_missing", HoldSource, Some("mount or restore the root directory")),
            Self::Interrupted => ("interrupted", RetryBatch, None),
            Self::Killed => ("killed", RetryBatch, None),
            Self::WatchdogStopped => ("watchdog_stopped", RetryBatch, None),
            Self::ShellFailed => ("shell_failed", NORMAL, Some("run the same ssh command by hand")),
            Self::SshNotFound => ("ssh_not_found", StopTarget, Some("install the client of ssh (apt-get install openssh-client)")),
            Self::SshOptions => ("ssh_options", StopTarget, Some("see the words of ssh: correct the ssh options of this target, or the user's ~/.ssh/config")),
            Self::SshUnreachable => ("ssh_unreachable", NORMAL, Some("check host, port and network, and that sshd runs there")),
            Self::HostKeyUnknown => ("host_key_unknown", StopTarget, Some("compare the host's key, then store it: run ssh once by hand, as the user that runs fansync")),
            Self::HostKeyChanged => ("host_key_changed", StopTarget, Some("find out why it changed before you replace the old one (ssh-keygen -R HOST): it may be another machine")),
            Self::SshDenied => ("ssh_denied", StopTarget, Some("put our public key into authorized_keys there; the private one must belong to the user that runs fansync, with mode 0600")),
            Self::RemoteRsyncMissing => ("remote_rsync_missing", StopTarget, Some("install rsync on the target, where the PATH of its login shell finds it")),
            Self::LoginNoise => ("login_noise", StopTarget, Some("keep the login scripts of the target's user silent where the shell is not interactive; 'ssh HOST true' must print nothing")),
            Self::Protocol => ("protocol", RetryBatch, Some("if it stays: compare the rsync versions of both sides")),
            Self::Usage => ("usage", StopTarget, Some("rsync refused its command line: see its words, and the rsync options of this target")),
            Self::LocalResources => ("local_resources", NORMAL, Some("this machine is short of memory or processes")),
            Self::Unknown => ("unknown", NORMAL, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_own_snake_case_name() {
        let mut names: Vec<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Cause::ALL.len());
        assert_eq!(Cause::ALL.len(), Cause::Unknown as usize + 1);
    }

    #[test]
    fn whoever_must_act_is_told_how() {
        for cause in Cause::ALL {
            let needs_hint = matches!(
                cause.remedy(),
                Remedy::StopTarget
                    | Remedy::DropMissingArgs
                    | Remedy::HoldSource
                    | Remedy::PauseTarget { pace: Pace::Slow }
            );
            assert!(!needs_hint || cause.hint().is_some(), "{}", cause.name());
        }
    }
}
