//! `fansync doctor` and `fansync tune`: on limits of a made-up machine, so that this one keeps its own, and on this one as
//! root, as nobody, in a user namespace and on an overlay.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::arguments;
use crate::bench::{Bench, Finished};
use crate::queue_lock::lock_queues;

/// What a kernel has by itself, on a machine with little memory.
const DEFAULTS: [(&str, u64); 10] = [
    ("fs/inotify/max_user_watches", 8192),
    ("fs/inotify/max_queued_events", 16_384),
    ("fs/inotify/max_user_instances", 128),
    ("fs/fanotify/max_queued_events", 16_384),
    ("fs/fanotify/max_user_groups", 128),
    ("fs/fanotify/max_user_marks", 8192),
    ("user/max_inotify_watches", 8192),
    ("user/max_inotify_instances", 128),
    ("user/max_fanotify_groups", 128),
    ("user/max_fanotify_marks", 8192),
];

/// A made-up /proc with these limits.
fn made_up(bench: &Bench, limits: &[(&str, u64)]) -> PathBuf {
    let proc = bench.at("proc");
    for (name, number) in limits {
        let file = proc.join("sys").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("{number}\n")).unwrap();
    }
    fs::create_dir_all(proc.join("self")).unwrap();
    fs::create_dir_all(proc.join("sys/kernel")).unwrap();
    fs::write(proc.join("sys/kernel/osrelease"), "6.18.0\n").unwrap();
    fs::write(proc.join("meminfo"), "MemTotal:       2097152 kB\n").unwrap();
    fs::write(proc.join("self/status"), "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n").unwrap();
    fs::write(proc.join("self/uid_map"), "         0          0 4294967295\n").unwrap();
    proc
}

fn limit(bench: &Bench, name: &str) -> u64 {
    fs::read_to_string(bench.at("proc/sys").join(name)).unwrap().trim().parse().unwrap()
}

/// `count` directories in the source.
fn directories(bench: &Bench, count: usize) {
    for number in 0..count {
        fs::create_dir(bench.at(format!("source/d{number}"))).unwrap();
    }
}

/// The findings of a run, whatever its exit code.
fn told(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", finished.stdout, finished.stderr))
}

/// The findings of this name.
fn named<'a>(told: &'a Value, name: &str) -> Vec<&'a Value> {
    told["findings"].as_array().unwrap().iter().filter(|finding| finding["name"] == name).collect()
}

/// The levels of everything about the kernel's limits.
fn levels_of_limits(told: &Value) -> Vec<(String, String)> {
    let of_limits = |name: &str| name.starts_with("inotify") || name.starts_with("fanotify") || name == "memory";
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = told["findings"].as_array().unwrap().iter();
    let findings = findings.map(|finding| (text(&finding["name"]), text(&finding["level"])));
    findings.filter(|(name, _)| of_limits(name)).collect()
}

fn are_well(told: &Value) -> bool {
    levels_of_limits(told).iter().all(|(_, level)| level == "ok")
}

#[test]
fn limits_that_a_tree_outgrows_are_told_raised_and_well_after_that() {
    let bench = Bench::new();
    directories(&bench, 30);
    let mut limits = DEFAULTS;
    limits[0].1 = 20;
    let proc = made_up(&bench, &limits);
    // Where fanotify is possible it would be taken.
    let config =
        bench.yaml("state_dir: @/state\nroots:\n  - {path: @/source, watch: inotify, targets: [{url: @/target}]}\n");
    let run = |arguments: &[&str]| {
        let mut command = bench.fansync(arguments);
        command.arg("--config").arg(&config).env("FANSYNC_TEST_PROC", &proc);
        bench.finish(command)
    };
    let doctor = run(&["doctor"]);
    assert_eq!(doctor.code, Some(3), "{}{}", doctor.stdout, doctor.stderr);
    for line in [
        "problem  inotify watches: fs.inotify.max_user_watches is 20, 0 are taken; 31 directories need one each",
        "           why: 11 directories would have no watch",
        "          mend: sysctl -w fs.inotify.max_user_watches=131072",
        "                fs.inotify.max_user_watches = 131072   (a line for /etc/sysctl.d/90-fansync.conf",
        "warning  inotify queue: fs.inotify.max_queued_events is 16,384 events",
        "warning  fanotify queue: fs.fanotify.max_queued_events is 16,384 events",
        "ok       memory: watches may hold 25 % of 2.0 GiB of RAM: 512.0 MiB, which is 412,977 watches",
    ] {
        assert!(doctor.stdout.contains(line), "{line}\n{}", doctor.stdout);
    }

    let dry = run(&["tune"]);
    assert_eq!(dry.code, Some(0), "{}", dry.stderr);
    assert_eq!(dry.stdout, run(&["tune", "--dry-run"]).stdout);
    assert!(
        dry.stdout.contains("fs.inotify.max_user_watches would be raised from 20 to 131072\n    1.5 x 31 directories")
    );
    assert_eq!(limit(&bench, "fs/inotify/max_user_watches"), 20);

    let applied = run(&["tune", "--apply"]);
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    assert!(applied.stdout.contains("fs.inotify.max_user_watches raised from 20 to 131072\n"), "{}", applied.stdout);
    assert_eq!(limit(&bench, "fs/inotify/max_user_watches"), 131_072);
    assert_eq!(limit(&bench, "fs/fanotify/max_queued_events"), 1_048_576);
    let again = run(&["tune", "--apply"]);
    assert!(!again.stdout.contains("raised"), "{}", again.stdout);

    let after = run(&["doctor", "--json"]);
    let told = told(&after);
    assert!(are_well(&told), "{:?}", levels_of_limits(&told));
    assert_eq!(named(&told, "inotify_watches")[0]["figures"]["needed"], 31);
    assert_eq!(named(&told, "directories")[0]["subject"], bench.at("source").to_str().unwrap());
    assert!(told["version"].is_string() && told["worst"].is_string());
    let uncounted = run(&["doctor", "--no-count"]);
    assert!(uncounted.stdout.contains("no directories were counted"), "{}", uncounted.stdout);
}

#[test]
fn a_file_for_sysctl_is_written_whole_and_only_over_ones_own() {
    let bench = Bench::new();
    let mut limits = DEFAULTS;
    limits[2].1 = 4096;
    let proc = made_up(&bench, &limits);
    let file = bench.at("90-fansync.conf");
    let write = |options: &[&str]| {
        let mut command = bench.fansync(&arguments!["tune", "--directories", "111000", "--write", file]);
        command.args(options).env("FANSYNC_TEST_PROC", &proc);
        command
    };
    let written = bench.finish(write(&[]));
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    assert!(written.stdout.contains("sysctl --system"), "{}", written.stdout);
    let text = fs::read_to_string(&file).unwrap();
    for line in [
        "\nfs.inotify.max_user_watches = 262144\n",
        // It is not lowered.
        "\nfs.inotify.max_user_instances = 4096\n",
        "\n# 1.5 x 111,000 directories + 65,536, rounded up to a power of two; 325.0 MiB if all are used\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(limit(&bench, "fs/inotify/max_user_watches"), 8192, "written, not applied");
    assert_eq!(bench.finish(write(&["--apply"])).code, Some(0));
    assert_eq!(limit(&bench, "fs/inotify/max_user_watches"), 262_144);
    fs::write(&file, "vm.swappiness = 1\n").unwrap();
    bench.refused(write(&[]), 2, &["was not written by 'fansync tune'", "--force"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "vm.swappiness = 1\n");
    assert_eq!(bench.finish(write(&["--force"])).code, Some(0));
    assert!(fs::read_to_string(&file).unwrap().starts_with("# Written by 'fansync tune'"));
}

#[test]
fn watches_that_memory_does_not_allow_are_refused() {
    let bench = Bench::new();
    let proc = made_up(&bench, &DEFAULTS);
    let mut command = bench.fansync(&["tune", "--directories", "500000", "--apply"]);
    command.env("FANSYNC_TEST_PROC", &proc);
    let finished = bench.finish(command);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let words = "fs.inotify.max_user_watches is left as it is: 500,000 directories need 619.9 MiB of kernel memory";
    assert!(finished.stdout.contains(words) && finished.stdout.contains("fanotify"), "{}", finished.stdout);
    assert_eq!(limit(&bench, "fs/inotify/max_user_watches"), 8192);
    assert_eq!(limit(&bench, "fs/inotify/max_queued_events"), 1_048_576);
}

#[test]
fn what_cannot_be_looked_at_and_what_is_asked_wrongly_have_their_exit_codes() {
    let bench = Bench::new();
    bench.refused(
        bench.fansync(&arguments!["doctor", bench.at("nowhere")]),
        1,
        &["cannot look at", "nowhere", "No such file"],
    );
    bench.refused(
        bench.fansync(&arguments!["doctor", bench.at("source/new")]),
        1,
        &["cannot look at", "Not a directory"],
    );
    let file = bench.yaml("roots: []\n");
    bench.refused(bench.fansync(&arguments!["doctor", "--config", file]), 2, &["fansync.yaml:1:8", "roots"]);
    bench.refused(bench.fansync(&["tune"]), 2, &["Name directories, a configuration by --config, or a number"]);
    bench.refused(bench.fansync(&["tune", "--apply", "--dry-run", "/"]), 2, &["--dry-run"]);
    bench.refused(bench.fansync(&arguments!["tune", bench.at("nowhere")]), 1, &["cannot look at"]);
}

#[test]
fn a_configuration_is_looked_at_with_its_roots_state_and_targets() {
    let bench = Bench::new();
    let proc = made_up(&bench, &DEFAULTS);
    directories(&bench, 3);
    let text = "state_dir: @/source/state\nroots:\n  - path: @/source\n    filters: ['- /d1/']\n    targets:\n      - {name: near, \
                url: @/target}\n      - {name: far, url: \"rsync://127.0.0.1:1/m\"}\n";
    let run = |text: &str| {
        let mut command = bench.fansync(&arguments!["doctor", "--json", "--config", bench.yaml(text)]);
        command.env("FANSYNC_TEST_PROC", &proc);
        bench.finish(command)
    };
    let finished = run(text);
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let found = told(&finished);
    let targets: Vec<_> =
        named(&found, "target").iter().map(|target| (target["subject"].clone(), target["level"].clone())).collect();
    assert_eq!(targets, [("near".into(), "ok".into()), ("far".into(), "warning".into())]);
    assert_eq!(named(&found, "directories")[0]["figures"]["directories"], 3, "one is excluded");
    assert_eq!(named(&found, "state")[0]["level"], "warning", "it lies inside the root");
    let finished = run(&text.replace("path: @/source", "path: @/gone"));
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let found = told(&finished);
    assert!(named(&found, "configuration")[0]["what"].as_str().unwrap().contains("gone does not exist"));
    bench.assert_untouched();
}

/// Whether a command can be run here, and a word about it if not.
fn possible(program: &str, arguments: &[&str]) -> bool {
    let possible = Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success());
    if !possible {
        eprintln!("skipped: {program} {} is not possible here", arguments.join(" "));
    }
    possible
}

#[test]
fn in_a_user_namespace_its_own_limit_is_found_and_raised() {
    if !possible("unshare", &["-Ur", "sh", "-c", "echo 10 > /proc/sys/user/max_inotify_watches"]) {
        return;
    }
    // Root of a namespace that is root outside too raises what is of the whole machine.
    let Some(_lock) = lock_queues() else { return };
    let bench = Bench::new();
    directories(&bench, 20);
    let script = "echo 10 > /proc/sys/user/max_inotify_watches; \"$0\" doctor --json \"$1\"; \"$0\" tune --apply \"$1\" >&2; \
                  exec \"$0\" doctor --json \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["-Ur", "sh", "-c", script, env!("CARGO_BIN_EXE_fansync")]).arg(bench.at("source"));
    command.env("XDG_STATE_HOME", bench.at("state"));
    let finished = bench.finish(command);
    let lines: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [before, after] = lines.as_slice() else { panic!("{}{}", finished.stdout, finished.stderr) };
    assert_eq!(named(before, "user_namespace")[0]["level"], "note");
    let watches = named(before, "inotify_watches")[0];
    assert_eq!(watches["level"], "problem");
    assert_eq!(watches["mend"][0], "sysctl -w user.max_inotify_watches=131072");
    assert!(named(before, "backend")[0]["what"].as_str().unwrap().contains("user namespace"));
    assert!(finished.stderr.contains("user.max_inotify_watches raised from 10 to 131072"), "{}", finished.stderr);
    assert_eq!(named(after, "inotify_watches")[0]["level"], "ok", "{}", finished.stderr);
}

#[test]
fn an_agent_that_does_not_start_for_a_limit_says_what_to_ask() {
    if !possible("unshare", &["-Ur", "sh", "-c", "echo 10 > /proc/sys/user/max_inotify_watches"]) {
        return;
    }
    let bench = Bench::new();
    let table = [
        (
            "max_inotify_watches",
            "no watch left: fs.inotify.max_user_watches is used up; 'fansync doctor' says what to raise",
        ),
        (
            "max_inotify_instances",
            "cannot set up an inotify instance: Too many open files (os error 24); fs.inotify.max_user_instances",
        ),
    ];
    for (limit, words) in table {
        let mut command = Command::new("unshare");
        let script = format!("echo 0 > /proc/sys/user/{limit}; exec \"$@\"");
        command.args(["-Ur", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_fansync"), "mirror", "--no-state"]);
        command.arg(bench.at("source")).arg(bench.at("target"));
        bench.refused(command, 1, &[words]);
    }
}

#[test]
fn nobody_learns_what_nobody_may_not_do() {
    let as_nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    if !possible("setpriv", &[&as_nobody[..], &["true"]].concat()) {
        return;
    }
    let bench = Bench::new();
    directories(&bench, 3);
    made_up(&bench, &DEFAULTS);
    let allow = |name: &str, mode| fs::set_permissions(bench.at(name), fs::Permissions::from_mode(mode)).unwrap();
    allow("", 0o755);
    allow("source/d1", 0o700);
    // The one of the build may lie where nobody may not go.
    let program = bench.at("program");
    fs::copy(env!("CARGO_BIN_EXE_fansync"), &program).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(as_nobody).arg(&program).args(arguments).arg(bench.at("source"));
        command.env("XDG_STATE_HOME", bench.at("state")).env("HOME", bench.at(""));
        command
    };
    let finished = bench.finish(run(&["doctor", "--json"]));
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    let found = told(&finished);
    let capabilities = named(&found, "capabilities")[0];
    assert_eq!(capabilities["what"], "user 65534 lacks CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH");
    assert!(capabilities["mend"][1].as_str().unwrap().ends_with("/program   (rsync does not have them then)"));
    assert_eq!(named(&found, "directories")[0]["what"], "4 directories, 1 of which this user may not read");
    assert_eq!(named(&found, "directories")[0]["level"], "warning");
    assert_eq!(named(&found, "state")[0]["level"], "problem");
    let mut apply = run(&["tune", "--apply"]);
    apply.env("FANSYNC_TEST_PROC", bench.at("proc"));
    let finished = bench.finish(apply);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let words = "fs.inotify.max_user_watches is 8192 and cannot be raised to 131072 from here: Permission denied";
    assert!(finished.stdout.contains(words), "{}", finished.stdout);
    assert_eq!(limit(&bench, "fs/inotify/max_user_watches"), 8192);
}

#[test]
fn an_overlay_is_told_as_such() {
    let bench = Bench::new();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(bench.at(name)).unwrap();
    }
    // In a mount namespace of its own, so that nothing is left behind.
    let script = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work empty || exit 77; \
                  exec \"$0\" doctor --json empty";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_fansync")]).current_dir(bench.at(""));
    command.env("XDG_STATE_HOME", bench.at("state"));
    let finished = bench.finish(command);
    if finished.code == Some(77) || finished.stdout.is_empty() {
        eprintln!("skipped: an overlay cannot be mounted here: {}", finished.stderr);
        return;
    }
    let found = told(&finished);
    let file_system = named(&found, "file_system")[0];
    assert_eq!((&file_system["what"], &file_system["level"]), (&"overlay".into(), &"note".into()));
    let backend = named(&found, "backend")[0];
    assert_eq!(backend["level"], "note", "{found}");
    assert!(backend["what"].as_str().unwrap().contains("index=on,nfs_export=on"), "{found}");
}

/// As root, on this machine: what is raised stays so, which harms nobody.
#[test]
fn this_machine_is_well_after_it_was_tuned() {
    if fs::OpenOptions::new().write(true).open("/proc/sys/fs/inotify/max_user_watches").is_err() {
        eprintln!("skipped: the limits of this machine cannot be written");
        return;
    }
    let Some(_lock) = lock_queues() else { return };
    let bench = Bench::new();
    directories(&bench, 3);
    let tuned = bench.finish(bench.fansync(&arguments!["tune", "--apply", bench.at("source")]));
    assert_eq!(tuned.code, Some(0), "{}{}", tuned.stdout, tuned.stderr);
    let found = told(&bench.finish(bench.fansync(&arguments!["doctor", "--json", bench.at("source")])));
    let wrong: Vec<_> = levels_of_limits(&found).into_iter().filter(|(_, level)| level == "problem").collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(["inotify_queue", "fanotify_queue"].iter().all(|name| named(&found, name)[0]["level"] == "ok"), "{found}");
}
