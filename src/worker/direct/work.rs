//! One run on a local target.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::attributes::{Rights, Settings};
use super::decision::{Deed, decide};
use super::top::open_target;
use super::{Direct, Share, Stopped, temporary};
use crate::path::RelPath;
use crate::plan::{EntryKind, Run};
use crate::sys::beneath;
use crate::sys::clock;
use crate::sys::files::{self, Details, EntryType, Identity};
use crate::worker::shipment::within;

/// Names tried for what is not in its place yet, before rsync has to find one.
const NAMES_MAX: usize = 8;

/// How much is remembered of the directories above entries; what is beyond is left. Unit: bytes. Why 8 MiB: a batch of 5,000
/// points in as many directories needs a tenth of it, and paths may have 4 KiB and 2,000 directories each.
const ABOVE_MAX: usize = 8 * 1024 * 1024;

/// How long a look at the root itself, before names are deleted that it lacks, is good for. Unit: time. Why 20 ms: about as
/// long as an rsync takes from such a look to its own looks at the names.
const ROOT_GOOD_FOR: Duration = Duration::from_millis(20);

pub(super) struct Work<'a> {
    job: &'a Direct<'a>,
    top: OwnedFd,
    rights: Rights,
    file_size_max: u64,
    /// The directory of the last entry.
    place: Option<Place>,
    /// Directories of the source above entries, as they were when they were first met.
    above: HashMap<RelPath, Details>,
    above_bytes: usize,
    /// Directories of the target that get these attributes when all else is done.
    finish: BTreeMap<RelPath, Details>,
    deleted: u64,
    /// When the root was found to be what it should be.
    checked: Instant,
    rng: fastrand::Rng,
}

/// One directory, on both sides.
struct Place {
    path: RelPath,
    source: OwnedFd,
    target: OwnedFd,
}

/// Why an entry is not done.
enum Refusal {
    /// rsync does it.
    Leave(String),
    /// Nobody shall.
    Stop,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Leave(error.to_string())
    }
}

fn leave<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::Leave(why.to_owned()))
}

impl<'a> Work<'a> {
    pub(super) fn begin(job: &'a Direct<'a>) -> io::Result<Self> {
        let rights = Rights::of_self().ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self {
            job,
            top: open_target(job.target)?,
            rights,
            file_size_max: beneath::file_size_max(),
            place: None,
            above: HashMap::new(),
            above_bytes: 0,
            finish: BTreeMap::new(),
            deleted: 0,
            checked: clock::now(),
            rng: fastrand::Rng::new(),
        })
    }

    pub(super) fn points(mut self, run: &Run) -> Result<Share, Stopped> {
        let mut why = None;
        let mut done = Vec::with_capacity(run.entries.len());
        for (path, kind) in &run.entries {
            if !(self.job.go_on)() {
                return Err(Stopped { deleted: self.deleted });
            }
            done.push(match self.entry(path, *kind, run.resend) {
                Ok(()) => true,
                Err(Refusal::Stop) => return Err(Stopped { deleted: self.deleted }),
                Err(Refusal::Leave(words)) => {
                    why.get_or_insert_with(|| format!("{path}: {words}"));
                    false
                }
            });
        }
        let unfinished = self.finish_directories(&mut why);
        for (done, (path, _)) in done.iter_mut().zip(&run.entries) {
            *done &= !within(&unfinished, path);
        }
        if let Err(error) = self.still_meant() {
            why.get_or_insert(error.to_string());
            done.fill(false);
        }
        Ok(Share { done, deleted: self.deleted, why })
    }

    pub(super) fn root_attributes(self, run: &Run) -> Share {
        let set = files::details_of(&self.job.source.root)
            .and_then(|source| self.set(&self.top, &source))
            .and_then(|()| self.still_meant());
        match set {
            Ok(()) => Share { done: vec![true; run.entries.len()], deleted: 0, why: None },
            Err(error) => Share::none(run, &error),
        }
    }

    fn entry(&mut self, path: &RelPath, kind: EntryKind, resend: bool) -> Result<(), Refusal> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else { return leave("the root") };
        if kind == EntryKind::Listing {
            return leave("a listing");
        }
        if clock::now() >= self.job.deadline {
            return leave("it takes too long");
        }
        let place = match self.place.take() {
            Some(place) if place.path == parent => place,
            Some(_) | None => self.go_to(&parent)?,
        };
        let did = self.entry_in(&place, path, name, resend);
        self.place = Some(place);
        did?;
        for directory in with_ancestors(&parent) {
            if let Some(details) = self.above.get(&directory) {
                self.finish.entry(directory).or_insert(*details);
            }
        }
        Ok(())
    }

    fn go_to(&mut self, path: &RelPath) -> Result<Place, Refusal> {
        let root = self.job.source.root.as_fd();
        let source = files::open_place(root, path)?;
        for directory in with_ancestors(path) {
            if let Entry::Vacant(vacant) = self.above.entry(directory) {
                self.above_bytes += vacant.key().as_bytes().len() + size_of::<Details>();
                if self.above_bytes > ABOVE_MAX {
                    return leave("too many directories");
                }
                let details = files::details_of(files::open_place(root, vacant.key())?)?;
                vacant.insert(details);
            }
        }
        let target = files::open_place(self.top.as_fd(), path)?;
        if !files::ctimes_tell(&target)? {
            return leave("another file system");
        }
        Ok(Place { path: path.clone(), source, target })
    }

    fn entry_in(&mut self, place: &Place, path: &RelPath, name: &[u8], resend: bool) -> Result<(), Refusal> {
        let source = there(files::details_at(place.source.as_fd(), name))?;
        let directory = source.is_some_and(|source| source.status.entry_type == EntryType::Directory);
        let excluded = |directory| self.job.source.filter.excludes_within(path, directory);
        if excluded(directory) || (source.is_none() && excluded(true)) {
            return leave("excluded");
        }
        let target = there(files::details_at(place.target.as_fd(), name))?;
        match (decide(source.as_ref(), target.as_ref(), resend), source, target) {
            (Deed::Leave(why), ..) => leave(why),
            (Deed::Nothing, ..) => Ok(()),
            (Deed::Delete, ..) => self.delete(place, name),
            (Deed::Place, Some(source), _) => self.place_file(place, name, &source),
            (Deed::Link, Some(source), _) => self.place_symlink(place, name, &source),
            (Deed::MakeDirectory, Some(source), _) => {
                beneath::make_directory(place.target.as_fd(), name)?;
                self.finish.insert(path.clone(), source);
                Ok(())
            }
            (Deed::Attributes, Some(source), Some(target)) => match source.status.entry_type {
                EntryType::Directory => {
                    self.finish.insert(path.clone(), source);
                    Ok(())
                }
                EntryType::File | EntryType::Symlink | EntryType::Special => {
                    self.set_again(place, name, &source, &target)
                }
            },
            (Deed::Place | Deed::Link | Deed::MakeDirectory | Deed::Attributes, ..) => leave("nothing to take it from"),
        }
    }

    fn delete(&mut self, place: &Place, name: &[u8]) -> Result<(), Refusal> {
        if self.deleted >= self.job.deletes {
            return leave("a delete that nobody has admitted");
        }
        // A file system in the root that was unmounted looks as if all was deleted.
        let now = clock::now();
        if now - self.checked > ROOT_GOOD_FOR {
            self.job.source.check(now).map_err(|fault| Refusal::Leave(fault.words))?;
            self.checked = now;
        }
        match beneath::remove(place.target.as_fd(), name) {
            Ok(()) => self.deleted += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn place_file(&mut self, place: &Place, name: &[u8], seen: &Details) -> Result<(), Refusal> {
        let from = beneath::open_file(place.source.as_fd(), name)?;
        unchanged(seen, files::details_of(&from))?;
        if seen.status.size > self.file_size_max {
            return leave("larger than this process may write");
        }
        // Without a name, as far as that is possible: if this process dies, nothing is left of it.
        let (to, mut fresh) = match beneath::create_nameless(place.target.as_fd()) {
            Ok(to) => (to, Fresh { place, name: None }),
            Err(_) => self.create_named(place, name)?,
        };
        let copied = beneath::copy(from.as_fd(), to.as_fd(), seen.status.size, self.job.go_on);
        match copied {
            Ok(size) if size == seen.status.size => {}
            Ok(_) => return leave("it changes"),
            Err(_) if !(self.job.go_on)() => return Err(Refusal::Stop),
            Err(error) => return Err(error.into()),
        }
        self.set(&to, seen)?;
        unchanged(seen, files::details_of(&from))?;
        unchanged(seen, files::details_at(place.source.as_fd(), name))?;
        if fresh.name.is_none() {
            fresh.name = Some(self.find_name(name, |new| beneath::give_name(to.as_fd(), place.target.as_fd(), new))?.0);
        }
        self.move_in(fresh, name, &to)
    }

    fn place_symlink(&mut self, place: &Place, name: &[u8], seen: &Details) -> Result<(), Refusal> {
        let from = beneath::hold(place.source.as_fd(), name)?;
        unchanged(seen, files::details_of(&from))?;
        let leads_to = beneath::read_symlink(from.as_fd())?;
        let (new, ()) = self.find_name(name, |new| beneath::make_symlink(place.target.as_fd(), new, &leads_to))?;
        let fresh = Fresh { place, name: Some(new.clone()) };
        let to = beneath::hold(place.target.as_fd(), &new)?;
        // Whoever may write here may have put something else under the name.
        if files::details_of(&to)?.status.entry_type != EntryType::Symlink {
            return leave("somebody else's");
        }
        self.set(&to, seen)?;
        unchanged(seen, files::details_at(place.source.as_fd(), name))?;
        self.move_in(fresh, name, &to)
    }

    /// The target has it already: its attributes, and where a symlink leads to.
    fn set_again(&mut self, place: &Place, name: &[u8], source: &Details, target: &Details) -> Result<(), Refusal> {
        let held = beneath::hold(place.target.as_fd(), name)?;
        unchanged(target, files::details_of(&held))?;
        if source.status.entry_type == EntryType::Symlink {
            let from = beneath::hold(place.source.as_fd(), name)?;
            if beneath::read_symlink(from.as_fd())? != beneath::read_symlink(held.as_fd())? {
                return self.place_symlink(place, name, source);
            }
        }
        self.set(&held, source)?;
        arrived(place, name, target.status.identity)
    }

    fn create_named<'p>(&mut self, place: &'p Place, name: &[u8]) -> Result<(OwnedFd, Fresh<'p>), Refusal> {
        let (new, to) = self.find_name(name, |new| beneath::create(place.target.as_fd(), new))?;
        Ok((to, Fresh { place, name: Some(new) }))
    }

    /// Calls `make` with a name for what is to become `name`, until one is free.
    fn find_name<T>(
        &mut self,
        name: &[u8],
        mut make: impl FnMut(&[u8]) -> io::Result<T>,
    ) -> Result<(Vec<u8>, T), Refusal> {
        for _attempt in 0..NAMES_MAX {
            let new = temporary::name(name, &mut self.rng);
            match make(&new) {
                Ok(made) => return Ok((new, made)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        leave("no name is free")
    }

    fn move_in(&self, mut fresh: Fresh<'_>, name: &[u8], held: &OwnedFd) -> Result<(), Refusal> {
        let identity = files::details_of(held)?.status.identity;
        let place = fresh.place;
        if let Some(new) = &fresh.name {
            beneath::replace(place.target.as_fd(), name, new)?;
            fresh.name = None;
        }
        arrived(place, name, identity)
    }

    /// Gives what is held the attributes of `source`.
    fn set(&self, held: &OwnedFd, source: &Details) -> io::Result<()> {
        let held = held.as_fd();
        let Settings { user, group, mode, modified } = self.rights.settings(source, &files::details_of(held)?);
        if user.is_some() || group.is_some() {
            beneath::set_owner(held, user, group)?;
        }
        if let Some(mode) = mode {
            beneath::set_mode(held, mode)?;
        }
        if modified {
            beneath::set_modified(held, source)?;
        }
        Ok(())
    }

    /// Sets the attributes of directories, from below upwards; returns those that could not be set.
    fn finish_directories(&mut self, why: &mut Option<String>) -> BTreeSet<RelPath> {
        let mut unfinished = BTreeSet::new();
        for (path, details) in std::mem::take(&mut self.finish).into_iter().rev() {
            let set = files::open_place(self.top.as_fd(), &path).and_then(|held| self.set(&held, &details));
            if let Err(error) = set {
                why.get_or_insert_with(|| format!("{path}: {error}"));
                unfinished.insert(path);
            }
        }
        unfinished
    }

    /// What was done was done to what the configured path means.
    fn still_meant(&self) -> io::Result<()> {
        let meant = files::status_of_path(self.job.target)?.identity;
        if meant == files::status_of(&self.top)?.identity {
            Ok(())
        } else {
            Err(io::Error::other("the target is another directory by now"))
        }
    }
}

/// What has no place yet: its name goes, unless it moved in.
struct Fresh<'a> {
    place: &'a Place,
    name: Option<Vec<u8>>,
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            let _gone_already = beneath::remove(self.place.target.as_fd(), &name);
        }
    }
}

/// A directory and those above it, but for the root.
fn with_ancestors(path: &RelPath) -> impl Iterator<Item = RelPath> {
    std::iter::successors(Some(path.clone()), RelPath::parent).take_while(|path| !path.is_root())
}

fn there(found: io::Result<Details>) -> io::Result<Option<Details>> {
    match found {
        Ok(details) => Ok(Some(details)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unchanged(seen: &Details, now: io::Result<Details>) -> Result<(), Refusal> {
    if now? == *seen { Ok(()) } else { leave("it changes") }
}

/// Whether the name on the target is the inode that was made for it.
fn arrived(place: &Place, name: &[u8], identity: Identity) -> Result<(), Refusal> {
    if files::details_at(place.target.as_fd(), name)?.status.identity == identity {
        Ok(())
    } else {
        leave("somebody else's")
    }
}
