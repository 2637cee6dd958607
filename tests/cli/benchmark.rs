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

#[test]
fn what_is_measured_otherwise_takes_no_arguments_of_the_others() {
    let bench = Bench::new();
    for wrong in [&["scale", "--rate=1"][..], &["burst", "scale"], &["--runs=1", "reader"], &["scale", "--dirs=19"]] {
        let mut command = bench.fansync(&["bench"]);
        command.args(wrong);
        bench.refused(command, 2, &["--help"]);
    }
}
