//! `fansync check` and `run` with configurations that are wrong, or that this machine cannot follow.

use fansync::lab::{Daemon, DaemonOptions, free_port};

use crate::arguments;
use crate::bench::{Bench, lines};

/// A configuration that is right.
const GOOD: &str = "state_dir: @/state\nroots:\n  - path: @/source\n    filters: ['- *.tmp', '- /cache/']\n    \
                    settle: {quiet: 100ms}\n    targets:\n      - url: @/target\n        lanes: 2\n";

/// Both subcommands refuse alike.
fn check(bench: &Bench, text: &str, words: &[&str]) {
    let file = bench.yaml(text);
    for subcommand in ["check", "run"] {
        bench.refused(bench.fansync(&arguments![subcommand, "--config", file]), 2, words);
    }
}

#[test]
fn the_effective_configuration_is_printed_and_reads_the_same() {
    let bench = Bench::new();
    let file = bench.yaml(GOOD);
    let first = bench.finish(bench.fansync(&arguments!["check", "--config", file]));
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    for word in ["quiet: 100ms", "lanes: 2", "default_filters: true", "mode: mirror", "- '- *.tmp'", "backlog: 200000"]
    {
        assert!(first.stdout.contains(word), "{word} is not in\n{}", first.stdout);
    }
    std::fs::write(bench.at("again.yaml"), &first.stdout).unwrap();
    let second = bench.finish(bench.fansync(&arguments!["check", "--config", bench.at("again.yaml")]));
    assert_eq!((second.code, second.stdout), (Some(0), first.stdout), "{}", second.stderr);
    bench.assert_untouched();
    assert!(!bench.at("state").exists(), "a check leaves nothing behind");
}

#[test]
fn several_mistakes_are_all_told_with_their_place() {
    let bench = Bench::new();
    let text = "state_dir: relative\nrsink: rsync\nroots:\n  - path: @/source\n    shards: 99\n    targets:\n      \
                - url: rsync://\n      - url: 'host:'\n        lanes: many\n";
    check(
        &bench,
        text,
        &[
            "fansync.yaml:1:12: state_dir",
            "fansync.yaml:2:1: ",
            "rsink: unknown key",
            "fansync.yaml:5:13: roots[0].shards",
            "fansync.yaml:7:14: roots[0].targets[0].url",
            "fansync.yaml:8:14: roots[0].targets[1].url: the directory is missing",
            "fansync.yaml:9:16: roots[0].targets[1].lanes",
        ],
    );
    let finished = bench.finish(bench.fansync(&arguments!["check", "--config", bench.at("fansync.yaml")]));
    assert_eq!(lines(&finished).len(), 6, "{}", finished.stderr);
}

#[test]
fn an_unknown_key_is_refused_with_the_known_ones() {
    let bench = Bench::new();
    let text = GOOD.replace("lanes: 2", "lane: 2");
    check(&bench, &text, &["fansync.yaml:8:9: ", "lane: unknown key", "did you mean 'lanes'?"]);
    check(
        &bench,
        &format!("{GOOD}metrics: {{}}\n"),
        &["fansync.yaml:9:1: ", "metrics", "is not in this version; remove it"],
    );
}

#[test]
fn what_this_machine_lacks_is_told_with_its_place() {
    let bench = Bench::new();
    let text = GOOD.replace("@/source", "@/gone").replace("url: @/target", "url: @/no/where");
    check(
        &bench,
        &text,
        &["fansync.yaml:3:11: roots[0].path: ", "gone does not exist", "fansync.yaml:7:14: ", "mkdir -p"],
    );
    check(
        &bench,
        &GOOD.replace("path: @/source", "path: @/source/new"),
        &["fansync.yaml:3:11: ", "is not a directory"],
    );
    check(
        &bench,
        &GOOD.replace("url: @/target", "url: @/source/x"),
        &["fansync.yaml:7:14: ", "lies inside its own root"],
    );
    let twice = format!("{GOOD}      - {{name: b, url: @/target}}\n");
    check(&bench, &twice, &["fansync.yaml:9:", "targets[1].url", "targets[0]"]);
    check(&bench, &format!("{GOOD}rsync: /no/rsync\n"), &["cannot run /no/rsync", "install rsync", "'rsync:'"]);
    let old = bench.script("old-rsync", "echo 'rsync  version 3.0.9  protocol version 30'");
    check(&bench, &format!("{GOOD}rsync: {}\n", old.display()), &["old-rsync is version 3.0.9", "3.1.3 or later"]);
}

#[test]
fn a_file_that_is_no_configuration_is_refused() {
    let bench = Bench::new();
    check(&bench, "", &["fansync.yaml"]);
    check(&bench, "roots: [\n", &["fansync.yaml:"]);
    check(&bench, "- a\n- b\n", &["fansync.yaml:1:1"]);
    check(&bench, "roots: []\n", &["fansync.yaml:1:8", "roots"]);
    for (name, words) in [("nowhere.yaml", "No such file"), ("source", "Is a directory")] {
        let command = bench.fansync(&arguments!["check", "--config", bench.at(name)]);
        bench.refused(command, 2, &["cannot read the configuration", name, words, "--config"]);
    }
}

#[test]
fn an_online_check_asks_the_targets_and_changes_nothing() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench.at("target"), &bench.at(""), &DaemonOptions::default()).unwrap();
    let online = |url: &str| {
        let file = bench.yaml(&GOOD.replace("url: @/target", &format!("url: {url}")));
        bench.fansync(&arguments!["check", "--online", "--config", file])
    };
    let well = bench.finish(online(&daemon.url()));
    assert_eq!(well.code, Some(0), "{}", well.stderr);
    bench.assert_untouched();
    let dead = free_port().unwrap();
    bench.refused(
        online(&format!("rsync://127.0.0.1:{dead}/m")),
        2,
        &[
            "target 127.0.0.1",
            "connection refused",
            &dead.to_string(),
            "start the rsync daemon, or correct host and port",
        ],
    );
    bench.refused(online(&format!("rsync://127.0.0.1:{}/nowhere", daemon.port())), 2, &["unknown module"]);
}
