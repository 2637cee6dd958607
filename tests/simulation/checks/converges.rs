//! When the agent says that it is done, the target equals the source (no silent loss); and it says so within bounded time
//! once the source is quiet (converges).

use std::collections::BTreeMap;
use std::time::Duration;

use fansync::path::RelPath;

use super::super::files::Body;
use super::super::machine::State;
use super::super::target::Target;

/// The longest that anything waits: the retry of a dead letter, a hanging rsync and a slow pause beside it.
pub const BOUND: Duration = Duration::from_secs(3_600);

/// The target is the source, but for what no comparison by size and mtime can see (`unseen`), and but
/// for what was written through a name that went before anybody looked.
pub fn equal(state: &State, target: &Target, unseen: &BTreeMap<RelPath, u64>) {
    let files = &state.files;
    let mut differences = target.differences(files);
    let now_unseen = target.unseen(files);
    differences.retain(|(path, ..)| {
        let excused = now_unseen.get(path).is_some_and(|content| unseen.get(path) == Some(content));
        let blind = files.resolve(path).is_ok_and(|inode| match files.get(inode).body {
            Body::File { content, .. } => state.blind.get(&inode) == Some(&content),
            Body::Directory(_) | Body::Symlink(_) => false,
        });
        !excused && !blind
    });
    assert!(
        differences.is_empty(),
        "silent loss: nothing is pending and these differ (path, source, target): {differences:?}"
    );
}

/// Only so much time passed since the source became quiet.
pub fn in_time(spent: Duration, what: impl FnOnce() -> String) {
    assert!(spent <= BOUND, "no convergence within {BOUND:?}: {}", what());
}
