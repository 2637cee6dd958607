//! What the YAML says: a tree of nodes, each with its line and column, and nothing interpreted.
//!
//! Invariant: a tree is at most [`DEPTH_MAX`] deep, so walking and dropping it needs little stack.
//! Left out on purpose, and refused by name: several documents, anchors, aliases and tags. A configuration that
//! needs them is generated, and the generator can write the values out.

use super::complaint::{Complaint, one_line};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Nesting that no configuration needs; the deepest known key lies at 7.
const DEPTH_MAX: usize = 32;

/// The largest file that is read. Unit: bytes. Why 4 MiB: some 20,000 roots, and a wrong file is refused at once.
pub(super) const FILE_SIZE_MAX: usize = 4 << 20;

/// One value of the file and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Line, from 1.
    pub(super) line: usize,
    /// Column in characters, from 1.
    pub(super) column: usize,
    /// What stands there.
    pub(super) kind: Kind,
}

/// The three shapes of YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text; `plain` when it stood without quotes, so that it may mean a number, a boolean or nothing.
    Scalar {
        /// The text with escapes resolved.
        text: String,
        /// No quotes and no block sign.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in the order of the file, duplicates included.
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// Whether this is null by the core schema of YAML 1.2 (section 10.3.2): nothing at all, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// A collection whose end has not been read yet.
enum Open {
    Sequence { line: usize, column: usize, items: Vec<Node> },
    Mapping { line: usize, column: usize, entries: Vec<(Node, Node)>, key: Option<Node> },
}

/// Reads the one document in `text`.
///
/// # Errors
/// One [`Complaint`]: what follows a syntax error cannot be trusted to mean anything.
pub(super) fn read(text: &[u8]) -> Result<Node, Complaint> {
    if text.len() > FILE_SIZE_MAX {
        return Err(refuse(1, 1, format!("the file is larger than {} MiB", FILE_SIZE_MAX >> 20), None));
    }
    let text = std::str::from_utf8(text).map_err(|error| {
        let (line, column) = position_of(&String::from_utf8_lossy(&text[..error.valid_up_to()]));
        refuse(line, column, "not UTF-8 text", Some("save the file as UTF-8"))
    })?;
    refuse_control_characters(text)?;
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax_complaint(text, &error))?;
        let (line, column) = start(&span);
        let done = match event {
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => continue,
            Event::StreamEnd => break,
            Event::DocumentStart(_) if root.is_some() => {
                return Err(refuse(line, column, "a second document begins here", Some("keep one document per file")));
            }
            Event::DocumentStart(_) => continue,
            Event::Alias(_) => return Err(refuse_reference(line, column)),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_decoration(line, column, anchor, tag.is_some())?;
                let plain = style == ScalarStyle::Plain;
                Node { line, column, kind: Kind::Scalar { text: text.into_owned(), plain } }
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_decoration(line, column, anchor, tag.is_some())?;
                refuse_depth(line, column, open.len())?;
                open.push(Open::Sequence { line, column, items: Vec::new() });
                continue;
            }
            Event::MappingStart(anchor, tag) => {
                refuse_decoration(line, column, anchor, tag.is_some())?;
                refuse_depth(line, column, open.len())?;
                open.push(Open::Mapping { line, column, entries: Vec::new(), key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::Sequence { line, column, items }) => Node { line, column, kind: Kind::Sequence(items) },
                Some(Open::Mapping { line, column, entries, .. }) => {
                    Node { line, column, kind: Kind::Mapping(entries) }
                }
                None => continue,
            },
        };
        match open.last_mut() {
            None => root = Some(done),
            Some(Open::Sequence { items, .. }) => items.push(done),
            Some(Open::Mapping { entries, key, .. }) => match key.take() {
                None => *key = Some(done),
                Some(key) => entries.push((key, done)),
            },
        }
    }
    root.ok_or_else(|| refuse(1, 1, "the file is empty", Some("begin with 'roots:', a list of what to mirror")))
}

fn refuse(line: usize, column: usize, what: impl Into<String>, hint: Option<&str>) -> Complaint {
    Complaint { line, column, key: String::new(), what: what.into(), hint: hint.map(str::to_owned) }
}

/// saphyr-parser counts lines from 1 and columns from 0.
fn start(span: &Span) -> (usize, usize) {
    (span.start.line().max(1), span.start.col() + 1)
}

fn refuse_reference(line: usize, column: usize) -> Complaint {
    refuse(
        line,
        column,
        "anchors (&) and aliases (*) are not supported",
        Some("write the value out, or quote the text"),
    )
}

fn refuse_decoration(line: usize, column: usize, anchor: usize, tagged: bool) -> Result<(), Complaint> {
    if anchor != 0 {
        return Err(refuse_reference(line, column));
    }
    if tagged {
        return Err(refuse(line, column, "tags (!) are not supported", Some("remove the tag, or quote the text")));
    }
    Ok(())
}

fn refuse_depth(line: usize, column: usize, depth: usize) -> Result<(), Complaint> {
    if depth < DEPTH_MAX {
        return Ok(());
    }
    Err(refuse(line, column, format!("nested more than {DEPTH_MAX} deep"), None))
}

/// The parser takes a NUL for the end of the file, so that what follows would be lost in silence; YAML 1.2
/// (section 5.1) allows no other control character either.
fn refuse_control_characters(text: &str) -> Result<(), Complaint> {
    let forbidden = |(at, character): &(usize, char)| match *character {
        '\t' | '\n' | '\r' | '\u{85}' => false,
        '\u{feff}' => *at != 0,
        character => character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}'),
    };
    let Some((at, character)) = text.char_indices().find(forbidden) else { return Ok(()) };
    let (line, column) = position_of(&text[..at]);
    let what = format!("the character U+{:04X} is not allowed in YAML", u32::from(character));
    Err(refuse(line, column, what, Some("remove it, or write it as an escape in double quotes")))
}

/// The position just behind `before`.
fn position_of(before: &str) -> (usize, usize) {
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let lines = before.bytes().filter(|byte| *byte == b'\n').count();
    (lines + 1, before[line_start..].chars().count() + 1)
}

/// An alias without an anchor is mostly a filter rule without quotes. A tab in the indentation is the usual cause, and the parser names it only sometimes.
fn syntax_complaint(text: &str, error: &ScanError) -> Complaint {
    let line = error.marker().line().max(1);
    for number in [line, line + 1, line.saturating_sub(1)] {
        let Some(content) = number.checked_sub(1).and_then(|index| text.split('\n').nth(index)) else { continue };
        let indentation = content.len() - content.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = content[..indentation].find('\t')
            && !content.trim().is_empty()
        {
            return refuse(number, tab + 1, "a tab in the indentation", Some("YAML indents by spaces"));
        }
    }
    let column = error.marker().col() + 1;
    if error.info().contains("unknown anchor") {
        return refuse_reference(line, column);
    }
    let dash = error.info().contains("only valid inside a block");
    let hint = dash.then_some("text that begins with a dash goes in quotes");
    refuse(line, column, format!("not valid YAML: {}", one_line(error.info())), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as text: `@line:column` and content; `"` around what was quoted.
    fn show(node: &Node) -> String {
        let body = match &node.kind {
            Kind::Scalar { text, plain: true } => text.clone(),
            Kind::Scalar { text, plain: false } => format!("{text:?}"),
            Kind::Sequence(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Kind::Mapping(entries) => {
                let pairs: Vec<_> =
                    entries.iter().map(|(key, value)| format!("{}={}", show(key), show(value))).collect();
                format!("{{{}}}", pairs.join(" "))
            }
        };
        format!("{body}@{}:{}", node.line, node.column)
    }

    #[test]
    fn every_node_knows_where_it_begins() {
        let check =
            |text: &str, expected: &str| assert_eq!(show(&read(text.as_bytes()).unwrap()), expected, "{text:?}");
        check("a: b", "{a@1:1=b@1:4}@1:1");
        check("# c\nroots:\n  - name: 'x'\n    n: 4\n", "{roots@2:1=[{name@3:5=\"x\"@3:11 n@4:5=4@4:8}@3:5]@3:3}@2:1");
        check("{a: [1, \"2\"], b: {}}", "{a@1:2=[1@1:6 \"2\"@1:9]@1:5 b@1:15={}@1:18}@1:1");
        check("\u{e9}: \u{e9}", "{\u{e9}@1:1=\u{e9}@1:4}@1:1");
        check("---\na: 1\na: 2\n...\n", "{a@2:1=1@2:4 a@3:1=2@3:4}@2:1");
        check("a:\r\n  b: c\r\n", "{a@1:1={b@2:3=c@2:6}@2:3}@1:1");
    }

    #[test]
    fn null_is_recognised_only_without_quotes() {
        for (text, expected) in [("~", true), ("null", true), ("NULL", true), ("'null'", false), ("nil", false)] {
            assert_eq!(read(text.as_bytes()).unwrap().is_null(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_one_plain_document_gives_one_complaint_with_its_position() {
        let check = |text: &[u8], line: usize, column: usize, part: &str| {
            let complaint = read(text).unwrap_err();
            assert!(complaint.what.contains(part), "{complaint}");
            assert_eq!((complaint.line, complaint.column), (line, column), "{complaint}");
        };
        check(b"", 1, 1, "empty");
        check(b"# only a comment\n", 1, 1, "empty");
        check(b"a: 1\nb: \xff\n", 2, 4, "UTF-8");
        check(b"a: 1\n---\nb: 2\n", 2, 1, "second document");
        check(b"a: &x 1\nb: *x\n", 1, 4, "anchors");
        check(b"filters:\n  - - *.tmp\n", 2, 7, "aliases");
        check(b"a: !!str 1\n", 1, 4, "tags");
        check(b"a:\n\tb: 1\n", 2, 1, "tab");
        check(b"a:\n  b: 1\n\tc: 2\n", 3, 1, "tab");
        check(b"a: 1\nb: x\0y\n", 2, 5, "U+0000");
        check(b"a: \x1b[0m\n", 1, 4, "U+001B");
        check(b"a: [1, 2\nb: 3\n", 2, 2, "YAML");
        check(b"a: 'x\n", 1, 4, "YAML");
        check("[".repeat(100).as_bytes(), 1, 33, "deep");
        check("[".repeat(100_000).as_bytes(), 1, 256, "recursion");
        check("- ".repeat(100_000).as_bytes(), 1, 65, "deep");
        check("? ".repeat(100_000).as_bytes(), 1, 65, "deep");
        check(&vec![b' '; FILE_SIZE_MAX + 1], 1, 1, "4 MiB");
    }
}
