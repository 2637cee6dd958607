//! Each directory is watched, and by one shard only.

use super::super::files::{Inode, ROOT};
use super::super::machine::State;

/// To be asked when nothing is left to do and every directory has a watch.
pub fn once(state: &State) {
    let mut waiting: Vec<Inode> = vec![ROOT];
    while let Some(directory) = waiting.pop() {
        let watches = state.instances.iter().filter(|instance| instance.watches(directory).is_some()).count();
        assert_eq!(watches, 1, "watches: {} has {watches}", state.name_of(state.files.get(directory).parent, b"?"));
        let names = state.files.names(directory);
        waiting.extend(names.values().copied().filter(|inode| state.files.is_directory(*inode)));
    }
}
