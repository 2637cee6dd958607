//! A target that fails, for every real cause that can be made here: what `status` and the log say, that it is asked
//! again but not without end, that the other target of the root has its changes meanwhile, and that when the cause is
//! gone everything arrives.
//!
//! `FANSYNC_TEST_HASTE` divides the agent's pauses. What a machine does not allow (mounting, `chattr`, dropping
//! privileges) is skipped aloud; see `--nocapture`.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fansync::lab::{Daemon, DaemonOptions, MODULE, free_port, write_private};
use fansync::worker::cause::Cause;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use crate::agent::{Agent, watch_key};
use crate::compare::wait_until_equal;
use crate::ground::{Ground, PATIENCE, holds_text, until};

/// Pauses after failures are divided by this: 1 s .. 5 min become 20 ms .. 6 s, 10 min become 12 s.
const HASTE: u32 = 50;
/// How long a failing target is looked at.
const WATCHED: Duration = Duration::from_millis(1200);
/// Lines about the failing target in a test of some seconds.
const LINES_MAX: usize = 60;
const NOBODY: u32 = 65_534;

/// A root with two targets: `good`, a directory, and `bad`, which is to fail.
pub struct Field {
    pub ground: Ground,
    pub bad: PathBuf,
    /// The program, and how the agent is started.
    rsync: PathBuf,
    through: Vec<String>,
    /// Further keys of the failing target.
    pub keys: String,
    /// The key of the root that says how it is watched.
    watch: String,
    written: u32,
}

impl Field {
    pub fn new() -> Self {
        let ground = Ground::new();
        let bad = ground.place.join("bad");
        fs::create_dir(&bad).unwrap();
        fs::create_dir_all(ground.at("d/e")).unwrap();
        for number in 0..10 {
            fs::write(ground.at(&format!("d/e/{number}")), format!("old {number}")).unwrap();
        }
        fs::write(ground.at("top"), "old").unwrap();
        let keys = "timeout: 1s, connect_timeout: 1s".to_owned();
        Self { ground, bad, rsync: "rsync".into(), through: Vec::new(), keys, watch: watch_key(), written: 0 }
    }

    fn daemon(&self, options: &DaemonOptions) -> Daemon {
        Daemon::start(&self.bad, &self.ground.place, options).expect("rsync --daemon can be started")
    }

    pub fn state(&self) -> PathBuf {
        self.ground.place.join("state")
    }

    /// A live agent. `run`, because `mirror` does not start with a target that refuses.
    pub fn agent(&self, bad: &str) -> Agent {
        let config = self.ground.place.join("fansync.yaml");
        let text = format!(
            "state_dir: {}\nrsync: {}\nroots:\n  - name: data\n    path: {}\n{}    targets:\n      \
             - {{name: good, url: \"{}\"}}\n      - {{name: bad, url: \"{bad}\", {}}}\n",
            self.state().display(),
            self.rsync.display(),
            self.ground.source.display(),
            self.watch,
            self.ground.target.display(),
            self.keys,
        );
        fs::write(&config, text).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        let mut arguments = self.through.clone();
        arguments.push(env!("CARGO_BIN_EXE_fansync").to_owned());
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).arg("run").arg("--config").arg(&config);
        command.env("FANSYNC_TEST_HASTE", HASTE.to_string());
        let mut agent = Agent::spawn(command, &self.ground.place);
        agent.wait_ready();
        agent
    }

    /// Exit code and answer of `fansync status --json`.
    fn status(&self) -> Option<(i32, Value)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.args(["status", "--json", "--state"]).arg(self.state());
        let output = command.output().expect("fansync can be run");
        Some((output.status.code()?, serde_json::from_slice(&output.stdout).ok()?))
    }

    pub fn target(&self, name: &str) -> Option<(i32, Value)> {
        let (code, status) = self.status()?;
        let targets = status["roots"][0]["targets"].as_array()?;
        Some((code, targets.iter().find(|target| target["name"] == name)?.clone()))
    }

    fn retry(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        let status = command.args(["retry", "--state"]).arg(self.state()).status().expect("fansync can be run");
        assert!(status.success());
    }

    /// A change of each kind, which the good target must have soon.
    pub fn change(&mut self, agent: &Agent) {
        self.written += 1;
        let number = self.written;
        fs::create_dir_all(self.ground.at(&format!("new/{number}"))).unwrap();
        fs::write(self.ground.at(&format!("new/{number}/f")), format!("new {number}")).unwrap();
        let text = format!("changed {number}");
        fs::write(self.ground.at("top"), &text).unwrap();
        let gone = format!("d/e/{}", number % 10);
        let _gone_before = fs::remove_file(self.ground.at(&gone));
        until("change on the good target", PATIENCE, agent, || {
            holds_text(&self.ground.there("top"), &text)
                && self.ground.there(&format!("new/{number}/f")).exists()
                && !self.ground.there(&gone).exists()
        });
    }

    /// The target fails for `cause`: status and log say so, with the words that `words` are part of and the hint; it is
    /// asked again, at most `asked` times while we look, and few lines are written; the good target has every change.
    pub fn suffers(&mut self, agent: &Agent, cause: Cause, words: &str, asked: std::ops::RangeInclusive<u64>) {
        self.change(agent);
        let mut last = Value::Null;
        let name = cause.name();
        until(&format!("word of {name}"), PATIENCE, agent, || {
            let Some((code, target)) = self.target("bad") else { return false };
            last = target;
            code == 3 && last["cause"] == name && last["words"].as_str().is_some_and(|said| said.contains(words))
        });
        assert_eq!(last["hint"].as_str(), cause.hint(), "{last}");
        let began = Instant::now();
        let before = last["failures"].as_u64().unwrap();
        let mut waits_told = 0;
        while began.elapsed() < WATCHED {
            self.change(agent);
            let (code, target) = self.target("bad").unwrap();
            assert_eq!(code, 3, "{target}");
            if target["state"] == "paused" {
                waits_told += 1;
                assert!(target["retry_in_seconds"].as_f64().is_some_and(|seconds| seconds <= 6.1), "{target}");
            }
            last = target;
        }
        assert!(waits_told > 0 || last["state"] == "probing", "it is left alone between the attempts: {last}");
        let failures = last["failures"].as_u64().unwrap() - before.min(1);
        assert!(asked.contains(&failures), "{failures} attempts in {:?}: {last}", began.elapsed());
        assert!(last["pending"].as_u64().unwrap() > 0, "{last}");
        let good = self.target("good").unwrap().1;
        assert_eq!((&good["state"], &good["cause"], good["failures"].as_u64()), (&"ok".into(), &Value::Null, Some(0)));
        let log = agent.log();
        let line = log.lines().find(|line| line.contains("does not take changes") && line.contains(name));
        let line = line.unwrap_or_else(|| panic!("no line of {name} in:\n{log}"));
        assert!(line.contains("target=\"bad\"") && line.contains(words) && line.contains("retry_in_ms="), "{line}");
        assert!(cause.hint().is_none_or(|hint| line.contains(hint)), "{line}");
        self.few_lines(agent);
    }

    fn few_lines(&self, agent: &Agent) {
        let log = agent.log();
        let lines = log.lines().filter(|line| line.contains("target=\"bad\"")).count();
        assert!(lines <= LINES_MAX, "{lines} lines:\n{log}");
    }

    /// The cause is gone: everything arrives by itself, and all is well.
    pub fn heals(&mut self, agent: &mut Agent) {
        self.change(agent);
        self.is_well(agent);
        assert!(agent.terminate().success(), "{}", agent.last_log_lines(40));
    }

    pub fn is_well(&self, agent: &Agent) {
        if let Err(found) = wait_until_equal(&self.ground.source, &self.bad, PATIENCE, Duration::from_millis(20)) {
            panic!("not equal:\n{}\n{}", found.join("\n"), agent.last_log_lines(40));
        }
        self.ground.wait_equal(agent);
        let mut last = None;
        until("status of a healthy agent", PATIENCE, agent, || {
            last = self.target("bad");
            last.as_ref().is_some_and(|(code, target)| {
                *code == 0 && target["pending"] == 0 && target["state"] == "ok" && target["cause"].is_null()
            })
        });
    }
}

/// What a target with [`Cause::remedy`] of the slow or normal kind may be asked in [`WATCHED`] and before: at the very
/// least pauses grow, so it is a logarithm of the time.
pub const RARELY: std::ops::RangeInclusive<u64> = 1..=12;

/// The daemon's options are wrong and are corrected by a restart.
fn cured_by_restart(wrong: DaemonOptions, cause: Cause, words: &str) {
    let mut field = Field::new();
    let daemon = field.daemon(&wrong);
    let (url, port) = (daemon.url(), daemon.port());
    let mut agent = field.agent(&url);
    field.suffers(&agent, cause, words, RARELY);
    drop(daemon);
    let right = DaemonOptions { port: Some(port), ..DaemonOptions::default() };
    let _daemon = field.daemon(&right);
    field.heals(&mut agent);
}

#[test]
fn a_read_only_module_is_told_of_and_catches_up_when_it_may_be_written() {
    let wrong = DaemonOptions { read_only: true, ..DaemonOptions::default() };
    cured_by_restart(wrong, Cause::ReadOnly, "module is read only");
}

#[test]
fn a_host_that_is_denied_is_told_of_and_catches_up_when_it_is_allowed() {
    let wrong = DaemonOptions { extra: "    hosts deny = *\n".to_owned(), ..DaemonOptions::default() };
    cured_by_restart(wrong, Cause::HostDenied, "access denied");
}

#[test]
fn a_refused_option_is_told_of_and_catches_up_when_it_is_accepted() {
    let wrong = DaemonOptions { refuse: "force".to_owned(), ..DaemonOptions::default() };
    cured_by_restart(wrong, Cause::OptionRefused, "refuse --force");
}

#[test]
fn a_daemon_that_is_away_is_told_of_and_catches_up_when_it_is_back() {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions::default());
    let (url, port) = (daemon.url(), daemon.port());
    let mut agent = field.agent(&url);
    field.is_well(&agent);
    drop(daemon);
    field.suffers(&agent, Cause::ConnectionRefused, "Connection refused", 1..=14);
    let _daemon = field.daemon(&DaemonOptions { port: Some(port), ..DaemonOptions::default() });
    field.heals(&mut agent);
}

#[test]
fn a_wrong_password_is_asked_with_again_and_works_once_it_is_right() {
    let mut field = Field::new();
    let login = Some(("user".to_owned(), "secret".to_owned()));
    let daemon = field.daemon(&DaemonOptions { login, ..DaemonOptions::default() });
    let file = field.ground.place.join("password");
    write_private(&file, "guess\n").unwrap();
    field.keys = format!("{}, password_file: {}", field.keys, file.display());
    let mut agent = field.agent(&daemon.url_for("user"));
    field.suffers(&agent, Cause::AuthFailed, "auth failed", RARELY);
    fs::remove_file(&file).unwrap();
    field.suffers(&agent, Cause::PasswordFile, "could not open password file", 1..=16);
    write_private(&file, "secret\n").unwrap();
    field.heals(&mut agent);
}

#[test]
fn an_unknown_module_is_told_of_and_catches_up_when_it_is_added() {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions::default());
    let url = format!("rsync://127.0.0.1:{}/later", daemon.port());
    let mut agent = field.agent(&url);
    field.suffers(&agent, Cause::UnknownModule, "Unknown module 'later'", RARELY);
    let configuration = field.ground.place.join(format!("rsyncd-{}.conf", daemon.port()));
    let text = fs::read_to_string(&configuration).unwrap();
    // rsync reads it for every connection.
    fs::write(&configuration, text.replace(&format!("[{MODULE}]"), "[later]")).unwrap();
    field.heals(&mut agent);
}

#[test]
fn a_module_without_its_directory_is_told_of_and_gets_everything_when_it_is_back_empty() {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions::default());
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    fs::remove_dir_all(&field.bad).unwrap();
    let words = if geteuid().is_root() { "chroot failed" } else { "chdir failed" };
    field.suffers(&agent, Cause::ModulePath, words, RARELY);
    fs::create_dir(&field.bad).unwrap();
    field.heals(&mut agent);
}

#[test]
fn a_stopped_daemon_is_told_of_and_catches_up_when_it_goes_on() {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions::default());
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    let group = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    killpg(group, Signal::SIGSTOP).unwrap();
    field.suffers(&agent, Cause::IoTimeout, "timeout", 0..=6);
    killpg(group, Signal::SIGCONT).unwrap();
    field.heals(&mut agent);
}

#[test]
fn a_port_that_says_nothing_is_told_of_and_catches_up_when_a_daemon_listens_there() {
    let mut field = Field::new();
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = mute.local_addr().unwrap().port();
    let mut agent = field.agent(&format!("rsync://127.0.0.1:{port}/{MODULE}"));
    field.suffers(&agent, Cause::IoTimeout, "timeout", 0..=6);
    drop(mute);
    let _daemon = field.daemon(&DaemonOptions { port: Some(port), ..DaemonOptions::default() });
    field.heals(&mut agent);
}

/// Answers every connection with `words` until it is dropped.
struct Stranger {
    port: u16,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u32>>,
}

impl Stranger {
    fn start(words: &'static [u8]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut served = 0;
            while let Ok((mut stream, _)) = listener.accept() {
                if ended.load(Ordering::Acquire) {
                    break;
                }
                served += 1;
                let mut line = String::new();
                let _hung_up = BufReader::new(&stream).read_line(&mut line);
                let _hung_up = stream.write_all(words);
                let _hung_up = stream.shutdown(Shutdown::Write);
                let _rest = stream.read_to_end(&mut Vec::new());
            }
            served
        });
        Self { port, end, thread: Some(thread) }
    }

    /// How many connections it had.
    fn stop(mut self) -> u32 {
        self.end.store(true, Ordering::Release);
        let _wakes_it = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        self.thread.take().unwrap().join().unwrap()
    }
}

#[test]
fn a_server_that_is_no_rsync_is_told_of_and_catches_up_when_it_is_one() {
    let mut field = Field::new();
    let stranger = Stranger::start(b"SSH-2.0-OpenSSH_9.2p1\r\n");
    let port = stranger.port;
    let mut agent = field.agent(&format!("rsync://127.0.0.1:{port}/{MODULE}"));
    field.suffers(&agent, Cause::NotRsync, "rather than greeting", RARELY);
    let served = stranger.stop();
    assert!((2..=30).contains(&served), "{served} connections");
    let _daemon = field.daemon(&DaemonOptions { port: Some(port), ..DaemonOptions::default() });
    field.heals(&mut agent);
}

#[test]
fn a_daemon_without_a_free_slot_is_asked_again_soon() {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions { connections_max: 1, ..DaemonOptions::default() });
    let mut holder = TcpStream::connect((Ipv4Addr::LOCALHOST, daemon.port())).unwrap();
    let mut answers = BufReader::new(holder.try_clone().unwrap());
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    // The slot is taken when a module is chosen.
    holder.write_all(format!("{line}{MODULE}\n").as_bytes()).unwrap();
    line.clear();
    answers.read_line(&mut line).unwrap();
    assert!(line.contains("OK"), "{line}");
    let mut agent = field.agent(&daemon.url());
    field.suffers(&agent, Cause::ConnectionLimit, "max connections", 3..=40);
    drop((holder, answers));
    field.heals(&mut agent);
}

#[test]
fn a_name_without_an_address_is_told_of_and_catches_up_when_it_has_one() {
    let mut field = Field::new();
    let hosts = field.ground.place.join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let names = field.ground.place.join("nsswitch.conf");
    fs::write(&names, "hosts: files\n").unwrap();
    let script = format!(
        "mount --bind {} /etc/hosts && {{ [ ! -e /etc/nsswitch.conf ] || mount --bind {} /etc/nsswitch.conf; }} && exec \"$@\"",
        hosts.display(),
        names.display()
    );
    let through = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned);
    let allowed = Command::new(&through[0]).args(&through[1..]).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a mount namespace of its own is not to be had here");
        return;
    }
    field.through = through.to_vec();
    let daemon = field.daemon(&DaemonOptions::default());
    let mut agent = field.agent(&format!("rsync://fansync-test.invalid:{}/{MODULE}", daemon.port()));
    field.suffers(&agent, Cause::NameUnresolved, "fansync-test.invalid", RARELY);
    // In place: the mount is of this file.
    fs::write(&hosts, "127.0.0.1 localhost fansync-test.invalid\n").unwrap();
    field.heals(&mut agent);
}

/// A program beside rsync, first asked for its version, that does `what` before it becomes rsync.
fn program(field: &Field, what: &str) -> PathBuf {
    let program = field.ground.place.join("rsync-program");
    fs::write(&program, format!("#!/bin/sh\n{what}\nexec rsync \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn a_program_that_vanishes_is_told_of_and_everything_arrives_when_it_is_back() {
    let mut field = Field::new();
    field.rsync = program(&field, "");
    let daemon = field.daemon(&DaemonOptions::default());
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    let away = field.ground.place.join("away");
    fs::rename(&field.rsync, &away).unwrap();
    fs::write(field.ground.at("top"), "while it is away").unwrap();
    for name in ["good", "bad"] {
        until("word of the missing program", PATIENCE, &agent, || {
            field.target(name).is_some_and(|(code, target)| code == 3 && target["cause"] == "rsync_not_found")
        });
    }
    assert!(agent.log().contains("install rsync, or name the program"), "{}", agent.log());
    fs::rename(&away, &field.rsync).unwrap();
    field.heals(&mut agent);
}

/// rsync 3.4.3 as a receiver (notes/rsync.md 9): an entry that the source lacks ends the run, and nothing is applied.
#[test]
fn a_receiver_that_takes_no_missing_arguments_gets_its_deletes_otherwise() {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions::default());
    let missing = format!(
        "case \"$*\" in *--delete-missing-args*:{port}/*) tr '\\0' '\\n' < /dev/stdin | while IFS= read -r name; do\n\
         [ -e \"{source}$name\" ] || {{ echo \"invalid file mode 00 for ${{name#/}} [Receiver]\" >&2; \
         echo 'rsync error: protocol incompatibility (code 2) at flist.c(1) [Receiver=3.4.3]' >&2; exit 2; }}\n\
         done || exit 2;; esac",
        port = daemon.port(),
        source = field.ground.source.display()
    );
    field.rsync = program(&field, &missing);
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    assert!(!agent.log().contains("cannot take --delete-missing-args"), "{}", agent.log());
    fs::remove_dir_all(field.ground.at("d/e")).unwrap();
    fs::remove_file(field.ground.at("top")).unwrap();
    field.is_well(&agent);
    assert_eq!(agent.log().matches("cannot take --delete-missing-args").count(), 1, "{}", agent.log());
    field.heals(&mut agent);
}

#[test]
fn a_daemon_that_refuses_missing_arguments_gets_its_deletes_otherwise() {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions { refuse: "delete-missing-args".to_owned(), ..DaemonOptions::default() });
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    fs::remove_dir_all(field.ground.at("d/e")).unwrap();
    fs::remove_file(field.ground.at("top")).unwrap();
    field.is_well(&agent);
    assert_eq!(agent.log().matches("cannot take --delete-missing-args").count(), 1, "{}", agent.log());
    field.heals(&mut agent);
}

/// Whatever a single path does to rsync, it ends alone, and its neighbours arrive.
fn poisoned_by(act: &str, words: &str) {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions::default());
    let trap = field.ground.place.join("trap");
    let what = format!(
        "case \"$*\" in *:{}/*) if [ -e {} ] && grep -q poison < /dev/stdin; then {act}; fi;; esac",
        daemon.port(),
        trap.display()
    );
    field.rsync = program(&field, &what);
    // This program reads the list and leaves it to rsync to read it again, as only a file can be.
    field.keys.push_str(", warm: 0");
    fs::create_dir(field.ground.at("many")).unwrap();
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    fs::write(&trap, "").unwrap();
    for number in 0..60 {
        let name = if number == 23 { "poison".to_owned() } else { number.to_string() };
        fs::write(field.ground.at(&format!("many/{name}")), format!("{number}")).unwrap();
    }
    let mut last = Value::Null;
    until("dead letter", PATIENCE, &agent, || {
        last = field.target("bad").map_or(Value::Null, |(_, target)| target);
        last["dead_letters"]["count"] == 1 && (0..60).all(|n| n == 23 || field.bad.join(format!("many/{n}")).exists())
    });
    let letter = &last["dead_letters"]["first"][0];
    assert_eq!(letter["path"], "many/poison", "{last}");
    assert!(letter["attempts"].as_u64().unwrap() >= 8, "{last}");
    assert!(letter["words"].as_str().unwrap().contains(words), "{last}");
    assert!(letter["retry_in_seconds"].as_f64().is_none_or(|seconds| seconds <= 12.1), "{last}");
    field.change(&agent);
    until("change beside the poison", PATIENCE, &agent, || {
        holds_text(&field.bad.join("top"), &format!("changed {}", field.written))
    });
    field.few_lines(&agent);
    assert!(agent.log().contains("dead letter"), "{}", agent.log());
    fs::remove_file(&trap).unwrap();
    field.retry();
    field.heals(&mut agent);
}

#[test]
fn a_path_that_kills_rsync_ends_alone() {
    poisoned_by("kill -9 $$", "ended by signal 9");
}

#[test]
fn a_path_that_rsync_does_not_name_ends_alone() {
    poisoned_by("echo 'rsync: something nobody has ever read' >&2; exit 23", "nobody has ever read");
}

#[test]
fn a_path_that_looks_like_a_silent_target_ends_alone() {
    poisoned_by("echo '[sender] io timeout after 1 seconds -- exiting' >&2; exit 30", "io timeout");
}

/// A small file system of its own; `None`, and a word about it, when not allowed.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "fansync-test"]).arg(at).output();
        if output.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("skipped: a tmpfs with {options} cannot be mounted here");
        None
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a receiver may still be in it.
        let _status = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_target_takes_what_fits_and_the_rest_when_there_is_room() {
    let mut field = Field::new();
    let Some(disk) = Mounted::tmpfs(&field.bad, "size=1m,mode=755") else { return };
    let daemon = field.daemon(&DaemonOptions::default());
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    // In the order of their names and of their events the large ones come first.
    for number in 0..20 {
        fs::write(field.ground.at(&format!("a large {number}")), vec![b'x'; 2 << 20]).unwrap();
    }
    for number in 0..40 {
        fs::write(field.ground.at(&format!("small {number}")), "small").unwrap();
    }
    let took = until("what fits", PATIENCE, &agent, || {
        (0..40).all(|number| field.bad.join(format!("small {number}")).exists())
    });
    println!("full target: 40 small files behind 20 that do not fit after {took:?}");
    let mut last = Value::Null;
    until("word of the full target", PATIENCE, &agent, || {
        let Some((code, target)) = field.target("bad") else { return false };
        last = target;
        code == 3 && last["cause"] == "target_full" && last["pending"].as_u64().is_some_and(|pending| pending >= 20)
    });
    assert!(last["words"].as_str().unwrap().contains("No space left on device"), "{last}");
    assert_eq!(last["hint"].as_str(), Cause::TargetFull.hint());
    for _change in 0..5 {
        field.change(&agent);
        until("change that fits", PATIENCE, &agent, || {
            holds_text(&field.bad.join("top"), &format!("changed {}", field.written))
        });
    }
    field.few_lines(&agent);
    // A path of which the source has no more need, while it waits.
    fs::remove_file(field.ground.at("a large 7")).unwrap();
    disk.remount("size=64m");
    field.heals(&mut agent);
    drop(daemon);
}

#[test]
fn a_target_without_inodes_catches_up_when_it_has_some() {
    let mut field = Field::new();
    let Some(disk) = Mounted::tmpfs(&field.bad, "nr_inodes=60,mode=755") else { return };
    let daemon = field.daemon(&DaemonOptions::default());
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    for number in 0..200 {
        fs::write(field.ground.at(&format!("file {number}")), "content").unwrap();
    }
    let mut last = Value::Null;
    until("word of the full target", PATIENCE, &agent, || {
        let Some((code, target)) = field.target("bad") else { return false };
        last = target;
        code == 3 && last["cause"] == "target_full"
    });
    assert!(last["words"].as_str().unwrap().contains("No space left on device"), "{last}");
    until("changes on the good target", PATIENCE, &agent, || field.ground.there("file 199").exists());
    field.few_lines(&agent);
    disk.remount("nr_inodes=10000");
    field.heals(&mut agent);
    drop(daemon);
}

/// A daemon that is nobody, for a target whose rights are to be missed.
fn daemon_as_nobody(field: &Field) -> Option<Daemon> {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can have a daemon that is somebody else");
        return None;
    }
    chown(&field.bad, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&field.bad, fs::Permissions::from_mode(0o755)).unwrap();
    let extra = format!("    uid = {NOBODY}\n    gid = {NOBODY}\n");
    Some(field.daemon(&DaemonOptions { extra, ..DaemonOptions::default() }))
}

/// The same names and contents; owners cannot be the same for somebody who is not root.
fn same_content(source: &Path, target: &Path) -> bool {
    let output = Command::new("diff").args([OsStr::new("-r"), source.as_os_str(), target.as_os_str()]).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn a_target_beyond_its_quota_catches_up_when_the_quota_is_raised() {
    let mut field = Field::new();
    let Some(_disk) = Mounted::tmpfs(&field.bad, "size=64m,usrquota,usrquota_block_hardlimit=1m,mode=755") else {
        return;
    };
    let Some(daemon) = daemon_as_nobody(&field) else { return };
    let mut agent = field.agent(&daemon.url());
    until("comparison", PATIENCE, &agent, || same_content(&field.ground.source, &field.bad));
    for number in 0..3 {
        fs::write(field.ground.at(&format!("a large {number}")), vec![b'x'; 2 << 20]).unwrap();
    }
    field.change(&agent);
    let mut last = Value::Null;
    until("word of the quota", PATIENCE, &agent, || {
        let Some((code, target)) = field.target("bad") else { return false };
        last = target;
        code == 3 && last["cause"] == "target_full" && last["words"].as_str().unwrap().contains("quota")
    });
    until("what fits", PATIENCE, &agent, || holds_text(&field.bad.join("top"), &format!("changed {}", field.written)));
    field.few_lines(&agent);
    // The only way to more room that needs no tool: less in the source.
    for number in 0..3 {
        fs::write(field.ground.at(&format!("a large {number}")), "small now").unwrap();
    }
    until("the rest", PATIENCE, &agent, || same_content(&field.ground.source, &field.bad));
    until("health", PATIENCE, &agent, || field.target("bad").is_some_and(|(code, _)| code == 0));
    assert!(agent.terminate().success());
}

/// Waits until `path` is a dead letter of the target.
fn dead_letter(field: &Field, agent: &Agent, path: &str, words: &str) {
    let mut last = Value::Null;
    let at = Instant::now();
    until(&format!("dead letter {path}"), PATIENCE, agent, || {
        let Some((code, target)) = field.target("bad") else { return false };
        last = target;
        let letters = last["dead_letters"]["first"].as_array().unwrap();
        let letter = letters.iter().find(|letter| letter["path"] == path);
        code == 3 && letter.is_some_and(|letter| letter["words"].as_str().unwrap().contains(words))
    });
    println!("dead letter {path} after {:?}", at.elapsed());
    assert_eq!((&last["state"], &last["cause"]), (&"ok".into(), &Value::Null), "the target itself is well: {last}");
}

#[test]
fn paths_that_the_target_may_not_write_become_dead_letters_and_arrive_when_it_may() {
    let mut field = Field::new();
    fs::create_dir(field.ground.at("closed")).unwrap();
    let Some(daemon) = daemon_as_nobody(&field) else { return };
    let mut agent = field.agent(&daemon.url());
    until("comparison", PATIENCE, &agent, || same_content(&field.ground.source, &field.bad));
    let closed = field.bad.join("closed");
    chown(&closed, Some(0), Some(0)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
    for number in 0..3 {
        fs::write(field.ground.at(&format!("closed/{number}")), "new").unwrap();
    }
    for number in 0..3 {
        field.change(&agent);
        until("change beside", PATIENCE, &agent, || {
            holds_text(&field.bad.join("top"), &format!("changed {}", field.written))
        });
        dead_letter(&field, &agent, &format!("closed/{number}"), "Permission denied (13)");
    }
    field.few_lines(&agent);
    // One is gone meanwhile, and with it its letter.
    fs::remove_file(field.ground.at("closed/1")).unwrap();
    chown(&closed, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    field.retry();
    until("the rest", PATIENCE, &agent, || same_content(&field.ground.source, &field.bad));
    until("health", PATIENCE, &agent, || field.target("bad").is_some_and(|(code, _)| code == 0));
    assert!(agent.terminate().success());
}

/// A file that nobody can change until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn make(path: &Path) -> Option<Self> {
        if Command::new("chattr").arg("+i").arg(path).output().is_ok_and(|output| output.status.success()) {
            return Some(Self(path.to_owned()));
        }
        eprintln!("skipped: chattr +i {} takes root and a file system that knows it", path.display());
        None
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _status = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

#[test]
fn an_immutable_file_becomes_a_dead_letter_that_is_tried_until_it_arrives() {
    let mut field = Field::new();
    let daemon = field.daemon(&DaemonOptions::default());
    let mut agent = field.agent(&daemon.url());
    field.is_well(&agent);
    let names = ["d/e/1", "d/e/2"];
    let mut locks: Vec<Immutable> = Vec::new();
    for name in names {
        let Some(lock) = Immutable::make(&field.bad.join(name)) else { return };
        locks.push(lock);
        fs::write(field.ground.at(name), "changed and longer").unwrap();
    }
    for name in names {
        dead_letter(&field, &agent, name, "Operation not permitted (1)");
    }
    // Gone in the source, but the target cannot let it go either.
    fs::remove_file(field.ground.at(names[1])).unwrap();
    field.written = 3;
    field.change(&agent);
    dead_letter(&field, &agent, names[1], "Operation not permitted (1)");
    field.few_lines(&agent);
    drop(locks);
    // Without `retry`: they are tried every ten minutes, which are twelve seconds here.
    field.heals(&mut agent);
}

#[test]
fn unreadable_paths_of_the_source_become_dead_letters_and_arrive_when_they_can_be_read() {
    let mut field = Field::new();
    if !geteuid().is_root() {
        eprintln!("skipped: only root can have an agent that is somebody else");
        return;
    }
    field.through = ["setpriv", &format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"]
        .map(str::to_owned)
        .to_vec();
    let allowed = Command::new(&field.through[0]).args(&field.through[1..]).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: setpriv cannot drop privileges here");
        return;
    }
    let program = Command::new(&field.through[0])
        .args(&field.through[1..])
        .args(["test", "-x", env!("CARGO_BIN_EXE_fansync")])
        .output();
    if !program.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: somebody else cannot run {}", env!("CARGO_BIN_EXE_fansync"));
        return;
    }
    fs::create_dir(field.ground.at("closed")).unwrap();
    fs::write(field.ground.at("closed/f"), "hidden").unwrap();
    fs::write(field.ground.at("secret"), "hidden").unwrap();
    fs::set_permissions(&field.ground.place, fs::Permissions::from_mode(0o777)).unwrap();
    for top in [&field.ground.source, &field.ground.target, &field.bad] {
        let owned = Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(top).status().unwrap();
        assert!(owned.success());
    }
    for name in ["closed", "secret"] {
        fs::set_permissions(field.ground.at(name), fs::Permissions::from_mode(0o0)).unwrap();
    }
    let bad = field.bad.display().to_string();
    field.keys = "timeout: 1s".to_owned();
    // A mark takes root.
    field.watch = "    watch: inotify\n".to_owned();
    let mut agent = field.agent(&bad);
    for name in ["d/e/1", "d/e/9", "top"] {
        until("what can be read", PATIENCE, &agent, || field.bad.join(name).exists());
    }
    dead_letter(&field, &agent, "closed", "could not be listed");
    dead_letter(&field, &agent, "secret", "Permission denied (13)");
    let (_, told) = field.target("bad").unwrap();
    assert_eq!(told["compared"], true, "but for what is known to fail: {told}");
    field.change(&agent);
    until("change beside", PATIENCE, &agent, || {
        holds_text(&field.bad.join("top"), &format!("changed {}", field.written))
    });
    field.few_lines(&agent);
    for name in ["closed", "secret"] {
        fs::set_permissions(field.ground.at(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    until("the rest", PATIENCE, &agent, || same_content(&field.ground.source, &field.bad));
    assert!(agent.terminate().success());
}

/// A target that comes and goes: bounded lines, no path is blamed, and everything arrives.
#[test]
fn a_target_that_flaps_is_summed_up_and_nothing_of_it_becomes_a_dead_letter() {
    let mut field = Field::new();
    let port = free_port().unwrap();
    let options = DaemonOptions { port: Some(port), ..DaemonOptions::default() };
    let mut agent = field.agent(&format!("rsync://127.0.0.1:{port}/{MODULE}"));
    let mut daemon = None;
    for round in 0..30 {
        fs::write(field.ground.at("large"), vec![b'0' + round; 1 << 20]).unwrap();
        field.change(&agent);
        daemon = match daemon {
            Some(_) => None,
            None => Some(field.daemon(&options)),
        };
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(60) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
    let _daemon = daemon.unwrap_or_else(|| field.daemon(&options));
    field.is_well(&agent);
    assert!(!agent.log().contains("dead letter"), "{}", agent.log());
    field.few_lines(&agent);
    let flaps = agent.log().matches("does not take changes").count();
    assert!(flaps >= 3, "{}", agent.log());
    field.heals(&mut agent);
}
