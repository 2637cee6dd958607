//! What can be measured, with the numbers that it has unless the user says otherwise. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is done while the time is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// 200 files of 100 KB at once.
    Burst,
    /// One file of 10 KB every 250 ms.
    Trickle,
    /// One file deleted every 250 ms.
    Delete,
    /// 20,000 files of 1 KB in 200 new directories.
    Small,
    /// 10,000 files of 1 KB that are there, rewritten.
    Rewrite,
    /// A file of 10 KB every 50 ms, alone and while 4 files of 1 GB are sent.
    Mixed,
    /// A directory of 1,000 files, 1 GB, gets another name.
    Rename,
    /// 20 targets of one agent, 167 new files every second.
    Fanout,
    /// The highest rate of new files at which 99 of 100 are in place within a second.
    Sustained,
    /// One file of 10 KB every second, to a target that is 50 ms of round trip away.
    LatencyWan,
}

/// Where the files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// An rsync daemon with `socket options = TCP_NODELAY`.
    #[default]
    Daemon,
    /// An rsync daemon without socket options, as it comes.
    Stock,
    /// A directory of this machine.
    Local,
}

impl Scenario {
    /// All, in the order in which they are measured.
    pub(super) const ALL: [Self; 10] = [
        Self::Burst,
        Self::Trickle,
        Self::Delete,
        Self::Small,
        Self::Rewrite,
        Self::Mixed,
        Self::Rename,
        Self::Fanout,
        Self::Sustained,
        Self::LatencyWan,
    ];

    /// Those that take a few minutes together.
    pub(super) const QUICK: [Self; 5] = [Self::Burst, Self::Trickle, Self::Delete, Self::Small, Self::Rewrite];

    /// As it is given.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Burst => "burst",
            Self::Trickle => "trickle",
            Self::Delete => "delete",
            Self::Small => "small",
            Self::Rewrite => "rewrite",
            Self::Mixed => "mixed",
            Self::Rename => "rename",
            Self::Fanout => "fanout",
            Self::Sustained => "sustained",
            Self::LatencyWan => "latency-wan",
        }
    }

    /// How many files, unless the user says otherwise. For `mixed` the large ones.
    pub(super) fn files(self) -> usize {
        match self {
            Self::Burst => 200,
            Self::Trickle | Self::Delete => 60,
            Self::Small => 20_000,
            Self::Rewrite => 10_000,
            Self::Mixed => 4,
            Self::Rename => 1_000,
            Self::LatencyWan => 20,
            Self::Fanout | Self::Sustained => 0,
        }
    }

    /// Bytes of one file, unless the user says otherwise. For `mixed` of a large one.
    pub(super) fn size(self) -> u64 {
        match self {
            Self::Burst => 100_000,
            Self::Trickle | Self::Delete | Self::LatencyWan => 10_000,
            Self::Small | Self::Rewrite | Self::Fanout | Self::Sustained => 1_000,
            Self::Mixed => 1_000_000_000,
            Self::Rename => 1_000_000,
        }
    }

    /// For how long there is a load, unless the user says otherwise.
    pub(super) fn seconds(self) -> Duration {
        Duration::from_secs(if self == Self::Fanout { 60 } else { 10 })
    }

    /// New files per second, unless the user says otherwise; for `sustained` those of the first step.
    pub(super) fn rate(self) -> u32 {
        if self == Self::Fanout { 167 } else { 200 }
    }

    /// Whether files of its own come and go, so that it can be measured with any subject and at any target.
    pub(super) fn is_of_single_files(self) -> bool {
        Self::QUICK.contains(&self) || self == Self::LatencyWan
    }

    /// Whether single files come on a schedule, so that the latency of one is the figure, not the span of all.
    pub(super) fn is_of_latency(self) -> bool {
        matches!(self, Self::Trickle | Self::Delete | Self::LatencyWan)
    }
}

impl TargetKind {
    /// For the table.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Daemon => "a daemon with TCP_NODELAY",
            Self::Stock => "a daemon without socket options",
            Self::Local => "a directory of this machine",
        }
    }

    /// As it is given.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Stock => "stock",
            Self::Local => "local",
        }
    }
}

/// `100 KB`, `1 GB`: powers of a thousand, as whole as they are.
pub(super) fn bytes_in_words(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_000 => (1, "bytes"),
        1_000..1_000_000 => (1_000, "KB"),
        1_000_000..1_000_000_000 => (1_000_000, "MB"),
        _ => (1_000_000_000, "GB"),
    };
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", bytes / unit)
    } else {
        format!("{:.1} {name}", bytes as f64 / unit as f64)
    }
}

/// The largest file that `--size` takes. Unit: bytes.
const SIZE_MAX: u64 = 100_000_000_000;

/// Reads `100`, `100K`, `1M`, `1G` (powers of a thousand), for clap.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match text[digits.len()..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        other => return Err(format!("'{other}' is no unit: use K, M or G")),
    };
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|size| (1..=SIZE_MAX).contains(size)).ok_or_else(|| "give 1 byte to 100 GB, such as 10K".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line_and_of_json() {
        use clap::ValueEnum as _;
        for scenario in Scenario::ALL {
            let value = scenario.to_possible_value().unwrap();
            assert_eq!(scenario.name(), value.get_name());
            assert_eq!(serde_json::to_value(scenario).unwrap(), scenario.name());
        }
        for kind in [TargetKind::Daemon, TargetKind::Stock, TargetKind::Local] {
            assert_eq!(kind.name(), kind.to_possible_value().unwrap().get_name());
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert_eq!(Scenario::value_variants(), Scenario::ALL);
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, expected) in
            [("1", Ok(1)), ("10K", Ok(10_000)), ("100 kb", Ok(100_000)), ("1G", Ok(1_000_000_000)), ("7B", Ok(7))]
        {
            assert_eq!(parse_size(text), expected, "{text}");
        }
        for wrong in ["", "0", "K", "-1", "1.5M", "1T", "101G", "99999999999999999999", "1 2"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        for (bytes, words) in
            [(1, "1 bytes"), (1_000, "1 KB"), (10_500, "10.5 KB"), (1_000_000, "1 MB"), (2_000_000_000, "2 GB")]
        {
            assert_eq!(bytes_in_words(bytes), words);
        }
    }
}
