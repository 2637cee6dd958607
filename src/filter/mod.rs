//! Which names are kept the same and which are left alone: one engine for events, walks, deletes and rsync's own runs.
//!
//! Rules are rsync's filter rules (rsync(1), FILTER RULES): the first that matches wins, and what no rule matches is
//! included. The engine decides as rsync 3.5.0 does, byte for byte; what it cannot decide so is refused by
//! [`Filter::new`]. tests/filter_rsync.rs compares the two on random rules and trees.
//!
//! Left out: rules from files, one-sided rules, modifiers. [`RuleCause`] says for each what to write instead.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use crate::path::RelPath;

mod pattern;
mod rule;

pub use pattern::PatternError;
pub use rule::{Origin, RuleCause, RuleError, Sign};
use rule::{Rule, shown};

/// Built-in rules, below all others. rsync gets them for the sender only, so that leftovers on a target are deleted.
const BUILT_IN: [(Sign, &str); 5] = [
    // NFS silly renames: an open file that was deleted lives on under this name, on this client only.
    (
        Sign::Exclude,
        ".nfs[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]\
         [0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]",
    ),
    // The temporary file of an rsync that writes into the root is ".NAME.XXXXXX", X from mkstemp(3). Names that people
    // give look like that as well, so directories and endings of one kind (.env.sample, .backup.202601) stay included:
    // a temporary file that is sent by this (1 in 200) only costs a transfer, a file that is never sent would be lost.
    (Sign::Include, ".*.??????/"),
    (Sign::Include, ".*.[a-z][a-z][a-z][a-z][a-z][a-z]"),
    (Sign::Include, ".*.[0-9][0-9][0-9][0-9][0-9][0-9]"),
    (Sign::Exclude, ".*.[0-9A-Za-z][0-9A-Za-z][0-9A-Za-z][0-9A-Za-z][0-9A-Za-z][0-9A-Za-z]"),
];

/// Most text of expressions compiled into one automaton. Unit: bytes. Far below [`COMPILED_BYTES_MAX`], also for a
/// single rule of the longest pattern, so that compiling cannot fail.
const RUN_BYTES_MAX: usize = 64 * 1024;
/// Most memory of one compiled expression. Unit: bytes. Far above what `RUN_BYTES_MAX` can need: a guard against
/// a mistake here, not a limit that a user can meet.
const COMPILED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most memory for the automaton's cache, per thread and run of rules. Unit: bytes. When it is full, matching gets
/// slower but stays linear.
const CACHE_BYTES_MAX: usize = 1024 * 1024;

/// An ordered list of rules, compiled. A clone shares them.
#[derive(Clone, Debug)]
pub struct Filter(Arc<Compiled>);

#[derive(Debug, Default)]
struct Compiled {
    rules: Vec<Rule>,
    files: Vec<Run>,
    directories: Vec<Run>,
}

/// Neighbouring rules of one sign, which one search can decide.
#[derive(Debug)]
struct Run {
    sign: Sign,
    expression: Regex,
}

/// What [`Filter::explain`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the path is left alone.
    pub excluded: bool,
    /// The path that the rule matched: the one asked for, or a directory above it.
    pub on: RelPath,
    /// The rule that decided; `None` when no rule matched, which includes.
    pub by: Option<DecidingRule>,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidingRule {
    /// Where it comes from.
    pub origin: Origin,
    /// The rule in the form that rsync gets.
    pub text: Vec<u8>,
}

impl Filter {
    /// Compiles `rules`, in order; `defaults` appends the built-in rules, which any given rule thus overrides.
    /// Empty rules and those that begin with `#` or `;` are comments.
    ///
    /// # Errors
    /// All rules that cannot be used, each with what to write instead.
    pub fn new<R: AsRef<[u8]>>(rules: &[R], defaults: bool) -> Result<Self, Vec<RuleError>> {
        let mut good = Vec::new();
        let mut bad = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            match Rule::parse(index, rule.as_ref()) {
                Ok(rule) => good.extend(rule),
                Err(error) => bad.push(error),
            }
        }
        if !bad.is_empty() {
            return Err(bad);
        }
        if defaults {
            good.extend(BUILT_IN.map(|(sign, pattern)| {
                Rule::new(Origin::BuiltIn, sign, pattern.as_bytes()).expect("built-in rules are tested")
            }));
        }
        Ok(Self(Arc::new(Compiled {
            files: runs(good.iter().filter_map(|rule| Some((rule.sign, rule.translation.file.as_deref()?)))),
            directories: runs(good.iter().map(|rule| (rule.sign, rule.translation.directory.as_str()))),
            rules: good,
        })))
    }

    /// No rules: everything is included.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::default())
    }

    /// Whether there are no rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.rules.is_empty()
    }

    /// Whether a path may be excluded at one place and not at another: the built-in rules know names only.
    #[must_use]
    pub fn depends_on_place(&self) -> bool {
        self.0.rules.iter().any(|rule| rule.origin != Origin::BuiltIn)
    }

    /// Whether a given rule excludes something, so that names on the target may have to be spared.
    #[must_use]
    pub fn protects(&self) -> bool {
        self.0.rules.iter().any(|rule| rule.sign == Sign::Exclude && rule.origin != Origin::BuiltIn)
    }

    /// Whether `path` by itself is excluded, its parents taken as included: what the event of a watched directory
    /// needs. Never true for the root. A thread allocates on its first calls only.
    #[must_use]
    pub fn excludes(&self, path: &RelPath, directory: bool) -> bool {
        self.excludes_bytes(path.as_bytes(), directory)
    }

    /// Whether `rsync -r` would leave `path` alone: it is excluded, or a directory above it is.
    #[must_use]
    pub fn excludes_within(&self, path: &RelPath, directory: bool) -> bool {
        let bytes = path.as_bytes();
        parents(bytes).any(|parent| self.excludes_bytes(parent, true)) || self.excludes_bytes(bytes, directory)
    }

    /// As [`Filter::excludes_within`], with the rule that decided. Compiles rules anew: meant for people, not for the
    /// hot path.
    #[must_use]
    pub fn explain(&self, path: &RelPath, directory: bool) -> Decision {
        let bytes = path.as_bytes();
        let excluding = parents(bytes).find_map(|parent| {
            let rule = self.deciding(parent, true).filter(|rule| rule.sign == Sign::Exclude)?;
            Some((parent, Some(rule)))
        });
        let (on, rule) = excluding.unwrap_or_else(|| (bytes, self.deciding(bytes, directory)));
        Decision {
            excluded: rule.is_some_and(|rule| rule.sign == Sign::Exclude),
            on: RelPath::from_components(on.split(|byte| *byte == b'/').filter(|component| !component.is_empty())),
            by: rule.map(|rule| DecidingRule { origin: rule.origin, text: rule.written() }),
        }
    }

    /// The rules as arguments for rsync's listing and subtree runs. Given rules hold on both sides: what they exclude is
    /// neither sent nor deleted. Built-in rules hold on the sending side only.
    ///
    /// A remote receiver learns the rules only with `--delete` (observed, 3.5.0): without it, a missing directory is
    /// deleted with all that is excluded in it. And rsync does not look at the parents of a list entry, so entries must
    /// be checked with [`Filter::excludes_within`] before.
    #[must_use]
    pub fn rsync_arguments(&self) -> Vec<OsString> {
        let argument = |rule: &Rule| OsString::from_vec([b"--filter=", rule.written().as_slice()].concat());
        self.0.rules.iter().map(argument).collect()
    }

    /// A number that is the same in every run and release for the same rules, and another for others. Comments and the
    /// way a sign is written do not count.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        // FNV-1a, 64 bits. A NUL ends each rule, as no rule contains one.
        let bytes = self.0.rules.iter().flat_map(|rule| rule.written().into_iter().chain([0]));
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    fn excludes_bytes(&self, path: &[u8], directory: bool) -> bool {
        if path.is_empty() {
            return false;
        }
        let runs = if directory { &self.0.directories } else { &self.0.files };
        runs.iter().find(|run| run.expression.is_match(path)).is_some_and(|run| run.sign == Sign::Exclude)
    }

    fn deciding(&self, path: &[u8], directory: bool) -> Option<&Rule> {
        if path.is_empty() {
            return None;
        }
        self.0.rules.iter().find(|rule| {
            let translation = &rule.translation;
            let expression = if directory { Some(&translation.directory) } else { translation.file.as_ref() };
            expression.is_some_and(|expression| compile(expression).is_match(path))
        })
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.excluded { "excluded" } else { "included" };
        match &self.by {
            None => write!(f, "{verdict}: no rule matches {}", self.on),
            Some(rule) => write!(f, "{verdict}: {rule} matches {}", self.on),
        }
    }
}

impl fmt::Display for DecidingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Given(index) => write!(f, "rule {} \"{}\"", index + 1, shown(&self.text)),
            Origin::BuiltIn => write!(f, "built-in rule \"{}\"", shown(&self.text)),
        }
    }
}

/// The directories above `path`, topmost first, without the root.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end])
}

/// Puts neighbours of one sign into one expression. Includes at the end change nothing and are dropped.
fn runs<'a>(rules: impl Iterator<Item = (Sign, &'a str)>) -> Vec<Run> {
    let mut texts: Vec<(Sign, String)> = Vec::new();
    for (sign, expression) in rules {
        match texts.last_mut() {
            Some((last, text)) if *last == sign && text.len() + expression.len() < RUN_BYTES_MAX => {
                text.push('|');
                text.push_str(expression);
            }
            _ => texts.push((sign, expression.to_owned())),
        }
    }
    while texts.pop_if(|(sign, _)| *sign == Sign::Include).is_some() {}
    texts.into_iter().map(|(sign, text)| Run { sign, expression: compile(&text) }).collect()
}

fn compile(expression: &str) -> Regex {
    RegexBuilder::new(expression)
        .unicode(false)
        .dot_matches_new_line(true)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(CACHE_BYTES_MAX)
        .build()
        .expect("translations are valid and small, see RUN_BYTES_MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> RelPath {
        RelPath::parse(bytes).unwrap()
    }

    fn filter(rules: &[&str]) -> Filter {
        Filter::new(rules, false).unwrap()
    }

    /// `path` is a directory when it ends in a slash.
    fn check(rules: &[&str], name: &str, excluded: bool) {
        let directory = name.ends_with('/');
        let found = filter(rules).excludes_within(&path(name.trim_end_matches('/').as_bytes()), directory);
        assert_eq!(found, excluded, "{rules:?} on {name}");
    }

    /// The examples of rsync(1), PATTERN MATCHING RULES.
    #[test]
    fn the_examples_of_the_manual_hold() {
        check(&["- *.o"], "a/b.o", true);
        check(&["- *.o"], "a/b.oo", false);
        check(&["- /foo"], "foo", true);
        check(&["- /foo"], "a/foo", false);
        check(&["- foo/"], "a/foo/", true);
        check(&["- foo/"], "a/foo", false);
        check(&["- foo/"], "a/foo/b", true);
        check(&["- foo/*/bar"], "x/foo/y/bar", true);
        check(&["- foo/*/bar"], "x/foo/y/z/bar", false);
        check(&["- /foo/**/bar"], "foo/a/b/bar", true);
        check(&["- /foo/**/bar"], "foo/bar", false);
        check(&["- dir_name/***"], "a/dir_name/", true);
        check(&["- dir_name/***"], "a/dir_name", false);
        check(&["- dir_name/***"], "a/dir_name/b", true);
        let only_c = ["+ */", "+ *.c", "- *"];
        check(&only_c, "a/b.c", false);
        check(&only_c, "a/b.d", true);
        check(&only_c, "a/b/", false);
        let one_file = ["+ foo/", "+ foo/bar.c", "- *"];
        check(&one_file, "foo/bar.c", false);
        check(&one_file, "foo/baz.c", true);
        check(&one_file, "bar.c", true);
    }

    #[test]
    fn the_first_match_wins_across_runs() {
        let rules = ["- a1", "- a2", "+ a*", "- ?3", "+ b3", "- *4/", "+ never"];
        for (name, excluded) in
            [("a1", true), ("a2", true), ("a3", false), ("b3", true), ("b4", false), ("b4/", true), ("never", false)]
        {
            check(&rules, name, excluded);
        }
    }

    #[test]
    fn a_name_alone_does_not_ask_its_parents() {
        let filter = filter(&["- cache/"]);
        assert!(!filter.excludes(&path(b"cache/a"), false));
        assert!(filter.excludes_within(&path(b"cache/a"), false));
        assert!(filter.excludes(&path(b"cache"), true));
    }

    #[test]
    fn the_root_is_never_excluded() {
        for rules in [["- *"], ["- **"], ["- /***"], ["- .*"]] {
            let filter = filter(&rules);
            assert!(!filter.excludes(&RelPath::root(), true));
            assert!(!filter.excludes_within(&RelPath::root(), true));
            assert!(!filter.explain(&RelPath::root(), true).excluded);
        }
    }

    #[test]
    fn names_that_are_not_utf8_match_byte_by_byte() {
        let name = path(b"a/\xff\xfe\n.t");
        let excludes = |rule: &[u8]| Filter::new(&[rule], false).unwrap().excludes(&name, false);
        assert!(excludes(b"- *.t"));
        assert!(excludes(b"- ???.t"));
        assert!(!excludes(b"- ??.t"));
        assert!(excludes(b"- \xff*"));
        assert!(excludes(b"- [\xf0-\xff]*"));
        assert!(excludes(b"- **\xfe?.t"));
        // An e with an accent is two bytes.
        assert!(!filter(&["- ?"]).excludes(&path("é".as_bytes()), false));
        assert!(filter(&["- ??"]).excludes(&path("é".as_bytes()), false));
    }

    #[test]
    fn all_bad_rules_come_back_at_once_with_their_place() {
        let errors = Filter::new(&["- a", "b", "# c", "- [d"], true).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.index).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn built_in_rules_hide_temporary_names_but_not_names_that_people_give() {
        let filter = Filter::new(&["+ .keep.AbCdEf"], true).unwrap();
        let check = |name: &str, excluded: bool| {
            assert_eq!(filter.excludes(&path(name.as_bytes()), false), excluded, "{name}");
        };
        check("a/.nfs00000000005a012300000001", true);
        check(".nfs00000000005a01230000000", false);
        check("a/.big.S5IRz7", true);
        check("a/..env.S5IRz7", true);
        check("a/.keep.AbCdEf", false);
        check("a/.env.sample", false);
        check("a/.home.tar.gz", false);
        check("a/.log.202601", false);
        check("a/b.S5IRz7", false);
        check("a/.big.S5IRz7/b", false);
        assert!(!filter.excludes_within(&path(b"a/.big.S5IRz7"), true));
        check("a/.S5IRz7", false);
    }

    #[test]
    fn explain_names_the_rule_and_the_place() {
        let filter = Filter::new(&["# caches", "exclude_/cache/", "+ *.c"], true).unwrap();
        let check = |name: &str, expected: &str| {
            assert_eq!(filter.explain(&path(name.as_bytes()), false).to_string(), expected);
        };
        check("cache/a/b.c", "excluded: rule 2 \"- /cache/\" matches cache");
        check("a/b.c", "included: rule 3 \"+ *.c\" matches a/b.c");
        check("a/b", "included: no rule matches a/b");
        check("a/.b.0123xyz", "included: no rule matches a/.b.0123xyz");
        check("a/.b.sample", "included: built-in rule \"S .*.[a-z][a-z][a-z][a-z][a-z][a-z]\" matches a/.b.sample");
    }

    #[test]
    fn rules_reach_rsync_byte_for_byte() {
        let filter = Filter::new(&[&b"exclude  \xff a "[..], b"# x", b"+_/b/"], true).unwrap();
        let arguments = filter.rsync_arguments();
        let expected = [&b"--filter=-  \xff a "[..], b"--filter=+ /b/"].map(|bytes| OsString::from_vec(bytes.to_vec()));
        assert_eq!(arguments[..2], expected);
        assert!(arguments[2].to_string_lossy().starts_with("--filter=H .nfs[0-9a-f]"));
        assert_eq!(arguments[3], "--filter=S .*.??????/");
        assert_eq!(arguments.len(), 7);
        assert!(Filter::none().rsync_arguments().is_empty());
    }

    /// A checkpoint stores the number: this test fails when a release would change it.
    #[test]
    fn the_fingerprint_is_stable_and_tells_rules_apart() {
        let of = |rules: &[&str]| filter(rules).fingerprint();
        assert_eq!(Filter::none().fingerprint(), 0xcbf2_9ce4_8422_2325);
        assert_eq!(of(&["- a", "+ b/"]), 0x37f5_3eb9_8930_7fef);
        assert_eq!(of(&["# c", "exclude a", "+,_b/"]), of(&["- a", "+ b/"]));
        let others: [&[&str]; 7] =
            [&[], &["- a"], &["+ a"], &["- a/"], &["+ b/", "- a"], &["- a", "+ b/"], &["- a+ b/"]];
        for (index, rules) in others.iter().enumerate() {
            assert!(others[..index].iter().all(|other| of(other) != of(rules)), "{rules:?}");
        }
        assert_ne!(Filter::new(&["- a"], true).unwrap().fingerprint(), of(&["- a"]));
    }

    #[test]
    fn the_largest_rules_compile() {
        let classes = format!("- {}", "[!bdfhjlnprtvxzBDFHJLNPRTVXZ02468]".repeat(120));
        let classes: Vec<_> = std::iter::repeat_n(classes, 20).collect();
        assert!(!Filter::new(&classes, false).unwrap().excludes(&path(b"a/b"), false));
        let names: Vec<_> = (0..5000).map(|number| format!("- name-{number}-*.tmp")).collect();
        assert!(Filter::new(&names, false).unwrap().excludes(&path(b"a/name-4999-x.tmp"), false));
    }
}
