//! One line of rsync's output, and the paths of the root that it may name.
//!
//! Invariant: when a line is [`Line::Paths`], the path that failed is among them. Names can hold quotes, ` failed: ` and
//! `" (in module)`, and rsync quotes none of that, so a line may be read in two ways: then both paths are given.
//! Too many is safe, since sending a path again is idempotent; too few loses a change.
//!
//! The forms are those of rsync 3.0 to 3.5 with `LC_ALL=C.UTF-8`. A path stands there
//! - absolute in the source (`"/proc/self/fd/9/d/f"`),
//! - absolute in the module (`"/sub/d/f" (in module)`), or in a local destination,
//! - or relative to the destination (`delete_file: unlink(d/f)`).
//!
//! Left out: names below `--partial-dir` and `--temp-dir`, which fansync does not pass.

use crate::path::RelPath;

/// Where a path stands to the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is an entry, or lies beneath one.
    Within,
    /// It is a directory above an entry: rsync sends its attributes.
    Above,
    /// The batch has nothing to do with it.
    Elsewhere,
}

/// What is needed to turn rsync's words into paths of the root.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// How rsync prints the root: the argument (`/proc/self/fd/9/`) and the real path. The longest that fits is taken.
    pub source_prefixes: &'a [&'a [u8]],
    /// Path inside the module, without slashes at its ends; empty for none.
    pub module_sub: &'a [u8],
    /// The path of a destination that is no module. One that does not begin with a slash lies in the home directory of another
    /// machine, whose path we do not know.
    pub destination_prefix: Option<&'a [u8]>,
    /// Where a path stands to the batch.
    pub standing: &'a dyn Fn(&RelPath) -> Standing,
}

impl std::fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("module_sub", &bstr::BStr::new(self.module_sub)).finish_non_exhaustive()
    }
}

/// Why a path failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathCause {
    /// It is gone in the source.
    Vanished,
    /// Permission, ownership, immutable, read-only file system.
    Denied,
    /// No space, inodes or quota for it.
    NoSpace,
    /// Something that should go is still there.
    NotDeleted,
    /// The target cannot hold such a file. When the path is *missing* in the source, it means that the daemon has
    /// `delete-missing-args` in its `refuse options`: the delete was not done (observed with 3.5.0, exit 0).
    Unsupported,
    /// It changed while it was sent.
    Raced,
    /// The name or path is too long for one of the sides.
    NameTooLong,
    /// A filter of the module keeps it out.
    Excluded,
    /// Anything else: see the words.
    Other,
}

/// One line of rsync's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// It says nothing about a path's fate.
    Noise,
    /// At least one of these failed.
    Paths {
        /// Never empty.
        paths: Vec<RelPath>,
        /// Why.
        why: PathCause,
        /// Whether what lies beneath may have failed with it; false when only attributes could not be set.
        contents: bool,
    },
    /// It may be about a path, but none of this batch can be read out of it.
    Unclear,
}

/// Reads one line of stderr, or one of the stdout lines that [`is_marker`] picks.
#[must_use]
pub fn read(line: &[u8], names: &Names<'_>) -> Line {
    if is_noise(line) {
        return Line::Noise;
    }
    let Some(complaint) = Complaint::parse(untagged(line)) else {
        return Line::Unclear;
    };
    let mut within = Vec::new();
    let mut above = Vec::new();
    for place in &complaint.places {
        let mut located = 0;
        for bytes in place.locate(names) {
            let mut found = false;
            for path in place.resolve(bytes) {
                let standing = (names.standing)(&path);
                found |= standing != Standing::Elsewhere;
                match standing {
                    Standing::Within if !within.contains(&path) => within.push(path),
                    Standing::Above if !above.contains(&path) => above.push(path),
                    Standing::Within | Standing::Above | Standing::Elsewhere => {}
                }
            }
            located += usize::from(found);
        }
        if located > 1 {
            // Where the destination ends cannot be told, and one reading may be above what the other is within.
            return Line::Unclear;
        }
    }
    let paths = if within.is_empty() { above } else { within };
    if paths.is_empty() || complaint.places.iter().any(Place::may_be_cut) {
        return Line::Unclear;
    }
    Line::Paths { paths, why: complaint.why, contents: !complaint.attributes_only }
}

/// Whether a line, of either stream, tells that a path failed although the exit code may be 0.
#[must_use]
pub fn is_marker(line: &[u8]) -> bool {
    line.starts_with(NON_EMPTY) || line.starts_with(NON_REGULAR)
}

const NON_EMPTY: &[u8] = b"cannot delete non-empty directory: ";
const NON_REGULAR: &[u8] = b"skipping non-regular file \"";

/// Lines that repeat or summarise others. `WARNING: P failed verification` is followed by a second attempt, which
/// says `ERROR` when it fails too.
fn is_noise(line: &[u8]) -> bool {
    let starts: [&[u8]; 6] = [
        b"rsync error: ",
        b"rsync warning: ",
        b"*** Skipping any contents from this failed ",
        b"WARNING: parent dir is absent in the file list: ",
        b"IO error encountered -- skipping file deletion",
        // ssh's: as many runs as the server allows share the connection; this one makes its own.
        b"mux_client_request_session: session request failed: ",
    ];
    line.trim_ascii().is_empty()
        || starts.iter().any(|start| line.starts_with(start))
        || (line.starts_with(b"WARNING: ") && find_last(line, b" failed verification -- update ").is_some())
}

/// The line without `rsync: ` and the `[role]` that 3.2 and later print.
#[must_use]
pub fn untagged(line: &[u8]) -> &[u8] {
    let line = line.strip_prefix(b"rsync: ").unwrap_or(line);
    if let Some(rest) = line.strip_prefix(b"[")
        && let Some(end) = rest.iter().position(|byte| !byte.is_ascii_alphabetic())
        && let Some(after) = rest[end..].strip_prefix(b"] ")
    {
        return after;
    }
    line
}

/// A line taken apart, its paths not yet looked up.
#[derive(Debug)]
struct Complaint {
    places: Vec<Place>,
    why: PathCause,
    attributes_only: bool,
}

/// A path as rsync printed it, escapes undone.
#[derive(Debug)]
struct Place {
    bytes: Vec<u8>,
    /// `(in module)` stood behind it.
    in_module: bool,
    temporary: Temporary,
}

/// Whether the last component is the name of rsync's temporary file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temporary {
    No,
    Maybe,
    Yes,
}

impl Complaint {
    fn parse(line: &[u8]) -> Option<Self> {
        if let Some(path) = line.strip_prefix(NON_EMPTY) {
            return Some(Self::of(Place::plain(path), PathCause::NotDeleted));
        }
        if let Some(path) = line.strip_prefix(NON_REGULAR) {
            return Some(Self::of(Place::plain(path.strip_suffix(b"\"")?), PathCause::Unsupported));
        }
        if let Some(rest) = line.strip_prefix(b"could not make way for ") {
            let colon = find(rest, b": ")?;
            return Some(Self::of(Place::plain(&rest[colon + 2..]), PathCause::NotDeleted));
        }
        if let Some(rest) = line.strip_prefix(b"ERROR: ")
            && let Some(end) = find_last(rest, b" failed verification -- update ")
        {
            return Some(Self::of(Place::plain(&rest[..end]), PathCause::Raced));
        }
        if let Some(rest) = line.strip_prefix(b"filename overflows max-path len by ") {
            let colon = find(rest, b": ")?;
            return Some(Self::of(Place::plain(&rest[colon + 2..]), PathCause::NameTooLong));
        }
        if let Some(rest) = line.strip_prefix(b"delete_file: ")
            && let Some(open) = rest.iter().take_while(|byte| **byte != b'"').position(|byte| *byte == b'(')
        {
            // `unlink(P) failed: TEXT (1)`: no error text holds `) failed: `, so the last one is the border.
            let end = find_last(rest, b") failed: ")?;
            let path = rest.get(open + 1..end)?;
            let why = match reason(&rest[end + b") failed: ".len()..]) {
                PathCause::Other => PathCause::NotDeleted,
                why => why,
            };
            return Some(Self::of(Place::plain(path), why));
        }
        Self::parse_quoted(line)
    }

    /// `VERB "P" (in module) failed: TEXT (errno)` and its kin. No verb and no error text holds a quote, so the path
    /// begins behind the first quote and ends before the last one.
    fn parse_quoted(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|byte| *byte == b'"')?;
        let close = line.iter().rposition(|byte| *byte == b'"').filter(|close| *close > open)?;
        // flist.c prints `readlink_stat("P") failed`, without a blank.
        let verb = line[..open].strip_suffix(b" ").or_else(|| line[..open].strip_suffix(b"("))?;
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || b" _:-+.".contains(byte);
        if !verb.iter().all(known) {
            return None;
        }
        let (in_module, text) = module_suffix(&line[close + 1..]);
        let text = text.strip_prefix(b")").unwrap_or(text);
        let body = &line[open + 1..close];
        let why = if verb == b"file has vanished:" {
            PathCause::Vanished
        } else if verb.starts_with(b"ERROR: daemon refused to receive ")
            || verb.starts_with(b"skipping daemon-excluded ")
        {
            PathCause::Excluded
        } else {
            // Every other form ends in the error's text; what does not is no complaint that we know.
            let text = text.strip_prefix(b" failed").unwrap_or(text).strip_prefix(b": ")?;
            match reason(text) {
                // Gone at the receiver: another delete was faster, or the directory was replaced.
                PathCause::Vanished if in_module || !is_of_sender(verb) => PathCause::Raced,
                why => why,
            }
        };
        let attributes_only = verb.starts_with(b"failed to set ") || verb.starts_with(b"chown") || verb == b"utimes";
        let places = if PAIRS.contains(&verb) { pairs(body) } else { Vec::new() };
        if !places.is_empty() {
            return Some(Self { places, why, attributes_only });
        }
        let temporary = match verb {
            b"mkstemp" => Temporary::Yes,
            _ if is_of_sender(verb) => Temporary::No,
            _ => Temporary::Maybe,
        };
        Some(Self { places: vec![Place { bytes: unescape(body), in_module, temporary }], why, attributes_only })
    }

    fn of(place: Place, why: PathCause) -> Self {
        Self { places: vec![place], why, attributes_only: false }
    }
}

/// Verbs with two quoted paths: `rename "T" (in module) -> "P"`, `symlink "P" -> "text"`, `link "P" => "Q"`.
const PAIRS: [&[u8]; 5] = [b"rename", b"symlink", b"link", b"copy", b"hard-link"];

fn is_of_sender(verb: &[u8]) -> bool {
    let verbs: [&[u8]; 6] =
        [b"link_stat", b"readlink_stat", b"send_files failed to open", b"read errors mapping", b"opendir", b"readdir"];
    verb.starts_with(b"file has vanished") || verbs.contains(&verb)
}

/// Every way to take `A" (in module) -> "B` apart, both halves of each.
fn pairs(body: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    for at in 0..body.len() {
        let rest = &body[at..];
        if !(rest.starts_with(b" -> \"") || rest.starts_with(b" => \"")) {
            continue;
        }
        let left = &body[..at];
        let right = &body[at + 5..];
        if let Some(path) = left.strip_suffix(b"\"") {
            places.push(Place { bytes: unescape(path), in_module: false, temporary: Temporary::Maybe });
        }
        if left.ends_with(b")")
            && let Some(end) = find_last(left, b"\" (in ")
        {
            places.push(Place { bytes: unescape(&left[..end]), in_module: true, temporary: Temporary::Maybe });
        }
        places.push(Place { bytes: unescape(right), in_module: false, temporary: Temporary::Maybe });
    }
    places
}

/// Takes ` (in module)` off the front.
fn module_suffix(text: &[u8]) -> (bool, &[u8]) {
    if let Some(rest) = text.strip_prefix(b" (in ")
        && let Some(end) = rest.iter().position(|byte| *byte == b')')
    {
        return (true, &rest[end + 1..]);
    }
    (false, text)
}

/// `TEXT (errno)`. The text comes first, since the number is that of the target's operating system.
fn reason(text: &[u8]) -> PathCause {
    const REASONS: [(&[u8], &[u8], PathCause); 18] = [
        (b"No such file or directory", b"(2)", PathCause::Vanished),
        (b"Operation not permitted", b"(1)", PathCause::Denied),
        (b"Permission denied", b"(13)", PathCause::Denied),
        (b"Read-only file system", b"(30)", PathCause::Denied),
        (b"No space left on device", b"(28)", PathCause::NoSpace),
        (b"Disk quota exceeded", b"(122)", PathCause::NoSpace),
        (b"Directory not empty", b"(39)", PathCause::NotDeleted),
        (b"Device or resource busy", b"(16)", PathCause::NotDeleted),
        (b"Operation not supported", b"(95)", PathCause::Unsupported),
        (b"Function not implemented", b"(38)", PathCause::Unsupported),
        (b"Not a directory", b"(20)", PathCause::Raced),
        (b"Is a directory", b"(21)", PathCause::Raced),
        (b"File exists", b"(17)", PathCause::Raced),
        (b"Too many levels of symbolic links", b"(40)", PathCause::Raced),
        (b"No data available", b"(61)", PathCause::Raced),
        (b"Stale file handle", b"(116)", PathCause::Raced),
        (b"Text file busy", b"(26)", PathCause::Raced),
        (b"File name too long", b"(36)", PathCause::NameTooLong),
    ];
    let by_text = REASONS.iter().find(|(words, _, _)| text.starts_with(words));
    by_text
        .or_else(|| REASONS.iter().find(|(_, number, _)| text.ends_with(number)))
        .map_or(PathCause::Other, |row| row.2)
}

impl Place {
    fn plain(path: &[u8]) -> Self {
        Self { bytes: unescape(path), in_module: false, temporary: Temporary::No }
    }

    /// The paths that `bytes`, one of the readings of [`Self::locate`], may stand for.
    fn resolve(&self, bytes: &[u8]) -> Vec<RelPath> {
        let Ok(path) = RelPath::parse(tidy(bytes)) else {
            return Vec::new();
        };
        let mut paths = match self.temporary {
            Temporary::No => return vec![path],
            Temporary::Maybe => vec![path.clone()],
            Temporary::Yes => Vec::new(),
        };
        if let (Some(directory), Some(base)) = (path.parent(), path.name().and_then(without_temporary)) {
            // rsync drops the dot of a hidden name before it adds its own, so `.x.AbCdEf` stands for `x` or `.x`.
            for name in [[b".", base].concat(), base.to_vec()] {
                if name != b"." && name != b".." {
                    paths.push(directory.join(&name));
                }
            }
        }
        paths
    }

    /// The bytes relative to the root. Several readings only where the destination lies in a home directory whose path we do
    /// not know.
    fn locate<'a>(&'a self, names: &Names<'_>) -> Vec<&'a [u8]> {
        let bytes = &self.bytes[..];
        if !self.in_module {
            if !bytes.starts_with(b"/") {
                return vec![bytes];
            }
            let (prefix, home) = match names.destination_prefix {
                Some(prefix) if prefix.starts_with(b"/") => (Some(prefix), None),
                home => (None, home),
            };
            let mut prefixes = names.source_prefixes.to_vec();
            prefixes.extend(prefix);
            prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            if let Some(rest) = prefixes.iter().find_map(|prefix| below(bytes, prefix)) {
                return vec![rest];
            }
            if let Some(home) = home {
                let slashes = (0..bytes.len()).filter(|at| bytes[*at] == b'/');
                return slashes.filter_map(|at| below(&bytes[at + 1..], home)).collect();
            }
        }
        let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(bytes.len());
        below(&bytes[start..], names.module_sub).into_iter().collect()
    }

    /// rsync shortens a long name to make room for its suffix (`get_tmpname`): 247 bytes, less a split character.
    fn may_be_cut(&self) -> bool {
        let name = self.bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        self.temporary != Temporary::No
            && without_temporary(name).is_some_and(|base| base.len() >= 240 || self.bytes.len() >= 4000)
    }
}

/// `NAME` of `.NAME.XXXXXX`.
fn without_temporary(name: &[u8]) -> Option<&[u8]> {
    let (base, suffix) = name.strip_prefix(b".")?.split_last_chunk::<7>()?;
    (!base.is_empty() && suffix[0] == b'.' && suffix[1..].iter().all(u8::is_ascii_alphanumeric)).then_some(base)
}

/// What lies below `prefix`, which may end in a slash or not.
fn below<'a>(bytes: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
    if prefix.is_empty() {
        return Some(bytes.strip_prefix(b"/").unwrap_or(bytes));
    }
    let rest = bytes.strip_prefix(prefix)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// Without the `./` and `/.` that stand for the directory itself.
fn tidy(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"./") {
        bytes = rest;
    }
    if bytes == b"." {
        return b"";
    }
    let bytes = bytes.strip_suffix(b"/.").unwrap_or(bytes);
    bytes.strip_suffix(b"/").unwrap_or(bytes)
}

/// Undoes `\#ooo`. rsync escapes the backslash of a real `\#123` itself, so this is unambiguous.
pub(super) fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        match rest {
            [b'\\', b'#', high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', after @ ..] => {
                plain.push((high - b'0') * 64 + (middle - b'0') * 8 + (low - b'0'));
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn find_last(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|window| window == needle)
}

/// Where a path stands to the entries of a list; for tests.
#[cfg(test)]
pub(super) fn standing_among(entries: &[RelPath], path: &RelPath) -> Standing {
    if entries.iter().any(|entry| path.is_within(entry)) {
        Standing::Within
    } else if entries.iter().any(|entry| entry.is_within(path)) {
        Standing::Above
    } else {
        Standing::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> RelPath {
        RelPath::parse(bytes).unwrap()
    }

    /// Reads `line` for a batch of `entries`, sent from fd 9 into `sub` of a module, or into `/dst`.
    fn read_for(entries: &[&[u8]], line: &[u8]) -> Line {
        let entries: Vec<_> = entries.iter().map(|entry| path(entry)).collect();
        let standing = |one: &RelPath| standing_among(&entries, one);
        let names = Names {
            source_prefixes: &[b"/proc/self/fd/9/", b"/proc/self", b"/srv/root"],
            module_sub: b"sub",
            destination_prefix: Some(b"/dst/"),
            standing: &standing,
        };
        read(line, &names)
    }

    fn check(line: &str, expected: &[u8], why: PathCause) {
        let found = read_for(&[expected], line.as_bytes());
        let Line::Paths { paths, why: found_why, .. } = &found else { panic!("{line}: {found:?}") };
        assert_eq!(paths, &[path(expected)], "{line}");
        assert_eq!(*found_why, why, "{line}");
    }

    #[test]
    fn every_form_gives_its_path() {
        use PathCause::*;
        // The sender's, absolute in the source. With and without the role tag of 3.2.
        check(r#"rsync: [sender] link_stat "/proc/self/fd/9/a/x" failed: Not a directory (20)"#, b"a/x", Raced);
        check(r#"rsync: link_stat "/srv/root/a/x" failed: No such file or directory (2)"#, b"a/x", Vanished);
        check(r#"rsync: [sender] link_stat "/proc/self/fd/9/LL" failed: File name too long (36)"#, b"LL", NameTooLong);
        check(r#"rsync: [sender] opendir "/proc/self/fd/9/ud" failed: Permission denied (13)"#, b"ud", Denied);
        check(r#"rsync: [sender] readlink_stat("/proc/self/fd/9/l") failed: Permission denied (13)"#, b"l", Denied);
        check(r#"rsync: [sender] readlink_stat "/proc/self/fd/9/l" failed: Permission denied (13)"#, b"l", Denied);
        check(
            r#"rsync: [sender] send_files failed to open "/proc/self/fd/9/un": Permission denied (13)"#,
            b"un",
            Denied,
        );
        check(
            r#"rsync: [sender] send_files failed to open "/proc/self/fd/9/s": Too many levels of symbolic links (40)"#,
            b"s",
            Raced,
        );
        check(r#"rsync: [sender] read errors mapping "/proc/self/fd/9/b": No data available (61)"#, b"b", Raced);
        check(r#"rsync: [sender] read errors mapping "/proc/self/fd/9/b": Is a directory (21)"#, b"b", Raced);
        check(r#"file has vanished: "/proc/self/fd/9/i/dd""#, b"i/dd", Vanished);
        check(r#"file has vanished: "/sub/i/dd" (in mod)"#, b"i/dd", Vanished);
        // The receiver's, absolute in the module or in a local destination.
        check(
            r#"rsync: [receiver] mkstemp "/sub/i/.new.EcDDMS" (in m) failed: Operation not permitted (1)"#,
            b"i/new",
            Denied,
        );
        check(r#"rsync: mkstemp "/sub/.new.EcDDMS" (in m) failed: Disk quota exceeded (122)"#, b"new", NoSpace);
        check(r#"rsync: [receiver] mkstemp "/dst/i/.new.oqE5hy" failed: Read-only file system (30)"#, b"i/new", Denied);
        check(
            r#"rsync: [receiver] rename "/sub/.im.qfoayv" (in m) -> "im": Operation not permitted (1)"#,
            b"im",
            Denied,
        );
        check(
            r#"rsync: [receiver] rename "/dst/d/.im.t7Mfbz" -> "d/im": No such file or directory (2)"#,
            b"d/im",
            Raced,
        );
        check(
            r#"rsync: [generator] failed to set times on "/sub/ti" (in m): Operation not permitted (1)"#,
            b"ti",
            Denied,
        );
        check(
            r#"rsync: [receiver] failed to set permissions on "/sub/d/.f.AbC123" (in m): Operation not supported (95)"#,
            b"d/f",
            Unsupported,
        );
        check(
            r#"rsync: [generator] recv_generator: mkdir "/sub/i/mkd" (in m) failed: Operation not permitted (1)"#,
            b"i/mkd",
            Denied,
        );
        check(
            r#"rsync: [generator] symlink "/sub/i/ln" (in m) -> "x" failed: Operation not permitted (1)"#,
            b"i/ln",
            Denied,
        );
        check(
            r#"rsync: [generator] symlink "/dst/i/ln" -> "x" failed: No space left on device (28)"#,
            b"i/ln",
            NoSpace,
        );
        check(r#"rsync: [generator] mknod "/sub/i/fifo" (in m) failed: Permission denied (13)"#, b"i/fifo", Denied);
        check(r#"rsync: [receiver] write failed on "/sub/big" (in m): No space left on device (28)"#, b"big", NoSpace);
        // Relative to the destination.
        check("rsync: [generator] delete_file: unlink(i/del) failed: Operation not permitted (1)", b"i/del", Denied);
        check("rsync: [generator] delete_file: rmdir(i/dd) failed: Directory not empty (39)", b"i/dd", NotDeleted);
        check("rsync: delete_file: rmdir(i/dd) failed: Unheard of (99)", b"i/dd", NotDeleted);
        check("could not make way for new regular file: ne2", b"ne2", NotDeleted);
        check("could not make way for new directory: a: b", b"a: b", NotDeleted);
        check("could not make way for new symlink: ne3", b"ne3", NotDeleted);
        check("ERROR: d/a2 failed verification -- update discarded.", b"d/a2", Raced);
        check(r#"ERROR: daemon refused to receive directory "own""#, b"own", Excluded);
        check("cannot delete non-empty directory: d/e", b"d/e", NotDeleted);
        check(r#"skipping non-regular file "dev x""#, b"dev x", Unsupported);
        check("filename overflows max-path len by 3: a/b", b"a/b", NameTooLong);
        // The root itself.
        check(r#"rsync: [generator] failed to set times on "/sub/." (in m): Permission denied (13)"#, b"", Denied);
        check(r#"rsync: [generator] failed to set times on "/sub" (in m): Permission denied (13)"#, b"", Denied);
        check(r#"rsync: [generator] failed to set times on "/dst/.": Permission denied (13)"#, b"", Denied);
    }

    #[test]
    fn a_destination_in_an_unknown_home_is_found_and_in_doubt_nothing_is() {
        let read_in = |home: &[u8], entries: &[&[u8]], line: &str| {
            let entries: Vec<_> = entries.iter().map(|entry| path(entry)).collect();
            let standing = |one: &RelPath| standing_among(&entries, one);
            let names = Names {
                source_prefixes: &[b"/proc/self/fd/9/"],
                module_sub: b"",
                destination_prefix: Some(home),
                standing: &standing,
            };
            match read(line.as_bytes(), &names) {
                Line::Paths { paths, .. } => Some(paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
                Line::Noise | Line::Unclear => None,
            }
        };
        let denied = |path: &str| format!("rsync: [receiver] mkstemp \"{path}\" failed: Permission denied (13)");
        let check = |home: &str, entry: &str, path: &str, expected: Option<&str>| {
            let found = read_in(home.as_bytes(), &[entry.as_bytes()], &denied(path));
            assert_eq!(found.as_deref(), expected, "{home} {entry} {path}");
        };
        check("data", "d/f", "/home/bob/data/d/.f.AbC123", Some("d/f"));
        check("my/data/", "f", "/home/bob/my/data/.f.AbC123", Some("f"));
        check("data", "f", "/home/bob/other/.f.AbC123", None);
        check("data", "f", "/home/bob/mydata/.f.AbC123", None);
        // Elsewhere in one reading, so it is the other.
        check("data", "d/f", "/home/data/data/d/.f.AbC123", Some("d/f"));
        check("data", "data/f", "/home/data/data/.f.AbC123", Some("data/f"));
        // In the one it is an entry, in the other a directory above one.
        let times = "rsync: [generator] failed to set times on \"/home/data/data/d\": Operation not permitted (1)";
        assert_eq!(read_in(b"data", &[b"data/d", b"d/x"], times), None);
        let sender = "rsync: [sender] send_files failed to open \"/proc/self/fd/9/data/f\": Permission denied (13)";
        assert_eq!(read_in(b"data", &[b"data/f"], sender).as_deref(), Some("data/f"));
        let relative = "rsync: [generator] delete_file: unlink(data/f) failed: Permission denied (13)";
        assert_eq!(read_in(b"data", &[b"data/f"], relative).as_deref(), Some("data/f"));
    }

    #[test]
    fn hostile_names_are_read_from_both_ends() {
        let mkstemp = |printed: &str, name: &[u8]| {
            let suffix = "failed: Operation not permitted (1)";
            check(
                &format!("rsync: [receiver] mkstemp \"/sub/i/.{printed}.AbC123\" (in m) {suffix}"),
                name,
                PathCause::Denied,
            );
            check(&format!("rsync: [receiver] mkstemp \"/dst/i/.{printed}.AbC123\" {suffix}"), name, PathCause::Denied);
        };
        mkstemp(r"nl\#012x", b"i/nl\nx");
        mkstemp(r#"q"q"#, b"i/q\"q");
        mkstemp(r"b\s", b"i/b\\s");
        mkstemp(r"\#377\#376", b"i/\xff\xfe");
        mkstemp(r"\#134#123", b"i/\\#123");
        mkstemp("a failed: x", b"i/a failed: x");
        mkstemp(r#"a" failed: b (2)"#, b"i/a\" failed: b (2)");
        mkstemp(r#"a" (in m)"#, b"i/a\" (in m)");
        mkstemp(r#"x" -> "y"#, b"i/x\" -> \"y");
        mkstemp(" sp ", b"i/ sp ");
        mkstemp("z.abcdef", b"i/.z.abcdef");
        check(
            r#"rsync: [receiver] rename "/sub/.a" -> "b.AbC123" (in m) -> "a" -> "b": Operation not permitted (1)"#,
            b"a\" -> \"b",
            PathCause::Denied,
        );
        check(
            r#"rsync: [generator] symlink "/sub/a" -> "b" (in m) -> "c" -> "d" failed: Permission denied (13)"#,
            b"a\" -> \"b",
            PathCause::Denied,
        );
        check(
            "rsync: [generator] delete_file: unlink(a) failed: x (1)) failed: Permission denied (13)",
            b"a) failed: x (1)",
            PathCause::Denied,
        );
        check(
            "ERROR: a failed verification -- update b failed verification -- update discarded.",
            b"a failed verification -- update b",
            PathCause::Raced,
        );
    }

    #[test]
    fn a_temporary_of_two_entries_fails_both() {
        let line = br#"rsync: [receiver] mkstemp "/sub/.x.AbC123" (in m) failed: Permission denied (13)"#;
        let Line::Paths { paths, .. } = read_for(&[b"x", b".x"], line) else { panic!() };
        assert_eq!(paths, [path(b".x"), path(b"x")]);
    }

    #[test]
    fn a_temporary_that_may_be_shortened_names_nobody() {
        let long = "n".repeat(243);
        let line = format!("rsync: [receiver] mkstemp \"/sub/d/.{long}.AbC123\" (in m) failed: Permission denied (13)");
        assert_eq!(read_for(&[b"d"], line.as_bytes()), Line::Unclear);
    }

    #[test]
    fn a_parent_is_named_with_or_without_its_contents() {
        let read = |line: &[u8]| match read_for(&[b"d/f"], line) {
            Line::Paths { paths, contents, .. } => (paths, contents),
            other => panic!("{other:?}"),
        };
        let times = br#"rsync: [generator] failed to set times on "/sub/d" (in m): Operation not permitted (1)"#;
        assert_eq!(read(times), (vec![path(b"d")], false));
        let mkdir = br#"rsync: [generator] recv_generator: mkdir "/sub/d" (in m) failed: Permission denied (13)"#;
        assert_eq!(read(mkdir), (vec![path(b"d")], true));
    }

    #[test]
    fn what_is_outside_the_batch_or_unknown_is_unclear() {
        let unclear = |line: &[u8]| assert_eq!(read_for(&[b"d"], line), Line::Unclear, "{:?}", bstr::BStr::new(line));
        unclear(br#"rsync: [sender] link_stat "/proc/self/fd/9/other" failed: Permission denied (13)"#);
        unclear(br#"rsync: [generator] failed to set times on "/elsewhere/d" (in m): Permission denied (13)"#);
        unclear(b"rsync: [generator] delete_file: unlink(../d) failed: Permission denied (13)");
        unclear(b"something went wrong with d");
        unclear(br#"something is wrong with "d""#);
    }

    #[test]
    fn summaries_and_second_attempts_are_noise() {
        let noise = |line: &[u8]| assert_eq!(read_for(&[b"d"], line), Line::Noise, "{:?}", bstr::BStr::new(line));
        noise(b"");
        noise(b"mux_client_request_session: session request failed: Session open refused by peer");
        noise(b"*** Skipping any contents from this failed directory ***");
        noise(b"WARNING: parent dir is absent in the file list: gone");
        noise(b"WARNING: d failed verification -- update discarded (will try again).");
        noise(b"rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1394) [sender=3.5.0]");
    }
}
