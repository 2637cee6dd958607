//! [`Config`] -> YAML with every default written out; what comes out is read back as an equal `Config`.
//!
//! A path that is not UTF-8 has no spelling in YAML. It cannot come from a file, only from a command line, and is
//! shown with replacement characters.

use super::amount::{clock_text, duration_text, rate_text, size_text};
use super::{Config, Delete as DeleteConfig, DeleteMode, RootConfig, TargetConfig, WatchBackend, When};
use crate::bandwidth::{Bandwidth, Days};
use crate::target::{Location, SshOptions};
use serde::Serialize;

#[derive(Serialize)]
struct Top {
    state_dir: String,
    tunables: Tunables,
    rsync: String,
    processes: u16,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    noisy: Vec<String>,
    one_file_system: bool,
    delete: Delete,
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<u16>,
    shard_depth: u16,
    settle: Settle,
    nfs_exported: bool,
    targets: Vec<Target>,
}

#[derive(Serialize)]
struct Delete {
    mode: &'static str,
    hold_over: HoldOver,
    #[serde(skip_serializing_if = "Option::is_none")]
    release_after: Option<String>,
}

#[derive(Serialize)]
struct HoldOver {
    paths: u32,
    percent: u32,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh: Option<Ssh>,
    lanes: u16,
    warm: u16,
    compress: &'static str,
    whole_file: &'static str,
    timeout: String,
    connect_timeout: String,
    large_file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<Limits>,
    backlog: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    direct: Option<bool>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Limits {
    Always(String),
    Windows(Vec<Limit>),
}

#[derive(Serialize)]
struct Limit {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    days: Option<Vec<&'static str>>,
    limit: String,
}

#[derive(Serialize)]
struct Ssh {
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    known_hosts: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
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
            processes: self.processes,
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
            WatchBackend::Fanotify => "fanotify",
        },
        filters: root.filters.iter().map(|rule| String::from_utf8_lossy(rule).into_owned()).collect(),
        default_filters: root.default_filters,
        noisy: root.noisy.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        one_file_system: root.one_file_system,
        delete: delete(&root.delete),
        shards: root.shards,
        shard_depth: root.shard_depth,
        settle: Settle {
            quiet: duration_text(root.settle.quiet),
            quiet_open: duration_text(root.settle.quiet_open),
            max: duration_text(root.settle.max),
        },
        nfs_exported: root.nfs_exported,
        targets: root.targets.iter().map(target).collect(),
    }
}

fn delete(delete: &DeleteConfig) -> Delete {
    Delete {
        mode: match delete.mode {
            DeleteMode::Mirror => "mirror",
            DeleteMode::Keep => "keep",
        },
        hold_over: HoldOver { paths: delete.hold_over.paths, percent: delete.hold_over.percent },
        release_after: delete.release_after.map(duration_text),
    }
}

fn when(when: When) -> &'static str {
    match when {
        When::Auto => "auto",
        When::Always => "always",
        When::Never => "never",
    }
}

fn target(target: &TargetConfig) -> Target {
    let url = match &target.location {
        Location::Local(path) => path.to_string_lossy().into_owned(),
        location @ (Location::Daemon(_) | Location::Ssh(_)) => {
            location.argument().to_string_lossy().trim_end_matches('/').to_owned()
        }
    };
    let text = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    let port = match &target.location {
        Location::Ssh(address) => address.port,
        Location::Local(_) | Location::Daemon(_) => None,
    };
    let SshOptions { identity_file, known_hosts, options } = &target.ssh;
    let ssh = Ssh {
        port,
        identity_file: identity_file.as_ref().map(text),
        known_hosts: known_hosts.as_ref().map(text),
        options: options.clone(),
    };
    Target {
        name: target.name.clone(),
        url,
        password_file: target.password_file.as_ref().map(text),
        ssh: (port.is_some() || target.ssh != SshOptions::default()).then_some(ssh),
        lanes: target.lanes,
        warm: target.warm,
        compress: when(target.compress),
        whole_file: when(target.whole_file),
        timeout: duration_text(target.timeout),
        connect_timeout: duration_text(target.connect_timeout),
        large_file: size_text(target.large_file),
        bandwidth: target.bandwidth.as_ref().map(limits),
        backlog: target.backlog,
        direct: target.direct,
    }
}

fn limits(bandwidth: &Bandwidth) -> Limits {
    let text = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), rate_text);
    match &bandwidth.windows[..] {
        [window] if window.is_always() => Limits::Always(text(window.limit)),
        windows => Limits::Windows(
            windows
                .iter()
                .map(|window| {
                    let timed = !window.is_always();
                    let names = Days::NAMES.iter().zip(0..).filter(|(_, day)| window.days.contains(*day));
                    Limit {
                        from: timed.then(|| clock_text(window.from)),
                        to: timed.then(|| clock_text(window.to)),
                        days: (window.days != Days::ALL).then(|| names.map(|(name, _)| *name).collect()),
                        limit: text(window.limit),
                    }
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandwidth::Window;
    use crate::config::{BACKLOG, LANES, LARGE_FILE, NAME_LENGTH_MAX, SHARDS};
    use proptest::prelude::*;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    /// Texts that YAML writers and readers like to disagree on, besides random ones.
    fn text() -> impl Strategy<Value = String> {
        let hard = [
            "yes",
            "no",
            "on",
            "~",
            "null",
            "Null",
            "true",
            "1",
            "0x1",
            "0o7",
            "1e3",
            ".inf",
            "- a",
            "+ b",
            "a: b",
            "a #b",
            "#",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "'",
            "\"",
            "%a",
            "@a",
            "`",
            "?",
            "? a",
            "-",
            "---",
            "...",
            "[a]",
            "{a}",
            " a",
            "a ",
            "\ta",
            "a\nb",
            "a\n",
            "\na",
            " a\n b\n\n",
            "\u{feff}",
            "\u{7f}",
            "\x1b",
            "\r",
            "a\r\nb",
            "<<",
            "=",
            "é",
            "\u{1f980}",
            "a,b",
            "12:30:45",
            "2024-01-01",
            "",
            "\\",
            "\\n",
            "-\t",
            "a:\tb",
            "\u{fffe}",
            "\u{9f}",
        ];
        prop_oneof![
            1 => proptest::sample::select(hard.to_vec()).prop_map(str::to_owned),
            1 => "[^\0\u{85}\u{2028}\u{2029}]{0,20}".prop_map(|text: String| text),
        ]
    }

    fn name() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_.-]{1,12}".prop_filter("dots", |name| !matches!(name.as_str(), "." | ".."))
    }

    /// An absolute path as `parse` leaves it, below `top` so that no two of different tops overlap.
    fn path(top: &'static str) -> impl Strategy<Value = PathBuf> {
        proptest::collection::vec(text(), 0..3).prop_map(move |parts| {
            let parts = parts.iter().flat_map(|part| part.split('/')).filter(|part| !matches!(*part, "" | "." | ".."));
            Path::new(top).join(parts.collect::<PathBuf>())
        })
    }

    fn target() -> impl Strategy<Value = TargetConfig> {
        let location = prop_oneof![
            path("/target").prop_map(Location::Local),
            (
                proptest::option::of("[a-z]{1,5}"),
                "[a-z0-9.]{1,9}|::1|fe80::2",
                1..=u16::MAX,
                "[^/\0\u{85}\u{2028}\u{2029}]{1,9}",
                path("/")
            )
                .prop_map(|(user, host, port, module, sub)| {
                    let sub = sub.to_str().unwrap().as_bytes()[1..].to_vec();
                    Location::Daemon(crate::target::DaemonAddress { user, host, port, module, sub })
                }),
            (
                proptest::option::of("[a-z]{1,5}"),
                "[a-z0-9.]{1,9}|::1|fe80::2",
                proptest::option::of(1..=u16::MAX),
                any::<bool>(),
                path("/"),
            )
                .prop_map(|(user, host, port, absolute, path)| {
                    // Neither the root nor the home directory.
                    let path = path.join("t");
                    let path = path.to_str().unwrap().as_bytes()[usize::from(!absolute)..].to_vec();
                    Location::Ssh(crate::target::SshAddress { user, host, port, path })
                }),
        ];
        let ssh = (
            proptest::option::of("/[a-z %~]{1,5}".prop_map(PathBuf::from)),
            proptest::option::of("/[a-z]{1,5}".prop_map(PathBuf::from)),
            proptest::collection::vec("[A-Za-z]{4,6}=[ -~]{0,9}", 0..3),
        )
            .prop_map(|(identity_file, known_hosts, options)| SshOptions {
                identity_file,
                known_hosts,
                options,
            });
        let numbers = (LANES, 1..=3_600u64, 1..=3_600u64, LARGE_FILE, BACKLOG);
        let limit = || proptest::option::of(crate::config::BANDWIDTH);
        let window =
            (any::<[bool; 7]>(), 0..24 * 60u16, 1..=24 * 60u16, limit()).prop_map(|(days, from, to, limit)| {
                let chosen = (0..7).filter(|day| days[usize::from(*day)]).fold(Days::NONE, Days::with);
                let to = if to == from { to + 1 } else { to };
                Window { days: if chosen == Days::NONE { Days::ALL } else { chosen }, from, to, limit }
            });
        let bandwidth = prop_oneof![
            3 => Just(None),
            1 => crate::config::BANDWIDTH.prop_map(|limit| Some(Bandwidth::always(limit))),
            1 => (proptest::collection::vec(window, 1..4), limit()).prop_map(|(mut windows, rest)| {
                windows.retain(|window| !window.is_always());
                windows.push(Window::always(rest));
                Some(Bandwidth { windows }).filter(|bandwidth| bandwidth.windows != [Window::always(None)])
            }),
        ];
        let direct = (proptest::option::of(any::<bool>()), bandwidth);
        (name(), location, proptest::option::of(path("/etc")), (ssh, direct), numbers).prop_map(
            |(
                name,
                location,
                password_file,
                (ssh, (direct, bandwidth)),
                (lanes, timeout, connect_timeout, large_file, backlog),
            )| {
                TargetConfig {
                    direct: direct
                        .filter(|direct| matches!(location, Location::Local(_)) && !(*direct && bandwidth.is_some())),
                    bandwidth,
                    ssh: if matches!(location, Location::Ssh(_)) { ssh } else { SshOptions::default() },
                    password_file: password_file.filter(|_| matches!(location, Location::Daemon(_))),
                    name,
                    warm: (lanes / 2) * crate::config::warm_default(&location),
                    location,
                    compress: if lanes % 2 == 0 { When::Auto } else { When::Never },
                    whole_file: if timeout % 2 == 0 { When::Always } else { When::Auto },
                    lanes,
                    timeout: Duration::from_secs(timeout),
                    connect_timeout: Duration::from_secs(connect_timeout),
                    large_file,
                    backlog,
                }
            },
        )
    }

    fn config() -> impl Strategy<Value = Config> {
        let bools = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        let settle = (1..=600_000u64, 0..=600_000u64, 0..=1_000_000u64);
        let rest = (proptest::collection::vec(text(), 0..5), proptest::option::of(SHARDS), settle);
        (path("/state"), name(), path("/root"), target(), bools, rest).prop_map(
            |(state_dir, name, path, target, bools, (filters, shards, (quiet, more, most)))| {
                let mut root = RootConfig::new(name.clone(), path, vec![target]);
                root.noisy = if bools.1 { vec!["/noisy".into()] } else { Vec::new() };
                root.watch = if bools.0 { WatchBackend::Auto } else { WatchBackend::Inotify };
                (root.default_filters, root.one_file_system, root.nfs_exported) = (bools.1, bools.2, bools.3);
                root.filters = filters.into_iter().map(String::into_bytes).collect();
                root.shards = shards;
                root.shard_depth = u16::try_from(more % 4 + 1).unwrap();
                root.delete.mode = if bools.3 { DeleteMode::Keep } else { DeleteMode::Mirror };
                root.delete.hold_over.paths = u32::try_from(more).unwrap();
                root.delete.hold_over.percent = u32::try_from(most % 101).unwrap();
                root.delete.release_after = bools.4.then(|| Duration::from_secs(quiet));
                root.settle.quiet = Duration::from_millis(quiet);
                root.settle.quiet_open = Duration::from_millis((quiet + more).min(600_000));
                root.settle.max = root.settle.quiet_open + Duration::from_millis(most);
                let tunables = crate::config::Tunables { raise: bools.4 };
                Config {
                    state_dir,
                    tunables,
                    rsync: PathBuf::from(name),
                    processes: u16::try_from(more % 4095 + 2).unwrap(),
                    roots: vec![root],
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_printed_is_read_back_as_the_same_configuration(config in config()) {
            let yaml = config.effective_yaml();
            // Any text stands for a rule here: whether it is one is the filter's own test.
            let again = crate::config::check::check(yaml.as_bytes(), Path::new("f"), &|_, _| Vec::new()).map(|(config, _)| config);
            prop_assert_eq!(again.as_ref().map_err(ToString::to_string), Ok(&config), "{}", yaml);
        }
    }

    #[test]
    fn every_default_is_written_out() {
        let target = TargetConfig::new("h", Location::parse(b"h::m", Path::new("/")).unwrap());
        let config = Config { roots: vec![RootConfig::new("data", "/data", vec![target])], ..Config::default() };
        let expected = "\
state_dir: /var/lib/fansync
tunables:
  raise: true
rsync: rsync
processes: 64
roots:
- name: data
  path: /data
  watch: auto
  filters: []
  default_filters: true
  one_file_system: true
  delete:
    mode: mirror
    hold_over:
      paths: 1000
      percent: 10
  shard_depth: 1
  settle:
    quiet: 200ms
    quiet_open: 2s
    max: 30s
  nfs_exported: false
  targets:
  - name: h
    url: rsync://h/m
    lanes: 3
    warm: 1
    compress: auto
    whole_file: auto
    timeout: 1m
    connect_timeout: 10s
    large_file: 8MiB
    backlog: 200000
";
        assert_eq!(config.effective_yaml(), expected);
        let name = "n".repeat(NAME_LENGTH_MAX);
        assert!(
            Config::parse(expected.replace("name: h", &format!("name: {name}")).as_bytes(), Path::new("f")).is_ok()
        );
    }
}
