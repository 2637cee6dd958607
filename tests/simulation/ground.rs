//! The model machine as the stages see it.

use std::io;
use std::path::Path;
use std::time::Instant;

use fansync::path::RelPath;
use fansync::sys::clock::WallTime;
use fansync::sys::fanotify::Whereabouts;
use fansync::sys::files::{EntryType, Status};
use fansync::sys::ground::{Backend, Ground, Watches};
use fansync::sys::handle::Handle;
use fansync::sys::handle_table::HandleTable;
use fansync::sys::inotify::{WatchError, Wd};

use super::files::{Inode, ROOT, errno};
use super::kernel::Instance;
use super::machine::{Machine, State};
use super::mark::Group;

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

/// An inotify instance of the machine, or a fanotify group.
#[derive(Debug)]
pub struct Instances {
    machine: Machine,
    number: usize,
    backend: Backend,
    known: HandleTable,
    elsewhere: HandleTable,
}

impl Drop for Instances {
    fn drop(&mut self) {
        let mut state = self.machine.lock();
        match self.backend {
            Backend::Inotify => state.instances[self.number].close(),
            Backend::Fanotify => state.groups[self.number].close(),
        }
    }
}

impl Machine {
    fn open(&self, path: &RelPath) -> io::Result<Directory> {
        self.open_found(|state| state.files.resolve(path), libc::ELOOP)
    }

    /// Opens the directory that is found; what is told instead of a symlink depends on the call.
    fn open_found(&self, find: impl FnOnce(&State) -> io::Result<Inode>, symlink: i32) -> io::Result<Directory> {
        let mut state = self.call();
        let inode = find(&state)?;
        match state.files.entry_type(inode) {
            EntryType::Directory => {}
            EntryType::Symlink => return Err(errno(symlink)),
            EntryType::File | EntryType::Special => return Err(errno(libc::ENOTDIR)),
        }
        state.files.get_mut(inode).open += 1;
        Ok(Directory { machine: self.clone(), inode })
    }
}

impl Ground for Machine {
    type Directory = Directory;
    type Watches = Instances;

    fn watches(&self, backend: Backend, _nameless: bool) -> io::Result<Instances> {
        let mut state = self.call();
        let limit = state.queue_limit;
        let number = match backend {
            Backend::Inotify => {
                state.instances.push(Instance::new(limit));
                state.instances.len()
            }
            Backend::Fanotify => {
                state.groups.push(Group::new(limit));
                state.groups.len()
            }
        };
        let (known, elsewhere) = (HandleTable::default(), HandleTable::default());
        Ok(Instances { machine: self.clone(), number: number - 1, backend, known, elsewhere })
    }

    fn open_directory(&self, path: &RelPath) -> io::Result<Directory> {
        self.open(path)
    }

    fn open_place(&self, path: &RelPath) -> io::Result<Directory> {
        self.open(path)
    }

    fn open_in(&self, place: &Directory, name: &[u8]) -> io::Result<Directory> {
        self.open_found(|state| state.lookup(place.inode, name).ok_or_else(|| errno(libc::ENOENT)), libc::ENOTDIR)
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
        if self.backend == Backend::Fanotify {
            let bytes = directory.inode.to_ne_bytes();
            let handle = Handle { kind: 1, bytes: &bytes };
            if let Some(number) = self.elsewhere.find(handle) {
                self.elsewhere.remove(number);
            }
            return Ok(Wd(i32::try_from(self.known.insert(handle)).expect("few directories") + 1));
        }
        let watched: usize = state.instances.iter().map(Instance::watched).sum();
        let known = state.instances[self.number].watches(directory.inode);
        if known.is_none() && watched >= state.watches_max {
            return Err(WatchError::LimitReached);
        }
        Ok(Wd(state.instances[self.number].add_watch(directory.inode)))
    }

    fn remove_watch(&mut self, wd: Wd) {
        match self.backend {
            Backend::Inotify => self.machine.call().instances[self.number].remove_watch(wd.0),
            Backend::Fanotify => self.known.remove(wd.0.unsigned_abs() - 1),
        }
    }

    fn backend(&self) -> Backend {
        self.backend
    }

    fn of_handle(&self, handle: Handle<'_>) -> Option<Wd> {
        self.known.find(handle).map(|number| Wd(i32::try_from(number).expect("few directories") + 1))
    }

    fn whereabouts(&mut self, handle: Handle<'_>) -> io::Result<Whereabouts> {
        if self.elsewhere.find(handle).is_some() {
            return Ok(Whereabouts::Elsewhere);
        }
        let state = self.machine.call();
        let mut at = Inode::from_ne_bytes(handle.bytes.try_into().expect("the handles of this model"));
        if !state.files.exists(at) || state.files.get(at).links == 0 {
            return Ok(Whereabouts::Gone);
        }
        let mut names = Vec::new();
        while at != ROOT {
            let parent = state.files.get(at).parent;
            let name = if state.files.exists(parent) {
                state.files.names(parent).iter().find(|(_, inode)| **inode == at).map(|(name, _)| name.clone())
            } else {
                None
            };
            let Some(name) = name else {
                drop(state);
                self.reject(handle);
                return Ok(Whereabouts::Elsewhere);
            };
            names.push(name);
            at = parent;
        }
        names.reverse();
        Ok(Whereabouts::At(RelPath::from_components(names.iter().map(|name| &**name))))
    }

    fn reject(&mut self, handle: Handle<'_>) {
        self.elsewhere.insert(handle);
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut state = self.machine.call();
        Ok(match self.backend {
            Backend::Inotify => state.instances[self.number].read(buffer),
            Backend::Fanotify => state.groups[self.number].read(buffer),
        })
    }
}
