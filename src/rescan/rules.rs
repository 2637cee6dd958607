//! The rules of the watermark rescan (notes/kernel.md 7.2). Pure.

use crate::sys::clock::WallTime;

/// What a directory's ctime says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its names are those of before: look at its files, go on into its directories.
    Descend,
    /// Names in it came, went or changed: its listing is to be compared, and its directories are gone into.
    Listing,
    /// It may be another directory than before, whose inner ctimes are old: everything beneath is to be compared.
    Subtree,
}

/// Judges a directory by its ctime.
///
/// `parent_changed`: its parent's ctime is at or after the watermark too, so it may have been moved here or put in the
/// place of another one. `known`: somebody remembers which directory had this name before and looks by himself whether
/// it still is the same (the shard, whose watch descriptors belong to inodes); then the ctime of the parent says nothing
/// more.
#[must_use]
pub fn judge_directory(changed: WallTime, since: WallTime, parent_changed: bool, known: bool) -> Verdict {
    match (is_changed(changed, since), parent_changed && !known) {
        (false, _) => Verdict::Descend,
        (true, false) => Verdict::Listing,
        (true, true) => Verdict::Subtree,
    }
}

/// Whether something with this ctime may have changed since. Stamps have the grain of the coarse clock, so the same
/// moment counts.
#[must_use]
pub fn is_changed(changed: WallTime, since: WallTime) -> bool {
    changed >= since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table() {
        let since = WallTime(100);
        let check = |changed: i64, parent_changed, known, expected| {
            let verdict = judge_directory(WallTime(changed), since, parent_changed, known);
            assert_eq!(verdict, expected, "{changed} {parent_changed} {known}");
        };
        check(99, false, false, Verdict::Descend);
        check(99, true, false, Verdict::Descend);
        check(99, true, true, Verdict::Descend);
        check(100, false, false, Verdict::Listing);
        check(100, false, true, Verdict::Listing);
        check(101, true, true, Verdict::Listing);
        check(100, true, false, Verdict::Subtree);
        check(101, true, false, Verdict::Subtree);
    }
}
