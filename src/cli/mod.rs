//! The command line: arguments in, words for people and exit codes out.

mod check;
mod logging;
mod mirror;
mod preflight;
mod report;
mod run;
mod serve;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use report::Failure;

/// Keeps rsync targets the same as a live directory tree, milliseconds after each change.
#[derive(Debug, Parser)]
#[command(name = "fansync", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    /// Log lines as text, or as JSON, one object each
    #[arg(long, global = true, value_enum, default_value_t = logging::Format::Text)]
    log_format: logging::Format,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:\n  0  done, or stopped by SIGTERM or SIGINT\n  1  failed\n  2  wrong usage or \
                          configuration, or a target refuses what it is asked for\n\nFANSYNC_LOG sets the log level: \
                          error, warn, info (default), debug, trace.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Mirror a directory to one or more targets until stopped, without a configuration file
    #[command(after_help = EXIT_CODES)]
    Mirror(mirror::MirrorArguments),
    /// Run the roots and targets of a configuration file until stopped
    #[command(after_help = EXIT_CODES)]
    Run {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/fansync/fansync.yaml")]
        config: PathBuf,
    },
    /// Check a configuration file and print what it amounts to
    #[command(after_help = EXIT_CODES)]
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/fansync/fansync.yaml")]
        config: PathBuf,
        /// Ask every target with an empty list too
        #[arg(long)]
        online: bool,
    },
    /// Measure first write to arrival on the target, beside one rsync of the same files
    #[command(after_help = EXIT_CODES)]
    Bench(crate::bench::BenchArguments),
    /// Mirror a scratch tree to a throw-away rsync daemon, with each latency
    #[command(after_help = EXIT_CODES)]
    Demo,
}

/// Runs the command line; returns the exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.peekable();
    let program = arguments.next().unwrap_or_default();
    if arguments.peek().is_some_and(|first| first == crate::worker::run::SHIM) {
        return ExitCode::from(crate::worker::run::shim(arguments.skip(1)));
    }
    let parsed = match Arguments::try_parse_from(std::iter::once(program).chain(arguments)) {
        Ok(parsed) => parsed,
        Err(error) => {
            let _nobody_reads = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    logging::start(parsed.log_format);
    let result = match parsed.command {
        Command::Mirror(arguments) => mirror::mirror(&arguments),
        Command::Run { config } => run::run(&config),
        Command::Check { config, online } => check::check(&config, online),
        Command::Bench(arguments) => told(crate::bench::run(&arguments)),
        Command::Demo => told(crate::bench::demo::run()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report::report(&failure),
    }
}

/// A command that printed its own result and knows its exit code.
fn told(result: anyhow::Result<u8>) -> Result<(), Failure> {
    match result? {
        0 => Ok(()),
        code => Err(Failure::Told(code)),
    }
}
