//! From the moments of the runs to the numbers of the report. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Scenario;

/// What one run gave.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// First write to last file in place; `None` when files are missing.
    pub(super) makespan: Option<Duration>,
    /// Per file that arrived: from its close to its arrival.
    pub(super) latencies: Vec<Duration>,
    /// One rsync of the same files; for the trickle one per file.
    pub(super) limits: Vec<Duration>,
    /// Files that did not arrive.
    pub(super) missing: usize,
    /// Files that arrived with other bytes than they have.
    pub(super) different: usize,
    /// Processor time of the subject.
    pub(super) cpu: Duration,
    /// How far the writer fell behind its schedule.
    pub(super) late: Duration,
}

/// Middle and ends of some times. Unit: ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    /// The middle one; of an even number, the mean of the middle two.
    pub(super) median: f64,
    /// The least.
    pub(super) min: f64,
    /// The most.
    pub(super) max: f64,
}

/// Percentiles of the latency of single files, all runs together. Unit: ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    /// Half of the files were at least as fast.
    pub(super) p50: f64,
    /// Nine of ten.
    pub(super) p90: f64,
    /// 99 of 100.
    pub(super) p99: f64,
    /// The slowest.
    pub(super) max: f64,
}

/// One subject in one scenario.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    /// The scenario.
    pub(super) scenario: Scenario,
    /// Who was measured.
    pub(super) subject: &'static str,
    /// Files in one run.
    pub(super) files: usize,
    /// Bytes of one file.
    pub(super) file_bytes: usize,
    /// Runs that were made.
    pub(super) runs: usize,
    /// Files that did not arrive, in all runs.
    pub(super) missing: usize,
    /// Files that arrived with other bytes, in all runs.
    pub(super) different: usize,
    /// First write to last file in place, of the complete runs.
    pub(super) makespan_ms: Option<Spread>,
    /// Close of a file to its arrival.
    pub(super) latency_ms: Option<Latency>,
    /// One rsync with NODELAY of the same files, taken between the runs; for the trickle one rsync per file.
    pub(super) limit_ms: Option<Spread>,
    /// Median over the runs of makespan to limit; for the trickle p50 of the latency to the median limit.
    pub(super) ratio: Option<f64>,
    /// Processor time of the subject and its children per run, from first write to last arrival.
    pub(super) cpu_ms: f64,
    /// How far the writer fell behind its schedule at most.
    pub(super) writer_late_max_ms: f64,
}

/// 1 µs to 1 h, 3 digits.
const LATENCY_MAX: u64 = 3_600_000_000;

impl Measurement {
    /// Sums up `runs`.
    pub(super) fn of(scenario: Scenario, subject: &'static str, files: usize, runs: &[Run]) -> Self {
        let latency_ms = latency(runs.iter().flat_map(|run| &run.latencies).copied());
        let limit_ms = spread(runs.iter().flat_map(|run| &run.limits).copied().map(ms));
        let ratio = match scenario {
            // Its makespan is that of its schedule.
            Scenario::Trickle => latency_ms.zip(limit_ms).map(|(latency, limit)| latency.p50 / limit.median),
            Scenario::Burst | Scenario::Small => {
                let ratios = runs.iter().filter_map(|run| Some(ms(run.makespan?) / ms(*run.limits.first()?)));
                spread(ratios).map(|ratios| ratios.median)
            }
        };
        let cpu: Duration = runs.iter().map(|run| run.cpu).sum();
        Self {
            scenario,
            subject,
            files,
            file_bytes: scenario.file_size(),
            runs: runs.len(),
            missing: runs.iter().map(|run| run.missing).sum(),
            different: runs.iter().map(|run| run.different).sum(),
            makespan_ms: spread(runs.iter().filter_map(|run| run.makespan).map(ms)),
            latency_ms,
            limit_ms,
            ratio,
            cpu_ms: ms(cpu) / runs.len().max(1) as f64,
            writer_late_max_ms: runs.iter().map(|run| ms(run.late)).fold(0.0, f64::max),
        }
    }

    /// Whether every file arrived as it is.
    pub(super) fn is_complete(&self) -> bool {
        self.missing == 0 && self.different == 0
    }
}

/// In milliseconds, to the microsecond.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// `None` of no values.
pub(super) fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median =
        if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] };
    Some(Spread { median, min, max })
}

fn latency(times: impl Iterator<Item = Duration>) -> Option<Latency> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX, 3).expect("the bounds are constants");
    for time in times {
        histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    (!histogram.is_empty()).then(|| Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(makespan: u64, limit: u64) -> Run {
        Run {
            makespan: Some(Duration::from_millis(makespan)),
            latencies: (1..=100).map(Duration::from_millis).collect(),
            limits: vec![Duration::from_millis(limit)],
            ..Run::default()
        }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_ratios_within_the_runs() {
        let runs = [run(20, 10), run(90, 30), run(40, 10)];
        let measurement = Measurement::of(Scenario::Burst, "x", 100, &runs);
        assert_eq!(measurement.ratio, Some(3.0));
        assert_eq!(measurement.makespan_ms, Some(Spread { median: 40.0, min: 20.0, max: 90.0 }));
        let latency = measurement.latency_ms.unwrap();
        assert!((latency.p50 - 50.0).abs() < 0.1 && (latency.p99 - 99.0).abs() < 0.1, "{latency:?}");
        assert!(measurement.is_complete());
    }

    #[test]
    fn a_run_with_missing_files_has_no_makespan() {
        let runs = [run(20, 10), Run { missing: 3, ..Run::default() }];
        let measurement = Measurement::of(Scenario::Small, "x", 100, &runs);
        assert_eq!((measurement.missing, measurement.is_complete()), (3, false));
        assert_eq!(measurement.makespan_ms.unwrap().max, 20.0);
    }

    #[test]
    fn nothing_measured_is_nothing_reported() {
        let measurement = Measurement::of(Scenario::Trickle, "x", 60, &[]);
        assert_eq!((measurement.latency_ms, measurement.ratio, measurement.cpu_ms), (None, None, 0.0));
    }

    #[test]
    fn the_trickle_is_compared_by_its_latency() {
        let measurement = Measurement::of(Scenario::Trickle, "x", 60, &[run(15_000, 10)]);
        assert!((measurement.ratio.unwrap() - 5.0).abs() < 0.1);
    }
}
