//! `fansync run --config FILE`

use std::path::Path;

use super::report::Failure;
use super::{preflight, serve};
use crate::config::{Config, ConfigError, Positions};

/// Reads the configuration; a wrong one is exit code 2.
pub fn load(path: &Path) -> Result<(Config, Positions), Failure> {
    Config::load_located(path).map_err(|error| match error {
        ConfigError::Invalid(errors) => Failure::Wrong(errors.to_string().lines().map(str::to_owned).collect()),
        ConfigError::Read { .. } => {
            let chained = super::report::chain(&anyhow::Error::from(error));
            Failure::wrong(format!("{chained}; name the file by --config"))
        }
    })
}

/// Runs the daemon until it is stopped, or says what it would do.
pub fn run(path: &Path, dry_run: bool) -> Result<(), Failure> {
    let (config, positions) = load(path)?;
    preflight::check_rsync(&config.rsync)?;
    preflight::check_environment(&config, Some(&positions))?;
    let setups = preflight::setups(&config)?;
    if dry_run {
        return super::dry_run::dry_run(&setups);
    }
    let _lock = serve::lock_state(&config.state_dir)?;
    let allowance = preflight::allowance(config.tunables.raise, &setups);
    serve::serve(setups, Some(&config.state_dir), allowance, config.processes)
}
