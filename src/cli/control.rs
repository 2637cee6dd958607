//! The commands that ask a running agent: `status`, `wait`, `pause`, `resume`, `rescan`, `retry`, `approve`, `explain`.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::find::{self, AgentArguments};
use super::report::Failure;
use super::status;
use crate::control::{Answer, Command, Explained, FailureKind, MarkInfo, Missing, Reply, Request, RootName, WirePath};
use crate::path::{RelPath, escaped, unescaped};
use crate::sys::socket;

/// How long an agent that is well may take for an answer. Beyond what a client of its socket is given.
const PATIENCE: Duration = Duration::from_secs(15);

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// Only this root
    #[arg(long, value_name = "NAME")]
    root: Option<String>,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub struct WaitArguments {
    #[command(flatten)]
    choice: TargetArguments,
    /// Give up after this long, such as 500ms, 30s, 10m or 1h (default: never)
    #[arg(long, value_name = "DURATION", value_parser = crate::config::duration_argument)]
    timeout: Option<Duration>,
}

/// Arguments of what is asked of targets.
#[derive(Debug, clap::Args)]
pub struct TargetArguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// Only this root
    #[arg(long, value_name = "NAME")]
    root: Option<String>,
    /// Only this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

/// Arguments of `rescan`.
#[derive(Debug, clap::Args)]
pub struct RescanArguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// The root
    #[arg(long, value_name = "NAME")]
    root: Option<String>,
    /// What to compare: relative to the root, or absolute inside it (default: everything)
    path: Option<OsString>,
}

/// Arguments of `retry`.
#[derive(Debug, clap::Args)]
pub struct RetryArguments {
    #[command(flatten)]
    choice: TargetArguments,
    /// Only at or beneath this path: relative to the root, or absolute inside it
    path: Option<OsString>,
}

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// The root
    #[arg(long, value_name = "NAME")]
    root: Option<String>,
    /// The path: relative to the root, or absolute inside it
    path: OsString,
}

/// `fansync status`: 0 when all is well, 3 when not.
pub fn status(arguments: &StatusArguments) -> Result<(), Failure> {
    let folder = find::folder(&arguments.agent)?;
    let (line, answer) = ask(&folder, Command::Status { root: arguments.root.clone() }, Some(PATIENCE))?;
    let Answer::Status(status) = answer else { return Err(unexpected()) };
    let mut stdout = io::stdout().lock();
    if arguments.json {
        // As the agent said it, with fields that this program may not know.
        let head = format!("{{\"protocol\":{},\"answer\":\"status\",", crate::control::PROTOCOL);
        match line.strip_prefix(head.as_bytes()) {
            Some(rest) => stdout.write_all(&[b"{", rest].concat())?,
            None => stdout.write_all(&line)?,
        }
    } else {
        stdout.write_all(status::text(&status).as_bytes())?;
    }
    stdout.flush()?;
    if status::is_well(&status) { Ok(()) } else { Err(Failure::Told(3)) }
}

/// `fansync wait`: 0 when everything that changed before is there, 4 when not in time.
pub fn wait(arguments: &WaitArguments) -> Result<(), Failure> {
    let folder = find::folder(&arguments.choice.agent)?;
    let timeout_ms = arguments.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    let (root, target) = (arguments.choice.root.clone(), arguments.choice.target.clone());
    let patience = arguments.timeout.map(|timeout| timeout.saturating_add(PATIENCE));
    match ask(&folder, Command::Wait { root, target, timeout_ms }, patience)?.1 {
        Answer::Reached => Ok(()),
        Answer::NotReached { missing } => {
            let mut stderr = io::stderr().lock();
            for missing in missing {
                let _nobody_reads = writeln!(stderr, "fansync: {}", missing_text(&missing));
            }
            Err(Failure::Told(4))
        }
        _ => Err(unexpected()),
    }
}

fn missing_text(missing: &Missing) -> String {
    let place = match &missing.target {
        Some(target) => format!("root {}, target {target}", missing.root),
        None => format!("root {}", missing.root),
    };
    let mut text = format!("not reached in time: {place}: {}", missing.words);
    if missing.marks > 0 {
        let first: Vec<String> = missing.first.iter().take(5).map(|path| path.0.to_string()).collect();
        let more = if missing.marks > first.len() { ", ..." } else { "" };
        text.push_str(&format!("; {} marks: {}{more}", missing.marks, first.join(", ")));
    }
    text
}

/// `fansync pause`
pub fn pause(arguments: &TargetArguments) -> Result<(), Failure> {
    let command = Command::Pause { root: arguments.root.clone(), target: arguments.target.clone() };
    let count = count(&arguments.agent, command)?;
    say(if count == 0 {
        "paused already".to_owned()
    } else {
        "paused: changes are kept until 'fansync resume'; what is under way goes on".to_owned()
    })
}

/// `fansync resume`
pub fn resume(arguments: &TargetArguments) -> Result<(), Failure> {
    let command = Command::Resume { root: arguments.root.clone(), target: arguments.target.clone() };
    let count = count(&arguments.agent, command)?;
    say(if count == 0 { "nothing was paused".to_owned() } else { "resumed".to_owned() })
}

/// `fansync rescan`
pub fn rescan(arguments: &RescanArguments) -> Result<(), Failure> {
    let folder = find::folder(&arguments.agent)?;
    let (root, path) = match &arguments.path {
        None => (arguments.root.clone(), None),
        Some(path) => {
            let placed = place(&folder, arguments.root.as_deref(), path)?;
            (Some(placed.root), Some(WirePath(placed.path)))
        }
    };
    match ask(&folder, Command::Rescan { root, path }, Some(PATIENCE))?.1 {
        Answer::Done { .. } => say("asked for: it is compared in the background".to_owned()),
        _ => Err(unexpected()),
    }
}

/// `fansync retry`
pub fn retry(arguments: &RetryArguments) -> Result<(), Failure> {
    let folder = find::folder(&arguments.choice.agent)?;
    let (root, path) = match &arguments.path {
        None => (arguments.choice.root.clone(), None),
        Some(path) => {
            let placed = place(&folder, arguments.choice.root.as_deref(), path)?;
            (Some(placed.root), Some(WirePath(placed.path)))
        }
    };
    let target = arguments.choice.target.clone();
    match ask(&folder, Command::Retry { root, target, path }, Some(PATIENCE))?.1 {
        Answer::Done { count: 0 } => say("nothing waits for a retry".to_owned()),
        Answer::Done { count } => say(format!("tried again now: {count}")),
        _ => Err(unexpected()),
    }
}

/// `fansync approve`
pub fn approve(arguments: &TargetArguments) -> Result<(), Failure> {
    let command = Command::Approve { root: arguments.root.clone(), target: arguments.target.clone() };
    let count = count(&arguments.agent, command)?;
    say(if count == 0 { "nothing is held".to_owned() } else { format!("approved: {count} held deletes go now") })
}

/// `fansync explain PATH`
pub fn explain(arguments: &ExplainArguments) -> Result<(), Failure> {
    let folder = find::folder(&arguments.agent)?;
    let placed = place(&folder, arguments.root.as_deref(), &arguments.path)?;
    let command =
        Command::Explain { root: Some(placed.root), path: WirePath(placed.path), directory: placed.directory };
    match ask(&folder, command, Some(PATIENCE))?.1 {
        Answer::Explained(explained) => say(explained_text(&explained, placed.exists)),
        _ => Err(unexpected()),
    }
}

fn explained_text(explained: &Explained, exists: bool) -> String {
    let mut lines = vec![format!(
        "{} in root {}{}",
        explained.path.0,
        explained.root,
        if exists { "" } else { ": not there in the source" }
    )];
    let filter = &explained.filter;
    let verdict = if filter.excluded { "excluded" } else { "included" };
    lines.push(match (&filter.rule, &filter.on) {
        (Some(rule), Some(on)) => format!("filter: {verdict}: {rule} matches {}", on.0),
        (..) => format!("filter: {verdict}: no rule matches"),
    });
    for on in &explained.targets {
        let cause = on.cause.as_ref().map_or_else(String::new, |cause| format!(" (takes nothing now: {cause})"));
        lines.push(format!("target {}{cause}:", on.target));
        let before = lines.len();
        lines.extend(on.in_flight.iter().map(|mark| format!("  under way: {}", mark_text(mark))));
        lines.extend(on.pending.iter().map(|mark| format!("  waiting: {}", mark_text(mark))));
        lines.extend(on.above.iter().map(|mark| format!("  above it, {}: {}", mark.path.0, mark_text(mark))));
        if on.pending_beneath + on.in_flight_beneath > 0 {
            lines.push(format!("  beneath: {} marks waiting, {} under way", on.pending_beneath, on.in_flight_beneath));
        }
        if on.dead_letter {
            lines.push("  a dead letter: retried every 10 minutes, or by 'fansync retry'".to_owned());
        }
        lines.extend(on.words.iter().map(|words| format!("  rsync said: {words}")));
        if lines.len() == before {
            lines.push("  no mark: the same as the source, as far as is known".to_owned());
        }
    }
    lines.join("\n")
}

fn mark_text(mark: &MarkInfo) -> String {
    let mut text = format!("{} ({}, {})", mark.kind, mark.content, mark.priority);
    if mark.attempts > 0 {
        text.push_str(&format!(", failed {} times", mark.attempts));
    }
    text.push_str(&format!(", first event {} ago", status::span(mark.age_seconds)));
    match mark.due_in_seconds {
        Some(due) if due > 0.0 => text.push_str(&format!(", due in {}", status::span(due))),
        Some(_) => text.push_str(", due"),
        None => {}
    }
    if mark.derived {
        text.push_str(", from another name of its inode");
    }
    if mark.large {
        text.push_str(", a large file");
    }
    text
}

fn say(text: String) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(())
}

fn count(agent: &AgentArguments, command: Command) -> Result<usize, Failure> {
    match ask(&find::folder(agent)?, command, Some(PATIENCE))?.1 {
        Answer::Done { count } => Ok(count),
        _ => Err(unexpected()),
    }
}

fn unexpected() -> Failure {
    Failure::Failed(anyhow::anyhow!("the agent gave another answer than was asked for"))
}

/// Asks the agent whose state folder this is; gives the line too.
pub fn ask(folder: &Path, command: Command, patience: Option<Duration>) -> Result<(Vec<u8>, Answer), Failure> {
    let lost = |error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "it ended before it answered".to_owned(),
            _ => error.to_string(),
        };
        Failure::Failed(anyhow::anyhow!("the agent with the state folder {}: {reason}", folder.display()))
    };
    let mut stream = socket::connect(folder, crate::control::SOCKET).map_err(|error| not_running(folder, &error))?;
    stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(lost)?;
    stream.write_all(&Request::new(command).line()).map_err(lost)?;
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line).map_err(lost)?;
    if line.last() != Some(&b'\n') {
        return Err(lost(io::Error::other("it ended before it answered")));
    }
    match serde_json::from_slice::<Reply>(&line) {
        Ok(Reply { answer: Answer::Failed { kind, words }, .. }) => Err(match kind {
            FailureKind::Request => Failure::wrong(words),
            FailureKind::Agent => Failure::Failed(anyhow::anyhow!("the agent: {words}")),
        }),
        Ok(Reply { answer, .. }) => Ok((line, answer)),
        Err(error) => Err(lost(io::Error::other(format!("an answer that cannot be read: {error}")))),
    }
}

fn not_running(folder: &Path, error: &io::Error) -> Failure {
    let folder = folder.display();
    Failure::Failed(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            anyhow::anyhow!("no agent runs with the state folder {folder}; start it, or name another one by --state")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!(
                "the agent of the state folder {folder} belongs to another user; run this as that user or as root"
            )
        }
        _ => anyhow::anyhow!("cannot reach the agent of the state folder {folder}: {error}"),
    })
}

/// A path of the command line, found in a root.
struct Placed {
    root: String,
    path: RelPath,
    directory: bool,
    exists: bool,
}

fn place(folder: &Path, root: Option<&str>, argument: &OsStr) -> Result<Placed, Failure> {
    let Answer::Roots { roots } = ask(folder, Command::Roots, Some(PATIENCE))?.1 else { return Err(unexpected()) };
    let chosen: Vec<(RootName, PathBuf)> = roots
        .iter()
        .filter(|known| root.is_none_or(|name| known.name == name))
        .filter_map(|known| Some((known.clone(), PathBuf::from(OsString::from_vec(unescaped(&known.path)?)))))
        .collect();
    let names = || roots.iter().map(|root| format!("{} ({})", root.name, root.path)).collect::<Vec<_>>().join(", ");
    if chosen.is_empty() {
        return Err(Failure::wrong(format!("there is no root '{}'; roots: {}", root.unwrap_or_default(), names())));
    }
    let shown = escaped(argument.as_bytes()).to_string();
    let path = Path::new(argument);
    let found = if path.is_absolute() {
        let found = chosen.iter().find_map(|(known, top)| Some((known, top, inside(top, path)?)));
        found.ok_or_else(|| Failure::wrong(format!("{shown} lies in none of the roots: {}", names())))?
    } else {
        let [(known, top)] = chosen.as_slice() else {
            return Err(Failure::wrong(format!("name the root of {shown} by --root; roots: {}", names())));
        };
        let relative = relative(path)
            .ok_or_else(|| Failure::wrong(format!("{shown} is not a path inside a root: write it without '..'")))?;
        (known, top, relative)
    };
    let (known, top, path) = found;
    let metadata = std::fs::symlink_metadata(path.below(top));
    let slash = argument.as_bytes().ends_with(b"/");
    Ok(Placed {
        root: known.name.clone(),
        directory: metadata.as_ref().map_or(slash, std::fs::Metadata::is_dir),
        exists: metadata.is_ok(),
        path,
    })
}

/// The path relative to `top`, if it lies inside: by its parent's real path, or as it is written when there is no such
/// parent. Its own name is not followed, since a symlink is a path of its own.
fn inside(top: &Path, path: &Path) -> Option<RelPath> {
    let by_parent = || {
        let real = path.parent()?.canonicalize().ok()?.join(path.file_name()?);
        real.strip_prefix(top.canonicalize().ok()?).ok().and_then(relative)
    };
    let as_written = || path.strip_prefix(top).ok().and_then(relative);
    // Another name of the root itself.
    let root = || (path.canonicalize().ok()? == top.canonicalize().ok()?).then(RelPath::root);
    by_parent().or_else(as_written).or_else(root)
}

fn relative(path: &Path) -> Option<RelPath> {
    let names = path.components().filter(|component| !matches!(component, Component::CurDir));
    let names: Option<Vec<&[u8]>> = names
        .map(|component| match component {
            Component::Normal(name) => Some(name.as_bytes()),
            Component::CurDir | Component::ParentDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect();
    RelPath::parse(&names?.join(&b'/')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_its_root_however_it_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        std::fs::create_dir_all(top.join("d")).unwrap();
        std::os::unix::fs::symlink(&top, scratch.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", top.join("out")).unwrap();
        std::os::unix::fs::symlink(&top, top.join("back")).unwrap();
        let check = |path: &str, expected: Option<&str>| {
            let found = inside(&top, &scratch.path().join(path));
            assert_eq!(found, expected.map(|text| RelPath::parse(text.as_bytes()).unwrap()), "{path}");
        };
        check("top", Some(""));
        check("top/", Some(""));
        check("top/d/gone", Some("d/gone"));
        check("top/./d/", Some("d"));
        check("top/d/../d/x", Some("d/x"));
        check("top/out", Some("out"));
        check("top/gone/x", Some("gone/x"));
        check("top/back/d/x", Some("d/x"));
        check("link", Some(""));
        check("link/d/x", Some("d/x"));
        check("elsewhere", None);
        check("top2", None);
        check("top/../x", None);
        assert_eq!(relative(Path::new("./a//b/")), Some(RelPath::parse(b"a/b").unwrap()));
        assert_eq!(relative(Path::new(".")), Some(RelPath::root()));
        assert_eq!(relative(Path::new("a/../b")), None);
    }
}
