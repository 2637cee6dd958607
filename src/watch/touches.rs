//! Coalescing within one drain: many events on one name become one mark. Pure.

use std::collections::HashMap;

use crate::change::{Content, Deletes, Mark, MarkKind, Stage};
use crate::event::EventKind;
use crate::path::RelPath;
use crate::tree::DirectoryId;

/// What a drain said of one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Touch {
    /// The inode under this name may be another one, or its content was written.
    content: bool,
    /// The name came or went.
    names: bool,
    /// The last event that tells says that somebody may be writing.
    writing: bool,
    /// Some event told whether somebody is writing.
    told: bool,
    /// It was created and no close was seen: a link, a symlink or a node is complete all the same.
    created: bool,
}

impl Touch {
    /// One more event.
    pub(super) fn note(&mut self, kind: EventKind) {
        match kind {
            EventKind::Created => {
                *self = Self { content: true, names: true, writing: true, told: true, created: true };
            }
            EventKind::Modified => {
                (self.content, self.writing, self.told) = (true, true, true);
            }
            EventKind::Closed => {
                (self.content, self.writing, self.told, self.created) = (true, false, true, false);
            }
            EventKind::MovedTo => {
                *self = Self { content: true, names: true, writing: false, told: true, created: false };
            }
            EventKind::Deleted | EventKind::MovedFrom => {
                // What was said of the content stays: in an exchange (`RENAME_EXCHANGE`) the newcomer is told before this, and
                // where nothing is left it does not matter.
                *self = Self { names: true, writing: false, told: true, created: false, ..*self };
            }
            EventKind::Attributes
            | EventKind::SelfDeleted
            | EventKind::SelfMoved
            | EventKind::Ignored
            | EventKind::Unmounted => {}
        }
    }

    /// The mark on the name. `is_complete` looks at one that was created but not closed: true for what nobody can be writing.
    pub(super) fn mark(self, path: RelPath, is_complete: impl FnOnce(&RelPath) -> bool) -> Mark {
        let stage = match self {
            Self { told: false, .. } => Stage::Unchanged,
            Self { writing: false, .. } => Stage::Complete,
            Self { created: true, .. } if is_complete(&path) => Stage::Complete,
            Self { .. } => Stage::Writing,
        };
        let content = if self.content { Content::Resend } else { Content::Compare };
        let mut mark = Mark::new(path, MarkKind::Point).content(content).stage(stage);
        (mark.changes_names, mark.deletes) = (self.names, Deletes::Single);
        mark
    }
}

/// The touched names of one drain, in the order of their first event.
#[derive(Debug, Default)]
pub(super) struct Touches {
    index: HashMap<(DirectoryId, Box<[u8]>), usize, foldhash::fast::RandomState>,
    order: Vec<(DirectoryId, Box<[u8]>, Touch)>,
}

impl Touches {
    /// Adds one event about something that is not a directory.
    pub(super) fn add(&mut self, directory: DirectoryId, name: &[u8], kind: EventKind) {
        let at = match self.order.last() {
            // Most events come in runs: create, modify, close of one name.
            Some((last, last_name, _)) if *last == directory && **last_name == *name => self.order.len() - 1,
            _ => {
                let key = (directory, Box::from(name));
                *self.index.entry(key).or_insert_with_key(|key| {
                    self.order.push((key.0, key.1.clone(), Touch::default()));
                    self.order.len() - 1
                })
            }
        };
        self.order[at].2.note(kind);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Turns the names into marks and forgets them. `path` resolves a directory, `None` when it has no path now;
    /// `is_complete` as in [`Touch::mark`].
    pub(super) fn drain(
        &mut self,
        path: impl Fn(DirectoryId) -> Option<RelPath>,
        mut is_complete: impl FnMut(&RelPath) -> bool,
        mut each: impl FnMut(Mark),
    ) {
        self.index.clear();
        let mut parent: Option<(DirectoryId, Option<RelPath>)> = None;
        for (directory, name, touch) in self.order.drain(..) {
            if parent.as_ref().is_none_or(|parent| parent.0 != directory) {
                parent = Some((directory, path(directory)));
            }
            let Some((_, Some(parent))) = &parent else { continue };
            each(touch.mark(parent.join(&name), &mut is_complete));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Directories;

    fn drained(events: &[(&str, EventKind)]) -> Vec<(String, Content, Stage, bool)> {
        let map = Directories::new();
        let mut touches = Touches::default();
        for (name, kind) in events {
            touches.add(map.root(), name.as_bytes(), *kind);
        }
        let mut marks = Vec::new();
        touches.drain(
            |directory| map.path(directory),
            |path| path.as_bytes() == b"link",
            |mark| marks.push((mark.path.to_string(), mark.content, mark.stage, mark.changes_names)),
        );
        assert!(touches.is_empty());
        marks
    }

    #[test]
    fn the_last_word_of_a_name_is_kept() {
        use EventKind::{Attributes, Closed, Created, Deleted, Modified, MovedFrom, MovedTo};
        let check = |kinds: &[EventKind], content, stage, names| {
            let events: Vec<(&str, EventKind)> = kinds.iter().map(|kind| ("a", *kind)).collect();
            assert_eq!(drained(&events), [("a".to_owned(), content, stage, names)], "{kinds:?}");
        };
        check(&[Created, Modified, Closed], Content::Resend, Stage::Complete, true);
        check(&[Created, Modified], Content::Resend, Stage::Writing, true);
        check(&[Modified], Content::Resend, Stage::Writing, false);
        check(&[Modified, Closed, Attributes], Content::Resend, Stage::Complete, false);
        check(&[Attributes], Content::Compare, Stage::Unchanged, false);
        check(&[Deleted], Content::Compare, Stage::Complete, true);
        check(&[Modified, Closed, MovedFrom], Content::Resend, Stage::Complete, true);
        // An exchange of two files; they may have the same size and mtime (simulation, seed 5771 by fanotify).
        check(&[MovedTo, MovedFrom], Content::Resend, Stage::Complete, true);
        check(&[Deleted, Created], Content::Resend, Stage::Writing, true);
        check(&[MovedTo, Attributes], Content::Resend, Stage::Complete, true);
        check(&[Closed, Modified], Content::Resend, Stage::Writing, false);
    }

    #[test]
    fn a_created_link_is_complete_and_interleaved_names_stay_apart() {
        use EventKind::{Closed, Created};
        assert_eq!(
            drained(&[("link", Created), ("b", Created), ("link", EventKind::Attributes), ("b", Closed)]),
            [
                ("link".to_owned(), Content::Resend, Stage::Complete, true),
                ("b".to_owned(), Content::Resend, Stage::Complete, true)
            ]
        );
    }
}
