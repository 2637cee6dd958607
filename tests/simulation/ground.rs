//! The model machine as the stages see it.

use std::io;
use std::path::Path;
use std::time::Instant;

use fansync::path::RelPath;
use fansync::sys::clock::WallTime;
use fansync::sys::files::{EntryType, Identity, Status};
use fansync::sys::ground::{Backend, Ground, Watches};
use fansync::sys::inotify::{WatchError, Wd};

use super::files::{Inode, ROOT, errno};
use super::kernel::Instance;
use super::machine::Machine;

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    machine: Machine,
    inode: Inode,
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.machine.lock().close(self.inode);
    }
}

/// An inotify instance of the machine.
#[derive(Debug)]
pub struct Instances {
    machine: Machine,
    number: usize,
}

impl Drop for Instances {
    fn drop(&mut self) {
        self.machine.lock().instances[self.number].close();
    }
}

impl Machine {
    fn open(&self, path: &RelPath) -> io::Result<Directory> {
        let mut state = self.call();
        let inode = state.files.resolve(path)?;
        match state.files.entry_type(inode) {
            EntryType::Directory => {}
            EntryType::Symlink => return Err(errno(libc::ELOOP)),
            EntryType::File | EntryType::Special => return Err(errno(libc::ENOTDIR)),
        }
        state.files.get_mut(inode).open += 1;
        Ok(Directory { machine: self.clone(), inode })
    }
}

impl Ground for Machine {
    type Directory = Directory;
    type Watches = Instances;

    fn watches(&self, _backend: Backend) -> io::Result<Instances> {
        let mut state = self.call();
        let limit = state.queue_limit;
        state.instances.push(Instance::new(limit));
        Ok(Instances { machine: self.clone(), number: state.instances.len() - 1 })
    }

    fn open_directory(&self, path: &RelPath) -> io::Result<Directory> {
        self.open(path)
    }

    fn open_place(&self, path: &RelPath) -> io::Result<Directory> {
        self.open(path)
    }

    fn status(&self) -> io::Result<Status> {
        Ok(self.call().files.status(ROOT))
    }

    fn glimpse(&self, path: &[u8]) -> io::Result<Status> {
        let state = self.call();
        let path = RelPath::parse(path).map_err(|_| errno(libc::EINVAL))?;
        Ok(state.files.status(state.files.resolve(&path)?))
    }

    fn status_of_path(&self, _path: &Path) -> io::Result<Status> {
        self.status()
    }

    fn status_of(&self, directory: &Directory) -> io::Result<Status> {
        Ok(self.call().files.status(directory.inode))
    }

    fn status_at(&self, place: &Directory, name: &[u8]) -> io::Result<Status> {
        let state = self.call();
        let inode = state.lookup(place.inode, name).ok_or_else(|| errno(libc::ENOENT))?;
        Ok(state.files.status(inode))
    }

    fn parent_of(&self, directory: &Directory) -> io::Result<Status> {
        let state = self.call();
        let parent = state.files.get(directory.inode).parent;
        // A directory that was removed still names the one that it was in.
        let gone = Status { identity: Identity { device: 1, inode: parent }, ..state.files.status(ROOT) };
        Ok(if state.files.exists(parent) { state.files.status(parent) } else { gone })
    }

    fn list(&self, directory: &Directory, mut each: impl FnMut(&[u8], Option<EntryType>, u64)) -> io::Result<()> {
        let entries: Vec<(Box<[u8]>, EntryType, Inode)> = {
            let state = self.call();
            let names = state.files.names(directory.inode);
            names.iter().map(|(name, inode)| (name.clone(), state.files.entry_type(*inode), *inode)).collect()
        };
        for (name, entry_type, inode) in entries {
            each(&name, Some(entry_type), inode);
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        self.lock().now()
    }

    fn coarse_now(&self) -> WallTime {
        self.call().coarse()
    }
}

impl Watches for Instances {
    type Directory = Directory;

    fn add_watch(&mut self, directory: &Directory) -> Result<Wd, WatchError> {
        let mut state = self.machine.call();
        if state.files.get(directory.inode).links == 0 {
            return Err(WatchError::Vanished);
        }
        let watched: usize = state.instances.iter().map(Instance::watched).sum();
        let known = state.instances[self.number].watches(directory.inode);
        if known.is_none() && watched >= state.watches_max {
            return Err(WatchError::LimitReached);
        }
        Ok(Wd(state.instances[self.number].add_watch(directory.inode)))
    }

    fn remove_watch(&mut self, wd: Wd) {
        self.machine.call().instances[self.number].remove_watch(wd.0);
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(self.machine.call().instances[self.number].read(buffer))
    }
}
