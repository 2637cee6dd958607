//! What the machine has to say about a configuration: directories, password files, and overlap that only shows once
//! symlinks are followed. All problems at once; nothing is created or changed.
//!
//! Left out: whether rsync is installed and whether a daemon answers, which need a child process and the network.

use super::complaint::Sentence;
use super::password::shell_word;
use super::{Config, Positions, check_password_file};
use crate::target::Location;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// One thing on this machine that the configuration does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentProblem {
    /// Where the file says so; `None` without a file, or before [`EnvironmentProblem::locate`].
    pub place: Option<Place>,
    /// The key as a path, such as `roots[0].path`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it, when that is known.
    pub hint: Option<String>,
}

/// A place in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named by the caller.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl EnvironmentProblem {
    /// The same, with the place of its key in the file.
    #[must_use]
    pub fn locate(mut self, positions: &Positions) -> Self {
        self.place = positions.find(&self.key).map(|(line, column)| {
            let file = positions.file().to_path_buf();
            Place { file, line, column }
        });
        self
    }
}

/// `fansync.yaml:12:9: roots[0].path: <what>; <what to do>`, from the key on when the place is not known.
impl fmt::Display for EnvironmentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { file, line, column }) = &self.place {
            write!(f, "{}:{line}:{column}: ", shown(file))?;
        }
        write!(f, "{}", Sentence { key: &self.key, what: &self.what, hint: &self.hint })
    }
}

/// Looks at every root, local target and password file.
#[must_use]
pub fn check_environment(config: &Config) -> Vec<EnvironmentProblem> {
    let mut problems = Vec::new();
    let mut complain = |key: String, what: String, hint: Option<String>| {
        problems.push(EnvironmentProblem { place: None, key, what, hint });
    };
    let mut root_by_real_path: HashMap<PathBuf, usize> = HashMap::new();
    let mut real_roots = Vec::new();
    let mut real_targets: Vec<(String, PathBuf)> = Vec::new();
    for (root_index, root) in config.roots.iter().enumerate() {
        let root_key = format!("roots[{root_index}]");
        let real_root = match readable_directory(&root.path) {
            Ok(real) => Some(real),
            Err((what, hint)) => {
                complain(format!("{root_key}.path"), what, hint);
                None
            }
        };
        for (target_index, target) in root.targets.iter().enumerate() {
            let key = |field: &str| format!("{root_key}.targets[{target_index}].{field}");
            if let Some(path) = &target.password_file
                && let Err(error) = check_password_file(path)
            {
                let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
                complain(key("password_file"), format!("{error}{cause}"), None);
            }
            if let Some(path) = &target.ssh.identity_file
                && let Some((what, hint)) = identity_trouble(path)
            {
                complain(key("ssh.identity_file"), what, Some(hint));
            }
            if let Some(path) = &target.ssh.known_hosts
                && !path.is_file()
            {
                let hint =
                    "create it with the keys of the host: ssh-keyscan HOST, and compare them with those on the host";
                complain(key("ssh.known_hosts"), format!("{} does not exist", shown(path)), Some(hint.to_owned()));
            }
            let Location::Local(path) = &target.location else { continue };
            match real_target(path) {
                Ok(real) => {
                    let overlaps =
                        |(_, other): &&(String, PathBuf)| real.starts_with(other) || other.starts_with(&real);
                    if let Some(what) = real_root.as_ref().and_then(|real_root| overlap(&real, real_root)) {
                        let hint = "choose a directory outside of the root".to_owned();
                        complain(key("url"), what, Some(hint));
                    } else if let Some((other_key, other)) = real_targets.iter().find(overlaps) {
                        let what = format!(
                            "is {} and overlaps {} of {other_key}: each would delete what the other sends",
                            shown(&real),
                            shown(other)
                        );
                        complain(key("url"), what, Some("choose directories apart from each other".to_owned()));
                    } else {
                        real_targets.push((key("url"), real));
                    }
                }
                Err((what, hint)) => complain(key("url"), what, hint),
            }
        }
        if let Some(real) = real_root {
            root_by_real_path.entry(real.clone()).or_insert(root_index);
            real_roots.push((root_index, real));
        }
    }
    for (index, real) in &real_roots {
        for ancestor in real.ancestors() {
            let Some(other) = root_by_real_path.get(ancestor).filter(|other| *other != index) else { continue };
            let what = format!("is {} and lies inside roots[{other}]", shown(real));
            complain(format!("roots[{index}].path"), what, Some("roots must not overlap".to_owned()));
        }
    }
    problems
}

/// Why ssh would leave a private key out, which it says only beside its failure.
fn identity_trouble(path: &Path) -> Option<(String, String)> {
    use std::os::unix::fs::MetadataExt as _;
    let word = shell_word(path);
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = format!("make it without a passphrase: ssh-keygen -t ed25519 -N '' -f {word}");
            return Some((format!("{} does not exist", shown(path)), hint));
        }
        Err(error) => return Some((format!("{} cannot be read: {error}", shown(path)), format!("see: ls -l {word}"))),
    };
    if !metadata.is_file() {
        return Some((format!("{} is not a regular file", shown(path)), "name the file of a private key".to_owned()));
    }
    let open = metadata.mode() & 0o077 != 0 && metadata.uid() == rustix::process::getuid().as_raw();
    open.then(|| {
        (format!("{} may be read by others, so ssh does not use it", shown(path)), format!("run: chmod 600 {word}"))
    })
}

/// What is wrong, and what to do.
type Trouble = (String, Option<String>);

/// The real path of a directory that can be listed and entered.
fn readable_directory(path: &Path) -> Result<PathBuf, Trouble> {
    let trouble = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            (format!("{} does not exist", shown(path)), Some("mount it, create it or correct the path".to_owned()))
        }
        io::ErrorKind::NotADirectory => (format!("{} is not a directory", shown(path)), None),
        io::ErrorKind::PermissionDenied => (
            format!("{} may not be read by this user", shown(path)),
            Some(format!("run fansync as root, or allow it; see: namei -l {}", shell_word(path))),
        ),
        _ => (format!("{} cannot be read: {error}", shown(path)), None),
    };
    // To list needs r on the directory; to look at an entry, even at '.', needs x.
    std::fs::read_dir(path).and_then(|_| std::fs::metadata(path.join("."))).map_err(|error| trouble(&error))?;
    std::fs::canonicalize(path).map_err(|error| trouble(&error))
}

/// The real path of a directory that exists, or that rsync can create as the last component of one that does.
fn real_target(path: &Path) -> Result<PathBuf, Trouble> {
    let not_a_directory = |path: &Path| (format!("{} is not a directory", shown(path)), None);
    match std::fs::canonicalize(path) {
        Ok(real) if real.is_dir() => return Ok(real),
        Ok(_) => return Err(not_a_directory(path)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err((format!("{} cannot be reached: {error}", shown(path)), None));
        }
        Err(_) if path.is_symlink() => {
            return Err((
                format!("{} is a symlink to nothing", shown(path)),
                Some("create what it points to".to_owned()),
            ));
        }
        Err(_) => {}
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(not_a_directory(path)) };
    match std::fs::canonicalize(parent) {
        Ok(real) if real.is_dir() => Ok(real.join(name)),
        Ok(_) => Err(not_a_directory(parent)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err((
            format!("neither {} nor its parent exists", shown(path)),
            Some(format!("run: mkdir -p {}", shell_word(path))),
        )),
        Err(error) => Err((format!("{} cannot be reached: {error}", shown(parent)), None)),
    }
}

fn overlap(target: &Path, root: &Path) -> Option<String> {
    if target == root {
        Some(format!("is {}, the root itself", shown(target)))
    } else if target.starts_with(root) {
        Some(format!("is {} and lies inside its root {}", shown(target), shown(root)))
    } else if root.starts_with(target) {
        Some(format!("is {} and holds its root {}, which mirroring would delete", shown(target), shown(root)))
    } else {
        None
    }
}

fn shown(path: &Path) -> impl fmt::Display + '_ {
    crate::path::escaped(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RootConfig, TargetConfig};
    use std::os::unix::fs::symlink;

    fn config(roots: Vec<(&Path, Vec<PathBuf>)>) -> Config {
        let target = |path| TargetConfig::new("t", Location::Local(path));
        let root = |(path, targets): (&Path, Vec<PathBuf>)| {
            RootConfig::new("r", path, targets.into_iter().map(target).collect())
        };
        Config { roots: roots.into_iter().map(root).collect(), ..Config::default() }
    }

    #[test]
    fn what_exists_or_can_be_created_is_fine() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("root");
        std::fs::create_dir_all(top.path().join("there")).unwrap();
        std::fs::create_dir(&root).unwrap();
        let targets = vec![top.path().join("there"), top.path().join("new"), top.path().join("root2")];
        assert_eq!(check_environment(&config(vec![(&root, targets)])), []);
    }

    #[test]
    fn every_problem_is_found_at_once() {
        let top = tempfile::tempdir().unwrap();
        // On some machines the temporary directory is itself a symlink.
        let at = |name: &str| top.path().canonicalize().unwrap().join(name);
        for name in ["root", "root/in", "other"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("file"), "").unwrap();
        symlink(at("root/in"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        let targets = ["file", "file/x", "no/x", "link", "link/new", "dangling", "root", ""].map(at).to_vec();
        std::fs::write(at("key"), "").unwrap();
        std::fs::set_permissions(at("key"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        let (root, gone, file, link) = (at("root"), at("gone"), at("file"), at("link"));
        let mut config = config(vec![(&root, targets), (&gone, vec![]), (&file, vec![]), (&link, vec![])]);
        let mut daemon = TargetConfig::new("d", Location::parse(b"h::m", Path::new("/")).unwrap());
        daemon.password_file = Some(at("password"));
        config.roots[3].targets.push(daemon);
        for key in ["key", "no key", "other"] {
            let mut ssh = TargetConfig::new("s", Location::parse(b"h:m", Path::new("/")).unwrap());
            ssh.ssh.identity_file = Some(at(key));
            ssh.ssh.known_hosts = (key == "key").then(|| at("hosts"));
            config.roots[3].targets.push(ssh);
        }
        let found: Vec<String> = check_environment(&config)
            .iter()
            .map(|problem| problem.to_string().replace(&format!("{}", at("").display()), "@/").replace("@//", "@/"))
            .collect();
        let expected = [
            "roots[0].targets[0].url: @/file is not a directory",
            "roots[0].targets[1].url: @/file/x cannot be reached: Not a directory (os error 20)",
            "roots[0].targets[2].url: neither @/no/x nor its parent exists; run: mkdir -p @/no/x",
            "roots[0].targets[3].url: is @/root/in and lies inside its root @/root; choose a directory outside of the root",
            "roots[0].targets[4].url: is @/root/in/new and lies inside its root @/root; choose a directory outside of the root",
            "roots[0].targets[5].url: @/dangling is a symlink to nothing; create what it points to",
            "roots[0].targets[6].url: is @/root, the root itself; choose a directory outside of the root",
            "roots[1].path: @/gone does not exist; mount it, create it or correct the path",
            "roots[2].path: @/file is not a directory",
            "roots[3].targets[0].password_file: @/password does not exist; \
             create it with the password on its first line, then run: chmod 600 @/password",
            "roots[3].targets[1].ssh.identity_file: @/key may be read by others, so ssh does not use it; run: chmod 600 @/key",
            "roots[3].targets[1].ssh.known_hosts: @/hosts does not exist; \
             create it with the keys of the host: ssh-keyscan HOST, and compare them with those on the host",
            "roots[3].targets[2].ssh.identity_file: @/no key does not exist; \
             make it without a passphrase: ssh-keygen -t ed25519 -N '' -f '@/no key'",
            "roots[3].targets[3].ssh.identity_file: @/other is not a regular file; name the file of a private key",
            "roots[3].path: is @/root/in and lies inside roots[0]; roots must not overlap",
        ];
        let (holds, rest): (Vec<String>, Vec<String>) = found.into_iter().partition(|line| line.contains("targets[7]"));
        assert_eq!(rest, expected);
        assert!(holds.len() == 1 && holds[0].contains("which mirroring would delete"), "{holds:?}");
    }

    #[test]
    fn with_a_file_a_problem_knows_its_line() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("f.yaml");
        std::fs::write(&file, "roots:\n- path: /does/not/exist\n  targets:\n  - url: h::m\n").unwrap();
        let (config, positions) = Config::load_located(&file).unwrap();
        let problems: Vec<_> =
            check_environment(&config).into_iter().map(|problem| problem.locate(&positions)).collect();
        assert_eq!(problems.len(), 1);
        let expected = format!("{}:2:9: roots[0].path: /does/not/exist does not exist; ", file.display());
        assert!(problems[0].to_string().starts_with(&expected), "{}", problems[0]);
        let error = Config::load(&top.path().join("none")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the configuration /"), "{error}");
    }
}
