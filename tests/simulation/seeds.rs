//! Many seeds, and proof that the checkers see what is broken.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fansync::sys::ground::Backend;

use super::control::Control;
use super::world::{self, Tally};

/// Seeds of the soak that fail for a reason that is known and written down. What a seed does changes with every change of the
/// stages or of the models, so this list is of today; a seed that fails and is not in it is news.
const KNOWN: &[(Backend, u64, &str)] = &[];

/// Runs the seeds, or the one that the environment names, with a trace. Fails with those that failed.
fn run(backend: Backend, seeds: std::ops::Range<u64>) -> Tally {
    let one = std::env::var("FANSYNC_SIMULATION_SEED").ok().and_then(|text| text.parse().ok());
    if let Some(seed) = one {
        return world::run(seed, backend, Control::Sound, true);
    }
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    for seed in seeds {
        match failure(seed, backend, Control::Sound) {
            Ok(one) => tally += one,
            Err(words)
                if KNOWN.iter().any(|(by, known, why)| (*by, *known) == (backend, seed) && words.starts_with(why)) => {}
            Err(words) => failed.push(format!("{backend:?}, FANSYNC_SIMULATION_SEED={seed}: {words}")),
        }
    }
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed[..failed.len().min(20)].join("\n"));
    tally
}

/// What the seed came to, or why it failed.
fn failure(seed: u64, backend: Backend, control: Control) -> Result<Tally, String> {
    catch_unwind(AssertUnwindSafe(|| world::run(seed, backend, control, false))).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        words.chars().take(500).collect()
    })
}

#[test]
fn whatever_happens_targets_become_the_same_and_nothing_is_lost() {
    let tally = run(Backend::Inotify, 0..400);
    if std::env::var_os("FANSYNC_SIMULATION_SEED").is_none() {
        // The simulation meets what it is for.
        assert!(tally.quiet > 400 && tally.runs > 2_000 && tally.faults > 100, "{tally:?}");
        assert!(tally.crashes > 100 && tally.warm > 50 && tally.overflows > 100, "{tally:?}");
        assert!(tally.splits > 50 && tally.handovers > 50, "{tally:?}");
        assert!(tally.linked > 50, "{tally:?}");
    }
}

/// The same by a mark on the file system, which begins to flow before the map is filled.
#[test]
fn whatever_happens_to_a_marked_file_system_targets_become_the_same() {
    let tally = run(Backend::Fanotify, 0..300);
    if std::env::var_os("FANSYNC_SIMULATION_SEED").is_none() {
        assert!(tally.quiet > 300 && tally.runs > 1_500 && tally.crashes > 50 && tally.overflows > 50, "{tally:?}");
        assert!(tally.linked > 50, "{tally:?}");
    }
}

#[test]
#[ignore = "make soak"]
fn soak_ten_thousand_seeds() {
    ten_thousand(Backend::Inotify);
}

#[test]
#[ignore = "make soak"]
fn soak_ten_thousand_seeds_of_marks() {
    ten_thousand(Backend::Fanotify);
}

fn ten_thousand(backend: Backend) {
    let first = std::env::var("FANSYNC_SIMULATION_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let tally = run(backend, first..first + 10_000);
    #[expect(clippy::print_stdout, reason = "what the soak was worth")]
    {
        println!("{backend:?}, seeds {first} to {}: {tally:?}", first + 10_000);
    }
}

/// Each way to break the agent is noticed, by the checker whose words are given.
#[test]
fn what_is_broken_on_purpose_is_noticed() {
    let check = |control, words: &str| {
        let noticed = (0..2_000).find_map(|seed| failure(seed, Backend::Inotify, control).err());
        let noticed = noticed.unwrap_or_else(|| panic!("{control:?} was not noticed"));
        assert!(noticed.starts_with(words), "{control:?}: {noticed}");
    };
    check(Control::LosesMarks, "silent loss");
    check(Control::BelievesAll, "silent loss");
    check(Control::NothingMovedIn, "silent loss");
    check(Control::ForgetsBacklog, "silent loss");
    check(Control::LooksBackTooLittle, "silent loss");
}
