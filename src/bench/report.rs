//! What people and programs read: progress on stderr, a table or JSON on stdout.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::measure::{Latency, Measurement, Spread, Step};

/// The shape of [`Report`] as JSON (docs/benchmarks.md). Raised when a field changes its meaning or goes.
pub(super) const FORMAT: u32 = 1;

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// Version of fansync.
    pub(super) fansync: String,
    /// Where, with what, and when.
    pub(super) machine: Machine,
    /// What came out of it, in a sentence; of `bench claim`.
    pub(super) verdict: Option<String>,
    /// What the reader should know, such as a peer that is not installed.
    pub(super) notes: Vec<String>,
    /// One per scenario, kind of target and subject.
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
    let machine = Machine::look(&std::env::temp_dir());
    let Machine { processor, processors, memory_gib, kernel, .. } = machine;
    format!("{processor}, {processors} processors, {memory_gib:.0} GiB, Linux {kernel}")
}

/// A line of the demo, at once.
pub(super) fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

impl Report {
    /// Reads what `--json` wrote.
    ///
    /// # Errors
    /// When it is none, or one of another format.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{} is no JSON", file.display()))?;
        match value["format"].as_u64() {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                anyhow::bail!("{} has format {format}, and this version reads {FORMAT}", file.display())
            }
            None => anyhow::bail!("{} is no report of 'fansync bench'", file.display()),
        }
        serde_json::from_value(value).with_context(|| format!("{} is no report of 'fansync bench'", file.display()))
    }

    /// For people. Times in ms.
    pub(super) fn table(&self) -> String {
        let mut text = format!("fansync {}; {}\n", self.fansync, self.machine.words());
        let mut block = None;
        for measurement in &self.measurements {
            if block != Some((measurement.scenario, measurement.target)) {
                block = Some((measurement.scenario, measurement.target));
                head(&mut text, measurement);
            }
            rows(&mut text, measurement);
        }
        for note in &self.notes {
            let _infallible = writeln!(text, "\nnote: {note}");
        }
        if let Some(verdict) = &self.verdict {
            let _infallible = writeln!(text, "\n{verdict}");
        }
        text
    }
}

/// The columns: label, span, four percentiles, ratio, two of processor time.
fn columns(label: &str, span: &str, latency: [&str; 4], ratio: &str, cpu: [&str; 2]) -> String {
    let [p50, p90, p99, max] = latency;
    let [own, rsync] = cpu;
    let line = format!("{label:<24}{span:>25} {p50:>9}{p90:>9}{p99:>9}{max:>10} {ratio:>7} {own:>8}{rsync:>8}");
    line.trim_end().to_owned() + "\n"
}

fn head(text: &mut String, measurement: &Measurement) {
    let name = measurement.scenario.name();
    let _infallible = writeln!(text, "\n{name}: {}; to {}; times in ms", measurement.words, measurement.target.words());
    text.push_str(&columns("", "first change → last in", ["a file:", "", "", ""], "ratio", ["CPU per", "run"]));
    text.push_str(&columns("", "place: median (min–max)", ["p50", "p90", "p99", "max"], "", ["own", "rsync"]));
}

fn rows(text: &mut String, measurement: &Measurement) {
    let Measurement { subject, runs, makespan_ms, latency_ms, limit, ratio, cpu, .. } = measurement;
    let latency = |field: fn(&Latency) -> f64| number(latency_ms.as_ref().map(field));
    let percentiles = [
        latency(|latency| latency.p50),
        latency(|latency| latency.p90),
        latency(|latency| latency.p99),
        latency(|latency| latency.max),
    ];
    text.push_str(&columns(
        &format!("{subject}, {runs} runs"),
        &times(*makespan_ms),
        percentiles.each_ref().map(String::as_str),
        &ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
        [&format!("{:.0}", cpu.own_ms), &format!("{:.0}", cpu.rsync_ms)],
    ));
    let mut only = |label: &str, value: Option<Spread>, rsync: &str| {
        if value.is_some() {
            text.push_str(&columns(label, &times(value), [""; 4], "", ["", rsync]));
        }
    };
    if let Some(limit) = limit {
        only("– one rsync", limit.ended_ms, &format!("{:.0}", limit.cpu_ms));
        only("– one rsync, in place", limit.in_place_ms, "");
        only("– warm rsync, in place", limit.warm_ms, "");
    }
    for figure in &measurement.figures {
        let Spread { median, min, max } = figure.value;
        let _infallible =
            writeln!(text, "– {}: {} ({}–{}) {}", figure.words, short(median), short(min), short(max), figure.unit);
    }
    steps(text, &measurement.steps);
    let _infallible = writeln!(
        text,
        "– beside them, CPU per run: the daemon {:.0}, the benchmark {:.0}, {:.0} of it for looking on",
        cpu.daemon_ms, cpu.bench_ms, cpu.looking_ms
    );
    if let Some(late) = measurement.writer_late_ms.filter(|late| late.max > 1.0) {
        let _infallible = writeln!(
            text,
            "– the writer was late by {:.2} (p50), {:.1} (p99), {:.1} at most, and that counts",
            late.p50, late.p99, late.max
        );
    }
    for goal in &measurement.goals {
        let _infallible = writeln!(
            text,
            "– {}: {}: {} {}, promised at most {}",
            if goal.met { "met" } else { "NOT MET" },
            goal.words,
            short(goal.value),
            goal.unit,
            short(goal.at_most)
        );
    }
    if measurement.missing > 0 {
        let _infallible = writeln!(text, "– MISSING: {} changes did not arrive", measurement.missing);
    }
    if measurement.different > 0 {
        let _infallible = writeln!(text, "– DIFFERENT: {} files have other content", measurement.different);
    }
}

fn steps(text: &mut String, steps: &[Step]) {
    for step in steps {
        let latency = step.latency_ms.map_or_else(
            || "nothing arrived".to_owned(),
            |latency| format!("p50 {:.1}, p99 {:.1}, max {:.1}", latency.p50, latency.p99, latency.max),
        );
        let missing = if step.missing > 0 { format!(", {} MISSING", step.missing) } else { String::new() };
        let _infallible = writeln!(
            text,
            "  run {}, {:>6.0}/s: {latency}{missing}; own {:.1} %, rsync {:.1} % of a core; {}",
            step.run,
            step.rate,
            step.own_percent,
            step.rsync_percent,
            if step.held { "held" } else { "too fast" }
        );
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), short)
}

/// A number with as many digits as it deserves.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        ..10.0 => format!("{value:.2}"),
        ..1_000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn times(value: Option<Spread>) -> String {
    value.map_or_else(
        || "–".to_owned(),
        |spread| format!("{} ({}–{})", short(spread.median), short(spread.min), short(spread.max)),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::super::measure::Run;
    use super::super::scenario::{Scenario, TargetKind};
    use super::*;

    pub(in crate::bench) fn machine() -> Machine {
        Machine {
            processor: "a <fast> one".into(),
            processors: 2,
            memory_gib: 24.0,
            kernel: "6.18".into(),
            file_system: "ext4".into(),
            rsync: "3.5.0".into(),
            load: Some(0.1),
            date: "2026-11-24 23:00 UTC".into(),
        }
    }

    pub(in crate::bench) fn report(runs: &[Run]) -> Report {
        let mut measurement =
            Measurement::begin(Scenario::Burst, Scenario::Burst.load_words(200, 100_000), "fansync", TargetKind::Stock)
                .of_runs(runs);
        measurement.add("wire_kb", "on the wire", "KB", [12.0, 30.0].into_iter());
        Report {
            format: FORMAT,
            fansync: "0".into(),
            machine: machine(),
            verdict: Some("so it is".into()),
            notes: vec!["lsyncd is not installed".into()],
            measurements: vec![measurement],
        }
    }

    #[test]
    fn the_table_names_machine_scenario_subject_and_what_is_missing() {
        let run = Run { missing: 7, latencies: vec![Duration::from_millis(5)], ..Run::default() };
        let table = report(&[run]).table();
        for words in [
            "200 files of 100 KB",
            "a daemon without socket options",
            "fansync, 1 runs",
            "5.0",
            "MISSING: 7",
            "note: lsyncd is not installed",
            "on the wire: 21.0 (12.0–30.0) KB",
            "Linux 6.18, ext4, rsync 3.5.0",
            "so it is",
        ] {
            assert!(table.contains(words), "{words} in {table}");
        }
    }

    #[test]
    fn json_has_a_number_or_null_for_everything_and_is_read_again() {
        let report = report(&[]);
        let text = json_of(&report).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let measurement = &json["measurements"][0];
        assert_eq!((&measurement["scenario"], &measurement["target"]), (&"burst".into(), &"stock".into()));
        assert!(measurement["makespan_ms"].is_null() && measurement["cpu"]["own_ms"].is_number());
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("report.json");
        fs::write(&file, &text).unwrap();
        assert_eq!(Report::read(&file).unwrap(), report);
        for (wrong, words) in [
            ("{", "is no JSON"),
            ("{}", "is no report"),
            ("[]", "is no report"),
            ("{\"format\": 99}", "has format 99"),
            ("{\"format\": 1}", "is no report"),
        ] {
            fs::write(&file, wrong).unwrap();
            let error = Report::read(&file).unwrap_err().to_string();
            assert!(error.contains(words), "{wrong}: {error}");
        }
        assert!(Report::read(&scratch.path().join("nothing")).unwrap_err().to_string().contains("cannot read"));
    }
}
