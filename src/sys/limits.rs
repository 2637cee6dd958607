//! The kernel's limits on inotify and fanotify: read, and raised, below `/proc/sys` (inotify(7), fanotify(7),
//! namespaces(7)). What they should be is in `limits`.

use std::io;
use std::path::{Path, PathBuf};

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Events that wait in the queue of one inotify instance. One for the machine; copied when an instance is made.
    InotifyQueue,
    /// inotify instances of a user. In force at once.
    InotifyInstances,
    /// inotify watches of a user. In force at once.
    InotifyWatches,
    /// Events that wait in the queue of one fanotify group. One for the machine; copied when a group is made.
    FanotifyQueue,
    /// fanotify groups of a user. In force at once.
    FanotifyGroups,
    /// fanotify marks of a user. In force at once.
    FanotifyMarks,
    /// As [`Self::InotifyInstances`], in the user namespace of this process. In the first one it is the same number.
    NamespaceInstances,
    /// As [`Self::InotifyWatches`], in the user namespace of this process.
    NamespaceWatches,
    /// As [`Self::FanotifyGroups`], in the user namespace of this process.
    NamespaceGroups,
    /// As [`Self::FanotifyMarks`], in the user namespace of this process.
    NamespaceMarks,
}

impl Limit {
    /// Every limit, in the order in which they are told.
    pub const ALL: [Self; 10] = [
        Self::InotifyWatches,
        Self::InotifyQueue,
        Self::InotifyInstances,
        Self::FanotifyQueue,
        Self::FanotifyGroups,
        Self::FanotifyMarks,
        Self::NamespaceWatches,
        Self::NamespaceInstances,
        Self::NamespaceGroups,
        Self::NamespaceMarks,
    ];

    /// Its name for sysctl(8).
    #[must_use]
    pub fn sysctl(self) -> &'static str {
        match self {
            Self::InotifyQueue => "fs.inotify.max_queued_events",
            Self::InotifyInstances => "fs.inotify.max_user_instances",
            Self::InotifyWatches => "fs.inotify.max_user_watches",
            Self::FanotifyQueue => "fs.fanotify.max_queued_events",
            Self::FanotifyGroups => "fs.fanotify.max_user_groups",
            Self::FanotifyMarks => "fs.fanotify.max_user_marks",
            Self::NamespaceInstances => "user.max_inotify_instances",
            Self::NamespaceWatches => "user.max_inotify_watches",
            Self::NamespaceGroups => "user.max_fanotify_groups",
            Self::NamespaceMarks => "user.max_fanotify_marks",
        }
    }

    /// It is one of the user namespace alone, and no file under sysctl.d can set it there.
    #[must_use]
    pub fn is_of_namespace(self) -> bool {
        matches!(self, Self::NamespaceInstances | Self::NamespaceWatches | Self::NamespaceGroups | Self::NamespaceMarks)
    }
}

/// What raising a limit came to.
#[derive(Debug)]
pub enum Raised {
    /// It was high enough.
    Enough(u64),
    /// It was raised from this.
    From(u64),
    /// It is this, and could not be raised.
    Refused(u64, io::Error),
}

/// Where proc(5) is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proc(PathBuf);

impl Default for Proc {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl Proc {
    /// At another place: tests change no limit of the machine that they run on.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// A file in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Its mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, limit: Limit) -> PathBuf {
        self.0.join("sys").join(limit.sysctl().replace('.', "/"))
    }

    /// Reads a limit.
    ///
    /// # Errors
    /// Those of reading a file: `ENOENT` where the kernel was built without it; `InvalidData` when it is no number.
    pub fn limit(&self, limit: Limit) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.file(limit))?;
        text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
    }

    /// Raises `limit` if it is lower than `wanted`; never lowers it.
    ///
    /// # Errors
    /// When the limit cannot be read.
    pub fn raise(&self, limit: Limit, wanted: u64) -> io::Result<Raised> {
        let now = self.limit(limit)?;
        if now >= wanted {
            return Ok(Raised::Enough(now));
        }
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(self.file(limit))
            .and_then(|mut file| io::Write::write_all(&mut file, format!("{wanted}\n").as_bytes()));
        Ok(match written {
            Ok(()) => Raised::From(now),
            Err(error) => Raised::Refused(now, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_and_never_lowered() {
        let scratch = tempfile::tempdir().unwrap();
        let proc = Proc::at(scratch.path());
        let (limit, file) = (Limit::InotifyWatches, scratch.path().join("sys/fs/inotify/max_user_watches"));
        assert_eq!(proc.raise(limit, 100).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "16\n").unwrap();
        assert!(matches!(proc.raise(limit, 100).unwrap(), Raised::From(16)));
        assert_eq!(proc.limit(limit).unwrap(), 100);
        std::fs::write(&file, "500\n").unwrap();
        assert!(matches!(proc.raise(limit, 100).unwrap(), Raised::Enough(500)));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "500\n");
        std::fs::write(&file, "many\n").unwrap();
        assert!(proc.raise(limit, 100).is_err());
    }

    #[test]
    fn this_kernel_has_every_limit_under_its_name() {
        for limit in Limit::ALL {
            assert!(Proc::default().limit(limit).unwrap() > 0, "{}", limit.sysctl());
        }
    }
}
