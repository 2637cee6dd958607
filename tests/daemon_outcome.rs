//! Real causes, made with the real rsync and a real daemon, judged by `worker::outcome`.
//!
//! What a machine does not allow (mounting, `chattr`, dropping privileges) is skipped aloud; see `--nocapture`.
#![expect(clippy::disallowed_methods, reason = "the tests start rsync themselves, with the command line of the worker")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fansync::lab::{Daemon, DaemonOptions, free_port, write_private};
use fansync::path::RelPath;
use fansync::worker::cause::{Cause, Pace, Remedy};
use fansync::worker::outcome::{Applied, Exit, Names, PathCause, Run, Standing, Verdict, judge};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// A root and a destination in a scratch directory.
struct Bench {
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { scratch: tempfile::Builder::new().prefix("fansync-outcome.").tempdir().unwrap() };
        // A daemon or an rsync of another user has to get in.
        std::fs::set_permissions(bench.scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(bench.source()).unwrap();
        std::fs::create_dir(bench.destination()).unwrap();
        bench
    }

    fn source(&self) -> PathBuf {
        self.scratch.path().join("source")
    }

    fn destination(&self) -> PathBuf {
        self.scratch.path().join("destination")
    }

    fn daemon(&self, options: &DaemonOptions) -> Daemon {
        self.daemon_of(&self.destination(), options)
    }

    fn daemon_of(&self, directory: &Path, options: &DaemonOptions) -> Daemon {
        Daemon::start(directory, self.scratch.path(), options).unwrap()
    }

    /// A batch of `entries` from the root of this bench.
    fn batch(&self, target: impl AsRef<OsStr>, entries: &[&[u8]]) -> Batch {
        let mut target = target.as_ref().to_owned();
        target.push("/");
        Batch {
            root: self.source(),
            target,
            entries: entries.iter().map(|entry| entry.to_vec()).collect(),
            options: Vec::new(),
            without: Vec::new(),
            environment: Vec::new(),
            source: None,
            user: None,
            timeout: 20,
            module_sub: Vec::new(),
        }
    }
}

/// One rsync run: the worker's command line, and what a test changes in it.
struct Batch {
    root: PathBuf,
    target: OsString,
    entries: Vec<Vec<u8>>,
    options: Vec<OsString>,
    without: Vec<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
    source: Option<&'static str>,
    user: Option<u32>,
    timeout: u32,
    module_sub: Vec<u8>,
}

/// A started [`Batch`].
struct Started {
    child: Child,
    batch: Batch,
    source: String,
    writer: std::thread::JoinHandle<()>,
}

impl Batch {
    fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    fn start(self) -> Started {
        let root = std::fs::File::open(&self.root).unwrap();
        rustix::io::fcntl_setfd(&root, rustix::io::FdFlags::empty()).unwrap();
        let source = self.source.map_or_else(|| format!("/proc/self/fd/{}/", root.as_raw_fd()), str::to_owned);
        let mut command = match self.user {
            None => Command::new("rsync"),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={user}"))
                    .arg(format!("--regid={user}"))
                    .arg("--clear-groups")
                    .arg("rsync");
                command
            }
        };
        let mut arguments =
            vec!["--sockopts=TCP_NODELAY".to_owned(), "-a".to_owned(), "--delete-missing-args".to_owned()];
        arguments.extend(["--force", "--from0", "--files-from=-"].map(str::to_owned));
        arguments.push(format!("--timeout={}", self.timeout));
        // rsync refuses --contimeout for a local destination.
        if !self.target.as_bytes().starts_with(b"/") {
            arguments.push(format!("--contimeout={}", self.timeout));
        }
        arguments.retain(|argument| !self.without.contains(&argument.as_str()));
        command.args(arguments).args(&self.options).arg(&source).arg(&self.target);
        command.env("LC_ALL", "C.UTF-8").env_remove("RSYNC_PASSWORD").envs(self.environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut list = Vec::new();
        for entry in &self.entries {
            list.push(b'/');
            list.extend_from_slice(entry);
            list.push(0);
        }
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            // rsync may end before it has read the list.
            let _broken_pipe = stdin.write_all(&list);
        });
        Started { child, batch: self, source, writer }
    }

    fn run(self) -> Verdict {
        self.start().finish()
    }
}

impl Started {
    fn finish(self) -> Verdict {
        let output = self.child.wait_with_output().unwrap();
        self.writer.join().unwrap();
        judge_output(&self.batch, &self.source, &output)
    }
}

fn judge_output(batch: &Batch, source: &str, output: &Output) -> Verdict {
    let entries: Vec<RelPath> =
        batch.entries.iter().map(|entry| RelPath::parse(entry.strip_suffix(b"/").unwrap_or(entry)).unwrap()).collect();
    let standing = |path: &RelPath| {
        if entries.iter().any(|entry| path.is_within(entry)) {
            Standing::Within
        } else if entries.iter().any(|entry| entry.is_within(path)) {
            Standing::Above
        } else {
            Standing::Elsewhere
        }
    };
    let local = batch.target.as_bytes().starts_with(b"/");
    let names = Names {
        source_prefixes: &[source.as_bytes(), batch.root.as_os_str().as_bytes()],
        module_sub: &batch.module_sub,
        destination_prefix: local.then(|| batch.target.as_bytes()),
        standing: &standing,
    };
    let exit = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => unreachable!("a child that was waited for has ended"),
    };
    let run = Run { exit, stdout: &output.stdout, stderr: &output.stderr, output_cut: false };
    let verdict = judge(&run, &names);
    // Shown when the test fails.
    eprintln!(
        "{exit:?}\nstdout: {}\nstderr: {}\n{verdict:?}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    verdict
}

fn write(path: impl AsRef<Path>, content: &[u8]) {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[track_caller]
fn assert_nothing(verdict: &Verdict, cause: Cause, remedy: Remedy) {
    assert_eq!((&verdict.applied, verdict.cause, verdict.remedy), (&Applied::Nothing, cause, remedy));
    assert!(!verdict.words.is_empty());
}

#[track_caller]
fn assert_all_but(verdict: &Verdict, cause: Cause, expected: &[(&[u8], PathCause)]) {
    let Applied::AllBut(failed) = &verdict.applied else { panic!("{verdict:?}") };
    let mut found: Vec<_> = failed.iter().map(|one| (one.path.as_bytes(), one.why)).collect();
    let mut expected = expected.to_vec();
    found.sort_by_key(|one| one.0);
    expected.sort_by_key(|one| one.0);
    assert_eq!(found, expected);
    assert_eq!((verdict.cause, verdict.remedy), (cause, cause.remedy()));
}

/// Waits until `ready` gives something; 20 s at most.
#[track_caller]
fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    for _attempt in 0..4000 {
        if let Some(found) = ready() {
            return found;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    panic!("{what} did not happen within 20 s");
}

fn has_temporary(directory: &Path) -> Option<()> {
    std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .any(|entry| entry.file_name().as_bytes().starts_with(b"."))
        .then_some(())
}

/// The processes below `pid`, children first.
fn descendants(pid: u32) -> Vec<Pid> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (child, parent)));
    }
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == member).map(|(child, _)| *child));
        next += 1;
    }
    family[1..].iter().map(|pid| Pid::from_raw(i32::try_from(*pid).unwrap())).collect()
}

/// A file or directory that nobody can change until this is dropped. Modes would not do: rsync, as their owner, changes
/// them for the time of its work.
struct Immutable(PathBuf);

impl Immutable {
    /// `None`, said aloud, where `chattr` does not work.
    fn make(path: &Path) -> Option<Self> {
        let done = Command::new("chattr").arg("+i").arg(path).stderr(Stdio::null()).status();
        if done.is_ok_and(|status| status.success()) {
            return Some(Self(path.to_path_buf()));
        }
        eprintln!("SKIPPED: chattr +i {} takes root and a file system that knows it", path.display());
        None
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _status = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

#[test]
fn a_good_batch_is_applied_and_an_empty_list_is_a_probe() {
    let bench = Bench::new();
    write(bench.source().join("d/f"), b"new");
    write(bench.destination().join("gone/deep/x"), b"old");
    let daemon = bench.daemon(&DaemonOptions::default());
    for entries in [&[&b"d/f"[..], b"gone"][..], &[]] {
        let verdict = bench.batch(daemon.url(), entries).run();
        assert_eq!((verdict.applied, verdict.cause, verdict.remedy), (Applied::All, Cause::Applied, Remedy::Nothing));
        assert_eq!(verdict.words, "");
    }
    assert_eq!(std::fs::read(bench.destination().join("d/f")).unwrap(), b"new");
    assert!(!bench.destination().join("gone").exists());
}

#[test]
fn an_unknown_module_stops_the_target() {
    let bench = Bench::new();
    let daemon = bench.daemon(&DaemonOptions::default());
    let verdict = bench.batch(format!("rsync://127.0.0.1:{}/nope", daemon.port()), &[b"a"]).run();
    assert_nothing(&verdict, Cause::UnknownModule, Remedy::StopTarget);
    assert_eq!(verdict.words, "@ERROR: Unknown module 'nope'");
}

#[test]
fn each_trouble_with_the_password_has_its_own_cause() {
    let bench = Bench::new();
    write(bench.source().join("a"), b"x");
    let login = Some(("user".to_owned(), "secret".to_owned()));
    let daemon = bench.daemon(&DaemonOptions { login, ..DaemonOptions::default() });
    let batch = || bench.batch(daemon.url_for("user"), &[b"a"]);

    let mut wrong = batch();
    wrong.environment.push(("RSYNC_PASSWORD", "guess"));
    assert_nothing(&wrong.run(), Cause::AuthFailed, Remedy::StopTarget);
    let mut right = batch();
    right.environment.push(("RSYNC_PASSWORD", "secret"));
    assert_eq!(right.run().applied, Applied::All);

    let file = bench.scratch.path().join("password");
    let option = format!("--password-file={}", file.display());
    assert_nothing(&batch().option(&option).run(), Cause::PasswordFile, Remedy::StopTarget);
    write_private(&file, "").unwrap();
    assert_nothing(&batch().option(&option).run(), Cause::PasswordFile, Remedy::StopTarget);
    write_private(&file, "secret\n").unwrap();
    assert_eq!(batch().option(&option).run().applied, Applied::All);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    assert_nothing(&batch().option(&option).run(), Cause::PasswordFile, Remedy::StopTarget);

    if std::fs::File::open("/dev/tty").is_ok() {
        eprintln!("SKIPPED: with a terminal rsync would ask for the password");
        return;
    }
    assert_nothing(&batch().run(), Cause::PasswordMissing, Remedy::StopTarget);
}

#[test]
fn a_port_without_a_daemon_pauses_or_stops_the_target() {
    let bench = Bench::new();
    let url = |port: u16| format!("rsync://127.0.0.1:{port}/mirror");
    let refused = bench.batch(url(free_port().unwrap()), &[b"a"]).run();
    assert_nothing(&refused, Cause::ConnectionRefused, Remedy::PauseTarget { pace: Pace::Normal });

    // The kernel accepts, nobody speaks.
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut batch = bench.batch(url(mute.local_addr().unwrap().port()), &[b"a"]);
    batch.timeout = 2;
    assert_nothing(&batch.run(), Cause::IoTimeout, Remedy::PauseTarget { pace: Pace::Normal });

    let answer = |words: &'static [u8]| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The client speaks first, so nothing unread resets the connection before our words arrive.
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(words).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _rest = stream.read_to_end(&mut Vec::new());
        });
        let verdict = bench.batch(url(port), &[b"a"]).run();
        server.join().unwrap();
        verdict
    };
    assert_nothing(&answer(b"SSH-2.0-OpenSSH_9.2p1\r\n"), Cause::NotRsync, Remedy::StopTarget);
    let cut = answer(b"@RSYNCD: 31.0 sha512 md5\n");
    assert_nothing(&cut, Cause::StartCut, Remedy::PauseTarget { pace: Pace::Normal });
}

#[test]
fn a_full_daemon_is_asked_again_soon() {
    let bench = Bench::new();
    let daemon = bench.daemon(&DaemonOptions { connections_max: 1, ..DaemonOptions::default() });
    let mut holder = TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.port())).unwrap();
    let mut answers = BufReader::new(holder.try_clone().unwrap());
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    holder.write_all(b"@RSYNCD: 31.0 sha512 md5\nmirror\n").unwrap();
    line.clear();
    answers.read_line(&mut line).unwrap();
    assert_eq!(line, "@RSYNCD: OK\n");
    let verdict = bench.batch(daemon.url(), &[b"a"]).run();
    assert_nothing(&verdict, Cause::ConnectionLimit, Remedy::PauseTarget { pace: Pace::Soon });
}

#[test]
fn a_read_only_module_shows_at_once_or_in_the_probe() {
    let bench = Bench::new();
    write(bench.source().join("a"), b"x");
    let daemon = bench.daemon(&DaemonOptions { read_only: true, ..DaemonOptions::default() });
    assert_nothing(&bench.batch(daemon.url(), &[b"a"]).run(), Cause::ReadOnly, Remedy::StopTarget);
    let long: Vec<_> = (0..20_000).map(|number| format!("d/{number:06}").into_bytes()).collect();
    let long: Vec<_> = long.iter().map(Vec::as_slice).collect();
    let verdict = bench.batch(daemon.url(), &long).run();
    // The reset of the connection usually destroys the daemon's words.
    match verdict.cause {
        Cause::ReadOnly => assert_nothing(&verdict, Cause::ReadOnly, Remedy::StopTarget),
        _ => assert_nothing(&verdict, Cause::ConnectionLost, Remedy::Probe),
    }
    assert_nothing(&bench.batch(daemon.url(), &[]).run(), Cause::ReadOnly, Remedy::StopTarget);
}

#[test]
fn a_refused_option_stops_the_target() {
    let bench = Bench::new();
    let daemon = bench.daemon(&DaemonOptions { refuse: "force".into(), ..DaemonOptions::default() });
    assert_nothing(&bench.batch(daemon.url(), &[b"a"]).run(), Cause::OptionRefused, Remedy::StopTarget);
}

/// With `refuse options = delete*` rsync 3.5.0 accepts the batch, deletes nothing and exits 0. Only the words
/// `skipping non-regular file` tell.
#[test]
fn a_daemon_that_refuses_missing_args_does_not_pass_for_applied() {
    let bench = Bench::new();
    write(bench.destination().join("gone"), b"old");
    let daemon = bench.daemon(&DaemonOptions { refuse: "delete*".into(), ..DaemonOptions::default() });
    let verdict = bench.batch(daemon.url(), &[b"gone"]).run();
    assert!(bench.destination().join("gone").exists());
    match verdict.cause {
        Cause::PathsFailed => assert_all_but(&verdict, Cause::PathsFailed, &[(b"gone", PathCause::Unsupported)]),
        Cause::OptionRefused => assert_nothing(&verdict, Cause::OptionRefused, Remedy::StopTarget),
        _ => assert_nothing(&verdict, Cause::MissingArgsUnsupported, Remedy::DropMissingArgs),
    }
}

#[test]
fn a_module_whose_path_is_missing_waits_for_its_mount() {
    let bench = Bench::new();
    let daemon = bench.daemon_of(&bench.scratch.path().join("unmounted"), &DaemonOptions::default());
    let verdict = bench.batch(daemon.url(), &[b"a"]).run();
    assert_nothing(&verdict, Cause::ModulePath, Remedy::PauseTarget { pace: Pace::Slow });
}

#[test]
fn a_destination_that_cannot_be_entered_stops_the_target() {
    let bench = Bench::new();
    write(bench.source().join("a"), b"x");
    write(bench.destination().join("file"), b"x");
    let daemon = bench.daemon(&DaemonOptions::default());
    let missing = bench.batch(daemon.url() + "/no/where", &[b"a"]).run();
    assert_nothing(&missing, Cause::DestinationMissing, Remedy::StopTarget);
    let file = bench.batch(daemon.url() + "/file", &[b"a"]).run();
    assert_nothing(&file, Cause::DestinationUnusable, Remedy::StopTarget);
    let local = bench.batch(bench.destination().join("no/where"), &[b"a"]).run();
    assert_nothing(&local, Cause::DestinationMissing, Remedy::StopTarget);
}

#[test]
fn a_missing_root_holds_the_source() {
    let bench = Bench::new();
    write(bench.destination().join("a"), b"old");
    let daemon = bench.daemon(&DaemonOptions::default());
    for target in [OsString::from(daemon.url()), bench.destination().into_os_string()] {
        let mut batch = bench.batch(target, &[b"a"]);
        batch.source = Some("/proc/self/fd/9999/");
        assert_nothing(&batch.run(), Cause::SourceMissing, Remedy::HoldSource);
        assert!(bench.destination().join("a").exists());
    }
}

#[test]
fn a_command_line_that_rsync_refuses_stops_the_target() {
    let bench = Bench::new();
    let verdict = bench.batch(bench.destination(), &[b"a"]).option("--contimeout=5").run();
    assert_nothing(&verdict, Cause::Usage, Remedy::StopTarget);
    let verdict = bench.batch(bench.destination(), &[b"a"]).option("--no-such-option").run();
    assert_nothing(&verdict, Cause::Usage, Remedy::StopTarget);
}

#[test]
fn an_unreadable_file_fails_alone() {
    let bench = Bench::new();
    for name in ["secret", "open"] {
        write(bench.source().join(name), b"x");
    }
    std::fs::set_permissions(bench.source().join("secret"), PermissionsExt::from_mode(0o000)).unwrap();
    let daemon = bench.daemon(&DaemonOptions::default());
    let mut batch = bench.batch(daemon.url(), &[b"secret", b"open"]);
    if geteuid().is_root() {
        batch.user = Some(65_534);
        let works = Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups", "true"]).status();
        if !works.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: setpriv cannot drop privileges here");
            return;
        }
    }
    assert_all_but(&batch.run(), Cause::PathsFailed, &[(b"secret", PathCause::Denied)]);
    assert!(bench.destination().join("open").exists());
}

#[test]
fn a_full_target_is_paused_for_long() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            // Lazily: a child of another test may still hold a descriptor below it.
            let _status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        }
    }
    let bench = Bench::new();
    let small = Mounted(bench.destination());
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "fansync-test"]).arg(&small.0).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: mounting a tmpfs is not allowed here");
        std::mem::forget(small);
        return;
    }
    write(bench.source().join("big"), &[b'b'; 3_000_000]);
    write(bench.source().join("small"), b"s");
    let daemon = bench.daemon(&DaemonOptions::default());
    let slow = Remedy::PauseTarget { pace: Pace::Slow };
    for target in [OsString::from(daemon.url()), bench.destination().into_os_string()] {
        let verdict = bench.batch(target, &[b"big", b"small"]).run();
        let Applied::EndedBy(failed) = &verdict.applied else { panic!("{verdict:?}") };
        let failed: Vec<_> = failed.iter().map(|one| (one.path.as_bytes(), one.why)).collect();
        assert_eq!(failed, [(&b"big"[..], PathCause::NoSpace)]);
        assert_eq!((verdict.cause, verdict.remedy), (Cause::TargetFull, slow));
    }
    drop(daemon);
}

#[test]
fn a_file_that_vanishes_or_turns_while_sending_is_named() {
    let race = |act: &dyn Fn(&Path)| {
        let bench = Bench::new();
        // The first file is slow, so the second one can change between the list and its turn.
        write(bench.source().join("a"), &[b'a'; 300_000]);
        write(bench.source().join("b"), &[b'b'; 100_000]);
        let daemon = bench.daemon(&DaemonOptions::default());
        let started = bench.batch(daemon.url(), &[b"a", b"b"]).option("--bwlimit=300").start();
        wait_for("the first file", || has_temporary(&bench.destination()));
        act(&bench.source().join("b"));
        let verdict = started.finish();
        assert!(bench.destination().join("a").exists());
        verdict
    };
    let vanished = race(&|path| std::fs::remove_file(path).unwrap());
    assert_all_but(&vanished, Cause::Vanished, &[(b"b", PathCause::Vanished)]);
    let link = race(&|path| {
        std::fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("a", path).unwrap();
    });
    assert_all_but(&link, Cause::PathsFailed, &[(b"b", PathCause::Raced)]);
    let directory = race(&|path| {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
    });
    assert_all_but(&directory, Cause::PathsFailed, &[(b"b", PathCause::Raced)]);
}

#[test]
fn a_parent_that_is_gone_vanishes_with_its_child() {
    let bench = Bench::new();
    write(bench.destination().join("gone/x"), b"old");
    let daemon = bench.daemon(&DaemonOptions::default());
    let verdict = bench.batch(daemon.url(), &[b"gone/x"]).run();
    assert_all_but(&verdict, Cause::Vanished, &[(b"gone", PathCause::Vanished)]);
}

#[test]
fn impossible_paths_fail_alone() {
    let bench = Bench::new();
    write(bench.source().join("file"), b"x");
    let long = [b'n'; 256];
    for local in [false, true] {
        let daemon = bench.daemon(&DaemonOptions::default());
        let target = if local { bench.destination().into_os_string() } else { daemon.url().into() };
        let verdict = bench.batch(target, &[&long, b"file/below", b"file"]).run();
        let expected: [(&[u8], _); 2] = [(&long, PathCause::NameTooLong), (b"file/below", PathCause::Raced)];
        assert_all_but(&verdict, Cause::PathsFailed, &expected);
        assert!(bench.destination().join("file").exists());
    }
}

#[test]
fn a_directory_that_stays_without_force_is_not_applied() {
    let bench = Bench::new();
    write(bench.destination().join("gone/x"), b"old");
    write(bench.destination().join("turned/x"), b"old");
    write(bench.source().join("turned"), b"a file now");
    let daemon = bench.daemon(&DaemonOptions::default());
    for target in [OsString::from(daemon.url()), bench.destination().into_os_string()] {
        let mut batch = bench.batch(&target, &[b"gone"]);
        batch.without.push("--force");
        assert_all_but(&batch.run(), Cause::PathsFailed, &[(b"gone", PathCause::NotDeleted)]);
        let mut batch = bench.batch(&target, &[b"turned"]);
        batch.without.push("--force");
        assert_all_but(&batch.run(), Cause::PathsFailed, &[(b"turned", PathCause::NotDeleted)]);
    }
}

#[test]
fn deletes_that_rsync_held_back_are_not_acknowledged() {
    let bench = Bench::new();
    for name in ["x", "y", "z"] {
        write(bench.destination().join(name), b"old");
    }
    write(bench.source().join("file"), b"x");
    let daemon = bench.daemon(&DaemonOptions::default());
    for target in [OsString::from(daemon.url()), bench.destination().into_os_string()] {
        let limited = bench.batch(&target, &[b"x", b"y", b"z"]).option("--max-delete=0").run();
        assert_eq!((&limited.applied, limited.cause), (&Applied::All, Cause::DeleteLimit));
        assert_eq!(limited.limited, Some(3), "they are to be held: see `worker::ship`");
        let some = bench.batch(&target, &[b"x", b"y", b"z"]).option("--max-delete=1").option("--stats").run();
        assert_eq!((some.limited, some.deleted), (Some(2), Some(1)));
        write(bench.destination().join("x"), b"old");
        write(bench.destination().join("y"), b"old");
        write(bench.destination().join("z"), b"old");
        let suppressed = bench.batch(&target, &[b"file/below", b""]).option("--delete").run();
        assert_eq!((&suppressed.applied, suppressed.cause), (&Applied::Unclear, Cause::DeletesSuppressed));
        assert_eq!(suppressed.remedy, Remedy::Halve);
        assert!(bench.destination().join("x").exists());
    }
}

#[test]
fn a_broken_run_applied_nothing() {
    let broken = |act: &dyn Fn(&Daemon, &Child)| {
        let bench = Bench::new();
        write(bench.source().join("a"), &[b'a'; 3_000_000]);
        let daemon = bench.daemon(&DaemonOptions::default());
        let started = bench.batch(daemon.url(), &[b"a"]).option("--bwlimit=300").start();
        wait_for("the file's first bytes", || has_temporary(&bench.destination()));
        act(&daemon, &started.child);
        started.finish()
    };
    let signal = |child: &Child, signal| kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let killed = broken(&|daemon, _| {
        for pid in descendants(daemon.pid()) {
            let _gone = kill(pid, Signal::SIGKILL);
        }
    });
    assert_nothing(&killed, Cause::ConnectionLost, Remedy::Probe);
    let ended = broken(&|_, child| signal(child, Signal::SIGTERM));
    assert_nothing(&ended, Cause::Interrupted, Remedy::RetryBatch);
    let own = broken(&|_, child| signal(child, Signal::SIGKILL));
    assert_eq!((own.applied, own.cause, own.remedy), (Applied::Nothing, Cause::Killed, Remedy::RetryBatch));
}

/// Names that hold what the parser looks for.
const HOSTILE: &[&[u8]] = &[
    b"new\nline",
    b"quo\"te",
    b"back\\slash",
    b"\xff\xfe",
    b"\\#123",
    b"a failed: Permission denied (13)",
    b"a\" failed: b (2)",
    b"a\" (in mirror)",
    b"x\" -> \"y",
    b"x\" (in mirror) -> \"y",
    b" blanks ",
    b"#hash",
    b"tab\there",
    b"\x7f\x01\x1b",
    b"u\xc3\xa9\xc2\x85",
    b".hidden.AbCdEf",
    b"-rf",
    b"rsync error: x",
    b"d) failed: Permission denied (13)",
];

/// Sends, deletes and links of hostile names that all fail, over three kinds of target.
#[test]
fn hostile_names_that_fail_are_read_back_exactly() {
    let bench = Bench::new();
    let daemon = bench.daemon(&DaemonOptions::default());
    let targets: [(OsString, &[u8], PathBuf); 3] = [
        (daemon.url().into(), b"", bench.destination()),
        ((daemon.url() + "/sub/deep").into(), b"sub/deep", bench.destination().join("sub/deep")),
        (bench.scratch.path().join("local").into_os_string(), b"", bench.scratch.path().join("local")),
    ];
    let kinds = ["sent", "gone", "link", "made", "open"];
    let entries: Vec<Vec<u8>> =
        kinds.iter().flat_map(|kind| HOSTILE.iter().map(move |name| [kind.as_bytes(), b"/", name].concat())).collect();
    let at = |base: &Path, entry: &[u8]| base.join(OsStr::from_bytes(entry));
    for entry in &entries {
        let path = at(&bench.source(), entry);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match &entry[..4] {
            b"sent" | b"open" => write(path, b"new"),
            b"link" => std::os::unix::fs::symlink("a\" -> \"b", path).unwrap(),
            b"made" => std::fs::create_dir(path).unwrap(),
            _ => {}
        }
    }
    for (target, module_sub, base) in targets {
        for entry in entries.iter().filter(|entry| entry.starts_with(b"gone")) {
            write(at(&base, entry), b"old");
        }
        let mut locks = Vec::new();
        for kind in ["sent", "gone", "link", "made"] {
            std::fs::create_dir_all(base.join(kind)).unwrap();
            let same = rustix::fs::Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: same, last_modification: same };
            for directory in [base.join(kind), bench.source().join(kind)] {
                rustix::fs::utimensat(rustix::fs::CWD, directory, &times, rustix::fs::AtFlags::empty()).unwrap();
            }
            let Some(lock) = Immutable::make(&base.join(kind)) else { return };
            locks.push(lock);
        }
        let mut batch = bench.batch(&target, &entries.iter().map(Vec::as_slice).collect::<Vec<_>>());
        batch.module_sub = module_sub.to_vec();
        let verdict = batch.run();
        let Applied::AllBut(failed) = &verdict.applied else { panic!("{verdict:?}") };
        let found: std::collections::BTreeSet<_> =
            failed.iter().filter(|one| one.path.as_bytes().contains(&b'/')).map(|one| one.path.as_bytes()).collect();
        let expected: std::collections::BTreeSet<_> =
            entries.iter().filter(|entry| !entry.starts_with(b"open")).map(Vec::as_slice).collect();
        assert_eq!(found, expected, "{}", target.display());
        assert!(failed.iter().all(|one| one.why == PathCause::Denied));
        // What is above the entries could only lack attributes.
        assert!(failed.iter().all(|one| one.contents == one.path.as_bytes().contains(&b'/')));
        for entry in entries.iter().filter(|entry| entry.starts_with(b"open")) {
            assert!(at(&base, entry).exists());
        }
        drop(locks);
    }
}

#[test]
fn a_file_that_cannot_be_replaced_is_named_by_its_rename() {
    let bench = Bench::new();
    let name = OsStr::from_bytes(b"a\" -> \"b\n");
    for base in [bench.destination(), bench.scratch.path().join("local")] {
        write(base.join("d").join(name), b"old");
        write(bench.source().join("d").join(name), b"newer");
        let Some(_lock) = Immutable::make(&base.join("d").join(name)) else { return };
        let daemon = bench.daemon(&DaemonOptions::default());
        let target = if base == bench.destination() { daemon.url().into() } else { base.into_os_string() };
        let verdict = bench.batch(target, &[b"d/a\" -> \"b\n"]).run();
        assert_all_but(&verdict, Cause::PathsFailed, &[(b"d/a\" -> \"b\n", PathCause::Denied)]);
    }
}

#[test]
fn a_directory_that_cannot_be_made_fails_with_what_is_beneath() {
    let bench = Bench::new();
    write(bench.source().join("locked/new/f"), b"x");
    std::fs::create_dir(bench.destination().join("locked")).unwrap();
    let Some(_lock) = Immutable::make(&bench.destination().join("locked")) else { return };
    let daemon = bench.daemon(&DaemonOptions::default());
    let verdict = bench.batch(daemon.url(), &[b"locked/new/f"]).run();
    let Applied::AllBut(failed) = &verdict.applied else { panic!("{verdict:?}") };
    let new = failed.iter().find(|one| one.path.as_bytes() == b"locked/new").unwrap();
    assert_eq!((new.why, new.contents), (PathCause::Denied, true));
}

/// rsync shortens long names for its temporary file, so `mkstemp` names a file that is not there.
#[test]
fn a_long_name_that_rsync_shortened_is_not_taken_for_another_file() {
    let bench = Bench::new();
    let name = "n".repeat(250);
    write(bench.source().join("d").join(&name), b"x");
    std::fs::create_dir(bench.destination().join("d")).unwrap();
    let Some(_lock) = Immutable::make(&bench.destination().join("d")) else { return };
    let daemon = bench.daemon(&DaemonOptions::default());
    let verdict = bench.batch(daemon.url(), &[format!("d/{name}").as_bytes()]).run();
    assert_eq!((verdict.applied, verdict.remedy), (Applied::Unclear, Remedy::Halve));
}
