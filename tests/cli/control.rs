//! The commands that ask an agent, without one or with wrong arguments.

use crate::arguments;
use crate::bench::Bench;

#[test]
fn without_an_agent_every_command_says_where_it_looked() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("folder")).unwrap();
    for command in ["status", "wait", "pause", "resume", "rescan", "retry", "approve"] {
        let found = bench.refused(bench.fansync(&[command]), 1, &["no agent of this user runs", "--state", "--config"]);
        assert!(found.stderr.contains(bench.at("state/fansync").to_str().unwrap()), "{}", found.stderr);
        for folder in ["folder", "nowhere"] {
            let command = bench.fansync(&arguments![command, "--state", bench.at(folder)]);
            bench.refused(command, 1, &["no agent runs with the state folder", folder]);
        }
    }
    bench.refused(bench.fansync(&arguments!["explain", "x", "--state", bench.at("folder")]), 1, &["no agent runs"]);
    let yaml = bench.yaml("state_dir: @/folder\nroots:\n  - name: a\n    path: @/source\n    targets:\n      - {name: t, url: @/target}\n");
    bench.refused(bench.fansync(&arguments!["status", "--config", &yaml]), 1, &["no agent runs", "/folder"]);
    // Something else has the name.
    std::fs::write(bench.at("folder/control.sock"), "").unwrap();
    bench.refused(bench.fansync(&arguments!["status", "--state", bench.at("folder")]), 1, &["no agent runs"]);
}

#[test]
fn wrong_arguments_are_exit_code_2() {
    let bench = Bench::new();
    let check = |arguments: &[&str], words: &[&str]| {
        bench.refused(bench.fansync(arguments), 2, words);
    };
    check(&["explain"], &["<PATH>", "--help"]);
    check(&["wait", "--timeout", "5"], &["--timeout", "add a unit"]);
    check(&["wait", "--timeout", "soon"], &["500ms, 30s, 10m or 1h"]);
    check(&["status", "--state", "a", "--config", "b"], &["cannot be used with"]);
    check(&["status", "extra"], &["unexpected argument"]);
    check(&["status", "--config", "nowhere.yaml"], &["cannot read the configuration", "--config"]);
    check(&["pause", "--target"], &["--target"]);
}
