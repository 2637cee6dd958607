//! What no agent can be faster than: the tree walked by as little code as does it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, RawDir};

use crate::bench::patience::Interrupt;
use crate::sys::clock;
use crate::sys::files;
use crate::sys::inotify::Inotify;

/// What is done in each directory besides listing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bare {
    /// Nothing.
    Walk,
    /// A watch, added before it is listed, in a way that no rename can lead astray.
    Watches,
    /// A look at every entry.
    Looks,
}

/// What a walk saw, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walked {
    /// Directories, the root among them.
    pub(super) directories: usize,
    /// Everything else.
    pub(super) files: usize,
    /// From the first call to the last.
    pub(super) took: Duration,
}

/// Unit: bytes. Larger ones are not faster (notes/kernel.md 6).
const BUFFER: usize = 32 * 1024;

/// Walks all of `root` with so many threads.
pub(super) fn walk(root: &Path, bare: Bare, threads: usize, interrupt: &Interrupt) -> anyhow::Result<Walked> {
    // Made before and closed after what is measured, as an agent has them.
    let instances = (0..threads).map(|_| Inotify::create()).collect::<io::Result<Vec<Inotify>>>()?;
    let began = clock::now();
    let mut first =
        Walker { bare, inotify: &instances[0], buffer: Vec::with_capacity(BUFFER), directories: 0, files: 0 };
    // The upper two levels by one thread; what lies beneath is dealt to all of them.
    let open = files::open_root(root)?;
    let mut dealt: Vec<PathBuf> = Vec::new();
    for top in first.enter(open.as_fd())? {
        let path = root.join(top);
        let open = files::open_root(&path)?;
        dealt.extend(first.enter(open.as_fd())?.into_iter().map(|name| path.join(name)));
    }
    let next = AtomicUsize::new(0);
    let work = |inotify: &Inotify| -> anyhow::Result<(usize, usize)> {
        let mut walker = Walker { bare, inotify, buffer: Vec::with_capacity(BUFFER), directories: 0, files: 0 };
        while let Some(path) = dealt.get(next.fetch_add(1, Ordering::Relaxed)) {
            interrupt.check()?;
            walker.all_beneath(files::open_root(path)?.as_fd())?;
        }
        Ok((walker.directories, walker.files))
    };
    let (mut directories, mut files) = (first.directories, first.files);
    std::thread::scope(|scope| {
        let workers: Vec<_> = instances.iter().map(|inotify| scope.spawn(|| work(inotify))).collect();
        for worker in workers {
            let (more_directories, more_files) = worker.join().expect("a panic ends the process")?;
            directories += more_directories;
            files += more_files;
        }
        anyhow::Ok(())
    })?;
    Ok(Walked { directories, files, took: clock::now() - began })
}

struct Walker<'a> {
    bare: Bare,
    inotify: &'a Inotify,
    buffer: Vec<u8>,
    directories: usize,
    files: usize,
}

impl Walker<'_> {
    fn all_beneath(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        for name in self.enter(directory)? {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open: OwnedFd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            self.all_beneath(open.as_fd())?;
        }
        Ok(())
    }

    /// Lists a directory; the names of the directories in it.
    fn enter(&mut self, directory: BorrowedFd<'_>) -> io::Result<Vec<std::ffi::OsString>> {
        self.directories += 1;
        if self.bare == Bare::Watches {
            self.inotify.add_watch(directory).map_err(io::Error::other)?;
        }
        let mut names = Vec::new();
        let mut reader = RawDir::new(directory, self.buffer.spare_capacity_mut());
        while let Some(entry) = reader.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.bare == Bare::Looks {
                files::status_at(directory, name.to_bytes())?;
            }
            if entry.file_type() == FileType::Directory {
                names.push(std::os::unix::ffi::OsStringExt::from_vec(name.to_bytes().to_vec()));
            } else {
                self.files += 1;
            }
        }
        Ok(names)
    }
}

/// The name of the file system that holds `path`, by the longest mount point above it.
pub(super) fn file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let path = path.canonicalize().ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let above = fields.filter(|fields| fields.len() > 2 && path.starts_with(fields[1]));
    // Of two on the same place the later one lies on top.
    above.max_by_key(|fields| fields[1].len()).map(|fields| fields[2].to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Shape, Tree};
    use super::*;

    #[test]
    fn every_walk_sees_the_whole_tree() {
        let scratch = tempfile::tempdir().unwrap();
        let never = Interrupt::never();
        let shape = Shape { files: 120, directories: 60 };
        let (tree, _) = Tree::open_or_make(&scratch.path().join("t"), shape, &never).unwrap();
        for bare in [Bare::Walk, Bare::Watches, Bare::Looks] {
            for threads in [1, 3] {
                let walked = walk(&tree.root, bare, threads, &never).unwrap();
                assert_eq!((walked.directories, walked.files), (61, 120), "{bare:?}");
            }
        }
    }

    #[test]
    fn the_file_system_of_proc_is_proc() {
        assert_eq!(file_system(Path::new("/proc/self/status")).as_deref(), Some("proc"));
    }
}
