//! `fansync tune [PATH...] [--config FILE] [--dry-run | --apply | --write FILE]`

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::doctor::facts::{Subjects, count_all};
use super::preflight;
use super::report::Failure;
use crate::limits::{self, Needs, Step, Steps, grouped};
use crate::sys::clock;
use crate::sys::limits::{Limit, Proc, Raised};
use crate::sys::privileges::Privileges;

/// The first line of a file that this program wrote, and may write again.
const HEAD: &str = "# Written by 'fansync tune'";

/// Arguments of `tune`.
#[derive(Debug, clap::Args)]
pub struct TuneArguments {
    /// Directories that are or would be mirrored
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The roots of this configuration too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// So many directories, instead of counting those of the paths
    #[arg(long, value_name = "N", conflicts_with_all = ["paths", "count_for"])]
    directories: Option<u64>,
    /// Count for so long at most
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    count_for: u64,
    /// Print what would be raised and the arithmetic, and change nothing (default)
    #[arg(long, conflicts_with_all = ["apply", "write"])]
    dry_run: bool,
    /// Raise the limits now, until the next boot (needs root)
    #[arg(long)]
    apply: bool,
    /// Write a file for sysctl(8), such as /etc/sysctl.d/90-fansync.conf
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Overwrite a file that this command did not write
    #[arg(long, requires = "write")]
    force: bool,
}

/// Computes the limits, then says, raises or writes them.
pub fn tune(arguments: &TuneArguments) -> Result<(), Failure> {
    let proc = super::proc();
    let subjects = Subjects::new(&arguments.paths, arguments.config.as_deref())?;
    let (directories, complete) = match arguments.directories {
        Some(directories) => (directories, true),
        None if subjects.roots.is_empty() => {
            return Err(Failure::wrong(
                "of what? Name directories, a configuration by --config, or a number by --directories",
            ));
        }
        None => {
            let counted = count_all(&subjects.roots, clock::now() + Duration::from_secs(arguments.count_for))?;
            (counted.directories, counted.complete)
        }
    };
    if !complete {
        return Err(Failure::Failed(anyhow::anyhow!(
            "counted {} directories in {} s, and there are more: name a number by --directories, or more time by --count-for",
            grouped(directories),
            arguments.count_for
        )));
    }
    let shards = |root: &crate::config::RootConfig| u64::from(root.shards.unwrap_or_else(preflight::default_shards));
    let needs = Needs {
        directories,
        shards: subjects.roots.iter().map(shards).sum::<u64>().max(u64::from(preflight::default_shards())),
        roots: (subjects.roots.len() as u64).max(1),
        budget: limits::budget_of_machine(&proc),
        in_namespace: Privileges::of_self(&proc).is_ok_and(|privileges| privileges.in_namespace),
    };
    let Steps { steps, refused } = limits::steps(&needs);
    let mut said = String::new();
    let mut failed = false;
    if let Some(file) = &arguments.write {
        let text = sysctl_file(&needs, &steps, refused.as_deref(), |limit| proc.limit(limit).ok());
        write_file(file, &text, arguments.force)?;
        let _infallible =
            writeln!(said, "wrote {}: in force at the next boot, or now by: sysctl --system", file.display());
    }
    if arguments.apply {
        let (text, refusals) = apply(&proc, &steps);
        said.push_str(&text);
        failed = refusals;
    } else if arguments.write.is_none() {
        said.push_str(&preview(&steps, |limit| proc.limit(limit).ok()));
    }
    if let Some(refused) = &refused {
        let _infallible = writeln!(said, "fs.inotify.max_user_watches is left as it is: {refused}");
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(said.as_bytes())?;
    stdout.flush()?;
    match (failed, refused) {
        (true, _) => Err(Failure::Told(1)),
        (false, Some(_)) => Err(Failure::Told(3)),
        (false, None) => Ok(()),
    }
}

/// What would be done.
fn preview(steps: &[Step], now: impl Fn(Limit) -> Option<u64>) -> String {
    let mut text = String::new();
    for Step { limit, wanted, arithmetic } in steps {
        let name = limit.sysctl();
        let done = match now(*limit) {
            None => format!("{name} is not in this kernel"),
            Some(now) if now >= *wanted => format!("{name} is {now}, at least {wanted}: nothing to do"),
            Some(now) => format!("{name} would be raised from {now} to {wanted}"),
        };
        let _infallible = writeln!(text, "{done}\n    {arithmetic}");
    }
    text
}

/// Raises; what came of it, and whether something was refused.
fn apply(proc: &Proc, steps: &[Step]) -> (String, bool) {
    let mut text = String::new();
    let mut refused = false;
    for Step { limit, wanted, .. } in steps {
        let name = limit.sysctl();
        let done = match proc.raise(*limit, *wanted) {
            Ok(Raised::Enough(now)) => format!("{name} is {now}, at least {wanted}: left as it is"),
            Ok(Raised::From(before)) => format!("{name} raised from {before} to {wanted}"),
            Ok(Raised::Refused(now, error)) => {
                refused = true;
                format!(
                    "{name} is {now} and cannot be raised to {wanted} from here: {error}; run this as root, on the host"
                )
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => format!("{name} is not in this kernel"),
            Err(error) => {
                refused = true;
                format!("{name} cannot be read: {error}")
            }
        };
        let _infallible = writeln!(text, "{done}");
    }
    (text, refused)
}

/// A file for sysctl(8): never lower than what is in force now.
fn sysctl_file(needs: &Needs, steps: &[Step], refused: Option<&str>, now: impl Fn(Limit) -> Option<u64>) -> String {
    let mut text = format!(
        "{HEAD} for {} directories, {} roots with {} shards, {}.\n# It writes this file again only as long as the line above \
         stands. The arithmetic is explained by sysctl/README.md of fansync.\n",
        grouped(needs.directories),
        needs.roots,
        needs.shards,
        needs.budget.whose()
    );
    if let Some(refused) = refused {
        let _infallible = writeln!(text, "\n# fs.inotify.max_user_watches is left as it is: {refused}");
    }
    for Step { limit, wanted, arithmetic } in steps {
        if limit.is_of_namespace() {
            continue;
        }
        let Some(now) = now(*limit) else { continue };
        let _infallible = writeln!(text, "\n# {arithmetic}");
        if now > *wanted {
            let _infallible = writeln!(text, "# = {wanted}; it was {now} already, and is not lowered");
        }
        let _infallible = writeln!(text, "{} = {}", limit.sysctl(), now.max(*wanted));
    }
    text
}

/// Writes it whole or not at all.
fn write_file(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    match std::fs::read(path) {
        Ok(before) if !force && !before.starts_with(HEAD.as_bytes()) => {
            return Err(Failure::wrong(format!(
                "{} was not written by 'fansync tune': name another file, or overwrite it by --force",
                path.display()
            )));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::wrong(format!("cannot read {}: {error}; name another file", path.display())));
        }
        Ok(_) | Err(_) => {}
    }
    replace(path, text.as_bytes()).map_err(|error| {
        let words = format!("cannot write {}; run this as root, or name another file", path.display());
        Failure::Failed(anyhow::Error::from(error).context(words))
    })
}

/// A new file beside it takes its name when it is on the disk.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside).and_then(|mut file| {
            // Whatever the umask is.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        });
    if written.is_err() {
        let _not_made = std::fs::remove_file(&beside);
        return written;
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Budget;

    fn needs(directories: u64) -> Needs {
        let budget = Budget { ram: 24 << 30, group: None };
        Needs { directories, shards: 2, roots: 1, budget, in_namespace: true }
    }

    #[test]
    fn a_file_lowers_nothing_and_says_why_it_has_its_numbers() {
        let needs = needs(111_000);
        let steps = limits::steps(&needs).steps;
        let text = sysctl_file(&needs, &steps, None, |limit| match limit {
            Limit::InotifyWatches => Some(1_048_576),
            Limit::FanotifyGroups => None,
            _ => Some(100),
        });
        assert!(text.starts_with(
            "# Written by 'fansync tune' for 111,000 directories, 1 roots with 2 shards, 24.0 GiB of RAM.\n"
        ));
        let watches = "\n# 1.5 x 111,000 directories + 65,536, rounded up to a power of two; 325.0 MiB if all are used\n# = 262144; \
                       it was 1048576 already, and is not lowered\nfs.inotify.max_user_watches = 1048576\n";
        assert!(text.contains(watches), "{text}");
        assert!(text.contains("\nfs.inotify.max_queued_events = 1048576\n"), "{text}");
        assert!(text.contains("\nfs.fanotify.max_queued_events = 1048576\n"), "{text}");
        // Neither what this kernel lacks nor what no file can set.
        assert!(!text.contains("max_user_groups") && !text.contains("user.max_inotify"), "{text}");
        // sysctl(8) reads it.
        for line in text.lines().filter(|line| !line.is_empty()) {
            assert!(
                line.starts_with('#')
                    || line.split_once(" = ").is_some_and(|(_, number)| number.parse::<u64>().is_ok()),
                "{line}"
            );
        }
    }

    #[test]
    fn a_preview_says_what_would_be_done_and_why() {
        let steps = limits::steps(&needs(10)).steps;
        let text = preview(&steps, |limit| match limit {
            Limit::InotifyWatches => Some(8192),
            Limit::FanotifyGroups => None,
            _ => Some(u64::MAX),
        });
        assert!(
            text.starts_with(
                "fs.inotify.max_user_watches would be raised from 8192 to 131072\n    1.5 x 10 directories"
            ),
            "{text}"
        );
        assert!(text.contains("fs.fanotify.max_user_groups is not in this kernel\n"), "{text}");
        assert!(
            text.contains("fs.inotify.max_user_instances is 18446744073709551615, at least 512: nothing to do\n"),
            "{text}"
        );
    }

    #[test]
    fn only_a_file_of_this_command_is_overwritten() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("90-fansync.conf");
        let text = format!("{HEAD} one\n");
        let read = || std::fs::read_to_string(&file).unwrap();
        write_file(&file, &text, false).unwrap();
        write_file(&file, &format!("{HEAD} two\n"), false).unwrap();
        assert_eq!(read(), format!("{HEAD} two\n"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o644);
        std::fs::write(&file, "fs.file-max = 1\n").unwrap();
        assert!(matches!(write_file(&file, &text, false), Err(Failure::Wrong(_))));
        assert_eq!(read(), "fs.file-max = 1\n");
        write_file(&file, &text, true).unwrap();
        assert_eq!(read(), text);
        assert!(matches!(write_file(&scratch.path().join("no/file"), &text, true), Err(Failure::Failed(_))));
        assert!(matches!(write_file(scratch.path(), &text, false), Err(Failure::Wrong(_))));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
