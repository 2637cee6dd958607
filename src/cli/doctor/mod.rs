//! `fansync doctor [PATH...] [--config FILE] [--json]`
//!
//! `facts` looks at the machine, `findings` says what that means.

pub mod facts;
mod findings;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use facts::{Patience, Subjects};
use findings::Level;

use super::report::Failure;

/// The configuration that is looked at when nothing is named.
const CONFIG_DEFAULT: &str = "/etc/fansync/fansync.yaml";

/// How long what other processes hold is looked for. Reading a hundred thousand watches of one takes a second or so.
const USAGE_PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArguments {
    /// Directories that are or would be mirrored
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Look at the roots, targets and state folder of this configuration too (default, if no PATH is given:
    /// /etc/fansync/fansync.yaml, if it is there)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the findings as one JSON object
    #[arg(long)]
    json: bool,
    /// Do not count directories: nothing is said of whether there are watches enough
    #[arg(long)]
    no_count: bool,
    /// Count for so long at most
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    count_for: u64,
}

/// All findings, for programs. Fields may be added; what is here keeps its name and meaning.
#[derive(serde::Serialize)]
struct Told<'a> {
    version: &'static str,
    worst: Level,
    findings: &'a [findings::Finding],
}

/// Looks at everything and says what is wrong.
pub fn doctor(arguments: &DoctorArguments) -> Result<(), Failure> {
    let usual = Some(PathBuf::from(CONFIG_DEFAULT)).filter(|path| arguments.paths.is_empty() && path.exists());
    let config = arguments.config.clone().or(usual);
    let subjects = Subjects::new(&arguments.paths, config.as_deref())?;
    let patience = Patience {
        count: (!arguments.no_count).then(|| Duration::from_secs(arguments.count_for)),
        usage: USAGE_PATIENCE,
    };
    let findings = findings::findings(&facts::gather(&subjects, &super::proc(), &patience)?);
    let worst = findings::worst(&findings);
    let text = if arguments.json {
        let told = Told { version: env!("CARGO_PKG_VERSION"), worst, findings: &findings };
        format!("{}\n", serde_json::to_string(&told)?)
    } else {
        findings::text(&findings)
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    if worst >= Level::Warning { Err(Failure::Told(3)) } else { Ok(()) }
}
