//! What people and programs read: progress on stderr, a table or JSON on stdout.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::measure::{Latency, Measurement, Spread};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Version of fansync.
    pub(super) fansync: &'static str,
    /// Processors of the machine.
    pub(super) cpus: usize,
    /// What the reader should know, such as a peer that is not installed.
    pub(super) notes: Vec<String>,
    /// One per scenario and subject.
    pub(super) measurements: Vec<Measurement>,
}

/// One line for whoever waits.
pub(super) fn progress(line: &str) {
    let _nobody_reads = writeln!(io::stderr().lock(), "{line}");
}

/// Prints a report: JSON to standard output instead of the table for `-`, or into a file beside it.
pub(super) fn print(
    json: Option<&Path>,
    report: &impl Serialize,
    table: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let file = json.filter(|file| file.as_os_str() != "-");
    let text = if json.is_some() && file.is_none() { json_of(report)? } else { table() };
    io::stdout().lock().write_all(text.as_bytes())?;
    if let Some(file) = file {
        fs::write(file, json_of(report)?).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn json_of(report: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

/// Processor, memory and kernel of this machine, as far as it says.
pub(super) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_start_matches([':', ' ', '\t'])));
        line.unwrap_or("unknown").trim().to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kib = value(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|kib| kib.parse::<f64>().ok());
    format!(
        "{}, {cpus} processors, {:.0} GiB, Linux {}",
        value(&read("/proc/cpuinfo"), "model name"),
        kib.unwrap_or(0.0) / 1_048_576.0,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// A line of the demo, at once.
pub(super) fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

impl Report {
    /// For people. Times in ms.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut scenario = None;
        for measurement in &self.measurements {
            if scenario != Some(measurement.scenario) {
                scenario = Some(measurement.scenario);
                let words = measurement.scenario.words(measurement.files);
                let _infallible = write!(
                    text,
                    "\n{words}; times in ms\n\
                     {:<12}{:>5} {:^31} {:^39} {:^10} {:>6} {:>7}\n{:<12}{:>5} {:>10}{:>10}{:>11} {:>9}{:>10}{:>10}{:>10} {:>10} {:>6} {:>7}\n",
                    "",
                    "",
                    "first write → last in place",
                    "a file: close → in place",
                    "one rsync",
                    "",
                    "CPU",
                    "",
                    "runs",
                    "median",
                    "min",
                    "max",
                    "p50",
                    "p90",
                    "p99",
                    "max",
                    "median",
                    "ratio",
                    "per run",
                );
            }
            text.push_str(&row(measurement));
        }
        for note in &self.notes {
            let _infallible = writeln!(text, "\nnote: {note}");
        }
        text
    }
}

fn row(measurement: &Measurement) -> String {
    let Measurement { subject, runs, makespan_ms, latency_ms, limit_ms, ratio, cpu_ms, .. } = measurement;
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"));
    let makespan = |field: fn(&Spread) -> f64| number(makespan_ms.as_ref().map(field));
    let latency = |field: fn(&Latency) -> f64| number(latency_ms.as_ref().map(field));
    let mut text = format!(
        "{subject:<12}{runs:>5} {:>10}{:>10}{:>11} {:>9}{:>10}{:>10}{:>10} {:>10} {:>6} {cpu_ms:>7.0}\n",
        makespan(|spread| spread.median),
        makespan(|spread| spread.min),
        makespan(|spread| spread.max),
        latency(|latency| latency.p50),
        latency(|latency| latency.p90),
        latency(|latency| latency.p99),
        latency(|latency| latency.max),
        number(limit_ms.map(|spread| spread.median)),
        ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
    );
    if measurement.missing > 0 {
        let _infallible = writeln!(text, "{:12}  MISSING: {} files did not arrive", "", measurement.missing);
    }
    if measurement.different > 0 {
        let _infallible = writeln!(text, "{:12}  DIFFERENT: {} files have other content", "", measurement.different);
    }
    if measurement.writer_late_max_ms > 50.0 {
        let late = measurement.writer_late_max_ms;
        let _infallible = writeln!(text, "{:12}  the writer was up to {late:.0} ms behind: the machine is busy", "");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Scenario;
    use super::super::measure::Run;
    use super::*;

    fn report(runs: &[Run]) -> Report {
        let measurements = vec![Measurement::of(Scenario::Burst, "fansync", 200, runs)];
        Report { fansync: "0", cpus: 2, notes: vec!["lsyncd is not installed".into()], measurements }
    }

    #[test]
    fn the_table_names_scenario_subject_and_what_is_missing() {
        let run = Run { missing: 7, latencies: vec![Duration::from_millis(5)], ..Run::default() };
        let table = report(&[run]).table();
        for words in ["200 files of 100 KB", "fansync ", "5.0", "MISSING: 7 files", "note: lsyncd is not installed"] {
            assert!(table.contains(words), "{words} in {table}");
        }
    }

    #[test]
    fn json_has_a_number_or_null_for_everything() {
        let json: serde_json::Value = serde_json::from_str(&json_of(&report(&[])).unwrap()).unwrap();
        let measurement = &json["measurements"][0];
        assert_eq!(measurement["scenario"], "burst");
        assert!(measurement["makespan_ms"].is_null() && measurement["cpu_ms"].is_number());
    }
}
