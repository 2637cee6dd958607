//! What is to be done with one entry of a run, by what is at its path in the source and on the target. Pure.

use crate::sys::files::{Details, EntryType};

/// Larger files are left to rsync: while one is copied here, the lane does nothing else and tells nothing. Unit: bytes.
/// Why 64 MiB: as much as one draft may hold, and a fraction of a second on any disk.
pub const FILE_MAX: u64 = 64 * 1024 * 1024;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A new file, under the name.
    Place,
    /// A new symlink, under the name.
    Link,
    /// A new directory; its attributes are set when what is in it is done.
    MakeDirectory,
    /// The target has it; its attributes may differ. A symlink may lead elsewhere.
    Attributes,
    /// The name goes.
    Delete,
    /// The target has no such name, and shall have none.
    Nothing,
    /// rsync decides.
    Leave(&'static str),
}

/// Decides on one entry; `resend`: whatever size and mtime say.
#[must_use]
pub fn decide(source: Option<&Details>, target: Option<&Details>, resend: bool) -> Deed {
    let there = target.map(|target| target.status.entry_type);
    let Some(source) = source else {
        return match there {
            None => Deed::Nothing,
            Some(EntryType::Directory) => Deed::Leave("a directory is to be deleted"),
            Some(EntryType::File | EntryType::Symlink | EntryType::Special) => Deed::Delete,
        };
    };
    match (source.status.entry_type, there) {
        (EntryType::Special, _) => Deed::Leave("a special file"),
        (EntryType::Directory, Some(EntryType::Directory)) => Deed::Attributes,
        (EntryType::Directory, None) => Deed::MakeDirectory,
        (EntryType::Directory, Some(EntryType::File | EntryType::Symlink | EntryType::Special)) => {
            Deed::Leave("something else is in a directory's place")
        }
        (EntryType::File | EntryType::Symlink, _) if source.status.links > 1 => Deed::Leave("it has several names"),
        (EntryType::File | EntryType::Symlink, Some(EntryType::Directory)) => {
            Deed::Leave("a directory is in its place")
        }
        (EntryType::File, _) if source.status.size > FILE_MAX => Deed::Leave("a large file"),
        (EntryType::File, Some(EntryType::File)) if !resend && is_same(source, target) => Deed::Attributes,
        (EntryType::File, Some(EntryType::File | EntryType::Symlink | EntryType::Special) | None) => Deed::Place,
        (EntryType::Symlink, Some(EntryType::Symlink)) => Deed::Attributes,
        (EntryType::Symlink, Some(EntryType::File | EntryType::Special) | None) => Deed::Link,
    }
}

/// As rsync compares with `--modify-window=-1`: size, and mtime to the nanosecond.
fn is_same(source: &Details, target: Option<&Details>) -> bool {
    target.is_some_and(|target| {
        source.status.size == target.status.size && source.modified_exactly == target.modified_exactly
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::WallTime;
    use crate::sys::files::{Identity, Status};

    fn of(entry_type: EntryType) -> Details {
        let status = Status {
            entry_type,
            identity: Identity { device: 1, inode: 1 },
            links: 1,
            size: 10,
            changed: WallTime(5),
            modified: WallTime(5),
        };
        Details { status, mode: 0o644, user: 1, group: 1, modified_exactly: (0, 5) }
    }

    #[test]
    fn every_pair_of_kinds_has_its_deed() {
        use EntryType::{Directory, File, Special, Symlink};
        let leave = |deed: Deed| matches!(deed, Deed::Leave(_));
        let there = [None, Some(File), Some(Symlink), Some(Special), Some(Directory)];
        let deeds = |source: Option<EntryType>, resend: bool| {
            there.map(|target| decide(source.map(of).as_ref(), target.map(of).as_ref(), resend))
        };
        let [nothing, file, link, special, directory] = deeds(None, true);
        assert_eq!([nothing, file, link, special], [Deed::Nothing, Deed::Delete, Deed::Delete, Deed::Delete]);
        assert!(leave(directory));

        let [nothing, file, link, special, directory] = deeds(Some(File), true);
        assert_eq!([nothing, file, link, special], [Deed::Place; 4]);
        assert!(leave(directory));
        assert_eq!(deeds(Some(File), false)[..2], [Deed::Place, Deed::Attributes]);

        for resend in [true, false] {
            let [nothing, file, link, special, directory] = deeds(Some(Symlink), resend);
            assert_eq!([nothing, file, link, special], [Deed::Link, Deed::Link, Deed::Attributes, Deed::Link]);
            assert!(leave(directory));

            let [nothing, file, link, special, directory] = deeds(Some(Directory), resend);
            assert_eq!([nothing, directory], [Deed::MakeDirectory, Deed::Attributes]);
            assert!([file, link, special].into_iter().all(leave));

            assert!(deeds(Some(Special), resend).into_iter().all(leave));
        }
    }

    #[test]
    fn a_file_is_the_same_by_size_and_mtime_to_the_nanosecond() {
        let check = |change: fn(&mut Details), expected| {
            let mut target = of(EntryType::File);
            change(&mut target);
            assert_eq!(decide(Some(&of(EntryType::File)), Some(&target), false), expected, "{target:?}");
        };
        check(|_| {}, Deed::Attributes);
        check(|target| target.status.identity.inode = 2, Deed::Attributes);
        check(|target| target.mode = 0o4000, Deed::Attributes);
        check(|target| target.status.size = 11, Deed::Place);
        check(|target| target.modified_exactly = (0, 6), Deed::Place);
        check(|target| target.modified_exactly = (1, 5), Deed::Place);
    }

    #[test]
    fn large_files_and_those_with_several_names_are_left() {
        let left = |change: fn(&mut Details)| {
            let mut source = of(EntryType::File);
            change(&mut source);
            matches!(decide(Some(&source), None, true), Deed::Leave(_))
        };
        assert!(!left(|source| source.status.size = FILE_MAX));
        assert!(left(|source| source.status.size = FILE_MAX + 1));
        assert!(left(|source| source.status.links = 2));
        let mut directory = of(EntryType::Directory);
        directory.status.links = 9;
        assert_eq!(decide(Some(&directory), None, true), Deed::MakeDirectory);
    }
}
