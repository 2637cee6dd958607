//! rsync's command line. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::filter::Filter;
use crate::path::RelPath;
use crate::plan::{Risk, Run, RunKind};
use crate::target::{Location, SshOptions};

/// How one target is reached.
#[derive(Debug, Clone)]
pub struct Transport {
    /// The rsync program.
    pub program: PathBuf,
    /// Where the files go.
    pub location: Location,
    /// `--password-file`; daemon targets only.
    pub password_file: Option<PathBuf>,
    /// `--timeout`: no byte moved for so long. Whole seconds.
    pub timeout: Duration,
    /// `--contimeout`: the daemon did not accept for so long. Whole seconds.
    pub connect_timeout: Duration,
    /// `-x`.
    pub one_file_system: bool,
    /// What ssh is told; ssh targets only.
    pub ssh: SshOptions,
    /// The socket of the connection that the calls of ssh share, if there is one.
    pub control: Option<PathBuf>,
}

/// What a run may delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// Nothing, and nothing is said of it: `delete: keep`.
    Keep,
    /// So many names; then it stops deleting and tells how many are left (`--max-delete`; 0 counts without deleting, from
    /// rsync 3.0.0 on). More than rsync can count is no limit.
    AtMost(u64),
    /// Everything that the source lacks.
    Open,
}

impl Fence {
    /// rsync reads an `int`.
    fn limit(self) -> Option<u64> {
        match self {
            Self::AtMost(deletes) => Some(deletes).filter(|deletes| *deletes < u64::from(i32::MAX.unsigned_abs())),
            Self::Keep | Self::Open => None,
        }
    }
}

/// The arguments of a run whose source is the directory that the child holds as descriptor `root`. The list comes on
/// standard input, NUL-terminated (notes/rsync.md 0).
///
/// No `--out-format`: every itemized line is a small reply, which waits 40 ms for our delayed ACK where the daemon
/// has no TCP_NODELAY (notes/rsync.md 5.1). The markers that matter are printed without it.
#[must_use]
pub fn arguments(
    transport: &Transport,
    filter: &Filter,
    run: &Run,
    fence: Fence,
    missing_args: bool,
    root: i32,
) -> Vec<OsString> {
    let deletes = fence != Fence::Keep;
    if run.kind == RunKind::Move {
        return move_arguments(transport, filter, run, root);
    }
    let mut arguments: Vec<OsString> = Vec::with_capacity(24);
    let mut add = |argument: &str| arguments.push(OsString::from(argument));
    add("-a");
    // Times compare to the nanosecond; rsync's default is the whole second (observed, 3.5.0), within which a change of
    // a file that kept its size would be skipped.
    add("--modify-window=-1");
    if run.resend {
        add("-I");
    }
    if run.whole {
        add("-W");
    }
    match run.kind {
        RunKind::RootAttributes => add("--filter=- /*"),
        RunKind::Points | RunKind::Listing | RunKind::Subtree if deletes => {
            add("--force");
            if missing_args {
                add("--delete-missing-args");
            }
        }
        RunKind::Points | RunKind::Listing | RunKind::Subtree | RunKind::Move => {}
    }
    match run.kind {
        RunKind::RootAttributes | RunKind::Move => {}
        // Deletes nothing by itself here, but only with it does a remote receiver learn the rules, and spares what they
        // exclude when it deletes a directory that is gone (observed, 3.5.0).
        RunKind::Points if filter.protects() && deletes => add("--delete"),
        RunKind::Points => {}
        RunKind::Listing if deletes => add("--delete"),
        RunKind::Listing => {}
        RunKind::Subtree => {
            add("-r");
            if deletes {
                add("--delete");
            }
        }
    }
    if let Some(limit) = fence.limit()
        && run.kind != RunKind::RootAttributes
    {
        add(&format!("--max-delete={limit}"));
        if limit > 0 {
            // How many it were; costs nothing that can be measured.
            add("--stats");
        }
    }
    match run.kind {
        RunKind::RootAttributes | RunKind::Points | RunKind::Move => {}
        RunKind::Listing | RunKind::Subtree => {
            if transport.one_file_system {
                add("-x");
            }
            if let Some(size) = run.size_max {
                add(&format!("--max-size={size}"));
            }
        }
    }
    add("--from0");
    add("--files-from=-");
    add_connection(transport, &mut arguments);
    match run.kind {
        RunKind::RootAttributes | RunKind::Move => {}
        RunKind::Points if !filter.protects() => {}
        RunKind::Points | RunKind::Listing | RunKind::Subtree => arguments.extend(filter.rsync_arguments()),
    }
    arguments.push(OsString::from("--"));
    arguments.push(OsString::from(format!("/proc/self/fd/{root}/")));
    arguments.push(transport.location.argument());
    arguments
}

/// How the target is reached.
fn add_connection(transport: &Transport, arguments: &mut Vec<OsString>) {
    arguments.push(OsString::from(format!("--timeout={}", transport.timeout.as_secs().max(1))));
    match &transport.location {
        Location::Local(_) => {}
        Location::Ssh(address) => {
            let mut argument = OsString::from("--rsh=");
            argument.push(super::ssh::remote_shell(transport, address));
            arguments.push(argument);
            // The shell there sees no path then, only a fixed command (rsync(1), --secluded-args; in all versions from 3.0.0).
            arguments.push(OsString::from("-s"));
        }
        Location::Daemon(_) => {
            arguments.push(OsString::from("--sockopts=TCP_NODELAY"));
            arguments.push(OsString::from(format!("--contimeout={}", transport.connect_timeout.as_secs().max(1))));
            if let Some(file) = &transport.password_file {
                let mut argument = OsString::from("--password-file=");
                argument.push(file);
                arguments.push(argument);
            }
        }
    }
}

/// Whether a move can be said to this target.
#[must_use]
pub fn can_move(location: &Location, run: &Run) -> bool {
    names_of_move(run).is_some_and(|(new, old)| location.move_arguments(new, old).is_some())
}

/// The new name and the old one.
#[must_use]
pub fn names_of_move(run: &Run) -> Option<(&RelPath, &RelPath)> {
    let (new, _) = run.entries.first()?;
    Some((new, run.basis.as_ref()?))
}

/// The arguments of a run that links what is under a directory's old name to its new one: the directory is the source
/// itself, as rsync would look for the paths of a list beneath the old name (notes/rsync.md 3). Deletes nothing.
///
/// Only for rules that are the same in every directory: to rsync the directory is where the rules' paths begin.
fn move_arguments(transport: &Transport, filter: &Filter, run: &Run, root: i32) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["-a", "--modify-window=-1"].map(OsString::from).into();
    if transport.one_file_system {
        arguments.push(OsString::from("-x"));
    }
    add_connection(transport, &mut arguments);
    arguments.extend(filter.rsync_arguments());
    let said = names_of_move(run).and_then(|(new, old)| Some((new, transport.location.move_arguments(new, old)?)));
    if let Some((new, (destination, basis))) = said {
        let mut argument = OsString::from("--link-dest=");
        argument.push(basis);
        arguments.push(argument);
        arguments.push(OsString::from("--"));
        let mut source = format!("/proc/self/fd/{root}/").into_bytes();
        source.extend_from_slice(new.as_bytes());
        source.push(b'/');
        arguments.push(OsString::from_vec(source));
        arguments.push(destination);
    }
    arguments
}

/// What rsync reads on its standard input.
#[must_use]
pub fn list(run: &Run) -> Vec<u8> {
    if run.kind == RunKind::Move {
        return Vec::new();
    }
    let mut bytes = Vec::with_capacity(run.entries.iter().map(|(path, _)| path.as_bytes().len() + 3).sum());
    for (path, kind) in &run.entries {
        bytes.extend(crate::plan::entry(path, *kind));
    }
    bytes
}

/// An empty run: it connects, authenticates, and checks the options, the module and its rights, and changes nothing.
#[must_use]
pub fn probe() -> Run {
    Run {
        kind: RunKind::Listing,
        resend: false,
        whole: false,
        size_max: None,
        entries: Vec::new(),
        risk: Risk::AtMost(0),
        bytes: 0,
        basis: None,
    }
}

/// The environment of a run: nothing of ours but what rsync needs to be found and to speak plainly.
/// `RSYNC_PASSWORD` is passed on when the operator chose it over a password file.
#[must_use]
pub fn environment(transport: &Transport, ours: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static OsStr, OsString)> {
    let mut kept = vec![(OsStr::new("LC_ALL"), OsString::from("C.UTF-8"))];
    kept.push((OsStr::new("PATH"), ours("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"))));
    if let Some(home) = ours("HOME") {
        kept.push((OsStr::new("HOME"), home));
    }
    // Without it ssh has no agent to ask for keys.
    if let (Location::Ssh(_), Some(socket)) = (&transport.location, ours("SSH_AUTH_SOCK")) {
        kept.push((OsStr::new("SSH_AUTH_SOCK"), socket));
    }
    if let (Location::Daemon(_), None, Some(password)) =
        (&transport.location, &transport.password_file, ours("RSYNC_PASSWORD"))
    {
        kept.push((OsStr::new("RSYNC_PASSWORD"), password));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPath;
    use crate::plan::EntryKind;
    use std::path::Path;

    fn transport(target: &str) -> Transport {
        Transport {
            program: PathBuf::from("rsync"),
            location: Location::parse(target.as_bytes(), Path::new("/")).unwrap(),
            password_file: Some(PathBuf::from("/etc/p")),
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            one_file_system: true,
            ssh: SshOptions::default(),
            control: None,
        }
    }

    fn line(target: &str, run: &Run) -> String {
        fenced(target, run, Fence::Open)
    }

    fn fenced(target: &str, run: &Run, fence: Fence) -> String {
        let arguments = arguments(&transport(target), &Filter::none(), run, fence, true, 100);
        arguments.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    fn run(kind: RunKind, path: &str) -> Run {
        let entries = vec![(RelPath::parse(path.as_bytes()).unwrap(), EntryKind::Plain)];
        Run {
            kind,
            resend: kind == RunKind::Points,
            whole: false,
            size_max: Some(8),
            entries,
            risk: Risk::Unknown,
            bytes: 0,
            basis: None,
        }
    }

    #[test]
    fn each_kind_of_run_has_its_options() {
        assert_eq!(
            line("rsync://h/m", &run(RunKind::Points, "a")),
            "-a --modify-window=-1 -I --force --delete-missing-args --from0 --files-from=- --timeout=60 --sockopts=TCP_NODELAY \
             --contimeout=10 --password-file=/etc/p -- /proc/self/fd/100/ rsync://h/m/"
        );
        assert_eq!(
            line("/target", &run(RunKind::Listing, "a")),
            "-a --modify-window=-1 --force --delete-missing-args --delete -x --max-size=8 --from0 --files-from=- --timeout=60 \
             -- /proc/self/fd/100/ /target/"
        );
        assert_eq!(
            line("/target", &run(RunKind::Subtree, "a")),
            "-a --modify-window=-1 --force --delete-missing-args -r --delete -x --max-size=8 --from0 --files-from=- --timeout=60 \
             -- /proc/self/fd/100/ /target/"
        );
    }

    #[test]
    fn by_ssh_no_path_reaches_the_shell_there_and_no_option_is_for_daemons() {
        let line = line("bob@web17:data/a b", &run(RunKind::Points, "a"));
        let (before, rest) = line.split_once(" --rsh=ssh ").unwrap();
        assert_eq!(
            before,
            "-a --modify-window=-1 -I --force --delete-missing-args --from0 --files-from=- --timeout=60"
        );
        assert!(rest.ends_with(" -s -- /proc/self/fd/100/ bob@web17:data/a b/"), "{rest}");
        assert!(!line.contains("contimeout") && !line.contains("sockopts") && !line.contains("password"), "{line}");
    }

    #[test]
    fn a_move_links_what_is_under_the_old_name() {
        let run = Run { basis: RelPath::parse(b"a/old").ok(), ..run(RunKind::Move, "b/new") };
        assert_eq!(
            line("rsync://h/m/sub", &run),
            "-a --modify-window=-1 -x --timeout=60 --sockopts=TCP_NODELAY --contimeout=10 --password-file=/etc/p \
             --link-dest=/sub/a/old -- /proc/self/fd/100/b/new/ rsync://h/m/sub/b/new/"
        );
        assert!(
            line("/target", &run).ends_with(" --link-dest=/target/a/old -- /proc/self/fd/100/b/new/ /target/b/new/")
        );
        assert!(list(&run).is_empty());
    }

    #[test]
    fn a_move_that_cannot_be_said_exactly_is_none() {
        let check = |target: &str, new: &str, old: &str, expected: bool| {
            let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
            let run = Run { basis: Some(path(old)), ..run(RunKind::Move, new) };
            assert_eq!(can_move(&transport(target).location, &run), expected, "{target} {new} {old}");
        };
        check("rsync://h/m", "b c/\u{e4}", "a-b:+,@=%_.", true);
        for odd in ["a*", "a?", "[a", "a\\b", "a\nb", "$a", "`a", "~a", "a;b", "{a,b}", "'a"] {
            check("rsync://h/m", odd, "a", false);
            check("rsync://h/m", "a", odd, false);
            check("host:/data", "a", odd, false);
            // Nobody but the kernel reads it.
            check("/target", odd, "a", true);
        }
        check("rsync://h/m/s*", "b", "a", false);
        check("host:/data", "b", "a", true);
        check("host:data", "b", "a", false);
    }

    #[test]
    fn a_fence_limits_the_deletes_and_what_is_kept_is_not_deleted() {
        let of = |kind, fence| fenced("/target", &run(kind, "a"), fence);
        assert!(of(RunKind::Listing, Fence::AtMost(0)).contains(" --delete --max-delete=0 -x"));
        assert!(
            of(RunKind::Points, Fence::AtMost(7)).contains(" --delete-missing-args --max-delete=7 --stats --from0")
        );
        assert!(!of(RunKind::Points, Fence::AtMost(1 << 40)).contains("max-delete"));
        assert!(!of(RunKind::RootAttributes, Fence::AtMost(0)).contains("max-delete"));
        for kind in [RunKind::RootAttributes, RunKind::Points, RunKind::Listing, RunKind::Subtree] {
            let line = of(kind, Fence::Keep);
            assert!(!line.contains("delete") && !line.contains("force"), "{line}");
        }
    }

    #[test]
    fn the_roots_attributes_go_without_its_files() {
        assert_eq!(
            line("/target", &run(RunKind::RootAttributes, "")),
            "-a --modify-window=-1 --filter=- /* --from0 --files-from=- --timeout=60 -- /proc/self/fd/100/ /target/"
        );
    }

    #[test]
    fn every_entry_starts_with_a_slash_and_ends_with_a_nul() {
        let mut listing = run(RunKind::Listing, "#a\n");
        listing.entries.push((RelPath::parse(b"d").unwrap(), EntryKind::Listing));
        listing.entries.push((RelPath::root(), EntryKind::Listing));
        assert_eq!(list(&listing), b"/#a\n\0/d/\0/\0");
    }

    #[test]
    fn only_what_rsync_needs_is_passed_on() {
        let ours = |name: &str| match name {
            "PATH" => Some(OsString::from("/p")),
            "RSYNC_PASSWORD" | "NOTIFY_SOCKET" | "SSH_AUTH_SOCK" => Some(OsString::from("x")),
            _ => None,
        };
        let names = |transport: &Transport| {
            environment(transport, ours).into_iter().map(|(name, _)| name.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(&transport("rsync://h/m")), ["LC_ALL", "PATH"]);
        let without_file = Transport { password_file: None, ..transport("rsync://h/m") };
        assert_eq!(names(&without_file), ["LC_ALL", "PATH", "RSYNC_PASSWORD"]);
        assert_eq!(names(&Transport { password_file: None, ..transport("/t") }), ["LC_ALL", "PATH"]);
        assert_eq!(names(&Transport { password_file: None, ..transport("h:t") }), ["LC_ALL", "PATH", "SSH_AUTH_SOCK"]);
    }
}
