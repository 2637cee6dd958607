//! The connections that the calls of ssh share: one thread each, which keeps an `ssh -N` that listens at a socket
//! (ssh_config(5), `ControlMaster`).
//!
//! A run finds the connection by its socket, and connects by itself where there is none, so nobody waits for it and its
//! failures are nobody's but its own; what is wrong with the target is told to the runs. After it has ended it is made
//! again when a run has shown that the target can be reached: while a target is paused nothing knocks at it but the probes.
//!
//! What a login brings (its shell, its `PATH`, a forced command) stays as it was when the connection was made. Where that is the
//! trouble, the connection is ended, so that the probes, which log in anew, see when it has changed.
//!
//! It is a child of its thread, dies with it as every rsync does, and is terminated at the end, when the last lane has ended.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::Waker;

use super::agent::{AgentError, resources, spawn};
use super::inbox::wake;
use crate::sys::clock;
use crate::target::{Location, SshAddress, SshOptions};
use crate::worker::command::Transport;
use crate::worker::run::{Supervisor, Urgency};
use crate::worker::ssh;

/// Lanes that share one connection. Why 8: a server serves 10 sessions of one (sshd_config(5), `MaxSessions`), and one that
/// ends may still count when the next begins.
const LANES_MAX: usize = 8;

/// Pauses before a connection that did not last is made again: doubled each time, up to the last.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Whoever lasted for so long has not failed.
const LASTED: Duration = Duration::from_secs(60);

/// No connection is meant to end by our deadline; it is made again then.
const DEADLINE: Duration = Duration::from_secs(30 * 86_400);

/// The length of a socket's path, with the 17 bytes that ssh adds while it makes one, and a NUL: unix(7), `sun_path`.
const SOCKET_LENGTH_MAX: usize = 108 - 17 - 1;

/// Whom a connection goes to, and how: what is the same for all that share one. The paths there do not matter.
type Whom = (Option<String>, String, Option<u16>, SshOptions);

/// All connections of an agent.
#[derive(Debug)]
pub(super) struct Connections {
    directory: Option<Directory>,
    state: Option<PathBuf>,
    by_whom: BTreeMap<Whom, Vec<Shared>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    connection: Arc<Connection>,
    lanes: usize,
}

/// One connection, as its lanes see it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: PathBuf,
    wanted: AtomicBool,
    useless: AtomicBool,
    stop: AtomicBool,
    waker: Arc<Waker>,
}

impl Connections {
    /// None yet. Sockets will be in `state`, or where that is too long a path, in a directory for temporary files.
    pub(super) fn new(state: Option<&Path>) -> Self {
        Self { directory: None, state: state.map(Path::to_path_buf), by_whom: BTreeMap::new(), threads: Vec::new() }
    }

    /// The connection for one more lane, whose transport is told of it; none if it does not go by ssh. Made if nobody has
    /// asked for it before, or too many have.
    ///
    /// # Errors
    /// When its thread cannot be made. Without a place for its socket there is none, which is said.
    pub(super) fn of(&mut self, transport: &mut Transport) -> Result<Option<Arc<Connection>>, AgentError> {
        let Location::Ssh(address) = &transport.location else { return Ok(None) };
        if self.directory.is_none() {
            match Directory::make(self.state.as_deref()) {
                Ok(directory) => self.directory = Some(directory),
                Err(error) => {
                    tracing::warn!(%error, "no directory for the sockets of ssh: each transfer makes its own connection");
                    return Ok(None);
                }
            }
        }
        let Some(directory) = &self.directory else { return Ok(None) };
        let address = address.clone();
        let whom = (address.user.clone(), address.host.clone(), address.port, transport.ssh.clone());
        let number = self.threads.len();
        let shared = self.by_whom.entry(whom).or_default();
        if let Some(last) = shared.last_mut().filter(|last| last.lanes < LANES_MAX) {
            last.lanes += 1;
            transport.control = Some(last.connection.socket.clone());
            return Ok(Some(Arc::clone(&last.connection)));
        }
        let supervisor = Supervisor::create().map_err(resources("an event loop"))?;
        let connection = Arc::new(Connection {
            socket: directory.path.join(number.to_string()),
            wanted: AtomicBool::new(true),
            useless: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            waker: supervisor.waker(),
        });
        transport.control = Some(connection.socket.clone());
        let keeper = Keeper {
            connection: Arc::clone(&connection),
            supervisor,
            transport: Transport { program: PathBuf::from(ssh::PROGRAM), ..transport.clone() },
            address,
        };
        self.threads.push(spawn(format!("ssh-{number}"), move || keeper.run())?);
        shared.push(Shared { connection: Arc::clone(&connection), lanes: 1 });
        Ok(Some(connection))
    }

    /// Ends all of them.
    pub(super) fn stop(&self) {
        for shared in self.by_whom.values().flatten() {
            shared.connection.stop.store(true, Ordering::Release);
            wake(&shared.connection.waker);
        }
    }

    /// Whether a thread ended although nobody asked it to.
    pub(super) fn is_broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// To be joined after [`Self::stop`].
    pub(super) fn take_threads(&mut self) -> Vec<JoinHandle<io::Result<()>>> {
        std::mem::take(&mut self.threads)
    }
}

impl Connection {
    /// A run has reached the target, so the connection can be made.
    pub(super) fn is_worth_it(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            wake(&self.waker);
        }
    }

    /// No run gets anywhere by the login that it stands for.
    pub(super) fn is_useless(&self) {
        self.useless.store(true, Ordering::Release);
        wake(&self.waker);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// What the thread of a connection owns.
struct Keeper {
    connection: Arc<Connection>,
    supervisor: Supervisor,
    transport: Transport,
    address: SshAddress,
}

impl Keeper {
    fn run(mut self) -> io::Result<()> {
        let arguments = ssh::owner_arguments(&self.transport, &self.address);
        let mut failures = 0;
        while !self.connection.is_stopped() {
            // Of an agent that was killed; ssh takes a socket that is there for that of somebody else.
            self.remove_socket();
            let began = clock::now();
            let connection = Arc::clone(&self.connection);
            connection.useless.store(false, Ordering::Release);
            let urgency = || match connection.is_stopped() || connection.useless.load(Ordering::Acquire) {
                true => Urgency::Terminate,
                false => Urgency::None,
            };
            let ended = self.supervisor.run(&self.transport, &arguments, b"", began + DEADLINE, &urgency);
            self.remove_socket();
            if self.connection.is_stopped() {
                break;
            }
            let host = &self.address.host;
            match ended {
                Ok(finished) => {
                    let words = crate::path::escaped(finished.stderr.trim_ascii()).to_string();
                    tracing::debug!(host, ended = ?finished.ended, words, "the shared connection has ended");
                }
                Err(error) => tracing::debug!(host, %error, "the shared connection could not be made"),
            }
            let lasted = clock::now().saturating_duration_since(began) >= LASTED;
            failures = if lasted { 0 } else { failures + 1 };
            self.connection.wanted.store(false, Ordering::Release);
            self.rest(PAUSE.saturating_mul(1 << u32::min(failures, 6)).min(PAUSE_MAX))?;
        }
        Ok(())
    }

    /// Until the pause is over, and then until a run has reached the target.
    fn rest(&mut self, pause: Duration) -> io::Result<()> {
        let until = clock::now() + pause;
        while !self.connection.is_stopped() {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() && self.connection.wanted.load(Ordering::Acquire) {
                break;
            }
            self.supervisor.rest((!left.is_zero()).then_some(left))?;
        }
        Ok(())
    }

    fn remove_socket(&self) {
        let _not_there = std::fs::remove_file(&self.connection.socket);
    }
}

/// Where the sockets are: only this user may enter it.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    fn make(state: Option<&Path>) -> io::Result<Self> {
        if let Some(path) = state.map(|state| state.join("ssh")).filter(|path| fits(path)) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700))?;
            return Ok(Self { path, temporary: false });
        }
        let mut first = None;
        for above in
            [std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(std::env::temp_dir()), Some("/tmp".into())]
        {
            let name = format!("fansync-ssh-{:08x}", fastrand::u32(..));
            let Some(path) = above.map(|above| above.join(name)).filter(|path| path.is_absolute() && fits(path)) else {
                continue;
            };
            // Only what did not exist is ours.
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path, temporary: true }),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename)))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary {
            let _sockets_are_left = std::fs::remove_dir(&self.path);
        }
    }
}

/// Whether sockets with short names in a directory have a path that ssh can use and reads as we mean it.
fn fits(directory: &Path) -> bool {
    const NAME: usize = "/65535".len();
    directory.as_os_str().as_bytes().len() + NAME <= SOCKET_LENGTH_MAX && SshOptions::check_path(directory).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_lie_in_the_state_folder_or_where_their_path_is_short_enough() {
        let scratch = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let state = scratch.path().join("state");
        let directory = Directory::make(Some(&state)).unwrap();
        assert_eq!((&directory.path, mode(&directory.path)), (&state.join("ssh"), 0o700));
        let path = directory.path.clone();
        drop(directory);
        assert!(path.exists(), "it is used again");
        let long = scratch.path().join("x".repeat(100));
        for state in [Some(long.as_path()), None, Some(&scratch.path().join("${HOME}"))] {
            let directory = Directory::make(state).unwrap();
            assert_eq!(mode(&directory.path), 0o700);
            assert!(fits(&directory.path) && !directory.path.starts_with(scratch.path()), "{directory:?}");
            let path = directory.path.clone();
            drop(directory);
            assert!(!path.exists());
        }
    }
}
