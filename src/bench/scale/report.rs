//! The table of `bench scale`.

use std::fmt::Write as _;

use serde::Serialize;

use super::OnTree;
use crate::bench::measure::Spread;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct ScaleReport {
    /// Version of fansync.
    pub(super) fansync: &'static str,
    /// Processor, memory and kernel.
    pub(super) machine: String,
    /// Files of the tree.
    pub(super) files: usize,
    /// Its directories.
    pub(super) directories: usize,
    /// The file system that holds it.
    pub(super) file_system: String,
    /// Runs of everything that is repeated.
    pub(super) runs: u32,
    /// One per backend.
    pub(super) measured: Vec<OnTree>,
    /// What the reader should know.
    pub(super) notes: Vec<String>,
}

const MB: f64 = 1e6;

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

fn times(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |s| format!("{:.0} ({:.0}–{:.0})", s.median, s.min, s.max))
}

impl ScaleReport {
    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "\n{} files in {} directories, {}; {}\ntimes in ms: median (least–most) of {} runs\n\n",
            self.files, self.directories, self.file_system, self.machine, self.runs
        );
        let mut row = |label: &str, cells: &[String]| {
            let _infallible = write!(text, "{label:<52}");
            for cell in cells {
                let _infallible = write!(text, "{cell:>26}");
            }
            text.push('\n');
        };
        let mut rows = |label: &str, cell: &dyn Fn(&OnTree) -> String| {
            row(label, &self.measured.iter().map(cell).collect::<Vec<_>>());
        };
        rows("", &|one| one.backend.name().to_owned());
        rows("limit: walk", &|one| times(one.limits.walk_ms));
        rows("limit: walk + inotify add", &|one| times(one.limits.walk_add_ms));
        rows("limit: walk + statx of every entry", &|one| times(one.limits.walk_look_ms));
        rows("live, from the start of the process", &|one| times(one.live_ms));
        rows("live, from the start of the root", &|one| times(one.root_live_ms));
        rows("  to walk", &|one| number(one.live_to_walk, 2));
        rows("  to walk + inotify add", &|one| number(one.live_to_walk_add, 2));
        rows("every directory known", &|one| times(one.known_ms));
        rows("directories watched or known", &|one| one.watched.to_string());
        rows("kernel memory: marks, MB (growth of SUnreclaim)", &|one| {
            number(Some(one.kernel.marks_bytes as f64 / MB), 1)
        });
        rows("kernel memory: inodes pinned, MB (watches × inode)", &|one| {
            let mark = if one.kernel.inode_size_is_read { "" } else { " (estimated)" };
            number(one.kernel.inodes_bytes.map(|bytes| bytes as f64 / MB), 1) + mark
        });
        rows("resident memory then, MB", &|one| number(one.resident_bytes.map(|s| s.median / MB), 1));
        rows("  on an empty tree, MB", &|one| number(Some(one.resident_empty_bytes as f64 / MB), 1));
        rows("  the difference per directory, bytes", &|one| number(one.resident_per_directory_bytes, 0));
        rows("first comparison and copy, s", &|one| number(one.first_copy_ms.map(|ms| ms / 1000.0), 1));
        rows("resident memory after that, MB", &|one| number(Some(one.resident_copied_bytes as f64 / MB), 1));
        rows("idle, % of a core", &|one| number(one.idle_percent, 3));
        rows("restart: live", &|one| times(one.restart_live_ms));
        rows("restart: 100 changes on the target", &|one| times(one.restart_ms));
        rows("overflow of all queues: 100 changes on the target", &|one| times(one.overflow_ms));
        rows("  overflows of queues in these runs", &|one| one.overflows.to_string());
        for one in self.measured.iter().filter(|one| one.missing > 0) {
            let _infallible =
                writeln!(text, "\nMISSING: with {} {} changes did not arrive", one.backend.name(), one.missing);
        }
        for note in &self.notes {
            let _infallible = writeln!(text, "\nnote: {note}");
        }
        text
    }
}
