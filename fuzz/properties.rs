//! What must hold for any bytes: one function for each place where bytes of others come in. Shared by the fuzz targets
//! and by `tests/fuzz_corpus.rs`.
//!
//! Each asserts more than that nothing panics. A failure is a panic with what was wrong.

use std::collections::BTreeSet;
use std::path::Path;

use fansync::change::{Content, MarkKind, Priority, SavedMark};
use fansync::checkpoint::{decode_mark, decode_root, encode_mark, encode_root};
use fansync::config::Config;
use fansync::control::{Command, Request};
use fansync::event::{EventKind, Place, Record};
use fansync::filter::Filter;
use fansync::path::RelPath;
use fansync::sys::clock::WallTime;
use fansync::worker::outcome::{Applied, Exit, Names, Run, Standing, Verdict, WORDS_BYTES_MAX, judge};

/// Panics when it does not hold for these bytes.
pub type Property = fn(&[u8]);

/// The name of each property; that of its corpus folder too.
pub const ALL: [(&str, Property); 7] = [
    ("decode", decode),
    ("marks", decode_fanotify),
    ("output", output),
    ("filter", filter),
    ("config", config),
    ("checkpoint", checkpoint),
    ("control", control),
];

// --- the kernel's queue ---

/// A record without its borrowed name, so that two readings can be compared.
type Told = Option<(EventKind, bool, u32, Vec<u8>)>;

fn told(bytes: &[u8]) -> Vec<Told> {
    let mut told = Vec::new();
    fansync::event::decode(bytes, |record| {
        told.push(match record {
            Record::Nameless(_) => unreachable!("inotify tells of names"),
            Record::Overflow => None,
            Record::Event(event) => {
                assert!(matches!(event.place, Place::Watch(wd) if wd.0 >= 0), "an event of {:?}", event.place);
                let bad =
                    event.name == b"." || event.name == b".." || event.name.iter().any(|byte| b"/\0".contains(byte));
                assert!(!bad, "an event of the name {:?}", event.name);
                Some((event.kind, event.directory, event.cookie, event.name.to_vec()))
            }
        });
    });
    told
}

/// Where the records begin, by inotify(7) alone, and whether the last one is complete.
fn borders(bytes: &[u8]) -> (Vec<usize>, bool) {
    let (mut borders, mut at) = (vec![0], 0_usize);
    while at < bytes.len() {
        let Some(length) = bytes.get(at + 12..at + 16) else { return (borders, false) };
        let length = u32::from_ne_bytes(length.try_into().expect("four bytes")) as usize;
        match at.checked_add(16).and_then(|at| at.checked_add(length)).filter(|end| *end <= bytes.len()) {
            Some(end) => at = end,
            None => return (borders, false),
        }
        borders.push(at);
    }
    (borders, true)
}

/// Every record is told, in order and by itself; what makes no sense is an overflow.
pub fn decode(bytes: &[u8]) {
    const KINDS: u32 = libc_masks();
    let all = told(bytes);
    let (borders, complete) = borders(bytes);
    let mut by_themselves = Vec::new();
    for pair in borders.windows(2) {
        let record = &bytes[pair[0]..pair[1]];
        let of_record = told(record);
        let mask = u32::from_ne_bytes(record[4..8].try_into().expect("four bytes"));
        let wd = i32::from_ne_bytes(record[..4].try_into().expect("four bytes"));
        if mask & 0x4000 != 0 || wd < 0 {
            assert_eq!(of_record, [None], "mask {mask:#x}, watch {wd}");
        } else if of_record != [None] {
            assert_eq!(of_record.len(), (mask & KINDS).count_ones() as usize, "mask {mask:#x}");
        }
        by_themselves.extend(of_record);
    }
    if !complete {
        by_themselves.push(None);
    }
    assert_eq!(all, by_themselves, "a record depends on those before it, or is lost");
}

/// All kinds that inotify tells: IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE,
/// IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT, IN_IGNORED.
const fn libc_masks() -> u32 {
    0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x2000 | 0x8000
}

/// As [`decode`], for a fanotify group: records end where they say, each is told by itself, and names stay within their record.
pub fn decode_fanotify(bytes: &[u8]) {
    type Told = Option<(EventKind, bool, Vec<u8>, Vec<u8>)>;
    let told = |bytes: &[u8]| {
        let mut told: Vec<Told> = Vec::new();
        fansync::event::decode_fanotify(bytes, |record| {
            told.push(match record {
                Record::Nameless(nameless) => {
                    Some((EventKind::Modified, false, nameless.handle.bytes.to_vec(), Vec::new()))
                }
                Record::Overflow => None,
                Record::Event(event) => {
                    let Place::Handle(handle) = event.place else { panic!("an event of {:?}", event.place) };
                    assert!(handle.bytes.len() <= 128, "a handle of {} bytes", handle.bytes.len());
                    let bad = event.name == b"."
                        || event.name == b".."
                        || event.name.iter().any(|byte| b"/\0".contains(byte));
                    assert!(!bad, "an event of the name {:?}", event.name);
                    Some((event.kind, event.directory, handle.bytes.to_vec(), event.name.to_vec()))
                }
            });
        });
        told
    };
    let (mut by_themselves, mut at) = (Vec::new(), 0_usize);
    while at < bytes.len() {
        let length = bytes
            .get(at..at + 24)
            .map(|header| (u32::from_ne_bytes(header[..4].try_into().expect("four bytes")) as usize, header[4]));
        let Some(record) = length
            .filter(|(length, version)| *length >= 24 && *version == 3)
            .and_then(|(length, _)| bytes.get(at..at.checked_add(length)?))
        else {
            by_themselves.push(None);
            break;
        };
        let of_record = told(record);
        assert!(of_record.len() <= 7, "{} events of one record", of_record.len());
        by_themselves.extend(of_record);
        at += record.len();
    }
    assert_eq!(told(bytes), by_themselves, "a record depends on those before it, or is lost");
}

// --- rsync's output ---

const EXITS: [i32; 16] = [0, 1, 2, 3, 4, 5, 10, 11, 12, 20, 23, 24, 25, 30, 35, 77];

struct Batch {
    entries: BTreeSet<RelPath>,
}

impl Batch {
    fn standing(&self, path: &RelPath) -> Standing {
        if self.entries.iter().any(|entry| path.is_within(entry)) {
            Standing::Within
        } else if self.entries.iter().any(|entry| entry.is_within(path)) {
            Standing::Above
        } else {
            Standing::Elsewhere
        }
    }

    fn judge(&self, exit: Exit, stdout: &[u8], stderr: &[u8], output_cut: bool) -> Verdict {
        let standing = |path: &RelPath| self.standing(path);
        let names = Names {
            source_prefixes: &[b"/proc/self/fd/9/", b"/srv/root/"],
            module_sub: b"sub",
            destination_prefix: None,
            standing: &standing,
        };
        let verdict = judge(&Run { exit, stdout, stderr, output_cut }, &names);
        assert!(verdict.words.len() <= WORDS_BYTES_MAX, "{} bytes of words", verdict.words.len());
        assert!(!verdict.words.chars().any(char::is_control), "control characters in {:?}", verdict.words);
        assert_eq!(verdict.remedy, verdict.cause.remedy());
        match &verdict.applied {
            Applied::AllBut(failed) | Applied::EndedBy(failed) => {
                assert!(!failed.is_empty());
                for failed in failed {
                    assert_ne!(self.standing(&failed.path), Standing::Elsewhere, "{} is not of the batch", failed.path);
                }
            }
            Applied::All | Applied::Unclear | Applied::Nothing => {}
        }
        verdict
    }
}

/// rsync's way to print a name: control characters and bytes that are no UTF-8 as `\#ooo`, and a backslash that looks
/// like the start of one too (notes in `worker/complaint.rs`).
fn printed(name: &[u8]) -> Vec<u8> {
    let escape = |byte: u8| format!("\\#{byte:03o}").into_bytes();
    let mut text = Vec::new();
    for chunk in name.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        for (at, byte) in valid.iter().enumerate() {
            let looks_escaped = *byte == b'\\'
                && valid.get(at + 1) == Some(&b'#')
                && valid.get(at + 2..at + 5).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit));
            if looks_escaped || (*byte < 0x20 && *byte != b'\t') {
                text.extend(escape(*byte));
            } else {
                text.push(*byte);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.extend(escape(*byte)));
    }
    text
}

/// A complaint is never read as fewer paths than it names, nor as a path of another batch; nothing is taken for applied
/// that the exit code does not vouch for.
pub fn output(bytes: &[u8]) {
    let [exit, cut, border, rest @ ..] = bytes else { return };
    let code = EXITS[usize::from(exit % 16)];
    let cut = cut % 4 == 0;
    let (stdout, stderr) = rest.split_at((usize::from(*border) * rest.len()) / 256);
    let batch = Batch { entries: ["d/f", "g", "tree", "a/b/c", "x y"].map(|text| path(text.as_bytes())).into() };
    let verdict = batch.judge(Exit::Code(code), stdout, stderr, cut);
    match (code, &verdict.applied) {
        (0 | 23 | 24 | 25, Applied::Nothing | Applied::EndedBy(_)) => panic!("exit {code} says more than nothing"),
        (0, Applied::All) => assert!(!cut, "output that was cut proves nothing"),
        (_, Applied::All) => panic!("exit {code} is no acknowledgement"),
        (0 | 23 | 24, Applied::AllBut(_)) => assert!(!cut, "output that was cut proves nothing"),
        (0 | 23 | 24 | 25, Applied::Unclear) | (11, Applied::EndedBy(_)) | (_, Applied::Nothing) => {}
        (_, applied) => panic!("exit {code}: {applied:?}"),
    }
    for exit in [Exit::Watchdog, Exit::Signal(9)] {
        assert_eq!(batch.judge(exit, stdout, stderr, cut).applied, Applied::Nothing);
    }
    // One line more that nobody can read may name one path more.
    if code == 23 || code == 24 {
        let more = [stderr, b"\nrsync: something nobody has ever read\n"].concat();
        assert_eq!(batch.judge(Exit::Code(code), stdout, &more, false).applied, Applied::Unclear);
    }
    named(rest);
}

/// Each form of rsync's complaints, about a name made of `bytes`, names it.
fn named(bytes: &[u8]) {
    let name: Vec<u8> = bytes.iter().copied().filter(|byte| !b"/\0".contains(byte)).take(60).collect();
    if name.is_empty() || name == b"." || name == b".." {
        return;
    }
    let [one, other] = [[b"d/", &name[..]].concat(), [b"d/", &name[..], b"x"].concat()].map(|bytes| path(&bytes));
    let batch = Batch { entries: [one.clone(), other].into() };
    let shown = printed(&name);
    let temporary = [b".", shown.strip_prefix(b".").unwrap_or(&shown), b".AbC123"].concat();
    let forms: [(&[u8], &[u8], &[u8]); 9] = [
        (b"rsync: [sender] send_files failed to open \"/proc/self/fd/9/d/", &shown, b"\": Permission denied (13)"),
        (b"rsync: [sender] link_stat \"/srv/root/d/", &shown, b"\" failed: Permission denied (13)"),
        (b"rsync: [receiver] mkstemp \"/sub/d/", &temporary, b"\" (in m) failed: Permission denied (13)"),
        (b"rsync: [generator] recv_generator: mkdir \"/sub/d/", &shown, b"\" (in m) failed: File exists (17)"),
        (b"rsync: [generator] delete_file: unlink(d/", &shown, b") failed: Operation not permitted (1)"),
        (b"rsync: [generator] failed to set times on \"/sub/d/", &shown, b"\" (in m): Operation not permitted (1)"),
        (b"file has vanished: \"/proc/self/fd/9/d/", &shown, b"\""),
        (b"could not make way for new regular file: d/", &shown, b""),
        (b"ERROR: d/", &shown, b" failed verification -- update discarded."),
    ];
    for (before, name, behind) in forms {
        let line = [before, name, behind].concat();
        let verdict = batch.judge(Exit::Code(23), b"", &line, false);
        let Applied::AllBut(failed) = &verdict.applied else { continue };
        let text = String::from_utf8_lossy(&line);
        assert!(failed.iter().any(|failed| failed.path == one), "{text} was read as {failed:?}");
    }
}

fn path(bytes: &[u8]) -> RelPath {
    RelPath::parse(bytes).expect("a path that was made here")
}

// --- filter rules ---

/// Rules are refused with a reason or decide every path, the same way by each way to ask, and survive being written as
/// rsync's arguments.
pub fn filter(bytes: &[u8]) {
    let (rules, names) = match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &b"a\0dir/b.tmp"[..]),
    };
    let rules: Vec<&[u8]> = rules.split(|byte| *byte == b'\n').collect();
    let filter = match Filter::new(&rules, false) {
        Ok(filter) => filter,
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert_eq!(rules[error.index], &error.rule[..]);
                let words = error.to_string();
                assert!(!words.chars().any(char::is_control), "{words:?}");
            }
            return;
        }
    };
    let arguments = filter.rsync_arguments();
    let written: Vec<&[u8]> = arguments
        .iter()
        .map(|argument| std::os::unix::ffi::OsStrExt::as_bytes(argument.as_os_str()))
        .map(|argument| argument.strip_prefix(b"--filter=").expect("they are filter arguments"))
        .collect();
    let again = Filter::new(&written, false).expect("what is written for rsync is a rule");
    assert_eq!(filter.fingerprint(), again.fingerprint());
    let with_defaults = Filter::new(&rules, true).expect("the built-in rules change nothing about the others");
    assert!(!filter.excludes(&RelPath::root(), true));
    for name in names.split(|byte| *byte == 0) {
        let Ok(path) = RelPath::parse(name) else { continue };
        for directory in [false, true] {
            let excluded = filter.excludes_within(&path, directory);
            let mut above = path.parent();
            let mut by_parts = filter.excludes(&path, directory);
            while let Some(parent) = above {
                by_parts |= filter.excludes(&parent, true);
                above = parent.parent();
            }
            assert_eq!(excluded, by_parts, "{path}: as a whole and by its parts");
            let decision = filter.explain(&path, directory);
            assert_eq!(excluded, decision.excluded, "{path}: {decision:?}");
            assert!(path.is_within(&decision.on), "{path}: {decision:?}");
            assert_eq!(excluded, again.excludes_within(&path, directory), "{path}: as it was written for rsync");
            assert!(!excluded || with_defaults.excludes_within(&path, directory), "{path}: a given rule comes first");
        }
    }
}

// --- the configuration ---

/// A configuration is valid, and the same when it is written out and read back, or every complaint has its place.
pub fn config(bytes: &[u8]) {
    let file = Path::new("fansync.yaml");
    match Config::parse(bytes, file) {
        Ok(config) => {
            assert!(!config.roots.is_empty());
            let yaml = config.effective_yaml();
            let again = Config::parse(yaml.as_bytes(), file);
            assert_eq!(again.as_ref(), Ok(&config), "{yaml}");
        }
        Err(errors) => {
            assert!(!errors.complaints.is_empty());
            // A carriage return ends a line of YAML too; the end of the file is behind the last.
            let lines = bytes.iter().filter(|byte| b"\r\n".contains(byte)).count() + 2;
            for complaint in &errors.complaints {
                assert!((1..=lines).contains(&complaint.line), "{complaint:?} of {lines} lines");
                assert!(complaint.column >= 1, "{complaint:?}");
                let text = complaint.to_string();
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert!(!complaint.what.is_empty());
            }
            assert!(errors.complaints.is_sorted_by_key(|complaint| (complaint.line, complaint.column)));
        }
    }
}

// --- the checkpoint ---

/// Bytes are a record or damage, and a record comes back as it was.
pub fn checkpoint(bytes: &[u8]) {
    if let Ok(mark) = decode_mark(bytes) {
        assert_eq!(decode_mark(&encode_mark(&mark)), Ok(mark));
    }
    if let Ok(root) = decode_root(bytes) {
        assert_eq!(decode_root(&encode_root(&root)), Ok(root.clone()));
        let whole = encode_root(&root);
        for length in 0..whole.len() {
            assert!(decode_root(&whole[..length]).is_err(), "{length} of {} bytes are no record", whole.len());
        }
        assert!(decode_root(&[&whole[..], b"x"].concat()).is_err(), "a byte too many");
    }
    let [kind, flags, attempts, content, since @ ..] = bytes else { return };
    let (Some((since, rest)), contents) = (since.split_first_chunk::<8>(), [content % 3, content / 3 % 3]) else {
        return;
    };
    let since = WallTime(i64::from_le_bytes(*since));
    let [content, least] = contents.map(|content| match content {
        0 => Content::Compare,
        1 => Content::Since(since),
        _ => Content::Resend,
    });
    let Ok(path) = RelPath::parse(rest) else { return };
    let mark = SavedMark {
        path,
        kind: [MarkKind::Attributes, MarkKind::Point, MarkKind::Listing, MarkKind::Subtree][usize::from(kind % 4)],
        content,
        least,
        priority: if flags & 1 == 0 { Priority::Live } else { Priority::Background },
        first: WallTime(since.0.wrapping_mul(31)),
        attempts: u32::from(*attempts),
        derived: flags & 2 != 0,
        large: flags & 4 != 0,
        sent: flags & 8 != 0,
    };
    assert_eq!(decode_mark(&encode_mark(&mark)), Ok(mark));
}

// --- the control socket ---

/// A line is refused in words, or is a request that comes back as it was.
pub fn control(bytes: &[u8]) {
    match Request::parse(bytes) {
        Ok(request) => {
            let line = request.line();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line is one request");
            assert_eq!(Request::parse(&line), Ok(request));
        }
        Err(words) => assert!(!words.is_empty()),
    }
    let Ok(path) = RelPath::parse(bytes) else { return };
    let path = fansync::control::WirePath(path);
    let request = Request::new(Command::Explain { root: None, path, directory: false });
    assert_eq!(Request::parse(&request.line()), Ok(request), "any path can be asked for");
}
