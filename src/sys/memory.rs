//! How much memory there is, and how much of it the control group of this process may use (proc_meminfo(5), cgroups(7));
//! and giving back what is not used.

use std::io;
use std::path::{Path, PathBuf};

use super::limits::Proc;

/// What a limit of cgroup v1 reads as when there is none: the largest number of pages in bytes (2^63 less a page). No
/// machine has so much; anything from here on is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// Memory of this process that is in RAM (proc_pid_statm(5)). Unit: bytes.
///
/// # Errors
/// When `/proc/self/statm` cannot be read.
pub fn resident() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let bytes = pages.and_then(|pages| pages.checked_mul(rustix::param::page_size() as u64));
    bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no number of pages"))
}

/// Gives the kernel back what the allocator keeps of freed memory (malloc_trim(3)): without it the memory of a burst stays,
/// as whatever was allocated last lies above it. Takes some milliseconds for a heap of hundreds of megabytes, during which
/// allocations in other threads may wait. Nothing is done where the C library is not glibc.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes a number, no pointer, and touches free memory only, under the allocator's own locks; any thread
        // may call it at any time (malloc_trim(3): MT-Safe).
        #[expect(unsafe_code, reason = "neither rustix nor nix has the call")]
        let _some_given_back = unsafe { libc::malloc_trim(0) };
    }
}

/// A limit on the memory of this process's control group, or of one above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLimit {
    /// Unit: bytes.
    pub bytes: u64,
    /// The file that says so.
    pub file: PathBuf,
}

/// The machine's RAM (`MemTotal`). Unit: bytes.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or says nothing of it.
pub fn ram(proc: &Proc) -> io::Result<u64> {
    let text = std::fs::read_to_string(proc.join("meminfo"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kib.map(|kib: u64| kib * 1024).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no MemTotal"))
}

/// The least limit on this process's control group and on those above it, as far as they are to be seen from here; `None`
/// when there is none. `memory.max` of cgroup v2, `memory.limit_in_bytes` of v1.
#[must_use]
pub fn group_limit(proc: &Proc) -> Option<GroupLimit> {
    let groups = std::fs::read_to_string(proc.join("self/cgroup")).ok()?;
    let mounts = std::fs::read_to_string(proc.join("self/mountinfo")).ok()?;
    groups.lines().filter_map(|line| least_above(line, &mounts)).min_by_key(|limit| limit.bytes)
}

/// The least limit along one line of `/proc/self/cgroup`, which is `HIERARCHY:CONTROLLERS:PATH`.
fn least_above(line: &str, mounts: &str) -> Option<GroupLimit> {
    let mut fields = line.splitn(3, ':');
    let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (kind, option, name) = if hierarchy == "0" && controllers.is_empty() {
        ("cgroup2", None, "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        ("cgroup", Some("memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    let (top, point) = mounts.lines().find_map(|line| mount_of(line, kind, option))?;
    // In a container the mount begins at the container's own group.
    let beneath = Path::new(path).strip_prefix(&top).ok().or_else(|| Path::new(path).strip_prefix("/").ok())?;
    let mut least: Option<GroupLimit> = None;
    for above in beneath.ancestors() {
        let file = point.join(above).join(name);
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        // `max`: no limit.
        let Some(bytes) = text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT) else { continue };
        if least.as_ref().is_none_or(|least| bytes < least.bytes) {
            least = Some(GroupLimit { bytes, file });
        }
    }
    least
}

/// The root and the mount point of a mount of this kind, if this line of `/proc/self/mountinfo` is one
/// (proc_pid_mountinfo(5)).
fn mount_of(line: &str, kind: &str, option: Option<&str>) -> Option<(PathBuf, PathBuf)> {
    let (place, what) = line.split_once(" - ")?;
    let mut what = what.split(' ');
    let (found, _device, options) = (what.next()?, what.next()?, what.next().unwrap_or(""));
    let fits = found == kind && option.is_none_or(|option| options.split(',').any(|each| each == option));
    let mut place = place.split(' ').skip(3);
    fits.then_some(())?;
    Some((PathBuf::from(place.next()?), PathBuf::from(place.next()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found with this line of `self/cgroup`, this mount and these files.
    fn found(group: &str, mount: &str, files: &[(&str, &str)]) -> Option<(u64, String)> {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path();
        std::fs::create_dir_all(place.join("self")).unwrap();
        std::fs::write(place.join("self/cgroup"), group).unwrap();
        std::fs::write(place.join("self/mountinfo"), mount.replace('@', place.to_str().unwrap())).unwrap();
        for (name, text) in files {
            std::fs::create_dir_all(place.join(name).parent().unwrap()).unwrap();
            std::fs::write(place.join(name), text).unwrap();
        }
        let limit = group_limit(&Proc::at(place))?;
        Some((limit.bytes, limit.file.strip_prefix(place).unwrap().display().to_string()))
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let v2 = "31 23 0:28 / @/cg rw - cgroup2 cgroup2 rw\n";
        let tree = [("cg/a/b/memory.max", "max\n"), ("cg/a/memory.max", "4096\n"), ("cg/a/b/c/memory.max", "8192\n")];
        assert_eq!(found("0::/a/b/c\n", v2, &tree), Some((4096, "cg/a/memory.max".to_owned())));
        assert_eq!(found("0::/a/b\n", v2, &tree[..1]), None);
        // The group is above what is mounted here.
        assert_eq!(found("0::/../x\n", v2, &tree), None);

        let v1 = "35 31 0:32 / @/cg/memory rw,relatime - cgroup cgroup rw,memory\n";
        let tree = [
            ("cg/memory/x/memory.limit_in_bytes", "400\n"),
            ("cg/memory/memory.limit_in_bytes", "9223372036854771712"),
        ];
        let groups = "5:devices:/x\n4:cpu,memory:/x\n0::/\n";
        assert_eq!(found(groups, v1, &tree), Some((400, "cg/memory/x/memory.limit_in_bytes".to_owned())));
        // In a container whose mount begins at its own group.
        let inside = "35 31 0:32 /docker/7 @/cg rw - cgroup cgroup rw,memory\n";
        let tree = [("cg/memory.limit_in_bytes", "500")];
        assert_eq!(found("4:memory:/docker/7\n", inside, &tree), Some((500, "cg/memory.limit_in_bytes".to_owned())));
        assert_eq!(found("4:memory:/\n", "", &tree), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(ram(&Proc::default()).unwrap() > 64 << 20);
        assert!(ram(&Proc::at("/nowhere")).is_err());
    }
}
