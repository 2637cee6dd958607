//! A fake rsync, one small step at a time: it reads the arguments and the list that the worker would give to a real one,
//! looks at the model source, works on the model target, and says what a real one says (notes/rsync.md 0 to 4, 6).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;

use fansync::path::{RelPath, escaped};
use fansync::sys::clock::WallTime;
use fansync::worker::outcome::Exit;

use super::files::{Body, Inode};
use super::machine::{Machine, State};
use super::target::{Kind, Target, Thing};

/// The descriptor of the root, as the arguments name it.
pub const ROOT_DESCRIPTOR: i32 = 9;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It ends at this step with this code, the receiver cleaning up behind it or not.
    Ends { step: u32, code: i32, litters: bool },
    /// A signal ends it.
    Killed { step: u32 },
    /// It does nothing more; a watchdog stops it.
    Hangs { step: u32 },
    /// The receiver refuses a file at this step.
    Refuses { step: u32 },
    /// The receiver refuses a file at this step, and says so in words that nobody can read.
    Mumbles { step: u32 },
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// The options that matter.
#[derive(Debug, Default)]
struct Options {
    recurse: bool,
    delete: bool,
    missing_args: bool,
    ignore_times: bool,
    root_only: bool,
    size_max: Option<u64>,
    /// The directory that is the source itself, and what the target may have of it under another name (`--link-dest`).
    moved: Option<(RelPath, RelPath)>,
}

/// An entry of the list.
#[derive(Debug, Clone)]
struct Entry {
    path: RelPath,
    contents: bool,
}

/// What the sender's list says of a path.
#[derive(Debug, Clone)]
struct Item {
    thing: Thing,
    looked: u64,
}

#[derive(Debug)]
enum Work {
    Look(Entry),
    List(RelPath),
    /// The list is complete.
    Arrange,
    Delete(RelPath, u64),
    Apply(RelPath),
    /// A file is under way: what was read of it so far.
    Receive {
        path: RelPath,
        inode: Inode,
        content: u64,
    },
    Attributes(RelPath),
}

/// One run.
#[derive(Debug)]
pub struct Rsync {
    options: Options,
    work: VecDeque<Work>,
    list: BTreeMap<RelPath, Item>,
    /// Entries that the source lacks.
    missing: BTreeMap<RelPath, u64>,
    /// Directories whose extras go, and when they were listed.
    contents: BTreeMap<RelPath, u64>,
    reopened: BTreeSet<RelPath>,
    fault: Fault,
    steps: u32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    failed: bool,
    vanished: bool,
    /// The receiver is an rsync that cannot delete what an entry names and the source lacks.
    old_receiver: bool,
    attributes: BTreeSet<RelPath>,
    /// Which run of its target it is, once it began.
    number: Option<u64>,
}

impl Rsync {
    /// `attributes`: entries that are there for the times and modes of directories only. One that vanishes between the
    /// look and the list is deleted with all in it, beside what goes on beneath; its own event makes that good.
    pub fn start(
        arguments: &[OsString],
        list: &[u8],
        fault: Fault,
        old_receiver: bool,
        attributes: BTreeSet<RelPath>,
    ) -> Self {
        let mut options = Options::default();
        for argument in arguments {
            match argument.to_str().expect("arguments of the simulation are plain") {
                "-r" => options.recurse = true,
                "--delete" => options.delete = true,
                "--delete-missing-args" => options.missing_args = true,
                "-I" => options.ignore_times = true,
                "--filter=- /*" => options.root_only = true,
                "--" => break,
                other => {
                    if let Some(size) = other.strip_prefix("--max-size=") {
                        options.size_max = size.parse().ok();
                    }
                    if let Some(basis) = other.strip_prefix("--link-dest=/") {
                        options.moved =
                            Some((source_of_move(arguments), RelPath::parse(basis.as_bytes()).expect("a path")));
                        options.recurse = true;
                    }
                }
            }
        }
        let mut work: VecDeque<Work> = list.split(|byte| *byte == 0).filter_map(read_entry).map(Work::Look).collect();
        if let Some((path, _)) = options.moved.clone() {
            work.push_back(Work::Look(Entry { path, contents: true }));
        }
        work.push_back(Work::Arrange);
        Self {
            options,
            work,
            list: BTreeMap::new(),
            missing: BTreeMap::new(),
            contents: BTreeMap::new(),
            reopened: BTreeSet::new(),
            fault,
            steps: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            failed: false,
            vanished: false,
            old_receiver,
            attributes,
            number: None,
        }
    }

    /// Whether it does nothing more, and never ends.
    pub fn hangs(&self) -> bool {
        matches!(self.fault, Fault::Hangs { step } if self.steps >= step)
    }

    /// The watchdog stops it.
    pub fn stop(&mut self) -> Ended {
        self.end(Exit::Watchdog)
    }

    /// Goes on for a step.
    pub fn step(&mut self, machine: &Machine, target: &mut Target) -> Option<Ended> {
        let mut state = machine.call();
        target.run = *self.number.get_or_insert_with(|| {
            target.runs += 1;
            target.runs
        });
        match self.fault {
            Fault::Ends { step, code, litters } if self.steps >= step => {
                if litters {
                    self.litter(target, &state);
                }
                let words: &[u8] = match code {
                    10 => b"rsync: [Receiver] failed to connect to host (127.0.0.1): Connection refused (111)\n",
                    11 => b"rsync: [receiver] write failed on \"/x\" (in mod): No space left on device (28)\n",
                    12 => b"rsync: [sender] write error: Broken pipe (32)\n",
                    30 => b"rsync: [sender] io timeout after 60 seconds -- exiting\n",
                    _ => b"",
                };
                self.stderr.extend_from_slice(words);
                return Some(self.end(Exit::Code(code)));
            }
            Fault::Killed { step } if self.steps >= step => {
                self.litter(target, &state);
                return Some(self.end(Exit::Signal(9)));
            }
            Fault::Hangs { step } if self.steps >= step => return None,
            _ => {}
        }
        self.steps += 1;
        let Some(work) = self.work.pop_front() else {
            let code = if self.failed {
                23
            } else if self.vanished {
                24
            } else {
                0
            };
            return Some(self.end(Exit::Code(code)));
        };
        match work {
            Work::Look(entry) => {
                if let Some((new, _)) = &self.options.moved
                    && !new.parent().is_some_and(|above| target.is_directory(&above))
                {
                    self.stderr
                        .extend_from_slice(b"rsync: [Receiver] mkdir \"/x\" failed: No such file or directory (2)\n");
                    return Some(self.end(Exit::Code(11)));
                }
                self.look(&mut state, &entry);
            }
            Work::List(directory) => self.list(&mut state, &directory),
            Work::Arrange => {
                if self.old_receiver && self.options.missing_args && !self.missing.is_empty() {
                    self.stderr.extend_from_slice(b"invalid file mode 00 for x [Receiver]\n");
                    return Some(self.end(Exit::Code(2)));
                }
                self.arrange();
            }
            Work::Delete(path, looked) => {
                if target.things.contains_key(&path) {
                    state.say(|| format!("    rsync deletes {path}"));
                    let looked = (!self.attributes.contains(&path)).then_some(looked);
                    target.remove(&path, looked, state.coarse());
                }
            }
            Work::Apply(path) => self.apply(&mut state, target, &path),
            Work::Receive { path, inode, content } => self.receive(&mut state, target, &path, inode, content),
            Work::Attributes(path) => self.attributes(target, &path),
        }
        None
    }

    fn end(&mut self, exit: Exit) -> Ended {
        // A sender that ends half-way closes what it read.
        Ended { exit, stdout: std::mem::take(&mut self.stdout), stderr: std::mem::take(&mut self.stderr) }
    }

    /// Gives up the descriptors of a run that is not finished.
    pub fn close(&mut self, machine: &Machine) {
        for work in self.work.drain(..) {
            if let Work::Receive { inode, .. } = work {
                machine.lock().close(inode);
            }
        }
    }

    /// A receiver that is killed leaves its temporary file.
    fn litter(&self, target: &mut Target, state: &State) {
        let Some(Work::Receive { path, .. }) = self.work.front() else { return };
        let Some((parent, name)) = path.parent().zip(path.name()) else { return };
        let temporary = parent.join(&[b".", name, b".XXXXXX"].concat());
        if target.is_directory(&parent) {
            let thing = Thing { kind: Kind::File { content: 1, size: 1 }, mode: 0o600, mtime: state.coarse() };
            target.things.insert(temporary, thing);
            target.touch_parent(path, state.coarse());
        }
    }

    fn complain(&mut self, words: &str, path: &RelPath, reason: &str) {
        let line = format!("rsync: [sender] {words} \"{}\" failed: {reason}\n", source_name(path));
        self.stderr.extend_from_slice(line.as_bytes());
        self.failed = true;
    }

    fn tell_vanished(&mut self, path: &RelPath) {
        self.stderr.extend_from_slice(format!("file has vanished: \"{}\"\n", source_name(path)).as_bytes());
        self.vanished = true;
    }

    fn take(&mut self, state: &mut State, path: &RelPath, inode: Inode) {
        let item = Item { thing: Thing::of(&state.files, inode), looked: state.moment };
        self.list.entry(path.clone()).or_insert(item);
    }

    fn look(&mut self, state: &mut State, entry: &Entry) {
        let mut above = Vec::new();
        let mut at = entry.path.parent();
        while let Some(parent) = at {
            at = parent.parent();
            above.push(parent);
        }
        // The root is nobody's implied parent, and what is the source itself has none.
        above.pop();
        if self.options.moved.is_some() {
            above.clear();
        }
        for parent in above.iter().rev() {
            match state.files.resolve(parent) {
                Ok(inode) if state.files.is_directory(inode) => self.take(state, parent, inode),
                Ok(inode) if matches!(state.files.get(inode).body, Body::File { .. }) => {
                    return self.complain("link_stat", &entry.path, "Not a directory (20)");
                }
                // A symlink is followed, to nowhere; then it is as if it were gone.
                Ok(_) | Err(_) => {
                    self.tell_vanished(parent);
                    let line =
                        format!("WARNING: parent dir is absent in the file list: {}\n", escaped(parent.as_bytes()));
                    self.stderr.extend_from_slice(line.as_bytes());
                    if self.options.missing_args {
                        self.missing.insert(entry.path.clone(), state.moment);
                    }
                    return;
                }
            }
        }
        let Ok(inode) = state.files.resolve(&entry.path) else {
            if self.options.missing_args {
                self.missing.insert(entry.path.clone(), state.moment);
            } else {
                self.complain("link_stat", &entry.path, "No such file or directory (2)");
            }
            return;
        };
        self.take(state, &entry.path, inode);
        if state.files.is_directory(inode) && (entry.contents || self.options.recurse) && !self.options.root_only {
            self.work.push_front(Work::List(entry.path.clone()));
        }
    }

    fn list(&mut self, state: &mut State, directory: &RelPath) {
        let inode = match state.files.resolve(directory) {
            Ok(inode) if state.files.is_directory(inode) => inode,
            Ok(_) => return self.complain("opendir", directory, "Not a directory (20)"),
            Err(_) => return self.tell_vanished(directory),
        };
        self.contents.insert(directory.clone(), state.moment);
        let names: Vec<(RelPath, Inode)> =
            state.files.names(inode).iter().map(|(name, inode)| (directory.join(name), *inode)).collect();
        for (path, inode) in names {
            self.take(state, &path, inode);
            if self.options.recurse && state.files.is_directory(inode) {
                self.work.push_front(Work::List(path));
            }
        }
    }

    fn arrange(&mut self) {
        for (path, looked) in std::mem::take(&mut self.missing) {
            self.work.push_back(Work::Delete(path, looked));
        }
        if self.failed && self.options.delete {
            // An I/O error of the sender.
            self.stderr.extend_from_slice(b"IO error encountered -- skipping file deletion\n");
            self.contents.clear();
        }
        self.work.extend(self.list.keys().cloned().map(Work::Apply));
        let directories = self.list.iter().filter(|(_, item)| item.thing.kind == Kind::Directory);
        self.work.extend(directories.rev().map(|(path, _)| Work::Attributes(path.clone())));
    }

    fn apply(&mut self, state: &mut State, target: &mut Target, path: &RelPath) {
        let Item { thing, looked } = self.list[path].clone();
        let there = target.things.get(path).cloned();
        let now = state.coarse();
        match thing.kind {
            Kind::Directory => {
                if there.as_ref().is_none_or(|there| there.kind != Kind::Directory) {
                    if there.is_some() {
                        target.remove(path, Some(looked), now);
                    }
                    state.say(|| format!("    rsync makes the directory {path}"));
                    let made = Thing { mtime: now, ..thing };
                    if !target.put(path, made, looked, now) {
                        return self.receiver_complains("recv_generator: mkdir", path, "No such file or directory (2)");
                    }
                }
                if self.options.delete
                    && let Some(listed) = self.contents.get(path).copied()
                {
                    for extra in target.names(path) {
                        if !self.list.contains_key(&extra) {
                            state.say(|| format!("    rsync deletes the extra {extra}"));
                            target.remove(&extra, Some(listed), now);
                        }
                    }
                }
            }
            Kind::Symlink(_) => {
                if there.as_ref().is_some_and(|there| there.kind == thing.kind) {
                    return;
                }
                if there.is_some() {
                    target.remove(path, Some(looked), now);
                }
                state.say(|| format!("    rsync makes the symlink {path}"));
                if !target.put(path, thing, looked, now) {
                    self.receiver_complains("symlink", path, "No such file or directory (2)");
                }
            }
            Kind::File { size, .. } => {
                let same = there.as_ref().is_some_and(|there| {
                    matches!(there.kind, Kind::File { size: long, .. } if long == size) && there.mtime == thing.mtime
                });
                if same && !self.options.ignore_times {
                    if let Some(there) = target.things.get_mut(path) {
                        there.mode = thing.mode;
                    }
                    return;
                }
                if self.options.size_max.is_some_and(|most| size > most) {
                    return;
                }
                if there.is_none()
                    && let Some(basis) = self.basis(target, path, size, thing.mtime)
                {
                    state.say(|| format!("    rsync links {path}: {basis:?}"));
                    target.linked += 1;
                    if !target.put(path, Thing { kind: basis, ..thing }, looked, now) {
                        self.receiver_complains("link", path, "No such file or directory (2)");
                    }
                    return;
                }
                self.open(state, path);
            }
        }
    }

    /// What the target has under the old name of a file that was moved, if it looks the same.
    fn basis(&self, target: &Target, path: &RelPath, size: u64, mtime: WallTime) -> Option<Kind> {
        let (new, old) = self.options.moved.as_ref()?;
        let beneath = path.components().skip(new.components().count());
        let there = target.things.get(&beneath.fold(old.clone(), |at, name| at.join(name)))?;
        let same = matches!(there.kind, Kind::File { size: long, .. } if long == size) && there.mtime == mtime;
        same.then(|| there.kind.clone())
    }

    /// The sender opens a file and reads its first half.
    fn open(&mut self, state: &mut State, path: &RelPath) {
        match state.files.resolve(path) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.tell_vanished(path),
            Err(_) => self.complain("send_files failed to open", path, "Not a directory (20)"),
            Ok(inode) => match state.files.get(inode).body {
                Body::File { content, .. } => {
                    state.files.get_mut(inode).open += 1;
                    self.work.push_front(Work::Receive { path: path.clone(), inode, content });
                }
                Body::Symlink(_) => {
                    let line = format!(
                        "rsync: [sender] send_files failed to open \"{}\": Too many levels of symbolic links (40)\n",
                        source_name(path)
                    );
                    self.stderr.extend_from_slice(line.as_bytes());
                    self.failed = true;
                }
                Body::Directory(_) => {
                    self.stderr.extend_from_slice(
                        format!("rsync: [sender] read errors mapping \"{}\": Is a directory (21)\n", source_name(path))
                            .as_bytes(),
                    );
                    let line =
                        format!("ERROR: {} failed verification -- update discarded.\n", escaped(path.as_bytes()));
                    self.stderr.extend_from_slice(line.as_bytes());
                    self.failed = true;
                }
            },
        }
    }

    /// The second half, and the rename of the temporary file.
    fn receive(&mut self, state: &mut State, target: &mut Target, path: &RelPath, inode: Inode, content: u64) {
        let Body::File { content: now_there, size } = state.files.get(inode).body else { unreachable!("it is a file") };
        state.close(inode);
        let Item { thing, looked } = self.list[path].clone();
        if matches!(self.fault, Fault::Mumbles { step } if self.steps >= step) {
            self.fault = Fault::None;
            self.stderr.extend_from_slice(b"something is wrong somewhere\n");
            self.failed = true;
            return;
        }
        if matches!(self.fault, Fault::Refuses { step } if self.steps >= step) {
            self.fault = Fault::None;
            let temporary = path
                .parent()
                .unwrap_or_else(RelPath::root)
                .join(&[b".", path.name().unwrap_or_default(), b".XXXXXX"].concat());
            return self.receiver_complains("mkstemp", &temporary, "Permission denied (13)");
        }
        if matches!(thing.kind, Kind::File { size: long, .. } if size < long) && self.reopened.insert(path.clone()) {
            // It became shorter: rsync starts again with what is there now.
            let words =
                format!("rsync: [sender] read errors mapping \"{}\": No data available (61)\n", source_name(path));
            self.stderr.extend_from_slice(words.as_bytes());
            self.failed = true;
            return self.open(state, path);
        }
        // What was written meanwhile is torn: neither what was there nor what is there now.
        let content = if content == now_there { content } else { content ^ now_there.rotate_left(32) };
        if target.is_directory(path) {
            target.remove(path, Some(looked), state.coarse());
        }
        state.say(|| format!("    rsync puts {path}: content {content}"));
        let received = Thing { kind: Kind::File { content, size }, ..thing };
        if !target.put(path, received, looked, state.coarse()) {
            self.receiver_complains("mkstemp", path, "No such file or directory (2)");
        }
    }

    fn receiver_complains(&mut self, verb: &str, path: &RelPath, reason: &str) {
        let line = format!("rsync: [receiver] {verb} \"/{}\" (in mod) failed: {reason}\n", escaped(path.as_bytes()));
        self.stderr.extend_from_slice(line.as_bytes());
        self.failed = true;
    }

    fn attributes(&mut self, target: &mut Target, path: &RelPath) {
        let item = &self.list[path];
        if let Some(there) = target.things.get_mut(path)
            && there.kind == Kind::Directory
        {
            (there.mode, there.mtime) = (item.thing.mode, item.thing.mtime);
        }
    }
}

/// The source of a run without a list.
fn source_of_move(arguments: &[OsString]) -> RelPath {
    let prefix = format!("/proc/self/fd/{ROOT_DESCRIPTOR}/");
    let named = |argument: &OsString| argument.to_str()?.strip_prefix(&prefix)?.strip_suffix('/').map(str::to_owned);
    let path = arguments.iter().find_map(named).expect("a run without a list names its directory");
    RelPath::parse(path.as_bytes()).expect("a path")
}

fn source_name(path: &RelPath) -> String {
    format!("/proc/self/fd/{ROOT_DESCRIPTOR}/{}", escaped(path.as_bytes()))
}

fn read_entry(bytes: &[u8]) -> Option<Entry> {
    let path = bytes.strip_prefix(b"/")?;
    let (path, contents) = match path.strip_suffix(b"/") {
        Some(path) => (path, true),
        None => (path, path.is_empty()),
    };
    Some(Entry { path: RelPath::parse(path).expect("the list is well formed"), contents })
}
