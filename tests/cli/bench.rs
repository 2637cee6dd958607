//! A source, a target that must stay as it is, and the binary, bounded in time.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A refusal comes at once; the daemons are on loopback.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// What a command did.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A scratch directory with `source/new`, and `target/old`, which is not in the source.
pub struct Bench {
    scratch: tempfile::TempDir,
    before: BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)>,
}

impl Bench {
    pub fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("fansync-cli.").tempdir().unwrap();
        let mut bench = Self { scratch, before: BTreeMap::new() };
        for name in ["source", "target", "empty"] {
            fs::create_dir(bench.at(name)).unwrap();
        }
        fs::write(bench.at("source/new"), "new").unwrap();
        fs::write(bench.at("target/old"), "old").unwrap();
        bench.before = listing(&bench.at("target"));
        bench
    }

    /// The real path of `name` in the scratch directory.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.scratch.path().canonicalize().unwrap().join(name)
    }

    /// The binary with its state in the scratch directory.
    pub fn fansync<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fansync"));
        command.args(arguments).current_dir(self.at("")).env("XDG_STATE_HOME", self.at("state")).stdin(Stdio::null());
        command
    }

    /// Runs `command` to its end.
    ///
    /// # Panics
    /// When it does not end: it was started instead of refused.
    pub fn finish(&self, command: Command) -> Finished {
        self.finish_within(command, PATIENCE)
    }

    /// Runs `command` to its end, which may take so long.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish_within(&self, mut command: Command, patience: Duration) -> Finished {
        let [out, err] = ["stdout", "stderr"].map(|name| self.at(name));
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let mut child = Killed(command.spawn().unwrap());
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let began = Instant::now();
        loop {
            if let Some(status) = child.0.try_wait().unwrap() {
                return Finished { code: status.code(), stdout: read(&out), stderr: read(&err) };
            }
            assert!(began.elapsed() < patience, "still runs after {patience:?}: {command:?}\n{}", read(&err));
            std::thread::park_timeout(POLL);
        }
    }

    /// `command` is refused: this exit code, each of `words` on standard error, no panic, one short line per problem,
    /// and the target is as it was.
    pub fn refused(&self, command: Command, code: i32, words: &[&str]) -> Finished {
        let shown = format!("{command:?}");
        let finished = self.finish(command);
        let text = &finished.stderr;
        assert_eq!(finished.code, Some(code), "{shown}\n{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in the words of {shown}\n{text}");
        }
        assert!(!text.contains("panicked"), "{shown}\n{text}");
        self.assert_untouched();
        finished
    }

    pub fn assert_untouched(&self) {
        assert_eq!(listing(&self.at("target")), self.before, "the target was changed");
    }

    /// Writes a configuration and returns its path. `@` stands for the scratch directory.
    pub fn yaml(&self, text: &str) -> PathBuf {
        let path = self.at("fansync.yaml");
        fs::write(&path, text.replace('@', self.at("").to_str().unwrap().trim_end_matches('/'))).unwrap();
        path
    }

    /// A program of the scratch directory.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    }
}

/// Ends its process, whatever happens in the test.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Arguments of different kinds as one list.
#[macro_export]
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { [$(std::ffi::OsString::from(&$argument)),*] };
}

fn listing(top: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![top.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), content));
    }
    found
}

/// The lines of a failure; each names the program.
pub fn lines(finished: &Finished) -> Vec<&str> {
    finished.stderr.lines().filter(|line| line.starts_with("fansync: ")).collect()
}

/// A path that is not UTF-8.
pub fn not_utf8(name: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(name.to_vec())
}
