//! [`Config`] -> YAML with every default written out; what comes out is read back as an equal `Config`.
//!
//! A path that is not UTF-8 has no spelling in YAML. It cannot come from a file, only from a command line, and is
//! shown with replacement characters.

use super::amount::{duration_text, size_text};
use super::{Config, DeleteMode, RootConfig, TargetConfig, WatchBackend};
use crate::target::Location;
use serde::Serialize;

#[derive(Serialize)]
struct Top {
    state_dir: String,
    tunables: Tunables,
    rsync: String,
    roots: Vec<Root>,
}

#[derive(Serialize)]
struct Tunables {
    raise: bool,
}

#[derive(Serialize)]
struct Root {
    name: String,
    path: String,
    watch: &'static str,
    filters: Vec<String>,
    default_filters: bool,
    one_file_system: bool,
    delete: Delete,
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<u16>,
    settle: Settle,
    nfs_exported: bool,
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Delete {
    mode: &'static str,
}

#[derive(Serialize)]
struct Settle {
    quiet: String,
    quiet_open: String,
    max: String,
}

#[derive(Serialize)]
struct Target {
    name: String,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<String>,
    lanes: u16,
    timeout: String,
    connect_timeout: String,
    large_file: String,
    backlog: u32,
}

impl Config {
    /// The configuration in force, with every default written out; [`Config::parse`] reads it as an equal `Config`.
    ///
    /// # Panics
    /// Never: text, numbers and booleans have a spelling in YAML.
    #[must_use]
    pub fn effective_yaml(&self) -> String {
        let top = Top {
            state_dir: self.state_dir.to_string_lossy().into_owned(),
            tunables: Tunables { raise: self.tunables.raise },
            rsync: self.rsync.to_string_lossy().into_owned(),
            roots: self.roots.iter().map(root).collect(),
        };
        serde_yaml::to_string(&top).expect("plain text, numbers and booleans are written to memory")
    }
}

fn root(root: &RootConfig) -> Root {
    Root {
        name: root.name.clone(),
        path: root.path.to_string_lossy().into_owned(),
        watch: match root.watch {
            WatchBackend::Auto => "auto",
            WatchBackend::Inotify => "inotify",
        },
        filters: root.filters.iter().map(|rule| String::from_utf8_lossy(rule).into_owned()).collect(),
        default_filters: root.default_filters,
        one_file_system: root.one_file_system,
        delete: Delete {
            mode: match root.delete {
                DeleteMode::Mirror => "mirror",
            },
        },
        shards: root.shards,
        settle: Settle {
            quiet: duration_text(root.settle.quiet),
            quiet_open: duration_text(root.settle.quiet_open),
            max: duration_text(root.settle.max),
        },
        nfs_exported: root.nfs_exported,
        targets: root.targets.iter().map(target).collect(),
    }
}

fn target(target: &TargetConfig) -> Target {
    let url = match &target.location {
        Location::Local(path) => path.to_string_lossy().into_owned(),
        location @ Location::Daemon(_) => location.argument().to_string_lossy().trim_end_matches('/').to_owned(),
    };
    Target {
        name: target.name.clone(),
        url,
        password_file: target.password_file.as_ref().map(|path| path.to_string_lossy().into_owned()),
        lanes: target.lanes,
        timeout: duration_text(target.timeout),
        connect_timeout: duration_text(target.connect_timeout),
        large_file: size_text(target.large_file),
        backlog: target.backlog,
    }
}
