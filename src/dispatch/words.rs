//! What rsync said last of each path that failed.

use std::collections::BTreeMap;

use crate::path::RelPath;

/// Bytes kept of what was said of one path.
const BYTES_MAX: usize = 200;

/// Paths whose words are kept. Why 10,000: more than anyone reads; with names and words some 4 MB at the most usual.
const PATHS_MAX: usize = 10_000;

/// Kept words before they are looked through for paths that failed no longer. Unit: paths.
const LOOK: usize = 100;

/// The words. One of a path that was sent by another mark stays until the next look.
#[derive(Debug)]
pub(super) struct Words {
    said: BTreeMap<RelPath, Box<str>>,
    look: usize,
}

impl Words {
    pub(super) fn new() -> Self {
        Self { said: BTreeMap::new(), look: LOOK }
    }

    /// Keeps the start of `words`; nothing of further paths when very many fail.
    pub(super) fn keep(&mut self, path: &RelPath, words: &str) {
        if self.said.len() < PATHS_MAX || self.said.contains_key(path) {
            self.said.insert(path.clone(), words[..words.floor_char_boundary(BYTES_MAX)].into());
        }
    }

    pub(super) fn forget(&mut self, path: &RelPath) {
        self.said.remove(path);
    }

    /// Now and then drops those whose path has not `failed`.
    pub(super) fn look(&mut self, failed: impl Fn(&RelPath) -> bool) {
        if self.said.len() >= self.look {
            self.said.retain(|path, _| failed(path));
            self.look = self.said.len() * 2 + LOOK;
        }
    }

    pub(super) fn of(&self, path: &RelPath) -> Option<&str> {
        self.said.get(path).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: usize) -> RelPath {
        RelPath::parse(format!("p{number}").as_bytes()).unwrap()
    }

    #[test]
    fn words_are_cut_counted_and_forgotten() {
        let mut words = Words::new();
        words.keep(&path(0), &"é".repeat(150));
        assert_eq!(words.of(&path(0)).map(str::len), Some(BYTES_MAX));
        words.keep(&path(0), "newer");
        assert_eq!(words.of(&path(0)), Some("newer"));
        words.forget(&path(0));
        assert_eq!(words.of(&path(0)), None);
        for number in 0..PATHS_MAX + 10 {
            words.keep(&path(number), "x");
        }
        assert_eq!((words.said.len(), words.of(&path(PATHS_MAX))), (PATHS_MAX, None));
        words.look(|failed| *failed == path(3));
        assert_eq!((words.said.len(), words.of(&path(3))), (1, Some("x")));
    }
}
