//! What survives a restart: how far each root is told (the watermark), and which marks each target still waits for.
//!
//! The file system is the journal (ARCHITECTURE.md): whatever changed at or after the watermark is found again by its
//! ctime, so no event is written here, only the watermark and the marks that were not done by then. Both are of one
//! moment, because they are written in one transaction.
//!
//! `record` is the bytes (pure), `start` says what a start may build on (pure), `storage` is the file.

mod record;
mod start;
mod storage;

pub use record::{DamagedRecord, decode_mark, decode_root, encode_mark, encode_root};
pub use start::{Facts, RootRecord, Start, decide};
pub use storage::{Loaded, Opened, SavedRoot, SavedTarget, Snapshot, Storage, StorageError, TargetSnapshot, open};

/// FNV-1a over texts, each ended: the same in every release, because what it names must be found again.
#[must_use]
pub fn fingerprint<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for text in texts {
        for byte in text.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
