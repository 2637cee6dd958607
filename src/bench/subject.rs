//! Who is measured: the agent or one of its peers, each set up the way its users set it up.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process;
use super::scenario::TargetKind;

/// What keeps the target the same in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// `fansync mirror`.
    Agent,
    /// lsyncd with a delay of 1 s, its least.
    Lsyncd,
    /// The usual shell loop: inotifywait, and one rsync per event.
    Script,
    /// sersync2 with ten threads, its default.
    Sersync,
}

/// Where a subject works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The tree that changes.
    pub(super) source: &'a Path,
    /// The target as rsync takes it: a daemon's module, or a directory.
    pub(super) address: &'a OsStr,
    /// Its port; of a daemon.
    pub(super) port: u16,
    /// For configuration, state and logs.
    pub(super) scratch: &'a Path,
}

/// The kernel settings that sersync2 overwrites when it starts.
const SERSYNC_SETS: [&str; 2] = ["/proc/sys/fs/inotify/max_user_watches", "/proc/sys/fs/inotify/max_queued_events"];

/// One rsync per event, the events one after the other. A name that is gone costs a pass over everything.
/// `$1` is the source, `$2` the target.
const SCRIPT: &str = r#"
cd "$1" || exit 1
inotifywait --monitor --recursive --quiet --format '%w%f' --event close_write,moved_to,delete,moved_from . |
while IFS= read -r changed; do
    if test -e "$changed"; then
        rsync --archive --compress --relative "$changed" "$2/"
    else
        rsync --archive --compress --delete ./ "$2/"
    fi
done
"#;

impl Subject {
    /// For people and for JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agent => "fansync",
            Self::Lsyncd => "lsyncd",
            Self::Script => "inotifywait",
            Self::Sersync => "sersync2",
        }
    }

    /// Whether it can be given such a target.
    pub(super) fn takes(self, kind: TargetKind) -> bool {
        self != Self::Sersync || kind != TargetKind::Local
    }

    /// Its program, when it is installed.
    pub(super) fn program(self) -> Option<PathBuf> {
        match self {
            Self::Agent => Some(agent_program()),
            Self::Lsyncd | Self::Script | Self::Sersync => process::find(self.name()),
        }
    }

    /// Its command; what it needs is written into the scratch directory.
    pub(super) fn command(self, program: &Path, place: Place<'_>) -> io::Result<Command> {
        let Place { source, address, port, scratch } = place;
        let mut command = process::command(program);
        match self {
            Self::Agent => {
                command.arg0("fansync").arg("mirror").arg(source).arg(address);
                // Clearing up after a run is no accident.
                command.args(["--hold-over", "1000000000"]).arg("--state").arg(scratch.join("state"));
                // Its log says when it is live, whatever level the user's shell asks for.
                command.env_remove("FANSYNC_LOG").env_remove("RUST_LOG");
            }
            Self::Lsyncd => {
                let configuration = scratch.join("lsyncd.lua");
                fs::write(&configuration, lsyncd_text(source, &address.to_string_lossy()))?;
                command.arg("-nodaemon").arg(configuration);
            }
            Self::Script => {
                command = process::command("bash");
                command.args(["-c", SCRIPT, "inotifywait-loop"]).arg(source).arg(address);
            }
            Self::Sersync => {
                let configuration = scratch.join("confxml.xml");
                fs::write(&configuration, sersync_text(source, port, scratch))?;
                command.current_dir(scratch).args(["-n", "10", "-o"]).arg(configuration);
            }
        }
        Ok(command)
    }
}

/// This binary, or the one that `FANSYNC_BENCH_AGENT` names.
fn agent_program() -> PathBuf {
    std::env::var_os("FANSYNC_BENCH_AGENT").map_or_else(|| PathBuf::from("/proc/self/exe"), PathBuf::from)
}

fn lsyncd_text(source: &Path, url: &str) -> String {
    // Long brackets: nothing in between is special to Lua.
    format!(
        "settings {{ nodaemon = true, insist = true }}\n\
         sync {{\n    default.rsync,\n    source = [==[{}]==],\n    target = [==[{url}/]==],\n    delay = 1,\n    \
         rsync = {{ archive = true }},\n}}\n",
        source.display()
    )
}

fn sersync_text(source: &Path, port: u16, scratch: &Path) -> String {
    let source = xml_attribute(&source.display().to_string());
    let failures = xml_attribute(&scratch.join("sersync-failed.sh").display().to_string());
    let events: String = [
        ("delete", true),
        ("createFolder", true),
        ("createFile", false),
        ("closeWrite", true),
        ("moveFrom", true),
        ("moveTo", true),
        ("attrib", false),
        ("modify", false),
    ]
    .map(|(event, start)| format!("<{event} start=\"{start}\"/>"))
    .concat();
    format!(
        "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>\n<head version=\"2.5\">\n\
         <host hostip=\"localhost\" port=\"8008\"></host>\n<debug start=\"false\"/>\n<fileSystem xfs=\"false\"/>\n\
         <filter start=\"false\"></filter>\n<inotify>{events}</inotify>\n<sersync>\n\
         <localpath watch=\"{source}\"><remote ip=\"127.0.0.1\" name=\"{module}\"/></localpath>\n\
         <rsync><commonParams params=\"-az\"/><auth start=\"false\" users=\"\" passwordfile=\"\"/>\
         <userDefinedPort start=\"true\" port=\"{port}\"/><timeout start=\"false\" time=\"100\"/>\
         <ssh start=\"false\"/></rsync>\n<failLog path=\"{failures}\" timeToExecute=\"60\"/>\n\
         <crontab start=\"false\" schedule=\"600\"><crontabfilter start=\"false\"></crontabfilter></crontab>\n\
         <plugin start=\"false\" name=\"command\"/>\n</sersync>\n</head>\n",
        module = crate::lab::MODULE,
    )
}

fn xml_attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// The kernel's settings as they were; put back when dropped.
#[derive(Debug)]
pub(super) struct KernelSettings(Vec<(&'static str, String)>);

impl KernelSettings {
    /// Remembers what `subject` is known to overwrite.
    pub(super) fn before(subject: Subject) -> Self {
        let sets: &[&str] = if subject == Subject::Sersync { &SERSYNC_SETS } else { &[] };
        Self(sets.iter().filter_map(|path| Some((*path, fs::read_to_string(path).ok()?))).collect())
    }
}

impl Drop for KernelSettings {
    fn drop(&mut self) {
        for (path, text) in &self.0 {
            if fs::read_to_string(path).is_ok_and(|now| now != *text)
                && let Err(error) = fs::write(path, text)
            {
                tracing::warn!(path, was = text.trim(), %error, "sersync2 changed a kernel setting and it cannot be put back");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_sersync_is_well_formed_and_names_the_port() {
        let text = sersync_text(Path::new("/a&b/\"s\""), 4711, Path::new("/tmp/x"));
        assert!(text.contains("watch=\"/a&amp;b/&quot;s&quot;\""), "{text}");
        assert!(text.contains("port=\"4711\""), "{text}");
        assert_eq!(text.matches("<localpath").count(), text.matches("</localpath>").count());
    }

    #[test]
    fn the_configuration_of_lsyncd_quotes_for_lua() {
        let text = lsyncd_text(Path::new("/it's \\here\""), "rsync://127.0.0.1:1/mirror");
        assert!(
            text.contains("[==[/it's \\here\"]==]") && text.contains("[==[rsync://127.0.0.1:1/mirror/]==]"),
            "{text}"
        );
    }
}
