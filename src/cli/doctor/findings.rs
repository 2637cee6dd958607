//! What the facts of a machine mean for fansync: what is wrong, why it matters, and the line that mends it. Pure.

mod limits;
mod machine;
mod places;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::limits::Budget;
use crate::sys::ground::Backend;
use crate::sys::limits::Limit;
use crate::sys::privileges::Privileges;
use crate::sys::usage::Usage;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know; nothing is worse for it.
    Note,
    /// It works, but not as well as it could.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name.
    pub name: &'static str,
    /// The root, target or folder that it is about.
    pub subject: Option<String>,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// Why it matters; empty when all is well.
    pub why: String,
    /// Lines that mend it, or say how.
    pub mend: Vec<String>,
    /// The numbers in it.
    pub figures: BTreeMap<&'static str, u64>,
}

impl Finding {
    fn new(name: &'static str, level: Level, what: impl Into<String>) -> Self {
        let (what, why) = (what.into(), String::new());
        Self { name, subject: None, level, what, why, mend: Vec::new(), figures: BTreeMap::new() }
    }

    fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    fn mend(mut self, line: impl Into<String>) -> Self {
        self.mend.push(line.into());
        self
    }

    fn figures<const N: usize>(mut self, figures: [(&'static str, u64); N]) -> Self {
        self.figures.extend(figures);
        self
    }
}

/// All that was seen. What could not be read is `None`, and left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Release of the kernel, such as `6.18.44-cloud`.
    pub kernel: Option<String>,
    /// The kernel's limits, as far as it has them.
    pub limits: BTreeMap<Limit, u64>,
    /// The memory that watches may hold.
    pub budget: Budget,
    /// What this user has taken of the limits.
    pub usage: Option<Usage>,
    /// Who this is.
    pub privileges: Option<Privileges>,
    /// Descriptors that a process may have; `None`: as many as it likes.
    pub descriptors: Option<u64>,
    /// Something keeps the clock right.
    pub synchronised: Option<bool>,
    /// The version of the rsync program, or why it cannot be used.
    pub rsync: Result<String, String>,
    /// What is or would be mirrored.
    pub roots: Vec<RootFacts>,
    /// Where the agent keeps its state.
    pub state: Option<StateFacts>,
    /// What is wrong with the configuration on this machine.
    pub configuration: Vec<String>,
    /// What each target said.
    pub targets: Vec<(String, TargetFacts)>,
    /// This program, for lines that name it.
    pub program: PathBuf,
}

/// What a target said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetFacts {
    /// It takes changes.
    Well,
    /// It takes changes; why its replies cannot be acknowledged at once.
    Late(String),
    /// It cannot be reached, or cannot take anything, right now.
    Away(String),
    /// It refuses until somebody changes something.
    Refuses(String),
}

/// A directory that is or would be mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFacts {
    /// Where it is.
    pub path: String,
    /// Type of its file system, and its options.
    pub kind: String,
    /// Options of the file system.
    pub options: Vec<String>,
    /// Ctimes on it are of this machine's clock.
    pub ctimes_tell: bool,
    /// All stamps that were looked at are of whole seconds.
    pub whole_seconds: bool,
    /// What was counted, if it was.
    pub count: Option<Count>,
    /// Shards that it would have.
    pub shards: u64,
    /// rsync processes at the same time, over all targets.
    pub lanes: u64,
    /// Whether fanotify can watch it, or why not.
    pub fanotify: Result<(), String>,
    /// By what an agent would watch it.
    pub backend: Backend,
    /// Why.
    pub reason: String,
    /// The configuration asks for fanotify.
    pub asks_fanotify: bool,
}

/// Directories of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub directories: u64,
    /// How many of them this user may not read.
    pub unreadable: u64,
    /// There are no more.
    pub complete: bool,
}

/// The state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFacts {
    /// Where it is.
    pub path: String,
    /// It is there.
    pub exists: bool,
    /// It, or the directory in which it would be made, can be written.
    pub writable: bool,
    /// Room for it. Unit: bytes.
    pub free: u64,
    /// It is on a local file system.
    pub local: bool,
    /// The root that it lies in.
    pub inside: Option<String>,
    /// Roots on the same file system.
    pub beside: Vec<String>,
}

/// Everything that the facts mean, in the order in which it is told.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    all.extend(machine::kernel(facts));
    all.extend(machine::rsync(facts));
    all.extend(machine::namespace(facts));
    all.extend(machine::capabilities(facts));
    all.push(limits::memory(facts));
    all.extend(limits::watches(facts));
    all.extend(limits::queue(facts, Limit::InotifyQueue));
    all.extend(limits::instances(facts));
    all.extend(limits::queue(facts, Limit::FanotifyQueue));
    all.extend(limits::groups(facts));
    all.extend(limits::marks(facts));
    all.push(machine::descriptors(facts));
    all.extend(machine::clock(facts));
    for root in &facts.roots {
        all.extend(places::directories(root));
        all.push(places::file_system(root));
        all.extend(places::stamps(root));
        all.push(places::backend(root));
    }
    all.extend(places::state(facts));
    all.extend(facts.configuration.iter().map(|words| {
        Finding::new("configuration", Level::Problem, words.clone())
            .why("the agent does not start with it")
            .mend("fansync check --config FILE")
    }));
    all.extend(facts.targets.iter().map(|(name, said)| places::target(name, said)));
    all
}

fn is_in_namespace(facts: &Facts) -> bool {
    facts.privileges.is_some_and(|privileges| privileges.in_namespace)
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// As text for people.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut line = |head: &str, words: &str| {
        text.push_str(head);
        text.push_str(words);
        text.push('\n');
    };
    for finding in findings {
        let name = finding.name.replace('_', " ");
        let subject = finding.subject.as_ref().map_or_else(String::new, |subject| format!(" {subject}"));
        line(&format!("{:<8} ", finding.level.word()), &format!("{name}{subject}: {}", finding.what));
        if !finding.why.is_empty() {
            line("           why: ", &finding.why);
        }
        for (index, mend) in finding.mend.iter().enumerate() {
            line(if index == 0 { "          mend: " } else { "                " }, mend);
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    line("", &format!("{problems} problems, {warnings} warnings"));
    text
}

/// The path of a fact as it is shown.
pub fn shown(path: &Path) -> String {
    crate::path::escaped(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())).to_string()
}

#[cfg(test)]
mod tests;
