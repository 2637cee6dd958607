//! `fansync mirror` with arguments that cannot work, or that a target refuses.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use fansync::lab::{Daemon, DaemonOptions, write_private};
use fansync::sys::lock::try_lock;

use crate::arguments;
use crate::bench::{Bench, Killed, lines, not_utf8};

fn login() -> DaemonOptions {
    DaemonOptions { login: Some(("backup".to_owned(), "right".to_owned())), ..DaemonOptions::default() }
}

#[test]
fn a_source_that_cannot_be_mirrored_is_refused() {
    let bench = Bench::new();
    let check = |source: &str, words: &[&str]| {
        let command = bench.fansync(&arguments!["mirror", bench.at(source), bench.at("target")]);
        let finished = bench.refused(command, 2, words);
        assert_eq!(lines(&finished).len(), 1, "{}", finished.stderr);
        assert!(!finished.stderr.contains("roots["), "the user wrote no file: {}", finished.stderr);
    };
    check("gone", &["gone", "No such file or directory", "name an existing directory"]);
    check("source/new", &["source/new is not a directory"]);
}

#[test]
fn a_target_that_is_none_is_refused_by_its_part() {
    let bench = Bench::new();
    let check = |target: &str, words: &[&str]| {
        let command = bench.fansync(&arguments!["mirror", bench.at("source"), target]);
        bench.refused(command, 2, words);
    };
    check("rsync://host", &["target 'rsync://host'", "module is missing", "rsync://host/module"]);
    check("rsync://host:99999/m", &["'99999' is not a port from 1 to 65535"]);
    check("http://host/m", &["'http://' is not supported", "rsync://host/module"]);
    check("rsync://u:secret@h/m", &["password in the URL", "password_file"]);
    check("host:", &["the directory is missing", "would delete its .ssh", "write host:directory"]);
    check("u@-oProxyCommand=x:/data", &["'-oProxyCommand=x' is not a host name"]);
    check("", &["the target is empty"]);
    check("source/inside", &["inside", "lies inside its root", "choose a directory outside"]);
    check("source", &["the root itself", "choose a directory outside"]);
    check(".", &["holds its root", "mirroring would delete"]);
    check("no/where", &["neither", "nor its parent exists", "mkdir -p"]);
    check("source/new", &["is not a directory"]);
}

#[test]
fn all_bad_targets_are_told_at_once() {
    let bench = Bench::new();
    let target = bench.at("target");
    let command = bench.fansync(&arguments!["mirror", bench.at("source"), target, target, "h:", "rsync://h"]);
    let finished = bench.refused(
        command,
        2,
        &["target is given twice; name it once", "directory is missing", "module is missing"],
    );
    assert_eq!(lines(&finished).len(), 3, "{}", finished.stderr);
}

#[test]
fn targets_that_would_delete_each_other_are_refused() {
    let bench = Bench::new();
    std::os::unix::fs::symlink("target", bench.at("alias")).unwrap();
    for second in ["target/inside", "alias", "alias/inside"] {
        let command = bench.fansync(&arguments!["mirror", bench.at("source"), bench.at("target"), bench.at(second)]);
        bench.refused(command, 2, &["target: is ", "overlaps", "choose directories apart"]);
    }
}

#[test]
fn usage_is_exit_code_2_and_shows_the_way() {
    let bench = Bench::new();
    let source = bench.at("source");
    bench.refused(bench.fansync(&["mirrow"]), 2, &["unrecognized subcommand 'mirrow'", "mirror"]);
    bench.refused(bench.fansync(&arguments!["mirror", source]), 2, &["TARGET", "--help"]);
    bench.refused(bench.fansync(&["mirror"]), 2, &["SOURCE", "--help"]);
    bench.refused(bench.fansync::<&str>(&[]), 2, &["Usage:", "mirror"]);
    let check = |option: &[&str], words: &[&str]| {
        let mut command = bench.fansync(&arguments!["mirror", source, bench.at("target")]);
        command.args(option);
        bench.refused(command, 2, words);
    };
    check(&["--lanes", "0"], &["--lanes", "1..=16"]);
    check(&["--shards", "65"], &["--shards", "1..=64"]);
    check(&["--timeout", "x"], &["--timeout"]);
    check(&["--bandwidth", "50"], &["--bandwidth", "write it like 512KiB/s or 50MiB/s"]);
    check(&["--bandwidth", "1KiB/s"], &["--bandwidth", "write 64KiB/s to 1TiB/s"]);
    check(&["--ssh-option", "ProxyJump"], &["--ssh-option", "write KEY=VALUE"]);
    check(&["--ssh-option", "ControlPath=/x"], &["--ssh-option", "'ControlPath' is for fansync to set"]);
    check(&["--nonsense"], &["--nonsense"]);
    check(&["--no-state", "--state", "x"], &["--state", "cannot be used with"]);
    check(&["--filter", ". /etc/rules"], &["/etc/rules"]);
}

#[test]
fn an_rsync_that_cannot_be_used_is_refused() {
    let bench = Bench::new();
    let words = ["mirror".into(), bench.at("source"), bench.at("target")];
    let mut command = bench.fansync(&words);
    command.env("PATH", bench.at("empty"));
    bench.refused(
        command,
        2,
        &["cannot run rsync", "not installed, or not on PATH", "apt-get install rsync", "--rsync"],
    );
    let check = |text: &str, expected: &[&str]| {
        let mut command = bench.fansync(&words);
        command.arg("--rsync").arg(bench.script("rsync", text));
        bench.refused(command, 2, expected);
    };
    check("echo 'rsync  version 3.0.9  protocol version 30'", &["version 3.0.9", "3.1.3 or later", "--rsync"]);
    check("echo 'not what you think'", &["does not answer --version like rsync"]);
    check("exit 1", &["does not answer --version like rsync"]);
    let mut command = bench.fansync(&words);
    command.arg("--rsync").arg(bench.at("source/new"));
    bench.refused(command, 2, &["cannot run", "Permission denied"]);
}

#[test]
fn a_daemon_that_refuses_is_told_with_its_words() {
    let bench = Bench::new();
    let check = |options: &DaemonOptions, url: &dyn Fn(&Daemon) -> String, password: Option<&str>, words: &[&str]| {
        let daemon = Daemon::start(&bench.at("target"), &bench.at(""), options).unwrap();
        let mut command = bench.fansync(&arguments!["mirror", bench.at("source"), url(&daemon)]);
        if let Some(password) = password {
            write_private(&bench.at("password"), password).unwrap();
            command.arg("--password-file").arg(bench.at("password"));
        }
        bench.refused(command, 2, words);
    };
    let plain = DaemonOptions::default();
    let nowhere = |daemon: &Daemon| format!("rsync://127.0.0.1:{}/nowhere", daemon.port());
    check(&plain, &nowhere, None, &["unknown module", "nowhere"]);
    check(
        &DaemonOptions { read_only: true, ..plain },
        &Daemon::url,
        None,
        &["read only", "'read only = no' in the module"],
    );
    check(&login(), &|daemon| daemon.url_for("backup"), Some("wrong\n"), &["auth failed", "password"]);
    check(&login(), &|daemon| daemon.url_for("nobody"), Some("right\n"), &["auth failed", "user"]);
    check(&login(), &|daemon| daemon.url_for("backup"), None, &["password missing", "password_file"]);
}

#[test]
fn a_password_file_that_rsync_would_not_take_is_refused() {
    let bench = Bench::new();
    let check = |prepare: &dyn Fn(&std::path::Path), words: &[&str]| {
        let file = bench.at("password file");
        let _absent = std::fs::remove_file(&file);
        prepare(&file);
        let mut command = bench.fansync(&arguments!["mirror", bench.at("source"), "rsync://127.0.0.1:1/m"]);
        command.arg("--password-file").arg(&file);
        let finished = bench.refused(command, 2, words);
        assert!(!finished.stderr.contains("roots["), "the user wrote no file: {}", finished.stderr);
    };
    check(&|_| {}, &["password file does not exist", "create it", "chmod 600 '"]);
    let open = |file: &std::path::Path| {
        write_private(file, "secret\n").unwrap();
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    };
    check(&open, &["mode 0644", "chmod 600 '"]);
    check(&|file| write_private(file, "\n").unwrap(), &["no password on its first line"]);
}

#[test]
fn as_another_user_unreadable_files_are_told_as_such() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root to become another user");
        return;
    }
    let bench = Bench::new();
    std::fs::set_permissions(bench.at(""), PermissionsExt::from_mode(0o777)).unwrap();
    write_private(&bench.at("password"), "secret\n").unwrap();
    // The build directory may be closed to others.
    let program = bench.at("fansync");
    std::fs::copy(env!("CARGO_BIN_EXE_fansync"), &program).unwrap();
    std::fs::create_dir(bench.at("closed")).unwrap();
    std::fs::set_permissions(bench.at("closed"), PermissionsExt::from_mode(0o700)).unwrap();
    let check = |source: &str, words: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.uid(65534).gid(65534).env("XDG_STATE_HOME", bench.at("state"));
        command.args(arguments!["mirror", bench.at(source), "rsync://127.0.0.1:1/m"]);
        command.arg("--password-file").arg(bench.at("password"));
        bench.refused(command, 2, words);
    };
    check("source", &["password cannot be read", "Permission denied", "run fansync as its owner, or as root"]);
    check("closed", &["closed may not be read by this user", "run fansync as root, or allow it"]);
}

#[test]
fn a_state_folder_in_use_or_unusable_is_refused() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("mine")).unwrap();
    let held = try_lock(&bench.at("mine/lock")).unwrap().unwrap();
    let command = |state: &str| {
        let mut command = bench.fansync(&arguments!["mirror", bench.at("source"), bench.at("target")]);
        command.arg("--state").arg(bench.at(state));
        command
    };
    bench.refused(command("mine"), 2, &["another fansync runs", "mine", "stop it first, or name another folder"]);
    drop(held);
    bench.refused(command("source/new/x"), 2, &["cannot create the state folder", "source/new/x", "--state"]);
    let mut homeless = bench.fansync(&arguments!["mirror", bench.at("source"), bench.at("target")]);
    homeless.env_remove("XDG_STATE_HOME").env_remove("HOME");
    bench.refused(homeless, 2, &["neither XDG_STATE_HOME nor HOME is set", "--state DIR", "--no-state"]);
}

#[test]
fn paths_that_are_not_utf8_work_or_are_shown_escaped() {
    let bench = Bench::new();
    let odd = |name: &[u8]| bench.at(not_utf8(name));
    bench.refused(bench.fansync(&arguments!["mirror", odd(b"gone\xff"), bench.at("target")]), 2, &["gone"]);
    bench.refused(bench.fansync(&arguments!["check", "--config", odd(b"conf\xff")]), 2, &["cannot read", "--config"]);
    bench.refused(bench.fansync(&arguments![not_utf8(b"mirr\xff"), "x"]), 2, &["mirr"]);
    bench.refused(
        bench.fansync(&arguments!["mirror", bench.at("source"), not_utf8(b"rsync://h\xff/m")]),
        2,
        &["plain"],
    );
    bench.refused(bench.fansync(&arguments!["mirror", bench.at("source"), odd(b"a\xff/b\xff")]), 2, &["a\\xff/b\\xff"]);

    std::fs::create_dir(odd(b"source\xff")).unwrap();
    std::fs::write(odd(b"source\xff").join(not_utf8(b"\xfe")), "odd").unwrap();
    let mut command = bench.fansync(&arguments!["mirror", odd(b"source\xff"), odd(b"target\xff")]);
    command.arg("--state").arg(odd(b"state\xff")).arg("--filter").arg(not_utf8(b"- *\xfd"));
    command.stderr(std::fs::File::create(bench.at("stderr")).unwrap()).process_group(0);
    let mut agent = Killed(command.spawn().unwrap());
    let arrived = odd(b"target\xff").join(not_utf8(b"\xfe"));
    let began = Instant::now();
    while std::fs::read(&arrived).ok().as_deref() != Some(b"odd") {
        let log = || std::fs::read_to_string(bench.at("stderr")).unwrap();
        assert!(agent.0.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(20), "{}", log());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
