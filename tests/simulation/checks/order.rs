//! Per path, what rests on an older look at the source never comes after what rests on a newer one: so a delete never
//! overtakes a later create, nor an old content a new one. Between runs: within one it is rsync's own order.

use super::super::target::Target;

/// Whether a target was told things out of order.
pub fn check(target: &Target) {
    assert!(target.overtaken.is_empty(), "order: older work came after newer work: {:?}", target.overtaken);
}

#[cfg(test)]
mod tests {
    use fansync::path::RelPath;

    use super::*;

    /// Whether work at a path, each with its run and when that had looked, is noticed.
    #[test]
    fn what_another_run_did_after_a_newer_look_is_not_undone() {
        let check = |work: &[(u64, u64)], noticed: bool| {
            let mut target = Target::new();
            for (run, looked) in work {
                target.run = *run;
                target.tell(&RelPath::parse(b"a").unwrap(), *looked);
            }
            assert_eq!(!target.overtaken.is_empty(), noticed, "{work:?}");
        };
        check(&[(1, 5), (2, 7), (3, 7)], false);
        check(&[(1, 5), (2, 4)], true);
        check(&[(1, 5), (1, 4)], false);
        check(&[(1, 5), (1, 4), (2, 3)], true);
    }
}
