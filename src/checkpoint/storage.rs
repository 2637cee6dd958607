//! The checkpoint's file: `checkpoint.redb` in the state folder, mode 0600.
//!
//! A transaction holds a root's watermark and the marks of all its targets at one moment, so a crash at any point leaves
//! the one before or the one after. What cannot be read is set aside under another name, never guessed at and never
//! deleted before newer wrecks take its place; the caller compares everything then.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};

use super::record::{DamagedRecord, decode_mark, decode_root, encode_mark, encode_root};
use super::start::RootRecord;
use crate::change::{SavedChange, SavedMark};

/// The file.
const NAME: &str = "checkpoint.redb";
/// Counts the attempts to read it that did not come to an end.
const ATTEMPTS: &str = "checkpoint.opening";
/// After so many, the file is taken for the reason.
const ATTEMPTS_MAX: u8 = 2;
/// Wrecks that are kept.
const ASIDE_MAX: u8 = 2;
/// redb's cache. Unit: bytes. Its own default is 1 GiB.
const CACHE: usize = 8 << 20;
/// A file above this is compacted when it is opened. Unit: bytes.
const COMPACT_ABOVE: u64 = 16 << 20;

/// Root name to its record.
const ROOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("roots");
/// Root name and target location to the target's number.
const TARGETS: TableDefinition<'_, (&str, &str), u32> = TableDefinition::new("targets");
/// Number of the target and key of the mark to the mark. Never by path: B-trees suffer from it (notes/dependencies.md 4).
const MARKS: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("marks");
/// Number of the target and place in the list to a mark whose deletes are held.
const HELD: TableDefinition<'_, (u32, u32), &[u8]> = TableDefinition::new("held");
/// Numbers of the targets that the operator has paused.
const PAUSED: TableDefinition<'_, u32, ()> = TableDefinition::new("paused");

/// Why the checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The file system refused.
    #[error("{path}: {action} failed")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// redb refused.
    #[error("the checkpoint's database failed")]
    Database(#[source] Box<redb::Error>),
    /// A record is damaged.
    #[error("the checkpoint holds {table} that cannot be read")]
    Record {
        /// In which table.
        table: &'static str,
        /// Why.
        #[source]
        error: DamagedRecord,
    },
    /// Reading it ended the agent before.
    #[error("the last {ATTEMPTS_MAX} attempts to read the checkpoint did not come to an end")]
    Attempts,
}

impl StorageError {
    fn database(error: impl Into<redb::Error>) -> Self {
        Self::Database(Box::new(error.into()))
    }

    /// Whether the disk or the rights are at fault, not what the file holds.
    fn is_circumstance(&self) -> bool {
        let error = match self {
            Self::File { error, .. } => Some(error),
            Self::Database(error) => match &**error {
                redb::Error::Io(error) => Some(error),
                redb::Error::DatabaseAlreadyOpen => return true,
                _ => None,
            },
            Self::Record { .. } | Self::Attempts => None,
        };
        error.is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
            )
        })
    }
}

/// What a run before left.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// By name.
    pub roots: BTreeMap<String, SavedRoot>,
}

/// One root of a run before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRoot {
    /// Its record.
    pub record: RootRecord,
    /// By location.
    pub targets: BTreeMap<String, SavedTarget>,
}

/// One target of a run before.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SavedTarget {
    /// What waited or was under way.
    pub marks: Vec<SavedMark>,
    /// What was held.
    pub held: Vec<SavedMark>,
    /// The operator wants nothing to be sent to it.
    pub paused: bool,
}

/// A root at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub root: String,
    /// Its record.
    pub record: RootRecord,
    /// All its targets.
    pub targets: Vec<TargetSnapshot>,
}

/// A target at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSnapshot {
    /// Its location.
    pub location: String,
    /// `changes` are all there is, not differences.
    pub whole: bool,
    /// Marks that came, changed or went.
    pub changes: Vec<SavedChange>,
    /// The held marks, if they changed.
    pub held: Option<Vec<SavedMark>>,
    /// As in [`SavedTarget`].
    pub paused: bool,
}

/// The open file.
#[derive(Debug)]
pub struct Storage {
    path: PathBuf,
    /// `None` after a failure: opened again for the next write.
    database: Option<Database>,
}

/// An opened checkpoint.
#[derive(Debug)]
pub struct Opened {
    /// To write to.
    pub storage: Storage,
    /// What a run before left.
    pub loaded: Loaded,
    /// Where a file was put that could not be read, and why it could not.
    pub aside: Option<(PathBuf, StorageError)>,
}

/// Opens the checkpoint in `directory` and reads it.
///
/// # Errors
/// When there can be no checkpoint at all: no space, no rights.
pub fn open(directory: &Path) -> Result<Opened, StorageError> {
    let path = directory.join(NAME);
    let attempts = directory.join(ATTEMPTS);
    let tried = std::fs::read(&attempts).ok().and_then(|bytes| bytes.first().copied()).unwrap_or(0);
    let first = if tried < ATTEMPTS_MAX {
        // redb may panic on what it does not expect, and a panic ends the agent: that must not go on for ever.
        write_file(&attempts, &[tried + 1])?;
        open_and_read(&path)
    } else {
        Err(StorageError::Attempts)
    };
    let opened = match first {
        Ok((database, loaded)) => Ok((database, loaded, None)),
        Err(error) if error.is_circumstance() => Err(error),
        Err(error) => {
            let aside = set_aside(&path)?;
            open_and_read(&path).map(|(database, loaded)| (database, loaded, Some((aside, error))))
        }
    };
    let _removed_or_counted_again = std::fs::remove_file(&attempts);
    let (database, loaded, aside) = opened?;
    Ok(Opened { storage: Storage { path, database: Some(database) }, loaded, aside })
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).and_then(|mut file| io::Write::write_all(&mut file, bytes)).map_err(|error| StorageError::File {
        path: path.to_path_buf(),
        action: "writing",
        error,
    })
}

/// Renames the file to the first free name of a few, or to the last of them.
fn set_aside(path: &Path) -> Result<PathBuf, StorageError> {
    let name = |number: u8| path.with_extension(format!("unreadable-{number}"));
    let aside = (1..ASIDE_MAX).map(name).find(|name| !name.exists()).unwrap_or_else(|| name(ASIDE_MAX));
    std::fs::rename(path, &aside).map_err(|error| StorageError::File {
        path: path.to_path_buf(),
        action: "setting it aside",
        error,
    })?;
    Ok(aside)
}

fn open_database(path: &Path) -> Result<Database, StorageError> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(|error| StorageError::File {
        path: path.to_path_buf(),
        action: "opening",
        error,
    })?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    drop(file);
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    // Otherwise a damaged page would be trusted, or a panic.
    builder.set_check_integrity_on_open(size > 0);
    let mut database = builder.create(path).map_err(StorageError::database)?;
    if size > COMPACT_ABOVE {
        database.compact().map_err(StorageError::database)?;
    }
    Ok(database)
}

fn open_and_read(path: &Path) -> Result<(Database, Loaded), StorageError> {
    let database = open_database(path)?;
    let transaction = database.begin_write().map_err(StorageError::database)?;
    for_each_table(&transaction)?;
    transaction.commit().map_err(StorageError::database)?;
    let loaded = read(&database)?;
    Ok((database, loaded))
}

/// Makes the tables, so that a new file can be read like an old one.
fn for_each_table(transaction: &WriteTransaction) -> Result<(), StorageError> {
    transaction.open_table(ROOTS).map_err(StorageError::database)?;
    transaction.open_table(TARGETS).map_err(StorageError::database)?;
    transaction.open_table(MARKS).map_err(StorageError::database)?;
    transaction.open_table(HELD).map_err(StorageError::database)?;
    transaction.open_table(PAUSED).map_err(StorageError::database)?;
    Ok(())
}

fn read(database: &Database) -> Result<Loaded, StorageError> {
    let error = StorageError::database;
    let transaction = database.begin_read().map_err(error)?;
    let mut loaded = Loaded::default();
    for entry in
        transaction.open_table(ROOTS).map_err(StorageError::database)?.iter().map_err(StorageError::database)?
    {
        let (name, record) = entry.map_err(StorageError::database)?;
        let record =
            decode_root(record.value()).map_err(|error| StorageError::Record { table: "a record of a root", error })?;
        loaded.roots.insert(name.value().to_owned(), SavedRoot { record, targets: BTreeMap::new() });
    }
    let mut marks = read_marks(&transaction, MARKS)?;
    let mut held = read_marks(&transaction, HELD)?;
    let targets = transaction.open_table(TARGETS).map_err(StorageError::database)?;
    let paused = transaction.open_table(PAUSED).map_err(StorageError::database)?;
    for entry in targets.iter().map_err(StorageError::database)? {
        let (key, number) = entry.map_err(StorageError::database)?;
        let ((root, location), number) = (key.value(), number.value());
        if let Some(root) = loaded.roots.get_mut(root) {
            let target = SavedTarget {
                marks: marks.remove(&number).unwrap_or_default(),
                held: held.remove(&number).unwrap_or_default(),
                paused: paused.get(number).map_err(StorageError::database)?.is_some(),
            };
            root.targets.insert(location.to_owned(), target);
        }
    }
    Ok(loaded)
}

fn read_marks(
    transaction: &redb::ReadTransaction,
    table: TableDefinition<'_, (u32, u32), &'static [u8]>,
) -> Result<BTreeMap<u32, Vec<SavedMark>>, StorageError> {
    let mut marks: BTreeMap<u32, Vec<SavedMark>> = BTreeMap::new();
    for entry in
        transaction.open_table(table).map_err(StorageError::database)?.iter().map_err(StorageError::database)?
    {
        let (key, bytes) = entry.map_err(StorageError::database)?;
        let mark = decode_mark(bytes.value()).map_err(|error| StorageError::Record { table: "a mark", error })?;
        marks.entry(key.value().0).or_default().push(mark);
    }
    Ok(marks)
}

impl Storage {
    /// Begins a run with these roots: what others left is forgotten, and until the end in order none is clean.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn begin(&mut self, roots: &[&str]) -> Result<(), StorageError> {
        self.transact(|transaction| {
            let mut table = transaction.open_table(ROOTS).map_err(StorageError::database)?;
            let mut kept = Vec::new();
            for entry in table.iter().map_err(StorageError::database)? {
                let (name, record) = entry.map_err(StorageError::database)?;
                let record = decode_root(record.value())
                    .map_err(|error| StorageError::Record { table: "a record of a root", error })?;
                kept.push((name.value().to_owned(), record));
            }
            for (name, record) in kept {
                if roots.contains(&name.as_str()) {
                    let unclean = encode_root(&RootRecord { clean: false, ..record });
                    table.insert(name.as_str(), unclean.as_slice()).map_err(StorageError::database)?;
                } else {
                    table.remove(name.as_str()).map_err(StorageError::database)?;
                    forget_targets(transaction, &name, &BTreeSet::new())?;
                }
            }
            Ok(())
        })
    }

    /// Writes a root's state, all of it or nothing.
    ///
    /// # Errors
    /// [`StorageError`]; the next snapshot of each of its targets must be whole then.
    pub fn write(&mut self, snapshot: &Snapshot) -> Result<(), StorageError> {
        self.transact(|transaction| {
            let mut roots = transaction.open_table(ROOTS).map_err(StorageError::database)?;
            let record = encode_root(&snapshot.record);
            roots.insert(snapshot.root.as_str(), record.as_slice()).map_err(StorageError::database)?;
            if snapshot.targets.iter().any(|target| target.whole) {
                let kept = snapshot.targets.iter().map(|target| target.location.as_str()).collect();
                forget_targets(transaction, &snapshot.root, &kept)?;
            }
            for target in &snapshot.targets {
                write_target(transaction, &snapshot.root, target)?;
            }
            Ok(())
        })
    }

    fn transact(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_database(&self.path)?,
        };
        let mut transaction = database.begin_write().map_err(StorageError::database)?;
        // Slower to commit, but no repair at the start after a kill.
        transaction.set_quick_repair(true);
        change(&transaction)?;
        transaction.commit().map_err(StorageError::database)?;
        self.database = Some(database);
        Ok(())
    }
}

fn write_target(transaction: &WriteTransaction, root: &str, target: &TargetSnapshot) -> Result<(), StorageError> {
    let number = {
        let mut targets = transaction.open_table(TARGETS).map_err(StorageError::database)?;
        let key = (root, target.location.as_str());
        let known = targets.get(key).map_err(StorageError::database)?.map(|number| number.value());
        match known {
            Some(number) => number,
            None => {
                let mut taken = BTreeSet::new();
                for entry in targets.iter().map_err(StorageError::database)? {
                    taken.insert(entry.map_err(StorageError::database)?.1.value());
                }
                let free = (0..=u32::MAX).find(|number| !taken.contains(number)).unwrap_or(u32::MAX);
                targets.insert(key, free).map_err(StorageError::database)?;
                free
            }
        }
    };
    let mut paused = transaction.open_table(PAUSED).map_err(StorageError::database)?;
    if target.paused {
        paused.insert(number, ()).map_err(StorageError::database)?;
    } else {
        paused.remove(number).map_err(StorageError::database)?;
    }
    let all = (number, 0)..=(number, u32::MAX);
    let mut marks = transaction.open_table(MARKS).map_err(StorageError::database)?;
    if target.whole {
        marks.retain_in(all.clone(), |_, _| false).map_err(StorageError::database)?;
    }
    for (key, change) in &target.changes {
        match change {
            Some(mark) => {
                let bytes = encode_mark(mark);
                marks.insert((number, *key), bytes.as_slice()).map_err(StorageError::database)?;
            }
            None => {
                marks.remove((number, *key)).map_err(StorageError::database)?;
            }
        }
    }
    if let Some(list) = &target.held {
        let mut held = transaction.open_table(HELD).map_err(StorageError::database)?;
        held.retain_in(all, |_, _| false).map_err(StorageError::database)?;
        for (key, mark) in (0_u32..).zip(list) {
            let bytes = encode_mark(mark);
            held.insert((number, key), bytes.as_slice()).map_err(StorageError::database)?;
        }
    }
    Ok(())
}

/// Forgets the targets of `root` but for those in `kept`.
fn forget_targets(transaction: &WriteTransaction, root: &str, kept: &BTreeSet<&str>) -> Result<(), StorageError> {
    let mut targets = transaction.open_table(TARGETS).map_err(StorageError::database)?;
    let mut gone = Vec::new();
    for entry in targets.iter().map_err(StorageError::database)? {
        let (key, number) = entry.map_err(StorageError::database)?;
        let (of, location) = key.value();
        if of == root && !kept.contains(location) {
            gone.push((location.to_owned(), number.value()));
        }
    }
    for (location, number) in gone {
        targets.remove((root, location.as_str())).map_err(StorageError::database)?;
        let all = (number, 0)..=(number, u32::MAX);
        let mut marks = transaction.open_table(MARKS).map_err(StorageError::database)?;
        marks.retain_in(all.clone(), |_, _| false).map_err(StorageError::database)?;
        let mut held = transaction.open_table(HELD).map_err(StorageError::database)?;
        held.retain_in(all, |_, _| false).map_err(StorageError::database)?;
        let mut paused = transaction.open_table(PAUSED).map_err(StorageError::database)?;
        paused.remove(number).map_err(StorageError::database)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::change::{Content, MarkKind, Priority};
    use crate::path::RelPath;
    use crate::sys::clock::WallTime;

    fn mark(path: &str) -> SavedMark {
        SavedMark {
            path: RelPath::parse(path.as_bytes()).unwrap(),
            kind: MarkKind::Point,
            content: Content::Resend,
            least: Content::Since(WallTime(1)),
            priority: Priority::Live,
            first: WallTime(2),
            attempts: 0,
            derived: false,
            large: false,
            sent: false,
        }
    }

    fn record(watermark: i64) -> RootRecord {
        RootRecord {
            boot: "boot".to_owned(),
            file_system: 1,
            inode: 2,
            fingerprint: 3,
            watermark: Some(WallTime(watermark)),
            clock_offset: 4,
            clean: true,
            paused: true,
            entries: 5,
        }
    }

    fn snapshot(watermark: i64, whole: bool, changes: Vec<SavedChange>) -> Snapshot {
        let target = TargetSnapshot { location: "rsync://h/m".to_owned(), whole, changes, held: None, paused: true };
        Snapshot { root: "data".to_owned(), record: record(watermark), targets: vec![target] }
    }

    /// The paths that the next start finds.
    fn found(directory: &Path) -> Vec<String> {
        let Opened { storage: _storage, loaded, aside } = open(directory).unwrap();
        assert!(aside.is_none(), "{aside:?}");
        let Some(root) = loaded.roots.get("data") else { return Vec::new() };
        let mut paths: Vec<String> =
            root.targets.values().flat_map(|target| &target.marks).map(|mark| mark.path.to_string()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn differences_add_up_and_a_whole_snapshot_replaces_them() {
        let scratch = tempfile::tempdir().unwrap();
        let Opened { mut storage, loaded, .. } = open(scratch.path()).unwrap();
        assert_eq!(loaded, Loaded::default());
        let changes = vec![(1, Some(mark("a"))), (2, Some(mark("b"))), (3, Some(mark("c")))];
        storage.write(&snapshot(10, true, changes)).unwrap();
        storage.write(&snapshot(20, false, vec![(1, None), (2, Some(mark("b2"))), (9, Some(mark("d")))])).unwrap();
        drop(storage);
        assert_eq!(found(scratch.path()), ["b2", "c", "d"]);
        let Opened { mut storage, loaded, .. } = open(scratch.path()).unwrap();
        assert_eq!(loaded.roots["data"].record, record(20));
        assert!(loaded.roots["data"].targets["rsync://h/m"].paused);
        storage.write(&snapshot(30, true, vec![(7, Some(mark("only")))])).unwrap();
        drop(storage);
        assert_eq!(found(scratch.path()), ["only"]);
        let mode = std::fs::metadata(scratch.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_run_that_begins_is_not_clean_and_forgets_roots_and_targets_that_are_not_there_any_more() {
        let scratch = tempfile::tempdir().unwrap();
        let Opened { mut storage, .. } = open(scratch.path()).unwrap();
        storage.write(&snapshot(10, true, vec![(1, Some(mark("a")))])).unwrap();
        storage.begin(&["data"]).unwrap();
        drop(storage);
        let Opened { mut storage, loaded, .. } = open(scratch.path()).unwrap();
        assert!(!loaded.roots["data"].record.clean);
        let mut other = snapshot(11, true, vec![(1, Some(mark("x")))]);
        other.targets[0].location = "/elsewhere".to_owned();
        storage.write(&other).unwrap();
        drop(storage);
        let Opened { mut storage, loaded, .. } = open(scratch.path()).unwrap();
        assert_eq!(loaded.roots["data"].targets.keys().collect::<Vec<_>>(), ["/elsewhere"]);
        storage.begin(&["another"]).unwrap();
        drop(storage);
        let Opened { loaded, .. } = open(scratch.path()).unwrap();
        assert_eq!(loaded, Loaded::default());
    }

    #[test]
    fn held_marks_are_kept_until_they_are_told_anew() {
        let scratch = tempfile::tempdir().unwrap();
        let Opened { mut storage, .. } = open(scratch.path()).unwrap();
        let mut first = snapshot(10, true, Vec::new());
        first.targets[0].held = Some(vec![mark("h1"), mark("h2")]);
        storage.write(&first).unwrap();
        storage.write(&snapshot(20, false, vec![(1, Some(mark("a")))])).unwrap();
        drop(storage);
        let Opened { mut storage, loaded, .. } = open(scratch.path()).unwrap();
        assert_eq!(loaded.roots["data"].targets["rsync://h/m"].held, [mark("h1"), mark("h2")]);
        first.targets[0].held = Some(Vec::new());
        storage.write(&first).unwrap();
        drop(storage);
        assert_eq!(open(scratch.path()).unwrap().loaded.roots["data"].targets["rsync://h/m"].held, []);
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_few_wrecks_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 0..4 {
            std::fs::write(scratch.path().join(NAME), format!("no database, {number}")).unwrap();
            let Opened { storage, loaded, aside } = open(scratch.path()).unwrap();
            let (path, _) = aside.unwrap();
            assert_eq!(std::fs::read_to_string(path).unwrap(), format!("no database, {number}"));
            assert_eq!(loaded, Loaded::default());
            drop(storage);
        }
        let names = std::fs::read_dir(scratch.path()).unwrap().count();
        assert_eq!(names, 1 + usize::from(ASIDE_MAX));
    }

    #[test]
    fn every_flipped_byte_is_noticed_or_harmless() {
        let scratch = tempfile::tempdir().unwrap();
        let Opened { mut storage, .. } = open(scratch.path()).unwrap();
        let paths: Vec<String> = (0..40).map(|number| format!("d/{number:02}")).collect();
        let changes = (0_u32..).zip(&paths).map(|(key, path)| (key, Some(mark(path)))).collect();
        storage.write(&snapshot(10, true, changes)).unwrap();
        drop(storage);
        let whole = std::fs::read(scratch.path().join(NAME)).unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut noticed = 0;
        for _round in 0..60 {
            let mut bytes = whole.clone();
            let at = rng.usize(..bytes.len().min(64 * 1024));
            bytes[at] ^= 1 << rng.u8(..8);
            let place = tempfile::tempdir().unwrap();
            std::fs::write(place.path().join(NAME), bytes).unwrap();
            let Opened { storage: _storage, loaded, aside } = open(place.path()).unwrap();
            match aside {
                Some(_) => noticed += 1,
                None => {
                    let marks = loaded.roots.get("data").map_or(0, |root| root.targets["rsync://h/m"].marks.len());
                    assert_eq!(marks, paths.len(), "byte {at}");
                }
            }
        }
        assert!(noticed > 0, "none of the flips hit anything");
    }

    #[test]
    fn a_file_that_ended_the_agent_twice_is_set_aside() {
        let scratch = tempfile::tempdir().unwrap();
        let Opened { mut storage, .. } = open(scratch.path()).unwrap();
        storage.write(&snapshot(10, true, vec![(1, Some(mark("a")))])).unwrap();
        drop(storage);
        std::fs::write(scratch.path().join(ATTEMPTS), [1]).unwrap();
        assert_eq!(found(scratch.path()), ["a"], "one attempt may have been a kill");
        std::fs::write(scratch.path().join(ATTEMPTS), [2]).unwrap();
        let Opened { storage: _storage, loaded, aside } = open(scratch.path()).unwrap();
        assert!(matches!(aside, Some((_, StorageError::Attempts))), "{aside:?}");
        assert_eq!(loaded, Loaded::default());
        assert!(!scratch.path().join(ATTEMPTS).exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_and_nothing_is_set_aside() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(open(&scratch.path().join("missing")).is_err());
    }
}
