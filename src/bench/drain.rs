//! The bare reader: what it costs to take the kernel's events out of a queue and to count them, without doing anything about
//! them. No agent's reader can cost less.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::mirror::Backend;
use crate::event::{self, Record};
use crate::sys::clock;
use crate::sys::fanotify::Fanotify;
use crate::sys::files;
use crate::sys::inotify::Inotify;

/// Between two looks at the queue: the pause of an agent under load (`daemon/shard`).
const PAUSE: Duration = Duration::from_millis(3);

/// Unit: bytes; as an agent has it.
const BUFFER: usize = 64 * 1024;

/// What the bare reader took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Drained {
    /// Events read.
    pub(super) events: u64,
    /// Overflow markers among them.
    pub(super) overflows: u64,
    /// Processor time of the reader. Unit: ms.
    pub(super) cpu_ms: f64,
    /// From its start to its end. Unit: ms.
    pub(super) took_ms: f64,
}

impl Drained {
    /// Processor time for each event. Unit: µs.
    pub(super) fn us_per_event(&self) -> Option<f64> {
        (self.events > 0).then(|| self.cpu_ms * 1000.0 / self.events as f64)
    }

    /// Share of a core. Unit: percent.
    pub(super) fn percent(&self) -> f64 {
        self.cpu_ms / self.took_ms.max(1.0) * 100.0
    }
}

/// A reader at work.
#[derive(Debug)]
pub(super) struct Drain {
    thread: Option<JoinHandle<io::Result<Drained>>>,
    stop: Arc<AtomicBool>,
}

/// Where events come from.
enum Queue {
    Inotify(Inotify),
    Fanotify(Box<Fanotify>),
}

impl Queue {
    fn open(backend: Backend, directory: &Path) -> anyhow::Result<Self> {
        let watched = files::open_root(directory)?;
        match backend {
            Backend::Inotify => {
                let inotify = Inotify::create()?;
                inotify.add_watch(std::os::fd::AsFd::as_fd(&watched))?;
                Ok(Self::Inotify(inotify))
            }
            Backend::Fanotify => Ok(Self::Fanotify(Box::new(Fanotify::create(&watched, false)?))),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Inotify(inotify) => inotify.read(buffer),
            Self::Fanotify(mark) => mark.read(buffer),
        }
    }

    fn count(&self, bytes: &[u8], drained: &mut Drained) {
        let each = |record: Record<'_>| match record {
            Record::Event(_) | Record::Nameless(_) => drained.events += 1,
            Record::Overflow => drained.overflows += 1,
        };
        match self {
            Self::Inotify(_) => event::decode(bytes, each),
            Self::Fanotify(_) => event::decode_fanotify(bytes, each),
        }
    }
}

impl Drain {
    /// Reads from now on what happens in `directory`, or with fanotify on its file system.
    pub(super) fn start(backend: Backend, directory: &Path) -> anyhow::Result<Self> {
        let queue = Queue::open(backend, directory)?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("bench-drain".into()).spawn(move || run(&queue, &asked))?;
        Ok(Self { thread: Some(thread), stop })
    }

    /// Reads the rest and ends.
    pub(super) fn finish(mut self) -> anyhow::Result<Drained> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("taken here only");
        thread.thread().unpark();
        Ok(thread.join().expect("a panic ends the process")?)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn run(queue: &Queue, stop: &AtomicBool) -> io::Result<Drained> {
    let (began, worked) = (clock::now(), clock::thread_cpu());
    let mut drained = Drained::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        // Asked before the last look, so that whatever came before is read.
        let last = stop.load(Ordering::Acquire);
        while let Some(count) = queue.read(&mut buffer)? {
            queue.count(&buffer[..count], &mut drained);
        }
        if last {
            break;
        }
        std::thread::park_timeout(PAUSE);
    }
    drained.cpu_ms = (clock::thread_cpu() - worked).as_secs_f64() * 1000.0;
    drained.took_ms = (clock::now() - began).as_secs_f64() * 1000.0;
    Ok(drained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_counted() {
        let scratch = tempfile::tempdir().unwrap();
        let drain = Drain::start(Backend::Inotify, scratch.path()).unwrap();
        for number in 0..100 {
            std::fs::create_dir(scratch.path().join(number.to_string())).unwrap();
        }
        let drained = drain.finish().unwrap();
        assert_eq!((drained.events, drained.overflows), (100, 0));
        assert!(drained.us_per_event().is_some() && drained.took_ms > 0.0);
    }
}
