//! Why a directory has no watch, and what the operator can do about it.

use crate::limits::{Allowance, WATCH_BYTES, grouped, watches_for};
use crate::sys::inotify::WatchError;

/// Why a directory has no watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The kernel's limit on watches is used up.
    Limit,
    /// Watches hold as much memory as they may.
    Memory,
    /// It cannot be read or watched by this user.
    Unreadable,
}

impl Lack {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Limit, Self::Memory, Self::Unreadable];

    /// What an error of an add means.
    #[must_use]
    pub fn of(error: &WatchError) -> Self {
        match error {
            WatchError::LimitReached => Self::Limit,
            WatchError::Memory => Self::Memory,
            WatchError::Vanished | WatchError::Handle(_) | WatchError::Other(_) => Self::Unreadable,
        }
    }

    /// Its name in `status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "unwatched",
            Self::Memory => "memory",
            Self::Unreadable => "unreadable",
        }
    }

    /// Why that is so, and what the operator can do.
    #[must_use]
    pub fn remedy(self, allowance: Option<&Allowance>) -> String {
        match (self, allowance) {
            (Self::Limit, allowance) => {
                let limit = allowance.and_then(Allowance::limit);
                limit.map_or_else(
                    || "raise fs.inotify.max_user_watches, see sysctl/90-fansync.conf".to_owned(),
                    |(limit, now)| {
                        let name = limit.sysctl();
                        let wanted = watches_for(now);
                        format!(
                            "{name} is {} and used up: fansync tune --apply, or sysctl -w {name}={wanted}",
                            grouped(now)
                        )
                    },
                )
            }
            (Self::Memory, None) => "no memory is left for a watch".to_owned(),
            (Self::Memory, Some(allowance)) => format!(
                "watches hold {WATCH_BYTES} B each that the kernel cannot reclaim, and may hold 25 % of {}: give it more \
                 memory, or let fansync watch by fanotify, which needs none (as root)",
                allowance.budget().whose()
            ),
            (Self::Unreadable, _) => {
                "it cannot be read or watched by the user that runs fansync: allow it, or exclude it by a filter"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Budget;
    use crate::sys::limits::Proc;

    #[test]
    fn each_reason_has_its_remedy() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("sys/fs/inotify")).unwrap();
        std::fs::write(scratch.path().join("sys/fs/inotify/max_user_watches"), "8192\n").unwrap();
        let allowance = Allowance::new(Proc::at(scratch.path()), Budget { ram: 1 << 30, group: None }, false);
        let check = |lack: Lack, words: &str| {
            let remedy = lack.remedy(Some(&allowance));
            assert!(remedy.starts_with(words), "{remedy}");
            assert!(!lack.remedy(None).is_empty());
        };
        check(
            Lack::Limit,
            "fs.inotify.max_user_watches is 8,192 and used up: fansync tune --apply, or sysctl -w fs.inotify.max_user_watches=131072",
        );
        check(
            Lack::Memory,
            "watches hold 1300 B each that the kernel cannot reclaim, and may hold 25 % of 1.0 GiB of RAM: ",
        );
        check(Lack::Unreadable, "it cannot be read or watched by the user that runs fansync");
    }

    #[test]
    fn an_error_of_an_add_is_a_reason() {
        let other = WatchError::Other(std::io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(Lack::of(&WatchError::LimitReached), Lack::Limit);
        assert_eq!(Lack::of(&WatchError::Memory), Lack::Memory);
        assert_eq!(Lack::of(&other), Lack::Unreadable);
        assert_eq!(Lack::ALL.map(Lack::name), ["unwatched", "memory", "unreadable"]);
    }
}
