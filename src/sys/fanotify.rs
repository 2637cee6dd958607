//! fanotify(7): a group with a mark on a whole file system, which names directories by their handles.
//!
//! The mark sees everything on the file system from one moment on, whether it lies beneath the root or not. So a directory is not
//! watched one by one but *known*: its handle has a number, which the stages above use like a watch descriptor. Handles that are
//! not known are looked up; those that lie elsewhere are remembered, so that a busy neighbour costs a look into a table.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use nix::sys::fanotify::{EventFFlags, Fanotify as Group, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::{Mode, OFlags};

use super::files::{self, Status};
use super::handle::{self, Handle};
use super::handle_table::HandleTable;
use super::inotify::{WatchError, Wd};
use crate::path::RelPath;

/// Directories elsewhere that are remembered. Why 262,144: about 20 bytes each; beyond it all are forgotten and looked up
/// again, at 3 µs each.
const ELSEWHERE_MAX: usize = 262_144;

/// Every change, no reads; directories too (notes/kernel.md 2 and 4.1).
const MASK: MaskFlags = MaskFlags::FAN_CREATE
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_RENAME)
    .union(MaskFlags::FAN_MODIFY)
    .union(MaskFlags::FAN_CLOSE_WRITE)
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_ONDIR);

/// Where a directory that is not known was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the root.
    At(RelPath),
    /// Not in the root, or on another file system.
    Elsewhere,
    /// It does not exist any more: whoever removed it left an event in its parent.
    Gone,
}

/// Why there is no mark on a file system.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// fanotify_init(2) refused.
    #[error("fanotify_init: {0}")]
    Init(#[source] io::Error),
    /// fanotify_mark(2) refused.
    #[error("fanotify_mark: {0}")]
    Mark(#[source] io::Error),
    /// The root has no handle, or cannot be opened by it.
    #[error("file handles: {0}")]
    Handles(#[source] io::Error),
    /// A file could not be made to see its event.
    #[error("probe: {0}")]
    Probe(#[source] io::Error),
    /// It was made, and there was no event.
    #[error("a change in the root was not reported")]
    Silent,
}

impl MarkError {
    /// What failed, and the hint.
    #[must_use]
    pub fn explained(&self) -> String {
        format!("{self}: {}", self.hint())
    }

    /// What most likely is the reason, and what can be done, where that is known.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        let (Self::Init(error) | Self::Mark(error) | Self::Handles(error) | Self::Probe(error)) = self else {
            return "the file system does not report changes to its mark";
        };
        match (self, error.raw_os_error()) {
            (Self::Init(_), Some(libc::ENOSYS)) => "this kernel is built without fanotify",
            (Self::Init(_), Some(libc::EINVAL)) => {
                "this kernel does not report names to fanotify: Linux 5.9 or later does"
            }
            (Self::Init(_), Some(libc::EMFILE)) => "no group is left: raise fs.fanotify.max_user_groups",
            (Self::Mark(_), Some(libc::EINVAL)) => {
                "this kernel does not report renames to fanotify: Linux 5.17 or later does"
            }
            (Self::Mark(_), Some(libc::EXDEV)) => {
                "the root lies in a btrfs subvolume: a mark is possible only through a mount of the top level (subvolid=5)"
            }
            (Self::Mark(_), Some(libc::EOPNOTSUPP | libc::ENODEV)) => {
                "this kind of file system cannot be marked (overlay needs index=on,nfs_export=on)"
            }
            (Self::Mark(_), Some(libc::ENOSPC)) => "no mark is left: raise fs.fanotify.max_user_marks",
            (Self::Init(_) | Self::Mark(_), Some(libc::EPERM)) => "it needs CAP_SYS_ADMIN in the first user namespace",
            (Self::Handles(_), Some(libc::EPERM)) => "it needs CAP_DAC_READ_SEARCH in the first user namespace",
            (Self::Handles(_), Some(libc::EOPNOTSUPP)) => "this kind of file system has no file handles",
            _ => "inotify is used instead",
        }
    }
}

/// A mark on the file system of a root; non-blocking, closed on exec.
#[derive(Debug)]
pub struct Fanotify {
    group: Group,
    root: OwnedFd,
    device: u64,
    known: HandleTable,
    elsewhere: HandleTable,
}

impl Fanotify {
    /// Marks the file system of the open directory `root`. With `nameless`, changes that are made by way of file handles, as an NFS
    /// server does, are reported too, with the handle of the file alone where the kernel knows no name of it (observed, 6.18:
    /// after the name was dropped from memory; inotify reports nothing then). It costs a further record for each name
    /// that is removed. The queue's size, `fs.fanotify.max_queued_events`, is fixed here for
    /// its whole life.
    ///
    /// # Errors
    /// [`MarkError`].
    pub fn create(root: impl AsFd, nameless: bool) -> Result<Self, MarkError> {
        // Neither rustix nor nix knows the flags for handles. The unlimited queue is left out: memory without bound.
        let flags = InitFlags::FAN_CLASS_NOTIF
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::from_bits_retain(libc::FAN_REPORT_DFID_NAME)
            | InitFlags::from_bits_retain(if nameless { libc::FAN_REPORT_FID } else { 0 });
        let group = Group::init(flags, EventFFlags::O_RDONLY).map_err(|errno| MarkError::Init(errno.into()))?;
        group
            .mark(MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM, MASK, &root, Some(c"."))
            .map_err(|errno| MarkError::Mark(errno.into()))?;
        let root = root.as_fd().try_clone_to_owned().map_err(MarkError::Handles)?;
        let device = files::status_of(&root).map_err(MarkError::Handles)?.identity.device;
        Ok(Self { group, root, device, known: HandleTable::default(), elsewhere: HandleTable::default() })
    }

    /// Whether a change in `root` is reported, and its directory found by the handle: tried with a group of its own and a file
    /// without a name (`O_TMPFILE`), which nobody sees.
    ///
    /// # Errors
    /// [`MarkError`]: what does not work.
    pub fn probe(root: impl AsFd) -> Result<(), MarkError> {
        let mut mark = Self::create(&root, false)?;
        let own = handle::name_to_handle_at(&root).map_err(MarkError::Handles)?;
        match mark.whereabouts(own.as_handle()).map_err(MarkError::Handles)? {
            Whereabouts::At(path) if path.is_root() => {}
            Whereabouts::At(_) | Whereabouts::Elsewhere | Whereabouts::Gone => {
                return Err(MarkError::Handles(io::Error::other("the root's handle leads elsewhere")));
            }
        }
        match change(root.as_fd()) {
            Ok(()) => {}
            // What cannot be written has no events to be missed.
            Err(rustix::io::Errno::ROFS) => return Ok(()),
            Err(errno) => return Err(MarkError::Probe(errno.into())),
        }
        let mut buffer = vec![0; 64 * 1024];
        while let Some(count) = mark.read(&mut buffer).map_err(MarkError::Probe)? {
            let mut seen = false;
            crate::event::decode_fanotify(&buffer[..count], |record| {
                use crate::event::{Place, Record};
                match record {
                    Record::Event(event) => seen |= event.place == Place::Handle(own.as_handle()),
                    Record::Nameless(_) => {}
                    // So much goes on here that the queue overflowed: then it reports.
                    Record::Overflow => seen = true,
                }
            });
            if seen {
                return Ok(());
            }
        }
        Err(MarkError::Silent)
    }

    /// Makes the open directory known; the same directory again gives the same number.
    ///
    /// # Errors
    /// [`WatchError::Vanished`] for one that was removed, else those of name_to_handle_at(2).
    pub fn know(&mut self, directory: impl AsFd) -> Result<Wd, WatchError> {
        let own = handle::name_to_handle_at(directory).map_err(|error| match error.raw_os_error() {
            Some(libc::ESTALE | libc::ENOENT) => WatchError::Vanished,
            _ => WatchError::Handle(error),
        })?;
        if let Some(number) = self.elsewhere.find(own.as_handle()) {
            self.elsewhere.remove(number);
        }
        let number = self.known.insert(own.as_handle());
        wd_of(number).ok_or_else(|| WatchError::Handle(io::Error::from_raw_os_error(libc::EOVERFLOW)))
    }

    /// Forgets a directory.
    pub fn forget(&mut self, wd: Wd) {
        if let Ok(number) = u32::try_from(wd.0.saturating_sub(1)) {
            self.known.remove(number);
        }
    }

    /// The number of a directory that is known.
    #[must_use]
    pub fn of_handle(&self, handle: Handle<'_>) -> Option<Wd> {
        self.known.find(handle).and_then(wd_of)
    }

    /// Finds a directory that is not known. One that lies elsewhere is remembered until it is made known.
    ///
    /// # Errors
    /// `ENAMETOOLONG` for a path beyond 4096 bytes; `EMFILE`, `ENOMEM`.
    pub fn whereabouts(&mut self, handle: Handle<'_>) -> io::Result<Whereabouts> {
        if self.elsewhere.find(handle).is_some() {
            return Ok(Whereabouts::Elsewhere);
        }
        for _attempt in 0..3 {
            if let Some(found) = self.look_up(handle)? {
                return Ok(found);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// `None` when the root's own path changed meanwhile.
    fn look_up(&mut self, handle: Handle<'_>) -> io::Result<Option<Whereabouts>> {
        let before = link(&self.root)?;
        let Some((found, status)) = self.open(handle)? else { return Ok(Some(Whereabouts::Gone)) };
        let path = link(&found)?;
        // The root, or what it lies in, was renamed meanwhile: the two paths cannot be compared.
        if link(&self.root)? != before {
            return Ok(None);
        }
        let beneath = match path.strip_prefix(before.as_slice()) {
            Some([]) => Some(RelPath::root()),
            Some([b'/', rest @ ..]) => RelPath::parse(rest).ok(),
            // The root is the file system's, or the namespace's.
            Some(rest) if before == b"/" => RelPath::parse(rest).ok(),
            Some(_) | None => None,
        };
        match beneath.filter(|_| status.identity.device == self.device) {
            Some(path) => Ok(Some(Whereabouts::At(path))),
            None => {
                self.reject(handle);
                Ok(Some(Whereabouts::Elsewhere))
            }
        }
    }

    /// Looks at a file by its handle; `None` when it does not exist any more, or lies on another file system.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn status_of_handle(&self, handle: Handle<'_>) -> io::Result<Option<Status>> {
        let status = self.open(handle)?.map(|(_, status)| status);
        Ok(status.filter(|status| status.identity.device == self.device))
    }

    /// Opens what a handle stands for as a place, and looks at it; `None` when it does not exist any more.
    fn open(&self, handle: Handle<'_>) -> io::Result<Option<(OwnedFd, Status)>> {
        let found = match handle::open_by_handle_at(&self.root, handle) {
            Ok(found) => found,
            // ESTALE: no such inode; EINVAL: bytes of which this file system makes nothing.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT | libc::EINVAL)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let status = files::status_of(&found)?;
        Ok((status.links > 0).then_some((found, status)))
    }

    /// Remembers that a directory is of no interest until it is made known.
    pub fn reject(&mut self, handle: Handle<'_>) {
        if self.elsewhere.len() >= ELSEWHERE_MAX {
            self.elsewhere.clear();
        }
        self.elsewhere.insert(handle);
    }

    /// Keeps the kernel from reporting what happens in one directory, not beneath it (fanotify_mark(2), `FAN_MARK_IGNORE_SURV`,
    /// Linux 6.0).
    ///
    /// # Errors
    /// Those of fanotify_mark(2); `EXDEV` when it lies on another file system than the root.
    pub fn ignore(&self, directory: &Path) -> io::Result<()> {
        let open = files::open_root(directory)?;
        if files::status_of(&open)?.identity.device != self.device {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        let mask = MASK.difference(MaskFlags::FAN_RENAME) | MaskFlags::FAN_EVENT_ON_CHILD;
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_IGNORE_SURV;
        Ok(self.group.mark(flags, mask, &open, Some(c"."))?)
    }

    /// Reads queued events into `buffer`; `None` when the queue is empty (`EAGAIN`).
    ///
    /// # Errors
    /// Those of read(2) but `EAGAIN` and `EINTR`.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        super::inotify::read(&self.group, buffer)
    }

    /// The descriptor, for `mio::unix::SourceFd`.
    #[must_use]
    pub fn raw(&self) -> RawFd {
        self.group.as_fd().as_raw_fd()
    }
}

/// The number of a handle as a watch descriptor; like the kernel's, they begin with 1.
fn wd_of(number: u32) -> Option<Wd> {
    i32::try_from(number).ok()?.checked_add(1).map(Wd)
}

/// Where an open file is now, as the kernel writes it for this process.
fn link(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(path.into_os_string().into_vec())
}

/// A change in the directory that nobody sees but those who watch it: a file without a name is written; where the file system
/// has no such files, the directory gets the mode that it has.
fn change(root: std::os::fd::BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(root, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => rustix::io::write(file, b"?").map(drop),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            let mode = Mode::from_raw_mode(rustix::fs::fstat(root)?.st_mode);
            rustix::fs::fchmod(root, mode)
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
mod tests {
    use std::fs;

    use super::*;
    use crate::event::{EventKind, Place, Record, decode_fanotify};

    /// A marked root, or `None` where this user may not mark.
    fn marked(path: &Path) -> Option<Fanotify> {
        let root = files::open_root(path).unwrap();
        match Fanotify::probe(&root) {
            Ok(()) => Some(Fanotify::create(&root, false).unwrap()),
            Err(error) => {
                eprintln!("skipped: no mark is possible here: {error} ({})", error.hint());
                None
            }
        }
    }

    /// Whatever is said of handles that `ours` knows, and the places of those that are not known.
    fn told(ours: &mut Fanotify) -> Vec<(String, EventKind, String)> {
        let mut buffer = vec![0; 64 * 1024];
        let mut told = Vec::new();
        while let Some(count) = ours.read(&mut buffer).unwrap() {
            let mut events = Vec::new();
            decode_fanotify(&buffer[..count], |record| {
                if let Record::Event(event) = record {
                    events.push(event)
                }
            });
            for event in events {
                let Place::Handle(handle) = event.place else { panic!("{event:?}") };
                let name = String::from_utf8_lossy(event.name).into_owned();
                if let Some(wd) = ours.of_handle(handle) {
                    told.push((format!("known {}", wd.0), event.kind, name));
                } else if let Whereabouts::At(path) = ours.whereabouts(handle).unwrap() {
                    told.push((path.to_string(), event.kind, name));
                }
            }
        }
        told
    }

    #[test]
    fn changes_are_told_by_directory_and_name_known_or_not() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(scratch.path().join("outside")).unwrap();
        let Some(mut ours) = marked(&root) else { return };
        let known = ours.know(files::open_root(&root.join("a")).unwrap()).unwrap();
        assert_eq!(ours.know(files::open_root(&root.join("a")).unwrap()).unwrap(), known);
        fs::write(root.join("a/f"), "x").unwrap();
        fs::write(root.join("a/b/g"), "x").unwrap();
        fs::write(scratch.path().join("outside/h"), "x").unwrap();
        let told_now = told(&mut ours);
        let has = |place: &str, kind, name: &str| told_now.contains(&(place.to_owned(), kind, name.to_owned()));
        assert!(has(&format!("known {}", known.0), EventKind::Closed, "f"), "{told_now:?}");
        assert!(has("a/b", EventKind::Created, "g"), "{told_now:?}");
        assert!(told_now.iter().all(|(_, _, name)| name != "h"), "{told_now:?}");
        assert!(!ours.elsewhere.is_empty());

        // What lay elsewhere is known from the moment on that somebody says so.
        fs::rename(scratch.path().join("outside"), root.join("came")).unwrap();
        let came = ours.know(files::open_root(&root.join("came")).unwrap()).unwrap();
        fs::write(root.join("came/h"), "y").unwrap();
        fs::remove_dir_all(root.join("a/b")).unwrap();
        let told_now = told(&mut ours);
        let has = |place: &str, kind, name: &str| told_now.contains(&(place.to_owned(), kind, name.to_owned()));
        assert!(has(".", EventKind::MovedTo, "came"), "{told_now:?}");
        assert!(has(&format!("known {}", came.0), EventKind::Closed, "h"), "{told_now:?}");
        assert!(has(&format!("known {}", known.0), EventKind::Deleted, "b"), "{told_now:?}");
        ours.forget(came);
        fs::write(root.join("came/i"), "y").unwrap();
        assert!(told(&mut ours).contains(&("came".to_owned(), EventKind::Closed, "i".to_owned())));
    }

    #[test]
    fn a_directory_that_is_to_be_ignored_is_not_told_of() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("root")).unwrap();
        fs::create_dir_all(scratch.path().join("noisy")).unwrap();
        let Some(ours) = marked(&scratch.path().join("root")) else { return };
        let noisy = scratch.path().join("noisy");
        if let Err(error) = ours.ignore(&noisy) {
            eprintln!("skipped: nothing can be ignored here: {error}");
            return;
        }
        let handle = handle::name_to_handle_at(files::open_root(&noisy).unwrap()).unwrap();
        for number in 0..100 {
            fs::write(noisy.join(format!("f{number}")), "x").unwrap();
        }
        let mut buffer = vec![0; 64 * 1024];
        while let Some(count) = ours.read(&mut buffer).unwrap() {
            decode_fanotify(&buffer[..count], |record| {
                if let Record::Event(event) = record {
                    assert_ne!(event.place, Place::Handle(handle.as_handle()), "{event:?}");
                }
            });
        }
        assert_eq!(ours.ignore(Path::new("/proc")).unwrap_err().raw_os_error(), Some(libc::EXDEV));
    }

    #[test]
    fn what_cannot_be_marked_says_why() {
        let error = Fanotify::probe(files::open_root(Path::new("/proc")).unwrap()).unwrap_err();
        assert!(!error.hint().is_empty() && !error.to_string().is_empty(), "{error:?}");
    }
}
