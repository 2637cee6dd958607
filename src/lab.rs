//! A throw-away rsync daemon on loopback, for `bench`, `demo` and the tests: real rsync, free port, waits for
//! readiness, stops exactly what it started.
//!
//! Left out: anything that a production target would need (hosts allow, several modules). See README.md for those.

use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the module of a [`Daemon`] allows.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// `socket options = TCP_NODELAY`, as the README recommends for daemons.
    pub nodelay: bool,
    /// `read only` of the module.
    pub read_only: bool,
    /// `auth users` and its password.
    pub login: Option<(String, String)>,
    /// `max connections`; 0 means no limit (rsyncd.conf(5)).
    pub connections_max: u32,
    /// `refuse options`, space separated; empty for none.
    pub refuse: String,
    /// The port; `None` takes a free one.
    pub port: Option<u16>,
    /// The rsync program of the daemon.
    pub program: PathBuf,
    /// Further lines for the module's section.
    pub extra: String,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            read_only: false,
            login: None,
            connections_max: 0,
            refuse: String::new(),
            port: None,
            program: PathBuf::from("rsync"),
            extra: String::new(),
        }
    }
}

/// A running `rsync --daemon`. Dropping it stops the daemon and the transfers that it serves.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    port: u16,
}

/// The module's name.
pub const MODULE: &str = "mirror";

impl Daemon {
    /// Starts a daemon whose module [`MODULE`] is `directory`; its configuration and log are written into `scratch`.
    /// Returns when it greets.
    ///
    /// # Errors
    /// When rsync is not there, when it ends at once (its words are in the error), or when it does not greet within 10 s.
    pub fn start(directory: &Path, scratch: &Path, options: &DaemonOptions) -> io::Result<Self> {
        for _attempt in 0..20 {
            let port = match options.port {
                Some(port) => port,
                None => free_port()?,
            };
            match Self::start_on(port, directory, scratch, options) {
                // Another process may have taken the free port since we looked.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && options.port.is_none() => {}
                other => return other,
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port for the daemon in 20 attempts"))
    }

    fn start_on(port: u16, directory: &Path, scratch: &Path, options: &DaemonOptions) -> io::Result<Self> {
        let configuration = scratch.join(format!("rsyncd-{port}.conf"));
        let log = scratch.join(format!("rsyncd-{port}.log"));
        write_private(&configuration, &module_text(directory, scratch, port, options)?)?;
        #[expect(clippy::disallowed_methods, reason = "the daemon of bench, demo and tests; no transfer of the agent")]
        let mut command = Command::new(&options.program);
        command
            .arg("--daemon")
            .arg("--no-detach")
            .arg("--address=127.0.0.1")
            .arg(format!("--port={port}"))
            .arg({
                let mut argument = std::ffi::OsString::from("--config=");
                argument.push(&configuration);
                argument
            })
            .arg({
                let mut argument = std::ffi::OsString::from("--log-file=");
                argument.push(&log);
                argument
            })
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let child = command.spawn()?;
        let mut daemon = Self { child, port };
        // 1,000 attempts with 10 ms between them, ended at once when the daemon exits.
        for _attempt in 0..1000 {
            if let Some(status) = daemon.child.try_wait()? {
                let words = std::fs::read_to_string(&log).unwrap_or_default();
                let kind = if words.contains("Address already in use") {
                    io::ErrorKind::AddrInUse
                } else {
                    io::ErrorKind::Other
                };
                return Err(io::Error::new(kind, format!("rsync --daemon ended with {status}: {}", words.trim())));
            }
            if daemon.greets() {
                return Ok(daemon);
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "rsync --daemon did not greet within 10 s"))
    }

    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else {
            return false;
        };
        let mut greeting = [0; 8];
        stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
            && stream.read_exact(&mut greeting).is_ok()
            && &greeting == b"@RSYNCD:"
    }

    /// The TCP port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The target as fansync takes it, without a user.
    #[must_use]
    pub fn url(&self) -> String {
        format!("rsync://127.0.0.1:{}/{MODULE}", self.port)
    }

    /// The target as fansync takes it, with a user.
    #[must_use]
    pub fn url_for(&self, user: &str) -> String {
        format!("rsync://{user}@127.0.0.1:{}/{MODULE}", self.port)
    }

    /// The process id of the listening daemon.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The group holds the children that serve transfers too; SIGKILL leaves nobody behind.
        if let Ok(group) = i32::try_from(self.child.id()) {
            let _gone = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL);
        }
        #[expect(clippy::disallowed_methods, reason = "it was killed one line above, so the wait is short")]
        let _status = self.child.wait();
    }
}

/// A TCP port of loopback that was free a moment ago.
///
/// # Errors
/// When no socket can be bound.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Writes a file that only its owner can read (mode 0600).
///
/// # Errors
/// Those of creating and writing.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn module_text(directory: &Path, scratch: &Path, port: u16, options: &DaemonOptions) -> io::Result<String> {
    use std::fmt::Write as _;
    let root = nix::unistd::geteuid().is_root();
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _infallible = writeln!(text, "{key} = {value}");
    };
    line("use chroot", if root { "yes" } else { "no" });
    // Without a chroot rsync would munge symlinks (notes/rsync.md 10) and the trees would differ.
    line("munge symlinks", "no");
    line("lock file", &scratch.join(format!("rsyncd-{port}.lock")).display().to_string());
    line("reverse lookup", "no");
    if options.nodelay {
        line("socket options", "TCP_NODELAY");
    }
    if root {
        line("uid", "root");
        line("gid", "root");
    }
    let _infallible = writeln!(text, "[{MODULE}]");
    let mut line = |key: &str, value: &str| {
        let _infallible = writeln!(text, "    {key} = {value}");
    };
    line("path", &directory.display().to_string());
    line("read only", if options.read_only { "yes" } else { "no" });
    line("max connections", &options.connections_max.to_string());
    if !options.refuse.is_empty() {
        line("refuse options", &options.refuse);
    }
    if let Some((user, password)) = &options.login {
        let secrets = scratch.join(format!("rsyncd-{port}.secrets"));
        write_private(&secrets, &format!("{user}:{password}\n"))?;
        line("auth users", user);
        line("secrets file", &secrets.display().to_string());
    }
    text.push_str(&options.extra);
    text.push('\n');
    Ok(text)
}
