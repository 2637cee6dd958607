//! What a user has taken of the kernel's limits now, by what proc_pid_fdinfo(5) says of its processes' descriptors.
//!
//! Nearly so: the kernel counts by the user who made an instance, and in every namespace above too; here a process counts for
//! the user that it runs as. What may not be looked into is counted as such.

use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::time::Instant;

use super::clock;
use super::limits::Proc;

/// What a user has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// inotify instances and their watches.
    pub inotify: Taken,
    /// fanotify groups and their marks.
    pub fanotify: Taken,
    /// Those of them that other programs than this one have taken.
    pub others: Others,
    /// Processes of this user that may not be looked into.
    pub hidden: u64,
    /// Everything was looked at; else there was no time.
    pub complete: bool,
}

/// Descriptors, and what they watch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Instances, groups.
    pub instances: u64,
    /// Watches, marks.
    pub watches: u64,
}

/// What programs of another name have taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Others {
    /// By inotify.
    pub inotify: Taken,
    /// By fanotify.
    pub fanotify: Taken,
}

/// Looks at all processes of `user` until `deadline`. Those of the program called `name` are no others.
///
/// # Errors
/// When /proc cannot be listed.
pub fn of_user(proc: &Proc, user: u32, name: &str, deadline: Instant) -> io::Result<Usage> {
    let mut usage = Usage { complete: true, ..Usage::default() };
    for entry in std::fs::read_dir(proc.path())? {
        if clock::now() >= deadline {
            usage.complete = false;
            break;
        }
        let place = entry?.path();
        let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        if !place.file_name().and_then(|name| name.to_str()).is_some_and(is_process) {
            continue;
        }
        // One that ended meanwhile has taken nothing.
        let Ok(status) = std::fs::read_to_string(place.join("status")) else { continue };
        let field = |field: &str| status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
        if field("Uid").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok()) != Some(user) {
            continue;
        }
        let is_other = field("Name") != Some(name);
        match of_process(&place, deadline) {
            Ok((inotify, fanotify, complete)) => {
                usage.complete &= complete;
                for (all, others, found) in [
                    (&mut usage.inotify, &mut usage.others.inotify, inotify),
                    (&mut usage.fanotify, &mut usage.others.fanotify, fanotify),
                ] {
                    all.add(found);
                    if is_other {
                        others.add(found);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => usage.hidden += 1,
            Err(_) => {}
        }
    }
    Ok(usage)
}

impl Taken {
    fn add(&mut self, other: Self) {
        self.instances += other.instances;
        self.watches += other.watches;
    }
}

/// Of one process: by inotify, by fanotify, and whether there was time for all.
fn of_process(place: &Path, deadline: Instant) -> io::Result<(Taken, Taken, bool)> {
    let (mut inotify, mut fanotify) = (Taken::default(), Taken::default());
    for entry in std::fs::read_dir(place.join("fd"))? {
        let entry = entry?;
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        let (taken, prefix) = match link.to_str() {
            Some("anon_inode:inotify") => (&mut inotify, &b"inotify wd"[..]),
            Some("anon_inode:[fanotify]") => (&mut fanotify, &b"fanotify "[..]),
            Some(_) | None => continue,
        };
        taken.instances += 1;
        let Ok(file) = std::fs::File::open(place.join("fdinfo").join(entry.file_name())) else { continue };
        let mut lines = BufReader::with_capacity(64 * 1024, file);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            // The first line of a group is of the group.
            if line.starts_with(prefix) && !line.starts_with(b"fanotify flags") {
                taken.watches += 1;
            }
            line.clear();
            // A large instance has a million lines.
            if taken.watches.is_multiple_of(4096) && clock::now() >= deadline {
                return Ok((inotify, fanotify, false));
            }
        }
    }
    Ok((inotify, fanotify, true))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::inotify::Inotify;

    #[test]
    fn instances_and_watches_of_this_process_are_counted() {
        let scratch = tempfile::tempdir().unwrap();
        let inotify = Inotify::create().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::create_dir(scratch.path().join(name)).unwrap();
            inotify
                .add_watch(std::os::fd::AsFd::as_fd(&std::fs::File::open(scratch.path().join(name)).unwrap()))
                .unwrap();
        }
        let (mut proc, user) = (Proc::default(), rustix::process::geteuid().as_raw());
        let soon = clock::now() + Duration::from_secs(60);
        let usage = of_user(&proc, user, "no such program", soon).unwrap();
        assert!(usage.complete && usage.inotify.instances >= 1 && usage.inotify.watches >= 3, "{usage:?}");
        assert_eq!(usage.inotify, usage.others.inotify);
        assert_eq!(of_process(Path::new("/proc/self"), soon).unwrap().1, Taken::default());
        assert!(!of_user(&proc, user, "", clock::now()).unwrap().complete);
        proc = Proc::at("/nowhere");
        assert!(of_user(&proc, user, "", soon).is_err());
    }

    #[test]
    fn what_is_not_ours_or_may_not_be_seen_is_told_apart() {
        let scratch = tempfile::tempdir().unwrap();
        let process = |pid: &str, name: &str, user: u32, watches: usize, kind: &str| {
            let place = scratch.path().join(pid);
            std::fs::create_dir_all(place.join("fd")).unwrap();
            std::fs::create_dir(place.join("fdinfo")).unwrap();
            std::fs::write(place.join("status"), format!("Name:\t{name}\nUid:\t9\t{user}\t9\t9\n")).unwrap();
            std::os::unix::fs::symlink(format!("anon_inode:{kind}"), place.join("fd/4")).unwrap();
            let line = if kind == "inotify" { "inotify wd:1 ino:2\n" } else { "fanotify sdev:1 mask:2\n" };
            let head = "pos:\t0\nfanotify flags:10 event-flags:0\n";
            std::fs::write(place.join("fdinfo/4"), format!("{head}{}", line.repeat(watches))).unwrap();
        };
        process("1", "fansync", 7, 5, "inotify");
        process("2", "code", 7, 3, "inotify");
        process("3", "code", 8, 100, "inotify");
        process("4", "scanner", 7, 2, "[fanotify]");
        let usage = of_user(&Proc::at(scratch.path()), 7, "fansync", clock::now() + Duration::from_secs(60)).unwrap();
        let taken = |instances, watches| Taken { instances, watches };
        assert_eq!((usage.inotify, usage.fanotify), (taken(2, 8), taken(1, 2)));
        assert_eq!(usage.others, Others { inotify: taken(1, 3), fanotify: taken(1, 2) });
    }
}
