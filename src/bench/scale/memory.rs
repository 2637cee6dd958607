//! What the kernel keeps for an agent's watches and cannot give back while they last.
//!
//! The marks are measured: unreclaimable slab memory grows by them. The inodes that they pin are not, since a walk has
//! brought them into memory before anybody watched; there, a watch keeps one inode of the file system's slab.

use std::fs;

use serde::Serialize;

/// Bytes of an inode in memory where `/proc/slabinfo` does not say, on Linux 6.18 (notes/kernel.md 1.3).
const USUAL: [(&str, &str, u64); 4] = [
    ("ext4", "ext4_inode_cache", 1128),
    ("xfs", "xfs_inode", 1024),
    ("btrfs", "btrfs_inode", 1016),
    ("tmpfs", "shmem_inode_cache", 752),
];

/// Kernel memory of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Pinned {
    /// Growth of unreclaimable slab memory from before the start until it was live, measured. Unit: bytes. Others of this
    /// machine are in it.
    pub(super) marks_bytes: i64,
    /// Watched inodes times the size of one. Unit: bytes. `None` on a file system that is not known.
    pub(super) inodes_bytes: Option<u64>,
    /// Whether that size is this kernel's own, from `/proc/slabinfo`, or that of another machine.
    pub(super) inode_size_is_read: bool,
}

/// Unreclaimable slab memory of the machine. Unit: bytes.
pub(super) fn unreclaimable() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok()).map_or(0, |kib| kib * 1024)
}

/// What `watches` on a file system of that name keep, of which `marks_bytes` were measured.
pub(super) fn pinned(marks_bytes: i64, watches: u64, file_system: &str) -> Pinned {
    // Only root may read it.
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let usual = USUAL.iter().find(|(name, ..)| *name == file_system);
    let read = usual.and_then(|(_, slab, _)| object_size(&slabs, slab));
    let size = read.or(usual.map(|(.., size)| *size));
    Pinned { marks_bytes, inodes_bytes: size.map(|size| size * watches), inode_size_is_read: read.is_some() }
}

/// Bytes of one object: the fourth column of slabinfo(5).
fn object_size(slabs: &str, slab: &str) -> Option<u64> {
    let mut lines = slabs.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut columns| (columns.next() == Some(slab)).then(|| columns.nth(2)?.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_inode_is_read_or_said_to_be_of_another_machine() {
        let slabs = "# name <active_objs> <num_objs> <objsize>\nxfs_inode 736 800 1040 32 8 : tunables 0 0 0\n";
        assert_eq!((object_size(slabs, "xfs_inode"), object_size(slabs, "xfs")), (Some(1040), None));
        assert_eq!(pinned(5, 10, "nfs").inodes_bytes, None);
        let tmpfs = pinned(5, 10, "tmpfs");
        assert!(tmpfs.inodes_bytes.unwrap() > 10 * 100 && tmpfs.marks_bytes == 5);
        assert!(unreclaimable() > 0);
    }
}
