//! A finished rsync run to a verdict: what was applied, why, and what happens next.
//!
//! The criterion: exit 0 and no marker means that all was applied. With exit 23 or 24 everything was applied but the paths
//! that rsync names. Every other code says nothing about any path, so the whole batch is sent again (it is idempotent).
//! With 23 and 24 *every* line has to be understood: a line that we cannot read may name one more path, and acknowledging
//! that path would lose a change, so the batch is cut in halves instead. With 11 rsync names the path that it could not
//! write and gave up at: that one must not end the next batch too.
//!
//! rsync runs with `LC_ALL=C.UTF-8` and without `--out-format`; the markers appear all the same.
//! Left out: what is retried when. The lane knows the entries, this module only asks about them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::path::{RelPath, escaped};

use super::cause::{Cause, Remedy};
use super::complaint::{self, Line};

pub use super::complaint::{Names, PathCause, Standing};

/// What one rsync run left behind.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to its standard output.
    pub stdout: &'a [u8],
    /// What it wrote to its standard error.
    pub stderr: &'a [u8],
    /// There was more output than was kept.
    pub output_cut: bool,
}

/// How an rsync run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal that we did not send ended it.
    Signal(i32),
    /// Our watchdog stopped it, whatever code followed.
    Watchdog,
}

/// The judgement about one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What the target has now.
    pub applied: Applied,
    /// Why.
    pub cause: Cause,
    /// What happens next; that of `cause`.
    pub remedy: Remedy,
    /// rsync's most telling line, escaped, at most [`WORDS_BYTES_MAX`] bytes; empty when it said nothing.
    pub words: String,
    /// `--max-delete` kept it from deleting: so many names, directories that are not empty left out.
    pub limited: Option<u64>,
    /// Names that it deleted, if it told (`--stats`, from protocol 31 on).
    pub deleted: Option<u64>,
}

/// What of a batch the target has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// All of it.
    All,
    /// All but these; never empty.
    AllBut(Vec<Failed>),
    /// Some of it; which entries failed cannot be told.
    Unclear,
    /// Nothing that could be relied upon.
    Nothing,
    /// The same; these, never none, are what rsync gave up at: without them it would have gone on.
    EndedBy(Vec<Failed>),
}

/// A path that was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// An entry, a path beneath one, or a directory above one (rsync could not make it or set its attributes).
    pub path: RelPath,
    /// Why.
    pub why: PathCause,
    /// Entries beneath `path` have failed with it, unnamed. False when only attributes of `path` could not be set.
    pub contents: bool,
    /// rsync's line, escaped, at most [`WORDS_BYTES_MAX`] bytes.
    pub words: String,
}

/// Most bytes of rsync's words that are kept per line. Unit: bytes. Why 300: a path of usual length and the error
/// behind it, on two lines of a terminal.
pub const WORDS_BYTES_MAX: usize = 300;

/// Judges a run.
#[must_use]
pub fn judge(run: &Run<'_>, names: &Names<'_>) -> Verdict {
    let code = match run.exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => {
            let said = telling(run);
            let words = format!("rsync was ended by signal {signal}");
            let line = if said.is_empty() { words.as_bytes() } else { said };
            return verdict(Applied::Nothing, Cause::Killed, line);
        }
        Exit::Watchdog => return verdict(Applied::Nothing, Cause::WatchdogStopped, telling(run)),
    };
    match code {
        0 | 23 | 24 | 25 => {
            Verdict { limited: limited(code, run), deleted: deleted(run), ..judge_paths(code, run, names) }
        }
        _ => {
            let (cause, line) = cause_of_abort(code, run, names);
            let culprits = match cause {
                Cause::TargetFull | Cause::FileIo => culprits(run, names),
                _ => Vec::new(),
            };
            let applied = if culprits.is_empty() { Applied::Nothing } else { Applied::EndedBy(culprits) };
            verdict(applied, cause, line.unwrap_or_else(|| telling(run)))
        }
    }
}

fn judge_paths(code: i32, run: &Run<'_>, names: &Names<'_>) -> Verdict {
    let limited = limited(code, run);
    if lines(run).any(|line| line.starts_with(DELETES_SUPPRESSED)) {
        // What the sender met, which is why, tells more than the marker.
        return verdict(Applied::Unclear, Cause::DeletesSuppressed, telling(run));
    }
    if run.output_cut {
        return verdict(Applied::Unclear, Cause::OutputCut, telling(run));
    }
    let mut failed = Vec::new();
    // With exit 0 what stands on stderr without being a marker is a warning, such as a missing `--link-dest`.
    let complaints = stderr_lines(run).filter(|line| code != 0 || complaint::is_marker(line));
    // What the limit kept rsync from is not done, and nothing else is said by it; exit 25 says no more than that.
    let complaints = complaints.filter(|line| !line.starts_with(DELETE_LIMIT));
    let markers = stdout_lines(run).filter(|line| complaint::is_marker(line));
    let mut named_by_stderr = false;
    for (line, of_stderr) in complaints.map(|line| (line, true)).chain(markers.map(|line| (line, false))) {
        match complaint::read(line, names) {
            Line::Noise => {}
            Line::Unclear => return verdict(Applied::Unclear, Cause::PathsUnnamed, line),
            Line::Paths { paths, why, contents } => {
                named_by_stderr |= of_stderr;
                failed.extend(paths.into_iter().map(|path| Failed { path, why, contents, words: words(line) }));
            }
        }
    }
    if code != 0 && code != 25 && !named_by_stderr {
        return verdict(Applied::Unclear, Cause::PathsUnnamed, telling(run));
    }
    let failed = merged(failed);
    let Some(first) = failed.first() else {
        return match limited {
            None => verdict(Applied::All, Cause::Applied, b""),
            Some(_) => verdict(Applied::All, Cause::DeleteLimit, telling(run)),
        };
    };
    let cause = if failed.iter().any(|one| one.why == PathCause::NoSpace) {
        Cause::TargetFull
    } else if failed.iter().all(|one| one.why == PathCause::Vanished) {
        Cause::Vanished
    } else {
        Cause::PathsFailed
    };
    let words = first.words.clone();
    Verdict { applied: Applied::AllBut(failed), cause, remedy: cause.remedy(), words, limited: None, deleted: None }
}

/// Names that `--max-delete` kept from being deleted.
fn limited(code: i32, run: &Run<'_>) -> Option<u64> {
    let marker = lines(run).find_map(|line| line.strip_prefix(DELETE_LIMIT));
    match marker {
        Some(rest) => Some(number(rest).unwrap_or(1).max(1)),
        None => (code == 25).then_some(1),
    }
}

fn deleted(run: &Run<'_>) -> Option<u64> {
    stdout_lines(run).find_map(|line| line.strip_prefix(DELETED)).and_then(number)
}

/// The first number in a text, which may have commas.
fn number(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(u8::is_ascii_digit)?;
    let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b',');
    digits
        .filter(|byte| **byte != b',')
        .try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// The entries that an aborted run names. What it did not name may have failed all the same.
fn culprits(run: &Run<'_>, names: &Names<'_>) -> Vec<Failed> {
    let named = stderr_lines(run).filter_map(|line| match complaint::read(line, names) {
        Line::Paths { paths, why, contents: true } => Some((paths, why, line)),
        Line::Paths { .. } | Line::Noise | Line::Unclear => None,
    });
    let of_line = |(paths, why, line): (Vec<RelPath>, PathCause, &[u8])| {
        paths.into_iter().map(move |path| Failed { path, why, contents: true, words: words(line) }).collect::<Vec<_>>()
    };
    merged(named.flat_map(of_line).collect())
}

/// One entry per path, in the order of first mention, which is the one that tells most.
fn merged(mentions: Vec<Failed>) -> Vec<Failed> {
    let mut places = HashMap::new();
    let mut merged: Vec<Failed> = Vec::new();
    for mention in mentions {
        match places.entry(mention.path.clone()) {
            Entry::Occupied(place) => {
                let known: &mut Failed = &mut merged[*place.get()];
                known.contents |= mention.contents;
            }
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(mention);
            }
        }
    }
    merged
}

const DELETE_LIMIT: &[u8] = b"Deletions stopped due to --max-delete limit";
const DELETED: &[u8] = b"Number of deleted files: ";
const DELETES_SUPPRESSED: &[u8] = b"IO error encountered -- skipping file deletion";

/// What rsync ends with when ssh has failed: its own code, or that of ssh; which one is a matter of time.
const SSH: &[i32] = &[10, 12, 14, 255];

/// What rsync says, with which exit codes, and what it means. The first row that fits is taken.
#[rustfmt::skip]
const SAYINGS: &[(&[i32], &str, Cause)] = &[
    (&[2], "invalid file mode 00 for ", Cause::MissingArgsUnsupported),
    (&[1, 4, 10, 12], "--delete-missing-args: unknown option", Cause::MissingArgsUnsupported),
    (&[4, 10, 12], "on remote machine: ", Cause::OptionUnknown),
    (&[4, 10, 12], "The server is configured to refuse --delete-missing-args", Cause::MissingArgsUnsupported),
    (&[1, 4, 10, 12], "The server is configured to refuse ", Cause::OptionRefused),
    (&[4, 10, 12], "pre-xfer exec returned failure", Cause::HookFailed),
    (&[4, 5, 10, 12], "pre-xfer exec preparation failed", Cause::HookFailed),
    (&[1, 5, 10, 12], "module is read only", Cause::ReadOnly),
    (&[1, 10, 12], "The temp-dir does not exist: ", Cause::TempDirMissing),
    (&[1], "password file", Cause::PasswordFile),
    (&[1], "failed to read a password from ", Cause::PasswordFile),
    (&[5, 10, 12], "rather than greeting", Cause::NotRsync),
    (&[5, 10, 12], "@ERROR: Unknown module", Cause::UnknownModule),
    (&[5, 10, 12], "@ERROR: chroot failed", Cause::ModulePath),
    (&[5, 10, 12], "@ERROR: chdir failed", Cause::ModulePath),
    (&[5, 10, 12], "@ERROR: access denied to ", Cause::HostDenied),
    (&[5, 10, 12], "Password: @ERROR: auth failed", Cause::PasswordMissing),
    (&[5, 10, 12], "@ERROR: auth failed", Cause::AuthFailed),
    (&[5, 10, 12], "@ERROR: max connections", Cause::ConnectionLimit),
    (&[5, 10, 12], "didn't get server startup line", Cause::StartCut),
    (&[5, 10, 12], "did not see server greeting", Cause::StartCut),
    (&[10], "getaddrinfo: ", Cause::NameUnresolved),
    (&[10], "timeout waiting for daemon connection", Cause::ConnectTimeout),
    (&[10], "failed to connect to ", Cause::ConnectionRefused),
    (&[2, 12], "is your shell clean?", Cause::LoginNoise),
    (&[14], "Failed to exec ssh: ", Cause::SshNotFound),
    (SSH, "Bad configuration option: ", Cause::SshOptions),
    (SSH, "command-line line ", Cause::SshOptions),
    (SSH, "command-line: line ", Cause::SshOptions),
    (SSH, "Bad owner or permissions on ", Cause::SshOptions),
    (SSH, "ssh: Could not resolve hostname ", Cause::NameUnresolved),
    (SSH, "ssh: connect to host ", Cause::SshUnreachable),
    (SSH, "during banner exchange", Cause::SshUnreachable),
    (SSH, "kex_exchange_identification: ", Cause::SshUnreachable),
    (SSH, "has changed and you have requested strict checking.", Cause::HostKeyChanged),
    (SSH, "Host key verification failed.", Cause::HostKeyUnknown),
    (SSH, "Permission denied (publickey", Cause::SshDenied),
    (SSH, "Permission denied (password", Cause::SshDenied),
    (SSH, "Permission denied (keyboard-interactive", Cause::SshDenied),
    (SSH, "Permission denied (gssapi", Cause::SshDenied),
    (SSH, "Permission denied (hostbased", Cause::SshDenied),
    (SSH, "Too many authentication failures", Cause::SshDenied),
    // The connection that several runs share has ended.
    (SSH, "mux_client_", Cause::ConnectionLost),
    (&[3], "refusing to follow a symlink owned by an untrusted user", Cause::SymlinkUntrusted),
    (&[11], "No space left on device (28)", Cause::TargetFull),
    (&[11], "Disk quota exceeded (122)", Cause::TargetFull),
    (&[3], "cannot stat destination", Cause::DestinationUnusable),
];

/// Why a run that says nothing about paths ended, and the line that tells.
fn cause_of_abort<'a>(code: i32, run: &Run<'a>, names: &Names<'_>) -> (Cause, Option<&'a [u8]>) {
    for (codes, saying, cause) in SAYINGS {
        if codes.contains(&code)
            && let Some(line) = stderr_lines(run).find(|line| contains(line, saying.as_bytes()))
        {
            return (*cause, Some(line));
        }
    }
    match code {
        1 => (Cause::Usage, None),
        2 => (Cause::Protocol, None),
        3 => source_or_destination(run, names),
        4 => (Cause::OptionRefused, None),
        5 => (Cause::DaemonRefused, None),
        10 => (Cause::ConnectionLost, None),
        11 => {
            let mkdir = stderr_lines(run).find(|line| complaint::untagged(line).starts_with(b"mkdir \""));
            match mkdir {
                Some(line) if contains(line, b"No such file or directory (2)") => (Cause::DestinationMissing, mkdir),
                Some(_) => (Cause::DestinationUnusable, mkdir),
                None => (Cause::FileIo, None),
            }
        }
        12 => {
            let missing = stderr_lines(run).find(|line| {
                contains(line, b"rsync: not found")
                    || contains(line, b"rsync: command not found")
                    || contains(line, b"rsync: No such file or directory")
            });
            (if missing.is_some() { Cause::RemoteRsyncMissing } else { Cause::ConnectionLost }, missing)
        }
        13 | 14 | 21 | 22 => (Cause::LocalResources, None),
        19 | 20 => (Cause::Interrupted, None),
        30 => (Cause::IoTimeout, None),
        35 => (Cause::ConnectTimeout, None),
        124 | 125 | 255 => (Cause::ShellFailed, None),
        126 | 127 => (Cause::RemoteRsyncMissing, None),
        _ => (Cause::Unknown, None),
    }
}

/// Exit 3 is about one end of the transfer. Which one: the role tag, or in old versions the path. In doubt it is the
/// source, since sending nothing to a good target is the smaller harm.
fn source_or_destination<'a>(run: &Run<'a>, names: &Names<'_>) -> (Cause, Option<&'a [u8]>) {
    let Some(line) = stderr_lines(run).find(|line| !is_trailer(line)) else {
        return (Cause::SourceMissing, None);
    };
    let says = |text: &[u8]| contains(line, text);
    let of_receiver = says(b"[Receiver]") || says(b"[receiver]") || says(b"[generator]") || says(b"\" (in ");
    let of_destination = names.destination_prefix.is_some_and(|prefix| {
        let quoted = [b"\"", prefix.strip_suffix(b"/").unwrap_or(prefix)].concat();
        contains(line, &quoted)
    });
    let of_source = says(b"[sender]") || names.source_prefixes.iter().any(|prefix| contains(line, prefix));
    let destination = !of_source && (of_receiver || of_destination);
    (if destination { Cause::DestinationUnusable } else { Cause::SourceMissing }, Some(line))
}

fn verdict(applied: Applied, cause: Cause, line: &[u8]) -> Verdict {
    Verdict { applied, cause, remedy: cause.remedy(), words: words(line), limited: None, deleted: None }
}

/// The line of stderr that says most: the first that is not rsync's summary, else the summary, else a marker.
fn telling<'a>(run: &Run<'a>) -> &'a [u8] {
    let first = stderr_lines(run).find(|line| !is_trailer(line));
    first.or_else(|| stderr_lines(run).next()).or_else(|| stdout_lines(run).next()).unwrap_or_default()
}

fn is_trailer(line: &[u8]) -> bool {
    line.starts_with(b"rsync error: ") || line.starts_with(b"rsync warning: ")
}

fn words(line: &[u8]) -> String {
    // Escaping only makes it longer, so what is behind these bytes would be cut anyway.
    let mut words = escaped(&line[..line.len().min(WORDS_BYTES_MAX)]).to_string();
    words.truncate(words.floor_char_boundary(WORDS_BYTES_MAX));
    words
}

fn lines<'a>(run: &Run<'a>) -> impl Iterator<Item = &'a [u8]> {
    stderr_lines(run).chain(stdout_lines(run))
}

fn stderr_lines<'a>(run: &Run<'a>) -> impl Iterator<Item = &'a [u8]> {
    non_empty_lines(run.stderr)
}

fn stdout_lines<'a>(run: &Run<'a>) -> impl Iterator<Item = &'a [u8]> {
    non_empty_lines(run.stdout)
}

fn non_empty_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::cause::Pace;
    use crate::worker::complaint::standing_among;

    /// A batch of `d/f` and `g`, sent into `sub` of a module.
    fn judge_one(exit: Exit, stdout: &[u8], stderr: &[u8], output_cut: bool) -> Verdict {
        let entries = [RelPath::parse(b"d/f").unwrap(), RelPath::parse(b"g").unwrap()];
        let standing = |one: &RelPath| standing_among(&entries, one);
        let names = Names {
            source_prefixes: &[b"/proc/self/fd/9/"],
            module_sub: b"sub",
            destination_prefix: None,
            standing: &standing,
        };
        judge(&Run { exit, stdout, stderr, output_cut }, &names)
    }

    fn code(code: i32, stderr: &str) -> Verdict {
        judge_one(Exit::Code(code), b"", stderr.as_bytes(), false)
    }

    fn failed(verdict: &Verdict) -> Vec<(String, PathCause)> {
        match &verdict.applied {
            Applied::AllBut(failed) => failed.iter().map(|one| (one.path.to_string(), one.why)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_row_of_the_failure_table_has_its_cause() {
        let check = |exit: i32, stderr: &str, cause: Cause| {
            let trailer = format!("\nrsync error: whatever (code {exit}) at main.c(1) [sender=3.5.0]\n");
            let verdict = code(exit, &format!("{stderr}{trailer}"));
            assert_eq!(verdict.cause, cause, "{stderr}");
            assert_eq!(verdict.applied, Applied::Nothing, "{stderr}");
            assert_eq!(verdict.remedy, cause.remedy());
            if !stderr.is_empty() && !stderr.contains('\n') && !stderr.contains('\\') {
                assert_eq!(verdict.words, stderr);
            }
        };
        check(
            10,
            "rsync: [sender] failed to connect to h (127.0.0.1): Connection refused (111)",
            Cause::ConnectionRefused,
        );
        check(10, "rsync: getaddrinfo: h 873: Name or service not known", Cause::NameUnresolved);
        check(35, "rsync: [sender] timeout waiting for daemon connection", Cause::ConnectTimeout);
        check(30, "[sender] io timeout after 2 seconds -- exiting", Cause::IoTimeout);
        check(10, "rsync: [sender] write error: Broken pipe (32)", Cause::ConnectionLost);
        check(10, "rsync: [sender] read error: Connection reset by peer (104)", Cause::ConnectionLost);
        check(12, "rsync: connection unexpectedly closed (51 bytes received so far) [sender]", Cause::ConnectionLost);
        check(
            12,
            "rsync: [sender] safe_read failed to read 1 bytes: Connection reset by peer (104)",
            Cause::ConnectionLost,
        );
        check(5, "rsync: server sent \"SSH-2.0-OpenSSH_9.2p1\" rather than greeting", Cause::NotRsync);
        check(5, "@ERROR: Unknown module 'nope'", Cause::UnknownModule);
        check(5, "@ERROR: chroot failed", Cause::ModulePath);
        check(5, "@ERROR: chdir failed", Cause::ModulePath);
        check(5, "@ERROR: access denied to m from localhost (127.0.0.1)", Cause::HostDenied);
        check(5, "@ERROR: auth failed on module m", Cause::AuthFailed);
        check(5, "Password: @ERROR: auth failed on module m", Cause::PasswordMissing);
        check(5, "@ERROR: max connections (1) reached -- try again later", Cause::ConnectionLimit);
        check(5, "@ERROR: failed to open lock file", Cause::DaemonRefused);
        check(5, "rsync: didn't get server startup line", Cause::StartCut);
        check(5, "rsync: did not see server greeting", Cause::StartCut);
        check(1, "ERROR: password file must not be other-accessible", Cause::PasswordFile);
        check(1, "ERROR: password file must be owned by root when running as root", Cause::PasswordFile);
        check(1, "rsync: [sender] could not open password file /p: No such file or directory (2)", Cause::PasswordFile);
        check(1, "ERROR: failed to read a password from /p", Cause::PasswordFile);
        check(1, "The --password-file option may only be used when accessing an rsync daemon.", Cause::Usage);
        check(1, "The --contimeout option may only be used when connecting to an rsync daemon.", Cause::Usage);
        check(1, "rsync: --bogus: unknown option", Cause::Usage);
        check(1, "ERROR: module is read only", Cause::ReadOnly);
        check(1, "The temp-dir does not exist: /x", Cause::TempDirMissing);
        check(4, "rsync: The server is configured to refuse --force", Cause::OptionRefused);
        check(4, "rsync: The server is configured to refuse --delete", Cause::OptionRefused);
        check(4, "rsync: on remote machine: --bogus: unknown option", Cause::OptionUnknown);
        check(12, "rsync: on remote machine: --bogus: unknown option", Cause::OptionUnknown);
        check(10, "rsync: on remote machine: --delete-missing-args: unknown option", Cause::MissingArgsUnsupported);
        check(4, "pre-xfer exec returned failure (256)", Cause::HookFailed);
        check(
            11,
            "rsync: [Receiver] mkdir \"/s1/s2\" (in m) failed: No such file or directory (2)",
            Cause::DestinationMissing,
        );
        check(11, "rsync: [Receiver] mkdir \"/evil\" (in m) failed: File exists (17)", Cause::DestinationUnusable);
        check(11, "rsync: [receiver] write failed on \"/big\" (in m): No space left on device (28)", Cause::TargetFull);
        check(11, "rsync: [receiver] write failed on \"/big\" (in m): Input/output error (5)", Cause::FileIo);
        check(2, "invalid file mode 00 for d/000000 [Receiver]", Cause::MissingArgsUnsupported);
        check(2, "protocol version mismatch -- is your shell clean?", Cause::LoginNoise);
        check(14, "rsync: [sender] Failed to exec ssh: No such file or directory (2)", Cause::SshNotFound);
        // Both codes were seen for the same failure.
        for exit in [12, 255] {
            check(exit, "command-line: line 0: Bad configuration option: bogus", Cause::SshOptions);
            check(exit, "Bad owner or permissions on /root/.ssh/config", Cause::SshOptions);
            check(exit, "ssh: Could not resolve hostname h: Name or service not known", Cause::NameUnresolved);
            check(exit, "ssh: connect to host h port 22: Connection refused", Cause::SshUnreachable);
            check(exit, "ssh: connect to host h port 22: Connection timed out", Cause::SshUnreachable);
            check(exit, "Connection timed out during banner exchange", Cause::SshUnreachable);
            check(exit, "kex_exchange_identification: Connection closed by remote host", Cause::SshUnreachable);
            check(exit, "Host key verification failed.", Cause::HostKeyUnknown);
            check(
                exit,
                "Host key for [h]:22 has changed and you have requested strict checking.",
                Cause::HostKeyChanged,
            );
            check(exit, "root@h: Permission denied (publickey,password).", Cause::SshDenied);
            check(exit, "root@h: Permission denied (password).", Cause::SshDenied);
            check(exit, "mux_client_request_session: read from master failed: Broken pipe", Cause::ConnectionLost);
        }
        let warned = "@  WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!  @\nHost key for h has changed and you have requested strict checking.\nHost key verification failed.";
        check(255, warned, Cause::HostKeyChanged);
        check(2, "got a block match with no basis file", Cause::Protocol);
        check(
            3,
            "rsync: [sender] change_dir \"/nonexistent/xx/\" failed: No such file or directory (2)",
            Cause::SourceMissing,
        );
        check(3, "rsync: change_dir \"/proc/self/fd/9/\" failed: No such file or directory (2)", Cause::SourceMissing);
        check(
            3,
            "rsync: [Receiver] change_dir \"/sub\" (in m) failed: Permission denied (13)",
            Cause::DestinationUnusable,
        );
        check(
            3,
            "rsync: [Receiver] ERROR: cannot stat destination \"/a/\" (in m): Not a directory (20)",
            Cause::DestinationUnusable,
        );
        check(3, "rsync: refusing to follow a symlink owned by an untrusted user", Cause::SymlinkUntrusted);
        check(
            20,
            "rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20) at io.c(586) [receiver=3.5.0]",
            Cause::Interrupted,
        );
        check(255, "client_loop: send disconnect: Broken pipe", Cause::ShellFailed);
        check(12, "bash: line 1: rsync: command not found", Cause::RemoteRsyncMissing);
        check(22, "", Cause::LocalResources);
        check(77, "", Cause::Unknown);
    }

    #[test]
    fn a_path_that_ends_the_run_for_all_is_named() {
        let ended_by = |stderr: &str| {
            let verdict = code(11, stderr);
            match verdict.applied {
                Applied::EndedBy(failed) => {
                    (verdict.cause, failed.iter().map(|one| one.path.to_string()).collect::<Vec<_>>())
                }
                other => panic!("{other:?}"),
            }
        };
        let denied = "rsync: [receiver] mkstemp \"/sub/g/.x.AbC123\" (in m) failed: Permission denied (13)\n";
        let full = "rsync: [receiver] write failed on \"/sub/d/f\" (in m): No space left on device (28)\n";
        assert_eq!(ended_by(full), (Cause::TargetFull, vec!["d/f".to_owned()]));
        let both = format!("{denied}{full}");
        assert_eq!(ended_by(&both), (Cause::TargetFull, vec!["g/.x".into(), "g/x".into(), "d/f".into()]));
        let large = "rsync: [receiver] write failed on \"/sub/g\" (in m): File too large (27)\n";
        assert_eq!(ended_by(large), (Cause::FileIo, vec!["g".to_owned()]));
        let of_another = "rsync: [receiver] write failed on \"/sub/z\" (in m): No space left on device (28)\n";
        assert_eq!(code(11, of_another).applied, Applied::Nothing);
    }

    #[test]
    fn exit_0_applies_all_unless_a_marker_says_otherwise() {
        assert_eq!(code(0, "").applied, Applied::All);
        assert_eq!(code(0, "").remedy, Remedy::Nothing);
        assert_eq!(code(0, "--link-dest arg does not exist: /D1\n").cause, Cause::Applied);
        let marker = |stdout: &[u8]| judge_one(Exit::Code(0), stdout, b"", false);
        assert_eq!(marker(b"message of the day\n").applied, Applied::All);
        assert_eq!(failed(&marker(b"cannot delete non-empty directory: g\n")), [("g".into(), PathCause::NotDeleted)]);
        assert_eq!(failed(&marker(b"skipping non-regular file \"d/f\"\n")), [("d/f".into(), PathCause::Unsupported)]);
        let elsewhere = marker(b"cannot delete non-empty directory: zz\n");
        assert_eq!((elsewhere.applied, elsewhere.remedy), (Applied::Unclear, Remedy::Halve));
        let limit = code(0, "Deletions stopped due to --max-delete limit (3 skipped)\n");
        assert_eq!((limit.applied, limit.cause, limit.limited), (Applied::All, Cause::DeleteLimit, Some(3)));
    }

    #[test]
    fn exit_23_applies_all_but_what_is_named_when_every_line_is_understood() {
        let one = "rsync: [generator] delete_file: unlink(g) failed: Operation not permitted (1)\n";
        let verdict = code(23, one);
        assert_eq!(failed(&verdict), [("g".into(), PathCause::Denied)]);
        assert_eq!((verdict.cause, verdict.remedy), (Cause::PathsFailed, Remedy::RetryPaths));
        let unknown = code(23, &format!("{one}a line from the future\n"));
        assert_eq!((unknown.applied, unknown.cause), (Applied::Unclear, Cause::PathsUnnamed));
        assert_eq!(unknown.words, "a line from the future");
        assert_eq!(code(23, "").applied, Applied::Unclear);
        assert_eq!(code(24, "").applied, Applied::Unclear);
        let suppressed = judge_one(Exit::Code(23), DELETES_SUPPRESSED, one.as_bytes(), false);
        assert_eq!((suppressed.applied, suppressed.cause), (Applied::Unclear, Cause::DeletesSuppressed));
        // A marker alone does not explain the code.
        assert_eq!(
            judge_one(Exit::Code(23), b"skipping non-regular file \"g\"\n", b"", false).applied,
            Applied::Unclear
        );
    }

    #[test]
    fn what_the_limit_kept_from_being_deleted_is_a_number_beside_what_failed() {
        let marker = "Deletions stopped due to --max-delete limit (12 skipped)\n";
        let local = "rsync error: the --max-delete limit stopped deletions (code 25) at main.c(1394) [sender=3.5.0]\n";
        let verdict = code(25, &format!("{marker}{local}"));
        assert_eq!((&verdict.applied, verdict.limited), (&Applied::All, Some(12)));
        assert_eq!(verdict.remedy, Remedy::RetryPaths);
        assert_eq!(code(25, "").limited, Some(1), "by its code alone");
        let blocked = code(23, &format!("could not make way for new regular file: g\n{marker}"));
        assert_eq!((failed(&blocked), blocked.limited), (vec![("g".into(), PathCause::NotDeleted)], Some(12)));
        assert_eq!(code(0, "").limited, None);
        let told = |stdout: &[u8]| judge_one(Exit::Code(0), stdout, b"", false).deleted;
        assert_eq!(told(b"\nNumber of files: 1\nNumber of deleted files: 1,234 (reg: 1,200, dir: 34)\n"), Some(1_234));
        assert_eq!(told(b"Number of deleted files: 0\n"), Some(0));
        assert_eq!(told(b"Number of deleted files: 99999999999999999999\n"), None);
        assert_eq!(told(b"total size is 2  speedup is 0.01\n"), None);
    }

    #[test]
    fn a_path_named_twice_fails_once_with_the_first_reason() {
        let verdict = judge_one(
            Exit::Code(23),
            b"cannot delete non-empty directory: g\n",
            b"rsync: [generator] delete_file: unlink(g/x) failed: Operation not permitted (1)\ncould not make way for new regular file: g\n",
            false,
        );
        assert_eq!(failed(&verdict), [("g/x".into(), PathCause::Denied), ("g".into(), PathCause::NotDeleted)]);
    }

    #[test]
    fn only_vanished_paths_are_told_apart_and_no_space_pauses_the_target() {
        let gone = "file has vanished: \"/proc/self/fd/9/g\"\n";
        assert_eq!(code(24, gone).cause, Cause::Vanished);
        let full = "rsync: [receiver] mkstemp \"/sub/d/.f.AbC123\" (in m) failed: No space left on device (28)\n";
        let verdict = code(23, &format!("{gone}{full}"));
        assert_eq!(verdict.remedy, Remedy::PauseTarget { pace: Pace::Slow });
        assert_eq!(failed(&verdict).len(), 2);
    }

    #[test]
    fn output_that_was_cut_proves_nothing() {
        for exit in [0, 23, 24] {
            let verdict = judge_one(Exit::Code(exit), b"", b"file has vanished: \"/proc/self/fd/9/g\"\n", true);
            assert_eq!((verdict.applied, verdict.cause), (Applied::Unclear, Cause::OutputCut));
        }
    }

    #[test]
    fn a_run_that_was_ended_applied_nothing() {
        let killed = judge_one(Exit::Signal(9), b"", b"", false);
        assert_eq!((killed.cause, killed.words.as_str()), (Cause::Killed, "rsync was ended by signal 9"));
        let verdict =
            judge_one(Exit::Watchdog, b"", b"rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20)\n", false);
        assert_eq!((verdict.applied, verdict.cause), (Applied::Nothing, Cause::WatchdogStopped));
    }

    #[test]
    fn words_stay_short_and_on_one_line() {
        let line = [b"\xff\x1b\xc3".repeat(200), "\u{e9}".repeat(400).into_bytes()].concat();
        let verdict = judge_one(Exit::Code(99), b"", &line, false);
        assert!(verdict.words.len() <= WORDS_BYTES_MAX && verdict.words.len() > WORDS_BYTES_MAX - 4);
        assert!(!verdict.words.chars().any(char::is_control));
    }

    /// Random splices of real pieces reach further into the parser than random bytes.
    #[test]
    fn no_output_makes_it_panic() {
        const PIECES: &[&[u8]] = &[
            b"rsync: ",
            b"[sender] ",
            b"[receiver] ",
            b"mkstemp ",
            b"rename ",
            b"symlink ",
            b"\"",
            b"/sub/",
            b"d/f",
            b"g",
            b"/.",
            b"...AbC123",
            b".f.AbC123",
            b"..g.AbC123",
            b" (in m)",
            b" -> \"",
            b" => \"",
            b" failed: ",
            b": ",
            b"Permission denied (13)",
            b"(",
            b")",
            b"\n",
            b"\\#0",
            b"\\#377",
            b"delete_file: ",
            b"unlink(",
            b") failed: ",
            b"could not make way for new ",
            b"ERROR: ",
            b" failed verification -- update ",
            b"cannot delete non-empty directory: ",
            b"skipping non-regular file \"",
            b"file has vanished: ",
            b"/proc/self/fd/9/",
            b"\0",
            b"\xff",
            b"..",
            b"./",
            b"//",
            b"@ERROR: ",
            b"[",
            b"]",
            b"mkdir \"",
        ];
        let seed = 0x006f_7574_636f_6d65;
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..40_000 {
            let mut text = Vec::new();
            for _piece in 0..random.usize(0..24) {
                match random.u8(0..8) {
                    0 => text.push(random.u8(..)),
                    _ => text.extend_from_slice(PIECES[random.usize(0..PIECES.len())]),
                }
            }
            let exit = [0, 1, 2, 3, 5, 10, 11, 12, 23, 24, 25][random.usize(0..11)];
            let cut = random.usize(0..=text.len());
            let verdict = judge_one(Exit::Code(exit), &text[..cut], &text[cut..], false);
            assert!(verdict.words.len() <= WORDS_BYTES_MAX, "seed {seed:#x} round {round}");
            if let Applied::AllBut(failed) = verdict.applied {
                assert!(!failed.is_empty(), "seed {seed:#x} round {round}");
            }
        }
    }
}
