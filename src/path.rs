//! The path type of every stage: bytes, relative to a root, nothing to escape with.
//!
//! Invariant: components are non-empty, are neither `.` nor `..`, and hold no NUL and no slash; the root itself is
//! the empty path. So a `RelPath` can be joined to a root or written into an rsync list without further checks.
//! Names are never assumed to be UTF-8; `Display` escapes what a terminal should not see.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A path relative to a root. Ordered by bytes, so a directory sorts before what lies beneath it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(Box<[u8]>);

/// Why bytes are not a [`RelPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A leading slash, or two slashes in a row, or a slash at the end.
    #[error("empty path component")]
    EmptyComponent,
    /// `.` or `..` as a component.
    #[error("path component is '.' or '..'")]
    DotComponent,
    /// A NUL byte cannot be part of a name.
    #[error("NUL byte in a path")]
    Nul,
}

impl RelPath {
    /// The root itself: the empty path.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// Checks `bytes` and takes them as a path; the empty slice is the root.
    ///
    /// # Errors
    /// [`PathError`] when a component is empty, `.`, `..`, or holds a NUL.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" => return Err(PathError::EmptyComponent),
                b"." | b".." => return Err(PathError::DotComponent),
                _ => {}
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The path of `name` inside this directory.
    ///
    /// # Panics
    /// If `name` is not a single valid component: names come from the kernel, which never gives such a one.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        assert!(
            !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0),
            "not a directory entry's name: {:?}",
            bstr::BStr::new(name)
        );
        if self.is_root() {
            return Self(name.into());
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self(bytes.into())
    }

    /// Whether this is the root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that holds this path; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// The last component; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The components from the root downwards; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// Whether this path is `directory` or lies beneath it.
    #[must_use]
    pub fn is_within(&self, directory: &Self) -> bool {
        directory.is_root()
            || (self.0.starts_with(&directory.0)
                && (self.0.len() == directory.0.len() || self.0[directory.0.len()] == b'/'))
    }

    /// The bytes, without a leading or trailing slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as the operating system's string.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The absolute path below `root`.
    #[must_use]
    pub fn below(&self, root: &std::path::Path) -> PathBuf {
        if self.is_root() { root.to_path_buf() } else { root.join(self.as_os_str()) }
    }

    /// The path that walking from the root over `components` gives. Used by tries, whose names are checked already.
    #[must_use]
    pub fn from_components<'a>(components: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::new();
        for component in components {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(component);
        }
        Self(bytes.into())
    }
}

impl From<&RelPath> for OsString {
    fn from(path: &RelPath) -> Self {
        Self::from_vec(path.0.to_vec())
    }
}

/// Escapes control bytes, backslashes and what is not UTF-8, so that a log line stays one line. The root shows as `.`.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { write!(f, "{}", escaped(&self.0)) }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Shows `bytes` with control characters, backslashes and invalid UTF-8 escaped.
pub fn escaped(bytes: &[u8]) -> impl fmt::Display + '_ {
    struct Escaped<'a>(&'a [u8]);
    impl fmt::Display for Escaped<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for chunk in self.0.utf8_chunks() {
                for character in chunk.valid().chars() {
                    match character {
                        '\\' => f.write_str("\\\\")?,
                        c if c.is_control() => write!(f, "{}", c.escape_default())?,
                        c => write!(f, "{c}")?,
                    }
                }
                for byte in chunk.invalid() {
                    write!(f, "\\x{byte:02x}")?;
                }
            }
            Ok(())
        }
    }
    Escaped(bytes)
}

/// The bytes that [`escaped`] shows as `text`; `None` when it never shows anything so. Exact: what was shown can be
/// given back.
#[must_use]
pub fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let after = &rest[at + 1..];
        let (byte, length) = match after.as_bytes().first()? {
            b'\\' => (b'\\', 1),
            b'n' => (b'\n', 1),
            b'r' => (b'\r', 1),
            b't' => (b'\t', 1),
            b'x' => (u8::from_str_radix(digits(after.get(1..3)?)?, 16).ok()?, 3),
            b'u' => {
                let (code, _) = after.strip_prefix("u{")?.split_once('}')?;
                let character = char::from_u32(u32::from_str_radix(digits(code)?, 16).ok()?)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &after[code.len() + 3..];
                continue;
            }
            _ => return None,
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

/// `from_str_radix` takes a sign too.
fn digits(text: &str) -> Option<&str> {
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_escaped_can_be_given_back(bytes: Vec<u8>, text: String) {
            proptest::prop_assert_eq!(unescaped(&escaped(&bytes).to_string()), Some(bytes));
            proptest::prop_assert_eq!(unescaped(&escaped(text.as_bytes()).to_string()), Some(text.clone().into_bytes()));
            // Whatever it is, it ends.
            let _no_panic = unescaped(&text);
            let _no_panic = unescaped(&format!("\\{text}"));
        }
    }

    #[test]
    fn what_nobody_escapes_so_is_refused() {
        for text in
            ["\\", "a\\", "\\q", "\\x", "\\x1", "\\xg0", "\\x+1", "\\u", "\\u{", "\\u{}", "\\u{110000}", "\\u{-1}"]
        {
            assert_eq!(unescaped(text), None, "{text}");
        }
        assert_eq!(unescaped("a\\x00\\u{7f}\\n\\\\"), Some(b"a\0\x7f\n\\".to_vec()));
    }

    #[test]
    fn only_plain_relative_paths_are_accepted() {
        let check = |bytes: &[u8], expected: Option<PathError>| {
            assert_eq!(RelPath::parse(bytes).err(), expected, "{:?}", bstr::BStr::new(bytes));
        };
        check(b"", None);
        check(b"a", None);
        check(b"a/b", None);
        check(b"-rf", None);
        check(b"a/..b/.c", None);
        check(b"\xff\n#;", None);
        check(b"/a", Some(PathError::EmptyComponent));
        check(b"a//b", Some(PathError::EmptyComponent));
        check(b"a/", Some(PathError::EmptyComponent));
        check(b"a/../b", Some(PathError::DotComponent));
        check(b"./a", Some(PathError::DotComponent));
        check(b"a\0b", Some(PathError::Nul));
    }

    #[test]
    fn within_respects_component_borders() {
        let path = |bytes: &[u8]| RelPath::parse(bytes).unwrap();
        assert!(path(b"a/b").is_within(&path(b"a")));
        assert!(path(b"a").is_within(&path(b"a")));
        assert!(path(b"a").is_within(&RelPath::root()));
        assert!(!path(b"ab").is_within(&path(b"a")));
        assert!(!path(b"a").is_within(&path(b"a/b")));
    }

    #[test]
    fn parent_and_name_take_a_path_apart() {
        let path = RelPath::parse(b"a/b/c").unwrap();
        assert_eq!(path.name(), Some(&b"c"[..]));
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b");
        assert_eq!(RelPath::parse(b"a").unwrap().parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert_eq!(RelPath::root().name(), None);
        assert_eq!(RelPath::root().join(b"a").join(b"b").as_bytes(), b"a/b");
    }

    #[test]
    fn display_keeps_one_line_whatever_the_bytes() {
        assert_eq!(RelPath::parse(b"a\nb\xff\\\xc3\xa9").unwrap().to_string(), "a\\nb\\xff\\\\\u{e9}");
        assert_eq!(RelPath::root().to_string(), ".");
    }
}
