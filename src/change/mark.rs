//! A mark: "this may differ".

use std::time::Instant;

use crate::path::RelPath;
use crate::sys::clock::WallTime;

/// How much may differ. Each kind contains the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MarkKind {
    /// The directory's own mode, owner or times; nothing inside. Sent lazily, conflicts with nothing beneath.
    Attributes,
    /// This name: content, attributes, type, or that it is gone.
    Point,
    /// The names in this directory, with deletes; subdirectories are not entered.
    Listing,
    /// Everything beneath.
    Subtree,
}

/// How sure size and mtime are, as rsync's quick check compares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Size and mtime tell.
    Compare,
    /// Files whose ctime is at or after this may have new content under an old mtime: they are sent whatever size
    /// and mtime say.
    Since(WallTime),
    /// A write was seen, or everything here is new: sent whatever size and mtime say (`-I`).
    Resend,
}

impl Content {
    /// What satisfies both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Resend, _) | (_, Self::Resend) => Self::Resend,
            (Self::Since(one), Self::Since(two)) => Self::Since(one.min(two)),
            (Self::Since(since), Self::Compare) | (Self::Compare, Self::Since(since)) => Self::Since(since),
            (Self::Compare, Self::Compare) => Self::Compare,
        }
    }

    /// Whether a mark above with this content does all that one beneath with `other` asks for. `Since` does not cover
    /// `Resend`: whether it looks back far enough depends on when the write was seen.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Resend, _) | (_, Self::Compare) => true,
            (Self::Since(mine), Self::Since(theirs)) => mine <= theirs,
            (Self::Since(_), Self::Resend) | (Self::Compare, Self::Since(_) | Self::Resend) => false,
        }
    }
}

/// What a user is waiting for goes before what the agent wants to be sure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A change just made.
    Live,
    /// Cold start, verify, recovery.
    Background,
}

/// How far the change has come, for the settle policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// As far as the kernel told, nobody is writing: closed, renamed, deleted, linked, chmod.
    Complete,
    /// Written to and not closed yet.
    Writing,
    /// Says nothing of writing: a chmod. Complete, unless an older event of the same path said otherwise.
    Unchanged,
    /// Nobody waits for it: attributes of a directory that follow from changes inside it.
    Lazy,
}

/// What a target may lose by a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deletes {
    /// At most the one name: what it stood for was no directory.
    Single,
    /// Nobody knows: a directory may have been there.
    Unknown,
    /// Whatever it is, the operator approved it.
    Approved,
    /// Nothing: deletes around it are held.
    Denied,
    /// So many names that were moved, and are acknowledged where they are now; nobody knows of more.
    Moved(u32),
}

impl Deletes {
    /// Of two marks of one path.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Approved, _) | (_, Self::Approved) => Self::Approved,
            (Self::Single, Self::Single) => Self::Single,
            // Whatever else was said of the name has nothing to do with what was moved.
            (Self::Single | Self::Unknown | Self::Denied | Self::Moved(_), _) => Self::Unknown,
        }
    }
}

/// Where a directory was before it was renamed: a hint, by which the target need not be sent what it has.
///
/// Whoever gives it vouches that the directory is the one that had this name when the queue that tells of it was last
/// known to be empty, that the new name had no directory then, and that what happened in it since is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its name of before.
    pub path: RelPath,
    /// When the queue was last known to be empty: the rename was after that.
    pub since: Instant,
}

/// "This may differ", as a shard, a walker or a worker says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Where.
    pub path: RelPath,
    /// How much.
    pub kind: MarkKind,
    /// How sure size and mtime are.
    pub content: Content,
    /// How urgent.
    pub priority: Priority,
    /// Settle hint.
    pub stage: Stage,
    /// A directory of this name is gone: whatever was marked beneath it is covered by this mark.
    pub gone_directory: bool,
    /// The name appeared or went, so its parent directory's own times changed too.
    pub changes_names: bool,
    /// Made from another name of the same inode; does not spread further.
    pub derived: bool,
    /// Its file is known to be large: the large lane takes it.
    pub large: bool,
    /// What may be deleted for it.
    pub deletes: Deletes,
    /// A directory that was renamed: where it was. Nothing is wrong if this is lost.
    pub origin: Option<Box<Origin>>,
    /// A directory left by rename; the mark of its new name, with an [`Origin`], is on its way.
    pub departs: bool,
}

impl Mark {
    /// A live, complete mark whose content is compared by size and mtime.
    #[must_use]
    pub fn new(path: RelPath, kind: MarkKind) -> Self {
        Self {
            path,
            kind,
            content: Content::Compare,
            priority: Priority::Live,
            stage: Stage::Complete,
            gone_directory: false,
            changes_names: true,
            derived: false,
            large: false,
            // Attributes of a directory delete nothing.
            deletes: if kind == MarkKind::Attributes { Deletes::Single } else { Deletes::Unknown },
            origin: None,
            departs: false,
        }
    }

    /// The same with another content rule.
    #[must_use]
    pub fn content(mut self, content: Content) -> Self {
        self.content = content;
        self
    }

    /// The same with another priority.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The same with another stage.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_joins_and_covers_for_every_pair() {
        let (early, late) = (Content::Since(WallTime(1)), Content::Since(WallTime(2)));
        let check = |older: Content, newer: Content, joined: Content, covers: bool| {
            assert_eq!(older.join(newer), joined, "{older:?} with {newer:?}");
            assert_eq!(older.covers(newer), covers, "{older:?} over {newer:?}");
        };
        check(Content::Compare, Content::Compare, Content::Compare, true);
        check(Content::Compare, early, early, false);
        check(Content::Compare, Content::Resend, Content::Resend, false);
        check(early, Content::Compare, early, true);
        check(early, late, early, true);
        check(late, early, early, false);
        check(early, Content::Resend, Content::Resend, false);
        check(Content::Resend, Content::Compare, Content::Resend, true);
        check(Content::Resend, early, Content::Resend, true);
        check(Content::Resend, Content::Resend, Content::Resend, true);
    }
}
