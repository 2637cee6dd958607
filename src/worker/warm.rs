//! An rsync that was started ahead: it has connected and waits for its list.
//!
//! The list comes by a pipe, and the transfer begins at the pipe's end. A crash of ours closes the pipe, too, so that
//! what was written until then is the list. A path that is cut short would be another path, perhaps one to be deleted.
//! So each write is whole entries and at most `PIPE_BUF`, into a pipe with room: pipe(7) has it that such a write is
//! done as a whole or not at all, whatever ends the writer. A list that ends early asks for less, which is sent again
//! by the next agent.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::Instant;

use mio::Token;

use super::acks::Acks;
use super::command::Transport;
use super::shim::Shim;
use crate::sys::child::{Reaper, set_nonblocking};
use crate::sys::clock;

/// What a pipe takes as a whole (pipe(7), `PIPE_BUF`). An entry is no longer: rsync's limit is the same number.
const CHUNK: usize = 4_096;

/// The largest list that a pipe is made large enough for. Unit: bytes. Why 256 KiB: a longer list takes longer to be
/// read than a fresh start, and an unprivileged user's pipes may hold 1 MiB each and 64 MiB together (pipe(7)).
const ROOM_MAX: usize = 256 * 1024;

/// One that waits.
#[derive(Debug)]
pub(super) struct Warm {
    pub(super) child: Child,
    pub(super) reaper: Reaper,
    pub(super) acks: Acks,
    /// Writes to its standard input.
    pub(super) list: OwnedFd,
    pub(super) arguments: Vec<OsString>,
    pub(super) started: Instant,
}

impl Warm {
    pub(super) fn start(transport: &Transport, arguments: Vec<OsString>, acks: Token) -> io::Result<Self> {
        let started = clock::now();
        let (read, list) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        set_nonblocking(&list)?;
        let (child, reaper) = Shim::start(transport, Stdio::from(read))?.become_rsync(transport, &arguments);
        Ok(Self { child, reaper, acks: Acks::of_child(started, acks), list, arguments, started })
    }

    /// Whether it runs, and is connected as far as that can be told. One that is not connected yet is well.
    pub(super) fn is_well(&self) -> io::Result<bool> {
        Ok(!self.reaper.has_ended()? && self.acks.info().is_none_or(|info| info.established))
    }

    /// Makes room for the list in its pipe.
    pub(super) fn has_room(&self, feeding: &Feeding<'_>) -> bool {
        let needed = feeding.chunks.len() * CHUNK;
        let room = || rustix::pipe::fcntl_getpipe_size(&self.list).unwrap_or(0);
        if room() < needed {
            let _room_tells = rustix::pipe::fcntl_setpipe_size(&self.list, needed);
        }
        room() >= needed
    }
}

/// A list in parts that a pipe takes as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Feeding<'a> {
    chunks: Vec<&'a [u8]>,
}

impl<'a> Feeding<'a> {
    /// `None` for a list that is too long.
    pub(super) fn of(list: &'a [u8]) -> Option<Self> {
        let mut chunks = Vec::new();
        let (mut start, mut end) = (0, 0);
        for entry in list.split_inclusive(|byte| *byte == 0) {
            if entry.len() > CHUNK {
                return None;
            }
            if end + entry.len() - start > CHUNK {
                chunks.push(&list[start..end]);
                start = end;
            }
            end += entry.len();
        }
        if start < end {
            chunks.push(&list[start..end]);
        }
        // Each takes a page of the pipe, full or not.
        (chunks.len() * CHUNK <= ROOM_MAX).then_some(Self { chunks })
    }

    pub(super) fn write(&self, pipe: &OwnedFd) -> io::Result<()> {
        for chunk in &self.chunks {
            let written = loop {
                match rustix::io::write(pipe, chunk) {
                    Err(rustix::io::Errno::INTR) => {}
                    result => break result?,
                }
            };
            if written != chunk.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(entries: &[usize]) -> Option<Vec<usize>> {
        let list: Vec<u8> = entries.iter().flat_map(|length| [vec![b'x'; length - 1], vec![0]].concat()).collect();
        let feeding = Feeding::of(&list)?;
        assert_eq!(feeding.chunks.concat(), list);
        assert!(feeding.chunks.iter().all(|chunk| chunk.last() == Some(&0)), "whole entries");
        Some(feeding.chunks.iter().map(|chunk| chunk.len()).collect())
    }

    #[test]
    fn a_list_is_fed_in_whole_entries_that_a_pipe_takes_at_once() {
        assert_eq!(lengths(&[]), Some(vec![]));
        assert_eq!(lengths(&[3]), Some(vec![3]));
        assert_eq!(lengths(&[4_096]), Some(vec![4_096]));
        assert_eq!(lengths(&[2_048, 2_048]), Some(vec![4_096]));
        assert_eq!(lengths(&[2_048, 2_049, 5]), Some(vec![2_048, 2_054]));
        assert_eq!(lengths(&[4_097]), None);
        assert_eq!(lengths(&[4_096; 64]), Some(vec![4_096; 64]));
        assert_eq!(lengths(&[4_096; 65]), None);
        assert_eq!(lengths(&[2_049; 65]), None, "half of each page is lost");
    }

    #[test]
    fn a_pipe_without_room_takes_no_part_of_a_chunk() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        rustix::pipe::fcntl_setpipe_size(&write, CHUNK).unwrap();
        rustix::io::write(&write, b"a\0").unwrap();
        let list = [vec![b'x'; CHUNK - 1], vec![0]].concat();
        Feeding::of(&list).unwrap().write(&write).unwrap_err();
        let mut buffer = [0; CHUNK];
        assert_eq!(rustix::io::read(&read, &mut buffer).unwrap(), 2);
    }
}
