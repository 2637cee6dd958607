//! Located YAML nodes -> [`Config`], with all complaints at once.
//!
//! Each reader takes a value, complains about what is wrong and then returns the default, so that the rest is still
//! checked; a `Config` leaves this file only when nobody complained. Scalars follow the core schema of YAML 1.2
//! (section 10.3.2): without quotes, `true` and `false` are booleans and `12`, `0o14` and `0xC` are numbers.

use super::amount::{self, AmountError};
use super::complaint::{COMPLAINTS_MAX, quoted};
use super::raw::{self, Kind, Node};
use super::{
    BACKLOG, LANES, LARGE_FILE, NAME_LENGTH_MAX, QUIET, QUIET_OPEN_NFS, SETTLE_MAX, SHARDS, TARGETS_MAX, TIMEOUT,
};
use super::{Complaint, Config, ConfigErrors, DeleteMode, Positions, RootConfig, Settle, TargetConfig, WatchBackend};
use crate::target::Location;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Checks the filter rules of one root (rules, whether the built-in ones follow): index of a bad rule, what is wrong.
pub(super) type RuleCheck<'a> = &'a dyn Fn(&[Vec<u8>], bool) -> Vec<(usize, String)>;

/// MERGE: the one line to wire to `crate::filter::Filter::new(rules, defaults)`, whose errors become `(index, text)`.
pub(super) fn filter_rule_complaints(_rules: &[Vec<u8>], _defaults: bool) -> Vec<(usize, String)> {
    Vec::new()
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

const TOP: Keys = Keys { known: &["state_dir", "tunables", "rsync", "roots"], later: &["metrics"] };
const TUNABLES: Keys = Keys { known: &["raise"], later: &[] };
const ROOT: Keys = Keys {
    known: &[
        "name",
        "path",
        "watch",
        "filters",
        "default_filters",
        "one_file_system",
        "delete",
        "shards",
        "settle",
        "nfs_exported",
        "targets",
    ],
    later: &["full_compare"],
};
const DELETE: Keys = Keys { known: &["mode"], later: &["hold_over"] };
const SETTLE: Keys = Keys { known: &["quiet", "quiet_open", "max"], later: &[] };
const TARGET: Keys = Keys {
    known: &["name", "url", "password_file", "lanes", "timeout", "connect_timeout", "large_file", "backlog"],
    later: &["bandwidth"],
};

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
        if let Some(mode) = section.get("delete").and_then(|value| self.delete(value)) {
            root.delete = mode;
        }
        root.shards = section.get("shards").and_then(|value| self.number(value, SHARDS));
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
            None => self.complain_missing(&section, "url", "give rsync://host/module or a local directory"),
        }
        let (unknown, from_location) = match &target.location {
            Location::Local(path) => {
                (path.as_os_str().is_empty(), path.file_name().map(|name| name.to_string_lossy().into_owned()))
            }
            Location::Daemon(address) => (false, Some(address.host.clone())),
        };
        target.name = self.name(&section, "url", unknown, from_location);
        if let Some(value) = section.get("password_file") {
            target.password_file = self.absolute_path(value);
            if matches!(target.location, Location::Local(_)) && !unknown {
                self.complain(
                    value,
                    "only rsync daemons ask for a password, and this target is local",
                    Some("remove it"),
                );
            }
        }
        if let Some(lanes) = section.get("lanes").and_then(|value| self.number(value, LANES)) {
            target.lanes = lanes;
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
        target
    }

    fn watch(&mut self, value: &Value<'_>) -> Option<WatchBackend> {
        match self.text(value)? {
            "auto" => return Some(WatchBackend::Auto),
            "inotify" => return Some(WatchBackend::Inotify),
            text @ ("fanotify" | "poll") => {
                self.complain(value, format!("{} is not in this version", quoted(text)), Some("write auto or inotify"));
            }
            text => {
                self.complain(value, format!("{} is not a way to watch", quoted(text)), Some("write auto or inotify"))
            }
        }
        None
    }

    fn delete(&mut self, value: &Value<'_>) -> Option<DeleteMode> {
        if !matches!(value.node.kind, Kind::Mapping(_)) {
            return self.delete_mode(value);
        }
        let section = self.section(value, &DELETE)?;
        self.delete_mode(section.get("mode")?)
    }

    fn delete_mode(&mut self, value: &Value<'_>) -> Option<DeleteMode> {
        match self.text(value)? {
            "mirror" => return Some(DeleteMode::Mirror),
            "keep" => {
                self.complain(value, "'keep' is not in this version", Some("write mirror, or protect files by filters"))
            }
            text => self.complain(value, format!("{} is not a delete mode", quoted(text)), Some("write mirror")),
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
            self.complain(items.get(index).unwrap_or(value), what, None);
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
            Ok(location) => return Some(location),
            Err(error) => {
                self.complain(value, error.to_string(), None);
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
            Kind::Scalar { text, .. } => return Some(text),
            _ => format!("expected text, found {}", describe(value.node)),
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
