//! What lies beneath `fansync bench`: that it works, on small numbers. Its figures are nobody's business here.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::arguments;
use crate::bench::{Bench, Finished};
use crate::small_queue::SmallQueue;

const PATIENCE: Duration = Duration::from_secs(120);

fn json(finished: &Finished) -> serde_json::Value {
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
}

/// Runs `fansync bench` with these arguments and its temporary files in a folder, which must be empty again.
fn run(bench: &Bench, arguments: &[std::ffi::OsString]) -> Finished {
    let temporary = bench.at("temporary");
    fs::create_dir_all(&temporary).unwrap();
    let mut command = bench.fansync(&["bench"]);
    command.args(arguments).env("TMPDIR", &temporary);
    let finished = bench.finish_within(command, PATIENCE);
    let left: Vec<_> = fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?} stays\n{}", finished.stderr);
    finished
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn scale_makes_a_tree_measures_on_it_and_takes_it_again() {
    let bench = Bench::new();
    // The benchmark makes queues small for a moment, as other tests do: one at a time.
    let _only_one = SmallQueue::set();
    let place = bench.at("large");
    let scale = |more: &[&str]| {
        let mut all =
            arguments!["scale", "--files=300", "--dirs=40", "--runs=1", "--idle=1", "--watch=inotify"].to_vec();
        all.extend(arguments!["--dir", place]);
        all.extend(more.iter().map(std::ffi::OsString::from));
        run(&bench, &all)
    };
    let told = json(&scale(&["--json", "-"]));
    assert_eq!((told["files"].as_u64(), told["directories"].as_u64()), (Some(300), Some(40)));
    let measured = &told["measured"][0];
    assert_eq!((measured["backend"].as_str(), measured["watched"].as_u64()), (Some("inotify"), Some(41)), "{told}");
    for limit in ["walk_ms", "walk_add_ms", "walk_look_ms"] {
        assert!(measured["limits"][limit]["median"].as_f64() > Some(0.0), "{limit} in {told}");
    }
    assert_eq!(measured["missing"], 0, "{told}");
    for time in ["live_ms", "root_live_ms", "resident_bytes", "restart_live_ms", "restart_ms"] {
        assert!(measured[time]["median"].as_f64() > Some(0.0), "{time} in {told}");
    }
    assert!(measured["idle_percent"].is_f64() && measured["first_copy_ms"].as_f64() > Some(0.0), "{told}");
    // Only root can make a queue small.
    let overflowed = measured["overflow_ms"]["median"].as_f64() > Some(0.0);
    assert!(overflowed || told["notes"].as_array().is_some_and(|notes| !notes.is_empty()), "{told}");

    assert_eq!(names(&place), ["fansync-bench-tree.json", "tree"], "it is kept");
    fs::write(place.join("tree/of-its-user"), "").unwrap();
    let again = scale(&[]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("it was there"), "{}", again.stderr);
    for words in
        ["300 files in 40 directories", "limit: walk + inotify add", "restart: 100 changes", "idle, % of a core"]
    {
        assert!(again.stdout.contains(words), "{words} in\n{}", again.stdout);
    }
    assert!(place.join("tree/of-its-user").exists());
}

#[test]
fn scale_leaves_alone_what_it_did_not_make() {
    let bench = Bench::new();
    fs::write(bench.at("empty/precious"), "").unwrap();
    let finished = run(&bench, &arguments!["scale", "--files=10", "--dirs=20", "--dir", bench.at("empty")]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("is not empty") && finished.stderr.contains("--dir"), "{}", finished.stderr);
    assert_eq!(names(&bench.at("empty")), ["precious"]);
}

#[test]
fn reader_counts_events_and_compares_the_trees_at_the_end() {
    let bench = Bench::new();
    let told = json(&run(&bench, &arguments!["reader", "--seconds=2", "--watch=inotify", "--json", "-"]));
    let flood = &told["measured"][0];
    let number = |key: &str| flood[key].as_u64().unwrap_or_else(|| panic!("{key} in {told}"));
    assert!(number("files") > 0 && number("events") > 0 && number("queue") > 0, "{told}");
    assert_eq!(number("differences"), 0);
    assert!(flood["equal_after_ms"].is_f64() && flood["reader_us_per_event"].is_f64(), "{told}");
    assert!(flood["bare"]["events"].as_u64() > Some(0), "{told}");
}

/// One scenario with small numbers: everything arrives, and table and JSON say so.
fn scenario(arguments: &[&str]) -> serde_json::Value {
    let bench = Bench::new();
    let file = bench.at("report.json");
    let mut all: Vec<_> = arguments.iter().map(std::ffi::OsString::from).collect();
    all.extend(arguments!["--runs=1", "--patience=60", "--json", file]);
    let finished = run(&bench, &all);
    assert_eq!(finished.code, Some(0), "{}\n{}", finished.stdout, finished.stderr);
    let told: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(told["format"], 1);
    assert!(!told["machine"]["kernel"].as_str().unwrap().is_empty(), "{told}");
    for measurement in told["measurements"].as_array().unwrap() {
        let name = format!("{}: ", measurement["scenario"].as_str().unwrap());
        assert!(finished.stdout.contains(&name), "{name} in\n{}", finished.stdout);
        assert_eq!((&measurement["missing"], &measurement["different"]), (&0.into(), &0.into()), "{told}");
        assert_eq!(measurement["goals"], serde_json::json!([]), "nothing is promised of other numbers");
    }
    told["measurements"].clone()
}

fn positive(value: &serde_json::Value) -> bool {
    value.as_f64() > Some(0.0)
}

fn figure(measurement: &serde_json::Value, name: &str) -> f64 {
    let figures = measurement["figures"].as_array().unwrap();
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure.unwrap_or_else(|| panic!("{name} in {measurement}"))["value"]["median"].as_f64().unwrap()
}

#[test]
fn loads_of_single_files_go_to_all_kinds_of_targets() {
    let told = scenario(&["burst", "--target=daemon,stock,local", "--files=10", "--size=2K"]);
    let kinds: Vec<_> = told.as_array().unwrap().iter().map(|one| one["target"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["daemon", "stock", "local"]);
    let rewritten = scenario(&["rewrite", "--files=10"]);
    for measurement in told.as_array().unwrap().iter().chain(rewritten.as_array().unwrap()) {
        assert!(positive(&measurement["makespan_ms"]["median"]) && positive(&measurement["ratio"]), "{measurement}");
        assert!(positive(&measurement["limit"]["in_place_ms"]["median"]), "{measurement}");
    }
}

#[test]
fn files_on_a_schedule_are_compared_with_cold_and_warm_rsyncs() {
    for measurement in scenario(&["trickle", "delete", "--files=4"]).as_array().unwrap() {
        assert!(positive(&measurement["latency_ms"]["p99"]) && positive(&measurement["ratio"]), "{measurement}");
        assert_eq!(measurement["writer_late_ms"]["samples"], 4);
        for limit in ["ended_ms", "in_place_ms", "warm_ms"] {
            assert!(positive(&measurement["limit"][limit]["median"]), "{limit} in {measurement}");
        }
    }
}

#[test]
fn a_distant_target_costs_whole_round_trips() {
    let told = scenario(&["latency-wan", "--files=2", "--rtt=40"]);
    // Whatever is started ahead: the file and its name cross the line once.
    assert!(figure(&told[0], "p50_rtt") >= 0.5 && figure(&told[0], "warm_rtt") >= 0.5, "{told}");
    assert!(figure(&told[0], "cold_rtt") >= 3.0, "a handshake, a greeting and a file: {told}");
}

#[test]
fn small_files_are_measured_beside_large_ones() {
    let told = scenario(&["mixed", "--files=2", "--size=3M", "--seconds=1"]);
    assert!(positive(&told[0]["latency_ms"]["p99"]) && positive(&told[0]["ratio"]), "{told}");
    assert!(positive(&told[0]["makespan_ms"]["median"]) && figure(&told[0], "alone_p99_ms") > 0.0, "{told}");
}

#[test]
fn a_rename_counts_its_bytes_on_the_wire() {
    let told = scenario(&["rename", "--files=10", "--size=10K"]);
    assert!(positive(&told[0]["makespan_ms"]["median"]) && positive(&told[0]["ratio"]), "{told}");
    let (wire, limit) = (figure(&told[0], "wire_kb"), figure(&told[0], "limit_wire_kb"));
    assert!(wire > 0.0 && (0.1..50.0).contains(&limit), "links are made, nothing is sent: {told}");
}

#[test]
fn many_targets_have_every_file_and_the_agent_is_told_apart() {
    let told = scenario(&["fanout", "--targets=3", "--rate=20", "--seconds=1", "--size=10"]);
    assert_eq!(told[0]["latency_ms"]["samples"], 60);
    assert!(figure(&told[0], "limit_ms") > 0.0 && figure(&told[0], "own_percent") >= 0.0, "{told}");
}

#[test]
fn the_ladder_ends_at_a_rate_that_is_held() {
    let told = scenario(&["sustained", "--rate=20", "--rate-max=50", "--seconds=1"]);
    let steps = told[0]["steps"].as_array().unwrap();
    let highest = figure(&told[0], "highest_per_s");
    assert!(steps.iter().any(|step| step["held"] == true && step["rate"] == highest), "{told}");
    assert!(steps.iter().all(|step| step["held"] == false || step["latency_ms"]["p99"].as_f64() < Some(1_000.0)));
    assert!(figure(&told[0], "limit_per_s") > 0.0, "{told}");
}

#[test]
fn the_claim_has_a_verdict_and_a_picture_and_both_are_told_again_from_json() {
    let bench = Bench::new();
    let [json, svg, again] = ["report.json", "one.svg", "again.svg"].map(|name| bench.at(name));
    let claim = run(&bench, &arguments!["claim", "--runs=1", "--json", json, "--svg", svg]);
    assert_eq!(claim.code, Some(0), "{}", claim.stderr);
    let verdict = "With fansync 200 files of 100 KB are in place ";
    assert!(claim.stdout.contains(verdict) && claim.stdout.contains("times what one rsync takes"), "{}", claim.stdout);
    let told = run(&bench, &arguments!["--from-json", json, "--svg", again]);
    assert_eq!((told.code, &told.stdout), (Some(0), &claim.stdout), "{}", told.stderr);
    let picture = fs::read_to_string(&svg).unwrap();
    assert_eq!(fs::read_to_string(&again).unwrap(), picture);
    assert!(picture.starts_with("<svg ") && picture.contains("one rsync") && picture.contains("role=\"img\""));
}

#[test]
fn what_does_not_arrive_is_told_and_fails() {
    let bench = Bench::new();
    // An agent that is live, sends the probe and then nothing more.
    let agent = bench.script(
        "agent",
        "[ \"$1\" = mirror ] || exit 9\necho 'live: watching 1 directories' >&2\n\
         while [ ! -e \"$2/probe-0\" ]; do sleep 0.01; done\nrsync -a \"$2/probe-0\" \"$3\"\nexec sleep 600",
    );
    let mut command = bench.fansync(&["bench", "burst", "--files=3", "--runs=3", "--patience=1"]);
    let temporary = bench.at("temporary");
    fs::create_dir(&temporary).unwrap();
    command.env("FANSYNC_BENCH_AGENT", agent).env("TMPDIR", &temporary);
    let finished = bench.finish_within(command, PATIENCE);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(
        finished.stdout.contains("MISSING: 3 changes") && finished.stdout.contains("1 runs"),
        "{}",
        finished.stdout
    );
    assert_eq!(names(&temporary), [""; 0]);
}

#[test]
fn an_interrupted_benchmark_leaves_nothing_behind() {
    let bench = Bench::new();
    let temporary = bench.at("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut command = bench.fansync(&["bench", "fanout", "--targets=2", "--seconds=600"]);
    command.env("TMPDIR", &temporary).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = crate::bench::Killed(command.spawn().unwrap());
    let process = child.0.id();
    let began = std::time::Instant::now();
    let wait = |what: &str, condition: &mut dyn FnMut() -> bool| {
        while !condition() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    // In the middle of it: files arrive.
    let arrived = temporary.join(format!("fansync-bench-{process}/fan/target-1/r1-0000/f000000"));
    wait("no file arrives", &mut || arrived.exists());
    interrupt(process);
    let mut code = None;
    wait("it goes on", &mut || {
        code = child.0.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(130));
    assert_eq!(names(&temporary), [""; 0]);
    let marker = temporary.into_os_string().into_encoded_bytes();
    wait("a process stays", &mut || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        !processes
            .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
            .any(|line| line.windows(marker.len()).any(|window| window == marker))
    });
}

/// As Ctrl-C does.
fn interrupt(process: u32) {
    let process = nix::unistd::Pid::from_raw(i32::try_from(process).unwrap());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    for (wrong, words) in [
        (&["burst", "--rtt=50"][..], "--rtt is for latency-wan only"),
        (&["trickle", "--targets=3"], "--targets is for fanout only"),
        (&["small", "--rate=3"], "--rate is for fanout, sustained only"),
        (&["rename", "--target=local"], "--target is for burst, trickle, delete, small, rewrite only"),
        (&["fanout", "--files=3"], "--files is for"),
        (&["fanout", "--targets=65"], "1..=64"),
        (&["latency-wan", "--rtt=0"], "1..=2000"),
        (&["burst", "--size=1T"], "no unit"),
        (&["burst", "--target=ftp"], "daemon, stock, local"),
        (&["burst", "--runs=0"], "1..=1000"),
        (&["--all", "burst"], "cannot be used with"),
        (&["burst", "--from-json=x"], "cannot be used with"),
        (&["nonsense"], "latency-wan"),
    ] {
        let mut command = bench.fansync(&["bench"]);
        command.args(wrong);
        bench.refused(command, 2, &[words]);
    }
    for (wrong, words) in [
        (&["--from-json=nowhere.json"][..], "cannot read nowhere.json"),
        (&["burst", "--json=no/such/place.json"], "name a file in a directory that exists"),
        (&["burst", "--svg=."], "name a file in a directory that exists"),
    ] {
        let mut command = bench.fansync(&["bench"]);
        command.args(wrong);
        bench.refused(command, 1, &[words]);
    }
}

#[test]
fn what_is_measured_otherwise_takes_no_arguments_of_the_others() {
    let bench = Bench::new();
    for wrong in [&["scale", "--rate=1"][..], &["burst", "scale"], &["--runs=1", "reader"], &["scale", "--dirs=19"]] {
        let mut command = bench.fansync(&["bench"]);
        command.args(wrong);
        bench.refused(command, 2, &["--help"]);
    }
}
