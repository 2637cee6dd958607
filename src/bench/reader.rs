//! `fansync bench reader`: two writers at full speed in the root, and what it costs the agent to take that in.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::drain::{Drain, Drained};
use super::measure::ms;
use super::mirror::{self, Backend, Mirror, Order, Setting, Watch};
use super::patience::Interrupt;
use super::report::progress;
use super::stage::Scratch;
use super::{COMPLETE, INCOMPLETE, compare};
use crate::lab::{Daemon, DaemonOptions};
use crate::sys::clock;

/// Who writes.
const WRITERS: usize = 2;

/// What is in each file. Unit: bytes.
const CONTENT: [u8; 100] = [b'x'; 100];

/// Files between two looks at the clock.
const SLICE: usize = 64;

/// How often the trees are compared until they are equal.
const POLL: Duration = Duration::from_millis(50);

/// The bare reader's share of the time: it is the base of a ratio, no claim.
const DRAIN_PART: u32 = 6;

/// Its arguments.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = super::EXIT_CODES)]
pub struct ReaderArguments {
    /// How long is written
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// How the agent learns of changes
    #[arg(long, value_enum, default_value_t = Watch::Both)]
    pub watch: Watch,
    /// Events that the kernel keeps for the agent; takes root [default: the kernel's limit, max_queued_events, as it is]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(16..=67_108_864))]
    pub queue: Option<u64>,
    /// Where the scratch directory is made [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How long the trees may take to be equal afterwards
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
    /// Writes JSON to a file; `-` prints it instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct ReaderReport {
    fansync: &'static str,
    machine: String,
    writers: usize,
    measured: Vec<Flood>,
    notes: Vec<String>,
}

/// One backend under two writers.
#[derive(Debug, Serialize)]
struct Flood {
    backend: Backend,
    /// Events that the kernel keeps.
    queue: Option<u64>,
    /// How long was written.
    seconds: f64,
    /// Files created, written, closed and unlinked.
    files: u64,
    /// Events that the agent read.
    events: u64,
    /// Overflows that it saw.
    overflows: u64,
    /// Processor time of its readers. Unit: ms.
    reader_cpu_ms: f64,
    /// For each event. Unit: µs.
    reader_us_per_event: Option<f64>,
    /// The bare reader on the same load, for a shorter time.
    bare: Drained,
    /// For each event. Unit: µs.
    bare_us_per_event: Option<f64>,
    /// From the end of writing until the trees were equal. `None`: not in time.
    equal_after_ms: Option<f64>,
    /// Entries that were not.
    differences: usize,
}

/// Runs it and prints its report.
pub(super) fn run(arguments: &ReaderArguments, interrupt: &Interrupt) -> anyhow::Result<u8> {
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut report = ReaderReport {
        fansync: env!("CARGO_PKG_VERSION"),
        machine: super::report::machine(),
        writers: WRITERS,
        measured: Vec::new(),
        notes: Vec::new(),
    };
    for backend in arguments.watch.backends() {
        let scratch = Scratch::create(&parent, "reader")?;
        match flood(*backend, arguments, &scratch, interrupt) {
            Ok(flood) => report.measured.push(flood),
            Err(error) if arguments.watch == Watch::Both && !error.is::<super::Interrupted>() => {
                let words = format!("{} is left out: {error:#}", backend.name());
                progress(&words);
                report.notes.push(words);
            }
            Err(error) => return Err(error),
        }
    }
    super::report::print(arguments.json.as_deref(), &report, || report.table())?;
    let equal = report.measured.iter().all(|flood| flood.differences == 0);
    Ok(if equal { COMPLETE } else { INCOMPLETE })
}

fn flood(
    backend: Backend,
    arguments: &ReaderArguments,
    scratch: &Scratch,
    interrupt: &Interrupt,
) -> anyhow::Result<Flood> {
    let place = |name: &str| -> anyhow::Result<PathBuf> {
        let path = scratch.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    };
    let (source, target, bare) = (place("source")?, place("target")?, place("bare")?);
    // Something that stays, so that an empty target is no success.
    fs::write(source.join("stays"), CONTENT)?;
    let span = Duration::from_secs(arguments.seconds);

    let small = match arguments.queue {
        Some(size) => Some(
            Setting::set(backend.queue_limit(), size)
                .with_context(|| format!("cannot write {}", backend.queue_limit().display()))?,
        ),
        None => None,
    };
    let queue = Setting::read(&backend.queue_limit());
    // The size of a queue is fixed when it is made.
    let drain = Drain::start(backend, &bare)?;
    write_for(&bare, span / DRAIN_PART, interrupt)?;
    let bare = drain.finish()?;

    let daemon =
        Daemon::start(&target, scratch.path(), &DaemonOptions::default()).context("cannot start rsync --daemon")?;
    let (url, state) = (daemon.url(), mirror::fresh_state(scratch.path(), backend.name())?);
    let order = Order { backend, source: &source, url: &url, state: &state, scratch: scratch.path() };
    let (mut agent, _) = Mirror::start(&order, interrupt)?;
    drop(small);
    agent.wait_calm(Duration::from_secs(arguments.patience), interrupt)?;

    let before = (agent.number("events")?, agent.number("overflows")?, agent.cpu_of_shards());
    let began = clock::now();
    let files = write_for(&source, span, interrupt)?;
    let ended = clock::now();
    let mut found = Vec::new();
    let equal = interrupt.until(Duration::from_secs(arguments.patience), POLL, || {
        agent.check_alive()?;
        found = compare::trees(&source, &target)?.differences;
        Ok(found.is_empty())
    })?;
    let equal_after = clock::now() - ended;
    for difference in found.iter().take(5) {
        progress(difference);
    }
    let events = agent.number("events")? - before.0;
    let cpu = agent.cpu_of_shards() - before.2;
    let flood = Flood {
        backend,
        queue,
        seconds: (ended - began).as_secs_f64(),
        files,
        events,
        overflows: agent.number("overflows")? - before.1,
        reader_cpu_ms: ms(cpu),
        reader_us_per_event: (events > 0).then(|| cpu.as_secs_f64() * 1e6 / events as f64),
        bare,
        bare_us_per_event: bare.us_per_event(),
        equal_after_ms: equal.then(|| ms(equal_after)),
        differences: found.len(),
    };
    progress(&format!(
        "{}: {files} files, {events} events, {} overflows, {} differences",
        backend.name(),
        flood.overflows,
        flood.differences
    ));
    Ok(flood)
}

/// Creates, writes, closes and unlinks in `directory` with all writers; how many files that were.
fn write_for(directory: &Path, span: Duration, interrupt: &Interrupt) -> anyhow::Result<u64> {
    let stop = AtomicBool::new(false);
    let until = clock::now() + span;
    std::thread::scope(|scope| {
        let write = |writer: usize| {
            scope.spawn({
                let stop = &stop;
                move || write(directory, writer, until, stop)
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        let watched = interrupt.until(span, Duration::from_millis(100), || Ok(clock::now() >= until));
        stop.store(true, Ordering::Relaxed);
        let files = writers.into_iter().map(|writer| writer.join().expect("a panic ends the process"));
        let files = files.sum::<std::io::Result<u64>>()?;
        watched?;
        Ok(files)
    })
}

fn write(directory: &Path, writer: usize, until: Instant, stop: &AtomicBool) -> std::io::Result<u64> {
    let mut files = 0;
    while !stop.load(Ordering::Relaxed) && clock::now() < until {
        for _file in 0..SLICE {
            let path = directory.join(format!("w{writer}-{files}"));
            let mut file = File::create(&path)?;
            file.write_all(&CONTENT)?;
            drop(file);
            fs::remove_file(&path)?;
            files += 1;
        }
    }
    Ok(files)
}

impl ReaderReport {
    fn table(&self) -> String {
        let mut text = format!(
            "\n{} writers at full speed in the root: create, write, close, unlink; {}\n\n{:<10}{:>9}{:>8}{:>12}{:>12}{:>11}{:>14}{:>14}{:>7}{:>12}\n",
            self.writers,
            self.machine,
            "",
            "queue",
            "s",
            "files/s",
            "events",
            "overflows",
            "reader µs/ev",
            "bare µs/ev",
            "ratio",
            "equal ms",
        );
        let number = |value: Option<f64>, decimals: usize| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
        };
        for flood in &self.measured {
            let _infallible = writeln!(
                text,
                "{:<10}{:>9}{:>8.1}{:>12.0}{:>12}{:>11}{:>14}{:>14}{:>7}{:>12}",
                flood.backend.name(),
                flood.queue.map_or_else(|| "–".to_owned(), |queue| queue.to_string()),
                flood.seconds,
                flood.files as f64 / flood.seconds,
                flood.events,
                flood.overflows,
                number(flood.reader_us_per_event, 3),
                number(flood.bare_us_per_event, 3),
                number(flood.reader_us_per_event.zip(flood.bare_us_per_event).map(|(ours, bare)| ours / bare), 2),
                number(flood.equal_after_ms, 0),
            );
            if flood.differences > 0 {
                let _infallible = writeln!(text, "{:10}DIFFERENT: {} entries", "", flood.differences);
            }
        }
        for note in &self.notes {
            let _infallible = writeln!(text, "\nnote: {note}");
        }
        text
    }
}
