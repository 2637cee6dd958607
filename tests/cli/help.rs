//! `--help` and `--version` of everything.

use crate::bench::Bench;

#[test]
fn help_of_every_subcommand_names_its_exit_codes() {
    let bench = Bench::new();
    let subcommands = [
        "mirror", "run", "check", "status", "wait", "pause", "resume", "rescan", "retry", "approve", "explain",
        "doctor", "tune", "bench", "demo",
    ]
    .map(|name| vec![name, "--help"]);
    for arguments in std::iter::once(vec!["--help"]).chain(subcommands) {
        let finished = bench.finish(bench.fansync(&arguments));
        assert_eq!(finished.code, Some(0), "{arguments:?}: {}", finished.stderr);
        for word in ["Usage: fansync", "Exit codes:", "0  done", "2  wrong usage", "FANSYNC_LOG"] {
            assert!(finished.stdout.contains(word), "{word:?} is not in {arguments:?}:\n{}", finished.stdout);
        }
        let widest = finished.stdout.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(120), "{widest:?} columns: {}", finished.stdout);
        assert!(!finished.stdout.contains("__run-with-parent"), "the shim is not for people");
    }
}

#[test]
fn help_is_listed_for_every_subcommand_of_the_program() {
    let bench = Bench::new();
    let help = bench.finish(bench.fansync(&["--help"])).stdout;
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // Deeper lines go on with the words of the one above.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    // A new subcommand belongs into the test above too.
    let expected = [
        "mirror", "run", "check", "status", "wait", "pause", "resume", "rescan", "retry", "approve", "explain",
        "doctor", "tune", "bench", "demo", "help",
    ];
    assert_eq!(listed, expected);
}

#[test]
fn the_version_is_that_of_the_package() {
    let bench = Bench::new();
    let finished = bench.finish(bench.fansync(&["--version"]));
    assert_eq!((finished.code, finished.stdout), (Some(0), format!("fansync {}\n", env!("CARGO_PKG_VERSION"))));
}
