//! The verdict of `fansync bench claim`. Pure.

use std::fmt::Write as _;

use super::measure::Measurement;
use super::report::{Report, short};

/// What came out of it, in plain English.
pub(super) fn verdict(report: &Report) -> String {
    let Some((agent, peers)) = report.measurements.split_first() else { return "Nothing was measured.".into() };
    let limit = agent.limit.and_then(|limit| limit.ended_ms);
    let (Some(took), Some(limit), true) = (agent.makespan_ms, limit, agent.is_complete()) else {
        return format!(
            "fansync did not bring everything to the target: {} files are missing and {} are different.",
            agent.missing, agent.different
        );
    };
    let mut text = format!(
        "With fansync {} are in place {} after the first write (median of {} runs): {} times what one rsync takes \
         for the same files ({}).",
        agent.words.replace(" written at once", ""),
        time(took.median),
        agent.runs,
        short(agent.ratio.unwrap_or(took.median / limit.median)),
        time(limit.median)
    );
    for peer in peers {
        let _infallible = write!(text, " {}", of_peer(peer, took.median));
    }
    if peers.is_empty() {
        text.push_str(" No other tool was there to compare with.");
    }
    text
}

fn of_peer(peer: &Measurement, agent_ms: f64) -> String {
    match peer.makespan_ms {
        Some(took) if peer.is_complete() => {
            format!("{} takes {}, {} times as long.", peer.subject, time(took.median), short(took.median / agent_ms))
        }
        _ => format!("{} left {} files out in the time that it had.", peer.subject, peer.missing + peer.different),
    }
}

fn time(ms: f64) -> String {
    if ms < 1_000.0 { format!("{} ms", short(ms)) } else { format!("{:.2} s", ms / 1_000.0) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::limit::Limit;
    use super::super::measure::Run;
    use super::super::report::tests::report;
    use super::*;

    fn run(makespan: u64) -> Run {
        let ended = vec![Duration::from_millis(40)];
        Run {
            makespan: Some(Duration::from_millis(makespan)),
            limit: Limit { ended, ..Limit::default() },
            ..Run::default()
        }
    }

    #[test]
    fn the_verdict_says_how_near_the_limit_and_how_far_the_others_are() {
        let mut report = report(&[run(50)]);
        let words = verdict(&report);
        assert!(words.contains("200 files of 100 KB are in place 50.0 ms after the first write"), "{words}");
        assert!(words.contains("1.25 times what one rsync takes for the same files (40.0 ms)"), "{words}");
        assert!(words.contains("No other tool"), "{words}");
        let mut lsyncd = report.measurements[0].clone().of_runs(&[run(1_500)]);
        lsyncd.subject = "lsyncd".into();
        let mut script = lsyncd.clone();
        (script.subject, script.missing) = ("inotifywait".into(), 5);
        report.measurements.extend([lsyncd, script]);
        let words = verdict(&report);
        assert!(words.contains("lsyncd takes 1.50 s, 30.0 times as long."), "{words}");
        assert!(words.contains("inotifywait left 5 files out"), "{words}");
    }

    #[test]
    fn what_did_not_arrive_is_no_success() {
        let words = verdict(&report(&[Run { missing: 3, ..Run::default() }]));
        assert!(words.contains("did not bring everything") && words.contains('3'), "{words}");
    }
}
