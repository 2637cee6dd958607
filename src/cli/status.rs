//! A status as a table for people.

use std::fmt::Write as _;

use crate::control::{LinkStatus, RootStatus, Status, TargetStatus};

/// Dead letters and held deletes that are shown of each target; `--json` has more.
const SHOWN_MAX: usize = 10;

/// Whether nothing is held, paused, failing or degraded.
#[must_use]
pub fn is_well(status: &Status) -> bool {
    status.roots.iter().all(|root| {
        matches!(root.state.as_str(), "live" | "starting")
            && root.degraded.is_empty()
            && root.checkpoint.error.is_none()
            && root.targets.iter().all(|target| {
                target.state == "ok"
                    && target.cause.is_none()
                    && target.dead_letters.count == 0
                    && target.held_deletes.count == 0
            })
    })
}

/// The whole status.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut text = format!("fansync {}, pid {}, state {}\n", status.version, status.pid, status.state_dir);
    for root in &status.roots {
        text.push('\n');
        root_text(&mut text, root);
    }
    text
}

fn root_text(text: &mut String, root: &RootStatus) {
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("root {} ({}): {}", root.name, root.path, root.state));
    if let Some(held) = &root.held {
        line(format!("  held for {}: {}{}", span(held.for_seconds), held.words, hint(held.hint.as_deref())));
    }
    for degraded in &root.degraded {
        line(format!("  degraded: {} {}: {}", degraded.count, degraded.reason, degraded.words));
    }
    if let Some(error) = &root.checkpoint.error {
        line(format!("  the checkpoint cannot be written: {error}"));
    }
    let known = if root.watch.backend == "fanotify" { "known" } else { "watched" };
    let mut counts = format!("  {}: {} directories {known}", root.watch.backend, root.watched);
    if root.shards.len() > 1 {
        let each: Vec<String> = root.shards.iter().map(|shard| shard.watched.to_string()).collect();
        let _infallible = write!(counts, " by {} shards ({})", root.shards.len(), each.join(", "));
    }
    let _infallible = write!(counts, ", {} events", root.events);
    if root.overflows > 0 {
        let _infallible = write!(counts, ", {} overflows", root.overflows);
    }
    line(counts);
    if let Some(refused) = &root.watch.refused {
        line(format!("  fanotify is not used: {refused}"));
    }
    if let Some(rescan) = &root.rescan {
        line(format!(
            "  rescan ({}): {} directories looked at, {} differences found",
            rescan.reason, rescan.directories, rescan.candidates
        ));
    }
    let mut rows = vec![
        ["TARGET", "STATE", "PENDING", "UNDER WAY", "OLDEST", "LAG p50/p99", "FAILURES", "RETRY IN"].map(str::to_owned),
    ];
    rows.extend(root.targets.iter().map(row));
    let widths: Vec<usize> =
        (0..8).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        line(format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end()));
        if let Some(target) = index.checked_sub(1).and_then(|index| root.targets.get(index)) {
            below_row(target).into_iter().for_each(|below| line(format!("    {below}")));
        }
    }
}

fn row(target: &TargetStatus) -> [String; 8] {
    let or_dash = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), span);
    [
        target.name.clone(),
        if target.compared { target.state.clone() } else { format!("{}, comparing", target.state) },
        target.pending.to_string(),
        target.in_flight.to_string(),
        or_dash(target.oldest_seconds),
        target.latency.map_or_else(
            || "-".to_owned(),
            |latency| format!("{}/{}", span(latency.p50_ms / 1e3), span(latency.p99_ms / 1e3)),
        ),
        target.failures.to_string(),
        or_dash(target.retry_in_seconds),
    ]
}

fn below_row(target: &TargetStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if target.url != target.name {
        lines.push(target.url.clone());
    }
    if let Some(limit) = target.bandwidth {
        lines.push(format!("at most {} now", crate::config::rate_text(limit)));
    }
    if let Some(cause) = &target.cause {
        let words = if target.words.is_empty() { String::new() } else { format!(": {}", target.words) };
        lines.push(format!("{}{words}{}", cause.replace('_', " "), hint(target.hint.as_deref())));
    }
    if let Some(link) = &target.link {
        lines.push(link_line(link));
    }
    if target.widened > 0 {
        lines.push(format!("too many changes waited: widened {} times", target.widened));
    }
    let letters = &target.dead_letters;
    if letters.count > 0 {
        lines.push(format!("{} dead letters: mend the cause, then 'fansync retry'", letters.count));
        lines.extend(letters.first.iter().take(SHOWN_MAX).map(|letter| {
            let again = letter.retry_in_seconds.map_or_else(String::new, |due| format!(", again in {}", span(due)));
            format!("  {} (failed {} times{again}): {}", letter.path.0, letter.attempts, letter.words)
        }));
    }
    let held = &target.held_deletes;
    if held.count > 0 {
        let since = held.for_seconds.map_or_else(String::new, |seconds| format!(" for {}", span(seconds)));
        lines.push(format!("{} deletes held{since}: if they are meant, 'fansync approve'", held.paths.max(held.count)));
        lines.extend(held.first.iter().take(SHOWN_MAX).map(|path| format!("  {}", path.0)));
    }
    lines
}

/// The way there, and what would make it faster.
fn link_line(link: &LinkStatus) -> String {
    let mut parts = vec![match (&link.warm_reason, link.warm) {
        (_, true) => "warm".to_owned(),
        (Some(reason), false) => format!("not warm ({reason})"),
        (None, false) => "not warm".to_owned(),
    }];
    if let Some(acks) = &link.acks {
        let why = link.acks_reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
        parts.push(format!("acks {acks}{why}"));
    }
    if let Some(round_trip) = link.round_trip_ms {
        parts.push(format!("round trip {}", span(round_trip / 1e3)));
    }
    if let Some(rate) = link.bytes_per_second {
        parts.push(format!("{:.0} MB/s", rate / 1e6));
    }
    if link.compressed {
        parts.push("compressed".to_owned());
    }
    let mut line = parts.join(", ");
    if link.acks_reason.is_some() {
        line.push_str("; set 'socket options = TCP_NODELAY' in the daemon's rsyncd.conf");
    }
    line
}

fn hint(hint: Option<&str>) -> String {
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

/// A span in the two digits that matter.
#[must_use]
pub fn span(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 0.000_95 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 0.9995 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 9.95 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        seconds => format!("{:.0} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{DeadLetter, DeadLetters, Held, HeldDeletes, Latency, WirePath};
    use crate::path::RelPath;

    fn target(name: &str) -> TargetStatus {
        TargetStatus {
            name: name.to_owned(),
            url: format!("rsync://{name}/data"),
            state: "ok".to_owned(),
            cause: None,
            words: String::new(),
            hint: None,
            paused: false,
            failures: 0,
            retry_in_seconds: None,
            pending: 0,
            background: 0,
            in_flight: 0,
            oldest_seconds: None,
            bandwidth: None,
            compared: true,
            widened: 0,
            acknowledged: 7,
            latency: Some(Latency { p50_ms: 2.0, p99_ms: 9.0 }),
            link: None,
            dead_letters: DeadLetters::default(),
            held_deletes: HeldDeletes::default(),
        }
    }

    fn root(targets: Vec<TargetStatus>) -> RootStatus {
        RootStatus {
            name: "data".to_owned(),
            path: "/data".to_owned(),
            state: "live".to_owned(),
            held: None,
            degraded: Vec::new(),
            watch: crate::control::Watch { backend: "inotify".to_owned(), ..Default::default() },
            watched: 3,
            unwatched: 0,
            events: 12,
            overflows: 0,
            entries: 0,
            watermark: None,
            checkpoint: crate::control::Checkpoint::default(),
            shards: Vec::new(),
            rescan: None,
            targets,
        }
    }

    #[test]
    fn a_table_says_what_is_wrong_below_its_row() {
        let mut dead = target("dead");
        dead.state = "paused".to_owned();
        dead.cause = Some("connection_refused".to_owned());
        dead.words = "Connection refused (111)".to_owned();
        dead.hint = Some("start the rsync daemon".to_owned());
        (dead.pending, dead.failures, dead.oldest_seconds, dead.retry_in_seconds) = (12, 3, Some(75.0), Some(4.2));
        dead.bandwidth = Some(10 << 20);
        let mut odd = target("odd");
        odd.link = Some(LinkStatus {
            acks: Some("plain".to_owned()),
            acks_reason: Some("Operation not permitted".to_owned()),
            warm_reason: Some("none is asked for".to_owned()),
            round_trip_ms: Some(0.3),
            bytes_per_second: Some(3e6),
            compressed: true,
            ..LinkStatus::default()
        });
        let letter = DeadLetter {
            path: WirePath(RelPath::parse(b"a\n").unwrap()),
            words: "denied".to_owned(),
            attempts: 8,
            retry_in_seconds: Some(600.0),
        };
        odd.dead_letters = DeadLetters { count: 1, first: vec![letter] };
        let well = root(vec![target("well")]);
        let mut held = root(vec![dead.clone(), odd.clone()]);
        held.state = "held".to_owned();
        held.held = Some(Held {
            cause: "source_missing".to_owned(),
            words: "/data was removed".to_owned(),
            hint: Some("mount it".to_owned()),
            for_seconds: 3.0,
        });
        let status =
            |roots: Vec<RootStatus>| Status { version: "1".to_owned(), pid: 2, state_dir: "/state".to_owned(), roots };
        let expected = "\
fansync 1, pid 2, state /state

root data (/data): held
  held for 3.0 s: /data was removed; mount it
  inotify: 3 directories watched, 12 events
  TARGET  STATE   PENDING  UNDER WAY  OLDEST  LAG p50/p99  FAILURES  RETRY IN
  dead    paused  12       0          75 s    2 ms/9 ms    3         4.2 s
    rsync://dead/data
    at most 10MiB/s now
    connection refused: Connection refused (111); start the rsync daemon
  odd     ok      0        0          -       2 ms/9 ms    0         -
    rsync://odd/data
    not warm (none is asked for), acks plain (Operation not permitted), round trip 0.3 ms, 3 MB/s, compressed; set \
'socket options = TCP_NODELAY' in the daemon's rsyncd.conf
    1 dead letters: mend the cause, then 'fansync retry'
      a\\n (failed 8 times, again in 10 min): denied
";
        assert_eq!(text(&status(vec![held.clone()])), expected);
        assert!(is_well(&status(vec![well.clone()])));
        for unwell in [held, root(vec![dead]), root(vec![odd])] {
            assert!(!is_well(&status(vec![well.clone(), unwell])));
        }
    }

    #[test]
    fn spans_are_short() {
        let check = |seconds: f64, expected: &str| assert_eq!(span(seconds), expected);
        check(0.000_04, "0.0 ms");
        check(0.012, "12 ms");
        check(1.0, "1.0 s");
        check(59.0, "59 s");
        check(600.0, "10 min");
        check(7_300.0, "2 h");
        check(900_000.0, "10 d");
    }
}
