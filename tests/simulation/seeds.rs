//! Many seeds, and proof that the checkers see what is broken.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::control::Control;
use super::world::{self, Tally};

/// Runs the seeds; the one that fails is printed.
fn run(seeds: impl Iterator<Item = u64>) -> Tally {
    let one = std::env::var("FANSYNC_SIMULATION_SEED").ok().and_then(|text| text.parse().ok());
    let mut tally = Tally::default();
    if let Some(seed) = one {
        return world::run(seed, Control::Sound, true);
    }
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| world::run(seed, Control::Sound, false))) {
            Ok(one) => tally += one,
            Err(panic) => {
                #[expect(clippy::print_stderr, reason = "the seed, for who repeats it")]
                {
                    eprintln!("FANSYNC_SIMULATION_SEED={seed} repeats this");
                }
                resume_unwind(panic);
            }
        }
    }
    tally
}

/// The first of 300 seeds at which a checker notices that something is broken.
fn noticed(control: Control) -> Option<u64> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let seed = (0..300).find(|seed| catch_unwind(|| world::run(*seed, control, false)).is_err());
    std::panic::set_hook(hook);
    seed
}

#[test]
fn whatever_happens_targets_become_the_same_and_nothing_is_lost() {
    let tally = run(0..300);
    println!("{tally:?}");
}

#[test]
#[ignore = "survey"]
fn survey() {
    let from: u64 = std::env::var("FROM").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let to: u64 = std::env::var("TO").ok().and_then(|t| t.parse().ok()).unwrap_or(100);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut tally = Tally::default();
    let mut failed = 0;
    let mut shown = 0;
    for seed in from..to {
        match catch_unwind(|| world::run(seed, Control::Sound, false)) {
            Ok(one) => tally += one,
            Err(panic) => {
                failed += 1;
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|t| t.to_string()))
                    .unwrap_or_default();
                if shown < 40 {
                    shown += 1;
                    println!("{seed}: {}", text.replace('\n', " ").chars().take(400).collect::<String>());
                }
            }
        }
    }
    std::panic::set_hook(hook);
    println!("{failed} failed; {tally:?}");
}
