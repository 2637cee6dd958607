//! The checkpoint of the model agent: the production records as bytes, whatever transaction comes last.

use std::collections::BTreeMap;

use fansync::change::{SavedChange, SavedMark};
use fansync::checkpoint::{self, RootRecord};

/// What survives a crash of the agent.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    record: Option<Vec<u8>>,
    targets: Vec<BTreeMap<u32, Vec<u8>>>,
}

/// A state that is to be written.
#[derive(Debug)]
pub struct Snapshot {
    pub record: RootRecord,
    pub whole: bool,
    pub changes: Vec<Vec<SavedChange>>,
}

impl Disk {
    /// One transaction.
    pub fn write(&mut self, snapshot: Snapshot) {
        self.record = Some(checkpoint::encode_root(&snapshot.record));
        self.targets.resize_with(snapshot.changes.len(), BTreeMap::new);
        for (target, changes) in self.targets.iter_mut().zip(snapshot.changes) {
            if snapshot.whole {
                target.clear();
            }
            for (key, mark) in changes {
                match mark {
                    Some(mark) => target.insert(key, checkpoint::encode_mark(&mark)),
                    None => target.remove(&key),
                };
            }
        }
    }

    pub fn record(&self) -> Option<RootRecord> {
        self.record.as_deref().map(|bytes| checkpoint::decode_root(bytes).expect("what was written can be read"))
    }

    /// What each target waited for.
    pub fn marks(&self) -> Vec<Vec<SavedMark>> {
        let read = |bytes: &Vec<u8>| checkpoint::decode_mark(bytes).expect("what was written can be read");
        self.targets.iter().map(|target| target.values().map(read).collect()).collect()
    }
}
