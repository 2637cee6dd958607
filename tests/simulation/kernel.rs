//! The model of inotify: instances, watches by inode, a queue with its limit, its overflow marker and its merging
//! (notes/kernel.md 1.1 to 1.3), and the very bytes that read(2) gives.

use std::collections::{BTreeMap, VecDeque};

use super::files::Inode;

/// One record of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub wd: i32,
    pub mask: u32,
    pub cookie: u32,
    pub name: Box<[u8]>,
}

/// One instance.
#[derive(Debug)]
pub struct Instance {
    queue: VecDeque<Record>,
    limit: usize,
    by_wd: BTreeMap<i32, Inode>,
    by_inode: BTreeMap<Inode, i32>,
    next: i32,
    /// Events that were lost.
    pub lost: u64,
    closed: bool,
}

impl Instance {
    pub fn new(limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            limit,
            by_wd: BTreeMap::new(),
            by_inode: BTreeMap::new(),
            next: 1,
            lost: 0,
            closed: false,
        }
    }

    pub fn add_watch(&mut self, inode: Inode) -> i32 {
        if let Some(wd) = self.by_inode.get(&inode) {
            return *wd;
        }
        let wd = self.next;
        self.next += 1;
        self.by_wd.insert(wd, inode);
        self.by_inode.insert(inode, wd);
        wd
    }

    pub fn watches(&self, inode: Inode) -> Option<i32> {
        self.by_inode.get(&inode).copied()
    }

    pub fn watched(&self) -> usize {
        self.by_wd.len()
    }

    /// Ends a watch; what is queued for it stays.
    pub fn remove_watch(&mut self, wd: i32) {
        if let Some(inode) = self.by_wd.remove(&wd) {
            self.by_inode.remove(&inode);
            self.push(Record { wd, mask: libc::IN_IGNORED, cookie: 0, name: Box::default() });
        }
    }

    /// The order of fsnotify_insert_event: first the limit, then the marker, then the merge with the last record.
    pub fn push(&mut self, record: Record) {
        if self.closed {
            return;
        }
        if self.queue.len() >= self.limit {
            self.lost += 1;
            if !self.queue.iter().any(|record| record.mask == libc::IN_Q_OVERFLOW) {
                self.queue.push_back(Record { wd: -1, mask: libc::IN_Q_OVERFLOW, cookie: 0, name: Box::default() });
            }
            return;
        }
        if self.queue.back() == Some(&record) && record.mask != libc::IN_IGNORED {
            return;
        }
        self.queue.push_back(record);
    }

    /// The process is gone.
    pub fn close(&mut self) {
        self.closed = true;
        self.queue.clear();
        self.by_wd.clear();
        self.by_inode.clear();
    }

    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// No more than this is ever queued: the limit and the marker.
    pub fn bound(&self) -> usize {
        self.limit.saturating_add(1)
    }

    /// As read(2): as many whole records as fit.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let mut filled = 0;
        while let Some(record) = self.queue.front() {
            let padded = if record.name.is_empty() { 0 } else { (record.name.len() / 16 + 1) * 16 };
            let Some(space) = buffer.get_mut(filled..filled + 16 + padded) else { break };
            space.fill(0);
            space[0..4].copy_from_slice(&record.wd.to_ne_bytes());
            space[4..8].copy_from_slice(&record.mask.to_ne_bytes());
            space[8..12].copy_from_slice(&record.cookie.to_ne_bytes());
            space[12..16].copy_from_slice(&u32::try_from(padded).unwrap_or(0).to_ne_bytes());
            space[16..16 + record.name.len()].copy_from_slice(&record.name);
            filled += 16 + padded;
            self.queue.pop_front();
        }
        (filled > 0).then_some(filled)
    }
}
