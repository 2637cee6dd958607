//! The records of a fanotify group that reports directories by handle, with names (fanotify(7), `FAN_REPORT_DFID_NAME`).
//!
//! Invariant: as for inotify. The kernel merges what one process does to one name into one record, which keeps the place
//! of the first: its bits are told in an order in which the last word says that the name may hold something new.

use super::decode::{Event, EventKind, Nameless, Place, Record};
use crate::sys::handle::{BYTES_MAX, Handle};

/// `struct fanotify_event_metadata`.
const HEADER: usize = 24;

/// `struct fanotify_event_info_header`.
const INFO_HEADER: usize = 4;

/// The file system's id, and length and kind of the handle.
const HANDLE_HEADER: usize = 16;

const KINDS: [(u64, EventKind); 5] = [
    (libc::FAN_DELETE, EventKind::Deleted),
    (libc::FAN_CREATE, EventKind::Created),
    (libc::FAN_MODIFY, EventKind::Modified),
    (libc::FAN_ATTRIB, EventKind::Attributes),
    (libc::FAN_CLOSE_WRITE, EventKind::Closed),
];

/// A directory, and a name in it; no name when the directory itself is meant.
#[derive(Debug, Clone, Copy)]
struct Spot<'a> {
    handle: Handle<'a>,
    name: &'a [u8],
}

/// What the information behind a header says.
#[derive(Debug, Default)]
struct Spots<'a> {
    at: Option<Spot<'a>>,
    from: Option<Spot<'a>>,
    to: Option<Spot<'a>>,
    /// The inode itself.
    own: Option<Handle<'a>>,
}

/// Something in the bytes makes no sense.
#[derive(Debug)]
struct Broken;

/// Calls `each` for every record of `bytes`, which one read of a fanotify group returned.
pub fn decode_fanotify<'a>(bytes: &'a [u8], mut each: impl FnMut(Record<'a>)) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some((record, next)) = split(rest) else { return each(Record::Overflow) };
        rest = next;
        let mask = u64::from_ne_bytes(array(&record[8..16]));
        if mask & libc::FAN_Q_OVERFLOW != 0 {
            each(Record::Overflow);
            continue;
        }
        let metadata = usize::from(u16::from_ne_bytes(array(&record[6..8])));
        let Some(spots) = record.get(metadata.max(HEADER)..).and_then(|info| spots(info).ok()) else {
            each(Record::Overflow);
            continue;
        };
        let directory = mask & libc::FAN_ONDIR != 0;
        // Both halves are in one record, so one number serves for all.
        let cookie = u32::from(spots.from.is_some() && spots.to.is_some());
        let mut tell = |spot: Spot<'a>, kind| {
            let place = Place::Handle(spot.handle);
            let cookie = if matches!(kind, EventKind::MovedFrom | EventKind::MovedTo) { cookie } else { 0 };
            each(Record::Event(Event { place, kind, directory, cookie, name: spot.name }));
        };
        if mask & libc::FAN_RENAME != 0 {
            if let Some(from) = spots.from {
                tell(from, EventKind::MovedFrom);
            }
            if let Some(to) = spots.to {
                tell(to, EventKind::MovedTo);
            }
        }
        if let Some(at) = spots.at {
            for (bit, kind) in KINDS {
                if mask & bit != 0 {
                    tell(at, kind);
                }
            }
        }
        // Without a directory it is about an inode that has no name at the moment. Directories always have one, and what is
        // removed has its event by name.
        let (content, closed) =
            (mask & (libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE) != 0, mask & libc::FAN_CLOSE_WRITE != 0);
        if let (None, None, None, Some(handle)) = (spots.at, spots.from, spots.to, spots.own)
            && !directory
            && (content || mask & libc::FAN_ATTRIB != 0)
        {
            each(Record::Nameless(Nameless { handle, content, closed }));
        }
    }
}

/// The first record, and what follows it; `None` when it is cut off, or of another version.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = bytes.get(..HEADER)?;
    let length = usize::try_from(u32::from_ne_bytes(array(&header[..4]))).ok()?;
    if length < HEADER || header[4] != libc::FANOTIFY_METADATA_VERSION {
        return None;
    }
    bytes.split_at_checked(length)
}

fn spots(mut info: &[u8]) -> Result<Spots<'_>, Broken> {
    let mut spots = Spots::default();
    while !info.is_empty() {
        let header = info.get(..INFO_HEADER).ok_or(Broken)?;
        let length = usize::from(u16::from_ne_bytes(array(&header[2..4])));
        if length < INFO_HEADER {
            return Err(Broken);
        }
        let (record, next) = info.split_at_checked(length).ok_or(Broken)?;
        info = next;
        let body = &record[INFO_HEADER..];
        match header[0] {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => spots.at = Some(spot(body, true)?),
            libc::FAN_EVENT_INFO_TYPE_DFID => spots.at = Some(spot(body, false)?),
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => spots.from = Some(spot(body, true)?),
            libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => spots.to = Some(spot(body, true)?),
            libc::FAN_EVENT_INFO_TYPE_FID => spots.own = Some(spot(body, false)?.handle),
            // Whatever later kernels add.
            _ => {}
        }
    }
    Ok(spots)
}

fn spot(body: &[u8], named: bool) -> Result<Spot<'_>, Broken> {
    let header = body.get(..HANDLE_HEADER).ok_or(Broken)?;
    let length = usize::try_from(u32::from_ne_bytes(array(&header[8..12]))).map_err(|_| Broken)?;
    let kind = i32::from_ne_bytes(array(&header[12..16]));
    if length > BYTES_MAX {
        return Err(Broken);
    }
    let (bytes, rest) = body[HANDLE_HEADER..].split_at_checked(length).ok_or(Broken)?;
    let name = if named { rest.split(|byte| *byte == 0).next().unwrap_or_default() } else { b"" };
    if name == b".." || name.contains(&b'/') {
        return Err(Broken);
    }
    // The directory itself.
    let name = if name == b"." { b"" } else { name };
    Ok(Spot { handle: Handle { kind, bytes }, name })
}

/// The bytes as an array; the caller has cut them to its length.
fn array<const LENGTH: usize>(bytes: &[u8]) -> [u8; LENGTH] {
    let mut array = [0; LENGTH];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: u8, handle: &[u8], name: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![9; 8];
        body.extend(u32::try_from(handle.len()).unwrap().to_ne_bytes());
        body.extend(1_i32.to_ne_bytes());
        body.extend(handle);
        if let Some(name) = name {
            body.extend(name);
            body.push(0);
        }
        while !body.len().is_multiple_of(4) {
            body.push(0);
        }
        let mut record = vec![kind, 0];
        record.extend(u16::try_from(body.len() + INFO_HEADER).unwrap().to_ne_bytes());
        record.extend(body);
        record
    }

    fn record(mask: u64, infos: &[Vec<u8>]) -> Vec<u8> {
        let infos = infos.concat();
        let mut bytes = u32::try_from(HEADER + infos.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
        bytes.extend(u16::try_from(HEADER).unwrap().to_ne_bytes());
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(77_i32.to_ne_bytes());
        bytes.extend(infos);
        bytes
    }

    fn decoded(bytes: &[u8]) -> Vec<Record<'_>> {
        let mut records = Vec::new();
        decode_fanotify(bytes, |record| records.push(record));
        records
    }

    fn event<'a>(handle: &'a [u8], kind: EventKind, directory: bool, name: &'a [u8]) -> Record<'a> {
        Record::Event(Event {
            place: Place::Handle(Handle { kind: 1, bytes: handle }),
            kind,
            directory,
            cookie: 0,
            name,
        })
    }

    #[test]
    fn merged_bits_become_events_and_the_last_says_that_there_may_be_something() {
        let mask = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
        let mut bytes = record(mask, &[info(2, b"dir handle", Some(b"\xff\nk")), info(1, b"file", None)]);
        bytes.extend(record(libc::FAN_ATTRIB | libc::FAN_ONDIR, &[info(2, b"d", Some(b"."))]));
        bytes.extend(record(libc::FAN_ATTRIB | libc::FAN_ONDIR, &[info(3, b"d", None)]));
        assert_eq!(
            decoded(&bytes),
            [
                event(b"dir handle", EventKind::Deleted, false, b"\xff\nk"),
                event(b"dir handle", EventKind::Created, false, b"\xff\nk"),
                event(b"dir handle", EventKind::Modified, false, b"\xff\nk"),
                event(b"dir handle", EventKind::Closed, false, b"\xff\nk"),
                event(b"d", EventKind::Attributes, true, b""),
                event(b"d", EventKind::Attributes, true, b""),
            ]
        );
    }

    #[test]
    fn a_rename_is_told_as_its_two_ends() {
        let both = [info(10, b"old", Some(b"a")), info(12, b"new", Some(b"b")), info(1, b"x", None)];
        let half = |handle, kind, name| match event(handle, kind, true, name) {
            Record::Event(event) => Record::Event(Event { cookie: 1, ..event }),
            other => other,
        };
        assert_eq!(
            decoded(&record(libc::FAN_RENAME | libc::FAN_ONDIR, &both)),
            [half(b"old", EventKind::MovedFrom, b"a"), half(b"new", EventKind::MovedTo, b"b")]
        );
        // Where one half is elsewhere, there is nothing to pair.
        assert_eq!(
            decoded(&record(libc::FAN_RENAME | libc::FAN_ONDIR, &both[..1])),
            [event(b"old", EventKind::MovedFrom, true, b"a")]
        );
    }

    #[test]
    fn what_has_no_directory_is_nameless_and_what_is_broken_is_a_loss() {
        let nameless = |content, closed| {
            Record::Nameless(Nameless { handle: Handle { kind: 1, bytes: b"file" }, content, closed })
        };
        let own = |mask| record(mask, &[info(1, b"file", None)]);
        assert_eq!(decoded(&own(libc::FAN_ATTRIB)), [nameless(false, false)]);
        assert_eq!(decoded(&own(libc::FAN_MODIFY)), [nameless(true, false)]);
        assert_eq!(decoded(&own(libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE)), [nameless(true, true)]);
        assert_eq!(decoded(&own(libc::FAN_DELETE)), []);
        assert_eq!(decoded(&own(libc::FAN_ATTRIB | libc::FAN_ONDIR)), []);
        assert_eq!(decoded(&record(libc::FAN_Q_OVERFLOW, &[])), [Record::Overflow]);
        let good = record(libc::FAN_CREATE, &[info(2, b"d", Some(b"a"))]);
        for cut in 1..good.len() {
            assert_eq!(decoded(&good[..cut]), [Record::Overflow], "{cut}");
        }
        let mut other = good.clone();
        other[4] = 4;
        assert_eq!(decoded(&other), [Record::Overflow], "another version");
        for name in [&b".."[..], b"a/b"] {
            assert_eq!(decoded(&record(libc::FAN_CREATE, &[info(2, b"d", Some(name))])), [Record::Overflow]);
        }
        let mut long = info(2, b"d", Some(b"a"));
        long[INFO_HEADER + 8..INFO_HEADER + 12].copy_from_slice(&200_u32.to_ne_bytes());
        assert_eq!(decoded(&record(libc::FAN_CREATE, &[long])), [Record::Overflow]);
        let mut after = record(libc::FAN_CREATE, &[vec![2, 0, 0, 0]]);
        after.extend(&good);
        assert_eq!(decoded(&after), [Record::Overflow, event(b"d", EventKind::Created, false, b"a")]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode_to_an_end(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            decode_fanotify(&bytes, |record| if let Record::Event(event) = record {
                assert!(!event.name.contains(&b'/') && event.name != b"." && event.name != b"..");
            });
        }

        #[test]
        fn a_damaged_record_decodes_to_an_end(
            at in 0_usize..120,
            value in proptest::prelude::any::<u8>(),
        ) {
            let both = [info(10, b"old handle 12", Some(b"a name")), info(12, b"new handle 12", Some(b"b"))];
            let mut bytes = record(libc::FAN_RENAME | libc::FAN_ONDIR, &both);
            let at = at % bytes.len();
            bytes[at] = value;
            decode_fanotify(&bytes, |record| if let Record::Event(event) = record {
                assert!(!event.name.contains(&b'/'));
            });
        }
    }
}
