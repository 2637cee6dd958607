//! What one rsync of everything would do, without doing it (`-n`): the same filters, the same transport, the same rules for
//! deletes.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};
use std::process::{Command, Stdio};

use super::command::{self, Fence, Transport};
use super::complaint::unescape;
use crate::filter::Filter;
use crate::path::{RelPath, escaped};
use crate::plan::{EntryKind, Risk, Run, RunKind};
use crate::sys::child::{self, Inherited};

/// What would be done to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// Its content would be sent.
    Send,
    /// A directory, a symlink or the like would be made.
    Create,
    /// Only its times, mode or owner would change.
    Attributes,
    /// It would be deleted.
    Delete,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// rsync could not be run.
    #[error("cannot run rsync")]
    Run(#[from] io::Error),
    /// It failed.
    #[error("rsync ended with {ended}: {words}")]
    Failed {
        /// Its exit code, or the signal.
        ended: String,
        /// Its words, escaped.
        words: String,
    },
}

/// Compares everything; `each` is told what would be done to which path, in rsync's order.
///
/// # Errors
/// [`PreviewError`]; what was told so far is true, but not all.
pub fn preview(
    transport: &Transport,
    filter: &Filter,
    keep: bool,
    root: &Inherited,
    mut each: impl FnMut(Deed, &[u8]),
) -> Result<(), PreviewError> {
    let entries = vec![(RelPath::root(), EntryKind::Plain)];
    let kind = RunKind::Subtree;
    let run =
        Run { kind, resend: false, whole: false, size_max: None, entries, risk: Risk::Unknown, bytes: 0, basis: None };
    let fence = if keep { Fence::Keep } else { Fence::Open };
    let mut arguments = vec![OsString::from("-n"), OsString::from("--out-format=%i %n")];
    arguments.extend(command::arguments(transport, filter, &run, fence, true, root.number()));
    let mut words = std::fs::File::from(child::memory_file(b"")?);
    #[expect(clippy::disallowed_methods, reason = "changes nothing, is asked once and ends by itself")]
    let mut child = Command::new(&transport.program)
        .args(&arguments)
        .env_clear()
        .envs(command::environment(transport, |name| std::env::var_os(name)))
        .stdin(Stdio::from(child::memory_file(&command::list(&run))?))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(words.try_clone()?))
        .spawn()?;
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line)? > 0 {
            if let Some((deed, name)) = read(line.trim_ascii_end()) {
                each(deed, &unescape(name));
            }
            line.clear();
        }
    }
    #[expect(clippy::disallowed_methods, reason = "it closed its output, so it is about to end")]
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    words.rewind()?;
    let mut said = Vec::new();
    words.take(64 * 1024).read_to_end(&mut said)?;
    let lines = said.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let said: Vec<String> = lines.take(5).map(|line| escaped(line).to_string()).collect();
    Err(PreviewError::Failed { ended: status.to_string(), words: said.join("; ") })
}

/// One line of `--out-format=%i %n` (rsync(1), `--itemize-changes`).
fn read(line: &[u8]) -> Option<(Deed, &[u8])> {
    if let Some(name) = line.strip_prefix(b"*deleting ") {
        return Some((Deed::Delete, name.trim_ascii_start()));
    }
    let space = line.iter().position(|byte| *byte == b' ')?;
    let (item, name) = (&line[..space], &line[space + 1..]);
    if item.len() < 9 || name.is_empty() {
        return None;
    }
    let deed = match item[0] {
        b'<' | b'>' => Deed::Send,
        b'c' | b'h' => Deed::Create,
        b'.' => Deed::Attributes,
        _ => return None,
    };
    Some((deed, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn itemized_lines_are_read_and_everything_else_is_not() {
        let check = |line: &str, expected: Option<(Deed, &str)>| {
            let expected = expected.map(|(deed, name)| (deed, name.as_bytes()));
            assert_eq!(read(line.as_bytes()), expected, "{line}");
        };
        check("<f+++++++++ a b", Some((Deed::Send, "a b")));
        check(">f.st...... a", Some((Deed::Send, "a")));
        check("cd+++++++++ d/", Some((Deed::Create, "d/")));
        check("cL+++++++++ l", Some((Deed::Create, "l")));
        check(".d..t...... ./", Some((Deed::Attributes, "./")));
        check("*deleting   d/x", Some((Deed::Delete, "d/x")));
        check("cannot delete non-empty directory: d", None);
        check("", None);
        check("<f+++++++++ ", None);
    }
}
