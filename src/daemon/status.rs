//! What dispatchers say, and what is read without asking them, as the answers of the control socket.

use std::path::Path;
use std::time::Instant;

use super::control::RootDesk;
use super::desk::{Tally, ViewPart};
use crate::change::{Content, MarkKind, MarkView, Priority};
use crate::control::{
    Checkpoint, DeadLetter, DeadLetters, Degraded, Explained, Filtered, Held, HeldDeletes, LinkStatus, MarkInfo,
    Missing, PathInfo, Rescan, RootStatus, ShardStatus, Status, TargetName, TargetStatus, Watch, WirePath,
};
use crate::dispatch::{self, HeldView, LetterView, PathOnTarget, TargetView};
use crate::path::escaped;
use crate::sys::clock::WallTime;
use crate::watch::Lack;
use crate::worker::link::{AcksView, LinkView};

/// A path of the file system as it is shown.
pub(super) fn shown(path: &Path) -> String {
    escaped(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).to_string()
}

fn since_epoch(time: WallTime) -> f64 {
    time.0 as f64 / 1e9
}

fn until(now: Instant, at: Instant) -> f64 {
    at.saturating_duration_since(now).as_secs_f64()
}

pub(super) fn agent(state_dir: &Path, roots: Vec<RootStatus>) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        state_dir: shown(state_dir),
        roots,
    }
}

/// A root. Whatever is read from the source, the inbox and the walkers, and not told by the dispatcher, comes in here.
pub(super) fn root(root: &RootDesk, part: ViewPart) -> RootStatus {
    let ViewPart { now, status, view, tallies } = part;
    let reading = root.source.reading();
    let mut degraded = Vec::new();
    for lack in Lack::ALL {
        let Some(count) = u64::try_from(reading.lacking[lack as usize]).ok().filter(|count| *count > 0) else {
            continue;
        };
        let remedy = lack.remedy(root.source.allowance.as_deref());
        let words = format!("directories without a watch are looked through every minute: {remedy}");
        degraded.push(Degraded { reason: lack.name().to_owned(), count, words });
    }
    if let Some(error) = &status.checkpoint_error {
        let words = format!("the checkpoint cannot be written ({error}): free space for the state folder");
        degraded.push(Degraded { reason: "checkpoint".to_owned(), count: 1, words });
    }
    let state = match (&view.held, view.paused, status.live) {
        (Some(_), ..) => "held",
        (None, true, _) => "paused",
        (None, false, true) => "live",
        (None, false, false) => "starting",
    };
    RootStatus {
        name: root.name.clone(),
        path: shown(&root.path),
        state: state.to_owned(),
        held: view.held.map(|held| held_of(now, held)),
        degraded,
        watch: Watch {
            backend: root.source.choice.backend.name().to_owned(),
            reason: root.source.choice.reason.clone(),
            refused: root.source.choice.refused.clone(),
        },
        watched: reading.watched,
        unwatched: reading.unwatched,
        events: reading.events,
        overflows: reading.overflows,
        entries: reading.entries,
        watermark: status.watermark.map(since_epoch),
        checkpoint: Checkpoint { written: status.written.map(since_epoch), error: status.checkpoint_error },
        shards: status.shards.iter().enumerate().map(|(shard, status)| shard_of(shard, status)).collect(),
        rescan: status.rescan.map(|progress| Rescan {
            reason: progress.reason.to_owned(),
            directories: progress.directories as u64,
            candidates: progress.candidates as u64,
        }),
        targets: (root.targets.iter().zip(&root.throttles).zip(view.targets).zip(tallies).zip(&status.targets))
            .map(|((((name, throttle), view), tally), status)| TargetStatus {
                bandwidth: throttle.as_ref().and_then(|throttle| throttle.limit()),
                ..target_of(now, name, view, &tally, status.compared)
            })
            .collect(),
    }
}

fn held_of(now: Instant, held: HeldView) -> Held {
    Held {
        cause: held.trouble.cause.to_owned(),
        words: held.trouble.words,
        hint: held.trouble.hint.map(str::to_owned),
        for_seconds: now.saturating_duration_since(held.since).as_secs_f64(),
    }
}

fn shard_of(shard: usize, status: &super::walkers::ShardStatus) -> ShardStatus {
    ShardStatus {
        shard,
        watched: status.watched,
        overflows: status.overflows,
        rescans: status.rescans,
        directories_visited: status.directories,
        watermark: status.watermark.map(since_epoch),
    }
}

fn target_of(now: Instant, name: &TargetName, view: TargetView, tally: &Tally, compared: bool) -> TargetStatus {
    let state = match (view.paused, view.takes, view.probing) {
        (true, ..) | (false, false, false) => "paused",
        (false, true, _) => "ok",
        (false, false, true) => "probing",
    };
    let asked = (view.paused && view.trouble.is_none()).then_some(("operator", "paused by 'fansync pause'"));
    let (cause, words, hint) = match (view.trouble, asked) {
        (Some(trouble), _) => (Some(trouble.cause), trouble.words, trouble.hint),
        (None, Some((cause, words))) => (Some(cause), words.to_owned(), Some("fansync resume")),
        (None, None) => (None, String::new(), None),
    };
    TargetStatus {
        name: name.name.clone(),
        url: name.url.clone(),
        state: state.to_owned(),
        cause: cause.map(str::to_owned),
        words,
        hint: hint.map(str::to_owned),
        paused: view.paused,
        failures: view.failures,
        retry_in_seconds: view.retry_at.map(|at| until(now, at)),
        pending: view.pending,
        background: view.background,
        in_flight: view.in_flight,
        oldest_seconds: view.oldest.map(|oldest| now.saturating_duration_since(oldest).as_secs_f64()),
        bandwidth: None,
        compared,
        widened: view.widened,
        acknowledged: tally.acknowledged,
        latency: tally.latency,
        link: link_of(tally.link.clone()),
        dead_letters: DeadLetters {
            count: view.dead_letters,
            first: view.letters.into_iter().map(|letter| letter_of(now, letter)).collect(),
        },
        held_deletes: HeldDeletes {
            count: view.held.marks,
            paths: usize::try_from(view.held.deletes).unwrap_or(usize::MAX),
            first: view.held.first.into_iter().map(WirePath).collect(),
            for_seconds: view.held.since.map(|since| now.saturating_duration_since(since).as_secs_f64()),
        },
    }
}

/// A local target has none.
fn link_of(view: LinkView) -> Option<LinkStatus> {
    if !view.is_remote {
        return None;
    }
    let (acks, acks_reason) = match view.acks {
        Some(AcksView::Quick) => (Some("quick"), None),
        Some(AcksView::Plain(why)) => (Some("plain"), Some(why)),
        None => (None, None),
    };
    Some(LinkStatus {
        acks: acks.map(str::to_owned),
        acks_reason,
        warm: view.is_warm,
        warm_reason: (!view.is_warm).then(|| view.why_cold.to_owned()),
        warm_runs: view.warm_runs,
        cold_runs: view.cold_runs,
        warm_broken: view.warm_broken,
        compressed: view.compresses,
        bytes_sent: view.bytes_sent,
        bytes_received: view.bytes_received,
        bytes_per_second: view.speed.rate(),
        round_trip_ms: (view.speed.rtt_us > 0).then(|| f64::from(view.speed.rtt_us) / 1e3),
    })
}

fn letter_of(now: Instant, letter: LetterView) -> DeadLetter {
    DeadLetter {
        path: WirePath(letter.path),
        words: letter.words,
        attempts: letter.attempts,
        retry_in_seconds: letter.retry_at.map(|at| until(now, at)),
    }
}

/// What a wait was still waiting for.
pub(super) fn missing(root: &RootDesk, part: dispatch::Missing) -> Missing {
    Missing {
        root: root.name.clone(),
        target: part.target.map(|id| root.target_name(id)),
        words: part.words,
        marks: part.marks,
        first: part.first.into_iter().map(WirePath).collect(),
    }
}

/// What is known of one path.
pub(super) fn explained(
    root: &RootDesk,
    path: &WirePath,
    directory: bool,
    targets: Vec<PathOnTarget>,
    now: Instant,
) -> Explained {
    let decision = root.source.filter.explain(&path.0, directory);
    Explained {
        root: root.name.clone(),
        path: path.clone(),
        filter: Filtered {
            excluded: decision.excluded,
            on: decision.by.is_some().then_some(WirePath(decision.on)),
            rule: decision.by.map(|rule| rule.to_string()),
        },
        targets: (targets.into_iter())
            .map(|on| PathInfo {
                target: root.target_name(on.target),
                pending: on.marks.pending.map(|mark| mark_of(now, mark)),
                in_flight: on.marks.in_flight.map(|mark| mark_of(now, mark)),
                above: on.marks.above.map(|mark| mark_of(now, mark)),
                pending_beneath: on.marks.pending_beneath,
                in_flight_beneath: on.marks.in_flight_beneath,
                words: on.words,
                dead_letter: on.dead_letter,
                cause: on.cause.map(str::to_owned),
            })
            .collect(),
    }
}

fn mark_of(now: Instant, mark: MarkView) -> MarkInfo {
    let kind = match mark.kind {
        MarkKind::Attributes => "attributes",
        MarkKind::Point => "point",
        MarkKind::Listing => "listing",
        MarkKind::Subtree => "subtree",
    };
    let content = match mark.content {
        Content::Compare => "compare",
        Content::Since(_) => "since",
        Content::Resend => "resend",
    };
    let priority = match mark.priority {
        Priority::Live => "live",
        Priority::Background => "background",
    };
    MarkInfo {
        path: WirePath(mark.path),
        kind: kind.to_owned(),
        content: content.to_owned(),
        priority: priority.to_owned(),
        attempts: mark.attempts,
        age_seconds: now.saturating_duration_since(mark.first).as_secs_f64(),
        due_in_seconds: mark.due.map(|at| until(now, at)),
        derived: mark.derived,
        large: mark.large,
    }
}
