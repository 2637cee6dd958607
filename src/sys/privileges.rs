//! Who this process is and what it may do: user, capabilities(7), user_namespaces(7).

use std::io;

use super::limits::Proc;

/// `CAP_DAC_READ_SEARCH`: read every file and directory, open by handle.
pub const DAC_READ_SEARCH: u32 = 2;

/// `CAP_SYS_ADMIN`: mark a whole file system by fanotify, mount.
pub const SYS_ADMIN: u32 = 21;

/// Who a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// Effective user, as its own user namespace has it.
    pub user: u32,
    /// Effective capabilities, one bit each, in that namespace.
    pub effective: u64,
    /// It is in a user namespace that is not the first one, as in a container without privileges.
    pub in_namespace: bool,
}

impl Privileges {
    /// Of this process.
    ///
    /// # Errors
    /// When `/proc/self/status` cannot be read or has another form.
    pub fn of_self(proc: &Proc) -> io::Result<Self> {
        let status = std::fs::read_to_string(proc.join("self/status"))?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let user = field("Uid").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
        let effective = field("CapEff").and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        let (Some(user), Some(effective)) = (user, effective) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no Uid or CapEff"));
        };
        // Without user namespaces there is no such file.
        let map = std::fs::read_to_string(proc.join("self/uid_map")).unwrap_or_default();
        Ok(Self { user, effective, in_namespace: is_of_namespace(&map) })
    }

    /// Whether it has this capability.
    #[must_use]
    pub fn has(&self, capability: u32) -> bool {
        self.effective >> capability & 1 == 1
    }
}

/// The real and the effective user of this process.
#[must_use]
pub fn users() -> (u32, u32) {
    (rustix::process::getuid().as_raw(), rustix::process::geteuid().as_raw())
}

/// The groups of this process: the effective one and the supplementary ones. Those that cannot be told are left out.
#[must_use]
pub fn groups() -> Vec<u32> {
    let mut groups = vec![rustix::process::getegid().as_raw()];
    groups.extend(rustix::process::getgroups().unwrap_or_default().into_iter().map(rustix::process::Gid::as_raw));
    groups
}

/// The first namespace maps every user to itself.
fn is_of_namespace(map: &str) -> bool {
    let fields: Vec<&str> = map.split_whitespace().collect();
    !(fields.is_empty() || fields == ["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_this_is_is_read() {
        let ours = Privileges::of_self(&Proc::default()).unwrap();
        assert_eq!(ours.user, rustix::process::geteuid().as_raw());

        let scratch = tempfile::tempdir().unwrap();
        let proc = Proc::at(scratch.path());
        assert!(Privileges::of_self(&proc).is_err());
        std::fs::create_dir(scratch.path().join("self")).unwrap();
        std::fs::write(scratch.path().join("self/status"), "Name:\tx\nUid:\t0\t7\t0\t0\nCapEff:\t0000000000200000\n")
            .unwrap();
        let read = Privileges::of_self(&proc).unwrap();
        assert_eq!(read, Privileges { user: 7, effective: 1 << 21, in_namespace: false });
        assert!(read.has(SYS_ADMIN) && !read.has(DAC_READ_SEARCH));
    }

    #[test]
    fn a_namespace_is_told_by_its_map() {
        assert!(!is_of_namespace("         0          0 4294967295\n"));
        assert!(!is_of_namespace(""));
        assert!(is_of_namespace("         0          0          1\n"));
        assert!(is_of_namespace("0 100000 65536\n"));
    }
}
