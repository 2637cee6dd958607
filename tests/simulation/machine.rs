//! The machine: files, watches and clocks together. Each operation stamps inodes and raises events as a kernel does
//! (notes/kernel.md 2 and 7.1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fansync::sys::clock::{self, WallTime};
use parking_lot::{Mutex, MutexGuard};

use super::files::{Body, Files, Inode, OUTSIDE, ROOT};
use super::kernel::{Instance, Record};
use super::mark::Group;
use super::user::User;

/// The grain of the coarse clock.
const TICK: Duration = Duration::from_millis(4);

/// When the simulation begins, in the clock that stamps.
const WALL: i64 = 1_700_000_000_000_000_000;

/// A machine that many hold.
#[derive(Debug, Clone)]
pub struct Machine(Arc<Mutex<State>>);

/// Its state.
#[derive(Debug)]
pub struct State {
    pub files: Files,
    pub instances: Vec<Instance>,
    pub groups: Vec<Group>,
    pub user: User,
    pub rng: fastrand::Rng,
    pub queue_limit: usize,
    pub watches_max: usize,
    pub trace: bool,
    /// Contents of files when they lost one of several names: what was written through that one before anybody looked at it
    /// shows under the others without any event, and no table can know of it.
    pub blind: BTreeMap<Inode, u64>,
    /// Counts looks and changes: what happened before what.
    pub moment: u64,
    start: Instant,
    elapsed: Duration,
    cookie: u32,
    content: u64,
    /// Descriptors that are open for writing.
    opened: Vec<Opened>,
}

/// A file that somebody writes to.
#[derive(Debug, Clone)]
struct Opened {
    inode: Inode,
    /// The name that was used; none once it is unlinked.
    place: Option<(Inode, Box<[u8]>)>,
    /// When the write that is under way ends.
    until: Duration,
}

impl Machine {
    pub fn new(rng: &mut fastrand::Rng, user: User, trace: bool) -> Self {
        let mut state = State {
            files: Files::new(WallTime(WALL - 3_600_000_000_000)),
            instances: Vec::new(),
            groups: Vec::new(),
            user,
            rng: rng.fork(),
            queue_limit: usize::MAX,
            watches_max: usize::MAX,
            trace,
            blind: BTreeMap::new(),
            moment: 0,
            start: clock::now(),
            elapsed: Duration::ZERO,
            cookie: 0,
            content: 0,
            opened: Vec::new(),
        };
        state.files.get_mut(OUTSIDE).mode = 0o700;
        Self(Arc::new(Mutex::new(state)))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// A system call begins: it takes a moment, and others go on meanwhile.
    pub fn call(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock();
        state.moment += 1;
        let micros = state.rng.u64(1..20);
        state.pass(Duration::from_micros(micros));
        let user = state.user;
        if user.interrupts(&mut state.rng) {
            super::user::act(&mut state);
        }
        state
    }
}

impl State {
    pub fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub fn wall(&self) -> WallTime {
        WallTime(WALL + i64::try_from(self.elapsed.as_nanos()).unwrap_or(i64::MAX))
    }

    /// The clock that stamps.
    pub fn coarse(&self) -> WallTime {
        let tick = i64::try_from(TICK.as_nanos()).unwrap_or(1);
        WallTime(self.wall().0 / tick * tick)
    }

    pub fn pass(&mut self, span: Duration) {
        self.elapsed += span;
        while let Some(at) = self.opened.iter().position(|opened| opened.until <= self.elapsed) {
            let opened = self.opened.swap_remove(at);
            self.finish_write(&opened);
        }
    }

    /// Ends every write that is under way.
    pub fn close_all(&mut self) {
        for opened in std::mem::take(&mut self.opened) {
            self.finish_write(&opened);
        }
    }

    pub fn say(&self, words: impl FnOnce() -> String) {
        if self.trace {
            #[expect(clippy::print_stderr, reason = "the trace of one seed, for who looks into it")]
            {
                eprintln!("{:>12.6} {}", self.elapsed.as_secs_f64(), words());
            }
        }
    }

    pub fn new_content(&mut self) -> u64 {
        self.content += 1;
        self.content
    }

    /// The path below the root, for the trace.
    pub fn name_of(&self, directory: Inode, name: &[u8]) -> String {
        let mut names = vec![String::from_utf8_lossy(name).into_owned()];
        let mut at = directory;
        while at != ROOT && at != OUTSIDE && at != 0 {
            let parent = self.files.get(at).parent;
            if parent == 0 {
                names.push("(gone)".to_owned());
                break;
            }
            let here = self.files.names(parent).iter().find(|(_, inode)| **inode == at);
            names.push(here.map_or("(gone)".to_owned(), |(name, _)| String::from_utf8_lossy(name).into_owned()));
            at = parent;
        }
        if at == OUTSIDE {
            names.push("(outside)".to_owned());
        }
        names.reverse();
        names.join("/")
    }

    fn notify(&mut self, directory: Inode, mask: u32, cookie: u32, name: &[u8]) {
        for instance in &mut self.instances {
            if let Some(wd) = instance.watches(directory) {
                instance.push(Record { wd, mask, cookie, name: name.into() });
            }
        }
        self.notify_groups(directory, mask, name);
    }

    /// A mark tells of a directory's own attributes once, by the directory itself, and of moves otherwise.
    fn notify_groups(&mut self, directory: Inode, mask: u32, name: &[u8]) {
        const TOLD: u32 = libc::IN_CREATE | libc::IN_DELETE | libc::IN_MODIFY | libc::IN_ATTRIB | libc::IN_CLOSE_WRITE;
        let own = mask & libc::IN_ATTRIB != 0 && mask & libc::IN_ISDIR != 0;
        if self.groups.is_empty() || mask & TOLD == 0 || own != name.is_empty() {
            return;
        }
        let same_process = self.rng.bool();
        let name = if name.is_empty() { b"." } else { name };
        for group in &mut self.groups {
            // The bits of both kernels' interfaces are the same ones.
            group.push(u64::from(mask), directory, name, same_process);
        }
    }

    /// `IN_ISDIR` for a directory.
    fn is_directory_bit(&self, inode: Inode) -> u32 {
        if self.files.is_directory(inode) { libc::IN_ISDIR } else { 0 }
    }

    fn stamp_changed(&mut self, inode: Inode) {
        let now = self.coarse();
        self.files.get_mut(inode).ctime = now;
    }

    fn stamp_modified(&mut self, inode: Inode) {
        let now = self.coarse();
        let node = self.files.get_mut(inode);
        (node.mtime, node.ctime) = (now, now);
    }

    pub fn lookup(&self, directory: Inode, name: &[u8]) -> Option<Inode> {
        self.files.names(directory).get(name).copied()
    }

    /// Gives a new inode its first name.
    fn create(&mut self, directory: Inode, name: &[u8], body: Body, mode: u32) -> Option<Inode> {
        if self.files.get(directory).links == 0 || self.lookup(directory, name).is_some() {
            return None;
        }
        let now = self.coarse();
        let inode = self.files.add(body, mode, now);
        let node = self.files.get_mut(inode);
        node.links = 1;
        node.parent = directory;
        self.files.names_mut(directory).insert(name.into(), inode);
        self.stamp_modified(directory);
        let bit = self.is_directory_bit(inode);
        self.notify(directory, libc::IN_CREATE | bit, 0, name);
        Some(inode)
    }

    pub fn mkdir(&mut self, directory: Inode, name: &[u8]) -> Option<Inode> {
        self.create(directory, name, Body::Directory(BTreeMap::new()), 0o755)
    }

    pub fn symlink(&mut self, directory: Inode, name: &[u8]) -> Option<Inode> {
        let text = self.new_content();
        self.create(directory, name, Body::Symlink(text), 0o777)
    }

    pub fn link(&mut self, inode: Inode, directory: Inode, name: &[u8]) -> bool {
        if self.files.get(directory).links == 0
            || self.lookup(directory, name).is_some()
            || self.files.is_directory(inode)
            || self.files.get(inode).links == 0
        {
            return false;
        }
        self.files.get_mut(inode).links += 1;
        self.stamp_changed(inode);
        self.files.names_mut(directory).insert(name.into(), inode);
        self.stamp_modified(directory);
        self.notify(directory, libc::IN_CREATE, 0, name);
        true
    }

    /// An empty file, open for writing.
    pub fn create_file(&mut self, directory: Inode, name: &[u8]) -> Option<Inode> {
        self.create(directory, name, Body::File { content: 0, size: 0 }, 0o644)
    }

    /// A write that is done in no time. Returns false when there is no such file.
    pub fn write(&mut self, directory: Inode, name: &[u8], size: u64) -> bool {
        let Some(inode) = self.lookup(directory, name) else { return false };
        let content = if size == 0 { 0 } else { self.new_content() };
        match &mut self.files.get_mut(inode).body {
            Body::File { content: there, size: long } => (*there, *long) = (content, size),
            Body::Directory(_) | Body::Symlink(_) => return false,
        }
        self.stamp_modified(inode);
        self.notify(directory, libc::IN_MODIFY, 0, name);
        true
    }

    pub fn close_write(&mut self, directory: Inode, name: &[u8]) {
        self.notify(directory, libc::IN_CLOSE_WRITE, 0, name);
    }

    /// A write that ends after `span`; the stamp is that of its start (notes/kernel.md 7.1).
    pub fn begin_write(&mut self, directory: Inode, name: &[u8], span: Duration) -> bool {
        let Some(inode) = self.lookup(directory, name) else { return false };
        if !matches!(self.files.get(inode).body, Body::File { .. }) {
            return false;
        }
        self.stamp_modified(inode);
        self.files.get_mut(inode).open += 1;
        let place = Some((directory, name.into()));
        self.opened.push(Opened { inode, place, until: self.elapsed + span });
        true
    }

    fn finish_write(&mut self, opened: &Opened) {
        let content = self.new_content();
        if let Body::File { content: there, size } = &mut self.files.get_mut(opened.inode).body {
            *there = content;
            *size = (*size).max(1);
        }
        if let Some((directory, name)) = &opened.place {
            self.say(|| format!("a slow write of {} ends", self.name_of(*directory, name)));
            self.notify(*directory, libc::IN_MODIFY, 0, name);
            self.notify(*directory, libc::IN_CLOSE_WRITE, 0, name);
        }
        self.close(opened.inode);
    }

    /// A descriptor is closed.
    pub fn close(&mut self, inode: Inode) {
        let node = self.files.get_mut(inode);
        node.open -= 1;
        if node.open == 0 && node.links == 0 {
            self.forget(inode);
        }
    }

    fn forget(&mut self, inode: Inode) {
        if self.files.is_directory(inode) {
            for instance in &mut self.instances {
                if let Some(wd) = instance.watches(inode) {
                    instance.push(Record { wd, mask: libc::IN_DELETE_SELF, cookie: 0, name: Box::default() });
                    instance.remove_watch(wd);
                }
            }
        }
        self.files.free(inode);
        self.blind.remove(&inode);
    }

    /// An inode lost a name.
    fn dropped(&mut self, inode: Inode) {
        self.stamp_changed(inode);
        let node = self.files.get_mut(inode);
        node.links -= 1;
        if let Body::File { content, .. } = node.body {
            self.blind.insert(inode, content);
        }
        let node = self.files.get(inode);
        if node.links == 0 && node.open == 0 {
            self.forget(inode);
        }
    }

    /// A name goes. What is written through it afterwards has no event (`IN_EXCL_UNLINK`), so nobody does if the file has
    /// another name: that is a blind spot of the kernel's, not of the agent's.
    fn unlinked(&mut self, directory: Inode, name: &[u8]) {
        let here =
            |opened: &Opened| opened.place.as_ref().is_some_and(|(parent, old)| *parent == directory && **old == *name);
        while let Some(at) = self.opened.iter().position(|open| here(open) && self.files.get(open.inode).links > 1) {
            let opened = self.opened.swap_remove(at);
            self.finish_write(&opened);
        }
        for opened in &mut self.opened {
            if opened.place.as_ref().is_some_and(|(parent, old)| *parent == directory && **old == *name) {
                opened.place = None;
            }
        }
    }

    /// Removes a file, a symlink or an empty directory.
    pub fn remove(&mut self, directory: Inode, name: &[u8]) -> bool {
        let Some(inode) = self.lookup(directory, name) else { return false };
        let bit = self.is_directory_bit(inode);
        if bit != 0 && !self.files.names(inode).is_empty() {
            return false;
        }
        self.unlinked(directory, name);
        self.files.names_mut(directory).remove(name);
        self.stamp_modified(directory);
        self.notify(directory, libc::IN_DELETE | bit, 0, name);
        self.dropped(inode);
        true
    }

    /// rename(2). What had the new name goes, if it may.
    pub fn rename(&mut self, from: (Inode, &[u8]), to: (Inode, &[u8])) -> bool {
        let Some(inode) = self.lookup(from.0, from.1) else { return false };
        let victim = self.lookup(to.0, to.1);
        let bit = self.is_directory_bit(inode);
        let possible = self.files.get(to.0).links > 0
            && !(bit != 0 && self.files.is_beneath(to.0, inode))
            && victim.is_none_or(|victim| {
                victim != inode
                    && self.files.is_directory(victim) == (bit != 0)
                    && (bit == 0 || self.files.names(victim).is_empty())
            });
        if !possible {
            return false;
        }
        if victim.is_some() {
            self.unlinked(to.0, to.1);
            self.files.names_mut(to.0).remove(to.1);
        }
        self.files.names_mut(from.0).remove(from.1);
        self.files.names_mut(to.0).insert(to.1.into(), inode);
        self.moved(inode, from, to);
        for directory in [from.0, to.0] {
            self.stamp_modified(directory);
        }
        self.stamp_changed(inode);
        self.tell_move(inode, bit, from, to);
        if let Some(victim) = victim {
            self.dropped(victim);
        }
        true
    }

    fn moved(&mut self, inode: Inode, from: (Inode, &[u8]), to: (Inode, &[u8])) {
        if self.files.is_directory(inode) {
            self.files.get_mut(inode).parent = to.0;
        }
        for opened in &mut self.opened {
            let here = opened.inode == inode
                && opened.place.as_ref().is_some_and(|(parent, old)| *parent == from.0 && **old == *from.1);
            if here {
                opened.place = Some((to.0, to.1.into()));
            }
        }
    }

    fn tell_move(&mut self, inode: Inode, bit: u32, from: (Inode, &[u8]), to: (Inode, &[u8])) {
        self.cookie += 1;
        let cookie = self.cookie;
        self.notify(from.0, libc::IN_MOVED_FROM | bit, cookie, from.1);
        self.notify(to.0, libc::IN_MOVED_TO | bit, cookie, to.1);
        if !self.groups.is_empty() {
            let same_process = self.rng.bool();
            for group in &mut self.groups {
                group.push_rename(u64::from(bit), from, to, same_process);
            }
        }
        if bit != 0 {
            self.notify(inode, libc::IN_MOVE_SELF, 0, b"");
        }
    }

    /// renameat2(2) with `RENAME_EXCHANGE`.
    pub fn exchange(&mut self, one: (Inode, &[u8]), two: (Inode, &[u8])) -> bool {
        let (Some(first), Some(second)) = (self.lookup(one.0, one.1), self.lookup(two.0, two.1)) else { return false };
        let circular = |inode: Inode, into: Inode| self.files.is_directory(inode) && self.files.is_beneath(into, inode);
        if first == second || circular(first, two.0) || circular(second, one.0) {
            return false;
        }
        self.files.names_mut(one.0).insert(one.1.into(), second);
        self.files.names_mut(two.0).insert(two.1.into(), first);
        // Both at once: a descriptor must not be moved there and back.
        let opened = std::mem::take(&mut self.opened);
        self.opened = opened.iter().filter(|opened| opened.inode == first).cloned().collect();
        self.moved(first, one, two);
        let moved = std::mem::take(&mut self.opened);
        self.opened = opened.iter().filter(|opened| opened.inode == second).cloned().collect();
        self.moved(second, two, one);
        self.opened.extend(moved);
        self.opened.extend(opened.into_iter().filter(|opened| opened.inode != first && opened.inode != second));
        for directory in [one.0, two.0] {
            self.stamp_modified(directory);
        }
        for inode in [first, second] {
            self.stamp_changed(inode);
        }
        let (first_bit, second_bit) = (self.is_directory_bit(first), self.is_directory_bit(second));
        self.tell_move(first, first_bit, one, two);
        self.tell_move(second, second_bit, two, one);
        true
    }

    pub fn chmod(&mut self, directory: Inode, name: &[u8], mode: u32) -> bool {
        let Some(inode) = self.lookup(directory, name) else { return false };
        if matches!(self.files.get(inode).body, Body::Symlink(_)) {
            return false;
        }
        self.files.get_mut(inode).mode = mode;
        self.attributes(directory, name, inode);
        true
    }

    /// utimensat(2) with both times.
    pub fn set_mtime(&mut self, directory: Inode, name: &[u8], mtime: WallTime) -> bool {
        let Some(inode) = self.lookup(directory, name) else { return false };
        self.files.get_mut(inode).mtime = mtime;
        self.attributes(directory, name, inode);
        true
    }

    fn attributes(&mut self, directory: Inode, name: &[u8], inode: Inode) {
        self.stamp_changed(inode);
        let bit = self.is_directory_bit(inode);
        self.notify(directory, libc::IN_ATTRIB | bit, 0, name);
        if bit != 0 {
            self.notify(inode, libc::IN_ATTRIB | bit, 0, b"");
        }
    }

    /// The root's own mode.
    pub fn chmod_root(&mut self, mode: u32) {
        self.files.get_mut(ROOT).mode = mode;
        self.stamp_changed(ROOT);
        self.notify(ROOT, libc::IN_ATTRIB | libc::IN_ISDIR, 0, b"");
    }
}
