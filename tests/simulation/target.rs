//! The model target: what a tree holds at each path, and what each path was last told.

use std::collections::BTreeMap;

use fansync::path::RelPath;
use fansync::sys::clock::WallTime;

use super::files::{Body, Files, Inode};

/// What is at a path.
#[derive(Clone, PartialEq, Eq)]
pub struct Thing {
    pub kind: Kind,
    pub mode: u32,
    pub mtime: WallTime,
}

impl std::fmt::Debug for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:o} {:.3}", self.kind, self.mode, (self.mtime.0 % 1_000_000_000_000) as f64 / 1e9)
    }
}

/// Its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File { content: u64, size: u64 },
    Symlink(u64),
}

impl Thing {
    /// As the source has it. A symlink's own mode and times are not compared.
    pub fn of(files: &Files, inode: Inode) -> Self {
        let node = files.get(inode);
        let kind = match node.body {
            Body::File { content, size } => Kind::File { content, size },
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(text) => Kind::Symlink(text),
        };
        match kind {
            Kind::Symlink(_) => Self { kind, mode: 0, mtime: WallTime(0) },
            kind => Self { kind, mode: node.mode, mtime: node.mtime },
        }
    }
}

/// A target.
#[derive(Debug, Default)]
pub struct Target {
    pub things: BTreeMap<RelPath, Thing>,
    /// When what was last done at a path had been looked at in the source, and the run that did it; of attributes nothing is
    /// remembered.
    pub told: BTreeMap<RelPath, (u64, u64)>,
    /// How many runs began, and the one at work.
    pub runs: u64,
    pub run: u64,
    /// Work of a run on a path that rested on an older look than what another one had done there before.
    pub overtaken: Vec<RelPath>,
    /// Files that were linked instead of sent.
    pub linked: u64,
}

impl Target {
    pub fn new() -> Self {
        let mut target = Self::default();
        let root = Thing { kind: Kind::Directory, mode: 0o700, mtime: WallTime(0) };
        target.things.insert(RelPath::root(), root);
        target
    }

    pub fn is_directory(&self, path: &RelPath) -> bool {
        self.things.get(path).is_some_and(|thing| thing.kind == Kind::Directory)
    }

    /// Names in a directory.
    pub fn names(&self, directory: &RelPath) -> Vec<RelPath> {
        self.things.keys().filter(|path| path.parent().as_ref() == Some(directory)).cloned().collect()
    }

    /// Something was done at `path` that rests on a look at this moment.
    ///
    /// What a run does after its own work is not held against it: a name that vanishes while rsync makes its list may be in
    /// there twice, as what is missing and as its directory had it before. Then it is deleted and made. The event of its
    /// going comes after the run began, so it is sent again.
    pub fn tell(&mut self, path: &RelPath, looked: u64) {
        let now = (looked, self.run);
        let (before, by) = self.told.insert(path.clone(), now).unwrap_or(now);
        if before > looked && by != self.run {
            self.overtaken.push(path.clone());
        }
    }

    /// Removes what is at `path`, which is there, and beneath.
    pub fn remove(&mut self, path: &RelPath, looked: Option<u64>, now: WallTime) {
        let doomed: Vec<RelPath> = self.things.keys().filter(|other| other.is_within(path)).cloned().collect();
        for path in doomed {
            self.things.remove(&path);
            if let Some(looked) = looked {
                self.tell(&path, looked);
            }
        }
        self.touch_parent(path, now);
    }

    /// Puts something at `path`; false when its directory is not there.
    pub fn put(&mut self, path: &RelPath, thing: Thing, looked: u64, now: WallTime) -> bool {
        if !path.parent().is_none_or(|parent| self.is_directory(&parent)) {
            return false;
        }
        self.things.insert(path.clone(), thing);
        self.tell(path, looked);
        self.touch_parent(path, now);
        true
    }

    /// The names of a directory changed, and so its mtime.
    pub fn touch_parent(&mut self, path: &RelPath, now: WallTime) {
        if let Some(parent) = path.parent().and_then(|parent| self.things.get_mut(&parent)) {
            parent.mtime = now;
        }
    }

    /// Where the target differs from the source.
    pub fn differences(&self, files: &Files) -> Vec<(RelPath, Option<Thing>, Option<Thing>)> {
        let source = files.everything();
        let mut paths: Vec<&RelPath> = source.keys().chain(self.things.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
            .into_iter()
            .filter_map(|path| {
                let here = source.get(path).map(|inode| Thing::of(files, *inode));
                let there = self.things.get(path).cloned();
                (here != there).then(|| (path.clone(), here, there))
            })
            .collect()
    }

    /// Files that look as in the source and have other content, with what the source has.
    pub fn unseen(&self, files: &Files) -> BTreeMap<RelPath, u64> {
        self.differences(files)
            .into_iter()
            .filter_map(|(path, here, there)| {
                let (Kind::File { content, size }, mtime) = here.map(|here| (here.kind, here.mtime))? else {
                    return None;
                };
                let there = there?;
                let same = matches!(there.kind, Kind::File { size: long, .. } if long == size) && there.mtime == mtime;
                same.then_some((path, content))
            })
            .collect()
    }
}
