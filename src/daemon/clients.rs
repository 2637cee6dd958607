//! One client of the control socket: its bytes, its request, its time.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use mio::net::UnixStream;

use super::desk::Part;
use crate::control::{Answer, Command, Line, LineBuffer, REQUEST_MAX, Reply};

/// How long a client may take for its request, and to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client wants next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing, until its socket or an answer says so.
    Nothing,
    /// An answer to this.
    Answer(Vec<u8>),
    /// An answer that says that its line is too long.
    Refusal,
    /// It is gone, or finished.
    End,
}

/// A request that waits for the dispatchers.
#[derive(Debug)]
pub(super) struct Open {
    pub ticket: u64,
    pub command: Command,
    /// Roots that have not answered.
    pub missing: Vec<usize>,
    /// What the others said.
    pub parts: Vec<(usize, Part)>,
    /// When a wait is given up.
    pub deadline: Option<Instant>,
    pub given_up: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pub stream: UnixStream,
    input: LineBuffer,
    output: Vec<u8>,
    written: usize,
    at_end: bool,
    closing: bool,
    /// When patience is over, unless it waits for us.
    until: Instant,
    pub open: Option<Open>,
}

impl Client {
    pub(super) fn new(stream: UnixStream, now: Instant) -> Self {
        Self {
            stream,
            input: LineBuffer::new(REQUEST_MAX),
            output: Vec::new(),
            written: 0,
            at_end: false,
            closing: false,
            until: now + PATIENCE,
            open: None,
        }
    }

    /// When its time is over; `None` while it waits for us.
    pub(super) fn until(&self) -> Option<Instant> {
        self.open.is_none().then_some(self.until)
    }

    /// When it is to be looked at, if nothing happens.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.open.as_ref().map_or(Some(self.until), |open| open.deadline)
    }

    /// Gives it an answer; with `last` it gets no further one.
    pub(super) fn answer(&mut self, now: Instant, answer: Answer, last: bool) {
        self.open = None;
        self.output = Reply::line(answer);
        self.written = 0;
        self.closing |= last;
        self.until = now + PATIENCE;
    }

    /// Writes and reads what can be without waiting.
    pub(super) fn advance(&mut self) -> Wish {
        loop {
            while self.written < self.output.len() {
                match self.stream.write(&self.output[self.written..]) {
                    Ok(0) => return Wish::End,
                    Ok(count) => self.written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Wish::Nothing,
                    Err(_) => return Wish::End,
                }
            }
            self.output = Vec::new();
            self.written = 0;
            if self.closing {
                return Wish::End;
            }
            if self.open.is_some() {
                return Wish::Nothing;
            }
            match self.input.take() {
                Line::Whole(line) => return Wish::Answer(line),
                Line::TooLong => return Wish::Refusal,
                Line::More if self.at_end => return Wish::End,
                Line::More => {}
            }
            let mut bytes = [0; 4096];
            let room = self.input.room().min(bytes.len());
            match self.stream.read(&mut bytes[..room]) {
                Ok(0) => {
                    // A last line may have no end.
                    self.at_end = true;
                    self.input.push(b"\n");
                }
                Ok(count) => self.input.push(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Wish::Nothing,
                Err(_) => return Wish::End,
            }
        }
    }
}
