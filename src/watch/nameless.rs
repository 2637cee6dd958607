//! Changes of files of which the kernel knows no name: an NFS server opens files by their handles, and once a file's name was
//! dropped from memory, a write through the handle is told without one. Somebody has to look for the names, by inode number.

use std::collections::BTreeMap;

use super::shard::Shard;
use crate::event::Nameless;
use crate::sys::files::{EntryType, Identity};
use crate::sys::ground::{Ground, Watches as _};
use crate::sys::handle::Handle;

/// What was told of one file without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamelessChange {
    /// Which file.
    pub identity: Identity,
    /// Names that it has.
    pub links: u32,
    /// Content was written.
    pub content: bool,
    /// Nobody writes any more.
    pub closed: bool,
}

/// What one drain told of one of them: whether content was written, and whether it is closed.
type Told = (bool, bool);

/// What one drain told of files without a name, by kind and bytes of their handles.
#[derive(Debug, Default)]
pub(super) struct Handles(BTreeMap<(i32, Box<[u8]>), Told>);

impl Handles {
    pub(super) fn add(&mut self, nameless: Nameless<'_>) {
        let key = (nameless.handle.kind, nameless.handle.bytes.into());
        let (content, closed) = self.0.entry(key).or_default();
        *content |= nameless.content;
        // A write after a close is not closed.
        *closed = if nameless.content { nameless.closed } else { *closed };
    }
}

impl<G: Ground> Shard<G> {
    /// Looks at the files that were told without a name. What does not exist any more had its event by name. Returns false when
    /// that could not be done, so that something is lost.
    pub(super) fn look_at_nameless(&mut self) -> bool {
        let mut all = true;
        for ((kind, bytes), (content, closed)) in std::mem::take(&mut self.handles.0) {
            match self.watches.status_of_handle(Handle { kind, bytes: &bytes }) {
                Ok(Some(status)) if status.entry_type != EntryType::Directory => {
                    let (identity, links) = (status.identity, status.links);
                    self.nameless.push(NamelessChange { identity, links, content, closed });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(root = self.source.name, %error, "cannot look at a file by its handle");
                    all = false;
                }
            }
        }
        all
    }

    /// Files whose names are to be found, since the last call. Whoever takes them holds back the watermark until their marks are
    /// made ([`super::Source::unsettled_up`]).
    pub fn nameless(&mut self) -> Vec<NamelessChange> {
        std::mem::take(&mut self.nameless)
    }
}
