//! The command line: arguments in, words for people and exit codes out.

mod check;
mod control;
mod doctor;
mod dry_run;
mod find;
mod logging;
mod mirror;
mod preflight;
mod report;
mod run;
mod serve;
mod status;
mod tune;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use report::Failure;

use crate::sys::limits::Proc;

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

const CONTROL_CODES: &str = "Exit codes:\n  0  done\n  1  failed, or no agent can be reached\n  2  wrong usage, or a name \
                             that the agent does not know\n\nFANSYNC_LOG sets the log level: error, warn, info \
                             (default), debug, trace.";

const STATUS_CODES: &str = "Exit codes:\n  0  done: all is well\n  1  failed, or no agent can be reached\n  2  wrong \
                            usage, or a name that the agent does not know\n  3  something is held, paused, failing or \
                            degraded\n\nFANSYNC_LOG sets the log level: error, warn, info (default), debug, trace.";

const WAIT_CODES: &str = "Exit codes:\n  0  done: everything that changed before is on the target\n  1  failed, or no \
                          agent can be reached\n  2  wrong usage, or a name that the agent does not know\n  4  not \
                          reached in time\n\nFANSYNC_LOG sets the log level: error, warn, info (default), debug, trace.";

const DOCTOR_CODES: &str = "Exit codes:\n  0  done: nothing is wrong (notes do not count)\n  1  failed: something cannot \
                            be looked at\n  2  wrong usage or configuration\n  3  there are warnings or \
                            problems\n\nFANSYNC_LOG sets the log level: error, warn, info (default), debug, trace.";

const TUNE_CODES: &str = "Exit codes:\n  0  done\n  1  failed, or a limit may not be raised from here\n  2  wrong usage or \
                          configuration, or a file that is not to be overwritten\n  3  the directories need more memory for \
                          watches than they may hold: that limit was left as it is\n\nFANSYNC_LOG sets the log level: error, \
                          warn, info (default), debug, trace.";

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
        /// Say what would be sent and deleted, once, and change nothing
        #[arg(long)]
        dry_run: bool,
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
    /// Say how a running agent, its roots and its targets are
    #[command(after_help = STATUS_CODES)]
    Status(control::StatusArguments),
    /// Return when everything that changed before this command is on the targets
    #[command(after_help = WAIT_CODES)]
    Wait(control::WaitArguments),
    /// Begin no transfers until 'resume'; changes are kept
    #[command(after_help = CONTROL_CODES)]
    Pause(control::TargetArguments),
    /// Take 'pause' back
    #[command(after_help = CONTROL_CODES)]
    Resume(control::TargetArguments),
    /// Compare a path and everything beneath it with the targets, in the background
    #[command(after_help = CONTROL_CODES)]
    Rescan(control::RescanArguments),
    /// Try now what failed and waits for its next turn
    #[command(after_help = CONTROL_CODES)]
    Retry(control::RetryArguments),
    /// Let the deletes go that are held because they are so many
    #[command(after_help = CONTROL_CODES)]
    Approve(control::TargetArguments),
    /// Say what is known of one path: which filter rule decides, and what waits or failed on each target
    #[command(after_help = CONTROL_CODES)]
    Explain(control::ExplainArguments),
    /// Look at limits, rights, kernel, rsync, file systems and targets: what is wrong, why it matters, and the line that mends it
    #[command(after_help = DOCTOR_CODES)]
    Doctor(doctor::DoctorArguments),
    /// Raise the kernel's limits on inotify and fanotify to what so many directories need; never lowers one
    #[command(after_help = TUNE_CODES)]
    Tune(tune::TuneArguments),
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
    if arguments.peek().is_some_and(|first| first == crate::worker::shim::SHIM) {
        return ExitCode::from(crate::worker::shim::shim(arguments.skip(1)));
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
        Command::Run { config, dry_run } => run::run(&config, dry_run),
        Command::Check { config, online } => check::check(&config, online),
        Command::Status(arguments) => control::status(&arguments),
        Command::Wait(arguments) => control::wait(&arguments),
        Command::Pause(arguments) => control::pause(&arguments),
        Command::Resume(arguments) => control::resume(&arguments),
        Command::Rescan(arguments) => control::rescan(&arguments),
        Command::Retry(arguments) => control::retry(&arguments),
        Command::Approve(arguments) => control::approve(&arguments),
        Command::Explain(arguments) => control::explain(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Tune(arguments) => tune::tune(&arguments),
        Command::Bench(arguments) => {
            arguments.check().map_err(Failure::Wrong).and_then(|()| told(crate::bench::run(&arguments)))
        }
        Command::Demo => told(crate::bench::demo::run()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report::report(&failure),
    }
}

/// Where the kernel's limits are. For tests of the whole program `FANSYNC_TEST_PROC` is another place, so that they change no
/// limit of the machine that they run on.
fn proc() -> Proc {
    std::env::var_os("FANSYNC_TEST_PROC").map_or_else(Proc::default, Proc::at)
}

/// A command that printed its own result and knows its exit code.
fn told(result: anyhow::Result<u8>) -> Result<(), Failure> {
    match result? {
        0 => Ok(()),
        code => Err(Failure::Told(code)),
    }
}
