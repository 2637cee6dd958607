//! What the map of directories costs, as the kernel counts it. A program of its own, so that nothing else grows.

use fansync::sys::inotify::Wd;
use fansync::sys::memory::resident;
use fansync::tree::Directories;

/// Directories in each of the tree that is mapped, which is three deep: 242,234. Just above 7/8 of a power of two, where a
/// hash table has just doubled and a directory costs the most.
const BRANCH: u32 = 62;

/// User memory of one watched directory with a name of 8 to 20 bytes. Unit: bytes. With what a backend keeps of its own
/// (fanotify: a table of handles of 20 to 30 bytes), this leaves a directory at 120.
const EACH_MAX: u64 = 85;

/// Names as people and programs give them: 8 to 20 bytes.
fn name(number: u32) -> String {
    let words = ["invoices", "thumbnail", "backup-of", "node_module", "2026-11-24", "release"];
    let word = words[number as usize % words.len()];
    let name = format!("{word}-{number:0width$}", width = number as usize % 9);
    name[..name.len().clamp(8, 20)].to_owned()
}

#[test]
fn a_directory_costs_little_more_than_its_name() {
    let before = resident().unwrap();
    let mut map = Directories::new();
    let (mut count, mut bytes) = (0_u32, 0);
    let mut level = vec![map.root()];
    for _depth in 0..3 {
        let mut next = Vec::new();
        for parent in level {
            for number in 0..BRANCH {
                let name = name(number);
                let id = map.reach(parent, name.as_bytes()).unwrap();
                count += 1;
                bytes += name.len();
                map.bind(id, Wd(i32::try_from(count).unwrap()), 1_000_000_000 + u64::from(count));
                map.set_entries(id, 10);
                next.push(id);
            }
        }
        level = next;
    }
    drop(level);
    let each = resident().unwrap().saturating_sub(before) / u64::from(count);
    assert_eq!(map.watched(), count as usize);
    assert!(
        each <= EACH_MAX,
        "{each} bytes for each of {count} directories, whose names are {} bytes on average",
        bytes / count as usize
    );
}
