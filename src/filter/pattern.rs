//! One rsync pattern as two regular expressions: one for directories, one for everything else.
//!
//! The meaning is that of rsync(1), PATTERN MATCHING RULES, and where the manual is silent that of rsync 3.5.0 as
//! tests/filter_rsync.rs observes it. Patterns that rsync takes but that can never match are refused with a reason:
//! such a rule is a mistake, and a rule that silently does nothing is worse than a message.

use crate::path::escaped;

/// rsync discards a pattern that does not fit into `MAXPATHLEN` with its end (observed: 4096 bytes and more).
const PATTERN_BYTES_MAX: usize = 4095;

/// Why a pattern can never match, or never reach rsync.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing after the sign.
    #[error("the pattern is missing: write it after the sign, as in \"- *.tmp\"")]
    Empty,
    /// rsync drops over-long patterns with a message and goes on without them.
    #[error("the pattern has {bytes} bytes, rsync takes at most {PATTERN_BYTES_MAX}: shorten it with wildcards")]
    TooLong {
        /// Length of the pattern.
        bytes: usize,
    },
    /// NUL ends an argument and is never part of a name.
    #[error("NUL byte in the pattern, which no name contains: remove it")]
    Nul,
    /// Most likely two rules in one string, or a line end left on.
    #[error("line break in the pattern: write one rule per entry; a line break in a name is matched by '?'")]
    LineBreak,
    /// `/` alone.
    #[error("'/' means the root itself, which is never excluded: write \"/*\" for all that is in it")]
    Root,
    /// `//` at any place.
    #[error("\"//\" matches nothing, as no path contains it: write a single '/'")]
    DoubleSlash,
    /// A component `.` or `..`.
    #[error("the component '.' or '..' matches nothing: start the pattern with '/' to anchor it at the root")]
    DotComponent,
    /// A backslash that escapes nothing.
    #[error("the backslash at the end escapes nothing, so the pattern matches nothing: write \"\\\\\" for a backslash")]
    TrailingBackslash,
    /// `\/`.
    #[error("\"\\/\" is not needed: a slash is never special, write '/'")]
    EscapedSlash,
    /// `[` without its `]`.
    #[error("'[' without ']' matches nothing: close the class, or write \"\\[\" for the character")]
    OpenClass,
    /// `[[:name:]]` with a name that does not exist.
    #[error("unknown character class [:{}:]: use one of {}", escaped(name), class_names())]
    UnknownClass {
        /// The name between the colons.
        name: Vec<u8>,
    },
    /// A slash in `[...]`.
    #[error("'/' inside [...] never matches a slash: take it out of the class")]
    SlashInClass,
    /// `[z-a]`.
    #[error("the range {}-{} runs backwards: write {1}-{0}", escaped(&[*from]), escaped(&[*to]))]
    BackwardRange {
        /// First byte as written.
        from: u8,
        /// Last byte as written.
        to: u8,
    },
}

/// What a pattern means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    /// Expression for names that are not directories; `None` when the pattern ends in a slash.
    pub(super) file: Option<String>,
    /// Expression for directories, which are matched without a trailing slash.
    pub(super) directory: String,
}

/// Translates `pattern`, the part of a rule after its sign. The expressions are ASCII, meant for `(?s-u)` and bytes.
pub(super) fn translate(pattern: &[u8]) -> Result<Translation, PatternError> {
    let (body, directory_only) = check(pattern)?;
    let (anchored, body) = match body.strip_prefix(b"/") {
        Some(rest) => (true, rest),
        None => (false, body),
    };
    let tokens = if body.iter().any(|byte| b"*?[".contains(byte)) { wild(body)? } else { literal(body) };

    let (start, tokens) = match (anchored, tokens.as_slice()) {
        (true, tokens) => (r"\A", tokens),
        // "**/x" matches "x" at the root as well, but "/**/x" does not.
        (false, [Token::Any { .. }, Token::Byte(b'/'), rest @ ..]) => (r"(?:\A|/)", rest),
        // A pattern with a slash or "**" must cover whole components of the path's end, one without must equal the
        // last component. As only "**" crosses a slash, both are the same expression.
        (false, tokens) => (r"(?:\A|/)", tokens),
    };
    let file = format!("{start}{}\\z", expression(tokens));
    // "dir/***" is "dir/**" and the directory itself.
    let directory = match tokens {
        [before @ .., Token::Byte(b'/'), Token::Any { stars: 3.. }] => {
            format!("{start}{}(?:/.*)?\\z", expression(before))
        }
        _ => file.clone(),
    };
    Ok(Translation { file: (!directory_only).then_some(file), directory })
}

/// Refuses what can be seen without looking at wildcards, and takes the trailing slash off.
fn check(pattern: &[u8]) -> Result<(&[u8], bool), PatternError> {
    if pattern.is_empty() {
        return Err(PatternError::Empty);
    }
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(PatternError::TooLong { bytes: pattern.len() });
    }
    if pattern.contains(&0) {
        return Err(PatternError::Nul);
    }
    if pattern.iter().any(|byte| b"\n\r".contains(byte)) {
        return Err(PatternError::LineBreak);
    }
    if pattern == b"/" {
        return Err(PatternError::Root);
    }
    if pattern.windows(2).any(|pair| pair == b"//") {
        return Err(PatternError::DoubleSlash);
    }
    if pattern.split(|byte| *byte == b'/').any(|component| component == b"." || component == b"..") {
        return Err(PatternError::DotComponent);
    }
    Ok(match pattern.strip_suffix(b"/") {
        Some(body) => (body, true),
        None => (pattern, false),
    })
}

#[derive(Debug)]
enum Token {
    Byte(u8),
    /// `?`: one byte, no slash.
    One,
    /// `*`: any bytes but slashes.
    Star,
    /// Two or more stars in a row: any bytes.
    Any {
        stars: usize,
    },
    /// `[...]`: the bytes it matches, never the slash.
    Class(Box<[bool; 256]>),
}

/// Without a wildcard, rsync compares bytes: a backslash is a backslash.
fn literal(body: &[u8]) -> Vec<Token> {
    body.iter().copied().map(Token::Byte).collect()
}

fn wild(body: &[u8]) -> Result<Vec<Token>, PatternError> {
    let mut tokens = Vec::new();
    let mut rest = body;
    while let [byte, after @ ..] = rest {
        rest = after;
        tokens.push(match byte {
            b'?' => Token::One,
            b'*' => {
                let more = rest.iter().take_while(|byte| **byte == b'*').count();
                rest = &rest[more..];
                if more == 0 { Token::Star } else { Token::Any { stars: more + 1 } }
            }
            b'[' => {
                let (class, after) = class(rest)?;
                rest = after;
                class
            }
            b'\\' => {
                let [escaped, after @ ..] = rest else { return Err(PatternError::TrailingBackslash) };
                if *escaped == b'/' {
                    return Err(PatternError::EscapedSlash);
                }
                rest = after;
                Token::Byte(*escaped)
            }
            byte => Token::Byte(*byte),
        });
    }
    Ok(tokens)
}

/// Reads a class whose `[` was taken; returns it and what follows its `]`.
fn class(text: &[u8]) -> Result<(Token, &[u8]), PatternError> {
    let (negated, mut rest) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut set = Box::new([false; 256]);
    // The byte that a following '-' would start a range with.
    let mut low: Option<u8> = None;
    let mut first = true;
    loop {
        let (byte, after) = next(rest)?;
        match (byte, after) {
            // A ']' that comes first is a member.
            (b']', _) if !first => {
                rest = after;
                break;
            }
            (b'\\', _) => {
                let (member, after) = next(after)?;
                set[usize::from(member)] = true;
                (low, rest) = (Some(member), after);
            }
            (b'-', [end, ..]) if low.is_some() && *end != b']' => {
                let from = low.take().unwrap_or_default();
                let (mut to, mut after) = next(after)?;
                if to == b'\\' {
                    (to, after) = next(after)?;
                }
                if from > to {
                    return Err(PatternError::BackwardRange { from, to });
                }
                set[usize::from(from)..=usize::from(to)].fill(true);
                rest = after;
            }
            (b'[', [b':', inside @ ..]) => {
                let end = inside.iter().position(|byte| *byte == b']').ok_or(PatternError::OpenClass)?;
                if let [name @ .., b':'] = &inside[..end] {
                    let members = named(name).ok_or_else(|| PatternError::UnknownClass { name: name.to_vec() })?;
                    (0..=u8::MAX).filter(members).for_each(|byte| set[usize::from(byte)] = true);
                    (low, rest) = (None, &inside[end + 1..]);
                } else {
                    // No ":]", so the bracket stands for itself.
                    set[usize::from(b'[')] = true;
                    (low, rest) = (Some(b'['), after);
                }
            }
            _ => {
                set[usize::from(byte)] = true;
                (low, rest) = (Some(byte), after);
            }
        }
        first = false;
    }
    if negated {
        set.iter_mut().for_each(|member| *member = !*member);
    }
    set[usize::from(b'/')] = false;
    Ok((Token::Class(set), rest))
}

/// The next byte of a class that is not closed yet.
fn next(text: &[u8]) -> Result<(u8, &[u8]), PatternError> {
    match text {
        [] => Err(PatternError::OpenClass),
        [b'/', ..] => Err(PatternError::SlashInClass),
        [byte, rest @ ..] => Ok((*byte, rest)),
    }
}

/// Whether a byte is in a named class.
type Members = fn(&u8) -> bool;

/// The POSIX classes in the C locale, which the worker sets for rsync.
const NAMED: [(&str, Members); 12] = [
    ("alnum", u8::is_ascii_alphanumeric),
    ("alpha", u8::is_ascii_alphabetic),
    ("blank", |byte| b" \t".contains(byte)),
    ("cntrl", u8::is_ascii_control),
    ("digit", u8::is_ascii_digit),
    ("graph", u8::is_ascii_graphic),
    ("lower", u8::is_ascii_lowercase),
    ("print", |byte| (b' '..=b'~').contains(byte)),
    ("punct", u8::is_ascii_punctuation),
    // isspace(3): Rust's own test leaves the vertical tab out.
    ("space", |byte| b" \t\n\x0b\x0c\r".contains(byte)),
    ("upper", u8::is_ascii_uppercase),
    ("xdigit", u8::is_ascii_hexdigit),
];

fn named(name: &[u8]) -> Option<Members> {
    NAMED.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, members)| *members)
}

fn class_names() -> String {
    NAMED.map(|(name, _)| name).join(", ")
}

fn expression(tokens: &[Token]) -> String {
    let mut text = String::new();
    for token in tokens {
        match token {
            Token::Byte(byte) => push_byte(&mut text, *byte),
            Token::One => text.push_str("[^/]"),
            Token::Star => text.push_str("[^/]*"),
            Token::Any { .. } => text.push_str(".*"),
            Token::Class(set) => push_class(&mut text, set),
        }
    }
    text
}

fn push_byte(text: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() || b"/_".contains(&byte) {
        text.push(char::from(byte));
    } else {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

fn push_class(text: &mut String, set: &[bool; 256]) {
    text.push('[');
    let mut byte = 0;
    while byte < set.len() {
        let length = set[byte..].iter().take_while(|member| **member).count();
        if length > 0 {
            text.push_str(&format!("\\x{byte:02x}-\\x{:02x}", byte + length - 1));
        }
        byte += length + 1;
    }
    text.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each construct of the manual; `(file, directory)`, `None` for the file when the pattern is for directories only.
    #[test]
    fn each_construct_has_its_expression() {
        let check = |pattern: &str, file: Option<&str>, directory: &str| {
            let translation = translate(pattern.as_bytes()).unwrap();
            assert_eq!(translation.file.as_deref(), file, "{pattern}, file");
            assert_eq!(translation.directory, directory, "{pattern}, directory");
        };
        let same = |pattern: &str, expected: &str| check(pattern, Some(expected), expected);
        same("foo", r"(?:\A|/)foo\z");
        same("/foo", r"\Afoo\z");
        same("foo/bar", r"(?:\A|/)foo/bar\z");
        same("/foo/*/bar", r"\Afoo/[^/]*/bar\z");
        same("*.o", r"(?:\A|/)[^/]*\x2eo\z");
        same("?", r"(?:\A|/)[^/]\z");
        same("**/foo", r"(?:\A|/)foo\z");
        same("/**/foo", r"\A.*/foo\z");
        same("/foo/**/bar", r"\Afoo/.*/bar\z");
        same("a**b", r"(?:\A|/)a.*b\z");
        same("**", r"(?:\A|/).*\z");
        same("dir/**", r"(?:\A|/)dir/.*\z");
        check("dir/", None, r"(?:\A|/)dir\z");
        check("*/", None, r"(?:\A|/)[^/]*\z");
        check("dir/***", Some(r"(?:\A|/)dir/.*\z"), r"(?:\A|/)dir(?:/.*)?\z");
        check("dir/***/", None, r"(?:\A|/)dir(?:/.*)?\z");
        check("dir/****", Some(r"(?:\A|/)dir/.*\z"), r"(?:\A|/)dir(?:/.*)?\z");
        same("/***", r"\A.*\z");
        // A backslash escapes only beside a wildcard.
        same(r"a\b", r"(?:\A|/)a\x5cb\z");
        same(r"a\b*", r"(?:\A|/)ab[^/]*\z");
        same(r"a\*", r"(?:\A|/)a\x2a\z");
        same(r"a\\*", r"(?:\A|/)a\x5c[^/]*\z");
        same("a]b", r"(?:\A|/)a\x5db\z");
        // Blanks belong to the pattern.
        same(" a ", r"(?:\A|/)\x20a\x20\z");
    }

    #[test]
    fn classes_follow_rsync() {
        let check = |class: &str, expected: &str| {
            let translation = translate(class.as_bytes()).unwrap();
            assert_eq!(translation.directory, format!(r"(?:\A|/){expected}\z"), "{class}");
        };
        check("[abc]", r"[\x61-\x63]");
        check("[a-c]", r"[\x61-\x63]");
        check("[!a]", r"[\x00-\x2e\x30-\x60\x62-\xff]");
        check("[^a]", r"[\x00-\x2e\x30-\x60\x62-\xff]");
        check("[]a]", r"[\x5d-\x5d\x61-\x61]");
        check("[!]]", r"[\x00-\x2e\x30-\x5c\x5e-\xff]");
        check("[a-]", r"[\x2d-\x2d\x61-\x61]");
        check("[-a]", r"[\x2d-\x2d\x61-\x61]");
        check("[.-0]", r"[\x2e-\x2e\x30-\x30]");
        check(r"[\]]", r"[\x5d-\x5d]");
        check(r"[\a-\c]", r"[\x61-\x63]");
        check("[a-c-e]", r"[\x2d-\x2d\x61-\x63\x65-\x65]");
        check("[[:digit:]x]", r"[\x30-\x39\x78-\x78]");
        check("[![:digit:]]", r"[\x00-\x2e\x3a-\xff]");
        check("[[:space:]]", r"[\x09-\x0d\x20-\x20]");
        check("[[:alpha]", r"[\x3a-\x3a\x5b-\x5b\x61-\x61\x68-\x68\x6c-\x6c\x70-\x70]");
    }

    #[test]
    fn patterns_that_never_match_are_refused() {
        let check = |pattern: &[u8], expected: PatternError| {
            assert_eq!(translate(pattern), Err(expected), "{:?}", bstr::BStr::new(pattern));
        };
        check(b"", PatternError::Empty);
        check(&[b'a'; 4096], PatternError::TooLong { bytes: 4096 });
        check(b"a\0b", PatternError::Nul);
        check(b"a\n- b", PatternError::LineBreak);
        check(b"/", PatternError::Root);
        check(b"a//b", PatternError::DoubleSlash);
        check(b"./a", PatternError::DotComponent);
        check(b"a/../b", PatternError::DotComponent);
        check(b"a*\\", PatternError::TrailingBackslash);
        check(b"a*\\/", PatternError::TrailingBackslash);
        check(b"a\\/b*", PatternError::EscapedSlash);
        check(b"[ab", PatternError::OpenClass);
        check(b"[]", PatternError::OpenClass);
        check(b"[a\\", PatternError::OpenClass);
        check(b"[[:digit:]", PatternError::OpenClass);
        check(b"[[:digits:]]", PatternError::UnknownClass { name: b"digits".to_vec() });
        check(b"[[::]]", PatternError::UnknownClass { name: b"".to_vec() });
        check(b"[a/b]", PatternError::SlashInClass);
        check(b"[z-a]", PatternError::BackwardRange { from: b'z', to: b'a' });
    }
}
