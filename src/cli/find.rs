//! Which agent is meant: the one of a state folder, of a configuration, or the only one that runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::control::ask;
use super::report::Failure;
use crate::config::Config;
use crate::control::{Answer, Command, SOCKET};
use crate::sys::socket;

/// The configuration of an agent that is not named.
const CONFIG_DEFAULT: &str = "/etc/fansync/fansync.yaml";

/// State folders that are looked at.
const FOLDERS_MAX: usize = 1_000;

/// How long an agent may take to say what it mirrors, when several run.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which agent is asked.
#[derive(Debug, clap::Args)]
pub struct AgentArguments {
    /// The agent's state folder (default: that of the one agent that runs)
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
    /// The agent's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The state folder of the agent that is meant.
pub fn folder(arguments: &AgentArguments) -> Result<PathBuf, Failure> {
    if let Some(state) = &arguments.state {
        return Ok(state.clone());
    }
    if let Some(config) = &arguments.config {
        return Ok(super::run::load(config)?.0.state_dir);
    }
    let mut folders: Vec<PathBuf> =
        Config::load(Path::new(CONFIG_DEFAULT)).map(|config| config.state_dir).into_iter().collect();
    let below = super::mirror::state_base().ok();
    if let Some(entries) = below.as_ref().and_then(|below| std::fs::read_dir(below).ok()) {
        folders.extend(entries.flatten().take(FOLDERS_MAX).map(|entry| entry.path()));
    }
    folders.sort_unstable();
    folders.dedup();
    folders.retain(|folder| socket::connect(folder, SOCKET).is_ok());
    match folders.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let below = below.map_or_else(String::new, |below| format!(" and below {}", below.display()));
            Err(Failure::Failed(anyhow::anyhow!(
                "no agent of this user runs: looked at the one of {CONFIG_DEFAULT}{below}; start it, or name its folder by \
                 --state or its configuration by --config"
            )))
        }
        several => {
            let shown: Vec<String> = several.iter().map(|folder| shown(folder)).collect();
            Err(Failure::wrong(format!("{} agents run: name one by --state: {}", shown.len(), shown.join(", "))))
        }
    }
}

fn shown(folder: &Path) -> String {
    match ask(folder, Command::Roots, Some(PATIENCE)) {
        Ok((_, Answer::Roots { roots })) => {
            let paths: Vec<String> = roots.into_iter().map(|root| root.path).collect();
            format!("{} (of {})", folder.display(), paths.join(" and "))
        }
        _ => folder.display().to_string(),
    }
}
