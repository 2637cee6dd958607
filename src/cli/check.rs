//! `fansync check --config FILE [--online]`

use std::io::Write as _;
use std::path::Path;

use super::preflight::{self, Answer};
use super::report::Failure;

/// Checks everything that can be known before the start, and prints the effective configuration.
pub fn check(path: &Path, online: bool) -> Result<(), Failure> {
    let (config, positions) = super::run::load(path)?;
    let mut problems = Vec::new();
    let mut collect = |result: Result<(), Failure>| match result {
        Err(Failure::Wrong(texts)) => {
            problems.extend(texts);
            Ok(())
        }
        other => other,
    };
    collect(preflight::check_rsync(&config.rsync))?;
    collect(preflight::check_environment(&config, Some(&positions)))?;
    if problems.is_empty() && online {
        for (_, answer) in preflight::ask_targets(&preflight::setups(&config)?)? {
            match answer {
                Answer::Well(_) => {}
                Answer::Away(text) | Answer::Refuses(text) => problems.push(text),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Wrong(problems));
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(config.effective_yaml().as_bytes())?;
    stdout.flush()?;
    Ok(())
}
