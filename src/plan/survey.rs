//! A bounded look at what a listing or a subtree holds: how much it is, what is large, what changed since.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use crate::filter::Filter;
use crate::path::RelPath;
use crate::sys::clock::WallTime;
use crate::sys::files::{self, EntryType, Identity};

/// When a survey stops, and what it looks for.
#[derive(Debug, Clone, Copy)]
pub struct SurveyLimits {
    /// Entries; more make a subtree too big for one run.
    pub entries_max: usize,
    /// Bytes of the files that are not large; more make a subtree too big for one run.
    pub bytes_max: u64,
    /// Files above this are left out of the run and go to the large lane.
    pub large: u64,
    /// Files whose ctime is at or after this are sent whatever size and mtime say.
    pub since: Option<WallTime>,
    /// Directories on other devices are not entered.
    pub device: Option<u64>,
}

/// What was found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Entries seen.
    pub entries: usize,
    /// Directories listed.
    pub directories: usize,
    /// Their bytes, without the large files.
    pub bytes: u64,
    /// Files above the limit.
    pub large: Vec<RelPath>,
    /// Files that changed at or after `since`, large ones left out.
    pub changed: Vec<RelPath>,
    /// Names of inodes with several links.
    pub linked: Vec<Found>,
    /// Directories in the surveyed one itself.
    pub children: Vec<RelPath>,
    /// Too much for one run; what was counted is not all.
    pub too_big: bool,
}

/// A name of an inode that has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name.
    pub path: RelPath,
    /// The inode.
    pub identity: Identity,
    /// How many names it has.
    pub links: u32,
}

/// Looks into `directory`: one level, or everything beneath when `recurse`. A directory that vanishes meanwhile is
/// left out: its own event tells.
///
/// # Errors
/// When `directory` itself cannot be opened or listed.
pub fn survey(
    root: BorrowedFd<'_>,
    directory: &RelPath,
    recurse: bool,
    filter: &Filter,
    limits: &SurveyLimits,
) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let mut stack = vec![directory.clone()];
    while let Some(at) = stack.pop() {
        let open = match files::open_directory(root, &at) {
            Ok(open) => open,
            Err(error) if at == *directory => return Err(error),
            Err(_) => continue,
        };
        let mut names: Vec<Vec<u8>> = Vec::new();
        let listed = files::list(&open, |name, _, _| names.push(name.to_vec()));
        if at == *directory {
            listed?;
        }
        survey.directories += 1;
        for name in names {
            let path = at.join(&name);
            let Ok(status) = files::status_at(open.as_fd(), &name) else { continue };
            let is_directory = status.entry_type == EntryType::Directory;
            if filter.excludes(&path, is_directory) {
                continue;
            }
            survey.entries += 1;
            if is_directory {
                if limits.device.is_some_and(|device| device != status.identity.device) {
                    continue;
                }
                if at == *directory {
                    survey.children.push(path.clone());
                }
                if recurse {
                    stack.push(path);
                }
            } else {
                if status.links > 1 {
                    survey.linked.push(Found { path: path.clone(), identity: status.identity, links: status.links });
                }
                if status.entry_type == EntryType::File && status.size > limits.large {
                    survey.large.push(path);
                } else {
                    survey.bytes += status.size;
                    if limits.since.is_some_and(|since| status.changed >= since) {
                        survey.changed.push(path);
                    }
                }
            }
        }
        if recurse && (survey.entries > limits.entries_max || survey.bytes > limits.bytes_max) {
            // The children of the directory itself must be complete: they are what it is split into.
            survey.too_big = at != *directory || !stack.is_empty();
            if survey.too_big {
                return Ok(survey);
            }
        }
    }
    Ok(survey)
}

/// Finds the names of `wanted` inodes anywhere below `root`, by the inode numbers that directories list: no file is
/// looked at but the matches. What cannot be read is left out.
#[must_use]
pub fn search_links(
    root: BorrowedFd<'_>,
    device: Option<u64>,
    filter: &Filter,
    wanted: &HashMap<Identity, u32>,
    go_on: &dyn Fn() -> bool,
) -> Vec<Found> {
    let numbers: HashSet<u64> = wanted.keys().map(|identity| identity.inode).collect();
    let mut found = Vec::new();
    let mut stack = vec![RelPath::root()];
    while let Some(at) = stack.pop() {
        if !go_on() {
            break;
        }
        let Ok(open) = files::open_directory(root, &at) else { continue };
        let foreign = |status: files::Status| device.is_some_and(|device| device != status.identity.device);
        if files::status_of(&open).is_ok_and(foreign) {
            continue;
        }
        let mut matches: Vec<Vec<u8>> = Vec::new();
        let _partly = files::list(&open, |name, entry_type, inode| match entry_type {
            Some(EntryType::Directory) => stack.push(at.join(name)),
            Some(_) if numbers.contains(&inode) => matches.push(name.to_vec()),
            Some(_) => {}
            None => matches.push(name.to_vec()),
        });
        for name in matches {
            let path = at.join(&name);
            match files::status_at(open.as_fd(), &name) {
                Ok(status) if status.entry_type == EntryType::Directory => stack.push(path),
                Ok(status) if wanted.contains_key(&status.identity) && !filter.excludes_within(&path, false) => {
                    found.push(Found { path, identity: status.identity, links: status.links });
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    found
}
