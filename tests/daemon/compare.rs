//! Where two trees differ: types, contents, modes, times, link targets, owners, missing and extra entries.
//!
//! Invariant: any tree can be read at any time. What vanishes meanwhile is absent, what cannot be read is a difference.
//! Left out: hard-link structure, extended attributes, access times, all of a fifo but its type and owner, and the root's own
//! mode, time and owner (a list without the entry `.` does not send them, notes/rsync.md 1.2).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use fansync::path::{RelPath, escaped};

/// What a tree held at one time.
pub struct Snapshot(BTreeMap<RelPath, Entry>);

struct Entry {
    kind: Kind,
    mode: u32,
    modified: (i64, i64),
    owner: (u32, u32),
}

#[derive(PartialEq, Eq)]
enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    Other,
    /// It is there, but reading failed with these words.
    Unreadable(String),
}

impl Kind {
    fn noun(&self) -> &str {
        match self {
            Self::File(_) => "file",
            Self::Directory => "directory",
            Self::Symlink(_) => "symlink",
            Self::Fifo => "fifo",
            Self::Other => "device or socket",
            Self::Unreadable(words) => words,
        }
    }
}

impl Snapshot {
    /// Reads all of `root`. A root that is not there gives an empty snapshot, which differs from an empty directory.
    pub fn take(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        read_entry(root, RelPath::root(), &mut entries);
        Self(entries)
    }

    /// How many entries there are beneath the root.
    pub fn len(&self) -> usize {
        self.0.len().saturating_sub(1)
    }

    /// At most `limit` lines, one per difference: the escaped path, a tab, what is wrong on `target`. What lies beneath a
    /// missing or extra directory is not listed.
    pub fn differences(&self, target: &Self, limit: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut reported: Vec<&RelPath> = Vec::new();
        let owners = nix::unistd::geteuid().is_root();
        let mut paths: Vec<&RelPath> = self.0.keys().chain(target.0.keys()).collect();
        paths.sort_unstable();
        paths.dedup();
        for path in paths {
            if found.len() >= limit {
                break;
            }
            if reported.iter().any(|top| path.is_within(top)) {
                continue;
            }
            match (self.0.get(path), target.0.get(path)) {
                (Some(ours), Some(theirs)) => {
                    if ours.kind.noun() != theirs.kind.noun() {
                        reported.push(path);
                    }
                    let wrong = ours.compare(theirs, path.is_root(), owners);
                    found.extend(wrong.into_iter().map(|what| format!("{path}\t{what}")));
                }
                (Some(ours), None) => {
                    reported.push(path);
                    found.push(format!("{path}\tmissing: {}", ours.kind.noun()));
                }
                (None, Some(theirs)) => {
                    reported.push(path);
                    found.push(format!("{path}\textra: {}", theirs.kind.noun()));
                }
                (None, None) => {}
            }
        }
        found.truncate(limit);
        found
    }
}

impl Entry {
    fn compare(&self, target: &Self, root: bool, owners: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        match (&self.kind, &target.kind) {
            (Kind::File(ours), Kind::File(theirs)) if ours != theirs => wrong.push(content_words(ours, theirs)),
            (Kind::Symlink(ours), Kind::Symlink(theirs)) if ours != theirs => {
                wrong.push(format!("link: {} against {}", escaped(ours), escaped(theirs)));
            }
            (Kind::Unreadable(ours), Kind::Unreadable(theirs)) => {
                wrong.push(format!("unreadable: {ours} and {theirs}"))
            }
            (ours, theirs) if ours.noun() != theirs.noun() => {
                return vec![format!("type: {} against {}", ours.noun(), theirs.noun())];
            }
            _ => {}
        }
        if root {
            return wrong;
        }
        if owners && self.owner != target.owner {
            wrong.push(format!("owner: {:?} against {:?}", self.owner, target.owner));
        }
        if matches!(self.kind, Kind::File(_) | Kind::Directory) && self.mode != target.mode {
            wrong.push(format!("mode: {:04o} against {:04o}", self.mode, target.mode));
        }
        if matches!(self.kind, Kind::File(_) | Kind::Directory | Kind::Symlink(_)) && self.modified != target.modified {
            let time = |(seconds, nanoseconds)| format!("{seconds}.{nanoseconds:09}");
            wrong.push(format!("mtime: {} against {}", time(self.modified), time(target.modified)));
        }
        wrong
    }
}

fn content_words(ours: &[u8], theirs: &[u8]) -> String {
    let first = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
    format!("content: {} bytes against {}, first difference at {first}", ours.len(), theirs.len())
}

fn read_entry(root: &Path, path: RelPath, entries: &mut BTreeMap<RelPath, Entry>) {
    let full = path.below(root);
    let metadata = match fs::symlink_metadata(&full) {
        Ok(metadata) => metadata,
        Err(error) if gone(&error) => return,
        Err(error) => {
            let kind = Kind::Unreadable(error.to_string());
            entries.insert(path, Entry { kind, mode: 0, modified: (0, 0), owner: (0, 0) });
            return;
        }
    };
    let mut children = Vec::new();
    let read = || -> io::Result<Kind> {
        let kind = metadata.file_type();
        Ok(if kind.is_dir() {
            for child in fs::read_dir(&full)? {
                children.push(path.join(&child?.file_name().into_vec()));
            }
            Kind::Directory
        } else if kind.is_file() {
            Kind::File(fs::read(&full)?)
        } else if kind.is_symlink() {
            Kind::Symlink(fs::read_link(&full)?.as_os_str().as_bytes().to_vec())
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            Kind::Other
        })
    };
    let kind = match { read }() {
        Ok(kind) => kind,
        Err(error) if gone(&error) => return,
        Err(error) => Kind::Unreadable(error.to_string()),
    };
    entries.insert(
        path,
        Entry {
            kind,
            mode: metadata.mode() & 0o7777,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            owner: (metadata.uid(), metadata.gid()),
        },
    );
    for child in children {
        read_entry(root, child, entries);
    }
}

/// The entry, or a directory above it, went away or became something else between two calls.
fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        // readlink of what is no symlink any more; open of a directory; a symlink loop where a directory was.
        || matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EISDIR | libc::ELOOP))
}

/// At most `limit` lines that say where `target` is not what `source` is; none when they are equal.
/// See [`Snapshot::differences`].
pub fn differences(source: &Path, target: &Path, limit: usize) -> Vec<String> {
    Snapshot::take(source).differences(&Snapshot::take(target), limit)
}

/// Compares every `poll` until the trees are equal, and says how long that took.
///
/// # Errors
/// The differences that are left after `patience`.
pub fn wait_until_equal(
    source: &Path,
    target: &Path,
    patience: Duration,
    poll: Duration,
) -> Result<Duration, Vec<String>> {
    let began = Instant::now();
    loop {
        let found = differences(source, target, 40);
        if found.is_empty() {
            return Ok(began.elapsed());
        }
        if began.elapsed() >= patience {
            return Err(found);
        }
        std::thread::park_timeout(poll);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::churn::set_modified;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    /// The same small tree on both sides.
    fn pair() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let sides = ["source", "target"].map(|side| scratch.path().join(side));
        for side in &sides {
            fs::create_dir_all(side.join("d/sub")).unwrap();
            fs::write(side.join("d/f"), b"content").unwrap();
            fs::write(side.join("d/sub/g"), b"").unwrap();
            symlink("nowhere", side.join("l")).unwrap();
            mkfifo(&side.join("p"));
            for path in ["d/f", "d/sub/g", "d/sub", "d", "l"] {
                set_modified(&side.join(path), (1_000_000_000, 5)).unwrap();
            }
        }
        let [source, target] = sides;
        (scratch, source, target)
    }

    fn mkfifo(path: &Path) {
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from(0o644)).unwrap();
    }

    #[test]
    fn each_kind_of_difference_is_found() {
        let (_scratch, source, target) = pair();
        assert_eq!(differences(&source, &target, 10), Vec::<String>::new());
        let check = |damage: &dyn Fn(&Path), expected: &[&str]| {
            let (_scratch, source, target) = pair();
            damage(&target);
            // Times of the directories that the damage touched are not the subject of the row.
            let mut found = differences(&source, &target, 10);
            if !expected.iter().any(|line| line.contains("mtime")) {
                found.retain(|line| !line.contains("mtime"));
            }
            assert_eq!(found, expected);
        };
        let time = |path: &Path, modified| set_modified(path, modified).unwrap();
        check(
            &|t| fs::write(t.join("d/f"), b"contenT").unwrap(),
            &["d/f\tcontent: 7 bytes against 7, first difference at 6"],
        );
        check(
            &|t| fs::write(t.join("d/f"), b"cont").unwrap(),
            &["d/f\tcontent: 7 bytes against 4, first difference at 4"],
        );
        check(&|t| fs::remove_file(t.join("d/f")).unwrap(), &["d/f\tmissing: file"]);
        check(&|t| fs::remove_dir_all(t.join("d")).unwrap(), &["d\tmissing: directory"]);
        check(&|t| fs::write(t.join("x\n\t"), b"").unwrap(), &["x\\n\\t\textra: file"]);
        check(&|t| fs::create_dir_all(t.join("x/y")).unwrap(), &["x\textra: directory"]);
        check(
            &|t| {
                fs::remove_file(t.join("d/f")).unwrap();
                symlink("content", t.join("d/f")).unwrap();
            },
            &["d/f\ttype: file against symlink"],
        );
        check(
            &|t| {
                fs::remove_dir_all(t.join("d")).unwrap();
                fs::write(t.join("d"), b"").unwrap();
            },
            &["d\ttype: directory against file"],
        );
        check(
            &|t| {
                fs::remove_file(t.join("l")).unwrap();
                symlink("nowhere2", t.join("l")).unwrap();
            },
            &["l\tlink: nowhere against nowhere2"],
        );
        check(
            &|t| {
                fs::remove_file(t.join("d/sub/g")).unwrap();
                mkfifo(&t.join("d/sub/g"));
            },
            &["d/sub/g\ttype: file against fifo"],
        );
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        check(&|t| mode(&t.join("d/f"), 0o4640), &["d/f\tmode: 0644 against 4640"]);
        check(&|t| mode(&t.join("d"), 0o1755), &["d\tmode: 0755 against 1755"]);
        for path in ["d/f", "d/sub", "l"] {
            let expected = format!("{path}\tmtime: 1000000000.000000005 against 1000000000.000000006");
            check(&|t| time(&t.join(path), (1_000_000_000, 6)), &[&expected]);
        }
        if nix::unistd::geteuid().is_root() {
            let own = |path: &Path| std::os::unix::fs::lchown(path, Some(12), Some(34)).unwrap();
            for path in ["d", "d/f", "l", "p"] {
                let expected = format!("{path}\towner: (0, 0) against (12, 34)");
                check(&|t| own(&t.join(path)), &[&expected]);
            }
        }
        check(&|t| fs::remove_dir_all(t).unwrap(), &[".\tmissing: directory"]);
    }

    #[test]
    fn limit_and_absent_trees_are_no_panic() {
        let (scratch, source, target) = pair();
        for name in 0..9 {
            fs::write(target.join(format!("x{name}")), b"").unwrap();
        }
        assert_eq!(differences(&source, &target, 4).len(), 4);
        let nothing = scratch.path().join("nothing");
        assert_eq!(differences(&nothing, &target, 4), [".\textra: directory"]);
        assert_eq!(Snapshot::take(&nothing).len(), 0);
    }

    #[test]
    fn a_tree_that_changes_while_it_is_read_is_no_panic() {
        let (scratch, source, target) = pair();
        let outside = scratch.path().join("outside");
        let mut churn = crate::churn::Churn::new(7, target.clone(), outside, crate::names::Names::Hostile);
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || churn.run(400));
            let mut rounds = 0;
            while !writer.is_finished() || rounds == 0 {
                let _any = differences(&source, &target, 1000);
                rounds += 1;
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn waiting_ends_when_the_trees_become_equal() {
        let (_scratch, source, target) = pair();
        fs::write(target.join("extra"), b"").unwrap();
        let poll = Duration::from_millis(5);
        assert_eq!(wait_until_equal(&source, &target, Duration::ZERO, poll), Err(vec!["extra\textra: file".into()]));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_until_equal(&source, &target, Duration::from_secs(30), poll));
            std::thread::park_timeout(Duration::from_millis(20));
            fs::remove_file(target.join("extra")).unwrap();
            assert!(waiting.join().unwrap().is_ok());
        });
    }
}
