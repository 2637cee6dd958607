//! When each file of a load is in place on the target: watches the target's tree on a thread of its own.
//!
//! A file is in place when its final name is there with its full size: rsync writes a temporary name and renames. The
//! moment is the one at which the kernel's report of it was read; a file found by a listing, in a directory that was
//! new, arrived at the moment of the listing at the latest. Content is compared after the run.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::patience::Interrupt;
use crate::event::{self, EventKind, Place, Record};
use crate::path::RelPath;
use crate::sys::clock;
use crate::sys::files::{self, EntryType};
use crate::sys::inotify::{Inotify, WatchError, Wd};

/// How often a wait looks for Ctrl-C. The last arrival ends it at once.
const SLICE: Duration = Duration::from_millis(100);

const INOTIFY: Token = Token(0);
const STOP: Token = Token(1);

/// A target under watch.
#[derive(Debug)]
pub(super) struct Arrivals {
    thread: Option<JoinHandle<io::Result<HashMap<RelPath, Instant>>>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    /// Closed or told when the thread is done.
    done: Receiver<()>,
}

impl Arrivals {
    /// Starts to watch `root` for the `expected` paths, files of `size` bytes. The watch is in place on return.
    pub(super) fn expect(root: &Path, expected: &[RelPath], size: u64) -> io::Result<Self> {
        let mut watcher = Watcher {
            inotify: Inotify::create()?,
            root: files::open_root(root)?,
            directories: HashMap::new(),
            expected: expected.iter().map(|path| (path.clone(), None)).collect(),
            left: expected.len(),
            size,
        };
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&watcher.inotify.raw()), INOTIFY, Interest::READABLE)?;
        watcher.enter(RelPath::root())?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, done) = sync_channel(1);
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("bench-arrivals".into()).spawn(move || {
            let seen = watcher.run(poll, &asked);
            let _nobody_waits_after_an_error = tell.send(());
            seen
        })?;
        Ok(Self { thread: Some(thread), stop, waker, done })
    }

    /// Waits until all are there or `patience` is over; the paths that came, and when.
    pub(super) fn wait(
        mut self,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> anyhow::Result<HashMap<RelPath, Instant>> {
        let deadline = clock::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            match self.done.recv_timeout(left.min(SLICE)) {
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => interrupt.check()?,
                _ => break,
            }
        }
        self.ask_to_stop();
        let thread = self.thread.take().expect("taken here only");
        Ok(thread.join().expect("a panic ends the process")?)
    }

    fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ends_by_itself = self.waker.wake();
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}

struct Watcher {
    inotify: Inotify,
    root: OwnedFd,
    directories: HashMap<Wd, RelPath>,
    /// When each arrived.
    expected: HashMap<RelPath, Option<Instant>>,
    /// How many did not.
    left: usize,
    size: u64,
}

/// What one read told.
enum News {
    Directory(RelPath),
    Name(RelPath),
    Overflow,
}

impl Watcher {
    fn run(mut self, mut poll: Poll, stop: &AtomicBool) -> io::Result<HashMap<RelPath, Instant>> {
        let mut buffer = vec![0; 64 * 1024];
        let mut events = Events::with_capacity(4);
        while self.left > 0 && !stop.load(Ordering::Relaxed) {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            while let Some(count) = self.inotify.read(&mut buffer)? {
                self.read(&buffer[..count])?;
            }
        }
        Ok(self.expected.into_iter().filter_map(|(path, at)| Some((path, at?))).collect())
    }

    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let read_at = clock::now();
        let mut news = Vec::new();
        event::decode(bytes, |record| match record {
            Record::Overflow => news.push(News::Overflow),
            Record::Nameless(_) => {}
            Record::Event(event) => {
                let Place::Watch(wd) = event.place else { return };
                let Some(directory) = self.directories.get(&wd) else { return };
                match event.kind {
                    EventKind::Created | EventKind::MovedTo if event.directory => {
                        news.push(News::Directory(directory.join(event.name)));
                    }
                    EventKind::Created | EventKind::MovedTo => news.push(News::Name(directory.join(event.name))),
                    EventKind::Modified
                    | EventKind::Closed
                    | EventKind::Attributes
                    | EventKind::Deleted
                    | EventKind::MovedFrom
                    | EventKind::SelfDeleted
                    | EventKind::SelfMoved
                    | EventKind::Ignored
                    | EventKind::Unmounted => {}
                }
            }
        });
        for one in news {
            match one {
                News::Directory(path) => self.enter(path)?,
                News::Name(path) => self.name(&path, read_at),
                News::Overflow => self.enter(RelPath::root())?,
            }
        }
        Ok(())
    }

    /// Watches a directory and all beneath it, each one first added, then listed.
    fn enter(&mut self, directory: RelPath) -> io::Result<()> {
        let mut stack = vec![directory];
        while let Some(path) = stack.pop() {
            let open = match files::open_directory(self.root.as_fd(), &path) {
                Ok(open) => open,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match self.inotify.add_name_watch(open.as_fd()) {
                Ok(wd) => self.directories.insert(wd, path.clone()),
                Err(WatchError::Vanished) => continue,
                Err(error) => return Err(io::Error::other(error)),
            };
            let mut names = Vec::new();
            files::list(&open, |name, entry_type, _| match entry_type {
                Some(EntryType::Directory) => stack.push(path.join(name)),
                _ => names.push(path.join(name)),
            })?;
            let listed_at = clock::now();
            for name in names {
                self.name(&name, listed_at);
            }
        }
        Ok(())
    }

    /// A name appeared. A peer may send a file before its writer is done; that does not count.
    fn name(&mut self, path: &RelPath, at: Instant) {
        let Some(arrived @ None) = self.expected.get_mut(path) else { return };
        let whole = files::status_at(self.root.as_fd(), path.as_bytes()).is_ok_and(|status| status.size == self.size);
        if whole {
            *arrived = Some(at);
            self.left -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn paths(names: &[&str]) -> Vec<RelPath> {
        names.iter().map(|name| RelPath::parse(name.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn renamed_files_arrive_in_old_and_in_new_directories() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("old")).unwrap();
        let expected = paths(&["old/a", "new/deep/b", "c"]);
        let arrivals = Arrivals::expect(root.path(), &expected, 3).unwrap();
        fs::create_dir_all(root.path().join("new/deep")).unwrap();
        for path in &expected {
            let temporary = root.path().join(".c.AbCdEf");
            fs::write(&temporary, "abc").unwrap();
            fs::rename(temporary, path.below(root.path())).unwrap();
        }
        assert_eq!(arrivals.wait(PATIENCE, &Interrupt::never()).unwrap().len(), 3);
    }

    #[test]
    fn a_file_that_is_not_whole_has_not_arrived() {
        let root = tempfile::tempdir().unwrap();
        let expected = paths(&["half", "whole"]);
        let arrivals = Arrivals::expect(root.path(), &expected, 3).unwrap();
        for (name, text) in [("half", "ab"), ("whole", "abc")] {
            fs::write(root.path().join(".x"), text).unwrap();
            fs::rename(root.path().join(".x"), root.path().join(name)).unwrap();
        }
        let seen = arrivals.wait(Duration::from_millis(200), &Interrupt::never()).unwrap();
        assert_eq!(seen.keys().collect::<Vec<_>>(), [&expected[1]]);
    }
}
