//! Where a root is sent: a local directory, a module of an rsync daemon, or a directory of another machine by ssh.
//!
//! Grammar (rsync(1)): `rsync://[user@]host[:port]/module[/sub]`, `[user@]host::module[/sub]`, `[user@]host:path` for ssh,
//! or a local directory. An IPv6 address stands in brackets.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::path::RelPath;

/// Which target of a root, in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub u16);

/// The standard port of an rsync daemon (rsyncd.conf(5), "port").
pub const DAEMON_PORT: u16 = 873;

/// Where the files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine, absolute.
    Local(PathBuf),
    /// A module of an rsync daemon.
    Daemon(DaemonAddress),
    /// A directory of another machine, where ssh starts an rsync.
    Ssh(SshAddress),
}

/// The parts of `rsync://[user@]host[:port]/module[/sub]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonAddress {
    /// The daemon's user, who need not exist on either machine.
    pub user: Option<String>,
    /// A name or an address; IPv6 without its brackets.
    pub host: String,
    /// TCP port, 1..=65535.
    pub port: u16,
    /// The module's name in rsyncd.conf.
    pub module: String,
    /// Path inside the module, without slashes at either end; empty for the module's root.
    pub sub: Vec<u8>,
}

/// The parts of `[user@]host:path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAddress {
    /// Who logs in there; without one ssh decides.
    pub user: Option<String>,
    /// A name, an address (IPv6 without its brackets) or an alias of ssh_config(5).
    pub host: String,
    /// TCP port, 1..=65535; without one ssh decides. Not part of the spelling: a key of the configuration.
    pub port: Option<u16>,
    /// Absolute, or relative to the home directory there. Neither empty nor that directory itself; no `..`, no slash at its
    /// end.
    pub path: Vec<u8>,
}

/// What ssh is told besides the host. Everything else is in its own configuration files, which apply.
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub struct SshOptions {
    /// The private key, an absolute path; no other key is offered then.
    pub identity_file: Option<PathBuf>,
    /// Host keys, instead of those in the user's `known_hosts`; an absolute path.
    pub known_hosts: Option<PathBuf>,
    /// `KEY=VALUE` as for ssh's `-o`.
    pub options: Vec<String>,
}

/// Why something cannot be told to ssh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshOptionError {
    /// Not of the form `KEY=VALUE`.
    #[error("'{0}' is not an option of ssh: write KEY=VALUE, as in ssh_config(5)")]
    Form(String),
    /// An option that decides how fansync and ssh work together.
    #[error("'{0}' is for fansync to set")]
    Ours(String),
    /// ssh would read something else in a path.
    #[error("a path for ssh must not hold quotes, backslashes, control characters or '${{'")]
    Path,
}

/// In lower case.
const OURS: [&str; 13] = [
    "batchmode",
    "clearallforwardings",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "escapechar",
    "forkafterauthentication",
    "localcommand",
    "permitlocalcommand",
    "remotecommand",
    "requesttty",
    "sessiontype",
    "stdinnull",
];

impl SshOptions {
    /// Whether an option may be given.
    ///
    /// # Errors
    /// [`SshOptionError::Form`] or [`SshOptionError::Ours`].
    pub fn check_option(text: &str) -> Result<(), SshOptionError> {
        let key = text.split_once('=').map(|(key, _)| key).filter(|key| !key.is_empty());
        match key {
            Some(key) if OURS.contains(&key.to_ascii_lowercase().as_str()) => Err(SshOptionError::Ours(key.to_owned())),
            Some(key) if key.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !text.contains(char::is_control) => {
                Ok(())
            }
            Some(_) | None => Err(SshOptionError::Form(text.to_owned())),
        }
    }

    /// Whether ssh can be told a path.
    ///
    /// # Errors
    /// [`SshOptionError::Path`].
    pub fn check_path(path: &Path) -> Result<(), SshOptionError> {
        let bytes = path.as_os_str().as_bytes();
        let odd = |byte: &u8| byte.is_ascii_control() || b"\"'\\".contains(byte);
        if bytes.iter().any(odd) || find(bytes, b"${").is_some() { Err(SshOptionError::Path) } else { Ok(()) }
    }
}

/// Why a text is not a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing was given.
    #[error("the target is empty")]
    Empty,
    /// An `rsync:` URL or `host::` without a module.
    #[error("the module is missing: write rsync://host/module")]
    NoModule,
    /// An `rsync:` URL or `::` form without a host.
    #[error("the host is missing: write rsync://host/module")]
    NoHost,
    /// A port that is not a number from 1 to 65535.
    #[error("'{0}' is not a port from 1 to 65535")]
    Port(String),
    /// A host that starts with a dash, or holds a blank or a control character.
    #[error("'{0}' is not a host name")]
    Host(String),
    /// A password in the URL would be visible in `ps`.
    #[error("a password in the URL would be visible to every user in ps: use password_file")]
    Password,
    /// `..` or an empty component in the path inside the module.
    #[error("the path inside the module must not hold '..' or empty components")]
    Sub,
    /// `host:` and the like.
    #[error(
        "the directory is missing: a mirror of the home directory itself would delete its .ssh; write host:directory"
    )]
    SshPath,
    /// `..` or an empty component in the path of an ssh target.
    #[error("the path behind the host must not hold '..' or empty components")]
    SshSub,
    /// A user of an ssh target that ssh, or rsync, would take for something else.
    #[error("'{0}' is not a user's name")]
    User(String),
    /// `http://` and the like.
    #[error("'{0}://' is not supported: use rsync://host/module, host:directory (ssh) or a local directory")]
    Scheme(String),
    /// A host, user or module that is not UTF-8, or a NUL byte.
    #[error("host, user and module must be plain text")]
    NotText,
}

impl Location {
    /// Reads a target as written on the command line or in the configuration; a relative directory is taken below `here`.
    ///
    /// # Errors
    /// [`TargetError`] that names the part at fault.
    pub fn parse(bytes: &[u8], here: &Path) -> Result<Self, TargetError> {
        if bytes.is_empty() {
            return Err(TargetError::Empty);
        }
        if bytes.contains(&0) {
            return Err(TargetError::NotText);
        }
        if let Some(rest) = bytes.strip_prefix(b"rsync://") {
            return parse_url(rest).map(Self::Daemon);
        }
        if let Some(at) = find(bytes, b"://")
            && !bytes[..at].contains(&b'/')
        {
            return Err(TargetError::Scheme(String::from_utf8_lossy(&bytes[..at]).into_owned()));
        }
        let first_slash = bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len());
        if let Some(colon) = host_end(&bytes[..first_slash]) {
            if bytes[colon..].starts_with(b"::") {
                return parse_double_colon(&bytes[..colon], &bytes[colon + 2..]).map(Self::Daemon);
            }
            return parse_ssh(&bytes[..colon], &bytes[colon + 1..]).map(Self::Ssh);
        }
        Ok(Self::Local(here.join(std::ffi::OsStr::from_bytes(bytes))))
    }

    /// The argument that rsync gets as its destination, with the slash at its end.
    #[must_use]
    pub fn argument(&self) -> OsString {
        let mut bytes = match self {
            Self::Local(path) => path.as_os_str().as_bytes().to_vec(),
            Self::Daemon(address) => address.url(),
            Self::Ssh(address) => address.spelling(),
        };
        if bytes.last() != Some(&b'/') {
            bytes.push(b'/');
        }
        OsString::from_vec(bytes)
    }
}

impl Location {
    /// The argument that rsync gets to work in the directory `path` of the target, and what it is to be told to find the
    /// directory `other` there (`--link-dest`), `None` where one of them cannot be said exactly: a daemon expands the
    /// wildcards of its arguments, and what becomes of other special characters depends on its release.
    #[must_use]
    pub fn move_arguments(&self, path: &RelPath, other: &RelPath) -> Option<(OsString, OsString)> {
        let mut destination = self.argument().into_vec();
        destination.extend_from_slice(path.as_bytes());
        destination.push(b'/');
        let mut basis = match self {
            Self::Local(_) => self.argument().into_vec(),
            // Relative to the module (notes/rsync.md 3).
            Self::Daemon(address) if address.sub.is_empty() => b"/".to_vec(),
            Self::Daemon(address) => [b"/", &address.sub[..], b"/"].concat(),
            // A relative one would be taken from the destination.
            Self::Ssh(address) => [&address.path[..], b"/"].concat(),
        };
        let exact = match self {
            Self::Local(_) => true,
            Self::Daemon(_) | Self::Ssh(_) => {
                [&basis[..], path.as_bytes(), other.as_bytes()].into_iter().all(is_said_exactly)
            }
        };
        basis.extend_from_slice(other.as_bytes());
        let absolute = exact && basis.starts_with(b"/") && !path.is_root() && !other.is_root();
        absolute.then(|| (OsString::from_vec(destination), OsString::from_vec(basis)))
    }
}

/// Whether no rsync of either side takes a byte of it for something else.
fn is_said_exactly(path: &[u8]) -> bool {
    path.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte >= 0x80 || b"._-+=,@%/: ".contains(byte))
}

/// `[user@]host`, an IPv6 address in brackets.
fn write_login(bytes: &mut Vec<u8>, user: Option<&str>, host: &str) {
    if let Some(user) = user {
        bytes.extend_from_slice(user.as_bytes());
        bytes.push(b'@');
    }
    if host.contains(':') {
        bytes.extend_from_slice(format!("[{host}]").as_bytes());
    } else {
        bytes.extend_from_slice(host.as_bytes());
    }
}

impl DaemonAddress {
    fn url(&self) -> Vec<u8> {
        let mut bytes = b"rsync://".to_vec();
        write_login(&mut bytes, self.user.as_deref(), &self.host);
        if self.port != DAEMON_PORT {
            bytes.extend_from_slice(format!(":{}", self.port).as_bytes());
        }
        bytes.push(b'/');
        bytes.extend_from_slice(self.module.as_bytes());
        if !self.sub.is_empty() {
            bytes.push(b'/');
            bytes.extend_from_slice(&self.sub);
        }
        bytes
    }
}

impl SshAddress {
    /// As it is written, without the port.
    #[must_use]
    pub fn spelling(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_login(&mut bytes, self.user.as_deref(), &self.host);
        bytes.push(b':');
        if self.path.starts_with(b"-") || self.path.starts_with(b":") {
            // No option of the rsync there, and no module of a daemon.
            bytes.extend_from_slice(b"./");
        }
        bytes.extend_from_slice(&self.path);
        bytes
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssh(address) => {
                write!(f, "{}", crate::path::escaped(&address.spelling()))?;
                // Two ports are two machines.
                address.port.map_or(Ok(()), |port| write!(f, " port {port}"))
            }
            Self::Local(path) => write!(f, "{}", crate::path::escaped(path.as_os_str().as_bytes())),
            Self::Daemon(address) => write!(f, "{}", crate::path::escaped(&address.url())),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_url(rest: &[u8]) -> Result<DaemonAddress, TargetError> {
    let slash = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (user, host_port) = split_user(&rest[..slash])?;
    let (host, port) = if let Some(inner) = host_port.strip_prefix('[') {
        let (host, after) = inner.split_once(']').ok_or_else(|| TargetError::Host(host_port.clone()))?;
        let port = match after {
            "" => None,
            text => Some(text.strip_prefix(':').ok_or_else(|| TargetError::Host(host_port.clone()))?),
        };
        (host.to_owned(), port.map(str::to_owned))
    } else {
        match host_port.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port.to_owned())),
            None => (host_port, None),
        }
    };
    let port = match port {
        None => DAEMON_PORT,
        Some(text) => text.parse::<u16>().ok().filter(|port| *port != 0).ok_or(TargetError::Port(text))?,
    };
    finish(user, host, port, rest.get(slash + 1..).unwrap_or_default())
}

/// The colon behind a host, which may be an address in brackets behind a user: found as rsync does (`parse_hostspec`).
fn host_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut host = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b':' => return Some(at),
            b'@' => host = at + 1,
            b'[' if at == host => {
                if let Some(length) = bytes[at..].iter().position(|byte| *byte == b']')
                    && bytes[at + length..].starts_with(b"]:")
                    // A module of a daemon whose host is in brackets has no such spelling.
                    && !bytes[at + length..].starts_with(b"]::")
                {
                    return Some(at + length + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn parse_ssh(left: &[u8], path: &[u8]) -> Result<SshAddress, TargetError> {
    let (user, host) = split_user(left)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or(TargetError::Host(host.clone()))?.to_owned(),
        None => host,
    };
    check_host(&host)?;
    if let Some(user) = &user
        && (user.is_empty() || user.starts_with('-') || user.chars().any(|c| c.is_whitespace() || c.is_control()))
    {
        return Err(TargetError::User(user.clone()));
    }
    let mut path = path.strip_suffix(b"/").unwrap_or(path);
    while let Some(rest) = path.strip_prefix(b"./") {
        path = rest;
    }
    if matches!(path, b"" | b".") {
        return Err(TargetError::SshPath);
    }
    // The rest is for the other machine to understand.
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    crate::path::RelPath::parse(relative).map_err(|_| TargetError::SshSub)?;
    Ok(SshAddress { user, host, port: None, path: path.to_vec() })
}

fn parse_double_colon(left: &[u8], module_path: &[u8]) -> Result<DaemonAddress, TargetError> {
    let (user, host) = split_user(left)?;
    finish(user, host, DAEMON_PORT, module_path)
}

fn split_user(bytes: &[u8]) -> Result<(Option<String>, String), TargetError> {
    let text = std::str::from_utf8(bytes).map_err(|_| TargetError::NotText)?;
    match text.rsplit_once('@') {
        None => Ok((None, text.to_owned())),
        Some((user, _)) if user.contains(':') => Err(TargetError::Password),
        Some((user, host)) => Ok((Some(user.to_owned()), host.to_owned())),
    }
}

fn check_host(host: &str) -> Result<(), TargetError> {
    if host.is_empty() {
        return Err(TargetError::NoHost);
    }
    if host.starts_with('-') || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(TargetError::Host(host.to_owned()));
    }
    Ok(())
}

fn finish(user: Option<String>, host: String, port: u16, module_path: &[u8]) -> Result<DaemonAddress, TargetError> {
    check_host(&host)?;
    let (module, sub) = match module_path.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&module_path[..slash], &module_path[slash + 1..]),
        None => (module_path, &b""[..]),
    };
    if module.is_empty() {
        return Err(TargetError::NoModule);
    }
    let module = std::str::from_utf8(module).map_err(|_| TargetError::NotText)?.to_owned();
    let sub = sub.strip_suffix(b"/").unwrap_or(sub);
    crate::path::RelPath::parse(sub).map_err(|_| TargetError::Sub)?;
    Ok(DaemonAddress { user, host, port, module, sub: sub.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, TargetError> {
        Location::parse(text.as_bytes(), Path::new("/here"))
    }

    #[test]
    fn every_written_form_becomes_the_argument_that_rsync_gets() {
        let check = |text: &str, expected: &str| assert_eq!(parse(text).unwrap().argument(), expected, "{text}");
        check("rsync://host/mod", "rsync://host/mod/");
        check("rsync://u@host:8873/mod/a/b/", "rsync://u@host:8873/mod/a/b/");
        check("rsync://[::1]:874/mod", "rsync://[::1]:874/mod/");
        check("host::mod", "rsync://host/mod/");
        check("u@10.0.0.1::mod/sub", "rsync://u@10.0.0.1/mod/sub/");
        check("/srv/data", "/srv/data/");
        check("data", "/here/data/");
        check("./a:b", "/here/./a:b/");
        check("web17:/srv/www/", "web17:/srv/www/");
        check("bob@web17:data/a b", "bob@web17:data/a b/");
        check("web17:./data", "web17:data/");
        check("web17:-x", "web17:./-x/");
        check("web17:./:x", "web17:./:x/");
        check("[::1]:@/t", "[::1]:@/t/");
        check("web17:a@b:c", "web17:a@b:c/");
        check("web17:a:b::c", "web17:a:b::c/");
        check("[::1]:/srv", "[::1]:/srv/");
        check("bob@[fe80::1%eth0]:srv", "bob@[fe80::1%eth0]:srv/");
    }

    #[test]
    fn what_is_not_a_target_is_refused_by_its_part() {
        let check = |text: &str, expected: TargetError| assert_eq!(parse(text), Err(expected), "{text}");
        check("", TargetError::Empty);
        check("rsync://host", TargetError::NoModule);
        check("rsync://host/", TargetError::NoModule);
        check("rsync:///mod", TargetError::NoHost);
        check("rsync://host:0/mod", TargetError::Port("0".into()));
        check("rsync://host:99999/mod", TargetError::Port("99999".into()));
        check("rsync://host:/mod", TargetError::Port("".into()));
        check("rsync://u:secret@host/mod", TargetError::Password);
        check("rsync://host/mod/../x", TargetError::Sub);
        check("rsync://-oProxy/mod", TargetError::Host("-oProxy".into()));
        check("http://host/mod", TargetError::Scheme("http".into()));
        check("host:", TargetError::SshPath);
        check("host:./", TargetError::SshPath);
        check("host:/", TargetError::SshPath);
        check("host:a/../b", TargetError::SshSub);
        check("host:../b", TargetError::SshSub);
        check("host://a", TargetError::Scheme("host".into()));
        check("host:a//b", TargetError::SshSub);
        check("-oProxyCommand=x:/data", TargetError::Host("-oProxyCommand=x".into()));
        check("u@-x:/data", TargetError::Host("-x".into()));
        check("-l@host:/data", TargetError::User("-l".into()));
        check("@host:/data", TargetError::User(String::new()));
        check("ho st:/data", TargetError::Host("ho st".into()));
        check(":/data", TargetError::NoHost);
        check("host::", TargetError::NoModule);
        check("::mod", TargetError::NoHost);
    }

    #[test]
    fn a_port_makes_another_location_and_is_shown() {
        let Ok(Location::Ssh(address)) = parse("bob@web17:data") else { panic!() };
        let with_port = Location::Ssh(SshAddress { port: Some(2222), ..address });
        assert_eq!(with_port.to_string(), "bob@web17:data port 2222");
        assert_eq!(with_port.argument(), "bob@web17:data/");
        assert_ne!(Ok(with_port), parse("bob@web17:data"));
    }

    #[test]
    fn options_of_ssh_that_are_ours_and_paths_that_it_would_read_otherwise_are_refused() {
        let check = |text: &str, expected: Result<(), SshOptionError>| {
            assert_eq!(SshOptions::check_option(text), expected, "{text}");
        };
        check("ProxyJump=bastion", Ok(()));
        check("Ciphers=aes128-gcm@openssh.com,a b", Ok(()));
        check("ProxyJump", Err(SshOptionError::Form("ProxyJump".into())));
        check("=x", Err(SshOptionError::Form("=x".into())));
        check("-oProxyJump=x", Err(SshOptionError::Form("-oProxyJump=x".into())));
        check("Proxy Jump=x", Err(SshOptionError::Form("Proxy Jump=x".into())));
        check("A=x\ny", Err(SshOptionError::Form("A=x\ny".into())));
        check("CONTROLPATH=/x", Err(SshOptionError::Ours("CONTROLPATH".into())));
        for path in ["/a b", "/50%", "/~x", "/$x"] {
            assert_eq!(SshOptions::check_path(Path::new(path)), Ok(()), "{path}");
        }
        for path in ["/a\"", "/a'b", "/a\\b", "/a\nb", "/${HOME}"] {
            assert_eq!(SshOptions::check_path(Path::new(path)), Err(SshOptionError::Path), "{path}");
        }
    }
}
