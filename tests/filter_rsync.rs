//! The filter against the rsync that is installed: what the engine excludes, rsync neither sends nor deletes.
//!
//! The random tests print their seed; `FILTER_SEED=n` runs that one again, `FILTER_CASES=n` runs more of them.
#![expect(clippy::disallowed_methods, reason = "these tests run rsync itself, without a worker in between")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use fansync::filter::{Filter, RuleCause};
use fansync::path::RelPath;

/// The rules of a case, with and without the built-in ones.
struct Rules {
    given: Filter,
    all: Filter,
}

impl Rules {
    fn new<R: AsRef<[u8]>>(rules: &[R], defaults: bool) -> Self {
        Self { given: Filter::new(rules, false).unwrap(), all: Filter::new(rules, defaults).unwrap() }
    }
}

/// Paths, and whether each is a directory. Holds the parents of all its paths.
type Tree = BTreeMap<Vec<u8>, bool>;

/// The two forms in which the worker runs rsync over directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Subtree,
    Listing,
}

/// As to another host, so that the rules go over the wire: the "remote shell" drops the host and runs the command.
const SHELL: &str = "--rsh=sh -c 'shift; exec \"$@\"' sh";

fn rsync(arguments: &[&str], filter: &Filter, source: &Path, target: &Path, list: &[u8]) {
    let mut child = Command::new("rsync")
        .args(arguments)
        .args(filter.rsync_arguments())
        .args([SHELL, &format!("{}/", source.display()), &format!("host:{}/", target.display())])
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rsync is installed");
    child.stdin.take().unwrap().write_all(list).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}: {}", filter.rsync_arguments(), String::from_utf8_lossy(&output.stderr));
}

fn mirror(form: Form, filter: &Filter, source: &Path, target: &Path, directory: &[u8]) {
    let common = ["--delete", "--delete-missing-args", "--force", "--from0", "--files-from=-"];
    let (options, end): (&[&str], &[u8]) = match form {
        Form::Subtree => (&["-a", "-r"], b"\0"),
        Form::Listing => (&["-a"], b"/\0"),
    };
    rsync(&[options, &common].concat(), filter, source, target, &[b"/", directory, end].concat());
}

fn create(root: &Path, tree: &Tree) {
    fs::create_dir_all(root).unwrap();
    for (path, directory) in tree {
        let path = root.join(OsStr::from_bytes(path));
        if *directory { fs::create_dir(path).unwrap() } else { fs::write(path, b"").unwrap() }
    }
}

fn read(root: &Path) -> BTreeSet<Vec<u8>> {
    fn walk(directory: &Path, root: &Path, found: &mut BTreeSet<Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec());
            if entry.file_type().unwrap().is_dir() {
                walk(&path, root, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(root, root, &mut found);
    found
}

/// A tree from paths; those that end in a slash are directories.
fn tree(paths: &[&str]) -> Tree {
    let mut tree = Tree::new();
    for path in paths {
        let bytes = path.trim_end_matches('/').as_bytes();
        add_parents(&mut tree, bytes);
        tree.insert(bytes.to_vec(), path.ends_with('/'));
    }
    tree
}

fn add_parents(tree: &mut Tree, path: &[u8]) {
    for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        tree.insert(path[..end].to_vec(), true);
    }
}

fn excluded(filter: &Filter, path: &[u8], directory: bool) -> bool {
    let path = RelPath::parse(path).unwrap();
    let excluded = filter.excludes_within(&path, directory);
    // Explaining compiles each rule anew, so not every path has its turn.
    if path.as_bytes().len().is_multiple_of(8) {
        assert_eq!(filter.explain(&path, directory).excluded, excluded, "explain of {path}");
    }
    excluded
}

/// `paths` and all their parents.
fn with_parents(paths: impl IntoIterator<Item = Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let mut all = Tree::new();
    for path in paths {
        add_parents(&mut all, &path);
        all.insert(path, false);
    }
    all.into_keys().collect()
}

fn shown<'a>(paths: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<String> {
    paths.into_iter().map(|path| path.escape_ascii().to_string()).collect()
}

/// What `mirror` of `directory` leaves on the target.
fn expected(form: Form, rules: &Rules, source: &Tree, target: &Tree, directory: &[u8]) -> BTreeSet<Vec<u8>> {
    let prefix = [directory, b"/"].concat();
    let inside = |path: &[u8]| path == directory || path.starts_with(&prefix);
    // In a listing, the name below `directory` decides about all that lies under it.
    let top = |path: &[u8]| {
        let below = &path[prefix.len().min(path.len())..];
        let end = below.iter().position(|byte| *byte == b'/').unwrap_or(below.len());
        path[..(prefix.len() + end).min(path.len())].to_vec()
    };
    let sent = source.iter().filter(|(path, is_directory)| {
        let reached = form == Form::Subtree || top(path) == **path;
        inside(path) && reached && !excluded(&rules.all, path, **is_directory)
    });
    let kept = target.iter().filter(|(path, is_directory)| {
        let below_sent = source.get(&top(path)) == Some(&true) && !excluded(&rules.all, &top(path), true);
        let untouched = form == Form::Listing && top(path) != **path && below_sent;
        // Built-in rules protect nothing.
        !inside(path) || untouched || excluded(&rules.given, path, **is_directory)
    });
    // A directory with something in it that is kept cannot go either.
    with_parents(sent.chain(kept).map(|(path, _)| path.clone()))
}

/// Runs both trees through rsync and compares with [`expected`].
fn check_mirror(form: Form, rules: &Rules, source: &Tree, target: &Tree, directory: &[u8], note: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let (from, to) = (scratch.path().join("source"), scratch.path().join("target"));
    create(&from, source);
    create(&to, target);
    mirror(form, &rules.all, &from, &to, directory);
    let (found, expected) = (read(&to), expected(form, rules, source, target, directory));
    assert!(
        found == expected,
        "{note} {form:?} {:?}\n  only rsync keeps: {:?}\n  only we keep: {:?}\n  source {:?}\n  target {:?}",
        rules.all.rsync_arguments(),
        shown(found.difference(&expected)),
        shown(expected.difference(&found)),
        shown(source.keys()),
        shown(target.keys()),
    );
}

mod random {
    use super::*;

    /// Runs `case` with each seed, a few at a time: an rsync spends most of its time waiting for its own processes.
    pub fn each_seed(default: u64, case: impl Fn(u64, &mut fastrand::Rng) + Sync) {
        let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
        let seeds = match number("FILTER_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..number("FILTER_CASES").unwrap_or(default),
        };
        let seeds = Mutex::new(seeds);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let Some(seed) = seeds.lock().unwrap().next() else { return };
                        case(seed, &mut fastrand::Rng::with_seed(seed));
                    }
                });
            }
        });
    }

    fn pick<'a>(random: &mut fastrand::Rng, from: &[&'a [u8]]) -> &'a [u8] {
        from[random.usize(..from.len())]
    }

    /// Few letters, so that patterns hit; and all that is special to rsync.
    fn name(random: &mut fastrand::Rng) -> Vec<u8> {
        const PARTS: [&[u8]; 20] = [
            b".a.AbCdE1",
            b".a.sample",
            b"a",
            b"a",
            b"b",
            b"b",
            b"ab",
            b"c",
            b".",
            b"1",
            b"*",
            b"[",
            b"]",
            b"\\",
            b"-",
            b" ",
            b"\n",
            b"\xff",
            b"A",
            b"!",
        ];
        loop {
            let name: Vec<u8> = (0..random.usize(1..4)).flat_map(|_| pick(random, &PARTS)).copied().collect();
            if name != b"." && name != b".." {
                return name;
            }
        }
    }

    pub fn path(random: &mut fastrand::Rng) -> Vec<u8> {
        (0..random.usize(1..5)).map(|_| name(random)).collect::<Vec<_>>().join(&b'/')
    }

    pub fn tree(random: &mut fastrand::Rng, size: usize) -> Tree {
        let mut tree = Tree::new();
        while tree.len() < size {
            // Half of the paths go on from one that is there.
            let base = random.choice(tree.keys().cloned().collect::<Vec<_>>()).filter(|_| random.bool());
            let path = match base {
                Some(base) => [base, name(random)].join(&b'/'),
                None => path(random),
            };
            if path.len() < 60 {
                add_parents(&mut tree, &path);
                tree.entry(path).or_insert_with(|| random.u8(..4) == 0);
            }
        }
        tree
    }

    fn class(random: &mut fastrand::Rng) -> Vec<u8> {
        const MEMBERS: [&[u8]; 18] = [
            b"a",
            b"b",
            b"-",
            b"]",
            b"!",
            b"^",
            b"a-c",
            b"A-b",
            b"\\]",
            b"\\a",
            b"[:digit:]",
            b"[:alpha:]",
            b"[:punct:]",
            b"[:space:]",
            b"[:a",
            b"[",
            b"\xf0-\xff",
            b"*",
        ];
        let start = pick(random, &[b"[", b"[", b"[!", b"[^"]);
        let members = (0..random.usize(1..4)).flat_map(|_| pick(random, &MEMBERS));
        start.iter().chain(members.collect::<Vec<_>>()).chain(b"]").copied().collect()
    }

    pub fn pattern(random: &mut fastrand::Rng, tree: &Tree) -> Vec<u8> {
        let mut pattern = if random.u8(..3) > 0 { taken_from(random, tree) } else { made_up(random) };
        if random.u8(..5) == 0 {
            pattern.insert(0, b'/');
        }
        pattern.extend_from_slice(pick(random, &[b"", b"", b"", b"", b"/", b"/***", b"/**", b"*", b"**", b"***"]));
        pattern
    }

    /// A path of the tree or its end, with some bytes made wild.
    fn taken_from(random: &mut fastrand::Rng, tree: &Tree) -> Vec<u8> {
        let path = random.choice(tree.keys()).unwrap().clone();
        let depth = path.iter().filter(|byte| **byte == b'/').count();
        let components = path.split(|byte| *byte == b'/').skip(random.usize(..=depth)).collect::<Vec<_>>();
        let mut pattern = Vec::new();
        for byte in components.join(&b'/') {
            match random.u8(..20) {
                0 => pattern.push(b'?'),
                1 => pattern.push(b'*'),
                2 => pattern.extend_from_slice(b"**"),
                3 => pattern.extend(class(random)),
                4 => pattern.extend_from_slice(b"***"),
                5..8 => pattern.extend_from_slice(&[b'\\', byte]),
                8 => {}
                _ => pattern.push(byte),
            }
        }
        pattern
    }

    fn made_up(random: &mut fastrand::Rng) -> Vec<u8> {
        const PARTS: [&[u8]; 16] = [
            b"a", b"b", b"ab", b"*", b"*", b"**", b"***", b"?", b"/", b"/", b"\\*", b"\\a", b"\\\\", b".", b"\xff",
            b" ",
        ];
        let part = |random: &mut fastrand::Rng| match random.u8(..6) {
            0 => class(random),
            _ => pick(random, &PARTS).to_vec(),
        };
        (0..random.usize(1..6)).flat_map(|_| part(random)).collect()
    }

    /// Rules that we take; those that we refuse are handed to `refused`.
    pub fn rules(random: &mut fastrand::Rng, tree: &Tree, refused: &mut impl FnMut(Vec<u8>, RuleCause)) -> Rules {
        let mut rules: Vec<Vec<u8>> = Vec::new();
        let number = random.usize(1..5);
        while rules.len() < number {
            let sign = pick(random, &[b"- ", b"- ", b"+ ", b"-_", b"exclude ", b"include,_"]);
            let rule = [sign, &pattern(random, tree)].concat();
            match Filter::new(&[&rule], false) {
                Ok(_) => rules.push(rule),
                Err(errors) => refused(rule, errors[0].cause.clone()),
            }
        }
        Rules::new(&rules, random.bool())
    }
}

#[test]
fn rsync_copies_exactly_what_is_not_excluded() {
    random::each_seed(320, |seed, random| {
        let source = random::tree(random, 40);
        let filter = random::rules(random, &source, &mut |_, _| {}).all;
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("source"), scratch.path().join("target"));
        create(&from, &source);
        rsync(&["-a"], &filter, &from, &to, b"");
        let ours = source.iter().filter(|(path, directory)| !excluded(&filter, path, **directory));
        let ours: BTreeSet<_> = ours.map(|(path, _)| path.clone()).collect();
        let theirs = read(&to);
        assert!(
            ours == theirs,
            "seed {seed} {:?}\n  only rsync sends: {:?}\n  only we send: {:?}",
            filter.rsync_arguments(),
            shown(theirs.difference(&ours)),
            shown(ours.difference(&theirs)),
        );
    });
}

#[test]
fn both_run_forms_protect_what_is_excluded_and_delete_the_rest() {
    random::each_seed(60, |seed, random| {
        let below: Tree =
            random::tree(random, 30).into_iter().map(|(path, is)| ([b"a/", &path[..]].concat(), is)).collect();
        let rules = random::rules(random, &below, &mut |_, _| {});
        let some = |random: &mut fastrand::Rng| {
            let mut tree = Tree::from([(b"a".to_vec(), true), (b"b".to_vec(), false)]);
            for (path, directory) in below.iter().filter(|_| random.bool()) {
                add_parents(&mut tree, path);
                tree.insert(path.clone(), *directory);
            }
            tree
        };
        let (source, target) = (some(random), some(random));
        for form in [Form::Subtree, Form::Listing] {
            check_mirror(form, &rules, &source, &target, b"a", &format!("seed {seed}"));
        }
    });
}

/// We refuse a pattern that "matches nothing": then rsync must not find a match either.
#[test]
fn refused_patterns_match_nothing_in_rsync() {
    use fansync::filter::PatternError::{DotComponent, DoubleSlash, OpenClass, TrailingBackslash, UnknownClass};
    random::each_seed(20, |seed, random| {
        let source = random::tree(random, 40);
        let mut dead = Vec::new();
        while dead.len() < 10 {
            random::rules(random, &source, &mut |rule, cause| {
                if let RuleCause::Pattern(
                    DotComponent | DoubleSlash | OpenClass | TrailingBackslash | UnknownClass { .. },
                ) = cause
                {
                    dead.push(rule);
                }
            });
        }
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("source"), scratch.path().join("target"));
        create(&from, &source);
        let status = Command::new("rsync")
            .arg("-a")
            .args(dead.iter().map(|rule| {
                let start = rule.iter().position(|byte| b" _".contains(byte)).unwrap() + 1;
                OsStr::from_bytes(&[b"--filter=- ", &rule[start..]].concat()).to_owned()
            }))
            .args([from.join(""), to.clone()])
            .status()
            .unwrap();
        assert!(status.success());
        let sent = read(&to);
        let missing: Vec<_> = source.keys().filter(|path| !sent.contains(*path)).collect();
        assert!(missing.is_empty(), "seed {seed}: {:?} match {:?}", shown(&dead), shown(missing));
    });
}

/// What stands for each case on both sides: excluded by an anchored rule, by a suffix, by a name with blanks; left by a
/// crashed receiver; a name that only looks so.
fn two_trees() -> (Tree, Tree) {
    let source = tree(&[
        "data/new",
        "data/new.tmp",
        "data/ x ",
        "data/x",
        "data/.big.S5IRz7",
        "data/.nfs00000000005a012300000001",
        "data/.env.sample",
        "data/cache/new",
        "data/sub/new",
        "data/sub/new.tmp",
        "data/sub/cache/new",
        "data/.dir.S5IRz7/new",
        "cache/new",
    ]);
    let target = tree(&[
        "data/old",
        "data/old.tmp",
        "data/.left.Zq3x0P",
        "data/.nfs00000000005a0123000000ff",
        "data/cache/old",
        "data/gone/old",
        "data/sub/old",
        "data/sub/old.tmp",
        "data/sub/cache/old",
        "data/sub/.left.Zq3x0P",
        "cache/old",
    ]);
    (source, target)
}

fn check_two_trees(form: Form, left: &[&str]) {
    let (source, target) = two_trees();
    let rules = Rules::new(&["- /data/cache/", "- *.tmp", "-  x "], true);
    let left = with_parents(left.iter().map(|path| path.as_bytes().to_vec()));
    assert_eq!(shown(&expected(form, &rules, &source, &target, b"data")), shown(&left));
    check_mirror(form, &rules, &source, &target, b"data", "two trees");
}

#[test]
fn a_subtree_run_leaves_excluded_names_alone_and_deletes_leftovers() {
    let left = [
        "data/new",
        "data/x",
        "data/.env.sample",
        "data/.dir.S5IRz7/new",
        "data/sub/new",
        "data/sub/cache/new",
        "data/old.tmp",
        "data/cache/old",
        "data/sub/old.tmp",
        "cache/old",
    ];
    check_two_trees(Form::Subtree, &left);
}

#[test]
fn a_listing_run_leaves_excluded_names_alone_and_deletes_leftovers() {
    let left = [
        "data/new",
        "data/x",
        "data/.env.sample",
        "data/.dir.S5IRz7",
        "data/old.tmp",
        "data/cache/old",
        // Not entered.
        "data/sub/old",
        "data/sub/old.tmp",
        "data/sub/cache/old",
        "data/sub/.left.Zq3x0P",
        "cache/old",
    ];
    check_two_trees(Form::Listing, &left);
}

/// Blanks at both ends, a pattern that looks like a rule, a leading slash, bytes that are not UTF-8.
#[test]
fn patterns_reach_rsync_byte_for_byte() {
    let rules =
        [&b"-  a"[..], b"- b ", b"- - c", b"-__d", b"-_ e", b"- /f", b"- \xff[\xfe]", b"- \xe9", b"- g\\h", b"- \\**i"];
    let names = [
        &b" a"[..],
        b"a",
        b"b ",
        b"b",
        b"- c",
        b"c",
        b"_d",
        b"d",
        b" e",
        b"e",
        b"f",
        b"x/f",
        b"\xff\xfe",
        b"\xff",
        b"x/\xe9",
        "\u{e9}".as_bytes(),
        b"g\\h",
        b"gh",
        b"*i",
        b"*/i",
        b"xi",
    ];
    let rules = Rules::new(&rules, false);
    let mut source = Tree::new();
    for name in names {
        add_parents(&mut source, name);
        source.insert(name.to_vec(), false);
    }
    source.insert(b"x".to_vec(), true);
    source.insert(b"*".to_vec(), true);
    let moved = |tree: &Tree| tree.iter().map(|(path, is)| ([b"top/", &path[..]].concat(), *is)).collect::<Tree>();
    let gone: Vec<_> =
        source.iter().filter(|(path, is)| excluded(&rules.all, path, **is)).map(|(path, _)| path).collect();
    assert_eq!(shown(gone), [" a", " e", "*i", "- c", "_d", "b ", "f", "g\\\\h", "x/\\xe9", "\\xff\\xfe"]);
    let mut below = moved(&source);
    below.insert(b"top".to_vec(), true);
    for form in [Form::Subtree, Form::Listing] {
        check_mirror(form, &rules, &below, &Tree::new(), b"top", "bytes, sent");
        check_mirror(form, &rules, &Tree::from([(b"top".to_vec(), true)]), &below, b"top", "bytes, deleted");
    }
    check_mirror(Form::Subtree, &rules, &source, &Tree::new(), b"x", "bytes, below a name");
}
