//! What is promised of each scenario, so that a report says by itself what holds. Pure.
//!
//! Only for the agent, and only at the numbers that a scenario has by itself: with others the report gives the figures alone.

use super::measure::{Goal, Measurement};
use super::scenario::{Scenario, TargetKind};

/// The promises of a measurement that are about its figures.
pub(super) fn of(measurement: &Measurement) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut promise = |words: &str, unit: &str, value: Option<f64>, at_most: f64| {
        if let Some(value) = value {
            goals.push(Goal { words: words.into(), unit: unit.into(), value, at_most, met: value <= at_most });
        }
    };
    let figure = |name: &str| measurement.figure(name).map(|spread| spread.median);
    let latency = measurement.latency_ms;
    let own_to_rsync = || {
        let cpu = measurement.cpu;
        (cpu.rsync_ms > 0.0).then(|| cpu.own_ms / cpu.rsync_ms * 100.0)
    };
    const OWN: &str = "the agent's own CPU, of that of its rsync processes";
    match (measurement.scenario, measurement.target) {
        (Scenario::Burst, TargetKind::Daemon) => promise("ratio to one rsync", "×", measurement.ratio, 1.5),
        (Scenario::Small, TargetKind::Daemon) => {
            promise("ratio to one rsync", "×", measurement.ratio, 1.3);
            promise(OWN, "%", own_to_rsync(), 25.0);
        }
        (Scenario::Rewrite, TargetKind::Daemon) => promise("ratio to one rsync", "×", measurement.ratio, 1.3),
        (Scenario::Trickle | Scenario::Delete, TargetKind::Daemon) => {
            promise("p50", "ms", latency.map(|latency| latency.p50), 5.0);
            promise("p99", "ms", latency.map(|latency| latency.p99), 12.0);
        }
        (Scenario::Trickle | Scenario::Delete, TargetKind::Stock) => {
            promise("p50", "ms", latency.map(|latency| latency.p50), 8.0);
            promise("p99", "ms", latency.map(|latency| latency.p99), 20.0);
        }
        (Scenario::Trickle, TargetKind::Local) => promise("p50", "ms", latency.map(|latency| latency.p50), 8.0),
        (Scenario::Mixed, _) => promise("p99 beside large files, to p99 without", "×", measurement.ratio, 2.0),
        (Scenario::Rename, _) => {
            promise("on the wire", "KB", figure("wire_kb"), 100.0);
            let took = measurement.makespan_ms.map(|spread| spread.median);
            promise("until the new one is whole and the old one gone", "ms", took, 300.0);
        }
        (Scenario::Fanout, _) => {
            promise("p99 of the lag over all targets", "ms", latency.map(|latency| latency.p99), 2_000.0);
            promise("the agent's own CPU, of a core", "%", figure("own_percent"), 20.0);
        }
        (Scenario::Sustained, _) => promise(OWN, "%", figure("own_to_rsync_percent"), 25.0),
        (Scenario::LatencyWan, _) => promise("p50 of one file", "RTT", figure("p50_rtt"), 3.0),
        (Scenario::Burst | Scenario::Small | Scenario::Rewrite, TargetKind::Stock | TargetKind::Local)
        | (Scenario::Delete, TargetKind::Local) => {}
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Latency, Spread};
    use super::*;

    fn measured(scenario: Scenario, target: TargetKind) -> Measurement {
        let mut measurement = Measurement::begin(scenario, String::new(), "fansync", target);
        measurement.ratio = Some(1.4);
        measurement.latency_ms = Some(Latency { samples: 9, p50: 6.0, p90: 7.0, p99: 13.0, max: 20.0 });
        measurement.makespan_ms = Some(Spread { median: 200.0, min: 1.0, max: 900.0 });
        measurement.cpu.own_ms = 10.0;
        measurement.cpu.rsync_ms = 50.0;
        for name in ["wire_kb", "own_percent", "own_to_rsync_percent", "p50_rtt"] {
            measurement.add(name, "", "", [2.5].into_iter());
        }
        measurement
    }

    #[test]
    fn each_promise_is_held_against_its_own_figure() {
        use Scenario::*;
        use TargetKind::*;
        for (scenario, target, expected) in [
            (Burst, Daemon, &[(1.4, true)][..]),
            (Burst, Stock, &[]),
            (Small, Daemon, &[(1.4, false), (20.0, true)]),
            (Rewrite, Daemon, &[(1.4, false)]),
            (Trickle, Daemon, &[(6.0, false), (13.0, false)]),
            (Delete, Stock, &[(6.0, true), (13.0, true)]),
            (Trickle, Local, &[(6.0, true)]),
            (Delete, Local, &[]),
            (Mixed, Daemon, &[(1.4, true)]),
            (Rename, Daemon, &[(2.5, true), (200.0, true)]),
            (Fanout, Daemon, &[(13.0, true), (2.5, true)]),
            (Sustained, Daemon, &[(2.5, true)]),
            (LatencyWan, Daemon, &[(2.5, true)]),
        ] {
            let goals: Vec<_> = of(&measured(scenario, target)).iter().map(|goal| (goal.value, goal.met)).collect();
            assert_eq!(goals, expected, "{scenario:?} {target:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_no_goal() {
        let nothing = Measurement::begin(Scenario::Small, String::new(), "fansync", TargetKind::Daemon);
        assert_eq!(of(&nothing), []);
    }
}
