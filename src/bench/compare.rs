//! Two trees, entry by entry: type, content, mode, modification time, link target. The roots themselves are left out.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::path::RelPath;

/// Whether the times of directories count: they follow with the next transfer of that directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DirectoryTimes {
    /// They must be the same.
    Count,
    /// They may differ.
    Ignore,
}

/// What two trees have.
#[derive(Debug)]
pub(super) struct Comparison {
    /// Entries of both.
    pub(super) entries: usize,
    /// One line per entry that differs.
    pub(super) differences: Vec<String>,
}

/// Compares all that lies beneath two directories.
pub(super) fn trees(source: &Path, target: &Path) -> io::Result<Comparison> {
    let mut paths = BTreeSet::new();
    collect(source, &RelPath::root(), &mut paths)?;
    collect(target, &RelPath::root(), &mut paths)?;
    let mut differences = Vec::new();
    for path in &paths {
        if let Some(words) = entry(source, target, path, DirectoryTimes::Count)? {
            differences.push(format!("{path}: {words}"));
        }
    }
    Ok(Comparison { entries: paths.len(), differences })
}

fn collect(root: &Path, directory: &RelPath, paths: &mut BTreeSet<RelPath>) -> io::Result<()> {
    let entries = match fs::read_dir(directory.below(root)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path = directory.join(entry.file_name().as_bytes());
        if entry.file_type()?.is_dir() {
            collect(root, &path, paths)?;
        }
        paths.insert(path);
    }
    Ok(())
}

/// How `path` differs, or `None` when it is the same in both trees, which it also is where neither has it.
pub(super) fn entry(source: &Path, target: &Path, path: &RelPath, times: DirectoryTimes) -> io::Result<Option<String>> {
    let (source, target) = (path.below(source), path.below(target));
    let (ours, theirs) = match (look(&source)?, look(&target)?) {
        (Some(ours), Some(theirs)) => (ours, theirs),
        (Some(_), None) => return Ok(Some("missing on the target".into())),
        (None, Some(_)) => return Ok(Some("only on the target".into())),
        (None, None) => return Ok(None),
    };
    if ours.file_type() != theirs.file_type() {
        return Ok(Some("another type".into()));
    }
    if ours.is_symlink() {
        let same = link(&source)? == link(&target)?;
        return Ok((!same).then(|| "another link target".into()));
    }
    if ours.permissions().mode() != theirs.permissions().mode() {
        return Ok(Some(format!("mode {:o}, not {:o}", theirs.mode() & 0o7777, ours.mode() & 0o7777)));
    }
    if ours.is_file() && (ours.len() != theirs.len() || !same_content(&source, &target)?) {
        return Ok(Some("other content".into()));
    }
    let same_time = (ours.mtime(), ours.mtime_nsec()) == (theirs.mtime(), theirs.mtime_nsec());
    let counts = !ours.is_dir() || times == DirectoryTimes::Count;
    Ok((counts && !same_time).then(|| "another modification time".into()))
}

fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn link(path: &Path) -> io::Result<Option<std::path::PathBuf>> {
    gone_is_none(fs::read_link(path))
}

/// Whether two files have the same bytes; a file that is gone has none.
pub(super) fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (Some(mut one), Some(mut other)) = (gone_is_none(File::open(one))?, gone_is_none(File::open(other))?) else {
        return Ok(false);
    };
    let (mut ours, mut theirs) = (Vec::with_capacity(64 * 1024), Vec::with_capacity(64 * 1024));
    loop {
        for (file, bytes) in [(&mut one, &mut ours), (&mut other, &mut theirs)] {
            bytes.clear();
            file.take(64 * 1024).read_to_end(bytes)?;
        }
        if ours != theirs {
            return Ok(false);
        }
        if ours.is_empty() {
            return Ok(true);
        }
    }
}

fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    fn stamp(path: &Path) {
        File::open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    }

    /// Two trees that are the same, each with `d/f` and `l`.
    fn equal_trees() -> (tempfile::TempDir, tempfile::TempDir) {
        let make = || {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("d")).unwrap();
            fs::write(root.path().join("d/f"), "text").unwrap();
            fs::set_permissions(root.path().join("d/f"), fs::Permissions::from_mode(0o644)).unwrap();
            symlink("d/f", root.path().join("l")).unwrap();
            stamp(&root.path().join("d/f"));
            stamp(&root.path().join("d"));
            root
        };
        (make(), make())
    }

    fn check(change: impl FnOnce(&Path), expected: &[&str]) {
        let (source, target) = equal_trees();
        change(target.path());
        let found = trees(source.path(), target.path()).unwrap();
        assert_eq!(found.differences, expected);
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        check(|_| {}, &[]);
        check(|root| fs::write(root.join("n"), "").unwrap(), &["n: only on the target"]);
        check(|root| fs::remove_file(root.join("l")).unwrap(), &["l: missing on the target"]);
        check(
            |root| fs::set_permissions(root.join("d/f"), fs::Permissions::from_mode(0o600)).unwrap(),
            &["d/f: mode 600, not 644"],
        );
        check(
            |root| {
                fs::write(root.join("d/f"), "teXt").unwrap();
                stamp(&root.join("d/f"));
            },
            &["d/f: other content"],
        );
        check(
            |root| File::open(root.join("d")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap(),
            &["d: another modification time"],
        );
        check(
            |root| {
                fs::remove_file(root.join("l")).unwrap();
                symlink("d", root.join("l")).unwrap();
            },
            &["l: another link target"],
        );
    }

    #[test]
    fn what_neither_tree_has_is_the_same_and_directory_times_may_be_left_out() {
        let (source, target) = equal_trees();
        let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
        let check = |text| entry(source.path(), target.path(), &path(text), DirectoryTimes::Ignore).unwrap();
        assert_eq!(check("none/at/all"), None);
        File::open(target.path().join("d")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(check("d"), None);
    }
}
