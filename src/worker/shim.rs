//! A child before it is rsync: this program itself, started ahead, which ties its life to its parent's, waits for a
//! command line and becomes that program. Starting it costs a millisecond or more that a change would wait for.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use super::command::Transport;
use crate::sys::child::{Inherited, Reaper};

/// The hidden subcommand that ties a child to its parent's life, then becomes rsync.
pub const SHIM: &str = "__run-with-parent";

/// Exit code of the shim when the program could not be run; rsync has no such code.
pub const SHIM_NOT_RUN: u8 = 127;

/// A shim that waits for its arguments: closing its pipe without them ends it.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) child: Child,
    pub(super) reaper: Reaper,
    arguments: OwnedFd,
}

impl Shim {
    /// Starts one with this standard input.
    pub(super) fn start(transport: &Transport, stdin: Stdio) -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let read = Inherited::duplicate(&read)?;
        #[expect(clippy::disallowed_methods, reason = "the one place where the agent starts rsync")]
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(SHIM)
            .arg(std::process::id().to_string())
            .arg(read.number().to_string())
            .env_clear()
            .envs(super::command::environment(transport, |name| std::env::var_os(name)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        match Reaper::open(&child) {
            Ok(reaper) => Ok(Self { child, reaper, arguments: write }),
            Err(error) => {
                let _ended_already = child.kill();
                #[expect(clippy::disallowed_methods, reason = "it was killed one line above, so the wait is short")]
                let _status = child.wait();
                Err(error)
            }
        }
    }

    /// Makes it the transport's rsync with `arguments`. One that takes none is killed, and is to be reaped as any
    /// other.
    pub(super) fn become_rsync(self, transport: &Transport, arguments: &[OsString]) -> (Child, Reaper) {
        if let Err(error) = send_arguments(self.arguments, &transport.program, arguments) {
            self.reaper.kill_group();
            tracing::debug!(%error, "the shim took no arguments");
        }
        (self.child, self.reaper)
    }
}

/// Writes the command line for a shim: a count, then the program and its arguments, each ended by a NUL.
fn send_arguments(pipe: OwnedFd, program: &std::path::Path, arguments: &[OsString]) -> io::Result<()> {
    let mut bytes = (arguments.len() + 1).to_string().into_bytes();
    bytes.push(0);
    for argument in std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str)) {
        bytes.extend_from_slice(argument.as_bytes());
        bytes.push(0);
    }
    std::fs::File::from(pipe).write_all(&bytes)
}

/// Reads what [`send_arguments`] wrote; `None` when it is not complete, because the writer is gone or has no need.
fn receive_arguments(mut pipe: impl Read) -> Option<Vec<OsString>> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).ok()?;
    let mut parts = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0);
    let count: usize = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let arguments: Vec<OsString> = parts.map(|part| OsString::from_vec(part.to_vec())).collect();
    (arguments.len() == count).then_some(arguments)
}

/// The shim, called as `PARENT DESCRIPTOR`: ties this process to its parent's life, waits for a command line on the
/// descriptor, and becomes that program. Returns only when that failed or is not wanted, with the exit code to use.
pub fn shim(mut arguments: impl Iterator<Item = OsString>) -> u8 {
    let mut number = || arguments.next()?.to_str()?.parse::<u32>().ok();
    let (Some(parent), Some(descriptor)) = (number(), number()) else { return 2 };
    match crate::sys::child::die_with_parent(parent) {
        Ok(true) => {}
        // Nobody is there to tell.
        Ok(false) | Err(_) => return 1,
    }
    let Ok(pipe) = std::fs::File::open(format!("/proc/self/fd/{descriptor}")) else { return 1 };
    let Some(command) = receive_arguments(pipe) else { return 0 };
    let Some((program, arguments)) = command.split_first() else { return 2 };
    #[expect(clippy::disallowed_methods, reason = "replaces this process; the supervisor started it")]
    let error = Command::new(program).args(arguments).exec();
    let mut stderr = io::stderr();
    let _nobody_reads = io::Write::write_fmt(
        &mut stderr,
        format_args!("fansync: cannot run {}: {error}\n", std::path::Path::new(program).display()),
    );
    SHIM_NOT_RUN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_arrives_whole_or_not_at_all() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let arguments = ["-a".into(), "".into(), OsString::from_vec(b"\xff\n".to_vec())];
        send_arguments(write, std::path::Path::new("rsync"), &arguments).unwrap();
        let received = receive_arguments(std::fs::File::from(read)).unwrap();
        assert_eq!(received[0], "rsync");
        assert_eq!(received[1..], arguments);
        let whole = b"2\0rsync\0-a\0";
        for length in 0..whole.len() {
            assert_eq!(receive_arguments(&whole[..length]), None, "cut at {length}");
        }
        assert!(receive_arguments(&whole[..]).is_some());
    }
}
