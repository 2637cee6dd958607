//! Marks of one target whose deletes are held until somebody approves them. Pure.
//!
//! Invariant: a mark stays until it is released; more than [`HELD_MAX`] are widened, and lose nothing by it: what a wider
//! mark compares contains what the narrower ones did.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::change::{Content, Deletes, HeldMark, Mark, MarkKind, Now, Priority, SavedMark};
use crate::path::RelPath;

/// Marks that are held before they widen. Unit: marks. Why 200,000: as many as a backlog.
const HELD_MAX: usize = 200_000;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    kind: MarkKind,
    /// Its first event.
    first: Instant,
    /// Names that it would delete, as far as is known; at least one.
    deletes: u64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct HeldDeletes {
    marks: BTreeMap<RelPath, Held>,
    max: usize,
    /// Since when the oldest is held.
    since: Option<Instant>,
    /// Changed since the last look ([`Self::take_changed`]).
    changed: bool,
}

impl HeldDeletes {
    pub(super) fn new() -> Self {
        Self { marks: BTreeMap::new(), max: HELD_MAX, since: None, changed: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Marks.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Names that would be deleted, as far as is known.
    pub(super) fn deletes(&self) -> u64 {
        self.marks.values().map(|held| held.deletes).fold(0, u64::saturating_add)
    }

    /// Since when something is held.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The paths, in order.
    pub(super) fn paths(&self) -> impl Iterator<Item = &RelPath> {
        self.marks.keys()
    }

    /// Holds a mark that would delete so many names.
    pub(super) fn hold(&mut self, now: Instant, mark: HeldMark, deletes: u64) {
        self.since.get_or_insert(now);
        self.changed = true;
        self.add(mark, deletes.max(1));
        if self.marks.len() > self.max {
            self.widen();
        }
    }

    fn add(&mut self, mark: HeldMark, deletes: u64) {
        let new = Held { kind: mark.kind, first: mark.first, deletes };
        self.marks
            .entry(mark.path)
            .and_modify(|held| {
                held.kind = held.kind.max(new.kind);
                held.first = held.first.min(new.first);
                held.deletes = held.deletes.max(new.deletes);
            })
            .or_insert(new);
    }

    /// Whether deletes at, above or beneath what a mark of `kind` at `path` compares are held.
    pub(super) fn concerns(&self, path: &RelPath, kind: MarkKind) -> bool {
        if self.marks.is_empty() {
            return false;
        }
        let mut distance = 0;
        let mut at = Some(path.clone());
        while let Some(here) = at {
            if let Some(held) = self.marks.get(&here) {
                let reaches = match held.kind {
                    MarkKind::Subtree => true,
                    MarkKind::Listing => distance <= 1,
                    // What was there is to be deleted with all beneath it.
                    MarkKind::Point => true,
                    MarkKind::Attributes => distance == 0,
                };
                if reaches {
                    return true;
                }
            }
            distance += 1;
            at = here.parent();
        }
        let beneath = self.beneath(path);
        match kind {
            MarkKind::Attributes => false,
            MarkKind::Listing => beneath.into_iter().any(|(held, _)| held.parent().as_ref() == Some(path)),
            MarkKind::Point | MarkKind::Subtree => beneath.into_iter().next().is_some(),
        }
    }

    /// Strictly beneath `path`.
    fn beneath<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = (&'a RelPath, &'a Held)> {
        // In order of bytes, names like `a-b` stand between `a` and `a/b`, so the run is cut by prefix, not by component.
        self.marks
            .range::<RelPath, _>(path..)
            .take_while(|(other, _)| other.as_bytes().starts_with(path.as_bytes()))
            .filter(move |(other, _)| *other != path && other.is_within(path))
    }

    /// Whether the exact path is held.
    pub(super) fn contains(&self, path: &RelPath) -> bool {
        self.marks.contains_key(path)
    }

    /// Those whose first event was at `until` or before.
    pub(super) fn of_before(&self, until: Instant) -> impl Iterator<Item = &RelPath> {
        self.marks.iter().filter(move |(_, held)| held.first <= until).map(|(path, _)| path)
    }

    /// Lets everything go, as marks that may delete, each with its first event.
    pub(super) fn release(&mut self) -> Vec<(Mark, Instant)> {
        if self.marks.is_empty() {
            return Vec::new();
        }
        self.since = None;
        self.changed = true;
        let marks = std::mem::take(&mut self.marks);
        marks.into_iter().map(|(path, held)| (approved(path, held.kind), held.first)).collect()
    }

    /// When everything is to be let go, if it is after so long.
    pub(super) fn release_at(&self, after: Option<Duration>) -> Option<Instant> {
        Some(self.since? + after?)
    }

    /// Whether something changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether [`Self::take_changed`] would say so.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// For a checkpoint; the number of names goes as the number of attempts, which a held mark has none of.
    pub(super) fn saved(&self, now: Now) -> Vec<SavedMark> {
        let saved = |(path, held): (&RelPath, &Held)| SavedMark {
            path: path.clone(),
            kind: held.kind,
            content: Content::Compare,
            least: Content::Compare,
            priority: Priority::Live,
            first: now.wall.minus(now.instant.saturating_duration_since(held.first)),
            attempts: u32::try_from(held.deletes).unwrap_or(u32::MAX),
            derived: false,
            large: false,
            sent: false,
        };
        self.marks.iter().map(saved).collect()
    }

    /// Takes back what was held when the agent ended.
    pub(super) fn restore(&mut self, now: Instant, marks: &[SavedMark]) {
        for mark in marks {
            let held = HeldMark { path: mark.path.clone(), kind: mark.kind, first: now };
            self.hold(now, held, u64::from(mark.attempts));
        }
    }

    /// Fewer, wider marks: the marks of one directory become its listing or its subtree, level by level from below, until
    /// half of the limit is free.
    fn widen(&mut self) {
        while self.marks.len() > self.max / 2 {
            let depth = |path: &RelPath| path.components().count();
            let deepest = self.marks.keys().map(depth).max().unwrap_or(0);
            if deepest == 0 {
                return;
            }
            let marks = std::mem::take(&mut self.marks);
            for (path, held) in marks {
                let parent = path.parent().filter(|_| depth(&path) == deepest);
                let (path, kind) = match parent {
                    None => (path, held.kind),
                    Some(parent) if held.kind <= MarkKind::Point => (parent, MarkKind::Listing),
                    Some(parent) => (parent, MarkKind::Subtree),
                };
                let known = self.marks.get(&path).map_or(0, |known| known.deletes);
                let deletes = known.saturating_add(held.deletes);
                self.add(HeldMark { path, kind, first: held.first }, deletes);
            }
        }
    }
}

/// A mark that may delete whatever the source lacks.
pub(super) fn approved(path: RelPath, kind: MarkKind) -> Mark {
    let mut mark = Mark::new(path, kind);
    mark.deletes = Deletes::Approved;
    mark.changes_names = false;
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn held(marks: &[(&str, MarkKind)]) -> HeldDeletes {
        let now = crate::sys::clock::now();
        let mut held = HeldDeletes::new();
        for (text, kind) in marks {
            held.hold(now, HeldMark { path: path(text), kind: *kind, first: now }, 3);
        }
        held
    }

    #[test]
    fn what_lies_around_a_held_delete_is_concerned() {
        use MarkKind::{Attributes, Listing, Point, Subtree};
        let check = |held_at: &str, held_kind, at: &str, kind, expected| {
            let held = held(&[(held_at, held_kind)]);
            assert_eq!(held.concerns(&path(at), kind), expected, "{held_kind:?}({held_at}) and {kind:?}({at})");
        };
        check("a/b", Point, "a/b", Point, true);
        check("a/b", Point, "a/b/c", Point, true);
        check("a/b", Point, "a", Listing, true);
        check("a/b", Point, "a", Subtree, true);
        check("a/b", Point, "a", Attributes, false);
        check("a/b", Point, "", Listing, false);
        check("a/b", Point, "", Subtree, true);
        check("a/b", Point, "a/c", Subtree, false);
        check("a/b", Point, "a-b", Subtree, false);
        check("a-b/c", Point, "a", Subtree, false);
        check("a", Listing, "a/b", Point, true);
        check("a", Listing, "a/b/c", Point, false);
        check("a", Subtree, "a/b/c", Listing, true);
        check("a", Attributes, "a/b", Point, false);
    }

    #[test]
    fn what_is_released_may_delete_and_is_held_no_longer() {
        let mut held = held(&[("a", MarkKind::Point), ("b", MarkKind::Subtree)]);
        assert_eq!((held.len(), held.deletes()), (2, 6));
        let after = Some(Duration::from_secs(1));
        assert_eq!(held.release_at(after), held.since().map(|since| since + Duration::from_secs(1)));
        assert_eq!(held.release_at(None), None);
        let marks = held.release();
        assert!(marks.iter().all(|mark| mark.0.deletes == Deletes::Approved));
        let paths: Vec<String> = marks.iter().map(|mark| mark.0.path.to_string()).collect();
        assert_eq!(paths, ["a", "b"]);
        assert!(held.is_empty() && held.since().is_none() && held.release_at(after).is_none());
    }

    #[test]
    fn too_many_are_widened_and_every_one_is_still_covered() {
        let now = crate::sys::clock::now();
        let mut held = HeldDeletes::new();
        held.max = 100;
        let paths: Vec<RelPath> = (0..1_000).map(|number| path(&format!("a/{}/{number}", number % 37))).collect();
        for path in &paths {
            held.hold(now, HeldMark { path: path.clone(), kind: MarkKind::Point, first: now }, 1);
        }
        assert!(held.len() <= 100, "{}", held.len());
        assert!(paths.iter().all(|path| held.concerns(path, MarkKind::Point)));
        assert_eq!(held.deletes(), 1_000);
    }

    #[test]
    fn what_is_saved_comes_back_as_it_was() {
        let now = Now { instant: crate::sys::clock::now(), wall: crate::sys::clock::coarse_now() };
        let before = held(&[("a", MarkKind::Point), ("b/c", MarkKind::Subtree)]);
        let mut after = HeldDeletes::new();
        after.restore(now.instant, &before.saved(now));
        let of = |held: &HeldDeletes| -> Vec<_> {
            held.marks.iter().map(|(path, held)| (path.clone(), held.kind, held.deletes)).collect()
        };
        assert_eq!(of(&before), of(&after));
    }
}
