//! What the checkpoint holds, and what a rescan finds, covers every difference there is at a crash.

use std::collections::{BTreeMap, BTreeSet};

use fansync::change::{Content, Mark, MarkKind, SavedMark};
use fansync::checkpoint::RootRecord;
use fansync::path::RelPath;
use fansync::rescan::{self, Scope};
use fansync::watch::Source;

use super::super::files::Inode;
use super::super::machine::Machine;
use super::super::target::{Kind, Target, Thing};

/// A way to find a difference.
struct Cover {
    path: RelPath,
    kind: MarkKind,
    content: Content,
    /// It was under way: what its receiver may have left behind is looked for.
    sent: bool,
    /// It stands for a write that was told by one name of the file: the look at that name finds the others, which are sent
    /// too.
    spreads: bool,
}

impl Cover {
    fn of_mark(mark: Mark) -> Self {
        let spreads = Self::spreads(mark.kind, mark.content, mark.derived);
        Self { path: mark.path, kind: mark.kind, content: mark.content, sent: false, spreads }
    }

    fn of_saved(mark: &SavedMark) -> Self {
        let spreads = Self::spreads(mark.kind, mark.content, mark.derived);
        Self { path: mark.path.clone(), kind: mark.kind, content: mark.content, sent: mark.sent, spreads }
    }

    fn spreads(kind: MarkKind, content: Content, derived: bool) -> bool {
        kind == MarkKind::Point && content != Content::Compare && !derived
    }

    /// Whether this mark leads to `path` being sent. `listed`: a comparison by names, sizes and times shows it.
    fn reaches(&self, path: &RelPath, listed: bool, thing: Option<&Thing>) -> bool {
        let reaches = match self.kind {
            MarkKind::Subtree => path.is_within(&self.path),
            MarkKind::Listing => path == &self.path || path.parent().as_ref() == Some(&self.path),
            MarkKind::Point => {
                // The delete of a directory takes what lies beneath; and the topmost that is missing is found from below.
                path == &self.path || (thing.is_none() && (path.is_within(&self.path) || self.path.is_within(path)))
            }
            MarkKind::Attributes => path == &self.path,
        };
        let litter = self.sent && thing.is_none() && path.parent() == self.path.parent();
        (reaches || litter) && (listed || self.content != Content::Compare)
    }
}

/// The topmost of `path` and what lies above it that is no directory of the source.
fn topmost_missing(source: &Source<Machine>, path: &RelPath) -> RelPath {
    let state = source.root.lock();
    let mut at = RelPath::root();
    for name in path.components() {
        at = at.join(name);
        if !state.files.resolve(&at).is_ok_and(|inode| state.files.is_directory(inode)) {
            break;
        }
    }
    at
}

/// Checks the state of one target at a crash. `marks` are those of the checkpoint; `unseen` is what no comparison by size
/// and mtime could see when the target was compared, with its content.
pub fn check(
    source: &Source<Machine>,
    record: &RootRecord,
    marks: &[SavedMark],
    target: &Target,
    unseen: &BTreeMap<RelPath, u64>,
) {
    let Some(watermark) = record.watermark else { return };
    let mut covers: Vec<Cover> = marks.iter().map(Cover::of_saved).collect();
    let since = watermark.minus(source.slack);
    let scope = Scope { path: RelPath::root(), recursive: true, since, known: false };
    rescan::pass(source, &[scope], |mark| covers.push(Cover::of_mark(mark)), |_| ());
    let (differences, inodes) = {
        let files = &source.root.lock().files;
        (target.differences(files), files.everything())
    };
    let spread: BTreeSet<Inode> =
        covers.iter().filter(|cover| cover.spreads).filter_map(|cover| inodes.get(&cover.path).copied()).collect();
    for (path, here, there) in differences {
        let directories = [&here, &there].into_iter().flatten().all(|thing| thing.kind == Kind::Directory);
        if here.is_some() && there.is_some() && directories {
            // Times and modes of directories follow what happens in them.
            continue;
        }
        let same_look = match (&here, &there) {
            (
                Some(Thing { kind: Kind::File { size: one, content }, mtime: first, .. }),
                Some(Thing { kind: Kind::File { size: two, content: other }, mtime: second, .. }),
            ) => {
                if unseen.get(&path) == Some(content) {
                    continue;
                }
                one == two && first == second && content != other
            }
            _ => false,
        };
        // Whatever deletes the topmost directory that is gone deletes all beneath.
        let gone = if here.is_none() { topmost_missing(source, &path) } else { path.clone() };
        let by_name = inodes.get(&path).is_some_and(|inode| spread.contains(inode));
        let covered = by_name
            || covers.iter().any(|cover| {
                cover.reaches(&path, !same_look, here.as_ref()) || cover.reaches(&gone, !same_look, here.as_ref())
            });
        assert!(
            covered,
            "durable: nothing in the checkpoint (up to {watermark:?}) leads to {path}: {here:?}, {there:?}; marks \
             {marks:?}"
        );
    }
}
