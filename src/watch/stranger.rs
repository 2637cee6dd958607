//! Events of directories that the map does not hold. Only a mark on a whole file system gives such: of directories elsewhere, of
//! excluded ones, and of those that the first walk has not come to yet.
//!
//! Where such a directory is now is asked of the kernel, and what its event says is marked by that path. If it is renamed before or
//! after, there is an event of that too, which marks it whole under its new name.

use super::shard::Shard;
use super::touches::Touch;
use super::walk::Reason;
use crate::change::{Content, Mark, MarkKind, Stage};
use crate::event::{Event, EventKind};
use crate::path::RelPath;
use crate::sys::fanotify::Whereabouts;
use crate::sys::files::EntryType;
use crate::sys::ground::{Ground, Watches as _};
use crate::sys::handle::Handle;

impl<G: Ground> Shard<G> {
    /// Places an event by its directory's handle; false when that could not be done, so that the event is lost.
    pub(super) fn on_stranger(&mut self, handle: Handle<'_>, event: Event<'_>) -> bool {
        let path = match self.watches.whereabouts(handle) {
            Ok(Whereabouts::At(path)) => path,
            Ok(Whereabouts::Elsewhere | Whereabouts::Gone) => return true,
            // Nobody can name such a path: the walk left it without a watch, and it is looked through with those.
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => return true,
            Err(error) => {
                tracing::debug!(root = self.source.name, %error, "cannot find a directory by its handle");
                return false;
            }
        };
        if self.source.filter.excludes_within(&path, true) {
            self.watches.reject(handle);
            return true;
        }
        self.on_event_at(&path, event);
        if !self.filling && self.walks.is_empty() && self.suspended.is_empty() {
            self.heal(&path);
        }
        true
    }

    /// What [`Shard::on_event`] does for a directory of the map.
    fn on_event_at(&mut self, directory: &RelPath, event: Event<'_>) {
        let appears = matches!(event.kind, EventKind::Created | EventKind::MovedTo);
        let names = appears || matches!(event.kind, EventKind::Deleted | EventKind::MovedFrom);
        let attributes = |path: RelPath, stage| {
            let mut mark = Mark::new(path, MarkKind::Attributes).stage(stage);
            mark.changes_names = names;
            mark
        };
        if event.name.is_empty() {
            return self.emit(attributes(directory.clone(), Stage::Unchanged));
        }
        let path = directory.join(event.name);
        if self.source.filter.excludes(&path, event.directory) {
            if names {
                self.emit(attributes(directory.clone(), Stage::Lazy));
            }
            return;
        }
        if event.directory {
            let present = self.source.root.glimpse(path.as_bytes());
            let present = present.is_ok_and(|status| status.entry_type == EntryType::Directory);
            let mark = match (names, present) {
                (true, true) => Mark::new(path, MarkKind::Subtree).content(Content::Resend),
                (true, false) => {
                    let mut mark = Mark::new(path, MarkKind::Point);
                    mark.gone_directory = true;
                    mark
                }
                (false, _) => attributes(path, Stage::Unchanged),
            };
            return self.emit(mark);
        }
        let mut touch = Touch::default();
        touch.note(event.kind);
        self.emit(touch.mark(path, |_| false));
    }

    /// The map should hold the directory at `path` and does not: whatever kept the walk from it, it is tried again.
    fn heal(&mut self, path: &RelPath) {
        let mut at = self.map.root();
        let mut place = RelPath::root();
        for name in path.components() {
            place = place.join(name);
            if self.unwatched.contains_key(&place) {
                return;
            }
            let Some(child) = self.map.child(at, name) else {
                self.start_walk(at, name, Reason::Appeared);
                return;
            };
            at = child;
        }
    }
}
