//! Where a root is sent: a local directory or a module of an rsync daemon.
//!
//! Grammar (rsync(1), "ACCESS VIA RSYNC DAEMON"): `rsync://[user@]host[:port]/module[/sub]`, `[user@]host::module[/sub]`,
//! or a local directory. `[user@]host:path` means ssh; it is recognised so that it can be refused by name.

use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

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
    /// `host:path`.
    #[error("ssh targets (host:path) are not supported yet: use an rsync daemon or a local directory")]
    Ssh,
    /// `http://` and the like.
    #[error("'{0}://' is not supported: use rsync://host/module or a local directory")]
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
        if let Some(colon) = bytes[..first_slash].iter().position(|byte| *byte == b':') {
            if bytes[colon..].starts_with(b"::") {
                return parse_double_colon(&bytes[..colon], &bytes[colon + 2..]).map(Self::Daemon);
            }
            return Err(TargetError::Ssh);
        }
        Ok(Self::Local(here.join(std::ffi::OsStr::from_bytes(bytes))))
    }

    /// The argument that rsync gets as its destination, with the slash at its end.
    #[must_use]
    pub fn argument(&self) -> std::ffi::OsString {
        let mut bytes = match self {
            Self::Local(path) => path.as_os_str().as_bytes().to_vec(),
            Self::Daemon(address) => address.url(),
        };
        if bytes.last() != Some(&b'/') {
            bytes.push(b'/');
        }
        std::ffi::OsString::from_vec(bytes)
    }
}

impl DaemonAddress {
    fn url(&self) -> Vec<u8> {
        let mut bytes = b"rsync://".to_vec();
        if let Some(user) = &self.user {
            bytes.extend_from_slice(user.as_bytes());
            bytes.push(b'@');
        }
        if self.host.contains(':') {
            bytes.extend_from_slice(format!("[{}]", self.host).as_bytes());
        } else {
            bytes.extend_from_slice(self.host.as_bytes());
        }
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

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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

fn finish(user: Option<String>, host: String, port: u16, module_path: &[u8]) -> Result<DaemonAddress, TargetError> {
    if host.is_empty() {
        return Err(TargetError::NoHost);
    }
    if host.starts_with('-') || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(TargetError::Host(host));
    }
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
        check("host:/data", TargetError::Ssh);
        check("host::", TargetError::NoModule);
        check("::mod", TargetError::NoHost);
    }
}
