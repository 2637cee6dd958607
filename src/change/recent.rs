//! Which paths were sent lately: whether a target's state at a path is still that of an earlier moment. Pure.
//!
//! Invariant: what is not remembered counts as touched.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::path::RelPath;

/// How far back it remembers. Unit: time. Why 5 s: an idle shard looks at its queue once a second.
const SPAN: Duration = Duration::from_secs(5);

/// Paths of one batch that are remembered; a larger one is remembered as having touched everything.
const BATCH_MAX: usize = 256;

/// Paths in all.
const PATHS_MAX: usize = 8_192;

/// The batches that ended lately.
#[derive(Debug, Default)]
pub(super) struct Recent {
    batches: VecDeque<(Instant, Vec<RelPath>)>,
    paths: usize,
    /// Of what ended at this moment or before nothing is known.
    forgotten: Option<Instant>,
}

impl Recent {
    /// A batch with these paths ended.
    pub(super) fn ended(&mut self, now: Instant, paths: impl ExactSizeIterator<Item = RelPath>) {
        if paths.len() > BATCH_MAX {
            self.batches.clear();
            (self.paths, self.forgotten) = (0, Some(now));
            return;
        }
        self.paths += paths.len();
        self.batches.push_back((now, paths.collect()));
        let old = |ended: &(Instant, Vec<RelPath>)| now.saturating_duration_since(ended.0) > SPAN;
        while self.paths > PATHS_MAX || self.batches.front().is_some_and(old) {
            let Some((at, paths)) = self.batches.pop_front() else { return };
            self.paths -= paths.len();
            self.forgotten = Some(at);
        }
    }

    /// Whether no batch that ended at `since` or later touched anything at, above or beneath `path`.
    pub(super) fn spared(&self, since: Instant, path: &RelPath) -> bool {
        let touches = |other: &RelPath| other.is_within(path) || path.is_within(other);
        self.forgotten.is_none_or(|forgotten| forgotten < since)
            && !(self.batches.iter().rev())
                .take_while(|(at, _)| *at >= since)
                .any(|(_, paths)| paths.iter().any(touches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_was_touched_since_is_told_and_so_is_what_is_forgotten() {
        let start = crate::sys::clock::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut recent = Recent::default();
        assert!(recent.spared(start, &path("a")));
        recent.ended(at(10), [path("a/b"), path("c")].into_iter());
        recent.ended(at(20), [path("d")].into_iter());
        for (name, since, spared) in [
            ("a/b", 10, false),
            ("a/b", 11, true),
            ("a", 5, false),
            ("a/b/e", 5, false),
            ("a/c", 5, true),
            ("", 15, false),
            ("d", 20, false),
            ("e", 0, true),
        ] {
            assert_eq!(recent.spared(at(since), &path(name)), spared, "{name} since {since}");
        }
        // The old ones are forgotten, and nobody knows any more what they touched.
        recent.ended(at(20) + SPAN, std::iter::empty());
        assert!(!recent.spared(at(10), &path("e")) && recent.spared(at(11), &path("e")));
        recent.ended(at(6_000), vec![path("x"); BATCH_MAX + 1].into_iter());
        assert!(!recent.spared(at(6_000), &path("e")) && recent.spared(at(6_001), &path("e")));
    }

    #[test]
    fn many_paths_are_forgotten_before_their_time() {
        let start = crate::sys::clock::now();
        let mut recent = Recent::default();
        for _batch in 0..100 {
            recent.ended(start, vec![path("x"); BATCH_MAX].into_iter());
        }
        assert!(recent.paths <= PATHS_MAX);
        assert!(!recent.spared(start, &path("e")));
    }
}
