//! What an agent answers. Fields may be added; what is here keeps its name and meaning.

use serde::{Deserialize, Serialize};

use super::{PROTOCOL, WirePath};

/// An answer as it stands in its line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// [`PROTOCOL`] of the agent.
    pub protocol: u32,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
}

impl Reply {
    /// The answer as a line with its end.
    #[must_use]
    pub fn line(answer: Answer) -> Vec<u8> {
        let mut line = serde_json::to_vec(&Self { protocol: PROTOCOL, answer }).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To `roots`.
    Roots {
        /// Every root.
        roots: Vec<RootName>,
    },
    /// To `status`.
    Status(Box<Status>),
    /// Done. How many marks, deletes or targets it concerned.
    Done {
        /// Zero: there was nothing to do.
        count: usize,
    },
    /// To `wait`: everything is there.
    Reached,
    /// To `wait`: not in time.
    NotReached {
        /// What is not there.
        missing: Vec<Missing>,
    },
    /// To `explain`.
    Explained(Box<Explained>),
    /// Not done.
    Failed {
        /// Whose fault it is.
        kind: FailureKind,
        /// Why, in words.
        words: String,
    },
}

/// Whose fault it is that a request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request is wrong, or names what is not there.
    Request,
    /// The agent cannot now: too much is asked at the same time, or it is ending.
    Agent,
}

/// A root by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootName {
    /// Its name.
    pub name: String,
    /// Its path, escaped.
    pub path: String,
    /// Its targets.
    pub targets: Vec<TargetName>,
}

/// A target by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetName {
    /// Its name.
    pub name: String,
    /// Where it is, escaped.
    pub url: String,
}

/// How the agent is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of fansync.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its state folder, escaped.
    pub state_dir: String,
    /// Its roots.
    pub roots: Vec<RootStatus>,
}

/// How a root is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootStatus {
    /// Its name.
    pub name: String,
    /// Its path, escaped.
    pub path: String,
    /// `starting`, `live`, `held` or `paused`.
    pub state: String,
    /// Why nothing is sent from it.
    pub held: Option<Held>,
    /// What is not as good as it should be.
    pub degraded: Vec<Degraded>,
    /// By what it is watched.
    pub watch: Watch,
    /// Directories watched.
    pub watched: i64,
    /// Directories that could not be watched.
    pub unwatched: i64,
    /// Events read.
    pub events: u64,
    /// Overflows of the kernel's queues.
    pub overflows: u64,
    /// Entries of the root.
    pub entries: u64,
    /// Everything that changed before it is noted. Unit: seconds since 1970.
    pub watermark: Option<f64>,
    /// What a restart goes on from.
    pub checkpoint: Checkpoint,
    /// Its shards.
    pub shards: Vec<ShardStatus>,
    /// The rescan under way.
    pub rescan: Option<Rescan>,
    /// Its targets.
    pub targets: Vec<TargetStatus>,
}

/// By what a root is watched.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Watch {
    /// `inotify` or `fanotify`.
    pub backend: String,
    /// Why.
    pub reason: String,
    /// Why not by fanotify, where that was asked for or would be better.
    pub refused: Option<String>,
}

/// Why nothing is sent from a root.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Stable name.
    pub cause: String,
    /// What was found.
    pub words: String,
    /// What the operator can do.
    pub hint: Option<String>,
    /// Since when.
    pub for_seconds: f64,
}

/// What is not as good as it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Degraded {
    /// Stable name.
    pub reason: String,
    /// How many it concerns.
    pub count: u64,
    /// What it means and what the operator can do.
    pub words: String,
}

/// What a restart goes on from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// When it was written last. Unit: seconds since 1970.
    pub written: Option<f64>,
    /// Why it cannot be written.
    pub error: Option<String>,
}

/// How a shard is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Which.
    pub shard: usize,
    /// Directories that it watches.
    pub watched: u64,
    /// Overflows of its queue.
    pub overflows: u64,
    /// Rescans for it.
    pub rescans: u64,
    /// Directories that these looked at.
    pub directories_visited: u64,
    /// Everything that changed before it is noted. Unit: seconds since 1970.
    pub watermark: Option<f64>,
}

/// A rescan under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rescan {
    /// `overflow`, `restart`, `unwatched` or `asked`.
    pub reason: String,
    /// Directories looked at so far.
    pub directories: u64,
    /// Marks made so far.
    pub candidates: u64,
}

/// How a target is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its name.
    pub name: String,
    /// Where it is, escaped.
    pub url: String,
    /// `ok`, `paused` or `probing`.
    pub state: String,
    /// Why it takes nothing, or has no room for some paths: rsync's cause by its stable name, or `operator` after
    /// `fansync pause`.
    pub cause: Option<String>,
    /// What rsync said.
    pub words: String,
    /// What the operator can do.
    pub hint: Option<String>,
    /// `fansync pause` was asked for.
    pub paused: bool,
    /// Failures without a success in between.
    pub failures: u32,
    /// Until it is asked again.
    pub retry_in_seconds: Option<f64>,
    /// Marks that wait.
    pub pending: usize,
    /// Background marks that wait or are under way.
    pub background: usize,
    /// Marks under way.
    pub in_flight: usize,
    /// Age of the oldest live mark.
    pub oldest_seconds: Option<f64>,
    /// What it may be sent now, over all its lanes. Unit: bytes per second; none: there is no limit at this hour.
    #[serde(default)]
    pub bandwidth: Option<u64>,
    /// The comparison of the start is through.
    pub compared: bool,
    /// How many times marks were widened because there were too many.
    pub widened: u64,
    /// Live marks acknowledged since the start.
    pub acknowledged: u64,
    /// From the first event to the acknowledgement, since the start.
    pub latency: Option<Latency>,
    /// The way there; `None` for a local directory.
    pub link: Option<LinkStatus>,
    /// Paths that failed again and again.
    pub dead_letters: DeadLetters,
    /// Deletes that wait for `fansync approve`.
    pub held_deletes: HeldDeletes,
}

/// The way to a target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// How replies are acknowledged: `quick`, or `plain` where that is not possible; `None` before it is known.
    pub acks: Option<String>,
    /// Why they are not acknowledged at once.
    pub acks_reason: Option<String>,
    /// An rsync is connected and waits for a change.
    pub warm: bool,
    /// Why none does.
    pub warm_reason: Option<String>,
    /// Runs by one that waited.
    pub warm_runs: u64,
    /// Runs that were started for their list.
    pub cold_runs: u64,
    /// Runs by one that waited whose connection was no good, and that were made again.
    pub warm_broken: u64,
    /// Data is compressed.
    pub compressed: bool,
    /// Bytes on the wire since the start, as far as they were seen.
    pub bytes_sent: u64,
    /// The same, from there.
    pub bytes_received: u64,
    /// Measured speed. Unit: bytes per second.
    pub bytes_per_second: Option<f64>,
    /// The round trip of the latest connection. Unit: milliseconds.
    pub round_trip_ms: Option<f64>,
}

/// From the first event to the acknowledgement. Unit: milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of all.
    pub p50_ms: f64,
    /// All but one in a hundred.
    pub p99_ms: f64,
}

/// Paths that failed again and again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// All of them.
    pub count: usize,
    /// The first, by path.
    pub first: Vec<DeadLetter>,
}

/// A path that failed again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Which.
    pub path: WirePath,
    /// What rsync said of it last.
    pub words: String,
    /// Failures so far.
    pub attempts: u32,
    /// Until it is tried again; `None` while it is.
    pub retry_in_seconds: Option<f64>,
}

/// Deletes that wait for `fansync approve`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldDeletes {
    /// Marks.
    pub count: usize,
    /// Paths that would go, as far as is known.
    pub paths: usize,
    /// The first, by path.
    pub first: Vec<WirePath>,
    /// Since when.
    pub for_seconds: Option<f64>,
}

/// What a `wait` was still waiting for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    /// In which root.
    pub root: String,
    /// On which target; `None` when it is not even known yet what changed.
    pub target: Option<String>,
    /// What keeps it, in words.
    pub words: String,
    /// Marks of before the request that are not acknowledged.
    pub marks: usize,
    /// The first of them, by path.
    pub first: Vec<WirePath>,
}

/// What is known of one path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// In which root.
    pub root: String,
    /// Which path.
    pub path: WirePath,
    /// Whether it is left alone.
    pub filter: Filtered,
    /// On each target.
    pub targets: Vec<PathInfo>,
}

/// What the filter says of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filtered {
    /// It is left alone.
    pub excluded: bool,
    /// The rule that decided, if any.
    pub rule: Option<String>,
    /// The path that it matched: this one or a directory above.
    pub on: Option<WirePath>,
}

/// What one target makes of a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathInfo {
    /// Which target.
    pub target: String,
    /// The mark that waits here.
    pub pending: Option<MarkInfo>,
    /// The mark that is under way.
    pub in_flight: Option<MarkInfo>,
    /// The nearest mark on a directory above that reaches this path.
    pub above: Option<MarkInfo>,
    /// Marks that wait beneath.
    pub pending_beneath: u32,
    /// Marks under way beneath.
    pub in_flight_beneath: u32,
    /// What rsync said of it last, if it failed.
    pub words: Option<String>,
    /// It failed again and again.
    pub dead_letter: bool,
    /// Why the target takes nothing now.
    pub cause: Option<String>,
}

/// A mark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarkInfo {
    /// Where it is.
    pub path: WirePath,
    /// `attributes`, `point`, `listing` or `subtree`.
    pub kind: String,
    /// `compare`, `since` or `resend`.
    pub content: String,
    /// `live` or `background`.
    pub priority: String,
    /// Failures so far.
    pub attempts: u32,
    /// Since its first event.
    pub age_seconds: f64,
    /// Until it may be sent; `None` when it is under way.
    pub due_in_seconds: Option<f64>,
    /// Made from another name of the same inode.
    pub derived: bool,
    /// For the large lane.
    pub large: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPath;

    #[test]
    fn an_answer_is_read_as_it_was_written_and_by_older_readers_too() {
        let letter = DeadLetter {
            path: WirePath(RelPath::parse(b"a\xff\n").unwrap()),
            words: "denied".to_owned(),
            attempts: 8,
            retry_in_seconds: Some(1.5),
        };
        let line = Reply::line(Answer::Failed { kind: FailureKind::Agent, words: "no".to_owned() });
        assert_eq!(line, b"{\"protocol\":1,\"answer\":\"failed\",\"kind\":\"agent\",\"words\":\"no\"}\n");
        let text = serde_json::to_string(&letter).unwrap();
        assert!(text.contains(r#""path":"a\\xff\\n""#), "{text}");
        let newer = text.replace('{', r#"{"added":[1],"#);
        assert_eq!(serde_json::from_str::<DeadLetter>(&newer).unwrap(), letter);
    }
}
