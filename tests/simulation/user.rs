//! The programs that change the tree, one operation at a time, whenever the agent is between two system calls.

use std::time::Duration;

use super::files::{Body, Inode, OUTSIDE, ROOT};
use super::machine::State;

/// Sizes: often the same, so that only content and stamps differ; the last one is large (see the agent).
const SIZES: [u64; 6] = [0, 1, 7, 7, 7, 100];

/// Few names, so that they meet.
const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"a-b", b"d"];

/// How busy they are.
#[derive(Debug, Clone, Copy)]
pub struct User {
    /// Operations that are left.
    pub left: u32,
    /// Of 1000 system calls of the agent, so many are preceded by an operation.
    pub permille: u32,
    /// The longest write.
    pub write_max: Duration,
    /// Files may have several names.
    pub links: bool,
}

impl User {
    pub fn interrupts(&self, rng: &mut fastrand::Rng) -> bool {
        self.left > 0 && rng.u32(..1000) < self.permille
    }
}

/// Does one operation.
pub fn act(state: &mut State) {
    if state.user.left == 0 {
        return;
    }
    state.user.left -= 1;
    state.moment += 1;
    let directory = directory(state, ROOT);
    let name = NAMES[state.rng.usize(..NAMES.len())];
    let size = SIZES[state.rng.usize(..SIZES.len())];
    match state.rng.u32(..100) {
        0..=13 => create(state, directory, name, size),
        14..=27 => rewrite(state, size),
        28..=31 => rewrite_unseen(state),
        32..=36 => slow_write(state),
        37..=46 => {
            if let Some((directory, name)) = entry(state, ROOT) {
                let done = state.remove(directory, &name);
                state.say(|| format!("remove {}: {done}", state.name_of(directory, &name)));
            }
        }
        47..=52 => {
            state.mkdir(directory, name);
            state.say(|| format!("mkdir {}", state.name_of(directory, name)));
        }
        53..=57 => grow(state, directory, name),
        58..=69 => rename(state, directory, name),
        70..=72 => exchange(state),
        73..=75 => move_out(state, name),
        76..=79 => move_in(state, directory, name),
        80..=83 => {
            if let Some((directory, name)) = entry(state, ROOT) {
                state.say(|| format!("rm -r {}", state.name_of(directory, &name)));
                remove_tree(state, directory, &name);
            }
        }
        84..=87 => flip(state, size),
        88..=90 => attributes(state),
        91..=92 => {
            state.symlink(directory, name);
            state.say(|| format!("symlink {}", state.name_of(directory, name)));
        }
        93..=94 if state.user.links => link(state, directory, name),
        95 => {
            let mode = mode(state);
            state.chmod_root(mode);
            state.say(|| format!("chmod {mode:o} ."));
        }
        _ => create(state, directory, name, size),
    }
}

/// A directory at or beneath `top`.
fn directory(state: &mut State, top: Inode) -> Inode {
    let mut at = top;
    loop {
        let inner: Vec<Inode> =
            state.files.names(at).values().copied().filter(|inode| state.files.is_directory(*inode)).collect();
        if inner.is_empty() || state.rng.u32(..10) < 4 {
            return at;
        }
        at = inner[state.rng.usize(..inner.len())];
    }
}

/// A name beneath `top`.
fn entry(state: &mut State, top: Inode) -> Option<(Inode, Box<[u8]>)> {
    let directory = directory(state, top);
    let count = state.files.names(directory).len();
    let at = if count == 0 { return None } else { state.rng.usize(..count) };
    let name = state.files.names(directory).keys().nth(at)?.clone();
    Some((directory, name))
}

/// The name of a file beneath the root.
fn file(state: &mut State) -> Option<(Inode, Box<[u8]>)> {
    (0..4).find_map(|_attempt| {
        let (directory, name) = entry(state, ROOT)?;
        let inode = state.lookup(directory, &name)?;
        matches!(state.files.get(inode).body, Body::File { .. }).then_some((directory, name))
    })
}

fn create(state: &mut State, directory: Inode, name: &[u8], size: u64) {
    if state.create_file(directory, name).is_some() {
        if size > 0 {
            state.write(directory, name, size);
        }
        state.close_write(directory, name);
        state.say(|| format!("create {} with {size} bytes", state.name_of(directory, name)));
    }
}

fn rewrite(state: &mut State, size: u64) {
    let Some((directory, name)) = file(state) else { return };
    state.write(directory, &name, size);
    // Some programs keep it open.
    if state.rng.u32(..4) > 0 {
        state.close_write(directory, &name);
    }
    state.say(|| format!("write {size} bytes to {}", state.name_of(directory, &name)));
}

/// Other bytes, the same size, and the old mtime put back.
fn rewrite_unseen(state: &mut State) {
    let Some((directory, name)) = file(state) else { return };
    let Some(inode) = state.lookup(directory, &name) else { return };
    let node = state.files.get(inode);
    let (Body::File { size, .. }, mtime) = (node.body.clone(), node.mtime) else { return };
    state.write(directory, &name, size);
    state.close_write(directory, &name);
    state.set_mtime(directory, &name, mtime);
    state.say(|| format!("rewrite {} and put its mtime back", state.name_of(directory, &name)));
}

fn slow_write(state: &mut State) {
    let Some((directory, name)) = file(state) else { return };
    let most = u64::try_from(state.user.write_max.as_millis()).unwrap_or(1).max(1);
    let span = Duration::from_millis(state.rng.u64(..most));
    if state.begin_write(directory, &name, span) {
        state.say(|| format!("a slow write of {} begins, {span:?}", state.name_of(directory, &name)));
    }
}

/// `mkdir -p` and files in it, faster than anybody can watch.
fn grow(state: &mut State, directory: Inode, name: &[u8]) {
    let Some(mut at) = state.mkdir(directory, name) else { return };
    state.say(|| format!("mkdir -p {}/...", state.name_of(directory, name)));
    for _level in 0..state.rng.u32(..3) {
        for _file in 0..state.rng.u32(..3) {
            let (name, size) = (NAMES[state.rng.usize(..NAMES.len())], SIZES[state.rng.usize(..SIZES.len())]);
            create(state, at, name, size);
        }
        let name = NAMES[state.rng.usize(..NAMES.len())];
        match state.mkdir(at, name) {
            Some(deeper) => at = deeper,
            None => return,
        }
        state.say(|| format!("mkdir {}", state.name_of(state.files.get(at).parent, name)));
    }
}

fn rename(state: &mut State, directory: Inode, name: &[u8]) {
    let Some((old, old_name)) = entry(state, ROOT) else { return };
    let from = state.name_of(old, &old_name);
    if state.rename((old, &old_name), (directory, name)) {
        state.say(|| format!("rename {from} to {}", state.name_of(directory, name)));
    }
}

/// A directory gets another name, wherever it is.
pub fn rename_directory(state: &mut State) {
    state.moment += 1;
    for _try in 0..8 {
        let Some((old, old_name)) = entry(state, ROOT) else { return };
        if state.lookup(old, &old_name).is_some_and(|inode| state.files.is_directory(inode)) {
            let to = if state.rng.bool() { old } else { directory(state, ROOT) };
            let name = NAMES[state.rng.usize(..NAMES.len())];
            let from = state.name_of(old, &old_name);
            if state.rename((old, &old_name), (to, name)) {
                state.say(|| format!("rename the directory {from} to {}", state.name_of(to, name)));
                return;
            }
        }
    }
}

fn exchange(state: &mut State) {
    let (Some(one), Some(two)) = (entry(state, ROOT), entry(state, ROOT)) else { return };
    let names = (state.name_of(one.0, &one.1), state.name_of(two.0, &two.1));
    if state.exchange((one.0, &one.1), (two.0, &two.1)) {
        state.say(|| format!("exchange {} and {}", names.0, names.1));
    }
}

fn move_out(state: &mut State, name: &[u8]) {
    let Some((directory, old)) = entry(state, ROOT) else { return };
    let from = state.name_of(directory, &old);
    if state.rename((directory, &old), (OUTSIDE, name)) {
        state.say(|| format!("move {from} out"));
    }
}

fn move_in(state: &mut State, directory: Inode, name: &[u8]) {
    let Some(old) = entry(state, OUTSIDE) else { return };
    if state.rename((old.0, &old.1), (directory, name)) {
        state.say(|| format!("move in {}", state.name_of(directory, name)));
    }
}

fn remove_tree(state: &mut State, directory: Inode, name: &[u8]) {
    let Some(inode) = state.lookup(directory, name) else { return };
    if state.files.is_directory(inode) {
        let names: Vec<Box<[u8]>> = state.files.names(inode).keys().cloned().collect();
        for name in names {
            remove_tree(state, inode, &name);
        }
    }
    state.remove(directory, name);
}

/// A name becomes something else.
fn flip(state: &mut State, size: u64) {
    let Some((directory, name)) = entry(state, ROOT) else { return };
    state.say(|| format!("flip {}", state.name_of(directory, &name)));
    remove_tree(state, directory, &name);
    match state.rng.u32(..3) {
        0 => create(state, directory, &name, size),
        1 => grow(state, directory, &name),
        _ => {
            state.symlink(directory, &name);
        }
    }
}

fn mode(state: &mut State) -> u32 {
    [0o755, 0o750, 0o700, 0o777][state.rng.usize(..4)]
}

fn attributes(state: &mut State) {
    let Some((directory, name)) = entry(state, ROOT) else { return };
    if state.rng.bool() {
        let mode = mode(state);
        state.chmod(directory, &name, mode);
        state.say(|| format!("chmod {mode:o} {}", state.name_of(directory, &name)));
    } else {
        let mtime = state.coarse().minus(Duration::from_secs(state.rng.u64(..1_000)));
        state.set_mtime(directory, &name, mtime);
        state.say(|| format!("set the mtime of {}", state.name_of(directory, &name)));
    }
}

fn link(state: &mut State, directory: Inode, name: &[u8]) {
    let Some((old, old_name)) = file(state) else { return };
    let Some(inode) = state.lookup(old, &old_name) else { return };
    if state.link(inode, directory, name) {
        state.say(|| format!("link {} as {}", state.name_of(old, &old_name), state.name_of(directory, name)));
    }
}

/// What is there before the agent starts, old in the root and outside of it.
pub fn prepare(state: &mut State, operations: u32) {
    let left = std::mem::replace(&mut state.user.left, operations);
    while state.user.left > 0 {
        act(state);
    }
    for name in NAMES {
        if state.rng.bool() {
            grow(state, OUTSIDE, name);
        }
    }
    state.close_all();
    state.user.left = left;
    state.pass(Duration::from_secs(3_600));
}
