//! One filter rule as it is written: sign, pattern, and a clear refusal of what fansync does not take.

use std::fmt;

use super::pattern::{PatternError, Translation, translate};

/// A rule that cannot be used, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {} \"{}\": {cause}", index + 1, shown(rule))]
pub struct RuleError {
    /// Position in the list given to `Filter::new`, from 0. `Display` counts from 1.
    pub index: usize,
    /// The rule as given.
    pub rule: Vec<u8>,
    /// What is wrong.
    pub cause: RuleCause,
}

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleCause {
    /// A pattern alone, as in `*.tmp`.
    #[error("no '- ' or '+ ' in front: write \"- {0}\" to exclude, \"+ {0}\" to include", shown(pattern))]
    NoSign {
        /// The rule without blanks around it.
        pattern: Vec<u8>,
    },
    /// Blanks before the sign, as in ` - *.tmp`.
    #[error("blank before the sign: write \"{}\"", shown(rule))]
    LeadingBlank {
        /// The rule without the blanks.
        rule: Vec<u8>,
    },
    /// No blank after the sign, as in `-*.tmp`.
    #[error("no blank after the sign: write \"{} {}\"", sign.written(), shown(pattern))]
    NoBlank {
        /// The sign.
        sign: Sign,
        /// What follows it.
        pattern: Vec<u8>,
    },
    /// `merge`, `.`, `dir-merge`, `:`.
    #[error("rules cannot be read from other files: write the rules of that file here, one per entry")]
    MergeFile,
    /// `hide`, `show`, `protect`, `risk` and their letters, and the modifiers `s` and `r`.
    #[error(
        "rules for one side only are not taken, as a rule holds for events, walks and deletes alike: write \"{} {}\"",
        sign.written(),
        shown(pattern)
    )]
    OneSided {
        /// The sign that does the same on both sides.
        sign: Sign,
        /// The pattern.
        pattern: Vec<u8>,
    },
    /// `!` or `clear`.
    #[error("the list cannot be cleared: remove the rules above that are not wanted")]
    Clear,
    /// `!pattern`, as in a .gitignore.
    #[error("'!' in front does not include again: write \"+ {}\" above the rule that excludes it", shown(pattern))]
    GitNegation {
        /// What follows the exclamation mark.
        pattern: Vec<u8>,
    },
    /// `-! pattern`.
    #[error("the modifier '!' is not taken: write \"{} {}\" and below it \"{} *\"", sign.other().written(), shown(pattern), sign.written())]
    Negated {
        /// The sign of the rule.
        sign: Sign,
        /// The pattern.
        pattern: Vec<u8>,
    },
    /// `-/ pattern`.
    #[error(
        "the modifier '/' (absolute path) is not taken: write the path below the watched root, as in \"{} /cache/\"",
        sign.written()
    )]
    Absolute {
        /// The sign of the rule.
        sign: Sign,
    },
    /// `-C`.
    #[error("the modifier 'C' (CVS rules) is not taken: write the patterns themselves, as in \"- *.o\"")]
    Cvs,
    /// `-p`, `-x`.
    #[error("the modifier '{}' is not taken: write \"{} {}\"", char::from(*modifier), sign.written(), shown(pattern))]
    Modifier {
        /// The modifier's letter.
        modifier: u8,
        /// The sign of the rule.
        sign: Sign,
        /// The pattern.
        pattern: Vec<u8>,
    },
    /// The pattern itself.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// What a rule does with the names it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// `-`: leave it alone, on the source and on the target.
    Exclude,
    /// `+`: keep it the same.
    Include,
}

impl Sign {
    /// The sign in rsync's short form.
    #[must_use]
    pub fn written(self) -> char {
        match self {
            Self::Exclude => '-',
            Self::Include => '+',
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Exclude => Self::Include,
            Self::Include => Self::Exclude,
        }
    }
}

/// Where a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The list given to `Filter::new`: position from 0.
    Given(usize),
    /// Built into fansync. Such a rule is for the sender only: what it names on a target is left over and may go.
    BuiltIn,
}

/// A rule that can be used.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) origin: Origin,
    pub(super) sign: Sign,
    /// The pattern, byte for byte.
    pub(super) pattern: Vec<u8>,
    pub(super) translation: Translation,
}

impl Rule {
    /// Parses the rule at `index`; `None` for a comment or an empty line.
    pub(super) fn parse(index: usize, rule: &[u8]) -> Result<Option<Self>, RuleError> {
        if rule.trim_ascii().is_empty() || matches!(rule[0], b'#' | b';') {
            return Ok(None);
        }
        let made = split(rule).and_then(|(sign, pattern)| Ok(Self::new(Origin::Given(index), sign, pattern)?));
        made.map(Some).map_err(|cause| RuleError { index, rule: rule.to_vec(), cause })
    }

    /// A rule of its parts.
    pub(super) fn new(origin: Origin, sign: Sign, pattern: &[u8]) -> Result<Self, PatternError> {
        Ok(Self { origin, sign, pattern: pattern.to_vec(), translation: translate(pattern)? })
    }

    /// rsync's word for the rule: built-in rules are sender-side only, the others hold on both sides.
    pub(super) fn prefix(&self) -> &'static str {
        match (self.origin, self.sign) {
            (Origin::Given(_), Sign::Exclude) => "- ",
            (Origin::Given(_), Sign::Include) => "+ ",
            (Origin::BuiltIn, Sign::Exclude) => "H ",
            (Origin::BuiltIn, Sign::Include) => "S ",
        }
    }

    /// The rule as rsync reads it.
    pub(super) fn written(&self) -> Vec<u8> {
        [self.prefix().as_bytes(), &self.pattern].concat()
    }
}

/// Splits a rule into sign and pattern. As in rsync, one blank or underscore ends the sign, and further ones belong to
/// the pattern.
fn split(rule: &[u8]) -> Result<(Sign, &[u8]), RuleCause> {
    let Some((word, rest)) = word(rule) else {
        return Err(no_sign(rule));
    };
    let (modifiers, pattern) = match rest.iter().position(|byte| b" _".contains(byte)) {
        Some(end) => (&rest[..end], &rest[end + 1..]),
        None => (rest, &[][..]),
    };
    let sign = match word {
        Word::Sign(sign) => sign,
        Word::OneSided(sign) => return Err(RuleCause::OneSided { sign, pattern: pattern.to_vec() }),
        Word::Merge => return Err(RuleCause::MergeFile),
        Word::Clear => return Err(RuleCause::Clear),
    };
    let modifiers = modifiers.strip_prefix(b",").unwrap_or(modifiers);
    let owned = || pattern.to_vec();
    match modifiers {
        [] => Ok((sign, pattern)),
        // Not modifiers at all, most likely "-*.tmp" or "-foo".
        _ if !modifiers.iter().all(|byte| b"/!Csrpx".contains(byte)) || pattern.is_empty() && modifiers != b"C" => {
            Err(RuleCause::NoBlank {
                sign,
                pattern: rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start().to_vec(),
            })
        }
        [b'!', ..] => Err(RuleCause::Negated { sign, pattern: owned() }),
        [b'/', ..] => Err(RuleCause::Absolute { sign }),
        [b'C', ..] => Err(RuleCause::Cvs),
        [b's' | b'r', ..] => Err(RuleCause::OneSided { sign, pattern: owned() }),
        [modifier, ..] => Err(RuleCause::Modifier { modifier: *modifier, sign, pattern: owned() }),
    }
}

enum Word {
    Sign(Sign),
    OneSided(Sign),
    Merge,
    Clear,
}

/// The word that a rule begins with, and what follows it: modifiers, a blank or underscore, the pattern.
fn word(rule: &[u8]) -> Option<(Word, &[u8])> {
    use Sign::{Exclude, Include};
    match rule {
        [b'-', rest @ ..] => return Some((Word::Sign(Exclude), rest)),
        [b'+', rest @ ..] => return Some((Word::Sign(Include), rest)),
        [b':', rest @ ..] => return Some((Word::Merge, rest)),
        b"!" => return Some((Word::Clear, &[])),
        // "._*" or "S_1" is far more likely a pattern without its sign than a one-letter word and an underscore.
        [b'.', rest @ ..] if matches!(rest, [b' ' | b',', ..]) => return Some((Word::Merge, rest)),
        [b'H' | b'P', rest @ ..] if matches!(rest, [b' ' | b',', ..]) => return Some((Word::OneSided(Exclude), rest)),
        [b'S' | b'R', rest @ ..] if matches!(rest, [b' ' | b',', ..]) => return Some((Word::OneSided(Include), rest)),
        _ => {}
    }
    let long = [
        ("exclude", Word::Sign(Exclude)),
        ("include", Word::Sign(Include)),
        ("hide", Word::OneSided(Exclude)),
        ("protect", Word::OneSided(Exclude)),
        ("show", Word::OneSided(Include)),
        ("risk", Word::OneSided(Include)),
        ("merge", Word::Merge),
        ("dir-merge", Word::Merge),
    ];
    if rule == b"clear" {
        return Some((Word::Clear, &[]));
    }
    long.into_iter().find_map(|(name, word)| {
        let rest = rule.strip_prefix(name.as_bytes())?;
        matches!(rest.first(), Some(b' ' | b'_' | b',')).then_some((word, rest))
    })
}

/// A rule that begins with no known word.
fn no_sign(rule: &[u8]) -> RuleCause {
    let trimmed = rule.trim_ascii_start();
    match trimmed {
        [b'-' | b'+', ..] => RuleCause::LeadingBlank { rule: trimmed.to_vec() },
        [b'!', pattern @ ..] => RuleCause::GitNegation { pattern: pattern.trim_ascii_start().to_vec() },
        pattern => RuleCause::NoSign { pattern: pattern.trim_ascii_end().to_vec() },
    }
}

/// Shows a rule as it would be written: only what a terminal should not see is escaped, backslashes are kept.
pub(super) fn shown(rule: &[u8]) -> impl fmt::Display + '_ {
    fmt::from_fn(|f| {
        for chunk in rule.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_rule_has_its_parts() {
        let check = |text: &str, sign: Sign, pattern: &str| {
            let rule = Rule::parse(0, text.as_bytes()).unwrap().unwrap();
            assert_eq!((rule.sign, rule.pattern), (sign, pattern.as_bytes().to_vec()), "{text}");
        };
        check("- *.tmp", Sign::Exclude, "*.tmp");
        check("-_*.tmp", Sign::Exclude, "*.tmp");
        check("-, *.tmp", Sign::Exclude, "*.tmp");
        check("-,_*.tmp", Sign::Exclude, "*.tmp");
        check("+ /a/", Sign::Include, "/a/");
        check("exclude *.tmp", Sign::Exclude, "*.tmp");
        check("exclude_*.tmp", Sign::Exclude, "*.tmp");
        check("exclude, *.tmp", Sign::Exclude, "*.tmp");
        check("include,_x", Sign::Include, "x");
        // One blank ends the sign; the others belong to the pattern.
        check("-  a ", Sign::Exclude, " a ");
        check("-__a", Sign::Exclude, "_a");
        check("- - a", Sign::Exclude, "- a");
    }

    #[test]
    fn comments_and_empty_lines_are_no_rules() {
        for line in ["", " ", "# - a", "#", "; a"] {
            assert!(Rule::parse(0, line.as_bytes()).unwrap().is_none(), "{line}");
        }
    }

    #[test]
    fn each_bad_rule_says_what_to_write() {
        let check = |rule: &str, message: &str| {
            let error = Rule::parse(2, rule.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), format!("rule 3 \"{}\": {message}", shown(rule.as_bytes())));
        };
        let one_sided = "rules for one side only are not taken, as a rule holds for events, walks and deletes alike: ";
        let merge = "rules cannot be read from other files: write the rules of that file here, one per entry";
        check("*.tmp", "no '- ' or '+ ' in front: write \"- *.tmp\" to exclude, \"+ *.tmp\" to include");
        check("._*", "no '- ' or '+ ' in front: write \"- ._*\" to exclude, \"+ ._*\" to include");
        check("excluded", "no '- ' or '+ ' in front: write \"- excluded\" to exclude, \"+ excluded\" to include");
        check("a\\b", "no '- ' or '+ ' in front: write \"- a\\b\" to exclude, \"+ a\\b\" to include");
        check(" - a", "blank before the sign: write \"- a\"");
        check("-*.tmp", "no blank after the sign: write \"- *.tmp\"");
        check("+foo", "no blank after the sign: write \"+ foo\"");
        check("-/cache/", "no blank after the sign: write \"- /cache/\"");
        check("-foo bar", "no blank after the sign: write \"- foo bar\"");
        check("-\t*.tmp", "no blank after the sign: write \"- *.tmp\"");
        check(". rules", merge);
        check(": .rules", merge);
        check(":C", merge);
        check("merge rules", merge);
        check("dir-merge,n- .rules", merge);
        check("H a", &format!("{one_sided}write \"- a\""));
        check("S a", &format!("{one_sided}write \"+ a\""));
        check("P a", &format!("{one_sided}write \"- a\""));
        check("R a", &format!("{one_sided}write \"+ a\""));
        check("hide a", &format!("{one_sided}write \"- a\""));
        check("show_a", &format!("{one_sided}write \"+ a\""));
        check("protect a", &format!("{one_sided}write \"- a\""));
        check("risk a", &format!("{one_sided}write \"+ a\""));
        check("-s a", &format!("{one_sided}write \"- a\""));
        check("+,r a", &format!("{one_sided}write \"+ a\""));
        check("!", "the list cannot be cleared: remove the rules above that are not wanted");
        check("clear", "the list cannot be cleared: remove the rules above that are not wanted");
        check("!a", "'!' in front does not include again: write \"+ a\" above the rule that excludes it");
        check("-! a", "the modifier '!' is not taken: write \"+ a\" and below it \"- *\"");
        check(
            "-/ /etc/a",
            "the modifier '/' (absolute path) is not taken: write the path below the watched root, as in \"- /cache/\"",
        );
        check("-C", "the modifier 'C' (CVS rules) is not taken: write the patterns themselves, as in \"- *.o\"");
        check("-p a", "the modifier 'p' is not taken: write \"- a\"");
        check("exclude,x a", "the modifier 'x' is not taken: write \"- a\"");
        check("-", "the pattern is missing: write it after the sign, as in \"- *.tmp\"");
        check("- ", "the pattern is missing: write it after the sign, as in \"- *.tmp\"");
        check("- /", "'/' means the root itself, which is never excluded: write \"/*\" for all that is in it");
        check("- a//b", "\"//\" matches nothing, as no path contains it: write a single '/'");
        check(
            "- ./a",
            "the component '.' or '..' matches nothing: start the pattern with '/' to anchor it at the root",
        );
        check(
            "- a\n- b",
            "line break in the pattern: write one rule per entry; a line break in a name is matched by '?'",
        );
        check(
            "- a*\\",
            "the backslash at the end escapes nothing, so the pattern matches nothing: write \"\\\\\" for a backslash",
        );
        check("- a\\/b*", "\"\\/\" is not needed: a slash is never special, write '/'");
        check("- [a", "'[' without ']' matches nothing: close the class, or write \"\\[\" for the character");
        check("- [/]", "'/' inside [...] never matches a slash: take it out of the class");
        check("- [z-a]", "the range z-a runs backwards: write a-z");
        check(
            "- [[:num:]]",
            "unknown character class [:num:]: use one of alnum, alpha, blank, cntrl, digit, graph, lower, print, punct, \
             space, upper, xdigit",
        );
    }
}
