//! `fansync bench foreign`: somebody else writes on the same file system, outside of the root. A mark on the file system
//! reports all of that; what does it cost to throw it away?

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::drain::{Drain, Drained};
use super::mirror::{self, Backend, Mirror, Order};
use super::patience::Interrupt;
use super::report::progress;
use super::stage::Scratch;
use super::{COMPLETE, INCOMPLETE};
use crate::lab::{Daemon, DaemonOptions};
use crate::sys::clock;

/// Directories of the other one, and files in each.
const DIRECTORIES: usize = 100;
const FILES: usize = 100;

/// Writers; one alone does not reach the rate on every machine.
const WRITERS: usize = 2;

/// Writes between two looks at the schedule.
const SLICE: u32 = 25;

/// Its arguments.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct ForeignArguments {
    /// Files that are opened, written and closed in each second
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: u32,
    /// How long is written
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Where the scratch directory is made [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Writes JSON to a file; `-` prints it instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct ForeignReport {
    fansync: &'static str,
    machine: String,
    /// Writes per second that were asked for.
    rate: u32,
    /// Writes per second that were reached.
    reached: f64,
    /// How long was written.
    seconds: f64,
    /// Processor time of the agent's readers, as a share of one core. Unit: percent.
    reader_percent: f64,
    /// Of the whole agent.
    agent_percent: f64,
    /// Overflows that the agent saw.
    overflows: u64,
    /// The bare reader on the same load.
    bare: Drained,
    /// Its share of one core. Unit: percent.
    bare_percent: f64,
    /// Whether a change in the root still arrived.
    arrived: bool,
}

/// Runs it and prints its report.
pub(super) fn run(arguments: &ForeignArguments, interrupt: &Interrupt) -> anyhow::Result<u8> {
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = Scratch::create(&parent, "foreign")?;
    let place = |name: &str| -> anyhow::Result<PathBuf> {
        let path = scratch.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    };
    let (source, target, elsewhere) = (place("source")?, place("target")?, place("elsewhere")?);
    for directory in 0..DIRECTORIES {
        fs::create_dir(elsewhere.join(directory.to_string()))?;
        for file in 0..FILES {
            File::create_new(file_of(&elsewhere, directory, file))?;
        }
    }
    let span = Duration::from_secs(arguments.seconds);

    let drain = Drain::start(Backend::Fanotify, &source).context("fanotify cannot be had here")?;
    write_for(&elsewhere, arguments.rate, span, interrupt)?;
    let bare = drain.finish()?;

    let daemon =
        Daemon::start(&target, scratch.path(), &DaemonOptions::default()).context("cannot start rsync --daemon")?;
    let (url, state) = (daemon.url(), mirror::fresh_state(scratch.path(), "fanotify")?);
    let order =
        Order { backend: Backend::Fanotify, source: &source, url: &url, state: &state, scratch: scratch.path() };
    let (mut agent, _) = Mirror::start(&order, interrupt)?;
    agent.wait_calm(Duration::from_secs(60), interrupt)?;
    let before = (agent.cpu_of_shards(), agent.cpu(), agent.number("overflows")?);
    let began = clock::now();
    let written = write_for(&elsewhere, arguments.rate, span, interrupt)?;
    let took = (clock::now() - began).as_secs_f64();
    let percent = |time: Duration| time.as_secs_f64() / took * 100.0;
    let (reader_percent, agent_percent) = (percent(agent.cpu_of_shards() - before.0), percent(agent.cpu() - before.1));
    fs::write(source.join("at last"), "")?;
    let arrived = interrupt.until(Duration::from_secs(60), Duration::from_millis(5), || {
        agent.check_alive()?;
        Ok(target.join("at last").exists())
    })?;
    let report = ForeignReport {
        fansync: env!("CARGO_PKG_VERSION"),
        machine: super::report::machine(),
        rate: arguments.rate,
        reached: written as f64 / took,
        seconds: took,
        reader_percent,
        agent_percent,
        overflows: agent.number("overflows")? - before.2,
        bare,
        bare_percent: bare.percent(),
        arrived,
    };
    if !arrived {
        progress(&agent.last_words());
    }
    super::report::print(arguments.json.as_deref(), &report, || report.table())?;
    Ok(if arrived { COMPLETE } else { INCOMPLETE })
}

fn file_of(elsewhere: &Path, directory: usize, file: usize) -> PathBuf {
    elsewhere.join(format!("{directory}/{file}"))
}

/// Opens, writes and closes files at that rate; how many it were.
fn write_for(elsewhere: &Path, rate: u32, span: Duration, interrupt: &Interrupt) -> anyhow::Result<u64> {
    let stop = AtomicBool::new(false);
    let began = clock::now();
    let write = |writer: usize| -> io::Result<u64> {
        let mut written = 0_u64;
        let slice = Duration::from_secs(1) * SLICE * u32::try_from(WRITERS).expect("few") / rate;
        let mut due = began;
        while !stop.load(Ordering::Relaxed) && clock::now() < began + span {
            for _write in 0..SLICE {
                // Directory after directory, so that no two records are merged.
                let number = usize::try_from(written).unwrap_or(0) * WRITERS + writer;
                let path = file_of(elsewhere, number % DIRECTORIES, number / DIRECTORIES % FILES);
                OpenOptions::new().write(true).open(path)?.write_all(b"unrelated")?;
                written += 1;
            }
            due += slice;
            let left = due.saturating_duration_since(clock::now());
            if !left.is_zero() {
                std::thread::park_timeout(left);
            }
        }
        Ok(written)
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let write = &write;
                    move || write(writer)
                })
            })
            .collect();
        let watched = interrupt.until(span, Duration::from_millis(100), || Ok(clock::now() >= began + span));
        stop.store(true, Ordering::Relaxed);
        let written = writers.into_iter().map(|writer| writer.join().expect("a panic ends the process"));
        let written = written.sum::<io::Result<u64>>()?;
        watched?;
        Ok(written)
    })
}

impl ForeignReport {
    fn table(&self) -> String {
        let mut text = format!(
            "\n{} unrelated writes per second for {:.0} s on the same file system, outside of the root; {}\n\n",
            self.rate, self.seconds, self.machine
        );
        let mut row = |label: &str, value: String| {
            let _infallible = writeln!(text, "{label:<40}{value:>14}");
        };
        row("reached, writes per second", format!("{:.0}", self.reached));
        row("the agent's readers, % of a core", format!("{:.2}", self.reader_percent));
        row("the whole agent, % of a core", format!("{:.2}", self.agent_percent));
        row("a bare reader, % of a core", format!("{:.2}", self.bare_percent));
        row("ratio of the readers", format!("{:.2}", self.reader_percent / self.bare_percent));
        row("overflows", self.overflows.to_string());
        if !self.arrived {
            text.push_str("\nMISSING: a change in the root did not arrive\n");
        }
        text
    }
}
