//! The properties of `fuzz/properties.rs` on every file of the corpus and on many mutations of them: what the
//! fuzzer found stays found, and no tool is needed for it. `make fuzz` goes on from there.

#[path = "../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fastrand::Rng;

const MUTATIONS: usize = 1500;
const SEED: u64 = 0x6675_7a7a;

/// What the fuzzer would learn by itself.
const PIECES: &[&[u8]] = &[
    b"\n",
    b"\0",
    b"/",
    b"//",
    b"..",
    b"/.",
    b"\xff",
    b"\"",
    b"\" -> \"",
    b" (in m)",
    b" failed: ",
    b"(13)",
    b"rsync: ",
    b"[sender] ",
    b"\\#012",
    b"\\#134#",
    b"*",
    b"**",
    b"[a",
    b"]",
    b"- ",
    b"+ ",
    b"! ",
    b": ",
    b"- - ",
    b"\t",
    b"{",
    b"}",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x10\0\0\0",
    b"\0\x40\0\0",
    b"null",
    b"roots:\n",
    b"  - ",
];

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the corpus can be read").path())
        .map(|path| (path.clone(), fs::read(path).expect("the corpus can be read")))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

fn mutated(rng: &mut Rng, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = corpus[rng.usize(..corpus.len())].1.clone();
    for _change in 0..1 + rng.usize(..6) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..6) {
            0 => bytes.insert(at, rng.u8(..)),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            2 => drop(bytes.drain(at..(at + rng.usize(..16)).min(bytes.len()))),
            3 => bytes.truncate(at),
            4 => {
                let other = &corpus[rng.usize(..corpus.len())].1;
                let from = rng.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => drop(bytes.splice(at..at, PIECES[rng.usize(..PIECES.len())].iter().copied())),
        }
    }
    bytes
}

#[track_caller]
fn holds(what: &str, property: properties::Property, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(bytes))) {
        let words = panic.downcast_ref::<String>().map_or("", String::as_str);
        panic!("{what}: {words}\ninput: {}", bytes.escape_ascii());
    }
}

#[test]
fn every_property_holds_for_the_corpus_and_its_mutations() {
    std::thread::scope(|scope| {
        for (name, property) in properties::ALL {
            scope.spawn(move || {
                let corpus = corpus(name);
                for (path, bytes) in &corpus {
                    holds(&path.display().to_string(), property, bytes);
                }
                let mut rng = Rng::with_seed(SEED);
                for round in 0..MUTATIONS {
                    let bytes = mutated(&mut rng, &corpus);
                    holds(&format!("{name}, seed {SEED:#x}, round {round}"), property, &bytes);
                }
            });
        }
    });
}
