//! Records to bytes and back. Pure.
//!
//! Every record begins with its version and is complete: bytes that are too few, too many or out of range are damage,
//! never a guess. Numbers are little-endian. Records of old versions are read for ever (tests hold some).

use super::start::RootRecord;
use crate::change::{Content, MarkKind, Priority, SavedMark};
use crate::path::RelPath;
use crate::sys::clock::WallTime;

/// Version of the records of a mark.
const MARK: u8 = 1;
/// Version of the records of a root.
const ROOT: u8 = 1;

const CLEAN: u8 = 1;
const PAUSED: u8 = 2;

const DERIVED: u8 = 1;
const LARGE: u8 = 2;
const SENT: u8 = 4;

/// Longest text in a record of a root. Unit: bytes.
const TEXT_MAX: usize = 255;

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DamagedRecord {
    /// A version that this release does not know.
    #[error("record of version {0}, which this release does not know")]
    Version(u8),
    /// It ends too soon, or goes on behind its end.
    #[error("a record of the wrong length")]
    Length,
    /// A number that stands for nothing.
    #[error("{what} cannot be {value}")]
    Value {
        /// Which part.
        what: &'static str,
        /// What stands there.
        value: u8,
    },
    /// A path that no agent can have written.
    #[error("a damaged path")]
    Path,
    /// Text that is not UTF-8.
    #[error("damaged text")]
    Text,
}

/// The bytes of a mark.
#[must_use]
pub fn encode_mark(mark: &SavedMark) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48 + mark.path.as_bytes().len());
    bytes.push(MARK);
    bytes.push(match mark.kind {
        MarkKind::Attributes => 0,
        MarkKind::Point => 1,
        MarkKind::Listing => 2,
        MarkKind::Subtree => 3,
    });
    bytes.push(match mark.priority {
        Priority::Live => 0,
        Priority::Background => 1,
    });
    bytes.push(u8::from(mark.derived) * DERIVED + u8::from(mark.large) * LARGE + u8::from(mark.sent) * SENT);
    encode_content(mark.content, &mut bytes);
    encode_content(mark.least, &mut bytes);
    bytes.extend(mark.first.0.to_le_bytes());
    bytes.extend(mark.attempts.to_le_bytes());
    bytes.extend(mark.path.as_bytes());
    bytes
}

/// A mark from its bytes.
///
/// # Errors
/// [`DamagedRecord`].
pub fn decode_mark(bytes: &[u8]) -> Result<SavedMark, DamagedRecord> {
    let mut reader = Reader { bytes };
    reader.version(MARK)?;
    let kind = match reader.byte()? {
        0 => MarkKind::Attributes,
        1 => MarkKind::Point,
        2 => MarkKind::Listing,
        3 => MarkKind::Subtree,
        value => return Err(DamagedRecord::Value { what: "the kind of a mark", value }),
    };
    let priority = match reader.byte()? {
        0 => Priority::Live,
        1 => Priority::Background,
        value => return Err(DamagedRecord::Value { what: "a priority", value }),
    };
    let flags = reader.byte()?;
    if flags > DERIVED + LARGE + SENT {
        return Err(DamagedRecord::Value { what: "the flags of a mark", value: flags });
    }
    let content = reader.content()?;
    let least = reader.content()?;
    let first = WallTime(i64::from_le_bytes(reader.array()?));
    let attempts = u32::from_le_bytes(reader.array()?);
    let path = RelPath::parse(reader.bytes).map_err(|_| DamagedRecord::Path)?;
    let [derived, large, sent] = [DERIVED, LARGE, SENT].map(|flag| flags & flag != 0);
    Ok(SavedMark { path, kind, content, least, priority, first, attempts, derived, large, sent })
}

fn encode_content(content: Content, bytes: &mut Vec<u8>) {
    let (tag, since) = match content {
        Content::Compare => (0, 0),
        Content::Since(since) => (1, since.0),
        Content::Resend => (2, 0),
    };
    bytes.push(tag);
    bytes.extend(since.to_le_bytes());
}

/// The bytes of a root's record.
#[must_use]
pub fn encode_root(root: &RootRecord) -> Vec<u8> {
    let mut bytes = vec![ROOT, u8::from(root.clean) * CLEAN + u8::from(root.paused) * PAUSED];
    bytes.extend(root.watermark.map_or(i64::MIN, |watermark| watermark.0).to_le_bytes());
    bytes.extend(root.clock_offset.to_le_bytes());
    bytes.extend(root.file_system.to_le_bytes());
    bytes.extend(root.inode.to_le_bytes());
    bytes.extend(root.fingerprint.to_le_bytes());
    bytes.extend(root.entries.to_le_bytes());
    let boot = root.boot.as_bytes();
    let boot = &boot[..boot.len().min(TEXT_MAX)];
    bytes.push(u8::try_from(boot.len()).unwrap_or(u8::MAX));
    bytes.extend(boot);
    bytes
}

/// A root's record from its bytes.
///
/// # Errors
/// [`DamagedRecord`].
pub fn decode_root(bytes: &[u8]) -> Result<RootRecord, DamagedRecord> {
    let mut reader = Reader { bytes };
    reader.version(ROOT)?;
    let flags = reader.byte()?;
    if flags > CLEAN + PAUSED {
        return Err(DamagedRecord::Value { what: "the flags of a root", value: flags });
    }
    let [clean, paused] = [CLEAN, PAUSED].map(|flag| flags & flag != 0);
    let watermark = i64::from_le_bytes(reader.array()?);
    let clock_offset = i64::from_le_bytes(reader.array()?);
    let file_system = u64::from_le_bytes(reader.array()?);
    let inode = u64::from_le_bytes(reader.array()?);
    let fingerprint = u64::from_le_bytes(reader.array()?);
    let entries = u64::from_le_bytes(reader.array()?);
    let length = usize::from(reader.byte()?);
    if reader.bytes.len() != length {
        return Err(DamagedRecord::Length);
    }
    let boot = std::str::from_utf8(reader.bytes).map_err(|_| DamagedRecord::Text)?.to_owned();
    let watermark = (watermark != i64::MIN).then_some(WallTime(watermark));
    Ok(RootRecord { boot, file_system, inode, fingerprint, watermark, clock_offset, clean, paused, entries })
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], DamagedRecord> {
        let (head, rest) = self.bytes.split_first_chunk::<LENGTH>().ok_or(DamagedRecord::Length)?;
        self.bytes = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, DamagedRecord> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn version(&mut self, known: u8) -> Result<(), DamagedRecord> {
        match self.byte()? {
            version if version == known => Ok(()),
            version => Err(DamagedRecord::Version(version)),
        }
    }

    fn content(&mut self) -> Result<Content, DamagedRecord> {
        let tag = self.byte()?;
        let since = WallTime(i64::from_le_bytes(self.array()?));
        match tag {
            0 if since.0 == 0 => Ok(Content::Compare),
            1 => Ok(Content::Since(since)),
            2 if since.0 == 0 => Ok(Content::Resend),
            value => Err(DamagedRecord::Value { what: "the content of a mark", value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content() -> impl Strategy<Value = Content> {
        prop_oneof![
            Just(Content::Compare),
            Just(Content::Resend),
            any::<i64>().prop_map(|time| Content::Since(WallTime(time)))
        ]
    }

    fn path() -> impl Strategy<Value = RelPath> {
        let name =
            proptest::collection::vec(any::<u8>().prop_filter("a name's byte", |byte| !b"/\0".contains(byte)), 1..20);
        proptest::collection::vec(name, 0..5).prop_map(|names| {
            let names: Vec<&[u8]> =
                names.iter().map(Vec::as_slice).filter(|name| *name != b"." && *name != b"..").collect();
            RelPath::from_components(names)
        })
    }

    proptest! {
        #[test]
        fn a_mark_comes_back_as_it_was(
            path in path(), kind in 0..4_usize, content in content(), least in content(), live in any::<bool>(),
            first in any::<i64>(), attempts in any::<u32>(), derived in any::<bool>(), large in any::<bool>(),
            sent in any::<bool>(),
        ) {
            let kind = [MarkKind::Attributes, MarkKind::Point, MarkKind::Listing, MarkKind::Subtree][kind];
            let priority = if live { Priority::Live } else { Priority::Background };
            let mark = SavedMark { path, kind, content, least, priority, first: WallTime(first), attempts, derived, large, sent };
            prop_assert_eq!(decode_mark(&encode_mark(&mark)), Ok(mark));
        }

        #[test]
        fn a_root_comes_back_as_it_was(
            boot in "[a-f0-9-]{0,40}", numbers in any::<[u64; 4]>(), watermark in proptest::option::of(1..i64::MAX),
            clock_offset in any::<i64>(), clean in any::<bool>(), paused in any::<bool>(),
        ) {
            let [file_system, inode, fingerprint, entries] = numbers;
            let watermark = watermark.map(WallTime);
            let root = RootRecord { boot, file_system, inode, fingerprint, watermark, clock_offset, clean, paused, entries };
            prop_assert_eq!(decode_root(&encode_root(&root)), Ok(root));
        }

        #[test]
        fn any_bytes_are_a_record_or_damage(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(mark) = decode_mark(&bytes) {
                prop_assert_eq!(encode_mark(&mark), bytes.clone());
            }
            if let Ok(root) = decode_root(&bytes) {
                prop_assert_eq!(encode_root(&root), bytes);
            }
        }
    }

    /// Written by version 1; must be readable for ever.
    #[test]
    fn records_of_the_first_version_are_read() {
        let mark = [
            &[1, 1, 0, 2, 2][..],
            &[0; 8],
            &[1],
            &1_700_000_000_i64.to_le_bytes(),
            &1_800_000_000_i64.to_le_bytes(),
            &3_u32.to_le_bytes(),
            b"d/f\xff",
        ]
        .concat();
        let mark = decode_mark(&mark).unwrap();
        assert_eq!((mark.path.as_bytes(), mark.kind, mark.attempts), (&b"d/f\xff"[..], MarkKind::Point, 3));
        assert_eq!((mark.content, mark.least), (Content::Resend, Content::Since(WallTime(1_700_000_000))));
        assert_eq!((mark.first, mark.derived, mark.large), (WallTime(1_800_000_000), false, true));
        let root = [&[1, 1][..], &5_i64.to_le_bytes(), &6_i64.to_le_bytes(), &[7; 32], &[2], b"ab"].concat();
        let root = decode_root(&root).unwrap();
        assert_eq!((root.boot.as_str(), root.watermark, root.clean), ("ab", Some(WallTime(5)), true));
    }
}
