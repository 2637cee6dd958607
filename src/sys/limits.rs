//! The kernel's limits on inotify, `/proc/sys/fs/inotify/` (inotify(7)).

use std::io;
use std::path::Path;

/// One limit and what a busy file server needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// File name below `/proc/sys/fs/inotify`.
    pub name: &'static str,
    /// The least that is good.
    pub wanted: u64,
}

/// Queue: fixed when an instance is made; holds what comes in while the reader is away. 1,048,576 events ride out 1.5 s
/// of the fastest local writer, at 64 to 100 bytes each, allocated only when used (notes/kernel.md 1.1).
/// Instances: others of the same user need some too.
pub const LIMITS: [Limit; 2] =
    [Limit { name: "max_queued_events", wanted: 1_048_576 }, Limit { name: "max_user_instances", wanted: 512 }];

/// What raising a limit came to.
#[derive(Debug)]
pub enum Raised {
    /// It was high enough.
    Enough,
    /// It was raised from this.
    From(u64),
    /// It is this, and could not be raised.
    Refused(u64, io::Error),
}

/// Raises `limit` in `directory` if it is lower than wanted; never lowers it.
///
/// # Errors
/// When the limit cannot be read.
pub fn raise(directory: &Path, limit: Limit) -> io::Result<Raised> {
    let path = directory.join(limit.name);
    let text = std::fs::read_to_string(&path)?;
    let now: u64 = text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))?;
    if now >= limit.wanted {
        return Ok(Raised::Enough);
    }
    match std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, limit.wanted.to_string().as_bytes()))
    {
        Ok(()) => Ok(Raised::From(now)),
        Err(error) => Ok(Raised::Refused(now, error)),
    }
}

/// Where the kernel keeps them.
pub const DIRECTORY: &str = "/proc/sys/fs/inotify";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_and_never_lowered() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("x");
        let limit = Limit { name: "x", wanted: 100 };
        std::fs::write(&file, "16\n").unwrap();
        assert!(matches!(raise(scratch.path(), limit).unwrap(), Raised::From(16)));
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("100"));
        std::fs::write(&file, "500\n").unwrap();
        assert!(matches!(raise(scratch.path(), limit).unwrap(), Raised::Enough));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "500\n");
        std::fs::write(&file, "many\n").unwrap();
        assert!(raise(scratch.path(), limit).is_err());
    }
}
