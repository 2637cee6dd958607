//! How ssh is called: by rsync for each run, and by the agent for the connection that the runs share. Pure.
//!
//! rsync splits the value of `--rsh` by itself, without a shell: by blanks, with quotes in which a doubled quote stands for
//! one (rsync(1), `--rsh`).
//!
//! Whoever calls ssh with the socket of a connection that is not there connects by itself, so the shared connection only
//! makes it faster (290 ms become 63, notes/rsync.md 5.1), and what is wrong is told to the run that meets it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::command::Transport;
use crate::target::SshAddress;

/// The program, to be found on `PATH`.
pub const PROGRAM: &str = "ssh";

/// ssh asks a silent server for a sign of life after so many seconds, and gives up when it has not answered so many times:
/// a connection whose other end is gone ends after 45 s. A run has `--timeout` besides.
const ALIVE: [&str; 2] = ["ServerAliveInterval=15", "ServerAliveCountMax=3"];

/// Which part ssh has in a shared connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It connects, and listens at the socket.
    Owner,
    /// It asks at the socket, if there is one.
    Guest,
}

/// What rsync calls instead of a remote shell (`--rsh`).
#[must_use]
pub fn remote_shell(transport: &Transport, address: &SshAddress) -> OsString {
    let words = std::iter::once(OsString::from(PROGRAM)).chain(words(transport, address, Part::Guest));
    let quoted: Vec<Vec<u8>> = words.map(|word| quoted(word.as_bytes())).collect();
    OsString::from_vec(quoted.join(&b' '))
}

/// The arguments of an ssh that makes the connection, runs nothing, and serves it at the transport's socket until it is
/// ended.
#[must_use]
pub fn owner_arguments(transport: &Transport, address: &SshAddress) -> Vec<OsString> {
    let mut arguments = words(transport, address, Part::Owner);
    arguments.extend(["-N", "-n"].map(OsString::from));
    if let Some(user) = &address.user {
        arguments.push(OsString::from("-l"));
        arguments.push(OsString::from(user));
    }
    arguments.push(OsString::from(&address.host));
    arguments
}

/// Of several values ssh takes the first, so what must hold comes before the operator's options, and what may be chosen
/// after them.
fn words(transport: &Transport, address: &SshAddress, part: Part) -> Vec<OsString> {
    let mut words = Vec::with_capacity(40);
    let mut option = |text: &OsStr| {
        words.push(OsString::from("-o"));
        words.push(text.to_owned());
    };
    let mut fixed = |text: &str| option(OsStr::new(text));
    // Nobody is there to answer a question.
    fixed("BatchMode=yes");
    fixed("RequestTTY=no");
    fixed("RemoteCommand=none");
    fixed("PermitLocalCommand=no");
    fixed("EscapeChar=none");
    fixed("ForwardAgent=no");
    fixed("ForwardX11=no");
    fixed("ClearAllForwardings=yes");
    fixed(match part {
        Part::Owner => "ControlMaster=yes",
        Part::Guest => "ControlMaster=no",
    });
    // It is our child, and stays it.
    fixed("ControlPersist=no");
    match &transport.control {
        Some(socket) => option(&path_option("ControlPath", socket)),
        None => option(OsStr::new("ControlPath=none")),
    }
    if let Some(port) = address.port {
        option(OsStr::new(&format!("Port={port}")));
    }
    if let Some(file) = &transport.ssh.identity_file {
        option(&path_option("IdentityFile", file));
        // Else the keys of an agent come first, and the server gives up before it is this one's turn.
        option(OsStr::new("IdentitiesOnly=yes"));
    }
    if let Some(file) = &transport.ssh.known_hosts {
        option(&path_option("UserKnownHostsFile", file));
    }
    for text in &transport.ssh.options {
        option(OsStr::new(text));
    }
    option(OsStr::new(&format!("ConnectTimeout={}", transport.connect_timeout.as_secs().max(1))));
    for text in ALIVE {
        option(OsStr::new(text));
    }
    // Warnings would stand among rsync's complaints.
    option(OsStr::new("LogLevel=ERROR"));
    words
}

/// A path in quotes, as ssh would take it apart at blanks, and without meaning for its tokens (ssh_config(5), TOKENS). It
/// holds no quotes ([`crate::target::SshOptions::check_path`]).
fn path_option(key: &str, path: &Path) -> OsString {
    let mut bytes = format!("{key}=\"").into_bytes();
    for byte in path.as_os_str().as_bytes() {
        bytes.push(*byte);
        if *byte == b'%' {
            bytes.push(b'%');
        }
    }
    bytes.push(b'"');
    OsString::from_vec(bytes)
}

/// A word as rsync takes it out of `--rsh` again.
fn quoted(word: &[u8]) -> Vec<u8> {
    if !word.is_empty() && !word.iter().any(|byte| b" '\"".contains(byte)) {
        return word.to_vec();
    }
    let mut bytes = vec![b'\''];
    for byte in word {
        bytes.push(*byte);
        if *byte == b'\'' {
            bytes.push(b'\'');
        }
    }
    bytes.push(b'\'');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Location, SshOptions};
    use std::path::PathBuf;
    use std::time::Duration;

    fn transport() -> (Transport, SshAddress) {
        let Ok(Location::Ssh(address)) = Location::parse(b"bob@web17:data", Path::new("/")) else { panic!() };
        let address = SshAddress { port: Some(2222), ..address };
        let transport = Transport {
            program: PathBuf::from("rsync"),
            location: Location::Ssh(address.clone()),
            password_file: None,
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            one_file_system: true,
            ssh: SshOptions {
                identity_file: Some("/keys of bob/100%".into()),
                known_hosts: Some("/known".into()),
                options: vec!["ProxyJump=it's".to_owned()],
            },
            control: Some("/run/x/0".into()),
        };
        (transport, address)
    }

    #[test]
    fn rsync_is_given_one_text_that_it_takes_apart_into_the_words() {
        let (transport, address) = transport();
        let text = remote_shell(&transport, &address).into_string().unwrap();
        assert_eq!(
            text,
            "ssh -o BatchMode=yes -o RequestTTY=no -o RemoteCommand=none -o PermitLocalCommand=no -o EscapeChar=none \
             -o ForwardAgent=no -o ForwardX11=no -o ClearAllForwardings=yes -o ControlMaster=no -o ControlPersist=no \
             -o 'ControlPath=\"/run/x/0\"' -o Port=2222 -o 'IdentityFile=\"/keys of bob/100%%\"' -o IdentitiesOnly=yes \
             -o 'UserKnownHostsFile=\"/known\"' -o 'ProxyJump=it''s' -o ConnectTimeout=10 -o ServerAliveInterval=15 \
             -o ServerAliveCountMax=3 -o LogLevel=ERROR"
        );
        let alone = Transport { control: None, ..transport };
        assert!(remote_shell(&alone, &address).to_str().unwrap().contains("-o ControlPath=none"));
    }

    #[test]
    fn the_owner_of_the_connection_runs_nothing_and_goes_to_the_same_place() {
        let (transport, address) = transport();
        let words = owner_arguments(&transport, &address);
        let texts: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        assert!(texts.contains(&"ControlMaster=yes") && texts.contains(&"IdentityFile=\"/keys of bob/100%%\""));
        assert!(texts.ends_with(&["-N", "-n", "-l", "bob", "web17"]), "{texts:?}");
    }
}
