//! The model of a fanotify group with a mark on the file system (notes/kernel.md 4.2): it sees every directory, merges into
//! any queued event of the same process, has a queue with a limit and an overflow marker, and gives the very bytes that read(2)
//! gives.

use std::collections::VecDeque;

use super::files::Inode;
use super::kernel::read_whole;

const HEADER: usize = 24;

/// A directory and a name in it.
type Spot = (Inode, Box<[u8]>);

/// One event of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Queued {
    /// Something happened to a name; `.` is the directory itself.
    At { mask: u64, spot: Spot },
    /// A name became another one.
    Rename { mask: u64, from: Spot, to: Spot },
    /// Events were lost.
    Overflow,
}

/// One group.
#[derive(Debug)]
pub struct Group {
    queue: VecDeque<Queued>,
    limit: usize,
    /// Events that were lost.
    pub lost: u64,
    closed: bool,
}

impl Group {
    pub fn new(limit: usize) -> Self {
        Self { queue: VecDeque::new(), limit, lost: 0, closed: false }
    }

    /// An event; with `same_process` it may merge with one that waits, wherever that is, and keeps its place.
    pub fn push(&mut self, mask: u64, directory: Inode, name: &[u8], same_process: bool) {
        let is_directory = mask & libc::FAN_ONDIR;
        for queued in self.queue.iter_mut().filter(|_| same_process) {
            if let Queued::At { mask: there, spot } = queued
                && spot.0 == directory
                && *spot.1 == *name
                && *there & libc::FAN_ONDIR == is_directory
            {
                *there |= mask;
                return;
            }
        }
        self.add(Queued::At { mask, spot: (directory, name.into()) });
    }

    /// A rename; `same_process` as for [`Self::push`].
    pub fn push_rename(&mut self, bit: u64, from: (Inode, &[u8]), to: (Inode, &[u8]), same_process: bool) {
        let spot = |(directory, name): (Inode, &[u8])| (directory, name.into());
        let rename = Queued::Rename { mask: libc::FAN_RENAME | bit, from: spot(from), to: spot(to) };
        if !(same_process && self.queue.contains(&rename)) {
            self.add(rename);
        }
    }

    fn add(&mut self, event: Queued) {
        if self.closed {
            return;
        }
        if self.queue.len() < self.limit {
            return self.queue.push_back(event);
        }
        self.lost += 1;
        if !self.queue.contains(&Queued::Overflow) {
            self.queue.push_back(Queued::Overflow);
        }
    }

    /// The process is gone.
    pub fn close(&mut self) {
        self.closed = true;
        self.queue.clear();
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
        read_whole(&mut self.queue, buffer, record)
    }
}

fn record(event: &Queued) -> Vec<u8> {
    let (mask, infos) = match event {
        Queued::At { mask, spot } => (*mask, info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, spot)),
        Queued::Rename { mask, from, to } => {
            let mut infos = info(libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, from);
            infos.extend(info(libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, to));
            (*mask, infos)
        }
        Queued::Overflow => (libc::FAN_Q_OVERFLOW, Vec::new()),
    };
    let mut bytes = u32::try_from(HEADER + infos.len()).unwrap_or(0).to_ne_bytes().to_vec();
    bytes.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
    bytes.extend(24_u16.to_ne_bytes());
    bytes.extend(mask.to_ne_bytes());
    bytes.extend((-1_i32).to_ne_bytes());
    bytes.extend(1_i32.to_ne_bytes());
    bytes.extend(infos);
    bytes
}

fn info(kind: u8, (directory, name): &Spot) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend(8_u32.to_ne_bytes());
    body.extend(1_i32.to_ne_bytes());
    body.extend(directory.to_ne_bytes());
    body.extend(name.iter());
    body.push(0);
    body.resize(body.len().next_multiple_of(4), 0);
    let mut record = vec![kind, 0];
    record.extend(u16::try_from(body.len() + 4).unwrap_or(0).to_ne_bytes());
    record.extend(body);
    record
}
