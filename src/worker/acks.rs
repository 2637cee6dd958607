//! Replies without Nagle's wait: what rsync's daemon says is acknowledged at once, whatever options the daemon has.
//!
//! A daemon without TCP_NODELAY sends its second small reply only when the first one is acknowledged, which our kernel
//! puts off for 40 ms as it expects rsync to answer with data (notes/rsync.md 5.1). rsync cannot be told to set
//! TCP_QUICKACK, which is not permanent anyway. So the socket is duplicated out of the child, watched for what arrives,
//! and told at each arrival to acknowledge at once. Where that is not possible everything works as well, but slower.

use std::io;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::sys::child::Reaper;
use crate::sys::connection::{Connection, TcpInfo};

/// When a child is looked at for its connection, counted from its start. It becomes rsync, resolves a name and connects
/// first. Unit: milliseconds.
const LOOKS: [u64; 9] = [2, 4, 8, 16, 32, 64, 128, 512, 2_048];

/// The connection of one child.
#[derive(Debug)]
pub(super) struct Acks {
    token: Token,
    started: Instant,
    looks: usize,
    connection: Option<Connection>,
    lack: Option<io::Error>,
}

impl Acks {
    /// Looks for the connection of a child that was started just now. Its events come as `token`.
    pub(super) fn of_child(started: Instant, token: Token) -> Self {
        Self { token, started, looks: 0, connection: None, lack: None }
    }

    /// Looks for nothing: the child talks to nobody by TCP.
    pub(super) fn none(started: Instant) -> Self {
        Self { token: Token(usize::MAX), started, looks: LOOKS.len(), connection: None, lack: None }
    }

    /// When [`Self::look`] is to be called next.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let after = LOOKS.get(self.looks).filter(|_| self.connection.is_none())?;
        Some(self.started + Duration::from_millis(*after))
    }

    /// Looks for the connection if it is time to.
    pub(super) fn look_if_due(&mut self, now: Instant, child: &Reaper, registry: &Registry) {
        if self.look_at().is_some_and(|at| at <= now) {
            while self.look_at().is_some_and(|at| at <= now) {
                self.looks += 1;
            }
            self.look(child, registry);
        }
    }

    /// Looks for the connection, if it is not known and not out of reach.
    pub(super) fn look(&mut self, child: &Reaper, registry: &Registry) {
        if self.connection.is_some() || self.lack.is_some() || self.token == Token(usize::MAX) {
            return;
        }
        match Connection::of(child) {
            Ok(Some(connection)) => {
                let registered = registry.register(&mut SourceFd(&connection.raw()), self.token, Interest::READABLE);
                match registered {
                    Ok(()) => {
                        connection.acknowledge_at_once();
                        self.connection = Some(connection);
                    }
                    Err(error) => self.lacks(error),
                }
            }
            Ok(None) => {}
            // It has ended.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound) || error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => self.lacks(error),
        }
    }

    fn lacks(&mut self, error: io::Error) {
        self.lack = Some(error);
        self.looks = LOOKS.len();
    }

    /// Something arrived, or is about to.
    pub(super) fn acknowledge(&self) {
        if let Some(connection) = &self.connection {
            connection.acknowledge_at_once();
        }
    }

    /// What is known of the connection, if it was found.
    pub(super) fn info(&self) -> Option<TcpInfo> {
        self.connection.as_ref()?.info().ok()
    }

    /// Lets go of the connection, so that its end is seen. To be called when the child has ended.
    pub(super) fn close(&mut self, registry: &Registry) -> AcksEnd {
        let info = self.info();
        if let Some(connection) = self.connection.take() {
            // Closing it alone would not do: the child's socket is the same open file (epoll(7)).
            let _gone = registry.deregister(&mut SourceFd(&connection.raw()));
        }
        self.looks = LOOKS.len();
        AcksEnd { info, lack: self.lack.take() }
    }
}

/// What is known at the end of a connection.
#[derive(Debug, Default)]
pub struct AcksEnd {
    /// Its numbers, if it was found.
    pub info: Option<TcpInfo>,
    /// Why it could not be had.
    pub lack: Option<io::Error>,
}
