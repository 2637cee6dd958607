//! `fansync demo`: a throw-away rsync daemon, the mirror on a scratch tree, and one change after the other, each with
//! the time until the target shows it; at the end both trees are compared.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use super::compare::{self, DirectoryTimes};
use super::measure::ms;
use super::patience::{Interrupt, Interrupted};
use super::report::say;
use super::scenario::TargetKind;
use super::stage::{Cast, Scratch, Stage};
use super::subject::Subject;
use super::{COMPLETE, INCOMPLETE, INTERRUPTED};
use crate::path::RelPath;
use crate::sys::clock;

/// How long the target may take to show a change.
const STEP_MAX: Duration = Duration::from_secs(10);

/// How often it is asked. Latencies are this much too long at most, and so much longer as a look takes.
const POLL: Duration = Duration::from_millis(1);

/// One change.
struct Step {
    /// What it is called.
    words: &'static str,
    /// What is different afterwards; the first one is printed.
    paths: &'static [&'static str],
    /// Makes the change in the tree.
    act: fn(&Path) -> io::Result<()>,
}

const STEPS: [Step; 14] = [
    Step { words: "new file", paths: &["photos/1.jpg"], act: |root| write(root, "photos/1.jpg", 60_000) },
    Step {
        words: "new file of 16 MB",
        paths: &["photos/film.mp4"],
        act: |root| write(root, "photos/film.mp4", 16_000_000),
    },
    Step { words: "empty file", paths: &["notes/empty"], act: |root| write(root, "notes/empty", 0) },
    Step { words: "append", paths: &["notes/diary.txt"], act: |root| append(root, "notes/diary.txt", "a line more\n") },
    Step {
        words: "replace by rename",
        paths: &["www/index.html", "www/index.html.new"],
        act: |root| {
            write(root, "www/index.html.new", 9_000)?;
            fs::rename(root.join("www/index.html.new"), root.join("www/index.html"))
        },
    },
    Step {
        words: "new directory with files",
        paths: &["albums/2024/c.jpg", "albums", "albums/2024", "albums/2024/a.jpg", "albums/2024/b.jpg"],
        act: |root| {
            fs::create_dir_all(root.join("albums/2024"))?;
            ["a", "b", "c"].iter().try_for_each(|name| write(root, &format!("albums/2024/{name}.jpg"), 40_000))
        },
    },
    Step {
        words: "rename a file",
        paths: &["photos/first.jpg", "photos/1.jpg"],
        act: |root| fs::rename(root.join("photos/1.jpg"), root.join("photos/first.jpg")),
    },
    Step {
        words: "rename a directory",
        paths: &["archive", "archive/2024/a.jpg", "archive/2024/b.jpg", "archive/2024/c.jpg", "albums"],
        act: |root| fs::rename(root.join("albums"), root.join("archive")),
    },
    Step {
        words: "file in a renamed directory",
        paths: &["archive/2024/d.jpg"],
        act: |root| write(root, "archive/2024/d.jpg", 40_000),
    },
    Step { words: "symlink", paths: &["www/start"], act: |root| symlink("index.html", root.join("www/start")) },
    Step {
        words: "chmod",
        paths: &["notes/diary.txt"],
        act: |root| fs::set_permissions(root.join("notes/diary.txt"), Permissions::from_mode(0o600)),
    },
    Step {
        words: "file becomes a directory",
        paths: &["notes/empty/inside", "notes/empty"],
        act: |root| {
            fs::remove_file(root.join("notes/empty"))?;
            fs::create_dir(root.join("notes/empty"))?;
            write(root, "notes/empty/inside", 100)
        },
    },
    Step {
        words: "delete a file",
        paths: &["photos/film.mp4"],
        act: |root| fs::remove_file(root.join("photos/film.mp4")),
    },
    Step { words: "delete a directory", paths: &["archive"], act: |root| fs::remove_dir_all(root.join("archive")) },
];

/// Plays the demo. Returns the exit code: 0, or 1 when the trees are not equal at the end, or 130 after a signal.
///
/// # Errors
/// When the daemon or the agent does not start, or the agent ends.
pub fn run() -> anyhow::Result<u8> {
    match play(&Interrupt::watch()?) {
        Err(error) if error.is::<Interrupted>() => Ok(INTERRUPTED),
        other => other,
    }
}

fn play(interrupt: &Interrupt) -> anyhow::Result<u8> {
    let scratch = Scratch::create(&std::env::temp_dir(), "demo")?;
    let program = Subject::Agent.program().expect("the agent is always installed");
    let cast = Cast { subject: Subject::Agent, program, kind: TargetKind::Daemon, relay: None };
    let mut stage = Stage::set(cast, scratch, interrupt)?;
    first_tree(stage.source())?;
    say(&format!("source  {}", stage.source().display()))?;
    say(&format!("target  {}  (a throw-away rsync daemon)", stage.address().display()))?;
    let started = clock::now();
    stage.start()?;
    let copied = interrupt
        .until(STEP_MAX, POLL, || Ok(compare::trees(stage.source(), stage.target())?.differences.is_empty()))?;
    if !copied {
        return verdict(&stage);
    }
    say(&format!("+{:8.1} ms  from the start to the first copy", ms(clock::now() - started)))?;
    for step in &STEPS {
        play_step(step, &stage, interrupt)?;
    }
    // Times of directories follow when they are quiet.
    interrupt.until(STEP_MAX, Duration::from_millis(20), || {
        Ok(compare::trees(stage.source(), stage.target())?.differences.is_empty())
    })?;
    verdict(&stage)
}

fn play_step(step: &Step, stage: &Stage, interrupt: &Interrupt) -> anyhow::Result<()> {
    let paths = step.paths.iter().map(|path| RelPath::parse(path.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    (step.act)(stage.source())?;
    let done = clock::now();
    let mut left = paths.iter().peekable();
    let shown = interrupt.until(STEP_MAX, POLL, || {
        while let Some(path) = left.peek() {
            if compare::entry(stage.source(), stage.target(), path, DirectoryTimes::Ignore)?.is_some() {
                return Ok(false);
            }
            left.next();
        }
        Ok(true)
    })?;
    let took = ms(clock::now() - done);
    let mark = if shown { "" } else { "  NOT SHOWN" };
    say(&format!("+{took:8.1} ms  {:<28} {}{mark}", step.words, step.paths[0]))?;
    Ok(())
}

/// Compares the trees for good.
fn verdict(stage: &Stage) -> anyhow::Result<u8> {
    let comparison = compare::trees(stage.source(), stage.target())?;
    if comparison.differences.is_empty() {
        say(&format!("trees are equal: {} entries", comparison.entries))?;
        return Ok(COMPLETE);
    }
    say(&format!("trees differ in {} of {} entries:", comparison.differences.len(), comparison.entries))?;
    for difference in &comparison.differences {
        say(&format!("  {difference}"))?;
    }
    say(&format!("the agent's last words:\n{}", stage.last_words()))?;
    Ok(INCOMPLETE)
}

fn first_tree(root: &Path) -> io::Result<()> {
    for directory in ["photos", "notes", "www"] {
        fs::create_dir(root.join(directory))?;
    }
    write(root, "photos/0.jpg", 50_000)?;
    append(root, "notes/diary.txt", "a first line\n")?;
    write(root, "www/index.html", 8_000)
}

fn write(root: &Path, path: &str, size: usize) -> io::Result<()> {
    let mut bytes = vec![0; size];
    fastrand::Rng::with_seed(size as u64).fill(&mut bytes);
    File::create(root.join(path))?.write_all(&bytes)
}

fn append(root: &Path, path: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(root.join(path))?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_follow_from_one_another_and_change_the_paths_that_they_name() {
        let root = tempfile::tempdir().unwrap();
        first_tree(root.path()).unwrap();
        for step in &STEPS {
            let before = tempfile::tempdir().unwrap();
            copy(root.path(), before.path());
            (step.act)(root.path()).unwrap_or_else(|error| panic!("{}: {error}", step.words));
            let path = RelPath::parse(step.paths[0].as_bytes()).unwrap();
            let change = compare::entry(root.path(), before.path(), &path, DirectoryTimes::Ignore).unwrap();
            assert!(change.is_some(), "{} changes nothing at {path}", step.words);
        }
        assert!(compare::trees(root.path(), root.path()).unwrap().differences.is_empty());
    }

    fn copy(from: &Path, to: &Path) {
        let mut cp = super::super::process::command("cp");
        let status = cp.arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(status.success());
    }
}
