//! Small files at a steady rate, on a schedule that nothing slows down: what `mixed`, `sustained` and `fanout` have in common.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use super::arrivals::{Arrivals, Seen, Want};
use super::load::{Content, wait_for};
use super::patience::Interrupt;
use crate::path::RelPath;
use crate::sys::clock;

/// Files of one directory.
const FILES_PER_DIRECTORY: usize = 1_000;

/// Names of a stream, in directories that are made before.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    name: String,
    directories: usize,
    content: &'a Content,
    period: Duration,
}

/// Files that were written.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Each, and when it should have been written.
    pub(super) files: Vec<(RelPath, Instant)>,
    /// How much too late it was.
    pub(super) late: Vec<Duration>,
}

impl<'a> Stream<'a> {
    /// At most `files` files, one each `period`, with names that begin with `name`.
    pub(super) fn new(name: String, files: usize, content: &'a Content, period: Duration) -> Self {
        Self { name, directories: files.div_ceil(FILES_PER_DIRECTORY).max(1), content, period }
    }

    /// Makes its directories.
    pub(super) fn prepare(&self, root: &Path) -> std::io::Result<()> {
        (0..self.directories).try_for_each(|number| fs::create_dir(self.directory(number).below(root)))
    }

    fn directory(&self, number: usize) -> RelPath {
        RelPath::root().join(format!("{}-{number:04}", self.name).as_bytes())
    }

    /// Writes files from now on as long as `goes_on` says so, asked before each with the time since the begin. Each is expected
    /// on all targets.
    pub(super) fn run(
        &self,
        root: &Path,
        arrivals: &Arrivals,
        targets: usize,
        interrupt: &Interrupt,
        mut goes_on: impl FnMut(usize, Duration) -> anyhow::Result<bool>,
    ) -> anyhow::Result<Sent> {
        let mut sent = Sent::default();
        let began = clock::now();
        let mut due = began;
        while sent.files.len() < self.directories * FILES_PER_DIRECTORY && goes_on(sent.files.len(), due - began)? {
            let number = sent.files.len();
            // All directories at the same time, as programs write.
            let path = self.directory(number % self.directories).join(format!("f{number:06}").as_bytes());
            for target in 0..targets {
                arrivals.expect(target, path.clone(), Want::File(self.content.size()));
            }
            wait_for(due, interrupt)?;
            sent.late.push(clock::now().saturating_duration_since(due));
            self.content.write(&mut File::create_new(path.below(root))?, number)?;
            sent.files.push((path, due));
            due += self.period;
        }
        Ok(sent)
    }
}

impl Sent {
    /// From the intended time of each file to its arrival on each target.
    pub(super) fn lags<'s>(&'s self, seen: &'s Seen, targets: usize) -> impl Iterator<Item = Duration> + 's {
        self.files.iter().flat_map(move |(path, due)| {
            (0..targets).filter_map(move |target| Some(seen.at(target, path)?.saturating_duration_since(*due)))
        })
    }

    /// When the last one arrived.
    pub(super) fn last(&self, seen: &Seen, targets: usize) -> Option<Instant> {
        self.files.iter().flat_map(|(path, _)| (0..targets).filter_map(|target| seen.at(target, path))).max()
    }
}

#[cfg(test)]
mod tests {
    use super::super::arrivals::Eyes;
    use super::*;

    #[test]
    fn files_are_counted_from_the_schedule_on_every_target() {
        let [source, one, other] = [0; 3].map(|_| tempfile::tempdir().unwrap());
        let content = Content::new(10, 1);
        let stream = Stream::new("s".into(), 5, &content, Duration::from_millis(2));
        for tree in [&source, &one, &other] {
            stream.prepare(tree.path()).unwrap();
        }
        let arrivals = Arrivals::watch(&[one.path(), other.path()], Eyes::Appear).unwrap();
        let never = Interrupt::never();
        let sent = stream.run(source.path(), &arrivals, 2, &never, |number, _| Ok(number < 5)).unwrap();
        assert_eq!((sent.files.len(), sent.late.len()), (5, 5));
        assert_eq!(sent.files[4].1 - sent.files[0].1, Duration::from_millis(8));
        assert_eq!(arrivals.wait(Duration::ZERO, &never).unwrap(), 10);
        for tree in [&one, &other] {
            for (path, _) in &sent.files {
                fs::copy(path.below(source.path()), tree.path().join("x")).unwrap();
                fs::rename(tree.path().join("x"), path.below(tree.path())).unwrap();
            }
        }
        assert_eq!(arrivals.wait(Duration::from_secs(20), &never).unwrap(), 0);
        let seen = arrivals.finish();
        assert_eq!(sent.lags(&seen, 2).count(), 10);
        assert!(sent.last(&seen, 2) >= Some(sent.files[4].1));
    }
}
