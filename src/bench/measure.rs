//! From the moments of the runs to the numbers of the report. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::cpu::Work;
use super::limit::Limit;
use super::scenario::{Scenario, TargetKind};

/// What one run gave.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// First write to last change in place; `None` when some are missing.
    pub(super) makespan: Option<Duration>,
    /// Per file that arrived: from its close, or from when it should have been changed, to its arrival.
    pub(super) latencies: Vec<Duration>,
    /// What rsync takes alone.
    pub(super) limit: Limit,
    /// Changes that did not arrive.
    pub(super) missing: usize,
    /// Files that arrived with other bytes than they have.
    pub(super) different: usize,
    /// Processor time.
    pub(super) cpu: Spent,
    /// How far the writer fell behind its schedule, file by file.
    pub(super) late: Vec<Duration>,
}

/// Processor time of all who take part.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    /// Of the subject and of its children.
    pub(super) subject: Work,
    /// Of the target's daemon.
    pub(super) daemon: Duration,
    /// Of this process: writing the load and looking on.
    pub(super) bench: Duration,
    /// Of the looking on alone.
    pub(super) looking: Duration,
}

/// Middle and ends of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// The middle one; of an even number, the mean of the middle two.
    pub(super) median: f64,
    /// The least.
    pub(super) min: f64,
    /// The most.
    pub(super) max: f64,
}

/// Percentiles of the latency of single files, all runs together. Unit: ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Latency {
    /// How many were measured.
    pub(super) samples: u64,
    /// Half of the files were at least as fast.
    pub(super) p50: f64,
    /// Nine of ten.
    pub(super) p90: f64,
    /// 99 of 100.
    pub(super) p99: f64,
    /// The slowest.
    pub(super) max: f64,
}

/// What rsync takes alone. Unit: ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct LimitTimes {
    /// From its start to its end.
    pub(super) ended_ms: Option<Spread>,
    /// From its start until the last file is in place.
    pub(super) in_place_ms: Option<Spread>,
    /// Of one that was started ahead: from its list until the file is in place.
    pub(super) warm_ms: Option<Spread>,
    /// Processor time of one run of those that were not started ahead, sending side.
    pub(super) cpu_ms: f64,
}

/// Processor time per run, from first change to last arrival. Unit: ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cpu {
    /// The subject's own, without its children.
    pub(super) own_ms: f64,
    /// Its children: its rsync processes, on the sending side.
    pub(super) rsync_ms: f64,
    /// The daemon of the target and the processes that serve it.
    pub(super) daemon_ms: f64,
    /// The benchmark's: writing the load, and looking on. On a machine with few processors the others lack it.
    pub(super) bench_ms: f64,
    /// The looking on alone. Limits are measured under the same eyes.
    pub(super) looking_ms: f64,
}

/// A figure that belongs to one scenario only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figure {
    /// What it is, for programs.
    pub(super) name: String,
    /// What it is, for people.
    pub(super) words: String,
    /// Its unit; may be empty.
    pub(super) unit: String,
    /// Over the runs.
    pub(super) value: Spread,
}

/// What was promised of a figure, and whether it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Goal {
    /// Which figure.
    pub(super) words: String,
    /// Its unit; may be empty.
    pub(super) unit: String,
    /// What it is.
    pub(super) value: f64,
    /// What it may be at most.
    pub(super) at_most: f64,
    /// Whether it is.
    pub(super) met: bool,
}

/// One step of the ladder of `sustained`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Step {
    /// Which run.
    pub(super) run: u32,
    /// New files per second.
    pub(super) rate: f64,
    /// Intended time of a file to its arrival. `None`: nothing arrived.
    pub(super) latency_ms: Option<Latency>,
    /// Files that did not arrive in time.
    pub(super) missing: usize,
    /// The agent's own processor time, in percent of a core.
    pub(super) own_percent: f64,
    /// That of its rsync processes.
    pub(super) rsync_percent: f64,
    /// Whether it was kept up with.
    pub(super) held: bool,
}

/// One subject in one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Measurement {
    /// The scenario.
    pub(super) scenario: Scenario,
    /// What was done, for people.
    pub(super) words: String,
    /// Who was measured.
    pub(super) subject: String,
    /// To what kind of target.
    pub(super) target: TargetKind,
    /// Runs that were made.
    pub(super) runs: usize,
    /// Changes that did not arrive, in all runs.
    pub(super) missing: usize,
    /// Files that arrived with other bytes, in all runs.
    pub(super) different: usize,
    /// First write to last change in place, of the complete runs.
    pub(super) makespan_ms: Option<Spread>,
    /// Close of a file, or its intended time where there is a schedule, to its arrival.
    pub(super) latency_ms: Option<Latency>,
    /// What rsync takes alone, taken between the runs.
    pub(super) limit: Option<LimitTimes>,
    /// What the ratio is of, for people.
    pub(super) ratio_words: String,
    /// Median over the runs of makespan to limit, or whatever `ratio_words` says.
    pub(super) ratio: Option<f64>,
    /// Processor time per run.
    pub(super) cpu: Cpu,
    /// How far the writer fell behind its schedule, where there is one.
    pub(super) writer_late_ms: Option<Latency>,
    /// What else was measured.
    pub(super) figures: Vec<Figure>,
    /// The ladder of `sustained`.
    pub(super) steps: Vec<Step>,
    /// What was promised.
    pub(super) goals: Vec<Goal>,
}

/// 1 µs to 1 h, 3 digits.
const LATENCY_MAX: u64 = 3_600_000_000;

impl Measurement {
    /// Without any run yet.
    pub(super) fn begin(scenario: Scenario, words: String, subject: &str, target: TargetKind) -> Self {
        Self {
            scenario,
            words,
            subject: subject.to_owned(),
            target,
            runs: 0,
            missing: 0,
            different: 0,
            makespan_ms: None,
            latency_ms: None,
            limit: None,
            ratio_words: String::new(),
            ratio: None,
            cpu: Cpu::default(),
            writer_late_ms: None,
            figures: Vec::new(),
            steps: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Sums up `runs` of a load of files.
    pub(super) fn of_runs(mut self, runs: &[Run]) -> Self {
        let all = |field: fn(&Limit) -> &Vec<Duration>| runs.iter().flat_map(move |run| field(&run.limit)).copied();
        let count = runs.len().max(1) as f64;
        let (ended_ms, in_place_ms, warm_ms) = (
            spread(all(|limit| &limit.ended).map(ms)),
            spread(all(|limit| &limit.in_place).map(ms)),
            spread(all(|limit| &limit.warm).map(ms)),
        );
        let cpu_ms = runs.iter().map(|run| ms(run.limit.cpu)).sum::<f64>() / count;
        self.limit = ended_ms.is_some().then_some(LimitTimes { ended_ms, in_place_ms, warm_ms, cpu_ms });
        self.runs = runs.len();
        self.missing = runs.iter().map(|run| run.missing).sum();
        self.different = runs.iter().map(|run| run.different).sum();
        self.makespan_ms = spread(runs.iter().filter_map(|run| run.makespan).map(ms));
        self.latency_ms = latency(runs.iter().flat_map(|run| &run.latencies).copied());
        self.writer_late_ms = latency(runs.iter().flat_map(|run| &run.late).copied());
        self.cpu = Cpu::of(runs.iter().map(|run| run.cpu));
        if self.scenario.is_of_latency() {
            // Its makespan is that of its schedule.
            self.ratio_words = "p50 to one rsync that was started for it, until the file is in place".into();
            self.ratio = self.latency_ms.zip(in_place_ms).map(|(latency, limit)| latency.p50 / limit.median);
        } else {
            self.ratio_words = "first change to last in place, to one rsync from start to end; within each run".into();
            let ratios = runs.iter().filter_map(|run| Some(ms(run.makespan?) / ms(*run.limit.ended.first()?)));
            self.ratio = spread(ratios).map(|ratios| ratios.median);
        }
        self
    }

    /// Whether everything arrived as it is.
    pub(super) fn is_complete(&self) -> bool {
        self.missing == 0 && self.different == 0
    }

    /// The figure of that name.
    pub(super) fn figure(&self, name: &str) -> Option<Spread> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// Adds a figure, if there is a value.
    pub(super) fn add(&mut self, name: &str, words: &str, unit: &str, values: impl Iterator<Item = f64>) {
        if let Some(value) = spread(values) {
            self.figures.push(Figure { name: name.into(), words: words.into(), unit: unit.into(), value });
        }
    }
}

impl Cpu {
    /// The mean of the runs.
    pub(super) fn of(runs: impl Iterator<Item = Spent>) -> Self {
        let mut sum = Self::default();
        let mut count = 0.0;
        for run in runs {
            count += 1.0;
            sum.own_ms += ms(run.subject.own);
            sum.rsync_ms += ms(run.subject.children);
            sum.daemon_ms += ms(run.daemon);
            sum.bench_ms += ms(run.bench);
            sum.looking_ms += ms(run.looking);
        }
        let mean = |value: f64| if count > 0.0 { value / count } else { 0.0 };
        Self {
            own_ms: mean(sum.own_ms),
            rsync_ms: mean(sum.rsync_ms),
            daemon_ms: mean(sum.daemon_ms),
            bench_ms: mean(sum.bench_ms),
            looking_ms: mean(sum.looking_ms),
        }
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

/// `None` of no times.
pub(super) fn latency(times: impl Iterator<Item = Duration>) -> Option<Latency> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX, 3).expect("the bounds are constants");
    for time in times {
        histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    let samples = histogram.len();
    (samples > 0).then(|| Latency { samples, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(makespan: u64, limit: u64) -> Run {
        let limit = Duration::from_millis(limit);
        Run {
            makespan: Some(Duration::from_millis(makespan)),
            latencies: (1..=100).map(Duration::from_millis).collect(),
            limit: Limit {
                ended: vec![limit],
                in_place: vec![limit / 2],
                warm: vec![limit / 5],
                cpu: Duration::from_millis(4),
            },
            cpu: Spent { subject: Work { own: limit, children: limit * 4 }, ..Spent::default() },
            ..Run::default()
        }
    }

    fn of(scenario: Scenario, runs: &[Run]) -> Measurement {
        Measurement::begin(scenario, String::new(), "x", TargetKind::Daemon).of_runs(runs)
    }

    #[test]
    fn the_ratio_is_the_median_of_the_ratios_within_the_runs() {
        let measurement = of(Scenario::Burst, &[run(20, 10), run(90, 30), run(40, 10)]);
        assert_eq!(measurement.ratio, Some(3.0));
        assert_eq!(measurement.makespan_ms, Some(Spread { median: 40.0, min: 20.0, max: 90.0 }));
        let latency = measurement.latency_ms.unwrap();
        assert!((latency.p50 - 50.0).abs() < 0.1 && (latency.p99 - 99.0).abs() < 0.1, "{latency:?}");
        assert_eq!(latency.samples, 300);
        assert!(measurement.is_complete());
        let (limit, cpu) = (measurement.limit.unwrap(), measurement.cpu);
        assert_eq!((limit.ended_ms.unwrap().median, limit.warm_ms.unwrap().max, limit.cpu_ms), (10.0, 6.0, 4.0));
        assert!((cpu.own_ms - 50.0 / 3.0).abs() < 0.01 && (cpu.rsync_ms - 200.0 / 3.0).abs() < 0.01, "{cpu:?}");
    }

    #[test]
    fn a_run_with_missing_files_has_no_makespan() {
        let measurement = of(Scenario::Small, &[run(20, 10), Run { missing: 3, ..Run::default() }]);
        assert_eq!((measurement.missing, measurement.is_complete()), (3, false));
        assert_eq!(measurement.makespan_ms.unwrap().max, 20.0);
    }

    #[test]
    fn nothing_measured_is_nothing_reported() {
        let measurement = of(Scenario::Trickle, &[]);
        assert_eq!((measurement.latency_ms, measurement.ratio, measurement.limit), (None, None, None));
        assert_eq!(measurement.cpu, Cpu::default());
        assert_eq!((spread(std::iter::empty()), latency(std::iter::empty())), (None, None));
    }

    #[test]
    fn the_trickle_is_compared_by_its_latency_with_the_arrival_of_the_limit() {
        let measurement = of(Scenario::Trickle, &[run(15_000, 20)]);
        assert!((measurement.ratio.unwrap() - 5.0).abs() < 0.1);
    }

    #[test]
    fn quantiles_are_ranks_and_keep_three_digits() {
        let of = |times: &[u64]| latency(times.iter().copied().map(Duration::from_micros)).unwrap();
        let one = of(&[7_000]);
        assert!([one.p50, one.p90, one.p99, one.max].iter().all(|value| (value - 7.0).abs() < 0.01), "{one:?}");
        let two = of(&[1_000, 100_000]);
        assert!((two.p50 - 1.0).abs() < 0.01 && (two.p99 - 100.0).abs() < 0.1, "{two:?}");
        // One slow file in a hundred is not in the p99, two are.
        let mut times = vec![2_000; 99];
        times.push(900_000);
        assert!((of(&times).p99 - 2.0).abs() < 0.01);
        times[0] = 900_000;
        assert!((of(&times).p99 - 900.0).abs() < 1.0);
        assert!(of(&[u64::MAX]).max >= 3_600_000.0);
    }
}
