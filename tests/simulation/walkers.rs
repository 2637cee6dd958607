//! The walkers of the model agent, one directory at a time: the production rules around a queue like that of `daemon`.

use std::collections::{BTreeMap, VecDeque};

use fansync::change::Mark;
use fansync::path::RelPath;
use fansync::rescan::{self, Finder, Scope, Task};
use fansync::watch::{LossReason, ShardId, Source};

use super::control::Control;
use super::machine::Machine;

/// Who asked for a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    Restart,
    Shard(LossReason, ShardId),
}

#[derive(Debug, Default)]
struct Request {
    scopes: BTreeMap<RelPath, Scope>,
    asked: u64,
}

#[derive(Debug)]
struct Pass {
    asker: Asker,
    asked: u64,
    scopes: Vec<Scope>,
    stack: Vec<Task>,
}

/// What a step brought.
#[derive(Debug, Default)]
pub struct Found {
    pub marks: Vec<Mark>,
    pub rechecks: VecDeque<RelPath>,
    tasks: Vec<Task>,
}

impl Finder for Found {
    fn mark(&mut self, mark: Mark) {
        self.marks.push(mark);
    }

    fn recheck(&mut self, directory: &RelPath) {
        self.rechecks.push_back(directory.clone());
    }

    fn descend(&mut self, task: Task) {
        self.tasks.push(task);
    }

    fn files(&mut self, _count: usize) {}
}

/// All walkers of a root.
#[derive(Debug)]
pub struct Walkers {
    waiting: BTreeMap<Asker, Request>,
    pass: Option<Pass>,
    restarted: bool,
    control: Control,
}

impl Walkers {
    pub fn new(control: Control) -> Self {
        Self { waiting: BTreeMap::new(), pass: None, restarted: true, control }
    }

    pub fn ask(&mut self, asker: Asker, scopes: Vec<Scope>) {
        if asker == Asker::Restart {
            self.restarted = false;
        }
        let request = self.waiting.entry(asker).or_default();
        request.asked += 1;
        for mut scope in scopes {
            if self.control == Control::NothingMovedIn {
                scope.known = true;
            }
            request
                .scopes
                .entry(scope.path.clone())
                .and_modify(|waiting| waiting.since = waiting.since.min(scope.since))
                .or_insert(scope);
        }
    }

    pub fn is_restarted(&self) -> bool {
        self.restarted
    }

    pub fn is_idle(&self) -> bool {
        self.pass.is_none() && self.waiting.is_empty()
    }

    /// Visits a directory. Gives what it found and for whom; at the end of a pass for a shard also how many losses are
    /// made good, once what was found is handed over.
    pub fn step(&mut self, source: &Source<Machine>) -> (Found, Option<Asker>, u64) {
        let mut found = Found::default();
        if self.pass.is_none() {
            let Some((asker, request)) = self.waiting.pop_first() else { return (found, None, 0) };
            let scopes: Vec<Scope> = request.scopes.into_values().collect();
            source.root.lock().say(|| format!("  rescan for {asker:?}: {scopes:?}"));
            self.pass = Some(Pass { asker, asked: request.asked, stack: rescan::begin(&scopes), scopes });
        }
        let Some(pass) = &mut self.pass else { return (found, None, 0) };
        let asker = pass.asker;
        if let Some(task) = pass.stack.pop() {
            rescan::visit(source, &pass.scopes, &task, &mut found);
            pass.stack.append(&mut found.tasks);
            for mark in &found.marks {
                source.root.lock().say(|| format!("  rescan finds {:?} {} {:?}", mark.kind, mark.path, mark.content));
            }
            if self.control == Control::NothingMovedIn {
                found.rechecks.clear();
            }
        }
        if !pass.stack.is_empty() {
            return (found, Some(asker), 0);
        }
        let made_good = pass.asked;
        self.pass = None;
        if asker == Asker::Restart {
            self.restarted = true;
            source.resumed();
        }
        (found, Some(asker), made_good)
    }
}
