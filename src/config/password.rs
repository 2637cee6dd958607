//! The rules that rsync has for a password file (rsync(1), `--password-file`; rsync's `authenticate.c`), checked
//! before the first transfer, since rsync tells of them only in the middle of one.
//!
//! Left out: a blank at the end of the password counts for rsync, and nobody but the daemon can tell whether it is meant.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Why rsync would refuse a password file. `Display` says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    /// There is nothing by that name.
    #[error("{} does not exist; {}", shown(.0), hint(self))]
    Missing(PathBuf),
    /// It cannot be opened or read.
    #[error("{} cannot be read; {}", shown(.path), hint(self))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("{} is not a regular file; {}", shown(.0), hint(self))]
    NotRegular(PathBuf),
    /// Others may read or write it.
    #[error("{} has mode {mode:04o}, so that every user may read or change it; {}", shown(.path), hint(self))]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// We are root and it belongs to somebody else.
    #[error("{} belongs to user {owner}, and rsync as root takes only a file of root; {}", shown(.path), hint(self))]
    NotOwnedByRoot {
        /// The file.
        path: PathBuf,
        /// The user id of its owner.
        owner: u32,
    },
    /// The first line, where the password belongs, is empty.
    #[error("{} has no password on its first line; {}", shown(.0), hint(self))]
    Empty(PathBuf),
}

impl PasswordFileError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing(path) | Self::NotRegular(path) | Self::Empty(path) => path,
            Self::Unreadable { path, .. } | Self::OpenToOthers { path, .. } | Self::NotOwnedByRoot { path, .. } => path,
        }
    }
}

/// What to do.
fn hint(error: &PasswordFileError) -> String {
    let word = shell_word(error.path());
    match error {
        PasswordFileError::Missing(_) => {
            format!("create it with the password on its first line, then run: chmod 600 {word}")
        }
        PasswordFileError::Unreadable { .. } => format!("run fansync as its owner, or as root; see: ls -l {word}"),
        PasswordFileError::NotRegular(_) => "name a file that holds the password on its first line".to_owned(),
        PasswordFileError::OpenToOthers { .. } => format!("run: chmod 600 {word}"),
        PasswordFileError::NotOwnedByRoot { .. } => format!("run: chown root {word}"),
        PasswordFileError::Empty(_) => "write the password, alone, on the first line".to_owned(),
    }
}

/// Checks what rsync would check of `path`, a symlink being followed.
///
/// # Errors
/// The first rule that is broken.
pub fn check_password_file(path: &Path) -> Result<(), PasswordFileError> {
    check_as(path, rustix::process::geteuid().is_root())
}

fn check_as(path: &Path, as_root: bool) -> Result<(), PasswordFileError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => PasswordFileError::Missing(path.to_path_buf()),
        _ => PasswordFileError::Unreadable { path: path.to_path_buf(), source },
    };
    // Before the file is opened: to open a pipe would wait for a writer.
    check_metadata(path, &std::fs::metadata(path).map_err(unreadable)?, as_root)?;
    let file = File::open(path).map_err(unreadable)?;
    // rsync reads one buffer of about this size as well.
    let mut start = Vec::new();
    file.take(4096).read_to_end(&mut start).map_err(unreadable)?;
    match start.first() {
        None | Some(b'\n' | b'\r' | 0) => Err(PasswordFileError::Empty(path.to_path_buf())),
        Some(_) => Ok(()),
    }
}

fn check_metadata(path: &Path, metadata: &Metadata, as_root: bool) -> Result<(), PasswordFileError> {
    let path = path.to_path_buf();
    if !metadata.is_file() {
        return Err(PasswordFileError::NotRegular(path));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o006 != 0 {
        return Err(PasswordFileError::OpenToOthers { path, mode });
    }
    if as_root && metadata.uid() != 0 {
        return Err(PasswordFileError::NotOwnedByRoot { path, owner: metadata.uid() });
    }
    Ok(())
}

fn shown(path: &Path) -> impl std::fmt::Display + '_ {
    crate::path::escaped(path.as_os_str().as_bytes())
}

/// `path` as a shell takes it for one word.
pub(super) fn shell_word(path: &Path) -> String {
    let text = shown(path).to_string();
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b'+' | b':' | b'@');
    if !text.is_empty() && text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_rsync_is_checked_and_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let check = |name: &str, content: &[u8], mode: u32, expected: Option<&str>| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = check_as(&path, false).map_err(|error| error.to_string());
            let expected =
                expected.map(|text| format!("{}{text}", path.display()).replace('@', &path.display().to_string()));
            assert_eq!(found.err(), expected, "{name}");
        };
        check("good", b"secret\n", 0o600, None);
        check("group", b"secret", 0o640, None);
        check("windows", b"secret\r\n", 0o400, None);
        check(
            "read",
            b"secret\n",
            0o644,
            Some(" has mode 0644, so that every user may read or change it; run: chmod 600 @"),
        );
        check(
            "write",
            b"secret\n",
            0o602,
            Some(" has mode 0602, so that every user may read or change it; run: chmod 600 @"),
        );
        let empty = Some(" has no password on its first line; write the password, alone, on the first line");
        check("empty", b"", 0o600, empty);
        check("second line", b"\nsecret\n", 0o600, empty);
        check("windows empty", b"\r\nsecret\r\n", 0o600, empty);
        assert!(matches!(check_as(directory.path(), false), Err(PasswordFileError::NotRegular(_))));
        let missing = check_as(&directory.path().join("it's"), false).unwrap_err().to_string();
        assert!(missing.ends_with("it'\\''s'"), "{missing}");
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_a_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(check_as(&path, false), Err(PasswordFileError::NotRegular(_))));
    }

    #[test]
    fn as_root_the_file_must_belong_to_root() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "secret\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        check_password_file(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let error = check_password_file(&path).unwrap_err();
        assert!(error.to_string().ends_with(&format!("run: chown root {}", path.display())), "{error}");
        check_as(&path, false).unwrap();
    }
}
