//! Kernel bytes to events: the only place that knows masks and packed records (inotify(7)).
//!
//! Invariant: whatever the bytes, decoding ends and never reads outside of the buffer; a record that makes no sense
//! becomes an overflow, because something may have been lost with it.

use super::fanotify::decode_fanotify;
use crate::sys::ground::Backend;
use crate::sys::handle::Handle;
use crate::sys::inotify::Wd;

/// What the kernel said of one name in one watched directory. A hint: the name may differ now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Which directory.
    pub place: Place<'a>,
    /// What happened.
    pub kind: EventKind,
    /// The name is a directory (`IN_ISDIR`).
    pub directory: bool,
    /// The same number in both halves of a rename; 0 otherwise.
    pub cookie: u32,
    /// The name in the directory; empty when the event is about the watched directory itself.
    pub name: &'a [u8],
}

/// How the kernel names a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place<'a> {
    /// By the watch on it: inotify(7).
    Watch(Wd),
    /// By its file handle: fanotify(7).
    Handle(Handle<'a>),
}

/// One kind per event. Where the kernel merges several bits, each becomes an event of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A name appeared: open(O_CREAT), mkdir, link, symlink, mknod.
    Created,
    /// Content changed.
    Modified,
    /// A descriptor that was open for writing is closed.
    Closed,
    /// Mode, owner, times or extended attributes changed.
    Attributes,
    /// A name was unlinked.
    Deleted,
    /// A name left by rename.
    MovedFrom,
    /// A name arrived by rename.
    MovedTo,
    /// The watched directory was removed.
    SelfDeleted,
    /// The watched directory was renamed, somewhere.
    SelfMoved,
    /// The watch ended; no more events for it.
    Ignored,
    /// The watched directory's file system was unmounted.
    Unmounted,
}

/// A change of an inode that has no name at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nameless<'a> {
    /// Which inode.
    pub handle: Handle<'a>,
    /// Its content was written; else only its mode, owner, times or number of names changed.
    pub content: bool,
    /// A descriptor that was open for writing is closed.
    pub closed: bool,
}

/// One decoded record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// A watched directory reports.
    Event(Event<'a>),
    /// An inode was changed by way of its file handle, so that the kernel knows no name of it: an NFS server does so with files
    /// whose names are not in memory any more (fanotify only).
    Nameless(Nameless<'a>),
    /// Events were lost (`IN_Q_OVERFLOW`), or the bytes made no sense.
    Overflow,
}

const HEADER: usize = 16;

const KINDS: [(u32, EventKind); 11] = [
    (libc::IN_MOVED_FROM, EventKind::MovedFrom),
    (libc::IN_DELETE, EventKind::Deleted),
    (libc::IN_CREATE, EventKind::Created),
    (libc::IN_MOVED_TO, EventKind::MovedTo),
    (libc::IN_MODIFY, EventKind::Modified),
    (libc::IN_ATTRIB, EventKind::Attributes),
    (libc::IN_CLOSE_WRITE, EventKind::Closed),
    (libc::IN_DELETE_SELF, EventKind::SelfDeleted),
    (libc::IN_MOVE_SELF, EventKind::SelfMoved),
    (libc::IN_UNMOUNT, EventKind::Unmounted),
    (libc::IN_IGNORED, EventKind::Ignored),
];

/// Calls `each` for every record of `bytes`, which one read of a descriptor of this kind returned.
pub fn decode_as<'a>(backend: Backend, bytes: &'a [u8], each: impl FnMut(Record<'a>)) {
    match backend {
        Backend::Inotify => decode(bytes, each),
        Backend::Fanotify => decode_fanotify(bytes, each),
    }
}

/// Calls `each` for every record of `bytes`, which one read of an inotify instance returned.
pub fn decode<'a>(bytes: &'a [u8], mut each: impl FnMut(Record<'a>)) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some((header, after)) = rest.split_at_checked(HEADER) else {
            return each(Record::Overflow);
        };
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (wd, mask, cookie) = (word(0).cast_signed(), word(4), word(8));
        let Some((padded, next)) = usize::try_from(word(12)).ok().and_then(|length| after.split_at_checked(length))
        else {
            return each(Record::Overflow);
        };
        rest = next;
        if mask & libc::IN_Q_OVERFLOW != 0 {
            each(Record::Overflow);
            continue;
        }
        let name = padded.split(|byte| *byte == 0).next().unwrap_or_default();
        if wd < 0 || name == b"." || name == b".." || name.contains(&b'/') {
            each(Record::Overflow);
            continue;
        }
        let directory = mask & libc::IN_ISDIR != 0;
        for (bit, kind) in KINDS {
            if mask & bit != 0 {
                each(Record::Event(Event { place: Place::Watch(Wd(wd)), kind, directory, cookie, name }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(wd: i32, mask: u32, cookie: u32, name: &[u8]) -> Vec<u8> {
        let padded = if name.is_empty() { 0 } else { (name.len() / 16 + 1) * 16 };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&wd.to_ne_bytes());
        bytes.extend_from_slice(&mask.to_ne_bytes());
        bytes.extend_from_slice(&cookie.to_ne_bytes());
        bytes.extend_from_slice(&u32::try_from(padded).unwrap().to_ne_bytes());
        bytes.extend_from_slice(name);
        bytes.resize(HEADER + padded, 0);
        bytes
    }

    fn decoded(bytes: &[u8]) -> Vec<Record<'_>> {
        let mut records = Vec::new();
        decode(bytes, |record| records.push(record));
        records
    }

    #[test]
    fn names_kinds_and_cookies_come_out_as_they_went_in() {
        let mut bytes = record(3, libc::IN_CREATE | libc::IN_ISDIR, 0, b"\xff\nname of more than sixteen bytes");
        bytes.extend(record(4, libc::IN_MOVED_TO, 77, b"b"));
        bytes.extend(record(5, libc::IN_IGNORED, 0, b""));
        let event = |wd, kind, directory, cookie, name| {
            Record::Event(Event { place: Place::Watch(Wd(wd)), kind, directory, cookie, name })
        };
        assert_eq!(
            decoded(&bytes),
            [
                event(3, EventKind::Created, true, 0, b"\xff\nname of more than sixteen bytes".as_slice()),
                event(4, EventKind::MovedTo, false, 77, b"b"),
                event(5, EventKind::Ignored, false, 0, b""),
            ]
        );
    }

    #[test]
    fn overflow_and_broken_bytes_are_a_loss() {
        assert_eq!(decoded(&record(-1, libc::IN_Q_OVERFLOW, 0, b"")), [Record::Overflow]);
        assert_eq!(decoded(&record(1, libc::IN_CREATE, 0, b"a")[..20]), [Record::Overflow]);
        assert_eq!(decoded(&[0; 7]), [Record::Overflow]);
        assert_eq!(decoded(&record(1, libc::IN_CREATE, 0, b"..")), [Record::Overflow]);
        assert_eq!(decoded(&record(1, libc::IN_CREATE, 0, b"a/b")), [Record::Overflow]);
        assert_eq!(decoded(b""), []);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode_to_an_end(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            decode(&bytes, |record| if let Record::Event(event) = record {
                assert!(!event.name.contains(&b'/'));
            });
        }
    }
}
