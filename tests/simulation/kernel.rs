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
        read_whole(&mut self.queue, buffer, bytes_of)
    }
}

fn bytes_of(record: &Record) -> Vec<u8> {
    let padded = if record.name.is_empty() { 0 } else { (record.name.len() / 16 + 1) * 16 };
    let mut bytes = record.wd.to_ne_bytes().to_vec();
    bytes.extend(record.mask.to_ne_bytes());
    bytes.extend(record.cookie.to_ne_bytes());
    bytes.extend(u32::try_from(padded).unwrap_or(0).to_ne_bytes());
    bytes.extend_from_slice(&record.name);
    bytes.resize(16 + padded, 0);
    bytes
}

/// Moves as many whole records as fit from a queue to a buffer, as read(2) does; `None` when it was empty.
pub fn read_whole<T>(queue: &mut VecDeque<T>, buffer: &mut [u8], bytes_of: impl Fn(&T) -> Vec<u8>) -> Option<usize> {
    let mut filled = 0;
    while let Some(record) = queue.front() {
        let bytes = bytes_of(record);
        let Some(space) = buffer.get_mut(filled..filled + bytes.len()) else { break };
        space.copy_from_slice(&bytes);
        filled += bytes.len();
        queue.pop_front();
    }
    (filled > 0).then_some(filled)
}
