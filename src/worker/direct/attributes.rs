//! Which attributes `rsync -a` would set. Pure, but for asking who we are.

use crate::sys::files::{Details, EntryType};
use crate::sys::privileges;

/// Bits that chown(2) may clear.
const CLEARED_BY_CHOWN: u32 = 0o6000;

/// Whose files this process may give away: as `rsync -a` has it, owners are kept by root only, and groups otherwise by
/// their members (rsync(1), `--owner` and `--group`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    root: bool,
    groups: Vec<u32>,
}

/// What is to be set, in this order; whatever is `None` is as it should be, or not ours to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// The owner.
    pub user: Option<u32>,
    /// The group.
    pub group: Option<u32>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// The source's mtime.
    pub modified: bool,
}

impl Rights {
    /// Of this process; `None` where its real and its effective user differ: programs do not agree on who it is then.
    #[must_use]
    pub fn of_self() -> Option<Self> {
        let (real, effective) = privileges::users();
        (real == effective).then(|| Self { root: effective == 0, groups: privileges::groups() })
    }

    /// What makes `target` have the attributes of `source`.
    #[must_use]
    pub fn settings(&self, source: &Details, target: &Details) -> Settings {
        let user = (self.root && source.user != target.user).then_some(source.user);
        let gives_group = self.root || self.groups.contains(&source.group);
        let group = (gives_group && source.group != target.group).then_some(source.group);
        let chowned = user.is_some() || group.is_some();
        let cleared = chowned && source.mode & CLEARED_BY_CHOWN != 0;
        let mode = (source.status.entry_type != EntryType::Symlink && (source.mode != target.mode || cleared))
            .then_some(source.mode);
        Settings { user, group, mode, modified: source.modified_exactly != target.modified_exactly }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::WallTime;
    use crate::sys::files::{Identity, Status};

    fn of(entry_type: EntryType, mode: u32, user: u32, group: u32) -> Details {
        let identity = Identity { device: 1, inode: 1 };
        let at = WallTime(0);
        let status = Status { entry_type, identity, links: 1, size: 0, changed: at, modified: at };
        Details { status, mode, user, group, modified_exactly: (0, 0) }
    }

    #[test]
    fn only_root_gives_files_away_and_others_to_their_groups() {
        let root = Rights { root: true, groups: vec![0] };
        let other = Rights { root: false, groups: vec![7, 8] };
        let file = |mode, user, group| of(EntryType::File, mode, user, group);
        let check =
            |rights: &Rights, source: Details, target: Details, expected: (Option<u32>, Option<u32>, Option<u32>)| {
                let Settings { user, group, mode, modified } = rights.settings(&source, &target);
                assert_eq!(((user, group, mode), modified), (expected, false), "{source:?} {target:?}");
            };
        check(&root, file(0o644, 1, 2), file(0o644, 1, 2), (None, None, None));
        check(&root, file(0o644, 1, 2), file(0o600, 0, 0), (Some(1), Some(2), Some(0o644)));
        check(&root, file(0, 1, 2), file(0o600, 1, 0), (None, Some(2), Some(0)));
        check(&other, file(0o644, 1, 2), file(0o644, 7, 7), (None, None, None));
        check(&other, file(0o644, 1, 8), file(0o644, 7, 7), (None, Some(8), None));
        // chown(2) clears them.
        check(&root, file(0o4755, 1, 2), file(0o4755, 0, 2), (Some(1), None, Some(0o4755)));
        check(&other, file(0o2755, 7, 8), file(0o2755, 7, 7), (None, Some(8), Some(0o2755)));
        check(&other, file(0o2755, 1, 2), file(0o2755, 7, 7), (None, None, None));
        // A symlink has no mode of its own.
        let link = |mode, user| of(EntryType::Symlink, mode, user, 0);
        check(&root, link(0o777, 1), link(0o755, 0), (Some(1), None, None));
    }

    #[test]
    fn a_time_is_set_when_it_differs_by_a_nanosecond() {
        let rights = Rights { root: false, groups: Vec::new() };
        let source = of(EntryType::Directory, 0o755, 1, 1);
        let later = Details { modified_exactly: (0, 1), ..source };
        assert_eq!(rights.settings(&later, &source), Settings { modified: true, ..Settings::default() });
        assert_eq!(rights.settings(&source, &source), Settings::default());
    }
}
