//! The tree of `bench scale`: many empty files, since names and directories are the subject, not bytes.
//!
//! Shape: a hundredth to a tenth of the directories are `dNN/sN`, the others are leaves beneath these; files are dealt to
//! the leaves evenly. 1,000,000 files in 111,100 directories are `d00..d99/s0..s9/leaf000..leaf109` with 9 or 10 files each.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::bench::patience::Interrupt;

/// Beside the tree: what it is, written when it is whole.
const MARKER: &str = "fansync-bench-tree.json";

/// The tree itself.
const TREE: &str = "tree";

/// Directories of the second level in each of the first.
const SECOND: usize = 10;

/// How many of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Files.
    pub(super) files: usize,
    /// Directories, without the root.
    pub(super) directories: usize,
}

/// A tree, and whose it is.
#[derive(Debug)]
pub(super) struct Tree {
    /// Its root.
    pub(super) root: PathBuf,
    shape: Shape,
}

impl Shape {
    fn tops(self) -> usize {
        (self.directories / 20).clamp(1, 100)
    }

    fn seconds(self) -> usize {
        self.tops() * SECOND
    }

    fn leaves(self) -> usize {
        self.directories - self.tops() - self.seconds()
    }

    fn second(self, number: usize) -> String {
        format!("d{:02}/s{}", number / SECOND, number % SECOND)
    }

    fn leaf(self, number: usize) -> String {
        format!("{}/leaf{:03}", self.second(number % self.seconds()), number / self.seconds())
    }

    /// The path of a file.
    fn file(self, number: usize) -> String {
        format!("{}/file{}.dat", self.leaf(number % self.leaves()), number / self.leaves())
    }
}

impl Tree {
    /// The tree that `directory` holds if it is one of ours with this shape, or a new one in there if it is empty or missing.
    ///
    /// # Errors
    /// Where something else is in the directory, so that nothing of anybody's is changed.
    pub(super) fn open_or_make(directory: &Path, shape: Shape, interrupt: &Interrupt) -> anyhow::Result<(Self, bool)> {
        let tree = Self { root: directory.join(TREE), shape };
        let marker = directory.join(MARKER);
        match fs::read(&marker) {
            Ok(bytes) => {
                let found: Shape =
                    serde_json::from_slice(&bytes).with_context(|| format!("cannot read {}", marker.display()))?;
                anyhow::ensure!(
                    found == shape,
                    "{} holds a tree of {} files in {} directories: ask for these, or name another --dir",
                    directory.display(),
                    found.files,
                    found.directories
                );
                return Ok((tree, true));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", marker.display())),
        }
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        anyhow::ensure!(
            fs::read_dir(directory)?.next().is_none(),
            "{} is not empty, and is no tree of 'bench scale' (it has no {MARKER}): name an empty or a missing --dir",
            directory.display()
        );
        if let Err(error) = tree.make(interrupt) {
            // All of it is ours, and half of it is of no use.
            let _stays = fs::remove_dir_all(&tree.root);
            return Err(error).with_context(|| format!("cannot make the tree in {}", directory.display()));
        }
        fs::write(&marker, serde_json::to_vec(&shape)?)?;
        Ok((tree, false))
    }

    fn make(&self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let shape = self.shape;
        for second in 0..shape.seconds() {
            fs::create_dir_all(self.root.join(shape.second(second)))?;
        }
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let fill = || -> anyhow::Result<()> {
            loop {
                let leaf = next.fetch_add(1, Ordering::Relaxed);
                if leaf >= shape.leaves() {
                    return Ok(());
                }
                interrupt.check()?;
                fs::create_dir(self.root.join(shape.leaf(leaf)))?;
                for file in (leaf..shape.files).step_by(shape.leaves()) {
                    File::create_new(self.root.join(shape.file(file)))?;
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(fill)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a panic ends the process"))
        })
    }

    /// Some files, the same for the same `seed`, spread over the whole tree.
    pub(super) fn some_files(&self, count: usize, seed: u64) -> Vec<String> {
        let mut rng = fastrand::Rng::with_seed(seed);
        rng.choose_multiple(0..self.shape.files, count).into_iter().map(|number| self.shape.file(number)).collect()
    }

    /// How many directories there are, the root among them.
    pub(super) fn directories(&self) -> usize {
        self.shape.directories + 1
    }

    /// The directories of the first level.
    pub(super) fn tops(&self) -> Vec<PathBuf> {
        (0..self.shape.tops()).map(|top| self.root.join(format!("d{top:02}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(directory: &Path) -> (usize, usize) {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).fold((0, 0), |(files, directories), entry| {
            if entry.file_type().unwrap().is_dir() {
                let (f, d) = count(&entry.path());
                (files + f, directories + d + 1)
            } else {
                (files + 1, directories)
            }
        })
    }

    #[test]
    fn a_tree_has_its_numbers_and_is_taken_again_for_these_only() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("tree of mine");
        let never = Interrupt::never();
        for shape in [Shape { files: 50, directories: 20 }, Shape { files: 7, directories: 333 }] {
            let (tree, reused) = Tree::open_or_make(&place, shape, &never).unwrap();
            assert_eq!((count(&tree.root), reused), ((shape.files, shape.directories), false));
            let (tree, reused) = Tree::open_or_make(&place, shape, &never).unwrap();
            assert!(reused && tree.some_files(5, 1).iter().all(|file| tree.root.join(file).is_file()));
            assert!(tree.tops().iter().all(|top| top.is_dir()));
            let error = Tree::open_or_make(&place, Shape { files: 1, ..shape }, &never).unwrap_err().to_string();
            assert!(error.contains(&format!("{} files", shape.files)), "{error}");
            fs::remove_dir_all(&place).unwrap();
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("precious"), "").unwrap();
        let shape = Shape { files: 10, directories: 20 };
        let error = Tree::open_or_make(scratch.path(), shape, &Interrupt::never()).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}
