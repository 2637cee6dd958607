//! When each change of a load is in place on the targets: watches their trees on a thread of its own.
//!
//! A file is in place when its final name is there with its full size, and where an older one of that name was there, with
//! a modification time of now: rsync writes a temporary name and renames. What is deleted is in place when the name is gone. The
//! moment is the one at which the kernel's report of it was read; a file found by a listing, in a directory that was
//! new, arrived at the moment of the listing at the latest. Content is compared after the run.
//!
//! The looking on takes processor time from what is measured, so it asks for as few events as it can, and tells what it
//! took. Limits are measured under the same eyes.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::{Condvar, Mutex};

use super::patience::Interrupt;
use crate::event::{self, EventKind, Place, Record};
use crate::path::RelPath;
use crate::sys::clock::{self, WallTime};
use crate::sys::files::{self, EntryType};
use crate::sys::inotify::{Inotify, WatchError, Wd};

/// How often a wait looks for Ctrl-C. The last arrival ends it at once.
const SLICE: Duration = Duration::from_millis(100);

const INOTIFY: Token = Token(0);
const STOP: Token = Token(1);

/// When a path is as it shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// A file of that many bytes.
    File(u64),
    /// A file of that many bytes that was modified then or later: an older one of that name may be there.
    FileSince(u64, WallTime),
    /// Nothing of that name.
    Gone,
}

/// Which events are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eyes {
    /// Names that appear: enough unless something shall be gone.
    Appear,
    /// Names that appear and names that go.
    Both,
}

/// Targets under watch.
#[derive(Debug)]
pub(super) struct Arrivals {
    thread: Option<JoinHandle<Duration>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    /// Told when nothing is left, or nothing more will come.
    done: Condvar,
}

/// What is expected and what came, by target.
#[derive(Debug)]
struct Book {
    targets: Vec<HashMap<RelPath, Slot>>,
    left: usize,
    error: Option<io::Error>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    want: Want,
    at: Option<Instant>,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    targets: Vec<HashMap<RelPath, Slot>>,
    /// Processor time of the looking on.
    pub(super) cpu: Duration,
}

impl Seen {
    /// When `path` was in place on a target.
    pub(super) fn at(&self, target: usize, path: &RelPath) -> Option<Instant> {
        self.targets.get(target)?.get(path)?.at
    }
}

impl Arrivals {
    /// Watches the trees at `targets` from now on.
    pub(super) fn watch(targets: &[&Path], eyes: Eyes) -> io::Result<Self> {
        let roots = targets.iter().map(|target| files::open_root(target)).collect::<io::Result<Vec<_>>>()?;
        let book = Book { targets: targets.iter().map(|_| HashMap::new()).collect(), left: 0, error: None };
        let shared = Arc::new(Shared { book: Mutex::new(book), done: Condvar::new() });
        let mut watcher = Watcher {
            inotify: Inotify::create()?,
            eyes,
            roots,
            directories: HashMap::new(),
            shared: Arc::clone(&shared),
        };
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&watcher.inotify.raw()), INOTIFY, Interest::READABLE)?;
        for target in 0..targets.len() {
            watcher.enter(target, RelPath::root())?;
        }
        let waker = Waker::new(poll.registry(), STOP)?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("bench-arrivals".into()).spawn(move || {
            if let Err(error) = watcher.run(poll, &asked) {
                let mut book = watcher.shared.book.lock();
                book.error = Some(error);
                watcher.shared.done.notify_all();
            }
            clock::thread_cpu()
        })?;
        Ok(Self { thread: Some(thread), stop, waker, shared })
    }

    /// Expects a path of a target to be so, before it is changed in the source.
    pub(super) fn expect(&self, target: usize, path: RelPath, want: Want) {
        let mut book = self.shared.book.lock();
        let before = book.targets[target].insert(path, Slot { want, at: None });
        if before.is_none_or(|slot| slot.at.is_some()) {
            book.left += 1;
        }
    }

    /// Expects all of `paths` on the first target.
    pub(super) fn expect_all(&self, paths: &[RelPath], want: Want) {
        for path in paths {
            self.expect(0, path.clone(), want);
        }
    }

    /// Waits until all are there, or `patience` is over; how many are not.
    pub(super) fn wait(&self, patience: Duration, interrupt: &Interrupt) -> anyhow::Result<usize> {
        let deadline = clock::now() + patience;
        let mut book = self.shared.book.lock();
        loop {
            if let Some(error) = book.error.take() {
                return Err(error.into());
            }
            let left = deadline.saturating_duration_since(clock::now());
            if book.left == 0 || left.is_zero() {
                return Ok(book.left);
            }
            interrupt.check()?;
            self.shared.done.wait_for(&mut book, left.min(SLICE));
        }
    }

    /// Ends the watch.
    pub(super) fn finish(mut self) -> Seen {
        self.ask_to_stop();
        let thread = self.thread.take().expect("taken here only");
        let cpu = thread.join().expect("a panic ends the process");
        let targets = std::mem::take(&mut self.shared.book.lock().targets);
        Seen { targets, cpu }
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
    eyes: Eyes,
    roots: Vec<OwnedFd>,
    directories: HashMap<Wd, (usize, RelPath)>,
    shared: Arc<Shared>,
}

/// What one read told.
enum News {
    Directory(usize, RelPath),
    Name(usize, RelPath),
    Overflow,
}

impl Watcher {
    fn run(&mut self, mut poll: Poll, stop: &AtomicBool) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut events = Events::with_capacity(4);
        while !stop.load(Ordering::Relaxed) {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            while let Some(count) = self.inotify.read(&mut buffer)? {
                self.read(&buffer[..count])?;
            }
        }
        Ok(())
    }

    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let read_at = clock::now();
        let mut news = Vec::new();
        event::decode(bytes, |record| match record {
            Record::Overflow => news.push(News::Overflow),
            Record::Nameless(_) => {}
            Record::Event(event) => {
                let Place::Watch(wd) = event.place else { return };
                // rsync's temporary names begin with a dot, those of the loads never do.
                if event.name.first() == Some(&b'.') {
                    return;
                }
                let Some((target, directory)) = self.directories.get(&wd) else { return };
                match event.kind {
                    EventKind::Created | EventKind::MovedTo if event.directory => {
                        news.push(News::Directory(*target, directory.join(event.name)));
                    }
                    EventKind::Created | EventKind::MovedTo | EventKind::Deleted | EventKind::MovedFrom => {
                        news.push(News::Name(*target, directory.join(event.name)));
                    }
                    EventKind::Modified
                    | EventKind::Closed
                    | EventKind::Attributes
                    | EventKind::SelfDeleted
                    | EventKind::SelfMoved
                    | EventKind::Ignored
                    | EventKind::Unmounted => {}
                }
            }
        });
        for one in news {
            match one {
                News::Directory(target, path) => self.enter(target, path)?,
                News::Name(target, path) => self.names(target, &[path], read_at),
                News::Overflow => (0..self.roots.len()).try_for_each(|target| self.enter(target, RelPath::root()))?,
            }
        }
        Ok(())
    }

    /// Watches a directory and all beneath it, each one first added, then listed.
    fn enter(&mut self, target: usize, directory: RelPath) -> io::Result<()> {
        let mut stack = vec![directory];
        while let Some(path) = stack.pop() {
            let open = match files::open_directory(self.roots[target].as_fd(), &path) {
                Ok(open) => open,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let added = match self.eyes {
                Eyes::Appear => self.inotify.add_name_watch(open.as_fd()),
                Eyes::Both => self.inotify.add_name_watch_both_ways(open.as_fd()),
            };
            match added {
                Ok(wd) => self.directories.insert(wd, (target, path.clone())),
                Err(WatchError::Vanished) => continue,
                Err(error) => return Err(io::Error::other(error)),
            };
            let mut names = Vec::new();
            files::list(&open, |name, entry_type, _| match entry_type {
                Some(EntryType::Directory) => stack.push(path.join(name)),
                _ => names.push(path.join(name)),
            })?;
            self.names(target, &names, clock::now());
        }
        Ok(())
    }

    /// Something happened to these names. A peer may send a file before its writer is done; that does not count.
    fn names(&self, target: usize, paths: &[RelPath], at: Instant) {
        let mut book = self.shared.book.lock();
        for path in paths {
            let Some(slot @ Slot { at: None, .. }) = book.targets[target].get_mut(path) else { continue };
            let status = files::status_at(self.roots[target].as_fd(), path.as_bytes());
            let is_so = match (slot.want, status) {
                (Want::File(size), Ok(status)) => status.size == size,
                (Want::FileSince(size, since), Ok(status)) => status.size == size && status.modified >= since,
                (Want::Gone, Err(error)) => error.kind() == io::ErrorKind::NotFound,
                (Want::Gone, Ok(_)) | (Want::File(_) | Want::FileSince(..), Err(_)) => false,
            };
            if is_so {
                slot.at = Some(at);
                book.left -= 1;
            }
        }
        if book.left == 0 {
            self.shared.done.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn path(name: &str) -> RelPath {
        RelPath::parse(name.as_bytes()).unwrap()
    }

    fn replace(root: &Path, name: &RelPath, text: &str) {
        let temporary = root.join(".c.AbCdEf");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, name.below(root)).unwrap();
    }

    #[test]
    fn renamed_files_arrive_in_old_and_in_new_directories() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("old")).unwrap();
        let expected = ["old/a", "new/deep/b", "c"].map(path);
        let arrivals = Arrivals::watch(&[root.path()], Eyes::Appear).unwrap();
        arrivals.expect_all(&expected, Want::File(3));
        fs::create_dir_all(root.path().join("new/deep")).unwrap();
        for path in &expected {
            replace(root.path(), path, "abc");
        }
        assert_eq!(arrivals.wait(PATIENCE, &Interrupt::never()).unwrap(), 0);
        let seen = arrivals.finish();
        assert!(expected.iter().all(|path| seen.at(0, path).is_some()));
    }

    #[test]
    fn a_file_that_is_not_whole_has_not_arrived() {
        let root = tempfile::tempdir().unwrap();
        let [half, whole] = ["half", "whole"].map(path);
        let arrivals = Arrivals::watch(&[root.path()], Eyes::Appear).unwrap();
        arrivals.expect_all(&[half.clone(), whole.clone()], Want::File(3));
        replace(root.path(), &half, "ab");
        replace(root.path(), &whole, "abc");
        assert_eq!(arrivals.wait(Duration::from_millis(200), &Interrupt::never()).unwrap(), 1);
        let seen = arrivals.finish();
        assert!(seen.at(0, &half).is_none() && seen.at(0, &whole).is_some());
    }

    #[test]
    fn an_old_file_is_not_the_new_one_and_what_goes_is_gone() {
        let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, other] = [0, 1].map(|at: usize| roots[at].path());
        let [kept, gone, moved] = ["kept", "gone", "d/moved"].map(path);
        fs::create_dir(other.join("d")).unwrap();
        for name in ["kept", "gone", "d/moved"] {
            fs::write(other.join(name), "abc").unwrap();
        }
        let file = fs::File::open(other.join("kept")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
        let arrivals = Arrivals::watch(&[one, other], Eyes::Both).unwrap();
        let since = clock::coarse_now();
        arrivals.expect(1, kept.clone(), Want::FileSince(3, since));
        arrivals.expect(1, gone.clone(), Want::Gone);
        arrivals.expect(1, moved.clone(), Want::Gone);
        fs::rename(other.join("kept"), other.join("x")).unwrap();
        fs::rename(other.join("x"), other.join("kept")).unwrap();
        fs::remove_file(other.join("gone")).unwrap();
        fs::rename(other.join("d/moved"), other.join("d/elsewhere")).unwrap();
        assert_eq!(arrivals.wait(Duration::from_millis(200), &Interrupt::never()).unwrap(), 1);
        replace(other, &kept, "new");
        assert_eq!(arrivals.wait(PATIENCE, &Interrupt::never()).unwrap(), 0);
        let seen = arrivals.finish();
        assert!(seen.at(1, &kept) > seen.at(1, &moved) && seen.at(0, &gone).is_none());
    }
}
