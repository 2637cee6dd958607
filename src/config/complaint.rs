//! What is wrong with a configuration, and where: line, column, key.
//!
//! Invariant: positions count from 1 and columns count characters, as editors do; every text of the file that is
//! quoted in a message is escaped and cut, so a complaint is always one line.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// How many complaints are kept; a file that is not a configuration at all would give one for each of its lines.
pub(super) const COMPLAINTS_MAX: usize = 1_000;

/// One thing that is wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key as a path, such as `roots[0].targets[1].url`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it, when that is known.
    pub hint: Option<String>,
}

/// `12:9: roots[0].targets[1].url: <what>; <what to do>`.
impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, Sentence { key: &self.key, what: &self.what, hint: &self.hint })
    }
}

/// The part of a message behind the position.
pub(super) struct Sentence<'a> {
    pub(super) key: &'a str,
    pub(super) what: &'a str,
    pub(super) hint: &'a Option<String>,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(self.what)?;
        match self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// All that is wrong in one file, sorted by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file, as it was named by the caller.
    pub file: PathBuf,
    /// At least one complaint.
    pub complaints: Vec<Complaint>,
    /// How many more there were beyond the first thousand.
    pub omitted: usize,
}

impl ConfigErrors {
    /// Sorts `complaints` by position; those at one position keep their order.
    pub(super) fn new(file: &Path, mut complaints: Vec<Complaint>, omitted: usize) -> Self {
        complaints.sort_by_key(|complaint| (complaint.line, complaint.column));
        Self { file: file.to_path_buf(), complaints, omitted }
    }
}

/// One complaint per line, each with the file's name, as compilers print them.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = crate::path::escaped(self.file.as_os_str().as_bytes()).to_string();
        for (index, complaint) in self.complaints.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{file}:{complaint}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n{file}: and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Where each key of a file stands, for complaints that arise after parsing ([`super::check_environment`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    file: PathBuf,
    by_key: HashMap<String, (usize, usize)>,
}

impl Positions {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), by_key: HashMap::new() }
    }

    /// The first position of a key counts: a later one is a duplicate.
    pub(super) fn record(&mut self, key: &str, line: usize, column: usize) {
        self.by_key.entry(key.to_owned()).or_insert((line, column));
    }

    /// The file, as it was named by the caller.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Line and column of the value of `key`; when the file leaves the key out, those of what encloses it.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<(usize, usize)> {
        let mut key = key;
        loop {
            if let Some(position) = self.by_key.get(key) {
                return Some(*position);
            }
            if key.is_empty() {
                return None;
            }
            key = &key[..key.rfind(['.', '[']).unwrap_or(0)];
        }
    }
}

/// `text` in quotes for a message: escaped, and cut after 60 characters.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        None => format!("'{}'", crate::path::escaped(text.as_bytes())),
        Some((at, _)) => format!("'{}...'", crate::path::escaped(&text.as_bytes()[..at])),
    }
}

/// A message of another module, which may quote the file: escaped, and cut after 300 characters.
pub(super) fn one_line(message: &str) -> String {
    const SHOWN_MAX: usize = 300;
    match message.char_indices().nth(SHOWN_MAX) {
        None => crate::path::escaped(message.as_bytes()).to_string(),
        Some((at, _)) => format!("{}...", crate::path::escaped(&message.as_bytes()[..at])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(line: usize, column: usize, hint: Option<&str>) -> Complaint {
        Complaint { line, column, key: "roots[0].path".into(), what: "is wrong".into(), hint: hint.map(str::to_owned) }
    }

    #[test]
    fn errors_print_one_line_per_complaint_sorted_by_position() {
        let errors = ConfigErrors::new(
            Path::new("fansync.yaml"),
            vec![complaint(12, 9, Some("mend it")), complaint(3, 10, None), complaint(3, 2, None)],
            2,
        );
        assert_eq!(
            errors.to_string(),
            "fansync.yaml:3:2: roots[0].path: is wrong\n\
             fansync.yaml:3:10: roots[0].path: is wrong\n\
             fansync.yaml:12:9: roots[0].path: is wrong; mend it\n\
             fansync.yaml: and 2 more"
        );
    }

    #[test]
    fn a_key_that_the_file_leaves_out_is_found_at_what_encloses_it() {
        let mut positions = Positions::new(Path::new("f"));
        positions.record("", 1, 1);
        positions.record("roots[0]", 2, 5);
        positions.record("roots[0].path", 3, 11);
        positions.record("roots[0].path", 9, 9);
        let check = |key: &str, expected| assert_eq!(positions.find(key), Some(expected), "{key}");
        check("roots[0].path", (3, 11));
        check("roots[0].targets[1].url", (2, 5));
        check("roots[7]", (1, 1));
        check("rsync", (1, 1));
        assert_eq!(Positions::new(Path::new("f")).find("a.b[1]"), None);
    }

    #[test]
    fn quoted_text_stays_one_short_line() {
        assert_eq!(quoted("a\nb"), "'a\\nb'");
        assert_eq!(one_line("a\u{1b}b"), "a\\u{1b}b");
        assert_eq!(one_line(&"x".repeat(301)), format!("{}...", "x".repeat(300)));
        assert_eq!(quoted(&"\u{e9}".repeat(61)), format!("'{}...'", "\u{e9}".repeat(60)));
    }
}
