//! Located YAML nodes -> [`Config`], with all complaints at once.
//!
//! Each reader takes a value, complains about what is wrong and then returns the default, so that the rest is still
//! checked; a `Config` leaves this file only when nobody complained. Scalars follow the core schema of YAML 1.2
//! (section 10.3.2): without quotes, `true` and `false` are booleans and `12`, `0o14` and `0xC` are numbers.

use super::amount::{self, AmountError};
use super::complaint::{COMPLAINTS_MAX, one_line, quoted};
use super::raw::{self, Kind, Node};
use super::{
    BACKLOG, BANDWIDTH, HOLD_OVER_PATHS, LANES, LARGE_FILE, NAME_LENGTH_MAX, PERCENT, PROCESSES, QUIET, QUIET_OPEN_NFS,
    RELEASE_AFTER, SETTLE_MAX, SHARD_DEPTH, SHARDS, SSH_PORT, TARGETS_MAX, TIMEOUT, WARM,
};
use super::{
    Complaint, Config, ConfigErrors, Delete, DeleteMode, Positions, RootConfig, Settle, TargetConfig, WatchBackend,
    When,
};
use crate::bandwidth::{Bandwidth, DAY, Days, Window};
use crate::config::warm_default;
use crate::target::{Location, SshOptions};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Checks the filter rules of one root (rules, whether the built-in ones follow): index of a bad rule, what is wrong.
pub(super) type RuleCheck<'a> = &'a dyn Fn(&[Vec<u8>], bool) -> Vec<(usize, String)>;

/// Asks the filter itself.
pub(super) fn filter_rule_complaints(rules: &[Vec<u8>], defaults: bool) -> Vec<(usize, String)> {
    match crate::filter::Filter::new(rules, defaults) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| (error.index, error.to_string())).collect(),
    }
}

/// Reads and checks `text`.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn check(text: &[u8], file: &Path, rules: RuleCheck<'_>) -> Result<(Config, Positions), ConfigErrors> {
    let node = raw::read(text).map_err(|complaint| ConfigErrors::new(file, vec![complaint], 0))?;
    let mut checker = Checker { complaints: Vec::new(), omitted: 0, positions: Positions::new(file), rules };
    let config = checker.config(&Value { key: String::new(), line: node.line, column: node.column, node: &node });
    if checker.complaints.is_empty() {
        Ok((config, checker.positions))
    } else {
        Err(ConfigErrors::new(file, checker.complaints, checker.omitted))
    }
}

/// A value and the key that leads to it.
struct Value<'n> {
    key: String,
    line: usize,
    column: usize,
    node: &'n Node,
}

/// A mapping whose keys are known and differ.
struct Section<'n> {
    key: String,
    line: usize,
    column: usize,
    fields: Vec<(&'n str, Value<'n>)>,
}

impl<'n> Section<'n> {
    fn get(&self, name: &str) -> Option<&Value<'n>> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

/// The keys of one mapping.
struct Keys {
    /// Those that exist.
    known: &'static [&'static str],
    /// Those that the design names and a later version will know.
    later: &'static [&'static str],
}

const TOP: Keys = Keys { known: &["state_dir", "tunables", "rsync", "processes", "roots"], later: &["metrics"] };
const TUNABLES: Keys = Keys { known: &["raise"], later: &[] };
const ROOT: Keys = Keys {
    known: &[
        "name",
        "path",
        "watch",
        "filters",
        "default_filters",
        "noisy",
        "one_file_system",
        "delete",
        "shards",
        "shard_depth",
        "settle",
        "nfs_exported",
        "targets",
    ],
    later: &["full_compare"],
};
const DELETE: Keys = Keys { known: &["mode", "hold_over", "release_after"], later: &[] };
const HOLD_OVER: Keys = Keys { known: &["paths", "percent"], later: &[] };
const SETTLE: Keys = Keys { known: &["quiet", "quiet_open", "max"], later: &[] };
const TARGET: Keys = Keys {
    known: &[
        "name",
        "url",
        "password_file",
        "ssh",
        "lanes",
        "warm",
        "compress",
        "whole_file",
        "timeout",
        "connect_timeout",
        "large_file",
        "bandwidth",
        "backlog",
        "direct",
    ],
    later: &[],
};

const WINDOW: Keys = Keys { known: &["from", "to", "days", "limit"], later: &[] };
const SSH: Keys = Keys { known: &["port", "identity_file", "known_hosts", "options"], later: &[] };

const NAME_HINT: &str = "a name is made of A-Z a-z 0-9 _ . -";

struct Checker<'a> {
    complaints: Vec<Complaint>,
    omitted: usize,
    positions: Positions,
    rules: RuleCheck<'a>,
}

/// The sections of the file.
impl Checker<'_> {
    fn config(&mut self, value: &Value<'_>) -> Config {
        let mut config = Config::default();
        let Some(section) = self.section(value, &TOP) else { return config };
        if let Some(path) = section.get("state_dir").and_then(|value| self.absolute_path(value)) {
            config.state_dir = path;
        }
        if let Some(path) = section.get("rsync").and_then(|value| self.program(value)) {
            config.rsync = path;
        }
        if let Some(processes) = section.get("processes").and_then(|value| self.number(value, PROCESSES)) {
            config.processes = processes;
        }
        if let Some(tunables) = section.get("tunables").and_then(|value| self.section(value, &TUNABLES)) {
            self.boolean(&tunables, "raise", &mut config.tunables.raise);
        }
        for item in self.required_items(&section, "roots", "list what to mirror") {
            config.roots.push(self.root(&item));
        }
        self.roots_against_each_other(&config.roots);
        self.locations_against_each_other(&config.roots);
        config
    }

    fn root(&mut self, value: &Value<'_>) -> RootConfig {
        let mut root = RootConfig::new("", "", Vec::new());
        let Some(section) = self.section(value, &ROOT) else { return root };
        match section.get("path") {
            Some(value) => root.path = self.absolute_path(value).unwrap_or_default(),
            None => self.complain_missing(&section, "path", "give the directory to watch"),
        }
        let from_path = root.path.file_name().map(|name| name.to_string_lossy().into_owned());
        root.name = self.name(&section, "path", root.path.as_os_str().is_empty(), from_path);
        if let Some(backend) = section.get("watch").and_then(|value| self.watch(value)) {
            root.watch = backend;
        }
        self.boolean(&section, "default_filters", &mut root.default_filters);
        self.boolean(&section, "one_file_system", &mut root.one_file_system);
        self.boolean(&section, "nfs_exported", &mut root.nfs_exported);
        if let Some(value) = section.get("filters") {
            root.filters = self.filters(value, root.default_filters);
        }
        if let Some(value) = section.get("noisy") {
            root.noisy = self.noisy(value, &root.path);
        }
        if let Some(value) = section.get("delete") {
            root.delete = self.delete(value);
        }
        root.shards = section.get("shards").and_then(|value| self.number(value, SHARDS));
        root.shard_depth =
            section.get("shard_depth").and_then(|value| self.number(value, SHARD_DEPTH)).unwrap_or(root.shard_depth);
        root.settle = self.settle(section.get("settle"), root.nfs_exported);
        let items = self.required_items(&section, "targets", "list where to send it");
        if items.len() > TARGETS_MAX {
            let what = format!("{} targets; {TARGETS_MAX} is the limit", items.len());
            self.complain_key(&format!("{}.targets", section.key), what, None);
        }
        for item in items {
            root.targets.push(self.target(&item, &root.path));
        }
        let names = root.targets.iter().map(|target| target.name.as_str());
        self.names_differ(names, &format!("{}.targets", section.key));
        root
    }

    fn target(&mut self, value: &Value<'_>, root: &Path) -> TargetConfig {
        // Stands for "unknown" until the configuration is refused.
        let mut target = TargetConfig::new("", Location::Local(PathBuf::new()));
        let Some(section) = self.section(value, &TARGET) else { return target };
        match section.get("url") {
            Some(value) => {
                if let Some(location) = self.location(value, root) {
                    target.location = location;
                }
            }
            None => {
                self.complain_missing(&section, "url", "give rsync://host/module, host:directory or a local directory")
            }
        }
        let (unknown, from_location) = match &target.location {
            Location::Local(path) => {
                (path.as_os_str().is_empty(), path.file_name().map(|name| name.to_string_lossy().into_owned()))
            }
            Location::Daemon(address) => (false, Some(address.host.clone())),
            Location::Ssh(address) => (false, Some(address.host.clone())),
        };
        target.name = self.name(&section, "url", unknown, from_location);
        if let Some(value) = section.get("password_file") {
            target.password_file = self.absolute_path(value);
            let other = match &target.location {
                Location::Local(_) => Some("this target is local"),
                Location::Ssh(_) => Some("this target is reached by ssh"),
                Location::Daemon(_) => None,
            };
            if let Some(other) = other.filter(|_| !unknown) {
                let what = format!("only rsync daemons ask for a password, and {other}");
                self.complain(value, what, Some("remove it"));
            }
        }
        if let Some(value) = section.get("ssh") {
            match &mut target.location {
                Location::Ssh(address) => {
                    let port;
                    (port, target.ssh) = self.ssh(value);
                    address.port = port;
                }
                _ if unknown => {}
                _ => self.complain(value, "is for targets like host:directory only", Some("remove it")),
            }
        }
        if let Some(lanes) = section.get("lanes").and_then(|value| self.number(value, LANES)) {
            target.lanes = lanes;
        }
        for (name, field) in [("compress", &mut target.compress), ("whole_file", &mut target.whole_file)] {
            if let Some(when) = section.get(name).and_then(|value| self.when(value)) {
                *field = when;
            }
        }
        target.warm = warm_default(&target.location);
        if let Some(value) = section.get("warm")
            && let Some(warm) = self.number(value, WARM)
        {
            target.warm = warm;
            if warm > target.lanes {
                let what = format!("{warm} of {} lanes cannot wait", target.lanes);
                self.complain(value, what, Some("write at most the number of lanes"));
            } else if warm > 0 && !matches!(target.location, Location::Daemon(_)) && !unknown {
                self.complain(value, "only connections to rsync daemons can wait", Some("remove it"));
            }
        }
        for (name, field) in [("timeout", &mut target.timeout), ("connect_timeout", &mut target.connect_timeout)] {
            let Some(value) = section.get(name) else { continue };
            match self.duration(value, &TIMEOUT) {
                Some(duration) if duration.subsec_nanos() != 0 => {
                    self.complain(value, "rsync takes whole seconds only", Some("write it like 60s"));
                }
                Some(duration) => *field = duration,
                None => {}
            }
        }
        if let Some(size) = section.get("large_file").and_then(|value| self.size(value, &LARGE_FILE)) {
            target.large_file = size;
        }
        if let Some(backlog) = section.get("backlog").and_then(|value| self.number(value, BACKLOG)) {
            target.backlog = backlog;
        }
        if let Some(value) = section.get("bandwidth") {
            target.bandwidth = self.bandwidth(value);
        }
        if let Some(value) = section.get("direct") {
            let mut direct = true;
            self.boolean(&section, "direct", &mut direct);
            target.direct = Some(direct);
            if direct && target.bandwidth.is_some() {
                let what = "what is sent without rsync has no limit, and this target has one by bandwidth";
                self.complain(value, what, Some("remove one of them"));
            }
            if !matches!(target.location, Location::Local(_)) {
                self.complain(value, "only a local directory gets files without rsync", Some("remove it"));
            }
        }
        target
    }

    fn bandwidth(&mut self, value: &Value<'_>) -> Option<Bandwidth> {
        if !matches!(value.node.kind, Kind::Sequence(_)) {
            return self.limit(value)?.map(Bandwidth::always);
        }
        let items = self.items(value)?;
        if items.is_empty() {
            self.complain(value, "the list is empty", Some("write 'none', a rate, or '- {from, to, limit}' lines"));
        }
        let mut windows: Vec<Window> = Vec::new();
        for item in &items {
            if windows.last().is_some_and(Window::is_always) {
                self.complain(item, "is never reached: the one before it holds always", Some("put that one last"));
            }
            windows.extend(self.window(item));
        }
        (windows != [Window::always(None)]).then_some(Bandwidth { windows })
    }

    fn window(&mut self, value: &Value<'_>) -> Option<Window> {
        let section = self.section(value, &WINDOW)?;
        let limit = match section.get("limit") {
            Some(value) => self.limit(value),
            None => {
                self.complain_missing(&section, "limit", "give a rate like 10MiB/s, or none");
                None
            }
        };
        let mut window = Window::always(limit.flatten());
        for (name, other, field) in [("from", "to", &mut window.from), ("to", "from", &mut window.to)] {
            match (section.get(name), section.get(other)) {
                (None, None) => {}
                (None, Some(_)) => {
                    self.complain_missing(
                        &section,
                        name,
                        &format!("give both times, or neither of '{name}' and '{other}'"),
                    );
                }
                (Some(value), _) => match self.text(value).map(|text| (amount::parse_clock(text), text)) {
                    Some((Some(minutes), _)) if name == "to" || minutes < DAY => *field = minutes,
                    Some((_, text)) => {
                        let what = format!("{} is not a time of day", quoted(text));
                        self.complain(value, what, Some("write it like 08:00 or 18:30; 24:00 is an end only"));
                    }
                    None => {}
                },
            }
        }
        if let (Some(value), true) = (section.get("to"), window.from == window.to) {
            self.complain(value, "is the time at which it begins", Some("leave both out for the whole day"));
        }
        if let Some(value) = section.get("days") {
            window.days = self.days(value);
        }
        Some(window)
    }

    fn days(&mut self, value: &Value<'_>) -> Days {
        let mut days = Days::NONE;
        let Some(items) = self.items(value) else { return Days::ALL };
        for item in &items {
            let Some(text) = self.text(item) else { continue };
            match Days::NAMES.iter().zip(0..).find(|(name, _)| **name == text) {
                Some((_, day)) => days = days.with(day),
                None => {
                    let hint = format!("the days are {}", Days::NAMES.join(", "));
                    self.complain(item, format!("{} is not a day", quoted(text)), Some(&hint));
                }
            }
        }
        if items.is_empty() {
            self.complain(value, "the list is empty", Some("leave it out for all days"));
        }
        if days == Days::NONE { Days::ALL } else { days }
    }

    /// A rate, or `none`.
    fn limit(&mut self, value: &Value<'_>) -> Option<Option<u64>> {
        if matches!(&value.node.kind, Kind::Scalar { text, .. } if text == "none") {
            return Some(None);
        }
        let forms = "like 512KiB/s or 50MiB/s";
        self.amount(value, &BANDWIDTH, ("rate", forms, "MiB/s"), amount::parse_rate, amount::rate_text).map(Some)
    }

    fn ssh(&mut self, value: &Value<'_>) -> (Option<u16>, SshOptions) {
        let mut ssh = SshOptions::default();
        let Some(section) = self.section(value, &SSH) else { return (None, ssh) };
        let port = section.get("port").and_then(|value| self.number(value, SSH_PORT));
        for (name, field) in [("identity_file", &mut ssh.identity_file), ("known_hosts", &mut ssh.known_hosts)] {
            let Some(value) = section.get(name) else { continue };
            *field = self.absolute_path(value);
            if let Some(Err(error)) = field.as_deref().map(SshOptions::check_path) {
                self.complain(value, error.to_string(), Some("give the file another name"));
            }
        }
        if let Some(value) = section.get("options") {
            for item in self.items(value).unwrap_or_default() {
                let Some(text) = self.text(&item) else { continue };
                match SshOptions::check_option(text) {
                    Ok(()) => ssh.options.push(text.to_owned()),
                    Err(error) => self.complain(&item, one_line(&error.to_string()), None),
                }
            }
        }
        (port, ssh)
    }

    fn noisy(&mut self, value: &Value<'_>, root: &Path) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for item in self.items(value).unwrap_or_default() {
            let Some(path) = self.absolute_path(&item) else { continue };
            if path.starts_with(root) {
                let hint = "only directories outside of it: exclude it by a filter instead";
                self.complain(&item, "lies in the root, whose changes must be reported", Some(hint));
            } else {
                paths.push(path);
            }
        }
        paths
    }

    fn when(&mut self, value: &Value<'_>) -> Option<When> {
        match self.text(value)? {
            "auto" => return Some(When::Auto),
            "always" => return Some(When::Always),
            "never" => return Some(When::Never),
            text => self.complain(value, format!("{} is no answer", quoted(text)), Some("write auto, always or never")),
        }
        None
    }

    fn watch(&mut self, value: &Value<'_>) -> Option<WatchBackend> {
        match self.text(value)? {
            "auto" => return Some(WatchBackend::Auto),
            "inotify" => return Some(WatchBackend::Inotify),
            "fanotify" => return Some(WatchBackend::Fanotify),
            text => {
                let what = if text == "poll" { "is not in this version" } else { "is not a way to watch" };
                self.complain(value, format!("{} {what}", quoted(text)), Some("write auto, inotify or fanotify"));
            }
        }
        None
    }

    fn delete(&mut self, value: &Value<'_>) -> Delete {
        let mut delete = Delete::default();
        if !matches!(value.node.kind, Kind::Mapping(_)) {
            delete.mode = self.delete_mode(value).unwrap_or_default();
            return delete;
        }
        let Some(section) = self.section(value, &DELETE) else { return delete };
        if let Some(mode) = section.get("mode").and_then(|value| self.delete_mode(value)) {
            delete.mode = mode;
        }
        if let Some(hold_over) = section.get("hold_over").and_then(|value| self.section(value, &HOLD_OVER)) {
            for (name, range, field) in [
                ("paths", HOLD_OVER_PATHS, &mut delete.hold_over.paths),
                ("percent", PERCENT, &mut delete.hold_over.percent),
            ] {
                if let Some(number) = hold_over.get(name).and_then(|value| self.number(value, range)) {
                    *field = number;
                }
            }
        }
        delete.release_after = section.get("release_after").and_then(|value| self.duration(value, &RELEASE_AFTER));
        delete
    }

    fn delete_mode(&mut self, value: &Value<'_>) -> Option<DeleteMode> {
        match self.text(value)? {
            "mirror" => return Some(DeleteMode::Mirror),
            "keep" => return Some(DeleteMode::Keep),
            text => {
                self.complain(value, format!("{} is not a delete mode", quoted(text)), Some("write mirror or keep"))
            }
        }
        None
    }

    fn filters(&mut self, value: &Value<'_>, defaults: bool) -> Vec<Vec<u8>> {
        let mut rules = Vec::new();
        let mut items = Vec::new();
        for item in self.items(value).unwrap_or_default() {
            if let Some(text) = self.text(&item) {
                rules.push(text.as_bytes().to_vec());
                items.push(item);
            }
        }
        for (index, what) in (self.rules)(&rules, defaults) {
            self.complain(items.get(index).unwrap_or(value), one_line(&what), None);
        }
        rules
    }

    fn settle(&mut self, value: Option<&Value<'_>>, nfs_exported: bool) -> Settle {
        let mut settle = Settle::default();
        if nfs_exported {
            settle.quiet_open = QUIET_OPEN_NFS;
        }
        let Some(section) = value.and_then(|value| self.section(value, &SETTLE)) else { return settle };
        let complaints = self.complaints.len() + self.omitted;
        for (name, range, field) in [
            ("quiet", &QUIET, &mut settle.quiet),
            ("quiet_open", &QUIET, &mut settle.quiet_open),
            ("max", &SETTLE_MAX, &mut settle.max),
        ] {
            if let Some(duration) = section.get(name).and_then(|value| self.duration(value, range)) {
                *field = duration;
            }
        }
        if complaints == self.complaints.len() + self.omitted {
            self.ordered(&section, ("quiet", settle.quiet), ("quiet_open", settle.quiet_open));
            self.ordered(&section, ("quiet_open", settle.quiet_open), ("max", settle.max));
        }
        settle
    }

    /// Complains at the one of the two that the file sets, the larger one first.
    fn ordered(&mut self, section: &Section<'_>, small: (&str, Duration), large: (&str, Duration)) {
        if small.1 <= large.1 {
            return;
        }
        let show = |(name, duration): (&str, Duration)| {
            let origin = if section.get(name).is_some() { "" } else { " (the default)" };
            format!("{name} {}{origin}", amount::duration_text(duration))
        };
        let what = format!("{} is less than {}", show(large), show(small));
        if let Some(value) = section.get(large.0).or_else(|| section.get(small.0)) {
            self.complain(value, what, Some("quiet, quiet_open and max must not decrease in this order"));
        }
    }

    fn location(&mut self, value: &Value<'_>, root: &Path) -> Option<Location> {
        let text = self.text(value)?;
        let path = match Location::parse(text.as_bytes(), Path::new("/")) {
            Ok(Location::Local(_)) => self.absolute_path(value)?,
            Ok(location) => {
                // Such as '[::1]::module', whose host would be '['.
                if Location::parse(location.argument().as_encoded_bytes(), Path::new("/")).as_ref() == Ok(&location) {
                    return Some(location);
                }
                self.complain(value, "has no spelling as an rsync URL", Some("write rsync://host/module"));
                return None;
            }
            Err(error) => {
                self.complain(value, one_line(&error.to_string()), None);
                return None;
            }
        };
        let root_known = !root.as_os_str().is_empty();
        if root_known && path.starts_with(root) {
            let what = if path == root { "is the root itself" } else { "lies inside its own root" };
            self.complain(value, what, Some("choose a directory outside of the root"));
        } else if root_known && root.starts_with(&path) {
            self.complain(value, "holds its own root, which mirroring would delete", Some("choose another directory"));
        }
        Some(Location::Local(path))
    }

    /// The key `name`, or what `source` gives for it. `unknown`: there was a complaint about the source already.
    fn name(&mut self, section: &Section<'_>, source: &str, unknown: bool, default: Option<String>) -> String {
        if let Some(value) = section.get("name") {
            let Some(text) = self.text(value) else { return String::new() };
            if !is_name(text) {
                self.complain(value, format!("{} is not a name", quoted(text)), Some(NAME_HINT));
                return String::new();
            }
            return text.to_owned();
        }
        match default {
            Some(name) if is_name(&name) => return name,
            Some(name) => {
                let what = format!("is missing, and {} from {source} is not a name", quoted(&name));
                self.complain_missing_as(section, "name", what, NAME_HINT);
            }
            None if !unknown => {
                self.complain_missing_as(section, "name", format!("is missing, and {source} gives none"), NAME_HINT);
            }
            None => {}
        }
        String::new()
    }
}

/// Rules between the parts. Empty names and paths had their complaint already.
impl Checker<'_> {
    fn names_differ<'n>(&mut self, names: impl Iterator<Item = &'n str>, list: &str) {
        let mut first_by_name = HashMap::new();
        for (index, name) in names.enumerate().filter(|(_, name)| !name.is_empty()) {
            match first_by_name.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(index);
                }
                Entry::Occupied(first) => {
                    let what = format!("{} is the name of {list}[{}] already", quoted(name), first.get());
                    self.complain_key(&format!("{list}[{index}].name"), what, Some("give each a name of its own"));
                }
            }
        }
    }

    fn roots_against_each_other(&mut self, roots: &[RootConfig]) {
        self.names_differ(roots.iter().map(|root| root.name.as_str()), "roots");
        let mut first_by_path: HashMap<&Path, usize> = HashMap::new();
        for (index, root) in roots.iter().enumerate().filter(|(_, root)| !root.path.as_os_str().is_empty()) {
            first_by_path.entry(&root.path).or_insert(index);
        }
        for (index, root) in roots.iter().enumerate() {
            for ancestor in root.path.ancestors() {
                let Some(&other) = first_by_path.get(ancestor).filter(|other| **other != index) else { continue };
                let (late, early) = (index.max(other), index.min(other));
                let (what, hint) = if ancestor == root.path {
                    (format!("is the path of roots[{early}] already"), "list all targets under one root")
                } else if late == index {
                    (format!("lies inside roots[{early}]"), "roots must not overlap")
                } else {
                    (format!("holds roots[{early}]"), "roots must not overlap")
                };
                self.complain_key(&format!("roots[{late}].path"), what, Some(hint));
            }
        }
    }

    /// Two mirrors into one place delete each other's files.
    fn locations_against_each_other(&mut self, roots: &[RootConfig]) {
        let mut first_by_place: HashMap<PathBuf, (usize, usize)> = HashMap::new();
        let all = || {
            roots.iter().enumerate().flat_map(|(root, config)| {
                let targets = config.targets.iter().enumerate();
                targets.filter_map(move |(target, config)| Some(((root, target), place(&config.location)?)))
            })
        };
        for (id, place) in all() {
            first_by_place.entry(place).or_insert(id);
        }
        for (id, place) in all() {
            for ancestor in place.ancestors() {
                let Some(&other) = first_by_place.get(ancestor).filter(|other| **other != id) else { continue };
                let same = ancestor == place;
                // Across roots a place inside another may be meant: a filter can protect it.
                if !same && other.0 != id.0 {
                    continue;
                }
                let (late, early) = (id.max(other), id.min(other));
                let what = match (same, late == id) {
                    (true, _) => format!("is the location of {} already", target_key(early)),
                    (false, true) => format!("lies inside the location of {}", target_key(early)),
                    (false, false) => format!("holds the location of {}", target_key(early)),
                };
                let hint = "two mirrors into one place delete each other's files";
                self.complain_key(&format!("{}.url", target_key(late)), what, Some(hint));
            }
        }
    }
}

/// Values of one kind.
impl Checker<'_> {
    fn section<'n>(&mut self, value: &Value<'n>, keys: &Keys) -> Option<Section<'n>> {
        self.positions.record(&value.key, value.line, value.column);
        let Kind::Mapping(entries) = &value.node.kind else {
            let hint = format!("write 'key: value' lines; the keys are {}", keys.known.join(", "));
            self.complain(value, format!("expected a mapping, found {}", describe(value.node)), Some(&hint));
            return None;
        };
        let mut fields: Vec<(&str, Value<'_>)> = Vec::new();
        for (key_node, node) in entries {
            let Kind::Scalar { text, .. } = &key_node.kind else {
                let what = format!("expected a key, found {}", describe(key_node));
                self.complain_at(key_node.line, key_node.column, value.key.clone(), what, None);
                continue;
            };
            let (line, column) = (key_node.line, key_node.column);
            let key = joined(&value.key, text);
            if !keys.known.contains(&text.as_str()) {
                let (what, hint) = unknown_key(text, keys);
                self.complain_at(line, column, key, what, hint);
            } else if let Some((_, first)) = fields.iter().find(|(name, _)| name == text) {
                let what = format!("this key was given already, with its value in line {}", first.line);
                self.complain_at(line, column, key, what, Some("keep one of them".to_owned()));
            } else {
                // Nothing has no place of its own: it is shown at its key.
                let at = if node.is_null() { key_node } else { node };
                self.positions.record(&key, at.line, at.column);
                fields.push((text, Value { key, line: at.line, column: at.column, node }));
            }
        }
        Some(Section { key: value.key.clone(), line: value.line, column: value.column, fields })
    }

    fn items<'n>(&mut self, value: &Value<'n>) -> Option<Vec<Value<'n>>> {
        let Kind::Sequence(nodes) = &value.node.kind else {
            let what = format!("expected a list, found {}", describe(value.node));
            self.complain(value, what, Some("write one '- ' line for each"));
            return None;
        };
        let mut items = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let key = format!("{}[{index}]", value.key);
            self.positions.record(&key, node.line, node.column);
            items.push(Value { key, line: node.line, column: node.column, node });
        }
        Some(items)
    }

    fn required_items<'n>(&mut self, section: &Section<'n>, name: &str, hint: &str) -> Vec<Value<'n>> {
        let Some(value) = section.get(name) else {
            self.complain_missing(section, name, hint);
            return Vec::new();
        };
        let items = self.items(value);
        if items.as_ref().is_some_and(Vec::is_empty) {
            self.complain(value, "the list is empty", Some(hint));
        }
        items.unwrap_or_default()
    }

    /// Any scalar but nothing: a name may look like a number.
    fn text<'n>(&mut self, value: &Value<'n>) -> Option<&'n str> {
        let what = match &value.node.kind {
            _ if value.node.is_null() => {
                self.complain(value, "has no value", Some("give one or remove the key"));
                return None;
            }
            Kind::Scalar { text, .. } if text.contains('\0') => "must not hold a NUL character".to_owned(),
            Kind::Scalar { text, .. } if text.contains(['\u{85}', '\u{2028}', '\u{2029}']) => {
                "must not hold U+0085, U+2028 or U+2029: a line break in YAML 1.1, a letter in YAML 1.2".to_owned()
            }
            Kind::Scalar { text, .. } => return Some(text),
            _ => {
                let what = format!("expected text, found {}", describe(value.node));
                self.complain(value, what, Some("text with a dash, colon or bracket goes in quotes"));
                return None;
            }
        };
        self.complain(value, what, None);
        None
    }

    fn boolean(&mut self, section: &Section<'_>, name: &str, field: &mut bool) {
        let Some(value) = section.get(name) else { return };
        match &value.node.kind {
            Kind::Scalar { text, plain: true } if matches!(text.as_str(), "true" | "True" | "TRUE") => *field = true,
            Kind::Scalar { text, plain: true } if matches!(text.as_str(), "false" | "False" | "FALSE") => {
                *field = false
            }
            Kind::Scalar { text, .. } => {
                let hint = match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" => "YAML 1.2 has no yes/no/on/off: write true",
                    "no" | "off" | "n" => "YAML 1.2 has no yes/no/on/off: write false",
                    "true" | "false" => "remove the quotes",
                    _ => "write true or false",
                };
                let what = format!("expected true or false, found {}", describe(value.node));
                self.complain(value, what, Some(hint));
            }
            _ => {
                let what = format!("expected true or false, found {}", describe(value.node));
                self.complain(value, what, Some("write true or false"));
            }
        }
    }

    fn number<N>(&mut self, value: &Value<'_>, range: RangeInclusive<N>) -> Option<N>
    where
        N: Copy + PartialOrd + TryFrom<u64> + std::fmt::Display,
    {
        let (start, end) = (*range.start(), *range.end());
        let hint = format!("write a whole number from {start} to {end}");
        let plain = match &value.node.kind {
            Kind::Scalar { text, plain: true } => integer(text),
            _ => None,
        };
        match plain {
            Some(number) => {
                let found = number.and_then(|number| N::try_from(number).ok()).filter(|number| range.contains(number));
                if found.is_none() {
                    self.complain(value, format!("{} is out of range", describe(value.node)), Some(&hint));
                }
                found
            }
            None => {
                let quotes = matches!(&value.node.kind, Kind::Scalar { text, plain: false } if integer(text).is_some());
                let hint = if quotes { "remove the quotes" } else { &hint };
                self.complain(value, format!("expected a number, found {}", describe(value.node)), Some(hint));
                None
            }
        }
    }

    fn duration(&mut self, value: &Value<'_>, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let forms = "like 200ms, 2s, 10m or 1h";
        self.amount(value, range, ("duration", forms, "s"), amount::parse_duration, amount::duration_text)
    }

    fn size(&mut self, value: &Value<'_>, range: &RangeInclusive<u64>) -> Option<u64> {
        let forms = "like 64KiB, 8MiB or 1GiB";
        self.amount(value, range, ("size", forms, "MiB"), amount::parse_size, amount::size_text)
    }

    /// `words`: the noun, how it is written, and the unit to suggest.
    fn amount<A: Copy + PartialOrd>(
        &mut self,
        value: &Value<'_>,
        range: &RangeInclusive<A>,
        (noun, forms, unit): (&str, &str, &str),
        parse: fn(&str) -> Result<A, AmountError>,
        show: fn(A) -> String,
    ) -> Option<A> {
        let text = self.text(value)?;
        let (what, hint) = match parse(text) {
            Ok(amount) if range.contains(&amount) => return Some(amount),
            Ok(_) | Err(AmountError::TooLarge) => (
                format!("{} is out of range", quoted(text)),
                format!("write {} to {}", show(*range.start()), show(*range.end())),
            ),
            Err(AmountError::NoUnit) => {
                (format!("{} has no unit", quoted(text)), format!("add one, {forms} (perhaps {}{unit})", text.trim()))
            }
            Err(AmountError::Malformed) => {
                (format!("{} is not a {noun}", quoted(text)), format!("write a whole number and a unit, {forms}"))
            }
        };
        self.complain(value, what, Some(&hint));
        None
    }

    /// Absolute, without `..`; `.`, doubled slashes and a slash at the end are dropped.
    fn absolute_path(&mut self, value: &Value<'_>) -> Option<PathBuf> {
        let text = self.text(value)?;
        let path = Path::new(text);
        let (what, hint) = if text.is_empty() {
            ("is empty".to_owned(), "give an absolute path")
        } else if !path.is_absolute() {
            (format!("{} is not an absolute path", quoted(text)), "begin it with a slash")
        } else if path.components().any(|component| component == Component::ParentDir) {
            (format!("{} holds '..'", quoted(text)), "write the path without it")
        } else {
            return Some(path.components().collect());
        };
        self.complain(value, what, Some(hint));
        None
    }

    /// An absolute path, or a name without slashes.
    fn program(&mut self, value: &Value<'_>) -> Option<PathBuf> {
        let text = self.text(value)?;
        if text.is_empty() || text.contains('/') {
            return self.absolute_path(value);
        }
        if matches!(text, "." | "..") {
            self.complain(
                value,
                format!("{} is not a program", quoted(text)),
                Some("write rsync, or its absolute path"),
            );
            return None;
        }
        Some(PathBuf::from(text))
    }
}

/// Complaining.
impl Checker<'_> {
    fn complain(&mut self, value: &Value<'_>, what: impl Into<String>, hint: Option<&str>) {
        self.complain_at(value.line, value.column, value.key.clone(), what, hint.map(str::to_owned));
    }

    /// At `key`, wherever that stands.
    fn complain_key(&mut self, key: &str, what: impl Into<String>, hint: Option<&str>) {
        let (line, column) = self.positions.find(key).unwrap_or((1, 1));
        self.complain_at(line, column, key.to_owned(), what, hint.map(str::to_owned));
    }

    fn complain_missing(&mut self, section: &Section<'_>, name: &str, hint: &str) {
        self.complain_missing_as(section, name, "is missing".to_owned(), hint);
    }

    fn complain_missing_as(&mut self, section: &Section<'_>, name: &str, what: String, hint: &str) {
        self.complain_at(section.line, section.column, joined(&section.key, name), what, Some(hint.to_owned()));
    }

    fn complain_at(&mut self, line: usize, column: usize, key: String, what: impl Into<String>, hint: Option<String>) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(Complaint { line, column, key, what: what.into(), hint });
        } else {
            self.omitted += 1;
        }
    }
}

fn joined(section: &str, name: &str) -> String {
    let shown = quoted(name);
    let shown = &shown[1..shown.len() - 1];
    if section.is_empty() { shown.to_owned() } else { format!("{section}.{shown}") }
}

fn target_key((root, target): (usize, usize)) -> String {
    format!("roots[{root}].targets[{target}]")
}

fn is_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() <= NAME_LENGTH_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// A location as a path in which one place has one spelling, and `None` for one that had its complaint. The user does
/// not matter, since the module is the same.
fn place(location: &Location) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    match location {
        Location::Local(path) => Some(path.clone()).filter(|path| !path.as_os_str().is_empty()),
        Location::Daemon(address) => {
            let host = format!("rsync {}:{}", address.host.to_ascii_lowercase(), address.port);
            let sub = std::ffi::OsStr::from_bytes(&address.sub);
            Some([host.as_ref(), address.module.as_ref(), sub].iter().filter(|part| !part.is_empty()).collect())
        }
        Location::Ssh(address) => {
            let port = address.port.map_or_else(String::new, |port| port.to_string());
            let host = format!("ssh {}:{port}", address.host.to_ascii_lowercase());
            let path = std::ffi::OsStr::from_bytes(&address.path);
            // Whose home directory it is matters only where the path begins there.
            let (home, path) = match address.path.strip_prefix(b"/") {
                Some(below) => ("/".to_owned(), std::ffi::OsStr::from_bytes(below)),
                None => (format!("~{}", address.user.as_deref().unwrap_or_default()), path),
            };
            let start = if home == "/" { "absolute".to_owned() } else { home };
            Some([host.as_ref(), start.as_ref(), path].iter().collect())
        }
    }
}

/// `None` when `text` is no integer of the core schema, `Some(None)` when it is one that no `u64` can hold.
fn integer(text: &str) -> Option<Option<u64>> {
    let (digits, radix, negative) = if let Some(digits) = text.strip_prefix("0o") {
        (digits, 8, false)
    } else if let Some(digits) = text.strip_prefix("0x") {
        (digits, 16, false)
    } else {
        (text.strip_prefix(['+', '-']).unwrap_or(text), 10, text.starts_with('-'))
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    Some(u64::from_str_radix(digits, radix).ok().filter(|number| !negative || *number == 0))
}

fn describe(node: &Node) -> String {
    match &node.kind {
        _ if node.is_null() => "nothing".to_owned(),
        Kind::Scalar { text, plain: true } => quoted(text),
        Kind::Scalar { text, plain: false } => format!("the text {}", quoted(text)),
        Kind::Sequence(_) => "a list".to_owned(),
        Kind::Mapping(_) => "a mapping".to_owned(),
    }
}

fn unknown_key(text: &str, keys: &Keys) -> (String, Option<String>) {
    if keys.later.contains(&text) {
        return ("is not in this version".to_owned(), Some("remove it".to_owned()));
    }
    let known = keys.known.join(", ");
    let nearest = keys.known.iter().map(|key| (edit_distance(text, key), key)).min();
    let hint = match nearest {
        Some((distance, key)) if distance <= (key.len() / 3).max(1) => {
            format!("did you mean '{key}'? The keys here are {known}")
        }
        _ => format!("the keys here are {known}"),
    };
    ("unknown key".to_owned(), Some(hint))
}

/// Insertions, deletions, replacements and swaps of neighbours that make `left` of `right` (optimal string alignment);
/// texts that are longer than any key are infinitely far.
fn edit_distance(left: &str, right: &str) -> usize {
    const LENGTH_MAX: usize = 40;
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().take(LENGTH_MAX + 1).collect(), right.chars().collect());
    if left.len() > LENGTH_MAX {
        return usize::MAX;
    }
    let mut before = vec![0; right.len() + 1];
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut current = vec![row; right.len() + 1];
        for column in 1..=right.len() {
            let replaced = above[column - 1] + usize::from(left[row - 1] != right[column - 1]);
            let mut best = replaced.min(above[column] + 1).min(current[column - 1] + 1);
            if row > 1 && column > 1 && left[row - 1] == right[column - 2] && left[row - 2] == right[column - 1] {
                best = best.min(before[column - 2] + 1);
            }
            current[column] = best;
        }
        before = std::mem::replace(&mut above, current);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of design.md section 9, with the keys that exist in this version.
    const EXAMPLE: &str = r#"state_dir: /var/lib/fansync
tunables: {raise: true}
roots:
  - name: data
    path: /data
    watch: auto                       # auto | inotify
    filters: ["- *.tmp", "- /cache/"] # rsync rules, first match wins
    delete: {mode: mirror, hold_over: {paths: 1000, percent: 10}}
    targets:
      - {name: backup, url: "rsync://rsync_backup@172.16.1.41/data", password_file: /etc/rsync.password, lanes: 4}
      - {name: web17, url: "rsync://172.16.1.17/www"}
"#;

    /// Every key once.
    const FULL: &str = r#"state_dir: /srv//state/
rsync: /usr/bin/rsync
tunables: {raise: false}
roots:
  - path: /data/www/
    watch: inotify
    filters: ["- *.tmp", '+ /keep/***']
    default_filters: false
    noisy: [/var/log/app]
    one_file_system: false
    delete: {mode: keep, hold_over: {paths: 50, percent: 0}, release_after: 1h}
    shards: 0x10
    shard_depth: 3
    nfs_exported: true
    settle: {quiet: 300ms, max: 1m}
    targets:
      - url: backup.example.org::www/sub
        password_file: /etc/rsync.password
        lanes: 16
        warm: 2
        compress: always
        whole_file: never
        timeout: 2m
        connect_timeout: 5s
        large_file: 64MiB
        bandwidth:
          - {from: "08:00", to: 18:30, days: [mon, fri], limit: 10MiB/s}
          - {from: "22:00", to: "06:00", limit: none}
          - {days: [sun], limit: 1GiB/s}
          - limit: 512KiB/s
        backlog: 1000
      - url: /mnt/copy
        direct: false
      - url: bob@web18:www
        ssh: {port: 2222, identity_file: /etc/fansync/id, known_hosts: /etc/fansync/hosts, options: [ProxyJump=gate]}
  - name: 2024
    path: /srv/x
    targets: [{name: null-island, url: "rsync://[::1]:8730/x"}]
"#;

    fn parse(text: &str) -> Result<Config, ConfigErrors> {
        Config::parse(text.as_bytes(), Path::new("f"))
    }

    /// All complaints on `text`, one per line, without the file's name.
    fn complaints(text: &str) -> Vec<String> {
        parse(text).unwrap_err().complaints.iter().map(ToString::to_string).collect()
    }

    /// A root with `root` among its keys and `target` among those of its only target.
    fn with(root: &str, target: &str) -> String {
        format!("roots:\n- path: /data\n  {root}\n  targets:\n  - url: rsync://h/m\n    {target}\n")
    }

    #[test]
    fn the_example_of_the_design_parses() {
        let config = parse(EXAMPLE).unwrap();
        let mut backup = TargetConfig::new(
            "backup",
            Location::parse(b"rsync://rsync_backup@172.16.1.41/data", Path::new("/")).unwrap(),
        );
        backup.password_file = Some("/etc/rsync.password".into());
        backup.lanes = 4;
        let web17 = TargetConfig::new("web17", Location::parse(b"172.16.1.17::www", Path::new("/")).unwrap());
        let mut root = RootConfig::new("data", "/data", vec![backup, web17]);
        root.filters = vec![b"- *.tmp".to_vec(), b"- /cache/".to_vec()];
        assert_eq!(config, Config { roots: vec![root], ..Config::default() });
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(FULL).unwrap();
        let mut www = TargetConfig::new(
            "backup.example.org",
            Location::parse(b"backup.example.org::www/sub", Path::new("/")).unwrap(),
        );
        www.password_file = Some("/etc/rsync.password".into());
        www.lanes = 16;
        www.warm = 2;
        (www.compress, www.whole_file) = (When::Always, When::Never);
        www.timeout = Duration::from_secs(120);
        www.connect_timeout = Duration::from_secs(5);
        www.large_file = 64 << 20;
        let window = |days, from, to, limit| Window { days, from, to, limit };
        www.bandwidth = Some(Bandwidth {
            windows: vec![
                window(Days::NONE.with(0).with(4), 8 * 60, 18 * 60 + 30, Some(10 << 20)),
                window(Days::ALL, 22 * 60, 6 * 60, None),
                window(Days::NONE.with(6), 0, DAY, Some(1 << 30)),
                Window::always(Some(512 << 10)),
            ],
        });
        www.backlog = 1_000;
        let mut copy = TargetConfig::new("copy", Location::Local("/mnt/copy".into()));
        copy.direct = Some(false);
        let Ok(Location::Ssh(address)) = Location::parse(b"bob@web18:www", Path::new("/")) else { panic!() };
        let address = crate::target::SshAddress { port: Some(2222), ..address };
        let mut web18 = TargetConfig::new("web18", Location::Ssh(address));
        web18.ssh = SshOptions {
            identity_file: Some("/etc/fansync/id".into()),
            known_hosts: Some("/etc/fansync/hosts".into()),
            options: vec!["ProxyJump=gate".to_owned()],
        };
        let mut first = RootConfig::new("www", "/data/www", vec![www, copy, web18]);
        first.watch = WatchBackend::Inotify;
        first.filters = vec![b"- *.tmp".to_vec(), b"+ /keep/***".to_vec()];
        first.default_filters = false;
        first.noisy = vec!["/var/log/app".into()];
        first.one_file_system = false;
        first.delete.mode = DeleteMode::Keep;
        first.delete.hold_over = crate::config::HoldOver { paths: 50, percent: 0 };
        first.delete.release_after = Some(Duration::from_secs(3_600));
        first.shards = Some(16);
        first.shard_depth = 3;
        first.nfs_exported = true;
        first.settle =
            Settle { quiet: Duration::from_millis(300), quiet_open: QUIET_OPEN_NFS, max: Duration::from_secs(60) };
        let island =
            TargetConfig::new("null-island", Location::parse(b"rsync://[::1]:8730/x", Path::new("/")).unwrap());
        let second = RootConfig::new("2024", "/srv/x", vec![island]);
        assert_eq!(config.state_dir, Path::new("/srv/state"));
        assert_eq!(config.rsync, Path::new("/usr/bin/rsync"));
        assert!(!config.tunables.raise);
        assert_eq!(config.roots, [first, second]);
    }

    #[test]
    fn all_mistakes_of_a_file_come_out_at_once_each_at_its_place() {
        let text = r#"state_dir: var/lib
tunables: {raise: yes}
rots: 1
roots:
  - name: my data
    path: /data
    watch: magic
    shards: 65
    shards: 4
    settle:
      quiet: 200
    targets:
      - name: a
        url: http://host/x
        lanes: "4"
      - name: a
        url: /data/copy
        bandwith: 50MiB/s
  - path: /data/sub
    targets: []
"#;
        let expected = [
            "1:12: state_dir: 'var/lib' is not an absolute path; begin it with a slash",
            "2:19: tunables.raise: expected true or false, found 'yes'; YAML 1.2 has no yes/no/on/off: write true",
            "3:1: rots: unknown key; did you mean 'roots'? The keys here are state_dir, tunables, rsync, processes, roots",
            "5:11: roots[0].name: 'my data' is not a name; a name is made of A-Z a-z 0-9 _ . -",
            "7:12: roots[0].watch: 'magic' is not a way to watch; write auto, inotify or fanotify",
            "8:13: roots[0].shards: '65' is out of range; write a whole number from 1 to 64",
            "9:5: roots[0].shards: this key was given already, with its value in line 8; keep one of them",
            "11:14: roots[0].settle.quiet: '200' has no unit; add one, like 200ms, 2s, 10m or 1h (perhaps 200s)",
            "14:14: roots[0].targets[0].url: 'http://' is not supported: use rsync://host/module, host:directory (ssh) or a local directory",
            "15:16: roots[0].targets[0].lanes: expected a number, found the text '4'; remove the quotes",
            "16:15: roots[0].targets[1].name: 'a' is the name of roots[0].targets[0] already; give each a name of its own",
            "17:14: roots[0].targets[1].url: lies inside its own root; choose a directory outside of the root",
            "18:9: roots[0].targets[1].bandwith: unknown key; did you mean 'bandwidth'? The keys here are name, url, \
             password_file, ssh, lanes, warm, compress, whole_file, timeout, connect_timeout, large_file, bandwidth, backlog, \
             direct",
            "19:11: roots[1].path: lies inside roots[0]; roots must not overlap",
            "20:14: roots[1].targets: the list is empty; list where to send it",
        ];
        assert_eq!(complaints(text), expected);
    }

    #[test]
    fn each_value_is_checked_for_its_kind_and_range() {
        let check = |text: &str, expected: &str| {
            let found = complaints(text);
            assert!(found.len() == 1 && found[0].contains(expected), "{text}\nexpected {expected}\nfound {found:#?}");
        };
        check("a", "1:1: expected a mapping, found 'a'");
        check("- a", "1:1: expected a mapping, found a list");
        check("rsync: rsync", "1:1: roots: is missing");
        check("roots:", "1:1: roots: expected a list, found nothing");
        check("roots: []", "1:8: roots: the list is empty");
        check("roots: [/data]", "1:9: roots[0]: expected a mapping, found '/data'");
        check("roots: [{targets: [{url: 'rsync://h/m'}]}]", "1:9: roots[0].path: is missing");
        check(
            "roots: [{path: /, targets: [{url: 'rsync://h/m'}]}]",
            "1:9: roots[0].name: is missing, and path gives none",
        );
        check("roots: [{path: /a b, targets: [{url: 'rsync://h/m'}]}]", "'a b' from path is not a name");
        check("roots: [{path: /a/../b, targets: [{url: 'rsync://h/m'}]}]", "holds '..'");
        check("roots: [{path: \"/a\\0\", targets: [{url: 'rsync://h/m'}]}]", "NUL");
        check("? [a]\n: b\nroots: [{path: /a, targets: [{url: 'rsync://h/m'}]}]", "1:3: expected a key, found a list");
        check(&with("rsync: x", ""), "roots[0].rsync: unknown key; the keys here are name, path");
        check(&with("full_compare: {every: 10h}", ""), "is not in this version");
        check(&with("delete: {mode: kept}", ""), "3:18: roots[0].delete.mode: 'kept' is not a delete mode");
        check(&with("delete: {hold_over: {paths: -1}}", ""), "roots[0].delete.hold_over.paths: ");
        check(&with("delete: {hold_over: {percent: 101}}", ""), "roots[0].delete.hold_over.percent: ");
        check(&with("delete: {hold_over: 5}", ""), "roots[0].delete.hold_over: ");
        check(&with("delete: {release_after: 0s}", ""), "roots[0].delete.release_after: ");
        check(&with("delete: never", ""), "'never' is not a delete mode");
        check(&with("watch: poll", ""), "'poll' is not in this version");
        check(&with("watch: [auto]", ""), "expected text, found a list");
        check(&with("noisy: /var/log", ""), "expected a list");
        check(&with("noisy: [var/log]", ""), "absolute");
        check(&with("filters: ['\u{2028}']", ""), "must not hold U+0085, U+2028");
        check(
            &with("filters: [- *.tmp]", ""),
            "3:13: not valid YAML: \"-\" is only valid inside a block; text that begins with a dash goes in quotes",
        );
        check(&with("filters: [[a]]", ""), "goes in quotes");
        check(&with("name: ..", ""), "'..' is not a name");
        check(&with(&format!("name: {}", "a".repeat(129)), ""), "is not a name");
        check(&with("name:", ""), "3:3: roots[0].name: has no value");
        check(&with("one_file_system: off", ""), "write false");
        check(&with("one_file_system: 'true'", ""), "remove the quotes");
        check(&with("one_file_system: 1", ""), "write true or false");
        check(&with("filters: '- *.tmp'", ""), "3:12: roots[0].filters: expected a list");
        check(&with("filters: ['- a', {b: c}]", ""), "3:20: roots[0].filters[1]: expected text, found a mapping");
        check(&with("shards: 0", ""), "out of range");
        check(&with("shards: 1.5", ""), "expected a number, found '1.5'");
        check(&with("shards: 1_0", ""), "expected a number, found '1_0'");
        check(&with("settle: {quiet: 11m}", ""), "roots[0].settle.quiet: '11m' is out of range; write 1ms to 10m");
        check(&with("settle: {quiet: fast}", ""), "'fast' is not a duration");
        check(
            &with("settle: {quiet: 3s}", ""),
            "3:19: roots[0].settle.quiet: quiet_open 2s (the default) is less than quiet 3s",
        );
        check(&with("settle: {max: 1s}", ""), "roots[0].settle.max: max 1s is less than quiet_open 2s (the default)");
        check(&with("settle: {max: 4s}\n  nfs_exported: true", ""), "max 4s is less than quiet_open 5s (the default)");
        check(
            &with("", "lanes: 17"),
            "6:12: roots[0].targets[0].lanes: '17' is out of range; write a whole number from 1 to 16",
        );
        check(&with("", "lanes: -1"), "out of range");
        check(&with("", "lanes: 99999999999999999999"), "out of range");
        check(&with("", "warm: 17"), "write a whole number from 0 to 16");
        check(
            &with("", "warm: 4"),
            "6:11: roots[0].targets[0].warm: 4 of 3 lanes cannot wait; write at most the number",
        );
        let local = with("", "warm: 1").replace("rsync://h/m", "/mnt/copy");
        check(&local, "roots[0].targets[0].warm: only connections to rsync daemons can wait");
        check(
            &with("", "compress: zstd"),
            "6:15: roots[0].targets[0].compress: 'zstd' is no answer; write auto, always or never",
        );
        check(&with("", "whole_file: true"), "roots[0].targets[0].whole_file: ");
        check(&with("", "timeout: 1500ms"), "whole seconds");
        check(&with("", "timeout: 2h"), "write 1s to 1h");
        check(&with("", "connect_timeout: 0s"), "out of range");
        check(&with("", "large_file: 8MB"), "'8MB' is not a size");
        check(&with("", "large_file: 8388608"), "has no unit");
        check(&with("", "large_file: 2TiB"), "write 4KiB to 1TiB");
        check(&with("", "backlog: 999"), "out of range; write a whole number from 1000 to 10000000");
        check(
            &with("", "direct: true"),
            "6:13: roots[0].targets[0].direct: only a local directory gets files without rsync",
        );
        check("roots:\n- path: /data\n  targets: [{url: /t, direct: yes}]\n", "write true");
        let limits = |text: &str| with("", &format!("bandwidth: {text}"));
        let bandwidth = |text: &str| parse(&limits(text)).unwrap().roots[0].targets[0].bandwidth.clone();
        assert_eq!(bandwidth("50MiB/s"), Some(Bandwidth::always(50 << 20)));
        assert_eq!([bandwidth("none"), bandwidth("[{limit: none}]")], [None, None]);
        check(
            &limits("50MiB"),
            "6:16: roots[0].targets[0].bandwidth: '50MiB' has no unit; add one, like 512KiB/s or 50MiB/s",
        );
        check(&limits("50Mbit/s"), "'50Mbit/s' is not a rate");
        check(&limits("15KiB/s"), "'15KiB/s' is out of range; write 64KiB/s to 1TiB/s");
        check(&limits("{limit: 1MiB/s}"), "expected text, found a mapping");
        check(&limits("[]"), "the list is empty; write 'none', a rate");
        check(&limits("[1MiB/s]"), "bandwidth[0]: expected a mapping");
        check(&limits("[{from: '08:00', to: '18:00'}]"), "6:17: roots[0].targets[0].bandwidth[0].limit: is missing");
        check(&limits("[{from: '08:00', limit: none}]"), "bandwidth[0].to: is missing; give both times");
        check(&limits("[{to: '08:00', limit: none}]"), "bandwidth[0].from: is missing; give both times");
        check(
            &limits("[{from: '8:00', to: '18:00', limit: none}]"),
            "'8:00' is not a time of day; write it like 08:00",
        );
        check(
            &limits("[{from: '24:00', to: '18:00', limit: none}]"),
            "bandwidth[0].from: '24:00' is not a time of day",
        );
        check(
            &limits("[{from: '08:00', to: '08:00', limit: none}]"),
            "bandwidth[0].to: is the time at which it begins",
        );
        check(&limits("[{days: [monday], limit: none}]"), "days[0]: 'monday' is not a day; the days are mon, tue, wed");
        check(&limits("[{days: [], limit: none}]"), "days: the list is empty; leave it out for all days");
        check(&limits("[{limit: none}, {days: [mon], limit: none}]"), "bandwidth[1]: is never reached");
        let both = "roots:\n- path: /data\n  targets: [{url: /t, direct: true, bandwidth: 1MiB/s}]\n";
        check(both, "targets[0].direct: what is sent without rsync has no limit");
        check(&with("", "password_file: etc/x"), "is not an absolute path");
        check(&with("", "pasword_fiel: x"), "did you mean 'password_file'?");
    }

    #[test]
    fn parts_that_do_not_go_together_are_refused_at_the_later_one() {
        let check = |text: &str, expected: &str| {
            let found = complaints(text);
            assert!(found.len() == 1 && found[0].contains(expected), "{text}\nexpected {expected}\nfound {found:#?}");
        };
        let roots = |second: &str| {
            format!(
                "roots:\n- {{path: /a/b, targets: [{{url: '1.2.3.4::m'}}]}}\n- {{{second}, targets: [{{url: '1.2.3.4::n'}}]}}\n"
            )
        };
        check(&roots("path: /x/b"), "3:3: roots[1].name: 'b' is the name of roots[0] already");
        check(&roots("name: x, path: /a/./b/"), "3:19: roots[1].path: is the path of roots[0] already");
        check(&roots("path: /a/b/c"), "roots[1].path: lies inside roots[0]");
        check(&roots("path: /a"), "roots[1].path: holds roots[0]");
        parse(&roots("path: /a/bc")).unwrap();
        let targets = |urls: &str| format!("roots:\n- path: /a/b\n  targets:\n{urls}");
        check(&targets("  - url: /a/b"), "4:10: roots[0].targets[0].url: is the root itself");
        check(&targets("  - url: /a/b/c"), "lies inside its own root");
        check(&targets("  - url: /a"), "holds its own root");
        check(&targets("  - {name: x, url: /}"), "holds its own root");
        check(&targets("  - url: c"), "'c' is not an absolute path");
        check(&targets("  - url: 'host:'"), "the directory is missing: a mirror of the home directory itself would");
        check(&targets("  - url: host:a/../b"), "must not hold '..'");
        check(&targets("  - url: '[::1]:a'"), "'::1' from url is not a name");
        check(&targets("  - {url: 'h:/c', password_file: /p}"), "and this target is reached by ssh; remove it");
        check(&targets("  - {url: 'h::c', ssh: {port: 22}}"), "[0].ssh: is for targets like host:directory only");
        check(&targets("  - {url: /c, ssh: {port: 22}}"), "is for targets like host:directory only");
        let ssh = |keys: &str| targets(&format!("  - {{url: 'h:/c', ssh: {keys}}}"));
        check(&ssh("22"), "[0].ssh: expected a mapping");
        check(&ssh("{port: 0}"), "[0].ssh.port: '0' is out of range; write a whole number from 1 to 65535");
        check(&ssh("{ports: 1}"), "did you mean 'port'?");
        check(&ssh("{identity_file: id}"), "[0].ssh.identity_file: 'id' is not an absolute path");
        check(&ssh("{known_hosts: /a'b}"), "[0].ssh.known_hosts: a path for ssh must not hold quotes");
        check(&ssh("{options: ProxyJump=x}"), "[0].ssh.options: expected a list");
        check(
            &ssh("{options: [ProxyJump]}"),
            "[0].ssh.options[0]: 'ProxyJump' is not an option of ssh: write KEY=VALUE",
        );
        check(&ssh("{options: [A=b, ControlPath=/x]}"), "[0].ssh.options[1]: 'ControlPath' is for fansync to set");
        check(
            &targets("  - url: 'H:/m'\n  - {name: y, url: 'u@h:/m/'}"),
            "roots[0].targets[1].url: is the location of roots[0].targets[0] already",
        );
        check(
            &targets("  - url: 'H:m'\n  - {name: y, url: 'h:m/sub'}"),
            "roots[0].targets[1].url: lies inside the location of roots[0].targets[0]",
        );
        parse(&targets("  - url: 'h:m'\n  - {name: y, url: 'u@h:m'}\n  - {name: z, url: 'h:m', ssh: {port: 23}}"))
            .unwrap();
        check(&targets("  - url: \"a\\nb://h\""), "'a\\nb://' is not supported");
        check(&targets("  - {name: x, url: '[::1]::m'}"), "has no spelling as an rsync URL");
        check(&targets("  - url: 'rsync://[::1]/m'"), "'::1' from url is not a name");
        check(&targets("  - {url: /c, password_file: /p}"), "only rsync daemons ask for a password");
        check(
            &targets("  - url: H::m\n  - url: h::n\n  - url: H::o"),
            "'H' is the name of roots[0].targets[0] already",
        );
        check(
            &targets("  - url: u@H::m\n  - {name: y, url: 'rsync://h:873/m/'}"),
            "roots[0].targets[1].url: is the location of roots[0].targets[0] already",
        );
        check(
            &targets("  - url: H::m\n  - {name: y, url: 'h::m/sub'}"),
            "roots[0].targets[1].url: lies inside the location of roots[0].targets[0]",
        );
        check(
            &targets("  - url: /m/sub\n  - url: /m"),
            "roots[0].targets[1].url: holds the location of roots[0].targets[0]",
        );
        check(
            "roots: [{path: /a, targets: [{url: /m}]}, {path: /b, targets: [{url: /m}]}]",
            "roots[1].targets[0].url: is the location of roots[0].targets[0] already",
        );
        parse("roots: [{path: /a, targets: [{url: /m}]}, {path: /b, targets: [{url: /m/b}]}]").unwrap();
    }

    #[test]
    fn a_bad_filter_rule_is_shown_at_its_own_line() {
        let text = with("filters:\n  - '- *.tmp'\n  - 7\n  -\n  - 'bad'\n  default_filters: false", "");
        let seen = std::cell::RefCell::new(Vec::new());
        let rules = |rules: &[Vec<u8>], defaults: bool| {
            seen.borrow_mut().push((rules.to_vec(), defaults));
            vec![(2, "is bad".to_owned()), (99, "is nowhere".to_owned())]
        };
        let errors = check(text.as_bytes(), Path::new("f"), &rules).unwrap_err();
        let expected = "f:4:5: roots[0].filters: is nowhere\n\
            f:6:4: roots[0].filters[2]: has no value; give one or remove the key\n\
            f:7:5: roots[0].filters[3]: is bad";
        assert_eq!(errors.to_string(), expected);
        assert_eq!(seen.into_inner(), [(vec![b"- *.tmp".to_vec(), b"7".to_vec(), b"bad".to_vec()], false)]);
    }

    #[test]
    fn a_file_that_is_something_else_does_not_flood_the_terminal() {
        let text: String = (0..COMPLAINTS_MAX + 50).map(|index| format!("key{index}: x\n")).collect();
        let errors = parse(&text).unwrap_err();
        assert_eq!((errors.complaints.len(), errors.omitted), (COMPLAINTS_MAX, 51));
    }

    #[test]
    fn distance_counts_a_swap_as_one() {
        let check = |left: &str, right: &str, expected: usize| assert_eq!(edit_distance(left, right), expected);
        check("targets", "targets", 0);
        check("tragets", "targets", 1);
        check("target", "targets", 1);
        check("", "url", 3);
        check("uri", "url", 1);
        check(&"x".repeat(41), "url", usize::MAX);
    }

    /// Bytes are removed, doubled, replaced and swapped, pieces moved; whatever comes out is answered, not panicked at,
    /// and what is accepted is read back the same.
    #[test]
    fn no_mutation_of_a_valid_file_panics() {
        let seed = 0x5eed_c0f1;
        let mut rng = fastrand::Rng::with_seed(seed);
        let alphabet = b"\n\n  \t:-[]{},#'\"&*!|>%@?~\\\0\xc3\xa9\xff019azrsync/<.\r";
        let (mut accepted, rounds) = (0, 20_000);
        for round in 0..rounds {
            let mut text = if rng.bool() { EXAMPLE } else { FULL }.as_bytes().to_vec();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(0..text.len());
                let end = rng.usize(at..=text.len().min(at + 40));
                match rng.u8(0..6) {
                    0 => drop(text.drain(at..end)),
                    1 => text.insert(at, alphabet[rng.usize(0..alphabet.len())]),
                    2 => text[at] = alphabet[rng.usize(0..alphabet.len())],
                    3 => text[at] = rng.u8(..),
                    4 => {
                        let piece = text[at..end].to_vec();
                        let to = rng.usize(0..=text.len());
                        drop(text.splice(to..to, piece));
                    }
                    _ => text.truncate(end.max(1)),
                }
                if text.is_empty() {
                    text.push(b'\n');
                }
            }
            match Config::parse(&text, Path::new("f")) {
                Ok(config) => {
                    accepted += 1;
                    let yaml = config.effective_yaml();
                    let again = Config::parse(yaml.as_bytes(), Path::new("f"));
                    assert_eq!(again.as_ref(), Ok(&config), "seed {seed:#x} round {round}\n{yaml}");
                }
                Err(errors) => {
                    assert!(!errors.complaints.is_empty(), "seed {seed:#x} round {round}");
                    assert!(errors.complaints.iter().all(|complaint| complaint.line > 0 && complaint.column > 0));
                    assert_eq!(errors.to_string().lines().count(), errors.complaints.len(), "{errors}");
                }
            }
        }
        assert!(
            accepted > rounds / 50,
            "{accepted} of {rounds} were accepted: the mutations are too rough to test much"
        );
    }
}
